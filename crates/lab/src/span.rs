//! Spans of time as people write them in a configuration: `50ms`, `30s`, `10m`, `2h`.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A span of time, written with its unit: `us`, `ms`, `s`, `m`, `h` or `d`. At most ten years.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

const UNITS: [(&str, u64); 6] = [
    ("us", 1),
    ("ms", 1_000),
    ("s", 1_000_000),
    ("m", 60_000_000),
    ("h", 3_600_000_000),
    ("d", 86_400_000_000),
];
const LONGEST_MICROS: u64 = 10 * 365 * 86_400_000_000;

impl Span {
    /// A span of so many milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// A span of so many seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// The span in microseconds.
    #[must_use]
    pub fn as_micros(self) -> u64 {
        u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX)
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let fault = || format!("`{text}` is not a span of time; write for instance 50ms, 30s, 10m");
        let text = text.trim();
        let cut = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(fault)?;
        let number: u64 = text[..cut].parse().map_err(|_| fault())?;
        let unit = text[cut..].trim();
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(fault)?;
        let micros = number
            .checked_mul(*factor)
            .filter(|micros| *micros <= LONGEST_MICROS)
            .ok_or_else(|| format!("`{text}` is longer than ten years"))?;
        Ok(Self(Duration::from_micros(micros)))
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.as_micros();
        let (unit, factor) = UNITS
            .iter()
            .rev()
            .find(|(_, factor)| micros.is_multiple_of(*factor) && micros >= *factor)
            .copied()
            .unwrap_or(("s", 1_000_000));
        write!(f, "{}{unit}", micros / factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_and_print() {
        for (text, micros, printed) in [
            ("50ms", 50_000, "50ms"),
            ("90s", 90_000_000, "90s"),
            ("10 m", 600_000_000, "10m"),
            ("60m", 3_600_000_000, "1h"),
            ("0s", 0, "0s"),
        ] {
            let span = Span::try_from(text.to_owned()).unwrap();
            assert_eq!(span.as_micros(), micros, "{text}");
            assert_eq!(span.to_string(), printed, "{text}");
        }
        for text in ["", "10", "ms", "-1s", "1.5s", "99999999999999999999s", "9999999d", "5 weeks"]
        {
            assert!(Span::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
