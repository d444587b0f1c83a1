//! Addresses and domains to which nobody writes, known by hash so that a list can be passed on
//! without giving addresses away.

use core::borrow::Borrow;
use core::fmt;
use core::str::FromStr;
use std::collections::BTreeSet;

use mail::address::{Domain, DomainFault};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The SHA-256 of a folded address in UTF-8. Shown as 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressHash(pub [u8; 32]);

impl AddressHash {
    /// The hash of a folded address ([`mail::address::Mailbox::folded_key`]).
    #[must_use]
    pub fn of(folded: &str) -> Self {
        Self(Sha256::digest(folded.as_bytes()).into())
    }

    /// The first 120 bits, at the upper end of a number whose last octet is free.
    pub(super) fn in_memory(&self) -> u128 {
        let (first, _) = self.0.split_first_chunk::<16>().expect("a hash has 32 octets");
        u128::from_be_bytes(*first) & !0xff
    }
}

impl fmt::Display for AddressHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(out, "{octet:02x}"))
    }
}

/// A text that is no hash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the SHA-256 of an address: 64 hexadecimal digits are expected")]
pub struct NotAHash(String);

impl FromStr for AddressHash {
    type Err = NotAHash;

    /// Reads 64 hexadecimal digits in any case.
    fn from_str(text: &str) -> Result<Self, NotAHash> {
        let fault = || NotAHash(text.chars().take(70).collect());
        if text.len() != 64 || !text.is_ascii() {
            return Err(fault());
        }
        let mut octets = [0; 32];
        for (at, octet) in octets.iter_mut().enumerate() {
            let digits = text.get(at * 2..at * 2 + 2).ok_or_else(fault)?;
            *octet = u8::from_str_radix(digits, 16).map_err(|_| fault())?;
        }
        Ok(Self(octets))
    }
}

/// A domain (`example.org`) or all domains below one (`*.example.org`), in lower-case A-labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct DomainMask(Box<str>);

impl DomainMask {
    /// Reads a mask.
    ///
    /// # Errors
    /// What is wrong with the domain.
    pub fn parse(text: &str) -> Result<Self, DomainFault> {
        let (prefix, domain) = match text.strip_prefix("*.") {
            Some(domain) => ("*.", domain),
            None => ("", text),
        };
        Ok(Self(format!("{prefix}{}", Domain::parse(domain)?).into_boxed_str()))
    }

    /// The mask.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Every mask that takes in a domain: itself, and `*.` with each of its parents.
    pub(super) fn that_match(domain: &str) -> impl Iterator<Item = String> {
        let parents = domain.match_indices('.').map(|(dot, _)| format!("*{}", &domain[dot..]));
        core::iter::once(domain.to_owned()).chain(parents)
    }
}

impl Borrow<str> for DomainMask {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DomainMask {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl From<DomainMask> for String {
    fn from(mask: DomainMask) -> Self {
        mask.0.into_string()
    }
}

impl TryFrom<String> for DomainMask {
    type Error = DomainFault;

    fn try_from(text: String) -> Result<Self, DomainFault> {
        Self::parse(&text)
    }
}

/// One thing on the suppression list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Suppressed {
    /// An address, by its hash.
    Address(AddressHash),
    /// A domain.
    Domain(DomainMask),
}

/// A suppression list that somebody else publishes. Replaced as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishedList {
    /// Sorted.
    hashes: Box<[u128]>,
    domains: BTreeSet<DomainMask>,
}

impl PublishedList {
    /// A list of these.
    #[must_use]
    pub fn new(entries: impl IntoIterator<Item = Suppressed>) -> Self {
        let (mut hashes, mut domains) = (Vec::new(), BTreeSet::new());
        for entry in entries {
            match entry {
                Suppressed::Address(hash) => hashes.push(hash.in_memory()),
                Suppressed::Domain(mask) => drop(domains.insert(mask)),
            }
        }
        hashes.sort_unstable();
        hashes.dedup();
        Self { hashes: hashes.into(), domains }
    }

    /// Whether it holds the address.
    pub(super) fn holds_address(&self, hash: &AddressHash) -> bool {
        self.hashes.binary_search(&hash.in_memory()).is_ok()
    }

    /// Whether it holds the domain, in lower-case A-labels.
    pub(super) fn holds_domain(&self, domain: &str) -> bool {
        !self.domains.is_empty()
            && DomainMask::that_match(domain).any(|mask| self.domains.contains(mask.as_str()))
    }
}

impl fmt::Display for Suppressed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(hash) => hash.fmt(out),
            Self::Domain(mask) => mask.fmt(out),
        }
    }
}

impl FromStr for Suppressed {
    type Err = String;

    /// Reads a line of a suppression list: a hash, an address (which becomes its hash), a domain, or `*.`
    /// and a domain.
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.contains('@') {
            let mailbox = mail::address::Mailbox::parse(text).map_err(|fault| fault.to_string())?;
            return Ok(Self::Address(AddressHash::of(&mailbox.folded_key())));
        }
        if text.len() == 64 && !text.contains('.') {
            return text.parse().map(Self::Address).map_err(|fault: NotAHash| fault.to_string());
        }
        DomainMask::parse(text).map(Self::Domain).map_err(|fault| fault.to_string())
    }
}
