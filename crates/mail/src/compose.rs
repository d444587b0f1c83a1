//! From header fields and bodies to the octets of a message (RFC 5322, 2045-2047, 2231).
//!
//! [`Headers`] is the only way in which header fields are written: every name and value passes its
//! checks, so data of a recipient, a template or an API caller can never begin a field of its own.
//! [`quoted_printable`] and [`base64`] make bodies of 7-bit lines; [`Multipart`] puts parts together.
//!
//! Invariants of everything written here: lines end in CRLF and nothing else is a CR or LF; no octet
//! is NUL; no line is longer than 998 octets (76 in bodies that are transfer-encoded); all is ASCII, except an
//! address whose local part is not (then the message needs SMTPUTF8 anyway) and a body that is to travel in 8 bits. The same input gives the same octets.
//!
//! A field that breaks a rule fails with a [`HeaderFault`] and writes nothing.

use crate::address::Domain;
use crate::time::{Timestamp, civil_date};
use crate::verp::{MessageNames, Purpose};

pub use body::{TransferEncoding, base64, quoted_printable};
pub use charset::{TextCharset, Unmappable, within_lines};
pub use header::{AddressField, HeaderFault, Headers};

mod body;
mod charset;
mod header;
#[cfg(test)]
mod tests;

/// A Date field's value in UTC (RFC 5322 section 3.3): `Sat, 21 Nov 2026 07:16:19 +0000`.
#[must_use]
pub fn date(at: Timestamp) -> String {
    const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let days = at.as_secs() / 86_400;
    let second = at.as_secs() % 86_400;
    let (year, month, day) = civil_date(days);
    // 1970-01-01 was a Thursday.
    let weekday = DAYS[((days + 4) % 7) as usize];
    let month = MONTHS[(month - 1) as usize];
    let mut out = String::with_capacity(31);
    out.push_str(weekday);
    out.push_str(", ");
    push_decimal(day, 1, &mut out);
    out.push(' ');
    out.push_str(month);
    out.push(' ');
    push_decimal(year, 4, &mut out);
    for (separator, figure) in [(' ', second / 3_600), (':', second / 60 % 60), (':', second % 60)]
    {
        out.push(separator);
        push_decimal(figure, 2, &mut out);
    }
    out.push_str(" +0000");
    out
}

/// Appends a number with at least `width` digits.
fn push_decimal(number: u64, width: usize, out: &mut String) {
    let mut digits = [b'0'; 20];
    let mut rest = number;
    let mut start = digits.len();
    while rest > 0 || digits.len() - start < width {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    out.extend(digits[start..].iter().map(|&digit| char::from(digit)));
}

/// A Message-ID with its angle brackets. It is the same at every attempt of the message, differs
/// between messages, and [`crate::verp::ReturnPath::decode_name`] reads its left side back.
#[must_use]
pub fn message_id(names: &MessageNames, domain: &Domain) -> String {
    let mut out = String::with_capacity(52 + domain.as_str().len());
    out.push('<');
    names.push(Purpose::MessageId, &mut out);
    out.push('@');
    out.push_str(domain.as_str());
    out.push('>');
    out
}

/// How every boundary begins.
const BOUNDARY_FRONT: &str = "=_mw";

/// A multipart body under construction (RFC 2046 section 5.1).
///
/// The boundary contains `=_`, which neither quoted-printable nor base64 can produce, so no content
/// can contain it (RFC 2045 section 6.7). Text that is carried as it is can: ask
/// [`has_delimiter`](Multipart::has_delimiter).
#[derive(Clone, Debug)]
pub struct Multipart {
    boundary: String,
}

impl Multipart {
    /// A multipart whose boundary follows from `seed`: octets that are the same whenever the same
    /// message is built. Multiparts inside one another need different seeds.
    #[must_use]
    pub fn new(seed: &[u8]) -> Self {
        use sha2::Digest;
        let digest = sha2::Sha256::digest(seed);
        let mut boundary = String::from(BOUNDARY_FRONT);
        for octet in &digest[..12] {
            for nibble in [octet >> 4, octet & 15] {
                boundary.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
            }
        }
        Self { boundary }
    }

    /// Whether a body that is carried without an encoding has a line that a reader could take for a
    /// delimiter of any multipart made here, and so for the end of its part.
    #[must_use]
    pub fn has_delimiter(body: &[u8]) -> bool {
        let front = ["--", BOUNDARY_FRONT].concat();
        body.split(|octet| *octet == b'\n').any(|line| line.starts_with(front.as_bytes()))
    }

    /// The boundary, without leading hyphens: 28 characters.
    #[must_use]
    pub fn boundary(&self) -> &str {
        &self.boundary
    }

    /// Writes the Content-Type field of the multipart; `subtype` is for example `alternative`.
    ///
    /// # Errors
    /// A subtype that is no token.
    pub fn content_type(&self, headers: &mut Headers, subtype: &str) -> Result<(), HeaderFault> {
        let value = ["multipart/", subtype].concat();
        headers.parameters("Content-Type", &value, &[("boundary", &self.boundary)])
    }

    /// Begins a part: delimiter, its header fields, the empty line. Its content follows.
    pub fn open_part(&self, headers: &Headers, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\r\n--");
        out.extend_from_slice(self.boundary.as_bytes());
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(headers.as_bytes());
        out.extend_from_slice(b"\r\n");
    }

    /// Ends the multipart after the content of its last part.
    pub fn close(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\r\n--");
        out.extend_from_slice(self.boundary.as_bytes());
        out.extend_from_slice(b"--\r\n");
    }
}
