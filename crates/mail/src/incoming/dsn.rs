//! The machine's part of a delivery report (RFC 3464, 6533), also where it stands in running text.

use super::address;
use super::codes;
use super::mime;
use super::{Limit, RECIPIENTS_MAXIMUM};
use crate::reply::EnhancedStatus;

/// What a report says of one recipient, as it stands there.
#[derive(Clone, Debug, Default)]
pub struct Recipient {
    /// `Final-Recipient`, without the type.
    pub last: Option<String>,
    /// `Original-Recipient`, or `X-Actual-Recipient` where there is no other.
    pub original: Option<String>,
    /// `Action` in lower case, without comments.
    pub action: String,
    /// `Status`.
    pub status: Option<EnhancedStatus>,
    /// The comment after the status code.
    pub comment: String,
    /// `Diagnostic-Code` without its type.
    pub diagnostic: String,
    /// `Remote-MTA` without its type.
    pub remote: String,
    /// `Last-Attempt-Date`.
    pub date: String,
}

impl Recipient {
    fn is_empty(&self) -> bool {
        self.last.is_none() && self.original.is_none()
    }
}

/// A whole report.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// `Reporting-MTA` without its type.
    pub reporting: String,
    /// `Arrival-Date`.
    pub arrival: String,
    /// One entry per recipient, in their order.
    pub recipients: Vec<Recipient>,
}

/// Octets of one value that are kept.
const VALUE_MAXIMUM: usize = 2048;

/// Reads the fields of a report. Lines that are none are taken as the continuation of the field
/// before them, where that is a diagnostic: some servers forget to indent.
#[must_use]
pub fn read(text: &str, limits: &mut Vec<Limit>) -> Report {
    let mut report = Report::default();
    let mut now = Recipient::default();
    // Where the lines of the field that is being read begin and end.
    let mut field: Option<(&str, usize, usize)> = None;
    let mut at = 0;
    while at < text.len() {
        let stop =
            memchr::memchr(b'\n', &text.as_bytes()[at..]).map_or(text.len(), |end| at + end + 1);
        let line = &text[at..stop];
        let octets = line.as_bytes();
        let blank = line.trim_ascii().is_empty();
        let name_end = if blank || matches!(octets[0], b' ' | b'\t') {
            None
        } else {
            mime::field_name(octets)
        };
        match name_end {
            Some(colon) if is_known(line[..colon].trim_ascii_end()) => {
                finish(text, field, &mut now, &mut report, limits);
                field = Some((line[..colon].trim_ascii_end(), at + colon + 1, stop));
            }
            _ if blank => {
                finish(text, field.take(), &mut now, &mut report, limits);
                // What follows a blank line is another recipient, unless it lacks a name.
                if !now.is_empty()
                    && (!now.action.is_empty()
                        || now.status.is_some()
                        || !now.diagnostic.is_empty())
                {
                    push(&mut now, &mut report, limits);
                }
            }
            _ => {
                if let Some((_, _, end)) = &mut field {
                    *end = stop;
                }
            }
        }
        at = stop;
    }
    finish(text, field, &mut now, &mut report, limits);
    push(&mut now, &mut report, limits);
    report
}

/// Whether a field name belongs to a delivery report; others end nothing and mean nothing here.
fn is_known(name: &str) -> bool {
    !name.contains(' ')
        && (name.len() > 2 && name[..2].eq_ignore_ascii_case("x-")
            || [
                "final-recipient",
                "original-recipient",
                "action",
                "status",
                "diagnostic-code",
                "remote-mta",
                "last-attempt-date",
                "reporting-mta",
                "arrival-date",
                "received-from-mta",
                "dsn-gateway",
                "original-envelope-id",
                "final-log-id",
                "will-retry-until",
                "localized-final-recipient",
                "last-attempt-time",
                "remote-recipient",
                "original-recipient-address",
            ]
            .iter()
            .any(|known| name.eq_ignore_ascii_case(known)))
}

/// Keeps the recipient that was read, and begins another.
fn push(now: &mut Recipient, report: &mut Report, limits: &mut Vec<Limit>) {
    let done = std::mem::take(now);
    if done.is_empty() {
        // Status and diagnostic after a blank line that should not be there.
        if let Some(last) = report.recipients.last_mut()
            && last.diagnostic.is_empty()
            && !done.diagnostic.is_empty()
        {
            last.diagnostic = done.diagnostic;
            last.status = last.status.or(done.status);
        }
        return;
    }
    if report.recipients.len() == RECIPIENTS_MAXIMUM {
        Limit::Recipients.note(limits);
        return;
    }
    report.recipients.push(done);
}

