//! What people decide about levels while the program runs.
//!
//! **Promise.** Every decision is kept with who, when and why; none is changed or forgotten while it
//! counts. A decision can have an end, and [`Level::Boost`] always has one. When a decision ends or
//! is undone, what it hid holds again: an earlier decision about the same thing that has not ended,
//! else what the configuration says. An undoing is a decision too and can itself be undone.
//!
//! **How.** Decisions are a list in the order in which they were made. At a moment, one *stands* for
//! each scope: the latest that is neither undone nor over. [`LevelDecisions::over`] lays those that
//! stand over the levels of the configuration. Nothing happens at an end: whoever asks later gets
//! another answer, so an end needs no process that runs at that moment.
//! [`LevelDecisions::next_end`] says when to ask again.
//!
//! **Bounds.** [`DECISIONS_KEPT`] decisions are kept; beyond, the oldest that has ended, is undone,
//! or is hidden by one without an end is forgotten, and if there is none, a new one is refused.

use core::fmt;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use mail::id::SourceId;
use mail::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::level::Level;
use crate::levels::{LevelOrigin, Levels};

/// How long [`Level::Boost`] lasts when nothing else is said.
pub const BOOST_LASTS: Duration = Duration::from_secs(24 * 3_600);
/// The shortest that a decision with an end may last.
const LASTS_LEAST: Duration = Duration::from_secs(60);
/// The longest that a decision with an end may last.
const LASTS_MOST: Duration = Duration::from_secs(366 * 86_400);
/// The longest that Boost may last.
const BOOST_LASTS_MOST: Duration = Duration::from_secs(7 * 86_400);
/// Decisions that are kept.
const DECISIONS_KEPT: usize = 1_000;
/// Octets of a name and of a reason.
const WHO_LIMIT: usize = 200;
const WHY_LIMIT: usize = 1_000;

/// Whose level it is, leaving the provider aside.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LevelSubject {
    /// Every source.
    Everything,
    /// The sources of an affinity.
    Affinity(String),
    /// One source.
    Source(SourceId),
}

/// What a decision is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LevelScope {
    /// Whose level.
    pub subject: LevelSubject,
    /// At this rule; `None`: at all.
    pub rule: Option<String>,
}

impl fmt::Display for LevelScope {
    /// `everything`, `source 3`, `affinity news at google`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            LevelSubject::Everything => out.write_str("everything")?,
            LevelSubject::Affinity(name) => write!(out, "affinity {name}")?,
            LevelSubject::Source(source) => write!(out, "source {}", source.0)?,
        }
        match &self.rule {
            Some(rule) => write!(out, " at {rule}"),
            None => Ok(()),
        }
    }
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LevelChange {
    /// This level holds.
    Set {
        /// Where.
        scope: LevelScope,
        /// Which.
        level: Level,
        /// Until then; `None`: until another decision.
        until: Option<Timestamp>,
    },
    /// What the configuration says holds, whatever was decided before.
    AsConfigured {
        /// Where.
        scope: LevelScope,
    },
    /// An earlier decision does not count.
    Undo {
        /// Its number.
        decision: u64,
    },
}

impl LevelChange {
    /// A level from `now` on, for so long; Boost lasts [`BOOST_LASTS`] when nothing is said.
    #[must_use]
    pub fn set(scope: LevelScope, level: Level, lasts: Option<Duration>, now: Timestamp) -> Self {
        let lasts = lasts.or((level == Level::Boost).then_some(BOOST_LASTS));
        Self::Set { scope, level, until: lasts.map(|lasts| now + lasts) }
    }

    /// What it is about; `None` for an undoing.
    #[must_use]
    pub const fn scope(&self) -> Option<&LevelScope> {
        match self {
            Self::Set { scope, .. } | Self::AsConfigured { scope } => Some(scope),
            Self::Undo { .. } => None,
        }
    }
}

/// A decision with its circumstances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LevelDecision {
    /// Its number, from 1. Never used twice.
    pub number: u64,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub who: String,
    /// Why.
    pub why: String,
    /// What.
    pub change: LevelChange,
}

