//! Every bound and pause of the engine, by name.

use core::time::Duration;

/// The circuit breaker of an MX group (DESIGN 5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Judged after so many messages; 0: never.
    pub messages: u32,
    /// Opened when at least this share of them failed, 1 to 100.
    pub error_percent: u8,
    /// How long it stays open.
    pub rest: Duration,
}

impl Default for BreakerSettings {
    /// 300 messages, 90 %, 3 hours: the figures of the system that this one replaces.
    fn default() -> Self {
        Self { messages: 300, error_percent: 90, rest: Duration::from_secs(3 * 3_600) }
    }
}

/// Bounds and pauses of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Messages claimed and not yet assigned or settled, over all MX groups.
    pub window_messages_max: usize,
    /// The same for one MX group and priority.
    pub group_window_messages_max: usize,
    /// Domains with backlog held in memory; the rest is found again by asking the store.
    pub domains_max: usize,
    /// Connections open or being opened, over all paths.
    pub connections_max: usize,
    /// Messages handed to one connection ahead of their sending, at most.
    pub assigned_per_connection_max: u32,
    /// Messages claimed in one part (DESIGN 4.3), at most 256.
    pub claim_messages_max: u32,
    /// Tokens asked for in one lot, at least.
    pub lot_tokens_min: u32,
    /// An idle connection is closed after this time.
    pub idle_timeout: Duration,
    /// First rest of a path after a failure; doubled each time.
    pub path_rest_first: Duration,
    /// Longest rest of a path.
    pub path_rest_max: Duration,
    /// After TLS failed a path is used without TLS for this long (opportunistic only).
    pub broken_tls_pause: Duration,
    /// The same after TLS failed for the third time in a row.
    pub broken_tls_remembered: Duration,
    /// After a server did not know BDAT, though it offers CHUNKING, a path is used without for this long.
    pub broken_chunking_remembered: Duration,
    /// The same after a session was lost, or its time was over, amid a message.
    pub doubted_chunking_pause: Duration,
    /// Pause before a domain is looked up again after a temporary DNS failure; longer by itself each time, up to
    /// ten times.
    pub dns_retry: Duration,
    /// Pause after a message could not be prepared for a fault of this machine.
    pub prepare_retry: Duration,
    /// Pause after MAIL FROM itself was refused.
    pub sender_refused_pause: Duration,
    /// How often the store is asked for domains with due mail that the engine does not know of.
    pub scan_interval: Duration,
    /// How often a stream's messages are checked for the end of their validity.
    pub stream_expiry_interval: Duration,
    /// The circuit breaker.
    pub breaker: BreakerSettings,
    /// TLS where a rule leaves it open; not [`rules::TlsPolicy::Default`], which counts as opportunistic.
    pub default_tls: rules::TlsPolicy,
    /// Seed of the engine's generator.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            window_messages_max: 60_000,
            group_window_messages_max: 4_096,
            domains_max: 100_000,
            connections_max: 4_000,
            assigned_per_connection_max: 64,
            claim_messages_max: 256,
            lot_tokens_min: 10,
            idle_timeout: Duration::from_secs(5),
            path_rest_first: Duration::from_secs(4),
            path_rest_max: Duration::from_secs(600),
            broken_tls_pause: Duration::from_secs(600),
            broken_tls_remembered: Duration::from_secs(3 * 86_400),
            broken_chunking_remembered: Duration::from_secs(3 * 86_400),
            doubted_chunking_pause: Duration::from_secs(3_600),
            dns_retry: Duration::from_secs(60),
            prepare_retry: Duration::from_secs(30),
            sender_refused_pause: Duration::from_secs(600),
            scan_interval: Duration::from_secs(5),
            stream_expiry_interval: Duration::from_secs(600),
            breaker: BreakerSettings::default(),
            default_tls: rules::TlsPolicy::Opportunistic,
            seed: 1,
        }
    }
}
