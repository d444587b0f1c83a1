//! A small IMAP client session without a socket (RFC 9051 and 3501): fetch what is there, delete it.
//!
//! **Promise.** However the octets are cut, the same messages come out, and only whole ones that the
//! caller has kept are flagged `\Deleted` and expunged: by UID EXPUNGE (RFC 4315) where the server
//! has it, else by EXPUNGE, and then only while nothing else in the mailbox is flagged, since that
//! would go too. Nothing else in the mailbox is changed, not even `\Seen`.
//!
//! **What a server may say wrong.** Counts and sizes are not believed. Messages are asked for with
//! BODY.PEEK\[\] and a length of one octet over the limit; a literal that is longer is cut, one
//! without end breaks the session. At most the first [`MOST_LISTED`] messages are looked at.
//!
//! **How.** One command at a time: CAPABILITY, LOGIN (or AUTHENTICATE PLAIN), SELECT, UID SEARCH,
//! UID FETCH for each message, UID STORE for up to [`BATCH`] of them, expunge, LOGOUT.
//!
//! **Absences.** No IDLE, no COMPRESS, no literals from us, no OAuth.

mod response;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use mail::time::Timestamp;

use crate::mailbox::{
    FetchCause, FetchEnd, FetchEvent, FetchSettings, FetchedMessage, MailboxSession, Protection,
    said,
};
use response::{Reader, Response, Taken};

/// Messages of a mailbox that one session looks at.
pub const MOST_LISTED: u64 = 5_000;
/// Messages that are flagged and expunged together.
pub const BATCH: usize = 100;
/// Responses without a tag before the answer to one command; more is no answer.
pub const MOST_UNTAGGED: u32 = 100_000;
/// The timer of a reply starts again only after so many further octets.
const BLOCK: usize = 1_024;
/// After so many refused messages in one session the server is left alone.
const MOST_REFUSALS: u32 = 10;

/// Which command is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Command {
    Greeting,
    StartTls,
    /// Before the login.
    Capability,
    Login,
    /// AUTHENTICATE PLAIN; the answer to the `+` is still to be said.
    Authenticate {
        answered: bool,
    },
    /// After the login.
    CapabilityAgain,
    Select,
    Search,
    Fetch {
        uid: u32,
    },
    Store,
    /// What else is flagged, where the server has no UID EXPUNGE.
    SearchDeleted,
    Expunge,
    Logout,
}

impl Command {
    /// Its name, for faults.
    const fn name(&self) -> &'static str {
        match self {
            Self::Greeting => "the connection",
            Self::StartTls => "STARTTLS",
            Self::Capability | Self::CapabilityAgain => "CAPABILITY",
            Self::Login => "LOGIN",
            Self::Authenticate { .. } => "AUTHENTICATE PLAIN",
            Self::Select => "SELECT",
            Self::Search => "UID SEARCH",
            Self::Fetch { .. } => "UID FETCH",
            Self::Store => "UID STORE",
            Self::SearchDeleted => "UID SEARCH DELETED",
            Self::Expunge => "EXPUNGE",
            Self::Logout => "LOGOUT",
        }
    }
}

/// What the server offers, as far as it matters.
#[derive(Clone, Copy, Debug, Default)]
struct Offers {
    login_disabled: bool,
    plain: bool,
    uid_expunge: bool,
}

/// The session.
#[derive(Debug)]
pub struct ImapSession {
    settings: FetchSettings,
    reader: Reader,
    command: Command,
    tag: u32,
    untagged: u32,
    offers: Offers,
    preauthenticated: bool,
    read_only: bool,
    validity: u32,
    waiting: VecDeque<u32>,
    found: Vec<u32>,
    /// Kept whole, to be flagged.
    kept: Vec<u32>,
    /// Flagged, to be expunged.
    flagged: Vec<u32>,
    /// The body that came with the FETCH under way.
    body: Option<(Vec<u8>, bool)>,
    keeping: Option<(u32, bool)>,
    output: BytesMut,
    events: VecDeque<FetchEvent>,
    awaits_tls: bool,
    finishing: bool,
    not_kept: bool,
    closed: bool,
    refusals: u32,
    begun: u32,
    wanted: u32,
    end: FetchEnd,
    since: Timestamp,
    block: usize,
    last_begin: Timestamp,
    last_moment: Timestamp,
}

