//! The sending side of an SMTP or LMTP conversation, without a socket.
//!
//! **Promise.** Every [`Envelope`] given to [`ClientSession::enqueue`] is answered by exactly one
//! [`ClientEvent::Done`]; the session ends with exactly one [`ClientEvent::Closed`], after the last
//! `Done`; after that nothing is written (a message handed over after the end is answered
//! `NotTried`). No octet from the server makes it panic or hold more than a few hundred kilobytes.
//! What it writes has no bare CR or LF, no end of data but the one at the end, and behind BDAT exactly
//! as many octets as were said.
//!
//! **How it is driven.** After every input the shell writes all pieces of
//! [`next_to_send`](ClientSession::next_to_send), says how much was really written with
//! [`written`](ClientSession::written) (before it hands over what it reads next), takes all events,
//! and offers a message when [`wants_message`](ClientSession::wants_message). It calls
//! [`tick`](ClientSession::tick) when [`deadline`](ClientSession::deadline) has come.
//!
//! **One round trip per message.** Where PIPELINING is offered, MAIL, RCPT and DATA of the next
//! message leave together with the final dot of the one before (RFC 2920: DATA ends a group, and
//! the answer to it, the 354, is awaited before content is sent). Elsewhere one command is
//! outstanding at a time.
//!
//! **Where CHUNKING is offered too** (RFC 3030), the first message of a connection goes as one group: MAIL, RCPT,
//! BDAT and the content, in one round trip where DATA needs two. Nothing follows a BDAT that is not answered: when
//! it fails, RSET comes first. So the content of one message at most is sent and unanswered, in this way as
//! in the other. DATA is used all the same
//!
//! - for the messages behind the first: their commands travel with the final dot before them, so they need no
//!   more round trips, and a server that closes a used connection without a word, because it has had
//!   enough messages or nobody spoke for too long, has not been sent a content that would be in doubt;
//! - for content larger than a bound: a recipient who is refused shall not cost megabytes;
//! - for content in which a server that offers CHUNKING and does not know it could read DATA or BDAT at the beginning of a
//!   line: it takes for commands what stands behind BDAT, and nobody shall hand it a mail in that way;
//! - with LMTP: nobody says how a BDAT without a recipient is answered there.
//!
//! Without PIPELINING, BDAT and the content follow the answer to RCPT, for every message.
//!
//! **What becomes of a message** when the conversation does not simply answer it:
//!
//! | event | the message it answers | messages after it | session |
//! |---|---|---|---|
//! | 4yz, 5yz to MAIL, RCPT, DATA, content | `Refused` with stage and reply | go on | goes on |
//! | anything to BDAT, MAIL or RCPT refused | `Refused` with what was said to those | go on | goes on |
//! | 500, 502 to BDAT, or 501, 503, 504 where MAIL and RCPT were accepted | `NotTried`, or `Refused` if MAIL or RCPT was | `NotTried` | `ChunkingFailed` |
//! | 421 to MAIL, RCPT, DATA or the content | `Refused` with stage and reply | `NotTried` | `Refused` |
//! | 421 to anything else, or unasked | | `NotTried` | `Refused` |
//! | connection lost or time over, content and dot written | `PossiblyDelivered`, or `Refused` if MAIL or RCPT was | `NotTried` | `Lost`, `TimedOut` |
//! | the same, not written whole | `NotTried`, or `Refused` if MAIL or RCPT was | `NotTried` | the same |
//! | protocol broken | as if the connection were lost | `NotTried` | `ProtocolBroken` |
//! | 4yz, 5yz before the content was written whole | `Refused` | `NotTried` | `ProtocolBroken` |
//!
//! Such an answer to BDAT says that the server does not know what it has offered. It may be reading the content as
//! commands, so nothing more can be said to it; over another connection, with `chunking` off in the
//! settings, the message can go.
//!
//! `started_at` of a `Done` tells whether MAIL FROM had been queued for writing: only then its
//! token is spent.

mod ends;
mod extensions;
mod output;
mod replies;
mod words;

use std::collections::VecDeque;

use bytes::Bytes;
use mail::attempt::{EndCause, Stage, Verdict};
use mail::reply::{EnhancedStatus, Reply};
use mail::time::Timestamp;

pub use extensions::Extensions;
pub use words::{ClientEvent, ClientSettings, Envelope, LONGEST_ADDRESS, Timeouts, TlsMode};

use crate::content::{self, PreparedContent};
use crate::reply_reader::ReplyReader;
use output::Output;

