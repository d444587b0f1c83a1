//! What comes back to the return path: waited for, counted, and compared with what the lab says that it sent.
//!
//! Three witnesses again: the ledger of evidence on the disk, the counters of who reads incoming mail,
//! and the lab's own record of what its listener peer took. [`CameBack::difference`] adds up where they differ.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use engine::quarantine::{Channel, Selection};
use lab::report::ReturnReport;
use lab::{Lab, Situation};
use mail::failure::{FailureType, Reason};
use mail::incoming::MailKind;
use mail::time::Timestamp;
use node::inmail::InmailCounts;
use node::nondeliverables::NonDeliverables;
use serde::Serialize;
use store::{LedgerPlace, Reads, StoreFault};

/// Between two looks.
const TICK: Duration = Duration::from_millis(50);
/// What has not come back after so long is told as still on its way.
const PATIENCE: Duration = Duration::from_secs(20);
/// Entries of the ledger read at a time.
const PAGE: u32 = 1_000;

/// Failures by what they mean: in the session, and by mail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// What servers said while we spoke with them.
    pub(crate) in_session: Counts,
    /// What came back later.
    pub(crate) by_mail: Counts,
}

/// Failures by reason and type.
pub(crate) type Counts = BTreeMap<(Reason, FailureType), u64>;

impl Evidence {
    /// Counts what the ledger on the disk holds since a moment.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn count(reads: &dyn Reads, since: Timestamp) -> Result<Self, StoreFault> {
        let selection = Selection { from: since, ..Selection::default() };
        let mut found = Self::default();
        let mut after = LedgerPlace::default();
        loop {
            let (entries, next) = reads.entries(&selection, after, PAGE)?;
            for entry in &entries {
                let Some((_, meaning)) = entry.failure() else { continue };
                let counts = match entry.evidence.channel {
                    Channel::Synchronous => &mut found.in_session,
                    Channel::Asynchronous => &mut found.by_mail,
                };
                *counts.entry((meaning.reason, meaning.failure_type)).or_default() += 1;
            }
            match next {
                Some(next) => after = next,
                None => return Ok(found),
            }
        }
    }
}

/// The counters of who reads incoming mail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Readings {
    waiting: u64,
    automatic: u64,
    notices: u64,
    other: u64,
    forged: u64,
    foreign: u64,
}

impl Readings {
    /// The counters as they are now.
    pub(crate) fn now(all: &NonDeliverables, inmail: &InmailCounts) -> Self {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let kinds = all.counts().kinds();
        let kind = |wanted: MailKind| -> u64 {
            kinds.iter().filter(|(kind, _)| *kind == wanted).map(|(_, count)| count).sum()
        };
        Self {
            waiting: value(&inmail.waiting),
            automatic: kind(MailKind::AutoReply),
            notices: kind(MailKind::Delayed)
                + kind(MailKind::Delivered)
                + kind(MailKind::Challenge),
            other: value(&all.counts().unreadable),
            forged: value(&all.counts().forged),
            foreign: value(&all.counts().foreign),
        }
    }

    /// What has come since `before`.
    fn since(self, before: Self) -> Self {
        Self {
            waiting: self.waiting,
            automatic: self.automatic - before.automatic,
            notices: self.notices - before.notices,
            other: self.other - before.other,
            forged: self.forged - before.forged,
            foreign: self.foreign - before.foreign,
        }
    }
}

/// What the witnesses of returned mail say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Returned {
    /// The counters when the demonstration began and when it ended.
    pub(crate) readings: (Readings, Readings),
    /// The lab's record.
    pub(crate) lab: ReturnReport,
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct CameBackRow {
    /// `refusal`, `bounce`, `complaint` or `automatic reply`.
    pub(crate) came_as: &'static str,
    /// `Hard`, `Soft` or `Ignored`.
    #[serde(rename = "type")]
    pub(crate) failure_type: FailureType,
    /// Why; `None`: it says nothing against the address.
    pub(crate) reason: Option<Reason>,
    /// How often.
    pub(crate) count: u64,
}

