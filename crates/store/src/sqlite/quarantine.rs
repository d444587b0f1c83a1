//! The rows of the ledger in SQLite.

mod codec;
mod lists;
mod questions;

use engine::quarantine::{
    Action, AddressRecord, CleanUpStep, EntryId, Evidence, Finding, HoldRecord, Qualification,
    SeenKey, Standing, Stray, Suppressed, SuppressionRecord, TaskRecord, TextRecord,
};
use mail::time::Timestamp;
use rusqlite::{Connection, params};

use super::codec::{column, floor_ms, number};
use crate::quarantine::{Cursor, LedgerRowsMut};
use crate::words::AuditEntry;
use codec::{
    cause_code, channel_code, counts_blob, end_code, reason_code, standing_code, state_code,
    status_code, stray_code, suppressed_blob, type_code,
};

type Answer<T> = rusqlite::Result<T>;

/// The tables of one connection.
pub(crate) struct Tables<'a> {
    pub(crate) connection: &'a Connection,
}

impl Tables<'_> {
    fn execute(&self, statement: &str, values: impl rusqlite::Params) -> Answer<usize> {
        self.connection.prepare_cached(statement)?.execute(values)
    }

    fn inserted(&self) -> Answer<u64> {
        number(self.connection.last_insert_rowid())
    }
}

