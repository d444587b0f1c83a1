//! The ledger at work: asks it, makes its journal durable, and only then hands its answers out.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use engine::Event;
use engine::event::{QuotaLimit, QuotaWait, Tokens};
use mail::id::{ConnectionId, DeliveryId, SourceId};
use mail::time::Timestamp;
use quota::{
    CapKey, JournalEntry, Ledger, LotId, Owner, PathKey, PermitAnswer, PermitId, PermitRequest,
    SAVE_CLOCK_EVERY, TokenAnswer, TokenRequest,
};
use rules::RuleSet;
use store::{Write, WriterHandle};
use tokio::sync::mpsc;

use super::{Input, journal};
use crate::clock::SteadyClock;

/// Pause when the journal could not be made durable.
const RECORD_RETRY: Duration = Duration::from_secs(1);

/// Answers whose journal is on its way to the disk.
struct Pending {
    batch: u64,
    answers: Vec<(Event, Event)>,
}

/// The ledger with its journal.
pub(crate) struct LedgerDesk {
    ledger: Ledger,
    owner: Owner,
    source_limits: HashMap<SourceId, u32>,
    permits: HashMap<ConnectionId, PermitId>,
    /// Granted, waiting for the journal of this turn: the answer, and what it becomes when the journal fails.
    granted: Vec<(Event, Event)>,
    /// Refused: needs no record.
    refused: Vec<Event>,
    in_flight: VecDeque<Pending>,
    next_batch: u64,
    chores_at: Timestamp,
}

impl LedgerDesk {
    pub(crate) fn new(
        ledger: Ledger,
        owner: Owner,
        source_limits: HashMap<SourceId, u32>,
        now: Timestamp,
    ) -> Self {
        Self {
            ledger,
            owner,
            source_limits,
            permits: HashMap::new(),
            granted: Vec::new(),
            refused: Vec::new(),
            in_flight: VecDeque::new(),
            next_batch: 1,
            chores_at: now,
        }
    }

    /// For questions.
    pub(crate) const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(crate) fn replace_rules(&mut self, now: Timestamp, rules: Arc<RuleSet>) {
        self.ledger.replace_rules(now, rules);
    }

    /// Other caps of warm-up.
    pub(crate) fn replace_warm_up(&mut self, now: Timestamp, caps: Arc<quota::WarmUpCaps>) {
        self.ledger.replace_warm_up(now, caps);
    }

    pub(crate) fn ask_tokens(
        &mut self,
        now: Timestamp,
        path: PathKey,
        mx_host: &str,
        want: u32,
        cap: Option<(DeliveryId, u32)>,
    ) {
        let caps: Vec<(CapKey, u32)> =
            cap.iter().map(|(delivery, limit)| (CapKey::Delivery(*delivery), *limit)).collect();
        let request = TokenRequest {
            path,
            mx_host,
            want,
            source_limit: self.source_limits.get(&path.source).copied(),
            caps: &caps,
        };
        let cap = cap.map(|(delivery, _)| delivery);
        match self.ledger.ask_tokens(now, &request) {
            TokenAnswer::Granted(lot) => {
                let tokens = Tokens::from(lot);
                self.granted.push((
                    Event::TokensAnswered { path, cap, answer: Ok(tokens) },
                    Event::TokensAnswered { path, cap, answer: Err(not_recorded(now)) },
                ));
            }
            TokenAnswer::Wait(wait) => {
                let answer = Err(QuotaWait::from(&wait));
                self.refused.push(Event::TokensAnswered { path, cap, answer });
            }
        }
    }

    pub(crate) fn give_back(&mut self, now: Timestamp, lot: LotId, count: u32) {
        // A lot too old to be given back stays counted: that errs on the safe side.
        if let Err(fault) = self.ledger.give_back(now, lot, count) {
            tracing::debug!(%fault, "tokens stay counted");
        }
    }

    pub(crate) fn ask_permit(
        &mut self,
        now: Timestamp,
        connection: ConnectionId,
        path: PathKey,
        mx_host: &str,
    ) {
        let request = PermitRequest { owner: self.owner, path, mx_host };
        match self.ledger.ask_permit(now, &request) {
            PermitAnswer::Granted(permit) => {
                self.permits.insert(connection, permit.id);
                self.granted.push((
                    Event::PermitAnswered { connection, answer: Ok(()) },
                    Event::PermitAnswered { connection, answer: Err(not_recorded(now)) },
                ));
            }
            PermitAnswer::Wait(wait) => {
                let answer = Err(QuotaWait::from(&wait));
                self.refused.push(Event::PermitAnswered { connection, answer });
            }
            PermitAnswer::Stale { incarnation } => {
                tracing::error!(incarnation, "a later process of this node exists; no permits");
                let answer = Err(not_recorded(now));
                self.refused.push(Event::PermitAnswered { connection, answer });
            }
        }
    }

