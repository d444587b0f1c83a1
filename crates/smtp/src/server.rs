//! The receiving side of an SMTP or LMTP conversation, without a socket.
//!
//! **Promise.** A message is reported only when it came whole, and its 250 is written only after
//! the caller's [`message_result`](ServerSession::message_result). However the octets are cut, the
//! same conversation comes out. No octets make it panic, and what it holds is bounded by one
//! message within the limits, one line and what the caller hands over at once.
//!
//! **Smuggling is closed.** Content ends at CR LF `.` CR LF and nowhere else. A bare CR or LF after
//! DATA is answered at once with `550 5.6.11`, and the session ended: nothing that follows is read
//! as a command. After BDAT, where the count gives the end, the message is refused and the session
//! goes on. In a command line it is `500 5.5.2` and the end.
//!
//! **Speaking out of turn** ends the session with `554 5.5.0`: octets before the greeting, behind
//! EHLO, HELO, AUTH, DATA or STARTTLS before their answer (RFC 2920, 3.1), and any pipelining after
//! HELO. Octets in clear behind the 220 of STARTTLS end it without a word (RFC 3207).
//!
//! **How it is driven.** After every input, write all of
//! [`next_to_send`](ServerSession::next_to_send), take all events, and read on only while
//! [`wants_input`](ServerSession::wants_input). Call [`tick`](ServerSession::tick) at
//! [`deadline`](ServerSession::deadline). After [`ServerEvent::Closed`] write what is left, end the
//! sending direction, and read a little longer without use, so that the last reply is not lost to a
//! reset.
//!
//! **Absences.** No source routes, no ETRN, no EXPN, no DSN parameters, no BINARYMIME.

mod commands;
mod login;
mod parse;
mod text;
mod words;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use mail::reply::Reply;
use mail::time::Timestamp;
use memchr::{memchr, memchr_iter};

use crate::content::{self, BadContent};
use login::Dialogue;
use text::{Progress, TextReader};
pub use words::{
    Access, Admission, OfferedRecipient, ReceivedMessage, ServerEvent, ServerLimits, ServerSettings,
};

/// Longest command line in octets before its LF. RFC 5321 demands 512, extensions add to it; the
/// longest that makes sense here is an AUTH line.
pub const LONGEST_COMMAND: usize = 2_048;
/// A line that is still without end after so many octets ends the session.
pub const ENDLESS_LINE: usize = 65_536;
/// Most octets that wait while the caller checks a login or stores a message.
pub const MOST_PENDING: usize = 262_144;
/// The timer of a message starts again only after so many further octets.
const BLOCK: u64 = 1_024;

/// What the next octets are.
#[derive(Debug)]
enum Mode {
    /// A command line.
    Command,
    /// A line of an AUTH dialogue.
    Login(Dialogue),
    /// Content after DATA.
    Text(TextReader),
    /// Content after BDAT: so many octets are missing. Without `keep` they are dropped.
    Chunk { missing: u64, last: bool, keep: bool },
    /// Nothing yet: the caller checks a login.
    AwaitsLogin { user: String },
    /// Nothing yet: the caller stores a message for so many recipients.
    AwaitsMessage { recipients: usize },
    /// Nothing in clear any more.
    AwaitsTls { announced: bool },
    /// Over.
    Closed,
}

/// From MAIL FROM to the end of the content.
#[derive(Debug, Default)]
struct Transaction {
    sender: String,
    smtputf8: bool,
    recipients: Vec<String>,
    /// What BDAT has brought.
    chunks: Option<Vec<u8>>,
}

/// The session.
#[derive(Debug)]
pub struct ServerSession<A> {
    settings: Arc<ServerSettings>,
    admission: A,
    mode: Mode,
    tls: bool,
    user: Option<String>,
    helo: Option<String>,
    /// Whether the client said EHLO or LHLO, so that PIPELINING was offered to it.
    extended: bool,
    transaction: Option<Transaction>,
    /// The beginning of a line, at most [`LONGEST_COMMAND`], and how long it really is.
    line: Vec<u8>,
    line_octets: usize,
    /// Octets that came while the caller was asked.
    pending: Vec<u8>,
    output: BytesMut,
    /// The client must not speak before the output was taken.
    must_wait: bool,
    events: VecDeque<ServerEvent>,
    errors: u32,
    idle_commands: u32,
    failed_logins: u32,
    draining: bool,
    /// When the last whole command or block came.
    since: Timestamp,
    /// Octets of content since then.
    block: u64,
}

