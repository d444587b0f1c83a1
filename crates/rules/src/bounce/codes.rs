//! Reply and status codes found in a text, and the masks that rules have for them.

use mail::reply::EnhancedStatus;

/// A reply code or its first digits: `550`, `55`, `5`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyMask {
    digits: u16,
    length: u8,
}

impl ReplyMask {
    /// Reads one to three digits of which the first is 2 to 5.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let good = (1..=3).contains(&text.len())
            && text.bytes().all(|digit| digit.is_ascii_digit())
            && matches!(text.as_bytes()[0], b'2'..=b'5');
        good.then(|| Self {
            digits: text.bytes().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0')),
            length: u8::try_from(text.len()).unwrap_or(3),
        })
    }

    /// Whether the code begins with these digits.
    #[must_use]
    pub const fn matches(self, code: u16) -> bool {
        let kept = match self.length {
            1 => code / 100,
            2 => code / 10,
            _ => code,
        };
        kept == self.digits
    }
}

/// A pattern of enhanced status codes: `5.1.1`, `x.2.2`, `5.7.500-699`, `x.4.*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusMask {
    /// `x`: any class.
    class: Option<u8>,
    subject: Option<u16>,
    /// Lowest and highest; `*` is 0 to 999.
    detail: (u16, u16),
}

impl StatusMask {
    /// Reads a mask.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let number = |part: &str| {
            let good =
                (1..=3).contains(&part.len()) && part.bytes().all(|digit| digit.is_ascii_digit());
            if good { part.parse::<u16>().ok() } else { None }
        };
        let mut parts = text.split('.');
        let class = match parts.next()? {
            "x" => None,
            "2" => Some(2),
            "4" => Some(4),
            "5" => Some(5),
            _ => return None,
        };
        let subject = match parts.next()? {
            "*" => None,
            digits => Some(number(digits)?),
        };
        let detail = match parts.next()? {
            "*" => (0, 999),
            span => match span.split_once('-') {
                Some((low, high)) => (number(low)?, number(high)?),
                None => (number(span)?, number(span)?),
            },
        };
        (parts.next().is_none() && detail.0 <= detail.1).then_some(Self { class, subject, detail })
    }

    /// Whether the code is one of these.
    #[must_use]
    pub fn matches(self, status: EnhancedStatus) -> bool {
        self.class.is_none_or(|class| class == status.class)
            && self.subject.is_none_or(|subject| subject == status.subject)
            && (self.detail.0..=self.detail.1).contains(&status.detail)
    }
}

