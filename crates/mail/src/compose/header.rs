//! Header fields: checks, folding, encoded words, addresses and parameters.

use crate::address::Mailbox;

use super::body::{base64_unbroken, push_escaped};
use super::charset::TextCharset;

/// Where lines are folded (RFC 5322 section 2.1.1: should be at most 78).
const FOLD_AT: usize = 78;
/// Longest line with an encoded word in it (RFC 2047 section 2).
const ENCODED_LINE: usize = 76;
/// Longest encoded word.
const ENCODED_WORD: usize = 75;
/// `=?UTF-8?Q?` and `?=`.
const ENCODED_WORD_FRAME: usize = 12;
/// Longest line at all (RFC 5322 section 2.1.1).
const LINE_LIMIT: usize = 998;
/// Longest unbroken word that is left unencoded in an unstructured field; above it, servers begin to
/// refuse.
const WORD_LIMIT: usize = 400;
/// Longest field name.
const NAME_LIMIT: usize = 76;
/// Longest value of one field, in octets, before encoding.
const VALUE_LIMIT: usize = 65_536;

/// Why a header field was not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// The name is empty, over 76 octets, or has a colon, space, control or non-ASCII character.
    #[error("{name:?} cannot be the name of a header field")]
    Name {
        /// The name, shortened.
        name: String,
    },
    /// The value has a line end, NUL or another control character.
    #[error("the header field {name} would contain the control character {character:?}")]
    Control {
        /// The field.
        name: String,
        /// The first such character.
        character: char,
    },
    /// A value that must be ASCII is not.
    #[error("the header field {name} may only contain ASCII characters")]
    NotAscii {
        /// The field.
        name: String,
    },
    /// The value is over 64 KiB, or a part that cannot be broken is over a line.
    #[error("the header field {name} is too long, or has a part too long for one line")]
    TooLong {
        /// The field.
        name: String,
    },
}

/// One address of an address field.
#[derive(Clone, Copy, Debug)]
pub struct AddressField<'a> {
    /// The name shown to people; empty: none.
    pub name: &'a str,
    /// The address.
    pub mailbox: &'a Mailbox,
}

/// Header fields in the octets that are sent. Each field is written whole or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    octets: Vec<u8>,
}

impl Headers {
    /// No fields yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// No fields yet, with room for so many octets.
    #[must_use]
    pub fn with_capacity(octets: usize) -> Self {
        Self { octets: Vec::with_capacity(octets) }
    }

