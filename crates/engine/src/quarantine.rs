//! Which addresses are written to, decided from what is recorded about them.
//!
//! **Promise.** There is no counter that somebody increments. There is a ledger of evidence, and
//! [`judge()`] folds it, under a [`Policy`], into the [`Condition`] of an address; [`explain()`] says what
//! each entry contributed. So every verdict can be explained, replayed and undone.
//!
//! **How it goes together.** The shell hands each final reply and each bounce to [`Desk`], which asks the
//! [`OutageGuard`] and answers with a [`LedgerWrite`] and alerts. The store carries the write out, judges the
//! addresses that it touches in the same transaction, and answers with [`Change`]s. These go into the
//! [`AdmissionSet`], which every intake and every attempt asks. Undoing in bulk, a changed
//! qualification and a changed policy are [`Work`] of durable tasks, with a preview. What other rules would do is tried
//! by [`Trial`], which writes nothing.
//!
//! **Invariants.**
//! - What the store holds about an address is `judge` of its ledger, as of its last write.
//! - The admission set after a restart is the one before it.
//! - What is not authentic never changes a condition.
//!
//! **Absences.** No clock: time is an argument. Nothing here grows without a bound: [`ENTRIES_KEPT`] entries an
//! address, a bounded number of providers in the guard, 16 to 25 octets an address in the
//! admission set.

mod admission;
mod cleanup;
pub mod csv;
mod desk;
mod evidence;
mod guard;
mod judge;
mod ledger;
mod policy;
mod rejudging;
mod state;
mod suppression;
mod task;
mod trial;

#[cfg(test)]
mod tests;

pub use admission::{AdmissionSet, Mark, Refusal};
pub use cleanup::{
    CleanUpReport, CleanUpStep, Cleaned, EVIDENCE_KEPT_FOR, SEEN_KEPT_FOR, SESSION_SEEN_KEPT_FOR,
    STRAYS_KEPT_FOR, TEXTS_KEPT_FOR,
};
pub use desk::{Alert, Desk, Outcome};
pub use evidence::{
    Action, ActionId, Channel, Deed, Entry, EntryId, Evidence, Failure, Finding, History,
    Qualification, Standing, TextKey, TextStatus,
};
pub use guard::{GuardAlert, GuardSettings, OutageGuard, ProviderDay};
pub use judge::{
    Explained, Explanation, NotCounted, Verdict, explain, judge, oldest_without_weight,
};
pub use ledger::{
    ACTIONS_KEPT, AddressFilter, AddressRecord, Author, ENTRIES_KEPT, HOLDS_KEPT, HoldEnd,
    HoldRecord, LedgerWrite, LedgerWritten, MetText, NewEntry, OCCURRENCES_LIMIT, REPLY_LIMIT,
    Recorded, SeenKey, Stray, SuppressionRecord, TEXT_LIMIT, TEXTS_KEPT, TaskRecord, TextFilter,
    TextRecord, WRITE_LIMIT, Worked,
};
pub use policy::{Policy, PolicyFault, ReasonPolicy};
pub use rejudging::{Anew, Rejudging};
pub use state::{Cause, Condition, Counts, Imported, State};
pub use suppression::{AddressHash, DomainMask, NotAHash, PublishedList, Suppressed};
pub use task::{Assumption, Change, Difference, EXAMPLES, Selection, Work, work_on};
pub use trial::{
    Addresses, Doubt, Entries, HoldTrial, Reclassified, Said, TEXTS_LISTED, TextChange, Texts,
    Trial, TrialReport,
};
