//! Accepting recipients: the hot way in.

use std::collections::HashMap;
use std::sync::Arc;

use engine::work::DeliveryState;
use mail::id::{DeliveryId, MessageId};
use mail::time::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::address_hash::address_hash;
use super::arrivals::Pair;
use super::batch::{Batch, Stop};
use super::codec::{column, floor_ms, number};
use super::recent::{Entry, Recent};
use crate::words::{
    Appended, DomainId, Earlier, NewContent, NewRecipient, NewRefusal, Once, RefusedWrite,
    TouchedDomain, Written,
};

/// Looks for an earlier message of one delivery with the same folded address.
struct DuplicateCheck<'a> {
    connection: &'a Connection,
    recent: &'a Recent,
    delivery: u64,
    indexed: bool,
}

impl DuplicateCheck<'_> {
    /// The earlier message, if there is one.
    fn find(&self, hash: u64, folded: &str) -> rusqlite::Result<Option<u64>> {
        if let Some(first) = self.recent.first(self.delivery, hash) {
            if self.is(first, folded)? {
                return Ok(Some(first));
            }
            for message in self.recent.all(self.delivery, hash) {
                if self.is(message, folded)? {
                    return Ok(Some(message));
                }
            }
        }
        if self.indexed {
            let mut select = self.connection.prepare_cached(
                "SELECT message_id FROM address_index WHERE delivery_id = ?1 AND hash = ?2",
            )?;
            let mut rows = select.query([column(self.delivery), hash.cast_signed()])?;
            while let Some(row) = rows.next()? {
                let message = number(row.get(0)?)?;
                if self.is(message, folded)? {
                    return Ok(Some(message));
                }
            }
        }
        Ok(None)
    }

    /// Whether the message has this folded address: hashes can agree by chance.
    fn is(&self, message: u64, folded: &str) -> rusqlite::Result<bool> {
        let mut select = self.connection.prepare_cached(
            "SELECT 1 FROM message WHERE id = ?1 AND coalesce(folded, address) = ?2",
        )?;
        Ok(select.query_row(params![column(message), folded], |_| Ok(())).optional()?.is_some())
    }
}

/// The domains that got work.
#[derive(Default)]
struct Touched {
    domains: Vec<TouchedDomain>,
    places: HashMap<DomainId, usize>,
}

impl Touched {
    /// Counts one more message for a domain.
    fn count(&mut self, id: DomainId, name: Arc<str>) {
        let place = *self.places.entry(id).or_insert_with(|| {
            self.domains.push(TouchedDomain { id, name, count: 0 });
            self.domains.len() - 1
        });
        self.domains[place].count += 1;
    }
}

