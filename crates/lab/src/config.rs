//! What a lab is made of: its DNS, its providers and their MX hosts, and what is recorded.
//!
//! Read from TOML ([`LabConfig::from_toml`]) or built in code; either way [`LabConfig::check`] runs
//! before anything is opened, and it refuses each address outside 127.0.0.0/8, so a lab can neither
//! be reached from outside nor lead a sender outside.
//!
//! ```toml
//! dns = "127.0.0.1:5353"
//! port = 2525
//! null_mx = ["nomail.example"]
//!
//! [[provider]]
//! name = "google"
//! domains = ["gmail.com", "*.campaign-a.example"]
//! wording = "google"
//! mood = { unknown_users = 0.02, starttls = "good" }
//! promise = { max_connections = 5 }
//! [[provider.mx]]
//! host = "gmail-smtp-in.l.google.com"
//! preference = 5
//! addresses = ["127.1.0.1"]
//! ```

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::mood::Mood;
use crate::returns::ReturnsConfig;
use crate::span::Span;
use crate::wording::Wording;

/// A whole lab.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LabConfig {
    /// Where the DNS server listens, UDP and TCP. Port 0 picks a free one.
    pub dns: SocketAddr,
    /// The one port of all MX hosts. 0 picks one that is free on all their addresses.
    pub port: u16,
    /// Threads that serve connections; 0 takes one per core, at most four.
    pub threads: usize,
    /// Connections open at once over the whole lab; more are closed unheard.
    pub max_connections: usize,
    /// A connection on which nothing arrives for so long is closed with 421.
    pub idle_timeout: Span,
    /// Moves every chance in the lab: which addresses are unknown, full, put off.
    pub seed: u64,
    /// Whether message keys are kept, to find duplicates. About 20 octets a message.
    pub record_keys: bool,
    /// Whether message data is examined for bare CR or LF and over-long lines.
    pub inspect_data: bool,
    /// JSON lines, one per accepted message, appended before the sender hears 250.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub journal: Option<PathBuf>,
    /// Life of positive DNS answers in seconds, where a provider states no other.
    pub ttl: u32,
    /// Life of negative DNS answers in seconds.
    pub negative_ttl: u32,
    /// Domains with a null MX (RFC 7505).
    pub null_mx: Vec<String>,
    /// Names that do not exist, whatever else would match. Every name that nothing in this
    /// configuration matches does not exist either.
    pub nxdomain: Vec<String>,
    /// Names that are answered with SERVFAIL.
    pub servfail: Vec<String>,
    /// Faults of the DNS server.
    pub dns_faults: DnsFaults,
    /// Where late bounces, complaints and replies are sent; absent: nowhere, whatever the moods say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub returns: Option<ReturnsConfig>,
    /// Aliases.
    pub cname: Vec<Alias>,
    /// Sending hosts: forward and reverse names for the sources of the engine under judgement.
    pub source: Vec<SourceName>,
    /// TXT records (SPF, DKIM and the like).
    pub txt: Vec<TextRecord>,
    /// The providers.
    #[serde(rename = "provider")]
    pub providers: Vec<ProviderConfig>,
}

impl Default for LabConfig {
    fn default() -> Self {
        Self {
            dns: SocketAddr::from(([127, 0, 0, 1], 0)),
            port: 0,
            threads: 0,
            max_connections: 20_000,
            idle_timeout: Span::from_secs(300),
            seed: 1,
            record_keys: true,
            inspect_data: true,
            journal: None,
            ttl: 300,
            negative_ttl: 60,
            null_mx: Vec::new(),
            nxdomain: Vec::new(),
            servfail: Vec::new(),
            dns_faults: DnsFaults::default(),
            returns: None,
            cname: Vec::new(),
            source: Vec::new(),
            txt: Vec::new(),
            providers: Vec::new(),
        }
    }
}

