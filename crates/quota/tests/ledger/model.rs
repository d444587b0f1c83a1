//! Random histories against a naive model.
//!
//! The model is a list of all uses with their exact times, and looks at the whole list each time.
//! Its time is that of the far end: it goes on evenly, whatever happens to clocks, processes and
//! machines on our side.

use std::time::Duration;

use mail::id::DeliveryId;
use proptest::prelude::*;
use quota::{
    CapKey, ClockReading, JournalEntry, LotId, PermitAnswer, PermitId, PermitRequest, SavedClock,
    Slot, SourceCaps, WarmUpCaps, anchor,
};

use super::*;

const HOSTS: [&str; 3] = ["h0", "h1", "h2"];
const DELIVERY_LIMIT: u32 = 45;
const SOURCE_LIMIT: u32 = 70;
const WARM_HOUR: u32 = 50;
const WARM_DAY: u32 = 120;
const WARM_PROVIDER: u32 = 70;
const DAY: u64 = 86_400_000_000;

/// Source 1 is warmed up.
fn warm_up() -> Arc<WarmUpCaps> {
    let caps = SourceCaps {
        per_hour: Some(WARM_HOUR),
        per_day: Some(WARM_DAY),
        provider_per_day: Some(WARM_PROVIDER),
        providers: BTreeMap::from([("b".into(), WARM_PROVIDER / 2)]),
    };
    Arc::new(WarmUpCaps { sources: BTreeMap::from([(SourceId(1), caps)]) })
}

#[derive(Clone, Debug)]
enum Step {
    /// Time passes.
    Pass { millis: u64 },
    /// Tokens are asked for. If not durable, the process dies before the journal is written.
    Ask { source: u32, target: u8, host: usize, want: u32, capped: bool, node: u64, durable: bool },
    /// Some tokens of a lot are used, if its time has not run out.
    Use { lot: prop::sample::Index, part: u32 },
    /// Some tokens of a lot are given back.
    GiveBack { lot: prop::sample::Index, part: u32 },
    /// A permit is asked for, and the connection started after a delay.
    Connect { source: u32, target: u8, host: usize, node: u64, delay: u64, durable: bool },
    /// A connection is closed and its permit released.
    Close { connection: prop::sample::Index },
    /// A node renews its lease.
    Renew { node: u64 },
    /// Other rules.
    Rules(TestRules),
    /// The process of the ledger, and node 1 in it, dies and starts again.
    Restart { wall_step_seconds: i64, down_millis: u64 },
    /// The machine goes down with everything; its wall clock comes back late by this much.
    Reboot { wall_behind_seconds: u64, down_millis: u64 },
    /// Idle things are forgotten.
    Prune,
}

fn rule() -> impl Strategy<Value = TestRule> {
    (
        prop::sample::select(vec!["a", "b", "c"]),
        prop::sample::select(vec![Scope::Path, Scope::Source, Scope::Rule]),
        prop::sample::select(vec![Pacing::Staircase, Pacing::Even, Pacing::Burst]),
        prop_oneof![1 => 0_u32..6, 4 => 10_u32..200],
        1_u32..4,
        prop::option::of(1_u32..4),
        prop::option::of(1_u64..5_000),
    )
        .prop_map(|(name, scope, pacing, messages, connections, rate, interval)| TestRule {
            name: name.into(),
            scope,
            pacing,
            limits: BudgetLimits {
                messages_per_hour: messages,
                max_connections: connections,
                connections_per_minute: rate,
                min_interval: interval.map(Duration::from_millis),
            },
        })
}

/// Rules for the three hosts. Rules of one name are one rule.
fn rules() -> impl Strategy<Value = TestRules> {
    (prop::collection::vec(rule(), 3), prop::option::of(2_u32..4)).prop_map(|(rules, divisor)| {
        let mut hosts = BTreeMap::new();
        for (host, rule) in HOSTS.iter().zip(&rules) {
            let first = rules.iter().find(|other| other.name == rule.name).unwrap();
            hosts.insert((*host).to_owned(), first.clone());
        }
        let divisors = divisor.into_iter().map(|divisor| (SourceId(2), divisor)).collect();
        TestRules { hosts, divisors, version: 1 }
    })
}

