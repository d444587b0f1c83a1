//! Checker 3: no budget passes its limits, in any sliding window.
//!
//! What counts is worked out from the rules that were in force, for each set of rules over the whole history,
//! by a sweep with two pointers. A MAIL FROM is wrong if it is one too many under every set of rules that was in
//! force when it was written or when its token may have been granted (one slot before): a limit that was lowered meanwhile
//! does not call back tokens. The same holds for connections, whose permits are used within a second, and for caps.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use mail::id::{DeliveryId, SourceId};
use mail::time::Timestamp;
use quota::{SourceCaps, WarmUpCaps};
use rules::{Limits, RuleSet, Scope};

use crate::fleet::Fleet;
use crate::plan::Script;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
const MINUTE: Duration = Duration::from_secs(60);

/// A token is used within its minute.
const SLOT: Duration = Duration::from_secs(61);

/// Of what breaks one kind of limit, so much is told.
const TOLD: usize = 3;

/// A budget: rule, source and target as far as its scope tells them apart.
pub(crate) type Budget = (String, Option<SourceId>, Option<IpAddr>);

/// Limits and since when.
pub(super) struct InForce<'a> {
    pub(super) rules: &'a [(Timestamp, Arc<RuleSet>)],
    pub(super) warm_up: &'a [(Timestamp, Arc<WarmUpCaps>)],
    pub(super) deliveries: &'a BTreeMap<DeliveryId, u32>,
}

/// How full the budgets of one kind of limit became.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fill {
    /// Things that were judged.
    pub(crate) judged: u64,
    /// Of these, those that took the last place under the limit.
    pub(crate) last_places: u64,
    /// The fullest window, measured by its limit, and that limit.
    pub(crate) most: (u64, u64),
    /// Things that were too many.
    pub(crate) excess: u64,
}

impl Fill {
    fn take(&mut self, count: usize, limit: u32) {
        let (count, limit) = (count as u64, u64::from(limit));
        self.judged += 1;
        self.last_places += u64::from(count == limit);
        if self.most.1 == 0 || count * self.most.1 > self.most.0 * limit {
            self.most = (count, limit);
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.judged += other.judged;
        self.last_places += other.last_places;
        self.excess += other.excess;
        if self.most.1 == 0 || other.most.0 * self.most.1 > self.most.0 * other.most.1 {
            self.most = other.most;
        }
    }
}

/// What the ceilings came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ceilings {
    /// What broke them, a few of each kind.
    pub(crate) wrong: Vec<String>,
    /// By kind of limit.
    pub(crate) fills: BTreeMap<&'static str, Fill>,
    /// The fullest hour of each budget, measured by its limit, as the auditor has to find it.
    pub(crate) fullest: BTreeMap<Budget, (u64, u64)>,
}

impl Ceilings {
    fn excess(&mut self, kind: &'static str, told: usize, text: String) {
        let fill = self.fills.entry(kind).or_default();
        fill.excess += 1;
        if fill.excess <= told as u64 {
            self.wrong.push(text);
        }
    }
}

/// Who answers at an address: the budgets depend on the host's name.
struct Books<'a> {
    rules: &'a [(Timestamp, Arc<RuleSet>)],
    budgets: Vec<Budget>,
    /// Budget and limits of each path, for each set of rules.
    known: Vec<BTreeMap<(SourceId, IpAddr), (usize, Limits)>>,
}

