//! What comes of mail that came back.
//!
//! A bounce is judged like a reply and becomes evidence about the recipient of the message that it certainly
//! speaks of, whatever address it names itself: mail that was forwarded fails elsewhere. A complaint puts this recipient on the
//! denylist, an unsubscription too. Notices of delay, automatic answers and reports of success change nothing. What
//! proves nothing is counted and changes nothing. Ordinary mail is kept aside for people.

use std::sync::PoisonError;
use std::time::Duration;

use engine::quarantine::{
    AddressHash, Channel, Evidence, Failure, Finding, MetText, NewEntry, Qualification, SeenKey,
    Stray, TextKey, TextStatus,
};
use mail::failure::{FailureType, Reason};
use mail::incoming::{self, IncomingMail, MailKind, Report};
use mail::verp::{Purpose, Verp};
use rules::bounce::{Evidence as Question, Key};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::matching::{Found, find};
use super::recorder::{Handed, NewReport};
use super::{Addressee, Author, NonDeliverableCounts, NonDeliverables, Recipient, folded};
use crate::inmail::{Arrived, Outcome, Processor};
use crate::intake::IntakeFault;

/// A larger mail is read on a thread that may take its time.
const READ_AT_ONCE: usize = 64 << 10;

/// How long the store may take over the effect of a mail. Less than the time that processing may take, which would be
/// counted against the mail.
const STORE_PATIENCE: Duration = Duration::from_secs(60);

/// Messages to one address that are looked at for one that a report may speak of.
const NEWEST: u32 = 10;

/// The rule that stands for complaints.
const COMPLAINT_RULE: &str = "feedback-report";

/// Reads mail that came in, for [`crate::inmail::Inmail::run`].
#[derive(Clone, Debug)]
pub struct ReturnedMail {
    all: NonDeliverables,
}

impl Processor for ReturnedMail {
    async fn process(&self, mail: Arrived) -> Outcome {
        let octets = mail.octets.clone();
        let read = if octets.len() > READ_AT_ONCE {
            match tokio::task::spawn_blocking(move || incoming::read(&octets)).await {
                Ok(read) => read,
                Err(fault) => return Outcome::KeepAside(format!("it cannot be read: {fault}")),
            }
        } else {
            incoming::read(&octets)
        };
        let outcome = match self.judge(&mail, &read).await {
            Ok(outcome) => outcome,
            Err(fault @ (IntakeFault::TryLater(_) | IntakeFault::NoRoom(_))) => {
                Outcome::TryLater(fault.to_string())
            }
            Err(fault) => Outcome::KeepAside(fault.to_string()),
        };
        if !matches!(outcome, Outcome::TryLater(_)) {
            self.all.inner.counts.mail(read.kind);
        }
        outcome
    }
}

/// Waits so long for the recorder. A store that takes nothing in this time is not the fault of the mail.
async fn in_time<T>(
    patience: Duration,
    effect: impl Future<Output = Result<T, IntakeFault>>,
) -> Result<T, IntakeFault> {
    // What was handed over may become durable still: its keys show that it is the same when it comes again.
    let too_late = |_| {
        let why = format!("the store took nothing for {} s", patience.as_secs());
        Err(IntakeFault::TryLater(why))
    };
    timeout(patience, effect).await.unwrap_or_else(too_late)
}

/// A failure that a mail tells of.
struct NewFailure {
    /// As the rules alone judge it.
    failure: Failure,
    /// What it is taken for now: what a person says of its text comes first.
    taken_for: Qualification,
    text: Option<MetText>,
}

impl ReturnedMail {
    pub(super) const fn new(all: NonDeliverables) -> Self {
        Self { all }
    }

