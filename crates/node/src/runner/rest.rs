//! How long the engine's loop rests between two looks at what happened.
//!
//! **Promise.** A loop that was idle is woken by each event. From the fifth waking on that follows the one before within a
//! millisecond, events gather first, for a tenth of a millisecond to a whole one, and are decided together: so the last
//! steps of a lone message on a quick path may wait for a millisecond each, and nothing ever waits longer.
//!
//! **Why.** Without a rest nearly every event of a conversation wakes the loop's thread for itself, which costs more than
//! to decide: a tenth of the processor time of a message that is accepted and delivered. How long is best depends on how
//! many events come: at 30,000 messages a second a tenth of a millisecond brings a dozen; at 4,000, which is what two
//! cores sign, it brings one, and a millisecond saves an eighth of all that such a message costs.

use core::time::Duration;

/// A waking within this time after the last one, beyond the rest, is a quick one.
const QUICK_WAKING: Duration = Duration::from_millis(1);

/// After so many quick wakings, one behind the other, the loop rests.
const QUICK_WAKINGS: u32 = 4;

/// The rests.
const SHORTEST: Duration = Duration::from_micros(100);
const LONGEST: Duration = Duration::from_millis(1);

/// After fewer events than this the next rest is longer, after more than that shorter.
const FEW_EVENTS: usize = 8;
const MANY_EVENTS: usize = 24;

/// What the loop remembers of its last wakings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rest {
    quick_wakings: u32,
    length: Duration,
}

impl Default for Rest {
    fn default() -> Self {
        Self { quick_wakings: 0, length: SHORTEST }
    }
}

impl Rest {
    /// How long to rest now, before the next look; `None`: not at all.
    pub(super) fn pause(&self) -> Option<Duration> {
        (self.quick_wakings >= QUICK_WAKINGS).then_some(self.length)
    }

    /// The loop was woken, so long after the last time, by so many events.
    pub(super) fn woken(&mut self, since_last: Duration, events: usize) {
        let rested = self.pause();
        if since_last >= rested.unwrap_or_default() + QUICK_WAKING {
            *self = Self::default();
            return;
        }
        self.quick_wakings = self.quick_wakings.saturating_add(1);
        if rested.is_none() {
            return;
        }
        if events < FEW_EVENTS {
            self.length = (self.length * 2).min(LONGEST);
        } else if events > MANY_EVENTS {
            self.length = (self.length / 2).max(SHORTEST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICROSECOND: Duration = Duration::from_micros(1);

    /// The loop of a node to which so many events come in each millisecond, evenly: how long it rests in the end.
    fn settled(events_in_a_millisecond: u32) -> Option<Duration> {
        let mut rest = Rest::default();
        let between = Duration::from_millis(1) / events_in_a_millisecond;
        for _ in 0..100 {
            let since = rest.pause().unwrap_or_default().max(between) + 20 * MICROSECOND;
            rest.woken(since, (since.as_nanos() / between.as_nanos()) as usize);
        }
        rest.pause()
    }

    #[test]
    fn a_lone_message_does_not_wait() {
        let mut rest = Rest::default();
        assert_eq!(rest.pause(), None);
        // All that becomes of one message: accepted, claimed, sent and settled within a millisecond.
        for _ in 0..3 {
            rest.woken(100 * MICROSECOND, 1);
            assert_eq!(rest.pause(), None);
        }
        // The next one comes later, and finds a loop that is not busy.
        for _ in 0..20 {
            rest.woken(Duration::from_millis(2), 1);
            assert_eq!(rest.pause(), None);
        }
    }

    #[test]
    fn a_busy_loop_rests_for_as_long_as_it_takes_until_some_events_have_come() {
        assert_eq!(settled(1_000), Some(SHORTEST));
        assert_eq!(settled(90), Some(SHORTEST));
        assert_eq!(settled(12), Some(8 * SHORTEST));
        assert_eq!(settled(4), Some(LONGEST));
        assert_eq!(settled(2), Some(LONGEST));
    }

    #[test]
    fn a_rest_is_never_outside_its_bounds_and_ends_with_the_rush() {
        let mut rest = Rest::default();
        for round in 0..10_000_u32 {
            rest.woken(rest.pause().unwrap_or_default(), if round % 7 < 3 { 0 } else { 4_096 });
            assert!(rest.pause().is_none_or(|pause| (SHORTEST..=LONGEST).contains(&pause)));
        }
        rest.woken(LONGEST + QUICK_WAKING, 1_000);
        assert_eq!(rest.pause(), None);
    }
}