impl<'a> Books<'a> {
    fn new(rules: &'a [(Timestamp, Arc<RuleSet>)], script: &Script) -> Self {
        let hosts = script.providers.iter().flat_map(|provider| &provider.hosts);
        let hosts: Vec<(IpAddr, &str)> = hosts
            .flat_map(|host| host.addresses.iter().map(|address| (*address, host.name.as_str())))
            .collect();
        let mut numbers: BTreeMap<Budget, usize> = BTreeMap::new();
        let known = rules
            .iter()
            .map(|(_, rules)| {
                let mut paths = BTreeMap::new();
                for source in &script.sources {
                    for (target, host) in &hosts {
                        let id = rules.find(host, source.id);
                        let rule = rules.rule(id);
                        let (of_source, of_target) = match rule.scope {
                            Scope::Rule => (None, None),
                            Scope::Source => (Some(source.id), None),
                            Scope::Path => (Some(source.id), Some(*target)),
                        };
                        let next = numbers.len();
                        let key = (rule.name.to_string(), of_source, of_target);
                        let number = *numbers.entry(key).or_insert(next);
                        paths.insert((source.id, *target), (number, rules.limits(id, source.id)));
                    }
                }
                paths
            })
            .collect();
        let mut budgets: Vec<(usize, Budget)> =
            numbers.into_iter().map(|(budget, number)| (number, budget)).collect();
        budgets.sort();
        Self { rules, budgets: budgets.into_iter().map(|(_, budget)| budget).collect(), known }
    }

    fn of(&self, set: usize, source: SourceId, target: IpAddr) -> (usize, &Limits) {
        let (budget, limits) = &self.known[set][&(source, target)];
        (*budget, limits)
    }

    /// Those that count at some time from `from` to `until`.
    fn in_force(&self, from: Timestamp, until: Timestamp) -> core::ops::Range<usize> {
        spans(self.rules, from, until)
    }

    /// When a set of rules was replaced.
    fn ends(&self, number: usize) -> Timestamp {
        self.rules.get(number + 1).map_or(Timestamp::NEVER, |next| next.0)
    }
}

/// Which of these were in force at some time from `from` to `until`; the last moment of each is its successor's first.
fn spans<T>(all: &[(Timestamp, T)], from: Timestamp, until: Timestamp) -> core::ops::Range<usize> {
    let end = all.partition_point(|(since, _)| *since <= until);
    let first = all.get(1..).unwrap_or_default().partition_point(|(since, _)| *since < from);
    first.min(end)..end
}

/// Things that happened: when, over which path.
type Happened = (Timestamp, SourceId, IpAddr);

/// What happened within a window, by budget, as one set of rules counts it.
#[derive(Clone, Default)]
struct Count {
    recent: Vec<VecDeque<Timestamp>>,
}

impl Count {
    /// How many there are in the budget with one more at `at`.
    fn with_one_more(&mut self, budget: usize, at: Timestamp, window: Duration) -> usize {
        let times = &mut self.recent[budget];
        while times.front().is_some_and(|first| at - *first >= window) {
            times.pop_front();
        }
        times.len() + 1
    }
}

/// A kind of limit that counts what happens within a window.
struct Kind {
    name: &'static str,
    /// Under which name it is shown for a budget.
    shown: fn(&Budget) -> &'static str,
    window: Duration,
    /// A limit that was lowered less than so long ago need not hold.
    grace: Duration,
    limit: fn(&Limits) -> Option<u32>,
}