    /// The fields written so far, each with its CRLF; without the empty line that ends a header.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.octets
    }

    /// The octets, without a copy.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.octets
    }

    /// Appends fields that were written before.
    pub fn append(&mut self, fields: &Self) {
        self.octets.extend_from_slice(&fields.octets);
    }

    /// An unstructured field, such as Subject: any text without control characters, as encoded words
    /// where it is not plain ASCII (or where folding could change its spaces).
    ///
    /// # Errors
    /// See [`HeaderFault`]. A tab is allowed; every other control character is refused.
    pub fn text(&mut self, name: &str, value: &str) -> Result<(), HeaderFault> {
        let scan = check(name, value)?;
        let mut line = self.begin(name);
        if scan.plain {
            line.words(value, name)?;
        } else {
            line.encoded(value);
        }
        line.end(name)
    }

    /// The same with encoded words in another character set; in UTF-8 where that set does not have every character.
    ///
    /// # Errors
    /// See [`Headers::text`].
    pub fn text_in(
        &mut self,
        name: &str,
        value: &str,
        charset: TextCharset,
    ) -> Result<(), HeaderFault> {
        let scan = check(name, value)?;
        if scan.plain || charset.is_utf8() || charset.encode(value).is_none() {
            return self.text(name, value);
        }
        let mut line = self.begin(name);
        line.encoded_in(value, charset);
        line.end(name)
    }

    /// A structured field of ASCII tokens that are never encoded, such as List-Unsubscribe; it is
    /// folded at its spaces.
    ///
    /// # Errors
    /// See [`HeaderFault`].
    pub fn tokens(&mut self, name: &str, value: &str) -> Result<(), HeaderFault> {
        check(name, value)?;
        if !value.is_ascii() {
            return Err(HeaderFault::NotAscii { name: name.into() });
        }
        let mut line = self.begin(name);
        line.words(value, name)?;
        line.end(name)
    }

    /// An address field, such as From or To.
    ///
    /// # Errors
    /// See [`HeaderFault`].
    pub fn addresses(
        &mut self,
        name: &str,
        addresses: &[AddressField<'_>],
    ) -> Result<(), HeaderFault> {
        check(name, "")?;
        for address in addresses {
            check(name, address.name)?;
        }
        let mut line = self.begin(name);
        for (index, address) in addresses.iter().enumerate() {
            if index > 0 {
                line.octets.push(b',');
                line.column += 1;
            }
            let mailbox = address.mailbox.as_str();
            if address.name.is_empty() {
                line.unit(&[mailbox.as_bytes()]);
            } else {
                line.phrase(address.name);
                line.unit(&[b"<", mailbox.as_bytes(), b">"]);
            }
        }
        line.end(name)
    }

    /// A field with parameters, such as Content-Type (RFC 2045 section 5.1; values outside ASCII or
    /// too long for a line as in RFC 2231).
    ///
    /// # Errors
    /// See [`HeaderFault`].
    pub fn parameters(
        &mut self,
        name: &str,
        value: &str,
        parameters: &[(&str, &str)],
    ) -> Result<(), HeaderFault> {
        check(name, value)?;
        for (parameter, text) in parameters {
            check(name, text)?;
            if parameter.is_empty() || !parameter.bytes().all(is_token) {
                return Err(HeaderFault::Name { name: shortened(parameter) });
            }
        }
        if !value.is_ascii() {
            return Err(HeaderFault::NotAscii { name: name.into() });
        }
        let mut line = self.begin(name);
        line.words(value, name)?;
        for (parameter, text) in parameters {
            line.parameter(parameter, text);
        }
        line.end(name)
    }

    /// Begins a field.
    fn begin(&mut self, name: &str) -> Line<'_> {
        let start = self.octets.len();
        self.octets.extend_from_slice(name.as_bytes());
        self.octets.push(b':');
        Line { column: name.len() + 1, start, octets: &mut self.octets }
    }
}

/// What a look at a value told.
struct Scan {
    /// It can be written as it is: ASCII, single spaces, no long word, nothing that looks encoded.
    plain: bool,
}

/// Checks name and value of a field.
fn check(name: &str, value: &str) -> Result<Scan, HeaderFault> {
    if name.is_empty()
        || name.len() > NAME_LIMIT
        || !name.bytes().all(|octet| octet.is_ascii_graphic() && octet != b':')
    {
        return Err(HeaderFault::Name { name: shortened(name) });
    }
    if value.len() > VALUE_LIMIT {
        return Err(HeaderFault::TooLong { name: name.into() });
    }
    let mut plain = true;
    let mut word = 0;
    let mut before = b' ';
    for &octet in value.as_bytes() {
        match octet {
            b' ' => {
                plain &= before != b' ';
                word = 0;
            }
            b'?' if before == b'=' => plain = false,
            b'\t' | 128.. => plain = false,
            0..32 | 127 => {
                return Err(HeaderFault::Control {
                    name: name.into(),
                    character: char::from(octet),
                });
            }
            _ => {}
        }
        word += 1;
        plain &= word <= WORD_LIMIT;
        before = octet;
    }
    plain &= before != b' ' || value.is_empty();
    if !plain && let Some(character) = value.chars().find(|&character| breaks_lines(character)) {
        return Err(HeaderFault::Control { name: name.into(), character });
    }
    Ok(Scan { plain })
}

/// C1 controls and the separators that some programs take for line ends.
fn breaks_lines(character: char) -> bool {
    matches!(character, '\u{80}'..='\u{9f}' | '\u{2028}' | '\u{2029}')
}

/// A name for a fault: at most 40 characters of it.
fn shortened(name: &str) -> String {
    name.chars().take(40).collect()
}

/// A character of a MIME token (RFC 2045 section 5.1) that RFC 2231 allows in parameter names too.
fn is_token(octet: u8) -> bool {
    octet.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=*'%".contains(&octet)
}

/// A field being written.
struct Line<'a> {
    octets: &'a mut Vec<u8>,
    /// Where the field begins, so that it can be taken back.
    start: usize,
    /// Octets of the current line so far.
    column: usize,
}

