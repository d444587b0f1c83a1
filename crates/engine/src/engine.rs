//! The engine itself: its tables, its events, its wakes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use mail::id::{ConnectionId, DeliveryId, MessageId, Priority};
use mail::route::{MxRoute, RouteFault};
use mail::time::Timestamp;
use rules::{RuleId, RuleSet};

use crate::connection::Connection;
use crate::domain::{Domain, DomainIx, RouteState};
use crate::event::{Command, Event};
use crate::group::{Group, Share};
use crate::path::Path;
use crate::random::Random;
use crate::settings::Settings;
use crate::sources::Sources;
use crate::window::{PRIORITIES, QueueKey, lane};
use crate::work::{
    Attempt, Delivery, DeliveryState, Fate, FinalState, QueuedMessage, SendMode, Settled,
};
use quota::PathKey;

/// What wants to be looked at when its time comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wake {
    /// A domain's next mail is due, or its route is to be asked again.
    Domain(DomainIx),
    /// A group may go on.
    Group(usize),
    /// A path's tokens end, or may be asked for again.
    Path(PathKey),
    /// A connection may be idle for too long.
    Idle(ConnectionId),
    /// A wave opens, or a delivery ends.
    Delivery(DeliveryId),
    /// Look for domains that are not known, forget what is idle.
    Scan,
}

/// How long between two looks at a group that waits in line for a permit: a release that was not seen must not make it
/// wait for ever.
pub(crate) const LINE_POLL: core::time::Duration = core::time::Duration::from_secs(2);

/// A delivery that may send, with the highest message number whose wave is open (`None`: all).
pub(crate) type OpenDelivery = (DeliveryId, Option<MessageId>);

/// Decides what happens to every message of one node. See the crate's documentation for the contract.
#[derive(Clone, Debug)]
pub struct Engine {
    pub(crate) settings: Settings,
    pub(crate) rules: Arc<RuleSet>,
    pub(crate) sources: Sources,
    pub(crate) random: Random,
    pub(crate) deliveries: BTreeMap<DeliveryId, Delivery>,
    /// Per priority: deliveries that may send, with the end of their open waves; `None`: to be made anew.
    pub(crate) open_deliveries: [Option<Vec<OpenDelivery>>; 3],
    pub(crate) domain_by_name: BTreeMap<Arc<str>, DomainIx>,
    pub(crate) domains: Vec<Option<Domain>>,
    pub(crate) free_domains: Vec<DomainIx>,
    /// Some domain with backlog did not fit into the table.
    pub(crate) overflowed: bool,
    pub(crate) scanning: bool,
    pub(crate) group_by_key: BTreeMap<String, usize>,
    pub(crate) groups: Vec<Option<Group>>,
    pub(crate) free_groups: Vec<usize>,
    pub(crate) paths: BTreeMap<PathKey, Path>,
    pub(crate) connections: BTreeMap<ConnectionId, Connection>,
    pub(crate) next_connection: u64,
    /// Connections with nothing to do, with their rule.
    pub(crate) idle: BTreeMap<ConnectionId, RuleId>,
    /// Groups that wait for a permit, per rule.
    pub(crate) permit_lines: BTreeMap<RuleId, VecDeque<usize>>,
    /// How often a permit of the rule was released.
    pub(crate) releases: BTreeMap<RuleId, u64>,
    pub(crate) wakes: BTreeSet<(Timestamp, Wake)>,
    pub(crate) dirty: BTreeSet<usize>,
    pub(crate) commands: VecDeque<Command>,
    pub(crate) settled: Vec<Settled>,
    pub(crate) attempts: Vec<Attempt>,
    /// Messages in all windows.
    pub(crate) window_messages: usize,
    pub(crate) claims_open: usize,
    pub(crate) store_sick: bool,
    pub(crate) draining: bool,
    pub(crate) drained: bool,
    last: Timestamp,
}

