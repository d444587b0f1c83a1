//! What people and the start of a node ask of the ledger's tables, by page.

use engine::quarantine::{
    AddressFilter, AddressRecord, HoldRecord, Mark, State, Stray, Suppressed, SuppressionRecord,
    TaskRecord, TextFilter, TextKey, TextRecord,
};
use mail::failure::Reason;
use rusqlite::params;

use super::super::codec::{column, number};
use super::questions::{
    ADDRESS, HOLD, TASK, TEXT, moment_of, read_address, read_hold, read_task, read_text,
};
use super::{Answer, Tables, codec};
use crate::ledger_reads::AddressMark;

impl Tables<'_> {
    /// Addresses with a higher number that the filter takes, with their numbers.
    pub(crate) fn addresses(
        &self,
        filter: &AddressFilter,
        after: u64,
        limit: u32,
    ) -> Answer<Vec<(u64, AddressRecord)>> {
        let statement = format!(
            "SELECT id, {ADDRESS} FROM address WHERE id > ?1 \
             AND (?2 IS NULL OR state = ?2) AND (?3 IS NULL OR reason = ?3) \
             AND (?4 IS NULL OR domain = ?4) ORDER BY id LIMIT ?5"
        );
        let mut select = self.connection.prepare_cached(&statement)?;
        let values = params![
            column(after),
            filter.state.map(codec::state_code),
            filter.reason.map(codec::reason_code),
            filter.domain,
            limit
        ];
        let rows =
            select.query_map(values, |row| Ok((number(row.get(0)?)?, read_address(row, 1)?)))?;
        rows.collect()
    }

    /// What the admission set needs of addresses with a higher number.
    pub(crate) fn marks(&self, after: u64, limit: u32) -> Answer<Vec<AddressMark>> {
        let mut select = self.connection.prepare_cached(
            "SELECT id, address, state, reason FROM address WHERE id > ?1 ORDER BY id LIMIT ?2",
        )?;
        let rows = select.query_map(params![column(after), limit], |row| {
            let reason: Option<i64> = row.get(3)?;
            let reason = reason.map(codec::reason).transpose()?;
            Ok(AddressMark {
                id: number(row.get(0)?)?,
                address: row.get(1)?,
                mark: Mark::of(codec::state(row.get(2)?)?, reason),
            })
        })?;
        rows.collect()
    }

    /// How many addresses are in which state for which reason.
    pub(crate) fn address_counts(&self) -> Answer<Vec<(State, Option<Reason>, u64)>> {
        let mut select = self.connection.prepare_cached(
            "SELECT state, reason, count(*) FROM address GROUP BY state, reason \
             ORDER BY state, reason",
        )?;
        let rows = select.query_map([], |row| {
            let reason: Option<i64> = row.get(1)?;
            let reason = reason.map(codec::reason).transpose()?;
            Ok((codec::state(row.get(0)?)?, reason, number(row.get(2)?)?))
        })?;
        rows.collect()
    }

    /// Texts, the most frequent first.
    pub(crate) fn texts(
        &self,
        filter: TextFilter,
        after: Option<(u32, TextKey)>,
        limit: u32,
    ) -> Answer<Vec<TextRecord>> {
        let (occurrences, key) = match after {
            Some((occurrences, key)) => (i64::from(occurrences), key.0.to_vec()),
            None => (i64::from(u32::MAX) + 1, Vec::new()),
        };
        let statement = format!(
            "SELECT {TEXT} FROM text WHERE (-occurrences, key) > (?1, ?2) \
             AND (?3 IS NULL OR coalesce(person_status, status) = ?3) \
             AND (NOT ?4 OR person_reason IS NOT NULL) ORDER BY -occurrences, key LIMIT ?5"
        );
        let mut select = self.connection.prepare_cached(&statement)?;
        let status = filter.status.map(codec::status_code);
        let values = params![-occurrences, key, status, filter.by_person, limit];
        let rows = select.query_map(values, read_text)?;
        rows.collect()
    }

    /// Texts in the order of their keys.
    pub(crate) fn texts_by_key(
        &self,
        after: Option<TextKey>,
        limit: u32,
    ) -> Answer<Vec<TextRecord>> {
        let statement = format!("SELECT {TEXT} FROM text WHERE key > ?1 ORDER BY key LIMIT ?2");
        let mut select = self.connection.prepare_cached(&statement)?;
        // Nothing is before the empty key.
        let after = after.map_or_else(Vec::new, |key| key.0.to_vec());
        select.query_map(params![after, limit], read_text)?.collect()
    }

    /// Daily counts from a day on.
    pub(crate) fn strays(&self, since_day: u32) -> Answer<Vec<(u32, Stray, u64)>> {
        let mut select = self.connection.prepare_cached(
            "SELECT day, kind, count FROM stray WHERE day >= ?1 ORDER BY day, kind",
        )?;
        let rows = select.query_map([since_day], |row| {
            Ok((row.get(0)?, codec::stray(row.get(1)?)?, number(row.get(2)?)?))
        })?;
        rows.collect()
    }

    /// Tasks that are not done, by number.
    pub(crate) fn tasks(&self) -> Answer<Vec<TaskRecord>> {
        let statement = format!("SELECT {TASK} FROM task ORDER BY id");
        let mut select = self.connection.prepare_cached(&statement)?;
        let rows = select.query_map([], |row| Ok(read_task(row)?.record))?;
        rows.collect()
    }

    /// Holds, the newest first.
    pub(crate) fn holds(&self, limit: u32) -> Answer<Vec<HoldRecord>> {
        let statement = format!("SELECT {HOLD} FROM hold ORDER BY id DESC LIMIT ?1");
        let mut select = self.connection.prepare_cached(&statement)?;
        let rows = select.query_map([limit], read_hold)?;
        rows.collect()
    }

    /// The suppression list after an entry.
    pub(crate) fn suppressions(
        &self,
        after: Option<&Suppressed>,
        limit: u32,
    ) -> Answer<Vec<SuppressionRecord>> {
        let after = after.map(codec::suppressed_blob).unwrap_or_default();
        let mut select = self.connection.prepare_cached(
            "SELECT entry, at, who, why FROM suppression WHERE entry > ?1 ORDER BY entry LIMIT ?2",
        )?;
        let rows = select.query_map(params![after, limit], |row| {
            Ok(SuppressionRecord {
                entry: codec::suppressed(row.get_ref(0)?.as_blob()?)?,
                at: moment_of(row, 1)?,
                who: row.get(2)?,
                why: row.get(3)?,
            })
        })?;
        rows.collect()
    }
}
