//! The outage guard: when a provider that is ill calls half its users unknown, they are not believed.
//!
//! **Promise.** When a provider suddenly answers "user unknown" to far more of its recipients than its
//! history says, its "user unknown" is held back ([`OutageGuard::hold_of`]) from then on, and an alert names
//! the moment from which on earlier entries are doubted. The hold ends when a person confirms or
//! dismisses it, or when the provider is its usual self again.
//!
//! **How.** Of each provider two things are kept: the newest outcomes in up to four blocks of fifty, and
//! the daily totals of four weeks, into which the blocks go when they are full and not in doubt. The guard
//! trips when at least two blocks are full of an hour's outcomes and the share in them is both high in itself
//! and a multiple of the history's. A provider without history cannot trip: nothing says what
//! is usual for it.
//!
//! **Absences.** No clock, and no memory beyond [`GuardSettings::providers`] providers of about 300
//! octets: beyond that the one not heard of for longest is forgotten. Of other failures than
//! "user unknown" it knows nothing: no other reason quarantines at the first error.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use mail::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Outcomes in a block.
const BLOCK: u32 = 50;
/// Blocks in the window.
const BLOCKS: usize = 4;
/// Days of history.
const DAYS: usize = 28;
/// Strength of the prior share: as if so many outcomes had been seen with it.
const PRIOR_WEIGHT: u64 = 200;
/// The share that the prior says, in per mille.
const PRIOR_PERMILLE: u64 = 20;

/// When the guard trips.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct GuardSettings {
    /// Whether it trips at all.
    pub enabled: bool,
    /// The share must be at least this, in per mille.
    pub least_permille: u32,
    /// And so many times the usual one.
    pub times_usual: u32,
    /// A provider must have so many outcomes in its history.
    pub history: u32,
    /// Outcomes older than this are not "sudden".
    #[serde(with = "seconds")]
    pub window: Duration,
    /// Providers that are kept in mind.
    pub providers: usize,
}

mod seconds {
    use core::time::Duration;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(span: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(span.as_secs())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_secs)
    }
}

impl GuardSettings {
    /// The share at which the guard trips where this one is usual, both in per mille.
    fn tripping_permille(&self, usual: u32) -> u32 {
        self.least_permille.max(usual.saturating_mul(self.times_usual)).min(900)
    }
}

impl Default for GuardSettings {
    /// 20 % and five times the usual share, of 100 outcomes in an hour at least, after 500 outcomes; 10,000
    /// providers.
    fn default() -> Self {
        Self {
            enabled: true,
            least_permille: 200,
            times_usual: 5,
            history: 500,
            window: Duration::from_secs(3_600),
            providers: 10_000,
        }
    }
}

/// What the guard has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuardAlert {
    /// "User unknown" of this provider is held back from now on.
    Tripped {
        /// The number of the hold.
        hold: u64,
        /// The provider.
        provider: Box<str>,
        /// Entries from this moment on are doubted too.
        doubted_since: Timestamp,
        /// The usual share, in per mille.
        usual_permille: u32,
        /// The share now, in per mille.
        sudden_permille: u32,
    },
    /// The provider is its usual self again; the hold has ended.
    CalmedDown {
        /// The number of the hold.
        hold: u64,
        /// The provider.
        provider: Box<str>,
        /// How many replies were held back since the guard tripped.
        held: u64,
    },
}

/// The totals of one day of one provider, for keeping over a restart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProviderDay {
    /// The provider.
    pub provider: Box<str>,
    /// Days since 1970-01-01.
    pub day: u32,
    /// Outcomes.
    pub total: u32,
    /// "User unknown" among them.
    pub unknown: u32,
}

/// Outcomes one after the other.
#[derive(Clone, Copy, Debug)]
struct Block {
    began_at: Timestamp,
    total: u32,
    unknown: u32,
}

/// A hold in force.
#[derive(Clone, Copy, Debug)]
struct Holding {
    hold: u64,
    held: u64,
}

#[derive(Clone, Debug, Default)]
struct Provider {
    /// Day, outcomes, "user unknown"; the oldest first, at most [`DAYS`].
    days: VecDeque<(u32, u32, u32)>,
    /// The oldest first; the last one is being filled.
    window: VecDeque<Block>,
    holding: Option<Holding>,
    heard_at: Timestamp,
    changed: bool,
}

