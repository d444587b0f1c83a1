//! Questions, on a connection of their own.
//!
//! Each answer comes from one state of the database: where it takes several statements they share
//! a read transaction, which ends with the answer.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use engine::quarantine::AddressHash;
use engine::work::Delivery;
use mail::id::{DeliveryId, MessageId, SourceId};
use mail::time::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};

use super::address_hash::{AddressKey, address_hash};
use super::batch::{read_counters, read_totals};
use super::codec::{column, delivery_state, final_state, floor_ms, moment, number, unexpected};
use super::deliveries::content_code;
use super::file::{check_header, prepare_connection, version};
use super::open::{APPLICATION_ID, DATABASE_FILE, SCHEMA_VERSION};
use crate::contract::Reads;
use crate::fault::StoreFault;
use crate::words::{
    AuditEntry, Content, ContentKind, Counters, DeliveryDue, DeliveryRecord, DomainId, DomainQueue,
    DueDomain, LedgerRow, MessageRecord, MessageState, PartId, PartRecord, PastRecipient, Refusal,
    Totals,
};

/// Octets of the page cache of somebody who only looks.
const LOOK_CACHE_BYTES: u64 = 32 << 20;

/// A connection that reads, while another one may write.
pub struct SqliteReads {
    connection: Connection,
    path: PathBuf,
    address_key: AddressKey,
    totals: SharedTotals,
}

/// The sums over all deliveries as of the last commit, told by the writer: nobody has to add them up.
pub(super) type SharedTotals = Arc<Mutex<Counters>>;

const DELIVERY_COLUMNS: &str = "id, state, options, content_id, created_at, started_at, \
     wave_ends, accepted, refused, duplicates, sent, failed, expired, cancelled, in_flight, \
     forgotten";

const MESSAGE_COLUMNS: &str = "id, delivery_id, domain_id, state, attempts, accepted_at, due_ms, \
     pinned, settled_at, content_id, address, sender, merge, last_reply, EXISTS (SELECT 1 FROM queue q \
     WHERE q.domain_id = m.domain_id AND q.delivery_id = m.delivery_id AND q.due_ms = m.due_ms \
     AND q.message_id = m.id) OR EXISTS (SELECT 1 FROM arrival a WHERE a.message_id = m.id)";

fn json<T: serde::de::DeserializeOwned>(row: &Row<'_>, index: usize) -> rusqlite::Result<T> {
    serde_json::from_str(row.get_ref(index)?.as_str()?)
        .map_err(|error| unexpected(&format!("JSON of a delivery: {error}")))
}

fn read_delivery(row: &Row<'_>) -> rusqlite::Result<DeliveryRecord> {
    let delivery = Delivery {
        id: DeliveryId(number(row.get(0)?)?),
        state: delivery_state(row.get(1)?)?,
        options: json(row, 2)?,
        started_at: row.get::<_, Option<i64>>(5)?.map(moment),
        wave_ends: json(row, 6)?,
    };
    Ok(DeliveryRecord {
        delivery,
        content: number(row.get(3)?)?,
        created_at: moment(row.get(4)?),
        counters: read_counters(row, 7)?,
        forgotten: number(row.get(15)?)?,
    })
}

fn read_message(row: &Row<'_>) -> rusqlite::Result<MessageRecord> {
    let text = |index: usize| -> rusqlite::Result<Box<str>> {
        Ok(row.get_ref(index)?.as_str_or_null()?.unwrap_or_default().into())
    };
    let queued: bool = row.get(14)?;
    let state = match final_state(row.get(3)?)? {
        Some(state) => MessageState::Final { state, settled_at: moment(row.get(8)?) },
        None if queued => MessageState::Queued {
            due: moment(row.get(6)?),
            pinned_source: row.get::<_, Option<u32>>(7)?.map(SourceId),
        },
        None => MessageState::InFlight,
    };
    Ok(MessageRecord {
        id: MessageId(number(row.get(0)?)?),
        delivery: DeliveryId(number(row.get(1)?)?),
        address: text(10)?,
        domain: DomainId(row.get(2)?),
        merge: text(12)?,
        content: number(row.get(9)?)?,
        sender: text(11)?,
        state,
        attempts: row.get(4)?,
        accepted_at: moment(row.get(5)?),
        last_reply: text(13)?,
    })
}

/// The next pair of domain and delivery with waiting messages after another pair, with its first message.
struct FirstInLine {
    domain: u32,
    delivery: i64,
    due_ms: i64,
    message: i64,
}

