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
    /// Connections per source and provider that no level passes, 1 to 100: a file may lower the cap, none may raise it.
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
        if !(1..=MOST_CONNECTIONS).contains(&self.most_connections) {
            return Some(format!("`most_connections` is not within 1 to {MOST_CONNECTIONS}"));
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

    /// The factors of a level; `None`: its figures are as written.
    const fn factors(&self, level: Level) -> Option<&LevelFactors> {
        match level {
            Level::Slow => Some(&self.slow),
            Level::Normal | Level::Custom => None,
            Level::Fast => Some(&self.fast),
            Level::VeryFast => Some(&self.very_fast),
            Level::Boost => Some(&self.boost),
        }
    }

    /// The factor on a figure at a level, in hundredths; 100: as written.
    pub(crate) fn hundredths(&self, level: Level, figure: Figure) -> u64 {
        match (self.factors(level), figure) {
            (Some(factors), Figure::MaxConnections) => factors.max_connections,
            (Some(factors), Figure::MessagesPerHour) => factors.messages_per_hour,
            _ => 100,
        }
    }

    /// The messages per connection that a level allows at most; `None`: as the rule says.
    pub(crate) fn messages_per_connection_most(&self, level: Level) -> Option<u64> {
        self.factors(level)?.messages_per_connection_most
    }

    /// A written figure at a level, before hard caps: rounded down, at least 1.
    pub(crate) fn scale(&self, level: Level, figure: Figure, written: u64) -> u64 {
        let most = self.messages_per_connection_most(level);
        let scaled = match (figure, most) {
            (Figure::MaxMessagesPerConnection, Some(most)) => written.min(most),
            _ => written.saturating_mul(self.hundredths(level, figure)) / 100,
        };
        scaled.max(1)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multipliers_round_down_and_never_reach_zero() {
        let scaled = |figure, written| {
            Level::ALL.map(|level| LevelFigures::default().scale(level, figure, written))
        };
        assert_eq!(scaled(Figure::MaxConnections, 10), [3, 10, 14, 20, 28, 10]);
        assert_eq!(scaled(Figure::MaxConnections, 5), [1, 5, 7, 10, 14, 5]);
        assert_eq!(scaled(Figure::MaxConnections, 1), [1, 1, 1, 2, 2, 1]);
        assert_eq!(
            scaled(Figure::MessagesPerHour, 2_500),
            [250, 2_500, 5_000, 10_000, 20_000, 2_500]
        );
        assert_eq!(scaled(Figure::MessagesPerHour, 9), [1, 9, 18, 36, 72, 9]);
        assert_eq!(scaled(Figure::MaxMessagesPerConnection, 50), [10, 50, 50, 50, 50, 50]);
        assert_eq!(scaled(Figure::MaxMessagesPerConnection, 5), [5; 6]);
        assert_eq!(scaled(Figure::ConnectionsPerMinute, 100), [100; 6]);
    }

    /// No file raises the cap that no level passes.
    #[test]
    fn the_cap_on_connections_can_only_be_lowered() {
        let read = |most: u64| {
            let text = format!("schema_version = 1\nmost_connections = {most}\n");
            LevelFigures::parse("levels.toml", &text)
        };
        assert_eq!([1, 100].map(|most| read(most).unwrap().most_connections), [1, 100]);
        for most in [0, 101, 1_000] {
            let faults = read(most).unwrap_err();
            assert_eq!(faults[0].message, "`most_connections` is not within 1 to 100");
        }
    }

    /// What a bundle states of levels is what its rules are multiplied and held by.
    #[test]
    fn other_figures_make_other_limits() {
        use crate::{Levels, RuleFile, RuleSet, parse};
        let text = "schema_version = 1\n[[rule]]\nname = \"generic\"\nmask = \"*\"\n\
                    max_connections = 60\nmax_messages_per_connection = 50\n\
                    messages_per_hour = 1000\n";
        let figures = LevelFigures::parse(
            "levels.toml",
            "schema_version = 1\nmost_connections = 90\n[slow]\nmessages_per_hour = 50\n\
             max_connections = 50\nmessages_per_connection_most = 7\n[fast]\n\
             messages_per_hour = 300\nmax_connections = 100\n[very-fast]\n\
             messages_per_hour = 300\nmax_connections = 200\n[boost]\n\
             messages_per_hour = 900\nmax_connections = 400\n",
        )
        .unwrap();
        let file = parse("mx.toml", text.as_bytes()).unwrap().with_level_figures(figures);
        // The operator's own rules are under the same levels.
        let file = RuleFile::combine(Some(&file), &file);
        let set = RuleSet::compile(&file, &Levels::default(), 1);
        let row = |figure: Figure| {
            let columns = set.columns(set.generic_id());
            let row = columns.iter().find(|row| row.figure == figure).unwrap();
            row.levels.iter().map(|one| one.value).collect::<Vec<_>>()
        };
        assert_eq!(row(Figure::MessagesPerHour), [500, 1_000, 3_000, 3_000, 9_000, 1_000]);
        assert_eq!(row(Figure::MaxConnections), [30, 60, 60, 90, 90, 60]);
        assert_eq!(row(Figure::MaxMessagesPerConnection), [7, 50, 50, 50, 50, 50]);
        let slow = RuleSet::compile(&file, &Levels::all(Level::Slow), 1);
        let limits = slow.limits(slow.generic_id(), mail::id::SourceId(1));
        assert_eq!((limits.messages_per_hour, limits.max_connections), (500, 30));
        let why = slow.explain("mx.example", mail::id::SourceId(1)).to_string();
        assert!(why.contains("× 0.5 at level slow") && why.contains("at most 7 at level"), "{why}");
    }
}
