//! Slots of one minute, and the counts of the last few of them.
//!
//! A [`Slot`] is a minute of the ledger's time, numbered from the epoch; five slots that begin at a
//! multiple of five are a period. `Window` keeps counts per tick (a slot, or a second for
//! connection starts) for as many ticks as the limit looks back, with their sum at hand.

use core::fmt;
use core::time::Duration;
use std::collections::VecDeque;

use mail::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Length of a slot.
pub const SLOT: Duration = Duration::from_secs(60);
/// Slots in a period.
pub const PERIOD_SLOTS: u64 = 5;
/// Slots that a sliding hour can touch, and over which a limit per hour is summed.
pub const HOUR_SLOTS: u64 = 61;
/// Seconds over which a limit per minute is summed: 60 s touch 61 of them, and one more lets a
/// connection start up to one second after its permit was granted.
pub const MINUTE_SECONDS: u64 = 62;

/// Slots in a tick of the counts of a day.
pub const TICK_SLOTS: u64 = 10;
/// Ticks over which a limit per day is summed: 86,400 s touch 145 of them, and one more because a clock that runs 50
/// millionths too fast is 4 s ahead after a day. (In an hour it is less than the guard at the end of each slot.)
pub const DAY_TICKS: u64 = 146;

const SLOT_MICROS: u64 = 60_000_000;

/// One minute of the ledger's time, numbered from the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slot(pub u64);

impl Slot {
    /// The slot that contains `time`.
    #[must_use]
    pub const fn of(time: Timestamp) -> Self {
        Self(time.as_micros() / SLOT_MICROS)
    }

    /// Its first moment.
    #[must_use]
    pub const fn start(self) -> Timestamp {
        Timestamp::from_micros(self.0.saturating_mul(SLOT_MICROS))
    }

    /// The first moment of the next slot.
    #[must_use]
    pub const fn end(self) -> Timestamp {
        Self(self.0.saturating_add(1)).start()
    }

    /// The first slot of its period.
    #[must_use]
    pub const fn period_start(self) -> Self {
        Self(self.0 - self.0 % PERIOD_SLOTS)
    }

    /// The first slot of the next period.
    #[must_use]
    pub const fn next_period(self) -> Self {
        Self(self.period_start().0.saturating_add(PERIOD_SLOTS))
    }
}

impl fmt::Display for Slot {
    /// The start of the minute.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.start().fmt(out)
    }
}

/// Counts per tick over the last `width` ticks. Ticks without a count take no room.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    width: u64,
    /// In the order of the ticks, each tick once.
    counts: VecDeque<(u64, u64)>,
    /// Sum of `counts`.
    sum: u64,
}

impl Window {
    /// An empty window that looks back over `width` ticks, the current one included.
    pub(crate) fn new(width: u64) -> Self {
        Self { width, counts: VecDeque::new(), sum: 0 }
    }

    /// Forgets what has left the window when `current` is the newest tick.
    pub(crate) fn advance(&mut self, current: u64) {
        while let Some(&(tick, count)) = self.counts.front() {
            if tick.saturating_add(self.width) > current {
                break;
            }
            self.sum -= count;
            self.counts.pop_front();
        }
    }

    /// Adds to a tick.
    pub(crate) fn add(&mut self, tick: u64, count: u64) {
        if count == 0 {
            return;
        }
        self.sum += count;
        let after = self.counts.iter().rev().take_while(|(other, _)| *other > tick).count();
        let at = self.counts.len() - after;
        match at.checked_sub(1).and_then(|before| self.counts.get_mut(before)) {
            Some((other, sum)) if *other == tick => *sum += count,
            _ => self.counts.insert(at, (tick, count)),
        }
    }

    /// Takes back from a tick; never more than it holds. Returns what was taken back.
    pub(crate) fn subtract(&mut self, tick: u64, count: u64) -> u64 {
        let Some((_, held)) = self.counts.iter_mut().rev().find(|(other, _)| *other == tick) else {
            return 0;
        };
        let taken = count.min(*held);
        *held -= taken;
        self.sum -= taken;
        taken
    }

    /// Adds every count of another window.
    pub(crate) fn add_all(&mut self, other: &Self) {
        for &(tick, count) in &other.counts {
            self.add(tick, count);
        }
    }

    /// Takes back every count of another window that was added before.
    pub(crate) fn subtract_all(&mut self, other: &Self) {
        for &(tick, count) in &other.counts {
            self.subtract(tick, count);
        }
    }

    /// The count of one tick.
    pub(crate) fn at(&self, tick: u64) -> u64 {
        self.sum_from(tick) - self.sum_from(tick.saturating_add(1))
    }

    /// The sum of the counts at or after `first`.
    pub(crate) fn sum_from(&self, first: u64) -> u64 {
        self.counts
            .iter()
            .rev()
            .take_while(|(tick, _)| *tick >= first)
            .map(|(_, count)| *count)
            .sum()
    }

    /// The sum of the window when `current` is its newest tick.
    pub(crate) fn sum(&self, current: u64) -> u64 {
        let gone: u64 = self
            .counts
            .iter()
            .take_while(|(tick, _)| tick.saturating_add(self.width) <= current)
            .map(|(_, count)| *count)
            .sum();
        self.sum - gone
    }

    /// The first tick, not before `current`, at which the sum is below `limit` if nothing is added;
    /// `None` for a limit of 0.
    pub(crate) fn first_below(&self, limit: u64, current: u64) -> Option<u64> {
        if limit == 0 {
            return None;
        }
        let mut left = self.sum;
        let mut first = current;
        for &(tick, count) in &self.counts {
            let leaves = tick.saturating_add(self.width);
            if leaves > current && left < limit {
                break;
            }
            left -= count;
            first = first.max(leaves);
        }
        Some(first)
    }

    /// Its ticks with their counts.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.counts.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_and_periods() {
        let time = Timestamp::from_secs(7 * 60 + 59);
        let slot = Slot::of(time);
        assert_eq!((slot, slot.period_start(), slot.next_period()), (Slot(7), Slot(5), Slot(10)));
        assert_eq!(slot.start(), Timestamp::from_secs(420));
        assert_eq!(slot.end(), Timestamp::from_secs(480));
        assert_eq!(Slot::of(slot.end()), Slot(8));
        // The last moment of all must not overflow.
        assert!(Slot::of(Timestamp::NEVER).end() <= Timestamp::NEVER);
    }

    #[test]
    fn window_slides() {
        let mut window = Window::new(61);
        window.add(10, 4);
        window.add(12, 5);
        window.add(11, 1);
        window.add(12, 1);
        assert_eq!(window.iter().collect::<Vec<_>>(), [(10, 4), (11, 1), (12, 6)]);
        assert_eq!((window.sum(70), window.sum(71), window.sum(73)), (11, 7, 0));
        assert_eq!((window.at(12), window.at(13), window.sum_from(11)), (6, 0, 7));
        assert_eq!(window.first_below(12, 20), Some(20));
        assert_eq!(window.first_below(11, 20), Some(71));
        assert_eq!(window.first_below(7, 20), Some(72));
        assert_eq!(window.first_below(1, 20), Some(73));
        assert_eq!(window.first_below(1, 200), Some(200));
        assert_eq!(window.first_below(0, 20), None);
        assert_eq!((window.subtract(12, 9), window.subtract(13, 1)), (6, 0));
        window.advance(71);
        assert_eq!((window.sum(71), window.sum(72)), (1, 0));
    }
}
