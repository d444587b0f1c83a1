//! Reply codes and enhanced status codes in running text.
//!
//! Bounces hold many numbers that look alike: addresses of hosts, ports, sizes, times, versions.
//! A number counts as a code only where a server would have said it.

use crate::reply::EnhancedStatus;

/// What a text says by numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Codes {
    /// The SMTP reply code.
    pub reply: Option<u16>,
    /// The enhanced status code that stands with it, or the first.
    pub status: Option<EnhancedStatus>,
    /// Whether `status` stands right after `reply`: the remote server itself said it.
    pub together: bool,
}

/// Reply codes that mail servers use for failures.
const fn is_reply(code: u16) -> bool {
    matches!(code, 420..=424 | 430..=432 | 441..=442 | 446..=447 | 449..=459 | 465 | 471 | 500..=505 | 510..=517 | 521..=523 | 525 | 530 | 533..=535 | 538 | 540..=547 | 550..=559 | 570..=577)
}

/// Words before a number that make it a measure or a name.
const BEFORE: [&[u8]; 16] = [
    b"port", b"size", b"line", b"than", b"over", b"exceeds", b"limit", b"maximum", b"for", b"last",
    b"past", b"version", b"of", b"max", b"after", b"id",
];
/// Words after a number that make it a measure.
const AFTER: [&[u8]; 19] = [
    b"bytes",
    b"byte",
    b"octets",
    b"kb",
    b"mb",
    b"kbytes",
    b"seconds",
    b"secs",
    b"sec",
    b"minutes",
    b"hours",
    b"days",
    b"recipients",
    b"messages",
    b"kilobytes",
    b"connections",
    b"characters",
    b"lines",
    b"times",
];

/// The codes in `text`. Success codes are taken only with `success`.
#[must_use]
pub fn find(text: &str, success: bool) -> Codes {
    let octets = text.as_bytes();
    let mut codes = Codes::default();
    let mut weight = 0;
    let mut lone_status: Option<(EnhancedStatus, bool)> = None;
    let mut at = 0;
    while at < octets.len() {
        let Some(step) = memchr::memchr3(b'2', b'4', b'5', &octets[at..]) else { break };
        at += step;
        if !starts_number(octets, at) {
            at += 1;
            continue;
        }
        if let Some((status, end)) = status_at(octets, at) {
            if status.class != 2 || success {
                // `(#5.1.1)` is how several servers mark what they mean.
                let marked = at > 0 && octets[at - 1] == b'#';
                if lone_status.is_none_or(|(_, before)| marked && !before) {
                    lone_status = Some((status, marked));
                }
            }
            at = end;
            continue;
        }
        let Some((code, end)) = reply_at(octets, at, success) else {
            at += 1;
            continue;
        };
        let beside = status_after(octets, end, success);
        let found = if beside.is_some() { 3 } else { strength(octets, at, end) };
        // Codes nobody uses count only where nothing else can stand.
        let usual = is_reply(code) || matches!(code, 250..=252);
        if found > weight && (usual || found > 1) {
            weight = found;
            codes = Codes { reply: Some(code), status: beside, together: beside.is_some() };
        }
        at = end;
    }
    if codes.status.is_none() {
        codes.status = lone_status.map(|(status, _)| status);
    }
    codes
}

/// Whether a number that means something may begin at `at`.
fn starts_number(octets: &[u8], at: usize) -> bool {
    let Some(before) = at.checked_sub(1).map(|before| octets[before]) else { return true };
    match before {
        b'.' | b'-' | b'_' | b'@' | b'/' | b'+' | b'$' | b'%' | b'&' | b'*' | b'!' => {
            before == b'-' && at > 1 && octets[at - 2] == b'-'
        }
        b':' => {
            // `said:550` is a reply, `mx.example.com:465` and `12:45` are not.
            let word = octets[..at - 1]
                .iter()
                .rev()
                .take_while(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b']'))
                .count();
            let word = &octets[at - 1 - word..at - 1];
            !word.contains(&b'.') && !word.iter().any(u8::is_ascii_digit) && !word.ends_with(b"]")
        }
        _ => !before.is_ascii_alphanumeric(),
    }
}

