//! Domain rules: how mail to a domain is signed, where it goes, and whether it must be encrypted.

use core::fmt;
use core::net::IpAddr;
use core::ops::Range;
use std::sync::OnceLock;

use mail::address::Domain;
use toml::Spanned;
use toml::de::DeValue;

use super::parse::{self, Particular};
use super::{RecipientRuleFile, RecipientRules};
use crate::diagnostic::Diagnostic;
use crate::parse::Reader;
use crate::parse::versioned::truth;
use crate::words::TlsPolicy;

/// Selectors of a rule: receivers look at one or two signatures.
const MOST_SELECTORS: usize = 4;
/// Hosts of a relay.
const MOST_HOSTS: usize = 16;
/// RFC 1035, 2.3.4.
const LONGEST_SELECTOR: usize = 63;

/// What a domain rule says beside [`super::Recipients`].
///
/// ```toml
/// [[rule]]
/// name = "partner"
/// mask = "partner.example"
/// selector = "partner2026"
/// relay = ["gateway.partner.example:2525"]
/// tls = "required"
/// matches = ["partner.example"]
/// matches_not = ["partner.example.net"]
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainTreatment {
    /// `sign`: whether mail is signed (DKIM). Absent: it is.
    pub sign: bool,
    /// `selector`: a text or a list of up to 4: of the keys of the sender's domain those with these selectors sign,
    /// and no others. Absent: all keys of the domain. Where the domain has none of them, all sign.
    pub selectors: Vec<Box<str>>,
    /// `relay`: a text or a list of up to 16 hosts that take the mail in place of the domain's MX hosts, tried in
    /// order: `gateway.example`, `gateway.example:2525`, `192.0.2.1`, `[2001:db8::1]:25`. Absent: the MX hosts.
    pub relay: Vec<RelayTarget>,
    /// `tls`: `default`, `disabled`, `opportunistic` or `required`, in place of what MX rules and the configuration
    /// say. Domains with the same MX hosts share connections only where this is the same. Absent or `default`: as MX
    /// rules say.
    pub tls: Option<TlsPolicy>,
}

impl Default for DomainTreatment {
    fn default() -> Self {
        Self { sign: true, selectors: Vec::new(), relay: Vec::new(), tls: None }
    }
}

/// One host of a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayTarget {
    /// A name in lower-case A-labels, or an address.
    pub host: Box<str>,
    /// Its port.
    pub port: u16,
}

impl RelayTarget {
    /// The port where none is stated.
    pub const PORT: u16 = 25;

    /// Reads a host with or without a port.
    fn read(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(Self { host: address.to_string().into(), port: Self::PORT });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port.parse::<u16>().ok().filter(|port| *port != 0)?),
            None => (text, Self::PORT),
        };
        if let Some(bare) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            let address: core::net::Ipv6Addr = bare.parse().ok()?;
            return Some(Self { host: address.to_string().into(), port });
        }
        if let Ok(address) = host.parse::<core::net::Ipv4Addr>() {
            return Some(Self { host: address.to_string().into(), port });
        }
        let name = Domain::parse(host).ok()?;
        Some(Self { host: name.as_str().into(), port })
    }

    /// The address, where the host is one.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl fmt::Display for RelayTarget {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address() {
            Some(IpAddr::V6(address)) => write!(out, "[{address}]:{}", self.port),
            _ => write!(out, "{}:{}", self.host, self.port),
        }
    }
}

/// A checked file of domain rules.
pub type DomainRuleFile = RecipientRuleFile<DomainTreatment>;
/// Compiled domain rules.
pub type DomainRules = RecipientRules<DomainTreatment>;

const PARTICULAR: Particular<DomainTreatment> =
    Particular { keys: &["sign", "selector", "relay", "tls"], read, check };

impl DomainRuleFile {
    /// Reads a file. `file_name` is used in messages only.
    ///
    /// # Errors
    ///
    /// Every fault, sorted by place, at least one and at most 201.
    pub fn parse(file_name: &str, bytes: &[u8]) -> Result<Self, Vec<Diagnostic>> {
        parse::parse(file_name, bytes, &PARTICULAR)
    }
}

fn read(
    reader: &mut Reader<'_, '_>,
    rule: &mut DomainTreatment,
    key: &str,
    value: &Spanned<DeValue<'_>>,
) {
    match key {
        "sign" => rule.sign = truth(reader, key, value),
        "selector" => {
            for (text, at) in reader.texts(key, value, MOST_SELECTORS, LONGEST_SELECTOR) {
                let sound = text.split('.').all(|label| {
                    !label.is_empty()
                        && label.bytes().all(|octet| {
                            octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_'
                        })
                });
                if !sound {
                    let help = "a selector is a name of letters, digits, `-` and `_`";
                    reader.fault(at, format!("`{text}` is no selector"), help);
                }
                rule.selectors.push(text.to_ascii_lowercase().into());
            }
        }
        "relay" => {
            for (text, at) in reader.texts(key, value, MOST_HOSTS, 260) {
                match RelayTarget::read(&text) {
                    Some(target) => rule.relay.push(target),
                    None => {
                        let help =
                            "write \"gateway.example\", \"gateway.example:2525\" or an address";
                        reader.fault(at, format!("`{text}` is no host with a port"), help);
                    }
                }
            }
            let one_port = rule.relay.windows(2).all(|pair| pair[0].port == pair[1].port);
            if !one_port {
                let help = "all hosts of a relay listen on the same port";
                reader.fault(value.span(), "`relay` names hosts with different ports", help);
            }
        }
        _ => rule.tls = reader.word(key, value, TlsPolicy::from_word, TlsPolicy::WORDS),
    }
}

fn check(reader: &mut Reader<'_, '_>, rule: &DomainTreatment, header: &Range<usize>) {
    if !rule.sign && !rule.selectors.is_empty() {
        let help = "drop `selector`, or `sign = false`";
        reader.fault(header.clone(), "the rule names a selector and forbids to sign", help);
    }
}

/// The text of the shipped rules, `rules/domains.toml`.
pub const SHIPPED_DOMAINS_TOML: &[u8] = include_bytes!("../../../../rules/domains.toml");

/// The domain rules that come with the program, from `rules/domains.toml`.
///
/// Read at the first call; later calls are free.
#[must_use]
pub fn shipped_domain_rules() -> &'static DomainRuleFile {
    static SHIPPED: OnceLock<DomainRuleFile> = OnceLock::new();
    SHIPPED.get_or_init(|| {
        DomainRuleFile::parse("rules/domains.toml", SHIPPED_DOMAINS_TOML)
            .expect("the shipped rules have no fault; a test holds it")
    })
}