fn day_of(at: Timestamp) -> u32 {
    u32::try_from(at.as_secs() / 86_400).unwrap_or(u32::MAX)
}

fn permille(unknown: u64, total: u64) -> u32 {
    u32::try_from(unknown.min(total) * 1_000 / total.max(1)).unwrap_or(1_000)
}

impl Provider {
    fn add_day(&mut self, day: u32, total: u32, unknown: u32) {
        let at = self.days.partition_point(|known| known.0 < day);
        match self.days.get_mut(at) {
            Some(known) if known.0 == day => {
                known.1 = known.1.saturating_add(total);
                known.2 = known.2.saturating_add(unknown);
            }
            _ => self.days.insert(at, (day, total, unknown)),
        }
        while self.days.len() > DAYS {
            self.days.pop_front();
        }
    }

    /// Outcomes of the history, and the usual share in per mille.
    fn usual(&self, now: Timestamp) -> (u64, u32) {
        let oldest = day_of(now).saturating_sub(DAYS as u32);
        let days = self.days.iter().filter(|day| day.0 >= oldest);
        let (total, unknown) = days.fold((0, 0), |(total, unknown), day| {
            (total + u64::from(day.1), unknown + u64::from(day.2))
        });
        let prior = PRIOR_WEIGHT * PRIOR_PERMILLE / 1_000;
        (total, permille(unknown + prior, total + PRIOR_WEIGHT))
    }

    /// Moves the oldest block to the history, or drops it when it is in doubt.
    fn retire(&mut self) {
        if let Some(block) = self.window.pop_front()
            && self.holding.is_none()
        {
            self.add_day(day_of(block.began_at), block.total, block.unknown);
            self.changed = true;
        }
    }

    /// Puts an outcome in the window.
    fn put(&mut self, at: Timestamp, unknown: bool, window: Duration) {
        while self.window.front().is_some_and(|block| at.since(block.began_at) > window) {
            self.retire();
        }
        if self.window.back().is_none_or(|block| block.total >= BLOCK) {
            if self.window.len() >= BLOCKS {
                self.retire();
            }
            self.window.push_back(Block { began_at: at, total: 0, unknown: 0 });
        }
        if let Some(block) = self.window.back_mut() {
            block.total += 1;
            block.unknown += u32::from(unknown);
        }
    }

    /// Since when, how many outcomes and which share, of the newest blocks. The two newest full ones at least; the
    /// whole window where its share is higher.
    fn sudden(&self) -> Option<(Timestamp, u32)> {
        let (mut total, mut unknown, mut best) = (0, 0, None::<(Timestamp, u32)>);
        for block in self.window.iter().rev() {
            total += u64::from(block.total);
            unknown += u64::from(block.unknown);
            if total >= u64::from(2 * BLOCK) {
                let share = permille(unknown, total);
                if best.is_none_or(|(_, known)| share >= known) {
                    best = Some((block.began_at, share));
                }
            }
        }
        best
    }
}

/// The guard over all providers.
#[derive(Clone, Debug)]
pub struct OutageGuard {
    settings: GuardSettings,
    providers: BTreeMap<Box<str>, Provider>,
    next_hold: u64,
}

impl OutageGuard {
    /// A guard that has seen nothing.
    #[must_use]
    pub fn new(settings: GuardSettings) -> Self {
        Self { settings, providers: BTreeMap::new(), next_hold: 1 }
    }

    /// Takes up what an earlier run kept: the history, and the holds in force.
    pub fn restore(
        &mut self,
        days: impl IntoIterator<Item = ProviderDay>,
        holds: impl IntoIterator<Item = (u64, Box<str>)>,
        last_hold: u64,
    ) {
        for day in days {
            let provider = self.provider(&day.provider);
            provider.add_day(day.day, day.total, day.unknown);
            provider.heard_at =
                provider.heard_at.max(Timestamp::from_secs(u64::from(day.day) * 86_400));
        }
        for (hold, name) in holds {
            self.provider(&name).holding = Some(Holding { hold, held: 0 });
            self.next_hold = self.next_hold.max(hold + 1);
        }
        self.next_hold = self.next_hold.max(last_hold + 1);
    }

    /// Totals that changed since the last call, to be kept durably.
    pub fn changed_days(&mut self) -> Vec<ProviderDay> {
        let mut changed = Vec::new();
        for (name, provider) in &mut self.providers {
            if !std::mem::take(&mut provider.changed) {
                continue;
            }
            // Only the newest two can have changed: a block begins at most an hour ago.
            changed.extend(provider.days.iter().rev().take(2).map(|(day, total, unknown)| {
                ProviderDay { provider: name.clone(), day: *day, total: *total, unknown: *unknown }
            }));
        }
        changed
    }

