//! What happens to mail that comes in, in figures for metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mail::time::Timestamp;

/// What has happened since the start. Each figure only grows, except `waiting`.
#[derive(Debug, Default)]
pub struct InmailCounts {
    /// Mails made durable, however they came.
    pub kept: AtomicU64,
    /// Mails that were brought again.
    pub repeated: AtomicU64,
    /// Mails that could not be kept; they were not taken.
    pub not_kept: AtomicU64,
    /// Mails that wait or are being processed, now.
    pub waiting: AtomicU64,
    /// Mails that were processed.
    pub processed: AtomicU64,
    /// Times that a mail was put off because it could not be processed just then.
    pub put_off: AtomicU64,
    /// Mails kept aside for people.
    pub kept_aside: AtomicU64,
    /// Mails kept aside that went for newer ones.
    pub dropped_aside: AtomicU64,
    /// Mails that could not be read and were sent to `forward_to`.
    pub forwarded: AtomicU64,
    /// The same, not sent: there were too many, or the queue refused it.
    pub not_forwarded: AtomicU64,
    /// Files picked up from the spool folder.
    pub spooled: AtomicU64,
    /// Recipients of others that were refused.
    pub relay_denied: AtomicU64,
    /// The mailboxes, in the order of the configuration.
    pub mailboxes: Vec<Arc<MailboxCounts>>,
}

/// What has happened to one mailbox since the start.
#[derive(Debug, Default)]
pub struct MailboxCounts {
    /// Its name.
    pub name: String,
    /// Sessions that ended in order.
    pub sessions: AtomicU64,
    /// Sessions that did not, or did not begin.
    pub sessions_failed: AtomicU64,
    /// Messages fetched and kept, whole or not.
    pub fetched: AtomicU64,
    /// Messages whose deletion the server has confirmed.
    pub deleted: AtomicU64,
    /// Messages that stay in the mailbox, because they are too large or cannot be fetched; now.
    pub left: AtomicU64,
    /// Messages in the mailbox at the beginning of the last session.
    pub held: AtomicU64,
    /// When the last session ended in order, in microseconds since 1970; 0: none has.
    pub last_good_micros: AtomicU64,
    last_fault: Mutex<Option<String>>,
}

impl MailboxCounts {
    /// Why the last session failed; `None`: it did not.
    #[must_use]
    pub fn last_fault(&self) -> Option<String> {
        self.last_fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_fault(&self, fault: Option<String>) {
        *self.last_fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    pub(super) fn went_well(&self, now: Timestamp) {
        InmailCounts::add(&self.sessions, 1);
        self.last_good_micros.store(now.as_micros(), Ordering::Relaxed);
        self.set_fault(None);
    }
}

impl InmailCounts {
    /// No figures yet, for mailboxes of these names.
    pub(super) fn new<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let mailbox =
            |name: &str| Arc::new(MailboxCounts { name: name.to_owned(), ..Default::default() });
        Self { mailboxes: names.map(mailbox).collect(), ..Self::default() }
    }

    pub(super) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}
