//! The configuration: one TOML file, read whole, checked whole.
//!
//! [`Config::load`] reads a file and [`Config::parse`] a text. Either everything is right and there
//! is a [`Config`] with every default filled in, or there is a list of *all* faults, each with file,
//! line, column, the line itself and, where it helps, what to write instead.
//!
//! What holds for every [`Config`]:
//! - each source has its own `public_id`, its own public address and its own HELO name;
//! - each affinity names only sources that exist, and there is one called `default`;
//! - no listener beyond loopback is without authentication, and no submission listener beyond
//!   loopback without TLS;
//! - every secret has been read; none is shown by `Debug` or in the picture of a fault;
//! - every relative path counts from the folder of the file and is already put together.
//!
//! What is not checked here: whether addresses belong to this machine, ports are free and DNS
//! records match. That needs the machine and the network, and is the work of `mailweir check`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use engine::work::RetrySchedule;
use engine::{Affinity, Source, Sources, SourcesFault};
use mail::address::Domain;
use mail::id::{Priority, SourceId};
use mail::mask::Mask;
use rules::{Diagnostic, Levels, TlsPolicy};

mod check;
mod deliverability;
mod example;
mod faults;
mod inmail;
pub mod network;
mod quarantine;
mod read;
mod secret;
mod sections;
pub mod target_policy;
#[cfg(test)]
mod tests;

pub use deliverability::{DeliverabilityConfig, InstanceConfig, RecipientRulesConfig};
pub use example::MachineFacts;
pub use inmail::{InmailConfig, LmtpAddress, MailboxConfig, MailboxProtocol};
pub use network::IpNetwork;
pub use quarantine::{BounceRulesConfig, QuarantineConfig, ReactionRulesConfig};
pub use read::SecretSource;
pub use secret::Secret;
pub use target_policy::{TargetPolicy, TargetRefused};

/// A larger file is refused unread.
pub const MAX_FILE_BYTES: u64 = 1 << 20;

/// Everything that the file says, with defaults for what it does not say.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder that relative paths were counted from.
    pub folder: PathBuf,
    /// `[node]`.
    pub node: NodeConfig,
    /// `data_dir`: queue, ledger and logs. One process at a time.
    pub data_dir: PathBuf,
    /// `[[source]]`, by rising `public_id`. Not empty.
    pub sources: Vec<SourceConfig>,
    /// `[[affinity]]`, with `default` among them.
    pub affinities: Vec<AffinityConfig>,
    /// `[rules]`.
    pub rules: RulesConfig,
    /// `[warm_up]`
    pub warm_up: WarmUpConfig,
    /// `[smtp_client]`.
    pub smtp_client: SmtpClientConfig,
    /// `[dns]`.
    pub dns: DnsConfig,
    /// `[[relay]]`, in the order of the file.
    pub relays: Vec<RelayConfig>,
    /// `[safety]`.
    pub safety: TargetPolicy,
    /// `[return_path]`; `None`: mail without a sender of its own cannot be accepted.
    pub return_path: Option<ReturnPathConfig>,
    /// `[sender]`.
    pub sender: SenderConfig,
    /// `[[dkim]]`, in the order of the file.
    pub dkim: Vec<DkimConfig>,
    /// `[submission]`.
    pub submission: SubmissionConfig,
    /// `[inmail]` and `[[mailbox]]`.
    pub inmail: InmailConfig,
    /// `[quarantine]`.
    pub quarantine: QuarantineConfig,
    /// `[bounce_rules]`.
    pub bounce_rules: BounceRulesConfig,
    /// `[reaction_rules]`.
    pub reaction_rules: ReactionRulesConfig,
    /// `[domain_rules]`.
    pub domain_rules: RecipientRulesConfig,
    /// `[format_rules]`.
    pub format_rules: RecipientRulesConfig,
    /// `[deliverability]`.
    pub deliverability: DeliverabilityConfig,
    /// `[http]`.
    pub http: HttpConfig,
    /// `[retry]`: the schedule.
    pub retry: RetrySchedule,
    /// `[retry] validity`: how long a delivery's messages may be sent unless it says otherwise.
    pub validity: Duration,
    /// `[circuit_breaker]`.
    pub circuit_breaker: CircuitBreakerConfig,
    /// `[limits]`.
    pub limits: LimitsConfig,
    /// `[store]`.
    pub store: StoreConfig,
    /// `[log]`.
    pub log: LogConfig,
}

