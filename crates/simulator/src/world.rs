//! A world: one thread, one virtual clock that jumps to what happens next.
//!
//! Everything that takes time is on the agenda: octets on their way, commits, name servers, timers, and what
//! the script does. Between any two entries, and between any two commands, the process can die.
//!
//! There is one node so far. It is kept apart from the disk, the fleet and the agenda, whose entries name the
//! life of the process that they are for, so that more nodes can share one disk later.

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;

use engine::quarantine::Deed as LedgerDeed;
use engine::reactions::KeptReactions;
use engine::work::DeliveryState;
use engine::{Engine, Event};
use mail::failure::Reason;
use mail::id::{ConnectionId, DeliveryId};
use mail::route::{MxHost, MxRoute, RouteFault};
use mail::time::Timestamp;
use quota::{ClockReading, JournalEntry, Ledger, NodeId, Owner, SAVE_CLOCK_EVERY, SavedClock};
use rules::RuleSet;
use rules::reaction::ReactionRules;
use store::{MemoryStore, Store as _, Write, Written};

use crate::Sabotage;
use crate::audit::Entry;
use crate::chance::Chance;
use crate::fleet::{Fleet, Output};
use crate::judge::Judge;
use crate::log::Log;
use crate::node::{Conversation, Disk, Machine, Node};
use crate::plan::{Deed, Restart, Script, Zone};
use crate::sabotage::uncounted;

/// The life of a process: entries of the agenda for an earlier one mean nothing.
pub(crate) type Life = u64;

/// What is on the agenda.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Deed(usize),
    Restart(Restart),
    Commit(Life),
    Answers(Life, Vec<Event>),
    Connected(Life, ConnectionId),
    Renew(Life),
    StoreLooked(Life),
    Tick(Life, ConnectionId),
    Arrives { socket: u64, sent_at: Timestamp, octets: Vec<u8> },
    ClosedByUs { socket: u64, sent_at: Timestamp },
    Returns { life: Life, connection: ConnectionId, socket: u64, output: Output },
}

impl Step {
    /// Whether nothing comes of it while the process does not run.
    const fn is_for_the_process(&self) -> bool {
        !matches!(self, Self::Restart(_) | Self::Arrives { .. } | Self::ClosedByUs { .. })
    }
}

/// More steps than any world of the default plan needs, or a day of a longer one.
const STEPS_MAX: u64 = 3_000_000;

/// What was done to the node in a world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Done {
    /// Rules put in the place of others.
    pub(crate) rules: u64,
    /// The same rules at other levels.
    pub(crate) levels: u64,
    /// Warm-up caps put in the place of others.
    pub(crate) caps: u64,
    pub(crate) crashes: u64,
    pub(crate) stops: u64,
    pub(crate) boots: u64,
    /// The wall clock was set forward, and back.
    pub(crate) steps: (u64, u64),
    pub(crate) freezes: u64,
    pub(crate) full_disks: u64,
}

/// A world while it runs.
pub(crate) struct World {
    pub(crate) now: Timestamp,
    pub(crate) began: Timestamp,
    pub(crate) script: Script,
    pub(crate) chance: Chance,
    pub(crate) disk: Disk,
    pub(crate) machine: Machine,
    pub(crate) node: Option<Node>,
    pub(crate) life: Life,
    pub(crate) fleet: Fleet,
    pub(crate) judge: Judge,
    pub(crate) log: Log,
    agenda: BTreeMap<(Timestamp, u64), Step>,
    sequence: u64,
    pub(crate) next_socket: u64,
    /// When the last piece to a server, and from it, arrives, by socket.
    last_arrivals: BTreeMap<u64, Timestamp>,
    pub(crate) last_returns: BTreeMap<u64, Timestamp>,
    steps: u64,
    /// Steps and commands until the process dies, and how it comes back.
    dies_in: Option<(u64, Restart)>,
    /// Commits until the process dies right behind one, and how it comes back.
    pub(crate) dies_at_commit: Option<(u64, Restart)>,
    /// The process does not run before.
    frozen_until: Timestamp,
    /// No commit succeeds before.
    pub(crate) disk_full_until: Timestamp,
    pub(crate) rules: Arc<RuleSet>,
    rules_number: usize,
    reactions_number: usize,
    warm_up_number: usize,
    /// The node's own time less the true time, in seconds, rounded down.
    own_offset: i64,
    /// Deliveries by the script's number.
    pub(crate) deliveries: BTreeMap<usize, DeliveryId>,
    pub(crate) next_serial: u64,
    /// The delivery log, as far as the auditor reads it.
    pub(crate) delivery_log: Vec<Entry>,
    /// Attempts that were begun or done when the process died, before their line was written.
    pub(crate) unlogged: u64,
    /// Verdicts that the engine has heard of and not yet decided about.
    undecided: u64,
    /// Rules and caps that were told: when, by true time and by the node's own, and which of the script's.
    pub(crate) rules_told: Vec<(Timestamp, Timestamp, usize)>,
    pub(crate) caps_told: Vec<(Timestamp, Timestamp, usize)>,
    /// What was done to the node.
    pub(crate) done: Done,
    deeds_open: usize,
    /// Deeds that wait for the process to be back.
    pub(crate) put_off: Vec<usize>,
}

