//! From the octets of a mail to text: transfer encodings (RFC 2045), character sets, encoded words (RFC 2047).
//!
//! Every decoder takes whatever comes and gives what it could read: wrong labels, cut base64 and
//! broken escapes are what bounces are made of. Nothing is copied that is plain already.

use std::borrow::Cow;

use encoding_rs::{
    EUC_JP, Encoding, GB18030, ISO_2022_JP, SHIFT_JIS, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252,
};

/// Undoes a `Content-Transfer-Encoding`; `octets` themselves where it is 7bit, 8bit, binary or unknown.
#[must_use]
pub fn transfer<'a>(octets: &'a [u8], encoding: &[u8]) -> Cow<'a, [u8]> {
    let encoding = encoding.trim_ascii();
    if encoding.eq_ignore_ascii_case(b"quoted-printable") {
        quoted_printable(octets)
    } else if encoding.eq_ignore_ascii_case(b"base64") {
        Cow::Owned(base64(octets))
    } else {
        Cow::Borrowed(octets)
    }
}

/// The value of a hexadecimal digit.
const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// Undoes quoted-printable. An escape that is none stays as it stands.
#[must_use]
pub fn quoted_printable(octets: &[u8]) -> Cow<'_, [u8]> {
    let Some(first) = memchr::memchr(b'=', octets) else {
        return Cow::Borrowed(octets);
    };
    let mut out = Vec::with_capacity(octets.len());
    out.extend_from_slice(&octets[..first]);
    let mut rest = &octets[first..];
    while let Some(at) = memchr::memchr(b'=', rest) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at + 1..];
        let blanks = rest.iter().take_while(|octet| matches!(octet, b' ' | b'\t')).count();
        match (rest.get(blanks), rest.get(blanks + 1)) {
            (Some(b'\n'), _) => rest = &rest[blanks + 1..],
            (Some(b'\r'), Some(b'\n')) => rest = &rest[blanks + 2..],
            (None, _) => rest = &[],
            _ => match (rest.first().copied().and_then(hex), rest.get(1).copied().and_then(hex)) {
                (Some(high), Some(low)) => {
                    out.push(high << 4 | low);
                    rest = &rest[2..];
                }
                _ => out.push(b'='),
            },
        }
    }
    out.extend_from_slice(rest);
    Cow::Owned(out)
}

/// What a character means in base64: 0 to 63, [`SKIP`] or [`STOP`].
const BASE64: [u8; 256] = {
    let mut table = [STOP; 256];
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut at = 0;
    while at < alphabet.len() {
        table[alphabet[at] as usize] = at as u8;
        at += 1;
    }
    table[b'\r' as usize] = SKIP;
    table[b'\n' as usize] = SKIP;
    table[b' ' as usize] = SKIP;
    table[b'\t' as usize] = SKIP;
    table[0] = SKIP;
    table[b'=' as usize] = PADDING;
    table
};
const SKIP: u8 = 0x40;
const PADDING: u8 = 0x41;
const STOP: u8 = 0x42;

/// Undoes base64. It ends at the first character that belongs to none of it (a list's footer, for
/// example); text after that is kept as it stands.
#[must_use]
pub fn base64(octets: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(octets.len() / 4 * 3 + 3);
    let (mut bits, mut count) = (0_u32, 0);
    for (at, octet) in octets.iter().enumerate() {
        match BASE64[usize::from(*octet)] {
            SKIP => {}
            // Some concatenate several padded texts: what follows the padding starts afresh.
            PADDING => (bits, count) = (0, 0),
            STOP => {
                out.push(b'\n');
                out.extend_from_slice(&octets[at..]);
                break;
            }
            value => {
                bits = bits << 6 | u32::from(value);
                count += 1;
                if count == 4 {
                    out.extend_from_slice(&bits.to_be_bytes()[1..]);
                    (bits, count) = (0, 0);
                } else if count == 2 && padded(octets, at, 2) {
                    out.push((bits >> 4) as u8);
                    (bits, count) = (0, 0);
                } else if count == 3 && padded(octets, at, 1) {
                    out.extend_from_slice(&[(bits >> 10) as u8, (bits >> 2) as u8]);
                    (bits, count) = (0, 0);
                }
            }
        }
    }
    out
}

