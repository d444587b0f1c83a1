//! Fresh messages of streams, on their way from acceptance to their first claim.
//!
//! The queue is ordered by domain, because that is how it is claimed from: a message of each of a hundred domains
//! dirties a hundred of its pages. Mail that comes in one by one and goes on at once would pay that twice. So it waits
//! in `arrival`, one row behind the other, and which of them belong together is known in memory.
//!
//! A message waits in `arrival` or in `queue`, never in both. Where a pair of domain and delivery has both, a claim takes
//! the fresh messages of the two by their numbers, so the order is that of one queue. Where too many wait, the first of some
//! pairs move into the queue, so that those of one domain share pages: `arrival` holds about
//! [`SqliteOptions::arrivals_at_most`](super::SqliteOptions) rows, and is read quickly at a start.
//!
//! Nothing is lost with the memory: it is read from the table.

use std::collections::{BTreeMap, HashSet, VecDeque};

use rusqlite::{Connection, params};

use super::batch::Batch;
use super::codec::{column, number};

/// In how many batches, about, all would be moved if nothing were added.
const SLICES: usize = 16;

pub(super) const DELETE_ARRIVAL: &str = "DELETE FROM arrival WHERE message_id = ?1";

/// Pairs remembered of which the queue has no row.
const BARE_PAIRS_MAX: usize = 100_000;

/// Messages of one delivery for one domain: numbers as the tables have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Pair {
    pub(super) domain: u32,
    pub(super) delivery: u64,
}

/// What is in `arrival`, by pair.
#[derive(Default)]
pub(super) struct Arrivals {
    /// Messages in rising order; no entry is empty.
    waiting: BTreeMap<Pair, VecDeque<u64>>,
    count: usize,
    /// Added since the last move.
    added: usize,
    /// Where the next move goes on.
    moved_through: Option<Pair>,
    /// Pairs of which the queue is known to have no row.
    bare: HashSet<Pair>,
}

impl Arrivals {
    /// Reads the table.
    pub(super) fn load(connection: &Connection) -> rusqlite::Result<Self> {
        let mut arrivals = Self::default();
        let mut select = connection.prepare_cached(
            "SELECT domain_id, delivery_id, message_id FROM arrival ORDER BY message_id",
        )?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let pair = Pair { domain: row.get(0)?, delivery: number(row.get(1)?)? };
            arrivals.add(pair, number(row.get(2)?)?);
        }
        arrivals.added = 0;
        Ok(arrivals)
    }

    /// Adds a message whose number is above all others.
    pub(super) fn add(&mut self, pair: Pair, message: u64) {
        self.waiting.entry(pair).or_default().push_back(message);
        self.count += 1;
        self.added += 1;
    }

    /// The first message of a pair up to a number.
    pub(super) fn first(&self, pair: Pair, through: u64) -> Option<u64> {
        let first = *self.waiting.get(&pair)?.front()?;
        (first <= through).then_some(first)
    }

    /// Takes the first messages of a pair, up to a number of a message and up to so many.
    pub(super) fn take(&mut self, pair: Pair, through: u64, at_most: usize) -> Vec<u64> {
        let Some(waiting) = self.waiting.get_mut(&pair) else { return Vec::new() };
        let fitting = waiting.partition_point(|message| *message <= through).min(at_most);
        let taken: Vec<u64> = waiting.drain(..fitting).collect();
        if waiting.is_empty() {
            self.waiting.remove(&pair);
        }
        self.count -= taken.len();
        taken
    }

    /// The first messages of a pair, up to a number of a message and up to so many.
    pub(super) fn peek(&self, pair: Pair, through: u64, at_most: usize) -> Vec<u64> {
        let waiting = self.waiting.get(&pair).into_iter().flatten().copied();
        waiting.take_while(|message| *message <= through).take(at_most).collect()
    }

    /// The first domain, from one on, that has messages of any delivery.
    pub(super) fn next_domain(&self, from: u32) -> Option<u32> {
        let from = Pair { domain: from, delivery: 0 };
        self.waiting.range(from..).next().map(|(pair, _)| pair.domain)
    }

    /// Notes that the queue has a row of this pair now.
    pub(super) fn queued(&mut self, pair: Pair) {
        self.bare.remove(&pair);
    }

    /// Keeps within its bounds; called between batches.
    pub(super) fn trim(&mut self) {
        if self.bare.len() > BARE_PAIRS_MAX {
            self.bare.clear();
        }
    }

    /// What is to be moved now: pairs, and how many of the first messages of each.
    fn next_to_move(&mut self, kept_at_most: usize) -> Vec<(Pair, usize)> {
        let added = std::mem::take(&mut self.added);
        if self.count <= kept_at_most {
            return Vec::new();
        }
        // Faster than messages are added.
        let wanted = (kept_at_most / SLICES).max(2 * added).max(1);
        let (mut moves, mut found) = (Vec::new(), 0);
        let from = self.moved_through.unwrap_or(Pair { domain: 0, delivery: 0 });
        for (pair, waiting) in self.waiting.range(from..).chain(self.waiting.range(..from)) {
            if found >= wanted {
                break;
            }
            let count = waiting.len().min(wanted - found);
            moves.push((*pair, count));
            found += count;
            self.moved_through = Some(*pair);
        }
        moves
    }
}

impl Batch<'_> {
    /// Whether the queue has any row of this pair.
    pub(super) fn is_queued(&mut self, pair: Pair) -> rusqlite::Result<bool> {
        if self.memory.arrivals.bare.contains(&pair) {
            return Ok(false);
        }
        let found = self
            .connection
            .prepare_cached(
                "SELECT 1 FROM queue WHERE domain_id = ?1 AND delivery_id = ?2 LIMIT 1",
            )?
            .exists(params![pair.domain, column(pair.delivery)])?;
        if !found {
            self.memory.arrivals.bare.insert(pair);
        }
        Ok(found)
    }

    /// Moves some of what waits into the queue, where there is too much.
    pub(super) fn move_surplus(&mut self, kept_at_most: usize) -> rusqlite::Result<()> {
        for (pair, count) in self.memory.arrivals.next_to_move(kept_at_most) {
            let mut delete = self.connection.prepare_cached(DELETE_ARRIVAL)?;
            let mut insert = self.connection.prepare_cached(
                "INSERT INTO queue (domain_id, delivery_id, due_ms, message_id) \
                 VALUES (?1, ?2, 0, ?3)",
            )?;
            for message in self.memory.arrivals.take(pair, u64::MAX, count) {
                delete.execute([column(message)])?;
                insert.execute(params![pair.domain, column(pair.delivery), column(message)])?;
            }
            self.memory.arrivals.queued(pair);
        }
        Ok(())
    }
}
