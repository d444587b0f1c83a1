//! Waves on the command line: `10%@0`, `5000@30m`.

use std::str::FromStr;
use std::time::Duration;

use serde_json::{Value, json};

/// One wave: how many recipients, and how long after the start it opens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WaveOption {
    size: Size,
    start_after: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Size {
    Count(u64),
    Percent(f64),
}

impl FromStr for WaveOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || {
            format!(
                "{text:?} is no wave: write a share or a count, @, and when: 10%@0, 5000@30m, 90%@2h"
            )
        };
        let (size, start) = text.split_once('@').ok_or_else(form)?;
        let size = match size.strip_suffix('%') {
            Some(percent) => {
                let percent: f64 = percent.parse().map_err(|_| form())?;
                if !(percent > 0.0 && percent <= 100.0) {
                    return Err(format!("the share {size} is not above 0% and at most 100%"));
                }
                Size::Percent(percent)
            }
            None => match size.parse().map_err(|_| form())? {
                0 => return Err("a wave has at least one recipient".to_owned()),
                count => Size::Count(count),
            },
        };
        let start_after = match start {
            "0" => Duration::ZERO,
            span => rules::parse_span(span).map_err(|fault| fault.to_string())?,
        };
        Ok(Self { size, start_after })
    }
}

impl WaveOption {
    /// As the API takes it.
    #[must_use]
    pub fn to_json(self) -> Value {
        let size = match self.size {
            Size::Count(count) => json!({ "count": count }),
            Size::Percent(percent) => json!({ "percent": percent }),
        };
        json!({ "size": size, "start_after": rules::show_span(self.start_after) })
    }
}

/// Whether the waves make sense together.
///
/// # Errors
/// Shares of more than 100 % together, or waves that do not open in their order.
pub fn check(waves: &[WaveOption]) -> Result<(), String> {
    let percent: f64 = waves
        .iter()
        .map(|wave| match wave.size {
            Size::Percent(percent) => percent,
            Size::Count(_) => 0.0,
        })
        .sum();
    if percent > 100.000_001 {
        return Err(format!("the waves are {percent}% together; 100% is all there is"));
    }
    if !waves.is_sorted_by_key(|wave| wave.start_after) {
        return Err("the waves must be given in the order in which they open".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waves_are_read_and_checked() {
        let json = |text: &str| text.parse::<WaveOption>().map(|wave| wave.to_json().to_string());
        assert_eq!(json("10%@0").unwrap(), r#"{"size":{"percent":10.0},"start_after":"0s"}"#);
        assert_eq!(json("5000@90m").unwrap(), r#"{"size":{"count":5000},"start_after":"90m"}"#);
        for bad in ["", "10%", "10%@", "0@1h", "0%@0", "101%@0", "NaN%@0", "-5@0", "1@soon", "@1h"]
        {
            assert!(json(bad).is_err(), "{bad}");
        }
        let waves = |list: &[&str]| {
            check(&list.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>())
        };
        assert!(waves(&["10%@0", "90%@2h"]).is_ok());
        assert!(waves(&["33.3%@0", "33.3%@1h", "33.4%@2h"]).is_ok());
        assert!(waves(&["60%@0", "60%@2h"]).is_err());
        assert!(waves(&["10%@2h", "90%@0"]).is_err());
    }
}
