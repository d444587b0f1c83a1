//! The reading of one mail: its parts, then one reader after another until one knows it.

use std::borrow::Cow;

use super::mime::{self, Fields, Kind, Leaf};
use super::signs::{self, Envelope, Sign};
use super::text::{cut, is_answered, one_line};
use super::{
    BODY_MAXIMUM, ENCLOSED_MAXIMUM, HEADER_TEXT_MAXIMUM, IncomingMail, Limit, MailKind, Report,
    Returned, address, codes, dsn, feedback, html, notice, prose, returned,
};
use crate::reply::EnhancedStatus;

mod answer;
mod bounce;
mod forwarded;
mod status;

/// A mail that is being read.
struct Reading<'a> {
    envelope: Envelope,
    fields: Fields<'a>,
    leaves: Vec<Leaf<'a>>,
    subject_sign: Option<(Sign, usize)>,
    depth: usize,
}

/// Reads a mail, or a mail within a mail.
pub fn read_at(octets: &[u8], depth: usize, limits: &mut Vec<Limit>) -> IncomingMail {
    let start =
        octets.iter().take(4096).position(|octet| !octet.is_ascii_whitespace()).unwrap_or(0);
    let (mut fields, mut body) = mime::header(&octets[start..], limits);
    if !fields.has("from") && !fields.has("content-type") && mime::goes_on(body) {
        // An empty line within the header.
        (fields, body) = mime::header(body, limits);
    }
    let from_field = fields.text("from", 1000);
    let mut mail = IncomingMail {
        subject: fields.text("subject", 2000),
        date: fields.text("date", 200),
        from: address::from_value(&from_field).unwrap_or(&from_field).to_owned(),
        ..IncomingMail::default()
    };
    for name in
        ["x-original-to", "delivered-to", "envelope-to", "x-envelope-to", "x-rcpt-to", "to", "cc"]
    {
        for value in fields.all(name) {
            returned::addresses(value, &mut mail.to);
        }
    }
    let mut leaves = Vec::with_capacity(8);
    mime::leaves(fields.clone(), body, &mut leaves, limits);
    let reading = Reading {
        envelope: Envelope::read(&fields, &from_field),
        subject_sign: signs::SUBJECTS.first(&signs::lower(&mail.subject)),
        fields,
        leaves,
        depth,
    };
    reading.fill(&mut mail, limits);
    // Of a bounce within another the outer header is the one that came to us.
    if matches!(mail.kind, MailKind::Bounce | MailKind::Delayed) && depth == 0 {
        mail.header = header_text(&reading.fields);
    }
    mail
}

/// Octets of one value in the text of a header: enough for every field that rules could look at.
const VALUE_MAXIMUM: usize = 400;

/// A header with one field a line.
fn header_text(fields: &Fields<'_>) -> String {
    let mut out = String::with_capacity(2048);
    for (name, value) in fields.iter() {
        if out.len() + name.len() + value.len().min(VALUE_MAXIMUM) + 3 > HEADER_TEXT_MAXIMUM {
            break;
        }
        out.push_str(&String::from_utf8_lossy(name));
        out.push_str(": ");
        let value = &value[..value.len().min(VALUE_MAXIMUM)];
        out.push_str(&one_line(&String::from_utf8_lossy(value), VALUE_MAXIMUM));
        out.push('\n');
    }
    out
}

impl<'a> Reading<'a> {
    /// Finds out what the mail is and whom it speaks of.
    fn fill(&self, mail: &mut IncomingMail, limits: &mut Vec<Limit>) {
        let text = self.human_text(limits);
        let halves = prose::halves(&text);
        mail.returned = self.returned(halves.returned, limits);
        mail.text = cut(halves.report, BODY_MAXIMUM);
        if self.feedback(mail, halves.report, limits)
            || self.delivery_status(mail, halves, &text, limits)
        {
            return;
        }
        if halves.report.trim_start().starts_with('{') && self.notice(mail, &text) {
            return;
        }
        if self.bounce(mail, halves, limits) || self.enclosed(mail, halves.report, limits) {
            return;
        }
        // Forwarded within the text, with hardly a word of its own.
        if self.depth + 1 < ENCLOSED_MAXIMUM
            && !self.envelope.list
            && !self.envelope.answer
            && halves.report.trim().len() < 200
            && !self.is_personal(halves.report)
            && self.take_enclosed(mail, halves.returned.as_bytes(), limits)
        {
            return;
        }
        if self.depth + 1 < ENCLOSED_MAXIMUM
            && !self.envelope.list
            && !is_answered(&mail.subject)
            && let Some(inner) = forwarded::forwarded(&text, bounce::greets)
            && self.take_enclosed(mail, inner.as_bytes(), limits)
        {
            return;
        }
        self.answer(mail, halves.report);
    }

