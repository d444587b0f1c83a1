//! Addresses in text that people and machines wrote: where they stand, and what they are.
//!
//! Far more generous than `crate::address`: bounces name mailboxes with two dots in a row (DoCoMo and
//! au allow them), with route and type prefixes, in quotes or percent signs. What is found here is
//! only compared and shown; nothing is ever sent to it.

/// Octets an address may have.
const ADDRESS_MAXIMUM: usize = 320;

/// One address in a text: the octets from `start` to `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its first octet.
    pub start: usize,
    /// The octet after its last.
    pub end: usize,
}

/// Characters of a local part in running text.
const fn is_local(octet: u8) -> bool {
    matches!(octet,
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'+' | b'=' | b'/' | b'!' | b'#'
        | b'$' | b'%' | b'&' | b'*' | b'\'' | b'?' | b'^' | b'`' | b'{' | b'|' | b'}' | b'~')
        || octet >= 0x80
}

/// Characters of a domain in running text.
const fn is_domain(octet: u8) -> bool {
    matches!(octet, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-') || octet >= 0x80
}

/// The first address in `text` at or after `from`.
#[must_use]
pub fn next(text: &str, from: usize) -> Option<Found> {
    let octets = text.as_bytes();
    let mut at = from;
    while let Some(sign) = memchr::memchr(b'@', &octets[at..]).map(|found| at + found) {
        if let Some(found) = around(text, sign, from) {
            return Some(found);
        }
        at = sign + 1;
    }
    None
}

/// The address around the `@` at `sign`, not reaching before `from`.
fn around(text: &str, sign: usize, from: usize) -> Option<Found> {
    let octets = text.as_bytes();
    let lowest = sign.saturating_sub(ADDRESS_MAXIMUM).max(from);
    let mut start = sign;
    if sign > lowest && octets[sign - 1] == b'"' {
        // A quoted local part: back to the quote that opens it, on the same line.
        let inside = &octets[lowest..sign - 1];
        let open = memchr::memrchr(b'"', inside)?;
        if memchr::memchr(b'\n', &inside[open..]).is_some() || open + 1 == inside.len() {
            return None;
        }
        start = lowest + open;
    } else {
        while start > lowest && is_local(octets[start - 1]) {
            start -= 1;
        }
        // Punctuation before a local part is the sentence's.
        while start < sign
            && matches!(
                octets[start],
                b'\'' | b'`' | b'*' | b'=' | b'|' | b'.' | b'&' | b'~' | b'?'
            )
        {
            start += 1;
        }
        start = ascii_island(octets, start, sign);
    }
    while start < sign && !text.is_char_boundary(start) {
        start += 1;
    }
    if start == sign {
        return None;
    }
    let mut end = sign + 1;
    if octets.get(end) == Some(&b'[') {
        let close = memchr::memchr(b']', &octets[end..octets.len().min(end + 64)])?;
        return Some(Found { start, end: end + close + 1 });
    }
    let highest = octets.len().min(end + 255);
    while end < highest && is_domain(octets[end]) {
        end += 1;
    }
    // A domain in ASCII ends where another script begins: that is the sentence again.
    if octets[sign + 1..end].first().is_some_and(u8::is_ascii) {
        let ascii = octets[sign + 1..end].iter().take_while(|octet| octet.is_ascii()).count();
        let rest = &octets[sign + 1 + ascii..end];
        if ascii > 0 && !rest.is_empty() && octets[sign + ascii] != b'.' {
            end = sign + 1 + ascii;
        }
    }
    while end > sign + 1 && matches!(octets[end - 1], b'.' | b'-' | b'_') {
        end -= 1;
    }
    while end > sign + 1 && !text.is_char_boundary(end) {
        end -= 1;
    }
    let domain = &octets[sign + 1..end];
    // Dots alone are no domain, and a second `@` makes it no address.
    if domain.is_empty() || domain[0] == b'.' || octets.get(end) == Some(&b'@') {
        return None;
    }
    // `http://user@host` and the like are links.
    let word = octets[lowest..start]
        .iter()
        .rposition(u8::is_ascii_whitespace)
        .map_or(lowest, |blank| lowest + blank);
    if memchr::memmem::find(&octets[word..start], b"://").is_some()
        || memchr::memmem::find(&octets[start..sign], b"//").is_some()
    {
        return None;
    }
    Some(Found { start, end })
}

/// Where a local part begins that is ASCII at its end: text in another script before it (Japanese
/// has no blanks) is not part of it.
fn ascii_island(octets: &[u8], start: usize, sign: usize) -> usize {
    if start == sign || !octets[sign - 1].is_ascii() {
        return start;
    }
    octets[start..sign]
        .iter()
        .rposition(|octet| !octet.is_ascii())
        .map_or(start, |last| start + last + 1)
}

/// The address within a value of a field such as `Final-Recipient` or an angle-addr: type prefix,
/// brackets, comments and source route taken away. `None` where none is left.
#[must_use]
pub fn from_value(value: &str) -> Option<&str> {
    let mut rest = value.trim();
    if let Some(semicolon) = rest.find(';') {
        let kind = &rest[..semicolon];
        if kind.len() <= 24 && !kind.contains('@') {
            rest = rest[semicolon + 1..].trim();
        }
    }
    if let Some(open) = rest.find('<')
        && let Some(close) = rest[open..].find('>')
    {
        let inside = rest[open + 1..open + close].trim();
        if inside.contains('@') {
            rest = inside;
        }
    }
    // A source route: `@relay,@relay:local@domain`.
    if rest.starts_with('@')
        && let Some(colon) = rest.find(':')
    {
        rest = rest[colon + 1..].trim();
    }
    // A machine wrote it: what has no blanks is the address, whatever characters it has.
    let bare = rest.trim_matches(['<', '>', '"', '\'', ',', ';']);
    if let Some((local, domain)) = bare.rsplit_once('@')
        && !local.is_empty()
        && !domain.is_empty()
        && bare.len() <= ADDRESS_MAXIMUM
        && !bare.contains([' ', '\t', '(', ')', '<', '>', ':'])
    {
        return Some(bare);
    }
    next(rest, 0).map(|found| &rest[found.start..found.end])
}

/// Undoes the xtext of an `Original-Recipient` (RFC 3461 section 4): `+` and two hexadecimal capitals.
#[must_use]
pub fn from_xtext(text: &str) -> String {
    let octets = text.as_bytes();
    let mut out = Vec::with_capacity(octets.len());
    let mut at = 0;
    while at < octets.len() {
        let pair = octets.get(at + 1..at + 3).filter(|pair| {
            octets[at] == b'+'
                && pair.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'A'..=b'F'))
        });
        // Only what had to be written so is undone: `user+20list` is a detail, no escape.
        let decoded = pair
            .and_then(|pair| core::str::from_utf8(pair).ok())
            .and_then(|pair| u8::from_str_radix(pair, 16).ok())
            .filter(|octet| {
                matches!(octet, b'+' | b'=' | b'@' | b'!' | b'#' | b'%' | b'"' | b'\\')
            });
        match decoded {
            Some(octet) => {
                out.push(octet);
                at += 3;
            }
            None => {
                out.push(octets[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

/// Whether two addresses are one to a mail server: equal but for case and quotes.
#[must_use]
pub fn same(left: &str, right: &str) -> bool {
    let plain = |text: &str| text.chars().filter(|character| *character != '"').count();
    left.eq_ignore_ascii_case(right)
        || plain(left) == plain(right)
            && left
                .chars()
                .filter(|character| *character != '"')
                .zip(right.chars().filter(|character| *character != '"'))
                .all(|(one, other)| one.eq_ignore_ascii_case(&other))
}

/// Whether an address belongs to a mail system and not to a person who could get mail of ours.
#[must_use]
pub fn is_service(address: &str) -> bool {
    let local = address.split('@').next().unwrap_or_default();
    [
        "postmaster",
        "mailer-daemon",
        "mailerdaemon",
        "mail-daemon",
        "maildaemon",
        "abuse",
        "hostmaster",
    ]
    .iter()
    .any(|name| local.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_addresses_in_running_text() {
        for (text, found) in [
            ("<a@example.com>:", "a@example.com"),
            ("to 'a.b+c@example.com'.", "a.b+c@example.com"),
            ("mailto:a@example.com", "a@example.com"),
            ("rfc822;a..b.@example.ne.jp x", "a..b.@example.ne.jp"),
            ("\"a b\"@example.com", "\"a b\"@example.com"),
            ("宛先a@example.jpへの", "a@example.jp"),
            ("a@[192.0.2.1]", "a@[192.0.2.1]"),
            ("http://u@example.com x@example.net", "x@example.net"),
            ("пользователь@почта.рф нет", "пользователь@почта.рф"),
            ("VERP-b=x.org@example.com", "VERP-b=x.org@example.com"),
        ] {
            let at = next(text, 0).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(&text[at.start..at.end], found);
        }
        for text in ["@example.com", " @x", "\"\"@x", "a@", "a@.", "@@", "", "http://u@example.com"]
        {
            assert_eq!(next(text, 0), None, "{text}");
        }
    }

    #[test]
    fn reads_values_of_report_fields() {
        for (value, address) in [
            ("rfc822; a@example.com", Some("a@example.com")),
            ("RFC822;<a@example.com>", Some("a@example.com")),
            ("rfc822;@mx.example.net:a@server", Some("a@server")),
            ("Some One <a@example.com> (comment)", Some("a@example.com")),
            ("rfc822; =?utf-8?B?8J+=?=@example.org", Some("=?utf-8?B?8J+=?=@example.org")),
            ("rfc822; @example.org", None),
            ("X400; c=jp;a= ;p=x", None),
        ] {
            assert_eq!(from_value(value), address);
        }
        assert_eq!(from_xtext("a+2Bb+40x+20y"), "a+b@x+20y");
        assert!(same("\"A b\"@example.com", "a b@EXAMPLE.com"));
    }
}