impl Engine {
    /// An engine without deliveries. Tell it of each by [`Event::DeliveryChanged`], then let it decide.
    #[must_use]
    pub fn new(settings: Settings, sources: Sources, rules: Arc<RuleSet>, now: Timestamp) -> Self {
        let random = Random::new(settings.seed);
        let mut engine = Self {
            settings,
            rules,
            sources,
            random,
            deliveries: BTreeMap::new(),
            open_deliveries: [None, None, None],
            domain_by_name: BTreeMap::new(),
            domains: Vec::new(),
            free_domains: Vec::new(),
            overflowed: false,
            scanning: false,
            group_by_key: BTreeMap::new(),
            groups: Vec::new(),
            free_groups: Vec::new(),
            paths: BTreeMap::new(),
            connections: BTreeMap::new(),
            next_connection: 1,
            idle: BTreeMap::new(),
            permit_lines: BTreeMap::new(),
            releases: BTreeMap::new(),
            wakes: BTreeSet::new(),
            dirty: BTreeSet::new(),
            commands: VecDeque::new(),
            settled: Vec::new(),
            attempts: Vec::new(),
            window_messages: 0,
            claims_open: 0,
            store_sick: false,
            draining: false,
            drained: false,
            last: now,
        };
        engine.wakes.insert((now, Wake::Scan));
        engine
    }

    /// When [`Engine::decide`] must be called even if nothing happens.
    #[must_use]
    pub fn wake_at(&self) -> Option<Timestamp> {
        self.wakes.first().map(|(at, _)| *at)
    }

    /// The next thing to be done.
    pub fn next_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// The MX rules in force.
    #[must_use]
    pub const fn rules(&self) -> &Arc<RuleSet> {
        &self.rules
    }

    /// Takes notice of an event. Conclusions are drawn by [`Engine::decide`].
    ///
    /// # Panics
    /// When time goes back: the caller's clock is broken.
    pub fn handle(&mut self, now: Timestamp, event: Event) {
        assert!(now >= self.last, "time never goes back");
        self.last = now;
        match event {
            Event::RulesReplaced(rules) => self.rules_replaced(rules),
            Event::DeliveryChanged(delivery) => self.delivery_changed(now, *delivery),
            Event::Queued { delivery, due, domains } => {
                let Some(known) = self.deliveries.get(&delivery) else { return };
                let lane = lane(known.options.priority);
                for name in domains {
                    self.found_due(now, &name, due, Some(lane));
                }
            }
            Event::DueFound { domains, next } => self.due_found(now, domains, next),
            Event::Claimed { domain, priority, messages, next_due } => {
                self.claimed(now, &domain, lane(priority), messages, next_due);
            }
            Event::RouteFound { domain, route } => self.route_found(now, &domain, route),
            Event::PermitAnswered { connection, answer } => {
                self.permit_answered(now, connection, answer);
            }
            Event::TokensAnswered { path, cap, answer } => {
                self.tokens_answered(now, path, cap, answer);
            }
            Event::ConnectionReady { connection } => self.connection_ready(now, connection),
            Event::MessagesDone { connection, results } => {
                self.messages_done(now, connection, results);
            }
            Event::ConnectionClosed { connection, end } => {
                self.connection_closed(now, connection, &end);
            }
            Event::SweepDone { delivery, more } => self.sweep_done(now, delivery, more),
            Event::StoreSick(sick) => {
                self.store_sick = sick;
                self.all_dirty();
            }
            Event::Drain => self.drain(),
        }
    }

    /// Draws the conclusions of all that happened up to `now`.
    pub fn decide(&mut self, now: Timestamp) {
        self.last = self.last.max(now);
        while let Some((at, wake)) = self.wakes.first().copied() {
            if at > now {
                break;
            }
            self.wakes.pop_first();
            self.woken(now, wake);
        }
        while let Some(group) = self.dirty.pop_first() {
            self.pump(now, group);
        }
        if !self.settled.is_empty() {
            let settled = core::mem::take(&mut self.settled);
            self.commands.push_back(Command::Settle(settled));
        }
        if !self.attempts.is_empty() {
            let attempts = core::mem::take(&mut self.attempts);
            self.commands.push_back(Command::Record(attempts));
        }
        if self.draining && !self.drained && self.connections.is_empty() && self.claims_open == 0 {
            self.drained = true;
            self.commands.push_back(Command::Drained);
        }
    }

