//! From verdicts to fates: what becomes of a message after an attempt (DESIGN 7 and 8).
//!
//! | verdict | the message | the path |
//! |---|---|---|
//! | sent | at its end | well |
//! | refused at RCPT TO, DATA or the content: for good | failed | well |
//! | the same: may work later (a full mailbox, a throttle, every 4yz) | put off by the schedule, attempt counted | well |
//! | the same: this source is refused | goes to another path, attempt not counted | rests |
//! | the same: the delivery is at fault (its authentication) | put off; a reaction stops the delivery | well |
//! | greylisted | put off for ten minutes, same source | well |
//! | 421 before the content | goes to another path, attempt not counted | rests |
//! | MAIL FROM refused for now, after ten messages or more over the same connection | goes over another connection, attempt not counted | well |
//! | MAIL FROM refused otherwise | put off, attempt not counted | rests after the third in a row |
//! | answer to the final dot lost | put off by the schedule: it may have been delivered | as the end says |
//! | not tried | back to the window, token given back | as the end says |
//! | BDAT not known, though CHUNKING was offered | back to the window, attempt not counted | well, and goes on with DATA |
//!
//! What a refusal is taken for is the judgement of the bounce rules ([`crate::qualify`]), not the class of the reply. What
//! follows for the mail behind it is the business of the reaction rules ([`crate::reactions`]).

use core::time::Duration;
use std::sync::Arc;

use mail::attempt::{EndCause, SessionEnd, Stage, Verdict};
use mail::id::ConnectionId;
use mail::reply::{Reply, ReplyClass};
use mail::time::Timestamp;

use rules::TlsPolicy;
use rules::bounce::Action;
use rules::reaction::ReactionStage;

use crate::connection::{Assigned, Connection, ConnectionState};
use crate::engine::Engine;
use crate::event::{Command, DoneResult, MessageDone};
use crate::qualify::Judgement;
use crate::reactions::Heard;
use crate::shaping::depth_max;
use crate::work::{Attempt, DeliveryState, Fate, FinalState, QueuedMessage, Settled};

/// MAIL FROM refused so often in a row is the path's fault, not the sender's.
const SENDERS_REFUSED_MAX: u32 = 3;

/// A server that has taken so many messages over a connection and then refuses MAIL FROM for now has had enough of the
/// connection, not of the sender. None is known that allows fewer. The figure also bounds what a message costs whose own sender is
/// refused: one connection for so many that are sent.
const ENOUGH_FOR_A_CONNECTION: u32 = 10;

impl Engine {
    pub(crate) fn connection_ready(&mut self, now: Timestamp, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.state == ConnectionState::Opening {
            connection.state = ConnectionState::Ready;
        }
        let setup = micros(now.since(connection.asked_at));
        let (ix, source) = (connection.group, connection.path.source);
        if connection.opportunistic
            && let Some(path) = self.paths.get_mut(&connection.path)
        {
            path.tls_failures = 0;
        }
        if let Some(group) = self.groups[ix].as_mut() {
            group.setup_micros = (group.setup_micros * 3 + setup) / 4;
            // A source that was away does not catch up in one burst.
            let floor = group
                .shares
                .iter()
                .filter(|(other, share)| {
                    **other != source && now.since(share.active_at) < Duration::from_secs(1)
                })
                .map(|(_, share)| share.virtual_time)
                .min();
            if let (Some(floor), Some(share)) = (floor, group.shares.get_mut(&source)) {
                if now.since(share.active_at) >= Duration::from_secs(1) {
                    share.virtual_time = share.virtual_time.max(floor);
                }
                share.active_at = now;
            }
        }
        if let Some(group) = self.groups[ix].as_mut() {
            group.fresh.push(id);
        }
        self.dirty.insert(ix);
    }

