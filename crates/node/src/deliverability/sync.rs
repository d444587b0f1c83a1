//! Following an instance: asking for its bundle daily and on demand, telling it how this client fares.
//!
//! **Promise.** One synchronisation runs at a time; who comes meanwhile waits for it, and is told after ten seconds (or
//! `total_timeout`) that one is under way. Whatever the instance answers, or does not, the rules in force stay until a whole bundle has
//! passed every check ([`applying`](super::applying)). An instance that is away changes nothing but what `status` and,
//! after two days, an alert say.
//!
//! **How.** What is known about the instance ([`SyncRecord`]) is one value of the store. It is written after what it
//! speaks of: a crash in between means that a bundle is fetched once more, and found to be in force. Reports wait in it
//! until the instance has taken them.
//!
//! **What may be lost.** A crash right after a bundle was applied loses the report of that; the next one names the
//! version all the same.

mod record;
mod watch;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use engine::quarantine::{Author, TextFilter, TextRecord, TextStatus};
use mail::time::Timestamp;
use rules::bundle::{BundleFault, Difference, Sealed};
use serde::Serialize;
use store::Write;
use tokio::sync::Notify;

use super::applying::{Applied, ApplyFault, ApplyStep};
use super::following::Origin;
use super::instance::{FetchFault, Fetched, Instance, Report, ReportState, TextsTaken};
use super::schedule::SyncSchedule;
use super::sharing::{SharedText, requests, shared};
use crate::config::Config;
use crate::dns::Resolver;
use crate::intake::IntakeFault;
use crate::node::Questions;
pub(crate) use record::stored_record;
pub use record::{InstanceStatus, SyncRecord};
pub(crate) use watch::keep_up;

/// Name of the store's setting.
const RECORD: &str = "deliverability_sync";
/// How long whoever asks waits for a synchronisation that is under way.
const PATIENCE: Duration = Duration::from_secs(10);
/// Texts looked at for one synchronisation, the most frequent.
const TEXTS_LOOKED_AT: usize = 20_000;
/// Texts read from the store at a time.
const TEXTS_PAGE: u32 = 2_000;

/// What became of a synchronisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SyncOutcome {
    /// The instance has nothing new.
    Unchanged,
    /// Nothing is published for this client.
    NothingPublished,
    /// Another bundle is in force.
    Applied,
    /// Another bundle would be in force if this had not been a dry run.
    WouldApply,
    /// The instance's bundle was not put in force.
    Refused,
    /// There was no answer, or none that can be used.
    Unreachable,
}

impl SyncOutcome {
    /// Every outcome.
    pub const ALL: [Self; 6] = [
        Self::Unchanged,
        Self::NothingPublished,
        Self::Applied,
        Self::WouldApply,
        Self::Refused,
        Self::Unreachable,
    ];

    /// The word in answers and metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::NothingPublished => "nothing-published",
            Self::Applied => "applied",
            Self::WouldApply => "would-apply",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
        }
    }
}

/// A synchronisation and what it did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Synced {
    /// What became of it.
    pub outcome: SyncOutcome,
    /// Whether nothing was to be changed.
    pub dry_run: bool,
    /// The version before; `None`: the rules shipped with the program.
    pub from: Option<u64>,
    /// The version in force now, or that would be.
    pub to: Option<u64>,
    /// What changes, rule by rule.
    pub difference: Difference,
    /// The name of the reason of a refusal, or why there is no answer.
    pub fault: Option<&'static str>,
    /// The same in words.
    pub words: Option<String>,
    /// Pictures of every faulty rule.
    pub faults: Vec<String>,
    /// What became of the texts that were sent; `None`: none were.
    pub texts: Option<TextsTaken>,
    /// What of reports and texts the instance did not take, in words.
    pub untold: Option<String>,
    /// When the next one is due by itself.
    pub next_at: Option<Timestamp>,
}

