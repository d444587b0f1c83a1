//! The same engine, run ahead of time: when will the mail that waits now have gone?
//!
//! **Promise.** [`ahead()`] starts from a copy of the live ledger with all that it has counted, the rules, sources and
//! routes in force, and lets the production engine deliver what waits, on a virtual clock, to mail
//! exchangers that take everything in a given time. What comes out is the earliest course of events that the rules allow.
//!
//! **Absences.** Greylisting, refusals, failures and mail that is still to come are not foreseen. Nothing live is
//! touched: the ledger is a copy.
//!
//! Where something cannot go within [`AheadInput::horizon`], the report says how many messages are left and why.

mod stock;

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use engine::event::{Assignment, Command, DoneResult, Event, MessageDone, QuotaWait};
use engine::work::{Delivery, DeliveryOptions, DeliveryState, Fate, QueuedMessage};
use engine::{Engine, Settings, Sources};
use mail::attempt::{EndCause, SessionEnd, Stage, Verdict};
use mail::id::{ConnectionId, DeliveryId, MessageId, Priority, SourceId};
use mail::reply::Reply;
use mail::route::{MxRoute, RouteFault};
use mail::time::Timestamp;
use quota::{
    CapKey, Ledger, Owner, PermitAnswer, PermitId, PermitRequest, TokenAnswer, TokenRequest,
};
use rules::RuleSet;
use stock::Stock;

/// Mail of one delivery for one domain that waits.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// The recipient domain.
    pub domain: Box<str>,
    /// Tells deliveries apart: equal options under different numbers take turns.
    pub delivery: DeliveryId,
    /// Affinity, priority, hourly cap and mode count; waves and validity are not looked at.
    pub options: DeliveryOptions,
    /// How many messages.
    pub count: u64,
    /// They may not go before; in the past: at once.
    pub due: Timestamp,
}

/// How long an exchanger takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// From the wish to connect to the first MAIL FROM.
    pub set_up: Duration,
    /// For one message on one connection.
    pub message: Duration,
}

impl Default for Latency {
    /// 5 ms each.
    fn default() -> Self {
        Self { set_up: Duration::from_millis(5), message: Duration::from_millis(5) }
    }
}

/// What is known now.
#[derive(Clone, Debug)]
pub struct AheadInput {
    /// The time from which to run ahead, in the ledger's time.
    pub now: Timestamp,
    /// A clone of the live ledger. Permits of `owner` are given up first: its connections will have ended.
    pub ledger: Ledger,
    /// The process that asks.
    pub owner: Owner,
    /// All sources and affinities.
    pub sources: Sources,
    /// Sources with an hourly cap of their own over all targets, and the cap.
    pub source_limits: BTreeMap<SourceId, u32>,
    /// The rules in force.
    pub rules: Arc<RuleSet>,
    /// The engine's settings.
    pub settings: Settings,
    /// Routes of all domains with waiting mail. A domain without a route is reported as left.
    pub routes: BTreeMap<Box<str>, Arc<MxRoute>>,
    /// What waits.
    pub waiting: Vec<Waiting>,
    /// How long the exchangers of an MX group take, by its key ([`mail::route::group_key`]).
    pub latencies: BTreeMap<String, Latency>,
    /// For the others.
    pub latency: Latency,
    /// How far to look.
    pub horizon: Duration,
}

/// The course of one domain's or one MX group's mail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AheadCourse {
    /// Messages that will have gone within the horizon.
    pub messages: u64,
    /// The first MAIL FROM.
    pub first_at: Option<Timestamp>,
    /// When the last has been taken.
    pub finished_at: Option<Timestamp>,
    /// Messages begun in each five minutes. The first stretch is the one of the ledger's periods (multiples of
    /// five minutes since the epoch) that contains `now`.
    pub per_five_minutes: Vec<u64>,
}

impl AheadCourse {
    /// Messages begun in each hour, counted from the first stretch of `per_five_minutes`.
    #[must_use]
    pub fn per_hour(&self) -> Vec<u64> {
        self.per_five_minutes.chunks(12).map(|hour| hour.iter().sum()).collect()
    }