impl<A: Admission> ServerSession<A> {
    /// A session with a client that connected at `now`; `tls` when the connection is under TLS
    /// from the start.
    #[must_use]
    pub fn new(settings: Arc<ServerSettings>, admission: A, tls: bool, now: Timestamp) -> Self {
        let protocol = if settings.lmtp { "LMTP" } else { "ESMTP" };
        let greeting = format!("220 {} {protocol} Mailweir", settings.host_name);
        let mut session = Self {
            settings,
            admission,
            mode: Mode::Command,
            tls,
            user: None,
            helo: None,
            extended: false,
            transaction: None,
            line: Vec::new(),
            line_octets: 0,
            pending: Vec::new(),
            output: BytesMut::new(),
            must_wait: true,
            events: VecDeque::new(),
            errors: 0,
            idle_commands: 0,
            failed_logins: 0,
            draining: false,
            since: now,
            block: 0,
        };
        session.say(&greeting);
        session
    }

    /// Octets came from the client.
    pub fn receive(&mut self, now: Timestamp, octets: &[u8]) {
        match self.mode {
            Mode::Closed => return,
            Mode::AwaitsTls { announced: true } if !octets.is_empty() => {
                return self.close("octets in clear behind the 220 of STARTTLS");
            }
            _ => {}
        }
        if !self.awaits_caller() && self.pending.is_empty() {
            let taken = self.take(now, octets);
            self.pending.extend_from_slice(&octets[taken..]);
        } else {
            self.pending.extend_from_slice(octets);
        }
        if self.draining && self.pending.is_empty() && matches!(self.mode, Mode::Command) {
            // Whatever was in hand when the shutdown began has had its answer.
            self.say_and_close("421 4.3.2 closing down", "closing down");
        }
        if matches!(self.mode, Mode::Closed) {
            self.pending = Vec::new();
        } else if self.pending.len() > MOST_PENDING {
            self.close("more octets than were asked for");
        }
    }

    /// The connection is gone. What had not come whole is forgotten.
    pub fn connection_lost(&mut self) {
        self.close("the client closed the connection");
    }

    /// The handshake asked for by [`ServerEvent::StartTls`] succeeded. All that was said in clear
    /// is forgotten (RFC 3207, 4.2).
    pub fn tls_established(&mut self, now: Timestamp) {
        if !matches!(self.mode, Mode::AwaitsTls { .. }) {
            return;
        }
        self.mode = Mode::Command;
        self.tls = true;
        self.helo = None;
        self.extended = false;
        self.transaction = None;
        self.user = None;
        self.must_wait = false;
        self.since = now;
    }

    /// Answers [`ServerEvent::Authenticate`].
    pub fn auth_result(&mut self, now: Timestamp, accepted: bool) {
        let Mode::AwaitsLogin { user } = &mut self.mode else { return };
        let user = core::mem::take(user);
        self.mode = Mode::Command;
        if accepted {
            self.user = Some(user);
            self.say("235 2.7.0 authenticated");
        } else {
            self.failed_logins += 1;
            if self.failed_logins >= self.settings.limits.failed_logins {
                self.say_and_close("421 4.7.0 too many failed logins", "too many failed logins");
            } else {
                self.refuse("535 5.7.8 authentication failed");
            }
        }
        self.must_wait = true;
        self.resume(now);
    }

    /// Answers [`ServerEvent::Message`]; in LMTP for each of its recipients. After a 421 the
    /// session is over.
    pub fn message_result(&mut self, now: Timestamp, reply: &Reply) {
        let Mode::AwaitsMessage { recipients } = self.mode else { return };
        self.mode = Mode::Command;
        self.idle_commands = 0;
        for _ in 0..if self.settings.lmtp { recipients } else { 1 } {
            self.say_reply(reply);
        }
        if reply.code() == 421 {
            return self.close("ended with the answer to a message");
        }
        self.must_wait = !self.extended;
        self.resume(now);
    }

    /// Ends the session at the next moment that loses nothing: at once between commands, otherwise
    /// after the message or login in hand.
    pub fn shutdown(&mut self, now: Timestamp) {
        self.draining = true;
        self.resume(now);
    }

    /// Does what the time demands; harmless when nothing is due.
    pub fn tick(&mut self, now: Timestamp) {
        if now >= self.deadline() && !matches!(self.mode, Mode::Closed) {
            self.say_and_close("421 4.4.2 waited too long", "time over");
        }
    }

    /// When [`tick`](Self::tick) must be called; [`Timestamp::NEVER`] while the caller is asked.
    #[must_use]
    pub fn deadline(&self) -> Timestamp {
        match self.mode {
            Mode::Command | Mode::Login(_) | Mode::AwaitsTls { .. } => {
                self.since + self.settings.command_timeout
            }
            Mode::Text(_) | Mode::Chunk { .. } => self.since + self.settings.data_timeout,
            Mode::AwaitsLogin { .. } | Mode::AwaitsMessage { .. } | Mode::Closed => {
                Timestamp::NEVER
            }
        }
    }

