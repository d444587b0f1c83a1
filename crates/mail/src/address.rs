//! Mailboxes and domains (RFC 5321 section 4.1.2, RFC 6531 section 3.3, RFC 5890).
//!
//! A [`Mailbox`] is an address that may stand in RCPT TO: a local part, `@`, and a fully qualified
//! domain. What is kept is the normal form: the domain in lower-case A-labels, a quoted local part
//! without quotes wherever it does not need them. Two spellings that RFC 5321 calls equivalent so
//! become one text, and reading a normal form gives it back unchanged.
//!
//! Absences: no `Mailbox` has a source route, a comment, an address literal, a control, line
//! separator or bidirectional control character, a local part over 64 octets, a domain over 253
//! octets in A-labels, or more than 254 octets in all (256 with the angle brackets). A domain is
//! never in U-labels, so only a local part can make SMTPUTF8 necessary.
//!
//! Reading fails with an [`AddressFault`] that says what is wrong in words for the person who owns
//! the list. It never panics, and its time is linear in the text.

use core::borrow::Borrow;
use core::fmt;
use core::str::FromStr;
use std::borrow::Cow;

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[cfg(test)]
mod tests;

/// Longest local part in octets (RFC 5321 section 4.5.3.1.1).
pub const LOCAL_PART_LIMIT: usize = 64;
/// Longest mailbox in octets: a path of 256 less its angle brackets (section 4.5.3.1.3).
pub const MAILBOX_LIMIT: usize = 254;
/// Longest domain in octets of A-labels that DNS can carry (RFC 1035 section 2.3.4).
pub const DOMAIN_LIMIT: usize = 253;
/// Longest text that is looked at in search of an address; anything longer cannot be one, however
/// much quoting and encoding is removed from it.
const TEXT_LIMIT: usize = 2_048;

/// Why a text is not an address that can be written to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressFault {
    /// Nothing there.
    #[error("the address is empty")]
    Empty,
    /// No `@` outside quotes.
    #[error("there is no @ in the address")]
    NoAt,
    /// More than 254 octets in normal form.
    #[error("the address is longer than {MAILBOX_LIMIT} octets")]
    TooLong,
    /// Nothing before the `@`.
    #[error("there is nothing before the @")]
    LocalEmpty,
    /// More than 64 octets before the `@`.
    #[error("the part before the @ is longer than {LOCAL_PART_LIMIT} octets")]
    LocalTooLong,
    /// A dot at the start, at the end, or two together, outside quotes.
    #[error("a dot begins or ends the part before the @, or two dots follow one another")]
    LocalDots,
    /// A character that may not stand there.
    #[error("the character {0:?} may not stand in the part before the @")]
    LocalCharacter(char),
    /// A quoted local part without its closing quote, or with something between it and the `@`.
    #[error("the quotes before the @ are broken")]
    LocalQuotes,
    /// `<@relay:user@domain>` (obsolete; RFC 5321 appendix C).
    #[error("source routes are not used any more: write user@domain")]
    SourceRoute,
    /// `user(comment)@domain`: allowed in headers, not in an envelope.
    #[error("comments in parentheses are not part of an address")]
    Comment,
    /// `<user@domain>` or `Name <user@domain>`.
    #[error("write the bare address, without a name and without < >")]
    AngleBrackets,
    /// `user@[192.0.2.1]`.
    #[error("address literals in brackets are not written to: use a domain")]
    AddressLiteral,
    /// The part after the `@` is not a domain.
    #[error(transparent)]
    Domain(#[from] DomainFault),
}

