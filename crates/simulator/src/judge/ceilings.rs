//! Checker 3: no budget passes its limits, in any sliding window.
//!
//! What counts is worked out from the rules that were in force, for each set of rules over the whole history,
//! by a sweep with two pointers. A MAIL FROM is wrong if it is one too many under every set of rules that was in
//! force when it was written or when its token may have been granted (one slot before): a limit that was lowered meanwhile
//! does not call back tokens. The same holds for connections, whose permits are used within a second.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use mail::id::{DeliveryId, SourceId};
use mail::time::Timestamp;
use quota::WarmUpCaps;
use rules::{Limits, RuleSet, Scope};

use crate::fleet::Fleet;
use crate::plan::Script;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
const MINUTE: Duration = Duration::from_secs(60);

/// A budget: rule, source and target as far as its scope tells them apart.
type Budget = (String, Option<SourceId>, Option<IpAddr>);

/// Who answers at an address: the budgets depend on the host's name.
struct Books<'a> {
    hosts: BTreeMap<IpAddr, &'a str>,
    rules: &'a [(Timestamp, Arc<RuleSet>)],
}

impl Books<'_> {
    fn budget(&self, rules: &RuleSet, source: SourceId, target: IpAddr) -> (Budget, Limits) {
        let host = self.hosts.get(&target).copied().unwrap_or_default();
        let id = rules.find(host, source);
        let rule = rules.rule(id);
        let key = match rule.scope {
            Scope::Rule => (None, None),
            Scope::Source => (Some(source), None),
            Scope::Path => (Some(source), Some(target)),
        };
        ((rule.name.to_string(), key.0, key.1), rules.limits(id, source))
    }

    /// The rules in force at some time from `from` to `until`.
    fn in_force(&self, from: Timestamp, until: Timestamp) -> Vec<usize> {
        (0..self.rules.len())
            .filter(|number| self.rules[*number].0 <= until && self.ends(*number) >= from)
            .collect()
    }

    /// When a set of rules was replaced.
    fn ends(&self, number: usize) -> Timestamp {
        self.rules.get(number + 1).map_or(Timestamp::NEVER, |next| next.0)
    }
}

/// Things that happened: when, over which path.
type Happened = (Timestamp, SourceId, IpAddr);

/// What happened within a window, by budget, as one set of rules counts it.
#[derive(Default)]
struct Count {
    recent: BTreeMap<Budget, VecDeque<Timestamp>>,
}

impl Count {
    /// How many there are in the budget with one more at `at`.
    fn with_one_more(&mut self, budget: &Budget, at: Timestamp, window: Duration) -> usize {
        let Some(times) = self.recent.get_mut(budget) else { return 1 };
        while times.front().is_some_and(|first| at - *first >= window) {
            times.pop_front();
        }
        times.len() + 1
    }
}

/// Things that are too many under every set of rules that counts for them.
///
/// What happens after the end of a set of rules counts in it only if no set then in force allows it: it was
/// then a token of the old rules. Else a limit that was raised would use up what the old rules had granted.
fn sweep(
    books: &Books<'_>,
    what: &str,
    happened: &[Happened],
    window: Duration,
    grace: Duration,
    limit: impl Fn(&Limits) -> Option<u32>,
) -> Vec<String> {
    let mut counts: Vec<Count> = books.rules.iter().map(|_| Count::default()).collect();
    let mut wrong = Vec::new();
    for (at, source, target) in happened {
        let entries: Vec<(Budget, Option<String>)> = counts
            .iter_mut()
            .zip(books.rules)
            .map(|(count, (_, rules))| {
                let (budget, limits) = books.budget(rules, *source, *target);
                let there = count.with_one_more(&budget, *at, window);
                let fault = limit(&limits)
                    .filter(|limit| there > *limit as usize)
                    .map(|limit| format!("{there} of {limit} in {window:?} for {budget:?}"));
                (budget, fault)
            })
            .collect();
        let allowed = |sets: &[usize]| sets.iter().any(|set| entries[*set].1.is_none());
        let allowed_now = allowed(&books.in_force(*at, *at));
        let graced = books.in_force(at.saturating_sub(grace), *at);
        if !allowed_now && !allowed(&graced) {
            let first = graced.first().and_then(|set| entries[*set].1.as_ref());
            wrong.extend(first.map(|fault| format!("{at} 3: {what}: {fault}")));
        }
        for (set, (budget, _)) in entries.into_iter().enumerate() {
            if books.ends(set) >= *at || !allowed_now {
                counts[set].recent.entry(budget).or_default().push_back(*at);
            }
        }
    }
    wrong.truncate(3);
    wrong
}

