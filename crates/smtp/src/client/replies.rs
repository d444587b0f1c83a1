//! What each reply means to the session.

use mail::attempt::{EndCause, Stage, Verdict};
use mail::reply::{Reply, ReplyClass};
use mail::time::Timestamp;

use super::{Awaited, ClientEvent, ClientSession, Extensions, Phase, Step, TlsMode};
use crate::reply_reader::BorrowedReply;

impl ClientSession {
    /// Matches one reply with the command it answers.
    pub(super) fn answer(&mut self, now: Timestamp, reply: BorrowedReply<'_>) {
        let Some(Awaited { step, end }) = self.awaited.front().copied() else {
            let cause = if reply.code() == 421 {
                EndCause::Refused { reply: reply.to_reply() }
            } else {
                EndCause::ProtocolBroken { why: format!("unasked: {}", reply.to_reply()) }
            };
            return self.close(now, cause);
        };
        if step == Step::Quit {
            return self.close(now, EndCause::Finished);
        }
        if reply.code() == 421 {
            return self.refused_session(now, step, reply.to_reply());
        }
        if reply.class() == ReplyClass::Unknown {
            return self.broken(now, &format!("no such class of replies: {}", reply.to_reply()));
        }
        // Who has refused the recipient owes no patience with the content; it goes out whole all the same.
        let in_vain =
            step == Step::Chunk && self.opening.as_ref().is_some_and(|m| m.failure.is_some());
        // Where MAIL and RCPT were accepted, "not now" and "not so" say as much as "what is that?".
        let is_unknown = match reply.code() {
            500 | 502 => true,
            501 | 503 | 504 => !in_vain,
            _ => false,
        };
        if step == Step::Chunk && is_unknown {
            return self.chunking_failed(now, reply.to_reply());
        }
        if !self.output.has_passed(end) && !in_vain {
            return self.answered_early(now, step, reply.to_reply());
        }
        self.awaited.pop_front();
        self.step_since = now;
        match step {
            Step::Greeting => self.answered_greeting(now, reply),
            Step::Ehlo | Step::Helo => self.answered_hello(now, step, reply),
            Step::StartTls => self.answered_starttls(now, reply),
            Step::Mail => self.answered_mail(now, reply),
            Step::Rcpt => self.answered_rcpt(now, reply),
            Step::Data => self.answered_data(now, reply),
            Step::Content => self.answered_content(now, reply),
            Step::Chunk => self.answered_chunk(now, reply),
            Step::Reset => self.answered_reset(now, reply),
            // Its transaction had no recipient; the answer says nothing about any message.
            Step::LoneDot | Step::Quit => {}
        }
    }

    /// 421: the server ends the conversation. To the commands of a message it says so about that message too.
    fn refused_session(&mut self, now: Timestamp, step: Step, reply: Reply) {
        match (step, &mut self.opening, &mut self.closing) {
            (Step::Mail | Step::Rcpt | Step::Data | Step::Chunk, Some(message), _)
            | (Step::Content, _, Some(message)) => {
                message.failure.get_or_insert_with(|| (step.stage(), reply.clone()));
            }
            _ => {}
        }
        self.close(now, EndCause::Refused { reply });
    }

    /// A reply to something that was not written whole. A refusal of content is believed, but what
    /// is left of the content cannot be taken back, so the conversation cannot go on.
    fn answered_early(&mut self, now: Timestamp, step: Step, reply: Reply) {
        let why = format!("answered before the {} was sent whole: {reply}", step.stage());
        let refusal = matches!(reply.class(), ReplyClass::Transient | ReplyClass::Permanent);
        let message = match step {
            Step::Content => self.closing.as_mut(),
            Step::Chunk => self.opening.as_mut(),
            _ => None,
        };
        if let Some(message) = message.filter(|_| refusal) {
            message.failure = Some((Stage::Content, reply));
        }
        self.broken(now, &why);
    }

    /// The server offered CHUNKING and does not know BDAT. Whether it takes the content for commands now cannot be seen, so
    /// the conversation ends; the message was not taken.
    fn chunking_failed(&mut self, now: Timestamp, reply: Reply) {
        if let Some(message) = &mut self.opening {
            message.content_end = u64::MAX;
        }
        self.close(now, EndCause::ChunkingFailed { reply });
    }

    fn answered_greeting(&mut self, now: Timestamp, reply: BorrowedReply<'_>) {
        match reply.class() {
            ReplyClass::Success => self.send(now, Step::Ehlo),
            _ => self.end_refused(now, Stage::Greeting, reply.to_reply()),
        }
    }

    fn answered_hello(&mut self, now: Timestamp, step: Step, reply: BorrowedReply<'_>) {
        let fall_back = step == Step::Ehlo
            && !self.settings.lmtp
            && matches!(reply.code(), 500 | 501 | 502 | 504 | 550);
        if fall_back {
            return self.send(now, Step::Helo);
        }
        if reply.class() != ReplyClass::Success {
            return self.end_refused(now, Stage::Hello, reply.to_reply());
        }
        if step == Step::Ehlo {
            self.extensions = Extensions::read(reply.text_lines());
            self.extensions.pipelining &= self.settings.pipelining;
            self.extensions.chunking &= self.settings.chunking && !self.settings.lmtp;
        }
        if self.secured || self.settings.tls == TlsMode::Disabled {
            self.become_ready();
        } else if self.extensions.starttls {
            self.send(now, Step::StartTls);
        } else {
            self.without_tls(now, "STARTTLS is not offered".to_owned());
        }
    }

