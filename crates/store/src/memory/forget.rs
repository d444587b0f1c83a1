//! Forgetting what has been at its end for long, and erasing an address.

use engine::quarantine::AddressHash;
use engine::work::{DeliveryState, FinalState};
use mail::id::{DeliveryId, MessageId};

use super::{DeliveryRow, MemoryStore, Place};
use crate::sqlite::codec::floor_ms;
use crate::sqlite::forget::ERASED;
use crate::words::{Counters, Erase, Erased, Forget, Forgotten, PastRecipient, Written};

impl MemoryStore {
    pub(super) fn forget(&mut self, forget: &Forget) -> Written {
        let before = floor_ms(forget.before);
        let limit = forget.limit.max(1) as usize;
        let later = self.messages.range(MessageId(forget.after.0.saturating_add(1))..);
        let walked: Vec<(MessageId, i64, Option<i64>)> = later
            .take(limit)
            .map(|(id, row)| match row.place {
                Place::End(_, at) => (*id, row.accepted_ms, Some(at)),
                Place::Queue | Place::Part(_) => (*id, row.accepted_ms, None),
            })
            .collect();
        let mut at_end = walked.len() < limit;
        let mut through = forget.after;
        let mut forgotten = Forgotten::default();
        for (id, accepted, settled) in walked {
            if accepted >= before {
                at_end = true;
                break;
            }
            through = id;
            if settled.is_some_and(|at| at < before) {
                self.forget_message(id);
                forgotten.messages += 1;
            }
        }
        let more = !at_end || self.forget_deliveries(before, limit, &mut forgotten);
        forgotten.next = more.then_some(through);
        let old = |(_, (_, accepted)): &(&MessageId, &(PastRecipient, i64))| {
            *accepted < floor_ms(forget.hashes_before)
        };
        let old: Vec<MessageId> =
            self.past.iter().take(limit).filter(old).map(|(id, _)| *id).collect();
        self.past.retain(|id, _| !old.contains(id));
        Written::Forgotten(forgotten)
    }

    fn forget_message(&mut self, id: MessageId) {
        let Some(row) = self.messages.remove(&id) else { return };
        if matches!(row.place, Place::End(FinalState::Sent, _)) {
            let folded = self.by_address.iter().find(|(_, ids)| ids.contains(&id));
            let hash = AddressHash::of(folded.map_or(&row.address, |(folded, _)| folded));
            self.past.insert(id, (PastRecipient { delivery: row.delivery, hash }, row.accepted_ms));
        }
        for ids in self.by_address.values_mut() {
            ids.remove(&id);
        }
        if let Some(delivery) = self.deliveries.get_mut(&row.delivery) {
            delivery.forgotten += 1;
        }
    }

    fn forget_deliveries(&mut self, before: i64, limit: usize, forgotten: &mut Forgotten) -> bool {
        let of_the_past = |row: &&DeliveryRow| {
            let state = row.delivery.state;
            matches!(state, DeliveryState::Cancelled | DeliveryState::Finished)
                && row.created_ms < before
                && row.forgotten == row.counters.accepted
        };
        let ended = self.deliveries.values().filter(of_the_past).take(limit);
        let ended: Vec<DeliveryId> = ended.map(|row| row.delivery.id).collect();
        let mut room = limit;
        for id in &ended {
            if room == 0 {
                return true;
            }
            let Some(row) = self.deliveries.remove(id) else { continue };
            room = room.saturating_sub(row.refusals.len() + 1);
            self.gone.advance(&Counters::default(), &row.counters);
            self.drop_unused_content(row.content);
            forgotten.deliveries += 1;
        }
        ended.len() == limit
    }

    pub(super) fn erase(&mut self, erase: &Erase) -> Written {
        let limit = erase.limit.max(1);
        let mut erased = Erased::default();
        if erase.after == DeliveryId(0) {
            let ids: Vec<MessageId> =
                self.by_address.get(&erase.address).into_iter().flatten().rev().copied().collect();
            for id in ids {
                match self.messages.get(&id).map(|row| row.place) {
                    None => {}
                    Some(Place::End(..)) if erased.messages == limit => {
                        erased.next = Some(DeliveryId(0));
                        return Written::Erased(erased);
                    }
                    Some(Place::End(..)) => {
                        self.forget_message(id);
                        erased.messages += 1;
                    }
                    Some(Place::Queue | Place::Part(_)) => erased.waiting += 1,
                }
            }
            for text in self.shelf.texts.values_mut() {
                if text.first_raw.to_ascii_lowercase().contains(&*erase.address) {
                    text.first_raw = text.normalised.clone();
                    erased.texts += 1;
                }
            }
        }
        let mut seen = 0;
        let later = self.deliveries.range_mut(DeliveryId(erase.after.0.saturating_add(1))..);
        for (id, row) in later {
            for refusal in &mut row.refusals {
                if refusal.address.eq_ignore_ascii_case(&erase.address) {
                    refusal.address = ERASED.into();
                    erased.refusals += 1;
                }
            }
            seen += 1 + row.refusals.len() as u64;
            if seen >= limit.into() {
                erased.next = Some(*id);
                break;
            }
        }
        Written::Erased(erased)
    }
}