    fn woken(&mut self, now: Timestamp, wake: Wake) {
        match wake {
            Wake::Domain(ix) => {
                if let Some(domain) = self.domains[ix].as_mut() {
                    domain.wake = Timestamp::NEVER;
                    self.touch_domain(now, ix);
                }
            }
            Wake::Group(ix) => {
                if let Some(group) = self.groups[ix].as_mut() {
                    group.wake = Timestamp::NEVER;
                    self.poll_line(now, ix);
                    self.dirty.insert(ix);
                }
            }
            Wake::Path(key) => self.path_woken(now, key),
            Wake::Idle(connection) => self.idle_woken(now, connection),
            Wake::Delivery(id) => self.delivery_woken(now, id),
            Wake::Scan => self.scan(now),
        }
    }

    pub(crate) fn all_dirty(&mut self) {
        for (ix, group) in self.groups.iter().enumerate() {
            if group.is_some() {
                self.dirty.insert(ix);
            }
        }
    }

    /// Wakes a group at `at` at the latest.
    pub(crate) fn wake_group(&mut self, ix: usize, at: Timestamp) {
        let Some(group) = self.groups[ix].as_mut() else { return };
        if at >= group.wake {
            return;
        }
        self.wakes.remove(&(group.wake, Wake::Group(ix)));
        group.wake = at;
        self.wakes.insert((at, Wake::Group(ix)));
    }

    fn rules_replaced(&mut self, rules: Arc<RuleSet>) {
        self.rules = rules;
        for group in self.groups.iter_mut().flatten() {
            group.rulings.clear();
        }
        for path in self.paths.values_mut() {
            path.permit_wait = None;
            for purse in &mut path.purses {
                purse.wait = None;
            }
        }
        // Rule numbers belong to a rule set: the lines of the old one are dissolved.
        self.permit_lines.clear();
        for group in self.groups.iter_mut().flatten() {
            group.waits_for_permit = None;
            group.served = false;
        }
        self.releases.clear();
        let rules = &self.rules;
        for connection in self.connections.values_mut() {
            connection.rule = rules.find(&connection.mx_host, connection.path.source);
            let limits = rules.limits(connection.rule, connection.path.source);
            connection.messages_left =
                connection.messages_left.min(limits.max_messages_per_connection);
        }
        for (id, rule) in &mut self.idle {
            if let Some(connection) = self.connections.get(id) {
                *rule = connection.rule;
            }
        }
        self.all_dirty();
    }

    // ------------------------------------------------------------------ deliveries

    fn delivery_changed(&mut self, now: Timestamp, delivery: Delivery) {
        let id = delivery.id;
        self.open_deliveries[lane(delivery.options.priority)] = None;
        let state = delivery.state;
        if let Some(before) = self.deliveries.get(&id) {
            self.open_deliveries[lane(before.options.priority)] = None;
        }
        match state {
            DeliveryState::Finished => {
                self.deliveries.remove(&id);
                return;
            }
            DeliveryState::Cancelled => {
                let newly = self.deliveries.get(&id).is_none_or(|d| d.state != state);
                self.deliveries.insert(id, delivery);
                for message in self.take_windows(Some(id)) {
                    self.settle(now, &message, Fate::Final(FinalState::Cancelled), "cancelled");
                }
                if newly {
                    self.commands.push_back(Command::CancelQueued { delivery: id });
                }
                return;
            }
            DeliveryState::Draft | DeliveryState::Paused => {
                self.deliveries.insert(id, delivery);
                for message in self.take_windows(Some(id)) {
                    self.give_message_back(now, &message);
                }
                return;
            }
            DeliveryState::Running => {}
        }
        self.deliveries.insert(id, delivery);
        self.schedule_delivery(now, id);
        self.unpark(now);
    }

