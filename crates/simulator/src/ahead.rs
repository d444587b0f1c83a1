//! The same engine, run ahead of time: when will the mail that waits now have gone?
//!
//! **Promise.** [`ahead()`] starts from a copy of the live ledger with all that it has counted, the rules, sources and
//! routes in force, and lets the production engine deliver what waits, on a virtual clock, to mail
//! exchangers that take everything in a given time. What comes out is the earliest course of events that the rules allow.
//! Of much mail hours that go like those before are not run through again: `stride` says when, and what that costs.
//!
//! **Absences.** Greylisting, refusals, failures and mail that is still to come are not foreseen. Nothing live is
//! touched: the ledger is a copy.
//!
//! Where something cannot go within [`AheadInput::horizon`], the report says how many messages are left and why.

pub(crate) mod run;
pub(crate) mod stock;
mod stride;

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;

use engine::work::{Delivery, DeliveryOptions, DeliveryState};
use engine::{Settings, Sources};
use mail::attempt::Verdict;
use mail::id::{DeliveryId, SourceId};
use mail::reply::Reply;
use mail::route::MxRoute;
use mail::time::Timestamp;
use quota::{Ledger, Owner};
use rules::RuleSet;
use run::{Begun, Ground, Run, World};
use stock::{Stock, WaitingLot};
use stride::{Sent, Strides};

/// Mail of one delivery for one domain that waits.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// The recipient domain.
    pub domain: Box<str>,
    /// Tells deliveries apart: equal options under different numbers take turns.
    pub delivery: DeliveryId,
    /// Affinity, priority, hourly cap and mode count; waves and validity are not looked at.
    pub options: DeliveryOptions,
    /// How many messages.
    pub count: u64,
    /// They may not go before; in the past: at once.
    pub due: Timestamp,
}

/// How long an exchanger takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// From the wish to connect to the first MAIL FROM.
    pub set_up: Duration,
    /// For one message on one connection.
    pub message: Duration,
}

impl Default for Latency {
    /// 5 ms each.
    fn default() -> Self {
        Self { set_up: Duration::from_millis(5), message: Duration::from_millis(5) }
    }
}

/// What is known now.
#[derive(Clone, Debug)]
pub struct AheadInput {
    /// The time from which to run ahead, in the ledger's time.
    pub now: Timestamp,
    /// A clone of the live ledger. Permits of `owner` are given up first: its connections will have ended.
    pub ledger: Ledger,
    /// The process that asks.
    pub owner: Owner,
    /// All sources and affinities.
    pub sources: Sources,
    /// Sources with an hourly cap of their own over all targets, and the cap.
    pub source_limits: BTreeMap<SourceId, u32>,
    /// The rules in force.
    pub rules: Arc<RuleSet>,
    /// The engine's settings.
    pub settings: Settings,
    /// Routes of all domains with waiting mail. A domain without a route is reported as left.
    pub routes: BTreeMap<Box<str>, Arc<MxRoute>>,
    /// What waits.
    pub waiting: Vec<Waiting>,
    /// How long the exchangers of an MX group take, by its key ([`mail::route::group_key`]).
    pub latencies: BTreeMap<String, Latency>,
    /// For the others.
    pub latency: Latency,
    /// How far to look.
    pub horizon: Duration,
}

/// The course of one domain's or one MX group's mail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AheadCourse {
    /// Messages that will have gone within the horizon.
    pub messages: u64,
    /// The first MAIL FROM.
    pub first_at: Option<Timestamp>,
    /// When the last has been taken.
    pub finished_at: Option<Timestamp>,
    /// Messages begun in each five minutes. The first stretch is the one of the ledger's periods (multiples of
    /// five minutes since the epoch) that contains `now`.
    pub per_five_minutes: Vec<u64>,
}

impl AheadCourse {
    /// Messages begun in each hour, counted from the first stretch of `per_five_minutes`.
    #[must_use]
    pub fn per_hour(&self) -> Vec<u64> {
        self.per_five_minutes.chunks(12).map(|hour| hour.iter().sum()).collect()
    }

    fn count(&mut self, first_period: u64, begun: Timestamp, ended: Timestamp) {
        self.messages += 1;
        self.first_at = Some(self.first_at.map_or(begun, |first| first.min(begun)));
        self.finished_at = Some(self.finished_at.map_or(ended, |last| last.max(ended)));
        self.count_in((begun.as_secs() / PERIOD).saturating_sub(first_period), 1);
    }

    fn count_in(&mut self, period: u64, count: u64) {
        let place = usize::try_from(period).unwrap_or(usize::MAX).min(PERIODS_MAX);
        if self.per_five_minutes.len() <= place {
            self.per_five_minutes.resize(place + 1, 0);
        }
        self.per_five_minutes[place] += count;
    }
}

/// One MX group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AheadGroup {
    /// The domains with waiting mail that share it.
    pub domains: Vec<Box<str>>,
    /// Its course.
    pub course: AheadCourse,
}

/// Mail that will not have gone.
#[derive(Clone, Debug, PartialEq)]
pub struct Left {
    /// The domain.
    pub domain: Box<str>,
    /// How many messages.
    pub count: u64,
    /// Why, at the end of the horizon.
    pub reason: String,
}

/// What is ahead.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AheadReport {
    /// When all that can go within the horizon has gone; `None`: nothing can.
    pub finished_at: Option<Timestamp>,
    /// By the key of the MX group.
    pub groups: BTreeMap<String, AheadGroup>,
    /// By domain.
    pub domains: BTreeMap<Box<str>, AheadCourse>,
    /// What is left at the end of the horizon.
    pub left: Vec<Left>,
    /// Messages that were not run through one by one, because the hours before them repeat themselves.
    pub repeated: u64,
}

