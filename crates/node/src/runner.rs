//! The one loop that lets the engine decide and carries its commands out.
//!
//! **Promise.** Everything the engine asks for is done or answered; every command that changes something durable is
//! repeated until it is durable. Tokens and permits reach the engine only after the ledger's journal is on disk.
//!
//! **How.** A thread of its own takes a batch of what happened, hands it to the engine with one time, lets it decide,
//! and carries the commands out: the store's through its writer, look-ups and conversations as tasks of the
//! runtime. Nothing on this thread waits for a disk or a network; where events come thick it rests for a moment
//! (`rest`) and decides about them together.
//!
//! **Ending.** [`Running::shutdown`] drains: conversations finish what is in flight, the rest goes back to the queue.
//! Those that have not come to an end when the patience is over are broken off; their messages stay claimed, and
//! the next start puts them back into the queue.

pub(crate) mod connections;
pub mod contents;
pub mod delivery_log;
pub(crate) mod journal;
pub(crate) mod ledger;
mod rest;
mod sweeping;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::Engine;
use engine::event::{Command, Event};
use engine::reactions::KeptReactions;
use engine::warm_up::Day;
use engine::work::{Attempt, DeliveryState, Fate, FinalState, QueuedMessage, Settled};
use mail::id::DeliveryId;
use mail::time::Timestamp;
use rules::RuleSet;
use rules::bounce::BounceRules;
use rules::reaction::ReactionRules;
use store::{
    ClaimFrom, ClaimRequest, DomainId, StoreFault, Sweep, Write, WriterHandle, Written, kill_point,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::alerts::{self, Alert, Alerts};
use crate::clock::SteadyClock;
use crate::dns::Resolver;
use crate::nondeliverables::{Admission, Heard, Recorder, heard};
use crate::reactions;
use crate::smtp_client::ConnectionReport;
use crate::warm_up::TallyBook;
use connections::Connections;
use contents::Contents;
use delivery_log::DeliveryLog;
use ledger::LedgerDesk;
use rest::Rest;
use sweeping::sweep_of;

/// Events handled before the engine decides.
const BATCH_MAX: usize = 4_096;

/// How long a part is leased; renewed at a third of it.
pub(crate) const PART_LEASE: Duration = Duration::from_secs(60);

/// How long an idempotency key is remembered.
const ONCE_KEPT: Duration = Duration::from_secs(7 * 86_400);

/// Pause before something that the store refused is tried again.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// Domain numbers remembered.
const DOMAIN_IDS_MAX: usize = 500_000;

/// A question to the engine and the ledger, answered on their thread.
pub(crate) type Question = Box<dyn FnOnce(&View<'_>) + Send>;

/// What a question may look at.
pub struct View<'a> {
    /// The engine.
    pub engine: &'a Engine,
    /// The ledger.
    pub ledger: &'a quota::Ledger,
    /// Now.
    pub now: Timestamp,
}

/// What reaches the loop.
pub(crate) enum Input {
    /// Something happened.
    Event(Event),
    /// Messages were committed to the queue.
    Queued { delivery: DeliveryId, domains: Vec<store::TouchedDomain> },
    /// Domains with queued mail, found by a scan.
    DueFound { domains: Vec<store::DueDomain>, limit: usize },
    /// A claim was answered.
    Claimed { domain: Box<str>, priority: mail::id::Priority, answer: Result<Written, StoreFault> },
    /// What attempts said of their recipients is durable: now their outcomes may be.
    Recorded(Vec<Settled>),
    /// A settlement was answered.
    Settled { settled: Vec<Settled>, answer: Result<Written, StoreFault> },
    /// The store has answered about reactions to be kept.
    ReactionsKept { answer: Result<Written, StoreFault> },
    /// The ledger's journal is durable up to this batch, or not.
    JournalDone { batch: u64, answer: Result<(), StoreFault> },
    /// A step of a sweep was answered.
    Swept { sweep: Sweep, cancel: bool, answer: Result<Written, StoreFault> },
    /// A delivery is to be read again from the store.
    DeliveryTouched(DeliveryId),
    /// Conversations finish within this time, nothing new is begun.
    Drain(Duration),
    /// Other rules are in force, of all kinds that the loop knows.
    InForce {
        /// MX rules.
        mx: Arc<RuleSet>,
        /// Bounce rules.
        bounce: Arc<BounceRules>,
        /// Reaction rules.
        reaction: Arc<ReactionRules>,
    },
    /// Other caps of warm-up are in force.
    WarmUp(Arc<quota::WarmUpCaps>),
    /// Somebody complained about mail to this domain.
    Complained(Box<str>),
    /// Somebody wants to know something.
    Ask(Question),
}

/// Everything the loop needs.
pub(crate) struct Runner {
    pub(crate) engine: Engine,
    pub(crate) ledger: LedgerDesk,
    pub(crate) clock: Arc<SteadyClock>,
    pub(crate) writer: WriterHandle,
    pub(crate) contents: Arc<Contents>,
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) connections: Connections,
    pub(crate) log: DeliveryLog,
    pub(crate) admission: Arc<Admission>,
    pub(crate) recorder: Recorder,
    pub(crate) tallies: Arc<TallyBook>,
    pub(crate) inputs: mpsc::UnboundedSender<Input>,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) counts: Arc<Counts>,
    pub(crate) domain_ids: HashMap<Box<str>, DomainId>,
    /// Reactions as the engine last wanted them kept.
    pub(crate) reactions: KeptReactions,
    /// Whether the store has taken them, or is about to.
    pub(crate) reactions_kept: bool,
    pub(crate) alerts: Alerts,
    /// Outcomes that the store has refused and that must not be lost.
    pub(crate) unsettled: Vec<Vec<Settled>>,
    /// What attempts said whose outcomes come next.
    pub(crate) heard: Vec<Heard>,
    /// Outcomes that wait for the evidence that goes before them.
    pub(crate) with_recorder: usize,
    pub(crate) store_sick: bool,
    pub(crate) drained: bool,
    /// Conversations are broken off then; `None`: nobody has asked for the end.
    pub(crate) drain_until: Option<Timestamp>,
}