/// An enhanced status code at `at`, and where it ends.
fn status_at(octets: &[u8], at: usize) -> Option<(EnhancedStatus, usize)> {
    if octets.get(at + 1) != Some(&b'.') {
        return None;
    }
    let (subject, end) = digits(octets, at + 2)?;
    if octets.get(end) != Some(&b'.') {
        return None;
    }
    let (detail, end) = digits(octets, end + 1)?;
    match octets.get(end) {
        Some(b'.') if octets.get(end + 1).is_some_and(u8::is_ascii_digit) => return None,
        Some(octet) if octet.is_ascii_alphanumeric() || matches!(octet, b'/' | b'@') => {
            return None;
        }
        _ => {}
    }
    // The registry's subjects end at 7; a few providers go to 9.
    (subject <= 9).then(|| (EnhancedStatus::new(octets[at] - b'0', subject, detail), end))
}

/// One to three digits at `at`, and where they end.
fn digits(octets: &[u8], at: usize) -> Option<(u16, usize)> {
    let count = octets[at.min(octets.len())..]
        .iter()
        .take(4)
        .take_while(|octet| octet.is_ascii_digit())
        .count();
    if count == 0 || count > 3 {
        return None;
    }
    let value =
        octets[at..at + count].iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    Some((value, at + count))
}

/// A reply code at `at`, and where it ends.
fn reply_at(octets: &[u8], at: usize, success: bool) -> Option<(u16, usize)> {
    let (code, end) = digits(octets, at)?;
    let possible = matches!(code / 100, 4 | 5) && matches!(code / 10 % 10, 0..=5 | 7);
    if end != at + 3 || !(possible || success && matches!(code, 250..=252)) {
        return None;
    }
    match octets.get(end) {
        None => {}
        Some(octet) if octet.is_ascii_alphanumeric() => return None,
        Some(b'.' | b',') if octets.get(end + 1).is_some_and(u8::is_ascii_digit) => return None,
        Some(b'/' | b'%' | b'_' | b'@') => return None,
        Some(b':') if octets.get(end + 1).is_some_and(u8::is_ascii_digit) => return None,
        Some(b'-') => {
            let after = octets.get(end + 1).copied().unwrap_or_default();
            let digits =
                octets[end + 1..].iter().take_while(|octet| octet.is_ascii_digit()).count();
            // `550-5.1.1` goes on, `550-1234` is a telephone number.
            if after.is_ascii_digit()
                && (digits > 1 || octets.get(end + 2) != Some(&b'.'))
                && digits != 3
            {
                return None;
            }
        }
        Some(_) => {}
    }
    let word = octets[end..].trim_ascii_start();
    let length = word.iter().take_while(|octet| octet.is_ascii_alphabetic()).count();
    if AFTER.iter().any(|known| known.eq_ignore_ascii_case(&word[..length])) {
        return None;
    }
    let before = octets[..at].trim_ascii_end();
    let length = before.iter().rev().take_while(|octet| octet.is_ascii_alphabetic()).count();
    let before = &before[before.len() - length..];
    if BEFORE.iter().any(|known| known.eq_ignore_ascii_case(before)) {
        return None;
    }
    Some((code, end))
}

/// The enhanced status code that follows a reply code directly, or with the reply code said twice.
fn status_after(octets: &[u8], end: usize, success: bool) -> Option<EnhancedStatus> {
    let mut at = end;
    for _ in 0..2 {
        at += octets[at..]
            .iter()
            .take(5)
            .take_while(|octet| {
                matches!(
                    octet,
                    b' ' | b'-'
                        | b'\''
                        | b'"'
                        | b'#'
                        | b'('
                        | b'['
                        | b'\n'
                        | b'\t'
                        | b'\r'
                        | b'<'
                        | b':'
                )
            })
            .count();
        if let Some((status, _)) = octets
            .get(at)
            .filter(|octet| matches!(octet, b'2' | b'4' | b'5'))
            .and_then(|_| status_at(octets, at))
        {
            return (status.class != 2 || success).then_some(status);
        }
        // `550 550 5.1.1`
        match digits(octets, at) {
            Some((400..=599, next)) if next == at + 3 => at = next,
            _ => return None,
        }
    }
    None
}

