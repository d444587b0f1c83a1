//! Delivery reports that have a machine's part.

use super::super::codes::{self, Codes};
use super::super::mime::{self, Kind};
use super::super::text::{is_mailbox, one_line};
use super::super::{IncomingMail, Limit, MailKind, Report, address, dsn, prose};
use super::Reading;
use crate::reply::EnhancedStatus;

impl Reading<'_> {
    /// A delivery report with a machine's part, or with the same fields in its text.
    pub(super) fn delivery_status(
        &self,
        mail: &mut IncomingMail,
        halves: prose::Halves<'_>,
        text: &str,
        limits: &mut Vec<Limit>,
    ) -> bool {
        let report = if let Some(leaf) = self.leaf(Kind::DeliveryStatus) {
            dsn::read(&leaf.text(limits), limits)
        } else {
            match inline_report(text) {
                // In a text somebody wrote, such fields are a quotation.
                Some(start) if self.looks_automatic() => dsn::read(&text[start..], limits),
                _ => return false,
            }
        };
        if report.recipients.is_empty() {
            return false;
        }
        let needs_words = report
            .recipients
            .iter()
            .any(|one| codes::find(&one.diagnostic, true).reply.is_none() || no_address(one));
        let words = if needs_words {
            let known = prose::Known { sender: &mail.to, failed: &[] };
            prose::recipients(halves.report, known, limits)
        } else {
            Vec::new()
        };
        let text = mail.text.clone();
        let whole = Whole {
            many: report.recipients.len(),
            words: &words,
            failed: &self.failed_recipients(),
            text: &text,
        };
        for (at, one) in report.recipients.into_iter().enumerate() {
            let mut built = whole.build(mail, one, at);
            built.reporting_mta.clone_from(&report.reporting);
            if built.date.is_empty() {
                built.date.clone_from(&report.arrival);
            }
            mail.reports.push(built);
        }
        mail.kind = overall(&mail.reports);
        true
    }
}

/// Recipients of one report whose words are looked for in the whole text.
const COMPLETED_MAXIMUM: usize = 50;

/// What the recipients of one report have in common.
struct Whole<'a> {
    /// How many there are.
    many: usize,
    /// What the words for people say of recipients.
    words: &'a [prose::Recipient],
    /// The recipients that the header calls failed.
    failed: &'a [String],
    /// The words for people.
    text: &'a str,
}

impl Whole<'_> {
    /// The report of the recipient at place `at`, completed from the words for people.
    fn build(&self, mail: &IncomingMail, one: dsn::Recipient, at: usize) -> Report {
        let kind = match one.action.as_str() {
            "delayed" | "deferred" | "delay" => MailKind::Delayed,
            "delivered" | "relayed" | "expanded" | "deliverable" => MailKind::Delivered,
            "" | "none" if one.status.is_some_and(|status| status.class == 2) => {
                MailKind::Delivered
            }
            _ => MailKind::Bounce,
        };
        let recipient = self.recipient(mail, &one, at);
        let (diagnostic, found) = self.diagnostic(&one, recipient.as_deref(), kind, at);
        Report {
            kind,
            original_recipient: one
                .original
                .clone()
                .filter(|original| recipient.as_deref() != Some(original)),
            recipient,
            status: status(&one, found),
            action: one.action,
            reply: found.reply,
            diagnostic,
            remote_mta: one.remote,
            date: one.date,
            ..Report::default()
        }
    }

    /// The address of a recipient: the final one, the original one, or whoever else is named.
    fn recipient(&self, mail: &IncomingMail, one: &dsn::Recipient, at: usize) -> Option<String> {
        let given = [&one.last, &one.original];
        if let Some(address) =
            given.iter().find_map(|text| text.as_deref().filter(|text| is_mailbox(text)))
        {
            return Some(address.to_owned());
        }
        if let Some(address) = self.failed.get(at) {
            return Some(address.clone());
        }
        if let Some(word) =
            self.words.get(at).filter(|word| self.words.len() == self.many && word.strength >= 2)
        {
            return Some(word.address.clone());
        }
        if self.many == 1
            && let Some(returned) = &mail.returned
        {
            let envelope = Some(&returned.received_for).filter(|one| is_mailbox(one));
            match returned.to.as_slice() {
                [one] => return Some(one.clone()),
                _ if envelope.is_some() => return envelope.cloned(),
                _ => {}
            }
        }
        one.last.clone().or_else(|| one.original.clone())
    }

    /// The diagnostic text of a recipient and the codes in it.
    fn diagnostic(
        &self,
        one: &dsn::Recipient,
        recipient: Option<&str>,
        kind: MailKind,
        at: usize,
    ) -> (String, Codes) {
        let success = kind == MailKind::Delivered;
        let mut diagnostic = one.diagnostic.clone();
        let mut found = codes::find(&diagnostic, success);
        if found.reply.is_none()
            && !success
            && let Some(word) = self.word(one).filter(|word| !word.reason.is_empty())
        {
            let more = codes::find(&word.reason, success);
            if more.reply.is_some() || diagnostic.len() < SHORT {
                append(&mut diagnostic, &word.reason);
                found = Codes {
                    reply: more.reply,
                    status: found.status.or(more.status),
                    together: more.together && found.status.is_none(),
                };
            }
        }
        if found.reply.is_none() && !success && diagnostic.len() < SHORT && at < COMPLETED_MAXIMUM {
            let said = prose::said_about(self.text, recipient.unwrap_or_default(), self.many == 1);
            let more = codes::find(&said, success);
            if more.reply.is_some() {
                append(&mut diagnostic, &said);
                found.reply = more.reply;
                found.status = found.status.or(more.status);
                found.together = more.together && found.status == more.status;
            }
        }
        if diagnostic.is_empty() {
            diagnostic.clone_from(&one.comment);
        }
        if diagnostic.is_empty() && self.many == 1 {
            diagnostic = one_line(self.text, 1000);
        }
        (diagnostic, found)
    }

    /// What the words for people say of a recipient.
    fn word(&self, one: &dsn::Recipient) -> Option<&prose::Recipient> {
        let given = [&one.last, &one.original];
        let is_it = |word: &&prose::Recipient| {
            given.into_iter().flatten().any(|address| address::same(address, &word.address))
        };
        let only = || self.words.first().filter(|_| self.many == 1 && self.words.len() == 1);
        self.words.iter().find(is_it).or_else(only)
    }
}

