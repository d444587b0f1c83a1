//! Numbers that name things, each of its own type so that they cannot be confused.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

/// Declares a number with a one-letter prefix for people: `d12`, `m345`.
macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $number:ty, $prefix:literal) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $number);

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, concat!($prefix, "{}"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = UnknownIdentifier;

            /// Reads what `Display` writes.
            fn from_str(text: &str) -> Result<Self, UnknownIdentifier> {
                text.strip_prefix($prefix)
                    .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
                    .and_then(|digits| digits.parse().ok())
                    .map(Self)
                    .ok_or(UnknownIdentifier { expected: concat!($prefix, "<number>") })
            }
        }
    };
}

/// A text that is not an identifier of the kind asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}")]
pub struct UnknownIdentifier {
    /// The form that would have been read.
    pub expected: &'static str,
}

identifier!(
    /// One mailing: content, recipients and options. Shown as `d12`.
    DeliveryId, u64, "d"
);
identifier!(
    /// One recipient's copy of a delivery. Numbers grow in the order of acceptance. Shown as `m345`.
    MessageId, u64, "m"
);
identifier!(
    /// The `public_id` of a source: one public IP, one HELO name. Shown as `s1`.
    SourceId, u32, "s"
);
identifier!(
    /// One SMTP connection of this process, counted from its start. Shown as `c7`.
    ConnectionId, u64, "c"
);

/// How urgent a delivery is. A lower one never goes before a higher one on the same MX group while
/// the higher one has mail that may go.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Transactional mail: a person waits for it.
    High,
    /// Ordinary mailings.
    #[default]
    Normal,
    /// Whatever may wait for the rest.
    Low,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_read_back() {
        assert_eq!("d12".parse(), Ok(DeliveryId(12)));
        assert_eq!(MessageId(345).to_string(), "m345");
        for bad in ["", "12", "m", "m-1", "m+1", "d1 ", "d99999999999999999999"] {
            assert!(bad.parse::<DeliveryId>().is_err(), "{bad:?}");
        }
    }
}
