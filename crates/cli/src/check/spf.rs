//! Whether an SPF record lets an address send (RFC 7208), as far as a check of one's own record needs it.
//!
//! Understood: `ip4`, `ip6`, `a`, `mx`, `include`, `all` and `redirect`. `ptr`, `exists` and macros
//! depend on the single message and are answered with [`SpfResult::Unknown`] where they decide. Bounds
//! of the RFC: 10 terms that cause a question (4.6.4), 2 questions without an answer, 10 names of an
//! `mx`.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;

use node::config::IpNetwork;
use node::dns::LookupFault;

/// Terms of one check that may ask DNS.
const MOST_LOOKUPS: u32 = 10;
/// Questions of one check that may find nothing.
const MOST_VOID_LOOKUPS: u32 = 2;
/// MX hosts of one `mx`.
const MOST_MX_HOSTS: usize = 10;

/// What DNS is asked for.
pub trait Names {
    /// TXT records.
    fn texts(&self, name: &str) -> impl Future<Output = Result<Vec<String>, LookupFault>>;
    /// A and AAAA records.
    fn addresses(&self, name: &str) -> impl Future<Output = Result<Vec<IpAddr>, LookupFault>>;
    /// PTR records.
    fn names_of(&self, address: IpAddr) -> impl Future<Output = Result<Vec<String>, LookupFault>>;
    /// MX records.
    fn exchangers(
        &self,
        name: &str,
    ) -> impl Future<Output = Result<Vec<(u16, String)>, LookupFault>>;
}

impl Names for node::dns::Resolver {
    async fn texts(&self, name: &str) -> Result<Vec<String>, LookupFault> {
        Self::texts(self, name).await
    }

    async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, LookupFault> {
        Self::addresses(self, name).await
    }

    async fn names_of(&self, address: IpAddr) -> Result<Vec<String>, LookupFault> {
        Self::names_of(self, address).await
    }

    async fn exchangers(&self, name: &str) -> Result<Vec<(u16, String)>, LookupFault> {
        Self::exchangers(self, name).await
    }
}

/// What the record says about an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpfResult {
    /// It may send.
    Pass,
    /// It may not: `-all`.
    Fail,
    /// It probably may not: `~all`.
    SoftFail,
    /// Nothing is said: `?all`, or no term matched.
    Neutral,
    /// There is no record.
    None,
    /// The record is wrong; receivers treat it as no permission.
    Wrong(String),
    /// DNS gave no answer.
    NoAnswer(String),
    /// A term decides that cannot be judged here.
    Unknown(String),
}

/// Counts of one check.
#[derive(Default)]
struct Spent {
    lookups: u32,
    void: u32,
}

/// What `domain`'s record says about `address`.
pub async fn check(names: &impl Names, domain: &str, address: IpAddr) -> SpfResult {
    let mut spent = Spent::default();
    match evaluate(names, domain, address, &mut spent).await {
        Ok(result) | Err(result) => result,
    }
}

/// An error ends the whole check, wherever it was found.
type Evaluated = Result<SpfResult, SpfResult>;

fn evaluate<'a>(
    names: &'a impl Names,
    domain: &'a str,
    address: IpAddr,
    spent: &'a mut Spent,
) -> Pin<Box<dyn Future<Output = Evaluated> + 'a>> {
    Box::pin(async move {
        let Some(record) = record_of(names, domain).await? else { return Ok(SpfResult::None) };
        let mut redirect = None;
        for term in record.split_ascii_whitespace().skip(1) {
            if let Some((name, value)) = modifier(term) {
                if name.eq_ignore_ascii_case("redirect")
                    && redirect.replace(value.to_owned()).is_some()
                {
                    return Err(wrong(domain, "redirect= stands twice"));
                }
                continue;
            }
            let (result, mechanism) = qualifier(term);
            if matches(names, domain, address, spent, mechanism).await? {
                return Ok(result);
            }
        }
        let Some(target) = redirect else { return Ok(SpfResult::Neutral) };
        let target = plain_domain(domain, &target)?;
        lookup(domain, spent)?;
        match evaluate(names, &target, address, spent).await? {
            SpfResult::None => Err(wrong(domain, &format!("redirect={target} has no SPF record"))),
            result => Ok(result),
        }
    })
}

/// The one SPF record of a domain.
async fn record_of(names: &impl Names, domain: &str) -> Result<Option<String>, SpfResult> {
    let texts = match names.texts(domain).await {
        Ok(texts) => texts,
        Err(LookupFault::NoSuchName | LookupFault::NoRecord) => return Ok(None),
        Err(LookupFault::Temporary(why)) => {
            return Err(SpfResult::NoAnswer(format!("{domain}: {why}")));
        }
    };
    let is_spf = |text: &String| {
        let first = text.split(' ').next().unwrap_or_default();
        first.eq_ignore_ascii_case("v=spf1")
    };
    let mut records = texts.into_iter().filter(is_spf);
    let record = records.next();
    if records.next().is_some() {
        return Err(wrong(domain, "more than one SPF record"));
    }
    Ok(record)
}

fn wrong(domain: &str, why: &str) -> SpfResult {
    SpfResult::Wrong(format!("{domain}: {why}"))
}

/// `name=value`, where the name stands before any `:` or `/`.
fn modifier(term: &str) -> Option<(&str, &str)> {
    let (name, value) = term.split_once('=')?;
    let is_name = name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-_.".contains(&octet));
    is_name.then_some((name, value))
}