impl World {
    pub(crate) fn new(seed: u64, script: Script, chance: Chance, verbose: bool) -> Self {
        let offset = seed % 3_600;
        let began = Timestamp::from_secs(1_800_000_000 + offset);
        let rules = compile(&script, 0, 1);
        let fleet = Fleet::new(script.providers.clone(), began, began + script.faults_end);
        let mut world = Self {
            now: began,
            began,
            chance,
            disk: Disk {
                store: MemoryStore::new("node"),
                journal: BTreeMap::new(),
                reactions: KeptReactions::default(),
            },
            machine: Machine { boots: 1, booted_at: began, wall_error: 0, drift: script.drift },
            node: None,
            life: 0,
            fleet,
            judge: Judge::new(&script),
            log: Log::new(verbose),
            agenda: BTreeMap::new(),
            sequence: 0,
            next_socket: 1,
            last_arrivals: BTreeMap::new(),
            last_returns: BTreeMap::new(),
            steps: 0,
            dies_in: None,
            dies_at_commit: None,
            frozen_until: Timestamp::EPOCH,
            disk_full_until: Timestamp::EPOCH,
            rules,
            rules_number: 0,
            reactions_number: 0,
            warm_up_number: 0,
            own_offset: 0,
            deliveries: BTreeMap::new(),
            next_serial: 1,
            delivery_log: Vec::new(),
            unlogged: 0,
            undecided: 0,
            rules_told: vec![(began, began, 0)],
            caps_told: vec![(began, began, 0)],
            done: Done::default(),
            deeds_open: script.deeds.len(),
            put_off: Vec::new(),
            script,
        };
        for number in 0..world.script.deeds.len() {
            let at = began + world.script.deeds[number].0;
            world.at(at, Step::Deed(number));
        }
        let rules = Arc::clone(&world.rules);
        world.judge.rules_in_force(began, rules);
        world.judge.reactions_in_force(world.script.reactions[0].drawn);
        world.judge.warm_up_in_force(began, world.warm_up_caps());
        world.start();
        world
    }

    pub(crate) fn at(&mut self, at: Timestamp, step: Step) {
        self.sequence += 1;
        self.agenda.insert((at, self.sequence), step);
    }

    pub(crate) fn after(&mut self, span: Duration, step: Step) {
        self.at(self.now + span, step);
    }

    /// Runs to the end: all that was accepted is at its end, or the patience with it is over.
    pub(crate) fn run(&mut self) {
        let quiet_from = self.began + self.script.faults_end;
        loop {
            if self.deeds_open == 0 && self.put_off.is_empty() && self.now >= quiet_from {
                let patience = self.judge.patience(&self.script);
                // Not at every step: the question costs more than a step.
                let asks = self.steps.is_multiple_of(64) && self.node.is_some();
                if asks && self.judge.all_ended(&self.disk.store) {
                    return self.close_down();
                }
                if self.now > quiet_from + patience {
                    let waiting = self.describe_waiting();
                    return self.judge.did_not_drain(self.now, &waiting);
                }
            }
            self.steps += 1;
            if self.steps > self.steps_max() {
                return self.judge.hot_loop(self.now);
            }
            if !self.step() {
                let waiting = self.describe_waiting();
                return self.judge.fell_asleep(self.now, &waiting);
            }
        }
    }

