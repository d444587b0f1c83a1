//! Out of the queue into parts, and from there to the end or back: the hot way out.

use std::collections::BTreeSet;

use engine::work::{DeliveryState, Fate, FinalState, QueuedMessage, Settled};
use mail::id::{DeliveryId, MessageId, SourceId};
use mail::time::Timestamp;
use rusqlite::{OptionalExtension, Row, params};

use super::arrivals::{DELETE_ARRIVAL, Pair};
use super::batch::{Batch, Held, Stop, held_state, read_ids};
use super::codec::{ceil_ms, column, final_code, floor_ms, moment, number};
use crate::limits::{LAST_REPLY_LIMIT, RELEASE_PARTS, SWEEP_DOMAINS, cut};
use crate::words::{
    ClaimRequest, Claimed, DomainId, PartId, RefusedWrite, Released, SettleReport, Sweep, Swept,
    Written,
};

/// A message taken from the queue, with the number of its own content and its place there.
struct Taken {
    message: QueuedMessage,
    due_ms: i64,
}

/// What is taken: one delivery's messages for one domain.
#[derive(Clone, Copy)]
struct Stretch {
    domain: DomainId,
    delivery: DeliveryId,
    through: i64,
}

impl Stretch {
    const fn pair(self) -> Pair {
        Pair { domain: self.domain.0, delivery: self.delivery.0 }
    }
}

const TAKE_ARRIVAL: &str = "SELECT id, address, merge, content_id, sender, attempts, accepted_at, \
     due_ms, pinned FROM message WHERE id = ?1";

const TAKE_FRESH: &str = "SELECT m.id, m.address, m.merge, m.content_id, m.sender, m.attempts, \
     m.accepted_at, q.due_ms, m.pinned FROM queue q CROSS JOIN message m ON m.id = q.message_id \
     WHERE q.domain_id = ?1 AND q.delivery_id = ?2 AND q.due_ms = 0 AND q.message_id <= ?3 \
     ORDER BY q.message_id LIMIT ?4";

const TAKE_RETRIES: &str = "SELECT m.id, m.address, m.merge, m.content_id, m.sender, m.attempts, \
     m.accepted_at, q.due_ms, m.pinned FROM queue q CROSS JOIN message m ON m.id = q.message_id \
     WHERE q.domain_id = ?1 AND q.delivery_id = ?2 AND q.due_ms >= 1 AND q.due_ms <= ?5 \
     AND q.message_id <= ?3 ORDER BY q.due_ms, q.message_id LIMIT ?4";

/// Up to and including a message, in the order in which retries are taken.
const DELETE_RETRIES: &str = "DELETE FROM queue WHERE domain_id = ?1 AND delivery_id = ?2 \
     AND due_ms >= 1 AND (due_ms, message_id) <= (?3, ?4)";

const DELETE_ONE: &str = "DELETE FROM queue WHERE domain_id = ?1 AND delivery_id = ?2 \
     AND due_ms = ?3 AND message_id = ?4";

/// What a fate comes to in a delivery of this state: nothing is returned to the queue of a cancelled
/// one, where no sweep would find it again.
pub(crate) fn fate_in(state: DeliveryState, fate: Fate) -> Fate {
    match (state, fate) {
        (DeliveryState::Cancelled, Fate::Requeued { .. }) => Fate::Final(FinalState::Cancelled),
        _ => fate,
    }
}

/// An empty text for an empty column.
fn text(row: &Row<'_>, index: usize) -> rusqlite::Result<Box<str>> {
    Ok(row.get_ref(index)?.as_str_or_null()?.unwrap_or_default().into())
}

fn read_taken(row: &Row<'_>, delivery: DeliveryId) -> rusqlite::Result<Taken> {
    let due_ms = row.get(7)?;
    let message = QueuedMessage {
        id: MessageId(number(row.get(0)?)?),
        delivery,
        recipient: text(row, 1)?,
        merge: text(row, 2)?,
        content: number(row.get(3)?)?,
        sender: text(row, 4)?,
        attempts: row.get(5)?,
        accepted_at: moment(row.get(6)?),
        due: moment(due_ms),
        pinned_source: row.get::<_, Option<u32>>(8)?.map(SourceId),
    };
    Ok(Taken { message, due_ms })
}

