//! Shaping: what an MX group does next.
//!
//! [`Engine::pump`] is the one place where it is decided which message goes over which connection, which
//! connections are opened (`opening`), what is claimed, and, where nothing can be done, why.

use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

use mail::id::{ConnectionId, DeliveryId, SourceId};
use mail::time::Timestamp;

use crate::connection::{Assigned, ConnectionState};
use crate::engine::{Engine, SHARE_SCALE, URGENT, Wake};
use crate::event::{Assignment, Command, QuotaLimit};
use crate::group::{FIRST_WANT, Group};
use crate::line::LineKey;
use crate::reason::{WaitReason, Waiting};
use crate::settings::Settings;
use crate::sources::SetId;
use crate::work::{Fate, FinalState, QueuedMessage, SendMode};

/// How many messages the source with the greatest weight may be ahead of the one that has sent least; the others fewer, by
/// their weight.
const LEAD_MESSAGES: u64 = 32;

/// A source that has made no progress for so long, or for the time of several messages where these are slow, does
/// not hold the others back.
const SHARE_MEMORY: Duration = Duration::from_millis(500);

/// Messages of the group's pace that a source may take without progress.
const SHARE_MEMORY_MESSAGES: u64 = 4;

/// Messages a new connection is given at first.
pub(crate) const FIRST_DEPTH: u32 = 4;

/// What a connection is given takes no longer than about this: urgent mail cannot overtake it any more.
const DEPTH_TIME: Duration = Duration::from_secs(1);

/// One is being sent, and the next one is at hand.
const DEPTH_MIN: u64 = 2;

/// Claims of one group on their way at a time.
const GROUP_CLAIMS_MAX: u32 = 8;

/// A group that is blocked for longer than this gives its messages back when memory is short.
const LONG_BLOCK: Duration = Duration::from_secs(5);

impl Engine {
    /// Does all that can be done for a group now.
    pub(crate) fn pump(&mut self, now: Timestamp, ix: usize) {
        let Some(group) = self.groups[ix].as_ref() else { return };
        if self.draining {
            return;
        }
        if self.store_sick {
            self.rest_connections(now, ix);
            return self.group_waits(ix, WaitReason::StoreSick, Timestamp::NEVER);
        }
        if group.breaker.is_open(now) {
            let until = group.breaker.open_until;
            self.group_waits(ix, WaitReason::BreakerOpen, until);
            self.wake_group(ix, until);
            self.leave_lines(ix);
            self.rest_connections(now, ix);
            return self.empty_window(now, ix);
        }
        self.refill(now, ix);
        self.assign_all(now, ix);
        let (blocked, waits_for_token) = self.open(now, ix);
        self.refill(now, ix);
        self.pass_turns_on(ix, &waits_for_token);
        let waits_for_budget =
            !waits_for_token.is_empty() || blocked.as_ref().is_some_and(is_for_a_budget);
        self.pass_on(now, ix, waits_for_budget);
        self.hold_capped(now, ix);
        self.rest_connections(now, ix);
        self.note_reason(now, ix, blocked);
    }

    fn group_waits(&mut self, ix: usize, reason: WaitReason, until: Timestamp) {
        if let Some(group) = self.groups[ix].as_mut() {
            group.waiting = Some(Waiting { reason, until });
        }
    }

    /// Gives the window of a group back to the store.
    fn empty_window(&mut self, now: Timestamp, ix: usize) {
        let Some(group) = self.groups[ix].as_mut() else { return };
        let messages = group.window.remove(&|_| true);
        group.want = FIRST_WANT;
        self.window_messages = self.window_messages.saturating_sub(messages.len());
        for message in messages {
            self.give_message_back(now, &message);
        }
    }

    // ------------------------------------------------------------------ claiming

