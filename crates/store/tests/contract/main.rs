//! What every store must do, asked of each of them; what only files can do; random histories.

mod support {
    //! Stores under test and short ways to write requests.

    use engine::work::{DeliveryOptions, Fate, FinalState, QueuedMessage, Settled};
    use mail::id::{DeliveryId, MessageId, SourceId};
    use mail::time::Timestamp;
    use mailweir_store::*;
    use std::collections::BTreeMap;
    use std::path::Path;
    use tempfile::TempDir;

    /// A store that can be restarted.
    pub enum Subject {
        Memory(Option<Box<MemoryStore>>),
        Sqlite(Option<Box<SqliteStore>>, TempDir),
    }

    pub fn options(node: &str) -> SqliteOptions {
        // Few addresses in memory, so that the index on disk takes part.
        SqliteOptions {
            node: node.into(),
            merge_addresses_at: 6,
            arrivals_at_most: 5,
            ..SqliteOptions::default()
        }
    }

    pub fn open(folder: &Path) -> Result<SqliteStore, StoreFault> {
        SqliteStore::open(folder, options("a"))
    }

    impl Subject {
        pub fn memory() -> Self {
            Self::Memory(Some(Box::new(MemoryStore::new("a"))))
        }

        pub fn sqlite() -> Self {
            let folder = tempfile::tempdir().unwrap();
            Self::Sqlite(Some(Box::new(open(folder.path()).unwrap())), folder)
        }

        pub fn store(&mut self) -> &mut dyn Store {
            match self {
                Self::Memory(store) => store.as_deref_mut().unwrap(),
                Self::Sqlite(store, _) => store.as_deref_mut().unwrap(),
            }
        }

        pub fn reads(&self) -> &dyn Reads {
            match self {
                Self::Memory(store) => store.as_ref().unwrap().reads(),
                Self::Sqlite(store, _) => store.as_ref().unwrap().reads(),
            }
        }

        pub fn restart(&mut self, node: &str) {
            match self {
                Self::Memory(store) => {
                    *store = store.take().map(|store| Box::new(store.restart(node)))
                }
                Self::Sqlite(store, folder) => {
                    drop(store.take());
                    let again = SqliteStore::open(folder.path(), options(node)).unwrap();
                    *store = Some(Box::new(again));
                }
            }
        }

        pub fn apply(&mut self, write: Write) -> Written {
            self.store().apply(&[write]).unwrap().remove(0)
        }

        /// A delivery with these recipients, as a draft.
        pub fn draft(&mut self, options: DeliveryOptions, addresses: &[&str]) -> DeliveryId {
            let Written::Created(id) = self.apply(create(options, Some("Hello"))) else {
                panic!("not created")
            };
            if !addresses.is_empty() {
                let content = None;
                self.append(id, content, addresses);
            }
            id
        }

        /// A stream, which runs from its creation on.
        pub fn stream(&mut self) -> DeliveryId {
            let options = DeliveryOptions { stream: true, ..DeliveryOptions::default() };
            match self.apply(create(options, None)) {
                Written::Created(id) => id,
                other => panic!("not created: {other:?}"),
            }
        }

        pub fn append(
            &mut self,
            id: DeliveryId,
            content: Option<&str>,
            addresses: &[&str],
        ) -> Appended {
            match self.apply(append(id, content, addresses)) {
                Written::Appended(appended) => appended,
                other => panic!("not appended: {other:?}"),
            }
        }

        pub fn start(&mut self, id: DeliveryId) -> Started {
            match self.apply(Write::Start { delivery: id, at: time(10) }) {
                Written::Started(started) => started,
                other => panic!("not started: {other:?}"),
            }
        }

        pub fn running(&mut self, addresses: &[&str]) -> DeliveryId {
            let id = self.draft(DeliveryOptions::default(), addresses);
            self.start(id);
            id
        }

        pub fn domain(&self, name: &str) -> DomainId {
            self.reads().domain(name).unwrap().unwrap()
        }

        pub fn claim(&mut self, domain: DomainId, from: &[ClaimFrom], limit: u32) -> Claimed {
            self.claim_until(domain, from, limit, 1_000)
        }

        pub fn claim_until(
            &mut self,
            domain: DomainId,
            from: &[ClaimFrom],
            limit: u32,
            until: u64,
        ) -> Claimed {
            match self.apply(claim(domain, from, limit, until)) {
                Written::Claimed(claimed) => claimed,
                other => panic!("not claimed: {other:?}"),
            }
        }

        pub fn settle(&mut self, settled: Vec<Settled>) -> SettleReport {
            match self.apply(Write::Settle(settled)) {
                Written::Settled(report) => report,
                other => panic!("not settled: {other:?}"),
            }
        }

        pub fn release(&mut self, now: u64) -> Released {
            match self.apply(Write::ReleaseParts { now: time(now) }) {
                Written::Released(released) => released,
                other => panic!("not released: {other:?}"),
            }
        }

        pub fn counters(&self, id: DeliveryId) -> Counters {
            self.reads().delivery(id).unwrap().unwrap().counters
        }

        pub fn state(&self, message: u64) -> MessageState {
            self.reads().message(MessageId(message)).unwrap().unwrap().state
        }
    }

    pub fn time(seconds: u64) -> Timestamp {
        Timestamp::from_secs(seconds)
    }

    pub fn content(text: &str) -> NewContent {
        NewContent { kind: ContentKind::Template, body: text.as_bytes().into() }
    }

    pub fn create(options: DeliveryOptions, text: Option<&str>) -> Write {
        let content = text.map(content);
        Write::CreateDelivery { options: Box::new(options), content, at: time(1), once: None }
    }

