//! What is seen, kept small: moments as microseconds, keys as 64-bit hashes, counts per source.
//!
//! A connection tallies what one batch of octets brought and records it with one lock. The sliding
//! hour is not estimated: all moments are kept (8 octets each) and the maximum over every window
//! is worked out by two pointers when a report is asked for.
//!
//! Keys are 64-bit hashes; among a million of them two are equal with a chance of 1 in 37 million,
//! which would show as one duplicate too many, never as one too few.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::hash::{BuildHasherDefault, Hasher};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;

use crate::chance::hash64_folded;
use crate::config::{LabConfig, Promise};
use crate::report::{
    Counts, DnsReport, DuplicateReport, LimitViolation, ProviderReport, Report, ReturnReport,
    SourceReport, Totals,
};

/// 3,600 seconds in microseconds.
pub(crate) const HOUR_MICROS: u64 = 3_600_000_000;
/// Sources told apart at one provider; the rest share one record under 0.0.0.0.
const MOST_SOURCES: usize = 10_000;
const SHARDS: usize = 64;

/// Locks without regard to a panic elsewhere: what is guarded here is counts, each of them whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Everything seen since the lab started.
pub(crate) struct Recorder {
    started: Instant,
    started_unix_micros: u64,
    providers: Vec<ProviderRecord>,
    keys: Option<Vec<Mutex<KeyShard>>>,
    journal: Option<Mutex<File>>,
    journal_failures: AtomicU64,
    /// Hashes of addresses that must not be written to.
    forbidden: RwLock<HashSet<u64>>,
    forbidden_seen: AtomicU64,
}

struct ProviderRecord {
    name: String,
    promise: Promise,
    sources: Mutex<HashMap<IpAddr, Arc<SourceRecord>>>,
}

/// One source at one provider.
#[derive(Default)]
pub(crate) struct SourceRecord {
    books: Mutex<ConnectionBooks>,
    times: Mutex<Times>,
    replies: Mutex<Refusals>,
    possibly_delivered: AtomicU64,
    connections_with_tls: AtomicU64,
    most_mail: AtomicU64,
    most_accepted: AtomicU64,
    data_octets: AtomicU64,
}

#[derive(Default)]
struct ConnectionBooks {
    opened: u64,
    open: u64,
    most: u64,
    /// Second handles of open connections, kept only where a limit has to be judged.
    handles: HashMap<u64, TcpStream>,
}

#[derive(Default)]
struct Times {
    mail: Vec<u64>,
    accepted: Vec<u64>,
}

#[derive(Default)]
struct Refusals {
    by_stage: BTreeMap<(&'static str, u16), u64>,
    faults: BTreeMap<&'static str, u64>,
}

/// What one batch of octets brought.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    /// MAIL commands.
    pub mail: u32,
    /// Recipients accepted.
    pub accepted: u32,
    /// Octets of message data.
    pub data_octets: u64,
}

/// How many connections stand open, seen from a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Connections open, the new one included, without those whose client has left already.
    pub open: u64,
    /// Of these, how many have octets waiting that may turn out to be their farewell.
    pub undecided: u64,
}

impl SourceRecord {
    /// Notes a new connection and tells how many are open with it. `handle` is a second handle of
    /// it, for judging who has left.
    pub(crate) fn open(&self, connection: u64, handle: Option<TcpStream>) -> u64 {
        let mut books = lock(&self.books);
        books.opened += 1;
        books.open += 1;
        if let Some(handle) = handle {
            books.handles.insert(connection, handle);
        }
        books.open
    }

    /// How many stand open of the `at_open` that were counted with a new one. A client that closed one connection and opened the next holds one,
    /// though the end of the first may not have been read yet; so above `limit` each connection
    /// is looked at, and those whose client has left do not count.
    pub(crate) fn standing(&self, at_open: u64, limit: Option<u32>) -> Standing {
        let books = lock(&self.books);
        let mut standing = Standing { open: at_open, undecided: 0 };
        if limit.is_some_and(|limit| at_open > u64::from(limit)) {
            standing.open = books.open;
            for handle in books.handles.values() {
                match farewell(handle) {
                    Some(true) => standing.open = standing.open.saturating_sub(1),
                    Some(false) => {}
                    None => standing.undecided += 1,
                }
            }
            // Those that came later do not count against this one.
            standing.open = standing.open.min(at_open);
        }
        standing
    }