    /// How many providers it keeps in mind.
    #[must_use]
    pub fn providers(&self) -> usize {
        self.providers.len()
    }

    /// The hold in force over a provider.
    #[must_use]
    pub fn hold_of(&self, provider: &str) -> Option<u64> {
        self.providers.get(provider)?.holding.map(|holding| holding.hold)
    }

    /// Whether the share of a day, taken as a whole, would be doubted after the days that were restored; answers the usual
    /// share in per mille. The day itself must not be among them.
    #[must_use]
    pub fn doubts(&self, day: &ProviderDay) -> Option<u32> {
        let known = self.providers.get(&day.provider).filter(|_| self.settings.enabled)?;
        let (outcomes, usual) = known.usual(Timestamp::from_secs(u64::from(day.day) * 86_400));
        let enough = day.total >= 2 * BLOCK && outcomes >= u64::from(self.settings.history);
        let share = permille(day.unknown.into(), day.total.into());
        (enough && share >= self.settings.tripping_permille(usual)).then_some(usual)
    }

    /// Takes note of a final answer about a recipient: taken, or refused for whatever reason; and whether it
    /// was "user unknown". A bounce that comes later counts like a reply.
    pub fn observe(&mut self, name: &str, at: Timestamp, unknown: bool) -> Option<GuardAlert> {
        if !self.settings.enabled || name.is_empty() {
            return None;
        }
        let settings = self.settings;
        let next_hold = self.next_hold;
        let provider = self.provider(name);
        provider.heard_at = provider.heard_at.max(at);
        provider.put(at, unknown, settings.window);
        let (known, usual) = provider.usual(at);
        let (since, sudden) = provider.sudden()?;
        let limit = settings.least_permille.max(usual.saturating_mul(settings.times_usual));
        if let Some(holding) = &mut provider.holding {
            holding.held += u64::from(unknown);
            // Calm: well below what trips it, so that it does not flutter.
            if sudden > (limit / 2).min(usual.saturating_mul(2).max(settings.least_permille / 2)) {
                return None;
            }
            let Holding { hold, held } = *holding;
            provider.holding = None;
            provider.window.clear();
            return Some(GuardAlert::CalmedDown { hold, provider: name.into(), held });
        }
        if known < u64::from(settings.history) || sudden < settings.tripping_permille(usual) {
            return None;
        }
        provider.holding = Some(Holding { hold: next_hold, held: 0 });
        // What made it trip neither counts as calm nor as usual.
        provider.window.clear();
        self.next_hold += 1;
        Some(GuardAlert::Tripped {
            hold: next_hold,
            provider: name.into(),
            doubted_since: since,
            usual_permille: usual,
            sudden_permille: sudden,
        })
    }

    /// Ends a hold at the word of a person. When the replies were true they are the provider's new usual:
    /// its history is forgotten, so that it does not trip again at once. Answers whether it was in force.
    pub fn end(&mut self, hold: u64, confirmed: bool) -> bool {
        let held =
            |provider: &&mut Provider| provider.holding.is_some_and(|holding| holding.hold == hold);
        let Some(provider) = self.providers.values_mut().find(held) else { return false };
        provider.holding = None;
        provider.window.clear();
        if confirmed {
            provider.days.clear();
        }
        true
    }

    /// The provider; makes room for it where there is none.
    fn provider(&mut self, name: &str) -> &mut Provider {
        if !self.providers.contains_key(name) {
            if self.providers.len() >= self.settings.providers.max(1) {
                self.forget_some();
            }
            self.providers.insert(name.into(), Provider::default());
        }
        self.providers.get_mut(name).expect("the provider was put there just above")
    }

    /// Forgets the tenth that was not heard of for longest, so that making room costs little on average.
    /// One that is held stays.
    fn forget_some(&mut self) {
        let mut heard: Vec<Timestamp> =
            self.providers.values().map(|provider| provider.heard_at).collect();
        heard.sort_unstable();
        let limit = heard.get(heard.len() / 10).copied().unwrap_or(Timestamp::NEVER);
        self.providers.retain(|_, known| known.heard_at > limit || known.holding.is_some());
    }
}
