//! How many tokens may be granted now, and when the next one may.
//!
//! Invariants, for a limit of `n` an hour:
//!
//! - 61 consecutive slots never sum to more than `n`;
//! - staircase: a period (five slots from a multiple of five) never sums to more than `n / 12`
//!   rounded down, and at least 1 is allowed so that limits below 12 still send;
//! - even: slot `s` may have `floor((s + 1) n / 61) - floor(s n / 61)`. The differences telescope, so
//!   any 61 of them sum to exactly `n`. Inside the slot they become available one after the other,
//!   in steps of at least 100 ms so that high limits still come in lots.
//!
//! Nothing is granted in the last moments of a slot (the guard), because a token must be used in
//! the slot in which it is counted.

use core::time::Duration;

use mail::time::Timestamp;

use crate::budget::WaitKind;
use crate::ruling::Pacing;
use crate::slots::{HOUR_SLOTS, SLOT, Slot, TICK_SLOTS, Window};

/// Even pacing makes tokens available at multiples of this span, in microseconds.
const STEP_MICROS: u64 = 100_000;

/// The latest moment, exclusive, at which a token of `slot` may be used.
pub(crate) fn use_before(slot: Slot, guard: Duration) -> Timestamp {
    slot.end().saturating_sub(guard)
}

/// The tokens of one period under staircase pacing.
pub(crate) fn period_limit(limit: u64) -> u64 {
    if limit == 0 { 0 } else { (limit / 12).max(1) }
}

/// A count of tokens and its limit per hour.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meter<'a> {
    spent: &'a Window,
    limit: u64,
    pacing: Pacing,
    /// Slots in a tick of `spent`: 1, or more for windows longer than an hour, which have no pacing.
    tick_slots: u64,
}

/// The state of the constraint that leaves the least room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// Tokens that may be granted.
    pub(crate) tokens: u64,
    /// Which constraint leaves so few.
    pub(crate) kind: WaitKind,
    /// Its limit.
    pub(crate) limit: u64,
    /// What is used of it.
    pub(crate) used: u64,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(spent: &'a Window, limit: u32, pacing: Pacing) -> Self {
        Self { spent, limit: limit.into(), pacing, tick_slots: 1 }
    }

    /// For counts by [`TICK_SLOTS`], as they come.
    pub(crate) fn of_day(spent: &'a Window, limit: u32) -> Self {
        Self { spent, limit: limit.into(), pacing: Pacing::Burst, tick_slots: TICK_SLOTS }
    }

    /// What may be granted at `now`, the guard at the end of the slot aside.
    pub(crate) fn room(&self, now: Timestamp, guard: Duration) -> Room {
        let slot = Slot::of(now);
        let room = |kind, limit: u64, used: u64| Room {
            tokens: limit.saturating_sub(used),
            kind,
            limit,
            used,
        };
        let hour = room(WaitKind::HourWindow, self.limit, self.spent.sum(slot.0 / self.tick_slots));
        let inner = match self.pacing {
            Pacing::Burst => return hour,
            Pacing::Staircase => room(
                WaitKind::Period,
                period_limit(self.limit),
                self.spent.sum_from(slot.period_start().0),
            ),
            Pacing::Even => room(
                WaitKind::Pace,
                available(self.even_quota(slot), now.since(slot.start()), guard),
                self.spent.at(slot.0),
            ),
        };
        if inner.tokens < hour.tokens { inner } else { hour }
    }

    /// The earliest time, not before `from`, at which one token may be granted if none is granted
    /// in between; `None` if the limit is 0.
    pub(crate) fn earliest(&self, from: Timestamp, guard: Duration) -> Option<Timestamp> {
        let slot = Slot::of(from);
        let tick = self.spent.first_below(self.limit, slot.0 / self.tick_slots)?;
        let free = Slot(tick * self.tick_slots);
        let mut time = from.max(free.start());
        if self.pacing == Pacing::Staircase {
            let period = Slot::of(time).period_start();
            if self.spent.sum_from(period.0) >= period_limit(self.limit) {
                time = period.next_period().start();
            }
        }
        if self.pacing != Pacing::Even {
            let slot = Slot::of(time);
            return Some(if time < use_before(slot, guard) { time } else { slot.end() });
        }
        let first = Slot::of(time).0;
        // Among any 61 slots the quotas sum to the limit, which is at least 1, and only one of the
        // slots ahead can be used up already: two rounds always find a token.
        (first..=first.saturating_add(2 * HOUR_SLOTS)).map(Slot).find_map(|slot| {
            let (quota, used) = (self.even_quota(slot), self.spent.at(slot.0));
            if used >= quota {
                return None;
            }
            let ready = slot.start() + ready_after(used, quota, guard);
            let time = time.max(ready);
            (time < use_before(slot, guard)).then_some(time)
        })
    }

    /// The tokens of one slot under even pacing.
    fn even_quota(&self, slot: Slot) -> u64 {
        // Only the place in the round of 61 matters, and it keeps the products small.
        let place = slot.0 % HOUR_SLOTS;
        (place + 1) * self.limit / HOUR_SLOTS - place * self.limit / HOUR_SLOTS
    }
}

