//! Spans of time as text: a whole number and a unit, `500ms`, `30s`, `10m`, `1h`, `5d`.

use core::time::Duration;

/// A text that is not a span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpanFault {
    /// No number, no unit, a fraction, a sign or anything else that cannot be read.
    #[error("a duration is a whole number and a unit: 500ms, 30s, 10m, 1h or 5d")]
    Form,
    /// More than 10,000 days.
    #[error("the duration is longer than 10000d")]
    TooLong,
}

const DAY_MS: u64 = 86_400_000;
const LONGEST_MS: u64 = 10_000 * DAY_MS;

/// Units from the largest; `show_span` takes the first that divides.
const UNITS: [(&str, u64); 5] =
    [("d", DAY_MS), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads a span of time such as `30s`.
///
/// # Errors
///
/// [`SpanFault`] for any other form, and for more than 10,000 days.
pub fn parse_span(text: &str) -> Result<Duration, SpanFault> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, unit_ms) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(SpanFault::Form)?;
    if number.is_empty() {
        return Err(SpanFault::Form);
    }
    // What does not fit into 64 bits is longer than the longest span.
    let number: u64 = number.parse().map_err(|_| SpanFault::TooLong)?;
    number
        .checked_mul(*unit_ms)
        .filter(|ms| *ms <= LONGEST_MS)
        .map(Duration::from_millis)
        .ok_or(SpanFault::TooLong)
}

/// Writes a span the shortest way that [`parse_span`] reads back. Parts of a millisecond are
/// dropped.
#[must_use]
pub fn show_span(span: Duration) -> String {
    let ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    if ms == 0 {
        return "0s".to_owned();
    }
    UNITS
        .iter()
        .find(|(_, unit_ms)| ms.is_multiple_of(*unit_ms))
        .map_or_else(|| format!("{ms}ms"), |(name, unit_ms)| format!("{}{name}", ms / unit_ms))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_and_refuses() {
        for (text, ms) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("10m", 600_000),
            ("1h", 3_600_000),
            ("5d", 5 * DAY_MS),
        ] {
            assert_eq!(parse_span(text), Ok(Duration::from_millis(ms)), "{text}");
            assert_eq!(show_span(Duration::from_millis(ms)), text);
        }
        for bad in ["", "30", "s", "-1s", "+1s", "1.5s", "1 s", "1h30m", "1S", "１s", " 1s"] {
            assert_eq!(parse_span(bad), Err(SpanFault::Form), "{bad:?}");
        }
        for long in ["10001d", "99999999999999999999999999s", "18446744073709551615d"] {
            assert_eq!(parse_span(long), Err(SpanFault::TooLong), "{long}");
        }
    }

    proptest! {
        #[test]
        fn reads_back(ms in 0..=LONGEST_MS) {
            let span = Duration::from_millis(ms);
            prop_assert_eq!(parse_span(&show_span(span)), Ok(span));
        }
    }
}
