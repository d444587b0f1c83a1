//! The memory of the writing connection, and one batch at work on it.
//!
//! Everything in [`Memory`] can be read again from the database. After a fault it is thrown away and
//! loaded afresh, so that it never differs from what was committed.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use engine::work::DeliveryState;
use mail::id::DeliveryId;
use rusqlite::{Connection, OptionalExtension, params};

use super::SqliteOptions;
use super::address_hash::AddressKey;
use super::arrivals::Arrivals;
use super::codec::{column, delivery_code, delivery_state, number, unexpected};
use super::quarantine::Tables;
use super::recent::Recent;
use crate::quarantine::{Halt, Ledger};
use crate::words::{Counters, DomainId, RefusedWrite, Write, Written};

/// Domains kept in memory; beyond that the memory starts anew.
const DOMAINS_KEPT: usize = 100_000;
/// Deliveries kept in memory between batches.
const ACCOUNTS_KEPT: usize = 4_096;

/// Why a write did not come to its end.
pub(super) enum Stop {
    /// It was refused, before anything was changed.
    Refused(RefusedWrite),
    /// The database failed: the batch is lost.
    Sqlite(rusqlite::Error),
}

impl From<RefusedWrite> for Stop {
    fn from(refused: RefusedWrite) -> Self {
        Self::Refused(refused)
    }
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<Halt<rusqlite::Error>> for Stop {
    fn from(halt: Halt<rusqlite::Error>) -> Self {
        match halt {
            Halt::Refused(refused) => Self::Refused(refused),
            Halt::Fault(error) => Self::Sqlite(error),
        }
    }
}

/// The next numbers to be given out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Sequence {
    pub(super) delivery: u64,
    pub(super) message: u64,
    pub(super) part: u64,
    pub(super) content: u64,
    pub(super) domain: u32,
    pub(super) indexed_through: u64,
}

/// What is kept in memory about a delivery.
pub(super) struct Account {
    pub(super) state: DeliveryState,
    pub(super) stream: bool,
    pub(super) content: u64,
    pub(super) counters: Counters,
    pub(super) refusals_kept: u64,
    /// Messages whose rows are gone.
    pub(super) forgotten: u64,
    /// The counts that are in the totals already.
    summed: Counters,
    /// State and content as the database has them: they are indexed, so they are written only when they change.
    stored: (DeliveryState, u64),
    /// Whether `address_index` holds any of its messages.
    pub(super) indexed: bool,
    pub(super) dirty: bool,
}

impl Account {
    /// Finishes it when nothing of it is left to do. Answers whether it did.
    pub(super) fn finish_if_done(&mut self) -> bool {
        let under_way = matches!(self.state, DeliveryState::Running | DeliveryState::Paused);
        let done = under_way && !self.stream && self.counters.pending() == 0;
        if done {
            self.state = DeliveryState::Finished;
            self.dirty = true;
        }
        done
    }
}

/// A message that this node holds.
#[derive(Clone, Copy)]
pub(super) struct Held {
    pub(super) part: u64,
    pub(super) delivery: u64,
    pub(super) domain: u32,
    pub(super) content: u64,
}

/// What the writing connection knows by heart.
pub(super) struct Memory {
    pub(super) node: Box<str>,
    pub(super) incarnation: u64,
    pub(super) address_key: AddressKey,
    pub(super) next: Sequence,
    stored: Sequence,
    pub(super) domains: HashMap<Arc<str>, DomainId>,
    pub(super) recent: Recent,
    pub(super) arrivals: Arrivals,
    /// Whether any stream's content had more than one user since this was loaded.
    pub(super) shares_contents: bool,
    pub(super) accounts: HashMap<u64, Account>,
    /// Messages in the parts of this life of the node.
    pub(super) held: HashMap<u64, Held>,
    /// How many messages each of these parts still holds.
    pub(super) outstanding: HashMap<u64, u32>,
    /// Sums over all deliveries that ever were, as far as accounts were stored.
    pub(super) totals: Counters,
}

impl Memory {
    /// Reads it from the database.
    pub(super) fn load(
        connection: &Connection,
        node: &str,
        incarnation: u64,
    ) -> rusqlite::Result<Self> {
        let (next, address_key) = connection.query_row(
            "SELECT delivery, message, part, content, domain, indexed_through, address_key \
             FROM sequence",
            [],
            |row| {
                let next = Sequence {
                    delivery: number(row.get(0)?)?,
                    message: number(row.get(1)?)?,
                    part: number(row.get(2)?)?,
                    content: number(row.get(3)?)?,
                    domain: row.get(4)?,
                    indexed_through: number(row.get(5)?)?,
                };
                Ok((next, row.get::<_, AddressKey>(6)?))
            },
        )?;
        let mut memory = Self {
            node: node.into(),
            incarnation,
            address_key,
            next,
            stored: next,
            domains: HashMap::new(),
            recent: Recent::load(connection, next.indexed_through)?,
            arrivals: Arrivals::load(connection)?,
            shares_contents: connection
                .prepare_cached("SELECT 1 FROM content_use LIMIT 1")?
                .exists([])?,
            accounts: HashMap::new(),
            held: HashMap::new(),
            outstanding: HashMap::new(),
            totals: read_totals(connection)?,
        };
        memory.load_held(connection)?;
        Ok(memory)
    }