/// Where the session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// From the connection to the answer of the last EHLO.
    Opening,
    /// The shell does the handshake.
    Handshake,
    /// Messages go.
    Ready,
    /// QUIT was sent.
    Quitting,
    /// Over.
    Closed,
}

/// What an answer is awaited to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    Mail,
    Rcpt,
    Data,
    /// The content behind a 354.
    Content,
    /// BDAT with the content behind it.
    Chunk,
    /// The lone dot after a 354 that nobody wanted (RFC 2920).
    LoneDot,
    Reset,
    Quit,
}

impl Step {
    fn stage(self) -> Stage {
        match self {
            Self::Greeting => Stage::Greeting,
            Self::Ehlo | Self::Helo => Stage::Hello,
            Self::StartTls => Stage::StartTls,
            Self::Mail => Stage::MailFrom,
            Self::Rcpt => Stage::RcptTo,
            Self::Data => Stage::Data,
            Self::Content | Self::Chunk | Self::LoneDot => Stage::Content,
            Self::Reset => Stage::Reset,
            Self::Quit => Stage::Quit,
        }
    }
}

/// A command whose answer is awaited.
#[derive(Clone, Copy, Debug)]
struct Awaited {
    step: Step,
    /// Position of its end in the stream.
    end: u64,
}

/// A message whose MAIL FROM was queued.
#[derive(Debug)]
struct Transaction {
    token: u64,
    recipient: Box<str>,
    /// Its content as it goes out, taken when it does.
    wire: Bytes,
    /// A CR LF is due behind it.
    needs_line_end: bool,
    /// Octets of the content before dot-stuffing, with that.
    size: u64,
    test_only: bool,
    /// Its content goes behind BDAT, not DATA.
    by_chunk: bool,
    started_at: Timestamp,
    /// The server has a transaction open, which RSET or the end of data ends.
    mail_accepted: bool,
    /// The first refusal.
    failure: Option<(Stage, Reply)>,
    /// Position after its final dot, or the last octet behind BDAT, once that is queued.
    content_end: u64,
}

/// Octets that may wait to be written when the next MAIL FROM is queued behind them. With more, the command could
/// leave long after the time for which its token was granted.
const AHEAD_OCTETS: u64 = 64 << 10;

/// Largest content that leaves before the recipient is accepted. A new connection carries about as much in its first
/// three round trips, so above it the round trip that is saved counts little, and what is sent in vain counts more.
const GROUP_OCTETS: u64 = 64 << 10;

/// The session.
#[derive(Debug)]
pub struct ClientSession {
    settings: ClientSettings,
    phase: Phase,
    extensions: Extensions,
    secured: bool,
    reader: ReplyReader,
    output: Output,
    events: VecDeque<ClientEvent>,
    /// Commands whose answers are awaited, oldest first.
    awaited: VecDeque<Awaited>,
    /// Messages whose MAIL FROM is not queued yet.
    waiting: VecDeque<Envelope>,
    /// The message between MAIL FROM and the answer to DATA, or BDAT.
    opening: Option<Transaction>,
    /// The message whose content is queued behind a 354, until its answer.
    closing: Option<Transaction>,
    /// A transaction is open at the server that nobody wants: RSET must go before the next MAIL
    /// FROM.
    reset_due: bool,
    /// MAIL FROM so far.
    begun: u32,
    finishing: bool,
    /// When the oldest awaited command became the oldest, or the session became idle.
    step_since: Timestamp,
}

impl ClientSession {
    /// A session on a connection that was established at `now`.
    #[must_use]
    pub fn new(settings: ClientSettings, now: Timestamp) -> Self {
        Self {
            settings,
            phase: Phase::Opening,
            extensions: Extensions::default(),
            secured: false,
            reader: ReplyReader::default(),
            output: Output::default(),
            events: VecDeque::new(),
            awaited: VecDeque::from([Awaited { step: Step::Greeting, end: 0 }]),
            waiting: VecDeque::new(),
            opening: None,
            closing: None,
            reset_due: false,
            begun: 0,
            finishing: false,
            step_since: now,
        }
    }

    /// Octets came from the server.
    pub fn receive(&mut self, now: Timestamp, octets: &[u8]) {
        if self.phase == Phase::Handshake && !octets.is_empty() {
            return self.broken(now, "octets in clear after the 220 to STARTTLS");
        }
        let mut rest = octets;
        let mut reader = core::mem::take(&mut self.reader);
        while self.phase != Phase::Closed {
            match reader.next(&mut rest) {
                Ok(Some(reply)) => self.answer(now, reply),
                Ok(None) => break,
                Err(fault) => self.broken(now, &fault.to_string()),
            }
            if self.phase == Phase::Handshake {
                // Whatever came behind the 220 in clear could have been put there by anyone.
                if rest.is_empty() {
                    self.events.push_back(ClientEvent::StartTls);
                } else {
                    self.broken(now, "octets in clear after the 220 to STARTTLS");
                }
                break;
            }
        }
        self.reader = reader;
        self.advance(now);
    }

