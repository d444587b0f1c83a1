//! The counts: paths, and the budgets that are their sums.
//!
//! A path belongs to the budget of every rule that governs its source at one of the MX host names
//! under which the path is used. Joining a budget brings the path's whole history into it; leaving
//! takes it out. So at any time a budget's window is exactly the sum of its paths' windows.

use std::collections::BTreeMap;
use std::sync::Arc;

use mail::id::SourceId;
use mail::time::Timestamp;

use crate::budget::{Budget, BudgetKey, PathKey, ScopeKey};
use crate::journal::{HOST_REFRESH_SLOTS, Place};
use crate::ruling::{Governed, Ruling};
use crate::slots::{HOUR_SLOTS, MINUTE_SECONDS, Slot, Window};

/// MX host names remembered per path. Large hosters have thousands of names for one address, all
/// under one rule; a few are enough to find the rule again.
const MAX_HOSTS: usize = 16;

/// Things in numbered places; a place is used again after its thing was removed.
#[derive(Clone, Debug)]
pub(crate) struct Places<T> {
    things: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Places<T> {
    pub(crate) fn new() -> Self {
        Self { things: Vec::new(), free: Vec::new() }
    }

    pub(crate) fn insert(&mut self, thing: T) -> usize {
        if let Some(place) = self.free.pop() {
            self.things[place] = Some(thing);
            return place;
        }
        self.things.push(Some(thing));
        self.things.len() - 1
    }

    pub(crate) fn remove(&mut self, place: usize) -> Option<T> {
        let thing = self.things.get_mut(place)?.take();
        if thing.is_some() {
            self.free.push(place);
        }
        thing
    }

    pub(crate) fn get(&self, place: usize) -> &T {
        self.things[place].as_ref().expect("a place that is known is filled")
    }

    pub(crate) fn get_mut(&mut self, place: usize) -> &mut T {
        self.things[place].as_mut().expect("a place that is known is filled")
    }
}

/// An MX host name under which a path is used.
#[derive(Clone, Debug)]
pub(crate) struct HostUse {
    pub(crate) name: Box<str>,
    /// The budget of the rule that governs the path's source there.
    pub(crate) budget: usize,
    /// Slot of the last use.
    pub(crate) used: u64,
    /// Slot of the last journal entry.
    journaled: u64,
}

/// That a path counts in a budget.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Membership {
    pub(crate) budget: usize,
    /// Slot of the last use of a host of this budget.
    used: u64,
}

/// The counts of one path.
#[derive(Clone, Debug)]
pub(crate) struct PathAccount {
    pub(crate) key: PathKey,
    pub(crate) hosts: Vec<HostUse>,
    pub(crate) budgets: Vec<Membership>,
    /// Tokens per slot.
    pub(crate) spent: Window,
    /// Connection starts per second.
    pub(crate) starts: Window,
    pub(crate) last_start: Option<Timestamp>,
    /// Permits held.
    pub(crate) connections: u32,
    /// Slot of the last request.
    pub(crate) used: u64,
    /// Its latest untaken journal entry.
    pub(crate) place: Place,
}

/// All paths, budgets and sources.
#[derive(Clone, Debug)]
pub(crate) struct Accounts {
    pub(crate) paths: Places<PathAccount>,
    pub(crate) path_index: BTreeMap<PathKey, usize>,
    pub(crate) budgets: Places<Budget>,
    pub(crate) budget_index: BTreeMap<BudgetKey, usize>,
    /// Tokens per slot of each source over all its paths.
    pub(crate) sources: BTreeMap<SourceId, Window>,
}

impl Accounts {
    pub(crate) fn new() -> Self {
        Self {
            paths: Places::new(),
            path_index: BTreeMap::new(),
            budgets: Places::new(),
            budget_index: BTreeMap::new(),
            sources: BTreeMap::new(),
        }
    }

