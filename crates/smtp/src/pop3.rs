//! A POP3 client session without a socket (RFC 1939, 2449, 2595).
//!
//! **Promise.** However the octets are cut, the same messages come out, and only whole ones are
//! deleted. DELE is said after the caller has kept the message; the server carries it out at QUIT
//! (RFC 1939, 6), so a session that breaks before has deleted nothing and the messages come again.
//!
//! **What a server may say wrong.** Sizes and counts are not believed: the end of a message is its
//! final dot, and what is behind the limit is cut. A message that is announced as too large is
//! looked at with TOP and left. Lists may be missing, out of order or endless. A line ends with
//! CR LF; only where the greeting itself ends with a bare LF do bare LFs end lines, since else
//! anybody who sends us mail could write replies of the server into it.
//!
//! **How.** One command at a time, except that DELE and the next RETR travel together where the
//! server offers PIPELINING (RFC 2449, 6.6).
//!
//! **Absences.** USER and PASS only: no APOP, no SASL.

mod content;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use mail::time::Timestamp;
use memchr::memchr;

use crate::mailbox::{
    FetchCause, FetchEnd, FetchEvent, FetchSettings, FetchedMessage, MailboxSession, Protection,
    said,
};
use content::{Content, Progress};

/// Longest line of a reply in octets (RFC 2449, 4 allows 512).
pub const LONGEST_LINE: usize = 4_096;
/// Messages of a mailbox that one session looks at.
pub const MOST_LISTED: usize = 20_000;
/// Octets of one list (LIST, UIDL, CAPA); more is no list.
pub const MOST_LIST_OCTETS: usize = 64 << 20;
/// Lines of the body that are fetched of a message that is too large.
const TOP_LINES: u32 = 2_000;
/// The timer of a message starts again only after so many further octets.
const BLOCK: usize = 1_024;
/// After so many refused messages in one session the server is left alone.
const MOST_REFUSALS: u32 = 10;

/// Which reply comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Greeting,
    Capabilities,
    StartTls,
    User,
    Password,
    Status,
    Identities,
    Sizes,
    Message { whole: bool },
    Deletion,
    Farewell,
}

impl Expected {
    /// The command, for faults.
    const fn command(self) -> &'static str {
        match self {
            Self::Greeting => "the connection",
            Self::Capabilities => "CAPA",
            Self::StartTls => "STLS",
            Self::User => "USER",
            Self::Password => "PASS",
            Self::Status => "STAT",
            Self::Identities => "UIDL",
            Self::Sizes => "LIST",
            Self::Message { whole: true } => "RETR",
            Self::Message { whole: false } => "TOP",
            Self::Deletion => "DELE",
            Self::Farewell => "QUIT",
        }
    }
}

/// What the next octets are.
#[derive(Debug)]
enum Reading {
    /// A status line.
    Status,
    /// Lines of a list; so many octets so far.
    List(usize),
    /// A message.
    Content(Content),
}

/// What is known of a message before it is fetched.
#[derive(Clone, Debug, Default)]
struct Listed {
    octets: Option<u64>,
    identity: Box<str>,
}

/// The session.
#[derive(Debug)]
pub struct Pop3Session {
    settings: FetchSettings,
    reading: Reading,
    expected: VecDeque<Expected>,
    line: Vec<u8>,
    /// Whether bare LFs end lines.
    bare: bool,
    pipelining: bool,
    listed: BTreeMap<u32, Listed>,
    /// The message that is being fetched or kept.
    current: Option<(u32, Listed)>,
    /// The number of what the caller is keeping; with its identity where it was cut.
    keeping: Option<(u32, Option<Box<str>>)>,
    output: BytesMut,
    events: VecDeque<FetchEvent>,
    awaits_tls: bool,
    finishing: bool,
    not_kept: bool,
    closed: bool,
    refusals: u32,
    begun: u32,
    /// Messages that were kept whole, and those of them whose DELE was taken.
    wanted: u32,
    marked: u32,
    end: FetchEnd,
    since: Timestamp,
    block: usize,
    last_begin: Timestamp,
    last_moment: Timestamp,
}

impl Pop3Session {
    /// A session over a connection that was made at `now`, under TLS already where the settings ask
    /// for [`Protection::Tls`].
    #[must_use]
    pub fn new(settings: FetchSettings, now: Timestamp) -> Self {
        Self {
            last_begin: now + settings.session_time,
            last_moment: settings.last_moment(now),
            settings,
            reading: Reading::Status,
            expected: VecDeque::from([Expected::Greeting]),
            line: Vec::new(),
            bare: false,
            pipelining: false,
            listed: BTreeMap::new(),
            current: None,
            keeping: None,
            output: BytesMut::new(),
            events: VecDeque::new(),
            awaits_tls: false,
            finishing: false,
            not_kept: false,
            closed: false,
            refusals: 0,
            begun: 0,
            wanted: 0,
            marked: 0,
            end: FetchEnd {
                cause: FetchCause::Finished,
                held: 0,
                fetched: 0,
                deleted: 0,
                unconfirmed: 0,
                refused: 0,
                cut: Vec::new(),
                during: None,
            },
            since: now,
            block: 0,
        }
    }