/// `[node]`
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Names this process in `stat show`, metrics and the queue. Default: `node`.
    pub name: String,
}

/// `[[source]]`: one of our public IPs.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// Its number in rules, affinities and logs. From 1.
    pub id: SourceId,
    /// The local address that its connections are bound to.
    pub address: IpAddr,
    /// What the world sees: `public_address` (behind NAT), else `address`.
    pub public_address: IpAddr,
    /// What it says in EHLO.
    pub helo: Domain,
    /// Its share among the sources of an affinity. Default: 1.
    pub weight: u32,
    /// If not empty: only recipients' domains that match one of these.
    pub include_domains: Vec<Mask>,
    /// Never recipients' domains that match one of these.
    pub exclude_domains: Vec<Mask>,
    /// At most so many messages in any hour over all targets; `None`: only the rules limit it.
    pub messages_per_hour: Option<u32>,
}

/// `[[affinity]]`: a named set of sources that a delivery may use.
#[derive(Clone, Debug)]
pub struct AffinityConfig {
    /// Its name.
    pub name: String,
    /// Its sources, rising. Not empty.
    pub sources: Vec<SourceId>,
}

/// `[rules]`
#[derive(Clone, Debug, Default)]
pub struct RulesConfig {
    /// `mx`: a file of local MX rules; they come before the shipped ones.
    pub mx: Option<PathBuf>,
    /// `level` and `[rules.levels]`.
    pub levels: Levels,
}

/// What the planner of levels may do by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Automatic {
    /// Nothing: falls too wait for a person.
    None,
    /// Lower a level at once when a guard is breached; raises wait for a person.
    #[default]
    Falls,
    /// Raise too.
    All,
}

/// `[warm_up]`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WarmUpConfig {
    /// `automatic`: what the planner may do by itself.
    pub automatic: Automatic,
}

/// When the certificate of a server must be valid and name the MX host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVerify {
    /// Where the rule's TLS policy is `required`. Elsewhere a bad certificate is still better than
    /// plain text.
    #[default]
    WhenRequired,
    /// Always: a server with a bad certificate is treated as one without STARTTLS.
    Always,
    /// Never.
    Never,
}

/// `[smtp_client]`
#[derive(Clone, Debug)]
pub struct SmtpClientConfig {
    /// TCP port of mail exchangers. Default: 25.
    pub port: u16,
    /// For rules that leave it open. Never [`TlsPolicy::Default`]. Default: opportunistic.
    pub tls: TlsPolicy,
    /// Default: when required.
    pub tls_verify: TlsVerify,
    /// Certificates (PEM) that are trusted in place of the system's.
    pub tls_roots: Option<PathBuf>,
    /// How long a connection without work is kept. Default: 30 s.
    pub idle_timeout: Duration,
    /// Connections of this node at one time, over all targets. Default: 2,000.
    pub max_connections_total: u32,
    /// Whether commands are sent ahead of replies where the server offers it (RFC 2920).
    /// Default: true.
    pub pipelining: bool,
    /// Whether content is sent with BDAT where the server offers CHUNKING (RFC 3030).
    /// Default: true.
    pub chunking: bool,
}

/// `[dns] ipv6`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ipv6 {
    /// IPv6 addresses are looked up when a source has one.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// `[dns]`
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// `servers`; empty: those of the system (`/etc/resolv.conf`).
    pub servers: Vec<SocketAddr>,
    /// `ipv6`, decided: whether AAAA records are asked for.
    pub ipv6: bool,
    /// How long one question to one server may take. Default: 3 s.
    pub query_timeout: Duration,
    /// How often each server is asked before giving up. Default: 2.
    pub attempts: u32,
    /// How long a whole route may take. Default: 20 s.
    pub route_timeout: Duration,
    /// Questions under way at one time. Default: 256.
    pub max_lookups: usize,
    /// Domains kept in the cache. Default: 100,000.
    pub cache_domains: usize,
    /// Answers are kept at least so long, whatever their TTL. Default: 5 s.
    pub min_ttl: Duration,
    /// Answers are kept at most so long. Default: 1 d.
    pub max_ttl: Duration,
    /// Host names under which this node takes mail: found in an MX list, they mean a loop.
    /// Default: the HELO names and the host name of the submission listener.
    pub own_names: Vec<String>,
    /// Addresses under which this node takes mail. Default: none.
    pub own_addresses: Vec<IpAddr>,
}

