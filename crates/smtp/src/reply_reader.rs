//! Reads SMTP replies from a stream of octets.
//!
//! **Promise.** However the octets are cut into pieces, the same replies come out, each with every
//! octet that the server sent except its line ends. A reply of one line that arrives whole is
//! borrowed from the input and never copied.
//!
//! **Tolerant in form:** lines end with CR LF or a bare LF; the text may be missing (`250`,
//! `250-`); any octets but LF may stand in the text; any three digits are a code (what 199 or 600
//! mean is for the session to say). **Strict in the rest:** a line that does not begin with three
//! digits followed by a space, a hyphen or its end, different codes in one reply (RFC 5321, 4.2.1),
//! and anything over the limits below is [`BrokenReply`]. After that the stream has no meaning any
//! more and must be closed.
//!
//! **Memory** is bounded by [`MOST_OCTETS`] and one [`LONGEST_LINE`].

use mail::reply::{Reply, ReplyClass};
use memchr::memchr;

/// Most octets of one reply line before its LF. RFC 5321 demands 512; real servers exceed that.
pub const LONGEST_LINE: usize = 4_096;
/// Most lines of one reply. Leaves room for an EHLO answer with a thousand unknown keywords.
pub const MOST_LINES: usize = 1_024;
/// Most octets of one reply over all of its lines.
pub const MOST_OCTETS: usize = 65_536;

/// What came is not a reply, or too large a one. Always the server's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokenReply {
    /// A line does not begin with three digits and a separator.
    #[error("a reply line does not begin with a three-digit code")]
    NoCode,
    /// The lines of one reply carry different codes.
    #[error("one reply with different codes, {first} and {then}")]
    CodeChanged {
        /// The code of its first line.
        first: u16,
        /// The other one.
        then: u16,
    },
    /// A line is longer than [`LONGEST_LINE`].
    #[error("a reply line of more than {LONGEST_LINE} octets")]
    LineTooLong,
    /// A reply has more than [`MOST_LINES`] lines.
    #[error("a reply of more than {MOST_LINES} lines")]
    TooManyLines,
    /// A reply has more than [`MOST_OCTETS`] octets.
    #[error("a reply of more than {MOST_OCTETS} octets")]
    TooLarge,
}

/// A reply that still lies in the input, or in the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BorrowedReply<'a> {
    code: u16,
    raw: &'a [u8],
}

impl BorrowedReply<'_> {
    /// The three-digit code, 0 to 999.
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

    /// The texts of its lines, without code and separator.
    pub fn text_lines(&self) -> impl Iterator<Item = &[u8]> {
        self.raw.split(|octet| *octet == b'\n').map(|line| line.get(4..).unwrap_or_default())
    }

    /// A reply of its own, to be kept.
    #[must_use]
    pub fn to_reply(&self) -> Reply {
        Reply::from_raw(self.code, self.raw)
    }
}

/// The reader. It is empty between replies.
#[derive(Clone, Debug, Default)]
pub struct ReplyReader {
    /// The beginning of a line whose end has not come.
    partial: Vec<u8>,
    /// The whole lines of the reply so far, joined by LF.
    gathered: Vec<u8>,
    /// How many lines that is.
    lines: usize,
    /// Their code.
    code: u16,
    /// Whether `gathered` was handed out as a reply and is to be forgotten.
    handed_out: bool,
}

impl ReplyReader {
    /// The next whole reply. Takes what it reads from the front of `input`; `None` means that all
    /// of `input` was taken and the reply is not whole yet.
    ///
    /// # Errors
    /// [`BrokenReply`]; the reader must not be used after that.
    pub fn next<'r, 'i: 'r>(
        &'r mut self,
        input: &mut &'i [u8],
    ) -> Result<Option<BorrowedReply<'r>>, BrokenReply> {
        if self.handed_out {
            self.gathered.clear();
            self.lines = 0;
            self.handed_out = false;
        }
        loop {
            let Some(end) = memchr(b'\n', input) else {
                if self.partial.len() + input.len() > LONGEST_LINE {
                    return Err(BrokenReply::LineTooLong);
                }
                self.partial.extend_from_slice(input);
                *input = &[];
                return Ok(None);
            };
            if self.partial.len() + end > LONGEST_LINE {
                return Err(BrokenReply::LineTooLong);
            }
            let line = &input[..end];
            *input = &input[end + 1..];
            if self.partial.is_empty() && self.lines == 0 {
                let line = without_carriage_return(line);
                let (code, last) = line_head(line)?;
                if last {
                    return Ok(Some(BorrowedReply { code, raw: line }));
                }
                self.gather(code, line)?;
                continue;
            }
            let last = if self.partial.is_empty() {
                let line = without_carriage_return(line);
                let (code, last) = line_head(line)?;
                self.gather(code, line)?;
                last
            } else {
                let mut whole = core::mem::take(&mut self.partial);
                whole.extend_from_slice(line);
                let line = without_carriage_return(&whole);
                let (code, last) = line_head(line)?;
                self.gather(code, line)?;
                whole.clear();
                self.partial = whole;
                last
            };
            if last {
                self.handed_out = true;
                return Ok(Some(BorrowedReply { code: self.code, raw: &self.gathered }));
            }
        }
    }

    /// Whether nothing of an unfinished reply is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.partial.is_empty() && (self.lines == 0 || self.handed_out)
    }

    /// Adds one line to the reply.
    fn gather(&mut self, code: u16, line: &[u8]) -> Result<(), BrokenReply> {
        if self.lines == 0 {
            self.code = code;
        } else {
            if code != self.code {
                return Err(BrokenReply::CodeChanged { first: self.code, then: code });
            }
            self.gathered.push(b'\n');
        }
        self.lines += 1;
        if self.lines > MOST_LINES {
            return Err(BrokenReply::TooManyLines);
        }
        if self.gathered.len() + line.len() > MOST_OCTETS {
            return Err(BrokenReply::TooLarge);
        }
        self.gathered.extend_from_slice(line);
        Ok(())
    }
}