/// A mailbox provider: its domains, its MX hosts, how they behave and what senders promise it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProviderConfig {
    /// Its name in reports; unique.
    pub name: String,
    /// Mail domains: exact names, or `*.suffix` for every name below a suffix.
    pub domains: Vec<String>,
    /// Domains without an MX record that have the addresses of the first MX host as their own A
    /// records (the implicit MX of RFC 5321 section 5.1).
    pub implicit_mx: Vec<String>,
    /// Life of its DNS answers in seconds; the lab's when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u32>,
    /// Its way of speaking.
    pub wording: Wording,
    /// Its weight in generated campaigns ([`crate::internet::recipients`]).
    pub share: f64,
    /// How its hosts behave.
    pub mood: Mood,
    /// What senders have promised to keep towards it; broken promises are in the report.
    pub promise: Promise,
    /// Its MX hosts.
    pub mx: Vec<MxConfig>,
}

/// An MX host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MxConfig {
    /// Its name.
    pub host: String,
    /// Preference in the MX record; lower is tried first.
    pub preference: u16,
    /// Its addresses, within 127.0.0.0/8. Hosts of one provider may share addresses.
    pub addresses: Vec<Ipv4Addr>,
    /// The domains of the provider that name this host; all of them when empty.
    pub domains: Vec<String>,
}

/// Limits per source that a sender is bound to keep. Kept limits say nothing; broken ones are
/// reported, whatever the mood lets pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Promise {
    /// Connections open at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// MAIL commands on one connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_messages_per_connection: Option<u32>,
    /// MAIL commands in any 3,600 consecutive seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages_per_hour: Option<u32>,
}

/// An alias in the DNS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alias {
    /// The alias.
    pub name: String,
    /// What it stands for.
    pub target: String,
}

/// A sending host: A and PTR record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceName {
    /// Its address, within 127.0.0.0/8.
    pub address: Ipv4Addr,
    /// Its name.
    pub name: String,
}

/// A TXT record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextRecord {
    /// Its owner.
    pub name: String,
    /// Its text; cut into strings of 255 octets as needed.
    pub text: String,
}

/// Faults of the DNS server, switchable at run time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DnsFaults {
    /// Wait before each answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Span>,
    /// Share of the UDP queries that are never answered.
    pub drop_share: f64,
    /// Share of the UDP answers that carry a wrong id.
    pub wrong_id_share: f64,
    /// Every query is answered with SERVFAIL.
    pub servfail: bool,
    /// Every UDP answer is truncated, so that TCP must be used.
    pub truncate: bool,
}

impl DnsFaults {
    /// Whether the shares are shares.
    ///
    /// # Errors
    /// A share outside 0..=1.
    pub fn check(&self) -> anyhow::Result<()> {
        for (name, share) in
            [("drop_share", self.drop_share), ("wrong_id_share", self.wrong_id_share)]
        {
            ensure!((0.0..=1.0).contains(&share), "dns_faults.{name} = {share} is not from 0 to 1");
        }
        Ok(())
    }
}

impl LabConfig {
    /// A configuration from its TOML text, checked.
    ///
    /// # Errors
    /// A fault of the text with its line and column, or of the content with the provider's name.
    pub fn from_toml(text: &str) -> anyhow::Result<Self> {
        let config: Self = toml::from_str(text).map_err(|fault| anyhow::anyhow!("{fault}"))?;
        config.check()?;
        Ok(config)
    }

    /// A configuration from a file, checked.
    ///
    /// # Errors
    /// The file cannot be read, or as [`LabConfig::from_toml`].
    pub fn from_file(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the lab configuration {}", path.display()))?;
        Self::from_toml(&text).with_context(|| format!("in {}", path.display()))
    }

    /// The provider of this name.
    #[must_use]
    pub fn provider(&self, name: &str) -> Option<&ProviderConfig> {
        self.providers.iter().find(|provider| provider.name == name)
    }

    /// The provider of this name, to be changed before the lab starts.
    pub fn provider_mut(&mut self, name: &str) -> Option<&mut ProviderConfig> {
        self.providers.iter_mut().find(|provider| provider.name == name)
    }

