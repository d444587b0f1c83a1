//! What each write does to the maps. A write is refused before it changes anything.

use std::collections::BTreeSet;
use std::sync::Arc;

use engine::quarantine::LedgerWrite;
use engine::work::QueuedMessage;
use engine::work::{Delivery, DeliveryOptions, DeliveryState, Fate, FinalState, Settled};
use mail::id::{DeliveryId, MessageId};
use mail::time::Timestamp;

use super::{DeliveryRow, MemoryStore, MessageRow, PartRow, Place, QueueKey};
use crate::limits::{
    LAST_REPLY_LIMIT, REFUSALS_KEPT, RELEASE_PARTS, SWEEP_DOMAINS, check, cut, cut_refusal,
};
use crate::quarantine::{Halt, Ledger};
use crate::sqlite::claims::fate_in;
use crate::sqlite::codec::{ceil_ms, floor_ms, moment};
use crate::sqlite::deliveries::transition_fault;
use crate::waves::{Segment, wave_ends};
use crate::words::{
    Appended, AuditEntry, ClaimRequest, Claimed, Content, Counters, DomainId, Earlier, NewContent,
    NewRecipient, NewRefusal, Once, PartId, Refusal, RefusedWrite, Released, SettleReport, Started,
    Sweep, Swept, TouchedDomain, Write, Written,
};

type Answer = Result<Written, RefusedWrite>;

/// One delivery's messages for one domain, up to a message.
#[derive(Clone, Copy)]
struct Stretch {
    domain: DomainId,
    delivery: DeliveryId,
    through: MessageId,
}

impl DeliveryRow {
    fn refuse_state(&self, needed: &'static str) -> RefusedWrite {
        let (delivery, state) = (self.delivery.id, self.delivery.state);
        RefusedWrite::WrongState { delivery, state, needed }
    }

    fn finish_if_done(&mut self) -> bool {
        let state = self.delivery.state;
        let under_way = matches!(state, DeliveryState::Running | DeliveryState::Paused);
        let done = under_way && !self.delivery.options.stream && self.counters.pending() == 0;
        if done {
            self.delivery.state = DeliveryState::Finished;
        }
        done
    }

    fn keep_refusals(&mut self, refusals: &[NewRefusal]) {
        for refusal in refusals {
            let ordinal = self.refusals.len() as u64;
            if ordinal < REFUSALS_KEPT {
                self.refusals.push(Refusal {
                    ordinal,
                    line: refusal.line,
                    address: cut_refusal(&refusal.address).into(),
                    reason: cut_refusal(&refusal.reason).into(),
                });
            }
        }
    }
}

impl MemoryStore {
    /// Applies one write.
    pub(super) fn write(&mut self, write: &Write) -> Answer {
        check(write)?;
        match write {
            Write::Quarantine(write) => self.write_ledger(write),
            Write::ChangeBundle(change) => self.change_bundle(change),
            Write::CreateDelivery { options, content, at, once } => {
                self.create_delivery(options, content.as_ref(), *at, once.as_ref())
            }
            Write::SetContent { delivery, content } => self.set_content(*delivery, content),
            Write::Append { delivery, content, recipients, at, once } => {
                self.append(*delivery, content.as_ref(), recipients, *at, once.as_ref())
            }
            Write::Refuse { delivery, refusals } => {
                let row = self.row(*delivery)?;
                row.counters.refused += refusals.len() as u64;
                row.keep_refusals(refusals);
                Ok(Written::Done)
            }
            Write::Start { delivery, at } => self.start(*delivery, *at),
            Write::SetState { delivery, state, who, why, at } => {
                self.set_state(*delivery, *state, who, why, *at)
            }
            Write::Claim(request) => Ok(self.claim(request)),
            Write::Settle(settled) => Ok(self.settle(settled)),
            Write::Expire(sweep) => {
                let row = self.row(sweep.delivery)?;
                if !matches!(row.delivery.state, DeliveryState::Running | DeliveryState::Paused) {
                    return Err(
                        row.refuse_state("only messages of a running or paused delivery expire")
                    );
                }
                self.sweep(sweep, FinalState::Expired)
            }
            Write::CancelQueued(sweep) => {
                let row = self.row(sweep.delivery)?;
                if row.delivery.state != DeliveryState::Cancelled {
                    return Err(row.refuse_state("cancel the delivery first"));
                }
                self.sweep(sweep, FinalState::Cancelled)
            }
            Write::ReleaseParts { now } => Ok(self.release_parts(*now)),
            Write::Forget(forget) => Ok(self.forget(forget)),
            Write::Erase(erase) => Ok(self.erase(erase)),
            Write::RenewLeases { .. }
            | Write::Ledger(_)
            | Write::PruneLedger { .. }
            | Write::Audit(_)
            | Write::PutSetting { .. }
            | Write::PruneOnce { .. } => {
                self.write_record(write);
                Ok(Written::Done)
            }
        }
    }

