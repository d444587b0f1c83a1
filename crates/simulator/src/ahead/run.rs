//! The engine and the ledger on a virtual clock, over stock in place of a store and exchangers that a [`World`] plays.
//!
//! What waits is counted in lots, not kept message by message; only what the engine holds is single.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use engine::event::{Assignment, Command, DoneResult, Event, MessageDone, QuotaWait};
use engine::work::{Delivery, Fate, FinalState, QueuedMessage};
use engine::{Engine, Settings, Sources};
use mail::attempt::{EndCause, SessionEnd, Stage, Verdict};
use mail::id::{ConnectionId, DeliveryId, MessageId, Priority, SourceId};
use mail::route::{MxRoute, RouteFault};
use mail::time::Timestamp;
use quota::{
    CapKey, Ledger, Owner, PathKey, PermitAnswer, PermitId, PermitRequest, TokenAnswer,
    TokenRequest,
};
use rules::RuleSet;

use super::Latency;
use super::stock::{Stock, WaitingLot};

/// Leases are renewed so often.
const RENEWAL: Duration = Duration::from_secs(10);

/// What a run starts from.
pub(crate) struct Ground {
    pub(crate) now: Timestamp,
    pub(crate) ledger: Ledger,
    pub(crate) owner: Owner,
    pub(crate) sources: Sources,
    pub(crate) source_limits: BTreeMap<SourceId, u32>,
    pub(crate) rules: Arc<RuleSet>,
    pub(crate) settings: Settings,
    pub(crate) routes: BTreeMap<Box<str>, Arc<MxRoute>>,
    pub(crate) latencies: BTreeMap<String, Latency>,
    pub(crate) latency: Latency,
}

/// A message whose MAIL FROM has gone out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begun<'run> {
    /// Number of its domain in the stock.
    pub(crate) domain: u32,
    pub(crate) delivery: DeliveryId,
    pub(crate) path: PathKey,
    pub(crate) mx_host: &'run str,
    pub(crate) at: Timestamp,
    pub(crate) ended_at: Timestamp,
    pub(crate) lot: WaitingLot,
}

/// The exchangers, and whoever looks on.
pub(crate) trait World {
    /// What the exchanger answers. Of a message of which it said nothing more is to be tried: [`Verdict::NotTried`]; its
    /// connection breaks then.
    fn answer(&mut self, begun: &Begun<'_>) -> Verdict;

    /// Messages came to this end.
    fn ended(&mut self, _state: FinalState, _at: Timestamp, _count: u64) {}

    /// The engine wants a delivery stopped.
    fn stopped(&mut self, _delivery: DeliveryId, _by: &str) {}
}

/// A message that the engine holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// Number of its domain in the stock.
    domain: u32,
    delivery: DeliveryId,
    lot: WaitingLot,
}

struct Line {
    permit: PermitId,
    path: PathKey,
    mx_host: Arc<str>,
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

/// A run at work.
pub(crate) struct Run<W> {
    ground: Ground,
    world: W,
    engine: Engine,
    now: Timestamp,
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
}

impl<W: World> Run<W> {
    pub(crate) fn new(
        ground: Ground,
        deliveries: impl IntoIterator<Item = Delivery>,
        stock: Stock,
        world: W,
    ) -> Self {
        let now = ground.now;
        let rules = Arc::clone(&ground.rules);
        let mut engine = Engine::new(ground.settings.clone(), ground.sources.clone(), rules, now);
        let mut priorities = BTreeMap::new();
        for delivery in deliveries {
            priorities.insert(delivery.id, delivery.options.priority);
            engine.handle(now, Event::DeliveryChanged(Box::new(delivery)));
        }
        let mut run = Self {
            engine,
            now,
            renewed_at: now,
            left: stock.messages(),
            stock,
            world,
            priorities,
            lines: BTreeMap::new(),
            agenda: BTreeMap::new(),
            sequence: 0,
            next_message: 1,
            held: BTreeMap::new(),
            latency_of_host: latencies_by_host(&ground),
            ground,
        };
        for (permit, _) in run.ground.ledger.permits_of(run.ground.owner) {
            run.ground.ledger.release_permit(now, run.ground.owner, permit);
        }
        run
    }