/// All ceilings over the whole history.
pub(super) fn judge(
    rules: &[(Timestamp, Arc<RuleSet>)],
    fleet: &Fleet,
    script: &Script,
    caps: &BTreeMap<DeliveryId, u32>,
    deliveries: &BTreeMap<u64, DeliveryId>,
) -> Vec<String> {
    let hosts = script
        .providers
        .iter()
        .flat_map(|provider| &provider.hosts)
        .flat_map(|host| host.addresses.iter().map(|address| (*address, host.name.as_str())))
        .collect();
    let books = Books { hosts, rules };
    let mut mails: Vec<Happened> =
        fleet.mails.iter().map(|mail| (mail.sent, mail.source, mail.target)).collect();
    mails.sort();
    let slot = Duration::from_secs(61);
    let mut found =
        sweep(&books, "messages", &mails, HOUR, slot, |limits| Some(limits.messages_per_hour));
    let mut starts: Vec<Happened> =
        fleet.connections.iter().map(|seen| (seen.opened, seen.source, seen.target)).collect();
    starts.sort();
    let soon = Duration::from_secs(1);
    let rate = |limits: &Limits| limits.connections_per_minute;
    found.extend(sweep(&books, "connections begun", &starts, MINUTE, soon, rate));
    found.extend(open_at_once(&books, fleet, soon));
    found.extend(per_connection(&books, fleet));
    found.extend(per_delivery(fleet, caps, deliveries));
    found.extend(per_source(fleet, &script.source_limits));
    found.extend(warmed_up(&books, fleet, &script.warm_up));
    found
}

/// Connections open at every instant.
fn open_at_once(books: &Books<'_>, fleet: &Fleet, grace: Duration) -> Vec<String> {
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
    let verdicts: Vec<Vec<Option<String>>> = books
        .rules
        .iter()
        .map(|(_, rules)| {
            let mut open: BTreeMap<Budget, u32> = BTreeMap::new();
            let judge = |(_, opens, source, target): &(Timestamp, bool, SourceId, IpAddr)| {
                let (budget, limits) = books.budget(rules, *source, *target);
                let count = open.entry(budget.clone()).or_default();
                if !*opens {
                    *count = count.saturating_sub(1);
                    return None;
                }
                *count += 1;
                let (count, limit) = (*count, limits.max_connections);
                (count > limit).then(|| format!("{count} of {limit} for {budget:?}"))
            };
            changes.iter().map(judge).collect()
        })
        .collect();
    let wrong = changes.iter().enumerate().filter_map(|(number, (at, ..))| {
        let in_force = books.in_force(at.saturating_sub(grace), *at);
        let mut texts = in_force.iter().map(|rules| verdicts[*rules][number].as_ref());
        let first = texts.next().flatten()?;
        texts.all(|text| text.is_some()).then(|| format!("{at} 3: connections: {first}"))
    });
    wrong.take(3).collect()
}

