//! What the shell of a node does, in this world: commits, connections, octets, and what is handed in.

use core::time::Duration;
use std::sync::Arc;

use engine::event::{QuotaLimit, QuotaWait};
use engine::quarantine::{Author, Deed as LedgerDeed, LedgerWrite};
use engine::work::{DeliveryState, Fate, FinalState, QueuedMessage, Settled};
use engine::{Command, Event};
use mail::attempt::EndCause;
use mail::id::{ConnectionId, DeliveryId, MessageId};
use mail::time::Timestamp;
use quota::{CapKey, Lot, PermitAnswer, PermitRequest, SavedClock, TokenAnswer, TokenRequest};
use store::{
    ClaimFrom, ClaimRequest, ContentKind, DomainId, MessageRecord, NewContent, NewRecipient,
    Store as _, Sweep, Write, Written,
};

use crate::audit::Entry;
use crate::fleet::Output;
use crate::node::{Conversation, Node, Request};
use crate::plan::Zone;
use crate::sabotage::Sabotage;
use crate::world::{Step, World};

/// How long the store holds what was claimed: longer than any life, as there is no other node.
const CLAIM_LEASE: Duration = Duration::from_secs(30 * 86_400);

/// Permits are renewed so often.
const RENEWAL: Duration = Duration::from_secs(10);

/// Messages ended by one sweep: few, so that sweeps take several steps.
const SWEEP_MESSAGES: u32 = 25;

/// Parts of a reply that drips, at most.
const DRIPS: usize = 6;

/// A full disk is looked at again so often.
const STORE_RETRY: Duration = Duration::from_secs(1);

impl World {
    pub(crate) fn carry_out(&mut self, command: Command, answers: &mut Vec<Event>) {
        match command {
            Command::FindDue { after, limit } => {
                let event = self.find_due(after, limit);
                let life = self.life;
                self.after(Duration::from_millis(1), Step::Answers(life, vec![event]));
            }
            Command::FindRoute { domain } => {
                let slow = self.slowness_of(&domain);
                let route = self.resolve(&domain);
                let event = Event::RouteFound { domain, route };
                let (life, took) = (self.life, self.chance.between(1, slow));
                self.after(Duration::from_millis(took), Step::Answers(life, vec![event]));
            }
            Command::Claim { domain, priority, deliveries, due_until, limit } => {
                let number = self.disk.store.reads().domain(&domain).ok().flatten();
                let from = |(delivery, through)| ClaimFrom { delivery, through, at_most: None };
                let asked = ClaimRequest {
                    domain: number.unwrap_or_default(),
                    deliveries: deliveries.into_iter().map(from).collect(),
                    due_until,
                    limit,
                    lease_until: due_until + CLAIM_LEASE,
                };
                self.request(Request::Claim { asked, domain, priority });
            }
            Command::Settle(settled) => self.request(Request::Settle(settled)),
            Command::Expire { delivery, accepted_before: None } => self.sweep(delivery, true, None),
            Command::Expire { delivery, accepted_before: Some(before) } => {
                match self.disk.store.reads().newest_accepted_before(before) {
                    Ok(Some(through)) => self.sweep(delivery, true, Some(through)),
                    _ => answers.push(Event::SweepDone { delivery, more: false }),
                }
            }
            Command::CancelQueued { delivery } => self.sweep(delivery, false, None),
            Command::StopDelivery { delivery, .. } => {
                let number = self.deliveries.iter().find(|(_, id)| **id == delivery);
                if let Some(number) = number.map(|(number, _)| *number) {
                    self.set_state(number, DeliveryState::Paused);
                }
            }
            Command::AskPermit { connection, path, mx_host } => {
                let answer = self.ask_permit(connection, path, &mx_host);
                answers.push(Event::PermitAnswered { connection, answer });
            }
            Command::ReleasePermit { connection } => self.release_permit(connection),
            Command::AskTokens { path, mx_host, want, cap } => {
                let answer = self.ask_tokens(path, &mx_host, want, cap);
                let cap = cap.map(|(delivery, _)| delivery);
                answers.push(Event::TokensAnswered { path, cap, answer });
            }
            Command::GiveBack { lot, count } => self.give_back(lot, count),
            Command::Connect { connection, plan } => self.begin_connect(connection, plan),
            Command::Send { connection, messages } => {
                let Some(node) = &mut self.node else { return };
                let Some(conversation) = node.conversations.get_mut(&connection) else { return };
                conversation.send(messages);
                if conversation.plan.as_ref().is_some_and(|plan| plan.dry) {
                    let event = conversation.send_dry(connection);
                    let life = self.life;
                    self.after(Duration::from_millis(1), Step::Answers(life, vec![event]));
                } else {
                    self.drive(connection);
                }
            }
            Command::Close { connection } => self.close(connection),
            Command::Recall { connection } => self.recall(connection),
            Command::KeepReactions(kept) => self.request(Request::Keep(kept)),
            Command::Record(attempts) => {
                self.judge.recorded(self.now, &attempts);
                self.delivery_log.extend(attempts.iter().filter_map(|attempt| {
                    Some(Entry {
                        started_micros: attempt.started_at?.as_micros(),
                        source: attempt.source?.0,
                        target: attempt.target?,
                        rule: attempt.rule.to_string(),
                    })
                }));
            }
            Command::Drained => {
                if let Some(node) = &mut self.node {
                    node.drained = true;
                }
            }
        }
    }