/// Counts of the loop, for metrics.
#[derive(Debug, Default)]
pub struct Counts {
    /// Attempts by outcome.
    pub sent: core::sync::atomic::AtomicU64,
    /// Refused for good.
    pub failed: core::sync::atomic::AtomicU64,
    /// Put off.
    pub deferred: core::sync::atomic::AtomicU64,
    /// Expired or cancelled.
    pub ended: core::sync::atomic::AtomicU64,
    /// Connections begun.
    pub connections: core::sync::atomic::AtomicU64,
    /// Conversations that failed.
    pub sessions_failed: core::sync::atomic::AtomicU64,
}

/// The running loop.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) inputs: mpsc::UnboundedSender<Input>,
    /// Cancelled when the thread has ended, however it ended.
    pub(crate) over: CancellationToken,
    thread: std::thread::JoinHandle<()>,
}

impl Running {
    /// Starts the thread of the loop.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn start(
        runner: Runner,
        inputs: mpsc::UnboundedReceiver<Input>,
        reports: mpsc::UnboundedReceiver<ConnectionReport>,
    ) -> std::io::Result<Self> {
        let sender = runner.inputs.clone();
        let over = CancellationToken::new();
        let guard = over.clone().drop_guard();
        let thread = std::thread::Builder::new().name("engine".into()).spawn(move || {
            let _guard = guard;
            let local = tokio::runtime::Builder::new_current_thread().enable_time().build();
            match local {
                Ok(local) => local.block_on(runner.run(inputs, reports)),
                Err(fault) => tracing::error!(%fault, "the engine's loop cannot start"),
            }
        })?;
        Ok(Self { inputs: sender, over, thread })
    }

    /// Drains and ends the loop. Blocks until the last conversation is over.
    pub(crate) fn shutdown(self, patience: Duration) {
        // When the loop has ended by itself there is nobody to tell.
        let _ = self.inputs.send(Input::Drain(patience));
        if self.thread.join().is_err() {
            tracing::error!("the engine's loop has panicked; the queue is as of its last commit");
        }
    }
}

