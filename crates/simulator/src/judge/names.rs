//! Of checker 1: a message may fail because its domain does not exist only if the name servers have said so.
//!
//! A domain that does not exist takes no mail: its messages fail at once, for the reason Invalid domain. A provider whose
//! domain is gone from DNS for some minutes makes that true of a domain that is well again afterwards. So the answer must
//! have been heard, must have been the last one that was heard of this domain, and must not be old; and an address may
//! not be taken for gone at once, as it is one of three such failures that says something about it.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use engine::work::{Attempt, Fate, FinalState};
use mail::failure::{FailureType, Reason};
use mail::id::MessageId;
use mail::time::Timestamp;

/// How long the answer is believed, what was claimed meanwhile has come from a slow disk, and rounding.
const BELIEVED: Duration = Duration::from_secs(300 + 60);

/// What this checker knows.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// When the process last heard of a domain that there is none; domains of which it heard something else since are
    /// not here.
    nothing: BTreeMap<Box<str>, Timestamp>,
    /// Messages that failed for it, as it was true.
    failed: BTreeSet<MessageId>,
}

impl Names {
    /// The process hears what DNS says about a domain.
    pub(super) fn heard(&mut self, now: Timestamp, domain: &str, nothing: bool) {
        if nothing {
            self.nothing.insert(domain.into(), now);
        } else {
            self.nothing.remove(domain);
        }
    }

    /// The process did not run: what it has heard is so much older for it.
    pub(super) fn stood_still(&mut self, span: Duration) {
        self.nothing.values_mut().for_each(|heard| *heard = *heard + span);
    }

    /// The process has ended, and with it what it had heard.
    pub(super) fn crashed(&mut self) {
        self.nothing.clear();
    }

    /// An attempt was told. Answers what is wrong with the judgement of one that failed for its domain.
    pub(super) fn recorded(&mut self, now: Timestamp, attempt: &Attempt) -> Option<String> {
        let failed = attempt.fate == Fate::Final(FinalState::Failed) && attempt.source.is_none();
        let domain = attempt.message.recipient.rsplit_once('@')?.1;
        let heard = self.nothing.get(domain).filter(|_| failed)?;
        if now.since(*heard) > BELIEVED {
            return None;
        }
        self.failed.insert(attempt.message.id);
        let verdict = attempt.judgement.as_ref().map(|judgement| &judgement.verdict);
        let said = verdict.map(|verdict| (verdict.failure_type, verdict.reason));
        (said != Some((FailureType::Soft, Reason::InvalidDomain))).then(|| format!("{said:?}"))
    }

    /// Whether a message failed because its domain did not exist.
    pub(super) fn has_failed(&self, message: MessageId) -> bool {
        self.failed.contains(&message)
    }
}