fn step(change_rules: bool) -> impl Strategy<Value = Step> {
    let durable = || prop::bool::weighted(0.97);
    let pass = prop_oneof![
        6 => 0_u64..2_000,
        4 => 0_u64..30_000,
        2 => 0_u64..300_000,
        1 => 0_u64..4_000_000,
        1 => 0_u64..100_000_000,
    ];
    prop_oneof![
        12 => pass.prop_map(|millis| Step::Pass { millis }),
        18 => (1_u32..3, 0_u8..3, 0_usize..3, 1_u32..60, any::<bool>(), 1_u64..3, durable())
            .prop_map(|(source, target, host, want, capped, node, durable)| Step::Ask {
                source, target, host, want, capped, node, durable
            }),
        14 => (any::<prop::sample::Index>(), 1_u32..60).prop_map(|(lot, part)| Step::Use { lot, part }),
        3 => (any::<prop::sample::Index>(), 1_u32..40)
            .prop_map(|(lot, part)| Step::GiveBack { lot, part }),
        10 => (1_u32..3, 0_u8..3, 0_usize..3, 1_u64..4, 0_u64..1_000, durable())
            .prop_map(|(source, target, host, node, delay, durable)| Step::Connect {
                source, target, host, node, delay, durable
            }),
        5 => any::<prop::sample::Index>().prop_map(|connection| Step::Close { connection }),
        4 => (1_u64..4).prop_map(|node| Step::Renew { node }),
        3 => if change_rules {
            rules().prop_map(Step::Rules).boxed()
        } else {
            Just(Step::Prune).boxed()
        },
        1 => (-7_200_i64..7_200, 0_u64..4_000).prop_map(|(wall_step_seconds, down_millis)| {
            Step::Restart { wall_step_seconds, down_millis }
        }),
        1 => (prop_oneof![Just(0_u64), 0_u64..7_200], 5_000_u64..100_000).prop_map(
            |(wall_behind_seconds, down_millis)| Step::Reboot { wall_behind_seconds, down_millis }
        ),
        1 => Just(Step::Prune),
    ]
}

/// Tokens held by somebody.
#[derive(Clone, Debug)]
struct Held {
    id: LotId,
    path: PathKey,
    host: &'static str,
    left: u32,
    slot: Slot,
    use_before: Timestamp,
    capped: bool,
    node: u64,
}

/// Messages that the far end has seen.
#[derive(Clone, Debug)]
struct Used {
    at: u64,
    path: PathKey,
    count: u64,
    slot: Slot,
    capped: bool,
    host: &'static str,
}

/// A connection that the far end has seen, open in `from..to`.
#[derive(Clone, Debug)]
struct Connection {
    permit: PermitId,
    owner: Owner,
    path: PathKey,
    host: &'static str,
    granted: u64,
    from: u64,
    /// `None`: still open on our side.
    to: Option<u64>,
}

impl Connection {
    /// Ends it at `now`; the far end notices at `seen`. If it has not been started, it never will.
    fn end(&mut self, now: u64, seen: u64) {
        if self.from > now {
            self.from = u64::MAX;
            self.to = Some(0);
        } else {
            self.to = Some(seen);
        }
    }
}

struct World {
    rules: TestRules,
    ledger: Ledger,
    /// Microseconds of the far end's time.
    now: u64,
    /// The ledger's time when the far end's is 0. Changes with a reboot.
    steady_at_zero: i128,
    boot: u32,
    booted_at: u64,
    wall_step: i128,
    incarnations: BTreeMap<u64, u64>,
    durable: Vec<JournalEntry>,
    lots: Vec<Held>,
    uses: Vec<Used>,
    connections: Vec<Connection>,
    /// Until when each owner may keep its connections, in the ledger's time.
    leases: BTreeMap<Owner, Timestamp>,
    /// Everything answered, to compare two runs.
    log: Vec<String>,
}

impl World {
    fn new(rules: TestRules) -> Self {
        let mut ledger = fresh(Arc::new(rules.clone()));
        ledger.replace_warm_up(START, warm_up());
        Self {
            ledger,
            rules,
            now: 0,
            steady_at_zero: i128::from(START.as_micros()),
            boot: 0,
            booted_at: 0,
            wall_step: 0,
            incarnations: BTreeMap::from([(1, 1), (2, 1), (3, 1)]),
            durable: Vec::new(),
            lots: Vec::new(),
            uses: Vec::new(),
            connections: Vec::new(),
            leases: BTreeMap::new(),
            log: Vec::new(),
        }
    }

    fn steady(&self) -> Timestamp {
        let steady = self.steady_at_zero + i128::from(self.now);
        Timestamp::from_micros(u64::try_from(steady).unwrap())
    }

