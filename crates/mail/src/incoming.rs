//! Mail that comes back: bounces, notices of delay, complaints, auto-replies, challenges, unsubscribe requests, and ordinary mail.
//!
//! [`read`] takes the octets of one mail and says what it is, of whom it speaks, what the servers
//! said, and what is left of our own message in it. It decides nothing about addresses: the
//! reason of a failure is found by the bounce rules from the [`Report::diagnostic`] given here, and whether the
//! mail is a genuine answer to ours by the return path it came to.
//!
//! How: the machine's parts are believed first (RFC 3464 and 6533 reports, RFC 5965 feedback), then
//! what servers write for people, by structure and not by product. A text counts as a bounce only where
//! its sender looks like a mail system and its content like a failure; mail about bounces is
//! ordinary mail.
//!
//! Invariants: it never fails and never panics, whatever the octets are; its time is linear in the
//! octets looked at and its memory bounded by the constants of [`limits`]; what was left out is in
//! [`IncomingMail::limits_hit`]. The same octets give the same result.

mod address;
mod codes;
mod decode;
mod dsn;
mod feedback;
mod html;
mod mime;
mod notice;
mod prose;
mod returned;
mod signs;

#[cfg(test)]
mod tests;

use core::fmt;
use std::borrow::Cow;

use crate::reply::EnhancedStatus;

pub use returned::Returned;

use mime::{Kind, Leaf};
use signs::{Envelope, Sign};

/// The bounds of reading; beyond them a mail is cut and [`Limit`] says so.
pub mod limits {
    pub use super::mime::{
        DEPTH_MAXIMUM, FIELDS_MAXIMUM, HEADER_MAXIMUM, LEAVES_MAXIMUM, OCTETS_MAXIMUM, TEXT_MAXIMUM,
    };
    pub use super::{BODY_MAXIMUM, ENCLOSED_MAXIMUM, RECIPIENTS_MAXIMUM};
}

/// Recipients of one mail that are kept.
pub const RECIPIENTS_MAXIMUM: usize = 2000;
/// Octets of the human text that are kept in [`IncomingMail::text`].
pub const BODY_MAXIMUM: usize = 16 << 10;
/// How many mails within mails are opened.
pub const ENCLOSED_MAXIMUM: usize = 3;

/// What sort of mail it is, or what a report in it tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MailKind {
    /// Delivery failed for good.
    Bounce,
    /// Delivery is late and goes on.
    Delayed,
    /// A complaint, or another report of a feedback loop.
    Feedback,
    /// A machine answers for a person.
    AutoReply,
    /// Somebody wants no more mail.
    Unsubscribe,
    /// A challenge to prove that the sender is a person.
    Challenge,
    /// Delivery succeeded, or was passed on to a server that reports nothing.
    Delivered,
    /// Anything else.
    #[default]
    Other,
}

impl MailKind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::Bounce,
        Self::Delayed,
        Self::Feedback,
        Self::AutoReply,
        Self::Unsubscribe,
        Self::Challenge,
        Self::Delivered,
        Self::Other,
    ];

    /// The word in files, logs and answers.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Bounce => "bounce",
            Self::Delayed => "delayed",
            Self::Feedback => "feedback",
            Self::AutoReply => "auto-reply",
            Self::Unsubscribe => "unsubscribe",
            Self::Challenge => "challenge",
            Self::Delivered => "delivered",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for MailKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.word())
    }
}

/// A bound that a mail went beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// More octets than [`limits::OCTETS_MAXIMUM`].
    Octets,
    /// A header longer than [`limits::HEADER_MAXIMUM`].
    Header,
    /// More fields than [`limits::FIELDS_MAXIMUM`].
    Fields,
    /// Multiparts nested deeper than [`limits::DEPTH_MAXIMUM`].
    Depth,
    /// More parts than [`limits::LEAVES_MAXIMUM`].
    Parts,
    /// A text longer than [`limits::TEXT_MAXIMUM`].
    Text,
    /// More recipients than [`RECIPIENTS_MAXIMUM`].
    Recipients,
}