    /// Notes the most connections at once.
    pub(crate) fn settle(&self, open: u64) {
        let mut books = lock(&self.books);
        books.most = books.most.max(open);
    }

    /// Notes the end of a connection.
    pub(crate) fn close(&self, connection: u64) {
        let mut books = lock(&self.books);
        books.open = books.open.saturating_sub(1);
        books.handles.remove(&connection);
    }

    /// Notes what a batch brought at the moment `now`, and how far the connection has come.
    pub(crate) fn add(&self, now: u64, tally: Tally, mail_so_far: u64, accepted_so_far: u64) {
        if tally.mail > 0 || tally.accepted > 0 {
            let mut times = lock(&self.times);
            times.mail.extend(std::iter::repeat_n(now, tally.mail as usize));
            times.accepted.extend(std::iter::repeat_n(now, tally.accepted as usize));
        }
        self.most_mail.fetch_max(mail_so_far, Ordering::Relaxed);
        self.most_accepted.fetch_max(accepted_so_far, Ordering::Relaxed);
        self.data_octets.fetch_add(tally.data_octets, Ordering::Relaxed);
    }

    /// Messages accepted in the hour that ends at `now`.
    pub(crate) fn accepted_in_last_hour(&self, now: u64) -> usize {
        let times = lock(&self.times);
        let since = now.saturating_sub(HOUR_MICROS);
        // Moments of two threads may be a few microseconds out of order; the cut is as near.
        times.accepted.len() - times.accepted.partition_point(|at| *at <= since && since > 0)
    }

    /// Notes a reply of class 4 or 5.
    pub(crate) fn refused(&self, stage: &'static str, code: u16) {
        *lock(&self.replies).by_stage.entry((stage, code)).or_default() += 1;
    }

    /// Notes something that the client did against the protocol.
    pub(crate) fn fault(&self, kind: &'static str) {
        *lock(&self.replies).faults.entry(kind).or_default() += 1;
    }

    /// Notes that the connection has got TLS.
    pub(crate) fn secured(&self) {
        self.connections_with_tls.fetch_add(1, Ordering::Relaxed);
    }

    fn report(&self, source: IpAddr) -> SourceReport {
        let (mut mail, mut accepted) = {
            let times = lock(&self.times);
            (times.mail.clone(), times.accepted.clone())
        };
        let mut report = SourceReport {
            source: source.to_string(),
            accepted: accepted.len() as u64,
            possibly_delivered: self.possibly_delivered.load(Ordering::Relaxed),
            refused_by_code: BTreeMap::new(),
            refused_by_stage: BTreeMap::new(),
            connections: 0,
            connections_with_tls: self.connections_with_tls.load(Ordering::Relaxed),
            open_connections: 0,
            most_simultaneous_connections: 0,
            mail_commands: mail.len() as u64,
            most_messages_on_one_connection: self.most_mail.load(Ordering::Relaxed),
            most_accepted_on_one_connection: self.most_accepted.load(Ordering::Relaxed),
            most_messages_in_an_hour: most_in_window(&mut mail, HOUR_MICROS) as u64,
            most_accepted_in_an_hour: most_in_window(&mut accepted, HOUR_MICROS) as u64,
            data_octets: self.data_octets.load(Ordering::Relaxed),
            faults: BTreeMap::new(),
        };
        {
            let books = lock(&self.books);
            report.connections = books.opened;
            report.open_connections = books.open;
            report.most_simultaneous_connections = books.most;
        }
        let replies = lock(&self.replies);
        for ((stage, code), count) in &replies.by_stage {
            *report.refused_by_code.entry(*code).or_default() += count;
            report.refused_by_stage.insert(format!("{stage} {code}"), *count);
        }
        report.faults.clone_from(&replies.faults);
        report
    }
}

