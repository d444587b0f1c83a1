//! What happens to addresses, in figures for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use engine::quarantine::{Change, Channel, State};
use mail::failure::{FailureType, Reason};
use mail::incoming::MailKind;

/// What has happened since the start. Each figure only grows.
#[derive(Debug, Default)]
pub struct NonDeliverableCounts {
    /// By reason, type and channel; see [`NonDeliverableCounts::failures`].
    failures: [[[AtomicU64; 2]; FailureType::ALL.len()]; Reason::ALL.len()],
    /// Mails read, by kind; see [`NonDeliverableCounts::kinds`].
    kinds: [AtomicU64; MailKind::ALL.len()],
    /// Reports whose return path or token was not made here, or that prove nothing.
    pub forged: AtomicU64,
    /// Reports about mail that is not ours.
    pub foreign: AtomicU64,
    /// Reports that had been counted before.
    pub repeated: AtomicU64,
    /// Mails that are of no known kind, kept aside.
    pub unreadable: AtomicU64,
    /// Addresses that came into quarantine.
    pub quarantined: AtomicU64,
    /// Addresses that came onto the denylist.
    pub denylisted: AtomicU64,
    /// Addresses that are free again.
    pub released: AtomicU64,
    /// Unsubscriptions.
    pub unsubscribed: AtomicU64,
    /// Recipients refused at intake.
    pub refused: AtomicU64,
    /// Queued messages ended because their address may not be written to any more.
    pub withdrawn: AtomicU64,
    /// Pieces of evidence left out because the store was too slow.
    pub left_out: AtomicU64,
    /// Times that the outage guard tripped.
    pub guard_alerts: AtomicU64,
}

/// Sizes of lists, read now and then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Addresses by state and reason.
    pub addresses: Vec<(State, Option<Reason>, u64)>,
    /// Texts that wait for somebody to qualify them; counted up to 10,000.
    pub texts_to_qualify: u64,
    /// Holds of the outage guard that are in force.
    pub holds: u64,
    /// Tasks that are not done.
    pub tasks: u64,
}

impl NonDeliverableCounts {
    pub(crate) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn failed(&self, reason: Reason, failure_type: FailureType, channel: Channel) {
        let way = usize::from(channel == Channel::Asynchronous);
        Self::add(&self.failures[reason as usize][failure_type as usize][way], 1);
    }

    pub(super) fn mail(&self, kind: MailKind) {
        Self::add(&self.kinds[kind as usize], 1);
    }

    pub(super) fn count_changes(&self, changes: &[Change]) {
        for change in changes.iter().filter(|change| change.before.state != change.after.state) {
            let counter = match (change.before.state, change.after.state) {
                (_, State::Quarantined) => &self.quarantined,
                (_, State::Denylisted) => &self.denylisted,
                (State::Quarantined | State::Denylisted, _) => &self.released,
                _ => continue,
            };
            Self::add(counter, 1);
        }
    }

    /// Failures by reason, type and channel, without those that are 0.
    #[must_use]
    pub fn failures(&self) -> Vec<(Reason, FailureType, Channel, u64)> {
        let mut found = Vec::new();
        for reason in Reason::ALL {
            for failure_type in FailureType::ALL {
                for (way, channel) in
                    [Channel::Synchronous, Channel::Asynchronous].into_iter().enumerate()
                {
                    let counter = &self.failures[reason as usize][failure_type as usize][way];
                    let count = counter.load(Ordering::Relaxed);
                    if count > 0 {
                        found.push((reason, failure_type, channel, count));
                    }
                }
            }
        }
        found
    }

    /// Mails read, by kind.
    #[must_use]
    pub fn kinds(&self) -> Vec<(MailKind, u64)> {
        let count = |kind: MailKind| self.kinds[kind as usize].load(Ordering::Relaxed);
        MailKind::ALL.into_iter().map(|kind| (kind, count(kind))).collect()
    }
}