    /// The writes that are never refused and have nothing to tell.
    fn write_record(&mut self, write: &Write) {
        match write {
            Write::RenewLeases { until } => {
                for part in self.parts.values_mut() {
                    if part.node == self.node && part.incarnation == self.incarnation {
                        part.lease_ms = floor_ms(*until);
                    }
                }
            }
            Write::Ledger(rows) => {
                for row in rows {
                    self.ledger.insert((row.kind, row.key.clone(), row.slot), row.clone());
                }
            }
            Write::PruneLedger { kind, before_slot } => {
                self.ledger.retain(|key, _| key.0 != *kind || key.2 >= *before_slot);
            }
            Write::Audit(entry) => self.put_audit(entry),
            Write::PutSetting { key, value } => {
                self.settings.insert(key.clone(), value.clone());
            }
            Write::PruneOnce { before } => {
                self.once.retain(|_, (_, _, at)| *at >= floor_ms(*before));
            }
            _ => {}
        }
    }

    fn write_ledger(&mut self, write: &LedgerWrite) -> Answer {
        let written = Ledger::on(&mut self.shelf).write(write);
        self.audit.append(&mut self.shelf.audit);
        match written {
            Ok(written) => Ok(Written::Quarantine(Box::new(written))),
            Err(Halt::Refused(refused)) => Err(refused),
        }
    }

    fn put_audit(&mut self, entry: &AuditEntry) {
        let at = moment(floor_ms(entry.at));
        self.audit.push(AuditEntry { at, ..entry.clone() });
    }

    fn row(&mut self, id: DeliveryId) -> Result<&mut DeliveryRow, RefusedWrite> {
        self.deliveries.get_mut(&id).ok_or(RefusedWrite::UnknownDelivery(id))
    }

    fn find_once(&self, once: Option<&Once>) -> Result<Option<Earlier>, RefusedWrite> {
        let Some(once) = once else { return Ok(None) };
        match self.once.get(&(once.tenant.clone(), once.key.clone())) {
            None => Ok(None),
            Some((digest, earlier, _)) if *digest == once.digest => Ok(Some(*earlier)),
            Some(_) => Err(RefusedWrite::KeyReused),
        }
    }

    fn keep_once(&mut self, once: Option<&Once>, led_to: Earlier, at: Timestamp) {
        if let Some(once) = once {
            let key = (once.tenant.clone(), once.key.clone());
            self.once.insert(key, (once.digest, led_to, floor_ms(at)));
        }
    }

    fn put_content(&mut self, content: &NewContent) -> u64 {
        let same = |known: &&Content| known.kind == content.kind && known.body == content.body;
        let mut known = self.shared.iter().filter_map(|id| self.contents.get(id));
        if let Some(known) = known.find(same) {
            return known.id;
        }
        let id = self.insert_content(content);
        self.shared.insert(id);
        id
    }

    fn insert_content(&mut self, content: &NewContent) -> u64 {
        let id = self.next_content;
        self.next_content += 1;
        let stored = Content { id, kind: content.kind, body: Arc::clone(&content.body) };
        self.contents.insert(id, stored);
        id
    }