/// Finds things that are too many under every set of rules that counts for them.
///
/// What happens after the end of a set of rules counts in it only if no set then in force allows it: it was
/// then a token of the old rules. Else a limit that was raised would use up what the old rules had granted.
/// A set counts from a window before its beginning to the end of the grace behind its end: it is not asked at any other time.
fn sweep(books: &Books<'_>, kind: &Kind, happened: &[Happened], found: &mut Ceilings) {
    let empty = Count { recent: vec![VecDeque::new(); books.budgets.len()] };
    let mut counts = vec![Count::default(); books.rules.len()];
    for (at, source, target) in happened {
        let counting = books.in_force(at.saturating_sub(kind.grace), *at + kind.window);
        let entries: Vec<(usize, usize, Option<u32>)> = counting
            .clone()
            .map(|set| {
                if counts[set].recent.is_empty() {
                    counts[set] = empty.clone();
                }
                let (budget, limits) = books.of(set, *source, *target);
                let there = counts[set].with_one_more(budget, *at, kind.window);
                (budget, there, (kind.limit)(limits))
            })
            .collect();
        let allows = |set: &usize| {
            let (_, there, limit) = entries[*set - counting.start];
            limit.is_none_or(|limit| there <= limit as usize)
        };
        let now = books.in_force(*at, *at);
        let allowed_now = now.clone().any(|set| allows(&set));
        let mut graced = books.in_force(at.saturating_sub(kind.grace), *at);
        match now.rev().chain(graced.clone().rev()).find(allows) {
            Some(set) => {
                let (_, there, limit) = entries[set - counting.start];
                if let Some(limit) = limit {
                    let budget = &books.budgets[entries[set - counting.start].0];
                    found.fills.entry((kind.shown)(budget)).or_default().take(there, limit);
                }
            }
            None => {
                let set = graced.next().unwrap_or(counting.start);
                let (budget, there, limit) = entries[set - counting.start];
                let (limit, budget) = (limit.unwrap_or(0), &books.budgets[budget]);
                let (name, window) = (kind.name, kind.window);
                let shown = (kind.shown)(budget);
                let text =
                    format!("{at} 3: {name}: {there} of {limit} in {window:?} for {budget:?}");
                found.excess(shown, TOLD, text);
            }
        }
        for (set, (budget, ..)) in counting.zip(entries) {
            if books.ends(set) >= *at || !allowed_now {
                counts[set].recent[budget].push_back(*at);
            }
        }
    }
}

/// All ceilings over the whole history.
pub(super) fn judge(
    limits: &InForce<'_>,
    fleet: &Fleet,
    script: &Script,
    deliveries: &BTreeMap<u64, DeliveryId>,
) -> Ceilings {
    let books = Books::new(limits.rules, script);
    let mut found = Ceilings::default();
    let mut mails: Vec<Happened> =
        fleet.mails.iter().map(|mail| (mail.sent, mail.source, mail.target)).collect();
    mails.sort();
    let hourly = Kind {
        name: "messages",
        shown: |budget| match budget {
            (_, Some(_), Some(_)) => "messages of a path",
            (_, Some(_), None) => "messages of a source",
            _ => "messages of a rule",
        },
        window: HOUR,
        grace: SLOT,
        limit: |limits| Some(limits.messages_per_hour),
    };
    sweep(&books, &hourly, &mails, &mut found);
    found.fullest = fullest(&books, &mails);
    let mut starts: Vec<Happened> =
        fleet.connections.iter().map(|seen| (seen.opened, seen.source, seen.target)).collect();
    starts.sort();
    let soon = Duration::from_secs(1);
    let begun = Kind {
        name: "connections begun",
        shown: |_| "connections begun in a minute",
        window: MINUTE,
        grace: soon,
        limit: |limits| limits.connections_per_minute,
    };
    sweep(&books, &begun, &starts, &mut found);
    open_at_once(&books, fleet, soon, &mut found);
    per_connection(&books, fleet, &mut found);
    per_delivery(fleet, limits.deliveries, deliveries, &mut found);
    per_source(fleet, &script.source_limits, &mut found);
    warmed_up(&books, &mails, limits.warm_up, &mut found);
    found
}

/// The fullest hour of each budget by the limit that held, each message counted under the rule that governed it then.
fn fullest(books: &Books<'_>, mails: &[Happened]) -> BTreeMap<Budget, (u64, u64)> {
    let mut count = Count { recent: vec![VecDeque::new(); books.budgets.len()] };
    let mut fullest: BTreeMap<Budget, (u64, u64)> = BTreeMap::new();
    for (at, source, target) in mails {
        let Some(now) = books.in_force(*at, *at).next_back() else { continue };
        let (budget, _) = books.of(now, *source, *target);
        let there = count.with_one_more(budget, *at, HOUR) as u64;
        count.recent[budget].push_back(*at);
        // By its name, also where another rule governed the path before.
        let name = &books.budgets[budget].0;
        let limits = books.rules[books.in_force(at.saturating_sub(SLOT), *at)].iter();
        let limits = limits.filter_map(|(_, set)| Some(set.limits(set.id_of(name)?, *source)));
        let limit = limits.map(|limits| u64::from(limits.messages_per_hour)).max();
        let most = fullest.entry(books.budgets[budget].clone()).or_default();
        let limit = limit.unwrap_or(1);
        if most.1 == 0 || there * most.1 > most.0 * limit {
            *most = (there, limit);
        }
    }
    fullest
}