    const fn steps_max(&self) -> u64 {
        STEPS_MAX * (1 + self.script.faults_end.as_secs() / 86_400)
    }

    /// Lets what is on the wire end, so that the last connections are closed in the books.
    fn close_down(&mut self) {
        let end = self.now + Duration::from_secs(180);
        while self.now < end && self.step() {
            self.steps += 1;
            if self.steps > self.steps_max() {
                return self.judge.hot_loop(self.now);
            }
        }
        self.judge.everything_closed(self.node.as_ref());
    }

    /// One entry of the agenda, or a wake of the engine. `false`: nothing will ever happen.
    fn step(&mut self) -> bool {
        let entry = self.agenda.keys().next().copied();
        let wake = self.node.as_ref().and_then(|node| {
            let own = node.engine.wake_at()?;
            Some(node.true_time(own).max(self.now).max(self.frozen_until))
        });
        match (entry, wake) {
            (Some(key), wake) if wake.is_none_or(|wake| key.0 <= wake) => {
                self.now = self.now.max(key.0);
                if let Some(step) = self.agenda.remove(&key) {
                    self.take(step);
                }
            }
            (_, Some(wake)) => self.now = self.now.max(wake),
            (_, None) => return false,
        }
        if self.now >= self.frozen_until && self.count_down() {
            self.decide();
        }
        if self.now >= self.frozen_until {
            self.judge.look(self.now, self.node.as_ref(), &self.disk.store, &self.fleet);
        }
        true
    }

    /// One step nearer to a crash. `false`: it came.
    pub(crate) fn count_down(&mut self) -> bool {
        let Some((left, restart)) = self.dies_in.take() else { return true };
        if left == 0 {
            self.crash(restart);
            return false;
        }
        self.dies_in = Some((left - 1, restart));
        true
    }

    fn take(&mut self, step: Step) {
        if self.now < self.frozen_until && step.is_for_the_process() {
            // In the order in which it would have come.
            return self.at(self.frozen_until, step);
        }
        match step {
            Step::Deed(number) => {
                self.deeds_open -= 1;
                self.deed(number);
            }
            Step::Restart(restart) => {
                if restart.boot {
                    self.machine.boots += 1;
                    self.machine.booted_at = self.now;
                    self.done.boots += 1;
                }
                let before = self.machine.wall_error;
                self.machine.wall_error = restart.wall_error;
                if restart.boot {
                    // A wall clock that is ahead of the ledger's time at the first start after a boot is what nothing
                    // can see (see `quota::clock`): it is left out here.
                    self.machine.wall_error = restart.wall_error.min(self.own_offset);
                }
                self.done.steps.0 += u64::from(self.machine.wall_error > before);
                self.done.steps.1 += u64::from(self.machine.wall_error < before);
                self.start();
                for number in core::mem::take(&mut self.put_off) {
                    self.deed(number);
                }
            }
            Step::Commit(life) if life == self.life => self.commit(),
            Step::Answers(life, events) if life == self.life => {
                for event in events {
                    self.tell(event);
                }
            }
            Step::Connected(life, connection) if life == self.life => self.connect(connection),
            // The renewal itself stands at the head of each decision.
            Step::Renew(life) if life == self.life => {}
            Step::StoreLooked(life) if life == self.life => self.look_at_store(),
            Step::Tick(life, connection) if life == self.life => self.tick(connection),
            Step::Arrives { socket, sent_at, octets } => {
                let outputs =
                    self.fleet.receive(self.now, sent_at, socket, &octets, &mut self.chance);
                self.return_outputs(socket, outputs);
            }
            Step::ClosedByUs { socket, sent_at } => self.fleet.closed_by_us(sent_at, socket),
            Step::Returns { life, connection, socket, output } if life == self.life => {
                self.returned(connection, socket, output);
            }
            Step::Commit(_)
            | Step::Answers(..)
            | Step::Connected(..)
            | Step::Renew(_)
            | Step::StoreLooked(_)
            | Step::Tick(..)
            | Step::Returns { .. } => {}
        }
    }

