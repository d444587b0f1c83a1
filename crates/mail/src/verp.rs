//! Return paths that name the message they belong to, with a keyed MAC (variable envelope return
//! paths).
//!
//! The return path of message `m9` of delivery `d4` is `b-j-e-<mac>@bounces.example.com`: letter of
//! its [`Purpose`], message and delivery number in base 32, and 80 bits of HMAC-SHA256 over both.
//! Whatever comes back to such an address therefore names its message, and nobody without the key
//! can make one up. The same text, with another letter and other bits of the same HMAC, serves for
//! unsubscribe links and Message-IDs, so that each of them leads back to its message too, and none
//! can be turned into another.
//!
//! Invariants: a local part has at most 46 octets of `a-z`, `2-7` and `-`, so it survives
//! lower-casing, upper-casing and the stripping of `+` details. One message has exactly one text per
//! purpose and key: numbers are written without leading zeros and other spellings are refused. The
//! MAC is compared in constant time. `Debug` of a key shows nothing of it.

use core::fmt;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::address::Domain;
use crate::id::{DeliveryId, MessageId};

#[cfg(test)]
mod tests;

/// The alphabet of RFC 4648 section 6 in lower case.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// Octets of a MAC: 80 bits.
const MAC_OCTETS: usize = 10;
/// Characters of a MAC in base 32.
const MAC_LENGTH: usize = 16;
/// Characters of the largest 64-bit number in base 32.
const NUMBER_LENGTH: usize = 13;
/// Fewest octets that a key may have.
pub const KEY_OCTETS_MINIMUM: usize = 16;
/// What is authenticated beside the two numbers; it keeps these MACs apart from any other use of
/// the same key.
const CONTEXT: &[u8; 16] = b"mailweir verp v1";

/// What a name of a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// The return path, where bounces arrive: `b-`.
    Bounce,
    /// The unsubscribe link or address: `u-`.
    Unsubscribe,
    /// The left side of the Message-ID: `i-`.
    MessageId,
}

impl Purpose {
    /// Its letter, and where its 80 bits lie in the 256 of the HMAC.
    const fn letter_and_offset(self) -> (u8, usize) {
        match self {
            Self::Bounce => (b'b', 0),
            Self::Unsubscribe => (b'u', MAC_OCTETS),
            Self::MessageId => (b'i', 2 * MAC_OCTETS),
        }
    }
}

/// A key is too short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a return-path key has {found} octets, but needs at least {KEY_OCTETS_MINIMUM}")]
pub struct KeyTooShort {
    /// Octets it had.
    pub found: usize,
}

/// No key was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("return paths need at least one key")]
pub struct NoKey;

/// A key for return paths, with the HMAC's key schedule already worked out.
#[derive(Clone)]
pub struct VerpKey(Hmac<Sha256>);

impl VerpKey {
    /// A key from its octets. They should come from a random source; any length from 16.
    ///
    /// # Errors
    /// Fewer than 16 octets.
    pub fn new(octets: &[u8]) -> Result<Self, KeyTooShort> {
        if octets.len() < KEY_OCTETS_MINIMUM {
            return Err(KeyTooShort { found: octets.len() });
        }
        Ok(Self(Hmac::new_from_slice(octets).expect("HMAC takes keys of any length")))
    }

    /// The HMAC over the names of one message.
    fn mac(&self, message: MessageId, delivery: DeliveryId) -> [u8; 32] {
        let mut data = [0; 32];
        data[..16].copy_from_slice(CONTEXT);
        data[16..24].copy_from_slice(&message.0.to_be_bytes());
        data[24..].copy_from_slice(&delivery.0.to_be_bytes());
        let mut hmac = self.0.clone();
        hmac.update(&data);
        hmac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for VerpKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("VerpKey(secret)")
    }
}

/// A message named by a return path, unsubscribe token or Message-ID whose MAC was right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verp {
    /// What the name was made for.
    pub purpose: Purpose,
    /// The message.
    pub message: MessageId,
    /// Its delivery.
    pub delivery: DeliveryId,
}

/// Why a text names no message of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerpFault {
    /// Another domain, or not of our form at all.
    #[error("not a return path of ours")]
    NotOurs,
    /// Our form, but the MAC was made with none of our keys.
    #[error("the return path was forged or damaged: its MAC is wrong")]
    Forged,
    /// Our letter and domain, but the rest cannot be read.
    #[error("the return path cannot be read")]
    Malformed,
}

/// The names of one message for all purposes, from one HMAC.
#[derive(Clone, Copy, Debug)]
pub struct MessageNames {
    message: MessageId,
    delivery: DeliveryId,
    mac: [u8; 32],
}

impl MessageNames {
    /// Appends the name for `purpose`: at most 46 octets, for example `b-j-e-aaaaaaaaaaaaaaaa`.
    pub fn push(&self, purpose: Purpose, out: &mut String) {
        let (letter, offset) = purpose.letter_and_offset();
        out.push(char::from(letter));
        out.push('-');
        push_number(self.message.0, out);
        out.push('-');
        push_number(self.delivery.0, out);
        out.push('-');
        push_mac(&self.mac[offset..offset + MAC_OCTETS], out);
    }

    /// The name for `purpose` as a text of its own.
    #[must_use]
    pub fn name(&self, purpose: Purpose) -> String {
        let mut out = String::with_capacity(48);
        self.push(purpose, &mut out);
        out
    }
}

/// The maker and reader of return paths at one domain. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ReturnPath {
    domain: Domain,
    keys: Arc<[VerpKey]>,
}