/// The reply code and the status code that stand in a text; each may be absent.
///
/// A reply code counts at the beginning, or behind a mark of quotation such as `said: 550` or
/// `<<< 550`. A status code counts anywhere where it cannot be a part of an IP address or version;
/// one of a log line (`dsn=5.0.0, reply=550 5.1.1 ...`) only when the reply itself has none.
#[must_use]
pub fn codes_in(text: &str) -> (Option<u16>, Option<EnhancedStatus>) {
    let octets = &text.as_bytes()[..text.len().min(MOST_OCTETS)];
    let (mut reply, mut status, mut logged) = (None, None, None);
    let mut at = 0;
    while at < octets.len() && (reply.is_none() || status.is_none()) {
        if !octets[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        let end = at + run_length(&octets[at..]);
        let run = &octets[at..end];
        let before = octets[..at].last().copied();
        let joined = before.is_some_and(|octet| octet.is_ascii_alphanumeric() || octet == b'.');
        if !joined {
            let run = run.strip_suffix(b".").unwrap_or(run);
            if reply.is_none() && run.len() == 3 && begins_reply(octets, at, end) {
                reply = Some(run.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0')));
            } else if status.is_none() && !followed_by_letter(octets, end) {
                let read = EnhancedStatus::read(run).filter(|status| status.subject <= 9);
                let of_log = at >= 4 && octets[at - 4..at].eq_ignore_ascii_case(b"dsn=");
                *(if of_log { &mut logged } else { &mut status }) = read;
            }
        }
        at = end.max(at + 1);
    }
    (reply, status.or(logged))
}

/// Octets in which codes are looked for.
const MOST_OCTETS: usize = 4 * 1024;

fn run_length(octets: &[u8]) -> usize {
    let in_run = |octet: &&u8| octet.is_ascii_digit() || **octet == b'.';
    octets.iter().take_while(in_run).count()
}

fn followed_by_letter(octets: &[u8], end: usize) -> bool {
    octets.get(end).is_some_and(|octet| octet.is_ascii_alphanumeric() || *octet == b'_')
}

/// Whether three digits at `at` are where a reply begins.
fn begins_reply(octets: &[u8], at: usize, end: usize) -> bool {
    // A run may hold dots: `5.1: no such user` has three octets and no reply code.
    let code = matches!(octets[at..end], [b'2' | b'4' | b'5', b'0'..=b'7', third, ..] if third.is_ascii_digit());
    let closed = octets
        .get(end)
        .is_none_or(|octet| matches!(octet, b' ' | b'-' | b'\r' | b'\n' | b'\t' | b':' | b'"'));
    let mark = octets[..at].iter().rev().find(|octet| !matches!(octet, b' ' | b'\t'));
    let opened = mark.is_none_or(|octet| {
        matches!(octet, b':' | b';' | b'<' | b'>' | b'"' | b'\'' | b'(' | b'#' | b'\n' | b'\r')
    });
    code && closed && opened
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_match_what_they_say() {
        for (mask, code, want) in [
            ("550", 550, true),
            ("55", 552, true),
            ("5", 571, true),
            ("4", 550, false),
            ("55", 545, false),
        ] {
            assert_eq!(ReplyMask::read(mask).unwrap().matches(code), want, "{mask} {code}");
        }
        for bad in ["", "x", "5500", "5x", "150"] {
            assert_eq!(ReplyMask::read(bad), None, "{bad}");
        }
        for (mask, class, subject, detail, want) in [
            ("5.1.1", 5, 1, 1, true),
            ("5.1.1", 5, 1, 10, false),
            ("x.2.2", 4, 2, 2, true),
            ("5.7.606-649", 5, 7, 640, true),
            ("5.7.606-649", 5, 7, 650, false),
            ("x.*.*", 4, 4, 7, true),
        ] {
            let status = EnhancedStatus::new(class, subject, detail);
            assert_eq!(StatusMask::read(mask).unwrap().matches(status), want, "{mask} {status}");
        }
        for bad in ["", "5", "5.1", "5.1.1.1", "3.1.1", "5.1.9-1", "5.1000.1"] {
            assert_eq!(StatusMask::read(bad), None, "{bad}");
        }
    }

    #[test]
    fn finds_codes_where_they_are_codes() {
        for (text, reply, status) in [
            ("550 5.1.1 no such user", Some(550), Some("5.1.1")),
            ("550-5.1.1 no\n550 5.1.1 user", Some(550), Some("5.1.1")),
            ("smtp; 550 #5.1.0 Address rejected.", Some(550), Some("5.1.0")),
            (
                "host mx.example[192.0.2.1] said: 452-4.2.2 full (in reply to RCPT TO)",
                Some(452),
                Some("4.2.2"),
            ),
            ("<<< 554 denied", Some(554), None),
            ("sorry, no mailbox here by that name. (#5.1.1)", None, Some("5.1.1")),
            ("deferred for 450 seconds by 4.16.56.1", None, None),
            ("retry in 550 s", None, None),
            ("5.1.0 - Unknown address error 540-'wrong'", None, Some("5.1.0")),
            ("exim 4.92.3x", None, None),
            ("550", Some(550), None),
            ("dsn=5.0.0, reply=read error: 550 5.1.1 no such user", Some(550), Some("5.1.1")),
            ("dsn=5.2.2, stat=Service unavailable", None, Some("5.2.2")),
            ("5.1: no such user", None, None),
            (">5.1.:", None, None),
            ("", None, None),
        ] {
            let found = codes_in(text);
            let shown = found.1.map(|status| status.to_string());
            assert_eq!((found.0, shown.as_deref()), (reply, status), "{text}");
        }
    }
}