/// `None` for an empty text: such a column takes no room.
fn unless_empty(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

impl Batch<'_> {
    /// Accepts recipients.
    pub(super) fn append(
        &mut self,
        delivery: DeliveryId,
        content: Option<&NewContent>,
        recipients: &[NewRecipient],
        at: Timestamp,
        once: Option<&Once>,
    ) -> Result<Written, Stop> {
        if let Some(earlier) = self.find_once(once)? {
            return Ok(Written::Repeated(earlier));
        }
        let account = self.account(delivery)?;
        let (stream, indexed) = (account.stream, account.indexed);
        let open = match account.state {
            DeliveryState::Draft => true,
            DeliveryState::Running | DeliveryState::Paused => stream,
            DeliveryState::Cancelled | DeliveryState::Finished => false,
        };
        if !open {
            return Err(RefusedWrite::WrongState {
                delivery,
                state: account.state,
                needed: "recipients can be added only before it is started",
            }
            .into());
        }
        if stream != content.is_some() && (!stream || account.content == 0) {
            return Err(RefusedWrite::WrongContent(delivery).into());
        }
        let content_id = if content.is_some() { self.memory.next.content } else { 0 };
        let first = self.memory.next.message;
        let (appended, repeats) =
            self.append_rows(delivery, content_id, recipients, floor_ms(at), stream, indexed)?;
        if appended.accepted > 0 {
            if let Some(content) = content {
                self.put_stream_content(content, appended.accepted)?;
            }
            if !stream {
                self.extend_segments(delivery, first, u64::from(appended.accepted))?;
            }
        }
        let account = self.account(delivery)?;
        account.counters.accepted += u64::from(appended.accepted);
        account.counters.duplicates += repeats.len() as u64;
        account.dirty = true;
        self.keep_refusals(delivery, &repeats)?;
        let earlier =
            Earlier { delivery, first: appended.first, accepted: u64::from(appended.accepted) };
        self.keep_once(once, earlier, at)?;
        Ok(Written::Appended(appended))
    }

    /// Writes the rows of those that are new, and answers who was not.
    fn append_rows(
        &mut self,
        delivery: DeliveryId,
        content_id: u64,
        recipients: &[NewRecipient],
        accepted_at: i64,
        stream: bool,
        indexed: bool,
    ) -> Result<(Appended, Vec<NewRefusal>), Stop> {
        let connection = self.connection;
        let mut insert_message = connection.prepare_cached(
            "INSERT INTO message (id, delivery_id, domain_id, accepted_at, content_id, \
             address_hash, address, folded, sender, merge) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?;
        let mut insert_queue = connection.prepare_cached(if stream {
            "INSERT INTO arrival (domain_id, delivery_id, message_id) VALUES (?1, ?2, ?3)"
        } else {
            "INSERT INTO queue (domain_id, delivery_id, due_ms, message_id) VALUES (?1, ?2, 0, ?3)"
        })?;
        let first = self.memory.next.message;
        let mut repeats = Vec::new();
        let mut touched = Touched::default();
        for row in recipients {
            let folded = if row.folded.is_empty() { &row.address } else { &row.folded };
            let hash = address_hash(&self.memory.address_key, folded);
            if !stream {
                let recent = &self.memory.recent;
                let check = DuplicateCheck { connection, recent, delivery: delivery.0, indexed };
                if let Some(earlier) = check.find(hash, folded)? {
                    repeats.push(NewRefusal {
                        line: row.line,
                        address: row.address.clone(),
                        reason: format!("duplicate of {}", MessageId(earlier)).into(),
                    });
                    continue;
                }
            }
            let (domain, name) = self.intern_domain(&row.domain)?;
            let id = self.memory.next.message;
            self.memory.next.message += 1;
            insert_message.execute(params![
                column(id),
                column(delivery.0),
                domain.0,
                accepted_at,
                column(content_id),
                hash.cast_signed(),
                row.address,
                (folded != &row.address).then_some(folded),
                unless_empty(&row.sender),
                unless_empty(&row.merge),
            ])?;
            insert_queue.execute(params![domain.0, column(delivery.0), column(id)])?;
            let pair = Pair { domain: domain.0, delivery: delivery.0 };
            if stream {
                self.memory.arrivals.add(pair, id);
            } else {
                self.memory.arrivals.queued(pair);
            }
            self.memory.recent.add(Entry { delivery: delivery.0, hash, message: id });
            touched.count(domain, name);
        }
        let accepted = (self.memory.next.message - first) as u32;
        let appended = Appended {
            first: (accepted > 0).then_some(MessageId(first)),
            accepted,
            duplicates: repeats.iter().map(|repeat| repeat.line).collect(),
            domains: touched.domains,
            content: content_id,
        };
        Ok((appended, repeats))
    }

    /// The number of a domain, a new one where it is seen for the first time.
    fn intern_domain(&mut self, name: &str) -> rusqlite::Result<(DomainId, Arc<str>)> {
        if let Some((name, id)) = self.memory.domains.get_key_value(name) {
            return Ok((*id, Arc::clone(name)));
        }
        let known = self
            .connection
            .prepare_cached("SELECT id FROM domain WHERE name = ?1")?
            .query_row([name], |row| row.get(0))
            .optional()?;
        let id = if let Some(id) = known {
            id
        } else {
            let id = self.memory.next.domain;
            self.memory.next.domain += 1;
            self.connection
                .prepare_cached("INSERT INTO domain (id, name) VALUES (?1, ?2)")?
                .execute(params![id, name])?;
            id
        };
        let name: Arc<str> = name.into();
        self.memory.domains.insert(Arc::clone(&name), DomainId(id));
        Ok((DomainId(id), name))
    }

    /// Notes the ranks of new messages: in the last segment where they follow on, else in a new one.
    fn extend_segments(
        &mut self,
        delivery: DeliveryId,
        first: u64,
        count: u64,
    ) -> rusqlite::Result<()> {
        let last: Option<(i64, i64, i64)> = self
            .connection
            .prepare_cached(
                "SELECT first_ordinal, first_id, count FROM segment WHERE delivery_id = ?1 \
                 ORDER BY first_ordinal DESC LIMIT 1",
            )?
            .query_row([column(delivery.0)], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let (ordinal, follows) = match last {
            None => (0, false),
            Some((ordinal, id, length)) if id + length == column(first) => (ordinal, true),
            Some((ordinal, _, length)) => (ordinal + length, false),
        };
        let statement = if follows {
            "UPDATE segment SET count = count + ?4 WHERE delivery_id = ?1 AND first_ordinal = ?2"
        } else {
            "INSERT INTO segment (delivery_id, first_ordinal, first_id, count) \
             VALUES (?1, ?2, ?3, ?4)"
        };
        self.connection.prepare_cached(statement)?.execute(params![
            column(delivery.0),
            ordinal,
            column(first),
            column(count)
        ])?;
        Ok(())
    }
}
