//! Faults built into the node to prove that the checkers find them.
//!
//! The production code stays as it is: a sabotage bends what it is told, or what becomes of its answers, so that it
//! does in good faith what must never happen. The judge is told the truth. [`ALL`](Sabotage::ALL) names for each which
//! words of which checker find it; `docs/proof.md` shows the same as a table.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;

use engine::work::{Fate, FinalState, SendMode, Settled};
use engine::{Affinity, Event, Settings, Source};
use mail::route::RouteFault;
use mail::time::Timestamp;
use quota::{ClockReading, JournalEntry, JournalKey};
use rules::RuleSet;
use rules::reaction::ReactionRules;

use crate::plan::Script;
use crate::world::compile_text;

/// What is wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sabotage {
    /// Nothing: the production code as it is.
    #[default]
    None,
    /// The ledger grants one token more than it counts, in each lot.
    ExtraToken,
    /// The ledger grants permits that it does not count.
    UncountedPermits,
    /// The ledger is not told the hourly caps of sources.
    UncappedSource,
    /// The ledger is not told the caps of sources that are warmed up.
    UncappedWarmUp,
    /// The ledger is not told the hourly caps of deliveries.
    UncappedDelivery,
    /// At each start the ledger is not told what it had counted.
    ForgottenCounts,
    /// With other rules comes a ledger that has counted nothing.
    CountsGoWithRules,
    /// At each start the wall clock is believed.
    WallClock,
    /// Engine and ledger hold rules with a hundred times as many messages on a connection.
    EndlessConnections,
    /// Engine and ledger hold rules without a limit of connections begun in a minute.
    UnlimitedStarts,
    /// The store forgets one recipient of each append and acknowledges all.
    ForgottenRecipient,
    /// The store forgets every fifth settlement and acknowledges it.
    ForgottenSettlement,
    /// Every fifth message that was put off is settled as sent.
    PutOffIsSent,
    /// Every fifth message that was put off is settled as failed.
    PutOffIsFailed,
    /// A DNS failure that passes is told to the engine as a domain that does not exist.
    SilenceIsNothing,
    /// Dry and test runs are told to the engine as real ones.
    DryIsReal,
    /// One in ten answers to a claim is lost.
    LostAnswer,
    /// The engine cites another version of the rules than the one in force.
    OtherVersion,
    /// The engine is given bounds twenty times as large.
    Unbounded,
    /// The engine's seed is not the one of the script.
    OtherSeed,
    /// Every wave is told to the engine as open from the start.
    EarlyWaves,
    /// The engine does not hear that a delivery was paused or cancelled.
    DeafToPause,
    /// The node does not hear that addresses were denylisted or quarantined.
    DeafToBans,
    /// The engine is told that every affinity holds every source.
    AnyAffinity,
    /// The engine is told that every source may write to every domain.
    NoMasks,
    /// The engine is told to try again after a second.
    HastyRetry,
    /// The store forgets which source must be used next.
    ForgottenPin,
    /// Five days of validity are told to the engine as one hour.
    HastyExpiry,
    /// Every validity is told to the engine as fifty days.
    LateExpiry,
    /// The engine is told that there are no reaction rules.
    DeafToReactions,
}

/// The ledger's journal by key.
type Journal = BTreeMap<JournalKey, JournalEntry>;

/// A journal without what was counted.
pub(crate) fn uncounted(journal: &Journal) -> Vec<JournalEntry> {
    let counts = |entry: &&JournalEntry| {
        matches!(
            entry,
            JournalEntry::Spent { .. }
                | JournalEntry::DaySpent { .. }
                | JournalEntry::CapSpent { .. }
        )
    };
    journal.values().filter(|entry| !counts(entry)).cloned().collect()
}