/// What waits outside of the queue, by domain and delivery: the first message and how many there are.
struct Arrived(BTreeMap<(u32, i64), (i64, u64)>);

impl Arrived {
    /// Reads what there is for the domains after another one. There are never many: see `arrivals`.
    fn load(connection: &Connection, after: DomainId) -> rusqlite::Result<Self> {
        let mut select = connection.prepare_cached(
            "SELECT domain_id, delivery_id, min(message_id), count(*) FROM arrival \
             WHERE domain_id > ?1 GROUP BY domain_id, delivery_id",
        )?;
        let mut rows = select.query([after.0])?;
        let mut found = BTreeMap::new();
        while let Some(row) = rows.next()? {
            found.insert((row.get(0)?, row.get(1)?), (row.get(2)?, number(row.get(3)?)?));
        }
        Ok(Self(found))
    }

    /// The next pair after another one.
    fn next(&self, domain: u32, delivery: i64) -> Option<FirstInLine> {
        let after = (Bound::Excluded((domain, delivery)), Bound::Unbounded);
        let ((domain, delivery), (message, _)) = self.0.range(after).next()?;
        Some(FirstInLine { domain: *domain, delivery: *delivery, due_ms: 0, message: *message })
    }

    /// How many messages of a domain there are.
    fn count(&self, domain: u32) -> u64 {
        self.0.range((domain, i64::MIN)..=(domain, i64::MAX)).map(|(_, (_, count))| count).sum()
    }
}

impl SqliteReads {
    /// Opens a database for reading.
    pub(super) fn open(
        path: &Path,
        cache_bytes: u64,
        totals: SharedTotals,
    ) -> Result<Self, StoreFault> {
        let fault = |error: rusqlite::Error| StoreFault::from_sqlite(path, &error);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(fault)?;
        prepare_connection(&connection, cache_bytes).map_err(fault)?;
        let address_key = connection
            .query_row("SELECT address_key FROM sequence", [], |row| row.get(0))
            .map_err(fault)?;
        Ok(Self { connection, path: path.to_path_buf(), address_key, totals })
    }

    /// Opens the database of a data folder for reading only, whether or not a node works on it. Nothing is changed or
    /// upgraded, and a node is not held up: no read leaves a transaction open. [`Reads::totals`] stay as of now.
    ///
    /// # Errors
    /// There is none, or it is damaged, foreign, or of another version than this program's.
    pub fn look(folder: &Path) -> Result<Self, StoreFault> {
        let path = folder.join(DATABASE_FILE);
        // SQLite would say that it cannot open it, whatever the reason.
        std::fs::metadata(&path).map_err(|error| StoreFault::from_io(&path, &error))?;
        check_header(&path, APPLICATION_ID)?;
        let reads = Self::open(&path, LOOK_CACHE_BYTES, SharedTotals::default())?;
        let fault = |error: rusqlite::Error| StoreFault::from_sqlite(&path, &error);
        let found = version(&reads.connection).map_err(fault)?;
        if found > SCHEMA_VERSION {
            return Err(StoreFault::NewerVersion { path, found, known: SCHEMA_VERSION });
        }
        if found < SCHEMA_VERSION {
            return Err(StoreFault::OlderVersion { path, found, known: SCHEMA_VERSION });
        }
        let totals = read_totals(&reads.connection).map_err(fault)?;
        *reads.totals.lock().unwrap_or_else(PoisonError::into_inner) = totals;
        Ok(reads)
    }