/// Whether the client of a connection has left: its end or its QUIT is next to be read. `None`
/// when octets wait that do not tell.
fn farewell(handle: &TcpStream) -> Option<bool> {
    let mut waiting = [0u8; 2_048];
    match handle.peek(&mut waiting) {
        Ok(0) => Some(true),
        Ok(length) => {
            let end = &waiting[length.saturating_sub(6)..length];
            if end.eq_ignore_ascii_case(b"QUIT\r\n") { Some(true) } else { None }
        }
        Err(fault) if fault.kind() == std::io::ErrorKind::WouldBlock => Some(false),
        Err(_) => Some(true),
    }
}

/// The most moments in any half-open window `[t, t + window)`. Sorts `times`.
pub(crate) fn most_in_window(times: &mut [u64], window: u64) -> usize {
    times.sort_unstable();
    let (mut first, mut most) = (0, 0);
    for last in 0..times.len() {
        while times[last] - times[first] >= window {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    most
}

/// Keys are hashes already, so the table takes them as they are.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

#[derive(Default)]
struct KeyShard {
    seen: HashMap<u64, Seen, BuildHasherDefault<AsIs>>,
}

#[derive(Clone, Copy, Default)]
struct Seen {
    accepted: u16,
    dropped_before: bool,
}

/// What became of a message whose data ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Answered with 250.
    Accepted,
    /// Taken, and the connection dropped without a reply.
    Dropped,
}

impl Recorder {
    /// A recorder for a checked configuration.
    ///
    /// # Errors
    /// The journal cannot be opened for appending.
    pub(crate) fn new(config: &LabConfig) -> anyhow::Result<Self> {
        let provider = |provider: &crate::config::ProviderConfig| ProviderRecord {
            name: provider.name.clone(),
            promise: provider.promise,
            sources: Mutex::default(),
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "the judge keeps a clock of its own, apart from the engine's"
        )]
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            started: Instant::now(),
            started_unix_micros: u64::try_from(unix.as_micros()).unwrap_or(0),
            providers: config.providers.iter().map(provider).collect(),
            keys: config.record_keys.then(|| (0..SHARDS).map(|_| Mutex::default()).collect()),
            journal: config.journal.as_deref().map(open_journal).transpose()?,
            journal_failures: AtomicU64::new(0),
            forbidden: RwLock::default(),
            forbidden_seen: AtomicU64::new(0),
        })
    }

    /// Microseconds since the lab started.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Microseconds since the Unix epoch of a moment of [`Recorder::now`].
    pub(crate) const fn unix_micros(&self, now: u64) -> u64 {
        self.started_unix_micros.saturating_add(now)
    }

    /// Whether a journal is written.
    pub(crate) const fn has_journal(&self) -> bool {
        self.journal.is_some()
    }

    /// Whether keys are kept or journalled.
    pub(crate) const fn wants_keys(&self) -> bool {
        self.keys.is_some() || self.journal.is_some()
    }

    /// The name of the provider of this index.
    pub(crate) fn provider_name(&self, provider: usize) -> &str {
        &self.providers[provider].name
    }

    /// The record of a source at the provider of this index.
    pub(crate) fn source(&self, provider: usize, source: IpAddr) -> Arc<SourceRecord> {
        let mut sources = lock(&self.providers[provider].sources);
        let key = if sources.len() < MOST_SOURCES || sources.contains_key(&source) {
            source
        } else {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        };
        Arc::clone(sources.entry(key).or_default())
    }

    /// The connection limit that has been promised to the provider of this index.
    pub(crate) fn promised_connections(&self, provider: usize) -> Option<u32> {
        self.providers[provider].promise.max_connections
    }

    /// Notes the fate of a key.
    pub(crate) fn key(&self, key: u64, fate: Fate, source: &SourceRecord) {
        if fate == Fate::Dropped {
            source.possibly_delivered.fetch_add(1, Ordering::Relaxed);
        }
        let Some(shards) = &self.keys else { return };
        let mut shard = lock(&shards[(key >> 58) as usize % SHARDS]);
        let seen = shard.seen.entry(key).or_default();
        match fate {
            Fate::Accepted => seen.accepted = seen.accepted.saturating_add(1),
            Fate::Dropped => seen.dropped_before = true,
        }
    }

    /// Appends lines to the journal. They are with the operating system when this returns, so they
    /// outlive both the engine and the lab (not the machine).
    pub(crate) fn journal(&self, lines: &[u8]) {
        if let Some(journal) = &self.journal
            && let Err(fault) = lock(journal).write_all(lines)
            && self.journal_failures.fetch_add(1, Ordering::Relaxed) == 0
        {
            tracing::error!(%fault, "the journal cannot be written; it has gaps from here on");
        }
    }

    /// From now on nobody may write to these addresses.
    pub(crate) fn forbid<'a>(&self, addresses: impl Iterator<Item = &'a str>) {
        let mut forbidden = self.forbidden.write().unwrap_or_else(PoisonError::into_inner);
        forbidden.extend(addresses.map(|address| hash64_folded(0, address.as_bytes())));
    }

    /// A RCPT command.
    pub(crate) fn recipient(&self, recipient: &[u8]) {
        let forbidden = self.forbidden.read().unwrap_or_else(PoisonError::into_inner);
        if !forbidden.is_empty() && forbidden.contains(&hash64_folded(0, recipient)) {
            self.forbidden_seen.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The sums alone: no moment is looked at, so it is quick however much was seen.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for provider in &self.providers {
            for source in lock(&provider.sources).values() {
                counts.accepted += lock(&source.times).accepted.len() as u64;
                counts.open_connections += lock(&source.books).open;
                let replies = lock(&source.replies);
                let refused = replies.by_stage.iter().filter(|((stage, _), _)| *stage == "rcpt");
                counts.refused_recipients += refused.map(|(_, count)| count).sum::<u64>();
            }
        }
        counts
    }

    /// A snapshot of everything.
    pub(crate) fn report(&self, dns: DnsReport) -> Report {
        let providers: Vec<ProviderReport> =
            self.providers.iter().map(ProviderRecord::report).collect();
        let mut totals = Totals::default();
        for source in providers.iter().flat_map(|provider| &provider.sources) {
            totals.accepted += source.accepted;
            totals.possibly_delivered += source.possibly_delivered;
            totals.refused += source.refused_by_code.values().sum::<u64>();
            totals.connections += source.connections;
            totals.open_connections += source.open_connections;
        }
        Report {
            started_unix_millis: self.started_unix_micros / 1_000,
            elapsed_seconds: self.started.elapsed().as_secs_f64(),
            totals,
            duplicates: self.duplicates(),
            forbidden_recipients: self.forbidden_seen.load(Ordering::Relaxed),
            limit_violations: providers.iter().flat_map(violations).collect(),
            journal_write_failures: self.journal_failures.load(Ordering::Relaxed),
            dns,
            returns: ReturnReport::default(),
            providers,
        }
    }

    fn duplicates(&self) -> DuplicateReport {
        let Some(shards) = &self.keys else { return DuplicateReport::default() };
        let mut report = DuplicateReport { recorded: true, ..DuplicateReport::default() };
        for shard in shards {
            for seen in lock(shard).seen.values() {
                match seen.accepted {
                    0 => report.only_possibly_delivered += 1,
                    copies => {
                        report.unique_accepted += 1;
                        report.duplicated_keys += u64::from(copies > 1);
                        report.extra_copies += u64::from(copies - 1);
                        report.accepted_after_drop += u64::from(seen.dropped_before);
                    }
                }
            }
        }
        report
    }
}