impl Limit {
    /// Notes the limit once.
    fn note(self, limits: &mut Vec<Self>) {
        if !limits.contains(&self) {
            limits.push(self);
        }
    }
}

/// What a mail tells of one recipient.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What it tells.
    pub kind: MailKind,
    /// The address concerned: the one who failed, complained or answered; `None` where the mail does
    /// not name it.
    pub recipient: Option<String>,
    /// The address as the sender wrote it, where the report gives it beside the final one.
    pub original_recipient: Option<String>,
    /// `Action` of a machine's report, in lower case; empty without one.
    pub action: String,
    /// The enhanced status code the remote server gave, else the report's own.
    pub status: Option<EnhancedStatus>,
    /// The SMTP reply code.
    pub reply: Option<u16>,
    /// The text a decision rests on, in one line; at most a few kilobytes.
    pub diagnostic: String,
    /// The host that refused; may be empty.
    pub remote_mta: String,
    /// The host that reports; may be empty.
    pub reporting_mta: String,
    /// When it happened, as it stands in the report; may be empty.
    pub date: String,
    /// `Feedback-Type`, in lower case; empty but for feedback.
    pub feedback_type: String,
}

/// A mail that came in, as far as it could be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IncomingMail {
    /// What sort of mail it is.
    pub kind: MailKind,
    /// One report per recipient; none where none was found.
    pub reports: Vec<Report>,
    /// `Subject`, decoded.
    pub subject: String,
    /// The address of `From`, or the whole field where it has none; may be empty.
    pub from: String,
    /// Every address the mail was sent or delivered to, in the order envelope, `To`, `Cc`: candidates
    /// for a return path of ours.
    pub to: Vec<String>,
    /// `Date` as it stands.
    pub date: String,
    /// The text for people without the returned message, at most [`BODY_MAXIMUM`] octets.
    pub text: String,
    /// What is left of our message.
    pub returned: Option<Returned>,
    /// Which bounds were hit.
    pub limits_hit: Vec<Limit>,
}

/// Reads one mail. It never fails: mail that tells nothing is [`MailKind::Other`].
#[must_use]
pub fn read(octets: &[u8]) -> IncomingMail {
    let mut limits = Vec::new();
    let mut octets = octets;
    if octets.len() > mime::OCTETS_MAXIMUM {
        Limit::Octets.note(&mut limits);
        octets = &octets[..mime::OCTETS_MAXIMUM];
    }
    let mut mail = read_at(octets, 0, &mut limits);
    mail.limits_hit = limits;
    mail
}

/// A mail that is being read.
struct Reading<'a> {
    envelope: Envelope,
    fields: mime::Fields<'a>,
    leaves: Vec<Leaf<'a>>,
    subject_sign: Option<(Sign, usize)>,
    depth: usize,
}