/// How surely a number without an enhanced code is a reply: 2 where a server's words begin, 1 elsewhere.
fn strength(octets: &[u8], at: usize, end: usize) -> u8 {
    let before = octets[..at].trim_ascii_end();
    let line_start = octets[..at]
        .iter()
        .rposition(|octet| !matches!(octet, b' ' | b'\t'))
        .is_none_or(|last| octets[last] == b'\n');
    let introduced = line_start
        || before.is_empty()
        || matches!(
            before[before.len() - 1],
            b':' | b'\'' | b'"' | b'<' | b'#' | b';' | b'(' | b'[' | b'>' | b'=' | b','
        );
    let word = before.iter().rev().take_while(|octet| octet.is_ascii_alphabetic()).count();
    let word = &before[before.len() - word..];
    let named = [
        &b"error"[..],
        b"said",
        b"code",
        b"smtp",
        b"reply",
        b"response",
        b"status",
        b"returned",
        b"host",
        b"esmtp",
        b"lmtp",
    ]
    .iter()
    .any(|known| known.eq_ignore_ascii_case(word));
    if (introduced || named)
        && matches!(
            octets.get(end),
            None | Some(
                b' ' | b'-'
                    | b'\n'
                    | b'\r'
                    | b'\t'
                    | b'\''
                    | b'"'
                    | b':'
                    | b','
                    | b'.'
                    | b'>'
                    | b')'
                    | b']'
                    | b'#'
                    | b';'
            )
        )
    {
        2
    } else {
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_codes_from_other_numbers() {
        for (text, reply, status) in [
            ("550 5.1.1 <a@example.com>... User unknown", 550, "5.1.1"),
            (
                "host mx.example.com[202.216.228.55] said: 452 4.3.2 Rate (in reply to MAIL FROM command)",
                452,
                "4.3.2",
            ),
            ("said: 550\n    5.1.1 x", 550, "5.1.1"),
            ("550-5.1.1 The account\n550 5.1.1 x", 550, "5.1.1"),
            ("was: 554 554 5.7.0 Header error (state 18).", 554, "5.7.0"),
            (
                "5.1.0 - Unknown address error 550-'5.7.1 <x>... Access denied' (delivery attempts: 0)",
                550,
                "5.7.1",
            ),
            ("#550 5.1.1 RESOLVER.ADR.RecipNotFound; not found ##", 550, "5.1.1"),
            ("Sorry, no mailbox here by that name. (#5.1.1)", 0, "5.1.1"),
            ("connect to mx.example.com[192.0.2.1]:465: refused", 0, ""),
            ("message size 552 exceeds size limit 550 of remote server", 0, ""),
            ("MSEXCH (5.5.2657.72) 550 users, 552 bytes", 550, ""),
            ("ERROR_CODE :421, ERROR_CODE :, Host not reachable.", 421, ""),
            ("Sendmail 8.14.2, at 23:45:50, 2014-05-50, 10.5.5.1", 0, ""),
            ("<<< 550 <a@b>, User Unknown", 550, ""),
            ("250 2.0.0 ok then 451 4.7.1 later", 451, "4.7.1"),
            ("(550 a@b: no such user)", 550, ""),
            ("403 4.7.0 TLS handshake failed.", 403, "4.7.0"),
            ("host said 552; room 404 is on floor 5", 552, ""),
        ] {
            let found = find(text, false);
            assert_eq!(found.reply.unwrap_or(0), reply, "{text}");
            assert_eq!(
                found.status.map(|status| status.to_string()).unwrap_or_default(),
                status,
                "{text}"
            );
        }
        assert_eq!(find("250 2.6.0 OK", true).status, Some(EnhancedStatus::new(2, 6, 0)));
    }
}
