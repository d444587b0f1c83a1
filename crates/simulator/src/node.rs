//! One process: the production engine, ledger and SMTP sessions, and what a shell does between them.
//!
//! Everything here is lost in a crash. What is durable is in [`Disk`].

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use engine::event::{Assignment, ConnectionPlan, DoneResult, MessageDone};
use engine::quarantine::{Desk, GuardSettings, OutageGuard};
use engine::reactions::KeptReactions;
use engine::work::{SendMode, Settled};
use engine::{Engine, Event};
use mail::attempt::{EndCause, SessionEnd, Stage, Verdict};
use mail::id::{ConnectionId, DeliveryId, MessageId};
use mail::reply::Reply;
use mail::time::Timestamp;
use quota::{ClockReading, JournalEntry, JournalKey, Ledger, Owner, PermitId, SavedClock};
use smtp::client::{ClientEvent, ClientSession, ClientSettings, Envelope, TlsMode};
use store::{ClaimRequest, DomainId, MemoryStore};

/// What survives: the store, and the ledger's journal.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) store: MemoryStore,
    pub(crate) journal: BTreeMap<JournalKey, JournalEntry>,
    /// What the engine last wanted kept of its reactions, as committed.
    pub(crate) reactions: KeptReactions,
}

impl Disk {
    pub(crate) fn write_journal(&mut self, entries: Vec<JournalEntry>) {
        for entry in entries {
            match entry {
                JournalEntry::PermitReleased { .. } => {
                    self.journal.remove(&entry.key());
                }
                entry => {
                    self.journal.insert(entry.key(), entry);
                }
            }
        }
    }

    pub(crate) fn saved_clock(&self) -> Option<SavedClock> {
        match self.journal.get(&JournalKey::Clock) {
            Some(JournalEntry::Clock(clock)) => Some(clock.clone()),
            _ => None,
        }
    }
}

/// The clocks of the machine.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) boots: u64,
    pub(crate) booted_at: Timestamp,
    /// Error of the wall clock, in seconds.
    pub(crate) wall_error: i64,
    /// How much faster its clocks run, in millionths.
    pub(crate) drift: i64,
}

/// A span as a clock with this drift shows it.
pub(crate) fn drifted(span: Duration, drift: i64) -> Duration {
    let micros = i128::try_from(span.as_micros()).unwrap_or(i128::MAX);
    let shown = micros.saturating_add(micros.saturating_mul(i128::from(drift)) / 1_000_000);
    Duration::from_micros(u64::try_from(shown).unwrap_or(u64::MAX))
}

impl Machine {
    pub(crate) fn read(&self, now: Timestamp) -> ClockReading {
        let error = self.wall_error.saturating_mul(1_000_000);
        ClockReading {
            boot_id: format!("boot {}", self.boots),
            boot_clock: drifted(now - self.booted_at, self.drift),
            wall: now.as_micros().saturating_add_signed(error),
        }
    }
}

/// What waits for the next commit.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    Claim {
        asked: ClaimRequest,
        domain: Box<str>,
        priority: mail::id::Priority,
    },
    Settle(Vec<Settled>),
    Keep(Box<KeptReactions>),
    Sweep {
        delivery: DeliveryId,
        expire: bool,
        from: DomainId,
        through: Option<MessageId>,
    },
    /// Entries that must be durable before the answers are handed out.
    Journal {
        entries: Vec<JournalEntry>,
        answers: Vec<Event>,
    },
}

/// A connection of ours.
pub(crate) struct Conversation {
    pub(crate) permit: PermitId,
    pub(crate) plan: Option<Box<ConnectionPlan>>,
    pub(crate) socket: Option<u64>,
    session: Option<ClientSession>,
    waiting: VecDeque<Assignment>,
    /// Messages given to the session and not yet done.
    in_session: Vec<MessageId>,
    pub(crate) closing: bool,
    /// The time of its next tick that is on the agenda.
    pub(crate) tick_at: Timestamp,
}

/// What came out of a conversation.
#[derive(Default)]
pub(crate) struct Moved {
    pub(crate) octets: Vec<u8>,
    pub(crate) events: Vec<Event>,
    pub(crate) closed: bool,
    pub(crate) deadline: Option<Timestamp>,
}

impl Conversation {
    pub(crate) fn new(permit: PermitId) -> Self {
        Self {
            permit,
            plan: None,
            socket: None,
            session: None,
            waiting: VecDeque::new(),
            in_session: Vec::new(),
            closing: false,
            tick_at: Timestamp::NEVER,
        }
    }

