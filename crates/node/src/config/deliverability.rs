//! `[deliverability]`: whose bundles of rules are applied, and where they are fetched; `[domain_rules]` and
//! `[format_rules]`: the operator's own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::civil::Time;
use rules::bundle::{LARGEST_BUNDLE, PublicKey};

use super::read::{Found, Section};
use super::secret::Secret;
use super::sections::read_existing_file;
use crate::deliverability::Target;
use crate::deliverability::keys::read_public;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// `[deliverability]`
#[derive(Clone, Debug, Default)]
pub struct DeliverabilityConfig {
    /// `public_keys`: the instance's keys, as `mailweir deliverability keygen` shows them, or files that it wrote (a
    /// relative path counts from the folder of the configuration). Default: none, and no bundle is applied.
    pub public_keys: Vec<PublicKey>,
    /// The instance that bundles are fetched from; `None`: no `url` is stated, and nothing is fetched.
    pub instance: Option<InstanceConfig>,
}

/// The keys of `[deliverability]` that need a `url`.
#[derive(Clone, Debug)]
pub struct InstanceConfig {
    /// `url`: where the instance is. Without TLS only on this machine, or with `allow_private`.
    pub url: Target,
    /// `token`: by which the instance knows this client. Visible ASCII.
    pub token: Secret,
    /// `tls_roots`: certificates (PEM) that are trusted in place of the system's.
    pub tls_roots: Option<PathBuf>,
    /// `schedule`: the local time of the daily synchronisation; `None` (`"never"`): only on demand. Default: 06:00.
    pub schedule: Option<Time>,
    /// `jitter`: the daily synchronisation is at most so much later, by an amount that is always the same for one
    /// client. Default: 30 min.
    pub jitter: Duration,
    /// `allow_private`: whether the instance may have a private address, and be spoken to without TLS. Default: no.
    pub allow_private: bool,
    /// `share_unknown_texts`: whether texts that nobody has qualified are sent to the instance. Default: no.
    pub share_unknown_texts: bool,
    /// `connect_timeout`: for the connection with its handshake. Default: 10 s.
    pub connect_timeout: Duration,
    /// `read_timeout`: for the head of an answer, and between two parts of its body. Default: 30 s.
    pub read_timeout: Duration,
    /// `total_timeout`: for one request with all redirections and its whole answer. Default: 2 min.
    pub total_timeout: Duration,
    /// `max_bundle_bytes`: octets of a bundle, unpacked. Default: 32 MiB, the most that any bundle has.
    pub max_bundle_bytes: u64,
}

/// `[domain_rules]` or `[format_rules]`
#[derive(Clone, Debug, Default)]
pub struct RecipientRulesConfig {
    /// Local rules; they come before those of a bundle and the shipped ones. Default: none.
    pub file: Option<PathBuf>,
}

impl InstanceConfig {
    /// An instance with the defaults of everything but its place and the token.
    #[must_use]
    pub fn new(url: Target, token: Secret) -> Self {
        Self {
            url,
            token,
            tls_roots: None,
            schedule: Some(Time::constant(6, 0, 0, 0)),
            jitter: 30 * MINUTE,
            allow_private: false,
            share_unknown_texts: false,
            connect_timeout: 10 * SECOND,
            read_timeout: 30 * SECOND,
            total_timeout: 2 * MINUTE,
            max_bundle_bytes: LARGEST_BUNDLE as u64,
        }
    }
}

/// Reads `[domain_rules]` or `[format_rules]`.
pub(super) fn read_recipient_rules(section: Section<'_>, folder: &Path) -> RecipientRulesConfig {
    let config = RecipientRulesConfig { file: read_existing_file(&section, "file", folder) };
    section.finish();
    config
}

/// Reads `[deliverability]`.
pub(super) fn read_deliverability(section: Section<'_>, folder: &Path) -> DeliverabilityConfig {
    let read = |text: &str| match text.parse::<PublicKey>() {
        Ok(key) => Ok(key),
        Err(_) => read_public(&folder.join(text).display().to_string()),
    };
    let keys = section.parsed_list("public_keys", read).unwrap_or_default();
    let instance = read_instance(&section, folder);
    if instance.is_some() && !section.states("public_keys") {
        section.faults().add_with_help(
            &section.at,
            "`deliverability.url` needs `deliverability.public_keys`",
            "without a key nobody's bundle can be believed; ask the publisher for the file that ends in .pub",
        );
    }
    let public_keys = keys.into_iter().map(|key: Found<PublicKey>| key.value).collect();
    section.finish();
    DeliverabilityConfig { public_keys, instance }
}

/// Every key is read even without a `url`, so that faults in it show.
fn read_instance(section: &Section<'_>, folder: &Path) -> Option<InstanceConfig> {
    let url = section.parsed("url", Target::parse_base);
    let token = section.secret("token");
    if section.states("url") {
        section.require("token");
    }
    if let Some(token) = &token {
        let text = token.value.expose();
        if text.len() < 16 || !text.bytes().all(|octet| octet.is_ascii_graphic()) {
            section.faults().add(&token.at, "a token has at least 16 visible ASCII characters");
        }
    }
    // Until both are there, something must stand in their place for the rest to be read.
    let stand_in = Target::parse_base("https://localhost");
    let place = url.as_ref().map(|found| found.value.clone()).or(stand_in.ok())?;
    let secret = token.as_ref().map_or_else(|| Secret::new(""), |found| found.value.clone());
    let usual = InstanceConfig::new(place, secret);
    let at_most = |most: Duration| SECOND..=most;
    let config = InstanceConfig {
        tls_roots: read_existing_file(section, "tls_roots", folder),
        schedule: section.parsed("schedule", read_time).map_or(usual.schedule, |found| found.value),
        jitter: section.duration_or("jitter", Duration::ZERO..=720 * MINUTE, usual.jitter),
        allow_private: section.flag_or("allow_private", usual.allow_private),
        share_unknown_texts: section.flag_or("share_unknown_texts", usual.share_unknown_texts),
        connect_timeout: section.duration_or(
            "connect_timeout",
            at_most(5 * MINUTE),
            usual.connect_timeout,
        ),
        read_timeout: section.duration_or("read_timeout", at_most(5 * MINUTE), usual.read_timeout),
        total_timeout: section.duration_or(
            "total_timeout",
            at_most(60 * MINUTE),
            usual.total_timeout,
        ),
        max_bundle_bytes: section.number_or(
            "max_bundle_bytes",
            1_024..=usual.max_bundle_bytes,
            usual.max_bundle_bytes,
        ),
        ..usual
    };
    let url = url?;
    if !url.value.is_secure() && !url.value.means_this_machine() && !config.allow_private {
        section.faults().add_with_help(
            &url.at,
            "`deliverability.url` without TLS leads to another machine",
            "write https://; or allow_private = true where the network between the two is your own",
        );
    }
    token.map(|_| config)
}

/// `06:00`, or `never`.
fn read_time(text: &str) -> Result<Option<Time>, String> {
    if text == "never" {
        return Ok(None);
    }
    let fault = || format!("{text:?} is no time of the day such as \"06:00\", nor \"never\"");
    let (hours, minutes) = text.split_once(':').ok_or_else(fault)?;
    let number = |digits: &str| match digits.len() {
        2 if digits.bytes().all(|octet| octet.is_ascii_digit()) => digits.parse::<i8>().ok(),
        _ => None,
    };
    let (hours, minutes) = number(hours).zip(number(minutes)).ok_or_else(fault)?;
    Time::new(hours, minutes, 0, 0).map(Some).map_err(|_| fault())
}