/// What has become of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DecisionStanding {
    /// It holds, as far as nothing more particular does.
    InForce,
    /// A later one about the same thing hides it.
    Hidden {
        /// The number of that one.
        by: u64,
    },
    /// Its time is over.
    Ended,
    /// It was undone.
    Undone {
        /// The number of the undoing.
        by: u64,
    },
    /// It is an undoing, and was carried out.
    Done,
}

/// A level that holds in spite of a decision, because it is set for something more particular.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotReached {
    /// What it is set for.
    pub scope: LevelScope,
    /// The level that holds there.
    pub level: Level,
    /// The number of the decision that says so; `None`: the configuration does.
    pub decision: Option<u64>,
    /// When that decision ends; `None`: not by itself.
    pub until: Option<Timestamp>,
}

/// Why a decision is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecisionFault {
    /// Nothing to undo.
    #[error("there is no decision {0}, or it is forgotten; see the history")]
    Unknown(u64),
    /// It is undone already.
    #[error("decision {number} is undone already, by decision {by}; undo that one to have it back")]
    AlreadyUndone {
        /// The decision.
        number: u64,
        /// What undid it.
        by: u64,
    },
    /// The end is not one that can be meant.
    #[error("{level} can be set for a minute to {} days", .most.as_secs() / 86_400)]
    Lasts {
        /// The level.
        level: Level,
        /// The longest.
        most: Duration,
    },
    /// Nobody, no reason, or more words than anybody reads.
    #[error("say {what} in 1 to {most} characters, without line ends")]
    Words {
        /// `who decides` or `why`.
        what: &'static str,
        /// The most.
        most: usize,
    },
    /// Too many decisions stand.
    #[error("{DECISIONS_KEPT} decisions stand; undo some, or write them into the configuration")]
    Full,
}

/// All decisions, in the order in which they were made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LevelDecisions {
    next: u64,
    kept: Vec<LevelDecision>,
}

impl Default for LevelDecisions {
    fn default() -> Self {
        Self { next: 1, kept: Vec::new() }
    }
}

impl LevelDecisions {
    /// All that are kept, oldest first.
    #[must_use]
    pub fn all(&self) -> &[LevelDecision] {
        &self.kept
    }

    /// Takes a decision at `now` and answers its number.
    ///
    /// # Errors
    /// Nothing is changed by a decision that is refused.
    pub fn decide(
        &mut self,
        change: LevelChange,
        who: &str,
        why: &str,
        now: Timestamp,
    ) -> Result<u64, DecisionFault> {
        for (what, text, most) in [("who decides", who, WHO_LIMIT), ("why", why, WHY_LIMIT)] {
            if text.trim().is_empty() || text.len() > most || text.contains(char::is_control) {
                return Err(DecisionFault::Words { what, most });
            }
        }
        match &change {
            LevelChange::Set { level, until, .. } => {
                let most = if *level == Level::Boost { BOOST_LASTS_MOST } else { LASTS_MOST };
                // The end was reckoned when the request came, a moment before now.
                let least = LASTS_LEAST - Duration::from_secs(10);
                let good = match until {
                    Some(until) => (least..=most).contains(&until.since(now)),
                    None => *level != Level::Boost,
                };
                if !good {
                    return Err(DecisionFault::Lasts { level: *level, most });
                }
            }
            LevelChange::AsConfigured { .. } => {}
            LevelChange::Undo { decision } => {
                if !self.kept.iter().any(|one| one.number == *decision) {
                    return Err(DecisionFault::Unknown(*decision));
                }
                if let Some(by) = self.undone().get(decision) {
                    return Err(DecisionFault::AlreadyUndone { number: *decision, by: *by });
                }
            }
        }
        if self.kept.len() >= DECISIONS_KEPT {
            self.forget_one(now)?;
        }
        let number = self.next;
        self.next += 1;
        self.kept.push(LevelDecision {
            number,
            at: now,
            who: who.trim().to_owned(),
            why: why.trim().to_owned(),
            change,
        });
        Ok(number)
    }