    /// Whether a lab can be made of this.
    ///
    /// # Errors
    /// The first fault found: an address outside 127.0.0.0/8, a name given twice or to two
    /// owners, a provider without hosts, a mood that contradicts itself.
    pub fn check(&self) -> anyhow::Result<()> {
        let SocketAddr::V4(dns) = self.dns else {
            bail!("dns = \"{}\": the lab speaks on 127.0.0.0/8 only", self.dns)
        };
        check_address(*dns.ip(), "dns")?;
        ensure!(
            (1..=1_000_000).contains(&self.max_connections),
            "max_connections = {} is not from 1 to 1,000,000",
            self.max_connections
        );
        ensure!(self.threads <= 64, "threads = {} is more than 64", self.threads);
        ensure!(!self.idle_timeout.0.is_zero(), "idle_timeout = 0 closes every connection at once");
        self.dns_faults.check()?;
        if let Some(returns) = &self.returns {
            returns.check()?;
        }
        let mut owners = Owners::default();
        for provider in &self.providers {
            provider.check(&mut owners).with_context(|| format!("provider `{}`", provider.name))?;
        }
        for (list, names) in
            [("null_mx", &self.null_mx), ("nxdomain", &self.nxdomain), ("servfail", &self.servfail)]
        {
            for name in names {
                check_name(name, false).context(list)?;
            }
        }
        for name in &self.null_mx {
            owners.claim_domain(name, "null_mx")?;
        }
        for alias in &self.cname {
            check_name(&alias.name, false).context("cname.name")?;
            check_name(&alias.target, false).context("cname.target")?;
            owners.claim_domain(&alias.name, "cname")?;
        }
        for source in &self.source {
            check_address(source.address, "source.address")?;
            check_name(&source.name, false).context("source.name")?;
        }
        for record in &self.txt {
            check_name(&record.name, false).context("txt.name")?;
            ensure!(record.text.len() <= 4_000, "txt of `{}` is over 4,000 octets", record.name);
        }
        Ok(())
    }
}

/// Who owns each domain and address, to refuse two owners.
#[derive(Default)]
struct Owners {
    providers: HashMap<String, ()>,
    domains: HashMap<String, String>,
    addresses: HashMap<Ipv4Addr, String>,
    hosts: HashMap<String, String>,
}

impl Owners {
    fn claim_domain(&mut self, domain: &str, owner: &str) -> anyhow::Result<()> {
        if let Some(first) = self.domains.insert(domain.to_ascii_lowercase(), owner.to_owned()) {
            bail!("the domain `{domain}` is given twice: to `{first}` and to `{owner}`");
        }
        Ok(())
    }
}

impl ProviderConfig {
    fn check(&self, owners: &mut Owners) -> anyhow::Result<()> {
        ensure!(!self.name.is_empty() && self.name.len() <= 64, "a name of 1 to 64 octets is due");
        ensure!(
            owners.providers.insert(self.name.clone(), ()).is_none(),
            "two providers bear this name"
        );
        ensure!(!self.mx.is_empty(), "it has no [[provider.mx]]");
        ensure!(
            self.share.is_finite() && self.share >= 0.0,
            "share = {} is no weight: use 0 or more",
            self.share
        );
        self.mood.check().map_err(|fault| anyhow::anyhow!("mood: {fault}"))?;
        let promise = &self.promise;
        for (name, limit) in [
            ("max_connections", promise.max_connections),
            ("max_messages_per_connection", promise.max_messages_per_connection),
            ("messages_per_hour", promise.messages_per_hour),
        ] {
            ensure!(limit != Some(0), "promise.{name} = 0 cannot be kept by any sender");
        }
        for domain in &self.domains {
            check_name(domain, true)?;
            owners.claim_domain(domain, &self.name)?;
        }
        for domain in &self.implicit_mx {
            check_name(domain, false)?;
            owners.claim_domain(domain, &self.name)?;
        }
        for mx in &self.mx {
            self.check_mx(mx, owners).with_context(|| format!("mx `{}`", mx.host))?;
        }
        for domain in &self.domains {
            ensure!(
                self.hosts_of(domain).next().is_some(),
                "no MX host serves the domain `{domain}`: give one without `domains`, or name it"
            );
        }
        Ok(())
    }