    // ------------------------------------------------------------------ store

    fn find_due(&self, after: u64, limit: usize) -> Event {
        let reads = self.disk.store.reads();
        let after = DomainId(u32::try_from(after).unwrap_or(u32::MAX));
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let due = reads.due_domains(after, limit).unwrap_or_default();
        let full = due.len() == limit as usize;
        let next = due.last().filter(|_| full).map(|domain| u64::from(domain.id.0));
        let engine = self.node.as_ref().map(|node| (&node.engine, node.own_time(self.now)));
        let domains = due
            .into_iter()
            .filter_map(|domain| {
                let due = domain.deliveries.iter().map(|due| (due.delivery, due.earliest));
                let (engine, own) = engine?;
                Some((domain.name, engine.earliest_due(own, due)?))
            })
            .collect();
        Event::DueFound { domains, next }
    }

    fn sweep(&mut self, delivery: DeliveryId, expire: bool, through: Option<MessageId>) {
        let Some(node) = &mut self.node else { return };
        let from = node.sweeps.get(&delivery).copied().unwrap_or_default();
        self.request(Request::Sweep { delivery, expire, from, through });
    }

    fn request(&mut self, request: Request) {
        let life = self.life;
        let Some(node) = &mut self.node else { return };
        node.requests.push(request);
        if !node.committing {
            node.committing = true;
            let commit = self.script.commit;
            self.after(commit, Step::Commit(life));
        }
    }

    /// Puts the journal of what was asked of the ledger before the answers to it.
    pub(crate) fn journal(&mut self, answers: Vec<Event>) {
        let reading = self.machine.read(self.now);
        let Some(node) = &mut self.node else { return };
        let own = node.own_time(self.now);
        let mut entries = node.ledger.take_journal();
        if entries.is_empty() && answers.is_empty() {
            return;
        }
        node.ledger.record_clock(SavedClock {
            steady: own,
            boot_id: reading.boot_id,
            boot_clock: reading.boot_clock,
            wall: reading.wall,
        });
        entries.extend(node.ledger.take_journal());
        self.request(Request::Journal { entries, answers });
    }

