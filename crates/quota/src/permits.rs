//! Permits to hold a connection open.
//!
//! A permit is counted on its path and, like tokens, in every budget of the path. It belongs to an
//! [`Owner`], one process of one node, and holds as long as the owner's lease: the owner renews the
//! lease ([`Ledger::renew_permits`]) well before it ends, for instance every third of it, and
//! **closes its connections before the end of a lease that it could not renew**. After its end a
//! lease counts for [`Settings::settle`](crate::Settings::settle) more, until the far ends have
//! noticed that the connections are closed; then all its permits are dropped.
//!
//! When a node appears with a higher incarnation, its earlier process is dead and the system has
//! closed its connections: the leases of its earlier incarnations end then.
//!
//! Connection starts are counted when the permit is granted, whether or not the connection comes
//! about: the far end counts attempts. [`Permit::start_before`] bounds the delay between the two.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use mail::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::budget::{Budget, PathKey, Wait, latest};
use crate::journal::JournalEntry;
use crate::ledger::Ledger;

/// A node of the installation.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct NodeId(pub u64);

/// One process of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// The node.
    pub node: NodeId,
    /// Grows with each start of the node's process.
    pub incarnation: u64,
}

/// The number of a permit. Never used twice, not even across restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PermitId(pub u64);

/// A request for a permit.
#[derive(Clone, Copy, Debug)]
pub struct PermitRequest<'a> {
    /// Who will hold it.
    pub owner: Owner,
    /// The path to connect.
    pub path: PathKey,
    /// The MX host under which the path is used: lower case, no final dot.
    pub mx_host: &'a str,
}

/// Permission to open one connection and hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    /// Its number.
    pub id: PermitId,
    /// The path it is for.
    pub path: PathKey,
    /// Who holds it.
    pub owner: Owner,
    /// Since when.
    pub granted_at: Timestamp,
    /// The connection must be started before this moment (one second after the grant) for
    /// `connections_per_minute` to hold at the far end too; otherwise release the permit.
    pub start_before: Timestamp,
    /// Until when it holds unless the owner renews.
    pub expires_at: Timestamp,
}

/// The answer to a request for a permit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PermitAnswer {
    /// Counted and, once the journal is durable, to be used.
    Granted(Permit),
    /// Not now.
    Wait(Wait),
    /// The node has a later incarnation: whoever asks should no longer exist.
    Stale {
        /// The later incarnation.
        incarnation: u64,
    },
}

/// The answer to a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// Until when the permits hold now.
    pub expires_at: Timestamp,
    /// How many permits that are. An owner with more connections than that let its lease end and
    /// must close those whose permits are not in [`Ledger::permits_of`].
    pub permits: usize,
}

/// What is remembered of a permit.
#[derive(Clone, Copy, Debug)]
struct HeldPermit {
    path: usize,
    owner: Owner,
}

/// The lease of an owner.
#[derive(Clone, Debug)]
struct Lease {
    expires_at: Timestamp,
    permits: BTreeSet<PermitId>,
}

/// All permits and leases.
#[derive(Clone, Debug)]
pub(crate) struct Register {
    held: BTreeMap<PermitId, HeldPermit>,
    leases: BTreeMap<Owner, Lease>,
    next: u64,
}

impl Register {
    /// No permits; the first will have number `first` or higher.
    pub(crate) fn new(first: u64) -> Self {
        Self { held: BTreeMap::new(), leases: BTreeMap::new(), next: first }
    }

    /// Puts a stored permit back.
    pub(crate) fn restore(
        &mut self,
        id: PermitId,
        path: usize,
        owner: Owner,
        expires_at: Timestamp,
    ) {
        self.next = self.next.max(id.0.saturating_add(1));
        self.held.insert(id, HeldPermit { path, owner });
        let lease = self.leases.entry(owner);
        lease.or_insert_with(|| Lease { expires_at, permits: BTreeSet::new() }).permits.insert(id);
    }

