//! What the caller of a session says and hears: settings, envelopes, events.

use core::time::Duration;

use bytes::Bytes;
use mail::attempt::{SessionEnd, Verdict};
use mail::time::Timestamp;

use super::Extensions;

/// Longest address in octets that is put into a command: local part 64, `@`, domain 255.
pub const LONGEST_ADDRESS: usize = 320;

/// What is done about TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// STARTTLS is never sent.
    Disabled,
    /// STARTTLS is sent where offered; without it mail goes in clear.
    #[default]
    Opportunistic,
    /// Without TLS nothing is sent.
    Required,
}

/// How long each step may take. Counted from the moment the command was queued or the answer to the
/// one before it came, to the whole reply: a server that sends one octet at a time gains nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the connection to the whole greeting.
    pub greeting: Duration,
    /// EHLO, STARTTLS with its handshake, MAIL, RCPT, DATA, RSET.
    pub command: Duration,
    /// For each block of content that the server is to take.
    pub data_block: Duration,
    /// From the final dot, or the last octet behind BDAT, to its answer. A short one makes duplicates.
    pub final_dot: Duration,
    /// For the answer to QUIT; nothing depends on it.
    pub quit: Duration,
    /// How long the conversation waits for a next message before it says QUIT.
    pub idle: Duration,
}

impl Default for Timeouts {
    /// The times of RFC 5321, 4.5.3.2; 5 s for QUIT; one minute without a message.
    fn default() -> Self {
        Self {
            greeting: Duration::from_secs(300),
            command: Duration::from_secs(300),
            data_block: Duration::from_secs(180),
            final_dot: Duration::from_secs(600),
            quit: Duration::from_secs(5),
            idle: Duration::from_secs(60),
        }
    }
}

/// How a conversation is to be held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSettings {
    /// The name given with EHLO: a host name or an address literal.
    pub helo: String,
    /// What is done about TLS.
    pub tls: TlsMode,
    /// LMTP (RFC 2033) instead of SMTP.
    pub lmtp: bool,
    /// The times.
    pub timeouts: Timeouts,
    /// After so many MAIL FROM the session says QUIT; at least 1.
    pub max_messages: u32,
    /// Whether commands may be sent ahead of replies where the server offers it (RFC 2920).
    pub pipelining: bool,
    /// Whether content may be sent with BDAT where the server offers CHUNKING (RFC 3030).
    pub chunking: bool,
}

/// One message for one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The caller's name for it; comes back with [`ClientEvent::Done`].
    pub token: u64,
    /// Return path without brackets; empty for the null sender.
    pub sender: Box<str>,
    /// Recipient without brackets.
    pub recipient: Box<str>,
    /// Header and body with CR LF line ends, not dot-stuffed.
    pub content: Bytes,
    /// Whether an address or a header field is UTF-8, so that SMTPUTF8 is needed.
    pub smtputf8: bool,
    /// Stop after RCPT TO: its 2yz counts as sent, nothing is delivered.
    pub test_only: bool,
    /// At this time and later MAIL FROM must not be written any more.
    pub send_before: Timestamp,
}

/// What the session tells its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientEvent {
    /// Do the TLS handshake, then call `tls_established` or `tls_failed`. Nothing read before it
    /// may be used.
    StartTls,
    /// Messages can go.
    Ready {
        /// Whether the conversation is under TLS.
        tls: bool,
        /// What the server offers.
        extensions: Extensions,
    },
    /// A message is done with.
    Done {
        /// Its envelope's token.
        token: u64,
        /// What happened to it.
        verdict: Verdict,
        /// When its MAIL FROM was queued for writing; `None`: never.
        started_at: Option<Timestamp>,
    },
    /// The conversation is over: close the connection.
    Closed(SessionEnd),
}
