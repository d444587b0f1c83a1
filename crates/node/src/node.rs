//! A node: store, ledger, engine, connections and intake, put together from a configuration.
//!
//! **Starting** is all or nothing: everything that can be refused (a locked data folder, a newer database, faulty
//! rules, missing keys) is refused before the first message moves.
//!
//! **Ending** by [`Node::shutdown`]: conversations finish what is in flight, claimed messages go back to the
//! queue, the store is closed. After a kill the next start does the same from what is on disk.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use engine::event::Event;
use engine::explain::{GroupView, PathView};
use engine::work::{DeliveryOptions, DeliveryState};
use engine::{BreakerSettings, Engine, Settings, SourcesFault, Waiting};
use mail::id::{DeliveryId, MessageId, SourceId};
use mail::route::{MxRoute, RouteFault};
use mail::time::Timestamp;
use quota::{BudgetView, JournalEntry, Ledger, NodeId, Owner, PathKey};
use rules::{Diagnostic, RuleSet};
use store::kill_point;
use store::{
    LedgerRow, MessageState, SqliteOptions, SqliteStore, Store as _, StoreFault, Write, Writer,
    WriterOptions, Written,
};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use crate::alerts::{self, Alerts};
use crate::clock::{SteadyClock, read_clocks};
use crate::config::Config;
use crate::data_dir;
use crate::deliverability::{self, Following, Layer, RulesInForce, SyncDesk, stored_record};
use crate::dns::Resolver;
use crate::intake::Intake;
use crate::levels::stored_decisions;
use crate::nondeliverables::{self, NonDeliverables, Recorder};
use crate::reactions;
use crate::regular_file;
use crate::retention;
use crate::room::Room;
use crate::runner::connections::{Connections, NodeTime};
use crate::runner::contents::Contents;
use crate::runner::delivery_log::{DeliveryLog, DeliveryLogSettings};
use crate::runner::ledger::LedgerDesk;
use crate::runner::{Counts, Input, Runner, Running, View, ask, journal};
use crate::sender::{self, SetupFault};
use crate::smtp_client::{Connector, InDoubt, TlsClients};
use crate::submission::SubmissionCounts;
use crate::warm_up::{self, TallyBook, WarmUpDesk};

pub(crate) mod in_force;
mod local_rules;
mod questions;

