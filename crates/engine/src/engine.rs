//! The engine itself: its tables, its events, its wakes.
//!
//! What follows from them is decided elsewhere: `delivery` and `domain` (what may be claimed), `shaping` (what goes
//! where), `opening`, `line` and `tokens` (connections and permissions), `outcome` (what becomes of a message).

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use mail::id::{ConnectionId, DeliveryId, MessageId, Priority};
use mail::time::Timestamp;
use rules::RuleSet;
use rules::bounce::BounceRules;
use rules::reaction::ReactionRules;

use crate::connection::{Connection, ConnectionState};
use crate::domain::{Domain, DomainIx, RouteState, SCAN_DOMAINS};
use crate::event::{Command, Event};
use crate::group::Group;
use crate::line::{LineKey, Lines};
use crate::path::Path;
use crate::qualify::Qualifier;
use crate::random::Random;
use crate::reactions::Reactions;
use crate::reason::Waiting;
use crate::settings::Settings;
use crate::sources::Sources;
use crate::window::lane;
use crate::work::{Attempt, Delivery, QueuedMessage, SendMode, Settled};
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
    /// The cap of a delivery has room again.
    Cap(DeliveryId),
    /// A wave opens, or a delivery ends.
    Delivery(DeliveryId),
    /// The line of a budget moves although no release was seen.
    Line(LineKey),
    /// A reaction takes a step, or ends.
    Reactions,
    /// Look for domains that are not known, forget what is idle.
    Scan,
}

/// A delivery that may send, with the highest message number whose wave is open (`None`: all).
pub(crate) type OpenDelivery = (DeliveryId, Option<MessageId>);

/// Decides what happens to every message of one node. See the crate's documentation for the contract.
#[derive(Clone, Debug)]
pub struct Engine {
    pub(crate) settings: Settings,
    pub(crate) rules: Arc<RuleSet>,
    pub(crate) sources: Sources,
    pub(crate) qualifier: Qualifier,
    pub(crate) reactions: Reactions,
    pub(crate) random: Random,
    pub(crate) deliveries: BTreeMap<DeliveryId, Delivery>,
    /// Per priority: deliveries that may send, with the end of their open waves; `None`: to be made anew.
    pub(crate) open_deliveries: [Option<Vec<OpenDelivery>>; 3],
    /// Per priority: how many claims were made, so that each delivery is the first one in its turn.
    pub(crate) claim_turns: [usize; 3],
    /// Deliveries whose own hourly cap is used up, or that a reaction holds, with the reason.
    pub(crate) capped: BTreeMap<DeliveryId, Waiting>,
    pub(crate) domain_by_name: BTreeMap<Arc<str>, DomainIx>,
    pub(crate) domains: Vec<Option<Domain>>,
    pub(crate) free_domains: Vec<DomainIx>,
    /// Some domain with backlog did not fit into the table.
    pub(crate) overflowed: bool,
    pub(crate) scanning: bool,
    /// Another scan is wanted when this one is over: how long after its beginning at least.
    pub(crate) scan_again: Option<Duration>,
    /// When the next scan begins.
    pub(crate) scan_wake: Timestamp,
    /// When the last scan began.
    pub(crate) scan_began: Timestamp,
    /// When what is idle is forgotten next.
    forget_at: Timestamp,
    /// Where it begins.
    pub(crate) scan_after: u64,
    pub(crate) delivery_wakes: BTreeMap<DeliveryId, Timestamp>,
    pub(crate) group_by_key: BTreeMap<String, usize>,
    pub(crate) groups: Vec<Option<Group>>,
    pub(crate) free_groups: Vec<usize>,
    pub(crate) paths: BTreeMap<PathKey, Path>,
    pub(crate) connections: BTreeMap<ConnectionId, Connection>,
    pub(crate) next_connection: u64,
    pub(crate) lines: Lines,
    /// Paths that were refused tokens, per budget.
    pub(crate) token_waiters: BTreeMap<LineKey, BTreeSet<PathKey>>,
    pub(crate) wakes: BTreeSet<(Timestamp, Wake)>,
    pub(crate) dirty: BTreeSet<usize>,
    pub(crate) commands: VecDeque<Command>,
    pub(crate) settled: Vec<Settled>,
    pub(crate) attempts: Vec<Attempt>,
    /// Messages in all windows.
    pub(crate) window_messages: usize,
    pub(crate) claims_open: usize,
    /// Domains that take no mail, and whose messages are to be claimed to end them.
    pub(crate) dead: VecDeque<DomainIx>,
    /// Claims of such domains on their way.
    pub(crate) dead_claims: usize,
    /// Messages that the open claims may bring.
    pub(crate) claimed_ahead: usize,
    /// Groups that would claim more if all windows together held less, in the order in which they came: those that would
    /// claim urgent mail, and the others.
    pub(crate) starved: [VecDeque<usize>; 2],
    /// The group of them whose turn it is, and how many messages it may claim in this turn.
    starved_turn: Option<(usize, usize)>,
    pub(crate) store_sick: bool,
    pub(crate) draining: bool,
    pub(crate) drained: bool,
    pub(crate) last: Timestamp,
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
            qualifier: Qualifier::new(BounceRules::shipped()),
            reactions: Reactions::new(ReactionRules::shipped()),
            random,
            deliveries: BTreeMap::new(),
            open_deliveries: [None, None, None],
            claim_turns: [0; 3],
            capped: BTreeMap::new(),
            domain_by_name: BTreeMap::new(),
            domains: Vec::new(),
            free_domains: Vec::new(),
            overflowed: false,
            scanning: false,
            scan_again: None,
            scan_wake: now,
            scan_began: Timestamp::EPOCH,
            forget_at: now,
            scan_after: 0,
            delivery_wakes: BTreeMap::new(),
            group_by_key: BTreeMap::new(),
            groups: Vec::new(),
            free_groups: Vec::new(),
            paths: BTreeMap::new(),
            connections: BTreeMap::new(),
            next_connection: 1,
            lines: Lines::default(),
            token_waiters: BTreeMap::new(),
            wakes: BTreeSet::new(),
            dirty: BTreeSet::new(),
            commands: VecDeque::new(),
            settled: Vec::new(),
            attempts: Vec::new(),
            window_messages: 0,
            claims_open: 0,
            dead: VecDeque::new(),
            dead_claims: 0,
            claimed_ahead: 0,
            starved: Default::default(),
            starved_turn: None,
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

