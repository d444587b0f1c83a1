//! What is stored of the ledger.
//!
//! Every entry states an absolute value under a key ([`JournalEntry::key`]); the latest entry of a
//! key is the truth. So the store may keep a log or a table with one row per key, may write a batch
//! twice, and may replay a log from any point before its end: the result is the same.
//!
//! The rule for the shell is one: after a call of the ledger, take the journal, make it durable,
//! and only then hand out the answer of that call. Batches may hold the entries of many calls. A
//! batch that was written in part does no harm as long as none of its answers was handed out.
//!
//! A row may be deleted once the ledger's time is after [`JournalEntry::forget_after`].

use core::fmt;

use mail::id::SourceId;
use mail::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::budget::{CapKey, PathKey};
use crate::clock::SavedClock;
use crate::permits::{Owner, PermitId};
use crate::slots::{DAY_TICKS, HOUR_SLOTS, MINUTE_SECONDS, Slot, TICK_SLOTS};

/// A used MX host name is stored again when its last entry is this many slots old.
pub(crate) const HOST_REFRESH_SLOTS: u64 = 30;

/// One fact about the ledger, as an absolute value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "entry")]
pub enum JournalEntry {
    /// The clocks of the machine, see [`crate::clock`]. The ledger never reads it; the shell
    /// searches it before it restores.
    Clock(SavedClock),
    /// A path is used under this MX host name.
    Host {
        /// The path.
        path: PathKey,
        /// The name.
        mx_host: Box<str>,
        /// When; at most half an hour older than the last use.
        slot: Slot,
    },
    /// Tokens of a path counted in a slot.
    Spent {
        /// The path.
        path: PathKey,
        /// The slot.
        slot: Slot,
        /// All tokens counted there by now, those given back taken off.
        total_now: u64,
    },
    /// Connections started on a path in one second.
    Started {
        /// The path.
        path: PathKey,
        /// The second since the epoch.
        second: u64,
        /// All starts counted there by now.
        total_now: u64,
        /// The last of them.
        last_start: Timestamp,
    },
    /// Tokens of a named cap counted in a slot.
    CapSpent {
        /// The cap.
        cap: CapKey,
        /// The slot.
        slot: Slot,
        /// All tokens counted there by now.
        total_now: u64,
    },
    /// Tokens of a source counted in ten minutes, for the caps of a day.
    DaySpent {
        /// The source.
        source: SourceId,
        /// At this rule; `None`: in all.
        rule: Option<Box<str>>,
        /// The ten minutes, numbered from the epoch.
        tick: u64,
        /// All tokens counted there by now.
        total_now: u64,
    },
    /// Until when the permits of an owner hold unless the lease is renewed.
    Lease {
        /// The owner.
        owner: Owner,
        /// The end.
        expires_at: Timestamp,
    },
    /// A permit is held.
    PermitGranted {
        /// The permit.
        permit: PermitId,
        /// What it allows to connect.
        path: PathKey,
        /// The MX host under which it was asked for.
        mx_host: Box<str>,
        /// Who holds it.
        owner: Owner,
        /// Since when.
        granted_at: Timestamp,
    },
    /// A permit is held no more. Has the key of its grant: the row may be deleted at once.
    PermitReleased {
        /// The permit.
        permit: PermitId,
    },
}

/// What an entry is about: entries of one key replace one another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JournalKey {
    /// The clocks.
    Clock,
    /// A host name of a path.
    Host(PathKey, Box<str>),
    /// A slot of a path.
    Spent(PathKey, Slot),
    /// A second of a path.
    Started(PathKey, u64),
    /// A slot of a cap.
    CapSpent(CapKey, Slot),
    /// Ten minutes of a source, at a rule or in all.
    DaySpent(SourceId, u64, Option<Box<str>>),
    /// The lease of an owner.
    Lease(Owner),
    /// A permit.
    Permit(PermitId),
}

impl fmt::Display for JournalKey {
    /// A text that is different for different keys: names from outside come last.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clock => out.write_str("clock"),
            Self::Host(path, mx_host) => write!(out, "host/{path}/{mx_host}"),
            Self::Spent(path, slot) => write!(out, "spent/{path}/{}", slot.0),
            Self::Started(path, second) => write!(out, "started/{path}/{second}"),
            Self::CapSpent(CapKey::Delivery(delivery), slot) => {
                write!(out, "cap/{}/delivery/{delivery}", slot.0)
            }
            Self::CapSpent(CapKey::Tenant(tenant), slot) => {
                write!(out, "cap/{}/tenant/{tenant}", slot.0)
            }
            Self::DaySpent(source, tick, None) => write!(out, "day/{tick}/{source}"),
            Self::DaySpent(source, tick, Some(rule)) => {
                write!(out, "day/{tick}/{source}/{rule}")
            }
            Self::Lease(owner) => write!(out, "lease/{}/{}", owner.node.0, owner.incarnation),
            Self::Permit(permit) => write!(out, "permit/{}", permit.0),
        }
    }
}

