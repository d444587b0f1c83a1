//! Warm-up: how much a new source may send each day, and which level its record has earned.
//!
//! **Promise.** Two mechanisms, which never replace one another:
//!
//! - A [`WarmUpPlan`] caps a source over all providers by the number of its *sending days*: 20 messages in
//!   the first hour, 1.4 times as many with every day that counts, at most half of a day's mail at one provider, less
//!   where a provider states less. The ledger holds the caps in every sliding hour and day.
//! - [`propose`] looks at what a source experienced at a provider and proposes to raise, hold or lower its
//!   [`Level`](rules::Level), with the figures and how sure they make it.
//!
//! **How.** Everything is reckoned from [`Tally`]s, one for each source, rule and day (UTC). A share is compared
//! with its guard by a score interval (Wilson's): a guard is *kept* or *breached* only when the interval of 95 % lies
//! wholly on one side of it; between, nobody knows yet, and nothing is changed.
//!
//! **Absences.** No clock, no store, no counter: days and tallies are arguments. The same arguments give the same
//! answer, so a month takes a moment to test.

mod evidence;
mod plan;
mod proposal;

#[cfg(test)]
mod tests;

pub use evidence::{Day, GuardKind, GuardReading, GuardVerdict, Guards, PooledComplaints, Tally};
pub use plan::{DayNote, PastDays, PlanFault, ScheduledDay, WarmUpPlan, WarmUpState};
pub use proposal::{FALL_MEMORY, LastChange, LevelEvidence, Move, Proposal, RAISE_PAUSE, propose};
