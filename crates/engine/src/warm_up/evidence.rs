//! What a source experienced, and the guards that it is measured against.

use core::fmt;

use mail::time::Timestamp;
use rules::Level;
use serde::{Deserialize, Serialize};

const DAY_SECONDS: u64 = 86_400;

/// A day in UTC, numbered from 1970-01-01.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Day(pub u32);

impl Day {
    /// The day of a moment.
    #[must_use]
    pub fn of(at: Timestamp) -> Self {
        Self(u32::try_from(at.as_secs() / DAY_SECONDS).unwrap_or(u32::MAX))
    }

    /// Its first moment.
    #[must_use]
    pub const fn start(self) -> Timestamp {
        Timestamp::from_secs(self.0 as u64 * DAY_SECONDS)
    }

    /// Reads what `Display` writes; `None` for anything else, and before 1970.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '-');
        let mut part = |width: usize| {
            let part = parts.next().filter(|part| part.len() == width)?;
            part.bytes().all(|octet| octet.is_ascii_digit()).then(|| part.parse::<i64>().ok())?
        };
        let (year, month, day) = (part(4)?, part(2)?, part(2)?);
        // Days from the civil calendar, with years that begin in March so that the leap day comes last.
        let (shifted, month_from_march) =
            if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let in_year = (153 * month_from_march + 2) / 5 + day - 1;
        let days = 365 * shifted + shifted / 4 - shifted / 100 + shifted / 400 + in_year - 719_468;
        let found = Self(u32::try_from(days).ok()?);
        // A day that is not in the calendar comes out as another one.
        (found.to_string() == text).then_some(found)
    }

    /// So many days later.
    #[must_use]
    pub const fn plus(self, days: u32) -> Self {
        Self(self.0.saturating_add(days))
    }

    /// Days from `earlier` to this one; 0 when it is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Day {
    /// `2026-12-01`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.start().to_string();
        out.pad(text.split('T').next().unwrap_or_default())
    }
}

/// What became of the messages of a source at a provider on one day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// The server took them.
    pub sent: u64,
    /// The server put them off.
    pub deferred: u64,
    /// Refused because there is no such user.
    pub unknown_users: u64,
    /// Refused or put off because of who we are: reputation, policy, authentication. Counted besides, and
    /// also among the deferred or the other failures.
    pub blocked: u64,
    /// Refused for any other reason.
    pub other_failures: u64,
}

impl Tally {
    /// Everything that a server gave its word on.
    #[must_use]
    pub const fn attempts(&self) -> u64 {
        self.sent + self.deferred + self.unknown_users + self.other_failures
    }

    /// Adds another tally.
    pub fn add(&mut self, other: &Self) {
        self.sent = self.sent.saturating_add(other.sent);
        self.deferred = self.deferred.saturating_add(other.deferred);
        self.unknown_users = self.unknown_users.saturating_add(other.unknown_users);
        self.blocked = self.blocked.saturating_add(other.blocked);
        self.other_failures = self.other_failures.saturating_add(other.other_failures);
    }

    /// This tally without a part of it. What is not in it cannot be taken from it.
    #[must_use]
    pub const fn without(&self, part: &Self) -> Self {
        Self {
            sent: self.sent.saturating_sub(part.sent),
            deferred: self.deferred.saturating_sub(part.deferred),
            unknown_users: self.unknown_users.saturating_sub(part.unknown_users),
            blocked: self.blocked.saturating_sub(part.blocked),
            other_failures: self.other_failures.saturating_sub(part.other_failures),
        }
    }

    /// Whether the provider showed the source the door that day: one message in a hundred, and at least five,
    /// refused for who we are.
    #[must_use]
    pub const fn is_block(&self) -> bool {
        self.blocked >= 5 && self.blocked * 100 >= self.attempts()
    }
}

/// Complaints and what was sent meanwhile. A report does not say from which source a message came, so both are those of the
/// provider over all sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PooledComplaints {
    /// Reports of feedback loops.
    pub complaints: u64,
    /// Messages that the provider took, of all sources.
    pub sent: u64,
}

/// Which guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuardKind {
    /// Complaints among what was sent.
    Complaints,
    /// Messages put off among all attempts.
    Deferrals,
    /// Unknown users among all attempts.
    UnknownUsers,
}

impl GuardKind {
    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Complaints => "complaints",
            Self::Deferrals => "put off",
            Self::UnknownUsers => "unknown users",
        }
    }
}

/// Shares that must not be reached, in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Guards {
    /// Complaints.
    pub complaints: u32,
    /// Messages put off.
    pub deferrals: u32,
    /// Unknown users.
    pub unknown_users: u32,
}

impl Guards {
    /// Of a day of warm-up: 0.3 %, 20 % and 3 %.
    pub const WARM_UP: Self = Self { complaints: 3_000, deferrals: 200_000, unknown_users: 30_000 };