/// Why a text is not a domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DomainFault {
    /// Nothing there.
    #[error("the domain is empty")]
    Empty,
    /// More than 253 octets in A-labels.
    #[error("the domain is longer than {DOMAIN_LIMIT} octets")]
    TooLong,
    /// A label is empty, longer than 63 octets, or begins or ends with a hyphen.
    #[error(
        "a part of the domain between dots is empty, longer than 63 characters, or has a hyphen at its edge"
    )]
    Label,
    /// A character that no host name has.
    #[error("the character {0:?} may not stand in a domain")]
    Character(char),
    /// Not a valid internationalised name (RFC 5891, UTS 46).
    #[error("the domain is not a valid internationalised domain name")]
    NotInternational,
    /// A mailbox at a name without a dot.
    #[error("the domain has no dot, so it names no mail domain of the Internet")]
    NotQualified,
    /// The last label is a number: an IP address, not a name.
    #[error("the domain ends in a number: an IP address is not a mail domain")]
    Numeric,
}

/// A domain name in lower-case A-labels, without a final dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain(Box<str>);

impl Domain {
    /// Reads a domain in A-labels, U-labels or a mixture, in any case.
    ///
    /// # Errors
    /// What is wrong with it. Underscores and a final dot are refused; one label (`localhost`) is
    /// a domain here, though not in a [`Mailbox`].
    pub fn parse(text: &str) -> Result<Self, DomainFault> {
        normalise_domain(text).map(|name| Self(name.into_owned().into_boxed_str()))
    }

    /// The normal form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl FromStr for Domain {
    type Err = DomainFault;

    fn from_str(text: &str) -> Result<Self, DomainFault> {
        Self::parse(text)
    }
}

impl AsRef<str> for Domain {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Domain {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for Domain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Domain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// An address that may stand in RCPT TO, in normal form.
///
/// Equality is by normal form: the local part in its own case. Use [`Mailbox::folded_key`] to
/// compare as quarantine does.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mailbox {
    text: Box<str>,
    /// Octets before the `@`; at most 64.
    at: u8,
}

impl Mailbox {
    /// Reads a bare address: `user@example.com`, `"john doe"@example.com`, `jörg@müller.de`.
    ///
    /// # Errors
    /// What is wrong with it; see the module's absences.
    pub fn parse(text: &str) -> Result<Self, AddressFault> {
        if text.is_empty() {
            return Err(AddressFault::Empty);
        }
        if text.len() > TEXT_LIMIT {
            return Err(AddressFault::TooLong);
        }
        let (local, rest) = match text.as_bytes()[0] {
            b'"' => unquote(text)?,
            _ => dot_atom(text)?,
        };
        if local.len() > LOCAL_PART_LIMIT {
            return Err(AddressFault::LocalTooLong);
        }
        if rest.starts_with('[') {
            return Err(AddressFault::AddressLiteral);
        }
        let domain = normalise_domain(rest)?;
        if local.len() + 1 + domain.len() > MAILBOX_LIMIT {
            return Err(AddressFault::TooLong);
        }
        let last = match memchr::memrchr(b'.', domain.as_bytes()) {
            Some(dot) => &domain.as_bytes()[dot + 1..],
            None => return Err(DomainFault::NotQualified.into()),
        };
        if last.iter().all(u8::is_ascii_digit) {
            return Err(DomainFault::Numeric.into());
        }
        let mut whole = String::with_capacity(local.len() + 1 + domain.len());
        whole.push_str(&local);
        whole.push('@');
        whole.push_str(&domain);
        let at = u8::try_from(local.len()).expect("a local part has at most 64 octets");
        Ok(Self { text: whole.into_boxed_str(), at })
    }

    /// The part before the `@`, with quotes where it needs them.
    #[must_use]
    pub fn local(&self) -> &str {
        &self.text[..usize::from(self.at)]
    }

    /// The domain in lower-case A-labels.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.text[usize::from(self.at) + 1..]
    }

    /// The whole address in normal form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The normal form, without a copy.
    #[must_use]
    pub fn into_boxed_str(self) -> Box<str> {
        self.text
    }

    /// Whether the local part has characters outside ASCII, so that the address can only be sent
    /// to a server that offers SMTPUTF8 (RFC 6531).
    #[must_use]
    pub fn needs_smtputf8(&self) -> bool {
        !self.text.is_ascii()
    }

