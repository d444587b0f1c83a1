//! The quota ledger's figures, the audit trail, settings: rows whose meaning is elsewhere.

use rusqlite::params;

use super::batch::{Batch, Stop};
use super::codec::{column, floor_ms};
use crate::words::{AuditEntry, LedgerRow, Written};

impl Batch<'_> {
    /// Replaces figures of the ledger.
    pub(super) fn put_ledger(&mut self, rows: &[LedgerRow]) -> Result<Written, Stop> {
        let mut upsert = self.connection.prepare_cached(
            "INSERT INTO ledger (kind, key, slot, value, extra) VALUES (?1, ?2, ?3, ?4, ?5) \
             ON CONFLICT DO UPDATE SET value = excluded.value, extra = excluded.extra",
        )?;
        for row in rows {
            let slot = column(row.slot);
            upsert.execute(params![row.kind, row.key, slot, row.value, row.extra])?;
        }
        Ok(Written::Done)
    }

    /// Drops old figures of one kind.
    pub(super) fn prune_ledger(&mut self, kind: u8, before_slot: u64) -> Result<Written, Stop> {
        self.connection
            .prepare_cached("DELETE FROM ledger WHERE kind = ?1 AND slot < ?2")?
            .execute(params![kind, column(before_slot)])?;
        Ok(Written::Done)
    }

    /// Adds to the audit trail.
    pub(super) fn put_audit(&mut self, entry: &AuditEntry) -> Result<Written, Stop> {
        self.connection
            .prepare_cached("INSERT INTO audit (at, who, what, why) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![floor_ms(entry.at), entry.who, entry.what, entry.why])?;
        Ok(Written::Done)
    }

    /// Sets a named value.
    pub(super) fn put_setting(&mut self, key: &str, value: &str) -> Result<Written, Stop> {
        self.connection
            .prepare_cached(
                "INSERT INTO setting (key, value) VALUES (?1, ?2) \
                 ON CONFLICT DO UPDATE SET value = excluded.value",
            )?
            .execute([key, value])?;
        Ok(Written::Done)
    }
}
