//! Questions to the maps.

use mail::id::{DeliveryId, MessageId};
use mail::time::Timestamp;

use super::{DeliveryRow, MemoryStore, MessageRow, Place};
use crate::contract::Reads;
use crate::fault::StoreFault;
use crate::sqlite::codec::{floor_ms, moment};
use crate::words::{
    AuditEntry, Content, Counters, DeliveryDue, DeliveryRecord, DomainId, DomainQueue, DueDomain,
    LedgerRow, MessageRecord, MessageState, PartId, PartRecord, PastRecipient, Refusal, Totals,
};

type Answer<T> = Result<T, StoreFault>;

fn delivery_record(row: &DeliveryRow) -> DeliveryRecord {
    DeliveryRecord {
        delivery: row.delivery.clone(),
        content: row.content,
        created_at: moment(row.created_ms),
        counters: row.counters,
        forgotten: row.forgotten,
    }
}

fn message_record(id: MessageId, row: &MessageRow) -> MessageRecord {
    MessageRecord {
        id,
        delivery: row.delivery,
        address: row.address.clone(),
        domain: row.domain,
        merge: row.merge.clone(),
        content: row.content,
        sender: row.sender.clone(),
        state: match row.place {
            Place::Queue => {
                MessageState::Queued { due: moment(row.due_ms), pinned_source: row.pinned }
            }
            Place::Part(_) => MessageState::InFlight,
            Place::End(state, at) => MessageState::Final { state, settled_at: moment(at) },
        },
        attempts: row.attempts,
        accepted_at: moment(row.accepted_ms),
        last_reply: row.last_reply.clone(),
    }
}

impl MemoryStore {
    fn domain_text(&self, id: DomainId) -> Option<Box<str>> {
        let index = (id.0 as usize).checked_sub(1)?;
        self.domains.get(index).map(|name| (&**name).into())
    }
}

impl Reads for MemoryStore {
    fn deliveries(&self, after: DeliveryId, limit: u32) -> Answer<Vec<DeliveryRecord>> {
        let later = self.deliveries.range(DeliveryId(after.0.saturating_add(1))..);
        Ok(later.take(limit as usize).map(|(_, row)| delivery_record(row)).collect())
    }

    fn delivery(&self, id: DeliveryId) -> Answer<Option<DeliveryRecord>> {
        Ok(self.deliveries.get(&id).map(delivery_record))
    }

    fn totals(&self) -> Answer<Totals> {
        let mut totals = Totals { counters: self.gone, ..Totals::default() };
        for row in self.deliveries.values() {
            totals.counters.advance(&Counters::default(), &row.counters);
            *totals.of(row.delivery.state) += 1;
        }
        Ok(totals)
    }

    fn content(&self, id: u64) -> Answer<Option<Content>> {
        Ok(self.contents.get(&id).cloned())
    }

    fn message(&self, id: MessageId) -> Answer<Option<MessageRecord>> {
        Ok(self.messages.get(&id).map(|row| message_record(id, row)))
    }

    fn past_recipient(&self, id: MessageId) -> Answer<Option<PastRecipient>> {
        Ok(self.past.get(&id).map(|(past, _)| *past))
    }

    fn messages(&self, after: MessageId, limit: u32) -> Answer<Vec<MessageRecord>> {
        let later = self.messages.range(MessageId(after.0.saturating_add(1))..);
        Ok(later.take(limit as usize).map(|(id, row)| message_record(*id, row)).collect())
    }

    fn messages_by_address(&self, folded: &str, limit: u32) -> Answer<Vec<MessageRecord>> {
        let ids = self.by_address.get(folded).into_iter().flatten().rev().take(limit as usize);
        Ok(ids.filter_map(|id| Some(message_record(*id, self.messages.get(id)?))).collect())
    }

    fn newest_accepted_before(&self, at: Timestamp) -> Answer<Option<MessageId>> {
        let before = |row: &MessageRow| row.accepted_ms < floor_ms(at);
        Ok(self.messages.iter().rev().find(|(_, row)| before(row)).map(|(id, _)| *id))
    }

    fn refusals(&self, delivery: DeliveryId, from: u64, limit: u32) -> Answer<Vec<Refusal>> {
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        let all = self.deliveries.get(&delivery).map_or(&[][..], |row| &row.refusals);
        Ok(all.iter().skip(from).take(limit as usize).cloned().collect())
    }

    fn domain(&self, name: &str) -> Answer<Option<DomainId>> {
        Ok(self.domain_ids.get(name).copied())
    }

    fn domain_name(&self, id: DomainId) -> Answer<Option<Box<str>>> {
        Ok(self.domain_text(id))
    }

    fn due_domains(&self, after: DomainId, limit: u32) -> Answer<Vec<DueDomain>> {
        let mut domains: Vec<DueDomain> = Vec::new();
        for (domain, delivery, due_ms, _) in &self.queue {
            if *domain <= after {
                continue;
            }
            if domains.last().is_none_or(|last| last.id != *domain) {
                if domains.len() >= limit as usize {
                    break;
                }
                domains.push(DueDomain {
                    id: *domain,
                    name: self.domain_text(*domain).unwrap_or_default(),
                    deliveries: Vec::new(),
                });
            }
            let Some(last) = domains.last_mut() else { break };
            if last.deliveries.last().is_none_or(|due| due.delivery != *delivery) {
                let earliest = moment(*due_ms);
                last.deliveries.push(DeliveryDue { delivery: *delivery, earliest });
            }
        }
        Ok(domains)
    }

    fn domain_queues(
        &self,
        after: DomainId,
        limit: u32,
        count_up_to: u64,
    ) -> Answer<Vec<DomainQueue>> {
        let mut queues = Vec::new();
        for due in self.due_domains(after, limit)? {
            let of_domain = || self.queue.iter().filter(|key| key.0 == due.id);
            let first_accepted = |delivery: &DeliveryDue| {
                let first = of_domain().find(|key| key.1 == delivery.delivery)?;
                Some(moment(self.messages.get(&first.3)?.accepted_ms))
            };
            let oldest = due.deliveries.iter().filter_map(first_accepted).min();
            queues.push(DomainQueue {
                id: due.id,
                queued: (of_domain().count() as u64).min(count_up_to),
                oldest: oldest.unwrap_or(Timestamp::NEVER),
                name: due.name,
            });
        }
        Ok(queues)
    }

    fn parts(&self, limit: u32) -> Answer<Vec<PartRecord>> {
        let parts = self.parts.iter().take(limit as usize).map(|(id, row)| PartRecord {
            id: PartId(*id),
            node: row.node.clone(),
            incarnation: row.incarnation,
            lease_until: moment(row.lease_ms),
            domain: row.domain,
        });
        Ok(parts.collect())
    }

    fn ledger(&self, kind: u8, since_slot: u64) -> Answer<Vec<LedgerRow>> {
        let wanted = |row: &&LedgerRow| row.kind == kind && row.slot >= since_slot;
        Ok(self.ledger.values().filter(wanted).cloned().collect())
    }

    fn setting(&self, key: &str) -> Answer<Option<Box<str>>> {
        Ok(self.settings.get(key).cloned())
    }

    fn audit(&self, limit: u32) -> Answer<Vec<AuditEntry>> {
        Ok(self.audit.iter().rev().take(limit as usize).cloned().collect())
    }
}