/// Seconds of a period.
const PERIOD: u64 = 300;

/// Stretches kept apart: about three years.
const PERIODS_MAX: usize = 300_000;

/// Runs ahead until everything has gone or the horizon is reached.
#[must_use]
pub fn ahead(input: AheadInput) -> AheadReport {
    ahead_with(input, stride::EXACT_MESSAGES)
}

/// The same; `exact` messages at least are run through one by one.
fn ahead_with(input: AheadInput, exact: u64) -> AheadReport {
    let now = input.now;
    let stock = Stock::new(input.waiting.iter().map(|waiting| {
        (&*waiting.domain, waiting.delivery, WaitingLot::at(waiting.due), waiting.count)
    }));
    let world = Ideal {
        courses: vec![AheadCourse::default(); stock.names().len()],
        first_period: now.as_secs() / PERIOD,
        // Nobody reads it.
        reply: Reply::from_raw(250, []),
        ahead: Duration::ZERO,
        repeated: 0,
        sent: vec![Vec::new(); stock.names().len()],
        sending: Vec::new(),
    };
    let mut deliveries: BTreeMap<DeliveryId, Delivery> = BTreeMap::new();
    for waiting in &input.waiting {
        deliveries.entry(waiting.delivery).or_insert_with(|| Delivery {
            id: waiting.delivery,
            state: DeliveryState::Running,
            options: DeliveryOptions {
                waves: Vec::new(),
                validity: input.horizon * 2,
                valid_until: None,
                stream: false,
                ..waiting.options.clone()
            },
            started_at: Some(now),
            wave_ends: Vec::new(),
        });
    }
    let end = now + input.horizon;
    let capped = deliveries.values().any(|one| one.options.messages_per_hour.is_some());
    let ground = Ground::from(input);
    let strides = Strides::new(&ground, stock.names(), capped, exact);
    let mut run = Run::new(ground, deliveries.into_values(), stock, world);
    strides.run(&mut run, end);
    report(&run)
}

impl From<AheadInput> for Ground {
    fn from(input: AheadInput) -> Self {
        Self {
            now: input.now,
            ledger: input.ledger,
            owner: input.owner,
            sources: input.sources,
            source_limits: input.source_limits,
            rules: input.rules,
            settings: input.settings,
            routes: input.routes,
            latencies: input.latencies,
            latency: input.latency,
        }
    }
}

/// Exchangers that take everything.
struct Ideal {
    /// By the number of the domain in the stock.
    courses: Vec<AheadCourse>,
    first_period: u64,
    reply: Reply,
    /// How far the report is ahead of the engine's clock.
    ahead: Duration,
    /// Messages of repeated periods.
    repeated: u64,
    /// By the number of the domain: what each delivery has sent in this period.
    sent: Vec<Vec<(DeliveryId, u64)>>,
    /// Domains of which something was sent in this period.
    sending: Vec<u32>,
}

impl World for Ideal {
    fn answer(&mut self, begun: &Begun<'_>) -> Verdict {
        let course = &mut self.courses[begun.domain as usize];
        course.count(self.first_period, begun.at + self.ahead, begun.ended_at + self.ahead);
        let sent = &mut self.sent[begun.domain as usize];
        if sent.is_empty() {
            self.sending.push(begun.domain);
        }
        match sent.iter_mut().find(|(delivery, _)| *delivery == begun.delivery) {
            Some((_, count)) => *count += 1,
            None => sent.push((begun.delivery, 1)),
        }
        Verdict::Sent { reply: self.reply.clone() }
    }
}

impl Ideal {
    /// What was sent since this was asked last.
    fn take_period(&mut self) -> Vec<Sent> {
        let mut all = Vec::new();
        for domain in core::mem::take(&mut self.sending) {
            let sent = self.sent[domain as usize].drain(..);
            all.extend(sent.map(|(delivery, count)| (domain, delivery, count)));
        }
        all
    }

    /// Counts in a period what was sent in another one.
    fn repeat_period(&mut self, period: u64, sent: &[Sent]) {
        for (domain, _, count) in sent {
            let course = &mut self.courses[*domain as usize];
            course.messages += count;
            self.repeated += count;
            // Exact to the period, should it be the last that is heard of this domain.
            course.finished_at =
                course.finished_at.max(Some(Timestamp::from_secs(period * PERIOD)));
            course.count_in(period.saturating_sub(self.first_period), *count);
        }
    }
}

fn report(run: &Run<Ideal>) -> AheadReport {
    let mut report = AheadReport { repeated: run.world().repeated, ..AheadReport::default() };
    let left = run.left_by_domain();
    for (number, course) in run.world().courses.iter().enumerate() {
        let domain = &run.domains()[number];
        if left[number] > 0 {
            let reason = run.why(domain);
            report.left.push(Left { domain: domain.clone(), count: left[number], reason });
        }
        if course.messages == 0 {
            continue;
        }
        report.finished_at = report.finished_at.max(course.finished_at);
        let route = run.route(domain);
        let key = route.map(|route| mail::route::group_key(route)).unwrap_or_default();
        let group = report.groups.entry(key).or_default();
        group.domains.push(domain.clone());
        group.course.add(course);
        report.domains.insert(domain.clone(), course.clone());
    }
    report
}

impl AheadCourse {
    fn add(&mut self, other: &Self) {
        self.messages += other.messages;
        self.first_at = self.first_at.into_iter().chain(other.first_at).min();
        self.finished_at = self.finished_at.max(other.finished_at);
        let length = self.per_five_minutes.len().max(other.per_five_minutes.len());
        self.per_five_minutes.resize(length, 0);
        for (sum, count) in self.per_five_minutes.iter_mut().zip(&other.per_five_minutes) {
            *sum += count;
        }
    }
}

#[cfg(test)]
mod tests;
