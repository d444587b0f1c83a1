//! Worlds of many days: do the ceilings hold when limits, levels, caps, processes and clocks change all the time?
//!
//! **Promise.** [`days`] lets worlds of [`DaysPlan::days`] days live one after the other, each drawn from its seed:
//! limits of an hour under every pacing and scope, caps of sources and deliveries, warm-up caps of an hour and a day
//! that grow, spells of mail that press on them, and days without; rules, levels and caps replaced in mid-flight,
//! crashes, stops, boots, standstill, full disks, wall clocks that are set forward and back, clocks that drift, and
//! reactions that suspend. All other checkers judge as well.
//!
//! **Three judges** have to agree, and share no code:
//!
//! - the exchangers' record, swept by `judge/ceilings.rs` over every hour, day and instant;
//! - the product's auditor ([`crate::audit`]): fed with the delivery log of the node in the node's own time, it must find
//!   every limit kept, and no attempt of the exchangers' record may be missing but those whose line a crash took;
//!   fed with the exchangers' record, it must find the same fullest hour of every budget;
//! - the ledger's own counts, looked at every quarter of an hour (`judge/counts.rs`).
//!
//! **Absences.** Several nodes: one lives here.

mod draw;

use std::collections::BTreeMap;
use std::time::Instant;

use mail::id::SourceId;
use mail::time::Timestamp;
use rules::RuleSet;

use crate::Sabotage;
use crate::audit::{AuditReport, Auditor, BudgetAudit, Entry, Past};
use crate::chance::Chance;
use crate::judge::{Ceilings, Fill};
use crate::world::{Done, World, compile_text};

/// How long the worlds are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DaysPlan {
    /// Days of one world, 1 or more.
    pub days: u64,
    /// A fault built into the node.
    pub sabotage: Sabotage,
}

impl Default for DaysPlan {
    /// 25 days.
    fn default() -> Self {
        Self { days: 25, sabotage: Sabotage::None }
    }
}

/// One kind of limit, over all worlds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitKept {
    /// Its name.
    pub limit: &'static str,
    /// Messages or connections that were judged by it.
    pub judged: u64,
    /// Of these, those that took the last place under it.
    pub last_places: u64,
    /// The fullest window, measured by its limit, and that limit.
    pub most: (u64, u64),
    /// Those that were too many.
    pub excess: u64,
}