    /// One transaction: everything that waits, then the answers on their way.
    pub(crate) fn commit(&mut self) {
        let Some(node) = &mut self.node else { return };
        let own = node.own_time(self.now);
        let count = node.requests.len().min(self.script.commit_requests_max);
        let requests: Vec<Request> = node.requests.drain(..count).collect();
        node.committing = !node.requests.is_empty();
        if node.committing {
            let (life, commit) = (self.life, self.script.commit);
            self.after(commit, Step::Commit(life));
        }
        if self.now < self.disk_full_until {
            return self.commit_failed(requests);
        }
        let mut answers = Vec::new();
        for request in requests {
            match request {
                Request::Journal { entries, answers: waiting } => {
                    self.disk.write_journal(entries);
                    answers.extend(waiting);
                }
                Request::Claim { asked, domain, priority } => {
                    let written = self.disk.store.apply(&[Write::Claim(asked)]);
                    let Ok(Some(Written::Claimed(claimed))) =
                        written.map(|answers| answers.into_iter().next())
                    else {
                        self.judge.misused(self.now, "a claim was refused");
                        continue;
                    };
                    let next_due = claimed.next_due;
                    let messages = self.withdraw(claimed.messages);
                    if self.script.sabotage == Sabotage::LostAnswer && self.chance.percent(10) {
                        continue;
                    }
                    answers.push(Event::Claimed { domain, priority, messages, next_due });
                }
                Request::Settle(mut settled) => {
                    self.script.sabotage.bend_settled(&mut settled);
                    let written = self.disk.store.apply(&[Write::Settle(settled.clone())]);
                    let Ok(Some(Written::Settled(report))) =
                        written.map(|answers| answers.into_iter().next())
                    else {
                        self.judge.misused(self.now, "a settlement was refused");
                        continue;
                    };
                    self.judge.settled(self.now, &settled, &report);
                    for delivery in report.finished {
                        answers.extend(self.changed(delivery));
                    }
                }
                Request::Keep(kept) => {
                    self.disk.reactions = *kept;
                }
                Request::Sweep { delivery, expire, from, through } => {
                    let reason = if expire { "validity ended" } else { "cancelled" };
                    let limit = SWEEP_MESSAGES;
                    let reason = reason.into();
                    let sweep = Sweep { delivery, from, through, limit, at: own, reason };
                    let write =
                        if expire { Write::Expire(sweep) } else { Write::CancelQueued(sweep) };
                    let written = self.disk.store.apply(&[write]);
                    let swept = match written.ok().and_then(|answers| answers.into_iter().next()) {
                        Some(Written::Swept(swept)) => swept,
                        // The delivery has finished, or was cancelled, in the meantime.
                        _ => {
                            answers.push(Event::SweepDone { delivery, more: false });
                            continue;
                        }
                    };
                    if let Some(node) = &mut self.node {
                        match swept.next {
                            Some(next) => node.sweeps.insert(delivery, next),
                            None => node.sweeps.remove(&delivery),
                        };
                    }
                    answers.push(Event::SweepDone { delivery, more: swept.next.is_some() });
                    if swept.finished {
                        answers.extend(self.changed(delivery));
                    }
                }
            }
        }
        if let Some((left, restart)) = self.dies_at_commit.take() {
            if left == 0 {
                return self.crash(restart);
            }
            self.dies_at_commit = Some((left - 1, restart));
        }
        if !answers.is_empty() {
            let life = self.life;
            self.after(Duration::from_micros(200), Step::Answers(life, answers));
        }
    }

    /// The disk is full: nothing of it is committed, and everybody is told, as the shell of a node does it.
    fn commit_failed(&mut self, requests: Vec<Request>) {
        let life = self.life;
        let Some(node) = &mut self.node else { return };
        let own = node.own_time(self.now);
        let mut answers = Vec::new();
        let mut later = Vec::new();
        let mut sick = false;
        for request in requests {
            match request {
                // Tokens and permits are not handed out: they may serve somebody else once the record can be made.
                Request::Journal { answers: granted, .. } => {
                    sick = true;
                    for event in granted {
                        answers.push(not_recorded(node, own, event));
                    }
                }
                Request::Claim { domain, priority, .. } => {
                    sick = true;
                    let next_due = Some(own + STORE_RETRY);
                    answers.push(Event::Claimed { domain, priority, messages: vec![], next_due });
                }
                Request::Settle(settled) => {
                    sick = true;
                    node.unsettled.extend(settled);
                }
                Request::Keep(kept) => {
                    sick = true;
                    node.unkept = Some(kept);
                }
                Request::Sweep { delivery, .. } => {
                    sick = true;
                    later.push(Event::SweepDone { delivery, more: true });
                }
            }
        }
        if sick && !core::mem::replace(&mut node.store_sick, true) {
            answers.insert(0, Event::StoreSick(true));
            self.after(STORE_RETRY, Step::StoreLooked(life));
        }
        self.after(Duration::from_micros(200), Step::Answers(life, answers));
        self.after(STORE_RETRY, Step::Answers(life, later));
    }

