//! The daily clean-up: what ends by itself ends, what is not needed any more goes.
//!
//! Each step works in stretches, and a step that fails does not stop the others.

use core::fmt;
use core::time::Duration;

use mail::time::Timestamp;
use serde::Serialize;

use super::state::State;
use super::task::Change;

const DAY: Duration = Duration::from_secs(86_400);
/// How long evidence about an address against which nothing stands is kept.
pub const EVIDENCE_KEPT_FOR: Duration = Duration::from_secs(180 * 86_400);
/// How long a bounce is recognised when it arrives again.
pub const SEEN_KEPT_FOR: Duration = Duration::from_secs(60 * 86_400);
/// How long a refusal in a session of ours is recognised when a crash has it repeated. Far shorter: nobody
/// sends it again, and there is one for each refused attempt.
pub const SESSION_SEEN_KEPT_FOR: Duration = Duration::from_secs(3 * 86_400);
/// How long the daily counts of forged and foreign bounces are kept.
pub const STRAYS_KEPT_FOR: Duration = Duration::from_secs(400 * 86_400);
/// How long a text that nobody qualified is kept after it was last met.
pub const TEXTS_KEPT_FOR: Duration = Duration::from_secs(365 * 86_400);

/// A step of the clean-up, in the order in which they are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CleanUpStep {
    /// Quarantines that have come to their end, errors that are forgotten. Cheap where nothing is due: worth doing each
    /// minute.
    Due,
    /// Addresses against which nothing stands, and about which nothing was recorded for long.
    Evidence,
    /// Keys of bounces that will not arrive again.
    Seen,
    /// Old daily counts.
    Strays,
    /// Texts that nobody qualified and nobody meets any more.
    Texts,
}

impl CleanUpStep {
    /// Every step.
    pub const ALL: [Self; 5] = [Self::Due, Self::Evidence, Self::Seen, Self::Strays, Self::Texts];

    /// What this step drops is older than this.
    #[must_use]
    pub fn horizon(self, now: Timestamp) -> Timestamp {
        now.saturating_sub(match self {
            Self::Due => Duration::ZERO,
            Self::Evidence => EVIDENCE_KEPT_FOR,
            Self::Seen => SEEN_KEPT_FOR,
            Self::Strays => STRAYS_KEPT_FOR,
            Self::Texts => TEXTS_KEPT_FOR,
        })
    }
}

/// What a stretch of a step led to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cleaned {
    /// Addresses that changed.
    pub changes: Vec<Change>,
    /// Rows dropped: entries, keys, counts or texts.
    pub dropped: u64,
    /// Call the step again: there is more.
    pub more: bool,
}

/// What the clean-up did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CleanUpReport {
    /// When it began.
    pub began_at: Timestamp,
    /// Quarantines that came to their end.
    pub released: u64,
    /// Addresses whose errors were forgotten.
    pub counts_anew: u64,
    /// Addresses that are not known any more.
    pub forgotten: u64,
    /// Entries of the ledger that were dropped with them.
    pub entries: u64,
    /// Keys of bounces.
    pub seen: u64,
    /// Daily counts.
    pub strays: u64,
    /// Texts.
    pub texts: u64,
    /// Steps that failed, with the fault. They are tried again the next time.
    pub failed: Vec<(CleanUpStep, String)>,
}

impl CleanUpReport {
    /// A report of a clean-up that begins now.
    #[must_use]
    pub fn begin(now: Timestamp) -> Self {
        Self { began_at: now, ..Self::default() }
    }

    /// Takes in a stretch.
    pub fn add(&mut self, step: CleanUpStep, cleaned: &Cleaned) {
        for change in &cleaned.changes {
            match (change.known, change.before.state, change.after.state) {
                (false, ..) => self.forgotten += 1,
                (true, State::Quarantined, after) if after != State::Quarantined => {
                    self.released += 1;
                }
                (true, State::WithErrors, State::Valid) => self.counts_anew += 1,
                _ => {}
            }
        }
        match step {
            CleanUpStep::Due => {}
            CleanUpStep::Evidence => self.entries += cleaned.dropped,
            CleanUpStep::Seen => self.seen += cleaned.dropped,
            CleanUpStep::Strays => self.strays += cleaned.dropped,
            CleanUpStep::Texts => self.texts += cleaned.dropped,
        }
    }

    /// When the next clean-up is due, if it is to be done once a day at this time of the day (UTC).
    #[must_use]
    pub fn next_at(now: Timestamp, time_of_day: Duration) -> Timestamp {
        let midnight = Timestamp::from_secs(now.as_secs() / 86_400 * 86_400);
        let today = midnight + time_of_day;
        if today > now { today } else { today + DAY }
    }
}

impl fmt::Display for CleanUpReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "clean-up of {}: {} released, {} with errors forgotten, {} addresses and {} entries dropped, \
             {} seen bounces, {} daily counts, {} texts dropped",
            self.began_at,
            self.released,
            self.counts_anew,
            self.forgotten,
            self.entries,
            self.seen,
            self.strays,
            self.texts
        )?;
        for (step, fault) in &self.failed {
            write!(out, "; step {step:?} failed: {fault}")?;
        }
        Ok(())
    }
}