    /// Looks at a delivery again when a wave opens, its validity ends, or a stream is to be swept.
    fn schedule_delivery(&mut self, now: Timestamp, id: DeliveryId) {
        let Some(delivery) = self.deliveries.get(&id) else { return };
        let ends = if delivery.options.stream {
            now + self.settings.stream_expiry_interval
        } else {
            delivery.valid_until(now)
        };
        let next = delivery.next_wave(now).map_or(ends, |wave| wave.min(ends));
        self.wakes.insert((next, Wake::Delivery(id)));
    }

    fn delivery_woken(&mut self, now: Timestamp, id: DeliveryId) {
        let Some(delivery) = self.deliveries.get(&id) else { return };
        if delivery.state != DeliveryState::Running {
            return;
        }
        let (stream, validity) = (delivery.options.stream, delivery.options.validity);
        let over = !stream && now >= delivery.valid_until(now);
        if over {
            for message in self.take_windows(Some(id)) {
                self.settle(now, &message, Fate::Final(FinalState::Expired), "validity ended");
            }
            self.commands.push_back(Command::Expire { delivery: id, accepted_before: None });
            // What is on a connection may still be put off and come back to the queue.
            self.wakes.insert((now + core::time::Duration::from_secs(60), Wake::Delivery(id)));
            return;
        }
        if stream {
            let before = now.saturating_sub(validity);
            self.commands
                .push_back(Command::Expire { delivery: id, accepted_before: Some(before) });
        }
        self.open_deliveries = [None, None, None];
        self.schedule_delivery(now, id);
        self.unpark(now);
    }

    fn sweep_done(&mut self, now: Timestamp, id: DeliveryId, more: bool) {
        let Some(delivery) = self.deliveries.get(&id) else { return };
        let (state, stream) = (delivery.state, delivery.options.stream);
        let before = stream.then(|| now.saturating_sub(delivery.options.validity));
        match (state, more) {
            (DeliveryState::Cancelled, true) => {
                self.commands.push_back(Command::CancelQueued { delivery: id });
            }
            (DeliveryState::Running, true) => {
                self.commands.push_back(Command::Expire { delivery: id, accepted_before: before });
            }
            _ => {}
        }
    }

    /// The deliveries of a lane that may send, the one whose turn it is first.
    pub(crate) fn open_deliveries(&mut self, now: Timestamp, lane: usize) -> Vec<OpenDelivery> {
        if self.open_deliveries[lane].is_none() {
            let open = self
                .deliveries
                .values()
                .filter(|delivery| delivery.options.priority == PRIORITIES[lane])
                .filter_map(|delivery| {
                    let until = delivery.open_until(now).ok()?;
                    Some((delivery.id, until))
                })
                .collect();
            self.open_deliveries[lane] = Some(open);
        }
        let Some(open) = &mut self.open_deliveries[lane] else { return Vec::new() };
        if open.len() > 1 {
            open.rotate_left(1);
        }
        open.clone()
    }

    // ------------------------------------------------------------------ domains

    fn due_found(
        &mut self,
        now: Timestamp,
        domains: Vec<(Box<str>, Timestamp)>,
        next: Option<u64>,
    ) {
        for (name, due) in domains {
            self.found_due(now, &name, due, None);
        }
        match next {
            Some(after) if self.domain_by_name.len() < self.settings.domains_max => {
                self.commands.push_back(Command::FindDue { after, limit: SCAN_DOMAINS });
            }
            more => {
                self.scanning = false;
                self.overflowed = more.is_some();
                let pause = if self.overflowed {
                    self.settings.scan_interval
                } else {
                    self.settings.scan_interval * 12
                };
                self.wakes.insert((now + pause, Wake::Scan));
            }
        }
    }