    fn create_delivery(
        &mut self,
        options: &DeliveryOptions,
        content: Option<&NewContent>,
        at: Timestamp,
        once: Option<&Once>,
    ) -> Answer {
        if let Some(earlier) = self.find_once(once)? {
            return Ok(Written::Repeated(earlier));
        }
        let content = content.map_or(0, |content| self.put_content(content));
        let id = DeliveryId(self.next_delivery);
        self.next_delivery += 1;
        let stream = options.stream;
        let delivery = Delivery {
            id,
            state: if stream { DeliveryState::Running } else { DeliveryState::Draft },
            options: options.clone(),
            started_at: stream.then(|| moment(floor_ms(at))),
            wave_ends: Vec::new(),
        };
        let row = DeliveryRow {
            delivery,
            content,
            created_ms: floor_ms(at),
            counters: Counters::default(),
            forgotten: 0,
            segments: Vec::new(),
            refusals: Vec::new(),
        };
        self.deliveries.insert(id, row);
        self.keep_once(once, Earlier { delivery: id, first: None, accepted: 0 }, at);
        Ok(Written::Created(id))
    }

    fn set_content(&mut self, delivery: DeliveryId, content: &NewContent) -> Answer {
        let row = self.row(delivery)?;
        if row.delivery.state != DeliveryState::Draft {
            return Err(row.refuse_state("its content can be set only before it is started"));
        }
        let id = self.put_content(content);
        let before = std::mem::replace(&mut self.row(delivery)?.content, id);
        self.drop_unused_content(before);
        Ok(Written::Done)
    }

    fn append(
        &mut self,
        delivery: DeliveryId,
        content: Option<&NewContent>,
        recipients: &[NewRecipient],
        at: Timestamp,
        once: Option<&Once>,
    ) -> Answer {
        if let Some(earlier) = self.find_once(once)? {
            return Ok(Written::Repeated(earlier));
        }
        let row = self.row(delivery)?;
        let stream = row.delivery.options.stream;
        let open = match row.delivery.state {
            DeliveryState::Draft => true,
            DeliveryState::Running | DeliveryState::Paused => stream,
            DeliveryState::Cancelled | DeliveryState::Finished => false,
        };
        if !open {
            return Err(row.refuse_state("recipients can be added only before it is started"));
        }
        if stream != content.is_some() && (!stream || row.content == 0) {
            return Err(RefusedWrite::WrongContent(delivery));
        }
        let content_id = if content.is_some() { self.next_content } else { 0 };
        let first = MessageId(self.next_message);
        let mut repeats = Vec::new();
        let mut domains: Vec<TouchedDomain> = Vec::new();
        for new in recipients {
            if let Some(earlier) = self.earlier_in(delivery, new).filter(|_| !stream) {
                repeats.push(NewRefusal {
                    line: new.line,
                    address: new.address.clone(),
                    reason: format!("duplicate of {earlier}").into(),
                });
                continue;
            }
            let domain = self.accept(delivery, new, content_id, floor_ms(at));
            match domains.iter_mut().find(|touched| touched.id == domain) {
                Some(touched) => touched.count += 1,
                None => domains.push(TouchedDomain {
                    id: domain,
                    name: Arc::clone(&self.domains[domain.0 as usize - 1]),
                    count: 1,
                }),
            }
        }
        let accepted = self.next_message - first.0;
        if let Some(content) = content.filter(|_| accepted > 0) {
            let id = self.insert_content(content);
            self.uses.insert(id, accepted);
        }
        let row = self.row(delivery)?;
        if accepted > 0 {
            let segment = Segment {
                first_ordinal: row.counters.accepted,
                first_id: first.0,
                count: accepted,
            };
            row.segments.push(segment);
        }
        row.counters.accepted += accepted;
        row.counters.duplicates += repeats.len() as u64;
        row.keep_refusals(&repeats);
        let first = (accepted > 0).then_some(first);
        self.keep_once(once, Earlier { delivery, first, accepted }, at);
        let duplicates = repeats.iter().map(|repeat| repeat.line).collect();
        let accepted = accepted as u32;
        let content = content_id;
        Ok(Written::Appended(Appended { first, accepted, duplicates, domains, content }))
    }

