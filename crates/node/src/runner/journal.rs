//! The ledger's journal as rows of the store.
//!
//! An entry becomes one row, keyed so that a later entry about the same thing replaces it. Three kinds,
//! by what their slot number means, so that each can be pruned by it:
//!
//! | kind | entries | slot |
//! |---|---|---|
//! | [`TIMED`] | spent tokens and started connections of a minute or second | minute after which the row means nothing |
//! | [`LASTING`] | clock, host names, leases | the process start that wrote it: each start writes them anew |
//! | [`PERMITS`] | permits | number of the permit |

use quota::JournalEntry;
use store::LedgerRow;

/// Counts that lose their meaning with time.
pub(crate) const TIMED: u8 = 1;
/// Facts that are written anew at each start.
pub(crate) const LASTING: u8 = 2;
/// Permits held.
pub(crate) const PERMITS: u8 = 3;

/// A stored row that is not a journal entry: written by a newer version, or damaged.
#[derive(Debug, thiserror::Error)]
#[error("the ledger's row {key:?} cannot be read: {source}; its counts would be lost")]
pub struct UnreadableRow {
    key: String,
    source: serde_json::Error,
}

/// The row of an entry; `incarnation` is the number of this process start.
pub(crate) fn row(entry: &JournalEntry, incarnation: u64) -> LedgerRow {
    let key = entry.key().to_string().into_boxed_str();
    let (kind, slot, value) = match entry {
        JournalEntry::Spent { total_now, .. }
        | JournalEntry::CapSpent { total_now, .. }
        | JournalEntry::DaySpent { total_now, .. }
        | JournalEntry::Started { total_now, .. } => {
            (TIMED, entry.forget_after().as_secs() / 60, *total_now)
        }
        JournalEntry::Clock(_) | JournalEntry::Host { .. } | JournalEntry::Lease { .. } => {
            (LASTING, incarnation, 0)
        }
        JournalEntry::PermitGranted { permit, .. } => (PERMITS, permit.0, 1),
        JournalEntry::PermitReleased { permit } => (PERMITS, permit.0, 0),
    };
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    // Entries are plain data: writing them as JSON cannot fail.
    let extra = serde_json::to_string(entry).unwrap_or_default().into_boxed_str();
    LedgerRow { kind, key, slot, value, extra }
}

/// The entry of a row.
///
/// # Errors
/// The row was not written by [`row`].
pub(crate) fn entry(row: &LedgerRow) -> Result<JournalEntry, UnreadableRow> {
    serde_json::from_str(&row.extra)
        .map_err(|source| UnreadableRow { key: row.key.to_string(), source })
}

#[cfg(test)]
mod tests {
    use mail::id::SourceId;
    use mail::time::Timestamp;
    use quota::{NodeId, Owner, PathKey, PermitId, SavedClock, Slot};

    use super::*;

    #[test]
    fn every_entry_comes_back() {
        let path = PathKey { source: SourceId(1), target: [127, 0, 0, 1].into() };
        let owner = Owner { node: NodeId(1), incarnation: 3 };
        let granted_at = Timestamp::from_secs(7);
        let entries = [
            JournalEntry::Clock(SavedClock {
                steady: Timestamp::from_secs(5),
                boot_id: "b".into(),
                boot_clock: core::time::Duration::from_secs(1),
                wall: 9,
            }),
            JournalEntry::Spent { path, slot: Slot(12), total_now: 40 },
            JournalEntry::DaySpent { source: SourceId(1), rule: None, tick: 3, total_now: 9 },
            JournalEntry::DaySpent {
                source: SourceId(1),
                rule: Some("google".into()),
                tick: 3,
                total_now: 4,
            },
            JournalEntry::Host { path, mx_host: "mx.example".into(), slot: Slot(12) },
            JournalEntry::Lease { owner, expires_at: Timestamp::from_secs(30) },
            JournalEntry::PermitGranted {
                permit: PermitId(8),
                path,
                mx_host: "mx.example".into(),
                owner,
                granted_at,
            },
            JournalEntry::PermitReleased { permit: PermitId(8) },
        ];
        for original in &entries {
            assert_eq!(&entry(&row(original, 3)).unwrap(), original);
        }
        // The release replaces the grant.
        let keys: Vec<_> =
            entries[6..].iter().map(|e| (row(e, 3).kind, row(e, 3).key, row(e, 3).slot)).collect();
        assert_eq!(keys[0], keys[1]);
    }
}
