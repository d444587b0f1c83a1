//! Where the report ends and the returned message begins.

use std::sync::LazyLock;

use aho_corasick::AhoCorasick;

use super::super::{mime, signs};
use super::LINES_MAXIMUM;

/// A text in its two halves.
#[derive(Clone, Copy, Debug)]
pub struct Halves<'a> {
    /// What the server says.
    pub report: &'a str,
    /// The message it returns, from its header on; empty where none is in the text.
    pub returned: &'a str,
}

/// Words in a line of dashes, or before a colon, that introduce the returned message.
const RETURNS: &[&str] = &[
    "original message",
    "original mail",
    "old message",
    "original bounce",
    "your message reads",
    "copia de la mensa",
    "copia del mensaje",
    "copia del messaggio",
    "cópia da mensagem",
    "copia da mensagem",
    "kopie van",
    "kopia wiadomości",
    "копия",
    "mensagem devolvida",
    "messaggio respinto",
    "returned mail",
    "attached message",
    "original headers",
    "copy of the message",
    "copy of your message",
    "copy of the original",
    "unsent message",
    "returned message",
    "returned mail follows",
    "message header",
    "header of the",
    "headers of the",
    "message text follows",
    "message follows",
    "mail follows",
    "beginning of message",
    "below this line",
    "original text",
    "undelivered message",
    "undeliverable message",
    "rejected message",
    "failed message",
    "message contents follow",
    "message contents",
    "message body",
    "first part of",
    "start of returned",
    "start of message",
    "start of included",
    "beginning of original",
    "ursprüngliche nachricht",
    "originalnachricht",
    "kopie der nachricht",
    "header der",
    "kopfzeilen der",
    "message d'origine",
    "message original",
    "en-têtes",
    "copie du message",
    "mensaje original",
    "encabezados",
    "messaggio originale",
    "intestazioni originali",
    "mensagem original",
    "oorspronkelijk",
    "original meddelande",
    "oryginal",
    "исходное сообщение",
    "исходного сообщения",
    "исходное письмо",
    "оригинальное сообщение",
    "元のメール",
    "元のメッセージ",
    "原メッセージ",
    "オリジナル",
    "原邮件",
    "原始邮件",
    "原始郵件",
    "원본 메",
    "원래 메",
];

static RETURNING: LazyLock<AhoCorasick> = LazyLock::new(|| {
    AhoCorasick::builder()
        .ascii_case_insensitive(true)
        .build(RETURNS)
        .expect("the phrases are few and short")
});

/// Fields that only a message's own header has.
const HEADER_ONLY: &[&str] = &[
    "received",
    "return-path",
    "dkim-signature",
    "x-received",
    "arc-seal",
    "mime-version",
    "delivered-to",
    "x-google-smtp-source",
    "x-google-dkim-signature",
    "x-originating-ip",
    "authentication-results",
    "received-spf",
    "content-type",
    "content-transfer-encoding",
    "domainkey-signature",
    "x-mailer",
    "x-apparently-to",
    "x-apparently-from",
    "errors-to",
    "resent-from",
    "x-originalarrivaltime",
    "x-authentication-warning",
    "arc-message-signature",
];

/// Parts a text where the returned message begins.
#[must_use]
pub fn halves(text: &str) -> Halves<'_> {
    let mut at = 0;
    let mut lines = 0;
    while at < text.len() && lines < LINES_MAXIMUM {
        let stop =
            memchr::memchr(b'\n', &text.as_bytes()[at..]).map_or(text.len(), |end| at + end + 1);
        let line = text[at..stop].trim();
        if !line.is_empty() {
            if introduces(line) {
                let returned =
                    header_start(&text[stop..]).map_or("", |start| &text[stop + start..]);
                // A heading before the report itself introduces nothing.
                if !returned.is_empty()
                    || line.starts_with(['-', '=', '*', '_'])
                    || text[stop..].trim().len() < 40
                {
                    return Halves { report: &text[..at], returned };
                }
            }
            if is_header_line(line) && follows_header(&text[stop..]) {
                let start = paragraph_start(text, at);
                return Halves { report: &text[..start], returned: &text[start..] };
            }
        }
        at = stop;
        lines += 1;
    }
    Halves { report: text, returned: "" }
}

/// Whether a line announces the returned message.
fn introduces(line: &str) -> bool {
    if line.len() > 120 {
        return false;
    }
    let ruled = ["--", "==", "**", "__", "|-"].iter().any(|rule| line.starts_with(rule));
    let ends = line.ends_with([':', '：']) || ends_with_follows(line);
    (ruled || ends) && {
        let line = signs::lower(line);
        // A heading over a list of recipients may speak of the message too.
        RETURNING.is_match(&*line)
            && !["transcript", "following address", "following recipient", "did not receive"]
                .iter()
                .any(|words| line.contains(words))
    }
}

/// Whether a line ends with `follows` or `following`, with a point or not.
fn ends_with_follows(line: &str) -> bool {
    let line = line.trim_end_matches(['.', '-', ' ', '*', '=']);
    ["follows", "follow", "following", "folgt", "attached", "below"].iter().any(|word| {
        line.len() >= word.len()
            && line.is_char_boundary(line.len() - word.len())
            && line[line.len() - word.len()..].eq_ignore_ascii_case(word)
    })
}

/// Whether a line is one of a message's own header and can hardly be anything else.
fn is_header_line(line: &str) -> bool {
    let Some(colon) = line.as_bytes().iter().take(40).position(|octet| *octet == b':') else {
        return false;
    };
    let name = &line[..colon];
    // Nearly every line with a colon is none of these; their first letters say so.
    matches!(
        name.as_bytes().first(),
        Some(
            b'A' | b'C'
                | b'D'
                | b'E'
                | b'M'
                | b'R'
                | b'X'
                | b'a'
                | b'c'
                | b'd'
                | b'e'
                | b'm'
                | b'r'
                | b'x'
        )
    ) && HEADER_ONLY.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// Whether text goes on as a header does: with another field or a folded line.
fn follows_header(text: &str) -> bool {
    let mut lines = text.lines();
    let Some(line) = lines.next() else { return true };
    line.trim().is_empty()
        || line.starts_with([' ', '\t'])
        || mime::field_name(line.trim_start().as_bytes()).is_some()
}

/// Where the block of fields begins that the line at `at` belongs to.
fn paragraph_start(text: &str, at: usize) -> usize {
    let mut start = at;
    while start > 0 {
        let before = &text[..start - 1];
        let line = memchr::memrchr(b'\n', before.as_bytes()).map_or(0, |end| end + 1);
        let candidate = &text[line..start];
        if candidate.trim().is_empty() || mime::field_name(candidate.as_bytes()).is_none() {
            break;
        }
        start = line;
    }
    start
}

/// Where a header begins within the next lines.
fn header_start(text: &str) -> Option<usize> {
    let mut at = 0;
    for _ in 0..12 {
        let line = text[at..].split_inclusive('\n').next()?;
        let trimmed = line.trim_start();
        let ruled = trimmed.starts_with(['-', '=', '*', '|']);
        // An address before a colon is no field.
        let is_field = mime::field_name(trimmed.as_bytes())
            .is_some_and(|colon| !trimmed[..colon].contains(['@', '.']));
        if !ruled && is_field && !trimmed.starts_with("http") {
            return Some(at);
        }
        at += line.len();
    }
    None
}
