//! So many in a time: throttles as the dialects write them, and as our figures.

use core::time::Duration;

/// The longest period that a throttle may have: a year.
const LONGEST_PERIOD: u64 = 366 * 86_400;
/// The largest count that is understood.
const LARGEST_COUNT: u64 = 1_000_000_000_000;

/// So many in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    /// At least 1.
    pub(super) count: u64,
    /// In seconds, at least 1.
    pub(super) period: u64,
}

/// What a throttle says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Throttle {
    /// So many.
    Rate(Rate),
    /// No limit.
    Unlimited,
}

impl Rate {
    /// In an hour, rounded down, at least 1.
    pub(super) fn per_hour(self) -> u64 {
        self.in_seconds(3_600).max(1)
    }

    /// Whether [`Rate::per_hour`] had to round up.
    pub(super) fn is_below_one_an_hour(self) -> bool {
        self.in_seconds(3_600) == 0
    }

    /// In so many seconds, rounded down.
    fn in_seconds(self, seconds: u64) -> u64 {
        let many = u128::from(self.count) * u128::from(seconds) / u128::from(self.period);
        u64::try_from(many).unwrap_or(u64::MAX)
    }

    /// In a minute, rounded down; `None`: fewer than one.
    pub(super) fn per_minute(self) -> Option<u64> {
        Some(self.in_seconds(60)).filter(|many| *many > 0)
    }

    /// The time from one to the next, rounded up to milliseconds.
    pub(super) fn interval(self) -> Duration {
        let ms = (u128::from(self.period) * 1_000).div_ceil(u128::from(self.count));
        Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX))
    }

    /// As people write it: `100/s`, `2,000/10m`.
    pub(super) fn words(self) -> String {
        let unit = match self.period {
            1 => "s".to_owned(),
            60 => "min".to_owned(),
            3_600 => "h".to_owned(),
            86_400 => "day".to_owned(),
            other => crate::show_span(Duration::from_secs(other)),
        };
        format!("{}/{unit}", self.count)
    }
}

/// Reads a throttle of KumoMTA: `100/s`, `1,000/hour`, `local:10/15 min`, with a burst after a comma. The
/// second value: what else it said and we do not have.
pub(super) fn kumomta(text: &str) -> Option<(Rate, Vec<&'static str>)> {
    let mut besides = Vec::new();
    let mut rest = text.trim();
    if let Some(shorter) = rest.strip_prefix("local:") {
        besides.push("`local:` counts on each node alone; here all nodes count together");
        rest = shorter;
    }
    let (count, after) = rest.split_once('/')?;
    let (period, options) = match after.split_once(',') {
        Some((period, options)) => (period, Some(options)),
        None => (after, None),
    };
    if let Some(options) = options {
        let burst = options.trim().strip_prefix("max_burst")?.trim_start().strip_prefix('=')?;
        number(burst)?;
        besides.push("`max_burst` has no counterpart; `pacing` spreads the hour");
    }
    let rate = Rate { count: number(count).filter(|count| *count > 0)?, period: seconds(period)? };
    Some((rate, besides))
}

/// Reads a throttle of PowerMTA: `100/h`, `20/m`, `5/s`, `unlimited`.
pub(super) fn powermta(text: &str) -> Option<Throttle> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("unlimited") {
        return Some(Throttle::Unlimited);
    }
    // Without a period it counts by the hour.
    let (count, period) = text.split_once('/').unwrap_or((text, "h"));
    match number(count)? {
        0 => Some(Throttle::Unlimited),
        count => Some(Throttle::Rate(Rate { count, period: seconds(period)? })),
    }
}

/// A whole number; `,` and `_` between its digits group them.
pub(super) fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    let sound = text.starts_with(|first: char| first.is_ascii_digit())
        && text.ends_with(|last: char| last.is_ascii_digit())
        && text.chars().all(|letter| letter.is_ascii_digit() || letter == ',' || letter == '_');
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    if !sound {
        return None;
    }
    digits.parse().ok().filter(|count| *count <= LARGEST_COUNT)
}

/// A period: `s`, `min`, `hour`, `day`, with or without a number before it.
fn seconds(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (many, unit) = text.split_at(digits);
    let many: u64 = if many.is_empty() { 1 } else { many.parse().ok()? };
    let unit = unit_seconds(unit.trim())?;
    many.checked_mul(unit).filter(|all| (1..=LONGEST_PERIOD).contains(all))
}

fn unit_seconds(unit: &str) -> Option<u64> {
    if unit == "M" {
        // A month in KumoMTA, a minute to some: nobody should guess.
        return None;
    }
    Some(match unit.to_ascii_lowercase().as_str() {
        "s" | "sec" | "secs" | "second" | "seconds" => 1,
        "m" | "min" | "mins" | "minute" | "minutes" => 60,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3_600,
        "d" | "day" | "days" => 86_400,
        "w" | "week" | "weeks" => 7 * 86_400,
        _ => return None,
    })
}