    /// Which decisions are undone, and by which.
    fn undone(&self) -> BTreeMap<u64, u64> {
        let mut undone = BTreeMap::new();
        // From the latest: whether an undoing counts is known before what it undoes is met.
        for one in self.kept.iter().rev() {
            if let LevelChange::Undo { decision } = one.change
                && !undone.contains_key(&one.number)
            {
                undone.insert(decision, one.number);
            }
        }
        undone
    }

    /// What has become of each decision by `now`, in their order.
    #[must_use]
    pub fn standings(&self, now: Timestamp) -> Vec<(&LevelDecision, DecisionStanding)> {
        let undone = self.undone();
        let mut standing: BTreeMap<&LevelScope, u64> = BTreeMap::new();
        let mut found: Vec<(&LevelDecision, DecisionStanding)> = Vec::new();
        for one in self.kept.iter().rev() {
            let state = match (&one.change, undone.get(&one.number)) {
                (_, Some(by)) => DecisionStanding::Undone { by: *by },
                (LevelChange::Undo { .. }, None) => DecisionStanding::Done,
                (LevelChange::Set { until: Some(until), .. }, None) if *until <= now => {
                    DecisionStanding::Ended
                }
                (LevelChange::Set { scope, .. } | LevelChange::AsConfigured { scope }, None) => {
                    match standing.get(scope) {
                        Some(by) => DecisionStanding::Hidden { by: *by },
                        None => {
                            standing.insert(scope, one.number);
                            DecisionStanding::InForce
                        }
                    }
                }
            };
            found.push((one, state));
        }
        found.reverse();
        found
    }

    /// The decisions that hold at `now`, laid over the levels of the configuration.
    #[must_use]
    pub fn over(&self, configured: &Levels, now: Timestamp) -> Levels {
        let mut levels = configured.clone();
        for (one, state) in self.standings(now) {
            if let (LevelChange::Set { scope, level, .. }, DecisionStanding::InForce) =
                (&one.change, state)
            {
                put(&mut levels, scope, *level);
            }
        }
        levels
    }

    /// Where a decision about `scope` does not reach: everything more particular within it that is set to another level
    /// than `level` (`None`: to any level), by a decision or by the configuration. The most particular come first.
    #[must_use]
    pub fn not_reached(
        &self,
        configured: &Levels,
        scope: &LevelScope,
        level: Option<Level>,
        now: Timestamp,
    ) -> Vec<NotReached> {
        let held = self.over(configured, now);
        let standings = self.standings(now);
        let decided = |wanted: &LevelScope| {
            standings.iter().find_map(|(one, state)| match &one.change {
                LevelChange::Set { scope, until, .. }
                    if *state == DecisionStanding::InForce && scope == wanted =>
                {
                    Some((one.number, *until))
                }
                _ => None,
            })
        };
        let mut found: Vec<NotReached> = particular(&held)
            .into_iter()
            .filter(|(other, set)| Some(*set) != level && hides(other, scope, &held))
            .map(|(other, level)| {
                let decided = decided(&other);
                let (decision, until) =
                    (decided.map(|(one, _)| one), decided.and_then(|(_, end)| end));
                NotReached { scope: other, level, decision, until }
            })
            .collect();
        found.sort_by_key(|one| one.scope.rank());
        found
    }

    /// Undoes every decision that a decision about `scope` does not reach, and what each of them hid in turn, so that
    /// afterwards only what the configuration says is left. Answers the numbers of what was undone, rising.
    ///
    /// # Errors
    /// As [`LevelDecisions::decide`]; the list may be changed in part then, so decide on a copy.
    pub fn clear_particular(
        &mut self,
        configured: &Levels,
        scope: &LevelScope,
        who: &str,
        why: &str,
        now: Timestamp,
    ) -> Result<Vec<u64>, DecisionFault> {
        let mut undone = BTreeSet::new();
        for _ in 0..DECISIONS_KEPT {
            let standing = self.not_reached(configured, scope, None, now);
            let numbers: Vec<u64> = standing.iter().filter_map(|one| one.decision).collect();
            if numbers.is_empty() {
                break;
            }
            for decision in numbers {
                self.decide(LevelChange::Undo { decision }, who, why, now)?;
                undone.insert(decision);
            }
        }
        Ok(undone.into_iter().collect())
    }

