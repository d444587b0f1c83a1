//! A recipient domain with backlog: where its mail goes and when the next of it is due.

use core::time::Duration;
use std::sync::Arc;

use mail::id::DeliveryId;
use mail::route::{MxRoute, RouteFault};
use mail::time::Timestamp;

use crate::engine::{Engine, SHARE_SCALE, Wake};
use crate::event::Command;
use crate::group::{Group, Share};
use crate::window::{PRIORITIES, QueueKey};
use crate::work::{Fate, FinalState, QueuedMessage, SendMode};

/// The number of a domain in the engine's table.
pub(crate) type DomainIx = usize;

/// What is known of a domain's route.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RouteState {
    /// Nothing yet.
    Unknown,
    /// It was asked for.
    Asked,
    /// It belongs to this MX group; to be asked again after the given time.
    In { group: usize, valid_until: Timestamp, refreshing: bool },
    /// It takes no mail at all; to be asked again after the given time.
    Permanent { fault: RouteFault, until: Timestamp },
    /// DNS failed; to be asked again at the given time.
    Temporary { why: String, until: Timestamp },
}

/// Where more deliveries may send than are asked for in one claim, a domain's claims go round: nothing is known of its
/// backlog before all of them were asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tour {
    /// The delivery at which the next claim begins.
    from: DeliveryId,
    /// Deliveries that were not asked for yet in this round; 0: the round is over.
    left: usize,
    /// Earliest due time found in it.
    due: Timestamp,
    /// Some message was found in it.
    found: bool,
    /// When its first claim was made; no claim of it looked at less than what was due then.
    since: Timestamp,
}

impl Default for Tour {
    fn default() -> Self {
        Self {
            from: DeliveryId(0),
            left: 0,
            due: Timestamp::NEVER,
            found: false,
            since: Timestamp::EPOCH,
        }
    }
}

/// A recipient domain.
#[derive(Clone, Debug)]
pub(crate) struct Domain {
    pub(crate) name: Arc<str>,
    /// Per priority: earliest due time of what the store holds; never: nothing.
    pub(crate) due: [Timestamp; 3],
    /// Per priority: a claim is on its way.
    pub(crate) claiming: [bool; 3],
    /// Per priority: the earliest due time of what was added to the queue since the claim was made:
    /// whether the claim's answer knows of it cannot be told.
    pub(crate) added: [Timestamp; 3],
    /// Per priority: how many messages the claim may bring into the windows at most.
    pub(crate) claim_limit: [u32; 3],
    /// Per priority: the round of claims over all open deliveries.
    pub(crate) tour: [Tour; 3],
    /// It takes no mail, and stands in line to have its messages claimed and ended.
    pub(crate) dead: bool,
    /// Per priority: the claim on its way was made to end its messages.
    pub(crate) claim_dead: [bool; 3],
    /// Per priority: the group for which the claim was made.
    pub(crate) claim_group: [Option<usize>; 3],
    /// Per priority: it stands in its group's line of domains to be claimed.
    pub(crate) in_line: [bool; 3],
    pub(crate) route: RouteState,
    pub(crate) dns_failures: u32,
    /// Messages of it in a window or on a connection.
    pub(crate) held: u32,
    /// The time for which it is in the table of wakes.
    pub(crate) wake: Timestamp,
}

impl Domain {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            due: [Timestamp::NEVER; 3],
            claiming: [false; 3],
            added: [Timestamp::NEVER; 3],
            claim_limit: [0; 3],
            tour: [Tour::default(); 3],
            dead: false,
            claim_dead: [false; 3],
            claim_group: [None; 3],
            in_line: [false; 3],
            route: RouteState::Unknown,
            dns_failures: 0,
            held: 0,
            wake: Timestamp::NEVER,
        }
    }

    /// Whether the store holds mail for it, as far as is known.
    pub(crate) fn has_backlog(&self) -> bool {
        self.due.iter().any(|due| *due != Timestamp::NEVER)
    }

    /// Whether nothing is known or expected of it up to `horizon`.
    pub(crate) fn is_idle(&self, horizon: Timestamp) -> bool {
        let nothing_soon = self.due.iter().all(|due| *due == Timestamp::NEVER || *due > horizon);
        nothing_soon && self.held == 0 && self.claiming == [false; 3]
    }

    /// Notes that mail of this priority is due at `due`.
    pub(crate) fn add_due(&mut self, lane: usize, due: Timestamp) {
        self.due[lane] = self.due[lane].min(due);
        self.added[lane] = self.added[lane].min(due);
    }

    /// Whether mail of this priority could be claimed at `now`.
    pub(crate) fn claimable(&self, lane: usize, now: Timestamp) -> bool {
        self.due[lane] <= now && !self.claiming[lane]
    }
}

