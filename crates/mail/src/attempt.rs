//! What an attempt led to. Outcomes of mail are data, not errors.
//!
//! Two questions are kept apart: what happened to *one message* ([`Verdict`]), and why a
//! *conversation* ended ([`SessionEnd`]). The second says something about the path, the first about
//! the recipient.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::reply::Reply;

/// How far a conversation had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The TCP connection.
    Connect,
    /// Waiting for the 220.
    Greeting,
    /// EHLO, HELO or LHLO.
    Hello,
    /// STARTTLS and the handshake.
    StartTls,
    /// MAIL FROM.
    MailFrom,
    /// RCPT TO.
    RcptTo,
    /// DATA, up to the 354.
    Data,
    /// The content, up to the answer to the final dot, or BDAT with the content.
    Content,
    /// RSET between messages.
    Reset,
    /// No command outstanding.
    Idle,
    /// QUIT.
    Quit,
}

impl Stage {
    /// The word used in logs and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Greeting => "greeting",
            Self::Hello => "hello",
            Self::StartTls => "starttls",
            Self::MailFrom => "mail-from",
            Self::RcptTo => "rcpt-to",
            Self::Data => "data",
            Self::Content => "content",
            Self::Reset => "reset",
            Self::Idle => "idle",
            Self::Quit => "quit",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// What one attempt at one message led to, as the session saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "verdict")]
pub enum Verdict {
    /// The server took the message: 2yz to the final dot or to BDAT with its end (or, in test mode, to RCPT).
    Sent {
        /// The answer.
        reply: Reply,
    },
    /// The server answered 4yz or 5yz about this message, and the conversation goes on.
    Refused {
        /// The command it answered: MAIL FROM, RCPT TO, DATA or the content.
        stage: Stage,
        /// The answer.
        reply: Reply,
    },
    /// The message cannot be sent over this connection, without asking the server: for example it is larger
    /// than the SIZE offered, or needs SMTPUTF8 that was not offered.
    Unsendable {
        /// Enhanced status code that describes it best, for example `5.3.4`.
        status: crate::reply::EnhancedStatus,
        /// Why, for people.
        why: String,
    },
    /// The final dot (or all that BDAT said) was sent and no answer came: it may have been delivered.
    PossiblyDelivered,
    /// Nothing was asked of the server about this message; it goes back to the window unchanged.
    /// Its token was not used.
    NotTried,
}

/// Why a conversation ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionEnd {
    /// How far it had come.
    pub stage: Stage,
    /// What ended it.
    pub cause: EndCause,
}

/// What ended a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "cause")]
pub enum EndCause {
    /// We said QUIT because the work was done, the limit was reached or we were asked to close.
    Finished,
    /// The server refused the conversation in words: 421 anywhere, 4yz or 5yz to greeting, EHLO,
    /// MAIL FROM and the like.
    Refused {
        /// Its words.
        reply: Reply,
    },
    /// TCP: connection refused.
    ConnectionRefused,
    /// TCP: no route, host or network unreachable, or no answer in time.
    Unreachable {
        /// The operating system's words.
        why: String,
    },
    /// The server did not answer within the rule's time.
    TimedOut,
    /// The server closed or reset the connection without a word.
    Lost {
        /// The operating system's words; empty for an orderly close.
        why: String,
    },
    /// STARTTLS was required and not offered or refused, or the handshake failed.
    TlsFailed {
        /// What failed.
        why: String,
    },
    /// CHUNKING was offered, and BDAT was answered with 500 or 502, or, to an accepted recipient, with 501, 503 or
    /// 504. Without BDAT the server can be talked to.
    ChunkingFailed {
        /// The answer to BDAT.
        reply: Reply,
    },
    /// The server broke the protocol: replies without a command, different codes in one reply, octets
    /// after the 220 of STARTTLS and the like.
    ProtocolBroken {
        /// What it did.
        why: String,
    },
    /// Our side could not: the source address is not on this host, out of descriptors, target forbidden.
    Local {
        /// What failed.
        why: String,
    },
}

impl EndCause {
    /// The reply, when the server ended the conversation in words.
    #[must_use]
    pub fn reply(&self) -> Option<&Reply> {
        match self {
            Self::Refused { reply } => Some(reply),
            _ => None,
        }
    }
}

impl fmt::Display for SessionEnd {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = self.stage;
        match &self.cause {
            EndCause::Finished => out.write_str("finished"),
            EndCause::Refused { reply } => write!(out, "refused at {stage}: {reply}"),
            EndCause::ConnectionRefused => out.write_str("connection refused"),
            EndCause::Unreachable { why } => write!(out, "unreachable: {why}"),
            EndCause::TimedOut => write!(out, "no answer in time at {stage}"),
            EndCause::Lost { why } if why.is_empty() => {
                write!(out, "connection closed by the server at {stage}")
            }
            EndCause::Lost { why } => write!(out, "connection lost at {stage}: {why}"),
            EndCause::TlsFailed { why } => write!(out, "TLS failed: {why}"),
            EndCause::ChunkingFailed { reply } => {
                write!(out, "CHUNKING was offered and BDAT is not known: {reply}")
            }
            EndCause::ProtocolBroken { why } => write!(out, "protocol broken at {stage}: {why}"),
            EndCause::Local { why } => write!(out, "not possible here: {why}"),
        }
    }
}
