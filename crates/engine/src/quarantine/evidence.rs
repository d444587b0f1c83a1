//! What is recorded about an address: failures, successes, and what people did.

use core::fmt;
use core::str::FromStr;
use std::sync::Arc;

use mail::failure::{Reason, UnknownWord};
use mail::id::{DeliveryId, MessageId};
use mail::time::Timestamp;
use rules::bounce::Verdict;
use serde::{Deserialize, Serialize};

pub use rules::bounce::{Qualification, QualificationStatus as TextStatus};

/// The key of a text: the MD5 of its normalised form in UTF-8. Shown as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TextKey(pub [u8; 16]);

impl fmt::Display for TextKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(out, "{octet:02x}"))
    }
}

impl FromStr for TextKey {
    type Err = UnknownWord;

    /// Reads 32 hexadecimal digits in any case.
    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let digits = Some(text).filter(|text| text.len() == 32 && text.is_ascii());
        let octets: Option<Vec<u8>> = digits.and_then(|digits| {
            (0..16).map(|at| u8::from_str_radix(digits.get(at * 2..at * 2 + 2)?, 16).ok()).collect()
        });
        octets.and_then(|octets| octets.try_into().ok()).map(Self).ok_or_else(|| UnknownWord {
            word: text.chars().take(60).collect(),
            known: "the keys of texts: 32 hexadecimal digits".into(),
        })
    }
}

impl Serialize for TextKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TextKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl From<rules::bounce::Key> for TextKey {
    fn from(key: rules::bounce::Key) -> Self {
        Self(*key.octets())
    }
}

/// How we learned of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channel {
    /// From the server, in our own session (or from DNS).
    Synchronous,
    /// From a mail that came later: a bounce, or a report of a feedback loop.
    Asynchronous,
}

/// A failure, as it was judged when it was recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// The key of its normalised text.
    pub text: TextKey,
    /// The words themselves, cut to `REPLY_LIMIT` octets where they are stored.
    pub reply: Box<str>,
    /// What they mean, by the rule.
    pub qualification: Qualification,
    /// The rule that judged it.
    pub rule: Arc<str>,
    /// The version of the rules.
    pub version: Arc<str>,
}

impl Failure {
    /// A failure as the bounce rules judged it.
    #[must_use]
    pub fn judged(text: TextKey, reply: &str, verdict: &Verdict) -> Self {
        Self {
            text,
            reply: reply.into(),
            qualification: meaning(verdict),
            rule: Arc::clone(&verdict.rule),
            version: Arc::clone(&verdict.version),
        }
    }
}

/// What a verdict of the bounce rules says of a text.
pub(super) const fn meaning(verdict: &Verdict) -> Qualification {
    let Verdict { reason, failure_type, status, .. } = verdict;
    Qualification { reason: *reason, failure_type: *failure_type, status: *status }
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// The server took the message. Worth recording only for an address that has errors.
    Delivered,
    /// It was refused, or came back, or was complained about.
    Failed(Failure),
}

/// One thing that happened to one address.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// The address, folded ([`mail::address::Mailbox::folded_key`]).
    pub address: Box<str>,
    /// Who spoke: the MX group, or the domain of the recipient. May be empty.
    pub provider: Box<str>,
    /// When it happened. For a bounce: when it reached us, never the date that it claims.
    pub at: Timestamp,
    /// The delivery, where it is known.
    pub delivery: Option<DeliveryId>,
    /// The message, where it is known.
    pub message: Option<MessageId>,
    /// How we learned of it.
    pub channel: Channel,
    /// Whether it is certain that it speaks of a message that we sent to this address: our own session,
    /// or a return path with our keyed MAC. What is not never counts.
    pub authentic: bool,
    /// What happened.
    pub finding: Finding,
}

/// Number of an entry of the ledger, in the order of recording, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct EntryId(pub u64);

impl fmt::Display for EntryId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "e{}", self.0)
    }
}

/// Number of something that a person (or the clean-up, or the outage guard) did, from 1. Actions on
/// single addresses, tasks and holds are numbered each by themselves.
pub type ActionId = u64;

/// Whether an entry may count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It may.
    Live,
    /// The outage guard holds it back.
    Held {
        /// The number of the hold.
        hold: u64,
    },
    /// It was undone. It stays for the record.
    Void {
        /// The number of the task that undid it.
        task: u64,
    },
}

/// An entry of the ledger.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its number.
    pub id: EntryId,
    /// What was recorded.
    pub evidence: Evidence,
    /// Whether it may count.
    pub standing: Standing,
    /// What a person has said about its text since: outranks the rule that judged it.
    pub person: Option<Qualification>,
}

impl Entry {
    /// The failure and what its text means today; `None` for a success.
    #[must_use]
    pub fn failure(&self) -> Option<(&Failure, Qualification)> {
        match &self.evidence.finding {
            Finding::Delivered => None,
            Finding::Failed(failure) => {
                Some((failure, self.person.unwrap_or(failure.qualification)))
            }
        }
    }
}

/// What was decided about a single address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deed {
    /// Never to be written to again. Stays until [`Deed::Release`] or [`Deed::Allow`].
    Deny,
    /// The recipient unsubscribed: as [`Deed::Deny`], with its own word.
    Unsubscribe,
    /// Errors do not matter: it is always written to. Only a complaint, an unsubscription, a
    /// suppression or another deed end it.
    Allow,
    /// Quarantined by a person, without an end. One that is denylisted stays so.
    Quarantine(Reason),
    /// Free: whatever stood against it (or for it) is over, its errors are forgotten.
    Release,
    /// Set as it was elsewhere. One that is denylisted stays so.
    Import(super::state::Imported),
}

impl Deed {
    /// Whether it leaves a denylisted address as it is: a list from elsewhere, and errors, do not know that the
    /// recipient asked for peace.
    #[must_use]
    pub const fn yields_to_denylist(&self) -> bool {
        matches!(self, Self::Quarantine(_) | Self::Import(_))
    }

    /// A word for lists.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Unsubscribe => "unsubscribe",
            Self::Allow => "allow",
            Self::Quarantine(_) => "quarantine",
            Self::Release => "release",
            Self::Import(_) => "import",
        }
    }
}

/// A deed with who and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Action {
    /// Its number.
    pub id: ActionId,
    /// When.
    pub at: Timestamp,
    /// What.
    pub deed: Deed,
    /// Who.
    pub who: Box<str>,
    /// Why.
    pub why: Box<str>,
}

/// Everything that is recorded about one address.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Entries, in any order; at most [`super::ENTRIES_KEPT`] are kept.
    pub entries: Vec<Entry>,
    /// Deeds, in any order.
    pub actions: Vec<Action>,
}
