//! Strides: a course that repeats itself is repeated instead of being run through again.
//!
//! **Promise.** A forecast of few messages, and the first [`EXACT_MESSAGES`] of each, is run message by message. Beyond that, where two
//! cycles were alike, the second is repeated up to [`REPEATS`] times: every period with the counts of its model, so that no
//! repeated hour has more than one that was run. Then a cycle is run and looked at again.
//!
//! **How.** The engine is told nothing. What a repeated period sends is taken out of the stock, and the clock of the report
//! goes on while that of the engine stands; between them lie whole cycles.
//!
//! **When.** The ledger remembers tokens for 61 minutes and counts in periods of five, so what it allows repeats itself after
//! [`CYCLE`] = 61 periods, whatever the pacing. Two cycles are alike when each period has sent as much as the one before it in its place
//! under every MX rule. Nothing is repeated
//! - while messages are put off to a time to come, or where a domain has not enough of them for a whole cycle more;
//! - where a source is warmed up (its caps last a day), or a source or a delivery has a cap of its own per hour.
//!
//! **What is not exact.** Of domains that share one budget some periods serve the one better, some the other, without ever
//! repeating that. In repeated cycles each has what it had in their model, and an equal part of what those had whose mail has
//! ended since: the sums of all domains are those of the
//! full run, the end of a single domain's mail may lie elsewhere. A test compares both.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mail::id::{DeliveryId, SourceId};
use mail::time::Timestamp;
use rules::{RuleId, Scope};

use super::run::{Ground, Run};
use super::{Ideal, PERIOD};

/// Messages that are always run through.
pub(super) const EXACT_MESSAGES: u64 = 250_000;

/// Periods after which the ledger allows the same again: five of its windows of 61 minutes.
const CYCLE: usize = 61;

/// How often a cycle is repeated at most, before another is looked at.
const REPEATS: u64 = 12;

/// A domain of which nothing waits and nothing was sent for so many periods is at its end.
const QUIET: usize = 6;

/// Counts of two periods may differ by one of so many, and by [`UNEVEN`] messages: a message on the wire at the end
/// of a period counts in the next one.
const UNEVEN_SHARE: u64 = 50;

/// See [`UNEVEN_SHARE`].
const UNEVEN: u64 = 2;

/// What one domain and delivery sent in a period.
pub(super) type Sent = (u32, DeliveryId, u64);

/// The last periods, and how far the report is ahead of the engine.
pub(super) struct Strides {
    /// The rule of each domain's first host, by the number of the domain.
    rules: Vec<RuleId>,
    /// Rules whose domains have budgets of their own, so that nobody inherits.
    apart: BTreeSet<RuleId>,
    /// Nothing is ever repeated.
    off: bool,
    /// Messages that are run through before anything is repeated.
    exact: u64,
    /// The periods of the last cycle, those before the last stride left out.
    seen: VecDeque<Vec<Sent>>,
    /// What went under each rule in the periods of the last two cycles.
    sums: VecDeque<BTreeMap<RuleId, u64>>,
}

impl Strides {
    /// Nothing was seen yet. `exact` messages are run through first.
    pub(super) fn new(ground: &Ground, names: &[Box<str>], capped: bool, exact: u64) -> Self {
        let source = ground.sources.iter().next().map_or(SourceId(0), |source| source.id);
        let rule = |name: &str| {
            let host = ground.routes.get(name).and_then(|route| route.hosts.first());
            ground.rules.find(host.map_or("", |host| &*host.name), source)
        };
        let warmed = !ground.ledger.warm_up().sources.is_empty();
        let apart = ground.rules.rules().filter(|(_, rule)| rule.scope == Scope::Path);
        let apart = apart.map(|(id, _)| id).collect();
        Self {
            apart,
            rules: names.iter().map(|name| rule(name)).collect(),
            off: capped || warmed || !ground.source_limits.is_empty(),
            exact,
            seen: VecDeque::new(),
            sums: VecDeque::new(),
        }
    }

    /// Runs to `end`, a moment of the report.
    pub(super) fn run(mut self, run: &mut Run<Ideal>, end: Timestamp) {
        loop {
            let ahead = run.world().ahead;
            let stop = next_period(run.now()).min(end.saturating_sub(ahead));
            let goes_on = run.go_until(stop);
            if !goes_on || run.now() + ahead >= end || stop + ahead >= end {
                return;
            }
            run.stand_at(stop);
            let sent = run.world_mut().take_period();
            if self.off {
                continue;
            }
            self.exact = self.exact.saturating_sub(sent.iter().map(|(_, _, count)| *count).sum());
            if self.exact > 0 {
                continue;
            }
            self.see(sent);
            if self.seen.len() == CYCLE && self.two_are_alike() {
                self.repeat(run, end);
            }
        }
    }

