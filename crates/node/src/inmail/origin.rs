//! Where a mail came from, kept as the first line of its file.
//!
//! The line looks like a header field, so that the file is still a mail for every program. It is
//! always ours and always the first: one that the mail brought along itself stands behind it and
//! says nothing.

use mail::time::Timestamp;
use serde::{Deserialize, Serialize};

/// What the line begins with.
const FIELD: &[u8] = b"X-Mailweir-Origin: ";
/// Octets of the line at most: 1,000 recipients of 254 octets, and some more.
pub(super) const LONGEST_LINE: usize = 1 << 20;

/// The way a mail came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// The SMTP listener.
    Smtp,
    /// The LMTP listener.
    Lmtp,
    /// A POP3 mailbox.
    Pop3,
    /// An IMAP mailbox.
    Imap,
    /// The spool folder.
    #[default]
    Spool,
}

/// Where a mail came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The way.
    pub way: Way,
    /// The peer's address, the name of the mailbox, or the name of the file.
    #[serde(default)]
    pub from: String,
    /// When it came, in microseconds since 1970.
    #[serde(default)]
    pub at_micros: u64,
    /// The return path of the envelope, empty for the null sender; `None`: there was no envelope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<String>,
    /// The recipients of the envelope; empty: there was no envelope. They have been checked to be in
    /// our domains and are worth more than what the header says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<String>,
    /// Whether the mail was cut because it was too large; it is still in its mailbox then.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub cut: bool,
}

impl Origin {
    /// When it came.
    #[must_use]
    pub const fn at(&self) -> Timestamp {
        Timestamp::from_micros(self.at_micros)
    }

    /// The line, with its end.
    pub(super) fn line(&self) -> Vec<u8> {
        let mut line = FIELD.to_vec();
        // A struct of texts and numbers always has a JSON form; controls are escaped in it.
        serde_json::to_writer(&mut line, self).expect("texts and numbers can be written as JSON");
        line.extend_from_slice(b"\r\n");
        line
    }

    /// Takes the line off the front of a file: origin and mail. `None`: there is none.
    pub(super) fn split(file: &[u8]) -> Option<(Self, &[u8])> {
        let rest = file.strip_prefix(FIELD)?;
        let end = memchr::memchr(b'\n', &rest[..rest.len().min(LONGEST_LINE)])?;
        let origin = serde_json::from_slice(rest[..end].trim_ascii_end()).ok()?;
        Some((origin, &rest[end + 1..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_one_line_and_comes_back() {
        let origin = Origin {
            way: Way::Smtp,
            from: "192.0.2.1\r\nX: y".into(),
            at_micros: 5,
            sender: Some(String::new()),
            recipients: vec!["ü@example".into()],
            cut: true,
        };
        let file = [&origin.line()[..], b"Subject: a\r\n\r\n"].concat();
        assert_eq!(file.iter().filter(|octet| **octet == b'\n').count(), 3);
        let (read, rest) = Origin::split(&file).unwrap();
        assert_eq!((read, rest), (origin, &b"Subject: a\r\n\r\n"[..]));
        for other in ["", "Subject: a\r\n", "X-Mailweir-Origin: {", "X-Mailweir-Origin: {}\r\n"] {
            assert!(Origin::split(other.as_bytes()).is_none(), "{other}");
        }
    }
}
