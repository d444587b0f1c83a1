//! A bench: everything around the engine, as simple as it can be.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mail::attempt::{EndCause, SessionEnd, Stage, Verdict};
use mail::id::{ConnectionId, DeliveryId, MessageId, Priority, SourceId};
use mail::reply::Reply;
use mail::route::{MxHost, MxRoute, RouteFault};
use mail::time::Timestamp;
use quota::{
    CapKey, Ledger, NodeId, Owner, PermitAnswer, PermitId, PermitRequest, TokenAnswer, TokenRequest,
};
use rules::{Levels, RuleSet};

use crate::event::{Command, ConnectionPlan, DoneResult, Event, MessageDone, QuotaWait};
use crate::reactions::KeptReactions;
use crate::work::{
    Attempt, Delivery, DeliveryOptions, DeliveryState, Fate, FinalState, QueuedMessage,
};
use crate::{Affinity, Engine, Settings, Source, Sources};

pub(super) const START: u64 = 1_800_000_000;

/// What an exchanger does with a message.
pub(super) enum Answer {
    /// One reply about the message.
    Reply(Stage, Reply),
    /// A reply, then the end of the conversation.
    Last(Stage, Reply),
    /// The conversation ends, nothing was asked about the message.
    End(EndCause),
    /// The message could not be prepared for a fault of the machine.
    NotPrepared(String),
}

pub(super) fn accept() -> Answer {
    Answer::Reply(Stage::Content, Reply::line(250, "2.0.0 ok"))
}

type Exchanger = Box<dyn FnMut(Timestamp, &ConnectionPlan, &QueuedMessage) -> Answer>;
type Door = Box<dyn FnMut(Timestamp, &ConnectionPlan) -> Result<(), EndCause>>;

