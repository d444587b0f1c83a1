//! The delivery log of a window, digested: what arrived, where it went, what was answered, and what it would have passed.
//!
//! Memory does not grow with the log: what arrived is counted ([`Demand`]); messages that are not at their end, hosts,
//! domains and deliveries have named maxima.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use engine::work::{Delivery, DeliveryOptions, DeliveryState, FinalState};
use mail::attempt::Stage;
use mail::id::{DeliveryId, MessageId, SourceId};
use mail::reply::Reply;
use mail::route::{MxHost, MxRoute, group_key};
use mail::time::Timestamp;
use quota::PathKey;
use rules::RuleSet;
use serde::{Deserialize, Serialize};
use simulator::audit::{Auditor, Entry};
use simulator::{Answer, Demand, DemandRow, Latency};
use store::{MessageState, Reads, StoreFault};

use super::tally::{One, Tally};
use crate::exit::Failure;
use crate::log_lines::{LineIs, LogLines};

/// Messages between two attempts.
const PENDING_MAX: usize = 500_000;
/// Recipient domains; those beyond it are taken for one domain of their MX host.
const DOMAINS_MAX: usize = 200_000;
/// MX hosts, and deliveries.
const NAMES_MAX: usize = 200_000;
/// Targets of a host, and hosts of a domain.
const ADDRESSES_MAX: usize = 64;
/// Hosts with a smaller share of a domain's mail stood in for others.
const FALLBACK_PERCENT: u64 = 10;
/// Faulty lines that are listed.
const LISTED_FAULTS: usize = 20;
/// Conversations about one message that are kept.
const TRIES_MAX: usize = 200;
/// Messages of the store read at a time.
const PAGE: u32 = 10_000;
/// The set-up of a connection takes so many times as long as a message: round trips.
const SET_UP_TIMES: u32 = 4;

/// What was read.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Counts {
    /// Files.
    pub(super) files: usize,
    /// Lines.
    pub(super) lines: u64,
    /// Lines with a MAIL FROM in the window.
    pub(super) in_window: u64,
    /// Lines without a MAIL FROM: nothing to be sent again.
    pub(super) not_started: u64,
    /// Lines with a MAIL FROM before the window.
    pub(super) before_window: u64,
    /// Lines that could not be read.
    pub(super) malformed: u64,
    /// Lines that do not say since when the message might have gone: it is taken to have arrived when it went.
    pub(super) without_due: u64,
    /// Messages that waited (or expired) without any attempt, from the store.
    pub(super) never_tried: u64,
    /// Messages whose attempts are taken for single messages, because too many were between two attempts.
    pub(super) torn: u64,
    /// Attempts from sources that the configuration does not have any more.
    pub(super) foreign_sources: u64,
    /// The first faulty lines: `file:line: what`.
    pub(super) faulty_lines: Vec<String>,
}

/// A line, as it is written.
#[derive(Deserialize)]
struct Written<'line> {
    at: Cow<'line, str>,
    started_micros: Option<u64>,
    due_micros: Option<u64>,
    message: Cow<'line, str>,
    delivery: Cow<'line, str>,
    recipient: Cow<'line, str>,
    source: Option<u32>,
    target: Option<IpAddr>,
    mx_host: Cow<'line, str>,
    attempt: u32,
    outcome: Cow<'line, str>,
    stage: Option<Cow<'line, str>>,
    reply: Option<Cow<'line, str>>,
}

/// A message between two attempts.
struct Pending {
    row: DemandRow,
    answers: Vec<u16>,
}

/// An MX host as it was met.
#[derive(Default)]
struct Host {
    name: Box<str>,
    targets: BTreeSet<IpAddr>,
    micros: u64,
    messages: u64,
}

/// The window and what it is judged by.
pub(super) struct Window<'a> {
    pub(super) since: Timestamp,
    pub(super) until: Timestamp,
    pub(super) rules_now: &'a RuleSet,
    pub(super) rules_then: &'a RuleSet,
    pub(super) sources: BTreeSet<SourceId>,
    /// Of deliveries that the store does not know any more.
    pub(super) usual: DeliveryOptions,
    pub(super) reads: &'a dyn Reads,
}

