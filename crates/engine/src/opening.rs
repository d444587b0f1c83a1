//! Opening connections: which source, which target, and whether one more pays.

use std::collections::VecDeque;
use std::sync::Arc;

use mail::id::{ConnectionId, DeliveryId, SourceId};
use mail::route::RelayTls;
use mail::time::Timestamp;
use quota::PathKey;
use rules::{RuleId, TlsPolicy};

use crate::connection::{Connection, ConnectionState};
use crate::engine::Engine;
use crate::event::{Command, ConnectionPlan, QuotaLimit, QuotaWait, TlsUse};
use crate::group::Target;
use crate::line::{LINE_POLL, LineKey};
use crate::path::Path;
use crate::reason::{WaitReason, Waiting};
use crate::shaping::{FIRST_DEPTH, MIN_WAIT, depth_max, earlier};

/// Why no connection can be opened now.
struct Refusal {
    waiting: Waiting,
    /// The budget whose turn is kept, because only a token is missing.
    token_of: Option<LineKey>,
    /// When the group looks for itself; never: it is woken by its place in line or by an answer.
    look_at: Timestamp,
}

impl From<Waiting> for Refusal {
    fn from(waiting: Waiting) -> Self {
        let look_at = waiting.until;
        Self { waiting, token_of: None, look_at }
    }
}

impl Refusal {
    /// The group stands in a line, and is woken when it is its turn.
    fn in_line(waiting: Waiting) -> Self {
        Self { waiting, token_of: None, look_at: Timestamp::NEVER }
    }
}

/// The connections of a group by what they are worth to it, dry ones and others apart.
#[derive(Default)]
struct Survey {
    /// Being asked for or opened.
    opening: u64,
    /// Ready, with tokens or the prospect of some.
    ready: u64,
    /// Sources of those that could take messages.
    free: Vec<SourceId>,
}

/// Why no target can be connected to now.
struct PathRefusal {
    waiting: Waiting,
    /// The budget whose connections are all in use.
    all_in_use: Option<LineKey>,
    /// When the group looks for itself; never: only a place in line helps.
    look_at: Timestamp,
}

/// Messages of a window that a source could send.
struct Demand {
    source: SourceId,
    dry: bool,
    /// A cap to be counted.
    cap: Option<(DeliveryId, u32)>,
    /// How many, those with other caps included.
    waiting: usize,
}

impl Engine {
    /// Opens the connections that the waiting messages are worth. Returns why no more could be opened, and the budgets
    /// for which only a token is missing.
    pub(crate) fn open(&mut self, now: Timestamp, ix: usize) -> (Option<Waiting>, Vec<LineKey>) {
        let mut blocked: Option<Waiting> = None;
        let mut waits_for_token = Vec::new();
        let mut opened: Vec<(SourceId, bool)> = Vec::new();
        let mut look_at = Timestamp::NEVER;
        let demand = self.demand(ix);
        if demand.is_empty() {
            return (None, Vec::new());
        }
        let mut surveys = self.survey(now, ix);
        for Demand { source, dry, cap, waiting } in demand {
            let survey = &mut surveys[usize::from(dry)];
            if opened.contains(&(source, dry)) || !self.worth_opening(ix, survey, source, waiting) {
                continue;
            }
            match self.open_one(now, ix, source, dry, cap) {
                Ok(()) => {
                    opened.push((source, dry));
                    survey.opening += 1;
                }
                Err(refusal) => {
                    waits_for_token.extend(refusal.token_of);
                    look_at = look_at.min(refusal.look_at);
                    // Of several sources the one that may move first is the reason.
                    earlier(&mut blocked, refusal.waiting);
                }
            }
        }
        if look_at != Timestamp::NEVER {
            self.wake_group(ix, look_at.max(now + MIN_WAIT));
        }
        (blocked, waits_for_token)
    }