    fn earlier_in(&self, delivery: DeliveryId, new: &NewRecipient) -> Option<MessageId> {
        let folded = if new.folded.is_empty() { &new.address } else { &new.folded };
        let of =
            |id: &&MessageId| self.messages.get(id).is_some_and(|row| row.delivery == delivery);
        self.by_address.get(folded)?.iter().find(of).copied()
    }

    fn accept(
        &mut self,
        delivery: DeliveryId,
        new: &NewRecipient,
        content: u64,
        accepted_ms: i64,
    ) -> DomainId {
        let domain = match self.domain_ids.get(&*new.domain) {
            Some(id) => *id,
            None => {
                let name: Arc<str> = (&*new.domain).into();
                self.domains.push(Arc::clone(&name));
                let id = DomainId(self.domains.len() as u32);
                self.domain_ids.insert(name, id);
                id
            }
        };
        let id = MessageId(self.next_message);
        self.next_message += 1;
        let folded = if new.folded.is_empty() { &new.address } else { &new.folded };
        self.by_address.entry(folded.clone()).or_default().insert(id);
        self.queue.insert((domain, delivery, 0, id));
        let row = MessageRow {
            delivery,
            domain,
            address: new.address.clone(),
            merge: new.merge.clone(),
            sender: new.sender.clone(),
            content,
            attempts: 0,
            accepted_ms,
            due_ms: 0,
            pinned: None,
            place: Place::Queue,
            last_reply: "".into(),
        };
        self.messages.insert(id, row);
        domain
    }

    fn start(&mut self, delivery: DeliveryId, at: Timestamp) -> Answer {
        let row = self.row(delivery)?;
        if row.delivery.state != DeliveryState::Draft {
            return Err(row.refuse_state("only a draft can be started"));
        }
        if row.content == 0 {
            return Err(RefusedWrite::NoContent(delivery));
        }
        let ends = wave_ends(&row.delivery.options.waves, row.counters.accepted, &row.segments);
        row.delivery.wave_ends.clone_from(&ends);
        row.delivery.started_at = Some(moment(floor_ms(at)));
        row.delivery.state = DeliveryState::Running;
        let finished = row.finish_if_done();
        Ok(Written::Started(Started { wave_ends: ends, finished }))
    }

    fn set_state(
        &mut self,
        delivery: DeliveryId,
        wanted: DeliveryState,
        who: &str,
        why: &str,
        at: Timestamp,
    ) -> Answer {
        let row = self.row(delivery)?;
        if let Some(needed) = transition_fault(row.delivery.state, wanted) {
            return Err(row.refuse_state(needed));
        }
        row.delivery.state = wanted;
        let what = format!("{delivery} set to {wanted:?}").to_lowercase();
        self.put_audit(&AuditEntry { at, who: who.into(), what: what.into(), why: why.into() });
        Ok(Written::Done)
    }

    /// Fresh messages of one delivery and domain, in order.
    fn fresh(&self, stretch: Stretch, room: usize) -> Vec<QueueKey> {
        let Stretch { domain, delivery, through } = stretch;
        let range = (domain, delivery, 0, MessageId(0))..=(domain, delivery, 0, through);
        self.queue.range(range).take(room).copied().collect()
    }

    /// Retries of one delivery and domain that are due, in order.
    fn retries(&self, stretch: Stretch, until: i64, room: usize) -> Vec<QueueKey> {
        let Stretch { domain, delivery, through } = stretch;
        let first = (domain, delivery, 1, MessageId(0));
        let last = (domain, delivery, until.max(1), MessageId(u64::MAX));
        let due = self.queue.range(first..=last).filter(|key| key.2 <= until && key.3 <= through);
        due.take(room).copied().collect()
    }

