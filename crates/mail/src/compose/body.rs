//! Transfer encodings of bodies (RFC 2045 section 6).

use memchr::memchr2;

/// Longest line of encoded text, without its CRLF and leaving room for a soft line break.
const LINE_ROOM: usize = 75;

/// How a text body is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferEncoding {
    /// For texts that are mostly ASCII.
    QuotedPrintable,
    /// For texts that are mostly not: a third of the size that quoted-printable would have.
    Base64,
    /// As it is: for character sets of 7 bits.
    SevenBit,
    /// As it is, in octets above 127 too (RFC 6152).
    EightBit,
}

impl TransferEncoding {
    /// The shorter encoding for a text: base 64 when more than a sixth of its octets lie outside
    /// ASCII.
    #[must_use]
    pub fn shorter_for(text: &str) -> Self {
        let outside = text.bytes().filter(|octet| !octet.is_ascii()).count();
        if outside > text.len() / 6 { Self::Base64 } else { Self::QuotedPrintable }
    }

    /// The value of Content-Transfer-Encoding.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::QuotedPrintable => "quoted-printable",
            Self::Base64 => "base64",
            Self::SevenBit => "7bit",
            Self::EightBit => "8bit",
        }
    }

    /// Encodes a text, with its line ends made CRLF.
    pub fn encode_text(self, text: &str, out: &mut Vec<u8>) {
        match self {
            Self::QuotedPrintable => quoted_printable(text, out),
            Self::Base64 => base64(with_crlf(text).as_bytes(), out),
            Self::SevenBit | Self::EightBit => {
                out.extend_from_slice(super::within_lines(text).as_bytes());
            }
        }
    }

    /// Encodes a text in another character set. In 7 and 8 bits, lines that are too long are broken.
    pub fn encode_text_in(
        self,
        text: &str,
        charset: super::TextCharset,
        otherwise: super::Unmappable,
        out: &mut Vec<u8>,
    ) {
        match self {
            Self::SevenBit | Self::EightBit => {
                let text = super::within_lines(text);
                out.extend_from_slice(&charset.encode_with(&text, otherwise));
            }
            Self::Base64 => base64(&charset.encode_with(&with_crlf(text), otherwise), out),
            Self::QuotedPrintable => for_each_line(text, |line, ended| {
                encode_line(&charset.encode_with(line, otherwise), out);
                if ended {
                    out.extend_from_slice(b"\r\n");
                }
            }),
        }
    }
}

/// The text with every CRLF, LF and lone CR made CRLF.
fn with_crlf(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 32 + 2);
    for_each_line(text, |line, ended| {
        out.push_str(line);
        if ended {
            out.push_str("\r\n");
        }
    });
    out
}

/// Calls `each` with every line and whether a line end followed it.
pub(super) fn for_each_line<'a>(text: &'a str, mut each: impl FnMut(&'a str, bool)) {
    let mut rest = text;
    while let Some(end) = memchr2(b'\r', b'\n', rest.as_bytes()) {
        each(&rest[..end], true);
        let crlf = rest.as_bytes()[end..].starts_with(b"\r\n");
        rest = &rest[end + 1 + usize::from(crlf)..];
    }
    if !rest.is_empty() {
        each(rest, false);
    }
}

/// Octets that stand for themselves in quoted-printable, spaces and tabs inside a line included.
static LITERAL: [bool; 256] = {
    let mut table = [false; 256];
    let mut octet = 32;
    while octet < 127 {
        table[octet] = octet != b'=' as usize;
        octet += 1;
    }
    table[b'\t' as usize] = true;
    table
};

/// Encodes a text as quoted-printable, with CRLF, LF and lone CR as its line ends and no line
/// longer than 76 octets.
///
/// Each line is encoded by itself: texts that are cut after a line end can be encoded piece by
/// piece. A dot and `From ` at the start of a line are encoded too, so that no relay on the way can
/// damage them.
pub fn quoted_printable(text: &str, out: &mut Vec<u8>) {
    out.reserve(text.len() + text.len() / 16);
    for_each_line(text, |line, ended| {
        encode_line(line.as_bytes(), out);
        if ended {
            out.extend_from_slice(b"\r\n");
        }
    });
}

/// Encodes one line without its end.
fn encode_line(line: &[u8], out: &mut Vec<u8>) {
    let mut column = 0;
    let mut index = 0;
    if line.starts_with(b"From ") {
        push_escaped(b'F', out);
        column = 3;
        index = 1;
    }
    while index < line.len() {
        if column == 0 && line[index] == b'.' {
            push_escaped(b'.', out);
            column = 3;
            index += 1;
            continue;
        }
        let mut run = line[index..]
            .iter()
            .take(LINE_ROOM - column)
            .take_while(|&&octet| LITERAL[usize::from(octet)])
            .count();
        // White space at the end of a line would be lost on the way.
        if run > 0 && index + run == line.len() && matches!(line[index + run - 1], b' ' | b'\t') {
            run -= 1;
        }
        out.extend_from_slice(&line[index..index + run]);
        column += run;
        index += run;
        let Some(&next) = line.get(index) else { break };
        let literal =
            LITERAL[usize::from(next)] && !(index + 1 == line.len() && next.is_ascii_whitespace());
        if column + if literal { 1 } else { 3 } > LINE_ROOM {
            out.extend_from_slice(b"=\r\n");
            column = 0;
        } else if !literal {
            push_escaped(next, out);
            column += 3;
            index += 1;
        }
    }
}

/// Writes `=XX`.
pub(super) fn push_escaped(octet: u8, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.extend_from_slice(&[
        b'=',
        DIGITS[usize::from(octet >> 4)],
        DIGITS[usize::from(octet & 15)],
    ]);
}

/// Encodes octets as base 64 in lines of 76, the last one without a line end.
pub fn base64(octets: &[u8], out: &mut Vec<u8>) {
    out.reserve(octets.len() / 57 * 78 + 80);
    for (index, line) in octets.chunks(57).enumerate() {
        if index > 0 {
            out.extend_from_slice(b"\r\n");
        }
        base64_unbroken(line, out);
    }
}

/// Encodes octets as base 64 without line ends.
pub(super) fn base64_unbroken(octets: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |bits: u32, shift: u32| DIGITS[(bits >> shift & 63) as usize];
    for group in octets.chunks(3) {
        let bits = u32::from(group[0]) << 16
            | u32::from(group.get(1).copied().unwrap_or(0)) << 8
            | u32::from(group.get(2).copied().unwrap_or(0));
        out.extend_from_slice(&[
            digit(bits, 18),
            digit(bits, 12),
            if group.len() > 1 { digit(bits, 6) } else { b'=' },
            if group.len() > 2 { digit(bits, 0) } else { b'=' },
        ]);
    }
}