    /// Some mail for `name` is due at `due`: of one priority, or (`None`) of an unknown one.
    fn found_due(&mut self, now: Timestamp, name: &str, due: Timestamp, lane: Option<usize>) {
        let Some(ix) = self.domain_ix(name) else { return };
        if let Some(domain) = self.domains[ix].as_mut() {
            for candidate in 0..PRIORITIES.len() {
                if lane.is_none_or(|lane| lane == candidate) {
                    domain.due[candidate] = domain.due[candidate].min(due);
                    domain.parked[candidate] &= lane.is_none();
                }
            }
        }
        self.touch_domain(now, ix);
    }

    /// The number of a domain, which is added when there is room.
    fn domain_ix(&mut self, name: &str) -> Option<DomainIx> {
        if let Some(ix) = self.domain_by_name.get(name) {
            return Some(*ix);
        }
        if self.domain_by_name.len() >= self.settings.domains_max {
            self.overflowed = true;
            return None;
        }
        let name: Arc<str> = Arc::from(name);
        let domain = Some(Domain::new(Arc::clone(&name)));
        let ix = self.free_domains.pop().unwrap_or_else(|| {
            self.domains.push(None);
            self.domains.len() - 1
        });
        self.domains[ix] = domain;
        self.domain_by_name.insert(name, ix);
        Some(ix)
    }

    /// Brings a domain one step further: its route, its place in line, its wake.
    pub(crate) fn touch_domain(&mut self, now: Timestamp, ix: DomainIx) {
        let Some(domain) = self.domains[ix].as_mut() else { return };
        if !domain.has_backlog() || self.draining {
            return;
        }
        let due_now = (0..PRIORITIES.len()).any(|lane| domain.claimable(lane, now));
        let mut wake = domain.due.iter().copied().filter(|due| *due > now).min();
        match &mut domain.route {
            RouteState::Unknown if due_now => {
                domain.route = RouteState::Asked;
                let domain = Box::from(&*domain.name);
                self.commands.push_back(Command::FindRoute { domain });
            }
            RouteState::Unknown | RouteState::Asked => {}
            RouteState::Temporary { until, .. } | RouteState::Permanent { until, .. }
                if now >= *until && due_now =>
            {
                domain.route = RouteState::Asked;
                let domain = Box::from(&*domain.name);
                self.commands.push_back(Command::FindRoute { domain });
            }
            RouteState::Temporary { until, .. } => {
                wake = Some(wake.map_or(*until, |due| due.max(*until)));
            }
            RouteState::Permanent { .. } => {
                for lane in 0..PRIORITIES.len() {
                    self.claim(now, ix, lane, self.settings.claim_messages_max);
                }
            }
            RouteState::In { group, valid_until, refreshing } => {
                let group = *group;
                if now >= *valid_until && due_now && !*refreshing {
                    *refreshing = true;
                    let domain = Box::from(&*domain.name);
                    self.commands.push_back(Command::FindRoute { domain });
                }
                self.stand_in_line(now, ix, group);
            }
        }
        if let Some(at) = wake {
            self.wake_domain(ix, at);
        }
    }

    fn stand_in_line(&mut self, now: Timestamp, ix: DomainIx, group: usize) {
        let (Some(domain), Some(group_state)) =
            (self.domains[ix].as_mut(), self.groups[group].as_mut())
        else {
            return;
        };
        for lane in 0..PRIORITIES.len() {
            if domain.claimable(lane, now) && !domain.in_line[lane] {
                domain.in_line[lane] = true;
                group_state.line[lane].push_back(ix);
                self.dirty.insert(group);
            }
        }
    }

    fn wake_domain(&mut self, ix: DomainIx, at: Timestamp) {
        let Some(domain) = self.domains[ix].as_mut() else { return };
        if at >= domain.wake {
            return;
        }
        self.wakes.remove(&(domain.wake, Wake::Domain(ix)));
        domain.wake = at;
        self.wakes.insert((at, Wake::Domain(ix)));
    }

    /// Deliveries may send that could not before: look at all domains again.
    fn unpark(&mut self, now: Timestamp) {
        for ix in 0..self.domains.len() {
            if let Some(domain) = self.domains[ix].as_mut() {
                domain.parked = [false; 3];
                self.touch_domain(now, ix);
            }
        }
    }

