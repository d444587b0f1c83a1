//! Warm-up caps: how much a source may send in an hour and in a day, in all and at one provider.
//!
//! # Promise
//!
//! In any 3,600 consecutive seconds a source sends no more than its `per_hour`, in any 86,400 no more
//! than its `per_day`, and to the MX hosts of one rule (a provider) no more than the provider's line. All
//! limits hold together; the tightest decides. They hold across restarts, crashes and changed
//! caps, as those of the rules do.
//!
//! # How
//!
//! A day is 146 consecutive ticks of ten minutes: 86,400 s touch at most 145, and one more because clocks run too fast
//! or too slow, which the end of one tick would show. What a source sends
//! is counted for every source, with caps or without, so that caps that come later find the
//! last day. A provider's line is begun while the source has caps, under the name of its rule,
//! with what the paths of that rule sent in the last hour, and goes on when the caps are gone: those that come
//! back within the day find all of it.
//!
//! # What it does not promise
//!
//! A rule that is renamed begins a new line, because the name is what says which provider it is. The
//! caps of the source over all providers do not depend on names.

use std::collections::BTreeMap;
use std::sync::Arc;

use mail::id::SourceId;
use mail::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::accounts::Accounts;
use crate::budget::PathKey;
use crate::journal::{JournalEntry, Pending, Place};
use crate::ledger::Ledger;
use crate::meter::Meter;
use crate::slots::{DAY_TICKS, HOUR_SLOTS, Slot, TICK_SLOTS, Window};

/// The caps of one source. What is `None` is not capped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SourceCaps {
    /// Messages in any 3,600 s, over all targets.
    pub per_hour: Option<u32>,
    /// Messages in any 86,400 s, over all targets.
    pub per_day: Option<u32>,
    /// Messages in any 86,400 s to the MX hosts of any one rule.
    pub provider_per_day: Option<u32>,
    /// The same for single rules, by name. Where both are stated, the tighter one holds.
    pub providers: BTreeMap<String, u32>,
}

impl SourceCaps {
    /// The cap per day at a provider.
    #[must_use]
    pub fn line(&self, rule: &str) -> Option<u32> {
        let own = self.providers.get(rule).copied();
        own.into_iter().chain(self.provider_per_day).min()
    }
}

/// The caps of all sources that are warmed up. Replaced as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WarmUpCaps {
    /// By source.
    pub sources: BTreeMap<SourceId, SourceCaps>,
}

/// The counts of a source, or of a source at a rule.
#[derive(Clone, Debug)]
pub(crate) struct DayAccount {
    pub(crate) spent: Window,
    pub(crate) place: Place,
}

impl DayAccount {
    fn new() -> Self {
        Self { spent: Window::new(DAY_TICKS), place: Place::default() }
    }
}

/// The counts by ten minutes, and the caps.
#[derive(Clone, Debug, Default)]
pub(crate) struct DayBook {
    pub(crate) caps: Arc<WarmUpCaps>,
    pub(crate) sources: BTreeMap<SourceId, DayAccount>,
    pub(crate) lines: BTreeMap<(SourceId, Arc<str>), DayAccount>,
}

