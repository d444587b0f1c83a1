//! The commented configuration that `mailweir init` writes.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::Config;

/// What `mailweir init` found out about this machine.
#[derive(Clone, Debug)]
pub struct MachineFacts {
    /// Its full host name; without a dot or broken, a name is made up for people to replace.
    pub hostname: String,
    /// Its addresses. Those that no mail exchanger could answer to (loopback, link-local) should
    /// be left out by the caller; with none at all the example has one source on loopback.
    pub addresses: Vec<IpAddr>,
    /// Where queue, ledger and logs go.
    pub data_dir: String,
}

impl Config {
    /// The file of the VERP key that the example names, relative to the configuration's folder.
    /// Whoever writes the example must put a random key of at least 16 characters there.
    pub const EXAMPLE_KEY_FILE: &'static str = "return-path.key";

    /// A commented configuration for this machine. It is read without a fault once
    /// [`Config::EXAMPLE_KEY_FILE`] exists; every key that is not stated stands there as a comment
    /// with its default.
    #[must_use]
    pub fn example_for(machine: &MachineFacts) -> String {
        let hostname = match mail::address::Domain::parse(&machine.hostname) {
            Ok(name) if name.as_str().contains('.') => name.as_str().to_owned(),
            _ => "mail.example.com".to_owned(),
        };
        let domain = match hostname.split_once('.') {
            Some((_, parent)) if parent.contains('.') => parent.to_owned(),
            _ => hostname.clone(),
        };
        let addresses = match machine.addresses.as_slice() {
            [] => vec![IpAddr::from([127, 0, 0, 1])],
            addresses => addresses.to_vec(),
        };
        let mut text = HEAD.replace("%DATA%", &toml_text(&machine.data_dir));
        for (place, address) in addresses.iter().enumerate() {
            let id = place + 1;
            // Each public address has its own name; the first has the machine's.
            let helo = if place == 0 { hostname.clone() } else { format!("out{id}.{domain}") };
            write!(
                text,
                "\n[[source]]\npublic_id = {id}\naddress = \"{address}\"\nhelo = \"{helo}\"\n"
            )
            .expect("writing to a String cannot fail");
        }
        text.push_str(&TAIL.replace("%DOMAIN%", &domain).replace("%HOST%", &hostname));
        text
    }
}