    /// Whether the store commits again.
    pub(crate) fn look_at_store(&mut self) {
        let life = self.life;
        if self.now < self.disk_full_until {
            return self.after(STORE_RETRY, Step::StoreLooked(life));
        }
        let Some(node) = &mut self.node else { return };
        node.store_sick = false;
        let unsettled = core::mem::take(&mut node.unsettled);
        let unkept = node.unkept.take();
        self.tell(Event::StoreSick(false));
        if !unsettled.is_empty() {
            self.request(Request::Settle(unsettled));
        }
        if let Some(kept) = unkept {
            self.request(Request::Keep(kept));
        }
    }

    fn slowness_of(&self, domain: &str) -> u64 {
        let zone = self.script.zones.iter().find(|(name, _)| name == domain);
        match zone {
            Some((_, Zone::Mx { slow, .. })) => u64::try_from(slow.as_millis()).unwrap_or(200),
            _ => 200,
        }
    }

    /// A delivery as the store has it now.
    fn changed(&self, id: DeliveryId) -> Option<Event> {
        let record = self.disk.store.reads().delivery(id).ok().flatten()?;
        Some(Event::DeliveryChanged(Box::new(record.delivery)))
    }

    // ------------------------------------------------------------------ ledger

    fn ask_permit(
        &mut self,
        connection: ConnectionId,
        path: quota::PathKey,
        mx_host: &str,
    ) -> Result<(), QuotaWait> {
        let uncounted = self.script.sabotage == Sabotage::UncountedPermits;
        let Some(node) = &mut self.node else { return Ok(()) };
        let own = node.own_time(self.now);
        let request = PermitRequest { owner: node.owner, path, mx_host };
        match node.ledger.ask_permit(own, &request) {
            PermitAnswer::Granted(permit) => {
                node.conversations.insert(connection, Conversation::new(permit.id));
                if uncounted {
                    node.ledger.release_permit(own, node.owner, permit.id);
                }
                if !node.renewing {
                    node.renewing = true;
                    node.renew_at = own + RENEWAL;
                    let at = node.true_time(node.renew_at);
                    let life = self.life;
                    self.at(at, Step::Renew(life));
                }
                Ok(())
            }
            PermitAnswer::Wait(wait) => Err(QuotaWait::from(&wait)),
            PermitAnswer::Stale { .. } => {
                self.judge.misused(self.now, "the only process was told that it is stale");
                Ok(())
            }
        }
    }

    fn release_permit(&mut self, connection: ConnectionId) {
        let Some(node) = &mut self.node else { return };
        let own = node.own_time(self.now);
        let Some(conversation) = node.conversations.remove(&connection) else {
            return self.judge.misused(self.now, "a permit was released twice");
        };
        let held = node.ledger.release_permit(own, node.owner, conversation.permit);
        if !held && self.script.sabotage != Sabotage::UncountedPermits {
            self.judge.misused(self.now, "a permit had ended before its connection");
        }
    }

    /// Permits are renewed while there are any; a connection without a permit would be a fault.
    pub(crate) fn renew(&mut self) {
        let Some(node) = &mut self.node else { return };
        let own = node.own_time(self.now);
        if node.conversations.is_empty() {
            node.renewing = false;
            node.renew_at = Timestamp::NEVER;
        } else {
            let renewal = node.ledger.renew_permits(own, node.owner);
            let short = renewal.permits < node.conversations.len();
            if short && self.script.sabotage != Sabotage::UncountedPermits {
                self.judge.misused(self.now, "a lease ended although it was renewed");
            }
            let life = self.life;
            node.renew_at = own + RENEWAL;
            let at = node.true_time(node.renew_at);
            self.at(at, Step::Renew(life));
        }
        if let Some(node) = &mut self.node
            && own - node.pruned_at > Duration::from_secs(600)
        {
            node.pruned_at = own;
            node.ledger.prune(own);
        }
    }

