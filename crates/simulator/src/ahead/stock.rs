//! What waits, in place of a store: counts per domain, delivery and kind.
//!
//! Domains have numbers in the order of their names, which serve as the cursor of a scan. Only domains that hold
//! something are walked, so a page of a scan costs what it returns.

use std::collections::{BTreeMap, BTreeSet};

use mail::id::{DeliveryId, SourceId};
use mail::time::Timestamp;

/// Messages that nothing tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WaitingLot {
    /// They may not go before; first, because it orders them.
    pub(crate) due: Timestamp,
    /// When they arrived.
    pub(crate) arrived_at: Timestamp,
    /// What exchangers will say of them; the world's own number.
    pub(crate) script: u32,
    /// Conversations about them so far.
    pub(crate) tries: u16,
    /// Attempts that counted.
    pub(crate) attempts: u16,
    /// The source that must be used next, if any.
    pub(crate) pinned_source: Option<SourceId>,
}

impl WaitingLot {
    /// Fresh messages that may go from a moment on.
    pub(crate) const fn at(due: Timestamp) -> Self {
        Self { due, arrived_at: due, script: 0, tries: 0, attempts: 0, pinned_source: None }
    }
}

/// How many messages of each kind, the first to go first.
type Portions = BTreeMap<WaitingLot, u64>;

/// All that waits and is not held by the engine.
#[derive(Clone, Debug)]
pub(crate) struct Stock {
    names: Vec<Box<str>>,
    /// By number, then by delivery; no portion is empty.
    domains: Vec<BTreeMap<DeliveryId, Portions>>,
    /// Numbers of the domains that hold something.
    stocked: BTreeSet<u32>,
}

impl Stock {
    /// Domain, delivery, kind and how many.
    pub(crate) fn new<'name>(
        waiting: impl Iterator<Item = (&'name str, DeliveryId, WaitingLot, u64)> + Clone,
    ) -> Self {
        let names: BTreeSet<&str> = waiting.clone().map(|one| one.0).collect();
        let names: Vec<Box<str>> = names.into_iter().map(Box::from).collect();
        let domains = vec![BTreeMap::new(); names.len()];
        let mut stock = Self { names, domains, stocked: BTreeSet::new() };
        for (domain, delivery, lot, count) in waiting {
            if let Some(number) = stock.number(domain) {
                stock.put(number, delivery, lot, count);
            }
        }
        stock
    }

    /// The names of the domains by number.
    pub(crate) fn names(&self) -> &[Box<str>] {
        &self.names
    }

    pub(crate) fn number(&self, domain: &str) -> Option<u32> {
        let place = self.names.binary_search_by(|name| (**name).cmp(domain)).ok()?;
        u32::try_from(place).ok()
    }

    /// How many messages there are.
    pub(crate) fn messages(&self) -> u64 {
        self.left().iter().sum()
    }

    /// How many messages each domain has.
    pub(crate) fn left(&self) -> Vec<u64> {
        let count =
            |of: &BTreeMap<DeliveryId, Portions>| of.values().flat_map(Portions::values).sum();
        self.domains.iter().map(count).collect()
    }

    pub(crate) fn put(&mut self, number: u32, delivery: DeliveryId, lot: WaitingLot, count: u64) {
        if count > 0 {
            let portions = self.domains[number as usize].entry(delivery).or_default();
            *portions.entry(lot).or_default() += count;
            self.stocked.insert(number);
        }
    }

    /// Takes the message of a delivery that has waited longest, if it is due.
    pub(crate) fn take(
        &mut self,
        number: u32,
        delivery: DeliveryId,
        due_until: Timestamp,
    ) -> Option<WaitingLot> {
        let deliveries = &mut self.domains[number as usize];
        let portions = deliveries.get_mut(&delivery)?;
        let mut first = portions.first_entry().filter(|first| first.key().due <= due_until)?;
        let lot = *first.key();
        *first.get_mut() -= 1;
        if *first.get() == 0 {
            first.remove();
            if portions.is_empty() {
                deliveries.remove(&delivery);
                if deliveries.is_empty() {
                    self.stocked.remove(&number);
                }
            }
        }
        Some(lot)
    }

    /// How many messages of a delivery a domain has.
    pub(crate) fn of(&self, number: u32, delivery: DeliveryId) -> u64 {
        let portions = self.domains[number as usize].get(&delivery);
        portions.map_or(0, |portions| portions.values().sum())
    }

    /// When the last message of all is due.
    pub(crate) fn last_due(&self) -> Timestamp {
        let deliveries = self.stocked.iter().flat_map(|number| &self.domains[*number as usize]);
        let last = deliveries.filter_map(|(_, portions)| portions.last_key_value());
        last.map(|(lot, _)| lot.due).max().unwrap_or(Timestamp::EPOCH)
    }

    /// Takes away the messages of a delivery that have waited longest; answers how many, for there may be fewer.
    pub(crate) fn take_away(&mut self, number: u32, delivery: DeliveryId, count: u64) -> u64 {
        let mut left = count;
        while left > 0
            && let Some(portions) = self.domains[number as usize].get_mut(&delivery)
            && let Some(mut first) = portions.first_entry()
        {
            // The last one goes the way that keeps the tables.
            let some = left.min(first.get().saturating_sub(1));
            *first.get_mut() -= some;
            left -= some;
            if left > 0 && self.take(number, delivery, Timestamp::NEVER).is_some() {
                left -= 1;
            }
        }
        count - left
    }

    /// Takes away all messages of a delivery, or those that arrived before a moment; answers how many.
    pub(crate) fn sweep(&mut self, delivery: DeliveryId, arrived_before: Option<Timestamp>) -> u64 {
        let mut swept = 0;
        for number in self.stocked.clone() {
            let deliveries = &mut self.domains[number as usize];
            let Some(portions) = deliveries.get_mut(&delivery) else { continue };
            portions.retain(|lot, count| {
                let stays = arrived_before.is_some_and(|before| lot.arrived_at >= before);
                swept += if stays { 0 } else { *count };
                stays
            });
            if portions.is_empty() {
                deliveries.remove(&delivery);
                if deliveries.is_empty() {
                    self.stocked.remove(&number);
                }
            }
        }
        swept
    }

    /// When the next message of a delivery may go.
    pub(crate) fn earliest(&self, number: u32, delivery: DeliveryId) -> Option<Timestamp> {
        let portions = self.domains[number as usize].get(&delivery)?;
        portions.first_key_value().map(|(lot, _)| lot.due)
    }

    /// At most `limit` domains from number `after` on, each with its earliest due time, and where to go on.
    pub(crate) fn due(
        &self,
        after: u64,
        limit: usize,
    ) -> (Vec<(Box<str>, Timestamp)>, Option<u64>) {
        let after = u32::try_from(after).unwrap_or(u32::MAX);
        let mut rest = self.stocked.range(after..);
        let found = rest
            .by_ref()
            .take(limit)
            .filter_map(|number| {
                let portions = self.domains[*number as usize].values();
                let earliest =
                    portions.filter_map(|of| of.first_key_value()).map(|(lot, _)| lot.due);
                Some((self.names[*number as usize].clone(), earliest.min()?))
            })
            .collect();
        (found, rest.next().copied().map(u64::from))
    }
}