    pub(crate) fn release_permit(&mut self, now: Timestamp, connection: ConnectionId) {
        if let Some(permit) = self.permits.remove(&connection) {
            self.ledger.release_permit(now, self.owner, permit);
        }
    }

    /// Refusals: nothing has to be durable before they are told.
    pub(crate) fn answers_without_record(&mut self) -> Vec<Event> {
        core::mem::take(&mut self.refused)
    }

    /// Sends what the ledger has recorded since the last time to the disk.
    pub(crate) fn make_durable(
        &mut self,
        writer: &WriterHandle,
        inputs: &mpsc::UnboundedSender<Input>,
    ) {
        let entries = self.ledger.take_journal();
        if entries.is_empty() && self.granted.is_empty() {
            return;
        }
        let batch = self.next_batch;
        self.next_batch += 1;
        let answers = core::mem::take(&mut self.granted);
        self.in_flight.push_back(Pending { batch, answers });
        let rows =
            entries.iter().map(|entry| journal::row(entry, self.owner.incarnation)).collect();
        let inputs = inputs.clone();
        let reply = Box::new(move |answer: Result<_, _>| {
            let answer = answer.map(|_| ());
            let _ = inputs.send(Input::JournalDone { batch, answer });
        });
        writer.send(Write::Ledger(rows), reply);
    }

    /// A batch of the journal is durable, or could not be stored. Batches come back in order.
    pub(crate) fn recorded(&mut self, now: Timestamp, batch: u64, durable: bool) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(pending) = self.in_flight.pop_front_if(|pending| pending.batch <= batch) {
            for (granted, failed) in pending.answers {
                if durable {
                    events.push(granted);
                    continue;
                }
                // Not handed out: it may serve somebody else once the record can be made.
                match granted {
                    Event::TokensAnswered { answer: Ok(tokens), .. } => {
                        self.give_back(now, tokens.lot, tokens.count);
                    }
                    Event::PermitAnswered { connection, .. } => {
                        self.release_permit(now, connection);
                    }
                    _ => {}
                }
                events.push(failed);
            }
        }
        events
    }

    /// When the next chore is due.
    pub(crate) const fn next_chore(&self) -> Timestamp {
        self.chores_at
    }

    /// Renews leases, saves the clock, forgets what is old, every [`SAVE_CLOCK_EVERY`]. Returns whether it was time to.
    pub(crate) fn chores(&mut self, now: Timestamp, clock: &SteadyClock) -> bool {
        if now < self.chores_at {
            return false;
        }
        self.chores_at = now + SAVE_CLOCK_EVERY;
        self.ledger.renew_permits(now, self.owner);
        let expired = self.ledger.expire(now);
        if !expired.is_empty() {
            tracing::warn!(count = expired.len(), "permits have expired");
        }
        self.ledger.prune(now);
        self.ledger.record_clock(clock.save());
        true
    }

    /// Rows of the store that mean nothing any more.
    pub(crate) fn prunable(&self, now: Timestamp) -> [Write; 2] {
        let oldest_permit = self.permits.values().map(|permit| permit.0).min().unwrap_or(0);
        [
            Write::PruneLedger { kind: journal::TIMED, before_slot: now.as_secs() / 60 },
            Write::PruneLedger { kind: journal::PERMITS, before_slot: oldest_permit },
        ]
    }

    /// The last record of an orderly end.
    pub(crate) fn at_the_end(
        &mut self,
        writer: &WriterHandle,
        now: Timestamp,
        clock: &SteadyClock,
    ) {
        let held: Vec<ConnectionId> = self.permits.keys().copied().collect();
        for connection in held {
            self.release_permit(now, connection);
        }
        self.ledger.record_clock(clock.save());
        let entries: Vec<JournalEntry> = self.ledger.take_journal();
        let rows =
            entries.iter().map(|entry| journal::row(entry, self.owner.incarnation)).collect();
        if let Err(fault) = writer.apply(Write::Ledger(rows)) {
            tracing::warn!(%fault, "the ledger's last record was not stored; some tokens stay counted");
        }
    }
}

/// The answer when the journal cannot be made durable: the ledger fails closed.
fn not_recorded(now: Timestamp) -> QuotaWait {
    QuotaWait {
        until: Some(now + RECORD_RETRY),
        limit: QuotaLimit::Ledger,
        rule: Box::default(),
        source: None,
        figure: 0,
        used: 0,
    }
}