    fn wall(&self) -> u64 {
        u64::try_from(i128::from(START.as_micros() + self.now) + self.wall_step).unwrap()
    }

    fn owner(&self, node: u64) -> Owner {
        Owner { node: NodeId(node), incarnation: self.incarnations[&node] }
    }

    /// Makes the journal durable.
    fn flush(&mut self) {
        let clock = SavedClock {
            steady: self.steady(),
            boot_id: self.boot.to_string(),
            boot_clock: Duration::from_micros(self.now - self.booted_at),
            wall: self.wall(),
        };
        self.ledger.record_clock(clock);
        let batch = self.ledger.take_journal();
        self.log.extend(batch.iter().map(|entry| format!("{entry:?}")));
        self.durable.extend(batch);
    }

    fn pass(&mut self, micros: u64) {
        let end = self.now + micros;
        // Owners close what they could not renew in time.
        for connection in self.connections.iter_mut().filter(|one| one.to.is_none()) {
            let lease = i128::from(self.leases[&connection.owner].as_micros());
            let closes = u64::try_from(lease - self.steady_at_zero).unwrap();
            if closes <= end {
                connection.end(closes, closes);
            }
        }
        self.now = end;
    }

    /// The process is gone: what is not durable, its lots, its connections.
    fn die(&mut self, nodes: &[u64], seen_for: u64) {
        for connection in self.connections.iter_mut().filter(|one| one.to.is_none()) {
            if nodes.contains(&connection.owner.node.0) {
                // The far end may notice late.
                connection.end(self.now, self.now + seen_for);
            }
        }
        self.lots.retain(|lot| !nodes.contains(&lot.node));
        for node in nodes {
            *self.incarnations.get_mut(node).unwrap() += 1;
        }
    }

    fn start(&mut self) {
        let saved = self.durable.iter().rev().find_map(|entry| match entry {
            JournalEntry::Clock(clock) => Some(clock.clone()),
            _ => None,
        });
        let reading = ClockReading {
            boot_id: self.boot.to_string(),
            boot_clock: Duration::from_micros(self.now - self.booted_at),
            wall: self.wall(),
        };
        let steady = anchor(saved, reading);
        self.steady_at_zero = i128::from(steady.as_micros()) - i128::from(self.now);
        self.ledger = Ledger::restore(
            Settings::default(),
            Arc::new(self.rules.clone()),
            self.owner(1),
            steady,
            self.durable.iter().cloned(),
        );
        self.ledger.replace_warm_up(steady, warm_up());
        // From here on the boot clock can vouch for the time.
        self.flush();
    }

    /// The far end's count for one hour, and what may still be used, for the paths chosen.
    fn exposure(&self, chosen: impl Fn(PathKey, bool) -> bool) -> u64 {
        self.exposure_in(3_600_000_000, chosen)
    }

    fn exposure_in(&self, span: u64, chosen: impl Fn(PathKey, bool) -> bool) -> u64 {
        let since = self.now.checked_sub(span);
        let used = self.uses.iter().filter(|one| since.is_none_or(|since| one.at >= since));
        let used: u64 = used.filter(|one| chosen(one.path, one.capped)).map(|one| one.count).sum();
        let held = self.lots.iter().filter(|lot| lot.use_before > self.steady());
        let held = held.filter(|lot| chosen(lot.path, lot.capped)).map(|lot| u64::from(lot.left));
        used + held.sum::<u64>()
    }

    /// Whether the path has been used, within the hour or in an open connection, under a host of
    /// this budget.
    fn in_budget(&self, path: PathKey, rule: &str, key: quota::ScopeKey) -> bool {
        let since = self.now.saturating_sub(3_600_000_000);
        let governed = |host: &str| {
            let rules = &self.rules.hosts[host];
            rules.name == rule && quota::ScopeKey::new(rules.scope, path) == key
        };
        self.uses.iter().any(|one| one.path == path && one.at >= since && governed(one.host))
            || self
                .lots
                .iter()
                .any(|one| one.path == path && one.use_before > self.steady() && governed(one.host))
            || self.connections.iter().any(|one| {
                one.path == path && one.to.is_none_or(|to| to > self.now) && governed(one.host)
            })
    }

