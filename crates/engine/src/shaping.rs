//! Shaping: what an MX group does next.
//!
//! [`Engine::pump`] is the one place where it is decided which message goes over which connection, which
//! connections are opened, what is claimed, and, where nothing can be done, why.

use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

use mail::id::{ConnectionId, DeliveryId, SourceId};
use mail::time::Timestamp;
use quota::{LotId, PathKey};
use rules::{RuleId, TlsPolicy};

use crate::connection::{Assigned, Connection, ConnectionState};
use crate::engine::{Engine, LINE_POLL, SHARE_SCALE, Wake};
use crate::event::{Assignment, Command, ConnectionPlan, QuotaLimit, QuotaWait, TlsUse, Tokens};
use crate::group::{FIRST_WANT, Target};
use crate::path::{HeldLot, Path};
use crate::reason::{WaitReason, Waiting};
use crate::sources::SetId;
use crate::work::SendMode;

/// How many messages at weight 1 a source may be ahead of the one that has sent least.
const LEAD_MESSAGES: u64 = 32;

/// A source that has made no progress for so long does not hold the others back.
const SHARE_MEMORY: Duration = Duration::from_millis(500);

/// Messages a new connection is given at first.
const FIRST_DEPTH: u32 = 4;

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
            return self.group_waits(ix, WaitReason::StoreSick, Timestamp::NEVER);
        }
        if group.breaker.is_open(now) {
            let until = group.breaker.open_until;
            self.group_waits(ix, WaitReason::BreakerOpen, until);
            self.wake_group(ix, until);
            return self.empty_window(now, ix);
        }
        self.refill(now, ix);
        self.assign_all(now, ix);
        let blocked = self.open(now, ix);
        self.refill(now, ix);
        self.pass_turn_on(ix);
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
        let messages = group.window.remove(None);
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
                let Some(group) = self.groups[ix].as_mut() else { return };
                let held = group.window.lane_len(lane);
                let full = self.window_messages >= self.settings.window_messages_max;
                if group.line[lane].is_empty()
                    || held >= group.want.div_ceil(2)
                    || group.claims_open >= GROUP_CLAIMS_MAX
                    || full
                {
                    break;
                }
                let Some(domain) = group.line[lane].pop_front() else { break };
                let wanted = group.want - held;
                let limit = u32::try_from(wanted)
                    .unwrap_or(u32::MAX)
                    .clamp(1, self.settings.claim_messages_max);
                if let Some(domain) = self.domains[domain].as_mut() {
                    domain.in_line[lane] = false;
                }
                if self.claim(now, domain, lane, limit) {
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
            return self.rest_connections(now, ix);
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
        self.rest_connections(now, ix);
    }

    /// Gives a connection as many messages as it may have.
    fn assign(&mut self, now: Timestamp, ix: usize, id: ConnectionId) {
        let Some(connection) = self.connections.get(&id) else { return };
        let (room, dry, source) = (connection.room(), connection.dry, connection.path.source);
        let (path_key, mx_host) = (connection.path, Arc::clone(&connection.mx_host));
        let Some(group) = self.groups[ix].as_mut() else { return };
        let Some(path) = self.paths.get_mut(&path_key) else { return };
        let weight = u64::from(self.sources.get(source).map_or(1, |source| source.weight)).max(1);
        let step = u64::from(SHARE_SCALE) / weight;
        let mut own_time = group.shares.get(&source).map_or(0, |share| share.virtual_time);
        let mut floor: Option<(SetId, u64)> = None;
        let mut held_back = false;
        let mut needs: Vec<Option<(DeliveryId, u32)>> = Vec::new();
        let mut given: VecDeque<Assigned> = VecDeque::new();
        while (given.len() as u32) < room {
            let sources = &self.sources;
            let shares = &group.shares;
            let taken = group.window.take(|key| {
                if key.dry != dry || !sources.set_has(key.set, source) {
                    return false;
                }
                let lead_from = match floor {
                    Some((set, time)) if set == key.set => time,
                    _ => {
                        let time = slowest(shares, &sources.set(key.set), source, now);
                        floor = Some((key.set, time));
                        time
                    }
                };
                if own_time > lead_from.saturating_add(LEAD_MESSAGES * u64::from(SHARE_SCALE)) {
                    held_back = true;
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
            let cap = key.cap.map(|_| key.delivery);
            let Some((lot, use_before)) = path.purse(cap).take(now) else {
                // The purse was looked at just before.
                group.window.push_front(lane, key, message);
                break;
            };
            own_time = own_time.saturating_add(step);
            given.push_back(Assigned { message, lane, key, lot, use_before, cap });
        }
        let count = given.len();
        self.window_messages = self.window_messages.saturating_sub(count);
        if let Some(share) = group.shares.get_mut(&source) {
            share.virtual_time = own_time;
            share.out_of_tokens = count == 0 && !needs.is_empty();
            if count > 0 {
                share.active_at = now;
            }
        }
        if held_back {
            self.wake_group(ix, now + SHARE_MEMORY);
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
            connection.assigned.push_back(assigned);
        }
        connection.idle_since = None;
        let last = connection.messages_left == 0;
        self.idle.remove(&id);
        self.commands.push_back(Command::Send { connection: id, messages });
        if last {
            self.close(id);
        }
    }

    /// Notes which connections have nothing to do, so that they are closed in time.
    fn rest_connections(&mut self, now: Timestamp, ix: usize) {
        let Some(group) = self.groups[ix].as_ref() else { return };
        for id in &group.connections {
            let Some(connection) = self.connections.get_mut(id) else { continue };
            let idle = connection.state == ConnectionState::Ready && connection.assigned.is_empty();
            if idle && connection.idle_since.is_none() {
                connection.idle_since = Some(now);
                self.idle.insert(*id, connection.rule);
                self.wakes.insert((now + self.settings.idle_timeout, Wake::Idle(*id)));
            }
        }
    }

    pub(crate) fn idle_woken(&mut self, now: Timestamp, id: ConnectionId) {
        let Some(connection) = self.connections.get(&id) else { return };
        let over = connection
            .idle_since
            .is_some_and(|since| now.since(since) >= self.settings.idle_timeout);
        if over && connection.state == ConnectionState::Ready {
            self.close(id);
        }
    }

    // ------------------------------------------------------------------ tokens

    /// Asks for tokens, unless a request is on its way or was put off.
    fn ask_tokens(
        &mut self,
        now: Timestamp,
        path: PathKey,
        mx_host: &Arc<str>,
        cap: Option<(DeliveryId, u32)>,
        room: u32,
    ) {
        let lot_min = self.settings.lot_tokens_min;
        let Some(state) = self.paths.get_mut(&path) else { return };
        let purse = state.purse(cap.map(|(delivery, _)| delivery));
        let waits =
            purse.wait.as_ref().is_some_and(|wait| wait.until.is_some_and(|until| until > now));
        if purse.asked || waits {
            return;
        }
        purse.asked = true;
        let want = purse.flow_per_second().max(room).max(lot_min);
        let mx_host = Arc::clone(mx_host);
        self.commands.push_back(Command::AskTokens { path, mx_host, want, cap });
    }

    pub(crate) fn tokens_answered(
        &mut self,
        now: Timestamp,
        key: PathKey,
        cap: Option<DeliveryId>,
        answer: Result<Tokens, QuotaWait>,
    ) {
        let Some(path) = self.paths.get_mut(&key) else {
            if let Ok(tokens) = answer {
                self.give_back(tokens.lot, tokens.count);
            }
            return;
        };
        let purse = path.purse(cap);
        purse.asked = false;
        match answer {
            Ok(Tokens { count, lot, use_before }) => {
                purse.wait = None;
                purse.held.push_back(HeldLot { lot, tokens: count, use_before });
                self.wakes.insert((use_before, Wake::Path(key)));
            }
            Err(wait) => {
                let until = wait.until.unwrap_or(now + LINE_POLL).max(now + MIN_WAIT);
                purse.wait = Some(QuotaWait { until: Some(until), ..wait });
                self.wakes.insert((until, Wake::Path(key)));
            }
        }
        self.dirty.extend(path.groups.iter().copied());
    }

    pub(crate) fn give_back(&mut self, lot: LotId, count: u32) {
        self.commands.push_back(Command::GiveBack { lot, count });
    }

    /// A slot has ended, or a wait for tokens: what is left goes back, the groups go on.
    pub(crate) fn path_woken(&mut self, now: Timestamp, key: PathKey) {
        let Some(path) = self.paths.get_mut(&key) else { return };
        let over: Vec<HeldLot> =
            path.purses.iter_mut().flat_map(|purse| purse.take_out(Some(now))).collect();
        self.dirty.extend(path.groups.iter().copied());
        for held in over {
            self.give_back(held.lot, held.tokens);
        }
    }

    /// Gives tokens back that nobody on this path needs, so that another path can have them.
    fn give_back_unneeded(&mut self, key: PathKey) {
        let Some(path) = self.paths.get_mut(&key) else { return };
        if path.connections > 0 {
            return;
        }
        let unneeded: Vec<HeldLot> =
            path.purses.iter_mut().flat_map(|purse| purse.take_out(None)).collect();
        for held in unneeded {
            self.give_back(held.lot, held.tokens);
        }
    }

    // ------------------------------------------------------------------ opening

    /// Opens the connections that the waiting messages are worth. Returns why no more could be opened.
    fn open(&mut self, now: Timestamp, ix: usize) -> Option<Waiting> {
        let mut blocked: Option<Waiting> = None;
        for Demand { source, dry, cap, waiting } in self.demand(ix) {
            if !self.worth_opening(ix, source, dry, waiting) {
                continue;
            }
            match self.open_one(now, ix, source, dry, cap) {
                Ok(()) => {}
                Err(wait) => {
                    // Of several sources the one that may move first is the reason.
                    if blocked.as_ref().is_none_or(|before| wait.until < before.until) {
                        blocked = Some(wait);
                    }
                }
            }
        }
        if let Some(wait) = &blocked
            && wait.until != Timestamp::NEVER
        {
            self.wake_group(ix, wait.until.max(now + MIN_WAIT));
        }
        blocked
    }

    /// What waits, per source that could send it; the source that has sent least comes first.
    fn demand(&self, ix: usize) -> Vec<Demand> {
        let Some(group) = self.groups[ix].as_ref() else { return Vec::new() };
        let mut demand: Vec<Demand> = Vec::new();
        for (key, count) in group.window.queues() {
            for source in self.sources.set(key.set).iter() {
                let same = demand.iter_mut().find(|d| d.source == *source && d.dry == key.dry);
                match same {
                    Some(same) => same.waiting += count,
                    None => demand.push(Demand {
                        source: *source,
                        dry: key.dry,
                        cap: key.cap.map(|limit| (key.delivery, limit)),
                        waiting: count,
                    }),
                }
            }
        }
        demand.sort_by_key(|demand| {
            let share = group.shares.get(&demand.source);
            (share.map_or(0, |share| share.virtual_time), demand.source)
        });
        demand
    }

    /// Whether one more connection pays: the messages that wait outlast what the open connections deliver
    /// while a new one is set up. Connections at most double in one set-up time.
    fn worth_opening(&self, ix: usize, source: SourceId, dry: bool, waiting: usize) -> bool {
        let Some(group) = self.groups[ix].as_ref() else { return false };
        let (mut ready, mut opening, mut free_of_source) = (0_u64, 0_u64, 0_u64);
        for id in &group.connections {
            let Some(connection) = self.connections.get(id) else { continue };
            if connection.dry != dry {
                continue;
            }
            match connection.state {
                ConnectionState::Permit | ConnectionState::Opening => opening += 1,
                ConnectionState::Ready => {
                    ready += 1;
                    let free = connection.path.source == source && connection.room() > 0;
                    free_of_source += u64::from(free);
                }
                // It will be replaced if there is more to do.
                ConnectionState::Closing => {}
            }
        }
        if free_of_source > 0 {
            // It waits for tokens or for its turn by weight: another connection would wait too.
            return false;
        }
        if ready == 0 {
            return opening == 0;
        }
        if opening >= ready {
            return false;
        }
        let per_message = group.message_micros.max(1);
        let delivered_meanwhile = ready * group.setup_micros / per_message;
        waiting as u64 > delivered_meanwhile.max(ready)
    }

    fn open_one(
        &mut self,
        now: Timestamp,
        ix: usize,
        source: SourceId,
        dry: bool,
        cap: Option<(DeliveryId, u32)>,
    ) -> Result<(), Waiting> {
        if self.connections.len() >= self.settings.connections_max {
            self.close_some_idle(None);
            let until = now + LINE_POLL;
            return Err(Waiting { reason: WaitReason::NodeConnectionLimit, until });
        }
        let picked = self.pick_path(now, ix, source, cap.map(|(delivery, _)| delivery));
        let (target, rule) = match picked {
            Ok(picked) => picked,
            Err((wait, Some(rule))) => {
                self.stand_in_permit_line(now, ix, rule);
                return Err(wait);
            }
            Err((wait, None)) => return Err(wait),
        };
        let key = PathKey { source, target: target.address };
        let path = self.paths.entry(key).or_insert_with(Path::new);
        if !path.groups.contains(&ix) {
            path.groups.push(ix);
        }
        // Without a token a connection would be of no use: first the token.
        if path.purse(cap.map(|(delivery, _)| delivery)).usable(now) == 0 {
            self.ask_tokens(now, key, &target.host, cap, FIRST_DEPTH);
            return Err(Waiting { reason: WaitReason::Connecting, until: Timestamp::NEVER });
        }
        let served = self.groups[ix].as_ref().is_some_and(|group| group.served);
        let others = self.permit_lines.get(&rule).is_some_and(|line| !line.is_empty());
        if others && !served {
            return Err(self.stand_in_permit_line(now, ix, rule));
        }
        let limits = self.rules.limits(rule, source);
        let id = ConnectionId(self.next_connection);
        self.next_connection += 1;
        path.connections += 1;
        let connection = Connection {
            group: ix,
            path: key,
            mx_host: Arc::clone(&target.host),
            rule,
            rule_name: Arc::from(&*self.rules.rule(rule).name),
            rules_version: self.rules.version(),
            dry,
            state: ConnectionState::Permit,
            messages_left: limits.max_messages_per_connection.max(1),
            assigned: VecDeque::new(),
            depth: FIRST_DEPTH.min(self.settings.assigned_per_connection_max),
            answered: 0,
            asked_at: now,
            ready_at: now,
            idle_since: None,
            opportunistic: false,
        };
        self.connections.insert(id, connection);
        if let Some(group) = self.groups[ix].as_mut() {
            group.connections.push(id);
            group.served = false;
        }
        let mx_host = target.host;
        self.commands.push_back(Command::AskPermit { connection: id, path: key, mx_host });
        Ok(())
    }

    /// The target to connect to: of the best preference that does not rest as a whole, the one with the fewest
    /// connections; among equals by lot. A backup host is used only when the better ones rest,
    /// never because their quota is used up. With a refusal comes the rule whose connections are all in use.
    fn pick_path(
        &mut self,
        now: Timestamp,
        ix: usize,
        source: SourceId,
        cap: Option<DeliveryId>,
    ) -> Result<(Target, RuleId), (Waiting, Option<RuleId>)> {
        let ipv6 = self.sources.get(source).is_some_and(|source| source.ipv6);
        let targets: Vec<Target> = match self.groups[ix].as_ref() {
            Some(group) => group
                .targets
                .iter()
                .filter(|target| target.address.is_ipv6() == ipv6)
                .cloned()
                .collect(),
            None => Vec::new(),
        };
        let mut resting: Option<Waiting> = None;
        let mut from = 0;
        while from < targets.len() {
            let preference = targets[from].preference;
            let class: Vec<&Target> =
                targets[from..].iter().take_while(|t| t.preference == preference).collect();
            from += class.len();
            let mut free: Vec<(u32, &Target, RuleId)> = Vec::new();
            let mut quota: Option<Waiting> = None;
            let mut all_in_use: Option<RuleId> = None;
            for target in class {
                let rule = self.ruling(ix, &target.host, source);
                let key = PathKey { source, target: target.address };
                let Some(path) = self.paths.get(&key) else {
                    free.push((0, target, rule));
                    continue;
                };
                if path.rests(now) {
                    let (cause, last) = (path.rest_cause, path.last_fault.to_string());
                    let reason = WaitReason::PathResting { cause, last };
                    earlier(&mut resting, Waiting { reason, until: path.rest_until });
                    continue;
                }
                let releases = self.releases.get(&rule).copied().unwrap_or(0);
                let wait = path
                    .active_token_wait(now, cap)
                    .or_else(|| path.active_permit_wait(now, releases));
                match wait {
                    Some(wait) => {
                        if wait.limit == QuotaLimit::Connections {
                            all_in_use = Some(rule);
                        }
                        let until = wait.until.unwrap_or(now + LINE_POLL);
                        let reason = WaitReason::Quota { wait: wait.clone() };
                        earlier(&mut quota, Waiting { reason, until });
                    }
                    None => free.push((path.connections, target, rule)),
                }
            }
            if let Some(fewest) = free.iter().map(|(count, ..)| *count).min() {
                free.retain(|(count, ..)| *count == fewest);
                // At most a few hundred targets.
                let at = self.random.below(free.len() as u64) as usize;
                let (_, target, rule) = free.swap_remove(at);
                return Ok((target.clone(), rule));
            }
            if let Some(quota) = quota {
                return Err((quota, all_in_use));
            }
        }
        let wait = resting.unwrap_or_else(|| Waiting {
            reason: WaitReason::PathResting {
                cause: crate::path::RestCause::Unreachable,
                last: format!("no address of the mail hosts can be reached from source {source}"),
            },
            until: now + self.settings.path_rest_max,
        });
        Err((wait, None))
    }

    /// The rule for an MX host and a source.
    pub(crate) fn ruling(&mut self, ix: usize, host: &Arc<str>, source: SourceId) -> RuleId {
        let Some(group) = self.groups[ix].as_mut() else { return self.rules.find(host, source) };
        let rules = &self.rules;
        *group.rulings.entry((Arc::clone(host), source)).or_insert_with(|| rules.find(host, source))
    }

    pub(crate) fn permit_answered(
        &mut self,
        now: Timestamp,
        id: ConnectionId,
        answer: Result<(), QuotaWait>,
    ) {
        let Some(connection) = self.connections.get_mut(&id) else {
            if answer.is_ok() {
                self.commands.push_back(Command::ReleasePermit { connection: id });
            }
            return;
        };
        let (ix, key, rule) = (connection.group, connection.path, connection.rule);
        self.dirty.insert(ix);
        if let Err(wait) = answer {
            let limit = wait.limit;
            self.forget_connection(id);
            let releases = self.releases.get(&rule).copied().unwrap_or(0);
            if let Some(path) = self.paths.get_mut(&key) {
                path.permit_wait = Some(wait);
                path.permit_wait_releases = releases;
            }
            if limit == QuotaLimit::Connections {
                self.close_some_idle(Some(rule));
                self.stand_in_permit_line(now, ix, rule);
            }
            return;
        }
        if connection.state == ConnectionState::Closing || self.draining {
            self.forget_connection(id);
            self.commands.push_back(Command::ReleasePermit { connection: id });
            return;
        }
        connection.state = ConnectionState::Opening;
        let policy = self.rules.rule(rule).tls;
        let clear = self.paths.get(&key).is_some_and(|path| now < path.clear_text_until);
        let tls = match policy {
            TlsPolicy::Disabled => TlsUse::Off,
            TlsPolicy::Required => TlsUse::Required,
            TlsPolicy::Default | TlsPolicy::Opportunistic if clear => TlsUse::Off,
            TlsPolicy::Default | TlsPolicy::Opportunistic => TlsUse::Opportunistic,
        };
        connection.opportunistic = tls == TlsUse::Opportunistic;
        let (port, lmtp) = match self.groups[ix].as_ref() {
            Some(group) => (group.port, group.lmtp),
            None => (25, false),
        };
        let plan = ConnectionPlan {
            path: key,
            port,
            mx_host: Arc::clone(&connection.mx_host),
            tls,
            lmtp,
            dry: connection.dry,
            timeouts: self.rules.rule(rule).timeouts,
            rule: Arc::clone(&connection.rule_name),
        };
        self.commands.push_back(Command::Connect { connection: id, plan: Box::new(plan) });
    }

    // ------------------------------------------------------------------ lines for permits

    fn stand_in_permit_line(&mut self, now: Timestamp, ix: usize, rule: RuleId) -> Waiting {
        if let Some(group) = self.groups[ix].as_mut()
            && group.waits_for_permit.is_none()
        {
            group.waits_for_permit = Some(rule);
            self.permit_lines.entry(rule).or_default().push_back(ix);
        }
        self.wake_group(ix, now + LINE_POLL);
        let wait = QuotaWait {
            until: None,
            limit: QuotaLimit::Connections,
            rule: Box::from(&*self.rules.rule(rule).name),
            figure: 0,
            used: 0,
        };
        Waiting { reason: WaitReason::Quota { wait }, until: now + LINE_POLL }
    }

    /// A group is forgotten: its place in line too.
    pub(crate) fn leave_line(&mut self, ix: usize) {
        let Some(group) = self.groups[ix].as_mut() else { return };
        let Some(rule) = group.waits_for_permit.take() else { return };
        if let Some(line) = self.permit_lines.get_mut(&rule) {
            line.retain(|member| *member != ix);
        }
    }

    /// The first in a line looks for itself now and then: a release that was not seen here (another node's, a
    /// lease that expired) must not make it wait for ever.
    pub(crate) fn poll_line(&mut self, now: Timestamp, ix: usize) {
        let Some(rule) = self.groups[ix].as_ref().and_then(|group| group.waits_for_permit) else {
            return;
        };
        let first = self.permit_lines.get(&rule).and_then(|line| line.front()) == Some(&ix);
        if !first {
            return self.wake_group(ix, now + LINE_POLL);
        }
        *self.releases.entry(rule).or_insert(0) += 1;
        self.leave_line(ix);
        if let Some(group) = self.groups[ix].as_mut() {
            group.served = true;
            group.served_by_release = false;
        }
    }

    /// A permit of `rule` is free: the group that waits longest has its turn.
    pub(crate) fn permit_released(&mut self, rule: RuleId) {
        *self.releases.entry(rule).or_insert(0) += 1;
        let next = self.permit_lines.get_mut(&rule).and_then(VecDeque::pop_front);
        if let Some(ix) = next
            && let Some(group) = self.groups[ix].as_mut()
        {
            group.waits_for_permit = None;
            group.served = true;
            group.served_by_release = true;
            self.dirty.insert(ix);
        }
    }

    /// A group whose turn it was and that did not need it lets the next one go.
    fn pass_turn_on(&mut self, ix: usize) {
        let Some(group) = self.groups[ix].as_mut() else { return };
        if !core::mem::take(&mut group.served) || !group.served_by_release {
            return;
        }
        let rules: Vec<RuleId> = group.rulings.values().copied().collect();
        for rule in rules {
            let next = self.permit_lines.get_mut(&rule).and_then(VecDeque::pop_front);
            if let Some(next) = next
                && let Some(group) = self.groups[next].as_mut()
            {
                group.waits_for_permit = None;
                group.served = true;
                group.served_by_release = true;
                self.dirty.insert(next);
            }
        }
    }

    /// Closes an idle connection of `rule` (or of any), because others wait for its permit.
    fn close_some_idle(&mut self, rule: Option<RuleId>) {
        let idle = self
            .idle
            .iter()
            .find(|(_, of)| rule.is_none_or(|rule| rule == **of))
            .map(|(id, _)| *id);
        if let Some(id) = idle {
            self.close(id);
        }
    }

    /// Asks a connection to finish and close.
    pub(crate) fn close(&mut self, id: ConnectionId) {
        self.idle.remove(&id);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let open = matches!(connection.state, ConnectionState::Opening | ConnectionState::Ready);
        connection.state = ConnectionState::Closing;
        if open {
            self.commands.push_back(Command::Close { connection: id });
        }
    }

    /// Takes a connection out of all tables.
    pub(crate) fn forget_connection(&mut self, id: ConnectionId) -> Option<Connection> {
        let connection = self.connections.remove(&id)?;
        self.idle.remove(&id);
        if let Some(group) = self.groups[connection.group].as_mut() {
            group.connections.retain(|member| *member != id);
            self.dirty.insert(connection.group);
        }
        if let Some(path) = self.paths.get_mut(&connection.path) {
            path.connections = path.connections.saturating_sub(1);
        }
        self.give_back_unneeded(connection.path);
        Some(connection)
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
        let mut busy = false;
        let mut opening = false;
        let mut token_wait: Option<Waiting> = None;
        for id in &group.connections {
            let Some(connection) = self.connections.get(id) else { continue };
            busy |= !connection.assigned.is_empty();
            opening |=
                matches!(connection.state, ConnectionState::Permit | ConnectionState::Opening);
            let wait = self.paths.get(&connection.path).and_then(|path| {
                path.purses.iter().find_map(|purse| {
                    purse.wait.clone().filter(|wait| wait.until.is_some_and(|until| until > now))
                })
            });
            if let Some(wait) = wait {
                let until = wait.until.unwrap_or(Timestamp::NEVER);
                earlier(&mut token_wait, Waiting { reason: WaitReason::Quota { wait }, until });
            }
        }
        let soon = Timestamp::NEVER;
        let waiting = if busy {
            Waiting { reason: WaitReason::InTurn, until: soon }
        } else if opening {
            Waiting { reason: WaitReason::Connecting, until: soon }
        } else if let Some(wait) = blocked.or(token_wait) {
            wait
        } else {
            Waiting { reason: WaitReason::InTurn, until: soon }
        };
        let blocked_long =
            waiting.until != Timestamp::NEVER && waiting.until.since(now) > LONG_BLOCK;
        let short = self.window_messages > self.settings.window_messages_max / 4 * 3;
        if let Some(group) = self.groups[ix].as_mut() {
            if blocked_long {
                group.want = FIRST_WANT;
            }
            group.waiting = Some(waiting);
        }
        if blocked_long && short {
            self.empty_window(now, ix);
        }
    }
}

/// Messages of a window that a source could send.
struct Demand {
    source: SourceId,
    dry: bool,
    /// A cap to be counted.
    cap: Option<(DeliveryId, u32)>,
    waiting: usize,
}

/// The least virtual time of the sources of a set that are sending now.
fn slowest(
    shares: &std::collections::BTreeMap<SourceId, crate::group::Share>,
    set: &[SourceId],
    own: SourceId,
    now: Timestamp,
) -> u64 {
    set.iter()
        .filter(|source| **source != own)
        .filter_map(|source| shares.get(source))
        .filter(|share| !share.out_of_tokens && now.since(share.active_at) < SHARE_MEMORY)
        .map(|share| share.virtual_time)
        .min()
        .unwrap_or(u64::MAX)
}

/// Keeps the one of two waits that ends first.
fn earlier(kept: &mut Option<Waiting>, other: Waiting) {
    if kept.as_ref().is_none_or(|before| other.until < before.until) {
        *kept = Some(other);
    }
}

/// No wait is shorter: the ledger is not asked in a hot loop.
const MIN_WAIT: Duration = Duration::from_millis(5);