/// A basic string of TOML.
fn toml_text(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

const HEAD: &str = r#"# Configuration of Mailweir. `mailweir check` proves it.
#
# A line that begins with `# key =` shows the default. Durations: "500ms", "30s", "10m", "1h", "5d".
# Secrets: { env = "NAME" } or { file = "path" }. Relative paths count from the folder of this file.

# Queue, ledger and logs. One process at a time.
data_dir = %DATA%

[node]
# Names this process in `mailweir stat show`, metrics and the queue.
# name = "node"

# Sources: our public IPs. One public_id, one public address, one HELO name.
#
# weight = 1                        its share among the sources of an affinity
# include_domains = ["*.example"]   only recipients' domains that match
# exclude_domains = ["*.example"]   never these
# messages_per_hour = 1000          at most so many over all targets
# public_address = "203.0.113.5"    what the world sees, if this machine is behind NAT
#
# Each HELO name must resolve to the public address, and the address back to the name.
"#;

const TAIL: &str = r#"
# Affinities: named sets of sources that a delivery may use. Without any there is "default" with all.
#
# [[affinity]]
# name = "newsletter"
# sources = "1,3-5"

[rules]
# Local MX rules; they come before the shipped ones.
# mx = "local-mx.toml"
# How hard the shipped figures are pressed: slow, normal, fast, very-fast, boost, custom.
# level = "normal"
# Messages per hour, source and provider at level normal for rules without a figure of their own.
# hourly_base = 2500

# Levels of single sources (at all providers) and of single rules (at all sources).
# [rules.levels.sources]
# "1,3-5" = "slow"
# [rules.levels.rules]
# "google" = "fast"
# Levels of affinities, and of sources at a rule. The most particular one wins.
# [rules.levels.affinities]
# "newsletter" = "slow"
# [rules.levels.sources_at_rules]
# "1,3-5 google" = "slow"

[warm_up]
# What the planner of levels may do without a person: none, falls (lower a level when a guard is breached), all.
# automatic = "falls"

[smtp_client]
# port = 25
# For rules that leave it open: opportunistic, required, disabled.
# tls = "opportunistic"
# When certificates must be valid: when-required, always, never.
# tls_verify = "when-required"
# Certificates (PEM) that are trusted in place of the system's.
# tls_roots = "roots.pem"
# How long a connection without work is kept.
# idle_timeout = "30s"
# max_connections_total = 2000
# pipelining = true
# chunking = true

[dns]
# Without servers those of the system are asked. A caching resolver on this machine is best.
# servers = ["127.0.0.1", "192.0.2.53:5353"]
# "auto": IPv6 addresses are looked up when a source has one; or "on", "off".
# ipv6 = "auto"
# query_timeout = "3s"
# attempts = 2
# route_timeout = "20s"
# max_lookups = 256
# cache_domains = 100000
# min_ttl = "5s"
# max_ttl = "1d"
# Names and addresses under which this machine takes mail itself: in an MX list they mean a loop.
# Without own_names: the HELO names and the host name of the submission listener.
# own_names = ["%HOST%"]
# own_addresses = []

# Relays: chosen domains go to given hosts in place of their MX. The first match wins.
#
# [[relay]]
# domains = ["example.com", "*.corp.example"]
# hosts = ["192.0.2.25", "relay.example.net"]
# port = 25
# lmtp = false
# tls = "opportunistic"

[safety]
# If not empty, connections go nowhere else.
# only_targets = ["127.0.0.0/8"]
# Loopback, private and link-local addresses in MX records are refused.
# allow_private_targets = false

# Where bounces come back to. Its MX must point to a host that takes them. The first key signs, all
# verify: put a new one in front, and remove the old one when its mail has expired.
[return_path]
domain = "bounce.%DOMAIN%"
keys = [{ file = "return-path.key" }]

[sender]
# The domain of the return path where there is no [return_path].
domain = "%DOMAIN%"
# One-click unsubscription (RFC 8058), and the mailbox for unsubscription by mail.
# unsubscribe_base_url = "https://news.example.com/unsubscribe/"
# unsubscribe_mailto = "unsubscribe@example.com"
# The sender identifier of Feedback-ID, 5 to 15 characters.
# feedback_id_sender = "example"

# DKIM: one section per key. Mail from the domain and below is signed with each that fits.
#
# [[dkim]]
# domain = "%DOMAIN%"
# selector = "s1"
# key_file = "dkim-s1.pem"
# algorithm = "auto"

# SMTP submission. Beyond loopback it needs users and TLS.
[submission]
# listen = ["127.0.0.1:2587"]
# hostname = "%HOST%"
# max_message_bytes = 26214400
# AUTH on loopback: "auto" (when there are users), "always", "beyond-loopback".
# require_auth = "auto"
# users = [
#   { name = "shop", password = { env = "MAILWEIR_SHOP_PASSWORD" }, affinity = "default", priority = "high" },
# ]
# tls_certificate = "tls.pem"
# tls_key = "tls-key.pem"

# Bounces, complaints and answers: taken for the domain of return_path, kept in data_dir until processed.
[inmail]
# SMTP listeners, such as "0.0.0.0:25", and LMTP listeners, such as "127.0.0.1:24" and "unix:lmtp.sock".
# There is no AUTH and no relaying. Let the MX of the domain point here, or poll a mailbox.
# listen = []
# lmtp = []
# hostname = "%HOST%"
# domains = ["bounce.%DOMAIN%"]
# max_message_bytes = 26214400
# max_connections = 200
# max_connections_per_peer = 20
# tls_certificate = "tls.pem"
# tls_key = "tls-key.pem"
# Files *.eml are picked up from here.
# spool = "spool"
# spool_period = "5s"
# Whom mail is sent to that could not be read.
# forward_to = "postmaster@%DOMAIN%"
# Mails waiting beyond which no more are taken; mails that could not be read, kept for people.
# backlog_files = 100000
# aside_files = 10000
# aside_bytes = 1073741824
# workers = 4
# A folder for copies of everything that comes, to look for a fault.
# dump = "dump"
# dump_files = 10000

# Mailboxes that are polled. Mail is deleted there when it is on the disk here.
#
# [[mailbox]]
# name = "bounces"
# protocol = "pop3"                 or "imap"
# encryption = "tls"                or "starttls", "none"
# server = "pop.%DOMAIN%"
# port = 995                        by default 995, 110, 993, 143
# user = "bounces"
# password = { env = "MAILWEIR_BOUNCES_PASSWORD" }
# folder = "INBOX"                  imap only
# enabled = true
# period = "5m"
# session_messages = 200
# session_time = "100s"
# timeout = "5m"
# ignore_size = false               pop3: fetch whole what is announced as too large
# tls_verify = true
# tls_roots = "roots.pem"

# What follows for addresses from what servers say about them.
[quarantine]
# false: quarantined addresses are written to all the same; denylist and suppression hold.
# enabled = true
# Errors count at most once in this time, and from the beginning after this quiet time.
# significance = "1d"
# reset_after = "10d"
# How long a report that proves nothing is still matched, to be counted as such.
# bounce_window = "7d"
# When the daily clean-up begins, after midnight UTC.
# clean_up_at = "3h"
# One section for each reason: user_unknown, account_disabled, mailbox_full, inactive_user, invalid_domain,
# refused, unreachable, error_ignored, complaint, not_defined. 0: never.
#
# [quarantine.mailbox_full]
# at = 3                            the error that quarantines
# at_when_soft = 0                  the same where the server only defers; 0: as `at`
# release_after = "30d"             "0s": not by itself
# denylist = false                  the first one denylists
#
# When a provider suddenly calls far more of its recipients unknown than usual, nobody is quarantined for it.
# [quarantine.outage_guard]
# enabled = true
# least_permille = 200
# times_usual = 5
# history = 500
# window = "1h"

[bounce_rules]
# Local bounce rules; they come before the shipped ones.
# file = "bounce.toml"

[reaction_rules]
# Local rules for what follows when a provider says that mail comes too fast; they come before the shipped ones.
# file = "reactions.toml"

[domain_rules]
# Local rules by recipient domain: DKIM selector, relay, TLS. They come before the shipped ones.
# file = "domains.toml"

[format_rules]
# Local rules by recipient domain: MIME structure and encodings. They come before the shipped ones.
# file = "formats.toml"

[deliverability]
# Public keys of the deliverability instance whose bundles of rules are applied, or their files; without
# one no bundle is.
# public_keys = []
# Where bundles are fetched from, and by which token the instance knows this client.
# url = "https://rules.example.net"
# token = { env = "MAILWEIR_INSTANCE_TOKEN" }
# tls_roots = "roots.pem"
# Local time of the daily synchronisation, or "never"; a client is late by the same part of the jitter every day.
# schedule = "06:00"
# jitter = "30m"
# Whether the instance may have a private address, and be spoken to without TLS.
# allow_private = false
# Whether texts of servers that nobody has qualified are sent there; addresses in them are masked.
# share_unknown_texts = false
# connect_timeout = "10s"
# read_timeout = "30s"
# total_timeout = "2m"
# max_bundle_bytes = 33554432

# HTTP API, metrics and health. Beyond loopback it needs tokens.
[http]
# listen = ["127.0.0.1:2580"]
# Roles: reader, sender, operator.
# tokens = [
#   { name = "shop", role = "sender", token = { env = "MAILWEIR_SHOP_TOKEN" } },
# ]

[retry]
# Pauses after the first, second, ... temporary failure, then the pause after every further one.
# steps = ["1h", "1h", "1h", "1h", "1h"]
# then_every = "1d"
# After a greylisting answer; from the same source.
# greylisted = "10m"
# jitter_percent = 10
# How long the messages of a delivery may be sent.
# validity = "5d"

# When almost all attempts of an MX group fail, its mail rests. messages = 0 switches it off.
[circuit_breaker]
# messages = 300
# error_percent = 90
# rest = "3h"

[limits]
# Messages held in memory by the engine; the backlog itself is in data_dir.
# window_messages = 50000
# part_messages = 256
# Beyond these, intake answers "try later".
# queue_messages = 50000000
# free_disk_bytes = 536870912
# memory_bytes = 1073741824
# content_bytes = 10485760
# message_bytes = 26214400
# merge_bytes = 65536
# Messages taken by servers whose outcomes are not on the disk; beyond, sending waits for the disk. A crash can repeat so many, and three for each connection.
# in_doubt_messages = 4000

[store]
# Days for which messages and deliveries are kept after their end; 0: for ever.
# keep_finished_days = 30
# Days for which the links and bounces of a message work that was sent; a hash of the address is kept for it.
# keep_hashes_days = 180

[log]
# One JSON line per attempt.
# delivery_log = "delivery.jsonl"
# rotate_bytes = 1073741824
# keep_files = 10
# level = "info"
# Form of the program's own log: text, json.
# format = "text"
"#;