/// What the days led to.
#[derive(Clone, Debug, Default)]
pub struct DaysReport {
    /// Days lived, until the last message was at its end.
    pub days: f64,
    /// Worlds.
    pub worlds: u64,
    /// Messages accepted.
    pub messages: u64,
    /// MAIL FROM commands that the exchangers saw.
    pub mails: u64,
    /// Attempts in the delivery logs that the auditor read.
    pub audited: u64,
    /// Budgets whose fullest hour auditor and judge compared.
    pub budgets: u64,
    /// Looks at the ledger's own counts, one in each quarter of an hour.
    pub looks: u64,
    /// What was done to the nodes, by name.
    pub done: Vec<(&'static str, u64)>,
    /// By kind of limit.
    pub limits: Vec<LimitKept>,
    /// What any of the judges and checkers found, with the seed of its world.
    pub violations: Vec<String>,
    /// Days lived in a second of real time.
    pub days_per_second: f64,
}

impl DaysReport {
    /// Messages and connections over any limit.
    #[must_use]
    pub fn excess(&self) -> u64 {
        self.limits.iter().map(|kept| kept.excess).sum()
    }
}

/// What one world led to.
struct Lived {
    days: f64,
    messages: u64,
    mails: u64,
    audited: u64,
    looks: u64,
    done: Done,
    ceilings: Ceilings,
    violations: Vec<String>,
}

/// Lets worlds live until they have lived so many days, the first drawn from `seed`, each from the next.
#[must_use]
pub fn days(seed: u64, wanted: u64, plan: &DaysPlan) -> DaysReport {
    let began = Instant::now();
    let mut report = DaysReport::default();
    let mut fills: BTreeMap<&'static str, Fill> = BTreeMap::new();
    let mut done = Done::default();
    let mut seed = seed;
    while report.days < wanted as f64 {
        let lived = live(seed, plan);
        report.worlds += 1;
        report.days += lived.days;
        report.messages += lived.messages;
        report.mails += lived.mails;
        report.audited += lived.audited;
        report.budgets += lived.ceilings.fullest.len() as u64;
        report.looks += lived.looks;
        done.add(&lived.done);
        for (name, fill) in &lived.ceilings.fills {
            fills.entry(name).or_default().add(fill);
        }
        let told = lived.violations.into_iter().map(|text| format!("seed {seed}: {text}"));
        report.violations.extend(told);
        seed = seed.wrapping_add(1);
    }
    report.done = done.by_name();
    let kept = |(limit, fill): (&'static str, Fill)| LimitKept {
        limit,
        judged: fill.judged,
        last_places: fill.last_places,
        most: fill.most,
        excess: fill.excess,
    };
    report.limits = fills.into_iter().map(kept).collect();
    report.days_per_second = report.days / began.elapsed().as_secs_f64().max(1e-9);
    report
}

fn live(seed: u64, plan: &DaysPlan) -> Lived {
    let mut chance = Chance::new(seed);
    let script = draw::script(&mut chance, plan);
    let mut world = World::new(seed, script, chance, false);
    world.run();
    world.judge.conclude(&world.fleet, &world.disk.store, &world.script);
    let mut violations = core::mem::take(&mut world.judge.violations);
    let ceilings = core::mem::take(&mut world.judge.ceilings);
    let (audited, found) = Audit::of(&world).judge(&world, &ceilings);
    violations.extend(found);
    Lived {
        days: (world.now - world.began).as_secs_f64() / 86_400.0,
        messages: world.next_serial - 1,
        mails: world.fleet.mails.len() as u64,
        audited,
        looks: world.judge.looks,
        done: world.done,
        ceilings,
        violations,
    }
}

/// What the auditor needs to know of a world.
struct Audit {
    /// The last set of rules: its names are those of all others, and so are the scopes of the names.
    rules: RuleSet,
    caps: BTreeMap<u32, u32>,
    /// In true time, and in the node's own.
    past: [Past; 2],
}

impl Audit {
    fn of(world: &World) -> Self {
        let set = |number: usize| {
            let (text, levels) = &world.script.rules[number];
            RuleSet::clone(&compile_text(text, levels, number as u64 + 1))
        };
        let caps = world.script.source_limits.iter();
        let mut past = [Past::default(), Past::default()];
        for (at, own, number) in &world.rules_told {
            past[0].rules.push((at.as_micros(), set(*number)));
            past[1].rules.push((own.as_micros(), set(*number)));
        }
        for (at, own, number) in &world.caps_told {
            let caps = &world.script.warm_up[*number];
            past[0].warm_up.push((at.as_micros(), caps.clone()));
            past[1].warm_up.push((own.as_micros(), caps.clone()));
        }
        Self {
            rules: set(world.rules_told.last().map_or(0, |(.., number)| *number)),
            caps: caps.map(|(source, cap)| (source.0, *cap)).collect(),
            past,
        }
    }

    fn run(&self, past: Past, entries: impl Iterator<Item = Entry>) -> AuditReport {
        let mut auditor = Auditor::new(&self.rules, self.caps.clone()).with_past(past);
        for (line, entry) in (1..).zip(entries) {
            auditor.attempt("delivery log", line, &entry);
        }
        auditor.finish()
    }

    /// How many attempts of the log were judged, and what is wrong.
    fn judge(self, world: &World, ceilings: &Ceilings) -> (u64, Vec<String>) {
        let mut wrong = Vec::new();
        let [seen_past, own_past] = core::array::from_fn(|which| Past {
            rules: self.past[which].rules.clone(),
            warm_up: self.past[which].warm_up.clone(),
        });
        let log = self.run(own_past, world.delivery_log.iter().cloned());
        for (whose, report) in
            [("the delivery log", &log), ("the exchangers' record", &self.seen(world, seen_past))]
        {
            for budget in report.budgets.iter().filter(|budget| !budget.held).take(2) {
                wrong.push(format!("3: the auditor finds in {whose} {}", told(budget)));
            }
            if report.excesses == 0 && !report.limits_held {
                let unknown = &report.unknown_rules;
                let late = report.out_of_order;
                wrong.push(format!(
                    "3: the auditor cannot judge {whose}: {late} lines out of order, {unknown:?}"
                ));
            }
            if *whose == *"the exchangers' record" {
                wrong.extend(differences(report, ceilings));
            }
        }
        let (mails, logged, lost) = (world.fleet.mails.len() as u64, log.attempts, world.unlogged);
        if mails > logged + lost {
            wrong.push(format!(
                "3: the exchangers saw {mails} MAIL FROM, the delivery log has {logged} and crashes took {lost} at most"
            ));
        }
        (log.attempts, wrong)
    }