/// Whether the text ends or is padded after the character at `at`. A text that was cut within a
/// group of four loses only that group.
fn padded(octets: &[u8], at: usize, fewest: usize) -> bool {
    let mut rest = octets[at + 1..].iter().filter(|octet| BASE64[usize::from(**octet)] != SKIP);
    match rest.next() {
        None => true,
        Some(b'=') => fewest == 1 || rest.next() == Some(&b'='),
        Some(_) => false,
    }
}

/// Text from octets in the character set `label`, which may be empty, unknown or wrong.
///
/// A text that is plain ASCII or UTF-8 is not copied. Where the label cannot be right (its
/// decoder finds errors), UTF-8 and then the usual double-byte sets of Japan and China are tried.
#[must_use]
pub fn text<'a>(octets: &'a [u8], label: &[u8]) -> Cow<'a, str> {
    if let Some(set) = wide(octets, label) {
        return Cow::Owned(set.decode_with_bom_removal(octets).0.into_owned());
    }
    let escapes = memchr::memchr(0x1b, octets).is_some();
    if !escapes && let Ok(text) = core::str::from_utf8(octets) {
        // A label can only change the meaning of octets above 127, and those that are UTF-8 by
        // accident are rare enough.
        return Cow::Borrowed(text);
    }
    let named =
        Encoding::for_label(label.trim_ascii()).filter(|set| *set != UTF_16LE && *set != UTF_16BE);
    if escapes && (named.is_none() || octets.is_ascii()) {
        let (text, _) = ISO_2022_JP.decode_without_bom_handling(octets);
        return Cow::Owned(text.into_owned());
    }
    let likely = named.unwrap_or(WINDOWS_1252);
    let tries = [likely, UTF_8, EUC_JP, SHIFT_JIS, GB18030];
    let tries = if named.is_some_and(|set| set != UTF_8 && set != ISO_2022_JP) {
        &tries[..2]
    } else {
        &tries[..]
    };
    // Double-byte sets have their octets in pairs; single ones are letters with accents.
    let paired = octets
        .chunk_by(|one, next| one.is_ascii() == next.is_ascii())
        .any(|run| run.len() > 1 && !run[0].is_ascii());
    if named.is_none() && !paired {
        return Cow::Owned(WINDOWS_1252.decode_without_bom_handling(octets).0.into_owned());
    }
    // Windows-1252 gives a meaning to every octet, so without a label it comes last.
    for set in &tries[usize::from(named.is_none())..] {
        if let Some(text) = set.decode_without_bom_handling_and_without_replacement(octets) {
            return Cow::Owned(text.into_owned());
        }
    }
    Cow::Owned(likely.decode_without_bom_handling(octets).0.into_owned())
}

/// The 16-bit form of Unicode that a text is in, by its NUL octets: every line end and every Latin letter has
/// one. The label alone proves nothing; without one, more of them are needed.
fn wide(octets: &[u8], label: &[u8]) -> Option<&'static Encoding> {
    let head = &octets[..octets.len().min(400)];
    memchr::memchr(0, head)?;
    let nuls = |odd: usize| head.iter().skip(odd).step_by(2).filter(|octet| **octet == 0).count();
    let (even, odd) = (nuls(0), nuls(1));
    let labelled = label.get(..6).is_some_and(|start| start.eq_ignore_ascii_case(b"utf-16"));
    let enough = head.len() / if labelled { 24 } else { 3 };
    (even + odd > enough.max(2)).then_some(if even > odd { UTF_16BE } else { UTF_16LE })
}

/// The text of a header field's value: unfolded, encoded words decoded, ends trimmed, cut to
/// `most` octets.
#[must_use]
pub fn words(value: &[u8], most: usize) -> String {
    let value = &value[..value.len().min(most)];
    let mut out = String::with_capacity(value.len());
    let mut rest = value;
    let mut after_word = false;
    while let Some(at) = memchr::memmem::find(rest, b"=?") {
        let (before, from) = rest.split_at(at);
        let Some((word, used)) = encoded_word(from) else {
            push_plain(&mut out, before);
            out.push_str("=?");
            rest = &from[2..];
            after_word = false;
            continue;
        };
        // White space between two encoded words is not part of the text (RFC 2047 section 6.2).
        if !(after_word && before.iter().all(u8::is_ascii_whitespace)) {
            push_plain(&mut out, before);
        }
        out.push_str(&word);
        after_word = true;
        rest = &from[used..];
    }
    push_plain(&mut out, rest);
    let end = out.trim_end().len();
    out.truncate(end);
    let start = out.len() - out.trim_start().len();
    if start > 0 {
        out.drain(..start);
    }
    out
}

