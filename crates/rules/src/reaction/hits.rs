//! Counting replies until a rule's threshold is reached.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use mail::time::Timestamp;

/// Counters that are held at a time. When there are more, the one that was hit longest ago goes:
/// a reaction then comes some hits later, memory never grows.
pub const MOST_COUNTERS: usize = 10_000;

/// How often rules were hit, per rule (its name lasts when rules are replaced) and per `K`, the thing
/// that the rule is about.
#[derive(Clone, Debug)]
pub struct Hits<K> {
    counters: BTreeMap<(Arc<str>, K), Counter>,
    most: usize,
}

#[derive(Clone, Debug)]
struct Counter {
    /// The last hits, the oldest first; never more than the threshold.
    at: VecDeque<Timestamp>,
    window: Duration,
}

impl Counter {
    /// Whether nothing that it holds can count any more.
    fn is_over(&self, now: Timestamp) -> bool {
        self.at.back().is_none_or(|last| now.since(*last) >= self.window)
    }
}

impl<K: Ord + Clone> Default for Hits<K> {
    fn default() -> Self {
        Self::new(MOST_COUNTERS)
    }
}

impl<K: Ord + Clone> Hits<K> {
    /// Nothing counted; at most `most` counters (at least 1).
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { counters: BTreeMap::new(), most: most.max(1) }
    }

    /// Counts one hit of `rule` about `of`. `true`: it is the `threshold`-th within `window`, and the
    /// count begins anew.
    pub fn count(
        &mut self,
        now: Timestamp,
        rule: &Arc<str>,
        of: &K,
        (threshold, window): (u32, Duration),
    ) -> bool {
        if threshold <= 1 {
            return true;
        }
        let key = (Arc::clone(rule), of.clone());
        if self.counters.len() >= self.most && !self.counters.contains_key(&key) {
            self.make_room(now);
        }
        let counter = self
            .counters
            .entry(key.clone())
            .or_insert_with(|| Counter { at: VecDeque::new(), window });
        counter.window = window;
        counter.at.retain(|at| now.since(*at) < window);
        counter.at.push_back(now);
        let reached = counter.at.len() >= threshold as usize;
        if reached {
            self.counters.remove(&key);
        }
        reached
    }

    /// Forgets what `rule` has counted about `of`.
    pub fn forget(&mut self, rule: &Arc<str>, of: &K) {
        self.counters.remove(&(Arc::clone(rule), of.clone()));
    }

    /// Keeps the counters of rules that are still there.
    pub fn keep_rules(&mut self, known: impl Fn(&str) -> bool) {
        self.counters.retain(|(rule, _), _| known(rule));
    }

    /// Counters held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.counters.len()
    }

    /// Whether nothing is counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counters.is_empty()
    }

    fn make_room(&mut self, now: Timestamp) {
        self.counters.retain(|_, counter| !counter.is_over(now));
        if self.counters.len() < self.most {
            return;
        }
        // A part at once, so that a flood of new counters does not search for the oldest each time.
        let mut last: Vec<Timestamp> =
            self.counters.values().filter_map(|counter| counter.at.back().copied()).collect();
        last.sort_unstable();
        let Some(horizon) = last.get(self.most / 16).copied() else { return };
        self.counters.retain(|_, counter| counter.at.back().is_some_and(|at| *at > horizon));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_secs(1_000_000 + seconds)
    }

    proptest! {
        /// Against the plain definition: the threshold is reached when so many hits since the last
        /// time lie within the window.
        #[test]
        fn counts_as_defined(
            steps in proptest::collection::vec((0_u64..40, 0_u8..3), 1..80),
            threshold in 1_u32..6,
            window in 1_u64..60,
        ) {
            let rule: Arc<str> = Arc::from("r");
            let mut hits = Hits::new(100);
            let mut seen: BTreeMap<u8, Vec<u64>> = BTreeMap::new();
            let mut now = 0;
            for (step, of) in steps {
                now += step;
                let all = seen.entry(of).or_default();
                all.push(now);
                let recent = all.iter().filter(|then| now - **then < window).count();
                let want = recent >= threshold as usize;
                if want {
                    all.clear();
                }
                let bound = (threshold, Duration::from_secs(window));
                prop_assert_eq!(hits.count(at(now), &rule, &of, bound), want);
            }
        }

        /// Whatever comes, there are never more counters than allowed.
        #[test]
        fn memory_is_bounded(of in proptest::collection::vec(0_u32..500, 1..600)) {
            let rule: Arc<str> = Arc::from("r");
            let mut hits = Hits::new(20);
            for (second, of) in of.into_iter().enumerate() {
                hits.count(at(second as u64), &rule, &of, (3, Duration::from_secs(3_600)));
                prop_assert!(hits.len() <= 20);
            }
        }
    }

    #[test]
    fn other_rules_keep_what_has_the_same_name() {
        let (kept, gone): (Arc<str>, Arc<str>) = (Arc::from("kept"), Arc::from("gone"));
        let mut hits = Hits::new(20);
        let bound = (2, Duration::from_secs(60));
        assert!(!hits.count(at(0), &kept, &1, bound));
        assert!(!hits.count(at(0), &gone, &1, bound));
        hits.keep_rules(|name| name == "kept");
        assert_eq!(hits.len(), 1);
        assert!(hits.count(at(1), &kept, &1, bound));
        assert!(!hits.count(at(1), &gone, &1, bound));
        hits.forget(&gone, &1);
        assert!(hits.is_empty());
    }
}