impl Default for DnsConfig {
    /// The defaults of the fields, without own names and without IPv6.
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            ipv6: false,
            query_timeout: Duration::from_secs(3),
            attempts: 2,
            route_timeout: Duration::from_secs(20),
            max_lookups: 256,
            cache_domains: 100_000,
            min_ttl: Duration::from_secs(5),
            max_ttl: Duration::from_secs(86_400),
            own_names: Vec::new(),
            own_addresses: Vec::new(),
        }
    }
}

/// A host of a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelayHost {
    /// To be looked up (A and AAAA, no MX). Lower case, no final dot.
    Name(String),
    /// An address.
    Address(IpAddr),
}

/// `[[relay]]`: domains that go to given hosts in place of their MX.
#[derive(Clone, Debug)]
pub struct RelayConfig {
    /// Domains and masks: `example.com`, `*.corp.example`, `*`. The first relay that matches a
    /// domain wins.
    pub domains: Vec<Mask>,
    /// In order: the first has preference 0.
    pub hosts: Vec<RelayHost>,
    /// TCP port of all of them. Default: 25.
    pub port: u16,
    /// LMTP in place of SMTP.
    pub lmtp: bool,
    /// `None`: the rules decide.
    pub tls: Option<TlsPolicy>,
}

impl RelayConfig {
    /// Whether mail for this domain (in A-labels) goes here.
    #[must_use]
    pub fn matches(&self, domain: &str) -> bool {
        self.domains.iter().any(|mask| mask.matches(domain))
    }
}

/// `[return_path]`
#[derive(Clone, Debug)]
pub struct ReturnPathConfig {
    /// The domain that bounces come back to.
    pub domain: Domain,
    /// Keys of the MAC: the first signs, all verify. Not empty, each at least 16 octets.
    pub keys: Vec<Secret>,
}

/// `[sender]`: what messages carry besides their content.
#[derive(Clone, Debug, Default)]
pub struct SenderConfig {
    /// The domain of the return path where there is no `[return_path]`.
    pub domain: Option<Domain>,
    /// `https://...`: one-click unsubscription (RFC 8058). The token of the message is appended.
    pub unsubscribe_base_url: Option<String>,
    /// The mailbox for unsubscription by mail; `None`: an address of the return path.
    pub unsubscribe_mailto: Option<String>,
    /// The sender identifier at the end of Feedback-ID.
    pub feedback_id_sender: Option<String>,
}

/// `[[dkim]] algorithm`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DkimAlgorithm {
    /// What the key is.
    #[default]
    Auto,
    /// RSA with SHA-256.
    RsaSha256,
    /// Ed25519 with SHA-256 (RFC 8463).
    Ed25519Sha256,
}

/// `[[dkim]]`: one signature.
#[derive(Clone, Debug)]
pub struct DkimConfig {
    /// `d=`; mail from this domain and below is signed.
    pub domain: Domain,
    /// `s=`.
    pub selector: String,
    /// Private key, PEM. Exists.
    pub key_file: PathBuf,
    /// Default: what the key is.
    pub algorithm: DkimAlgorithm,
}

/// A user of the submission listener.
#[derive(Clone, Debug)]
pub struct SubmissionUser {
    /// The name given in AUTH.
    pub name: String,
    /// The password.
    pub password: Secret,
    /// The affinity of this user's mail. Exists. Default: `default`.
    pub affinity: String,
    /// The priority of this user's mail. Default: high, as for all single messages.
    pub priority: Priority,
}

/// `[submission]`
#[derive(Clone, Debug)]
pub struct SubmissionConfig {
    /// Empty: no listener. Default: 127.0.0.1:2587.
    pub listen: Vec<SocketAddr>,
    /// What the listener calls itself. Default: the HELO name of the first source.
    pub hostname: Domain,
    /// SIZE (RFC 1870). Default: 25 MiB.
    pub max_message_bytes: u64,
    /// Whether AUTH is needed on loopback too (beyond it: always). `require_auth = "auto"`: when
    /// there are users.
    pub require_auth_on_loopback: bool,
    /// Who may submit.
    pub users: Vec<SubmissionUser>,
    /// Certificate chain (PEM) and private key (PEM). Both exist.
    pub tls: Option<TlsFiles>,
}

