//! What a remote server said, byte for byte.
//!
//! A [`Reply`] keeps every octet of a (multi-line) SMTP reply as it came, without the line ends, so
//! that rules can match on it. It is shown to people only through [`core::fmt::Display`], which joins the
//! lines and escapes control octets: a reply can never move a terminal's cursor or break a log line.

use core::fmt;

use serde::{Deserialize, Serialize};

/// An enhanced status code, `class.subject.detail` (RFC 3463). Class is 2, 4 or 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EnhancedStatus {
    /// 2 success, 4 persistent transient failure, 5 permanent failure.
    pub class: u8,
    /// 0 to 999.
    pub subject: u16,
    /// 0 to 999.
    pub detail: u16,
}

impl EnhancedStatus {
    /// A code from its three numbers.
    #[must_use]
    pub const fn new(class: u8, subject: u16, detail: u16) -> Self {
        Self { class, subject, detail }
    }

    /// Reads a code at the beginning of `text`, ended by a space or the end of the text.
    #[must_use]
    pub fn read(text: &[u8]) -> Option<Self> {
        let end = text.iter().position(|byte| *byte == b' ').unwrap_or(text.len());
        let mut parts = text[..end].split(|byte| *byte == b'.');
        let class = match parts.next()? {
            b"2" => 2,
            b"4" => 4,
            b"5" => 5,
            _ => return None,
        };
        let subject = number(parts.next()?)?;
        let detail = number(parts.next()?)?;
        parts.next().is_none().then_some(Self { class, subject, detail })
    }
}

/// One to three digits.
fn number(digits: &[u8]) -> Option<u16> {
    if digits.is_empty() || digits.len() > 3 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0')))
}

impl fmt::Display for EnhancedStatus {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

/// The first digit of a reply code; all that unknown codes may be judged by (RFC 5321, 4.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReplyClass {
    /// 2yz.
    Success,
    /// 3yz.
    Intermediate,
    /// 4yz.
    Transient,
    /// 5yz.
    Permanent,
    /// Anything else: a protocol error, to be treated as temporary.
    Unknown,
}

/// One reply: a code and the text of each of its lines.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reply {
    code: u16,
    /// The whole lines (with their code), joined by LF, without CR LF at the end.
    raw: Box<[u8]>,
}

impl Reply {
    /// A reply from its code and its whole lines, joined by a single LF, without the final line end.
    #[must_use]
    pub fn from_raw(code: u16, raw: impl Into<Box<[u8]>>) -> Self {
        Self { code, raw: raw.into() }
    }

    /// A reply of one line, for servers that we play ourselves and for tests.
    #[must_use]
    pub fn line(code: u16, text: &str) -> Self {
        Self { code, raw: format!("{code} {text}").into_bytes().into_boxed_slice() }
    }

    /// The three-digit code.
    #[must_use]
    pub const fn code(&self) -> u16 {
        self.code
    }

    /// What the first digit says.
    #[must_use]
    pub const fn class(&self) -> ReplyClass {
        match self.code / 100 {
            2 => ReplyClass::Success,
            3 => ReplyClass::Intermediate,
            4 => ReplyClass::Transient,
            5 => ReplyClass::Permanent,
            _ => ReplyClass::Unknown,
        }
    }

    /// Every octet that came, lines joined by LF.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The lines without code and separator.
    pub fn text_lines(&self) -> impl Iterator<Item = &[u8]> {
        self.raw.split(|byte| *byte == b'\n').map(|line| line.get(4..).unwrap_or_default())
    }

    /// The enhanced status code at the beginning of the first line's text, if any.
    #[must_use]
    pub fn enhanced(&self) -> Option<EnhancedStatus> {
        self.text_lines().next().and_then(EnhancedStatus::read)
    }
}

impl fmt::Display for Reply {
    /// One line for people: lines joined by ` / `, control octets escaped, octets above 127 shown
    /// as UTF-8 where they are and as `\xNN` where not.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, line) in self.raw.split(|byte| *byte == b'\n').enumerate() {
            if number > 0 {
                out.write_str(" / ")?;
            }
            write_escaped(out, line)?;
        }
        Ok(())
    }
}

/// Whether a character can make a terminal, a log or a page show something else than what stands there: control
/// characters, those that turn the direction of writing, those that cannot be seen, and the line ends that only Unicode
/// knows.
#[must_use]
pub fn is_deceptive(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200B}' | '\u{200E}' | '\u{200F}' | '\u{061C}' | '\u{FEFF}')
        || matches!(character, '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}')
        || matches!(character, '\u{E0000}'..='\u{E007F}')
}

