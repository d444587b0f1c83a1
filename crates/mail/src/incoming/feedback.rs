//! Complaints: feedback reports (RFC 5965, 6591, 6650) and the older forms of the large providers.

use super::address;
use super::mime;
use super::returned::Returned;

/// What a feedback report says.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// `Feedback-Type` in lower case: abuse, fraud, virus, opt-out, not-spam, auth-failure, other.
    pub kind: String,
    /// The recipients who complained, as far as they are named and not blotted out.
    pub recipients: Vec<String>,
    /// `Arrival-Date` or `Received-Date`.
    pub date: String,
    /// `Reporting-MTA`.
    pub reporting: String,
}

/// Recipients of one report that are kept.
const RECIPIENTS_MAXIMUM: usize = 100;

/// Reads the machine's part.
#[must_use]
pub fn read(octets: &[u8]) -> Report {
    let mut limits = Vec::new();
    let (fields, _) = mime::header(octets.trim_ascii_start(), &mut limits);
    let mut report = Report {
        kind: fields.text("feedback-type", 80).to_ascii_lowercase(),
        date: fields.text("arrival-date", 200),
        reporting: fields.text("reporting-mta", 300),
        ..Report::default()
    };
    if report.kind.is_empty() {
        report.kind = fields.text("abuse-type", 80).to_ascii_lowercase();
    }
    if report.date.is_empty() {
        report.date = fields.text("received-date", 200);
    }
    // An opt-out names whom to remove; that is surer than the envelope of a list.
    for name in
        ["removal-recipient", "original-rcpt-to", "original-recipient", "x-hmxmroriginalrecipient"]
    {
        for value in fields.all(name) {
            add(&mut report.recipients, &super::decode::words(value, 2000));
        }
        if name == "removal-recipient" && !report.recipients.is_empty() {
            break;
        }
    }
    report
}

/// Adds every address of `value` that was not blotted out.
fn add(recipients: &mut Vec<String>, value: &str) {
    let mut at = 0;
    while let Some(found) = address::next(value, at) {
        let one = &value[found.start..found.end];
        if !is_redacted(one)
            && recipients.len() < RECIPIENTS_MAXIMUM
            && !recipients.iter().any(|known| address::same(known, one))
        {
            recipients.push(one.to_owned());
        }
        at = found.end;
    }
}

/// Whether a provider put something in the place of the address.
#[must_use]
pub fn is_redacted(one: &str) -> bool {
    let (local, domain) = one.split_once('@').unwrap_or((one, ""));
    let lower = local.to_ascii_lowercase();
    lower.contains("redacted")
        || lower.contains("undisclosed")
        || lower.contains("xxxx")
        || lower == "removed"
        || lower == "hidden"
        || lower == "anonymous"
        || lower == "recipient"
        || lower.chars().all(|character| matches!(character, 'x' | '*' | '-' | '_' | '.'))
        || domain.to_ascii_lowercase().contains("redacted")
}

/// Who complained, from what the report encloses of our message, where the report does not say.
#[must_use]
pub fn from_returned(returned: &Returned) -> Vec<String> {
    let mut recipients = Vec::new();
    for value in returned.extension("x-hmxmroriginalrecipient") {
        add(&mut recipients, value);
    }
    // A message of ours has one recipient; among several names it cannot be told.
    if recipients.is_empty() && returned.to.len() == 1 {
        add(&mut recipients, &returned.to[0]);
    }
    let names = [
        "x-original-recipient",
        "x-original-to",
        "x-envelope-to",
        "envelope-to",
        "x-rcpt-to",
        "delivered-to",
    ];
    for name in names {
        for value in returned.extension(name) {
            if recipients.is_empty() {
                add(&mut recipients, value);
            }
        }
    }
    if recipients.is_empty() {
        add(&mut recipients, &returned.received_for);
    }
    recipients.truncate(1);
    recipients
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_who_complained() {
        let report = read(
            b"Feedback-Type: Opt-Out\r\nOriginal-Rcpt-To: <list@example.com>\r\nRemoval-Recipient: a@example.com\r\nArrival-Date: today\r\n\r\n",
        );
        assert_eq!(
            (report.kind.as_str(), report.recipients),
            ("opt-out", vec!["a@example.com".into()])
        );
        let report = read(b"\nFeedback-Type: abuse\nOriginal-Rcpt-To: [redacted]@example.com\nOriginal-Rcpt-To: xxxx@example.com\n");
        assert!(report.recipients.is_empty());
    }
}