    /// Answers from one state of the database.
    pub(super) fn ask<T>(
        &self,
        question: impl Fn(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreFault> {
        let answer = || {
            let snapshot = self.connection.unchecked_transaction()?;
            question(&snapshot)
        };
        answer().map_err(|error| StoreFault::from_sqlite(&self.path, &error))
    }

    /// Answers from one statement, which needs no transaction around it.
    fn ask_once<T>(
        &self,
        question: impl Fn(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreFault> {
        question(&self.connection).map_err(|error| StoreFault::from_sqlite(&self.path, &error))
    }

    /// The first message in line of the next pair of domain and delivery.
    fn next_pair(
        connection: &Connection,
        arrived: &Arrived,
        domain: u32,
        delivery: i64,
    ) -> rusqlite::Result<Option<FirstInLine>> {
        let queued = Self::next_queued_pair(connection, domain, delivery)?;
        let key = |one: &FirstInLine| (one.domain, one.delivery, one.due_ms, one.message);
        Ok([queued, arrived.next(domain, delivery)].into_iter().flatten().min_by_key(key))
    }

    /// The same of the queue alone.
    fn next_queued_pair(
        connection: &Connection,
        domain: u32,
        delivery: i64,
    ) -> rusqlite::Result<Option<FirstInLine>> {
        // The whole key is compared, with the greatest values at the end: SQLite enters the tree at
        // one place. A comparison of the pair alone would read through all messages of the old pair.
        connection
            .prepare_cached(
                "SELECT domain_id, delivery_id, due_ms, message_id FROM queue \
                 WHERE (domain_id, delivery_id, due_ms, message_id) > (?1, ?2, ?3, ?3) \
                 ORDER BY domain_id, delivery_id, due_ms, message_id LIMIT 1",
            )?
            .query_row(params![domain, delivery, i64::MAX], |row| {
                Ok(FirstInLine {
                    domain: row.get(0)?,
                    delivery: row.get(1)?,
                    due_ms: row.get(2)?,
                    message: row.get(3)?,
                })
            })
            .optional()
    }

    /// The name of a domain that has messages.
    fn name(connection: &Connection, id: u32) -> rusqlite::Result<Box<str>> {
        connection
            .prepare_cached("SELECT name FROM domain WHERE id = ?1")?
            .query_row([id], |row| row.get(0))
    }

    /// Messages of the delivery index and of the rows that are not indexed yet, with this hash.
    pub(super) fn by_hash(connection: &Connection, hash: i64) -> rusqlite::Result<Vec<i64>> {
        let mut found: Vec<i64> = connection
            .prepare_cached(
                "SELECT a.message_id FROM delivery d CROSS JOIN address_index a \
                 ON a.delivery_id = d.id AND a.hash = ?1",
            )?
            .query_map([hash], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        let mut tail = connection.prepare_cached(
            "SELECT id FROM message WHERE id > (SELECT indexed_through FROM sequence) \
             AND address_hash = ?1",
        )?;
        for id in tail.query_map([hash], |row| row.get(0))? {
            found.push(id?);
        }
        // A run that is being written has messages in both.
        found.sort_unstable_by(|left, right| right.cmp(left));
        found.dedup();
        Ok(found)
    }
}

impl Reads for SqliteReads {
    fn deliveries(&self, after: DeliveryId, limit: u32) -> Result<Vec<DeliveryRecord>, StoreFault> {
        self.ask(|connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT {DELIVERY_COLUMNS} FROM delivery WHERE id > ?1 ORDER BY id LIMIT ?2"
                ))?
                .query_map(params![column(after.0), limit], read_delivery)?
                .collect()
        })
    }

    fn delivery(&self, id: DeliveryId) -> Result<Option<DeliveryRecord>, StoreFault> {
        self.ask(|connection| {
            connection
                .prepare_cached(&format!("SELECT {DELIVERY_COLUMNS} FROM delivery WHERE id = ?1"))?
                .query_row([column(id.0)], read_delivery)
                .optional()
        })
    }

    fn totals(&self) -> Result<Totals, StoreFault> {
        self.ask(|connection| {
            let counters = *self.totals.lock().unwrap_or_else(PoisonError::into_inner);
            let mut totals = Totals { counters, ..Totals::default() };
            let mut select =
                connection.prepare_cached("SELECT state, count(*) FROM delivery GROUP BY state")?;
            let mut rows = select.query([])?;
            while let Some(row) = rows.next()? {
                *totals.of(delivery_state(row.get(0)?)?) = number(row.get(1)?)?;
            }
            Ok(totals)
        })
    }

    fn content(&self, id: u64) -> Result<Option<Content>, StoreFault> {
        self.ask_once(|connection| {
            connection
                .prepare_cached("SELECT kind, body FROM content WHERE id = ?1")?
                .query_row([column(id)], |row| {
                    let code: i64 = row.get(0)?;
                    let kind = [ContentKind::Template, ContentKind::Message]
                        .into_iter()
                        .find(|kind| content_code(*kind) == code)
                        .ok_or_else(|| unexpected("kind of content"))?;
                    Ok(Content { id, kind, body: Arc::from(row.get_ref(1)?.as_blob()?) })
                })
                .optional()
        })
    }

    fn message(&self, id: MessageId) -> Result<Option<MessageRecord>, StoreFault> {
        self.ask(|connection| {
            connection
                .prepare_cached(&format!("SELECT {MESSAGE_COLUMNS} FROM message m WHERE id = ?1"))?
                .query_row([column(id.0)], read_message)
                .optional()
        })
    }

    fn past_recipient(&self, id: MessageId) -> Result<Option<PastRecipient>, StoreFault> {
        self.ask(|connection| {
            connection
                .prepare_cached("SELECT delivery_id, hash FROM past WHERE message_id = ?1")?
                .query_row([column(id.0)], |row| {
                    Ok(PastRecipient {
                        delivery: DeliveryId(number(row.get(0)?)?),
                        hash: AddressHash(row.get(1)?),
                    })
                })
                .optional()
        })
    }

    fn messages(&self, after: MessageId, limit: u32) -> Result<Vec<MessageRecord>, StoreFault> {
        self.ask(|connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT {MESSAGE_COLUMNS} FROM message m WHERE id > ?1 ORDER BY id LIMIT ?2"
                ))?
                .query_map(params![column(after.0), limit], read_message)?
                .collect()
        })
    }

    fn messages_by_address(
        &self,
        folded: &str,
        limit: u32,
    ) -> Result<Vec<MessageRecord>, StoreFault> {
        let hash = address_hash(&self.address_key, folded).cast_signed();
        self.ask(|connection| {
            let mut select = connection.prepare_cached(&format!(
                "SELECT {MESSAGE_COLUMNS} FROM message m WHERE id = ?1 \
                 AND coalesce(folded, address) = ?2"
            ))?;
            let mut found = Vec::new();
            for id in Self::by_hash(connection, hash)? {
                if found.len() >= limit as usize {
                    break;
                }
                found.extend(select.query_row(params![id, folded], read_message).optional()?);
            }
            Ok(found)
        })
    }

    fn newest_accepted_before(&self, at: Timestamp) -> Result<Option<MessageId>, StoreFault> {
        let at = floor_ms(at);
        self.ask(|connection| {
            let mut select = connection.prepare_cached(
                "SELECT id, accepted_at FROM message WHERE id <= ?1 ORDER BY id DESC LIMIT 1",
            )?;
            let mut up_to = |id: i64| -> rusqlite::Result<Option<(i64, i64)>> {
                select.query_row([id], |row| Ok((row.get(0)?, row.get(1)?))).optional()
            };
            // Numbers and times of acceptance grow together, so halving finds the border.
            let Some((mut high, newest)) = up_to(i64::MAX)? else { return Ok(None) };
            if newest < at {
                return Ok(Some(MessageId(number(high)?)));
            }
            let mut low = 0;
            while high - low > 1 {
                let middle = low + (high - low) / 2;
                match up_to(middle)? {
                    Some((_, accepted)) if accepted >= at => high = middle,
                    _ => low = middle,
                }
            }
            up_to(low)?.map(|(id, _)| number(id).map(MessageId)).transpose()
        })
    }

    fn refusals(
        &self,
        delivery: DeliveryId,
        from: u64,
        limit: u32,
    ) -> Result<Vec<Refusal>, StoreFault> {
        self.ask(|connection| {
            connection
                .prepare_cached(
                    "SELECT ordinal, line, address, reason FROM refusal \
                     WHERE delivery_id = ?1 AND ordinal >= ?2 ORDER BY ordinal LIMIT ?3",
                )?
                .query_map(params![column(delivery.0), column(from), limit], |row| {
                    Ok(Refusal {
                        ordinal: number(row.get(0)?)?,
                        line: number(row.get(1)?)?,
                        address: row.get(2)?,
                        reason: row.get(3)?,
                    })
                })?
                .collect()
        })
    }

    fn domain(&self, name: &str) -> Result<Option<DomainId>, StoreFault> {
        self.ask(|connection| {
            connection
                .prepare_cached("SELECT id FROM domain WHERE name = ?1")?
                .query_row([name], |row| row.get(0).map(DomainId))
                .optional()
        })
    }

    fn domain_name(&self, id: DomainId) -> Result<Option<Box<str>>, StoreFault> {
        self.ask(|connection| Self::name(connection, id.0).optional())
    }

    fn due_domains(&self, after: DomainId, limit: u32) -> Result<Vec<DueDomain>, StoreFault> {
        self.ask(|connection| {
            let arrived = Arrived::load(connection, after)?;
            let mut domains: Vec<DueDomain> = Vec::new();
            let (mut domain, mut delivery) = (after.0, i64::MAX);
            while let Some(first) = Self::next_pair(connection, &arrived, domain, delivery)? {
                (domain, delivery) = (first.domain, first.delivery);
                let due = DeliveryDue {
                    delivery: DeliveryId(number(delivery)?),
                    earliest: moment(first.due_ms),
                };
                if domains.last().is_none_or(|last| last.id.0 != domain) {
                    if domains.len() >= limit as usize {
                        break;
                    }
                    domains.push(DueDomain {
                        id: DomainId(domain),
                        name: Self::name(connection, domain)?,
                        deliveries: Vec::new(),
                    });
                }
                if let Some(last) = domains.last_mut() {
                    last.deliveries.push(due);
                }
            }
            Ok(domains)
        })
    }

    fn domain_queues(
        &self,
        after: DomainId,
        limit: u32,
        count_up_to: u64,
    ) -> Result<Vec<DomainQueue>, StoreFault> {
        self.ask(|connection| {
            let mut count = connection.prepare_cached(
                "SELECT count(*) FROM (SELECT 1 FROM queue WHERE domain_id = ?1 LIMIT ?2)",
            )?;
            let mut accepted =
                connection.prepare_cached("SELECT accepted_at FROM message WHERE id = ?1")?;
            let arrived = Arrived::load(connection, after)?;
            let mut queues: Vec<DomainQueue> = Vec::new();
            let (mut domain, mut delivery) = (after.0, i64::MAX);
            while let Some(first) = Self::next_pair(connection, &arrived, domain, delivery)? {
                (domain, delivery) = (first.domain, first.delivery);
                if queues.last().is_none_or(|last| last.id.0 != domain) {
                    if queues.len() >= limit as usize {
                        break;
                    }
                    let queued =
                        count.query_row(params![domain, column(count_up_to)], |row| row.get(0))?;
                    let queued = number(queued)?.saturating_add(arrived.count(domain));
                    queues.push(DomainQueue {
                        id: DomainId(domain),
                        name: Self::name(connection, domain)?,
                        queued: queued.min(count_up_to),
                        oldest: Timestamp::NEVER,
                    });
                }
                let since = accepted.query_row([first.message], |row| row.get(0))?;
                if let Some(last) = queues.last_mut() {
                    last.oldest = last.oldest.min(moment(since));
                }
            }
            Ok(queues)
        })
    }

    fn parts(&self, limit: u32) -> Result<Vec<PartRecord>, StoreFault> {
        self.ask(|connection| {
            connection
                .prepare_cached(
                    "SELECT id, node, incarnation, lease_until, domain_id FROM part \
                     ORDER BY id LIMIT ?1",
                )?
                .query_map([limit], |row| {
                    Ok(PartRecord {
                        id: PartId(number(row.get(0)?)?),
                        node: row.get(1)?,
                        incarnation: number(row.get(2)?)?,
                        lease_until: moment(row.get(3)?),
                        domain: DomainId(row.get(4)?),
                    })
                })?
                .collect()
        })
    }

    fn ledger(&self, kind: u8, since_slot: u64) -> Result<Vec<LedgerRow>, StoreFault> {
        self.ask(|connection| {
            connection
                .prepare_cached(
                    "SELECT key, slot, value, extra FROM ledger WHERE kind = ?1 AND slot >= ?2 \
                     ORDER BY key, slot",
                )?
                .query_map(params![kind, column(since_slot)], |row| {
                    Ok(LedgerRow {
                        kind,
                        key: row.get(0)?,
                        slot: number(row.get(1)?)?,
                        value: row.get(2)?,
                        extra: row.get(3)?,
                    })
                })?
                .collect()
        })
    }

    fn setting(&self, key: &str) -> Result<Option<Box<str>>, StoreFault> {
        self.ask(|connection| {
            connection
                .prepare_cached("SELECT value FROM setting WHERE key = ?1")?
                .query_row([key], |row| row.get(0))
                .optional()
        })
    }

    fn audit(&self, limit: u32) -> Result<Vec<AuditEntry>, StoreFault> {
        self.ask(|connection| {
            connection
                .prepare_cached("SELECT at, who, what, why FROM audit ORDER BY id DESC LIMIT ?1")?
                .query_map([limit], |row| {
                    Ok(AuditEntry {
                        at: moment(row.get(0)?),
                        who: row.get(1)?,
                        what: row.get(2)?,
                        why: row.get(3)?,
                    })
                })?
                .collect()
        })
    }
}