    // ---- octets --------------------------------------------------------------------------

    /// Takes a line, or the part of it that is there; how many octets were used.
    fn take_line(&mut self, now: Timestamp, octets: &[u8]) -> usize {
        let end = memchr(b'\n', octets);
        let part = &octets[..end.map_or(octets.len(), |end| end + 1)];
        if self.line.len() + part.len() > LONGEST_LINE {
            self.close(FetchCause::Broken("a line without end"));
            return octets.len();
        }
        self.line.extend_from_slice(part);
        if end.is_none() {
            return octets.len();
        }
        self.since = now;
        let mut line = core::mem::take(&mut self.line);
        line.pop();
        match line.pop() {
            Some(b'\r') => {}
            last => {
                line.extend(last);
                self.bare |= self.expected.front() == Some(&Expected::Greeting);
                if !self.bare {
                    self.close(FetchCause::Broken("a line that does not end with CR LF"));
                    return octets.len();
                }
            }
        }
        match self.reading {
            Reading::List(so_far) => self.list_line(now, &line, so_far + part.len()),
            _ => self.status_line(now, &line),
        }
        part.len()
    }

    /// Takes a part of a message.
    fn take_content(&mut self, now: Timestamp, octets: &[u8]) -> usize {
        let Reading::Content(content) = &mut self.reading else { return 0 };
        match content.read(octets) {
            Progress::More => {
                self.block += octets.len();
                if self.block >= BLOCK {
                    self.block = 0;
                    self.since = now;
                }
                if content.octets > self.settings.endless() {
                    self.close(FetchCause::Broken("a message without end"));
                }
                octets.len()
            }
            Progress::End(used) => {
                let whole = content.is_whole();
                let octets = core::mem::take(&mut content.kept);
                self.since = now;
                self.reading = Reading::Status;
                self.finish_content(octets, whole);
                used
            }
        }
    }

    /// A message has come to its end.
    fn finish_content(&mut self, octets: Vec<u8>, complete: bool) {
        let asked = self.expected.pop_front();
        let Some((number, listed)) = self.current.take() else { return };
        let whole = complete && asked == Some(Expected::Message { whole: true });
        self.keeping = Some((number, if whole { None } else { Some(listed.identity.clone()) }));
        let message = FetchedMessage { identity: listed.identity, octets, whole };
        self.events.push_back(FetchEvent::Message(message));
    }

    /// A line of a list, or its end.
    fn list_line(&mut self, now: Timestamp, line: &[u8], so_far: usize) {
        if line == b"." {
            self.reading = Reading::Status;
            let Some(expected) = self.expected.pop_front() else { return };
            return self.list_ended(now, expected);
        }
        if so_far > MOST_LIST_OCTETS {
            return self.close(FetchCause::Broken("a list without end"));
        }
        self.reading = Reading::List(so_far);
        let line = line.strip_prefix(b".").unwrap_or(line);
        let mut words = line.split(|octet| *octet == b' ').filter(|word| !word.is_empty());
        if self.expected.front() == Some(&Expected::Capabilities) {
            let word = words.next().unwrap_or_default();
            self.pipelining |= word.eq_ignore_ascii_case(b"PIPELINING");
            return;
        }
        let Some(number) = words.next().and_then(number).filter(|number| *number > 0) else {
            return;
        };
        let Ok(number) = u32::try_from(number) else { return };
        let Some(value) = words.next() else { return };
        if self.listed.len() >= MOST_LISTED && !self.listed.contains_key(&number) {
            return;
        }
        if self.expected.front() == Some(&Expected::Sizes) {
            self.listed.entry(number).or_default().octets = self::number(value);
        } else if value.len() <= 128
            && value.iter().all(u8::is_ascii_graphic)
            && let Ok(identity) = core::str::from_utf8(value)
        {
            self.listed.entry(number).or_default().identity = identity.into();
        }
    }

    fn list_ended(&mut self, now: Timestamp, expected: Expected) {
        match expected {
            Expected::Capabilities => self.log_in(),
            Expected::Identities => self.ask("LIST", Expected::Sizes),
            _ => self.go_on(now),
        }
    }