/// A span of several parts with units: `5m`, `4d12h`, `1 hour 30 min`, `10m 30s`, `90` (in `bare` seconds).
pub(super) fn span(text: &str, bare: u64) -> Option<Duration> {
    let mut rest = text.trim();
    if let Ok(seconds) = rest.parse::<u64>() {
        return seconds
            .checked_mul(bare)
            .filter(|all| *all <= LONGEST_PERIOD)
            .map(Duration::from_secs);
    }
    let mut total_ms: u64 = 0;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let many: u64 = rest.get(..digits)?.parse().ok()?;
        rest = rest[digits..].trim_start();
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = &rest[..letters];
        let unit_ms = match unit.to_ascii_lowercase().as_str() {
            "ms" | "msec" | "millis" => 1,
            _ => unit_seconds(unit)?.checked_mul(1_000)?,
        };
        total_ms = total_ms.checked_add(many.checked_mul(unit_ms)?)?;
        rest = rest[letters..].trim_start();
        parts += 1;
        if parts > 8 {
            return None;
        }
    }
    (parts > 0 && total_ms <= LONGEST_PERIOD * 1_000).then(|| Duration::from_millis(total_ms))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn throttles_are_read() {
        for (text, wanted) in [
            ("100/s", Some((100, 1))),
            ("1,000/hour", Some((1_000, 3_600))),
            ("1_000 / hr", Some((1_000, 3_600))),
            ("local:10/15 min", Some((10, 900))),
            ("50/d,max_burst=10", Some((50, 86_400))),
            ("100/s, max_burst = 1", Some((100, 1))),
            ("0/s", None),
            ("100", None),
            ("-1/s", None),
            ("1.5/s", None),
            ("100/fortnight", None),
            ("100/M", None),
            ("100/m", Some((100, 60))),
            ("100/0s", None),
            ("100/s,burst=3", None),
            (",1/s", None),
            ("99999999999999999999/s", None),
            ("1/9999999999999999999999d", None),
            ("", None),
        ] {
            let found = kumomta(text).map(|(rate, _)| (rate.count, rate.period));
            assert_eq!(found, wanted, "{text}");
        }
        for (text, wanted) in [
            ("2000/h", Some(Throttle::Rate(Rate { count: 2_000, period: 3_600 }))),
            ("20/m", Some(Throttle::Rate(Rate { count: 20, period: 60 }))),
            ("Unlimited", Some(Throttle::Unlimited)),
            ("0", Some(Throttle::Unlimited)),
            ("fast", None),
        ] {
            assert_eq!(powermta(text), wanted, "{text}");
        }
    }

    #[test]
    fn spans_are_read() {
        for (text, seconds) in [
            ("10m", 600),
            ("4d12h", 388_800),
            ("1 hour 30 min", 5_400),
            ("90", 90),
            ("5d", 432_000),
        ] {
            assert_eq!(span(text, 1), Some(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(span("250ms", 1), Some(Duration::from_millis(250)));
        assert_eq!(span("2", 3_600), Some(Duration::from_secs(7_200)));
        for bad in ["", "m", "10x", "-5m", "1m -3s", "99999999999999d", "1s1s1s1s1s1s1s1s1s"] {
            assert_eq!(span(bad, 1), None, "{bad}");
        }
    }

    proptest! {
        /// Whatever is written, an hour of ours never holds more than the same time of theirs at a steady
        /// pace, and never less than one.
        #[test]
        fn an_hour_is_rounded_down(
            count in 1_u64..1_000_000,
            many in 1_u64..367,
            unit in 0_usize..4,
            local: bool,
            burst in proptest::option::of(1_u64..100),
        ) {
            let (word, unit_seconds) =
                [("s", 1), ("min", 60), ("hour", 3_600), ("d", 86_400)][unit];
            let local = if local { "local:" } else { "" };
            let burst = burst.map_or_else(String::new, |burst| format!(",max_burst={burst}"));
            let text = format!("{local}{count}/{many}{word}{burst}");
            let (rate, _) = kumomta(&text).expect("a throttle");
            prop_assert_eq!(rate, Rate { count, period: many * unit_seconds });
            let exact = count as f64 * 3_600.0 / (many * unit_seconds) as f64;
            let hour = rate.per_hour();
            prop_assert!(hour == 1 || hour as f64 <= exact + 1e-6);
            prop_assert!(hour as f64 > exact - 1.0 - 1e-6);
            // Between two there is never less time than the rate demands.
            let ms = rate.interval().as_millis() as f64;
            prop_assert!(ms * count as f64 >= (many * unit_seconds) as f64 * 1_000.0 - 1e-6);
        }

        #[test]
        fn nothing_panics(text in ".{0,40}") {
            let _ = (kumomta(&text), powermta(&text), span(&text, 3_600), number(&text));
        }
    }
}