/// What came back, and whether it is what was sent back.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CameBack {
    /// By way, type and reason: refusals first.
    pub(crate) rows: Vec<CameBackRow>,
    /// Mails that the receiving side has sent back, as it says.
    pub(crate) sent_back: u64,
    /// Mails that were kept, read, and matched to the message that they speak of.
    pub(crate) matched: u64,
    /// Mails that the receiving side had not sent yet.
    pub(crate) on_their_way: u64,
    /// Mails that were kept and not yet read.
    pub(crate) unread: u64,
    /// Reports that prove nothing about a message of ours.
    pub(crate) forged: u64,
    /// Reports about mail that is not ours.
    pub(crate) foreign: u64,
    /// Notices that change nothing: delays, successes, challenges.
    pub(crate) notices: u64,
    /// Mails of no known kind, kept aside for people.
    pub(crate) other: u64,
    /// Mails that the listener refused, or did not take after several tries.
    pub(crate) not_taken: u64,
    /// Mails that were matched, whose reason is another one than the receiving side had in mind: a text that the bounce
    /// rules do not know well.
    pub(crate) understood_otherwise: u64,
    /// Where the record of the receiving side and ours differ, in mails.
    pub(crate) difference: u64,
}

impl CameBack {
    /// Compares the witnesses.
    pub(crate) fn new(evidence: &Evidence, returned: &Returned) -> Self {
        let (before, after) = returned.readings;
        let readings = after.since(before);
        let lab = &returned.lab;
        let mut wanted: BTreeMap<Reason, u64> = BTreeMap::new();
        for (cause, count) in &lab.bounces_by_cause {
            *wanted.entry(meaning(*cause)).or_default() += count;
        }
        *wanted.entry(Reason::Complaint).or_default() += lab.complaints;
        let mut found: BTreeMap<Reason, u64> = BTreeMap::new();
        for ((reason, _), count) in &evidence.by_mail {
            *found.entry(*reason).or_default() += count;
        }
        let of = |counts: &BTreeMap<Reason, u64>, reason| counts.get(&reason).copied().unwrap_or(0);
        let each = |left: &BTreeMap<Reason, u64>, right: &BTreeMap<Reason, u64>| -> u64 {
            Reason::ALL
                .iter()
                .map(|reason| of(left, *reason).saturating_sub(of(right, *reason)))
                .sum()
        };
        let complaints = of(&found, Reason::Complaint);
        let bounces = found.values().sum::<u64>() - complaints;
        let by_kind = lab.bounces.abs_diff(bounces)
            + lab.complaints.abs_diff(complaints)
            + lab.out_of_office.abs_diff(readings.automatic);
        let not_taken = lab.refused + lab.failed;
        Self {
            rows: rows(evidence, readings.automatic),
            sent_back: lab.taken(),
            matched: found.values().sum::<u64>() + readings.automatic,
            on_their_way: lab.waiting,
            unread: readings.waiting,
            forged: readings.forged,
            foreign: readings.foreign,
            notices: readings.notices,
            other: readings.other,
            not_taken,
            understood_otherwise: each(&wanted, &found).min(each(&found, &wanted)),
            // What is on the disk and not yet read is not lost.
            difference: by_kind.saturating_sub(readings.waiting) + not_taken,
        }
    }
}

/// What a late bounce of the lab with this cause is to be understood as.
const fn meaning(cause: Situation) -> Reason {
    match cause {
        Situation::UnknownUser => Reason::UserUnknown,
        Situation::MailboxFull => Reason::MailboxFull,
        _ => Reason::Refused,
    }
}

fn rows(evidence: &Evidence, automatic: u64) -> Vec<CameBackRow> {
    let part =
        |counts: &Counts, came_as: fn(Reason) -> &'static str| -> Vec<CameBackRow> {
            let row = |(&(reason, failure_type), &count): (&(Reason, FailureType), &u64)| {
                CameBackRow { came_as: came_as(reason), failure_type, reason: Some(reason), count }
            };
            let mut rows: Vec<CameBackRow> = counts.iter().map(row).collect();
            rows.sort_by_key(|row| (row.came_as, core::cmp::Reverse(row.count)));
            rows
        };
    let mut rows = part(&evidence.in_session, |_| "refusal");
    rows.extend(part(&evidence.by_mail, |reason| match reason {
        Reason::Complaint => "complaint",
        _ => "bounce",
    }));
    if automatic > 0 {
        rows.push(CameBackRow {
            came_as: "automatic reply",
            failure_type: FailureType::Ignored,
            reason: None,
            count: automatic,
        });
    }
    rows
}

/// Waits until everything that was sent back has been read, or until the patience is over.
pub(crate) async fn all_read(lab: &Lab, inmail: &Arc<InmailCounts>) {
    let begun = Instant::now();
    let at_rest = || {
        // In this order: what the lab has handed over is with us.
        lab.returns().waiting == 0 && inmail.waiting.load(Ordering::Acquire) == 0
    };
    while !at_rest() && begun.elapsed() < PATIENCE {
        tokio::time::sleep(TICK).await;
    }
}
