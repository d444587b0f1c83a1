//! Raise, hold or lower: what the record of a source at a provider is worth.

use core::time::Duration;

use mail::id::SourceId;
use mail::time::Timestamp;
use rules::Level;
use serde::{Deserialize, Serialize};

use super::evidence::{Day, GuardReading, GuardVerdict, Guards, PooledComplaints, Tally};

/// The least time between two raises.
pub const RAISE_PAUSE: Duration = Duration::from_secs(48 * 3_600);
/// For so long a level that was lost is not proposed again.
pub const FALL_MEMORY: Duration = Duration::from_secs(14 * 86_400);
/// For so long after a fall, complaints are about mail that was sent before it.
const COMPLAINTS_COME: Duration = Duration::from_secs(86_400);
/// Days that a judgement looks at.
const LOOK_DAYS: u32 = 7;
/// Days with mail that a raise needs.
const RAISE_DAYS: usize = 3;
/// Days of history that level Fast needs.
const FAST_HISTORY: u32 = 30;
/// Days without a block that level Very Fast needs.
const VERY_FAST_PEACE: u32 = 14;

/// What is proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Move {
    /// One level up.
    Raise,
    /// As it is.
    Hold,
    /// One level down, at once.
    Lower,
}

/// The last change of a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastChange {
    /// When.
    pub at: Timestamp,
    /// What the source did there on the day of the change while another level held: no word on this one.
    pub before: Tally,
}

/// What is known about a source at a provider.
#[derive(Clone, Debug)]
pub struct LevelEvidence<'a> {
    /// The source.
    pub source: SourceId,
    /// The name of the rule.
    pub rule: &'a str,
    /// The level in force.
    pub level: Level,
    /// When that level was last changed, and what happened before on that day; `None`: never.
    pub changed: Option<LastChange>,
    /// When it last fell, and from which level; `None`: never.
    pub fell: Option<(Timestamp, Level)>,
    /// The days, rising: what the source did there, and the complaints of the provider.
    pub days: &'a [(Day, Tally, PooledComplaints)],
}

/// A proposal with its figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proposal {
    /// The source.
    pub source: SourceId,
    /// The name of the rule.
    pub rule: String,
    /// What is proposed.
    #[serde(rename = "move")]
    pub step: Move,
    /// The level in force.
    pub from: Level,
    /// The level proposed.
    pub to: Level,
    /// Days with mail among the last seven.
    pub days: usize,
    /// What happened on them.
    pub tally: Tally,
    /// The guards that decide: those of the level in force for a fall, those of the next one for a raise.
    pub guards: Vec<GuardReading>,
    /// How sure the figures are that the move is right, from 0 to 1: for a raise that every guard of the next level
    /// is kept, for a fall that the guard is breached. For a hold, how sure it is that the level in force is kept.
    pub confidence: f64,
    /// In words.
    pub why: String,
}