    /// The connection is gone: closed in order (`why` empty) or failed.
    pub fn connection_lost(&mut self, now: Timestamp, why: &str) {
        let cause = match self.phase {
            Phase::Quitting => EndCause::Finished,
            _ => EndCause::Lost { why: why.to_owned() },
        };
        self.close(now, cause);
    }

    /// The handshake asked for by [`ClientEvent::StartTls`] succeeded.
    pub fn tls_established(&mut self, now: Timestamp) {
        if self.phase != Phase::Handshake {
            return;
        }
        self.secured = true;
        self.phase = Phase::Opening;
        // RFC 3207, 4.2: whatever was learned in clear is forgotten.
        self.extensions = Extensions::default();
        self.reader = ReplyReader::default();
        self.awaited.clear();
        self.send(now, Step::Ehlo);
    }

    /// The handshake asked for by [`ClientEvent::StartTls`] failed.
    pub fn tls_failed(&mut self, now: Timestamp, why: &str) {
        if self.phase == Phase::Handshake {
            self.close(now, EndCause::TlsFailed { why: why.to_owned() });
        }
    }

    /// Takes note that so many octets of the pieces from `next_to_send` were written.
    pub fn written(&mut self, now: Timestamp, octets: usize) {
        self.output.written(now, octets);
        if self.opening.is_none() && !self.waiting.is_empty() {
            self.advance(now);
        }
    }

    /// Does what the time demands; harmless when nothing is due.
    pub fn tick(&mut self, now: Timestamp) {
        if self.step_deadline().is_some_and(|deadline| now >= deadline) {
            match self.phase {
                Phase::Closed => {}
                Phase::Quitting => self.close(now, EndCause::Finished),
                Phase::Ready if self.awaited.is_empty() => self.finishing = true,
                _ => self.close(now, EndCause::TimedOut),
            }
        }
        self.advance(now);
    }

    /// Hands over a message. After the end of the session it is `NotTried` at once.
    pub fn enqueue(&mut self, now: Timestamp, envelope: Envelope) {
        if self.phase == Phase::Closed || self.finishing {
            self.done(envelope.token, Verdict::NotTried, None);
            return;
        }
        self.waiting.push_back(envelope);
        self.advance(now);
    }

    /// Ends the session in order: messages that have begun are carried to their end, the others are
    /// `NotTried`, then QUIT.
    pub fn finish(&mut self, now: Timestamp) {
        self.finishing = true;
        self.release_waiting();
        self.advance(now);
    }

    /// Ends the session at once, without QUIT.
    pub fn abort(&mut self, now: Timestamp, why: &str) {
        self.close(now, EndCause::Local { why: why.to_owned() });
    }

    /// The next piece to write, if any. Ask again until `None`.
    pub fn next_to_send(&mut self) -> Option<Bytes> {
        self.output.next()
    }

    /// The next event, if any. Ask again until `None`.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    /// Whether a message handed over now would be sent next. True one message ahead of the wire, so
    /// that it is rendered while the server still works on the one before.
    #[must_use]
    pub fn wants_message(&self) -> bool {
        self.phase == Phase::Ready
            && !self.finishing
            && self.waiting.is_empty()
            && self.begun < self.settings.max_messages.max(1)
    }

    /// Whether the session may still want messages. Once false it stays so: whatever is held for it
    /// can be given back at once, without waiting for the end of what is in flight.
    #[must_use]
    pub fn will_take_more(&self) -> bool {
        self.phase != Phase::Closed
            && self.phase != Phase::Quitting
            && !self.finishing
            && self.begun < self.settings.max_messages.max(1)
    }

    /// Whether the session is over.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// The command or content whose answer comes next; `None`: no answer is awaited.
    #[must_use]
    pub fn awaits(&self) -> Option<Stage> {
        self.awaited.front().map(|awaited| awaited.step.stage())
    }

    /// Whether a message was sent to its last octet and is not answered: what a crash now would repeat.
    #[must_use]
    pub fn has_content_out(&self) -> bool {
        let messages = [&self.closing, &self.opening];
        messages.into_iter().flatten().any(|one| self.output.has_passed(one.content_end))
    }

