//! Forgetting what has been at its end for long.
//!
//! One step looks at so many rows and no more, so that mail is not held up. Messages are walked in the
//! order of their numbers, which is that of their acceptance: the walk ends at the first that was
//! accepted too late to have ended early enough.

use std::collections::HashSet;

use engine::quarantine::AddressHash;
use engine::work::FinalState;
use mail::id::{DeliveryId, MessageId};
use mail::time::Timestamp;
use rusqlite::{OptionalExtension as _, params};

use super::address_hash::address_hash;
use super::batch::{Batch, Stop};
use super::codec::{column, final_code, floor_ms, number};
use super::reads::SqliteReads;
use crate::words::{Erase, Erased, Forget, Forgotten, Written};

/// Stands where a refusal had an address that was erased.
pub(crate) const ERASED: &str = "(erased)";

/// The columns of [`Walked`].
const WALKED: &str = "id, delivery_id, address_hash, accepted_at, state, settled_at, \
     coalesce(folded, address)";

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
    state: i64,
    /// `None`: not at its end.
    settled_at: Option<i64>,
    folded: String,
}

impl Walked {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        let state = row.get(4)?;
        let settled_at: Option<i64> = row.get(5)?;
        Ok(Self {
            id: row.get(0)?,
            delivery: number(row.get(1)?)?,
            hash: row.get(2)?,
            accepted_at: row.get(3)?,
            state,
            settled_at: settled_at.filter(|_| state != 0),
            folded: row.get(6)?,
        })
    }
}

impl Batch<'_> {
    /// Forgets messages, then deliveries of which nothing is left.
    pub(super) fn forget(&mut self, forget: &Forget) -> Result<Written, Stop> {
        let before = floor_ms(forget.before);
        let limit = forget.limit.max(1);
        let walked: Vec<Walked> = self
            .connection
            .prepare_cached(&format!(
                "SELECT {WALKED} FROM message WHERE id > ?1 ORDER BY id LIMIT ?2"
            ))?
            .query_map(params![column(forget.after.0), limit], Walked::read)?
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
        // Numbers and times of acceptance grow together, so the oldest come first.
        self.connection
            .prepare_cached(
                "DELETE FROM past WHERE message_id IN \
                 (SELECT message_id FROM past ORDER BY message_id LIMIT ?1) AND accepted_at < ?2",
            )?
            .execute(params![limit, floor_ms(forget.hashes_before)])?;
        Ok(Written::Forgotten(forgotten))
    }

    fn forget_message(&mut self, row: &Walked) -> Result<(), Stop> {
        if row.state == final_code(FinalState::Sent) {
            let hash = AddressHash::of(&row.folded);
            self.connection
                .prepare_cached("INSERT INTO past VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![row.id, column(row.delivery), row.accepted_at, hash.0])?;
        }
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

    /// Erases what names an address: one step.
    pub(super) fn erase(&mut self, erase: &Erase) -> Result<Written, Stop> {
        let mut erased = Erased::default();
        if erase.after == DeliveryId(0) && !self.erase_messages(erase, &mut erased)? {
            erased.next = Some(DeliveryId(0));
            return Ok(Written::Erased(erased));
        }
        // How many refusals a delivery has must be stored.
        self.store_accounts()?;
        let limit = u64::from(erase.limit.max(1));
        let mut seen = 0;
        let mut deliveries = self.connection.prepare_cached(
            "SELECT id, refusals_kept FROM delivery WHERE id > ?1 ORDER BY id LIMIT ?2",
        )?;
        let mut rows = deliveries.query(params![column(erase.after.0), column(limit)])?;
        let mut replace = self.connection.prepare_cached(
            "UPDATE refusal SET address = ?3 WHERE delivery_id = ?1 \
             AND address = ?2 COLLATE NOCASE",
        )?;
        while let Some(row) = rows.next()? {
            let (id, kept): (i64, i64) = (row.get(0)?, row.get(1)?);
            if kept > 0 {
                erased.refusals += replace.execute(params![id, &*erase.address, ERASED])? as u32;
            }
            seen += 1 + number(kept)?;
            if seen >= limit {
                erased.next = Some(DeliveryId(number(id)?));
                break;
            }
        }
        Ok(Written::Erased(erased))
    }

    /// Erases the rows of an address's messages that are at their end, and texts that quote it. Answers
    /// whether that was all.
    fn erase_messages(&mut self, erase: &Erase, erased: &mut Erased) -> Result<bool, Stop> {
        let hash = address_hash(&self.memory.address_key, &erase.address).cast_signed();
        let mut gone = HashSet::new();
        let mut whole = true;
        for id in SqliteReads::by_hash(self.connection, hash)? {
            let row = self
                .connection
                .prepare_cached(&format!("SELECT {WALKED} FROM message WHERE id = ?1"))?
                .query_row([id], Walked::read)
                .optional()?;
            let Some(row) = row.filter(|row| row.folded == *erase.address) else { continue };
            if row.settled_at.is_none() {
                erased.waiting += 1;
            } else if erased.messages == erase.limit.max(1) {
                whole = false;
                break;
            } else {
                self.forget_message(&row)?;
                gone.insert(number(row.id)?);
                erased.messages += 1;
            }
        }
        self.memory.recent.forget(&gone);
        if whole {
            erased.texts = self
                .connection
                .prepare_cached(
                    "UPDATE text SET first_raw = normalised WHERE instr(lower(first_raw), ?1) > 0",
                )?
                .execute([&*erase.address])? as u32;
        }
        Ok(whole)
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
