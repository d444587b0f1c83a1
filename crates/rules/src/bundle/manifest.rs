//! The second line of a bundle: what it is, and how long its parts are.

use core::fmt;
use core::str::FromStr;
use core::time::Duration;

use mail::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::fault::BundleFault;
use super::keys::{KeyStatement, MOST_STATEMENTS};

/// How far a bundle's beginning may lie ahead: clocks differ.
pub const FUTURE_TOLERANCE: Duration = Duration::from_secs(3_600);

/// The longest time from a bundle's beginning to its end.
pub const LONGEST_LIFE: Duration = Duration::from_secs(400 * 86_400);

/// What a version may be above the one in force: dates and minutes as versions fit in. Whoever has a stolen key could else
/// publish the last version that there is.
pub const LONGEST_LEAP: u64 = 1_000_000_000_000;

/// The largest version of a first bundle: leaps enough are left above it.
const LARGEST_VERSION: u64 = 1 << 62;

/// Characters of the notes.
const LONGEST_NOTES: usize = 2_000;

/// What a section holds. The order is that of the sections in a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// MX rules ([`crate::parse`]): a complete file.
    Mx,
    /// Bounce rules ([`crate::bounce`]).
    Bounce,
    /// Reaction rules.
    Reaction,
    /// Domain rules.
    Domain,
    /// Format rules.
    Format,
    /// Multipliers and caps of the levels ([`super::LevelFigures`]).
    Levels,
    /// Texts with their meaning ([`super::KnownText`]), status Keep.
    Qualification,
    /// Hashed addresses and domains to which nobody writes ([`super::SuppressedEntry`]).
    Suppression,
}

impl Kind {
    /// Every kind, in order.
    pub const ALL: [Self; 8] = [
        Self::Mx,
        Self::Bounce,
        Self::Reaction,
        Self::Domain,
        Self::Format,
        Self::Levels,
        Self::Qualification,
        Self::Suppression,
    ];

    /// The word in manifests, options and answers.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Mx => "mx",
            Self::Bounce => "bounce",
            Self::Reaction => "reaction",
            Self::Domain => "domain",
            Self::Format => "format",
            Self::Levels => "levels",
            Self::Qualification => "qualification",
            Self::Suppression => "suppression",
        }
    }

    /// The name of the file in the folder that a bundle is published from.
    #[must_use]
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Mx => "mx.toml",
            Self::Bounce => "bounce.toml",
            Self::Reaction => "reactions.toml",
            Self::Domain => "domains.toml",
            Self::Format => "formats.toml",
            Self::Levels => "levels.toml",
            Self::Qualification => "qualifications.jsonl",
            Self::Suppression => "suppression.txt",
        }
    }

    /// Whether it is a TOML file of `[[rule]]` tables.
    #[must_use]
    pub const fn is_rules(self) -> bool {
        matches!(self, Self::Mx | Self::Bounce | Self::Reaction | Self::Domain | Self::Format)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.word())
    }
}

/// A version of the program: three numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ClientVersion(pub u32, pub u32, pub u32);

impl fmt::Display for ClientVersion {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl FromStr for ClientVersion {
    type Err = String;

    /// Reads `1.2.3`.
    fn from_str(text: &str) -> Result<Self, String> {
        let fault = || "a version is three numbers, such as 1.2.3".to_owned();
        let mut numbers = text.splitn(3, '.').map(|part| part.parse::<u32>().map_err(|_| fault()));
        let mut next = || numbers.next().unwrap_or_else(|| Err(fault()));
        let version = Self(next()?, next()?, next()?);
        if version.to_string() == text { Ok(version) } else { Err(fault()) }
    }
}

impl TryFrom<String> for ClientVersion {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ClientVersion> for String {
    fn from(version: ClientVersion) -> Self {
        version.to_string()
    }
}

/// A section: what it holds and how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Section {
    /// What it holds.
    pub kind: Kind,
    /// Its octets.
    pub octets: u64,
}

/// The second line of a bundle, as JSON. Unknown fields are faults: a newer format has a newer schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// From 1; every bundle of an instance has a higher one than the bundle before.
    pub version: u64,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// From when on it is not applied any more, in seconds since 1970; at most [`LONGEST_LIFE`] after
    /// `created`. A bundle in force stays so beyond it, with an alert.
    pub expires: u64,
    /// The oldest program that may apply it.
    pub minimum_client: ClientVersion,
    /// Changes of the key, the oldest first.
    pub keys: Vec<KeyStatement>,
    /// The sections in the order of [`Kind::ALL`], each at most once. A kind that is absent stays as it is shipped
    /// with the client.
    pub sections: Vec<Section>,
    /// For people: up to 2,000 characters.
    pub notes: String,
}

