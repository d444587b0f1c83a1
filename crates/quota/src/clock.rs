//! The time that survives restarts.
//!
//! The ledger's time must not go back, or it would count new messages into slots that it has
//! already judged; and it must not run ahead, or it would take messages for an hour old that are
//! not. Wall clocks do both, whenever somebody sets them. A machine's boot clock (time since boot,
//! including suspend) does neither, but it starts from 0 with each boot and so cannot be compared
//! across boots.
//!
//! Therefore the shell stores, with every batch of the journal and every [`SAVE_CLOCK_EVERY`], a [`SavedClock`]: the ledger's time
//! beside the readings of both clocks and the identity of the boot. At the next start [`anchor`]
//! compares:
//!
//! - **Same boot**: the boot clock knows exactly how much time has passed. The wall clock is not
//!   looked at, so steps of it, forward or back, cannot matter.
//! - **Another boot**: nothing but the wall clock can tell how long the machine was off. It is
//!   believed where it is later than the stored time. Where it is earlier it has been set back, and
//!   the stored time continues: the pause is then not credited, which delays mail and never sends
//!   too much.
//! - **Nothing stored**: the wall clock; there is no history that it could contradict.
//!
//! What this cannot see: a wall clock that was wrong and in the future at the first start after a
//! boot. Then the ledger forgets as much of the hour as the error. Nor can it see, at the next boot, that
//! an earlier one was not credited with its pause because its wall clock was behind: what is then made up for
//! is taken for time that has passed since the last message, and the ledger forgets that much. Machines whose
//! clock is not kept while they are off should set it from the network before the node starts; then neither happens.
//!
//! From the anchor on the shell advances the time by the boot clock alone. It stores the clock once
//! right after the start, so that already the next start of the same boot is proof against steps.

use core::time::Duration;

use mail::time::Timestamp;
use serde::{Deserialize, Serialize};

/// How often the shell stores the clock while nothing is asked of the ledger. At a boot whose wall clock is behind the time goes
/// back by at most so much.
pub const SAVE_CLOCK_EVERY: Duration = Duration::from_secs(10);

/// The ledger's time as it was stored, beside the clocks of the machine at the same moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedClock {
    /// The ledger's time.
    pub steady: Timestamp,
    /// What names this boot of the machine (on Linux `/proc/sys/kernel/random/boot_id`); empty
    /// where the system has no such thing, which counts as another boot each time.
    pub boot_id: String,
    /// Time since boot, suspend included.
    pub boot_clock: Duration,
    /// Wall clock, microseconds since the Unix epoch. For people; [`anchor`] does not need it.
    pub wall: u64,
}

/// The clocks of the machine now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockReading {
    /// As [`SavedClock::boot_id`].
    pub boot_id: String,
    /// As [`SavedClock::boot_clock`].
    pub boot_clock: Duration,
    /// As [`SavedClock::wall`].
    pub wall: u64,
}

/// The ledger's time at the moment of `reading`. Never before `saved.steady`.
#[must_use]
pub fn anchor(saved: Option<SavedClock>, reading: ClockReading) -> Timestamp {
    let wall = Timestamp::from_micros(reading.wall);
    let Some(saved) = saved else { return wall };
    if !saved.boot_id.is_empty() && saved.boot_id == reading.boot_id {
        // A boot clock that went back under the same boot id is a restored machine image: then
        // nothing is known to have passed.
        return saved.steady + reading.boot_clock.saturating_sub(saved.boot_clock);
    }
    saved.steady.max(wall)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors() {
        let saved = |boot_id: &str| SavedClock {
            steady: Timestamp::from_secs(10_000),
            boot_id: boot_id.into(),
            boot_clock: Duration::from_secs(500),
            wall: 10_000_000_000,
        };
        let reading = |boot_id: &str, boot_seconds, wall_seconds: u64| ClockReading {
            boot_id: boot_id.into(),
            boot_clock: Duration::from_secs(boot_seconds),
            wall: wall_seconds * 1_000_000,
        };
        for (name, saved, reading, expected_seconds) in [
            ("first start", None, reading("a", 5, 77), 77),
            ("same boot", Some(saved("a")), reading("a", 510, 10_010), 10_010),
            ("same boot, wall an hour back", Some(saved("a")), reading("a", 510, 6_400), 10_010),
            ("same boot, wall an hour on", Some(saved("a")), reading("a", 510, 13_610), 10_010),
            ("same boot, restored image", Some(saved("a")), reading("a", 400, 9_900), 10_000),
            ("other boot", Some(saved("a")), reading("b", 20, 10_300), 10_300),
            ("other boot, wall back", Some(saved("a")), reading("b", 20, 6_400), 10_000),
            ("no boot id", Some(saved("")), reading("", 9_999, 10_300), 10_300),
        ] {
            assert_eq!(anchor(saved, reading), Timestamp::from_secs(expected_seconds), "{name}");
        }
    }
}