/// The line without the CR before its LF.
fn without_carriage_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The code of a line, and whether it is the last of its reply.
fn line_head(line: &[u8]) -> Result<(u16, bool), BrokenReply> {
    let (digits, rest) = line.split_at_checked(3).ok_or(BrokenReply::NoCode)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(BrokenReply::NoCode);
    }
    let code = digits.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    match rest.first() {
        None | Some(b' ') => Ok((code, true)),
        Some(b'-') => Ok((code, false)),
        Some(_) => Err(BrokenReply::NoCode),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All replies in `octets`, fed in pieces that end at `cuts`; then the fault, if any.
    fn read(octets: &[u8], cuts: &[usize]) -> (Vec<Reply>, Option<BrokenReply>) {
        let mut reader = ReplyReader::default();
        let mut replies = Vec::new();
        let mut bounds: Vec<usize> = cuts.iter().map(|cut| cut % (octets.len() + 1)).collect();
        bounds.push(octets.len());
        bounds.sort_unstable();
        let mut from = 0;
        for to in bounds {
            let mut piece = &octets[from..to];
            from = to;
            loop {
                match reader.next(&mut piece) {
                    Ok(Some(reply)) => replies.push(reply.to_reply()),
                    Ok(None) => break,
                    Err(fault) => return (replies, Some(fault)),
                }
            }
        }
        (replies, None)
    }

    fn shown(octets: &[u8]) -> String {
        let (replies, fault) = read(octets, &[]);
        let mut texts: Vec<String> = replies.iter().map(|r| format!("{}={r}", r.code())).collect();
        texts.extend(fault.map(|fault| format!("! {fault}")));
        texts.join("; ")
    }

    #[test]
    fn forms_of_replies() {
        for (octets, expected) in [
            (&b"250 ok\r\n"[..], "250=250 ok"),
            (b"250 ok\n", "250=250 ok"),
            (b"250\r\n", "250=250"),
            (b"250 \r\n", "250=250 "),
            (b"250-\r\n250\r\n", "250=250- / 250"),
            (b"250-a\n250-b\r\n250 c\r\n221 d\r\n", "250=250-a / 250-b / 250 c; 221=221 d"),
            (b"250 \x00\xff\rx\r\n", "250=250 \\u{0}\\xff\\u{d}x"),
            (b"000 a\r\n999 b\r\n", "0=000 a; 999=999 b"),
            (b"250-a\r\n421 b\r\n", "! one reply with different codes, 250 and 421"),
            (b"25\r\n", "! a reply line does not begin with a three-digit code"),
            (b"2500 ok\r\n", "! a reply line does not begin with a three-digit code"),
            (b" 250 ok\r\n", "! a reply line does not begin with a three-digit code"),
            (b"\r\n", "! a reply line does not begin with a three-digit code"),
            (b"HTTP/1.1 400\r\n", "! a reply line does not begin with a three-digit code"),
            (b"250 a\r\nx", "250=250 a"),
        ] {
            assert_eq!(shown(octets), expected, "{}", octets.escape_ascii());
        }
    }

    #[test]
    fn limits_hold_at_their_bounds() {
        let line = |length: usize| [b"250 ".as_slice(), &vec![b'x'; length - 4]].concat();
        let ended = |mut line: Vec<u8>| {
            line.push(b'\n');
            line
        };
        assert_eq!(read(&ended(line(LONGEST_LINE)), &[]).1, None);
        assert_eq!(read(&ended(line(LONGEST_LINE + 1)), &[]).1, Some(BrokenReply::LineTooLong));
        assert_eq!(read(&line(LONGEST_LINE + 1), &[]).1, Some(BrokenReply::LineTooLong));
        assert_eq!(read(&b"250-\n".repeat(MOST_LINES), &[]).1, None);
        assert_eq!(read(&b"250-\n".repeat(MOST_LINES + 1), &[]).1, Some(BrokenReply::TooManyLines));
        let large = [b"250-".as_slice(), &[b'x'; 4_000], b"\n"].concat().repeat(17);
        assert_eq!(read(&large, &[]).1, Some(BrokenReply::TooLarge));
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same(
            lines in prop::collection::vec(
                (prop::sample::select(vec!["250", "250", "421", "9", "abc", ""]),
                 prop::sample::select(vec![" ", "-", "", "x"]),
                 prop::sample::select(vec!["", "ok", "\r", "\0\u{ff}"]),
                 prop::sample::select(vec!["\r\n", "\n", "\r\r\n"])), 0..12),
            cuts in prop::collection::vec(any::<usize>(), 0..20),
        ) {
            let octets: Vec<u8> =
                lines.iter().flat_map(|(a, b, c, d)| [a, b, c, d]).flat_map(|s| s.bytes()).collect();
            prop_assert_eq!(read(&octets, &cuts), read(&octets, &[]));
        }

        #[test]
        fn random_octets_never_panic(
            octets in prop::collection::vec(any::<u8>(), 0..200),
            cuts in prop::collection::vec(any::<usize>(), 0..20),
        ) {
            prop_assert_eq!(read(&octets, &cuts), read(&octets, &[]));
        }
    }
}