    /// No grant on `path` under `host` may leave its budget over the limit now in force.
    fn check_tokens(&self, path: PathKey, host: &str) {
        let rule = &self.rules.hosts[host];
        let key = quota::ScopeKey::new(rule.scope, path);
        let limit = self.rules.limits(path.source, host).messages_per_hour;
        let sum = self.exposure(|other, _| other == path || self.in_budget(other, &rule.name, key));
        assert!(sum <= limit.into(), "{sum} of {limit} for {} {key}", rule.name);
        let capped = self.exposure(|_, capped| capped);
        assert!(capped <= DELIVERY_LIMIT.into());
        let source = self.exposure(|other, _| other.source == SourceId(2));
        assert!(path.source != SourceId(2) || source <= SOURCE_LIMIT.into());
        let warm = |span| self.exposure_in(span, |other, _| other.source == SourceId(1));
        assert!(path.source != SourceId(1) || warm(3_600_000_000) <= WARM_HOUR.into());
        assert!(path.source != SourceId(1) || warm(DAY) <= WARM_DAY.into());
    }

    fn check_connections(&self, path: PathKey, host: &str) {
        let rule = &self.rules.hosts[host];
        let key = quota::ScopeKey::new(rule.scope, path);
        let open = self.connections.iter().filter(|one| {
            one.to.is_none_or(|to| to > self.now)
                && (one.path == path || self.in_budget(one.path, &rule.name, key))
        });
        assert!(open.count() <= rule.limits.max_connections as usize);
    }

    fn ask(&mut self, path: PathKey, host: &'static str, want: u32, capped: bool) -> Option<Held> {
        let caps: &[(CapKey, u32)] =
            if capped { &[(CapKey::Delivery(DeliveryId(1)), DELIVERY_LIMIT)] } else { &[] };
        let source_limit = (path.source == SourceId(2)).then_some(SOURCE_LIMIT);
        let request = TokenRequest { path, mx_host: host, want, source_limit, caps };
        let answer = self.ledger.ask_tokens(self.steady(), &request);
        self.log.push(format!("{answer:?}"));
        match answer {
            TokenAnswer::Granted(lot) => {
                assert!(lot.count > 0 && lot.count <= want && self.steady() < lot.use_before);
                let (id, left, slot) = (lot.id, lot.count, lot.slot);
                let use_before = lot.use_before;
                Some(Held { id, path, host, left, slot, use_before, capped, node: 0 })
            }
            TokenAnswer::Wait(wait) => {
                // The promise of `until`: then, and not a moment earlier.
                if let Some(until) = wait.until {
                    assert!(until > self.steady());
                    let then = self.ledger.clone().ask_tokens(until, &request);
                    assert!(matches!(then, TokenAnswer::Granted(_)), "{wait:?}: then {then:?}");
                    let before = Timestamp::from_micros(until.as_micros() - 1);
                    let then = self.ledger.clone().ask_tokens(before, &request);
                    assert!(matches!(then, TokenAnswer::Wait(_)), "{wait:?}: before {then:?}");
                } else {
                    assert_eq!(wait.limit_value, 0);
                }
                None
            }
        }
    }

    fn connect(&mut self, path: PathKey, host: &'static str, node: u64, delay: u64, durable: bool) {
        let owner = self.owner(node);
        let request = PermitRequest { owner, path, mx_host: host };
        let answer = self.ledger.ask_permit(self.steady(), &request);
        self.log.push(format!("{answer:?}"));
        match answer {
            PermitAnswer::Granted(permit) => {
                if !durable {
                    return self.crash(0, 0);
                }
                self.flush();
                let from = self.now + delay * 1_000;
                self.leases.insert(owner, permit.expires_at);
                self.connections.push(Connection {
                    permit: permit.id,
                    owner,
                    path,
                    host,
                    granted: self.now,
                    from,
                    to: None,
                });
                self.check_connections(path, host);
            }
            PermitAnswer::Wait(wait) => {
                if let Some(until) = wait.until {
                    assert!(until > self.steady());
                    let then = self.ledger.clone().ask_permit(until, &request);
                    assert!(matches!(then, PermitAnswer::Granted(_)), "{wait:?}: then {then:?}");
                }
            }
            PermitAnswer::Stale { .. } => unreachable!("owners are told of their restarts"),
        }
    }

    fn crash(&mut self, wall_step_seconds: i64, down_millis: u64) {
        self.die(&[1], 2_000_000);
        self.wall_step += i128::from(wall_step_seconds) * 1_000_000;
        self.wall_step = self.wall_step.max(-i128::from(START.as_micros()));
        self.pass(down_millis * 1_000);
        self.start();
    }

