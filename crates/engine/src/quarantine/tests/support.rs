//! Short ways to make evidence.

use core::time::Duration;

use mail::failure::{FailureType, Reason};
use mail::id::MessageId;
use mail::time::Timestamp;

use crate::quarantine::*;

pub(super) const DAY: Duration = Duration::from_secs(86_400);
pub(super) const HOUR: Duration = Duration::from_secs(3_600);
/// A day on the virtual clock; nothing is before it.
pub(super) const START: Timestamp = Timestamp::from_secs(1_795_000_000);

pub(super) fn meaning(reason: Reason) -> Qualification {
    let status = match reason {
        Reason::NotDefined => TextStatus::ToQualify,
        _ => TextStatus::Keep,
    };
    Qualification { reason, failure_type: reason.usual_type(), status }
}

pub(super) fn failed(at: Timestamp, reason: Reason, channel: Channel) -> Evidence {
    Evidence {
        address: "ann@example.org".into(),
        provider: "mx.example.org".into(),
        at,
        delivery: None,
        message: None,
        channel,
        authentic: true,
        finding: Finding::Failed(Failure {
            text: TextKey([reason as u8; 16]),
            reply: format!("550 {reason}").into(),
            qualification: meaning(reason),
            rule: "test".into(),
            version: "1".into(),
        }),
    }
}

pub(super) fn delivered(at: Timestamp, message: u64) -> Evidence {
    Evidence {
        message: Some(MessageId(message)),
        finding: Finding::Delivered,
        ..failed(at, Reason::Refused, Channel::Synchronous)
    }
}

/// A history of one address, with the clock at its last event.
pub(super) struct Story {
    pub(super) history: History,
    pub(super) policy: Policy,
    pub(super) now: Timestamp,
}

impl Story {
    pub(super) fn new() -> Self {
        Self { history: History::default(), policy: Policy::default(), now: START }
    }

    pub(super) fn enter(&mut self, evidence: Evidence) -> &mut Entry {
        let id = EntryId(self.history.entries.len() as u64 + 1);
        let entry = Entry { id, evidence, standing: Standing::Live, person: None };
        self.history.entries.push(entry);
        self.history.entries.last_mut().unwrap()
    }

    /// A failure now.
    pub(super) fn fail(&mut self, reason: Reason, channel: Channel) -> State {
        self.enter(failed(self.now, reason, channel));
        self.state()
    }

    /// A failure of a message now.
    pub(super) fn bounce(&mut self, reason: Reason, message: u64) -> State {
        let mut evidence = failed(self.now, reason, Channel::Asynchronous);
        evidence.message = Some(MessageId(message));
        self.enter(evidence);
        self.state()
    }

    pub(super) fn deliver(&mut self, message: u64) -> State {
        self.enter(delivered(self.now, message));
        self.state()
    }

    pub(super) fn act(&mut self, deed: Deed) -> State {
        let id = self.history.actions.len() as u64 + 1;
        let action = Action { id, at: self.now, deed, who: "ann".into(), why: "test".into() };
        self.history.actions.push(action);
        self.state()
    }

    pub(super) fn wait(&mut self, span: Duration) -> State {
        self.now = self.now + span;
        self.state()
    }

    pub(super) fn condition(&self) -> Condition {
        judge(&self.history, &self.policy, self.now)
    }

    pub(super) fn state(&self) -> State {
        self.condition().state
    }

    /// What the newest entry did.
    pub(super) fn last_verdict(&self) -> Verdict {
        let last = self.history.entries.last().unwrap().id;
        let explanation = explain(&self.history, &self.policy, self.now);
        explanation.entries.iter().find(|entry| entry.entry == last).unwrap().verdict
    }
}

pub(super) fn soft(mut evidence: Evidence) -> Evidence {
    if let Finding::Failed(failure) = &mut evidence.finding {
        failure.qualification.failure_type = FailureType::Soft;
    }
    evidence
}