/// Why there was no synchronisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SyncFault {
    /// The configuration names none.
    #[error("no deliverability instance is configured: put its `url` into `[deliverability]`")]
    NoInstance,
    /// Another one has not ended yet.
    #[error("a synchronisation is under way; look at `mailweir deliverability status` later")]
    UnderWay,
}

/// Steps of a synchronisation, in their order. A crash may come between any two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncStep {
    /// The answer of the instance is here.
    Fetched,
    /// A step of putting it in force.
    Applying(ApplyStep),
    /// What came of it is in the store.
    Noted,
    /// The instance was told.
    Told,
}

/// Counts since the start.
#[derive(Debug, Default)]
pub struct SyncCounts {
    /// In the order of [`SyncOutcome::ALL`].
    outcomes: [AtomicU64; 6],
    /// Texts that the instance took.
    pub texts: AtomicU64,
    /// Texts that were held back because they may name somebody.
    pub texts_held_back: AtomicU64,
}

impl SyncCounts {
    /// How often a synchronisation ended so.
    #[must_use]
    pub fn of(&self, outcome: SyncOutcome) -> u64 {
        self.outcomes[outcome as usize].load(Ordering::Relaxed)
    }
}

/// The instance with its schedule.
struct Followed {
    instance: Instance,
    schedule: SyncSchedule,
}

/// Everything about following an instance. Shared by everybody who asks.
pub(crate) struct SyncDesk {
    followed: Option<Followed>,
    record: Mutex<SyncRecord>,
    /// Held while the record is stored, so that no older one overwrites a newer one.
    storing: tokio::sync::Mutex<()>,
    under_way: tokio::sync::Mutex<()>,
    nudge: Notify,
    counts: SyncCounts,
}

impl SyncDesk {
    /// # Errors
    /// TLS cannot be set up.
    pub(crate) fn new(
        config: &Config,
        resolver: &Arc<Resolver>,
        record: SyncRecord,
        now: Timestamp,
    ) -> Result<Self, rustls::Error> {
        let follow = |config: &crate::config::InstanceConfig| {
            let (at, token) = (config.schedule, config.token.expose());
            let zone = jiff::tz::TimeZone::system();
            let schedule = SyncSchedule::new(at, zone, config.jitter, token);
            let instance = Instance::new(config.clone(), Arc::clone(resolver))?;
            Ok::<_, rustls::Error>(Followed { instance, schedule })
        };
        let followed = config.deliverability.instance.as_ref().map(follow).transpose()?;
        let record = match &followed {
            Some(followed) => record.of(&followed.instance.config().url.to_string(), now),
            None => record,
        };
        Ok(Self {
            followed,
            record: Mutex::new(record),
            storing: tokio::sync::Mutex::default(),
            under_way: tokio::sync::Mutex::default(),
            nudge: Notify::new(),
            counts: SyncCounts::default(),
        })
    }

    /// As a synchronisation that does not end.
    #[cfg(test)]
    pub(crate) async fn under_way_for_a_test(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.under_way.lock().await
    }