    /// Reads which messages the parts of this life of the node still hold.
    fn load_held(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let mut parts = connection
            .prepare_cached("SELECT id, ids FROM part WHERE node = ?1 AND incarnation = ?2")?;
        let mut rows = parts.query(params![self.node, column(self.incarnation)])?;
        while let Some(row) = rows.next()? {
            let part = number(row.get(0)?)?;
            for message in read_ids(row.get_ref(1)?.as_blob()?)? {
                if let Some(state) = held_state(connection, part, message)? {
                    let held = Held {
                        part,
                        delivery: state.delivery,
                        domain: state.domain,
                        content: state.content,
                    };
                    self.held.insert(message, held);
                    *self.outstanding.entry(part).or_default() += 1;
                }
            }
        }
        Ok(())
    }

    /// Keeps within its bounds; called between batches.
    pub(super) fn trim(&mut self) {
        if self.accounts.len() > ACCOUNTS_KEPT {
            self.accounts.clear();
        }
        if self.domains.len() > DOMAINS_KEPT {
            self.domains.clear();
        }
        self.arrivals.trim();
    }
}

/// A message that a part still holds.
pub(super) struct InPart {
    pub(super) delivery: u64,
    pub(super) domain: u32,
    pub(super) content: u64,
    pub(super) due_ms: i64,
}

/// The message, if this part still holds it: it is not at its end, and neither this part nor a later
/// one returned it to the queue.
pub(super) fn held_state(
    connection: &Connection,
    part: u64,
    message: u64,
) -> rusqlite::Result<Option<InPart>> {
    let mut select = connection.prepare_cached(
        "SELECT delivery_id, domain_id, content_id, due_ms FROM message \
         WHERE id = ?1 AND state = 0 AND last_part < ?2",
    )?;
    select
        .query_row([column(message), column(part)], |row| {
            Ok(InPart {
                delivery: number(row.get(0)?)?,
                domain: row.get(1)?,
                content: number(row.get(2)?)?,
                due_ms: row.get(3)?,
            })
        })
        .optional()
}

/// Reads the message numbers of a part.
pub(super) fn read_ids(blob: &[u8]) -> rusqlite::Result<Vec<u64>> {
    let (words, rest) = blob.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(unexpected("length of a part"));
    }
    Ok(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
}

/// One batch at work.
pub(super) struct Batch<'a> {
    pub(super) connection: &'a Connection,
    pub(super) memory: &'a mut Memory,
}

impl Batch<'_> {
    /// Applies one write.
    pub(super) fn write(&mut self, write: &Write) -> Result<Written, Stop> {
        crate::limits::check(write)?;
        match write {
            Write::CreateDelivery { options, content, at, once } => {
                self.create_delivery(options, content.as_ref(), *at, once.as_ref())
            }
            Write::SetContent { delivery, content } => self.set_content(*delivery, content),
            Write::Append { delivery, content, recipients, at, once } => {
                self.append(*delivery, content.as_ref(), recipients, *at, once.as_ref())
            }
            Write::Refuse { delivery, refusals } => self.refuse(*delivery, refusals),
            Write::Start { delivery, at } => self.start(*delivery, *at),
            Write::SetState { delivery, state, who, why, at } => {
                self.set_state(*delivery, *state, who, why, *at)
            }
            Write::Claim(request) => self.claim(request),
            Write::Settle(settled) => self.settle(settled),
            Write::Expire(sweep) => self.expire(sweep),
            Write::CancelQueued(sweep) => self.cancel_queued(sweep),
            Write::ReleaseParts { now } => self.release_parts(*now),
            Write::RenewLeases { until } => self.renew_leases(*until),
            Write::Ledger(rows) => self.put_ledger(rows),
            Write::PruneLedger { kind, before_slot } => self.prune_ledger(*kind, *before_slot),
            Write::Audit(entry) => self.put_audit(entry),
            Write::PutSetting { key, value } => self.put_setting(key, value),
            Write::PruneOnce { before } => self.prune_once(*before),
            Write::Forget(forget) => self.forget(forget),
            Write::Erase(erase) => self.erase(erase),
            Write::ChangeBundle(change) => self.change_bundle(change),
            Write::Quarantine(write) => {
                let mut tables = Tables { connection: self.connection };
                let written = Ledger::on(&mut tables).write(write)?;
                Ok(Written::Quarantine(Box::new(written)))
            }
        }
    }

    /// Writes what was only counted in memory: the last step before the commit.
    pub(super) fn flush(&mut self, options: &SqliteOptions) -> rusqlite::Result<()> {
        self.move_surplus(options.arrivals_at_most)?;
        let merge_at = options.merge_addresses_at;
        let through = self.memory.recent.merge_slice(self.connection, merge_at)?;
        if through.is_some() || self.memory.recent.is_merging() {
            for account in self.memory.accounts.values_mut() {
                account.indexed |= account.counters.accepted > 0;
            }
        }
        if let Some(through) = through {
            self.memory.next.indexed_through = through;
        }
        self.store_accounts()?;
        let next = self.memory.next;
        if next != self.memory.stored {
            self.connection
                .prepare_cached(
                    "UPDATE sequence SET delivery = ?1, message = ?2, part = ?3, content = ?4, \
                     domain = ?5, indexed_through = ?6",
                )?
                .execute(params![
                    column(next.delivery),
                    column(next.message),
                    column(next.part),
                    column(next.content),
                    next.domain,
                    column(next.indexed_through)
                ])?;
            self.memory.stored = next;
        }
        Ok(())
    }

    /// Writes what was only counted about deliveries, and adds it to the totals.
    pub(super) fn store_accounts(&mut self) -> rusqlite::Result<()> {
        let dirty: BTreeSet<u64> = self
            .memory
            .accounts
            .iter()
            .filter(|(_, account)| account.dirty)
            .map(|(id, _)| *id)
            .collect();
        for id in dirty {
            if let Some(account) = self.memory.accounts.get_mut(&id) {
                store_account(self.connection, id, account)?;
                self.memory.totals.advance(&account.summed, &account.counters);
                account.summed = account.counters;
                account.stored = (account.state, account.content);
                account.dirty = false;
            }
        }
        Ok(())
    }

    /// What is known about a delivery.
    pub(super) fn account(&mut self, id: DeliveryId) -> Result<&mut Account, Stop> {
        if !self.memory.accounts.contains_key(&id.0) {
            let account =
                load_account(self.connection, id.0)?.ok_or(RefusedWrite::UnknownDelivery(id))?;
            self.memory.accounts.insert(id.0, account);
        }
        self.memory
            .accounts
            .get_mut(&id.0)
            .ok_or_else(|| Stop::Sqlite(unexpected("absence of a delivery")))
    }
}