impl LedgerRowsMut for Tables<'_> {
    fn insert_address(&mut self, record: &AddressRecord) -> Answer<u64> {
        let domain = record.address.rsplit_once('@').map_or("", |(_, domain)| domain);
        self.execute(
            "INSERT INTO address (address, domain, state, since, counts, cause, cause_id, \
             created_at, changed_at, last_entry_at) VALUES (?1, ?2, 0, 0, x'', 0, 0, ?3, ?3, ?3)",
            params![record.address, domain, floor_ms(record.created_at)],
        )?;
        self.inserted()
    }

    fn update_address(&mut self, id: u64, record: &AddressRecord) -> Answer<()> {
        let condition = &record.condition;
        let (cause, cause_id) = cause_code(condition.cause);
        self.execute(
            "UPDATE address SET state = ?2, reason = ?3, since = ?4, until = ?5, counts = ?6, \
             last_counted_at = ?7, cause = ?8, cause_id = ?9, changes_at = ?10, changed_at = ?11, \
             last_entry_at = ?12 WHERE id = ?1",
            params![
                column(id),
                state_code(condition.state),
                condition.reason.map(reason_code),
                floor_ms(condition.since),
                condition.until.map(floor_ms),
                counts_blob(&condition.counts),
                condition.last_counted_at.map(floor_ms),
                cause,
                column(cause_id),
                condition.changes_at.map(floor_ms),
                floor_ms(record.changed_at),
                floor_ms(record.last_entry_at),
            ],
        )?;
        Ok(())
    }

    fn delete_address(&mut self, id: u64) -> Answer<u64> {
        let id = column(id);
        let entries = self.execute("DELETE FROM evidence WHERE address_id = ?1", [id])?;
        self.execute("DELETE FROM action WHERE address_id = ?1", [id])?;
        self.execute("DELETE FROM address WHERE id = ?1", [id])?;
        Ok(entries as u64)
    }

    fn insert_entry(
        &mut self,
        address: u64,
        evidence: &Evidence,
        standing: Standing,
    ) -> Answer<EntryId> {
        let (standing, by) = standing_code(standing);
        let failure = match &evidence.finding {
            Finding::Delivered => None,
            Finding::Failed(failure) => Some(failure),
        };
        self.execute(
            "INSERT INTO evidence (address_id, at, provider, delivery_id, message_id, channel, \
             authentic, standing, standing_by, text, reply, reason, type, status, rule, version) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
            params![
                column(address),
                floor_ms(evidence.at),
                evidence.provider,
                evidence.delivery.map(|id| column(id.0)),
                evidence.message.map(|id| column(id.0)),
                channel_code(evidence.channel),
                evidence.authentic,
                standing,
                column(by),
                failure.map(|failure| failure.text.0),
                failure.map(|failure| &*failure.reply),
                failure.map(|failure| reason_code(failure.qualification.reason)),
                failure.map(|failure| type_code(failure.qualification.failure_type)),
                failure.map(|failure| status_code(failure.qualification.status)),
                failure.map(|failure| &*failure.rule),
                failure.map(|failure| &*failure.version),
            ],
        )?;
        self.inserted().map(EntryId)
    }

    fn delete_entry(&mut self, entry: EntryId) -> Answer<()> {
        self.execute("DELETE FROM evidence WHERE id = ?1", [column(entry.0)]).map(drop)
    }

    fn set_standing(&mut self, entry: EntryId, standing: Standing) -> Answer<()> {
        let (standing, by) = standing_code(standing);
        self.execute(
            "UPDATE evidence SET standing = ?2, standing_by = ?3 WHERE id = ?1",
            params![column(entry.0), standing, column(by)],
        )
        .map(drop)
    }

    fn set_qualification(
        &mut self,
        entry: EntryId,
        meaning: Qualification,
        rule: &str,
        version: &str,
    ) -> Answer<()> {
        self.execute(
            "UPDATE evidence SET reason = ?2, type = ?3, status = ?4, rule = ?5, version = ?6 \
             WHERE id = ?1 AND text IS NOT NULL",
            params![
                column(entry.0),
                reason_code(meaning.reason),
                type_code(meaning.failure_type),
                status_code(meaning.status),
                rule,
                version
            ],
        )
        .map(drop)
    }

    fn insert_action(&mut self, address: u64, action: &Action) -> Answer<u64> {
        let deed = codec::to_json(&action.deed)?;
        self.execute(
            "INSERT INTO action (address_id, at, deed, who, why) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![column(address), floor_ms(action.at), deed, action.who, action.why],
        )?;
        self.inserted()
    }

    fn delete_action(&mut self, action: u64) -> Answer<()> {
        self.execute("DELETE FROM action WHERE id = ?1", [column(action)]).map(drop)
    }

    fn see(&mut self, key: SeenKey, at: Timestamp) -> Answer<bool> {
        let added = self.execute(
            "INSERT INTO seen (key, at) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
            params![key.0, floor_ms(at)],
        )?;
        Ok(added > 0)
    }

    fn put_text(&mut self, record: &TextRecord, new: bool) -> Answer<()> {
        if !new {
            return self.update_text(record);
        }
        let person = record.by_person;
        self.execute(
            "INSERT INTO text (key, normalised, first_raw, reason, type, status, rule, version, \
             person_reason, person_type, person_status, qualified_by, occurrences, first_at, \
             last_at, host) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
            params![
                record.key.0,
                record.normalised,
                record.first_raw,
                reason_code(record.by_rule.reason),
                type_code(record.by_rule.failure_type),
                status_code(record.by_rule.status),
                record.rule,
                record.version,
                person.map(|meaning| reason_code(meaning.reason)),
                person.map(|meaning| type_code(meaning.failure_type)),
                person.map(|meaning| status_code(meaning.status)),
                record.qualified_by,
                record.occurrences,
                floor_ms(record.first_at),
                floor_ms(record.last_at),
                record.host,
            ],
        )?;
        self.execute("UPDATE tally SET texts = texts + 1", []).map(drop)
    }

    fn text_count(&self) -> Answer<u64> {
        let mut select = self.connection.prepare_cached("SELECT texts FROM tally")?;
        select.query_row([], |row| number(row.get(0)?))
    }

    fn add_stray(&mut self, kind: Stray, day: u32, count: u32) -> Answer<()> {
        self.execute(
            "INSERT INTO stray (kind, day, count) VALUES (?1, ?2, ?3) \
             ON CONFLICT DO UPDATE SET count = count + excluded.count",
            params![stray_code(kind), day, count],
        )
        .map(drop)
    }

    fn insert_task(&mut self, record: &TaskRecord) -> Answer<u64> {
        let work = codec::to_json(&record.work)?;
        self.execute(
            "INSERT INTO task (work, who, why, started_at, addresses, cursor_at, cursor_id) \
             VALUES (?1, ?2, ?3, ?4, 0, 0, 0)",
            params![work, record.who, record.why, floor_ms(record.started_at)],
        )?;
        self.inserted()
    }

    fn update_task(&mut self, task: u64, cursor: Cursor, addresses: u64) -> Answer<()> {
        self.execute(
            "UPDATE task SET cursor_at = ?2, cursor_id = ?3, addresses = ?4 WHERE id = ?1",
            params![column(task), cursor.0, column(cursor.1), column(addresses)],
        )
        .map(drop)
    }

    fn delete_task(&mut self, task: u64) -> Answer<()> {
        self.execute("DELETE FROM task WHERE id = ?1", [column(task)]).map(drop)
    }

    fn insert_suppression(&mut self, record: &SuppressionRecord) -> Answer<()> {
        self.execute(
            "INSERT INTO suppression (entry, at, who, why) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT DO NOTHING",
            params![suppressed_blob(&record.entry), floor_ms(record.at), record.who, record.why],
        )
        .map(drop)
    }

    fn delete_suppression(&mut self, entry: &Suppressed) -> Answer<()> {
        self.execute("DELETE FROM suppression WHERE entry = ?1", [suppressed_blob(entry)]).map(drop)
    }

    fn put_hold(&mut self, record: &HoldRecord) -> Answer<()> {
        self.execute(
            "INSERT INTO hold (id, provider, doubted_since, tripped_at, usual, sudden, ended_at, \
             ending, who, why) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) \
             ON CONFLICT DO UPDATE SET ended_at = excluded.ended_at, ending = excluded.ending, \
             who = excluded.who, why = excluded.why",
            params![
                column(record.hold),
                record.provider,
                floor_ms(record.doubted_since),
                floor_ms(record.tripped_at),
                record.usual_permille,
                record.sudden_permille,
                record.ended.map(|(at, _)| floor_ms(at)),
                record.ended.map(|(_, end)| end_code(end)),
                record.who,
                record.why,
            ],
        )
        .map(drop)
    }

    fn prune_holds(&mut self, keep: u32) -> Answer<()> {
        self.execute(
            "DELETE FROM hold WHERE id IN (SELECT id FROM hold WHERE ended_at IS NOT NULL \
             ORDER BY id DESC LIMIT -1 OFFSET ?1)",
            [keep],
        )
        .map(drop)
    }

    fn audit(&mut self, entry: &AuditEntry) -> Answer<()> {
        self.execute(
            "INSERT INTO audit (at, who, what, why) VALUES (?1, ?2, ?3, ?4)",
            params![floor_ms(entry.at), entry.who, entry.what, entry.why],
        )
        .map(drop)
    }

    fn prune(&mut self, step: CleanUpStep, before: Timestamp, limit: u32) -> Answer<u64> {
        let before_ms = floor_ms(before);
        let dropped = match step {
            CleanUpStep::Due | CleanUpStep::Evidence => 0,
            CleanUpStep::Seen => self.execute(
                "DELETE FROM seen WHERE key IN (SELECT key FROM seen WHERE at < ?1 \
                 ORDER BY at, key LIMIT ?2)",
                params![before_ms, limit],
            )?,
            CleanUpStep::Strays => self.execute(
                "DELETE FROM stray WHERE (kind, day) IN \
                 (SELECT kind, day FROM stray WHERE day < ?1 LIMIT ?2)",
                params![column(before.as_secs() / 86_400), limit],
            )?,
            CleanUpStep::Texts => {
                let dropped = self.execute(
                    "DELETE FROM text WHERE key IN (SELECT key FROM text \
                     WHERE last_at < ?1 AND person_reason IS NULL ORDER BY last_at, key LIMIT ?2)",
                    params![before_ms, limit],
                )?;
                self.execute("UPDATE tally SET texts = texts - ?1", [column(dropped as u64)])?;
                dropped
            }
        };
        Ok(dropped as u64)
    }
}

impl Tables<'_> {
    /// What changes about a text after it was first met.
    fn update_text(&self, record: &TextRecord) -> Answer<()> {
        let person = record.by_person;
        self.execute(
            "UPDATE text SET reason = ?2, type = ?3, status = ?4, rule = ?5, version = ?6, \
             person_reason = ?7, person_type = ?8, person_status = ?9, qualified_by = ?10, \
             occurrences = ?11, last_at = ?12 WHERE key = ?1",
            params![
                record.key.0,
                reason_code(record.by_rule.reason),
                type_code(record.by_rule.failure_type),
                status_code(record.by_rule.status),
                record.rule,
                record.version,
                person.map(|meaning| reason_code(meaning.reason)),
                person.map(|meaning| type_code(meaning.failure_type)),
                person.map(|meaning| status_code(meaning.status)),
                record.qualified_by,
                record.occurrences,
                floor_ms(record.last_at),
            ],
        )
        .map(drop)
    }
}
