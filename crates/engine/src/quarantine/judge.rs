//! From everything recorded about an address to where it stands, and why.
//!
//! The ledger is folded in the order of time, from its beginning, each time. So a verdict can be
//! explained, replayed under another policy, and undone by taking entries away.
//!
//! **Rules of the fold.**
//! - Each reason has its own count. The error at which the count reaches the reason's threshold quarantines.
//! - Between two errors of an address that count, whatever their reasons, lies the significance period at
//!   least. An error that quarantines by itself (threshold 1) is not bound by it.
//! - The counts begin anew when the last counted error is `reset_after` old, and with a delivery. A delivery is
//!   no proof when that same message came back: servers take mail first and refuse it later.
//! - A quarantine that ends by itself ends exactly then, and the counts begin anew. During it a
//!   reason that quarantines for good at the first error takes its place.
//! - A complaint denylists, even what is allowlisted: the recipient's wish outranks ours.
//! - A deed outweighs everything before it. But an import, or a quarantine by a person, of what is denylisted
//!   changes nothing: a list from elsewhere knows nothing of the recipient's wish. A release or an
//!   allowlisting ends it.

use mail::failure::{FailureType, Reason};
use mail::id::MessageId;
use mail::time::Timestamp;
use serde::Serialize;

use super::evidence::{Action, Deed, Entry, EntryId, Finding, History, Standing, TextStatus};
use super::policy::Policy;
use super::state::{Cause, Condition, Counts, Imported, State};

/// What an entry did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "verdict")]
pub enum Verdict {
    /// An error that counted.
    Counted {
        /// Which one of its reason it was, from 1.
        error: u8,
        /// The one at which its reason quarantines; 0: it denylisted at once.
        threshold: u8,
    },
    /// A delivery: the counts began anew.
    CountsAnew,
    /// It did nothing.
    NotCounted {
        /// Why.
        why: NotCounted,
    },
}

/// Why an entry did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "why")]
pub enum NotCounted {
    /// It was undone.
    Undone {
        /// By this task.
        task: u64,
    },
    /// The outage guard holds it back.
    HeldByOutageGuard {
        /// The number of the hold.
        hold: u64,
    },
    /// It may be forged.
    NotAuthentic,
    /// A delivery whose message came back.
    CameBack,
    /// Nobody has qualified its text.
    NotQualified,
    /// Its type is Ignored, or its text is to be ignored.
    Ignored,
    /// Its reason never counts.
    ReasonNeverCounts,
    /// Too soon after another error that counted.
    TooSoonAfter {
        /// That error.
        entry: EntryId,
    },
    /// The address was allowlisted.
    Allowlisted,
    /// The address was quarantined already.
    AlreadyQuarantined,
    /// The address was denylisted already.
    AlreadyDenylisted,
}

/// An entry with what it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// Its place in `History::entries`.
    #[serde(skip)]
    pub index: usize,
    /// Its number.
    pub entry: EntryId,
    /// What it did.
    pub verdict: Verdict,
    /// Whether that still matters: no delivery, deed, quiet time or end of a quarantine came since.
    pub current: bool,
}

/// Where an address stands, with every entry in the order of time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// Where it stands.
    pub condition: Condition,
    /// What each entry did.
    pub entries: Vec<Explained>,
}

/// Where the address stands at a moment. What happens later than `now` is taken as having happened.
#[must_use]
pub fn judge(history: &History, policy: &Policy, now: Timestamp) -> Condition {
    fold(history, policy, now, None, |_, _, _| {}).0
}

/// As [`judge`], and what each entry contributed.
#[must_use]
pub fn explain(history: &History, policy: &Policy, now: Timestamp) -> Explanation {
    let mut seen: Vec<(usize, Verdict, u32)> = Vec::with_capacity(history.entries.len());
    let (condition, last) = fold(history, policy, now, None, |index, verdict, epoch| {
        seen.push((index, verdict, epoch));
    });
    let entries = seen
        .into_iter()
        .map(|(index, verdict, epoch)| Explained {
            index,
            entry: history.entries[index].id,
            verdict,
            current: epoch == last,
        })
        .collect();
    Explanation { condition, entries }
}

/// The oldest entry without which the address would stand just where it stands, under this policy.
#[must_use]
pub fn oldest_without_weight(
    history: &History,
    policy: &Policy,
    now: Timestamp,
) -> Option<EntryId> {
    let plain = |condition: Condition| match condition.state {
        // Since when, and thanks to what, nothing stands against it need not be kept.
        State::Valid => Condition { since: Timestamp::EPOCH, cause: Cause::Nothing, ..condition },
        _ => condition,
    };
    let with_all = plain(judge(history, policy, now));
    in_order(history, None).into_iter().find_map(|(_, deed, _, place)| {
        let entry = history.entries.get(place).filter(|_| !deed)?.id;
        let without = fold(history, policy, now, Some(entry), |_, _, _| {}).0;
        (plain(without) == with_all).then_some(entry)
    })
}

