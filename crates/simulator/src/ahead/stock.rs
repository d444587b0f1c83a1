//! What waits, in place of a store: counts per domain, delivery and due time.
//!
//! Domains have numbers in the order of their names, which serve as the cursor of a scan. Only domains that hold
//! something are walked, so a page of a scan costs what it returns.

use std::collections::{BTreeMap, BTreeSet};

use mail::id::DeliveryId;
use mail::time::Timestamp;

use super::Waiting;

/// How many messages may go from which time on.
type Portions = BTreeMap<Timestamp, u64>;

/// All that waits and is not held by the engine.
#[derive(Clone, Debug)]
pub(super) struct Stock {
    names: Vec<Box<str>>,
    /// By number, then by delivery; no portion is empty.
    domains: Vec<BTreeMap<DeliveryId, Portions>>,
    /// Numbers of the domains that hold something.
    stocked: BTreeSet<u32>,
}

impl Stock {
    pub(super) fn new(waiting: &[Waiting]) -> Self {
        let names: BTreeSet<Box<str>> = waiting.iter().map(|one| one.domain.clone()).collect();
        let names: Vec<Box<str>> = names.into_iter().collect();
        let domains = vec![BTreeMap::new(); names.len()];
        let mut stock = Self { names, domains, stocked: BTreeSet::new() };
        for one in waiting {
            if let Some(number) = stock.number(&one.domain) {
                stock.put(number, one.delivery, one.due, one.count);
            }
        }
        stock
    }

    /// The names of the domains by number.
    pub(super) fn names(&self) -> &[Box<str>] {
        &self.names
    }

    pub(super) fn number(&self, domain: &str) -> Option<u32> {
        let place = self.names.binary_search_by(|name| (**name).cmp(domain)).ok()?;
        u32::try_from(place).ok()
    }

    /// How many messages there are.
    pub(super) fn messages(&self) -> u64 {
        self.left().iter().sum()
    }

    /// How many messages each domain has.
    pub(super) fn left(&self) -> Vec<u64> {
        let count =
            |of: &BTreeMap<DeliveryId, Portions>| of.values().flat_map(Portions::values).sum();
        self.domains.iter().map(count).collect()
    }

    pub(super) fn put(&mut self, number: u32, delivery: DeliveryId, due: Timestamp, count: u64) {
        if count > 0 {
            let portions = self.domains[number as usize].entry(delivery).or_default();
            *portions.entry(due).or_default() += count;
            self.stocked.insert(number);
        }
    }

    /// Takes the message of a delivery that has waited longest, if it is due; returns its due time.
    pub(super) fn take(
        &mut self,
        number: u32,
        delivery: DeliveryId,
        due_until: Timestamp,
    ) -> Option<Timestamp> {
        let deliveries = &mut self.domains[number as usize];
        let portions = deliveries.get_mut(&delivery)?;
        let mut first = portions.first_entry().filter(|first| *first.key() <= due_until)?;
        let due = *first.key();
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
        Some(due)
    }

    /// When the next message of a delivery may go.
    pub(super) fn earliest(&self, number: u32, delivery: DeliveryId) -> Option<Timestamp> {
        let portions = self.domains[number as usize].get(&delivery)?;
        portions.first_key_value().map(|(due, _)| *due)
    }

    /// At most `limit` domains from number `after` on, each with its earliest due time, and where to go on.
    pub(super) fn due(
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
                let earliest = portions.filter_map(|of| of.first_key_value()).map(|(due, _)| *due);
                Some((self.names[*number as usize].clone(), earliest.min()?))
            })
            .collect();
        (found, rest.next().copied().map(u64::from))
    }
}