    /// Whether more should be read from the client now.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        !self.awaits_caller() && self.pending.is_empty()
    }

    /// Octets of memory that what the client sent takes now: content so far and what waits. A
    /// message handed over with [`ServerEvent::Message`] is not among them any more.
    #[must_use]
    pub fn held_octets(&self) -> usize {
        let content = match &self.mode {
            Mode::Text(reader) => reader.content.capacity(),
            _ => 0,
        };
        let chunks = self.transaction.as_ref().and_then(|open| open.chunks.as_ref());
        content + chunks.map_or(0, Vec::capacity) + self.pending.capacity()
    }

    /// The next piece to write, if any.
    pub fn next_to_send(&mut self) -> Option<Bytes> {
        if self.output.is_empty() {
            return None;
        }
        self.must_wait = false;
        if let Mode::AwaitsTls { announced: announced @ false } = &mut self.mode {
            *announced = true;
            self.events.push_back(ServerEvent::StartTls);
        }
        Some(self.output.split().freeze())
    }

    /// The next event, if any.
    pub fn poll_event(&mut self) -> Option<ServerEvent> {
        self.events.pop_front()
    }

    /// Whether the caller must do something before octets can be used.
    fn awaits_caller(&self) -> bool {
        matches!(self.mode, Mode::AwaitsLogin { .. } | Mode::AwaitsMessage { .. } | Mode::Closed)
            || matches!(self.mode, Mode::AwaitsTls { announced: true })
    }

    // ---- octets --------------------------------------------------------------------------

    /// Goes on with what came while the caller was asked.
    fn resume(&mut self, now: Timestamp) {
        self.since = now;
        if self.draining && matches!(self.mode, Mode::Command | Mode::Login(_)) {
            return self.say_and_close("421 4.3.2 closing down", "closing down");
        }
        let pending = core::mem::take(&mut self.pending);
        let taken = self.take(now, &pending);
        if !matches!(self.mode, Mode::Closed) {
            self.pending = pending;
            self.pending.drain(..taken);
            if self.pending.is_empty() {
                // A client that once sent far ahead must not hold the memory for ever.
                self.pending = Vec::new();
            }
        }
    }

    /// Uses octets until there are no more or the caller must be asked; how many were used.
    fn take(&mut self, now: Timestamp, octets: &[u8]) -> usize {
        let mut rest = octets;
        while !rest.is_empty() && !self.awaits_caller() {
            if self.must_wait {
                self.say_and_close(
                    "554 5.5.0 you spoke out of turn",
                    "the client spoke out of turn",
                );
                break;
            }
            let used = match &mut self.mode {
                Mode::Text(_) => self.take_text(now, rest),
                Mode::Chunk { .. } => self.take_chunk(now, rest),
                _ => self.take_line(now, rest),
            };
            rest = &rest[used..];
        }
        octets.len() - rest.len()
    }

    /// Takes a line, or the part of it that is there.
    fn take_line(&mut self, now: Timestamp, octets: &[u8]) -> usize {
        let end = memchr(b'\n', octets);
        let part = &octets[..end.unwrap_or(octets.len())];
        self.line_octets += part.len();
        if self.line_octets > ENDLESS_LINE {
            self.say_and_close("500 5.5.2 a line without end", "a line without end");
            return octets.len();
        }
        let room = LONGEST_COMMAND.saturating_sub(self.line.len());
        self.line.extend_from_slice(&part[..part.len().min(room)]);
        let Some(end) = end else { return octets.len() };
        let too_long = self.line_octets > LONGEST_COMMAND;
        self.line_octets = 0;
        self.since = now;
        let mut line = core::mem::take(&mut self.line);
        if too_long {
            self.mode = Mode::Command;
            self.refuse("500 5.5.2 the line is too long");
            self.must_wait = !self.extended;
        } else if line.pop() != Some(b'\r') || line.contains(&b'\r') {
            self.say_and_close(
                "500 5.5.2 a line must end with CR LF and have no other CR or LF",
                "bare CR or LF in a command",
            );
        } else {
            self.answer_line(&line);
        }
        // Keeps the buffer for the next line.
        line.clear();
        self.line = line;
        end + 1
    }

    /// Takes content after DATA.
    fn take_text(&mut self, now: Timestamp, octets: &[u8]) -> usize {
        let Mode::Text(reader) = &mut self.mode else { return 0 };
        match reader.read(octets) {
            Progress::More => {
                let endless = reader.octets > reader_patience(&self.settings);
                self.progress(now, octets.len());
                if endless {
                    self.say_and_close(
                        "552 5.3.4 the message is far too large",
                        "content without end",
                    );
                }
                octets.len()
            }
            Progress::BareLineEnd => {
                self.say_and_close(
                    "550 5.6.11 the message has a bare CR or LF",
                    "bare CR or LF in a message",
                );
                octets.len()
            }
            Progress::End(used) => {
                let overflown = reader.overflown();
                let content = core::mem::take(&mut reader.content);
                self.mode = Mode::Command;
                self.since = now;
                self.finish_content(content, overflown);
                used
            }
        }
    }

    /// Takes content after BDAT.
    fn take_chunk(&mut self, now: Timestamp, octets: &[u8]) -> usize {
        let Mode::Chunk { missing, last, keep } = &mut self.mode else { return 0 };
        let used = usize::try_from(*missing).unwrap_or(usize::MAX).min(octets.len());
        *missing -= used as u64;
        let (done, last, keep) = (*missing == 0, *last, *keep);
        if keep
            && let Some(chunks) = self.transaction.as_mut().and_then(|open| open.chunks.as_mut())
        {
            chunks.extend_from_slice(&octets[..used]);
        }
        self.progress(now, used);
        if done {
            self.finish_chunk(last, keep);
        }
        used
    }

    /// Restarts the timer when a further block has come.
    fn progress(&mut self, now: Timestamp, octets: usize) {
        self.block += octets as u64;
        if self.block >= BLOCK {
            self.block = 0;
            self.since = now;
        }
    }

    /// A whole content: the message goes to the caller, or is refused.
    fn finish_content(&mut self, content: Vec<u8>, overflown: bool) {
        let Some(transaction) = self.transaction.take() else { return };
        let fault = if overflown {
            Some("552 5.3.4 the message is too large")
        } else {
            fault_of(&content, &self.settings.limits)
        };
        if let Some(reply) = fault {
            let replies = if self.settings.lmtp { transaction.recipients.len() } else { 1 };
            for _ in 1..replies {
                self.say(reply);
            }
            self.refuse(reply);
            self.must_wait = !self.extended;
            return;
        }
        self.mode = Mode::AwaitsMessage { recipients: transaction.recipients.len() };
        self.events.push_back(ServerEvent::Message(Box::new(ReceivedMessage {
            sender: transaction.sender,
            recipients: transaction.recipients,
            eight_bit: !content.is_ascii(),
            content,
            smtputf8: transaction.smtputf8,
            user: self.user.clone(),
            helo: self.helo.clone().unwrap_or_default(),
            tls: self.tls,
        })));
    }

    // ---- replies and ends ----------------------------------------------------------------

    /// Queues a reply of one line.
    fn say(&mut self, line: &str) {
        self.output.extend_from_slice(line.as_bytes());
        self.output.extend_from_slice(b"\r\n");
    }

    /// Queues a 5yz reply to a command, or ends the session after too many of them.
    fn refuse(&mut self, line: &str) {
        self.errors += 1;
        if self.errors > self.settings.limits.errors {
            self.say_and_close("421 4.7.0 too many errors", "too many errors");
        } else {
            self.say(line);
        }
    }

    /// Queues a reply that the caller made.
    fn say_reply(&mut self, reply: &Reply) {
        for line in reply.raw().split(|octet| *octet == b'\n') {
            let safe = |octet: &&u8| !octet.is_ascii_control();
            self.output.extend(line.iter().filter(safe));
            self.output.extend_from_slice(b"\r\n");
        }
    }

    fn say_and_close(&mut self, line: &str, why: &'static str) {
        self.say(line);
        self.close(why);
    }

    fn close(&mut self, why: &'static str) {
        if !matches!(self.mode, Mode::Closed) {
            self.mode = Mode::Closed;
            self.transaction = None;
            self.pending = Vec::new();
            self.events.push_back(ServerEvent::Closed { why });
        }
    }
}