    async fn judge(&self, arrived: &Arrived, mail: &IncomingMail) -> Result<Outcome, IntakeFault> {
        let inner = &self.all.inner;
        let paths = &inner.contents.settings().return_path;
        let found = find(paths, &arrived.origin.recipients, mail);
        let to_unsubscribe = found.genuine.is_some_and(|verp| verp.purpose == Purpose::Unsubscribe);
        match mail.kind {
            MailKind::Bounce => self.bounce(arrived, mail, found).await,
            MailKind::Feedback => self.feedback(arrived, mail, found).await,
            MailKind::Unsubscribe => self.unsubscribe(found).await,
            MailKind::Other if to_unsubscribe => self.unsubscribe(found).await,
            MailKind::Delayed | MailKind::AutoReply | MailKind::Challenge | MailKind::Delivered => {
                Ok(Outcome::Done)
            }
            MailKind::Other => {
                NonDeliverableCounts::add(&inner.counts.unreadable, 1);
                self.stray(Stray::Unreadable).await;
                Ok(Outcome::KeepAside(
                    "it is neither a bounce nor a complaint nor an answer to one".into(),
                ))
            }
        }
    }

    /// A failure that was reported later.
    async fn bounce(
        &self,
        arrived: &Arrived,
        mail: &IncomingMail,
        found: Found,
    ) -> Result<Outcome, IntakeFault> {
        let Some(recipient) = self.proven(mail, found).await? else { return Ok(Outcome::Done) };
        let Some(address) = address_in(mail, &recipient.addressee) else {
            return Ok(Outcome::KeepAside(
                "its message is forgotten, and it names nobody to whom that was sent".into(),
            ));
        };
        // The list or the alias took it; that one of its members failed says nothing of it.
        let Some(report) = report_about(mail, &address) else { return Ok(Outcome::Done) };
        let failed = self.judged(arrived, mail, &report);
        if self.is_erased(&recipient.addressee) {
            let Qualification { reason, failure_type, .. } = failed.taken_for;
            self.all.inner.counts.failed(reason, failure_type, Channel::Asynchronous);
            return Ok(Outcome::Done);
        }
        self.record(arrived, recipient.verp, &address, failed, MailKind::Bounce).await
    }

    /// What the rules and people say of a report.
    fn judged(&self, arrived: &Arrived, mail: &IncomingMail, report: &Report) -> NewFailure {
        let inner = &self.all.inner;
        let question = Question {
            reply: report.reply,
            status: report.status,
            diagnostic: &report.diagnostic,
            subject: &mail.subject,
            body: &mail.text,
            header: &mail.header,
            provider: match report.recipient.as_deref().and_then(|text| text.rsplit_once('@')) {
                _ if !report.remote_mta.is_empty() => &report.remote_mta,
                Some((_, domain)) => domain,
                None => "",
            },
            ..Question::default()
        };
        let mut judge = inner.judge.lock().unwrap_or_else(PoisonError::into_inner);
        let people = |key: &Key| inner.people.find(key);
        let judged = judge.judge(&question, &people);
        let key = TextKey::from(judged.key);
        // The ledger keeps what the rules say and adds what people say: so that can be taken back.
        let by_rules = judged.overruled.as_ref().unwrap_or(&judged.verdict);
        let failure = Failure::judged(key, &report.diagnostic, by_rules);
        let at = arrived.origin.at();
        let text = MetText::judged(
            key,
            judged.normalised,
            &report.diagnostic,
            question.provider,
            by_rules,
            at,
        );
        let taken_for = Failure::judged(key, "", &judged.verdict).qualification;
        NewFailure { failure, taken_for, text: Some(text) }
    }