    fn count(&mut self, first_period: u64, begun: Timestamp, ended: Timestamp) {
        self.messages += 1;
        self.first_at = Some(self.first_at.map_or(begun, |first| first.min(begun)));
        self.finished_at = Some(self.finished_at.map_or(ended, |last| last.max(ended)));
        let period = (begun.as_secs() / PERIOD).saturating_sub(first_period);
        let place = usize::try_from(period).unwrap_or(usize::MAX).min(PERIODS_MAX);
        if self.per_five_minutes.len() <= place {
            self.per_five_minutes.resize(place + 1, 0);
        }
        self.per_five_minutes[place] += 1;
    }
}

/// One MX group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AheadGroup {
    /// The domains with waiting mail that share it.
    pub domains: Vec<Box<str>>,
    /// Its course.
    pub course: AheadCourse,
}

/// Mail that will not have gone.
#[derive(Clone, Debug, PartialEq)]
pub struct Left {
    /// The domain.
    pub domain: Box<str>,
    /// How many messages.
    pub count: u64,
    /// Why, at the end of the horizon.
    pub reason: String,
}

/// What is ahead.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AheadReport {
    /// When all that can go within the horizon has gone; `None`: nothing can.
    pub finished_at: Option<Timestamp>,
    /// By the key of the MX group.
    pub groups: BTreeMap<String, AheadGroup>,
    /// By domain.
    pub domains: BTreeMap<Box<str>, AheadCourse>,
    /// What is left at the end of the horizon.
    pub left: Vec<Left>,
}

/// Seconds of a period.
const PERIOD: u64 = 300;

/// Stretches kept apart: about three years.
const PERIODS_MAX: usize = 300_000;

/// Leases are renewed so often.
const RENEWAL: Duration = Duration::from_secs(10);

/// Runs ahead until everything has gone or the horizon is reached.
#[must_use]
pub fn ahead(input: AheadInput) -> AheadReport {
    let mut run = Run::new(input);
    run.go();
    run.report()
}

/// A message that the engine holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// Number of its domain in the stock.
    domain: u32,
    delivery: DeliveryId,
}

#[derive(Clone, Debug)]
struct Line {
    permit: PermitId,
    latency: Latency,
    ready: bool,
    closing: bool,
    /// Handed over, with the times at which each begins.
    batch: VecDeque<(Assignment, Option<Timestamp>)>,
    free_at: Timestamp,
}

enum Happening {
    Ready(ConnectionId),
    Done(ConnectionId),
}

struct Run {
    input: AheadInput,
    engine: Engine,
    now: Timestamp,
    end: Timestamp,
    renewed_at: Timestamp,
    stock: Stock,
    priorities: BTreeMap<DeliveryId, Priority>,
    lines: BTreeMap<ConnectionId, Line>,
    agenda: BTreeMap<(Timestamp, u64), Happening>,
    sequence: u64,
    next_message: u64,
    held: BTreeMap<MessageId, Held>,
    left: u64,
    /// Of those hosts whose MX group has a latency of its own.
    latency_of_host: BTreeMap<Box<str>, Latency>,
    /// By the number of the domain in the stock.
    courses: Vec<AheadCourse>,
    reply: Reply,
}

impl Run {
    fn new(input: AheadInput) -> Self {
        let now = input.now;
        let mut engine = Engine::new(
            input.settings.clone(),
            input.sources.clone(),
            Arc::clone(&input.rules),
            now,
        );
        let stock = Stock::new(&input.waiting);
        let mut priorities = BTreeMap::new();
        for waiting in &input.waiting {
            if priorities.insert(waiting.delivery, waiting.options.priority).is_none() {
                let options = DeliveryOptions {
                    waves: Vec::new(),
                    validity: input.horizon * 2,
                    valid_until: None,
                    stream: false,
                    ..waiting.options.clone()
                };
                let delivery = Delivery {
                    id: waiting.delivery,
                    state: DeliveryState::Running,
                    options,
                    started_at: Some(now),
                    wave_ends: Vec::new(),
                };
                engine.handle(now, Event::DeliveryChanged(Box::new(delivery)));
            }
        }
        let mut run = Self {
            engine,
            now,
            end: now + input.horizon,
            renewed_at: now,
            left: stock.messages(),
            courses: vec![AheadCourse::default(); stock.names().len()],
            stock,
            priorities,
            lines: BTreeMap::new(),
            agenda: BTreeMap::new(),
            sequence: 0,
            next_message: 1,
            held: BTreeMap::new(),
            latency_of_host: latencies_by_host(&input),
            reply: Reply::line(250, "2.0.0 ok"),
            input,
        };
        for (permit, _) in run.input.ledger.permits_of(run.input.owner) {
            run.input.ledger.release_permit(now, run.input.owner, permit);
        }
        run
    }

