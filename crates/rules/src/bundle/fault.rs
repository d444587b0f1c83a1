//! Every reason to refuse a bundle, by name.

use core::time::Duration;

use mail::time::Timestamp;

use super::keys::KeyId;
use super::manifest::{ClientVersion, Kind, LONGEST_LEAP};
use crate::diagnostic::Diagnostic;

/// Why a bundle is refused. Whatever it is, nothing changes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleFault {
    /// It has more octets than [`super::LARGEST_BUNDLE`].
    #[error("the bundle has {octets} octets; at most {most} are read")]
    TooLarge {
        /// How many it has, or how many it announces.
        octets: u64,
        /// How many are read.
        most: u64,
    },
    /// It ends before its end.
    #[error("the bundle is cut off: {have} octets of {wanted}; fetch it again")]
    Truncated {
        /// Octets that are there.
        have: u64,
        /// Octets that there should be.
        wanted: u64,
    },
    /// It does not begin as bundles do.
    #[error("this is no bundle: it does not begin with `mailweir-bundle`")]
    NotABundle,
    /// Its schema is not known here.
    #[error(
        "the bundle has schema version {schema}; this program reads version 1: update the program"
    )]
    NewerSchema {
        /// The schema version that it states.
        schema: u64,
    },
    /// The signature is not that of the key over these octets.
    #[error("the signature does not fit: the bundle was changed, or key {key} did not sign it")]
    BadSignature {
        /// The key that is named.
        key: KeyId,
    },
    /// A statement of keys is not signed by the key that it replaces.
    #[error("the statement that replaces key {key} is not signed by it")]
    BadStatement {
        /// The key that is replaced.
        key: KeyId,
    },
    /// The key is not trusted.
    #[error(
        "the bundle is signed by key {key}, which is not trusted; if the instance has a new key, put it into `[deliverability] public_keys`"
    )]
    UnknownKey {
        /// The key that is named.
        key: KeyId,
    },
    /// The key was trusted and has been replaced by another one.
    #[error("the bundle is signed by key {key}, which has been replaced")]
    RetiredKey {
        /// The key that is named.
        key: KeyId,
    },
    /// It is past its end.
    #[error("the bundle of version {version} has expired on {expired}; the clock here says {now}")]
    Expired {
        /// Its version.
        version: u64,
        /// Its end.
        expired: Timestamp,
        /// What the clock here says.
        now: Timestamp,
    },
    /// It was made later than now: the publisher's clock or ours is wrong.
    #[error(
        "the bundle of version {version} was made at {created}, which is still to come: the clock here says {now}, {} behind; correct whichever clock is wrong", span_words(.created.since(*.now))
    )]
    FromTheFuture {
        /// Its version.
        version: u64,
        /// When it says it was made.
        created: Timestamp,
        /// What the clock here says.
        now: Timestamp,
    },
    /// It is older than the one in force.
    #[error(
        "the bundle has version {version}; version {in_force} is in force, and versions only grow"
    )]
    Older {
        /// Its version.
        version: u64,
        /// The version in force.
        in_force: u64,
    },
    /// Its version is far beyond the one in force: taken, it would leave no numbers for those after it.
    #[error(
        "the bundle has version {version}, and version {in_force} is in force: versions grow by at most {LONGEST_LEAP} at once"
    )]
    Leap {
        /// Its version.
        version: u64,
        /// The version in force.
        in_force: u64,
    },
    /// It has the version of the one in force, and is another one.
    #[error(
        "there is another bundle of version {version} in force: the publisher gave one version to two bundles"
    )]
    SameVersion {
        /// The version of both.
        version: u64,
    },
    /// It is for a newer client.
    #[error("the bundle of version {version} is for clients from {wanted} on; this is {have}")]
    NewerClient {
        /// Its version.
        version: u64,
        /// The oldest client that may apply it.
        wanted: ClientVersion,
        /// The version of this client.
        have: ClientVersion,
    },
    /// A part cannot be read.
    #[error("the bundle is malformed: {what}")]
    Malformed {
        /// What is wrong and where.
        what: String,
    },
    /// A section has more than may be read.
    #[error("section {kind} of the bundle is too large: {what}")]
    TooMany {
        /// Which section.
        kind: Kind,
        /// What there is too much of.
        what: String,
    },
    /// A set of rules does not pass its own checks.
    #[error("{kind} of the bundle has {}; the first: {}", faults_words(.faults), first_words(.faults))]
    Rules {
        /// Which section.
        kind: Kind,
        /// Every fault, with its place.
        faults: Vec<Diagnostic>,
    },
    /// A bounce rule takes almost every text, whatever it means.
    #[error(
        "bounce rule `{rule}` of the bundle takes {taken} of {tried} texts of all reasons: it shadows every other rule"
    )]
    ShadowsAll {
        /// The rule.
        rule: Box<str>,
        /// Examples that go to it.
        taken: usize,
        /// Examples that were tried.
        tried: usize,
    },
}

fn faults_words(faults: &[Diagnostic]) -> String {
    match faults.len() {
        1 => "a fault".to_owned(),
        number => format!("{number} faults"),
    }
}

/// A span in its two largest units.
fn span_words(span: Duration) -> String {
    let minutes = span.as_secs() / 60;
    match (minutes / (24 * 60), minutes / 60 % 24, minutes % 60) {
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

fn first_words(faults: &[Diagnostic]) -> String {
    faults.first().map_or_else(String::new, ToString::to_string)
}

impl BundleFault {
    /// A [`BundleFault::Malformed`] in these words.
    pub(super) fn malformed(what: impl Into<String>) -> Self {
        Self::Malformed { what: what.into() }
    }

    /// Whether every client would say the same, so that the bundle itself is to blame. Else it is what this client has: its
    /// clock, its configuration, its program, what it has applied before, or a transfer.
    #[must_use]
    pub const fn blames_bundle(&self) -> bool {
        match self {
            Self::TooLarge { .. }
            | Self::BadSignature { .. }
            | Self::BadStatement { .. }
            | Self::RetiredKey { .. }
            | Self::Malformed { .. }
            | Self::TooMany { .. }
            | Self::Rules { .. }
            | Self::ShadowsAll { .. } => true,
            Self::Truncated { .. }
            | Self::NotABundle
            | Self::NewerSchema { .. }
            | Self::UnknownKey { .. }
            | Self::Expired { .. }
            | Self::FromTheFuture { .. }
            | Self::Older { .. }
            | Self::Leap { .. }
            | Self::SameVersion { .. }
            | Self::NewerClient { .. } => false,
        }
    }

    /// The name by which logs, alerts and statistics know the reason; it does not change.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too-large",
            Self::Truncated { .. } => "truncated",
            Self::NotABundle => "not-a-bundle",
            Self::NewerSchema { .. } => "newer-schema",
            Self::BadSignature { .. } => "bad-signature",
            Self::BadStatement { .. } => "bad-key-statement",
            Self::UnknownKey { .. } => "unknown-key",
            Self::RetiredKey { .. } => "retired-key",
            Self::Expired { .. } => "expired",
            Self::FromTheFuture { .. } => "from-the-future",
            Self::Older { .. } => "older",
            Self::Leap { .. } => "leap",
            Self::SameVersion { .. } => "same-version",
            Self::NewerClient { .. } => "newer-client",
            Self::Malformed { .. } => "malformed",
            Self::TooMany { .. } => "too-many",
            Self::Rules { .. } => "faulty-rules",
            Self::ShadowsAll { .. } => "shadows-all",
        }
    }
}
