//! Fetching mail out of a mailbox: the words that [`pop3`](crate::pop3) and [`imap`](crate::imap)
//! sessions share.
//!
//! **Promise.** Whatever protocol, a session is driven the same way ([`MailboxSession`]), hands
//! over one whole message at a time, and asks the server to delete a message only after the caller
//! has said that it is kept. A message that was cut is never deleted.
//!
//! **Never in clear by accident.** Where [`Protection::StartTls`] is asked for and the server does
//! not give it, the session ends before name and password are said. Octets in clear behind the
//! answer to the command that begins TLS end it too.
//!
//! **Bounded.** Lines, lists, messages, the time of each reply and of the whole session. What a
//! server says about sizes and counts decides nothing but the order of work.

use core::fmt;
use core::time::Duration;
use std::collections::HashSet;

use bytes::Bytes;
use mail::time::Timestamp;

/// How the conversation is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Not at all: name, password and mail travel in clear.
    Clear,
    /// TLS after STLS (RFC 2595) or STARTTLS (RFC 9051, 6.2.1); it is required.
    StartTls,
    /// TLS from the first octet (RFC 8314).
    Tls,
}

/// What a session is to do.
#[derive(Clone)]
pub struct FetchSettings {
    /// The account.
    pub user: String,
    /// Its password.
    pub password: String,
    /// How the conversation is protected.
    pub protection: Protection,
    /// IMAP only: the mailbox to select, as it is written on the wire. ASCII without controls.
    pub folder: String,
    /// Messages to fetch at most; 0: log in, look and leave.
    pub messages: u32,
    /// No further message is begun after so long.
    pub session_time: Duration,
    /// How long a reply, and each further 1 KiB of a message, may take.
    pub reply_timeout: Duration,
    /// Octets of a message that are kept; what is behind them is cut.
    pub message_octets: usize,
    /// POP3 only: fetch messages whole even when the server says that they are larger than
    /// `message_octets`.
    pub ignore_size: bool,
    /// Identities of messages that are not to be touched.
    pub left: HashSet<Box<str>>,
}

impl fmt::Debug for FetchSettings {
    /// Without the password.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("FetchSettings")
            .field("user", &self.user)
            .field("protection", &self.protection)
            .field("messages", &self.messages)
            .finish_non_exhaustive()
    }
}

impl FetchSettings {
    /// When a session that began at `start` is over, whatever is under way: it has had its time
    /// and the patience of two replies.
    #[must_use]
    pub(crate) fn last_moment(&self, start: Timestamp) -> Timestamp {
        start + self.session_time + self.reply_timeout + self.reply_timeout
    }

    /// From so many octets on a message is taken for endless.
    pub(crate) const fn endless(&self) -> usize {
        self.message_octets.saturating_mul(2).saturating_add(1 << 20)
    }
}

/// A message as the server gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedMessage {
    /// What names it in this mailbox across sessions; empty where the server names nothing.
    pub identity: Box<str>,
    /// Header and body, without dot-stuffing.
    pub octets: Vec<u8>,
    /// Whether that is all of it. What is not whole stays in the mailbox.
    pub whole: bool,
}

/// What a session tells its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchEvent {
    /// Do the handshake, then call `tls_established` or `connection_lost`.
    StartTls,
    /// Make this durable, then call `message_kept`.
    Message(FetchedMessage),
    /// The session is over: write what is left, then end the connection.
    Closed(FetchEnd),
}

/// Why a session is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchCause {
    /// All was done, or as much as was allowed.
    #[error("finished")]
    Finished,
    /// The caller could not keep a message.
    #[error("a message could not be kept here")]
    NotKept,
    /// The server does not accept name and password.
    #[error("the server refuses the login: {0}")]
    LoginRefused(String),
    /// The server does not give the TLS that is asked for.
    #[error("the server does not begin TLS, which is required: {0}")]
    NoTls(String),
    /// The server refuses something else, or is not ready.
    #[error("the server refuses {what}: {said}")]
    Refused {
        /// The command.
        what: &'static str,
        /// Its words.
        said: String,
    },
    /// What came makes no sense, or is larger than anything sensible.
    #[error("the server breaks the protocol: {0}")]
    Broken(&'static str),
    /// The connection is gone.
    #[error("the connection was lost")]
    ConnectionLost,
    /// The server was too slow.
    #[error("the server took too long")]
    TimeOver,
}

/// What became of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchEnd {
    /// Why it is over.
    pub cause: FetchCause,
    /// Messages that the server said to hold at the beginning.
    pub held: u64,
    /// Messages handed over and kept, whole or not.
    pub fetched: u32,
    /// Messages whose deletion the server has confirmed for good.
    pub deleted: u32,
    /// Messages kept here whose deletion was not confirmed: they will come again.
    pub unconfirmed: u32,
    /// Messages that the server would not give.
    pub refused: u32,
    /// Identities of messages that were cut, and so stay in the mailbox.
    pub cut: Vec<Box<str>>,
    /// The message whose content was under way when the session broke.
    pub during: Option<Box<str>>,
}

/// A conversation with a mailbox server, without a socket.
///
/// After every input write all of `next_to_send` and take all events; call `tick` at `deadline`.
pub trait MailboxSession {
    /// Octets came from the server.
    fn receive(&mut self, now: Timestamp, octets: &[u8]);
    /// The next piece to write, if any.
    fn next_to_send(&mut self) -> Option<Bytes>;
    /// The next event, if any.
    fn poll_event(&mut self) -> Option<FetchEvent>;
    /// Answers [`FetchEvent::StartTls`].
    fn tls_established(&mut self, now: Timestamp);
    /// Answers [`FetchEvent::Message`]: whether it is durable. If not, nothing more is fetched.
    fn message_kept(&mut self, now: Timestamp, kept: bool);
    /// Ends the session in order after the message in hand.
    fn finish(&mut self);
    /// The connection is gone.
    fn connection_lost(&mut self);
    /// Does what the time demands; harmless when nothing is due.
    fn tick(&mut self, now: Timestamp);
    /// When `tick` must be called; [`Timestamp::NEVER`] while the caller is asked.
    fn deadline(&self) -> Timestamp;
}

/// The words of a server, fit for a log: one line, no controls, not too long.
pub(crate) fn said(line: &[u8]) -> String {
    mail::reply::escaped(&line[..line.len().min(300)])
}

#[cfg(test)]
pub(crate) mod tests;
