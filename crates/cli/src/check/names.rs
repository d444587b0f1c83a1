//! Checks that ask DNS: PTR and HELO, SPF, DKIM, the MX of the return path.
//!
//! Nothing here is worse than a warning, because DNS can be mended while the node runs; the words say
//! what receivers make of it.

use std::net::IpAddr;

use node::config::{Config, DkimConfig, SourceConfig, TargetPolicy};
use node::dkim::{DkimKey, DkimKeyText, DkimKeys};
use node::dns::LookupFault;

use super::Finding;
use super::spf::{self, Names, SpfResult};

/// All of them.
pub async fn check(config: &Config, names: &impl Names) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in &config.sources {
        findings.push(reverse(names, source).await);
    }
    match &config.return_path {
        None => findings.push(Finding::warn(
            "return path",
            "there is no [return_path]",
            "without it, bounces go to the senders that applications give, and mail without one is refused",
        )),
        Some(path) => {
            findings.push(exchangers(names, path.domain.as_str()).await);
            for source in &config.sources {
                findings.push(permitted(names, path.domain.as_str(), source).await);
            }
        }
    }
    findings.extend(signatures(names, &config.dkim).await);
    findings
}

/// Why DNS has nothing, in words.
fn words(fault: &LookupFault) -> String {
    match fault {
        LookupFault::Temporary(why) => format!("DNS gave no answer: {why}"),
        other => other.to_string(),
    }
}

/// Whether an address is one of the Internet; others have no records.
fn is_public(address: IpAddr) -> bool {
    TargetPolicy::default().allows(address)
}

/// The public address points back to the HELO name, and the name to the address.
async fn reverse(names: &impl Names, source: &SourceConfig) -> Finding {
    let check = format!("PTR of {}", source.id);
    let address = source.public_address;
    let helo = source.helo.as_str();
    let lonely = if is_public(address) { "" } else { " (not an address of the Internet)" };
    let mend_ptr = format!("ask whoever gave you {address} to set its PTR record to {helo}");
    let pointers = match names.names_of(address).await {
        Ok(pointers) => pointers,
        Err(fault) => {
            return Finding::warn(
                check,
                format!("{address}{lonely} has no PTR: {}", words(&fault)),
                mend_ptr,
            );
        }
    };
    let same = |name: &String| name.trim_end_matches('.').eq_ignore_ascii_case(helo);
    if !pointers.iter().any(same) {
        let found = format!("{address} points to {}, but HELO is {helo}", pointers.join(", "));
        return Finding::warn(check, found, format!("{mend_ptr}, or set helo to the name it has"));
    }
    let mend_a = format!("set an address record: {helo} -> {address}");
    match names.addresses(helo).await {
        Ok(addresses) if addresses.contains(&address) => {
            Finding::ok(check, format!("{address} <-> {helo}"))
        }
        Ok(addresses) => {
            let others: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            let found = format!("{helo} has {}, not {address}", others.join(", "));
            Finding::warn(check, found, mend_a)
        }
        Err(fault) => {
            Finding::warn(check, format!("{helo} has no address: {}", words(&fault)), mend_a)
        }
    }
}

/// Bounces have a way back.
async fn exchangers(names: &impl Names, domain: &str) -> Finding {
    let check = "MX of the return path";
    let mend = format!("set an MX record for {domain} to the host that takes bounces");
    match names.exchangers(domain).await {
        Ok(hosts) if hosts.iter().all(|(_, host)| host.trim_end_matches('.').is_empty()) => {
            let found = format!("{domain} has a null MX: it takes no mail, so bounces are lost");
            Finding::warn(check, found, mend)
        }
        Ok(hosts) => {
            let shown: Vec<&str> = hosts.iter().map(|(_, host)| host.as_str()).collect();
            Finding::ok(check, format!("{domain} -> {}", shown.join(", ")))
        }
        Err(fault) => Finding::warn(
            check,
            format!(
                "{domain}: {}; bounces are lost and receivers may refuse the sender",
                words(&fault)
            ),
            mend,
        ),
    }
}

/// The record of the return path lets the source send.
async fn permitted(names: &impl Names, domain: &str, source: &SourceConfig) -> Finding {
    let check = format!("SPF for {}", source.id);
    let address = source.public_address;
    let term = if address.is_ipv4() { "ip4" } else { "ip6" };
    let add = format!("add {term}:{address} to the SPF record of {domain}");
    match spf::check(names, domain, address).await {
        SpfResult::Pass => Finding::ok(check, format!("{domain} permits {address}")),
        SpfResult::None => Finding::warn(
            check,
            format!("{domain} has no SPF record"),
            format!("set a TXT record for {domain}: \"v=spf1 {term}:{address} -all\""),
        ),
        SpfResult::Fail => Finding::warn(check, format!("{domain} forbids {address} (-all)"), add),
        SpfResult::SoftFail => {
            Finding::warn(check, format!("{domain} does not permit {address} (~all)"), add)
        }
        SpfResult::Neutral => {
            Finding::warn(check, format!("{domain} says nothing about {address}"), add)
        }
        SpfResult::Wrong(why) => {
            Finding::warn(check, format!("the record is wrong: {why}"), "correct the SPF record")
        }
        SpfResult::NoAnswer(why) => Finding::warn(
            check,
            format!("DNS gave no answer: {why}"),
            "check [dns] servers and try again",
        ),
        SpfResult::Unknown(why) => {
            Finding::warn(check, why, format!("{add}, before the term that depends on the message"))
        }
    }
}