    fn answered_starttls(&mut self, now: Timestamp, reply: BorrowedReply<'_>) {
        match reply.class() {
            // The event follows in `receive`, when it is sure that nothing came behind the reply.
            ReplyClass::Success => self.phase = Phase::Handshake,
            _ => self.without_tls(now, format!("STARTTLS was refused: {}", reply.to_reply())),
        }
    }

    /// TLS cannot be had: goes on in clear where the mode allows it.
    fn without_tls(&mut self, now: Timestamp, why: String) {
        if self.settings.tls == TlsMode::Required {
            self.close_at(now, Stage::StartTls, EndCause::TlsFailed { why });
        } else {
            self.become_ready();
        }
    }

    fn become_ready(&mut self) {
        self.phase = Phase::Ready;
        self.events
            .push_back(ClientEvent::Ready { tls: self.secured, extensions: self.extensions });
    }

    fn answered_mail(&mut self, now: Timestamp, reply: BorrowedReply<'_>) {
        let Some(message) = self.opening.as_mut() else { return };
        match reply.class() {
            ReplyClass::Success => message.mail_accepted = true,
            ReplyClass::Intermediate => return self.misplaced(now, Stage::MailFrom, reply),
            _ => message.failure = Some((Stage::MailFrom, reply.to_reply())),
        }
        if !self.extensions.pipelining {
            if message.failure.is_some() {
                self.finish_opening();
            } else {
                self.send(now, Step::Rcpt);
            }
        }
    }

    fn answered_rcpt(&mut self, now: Timestamp, reply: BorrowedReply<'_>) {
        let Some(message) = self.opening.as_mut() else { return };
        match reply.class() {
            ReplyClass::Success => {
                if message.test_only && message.failure.is_none() {
                    let (token, started_at) = (message.token, message.started_at);
                    self.opening = None;
                    self.reset_due = !self.extensions.pipelining;
                    let verdict = Verdict::Sent { reply: reply.to_reply() };
                    return self.done(token, verdict, Some(started_at));
                }
            }
            ReplyClass::Intermediate => return self.misplaced(now, Stage::RcptTo, reply),
            _ => {
                message.failure.get_or_insert_with(|| (Stage::RcptTo, reply.to_reply()));
            }
        }
        if message.test_only {
            // Its RSET is already on the way where commands are pipelined.
            self.finish_opening();
            self.reset_due &= !self.extensions.pipelining;
        } else if !self.extensions.pipelining {
            if message.failure.is_some() {
                self.finish_opening();
            } else if message.by_chunk {
                self.send_chunk(now);
            } else {
                self.send(now, Step::Data);
            }
        }
    }

    fn answered_data(&mut self, now: Timestamp, reply: BorrowedReply<'_>) {
        let Some(message) = self.opening.as_mut() else { return };
        match reply.class() {
            ReplyClass::Intermediate if message.failure.is_some() => {
                self.finish_opening();
                self.reset_due = false;
                if self.settings.lmtp {
                    // RFC 2033, 4.2: without a recipient the dot would get no answer at all.
                    let why = "354 to DATA without a recipient".to_owned();
                    return self.close_at(now, Stage::Data, EndCause::ProtocolBroken { why });
                }
                self.send(now, Step::LoneDot);
            }
            ReplyClass::Intermediate => self.send_content(now),
            ReplyClass::Success => self.misplaced(now, Stage::Data, reply),
            _ => {
                message.failure.get_or_insert_with(|| (Stage::Data, reply.to_reply()));
                self.finish_opening();
            }
        }
    }

    fn answered_content(&mut self, now: Timestamp, reply: BorrowedReply<'_>) {
        if reply.class() == ReplyClass::Intermediate {
            return self.misplaced(now, Stage::Content, reply);
        }
        let Some(message) = self.closing.take() else { return };
        let verdict = match reply.class() {
            ReplyClass::Success => Verdict::Sent { reply: reply.to_reply() },
            _ => Verdict::Refused { stage: Stage::Content, reply: reply.to_reply() },
        };
        self.done(message.token, verdict, Some(message.started_at));
    }

    /// BDAT without a recipient has an answer too, which says nothing about the message.
    fn answered_chunk(&mut self, now: Timestamp, reply: BorrowedReply<'_>) {
        if reply.class() == ReplyClass::Intermediate {
            return self.misplaced(now, Stage::Content, reply);
        }
        let refused = self.opening.as_ref().is_none_or(|message| message.failure.is_some());
        if reply.class() == ReplyClass::Success && !refused {
            let Some(message) = self.opening.take() else { return };
            let verdict = Verdict::Sent { reply: reply.to_reply() };
            return self.done(message.token, verdict, Some(message.started_at));
        }
        if let Some(message) = self.opening.as_mut() {
            message.failure.get_or_insert_with(|| (Stage::Content, reply.to_reply()));
        }
        self.finish_opening();
        // RFC 3030, 2: nobody knows what state a failed BDAT leaves behind.
        self.reset_due = true;
    }

    fn answered_reset(&mut self, now: Timestamp, reply: BorrowedReply<'_>) {
        if reply.class() != ReplyClass::Success {
            self.end_refused(now, Stage::Reset, reply.to_reply());
        }
    }

    /// A reply of a class that its command cannot have.
    fn misplaced(&mut self, now: Timestamp, stage: Stage, reply: BorrowedReply<'_>) {
        let why = format!("not an answer to this command: {}", reply.to_reply());
        self.close_at(now, stage, EndCause::ProtocolBroken { why });
    }
}