/// A certificate chain and its key.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// `tls_certificate`, PEM.
    pub certificate: PathBuf,
    /// `tls_key`, PEM.
    pub key: PathBuf,
}

/// What the bearer of a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// See everything, change nothing.
    Reader,
    /// Also make deliveries and messages.
    Sender,
    /// Also pause, cancel, reload, repair.
    Operator,
}

/// A bearer token of the HTTP API.
#[derive(Clone, Debug)]
pub struct HttpToken {
    /// Who holds it; for logs.
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// The token.
    pub token: Secret,
}

/// `[http]`
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Empty: no listener. Default: 127.0.0.1:2580.
    pub listen: Vec<SocketAddr>,
    /// Empty: whoever reaches loopback may do everything. With any token, every request needs one.
    pub tokens: Vec<HttpToken>,
}

/// `[circuit_breaker]`: when an MX group fails almost always, its mail rests.
#[derive(Clone, Debug)]
pub struct CircuitBreakerConfig {
    /// Attempts before it may open. 0: it never does. Default: 300.
    pub messages: u32,
    /// Share of failures at which it opens. Default: 90.
    pub error_percent: u8,
    /// How long it stays open. Default: 3 h.
    pub rest: Duration,
}

/// `[limits]`
#[derive(Clone, Debug)]
pub struct LimitsConfig {
    /// Messages held in memory by the engine, over all MX groups. Default: 50,000.
    pub window_messages: usize,
    /// Messages leased from the store at one time for one MX group, at most 256. Default: 256.
    pub part_messages: usize,
    /// Queued messages beyond which intake answers "try later". Default: 50,000,000.
    pub queue_messages: u64,
    /// Free bytes on the disk of `data_dir` below which intake answers "try later".
    /// Default: 512 MiB.
    pub free_disk_bytes: u64,
    /// Size of a delivery's content. Default: 10 MiB.
    pub content_bytes: u64,
    /// Size of one rendered message. Default: 25 MiB.
    pub message_bytes: u64,
    /// Size of one recipient's merge data. Default: 64 KiB.
    pub merge_bytes: u64,
    /// Resident memory of the process beyond which intake answers "try later". Default: 1 GiB.
    pub memory_bytes: u64,
    /// Messages that servers have taken and whose outcomes are not on the disk, beyond which no other is begun: what a
    /// crash can repeat, but for three on each connection. Default: 4,000.
    pub in_doubt_messages: usize,
}

/// `[store]`
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Days for which messages and deliveries are kept after their end. 0: for ever. Default: 30.
    pub keep_finished_days: u32,
    /// Days from its acceptance for which is kept, as a hash, to whom a message was sent that is forgotten: so
    /// long its links and bounces are understood. Default: 180.
    pub keep_hashes_days: u32,
}

/// The form of the program's own log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// `[log]`
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// One JSON line per attempt. Default: `delivery.jsonl` in `data_dir`.
    pub delivery_log: PathBuf,
    /// Whether there is a delivery log at all. No key of the file takes it away, because audit and dry runs read it; a
    /// benchmark does, to learn what it costs.
    pub record_attempts: bool,
    /// Size at which the delivery log is rotated. Default: 1 GiB.
    pub rotate_bytes: u64,
    /// Rotated files that are kept. Default: 10.
    pub keep_files: u32,
    /// Directives of the program's own log, as `tracing` reads them. Default: `info`.
    pub level: String,
    /// Form of the program's own log. Default: text.
    pub format: LogFormat,
}

/// Why there is no configuration.
#[derive(Debug)]
pub enum ConfigError {
    /// The file could not be read; a sentence with its path.
    Unreadable(String),
    /// It was read and is wrong. Not empty, in the order of the text.
    Faults(Vec<Diagnostic>),
}

