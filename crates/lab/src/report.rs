//! What the receiving side saw, as one value that serialises to JSON.
//!
//! All counts are of the lab's own making: it reads no log of the engine and shares no code with
//! it. A report is a snapshot; taking one does not disturb the traffic beyond short locks.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::config::Promise;
use crate::wording::Situation;

/// Everything that was seen since the lab started.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// When the lab started, in milliseconds since the Unix epoch.
    pub started_unix_millis: u64,
    /// Seconds since then.
    pub elapsed_seconds: f64,
    /// All providers together.
    pub totals: Totals,
    /// Messages seen more than once, and those whose fate the sender could not know.
    pub duplicates: DuplicateReport,
    /// RCPT commands for addresses that must not be written to ([`crate::Lab::watch_for`]).
    pub forbidden_recipients: u64,
    /// Broken promises; empty when all limits were kept.
    pub limit_violations: Vec<LimitViolation>,
    /// Writes to the journal that failed; above 0 the journal has gaps.
    pub journal_write_failures: u64,
    /// The DNS server.
    pub dns: DnsReport,
    /// What was sent back.
    pub returns: ReturnReport,
    /// Each provider, in the order of the configuration.
    pub providers: Vec<ProviderReport>,
}

impl Report {
    /// The provider of this name.
    #[must_use]
    pub fn provider(&self, name: &str) -> Option<&ProviderReport> {
        self.providers.iter().find(|provider| provider.name == name)
    }

    /// Whether every promise was kept.
    #[must_use]
    pub fn limits_held(&self) -> bool {
        self.limit_violations.is_empty()
    }
}

/// The few sums that somebody who waits asks for again and again ([`crate::Lab::counts`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// As [`Totals::accepted`].
    pub accepted: u64,
    /// Replies of class 4 and 5 to RCPT.
    pub refused_recipients: u64,
    /// As [`Totals::open_connections`].
    pub open_connections: u64,
}

/// Sums over all providers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Recipients whose message was taken with a 250 after the dot.
    pub accepted: u64,
    /// Recipients whose message was taken in whole and the connection dropped without a reply.
    pub possibly_delivered: u64,
    /// Replies of class 4 and 5, at any stage.
    pub refused: u64,
    /// Connections opened, refused ones included.
    pub connections: u64,
    /// Connections open now.
    pub open_connections: u64,
}

/// Messages by key. The key of a copy is its `X-Mailweir-Id` header, or else its `Message-ID`,
/// together with the recipient; a message with neither is known by its recipient alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DuplicateReport {
    /// Whether keys were recorded at all.
    pub recorded: bool,
    /// Different keys that were accepted at least once.
    pub unique_accepted: u64,
    /// Keys accepted more than once.
    pub duplicated_keys: u64,
    /// Acceptances beyond the first of each key.
    pub extra_copies: u64,
    /// Keys that were accepted after an earlier copy was "possibly delivered"; not counted above
    /// unless accepted twice.
    pub accepted_after_drop: u64,
    /// Different keys that were only ever "possibly delivered".
    pub only_possibly_delivered: u64,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LimitViolation {
    /// The provider.
    pub provider: String,
    /// The source address.
    pub source: String,
    /// The limit: `max_connections`, `max_messages_per_connection` or `messages_per_hour`.
    pub limit: &'static str,
    /// What was promised.
    pub promised: u32,
    /// The most that was seen.
    pub seen: u64,
}

/// One provider.
#[derive(Clone, Debug, Serialize)]
pub struct ProviderReport {
    /// Its name.
    pub name: String,
    /// What senders promised it.
    pub promise: Promise,
    /// Recipients whose message was taken.
    pub accepted: u64,
    /// Recipients whose message was taken and the connection dropped.
    pub possibly_delivered: u64,
    /// Replies of class 4 and 5 by code, at any stage.
    pub refused_by_code: BTreeMap<u16, u64>,
    /// Connections opened.
    pub connections: u64,
    /// Each source, by address.
    pub sources: Vec<SourceReport>,
}

/// One source at one provider.
#[derive(Clone, Debug, Serialize)]
pub struct SourceReport {
    /// The source address.
    pub source: String,
    /// Recipients whose message was taken.
    pub accepted: u64,
    /// Recipients whose message was taken and the connection dropped.
    pub possibly_delivered: u64,
    /// Replies of class 4 and 5 by code.
    pub refused_by_code: BTreeMap<u16, u64>,
    /// The same by stage and code, such as `rcpt 550`.
    pub refused_by_stage: BTreeMap<String, u64>,
    /// Connections opened.
    pub connections: u64,
    /// Of these, with TLS.
    pub connections_with_tls: u64,
    /// Connections open now.
    pub open_connections: u64,
    /// Most connections open at any instant.
    pub most_simultaneous_connections: u64,
    /// MAIL commands in all.
    pub mail_commands: u64,
    /// Most MAIL commands on one connection.
    pub most_messages_on_one_connection: u64,
    /// Most messages accepted on one connection.
    pub most_accepted_on_one_connection: u64,
    /// Most MAIL commands in any 3,600 consecutive seconds.
    pub most_messages_in_an_hour: u64,
    /// Most messages accepted in any 3,600 consecutive seconds.
    pub most_accepted_in_an_hour: u64,
    /// Octets of message data received.
    pub data_octets: u64,
    /// What the client did against the protocol, by kind.
    pub faults: BTreeMap<&'static str, u64>,
}

/// Mail that was sent back to return paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReturnReport {
    /// Late bounces that the listener took.
    pub bounces: u64,
    /// The same by what they say.
    pub bounces_by_cause: BTreeMap<Situation, u64>,
    /// Complaints that it took.
    pub complaints: u64,
    /// Out-of-office replies that it took.
    pub out_of_office: u64,
    /// Refused by it for good.
    pub refused: u64,
    /// Given up after several tries.
    pub failed: u64,
    /// Never tried, because too many waited.
    pub dropped: u64,
    /// Still to be sent, or just being sent.
    pub waiting: u64,
}

impl ReturnReport {
    /// What the listener took, of all kinds.
    #[must_use]
    pub const fn taken(&self) -> u64 {
        self.bounces + self.complaints + self.out_of_office
    }
}

/// The DNS server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DnsReport {
    /// Queries received.
    pub queries: u64,
    /// Of these, over TCP.
    pub queries_over_tcp: u64,
    /// Of these, for MX.
    pub queries_for_mx: u64,
    /// Of these, for A or AAAA.
    pub queries_for_addresses: u64,
    /// Answers given.
    pub answered: u64,
    /// Queries dropped by a fault that was switched on.
    pub dropped: u64,
    /// Answers "no such name".
    pub no_such_name: u64,
    /// Queries that could not be read.
    pub malformed: u64,
}