/// Connections open at every instant.
fn open_at_once(books: &Books<'_>, fleet: &Fleet, grace: Duration, found: &mut Ceilings) {
    const NAME: &str = "connections";
    // A close goes before an opening at the same instant.
    let mut changes: Vec<(Timestamp, bool, SourceId, IpAddr)> = Vec::new();
    for seen in &fleet.connections {
        let closed = seen.closed.unwrap_or(Timestamp::NEVER);
        if closed > seen.opened {
            changes.push((seen.opened, true, seen.source, seen.target));
            changes.push((closed, false, seen.source, seen.target));
        }
    }
    changes.sort();
    let mut open = vec![vec![0_u32; books.budgets.len()]; books.rules.len()];
    for (at, opens, source, target) in changes {
        for (set, open) in open.iter_mut().enumerate() {
            let count = &mut open[books.of(set, source, target).0];
            *count = if opens { *count + 1 } else { count.saturating_sub(1) };
        }
        if !opens {
            continue;
        }
        let mut in_force = books.in_force(at.saturating_sub(grace), at).rev().map(|set| {
            let (budget, limits) = books.of(set, source, target);
            (open[set][budget], limits.max_connections, budget)
        });
        let newest = in_force.next();
        let allowed = newest.into_iter().chain(in_force).find(|(count, limit, _)| count <= limit);
        match (allowed, newest) {
            (Some((count, limit, _)), _) => {
                found.fills.entry(NAME).or_default().take(count as usize, limit);
            }
            (None, Some((count, limit, budget))) => {
                let budget = &books.budgets[budget];
                found.excess(
                    NAME,
                    TOLD,
                    format!("{at} 3: {NAME}: {count} of {limit} for {budget:?}"),
                );
            }
            (None, None) => {}
        }
    }
}

/// Messages on one connection: the largest limit in its lifetime.
fn per_connection(books: &Books<'_>, fleet: &Fleet, found: &mut Ceilings) {
    const NAME: &str = "messages on one connection";
    for seen in &fleet.connections {
        let closed = seen.closed.unwrap_or(Timestamp::NEVER);
        let from = seen.opened.saturating_sub(Duration::from_secs(1));
        let sets = books.in_force(from, closed);
        let limits = sets.map(|set| books.of(set, seen.source, seen.target).1);
        let limit = limits.map(|limits| limits.max_messages_per_connection).max().unwrap_or(0);
        if seen.mails > limit {
            let text =
                format!("{} 3: {} of {limit} messages on one connection", seen.opened, seen.mails);
            found.excess(NAME, TOLD, text);
        } else {
            found.fills.entry(NAME).or_default().take(seen.mails as usize, limit);
        }
    }
}

/// The caps that deliveries have of their own.
fn per_delivery(
    fleet: &Fleet,
    caps: &BTreeMap<DeliveryId, u32>,
    deliveries: &BTreeMap<u64, DeliveryId>,
    found: &mut Ceilings,
) {
    let mails = fleet.mails.iter();
    let mut mails: Vec<(Timestamp, DeliveryId)> =
        mails.filter_map(|mail| Some((mail.sent, *deliveries.get(&mail.serial?)?))).collect();
    mails.sort();
    let cap = Cap { name: "cap of a delivery", window: HOUR, words: "in an hour for delivery" };
    capped(&cap, &mails, |delivery, _| caps.get(&delivery).copied(), found);
}