/// Each key can be read, and its record is the public half of it.
async fn signatures(names: &impl Names, keys: &[DkimConfig]) -> Vec<Finding> {
    if keys.is_empty() {
        return Finding::warn(
            "DKIM",
            "no [[dkim]] key: mail goes out unsigned",
            "large receivers refuse unsigned campaigns; make a key (`openssl genpkey -algorithm rsa \
             -pkeyopt rsa_keygen_bits:2048 -out dkim-s1.pem`) and name it in [[dkim]]",
        )
        .into();
    }
    let mut findings = Vec::with_capacity(keys.len());
    for key in keys {
        let check = format!("DKIM {}", key.selector);
        let pem = match crate::globals::read_bounded(&key.key_file) {
            Ok(octets) => String::from_utf8_lossy(&octets).into_owned(),
            Err(failure) => {
                findings.push(super::failed(
                    check,
                    &failure,
                    "correct key_file, its owner and permissions",
                ));
                continue;
            }
        };
        let text = DkimKeyText {
            domain: key.domain.as_str().to_owned(),
            selector: key.selector.clone(),
            pem,
        };
        let loaded = match DkimKeys::load([&text]) {
            Ok(loaded) => loaded,
            Err(fault) => {
                let mend = "the node does not start with it: make a new key";
                findings.push(Finding::fail(check, fault.to_string(), mend));
                continue;
            }
        };
        for key in loaded.iter() {
            findings.push(published(names, &check, key).await);
        }
    }
    findings
}

/// The record of a key in DNS.
async fn published(names: &impl Names, check: &str, key: &DkimKey) -> Finding {
    let name = key.dns_name();
    let mend = format!("set a TXT record at {name}:\n{}", key.dns_record());
    let texts = match names.texts(&name).await {
        Ok(texts) => texts,
        Err(fault) => return Finding::warn(check, format!("{name}: {}", words(&fault)), mend),
    };
    let faults: Vec<String> =
        texts.iter().filter_map(|text| record_fault(text, &key.dns_record())).collect();
    match (faults.len() < texts.len(), faults.into_iter().next()) {
        (true, _) => Finding::ok(check, format!("{name} matches the key ({})", key.algorithm())),
        (false, Some(fault)) => Finding::warn(check, format!("{name}: {fault}"), mend),
        (false, None) => Finding::warn(check, format!("{name} has no TXT record"), mend),
    }
}

/// A tag of a DKIM record, without the white space that may stand in it.
fn tag(record: &str, name: &str) -> Option<String> {
    record.split(';').find_map(|part| {
        let (found, value) = part.split_once('=')?;
        (found.trim() == name).then(|| value.split_whitespace().collect())
    })
}

/// Why a record does not fit the one that is wanted; `None`: it does.
fn record_fault(found: &str, wanted: &str) -> Option<String> {
    /// Base 64 of what an RSA key in SubjectPublicKeyInfo has before the key itself (24 octets): a record
    /// may hold either form.
    const RSA_PREFIX: usize = 32;
    if tag(found, "v").is_some_and(|version| version != "DKIM1") {
        return Some("the record is not of version DKIM1".to_owned());
    }
    let Some(key) = tag(found, "p") else { return Some("the record has no p= (key)".to_owned()) };
    if key.is_empty() {
        return Some("the key is revoked (p= is empty)".to_owned());
    }
    let kind = |record: &str| tag(record, "k").unwrap_or_else(|| "rsa".to_owned());
    if kind(found) != kind(wanted) {
        return Some(format!("the record is for k={}, the key is {}", kind(found), kind(wanted)));
    }
    let ours = tag(wanted, "p").unwrap_or_default();
    let is_bare = kind(wanted) == "rsa" && ours.get(RSA_PREFIX..) == Some(key.as_str());
    if key != ours && !is_bare {
        return Some("the record holds another key than key_file".to_owned());
    }
    if tag(found, "t").is_some_and(|flags| flags.split(':').any(|flag| flag == "y")) {
        return Some(
            "the record says that it is a test (t=y): receivers ignore the signature".to_owned(),
        );
    }
    None
}

#[cfg(test)]
mod tests;
