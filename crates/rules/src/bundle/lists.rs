//! Qualified texts and the suppression list: one line each.
//!
//! - `qualifications.jsonl`: `{"text":"552 5.2.2 over quota","reason":"Mailbox full","type":"Soft"}`. The
//!   text is normalised already (addresses are masked); its status is Keep.
//! - `suppression.txt`: the SHA-256 of a folded address as 64 hexadecimal digits, a domain, or `*.` and
//!   a domain; sorted, each once.

use std::collections::BTreeMap;

use mail::address::Domain;
use mail::failure::{FailureType, Reason};
use serde::{Deserialize, Serialize};

use super::fault::BundleFault;
use super::keys::octets_of;
use super::manifest::Kind;
use crate::bounce::{Key, MOST_OCTETS, Qualification, QualificationStatus, normalise};

/// Texts of a bundle.
pub const MOST_TEXTS: usize = 50_000;
/// Entries of its suppression list.
pub const MOST_SUPPRESSED: usize = 400_000;

/// A text and what it means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownText {
    /// Normalised ([`normalise`]).
    pub text: String,
    /// Why mail with this answer was not delivered.
    pub reason: Reason,
    /// How strong the evidence is.
    #[serde(rename = "type")]
    pub failure_type: FailureType,
}

impl KnownText {
    /// What it says, with status Keep.
    #[must_use]
    pub const fn qualification(&self) -> Qualification {
        Qualification {
            reason: self.reason,
            failure_type: self.failure_type,
            status: QualificationStatus::Keep,
        }
    }

    /// Reads a section.
    pub(super) fn read_all(section: &str) -> Result<BTreeMap<Key, Self>, BundleFault> {
        let mut known = BTreeMap::new();
        for (number, line) in (1_usize..).zip(section.lines()) {
            if number > MOST_TEXTS {
                let what = format!("more than {MOST_TEXTS} texts");
                return Err(BundleFault::TooMany { kind: Kind::Qualification, what });
            }
            let fault = |what: &str| {
                BundleFault::malformed(format!(
                    "{}:{number}: {what}",
                    Kind::Qualification.file_name()
                ))
            };
            if line.len() > MOST_OCTETS * 2 {
                return Err(fault("the line is too long"));
            }
            let text: Self =
                serde_json::from_str(line).map_err(|wrong| fault(&wrong.to_string()))?;
            if text.text.is_empty() || normalise(&text.text) != text.text {
                return Err(fault("the text is not normalised: addresses, ids and blanks"));
            }
            if known.insert(Key::of(&text.text), text).is_some() {
                return Err(fault("the text is there twice"));
            }
        }
        Ok(known)
    }
}

/// One thing on the suppression list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SuppressedEntry {
    /// An address, by the SHA-256 of its folded form.
    Address([u8; 32]),
    /// A domain, or `*.` and a domain, in lower-case A-labels.
    Domain(Box<str>),
}

impl SuppressedEntry {
    /// Reads a section.
    pub(super) fn read_all(section: &str) -> Result<Vec<Self>, BundleFault> {
        let mut entries = Vec::new();
        let mut before = "";
        for (number, line) in (1_usize..).zip(section.lines()) {
            if number > MOST_SUPPRESSED {
                let what = format!("more than {MOST_SUPPRESSED} entries");
                return Err(BundleFault::TooMany { kind: Kind::Suppression, what });
            }
            let fault = |what: &str| {
                BundleFault::malformed(format!(
                    "{}:{number}: {what}",
                    Kind::Suppression.file_name()
                ))
            };
            if line <= before {
                return Err(fault("the lines are not sorted, or a line is there twice"));
            }
            let entry = Self::read(line)
                .ok_or_else(|| fault("this is neither a hash nor a domain in lower case"))?;
            entries.push(entry);
            before = line;
        }
        Ok(entries)
    }

    fn read(line: &str) -> Option<Self> {
        if line.len() == 64 && !line.contains('.') {
            return octets_of(line).ok().map(Self::Address);
        }
        let bare = line.strip_prefix("*.").unwrap_or(line);
        let domain = Domain::parse(bare).ok()?;
        (domain.as_str() == bare).then(|| Self::Domain(line.into()))
    }
}