/// The names of the rules that hold for a host and a source, now and then.
type Ruled = (Box<str>, Box<str>);

/// The digest.
pub(super) struct Record<'a> {
    window: Window<'a>,
    pub(super) counts: Counts,
    pub(super) demand: Demand,
    pub(super) tally: Tally,
    /// The earliest MAIL FROM in the log, in the window or not.
    pub(super) recorded_from: Option<Timestamp>,
    /// From when on lines say since when their message might have gone.
    pub(super) due_from: Option<Timestamp>,
    pending: HashMap<u64, Pending>,
    hosts: Vec<Host>,
    host_numbers: HashMap<Box<str>, u32>,
    /// By the number of the domain: hosts and how often each was used.
    used: Vec<Vec<(u32, u64)>>,
    deliveries: HashMap<u64, Option<Delivery>>,
    /// Of each delivery the first and the last arrival.
    arrivals: BTreeMap<u64, (Timestamp, Timestamp)>,
    ruled: HashMap<(u32, u32), Ruled>,
}

impl<'a> Record<'a> {
    pub(super) fn new(window: Window<'a>) -> Self {
        Self {
            tally: Tally::until(window.until),
            window,
            counts: Counts::default(),
            demand: Demand::default(),
            recorded_from: None,
            due_from: None,
            pending: HashMap::new(),
            hosts: Vec::new(),
            host_numbers: HashMap::new(),
            used: Vec::new(),
            deliveries: HashMap::new(),
            arrivals: BTreeMap::new(),
            ruled: HashMap::new(),
        }
    }

    /// Reads logs, the oldest first. The auditor is told of what the other rules would have said of each attempt.
    ///
    /// # Errors
    /// A file or the store cannot be read.
    pub(super) fn read(
        &mut self,
        files: &[PathBuf],
        auditor: &mut Auditor<'_>,
    ) -> Result<(), Failure> {
        let mut octets = Vec::new();
        self.counts.files = files.len();
        for path in files {
            let mut log = LogLines::open(path)?;
            while let Some(is) = log.next(&mut octets)? {
                self.counts.lines += 1;
                let read = match is {
                    LineIs::TooLong => Err("longer than 4 MiB".to_owned()),
                    _ => serde_json::from_slice(&octets).map_err(|fault| fault.to_string()),
                };
                let taken = read.and_then(|line| self.take(&line, &log, auditor));
                match taken {
                    Ok(()) => {}
                    Err(_) if is == LineIs::Unfinished => self.counts.lines -= 1,
                    Err(why) => self.malformed(&log, &why),
                }
            }
        }
        self.flush();
        self.never_tried().map_err(|fault| Failure::environment(fault.to_string()))
    }

    fn malformed(&mut self, log: &LogLines, why: &str) {
        self.counts.malformed += 1;
        if self.counts.faulty_lines.len() < LISTED_FAULTS {
            self.counts.faulty_lines.push(format!("{}:{}: {why}", log.name, log.line));
        }
    }