    /// A status line: `+OK` or `-ERR`.
    fn status_line(&mut self, now: Timestamp, line: &[u8]) {
        let Some(&expected) = self.expected.front() else { return };
        let positive = match line.split(|octet| *octet == b' ').next().unwrap_or_default() {
            word if word.eq_ignore_ascii_case(b"+OK") => true,
            word if word.eq_ignore_ascii_case(b"-ERR") => false,
            _ => return self.close(FetchCause::Broken("a reply that is neither +OK nor -ERR")),
        };
        if positive {
            self.agreed(now, expected, line);
        } else {
            self.expected.pop_front();
            self.refused(now, expected, line);
        }
    }

    /// The server agrees.
    fn agreed(&mut self, now: Timestamp, expected: Expected, line: &[u8]) {
        if matches!(expected, Expected::Capabilities | Expected::Identities | Expected::Sizes) {
            self.reading = Reading::List(0);
            return;
        }
        if let Expected::Message { .. } = expected {
            self.block = 0;
            let content = Content::new(self.settings.message_octets, self.bare);
            self.reading = Reading::Content(content);
            return;
        }
        self.expected.pop_front();
        match expected {
            Expected::Greeting if self.settings.protection == Protection::StartTls => {
                self.ask("STLS", Expected::StartTls);
            }
            Expected::Greeting => self.ask("CAPA", Expected::Capabilities),
            Expected::StartTls => {
                self.awaits_tls = true;
                self.events.push_back(FetchEvent::StartTls);
            }
            Expected::User => {
                let command = format!("PASS {}", self.settings.password);
                self.ask(&command, Expected::Password);
            }
            Expected::Password => self.ask("STAT", Expected::Status),
            Expected::Status => {
                let held = line.split(|octet| *octet == b' ').nth(1).and_then(number);
                self.end.held = held.unwrap_or(0);
                if self.settings.messages == 0 || held == Some(0) {
                    self.quit();
                } else {
                    self.ask("UIDL", Expected::Identities);
                }
            }
            Expected::Deletion => {
                self.marked += 1;
                if self.expected.is_empty() {
                    self.go_on(now);
                }
            }
            Expected::Farewell => {
                self.end.deleted = self.marked;
                let cause = if self.not_kept { FetchCause::NotKept } else { FetchCause::Finished };
                self.close(cause);
            }
            // These have gone their way above.
            Expected::Capabilities
            | Expected::Identities
            | Expected::Sizes
            | Expected::Message { .. } => {}
        }
    }

    /// The server refuses.
    fn refused(&mut self, now: Timestamp, expected: Expected, line: &[u8]) {
        match expected {
            Expected::Capabilities => self.log_in(),
            Expected::StartTls => self.close(FetchCause::NoTls(said(line))),
            Expected::User | Expected::Password => {
                // RFC 3206: what passes by itself is no fault of name and password.
                let passing = [&b"[IN-USE]"[..], b"[SYS/TEMP]", b"[LOGIN-DELAY]"];
                let said = said(line);
                self.close(if passing.iter().any(|code| contains(line, code)) {
                    FetchCause::Refused { what: "the login for now", said }
                } else {
                    FetchCause::LoginRefused(said)
                });
            }
            Expected::Identities => self.ask("LIST", Expected::Sizes),
            Expected::Sizes => {
                // Without a list there is the count.
                let held = u32::try_from(self.end.held).unwrap_or(u32::MAX);
                for number in 1..=held.min(self.settings.messages) {
                    self.listed.entry(number).or_default();
                }
                self.go_on(now);
            }
            Expected::Message { .. } | Expected::Deletion => {
                if matches!(expected, Expected::Message { .. }) {
                    self.current = None;
                    self.end.refused += 1;
                }
                self.refusals += 1;
                if self.refusals >= MOST_REFUSALS {
                    self.finishing = true;
                }
                if self.expected.is_empty() {
                    self.go_on(now);
                }
            }
            Expected::Farewell => {
                // RFC 1939, 6: some deletions failed, and nobody can say which.
                self.close(FetchCause::Refused { what: "QUIT", said: said(line) });
            }
            Expected::Greeting | Expected::Status => {
                let what = expected.command();
                self.close(FetchCause::Refused { what, said: said(line) });
            }
        }
    }

    // ---- commands ------------------------------------------------------------------------

    fn ask(&mut self, command: &str, reply: Expected) {
        self.output.extend_from_slice(command.as_bytes());
        self.output.extend_from_slice(b"\r\n");
        self.expected.push_back(reply);
    }