impl Line<'_> {
    /// Ends the field, or takes it back when a line came out too long.
    fn end(self, name: &str) -> Result<(), HeaderFault> {
        let written = &self.octets[self.start..];
        if written.len() > LINE_LIMIT {
            let longest = written.split(|&octet| octet == b'\n').map(<[u8]>::len).max();
            // A line but the last counts its CR.
            if longest.is_some_and(|longest| longest > LINE_LIMIT) {
                self.octets.truncate(self.start);
                return Err(HeaderFault::TooLong { name: name.into() });
            }
        }
        self.octets.extend_from_slice(b"\r\n");
        Ok(())
    }

    /// Goes to a new line that continues the field.
    fn fold(&mut self) {
        self.octets.extend_from_slice(b"\r\n ");
        self.column = 1;
    }

    /// A space, or a fold when `length` more octets do not fit before `limit`.
    fn space_for(&mut self, length: usize, limit: usize) {
        // The first line keeps its first word even when that is long: a line with only the name
        // confuses some readers.
        let first =
            self.octets.last() == Some(&b':') && self.octets.len() - self.start == self.column;
        if self.column + 1 + length > limit && self.column > 1 && !first {
            self.fold();
        } else {
            self.octets.push(b' ');
            self.column += 1;
        }
    }

    /// Octets that belong together, after a space or fold.
    fn unit(&mut self, pieces: &[&[u8]]) {
        let length = pieces.iter().map(|piece| piece.len()).sum();
        self.space_for(length, FOLD_AT);
        for piece in pieces {
            self.octets.extend_from_slice(piece);
        }
        self.column += length;
    }

    /// Words of ASCII, folded between them.
    fn words(&mut self, value: &str, name: &str) -> Result<(), HeaderFault> {
        if self.column + 1 + value.len() <= FOLD_AT && !value.is_empty() {
            self.octets.push(b' ');
            self.octets.extend_from_slice(value.as_bytes());
            self.column += 1 + value.len();
            return Ok(());
        }
        for word in value.split([' ', '\t']).filter(|word| !word.is_empty()) {
            if word.len() >= LINE_LIMIT {
                self.octets.truncate(self.start);
                return Err(HeaderFault::TooLong { name: name.into() });
            }
            self.unit(&[word.as_bytes()]);
        }
        Ok(())
    }

    /// A text as encoded words (RFC 2047), cut between characters. The letters allowed are those
    /// that may stand in a phrase, the strictest place.
    fn encoded(&mut self, text: &str) {
        let escaped = text.bytes().filter(|&octet| octet != b' ' && !is_phrase_safe(octet)).count();
        let quoted = text.len() + 2 * escaped <= text.len().div_ceil(3) * 4;
        let mut rest = text;
        while !rest.is_empty() {
            // A word of the least useful size must fit, else it goes to a line of its own.
            self.space_for(ENCODED_WORD_FRAME + 16, ENCODED_LINE);
            let room = ENCODED_WORD.min(ENCODED_LINE.saturating_sub(self.column)).max(
                // After a field name of nearly a line's length the word is longer than the line
                // should be, but never longer than a word may be.
                ENCODED_WORD_FRAME + 16,
            ) - ENCODED_WORD_FRAME;
            let taken = fitting(rest, room, quoted);
            let (word, after) = rest.split_at(taken);
            let before = self.octets.len();
            if quoted {
                self.octets.extend_from_slice(b"=?UTF-8?Q?");
                for octet in word.bytes() {
                    match octet {
                        b' ' => self.octets.push(b'_'),
                        _ if is_phrase_safe(octet) => self.octets.push(octet),
                        _ => push_escaped(octet, self.octets),
                    }
                }
            } else {
                self.octets.extend_from_slice(b"=?UTF-8?B?");
                base64_unbroken(word.as_bytes(), self.octets);
            }
            self.octets.extend_from_slice(b"?=");
            self.column += self.octets.len() - before;
            rest = after;
        }
    }

    /// A text as encoded words in base 64, each of which stands for itself: what changes the state of the character
    /// set is undone within the word (RFC 2047, 3).
    fn encoded_in(&mut self, text: &str, charset: TextCharset) {
        let name = charset.name().to_ascii_uppercase();
        let frame = name.len() + 7;
        let mut rest = text;
        while !rest.is_empty() {
            self.space_for(frame + 16, ENCODED_LINE);
            let line = ENCODED_LINE.saturating_sub(self.column);
            let room = ENCODED_WORD.min(line).max(frame + 16) - frame;
            let mut taken = (0, Vec::new());
            for (begin, letter) in rest.char_indices() {
                let end = begin + letter.len_utf8();
                let Some(octets) = charset.encode(&rest[..end]) else { break };
                if octets.len().div_ceil(3) * 4 > room && taken.0 > 0 {
                    break;
                }
                taken = (end, octets);
            }
            let before = self.octets.len();
            self.octets.extend_from_slice(format!("=?{name}?B?").as_bytes());
            base64_unbroken(&taken.1, self.octets);
            self.octets.extend_from_slice(b"?=");
            self.column += self.octets.len() - before;
            rest = &rest[taken.0.max(1)..];
        }
    }

    /// A display name: words, a quoted string or encoded words, whichever is the plainest that can
    /// carry it.
    fn phrase(&mut self, name: &str) {
        let plain = name.is_ascii() && name.len() <= 60 && !name.contains(['\t', '=', '?']);
        let spaced = name.starts_with(' ') || name.ends_with(' ') || name.contains("  ");
        if !plain || spaced {
            self.encoded(name);
        } else if name.bytes().all(|octet| octet == b' ' || is_phrase_safe(octet)) {
            self.unit(&[name.as_bytes()]);
        } else {
            let quoted = name.replace('\\', "\\\\").replace('"', "\\\"");
            self.unit(&[b"\"", quoted.as_bytes(), b"\""]);
        }
    }

    /// `; name=value` in the plainest form that can carry the value.
    fn parameter(&mut self, name: &str, value: &str) {
        self.octets.push(b';');
        self.column += 1;
        let short = name.len() + value.len() + 6 <= FOLD_AT;
        if short && !value.is_empty() && value.bytes().all(is_token) {
            self.unit(&[name.as_bytes(), b"=", value.as_bytes()]);
        } else if short
            && value.bytes().all(|octet| octet == b' ' || octet.is_ascii_graphic())
            // Many readers decode an encoded word here too (against RFC 2047, 5), and would show
            // another value than was stated.
            && !value.contains("=?")
        {
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            self.unit(&[name.as_bytes(), b"=\"", quoted.as_bytes(), b"\""]);
        } else {
            self.extended_parameter(name, value);
        }
    }

    /// RFC 2231: `name*=UTF-8''...`, in numbered sections where one line does not hold it.
    fn extended_parameter(&mut self, name: &str, value: &str) {
        let mut encoded = Vec::with_capacity(value.len() * 3);
        let mut sections = Vec::new();
        let room = (FOLD_AT - 20).saturating_sub(name.len()).max(12);
        // Sections are cut between characters: some readers decode each section by itself.
        for character in value.chars() {
            if encoded.len() + 3 * character.len_utf8() > room {
                sections.push(core::mem::take(&mut encoded));
            }
            for &octet in character.encode_utf8(&mut [0; 4]).as_bytes() {
                if is_token(octet) {
                    encoded.push(octet);
                } else {
                    push_escaped(octet, &mut encoded);
                    let sign = encoded.len() - 3;
                    encoded[sign] = b'%';
                }
            }
        }
        sections.push(encoded);
        if let [only] = sections.as_slice() {
            self.unit(&[name.as_bytes(), b"*=UTF-8''", only]);
            return;
        }
        let last = sections.len() - 1;
        for (number, section) in sections.iter().enumerate() {
            let charset: &[u8] = if number == 0 { b"UTF-8''" } else { b"" };
            let end: &[u8] = if number == last { b"" } else { b";" };
            let number = number.to_string();
            self.unit(&[name.as_bytes(), b"*", number.as_bytes(), b"*=", charset, section, end]);
        }
    }
}

/// Octets that stand for themselves in an encoded word inside a phrase (RFC 2047 section 5).
fn is_phrase_safe(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"!*+-/".contains(&octet)
}

/// How many octets of `text`, whole characters, fit into `room` encoded octets; at least one
/// character.
fn fitting(text: &str, room: usize, quoted: bool) -> usize {
    let mut used = 0;
    for (index, character) in text.char_indices() {
        if quoted {
            let plain = character == ' ' || character.is_ascii() && is_phrase_safe(character as u8);
            used += if plain { 1 } else { 3 * character.len_utf8() };
        } else {
            used = (index + character.len_utf8()).div_ceil(3) * 4;
        }
        if used > room && index > 0 {
            return index;
        }
    }
    text.len()
}