    /// Claims messages while the window holds fewer than are wanted.
    fn refill(&mut self, now: Timestamp, ix: usize) {
        for lane in 0..3 {
            loop {
                let room = self.room_in_windows(lane);
                let Some(group) = self.groups[ix].as_ref() else { return };
                let held = group.window.lane_len(lane);
                if group.line[lane].is_empty()
                    || held >= group.want.div_ceil(2)
                    || group.claims_open >= GROUP_CLAIMS_MAX
                {
                    break;
                }
                let held_until = group.claims_held_until;
                if held_until > now {
                    self.wake_group(ix, held_until);
                    return;
                }
                // What is urgent does not stand behind the mail of others.
                let want = group.want;
                if lane != URGENT && !self.may_claim(now, ix) {
                    return;
                }
                let allowed = room.min(self.turn_in_windows(ix, lane));
                if allowed == 0 {
                    self.starve(ix, lane);
                    return;
                }
                let wanted = (want - held).min(allowed);
                let next = self.groups[ix].as_mut().and_then(|group| group.line[lane].pop_front());
                let Some(domain) = next else { break };
                let limit = u32::try_from(wanted)
                    .unwrap_or(u32::MAX)
                    .clamp(1, self.settings.claim_messages_max);
                if let Some(domain) = self.domains[domain].as_mut() {
                    domain.in_line[lane] = false;
                }
                if self.claim(now, domain, lane, limit) {
                    self.turn_in_windows_used(ix, limit);
                    if let Some(domain) = self.domains[domain].as_mut() {
                        domain.claim_group[lane] = Some(ix);
                    }
                    if let Some(group) = self.groups[ix].as_mut() {
                        group.claims_open += 1;
                    }
                }
            }
        }
    }

    // ------------------------------------------------------------------ assigning

    fn assign_all(&mut self, now: Timestamp, ix: usize) {
        let Some(group) = self.groups[ix].as_ref() else { return };
        if group.window.len() == 0 {
            return;
        }
        let mut ready: Vec<(usize, ConnectionId)> = group
            .connections
            .iter()
            .filter_map(|id| {
                let connection = self.connections.get(id)?;
                (connection.room() > 0).then_some((connection.assigned.len(), *id))
            })
            .collect();
        ready.sort_unstable();
        for (_, id) in ready {
            self.assign(now, ix, id);
        }
        // The window ran empty although it was allowed to be full: it may hold more.
        if let Some(group) = self.groups[ix].as_mut()
            && group.window.len() < group.want / 4
            && group.has_line()
        {
            group.want = (group.want * 2).min(self.settings.group_window_messages_max);
        }
    }