    /// How the messages of a delivery are sent; as real ones where it is not known (any more).
    #[must_use]
    pub fn mode_of(&self, delivery: DeliveryId) -> SendMode {
        self.deliveries.get(&delivery).map_or(SendMode::Real, |known| known.options.mode)
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
                if known.open_until(now).is_err() {
                    // A scan finds it when the delivery may send.
                    return;
                }
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
            Event::BounceRulesReplaced(rules) => self.qualifier.replace_rules(rules),
            Event::TextQualified { key, said } => self.qualifier.qualify(key, said),
            Event::ReactionRulesReplaced(rules) => self.reaction_rules_replaced(rules),
            Event::ReactionsRestored(kept) => self.reactions_restored(now, *kept),
            Event::ReactionOrdered { id, order, who, why } => {
                self.reaction_ordered(now, id, order, (who, why));
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
        loop {
            while let Some(group) = self.dirty.pop_first() {
                self.pump(now, group);
            }
            // One at a time: who came first takes what it needs before the next one is looked at.
            let Some(group) = self.next_starved() else { break };
            self.dirty.insert(group);
        }
        self.claim_dead(now);
        self.keep_reactions();
        self.flush_settled();
        if self.draining && !self.drained && self.connections.is_empty() && self.claims_open == 0 {
            self.drained = true;
            self.give_back_all();
            self.commands.push_back(Command::Drained);
        }
    }

    /// Asks for what was settled to be made durable. The attempts that led to it go before, so that what they say of an
    /// address can be on the disk before the message is at its end.
    pub(crate) fn flush_settled(&mut self) {
        if !self.attempts.is_empty() {
            let attempts = core::mem::take(&mut self.attempts);
            self.commands.push_back(Command::Record(attempts));
        }
        if !self.settled.is_empty() {
            let settled = core::mem::take(&mut self.settled);
            self.commands.push_back(Command::Settle(settled));
        }
    }

    /// Messages of a lane that may still be claimed without passing the bound of all windows. A part of the windows is
    /// kept free for urgent mail.
    pub(crate) fn room_in_windows(&self, lane: usize) -> usize {
        let held = self.window_messages + self.claimed_ahead;
        let most = self.settings.window_messages_max;
        let reserved = if lane == URGENT { 0 } else { most / URGENT_SHARE };
        (most - reserved).saturating_sub(held)
    }

    /// Lets a group stand in line for room in the windows.
    pub(crate) fn starve(&mut self, ix: usize, lane: usize) {
        let line = usize::from(lane != URGENT);
        if let Some(group) = self.groups[ix].as_mut()
            && !core::mem::replace(&mut group.starved[line], true)
        {
            self.starved[line].push_back(ix);
        }
    }

    /// How many messages a group may claim as far as others that wait for room in the windows are concerned: none
    /// out of its turn, in its turn an equal part.
    pub(crate) fn turn_in_windows(&self, ix: usize, lane: usize) -> usize {
        match self.starved_turn {
            Some((of, left)) if of == ix => left,
            _ if self.starved[usize::from(lane != URGENT)].is_empty() => usize::MAX,
            _ => 0,
        }
    }

    /// Counts messages that a group claims in its turn.
    pub(crate) fn turn_in_windows_used(&mut self, ix: usize, count: u32) {
        if let Some((_, left)) = self.starved_turn.as_mut().filter(|(of, _)| *of == ix) {
            *left = left.saturating_sub(count as usize);
        }
    }

    /// The group that waits longest for room in the windows, when there is some.
    fn next_starved(&mut self) -> Option<usize> {
        self.starved_turn = None;
        for (line, lane) in [(0, URGENT), (1, URGENT + 1)] {
            while self.room_in_windows(lane) > 0 {
                let Some(ix) = self.starved[line].pop_front() else { break };
                if let Some(group) = self.groups[ix].as_mut() {
                    group.starved[line] = false;
                    let waiting = self.starved[line].len() + 1;
                    let part = self.settings.window_messages_max / waiting;
                    self.starved_turn = Some((ix, part.max(STARVED_TURN_MIN)));
                    return Some(ix);
                }
            }
        }
        None
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
                    self.dirty.insert(ix);
                }
            }
            Wake::Path(key) => self.path_woken(now, key),
            Wake::Idle(connection) => self.idle_woken(now, connection),
            Wake::Delivery(id) => {
                self.delivery_wakes.remove(&id);
                self.delivery_woken(now, id);
            }
            Wake::Cap(id) => self.cap_woken(now, id),
            Wake::Line(key) => self.line_woken(now, key),
            Wake::Reactions => self.look_at_reactions(now),
            Wake::Scan => {
                self.scan_wake = Timestamp::NEVER;
                self.scan(now);
            }
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
            path.line = None;
            for purse in &mut path.purses {
                purse.wait = None;
            }
        }
        // Rule numbers belong to a rule set: the lines of the old one are dissolved.
        self.lines.dissolve();
        self.token_waiters.clear();
        for group in self.groups.iter_mut().flatten() {
            group.turns.clear();
            group.pass = None;
            group.outside = None;
            group.claims_held_until = Timestamp::EPOCH;
        }
        let rules = &self.rules;
        let mut full = Vec::new();
        for (id, connection) in &mut self.connections {
            let rule = rules.find(&connection.mx_host, connection.path.source);
            let limits = rules.limits(rule, connection.path.source);
            connection.rule = rule;
            connection.line = LineKey::new(rules, rule, connection.path);
            connection.rule_name = Arc::from(&*rules.rule(rule).name);
            connection.rules_version = rules.version();
            connection.messages_left = connection
                .messages_left
                .min(limits.max_messages_per_connection.saturating_sub(connection.messages_given));
            if connection.messages_left == 0 {
                full.push(*id);
            }
            self.lines.opened(connection.line);
            match connection.state {
                ConnectionState::Closing => self.lines.closing(connection.line, *id),
                _ if connection.idle_since.is_some() => self.lines.idle(connection.line, *id),
                _ => {}
            }
        }
        for id in full {
            self.close(id);
        }
        self.all_dirty();
    }

    // ------------------------------------------------------------------ housekeeping

    fn scan(&mut self, now: Timestamp) {
        if now >= self.forget_at {
            self.forget_at = now + self.settings.scan_interval;
            self.forget_idle(now);
        }
        if !self.scanning && !self.draining {
            self.scanning = true;
            self.scan_began = now;
            self.find_due_after(self.scan_after);
        }
    }

    /// Asks for as many domains as there is room for, so that the next step goes on with those that had none.
    pub(crate) fn find_due_after(&mut self, after: u64) {
        let room = self.settings.domains_max.saturating_sub(self.domain_by_name.len());
        self.commands.push_back(Command::FindDue { after, limit: room.clamp(1, SCAN_DOMAINS) });
    }

    /// Scans at `at` at the latest.
    pub(crate) fn wake_scan(&mut self, at: Timestamp) {
        if at < self.scan_wake {
            self.wakes.remove(&(self.scan_wake, Wake::Scan));
            self.scan_wake = at;
            self.wakes.insert((at, Wake::Scan));
        }
    }

    /// Asks the store for domains that are not known here, now or when the scan on its way is over, but not before
    /// `pause` has passed since the last one began: a scan reads the whole queue.
    pub(crate) fn scan_soon(&mut self, now: Timestamp, pause: Duration) {
        if self.scanning {
            self.scan_again = Some(self.scan_again.map_or(pause, |before| before.min(pause)));
        } else {
            self.wake_scan(now.max(self.scan_began + pause));
        }
    }

    /// Forgets domains, groups and paths that hold nothing: memory is bounded by what is in use.
    fn forget_idle(&mut self, now: Timestamp) {
        // Where not all domains have room, those that are not due for a while are found again later.
        let horizon =
            if self.overflowed { now + self.settings.scan_interval } else { Timestamp::NEVER };
        for ix in 0..self.domains.len() {
            let idle = self.domains[ix].as_ref().is_some_and(|domain| {
                let blocked = self.overflowed && self.cannot_send(domain, horizon);
                let idle = domain.is_idle(horizon) && domain.in_line == [false; 3];
                (idle || blocked)
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
                    group.leave_line(ix, domain.in_line);
                }
            }
        }
        for ix in 0..self.groups.len() {
            if self.groups[ix].as_ref().is_some_and(|group| group.is_idle(now)) {
                self.leave_lines(ix);
                if let Some(group) = self.groups[ix].take() {
                    self.wakes.remove(&(group.wake, Wake::Group(ix)));
                    self.group_by_key.remove(&group.key);
                    self.free_groups.push(ix);
                    self.dirty.remove(&ix);
                }
            }
        }
        let groups = &self.groups;
        for starved in &mut self.starved {
            starved.retain(|ix| groups[*ix].is_some());
        }
        for path in self.paths.values_mut() {
            path.groups.retain(|user| groups[*user].is_some());
            path.purses.retain(|purse| purse.cap.is_none() || !purse.is_empty(now));
        }
        let settings = &self.settings;
        self.paths.retain(|_, path| !path.is_idle(now, settings) || !path.groups.is_empty());
        self.lines.forget_empty(now);
        let paths = &self.paths;
        self.token_waiters.retain(|_, waiters| {
            waiters.retain(|key| {
                paths.get(key).is_some_and(|path| path.purses.iter().any(|p| p.wait.is_some()))
            });
            !waiters.is_empty()
        });
    }

    /// Whether a domain that holds nothing waits for something that lasts beyond `horizon`.
    fn cannot_send(&self, domain: &Domain, horizon: Timestamp) -> bool {
        let waits_long = match domain.route {
            RouteState::In { group, .. } => self.groups[group]
                .as_ref()
                .and_then(|group| self.waiting_of(group))
                .is_some_and(|wait| wait.until != Timestamp::NEVER && wait.until > horizon),
            RouteState::Temporary { until, .. } => until > horizon,
            _ => false,
        };
        waits_long && domain.held == 0 && domain.claiming == [false; 3]
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
        self.take_from_windows(|message| delivery.is_none_or(|id| message.delivery == id))
    }

    /// Takes the messages that `goes` chooses out of every window.
    pub(crate) fn take_from_windows(
        &mut self,
        goes: impl Fn(&QueuedMessage) -> bool,
    ) -> Vec<Arc<QueuedMessage>> {
        let mut taken = Vec::new();
        for group in self.groups.iter_mut().flatten() {
            taken.extend(group.window.remove(&goes));
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

/// Virtual time of one message at weight 1: fine enough for weights of a million, and good for 2^34 messages.
pub(crate) const SHARE_SCALE: u64 = 1 << 30;

/// Messages that a group which waited for room in the windows may claim at least: fewer are not worth a claim.
const STARVED_TURN_MIN: usize = 4;

/// The lane of urgent mail.
pub(crate) const URGENT: usize = 0;

/// The part of all windows that only urgent mail may use: one of so many.
const URGENT_SHARE: usize = 16;
