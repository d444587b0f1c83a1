//! Where an address stands.

use core::fmt;
use core::str::FromStr;

use mail::failure::{Reason, UnknownWord};
use mail::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::evidence::{ActionId, EntryId};
use super::policy::Policy;

/// The state of an address.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum State {
    /// Nothing stands against it.
    #[default]
    #[serde(rename = "Valid")]
    Valid,
    /// It has errors, too few to quarantine it.
    #[serde(rename = "With errors")]
    WithErrors,
    /// Admission refuses it.
    #[serde(rename = "Quarantined")]
    Quarantined,
    /// Admission refuses it, because somebody said so: the recipient or one of us.
    #[serde(rename = "Denylisted")]
    Denylisted,
    /// It is written to whatever errors it has.
    #[serde(rename = "Allowlisted")]
    Allowlisted,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 5] =
        [Self::Valid, Self::WithErrors, Self::Quarantined, Self::Denylisted, Self::Allowlisted];

    /// The words in files, logs and answers.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Valid => "Valid",
            Self::WithErrors => "With errors",
            Self::Quarantined => "Quarantined",
            Self::Denylisted => "Denylisted",
            Self::Allowlisted => "Allowlisted",
        }
    }

    /// Whether admission refuses the address.
    #[must_use]
    pub const fn is_refused(self) -> bool {
        matches!(self, Self::Quarantined | Self::Denylisted)
    }
}

impl fmt::Display for State {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.word())
    }
}

impl FromStr for State {
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

/// How many errors of each reason have counted since the count began anew. Stops at 255.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counts([u8; Reason::ALL.len()]);

impl Counts {
    /// The count of one reason.
    #[must_use]
    pub const fn of(&self, reason: Reason) -> u8 {
        self.0[reason as usize]
    }

    /// Sets the count of one reason.
    pub const fn set(&mut self, reason: Reason, count: u8) {
        self.0[reason as usize] = count;
    }

    /// Adds one and answers the new count.
    pub(super) const fn add(&mut self, reason: Reason) -> u8 {
        let count = &mut self.0[reason as usize];
        *count = count.saturating_add(1);
        *count
    }

    /// The sum over all reasons.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.0.iter().map(|count| u32::from(*count)).sum()
    }

    /// The reasons that have a count, in the order of [`Reason::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (Reason, u8)> {
        Reason::ALL.into_iter().zip(self.0).filter(|(_, count)| *count > 0)
    }
}

impl fmt::Display for Counts {
    /// `Mailbox full:2;Unreachable:1`; nothing where nothing counted.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (ordinal, (reason, count)) in self.iter().enumerate() {
            let separator = if ordinal == 0 { "" } else { ";" };
            write!(out, "{separator}{reason}:{count}")?;
        }
        Ok(())
    }
}

impl FromStr for Counts {
    type Err = UnknownWord;

    /// Reads what `Display` writes.
    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let mut counts = Self::default();
        for part in text.split(';').filter(|part| !part.trim().is_empty()) {
            let fault = || UnknownWord {
                word: part.chars().take(60).collect(),
                known: "the counts by reason, such as `Mailbox full:2;Unreachable:1`".into(),
            };
            let (reason, count) = part.split_once(':').ok_or_else(fault)?;
            counts.set(reason.trim().parse()?, count.trim().parse().map_err(|_| fault())?);
        }
        Ok(counts)
    }
}

impl Serialize for Counts {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Counts {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What the state rests on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// Nothing is recorded that matters.
    #[default]
    Nothing,
    /// An entry of the ledger.
    Entry(EntryId),
    /// A deed.
    Action(ActionId),
}

/// Where an address stands, with all that is needed to go on from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// The state.
    pub state: State,
    /// Why: of a quarantine, of the last counted error, or complaint. `None`: no failure is at the
    /// bottom of it.
    pub reason: Option<Reason>,
    /// Since when; [`Timestamp::EPOCH`]: for ever.
    pub since: Timestamp,
    /// When a quarantine ends by itself.
    pub until: Option<Timestamp>,
    /// The errors that counted since the count began anew. Of a quarantined address: those that led there.
    pub counts: Counts,
    /// When the last of them happened.
    pub last_counted_at: Option<Timestamp>,
    /// What it rests on.
    pub cause: Cause,
    /// When the condition changes although nothing happens.
    pub changes_at: Option<Timestamp>,
}

impl Default for Condition {
    /// Valid, as an address that nothing is known about.
    fn default() -> Self {
        Self {
            state: State::Valid,
            reason: None,
            since: Timestamp::EPOCH,
            until: None,
            counts: Counts::default(),
            last_counted_at: None,
            cause: Cause::Nothing,
            changes_at: None,
        }
    }
}

/// A state brought from elsewhere: a line of an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// The state.
    pub state: State,
    /// Its reason.
    pub reason: Option<Reason>,
    /// Since when.
    pub since: Timestamp,
    /// When a quarantine ends by itself; `None`: as the policy says of its reason ([`Imported::ended_by`]).
    pub until: Option<Timestamp>,
    /// The line did not say since when: `since` is the moment of the import.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub undated: bool,
    /// Errors counted so far.
    pub counts: Counts,
    /// When the last of them happened; needed where there are any.
    pub last_counted_at: Option<Timestamp>,
}

impl Imported {
    /// What must be brought along so that the same condition comes out.
    #[must_use]
    pub const fn of(condition: &Condition) -> Self {
        Self {
            state: condition.state,
            reason: condition.reason,
            since: condition.since,
            until: condition.until,
            undated: false,
            counts: condition.counts,
            last_counted_at: condition.last_counted_at,
        }
    }

    /// The same with the end of its quarantine, where the line has none and the policy gives one to its reason.
    #[must_use]
    pub fn ended_by(mut self, policy: &Policy) -> Self {
        if self.state == State::Quarantined && self.until.is_none() {
            let span = self.reason.and_then(|reason| policy.of(reason).release_after);
            self.until = span.map(|span| self.since + span);
        }
        self
    }

    /// Whether an address stands already where this line puts it, so that importing the same list each day leaves
    /// no trail. What the line does not say is not compared.
    #[must_use]
    pub fn is_met_by(&self, condition: &Condition, policy: &Policy, now: Timestamp) -> bool {
        let ended = self.ended_by(policy);
        if condition.state == State::Valid && ended.until.is_some_and(|until| until <= now) {
            return true;
        }
        let end_is_open = self.undated && self.until.is_none();
        let same_end = match end_is_open {
            true => ended.until.is_some() == condition.until.is_some(),
            false => ended.until == condition.until,
        };
        let rest = |of: &Self| (of.state, of.reason, of.counts, of.last_counted_at);
        same_end
            && rest(self) == rest(&Self::of(condition))
            && (self.undated || self.since == condition.since)
    }
}