    /// Asks the store for due messages of a domain. Returns whether it did.
    pub(crate) fn claim(&mut self, now: Timestamp, ix: DomainIx, lane: usize, limit: u32) -> bool {
        let open = match self.domains[ix].as_ref() {
            Some(domain) if domain.claimable(lane, now) => self.open_deliveries(now, lane),
            _ => return false,
        };
        let Some(domain) = self.domains[ix].as_mut() else { return false };
        if open.is_empty() {
            domain.parked[lane] = true;
            return false;
        }
        domain.claiming[lane] = true;
        self.claims_open += 1;
        self.commands.push_back(Command::Claim {
            domain: Box::from(&*domain.name),
            priority: PRIORITIES[lane],
            deliveries: open,
            due_until: now,
            limit,
        });
        true
    }

    fn claimed(
        &mut self,
        now: Timestamp,
        name: &str,
        lane: usize,
        messages: Vec<QueuedMessage>,
        next_due: Option<Timestamp>,
    ) {
        self.claims_open = self.claims_open.saturating_sub(1);
        // The table never forgets a domain with a claim on its way.
        let Some(ix) = self.domain_by_name.get(name).copied() else { return };
        let Some(domain) = self.domains[ix].as_mut() else { return };
        domain.claiming[lane] = false;
        domain.due[lane] = next_due.unwrap_or(Timestamp::NEVER);
        domain.parked[lane] = messages.is_empty() && next_due.is_some_and(|due| due <= now);
        domain.held += u32::try_from(messages.len()).unwrap_or(u32::MAX);
        let route = domain.route.clone();
        if let Some(group) = domain.claim_group[lane].take()
            && let Some(group) = self.groups[group].as_mut()
        {
            group.claims_open = group.claims_open.saturating_sub(1);
        }
        let name = Arc::clone(&domain.name);
        let mut key: Option<QueueKey> = None;
        for message in messages {
            let message = Arc::new(message);
            self.place(now, &name, &route, lane, message, &mut key);
        }
        if let RouteState::In { group, .. } = route {
            self.dirty.insert(group);
        }
        self.touch_domain(now, ix);
    }

    /// Puts a claimed message where it belongs: window, back to the store, or to its end.
    fn place(
        &mut self,
        now: Timestamp,
        domain: &str,
        route: &RouteState,
        lane: usize,
        message: Arc<QueuedMessage>,
        last_key: &mut Option<QueueKey>,
    ) {
        let Some(delivery) = self.deliveries.get(&message.delivery) else {
            return self.give_message_back(now, &message);
        };
        if now >= delivery.valid_until(message.accepted_at) {
            let fate = Fate::Final(FinalState::Expired);
            return self.settle(now, &message, fate, "validity ended");
        }
        if self.draining || delivery.open_until(now).is_err() {
            return self.give_message_back(now, &message);
        }
        let group = match route {
            RouteState::In { group, .. } => *group,
            RouteState::Permanent { fault, .. } => {
                let why = fault_words(domain, fault);
                return self.fail_unsent(now, message, &why);
            }
            _ => return self.give_message_back(now, &message),
        };
        let key = match last_key {
            Some(key) if key.delivery == message.delivery && message.pinned_source.is_none() => {
                *key
            }
            _ => {
                let mut ids = self.sources.admitted(&delivery.options.affinity, domain);
                if let Some(pinned) = message.pinned_source.filter(|pin| ids.contains(pin)) {
                    ids = vec![pinned];
                }
                if ids.is_empty() {
                    // Only a change of the configuration helps; looked at again now and then.
                    let due = now + NO_SOURCE_PAUSE;
                    return self.requeue(now, &message, due, "no source for this domain");
                }
                let key = QueueKey {
                    delivery: message.delivery,
                    set: self.sources.set_id(ids),
                    dry: delivery.options.mode == SendMode::Dry,
                    cap: delivery.options.messages_per_hour,
                };
                *last_key = message.pinned_source.is_none().then_some(key);
                key
            }
        };
        if let Some(group) = self.groups[group].as_mut() {
            group.window.push(lane, key, message);
            self.window_messages += 1;
        }
    }