    fn reboot(&mut self, wall_behind_seconds: u64, down_millis: u64) {
        self.die(&[1, 2, 3], 2_000_000);
        self.pass(down_millis * 1_000);
        self.boot += 1;
        self.booted_at = self.now - 1_000;
        // Whatever the wall clock said before, it now shows no more than has truly passed.
        let true_time = i128::from(self.steady().as_micros());
        let behind = i128::from(wall_behind_seconds) * 1_000_000;
        self.wall_step = true_time - behind - i128::from(START.as_micros() + self.now);
        self.start();
    }

    fn take(&mut self, step: &Step) {
        match step.clone() {
            Step::Pass { millis } => self.pass(millis * 1_000),
            Step::Ask { source, target, host, want, capped, node, durable } => {
                let (path, host) = (path(source, target), HOSTS[host]);
                let Some(held) = self.ask(path, host, want, capped) else { return };
                if !durable {
                    return self.crash(0, 0);
                }
                self.flush();
                self.lots.push(Held { node, ..held });
                self.check_tokens(path, host);
            }
            Step::Use { lot, part } => self.use_lot(lot, part),
            Step::GiveBack { lot, part } => {
                if self.lots.is_empty() {
                    return;
                }
                let place = lot.index(self.lots.len());
                let lot = &mut self.lots[place];
                let part = part.min(lot.left);
                let id = lot.id;
                lot.left -= part;
                let answer = self.ledger.give_back(self.steady(), id, part);
                self.log.push(format!("{answer:?}"));
            }
            Step::Connect { source, target, host, node, delay, durable } => {
                self.connect(path(source, target), HOSTS[host], node, delay, durable);
            }
            Step::Close { connection } => self.close(connection),
            Step::Renew { node } => {
                let owner = self.owner(node);
                let renewal = self.ledger.renew_permits(self.steady(), owner);
                self.flush();
                let now = self.now;
                let open = self.connections.iter().filter(|one| one.owner == owner);
                let open = open.filter(|one| one.to.is_none_or(|to| to > now)).count();
                assert!(open <= renewal.permits, "a connection without a permit");
                self.leases.insert(owner, renewal.expires_at);
                self.log.push(format!("{renewal:?}"));
            }
            Step::Rules(rules) => {
                self.rules = rules;
                self.ledger.replace_rules(self.steady(), Arc::new(self.rules.clone()));
            }
            Step::Restart { wall_step_seconds, down_millis } => {
                self.crash(wall_step_seconds, down_millis);
            }
            Step::Reboot { wall_behind_seconds, down_millis } => {
                self.reboot(wall_behind_seconds, down_millis);
            }
            Step::Prune => self.ledger.prune(self.steady()),
        }
    }

    fn use_lot(&mut self, lot: prop::sample::Index, part: u32) {
        let (now, steady) = (self.now, self.steady());
        let usable = |lot: &&mut Held| steady < lot.use_before && lot.left > 0;
        let count = self.lots.iter_mut().filter(usable).count();
        if count == 0 {
            return;
        }
        let lot = self.lots.iter_mut().filter(usable).nth(lot.index(count)).unwrap();
        let count = part.min(lot.left);
        lot.left -= count;
        let Held { path, host, slot, capped, .. } = *lot;
        self.uses.push(Used { at: now, path, count: count.into(), slot, capped, host });
    }

    fn close(&mut self, connection: prop::sample::Index) {
        let open = |one: &&mut Connection| one.to.is_none();
        let count = self.connections.iter_mut().filter(open).count();
        if count == 0 {
            return;
        }
        let (now, steady) = (self.now, self.steady());
        let mut all = self.connections.iter_mut().filter(open);
        let one = all.nth(connection.index(count)).unwrap();
        one.end(now, now);
        let (owner, permit) = (one.owner, one.permit);
        assert!(self.ledger.release_permit(steady, owner, permit));
    }