    // ------------------------------------------------------------------ lives

    /// The process starts on what the disk holds.
    pub(crate) fn start(&mut self) {
        self.life += 1;
        let fresh = self.disk.store.clone();
        self.disk.store = fresh.restart("node");
        let reading = self.script.sabotage.bend_clocks(self.life, self.machine.read(self.now));
        let own_now = quota::anchor(self.disk.saved_clock(), reading.clone());
        // The next start of the same boot then knows how much time has passed.
        let ClockReading { boot_id, boot_clock, wall } = reading;
        let clock = SavedClock { steady: own_now, boot_id, boot_clock, wall };
        self.disk.write_journal(vec![JournalEntry::Clock(clock)]);
        self.own_offset = self.offset_of(own_now);
        self.log.note(self.now, format_args!("start {} at {own_now}", self.life));
        while let Ok(written) = self.disk.store.apply(&[Write::ReleaseParts { now: own_now }]) {
            match written.first() {
                Some(Written::Released(released)) if released.more => {}
                _ => break,
            }
        }
        let owner = Owner { node: NodeId(1), incarnation: self.disk.store.incarnation() };
        let saved = self.script.sabotage.bend_journal(&self.disk.journal);
        let rules: Arc<RuleSet> = Arc::clone(&self.rules);
        let sabotage = self.script.sabotage;
        let mut ledger = Ledger::restore(
            quota::Settings::default(),
            sabotage.bend_rules(&self.script, self.rules_number, &rules) as _,
            owner,
            own_now,
            saved,
        );
        if sabotage != Sabotage::UncappedWarmUp {
            ledger.replace_warm_up(own_now, self.warm_up_caps());
        }
        let settings = sabotage.bend_settings(self.script.settings.clone());
        let told = sabotage.bend_rules(&self.script, self.rules_number, &rules);
        let engine = Engine::new(settings, self.script.sources(), Arc::clone(&told), own_now);
        let drift = self.script.drift;
        let mut node = Node::new(engine, ledger, owner, rules, (self.now, own_now), drift);
        let known = self.disk.store.reads().marks(0, u32::MAX).unwrap_or_default();
        known.iter().for_each(|known| node.desk.load(&known.address, known.mark));
        self.node = Some(node);
        self.judge.clock_runs(self.now, own_now, drift);
        let kept = Box::new(self.disk.reactions.clone());
        self.tell(Event::ReactionRulesReplaced(self.reaction_rules()));
        self.tell(Event::ReactionsRestored(kept));
        let deliveries =
            self.disk.store.reads().deliveries(DeliveryId(0), u32::MAX).unwrap_or_default();
        for record in deliveries {
            let state = record.delivery.state;
            if !matches!(state, DeliveryState::Draft | DeliveryState::Finished) {
                self.tell(Event::DeliveryChanged(Box::new(record.delivery)));
            }
        }
        self.judge.started(self.now, &self.disk.store);
    }

    /// A time of the node's own less the true time, in seconds, rounded down.
    fn offset_of(&self, own: Timestamp) -> i64 {
        let offset = i128::from(own.as_micros()) - i128::from(self.now.as_micros());
        i64::try_from(offset.div_euclid(1_000_000)).unwrap_or(0)
    }

    /// The process dies; its connections are reset by the system.
    pub(crate) fn crash(&mut self, restart: Restart) {
        self.log.note(self.now, format_args!("crash"));
        let begun = self.node.iter().flat_map(|node| node.conversations.values());
        self.unlogged += begun.flat_map(Conversation::begun).count() as u64 + self.undecided;
        self.done.crashes += 1;
        self.judge.crashed(self.now, &self.disk.reactions);
        self.stop(restart);
    }