    /// Takes in a line. An error: it is none of ours.
    fn take(
        &mut self,
        line: &Written<'_>,
        log: &LogLines,
        auditor: &mut Auditor<'_>,
    ) -> Result<(), String> {
        let Some(started) = line.started_micros.map(Timestamp::from_micros) else {
            self.counts.not_started += 1;
            return Ok(());
        };
        let (Some(source), Some(target)) = (line.source, line.target) else {
            return Err("started_micros without source and target".to_owned());
        };
        let message: MessageId = line.message.parse().map_err(|_| "not a message".to_owned())?;
        let delivery: DeliveryId =
            line.delivery.parse().map_err(|_| "not a delivery".to_owned())?;
        let domain = line.recipient.rsplit_once('@').map(|(_, domain)| domain);
        let domain = domain.ok_or("the recipient is no address")?;
        self.recorded_from = self.recorded_from.into_iter().chain([started]).min();
        let due = line.due_micros.map(Timestamp::from_micros);
        if due.is_some() {
            self.due_from = self.due_from.into_iter().chain([started]).min();
        }
        if started < self.window.since || started > self.window.until {
            self.counts.before_window += 1;
            return Ok(());
        }
        self.counts.in_window += 1;
        self.counts.without_due += u64::from(due.is_none());
        self.counts.foreign_sources += u64::from(!self.window.sources.contains(&SourceId(source)));
        let host = self.host(&line.mx_host);
        let path = PathKey { source: SourceId(source), target };
        let (now, then) = self.rules_of(host, &line.mx_host, path.source);
        let entry = Entry { started_micros: started.as_micros(), source, target, rule: then };
        auditor.attempt(&log.name, log.line, &entry);
        let taken = line.outcome == "sent";
        let opening = self.opening(delivery, message);
        let arrived = due.map_or(started, |due| due.max(opening)).min(started);
        let waited_since = due.map(|_| arrived);
        self.tally.add(&One { at: started, due: waited_since, path, provider: &now, taken });
        self.learn_host(host, target, &line.at, started);
        let domain = self.domain(domain, &line.mx_host);
        self.learn_domain(domain, host);
        let answer = self.demand.answer(answer_of(line));
        let attempts = u16::try_from(line.attempt.saturating_sub(1)).unwrap_or(u16::MAX);
        let row =
            DemandRow { domain, delivery, arrived_at: arrived, attempts, script: 0, count: 1 };
        self.follow(message, row, answer, line.outcome != "deferred");
        Ok(())
    }

    /// One more conversation about a message; `last`: it is at its end.
    fn follow(&mut self, message: MessageId, row: DemandRow, answer: u16, last: bool) {
        let known = self.pending.remove(&message.0);
        let room = known.is_some() || self.pending.len() < PENDING_MAX;
        let mut pending = known.unwrap_or(Pending { row, answers: Vec::new() });
        if pending.answers.len() < TRIES_MAX {
            pending.answers.push(answer);
        }
        if last || !room {
            self.counts.torn += u64::from(!last);
            self.arrive(&pending);
        } else {
            self.pending.insert(message.0, pending);
        }
    }

    fn arrive(&mut self, pending: &Pending) {
        let script = self.demand.script(&pending.answers);
        let row = DemandRow { script, ..pending.row };
        let at = row.arrived_at;
        let (first, last) = self.arrivals.entry(row.delivery.0).or_insert((at, at));
        (*first, *last) = ((*first).min(at), (*last).max(at));
        self.demand.add(row);
    }

    /// Messages that are not at their end when the log ends.
    fn flush(&mut self) {
        let pending = core::mem::take(&mut self.pending);
        for one in pending.values() {
            self.arrive(one);
        }
        // Their numbers are still needed to tell them from those that were never tried.
        self.pending = pending;
    }

    /// Messages that waited, or expired, without any attempt are in no log.
    fn never_tried(&mut self) -> Result<(), StoreFault> {
        let mut after = MessageId(0);
        let mut names: HashMap<u32, Option<u32>> = HashMap::new();
        loop {
            let page = self.window.reads.messages(after, PAGE)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.id;
            for record in page {
                let waits = matches!(
                    record.state,
                    MessageState::Queued { .. }
                        | MessageState::InFlight
                        | MessageState::Final { state: FinalState::Expired, .. }
                );
                let seen = record.attempts > 0 || self.pending.contains_key(&record.id.0);
                if !waits || seen {
                    continue;
                }
                let arrived_at = record.accepted_at.max(self.opening(record.delivery, record.id));
                if arrived_at > self.window.until || self.is_held(record.delivery) {
                    continue;
                }
                let reads = self.window.reads;
                let demand = &self.demand;
                let number = match names.get(&record.domain.0) {
                    Some(known) => *known,
                    None => {
                        let name = reads.domain_name(record.domain)?;
                        let known = name.filter(|name| demand.knows(name));
                        let number = known.map(|name| self.demand.domain(&name));
                        names.insert(record.domain.0, number);
                        number
                    }
                };
                // Where its domain's mail goes is known from the log only.
                let Some(domain) = number else { continue };
                let expired = matches!(record.state, MessageState::Final { .. });
                if expired && arrived_at < self.window.since {
                    continue;
                }
                self.counts.never_tried += 1;
                let row = DemandRow {
                    domain,
                    delivery: record.delivery,
                    arrived_at,
                    attempts: 0,
                    script: 0,
                    count: 1,
                };
                // It might have been taken: what would have been said is not known.
                self.arrive(&Pending { row, answers: vec![0] });
            }
        }
    }