impl fmt::Display for ConfigError {
    /// Everything, with pictures, over many lines.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(why) => out.write_str(why),
            Self::Faults(faults) => {
                for fault in faults {
                    writeln!(out, "{}\n", fault.render())?;
                }
                let plural = if faults.len() == 1 { "" } else { "s" };
                write!(
                    out,
                    "{} fault{plural} in the configuration; nothing was started",
                    faults.len()
                )
            }
        }
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError::Unreadable`] when it cannot be read (missing, no regular file, over 1 MiB, not
    /// UTF-8); [`ConfigError::Faults`] with everything that is wrong in it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let shown = path.display();
        let unreadable = |why: &dyn fmt::Display| {
            ConfigError::Unreadable(format!("cannot read the configuration {shown}: {why}"))
        };
        let about = std::fs::metadata(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                unreadable(&"there is no such file (`mailweir init` writes one)")
            }
            _ => unreadable(&error),
        })?;
        if !about.is_file() {
            return Err(unreadable(&"not a regular file"));
        }
        if about.len() > MAX_FILE_BYTES {
            return Err(unreadable(&format_args!("larger than {MAX_FILE_BYTES} bytes")));
        }
        let bytes = std::fs::read(path).map_err(|error| unreadable(&error))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count();
            unreadable(&format_args!("line {line} is not UTF-8 text"))
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, &shown.to_string(), folder)
    }

    /// Reads and checks a text. `file` names it in faults; relative paths count from `folder`.
    /// Secrets are read from the environment of the process and from files.
    ///
    /// # Errors
    /// [`ConfigError::Faults`] with everything that is wrong in it.
    pub fn parse(text: &str, file: &str, folder: &Path) -> Result<Self, ConfigError> {
        Self::parse_with(text, file, folder, &|source| match source {
            SecretSource::Variable(name) => match std::env::var(name) {
                Ok(value) if !value.is_empty() => Ok(Secret::new(&value)),
                Ok(_) => Err(format!("the environment variable {name} is empty")),
                Err(std::env::VarError::NotPresent) => {
                    Err(format!("the environment variable {name} is not set"))
                }
                Err(std::env::VarError::NotUnicode(_)) => {
                    Err(format!("the environment variable {name} is not UTF-8 text"))
                }
            },
            SecretSource::File(path) => Secret::from_file(&folder.join(path)),
        })
    }

    /// Like [`Config::parse`], with secrets from `secrets`.
    ///
    /// # Errors
    /// [`ConfigError::Faults`] with everything that is wrong in it.
    pub fn parse_with(
        text: &str,
        file: &str,
        folder: &Path,
        secrets: &dyn Fn(SecretSource<'_>) -> Result<Secret, String>,
    ) -> Result<Self, ConfigError> {
        sections::read(text, file, folder, secrets).map_err(ConfigError::Faults)
    }

    /// Reads `[quarantine]` of a configuration, or of a file that has nothing else; the rest is not looked at.
    ///
    /// # Errors
    /// [`ConfigError::Faults`]: it is not there, or has faults.
    pub fn parse_quarantine(text: &str, file: &str) -> Result<QuarantineConfig, ConfigError> {
        sections::read_quarantine_alone(text, file).map_err(ConfigError::Faults)
    }

    /// Sources and affinities as the engine chooses among them.
    ///
    /// # Errors
    /// They do not fit together.
    pub fn routing_sources(&self) -> Result<Sources, SourcesFault> {
        let source = |source: &SourceConfig| Source {
            id: source.id,
            weight: source.weight,
            include_domains: source.include_domains.clone(),
            exclude_domains: source.exclude_domains.clone(),
            ipv6: source.address.is_ipv6(),
        };
        let affinity = |affinity: &AffinityConfig| Affinity {
            name: affinity.name.clone(),
            sources: affinity.sources.clone(),
        };
        Sources::new(
            self.sources.iter().map(source).collect(),
            self.affinities.iter().map(affinity).collect(),
        )
    }

    /// The sources of an affinity, in the order of their ids; `None`: there is no such affinity.
    #[must_use]
    pub fn sources_of(&self, affinity: &str) -> Option<Vec<&SourceConfig>> {
        let affinity = self.affinities.iter().find(|found| found.name == affinity)?;
        let by_id: BTreeMap<SourceId, &SourceConfig> =
            self.sources.iter().map(|source| (source.id, source)).collect();
        Some(affinity.sources.iter().filter_map(|id| by_id.get(id).copied()).collect())
    }

    /// The first relay for a domain (in A-labels).
    #[must_use]
    pub fn relay_for(&self, domain: &str) -> Option<&RelayConfig> {
        self.relays.iter().find(|relay| relay.matches(domain))
    }
}
