//! The multipliers of the five levels and the caps over all of them, as data.
//!
//! ```toml
//! schema_version = 1
//! most_connections = 100
//!
//! [slow]
//! messages_per_hour = 10        # hundredths of the rule's figure
//! max_connections = 33
//! messages_per_connection_most = 10
//! ```
//!
//! A level that is absent is as shipped. Normal is 100 by definition and cannot be stated.

use serde::{Deserialize, Serialize};

use super::fault::BundleFault;
use super::manifest::Kind;
use crate::diagnostic::Diagnostic;
use crate::figure::Figure;
use crate::level::{Level, MOST_CONNECTIONS, SLOW_MESSAGES_PER_CONNECTION};

/// The largest factor, in hundredths.
const LARGEST_FACTOR: u64 = 2_000;
/// Connections that a file may allow to every source and provider.
const MOST_CONNECTIONS_STATED: u64 = 1_000;

/// How one level changes the figures of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LevelFactors {
    /// Hundredths of the messages per hour, 1 to 2,000.
    pub messages_per_hour: u64,
    /// Hundredths of the connections, 1 to 2,000.
    pub max_connections: u64,
    /// Messages per connection, at most. Absent: as the rule says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages_per_connection_most: Option<u64>,
}

/// The factors of all levels, and the cap over them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LevelFigures {
    /// 1.
    pub schema_version: u64,
    /// Connections per source and provider that no level passes, 1 to 1,000.
    pub most_connections: u64,
    /// For a new or damaged IP; never above 100.
    #[serde(default = "slow")]
    pub slow: LevelFactors,
    /// For a good IP.
    #[serde(default = "fast")]
    pub fast: LevelFactors,
    /// For a very good IP.
    #[serde(rename = "very-fast", default = "very_fast")]
    pub very_fast: LevelFactors,
    /// For a limited time.
    #[serde(default = "boost")]
    pub boost: LevelFactors,
}

/// What is shipped for a level.
fn shipped(level: Level) -> LevelFactors {
    LevelFactors {
        messages_per_hour: level.hundredths(Figure::MessagesPerHour),
        max_connections: level.hundredths(Figure::MaxConnections),
        messages_per_connection_most: (level == Level::Slow)
            .then_some(SLOW_MESSAGES_PER_CONNECTION),
    }
}

fn slow() -> LevelFactors {
    shipped(Level::Slow)
}

fn fast() -> LevelFactors {
    shipped(Level::Fast)
}

fn very_fast() -> LevelFactors {
    shipped(Level::VeryFast)
}

fn boost() -> LevelFactors {
    shipped(Level::Boost)
}

impl Default for LevelFigures {
    /// What is shipped with the program.
    fn default() -> Self {
        Self {
            schema_version: 1,
            most_connections: MOST_CONNECTIONS,
            slow: slow(),
            fast: fast(),
            very_fast: very_fast(),
            boost: boost(),
        }
    }
}

impl LevelFigures {
    /// Reads a file. `file_name` is used in messages only.
    ///
    /// # Errors
    /// It is not TOML, has unknown keys, or figures out of their range or order.
    pub fn parse(file_name: &str, text: &str) -> Result<Self, Vec<Diagnostic>> {
        let whole = || 0..text.len().min(1);
        let figures: Self = toml::from_str(text).map_err(|fault| {
            let at = fault.span().unwrap_or_else(whole);
            vec![Diagnostic::in_text(file_name, text, at, fault.message(), "")]
        })?;
        match figures.fault() {
            None => Ok(figures),
            Some(message) => {
                let help = "slow <= normal (100) <= fast <= very-fast <= boost";
                Err(vec![Diagnostic::in_text(file_name, text, whole(), message, help)])
            }
        }
    }

    /// What is wrong with the figures.
    fn fault(&self) -> Option<String> {
        if self.schema_version != 1 {
            return Some(format!("levels of schema version {} are not known", self.schema_version));
        }
        if !(1..=MOST_CONNECTIONS_STATED).contains(&self.most_connections) {
            return Some(format!(
                "`most_connections` is not within 1 to {MOST_CONNECTIONS_STATED}"
            ));
        }
        let normal = LevelFactors {
            messages_per_hour: 100,
            max_connections: 100,
            messages_per_connection_most: None,
        };
        let all = [self.slow, normal, self.fast, self.very_fast, self.boost];
        let in_range = |factor: u64| (1..=LARGEST_FACTOR).contains(&factor);
        let most = |factors: &LevelFactors| factors.messages_per_connection_most != Some(0);
        if !all.iter().all(|level| {
            in_range(level.messages_per_hour) && in_range(level.max_connections) && most(level)
        }) {
            return Some(format!("a factor is not within 1 to {LARGEST_FACTOR}, or a cap is 0"));
        }
        let ascends = all.is_sorted_by(|one, next| {
            one.messages_per_hour <= next.messages_per_hour
                && one.max_connections <= next.max_connections
        });
        (!ascends).then(|| "a level has a higher figure than the one above it".to_owned())
    }

    /// The text of a section.
    #[must_use]
    pub fn to_text(&self) -> String {
        toml::to_string(self).expect("numbers and tables of numbers can be written as TOML")
    }

    /// Reads a section.
    pub(super) fn read(name: &str, text: &str) -> Result<Self, BundleFault> {
        Self::parse(name, text).map_err(|faults| BundleFault::Rules { kind: Kind::Levels, faults })
    }
}
