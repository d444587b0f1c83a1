//! How many messages a path has had taken lately.

use core::time::Duration;

use mail::time::Timestamp;

/// Seconds of one slot.
const SLOT: u64 = 10;
/// Slots that are kept: the last minute, and the one that runs.
const SLOTS: usize = 7;

/// A count of the last minute, in slots of ten seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meter {
    counts: [u32; SLOTS],
    /// Number of the slot that runs, since the epoch.
    slot: u64,
    /// When the first was counted, or counting began anew after a minute of nothing.
    since: Timestamp,
}

impl Meter {
    /// Counts one message.
    pub(crate) fn count(&mut self, now: Timestamp) {
        let slot = now.as_secs() / SLOT;
        if slot >= self.slot + SLOTS as u64 {
            *self = Self { slot, since: now, ..Self::default() };
        }
        while self.slot < slot {
            self.slot += 1;
            self.counts[place(self.slot)] = 0;
        }
        self.counts[place(slot)] += 1;
    }

    /// What was counted in the last minute or since the first, and over which time.
    pub(crate) fn lately(&self, now: Timestamp) -> (u32, Duration) {
        let slot = now.as_secs() / SLOT;
        let whole = slot.saturating_sub(SLOTS as u64 - 1);
        let numbers = whole.max(self.slot.saturating_sub(SLOTS as u64 - 1))..=slot.min(self.slot);
        let count = numbers.map(|number| self.counts[place(number)]).sum();
        let began = self.since.max(Timestamp::from_secs(whole * SLOT));
        (count, now.since(began).max(Duration::from_secs(1)))
    }
}

fn place(slot: u64) -> usize {
    // Below the number of slots.
    (slot % SLOTS as u64) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a list of all moments: what lies within the slots of the last minute is counted,
        /// and nothing else.
        #[test]
        fn counts_the_last_minute(steps in proptest::collection::vec(0_u64..30, 1..60), more in 0_u64..90) {
            let mut meter = Meter::default();
            let mut now = 1_000_000_u64;
            let mut all = Vec::new();
            for step in steps {
                now += step;
                meter.count(Timestamp::from_secs(now));
                all.push(now);
            }
            now += more;
            let from = (now / SLOT - 6) * SLOT;
            let want = all.iter().filter(|at| **at >= from).count();
            let (count, over) = meter.lately(Timestamp::from_secs(now));
            prop_assert_eq!(count as usize, want);
            prop_assert!(over <= Duration::from_secs(70));
        }
    }

    #[test]
    fn a_young_count_is_taken_over_its_own_time() {
        let mut meter = Meter::default();
        for tenth in 0..50_u64 {
            meter.count(Timestamp::from_millis(2_000_000 + tenth * 100));
        }
        let (count, over) = meter.lately(Timestamp::from_secs(2_005));
        assert_eq!((count, over), (50, Duration::from_secs(5)));
    }
}
