//! From the answers of DNS to the hosts and targets of a domain.
//!
//! The words are here; the decisions (order, null MX, implicit MX, own name in the list) are pure
//! functions over what DNS answered, so that they can be tested without a name server.
//!
//! A resolver goes three steps: [`destination`] reads the domain, [`decide`] turns the answer to
//! its MX question into the hosts to look up, [`assemble`] turns the addresses of these into a
//! [`MxRoute`].
//!
//! What holds:
//! - the address of a domain is never used when the domain has MX records (RFC 5321, 5.1);
//! - a null MX that stands alone ends in [`RouteFault::NullMx`] and nothing is looked up (RFC 7505);
//! - no host at or behind our own place in the list is kept, so mail cannot circle (RFC 5321, 5.1);
//! - at most [`MAX_HOSTS`] hosts and [`MAX_ADDRESSES`] addresses of each are used, and every address
//!   stands in a route once;
//! - hosts of equal preference are in the order of their names: whoever sends must shuffle them.
//!
//! A permanent fault comes only from a name server that said so; whatever is broken is temporary.

use core::fmt::Write as _;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// How many MX hosts of a domain are used, best preference first. A longer list is cut.
pub const MAX_HOSTS: usize = 100;

/// How many addresses of one host are used, in the resolver's order.
pub const MAX_ADDRESSES: usize = 100;

/// One mail exchanger of a domain with the addresses found for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MxHost {
    /// Lowest first. 0 for implicit MX and for relays.
    pub preference: u16,
    /// Lower case, without the final dot. For a relay given by address: the address as text.
    pub name: Box<str>,
    /// In the resolver's order. Every address stands in a route once, with the first host that has
    /// it; empty when none could be found or all belong to earlier hosts.
    pub addresses: Vec<IpAddr>,
}

/// Where mail for a domain goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MxRoute {
    /// Sorted by preference, then by name, so that equal sets compare equal. Never empty, and at
    /// least one host has an address.
    pub hosts: Vec<MxHost>,
    /// TCP port of every host.
    pub port: u16,
    /// LMTP instead of SMTP (relays only).
    pub lmtp: bool,
    /// Whether it came from a `[[relay]]` of the configuration rather than from DNS.
    pub relay: bool,
    /// What the `[[relay]]` says about TLS; `None`: the MX rules decide.
    pub tls: Option<RelayTls>,
    /// Until when the answer may be used.
    pub valid_until: Timestamp,
}

/// Use of TLS towards a relay, or for a domain that a domain rule names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RelayTls {
    /// Never.
    Disabled,
    /// When offered.
    Opportunistic,
    /// Or not at all.
    Required,
}

/// Why a domain has no route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "fault")]
pub enum RouteFault {
    /// Permanent: the domain does not exist (NXDOMAIN).
    NoSuchDomain,
    /// Permanent: the domain exists but has neither MX nor address.
    NoMailHost,
    /// Permanent: null MX (RFC 7505); the domain says that it takes no mail.
    NullMx,
    /// Permanent: we are the best MX ourselves (RFC 5321, 5.1).
    Loop,
    /// Permanent: not a domain name.
    BadName {
        /// Why.
        why: String,
    },
    /// Temporary: SERVFAIL, time-out, refused, CNAME loop, MX hosts without address, or name servers unreachable.
    Temporary {
        /// Why.
        why: String,
    },
}

impl RouteFault {
    /// Whether trying again later can help.
    #[must_use]
    pub const fn is_temporary(&self) -> bool {
        matches!(self, Self::Temporary { .. })
    }
}

impl core::fmt::Display for RouteFault {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NoSuchDomain => out.write_str("the domain does not exist"),
            Self::NoMailHost => out.write_str("the domain has neither MX nor address"),
            Self::NullMx => out.write_str("the domain takes no mail (null MX, RFC 7505)"),
            Self::Loop => out.write_str(
                "we are its best mail exchanger ourselves; see [dns] own_names and own_addresses",
            ),
            Self::BadName { why } => out.write_str(why),
            Self::Temporary { why } => write!(out, "{why} (may pass)"),
        }
    }
}