    /// When a level to which a source falls at a rule should end by itself; `None`: not before another decision.
    ///
    /// It ends with what it takes the place of: otherwise a fall from Boost would outlast Boost, and hold the source
    /// higher than it was before. But it does not end where a higher level than `to` would come after it, other than
    /// Custom, for which the operator answers.
    #[must_use]
    pub fn end_of_fall(
        &self,
        configured: &Levels,
        (source, rule): (SourceId, &str),
        to: Level,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let held = self.over(configured, now);
        let (level, origin) = held.of(rule, source);
        let mine =
            |name: &String| held.affinities.get(name).is_some_and(|all| all.contains(&source));
        let decides = |scope: &LevelScope| {
            let at = scope.rule.is_some();
            scope.rule.as_ref().is_none_or(|name| name == rule)
                && match (&scope.subject, origin) {
                    (LevelSubject::Source(one), LevelOrigin::SourceAndRule) => at && *one == source,
                    (LevelSubject::Affinity(name), LevelOrigin::AffinityAndRule) => {
                        at && mine(name)
                    }
                    (LevelSubject::Everything, LevelOrigin::Rule) => at,
                    (LevelSubject::Source(one), LevelOrigin::Source) => !at && *one == source,
                    (LevelSubject::Affinity(name), LevelOrigin::Affinity) => !at && mine(name),
                    (LevelSubject::Everything, LevelOrigin::Default) => !at,
                    _ => false,
                }
        };
        let ends = self.standings(now).into_iter().filter_map(|(one, state)| match &one.change {
            LevelChange::Set { scope, level: set, until } if decides(scope) && *set == level => {
                (state == DecisionStanding::InForce).then_some(*until)?
            }
            _ => None,
        });
        let end = ends.min()?;
        let after = self.over(configured, end).of(rule, source).0;
        let may_end = after <= to || after == Level::Custom;
        // A decision lasts a minute at least, and one that is nearly over is not worth less.
        may_end.then(|| end.max(now + LASTS_LEAST))
    }

    /// The next moment after `now` at which [`LevelDecisions::over`] may answer otherwise.
    #[must_use]
    pub fn next_end(&self, now: Timestamp) -> Option<Timestamp> {
        let ends = self.standings(now).into_iter().filter_map(|(one, state)| match &one.change {
            LevelChange::Set { until, .. } if state == DecisionStanding::InForce => *until,
            _ => None,
        });
        ends.min()
    }

    /// The moments at which something changed, up to `now`, rising: each decision and each end.
    #[must_use]
    pub fn moments(&self, now: Timestamp) -> Vec<Timestamp> {
        let ends = self.kept.iter().filter_map(|one| match &one.change {
            LevelChange::Set { until, .. } => *until,
            _ => None,
        });
        let all: BTreeSet<Timestamp> =
            self.kept.iter().map(|one| one.at).chain(ends).filter(|at| *at <= now).collect();
        all.into_iter().collect()
    }

    /// The decisions that had been made by `then`: for the levels of the past.
    #[must_use]
    pub fn as_of(&self, then: Timestamp) -> Self {
        let kept = self.kept.iter().filter(|one| one.at <= then).cloned().collect();
        Self { next: self.next, kept }
    }

    /// Forgets the oldest decision that cannot hold any more: ended, or undone together with what
    /// undid it, or hidden by one without an end.
    fn forget_one(&mut self, now: Timestamp) -> Result<(), DecisionFault> {
        let standings = self.standings(now);
        let lasting = |number: u64| {
            let change = &standings.iter().find(|(one, _)| one.number == number)?.0.change;
            Some(!matches!(change, LevelChange::Set { until: Some(_), .. }))
        };
        let gone = standings.iter().find(|(_, state)| match state {
            DecisionStanding::InForce => false,
            DecisionStanding::Hidden { by } => lasting(*by).unwrap_or(true),
            DecisionStanding::Ended | DecisionStanding::Undone { .. } => true,
            // Without it, what it undid would hold again, unless that is gone already.
            DecisionStanding::Done => false,
        });
        let gone = gone.map(|(one, _)| one.number).or_else(|| {
            let known: BTreeSet<u64> = self.kept.iter().map(|one| one.number).collect();
            self.kept.iter().find_map(|one| match one.change {
                LevelChange::Undo { decision } if !known.contains(&decision) => Some(one.number),
                _ => None,
            })
        });
        let gone = gone.ok_or(DecisionFault::Full)?;
        self.kept.retain(|one| one.number != gone);
        Ok(())
    }
}