    /// What waits, per source that could send it and cap; the source that has sent least comes first.
    fn demand(&self, ix: usize) -> Vec<Demand> {
        let Some(group) = self.groups[ix].as_ref() else { return Vec::new() };
        let mut demand: Vec<Demand> = Vec::new();
        for (key, count) in group.window.queues() {
            let cap = key.cap.map(|limit| (key.delivery, limit));
            for source in self.sources.set(key.set).iter() {
                let mut known = false;
                let mut waiting = count;
                let same = |d: &&mut Demand| d.source == *source && d.dry == key.dry;
                for other in demand.iter_mut().filter(same) {
                    known |= other.cap == cap;
                    other.waiting += count;
                    waiting = other.waiting;
                }
                if !known {
                    demand.push(Demand { source: *source, dry: key.dry, cap, waiting });
                }
            }
        }
        demand.sort_by_key(|demand| {
            let share = group.shares.get(&demand.source);
            (share.map_or(0, |share| share.virtual_time), demand.source)
        });
        demand
    }

    /// The connections of a group as they are now: the real ones, and the dry ones.
    fn survey(&self, now: Timestamp, ix: usize) -> [Survey; 2] {
        let mut surveys = <[Survey; 2]>::default();
        let Some(group) = self.groups[ix].as_ref() else { return surveys };
        for id in &group.connections {
            let Some(connection) = self.connections.get(id) else { continue };
            let survey = &mut surveys[usize::from(connection.dry)];
            match connection.state {
                ConnectionState::Permit | ConnectionState::Opening => survey.opening += 1,
                ConnectionState::Ready => {
                    // One whose own path has no tokens left does not stand for other paths.
                    if self.paths.get(&connection.path).is_some_and(|p| p.has_prospects(now)) {
                        survey.ready += 1;
                        let source = connection.path.source;
                        if connection.room() > 0 && !survey.free.contains(&source) {
                            survey.free.push(source);
                        }
                    }
                }
                // It will be replaced if there is more to do.
                ConnectionState::Closing => {}
            }
        }
        surveys
    }