impl Sabotage {
    /// Each with the words of the checker that finds it.
    pub const ALL: [(Self, &'static str); 30] = [
        (Self::ForgottenRecipient, " is lost"),
        (Self::PutOffIsSent, "is called sent and nobody has it"),
        (Self::PutOffIsFailed, "is called failed and nobody refused it"),
        (Self::SilenceIsNothing, "is called failed and nobody refused it"),
        (Self::DryIsReal, "Dry mode"),
        (Self::ForgottenSettlement, "2: message"),
        (Self::ExtraToken, "3: messages"),
        (Self::ForgottenCounts, "3: messages"),
        (Self::CountsGoWithRules, "3: the ledger counts"),
        (Self::WallClock, "3: the ledger counts"),
        (Self::UncountedPermits, "3: connections:"),
        (Self::UncappedSource, "for source"),
        (Self::UncappedWarmUp, "which is warmed up"),
        (Self::UncappedDelivery, "in an hour for delivery"),
        (Self::EndlessConnections, "messages on one connection"),
        (Self::UnlimitedStarts, "3: connections begun"),
        (Self::DeafToBans, "4: to an address"),
        (Self::LostAnswer, "have not come to an end"),
        (Self::OtherVersion, "6: an attempt"),
        (Self::Unbounded, "7: window"),
        (Self::OtherSeed, "8: the same seed"),
        (Self::EarlyWaves, "9: before its wave"),
        (Self::DeafToPause, "9: although its delivery"),
        (Self::LateExpiry, "9: after its validity"),
        (Self::HastyExpiry, "9: expired before its time"),
        (Self::AnyAffinity, "10: outside its affinity"),
        (Self::NoMasks, "10: against the mask"),
        (Self::HastyRetry, "11: tried again too soon"),
        (Self::ForgottenPin, "11: not from the source"),
        (Self::DeafToReactions, "12: on a path"),
    ];

    pub(crate) fn bend_settings(self, mut settings: Settings) -> Settings {
        /// Every world gets another number.
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        match self {
            Self::Unbounded => {
                settings.connections_max *= 20;
                settings.window_messages_max *= 20;
                settings.group_window_messages_max *= 20;
                settings.domains_max *= 20;
            }
            Self::OtherSeed => settings.seed ^= NUMBER.fetch_add(1, Ordering::Relaxed),
            _ => {}
        }
        settings
    }

    /// The clocks as the ledger is told them.
    pub(crate) fn bend_clocks(self, life: u64, mut reading: ClockReading) -> ClockReading {
        if self == Self::WallClock {
            // As after a boot, when only the wall clock can tell.
            reading.boot_id = format!("life {life}");
        }
        reading
    }

    /// What the ledger finds at its start.
    pub(crate) fn bend_journal(self, journal: &Journal) -> Vec<JournalEntry> {
        if self == Self::ForgottenCounts {
            uncounted(journal)
        } else {
            journal.values().cloned().collect()
        }
    }

    pub(crate) fn bend_sources(
        self,
        mut sources: Vec<Source>,
        mut affinities: Vec<Affinity>,
    ) -> (Vec<Source>, Vec<Affinity>) {
        match self {
            Self::AnyAffinity => {
                for affinity in &mut affinities {
                    affinity.sources = sources.iter().map(|source| source.id).collect();
                }
            }
            Self::NoMasks => sources.iter_mut().for_each(|source| source.exclude_domains.clear()),
            _ => {}
        }
        (sources, affinities)
    }

    pub(crate) fn bend_rules(
        self,
        script: &Script,
        number: usize,
        rules: &Arc<RuleSet>,
    ) -> Arc<RuleSet> {
        let (text, levels) = &script.rules[number];
        match self {
            Self::OtherVersion => compile_text(text, levels, rules.version() + 100),
            Self::EndlessConnections => {
                let text = text.replace("per_connection = ", "per_connection = 100");
                compile_text(&text, levels, rules.version())
            }
            Self::UnlimitedStarts => {
                let lines = text.lines().filter(|line| !line.starts_with("connections_per_minute"));
                compile_text(&lines.collect::<Vec<_>>().join("\n"), levels, rules.version())
            }
            _ => Arc::clone(rules),
        }
    }

    pub(crate) fn bend_reactions(self, rules: Arc<ReactionRules>) -> Arc<ReactionRules> {
        if self == Self::DeafToReactions { ReactionRules::none() } else { rules }
    }

    /// What the engine is told.
    pub(crate) fn bend_event(self, mut event: Event) -> Event {
        if let (Self::SilenceIsNothing, Event::RouteFound { route, .. }) = (self, &mut event) {
            if matches!(route, Err(RouteFault::Temporary { .. })) {
                *route = Err(RouteFault::NoSuchDomain);
            }
            return event;
        }
        let Event::DeliveryChanged(delivery) = &mut event else { return event };
        let options = &mut delivery.options;
        match self {
            Self::EarlyWaves => {
                options.waves.iter_mut().for_each(|wave| wave.start_after = Duration::ZERO);
            }
            Self::DryIsReal => options.mode = SendMode::Real,
            Self::HastyRetry => {
                let second = Duration::from_secs(1);
                options.retry.steps.clear();
                (options.retry.then_every, options.retry.greylisted) = (second, second);
            }
            Self::HastyExpiry if options.validity > Duration::from_secs(86_400) => {
                options.validity = Duration::from_secs(3_600);
            }
            Self::LateExpiry => options.validity = Duration::from_secs(50 * 86_400),
            _ => {}
        }
        event
    }

    /// What the store is told.
    pub(crate) fn bend_settled(self, settled: &mut Vec<Settled>) {
        if self == Self::ForgottenSettlement {
            settled.retain(|one| !one.id.0.is_multiple_of(5));
        }
        for one in settled {
            let Fate::Requeued { due, pinned_source } = &mut one.fate else { continue };
            let fifth = one.id.0.is_multiple_of(5) && *due > Timestamp::EPOCH && one.attempts > 0;
            match self {
                Self::PutOffIsSent if fifth => one.fate = Fate::Final(FinalState::Sent),
                Self::PutOffIsFailed if fifth => one.fate = Fate::Final(FinalState::Failed),
                Self::ForgottenPin => *pinned_source = None,
                _ => {}
            }
        }
    }
}