    fn claim(&mut self, request: &ClaimRequest) -> Written {
        let part = self.next_part;
        let until = floor_ms(request.due_until);
        let mut messages = Vec::new();
        let mut next_due: Option<i64> = None;
        let running: Vec<_> = request
            .deliveries
            .iter()
            .filter(|from| {
                let row = self.deliveries.get(&from.delivery);
                row.is_some_and(|row| row.delivery.state == DeliveryState::Running)
            })
            .copied()
            .collect();
        for from in running {
            let through = from.through.unwrap_or(MessageId(u64::MAX));
            let room = (request.limit as usize - messages.len())
                .min(from.at_most.map_or(usize::MAX, |share| share as usize));
            let end = messages.len() + room;
            let stretch = Stretch { domain: request.domain, delivery: from.delivery, through };
            for key in self.retries(stretch, until, room.div_ceil(2)) {
                messages.push(self.hold(key, part));
            }
            for key in self.fresh(stretch, end - messages.len()) {
                messages.push(self.hold(key, part));
            }
            for key in self.retries(stretch, until, end - messages.len()) {
                messages.push(self.hold(key, part));
            }
            let rest = self
                .fresh(stretch, 1)
                .first()
                .map(|key| key.2)
                .or_else(|| self.retries(stretch, i64::MAX, 1).first().map(|key| key.2));
            next_due = [next_due, rest].into_iter().flatten().min();
        }
        let part = (!messages.is_empty()).then(|| {
            self.next_part += 1;
            let row = PartRow {
                node: self.node.clone(),
                incarnation: self.incarnation,
                lease_ms: floor_ms(request.lease_until),
                domain: request.domain,
                messages: messages.iter().map(|message: &QueuedMessage| message.id).collect(),
            };
            self.parts.insert(part, row);
            PartId(part)
        });
        Written::Claimed(Claimed { part, messages, next_due: next_due.map(moment) })
    }

    fn hold(&mut self, key: QueueKey, part: u64) -> QueuedMessage {
        self.queue.remove(&key);
        let row = self.messages.get_mut(&key.3).expect("every place in the queue has its message");
        row.place = Place::Part(part);
        let message = QueuedMessage {
            id: key.3,
            delivery: row.delivery,
            recipient: row.address.clone(),
            merge: row.merge.clone(),
            content: row.content,
            sender: row.sender.clone(),
            attempts: row.attempts,
            accepted_at: moment(row.accepted_ms),
            due: moment(row.due_ms),
            pinned_source: row.pinned,
        };
        if let Some(delivery) = self.deliveries.get_mut(&key.1) {
            delivery.counters.in_flight += 1;
        }
        message
    }

    /// The part of this life of the node that holds a message.
    fn holder(&self, id: MessageId) -> Option<u64> {
        let Place::Part(part) = self.messages.get(&id)?.place else { return None };
        let row = self.parts.get(&part)?;
        (row.node == self.node && row.incarnation == self.incarnation).then_some(part)
    }

    fn settle(&mut self, settled: &[Settled]) -> Written {
        let mut report = SettleReport::default();
        let mut touched = BTreeSet::new();
        for one in settled {
            let of_delivery = |row: &&MessageRow| row.delivery == one.delivery;
            let known = self.messages.get(&one.id).filter(of_delivery).is_some();
            let Some(part) = self.holder(one.id).filter(|_| known) else {
                report.late.push(one.id);
                continue;
            };
            self.leave_part(part, one.id);
            let row = self.messages.get_mut(&one.id).expect("it was found just above");
            row.attempts = one.attempts;
            row.last_reply = cut(&one.last_reply, LAST_REPLY_LIMIT).into();
            let content = row.content;
            let state = self.deliveries.get(&one.delivery).map(|delivery| delivery.delivery.state);
            let fate = state.map_or(one.fate, |state| fate_in(state, one.fate));
            if fate != one.fate {
                report.cancelled.push(one.id);
            }
            match fate {
                Fate::Final(state) => {
                    row.place = Place::End(state, floor_ms(one.at));
                    self.drop_content(content);
                }
                Fate::Requeued { due, pinned_source } => {
                    row.place = Place::Queue;
                    row.due_ms = ceil_ms(due);
                    row.pinned = pinned_source;
                    self.queue.insert((row.domain, row.delivery, row.due_ms, one.id));
                }
            }
            if let Some(delivery) = self.deliveries.get_mut(&one.delivery) {
                delivery.counters.in_flight -= 1;
                if let Fate::Final(state) = fate {
                    *delivery.counters.of(state) += 1;
                }
            }
            report.settled += 1;
            touched.insert(one.delivery);
        }
        for delivery in touched {
            if self.deliveries.get_mut(&delivery).is_some_and(DeliveryRow::finish_if_done) {
                report.finished.push(delivery);
            }
        }
        Written::Settled(report)
    }