    /// Gives a connection as many messages as it may have.
    fn assign(&mut self, now: Timestamp, ix: usize, id: ConnectionId) {
        let Some(connection) = self.connections.get(&id) else { return };
        let (room, dry, source) = (connection.room(), connection.dry, connection.path.source);
        let (path_key, mx_host) = (connection.path, Arc::clone(&connection.mx_host));
        let Some(group) = self.groups[ix].as_mut() else { return };
        let Some(path) = self.paths.get_mut(&path_key) else { return };
        let weight = u64::from(self.sources.get(source).map_or(1, |source| source.weight)).max(1);
        let step = SHARE_SCALE / weight;
        let reactions = self.reactions.about(path_key, &mx_host);
        let any_delivery = self.reactions.any_delivery();
        let mut gate: Option<Timestamp> = None;
        let mut slowed: Vec<DeliveryId> = Vec::new();
        let memory = share_memory(group);
        let mut own_time = group.shares.get(&source).map_or(0, |share| share.virtual_time);
        // How far it may go with each set of sources.
        let mut bound: Option<(SetId, u64)> = None;
        let mut held_back = false;
        let mut needs: Vec<Option<(DeliveryId, u32)>> = Vec::new();
        let mut given: VecDeque<Assigned> = VecDeque::new();
        let mut ended: Vec<Arc<QueuedMessage>> = Vec::new();
        while (given.len() as u32) < room {
            gate = self.reactions.closed_until(&reactions, now);
            if gate.is_some() {
                break;
            }
            let sources = &self.sources;
            let shares = &group.shares;
            let of_reactions = &self.reactions;
            let taken = group.window.take(|key| {
                if key.dry != dry || !sources.set_has(key.set, source) {
                    return false;
                }
                let furthest = match bound {
                    Some((set, time)) if set == key.set => time,
                    _ => {
                        let set = sources.set(key.set);
                        let lead = LEAD_MESSAGES * SHARE_SCALE / sources.greatest_weight(&set);
                        let slowest = slowest(shares, &set, source, now, memory);
                        let time = slowest.saturating_add(lead);
                        bound = Some((key.set, time));
                        time
                    }
                };
                if own_time > furthest {
                    held_back = true;
                    return false;
                }
                if any_delivery && of_reactions.delivery_waits(key.delivery, now).is_some() {
                    if !slowed.contains(&key.delivery) {
                        slowed.push(key.delivery);
                    }
                    return false;
                }
                let cap = key.cap.map(|limit| (key.delivery, limit));
                let purse = path.purse(cap.map(|(delivery, _)| delivery));
                if purse.usable(now) == 0 {
                    if !needs.contains(&cap) {
                        needs.push(cap);
                    }
                    return false;
                }
                true
            });
            let Some((lane, key, message)) = taken else { break };
            // A stream is swept only now and then; what its sweep has not met yet must not go either.
            let delivery = self.deliveries.get(&key.delivery);
            if delivery.is_some_and(|delivery| now >= delivery.valid_until(message.accepted_at)) {
                ended.push(message);
                continue;
            }
            let cap = key.cap.map(|_| key.delivery);
            let Some((lot, use_before)) = path.purse(cap).take(now) else {
                // The purse was looked at just before.
                group.window.push_front(lane, key, message);
                break;
            };
            self.reactions.pass(&reactions, now);
            if any_delivery {
                let of_delivery = self.reactions.about_delivery(key.delivery);
                self.reactions.pass(&of_delivery, now);
            }
            own_time = own_time.saturating_add(step);
            given.push_back(Assigned { message, lane, key, lot, use_before, cap });
        }
        let count = given.len();
        self.window_messages = self.window_messages.saturating_sub(count + ended.len());
        if let Some(share) = group.shares.get_mut(&source) {
            share.virtual_time = own_time;
            share.out_of_tokens = count == 0 && !needs.is_empty();
            if count > 0 {
                share.active_at = now;
            }
        }
        for message in ended {
            self.settle(now, &message, Fate::Final(FinalState::Expired), "validity ended");
        }
        if held_back {
            self.wake_group(ix, now + memory);
        }
        if let Some(gate) = gate {
            self.wake_group(ix, gate.max(now + MIN_WAIT));
        }
        for delivery in slowed {
            self.hold_slowed(now, ix, delivery);
        }
        // The next lot is asked for before this one is used up.
        for cap in needs {
            self.ask_tokens(now, path_key, &mx_host, cap, room);
        }
        if let Some(last) = given.back() {
            let cap = last.key.cap.map(|limit| (last.key.delivery, limit));
            let short = self.paths.get_mut(&path_key).is_some_and(|path| {
                let purse = path.purse(last.cap);
                purse.usable(now) < (purse.flow_per_second() / 2).max(room)
            });
            if short {
                self.ask_tokens(now, path_key, &mx_host, cap, room);
            }
        }
        if count > 0 {
            self.send(id, given);
        }
    }