/// What a name server answered when asked for the MX records of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MxAnswer {
    /// Preference and target of each record; the root is the empty name or `.`.
    Records(Vec<(u16, String)>),
    /// The domain exists and has no MX record.
    NoData,
    /// The domain does not exist.
    NxDomain,
    /// No answer that says anything about the domain, and why.
    Temporary(String),
}

/// What the name servers answered when asked for the addresses of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressAnswer {
    /// Its addresses, in the resolver's order.
    Found(Vec<IpAddr>),
    /// It has none, or does not exist.
    NoAddress,
    /// It has only IPv6 addresses and no source here has IPv6.
    OnlyIpv6,
    /// No answer that says anything, and why.
    Temporary(String),
}

/// Where the domain of a recipient points before any look-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A name to ask DNS about: lower case, A-labels, no final dot.
    Name(String),
    /// An address literal, `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321, 4.1.3): no look-up.
    Address(IpAddr),
}

/// A host whose addresses are to be looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Preference of its MX record; 0 for implicit MX.
    pub preference: u16,
    /// Lower case, without the final dot.
    pub name: Box<str>,
    /// Set when the record (against RFC 1035) held an address in place of a name: use it, look
    /// nothing up.
    pub literal: Option<IpAddr>,
}

/// What follows from the answer to the MX question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Look up the addresses of these hosts and call [`assemble`].
    LookUp(Candidates),
    /// There is no route.
    Fault(RouteFault),
}

/// The hosts that take mail for a domain, before their addresses are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidates {
    /// Sorted by preference, then by name; each name once; 1 to [`MAX_HOSTS`].
    pub hosts: Vec<Candidate>,
    /// Whether the domain has no MX and stands for itself (RFC 5321, 5.1, "implicit MX").
    pub implicit: bool,
}

/// Names and addresses under which this node itself takes mail.
#[derive(Clone, Copy, Debug, Default)]
pub struct Own<'a> {
    /// Host names; upper case and a final dot do not matter.
    pub names: &'a [String],
    /// Addresses.
    pub addresses: &'a [IpAddr],
}

/// Reads the domain part of a recipient.
///
/// # Errors
/// [`RouteFault::BadName`] with the reason: empty, a label over 63 or a name over 253 octets, a
/// character that no host name has, an internationalised label that IDNA refuses, or a broken
/// address literal.
pub fn destination(domain: &str) -> Result<Destination, RouteFault> {
    let bad = |why: &str| Err(RouteFault::BadName { why: why.to_owned() });
    if let Some(inside) = domain.strip_prefix('[') {
        let Some(inside) = inside.strip_suffix(']') else {
            return bad("an address literal ends with `]`");
        };
        let address = match inside.get(..5) {
            Some(tag) if tag.eq_ignore_ascii_case("ipv6:") => {
                inside[5..].parse::<Ipv6Addr>().ok().map(IpAddr::V6)
            }
            _ => inside.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        };
        return match address {
            Some(address) => Ok(Destination::Address(address)),
            None => bad("not an address literal such as `[192.0.2.1]` or `[IPv6:2001:db8::1]`"),
        };
    }
    // IDNA is slow on long input; no name in UTF-8 that fits 253 octets of A-labels is longer.
    if domain.len() > 1_024 {
        return bad("longer than 253 octets");
    }
    let name = if domain.is_ascii() {
        domain.to_ascii_lowercase()
    } else {
        match idna::domain_to_ascii(domain) {
            Ok(name) => name,
            Err(_) => return bad("a label is not allowed by IDNA (RFC 5891)"),
        }
    };
    let name = name.strip_suffix('.').unwrap_or(&name);
    match host_name_fault(name) {
        Some(why) => bad(why),
        None if name.parse::<Ipv4Addr>().is_ok() => {
            bad("an IP address; as a literal it is written `[192.0.2.1]`")
        }
        None => Ok(Destination::Name(name.to_owned())),
    }
}