/// The part of a slot in which tokens can be granted, in microseconds.
fn usable_micros(guard: Duration) -> u64 {
    u64::try_from(SLOT.saturating_sub(guard).as_micros()).unwrap_or(u64::MAX).max(1)
}

/// How long after the start of a slot token number `index` (from 0) of `quota` becomes available.
fn ready_after(index: u64, quota: u64, guard: Duration) -> Duration {
    let exact = index * usable_micros(guard) / quota.max(1);
    Duration::from_micros(exact / STEP_MICROS * STEP_MICROS)
}

/// How many of a slot's tokens are available `elapsed` after its start: those whose `ready_after`
/// has come.
fn available(quota: u64, elapsed: Duration, guard: Duration) -> u64 {
    let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    let next_step = (micros / STEP_MICROS + 1) * STEP_MICROS;
    // Token i is ready when floor(i * usable / quota) < next_step, that is i * usable < next_step *
    // quota.
    let ready = (next_step * quota).div_ceil(usable_micros(guard));
    ready.min(quota)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GUARD: Duration = Duration::from_millis(250);

    #[test]
    fn even_quotas_sum_to_the_limit() {
        let empty = Window::new(HOUR_SLOTS);
        for limit in [1, 2, 11, 60, 61, 62, 999, 10_000, u32::MAX] {
            let meter = Meter::new(&empty, limit, Pacing::Even);
            let quotas: Vec<u64> =
                (1_000..1_200).map(|slot| meter.even_quota(Slot(slot))).collect();
            for window in quotas.windows(61) {
                assert_eq!(window.iter().sum::<u64>(), u64::from(limit));
            }
            let (least, most) = (quotas.iter().min().unwrap(), quotas.iter().max().unwrap());
            assert!(most - least <= 1, "{limit}");
        }
    }

    #[test]
    fn period_limits() {
        for (limit, period) in
            [(10_000, 833), (12, 1), (11, 1), (1, 1), (0, 0), (1_000_000, 83_333)]
        {
            assert_eq!(period_limit(limit), period);
        }
    }

    proptest! {
        /// `ready_after` and `available` are two views of one schedule.
        #[test]
        fn schedule_agrees(quota in 1_u64..20_000, index in 0_u64..20_000, late in 0_u64..50_000) {
            let index = index % quota;
            let ready = ready_after(index, quota, GUARD);
            prop_assert!(available(quota, ready, GUARD) > index);
            prop_assert!(available(quota, ready + Duration::from_micros(late), GUARD) > index);
            if let Some(before) = ready.checked_sub(Duration::from_micros(1)) {
                prop_assert!(available(quota, before, GUARD) <= index);
            }
            prop_assert!(ready < SLOT - GUARD);
        }
    }
}