impl Batch<'_> {
    /// Takes messages of one domain.
    pub(super) fn claim(&mut self, request: &ClaimRequest) -> Result<Written, Stop> {
        let mut running = Vec::with_capacity(request.deliveries.len());
        for from in &request.deliveries {
            match self.account(from.delivery) {
                Ok(account) if account.state == DeliveryState::Running => running.push(*from),
                Ok(_) | Err(Stop::Refused(_)) => {}
                Err(stop) => return Err(stop),
            }
        }
        let until = floor_ms(request.due_until);
        let mut messages: Vec<QueuedMessage> = Vec::with_capacity(request.limit as usize);
        let mut next_due: Option<i64> = None;
        for from in &running {
            let stretch = Stretch {
                domain: request.domain,
                delivery: from.delivery,
                through: from.through.map_or(i64::MAX, |id| column(id.0)),
            };
            let room = request.limit - messages.len() as u32;
            let room = room.min(from.at_most.unwrap_or(u32::MAX));
            let before = messages.len();
            let queued = self.is_queued(stretch.pair())?;
            if queued {
                self.take(stretch, until, room, &mut messages)?;
            } else {
                self.take_arrivals(stretch, room, &mut messages)?;
            }
            let rest = if self.first_arrival(stretch)?.is_some() {
                Some(0)
            } else if queued {
                self.earliest(stretch)?
            } else {
                None
            };
            let account = self.account(from.delivery)?;
            account.counters.in_flight += (messages.len() - before) as u64;
            account.dirty |= messages.len() > before;
            next_due = [next_due, rest].into_iter().flatten().min();
        }
        let part = self.hold(request, &messages)?;
        Ok(Written::Claimed(Claimed { part, messages, next_due: next_due.map(moment) }))
    }

    /// The first arrival of a stretch.
    fn first_arrival(&self, stretch: Stretch) -> rusqlite::Result<Option<u64>> {
        Ok(self.memory.arrivals.first(stretch.pair(), number(stretch.through)?))
    }

    /// Takes up to `room` arrivals of a stretch.
    fn take_arrivals(
        &mut self,
        stretch: Stretch,
        room: u32,
        messages: &mut Vec<QueuedMessage>,
    ) -> rusqlite::Result<()> {
        let through = number(stretch.through)?;
        let mut select = self.connection.prepare_cached(TAKE_ARRIVAL)?;
        let mut delete = self.connection.prepare_cached(DELETE_ARRIVAL)?;
        for id in self.memory.arrivals.take(stretch.pair(), through, room as usize) {
            let id = column(id);
            delete.execute([id])?;
            match select.query_row([id], |row| read_taken(row, stretch.delivery)).optional()? {
                Some(taken) => messages.push(taken.message),
                None => {
                    tracing::error!(message = id, "a waiting message has no row; it is left out")
                }
            }
        }
        Ok(())
    }

    /// Takes up to `room` messages of one delivery: half retries, then fresh ones, then retries.
    fn take(
        &mut self,
        stretch: Stretch,
        until: i64,
        room: u32,
        messages: &mut Vec<QueuedMessage>,
    ) -> rusqlite::Result<()> {
        let end = messages.len() + room as usize;
        self.take_retries(stretch, until, room.div_ceil(2), messages)?;
        self.take_fresh_and_arrivals(stretch, end, messages)?;
        self.take_retries(stretch, until, (end - messages.len()) as u32, messages)
    }

    /// Takes fresh messages, those of the queue and arrivals, in the order of their numbers, until there are `end`.
    fn take_fresh_and_arrivals(
        &mut self,
        stretch: Stretch,
        end: usize,
        messages: &mut Vec<QueuedMessage>,
    ) -> rusqlite::Result<()> {
        while messages.len() < end {
            let room = (end - messages.len()) as u32;
            let Some(arrival) = self.first_arrival(stretch)? else {
                return self.take_fresh(stretch, room, messages);
            };
            match self.first_fresh(stretch)? {
                Some(queued) if queued < column(arrival) => {
                    let before = Stretch { through: column(arrival), ..stretch };
                    self.take_fresh(before, room, messages)?;
                }
                Some(queued) => {
                    let before = Stretch { through: queued, ..stretch };
                    self.take_arrivals(before, room, messages)?;
                }
                None => return self.take_arrivals(stretch, room, messages),
            }
        }
        Ok(())
    }

    /// The first fresh message in the queue.
    fn first_fresh(&self, stretch: Stretch) -> rusqlite::Result<Option<i64>> {
        self.connection
            .prepare_cached(
                "SELECT message_id FROM queue WHERE domain_id = ?1 AND delivery_id = ?2 \
                 AND due_ms = 0 AND message_id <= ?3 ORDER BY message_id LIMIT 1",
            )?
            .query_row(
                params![stretch.domain.0, column(stretch.delivery.0), stretch.through],
                |row| row.get(0),
            )
            .optional()
    }

    fn take_fresh(
        &self,
        stretch: Stretch,
        room: u32,
        messages: &mut Vec<QueuedMessage>,
    ) -> rusqlite::Result<()> {
        if room == 0 {
            return Ok(());
        }
        let (domain, delivery) = (stretch.domain.0, column(stretch.delivery.0));
        let from = messages.len();
        let mut select = self.connection.prepare_cached(TAKE_FRESH)?;
        let mut rows = select.query(params![domain, delivery, stretch.through, room])?;
        while let Some(row) = rows.next()? {
            messages.push(read_taken(row, stretch.delivery)?.message);
        }
        if let (Some(first), Some(last)) = (messages.get(from), messages.last()) {
            // Fresh messages lie side by side, so one statement removes them all.
            self.connection
                .prepare_cached(
                    "DELETE FROM queue WHERE domain_id = ?1 AND delivery_id = ?2 AND due_ms = 0 \
                     AND message_id BETWEEN ?3 AND ?4",
                )?
                .execute(params![domain, delivery, column(first.id.0), column(last.id.0)])?;
        }
        Ok(())
    }

    fn take_retries(
        &self,
        stretch: Stretch,
        until: i64,
        room: u32,
        messages: &mut Vec<QueuedMessage>,
    ) -> rusqlite::Result<()> {
        if room == 0 {
            return Ok(());
        }
        let (domain, delivery) = (stretch.domain.0, column(stretch.delivery.0));
        let mut taken = Vec::new();
        let mut select = self.connection.prepare_cached(TAKE_RETRIES)?;
        let mut rows = select.query(params![domain, delivery, stretch.through, room, until])?;
        while let Some(row) = rows.next()? {
            taken.push(read_taken(row, stretch.delivery)?);
        }
        if stretch.through == i64::MAX
            && let Some(last) = taken.last()
        {
            // Nothing before the last one was left out, so one statement removes them all.
            let last = params![domain, delivery, last.due_ms, column(last.message.id.0)];
            let removed = self.connection.prepare_cached(DELETE_RETRIES)?.execute(last)?;
            if removed != taken.len() {
                let taken = taken.len();
                tracing::error!(removed, taken, "the queue held retries that have no message");
            }
        } else {
            let mut delete = self.connection.prepare_cached(DELETE_ONE)?;
            for one in &taken {
                delete.execute(params![domain, delivery, one.due_ms, column(one.message.id.0)])?;
            }
        }
        messages.extend(taken.into_iter().map(|one| one.message));
        Ok(())
    }

    /// The earliest due time of what remains in the queue.
    fn earliest(&self, stretch: Stretch) -> rusqlite::Result<Option<i64>> {
        if self.first_fresh(stretch)?.is_some() {
            return Ok(Some(0));
        }
        self.connection
            .prepare_cached(
                "SELECT due_ms FROM queue WHERE domain_id = ?1 AND delivery_id = ?2 \
                 AND due_ms >= 1 AND message_id <= ?3 ORDER BY due_ms, message_id LIMIT 1",
            )?
            .query_row(
                params![stretch.domain.0, column(stretch.delivery.0), stretch.through],
                |row| row.get(0),
            )
            .optional()
    }

    /// Puts claimed messages into a new part.
    fn hold(
        &mut self,
        request: &ClaimRequest,
        messages: &[QueuedMessage],
    ) -> rusqlite::Result<Option<PartId>> {
        if messages.is_empty() {
            return Ok(None);
        }
        let part = self.memory.next.part;
        self.memory.next.part += 1;
        let mut ids = Vec::with_capacity(messages.len() * 8);
        for message in messages {
            ids.extend_from_slice(&message.id.0.to_le_bytes());
            let held = Held {
                part,
                delivery: message.delivery.0,
                domain: request.domain.0,
                content: message.content,
            };
            self.memory.held.insert(message.id.0, held);
        }
        self.memory.outstanding.insert(part, messages.len() as u32);
        self.connection
            .prepare_cached(
                "INSERT INTO part (id, node, incarnation, lease_until, domain_id, ids) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                column(part),
                self.memory.node,
                column(self.memory.incarnation),
                floor_ms(request.lease_until),
                request.domain.0,
                ids
            ])?;
        Ok(Some(PartId(part)))
    }

    /// Ends claimed messages or returns them to the queue.
    pub(super) fn settle(&mut self, settled: &[Settled]) -> Result<Written, Stop> {
        let connection = self.connection;
        let mut end = connection.prepare_cached(
            "UPDATE message SET state = ?2, attempts = ?3, settled_at = ?4, last_reply = ?5 \
             WHERE id = ?1",
        )?;
        let mut requeue = connection.prepare_cached(
            "UPDATE message SET attempts = ?2, due_ms = ?3, pinned = ?4, last_reply = ?5, \
             last_part = ?6 WHERE id = ?1",
        )?;
        let mut report = SettleReport::default();
        let mut touched = BTreeSet::new();
        for one in settled {
            let Some(held) = self.memory.held.get(&one.id.0).copied() else {
                report.late.push(one.id);
                continue;
            };
            if held.delivery != one.delivery.0 {
                report.late.push(one.id);
                continue;
            }
            self.memory.held.remove(&one.id.0);
            let id = column(one.id.0);
            let reply = cut(&one.last_reply, LAST_REPLY_LIMIT);
            let reply = (!reply.is_empty()).then_some(reply);
            let account = self.account(one.delivery)?;
            account.counters.in_flight -= 1;
            account.dirty = true;
            let fate = fate_in(account.state, one.fate);
            if fate != one.fate {
                report.cancelled.push(one.id);
            }
            match fate {
                Fate::Final(state) => {
                    *account.counters.of(state) += 1;
                    let at = floor_ms(one.at);
                    end.execute(params![id, final_code(state), one.attempts, at, reply])?;
                    self.release_content(held.content)?;
                }
                Fate::Requeued { due, pinned_source } => {
                    let due = ceil_ms(due);
                    requeue.execute(params![
                        id,
                        one.attempts,
                        due,
                        pinned_source.map(|source| source.0),
                        reply,
                        column(held.part)
                    ])?;
                    self.enqueue(held.domain, held.delivery, due, one.id.0)?;
                }
            }
            report.settled += 1;
            touched.insert(one.delivery);
            self.let_go(held.part)?;
        }
        for delivery in touched {
            if self.account(delivery)?.finish_if_done() {
                report.finished.push(delivery);
            }
        }
        Ok(Written::Settled(report))
    }

    /// One message of a part is settled; with the last of them the part goes.
    fn let_go(&mut self, part: u64) -> rusqlite::Result<()> {
        if let Some(left) = self.memory.outstanding.get_mut(&part) {
            *left -= 1;
            if *left == 0 {
                self.memory.outstanding.remove(&part);
                self.connection
                    .prepare_cached("DELETE FROM part WHERE id = ?1")?
                    .execute([column(part)])?;
            }
        }
        Ok(())
    }

    fn enqueue(
        &mut self,
        domain: u32,
        delivery: u64,
        due: i64,
        message: u64,
    ) -> rusqlite::Result<()> {
        self.memory.arrivals.queued(Pair { domain, delivery });
        self.connection
            .prepare_cached(
                "INSERT INTO queue (domain_id, delivery_id, due_ms, message_id) \
                 VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![domain, column(delivery), due, column(message)])?;
        Ok(())
    }

    /// Ends queued messages as expired.
    pub(super) fn expire(&mut self, sweep: &Sweep) -> Result<Written, Stop> {
        let state = self.account(sweep.delivery)?.state;
        if !matches!(state, DeliveryState::Running | DeliveryState::Paused) {
            let delivery = sweep.delivery;
            let needed = "only messages of a running or paused delivery expire";
            return Err(RefusedWrite::WrongState { delivery, state, needed }.into());
        }
        self.sweep(sweep, FinalState::Expired)
    }

    /// Ends queued messages as cancelled.
    pub(super) fn cancel_queued(&mut self, sweep: &Sweep) -> Result<Written, Stop> {
        let state = self.account(sweep.delivery)?.state;
        if state != DeliveryState::Cancelled {
            let delivery = sweep.delivery;
            let needed = "cancel the delivery first";
            return Err(RefusedWrite::WrongState { delivery, state, needed }.into());
        }
        self.sweep(sweep, FinalState::Cancelled)
    }

    fn sweep(&mut self, sweep: &Sweep, into: FinalState) -> Result<Written, Stop> {
        let connection = self.connection;
        let mut next_domain = connection.prepare_cached(
            "SELECT domain_id FROM queue WHERE domain_id >= ?1 ORDER BY domain_id LIMIT 1",
        )?;
        let mut count = 0;
        let mut next = None;
        let mut from = sweep.from.0;
        for visit in 0.. {
            let queued: Option<u32> = next_domain.query_row([from], |row| row.get(0)).optional()?;
            let arrived = self.memory.arrivals.next_domain(from);
            let Some(domain) = queued.into_iter().chain(arrived).min() else { break };
            if visit == SWEEP_DOMAINS || count == sweep.limit {
                next = Some(DomainId(domain));
                break;
            }
            let ended = self.sweep_domain(sweep, into, domain, sweep.limit - count)?;
            count += ended;
            // A full stretch may have left some of this domain.
            from = if count == sweep.limit { domain } else { domain.saturating_add(1) };
        }
        let account = self.account(sweep.delivery)?;
        *account.counters.of(into) += u64::from(count);
        account.dirty = true;
        let finished = account.finish_if_done();
        Ok(Written::Swept(Swept { count, next, finished }))
    }

    /// Ends up to `room` messages of one domain, the first in line.
    fn sweep_domain(
        &mut self,
        sweep: &Sweep,
        into: FinalState,
        domain: u32,
        room: u32,
    ) -> rusqlite::Result<u32> {
        let pair = Pair { domain, delivery: sweep.delivery.0 };
        let delivery = column(pair.delivery);
        let through = sweep.through.map_or(i64::MAX, |through| column(through.0));
        let mut found: Vec<(i64, i64)> = self
            .connection
            .prepare_cached(
                "SELECT due_ms, message_id FROM queue WHERE domain_id = ?1 AND delivery_id = ?2 \
                 AND message_id <= ?4 ORDER BY due_ms, message_id LIMIT ?3",
            )?
            .query_map(params![domain, delivery, room, through], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        let arrived = self.memory.arrivals.peek(pair, number(through)?, room as usize);
        found.extend(arrived.iter().map(|message| (0, column(*message))));
        found.sort_unstable();
        found.truncate(room as usize);
        let mut delete = self.connection.prepare_cached(DELETE_ONE)?;
        let mut delete_arrival = self.connection.prepare_cached(DELETE_ARRIVAL)?;
        let mut end = self.connection.prepare_cached(
            "UPDATE message SET state = ?2, settled_at = ?3, last_reply = ?4 WHERE id = ?1 \
             RETURNING content_id",
        )?;
        let (code, at) = (final_code(into), floor_ms(sweep.at));
        let reason = cut(&sweep.reason, LAST_REPLY_LIMIT);
        let reason = (!reason.is_empty()).then_some(reason);
        let mut ended_arrivals = 0;
        for (due, message) in &found {
            if delete.execute(params![domain, delivery, due, message])? == 0 {
                delete_arrival.execute([message])?;
                ended_arrivals += 1;
            }
            let content: Option<i64> =
                end.query_row(params![message, code, at, reason], |row| row.get(0)).optional()?;
            self.release_content(number(content.unwrap_or_default())?)?;
        }
        self.memory.arrivals.take(pair, number(through)?, ended_arrivals);
        Ok(found.len() as u32)
    }

    /// Returns to the queue what parts of the past hold.
    pub(super) fn release_parts(&mut self, now: Timestamp) -> Result<Written, Stop> {
        let parts: Vec<(i64, Vec<u8>)> = self
            .connection
            .prepare_cached(
                "SELECT id, ids FROM part WHERE CASE WHEN node = ?1 THEN incarnation < ?2 \
                 ELSE lease_until < ?3 END ORDER BY id LIMIT ?4",
            )?
            .query_map(
                params![
                    self.memory.node,
                    column(self.memory.incarnation),
                    floor_ms(now),
                    RELEASE_PARTS + 1
                ],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?
            .collect::<rusqlite::Result<_>>()?;
        let mut released =
            Released { parts: 0, messages: 0, more: parts.len() > RELEASE_PARTS as usize };
        for (part, ids) in parts.into_iter().take(RELEASE_PARTS as usize) {
            for message in read_ids(&ids)? {
                let Some(state) = held_state(self.connection, number(part)?, message)? else {
                    continue;
                };
                self.enqueue(state.domain, state.delivery, state.due_ms, message)?;
                let account = self.account(DeliveryId(state.delivery))?;
                account.counters.in_flight -= 1;
                account.dirty = true;
                released.messages += 1;
            }
            self.connection.prepare_cached("DELETE FROM part WHERE id = ?1")?.execute([part])?;
            released.parts += 1;
        }
        Ok(Written::Released(released))
    }

    /// Extends the leases of this node's parts.
    pub(super) fn renew_leases(&mut self, until: Timestamp) -> Result<Written, Stop> {
        self.connection
            .prepare_cached(
                "UPDATE part SET lease_until = ?3 WHERE node = ?1 AND incarnation = ?2",
            )?
            .execute(params![self.memory.node, column(self.memory.incarnation), floor_ms(until)])?;
        Ok(Written::Done)
    }
}