/// Appends unfolded text: a line end and the white space around it become one space.
fn push_plain(out: &mut String, octets: &[u8]) {
    let text = text(octets, b"");
    if memchr::memchr2(b'\n', b'\t', octets).is_none() {
        out.push_str(text.trim_end_matches(['\r', '\0']));
        return;
    }
    let mut blank = false;
    for character in text.chars() {
        if matches!(character, ' ' | '\t' | '\r' | '\n') {
            if !blank {
                out.push(' ');
            }
            blank = true;
        } else {
            blank = false;
            out.push(character);
        }
    }
}

/// One encoded word at the beginning of `octets`, and how long it is.
fn encoded_word(octets: &[u8]) -> Option<(String, usize)> {
    let body = octets.get(2..)?;
    let first = memchr::memchr(b'?', body)?;
    let kind = *body.get(first + 1)?;
    if body.get(first + 2) != Some(&b'?') {
        return None;
    }
    let text_at = first + 3;
    let length = memchr::memmem::find(&body[text_at..], b"?=")?;
    let raw = &body[text_at..text_at + length];
    // RFC 2231 lets a language follow the character set.
    let label = body[..first].split(|octet| *octet == b'*').next().unwrap_or_default();
    let decoded = match kind {
        b'B' | b'b' => base64(raw),
        b'Q' | b'q' => {
            let spaced: Vec<u8> =
                raw.iter().map(|octet| if *octet == b'_' { b' ' } else { *octet }).collect();
            quoted_printable(&spaced).into_owned()
        }
        _ => return None,
    };
    Some((text(&decoded, label).into_owned(), 2 + text_at + length + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undoes_quoted_printable_with_its_faults() {
        for (raw, plain) in [
            ("a=20b", "a b"),
            ("soft=\r\nbreak=\nx= \n", "softbreakx"),
            ("=3D=zz=", "==zz"),
            ("=E4=", "\u{e4}"),
        ] {
            assert_eq!(text(&quoted_printable(raw.as_bytes()), b"iso-8859-1"), plain, "{raw}");
        }
    }

    #[test]
    fn undoes_base64_with_its_faults() {
        for (raw, plain) in [
            ("YWJj", "abc"),
            ("YWI=", "ab"),
            ("YQ==", "a"),
            ("YW\r\nJj\r\nYQ==", "abca"),
            ("YWI", "ab"),
            ("YQ==YWJj", "aabc"),
            ("YWJj\n____ footer", "abc\n____ footer"),
        ] {
            assert_eq!(String::from_utf8_lossy(&base64(raw.as_bytes())), plain, "{raw}");
        }
    }

    #[test]
    fn reads_text_whose_label_is_wrong() {
        let euc: &[u8] = b"\xbc\xa1\xa4\xce\xa4\xa2\xa4\xc6\xc0\xe8";
        assert_eq!(text(euc, b"iso-2022-jp"), "次のあて先");
        assert_eq!(text(b"\x1b$B<!\x1b(B", b""), "次");
        assert_eq!(text("für".as_bytes(), b"iso-8859-1"), "für");
        assert_eq!(text(b"f\xfcr", b"no-such-set"), "für");
        assert_eq!(text(b"\xf0\xe5", b"windows-1251"), "ре");
    }

    #[test]
    fn reads_encoded_words() {
        for (raw, plain) in [
            ("=?UTF-8?B?0JLQsNGI?= x", "Ваш x"),
            ("=?utf-8?Q?a_b?=\r\n =?utf-8?Q?c?=", "a bc"),
            ("a\r\n  b", "a b"),
            ("=?broken", "=?broken"),
            ("=?us-ascii*en?Q?hi?=", "hi"),
        ] {
            assert_eq!(words(raw.as_bytes(), 1000), plain, "{raw}");
        }
    }
}
