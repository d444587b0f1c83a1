//! The figures of a rule: which there are, what they may be, and where each was written.

use core::fmt;
use core::ops::RangeInclusive;
use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::diagnostic::Place;
use crate::span::show_span;

/// One of the figures that limit a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Connections open at the same time, per budget.
    MaxConnections,
    /// Messages on one connection before it is closed.
    MaxMessagesPerConnection,
    /// Messages (MAIL FROM) in any 3,600 consecutive seconds, per budget.
    MessagesPerHour,
    /// Connections opened in any 60 consecutive seconds, per budget. Not changed by levels.
    ConnectionsPerMinute,
    /// Shortest time between the starts of two connections of one budget, in milliseconds.
    /// Not changed by levels. A cap on it is a floor: no level may state less.
    MinInterval,
}

impl Figure {
    /// Every figure, in the order of a rule file.
    pub const ALL: [Self; 5] = [
        Self::MaxConnections,
        Self::MaxMessagesPerConnection,
        Self::MessagesPerHour,
        Self::ConnectionsPerMinute,
        Self::MinInterval,
    ];

    /// The key in a rule file.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::MaxConnections => "max_connections",
            Self::MaxMessagesPerConnection => "max_messages_per_connection",
            Self::MessagesPerHour => "messages_per_hour",
            Self::ConnectionsPerMinute => "connections_per_minute",
            Self::MinInterval => "min_interval",
        }
    }

    /// The key of the provider's published ceiling, for the figures that have one.
    #[must_use]
    pub const fn published_key(self) -> Option<&'static str> {
        match self {
            Self::MaxConnections => Some("published_max_connections"),
            Self::MaxMessagesPerConnection => Some("published_max_messages_per_connection"),
            Self::MessagesPerHour => Some("published_messages_per_hour"),
            Self::ConnectionsPerMinute | Self::MinInterval => None,
        }
    }

    /// The figure with this key.
    #[must_use]
    pub fn from_key(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|figure| figure.key() == key)
    }

    /// What a rule may state. Above it, a mistake is likelier than a wish.
    #[must_use]
    pub const fn range(self) -> RangeInclusive<u64> {
        match self {
            Self::MaxConnections => 1..=10_000,
            Self::MaxMessagesPerConnection => 1..=1_000_000,
            Self::MessagesPerHour => 1..=100_000_000,
            Self::ConnectionsPerMinute => 1..=100_000,
            Self::MinInterval => 1..=3_600_000,
        }
    }

    /// A value for people: `2,500`, `30s`.
    #[must_use]
    pub fn show(self, value: u64) -> String {
        match self {
            Self::MinInterval => show_span(Duration::from_millis(value)),
            _ => show_number(value),
        }
    }

    /// Whether `value` presses the provider harder than `cap` allows.
    pub(crate) fn passes(self, value: u64, cap: u64) -> bool {
        if self == Self::MinInterval { value < cap } else { value > cap }
    }

    /// The gentler of two values.
    pub(crate) fn gentler(self, one: u64, other: u64) -> u64 {
        if self.passes(one, other) { other } else { one }
    }
}

/// A number for people, with thousands separated: `140,000`.
#[must_use]
pub fn show_number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl fmt::Display for Figure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.key())
    }
}

/// A figure as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stated {
    /// The number; milliseconds for [`Figure::MinInterval`].
    pub value: u64,
    /// Where it stands.
    pub place: Place,
}

/// Some of the five figures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures([Option<Stated>; 5]);

impl Figures {
    /// What was stated for `figure`.
    #[must_use]
    pub fn get(&self, figure: Figure) -> Option<&Stated> {
        self.0[figure as usize].as_ref()
    }

    /// States `figure`.
    pub(crate) fn set(&mut self, figure: Figure, stated: Stated) {
        self.0[figure as usize] = Some(stated);
    }
}