/// Messages on one connection: the largest limit in its lifetime.
fn per_connection(books: &Books<'_>, fleet: &Fleet) -> Vec<String> {
    let wrong = fleet.connections.iter().filter_map(|seen| {
        let closed = seen.closed.unwrap_or(Timestamp::NEVER);
        let from = seen.opened.saturating_sub(Duration::from_secs(1));
        let limit = books
            .in_force(from, closed)
            .iter()
            .map(|rules| {
                let (_, limits) = books.budget(&books.rules[*rules].1, seen.source, seen.target);
                limits.max_messages_per_connection
            })
            .max()
            .unwrap_or(0);
        (seen.mails > limit).then(|| {
            format!("{} 3: {} of {limit} messages on one connection", seen.opened, seen.mails)
        })
    });
    wrong.take(3).collect()
}

/// The caps that deliveries have of their own.
fn per_delivery(
    fleet: &Fleet,
    caps: &BTreeMap<DeliveryId, u32>,
    deliveries: &BTreeMap<u64, DeliveryId>,
) -> Vec<String> {
    let mut mails: Vec<(Timestamp, DeliveryId)> = fleet
        .mails
        .iter()
        .filter_map(|mail| Some((mail.sent, *deliveries.get(&mail.serial?)?)))
        .collect();
    mails.sort();
    let found = capped(&mails, HOUR, |delivery| caps.get(&delivery).copied());
    found.into_iter().map(|text| text.replace(" hour for ", " hour for delivery ")).collect()
}

/// The caps that sources have of their own, over all targets.
fn per_source(fleet: &Fleet, limits: &BTreeMap<SourceId, u32>) -> Vec<String> {
    let mut mails: Vec<(Timestamp, SourceId)> =
        fleet.mails.iter().map(|mail| (mail.sent, mail.source)).collect();
    mails.sort();
    let found = capped(&mails, HOUR, |source| limits.get(&source).copied());
    found.into_iter().map(|text| text.replace(" hour for ", " hour for source ")).collect()
}

/// The caps of sources that are warmed up: per hour and day, and per day at a provider. The rules'
/// names decide which provider it is, so where rules change, the lines are judged under each set alone.
fn warmed_up(books: &Books<'_>, fleet: &Fleet, caps: &WarmUpCaps) -> Vec<String> {
    let mut mails: Vec<Happened> =
        fleet.mails.iter().map(|mail| (mail.sent, mail.source, mail.target)).collect();
    mails.sort();
    let sources: Vec<(Timestamp, SourceId)> = mails.iter().map(|mail| (mail.0, mail.1)).collect();
    let of = |source: SourceId| caps.sources.get(&source);
    let mut found = capped(&sources, HOUR, |source| of(source)?.per_hour);
    found.extend(capped(&sources, DAY, |source| of(source)?.per_day));
    if let [(_, rules)] = books.rules {
        let mut lines: BTreeMap<(SourceId, String), Vec<(Timestamp, SourceId)>> = BTreeMap::new();
        for (at, source, target) in mails {
            let ((rule, ..), _) = books.budget(rules, source, target);
            lines.entry((source, rule)).or_default().push((at, source));
        }
        for ((_, rule), mails) in lines {
            found.extend(capped(&mails, DAY, |source| of(source)?.line(&rule)));
        }
    }
    found.into_iter().map(|text| format!("{text}, which is warmed up")).collect()
}

/// What is more than the cap of its owner within a window.
fn capped<Owner: Ord + Copy + core::fmt::Display>(
    happened: &[(Timestamp, Owner)],
    window: Duration,
    cap: impl Fn(Owner) -> Option<u32>,
) -> Vec<String> {
    let mut recent: BTreeMap<Owner, VecDeque<Timestamp>> = BTreeMap::new();
    let wrong = happened.iter().filter_map(|(at, owner)| {
        let cap = cap(*owner)?;
        let times = recent.entry(*owner).or_default();
        while times.front().is_some_and(|first| *at - *first >= window) {
            times.pop_front();
        }
        times.push_back(*at);
        let count = times.len();
        let span = if window == HOUR { "an hour" } else { "a day" };
        (count > cap as usize).then(|| format!("{at} 3: {count} of {cap} in {span} for {owner}"))
    });
    wrong.take(3).collect()
}