    fn see(&mut self, sent: Vec<Sent>) {
        let mut sums: BTreeMap<RuleId, u64> = BTreeMap::new();
        for (domain, _, count) in &sent {
            *sums.entry(self.rule(*domain)).or_default() += count;
        }
        self.sums.push_back(sums);
        self.seen.push_back(sent);
        if self.seen.len() > CYCLE {
            self.seen.pop_front();
        }
        if self.sums.len() > 2 * CYCLE {
            self.sums.pop_front();
        }
    }

    /// Whether each period of the last cycle has sent under every rule what it sent in the one before.
    fn two_are_alike(&self) -> bool {
        let like = |one: &BTreeMap<RuleId, u64>, other: &BTreeMap<RuleId, u64>| {
            one.keys().chain(other.keys()).all(|rule| {
                let of = |sums: &BTreeMap<RuleId, u64>| sums.get(rule).copied().unwrap_or(0);
                of(one).abs_diff(of(other)) <= of(one) / UNEVEN_SHARE + UNEVEN
            })
        };
        let later = self.sums.iter().skip(CYCLE);
        self.sums.len() == 2 * CYCLE && self.sums.iter().zip(later).all(|(a, b)| like(a, b))
    }

    /// The last cycle without those who are at their end: what they sent goes in turn to the others that sent something in
    /// the same period under the same rule. `None`: there was nobody, or the rule gives each path a budget of its own.
    fn model(&self, run: &Run<Ideal>) -> Option<Vec<Vec<Sent>>> {
        let lately: BTreeSet<(u32, DeliveryId)> =
            self.seen.iter().skip(CYCLE - QUIET).flatten().map(|one| (one.0, one.1)).collect();
        let goes_on = |(domain, delivery, _): &Sent| {
            run.in_stock(*domain, *delivery) > 0 || lately.contains(&(*domain, *delivery))
        };
        let mut turn = 0;
        let of_period = |period: &Vec<Sent>| {
            let (mut stay, ended): (Vec<Sent>, Vec<Sent>) =
                period.iter().copied().partition(|one| goes_on(one));
            for (domain, _, count) in ended {
                let same = |one: &&mut Sent| self.rule(one.0) == self.rule(domain);
                let heirs = stay.iter_mut().filter(same).count() as u64;
                for (place, heir) in (0_u64..).zip(stay.iter_mut().filter(same)) {
                    // Each has an equal part, and one more for some of them.
                    let more = (place + turn) % heirs < count % heirs;
                    heir.2 += count / heirs + u64::from(more);
                }
                turn += 1;
                if heirs == 0 || self.apart.contains(&self.rule(domain)) {
                    return None;
                }
            }
            stay.retain(|(.., count)| *count > 0);
            Some(stay)
        };
        self.seen.iter().map(of_period).collect()
    }

    fn rule(&self, domain: u32) -> RuleId {
        self.rules[domain as usize]
    }

    /// Repeats what was seen as often as everybody has mail for it.
    fn repeat(&mut self, run: &mut Run<Ideal>, end: Timestamp) {
        let Some(model) = self.model(run) else { return };
        let mut sums: BTreeMap<(u32, DeliveryId), u64> = BTreeMap::new();
        for (domain, delivery, count) in model.iter().flatten() {
            *sums.entry((*domain, *delivery)).or_default() += count;
        }
        let span = Duration::from_secs(PERIOD * CYCLE as u64);
        let report_time = run.now() + run.world().ahead;
        let left = end.since(report_time).as_secs() / span.as_secs();
        let mut times = REPEATS.min(left.saturating_sub(1));
        for ((domain, delivery), sum) in &sums {
            times = times.min(run.in_stock(*domain, *delivery) / sum);
        }
        if times == 0 || sums.is_empty() || !run.all_due() {
            return;
        }
        for ((domain, delivery), sum) in sums {
            run.take_away(domain, delivery, sum * times);
        }
        let first = report_time.as_secs() / PERIOD;
        for time in 0..times {
            for (place, period) in model.iter().enumerate() {
                let period_number = first + time * CYCLE as u64 + place as u64;
                run.world_mut().repeat_period(period_number, period);
            }
        }
        // A few at most.
        run.world_mut().ahead += span * u32::try_from(times).unwrap_or(u32::MAX);
        self.seen.clear();
    }
}

/// The end of the period of a moment.
fn next_period(now: Timestamp) -> Timestamp {
    Timestamp::from_secs((now.as_secs() / PERIOD + 1) * PERIOD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_end_at_multiples_of_five_minutes() {
        let at = Timestamp::from_secs;
        assert_eq!(next_period(at(299)), at(300));
        assert_eq!(next_period(at(300)), at(600));
    }
}