    fn go(&mut self) {
        while self.left > 0 {
            self.settle_down();
            let agenda = self.agenda.keys().next().map(|(at, _)| *at);
            let Some(next) = agenda.into_iter().chain(self.engine.wake_at()).min() else { return };
            if next > self.end {
                return;
            }
            self.now = self.now.max(next);
            while let Some(entry) = self.agenda.first_entry() {
                if entry.key().0 > self.now {
                    break;
                }
                match entry.remove() {
                    Happening::Ready(id) => self.ready(id),
                    Happening::Done(id) => self.done(id),
                }
            }
        }
    }

    /// Decides and carries out until nothing more follows at this moment.
    fn settle_down(&mut self) {
        if !self.lines.is_empty() && self.now - self.renewed_at >= RENEWAL {
            self.renewed_at = self.now;
            self.input.ledger.renew_permits(self.now, self.input.owner);
        }
        loop {
            self.engine.decide(self.now);
            let mut some = false;
            while let Some(command) = self.engine.next_command() {
                some = true;
                self.carry_out(command);
            }
            if !some {
                break;
            }
        }
        // Nothing of this is ever stored.
        drop(self.input.ledger.take_journal());
    }

    fn tell(&mut self, event: Event) {
        self.engine.handle(self.now, event);
    }