impl ReturnPath {
    /// Return paths at `domain`. They are made with the first key and accepted with any, so a key is
    /// changed by putting the new one first and dropping the old one when no bounce can come any
    /// more.
    ///
    /// # Errors
    /// No key at all.
    pub fn new(domain: Domain, keys: Vec<VerpKey>) -> Result<Self, NoKey> {
        if keys.is_empty() {
            return Err(NoKey);
        }
        Ok(Self { domain, keys: keys.into() })
    }

    /// The domain of the return paths.
    #[must_use]
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// All names of one message, for the price of one HMAC.
    #[must_use]
    pub fn names(&self, message: MessageId, delivery: DeliveryId) -> MessageNames {
        MessageNames { message, delivery, mac: self.keys[0].mac(message, delivery) }
    }

    /// The return path of one message.
    #[must_use]
    pub fn encode(&self, message: MessageId, delivery: DeliveryId) -> String {
        self.address(&self.names(message, delivery), Purpose::Bounce)
    }

    /// The address of one purpose for names already made.
    #[must_use]
    pub fn address(&self, names: &MessageNames, purpose: Purpose) -> String {
        let mut out = String::with_capacity(48 + self.domain.as_str().len());
        names.push(purpose, &mut out);
        out.push('@');
        out.push_str(self.domain.as_str());
        out
    }

    /// Reads an address that something was sent to, in any case: a return path or an unsubscribe
    /// address.
    ///
    /// # Errors
    /// Why it names no message of ours.
    pub fn decode(&self, address: &str) -> Result<Verp, VerpFault> {
        let (local, domain) = address.rsplit_once('@').ok_or(VerpFault::NotOurs)?;
        if !domain.eq_ignore_ascii_case(self.domain.as_str()) {
            return Err(VerpFault::NotOurs);
        }
        self.decode_name(local)
    }

    /// Reads a name without its domain: the token of an unsubscribe link, or the left side of a
    /// Message-ID.
    ///
    /// # Errors
    /// Why it names no message of ours.
    pub fn decode_name(&self, name: &str) -> Result<Verp, VerpFault> {
        let mut parts = name.split('-');
        let purpose = match parts.next() {
            Some("b" | "B") => Purpose::Bounce,
            Some("u" | "U") => Purpose::Unsubscribe,
            Some("i" | "I") => Purpose::MessageId,
            _ => return Err(VerpFault::NotOurs),
        };
        let (Some(message), Some(delivery), Some(mac), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            // Any word may begin with `b-`; only the number of parts shows that it was meant as ours.
            return Err(VerpFault::NotOurs);
        };
        let message = MessageId(read_number(message).ok_or(VerpFault::Malformed)?);
        let delivery = DeliveryId(read_number(delivery).ok_or(VerpFault::Malformed)?);
        let claimed = read_mac(mac).ok_or(VerpFault::Malformed)?;
        let (_, offset) = purpose.letter_and_offset();
        let genuine = self.keys.iter().any(|key| {
            let mac = key.mac(message, delivery);
            same_in_constant_time(&mac[offset..offset + MAC_OCTETS], &claimed)
        });
        if genuine { Ok(Verp { purpose, message, delivery }) } else { Err(VerpFault::Forged) }
    }
}

/// Compares without telling by its time where the difference lies.
fn same_in_constant_time(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len()
        && left.iter().zip(right).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
}

/// Appends a number in base 32, most significant digit first, without leading zeros.
fn push_number(mut number: u64, out: &mut String) {
    let mut digits = [0; NUMBER_LENGTH];
    let mut start = NUMBER_LENGTH;
    loop {
        start -= 1;
        digits[start] = ALPHABET[(number & 31) as usize];
        number >>= 5;
        if number == 0 {
            break;
        }
    }
    out.extend(digits[start..].iter().map(|&digit| char::from(digit)));
}

/// Appends 10 octets in base 32.
fn push_mac(mac: &[u8], out: &mut String) {
    for half in mac.chunks_exact(MAC_OCTETS / 2) {
        let bits = half.iter().fold(0_u64, |bits, &octet| bits << 8 | u64::from(octet));
        for digit in (0..MAC_LENGTH / 2).rev() {
            out.push(char::from(ALPHABET[(bits >> (5 * digit) & 31) as usize]));
        }
    }
}

/// The value of a digit in either case.
fn digit(character: u8) -> Option<u64> {
    match character {
        b'a'..=b'z' => Some(u64::from(character - b'a')),
        b'A'..=b'Z' => Some(u64::from(character - b'A')),
        b'2'..=b'7' => Some(u64::from(character - b'2') + 26),
        _ => None,
    }
}

/// Reads what [`push_number`] writes, and no other spelling of the same number.
fn read_number(text: &str) -> Option<u64> {
    let octets = text.as_bytes();
    let canonical = match octets {
        [] => false,
        [b'a' | b'A', _, ..] => false,
        _ => octets.len() <= NUMBER_LENGTH,
    };
    if !canonical {
        return None;
    }
    octets.iter().try_fold(0_u64, |number, &octet| {
        number
            .checked_mul(32)
            .map(|shifted| shifted | digit(octet).unwrap_or(u64::MAX))
            .filter(|_| digit(octet).is_some())
    })
}

/// Reads what [`push_mac`] writes.
fn read_mac(text: &str) -> Option<[u8; MAC_OCTETS]> {
    let octets = text.as_bytes();
    if octets.len() != MAC_LENGTH {
        return None;
    }
    let mut mac = [0; MAC_OCTETS];
    for (half, out) in octets.chunks_exact(MAC_LENGTH / 2).zip(mac.chunks_exact_mut(MAC_OCTETS / 2))
    {
        let mut bits = 0;
        for &octet in half {
            bits = bits << 5 | digit(octet)?;
        }
        out.copy_from_slice(&bits.to_be_bytes()[3..]);
    }
    Some(mac)
}