struct Row {
    message: QueuedMessage,
    state: RowState,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RowState {
    Queued,
    Held,
    Final(FinalState),
}

struct Conversation {
    plan: ConnectionPlan,
    permit: PermitId,
    ready: bool,
    closing: bool,
    waiting: Vec<crate::event::Assignment>,
    busy: bool,
}

enum Happening {
    Ready(ConnectionId),
    Answer(ConnectionId),
    Claimed(Event),
}

pub(super) struct Bench {
    pub(super) now: Timestamp,
    pub(super) engine: Engine,
    pub(super) ledger: Ledger,
    rows: BTreeMap<MessageId, Row>,
    pub(super) deliveries: BTreeMap<DeliveryId, Delivery>,
    pub(super) routes: BTreeMap<String, Result<Arc<MxRoute>, RouteFault>>,
    pub(super) exchanger: Exchanger,
    pub(super) door: Door,
    pub(super) latency: Duration,
    pub(super) set_up: Duration,
    /// How long the answer to a claim is on its way.
    pub(super) claim_latency: Duration,
    conversations: BTreeMap<ConnectionId, Conversation>,
    agenda: BTreeMap<(Timestamp, u64), Happening>,
    sequence: u64,
    pub(super) attempts: Vec<Attempt>,
    /// MAIL FROM: when, over which path, which message.
    pub(super) begun: Vec<(Timestamp, SourceId, IpAddr, MessageId, DeliveryId)>,
    pub(super) most_connections: usize,
    pub(super) most_in_window: usize,
    pub(super) drained: bool,
    /// Pages of the queue that were asked for.
    pub(super) pages: usize,
    /// Claims, and the most deliveries that one of them named.
    pub(super) claims: usize,
    pub(super) most_claimed_from: usize,
    /// Messages that went back to the queue.
    pub(super) requeued: usize,
    /// Deliveries that the engine stopped, and why.
    pub(super) stopped: Vec<(DeliveryId, Box<str>)>,
    /// What the engine last wanted kept of its reactions.
    pub(super) kept: KeptReactions,
    owner: Owner,
}

pub(super) fn rules(text: &str) -> Arc<RuleSet> {
    rules_at(text, 1)
}

pub(super) fn rules_at(text: &str, version: u64) -> Arc<RuleSet> {
    let generic = "[[rule]]\nname = \"rest\"\nmask = \"*\"\nmax_connections = 10\n\
        max_messages_per_connection = 100\nmessages_per_hour = 100000\n";
    let file =
        rules::parse("rules.toml", format!("schema_version = 1\n{text}\n{generic}").as_bytes())
            .unwrap();
    Arc::new(RuleSet::compile(&file, &Levels::default(), version))
}

pub(super) fn sources(weights: &[u32]) -> Sources {
    let all: Vec<Source> = (1..)
        .zip(weights)
        .map(|(id, weight)| Source {
            id: SourceId(id),
            weight: *weight,
            include_domains: vec![],
            exclude_domains: vec![],
            ipv6: false,
        })
        .collect();
    let ids = all.iter().map(|source| source.id).collect();
    Sources::new(all, vec![Affinity { name: "default".into(), sources: ids }]).unwrap()
}

/// A route over hosts `(preference, name, addresses)`.
pub(super) fn route(hosts: &[(u16, &str, &[&str])]) -> Result<Arc<MxRoute>, RouteFault> {
    let hosts = hosts
        .iter()
        .map(|(preference, name, addresses)| MxHost {
            preference: *preference,
            name: (*name).into(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        })
        .collect();
    let valid_until = Timestamp::from_secs(START + 30 * 86_400);
    Ok(Arc::new(MxRoute { hosts, port: 25, lmtp: false, relay: false, tls: None, valid_until }))
}

fn not_tried(message: MessageId) -> MessageDone {
    MessageDone { message, started_at: None, result: DoneResult::Verdict(Verdict::NotTried) }
}

impl Bench {
    pub(super) fn new(rules: Arc<RuleSet>, sources: Sources, settings: Settings) -> Self {
        let now = Timestamp::from_secs(START);
        let owner = Owner { node: NodeId(1), incarnation: 1 };
        let ruling = Arc::clone(&rules);
        let mut engine = Engine::new(settings, sources, rules, now);
        engine.handle(now, Event::BounceRulesReplaced(bounce_rules()));
        Self {
            now,
            engine,
            ledger: Ledger::restore(quota::Settings::default(), ruling, owner, now, []),
            rows: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            routes: BTreeMap::new(),
            exchanger: Box::new(|_, _, _| accept()),
            door: Box::new(|_, _| Ok(())),
            latency: Duration::from_millis(5),
            set_up: Duration::from_millis(20),
            claim_latency: Duration::ZERO,
            conversations: BTreeMap::new(),
            agenda: BTreeMap::new(),
            sequence: 0,
            attempts: Vec::new(),
            begun: Vec::new(),
            most_connections: 0,
            most_in_window: 0,
            drained: false,
            pages: 0,
            claims: 0,
            most_claimed_from: 0,
            requeued: 0,
            stopped: Vec::new(),
            kept: KeptReactions::default(),
            owner,
        }
    }

    /// One source, one group `a.example` with one target, shipped-like generic figures.
    pub(super) fn simple(text: &str) -> Self {
        let mut bench = Self::new(rules(text), sources(&[1]), Settings::default());
        bench.routes.insert("a.example".into(), route(&[(10, "mx.a.example", &["192.0.2.1"])]));
        bench
    }

    /// Creates a delivery, running unless its options have waves or it is told otherwise later.
    pub(super) fn delivery(&mut self, id: u64, options: DeliveryOptions) -> DeliveryId {
        let id = DeliveryId(id);
        let delivery = Delivery {
            id,
            state: DeliveryState::Running,
            options,
            started_at: Some(self.now),
            wave_ends: vec![],
        };
        self.deliveries.insert(id, delivery.clone());
        self.engine.handle(self.now, Event::DeliveryChanged(Box::new(delivery)));
        id
    }

    pub(super) fn plain(&mut self, id: u64) -> DeliveryId {
        self.delivery(id, DeliveryOptions::default())
    }

    pub(super) fn change(&mut self, id: DeliveryId, change: impl FnOnce(&mut Delivery)) {
        let delivery = self.deliveries.get_mut(&id).unwrap();
        change(delivery);
        let changed = Event::DeliveryChanged(Box::new(delivery.clone()));
        self.engine.handle(self.now, changed);
        self.settle_down();
    }

    /// Queues so many messages.
    pub(super) fn queue(
        &mut self,
        delivery: DeliveryId,
        domain: &str,
        count: usize,
    ) -> Vec<MessageId> {
        let mut ids = Vec::new();
        for _ in 0..count {
            let id = MessageId(self.rows.len() as u64 + 1);
            let message = QueuedMessage {
                id,
                delivery,
                recipient: format!("u{}@{domain}", id.0).into(),
                merge: Box::default(),
                content: 0,
                sender: Box::default(),
                attempts: 0,
                accepted_at: self.now,
                due: Timestamp::EPOCH,
                pinned_source: None,
            };
            self.rows.insert(id, Row { message, state: RowState::Queued });
            ids.push(id);
        }
        let domains = vec![domain.into()];
        self.engine.handle(self.now, Event::Queued { delivery, due: Timestamp::EPOCH, domains });
        ids
    }

    /// Lets the store hold a message until a later moment than the engine was told.
    pub(super) fn postpone(&mut self, id: MessageId, due: Timestamp) {
        self.rows.get_mut(&id).unwrap().message.due = due;
    }

    pub(super) fn state(&self, id: MessageId) -> RowState {
        self.rows[&id].state
    }

    pub(super) fn message(&self, id: MessageId) -> &QueuedMessage {
        &self.rows[&id].message
    }

    /// Why a queued message waits.
    pub(super) fn why(&self, id: MessageId) -> crate::Waiting {
        let QueuedMessage { delivery, recipient, due, attempts, .. } = self.message(id);
        self.engine.why(self.now, id, *delivery, recipient, *due, *attempts > 0)
    }

    pub(super) fn count(&self, state: RowState) -> usize {
        self.rows.values().filter(|row| row.state == state).count()
    }

    pub(super) fn sent(&self) -> usize {
        self.count(RowState::Final(FinalState::Sent))
    }

    /// Lets `span` pass.
    pub(super) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        self.settle_down();
        loop {
            let next = [self.engine.wake_at(), self.agenda.keys().next().map(|(at, _)| *at)]
                .into_iter()
                .flatten()
                .min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            while let Some(entry) = self.agenda.first_entry() {
                if entry.key().0 > self.now {
                    break;
                }
                let happening = entry.remove();
                self.happen(happening);
            }
            self.settle_down();
        }
        self.now = end;
    }

    /// Decides and carries out until nothing more follows at this moment.
    pub(super) fn settle_down(&mut self) {
        let held: Vec<PermitId> = self.conversations.values().map(|c| c.permit).collect();
        if !held.is_empty() {
            let renewal = self.ledger.renew_permits(self.now, self.owner);
            assert!(renewal.permits >= held.len());
        }
        for round in 0.. {
            assert!(round < 10_000, "a hot loop at {}", self.now);
            self.engine.decide(self.now);
            let mut some = false;
            while let Some(command) = self.engine.next_command() {
                some = true;
                self.carry_out(command);
            }
            let (window, connections, _) = self.engine.sizes();
            self.most_in_window = self.most_in_window.max(window);
            self.most_connections = self.most_connections.max(connections);
            if !some {
                break;
            }
        }
        drop(self.ledger.take_journal());
    }

    fn later(&mut self, span: Duration, happening: Happening) {
        self.sequence += 1;
        self.agenda.insert((self.now + span, self.sequence), happening);
    }

    fn tell(&mut self, event: Event) {
        self.engine.handle(self.now, event);
    }

    pub(super) fn carry_out(&mut self, command: Command) {
        match command {
            Command::FindDue { after, limit } => {
                let queued = self.rows.values().filter(|row| row.state == RowState::Queued);
                let mut due: BTreeMap<&str, Vec<(DeliveryId, Timestamp)>> = BTreeMap::new();
                for row in queued {
                    let domain = row.message.recipient.rsplit_once('@').unwrap().1;
                    due.entry(domain).or_default().push((row.message.delivery, row.message.due));
                }
                self.pages += 1;
                let after = usize::try_from(after).unwrap();
                let all = due.len();
                let next = (after + limit < all).then_some((after + limit) as u64);
                let domains: Vec<(Box<str>, Timestamp)> = due
                    .into_iter()
                    .skip(after)
                    .take(limit)
                    .filter_map(|(name, due)| {
                        Some((name.into(), self.engine.earliest_due(self.now, due)?))
                    })
                    .collect();
                self.tell(Event::DueFound { domains, next });
            }
            Command::Claim { domain, priority, deliveries, due_until, limit } => {
                let event = self.claim(domain, priority, &deliveries, due_until, limit);
                if self.claim_latency.is_zero() {
                    self.tell(event);
                } else {
                    self.later(self.claim_latency, Happening::Claimed(event));
                }
            }
            Command::FindRoute { domain } => {
                let route = self.routes.get(&*domain).cloned();
                let route = route.unwrap_or(Err(RouteFault::NoSuchDomain));
                self.tell(Event::RouteFound { domain, route });
            }
            Command::AskPermit { connection, path, mx_host } => {
                let request = PermitRequest { owner: self.owner, path, mx_host: &mx_host };
                let answer = match self.ledger.ask_permit(self.now, &request) {
                    PermitAnswer::Granted(permit) => {
                        let conversation = Conversation {
                            plan: ConnectionPlan {
                                path,
                                port: 0,
                                mx_host,
                                tls: crate::event::TlsUse::Off,
                                lmtp: false,
                                chunking: true,
                                relay: false,
                                dry: false,
                                timeouts: rules::Timeouts::default(),
                                rule: Arc::from(""),
                            },
                            permit: permit.id,
                            ready: false,
                            closing: false,
                            waiting: Vec::new(),
                            busy: false,
                        };
                        self.conversations.insert(connection, conversation);
                        Ok(())
                    }
                    PermitAnswer::Wait(wait) => Err(QuotaWait::from(&wait)),
                    PermitAnswer::Stale { .. } => panic!("stale"),
                };
                self.tell(Event::PermitAnswered { connection, answer });
            }
            Command::ReleasePermit { connection } => {
                let conversation = self.conversations.remove(&connection).expect("a permit");
                assert!(self.ledger.release_permit(self.now, self.owner, conversation.permit));
            }
            Command::AskTokens { path, mx_host, want, cap } => {
                let caps: Vec<_> =
                    cap.iter().map(|(id, limit)| (CapKey::Delivery(*id), *limit)).collect();
                let request =
                    TokenRequest { path, mx_host: &mx_host, want, source_limit: None, caps: &caps };
                let answer = match self.ledger.ask_tokens(self.now, &request) {
                    TokenAnswer::Granted(lot) => Ok(lot.into()),
                    TokenAnswer::Wait(wait) => Err(QuotaWait::from(&wait)),
                };
                self.tell(Event::TokensAnswered { path, cap: cap.map(|(id, _)| id), answer });
            }
            Command::GiveBack { lot, count } => {
                self.ledger.give_back(self.now, lot, count).expect("a lot in hand");
            }
            Command::Connect { connection, plan } => {
                let conversation = self.conversations.get_mut(&connection).expect("a permit");
                conversation.plan = *plan;
                self.later(self.set_up, Happening::Ready(connection));
            }
            Command::Send { connection, messages } => {
                let conversation = self.conversations.get_mut(&connection).expect("open");
                assert!(conversation.ready && !conversation.closing);
                conversation.waiting.extend(messages);
                if !conversation.busy {
                    self.begin(connection);
                }
            }
            Command::Close { connection } => {
                let conversation = self.conversations.get_mut(&connection).expect("open");
                conversation.closing = true;
                if conversation.ready && !conversation.busy {
                    self.end(connection, EndCause::Finished);
                }
            }
            Command::Recall { connection } => {
                let conversation = self.conversations.get_mut(&connection).expect("open");
                conversation.closing = true;
                let keep = usize::from(conversation.busy);
                let back: Vec<MessageDone> = conversation
                    .waiting
                    .drain(keep..)
                    .map(|assignment| not_tried(assignment.message.id))
                    .collect();
                if !back.is_empty() {
                    self.tell(Event::MessagesDone { connection, results: back });
                }
                let conversation = &self.conversations[&connection];
                if conversation.ready && !conversation.busy {
                    self.end(connection, EndCause::Finished);
                }
            }
            Command::KeepReactions(kept) => self.kept = *kept,
            Command::Settle(settled) => {
                for one in settled {
                    let row = self.rows.get_mut(&one.id).expect("known");
                    assert_eq!(row.state, RowState::Held, "{} is settled twice", one.id);
                    row.message.attempts = one.attempts;
                    row.state = match one.fate {
                        Fate::Final(state) => RowState::Final(state),
                        Fate::Requeued { due, pinned_source } => {
                            self.requeued += 1;
                            row.message.due = due;
                            row.message.pinned_source = pinned_source;
                            RowState::Queued
                        }
                    };
                }
            }
            Command::Record(attempts) => self.attempts.extend(attempts),
            Command::Expire { delivery, accepted_before } => {
                self.sweep(delivery, accepted_before, FinalState::Expired);
            }
            Command::CancelQueued { delivery } => self.sweep(delivery, None, FinalState::Cancelled),
            Command::StopDelivery { delivery, why, by } => {
                assert!(by.contains('@'), "a rule and its version: {by}");
                self.stopped.push((delivery, why));
                let stopped = self.deliveries.get_mut(&delivery).unwrap();
                stopped.state = DeliveryState::Paused;
                let changed = Event::DeliveryChanged(Box::new(stopped.clone()));
                self.tell(changed);
            }
            Command::Drained => self.drained = true,
        }
    }

    fn sweep(&mut self, delivery: DeliveryId, before: Option<Timestamp>, state: FinalState) {
        for row in self.rows.values_mut() {
            if row.message.delivery == delivery
                && row.state == RowState::Queued
                && before.is_none_or(|before| row.message.accepted_at < before)
            {
                row.state = RowState::Final(state);
            }
        }
        self.tell(Event::SweepDone { delivery, more: false });
    }

    fn claim(
        &mut self,
        domain: Box<str>,
        priority: Priority,
        deliveries: &[(DeliveryId, Option<MessageId>)],
        due_until: Timestamp,
        limit: u32,
    ) -> Event {
        self.claims += 1;
        self.most_claimed_from = self.most_claimed_from.max(deliveries.len());
        let mut messages = Vec::new();
        let mut next_due: Option<Timestamp> = None;
        let suffix = format!("@{domain}");
        for (delivery, through) in deliveries {
            assert_eq!(self.deliveries[delivery].options.priority, priority);
            if self.deliveries[delivery].state != DeliveryState::Running {
                continue;
            }
            for row in self.rows.values_mut() {
                let fits = row.message.delivery == *delivery
                    && row.state == RowState::Queued
                    && through.is_none_or(|through| row.message.id <= through)
                    && row.message.recipient.ends_with(&suffix);
                if !fits {
                    continue;
                }
                if row.message.due <= due_until && messages.len() < limit as usize {
                    row.state = RowState::Held;
                    messages.push(row.message.clone());
                } else {
                    let due = row.message.due;
                    next_due = Some(next_due.map_or(due, |before| before.min(due)));
                }
            }
        }
        Event::Claimed { domain, priority, messages, next_due }
    }

    /// The next message of a conversation, or its end.
    fn begin(&mut self, id: ConnectionId) {
        let conversation = self.conversations.get_mut(&id).expect("open");
        while let Some(next) = conversation.waiting.first() {
            if next.use_before > self.now {
                let plan = &conversation.plan;
                let message = &next.message;
                if !plan.dry {
                    let path = (plan.path.source, plan.path.target);
                    self.begun.push((self.now, path.0, path.1, message.id, message.delivery));
                }
                conversation.busy = true;
                return self.later(self.latency, Happening::Answer(id));
            }
            let late = conversation.waiting.remove(0);
            let results = vec![not_tried(late.message.id)];
            self.engine.handle(self.now, Event::MessagesDone { connection: id, results });
        }
        if conversation.closing {
            self.end(id, EndCause::Finished);
        }
    }

    fn end(&mut self, id: ConnectionId, cause: EndCause) {
        self.end_at(id, Stage::Idle, cause);
    }

    fn end_at(&mut self, id: ConnectionId, stage: Stage, cause: EndCause) {
        let conversation = self.conversations.get_mut(&id).expect("open");
        conversation.ready = false;
        let results: Vec<MessageDone> = conversation
            .waiting
            .drain(..)
            .map(|assignment| not_tried(assignment.message.id))
            .collect();
        if !results.is_empty() {
            self.tell(Event::MessagesDone { connection: id, results });
        }
        let end = SessionEnd { stage, cause };
        self.tell(Event::ConnectionClosed { connection: id, end });
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Claimed(event) => self.tell(event),
            Happening::Ready(id) => {
                let plan = self.conversations[&id].plan.clone();
                if let Err(cause) = (self.door)(self.now, &plan) {
                    return self.end(id, cause);
                }
                let conversation = self.conversations.get_mut(&id).expect("open");
                conversation.ready = true;
                if conversation.closing {
                    return self.end(id, EndCause::Finished);
                }
                self.tell(Event::ConnectionReady { connection: id });
            }
            Happening::Answer(id) => {
                let conversation = self.conversations.get_mut(&id).expect("open");
                conversation.busy = false;
                let assignment = conversation.waiting.remove(0);
                let plan = conversation.plan.clone();
                let answer = if plan.dry {
                    accept()
                } else {
                    (self.exchanger)(self.now, &plan, &assignment.message)
                };
                let mut begun_at =
                    (!plan.dry).then(|| Timestamp::from_micros(self.now.as_micros() - 1));
                let (result, cause) = match answer {
                    Answer::NotPrepared(why) => {
                        begun_at = None;
                        (DoneResult::PrepareLater { why }, None)
                    }
                    Answer::Reply(stage, reply) => {
                        (DoneResult::Verdict(verdict(stage, reply)), None)
                    }
                    Answer::Last(stage, reply) => {
                        let cause = EndCause::Refused { reply: reply.clone() };
                        (DoneResult::Verdict(verdict(stage, reply)), Some(cause))
                    }
                    Answer::End(cause) => (DoneResult::Verdict(Verdict::NotTried), Some(cause)),
                };
                let results = vec![MessageDone {
                    message: assignment.message.id,
                    started_at: begun_at,
                    result,
                }];
                self.tell(Event::MessagesDone { connection: id, results });
                match cause {
                    Some(cause @ (EndCause::Lost { .. } | EndCause::TimedOut)) => {
                        self.end_at(id, Stage::Content, cause);
                    }
                    Some(cause) => self.end(id, cause),
                    None => self.begin(id),
                }
            }
        }
    }