/// The caps that sources have of their own, over all targets.
fn per_source(fleet: &Fleet, limits: &BTreeMap<SourceId, u32>, found: &mut Ceilings) {
    let mut mails: Vec<(Timestamp, SourceId)> =
        fleet.mails.iter().map(|mail| (mail.sent, mail.source)).collect();
    mails.sort();
    let cap = Cap { name: "cap of a source", window: HOUR, words: "in an hour for source" };
    capped(&cap, &mails, |source, _| limits.get(&source).copied(), found);
}

/// The caps of sources that are warmed up: per hour and day, and per day at a provider. The name of the rule in force
/// decides which provider it is. What goes while names change is not counted at any.
fn warmed_up(
    books: &Books<'_>,
    mails: &[Happened],
    caps: &[(Timestamp, Arc<WarmUpCaps>)],
    found: &mut Ceilings,
) {
    let widest = |source: SourceId, at: Timestamp, of: &dyn Fn(&SourceCaps) -> Option<u32>| {
        let sets = &caps[spans(caps, at.saturating_sub(SLOT), at)];
        let cap = |caps: &WarmUpCaps| caps.sources.get(&source).and_then(of).unwrap_or(u32::MAX);
        sets.iter().map(|(_, caps)| cap(caps)).max().filter(|cap| *cap < u32::MAX)
    };
    let sources: Vec<(Timestamp, SourceId)> = mails.iter().map(|mail| (mail.0, mail.1)).collect();
    let words = "in an hour for a source, which is warmed up:";
    let hour = Cap { name: "warm-up cap of an hour", window: HOUR, words };
    capped(&hour, &sources, |source, at| widest(source, at, &|caps| caps.per_hour), found);
    let words = "in a day for a source, which is warmed up:";
    let day = Cap { name: "warm-up cap of a day", window: DAY, words };
    capped(&day, &sources, |source, at| widest(source, at, &|caps| caps.per_day), found);
    let mut lines: BTreeMap<(SourceId, &str), Vec<(Timestamp, SourceId)>> = BTreeMap::new();
    for (at, source, target) in mails {
        let mut sets = books.in_force(at.saturating_sub(SLOT), *at);
        let mut names = sets.clone().map(|set| &books.budgets[books.of(set, *source, *target).0].0);
        let Some(rule) = sets.next_back().and_then(|_| names.next()) else { continue };
        if names.all(|other| other == rule) {
            lines.entry((*source, rule)).or_default().push((*at, *source));
        }
    }
    let words = "in a day at a provider for a source, which is warmed up:";
    let line = Cap { name: "warm-up cap of a day at a provider", window: DAY, words };
    for ((_, rule), mails) in lines {
        capped(&line, &mails, |source, at| widest(source, at, &|caps| caps.line(rule)), found);
    }
}

/// A cap on what somebody does within a window.
struct Cap {
    name: &'static str,
    window: Duration,
    words: &'static str,
}

/// What is more than the cap of its owner within a window.
fn capped<Owner: Ord + Copy + core::fmt::Display>(
    kind: &Cap,
    happened: &[(Timestamp, Owner)],
    cap: impl Fn(Owner, Timestamp) -> Option<u32>,
    found: &mut Ceilings,
) {
    let mut recent: BTreeMap<Owner, VecDeque<Timestamp>> = BTreeMap::new();
    for (at, owner) in happened {
        let times = recent.entry(*owner).or_default();
        while times.front().is_some_and(|first| *at - *first >= kind.window) {
            times.pop_front();
        }
        times.push_back(*at);
        let Some(cap) = cap(*owner, *at) else { continue };
        let count = times.len();
        if count > cap as usize {
            let words = kind.words;
            found.excess(kind.name, TOLD, format!("{at} 3: {count} of {cap} {words} {owner}"));
        } else {
            found.fills.entry(kind.name).or_default().take(count, cap);
        }
    }
}