fn open_journal(path: &Path) -> anyhow::Result<Mutex<File>> {
    let file = File::options()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot append to the journal {}", path.display()))?;
    Ok(Mutex::new(file))
}

impl ProviderRecord {
    fn report(&self) -> ProviderReport {
        let records: Vec<(IpAddr, Arc<SourceRecord>)> = {
            let sources = lock(&self.sources);
            sources.iter().map(|(source, record)| (*source, Arc::clone(record))).collect()
        };
        let mut sources: Vec<(IpAddr, SourceReport)> =
            records.iter().map(|(source, record)| (*source, record.report(*source))).collect();
        sources.sort_by_key(|(source, _)| *source);
        let sources: Vec<SourceReport> = sources.into_iter().map(|(_, report)| report).collect();
        let mut refused_by_code = BTreeMap::new();
        for (code, count) in sources.iter().flat_map(|source| &source.refused_by_code) {
            *refused_by_code.entry(*code).or_default() += count;
        }
        ProviderReport {
            name: self.name.clone(),
            promise: self.promise,
            accepted: sources.iter().map(|source| source.accepted).sum(),
            possibly_delivered: sources.iter().map(|source| source.possibly_delivered).sum(),
            refused_by_code,
            connections: sources.iter().map(|source| source.connections).sum(),
            sources,
        }
    }
}

