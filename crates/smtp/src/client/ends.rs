//! How messages and the session itself come to their end: every message gets one verdict, and the end is reported once.

use mail::attempt::{EndCause, SessionEnd, Stage, Verdict};
use mail::reply::Reply;
use mail::time::Timestamp;

use super::{ClientEvent, ClientSession, Phase};

impl ClientSession {
    /// Reports the refusal of the opening message; the server may have a transaction left open.
    pub(super) fn finish_opening(&mut self) {
        let Some(message) = self.opening.take() else { return };
        self.reset_due = message.mail_accepted;
        let verdict = match message.failure {
            Some((stage, reply)) => Verdict::Refused { stage, reply },
            None => Verdict::NotTried,
        };
        self.done(message.token, verdict, Some(message.started_at));
    }

    pub(super) fn done(&mut self, token: u64, verdict: Verdict, started_at: Option<Timestamp>) {
        self.events.push_back(ClientEvent::Done { token, verdict, started_at });
    }

    /// Gives back the messages that have not begun.
    pub(super) fn release_waiting(&mut self) {
        while let Some(envelope) = self.waiting.pop_front() {
            self.done(envelope.token, Verdict::NotTried, None);
        }
    }

    pub(super) fn broken(&mut self, now: Timestamp, why: &str) {
        self.close(now, EndCause::ProtocolBroken { why: why.to_owned() });
    }

    pub(super) fn end_refused(&mut self, now: Timestamp, stage: Stage, reply: Reply) {
        self.close_at(now, stage, EndCause::Refused { reply });
    }

    /// Ends the session at the step that is awaited.
    pub(super) fn close(&mut self, now: Timestamp, cause: EndCause) {
        let stage = match (self.phase, self.awaited.front()) {
            (Phase::Handshake, _) => Stage::StartTls,
            (_, Some(awaited)) => awaited.step.stage(),
            (_, None) => Stage::Idle,
        };
        self.close_at(now, stage, cause);
    }

    /// Ends the session: every message gets its verdict, then the end is reported, once.
    pub(super) fn close_at(&mut self, now: Timestamp, stage: Stage, cause: EndCause) {
        if self.phase == Phase::Closed {
            return;
        }
        self.phase = Phase::Closed;
        self.step_since = now;
        self.output.clear();
        self.awaited.clear();
        for message in [self.closing.take(), self.opening.take()].into_iter().flatten() {
            let verdict = match message.failure {
                Some((stage, reply)) => Verdict::Refused { stage, reply },
                None if self.output.has_passed(message.content_end) => Verdict::PossiblyDelivered,
                None => Verdict::NotTried,
            };
            self.done(message.token, verdict, Some(message.started_at));
        }
        self.release_waiting();
        self.events.push_back(ClientEvent::Closed(SessionEnd { stage, cause }));
    }
}