    /// The permits on paths of which `counts` is true, of other owners than `owner`, by the end of
    /// their leases: how many end when.
    fn ends(&self, owner: Owner, counts: impl Fn(usize) -> bool) -> BTreeMap<Timestamp, u32> {
        let mut ends = BTreeMap::new();
        for (_, lease) in self.leases.iter().filter(|(other, _)| **other != owner) {
            let permits = lease.permits.iter().filter_map(|id| self.held.get(id));
            let count = permits.filter(|permit| counts(permit.path)).count();
            *ends.entry(lease.expires_at).or_default() += u32::try_from(count).unwrap_or(u32::MAX);
        }
        ends
    }
}

impl Ledger {
    /// Asks for a permit.
    pub fn ask_permit(&mut self, now: Timestamp, request: &PermitRequest<'_>) -> PermitAnswer {
        self.expire_of_others(now, request.owner);
        let now = self.latest;
        let owner = request.owner;
        if let Some(incarnation) = self.later_incarnation(owner) {
            return PermitAnswer::Stale { incarnation };
        }
        self.owner_started(now, owner);
        let path = match self.enter_path(now, request.path, request.mx_host) {
            Ok(path) => path,
            Err(wait) => return PermitAnswer::Wait(wait),
        };
        if let Some(wait) = self.connect_wait(now, path, owner) {
            return PermitAnswer::Wait(wait);
        }
        let id = PermitId(self.register.next);
        self.register.next += 1;
        let half = now + self.settings.lease / 2;
        let lease = self.register.leases.get(&owner);
        let expires_at = match lease {
            Some(lease) if lease.expires_at >= half => lease.expires_at,
            _ => self.renew_permits(now, owner).expires_at,
        };
        self.register.restore(id, path, owner, expires_at);
        self.accounts.count_connection(path, true);
        self.accounts.count_start(path, now);
        let starts = self.accounts.paths.get(path).starts.at(now.as_secs());
        self.pending.push(JournalEntry::Started {
            path: request.path,
            second: now.as_secs(),
            total_now: starts,
            last_start: now,
        });
        self.pending.push(JournalEntry::PermitGranted {
            permit: id,
            path: request.path,
            mx_host: request.mx_host.into(),
            owner,
            granted_at: now,
        });
        let start_before = now + Duration::from_secs(1);
        let path = request.path;
        PermitAnswer::Granted(Permit { id, path, owner, granted_at: now, start_before, expires_at })
    }

    /// Gives a permit back: its connection is closed. Whether `owner` held it; a repeated or late
    /// release does nothing.
    pub fn release_permit(&mut self, now: Timestamp, owner: Owner, permit: PermitId) -> bool {
        self.expire_of_others(now, owner);
        if self.register.held.get(&permit).is_none_or(|held| held.owner != owner) {
            return false;
        }
        if let Some(lease) = self.register.leases.get_mut(&owner) {
            lease.permits.remove(&permit);
        }
        self.drop_permit(permit);
        true
    }

    /// Extends the lease of an owner to [`Settings::lease`](crate::Settings::lease) from now.
    /// A lease that has ended holds on with its permits if nobody has dropped them yet: a process
    /// that was stopped for minutes and goes on has all its connections. Permits that were dropped
    /// do not come back.
    pub fn renew_permits(&mut self, now: Timestamp, owner: Owner) -> Renewal {
        self.expire_of_others(now, owner);
        if self.later_incarnation(owner).is_some() {
            // A process that should not exist any more keeps what it has, for as long as it has it.
            let lease = self.register.leases.get(&owner);
            return lease.map_or(Renewal { expires_at: self.latest, permits: 0 }, |lease| {
                Renewal { expires_at: lease.expires_at, permits: lease.permits.len() }
            });
        }
        let expires_at = self.latest + self.settings.lease;
        let lease = self
            .register
            .leases
            .entry(owner)
            .or_insert_with(|| Lease { expires_at, permits: BTreeSet::new() });
        lease.expires_at = expires_at;
        let permits = lease.permits.len();
        self.pending.push(JournalEntry::Lease { owner, expires_at });
        Renewal { expires_at, permits }
    }