    fn ask_tokens(
        &mut self,
        path: quota::PathKey,
        mx_host: &str,
        want: u32,
        cap: Option<(DeliveryId, u32)>,
    ) -> Result<engine::event::Tokens, QuotaWait> {
        let extra = u32::from(self.script.sabotage == Sabotage::ExtraToken);
        let mut caps: Vec<(CapKey, u32)> =
            cap.iter().map(|(id, limit)| (CapKey::Delivery(*id), *limit)).collect();
        let mut source_limit = self.script.source_limits.get(&path.source).copied();
        match self.script.sabotage {
            Sabotage::UncappedSource => source_limit = None,
            Sabotage::UncappedDelivery => caps.clear(),
            _ => {}
        }
        let request = TokenRequest { path, mx_host, want, source_limit, caps: &caps };
        let node = self.node.as_mut().expect("a command comes from a running node");
        let own = node.own_time(self.now);
        match node.ledger.ask_tokens(own, &request) {
            TokenAnswer::Granted(lot) => Ok(Lot { count: lot.count + extra, ..lot }.into()),
            TokenAnswer::Wait(wait) => Err(QuotaWait::from(&wait)),
        }
    }

    fn give_back(&mut self, lot: quota::LotId, count: u32) {
        let honest =
            !matches!(self.script.sabotage, Sabotage::ExtraToken | Sabotage::CountsGoWithRules);
        let Some(node) = &mut self.node else { return };
        let own = node.own_time(self.now);
        match node.ledger.give_back(own, lot, count) {
            Err(quota::GiveBackError::MoreThanGranted { .. }) if honest => {
                self.judge.misused(self.now, "a token was given back twice");
            }
            // Too late: its slot is over and it stays counted.
            Ok(()) | Err(_) => {}
        }
    }

    // ------------------------------------------------------------------ connections

    fn begin_connect(
        &mut self,
        connection: ConnectionId,
        plan: Box<engine::event::ConnectionPlan>,
    ) {
        let life = self.life;
        let Some(node) = &mut self.node else { return };
        let Some(conversation) = node.conversations.get_mut(&connection) else { return };
        let (dry, path) = (plan.dry, plan.path);
        let connect_timeout = plan.timeouts.connect;
        conversation.plan = Some(plan);
        if dry {
            let ready = Event::ConnectionReady { connection };
            return self.after(Duration::from_millis(1), Step::Answers(life, vec![ready]));
        }
        let socket = self.next_socket;
        self.next_socket += 1;
        let provider = self.fleet.provider_of(path.target);
        let arrives = self.arrival_in_order(socket, provider);
        let back = self.fleet.arrival(arrives, provider, &mut self.chance);
        let patience = self.now + connect_timeout;
        if back > patience {
            // Nobody there has seen it, as far as anybody can tell.
            let events = conversation_of(self, connection, |conversation| {
                let why = "connect: timed out".into();
                conversation.end_without_session(connection, EndCause::Unreachable { why })
            });
            return self.at(patience, Step::Answers(life, events.unwrap_or_default()));
        }
        let opened =
            self.fleet.open(arrives, self.now, socket, path.source, path.target, &mut self.chance);
        match opened {
            Some(outputs) => {
                conversation_of(self, connection, |conversation| {
                    conversation.socket = Some(socket)
                });
                self.last_returns.insert(socket, back);
                self.at(back, Step::Connected(life, connection));
                self.return_outputs(socket, outputs);
            }
            None => {
                let events = conversation_of(self, connection, |conversation| {
                    conversation.end_without_session(connection, EndCause::ConnectionRefused)
                });
                self.at(back, Step::Answers(life, events.unwrap_or_default()));
            }
        }
    }

    /// The three-way handshake is done.
    pub(crate) fn connect(&mut self, connection: ConnectionId) {
        let Some(node) = &mut self.node else { return };
        let own = node.own_time(self.now);
        let Some(conversation) = node.conversations.get_mut(&connection) else { return };
        if let Some(plan) = conversation.plan.clone() {
            conversation.connected(own, &plan);
        }
        self.drive(connection);
    }

    fn close(&mut self, connection: ConnectionId) {
        let life = self.life;
        let dry = conversation_of(self, connection, |conversation| {
            conversation.closing = true;
            let dry = conversation.plan.as_ref().is_some_and(|plan| plan.dry);
            dry.then(|| conversation.end_without_session(connection, EndCause::Finished))
        });
        match dry.flatten() {
            // Behind the verdicts of what was handed over before.
            Some(events) => self.after(Duration::from_millis(2), Step::Answers(life, events)),
            None => self.drive(connection),
        }
    }