    pub(crate) fn send(&mut self, messages: Vec<Assignment>) {
        self.waiting.extend(messages);
    }

    /// What was handed over and is not done.
    pub(crate) fn held(&self) -> impl Iterator<Item = MessageId> {
        self.waiting.iter().map(|one| one.message.id).chain(self.in_session.iter().copied())
    }

    /// The TCP connection stands.
    pub(crate) fn connected(&mut self, now: Timestamp, plan: &ConnectionPlan) {
        let times = plan.timeouts;
        let settings = ClientSettings {
            helo: format!("s{}.mailweir.example", plan.path.source.0),
            tls: TlsMode::Opportunistic,
            lmtp: plan.lmtp,
            timeouts: smtp::client::Timeouts {
                greeting: times.other,
                command: times.other,
                data_block: times.other,
                final_dot: times.data,
                quit: Duration::from_secs(5),
                idle: Duration::from_secs(60),
            },
            max_messages: u32::MAX,
            pipelining: true,
            chunking: plan.chunking,
        };
        self.session = Some(ClientSession::new(settings, now));
    }

    pub(crate) fn receive(&mut self, now: Timestamp, octets: &[u8]) {
        if let Some(session) = &mut self.session {
            session.receive(now, octets);
        }
    }

    pub(crate) fn lost(&mut self, now: Timestamp) {
        if let Some(session) = &mut self.session {
            session.connection_lost(now, "");
        }
    }

    pub(crate) fn tick(&mut self, now: Timestamp) {
        if let Some(session) = &mut self.session {
            session.tick(now);
        }
    }

    /// Attempts that have begun and are not done.
    pub(crate) fn begun(&self) -> impl Iterator<Item = MessageId> {
        self.in_session.iter().copied()
    }

    /// Drives the session until nothing moves. `desk` is asked right before a message is sent.
    pub(crate) fn drive(&mut self, now: Timestamp, id: ConnectionId, desk: &Desk) -> Moved {
        let mut moved = Moved::default();
        let Some(session) = &mut self.session else { return moved };
        let mut results = Vec::new();
        let mut end = None;
        loop {
            while session.wants_message() {
                let Some(next) = self.waiting.pop_front() else { break };
                if let Err(refusal) = desk.admission().admit_address(&next.message.recipient) {
                    let result = DoneResult::PrepareFailed { why: refusal.to_string() };
                    let message = next.message.id;
                    results.push(MessageDone { message, started_at: None, result });
                    continue;
                }
                self.in_session.push(next.message.id);
                session.enqueue(now, envelope(&next));
            }
            if self.closing
                && self.waiting.is_empty()
                && self.in_session.is_empty()
                && !session.is_closed()
            {
                session.finish(now);
            }
            while let Some(piece) = session.next_to_send() {
                session.written(now, piece.len());
                moved.octets.extend_from_slice(&piece);
            }
            let Some(event) = session.poll_event() else { break };
            match event {
                ClientEvent::StartTls => session.tls_failed(now, "no TLS in this world"),
                ClientEvent::Ready { .. } => {
                    moved.events.push(Event::ConnectionReady { connection: id });
                }
                ClientEvent::Done { token, verdict, started_at } => {
                    self.in_session.retain(|id| id.0 != token);
                    let result = DoneResult::Verdict(verdict);
                    results.push(MessageDone { message: MessageId(token), started_at, result });
                }
                ClientEvent::Closed(how) => end = Some(how),
            }
        }
        if !session.will_take_more() {
            results.extend(self.waiting.drain(..).map(|one| not_tried(&one)));
        }
        if !results.is_empty() {
            moved.events.push(Event::MessagesDone { connection: id, results });
        }
        moved.deadline = session.deadline();
        if let Some(end) = end {
            moved.events.push(Event::ConnectionClosed { connection: id, end });
            moved.closed = true;
            self.session = None;
        }
        moved
    }

    /// Ends a conversation that has no session (not connected, or dry).
    pub(crate) fn end_without_session(&mut self, id: ConnectionId, cause: EndCause) -> Vec<Event> {
        let mut events = Vec::new();
        if !self.waiting.is_empty() {
            let results = self.waiting.drain(..).map(|one| not_tried(&one)).collect();
            events.push(Event::MessagesDone { connection: id, results });
        }
        let end = SessionEnd { stage: Stage::Connect, cause };
        events.push(Event::ConnectionClosed { connection: id, end });
        events
    }