    // ------------------------------------------------------------------ routes

    fn route_found(
        &mut self,
        now: Timestamp,
        name: &str,
        answer: Result<Arc<MxRoute>, RouteFault>,
    ) {
        let Some(ix) = self.domain_by_name.get(name).copied() else { return };
        let old = self.domains[ix].as_ref().map(|domain| domain.route.clone());
        let old_group = match old {
            Some(RouteState::In { group, .. }) => Some(group),
            _ => None,
        };
        let route = match answer {
            Ok(route) => {
                let group = self.group_of(name, &route);
                RouteState::In { group, valid_until: route.valid_until, refreshing: false }
            }
            Err(fault) if !fault.is_temporary() => {
                RouteState::Permanent { fault, until: now + PERMANENT_FAULT_HELD }
            }
            // A route that has worked goes on working while DNS does not.
            Err(_) if old_group.is_some() => RouteState::In {
                group: old_group.unwrap_or_default(),
                valid_until: now + self.settings.dns_retry,
                refreshing: false,
            },
            Err(fault) => {
                let failures = self.domains[ix].as_ref().map_or(0, |domain| domain.dns_failures);
                let pause = self.settings.dns_retry * (failures + 1).min(10);
                RouteState::Temporary { why: fault_words(name, &fault), until: now + pause }
            }
        };
        let new_group = match &route {
            RouteState::In { group, .. } => Some(*group),
            _ => None,
        };
        if old_group != new_group {
            if let Some(group) = old_group.and_then(|ix| self.groups[ix].as_mut()) {
                group.domains = group.domains.saturating_sub(1);
                for line in &mut group.line {
                    line.retain(|member| *member != ix);
                }
            }
            if let Some(group) = new_group.and_then(|ix| self.groups[ix].as_mut()) {
                group.domains += 1;
            }
        }
        if let Some(domain) = self.domains[ix].as_mut() {
            if old_group != new_group {
                domain.in_line = [false; 3];
            }
            domain.dns_failures = match route {
                RouteState::Temporary { .. } => domain.dns_failures.saturating_add(1),
                _ => 0,
            };
            domain.route = route;
        }
        self.touch_domain(now, ix);
    }

    fn group_of(&mut self, domain: &str, route: &MxRoute) -> usize {
        let key = mail::route::group_key(route);
        if let Some(ix) = self.group_by_key.get(&key).copied() {
            if let Some(group) = self.groups[ix].as_mut() {
                group.set_targets(route);
            }
            return ix;
        }
        let mut group = Group::new(key.clone(), route, Arc::from(domain));
        for source in self.sources.iter() {
            // An exponential race: the source that comes first is each one with the odds of its weight.
            let uniform = (self.random.next() >> 11) as f64 / (1_u64 << 53) as f64;
            let head_start = -(1.0 - uniform).ln() / f64::from(source.weight);
            let share = Share {
                virtual_time: (head_start * f64::from(SHARE_SCALE)) as u64,
                ..Share::default()
            };
            group.shares.insert(source.id, share);
        }
        let ix = self.free_groups.pop().unwrap_or_else(|| {
            self.groups.push(None);
            self.groups.len() - 1
        });
        self.groups[ix] = Some(group);
        self.group_by_key.insert(key, ix);
        ix
    }

    // ------------------------------------------------------------------ housekeeping

    fn scan(&mut self, now: Timestamp) {
        self.forget_idle(now);
        if !self.scanning && !self.draining {
            self.scanning = true;
            self.commands.push_back(Command::FindDue { after: 0, limit: SCAN_DOMAINS });
        }
    }

