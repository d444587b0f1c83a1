//! What is left of our own message in a mail that came back.

use super::address;
use super::mime::{self, Fields};

/// Fields of our message that are kept beside the named ones.
const EXTENSIONS_MAXIMUM: usize = 48;
/// Octets of one value that are kept.
const VALUE_MAXIMUM: usize = 1000;

/// The header of our message, as far as it came back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Returned {
    /// Every `Message-ID`, without the angle brackets; more than one where it was forwarded.
    pub message_ids: Vec<String>,
    /// The addresses of `To`, at most 100.
    pub to: Vec<String>,
    /// The address of `From`.
    pub from: String,
    /// The recipient in the last `Received` that names one (`for <...>`): the envelope of our message.
    pub received_for: String,
    /// `Subject`, decoded.
    pub subject: String,
    /// `Date` as it stands.
    pub date: String,
    /// `Return-Path` without brackets: our VERP address where it survived.
    pub return_path: String,
    /// `List-Unsubscribe` as it stands.
    pub list_unsubscribe: String,
    /// `Feedback-ID` as it stands.
    pub feedback_id: String,
    /// The fields whose names begin with `X-`, and those that name an envelope recipient; names in
    /// lower case.
    pub extensions: Vec<(String, String)>,
}

impl Returned {
    /// Reads the header at the beginning of `octets`; `None` where there is none.
    #[must_use]
    pub fn read(octets: &[u8]) -> Option<Self> {
        let start = octets.iter().position(|octet| !matches!(octet, b'\r' | b'\n'))?;
        let octets = &octets[start..octets.len().min(start + mime::HEADER_MAXIMUM)];
        // Some indent what they return, or quote it.
        let mark = octets
            .iter()
            .take(16)
            .take_while(|octet| matches!(octet, b' ' | b'\t' | b'>' | b'|'))
            .count();
        let plain;
        let octets = if mark > 0 && !octets.starts_with(b">From ") {
            let prefix = &octets[..mark];
            plain = octets
                .split_inclusive(|octet| *octet == b'\n')
                .take(mime::FIELDS_MAXIMUM)
                .map(|line| line.strip_prefix(prefix).unwrap_or(line))
                .collect::<Vec<_>>()
                .concat();
            plain.as_slice()
        } else {
            octets
        };
        let (fields, _) = mime::header(octets, &mut Vec::new());
        Self::from_fields(&fields)
    }

    /// The same from fields that were split already.
    #[must_use]
    pub fn from_fields(fields: &Fields<'_>) -> Option<Self> {
        let mut out = Self::default();
        let mut useful = false;
        for (name, value) in fields.iter() {
            if name.len() < 2 || value.is_empty() {
                continue;
            }
            let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
            match name[0] | 0x20 {
                b'm' if is("message-id") && out.message_ids.len() < 8 => {
                    out.message_ids.push(message_id(value));
                }
                b't' if is("to") && out.to.is_empty() => addresses(value, &mut out.to),
                b'f' if is("from") && out.from.is_empty() => {
                    let text = super::decode::words(value, VALUE_MAXIMUM);
                    out.from = address::from_value(&text).unwrap_or_default().to_owned();
                }
                b'f' if is("feedback-id") => {
                    out.feedback_id = super::decode::words(value, VALUE_MAXIMUM)
                }
                b's' if is("subject") => out.subject = super::decode::words(value, VALUE_MAXIMUM),
                b'd' if is("date") => out.date = super::decode::words(value, VALUE_MAXIMUM),
                b'r' if is("received") => {
                    if let Some(found) = received_for(value) {
                        out.received_for = found;
                    }
                }
                b'r' if is("return-path") => {
                    let text = super::decode::words(value, VALUE_MAXIMUM);
                    out.return_path = text.trim_matches(['<', '>', ' ']).to_owned();
                }
                b'l' if is("list-unsubscribe") => {
                    out.list_unsubscribe = super::decode::words(value, VALUE_MAXIMUM)
                }
                // Long ones hold signatures and scores of filters, nothing that leads back to us.
                b'x' | b'd' | b'e' | b'o' if value.len() <= 400 && out.is_extension(name) => {
                    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
                    out.extensions.push((name, super::decode::words(value, VALUE_MAXIMUM)));
                }
                _ => continue,
            }
            useful = true;
        }
        useful.then_some(out)
    }

    /// Whether a field is worth keeping by its name.
    fn is_extension(&self, name: &[u8]) -> bool {
        self.extensions.len() < EXTENSIONS_MAXIMUM
            && (name.len() > 2
                && name[..2].eq_ignore_ascii_case(b"x-")
                && !name.get(..12).is_some_and(|start| start.eq_ignore_ascii_case(b"x-ms-exchang"))
                || [&b"delivered-to"[..], b"envelope-to", b"original-recipient"]
                    .iter()
                    .any(|known| name.eq_ignore_ascii_case(known)))
    }

    /// The values of an extension field; `name` in lower case.
    pub fn extension<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.extensions
            .iter()
            .filter(move |(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

/// The address after `for` in a `Received` field.
fn received_for(value: &[u8]) -> Option<String> {
    let at =
        memchr::memmem::rfind(value, b"for <").or_else(|| memchr::memmem::rfind(value, b"for "))?;
    let text = String::from_utf8_lossy(&value[at + 4..value.len().min(at + 300)]);
    let text = text.split([';', ' ']).next()?;
    address::from_value(text).map(str::to_owned)
}

/// A Message-ID without its brackets and what stands around them.
fn message_id(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(&value[..value.len().min(VALUE_MAXIMUM)]);
    let text = text.trim();
    match (text.find('<'), text.rfind('>')) {
        (Some(open), Some(close)) if open < close => text[open + 1..close].trim().to_owned(),
        _ => text.trim_matches(['<', '>', ' ']).to_owned(),
    }
}

/// Adds the addresses of a field to `out`.
pub fn addresses(value: &[u8], out: &mut Vec<String>) {
    let text = super::decode::words(value, 32 << 10);
    let mut at = 0;
    while out.len() < 100
        && let Some(found) = address::next(&text, at)
    {
        let one = &text[found.start..found.end];
        if !out.iter().any(|known| address::same(known, one)) {
            out.push(one.to_owned());
        }
        at = found.end;
    }
}