    /// A report of a feedback loop.
    async fn feedback(
        &self,
        arrived: &Arrived,
        mail: &IncomingMail,
        found: Found,
    ) -> Result<Outcome, IntakeFault> {
        let kind = mail.reports.first().map_or("", |report| report.feedback_type.as_str());
        match kind {
            "" | "abuse" | "fraud" | "virus" | "other" | "miscategorized" => {}
            "opt-out" | "opt-out-list" => return self.unsubscribe(found).await,
            // The user took it back, or it is about signatures: neither is about the address.
            "not-spam" | "auth-failure" | "dmarc" => return Ok(Outcome::Done),
            other => {
                let other: String = other.chars().take(60).collect();
                return Ok(Outcome::KeepAside(format!("a feedback report of the kind {other:?}")));
            }
        }
        let Some(recipient) = self.proven(mail, found).await? else { return Ok(Outcome::Done) };
        let address = match (address_in(mail, &recipient.addressee), &recipient.addressee) {
            (Some(address), addressee) if !self.is_erased(addressee) => address,
            // The report is redacted and the message forgotten: the hash is enough to write no more.
            (_, Addressee::Hashed(hash)) => {
                return self.hash_complains(*hash, recipient.verp).await;
            }
            (_, Addressee::Known(address)) => address.clone(),
        };
        let words = format!("complaint: {}", if kind.is_empty() { "abuse" } else { kind });
        let version = {
            let judge = self.all.inner.judge.lock().unwrap_or_else(PoisonError::into_inner);
            judge.rules().version().clone()
        };
        let qualification = Qualification {
            reason: Reason::Complaint,
            failure_type: FailureType::Hard,
            status: TextStatus::Keep,
        };
        let failure = Failure {
            text: Key::of(&words).into(),
            reply: words.into(),
            qualification,
            rule: COMPLAINT_RULE.into(),
            version,
        };
        let failed = NewFailure { failure, taken_for: qualification, text: None };
        self.record(arrived, recipient.verp, &address, failed, MailKind::Feedback).await
    }

    /// Whether only the hash of an address is left, and that is suppressed. It may have been erased: what names it in
    /// the clear must not bring it back.
    fn is_erased(&self, addressee: &Addressee) -> bool {
        let Addressee::Hashed(hash) = addressee else { return false };
        self.all.inner.admission.desk().admission().mark(hash).is_suppressed()
    }

    /// A complaint about a message of which only the hash of the address is left.
    async fn hash_complains(&self, hash: AddressHash, verp: Verp) -> Result<Outcome, IntakeFault> {
        let why = format!("complaint about {}", verp.message).into();
        let author = Author { who: "recipient".into(), why };
        if self.all.suppress_hash(hash, author).await? {
            let counts = &self.all.inner.counts;
            counts.failed(Reason::Complaint, FailureType::Hard, Channel::Asynchronous);
        }
        Ok(Outcome::Done)
    }

    /// Somebody wants no more mail.
    async fn unsubscribe(&self, found: Found) -> Result<Outcome, IntakeFault> {
        if found.genuine.is_none() && !found.forged {
            let why =
                "it asks for no more mail, but does not say to which message of ours it belongs";
            return Ok(Outcome::KeepAside(why.into()));
        }
        let recipient = match found.genuine {
            None => None,
            Some(verp) => self.all.recipient(verp).await?,
        };
        match recipient {
            Some(recipient) => self.all.unsubscribe_recipient(&recipient, "mail in answer").await?,
            None if found.genuine.is_some() => {
                let why = "it asks for no more mail, but its message is not known any more";
                return Ok(Outcome::KeepAside(why.into()));
            }
            None => self.forged().await,
        }
        Ok(Outcome::Done)
    }

    /// The recipient of whom a report certainly speaks; else it is counted.
    async fn proven(
        &self,
        mail: &IncomingMail,
        found: Found,
    ) -> Result<Option<Recipient>, IntakeFault> {
        if let Some(verp) = found.genuine
            && let Some(recipient) = self.all.recipient(verp).await?
        {
            return Ok(Some(recipient));
        }
        if found.forged || found.named.is_some() || self.may_be_ours(mail).await? {
            self.forged().await;
        } else {
            NonDeliverableCounts::add(&self.all.inner.counts.foreign, 1);
            self.stray(Stray::Foreign).await;
        }
        Ok(None)
    }

    async fn forged(&self) {
        NonDeliverableCounts::add(&self.all.inner.counts.forged, 1);
        self.stray(Stray::Forged).await;
    }

    /// Whether a message went to the address it names not long ago.
    async fn may_be_ours(&self, mail: &IncomingMail) -> Result<bool, IntakeFault> {
        let named = mail.reports.iter().find_map(|report| report.recipient.as_deref());
        let Some(named) = named.map(|address| folded(address.trim()).into_owned()) else {
            return Ok(false);
        };
        let intake = &self.all.inner.intake;
        let since = intake.now().saturating_sub(self.all.inner.config.bounce_window);
        let recent = intake.read(move |reads| reads.messages_by_address(&named, NEWEST)).await?;
        Ok(recent.iter().any(|record| record.accepted_at >= since))
    }