    /// Notes that a node runs as `owner` now: the leases of its earlier incarnations end, and count
    /// until the settle time has passed.
    pub fn owner_started(&mut self, now: Timestamp, owner: Owner) {
        let now = self.advance(now);
        let from = Owner { node: owner.node, incarnation: 0 };
        for (_, lease) in self.register.leases.range_mut(from..owner) {
            lease.expires_at = lease.expires_at.min(now);
        }
    }

    /// Drops the permits whose lease ended a settle time ago, and answers which they were.
    pub fn expire(&mut self, now: Timestamp) -> Vec<(PermitId, PathKey)> {
        self.expire_but(now, None)
    }

    /// The same when `owner` speaks, which is proof that it lives: its connections are open, however late it is,
    /// and so its permits count on.
    fn expire_of_others(&mut self, now: Timestamp, owner: Owner) {
        self.expire_but(now, Some(owner));
    }

    fn expire_but(&mut self, now: Timestamp, alive: Option<Owner>) -> Vec<(PermitId, PathKey)> {
        let now = self.advance(now);
        let mut dropped = Vec::new();
        let settle = self.settings.settle;
        let leases = self.register.leases.iter();
        let owners: Vec<Owner> = leases
            .filter(|(owner, lease)| lease.expires_at + settle <= now && Some(**owner) != alive)
            .map(|(owner, _)| *owner)
            .collect();
        for owner in owners {
            let lease = self.register.leases.remove(&owner);
            for id in lease.into_iter().flat_map(|lease| lease.permits) {
                dropped.extend(self.drop_permit(id).map(|path| (id, path)));
            }
        }
        dropped
    }

    /// When the next lease stops counting: call [`Ledger::expire`] then.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Timestamp> {
        let ends = self.register.leases.values().map(|lease| lease.expires_at);
        ends.min().map(|end| end + self.settings.settle)
    }

    /// The permits of an owner.
    #[must_use]
    pub fn permits_of(&self, owner: Owner) -> Vec<(PermitId, PathKey)> {
        let lease = self.register.leases.get(&owner);
        let ids = lease.into_iter().flat_map(|lease| &lease.permits);
        ids.filter_map(|id| {
            let held = self.register.held.get(id)?;
            Some((*id, self.accounts.paths.get(held.path).key))
        })
        .collect()
    }

    /// A later incarnation of the owner's node, if one has a lease.
    fn later_incarnation(&self, owner: Owner) -> Option<u64> {
        let to = Owner { node: owner.node, incarnation: u64::MAX };
        let (last, _) = self.register.leases.range(owner..=to).next_back()?;
        Some(last.incarnation).filter(|incarnation| *incarnation > owner.incarnation)
    }

    /// Uncounts a permit that is in no lease any more.
    fn drop_permit(&mut self, id: PermitId) -> Option<PathKey> {
        let held = self.register.held.remove(&id)?;
        self.accounts.count_connection(held.path, false);
        self.pending.push(JournalEntry::PermitReleased { permit: id });
        Some(self.accounts.paths.get(held.path).key)
    }

    /// What forbids a connection start on a path, if anything does.
    fn connect_wait(&self, now: Timestamp, path: usize, owner: Owner) -> Option<Wait> {
        let mut longest = None;
        for member in &self.accounts.paths.get(path).budgets {
            let budget = self.accounts.budgets.get(member.budget);
            let wait = budget.connect_wait(now, || self.room_at(member.budget, budget, owner));
            longest = latest(longest, wait);
        }
        longest
    }

    /// When leases of others stop counting so that a budget has room for one more connection.
    fn room_at(&self, place: usize, budget: &Budget, owner: Owner) -> Option<Timestamp> {
        let counts = |path: usize| {
            self.accounts.paths.get(path).budgets.iter().any(|member| member.budget == place)
        };
        let mut left = budget.connections;
        self.register.ends(owner, counts).into_iter().find_map(|(end, ending)| {
            left = left.saturating_sub(ending);
            (left < budget.limits.max_connections).then(|| end + self.settings.settle)
        })
    }
}