fn qualifier(term: &str) -> (SpfResult, &str) {
    let result = match term.as_bytes().first() {
        Some(b'+') => SpfResult::Pass,
        Some(b'-') => SpfResult::Fail,
        Some(b'~') => SpfResult::SoftFail,
        Some(b'?') => SpfResult::Neutral,
        _ => return (SpfResult::Pass, term),
    };
    (result, &term[1..])
}

/// Counts a term that asks DNS.
fn lookup(domain: &str, spent: &mut Spent) -> Result<(), SpfResult> {
    spent.lookups += 1;
    if spent.lookups > MOST_LOOKUPS {
        return Err(wrong(
            domain,
            "more than 10 terms need a DNS look-up; receivers then ignore the record",
        ));
    }
    Ok(())
}

/// A domain without macros.
fn plain_domain(domain: &str, text: &str) -> Result<String, SpfResult> {
    if text.contains('%') {
        return Err(SpfResult::Unknown(format!("{domain}: {text} depends on the message (macro)")));
    }
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.is_empty() {
        return Err(wrong(domain, "a term lacks its domain"));
    }
    Ok(text.to_ascii_lowercase())
}

/// Whether a mechanism matches the address.
async fn matches(
    names: &impl Names,
    domain: &str,
    address: IpAddr,
    spent: &mut Spent,
    mechanism: &str,
) -> Result<bool, SpfResult> {
    let end = mechanism.find([':', '/']).unwrap_or(mechanism.len());
    let (name, rest) = mechanism.split_at(end);
    match name.to_ascii_lowercase().as_str() {
        "all" if rest.is_empty() => Ok(true),
        kind @ ("ip4" | "ip6") => {
            let network = rest.strip_prefix(':').and_then(|text| network_of(kind, text));
            let network =
                network.ok_or_else(|| wrong(domain, &format!("{mechanism} is no address")))?;
            Ok(network.contains(address))
        }
        "include" => {
            let target = plain_domain(domain, rest.strip_prefix(':').unwrap_or_default())?;
            lookup(domain, spent)?;
            match evaluate(names, &target, address, spent).await? {
                SpfResult::Pass => Ok(true),
                SpfResult::None => {
                    Err(wrong(domain, &format!("include:{target} has no SPF record")))
                }
                _ => Ok(false),
            }
        }
        kind @ ("a" | "mx") => {
            lookup(domain, spent)?;
            let (target, four, six) = host_and_lengths(domain, rest)?;
            let hosts =
                if kind == "a" { vec![target] } else { hosts_of(names, &target, spent).await? };
            for host in hosts {
                for found in addresses_of(names, domain, &host, spent).await? {
                    let bits = if found.is_ipv4() { four } else { six };
                    if IpNetwork::new(found, bits).is_some_and(|network| network.contains(address))
                    {
                        return Ok(true);
                    }
                }
            }
            Ok(false)
        }
        "ptr" | "exists" => {
            lookup(domain, spent)?;
            Err(SpfResult::Unknown(format!("{domain}: {mechanism} cannot be judged here")))
        }
        _ => Err(wrong(domain, &format!("unknown term {mechanism}"))),
    }
}

/// The network of `ip4` or `ip6`. Bits behind the prefix may be set (RFC 7208, 5.6).
fn network_of(kind: &str, text: &str) -> Option<IpNetwork> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse::<u8>().ok()?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let fits = address.is_ipv4() == (kind == "ip4");
    fits.then(|| IpNetwork::new(address, bits.unwrap_or(most))).flatten()
}

/// `:host/24//64`, each part optional.
fn host_and_lengths(domain: &str, rest: &str) -> Result<(String, u8, u8), SpfResult> {
    let (host, lengths) = rest.split_once('/').unwrap_or((rest, ""));
    let host = match host.strip_prefix(':') {
        Some(host) => plain_domain(domain, host)?,
        None => domain.to_owned(),
    };
    let (four, six) = match lengths.strip_prefix('/') {
        // "//64" has lost its first slash above.
        Some(six) => ("", six),
        None => lengths.split_once("//").unwrap_or((lengths, "")),
    };
    let bits = |text: &str, most: u8| match text {
        "" => Ok(most),
        text => text
            .parse::<u8>()
            .ok()
            .filter(|bits| *bits <= most)
            .ok_or_else(|| wrong(domain, &format!("/{text} is no prefix length"))),
    };
    Ok((host, bits(four, 32)?, bits(six, 128)?))
}

async fn hosts_of(
    names: &impl Names,
    domain: &str,
    spent: &mut Spent,
) -> Result<Vec<String>, SpfResult> {
    match names.exchangers(domain).await {
        Ok(hosts) if hosts.len() > MOST_MX_HOSTS => {
            Err(wrong(domain, "mx names a domain with more than 10 MX hosts"))
        }
        Ok(hosts) => Ok(hosts.into_iter().map(|(_, host)| host).collect()),
        Err(fault) => nothing(domain, spent, fault),
    }
}

async fn addresses_of(
    names: &impl Names,
    domain: &str,
    host: &str,
    spent: &mut Spent,
) -> Result<Vec<IpAddr>, SpfResult> {
    match names.addresses(host).await {
        Ok(addresses) => Ok(addresses),
        Err(fault) => nothing(domain, spent, fault),
    }
}

/// A question that found nothing.
fn nothing<T>(domain: &str, spent: &mut Spent, fault: LookupFault) -> Result<Vec<T>, SpfResult> {
    if let LookupFault::Temporary(why) = fault {
        return Err(SpfResult::NoAnswer(format!("{domain}: {why}")));
    }
    spent.void += 1;
    if spent.void > MOST_VOID_LOOKUPS {
        return Err(wrong(domain, "more than 2 terms name hosts that do not exist"));
    }
    Ok(Vec::new())
}
