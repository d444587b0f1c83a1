//! The newest messages by address, in memory, ahead of `address_index`.
//!
//! Hashes arrive in random order. Putting each into the index at once would dirty one page of the
//! tree per message; kept here and merged in sorted order, tens of thousands at a time, they touch
//! each page once. Nothing is lost with the memory: every message's row holds its hash, and
//! `sequence.indexed_through` says which messages have to be read again.

use std::collections::HashMap;

use rusqlite::{Connection, params};

use super::codec::{column, number};

/// One message by address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) delivery: u64,
    pub(super) hash: u64,
    pub(super) message: u64,
}

/// Messages that are not in the index yet.
#[derive(Default)]
pub(super) struct Recent {
    entries: Vec<Entry>,
    first: HashMap<(u64, u64), u64>,
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
    }

    /// The first message of the delivery with this hash.
    pub(super) fn first(&self, delivery: u64, hash: u64) -> Option<u64> {
        self.first.get(&(delivery, hash)).copied()
    }

    /// All messages of the delivery with this hash: asked only where two addresses share a hash.
    pub(super) fn all(&self, delivery: u64, hash: u64) -> impl Iterator<Item = u64> {
        self.entries
            .iter()
            .filter(move |entry| entry.delivery == delivery && entry.hash == hash)
            .map(|entry| entry.message)
    }

    /// How many messages it holds.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Writes everything into the index and forgets it.
    pub(super) fn merge(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.entries.sort_unstable();
        let mut insert = connection.prepare_cached(
            "INSERT INTO address_index (delivery_id, hash, message_id) VALUES (?1, ?2, ?3)",
        )?;
        for entry in &self.entries {
            insert.execute(params![
                column(entry.delivery),
                entry.hash.cast_signed(),
                column(entry.message)
            ])?;
        }
        self.entries.clear();
        self.first.clear();
        Ok(())
    }
}