/// Takes the field whose lines are known now into the recipient.
fn finish(
    text: &str,
    field: Option<(&str, usize, usize)>,
    now: &mut Recipient,
    report: &mut Report,
    limits: &mut Vec<Limit>,
) {
    let Some((name, start, end)) = field else { return };
    let is = |known: &str| name.eq_ignore_ascii_case(known);
    let raw = &text[start..end];
    if is("final-recipient") {
        if now.last.is_some() {
            push(now, report, limits);
        }
        now.last = Some(recipient(raw));
    } else if is("original-recipient") {
        if now.original.is_some() && now.last.is_some() {
            push(now, report, limits);
        }
        now.original = Some(address::from_xtext(&recipient(raw)));
    } else if is("x-actual-recipient") || is("remote-recipient") {
        now.original.get_or_insert_with(|| recipient(raw));
    } else if is("action") {
        let word = raw.trim().split([' ', ';', '(', '\t', '\r', '\n']).next().unwrap_or_default();
        now.action = word.chars().take(20).collect::<String>().to_ascii_lowercase();
    } else if is("status") {
        let value = unfold(raw);
        let start = value.find(|character: char| character.is_ascii_digit()).unwrap_or(value.len());
        let word = value[start..].split([' ', '(', ',', ';']).next().unwrap_or_default();
        now.status = EnhancedStatus::read(word.as_bytes());
        value[start + word.len()..]
            .trim_matches([' ', '(', ')', ';', ','])
            .clone_into(&mut now.comment);
    } else if is("diagnostic-code") {
        let value = unfold(raw);
        let plain = without_type(&value);
        if now.diagnostic.is_empty() {
            plain.clone_into(&mut now.diagnostic);
        } else if now.diagnostic.len() < VALUE_MAXIMUM
            && codes::find(&now.diagnostic, true).reply.is_none()
        {
            // Two diagnostics: the one with a reply is the remote server's.
            now.diagnostic.insert(0, ' ');
            now.diagnostic.insert_str(0, plain);
        }
    } else if is("remote-mta") {
        without_type(&unfold(raw)).clone_into(&mut now.remote);
    } else if is("last-attempt-date") {
        now.date = unfold(raw);
    } else if is("reporting-mta") {
        without_type(&unfold(raw)).clone_into(&mut report.reporting);
    } else if is("arrival-date") {
        report.arrival = unfold(raw);
    }
}

/// A value in one line, cut to a size that is enough for every honest one.
#[must_use]
pub fn unfold(raw: &str) -> String {
    let mut end = raw.len().min(VALUE_MAXIMUM * 2);
    while !raw.is_char_boundary(end) {
        end -= 1;
    }
    let mut out = String::with_capacity(end.min(VALUE_MAXIMUM));
    for word in raw[..end].split_ascii_whitespace() {
        if out.len() + word.len() >= VALUE_MAXIMUM {
            break;
        }
        if !out.is_empty() {
            out.push(' ');
        }
        if word.contains('\0') {
            out.extend(word.chars().filter(|character| *character != '\0'));
        } else {
            out.push_str(word);
        }
    }
    out
}

/// A value without `smtp;`, `dns;`, `x-unix;` before it.
fn without_type(value: &str) -> &str {
    match value.split_once(';') {
        Some((kind, rest))
            if kind.len() <= 20
                && kind
                    .trim()
                    .bytes()
                    .all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_'))
                && !kind.trim().bytes().all(|octet| octet.is_ascii_digit()) =>
        {
            rest.trim()
        }
        _ => value.trim(),
    }
}

/// The address of a recipient field; its whole text where it is none (X.400, local users).
fn recipient(raw: &str) -> String {
    let value = unfold(raw);
    match address::from_value(&value) {
        Some(found) => found.to_owned(),
        None => without_type(&value).trim_matches(['<', '>', ' ', '"']).chars().take(320).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_recipients_however_they_are_parted() {
        let text = "Reporting-MTA: dns; mx.example.net\n\nFinal-Recipient: rfc822; a@example.com\nAction: failed\nStatus: 5.1.1 (no user)\n\
                    Diagnostic-Code: smtp; 550 no\n such user\nnot indented\nOriginal-Recipient: rfc822;x@example.com\nFinal-Recipient: RFC822;<b@example.com>\nAction: Delayed (later)\n\n\
                    Action: failed\nOriginal-recipient: rfc822;c+2B1@example.com\nFinal-recipient: rfc822;@r.example.com:c@in\n\nStatus: 5.0.0\n";
        let report = read(text, &mut Vec::new());
        let seen: Vec<_> = report
            .recipients
            .iter()
            .map(|one| {
                format!(
                    "{:?} {:?} {} {:?} {} {}",
                    one.last,
                    one.original,
                    one.action,
                    one.status.map(|s| s.to_string()),
                    one.comment,
                    one.diagnostic
                )
            })
            .collect();
        assert_eq!(report.reporting, "mx.example.net");
        assert_eq!(
            seen,
            [
                r#"Some("a@example.com") Some("x@example.com") failed Some("5.1.1") no user 550 no such user not indented"#,
                r#"Some("b@example.com") None delayed None  "#,
                r#"Some("c@in") Some("c+1@example.com") failed None  "#,
            ]
        );
    }
}
