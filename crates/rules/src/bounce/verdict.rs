//! What is asked about a failure, and what is answered.

use core::fmt;
use core::str::FromStr;
use std::sync::Arc;

use mail::failure::{FailureType, Reason, UnknownWord};
use mail::reply::EnhancedStatus;
use serde::{Deserialize, Serialize};

use super::normal::Key;

/// What is known about one failure of one recipient. Everything may be empty but then nothing can be
/// said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence<'text> {
    /// The SMTP reply code. `None`: the one at the beginning of `diagnostic`, if there is one.
    pub reply: Option<u16>,
    /// The enhanced status code (RFC 3463). `None`: the first one in `diagnostic`, if there is one.
    pub status: Option<EnhancedStatus>,
    /// The text the decision rests on: the reply, with or without its codes, lines joined by LF; of
    /// a bounce its diagnostic text.
    pub diagnostic: &'text str,
    /// The subject of a bounce mail; empty for a reply.
    pub subject: &'text str,
    /// The human text of a bounce mail. Asked when no rule knows the diagnostic.
    pub body: &'text str,
    /// The header fields of a bounce mail, one `Name: value` a line, unfolded.
    pub header: &'text str,
    /// The MX host that answered or the domain of the recipient; rules may have masks for it.
    pub provider: &'text str,
    /// Whether it was said in the SMTP session, rather than in a mail that came later.
    pub synchronous: bool,
}

impl<'text> Evidence<'text> {
    /// A reply of a server, as it came.
    #[must_use]
    pub fn reply(text: &'text str, provider: &'text str) -> Self {
        Self { diagnostic: text, provider, synchronous: true, ..Self::default() }
    }
}

/// What the MTA does with the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Try again later on the ordinary schedule.
    Retry,
    /// This path (source and target) is refused, not the message: try another one, else later.
    OtherPath,
    /// This message has failed for this recipient.
    GiveUp,
    /// The delivery is at fault (its authentication, its content): stop it and raise an alert.
    StopDelivery,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 4] = [Self::Retry, Self::OtherPath, Self::GiveUp, Self::StopDelivery];

    /// The word in rule files and answers.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::OtherPath => "other-path",
            Self::GiveUp => "give-up",
            Self::StopDelivery => "stop-delivery",
        }
    }

    /// What is done where a rule does not say: what a server defers (4yz) is tried again; of what it
    /// refuses (5yz) a full mailbox and an unreachable server are tried again, everything else is
    /// given up.
    #[must_use]
    pub const fn usual(reason: Reason, deferred: bool) -> Self {
        match reason {
            _ if deferred => Self::Retry,
            Reason::MailboxFull | Reason::Unreachable | Reason::ErrorIgnored => Self::Retry,
            _ => Self::GiveUp,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.word())
    }
}

/// How far a text has been qualified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum QualificationStatus {
    /// Nobody has said what the text means; it counts against no address until somebody has.
    #[serde(rename = "To qualify")]
    ToQualify,
    /// Qualified.
    Keep,
    /// Qualified, but never counted against an address.
    Ignore,
}

impl QualificationStatus {
    /// Every status.
    pub const ALL: [Self; 3] = [Self::ToQualify, Self::Keep, Self::Ignore];

    /// The words in files, logs and answers.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::ToQualify => "To qualify",
            Self::Keep => "Keep",
            Self::Ignore => "Ignore",
        }
    }
}

impl fmt::Display for QualificationStatus {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.word())
    }
}

impl FromStr for QualificationStatus {
    type Err = UnknownWord;

    /// Reads the words in any case, with spaces, hyphens or underscores between them.
    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        let plain = word.replace(['-', '_'], " ");
        Self::ALL.into_iter().find(|known| known.word().eq_ignore_ascii_case(&plain)).ok_or_else(
            || UnknownWord {
                word: word.chars().take(60).collect(),
                known: Self::ALL.map(Self::word).join(", "),
            },
        )
    }
}

/// What a person has said about a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Qualification {
    /// Why mail with this answer was not delivered.
    pub reason: Reason,
    /// How strong the evidence is.
    #[serde(rename = "type")]
    pub failure_type: FailureType,
    /// [`QualificationStatus::ToQualify`] here means that nothing has been said yet.
    pub status: QualificationStatus,
}

/// Knows what people have said. The caller owns it: a table, a map, or nothing (`&()`).
pub trait Qualifications {
    /// What was said about the text with this key.
    fn find(&self, key: &Key) -> Option<Qualification>;
}

impl Qualifications for () {
    fn find(&self, _: &Key) -> Option<Qualification> {
        None
    }
}

impl<F: Fn(&Key) -> Option<Qualification>> Qualifications for F {
    fn find(&self, key: &Key) -> Option<Qualification> {
        self(key)
    }
}

/// The judgement of one failure. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Why the mail was not delivered.
    pub reason: Reason,
    /// How strong the evidence against the address is. Never Hard where the server only deferred
    /// (4yz).
    pub failure_type: FailureType,
    /// The name of the rule that decided; `qualification` when a person did, `none` when nobody.
    pub rule: Arc<str>,
    /// The version of the rules.
    pub version: Arc<str>,
    /// Whether it is settled.
    pub status: QualificationStatus,
    /// What the MTA does with the message.
    pub action: Action,
}