/// A window of the last day with its limit.
pub(crate) fn day_meter(account: Option<&DayAccount>, limit: u32, look: impl FnOnce(Meter<'_>)) {
    let unused = Window::new(DAY_TICKS);
    look(Meter::of_day(account.map_or(&unused, |account| &account.spent), limit));
}

impl DayBook {
    pub(crate) fn caps_of(&self, source: SourceId) -> Option<&SourceCaps> {
        self.caps.sources.get(&source)
    }

    /// Makes the line of a source at a rule if there is none, with what its paths sent in the last
    /// hour.
    pub(crate) fn open_line(
        &mut self,
        source: SourceId,
        rule: &Arc<str>,
        accounts: &Accounts,
        pending: &mut Pending,
    ) {
        let key = (source, Arc::clone(rule));
        if self.lines.contains_key(&key) {
            return;
        }
        let mut account = DayAccount::new();
        let first = PathKey { source, target: std::net::Ipv4Addr::UNSPECIFIED.into() };
        let paths = accounts.path_index.range(first..).take_while(|(key, _)| key.source == source);
        for (_, place) in paths {
            let path = accounts.paths.get(*place);
            let here = |budget: usize| accounts.budgets.get(budget).key.rule == *rule;
            if path.budgets.iter().any(|member| here(member.budget)) {
                for (slot, count) in path.spent.iter() {
                    account.spent.add(slot / TICK_SLOTS, count);
                }
            }
        }
        for (tick, total_now) in account.spent.iter() {
            pending.push(JournalEntry::DaySpent {
                source,
                rule: Some(rule.as_ref().into()),
                tick,
                total_now,
            });
        }
        self.lines.insert(key, account);
    }

    /// Counts tokens of a slot; with `back`, takes them back.
    pub(crate) fn count(
        &mut self,
        source: SourceId,
        line: Option<&Arc<str>>,
        slot: Slot,
        (count, back): (u64, bool),
        pending: &mut Pending,
    ) {
        let tick = slot.0 / TICK_SLOTS;
        let mut change = |account: &mut DayAccount, rule: Option<Box<str>>| {
            if back {
                account.spent.subtract(tick, count);
            } else {
                account.spent.advance(tick);
                account.spent.add(tick, count);
            }
            let total_now = account.spent.at(tick);
            let entry = JournalEntry::DaySpent { source, rule, tick, total_now };
            pending.push_count(&mut account.place, entry);
        };
        change(self.sources.entry(source).or_insert_with(DayAccount::new), None);
        if let Some(rule) = line {
            let key = (source, Arc::clone(rule));
            let account = self.lines.entry(key).or_insert_with(DayAccount::new);
            change(account, Some(rule.as_ref().into()));
        }
    }

    /// Puts a stored count back.
    pub(crate) fn restore(
        &mut self,
        source: SourceId,
        rule: Option<Box<str>>,
        (tick, total): (u64, u64),
        now: Timestamp,
        pending: &mut Pending,
    ) {
        let current = Slot::of(now).0 / TICK_SLOTS;
        if total == 0 || tick.saturating_add(DAY_TICKS) <= current {
            return;
        }
        let account = match &rule {
            None => self.sources.entry(source).or_insert_with(DayAccount::new),
            Some(rule) => {
                let key = (source, Arc::from(&**rule));
                self.lines.entry(key).or_insert_with(DayAccount::new)
            }
        };
        // A tick that has not come yet was stored before the clock was set back, and was used by now.
        let counted = tick.min(current);
        account.spent.add(counted, total);
        if counted != tick {
            let total_now = account.spent.at(counted);
            let entry = |tick, total_now| JournalEntry::DaySpent {
                source,
                rule: rule.clone(),
                tick,
                total_now,
            };
            pending.push(entry(counted, total_now));
            pending.push(entry(tick, 0));
        }
    }

    /// Forgets counts that have left the day.
    pub(crate) fn forget_idle(&mut self, slot: Slot) {
        let tick = slot.0 / TICK_SLOTS;
        self.sources.retain(|_, account| account.spent.sum(tick) > 0);
        self.lines.retain(|_, account| account.spent.sum(tick) > 0);
    }
}

/// A source's caps, for people and programs that explain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceDayView {
    /// The source.
    pub source: SourceId,
    /// Messages in the current minute and the 60 before.
    pub used_in_hour: u64,
    /// The cap on them.
    pub per_hour: Option<u32>,
    /// Messages in the current ten minutes and the 145 before.
    pub used_in_day: u64,
    /// The cap on them.
    pub per_day: Option<u32>,
    /// The providers with counts or with a line of their own, while the source is warmed up.
    pub providers: Vec<ProviderDayView>,
}

/// A source at one provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProviderDayView {
    /// The name of the rule.
    pub rule: String,
    /// Messages in the current ten minutes and the 145 before.
    pub used_in_day: u64,
    /// The cap on them.
    pub per_day: Option<u32>,
}

impl Ledger {
    /// Puts other caps in force. No count is lost: a source that is over a new cap grants nothing
    /// until it has room. Lots that were granted stay good.
    pub fn replace_warm_up(&mut self, now: Timestamp, caps: Arc<WarmUpCaps>) {
        self.advance(now);
        self.days.caps = caps;
    }

    /// The caps in force.
    #[must_use]
    pub fn warm_up(&self) -> &Arc<WarmUpCaps> {
        &self.days.caps
    }

    /// The sources that sent within a day or have caps.
    #[must_use]
    pub fn source_days(&self, now: Timestamp) -> Vec<SourceDayView> {
        let slot = Slot::of(now.max(self.latest));
        let tick = slot.0 / TICK_SLOTS;
        let mut sources: Vec<SourceId> =
            self.days.sources.keys().chain(self.days.caps.sources.keys()).copied().collect();
        sources.sort_unstable();
        sources.dedup();
        let used = |account: Option<&DayAccount>| account.map_or(0, |day| day.spent.sum(tick));
        let view = |source: SourceId| {
            let caps = self.days.caps_of(source);
            let of_source = |(key, _): &(&(SourceId, Arc<str>), &DayAccount)| key.0 == source;
            let counted = self.days.lines.iter().filter(of_source).map(|(key, _)| &*key.1);
            let stated = caps.into_iter().flat_map(|caps| caps.providers.keys());
            let mut rules: Vec<&str> = counted.chain(stated.map(String::as_str)).collect();
            rules.sort_unstable();
            rules.dedup();
            let provider = |rule: &str| ProviderDayView {
                rule: rule.to_owned(),
                used_in_day: used(self.days.lines.get(&(source, Arc::from(rule)))),
                per_day: caps.and_then(|caps| caps.line(rule)),
            };
            SourceDayView {
                source,
                used_in_hour: self.accounts.sources.get(&source).map_or(0, |hour| hour.sum(slot.0)),
                per_hour: caps.and_then(|caps| caps.per_hour),
                used_in_day: used(self.days.sources.get(&source)),
                per_day: caps.and_then(|caps| caps.per_day),
                providers: rules.into_iter().map(provider).collect(),
            }
        };
        sources.into_iter().map(view).collect()
    }
}

/// The window of a source's last hour; an empty one where nothing was sent.
pub(crate) fn hour_meter(
    accounts: &Accounts,
    source: SourceId,
    limit: u32,
    look: impl FnOnce(Meter<'_>),
) {
    let unused = Window::new(HOUR_SLOTS);
    let spent = accounts.sources.get(&source).unwrap_or(&unused);
    look(Meter::new(spent, limit, crate::Pacing::Burst));
}
