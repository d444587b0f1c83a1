//! Mail that is no bounce: auto-replies, challenges, requests to unsubscribe, and the rest.

use super::super::signs::{self, Sign};
use super::super::text::{self, is_quoted, one_line};
use super::super::{IncomingMail, MailKind, Report};
use super::Reading;

impl Reading<'_> {
    /// Mail of people and of machines that answer for them.
    pub(super) fn answer(&self, mail: &mut IncomingMail, report: &str) {
        let envelope = &self.envelope;
        let subject = self.subject_sign;
        let head = &*signs::lower(text::head(report, 2000));
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
