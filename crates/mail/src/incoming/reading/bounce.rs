//! Bounces without a machine's part: whether a mail is one, and of whom it speaks.

use core::cell::OnceCell;

use super::super::mime::Kind;
use super::super::signs::{self, Sign};
use super::super::text::{self, is_answered, is_mailbox, is_quoted, one_line};
use super::super::{
    ENCLOSED_MAXIMUM, IncomingMail, Limit, MailKind, Report, address, codes, prose,
};
use super::Reading;

impl Reading<'_> {
    /// Whether a machine sent the mail, by its header.
    pub(super) fn looks_automatic(&self) -> bool {
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
    pub(super) fn bounce(
        &self,
        mail: &mut IncomingMail,
        halves: prose::Halves<'_>,
        limits: &mut Vec<Limit>,
    ) -> bool {
        let failed = self.failed_recipients();
        let known = prose::Known { sender: &mail.to, failed: &failed };
        // Searched once, and not at all where other signs decide.
        let searched = OnceCell::new();
        let search = || {
            searched.get_or_init(|| {
                let mut limits = Vec::new();
                (prose::recipients(halves.report, known, &mut limits), limits)
            })
        };
        let listed = |least: u8| search().0.iter().any(|one| one.strength >= least);
        if failed.is_empty() && !self.is_bounce(halves.report, mail, &listed) {
            return false;
        }
        search();
        let (mut found, hit) = searched.into_inner().unwrap_or_default();
        for limit in hit {
            limit.note(limits);
        }
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
        // A provider knows its own users by their local parts.
        if found.is_empty()
            && let Some((_, domain)) = mail.from.rsplit_once('@')
        {
            found = prose::local_recipients(halves.report, domain);
        }
        let text = one_line(halves.report, 2000);
        let delayed = signs::TEXTS.has(&signs::lower(text::head(halves.report, 4000)), Sign::Delay)
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
    /// `listed` says whether the text names a recipient of at least that strength.
    fn is_bounce(&self, report: &str, mail: &IncomingMail, listed: &dyn Fn(u8) -> bool) -> bool {
        let envelope = &self.envelope;
        let subject = self.subject_sign.map(|(sign, _)| sign);
        let answered = is_answered(&mail.subject);
        let subject_fails = matches!(subject, Some(Sign::Failure | Sign::Delay))
            && (!answered || envelope.mailer_daemon);
        let away = matches!(subject, Some(Sign::AutoReply | Sign::Challenge));
        if envelope.auto_reply && !envelope.daemon && away || envelope.challenge {
            return false;
        }
        let head = text::head(report, 3000);
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
        let sender = 2 * u32::from(envelope.daemon)
            + 2 * u32::from(envelope.null_return)
            + u32::from(envelope.mailer_daemon);
        // Some servers answer with `Re:`, but they quote a reply code and enclose the message.
        let said = codes::find(head, false);
        // Or they sign as a mail system and come to the point at once.
        let encloses =
            self.leaf(Kind::Message).is_some() || self.leaf(Kind::MessageHeader).is_some();
        let formal = fails > 0
            && (encloses && said.reply.is_some()
                || envelope.daemon
                    && first_failure < 400
                    && !self.is_personal(head)
                    && (said.reply.is_some() && listed(2) || encloses || listed(4)));
        let answered = answered && !formal;
        if sender == 0 {
            // Nothing in the header says that a mail system speaks: the mail has to look like it.
            let machine = signs::is_machine(&mail.from);
            if envelope.list
                || answered && !machine
                || fails == 0
                || answers > fails
                || self.is_personal(head)
            {
                return false;
            }
            let at_once = matches!(self.subject_sign, Some((Sign::Failure | Sign::Delay, 0..=24)));
            return formal && listed(2)
                || subject_fails && at_once && (mail.returned.is_some() || listed(2))
                || machine
                    && first_failure < 400
                    && (subject_fails
                        || fails > 1
                        || said.reply.is_some()
                        || said.status.is_some())
                    && listed(4);
        }
        // What a server said by numbers needs no language.
        fails += u32::from(said.reply.is_some() || said.status.is_some());
        if fails < 2 && (subject_fails || envelope.daemon) && listed(4)
            || fails == 0 && subject_fails && envelope.daemon && listed(2)
        {
            fails += 1;
        }
        let certain = envelope.null_return || envelope.mailer_daemon;
        let against = if certain { 2 } else { 5 } * u32::from(envelope.list)
            + 3 * u32::from(!certain && !self.is_daemon_address(mail) && salutes(head))
            + 3 * u32::from(!certain && is_digest(&mail.subject))
            + 2 * u32::from(
                envelope.answer && !formal && !envelope.null_return && !envelope.mailer_daemon,
            )
            + 2 * u32::from(answers > fails)
            + 2 * u32::from(answered && !envelope.mailer_daemon)
            + 2 * u32::from(away);
        let score =
            sender + 2 * u32::from(subject_fails) + u32::from(fails > 0) + u32::from(fails > 1);
        if !subject_fails && !listed(if envelope.daemon { 1 } else { 4 }) {
            // Neither the subject nor any recipient: a mail system has more to tell than of bounces.
            if !envelope.daemon || !certain && mail.returned.is_none() {
                return false;
            }
        }
        fails > 0 && score >= 4 + against
            || envelope.mailer_daemon && subject_fails && score > against + 2
    }

    /// Whether the author's address itself is a mail system's, and not only the name before it.
    fn is_daemon_address(&self, mail: &IncomingMail) -> bool {
        mail.from.split('@').next().is_some_and(|local| signs::is_daemon(&format!("{local}@")))
    }

    /// Whether a person wrote the mail: by his program, or by a greeting.
    pub(super) fn is_personal(&self, text: &str) -> bool {
        self.is_personal_program() || greets(text)
    }

    /// Whether a program wrote the mail that people use.
    fn is_personal_program(&self) -> bool {
        const PROGRAMS: [&str; 10] = [
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
        ];
        if self.fields.has("user-agent") {
            return true;
        }
        let program = self.fields.text("x-mailer", 60).to_ascii_lowercase();
        PROGRAMS.iter().any(|known| program.contains(known))
    }
}

/// Whether a text begins with a salutation, as letters and newsletters do.
fn salutes(text: &str) -> bool {
    const SALUTATIONS: [&str; 12] = [
        "hi ",
        "hello ",
        "dear ",
        "hey ",
        "hallo ",
        "bonjour ",
        "hola ",
        "ciao ",
        "liebe ",
        "lieber ",
        "sehr geehrte",
        "уважаем",
    ];
    let opening = text::head(text.trim_start(), 60).to_lowercase();
    SALUTATIONS.iter().any(|known| opening.starts_with(known))
        && !["this is the", "sender", "dear user", "dear customer"]
            .iter()
            .any(|machine| opening.contains(machine))
}

/// Whether a text begins as people address each other.
pub(super) fn greets(text: &str) -> bool {
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
    // `Hi. This is the qmail-send program` is how some programs greet.
    let opening = text::head(text.trim_start(), 60).to_ascii_lowercase();
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

/// Whether a subject is that of a mail that sums up what happened to many.
fn is_digest(subject: &str) -> bool {
    const DIGESTS: [&str; 9] = [
        "summary",
        "summaries",
        "digest",
        "logwatch",
        "statistic",
        "daily report",
        "weekly report",
        "quarantine",
        "newsletter",
    ];
    let subject = subject.to_ascii_lowercase();
    DIGESTS.iter().any(|known| subject.contains(known))
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
