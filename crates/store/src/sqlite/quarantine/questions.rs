//! Questions to the ledger's tables that the writes ask.

use engine::quarantine::{
    Action, AddressRecord, CleanUpStep, Condition, Entry, EntryId, Evidence, Failure, Finding,
    History, HoldRecord, Qualification, Selection, TaskRecord, TextKey, TextRecord, Work,
};
use mail::id::{DeliveryId, MessageId};
use mail::time::Timestamp;
use rusqlite::{OptionalExtension, Row, params};

use super::super::codec::{column, floor_ms, moment, number};
use super::{Answer, Tables, codec};
use crate::quarantine::{Cursor, LedgerRows, Scanned, StoredTask};

pub(super) const ADDRESS: &str = "address, state, reason, since, until, counts, last_counted_at, \
     cause, cause_id, changes_at, created_at, changed_at, last_entry_at";
const ENTRY: &str = "e.id, e.at, e.provider, e.delivery_id, e.message_id, e.channel, e.authentic, \
     e.standing, e.standing_by, e.text, e.reply, e.reason, e.type, e.status, e.rule, e.version, \
     t.person_reason, t.person_type, t.person_status";
pub(super) const TEXT: &str = "key, normalised, first_raw, reason, type, status, rule, version, \
     person_reason, person_type, person_status, qualified_by, occurrences, first_at, last_at, host";
pub(super) const HOLD: &str =
    "id, provider, doubted_since, tripped_at, usual, sudden, ended_at, ending, who, why";
pub(super) const TASK: &str = "id, work, who, why, started_at, addresses, cursor_at, cursor_id";

pub(super) fn moment_of(row: &Row<'_>, at: usize) -> Answer<Timestamp> {
    Ok(moment(row.get(at)?))
}

fn maybe_moment(row: &Row<'_>, at: usize) -> Answer<Option<Timestamp>> {
    Ok(row.get::<_, Option<i64>>(at)?.map(moment))
}

pub(super) fn read_address(row: &Row<'_>, at: usize) -> Answer<AddressRecord> {
    let reason: Option<i64> = row.get(at + 2)?;
    Ok(AddressRecord {
        address: row.get(at)?,
        condition: Condition {
            state: codec::state(row.get(at + 1)?)?,
            reason: reason.map(codec::reason).transpose()?,
            since: moment_of(row, at + 3)?,
            until: maybe_moment(row, at + 4)?,
            counts: codec::counts(row.get_ref(at + 5)?.as_blob()?)?,
            last_counted_at: maybe_moment(row, at + 6)?,
            cause: codec::cause(row.get(at + 7)?, row.get(at + 8)?)?,
            changes_at: maybe_moment(row, at + 9)?,
        },
        created_at: moment_of(row, at + 10)?,
        changed_at: moment_of(row, at + 11)?,
        last_entry_at: moment_of(row, at + 12)?,
    })
}

fn read_person(row: &Row<'_>, at: usize) -> Answer<Option<Qualification>> {
    let Some(reason) = row.get(at)? else { return Ok(None) };
    codec::qualification(reason, row.get(at + 1)?, row.get(at + 2)?).map(Some)
}

fn read_entry(row: &Row<'_>, address: Box<str>) -> Answer<Entry> {
    let text: Option<[u8; 16]> = row.get(9)?;
    let finding = match text {
        None => Finding::Delivered,
        Some(text) => Finding::Failed(Failure {
            text: TextKey(text),
            reply: row.get(10)?,
            qualification: codec::qualification(row.get(11)?, row.get(12)?, row.get(13)?)?,
            rule: row.get(14)?,
            version: row.get(15)?,
        }),
    };
    let id = |at: usize| row.get::<_, Option<i64>>(at)?.map(number).transpose();
    Ok(Entry {
        id: EntryId(number(row.get(0)?)?),
        evidence: Evidence {
            address,
            provider: row.get(2)?,
            at: moment_of(row, 1)?,
            delivery: id(3)?.map(DeliveryId),
            message: id(4)?.map(MessageId),
            channel: codec::channel(row.get(5)?)?,
            authentic: row.get(6)?,
            finding,
        },
        standing: codec::standing(row.get(7)?, row.get(8)?)?,
        person: read_person(row, 16)?,
    })
}

