//! Levels: how hard the shipped figures are pressed.
//!
//! Normal is 1 by definition, so a rule file means what it says. Messages per hour fall tenfold
//! below it and double with every step above. Connections grow with the square root of that,
//! because concurrency is what providers count and refuse first. Messages per connection are never
//! raised: a published 20 is 20 at every level.
//!
//! | level | messages per hour | connections | messages per connection |
//! |---|---|---|---|
//! | slow | × 0.1 | × 0.33 | at most 10 |
//! | normal | × 1 | × 1 | as the rule says |
//! | fast | × 2 | × 1.41 | as the rule says |
//! | very-fast | × 4 | × 2 | as the rule says |
//! | boost | × 8 | × 2.83 | as the rule says |
//! | custom | as the rule says | as the rule says | as the rule says |
//!
//! Everything is rounded down, and never below 1.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::figure::Figure;

/// Messages per connection at [`Level::Slow`], at most.
pub(crate) const SLOW_MESSAGES_PER_CONNECTION: u64 = 10;

/// Connections per source and provider that no level passes, whatever the rule says. It does not
/// hold at [`Level::Custom`], where the operator answers for the figures, and not for rules of scope
/// `rule`, whose one budget serves many sources.
pub(crate) const MOST_CONNECTIONS: u64 = 100;

/// Which figures the MX rules carry.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// For a new or damaged IP, or after a block. Always allowed.
    Slow,
    /// For an established IP: the figures as written.
    #[default]
    Normal,
    /// For a good IP with 30 days of history.
    Fast,
    /// For a very good IP.
    VeryFast,
    /// For a limited time, for urgent mail.
    Boost,
    /// The operator's own rules: the figures as written, and nobody else changes them.
    Custom,
}

/// A word that is not a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a level is one of slow, normal, fast, very-fast, boost and custom")]
pub struct UnknownLevel;

impl Level {
    /// Every level, from slow to custom.
    pub const ALL: [Self; 6] =
        [Self::Slow, Self::Normal, Self::Fast, Self::VeryFast, Self::Boost, Self::Custom];

    /// The word used in files, options and answers.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::Normal => "normal",
            Self::Fast => "fast",
            Self::VeryFast => "very-fast",
            Self::Boost => "boost",
            Self::Custom => "custom",
        }
    }

    /// The level so many steps below, never below [`Level::Slow`]. Below [`Level::Custom`] is Slow.
    #[must_use]
    pub fn below(self, steps: u8) -> Self {
        let place = match self {
            Self::Custom => Self::Normal as usize,
            other => other as usize,
        };
        Self::ALL[if steps == 0 { self as usize } else { place.saturating_sub(usize::from(steps)) }]
    }

    /// The shipped factor on `figure`, in hundredths; 100: as written.
    pub(crate) const fn hundredths(self, figure: Figure) -> u64 {
        match (figure, self) {
            (Figure::MaxConnections, Self::Slow) => 33,
            (Figure::MaxConnections, Self::Fast) => 141,
            (Figure::MaxConnections, Self::VeryFast) => 200,
            (Figure::MaxConnections, Self::Boost) => 283,
            (Figure::MessagesPerHour, Self::Slow) => 10,
            (Figure::MessagesPerHour, Self::Fast) => 200,
            (Figure::MessagesPerHour, Self::VeryFast) => 400,
            (Figure::MessagesPerHour, Self::Boost) => 800,
            _ => 100,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.word())
    }
}

impl FromStr for Level {
    type Err = UnknownLevel;

    /// Reads what `Display` writes.
    fn from_str(text: &str) -> Result<Self, UnknownLevel> {
        Self::ALL.into_iter().find(|level| level.word() == text).ok_or(UnknownLevel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_read_back() {
        for level in Level::ALL {
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        for bad in ["", "Slow", "very fast", "veryfast", "turbo"] {
            assert_eq!(bad.parse::<Level>(), Err(UnknownLevel));
        }
    }
}