    pub fn recipient(line: u64, address: &str) -> NewRecipient {
        NewRecipient {
            line,
            address: address.into(),
            folded: address.to_lowercase().into(),
            domain: address.rsplit('@').next().unwrap().to_lowercase().into(),
            merge: format!("{{\"line\":{line}}}").into(),
            sender: "".into(),
        }
    }

    pub fn append(delivery: DeliveryId, text: Option<&str>, addresses: &[&str]) -> Write {
        let recipients =
            (1..).zip(addresses).map(|(line, address)| recipient(line, address)).collect();
        Write::Append { delivery, content: text.map(content), recipients, at: time(2), once: None }
    }

    pub fn all(delivery: DeliveryId) -> ClaimFrom {
        ClaimFrom { delivery, through: None, at_most: None }
    }

    pub fn claim(domain: DomainId, from: &[ClaimFrom], limit: u32, until: u64) -> Write {
        Write::Claim(ClaimRequest {
            domain,
            deliveries: from.to_vec(),
            due_until: time(until),
            limit,
            lease_until: time(until + 60),
        })
    }

    pub fn settled(message: u64, delivery: DeliveryId, fate: Fate) -> Settled {
        let (attempts, last_reply) = (1, "250 Ok".into());
        Settled { id: MessageId(message), delivery, fate, attempts, last_reply, at: time(50) }
    }

    pub fn sent(message: u64, delivery: DeliveryId) -> Settled {
        settled(message, delivery, Fate::Final(FinalState::Sent))
    }

    pub fn again(message: u64, delivery: DeliveryId, due: u64) -> Settled {
        let fate = Fate::Requeued { due: time(due), pinned_source: Some(SourceId(7)) };
        settled(message, delivery, fate)
    }

    pub fn ids(claimed: &Claimed) -> Vec<u64> {
        claimed.messages.iter().map(|message: &QueuedMessage| message.id.0).collect()
    }

    pub fn sweep(delivery: DeliveryId, from: DomainId, limit: u32) -> Sweep {
        Sweep {
            delivery,
            from,
            through: None,
            limit,
            at: time(90),
            reason: "validity ended".into(),
        }
    }

    pub fn forget(before: u64, after: u64, limit: u32) -> Write {
        let hashes_before = time(before.saturating_sub(100));
        Write::Forget(Forget {
            before: time(before),
            hashes_before,
            after: MessageId(after),
            limit,
        })
    }

    /// Adds the counts of a delivery up.
    fn total(all: &mut Counters, one: &Counters) {
        all.accepted += one.accepted;
        all.refused += one.refused;
        all.duplicates += one.duplicates;
        all.sent += one.sent;
        all.failed += one.failed;
        all.expired += one.expired;
        all.cancelled += one.cancelled;
        all.in_flight += one.in_flight;
    }

    /// The invariants that hold after every batch, from the rows alone.
    pub fn assert_consistent(reads: &dyn Reads) {
        let mut counted: BTreeMap<DeliveryId, Counters> = BTreeMap::new();
        let mut queued: BTreeMap<DomainId, u64> = BTreeMap::new();
        for message in reads.messages(MessageId(0), u32::MAX).unwrap() {
            let counters = counted.entry(message.delivery).or_default();
            counters.accepted += 1;
            match message.state {
                MessageState::Queued { .. } => *queued.entry(message.domain).or_default() += 1,
                MessageState::InFlight => counters.in_flight += 1,
                MessageState::Final { state: FinalState::Sent, .. } => counters.sent += 1,
                MessageState::Final { state: FinalState::Failed, .. } => counters.failed += 1,
                MessageState::Final { state: FinalState::Expired, .. } => counters.expired += 1,
                MessageState::Final { state: FinalState::Cancelled, .. } => counters.cancelled += 1,
            }
        }
        let mut totals = Totals::default();
        for record in reads.deliveries(DeliveryId(0), u32::MAX).unwrap() {
            let mut counters = record.counters;
            let kept = reads.refusals(record.delivery.id, 0, u32::MAX).unwrap().len() as u64;
            assert_eq!(kept, counters.refused + counters.duplicates);
            total(&mut totals.counters, &counters);
            (counters.refused, counters.duplicates) = (0, 0);
            let mut rows = counted.remove(&record.delivery.id).unwrap_or_default();
            let ended = |counters: &Counters| {
                counters.sent + counters.failed + counters.expired + counters.cancelled
            };
            // Of what is forgotten only the number is known.
            assert_eq!(ended(&counters) - ended(&rows), record.forgotten);
            rows.accepted += record.forgotten;
            (rows.sent, rows.failed) = (counters.sent, counters.failed);
            (rows.expired, rows.cancelled) = (counters.expired, counters.cancelled);
            assert_eq!(counters, rows);
        }
        assert!(counted.is_empty(), "messages of no delivery: {counted:?}");
        let known = reads.totals().unwrap();
        assert_eq!(known.counters.pending(), totals.counters.pending());
        assert!(known.counters.accepted >= totals.counters.accepted);
        assert!(known.counters.refused >= totals.counters.refused);
        let by_state = [known.draft, known.running, known.paused, known.cancelled, known.finished];
        let deliveries = reads.deliveries(DeliveryId(0), u32::MAX).unwrap().len() as u64;
        assert_eq!(by_state.iter().sum::<u64>(), deliveries);
        let queues = reads.domain_queues(DomainId(0), u32::MAX, u64::MAX).unwrap();
        let in_queue: BTreeMap<_, _> =
            queues.iter().map(|queue| (queue.id, queue.queued)).collect();
        assert_eq!(in_queue, queued, "the queue holds exactly the messages that wait");
    }
}

mod arrivals;
mod bundles;
mod files;
mod histories;
mod ledger;
mod ledger_histories;
mod semantics;