    /// The place of a path, made if need be.
    pub(crate) fn path(&mut self, key: PathKey, slot: Slot) -> usize {
        if let Some(&place) = self.path_index.get(&key) {
            return place;
        }
        let place = self.paths.insert(PathAccount {
            key,
            hosts: Vec::new(),
            budgets: Vec::new(),
            spent: Window::new(HOUR_SLOTS),
            starts: Window::new(MINUTE_SECONDS),
            last_start: None,
            connections: 0,
            used: slot.0,
            place: Place::default(),
        });
        self.path_index.insert(key, place);
        place
    }

    /// Notes that a path is used under a host. Answers whether the journal must be told.
    pub(crate) fn attach(
        &mut self,
        path: usize,
        mx_host: &str,
        ruling: &dyn Ruling,
        slot: Slot,
    ) -> bool {
        let account = self.paths.get_mut(path);
        account.used = slot.0;
        if let Some(host) = account.hosts.iter_mut().find(|host| &*host.name == mx_host) {
            host.used = slot.0;
            let budget = host.budget;
            let stale = slot.0.saturating_sub(host.journaled) >= HOST_REFRESH_SLOTS;
            if stale {
                host.journaled = slot.0;
            }
            if let Some(member) = account.budgets.iter_mut().find(|one| one.budget == budget) {
                member.used = slot.0;
            }
            return stale;
        }
        let key = account.key;
        if account.hosts.len() >= MAX_HOSTS {
            account.drop_host();
        }
        let governed = ruling.governing(key.source, mx_host);
        let budget = self.budget(key, &governed);
        self.paths.get_mut(path).hosts.push(HostUse {
            name: mx_host.into(),
            budget,
            used: slot.0,
            journaled: slot.0,
        });
        self.join(path, budget, slot.0);
        true
    }

    /// The budget of `governed` for a path, made if need be.
    fn budget(&mut self, path: PathKey, governed: &Governed<'_>) -> usize {
        let key = BudgetKey {
            rule: Arc::from(governed.rule),
            scope: ScopeKey::new(governed.scope, path),
        };
        if let Some(&place) = self.budget_index.get(&key) {
            let budget = self.budgets.get_mut(place);
            budget.limits = budget.limits.tightest(governed.limits);
            return place;
        }
        let place = self.budgets.insert(Budget::new(key.clone(), governed));
        self.budget_index.insert(key, place);
        place
    }

    /// Brings a path with its history into a budget.
    fn join(&mut self, path: usize, budget: usize, used: u64) {
        let account = self.paths.get_mut(path);
        if let Some(member) = account.budgets.iter_mut().find(|one| one.budget == budget) {
            member.used = member.used.max(used);
            return;
        }
        account.budgets.push(Membership { budget, used });
        let account = self.paths.get(path);
        let sums = self.budgets.get_mut(budget);
        sums.spent.add_all(&account.spent);
        sums.starts.add_all(&account.starts);
        sums.last_start = sums.last_start.max(account.last_start);
        sums.connections += account.connections;
        sums.paths += 1;
    }

    /// Takes a path with its history out of a budget, and removes a budget without paths.
    fn leave(&mut self, path: usize, budget: usize) {
        let account = self.paths.get_mut(path);
        account.budgets.retain(|one| one.budget != budget);
        account.hosts.retain(|host| host.budget != budget);
        let account = self.paths.get(path);
        let sums = self.budgets.get_mut(budget);
        sums.spent.subtract_all(&account.spent);
        sums.starts.subtract_all(&account.starts);
        sums.connections = sums.connections.saturating_sub(account.connections);
        sums.paths -= 1;
        if sums.paths == 0 {
            self.budget_index.remove(&sums.key);
            self.budgets.remove(budget);
        }
    }