    fn log_in(&mut self) {
        let sayable = |text: &str| !text.is_empty() && !text.contains(['\r', '\n', '\0']);
        if !sayable(&self.settings.user) || !sayable(&self.settings.password) {
            let why = "name or password has a character that cannot be said".to_owned();
            return self.close(FetchCause::LoginRefused(why));
        }
        let command = format!("USER {}", self.settings.user);
        self.ask(&command, Expected::User);
    }

    /// The next message, or the end.
    fn go_on(&mut self, now: Timestamp) {
        if !self.fetch_next(now) {
            self.quit();
        }
    }

    /// Asks for the next message that is to be fetched; `false`: there is none.
    fn fetch_next(&mut self, now: Timestamp) -> bool {
        if self.finishing || self.begun >= self.settings.messages || now >= self.last_begin {
            return false;
        }
        while let Some((number, listed)) = self.listed.pop_first() {
            if !listed.identity.is_empty() && self.settings.left.contains(&listed.identity) {
                continue;
            }
            let limit = self.settings.message_octets as u64;
            let whole = self.settings.ignore_size || listed.octets.is_none_or(|size| size <= limit);
            let command =
                if whole { format!("RETR {number}") } else { format!("TOP {number} {TOP_LINES}") };
            self.begun += 1;
            self.current = Some((number, listed));
            self.ask(&command, Expected::Message { whole });
            return true;
        }
        false
    }

    fn quit(&mut self) {
        self.ask("QUIT", Expected::Farewell);
    }

    fn close(&mut self, cause: FetchCause) {
        if self.closed {
            return;
        }
        self.closed = true;
        // While a DELE before it is unanswered the message itself has done nothing.
        if let Some((_, listed)) = self.current.take()
            && !listed.identity.is_empty()
            && matches!(self.expected.front(), Some(Expected::Message { .. }))
        {
            self.end.during = Some(listed.identity);
        }
        self.end.cause = cause;
        self.end.unconfirmed = self.wanted - self.end.deleted;
        self.reading = Reading::Status;
        self.listed.clear();
        self.events.push_back(FetchEvent::Closed(self.end.clone()));
    }
}

impl MailboxSession for Pop3Session {
    fn receive(&mut self, now: Timestamp, octets: &[u8]) {
        let mut rest = octets;
        while !rest.is_empty() && !self.closed {
            if self.awaits_tls {
                return self.close(FetchCause::Broken("octets in clear behind the answer to STLS"));
            }
            if self.expected.is_empty() {
                return self.close(FetchCause::Broken("words that nobody asked for"));
            }
            let used = match self.reading {
                Reading::Content(_) => self.take_content(now, rest),
                Reading::Status | Reading::List(_) => self.take_line(now, rest),
            };
            rest = &rest[used..];
        }
    }

    fn next_to_send(&mut self) -> Option<Bytes> {
        (!self.output.is_empty()).then(|| self.output.split().freeze())
    }

    fn poll_event(&mut self) -> Option<FetchEvent> {
        self.events.pop_front()
    }

    fn tls_established(&mut self, now: Timestamp) {
        if core::mem::take(&mut self.awaits_tls) {
            self.since = now;
            self.ask("CAPA", Expected::Capabilities);
        }
    }

    fn message_kept(&mut self, now: Timestamp, kept: bool) {
        let Some((number, cut)) = self.keeping.take() else { return };
        if self.closed {
            return;
        }
        self.since = now;
        if !kept {
            self.not_kept = true;
            self.finishing = true;
            return self.quit();
        }
        self.end.fetched += 1;
        if let Some(identity) = cut {
            self.end.cut.push(identity);
            return self.go_on(now);
        }
        self.wanted += 1;
        self.ask(&format!("DELE {number}"), Expected::Deletion);
        if self.pipelining {
            self.fetch_next(now);
        }
    }

    fn finish(&mut self) {
        self.finishing = true;
    }

    fn connection_lost(&mut self) {
        self.close(FetchCause::ConnectionLost);
    }

    fn tick(&mut self, now: Timestamp) {
        if now >= self.deadline() {
            self.close(FetchCause::TimeOver);
        }
    }

    fn deadline(&self) -> Timestamp {
        if self.closed || self.keeping.is_some() || self.awaits_tls {
            return Timestamp::NEVER;
        }
        (self.since + self.settings.reply_timeout).min(self.last_moment)
    }
}

/// A number in digits that fits.
fn number(word: &[u8]) -> Option<u64> {
    let digits = !word.is_empty() && word.len() <= 19 && word.iter().all(u8::is_ascii_digit);
    digits.then(|| core::str::from_utf8(word).ok()?.parse().ok()).flatten()
}

/// Whether a line holds a response code, in any case.
fn contains(line: &[u8], code: &[u8]) -> bool {
    line.windows(code.len()).any(|part| part.eq_ignore_ascii_case(code))
}