pub(crate) use in_force::MX_RULES_OF;
pub use in_force::check_bounce_rules;
use in_force::{Kept, kept_layer, mx_base_of_start};
pub(crate) use local_rules::LocalRules;
pub use local_rules::{CheckedRuleFile, check_rule_files};
pub use questions::{MessageExplained, WaitingExplained};

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartFault {
    /// The store cannot be opened or read.
    #[error("{0}")]
    Store(#[from] StoreFault),
    /// The MX rules are faulty.
    #[error("{}", rules_words("MX", .0))]
    Rules(Vec<Diagnostic>),
    /// The bounce rules are faulty.
    #[error("{}", rules_words("bounce", .0))]
    BounceRules(Vec<Diagnostic>),
    /// The reaction rules are faulty.
    #[error("{}", rules_words("reaction", .0))]
    ReactionRules(Vec<Diagnostic>),
    /// The operator's domain rules are faulty.
    #[error("{}", rules_words("domain", .0))]
    DomainRules(Vec<Diagnostic>),
    /// The operator's format rules are faulty.
    #[error("{}", rules_words("format", .0))]
    FormatRules(Vec<Diagnostic>),
    /// The data folder cannot be made.
    #[error("cannot make the data folder {}: {source}; set another data_dir", path.display())]
    DataDir {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Sources and affinities do not fit together.
    #[error("{0}")]
    Sources(#[from] SourcesFault),
    /// Keys or sender settings cannot be used.
    #[error("{0}")]
    Sender(#[from] SetupFault),
    /// DNS cannot be set up.
    #[error("{0}")]
    Dns(#[from] crate::dns::SetUpError),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The system gives no thread or file.
    #[error("the system refuses: {0}")]
    System(#[from] std::io::Error),
    /// The ledger's record is damaged; starting without it could break a limit.
    #[error(
        "{0}; restore the database from a backup: without the record of the last hour a limit could be broken"
    )]
    Ledger(#[from] journal::UnreadableRow),
}

/// Faults of rules in one line: how many, and the place of the first.
fn rules_words(which: &str, faults: &[Diagnostic]) -> String {
    match faults {
        [] => format!("the {which} rules cannot be used"),
        [only] => format!("the {which} rules have a fault: {only}"),
        [first, ..] => {
            format!("the {which} rules have {} faults; the first: {first}", faults.len())
        }
    }
}

/// The rules of a configuration, before they have a version.
#[derive(Clone, Debug)]
pub struct RuleSource {
    /// Shipped and local rules together.
    pub file: rules::RuleFile,
    /// Levels.
    pub levels: rules::Levels,
    /// A text that is different for different rules and levels.
    pub fingerprint: String,
}

/// Reads and checks the rules of a configuration.
///
/// # Errors
/// Unreadable or faulty local rules.
pub fn read_rules(config: &Config) -> Result<RuleSource, StartFault> {
    Ok(LocalRules::read_mx(config)?
        .mx_over(&Layer::default().mx_base(), config.rules.levels.clone()))
}

/// Reads the operator's own MX rules, and the octets of the file.
///
/// # Errors
/// It cannot be read, or has faults.
pub(crate) fn local_mx_rules(path: &Path) -> Result<(rules::RuleFile, Vec<u8>), StartFault> {
    let bytes = regular_file::read(path)
        .map_err(|source| StartFault::File { path: path.into(), source })?;
    let file =
        rules::parse_local(&path.display().to_string(), &bytes).map_err(StartFault::Rules)?;
    Ok((file, bytes))
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().map(|octet| format!("{octet:02x}")).collect()
}

/// A domain whose look-up failed is not looked up again sooner.
const DNS_RETRY_MIN: Duration = Duration::from_secs(5);

/// How often [`Node::ended`] looks at the store.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long [`Node::shutdown`] lets conversations go on.
const DRAIN_PATIENCE: Duration = Duration::from_secs(30);

/// How long [`Node::shutdown`] waits for what conversations have said of addresses to be stored.
const RECORD_PATIENCE: Duration = Duration::from_secs(10);

/// Name of the store's setting with the version of the rules.
const RULES_VERSION: &str = "rules_version";

/// A running node.
pub struct Node {
    config: Arc<Config>,
    intake: Intake,
    contents: Arc<Contents>,
    resolver: Arc<Resolver>,
    counts: Arc<Counts>,
    log_lines_lost: Arc<AtomicU64>,
    in_doubt: Arc<InDoubt>,
    inputs: mpsc::UnboundedSender<Input>,
    running: Running,
    writer: Writer,
    clock: Arc<SteadyClock>,
    /// Tasks that hold readers of the store for as long as they live.
    watchers: Vec<JoinHandle<()>>,
    nondeliverables: NonDeliverables,
    recorder: Recorder,
    alerts: Alerts,
    following: Arc<Following>,
    warm_up: Arc<WarmUpDesk>,
    sync: Arc<SyncDesk>,
    levels_changed: Arc<Notify>,
    accounts: [JoinHandle<()>; 2],
}

/// What can be asked of a running node. Clones ask the same one.
#[derive(Clone)]
pub struct Questions {
    intake: Intake,
    pub(crate) inputs: mpsc::UnboundedSender<Input>,
    resolver: Arc<Resolver>,
    counts: Arc<Counts>,
    log_lines_lost: Arc<AtomicU64>,
    in_doubt: Arc<InDoubt>,
    config: Arc<Config>,
    clock: Arc<SteadyClock>,
    nondeliverables: NonDeliverables,
    submission: Option<Arc<SubmissionCounts>>,
    pub(crate) alerts: Alerts,
    contents: Arc<Contents>,
    pub(crate) following: Arc<Following>,
    pub(crate) warm_up: Arc<WarmUpDesk>,
    pub(crate) sync: Arc<SyncDesk>,
    /// Told when a decision about levels was taken.
    pub(crate) levels_changed: Arc<Notify>,
}

impl Node {
    /// Starts a node on its data folder. Must be called within a tokio runtime with several threads.
    ///
    /// # Errors
    /// Everything that can be refused at the start.
    pub fn start(config: Config) -> Result<Self, StartFault> {
        let config = Arc::new(config);
        // Faulty rules of the operator are found before anything is opened.
        let local = Arc::new(LocalRules::read(&config)?);
        let settings = Arc::new(sender::settings(&config)?);
        let resolver = Arc::new(Resolver::for_config(&config)?);
        let sources = config.routing_sources()?;
        data_dir::make(&config.data_dir)
            .map_err(|source| StartFault::DataDir { path: config.data_dir.clone(), source })?;
        let options = SqliteOptions { node: config.node.name.clone(), ..SqliteOptions::default() };
        let mut store = SqliteStore::open(&config.data_dir, options)?;
        kill_point::pass("start", "store-opened");
        let incarnation = store.incarnation();
        let Kept { layer, trust, pointer, since, trouble } = kept_layer(store.reads())?;
        let (bounce_rules, reaction_rules) =
            (local.bounce_over(&layer), local.reaction_over(&layer));
        let (domain_rules, format_rules) = local.recipient_over(&layer);
        resolver.set_domain_rules(Arc::clone(&domain_rules));
        let owner = Owner { node: NodeId(1), incarnation };
        let (clock, entries) = restore_clock(&mut store, owner)?;
        kill_point::pass("start", "clock-restored");
        let now = clock.now();
        let decisions = stored_decisions(store.reads())?;
        let levels = decisions.over(&config.rules.levels, now);
        let mx_base = mx_base_of_start(&mut store, &layer, &levels)?;
        let source = local.mx_over(&mx_base, levels);
        let rules = versioned(&mut store, &source)?;
        let ruling: Arc<RuleSet> = Arc::clone(&rules);
        let mut ledger = Ledger::restore(quota::Settings::default(), ruling, owner, now, entries);
        let tallies = Arc::new(TallyBook::restore(&store.reads().ledger(warm_up::TALLIES, 0)?));
        let record = warm_up::stored_record(store.reads())?;
        let warm_up = Arc::new(WarmUpDesk::new(record, Arc::clone(&tallies)));
        let sync = SyncDesk::new(&config, &resolver, stored_record(store.reads())?, now)?;
        let sync = Arc::new(sync);
        ledger.replace_warm_up(now, Arc::new(warm_up.caps(now)));
        kill_point::pass("start", "ledger-restored");
        release_parts(&mut store, now)?;
        kill_point::pass("start", "parts-released");
        let opening = nondeliverables::Opening::new();
        let admission =
            nondeliverables::load(&mut store, &config.quarantine, opening.counts(), now)?;
        let admission = Arc::new(admission);
        kill_point::pass("start", "admission-loaded");
        admission.desk_mut().publish(Arc::new(layer.suppression()));
        let alerts = Alerts::default();
        let following = Arc::new(Following::new(
            RulesInForce {
                domain: Arc::clone(&domain_rules),
                format: Arc::clone(&format_rules),
                layer: Arc::new(layer),
                local,
                since,
                trust,
                pointer,
                mx: Arc::clone(&rules),
                mx_base: Arc::new(mx_base),
                bounce: Arc::clone(&bounce_rules),
                reaction: Arc::clone(&reaction_rules),
            },
            alerts.clone(),
            trouble,
        ));
        let recorder = opening.recorder();
        let reader = || store.reader();
        let contents = Arc::new(Contents::new(settings, reader)?);
        contents.set_rules(domain_rules, format_rules);
        let log = match config.log.record_attempts {
            true => DeliveryLog::open(DeliveryLogSettings {
                path: config.log.delivery_log.clone(),
                rotate_bytes: config.log.rotate_bytes,
                keep: config.log.keep_files,
            })?,
            false => DeliveryLog::none(),
        };
        let log_lines_lost = log.lost();
        let (inputs, input_receiver) = mpsc::unbounded_channel();
        let (reports, report_receiver) = mpsc::unbounded_channel();
        let in_doubt = Arc::new(InDoubt::new(config.limits.in_doubt_messages));
        let connector = Connector {
            safety: config.safety.clone(),
            tls: TlsClients::new()?.with_roots(config.smtp_client.tls_roots.clone()),
            clock: node_time(&clock),
            reports,
            in_doubt: Arc::clone(&in_doubt),
        };
        let writer = Writer::start(Box::new(store), WriterOptions::default())?;
        let runtime = tokio::runtime::Handle::current();
        let counts = Arc::new(Counts::default());
        let connections = Connections::new(
            connector,
            Arc::clone(&admission),
            Arc::clone(&contents),
            Arc::clone(&clock),
            Arc::clone(&config),
            runtime.clone(),
            Arc::clone(&counts),
        );
        let mut engine = Engine::new(settings_of(&config), sources, rules, now);
        engine.handle(now, Event::BounceRulesReplaced(Arc::clone(&bounce_rules.rules)));
        engine.handle(now, Event::ReactionRulesReplaced(reaction_rules));
        let kept =
            reactions::kept(contents.read(|reads| reads.setting(reactions::SETTING))?.as_deref());
        alerts.replace(alerts::REACTION, reactions::alerts(&kept));
        engine.handle(now, Event::ReactionsRestored(Box::new(kept.clone())));
        for delivery in open_deliveries(&contents)? {
            engine.handle(now, Event::DeliveryChanged(Box::new(delivery)));
        }
        kill_point::pass("start", "engine-told");
        let limits: HashMap<SourceId, u32> = config
            .sources
            .iter()
            .filter_map(|source| Some((source.id, source.messages_per_hour?)))
            .collect();
        let runner = Runner {
            engine,
            ledger: LedgerDesk::new(ledger, owner, limits, now),
            clock: Arc::clone(&clock),
            writer: writer.handle(),
            contents: Arc::clone(&contents),
            resolver: Arc::clone(&resolver),
            connections,
            log,
            admission: Arc::clone(&admission),
            recorder: recorder.clone(),
            tallies,
            inputs: inputs.clone(),
            runtime,
            counts: Arc::clone(&counts),
            domain_ids: HashMap::new(),
            unsettled: Vec::new(),
            reactions: kept,
            reactions_kept: true,
            alerts: alerts.clone(),
            heard: Vec::new(),
            with_recorder: 0,
            store_sick: false,
            drained: false,
            drain_until: None,
        };
        let running = Running::start(runner, input_receiver, report_receiver)?;
        let defaults = DeliveryOptions {
            validity: config.validity,
            retry: config.retry.clone(),
            ..DeliveryOptions::default()
        };
        let room = Room::default();
        let affinities = config.affinities.iter().map(|found| found.name.clone()).collect();
        let intake = Intake::new(
            writer.handle(),
            Arc::clone(&contents),
            Arc::clone(&clock),
            inputs.clone(),
            defaults,
            affinities,
            (room.clone(), Arc::clone(&admission)),
        );
        let (nondeliverables, accounts) = opening.begin(
            intake.clone(),
            Arc::clone(&contents),
            admission,
            config.quarantine.clone(),
            bounce_rules,
            inputs.clone(),
        )?;
        let watch =
            room.watch(config.limits.clone(), config.data_dir.clone(), Arc::clone(&contents));
        let mut watchers = vec![tokio::spawn(watch)];
        let kept = Duration::from_secs(86_400) * config.store.keep_finished_days;
        if !kept.is_zero() {
            let hashes = Duration::from_secs(86_400) * config.store.keep_hashes_days;
            watchers.push(tokio::spawn(retention::keep_for(intake.clone(), kept, hashes)));
        }
        let mut node = Self {
            config,
            intake,
            contents,
            resolver,
            counts,
            log_lines_lost,
            in_doubt,
            inputs,
            running,
            writer,
            clock,
            watchers,
            nondeliverables,
            recorder,
            alerts,
            following,
            warm_up,
            sync,
            levels_changed: Arc::default(),
            accounts,
        };
        node.watchers.push(tokio::spawn(warm_up::keep_up(node.questions())));
        node.watchers.push(tokio::spawn(deliverability::keep_up(node.questions())));
        kill_point::pass("start", "node-started");
        Ok(node)
    }

    /// The way in.
    #[must_use]
    pub fn intake(&self) -> Intake {
        self.intake.clone()
    }

    /// What can be asked.
    #[must_use]
    pub fn questions(&self) -> Questions {
        Questions {
            intake: self.intake.clone(),
            inputs: self.inputs.clone(),
            resolver: Arc::clone(&self.resolver),
            counts: Arc::clone(&self.counts),
            log_lines_lost: Arc::clone(&self.log_lines_lost),
            in_doubt: Arc::clone(&self.in_doubt),
            config: Arc::clone(&self.config),
            clock: Arc::clone(&self.clock),
            nondeliverables: self.nondeliverables.clone(),
            submission: None,
            alerts: self.alerts.clone(),
            contents: Arc::clone(&self.contents),
            following: Arc::clone(&self.following),
            warm_up: Arc::clone(&self.warm_up),
            sync: Arc::clone(&self.sync),
            levels_changed: Arc::clone(&self.levels_changed),
        }
    }

    /// The way to everything about addresses that are not written to.
    #[must_use]
    pub fn nondeliverables(&self) -> NonDeliverables {
        self.nondeliverables.clone()
    }

    /// The compiled contents of deliveries.
    #[must_use]
    pub fn contents(&self) -> &Arc<Contents> {
        &self.contents
    }

    /// Waits until the node has ended by itself, which it does only by a fault of Mailweir: nothing is delivered
    /// any more, and only a new start helps.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let (over, intake) = (self.running.over.clone(), self.intake.clone());
        async move {
            let store_gone = async {
                while intake.health() != Err(StoreFault::Closed) {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            };
            tokio::select! {
                () = over.cancelled() => {}
                () = store_gone => {}
            }
        }
    }

    /// Finishes what is in flight, gives the rest back to the queue, and closes the store. A server that
    /// has not answered after 30 seconds is not waited for any longer.
    pub async fn shutdown(self) {
        self.shutdown_within(DRAIN_PATIENCE).await;
    }

    /// The same with another patience. A message whose conversation is broken off by its end may have been
    /// delivered; it is in the queue at the next start, as after a crash.
    pub async fn shutdown_within(self, patience: Duration) {
        self.watchers.iter().for_each(JoinHandle::abort);
        let questions = self.questions();
        let (running, writer) = (self.running, self.writer);
        let engine = tokio::task::spawn_blocking(move || running.shutdown(patience)).await;
        if let Err(fault) = questions.store_tallies().await {
            tracing::warn!(%fault, "the planner's last counts could not be stored");
        }
        drop(questions);
        // What the last conversations said is written before the store is closed.
        if tokio::time::timeout(RECORD_PATIENCE, self.recorder.stop()).await.is_err() {
            tracing::error!("evidence about addresses could not be stored before the end");
        }
        self.nondeliverables.stop_chores();
        for mut task in self.accounts.into_iter().chain(self.watchers) {
            if tokio::time::timeout(RECORD_PATIENCE, &mut task).await.is_err() {
                task.abort();
            }
        }
        // Readers go before the writer, which then leaves the database in one file.
        drop((self.nondeliverables, self.intake, self.contents));
        let ended = tokio::task::spawn_blocking(move || writer.shutdown().is_some());
        if engine.is_err() || !matches!(ended.await, Ok(true)) {
            tracing::error!("the node did not end in order; the next start recovers from the disk");
        }
    }
}

/// The version for rules with this fingerprint, and what to store when they are new.
fn next_version(stored: Option<&str>, fingerprint: &str) -> (u64, Option<Write>) {
    let before = stored.and_then(|text| {
        let (version, fingerprint) = text.split_once(' ')?;
        Some((version.parse::<u64>().ok()?, fingerprint))
    });
    match before {
        Some((version, same)) if same == fingerprint => (version, None),
        other => {
            let version = other.map_or(1, |(version, _)| version + 1);
            let value = format!("{version} {fingerprint}").into_boxed_str();
            (version, Some(Write::PutSetting { key: RULES_VERSION.into(), value }))
        }
    }
}

fn versioned(store: &mut SqliteStore, source: &RuleSource) -> Result<Arc<RuleSet>, StoreFault> {
    let stored = store.reads().setting(RULES_VERSION)?;
    let (version, write) = next_version(stored.as_deref(), &source.fingerprint);
    if let Some(write) = write {
        store.apply(&[write])?;
    }
    Ok(Arc::new(RuleSet::compile(&source.file, &source.levels, version)))
}

/// What the last process left of the ledger, and the time that goes on from there.
fn restore_clock(
    store: &mut SqliteStore,
    owner: Owner,
) -> Result<(Arc<SteadyClock>, Vec<JournalEntry>), StartFault> {
    let mut rows: Vec<LedgerRow> = Vec::new();
    // Lasting facts in the order of the process starts that wrote them: the newest wins.
    let mut lasting = store.reads().ledger(journal::LASTING, 0)?;
    lasting.sort_by_key(|row| row.slot);
    rows.extend(lasting);
    rows.extend(store.reads().ledger(journal::TIMED, 0)?);
    rows.extend(store.reads().ledger(journal::PERMITS, 0)?);
    let entries = rows.iter().map(journal::entry).collect::<Result<Vec<_>, _>>()?;
    let saved = entries.iter().rev().find_map(|entry| match entry {
        JournalEntry::Clock(saved) => Some(saved.clone()),
        _ => None,
    });
    let clock = Arc::new(SteadyClock::start(quota::anchor(saved, read_clocks())));
    let now = clock.now();
    let live: Vec<JournalEntry> =
        entries.into_iter().filter(|entry| entry.forget_after() > now).collect();
    // What lasts is written anew under this start, so that the rows of earlier starts can go.
    let mut newest: std::collections::BTreeMap<String, LedgerRow> = live
        .iter()
        .map(|entry| journal::row(entry, owner.incarnation))
        .filter(|row| row.kind == journal::LASTING)
        .map(|row| (row.key.to_string(), row))
        .collect();
    let clock_row = journal::row(&JournalEntry::Clock(clock.save()), owner.incarnation);
    newest.insert(clock_row.key.to_string(), clock_row);
    store.apply(&[
        Write::Ledger(newest.into_values().collect()),
        Write::PruneLedger { kind: journal::LASTING, before_slot: owner.incarnation },
        Write::PruneLedger { kind: journal::TIMED, before_slot: now.as_secs() / 60 },
    ])?;
    Ok((clock, live))
}

/// Puts what an earlier process had claimed back into the queue.
fn release_parts(store: &mut SqliteStore, now: Timestamp) -> Result<(), StoreFault> {
    let mut messages = 0;
    loop {
        let written = store.apply(&[Write::ReleaseParts { now }])?;
        let Some(Written::Released(released)) = written.first() else { break };
        messages += u64::from(released.messages);
        if !released.more {
            break;
        }
    }
    if messages > 0 {
        tracing::warn!(
            messages,
            "the last process did not end in order: what it had claimed is queued again; of it, what servers had taken \
             and the disk did not know is sent twice"
        );
    }
    Ok(())
}

/// Deliveries of which the engine has to know: not those at their end, of which there are ever more.
fn open_deliveries(contents: &Contents) -> Result<Vec<engine::work::Delivery>, StoreFault> {
    let mut open = Vec::new();
    let mut after = DeliveryId(0);
    loop {
        let page = contents.read(|reads| reads.deliveries(after, 256))?;
        let Some(last) = page.last() else { return Ok(open) };
        after = last.delivery.id;
        let is_open = |record: &store::DeliveryRecord| match record.delivery.state {
            DeliveryState::Finished => false,
            DeliveryState::Cancelled => record.counters.pending() > 0,
            _ => true,
        };
        open.extend(page.into_iter().filter(is_open).map(|record| record.delivery));
    }
}

pub(crate) fn settings_of(config: &Config) -> Settings {
    Settings {
        window_messages_max: config.limits.window_messages,
        claim_messages_max: u32::try_from(config.limits.part_messages).unwrap_or(256).min(256),
        connections_max: config.smtp_client.max_connections_total as usize,
        idle_timeout: config.smtp_client.idle_timeout,
        // A look-up that failed has taken at most so long; the resolver believes a failure for a few seconds.
        dns_retry: config.dns.route_timeout.max(DNS_RETRY_MIN),
        breaker: BreakerSettings {
            messages: config.circuit_breaker.messages,
            error_percent: config.circuit_breaker.error_percent,
            rest: config.circuit_breaker.rest,
        },
        default_tls: config.smtp_client.tls,
        seed: read_clocks().wall,
        ..Settings::default()
    }
}

fn node_time(clock: &Arc<SteadyClock>) -> NodeTime {
    let clock = Arc::clone(clock);
    Box::new(move || clock.now())
}

#[cfg(test)]
mod tests;