/// The bundle that a client has in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InForce {
    /// Its version.
    pub version: u64,
    /// The SHA-256 of its octets.
    pub digest: [u8; 32],
}

/// What a client is asked by [`super::Sealed::admit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may be applied.
    New,
    /// It is the one in force, octet by octet.
    InForce,
}

impl Manifest {
    /// When it was made.
    #[must_use]
    pub const fn created_at(&self) -> Timestamp {
        Timestamp::from_secs(self.created)
    }

    /// From when on it is not applied any more.
    #[must_use]
    pub const fn expires_at(&self) -> Timestamp {
        Timestamp::from_secs(self.expires)
    }

    /// What a manifest may not say.
    pub(super) fn check(&self) -> Result<(), BundleFault> {
        let fault = |what: String| Err(BundleFault::malformed(what));
        if !(1..=LARGEST_VERSION).contains(&self.version) {
            return fault(format!("{} is no version", self.version));
        }
        let life = self.expires.checked_sub(self.created);
        if self.created == 0 || life.is_none_or(|life| life == 0 || life > LONGEST_LIFE.as_secs()) {
            let days = LONGEST_LIFE.as_secs() / 86_400;
            return fault(format!("it must expire after it was made, within {days} days"));
        }
        if self.keys.len() > MOST_STATEMENTS {
            return fault(format!("more than {MOST_STATEMENTS} statements of keys"));
        }
        if self.notes.chars().count() > LONGEST_NOTES
            || self.notes.chars().any(|letter| letter.is_control() && letter != '\n')
        {
            return fault(format!("the notes are not a text of up to {LONGEST_NOTES} characters"));
        }
        if self.sections.is_empty() || !self.sections.is_sorted_by(|one, next| one.kind < next.kind)
        {
            let order = Kind::ALL.map(Kind::word).join(", ");
            return fault(format!("sections stand once and in this order: {order}"));
        }
        Ok(())
    }

    /// Whether a client of this version, with this bundle in force, may apply it now.
    pub(super) fn admit(
        &self,
        digest: &[u8; 32],
        now: Timestamp,
        client: ClientVersion,
        in_force: Option<InForce>,
    ) -> Result<Admission, BundleFault> {
        let version = self.version;
        if let Some(in_force) = in_force {
            if in_force.version > version {
                return Err(BundleFault::Older { version, in_force: in_force.version });
            }
            if version - in_force.version > LONGEST_LEAP {
                return Err(BundleFault::Leap { version, in_force: in_force.version });
            }
            if in_force.version == version {
                let same = in_force.digest == *digest;
                return if same {
                    Ok(Admission::InForce)
                } else {
                    Err(BundleFault::SameVersion { version })
                };
            }
        }
        if self.minimum_client > client {
            let wanted = self.minimum_client;
            return Err(BundleFault::NewerClient { version, wanted, have: client });
        }
        if self.created_at() > now + FUTURE_TOLERANCE {
            return Err(BundleFault::FromTheFuture { version, created: self.created_at(), now });
        }
        if self.expires_at() <= now {
            return Err(BundleFault::Expired { version, expired: self.expires_at(), now });
        }
        Ok(Admission::New)
    }
}
