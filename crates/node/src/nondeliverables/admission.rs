//! Who may be written to, asked by many threads.

use std::borrow::Cow;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use engine::quarantine::{Desk, Refusal};

use super::NonDeliverableCounts;

/// The desk behind a lock that is held for microseconds.
pub(crate) struct Admission {
    desk: RwLock<Desk>,
    quarantines: bool,
    counts: Arc<NonDeliverableCounts>,
}

impl core::fmt::Debug for Admission {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        out.debug_struct("Admission").finish_non_exhaustive()
    }
}

impl Admission {
    /// `quarantines`: whether quarantined addresses are refused. What recipients and people have decided holds in any
    /// case.
    pub(super) const fn new(
        desk: Desk,
        quarantines: bool,
        counts: Arc<NonDeliverableCounts>,
    ) -> Self {
        Self { desk: RwLock::new(desk), quarantines, counts }
    }

    pub(crate) fn desk(&self) -> RwLockReadGuard<'_, Desk> {
        // A panic leaves the desk with what is durable, which is what counts.
        self.desk.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn desk_mut(&self) -> RwLockWriteGuard<'_, Desk> {
        self.desk.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why a folded address is not written to; `None`: it is.
    pub(crate) fn refuse(&self, folded: &str) -> Option<Refusal> {
        match self.desk().admission().admit_address(folded) {
            Ok(()) => None,
            Err(Refusal::Quarantined(_)) if !self.quarantines => None,
            Err(refusal) => Some(refusal),
        }
    }

    /// So many recipients were refused at intake.
    pub(crate) fn count_refused(&self, count: usize) {
        NonDeliverableCounts::add(&self.counts.refused, count as u64);
    }

    /// The last words about a queued message whose recipient may not be written to any more; `None`: it is sent.
    pub(crate) fn withdraw(&self, recipient: &str) -> Option<String> {
        let refusal = self.refuse(&folded(recipient))?;
        NonDeliverableCounts::add(&self.counts.withdrawn, 1);
        Some(format!("quarantined: {refusal}; it was not sent"))
    }
}

/// The key of an address in the form of the queue; see [`mail::address::Mailbox::folded_key`].
pub(crate) fn folded(address: &str) -> Cow<'_, str> {
    if address.bytes().any(|octet| octet.is_ascii_uppercase() || !octet.is_ascii()) {
        Cow::Owned(address.to_lowercase())
    } else {
        Cow::Borrowed(address)
    }
}
