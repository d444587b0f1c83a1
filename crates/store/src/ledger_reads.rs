//! Questions about the ledger of evidence.

use engine::quarantine::{
    AddressFilter, AddressRecord, Assumption, Difference, Entry, History, HoldRecord, Mark,
    Selection, State, Stray, Suppressed, SuppressionRecord, TaskRecord, TextFilter, TextKey,
    TextRecord, Work,
};
use mail::failure::Reason;
use mail::time::Timestamp;

use crate::fault::StoreFault;

/// Where the next page begins. The default is before everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LedgerPlace(pub(crate) i64, pub(crate) u64);

/// What the admission set needs to know about an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressMark {
    /// Its number in this store: where the next page begins.
    pub id: u64,
    /// The folded address.
    pub address: Box<str>,
    /// State and reason.
    pub mark: Mark,
}

/// All that is recorded about an address.
#[derive(Clone, Debug, PartialEq)]
pub struct AddressHistory {
    /// Its number in this store: where the next page begins.
    pub id: u64,
    /// Its row.
    pub record: AddressRecord,
    /// Its entries and deeds.
    pub history: History,
}

/// Questions about the ledger of evidence. Every list is bounded by a limit that the caller gives, or by nature.
pub trait LedgerReads {
    /// What is known about a folded address.
    ///
    /// # Errors
    /// The database cannot be read.
    fn address(&self, folded: &str) -> Result<Option<AddressRecord>, StoreFault>;

    /// All that is recorded about a folded address.
    ///
    /// # Errors
    /// The database cannot be read.
    fn history(&self, folded: &str) -> Result<History, StoreFault>;

    /// Addresses with a number above `after` (0: from the beginning), by number.
    ///
    /// # Errors
    /// The database cannot be read.
    fn addresses(
        &self,
        filter: &AddressFilter,
        after: u64,
        limit: u32,
    ) -> Result<Vec<(u64, AddressRecord)>, StoreFault>;

    /// The same for the admission set, as quickly as possible.
    ///
    /// # Errors
    /// The database cannot be read.
    fn marks(&self, after: u64, limit: u32) -> Result<Vec<AddressMark>, StoreFault>;

    /// How many addresses are in which state for which reason.
    ///
    /// # Errors
    /// The database cannot be read.
    fn address_counts(&self) -> Result<Vec<(State, Option<Reason>, u64)>, StoreFault>;

    /// Entries that a selection takes, by time, among the next `limit` of its window; and where to go on.
    ///
    /// # Errors
    /// The database cannot be read.
    fn entries(
        &self,
        selection: &Selection,
        after: LedgerPlace,
        limit: u32,
    ) -> Result<(Vec<Entry>, Option<LedgerPlace>), StoreFault>;

    /// What a task would do, one stretch of it; and where to go on.
    ///
    /// # Errors
    /// The database cannot be read.
    fn preview(
        &self,
        work: &Work,
        assumption: &Assumption,
        after: LedgerPlace,
        limit: u32,
        now: Timestamp,
    ) -> Result<(Difference, Option<LedgerPlace>), StoreFault>;

    /// What is known about a text.
    ///
    /// # Errors
    /// The database cannot be read.
    fn text(&self, key: TextKey) -> Result<Option<TextRecord>, StoreFault>;

    /// Texts, the most frequent first, after the one with these occurrences and this key. Takes time in
    /// proportion to all texts.
    ///
    /// # Errors
    /// The database cannot be read.
    fn texts(
        &self,
        filter: TextFilter,
        after: Option<(u32, TextKey)>,
        limit: u32,
    ) -> Result<Vec<TextRecord>, StoreFault>;

    /// Texts after a key, in the order of their keys: for whoever looks through all of them.
    ///
    /// # Errors
    /// The database cannot be read.
    fn texts_by_key(
        &self,
        after: Option<TextKey>,
        limit: u32,
    ) -> Result<Vec<TextRecord>, StoreFault>;

    /// All that is recorded about the addresses with a number above `after` (0: from the beginning), by number.
    ///
    /// # Errors
    /// The database cannot be read.
    fn histories(&self, after: u64, limit: u32) -> Result<Vec<AddressHistory>, StoreFault>;

    /// Daily counts of what changed nothing, from a day (since 1970-01-01) on.
    ///
    /// # Errors
    /// The database cannot be read.
    fn strays(&self, since_day: u32) -> Result<Vec<(u32, Stray, u64)>, StoreFault>;

    /// Tasks that are not done, by number. They are to be worked off in this order.
    ///
    /// # Errors
    /// The database cannot be read.
    fn tasks(&self) -> Result<Vec<TaskRecord>, StoreFault>;

    /// Holds of the outage guard, the newest first.
    ///
    /// # Errors
    /// The database cannot be read.
    fn holds(&self, limit: u32) -> Result<Vec<HoldRecord>, StoreFault>;

    /// The suppression list after an entry: hashes first, then domains.
    ///
    /// # Errors
    /// The database cannot be read.
    fn suppressions(
        &self,
        after: Option<&Suppressed>,
        limit: u32,
    ) -> Result<Vec<SuppressionRecord>, StoreFault>;
}
