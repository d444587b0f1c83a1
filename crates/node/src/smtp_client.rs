//! SMTP connections: the sockets around [`smtp::client::ClientSession`].
//!
//! **Promise.** One call of [`Connector::carry`] is one connection. It makes the connection from
//! the given source address, holds the conversation, and reports through one channel: at most one
//! [`ReportKind::Ready`], for every message handed over exactly one [`MessageResult`], and last,
//! exactly once, [`ReportKind::Closed`]. Messages that were not begun, also those still in the
//! channel, come back as `NotTried` before it.
//!
//! **How.** Work comes in batches through a bounded channel. A message is prepared (rendered and
//! signed) only when the session wants it, which is one message ahead of the wire. Everything that
//! is ready leaves in one vectored write: the content of one message, its final dot, and the MAIL,
//! RCPT and DATA of the next; or MAIL, RCPT, BDAT and the content of the first. Every await is bounded by the session's deadline, the connection by
//! its own.
//!
//! **Ending it.** Dropping the sender of the work lets everything that was handed over go and then
//! says QUIT. Cancelling `close` carries only the messages in flight to their end. When the session
//! has reached its limit of messages, the channel is closed and what is left comes back at once.
//!
//! **Never:** a connection to a target that [`TargetPolicy`] forbids; a message in clear where TLS
//! is required; an octet that came in clear used after the handshake.

mod conversation;
mod in_doubt;
mod socket;
mod tls;

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::sync::Arc;

use bytes::Bytes;
use mail::attempt::{SessionEnd, Verdict};
use mail::id::ConnectionId;
use mail::time::Timestamp;
use smtp::client::{ClientSettings, Extensions};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use in_doubt::InDoubt;
pub use tls::{TlsClients, TlsFacts};

use crate::config::TargetPolicy;
use conversation::Conversation;

/// One connection to make.
#[derive(Clone, Debug)]
pub struct ConnectPlan {
    /// Its number, for reports.
    pub connection: ConnectionId,
    /// The address to connect from; `None`: the system chooses.
    pub source_address: Option<IpAddr>,
    /// The target.
    pub target: SocketAddr,
    /// The MX host's name: what TLS asks for.
    pub mx_host: String,
    /// Whether the target is a relay that a person wrote into the configuration.
    pub relay: bool,
    /// How long the TCP connection may take.
    pub connect_timeout: Duration,
    /// Whether the certificate must be valid for `mx_host`. Without it any certificate will do: it
    /// protects against listeners, not against impostors, which is what opportunistic TLS means
    /// (RFC 7435).
    pub verify_certificate: bool,
    /// How the conversation is held.
    pub session: ClientSettings,
}

/// A message as it goes over the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Return path without brackets; empty for the null sender.
    pub sender: Box<str>,
    /// Recipient without brackets.
    pub recipient: Box<str>,
    /// Header and body with CR LF line ends, signed, not dot-stuffed.
    pub content: Bytes,
    /// Whether SMTPUTF8 is needed.
    pub smtputf8: bool,
    /// Whether to stop after RCPT TO.
    pub test_only: bool,
}

/// The late work on one message. It runs on the connection's task and must not block on anything
/// but the processor.
pub trait Prepare: Send + 'static {
    /// Renders and signs the message.
    ///
    /// # Errors
    /// Why it cannot be sent; reported as [`MessageFate::PrepareFailed`] or [`MessageFate::PrepareLater`].
    fn prepare(self) -> Result<Prepared, PrepareFault>;
}

/// Why a message cannot be prepared, in words for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrepareFault {
    /// It is the message's fault, or its content's: another try would end the same way.
    Message(String),
    /// It is this machine's fault (its content cannot be read just now): it is tried again later.
    Machine(String),
}

impl From<String> for PrepareFault {
    fn from(why: String) -> Self {
        Self::Message(why)
    }
}

impl<F: FnOnce() -> Result<Prepared, PrepareFault> + Send + 'static> Prepare for F {
    fn prepare(self) -> Result<Prepared, PrepareFault> {
        self()
    }
}

/// A message handed to a connection.
#[derive(Debug)]
pub struct Outgoing<P> {
    /// The caller's name for it.
    pub token: u64,
    /// At this time and later its MAIL FROM must not be written any more.
    pub send_before: Timestamp,
    /// What makes the message.
    pub message: P,
}

/// What became of a message on this connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessageFate {
    /// What the session saw.
    Verdict(Verdict),
    /// It could not be prepared; the server was not asked anything.
    PrepareFailed {
        /// Why, for people.
        why: String,
    },
    /// It could not be prepared for a fault of this machine; the server was not asked anything.
    PrepareLater {
        /// Why, for people.
        why: String,
    },
}

impl From<PrepareFault> for MessageFate {
    fn from(fault: PrepareFault) -> Self {
        match fault {
            PrepareFault::Message(why) => Self::PrepareFailed { why },
            PrepareFault::Machine(why) => Self::PrepareLater { why },
        }
    }
}

/// The one result of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageResult {
    /// The name it was handed over with.
    pub token: u64,
    /// What became of it.
    pub fate: MessageFate,
    /// When its MAIL FROM was queued for writing; `None`: never, so its token is unspent.
    pub started_at: Option<Timestamp>,
    /// When the result was known.
    pub ended_at: Timestamp,
}

/// What a connection reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionReport {
    /// Which connection.
    pub connection: ConnectionId,
    /// What.
    pub kind: ReportKind,
}

/// The kinds of reports of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReportKind {
    /// Messages can go.
    Ready {
        /// The TLS parameters; `None`: in clear.
        tls: Option<TlsFacts>,
        /// What the server offers.
        extensions: Extensions,
    },
    /// These messages are done with; never empty.
    Done(Vec<MessageResult>),
    /// The connection is over. The last report.
    Closed(SessionEnd),
}

/// What all connections of a node share.
///
/// `reports` is not bounded by itself: each report answers a message that was handed over, so the
/// caller bounds it by what it hands over. A bounded channel could make the engine and a connection
/// wait for each other.
#[derive(Debug)]
pub struct Connector<C> {
    /// Where connections may go.
    pub safety: TargetPolicy,
    /// TLS configurations and remembered TLS sessions.
    pub tls: TlsClients,
    /// The node's time.
    pub clock: C,
    /// Where reports go.
    pub reports: mpsc::UnboundedSender<ConnectionReport>,
    /// What a crash would repeat. Whoever takes the reports says what is settled.
    pub in_doubt: Arc<InDoubt>,
}

impl<C: Fn() -> Timestamp + Send + Sync> Connector<C> {
    /// Makes one connection and holds its conversation to the end. Returns after the
    /// [`ReportKind::Closed`] was sent.
    pub async fn carry<P: Prepare>(
        &self,
        plan: ConnectPlan,
        work: mpsc::Receiver<Vec<Outgoing<P>>>,
        close: CancellationToken,
    ) {
        let mut conversation = Conversation::new(self, &plan, work, close.clone());
        let stream = tokio::select! {
            stream = socket::connect(&plan, &self.safety) => stream,
            () = close.cancelled() => Err(mail::attempt::EndCause::Finished),
        };
        let end = match stream {
            Ok(stream) => conversation.hold(stream).await,
            Err(cause) => SessionEnd { stage: mail::attempt::Stage::Connect, cause },
        };
        conversation.give_back_all().await;
        conversation.report(ReportKind::Closed(end));
    }
}

#[cfg(test)]
mod tests;