    /// When [`tick`](Self::tick) must be called; `None` only after the end.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        let step = self.step_deadline()?;
        Some(self.waiting.front().map_or(step, |envelope| step.min(envelope.send_before)))
    }

    /// When the step that the server owes, or the patience with an idle connection, ends.
    fn step_deadline(&self) -> Option<Timestamp> {
        let times = &self.settings.timeouts;
        if self.phase == Phase::Closed {
            return None;
        }
        let Some(front) = self.awaited.front() else {
            let span = if self.phase == Phase::Handshake { times.command } else { times.idle };
            return Some(self.step_since + span);
        };
        let since_block = self.step_since.max(self.output.block_at());
        Some(match front.step {
            Step::Greeting => self.step_since + times.greeting,
            Step::Content | Step::Chunk if !self.output.has_passed(front.end) => {
                since_block + times.data_block
            }
            Step::Content | Step::Chunk | Step::LoneDot => since_block + times.final_dot,
            Step::Quit => self.step_since + times.quit,
            _ => self.step_since + times.command,
        })
    }

    // ---- commands ------------------------------------------------------------------------

    /// Queues one command and awaits its answer.
    fn send(&mut self, now: Timestamp, step: Step) {
        match step {
            Step::Ehlo => {
                let verb: &[u8] = if self.settings.lmtp { b"LHLO " } else { b"EHLO " };
                self.output.push(&[verb, self.settings.helo.as_bytes(), b"\r\n"]);
            }
            Step::Helo => self.output.push(&[b"HELO ", self.settings.helo.as_bytes(), b"\r\n"]),
            Step::StartTls => self.output.push(&[b"STARTTLS\r\n"]),
            Step::Rcpt => {
                if let Some(message) = &self.opening {
                    self.output.push(&[b"RCPT TO:<", message.recipient.as_bytes(), b">\r\n"]);
                }
            }
            Step::Data => self.output.push(&[b"DATA\r\n"]),
            Step::LoneDot => self.output.push(&[b".\r\n"]),
            Step::Reset => self.output.push(&[b"RSET\r\n"]),
            Step::Quit => self.output.push(&[b"QUIT\r\n"]),
            // Nothing of ours belongs to the greeting; the others are queued with their message.
            Step::Greeting | Step::Mail | Step::Content | Step::Chunk => {}
        }
        self.await_answer(now, step);
    }

    /// Awaits the answer to what was queued last.
    fn await_answer(&mut self, now: Timestamp, step: Step) {
        if self.awaited.is_empty() {
            self.step_since = now;
        }
        self.awaited.push_back(Awaited { step, end: self.output.end() });
    }

    /// Begins whatever can begin now.
    fn advance(&mut self, now: Timestamp) {
        if self.phase == Phase::Closed {
            return;
        }
        while self.waiting.front().is_some_and(|envelope| envelope.send_before <= now) {
            if let Some(envelope) = self.waiting.pop_front() {
                self.done(envelope.token, Verdict::NotTried, None);
            }
        }
        if self.phase != Phase::Ready {
            return;
        }
        let full = |session: &Self| {
            session.finishing || session.begun >= session.settings.max_messages.max(1)
        };
        while !full(self)
            && !self.waiting.is_empty()
            && self.opening.is_none()
            && (self.extensions.pipelining || self.awaited.is_empty())
            && self.output.unwritten() <= AHEAD_OCTETS
        {
            if self.reset_due {
                self.reset_due = false;
                self.send(now, Step::Reset);
                continue;
            }
            if let Some(envelope) = self.waiting.pop_front() {
                self.begin(now, envelope);
            }
        }
        if full(self) {
            self.release_waiting();
            if self.awaited.is_empty() && self.opening.is_none() && self.closing.is_none() {
                self.phase = Phase::Quitting;
                self.send(now, Step::Quit);
            }
        }
    }

    /// Queues MAIL FROM, and with PIPELINING the rest of its group.
    fn begin(&mut self, now: Timestamp, envelope: Envelope) {
        let content = match self.check(&envelope) {
            Ok(content) => content,
            Err((status, why)) => {
                return self.done(envelope.token, Verdict::Unsendable { status, why }, None);
            }
        };
        let test_only = envelope.test_only;
        let group_fits = content.size <= GROUP_OCTETS && self.begun == 0;
        let by_chunk = self.extensions.chunking
            && !test_only
            && (group_fits || !self.extensions.pipelining)
            && !content.could_be_commands();
        self.begun += 1;
        self.output.push(&[b"MAIL FROM:<", envelope.sender.as_bytes(), b">"]);
        if self.extensions.size.is_some() {
            let mut digits = [0; 20];
            self.output.push(&[b" SIZE=", decimal(content.size, &mut digits)]);
        }
        if content.eight_bit {
            self.output.push(&[b" BODY=8BITMIME"]);
        }
        if envelope.smtputf8 {
            self.output.push(&[b" SMTPUTF8"]);
        }
        self.output.push(&[b"\r\n"]);
        self.await_answer(now, Step::Mail);
        self.opening = Some(Transaction {
            token: envelope.token,
            recipient: envelope.recipient,
            wire: if by_chunk { content.plain } else { content.dot_stuffed() },
            needs_line_end: content.needs_line_end,
            size: content.size,
            test_only,
            by_chunk,
            started_at: now,
            mail_accepted: false,
            failure: None,
            content_end: u64::MAX,
        });
        if self.extensions.pipelining {
            self.send(now, Step::Rcpt);
            if by_chunk {
                self.send_chunk(now);
            } else {
                self.send(now, if test_only { Step::Reset } else { Step::Data });
            }
        }
    }

    /// Queues BDAT for the whole content of the opening message, and the content.
    fn send_chunk(&mut self, now: Timestamp) {
        let Some(message) = self.opening.as_mut() else { return };
        let mut digits = [0; 20];
        self.output.push(&[b"BDAT ", decimal(message.size, &mut digits), b" LAST\r\n"]);
        self.output.push_content(core::mem::take(&mut message.wire));
        if message.needs_line_end {
            self.output.push(&[b"\r\n"]);
        }
        message.content_end = self.output.end();
        self.await_answer(now, Step::Chunk);
    }

    /// Queues the content of the message that the 354 was for, and its final dot.
    fn send_content(&mut self, now: Timestamp) {
        let Some(mut message) = self.opening.take() else { return };
        self.output.push_content(core::mem::take(&mut message.wire));
        if message.needs_line_end {
            self.output.push(&[b"\r\n"]);
        }
        self.output.push(&[b".\r\n"]);
        message.content_end = self.output.end();
        self.closing = Some(message);
        self.await_answer(now, Step::Content);
    }

    /// Whether this message can go over this connection, and its content made ready.
    fn check(&self, envelope: &Envelope) -> Result<PreparedContent, (EnhancedStatus, String)> {
        let offered = &self.extensions;
        let refuse =
            |subject, detail, why: String| Err((EnhancedStatus::new(5, subject, detail), why));
        if let Some(why) = unfit(&envelope.sender) {
            return refuse(1, 7, format!("the return path {why}"));
        }
        if let Some(why) = unfit(&envelope.recipient) {
            return refuse(1, 3, format!("the recipient address {why}"));
        }
        if envelope.recipient.is_empty() {
            return refuse(1, 3, "the recipient address is empty".to_owned());
        }
        let utf8 = !envelope.sender.is_ascii() || !envelope.recipient.is_ascii();
        if (envelope.smtputf8 || utf8) && !offered.smtputf8 {
            return refuse(6, 7, "it needs SMTPUTF8, which the server does not offer".to_owned());
        }
        if utf8 && !envelope.smtputf8 {
            return refuse(
                6,
                7,
                "an address is not ASCII and SMTPUTF8 was not asked for".to_owned(),
            );
        }
        let content = match content::prepare(&envelope.content) {
            Ok(content) => content,
            Err(fault) => return refuse(6, 11, fault.to_string()),
        };
        if let Some(limit) = offered.size.filter(|limit| *limit > 0 && content.size > *limit) {
            let why = format!("its {} octets exceed the server's limit of {limit}", content.size);
            return refuse(3, 4, why);
        }
        if content.eight_bit && !offered.eight_bit_mime {
            return refuse(6, 3, "it needs 8BITMIME, which the server does not offer".to_owned());
        }
        Ok(content)
    }
}

/// Why an address cannot stand in a command, if so. Not a check of its grammar: it keeps whatever
/// was let in elsewhere from ending the command or its brackets.
fn unfit(address: &str) -> Option<&'static str> {
    if address.len() > LONGEST_ADDRESS {
        return Some("is longer than 320 octets");
    }
    let quoted = address.starts_with('"');
    for octet in address.bytes() {
        match octet {
            0..=31 | 127 => return Some("has a control octet"),
            b' ' | b'<' | b'>' if !quoted => return Some("has a space or bracket outside quotes"),
            _ => {}
        }
    }
    None
}

/// The digits of a number, without allocating.
fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut from = digits.len();
    loop {
        from -= 1;
        digits[from] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number == 0 {
            return &digits[from..];
        }
    }
}

#[cfg(test)]
mod tests;