/// A diagnostic shorter than this says nothing by itself: `255`, `user unknown` and the like.
const SHORT: usize = 16;

/// Appends text after a blank.
fn append(text: &mut String, more: &str) {
    if !text.is_empty() {
        text.push(' ');
    }
    text.push_str(more);
}

/// The status code of a recipient. What the remote server said itself is nearer to the fault than
/// what the reporter made of it, but a general code (`5.0.0`) says less than a special one.
fn status(one: &dsn::Recipient, found: Codes) -> Option<EnhancedStatus> {
    let is_general = |status: EnhancedStatus| status.subject == 0 && status.detail == 0;
    let (first, second) =
        if found.together { (found.status, one.status) } else { (one.status, found.status) };
    match (first, second) {
        (Some(first), Some(second))
            if is_general(first) && !is_general(second) && first.class == second.class =>
        {
            Some(second)
        }
        (first, second) => first.or(second),
    }
}

/// Whether a recipient of a machine's part is named by no address.
fn no_address(one: &dsn::Recipient) -> bool {
    ![&one.last, &one.original].into_iter().flatten().any(|address| is_mailbox(address))
}

/// What a mail with these reports is: what is worst.
fn overall(reports: &[Report]) -> MailKind {
    let has = |kind: MailKind| reports.iter().any(|one| one.kind == kind);
    [MailKind::Bounce, MailKind::Delayed, MailKind::Delivered]
        .into_iter()
        .find(|kind| has(*kind))
        .unwrap_or_default()
}

/// Where the fields of a delivery report begin in a text, if they stand in it unquoted.
fn inline_report(text: &str) -> Option<usize> {
    let octets = text.as_bytes();
    let mut at = 0;
    for _ in 0..8 {
        let found = memchr::memmem::find(&octets[at..], b"-ecipient:")
            .or_else(|| memchr::memmem::find(&octets[at..], b"ecipient:"))?
            + at;
        let line = memchr::memrchr(b'\n', &octets[..found]).map_or(0, |end| end + 1);
        let name = &octets[line..found];
        if name.eq_ignore_ascii_case(b"final-r") || name.eq_ignore_ascii_case(b"original-r") {
            // The fields before it in the same block belong to it.
            let mut start = line;
            while start > 0 {
                let before = memchr::memrchr(b'\n', &octets[..start - 1]).map_or(0, |end| end + 1);
                if octets[before..start].trim_ascii().is_empty()
                    || mime::field_name(&octets[before..start]).is_none()
                {
                    break;
                }
                start = before;
            }
            return Some(start);
        }
        at = found + 1;
    }
    None
}