    /// What the auditor finds in the exchangers' record, as if it were a log in the order of time.
    fn seen(&self, world: &World, past: Past) -> AuditReport {
        let mut mails: Vec<(Timestamp, SourceId, core::net::IpAddr)> =
            world.fleet.mails.iter().map(|mail| (mail.sent, mail.source, mail.target)).collect();
        mails.sort();
        let sets: Vec<&(u64, RuleSet)> = past.rules.iter().collect();
        let hosts: BTreeMap<core::net::IpAddr, &str> = world
            .script
            .providers
            .iter()
            .flat_map(|provider| &provider.hosts)
            .flat_map(|host| host.addresses.iter().map(|address| (*address, host.name.as_str())))
            .collect();
        let entries: Vec<Entry> = mails
            .into_iter()
            .map(|(sent, source, target)| {
                let started_micros = sent.as_micros();
                let after = sets.partition_point(|(from, _)| *from <= started_micros);
                let (_, rules) = sets[after.saturating_sub(1)];
                let rule = rules.rule(rules.find(hosts[&target], source));
                Entry { started_micros, source: source.0, target, rule: rule.name.to_string() }
            })
            .collect();
        self.run(past, entries.into_iter())
    }
}

fn told(budget: &BudgetAudit) -> String {
    let BudgetAudit { rule, key, maximum, limit_per_hour, window_seconds, over, .. } = budget;
    format!("{maximum} of {limit_per_hour} in {window_seconds} s for {rule} {key}, {over} over it")
}

/// Budgets for which judge and auditor do not come to the same.
fn differences(report: &AuditReport, ceilings: &Ceilings) -> Vec<String> {
    let audited: BTreeMap<(&str, &str), (u64, u64)> = report
        .budgets
        .iter()
        .filter(|budget| budget.scope != "cap")
        .map(|budget| {
            let most = (budget.maximum, u64::from(budget.limit_per_hour));
            ((budget.rule.as_str(), budget.key.as_str()), most)
        })
        .collect();
    let mut wrong = Vec::new();
    if audited.len() != ceilings.fullest.len() {
        let (one, other) = (audited.len(), ceilings.fullest.len());
        wrong.push(format!("3: the auditor knows {one} budgets and the judge {other}"));
    }
    for ((rule, source, target), judged) in &ceilings.fullest {
        let key = match (source, target) {
            (Some(source), Some(target)) => format!("{source}>{target}"),
            (Some(source), None) => source.to_string(),
            _ => "all".to_owned(),
        };
        let found = audited.get(&(rule.as_str(), key.as_str())).copied().unwrap_or_default();
        // As shares of their limits: another window may be as full.
        if found.0 * judged.1 != judged.0 * found.1 {
            wrong.push(format!(
                "3: the fullest hour of {rule} {key}: {found:?} says the auditor, {judged:?} the judge"
            ));
        }
    }
    wrong.truncate(3);
    wrong
}

impl Done {
    const fn add(&mut self, other: &Self) {
        self.rules += other.rules;
        self.levels += other.levels;
        self.caps += other.caps;
        self.crashes += other.crashes;
        self.stops += other.stops;
        self.boots += other.boots;
        self.steps.0 += other.steps.0;
        self.steps.1 += other.steps.1;
        self.freezes += other.freezes;
        self.full_disks += other.full_disks;
    }

    fn by_name(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("rules replaced", self.rules),
            ("levels changed", self.levels),
            ("warm-up caps changed", self.caps),
            ("crashes", self.crashes),
            ("stops", self.stops),
            ("boots of the machine", self.boots),
            ("wall clock set forward", self.steps.0),
            ("wall clock set back", self.steps.1),
            ("standstill", self.freezes),
            ("full disks", self.full_disks),
        ]
    }
}

#[cfg(test)]
mod tests;
