//! What clients say of bundles: the same words on both sides of the wire.

use serde::{Deserialize, Serialize};

/// How a client fares with a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReportState {
    /// It is in force since now.
    Applied,
    /// It was not put in force.
    Refused,
    /// It was in force and was taken back.
    RolledBack,
    /// Since it is in force an alert was raised that rules can cause.
    Alarm,
    /// It is in force, and no such alert was raised.
    Well,
}

impl ReportState {
    /// Every state.
    pub const ALL: [Self; 5] =
        [Self::Applied, Self::Refused, Self::RolledBack, Self::Alarm, Self::Well];

    /// The word on the wire.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Refused => "refused",
            Self::RolledBack => "rolled-back",
            Self::Alarm => "alarm",
            Self::Well => "well",
        }
    }

    /// The state that this word means; `None`: none.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.word() == word)
    }

    /// Whether it speaks against the bundle.
    #[must_use]
    pub const fn is_bad(self) -> bool {
        matches!(self, Self::Refused | Self::RolledBack | Self::Alarm)
    }

    /// Whether it says that the bundle is in force.
    #[must_use]
    pub const fn is_in_force(self) -> bool {
        matches!(self, Self::Applied | Self::Alarm | Self::Well)
    }
}