    // ------------------------------------------------------------------ what is known of names

    fn host(&mut self, name: &str) -> u32 {
        if let Some(number) = self.host_numbers.get(name) {
            return *number;
        }
        if self.hosts.len() >= NAMES_MAX {
            // The last one stands for those beyond.
            return u32::try_from(self.hosts.len() - 1).unwrap_or(u32::MAX);
        }
        let number = u32::try_from(self.hosts.len()).unwrap_or(u32::MAX);
        self.hosts.push(Host { name: name.into(), ..Host::default() });
        self.host_numbers.insert(name.into(), number);
        number
    }

    fn learn_host(&mut self, host: u32, target: IpAddr, at: &str, started: Timestamp) {
        let host = &mut self.hosts[host as usize];
        if host.targets.len() < ADDRESSES_MAX {
            host.targets.insert(target);
        }
        let ended = at.parse::<jiff::Timestamp>().ok();
        let ended = ended.and_then(|at| u64::try_from(at.as_microsecond()).ok());
        // The text is cut to milliseconds.
        let took = ended.map(|ended| ended.saturating_sub(started.as_micros()).max(1_000));
        if let Some(took) = took {
            host.micros = host.micros.saturating_add(took);
            host.messages += 1;
        }
    }

    fn domain(&mut self, name: &str, mx_host: &str) -> u32 {
        match self.demand.domains() < DOMAINS_MAX || self.demand.knows(name) {
            true => self.demand.domain(name),
            false => self.demand.domain(mx_host),
        }
    }

    fn learn_domain(&mut self, domain: u32, host: u32) {
        let place = domain as usize;
        if self.used.len() <= place {
            self.used.resize_with(place + 1, Vec::new);
        }
        let hosts = &mut self.used[place];
        match hosts.iter().position(|(known, _)| *known == host) {
            Some(place) => hosts[place].1 += 1,
            None if hosts.len() < ADDRESSES_MAX => hosts.push((host, 1)),
            None => {}
        }
    }

    fn rules_of(&mut self, host: u32, name: &str, source: SourceId) -> (Box<str>, String) {
        let Window { rules_now, rules_then, .. } = self.window;
        let found = |set: &RuleSet| -> Box<str> { set.rule(set.find(name, source)).name.clone() };
        if self.ruled.len() >= NAMES_MAX {
            // They are found again when they are needed.
            self.ruled.clear();
        }
        let (now, then) = self
            .ruled
            .entry((host, source.0))
            .or_insert_with(|| (found(rules_now), found(rules_then)));
        (now.clone(), then.to_string())
    }

    fn delivery(&mut self, id: DeliveryId) -> Option<&Delivery> {
        if self.deliveries.len() >= NAMES_MAX && !self.deliveries.contains_key(&id.0) {
            return None;
        }
        let reads = self.window.reads;
        // A store that cannot be read here could not be read at the start either.
        let read = || reads.delivery(id).ok().flatten().map(|record| record.delivery);
        self.deliveries.entry(id.0).or_insert_with(read).as_ref()
    }

    /// When a message might go as far as its delivery is concerned: start and waves.
    fn opening(&mut self, id: DeliveryId, message: MessageId) -> Timestamp {
        let Some(delivery) = self.delivery(id).filter(|one| !one.options.stream) else {
            return Timestamp::EPOCH;
        };
        let started = delivery.started_at.unwrap_or(Timestamp::EPOCH);
        let wave = delivery.wave_ends.iter().position(|last| message <= *last);
        let after = wave.and_then(|wave| delivery.options.waves.get(wave));
        started + after.map_or(Duration::ZERO, |wave| wave.start_after)
    }