/// Reads what is known about a delivery.
fn load_account(connection: &Connection, id: u64) -> rusqlite::Result<Option<Account>> {
    let mut select = connection.prepare_cached(
        "SELECT state, stream, content_id, accepted, refused, duplicates, sent, failed, expired, \
         cancelled, in_flight, refusals_kept, \
         EXISTS (SELECT 1 FROM address_index WHERE delivery_id = ?1), forgotten \
         FROM delivery WHERE id = ?1",
    )?;
    select
        .query_row([column(id)], |row| {
            let counters = read_counters(row, 3)?;
            let (state, content) = (delivery_state(row.get(0)?)?, number(row.get(2)?)?);
            Ok(Account {
                state,
                stream: row.get(1)?,
                content,
                counters,
                summed: counters,
                stored: (state, content),
                forgotten: number(row.get(13)?)?,
                refusals_kept: number(row.get(11)?)?,
                indexed: row.get(12)?,
                dirty: false,
            })
        })
        .optional()
}

/// Reads the eight counts of a delivery from a column on.
pub(super) fn read_counters(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<Counters> {
    let count = |offset: usize| number(row.get(at + offset)?);
    Ok(Counters {
        accepted: count(0)?,
        refused: count(1)?,
        duplicates: count(2)?,
        sent: count(3)?,
        failed: count(4)?,
        expired: count(5)?,
        cancelled: count(6)?,
        in_flight: count(7)?,
    })
}

/// Writes what was changed about a delivery.
fn store_account(connection: &Connection, id: u64, account: &Account) -> rusqlite::Result<()> {
    let counters = &account.counters;
    if account.stored != (account.state, account.content) {
        connection
            .prepare_cached("UPDATE delivery SET state = ?2, content_id = ?3 WHERE id = ?1")?
            .execute(params![column(id), delivery_code(account.state), column(account.content)])?;
    }
    connection
        .prepare_cached(
            "UPDATE delivery SET accepted = ?2, refused = ?3, duplicates = ?4, sent = ?5, \
             failed = ?6, expired = ?7, cancelled = ?8, in_flight = ?9, refusals_kept = ?10, \
             forgotten = ?11 WHERE id = ?1",
        )?
        .execute(params![
            column(id),
            column(counters.accepted),
            column(counters.refused),
            column(counters.duplicates),
            column(counters.sent),
            column(counters.failed),
            column(counters.expired),
            column(counters.cancelled),
            column(counters.in_flight),
            column(account.refusals_kept),
            column(account.forgotten),
        ])?;
    Ok(())
}

/// Adds the counts of all deliveries up, forgotten ones too. Its cost grows with the deliveries that are
/// kept: it is done once, when the memory is loaded.
pub(super) fn read_totals(connection: &Connection) -> rusqlite::Result<Counters> {
    connection.query_row(
        "SELECT sum(accepted), sum(refused), sum(duplicates), sum(sent), sum(failed), \
         sum(expired), sum(cancelled), sum(in_flight) FROM \
         (SELECT accepted, refused, duplicates, sent, failed, expired, cancelled, in_flight \
         FROM delivery UNION ALL SELECT accepted, refused, duplicates, sent, failed, expired, \
         cancelled, in_flight FROM gone)",
        [],
        |row| read_counters(row, 0),
    )
}