    fn send(&mut self, id: ConnectionId, given: VecDeque<Assigned>) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let mut messages = Vec::with_capacity(given.len());
        for assigned in given {
            let use_before = assigned.use_before;
            let mode = if assigned.key.dry {
                SendMode::Dry
            } else {
                self.deliveries
                    .get(&assigned.message.delivery)
                    .map_or(SendMode::Real, |delivery| delivery.options.mode)
            };
            messages.push(Assignment { message: Arc::clone(&assigned.message), use_before, mode });
            connection.messages_left = connection.messages_left.saturating_sub(1);
            connection.messages_given += 1;
            connection.assigned.push_back(assigned);
        }
        if connection.idle_since.take().is_some() {
            self.lines.busy(connection.line, id);
        }
        if connection.assigned.len() == messages.len() {
            connection.busy_since = self.last;
        }
        let last = connection.messages_left == 0;
        if let Some(group) = self.groups[connection.group].as_mut() {
            group.in_flight += messages.len();
        }
        self.commands.push_back(Command::Send { connection: id, messages });
        if last {
            self.close(id);
        }
    }

    /// Notes which connections have nothing to do, so that they are closed in time: at once where others wait for their
    /// permit.
    fn rest_connections(&mut self, now: Timestamp, ix: usize) {
        let Some(group) = self.groups[ix].as_mut() else { return };
        let nothing_to_do = group.window.len() == 0 && group.claims_open == 0;
        let mut lines = Vec::new();
        for id in core::mem::take(&mut group.fresh) {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            let idle = connection.state == ConnectionState::Ready && connection.assigned.is_empty();
            if idle && connection.idle_since.is_none() {
                connection.idle_since = Some(now);
                let (path, line) = (connection.path, connection.line);
                if !core::mem::replace(&mut connection.idle_wake, true) {
                    self.wakes.insert((now + self.settings.idle_timeout, Wake::Idle(id)));
                }
                self.lines.idle(line, id);
                self.look_at_tokens(now, path);
                lines.push(line);
            }
        }
        if nothing_to_do {
            // Those that became idle earlier were perhaps needed for what was being claimed.
            let Some(group) = self.groups[ix].as_ref() else { return };
            let connections = group.connections.iter().filter_map(|id| self.connections.get(id));
            let idle = connections.filter(|connection| connection.idle_since.is_some());
            let idle: Vec<_> = idle.map(|connection| (connection.line, connection.path)).collect();
            lines = idle.iter().map(|(line, _)| *line).collect();
            lines.dedup();
            for (_, path) in idle {
                self.look_at_tokens(now, path);
            }
        }
        if lines.is_empty() {
            return;
        }
        for line in lines {
            self.close_idle_for_waiters(now, line);
        }
        self.close_idle_for_waiters(now, LineKey::Node);
    }

    pub(crate) fn idle_woken(&mut self, now: Timestamp, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.idle_wake = false;
        let Some(since) = connection.idle_since else { return };
        if connection.state != ConnectionState::Ready {
            return;
        }
        if now.since(since) >= self.settings.idle_timeout {
            return self.close(id);
        }
        // It was busy meanwhile.
        connection.idle_wake = true;
        self.wakes.insert((since + self.settings.idle_timeout, Wake::Idle(id)));
    }

    // ------------------------------------------------------------------ reasons

    fn note_reason(&mut self, now: Timestamp, ix: usize, blocked: Option<Waiting>) {
        let Some(group) = self.groups[ix].as_ref() else { return };
        if group.window.len() == 0 && !group.has_line() {
            if let Some(group) = self.groups[ix].as_mut() {
                group.waiting = None;
            }
            return;
        }
        if group.claims_held_until > now && group.window.len() == 0 && group.waiting.is_some() {
            // It gave its messages back because of what it waits for, and it still does.
            return;
        }
        if group.outside.is_some() && group.window.len() == 0 {
            // Why it stands there is asked of its budgets.
            return;
        }
        let soon = Timestamp::NEVER;
        let waiting = if group.in_flight > 0 {
            Waiting { reason: WaitReason::InTurn, until: soon }
        } else if self.is_connecting(group) {
            Waiting { reason: WaitReason::Connecting, until: soon }
        } else if let Some(wait) = blocked.or_else(|| self.connected_wait(now, group)) {
            wait
        } else {
            Waiting { reason: WaitReason::InTurn, until: soon }
        };
        let blocked_long =
            waiting.until != Timestamp::NEVER && waiting.until.since(now) > LONG_BLOCK;
        let gives_back = blocked_long && self.memory_is_short();
        if let Some(group) = self.groups[ix].as_mut() {
            if blocked_long {
                group.want = FIRST_WANT;
            }
            // An answer to a claim that was on its way when messages were given back may go at once after all.
            group.claims_held_until = if gives_back { waiting.until } else { Timestamp::EPOCH };
            group.waiting = Some(waiting);
        }
        if gives_back {
            self.empty_window(now, ix);
        }
    }

    fn is_connecting(&self, group: &Group) -> bool {
        let mut connections = group.connections.iter().filter_map(|id| self.connections.get(id));
        connections.any(|c| matches!(c.state, ConnectionState::Permit | ConnectionState::Opening))
    }

    /// The wait for tokens that ends first on the paths of a group's connections.
    fn connected_wait(&self, now: Timestamp, group: &Group) -> Option<Waiting> {
        let connections = group.connections.iter().filter_map(|id| self.connections.get(id));
        let paths = connections.filter_map(|connection| self.paths.get(&connection.path));
        let waits = paths.filter_map(|path| {
            let mut waits = path.purses.iter().filter_map(|purse| purse.wait.as_ref());
            waits.find_map(|wait| Some((wait.until.filter(|until| *until > now)?, wait)))
        });
        let (until, wait) = waits.min_by_key(|(until, _)| *until)?;
        Some(Waiting { reason: WaitReason::Quota { wait: wait.clone() }, until })
    }

    /// Whether groups that cannot send should leave the room in the windows to others.
    fn memory_is_short(&self) -> bool {
        self.window_messages > self.settings.window_messages_max / 4 * 3
    }
}

