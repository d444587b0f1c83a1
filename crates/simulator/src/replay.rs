//! Recorded mail, sent again on the virtual clock under any rules.
//!
//! **Promise.** [`send_again()`] lets the production engine and ledger deliver what arrived in a window, each message from the
//! moment at which it might have gone, to exchangers that answer what was recorded: the first conversation about a message
//! what the first was answered, and so on. Every MAIL FROM is told as it happens in the virtual world.
//!
//! **How.** What arrived is a [`Demand`]: counts of messages that nothing tells apart. The run is [`crate::ahead`]'s.
//!
//! **Absences.** An answer does not depend on when it is asked: a throttle that came because of the rate comes at any rate.
//! A conversation of which no answer is recorded is answered with 250, and counted. Pauses by people, hosts that were
//! down before the first MAIL FROM, and how long the set-up of a connection took are not known. The ledger given decides
//! what counts from before the window.

mod demand;

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;

use engine::event::Event;
use engine::work::{Delivery, FinalState};
use engine::{Settings, Sources};
use mail::attempt::{Stage, Verdict};
use mail::id::{DeliveryId, SourceId};
use mail::reply::Reply;
use mail::route::MxRoute;
use mail::time::Timestamp;
use quota::{Ledger, Owner, PathKey};
use rules::RuleSet;
use rules::bounce::BounceRules;
use rules::reaction::ReactionRules;

pub use demand::{Demand, DemandBounds, DemandRow};

use crate::ahead::run::{Begun, Ground, Run, World};
use crate::ahead::stock::{Stock, WaitingLot};
use crate::ahead::{Latency, Left};

/// What an exchanger said in one conversation about one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It took the message.
    Taken,
    /// It refused it.
    Refused {
        /// At this command.
        stage: Stage,
        /// In these words.
        reply: Reply,
    },
    /// It said nothing to the end of the message.
    NoAnswer,
    /// The conversation broke before it said anything.
    Broken,
}

/// What is sent again, and under what.
pub struct ReplayInput<'demand> {
    /// The beginning of the window.
    pub begin: Timestamp,
    /// The end of the window: how many wait then is told.
    pub until: Timestamp,
    /// How far to go on after the window, without anything new, until what waits has gone.
    pub tail: Duration,
    /// A ledger at the beginning, with what counts from before.
    pub ledger: Ledger,
    /// A process that the ledger knows nothing of.
    pub owner: Owner,
    /// All sources and affinities.
    pub sources: Sources,
    /// Sources with an hourly cap of their own over all targets, and the cap.
    pub source_limits: BTreeMap<SourceId, u32>,
    /// MX rules with levels.
    pub rules: Arc<RuleSet>,
    /// Bounce rules: what a refusal means for the message.
    pub bounce: Arc<BounceRules>,
    /// Reaction rules: what a refusal means for the mail behind it.
    pub reactions: Arc<ReactionRules>,
    /// The engine's settings.
    pub settings: Settings,
    /// Routes of all domains of the demand. A domain without one is reported as left.
    pub routes: BTreeMap<Box<str>, Arc<MxRoute>>,
    /// How long the exchangers of an MX group take, by its key ([`mail::route::group_key`]).
    pub latencies: BTreeMap<String, Latency>,
    /// For the others.
    pub latency: Latency,
    /// Every delivery of the demand, running, without waves.
    pub deliveries: Vec<Delivery>,
    /// What arrived.
    pub demand: &'demand Demand,
}

impl core::fmt::Debug for ReplayInput<'_> {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(out, "ReplayInput({} to {})", self.begin, self.until)
    }
}

/// A MAIL FROM.
#[derive(Clone, Copy, Debug)]
pub struct Started<'run> {
    /// When it went out.
    pub at: Timestamp,
    /// Since when the message might have gone.
    pub due: Timestamp,
    /// Source and target.
    pub path: PathKey,
    /// The MX host.
    pub mx_host: &'run str,
    /// What was answered.
    pub answer: &'run Answer,
}

