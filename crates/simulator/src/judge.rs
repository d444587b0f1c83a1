//! The checkers of what must always hold (DESIGN 12), outside of everything they judge.
//!
//! They are fed by what the exchangers saw, by what the intake was told, by what the store committed, and by
//! the rules that were in force. They share no code with the engine or the ledger: budgets are worked out
//! here once more, from the rules alone.
//!
//! 1. Nothing lost. 2. Nothing twice without cause. 3. The ceilings. 4. No attempt to an address after its quarantine or
//!    denylisting is durable. 5. Nothing sleeps for ever. 6. Every
//!    attempt cites a rule and its version. 7. Memory is bounded. (8, same seed same log, compares two runs
//!    and is in [`crate::run_twice`].) 9. Only what may go: waves, pauses, validity. 10. Only where it may: affinities
//!    and masks. 11. Not sooner than the schedule.

mod bans;
mod ceilings;
mod conduct;
mod counts;
mod names;
mod quiet;

use core::net::IpAddr;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use engine::WaitReason;
use engine::event::MessageDone;
use engine::reactions::KeptReactions;
use engine::work::{Attempt, DeliveryOptions, DeliveryState, Fate, FinalState, SendMode, Settled};
use mail::id::{DeliveryId, MessageId, SourceId};
use mail::time::Timestamp;
use quota::WarmUpCaps;
use rules::RuleSet;
use store::{MemoryStore, MessageState, SettleReport, Store as _};

use bans::Bans;
use conduct::Conduct;
use names::Names;
use quiet::Quiet;

pub(crate) use ceilings::{Ceilings, Fill};

use crate::fleet::Fleet;
use crate::node::Node;
use crate::plan::Script;
use crate::reactions::DrawnReaction;

/// A message that was accepted.
#[derive(Clone, Copy, Debug)]
struct Accepted {
    id: MessageId,
    delivery: DeliveryId,
    mode: SendMode,
    mailing: usize,
    /// Place in the mailing, from 0.
    place: u64,
    /// In the node's own time.
    at: Timestamp,
}

/// What the checkers know.
#[derive(Debug)]
pub(crate) struct Judge {
    /// By the number in the address.
    accepted: BTreeMap<u64, Accepted>,
    caps: BTreeMap<DeliveryId, u32>,
    options: Vec<DeliveryOptions>,
    by_message: BTreeMap<MessageId, usize>,
    conduct: Conduct,
    bans: Bans,
    names: Names,
    quiet: Quiet,
    /// First commit of an end.
    ended: BTreeMap<MessageId, Timestamp>,
    /// When something was last committed as ended, or handed in.
    last_progress: Timestamp,
    crashes: Vec<Timestamp>,
    rules: Vec<(Timestamp, Arc<RuleSet>)>,
    warm_up: Vec<(Timestamp, Arc<WarmUpCaps>)>,
    bounds: (usize, usize, usize),
    next_look: Timestamp,
    /// No message before is still to be sent.
    first_open: MessageId,
    /// What the ledger was found to count wrongly.
    false_counts: usize,
    /// How often the ledger was asked what it has counted.
    pub(crate) looks: u64,
    /// What the ceilings came to, at the end.
    pub(crate) ceilings: Ceilings,
    pub(crate) violations: Vec<String>,
    pub(crate) duplicates: u64,
    drain_hours: f64,
}

/// Violations kept of one world.
const VIOLATIONS_MAX: usize = 20;

/// What is wrong with the ledger's counts is told only so often: what it leads to is to be told, too.
const FALSE_COUNTS_MAX: usize = 3;

/// Between two looks at why things wait.
const LOOK: Duration = Duration::from_secs(900);