/// Reads a mail, or a mail within a mail.
fn read_at(octets: &[u8], depth: usize, limits: &mut Vec<Limit>) -> IncomingMail {
    let start =
        octets.iter().take(4096).position(|octet| !octet.is_ascii_whitespace()).unwrap_or(0);
    let (fields, body) = mime::header(&octets[start..], limits);
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
    mail
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

    /// A delivery report with a machine's part, or with the same fields in its text.
    fn delivery_status(
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
        let failed = self.failed_recipients();
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
        let many = report.recipients.len();
        for (at, one) in report.recipients.into_iter().enumerate() {
            let built = self.build(
                mail,
                one,
                at,
                many,
                &words,
                &failed,
                &report.reporting,
                &report.arrival,
            );
            mail.reports.push(built);
        }
        mail.kind = overall(&mail.reports);
        true
    }

    /// The report of one recipient of a machine's part, completed from the words for people.
    #[allow(clippy::too_many_arguments)]
    fn build(
        &self,
        mail: &IncomingMail,
        one: dsn::Recipient,
        at: usize,
        many: usize,
        words: &[prose::Recipient],
        failed: &[String],
        reporting: &str,
        arrival: &str,
    ) -> Report {
        let kind = match one.action.as_str() {
            "delayed" | "deferred" | "delay" => MailKind::Delayed,
            "delivered" | "relayed" | "expanded" | "deliverable" => MailKind::Delivered,
            "" | "none" if one.status.is_some_and(|status| status.class == 2) => {
                MailKind::Delivered
            }
            _ => MailKind::Bounce,
        };
        let is_address = |text: &Option<String>| text.as_deref().is_some_and(is_mailbox);
        let mut recipient = if is_address(&one.last) { one.last.clone() } else { None };
        if recipient.is_none() && is_address(&one.original) {
            recipient = one.original.clone();
        }
        if recipient.is_none() {
            recipient = failed
                .get(at)
                .cloned()
                .or_else(|| {
                    words
                        .get(at)
                        .filter(|word| words.len() == many && word.strength >= 2)
                        .map(|word| word.address.clone())
                })
                .or_else(|| {
                    let to = mail
                        .returned
                        .as_ref()
                        .map(|returned| returned.to.as_slice())
                        .unwrap_or_default();
                    (many == 1 && to.len() == 1).then(|| to[0].clone())
                })
                .or_else(|| {
                    let envelope = mail.returned.as_ref().map(|returned| &returned.received_for);
                    envelope.filter(|one| many == 1 && is_mailbox(one)).cloned()
                })
                .or_else(|| one.last.clone())
                .or_else(|| one.original.clone());
        }
        let word = words
            .iter()
            .find(|word| {
                [&one.last, &one.original]
                    .into_iter()
                    .flatten()
                    .any(|address| address::same(address, &word.address))
            })
            .or_else(|| words.first().filter(|_| many == 1 && words.len() == 1));
        let mut diagnostic = one.diagnostic;
        let success = kind == MailKind::Delivered;
        let mut found = codes::find(&diagnostic, success);
        if found.reply.is_none()
            && let Some(word) = word
            && !word.reason.is_empty()
        {
            let more = codes::find(&word.reason, success);
            if diagnostic.is_empty() || more.reply.is_some() || diagnostic.len() < 16 {
                if !diagnostic.is_empty() {
                    diagnostic.push(' ');
                }
                diagnostic.push_str(&word.reason);
                found = codes::Codes {
                    reply: more.reply,
                    status: found.status.or(more.status),
                    together: more.together && found.status.is_none(),
                };
            }
        }
        if found.reply.is_none() && diagnostic.len() < 16 && at < 50 {
            let about = recipient.as_deref().unwrap_or_default();
            let said = prose::said_about(&mail.text, about, many == 1);
            let more = codes::find(&said, success);
            if more.reply.is_some() {
                diagnostic = format!("{diagnostic} {said}").trim().to_owned();
                found.reply = more.reply;
                found.status = found.status.or(more.status);
                found.together = more.together && found.status == more.status;
            }
        }
        if diagnostic.is_empty() {
            diagnostic.clone_from(&one.comment);
        }
        if diagnostic.is_empty() && many == 1 {
            diagnostic = one_line(&mail.text, 1000);
        }
        // What the remote server said itself is nearer to the fault than what the reporter made of it.
        let status = if found.together { found.status } else { one.status.or(found.status) };
        let status = match (status, one.status, found.status) {
            // A general code of the reply says less than a special one of the report.
            (Some(general), Some(special), _)
                if general.subject == 0
                    && general.detail == 0
                    && special.class == general.class =>
            {
                Some(if special.subject == 0 { found.status.unwrap_or(special) } else { special })
            }
            (Some(made), _, Some(said))
                if made.subject == 0 && made.detail == 0 && said.class == made.class =>
            {
                Some(said)
            }
            (status, ..) => status,
        };
        Report {
            kind,
            original_recipient: one
                .original
                .filter(|original| recipient.as_deref() != Some(original)),
            recipient,
            action: one.action,
            status,
            reply: found.reply,
            diagnostic,
            remote_mta: one.remote,
            reporting_mta: reporting.to_owned(),
            date: if one.date.is_empty() { arrival.to_owned() } else { one.date },
            feedback_type: String::new(),
        }
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

    /// Whether a machine sent the mail, by its header.
    fn looks_automatic(&self) -> bool {
        let envelope = &self.envelope;
        envelope.daemon
            || envelope.null_return
            || !envelope.list
                && !envelope.answer
                && matches!(
                    self.subject_sign,
                    Some((Sign::Failure | Sign::Delay | Sign::Success, 0..=24))
                )
    }

    /// A bounce or notice of delay that only people could read.
    fn bounce(
        &self,
        mail: &mut IncomingMail,
        halves: prose::Halves<'_>,
        limits: &mut Vec<Limit>,
    ) -> bool {
        let failed = self.failed_recipients();
        if failed.is_empty() && !self.is_bounce(halves.report, mail) {
            return false;
        }
        let known = prose::Known { sender: &mail.to, failed: &failed };
        let mut found = prose::recipients(halves.report, known, limits);
        if found.iter().all(|one| one.strength < 3)
            && (self.enclosed(mail, halves.report, limits)
                || self.depth + 1 < ENCLOSED_MAXIMUM
                    && self.take_enclosed(mail, halves.returned.as_bytes(), limits))
        {
            return true;
        }
        if found.iter().all(|one| one.strength < 2) {
            found = from_returned(mail, halves.report, found);
        }
        let text = one_line(halves.report, 2000);
        let delayed = signs::TEXTS.has(&signs::lower(head(halves.report, 4000)), Sign::Delay)
            || matches!(self.subject_sign, Some((Sign::Delay, _)))
            || mail.subject.to_ascii_lowercase().contains("(delay");
        let kind = if delayed { MailKind::Delayed } else { MailKind::Bounce };
        let build = |recipient: Option<String>, reason: &str| {
            let reason = if reason.trim().is_empty() { text.as_str() } else { reason };
            let found = codes::find(reason, false);
            Report {
                kind,
                recipient,
                status: found.status,
                reply: found.reply,
                diagnostic: reason.to_owned(),
                date: mail.date.clone(),
                ..Report::default()
            }
        };
        let reports: Vec<Report> = if found.is_empty() {
            vec![build(None, &text)]
        } else {
            found.iter().map(|one| build(Some(one.address.clone()), &one.reason)).collect()
        };
        mail.reports = reports;
        mail.kind = kind;
        true
    }

    /// Whether the signs of sender and content together make a bounce.
    fn is_bounce(&self, report: &str, mail: &IncomingMail) -> bool {
        let envelope = &self.envelope;
        let subject = self.subject_sign.map(|(sign, _)| sign);
        let answered = is_answered(&mail.subject);
        let subject_fails = matches!(subject, Some(Sign::Failure | Sign::Delay)) && !answered;
        let away = matches!(subject, Some(Sign::AutoReply | Sign::Challenge));
        if envelope.auto_reply && !envelope.daemon && away || envelope.challenge {
            return false;
        }
        let head = head(report, 3000);
        let mut fails = 0_u32;
        let mut answers = 0;
        let mut first_failure = head.len();
        let lower = signs::lower(head);
        for (sign, at) in signs::TEXTS.find(&lower) {
            match sign {
                _ if is_quoted(&lower, at) => {}
                Sign::Failure | Sign::Delay => {
                    fails += 1;
                    first_failure = first_failure.min(at);
                }
                Sign::AutoReply | Sign::Challenge => answers += 1,
                _ => {}
            }
        }
        let listed = |least: u8| {
            let known = prose::Known { sender: &mail.to, failed: &[] };
            prose::recipients(head, known, &mut Vec::new()).iter().any(|one| one.strength >= least)
        };
        let sender = 2 * u32::from(envelope.daemon)
            + 2 * u32::from(envelope.null_return)
            + u32::from(envelope.mailer_daemon);
        if sender == 0 {
            // Nothing in the header says that a mail system speaks: the mail has to look like it.
            if envelope.list || answered || fails == 0 || answers > fails || self.is_personal(head)
            {
                return false;
            }
            let at_once = matches!(self.subject_sign, Some((Sign::Failure | Sign::Delay, 0..=24)));
            return subject_fails && at_once && (mail.returned.is_some() || listed(2))
                || signs::is_machine(&mail.from) && first_failure < 400 && listed(4);
        }
        // What a server said by numbers needs no language.
        let said = codes::find(head, false);
        fails += u32::from(said.reply.is_some() || said.status.is_some());
        if fails < 2 && (subject_fails || envelope.daemon) && listed(4) {
            fails += 1;
        }
        let against = 2 * u32::from(envelope.list)
            + 2 * u32::from(envelope.answer && !envelope.null_return && !envelope.mailer_daemon)
            + 2 * u32::from(answers > fails)
            + 2 * u32::from(answered)
            + 2 * u32::from(away);
        let score =
            sender + 2 * u32::from(subject_fails) + u32::from(fails > 0) + u32::from(fails > 1);
        if !envelope.daemon && !subject_fails && !listed(4) {
            return false;
        }
        fails > 0 && score >= 4 + against
            || envelope.mailer_daemon && subject_fails && score > against + 2
    }

    /// Whether a person wrote the mail: by his program, or by a greeting.
    fn is_personal(&self, text: &str) -> bool {
        const GREETINGS: [&str; 24] = [
            "hi",
            "hello",
            "dear",
            "hey",
            "good",
            "hallo",
            "bonjour",
            "hola",
            "ciao",
            "sehr",
            "liebe",
            "lieber",
            "guten",
            "moin",
            "i",
            "i'm",
            "we",
            "my",
            "can",
            "could",
            "cher",
            "estimado",
            "olá",
            "здравствуйте",
        ];
        if self.fields.has("user-agent") {
            return true;
        }
        let program = self.fields.text("x-mailer", 60).to_ascii_lowercase();
        if [
            "outlook",
            "mozilla",
            "apple mail",
            "thunderbird",
            "iphone",
            "ipad",
            "eudora",
            "foxmail",
            "the bat",
            "mutt",
        ]
        .iter()
        .any(|known| program.contains(known))
        {
            return true;
        }
        // `Hi. This is the qmail-send program` is how some programs greet.
        let opening = self::head(text.trim_start(), 60).to_ascii_lowercase();
        if opening.contains("this is the") {
            return false;
        }
        let word = text
            .trim_start()
            .split(|character: char| !character.is_alphabetic() && character != '\'')
            .next()
            .unwrap_or_default();
        GREETINGS.iter().any(|greeting| word.to_lowercase() == *greeting)
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

    /// Mail of people and of machines that answer for them.
    fn answer(&self, mail: &mut IncomingMail, report: &str) {
        let envelope = &self.envelope;
        let subject = self.subject_sign;
        let head = &*signs::lower(head(report, 2000));
        let text_sign = |wanted: Sign| {
            signs::TEXTS
                .find(head)
                .filter(|(sign, at)| *sign == wanted && !is_quoted(head, *at))
                .count()
        };
        let automatic = envelope.auto_reply || envelope.automatic || envelope.null_return;
        let kind = if envelope.challenge
            || matches!(subject, Some((Sign::Challenge, _)))
                && (automatic || text_sign(Sign::Challenge) > 0)
        {
            MailKind::Challenge
        } else if envelope.list && !envelope.auto_reply {
            MailKind::Other
        } else if automatic && text_sign(Sign::Challenge) > 0 && text_sign(Sign::AutoReply) == 0 {
            MailKind::Challenge
        } else if envelope.auto_reply
            || matches!(subject, Some((Sign::AutoReply, at)) if automatic || at == 0 || text_sign(Sign::AutoReply) > 0 && at < 12)
            || envelope.null_return
                && !envelope.daemon
                && (envelope.answer || text_sign(Sign::AutoReply) > 0)
        {
            MailKind::AutoReply
        } else if !envelope.automatic && self.is_unsubscribe(mail) {
            MailKind::Unsubscribe
        } else {
            MailKind::Other
        };
        mail.kind = kind;
        if kind != MailKind::Other {
            mail.reports.push(Report {
                kind,
                recipient: Some(mail.from.clone()).filter(|from| from.contains('@')),
                diagnostic: one_line(report, 500),
                date: mail.date.clone(),
                ..Report::default()
            });
        }
    }

    /// Whether somebody asks for no more mail: by subject, or by writing to such an address.
    fn is_unsubscribe(&self, mail: &IncomingMail) -> bool {
        if matches!(self.subject_sign, Some((Sign::Unsubscribe, 0))) {
            return true;
        }
        mail.to.iter().any(|address| {
            let local = address.split('@').next().unwrap_or_default().to_ascii_lowercase();
            ["unsubscribe", "unsub-", "unsub+", "optout", "opt-out"]
                .iter()
                .any(|word| local.starts_with(word) || local.ends_with(word))
        })
    }
}

/// Whom a bounce that names nobody for certain is about, from what came back of our message:
/// somebody it mentions, the only recipient, or the one whose local part stands in the text.
fn from_returned(
    mail: &IncomingMail,
    report: &str,
    found: Vec<prose::Recipient>,
) -> Vec<prose::Recipient> {
    let Some(returned) = &mail.returned else { return found };
    let reason = found.first().map(|one| one.reason.clone()).unwrap_or_default();
    let ours = returned.to.iter().chain(Some(&returned.received_for)).filter(|one| is_mailbox(one));
    if let Some(one) =
        found.iter().find(|one| ours.clone().any(|other| address::same(other, &one.address)))
    {
        return vec![one.clone()];
    }
    let named = |address: &&String| {
        let local = address.split('@').next().unwrap_or_default();
        local.len() > 2
            && report
                .split(|character: char| {
                    !character.is_alphanumeric() && !"._-+=".contains(character)
                })
                .any(|word| word.eq_ignore_ascii_case(local))
    };
    let chosen = match returned.to.as_slice() {
        [one] if is_mailbox(one) => Some(one),
        _ => {
            ours.clone().find(named).or(Some(&returned.received_for).filter(|one| is_mailbox(one)))
        }
    };
    match chosen {
        Some(address) => vec![prose::Recipient { address: address.clone(), reason, strength: 1 }],
        None => found,
    }
}

/// Whether a recipient of a machine's part is named by no address.
fn no_address(one: &dsn::Recipient) -> bool {
    ![&one.last, &one.original].into_iter().flatten().any(|address| is_mailbox(address))
}

/// Whether a text is a local part and a domain.
fn is_mailbox(text: &str) -> bool {
    text.find('@').is_some_and(|sign| sign > 0 && sign + 1 < text.len())
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

/// Whether a subject is that of an answer or a forwarded mail.
fn is_answered(subject: &str) -> bool {
    let octets = subject.as_bytes();
    ["re:", "aw:", "sv:", "antw:", "re["].iter().any(|mark| {
        octets.len() >= mark.len() && octets[..mark.len()].eq_ignore_ascii_case(mark.as_bytes())
    })
}

/// Whether the line that holds `at` is quoted.
fn is_quoted(text: &str, at: usize) -> bool {
    let line = memchr::memrchr(b'\n', &text.as_bytes()[..at]).map_or(0, |end| end + 1);
    let line = text[line..].trim_start_matches([' ', '\t']);
    line.starts_with('>') && !line.starts_with(">>>")
}

/// The beginning of a text, at most `most` octets.
fn head(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The beginning of a text as its own.
fn cut(text: &str, most: usize) -> String {
    head(text.trim(), most).to_owned()
}

/// A text in one line, at most `most` octets.
fn one_line(text: &str, most: usize) -> String {
    let mut out = String::with_capacity(text.len().min(most));
    for word in text.split_whitespace() {
        if out.len() + word.len() + 1 > most {
            break;
        }
        if !out.is_empty() {
            out.push(' ');
        }
        out.extend(word.chars().filter(|character| !character.is_control()));
    }
    out
}