    fn check_mx(&self, mx: &MxConfig, owners: &mut Owners) -> anyhow::Result<()> {
        check_name(&mx.host, false)?;
        if let Some(first) = owners.hosts.insert(mx.host.to_ascii_lowercase(), self.name.clone()) {
            bail!("the host is given twice, first by provider `{first}`");
        }
        ensure!(!mx.addresses.is_empty(), "it has no addresses");
        ensure!(mx.addresses.len() <= 64, "it has more than 64 addresses");
        for address in &mx.addresses {
            check_address(*address, "addresses")?;
            let owner = owners.addresses.entry(*address).or_insert_with(|| self.name.clone());
            ensure!(*owner == self.name, "{address} belongs to provider `{owner}` already");
        }
        for domain in &mx.domains {
            ensure!(
                self.domains.iter().any(|known| known.eq_ignore_ascii_case(domain)),
                "`{domain}` is not among the provider's domains"
            );
        }
        Ok(())
    }

    /// The MX hosts that a domain of this provider names.
    pub(crate) fn hosts_of<'a>(&'a self, domain: &'a str) -> impl Iterator<Item = &'a MxConfig> {
        self.mx.iter().filter(move |mx| {
            mx.domains.is_empty()
                || mx.domains.iter().any(|named| named.eq_ignore_ascii_case(domain))
        })
    }
}

fn check_address(address: Ipv4Addr, place: &str) -> anyhow::Result<()> {
    ensure!(
        address.is_loopback(),
        "{place}: {address} is outside 127.0.0.0/8; the lab must not reach beyond this machine"
    );
    Ok(())
}

fn check_name(name: &str, wildcard: bool) -> anyhow::Result<()> {
    let bare = if wildcard { name.strip_prefix("*.").unwrap_or(name) } else { name };
    let label_is_good = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    ensure!(
        !bare.is_empty() && bare.len() <= 253 && bare.split('.').all(label_is_good),
        "`{name}` is no domain name (ASCII letters, digits, hyphens and dots; no final dot)"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        dns = "127.0.0.1:0"
        null_mx = ["nomail.example"]
        [[provider]]
        name = "google"
        domains = ["gmail.com", "*.campaign-a.example"]
        wording = "google"
        mood = { unknown_users = 0.02, greylist = "10m", starttls = "good", replies = { hour_quota = "451 wait" } }
        promise = { max_connections = 5 }
        [[provider.mx]]
        host = "gmail-smtp-in.l.google.com"
        preference = 5
        addresses = ["127.1.0.1", "127.1.0.2"]
    "#;

    #[test]
    fn a_configuration_survives_the_round_trip() {
        let config = LabConfig::from_toml(GOOD).unwrap();
        assert_eq!(config.providers[0].mood.greylist, Some(Span::from_secs(600)));
        let again = LabConfig::from_toml(&toml::to_string(&config).unwrap()).unwrap();
        assert_eq!(again, config);
    }

    #[test]
    fn faults_are_told_with_their_place() {
        for (from, to, wanted) in [
            ("127.1.0.2", "8.8.8.8", "outside 127.0.0.0/8"),
            ("127.0.0.1:0", "0.0.0.0:53", "outside 127.0.0.0/8"),
            ("127.0.0.1:0", "[::1]:53", "127.0.0.0/8 only"),
            ("nomail.example", "gmail.com", "given twice"),
            ("gmail.com\"", "gmail..com\"", "no domain name"),
            ("0.02", "2", "no share"),
            ("\"10m\"", "\"soon\"", "not a span"),
            ("preference", "preferrence", "unknown field"),
            ("max_connections = 5", "max_connections = 0", "cannot be kept"),
            ("\"127.1.0.1\", \"127.1.0.2\"", "", "no addresses"),
        ] {
            assert!(GOOD.contains(from));
            let fault = LabConfig::from_toml(&GOOD.replacen(from, to, 1)).unwrap_err();
            assert!(format!("{fault:#}").contains(wanted), "{to}: {fault:#}");
        }
    }
}