    /// Whether one more connection pays: the messages that wait outlast what the open connections deliver
    /// while a new one is set up. Connections at most double in one set-up time.
    fn worth_opening(&self, ix: usize, survey: &Survey, source: SourceId, waiting: usize) -> bool {
        let Some(group) = self.groups[ix].as_ref() else { return false };
        let (ready, opening) = (survey.ready, survey.opening);
        if survey.free.contains(&source) {
            // It waits for tokens that were asked for, or for its turn by weight: another would wait too.
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
    ) -> Result<(), Refusal> {
        let full = self.connections.len() >= self.settings.connections_max;
        if full || !self.has_turn(ix, LineKey::Node) {
            let first = full && self.use_turn(ix, LineKey::Node);
            let waiting = self.stand_in_permit_line(now, ix, LineKey::Node, first);
            return Err(Refusal::in_line(waiting));
        }
        let picked = self.pick_path(now, ix, source, cap.map(|(delivery, _)| delivery));
        let (target, rule) = match picked {
            Ok(picked) => picked,
            Err(PathRefusal { waiting, all_in_use, look_at }) => {
                if let Some(line) = all_in_use {
                    self.stand_in_permit_line(now, ix, line, false);
                }
                return Err(Refusal { waiting, token_of: None, look_at });
            }
        };
        let key = PathKey { source, target: target.address };
        let line = LineKey::new(&self.rules, rule, key);
        let path = self.paths.entry(key).or_insert_with(|| Path::new(&target.host));
        path.mx_host = Arc::clone(&target.host);
        if !path.groups.contains(&ix) {
            path.groups.push(ix);
        }
        // Without a token a connection would be of no use: first the token.
        if path.purse(cap.map(|(delivery, _)| delivery)).usable(now) == 0 {
            self.ask_tokens(now, key, &target.host, cap, FIRST_DEPTH);
            let waiting = Waiting { reason: WaitReason::Connecting, until: Timestamp::NEVER };
            return Err(Refusal { token_of: Some(line), ..Refusal::in_line(waiting) });
        }
        if !self.has_turn(ix, line) {
            return Err(Refusal::in_line(self.stand_in_permit_line(now, ix, line, false)));
        }
        self.use_turn(ix, LineKey::Node);
        let in_turn = self.use_turn(ix, line);
        let limits = self.rules.limits(rule, source);
        let id = ConnectionId(self.next_connection);
        self.next_connection += 1;
        if let Some(path) = self.paths.get_mut(&key) {
            path.connections += 1;
        }
        let message_micros = self.groups[ix].as_ref().map_or(0, |group| group.message_micros);
        let connection = Connection {
            group: ix,
            path: key,
            mx_host: Arc::clone(&target.host),
            rule,
            line,
            rule_name: Arc::from(&*self.rules.rule(rule).name),
            rules_version: self.rules.version(),
            dry,
            state: ConnectionState::Permit,
            messages_given: 0,
            messages_left: limits.max_messages_per_connection.max(1),
            assigned: VecDeque::new(),
            depth: FIRST_DEPTH.min(depth_max(message_micros, &self.settings)),
            answered: 0,
            taken: 0,
            asked_at: now,
            busy_since: now,
            idle_since: None,
            idle_wake: false,
            in_turn,
            opportunistic: false,
            opened: false,
            recalled: false,
        };
        self.reactions_count_connection(now, key, &target.host);
        self.connections.insert(id, connection);
        self.lines.opened(line);
        if let Some(group) = self.groups[ix].as_mut() {
            group.connections.push(id);
        }
        let mx_host = target.host;
        self.commands.push_back(Command::AskPermit { connection: id, path: key, mx_host });
        Ok(())
    }

    /// The target to connect to: of the best preference that does not rest as a whole, the one with the fewest
    /// connections; among equals one for which tokens are held, then by lot. A backup host is used only when the better ones rest,
    /// never because their quota is used up.
    fn pick_path(
        &mut self,
        now: Timestamp,
        ix: usize,
        source: SourceId,
        cap: Option<DeliveryId>,
    ) -> Result<(Target, RuleId), PathRefusal> {
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
            // Connections and how near tokens are (held, asked for, neither): the least is the best.
            let mut free: Vec<((u32, u8), &Target, RuleId)> = Vec::new();
            let mut quota: Option<Waiting> = None;
            let mut all_in_use: Option<LineKey> = None;
            let mut look_at = Timestamp::NEVER;
            for target in class {
                let rule = self.ruling(ix, &target.host, source);
                let key = PathKey { source, target: target.address };
                // Who asks for quiet is not gone round by another host.
                if let Some(waiting) = self.reaction_against(now, key, &target.host) {
                    look_at = look_at.min(waiting.until);
                    earlier(&mut quota, waiting);
                    continue;
                }
                let Some(path) = self.paths.get(&key) else {
                    free.push(((0, 2), target, rule));
                    continue;
                };
                if path.rests(now) {
                    let (cause, last) = (path.rest_cause, path.last_fault.to_string());
                    let reason = WaitReason::PathResting { cause, last };
                    earlier(&mut resting, Waiting { reason, until: path.rest_until });
                    continue;
                }
                let line = LineKey::new(&self.rules, rule, key);
                let releases = self.lines.releases(line);
                let wait = path
                    .active_token_wait(now, cap)
                    .or_else(|| path.active_permit_wait(now, releases));
                match wait {
                    Some(wait) => {
                        let until = wait.until.unwrap_or(now + LINE_POLL);
                        if wait.limit == QuotaLimit::Connections {
                            all_in_use = Some(line);
                        } else {
                            look_at = look_at.min(until);
                        }
                        let reason = WaitReason::Quota { wait: wait.clone() };
                        earlier(&mut quota, Waiting { reason, until });
                    }
                    None => {
                        let near = match path.tokens_near(now, cap) {
                            (true, _) => 0,
                            (false, true) => 1,
                            (false, false) => 2,
                        };
                        free.push(((path.connections, near), target, rule));
                    }
                }
            }
            if let Some(best) = free.iter().map(|(order, ..)| *order).min() {
                free.retain(|(order, ..)| *order == best);
                // At most a few hundred targets.
                let at = self.random.below(free.len() as u64) as usize;
                let (_, target, rule) = free.swap_remove(at);
                return Ok((target.clone(), rule));
            }
            if let Some(waiting) = quota {
                return Err(PathRefusal { waiting, all_in_use, look_at });
            }
        }
        let waiting = resting.unwrap_or_else(|| Waiting {
            reason: WaitReason::PathResting {
                cause: crate::path::RestCause::Unreachable,
                last: format!("no address of the mail hosts can be reached from source {source}"),
            },
            until: now + self.settings.path_rest_max,
        });
        let look_at = waiting.until;
        Err(PathRefusal { waiting, all_in_use: None, look_at })
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
                // Its budget is not known any more; the group in front of the line looks for itself.
                self.commands.push_back(Command::ReleasePermit { connection: id });
            }
            return;
        };
        let (ix, key, rule) = (connection.group, connection.path, connection.rule);
        let (line, in_turn) = (connection.line, connection.in_turn);
        let mx_host = Arc::clone(&connection.mx_host);
        let closing = connection.state == ConnectionState::Closing;
        self.dirty.insert(ix);
        if let Err(wait) = answer {
            let limit = wait.limit;
            self.forget_connection(id);
            self.node_released();
            let releases = self.lines.releases(line);
            if let Some(path) = self.paths.get_mut(&key) {
                path.permit_wait = Some(wait);
                path.permit_wait_releases = releases;
            }
            if limit == QuotaLimit::Connections {
                self.stand_in_permit_line(now, ix, line, in_turn);
            }
            return;
        }
        let suspended = self.suspended(key, &mx_host);
        if closing || suspended || self.draining {
            self.forget_connection(id);
            self.commands.push_back(Command::ReleasePermit { connection: id });
            self.permit_released(line);
            return;
        }
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.state = ConnectionState::Opening;
        connection.opened = true;
        let of_relay = self.groups[ix].as_ref().and_then(|group| group.tls);
        let policy = match (of_relay, self.rules.rule(rule).tls) {
            (Some(RelayTls::Disabled), _) => TlsPolicy::Disabled,
            (Some(RelayTls::Opportunistic), _) => TlsPolicy::Opportunistic,
            (Some(RelayTls::Required), _) => TlsPolicy::Required,
            (None, TlsPolicy::Default) => self.settings.default_tls,
            (None, policy) => policy,
        };
        let path = self.paths.get(&key);
        let clear = path.is_some_and(|path| now < path.clear_text_until);
        let chunking = path.is_none_or(|path| now >= path.no_chunking_until);
        let tls = match policy {
            TlsPolicy::Disabled => TlsUse::Off,
            TlsPolicy::Required => TlsUse::Required,
            TlsPolicy::Default | TlsPolicy::Opportunistic if clear => TlsUse::Off,
            TlsPolicy::Default | TlsPolicy::Opportunistic => TlsUse::Opportunistic,
        };
        connection.opportunistic = tls == TlsUse::Opportunistic;
        let (port, lmtp, relay) = match self.groups[ix].as_ref() {
            Some(group) => (group.port, group.lmtp, group.relay),
            None => (25, false, false),
        };
        let plan = ConnectionPlan {
            path: key,
            port,
            mx_host: Arc::clone(&connection.mx_host),
            tls,
            lmtp,
            chunking,
            relay,
            dry: connection.dry,
            timeouts: self.rules.rule(rule).timeouts,
            rule: Arc::clone(&connection.rule_name),
        };
        self.commands.push_back(Command::Connect { connection: id, plan: Box::new(plan) });
    }

    /// Asks a connection to finish and close.
    pub(crate) fn close(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.state == ConnectionState::Closing {
            return;
        }
        let open = matches!(connection.state, ConnectionState::Opening | ConnectionState::Ready);
        connection.state = ConnectionState::Closing;
        self.lines.closing(connection.line, id);
        if open {
            self.commands.push_back(Command::Close { connection: id });
        }
    }

    /// Takes a connection out of all tables.
    pub(crate) fn forget_connection(&mut self, id: ConnectionId) -> Option<Connection> {
        let connection = self.connections.remove(&id)?;
        let was_closing = connection.state == ConnectionState::Closing;
        self.lines.closed(connection.line, id, was_closing);
        if let Some(group) = self.groups[connection.group].as_mut() {
            group.connections.retain(|member| *member != id);
            group.fresh.retain(|member| *member != id);
            group.in_flight = group.in_flight.saturating_sub(connection.assigned.len());
            self.dirty.insert(connection.group);
        }
        if let Some(path) = self.paths.get_mut(&connection.path) {
            path.connections = path.connections.saturating_sub(1);
        }
        self.give_back_unneeded(self.last, connection.path);
        Some(connection)
    }
}
