//! The store without a disk, for the simulator and as the model in the contract tests.
//!
//! **Promise.** The same semantics as the store on SQLite, written as plainly as possible: ordered
//! maps, no index that could disagree. A batch cannot fail. [`MemoryStore::restart`] is what a crash and
//! a new start on the same disk do: everything applied is there, what was held is in parts of an
//! earlier life. Cloning makes a copy that goes its own way.
//!
//! **Absences.** Nothing is bounded by a cache: it holds the whole backlog in memory.

mod bundles;
mod forget;
mod ledger;
mod quarantine;
mod reads;
mod writes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use engine::work::{Delivery, FinalState};
use mail::id::{DeliveryId, MessageId, SourceId};

use crate::contract::{Reads, Store};
use crate::fault::StoreFault;
use crate::waves::Segment;
use crate::words::{
    AuditEntry, Content, Counters, DomainId, Earlier, LedgerRow, PastRecipient, Refusal, Write,
    Written,
};

/// A delivery with everything that belongs to it.
#[derive(Clone, Debug)]
struct DeliveryRow {
    delivery: Delivery,
    content: u64,
    created_ms: i64,
    counters: Counters,
    forgotten: u64,
    segments: Vec<Segment>,
    refusals: Vec<Refusal>,
}

/// A message.
#[derive(Clone, Debug)]
struct MessageRow {
    delivery: DeliveryId,
    domain: DomainId,
    address: Box<str>,
    merge: Box<str>,
    sender: Box<str>,
    content: u64,
    attempts: u32,
    accepted_ms: i64,
    due_ms: i64,
    pinned: Option<SourceId>,
    place: Place,
    last_reply: Box<str>,
}

/// Where a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Queue,
    Part(u64),
    End(FinalState, i64),
}

/// A part.
#[derive(Clone, Debug)]
struct PartRow {
    node: Box<str>,
    incarnation: u64,
    lease_ms: i64,
    domain: DomainId,
    messages: BTreeSet<MessageId>,
}

/// A place in the queue: domain, delivery, due time, message.
type QueueKey = (DomainId, DeliveryId, i64, MessageId);

/// What a key of a request led to: its digest, the outcome, and when.
type OnceRow = ([u8; 32], Earlier, i64);

/// A store in memory.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    node: Box<str>,
    incarnation: u64,
    incarnations: BTreeMap<Box<str>, u64>,
    next_delivery: u64,
    next_message: u64,
    next_part: u64,
    next_content: u64,
    deliveries: BTreeMap<DeliveryId, DeliveryRow>,
    domains: Vec<Arc<str>>,
    domain_ids: BTreeMap<Arc<str>, DomainId>,
    messages: BTreeMap<MessageId, MessageRow>,
    by_address: BTreeMap<Box<str>, BTreeSet<MessageId>>,
    queue: BTreeSet<QueueKey>,
    parts: BTreeMap<u64, PartRow>,
    contents: BTreeMap<u64, Content>,
    /// Contents of deliveries, which stay.
    shared: BTreeSet<u64>,
    /// How many unfinished messages use a stream's content.
    uses: BTreeMap<u64, u64>,
    ledger: BTreeMap<(u8, Box<str>, u64), LedgerRow>,
    once: BTreeMap<(Box<str>, Box<str>), OnceRow>,
    settings: BTreeMap<Box<str>, Box<str>>,
    audit: Vec<AuditEntry>,
    /// Counts of forgotten deliveries.
    gone: Counters,
    /// To whom forgotten messages were sent, and when those were accepted.
    past: BTreeMap<MessageId, (PastRecipient, i64)>,
    shelf: quarantine::Shelf,
    bundles: bundles::Bundles,
}

impl MemoryStore {
    /// An empty store, used by the first life of a node.
    #[must_use]
    pub fn new(node: &str) -> Self {
        let store = Self {
            node: node.into(),
            incarnation: 0,
            incarnations: BTreeMap::new(),
            next_delivery: 1,
            next_message: 1,
            next_part: 1,
            next_content: 1,
            deliveries: BTreeMap::new(),
            domains: Vec::new(),
            domain_ids: BTreeMap::new(),
            messages: BTreeMap::new(),
            by_address: BTreeMap::new(),
            queue: BTreeSet::new(),
            parts: BTreeMap::new(),
            contents: BTreeMap::new(),
            shared: BTreeSet::new(),
            uses: BTreeMap::new(),
            ledger: BTreeMap::new(),
            once: BTreeMap::new(),
            settings: BTreeMap::new(),
            audit: Vec::new(),
            gone: Counters::default(),
            past: BTreeMap::new(),
            shelf: quarantine::Shelf::default(),
            bundles: bundles::Bundles::default(),
        };
        store.restart(node)
    }

    /// What is found when a node starts (again) on what this store holds.
    #[must_use]
    pub fn restart(mut self, node: &str) -> Self {
        let lives = self.incarnations.entry(node.into()).or_default();
        *lives += 1;
        self.incarnation = *lives;
        self.node = node.into();
        self
    }

    /// Which life of the node this is, from 1.
    #[must_use]
    pub const fn incarnation(&self) -> u64 {
        self.incarnation
    }
}

impl Store for MemoryStore {
    fn apply(&mut self, batch: &[Write]) -> Result<Vec<Written>, StoreFault> {
        Ok(batch.iter().map(|write| self.write(write).unwrap_or_else(Written::Refused)).collect())
    }

    fn probe(&mut self) -> Result<(), StoreFault> {
        Ok(())
    }

    fn reads(&self) -> &dyn Reads {
        self
    }
}
