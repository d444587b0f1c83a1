//! Why mail did not arrive: the reasons and types that every outcome is sorted into.
//!
//! A [`Reason`] says whose fault a failure is and what follows for the address. A [`FailureType`] says how
//! strong the evidence against the address is. **The reason decides, never the class of the reply**:
//! several providers send throttles as 5xx and policy refusals as 4xx.
//!
//! The words are those of Adobe Campaign Classic, so that figures can be compared.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

/// How strong the evidence against an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FailureType {
    /// The address is not valid.
    Hard,
    /// Temporary, or not the address's fault, or not clear.
    Soft,
    /// No failure of the address at all.
    Ignored,
}

impl FailureType {
    /// Every type.
    pub const ALL: [Self; 3] = [Self::Hard, Self::Soft, Self::Ignored];

    /// The word in files, logs and answers.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Hard => "Hard",
            Self::Soft => "Soft",
            Self::Ignored => "Ignored",
        }
    }
}

impl fmt::Display for FailureType {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.word())
    }
}

impl FromStr for FailureType {
    type Err = UnknownWord;

    /// Reads a word in any case.
    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        Self::ALL
            .into_iter()
            .find(|known| known.word().eq_ignore_ascii_case(word))
            .ok_or_else(|| UnknownWord::new(word, Self::ALL.map(Self::word).join(", ")))
    }
}

/// Why mail was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// There is no such mailbox.
    #[serde(rename = "User unknown")]
    UserUnknown,
    /// The account was closed or disabled for good.
    #[serde(rename = "Account disabled")]
    AccountDisabled,
    /// The mailbox is full.
    #[serde(rename = "Mailbox full")]
    MailboxFull,
    /// The account is dormant and may revive.
    #[serde(rename = "Inactive user")]
    InactiveUser,
    /// The domain does not exist or takes no mail.
    #[serde(rename = "Invalid domain")]
    InvalidDomain,
    /// The sender, its reputation, authentication or content was refused: not the address's fault.
    #[serde(rename = "Refused")]
    Refused,
    /// The server could not be reached, or could not do its work.
    #[serde(rename = "Unreachable")]
    Unreachable,
    /// An error of no consequence: an auto-reply, a notice of delay, an error made to be ignored.
    #[serde(rename = "Error ignored")]
    ErrorIgnored,
    /// The recipient complained.
    #[serde(rename = "Complaint")]
    Complaint,
    /// A text that nobody has qualified.
    #[serde(rename = "Not defined")]
    NotDefined,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 10] = [
        Self::UserUnknown,
        Self::AccountDisabled,
        Self::MailboxFull,
        Self::InactiveUser,
        Self::InvalidDomain,
        Self::Refused,
        Self::Unreachable,
        Self::ErrorIgnored,
        Self::Complaint,
        Self::NotDefined,
    ];

    /// The words in files, logs and answers.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::UserUnknown => "User unknown",
            Self::AccountDisabled => "Account disabled",
            Self::MailboxFull => "Mailbox full",
            Self::InactiveUser => "Inactive user",
            Self::InvalidDomain => "Invalid domain",
            Self::Refused => "Refused",
            Self::Unreachable => "Unreachable",
            Self::ErrorIgnored => "Error ignored",
            Self::Complaint => "Complaint",
            Self::NotDefined => "Not defined",
        }
    }

    /// The type that goes with the reason where nothing else is said by default.
    #[must_use]
    pub const fn usual_type(self) -> FailureType {
        match self {
            Self::UserUnknown | Self::AccountDisabled | Self::Complaint => FailureType::Hard,
            Self::ErrorIgnored => FailureType::Ignored,
            _ => FailureType::Soft,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.word())
    }
}

impl FromStr for Reason {
    type Err = UnknownWord;

    /// Reads the words in any case, with spaces, hyphens or underscores between them.
    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        let plain = word.replace(['-', '_'], " ");
        Self::ALL
            .into_iter()
            .find(|known| known.word().eq_ignore_ascii_case(&plain))
            .ok_or_else(|| UnknownWord::new(word, Self::ALL.map(Self::word).join(", ")))
    }
}

/// A word that is none of the known ones.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{word}` is none of {known}")]
pub struct UnknownWord {
    /// What stood there, cut to 60 characters.
    pub word: String,
    /// What may stand there.
    pub known: String,
}

impl UnknownWord {
    fn new(word: &str, known: String) -> Self {
        Self { word: word.chars().take(60).collect(), known }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_back_in_any_spelling() {
        for reason in Reason::ALL {
            assert_eq!(reason.word().parse(), Ok(reason));
            assert_eq!(reason.word().to_lowercase().replace(' ', "-").parse(), Ok(reason));
        }
        for kind in FailureType::ALL {
            assert_eq!(kind.word().to_uppercase().parse(), Ok(kind));
        }
        let fault = "gone".parse::<FailureType>().unwrap_err();
        assert_eq!(fault.to_string(), "`gone` is none of Hard, Soft, Ignored");
    }
}
