//! The ledger, for people and programs that explain.

use mail::id::SourceId;
use mail::time::Timestamp;
use serde::Serialize;

use crate::budget::{Budget, BudgetKey, PathKey, ScopeKey};
use crate::ledger::Ledger;
use crate::meter::period_limit;
use crate::ruling::{Pacing, Scope};
use crate::slots::Slot;

/// A budget: its limits, what is used of them, and when there is room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BudgetView {
    /// The name of the rule.
    pub rule: String,
    /// What it counts over.
    pub scope: Scope,
    /// Which of the rule's budgets: `s1>192.0.2.1`, `s1` or `all`.
    pub key: String,
    /// How the hour is spread.
    pub pacing: Pacing,
    /// `messages_per_hour`.
    pub limit_per_hour: u32,
    /// Messages in the current slot and the 60 before.
    pub used_in_window: u64,
    /// Messages allowed per period of five minutes (staircase pacing only).
    pub period_limit: Option<u64>,
    /// Messages in the current period.
    pub used_in_period: u64,
    /// Permits held.
    pub connections: u32,
    /// Permits that may be held.
    pub max_connections: u32,
    /// Connections started in about the last minute.
    pub starts_in_minute: u64,
    /// The earliest time at which this budget alone has a token to grant; `None`: never.
    pub next_at: Option<Timestamp>,
    /// Paths that count in it.
    pub paths: u32,
}

/// A path and its counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PathView {
    /// The path.
    pub path: PathKey,
    /// MX hosts under which it is used, at most 16.
    pub mx_hosts: Vec<String>,
    /// Budgets in which it counts.
    pub budgets: Vec<String>,
    /// Messages in the current slot and the 60 before.
    pub used_in_window: u64,
    /// Permits held.
    pub connections: u32,
    /// When the last connection was started.
    pub last_start: Option<Timestamp>,
}

impl Ledger {
    /// All budgets with a path, by rule and key.
    #[must_use]
    pub fn budgets(&self, now: Timestamp) -> Vec<BudgetView> {
        let places = self.accounts.budget_index.values();
        places.map(|place| self.view(now, self.accounts.budgets.get(*place))).collect()
    }

    /// The budgets that a request for `path` under `mx_host` has to pass, including one that would
    /// be made for it.
    #[must_use]
    pub fn budgets_of(&self, now: Timestamp, path: PathKey, mx_host: &str) -> Vec<BudgetView> {
        let governed = self.ruling.governing(path.source, mx_host);
        let key =
            BudgetKey { rule: governed.rule.into(), scope: ScopeKey::new(governed.scope, path) };
        let known = self.accounts.path_index.get(&path);
        let mut keys: Vec<BudgetKey> = known
            .into_iter()
            .flat_map(|place| &self.accounts.paths.get(*place).budgets)
            .map(|member| self.accounts.budgets.get(member.budget).key.clone())
            .collect();
        if !keys.contains(&key) {
            keys.push(key);
        }
        let view = |key: BudgetKey| match self.accounts.budget_index.get(&key) {
            Some(place) => self.view(now, self.accounts.budgets.get(*place)),
            None => self.view(now, &Budget::new(key, &governed)),
        };
        keys.into_iter().map(view).collect()
    }

    /// The budgets, with a path so far, of the rule that governs `source` at `mx_host`: those of
    /// the source or its paths, or the one of the rule.
    #[must_use]
    pub fn budgets_at(&self, now: Timestamp, source: SourceId, mx_host: &str) -> Vec<BudgetView> {
        let rule = self.ruling.governing(source, mx_host).rule;
        let budgets = self.accounts.budget_index.iter();
        budgets
            .filter(|(key, _)| {
                &*key.rule == rule
                    && match key.scope {
                        ScopeKey::Path(path) => path.source == source,
                        ScopeKey::Source(other) => other == source,
                        ScopeKey::Rule => true,
                    }
            })
            .map(|(_, place)| self.view(now, self.accounts.budgets.get(*place)))
            .collect()
    }

    /// All paths, by source and target.
    #[must_use]
    pub fn paths(&self, now: Timestamp) -> Vec<PathView> {
        let slot = Slot::of(now.max(self.latest));
        let accounts = self.accounts.path_index.values();
        let view = |place: &usize| {
            let account = self.accounts.paths.get(*place);
            let budgets = account.budgets.iter();
            PathView {
                path: account.key,
                mx_hosts: account.hosts.iter().map(|host| host.name.to_string()).collect(),
                budgets: budgets
                    .map(|member| self.accounts.budgets.get(member.budget).key.to_string())
                    .collect(),
                used_in_window: account.spent.sum(slot.0),
                connections: account.connections,
                last_start: account.last_start,
            }
        };
        accounts.map(view).collect()
    }

    fn view(&self, now: Timestamp, budget: &Budget) -> BudgetView {
        let now = now.max(self.latest);
        let slot = Slot::of(now);
        let limit = budget.limits.messages_per_hour;
        BudgetView {
            rule: budget.key.rule.to_string(),
            scope: budget.key.scope.scope(),
            key: budget.key.scope.to_string(),
            pacing: budget.pacing,
            limit_per_hour: limit,
            used_in_window: budget.spent.sum(slot.0),
            period_limit: (budget.pacing == Pacing::Staircase).then(|| period_limit(limit.into())),
            used_in_period: budget.spent.sum_from(slot.period_start().0),
            connections: budget.connections,
            max_connections: budget.limits.max_connections,
            starts_in_minute: budget.starts.sum(now.as_secs()),
            next_at: budget.meter().earliest(now, self.settings.use_guard),
            paths: budget.paths,
        }
    }
}
