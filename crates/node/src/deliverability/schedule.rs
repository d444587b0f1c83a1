//! When a client asks its instance: daily at a local time, and sooner again after a failure.
//!
//! **Promise.** [`SyncSchedule::next`] is a function of what it is given: no clock, no chance. Whatever the clock did
//! between two calls, the next moment is at most two days and the jitter away, and it comes while the clock goes on:
//! a moment still to come that was written before the clock was set back counts as long ago. So a client never falls
//! asleep.
//!
//! **How.** The daily moment is that of the machine's time zone; where it does not exist (clocks go forward) the same
//! time after the gap, where it exists twice the first. To it comes a delay that is always the same for one client
//! and spreads a fleet. After a failure a client asks again after 1 min, doubled each time up to 6 h, stretched by up
//! to a quarter by the same delay, and at the daily moment if that is sooner; never before the instance has asked for
//! (`Retry-After`), but that is believed for a day at most.

use std::time::Duration;

use jiff::ToSpan as _;
use jiff::civil::Time;
use jiff::tz::TimeZone;
use mail::time::Timestamp;
use serde::{Deserialize, Serialize};

/// The pause after the first failure.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
/// The longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(6 * 3_600);
/// What an instance may ask for at most.
pub const LONGEST_RETRY_AFTER: Duration = DAY;
const DAY: Duration = Duration::from_secs(86_400);

/// When a client asks.
#[derive(Clone, Debug)]
pub struct SyncSchedule {
    /// The local time; `None`: only on demand.
    pub at: Option<Time>,
    /// Whose local time.
    pub zone: TimeZone,
    /// The daily moment is at most so much later.
    pub jitter: Duration,
    /// Where this client stands among all: 0 to 999 thousandths of the jitter.
    pub place: u16,
}

/// What has happened so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncHistory {
    /// When the instance answered last as it should.
    pub last_contact: Option<Timestamp>,
    /// When it did not.
    pub last_failure: Option<Timestamp>,
    /// Failures one after the other, since the last contact.
    pub failures: u32,
    /// The instance wants to be left alone until then.
    pub not_before: Option<Timestamp>,
}

impl SyncHistory {
    /// The instance has answered.
    pub fn contacted(&mut self, now: Timestamp) {
        *self = Self { last_contact: Some(now), ..Self::default() };
    }

    /// It has not, or asked to be left alone for a while.
    pub fn failed(&mut self, now: Timestamp, retry_after: Option<Duration>) {
        self.failures = self.failures.saturating_add(1);
        self.last_failure = Some(now);
        self.not_before = retry_after.map(|pause| now + pause.min(LONGEST_RETRY_AFTER));
    }
}

impl SyncSchedule {
    /// A schedule for the client with this token: the token is what every client of an instance has of its own.
    #[must_use]
    pub fn new(at: Option<Time>, zone: TimeZone, jitter: Duration, token: &str) -> Self {
        let digest = crate::node::digest(format!("schedule {token}").as_bytes());
        let number = u64::from_str_radix(&digest[..8], 16).unwrap_or_default();
        Self { at, zone, jitter, place: u16::try_from(number % 1_000).unwrap_or_default() }
    }

    /// When to ask next; at or before `now`: at once. `None`: only on demand.
    #[must_use]
    pub fn next(&self, now: Timestamp, history: &SyncHistory) -> Option<Timestamp> {
        let time = self.at?;
        let failed = history.last_failure.filter(|_| history.failures > 0);
        // After a failure only that counts.
        let last = failed.or(history.last_contact);
        let next = match (last, failed) {
            (None, _) => now,
            // It was written before the clock was set back. To ask now writes a moment that can be counted from.
            (Some(last), _) if last > now => now,
            (Some(contact), None) => self.daily_after(time, contact),
            (Some(_), Some(failed)) => {
                let again = failed + self.pause(history.failures);
                let wanted = again.min(self.daily_after(time, failed));
                let quiet = history.not_before.unwrap_or(Timestamp::EPOCH);
                wanted.max(quiet.min(failed + LONGEST_RETRY_AFTER))
            }
        };
        Some(next)
    }

    /// The pause after so many failures.
    fn pause(&self, failures: u32) -> Duration {
        let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16));
        let pause = doubled.min(LONGEST_PAUSE);
        pause + pause / 4 * u32::from(self.place) / 1_000
    }

    /// The first daily moment after another.
    fn daily_after(&self, time: Time, after: Timestamp) -> Timestamp {
        self.try_daily_after(time, after).unwrap_or(after + DAY)
    }

    /// `None`: beyond the times that a calendar knows.
    fn try_daily_after(&self, time: Time, after: Timestamp) -> Option<Timestamp> {
        let later = self.jitter * u32::from(self.place) / 1_000;
        let micros = i64::try_from(after.as_micros()).ok()?;
        let here = jiff::Timestamp::from_microsecond(micros).ok()?;
        let today = self.zone.to_datetime(here).date();
        // With its delay the moment of yesterday may be still to come.
        (-1..=2).find_map(|days: i64| {
            let date = today.checked_add(days.days()).ok()?;
            let zoned = date.to_datetime(time).to_zoned(self.zone.clone()).ok()?;
            let micros = u64::try_from(zoned.timestamp().as_microsecond()).ok()?;
            let moment = Timestamp::from_micros(micros) + later;
            (moment > after).then_some(moment)
        })
    }
}

#[cfg(test)]
mod tests;