    pub(crate) fn stop(&mut self, restart: Restart) {
        if let Some(node) = self.node.take() {
            self.save_clock_of_last_chores(&node);
            self.own_offset = self.offset_of(node.own_time(self.now));
            for conversation in node.conversations.into_values() {
                let Some(socket) = conversation.socket else { continue };
                self.close_socket(socket, conversation.plan.map(|plan| plan.path.target));
            }
        }
        self.life += 1;
        self.undecided = 0;
        self.dies_in = None;
        self.dies_at_commit = None;
        self.after(restart.after, Step::Restart(restart));
    }

    /// The shell stores the clock with its chores, also while nothing is asked of the ledger: what it stored last before
    /// the process ends.
    fn save_clock_of_last_chores(&mut self, node: &Node) {
        let lived = self.now - node.started.0;
        let since =
            Duration::from_micros((lived.as_micros() % SAVE_CLOCK_EVERY.as_micros()) as u64);
        let at = self.now.saturating_sub(since);
        if lived < SAVE_CLOCK_EVERY || self.now < self.frozen_until || at < self.disk_full_until {
            return;
        }
        let steady = node.own_time(at);
        if self.disk.saved_clock().is_some_and(|saved| saved.steady >= steady) {
            return;
        }
        let ClockReading { boot_id, boot_clock, wall } = self.machine.read(at);
        let clock = SavedClock { steady, boot_id, boot_clock, wall };
        self.disk.write_journal(vec![JournalEntry::Clock(clock)]);
    }

    pub(crate) fn close_socket(&mut self, socket: u64, target: Option<core::net::IpAddr>) {
        let sent_at = self.now;
        let provider = target.map_or(0, |target| self.fleet.provider_of(target));
        let arrives = self.arrival_in_order(socket, provider);
        self.at(arrives, Step::ClosedByUs { socket, sent_at });
    }

    /// When what leaves us now arrives: never before what left earlier over the same socket.
    pub(crate) fn arrival_in_order(&mut self, socket: u64, provider: usize) -> Timestamp {
        let arrives = self.fleet.arrival(self.now, provider, &mut self.chance);
        let last = self.last_arrivals.entry(socket).or_insert(arrives);
        *last = arrives.max(*last);
        *last
    }

    // ------------------------------------------------------------------ deeds

    fn deed(&mut self, number: usize) {
        let draining = self.node.as_ref().is_none_or(|node| node.draining.is_some());
        let deed = &self.script.deeds[number].1;
        let full = deed.needs_the_store() && self.now < self.disk_full_until;
        if full {
            // Intake says: try later.
            self.deeds_open += 1;
            return self.at(self.disk_full_until, Step::Deed(number));
        }
        if draining {
            self.put_off.push(number);
            return;
        }
        let deed = self.script.deeds[number].1.clone();
        self.log.note(self.now, format_args!("{deed:?}"));
        match deed {
            Deed::Start(mailing) => self.hand_in(mailing),
            Deed::More(mailing) => self.hand_in_more(mailing),
            Deed::Pause(mailing) => self.set_state(mailing, DeliveryState::Paused),
            Deed::Resume(mailing) => self.set_state(mailing, DeliveryState::Running),
            Deed::Cancel(mailing) => self.set_state(mailing, DeliveryState::Cancelled),
            Deed::Forbid { mailing, every, denied: true } => {
                self.ban(mailing, every, &LedgerDeed::Deny);
            }
            Deed::Forbid { mailing, every, denied: false } => {
                self.ban(mailing, every, &LedgerDeed::Quarantine(Reason::UserUnknown));
            }
            Deed::Free { mailing, every } => self.ban(mailing, every, &LedgerDeed::Release),
            Deed::Rules(number) => {
                let version = number as u64 + 1;
                let same = self.script.rules[number].0 == self.script.rules[self.rules_number].0;
                self.done.levels += u64::from(same);
                self.done.rules += u64::from(!same);
                self.rules = compile(&self.script, number, version);
                self.rules_number = number;
                let rules: Arc<RuleSet> = Arc::clone(&self.rules);
                self.judge.rules_in_force(self.now, Arc::clone(&rules));
                if let Some(node) = &mut self.node {
                    let own = node.own_time(self.now);
                    self.rules_told.push((self.now, own, number));
                    let told = self.script.sabotage.bend_rules(&self.script, number, &rules);
                    if self.script.sabotage == Sabotage::CountsGoWithRules {
                        let kept = uncounted(&self.disk.journal);
                        let settings = quota::Settings::default();
                        let rules = Arc::clone(&rules) as _;
                        node.ledger = Ledger::restore(settings, rules, node.owner, own, kept);
                    }
                    node.ledger.replace_rules(own, Arc::clone(&told) as _);
                    node.rules = rules;
                    self.tell(Event::RulesReplaced(told));
                }
            }
            Deed::WarmUp(number) => {
                self.warm_up_number = number;
                self.done.caps += 1;
                let caps = self.warm_up_caps();
                self.judge.warm_up_in_force(self.now, Arc::clone(&caps));
                let told = self.script.sabotage != Sabotage::UncappedWarmUp;
                if let Some(node) = &mut self.node {
                    let own = node.own_time(self.now);
                    self.caps_told.push((self.now, own, number));
                    if told {
                        node.ledger.replace_warm_up(own, caps);
                    }
                }
            }
            Deed::Reactions(number) => {
                self.reactions_number = number;
                self.judge.reactions_in_force(self.script.reactions[number].drawn);
                let rules = self.reaction_rules();
                self.tell(Event::ReactionRulesReplaced(rules));
            }
            Deed::Crash { steps, restart } => self.dies_in = Some((steps, restart)),
            Deed::CrashAtCommit { commits, restart } => {
                self.dies_at_commit = Some((commits, restart));
            }
            Deed::Freeze(span) => {
                self.done.freezes += 1;
                self.frozen_until = self.now + span;
                self.judge.stood_still(span);
            }
            Deed::DiskFull(span) => {
                self.done.full_disks += 1;
                self.disk_full_until = self.now + span;
            }
            Deed::Drain(restart) => {
                if let Some(node) = &mut self.node {
                    node.draining = Some(restart);
                }
                self.tell(Event::Drain);
            }
        }
    }