    /// Goes on until everything has come to its end, nothing follows any more, or this moment. Answers whether there is more
    /// to come after it.
    pub(crate) fn go_until(&mut self, end: Timestamp) -> bool {
        while self.left > 0 {
            self.settle_down();
            let agenda = self.agenda.keys().next().map(|(at, _)| *at);
            let Some(next) = agenda.into_iter().chain(self.engine.wake_at()).min() else {
                return false;
            };
            if next > end {
                return true;
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
        false
    }

    pub(crate) const fn now(&self) -> Timestamp {
        self.now
    }

    /// The clock goes on to a moment up to which nothing happens.
    pub(crate) fn stand_at(&mut self, at: Timestamp) {
        self.now = self.now.max(at);
    }

    pub(crate) const fn world_mut(&mut self) -> &mut W {
        &mut self.world
    }

    /// How many messages of a delivery for a domain wait outside the engine.
    pub(crate) fn in_stock(&self, domain: u32, delivery: DeliveryId) -> u64 {
        self.stock.of(domain, delivery)
    }

    /// Whether all that waits outside the engine may go now.
    pub(crate) fn all_due(&self) -> bool {
        self.stock.last_due() <= self.now
    }

    /// Takes messages away that wait outside the engine: those that would go first.
    pub(crate) fn take_away(&mut self, domain: u32, delivery: DeliveryId, count: u64) {
        self.left = self.left.saturating_sub(self.stock.take_away(domain, delivery, count));
    }

    /// Tells the engine something.
    pub(crate) fn tell(&mut self, event: Event) {
        self.engine.handle(self.now, event);
    }

    pub(crate) const fn world(&self) -> &W {
        &self.world
    }

    /// Names of the domains by number.
    pub(crate) fn domains(&self) -> &[Box<str>] {
        self.stock.names()
    }

    pub(crate) fn route(&self, domain: &str) -> Option<&Arc<MxRoute>> {
        self.ground.routes.get(domain)
    }

    /// Messages that have not come to their end, by the number of their domain.
    pub(crate) fn left_by_domain(&self) -> Vec<u64> {
        let mut left = self.stock.left();
        for held in self.held.values() {
            left[held.domain as usize] += 1;
        }
        left
    }

    /// Why the mail of a domain waits.
    pub(crate) fn why(&self, domain: &str) -> String {
        let why = self.engine.why_domains(core::iter::once(domain));
        why.first().map_or_else(String::new, |(_, why)| why.reason.to_string())
    }

    /// Decides and carries out until nothing more follows at this moment.
    fn settle_down(&mut self) {
        if !self.lines.is_empty() && self.now - self.renewed_at >= RENEWAL {
            self.renewed_at = self.now;
            self.ground.ledger.renew_permits(self.now, self.ground.owner);
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
        drop(self.ground.ledger.take_journal());
    }

    fn later(&mut self, at: Timestamp, happening: Happening) {
        self.sequence += 1;
        self.agenda.insert((at, self.sequence), happening);
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::FindDue { after, limit } => {
                let (domains, next) = self.stock.due(after, limit);
                self.tell(Event::DueFound { domains, next });
            }
            Command::Claim { domain, priority, deliveries, due_until, limit } => {
                self.claim(domain, priority, &deliveries, due_until, limit);
            }
            Command::FindRoute { domain } => {
                let route = self.ground.routes.get(&domain).map(|route| {
                    Arc::new(MxRoute { valid_until: Timestamp::NEVER, ..(**route).clone() })
                });
                let route = route.ok_or(RouteFault::Temporary { why: "no route is known".into() });
                self.tell(Event::RouteFound { domain, route });
            }
            Command::AskPermit { connection, path, mx_host } => {
                self.ask_permit(connection, path, mx_host);
            }
            Command::ReleasePermit { connection } => {
                if let Some(line) = self.lines.remove(&connection) {
                    self.ground.ledger.release_permit(self.now, self.ground.owner, line.permit);
                }
            }
            Command::AskTokens { path, mx_host, want, cap } => {
                let caps: Vec<(CapKey, u32)> =
                    cap.iter().map(|(id, limit)| (CapKey::Delivery(*id), *limit)).collect();
                let source_limit = self.ground.source_limits.get(&path.source).copied();
                let request =
                    TokenRequest { path, mx_host: &mx_host, want, source_limit, caps: &caps };
                let answer = match self.ground.ledger.ask_tokens(self.now, &request) {
                    TokenAnswer::Granted(lot) => Ok(lot.into()),
                    TokenAnswer::Wait(wait) => Err(QuotaWait::from(&wait)),
                };
                self.tell(Event::TokensAnswered { path, cap: cap.map(|(id, _)| id), answer });
            }
            Command::GiveBack { lot, count } => {
                // Given back too late it stays counted, as it does live.
                let _ = self.ground.ledger.give_back(self.now, lot, count);
            }
            Command::Connect { connection, plan } => {
                let own = self.latency_of_host.get(&*plan.mx_host);
                let latency = own.copied().unwrap_or(self.ground.latency);
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
                        Fate::Final(state) => {
                            self.left = self.left.saturating_sub(1);
                            self.world.ended(state, one.at, 1);
                        }
                        Fate::Requeued { due, pinned_source } => {
                            let attempts = u16::try_from(one.attempts).unwrap_or(u16::MAX);
                            let lot = WaitingLot { due, pinned_source, attempts, ..held.lot };
                            self.stock.put(held.domain, held.delivery, lot, 1);
                        }
                    }
                }
            }
            Command::Expire { delivery, accepted_before } => {
                let count = self.stock.sweep(delivery, accepted_before);
                self.left = self.left.saturating_sub(count);
                self.world.ended(FinalState::Expired, self.now, count);
                self.tell(Event::SweepDone { delivery, more: false });
            }
            Command::CancelQueued { delivery } => {
                self.tell(Event::SweepDone { delivery, more: false });
            }
            // Whether a person lets it go on, and when, is not ours to say: it goes on at once.
            Command::StopDelivery { delivery, by, .. } => self.world.stopped(delivery, &by),
            Command::Record(_) | Command::KeepReactions(_) | Command::Drained => {}
        }
    }

