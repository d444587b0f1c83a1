//! The one place that makes [`Timestamp`]s.
//!
//! A node starts its clock once: [`read_clocks`] reads the clocks of the machine,
//! [`quota::clock::anchor`] compares them with what was stored by the last run, and
//! [`SteadyClock::start`] goes on from there. After that the wall clock is never looked at again
//! except to tell people how far it is away ([`SteadyClock::drift_from_wall`]).
//!
//! What holds:
//! - every [`SteadyClock::now`] is later than every one before it, in all threads together, so that a
//!   time can serve as an order;
//! - it does not jump when somebody sets the wall clock;
//! - it never runs faster than the machine's monotonic clock, unless it is asked more than a million
//!   times a second for long (each answer is at least a microsecond after the last).
//!
//! It advances with [`Instant`], which on Linux does not count the time in which the machine was
//! suspended. Then mail is late by that time and no limit is passed; after the next start the boot
//! clock, which does count it, has made up for it.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mail::time::Timestamp;
use quota::clock::{ClockReading, SavedClock};

/// A clock that only goes forward. Share it in an `Arc`.
#[derive(Debug)]
pub struct SteadyClock {
    anchor: Timestamp,
    started: Instant,
    /// Microseconds of the last answer.
    last: AtomicU64,
}

impl SteadyClock {
    /// Starts at `anchor`; the first answer is later than it.
    #[must_use]
    pub fn start(anchor: Timestamp) -> Self {
        Self { anchor, started: Instant::now(), last: AtomicU64::new(anchor.as_micros()) }
    }

    /// Starts where the wall clock is. For programs that store nothing (lab, load source, checks).
    #[must_use]
    pub fn start_at_wall() -> Self {
        Self::start(wall_clock())
    }

    /// The time, later than every answer before.
    pub fn now(&self) -> Timestamp {
        let measured = (self.anchor + self.started.elapsed()).as_micros();
        let after = |last: u64| Some(measured.max(last.saturating_add(1)));
        let before = self
            .last
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, after)
            .expect("the update always gives a value");
        Timestamp::from_micros(measured.max(before.saturating_add(1)))
    }

    /// The instant of tokio's and the system's timers that corresponds to `at`; for a time that has
    /// passed: the start of this clock or later. `None` for times further away than the system can
    /// count, such as [`Timestamp::NEVER`].
    #[must_use]
    pub fn instant_of(&self, at: Timestamp) -> Option<Instant> {
        self.started.checked_add(at.since(self.anchor))
    }

    /// What to store, so that the next start can go on from here.
    pub fn save(&self) -> SavedClock {
        let ClockReading { boot_id, boot_clock, wall } = read_clocks();
        SavedClock { steady: self.now(), boot_id, boot_clock, wall }
    }

    /// How far this clock is ahead of the wall clock, in microseconds; negative: behind it.
    pub fn drift_from_wall(&self) -> i64 {
        let difference = i128::from(self.now().as_micros()) - i128::from(wall_clock().as_micros());
        i64::try_from(difference).unwrap_or(if difference < 0 { i64::MIN } else { i64::MAX })
    }
}

/// The wall clock; the epoch when it is set before 1970.
fn wall_clock() -> Timestamp {
    #[allow(clippy::disallowed_methods, reason = "this is where times are made")]
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let read = Timestamp::EPOCH + since_epoch;
    #[cfg(debug_assertions)]
    let read = stepped(read);
    read
}

/// The wall clock as a test has set it: by so many seconds as stand in the file that the environment variable
/// `MAILWEIR_WALL_CLOCK_STEP` names. Only builds for tests ask for it; a release believes the machine.
#[cfg(debug_assertions)]
fn stepped(read: Timestamp) -> Timestamp {
    let step = std::env::var_os("MAILWEIR_WALL_CLOCK_STEP")
        .and_then(|path| fs::read_to_string(path).ok())
        .and_then(|text| text.trim().parse::<i64>().ok())
        .unwrap_or(0);
    let by = Duration::from_secs(step.unsigned_abs());
    if step < 0 { read.saturating_sub(by) } else { read + by }
}

