//! Questions about the ledger to the maps.

use core::convert::Infallible;

use engine::quarantine::{
    AddressFilter, AddressRecord, Assumption, Difference, Entry, History, HoldRecord, Mark,
    Selection, State, Stray, Suppressed, SuppressionRecord, TaskRecord, TextFilter, TextKey,
    TextRecord, Work,
};
use mail::failure::Reason;
use mail::time::Timestamp;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Bound;

use super::MemoryStore;
use crate::fault::StoreFault;
use crate::ledger_reads::{AddressHistory, AddressMark, LedgerPlace, LedgerReads};
use crate::quarantine::{LedgerRows as _, histories, preview, selected};

type Answer<T> = Result<T, StoreFault>;

fn sure<T>(Ok(answer): Result<T, Infallible>) -> T {
    answer
}

impl LedgerReads for MemoryStore {
    fn address(&self, folded: &str) -> Answer<Option<AddressRecord>> {
        Ok(sure(self.shelf.find_address(folded)).map(|(_, record)| record))
    }

    fn history(&self, folded: &str) -> Answer<History> {
        let found = sure(self.shelf.find_address(folded));
        Ok(found.map_or_else(History::default, |(id, _)| sure(self.shelf.history_of(id, folded))))
    }

    fn addresses(
        &self,
        filter: &AddressFilter,
        after: u64,
        limit: u32,
    ) -> Answer<Vec<(u64, AddressRecord)>> {
        let later = self.shelf.addresses.range(after.saturating_add(1)..);
        let wanted = later.filter(|(_, record)| filter.takes(record)).take(limit as usize);
        Ok(wanted.map(|(id, record)| (*id, record.clone())).collect())
    }

    fn marks(&self, after: u64, limit: u32) -> Answer<Vec<AddressMark>> {
        let later = self.shelf.addresses.range(after.saturating_add(1)..).take(limit as usize);
        Ok(later
            .map(|(id, record)| AddressMark {
                id: *id,
                address: record.address.clone(),
                mark: Mark::from(&record.condition),
            })
            .collect())
    }

    fn address_counts(&self) -> Answer<Vec<(State, Option<Reason>, u64)>> {
        let mut counts: BTreeMap<(State, Option<Reason>), u64> = BTreeMap::new();
        for record in self.shelf.addresses.values() {
            *counts.entry((record.condition.state, record.condition.reason)).or_default() += 1;
        }
        Ok(counts.into_iter().map(|((state, reason), count)| (state, reason, count)).collect())
    }

    fn entries(
        &self,
        selection: &Selection,
        after: LedgerPlace,
        limit: u32,
    ) -> Answer<(Vec<Entry>, Option<LedgerPlace>)> {
        Ok(sure(selected(&self.shelf, selection, after, limit)))
    }

    fn preview(
        &self,
        work: &Work,
        assumption: &Assumption,
        after: LedgerPlace,
        limit: u32,
        now: Timestamp,
    ) -> Answer<(Difference, Option<LedgerPlace>)> {
        Ok(sure(preview(&self.shelf, work, assumption, after, limit, now)))
    }

    fn text(&self, key: TextKey) -> Answer<Option<TextRecord>> {
        Ok(self.shelf.texts.get(&key).cloned())
    }

    fn texts(
        &self,
        filter: TextFilter,
        after: Option<(u32, TextKey)>,
        limit: u32,
    ) -> Answer<Vec<TextRecord>> {
        let rank = |text: &TextRecord| (Reverse(text.occurrences), text.key);
        let after = after.map(|(occurrences, key)| (Reverse(occurrences), key));
        let mut texts: Vec<TextRecord> = self
            .shelf
            .texts
            .values()
            .filter(|text| filter.takes(text) && after.is_none_or(|after| rank(text) > after))
            .cloned()
            .collect();
        texts.sort_by_key(rank);
        texts.truncate(limit as usize);
        Ok(texts)
    }

    fn texts_by_key(&self, after: Option<TextKey>, limit: u32) -> Answer<Vec<TextRecord>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let later = self.shelf.texts.range((from, Bound::Unbounded)).take(limit as usize);
        Ok(later.map(|(_, text)| text.clone()).collect())
    }

    fn histories(&self, after: u64, limit: u32) -> Answer<Vec<AddressHistory>> {
        Ok(sure(histories(&self.shelf, after, limit)))
    }

    fn strays(&self, since_day: u32) -> Answer<Vec<(u32, Stray, u64)>> {
        let later = self.shelf.strays.iter().filter(|((day, _), _)| *day >= since_day);
        Ok(later.map(|((day, kind), count)| (*day, *kind, *count)).collect())
    }

    fn tasks(&self) -> Answer<Vec<TaskRecord>> {
        Ok(self.shelf.tasks.values().map(|(record, _)| record.clone()).collect())
    }

    fn holds(&self, limit: u32) -> Answer<Vec<HoldRecord>> {
        Ok(self.shelf.holds.values().rev().take(limit as usize).cloned().collect())
    }

    fn suppressions(
        &self,
        after: Option<&Suppressed>,
        limit: u32,
    ) -> Answer<Vec<SuppressionRecord>> {
        let lower = after.map_or(Bound::Unbounded, Bound::Excluded);
        let later = self.shelf.suppressions.range::<Suppressed, _>((lower, Bound::Unbounded));
        Ok(later.take(limit as usize).map(|(_, record)| record.clone()).collect())
    }
}
