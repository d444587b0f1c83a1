//! Questions about the ledger, on the connection that reads.

use engine::quarantine::{
    AddressFilter, AddressRecord, Assumption, Difference, Entry, History, HoldRecord, Selection,
    State, Stray, Suppressed, SuppressionRecord, TaskRecord, TextFilter, TextKey, TextRecord, Work,
};
use mail::failure::Reason;
use mail::time::Timestamp;

use super::quarantine::Tables;
use super::reads::SqliteReads;
use crate::fault::StoreFault;
use crate::ledger_reads::{AddressHistory, AddressMark, LedgerPlace, LedgerReads};
use crate::quarantine::{LedgerRows as _, histories, preview, selected};

type Answer<T> = Result<T, StoreFault>;

impl SqliteReads {
    fn tables<T>(&self, question: impl Fn(&Tables<'_>) -> rusqlite::Result<T>) -> Answer<T> {
        self.ask(|connection| question(&Tables { connection }))
    }
}

impl LedgerReads for SqliteReads {
    fn address(&self, folded: &str) -> Answer<Option<AddressRecord>> {
        self.tables(|tables| Ok(tables.find_address(folded)?.map(|(_, record)| record)))
    }

    fn history(&self, folded: &str) -> Answer<History> {
        self.tables(|tables| match tables.find_address(folded)? {
            None => Ok(History::default()),
            Some((id, _)) => tables.history_of(id, folded),
        })
    }

    fn addresses(
        &self,
        filter: &AddressFilter,
        after: u64,
        limit: u32,
    ) -> Answer<Vec<(u64, AddressRecord)>> {
        self.tables(|tables| tables.addresses(filter, after, limit))
    }

    fn marks(&self, after: u64, limit: u32) -> Answer<Vec<AddressMark>> {
        self.tables(|tables| tables.marks(after, limit))
    }

    fn address_counts(&self) -> Answer<Vec<(State, Option<Reason>, u64)>> {
        self.tables(|tables| tables.address_counts())
    }

    fn entries(
        &self,
        selection: &Selection,
        after: LedgerPlace,
        limit: u32,
    ) -> Answer<(Vec<Entry>, Option<LedgerPlace>)> {
        self.tables(|tables| selected(tables, selection, after, limit))
    }

    fn preview(
        &self,
        work: &Work,
        assumption: &Assumption,
        after: LedgerPlace,
        limit: u32,
        now: Timestamp,
    ) -> Answer<(Difference, Option<LedgerPlace>)> {
        self.tables(|tables| preview(tables, work, assumption, after, limit, now))
    }

    fn text(&self, key: TextKey) -> Answer<Option<TextRecord>> {
        self.tables(|tables| tables.find_text(key))
    }

    fn texts(
        &self,
        filter: TextFilter,
        after: Option<(u32, TextKey)>,
        limit: u32,
    ) -> Answer<Vec<TextRecord>> {
        self.tables(|tables| tables.texts(filter, after, limit))
    }

    fn texts_by_key(&self, after: Option<TextKey>, limit: u32) -> Answer<Vec<TextRecord>> {
        self.tables(|tables| tables.texts_by_key(after, limit))
    }

    fn histories(&self, after: u64, limit: u32) -> Answer<Vec<AddressHistory>> {
        self.tables(|tables| histories(tables, after, limit))
    }

    fn strays(&self, since_day: u32) -> Answer<Vec<(u32, Stray, u64)>> {
        self.tables(|tables| tables.strays(since_day))
    }

    fn tasks(&self) -> Answer<Vec<TaskRecord>> {
        self.tables(|tables| tables.tasks())
    }

    fn holds(&self, limit: u32) -> Answer<Vec<HoldRecord>> {
        self.tables(|tables| tables.holds(limit))
    }

    fn suppressions(
        &self,
        after: Option<&Suppressed>,
        limit: u32,
    ) -> Answer<Vec<SuppressionRecord>> {
        self.tables(|tables| tables.suppressions(after, limit))
    }
}
