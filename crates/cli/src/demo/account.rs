//! The account of a demonstration: what the store, the delivery log and the receiving side say,
//! and whether they agree.
//!
//! Three witnesses that share no counts: the store on the disk (its counters and, apart from them, the
//! rows of its queue), the delivery log, and the lab. [`Account::unaccounted`] adds up every difference
//! between them, so 0 means that each accepted recipient is in exactly one state and that the receiving
//! side has what we say was sent.

use std::collections::BTreeMap;

use lab::Promise;
use mail::id::DeliveryId;
use mail::time::Timestamp;
use serde::Serialize;
use simulator::audit::AuditReport;
use store::{Counters, DomainId, Reads, StoreFault};

use super::again::{Again, Second};
use super::returns::{CameBack, Evidence, Returned};
use super::tally::Tally;
use super::watch::{FinishedBy, Row, Snapshot};
use super::world::World;

/// Domains or deliveries asked for at a time.
const PAGE: u32 = 1_000;

/// What the store holds, over all deliveries in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stored {
    /// Sums of the counters, without the delivery that is counted apart.
    pub(crate) counters: Counters,
    /// The counters of that one.
    pub(crate) apart: Counters,
    /// What the ledger of evidence holds since the demonstration began.
    pub(crate) evidence: Evidence,
    /// Rows of the queue by domain: counted, not taken from the counters.
    pub(crate) queued: BTreeMap<String, u64>,
}

impl Stored {
    /// Counts what is in a store, with the evidence from a moment on.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn count(
        reads: &dyn Reads,
        apart: Option<DeliveryId>,
        since: Timestamp,
    ) -> Result<Self, StoreFault> {
        let mut stored = Self::default();
        let mut after = DeliveryId(0);
        loop {
            let page = reads.deliveries(after, PAGE)?;
            let Some(last) = page.last() else { break };
            after = last.delivery.id;
            for record in &page {
                let sum = match Some(record.delivery.id) == apart {
                    true => &mut stored.apart,
                    false => &mut stored.counters,
                };
                let found = record.counters;
                sum.accepted += found.accepted;
                sum.sent += found.sent;
                sum.failed += found.failed;
                sum.expired += found.expired;
                sum.cancelled += found.cancelled;
                sum.in_flight += found.in_flight;
            }
        }
        let mut after = DomainId(0);
        loop {
            let page = reads.domain_queues(after, PAGE, u64::from(u32::MAX))?;
            let Some(last) = page.last() else { break };
            after = last.id;
            stored.queued.extend(page.into_iter().map(|found| (found.name.into(), found.queued)));
        }
        stored.evidence = Evidence::count(reads, since)?;
        Ok(stored)
    }

    /// Rows of the queue.
    pub(crate) fn queue(&self) -> u64 {
        self.queued.values().sum()
    }
}

/// A figure of the receiving side beside its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Measure {
    /// What the rules allow each source.
    pub(crate) limit: u32,
    /// The most that was seen of any source.
    pub(crate) seen: u64,
}

/// The three limits of a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Measures {
    /// Connections open at the same time.
    pub(crate) connections: Measure,
    /// Messages on one connection.
    pub(crate) messages_per_connection: Measure,
    /// Messages in any 3,600 consecutive seconds.
    pub(crate) messages_per_hour: Measure,
}

/// A provider in the account.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ProviderAccount {
    /// Its name.
    pub(crate) name: String,
    /// Its domains.
    pub(crate) domains: Vec<String>,
    /// Recipients accepted.
    pub(crate) recipients: u64,
    /// Taken by the provider.
    pub(crate) sent: u64,
    /// Refused for good.
    pub(crate) failed: u64,
    /// Expired or cancelled.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) ended: u64,
    /// Not at their end.
    pub(crate) waiting: u64,
    /// Why, for most of them.
    pub(crate) waiting_reason: Option<String>,
    /// All reasons with their messages.
    pub(crate) waiting_reasons: BTreeMap<String, u64>,
    /// When all of it will have gone, by running the engine ahead (RFC 3339).
    pub(crate) gone_by: Option<String>,
    /// The same, as a time.
    #[serde(skip)]
    pub(crate) gone_at: Option<Timestamp>,
    /// Nothing has ever arrived there, or its hosts do not answer now.
    #[serde(skip)]
    pub(crate) out_of_reach: bool,
    /// What the receiving side saw; absent where there is no receiving side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limits: Option<Measures>,
}

// Serde hands over references.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The auditor's verdict in short.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct AuditAccount {
    /// Every limit was kept and every line could be judged.
    pub(crate) limits_held: bool,
    /// Attempts that came to MAIL FROM.
    pub(crate) attempts: u64,
    /// Lines of the log.
    pub(crate) lines: u64,
    /// Budgets judged.
    pub(crate) budgets: u64,
    /// Budgets over their limit.
    pub(crate) excesses: u64,
    /// Rule, budget, maximum and limit of the budget that was fullest.
    pub(crate) fullest: Option<String>,
}