fn violations(provider: &ProviderReport) -> Vec<LimitViolation> {
    let mut broken = Vec::new();
    let promise = &provider.promise;
    for source in &provider.sources {
        let seen = [
            ("max_connections", promise.max_connections, source.most_simultaneous_connections),
            (
                "max_messages_per_connection",
                promise.max_messages_per_connection,
                source.most_messages_on_one_connection,
            ),
            ("messages_per_hour", promise.messages_per_hour, source.most_messages_in_an_hour),
        ];
        for (limit, promised, seen) in seen {
            if let Some(promised) = promised
                && seen > u64::from(promised)
            {
                broken.push(LimitViolation {
                    provider: provider.name.clone(),
                    source: source.source.clone(),
                    limit,
                    promised,
                    seen,
                });
            }
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Sequence;

    fn naive(times: &[u64], window: u64) -> usize {
        let within =
            |start: u64| times.iter().filter(move |t| **t >= start && **t - start < window);
        times.iter().map(|start| within(*start).count()).max().unwrap_or(0)
    }

    #[test]
    fn the_sliding_maximum_agrees_with_counting_every_window() {
        let mut chance = Sequence::new(11);
        for round in 0..300 {
            let count = chance.below(60);
            let span = 1 + chance.below(2_000);
            let mut times: Vec<u64> = (0..count).map(|_| chance.below(span) as u64).collect();
            let window = 1 + chance.below(300) as u64;
            let wanted = naive(&times, window);
            assert_eq!(most_in_window(&mut times, window), wanted, "round {round}");
        }
        assert_eq!(most_in_window(&mut [0, 3_599, 3_600], 3_600), 2);
    }

    #[test]
    fn copies_and_drops_are_told_apart() {
        let config = LabConfig::default();
        let recorder = Recorder::new(&config).unwrap();
        let source = SourceRecord::default();
        let history: [(u64, &[Fate]); 5] = [
            (1, &[Fate::Accepted]),
            (2, &[Fate::Accepted, Fate::Accepted, Fate::Accepted]),
            (3, &[Fate::Dropped, Fate::Accepted]),
            (4, &[Fate::Dropped, Fate::Dropped]),
            (u64::MAX, &[Fate::Dropped, Fate::Accepted, Fate::Accepted]),
        ];
        for (key, fates) in history {
            fates.iter().for_each(|fate| recorder.key(key, *fate, &source));
        }
        assert_eq!(
            recorder.report(DnsReport::default()).duplicates,
            DuplicateReport {
                recorded: true,
                unique_accepted: 4,
                duplicated_keys: 2,
                extra_copies: 3,
                accepted_after_drop: 2,
                only_possibly_delivered: 1,
            }
        );
        assert_eq!(source.possibly_delivered.load(Ordering::Relaxed), 4);
    }
}