    /// With rules that never changed: what the far end saw, swept over exact times.
    fn sweep(&self) {
        let mut names: Vec<_> = self.rules.hosts.values().collect();
        names.dedup_by(|one, two| one.name == two.name);
        for rule in names {
            let mut keys: BTreeMap<quota::ScopeKey, Vec<&Used>> = BTreeMap::new();
            let mine = |host: &str| self.rules.hosts[host].name == rule.name;
            for used in self.uses.iter().filter(|used| mine(used.host)) {
                let key = quota::ScopeKey::new(rule.scope, used.path);
                keys.entry(key).or_default().push(used);
            }
            for uses in keys.values() {
                let times: Vec<_> = uses.iter().map(|used| (used.at, used.count)).collect();
                let limit = u64::from(rule.limits.messages_per_hour);
                assert!(densest(&times, 3_600_000_000) <= limit);
                let mut periods: BTreeMap<u64, u64> = BTreeMap::new();
                for used in uses {
                    *periods.entry(used.slot.0 / 5).or_default() += used.count;
                }
                if rule.pacing == Pacing::Staircase {
                    assert!(periods.values().all(|sum| *sum <= (limit / 12).max(1)));
                }
            }
            self.sweep_connections(rule);
            let warm = self.uses.iter().filter(|used| mine(used.host) && used.path.source.0 == 1);
            let times: Vec<_> = warm.map(|used| (used.at, used.count)).collect();
            let line = if rule.name == "b" { WARM_PROVIDER / 2 } else { WARM_PROVIDER };
            assert!(densest(&times, DAY) <= line.into());
        }
        let warm = self.uses.iter().filter(|used| used.path.source.0 == 1);
        let times: Vec<_> = warm.map(|used| (used.at, used.count)).collect();
        assert!(densest(&times, DAY) <= WARM_DAY.into());
        assert!(densest(&times, 3_600_000_000) <= WARM_HOUR.into());
    }

    fn sweep_connections(&self, rule: &TestRule) {
        let mut keys: BTreeMap<quota::ScopeKey, Vec<&Connection>> = BTreeMap::new();
        let mine = |host: &str| self.rules.hosts[host].name == rule.name;
        for one in self.connections.iter().filter(|one| mine(one.host)) {
            keys.entry(quota::ScopeKey::new(rule.scope, one.path)).or_default().push(one);
        }
        for all in keys.values() {
            for (index, one) in all.iter().enumerate().filter(|(_, one)| one.from < u64::MAX) {
                let open = |other: &&&Connection| {
                    other.from <= one.from && other.to.is_none_or(|to| to > one.from)
                };
                assert!(all.iter().filter(open).count() <= rule.limits.max_connections as usize);
                if let (Some(interval), Some(next)) = (rule.limits.min_interval, all.get(index + 1))
                {
                    assert!(u128::from(next.granted - one.granted) >= interval.as_micros());
                }
            }
            let mut starts: Vec<_> =
                all.iter().filter(|one| one.from < u64::MAX).map(|one| (one.from, 1)).collect();
            starts.sort_unstable();
            if let Some(rate) = rule.limits.connections_per_minute {
                assert!(densest(&starts, 60_000_000) <= rate.into());
            }
        }
    }
}

fn run(rules: &TestRules, steps: &[Step]) -> World {
    let mut world = World::new(rules.clone());
    for step in steps {
        world.take(step);
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 192,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Rules that stay: nothing the far end sees is over a limit, over exact times.
    #[test]
    fn limits_hold(rules in rules(), steps in prop::collection::vec(step(false), 1..300)) {
        run(&rules, &steps).sweep();
    }

    /// Rules that change: no grant is made over the limit in force; two runs are the same.
    #[test]
    fn limits_hold_when_rules_change(
        rules in rules(),
        steps in prop::collection::vec(step(true), 1..300),
    ) {
        prop_assert_eq!(run(&rules, &steps).log, run(&rules, &steps).log);
    }
}

/// The histories must be worth something: many grants, refusals, connections and restarts.
#[test]
fn histories_are_busy() {
    use proptest::strategy::ValueTree as _;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut uses, mut connections, mut waits, mut warm) = (0, 0, 0, [0; 3]);
    for _ in 0..40 {
        let rules = rules().new_tree(&mut runner).unwrap().current();
        let steps =
            prop::collection::vec(step(false), 300).new_tree(&mut runner).unwrap().current();
        let world = run(&rules, &steps);
        uses += world.uses.len();
        connections += world.connections.len();
        waits += world.log.iter().filter(|line| line.starts_with("Wait")).count();
        for (count, kind) in warm.iter_mut().zip(["WarmUpHour", "WarmUpDay", "WarmUpProvider"]) {
            *count +=
                world.log.iter().filter(|line| line.contains(&format!("kind: {kind},"))).count();
        }
    }
    assert!(warm.iter().all(|count| *count > 5), "{warm:?}");
    assert!(uses > 200 && connections > 400 && waits > 400, "{uses} {connections} {waits}");
}