    fn leave_part(&mut self, part: u64, message: MessageId) {
        if let Some(row) = self.parts.get_mut(&part) {
            row.messages.remove(&message);
            if row.messages.is_empty() {
                self.parts.remove(&part);
            }
        }
    }

    /// A message that used a stream's content is at its end; with the last of them the content goes.
    fn drop_content(&mut self, content: u64) {
        if let Some(uses) = self.uses.get_mut(&content) {
            *uses -= 1;
            if *uses == 0 {
                self.uses.remove(&content);
                self.contents.remove(&content);
            }
        }
    }

    fn sweep(&mut self, sweep: &Sweep, into: FinalState) -> Answer {
        let limit = sweep.limit as usize;
        let (mut count, mut visits, mut next) = (0, 0, None);
        let mut from = sweep.from;
        loop {
            let first = (from, DeliveryId(0), 0, MessageId(0));
            let Some(domain) = self.queue.range(first..).next().map(|key| key.0) else { break };
            if visits == SWEEP_DOMAINS || count == limit {
                next = Some(domain);
                break;
            }
            visits += 1;
            let delivery = sweep.delivery;
            let through = sweep.through.unwrap_or(MessageId(u64::MAX));
            let stretch = Stretch { domain, delivery, through };
            let mut found = self.fresh(stretch, limit - count);
            found.extend(self.retries(stretch, i64::MAX, limit - count - found.len()));
            for key in found {
                self.queue.remove(&key);
                count += 1;
                let Some(row) = self.messages.get_mut(&key.3) else { continue };
                row.place = Place::End(into, floor_ms(sweep.at));
                row.last_reply = cut(&sweep.reason, LAST_REPLY_LIMIT).into();
                let content = row.content;
                self.drop_content(content);
            }
            from = if count == limit { domain } else { DomainId(domain.0.saturating_add(1)) };
        }
        let row = self.row(sweep.delivery)?;
        *row.counters.of(into) += count as u64;
        let finished = row.finish_if_done();
        Ok(Written::Swept(Swept { count: count as u32, next, finished }))
    }

    pub(super) fn drop_unused_content(&mut self, content: u64) {
        let used = self.deliveries.values().any(|row| row.content == content);
        if !used && self.shared.remove(&content) {
            self.contents.remove(&content);
        }
    }

    fn release_parts(&mut self, now: Timestamp) -> Written {
        let of_the_past = |row: &PartRow| {
            if row.node == self.node {
                row.incarnation < self.incarnation
            } else {
                row.lease_ms < floor_ms(now)
            }
        };
        let past: Vec<u64> =
            self.parts.iter().filter(|(_, row)| of_the_past(row)).map(|(id, _)| *id).collect();
        let bound = RELEASE_PARTS as usize;
        let mut released = Released { parts: 0, messages: 0, more: past.len() > bound };
        for part in past.into_iter().take(bound) {
            let Some(part) = self.parts.remove(&part) else { continue };
            released.parts += 1;
            for id in part.messages {
                let Some(row) = self.messages.get_mut(&id) else { continue };
                row.place = Place::Queue;
                self.queue.insert((row.domain, row.delivery, row.due_ms, id));
                released.messages += 1;
                if let Some(delivery) = self.deliveries.get_mut(&row.delivery) {
                    delivery.counters.in_flight -= 1;
                }
            }
        }
        Written::Released(released)
    }
}