    pub(crate) fn messages_done(
        &mut self,
        now: Timestamp,
        id: ConnectionId,
        results: Vec<MessageDone>,
    ) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let ix = connection.group;
        let source = connection.path.source;
        let held_before = connection.assigned.len();
        let mut pairs: Vec<(Assigned, MessageDone)> = Vec::with_capacity(results.len());
        for done in results {
            let at = connection.assigned.iter().position(|held| held.message.id == done.message);
            if let Some(assigned) = at.and_then(|at| connection.assigned.remove(at)) {
                pairs.push((assigned, done));
            }
        }
        // Only words of the server are an answer: a connection that breaks at once has given none.
        let answered = pairs.iter().filter(|(_, done)| is_answer(&done.result)).count();
        let taken = pairs.iter().filter(|(_, done)| is_sent(&done.result)).count();
        connection.taken =
            connection.taken.saturating_add(u32::try_from(taken).unwrap_or(u32::MAX));
        connection.answered =
            connection.answered.saturating_add(u32::try_from(answered).unwrap_or(u32::MAX));
        // Only the time in which it had something to do says how long a message takes.
        let busy_for = micros(now.since(connection.busy_since));
        connection.busy_since = now;
        if let Some(group) = self.groups[ix].as_mut() {
            group.in_flight = group.in_flight.saturating_sub(pairs.len());
            if connection.assigned.is_empty() {
                group.fresh.push(id);
            }
            if answered > 0 {
                let per_message = busy_for / answered as u64;
                group.message_micros = match group.message_micros {
                    0 => per_message.max(1),
                    before => (before * 7 + per_message).div_ceil(8),
                };
            }
            // Done faster than it was refilled: it may hold more at a time, but not more than it sends in time.
            if held_before >= connection.depth as usize / 2 && connection.assigned.is_empty() {
                connection.depth *= 2;
            }
            connection.depth =
                connection.depth.min(depth_max(group.message_micros, &self.settings));
            if let Some(share) = group.shares.get_mut(&source) {
                share.active_at = now;
            }
        }
        self.dirty.insert(ix);
        for (assigned, done) in pairs {
            self.judge(now, id, assigned, done);
        }
    }

    pub(crate) fn connection_closed(&mut self, now: Timestamp, id: ConnectionId, end: &SessionEnd) {
        let Some(connection) = self.forget_connection(id) else { return };
        let (ix, line) = (connection.group, connection.line);
        self.conversation_refused(now, &connection, end);
        self.commands.push_back(Command::ReleasePermit { connection: id });
        self.permit_released(line);
        debug_assert!(connection.assigned.is_empty(), "every message is reported before the end");
        for assigned in connection.assigned {
            self.back_to_window(now, ix, assigned, true);
        }
        let at_fault = match &end.cause {
            EndCause::Finished => false,
            // Several providers close without a word when they have had enough messages.
            EndCause::Lost { .. } => connection.answered == 0,
            _ => true,
        };
        if !at_fault {
            return;
        }
        if let Some(group) = self.groups[ix].as_mut() {
            group.counts.sessions_failed += 1;
        }
        let Some(path) = self.paths.get_mut(&connection.path) else { return };
        if connection.opportunistic && matches!(end.cause, EndCause::TlsFailed { .. }) {
            // Without TLS, then: the policy allows it.
            path.tls_failed(now, &self.settings);
            path.last_fault = end.to_string().into_boxed_str();
            return;
        }
        if let EndCause::ChunkingFailed { .. } = end.cause {
            // The server is well but for its offer: the next connection, made at once, uses DATA.
            path.no_chunking_until = now + self.settings.broken_chunking_remembered;
            path.last_fault = end.to_string().into_boxed_str();
            return;
        }
        let in_message = matches!(end.stage, Stage::MailFrom | Stage::RcptTo | Stage::Content);
        if in_message && matches!(end.cause, EndCause::Lost { .. } | EndCause::TimedOut) {
            // Perhaps something on the way does not know BDAT. With DATA a server that ends so leaves no doubt.
            let until = now + self.settings.doubted_chunking_pause;
            path.no_chunking_until = path.no_chunking_until.max(until);
        }
        match &end.cause {
            EndCause::TlsFailed { why } => {
                let of_relay = self.groups[ix].as_ref().and_then(|group| group.tls);
                let rule = self.rules.rule(connection.rule);
                let required_by = match (of_relay, rule.tls) {
                    (Some(_), _) => "the relay or domain rule".to_owned(),
                    (None, TlsPolicy::Default) => "[smtp_client] tls".to_owned(),
                    (None, _) => format!("rule {}", rule.name),
                };
                path.has_no_tls(now, &required_by, why, &self.settings);
            }
            _ => path.failed(now, end, &self.settings),
        }
        let until = path.rest_until;
        self.wake_group(ix, until);
    }

    /// Decides about one message.
    fn judge(&mut self, now: Timestamp, id: ConnectionId, assigned: Assigned, done: MessageDone) {
        let Some(connection) = self.connections.get(&id) else { return };
        let (ix, key, rule) = (connection.group, connection.path, connection.rule);
        let mx_host = Arc::clone(&connection.mx_host);
        if done.started_at.is_none() {
            self.token_unused(now, id, &assigned);
        }
        let message = Arc::clone(&assigned.message);
        let mut note = Box::<str>::default();
        let judgement = match &done.result {
            DoneResult::Verdict(Verdict::Refused { reply, .. }) => {
                Some(self.judge_reply(reply, &mx_host))
            }
            _ => None,
        };
        let reaction = match &done.result {
            DoneResult::Verdict(Verdict::Refused { stage, reply }) => {
                let heard = Heard {
                    reply,
                    stage: ReactionStage::of(*stage),
                    path: key,
                    mx_host: &mx_host,
                    rule,
                    group: ix,
                    delivery: Some(message.delivery),
                    judged: judgement.as_deref().map(|found| found.verdict.action),
                };
                self.heard(now, &heard)
            }
            _ => None,
        };
        let (fate, counted) = match &done.result {
            DoneResult::PrepareFailed { why } => {
                note = why.as_str().into();
                (Fate::Final(FinalState::Failed), false)
            }
            DoneResult::PrepareLater { why } => {
                note = why.as_str().into();
                let due = now + self.settings.prepare_retry;
                (self.expire_or(now, &message, due, message.pinned_source), false)
            }
            DoneResult::Verdict(Verdict::NotTried) => {
                if done.started_at.is_some() {
                    // Its token is spent, so the log must show it.
                    let note = "the conversation ended before an answer; it goes to another path";
                    let words = Words { note: note.into(), ..Words::default() };
                    self.record(now, id, &message, &done, None, words);
                }
                return self.back_to_window(now, ix, assigned, done.started_at.is_none());
            }
            DoneResult::Verdict(Verdict::Sent { .. }) => (Fate::Final(FinalState::Sent), true),
            DoneResult::Verdict(Verdict::Unsendable { status, why }) => {
                note = format!("{status} {why}").into();
                (Fate::Final(FinalState::Failed), false)
            }
            DoneResult::Verdict(Verdict::PossiblyDelivered) => {
                note = "no answer to the end of the message: possibly delivered".into();
                (self.put_off(now, &message, None), true)
            }
            DoneResult::Verdict(Verdict::Refused { stage, reply }) => {
                let meaning =
                    judgement.as_deref().map_or(Action::Retry, |found| found.verdict.action);
                match self.refused(now, id, &assigned, (*stage, reply), meaning) {
                    Some(decision) => decision,
                    None => {
                        let words = Words { judgement, reaction, ..Words::default() };
                        self.record(now, id, &message, &done, None, words);
                        // Perhaps it is just this message: the others go before it is tried again.
                        return self.back_to_window(now, ix, assigned, false);
                    }
                }
            }
        };
        let error = fate != Fate::Final(FinalState::Sent);
        if let Some(path) = self.paths.get_mut(&key)
            && !error
        {
            path.succeeded();
            path.taken.count(now);
            self.taken(ix, key, message.delivery);
        }
        let asked_of_server = done.started_at.is_some();
        if let Some(group) = self.groups[ix].as_mut() {
            match fate {
                Fate::Final(FinalState::Sent) => group.counts.sent += 1,
                Fate::Final(_) => group.counts.failed += 1,
                Fate::Requeued { .. } => group.counts.deferred += 1,
            }
            // Greylisting is an invitation to come back.
            let invited = matches!(fate, Fate::Requeued { pinned_source: Some(_), .. });
            if asked_of_server && !invited {
                group.breaker.count(now, error, &self.settings.breaker);
            }
        }
        let words = match &done.result {
            DoneResult::Verdict(Verdict::Sent { reply } | Verdict::Refused { reply, .. }) => {
                reply.to_string().into_boxed_str()
            }
            _ => note.clone(),
        };
        let attempts = message.attempts + u32::from(counted);
        self.record(now, id, &message, &done, Some(fate), Words { note, judgement, reaction });
        self.settle_counted(now, &message, fate, attempts, words);
    }

    /// What becomes of a refused message; `None`: it was the conversation's or the path's fault, the message goes to
    /// another path.
    fn refused(
        &mut self,
        now: Timestamp,
        id: ConnectionId,
        assigned: &Assigned,
        (stage, reply): (Stage, &Reply),
        meaning: Action,
    ) -> Option<(Fate, bool)> {
        let message = &assigned.message;
        let connection = self.connections.get(&id)?;
        let key = connection.path;
        let campaign =
            self.deliveries.get(&message.delivery).is_some_and(|delivery| !delivery.options.stream);
        let at_fault = meaning == Action::StopDelivery && campaign;
        if reply.code() == 421 && stage != Stage::Content {
            return None;
        }
        if stage == Stage::MailFrom {
            // Those that it still holds are given back untried when it closes.
            if reply.class() == ReplyClass::Transient && connection.taken >= ENOUGH_FOR_A_CONNECTION
            {
                self.close(id);
                return None;
            }
            if let Some(path) = self.paths.get_mut(&key) {
                path.senders_refused += 1;
                if path.senders_refused >= SENDERS_REFUSED_MAX {
                    path.senders_refused = 0;
                    path.last_fault = format!("MAIL FROM refused: {reply}").into_boxed_str();
                    path.rest_cause = crate::path::RestCause::Refused;
                    path.rest(now, &self.settings);
                }
            }
            let due = now + self.settings.sender_refused_pause;
            return Some((self.expire_or(now, message, due, None), false));
        }
        match meaning {
            // It waits until a person has mended the delivery and let it go on.
            Action::StopDelivery if at_fault => Some((self.put_off(now, message, None), true)),
            Action::GiveUp => Some((Fate::Final(FinalState::Failed), true)),
            // Of a stream each message is on its own.
            Action::StopDelivery if reply.class() == ReplyClass::Permanent => {
                Some((Fate::Final(FinalState::Failed), true))
            }
            Action::OtherPath => {
                if let Some(path) = self.paths.get_mut(&key) {
                    path.last_fault = reply.to_string().into_boxed_str();
                    path.rest_cause = crate::path::RestCause::Refused;
                    path.rest(now, &self.settings);
                }
                self.close(id);
                None
            }
            Action::Retry | Action::StopDelivery => {
                let pinned = is_greylisting(reply).then_some(key.source);
                Some((self.put_off(now, message, pinned), true))
            }
        }
    }

    /// A conversation that the server refused in words, other than about a message, which has been heard with it.
    fn conversation_refused(&mut self, now: Timestamp, connection: &Connection, end: &SessionEnd) {
        let about_message =
            matches!(end.stage, Stage::MailFrom | Stage::RcptTo | Stage::Data | Stage::Content);
        let Some(reply) = end.cause.reply().filter(|_| !about_message) else { return };
        let heard = Heard {
            reply,
            stage: ReactionStage::of(end.stage),
            path: connection.path,
            mx_host: &connection.mx_host,
            rule: connection.rule,
            group: connection.group,
            delivery: None,
            judged: None,
        };
        self.heard(now, &heard);
    }

    /// The next try by the delivery's schedule, or the end when none fits into the validity.
    fn put_off(
        &mut self,
        now: Timestamp,
        message: &QueuedMessage,
        greylisted_by: Option<mail::id::SourceId>,
    ) -> Fate {
        let Some(delivery) = self.deliveries.get(&message.delivery) else {
            return Fate::Final(FinalState::Cancelled);
        };
        let retry = &delivery.options.retry;
        let pause = match greylisted_by {
            Some(_) => retry.greylisted,
            None => {
                let step = message.attempts as usize;
                retry.steps.get(step).copied().unwrap_or(retry.then_every)
            }
        };
        let stretch = u64::from(retry.jitter_percent) * 1_000;
        let jitter = self.random.below(stretch + 1);
        let longer = micros(pause).saturating_mul(jitter) / 100_000;
        let due = now + pause + Duration::from_micros(longer);
        self.expire_or(now, message, due, greylisted_by)
    }

    fn expire_or(
        &self,
        now: Timestamp,
        message: &QueuedMessage,
        due: Timestamp,
        pinned_source: Option<mail::id::SourceId>,
    ) -> Fate {
        let Some(delivery) = self.deliveries.get(&message.delivery) else {
            return Fate::Final(FinalState::Cancelled);
        };
        if delivery.state == DeliveryState::Cancelled {
            return Fate::Final(FinalState::Cancelled);
        }
        let end = delivery.valid_until(message.accepted_at);
        if due >= end || now >= end {
            return Fate::Final(FinalState::Expired);
        }
        Fate::Requeued { due, pinned_source }
    }

    /// A token that was not used may serve another message while its slot lasts.
    fn token_unused(&mut self, now: Timestamp, id: ConnectionId, assigned: &Assigned) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.messages_left = connection.messages_left.saturating_add(1);
        connection.messages_given = connection.messages_given.saturating_sub(1);
        let kept = self.paths.get_mut(&connection.path).is_some_and(|path| {
            path.purse(assigned.cap).put_back(now, assigned.lot, assigned.use_before)
        });
        if !kept {
            self.give_back(assigned.lot, 1);
        }
    }

    /// A message that was not tried waits for its next chance: at the head of its queue, or at its end where the
    /// conversation broke at just this message, so that it does not stand in the way of all others.
    fn back_to_window(&mut self, now: Timestamp, ix: usize, assigned: Assigned, first: bool) {
        let running = self
            .deliveries
            .get(&assigned.message.delivery)
            .is_some_and(|delivery| delivery.open_until(now).is_ok());
        let cancelled = self
            .deliveries
            .get(&assigned.message.delivery)
            .is_none_or(|delivery| delivery.state == DeliveryState::Cancelled);
        if cancelled {
            let fate = Fate::Final(FinalState::Cancelled);
            return self.settle(now, &assigned.message, fate, "cancelled");
        }
        let accepted_at = assigned.message.accepted_at;
        let delivery = self.deliveries.get(&assigned.message.delivery);
        if delivery.is_some_and(|delivery| now >= delivery.valid_until(accepted_at)) {
            let fate = Fate::Final(FinalState::Expired);
            return self.settle(now, &assigned.message, fate, "validity ended");
        }
        let closed = self.groups[ix].as_ref().is_none_or(|group| group.breaker.is_open(now));
        if !running || self.draining || self.store_sick || closed {
            return self.give_message_back(now, &assigned.message);
        }
        if let Some(group) = self.groups[ix].as_mut() {
            if first {
                group.window.push_front(assigned.lane, assigned.key, assigned.message);
            } else {
                group.window.push(assigned.lane, assigned.key, assigned.message);
            }
            self.window_messages += 1;
            self.dirty.insert(ix);
        }
    }

    // ------------------------------------------------------------------ settling

    /// A message that waits again in the store, nothing changed.
    pub(crate) fn give_message_back(&mut self, now: Timestamp, message: &Arc<QueuedMessage>) {
        let cancelled = self
            .deliveries
            .get(&message.delivery)
            .is_some_and(|delivery| delivery.state == DeliveryState::Cancelled);
        if cancelled {
            let fate = Fate::Final(FinalState::Cancelled);
            return self.settle(now, message, fate, "cancelled");
        }
        let fate = Fate::Requeued { due: message.due, pinned_source: message.pinned_source };
        self.settle(now, message, fate, "");
    }

    /// A message that is looked at again at `due`, without an attempt.
    pub(crate) fn requeue(
        &mut self,
        now: Timestamp,
        message: &Arc<QueuedMessage>,
        due: Timestamp,
        why: &str,
    ) {
        let fate = self.expire_or(now, message, due, message.pinned_source);
        self.settle(now, message, fate, why);
    }

    /// A message that fails without a conversation.
    pub(crate) fn fail_unsent(&mut self, now: Timestamp, message: Arc<QueuedMessage>, why: &str) {
        let fate = Fate::Final(FinalState::Failed);
        self.attempts.push(Attempt {
            message: Arc::clone(&message),
            source: None,
            target: None,
            mx_host: Arc::from(""),
            rule: Arc::from("dns"),
            rules_version: self.rules.version(),
            number: message.attempts + 1,
            started_at: None,
            ended_at: now,
            verdict: None,
            note: why.into(),
            judgement: Some(Arc::new(self.qualifier.judge(why, ""))),
            reaction: None,
            fate,
        });
        self.settle(now, &message, fate, why);
    }

    pub(crate) fn settle(
        &mut self,
        now: Timestamp,
        message: &Arc<QueuedMessage>,
        fate: Fate,
        words: &str,
    ) {
        self.settle_counted(now, message, fate, message.attempts, words.into());
    }

    fn settle_counted(
        &mut self,
        now: Timestamp,
        message: &Arc<QueuedMessage>,
        fate: Fate,
        attempts: u32,
        last_reply: Box<str>,
    ) {
        if let Some(ix) = self.domain_of(message)
            && let Some(domain) = self.domains[ix].as_mut()
        {
            domain.held = domain.held.saturating_sub(1);
            if let Fate::Requeued { due, .. } = fate {
                let lane = self.lane_of(message);
                if let Some(domain) = self.domains[ix].as_mut() {
                    domain.add_due(lane, due);
                }
                self.touch_domain(now, ix);
            }
        }
        self.settled.push(Settled {
            id: message.id,
            delivery: message.delivery,
            fate,
            attempts,
            last_reply,
            at: now,
        });
    }

    /// Writes an attempt to the delivery log; without a fate: it went to another path.
    fn record(
        &mut self,
        now: Timestamp,
        id: ConnectionId,
        message: &Arc<QueuedMessage>,
        done: &MessageDone,
        fate: Option<Fate>,
        words: Words,
    ) {
        let Some(connection) = self.connections.get(&id) else { return };
        let verdict = match &done.result {
            DoneResult::Verdict(verdict) => Some(verdict.clone()),
            DoneResult::PrepareFailed { .. } | DoneResult::PrepareLater { .. } => None,
        };
        let requeued = Fate::Requeued { due: now, pinned_source: message.pinned_source };
        self.attempts.push(Attempt {
            message: Arc::clone(message),
            source: Some(connection.path.source),
            target: Some(connection.path.target),
            mx_host: Arc::clone(&connection.mx_host),
            rule: Arc::clone(&connection.rule_name),
            rules_version: connection.rules_version,
            number: message.attempts + 1,
            started_at: done.started_at,
            ended_at: now,
            verdict,
            note: words.note,
            judgement: words.judgement,
            reaction: words.reaction,
            fate: fate.unwrap_or(requeued),
        });
    }
}

/// What is written down beside the verdict of an attempt.
#[derive(Default)]
struct Words {
    /// Our own words.
    note: Box<str>,
    /// What the refusal means.
    judgement: Option<Arc<Judgement>>,
    /// What followed from it.
    reaction: Option<Arc<str>>,
}

/// Whether the server has taken the message.
fn is_sent(result: &DoneResult) -> bool {
    matches!(result, DoneResult::Verdict(Verdict::Sent { .. }))
}

/// Whether the server answered in words about this message.
fn is_answer(result: &DoneResult) -> bool {
    matches!(result, DoneResult::Verdict(Verdict::Sent { .. } | Verdict::Refused { .. }))
}

/// Whether a temporary refusal asks to come back later from the same source (RFC 6647).
fn is_greylisting(reply: &Reply) -> bool {
    let text = String::from_utf8_lossy(reply.raw()).to_ascii_lowercase();
    ["greylist", "graylist", "grey-list", "gray-list", "grey list", "gray list"]
        .iter()
        .any(|word| text.contains(word))
}

/// Whole microseconds.
fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