/// What came of it, over the window and what followed it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReplayReport {
    /// Messages that were taken.
    pub sent: u64,
    /// Messages that were refused for good.
    pub failed: u64,
    /// Messages whose validity ended first.
    pub expired: u64,
    /// Messages that wait at the end of the window.
    pub waiting: u64,
    /// Conversations of which no answer is recorded.
    pub assumed: u64,
    /// When the last message came to its end.
    pub finished_at: Option<Timestamp>,
    /// Deliveries that a reaction would have stopped, with its rule. Here they went on.
    pub stopped: BTreeMap<DeliveryId, String>,
    /// What has not come to its end within the tail.
    pub left: Vec<Left>,
}

/// Sends everything again. `watch` is told of each MAIL FROM; they come nearly in the order of time.
pub fn send_again(input: ReplayInput<'_>, watch: &mut dyn FnMut(&Started<'_>)) -> ReplayReport {
    let demand = input.demand;
    let stock = Stock::new(demand.rows().map(|row| {
        let lot = WaitingLot {
            arrived_at: row.arrived_at,
            script: row.script,
            attempts: row.attempts,
            ..WaitingLot::at(row.arrived_at)
        };
        (demand.name(row.domain), row.delivery, lot, u64::from(row.count))
    }));
    let ground = Ground {
        now: input.begin,
        ledger: input.ledger,
        owner: input.owner,
        sources: input.sources,
        source_limits: input.source_limits,
        rules: input.rules,
        settings: input.settings,
        routes: input.routes,
        latencies: input.latencies,
        latency: input.latency,
    };
    let world = Recorded {
        demand,
        watch,
        taken: Reply::line(250, "2.0.0 ok"),
        report: ReplayReport::default(),
    };
    let mut run = Run::new(ground, input.deliveries, stock, world);
    run.tell(Event::BounceRulesReplaced(input.bounce));
    run.tell(Event::ReactionRulesReplaced(input.reactions));
    run.go_until(input.until);
    let waiting = run.left_by_domain().iter().sum();
    run.go_until(input.until + input.tail);
    let mut report = run.world().report.clone();
    report.waiting = waiting;
    for (number, count) in run.left_by_domain().into_iter().enumerate() {
        if count > 0 {
            let domain = run.domains()[number].clone();
            let reason = run.why(&domain);
            report.left.push(Left { domain, count, reason });
        }
    }
    report
}

/// Exchangers that say what they said.
struct Recorded<'run> {
    demand: &'run Demand,
    watch: &'run mut dyn FnMut(&Started<'_>),
    taken: Reply,
    report: ReplayReport,
}

impl World for Recorded<'_> {
    fn answer(&mut self, begun: &Begun<'_>) -> Verdict {
        let lot = begun.lot;
        let recorded = self.demand.answer_of(lot.script, lot.tries);
        self.report.assumed += u64::from(recorded.is_none());
        let answer = recorded.unwrap_or(&Answer::Taken);
        (self.watch)(&Started {
            at: begun.at,
            due: lot.due.max(lot.arrived_at),
            path: begun.path,
            mx_host: begun.mx_host,
            answer,
        });
        match answer {
            Answer::Taken => Verdict::Sent { reply: self.taken.clone() },
            Answer::Refused { stage, reply } => {
                Verdict::Refused { stage: *stage, reply: reply.clone() }
            }
            Answer::NoAnswer => Verdict::PossiblyDelivered,
            Answer::Broken => Verdict::NotTried,
        }
    }

    fn ended(&mut self, state: FinalState, at: Timestamp, count: u64) {
        if count == 0 {
            return;
        }
        match state {
            FinalState::Sent => self.report.sent += count,
            FinalState::Failed => self.report.failed += count,
            FinalState::Expired | FinalState::Cancelled => self.report.expired += count,
        }
        self.report.finished_at = self.report.finished_at.max(Some(at));
    }

    fn stopped(&mut self, delivery: DeliveryId, by: &str) {
        self.report.stopped.insert(delivery, by.to_owned());
    }
}

#[cfg(test)]
mod tests;