/// Proposes. `now` is in the day that is going on; that day counts too.
#[must_use]
pub fn propose(evidence: &LevelEvidence<'_>, now: Timestamp) -> Proposal {
    let today = Day::of(now);
    let judged = judged_days(evidence, now);
    let week = Day(today.0.saturating_sub(LOOK_DAYS - 1));
    let (days, tally, complaints) = sum(&judged, week, today);
    let proposal = |step, to, guards: Vec<GuardReading>, confidence: f64, why: String| Proposal {
        source: evidence.source,
        rule: evidence.rule.to_owned(),
        step,
        from: evidence.level,
        to,
        days,
        tally,
        guards,
        confidence,
        why,
    };
    let own = Guards::of(evidence.level);
    let held = own.map_or_else(Vec::new, |own| own.read(&tally, &complaints).to_vec());
    if evidence.level == Level::Custom {
        let why = "at level custom the figures are the operator's".to_owned();
        return proposal(Move::Hold, Level::Custom, held, 1.0, why);
    }
    // A breach within a day or within the week.
    let breached = |one: &&GuardReading| one.verdict == GuardVerdict::Breached;
    let of_day = |guards: Option<Guards>, day: Day| {
        let (_, tally, complaints) = sum(&judged, day, day);
        guards.map_or_else(Vec::new, |guards| guards.read(&tally, &complaints).to_vec())
    };
    let yesterday = Day(today.0.saturating_sub(1));
    let recent = [today, yesterday].map(|day| of_day(own, day));
    let recent = recent.into_iter().find(|day| day.iter().any(|one| breached(&one)));
    let recent = recent.unwrap_or_default();
    if let Some(guard) = recent.iter().find(breached).or_else(|| held.iter().find(breached)) {
        let (to, guard) = (below(evidence.level), *guard);
        let why = format!("a guard of level {} is breached: {guard}", evidence.level);
        let guards = if recent.contains(&guard) { recent } else { held };
        return proposal(Move::Lower, to, guards, 1.0 - guard.sure, why);
    }
    let sure = |guards: &[GuardReading]| guards.iter().map(|one| one.sure).fold(1.0, f64::min);
    let hold = |guards: Vec<GuardReading>, why: String| {
        let confidence = sure(&guards);
        proposal(Move::Hold, evidence.level, guards, confidence, why)
    };
    let Some(next) = above(evidence.level) else {
        let why = match evidence.level {
            Level::Boost => "boost is the highest level".to_owned(),
            level => format!("above {level} there is only boost, which people set"),
        };
        return hold(held, why);
    };
    let changed_at = evidence.changed.map(|changed| changed.at);
    if let Some(changed) = changed_at.filter(|changed| *changed + RAISE_PAUSE > now) {
        let why = format!("the level was changed on {changed}; one level in 48 hours is the most");
        return hold(held, why);
    }
    let again = |fell: &(Timestamp, Level)| fell.1 <= next && fell.0 + FALL_MEMORY > now;
    if let Some((at, from)) = evidence.fell.filter(again) {
        let why = format!("it fell from {from} on {}; not again within 14 days", Day::of(at));
        return hold(held, why);
    }
    if days < RAISE_DAYS {
        return hold(held, format!("{days} days with mail; a raise needs {RAISE_DAYS}"));
    }
    let first = evidence.days.iter().find(|(_, tally, _)| tally.attempts() > 0);
    let history = first.map_or(0, |(day, ..)| today.since(*day));
    if next >= Level::Fast && history < FAST_HISTORY {
        return hold(held, format!("{history} days of history; {next} needs {FAST_HISTORY}"));
    }
    let peace = Day(today.0.saturating_sub(VERY_FAST_PEACE));
    let block = evidence.days.iter().rev().find(|(_, tally, _)| tally.is_block());
    if let Some((day, ..)) = block.filter(|(day, ..)| next >= Level::VeryFast && *day > peace) {
        return hold(
            held,
            format!("blocked on {day}; {next} needs {VERY_FAST_PEACE} days without"),
        );
    }
    let guards = Guards::of(next).unwrap_or(Guards::WARM_UP).read(&tally, &complaints).to_vec();
    if let Some(open) = guards.iter().find(|one| one.verdict != GuardVerdict::Kept) {
        let why = match open.verdict {
            GuardVerdict::Breached => format!("a guard of level {next} is not kept: {open}"),
            _ => format!("too little is known to be sure of level {next}: {open}"),
        };
        return hold(guards, why);
    }
    let lately = [today, yesterday].into_iter().flat_map(|day| of_day(Guards::of(next), day));
    if let Some(guard) = lately.into_iter().find(|one| breached(&one)) {
        return hold(guards, format!("a guard of level {next} was not kept lately: {guard}"));
    }
    let confidence = sure(&guards);
    let figures: Vec<String> = guards.iter().map(ToString::to_string).collect();
    let why = format!("all guards of level {next} are kept: {}", figures.join(", "));
    proposal(Move::Raise, next, guards, confidence, why)
}

/// The days as far as they say something about the level in force. What was tried under another level says nothing, so
/// one bad hour costs one level, however often is asked. Complaints come hours after the mail that they are about, so for
/// a day after a fall, and of the day of the fall at all, they are about the level that was lost.
fn judged_days(
    evidence: &LevelEvidence<'_>,
    now: Timestamp,
) -> Vec<(Day, Tally, PooledComplaints)> {
    let since = evidence.changed.map(|changed| (Day::of(changed.at), changed.before));
    let first = since.map_or(Day(0), |(day, _)| day);
    let fell_at = evidence.fell.map(|(at, _)| at);
    let judged = evidence.days.iter().filter(|(day, ..)| *day >= first);
    let judged = judged.map(|(day, tally, complaints)| {
        let before = since.filter(|(of, _)| of == day);
        let tally = before.map_or(*tally, |(_, before)| tally.without(&before));
        let late = fell_at.is_some_and(|at| *day <= Day::of(at) || at + COMPLAINTS_COME > now);
        (*day, tally, if late { PooledComplaints::default() } else { *complaints })
    });
    judged.collect()
}

/// Sums from one day to another, both included: days with mail, what happened, complaints.
fn sum(
    days: &[(Day, Tally, PooledComplaints)],
    from: Day,
    to: Day,
) -> (usize, Tally, PooledComplaints) {
    let mut found = (0, Tally::default(), PooledComplaints::default());
    for (_, tally, complaints) in days.iter().filter(|(day, ..)| (from..=to).contains(day)) {
        found.0 += usize::from(tally.attempts() > 0);
        found.1.add(tally);
        found.2.complaints += complaints.complaints;
        found.2.sent += complaints.sent;
    }
    found
}

/// The next level that can be earned.
const fn above(level: Level) -> Option<Level> {
    match level {
        Level::Slow => Some(Level::Normal),
        Level::Normal => Some(Level::Fast),
        Level::Fast => Some(Level::VeryFast),
        Level::VeryFast | Level::Boost | Level::Custom => None,
    }
}

/// The level to fall to.
const fn below(level: Level) -> Level {
    match level {
        Level::Boost => Level::VeryFast,
        Level::VeryFast => Level::Fast,
        Level::Fast => Level::Normal,
        Level::Normal | Level::Slow => Level::Slow,
        Level::Custom => Level::Custom,
    }
}
