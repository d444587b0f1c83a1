//! Texts in other character sets than UTF-8, for readers that know nothing else.

use encoding_rs::{Encoding, UTF_8};

/// Characters of a line of a body that is not transfer-encoded: with the octets that any character takes here, such
/// a line is within 998 octets (RFC 5322, 2.1.1).
const LONGEST_LINE: usize = 200;

/// A character set that texts are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextCharset(&'static Encoding);

impl Default for TextCharset {
    /// UTF-8.
    fn default() -> Self {
        Self(UTF_8)
    }
}

/// What is written for a character that a set cannot carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmappable {
    /// `&#128512;`, as HTML has it.
    CharacterReference,
    /// `?`
    QuestionMark,
}

impl TextCharset {
    /// The set with this MIME name; `None`: it is not known, or cannot be written.
    #[must_use]
    pub fn for_name(name: &str) -> Option<Self> {
        let found = Encoding::for_label(name.as_bytes())?;
        // Texts in UTF-16 are read and never written (WHATWG Encoding, 4.3).
        (found.output_encoding() == found).then_some(Self(found))
    }

    /// Whether it is UTF-8.
    #[must_use]
    pub fn is_utf8(self) -> bool {
        self.0 == UTF_8
    }

    /// Its MIME name in lower case.
    #[must_use]
    pub fn name(self) -> String {
        self.0.name().to_ascii_lowercase()
    }

    /// A text in this set; `None`: it has a character that the set does not have. What changes the state (ISO-2022-JP)
    /// is undone at the end, so that the result stands for itself.
    #[must_use]
    pub fn encode(self, text: &str) -> Option<Vec<u8>> {
        let (octets, _, unmappable) = self.0.encode(text);
        (!unmappable).then(|| octets.into_owned())
    }

    /// A text in this set, whatever is in it.
    #[must_use]
    pub fn encode_with(self, text: &str, otherwise: Unmappable) -> Vec<u8> {
        let (octets, _, unmappable) = self.0.encode(text);
        if !unmappable || otherwise == Unmappable::CharacterReference {
            return octets.into_owned();
        }
        let mut letters = [0; 4];
        let plain: String = text
            .chars()
            .map(|letter| match self.encode(letter.encode_utf8(&mut letters)) {
                Some(_) => letter,
                None => '?',
            })
            .collect();
        self.0.encode(&plain).0.into_owned()
    }
}

/// The text with its line ends made CRLF, and lines that are too long broken at a blank, else anywhere: for bodies
/// whose octets travel as they are.
#[must_use]
pub fn within_lines(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 32 + 2);
    super::body::for_each_line(text, |line, ended| {
        let mut rest = line;
        while let Some((end, _)) = rest.char_indices().nth(LONGEST_LINE) {
            let blank = rest[..end].rfind(' ').filter(|blank| *blank > 0);
            let (part, after) = rest.split_at(blank.unwrap_or(end));
            out.push_str(part);
            out.push_str("\r\n");
            rest = after.strip_prefix(' ').unwrap_or(after);
        }
        out.push_str(rest);
        if ended {
            out.push_str("\r\n");
        }
    });
    out
}
