//! MAIL FROMs counted: by provider, path and hour, with how long they had waited. Recorded or simulated, it is the same count.
//!
//! Memory is bounded: hours of paths have a maximum, waits are kept in classes.

use std::collections::BTreeMap;
use std::time::Duration;

use mail::time::Timestamp;
use quota::PathKey;
use serde::Serialize;

/// Hours of paths that are kept apart.
const PATH_HOURS_MAX: usize = 200_000;
/// Classes of waits in each doubling.
const CLASSES_PER_DOUBLING: f64 = 4.0;
/// Classes of waits: up to some three years in milliseconds.
const CLASSES: usize = 150;
/// Seconds of an hour.
const HOUR: u64 = 3_600;

/// How long MAIL FROMs had waited.
#[derive(Clone, Debug)]
struct Waits {
    classes: [u64; CLASSES],
    longest: Duration,
    over: [u64; 4],
}

/// The bounds of `Waited::over_*`.
const BOUNDS: [Duration; 4] = [
    Duration::from_secs(60),
    Duration::from_secs(600),
    Duration::from_secs(3_600),
    Duration::from_secs(86_400),
];

impl Default for Waits {
    fn default() -> Self {
        Self { classes: [0; CLASSES], longest: Duration::ZERO, over: [0; 4] }
    }
}

impl Waits {
    fn add(&mut self, wait: Duration) {
        let millis = wait.as_millis().max(1) as f64;
        let class = (millis.log2() * CLASSES_PER_DOUBLING) as usize;
        self.classes[class.min(CLASSES - 1)] += 1;
        self.longest = self.longest.max(wait);
        for (over, bound) in self.over.iter_mut().zip(BOUNDS) {
            *over += u64::from(wait > bound);
        }
    }

    /// The wait that so many percent did not pass: the upper bound of its class, never more than the longest.
    fn quantile(&self, percent: u64) -> Duration {
        let all: u64 = self.classes.iter().sum();
        let wanted = (all * percent).div_ceil(100);
        let mut seen = 0;
        for (class, count) in self.classes.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                let millis = ((class + 1) as f64 / CLASSES_PER_DOUBLING).exp2();
                return Duration::from_millis(millis.ceil() as u64).min(self.longest);
            }
        }
        Duration::ZERO
    }
}

/// MAIL FROMs of one kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Course {
    mail_froms: u64,
    in_window: u64,
    sent: u64,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    waits: Waits,
}

impl Course {
    fn add(&mut self, one: &One<'_>, in_window: bool) {
        self.mail_froms += 1;
        self.in_window += u64::from(in_window);
        self.sent += u64::from(one.taken);
        self.first = self.first.into_iter().chain([one.at]).min();
        self.last = self.last.max(Some(one.at));
        if let Some(due) = one.due {
            self.waits.add(one.at.since(due));
        }
    }

    /// As it is told.
    pub(super) fn told(&self) -> Told {
        let seconds = |span: Duration| (span.as_secs_f64() * 1_000.0).round() / 1_000.0;
        Told {
            mail_froms: self.mail_froms,
            in_window: self.in_window,
            sent: self.sent,
            first_at: self.first.map(|at| at.to_string()),
            last_at: self.last.map(|at| at.to_string()),
            waited: Waited {
                median_seconds: seconds(self.waits.quantile(50)),
                p95_seconds: seconds(self.waits.quantile(95)),
                longest_seconds: seconds(self.waits.longest),
                over_minute: self.waits.over[0],
                over_ten_minutes: self.waits.over[1],
                over_hour: self.waits.over[2],
                over_day: self.waits.over[3],
            },
        }
    }
}

/// A course in the answer.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Told {
    pub(super) mail_froms: u64,
    /// Of these, those that went before the end of the window.
    pub(super) in_window: u64,
    pub(super) sent: u64,
    pub(super) first_at: Option<String>,
    pub(super) last_at: Option<String>,
    pub(super) waited: Waited,
}

/// How long MAIL FROMs had waited since they might have gone.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Waited {
    pub(super) median_seconds: f64,
    pub(super) p95_seconds: f64,
    pub(super) longest_seconds: f64,
    pub(super) over_minute: u64,
    pub(super) over_ten_minutes: u64,
    pub(super) over_hour: u64,
    pub(super) over_day: u64,
}

/// One MAIL FROM.
pub(super) struct One<'a> {
    pub(super) at: Timestamp,
    /// Since when it might have gone; `None`: not recorded.
    pub(super) due: Option<Timestamp>,
    pub(super) path: PathKey,
    pub(super) provider: &'a str,
    pub(super) taken: bool,
}

/// All MAIL FROMs.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    /// The end of the window.
    until: Timestamp,
    pub(super) all: Course,
    pub(super) providers: BTreeMap<Box<str>, Course>,
    pub(super) hours: BTreeMap<(u64, Box<str>), u64>,
    pub(super) path_hours: BTreeMap<(PathKey, u64), u64>,
    /// Counted nowhere in `path_hours`.
    pub(super) left_out: u64,
}

impl Tally {
    /// None yet; the window ends so.
    pub(super) fn until(until: Timestamp) -> Self {
        Self {
            until,
            all: Course::default(),
            providers: BTreeMap::new(),
            hours: BTreeMap::new(),
            path_hours: BTreeMap::new(),
            left_out: 0,
        }
    }

    pub(super) fn add(&mut self, one: &One<'_>) {
        let in_window = one.at <= self.until;
        self.all.add(one, in_window);
        let hour = one.at.as_secs() / HOUR;
        match self.providers.get_mut(one.provider) {
            Some(course) => course.add(one, in_window),
            None => self.providers.entry(one.provider.into()).or_default().add(one, in_window),
        }
        *self.hours.entry((hour, one.provider.into())).or_default() += 1;
        let name = (one.path, hour);
        if self.path_hours.len() < PATH_HOURS_MAX || self.path_hours.contains_key(&name) {
            *self.path_hours.entry(name).or_default() += 1;
        } else {
            self.left_out += 1;
        }
    }
}

/// The beginning of an hour.
pub(super) fn hour_text(hour: u64) -> String {
    Timestamp::from_secs(hour * HOUR).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_told_within_a_fifth() {
        let mut waits = Waits::default();
        for second in 1..=100 {
            waits.add(Duration::from_secs(second));
        }
        for (percent, wanted) in [(50, 50.0), (95, 95.0), (100, 100.0)] {
            let told = waits.quantile(percent).as_secs_f64();
            assert!((wanted..wanted * 1.2).contains(&told), "{percent}: {told}");
        }
        assert_eq!(waits.over, [40, 0, 0, 0]);
        assert_eq!(Waits::default().quantile(50), Duration::ZERO);
        waits.add(Duration::MAX);
        assert_eq!(waits.quantile(50).as_secs() / 10, 5);
    }
}