    fn warm_up_caps(&self) -> Arc<quota::WarmUpCaps> {
        Arc::new(self.script.warm_up[self.warm_up_number].clone())
    }

    /// The reaction rules of the script, as the node is told them.
    fn reaction_rules(&self) -> Arc<ReactionRules> {
        let number = self.reactions_number;
        self.script.sabotage.bend_reactions(self.script.reactions[number].compile(number))
    }

    // ------------------------------------------------------------------ names

    /// What DNS says about a domain now. Times of validity are the node's own.
    pub(crate) fn resolve(&mut self, domain: &str) -> Result<Arc<MxRoute>, RouteFault> {
        let zone = self.script.zones.iter().find(|(name, _)| name == domain).map(|(_, zone)| zone);
        let since = self.now - self.began;
        let now_within = |(from, until): &(Duration, Duration)| *from <= since && since < *until;
        let (provider, ttl, known_at, moves) = match zone {
            None | Some(Zone::Nothing) => return Err(RouteFault::NoSuchDomain),
            Some(Zone::Null) => return Err(RouteFault::NullMx),
            Some(Zone::Mx { nothing, .. }) if nothing.iter().any(now_within) => {
                return Err(RouteFault::NoSuchDomain);
            }
            Some(Zone::Mx { servfail_until, .. }) if self.now < self.began + *servfail_until => {
                return Err(RouteFault::Temporary { why: "SERVFAIL".into() });
            }
            Some(Zone::Mx { fails_percent, .. })
                if *fails_percent > 0
                    && self.now < self.began + self.script.faults_end
                    && self.chance.percent(*fails_percent) =>
            {
                return Err(RouteFault::Temporary { why: "no answer in time".into() });
            }
            Some(Zone::Mx { provider, ttl, one_host_until, moves, .. }) => {
                (*provider, *ttl, *one_host_until, *moves)
            }
        };
        let moved = moves.filter(|(at, _)| self.now >= self.began + *at);
        let provider = moved.map_or(provider, |(_, other)| other);
        let all = &self.script.providers[provider].hosts;
        let known = if self.now < self.began + known_at { 1 } else { all.len() };
        let mut hosts: Vec<MxHost> = all[..known]
            .iter()
            .map(|host| MxHost {
                preference: host.preference,
                name: host.name.as_str().into(),
                addresses: host.addresses.clone(),
            })
            .collect();
        hosts.sort_by(|one, two| (one.preference, &one.name).cmp(&(two.preference, &two.name)));
        let own = self.node.as_ref().map_or(self.now, |node| node.own_time(self.now));
        Ok(Arc::new(MxRoute {
            hosts,
            port: 25,
            lmtp: false,
            relay: false,
            tls: None,
            valid_until: own + ttl,
        }))
    }