/// A JSON document in which every deceptive character of its texts is written as `\uNNNN`, which every reader of JSON
/// takes for the same character. JSON itself demands that only of the first 32, and lets the others steer the terminal
/// of whoever looks at the document.
#[must_use]
pub fn escaped_json(json: String) -> String {
    let stays = |character: char| matches!(character, '\n' | ' '..='~') || !is_deceptive(character);
    if json.chars().all(stays) {
        return json;
    }
    let mut safe = String::with_capacity(json.len() + 64);
    for character in json.chars() {
        if stays(character) {
            safe.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = fmt::Write::write_fmt(&mut safe, format_args!("\\u{unit:04x}"));
            }
        }
    }
    safe
}

/// Writes octets from outside so that they can harm neither a terminal nor a log.
///
/// # Errors
/// Those of `out`.
pub fn write_escaped(out: &mut impl fmt::Write, octets: &[u8]) -> fmt::Result {
    // Nearly all that is ever written is plain text, and goes in one piece.
    if octets.iter().all(|octet| matches!(octet, b' '..=b'~'))
        && let Ok(text) = str::from_utf8(octets)
    {
        return out.write_str(text);
    }
    for chunk in octets.utf8_chunks() {
        for character in chunk.valid().chars() {
            if is_deceptive(character) {
                write!(out, "{}", character.escape_unicode())?;
            } else {
                out.write_char(character)?;
            }
        }
        for octet in chunk.invalid() {
            write!(out, "\\x{octet:02x}")?;
        }
    }
    Ok(())
}

/// `octets` as a text that is safe to show; see [`write_escaped`].
#[must_use]
pub fn escaped(octets: &[u8]) -> String {
    let mut text = String::with_capacity(octets.len());
    // Writing to a String cannot fail.
    let _ = write_escaped(&mut text, octets);
    text
}

impl Serialize for Reply {
    /// As its [`Display`](fmt::Display) form, but lines joined by LF, so that nothing is lost that was text.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(self.raw.len());
        for (number, line) in self.raw.split(|byte| *byte == b'\n').enumerate() {
            if number > 0 {
                text.push('\n');
            }
            write_escaped(&mut text, line).map_err(serde::ser::Error::custom)?;
        }
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Reply {
    /// Reads the text form; the code is that of the first line, 0 when it has none.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let code = text.get(..3).and_then(|digits| digits.parse().ok()).unwrap_or(0);
        Ok(Self::from_raw(code, text.into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_lines_and_finds_the_status() {
        let reply = Reply::from_raw(550, *b"550-5.1.1 first\n550 second");
        assert_eq!(reply.class(), ReplyClass::Permanent);
        assert_eq!(reply.enhanced(), Some(EnhancedStatus::new(5, 1, 1)));
        assert_eq!(reply.to_string(), "550-5.1.1 first / 550 second");
    }

    #[test]
    fn shows_hostile_octets_escaped() {
        let reply = Reply::from_raw(554, *b"554 \x1b[2J\r\x00 \xff \xe2\x80\xaex");
        assert_eq!(reply.to_string(), "554 \\u{1b}[2J\\u{d}\\u{0} \\xff \\u{202e}x");
    }

    #[test]
    fn json_means_the_same_and_steers_nothing() {
        for text in [
            "plain, \"quoted\" and \\ back",
            "\u{1b}[2J\r\n\t\0",
            "\u{7f}\u{80}\u{9b}31m",
            "\u{202e}\u{2028}\u{200b}\u{feff}\u{61c}",
            "\u{e0041}tag",
            "Gr\u{f6}\u{df}e \u{65e5}\u{672c} \u{1f600}",
        ] {
            let value = serde_json::json!({ "a": text, text: [text] });
            for json in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
                let safe = escaped_json(json);
                assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
                let deceptive = |one: &char| is_deceptive(*one) && *one != '\n';
                assert!(!safe.chars().any(|one| deceptive(&one)), "{safe:?}");
            }
        }
        assert_eq!(escaped_json("\"\u{9b}\"".into()), "\"\\u009b\"");
        assert_eq!(escaped_json("\"\u{e0041}\"".into()), "\"\\udb40\\udc41\"");
        assert_eq!(escaped_json("\"Gr\u{f6}\u{df}e\"".into()), "\"Gr\u{f6}\u{df}e\"");
    }

    #[test]
    fn reads_only_whole_status_codes() {
        for (text, status) in [
            ("5.1.1 x", Some(EnhancedStatus::new(5, 1, 1))),
            ("4.7.650", Some(EnhancedStatus::new(4, 7, 650))),
            ("5.1", None),
            ("5.1.1.1", None),
            ("3.1.1", None),
            ("5.1.1234", None),
            ("5..1", None),
            ("", None),
        ] {
            assert_eq!(EnhancedStatus::read(text.as_bytes()), status, "{text:?}");
        }
    }
}