/// Why `name` (ASCII, no final dot) cannot be asked for; `None`: it can. Underscores are let
/// through: they are against RFC 1123, and mail flows through such hosts every day.
fn host_name_fault(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("empty");
    }
    if name.len() > 253 {
        return Some("longer than 253 octets");
    }
    for label in name.split('.') {
        if label.is_empty() {
            return Some("an empty label (two dots in a row, or a dot at the start)");
        }
        if label.len() > 63 {
            return Some("a label longer than 63 octets");
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if !label.bytes().all(allowed) {
            return Some("a character that no host name has");
        }
    }
    None
}

/// Lower case, without the final dot.
fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// Decides which hosts take mail for `domain` (as [`Destination::Name`] holds it).
///
/// Records with an unusable target are left out. A list in which none is usable is a temporary
/// fault and never leads to the address of the domain: its owner wanted its mail elsewhere.
#[must_use]
pub fn decide(domain: &str, answer: MxAnswer, own: Own<'_>) -> Decision {
    let records = match answer {
        MxAnswer::NxDomain => return Decision::Fault(RouteFault::NoSuchDomain),
        MxAnswer::Temporary(why) => return Decision::Fault(RouteFault::Temporary { why }),
        MxAnswer::Records(records) if !records.is_empty() => records,
        MxAnswer::NoData | MxAnswer::Records(_) => {
            let name = normal(domain).into_boxed_str();
            if is_own(&name, own) {
                return Decision::Fault(RouteFault::Loop);
            }
            let hosts = vec![Candidate { preference: 0, name, literal: None }];
            return Decision::LookUp(Candidates { hosts, implicit: true });
        }
    };
    if records.iter().all(|(_, target)| normal(target).is_empty()) {
        return Decision::Fault(RouteFault::NullMx);
    }
    let mut hosts: Vec<Candidate> = records
        .iter()
        .filter_map(|(preference, target)| candidate(*preference, &normal(target)))
        .collect();
    hosts.sort_by(|a, b| (a.preference, &a.name).cmp(&(b.preference, &b.name)));
    let mut seen = HashSet::new();
    hosts.retain(|host| seen.insert(host.name.clone()));
    if hosts.is_empty() {
        let why = format!("no MX record of {domain} names a usable host");
        return Decision::Fault(RouteFault::Temporary { why });
    }
    if let Some(place) = hosts.iter().find(|host| is_own(&host.name, own)).map(|h| h.preference) {
        hosts.retain(|host| host.preference < place);
        if hosts.is_empty() {
            return Decision::Fault(RouteFault::Loop);
        }
    }
    hosts.truncate(MAX_HOSTS);
    Decision::LookUp(Candidates { hosts, implicit: false })
}

/// The host that an MX record names; `None` for the root and for what is no host name.
fn candidate(preference: u16, name: &str) -> Option<Candidate> {
    let literal = name.parse().ok();
    if literal.is_none() && host_name_fault(name).is_some() {
        return None;
    }
    Some(Candidate { preference, name: name.into(), literal })
}

/// Whether a normal name is one of ours.
fn is_own(name: &str, own: Own<'_>) -> bool {
    own.names.iter().any(|ours| normal(ours) == *name)
}

