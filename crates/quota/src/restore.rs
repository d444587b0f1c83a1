//! From the stored entries back to the ledger.
//!
//! The latest entry of each key counts; what has left its window is skipped. Counts of slots that
//! have not come yet can only exist if the machine was off and its clock was set back meanwhile, so
//! that the time continues from a stored moment that was slightly behind. They were used before now
//! and are counted as used now, the latest moment they can have been; the journal is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use mail::time::Timestamp;

use crate::accounts::Accounts;
use crate::journal::{JournalEntry, JournalKey};
use crate::ledger::Ledger;
use crate::permits::{Owner, PermitId};
use crate::ruling::Ruling;
use crate::slots::{HOUR_SLOTS, MINUTE_SECONDS, Slot};
use crate::{CapKey, PathKey, Settings};

impl Ledger {
    /// A ledger with the counts and permits that were stored, for a process that runs as `owner`.
    ///
    /// `saved` are the stored entries in the order in which they were written, or one per key in
    /// any order. `now` is the time from [`anchor`](crate::clock::anchor).
    ///
    /// Lots granted before cannot be given back any more: they stay counted. Permits of earlier
    /// incarnations of the owner's node count until the settle time has passed, those of other
    /// nodes until their lease ends.
    #[must_use]
    pub fn restore(
        settings: Settings,
        ruling: Arc<dyn Ruling + Send + Sync>,
        owner: Owner,
        now: Timestamp,
        saved: impl IntoIterator<Item = JournalEntry>,
    ) -> Self {
        let mut latest: BTreeMap<JournalKey, JournalEntry> = BTreeMap::new();
        for entry in saved {
            latest.insert(entry.key(), entry);
        }
        let mut ledger = Self::empty(settings, ruling, now);
        let mut permits = Vec::new();
        let mut leases = BTreeMap::new();
        for entry in latest.into_values() {
            match entry {
                JournalEntry::Clock(_) | JournalEntry::PermitReleased { .. } => {}
                JournalEntry::Host { path, mx_host, slot } => {
                    // The entry may be half an hour older than the last use, hence a later end.
                    let forget = JournalEntry::Host { path, mx_host: mx_host.clone(), slot };
                    if forget.forget_after() >= now {
                        ledger.restore_host(path, &mx_host);
                    }
                }
                JournalEntry::Spent { path, slot, total_now } => {
                    ledger.restore_spent(path, slot, total_now);
                }
                JournalEntry::Started { path, second, total_now, last_start } => {
                    ledger.restore_started(path, second, total_now, last_start);
                }
                JournalEntry::CapSpent { cap, slot, total_now } => {
                    ledger.restore_cap(cap, slot, total_now);
                }
                JournalEntry::DaySpent { source, rule, tick, total_now } => {
                    let Self { days, pending, latest: then, .. } = &mut ledger;
                    days.restore(source, rule, (tick, total_now), *then, pending);
                }
                JournalEntry::Lease { owner, expires_at } => {
                    leases.insert(owner, expires_at);
                }
                JournalEntry::PermitGranted { permit, path, mx_host, owner, .. } => {
                    permits.push((permit, path, mx_host, owner));
                }
            }
        }
        for (permit, path, mx_host, owner) in permits {
            let expires_at = leases.get(&owner).copied();
            ledger.restore_permit(permit, path, &mx_host, owner, expires_at);
        }
        // Now that every path has its counts and hosts, the budgets are their sums.
        let ruling = Arc::clone(&ledger.ruling);
        ledger.accounts.reattribute(&*ruling);
        ledger.owner_started(now, owner);
        ledger.expire(now);
        ledger
    }

    fn restore_host(&mut self, path: PathKey, mx_host: &str) {
        let slot = Slot::of(self.latest);
        let ruling = Arc::clone(&self.ruling);
        let place = self.accounts.path(path, slot);
        if self.accounts.attach(place, mx_host, &*ruling, slot) {
            self.pending.push(JournalEntry::Host { path, mx_host: mx_host.into(), slot });
        }
    }

    fn restore_spent(&mut self, path: PathKey, slot: Slot, total: u64) {
        let current = Slot::of(self.latest);
        let Some(counted) = counted_in(slot, total, current) else { return };
        let place = self.accounts.path(path, current);
        self.accounts.count_tokens(place, counted, total, false);
        if counted != slot {
            let total_now = self.accounts.paths.get(place).spent.at(counted.0);
            self.pending.push(JournalEntry::Spent { path, slot: counted, total_now });
            self.pending.push(JournalEntry::Spent { path, slot, total_now: 0 });
        }
    }

    fn restore_cap(&mut self, cap: CapKey, slot: Slot, total: u64) {
        let current = Slot::of(self.latest);
        let Some(counted) = counted_in(slot, total, current) else { return };
        let place = self.cap(cap.clone());
        let account = self.caps.get_mut(place);
        account.spent.add(counted.0, total);
        if counted != slot {
            let total_now = account.spent.at(counted.0);
            self.pending.push(JournalEntry::CapSpent {
                cap: cap.clone(),
                slot: counted,
                total_now,
            });
            self.pending.push(JournalEntry::CapSpent { cap, slot, total_now: 0 });
        }
    }

    fn restore_started(&mut self, path: PathKey, second: u64, total: u64, last: Timestamp) {
        let current = self.latest.as_secs();
        if second.saturating_add(3_600 + MINUTE_SECONDS) < current || total == 0 {
            return;
        }
        let place = self.accounts.path(path, Slot::of(self.latest));
        let account = self.accounts.paths.get_mut(place);
        account.last_start = account.last_start.max(Some(last.min(self.latest)));
        if second.saturating_add(MINUTE_SECONDS) <= current {
            return;
        }
        let counted = second.min(current);
        account.starts.add(counted, total);
        if counted != second {
            let total_now = account.starts.at(counted);
            let last_start = self.latest;
            let entry =
                |second, total_now| JournalEntry::Started { path, second, total_now, last_start };
            self.pending.push(entry(counted, total_now));
            self.pending.push(entry(second, 0));
        }
    }

    fn restore_permit(
        &mut self,
        permit: PermitId,
        path: PathKey,
        mx_host: &str,
        owner: Owner,
        expires_at: Option<Timestamp>,
    ) {
        // A lease that ends later than one granted now was stored before the clock was set back.
        let longest = self.latest + self.settings.lease;
        let expires_at = expires_at.unwrap_or(longest).min(longest);
        self.restore_host(path, mx_host);
        let place = Accounts::path(&mut self.accounts, path, Slot::of(self.latest));
        self.register.restore(permit, place, owner, expires_at);
        self.accounts.count_connection(place, true);
    }
}

/// The slot in which a stored count is counted: its own, or the current one if that is earlier;
/// `None` if it counts for nothing.
fn counted_in(slot: Slot, total: u64, current: Slot) -> Option<Slot> {
    let past = slot.0.saturating_add(HOUR_SLOTS) <= current.0;
    (total > 0 && !past).then(|| slot.min(current))
}
