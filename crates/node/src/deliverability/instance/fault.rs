//! Why an instance could not be asked, by name.

use std::fmt::Display;
use std::net::IpAddr;
use std::time::Duration;

use super::target::Target;

/// Why there is no answer, or none that can be used. The rules in force stay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchFault {
    /// The name has no address, or it cannot be found out.
    #[error("the address of {host} cannot be found: {why}")]
    NoAddress {
        /// The name.
        host: String,
        /// Why.
        why: String,
    },
    /// The address is none that may be connected to.
    #[error(
        "{host} is at {address}, which is {kind}: it is not connected to; `[deliverability] allow_private` can permit it"
    )]
    Forbidden {
        /// Host and port.
        host: String,
        /// Its address.
        address: IpAddr,
        /// Its kind.
        kind: &'static str,
    },
    /// Nobody takes the connection.
    #[error("cannot connect to {host} at {address}: {why}")]
    Connect {
        /// Host and port.
        host: String,
        /// Its address.
        address: IpAddr,
        /// Why.
        why: String,
    },
    /// The certificate does not fit, or the handshake failed otherwise.
    #[error("no TLS with {host}: {why}")]
    Tls {
        /// The host.
        host: String,
        /// Why.
        why: String,
    },
    /// Something took too long.
    #[error("{what} did not come within {limit:?}")]
    Slow {
        /// What.
        what: &'static str,
        /// The limit.
        limit: Duration,
    },
    /// The answer ended before its end.
    #[error("the answer was cut off; what came is thrown away")]
    CutOff,
    /// The answer is larger than allowed.
    #[error("the answer has more than {most} octets")]
    TooLarge {
        /// Octets that are read.
        most: u64,
    },
    /// A redirection is not followed.
    #[error("{from} leads elsewhere, which is not followed: {why}")]
    Redirection {
        /// Who redirects.
        from: String,
        /// Why it is not followed.
        why: String,
    },
    /// The instance does not know the token, or the client may not.
    #[error(
        "the instance does not know this client (status {status}): {words}; see `[deliverability] token`"
    )]
    NotAdmitted {
        /// 401 or 403.
        status: u16,
        /// Its words.
        words: String,
    },
    /// The instance says no for another reason.
    #[error("the instance answers with status {status}: {words}")]
    Status {
        /// The status.
        status: u16,
        /// Its words.
        words: String,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// The answer is not what the protocol says.
    #[error("the answer is not understood: {0}")]
    Broken(String),
}

impl FetchFault {
    pub(super) fn broken(why: impl Display) -> Self {
        Self::Broken(why.to_string())
    }

    pub(super) fn redirection(from: &Target, why: impl Display) -> Self {
        Self::Redirection { from: from.to_string(), why: why.to_string() }
    }

    pub(super) fn of_http(fault: hyper::Error) -> Self {
        // A closed connection and an end that came too soon are the same thing to whoever waits for the rest.
        let cut = fault.is_incomplete_message() || fault.is_body_write_aborted();
        let source = std::error::Error::source(&fault).map(ToString::to_string);
        let early_end = source.as_deref().is_some_and(|words| words.contains("end of file"));
        if cut || early_end || fault.is_closed() {
            return Self::CutOff;
        }
        match source {
            Some(source) => Self::Broken(format!("{fault}: {source}")),
            None => Self::broken(fault),
        }
    }

    /// The name by which logs, alerts and metrics know the reason; it does not change.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::NoAddress { .. } => "no-address",
            Self::Forbidden { .. } => "forbidden-address",
            Self::Connect { .. } => "cannot-connect",
            Self::Tls { .. } => "no-tls",
            Self::Slow { .. } => "slow",
            Self::CutOff => "cut-off",
            Self::TooLarge { .. } => "answer-too-large",
            Self::Redirection { .. } => "redirection",
            Self::NotAdmitted { .. } => "not-admitted",
            Self::Status { .. } => "status",
            Self::Broken(_) => "not-understood",
        }
    }

    /// How long the instance wants to be left alone.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}