    async fn stray(&self, kind: Stray) {
        // When the recorder has ended the node is ending, and a store may be down; it is a count.
        let _ = timeout(STORE_PATIENCE, self.all.inner.recorder.send(Handed::Stray(kind))).await;
    }

    /// Has the evidence written, once for all its repetitions.
    async fn record(
        &self,
        arrived: &Arrived,
        verp: Verp,
        address: &str,
        NewFailure { failure, taken_for, text }: NewFailure,
        kind: MailKind,
    ) -> Result<Outcome, IntakeFault> {
        let address = folded(address).into_owned();
        let message = verp.message;
        let seen = vec![
            SeenKey::of_content(&arrived.octets),
            SeenKey::of_report(message, &address, kind.word(), failure.text),
        ];
        let domain: Box<str> = address.rsplit_once('@').map_or("", |(_, domain)| domain).into();
        let evidence = Evidence {
            provider: domain.clone(),
            at: arrived.origin.at(),
            delivery: Some(verp.delivery),
            message: Some(message),
            channel: Channel::Asynchronous,
            authentic: true,
            finding: Finding::Failed(failure),
            address: address.into(),
        };
        let (sender, receiver) = oneshot::channel();
        let entry = NewEntry { evidence, hold: None, text, seen };
        let report = Box::new(NewReport { entry, taken_for });
        let ended = || IntakeFault::TryLater("the node is shutting down".into());
        let recorded = in_time(STORE_PATIENCE, async {
            let handed = self.all.inner.recorder.send(Handed::Report(report, sender)).await;
            handed.map_err(|_| ended())?;
            receiver.await.map_err(|_| ended())
        });
        match recorded.await? {
            Ok(repeated) => {
                if kind == MailKind::Feedback && !repeated {
                    self.all.inner.intake.complained(domain);
                }
                Ok(Outcome::Done)
            }
            Err(why) => Ok(Outcome::KeepAside(format!("its evidence cannot be stored: {why}"))),
        }
    }
}

/// The address to which the message went: as it is known, or else the one in the mail whose hash is the right one.
fn address_in(mail: &IncomingMail, addressee: &Addressee) -> Option<String> {
    let wanted = match addressee {
        Addressee::Known(address) => return Some(address.clone()),
        Addressee::Hashed(hash) => *hash,
    };
    let named =
        mail.reports.iter().flat_map(|report| [&report.recipient, &report.original_recipient]);
    named
        .flatten()
        .map(|named| folded(named.trim()).into_owned())
        .find(|folded| AddressHash::of(folded) == wanted)
}

/// What a mail says of this recipient: the failed report that names it, else, where none names it, the first failure.
/// `None`: it is named, and did not fail.
fn report_about(mail: &IncomingMail, address: &str) -> Option<Report> {
    let wanted = folded(address);
    let names = |report: &&Report| {
        [&report.recipient, &report.original_recipient]
            .into_iter()
            .flatten()
            .any(|named| folded(named.trim()) == wanted)
    };
    let failed = || mail.reports.iter().filter(|report| report.kind == MailKind::Bounce);
    if let Some(report) = failed().find(names) {
        return Some(report.clone());
    }
    let went_on = |report: &Report| matches!(report.kind, MailKind::Delivered | MailKind::Delayed);
    if mail.reports.iter().filter(|report| went_on(report)).any(|report| names(&report)) {
        return None;
    }
    let nothing = || Report { kind: MailKind::Bounce, ..Report::default() };
    Some(failed().next().cloned().unwrap_or_else(nothing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_store_that_is_down_is_not_the_fault_of_the_mail() {
        let soon = Duration::from_millis(10);
        let never = core::future::pending::<Result<(), _>>();
        assert!(matches!(in_time(soon, never).await, Err(IntakeFault::TryLater(_))));
        assert!(matches!(in_time(soon, async { Ok(7) }).await, Ok(7)));
    }
}