/// Puts the addresses that were found to their hosts. `found` is in the order of
/// `candidates.hosts`; a candidate with a literal needs no answer (any is ignored), and one without
/// an answer counts as unanswered.
///
/// Hosts without an address stay in the list with an empty one, so that the MX group of the domain
/// does not change with each failed look-up.
///
/// # Errors
/// - [`RouteFault::NoMailHost`]: implicit MX and the domain has no address;
/// - [`RouteFault::Loop`]: one of our addresses comes first;
/// - [`RouteFault::Temporary`]: no host has an address at this time.
pub fn assemble(
    candidates: &Candidates,
    found: &[AddressAnswer],
    own: Own<'_>,
    port: u16,
    valid_until: Timestamp,
) -> Result<MxRoute, RouteFault> {
    let mut hosts: Vec<MxHost> = candidates
        .hosts
        .iter()
        .enumerate()
        .map(|(place, candidate)| {
            let mut addresses = match (candidate.literal, found.get(place)) {
                (Some(literal), _) => vec![literal],
                (None, Some(AddressAnswer::Found(addresses))) => addresses.clone(),
                (None, _) => Vec::new(),
            };
            // An address in IPv6's clothes is the same target as the plain one.
            for address in &mut addresses {
                *address = address.to_canonical();
            }
            addresses.truncate(MAX_ADDRESSES);
            MxHost { preference: candidate.preference, name: candidate.name.clone(), addresses }
        })
        .collect();
    if hosts.iter().all(|host| host.addresses.is_empty()) {
        return Err(nothing_found(candidates, found));
    }
    let is_ours = |host: &&MxHost| host.addresses.iter().any(|a| own.addresses.contains(a));
    if let Some(place) = hosts.iter().find(is_ours).map(|host| host.preference) {
        hosts.retain(|host| host.preference < place);
        if hosts.is_empty() {
            return Err(RouteFault::Loop);
        }
        if hosts.iter().all(|host| host.addresses.is_empty()) {
            return Err(nothing_found(candidates, found));
        }
    }
    keep_each_address_once(&mut hosts);
    Ok(MxRoute { hosts, port, lmtp: false, relay: false, tls: None, valid_until })
}

/// Merges duplicate addresses within and across hosts: the first host in order keeps each.
pub fn keep_each_address_once(hosts: &mut [MxHost]) {
    let mut seen = HashSet::new();
    for host in hosts {
        host.addresses.retain(|address| seen.insert(*address));
    }
}

/// Why there is no address at all, in the words of the most telling answer.
fn nothing_found(candidates: &Candidates, found: &[AddressAnswer]) -> RouteFault {
    let temporary = found.iter().find_map(|answer| match answer {
        AddressAnswer::Temporary(why) => Some(why.clone()),
        _ => None,
    });
    if let Some(why) = temporary {
        return RouteFault::Temporary { why };
    }
    let names = candidates.hosts.iter().take(3).map(|host| &*host.name).collect::<Vec<_>>();
    let more = if candidates.hosts.len() > 3 { ", ..." } else { "" };
    let names = format!("{}{more}", names.join(", "));
    if found.contains(&AddressAnswer::OnlyIpv6) {
        let why = format!("{names}: only IPv6 addresses, and no source here has IPv6");
        return RouteFault::Temporary { why };
    }
    if candidates.implicit && !found.is_empty() {
        return RouteFault::NoMailHost;
    }
    RouteFault::Temporary { why: format!("no MX host has an address ({names})") }
}

/// The key of the MX group that a route belongs to: domains with the same set of MX hosts (names
/// and preferences) share it, whatever their addresses are at the time. For a relay the set is its
/// host list with port and protocol. What a domain rule says about TLS tells groups apart too.
///
/// `mx 5 a.mx.example 10 b.mx.example`, `relay smtp:2525 0 127.0.1.1`.
#[must_use]
pub fn group_key(route: &MxRoute) -> String {
    let mut key = match (route.relay, route.lmtp) {
        (false, _) => String::from("mx"),
        (true, false) => format!("relay smtp:{}", route.port),
        (true, true) => format!("relay lmtp:{}", route.port),
    };
    // A domain rule says so of single domains: their mail needs connections of its own.
    key.push_str(match route.tls {
        _ if route.relay => "",
        None => "",
        Some(RelayTls::Disabled) => " tls disabled",
        Some(RelayTls::Opportunistic) => " tls opportunistic",
        Some(RelayTls::Required) => " tls required",
    });
    let mut hosts: Vec<_> = route.hosts.iter().map(|h| (h.preference, &*h.name)).collect();
    hosts.sort_unstable();
    for (preference, name) in hosts {
        write!(key, " {preference} {name}").expect("writing to a String cannot fail");
    }
    key
}

#[cfg(test)]
mod tests;