    fn ask_permit(&mut self, connection: ConnectionId, path: PathKey, mx_host: Arc<str>) {
        let request = PermitRequest { owner: self.ground.owner, path, mx_host: &mx_host };
        let answer = match self.ground.ledger.ask_permit(self.now, &request) {
            PermitAnswer::Granted(permit) => {
                let line = Line {
                    permit: permit.id,
                    path,
                    mx_host,
                    latency: self.ground.latency,
                    ready: false,
                    closing: false,
                    batch: VecDeque::new(),
                    free_at: self.now,
                };
                self.lines.insert(connection, line);
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

    // ------------------------------------------------------------------ the imagined store

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
                let Some(lot) = self.stock.take(number, *delivery, due_until) else { break };
                let id = MessageId(self.next_message);
                self.next_message += 1;
                self.held.insert(id, Held { domain: number, delivery: *delivery, lot });
                messages.push(QueuedMessage {
                    id,
                    delivery: *delivery,
                    recipient: recipient.as_str().into(),
                    merge: Box::default(),
                    content: 0,
                    sender: Box::default(),
                    attempts: lot.attempts.into(),
                    accepted_at: lot.arrived_at,
                    due: lot.due,
                    pinned_source: lot.pinned_source,
                });
            }
            if let Some(earliest) = self.stock.earliest(number, *delivery) {
                next_due = Some(next_due.map_or(earliest, |before| before.min(earliest)));
            }
        }
        self.tell(Event::Claimed { domain, priority, messages, next_due });
    }

    // ------------------------------------------------------------------ the exchangers

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
        let (path, mx_host) = (line.path, Arc::clone(&line.mx_host));
        let mut results = Vec::with_capacity(batch.len());
        let mut end: Option<SessionEnd> = None;
        for (assignment, started_at) in batch {
            let message = assignment.message.id;
            // What stands behind the end of a conversation was never begun.
            let started_at = started_at.filter(|_| end.is_none());
            let verdict = match (started_at, self.held.get_mut(&message)) {
                (Some(at), Some(held)) => {
                    let (domain, delivery) = (held.domain, held.delivery);
                    let (lot, ended_at) = (held.lot, at + took);
                    held.lot.tries = held.lot.tries.saturating_add(1);
                    let mx_host = &*mx_host;
                    let begun = Begun { domain, delivery, path, mx_host, at, ended_at, lot };
                    let verdict = self.world.answer(&begun);
                    end = end_of(&verdict);
                    verdict
                }
                _ => Verdict::NotTried,
            };
            let result = DoneResult::Verdict(verdict);
            results.push(MessageDone { message, started_at, result });
        }
        if !results.is_empty() {
            self.tell(Event::MessagesDone { connection, results });
        }
        match end {
            Some(end) => self.tell(Event::ConnectionClosed { connection, end }),
            None if closing => self.closed(connection),
            None => {}
        }
    }
}

/// How a conversation ends at such an answer; `None`: it goes on.
fn end_of(verdict: &Verdict) -> Option<SessionEnd> {
    match verdict {
        Verdict::Refused { stage, reply } if reply.code() == 421 => {
            Some(SessionEnd { stage: *stage, cause: EndCause::Refused { reply: reply.clone() } })
        }
        Verdict::NotTried | Verdict::PossiblyDelivered => {
            let cause = EndCause::Lost { why: String::new() };
            Some(SessionEnd { stage: Stage::Content, cause })
        }
        _ => None,
    }
}

/// The latency of each host, by the MX group to which it belongs; without the hosts of groups that have none of their own.
fn latencies_by_host(ground: &Ground) -> BTreeMap<Box<str>, Latency> {
    let mut of_host = BTreeMap::new();
    if ground.latencies.is_empty() {
        return of_host;
    }
    for route in ground.routes.values() {
        let Some(latency) = ground.latencies.get(&mail::route::group_key(route)) else { continue };
        for host in &route.hosts {
            of_host.entry(host.name.clone()).or_insert(*latency);
        }
    }
    of_host
}