    /// Takes back what was not begun and lets the rest end.
    pub(crate) fn recall(&mut self, now: Timestamp, id: ConnectionId) -> Option<Event> {
        self.closing = true;
        if let Some(session) = &mut self.session {
            session.finish(now);
        }
        let results: Vec<MessageDone> = self.waiting.drain(..).map(|one| not_tried(&one)).collect();
        (!results.is_empty()).then_some(Event::MessagesDone { connection: id, results })
    }

    /// Dry mode: everything that was handed over counts as sent.
    pub(crate) fn send_dry(&mut self, id: ConnectionId) -> Event {
        let results = self
            .waiting
            .drain(..)
            .map(|one| MessageDone {
                message: one.message.id,
                started_at: None,
                result: DoneResult::Verdict(Verdict::Sent { reply: Reply::line(250, "dry") }),
            })
            .collect();
        Event::MessagesDone { connection: id, results }
    }
}

fn not_tried(assignment: &Assignment) -> MessageDone {
    MessageDone {
        message: assignment.message.id,
        started_at: None,
        result: DoneResult::Verdict(Verdict::NotTried),
    }
}

fn envelope(assignment: &Assignment) -> Envelope {
    let message = &assignment.message;
    Envelope {
        token: message.id.0,
        sender: "bounce@mailweir.example".into(),
        recipient: message.recipient.clone(),
        content: Bytes::from_static(b"Subject: hello\r\n\r\n.dot\r\nhello\r\n"),
        smtputf8: false,
        test_only: assignment.mode == SendMode::Test,
        send_before: assignment.use_before,
    }
}

/// A running process.
pub(crate) struct Node {
    pub(crate) engine: Engine,
    pub(crate) ledger: Ledger,
    pub(crate) owner: Owner,
    pub(crate) conversations: BTreeMap<ConnectionId, Conversation>,
    pub(crate) requests: Vec<Request>,
    pub(crate) committing: bool,
    pub(crate) sweeps: BTreeMap<DeliveryId, DomainId>,
    pub(crate) rules: Arc<rules::RuleSet>,
    /// Who may not be written to, as of the last commit.
    pub(crate) desk: Desk,
    /// True time and the node's own time at its start.
    pub(crate) started: (Timestamp, Timestamp),
    drift: i64,
    /// Leases are renewed then.
    pub(crate) renew_at: Timestamp,
    pub(crate) renewing: bool,
    /// What a full disk refused.
    pub(crate) unsettled: Vec<Settled>,
    pub(crate) unkept: Option<Box<KeptReactions>>,
    pub(crate) store_sick: bool,
    pub(crate) pruned_at: Timestamp,
    /// It was asked to stop, and comes back like this.
    pub(crate) draining: Option<crate::plan::Restart>,
    pub(crate) drained: bool,
}

impl Node {
    pub(crate) fn new(
        engine: Engine,
        ledger: Ledger,
        owner: Owner,
        rules: Arc<rules::RuleSet>,
        started: (Timestamp, Timestamp),
        drift: i64,
    ) -> Self {
        Self {
            engine,
            ledger,
            owner,
            conversations: BTreeMap::new(),
            requests: Vec::new(),
            committing: false,
            sweeps: BTreeMap::new(),
            rules,
            desk: Desk::new(Arc::default(), OutageGuard::new(GuardSettings::default())),
            started,
            drift,
            renew_at: Timestamp::NEVER,
            renewing: false,
            unsettled: Vec::new(),
            unkept: None,
            store_sick: false,
            pruned_at: started.1,
            draining: None,
            drained: false,
        }
    }

    /// The node's own time at a true time.
    pub(crate) fn own_time(&self, now: Timestamp) -> Timestamp {
        self.started.1 + drifted(now - self.started.0, self.drift)
    }

    /// The true time at the node's own time.
    pub(crate) fn true_time(&self, own: Timestamp) -> Timestamp {
        if own == Timestamp::NEVER {
            return own;
        }
        // The first true time at which the node's clock has come so far.
        let mut now = self.started.0 + drifted(own - self.started.1, -self.drift);
        while self.own_time(now) < own {
            now =
                now + Duration::from_micros(1 + (own - self.own_time(now)).as_micros() as u64 / 2);
        }
        now
    }
}