    // ------------------------------------------------------------------ engine

    /// Hands an event to the engine.
    pub(crate) fn tell(&mut self, event: Event) {
        let Some(node) = &mut self.node else { return };
        if let Event::RouteFound { domain, route } = &event {
            let nothing = matches!(route, Err(RouteFault::NoSuchDomain));
            self.judge.heard_of_domain(self.now, domain, nothing);
        }
        let event = self.script.sabotage.bend_event(event);
        match &event {
            // A rule set is told by its version.
            Event::RulesReplaced(rules) => {
                self.log.note(self.now, format_args!("< rules {}", rules.version()));
            }
            Event::ReactionRulesReplaced(rules) => {
                self.log.note(self.now, format_args!("< reaction rules {}", rules.version()));
            }
            other => self.log.note(self.now, format_args!("< {other:?}")),
        }
        if let Event::MessagesDone { results, .. } = &event {
            self.undecided += results.len() as u64;
        }
        node.engine.handle(node.own_time(self.now), event);
    }

    /// Lets the engine decide and carries out what it asks for.
    fn decide(&mut self) {
        let Some(node) = &mut self.node else { return };
        let own = node.own_time(self.now);
        if own >= node.renew_at {
            self.renew();
        }
        let Some(node) = &mut self.node else { return };
        node.engine.decide(own);
        let mut answers = Vec::new();
        while let Some(command) = self.node.as_mut().and_then(|node| node.engine.next_command()) {
            self.log.note(self.now, format_args!("> {command:?}"));
            self.carry_out(command, &mut answers);
            if !self.count_down() {
                return;
            }
        }
        self.undecided = 0;
        self.journal(answers);
        let stopped = self.node.as_ref().is_some_and(|node| {
            let waits = node.committing || !node.requests.is_empty();
            node.drained && !waits && node.unsettled.is_empty() && node.unkept.is_none()
        });
        if stopped && let Some(restart) = self.node.as_ref().and_then(|node| node.draining) {
            self.done.stops += 1;
            self.judge.drained(self.now, &self.disk.store);
            self.stop(restart);
        }
    }

    fn describe_waiting(&self) -> String {
        use core::fmt::Write as _;
        let mut text = String::new();
        let records = self.disk.store.reads().deliveries(DeliveryId(0), u32::MAX);
        for record in records.unwrap_or_default() {
            if record.counters.pending() > 0 {
                let (delivery, counters) = (record.delivery, record.counters);
                // Writing to a String cannot fail.
                let _ = write!(
                    text,
                    " [{} {:?}: {} queued, {} held]",
                    delivery.id,
                    delivery.state,
                    counters.queued(),
                    counters.in_flight
                );
            }
        }
        if let Some(node) = &self.node {
            for group in node.engine.groups() {
                // Writing to a String cannot fail.
                let _ = write!(
                    text,
                    " [{}: window {}, connections {}, {:?}]",
                    group.sample_domain, group.window, group.connections, group.waiting
                );
            }
        }
        text
    }
}

/// A set of rules of the script.
fn compile(script: &Script, number: usize, version: u64) -> Arc<RuleSet> {
    let (text, levels) = &script.rules[number];
    compile_text(text, levels, version)
}

pub(crate) fn compile_text(text: &str, levels: &rules::Levels, version: u64) -> Arc<RuleSet> {
    let file =
        rules::parse("rules.toml", text.as_bytes()).expect("the drawn rules are well formed");
    Arc::new(RuleSet::compile(&file, levels, version))
}
