//! Forgetting what has been at its end for long.
//!
//! One step looks at so many rows and no more, so that mail is not held up. Messages are walked in the
//! order of their numbers, which is that of their acceptance: the walk ends at the first that was
//! accepted too late to have ended early enough.

use std::collections::HashSet;

use mail::id::MessageId;
use mail::time::Timestamp;
use rusqlite::params;

use super::batch::{Batch, Stop};
use super::codec::{column, floor_ms, number};
use crate::words::{Forget, Forgotten, Written};

/// Keeps the counts of a delivery that is about to go.
const ADD_TO_GONE: &str = "UPDATE gone SET accepted = gone.accepted + d.accepted, \
     refused = gone.refused + d.refused, duplicates = gone.duplicates + d.duplicates, \
     sent = gone.sent + d.sent, failed = gone.failed + d.failed, \
     expired = gone.expired + d.expired, cancelled = gone.cancelled + d.cancelled \
     FROM delivery d WHERE d.id = ?1";

/// A row that the walk comes by.
struct Walked {
    id: i64,
    delivery: u64,
    hash: i64,
    accepted_at: i64,
    /// `None`: not at its end.
    settled_at: Option<i64>,
}

impl Batch<'_> {
    /// Forgets messages, then deliveries of which nothing is left.
    pub(super) fn forget(&mut self, forget: &Forget) -> Result<Written, Stop> {
        let before = floor_ms(forget.before);
        let limit = forget.limit.max(1);
        let walked: Vec<Walked> = self
            .connection
            .prepare_cached(
                "SELECT id, delivery_id, address_hash, accepted_at, \
                 CASE WHEN state = 0 THEN NULL ELSE settled_at END \
                 FROM message WHERE id > ?1 ORDER BY id LIMIT ?2",
            )?
            .query_map(params![column(forget.after.0), limit], |row| {
                Ok(Walked {
                    id: row.get(0)?,
                    delivery: number(row.get(1)?)?,
                    hash: row.get(2)?,
                    accepted_at: row.get(3)?,
                    settled_at: row.get(4)?,
                })
            })?
            .collect::<rusqlite::Result<_>>()?;
        let mut at_end = walked.len() < limit as usize;
        let mut through = column(forget.after.0);
        let mut gone = HashSet::new();
        for row in &walked {
            if row.accepted_at >= before {
                at_end = true;
                break;
            }
            through = row.id;
            if row.settled_at.is_some_and(|at| at < before) {
                self.forget_message(row)?;
                gone.insert(number(row.id)?);
            }
        }
        self.memory.recent.forget(&gone);
        let mut forgotten = Forgotten { messages: gone.len() as u32, deliveries: 0, next: None };
        let more = if at_end { self.forget_deliveries(forget, &mut forgotten)? } else { true };
        forgotten.next = more.then_some(MessageId(number(through)?));
        Ok(Written::Forgotten(forgotten))
    }

    fn forget_message(&mut self, row: &Walked) -> Result<(), Stop> {
        self.connection
            .prepare_cached(
                "DELETE FROM address_index WHERE delivery_id = ?1 AND hash = ?2 AND message_id = ?3",
            )?
            .execute(params![column(row.delivery), row.hash, row.id])?;
        self.connection.prepare_cached("DELETE FROM message WHERE id = ?1")?.execute([row.id])?;
        let account = self.account(mail::id::DeliveryId(row.delivery))?;
        account.forgotten += 1;
        account.dirty = true;
        Ok(())
    }

    /// Answers whether there are more than fit into this step.
    fn forget_deliveries(
        &mut self,
        forget: &Forget,
        forgotten: &mut Forgotten,
    ) -> Result<bool, Stop> {
        // The question below must see what this batch has counted.
        self.store_accounts()?;
        let limit = forget.limit.max(1);
        let ended: Vec<(i64, i64, u32)> = self
            .connection
            .prepare_cached(
                "SELECT id, content_id, refusals_kept FROM delivery WHERE state IN (3, 4) \
                 AND created_at < ?1 AND forgotten = accepted ORDER BY id LIMIT ?2",
            )?
            .query_map(params![floor_ms(forget.before), limit], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        let mut room = limit;
        for (id, content, refusals) in &ended {
            if room == 0 {
                return Ok(true);
            }
            room = room.saturating_sub(refusals.saturating_add(1));
            for statement in [
                ADD_TO_GONE,
                "DELETE FROM refusal WHERE delivery_id = ?1",
                "DELETE FROM segment WHERE delivery_id = ?1",
                "DELETE FROM delivery WHERE id = ?1",
            ] {
                self.connection.prepare_cached(statement)?.execute([id])?;
            }
            self.memory.accounts.remove(&number(*id)?);
            self.drop_unused_content(*content)?;
            forgotten.deliveries += 1;
        }
        Ok(ended.len() == limit as usize)
    }

    /// Removes a delivery's content that no delivery has any more. What the accounts say must be stored.
    pub(super) fn drop_unused_content(&self, content: i64) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached(
                "DELETE FROM content WHERE id = ?1 AND digest IS NOT NULL \
                 AND NOT EXISTS (SELECT 1 FROM delivery WHERE content_id = ?1)",
            )?
            .execute([content])?;
        Ok(())
    }

    /// Forgets old keys, a bounded number at a time: the caller comes again.
    pub(super) fn prune_once(&mut self, before: Timestamp) -> Result<Written, Stop> {
        self.connection
            .prepare_cached(
                "DELETE FROM once WHERE (tenant, key) IN (SELECT tenant, key FROM once \
                 WHERE created_at < ?1 ORDER BY created_at LIMIT ?2)",
            )?
            .execute(params![floor_ms(before), crate::limits::PRUNE_KEYS])?;
        Ok(Written::Done)
    }
}