impl AuditAccount {
    fn new(report: &AuditReport) -> Self {
        let fullest = report.budgets.first().map(|budget| {
            format!(
                "{} {}: {} of {}",
                budget.rule, budget.key, budget.maximum, budget.limit_per_hour
            )
        });
        Self {
            limits_held: report.limits_held,
            attempts: report.attempts,
            lines: report.lines,
            budgets: report.budgets.len() as u64,
            excesses: report.excesses,
            fullest,
        }
    }
}

/// Where the witnesses differ, in messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Differences {
    /// Accepted recipients against final states, rows of the queue and claimed messages.
    pub(crate) store: u64,
    /// Final states against the lines of the delivery log.
    pub(crate) delivery_log: u64,
    /// Messages sent against messages that the receiving side has.
    pub(crate) receiving_side: u64,
}

impl Differences {
    const fn sum(self) -> u64 {
        self.store + self.delivery_log + self.receiving_side
    }
}

/// Everything that is reported at the end.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Account {
    /// Recipients asked for.
    pub(crate) recipients: u64,
    /// Recipients accepted, durably.
    pub(crate) accepted: u64,
    /// Recipients refused at admission: quarantined or denylisted by what an earlier run in the same folder met.
    pub(crate) refused_at_admission: u64,
    /// Per second.
    pub(crate) accepted_per_second: u64,
    /// Recipients that an earlier run in the same folder had left.
    pub(crate) from_earlier_runs: u64,
    /// Taken by the receiving side, as the store says.
    pub(crate) sent: u64,
    /// Refused for good.
    pub(crate) failed: u64,
    /// Validity ended first.
    pub(crate) expired: u64,
    /// Cancelled.
    pub(crate) cancelled: u64,
    /// In the queue or on their way.
    pub(crate) waiting: u64,
    /// The sum of all differences between the witnesses.
    pub(crate) unaccounted: u64,
    /// Each of them.
    pub(crate) differences: Differences,
    /// The receiving side saw no limit passed.
    pub(crate) limits_held: bool,
    /// What it saw instead.
    pub(crate) limit_violations: Vec<String>,
    /// Copies beyond the first of each message, as seen by the receiving side.
    pub(crate) duplicates: u64,
    /// Messages whose connection was lost after the dot: the receiving side may have them.
    pub(crate) possibly_delivered: u64,
    /// Each provider.
    pub(crate) providers: Vec<ProviderAccount>,
    /// What came back, in the session and later.
    pub(crate) came_back: CameBack,
    /// The same list once more; absent when it did not come to it.
    pub(crate) second_delivery: Option<Again>,
    /// The auditor.
    pub(crate) audit: AuditAccount,
    /// How it ended.
    pub(crate) finished_by: FinishedBy,
    /// The level.
    pub(crate) level: String,
    /// The seed.
    pub(crate) seed: u64,
    /// Seconds of accepting.
    pub(crate) accepting_seconds: f64,
    /// Seconds from the start of sending until the last outcome.
    pub(crate) seconds: f64,
    /// Most memory in use, the lab's included.
    pub(crate) peak_memory_mib: u64,
    /// When this was, in the node's time.
    #[serde(skip)]
    pub(crate) now: Timestamp,
    /// The rule of the largest provider: messages per hour and in five minutes, per source.
    #[serde(skip)]
    pub(crate) example: Option<(String, u32)>,
}

/// What the witnesses say.
pub(crate) struct Witnesses<'a> {
    /// Where everything belongs.
    pub(crate) world: &'a World,
    /// The store before and after.
    pub(crate) stored: (&'a Stored, &'a Stored),
    /// The log.
    pub(crate) tally: &'a Tally,
    /// The auditor over the log.
    pub(crate) audit: &'a AuditReport,
    /// The lab.
    pub(crate) lab: &'a lab::Report,
    /// The last look at the running node.
    pub(crate) snapshot: &'a Snapshot,
    /// When each provider's mail will have gone.
    pub(crate) gone: &'a [Option<Timestamp>],
    /// Those of returned mail.
    pub(crate) returned: &'a Returned,
    /// The second delivery.
    pub(crate) second: Option<&'a Second>,
}

impl Account {
    /// Whether the exit status is 0.
    pub(crate) fn good(&self) -> bool {
        let again = self.second_delivery.as_ref();
        self.limits_held
            && self.unaccounted == 0
            && self.duplicates == 0
            && self.audit.limits_held
            && self.came_back.difference == 0
            && again.is_none_or(|again| again.difference == 0 && again.attempts_to_refused == 0)
    }