/// How many messages a connection may be given where one takes `message_micros` (0: not known).
pub(crate) fn depth_max(message_micros: u64, settings: &Settings) -> u32 {
    let most = settings.assigned_per_connection_max;
    let in_time = DEPTH_TIME.as_micros() as u64 / message_micros.max(1);
    u32::try_from(in_time.max(DEPTH_MIN)).map_or(most, |depth| depth.min(most))
}

/// How long a source of the group may be without progress and still hold the others back.
fn share_memory(group: &Group) -> Duration {
    SHARE_MEMORY.max(Duration::from_micros(group.message_micros * SHARE_MEMORY_MESSAGES))
}

/// The least virtual time of the sources of a set that are sending now.
fn slowest(
    shares: &std::collections::BTreeMap<SourceId, crate::group::Share>,
    set: &[SourceId],
    own: SourceId,
    now: Timestamp,
    memory: Duration,
) -> u64 {
    set.iter()
        .filter(|source| **source != own)
        .filter_map(|source| shares.get(source))
        .filter(|share| !share.out_of_tokens && now.since(share.active_at) < memory)
        .map(|share| share.virtual_time)
        .min()
        .unwrap_or(u64::MAX)
}

/// Whether a group waits for a budget of the rules: for its connections, or for its tokens.
fn is_for_a_budget(waiting: &Waiting) -> bool {
    match &waiting.reason {
        WaitReason::NodeConnectionLimit => true,
        WaitReason::Quota { wait } => match wait.limit {
            QuotaLimit::Source
            | QuotaLimit::WarmUpHour
            | QuotaLimit::WarmUpDay
            | QuotaLimit::WarmUpProvider
            | QuotaLimit::Delivery
            | QuotaLimit::Ledger
            | QuotaLimit::LedgerFull => false,
            QuotaLimit::Hour
            | QuotaLimit::Period
            | QuotaLimit::Pace
            | QuotaLimit::MinuteEnd
            | QuotaLimit::Connections
            | QuotaLimit::ConnectionRate
            | QuotaLimit::ConnectionInterval => true,
        },
        _ => false,
    }
}

/// Keeps the one of two waits that ends first.
pub(crate) fn earlier(kept: &mut Option<Waiting>, other: Waiting) {
    if kept.as_ref().is_none_or(|before| other.until < before.until) {
        *kept = Some(other);
    }
}

/// No wait is shorter: the ledger is not asked in a hot loop.
pub(crate) const MIN_WAIT: Duration = Duration::from_millis(5);