    fn record(&self) -> SyncRecord {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut SyncRecord)) {
        change(&mut self.record.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Synced {
    fn new(outcome: SyncOutcome, dry_run: bool, in_force: Option<u64>) -> Self {
        Self {
            outcome,
            dry_run,
            from: in_force,
            to: in_force,
            difference: Difference::default(),
            fault: None,
            words: None,
            faults: Vec::new(),
            texts: None,
            untold: None,
            next_at: None,
        }
    }

    fn applied(applied: Applied, dry_run: bool) -> Self {
        let outcome = match (applied.changed, dry_run) {
            (false, _) => SyncOutcome::Unchanged,
            (true, false) => SyncOutcome::Applied,
            (true, true) => SyncOutcome::WouldApply,
        };
        let Applied { from, to, difference, .. } = applied;
        Self { to, difference, ..Self::new(outcome, dry_run, from) }
    }

    fn refused(fault: &ApplyFault, dry_run: bool, in_force: Option<u64>) -> Self {
        Self {
            fault: Some(fault.name()),
            words: Some(format!("{fault}; the rules in force stay")),
            faults: fault.pictures(),
            ..Self::new(SyncOutcome::Refused, dry_run, in_force)
        }
    }

    fn unreachable(fault: &FetchFault, dry_run: bool, in_force: Option<u64>) -> Self {
        Self {
            fault: Some(fault.name()),
            words: Some(format!("{fault}; the rules in force stay")),
            ..Self::new(SyncOutcome::Unreachable, dry_run, in_force)
        }
    }
}

impl Questions {
    /// Fetches the instance's bundle and puts it in force, tells the instance how this client fares, and sends it
    /// unknown texts if the operator wants that. A dry run changes and tells nothing.
    ///
    /// # Errors
    /// No instance is configured, or another synchronisation does not end soon. What goes wrong with the instance or
    /// its bundle is an outcome.
    pub async fn sync_bundle(&self, author: Author, dry_run: bool) -> Result<Synced, SyncFault> {
        self.sync_watched(author, dry_run, &|_| {}).await
    }

    pub(crate) async fn sync_watched(
        &self,
        author: Author,
        dry_run: bool,
        witness: &(dyn Fn(SyncStep) + Sync),
    ) -> Result<Synced, SyncFault> {
        let desk = &self.sync;
        let followed = desk.followed.as_ref().ok_or(SyncFault::NoInstance)?;
        let patience = PATIENCE.min(followed.instance.config().total_timeout);
        let alone = tokio::time::timeout(patience, desk.under_way.lock()).await;
        let _alone = alone.map_err(|_| SyncFault::UnderWay)?;
        let mut synced = self.fetch_and_apply(followed, author, dry_run, witness).await;
        if !dry_run {
            self.store_sync_record().await;
            witness(SyncStep::Noted);
            if synced.outcome != SyncOutcome::Unreachable {
                self.tell(followed, &mut synced).await;
                self.store_sync_record().await;
            }
            witness(SyncStep::Told);
        }
        desk.counts.outcomes[synced.outcome as usize].fetch_add(1, Ordering::Relaxed);
        synced.next_at = followed.schedule.next(self.now(), &desk.record().history);
        let (from, to) = (synced.from, synced.to);
        let outcome = synced.outcome.word();
        match &synced.words {
            Some(words) => tracing::warn!(outcome, from, to, dry_run, "synchronised: {words}"),
            None => tracing::info!(outcome, from, to, dry_run, "synchronised"),
        }
        Ok(synced)
    }

    /// The first half: what the instance has, and whether it is in force now.
    async fn fetch_and_apply(
        &self,
        followed: &Followed,
        author: Author,
        dry_run: bool,
        witness: &(dyn Fn(SyncStep) + Sync),
    ) -> Synced {
        let desk = &self.sync;
        let now_in_force = self.in_force();
        let in_force = now_in_force.layer.published().map(|published| published.version);
        // A dry run is to show what a bundle changes, even one that was fetched and taken back; and one that cannot be used
        // any more is fetched again.
        let unusable = now_in_force.unusable().is_some();
        let etag = desk.record().etag.filter(|_| !dry_run && !unusable);
        let stated = now_in_force.stated();
        let fetched = followed.instance.bundle(etag.as_deref(), &stated).await;
        witness(SyncStep::Fetched);
        let now = self.now();
        let fetched = match fetched {
            Ok(fetched) => fetched,
            Err(fault) => {
                if !dry_run {
                    desk.change(|record| record.failed(now, &fault));
                }
                return Synced::unreachable(&fault, dry_run, in_force);
            }
        };
        let (octets, etag) = match fetched {
            Fetched::Bundle { octets, etag } => (octets, etag),
            Fetched::Unchanged | Fetched::Nothing => {
                if !dry_run {
                    desk.change(|record| record.contacted(now));
                    // What it has is in force, or was taken back by a person.
                    self.following.note_instance_well();
                }
                let outcome = match fetched {
                    Fetched::Unchanged => SyncOutcome::Unchanged,
                    _ => SyncOutcome::NothingPublished,
                };
                return Synced::new(outcome, dry_run, in_force);
            }
        };
        if dry_run {
            return match self.try_bundle(octets).await {
                Ok(applied) => Synced::applied(applied, true),
                Err(fault) => Synced::refused(&fault, true, in_force),
            };
        }
        let watched = |step| witness(SyncStep::Applying(step));
        let outcome = self.apply_bundle_watched(octets, author, Origin::Instance, &watched).await;
        desk.change(|record| match &outcome {
            Ok(_) => {
                record.contacted(now);
                record.etag = etag;
            }
            // The bundle is not to blame, or did not come whole: soon again.
            Err(fault) if fault.may_pass() => record.put_off(now),
            Err(_) => record.contacted(now),
        });
        match outcome {
            Ok(applied) => Synced::applied(applied, false),
            Err(fault) => Synced::refused(&fault, false, in_force),
        }
    }

    /// The second half: reports and texts. What fails here changes nothing about the bundle.
    async fn tell(&self, followed: &Followed, synced: &mut Synced) {
        let desk = &self.sync;
        if synced.outcome != SyncOutcome::Applied
            && let Some(version) = synced.to
        {
            desk.change(|record| record.fares(version));
        }
        let mut untold = self.send_reports(followed).await.err();
        if followed.instance.config().share_unknown_texts && untold.is_none() {
            match self.send_texts(followed).await {
                Ok(taken) => synced.texts = taken,
                Err(words) => untold = Some(words),
            }
        }
        if let Some(words) = &untold {
            tracing::warn!("the instance was not told everything: {words}");
        }
        synced.untold = untold;
    }

    /// Sends what waits, the oldest first.
    async fn send_reports(&self, followed: &Followed) -> Result<(), String> {
        while let Some(report) = self.sync.record().reports.first().cloned() {
            match followed.instance.report(&report).await {
                Ok(()) => {}
                // It will never be taken.
                Err(FetchFault::Status { status: 400..=428 | 430..=499, words, .. }) => {
                    let Report { bundle, state, .. } = &report;
                    tracing::warn!(bundle, ?state, "the instance takes no such report: {words}");
                }
                Err(fault) => {
                    let now = self.now();
                    self.sync.change(|record| record.failed(now, &fault));
                    return Err(fault.to_string());
                }
            }
            self.sync.change(|record| record.reports.retain(|one| *one != report));
        }
        Ok(())
    }

    /// Sends texts to qualify that were met since the last time.
    async fn send_texts(&self, followed: &Followed) -> Result<Option<TextsTaken>, String> {
        let until = self.now();
        let since = self.sync.record().texts_until.unwrap_or(Timestamp::EPOCH);
        let texts = self.unknown_texts(since).await.map_err(|fault| fault.to_string())?;
        let mut all = TextsTaken::default();
        for request in requests(&texts) {
            let taken =
                followed.instance.texts(request).await.map_err(|fault| fault.to_string())?;
            all.taken += taken.taken;
            all.refused += taken.refused;
        }
        self.sync.change(|record| record.texts_until = Some(until));
        self.sync.counts.texts.fetch_add(all.taken, Ordering::Relaxed);
        Ok((!texts.is_empty()).then_some(all))
    }

    /// Texts to qualify that were met since a moment and may leave.
    async fn unknown_texts(&self, since: Timestamp) -> Result<Vec<SharedText>, IntakeFault> {
        let filter = TextFilter { status: Some(TextStatus::ToQualify), by_person: false };
        let rules = Arc::clone(&self.in_force().mx);
        let (mut texts, mut looked_at, mut after) = (Vec::new(), 0, None);
        while looked_at < TEXTS_LOOKED_AT {
            let read = move |reads: &dyn store::Reads| reads.texts(filter, after, TEXTS_PAGE);
            let page = self.intake().read(read).await?;
            looked_at += page.len();
            // The store keeps milliseconds: what was met in that of the last time may have been met after it.
            let met = |record: &&TextRecord| {
                record.last_at.as_micros() / 1_000 >= since.as_micros() / 1_000
            };
            for record in page.iter().filter(met) {
                match shared(record, &rules) {
                    Some(text) => texts.push(text),
                    None => {
                        self.sync.counts.texts_held_back.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            after = page.last().map(|last| (last.occurrences, last.key));
            if page.len() < TEXTS_PAGE as usize {
                break;
            }
        }
        Ok(texts)
    }

    /// Writes the record. What cannot be stored is stored with the next change.
    async fn store_sync_record(&self) {
        let _in_order = self.sync.storing.lock().await;
        let value = serde_json::to_string(&self.sync.record()).unwrap_or_default();
        let write = Write::PutSetting { key: RECORD.into(), value: value.into() };
        if let Err(fault) = self.intake().write(write).await {
            tracing::warn!(%fault, "what is known about the instance could not be stored");
        }
    }

    /// How this node stands to the instance; `None`: none is configured.
    #[must_use]
    pub fn instance(&self) -> Option<InstanceStatus> {
        let followed = self.sync.followed.as_ref()?;
        let record = self.sync.record();
        let next_at = followed.schedule.next(self.now(), &record.history);
        let under_way = self.sync.under_way.try_lock().is_err();
        Some(record.status(followed.instance.config(), next_at, under_way))
    }

    /// Counts of synchronisations since the start.
    #[must_use]
    pub fn sync_counts(&self) -> &SyncCounts {
        &self.sync.counts
    }

    /// What became of a bundle, for the instance. Nothing is noted where none is configured.
    pub(super) async fn note_for_instance(&self, report: Option<Report>) {
        let Some(report) = report.filter(|_| self.sync.followed.is_some()) else { return };
        let other_bundle = matches!(report.state, ReportState::Applied | ReportState::RolledBack);
        self.sync.change(|record| {
            if other_bundle {
                record.alarmed = None;
            }
            record.wait(report);
        });
        self.store_sync_record().await;
        self.sync.nudge.notify_one();
    }
}

impl Report {
    /// What an instance is told of an attempt to put a bundle in force; `None`: nothing, because its version is not
    /// known or the bundle is not to blame.
    pub(super) fn of(octets: &[u8], outcome: &Result<Applied, ApplyFault>) -> Option<Self> {
        match outcome {
            Ok(applied) if applied.changed => {
                Some(Self::new(applied.to?, ReportState::Applied, ""))
            }
            Ok(_) => None,
            Err(ApplyFault::Bundle(fault)) if fault.blames_bundle() => {
                let sealed = Sealed::split(octets).ok()?;
                let reason = format!("{}: {fault}", fault.name());
                Some(Self::new(sealed.manifest().version, ReportState::Refused, &reason))
            }
            Err(_) => None,
        }
    }
}

impl ApplyFault {
    /// Whether the next attempt may go through with the same bundle: the machine is at fault, or the bundle did not come whole.
    fn may_pass(&self) -> bool {
        match self {
            Self::Bundle(BundleFault::Truncated { .. } | BundleFault::NotABundle) => true,
            Self::Bundle(_) | Self::NoKey | Self::Damaged { .. } | Self::VersionTaken(_) => false,
            Self::Refused(_) | Self::Store(_) => true,
        }
    }

    /// Pictures of every faulty rule of the bundle.
    #[must_use]
    pub fn pictures(&self) -> Vec<String> {
        match self {
            Self::Bundle(BundleFault::Rules { faults, .. }) => {
                faults.iter().map(rules::Diagnostic::render).collect()
            }
            _ => Vec::new(),
        }
    }
}