/// Asks the engine something and waits for the answer.
pub(crate) async fn ask<T: Send + 'static>(
    inputs: &mpsc::UnboundedSender<Input>,
    question: impl FnOnce(&View<'_>) -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    let question: Question = Box::new(move |view| {
        // Who asked may have gone.
        let _ = sender.send(question(view));
    });
    inputs.send(Input::Ask(question)).ok()?;
    receiver.await.ok()
}

impl Runner {
    async fn run(
        mut self,
        mut inputs: mpsc::UnboundedReceiver<Input>,
        mut reports: mpsc::UnboundedReceiver<ConnectionReport>,
    ) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut reported = Vec::with_capacity(BATCH_MAX);
        self.turn();
        let (mut woken, mut rest) = (Instant::now(), Rest::default());
        while !self.drained && !self.out_of_patience() {
            // Before it waits: who sends something meanwhile has nobody to wake.
            if let Some(pause) = rest.pause() {
                std::thread::sleep(pause);
            }
            let wake = self.next_wake();
            let sleep = tokio::time::sleep(wake);
            tokio::select! {
                count = inputs.recv_many(&mut batch, BATCH_MAX) => if count == 0 { break },
                count = reports.recv_many(&mut reported, BATCH_MAX) => if count == 0 { break },
                () = sleep => {}
            }
            // What both channels hold by now belongs to the same decision.
            while batch.len() < BATCH_MAX
                && let Ok(input) = inputs.try_recv()
            {
                batch.push(input);
            }
            while reported.len() < BATCH_MAX
                && let Ok(report) = reports.try_recv()
            {
                reported.push(report);
            }
            rest.woken(woken.elapsed(), batch.len() + reported.len());
            woken = Instant::now();
            let now = self.clock.now();
            for report in reported.drain(..) {
                let (before, event) = self.connections.events_of(report);
                for event in before.into_iter().chain([event]) {
                    self.engine.handle(now, event);
                }
            }
            for input in batch.drain(..) {
                self.take(now, input);
            }
            self.turn();
        }
        self.finish(&mut inputs).await;
    }

    /// How long nothing needs to be done if nothing happens.
    fn next_wake(&self) -> Duration {
        let now = self.clock.now();
        let engine = self.engine.wake_at().unwrap_or(Timestamp::NEVER);
        let wake =
            engine.min(self.ledger.next_chore()).min(self.drain_until.unwrap_or(Timestamp::NEVER));
        wake.since(now).clamp(Duration::from_micros(200), Duration::from_secs(1))
    }

    /// Whether the node is to end and has waited long enough for its conversations.
    fn out_of_patience(&self) -> bool {
        let over = self.drain_until.is_some_and(|until| self.clock.now() >= until);
        if over {
            let open = self.connections.count();
            tracing::warn!(open, "conversations that do not end are broken off");
        }
        over
    }

    /// Decides and carries out until there is nothing more to do.
    fn turn(&mut self) {
        loop {
            let now = self.clock.now();
            if self.ledger.chores(now, &self.clock) {
                self.writer_renew(now);
            }
            self.engine.decide(now);
            let mut any = false;
            while let Some(command) = self.engine.next_command() {
                any = true;
                self.carry_out(now, command);
            }
            self.conclude(now, Vec::new());
            for event in self.ledger.answers_without_record() {
                self.engine.handle(now, event);
                any = true;
            }
            if !any {
                break;
            }
        }
        self.ledger.make_durable(&self.writer, &self.inputs);
    }

    fn writer_renew(&self, now: Timestamp) {
        let reply = Box::new(|answer: Result<Written, StoreFault>| {
            if let Err(fault) = answer {
                tracing::warn!(%fault, "the leases of parts could not be renewed");
            }
        });
        // A full channel means that the store is busy with newer things; the next renewal comes in time.
        let _ = self.writer.try_send(Write::RenewLeases { until: now + PART_LEASE }, reply);
        let before = now.saturating_sub(ONCE_KEPT);
        let _ = self.writer.try_send(Write::PruneOnce { before }, Box::new(drop));
        for prune in self.ledger.prunable(now) {
            let _ = self.writer.try_send(prune, Box::new(drop));
        }
    }

    fn take(&mut self, now: Timestamp, input: Input) {
        match input {
            Input::Event(event) => self.engine.handle(now, event),
            Input::Queued { delivery, domains } => {
                let names = domains.iter().map(|domain| Box::from(&*domain.name)).collect();
                for domain in &domains {
                    self.remember_domain(&domain.name, domain.id);
                }
                self.engine.handle(now, Event::Queued { delivery, due: now, domains: names });
            }
            Input::DueFound { domains, limit } => self.due_found(now, domains, limit),
            Input::Claimed { domain, priority, answer } => {
                let (messages, next_due) = match answer {
                    Ok(Written::Claimed(claimed)) => (claimed.messages, claimed.next_due),
                    Ok(other) => {
                        tracing::error!(?other, %domain, "the store answered a claim with something else");
                        (Vec::new(), Some(now + STORE_RETRY))
                    }
                    Err(fault) => {
                        self.store_failed(now, &fault);
                        (Vec::new(), Some(now + STORE_RETRY))
                    }
                };
                let messages = self.withdraw(now, messages);
                let event = Event::Claimed { domain, priority, messages, next_due };
                self.engine.handle(now, event);
            }
            Input::Recorded(settled) => self.recorded(settled),
            Input::Settled { settled, answer } => self.settled(now, settled, answer),
            Input::ReactionsKept { answer } => {
                if let Err(fault) = answer {
                    self.reactions_kept = false;
                    self.store_failed(now, &fault);
                }
            }
            Input::JournalDone { batch, answer } => {
                if let Err(fault) = &answer {
                    let fault = fault.clone();
                    self.store_failed(now, &fault);
                }
                for event in self.ledger.recorded(now, batch, answer.is_ok()) {
                    self.engine.handle(now, event);
                }
            }
            Input::Swept { sweep, cancel, answer } => self.swept(now, sweep, cancel, answer),
            Input::DeliveryTouched(id) => self.delivery_touched(now, id),
            Input::Drain(patience) => {
                self.drain_until = Some(now + patience);
                self.engine.handle(now, Event::Drain);
            }
            Input::InForce { mx, bounce, reaction } => {
                self.ledger.replace_rules(now, Arc::clone(&mx));
                self.engine.handle(now, Event::RulesReplaced(mx));
                self.engine.handle(now, Event::BounceRulesReplaced(bounce));
                self.engine.handle(now, Event::ReactionRulesReplaced(reaction));
            }
            Input::WarmUp(caps) => {
                self.ledger.replace_warm_up(now, caps);
                // What waits for the old caps asks again.
                let rules = Arc::clone(self.engine.rules());
                self.engine.handle(now, Event::RulesReplaced(rules));
            }
            Input::Complained(domain) => self.complained(now, domain),
            Input::Ask(question) => {
                question(&View { engine: &self.engine, ledger: self.ledger.ledger(), now });
            }
        }
    }

    /// Ends claimed messages whose recipients may not be written to any more, and gives back the others.
    fn withdraw(&mut self, now: Timestamp, messages: Vec<QueuedMessage>) -> Vec<QueuedMessage> {
        let (mut settled, mut attempts) = (Vec::new(), Vec::new());
        let mut kept = Vec::with_capacity(messages.len());
        for message in messages {
            let Some(why) = self.admission.withdraw(&message.recipient) else {
                kept.push(message);
                continue;
            };
            let fate = Fate::Final(FinalState::Failed);
            settled.push(Settled {
                id: message.id,
                delivery: message.delivery,
                fate,
                attempts: message.attempts,
                last_reply: why.as_str().into(),
                at: now,
            });
            attempts.push(Attempt {
                source: None,
                target: None,
                mx_host: Arc::from(""),
                rule: Arc::from(""),
                rules_version: self.engine.rules().version(),
                number: message.attempts,
                started_at: None,
                ended_at: now,
                verdict: None,
                note: why.into(),
                judgement: None,
                reaction: None,
                fate,
                message: Arc::new(message),
            });
        }
        if !settled.is_empty() {
            self.settle(settled);
            self.record(attempts);
        }
        kept
    }

    /// Counts attempts, and lets everybody have them who keeps account.
    fn record(&mut self, attempts: Vec<Attempt>) {
        self.counts.count(&attempts);
        let mode = |attempt: &Attempt| self.engine.mode_of(attempt.message.delivery);
        let heard = attempts.iter().filter_map(|attempt| heard(attempt, mode(attempt)));
        self.heard.extend(heard);
        self.tallies.count(&attempts, self.engine.rules(), mode);
        self.log.record(attempts);
    }

    /// Has outcomes made durable; that of a refusal which speaks of its recipient only after this evidence, so that a
    /// crash in between repeats the attempt and loses nothing.
    fn conclude(&mut self, now: Timestamp, mut settled: Vec<Settled>) {
        let heard = core::mem::take(&mut self.heard);
        let refused: HashSet<_> = heard.iter().filter_map(Heard::evidence_of).collect();
        let mut later = Vec::new();
        if !refused.is_empty() {
            // What may be claimed again at once must be in the queue before the next claim.
            let waits = |one: &mut Settled| match one.fate {
                Fate::Final(_) => refused.contains(&one.id),
                Fate::Requeued { due, .. } => due > now && refused.contains(&one.id),
            };
            later = settled.extract_if(.., waits).collect();
        }
        let waiting = later.len();
        match self.recorder.hand(heard, later) {
            Ok(()) => {
                kill_point::pass("outcome", "evidence-handed");
                self.with_recorder += waiting;
            }
            Err(later) => settled.extend(later),
        }
        if !settled.is_empty() {
            self.settle(settled);
        }
    }

    /// The evidence that goes before these outcomes is durable.
    fn recorded(&mut self, settled: Vec<Settled>) {
        kill_point::pass("outcome", "evidence-durable");
        self.with_recorder = self.with_recorder.saturating_sub(settled.len());
        self.settle(settled);
    }

    /// Counts a complaint at the rule that governs mail to a domain, looking its route up if need be.
    fn complained(&self, now: Timestamp, domain: Box<str>) {
        let (tallies, day) = (Arc::clone(&self.tallies), Day::of(now));
        if let Some(path) = self.engine.paths_of(&domain, now).first() {
            tallies.complained(&path.rule, day);
            return;
        }
        let (resolver, rules) = (Arc::clone(&self.resolver), Arc::clone(self.engine.rules()));
        self.runtime.spawn(async move {
            let Ok(route) = resolver.route(&domain, now).await.0 else { return };
            if let Some(host) = route.hosts.first() {
                let rule = rules.find(&host.name, mail::id::SourceId(0));
                tallies.complained(&rules.rule(rule).name, day);
            }
        });
    }

    fn remember_domain(&mut self, name: &str, id: DomainId) {
        if self.domain_ids.contains_key(name) {
            return;
        }
        if self.domain_ids.len() >= DOMAIN_IDS_MAX {
            // They are asked for again one by one.
            self.domain_ids.clear();
        }
        self.domain_ids.insert(name.into(), id);
    }

    fn due_found(&mut self, now: Timestamp, domains: Vec<store::DueDomain>, limit: usize) {
        let next = (domains.len() >= limit)
            .then(|| domains.last().map(|domain| u64::from(domain.id.0)))
            .flatten();
        let mut found = Vec::with_capacity(domains.len());
        for domain in domains {
            self.remember_domain(&domain.name, domain.id);
            let due = domain.deliveries.iter().map(|due| (due.delivery, due.earliest));
            if let Some(earliest) = self.engine.earliest_due(now, due) {
                found.push((domain.name, earliest));
            }
        }
        self.engine.handle(now, Event::DueFound { domains: found, next });
    }

    // ------------------------------------------------------------------ the store

    /// The store does not commit: nothing is delivered until it does.
    fn store_failed(&mut self, now: Timestamp, fault: &StoreFault) {
        if !core::mem::replace(&mut self.store_sick, true) {
            tracing::error!(%fault, "the store cannot commit; delivery stops until it can");
            self.engine.handle(now, Event::StoreSick(true));
            self.retry_later();
        }
    }

    /// Looks after the store again in a moment.
    fn retry_later(&self) {
        let (writer, inputs) = (self.writer.clone(), self.inputs.clone());
        self.runtime.spawn(async move {
            loop {
                tokio::time::sleep(STORE_RETRY).await;
                if writer.health() == store::Health::Healthy {
                    // The loop may have ended.
                    let _ = inputs.send(Input::Event(Event::StoreSick(false)));
                    let probe = Input::Settled { settled: Vec::new(), answer: Ok(Written::Done) };
                    let _ = inputs.send(probe);
                    return;
                }
            }
        });
    }

    fn settle(&mut self, settled: Vec<Settled>) {
        kill_point::pass("outcome", "before-settlement");
        let inputs = self.inputs.clone();
        let kept = settled.clone();
        let reply = Box::new(move |answer| {
            let _ = inputs.send(Input::Settled { settled: kept, answer });
        });
        self.writer.send(Write::Settle(settled), reply);
    }

    fn settled(
        &mut self,
        now: Timestamp,
        settled: Vec<Settled>,
        answer: Result<Written, StoreFault>,
    ) {
        match answer {
            Ok(Written::Settled(report)) => {
                kill_point::pass("outcome", "settled");
                self.connections.settled(&settled);
                for message in &report.late {
                    tracing::warn!(%message, "an outcome came too late: the message was taken over");
                }
                for delivery in report.finished {
                    self.delivery_touched(now, delivery);
                }
                self.recovered(now);
            }
            Ok(_) => self.recovered(now),
            Err(fault) => {
                self.unsettled.push(settled);
                self.store_failed(now, &fault);
            }
        }
    }

    /// The store works again: what it refused is handed in again.
    fn recovered(&mut self, now: Timestamp) {
        if !core::mem::replace(&mut self.reactions_kept, true) {
            self.write_reactions();
        }
        if !core::mem::take(&mut self.store_sick) && self.unsettled.is_empty() {
            return;
        }
        self.engine.handle(now, Event::StoreSick(false));
        for settled in core::mem::take(&mut self.unsettled) {
            self.settle(settled);
        }
    }

    /// Tells the engine what the store holds of a delivery.
    fn delivery_touched(&mut self, now: Timestamp, id: DeliveryId) {
        match self.contents.read(|reads| reads.delivery(id)) {
            Ok(Some(record)) => {
                if record.delivery.state != DeliveryState::Paused {
                    self.alerts.clear(alerts::DELIVERY_STOPPED, &id.to_string());
                }
                let event = Event::DeliveryChanged(Box::new(record.delivery));
                self.engine.handle(now, event);
            }
            Ok(None) => tracing::error!(delivery = %id, "a delivery is missing in the store"),
            Err(fault) => {
                self.store_failed(now, &fault);
                let inputs = self.inputs.clone();
                self.runtime.spawn(async move {
                    tokio::time::sleep(STORE_RETRY).await;
                    let _ = inputs.send(Input::DeliveryTouched(id));
                });
            }
        }
    }

    // ------------------------------------------------------------------ commands

    fn carry_out(&mut self, now: Timestamp, command: Command) {
        match command {
            Command::FindDue { after, limit } => self.find_due(after, limit),
            Command::Claim { domain, priority, deliveries, due_until, limit } => {
                self.claim(now, domain, priority, &deliveries, due_until, limit);
            }
            Command::FindRoute { domain } => self.find_route(domain),
            Command::AskPermit { connection, path, mx_host } => {
                self.ledger.ask_permit(now, connection, path, &mx_host);
            }
            Command::ReleasePermit { connection } => self.ledger.release_permit(now, connection),
            Command::AskTokens { path, mx_host, want, cap } => {
                self.ledger.ask_tokens(now, path, &mx_host, want, cap);
            }
            Command::GiveBack { lot, count } => self.ledger.give_back(now, lot, count),
            Command::Connect { connection, plan } => {
                Counts::add(&self.counts.connections, 1);
                self.connections.connect(connection, &plan);
            }
            Command::Send { connection, messages } => {
                self.connections.send(connection, messages);
            }
            Command::Close { connection } => self.connections.close(connection),
            Command::Recall { connection } => self.connections.recall(connection),
            Command::KeepReactions(kept) => self.keep_reactions(*kept),
            Command::Settle(settled) => self.conclude(now, settled),
            Command::Record(attempts) => self.record(attempts),
            Command::Expire { delivery, accepted_before } => {
                self.expire(now, delivery, accepted_before);
            }
            Command::CancelQueued { delivery } => {
                self.sweep(sweep_of(delivery, None, now, "cancelled"), true);
            }
            Command::StopDelivery { delivery, why, by } => {
                self.stop_delivery(now, delivery, &why, &by);
            }
            Command::Drained => self.drained = true,
        }
    }

    /// Pauses a delivery that servers refuse for a fault of its own. A fault of the store changes nothing: the engine
    /// asks again after the next refusals.
    fn stop_delivery(&mut self, now: Timestamp, delivery: DeliveryId, why: &str, by: &str) {
        self.alerts.raise(Alert {
            code: alerts::DELIVERY_STOPPED.into(),
            key: delivery.to_string(),
            words: format!("servers refuse delivery {delivery} for its own fault; it is paused by reaction rule {by}"),
            evidence: why.to_owned(),
            since: now,
        });
        let inputs = self.inputs.clone();
        let reply = Box::new(move |_| {
            let _ = inputs.send(Input::DeliveryTouched(delivery));
        });
        let write = Write::SetState {
            delivery,
            state: DeliveryState::Paused,
            who: "mailweir".into(),
            why: format!("servers refuse it for its own fault (reaction rule {by}): {why}").into(),
            at: now,
        };
        self.writer.send(write, reply);
    }

    /// Reactions have begun, changed or ended.
    fn keep_reactions(&mut self, kept: KeptReactions) {
        reactions::tell(&self.reactions, &kept);
        self.alerts.replace(alerts::REACTION, reactions::alerts(&kept));
        self.reactions = kept;
        self.write_reactions();
    }

    fn write_reactions(&self) {
        let inputs = self.inputs.clone();
        let reply = Box::new(move |answer| {
            let _ = inputs.send(Input::ReactionsKept { answer });
        });
        self.writer.send(reactions::write(&self.reactions), reply);
    }

    fn find_due(&self, after: u64, limit: usize) {
        let (contents, inputs) = (Arc::clone(&self.contents), self.inputs.clone());
        self.runtime.spawn_blocking(move || {
            let after = DomainId(u32::try_from(after).unwrap_or(u32::MAX));
            let count = u32::try_from(limit).unwrap_or(u32::MAX);
            loop {
                match contents.read(|reads| reads.due_domains(after, count)) {
                    Ok(domains) => {
                        let _ = inputs.send(Input::DueFound { domains, limit });
                        return;
                    }
                    Err(fault) => {
                        tracing::warn!(%fault, "the queue cannot be read; trying again");
                        if inputs.is_closed() {
                            return;
                        }
                        std::thread::sleep(STORE_RETRY);
                    }
                }
            }
        });
    }

    fn claim(
        &mut self,
        now: Timestamp,
        domain: Box<str>,
        priority: mail::id::Priority,
        deliveries: &[(DeliveryId, Option<mail::id::MessageId>)],
        due_until: Timestamp,
        limit: u32,
    ) {
        let id = match self.domain_ids.get(&domain) {
            Some(id) => Some(*id),
            None => match self.contents.read(|reads| reads.domain(&domain)) {
                Ok(id) => id,
                Err(fault) => {
                    let answer = Err(fault);
                    return self.take(now, Input::Claimed { domain, priority, answer });
                }
            },
        };
        let Some(id) = id else {
            // Nothing was ever queued for it.
            let event = Event::Claimed { domain, priority, messages: Vec::new(), next_due: None };
            return self.engine.handle(now, event);
        };
        let deliveries = deliveries
            .iter()
            .map(|(delivery, through)| ClaimFrom {
                delivery: *delivery,
                through: *through,
                at_most: None,
            })
            .collect();
        let request = ClaimRequest {
            domain: id,
            deliveries,
            due_until,
            limit,
            lease_until: now + PART_LEASE,
        };
        let inputs = self.inputs.clone();
        let reply = Box::new(move |answer| {
            let _ = inputs.send(Input::Claimed { domain, priority, answer });
        });
        self.writer.send(Write::Claim(request), reply);
    }

    fn find_route(&self, domain: Box<str>) {
        let (resolver, clock, inputs) =
            (Arc::clone(&self.resolver), Arc::clone(&self.clock), self.inputs.clone());
        self.runtime.spawn(async move {
            let (route, _) = resolver.route(&domain, clock.now()).await;
            let route = route.map(Arc::new);
            let _ = inputs.send(Input::Event(Event::RouteFound { domain, route }));
        });
    }

    /// After the last decision: what is still to be written is written.
    async fn finish(mut self, inputs: &mut mpsc::UnboundedReceiver<Input>) {
        self.connections.break_off();
        let patience = tokio::time::Instant::now() + Duration::from_secs(10);
        while self.with_recorder > 0 {
            match tokio::time::timeout_at(patience, inputs.recv()).await {
                Ok(Some(Input::Recorded(settled))) => self.recorded(settled),
                Ok(Some(Input::Settled { settled, answer: Err(_) })) => {
                    self.unsettled.push(settled)
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => {
                    let waiting = self.with_recorder;
                    tracing::error!(
                        waiting,
                        "evidence cannot be stored; these messages are tried again"
                    );
                    break;
                }
            }
        }
        while !self.unsettled.is_empty() && tokio::time::Instant::now() < patience {
            for settled in core::mem::take(&mut self.unsettled) {
                match self.writer.apply(Write::Settle(settled.clone())) {
                    Ok(_) => {}
                    Err(fault) => {
                        tracing::error!(%fault, "outcomes cannot be stored; trying again");
                        self.unsettled.push(settled);
                    }
                }
            }
            if !self.unsettled.is_empty() {
                tokio::time::sleep(STORE_RETRY).await;
            }
        }
        inputs.close();
        self.ledger.at_the_end(&self.writer, self.clock.now(), &self.clock);
    }
}

impl Counts {
    fn add(counter: &core::sync::atomic::AtomicU64, count: u64) {
        counter.fetch_add(count, core::sync::atomic::Ordering::Relaxed);
    }

    fn count(&self, attempts: &[engine::work::Attempt]) {
        use engine::work::{Fate, FinalState};
        for attempt in attempts {
            let counter = match attempt.fate {
                Fate::Final(FinalState::Sent) => &self.sent,
                Fate::Final(FinalState::Failed) => &self.failed,
                Fate::Final(_) => &self.ended,
                Fate::Requeued { .. } => &self.deferred,
            };
            Self::add(counter, 1);
        }
    }
}