impl Engine {
    pub(crate) fn due_found(
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
                self.find_due_after(after);
            }
            more => {
                self.scanning = false;
                self.overflowed = more.is_some();
                // The next scan goes on where this one found no more room.
                self.scan_after = more.unwrap_or(0);
                let pause = if self.overflowed {
                    self.settings.scan_interval
                } else {
                    self.settings.scan_interval * FULL_SCAN_INTERVALS
                };
                let again = match self.scan_again.take() {
                    Some(apart) => now.max(self.scan_began + apart),
                    None => now + pause,
                };
                self.wake_scan(again);
            }
        }
    }

    /// Some mail for `name` is due at `due`: of one priority, or (`None`) of an unknown one.
    pub(crate) fn found_due(
        &mut self,
        now: Timestamp,
        name: &str,
        due: Timestamp,
        lane: Option<usize>,
    ) {
        let Some(ix) = self.domain_ix(name) else { return };
        if let Some(domain) = self.domains[ix].as_mut() {
            for candidate in 0..PRIORITIES.len() {
                if lane.is_none_or(|lane| lane == candidate) {
                    domain.add_due(candidate, due);
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
                let until = *until;
                wake = if due_now { Some(until) } else { wake.map(|due| due.max(until)) };
            }
            RouteState::Permanent { .. } => {
                if due_now && !core::mem::replace(&mut domain.dead, true) {
                    self.dead.push_back(ix);
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

    /// Claims the messages of domains that take no mail, a few domains at a time. They end at once and never come into
    /// a window, so they do not count against the room there.
    pub(crate) fn claim_dead(&mut self, now: Timestamp) {
        while self.dead_claims < DEAD_CLAIMS_MAX && !self.draining && !self.store_sick {
            let Some(ix) = self.dead.pop_front() else { return };
            let Some(domain) = self.domains[ix].as_mut() else { continue };
            domain.dead = false;
            if !matches!(domain.route, RouteState::Permanent { .. }) {
                continue;
            }
            for lane in 0..PRIORITIES.len() {
                if !self.claim(now, ix, lane, self.settings.claim_messages_max) {
                    continue;
                }
                self.dead_claims += 1;
                if let Some(domain) = self.domains[ix].as_mut() {
                    domain.claim_dead[lane] = true;
                    let limit = core::mem::take(&mut domain.claim_limit[lane]);
                    self.claimed_ahead = self.claimed_ahead.saturating_sub(limit as usize);
                }
            }
        }
    }

    /// Asks the store for due messages of a domain. Returns whether it did.
    pub(crate) fn claim(&mut self, now: Timestamp, ix: DomainIx, lane: usize, limit: u32) -> bool {
        let from = match self.domains[ix].as_ref() {
            Some(domain) if domain.claimable(lane, now) => domain.tour[lane].from,
            _ => return false,
        };
        let (open, all) = self.open_deliveries(now, lane, from);
        let Some(domain) = self.domains[ix].as_mut() else { return false };
        let tour = &mut domain.tour[lane];
        let Some((last, _)) = open.last() else {
            // When a delivery may send again, a scan finds its domains again.
            domain.due[lane] = Timestamp::NEVER;
            *tour = Tour::default();
            return false;
        };
        if tour.left == 0 {
            *tour = Tour { left: all, since: now, ..Tour::default() };
        }
        tour.from = DeliveryId(last.0.saturating_add(1));
        tour.left = tour.left.saturating_sub(open.len());
        domain.claiming[lane] = true;
        domain.added[lane] = Timestamp::NEVER;
        domain.claim_limit[lane] = limit;
        self.claims_open += 1;
        self.claimed_ahead += limit as usize;
        let name = Box::from(&*domain.name);
        // What was given back must be in the queue again before it is asked for.
        self.flush_settled();
        self.commands.push_back(Command::Claim {
            domain: name,
            priority: PRIORITIES[lane],
            deliveries: open,
            due_until: now,
            limit,
        });
        true
    }

    pub(crate) fn claimed(
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
        let ahead = core::mem::take(&mut domain.claim_limit[lane]) as usize;
        self.claimed_ahead = self.claimed_ahead.saturating_sub(ahead);
        if core::mem::take(&mut domain.claim_dead[lane]) {
            self.dead_claims = self.dead_claims.saturating_sub(1);
        }
        let tour = &mut domain.tour[lane];
        tour.due = tour.due.min(next_due.unwrap_or(Timestamp::NEVER)).min(domain.added[lane]);
        tour.found |= !messages.is_empty();
        domain.due[lane] = if tour.left > 0 { Timestamp::EPOCH } else { tour.due };
        // What became due while the answer was on its way was not asked for: only what the claims left lying counts.
        if tour.left == 0 && !tour.found && tour.due <= tour.since && domain.added[lane] > now {
            // The store holds it for another reason than those known here; the next scan tries again.
            domain.due[lane] = Timestamp::NEVER;
        }
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
        let closed = delivery.open_until(now).is_err() || self.capped.contains_key(&delivery.id);
        if self.draining || self.store_sick || closed {
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

    pub(crate) fn route_found(
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
            let in_line = self.domains[ix].as_ref().map_or([false; 3], |domain| domain.in_line);
            if let Some(group) = old_group.and_then(|ix| self.groups[ix].as_mut()) {
                group.domains = group.domains.saturating_sub(1);
                group.leave_line(ix, in_line);
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
                virtual_time: (head_start * SHARE_SCALE as f64) as u64,
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
}

/// Claims of domains that take no mail on their way at a time.
const DEAD_CLAIMS_MAX: usize = 64;

/// Domains asked for in one step of the scan at most.
pub(crate) const SCAN_DOMAINS: usize = 2_000;

/// Scans are so many intervals apart when all domains are known.
const FULL_SCAN_INTERVALS: u32 = 12;

/// How long a permanent DNS fault is believed.
const PERMANENT_FAULT_HELD: Duration = Duration::from_secs(300);

/// Pause for mail that no source may send.
pub(crate) const NO_SOURCE_PAUSE: Duration = Duration::from_secs(600);

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
