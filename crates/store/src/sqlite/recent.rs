//! The newest messages by address, in memory, ahead of `address_index`.
//!
//! Hashes arrive in random order. Putting each into the index at once would dirty one page of the
//! tree per message; gathered here and written in sorted order they share pages. A full gathering
//! becomes a *run*, of which every batch writes a slice, so that no batch is held up by all of it.
//!
//! Nothing is lost with the memory: every message's row holds its hash, and
//! `sequence.indexed_through` says which messages have to be read again. It moves when a run is
//! written to its end; after a crash part of a run is written twice, which changes nothing.

use std::collections::{HashMap, HashSet};

use rusqlite::{Connection, params};

use super::codec::{column, number};

/// In how many batches a run is written.
const SLICES: usize = 16;

/// One message by address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) delivery: u64,
    pub(super) hash: u64,
    pub(super) message: u64,
}

/// The first message by delivery and hash.
type First = HashMap<(u64, u64), u64>;

/// Messages that are not in the index yet.
#[derive(Default)]
pub(super) struct Recent {
    entries: Vec<Entry>,
    first: First,
    /// The run that is being written: what is left of it, the last comes next.
    run: Vec<Entry>,
    /// All of the run, also what is written already.
    run_first: First,
    /// The last message of the run.
    run_through: u64,
    /// Added since the last slice.
    added: usize,
}

impl Recent {
    /// Reads the messages after `indexed_through`.
    pub(super) fn load(connection: &Connection, indexed_through: u64) -> rusqlite::Result<Self> {
        let mut recent = Self::default();
        let mut select = connection
            .prepare_cached("SELECT delivery_id, address_hash, id FROM message WHERE id > ?1")?;
        let mut rows = select.query([column(indexed_through)])?;
        while let Some(row) = rows.next()? {
            recent.add(Entry {
                delivery: number(row.get(0)?)?,
                hash: row.get::<_, i64>(1)?.cast_unsigned(),
                message: number(row.get(2)?)?,
            });
        }
        Ok(recent)
    }

    /// Adds a message.
    pub(super) fn add(&mut self, entry: Entry) {
        self.entries.push(entry);
        self.first.entry((entry.delivery, entry.hash)).or_insert(entry.message);
        self.added += 1;
    }

    /// The first message of the delivery with this hash.
    pub(super) fn first(&self, delivery: u64, hash: u64) -> Option<u64> {
        let key = (delivery, hash);
        self.run_first.get(&key).or_else(|| self.first.get(&key)).copied()
    }

    /// All messages of the delivery with this hash that are not in the index: asked only where two
    /// addresses share a hash.
    pub(super) fn all(&self, delivery: u64, hash: u64) -> impl Iterator<Item = u64> {
        self.run
            .iter()
            .chain(&self.entries)
            .filter(move |entry| entry.delivery == delivery && entry.hash == hash)
            .map(|entry| entry.message)
    }

    /// Writes the next slice into the index, where there is a run; makes a run of what was gathered,
    /// where that is enough. Answers the message through which the index is complete when a run ends.
    pub(super) fn merge_slice(
        &mut self,
        connection: &Connection,
        merge_at: usize,
    ) -> rusqlite::Result<Option<u64>> {
        let added = std::mem::take(&mut self.added);
        if self.run.is_empty() {
            if self.entries.len() < merge_at.max(1) {
                return Ok(None);
            }
            self.run_through = self.entries.iter().map(|entry| entry.message).max().unwrap_or(0);
            std::mem::swap(&mut self.run, &mut self.entries);
            std::mem::swap(&mut self.run_first, &mut self.first);
            self.run.sort_unstable_by(|left, right| right.cmp(left));
        }
        // Faster than messages are added, so that a run ends before the next one is due.
        let slice = (merge_at / SLICES).max(2 * added).max(1).min(self.run.len());
        let mut insert = connection.prepare_cached(
            "INSERT OR IGNORE INTO address_index (delivery_id, hash, message_id) \
             VALUES (?1, ?2, ?3)",
        )?;
        for entry in self.run.drain(self.run.len() - slice..).rev() {
            insert.execute(params![
                column(entry.delivery),
                entry.hash.cast_signed(),
                column(entry.message)
            ])?;
        }
        if !self.run.is_empty() {
            return Ok(None);
        }
        self.run_first.clear();
        Ok(Some(self.run_through))
    }

    /// Drops messages whose rows are gone, before they would be written into the index.
    pub(super) fn forget(&mut self, gone: &HashSet<u64>) {
        if gone.is_empty() {
            return;
        }
        for entries in [&mut self.entries, &mut self.run] {
            entries.retain(|entry| !gone.contains(&entry.message));
        }
        for first in [&mut self.first, &mut self.run_first] {
            first.retain(|_, message| !gone.contains(message));
        }
    }

    /// Whether part of a run is written.
    pub(super) fn is_merging(&self) -> bool {
        !self.run.is_empty()
    }
}