    /// Takes back what a connection has not begun.
    fn recall(&mut self, connection: ConnectionId) {
        let own = self.node.as_ref().map_or(self.now, |node| node.own_time(self.now));
        let back = conversation_of(self, connection, |conversation| {
            let dry = conversation.plan.as_ref().is_some_and(|plan| plan.dry);
            (!dry).then(|| conversation.recall(own, connection)).flatten()
        });
        if let Some(event) = back.flatten() {
            self.tell(event);
        }
        self.close(connection);
    }

    pub(crate) fn tick(&mut self, connection: ConnectionId) {
        let Some(node) = &mut self.node else { return };
        let own = node.own_time(self.now);
        let Some(conversation) = node.conversations.get_mut(&connection) else { return };
        if own < conversation.tick_at {
            return;
        }
        conversation.tick_at = Timestamp::NEVER;
        conversation.tick(own);
        self.drive(connection);
    }

    /// Octets of a server arrive here.
    pub(crate) fn returned(&mut self, connection: ConnectionId, socket: u64, output: Output) {
        let Some(node) = &mut self.node else { return };
        let own = node.own_time(self.now);
        let Some(conversation) = node.conversations.get_mut(&connection) else { return };
        if conversation.socket != Some(socket) {
            return;
        }
        if let Some(accept) = output.accept {
            self.fleet.answer_read(self.now, accept);
        }
        conversation.receive(own, &output.octets);
        // What was written because of it goes first, as the close comes behind the octets.
        self.drive(connection);
        if output.closes {
            conversation_of(self, connection, |conversation| conversation.lost(own));
            self.drive(connection);
        }
    }

    /// Puts what a server writes on its way to us.
    pub(crate) fn return_outputs(&mut self, socket: u64, outputs: Vec<Output>) {
        let Some(node) = &self.node else { return };
        let owner = node.conversations.iter().find(|(_, one)| one.socket == Some(socket));
        let Some((connection, conversation)) = owner else { return };
        let (connection, life) = (*connection, self.life);
        let target = conversation.plan.as_ref().map(|plan| plan.path.target);
        let provider = target.map_or(0, |target| self.fleet.provider_of(target));
        for output in outputs {
            let length = output.octets.len();
            let cut = self.fleet.cut(output.at, provider, length, &mut self.chance);
            let pieces = match (self.fleet.drip(output.at, provider), cut) {
                (Some(drip), _) => output.in_parts(length.div_ceil(DRIPS), drip),
                (None, Some(cut)) => output.in_parts(cut, Duration::ZERO),
                (None, None) => vec![output],
            };
            for output in pieces {
                let at = self.fleet.arrival(output.at, provider, &mut self.chance);
                // A server cannot be heard before the connection stands, and its words keep their order.
                let last = self.last_returns.entry(socket).or_insert(at);
                *last = at.max(*last) + Duration::from_micros(1);
                let at = *last;
                self.at(at, Step::Returns { life, connection, socket, output });
            }
        }
    }

    /// Moves what a session wants moved.
    fn drive(&mut self, connection: ConnectionId) {
        let life = self.life;
        let Some(node) = &mut self.node else { return };
        let own = node.own_time(self.now);
        let Some(conversation) = node.conversations.get_mut(&connection) else { return };
        let moved = conversation.drive(own, connection, &node.desk);
        let (socket, tick_at) = (conversation.socket, conversation.tick_at);
        let target = conversation.plan.as_ref().map(|plan| plan.path.target);
        let source = conversation.plan.as_ref().map(|plan| plan.path.source);
        if moved.closed {
            conversation.socket = None;
        }
        let due = moved.deadline.filter(|deadline| *deadline < tick_at);
        if let Some(deadline) = due {
            conversation.tick_at = deadline;
            let at = node.true_time(deadline).max(self.now);
            self.at(at, Step::Tick(life, connection));
        }
        if let Some(socket) = socket {
            if !moved.octets.is_empty() {
                let provider = target.map_or(0, |target| self.fleet.provider_of(target));
                let sent_at = self.now;
                let arrives = self.arrival_in_order(socket, provider);
                self.at(arrives, Step::Arrives { socket, sent_at, octets: moved.octets });
            }
            if moved.closed {
                self.close_socket(socket, target);
            }
        }
        for event in moved.events {
            if let (Event::MessagesDone { results, .. }, Some(source)) = (&event, source) {
                let same = |one: &&Conversation| {
                    one.plan.as_ref().is_some_and(|plan| {
                        plan.path.source == source && Some(plan.path.target) == target
                    })
                };
                let all = self.node.iter().flat_map(|node| node.conversations.values());
                let begun = all.filter(same).flat_map(Conversation::begun).collect();
                for done in results {
                    self.judge.reported((self.now, own), (source, target), done, &begun);
                }
            }
            self.tell(event);
        }
    }