impl Judge {
    pub(crate) fn new(script: &Script) -> Self {
        let settings = &script.settings;
        // Messages that come back untried from connections join the window.
        let returning = settings.connections_max * settings.assigned_per_connection_max as usize;
        Self {
            accepted: BTreeMap::new(),
            caps: BTreeMap::new(),
            options: script.mailings.iter().map(|mailing| mailing.options.clone()).collect(),
            by_message: BTreeMap::new(),
            conduct: Conduct::default(),
            bans: Bans::default(),
            names: Names::default(),
            quiet: Quiet::default(),
            ended: BTreeMap::new(),
            last_progress: Timestamp::EPOCH,
            crashes: Vec::new(),
            rules: Vec::new(),
            warm_up: Vec::new(),
            bounds: (
                settings.window_messages_max + returning,
                settings.connections_max,
                settings.domains_max,
            ),
            next_look: Timestamp::EPOCH,
            first_open: MessageId(1),
            false_counts: 0,
            looks: 0,
            ceilings: Ceilings::default(),
            violations: Vec::new(),
            duplicates: 0,
            drain_hours: 0.0,
        }
    }

    fn violation(&mut self, text: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(text);
        }
    }

    // ------------------------------------------------------------------ what they are fed with

    pub(crate) fn rules_in_force(&mut self, now: Timestamp, rules: Arc<RuleSet>) {
        self.rules.push((now, rules));
    }

    pub(crate) fn warm_up_in_force(&mut self, now: Timestamp, caps: Arc<WarmUpCaps>) {
        self.warm_up.push((now, caps));
    }

    pub(crate) fn accepted(
        &mut self,
        (mailing, delivery): (usize, DeliveryId),
        at: Timestamp,
        first_serial: u64,
        first: u64,
        count: u64,
    ) {
        let (mode, cap) = (self.options[mailing].mode, self.options[mailing].messages_per_hour);
        // The portions of a stream come in order.
        let of_delivery = self.accepted.values().filter(|one| one.delivery == delivery);
        let before = of_delivery.count() as u64;
        for offset in 0..count {
            let id = MessageId(first + offset);
            let place = before + offset;
            let one = Accepted { id, delivery, mode, mailing, place, at };
            self.accepted.insert(first_serial + offset, one);
            self.by_message.insert(id, mailing);
        }
        if let Some(cap) = cap {
            self.caps.insert(delivery, cap);
        }
    }

    pub(crate) fn settled(&mut self, now: Timestamp, settled: &[Settled], report: &SettleReport) {
        self.conduct.settled(now, settled);
        for one in settled {
            let late = report.late.contains(&one.id);
            if late {
                self.violation(format!("{now} {} was settled by one who does not hold it", one.id));
            } else if matches!(one.fate, Fate::Final(_)) {
                self.ended.entry(one.id).or_insert(now);
                self.last_progress = now;
            }
        }
    }

    pub(crate) fn clock_runs(&mut self, now: Timestamp, own: Timestamp, drift: i64) {
        self.quiet.clock_runs(now, own, drift);
        self.conduct.clock_runs(now, own, drift);
    }

    pub(crate) fn begun(&mut self, delivery: DeliveryId, own: Timestamp) {
        self.conduct.begun(delivery, own);
    }

    pub(crate) fn state_changed(
        &mut self,
        now: Timestamp,
        delivery: DeliveryId,
        state: DeliveryState,
        held: BTreeSet<MessageId>,
    ) {
        self.conduct.state_changed(now, delivery, state, held);
    }

    /// Denylisted or quarantined, as of a commit; `begun`: messages whose attempt had begun.
    pub(crate) fn forbidden(
        &mut self,
        now: Timestamp,
        addresses: &[Box<str>],
        begun: &BTreeSet<MessageId>,
    ) {
        self.bans.forbidden(now, addresses, begun);
    }

    /// They may be written to again, as of a commit.
    pub(crate) fn freed(&mut self, now: Timestamp, addresses: &[Box<str>]) {
        self.bans.freed(now, addresses);
    }

    /// The process hears what DNS says about a domain: `nothing`, that there is no such domain.
    pub(crate) fn heard_of_domain(&mut self, now: Timestamp, domain: &str, nothing: bool) {
        self.names.heard(now, domain, nothing);
    }

    /// From now on the process does not run for so long.
    pub(crate) fn stood_still(&mut self, span: Duration) {
        self.names.stood_still(span);
    }

    /// A session has said what became of a message; `begun`: those that sessions of the same path have begun.
    pub(crate) fn reported(
        &mut self,
        (now, own): (Timestamp, Timestamp),
        (source, target): (SourceId, Option<IpAddr>),
        done: &MessageDone,
        begun: &BTreeSet<MessageId>,
    ) {
        if let Some(target) = target {
            self.quiet.reported((now, own), (source, target), done, begun);
        }
        if let Some(mailing) = self.by_message.get(&done.message) {
            self.conduct.reported(own, source, done, &self.options[*mailing]);
        }
    }

    /// Checker 6, and of checker 1 whether there was a cause to give a message up for its domain.
    pub(crate) fn recorded(&mut self, now: Timestamp, attempts: &[Attempt]) {
        for attempt in attempts {
            let id = attempt.message.id;
            if let Some(said) = self.names.recorded(now, attempt) {
                self.violation(format!(
                    "{now} 1: {id} failed for its domain, and its address has {said}"
                ));
            }
            let version = attempt.rules_version;
            let rules = self.rules.iter().find(|(_, rules)| rules.version() == version);
            let Some((_, rules)) = rules else {
                self.violation(format!(
                    "{now} 6: an attempt at {id} cites unknown rules {version}"
                ));
                continue;
            };
            let cited = match attempt.source {
                Some(source) => {
                    let rule = rules.find(&attempt.mx_host, source);
                    *rules.rule(rule).name == *attempt.rule
                }
                None => !attempt.rule.is_empty(),
            };
            if !cited {
                let rule = &attempt.rule;
                self.violation(format!("{now} 6: an attempt at {id} cites the wrong rule {rule}"));
            }
        }
    }

    /// Other reaction rules.
    pub(crate) fn reactions_in_force(&mut self, rules: Option<DrawnReaction>) {
        self.quiet.rules(rules);
    }

    pub(crate) fn crashed(&mut self, now: Timestamp, kept: &KeptReactions) {
        self.crashes.push(now);
        self.quiet.crashed(now, kept);
        self.conduct.crashed();
        self.names.crashed();
    }

    /// Checker 1, at each start: whatever was accepted is there.
    pub(crate) fn started(&mut self, now: Timestamp, store: &MemoryStore) {
        self.names.crashed();
        let lost: Vec<u64> = self
            .accepted
            .iter()
            .filter(|(_, one)| !matches!(store.reads().message(one.id), Ok(Some(_))))
            .map(|(serial, _)| *serial)
            .collect();
        for serial in lost {
            self.violation(format!("{now} 1: message u{serial} is gone after a restart"));
        }
    }

    /// A process that was asked to stop has stopped: it holds nothing.
    pub(crate) fn drained(&mut self, now: Timestamp, store: &MemoryStore) {
        let parts = store.reads().parts(1).unwrap_or_default();
        if !parts.is_empty() {
            self.violation(format!("{now} 1: a drained node still holds {parts:?}"));
        }
    }

    pub(crate) fn misused(&mut self, now: Timestamp, what: &str) {
        self.violation(format!("{now} {what}"));
    }

    pub(crate) fn hot_loop(&mut self, now: Timestamp) {
        self.violation(format!("{now} 5: a hot loop: too many steps"));
    }

    pub(crate) fn fell_asleep(&mut self, now: Timestamp, waiting: &str) {
        self.violation(format!("{now} 5: nothing will ever happen again:{waiting}"));
    }

    pub(crate) fn did_not_drain(&mut self, now: Timestamp, waiting: &str) {
        let left = self.accepted.len() - self.ended.len().min(self.accepted.len());
        self.violation(format!("{now} 5: about {left} messages have not come to an end:{waiting}"));
    }

    /// After the end: no connection is left.
    pub(crate) fn everything_closed(&mut self, node: Option<&Node>) {
        let open = node.map_or(0, |node| node.conversations.len());
        if open > 0 {
            self.violation(format!(
                "7: {open} connections are open though nothing is left to send"
            ));
        }
    }

    // ------------------------------------------------------------------ while it runs

    /// How long the queue may take to drain from there: half as long again as the tightest limit needs for everything,
    /// and the longest pauses.
    pub(crate) fn patience(&mut self, script: &Script) -> Duration {
        if self.drain_hours == 0.0 {
            let mut slowest = u32::MAX;
            for (_, rules) in &self.rules {
                for (id, _) in rules.rules() {
                    for source in &script.sources {
                        slowest = slowest.min(rules.limits(id, source.id).messages_per_hour);
                    }
                }
            }
            for cap in self.caps.values().chain(script.source_limits.values()) {
                slowest = slowest.min(*cap);
            }
            for caps in script.warm_up.iter().flat_map(|caps| caps.sources.values()) {
                let days = caps.per_day.into_iter().chain(caps.provider_per_day);
                slowest = days.map(|cap| (cap / 24).max(1)).fold(slowest, u32::min);
            }
            // Each message may need several tries.
            // What reactions take longer, and recover in, comes on top.
            self.drain_hours = 10.0 + self.accepted.len() as f64 * 2.0 / f64::from(slowest.max(1));
        }
        Duration::from_secs_f64(self.drain_hours * 3_600.0)
    }

    pub(crate) fn all_ended(&self, store: &MemoryStore) -> bool {
        let reads = store.reads();
        let records = reads.deliveries(DeliveryId(0), u32::MAX).unwrap_or_default();
        records.iter().all(|record| record.counters.pending() == 0)
    }

    /// Checkers 5 and 7, and that the ledger's counts are true, now and then.
    pub(crate) fn look(
        &mut self,
        now: Timestamp,
        node: Option<&Node>,
        store: &MemoryStore,
        fleet: &Fleet,
    ) {
        let Some(node) = node else { return };
        let (window, connections, domains) = node.engine.sizes();
        if window > self.bounds.0 || connections > self.bounds.1 || domains > self.bounds.2 {
            let bounds = self.bounds;
            self.violation(format!(
                "{now} 7: window {window}, connections {connections}, domains {domains} of {bounds:?}"
            ));
        }
        if now < self.next_look || node.draining.is_some() {
            return;
        }
        self.next_look = now + LOOK;
        let own = node.own_time(now);
        self.looks += 1;
        let (rules, warm_up) = (self.rules.last(), self.warm_up.last());
        let changed = rules.map(|(at, _)| *at).max(warm_up.map(|(at, _)| *at));
        if self.false_counts < FALSE_COUNTS_MAX {
            for text in counts::judge(now, changed.unwrap_or(now), node, fleet) {
                self.false_counts += 1;
                self.violation(text);
            }
        }
        let mut seen = BTreeSet::new();
        let before = MessageId(self.first_open.0 - 1);
        let mut all_ended = true;
        for record in store.reads().messages(before, u32::MAX).unwrap_or_default() {
            all_ended &= matches!(record.state, MessageState::Final { .. });
            if all_ended {
                self.first_open = MessageId(record.id.0 + 1);
            }
            let MessageState::Queued { due, .. } = record.state else { continue };
            let domain = record.address.rsplit_once('@').map_or("", |(_, domain)| domain);
            if !seen.insert((record.delivery, domain.to_owned(), due > own)) {
                continue;
            }
            let tried = record.attempts > 0 || !record.last_reply.is_empty();
            let why = node.engine.why(own, record.id, record.delivery, &record.address, due, tried);
            let open_ended = matches!(
                why.reason,
                WaitReason::DeliveryNotStarted
                    | WaitReason::DeliveryPaused
                    | WaitReason::DeliveryCancelled
                    | WaitReason::NoSource { .. }
                    | WaitReason::FindingRoute
                    | WaitReason::InTurn
                    | WaitReason::Connecting
                    | WaitReason::StoreSick
            );
            let stale = why.until + Duration::from_secs(10) < own;
            if stale || (why.until == Timestamp::NEVER && !open_ended) {
                self.violation(format!(
                    "{now} 5: {} waits without a next time (now {own}): {why:?}",
                    record.id
                ));
            }
        }
    }

    // ------------------------------------------------------------------ at the end

    /// Checkers 1, 2, 3, 4, 9, 10 and 11, over the whole history.
    pub(crate) fn conclude(&mut self, fleet: &Fleet, store: &MemoryStore, script: &Script) {
        self.judge_ends(fleet, store);
        self.judge_repetitions(fleet);
        let deliveries: BTreeMap<u64, DeliveryId> =
            self.accepted.iter().map(|(serial, one)| (*serial, one.delivery)).collect();
        let in_force = ceilings::InForce {
            rules: &self.rules,
            warm_up: &self.warm_up,
            deliveries: &self.caps,
        };
        self.ceilings = ceilings::judge(&in_force, fleet, script, &deliveries);
        for text in self.ceilings.wrong.clone() {
            self.violation(text);
        }
        for text in self.bans.judge(&self.accepted, fleet, &self.crashes) {
            self.violation(text);
        }
        for text in self.quiet.judge(fleet, &self.accepted) {
            self.violation(text);
        }
        for text in self.conduct.judge(&self.accepted, fleet, script, store) {
            self.violation(text);
        }
    }

    /// Every accepted message is at its end, and the end is true.
    fn judge_ends(&mut self, fleet: &Fleet, store: &MemoryStore) {
        let taken: BTreeSet<u64> = fleet.accepts.iter().map(|accept| accept.serial).collect();
        let accepted: Vec<(u64, Accepted)> =
            self.accepted.iter().map(|(serial, one)| (*serial, *one)).collect();
        let mut owners = BTreeSet::new();
        for (serial, one) in accepted {
            let Ok(Some(record)) = store.reads().message(one.id) else {
                self.violation(format!("1: message u{serial} is lost"));
                continue;
            };
            if !record.address.starts_with(&format!("u{serial}@")) || !owners.insert(one.id) {
                self.violation(format!("1: message u{serial} is lost: {} is another", one.id));
                continue;
            }
            let MessageState::Final { state, .. } = record.state else { continue };
            let was_taken = taken.contains(&serial);
            match (one.mode, state) {
                (SendMode::Real, FinalState::Sent) if !was_taken => {
                    self.violation(format!(
                        "1: message u{serial} is called sent and nobody has it"
                    ));
                }
                (SendMode::Test | SendMode::Dry, _) if was_taken => {
                    self.violation(format!(
                        "1: message u{serial} was sent, in {:?} mode",
                        one.mode
                    ));
                }
                (SendMode::Real | SendMode::Test, FinalState::Failed) => {
                    let known = record.address.ends_with("nothing.example")
                        || record.address.ends_with("null.example")
                        || fleet.refused.contains_key(&serial)
                        || self.names.has_failed(one.id)
                        || self.bans.has_met(serial);
                    if !known {
                        self.violation(format!(
                            "1: message u{serial} is called failed and nobody refused it: {}",
                            record.last_reply
                        ));
                    }
                }
                _ => {}
            }
        }
        let dry =
            fleet.mails.iter().filter_map(|mail| mail.serial).find(|serial| {
                self.accepted.get(serial).is_none_or(|one| one.mode == SendMode::Dry)
            });
        if let Some(serial) = dry {
            self.violation(format!("1: u{serial} was tried, which is dry or was never accepted"));
        }
    }

    /// Nothing was taken twice, unless the first answer was lost or a crash fell before its commit.
    fn judge_repetitions(&mut self, fleet: &Fleet) {
        let mut first: BTreeMap<u64, Option<Timestamp>> = BTreeMap::new();
        for accept in &fleet.accepts {
            let Some(before) = first.insert(accept.serial, accept.answered) else { continue };
            self.duplicates += 1;
            let Some(read) = before else { continue };
            let ended = self
                .accepted
                .get(&accept.serial)
                .and_then(|one| self.ended.get(&one.id))
                .copied()
                .unwrap_or(Timestamp::NEVER);
            if !self.crashes.iter().any(|crash| read <= *crash && *crash <= ended) {
                let serial = accept.serial;
                self.violation(format!("2: message u{serial} was sent twice without cause"));
            }
        }
    }
}