    /// Makes all budgets anew under other rules; the counts of the paths stay as they are.
    pub(crate) fn reattribute(&mut self, ruling: &dyn Ruling) {
        self.budgets = Places::new();
        self.budget_index.clear();
        let places: Vec<usize> = self.path_index.values().copied().collect();
        for path in places {
            let account = self.paths.get_mut(path);
            account.budgets.clear();
            let key = account.key;
            for index in 0..self.paths.get(path).hosts.len() {
                let host = &self.paths.get(path).hosts[index];
                let used = host.used;
                let governed = ruling.governing(key.source, &host.name);
                let budget = self.budget(key, &governed);
                self.paths.get_mut(path).hosts[index].budget = budget;
                self.join(path, budget, used);
            }
        }
    }

    /// Counts tokens in a slot; with `back`, takes them back.
    pub(crate) fn count_tokens(&mut self, path: usize, slot: Slot, count: u64, back: bool) {
        let change = |window: &mut Window| {
            if back {
                window.subtract(slot.0, count);
            } else {
                window.advance(slot.0);
                window.add(slot.0, count);
            }
        };
        let account = self.paths.get_mut(path);
        change(&mut account.spent);
        for member in &account.budgets {
            change(&mut self.budgets.get_mut(member.budget).spent);
        }
        let source = account.key.source;
        change(self.sources.entry(source).or_insert_with(|| Window::new(HOUR_SLOTS)));
    }

    /// Counts a connection start.
    pub(crate) fn count_start(&mut self, path: usize, now: Timestamp) {
        let second = now.as_secs();
        let account = self.paths.get_mut(path);
        account.starts.advance(second);
        account.starts.add(second, 1);
        account.last_start = Some(now);
        for member in &account.budgets {
            let budget = self.budgets.get_mut(member.budget);
            budget.starts.advance(second);
            budget.starts.add(second, 1);
            budget.last_start = Some(now);
        }
    }

    /// Counts one permit more, or one less.
    pub(crate) fn count_connection(&mut self, path: usize, more: bool) {
        let change = |count: &mut u32| {
            *count = if more { count.saturating_add(1) } else { count.saturating_sub(1) };
        };
        let account = self.paths.get_mut(path);
        change(&mut account.connections);
        for member in &account.budgets {
            change(&mut self.budgets.get_mut(member.budget).connections);
        }
    }

    /// Forgets what counts for nothing any more: memberships in rules under which a path has not
    /// been used for over an hour, paths not used for so long, sources without counts.
    pub(crate) fn forget_idle(&mut self, now: Timestamp) {
        let slot = Slot::of(now);
        let idle = |used: u64| used.saturating_add(HOUR_SLOTS) < slot.0;
        let places: Vec<usize> = self.path_index.values().copied().collect();
        for path in places {
            let account = self.paths.get_mut(path);
            account.spent.advance(slot.0);
            account.starts.advance(now.as_secs());
            if account.connections > 0 {
                continue;
            }
            let gone = idle(account.used);
            let left: Vec<usize> = account
                .budgets
                .iter()
                .filter(|member| gone || idle(member.used))
                .map(|member| member.budget)
                .collect();
            for budget in left {
                self.budgets.get_mut(budget).spent.advance(slot.0);
                self.budgets.get_mut(budget).starts.advance(now.as_secs());
                self.leave(path, budget);
            }
            if gone {
                self.path_index.remove(&self.paths.get(path).key);
                self.paths.remove(path);
            }
        }
        self.sources.retain(|_, window| window.sum(slot.0) > 0);
    }
}

impl PathAccount {
    /// Forgets the host not used for longest, of a budget that has several if there is one. The
    /// path stays in the budget.
    fn drop_host(&mut self) {
        let several = |host: &HostUse| {
            self.hosts.iter().filter(|other| other.budget == host.budget).count() > 1
        };
        let oldest = self
            .hosts
            .iter()
            .enumerate()
            .min_by_key(|(_, host)| (!several(host), host.used))
            .map(|(index, _)| index);
        if let Some(index) = oldest {
            self.hosts.remove(index);
        }
    }
}