impl LevelScope {
    /// How particular it is: 1 is the most, as [`Levels`] has it.
    const fn rank(&self) -> u8 {
        match (&self.subject, self.rule.is_some()) {
            (LevelSubject::Source(_), true) => 1,
            (LevelSubject::Affinity(_), true) => 2,
            (LevelSubject::Everything, true) => 3,
            (LevelSubject::Source(_), false) => 4,
            (LevelSubject::Affinity(_), false) => 5,
            (LevelSubject::Everything, false) => 6,
        }
    }
}

/// Whether there is a source and a rule for which `other` holds instead of `scope`.
fn hides(other: &LevelScope, scope: &LevelScope, levels: &Levels) -> bool {
    let rules = match (&other.rule, &scope.rule) {
        (Some(one), Some(two)) => one == two,
        _ => true,
    };
    let sources = |name: &String| levels.affinities.get(name).cloned().unwrap_or_default();
    let subjects = match (&other.subject, &scope.subject) {
        (LevelSubject::Everything, _) | (_, LevelSubject::Everything) => true,
        (LevelSubject::Source(one), LevelSubject::Source(two)) => one == two,
        (LevelSubject::Source(one), LevelSubject::Affinity(name))
        | (LevelSubject::Affinity(name), LevelSubject::Source(one)) => sources(name).contains(one),
        (LevelSubject::Affinity(one), LevelSubject::Affinity(two)) => {
            one == two || !sources(one).is_disjoint(&sources(two))
        }
    };
    rules && subjects && other.rank() < scope.rank()
}

/// Every level that is set for less than everything.
fn particular(levels: &Levels) -> Vec<(LevelScope, Level)> {
    let scope = |subject, rule: Option<&String>| LevelScope { subject, rule: rule.cloned() };
    let affinity = |name: &String| LevelSubject::Affinity(name.clone());
    let mut found: Vec<(LevelScope, Level)> = Vec::new();
    for (source, rules) in &levels.per_source_and_rule {
        let subject = || LevelSubject::Source(*source);
        found.extend(rules.iter().map(|(rule, level)| (scope(subject(), Some(rule)), *level)));
    }
    for (name, rules) in &levels.per_affinity_and_rule {
        found.extend(rules.iter().map(|(rule, level)| (scope(affinity(name), Some(rule)), *level)));
    }
    let everything = || LevelSubject::Everything;
    found.extend(
        levels.per_rule.iter().map(|(rule, level)| (scope(everything(), Some(rule)), *level)),
    );
    let sources = levels.per_source.iter();
    found.extend(
        sources.map(|(source, level)| (scope(LevelSubject::Source(*source), None), *level)),
    );
    found.extend(
        levels.per_affinity.iter().map(|(name, level)| (scope(affinity(name), None), *level)),
    );
    found
}

/// Sets the level of a scope.
fn put(levels: &mut Levels, scope: &LevelScope, level: Level) {
    match (&scope.subject, scope.rule.clone()) {
        (LevelSubject::Everything, None) => levels.default = level,
        (LevelSubject::Everything, Some(rule)) => drop(levels.per_rule.insert(rule, level)),
        (LevelSubject::Affinity(name), None) => {
            levels.per_affinity.insert(name.clone(), level);
        }
        (LevelSubject::Affinity(name), Some(rule)) => {
            levels.per_affinity_and_rule.entry(name.clone()).or_default().insert(rule, level);
        }
        (LevelSubject::Source(source), None) => drop(levels.per_source.insert(*source, level)),
        (LevelSubject::Source(source), Some(rule)) => {
            levels.per_source_and_rule.entry(*source).or_default().insert(rule, level);
        }
    }
}

#[cfg(test)]
mod tests;