pub(super) fn read_text(row: &Row<'_>) -> Answer<TextRecord> {
    Ok(TextRecord {
        key: TextKey(row.get(0)?),
        normalised: row.get(1)?,
        first_raw: row.get(2)?,
        by_rule: codec::qualification(row.get(3)?, row.get(4)?, row.get(5)?)?,
        rule: row.get(6)?,
        version: row.get(7)?,
        by_person: read_person(row, 8)?,
        qualified_by: row.get(11)?,
        occurrences: row.get(12)?,
        first_at: moment_of(row, 13)?,
        last_at: moment_of(row, 14)?,
        host: row.get(15)?,
    })
}

pub(super) fn read_hold(row: &Row<'_>) -> Answer<HoldRecord> {
    let ended = match (maybe_moment(row, 6)?, row.get::<_, Option<i64>>(7)?) {
        (Some(at), Some(end)) => Some((at, codec::hold_end(end)?)),
        _ => None,
    };
    Ok(HoldRecord {
        hold: number(row.get(0)?)?,
        provider: row.get(1)?,
        doubted_since: moment_of(row, 2)?,
        tripped_at: moment_of(row, 3)?,
        usual_permille: row.get(4)?,
        sudden_permille: row.get(5)?,
        ended,
        who: row.get(8)?,
        why: row.get(9)?,
    })
}

pub(super) fn read_task(row: &Row<'_>) -> Answer<StoredTask> {
    Ok(StoredTask {
        record: TaskRecord {
            task: number(row.get(0)?)?,
            work: codec::from_json(row.get_ref(1)?.as_str()?)?,
            who: row.get(2)?,
            why: row.get(3)?,
            started_at: moment_of(row, 4)?,
            addresses: number(row.get(5)?)?,
        },
        cursor: (row.get(6)?, number(row.get(7)?)?),
    })
}

impl LedgerRows for Tables<'_> {
    type Fault = rusqlite::Error;

    fn find_address(&self, folded: &str) -> Answer<Option<(u64, AddressRecord)>> {
        let statement = format!("SELECT id, {ADDRESS} FROM address WHERE address = ?1");
        let mut select = self.connection.prepare_cached(&statement)?;
        select
            .query_row([folded], |row| Ok((number(row.get(0)?)?, read_address(row, 1)?)))
            .optional()
    }

    fn address_by_id(&self, id: u64) -> Answer<Option<AddressRecord>> {
        let statement = format!("SELECT {ADDRESS} FROM address WHERE id = ?1");
        let mut select = self.connection.prepare_cached(&statement)?;
        select.query_row([column(id)], |row| read_address(row, 0)).optional()
    }

    fn history_of(&self, id: u64, address: &str) -> Answer<History> {
        let statement = format!(
            "SELECT {ENTRY} FROM evidence e LEFT JOIN text t ON t.key = e.text \
             WHERE e.address_id = ?1 ORDER BY e.id"
        );
        let mut select = self.connection.prepare_cached(&statement)?;
        let entries = select.query_map([column(id)], |row| read_entry(row, address.into()))?;
        let entries = entries.collect::<Answer<_>>()?;
        let mut select = self.connection.prepare_cached(
            "SELECT id, at, deed, who, why FROM action WHERE address_id = ?1 ORDER BY id",
        )?;
        let actions = select.query_map([column(id)], |row| {
            Ok(Action {
                id: number(row.get(0)?)?,
                at: moment_of(row, 1)?,
                deed: codec::from_json(row.get_ref(2)?.as_str()?)?,
                who: row.get(3)?,
                why: row.get(4)?,
            })
        })?;
        Ok(History { entries, actions: actions.collect::<Answer<_>>()? })
    }

    fn address_of_entry(&self, entry: EntryId) -> Answer<Option<u64>> {
        let mut select =
            self.connection.prepare_cached("SELECT address_id FROM evidence WHERE id = ?1")?;
        select.query_row([column(entry.0)], |row| number(row.get(0)?)).optional()
    }

    fn find_text(&self, key: TextKey) -> Answer<Option<TextRecord>> {
        let statement = format!("SELECT {TEXT} FROM text WHERE key = ?1");
        let mut select = self.connection.prepare_cached(&statement)?;
        select.query_row([key.0], read_text).optional()
    }

    fn find_task(&self, task: u64) -> Answer<Option<StoredTask>> {
        let statement = format!("SELECT {TASK} FROM task WHERE id = ?1");
        let mut select = self.connection.prepare_cached(&statement)?;
        select.query_row([column(task)], read_task).optional()
    }

    fn find_hold(&self, hold: u64) -> Answer<Option<HoldRecord>> {
        let statement = format!("SELECT {HOLD} FROM hold WHERE id = ?1");
        let mut select = self.connection.prepare_cached(&statement)?;
        select.query_row([column(hold)], read_hold).optional()
    }

    fn scan(&self, work: &Work, after: Cursor, limit: u32) -> Answer<Vec<Scanned>> {
        match work {
            Work::Undo { selection } | Work::Hold { selection, .. } => {
                self.scan_time(selection, after, limit)
            }
            Work::Text { key } => self.scan_entries("e.text = ?1", &key.0, after, limit),
            Work::Restore { task } => {
                let which = "e.standing = 2 AND e.standing_by = ?1";
                self.scan_entries(which, &column(*task), after, limit)
            }
            Work::Confirm { hold } | Work::Dismiss { hold } => {
                let which = "e.standing = 1 AND e.standing_by = ?1";
                self.scan_entries(which, &column(*hold), after, limit)
            }
            Work::Everyone => {
                let mut select = self
                    .connection
                    .prepare_cached("SELECT id FROM address WHERE id > ?1 ORDER BY id LIMIT ?2")?;
                let rows = select.query_map(params![column(after.1), limit], |row| {
                    let id = number(row.get(0)?)?;
                    Ok(Scanned { cursor: (0, id), address: id, entry: None })
                })?;
                rows.collect()
            }
        }
    }

    fn ripe(&self, step: CleanUpStep, before: Timestamp, limit: u32) -> Answer<Vec<u64>> {
        let mut select = self.connection.prepare_cached(match step {
            CleanUpStep::Evidence => {
                "SELECT id FROM address WHERE state = 0 AND last_entry_at < ?1 \
                 ORDER BY last_entry_at LIMIT ?2"
            }
            _ => {
                "SELECT id FROM address WHERE changes_at IS NOT NULL AND changes_at <= ?1 \
                 ORDER BY changes_at LIMIT ?2"
            }
        })?;
        let rows = select.query_map(params![floor_ms(before), limit], |row| number(row.get(0)?))?;
        rows.collect()
    }
}

