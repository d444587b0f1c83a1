//! How a command ends: its exit status and, when it failed, its words.

use std::fmt;
use std::io;
use std::process::ExitCode;

/// What a command answers.
pub type Ended = Result<Outcome, Failure>;

/// A command that was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Exit status 0.
    Fine,
    /// Exit status 1: the answer, already printed, is negative.
    Negative,
}

impl Outcome {
    /// [`Outcome::Fine`] when it holds, else [`Outcome::Negative`].
    #[must_use]
    pub const fn of(good: bool) -> Self {
        if good { Self::Fine } else { Self::Negative }
    }
}

/// A command that was not carried out.
#[derive(Debug)]
pub enum Failure {
    /// Exit status 1: somebody else said no (the node refused, the domain does not exist).
    Refused(String),
    /// Exit status 2: wrong usage or configuration, or the environment failed.
    Environment(String),
    /// Exit status 0: whoever read our output has closed the pipe and wants no more.
    ClosedPipe,
}

impl Failure {
    /// A [`Failure::Environment`] in these words.
    pub fn environment(words: impl Into<String>) -> Self {
        Self::Environment(words.into())
    }

    /// A [`Failure::Refused`] in these words.
    pub fn refused(words: impl Into<String>) -> Self {
        Self::Refused(words.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(words) | Self::Environment(words) => out.write_str(words),
            Self::ClosedPipe => out.write_str("the reader of the output has closed the pipe"),
        }
    }
}

impl From<io::Error> for Failure {
    /// For writing to standard output and to files that the caller has already named.
    fn from(fault: io::Error) -> Self {
        match fault.kind() {
            io::ErrorKind::BrokenPipe => Self::ClosedPipe,
            _ => Self::Environment(fault.to_string()),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(fault: anyhow::Error) -> Self {
        let closed = fault.chain().any(|cause| {
            let cause = cause.downcast_ref::<io::Error>();
            cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
        });
        if closed { Self::ClosedPipe } else { Self::Environment(format!("{fault:#}")) }
    }
}

/// Says what is to be said and gives the exit status.
pub fn finish(ended: Ended) -> ExitCode {
    match ended {
        Ok(Outcome::Fine) | Err(Failure::ClosedPipe) => ExitCode::SUCCESS,
        Ok(Outcome::Negative) => ExitCode::from(1),
        Err(failure) => {
            // Diagnostics begin with their own "error:".
            let words = failure.to_string();
            let prefix = if words.starts_with("error") { "" } else { "mailweir: " };
            crate::output::say(&format!("{prefix}{words}"));
            ExitCode::from(if matches!(failure, Failure::Refused(_)) { 1 } else { 2 })
        }
    }
}