    // ------------------------------------------------------------------ who may not be written to

    /// Ends claimed messages whose recipients may not be written to any more, and gives back the others.
    fn withdraw(&mut self, messages: Vec<QueuedMessage>) -> Vec<QueuedMessage> {
        let Some(node) = &mut self.node else { return messages };
        let at = node.own_time(self.now);
        let (mut kept, mut settled) = (Vec::new(), Vec::new());
        for message in messages {
            let Err(refusal) = node.desk.admission().admit_address(&message.recipient) else {
                kept.push(message);
                continue;
            };
            settled.push(Settled {
                id: message.id,
                delivery: message.delivery,
                fate: Fate::Final(FinalState::Failed),
                attempts: message.attempts,
                last_reply: refusal.to_string().into(),
                at,
            });
        }
        if !settled.is_empty() {
            self.request(Request::Settle(settled));
        }
        kept
    }

    /// Denylists, quarantines or frees each so many-th recipient of a mailing.
    pub(crate) fn ban(&mut self, number: usize, every: u64, deed: &LedgerDeed) {
        let Some(id) = self.deliveries.get(&number).copied() else { return };
        let own = self.node.as_ref().map_or(self.now, |node| node.own_time(self.now));
        let all = self.disk.store.reads().messages(MessageId(0), u32::MAX).unwrap_or_default();
        let chosen = |one: &&MessageRecord| one.delivery == id && one.id.0.is_multiple_of(every);
        let addresses: Vec<Box<str>> =
            all.iter().filter(chosen).map(|one| one.address.clone()).collect();
        let deeds = addresses.iter().map(|address| (address.clone(), deed.clone())).collect();
        let author = Author { who: "a person".into(), why: "because".into() };
        let write = LedgerWrite::Act { deeds, author, policy: Arc::default(), now: own };
        let Some(Written::Quarantine(written)) = self.write_now(Write::Quarantine(Box::new(write)))
        else {
            return self.judge.misused(self.now, "the ledger of evidence was not changed");
        };
        if *deed == LedgerDeed::Release {
            self.judge.freed(self.now, &addresses);
        } else {
            let conversations = self.node.iter().flat_map(|node| node.conversations.values());
            let begun = conversations.flat_map(Conversation::begun).collect();
            self.judge.forbidden(self.now, &addresses, &begun);
        }
        let deaf = self.script.sabotage == Sabotage::DeafToBans;
        if let Some(node) = self.node.as_mut().filter(|_| !deaf) {
            node.desk.learn(written.changes());
        }
    }

    // ------------------------------------------------------------------ what is handed in

    pub(crate) fn hand_in(&mut self, number: usize) {
        let own = self.node.as_ref().map_or(self.now, |node| node.own_time(self.now));
        let mailing = self.script.mailings[number].clone();
        let stream = mailing.options.stream;
        let content = NewContent { kind: ContentKind::Template, body: Arc::from(*b"template") };
        let create = Write::CreateDelivery {
            options: Box::new(mailing.options),
            content: (!stream).then_some(content),
            at: own,
            once: None,
        };
        let Some(Written::Created(id)) = self.write_now(create) else {
            return self.judge.misused(self.now, "a delivery was not created");
        };
        self.deliveries.insert(number, id);
        let half = if stream { mailing.domains.len() / 2 } else { mailing.domains.len() };
        let queued = self.append(number, id, &mailing.domains[..half], stream, own);
        self.judge.begun(id, own);
        if !stream
            && !matches!(
                self.write_now(Write::Start { delivery: id, at: own }),
                Some(Written::Started(_))
            )
        {
            self.judge.misused(self.now, "a delivery was not started");
        }
        if let Some(changed) = self.changed(id) {
            self.tell(changed);
        }
        self.tell(queued);
    }