    /// The key by which addresses are the same for quarantine and suppression: the local part
    /// lower-cased too. RFC 5321 leaves the case of a local part to its host; no large host tells
    /// them apart.
    #[must_use]
    pub fn folded_key(&self) -> Cow<'_, str> {
        if self.text.bytes().any(|octet| octet.is_ascii_uppercase() || !octet.is_ascii()) {
            Cow::Owned(self.text.to_lowercase())
        } else {
            Cow::Borrowed(&self.text)
        }
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Mailbox({})", self.text)
    }
}

impl FromStr for Mailbox {
    type Err = AddressFault;

    fn from_str(text: &str) -> Result<Self, AddressFault> {
        Self::parse(text)
    }
}

impl AsRef<str> for Mailbox {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl Serialize for Mailbox {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Mailbox {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// `atext` of RFC 5322 section 3.2.3, ASCII only.
const fn is_atext(octet: u8) -> bool {
    octet.is_ascii_alphanumeric()
        || matches!(
            octet,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'/'
                | b'='
                | b'?'
                | b'^'
                | b'_'
                | b'`'
                | b'{'
                | b'|'
                | b'}'
                | b'~'
        )
}

/// What an octet of an unquoted local part is: 1 `atext`, 2 a dot, 3 the `@`, 4 outside ASCII,
/// 0 anything else.
static LOCAL_CLASS: [u8; 256] = {
    let mut table = [0; 256];
    let mut octet = 0;
    while octet < 256 {
        table[octet] = match octet as u8 {
            b'.' => 2,
            b'@' => 3,
            128.. => 4,
            other => is_atext(other) as u8,
        };
        octet += 1;
    }
    table
};

/// Splits `text` after an unquoted local part.
fn dot_atom(text: &str) -> Result<(Cow<'_, str>, &str), AddressFault> {
    let octets = text.as_bytes();
    // A dot may stand neither first nor after a dot, so the start counts as one.
    let mut after_dot = true;
    let mut international = false;
    for (index, &octet) in octets.iter().enumerate() {
        match LOCAL_CLASS[usize::from(octet)] {
            1 => after_dot = false,
            2 if after_dot => return Err(AddressFault::LocalDots),
            2 => after_dot = true,
            3 if index == 0 => return Err(at_first(text)),
            3 if after_dot => return Err(AddressFault::LocalDots),
            3 => {
                let local = &text[..index];
                if international {
                    check_international(local)?;
                }
                return Ok((Cow::Borrowed(local), &text[index + 1..]));
            }
            4 => {
                after_dot = false;
                international = true;
            }
            _ => {
                return Err(match octet {
                    b'(' | b')' => AddressFault::Comment,
                    b'<' | b'>' => AddressFault::AngleBrackets,
                    _ if memchr::memchr(b'@', octets).is_none() => AddressFault::NoAt,
                    b' ' if text.ends_with('>') => AddressFault::AngleBrackets,
                    other => AddressFault::LocalCharacter(char::from(other)),
                });
            }
        }
    }
    Err(AddressFault::NoAt)
}

/// The fault of a text that begins with `@`.
fn at_first(text: &str) -> AddressFault {
    let route = text[1..].contains('@') && text.contains(':');
    if route { AddressFault::SourceRoute } else { AddressFault::LocalEmpty }
}

/// Splits `text` after a quoted local part and writes that in the shortest form: without quotes
/// where it is a dot-atom, else with a backslash before quote and backslash only (RFC 5321 section
/// 4.1.2 asks for the form with the fewest quoted characters).
fn unquote(text: &str) -> Result<(Cow<'_, str>, &str), AddressFault> {
    let mut content = String::new();
    let mut characters = text.char_indices().skip(1);
    let end = loop {
        match characters.next() {
            None => return Err(AddressFault::LocalQuotes),
            Some((index, '"')) => break index,
            Some((_, '\\')) => match characters.next() {
                Some((_, character @ ' '..='~')) => content.push(character),
                Some((_, character)) => return Err(AddressFault::LocalCharacter(character)),
                None => return Err(AddressFault::LocalQuotes),
            },
            Some((_, character)) if character.is_ascii_control() => {
                return Err(AddressFault::LocalCharacter(character));
            }
            Some((_, character)) => content.push(character),
        }
    };
    let rest = text[end + 1..].strip_prefix('@').ok_or(AddressFault::LocalQuotes)?;
    if content.is_empty() {
        return Err(AddressFault::LocalEmpty);
    }
    check_international(&content)?;
    let plain = content
        .split('.')
        .all(|atom| !atom.is_empty() && atom.bytes().all(|octet| octet >= 128 || is_atext(octet)));
    if plain {
        return Ok((Cow::Owned(content), rest));
    }
    let mut quoted = String::with_capacity(content.len() + 4);
    quoted.push('"');
    for character in content.chars() {
        if matches!(character, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(character);
    }
    quoted.push('"');
    Ok((Cow::Owned(quoted), rest))
}

/// Refuses characters outside ASCII that a person cannot see or that reorder what they see.
fn check_international(local: &str) -> Result<(), AddressFault> {
    match local.chars().find(|&character| !character.is_ascii() && is_hidden(character)) {
        Some(character) => Err(AddressFault::LocalCharacter(character)),
        None => Ok(()),
    }
}

/// Whether a character is a control, a space, a line separator, invisible, or a bidirectional
/// control; or no character at all.
fn is_hidden(character: char) -> bool {
    character.is_control()
        || character.is_whitespace()
        || matches!(
            character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffd}'
            | '\u{e0000}'..='\u{e007f}' | '\u{fdd0}'..='\u{fdef}'
        )
        || (u32::from(character) & 0xfffe) == 0xfffe
}

/// A domain in lower-case A-labels; borrowed when it was that already.
fn normalise_domain(text: &str) -> Result<Cow<'_, str>, DomainFault> {
    if text.is_empty() {
        return Err(DomainFault::Empty);
    }
    if text.len() > TEXT_LIMIT {
        return Err(DomainFault::TooLong);
    }
    let mut upper = false;
    let mut label_start = 0;
    let octets = text.as_bytes();
    let mut encoded = false;
    for (index, &octet) in octets.iter().enumerate() {
        match octet {
            b'a'..=b'z' | b'0'..=b'9' | b'-' => {}
            b'A'..=b'Z' => upper = true,
            b'.' => {
                encoded |= check_label(&octets[label_start..index])?;
                label_start = index + 1;
            }
            128.. => return international_domain(text),
            other => return Err(DomainFault::Character(char::from(other))),
        }
    }
    encoded |= check_label(&octets[label_start..])?;
    if encoded {
        return international_domain(text);
    }
    if text.len() > DOMAIN_LIMIT {
        return Err(DomainFault::TooLong);
    }
    Ok(if upper { Cow::Owned(text.to_ascii_lowercase()) } else { Cow::Borrowed(text) })
}

/// Checks one label of ASCII; answers whether it is an A-label (`xn--...`).
fn check_label(label: &[u8]) -> Result<bool, DomainFault> {
    match label {
        [] | [b'-', ..] | [.., b'-'] => Err(DomainFault::Label),
        _ if label.len() > 63 => Err(DomainFault::Label),
        [b'x' | b'X', b'n' | b'N', b'-', b'-', ..] => Ok(true),
        _ => Ok(false),
    }
}

/// The A-labels of a domain that has U-labels or claims to have A-labels.
fn international_domain(text: &str) -> Result<Cow<'_, str>, DomainFault> {
    if let Some(character) = text.chars().find(|&character| {
        (character.is_ascii() && !(character.is_ascii_alphanumeric() || "-.".contains(character)))
            || is_hidden(character)
    }) {
        return Err(DomainFault::Character(character));
    }
    let ascii = Uts46::new()
        .to_ascii(text.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast, DnsLength::Ignore)
        .map_err(|_| DomainFault::NotInternational)?;
    if ascii.len() > DOMAIN_LIMIT {
        return Err(DomainFault::TooLong);
    }
    for label in ascii.split('.') {
        check_label(label.as_bytes())?;
    }
    Ok(ascii)
}