    /// Whether a person holds a delivery back: its mail waits for nothing that rules could change.
    fn is_held(&mut self, id: DeliveryId) -> bool {
        let state = self.delivery(id).map(|delivery| delivery.state);
        matches!(
            state,
            Some(DeliveryState::Draft | DeliveryState::Paused | DeliveryState::Cancelled)
        )
    }

    // ------------------------------------------------------------------ for the replay

    /// Every delivery of the demand, running, with what it asked for.
    pub(super) fn running(&self) -> Vec<Delivery> {
        let one = |(id, (first, last)): (&u64, &(Timestamp, Timestamp))| {
            let known = self.deliveries.get(id).and_then(Option::as_ref);
            let usual = &self.window.usual;
            let (options, started_at) = match known {
                Some(known) => (known.options.clone(), known.started_at.unwrap_or(*first)),
                // One that is not known any more was valid while its mail went.
                None => {
                    let end = (*last).max(self.window.since) + usual.validity;
                    (DeliveryOptions { valid_until: Some(end), ..usual.clone() }, *first)
                }
            };
            Delivery {
                id: DeliveryId(*id),
                state: DeliveryState::Running,
                options: DeliveryOptions { waves: Vec::new(), ..options },
                started_at: Some(started_at),
                wave_ends: Vec::new(),
            }
        };
        self.arrivals.iter().map(one).collect()
    }

    /// Routes of all domains as they were used, and how long the exchangers took.
    pub(super) fn routes(&self) -> (BTreeMap<Box<str>, Arc<MxRoute>>, BTreeMap<String, Latency>) {
        let (mut routes, mut latencies) = (BTreeMap::new(), BTreeMap::new());
        for (number, used) in self.used.iter().enumerate() {
            let name = self.demand.name(u32::try_from(number).unwrap_or(u32::MAX));
            let all: u64 = used.iter().map(|(_, times)| times).sum();
            let host = |(host, times): &(u32, u64)| {
                let known = &self.hosts[*host as usize];
                let preference = if times * 100 >= all * FALLBACK_PERCENT { 10 } else { 20 };
                let addresses = known.targets.iter().copied().collect();
                MxHost { preference, name: known.name.clone(), addresses }
            };
            let mut hosts: Vec<MxHost> = used.iter().map(host).collect();
            hosts.sort_by(|one, other| {
                (one.preference, &one.name).cmp(&(other.preference, &other.name))
            });
            let route = MxRoute {
                hosts,
                port: 25,
                lmtp: false,
                relay: false,
                tls: None,
                valid_until: Timestamp::NEVER,
            };
            let of_hosts = used.iter().map(|(host, _)| &self.hosts[*host as usize]);
            let (micros, messages) = of_hosts.fold((0_u64, 0_u64), |(micros, messages), host| {
                (micros.saturating_add(host.micros), messages + host.messages)
            });
            if let Some(took) = micros.checked_div(messages) {
                let message = Duration::from_micros(took.clamp(1_000, 600_000_000));
                let latency = Latency { set_up: message * SET_UP_TIMES, message };
                latencies.insert(group_key(&route), latency);
            }
            routes.insert(name.into(), Arc::new(route));
        }
        (routes, latencies)
    }
}

/// What the exchanger said.
fn answer_of(line: &Written<'_>) -> Answer {
    const STAGES: [Stage; 4] = [Stage::MailFrom, Stage::RcptTo, Stage::Data, Stage::Content];
    if line.outcome == "sent" {
        return Answer::Taken;
    }
    let stage = line.stage.as_deref();
    let stage = stage.and_then(|word| STAGES.into_iter().find(|stage| stage.name() == word));
    let reply = line.reply.as_deref().and_then(|text| {
        let code = text.get(..3)?.parse().ok()?;
        // Lines are joined by ` / ` in the log.
        Some(Reply::from_raw(code, text.replace(" / ", "\n").into_bytes()))
    });
    match (stage, reply) {
        (Some(stage), Some(reply)) => Answer::Refused { stage, reply },
        (Some(Stage::Content), None) => Answer::NoAnswer,
        _ => Answer::Broken,
    }
}