    /// Compares the witnesses. Figures that only the caller has are left at zero.
    pub(crate) fn new(witnesses: &Witnesses<'_>, finished_by: FinishedBy) -> Self {
        let Witnesses { world, stored: (before, after), tally, audit, lab, .. } = witnesses;
        let (old, new) = (before.counters, after.counters);
        let finals = |counters: Counters| {
            counters.sent + counters.failed + counters.expired + counters.cancelled
        };
        let sent = new.sent - old.sent;
        let apart = after.apart;
        let in_flight = new.in_flight + apart.in_flight;
        let log_of_first = tally.settled().abs_diff(finals(new) - finals(old));
        let log_of_second = tally.ended_apart().abs_diff(apart.sent + apart.failed);
        let differences = Differences {
            store: (new.accepted + apart.accepted)
                .abs_diff(finals(new) + finals(apart) + after.queue() + in_flight),
            delivery_log: log_of_first + log_of_second,
            receiving_side: lab.duplicates.unique_accepted.abs_diff(sent + apart.sent),
        };
        let waiting = (after.queue() + in_flight).saturating_sub(apart.pending());
        let rows = &witnesses.snapshot.rows;
        let mut providers: Vec<ProviderAccount> = (0..world.plans.len())
            .filter(|place| rows[*place].recipients > 0)
            .map(|place| provider(witnesses, place))
            .collect();
        providers.sort_by_key(|found| core::cmp::Reverse(found.recipients));
        let largest = providers
            .first()
            .and_then(|found| Some((found.name.clone(), found.limits?.messages_per_hour.limit)));
        Self {
            recipients: 0,
            accepted: new.accepted - old.accepted,
            refused_at_admission: 0,
            accepted_per_second: 0,
            from_earlier_runs: before.queue(),
            sent,
            failed: new.failed - old.failed,
            expired: new.expired - old.expired,
            cancelled: new.cancelled - old.cancelled,
            waiting,
            unaccounted: differences.sum(),
            differences,
            limits_held: lab.limits_held(),
            limit_violations: lab
                .limit_violations
                .iter()
                .map(|found| {
                    format!(
                        "{} from {}: {} was {}, the limit is {}",
                        found.provider, found.source, found.limit, found.seen, found.promised
                    )
                })
                .collect(),
            duplicates: lab.duplicates.extra_copies,
            possibly_delivered: lab.duplicates.only_possibly_delivered,
            providers,
            came_back: CameBack::new(&after.evidence, witnesses.returned),
            second_delivery: witnesses
                .second
                .map(|second| second.account(apart, lab.forbidden_recipients)),
            audit: AuditAccount::new(audit),
            finished_by,
            level: String::new(),
            seed: 0,
            accepting_seconds: 0.0,
            seconds: 0.0,
            peak_memory_mib: peak_memory_mib(),
            now: witnesses.snapshot.now,
            example: largest,
        }
    }
}

fn provider(witnesses: &Witnesses<'_>, place: usize) -> ProviderAccount {
    let plan = &witnesses.world.plans[place];
    let row: &Row = &witnesses.snapshot.rows[place];
    let gone_at = if row.waiting == 0 { None } else { witnesses.gone[place] };
    ProviderAccount {
        name: plan.name.clone(),
        domains: plan.domains.clone(),
        recipients: row.recipients,
        sent: row.sent,
        failed: row.failed,
        ended: row.ended,
        waiting: row.waiting,
        waiting_reason: row.held.first().map(|held| held.reason.clone()),
        waiting_reasons: row.held.iter().map(|held| (held.reason.clone(), held.messages)).collect(),
        gone_by: gone_at.map(|time| time.to_string()),
        gone_at,
        out_of_reach: super::forecast::unknowable(witnesses.snapshot, place),
        limits: measures(plan.promise, witnesses.lab.provider(&plan.lab_name)),
    }
}

fn measures(promise: Promise, seen: Option<&lab::report::ProviderReport>) -> Option<Measures> {
    let sources = &seen?.sources;
    let most = |figure: fn(&lab::report::SourceReport) -> u64| {
        sources.iter().map(figure).max().unwrap_or(0)
    };
    let measure = |limit: Option<u32>, seen| Some(Measure { limit: limit?, seen });
    Some(Measures {
        connections: measure(
            promise.max_connections,
            most(|source| source.most_simultaneous_connections),
        )?,
        messages_per_connection: measure(
            promise.max_messages_per_connection,
            most(|source| source.most_messages_on_one_connection),
        )?,
        messages_per_hour: measure(
            promise.messages_per_hour,
            most(|source| source.most_messages_in_an_hour),
        )?,
    })
}

/// The most memory that this process has had, in MiB; 0 where the system does not tell.
fn peak_memory_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1_024
}
