//! The ledger of evidence: what each write does, over rows that either store keeps.
//!
//! **Promise.** Whatever a write touches is judged again before the write is answered, so that the row
//! of an address is always [`engine::quarantine::judge()`] of its entries and deeds. Times are
//! kept in milliseconds, rounded down, here and not in the stores, so that both judge the same.
//!
//! **How.** [`LedgerRows`] and [`LedgerRowsMut`] are the few questions and changes that a store must know. All
//! semantics are in [`Ledger`], written once.
//!
//! **Invariants.** A text is counted once for each entry; a bounce with a key that was seen changes
//! nothing but a daily count. An address has at most `ENTRIES_KEPT` entries and `ACTIONS_KEPT` deeds.

mod apply;
pub(crate) mod bounds;
mod tasks;

use engine::quarantine::{
    Action, AddressRecord, CleanUpStep, Condition, EntryId, Evidence, History, HoldRecord,
    Qualification, SeenKey, Standing, Stray, Suppressed, SuppressionRecord, TaskRecord, TextKey,
    TextRecord, Work,
};
use mail::time::Timestamp;

use crate::words::{AuditEntry, RefusedWrite};

pub(crate) use apply::Ledger;
pub(crate) use tasks::{histories, preview, selected};

/// How far a task has come: a time (or 0), and the number of an entry or an address.
pub(crate) type Cursor = (i64, u64);

/// A task as it is stored.
pub(crate) struct StoredTask {
    pub(crate) record: TaskRecord,
    pub(crate) cursor: Cursor,
}

/// One step of a task's way.
pub(crate) struct Scanned {
    pub(crate) cursor: Cursor,
    pub(crate) address: u64,
    /// The entry; `None` where the way leads over addresses.
    pub(crate) entry: Option<engine::quarantine::Entry>,
}

/// The questions.
pub(crate) trait LedgerRows {
    /// What can go wrong in the store.
    type Fault;

    fn find_address(&self, folded: &str) -> Result<Option<(u64, AddressRecord)>, Self::Fault>;
    fn address_by_id(&self, id: u64) -> Result<Option<AddressRecord>, Self::Fault>;
    /// Entries with what a person has said of their texts, and deeds.
    fn history_of(&self, id: u64, address: &str) -> Result<History, Self::Fault>;
    fn address_of_entry(&self, entry: EntryId) -> Result<Option<u64>, Self::Fault>;
    fn find_text(&self, key: TextKey) -> Result<Option<TextRecord>, Self::Fault>;
    fn find_task(&self, task: u64) -> Result<Option<StoredTask>, Self::Fault>;
    fn find_hold(&self, hold: u64) -> Result<Option<HoldRecord>, Self::Fault>;
    /// The next entries (or addresses) on a task's way, whether or not it concerns them.
    fn scan(&self, work: &Work, after: Cursor, limit: u32) -> Result<Vec<Scanned>, Self::Fault>;
    /// Addresses that a step of the clean-up deals with.
    fn ripe(
        &self,
        step: CleanUpStep,
        before: Timestamp,
        limit: u32,
    ) -> Result<Vec<u64>, Self::Fault>;
}

/// The changes.
pub(crate) trait LedgerRowsMut: LedgerRows {
    fn insert_address(&mut self, record: &AddressRecord) -> Result<u64, Self::Fault>;
    fn update_address(&mut self, id: u64, record: &AddressRecord) -> Result<(), Self::Fault>;
    /// Drops it with its entries and deeds; answers how many entries.
    fn delete_address(&mut self, id: u64) -> Result<u64, Self::Fault>;
    fn insert_entry(
        &mut self,
        address: u64,
        evidence: &Evidence,
        standing: Standing,
    ) -> Result<EntryId, Self::Fault>;
    fn delete_entry(&mut self, entry: EntryId) -> Result<(), Self::Fault>;
    fn set_standing(&mut self, entry: EntryId, standing: Standing) -> Result<(), Self::Fault>;
    fn set_qualification(
        &mut self,
        entry: EntryId,
        meaning: Qualification,
        rule: &str,
        version: &str,
    ) -> Result<(), Self::Fault>;
    /// Its number is given here, whatever stands in it.
    fn insert_action(&mut self, address: u64, action: &Action) -> Result<u64, Self::Fault>;
    fn delete_action(&mut self, action: u64) -> Result<(), Self::Fault>;
    /// Remembers a key. Answers whether it was new.
    fn see(&mut self, key: SeenKey, at: Timestamp) -> Result<bool, Self::Fault>;
    /// Inserts or replaces.
    fn put_text(&mut self, record: &TextRecord, new: bool) -> Result<(), Self::Fault>;
    fn text_count(&self) -> Result<u64, Self::Fault>;
    fn add_stray(&mut self, kind: Stray, day: u32, count: u32) -> Result<(), Self::Fault>;
    /// Its number is given here, whatever stands in it.
    fn insert_task(&mut self, record: &TaskRecord) -> Result<u64, Self::Fault>;
    fn update_task(&mut self, task: u64, cursor: Cursor, addresses: u64)
    -> Result<(), Self::Fault>;
    fn delete_task(&mut self, task: u64) -> Result<(), Self::Fault>;
    /// What is there already stays as it is.
    fn insert_suppression(&mut self, record: &SuppressionRecord) -> Result<(), Self::Fault>;
    fn delete_suppression(&mut self, entry: &Suppressed) -> Result<(), Self::Fault>;
    fn put_hold(&mut self, record: &HoldRecord) -> Result<(), Self::Fault>;
    /// Holds that ended, beyond the newest so many.
    fn prune_holds(&mut self, keep: u32) -> Result<(), Self::Fault>;
    fn audit(&mut self, entry: &AuditEntry) -> Result<(), Self::Fault>;
    /// Drops at most so many rows of a step that has no addresses; answers how many.
    fn prune(
        &mut self,
        step: CleanUpStep,
        before: Timestamp,
        limit: u32,
    ) -> Result<u64, Self::Fault>;
}

/// Why a write did not come to its end.
pub(crate) enum Halt<F> {
    /// It was refused, before anything was changed.
    Refused(RefusedWrite),
    /// The store failed.
    Fault(F),
}

impl<F> From<F> for Halt<F> {
    fn from(fault: F) -> Self {
        Self::Fault(fault)
    }
}

/// A moment in whole milliseconds, rounded down, as it is stored.
pub(crate) fn in_millis(at: Timestamp) -> Timestamp {
    Timestamp::from_millis(at.as_millis())
}

/// A condition with all its moments as they are stored.
pub(crate) fn condition_in_millis(condition: &Condition) -> Condition {
    Condition {
        since: in_millis(condition.since),
        until: condition.until.map(in_millis),
        last_counted_at: condition.last_counted_at.map(in_millis),
        changes_at: condition.changes_at.map(in_millis),
        ..*condition
    }
}