    /// Every message held by the engine, as the store sees it.
    pub(super) fn held(&self) -> usize {
        self.count(RowState::Held)
    }

    /// Sources that sent, with their counts.
    pub(super) fn per_source(&self) -> BTreeMap<u32, usize> {
        let mut counts = BTreeMap::new();
        for (_, source, ..) in &self.begun {
            *counts.entry(source.0).or_insert(0) += 1;
        }
        counts
    }

    pub(super) fn targets(&self) -> BTreeSet<String> {
        self.begun.iter().map(|(_, _, target, ..)| target.to_string()).collect()
    }
}

fn verdict(stage: Stage, reply: Reply) -> Verdict {
    if reply.code() / 100 == 2 {
        Verdict::Sent { reply }
    } else {
        Verdict::Refused { stage, reply }
    }
}

/// Bounce rules of the tests' own: they do not follow the shipped data.
fn bounce_rules() -> std::sync::Arc<rules::bounce::BounceRules> {
    let text = r#"
        schema_version = 1
        version = "test"
        [[rule]]
        name = "unknown"
        text = ["user unknown"]
        reason = "User unknown"
        matches = ["550 5.1.1 user unknown"]
        matches_not = ["552 mailbox full"]
        [[rule]]
        name = "full"
        text = ["mailbox full"]
        reason = "Mailbox full"
        matches = ["552 mailbox full"]
        matches_not = ["550 user unknown"]
        [[rule]]
        name = "listed"
        text = ["is blocked here"]
        reason = "Refused"
        action = "other-path"
        matches = ["550 192.0.2.1 is blocked here"]
        matches_not = ["550 user unknown"]
        [[rule]]
        name = "unauthenticated"
        text = ["unauthenticated"]
        reason = "Refused"
        action = "stop-delivery"
        matches = ["550 5.7.26 unauthenticated"]
        matches_not = ["550 user unknown"]
    "#;
    let file = rules::bounce::BounceRuleFile::parse("test.toml", text.as_bytes()).unwrap();
    std::sync::Arc::new(rules::bounce::BounceRules::compile(&file))
}