impl Tables<'_> {
    fn scan_rows(
        &self,
        statement: &str,
        values: impl rusqlite::Params,
        by_time: bool,
    ) -> Answer<Vec<Scanned>> {
        let mut select = self.connection.prepare_cached(statement)?;
        let rows = select.query_map(values, |row| {
            let entry = read_entry(row, row.get(20)?)?;
            let at = if by_time { floor_ms(entry.evidence.at) } else { 0 };
            let address = number(row.get(19)?)?;
            Ok(Scanned { cursor: (at, entry.id.0), address, entry: Some(entry) })
        })?;
        rows.collect()
    }

    /// Entries of a selection's window, by time; the rest of the selection is not looked at.
    pub(super) fn scan_time(
        &self,
        selection: &Selection,
        after: Cursor,
        limit: u32,
    ) -> Answer<Vec<Scanned>> {
        let statement = format!(
            "SELECT {ENTRY}, e.address_id, a.address FROM evidence e \
             JOIN address a ON a.id = e.address_id LEFT JOIN text t ON t.key = e.text \
             WHERE (e.at, e.id) > (?1, ?2) AND e.at < ?3 ORDER BY e.at, e.id LIMIT ?4"
        );
        // As `Selection::window_contains` compares them.
        let from = floor_ms(selection.from);
        let end = floor_ms(selection.to);
        let after = if after.0 < from { (from - 1, i64::MAX) } else { (after.0, column(after.1)) };
        self.scan_rows(&statement, params![after.0, after.1, end, limit], true)
    }

    fn scan_entries(
        &self,
        which: &str,
        value: &dyn rusqlite::ToSql,
        after: Cursor,
        limit: u32,
    ) -> Answer<Vec<Scanned>> {
        let statement = format!(
            "SELECT {ENTRY}, e.address_id, a.address FROM evidence e \
             JOIN address a ON a.id = e.address_id LEFT JOIN text t ON t.key = e.text \
             WHERE {which} AND e.id > ?2 ORDER BY e.id LIMIT ?3"
        );
        self.scan_rows(&statement, params![value, column(after.1), limit], false)
    }
}