    /// Forgets domains, groups and paths that hold nothing: memory is bounded by what is in use.
    fn forget_idle(&mut self, now: Timestamp) {
        for ix in 0..self.domains.len() {
            let idle = self.domains[ix].as_ref().is_some_and(|domain| {
                domain.is_idle()
                    && domain.in_line == [false; 3]
                    && domain.route != RouteState::Asked
                    && !matches!(domain.route, RouteState::In { refreshing: true, .. })
            });
            if !idle {
                continue;
            }
            if let Some(domain) = self.domains[ix].take() {
                self.wakes.remove(&(domain.wake, Wake::Domain(ix)));
                self.domain_by_name.remove(&domain.name);
                self.free_domains.push(ix);
                if let RouteState::In { group, .. } = domain.route
                    && let Some(group) = self.groups[group].as_mut()
                {
                    group.domains = group.domains.saturating_sub(1);
                }
            }
        }
        for ix in 0..self.groups.len() {
            if self.groups[ix].as_ref().is_some_and(|group| group.is_idle(now)) {
                self.leave_line(ix);
                if let Some(group) = self.groups[ix].take() {
                    self.wakes.remove(&(group.wake, Wake::Group(ix)));
                    self.group_by_key.remove(&group.key);
                    self.free_groups.push(ix);
                    self.dirty.remove(&ix);
                }
                for path in self.paths.values_mut() {
                    path.groups.retain(|user| *user != ix);
                }
            }
        }
        self.paths.retain(|_, path| !path.is_idle(now) || !path.groups.is_empty());
    }

    fn drain(&mut self) {
        self.draining = true;
        let now = self.last;
        for message in self.take_windows(None) {
            self.give_message_back(now, &message);
        }
        let open: Vec<ConnectionId> = self.connections.keys().copied().collect();
        for connection in open {
            self.close(connection);
        }
    }

    /// Takes the messages of one delivery (or all) out of every window.
    pub(crate) fn take_windows(&mut self, delivery: Option<DeliveryId>) -> Vec<Arc<QueuedMessage>> {
        let mut taken = Vec::new();
        for group in self.groups.iter_mut().flatten() {
            taken.extend(group.window.remove(delivery));
        }
        self.window_messages = self.window_messages.saturating_sub(taken.len());
        taken
    }

    /// The domain of a message, which is in the table while one of its messages is held.
    pub(crate) fn domain_of(&self, message: &QueuedMessage) -> Option<DomainIx> {
        let (_, domain) = message.recipient.rsplit_once('@')?;
        self.domain_by_name.get(domain).copied()
    }

    /// The priority lane of a message's delivery.
    pub(crate) fn lane_of(&self, message: &QueuedMessage) -> usize {
        let priority = self
            .deliveries
            .get(&message.delivery)
            .map_or(Priority::Normal, |delivery| delivery.options.priority);
        lane(priority)
    }
}

/// Domains asked for in one step of the scan.
const SCAN_DOMAINS: usize = 2_000;

/// How long a permanent DNS fault is believed.
const PERMANENT_FAULT_HELD: core::time::Duration = core::time::Duration::from_secs(300);

/// Pause for mail that no source may send.
const NO_SOURCE_PAUSE: core::time::Duration = core::time::Duration::from_secs(600);

/// Virtual time of one message at weight 1.
pub(crate) const SHARE_SCALE: u32 = 1 << 16;

/// A DNS fault in the words of a reply.
pub(crate) fn fault_words(domain: &str, fault: &RouteFault) -> String {
    match fault {
        RouteFault::NoSuchDomain => format!("5.1.2 DNS: domain {domain} does not exist"),
        RouteFault::NoMailHost => format!("5.1.2 DNS: domain {domain} has no mail host"),
        RouteFault::NullMx => format!("5.1.10 DNS: domain {domain} accepts no mail (null MX)"),
        RouteFault::Loop => format!("5.4.6 DNS: the best MX of {domain} is this host"),
        RouteFault::BadName { why } => format!("5.1.2 {domain} is not a domain name: {why}"),
        RouteFault::Temporary { why } => format!("4.4.3 DNS of {domain} failed: {why}"),
    }
}