/// What holds between two events.
enum Mode {
    /// Errors are counted.
    Open,
    Quarantined {
        until: Option<Timestamp>,
    },
    Denied,
    Allowed,
}

/// The address at a moment of the fold.
struct Fold<'a> {
    policy: &'a Policy,
    mode: Mode,
    counts: Counts,
    last_counted: Option<(Timestamp, EntryId)>,
    reason: Option<Reason>,
    since: Timestamp,
    cause: Cause,
    /// Counts how often everything began anew.
    epoch: u32,
}

impl Fold<'_> {
    /// Nothing stands against the address, and nothing is counted.
    fn begin_anew(&mut self, at: Timestamp, cause: Cause) {
        self.mode = Mode::Open;
        self.counts = Counts::default();
        self.last_counted = None;
        self.reason = None;
        self.since = at;
        self.cause = cause;
        self.epoch += 1;
    }

    /// When the present condition ends by itself.
    fn changes_at(&self) -> Option<Timestamp> {
        match self.mode {
            Mode::Open => self.last_counted.map(|(at, _)| at + self.policy.reset_after),
            Mode::Quarantined { until } => until,
            Mode::Denied | Mode::Allowed => None,
        }
    }

    /// Lets time pass.
    fn pass(&mut self, now: Timestamp) {
        if let Some(end) = self.changes_at().filter(|end| *end <= now) {
            self.begin_anew(end, Cause::Nothing);
        }
    }

    fn enter(&mut self, mode: Mode, reason: Option<Reason>, since: Timestamp, cause: Cause) {
        (self.mode, self.reason, self.since, self.cause) = (mode, reason, since, cause);
    }

    fn act(&mut self, action: &Action) {
        let cause = Cause::Action(action.id);
        if matches!(self.mode, Mode::Denied) && action.deed.yields_to_denylist() {
            return;
        }
        self.begin_anew(action.at, cause);
        match &action.deed {
            Deed::Release => {}
            Deed::Deny | Deed::Unsubscribe => self.mode = Mode::Denied,
            Deed::Allow => self.mode = Mode::Allowed,
            Deed::Quarantine(reason) => {
                let mode = Mode::Quarantined { until: None };
                self.enter(mode, Some(*reason), action.at, cause);
            }
            Deed::Import(imported) => self.import(imported, cause),
        }
    }

    fn import(&mut self, imported: &Imported, cause: Cause) {
        let mode = match imported.state {
            State::Valid | State::WithErrors => Mode::Open,
            State::Quarantined => Mode::Quarantined { until: imported.until },
            State::Denylisted => Mode::Denied,
            State::Allowlisted => Mode::Allowed,
        };
        self.enter(mode, imported.reason, imported.since, cause);
        self.counts = imported.counts;
        // Entry 0 is none: nothing recorded here is "too soon after" it, but the period holds.
        self.last_counted = imported.last_counted_at.map(|at| (at, EntryId(0)));
    }

    /// Takes in one entry. `back`: the messages that came back.
    fn enter_entry(&mut self, entry: &Entry, back: &[(MessageId, Timestamp)]) -> Verdict {
        let why = match entry.standing {
            Standing::Void { task } => NotCounted::Undone { task },
            Standing::Held { hold } => NotCounted::HeldByOutageGuard { hold },
            Standing::Live if !entry.evidence.authentic => NotCounted::NotAuthentic,
            Standing::Live => match &entry.evidence.finding {
                Finding::Failed(_) => return self.fail(entry),
                Finding::Delivered if has_come_back(entry, back) => NotCounted::CameBack,
                Finding::Delivered => return self.deliver(entry),
            },
        };
        Verdict::NotCounted { why }
    }

    fn deliver(&mut self, entry: &Entry) -> Verdict {
        if matches!(self.mode, Mode::Open) {
            self.begin_anew(entry.evidence.at, Cause::Entry(entry.id));
            return Verdict::CountsAnew;
        }
        let why = match self.mode {
            Mode::Denied => NotCounted::AlreadyDenylisted,
            Mode::Allowed => NotCounted::Allowlisted,
            Mode::Open | Mode::Quarantined { .. } => NotCounted::AlreadyQuarantined,
        };
        Verdict::NotCounted { why }
    }

    fn fail(&mut self, entry: &Entry) -> Verdict {
        self.try_fail(entry).unwrap_or_else(|why| Verdict::NotCounted { why })
    }

    fn try_fail(&mut self, entry: &Entry) -> Result<Verdict, NotCounted> {
        let Some((_, meaning)) = entry.failure() else { return Err(NotCounted::Ignored) };
        let (at, cause, reason) = (entry.evidence.at, Cause::Entry(entry.id), meaning.reason);
        if meaning.failure_type == FailureType::Ignored || meaning.status == TextStatus::Ignore {
            return Err(NotCounted::Ignored);
        }
        if meaning.status == TextStatus::ToQualify
            && reason == Reason::NotDefined
            && self.policy.of(reason).quarantine_at.is_none()
        {
            return Err(NotCounted::NotQualified);
        }
        if matches!(self.mode, Mode::Denied) {
            return Err(NotCounted::AlreadyDenylisted);
        }
        if self.policy.of(reason).denylist {
            self.begin_anew(at, cause);
            self.enter(Mode::Denied, Some(reason), at, cause);
            return Ok(Verdict::Counted { error: 1, threshold: 0 });
        }
        let threshold = self.policy.of(reason).threshold(meaning.failure_type);
        let threshold = threshold.ok_or(NotCounted::ReasonNeverCounts)?;
        let for_good = threshold == 1 && self.policy.of(reason).release_after.is_none();
        match self.mode {
            Mode::Allowed => return Err(NotCounted::Allowlisted),
            Mode::Quarantined { until: Some(_) } if for_good => self.begin_anew(at, cause),
            Mode::Quarantined { .. } => return Err(NotCounted::AlreadyQuarantined),
            Mode::Open | Mode::Denied => {}
        }
        if let Some((last, before)) = self.last_counted
            && threshold > 1
            && at.since(last) < self.policy.significance
        {
            return Err(NotCounted::TooSoonAfter { entry: before });
        }
        if self.counts.total() == 0 {
            self.since = at;
        }
        let error = self.counts.add(reason);
        self.last_counted = Some((at, entry.id));
        self.reason = Some(reason);
        self.cause = cause;
        if error >= threshold {
            let until = self.policy.of(reason).release_after.map(|span| at + span);
            self.enter(Mode::Quarantined { until }, Some(reason), at, cause);
        }
        Ok(Verdict::Counted { error, threshold })
    }

    fn condition(&self) -> Condition {
        let state = match self.mode {
            Mode::Open if self.counts.total() > 0 => State::WithErrors,
            Mode::Open => State::Valid,
            Mode::Quarantined { .. } => State::Quarantined,
            Mode::Denied => State::Denylisted,
            Mode::Allowed => State::Allowlisted,
        };
        let until = match self.mode {
            Mode::Quarantined { until } => until,
            _ => None,
        };
        Condition {
            state,
            reason: self.reason,
            since: self.since,
            until,
            counts: self.counts,
            last_counted_at: self.last_counted.map(|(at, _)| at),
            cause: self.cause,
            changes_at: self.changes_at(),
        }
    }
}