/// Content so far beyond the limit ends the session instead of being read to its end.
fn reader_patience(settings: &ServerSettings) -> u64 {
    settings.limits.message_octets.saturating_mul(2).saturating_add(1_048_576)
}

/// The reply that refuses this content, if any.
fn fault_of(content: &[u8], limits: &ServerLimits) -> Option<&'static str> {
    match content::check_lines(content) {
        Err(BadContent::BareLineEnd) => return Some("550 5.6.11 the message has a bare CR or LF"),
        Err(BadContent::Nul) if !limits.nul_octets => {
            return Some("550 5.6.11 the message has a NUL octet");
        }
        Err(BadContent::Nul) | Ok(_) => {}
    }
    let mut in_header = true;
    let mut received = 0;
    let mut from = 0;
    for end in memchr_iter(b'\n', content).chain([content.len()]) {
        // Every LF has its CR here; only the end of the content may come without one.
        let line = &content[from..end];
        from = end + 1;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > limits.text_line_octets {
            return Some("550 5.6.0 the message has a line that is too long");
        }
        in_header &= !line.is_empty();
        let is_received =
            in_header && line.len() > 8 && line[..9].eq_ignore_ascii_case(b"received:");
        received += usize::from(is_received);
    }
    (received >= limits.received_fields).then_some("554 5.4.6 too many hops: the message loops")
}

#[cfg(test)]
mod tests;