    fn later(&mut self, at: Timestamp, happening: Happening) {
        self.sequence += 1;
        self.agenda.insert((at, self.sequence), happening);
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::FindDue { after, limit } => self.find_due(after, limit),
            Command::Claim { domain, priority, deliveries, due_until, limit } => {
                self.claim(domain, priority, &deliveries, due_until, limit);
            }
            Command::FindRoute { domain } => {
                let route = self.input.routes.get(&domain).map(|route| {
                    Arc::new(MxRoute { valid_until: Timestamp::NEVER, ..(**route).clone() })
                });
                let route = route.ok_or(RouteFault::Temporary { why: "no route is known".into() });
                self.tell(Event::RouteFound { domain, route });
            }
            Command::AskPermit { connection, path, mx_host } => {
                let request = PermitRequest { owner: self.input.owner, path, mx_host: &mx_host };
                let answer = match self.input.ledger.ask_permit(self.now, &request) {
                    PermitAnswer::Granted(permit) => {
                        self.lines.insert(
                            connection,
                            Line {
                                permit: permit.id,
                                latency: self.input.latency,
                                ready: false,
                                closing: false,
                                batch: VecDeque::new(),
                                free_at: self.now,
                            },
                        );
                        Ok(())
                    }
                    PermitAnswer::Wait(wait) => Err(QuotaWait::from(&wait)),
                    // A later life of the node has a lease: this question comes too late to matter.
                    PermitAnswer::Stale { .. } => Err(QuotaWait {
                        until: None,
                        limit: engine::event::QuotaLimit::Ledger,
                        rule: Box::default(),
                        source: None,
                        figure: 0,
                        used: 0,
                    }),
                };
                self.tell(Event::PermitAnswered { connection, answer });
            }
            Command::ReleasePermit { connection } => {
                if let Some(line) = self.lines.remove(&connection) {
                    self.input.ledger.release_permit(self.now, self.input.owner, line.permit);
                }
            }
            Command::AskTokens { path, mx_host, want, cap } => {
                let caps: Vec<(CapKey, u32)> =
                    cap.iter().map(|(id, limit)| (CapKey::Delivery(*id), *limit)).collect();
                let source_limit = self.input.source_limits.get(&path.source).copied();
                let request =
                    TokenRequest { path, mx_host: &mx_host, want, source_limit, caps: &caps };
                let answer = match self.input.ledger.ask_tokens(self.now, &request) {
                    TokenAnswer::Granted(lot) => Ok(lot.into()),
                    TokenAnswer::Wait(wait) => Err(QuotaWait::from(&wait)),
                };
                self.tell(Event::TokensAnswered { path, cap: cap.map(|(id, _)| id), answer });
            }
            Command::GiveBack { lot, count } => {
                // Given back too late it stays counted, as it does live.
                let _ = self.input.ledger.give_back(self.now, lot, count);
            }
            Command::Connect { connection, plan } => {
                let own = self.latency_of_host.get(&*plan.mx_host);
                let latency = own.copied().unwrap_or(self.input.latency);
                if let Some(line) = self.lines.get_mut(&connection) {
                    line.latency = latency;
                }
                self.later(self.now + latency.set_up, Happening::Ready(connection));
            }
            Command::Send { connection, messages } => self.send(connection, messages),
            Command::Close { connection } | Command::Recall { connection } => {
                let Some(line) = self.lines.get_mut(&connection) else { return };
                line.closing = true;
                if line.ready && line.batch.is_empty() {
                    self.closed(connection);
                }
            }
            Command::Settle(settled) => {
                for one in settled {
                    let Some(held) = self.held.remove(&one.id) else { continue };
                    match one.fate {
                        Fate::Final(_) => self.left = self.left.saturating_sub(1),
                        Fate::Requeued { due, .. } => {
                            self.stock.put(held.domain, held.delivery, due, 1);
                        }
                    }
                }
            }
            Command::Expire { delivery, .. } | Command::CancelQueued { delivery } => {
                self.tell(Event::SweepDone { delivery, more: false });
            }
            // Here every server takes everything, so no delivery is ever at fault and nothing is reacted to.
            Command::Record(_)
            | Command::StopDelivery { .. }
            | Command::KeepReactions(_)
            | Command::Drained => {}
        }
    }

    // ------------------------------------------------------------------ the imagined store

    fn find_due(&mut self, after: u64, limit: usize) {
        let (domains, next) = self.stock.due(after, limit);
        self.tell(Event::DueFound { domains, next });
    }

    fn claim(
        &mut self,
        domain: Box<str>,
        priority: Priority,
        deliveries: &[(DeliveryId, Option<MessageId>)],
        due_until: Timestamp,
        limit: u32,
    ) {
        let mut messages = Vec::new();
        let mut next_due: Option<Timestamp> = None;
        let Some(number) = self.stock.number(&domain) else {
            return self.tell(Event::Claimed { domain, priority, messages, next_due });
        };
        let recipient = format!("x@{domain}");
        for (delivery, _) in deliveries {
            if self.priorities.get(delivery) != Some(&priority) {
                continue;
            }
            while messages.len() < limit as usize {
                let Some(due) = self.stock.take(number, *delivery, due_until) else { break };
                let id = MessageId(self.next_message);
                self.next_message += 1;
                self.held.insert(id, Held { domain: number, delivery: *delivery });
                messages.push(QueuedMessage {
                    id,
                    delivery: *delivery,
                    recipient: recipient.as_str().into(),
                    merge: Box::default(),
                    content: 0,
                    sender: Box::default(),
                    attempts: 0,
                    accepted_at: self.input.now,
                    due,
                    pinned_source: None,
                });
            }
            if let Some(earliest) = self.stock.earliest(number, *delivery) {
                next_due = Some(next_due.map_or(earliest, |before| before.min(earliest)));
            }
        }
        self.tell(Event::Claimed { domain, priority, messages, next_due });
    }

    // ------------------------------------------------------------------ the ideal exchangers

    fn ready(&mut self, connection: ConnectionId) {
        let Some(line) = self.lines.get_mut(&connection) else { return };
        line.ready = true;
        line.free_at = self.now;
        if line.closing {
            return self.closed(connection);
        }
        self.tell(Event::ConnectionReady { connection });
    }

    fn closed(&mut self, connection: ConnectionId) {
        let end = SessionEnd { stage: Stage::Quit, cause: EndCause::Finished };
        self.tell(Event::ConnectionClosed { connection, end });
    }

    /// The messages go one after the other; their verdicts come together at the end of the last.
    fn send(&mut self, connection: ConnectionId, messages: Vec<Assignment>) {
        let Some(line) = self.lines.get_mut(&connection) else { return };
        for assignment in messages {
            let begins = line.free_at.max(self.now);
            let in_time = begins < assignment.use_before;
            if in_time {
                line.free_at = begins + line.latency.message;
            }
            line.batch.push_back((assignment, in_time.then_some(begins)));
        }
        let at = line.free_at.max(self.now);
        self.later(at, Happening::Done(connection));
    }

    fn done(&mut self, connection: ConnectionId) {
        let Some(line) = self.lines.get_mut(&connection) else { return };
        if line.free_at > self.now {
            // More was handed over meanwhile: its own entry will come.
            return;
        }
        let batch = core::mem::take(&mut line.batch);
        let (closing, took) = (line.closing, line.latency.message);
        let first_period = self.input.now.as_secs() / PERIOD;
        let mut results = Vec::with_capacity(batch.len());
        for (assignment, started_at) in batch {
            let verdict = match started_at {
                Some(begun) => {
                    if let Some(held) = self.held.get(&assignment.message.id) {
                        let course = &mut self.courses[held.domain as usize];
                        course.count(first_period, begun, begun + took);
                    }
                    Verdict::Sent { reply: self.reply.clone() }
                }
                None => Verdict::NotTried,
            };
            results.push(MessageDone {
                message: assignment.message.id,
                started_at,
                result: DoneResult::Verdict(verdict),
            });
        }
        if !results.is_empty() {
            self.tell(Event::MessagesDone { connection, results });
        }
        if closing {
            self.closed(connection);
        }
    }

    // ------------------------------------------------------------------ report

    fn report(self) -> AheadReport {
        let mut report = AheadReport::default();
        let mut left = self.stock.left();
        for held in self.held.values() {
            left[held.domain as usize] += 1;
        }
        for (number, course) in self.courses.into_iter().enumerate() {
            let domain = &self.stock.names()[number];
            if left[number] > 0 {
                let why = self.engine.why_domains(core::iter::once(&**domain));
                let reason =
                    why.first().map_or_else(String::new, |(_, why)| why.reason.to_string());
                report.left.push(Left { domain: domain.clone(), count: left[number], reason });
            }
            if course.messages == 0 {
                continue;
            }
            report.finished_at = report.finished_at.max(course.finished_at);
            let route = self.input.routes.get(domain);
            let key = route.map(|route| mail::route::group_key(route)).unwrap_or_default();
            let group = report.groups.entry(key).or_default();
            group.domains.push(domain.clone());
            group.course.add(&course);
            report.domains.insert(domain.clone(), course);
        }
        report
    }
}

/// The latency of each host, by the MX group to which it belongs; without the hosts of groups that have none of their own.
fn latencies_by_host(input: &AheadInput) -> BTreeMap<Box<str>, Latency> {
    let mut of_host = BTreeMap::new();
    if input.latencies.is_empty() {
        return of_host;
    }
    for route in input.routes.values() {
        let Some(latency) = input.latencies.get(&mail::route::group_key(route)) else { continue };
        for host in &route.hosts {
            of_host.entry(host.name.clone()).or_insert(*latency);
        }
    }
    of_host
}

impl AheadCourse {
    fn add(&mut self, other: &Self) {
        self.messages += other.messages;
        self.first_at = self.first_at.into_iter().chain(other.first_at).min();
        self.finished_at = self.finished_at.max(other.finished_at);
        let length = self.per_five_minutes.len().max(other.per_five_minutes.len());
        self.per_five_minutes.resize(length, 0);
        for (sum, count) in self.per_five_minutes.iter_mut().zip(&other.per_five_minutes) {
            *sum += count;
        }
    }
}

#[cfg(test)]
mod tests;
