//! What the caller of a server session says and hears: settings, events, messages.

use core::time::Duration;

use mail::reply::Reply;

/// Who may send through this listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Only authenticated clients: MAIL without AUTH gets 530 5.7.0.
    #[default]
    Authenticated,
    /// Everybody who can connect, AUTH or not: a listener on loopback.
    Everybody,
    /// Everybody, but only to recipients that [`Admission`](super::Admission) knows as ours: the
    /// listener for bounces. AUTH is not offered.
    OwnRecipientsOnly,
}

/// Bounds on what a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerLimits {
    /// Largest message in octets, offered with SIZE; larger ones get 552 5.3.4.
    pub message_octets: u64,
    /// Longest line of a message in octets without CR LF (RFC 5321, 4.5.3.1.6); longer ones get 550
    /// 5.6.0.
    pub text_line_octets: usize,
    /// Whether NUL octets of a message are taken as they are. RFC 5321 forbids them, and no message that is
    /// to be sent on may have them: 550 5.6.11. What is only read, such as bounces, may be as it is.
    pub nul_octets: bool,
    /// Recipients of one message; more get 452 4.5.3.
    pub recipients: usize,
    /// `Received` fields of a message from which on it is taken for looping: 554 5.4.6.
    pub received_fields: usize,
    /// Commands refused with 5yz before the session is ended with 421 4.7.0.
    pub errors: u32,
    /// Commands that lead to no message (NOOP, RSET, VRFY, HELP, EHLO and the like) between two
    /// messages before the session is ended with 421 4.7.0.
    pub idle_commands: u32,
    /// Failed AUTH before the session is ended with 421 4.7.0.
    pub failed_logins: u32,
}

impl Default for ServerLimits {
    /// 50 MiB, lines of 998, 1,000 recipients, 100 `Received`, 20 errors, 1,000 idle commands, 3
    /// logins.
    fn default() -> Self {
        Self {
            message_octets: 50 * 1_024 * 1_024,
            text_line_octets: 998,
            nul_octets: false,
            recipients: 1_000,
            received_fields: 100,
            errors: 20,
            idle_commands: 1_000,
            failed_logins: 3,
        }
    }
}

/// How a listener behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// Our name in the greeting and in the answer to EHLO.
    pub host_name: String,
    /// LMTP (RFC 2033): LHLO, and one answer per recipient after the content.
    pub lmtp: bool,
    /// Whether STARTTLS is offered.
    pub starttls: bool,
    /// Whether MAIL in clear gets 530 5.7.0.
    pub tls_required: bool,
    /// Whether anybody can log in. Otherwise AUTH is not offered, and gets 502.
    pub logins: bool,
    /// Whether AUTH is offered in clear too: only for loopback.
    pub auth_in_clear: bool,
    /// Who may send.
    pub access: Access,
    /// The bounds.
    pub limits: ServerLimits,
    /// How long a command, or a line of AUTH, may take to come whole; at least 5 minutes by RFC
    /// 5321.
    pub command_timeout: Duration,
    /// How long each further block of 1 KiB of a message may take.
    pub data_timeout: Duration,
}

impl Default for ServerSettings {
    /// A submission listener on loopback, without TLS and logins.
    fn default() -> Self {
        Self {
            host_name: "localhost".into(),
            lmtp: false,
            starttls: false,
            tls_required: false,
            logins: false,
            auth_in_clear: false,
            access: Access::Everybody,
            limits: ServerLimits::default(),
            command_timeout: Duration::from_secs(300),
            data_timeout: Duration::from_secs(180),
        }
    }
}

/// A recipient as a client offers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfferedRecipient<'a> {
    /// Who is logged in, if anybody.
    pub user: Option<&'a str>,
    /// Return path; empty: the null sender.
    pub sender: &'a str,
    /// The recipient in its normal form, or `postmaster`.
    pub recipient: &'a str,
}

/// A whole message, to be made durable before it is answered with
/// [`ServerSession::message_result`](super::ServerSession::message_result).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedMessage {
    /// Return path in its normal form; empty: the null sender. With
    /// [`Access::OwnRecipientsOnly`] also what is no mailbox, as given: visible ASCII, up to 254.
    pub sender: String,
    /// Recipients in their normal form, in the order given, repetitions included; at least one.
    pub recipients: Vec<String>,
    /// Header and body: every line ends with CR LF, no bare CR or LF, no NUL unless
    /// [`ServerLimits::nul_octets`] allows it, not dot-stuffed.
    pub content: Vec<u8>,
    /// Whether any octet is above 127.
    pub eight_bit: bool,
    /// Whether the client asked for SMTPUTF8.
    pub smtputf8: bool,
    /// Who was logged in.
    pub user: Option<String>,
    /// The name the client gave with EHLO.
    pub helo: String,
    /// Whether it came under TLS.
    pub tls: bool,
}

/// What the session tells its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerEvent {
    /// The 220 was taken for writing: write it, do the handshake, then call `tls_established` or
    /// `connection_lost`.
    StartTls,
    /// Check this login and answer with `auth_result`.
    Authenticate {
        /// The name.
        user: String,
        /// The password. Never to be logged.
        password: String,
    },
    /// Make this durable and answer with `message_result`.
    Message(Box<ReceivedMessage>),
    /// The session is over: write what is left, then end the connection.
    Closed {
        /// Why, for the log.
        why: &'static str,
    },
}

/// The caller's word on recipients, asked while the client waits. It must not block.
pub trait Admission {
    /// The reply that refuses this recipient, 4yz or 5yz; `None` accepts it.
    fn refuse(&mut self, offered: &OfferedRecipient<'_>) -> Option<Reply>;
}

impl<F: FnMut(&OfferedRecipient<'_>) -> Option<Reply>> Admission for F {
    fn refuse(&mut self, offered: &OfferedRecipient<'_>) -> Option<Reply> {
        self(offered)
    }
}