/// The clocks of the machine. Where the system names no boot (or hides it), the boot id is empty,
/// which [`quota::clock::anchor`] takes for another boot each time.
#[must_use]
pub fn read_clocks() -> ClockReading {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let (boot_id, boot_clock) = match parse_uptime(&uptime) {
        Some(boot_clock) => (boot_id.trim().to_owned(), boot_clock),
        // Without a boot clock the id of the boot is worth nothing.
        None => (String::new(), Duration::ZERO),
    };
    ClockReading { boot_id, boot_clock, wall: wall_clock().as_micros() }
}

/// The first number of `/proc/uptime`: seconds since boot with two decimals, suspend included.
fn parse_uptime(text: &str) -> Option<Duration> {
    let (seconds, hundredths) = text.split_whitespace().next()?.split_once('.')?;
    if hundredths.len() != 2 {
        return None;
    }
    let seconds = Duration::from_secs(seconds.parse().ok()?);
    seconds.checked_add(Duration::from_millis(hundredths.parse::<u64>().ok()? * 10))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn every_answer_is_later_in_all_threads() {
        let anchor = Timestamp::from_secs(1_000);
        let clock = Arc::new(SteadyClock::start(anchor));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let clock = Arc::clone(&clock);
                std::thread::spawn(move || (0..20_000).map(|_| clock.now()).collect::<Vec<_>>())
            })
            .collect();
        let mut all = HashSet::new();
        for thread in threads {
            let times = thread.join().unwrap();
            assert!(times[0] > anchor);
            assert!(times.is_sorted_by(|a, b| a < b));
            all.extend(times);
        }
        assert_eq!(all.len(), 80_000, "no time was given twice");
    }

    #[test]
    fn it_follows_the_monotonic_clock() {
        let before = Instant::now();
        let clock = SteadyClock::start(Timestamp::from_secs(5));
        std::thread::sleep(Duration::from_millis(20));
        let passed = clock.now().since(Timestamp::from_secs(5));
        assert!(passed >= Duration::from_millis(20), "{passed:?}");
        assert!(passed <= before.elapsed() + Duration::from_micros(1), "{passed:?}");
    }

    #[test]
    fn a_clock_near_the_end_of_time_does_not_panic() {
        let clock = SteadyClock::start(Timestamp::NEVER);
        assert_eq!(clock.now(), Timestamp::NEVER);
        assert_eq!(clock.drift_from_wall(), i64::MAX);
        let clock = SteadyClock::start(Timestamp::EPOCH);
        assert_eq!(clock.instant_of(Timestamp::EPOCH), Some(clock.started));
        let hour = clock.instant_of(Timestamp::from_secs(3_600)).unwrap();
        assert_eq!(hour - clock.started, Duration::from_secs(3_600));
    }

    #[test]
    fn the_next_start_goes_on_where_the_last_stopped() {
        let saved = SteadyClock::start(wall_clock() + Duration::from_secs(900)).save();
        let reading = read_clocks();
        let again = quota::clock::anchor(Some(saved.clone()), reading.clone());
        assert!(again >= saved.steady);
        assert!(again.since(saved.steady) < Duration::from_secs(60));
        if reading.boot_id.is_empty() {
            assert_eq!(reading.boot_clock, Duration::ZERO);
        }
    }

    #[test]
    fn drift_is_measured_in_both_directions() {
        let ahead = SteadyClock::start(wall_clock() + Duration::from_secs(60)).drift_from_wall();
        assert!((59_000_000..61_000_000).contains(&ahead), "{ahead}");
        let behind = SteadyClock::start(wall_clock().saturating_sub(Duration::from_secs(60)))
            .drift_from_wall();
        assert!((-61_000_000..-59_000_000).contains(&behind), "{behind}");
    }

    #[test]
    fn uptime_is_read_or_refused() {
        assert_eq!(parse_uptime("12345.67 9.01\n"), Some(Duration::from_millis(12_345_670)));
        for bad in ["", "x", "12", "12.3 4", "-1.00", "1.2x 3"] {
            assert_eq!(parse_uptime(bad), None, "{bad:?}");
        }
    }
}