impl JournalEntry {
    /// What it is about.
    #[must_use]
    pub fn key(&self) -> JournalKey {
        match self {
            Self::Clock(_) => JournalKey::Clock,
            Self::Host { path, mx_host, .. } => JournalKey::Host(*path, mx_host.clone()),
            Self::Spent { path, slot, .. } => JournalKey::Spent(*path, *slot),
            Self::Started { path, second, .. } => JournalKey::Started(*path, *second),
            Self::CapSpent { cap, slot, .. } => JournalKey::CapSpent(cap.clone(), *slot),
            Self::DaySpent { source, rule, tick, .. } => {
                JournalKey::DaySpent(*source, *tick, rule.clone())
            }
            Self::Lease { owner, .. } => JournalKey::Lease(*owner),
            Self::PermitGranted { permit, .. } | Self::PermitReleased { permit } => {
                JournalKey::Permit(*permit)
            }
        }
    }

    /// When its row may be deleted: after this time of the ledger it means nothing any more.
    /// [`Timestamp::NEVER`]: only when another entry of its key says so.
    #[must_use]
    pub fn forget_after(&self) -> Timestamp {
        let slots_later = |slot: &Slot, slots| Slot(slot.0.saturating_add(slots)).start();
        match self {
            Self::Clock(_) | Self::PermitGranted { .. } => Timestamp::NEVER,
            Self::Host { slot, .. } => slots_later(slot, HOST_REFRESH_SLOTS + HOUR_SLOTS + 1),
            Self::Spent { slot, .. } | Self::CapSpent { slot, .. } => slots_later(slot, HOUR_SLOTS),
            Self::DaySpent { tick, .. } => {
                Slot(tick.saturating_add(DAY_TICKS).saturating_mul(TICK_SLOTS)).start()
            }
            // Kept for an hour for the sake of `min_interval`.
            Self::Started { second, .. } => {
                Timestamp::from_secs(second.saturating_add(3_600 + MINUTE_SECONDS))
            }
            // A permit whose lease is gone is given a new one at the next restart, so the lease may
            // go as soon as all its permits must be gone.
            Self::Lease { expires_at, .. } => *expires_at + core::time::Duration::from_secs(3_600),
            Self::PermitReleased { .. } => Timestamp::EPOCH,
        }
    }
}

/// The place of an account's latest entry among those not yet taken.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    batch: u64,
    index: usize,
}

/// The entries not yet taken by the shell.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    /// Number of the batch being gathered, from 1.
    batch: u64,
    entries: Vec<JournalEntry>,
}

impl Pending {
    pub(crate) fn new() -> Self {
        Self { batch: 1, entries: Vec::new() }
    }

    /// Adds an entry.
    pub(crate) fn push(&mut self, entry: JournalEntry) {
        self.entries.push(entry);
    }

    /// Adds the count of a slot. `place` is where the same account wrote last: if that is in this
    /// batch and for the same slot, the entry is brought up to date instead of repeated, so that a
    /// batch is as long as the paths are many, not as the grants are.
    pub(crate) fn push_count(&mut self, place: &mut Place, entry: JournalEntry) {
        if place.batch == self.batch {
            let earlier = self.entries.get_mut(place.index);
            match (earlier, &entry) {
                (
                    Some(JournalEntry::Spent { slot, total_now, .. }),
                    JournalEntry::Spent { slot: new_slot, total_now: new_total, .. },
                )
                | (
                    Some(JournalEntry::CapSpent { slot, total_now, .. }),
                    JournalEntry::CapSpent { slot: new_slot, total_now: new_total, .. },
                ) if slot == new_slot => {
                    *total_now = *new_total;
                    return;
                }
                (
                    Some(JournalEntry::DaySpent { tick, total_now, .. }),
                    JournalEntry::DaySpent { tick: new_tick, total_now: new_total, .. },
                ) if tick == new_tick => {
                    *total_now = *new_total;
                    return;
                }
                _ => {}
            }
        }
        *place = Place { batch: self.batch, index: self.entries.len() };
        self.entries.push(entry);
    }

    /// Hands the batch over.
    pub(crate) fn take(&mut self) -> Vec<JournalEntry> {
        self.batch += 1;
        core::mem::take(&mut self.entries)
    }
}