    /// The first leaf of a kind that is not empty.
    fn leaf(&self, kind: Kind) -> Option<&Leaf<'a>> {
        self.leaves.iter().find(|leaf| leaf.kind == kind && !leaf.body.trim_ascii().is_empty())
    }

    /// The text for people: every plain text before the returned message, else the HTML.
    fn human_text(&self, limits: &mut Vec<Limit>) -> Cow<'a, str> {
        let mut text: Cow<'a, str> = Cow::Borrowed("");
        for leaf in &self.leaves {
            match leaf.kind {
                Kind::Plain => {
                    let part = leaf.text(limits);
                    if part.trim().is_empty() {
                        continue;
                    }
                    if text.is_empty() {
                        text = part;
                    } else if text.len() < mime::TEXT_MAXIMUM {
                        let whole = text.to_mut();
                        whole.push_str("\n\n");
                        whole.push_str(&part);
                    }
                }
                Kind::Message | Kind::MessageHeader if !text.is_empty() => break,
                _ => {}
            }
        }
        if text.is_empty()
            && let Some(leaf) = self.leaf(Kind::Html)
        {
            return Cow::Owned(html::text(&leaf.text(limits)));
        }
        text
    }

    /// What came back of our message: a part of its own, or the end of the text.
    fn returned(&self, tail: &str, limits: &mut Vec<Limit>) -> Option<Returned> {
        let leaf = self.leaf(Kind::Message).or_else(|| self.leaf(Kind::MessageHeader));
        match leaf {
            Some(leaf) => Returned::read(&leaf.octets(limits)),
            None if !tail.is_empty() => Returned::read(tail.as_bytes()),
            None => None,
        }
    }

    /// A feedback report, in the standard's form or an older one.
    fn feedback(&self, mail: &mut IncomingMail, text: &str, limits: &mut Vec<Limit>) -> bool {
        // A complaint behind a delivery report came back with our message: it is none of its own.
        let place = |kind: Kind| self.leaves.iter().position(|leaf| leaf.kind == kind);
        if place(Kind::DeliveryStatus)
            .is_some_and(|status| place(Kind::Feedback).is_some_and(|behind| status < behind))
        {
            return false;
        }
        let report = if let Some(leaf) = self.leaf(Kind::Feedback) {
            feedback::read(&leaf.octets(limits))
        } else if self.leaf(Kind::DeliveryStatus).is_none()
            && self.leaf(Kind::Message).is_some()
            && !self.envelope.mailer_daemon
            && matches!(self.subject_sign, Some((Sign::Complaint, 0..=12)))
        {
            let mut report = feedback::read(text.as_bytes());
            if report.kind.is_empty() {
                "abuse".clone_into(&mut report.kind);
            }
            report
        } else {
            return false;
        };
        let mut recipients = report.recipients;
        if recipients.is_empty()
            && let Some(returned) = &mail.returned
        {
            recipients = feedback::from_returned(returned);
        }
        let one = Report {
            kind: MailKind::Feedback,
            feedback_type: report.kind,
            date: report.date,
            reporting_mta: report.reporting,
            diagnostic: one_line(text, 500),
            ..Report::default()
        };
        mail.kind = MailKind::Feedback;
        if recipients.is_empty() {
            mail.reports.push(one);
        } else {
            mail.reports.extend(
                recipients
                    .into_iter()
                    .map(|address| Report { recipient: Some(address), ..one.clone() }),
            );
        }
        true
    }

    /// A notice in JSON.
    fn notice(&self, mail: &mut IncomingMail, text: &str) -> bool {
        let notices = notice::read(text.trim_start());
        let Some(first) = notices.first() else { return false };
        mail.kind = first.kind;
        if !first.message_id.is_empty() {
            mail.returned.get_or_insert_default().message_ids.push(first.message_id.clone());
        }
        for one in notices {
            let found = codes::find(&one.diagnostic, one.kind == MailKind::Delivered);
            mail.reports.push(Report {
                kind: one.kind,
                recipient: Some(one.recipient).filter(|address| !address.is_empty()),
                status: found
                    .status
                    .filter(|_| found.together)
                    .or_else(|| EnhancedStatus::read(one.status.as_bytes()))
                    .or(found.status),
                reply: found.reply,
                diagnostic: dsn::unfold(
                    one.diagnostic.strip_prefix("smtp;").unwrap_or(&one.diagnostic),
                ),
                reporting_mta: one
                    .reporting
                    .split_once(';')
                    .map_or(one.reporting.as_str(), |(_, host)| host)
                    .trim()
                    .to_owned(),
                date: one.date,
                feedback_type: one.feedback_type,
                ..Report::default()
            });
        }
        true
    }

    /// The recipients that the header itself calls failed.
    fn failed_recipients(&self) -> Vec<String> {
        let mut failed = Vec::new();
        for name in ["x-failed-recipients", "x-failed-recipient", "x-failed-addresses"] {
            for value in self.fields.all(name) {
                returned::addresses(value, &mut failed);
            }
        }
        failed
    }

    /// A bounce within the mail: forwarded as an attachment, or returned by another server.
    fn enclosed(&self, mail: &mut IncomingMail, report: &str, limits: &mut Vec<Limit>) -> bool {
        let envelope = &self.envelope;
        if self.depth + 1 >= ENCLOSED_MAXIMUM || envelope.list || report.len() > 1500 {
            return false;
        }
        match self.leaf(Kind::Message) {
            Some(leaf) => self.take_enclosed(mail, &leaf.octets(limits), limits),
            None => false,
        }
    }

    /// Takes what a mail within this one reports, if it reports something.
    fn take_enclosed(
        &self,
        mail: &mut IncomingMail,
        octets: &[u8],
        limits: &mut Vec<Limit>,
    ) -> bool {
        if octets.is_empty() {
            return false;
        }
        let inner = read_at(octets, self.depth + 1, limits);
        if !matches!(
            inner.kind,
            MailKind::Bounce | MailKind::Delayed | MailKind::Feedback | MailKind::Delivered
        ) {
            return false;
        }
        mail.kind = inner.kind;
        mail.reports = inner.reports;
        mail.returned = inner.returned;
        if !inner.text.is_empty() {
            mail.text = inner.text;
        }
        for one in inner.to {
            if !mail.to.contains(&one) {
                mail.to.push(one);
            }
        }
        true
    }
}