    /// What a level asks for; `None`: nothing, it is always allowed.
    #[must_use]
    pub const fn of(level: Level) -> Option<Self> {
        match level {
            Level::Slow | Level::Custom => None,
            Level::Normal => {
                Some(Self { complaints: 3_000, deferrals: 200_000, unknown_users: 50_000 })
            }
            Level::Fast | Level::VeryFast | Level::Boost => {
                Some(Self { complaints: 1_000, deferrals: 100_000, unknown_users: 20_000 })
            }
        }
    }

    /// Each guard against what happened.
    #[must_use]
    pub fn read(&self, tally: &Tally, pooled: &PooledComplaints) -> [GuardReading; 3] {
        let attempts = tally.attempts();
        [
            GuardReading::new(
                GuardKind::Complaints,
                pooled.complaints,
                pooled.sent,
                self.complaints,
            ),
            GuardReading::new(GuardKind::Deferrals, tally.deferred, attempts, self.deferrals),
            GuardReading::new(
                GuardKind::UnknownUsers,
                tally.unknown_users,
                attempts,
                self.unknown_users,
            ),
        ]
    }
}

/// What a guard says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuardVerdict {
    /// The share lies under it.
    Kept,
    /// Too little was seen to know.
    Open,
    /// The share lies over it, and at least 20 were seen.
    Breached,
}

/// A guard against what happened.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuardReading {
    /// Which.
    pub guard: GuardKind,
    /// How many of them there were.
    pub count: u64,
    /// Of so many.
    pub of: u64,
    /// The guard, as a share from 0 to 1.
    pub limit: f64,
    /// The share lies between this and `high`, as far as one can be 95 % sure.
    pub low: f64,
    /// See `low`.
    pub high: f64,
    /// How sure it is that the share lies under the guard, from 0 to 1.
    pub sure: f64,
    /// What follows.
    pub verdict: GuardVerdict,
}

/// Half the width of an interval of 95 %, in standard deviations.
const Z: f64 = 1.959_964;

/// Of fewer no guard is breached: Wilson's interval is too sure of them. One message that is put off, of one, would lie over
/// a fifth "at least", and a greylisting server would slow a whole source down.
const FEWEST: u64 = 20;

impl GuardReading {
    fn new(guard: GuardKind, count: u64, of: u64, limit_millionths: u32) -> Self {
        let limit = f64::from(limit_millionths) / 1e6;
        let (low, high) = interval(count, of);
        let verdict = match () {
            () if of == 0 => GuardVerdict::Open,
            () if low > limit && of >= FEWEST => GuardVerdict::Breached,
            () if high < limit => GuardVerdict::Kept,
            () => GuardVerdict::Open,
        };
        let sure = if of == 0 {
            0.5
        } else {
            let share = count as f64 / of as f64;
            normal((limit - share) * (of as f64 / (limit * (1.0 - limit))).sqrt())
        };
        Self { guard, count, of, limit, low, high, sure, verdict }
    }

    /// The share that was seen.
    #[must_use]
    pub fn share(&self) -> f64 {
        if self.of == 0 { 0.0 } else { self.count as f64 / self.of as f64 }
    }

    /// Whether the share that was seen is at the guard or over it, however few were seen.
    #[must_use]
    pub fn reached(&self) -> bool {
        self.of > 0 && self.share() >= self.limit
    }
}

impl fmt::Display for GuardReading {
    /// `put off 1.2 % of 4,000 (guard 20 %)`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: f64| {
            let text = format!("{:.2}", share * 100.0);
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        };
        let (seen, limit) = (percent(self.share()), percent(self.limit));
        write!(out, "{} {seen} % of {} (guard {limit} %)", self.guard.words(), self.of)
    }
}

/// Wilson's score interval of 95 % for a share.
fn interval(count: u64, of: u64) -> (f64, f64) {
    if of == 0 {
        return (0.0, 1.0);
    }
    let (n, share) = (of as f64, count.min(of) as f64 / of as f64);
    let square = Z * Z;
    let middle = share + square / (2.0 * n);
    let half = Z * (share * (1.0 - share) / n + square / (4.0 * n * n)).sqrt();
    let scale = 1.0 + square / n;
    (((middle - half) / scale).max(0.0), ((middle + half) / scale).min(1.0))
}

/// The share of a normal distribution below `z`: the approximation 7.1.26 of Abramowitz and Stegun, which is wrong
/// by less than a millionth.
fn normal(z: f64) -> f64 {
    let x = z.abs() / core::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let series = t
        * (0.254_829_592
            + t * (-0.284_496_736
                + t * (1.421_413_741 + t * (-1.453_152_027 + t * 1.061_405_429))));
    let tail = series * (-x * x).exp() / 2.0;
    if z >= 0.0 { 1.0 - tail } else { tail }
}