impl ImapSession {
    /// A session over a connection that was made at `now`, under TLS already where the settings ask
    /// for [`Protection::Tls`].
    #[must_use]
    pub fn new(settings: FetchSettings, now: Timestamp) -> Self {
        Self {
            reader: Reader::new(settings.message_octets.saturating_add(1), settings.endless()),
            last_begin: now + settings.session_time,
            last_moment: settings.last_moment(now),
            settings,
            command: Command::Greeting,
            tag: 0,
            untagged: 0,
            offers: Offers::default(),
            preauthenticated: false,
            read_only: false,
            validity: 0,
            waiting: VecDeque::new(),
            found: Vec::new(),
            kept: Vec::new(),
            flagged: Vec::new(),
            body: None,
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

    // ---- responses -----------------------------------------------------------------------

    fn respond(&mut self, now: Timestamp, response: Response) {
        self.since = now;
        let first = response.first_word().to_vec();
        match first.as_slice() {
            b"*" => {
                self.untagged += 1;
                if self.untagged > MOST_UNTAGGED {
                    return self.close(FetchCause::Broken("responses without end"));
                }
                self.untagged_response(response);
            }
            b"+" => self.continuation(),
            tag if tag == self.tag_text().as_bytes() && self.command != Command::Greeting => {
                self.untagged = 0;
                let (status, rest) = response.status();
                match status.to_ascii_uppercase().as_slice() {
                    b"OK" => self.agreed(now, &rest),
                    b"NO" | b"BAD" => self.refused(now, &rest),
                    _ => self.close(FetchCause::Broken("an answer that is not OK, NO or BAD")),
                }
            }
            _ => self.close(FetchCause::Broken("a response with a tag that is not ours")),
        }
    }

    fn untagged_response(&mut self, mut response: Response) {
        let (kind, rest) = response.status();
        let kind = kind.to_ascii_uppercase();
        match kind.as_slice() {
            b"OK" | b"PREAUTH" if self.command == Command::Greeting => {
                self.preauthenticated = kind == b"PREAUTH";
                self.greeted();
            }
            b"BYE" => match self.command {
                // The answer to LOGOUT follows.
                Command::Logout => {}
                _ => {
                    self.close(FetchCause::Refused { what: self.command.name(), said: said(&rest) })
                }
            },
            b"OK" => {
                if let Some(value) = response::code_value(&rest, b"UIDVALIDITY") {
                    self.validity = u32::try_from(value).unwrap_or(0);
                }
            }
            b"CAPABILITY" => self.read_capabilities(&rest),
            b"SEARCH" => {
                for word in rest.split(|octet| *octet == b' ') {
                    let number =
                        response::number(word).and_then(|number| u32::try_from(number).ok());
                    if let Some(number) = number.filter(|number| *number > 0)
                        && self.found.len() as u64 <= MOST_LISTED
                    {
                        self.found.push(number);
                    }
                }
            }
            _ => {
                let Some(number) = response::number(&kind) else { return };
                let word = rest.split(|octet| *octet == b' ').next().unwrap_or_default();
                if word.eq_ignore_ascii_case(b"EXISTS") && self.command == Command::Select {
                    self.end.held = number;
                } else if word.eq_ignore_ascii_case(b"FETCH")
                    && let Command::Fetch { uid } = self.command
                    && let Some((found, octets, whole)) = response.body()
                    && found == uid
                {
                    self.body = Some((octets, whole));
                }
            }
        }
    }

    fn read_capabilities(&mut self, words: &[u8]) {
        let mut offers = Offers::default();
        for word in words.split(|octet| *octet == b' ') {
            match word.to_ascii_uppercase().as_slice() {
                b"LOGINDISABLED" => offers.login_disabled = true,
                b"AUTH=PLAIN" => offers.plain = true,
                // IMAP4rev2 has it within (RFC 9051, appendix E).
                b"UIDPLUS" | b"IMAP4REV2" => offers.uid_expunge = true,
                _ => {}
            }
        }
        self.offers = offers;
    }

    fn greeted(&mut self) {
        match (self.settings.protection, self.preauthenticated) {
            // RFC 9051, 11.3: somebody in between may have logged us in to keep TLS away.
            (Protection::StartTls, true) => {
                self.close(FetchCause::NoTls("it began with PREAUTH".into()));
            }
            (Protection::StartTls, false) => self.say(Command::StartTls, "STARTTLS"),
            _ => self.say(Command::Capability, "CAPABILITY"),
        }
    }

    fn continuation(&mut self) {
        let Command::Authenticate { answered: answered @ false } = &mut self.command else {
            return self.close(FetchCause::Broken("a continuation that nobody asked for"));
        };
        *answered = true;
        let plain = format!("\0{}\0{}", self.settings.user, self.settings.password);
        let line = BASE64_STANDARD.encode(plain);
        self.output.extend_from_slice(line.as_bytes());
        self.output.extend_from_slice(b"\r\n");
    }

    /// The server has carried the command out.
    fn agreed(&mut self, now: Timestamp, rest: &[u8]) {
        match self.command.clone() {
            Command::Greeting => {}
            Command::StartTls => {
                self.awaits_tls = true;
                self.events.push_back(FetchEvent::StartTls);
            }
            Command::Capability if self.preauthenticated => self.select(),
            Command::Capability => self.log_in(),
            Command::Login | Command::Authenticate { .. } => {
                self.say(Command::CapabilityAgain, "CAPABILITY");
            }
            Command::CapabilityAgain => self.select(),
            Command::Select => {
                self.read_only = response::has_code(rest, b"READ-ONLY");
                self.selected();
            }
            Command::Search => {
                let mut found = core::mem::take(&mut self.found);
                found.sort_unstable();
                found.dedup();
                self.waiting = found.into();
                self.go_on(now);
            }
            Command::Fetch { uid } => {
                // Without a body somebody else has removed it in the meantime.
                let Some((octets, complete)) = self.body.take() else { return self.go_on(now) };
                let whole = complete && octets.len() <= self.settings.message_octets;
                let mut octets = octets;
                octets.truncate(self.settings.message_octets);
                self.keeping = Some((uid, whole));
                let identity = self.identity(uid);
                let message = FetchedMessage { identity, octets, whole };
                self.events.push_back(FetchEvent::Message(message));
            }
            Command::Store => {
                self.flagged = core::mem::take(&mut self.kept);
                if self.offers.uid_expunge {
                    let set = set(&self.flagged);
                    self.say(Command::Expunge, &format!("UID EXPUNGE {set}"));
                } else {
                    self.say(Command::SearchDeleted, "UID SEARCH DELETED");
                }
            }
            Command::SearchDeleted => {
                let found = core::mem::take(&mut self.found);
                if found.iter().all(|uid| self.flagged.contains(uid)) {
                    self.say(Command::Expunge, "EXPUNGE");
                } else {
                    // They are flagged and not looked at again; whoever flagged the others expunges.
                    self.end.deleted += self.take_flagged();
                    self.go_on(now);
                }
            }
            Command::Expunge => {
                self.end.deleted += self.take_flagged();
                self.go_on(now);
            }
            Command::Logout => {
                let cause = if self.not_kept { FetchCause::NotKept } else { FetchCause::Finished };
                self.close(cause);
            }
        }
    }

    /// The server refuses the command.
    fn refused(&mut self, now: Timestamp, rest: &[u8]) {
        let said = said(rest);
        match self.command.clone() {
            Command::StartTls => self.close(FetchCause::NoTls(said)),
            Command::Login | Command::Authenticate { .. } => {
                // RFC 5530: what passes by itself is no fault of name and password.
                let passing = [&b"UNAVAILABLE"[..], b"INUSE", b"LIMIT"];
                let passes = passing.iter().any(|code| response::has_code(rest, code));
                self.close(if passes {
                    FetchCause::Refused { what: "the login for now", said }
                } else {
                    FetchCause::LoginRefused(said)
                });
            }
            Command::Fetch { .. } => {
                self.body = None;
                self.end.refused += 1;
                self.refusals += 1;
                if self.refusals >= MOST_REFUSALS {
                    self.finishing = true;
                }
                self.go_on(now);
            }
            Command::CapabilityAgain => self.select(),
            Command::Logout => self.close(FetchCause::Finished),
            other => self.close(FetchCause::Refused { what: other.name(), said }),
        }
    }

    // ---- commands ------------------------------------------------------------------------

    fn tag_text(&self) -> String {
        format!("m{}", self.tag)
    }

    fn say(&mut self, command: Command, words: &str) {
        self.tag += 1;
        self.untagged = 0;
        self.found = Vec::new();
        let line = format!("{} {words}\r\n", self.tag_text());
        self.output.extend_from_slice(line.as_bytes());
        self.command = command;
    }

    fn log_in(&mut self) {
        let user = quoted(&self.settings.user);
        let password = quoted(&self.settings.password);
        match (user, password) {
            (Some(user), Some(password)) if !self.offers.login_disabled => {
                self.say(Command::Login, &format!("LOGIN {user} {password}"));
            }
            _ if self.offers.plain && !self.settings.user.contains('\0') => {
                self.say(Command::Authenticate { answered: false }, "AUTHENTICATE PLAIN");
            }
            _ => {
                let why = "it offers no login that name and password can be said with";
                self.close(FetchCause::LoginRefused(why.into()));
            }
        }
    }

    fn select(&mut self) {
        match quoted(&self.settings.folder) {
            Some(folder) => self.say(Command::Select, &format!("SELECT {folder}")),
            None => self.close(FetchCause::Refused {
                what: "SELECT",
                said: "the folder's name has a character that cannot be said".into(),
            }),
        }
    }

    fn selected(&mut self) {
        if self.settings.messages == 0 || self.end.held == 0 {
            return self.say(Command::Logout, "LOGOUT");
        }
        if self.read_only {
            return self.close(FetchCause::Refused {
                what: "SELECT",
                said: "the mailbox is read-only: nothing could be deleted".into(),
            });
        }
        let last = self.end.held.min(MOST_LISTED);
        self.say(Command::Search, &format!("UID SEARCH 1:{last} UNDELETED"));
    }

    fn identity(&self, uid: u32) -> Box<str> {
        format!("{}/{uid}", self.validity).into()
    }

    /// The next message, or what is to be done between messages, or the end.
    fn go_on(&mut self, now: Timestamp) {
        let enough =
            self.finishing || self.begun >= self.settings.messages || now >= self.last_begin;
        let mut next = None;
        while !enough && next.is_none() {
            let Some(uid) = self.waiting.pop_front() else { break };
            next = Some(uid).filter(|uid| !self.settings.left.contains(&self.identity(*uid)));
        }
        if self.kept.len() >= BATCH || (next.is_none() && !self.kept.is_empty()) {
            if let Some(uid) = next {
                self.waiting.push_front(uid);
            }
            let set = set(&self.kept);
            return self.say(Command::Store, &format!("UID STORE {set} +FLAGS.SILENT (\\Deleted)"));
        }
        let Some(uid) = next else { return self.say(Command::Logout, "LOGOUT") };
        self.begun += 1;
        self.body = None;
        let octets = self.settings.message_octets.saturating_add(1).min(u32::MAX as usize);
        let words = format!("UID FETCH {uid} (UID BODY.PEEK[]<0.{octets}>)");
        self.say(Command::Fetch { uid }, &words);
    }

    fn take_flagged(&mut self) -> u32 {
        let count = core::mem::take(&mut self.flagged).len();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    fn close(&mut self, cause: FetchCause) {
        if self.closed {
            return;
        }
        self.closed = true;
        if let (Command::Fetch { uid }, None) = (&self.command, &self.keeping) {
            self.end.during = Some(self.identity(*uid));
        }
        self.end.cause = cause;
        self.end.unconfirmed = self.wanted.saturating_sub(self.end.deleted);
        self.body = None;
        self.waiting = VecDeque::new();
        self.events.push_back(FetchEvent::Closed(self.end.clone()));
    }
}

impl MailboxSession for ImapSession {
    fn receive(&mut self, now: Timestamp, octets: &[u8]) {
        let mut rest = octets;
        while !rest.is_empty() && !self.closed {
            if self.awaits_tls {
                let why = "octets in clear behind the answer to STARTTLS";
                return self.close(FetchCause::Broken(why));
            }
            match self.reader.read(&mut rest) {
                Ok(Taken::Response(response)) => {
                    self.block = 0;
                    self.respond(now, response);
                }
                Ok(Taken::All) => {
                    self.block += octets.len();
                    if self.block >= BLOCK {
                        self.block = 0;
                        self.since = now;
                    }
                }
                Err(why) => return self.close(FetchCause::Broken(why)),
            }
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
            self.say(Command::Capability, "CAPABILITY");
        }
    }

    fn message_kept(&mut self, now: Timestamp, kept: bool) {
        let Some((uid, whole)) = self.keeping.take() else { return };
        if self.closed {
            return;
        }
        self.since = now;
        if !kept {
            self.not_kept = true;
            self.finishing = true;
            return self.go_on(now);
        }
        self.end.fetched += 1;
        if whole {
            self.wanted += 1;
            self.kept.push(uid);
        } else {
            let identity = self.identity(uid);
            self.end.cut.push(identity);
        }
        self.go_on(now);
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

/// A quoted string (RFC 9051, 4.3); `None`: the text cannot be one.
fn quoted(text: &str) -> Option<String> {
    if !text.bytes().all(|octet| (b' '..=b'~').contains(&octet)) || text.is_empty() {
        return None;
    }
    Some(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")))
}

/// Numbers as a sequence set, runs joined: `1:3,7`.
fn set(numbers: &[u32]) -> String {
    let mut numbers = numbers.to_vec();
    numbers.sort_unstable();
    let mut text = String::new();
    let mut from = 0;
    while let Some(&first) = numbers.get(from) {
        let run =
            numbers[from..].iter().zip(first..=u32::MAX).take_while(|(a, b)| **a == *b).count();
        let comma = if text.is_empty() { "" } else { "," };
        text.push_str(&match run {
            0 | 1 => format!("{comma}{first}"),
            _ => format!("{comma}{first}:{}", numbers[from + run - 1]),
        });
        from += run.max(1);
    }
    text
}