/// Messages that came back, each with the last time it did, sorted.
fn came_back(history: &History, without: Option<EntryId>) -> Vec<(MessageId, Timestamp)> {
    let mut back: Vec<_> = history
        .entries
        .iter()
        .filter(|entry| entry.evidence.authentic && without != Some(entry.id))
        .filter_map(|entry| {
            let (_, meaning) = entry.failure()?;
            let failed = meaning.failure_type != FailureType::Ignored;
            failed.then_some((entry.evidence.message?, entry.evidence.at))
        })
        .collect();
    back.sort_unstable();
    back
}

/// Whether the message of a delivery came back, then or later.
fn has_come_back(entry: &Entry, back: &[(MessageId, Timestamp)]) -> bool {
    let Some(message) = entry.evidence.message else { return false };
    let past = back.partition_point(|(id, _)| *id <= message);
    let last = back[..past].last().filter(|(id, _)| *id == message);
    last.is_some_and(|(_, at)| *at >= entry.evidence.at)
}

/// One thing of the history: its time, entries before deeds, its number, its place.
type Happening = (Timestamp, bool, u64, usize);

/// Everything but the entry that is to be left out, in the order of time.
fn in_order(history: &History, without: Option<EntryId>) -> Vec<Happening> {
    let entries = history.entries.iter().enumerate();
    let actions = history.actions.iter().enumerate();
    let mut all: Vec<Happening> = entries
        .filter(|(_, entry)| without != Some(entry.id))
        .map(|(index, entry)| (entry.evidence.at, false, entry.id.0, index))
        .chain(actions.map(|(index, action)| (action.at, true, action.id, index)))
        .collect();
    all.sort_unstable();
    all
}

/// Folds everything but the entry that is to be left out. Tells of each entry what it did, and how
/// often everything had begun anew by then; answers the condition, and how often in all.
fn fold(
    history: &History,
    policy: &Policy,
    now: Timestamp,
    without: Option<EntryId>,
    mut tell: impl FnMut(usize, Verdict, u32),
) -> (Condition, u32) {
    let mut fold = Fold {
        policy,
        mode: Mode::Open,
        counts: Counts::default(),
        last_counted: None,
        reason: None,
        since: Timestamp::EPOCH,
        cause: Cause::Nothing,
        epoch: 0,
    };
    let back = came_back(history, without);
    for (at, deed, _, index) in in_order(history, without) {
        fold.pass(at);
        if deed {
            fold.act(&history.actions[index]);
            // What an import brings may have ended before it came.
            fold.pass(at);
            continue;
        }
        let verdict = fold.enter_entry(&history.entries[index], &back);
        tell(index, verdict, fold.epoch);
    }
    fold.pass(now);
    (fold.condition(), fold.epoch)
}