    pub(crate) fn hand_in_more(&mut self, number: usize) {
        let Some(id) = self.deliveries.get(&number).copied() else { return };
        let own = self.node.as_ref().map_or(self.now, |node| node.own_time(self.now));
        let record = self.disk.store.reads().delivery(id).ok().flatten();
        let open = |state| matches!(state, DeliveryState::Running | DeliveryState::Paused);
        if record.is_none_or(|record| !open(record.delivery.state)) {
            return;
        }
        let domains = self.script.mailings[number].domains.clone();
        let queued = self.append(number, id, &domains[domains.len() / 2..], true, own);
        self.tell(queued);
    }

    fn append(
        &mut self,
        number: usize,
        delivery: DeliveryId,
        domains: &[String],
        stream: bool,
        own: Timestamp,
    ) -> Event {
        let first_serial = self.next_serial;
        self.next_serial += domains.len() as u64;
        let mut recipients: Vec<NewRecipient> = domains
            .iter()
            .zip(first_serial..)
            .map(|(domain, serial)| NewRecipient {
                line: serial,
                address: format!("u{serial}@{domain}").into(),
                domain: domain.as_str().into(),
                ..NewRecipient::default()
            })
            .collect();
        if self.script.sabotage == Sabotage::ForgottenRecipient {
            recipients.pop();
        }
        let content = NewContent { kind: ContentKind::Message, body: Arc::from(*b"message") };
        let append = Write::Append {
            delivery,
            content: stream.then_some(content),
            recipients,
            at: own,
            once: None,
        };
        let mut names: Vec<Box<str>> = Vec::new();
        match self.write_now(append) {
            Some(Written::Appended(appended)) => {
                names = appended.domains.iter().map(|domain| Box::from(&*domain.name)).collect();
                let first = appended.first.map_or(0, |first| first.0);
                let count = domains.len() as u64;
                self.judge.accepted((number, delivery), own, first_serial, first, count);
            }
            _ => self.judge.misused(self.now, "recipients were not accepted"),
        }
        Event::Queued { delivery, due: Timestamp::EPOCH, domains: names }
    }

    pub(crate) fn set_state(&mut self, number: usize, state: DeliveryState) {
        let Some(id) = self.deliveries.get(&number).copied() else { return };
        let own = self.node.as_ref().map_or(self.now, |node| node.own_time(self.now));
        let (who, why) = ("a person".into(), "because".into());
        let write = Write::SetState { delivery: id, state, who, why, at: own };
        // It may have finished, or be cancelled, already.
        if !matches!(self.write_now(write), Some(Written::Done)) {
            return;
        }
        let conversations = self.node.iter().flat_map(|node| node.conversations.values());
        let held = conversations.flat_map(Conversation::held).collect();
        self.judge.state_changed(self.now, id, state, held);
        if self.script.sabotage == Sabotage::DeafToPause && state != DeliveryState::Running {
            return;
        }
        if let Some(changed) = self.changed(id) {
            self.tell(changed);
        }
    }

    fn write_now(&mut self, write: Write) -> Option<Written> {
        self.disk.store.apply(&[write]).ok()?.into_iter().next()
    }
}

/// What becomes of an answer of the ledger whose record could not be made.
fn not_recorded(node: &mut Node, own: Timestamp, granted: Event) -> Event {
    let wait = || QuotaWait {
        until: Some(own + STORE_RETRY),
        limit: QuotaLimit::Ledger,
        rule: Box::default(),
        source: None,
        figure: 0,
        used: 0,
    };
    match granted {
        Event::TokensAnswered { path, cap, answer: Ok(tokens) } => {
            // Too late: it stays counted.
            let _ = node.ledger.give_back(own, tokens.lot, tokens.count);
            Event::TokensAnswered { path, cap, answer: Err(wait()) }
        }
        Event::PermitAnswered { connection, answer: Ok(()) } => {
            if let Some(conversation) = node.conversations.remove(&connection) {
                node.ledger.release_permit(own, node.owner, conversation.permit);
            }
            Event::PermitAnswered { connection, answer: Err(wait()) }
        }
        other => other,
    }
}

/// Does something with a conversation, if it is there.
fn conversation_of<T>(
    world: &mut World,
    connection: ConnectionId,
    act: impl FnOnce(&mut Conversation) -> T,
) -> Option<T> {
    let node = world.node.as_mut()?;
    node.conversations.get_mut(&connection).map(act)
}
