//! What is asked of the store that keeps the ledger, and what it answers.
//!
//! The store applies these in its batches. It judges each address that a write touches, inside the same
//! transaction, so that what it holds about an address is always [`super::judge()`] of the ledger.

use std::sync::Arc;

use mail::failure::Reason;
use mail::time::Timestamp;
use rules::bounce::Verdict;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::cleanup::{CleanUpStep, Cleaned};
use super::evidence::{Deed, EntryId, Evidence, Finding, Qualification, TextKey};
use super::policy::Policy;
use super::state::Condition;
use super::suppression::{AddressHash, Suppressed};
use super::task::{Change, Difference, Work};

/// Entries kept of one address. Beyond that the oldest that carries no weight goes.
pub const ENTRIES_KEPT: usize = 256;
/// Octets kept of the words of a failure; more is cut off.
pub const REPLY_LIMIT: usize = 500;
/// Where the count of a text stops.
pub const OCCURRENCES_LIMIT: u32 = 100_000;
/// Octets kept of a text, normalised and raw; more is cut off.
pub const TEXT_LIMIT: usize = 2_000;
/// Texts kept. Beyond that new ones are counted as left out until the clean-up has made room.
pub const TEXTS_KEPT: u64 = 500_000;
/// Deeds kept of one address. A deed outweighs everything before it, so the oldest may go.
pub const ACTIONS_KEPT: usize = 64;
/// Entries, addresses or texts in one write.
pub const WRITE_LIMIT: usize = 10_000;
/// Holds that are open or among the last that ended.
pub const HOLDS_KEPT: u32 = 1_000;

/// Under which a bounce is counted once, however often it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeenKey(pub [u8; 16]);

impl SeenKey {
    /// The same mail, octet for octet.
    #[must_use]
    pub fn of_content(octets: &[u8]) -> Self {
        Self::of(&[b"content", octets])
    }

    /// The same report about the same message, however it was relayed: the kind of the report, and its text.
    #[must_use]
    pub fn of_report(
        message: mail::id::MessageId,
        address: &str,
        kind: &str,
        text: TextKey,
    ) -> Self {
        let message = message.0.to_be_bytes();
        Self::of(&[b"report", &message, address.as_bytes(), kind.as_bytes(), &text.0])
    }

    fn of(parts: &[&[u8]]) -> Self {
        let mut digest = Sha256::new();
        for part in parts {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        let digest: [u8; 32] = digest.finalize().into();
        Self(*digest.first_chunk().expect("a SHA-256 has 32 octets"))
    }
}

/// A text that was met.
#[derive(Clone, Debug, PartialEq)]
pub struct MetText {
    /// The MD5 of the normalised text.
    pub key: TextKey,
    /// The normalised text.
    pub normalised: Box<str>,
    /// As it was.
    pub raw: Box<str>,
    /// Who said it: the MX host, or the domain of the recipient. May be empty.
    pub host: Box<str>,
    /// What it means, by the rule.
    pub qualification: Qualification,
    /// The rule.
    pub rule: Arc<str>,
    /// The version of the rules.
    pub version: Arc<str>,
    /// When.
    pub at: Timestamp,
}

impl MetText {
    /// A text as the bounce rules judged it. `normalised` must be what the key was made of, `host` what the rules
    /// were asked with.
    #[must_use]
    pub fn judged(
        key: TextKey,
        normalised: &str,
        raw: &str,
        host: &str,
        verdict: &Verdict,
        at: Timestamp,
    ) -> Self {
        Self {
            key,
            normalised: normalised.into(),
            raw: raw.into(),
            host: host.into(),
            qualification: super::evidence::meaning(verdict),
            rule: Arc::clone(&verdict.rule),
            version: Arc::clone(&verdict.version),
            at,
        }
    }
}

/// A text with what is known about it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TextRecord {
    /// The MD5 of the normalised text.
    pub key: TextKey,
    /// The normalised text.
    pub normalised: Box<str>,
    /// As it was when it was first met.
    pub first_raw: Box<str>,
    /// Who said it then: the MX host, or the domain of the recipient; empty: not recorded.
    pub host: Box<str>,
    /// What it means by the rule that judged it last.
    pub by_rule: Qualification,
    /// The rule that judged it last.
    pub rule: Box<str>,
    /// The version of the rules.
    pub version: Box<str>,
    /// What a person said that it means. Outranks the rule.
    pub by_person: Option<Qualification>,
    /// Who said so; empty: nobody.
    pub qualified_by: Box<str>,
    /// How often it was met, up to [`OCCURRENCES_LIMIT`].
    pub occurrences: u32,
    /// When it was first met.
    pub first_at: Timestamp,
    /// When it was last met.
    pub last_at: Timestamp,
}

impl TextRecord {
    /// What it means: by a person, else by the rule.
    #[must_use]
    pub fn qualification(&self) -> Qualification {
        self.by_person.unwrap_or(self.by_rule)
    }
}

/// Which texts are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextFilter {
    /// With this status.
    pub status: Option<super::evidence::TextStatus>,
    /// Only those that a person has qualified.
    pub by_person: bool,
}

impl TextFilter {
    /// Whether a text is meant.
    #[must_use]
    pub fn takes(&self, record: &TextRecord) -> bool {
        self.status.is_none_or(|status| status == record.qualification().status)
            && (!self.by_person || record.by_person.is_some())
    }
}

/// What is counted apart because it changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stray {
    /// A bounce with a return path that we never made, or with a changed one.
    Forged,
    /// A bounce of mail that is not ours.
    Foreign,
    /// A bounce that had arrived before.
    Repeated,
    /// Mail that could not be read.
    Unreadable,
    /// A text that was left out of the table because that is full.
    TextLeftOut,
}

impl Stray {
    /// Every kind.
    pub const ALL: [Self; 5] =
        [Self::Forged, Self::Foreign, Self::Repeated, Self::Unreadable, Self::TextLeftOut];

    /// The word in figures and answers.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Forged => "forged",
            Self::Foreign => "foreign",
            Self::Repeated => "repeated",
            Self::Unreadable => "unreadable",
            Self::TextLeftOut => "text left out",
        }
    }
}

/// Something to be recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEntry {
    /// What happened.
    pub evidence: Evidence,
    /// The hold under which it stands, if the outage guard holds its provider.
    pub hold: Option<u64>,
    /// Its text, to be counted.
    pub text: Option<MetText>,
    /// If any of these keys was used before, it is a repetition: counted as such and not recorded.
    pub seen: Vec<SeenKey>,
}

/// Who does something, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Author {
    /// Who.
    pub who: Box<str>,
    /// Why.
    pub why: Box<str>,
}

/// A hold of the outage guard, as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HoldRecord {
    /// Its number, from 1; chosen by the guard.
    pub hold: u64,
    /// The provider.
    pub provider: Box<str>,
    /// From when on its entries are doubted.
    pub doubted_since: Timestamp,
    /// When the guard was sure.
    pub tripped_at: Timestamp,
    /// The share of "user unknown" in the provider's history, in per mille.
    pub usual_permille: u32,
    /// The share when the guard was sure, in per mille.
    pub sudden_permille: u32,
    /// When and how it ended; `None`: it is in force.
    pub ended: Option<(Timestamp, HoldEnd)>,
    /// Who ended it; empty while it is in force.
    pub who: Box<str>,
    /// Why; empty while it is in force.
    pub why: Box<str>,
}

/// How a hold ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HoldEnd {
    /// A person found that the replies were true: they count.
    Confirmed,
    /// A person found that they were false: they are void.
    Dismissed,
    /// The provider was its usual self again: they are void.
    CalmedDown,
}

/// A change to the ledger that is to be made durable.
#[derive(Clone, Debug, PartialEq)]
pub enum LedgerWrite {
    /// Records what happened. → [`LedgerWritten::Recorded`].
    ///
    /// A delivery is recorded only for an address that the store knows.
    Record {
        /// At most [`WRITE_LIMIT`].
        entries: Vec<NewEntry>,
        /// The policy in force.
        policy: Arc<Policy>,
        /// The present time.
        now: Timestamp,
    },
    /// Counts texts that are evidence against nobody. → [`LedgerWritten::Done`].
    Meet(Vec<MetText>),
    /// Counts what changes nothing. → [`LedgerWritten::Done`].
    Stray {
        /// What.
        kind: Stray,
        /// How many.
        count: u32,
        /// When.
        at: Timestamp,
    },
    /// Does something to single addresses. → [`LedgerWritten::Changed`].
    Act {
        /// Folded addresses, each with what is done; at most [`WRITE_LIMIT`].
        deeds: Vec<(Box<str>, Deed)>,
        /// Who and why; goes to the audit trail too.
        author: Author,
        /// The policy in force.
        policy: Arc<Policy>,
        /// The present time.
        now: Timestamp,
    },
    /// Says what a text means; `None`: what the rule says. A task to judge its addresses anew is started with it.
    /// → [`LedgerWritten::Started`].
    Qualify {
        /// The text; it must have been met.
        key: TextKey,
        /// What it means.
        qualification: Option<Qualification>,
        /// Who and why.
        author: Author,
        /// The present time.
        now: Timestamp,
    },
    /// Replaces what the rule said in single entries (a new bundle judged them anew) and judges their
    /// addresses. → [`LedgerWritten::Changed`].
    Requalify {
        /// Entry, meaning, rule; at most [`WRITE_LIMIT`]. Unknown entries are left out.
        entries: Vec<(EntryId, Qualification, Arc<str>)>,
        /// The version of the rules.
        version: Arc<str>,
        /// The policy in force.
        policy: Arc<Policy>,
        /// The present time.
        now: Timestamp,
    },
    /// Starts a task. → [`LedgerWritten::Started`].
    Start {
        /// What it does.
        work: Work,
        /// Who and why.
        author: Author,
        /// The present time.
        now: Timestamp,
    },
    /// Goes on with a task. To be repeated until it is done. → [`LedgerWritten::Worked`].
    GoOn {
        /// Its number.
        task: u64,
        /// At most so many entries or addresses are looked at, 1 to [`WRITE_LIMIT`].
        limit: u32,
        /// The policy in force.
        policy: Arc<Policy>,
        /// The present time.
        now: Timestamp,
    },
    /// Puts on the suppression list. → [`LedgerWritten::Done`].
    Suppress {
        /// At most [`WRITE_LIMIT`].
        entries: Vec<Suppressed>,
        /// Who and why.
        author: Author,
        /// The present time.
        now: Timestamp,
    },
    /// Takes off the suppression list. → [`LedgerWritten::Done`].
    Unsuppress {
        /// At most [`WRITE_LIMIT`].
        entries: Vec<Suppressed>,
        /// Who and why.
        author: Author,
        /// The present time.
        now: Timestamp,
    },
    /// Forgets everything recorded about an address; its hash goes on the suppression list.
    /// → [`LedgerWritten::Changed`].
    Forget {
        /// The folded address.
        address: Box<str>,
        /// Who and why. Must not name the address.
        author: Author,
        /// The present time.
        now: Timestamp,
    },
    /// Records a new hold of the outage guard. → [`LedgerWritten::Done`].
    Hold(HoldRecord),
    /// Ends a hold, and starts the task that confirms or dismisses what it held back, in one commit.
    /// → [`LedgerWritten::Started`]; [`LedgerWritten::Done`]: it had ended or is not known, and stays as it is.
    EndHold {
        /// Its number.
        hold: u64,
        /// How.
        end: HoldEnd,
        /// Who and why.
        author: Author,
        /// The present time.
        now: Timestamp,
    },
    /// A stretch of the clean-up. → [`LedgerWritten::Cleaned`].
    CleanUp {
        /// Which step.
        step: CleanUpStep,
        /// At most so many rows, 1 to [`WRITE_LIMIT`].
        limit: u32,
        /// The policy in force.
        policy: Arc<Policy>,
        /// The present time.
        now: Timestamp,
    },
}

/// What a record led to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recorded {
    /// Entries that were recorded.
    pub recorded: u32,
    /// Places in `entries` of repetitions.
    pub repeated: Vec<u32>,
    /// Addresses whose condition changed, as of the end of the write.
    pub changes: Vec<Change>,
}

/// What became of a [`LedgerWrite`].
#[derive(Clone, Debug, PartialEq)]
pub enum LedgerWritten {
    /// It was done.
    Done,
    /// Entries were recorded.
    Recorded(Recorded),
    /// These addresses changed.
    Changed(Vec<Change>),
    /// A task was started, with this number.
    Started(u64),
    /// A task went on.
    Worked(Worked),
    /// A stretch of the clean-up.
    Cleaned(Cleaned),
}

impl LedgerWritten {
    /// The changes that it brought, for the admission set.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        match self {
            Self::Done | Self::Started(_) => &[],
            Self::Recorded(recorded) => &recorded.changes,
            Self::Changed(changes) => changes,
            Self::Worked(worked) => &worked.changes,
            Self::Cleaned(cleaned) => &cleaned.changes,
        }
    }
}

/// What a stretch of a task led to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Worked {
    /// Addresses that changed.
    pub changes: Vec<Change>,
    /// Addresses looked at and entries changed in this stretch, with the states between which addresses went.
    pub difference: Difference,
    /// Whether it came to its end, and is not known any more.
    pub done: bool,
}

/// An address that the store knows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AddressRecord {
    /// The folded address.
    pub address: Box<str>,
    /// Where it stands. What changed by time alone since the last write shows after the next clean-up.
    pub condition: Condition,
    /// When it was first known.
    pub created_at: Timestamp,
    /// When its condition last changed.
    pub changed_at: Timestamp,
    /// When something was last recorded.
    pub last_entry_at: Timestamp,
}

/// Which addresses are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressFilter {
    /// In this state.
    pub state: Option<super::state::State>,
    /// For this reason.
    pub reason: Option<Reason>,
    /// Of this domain.
    pub domain: Option<Box<str>>,
}

impl AddressFilter {
    /// Whether a record is meant.
    #[must_use]
    pub fn takes(&self, record: &AddressRecord) -> bool {
        let domain = record.address.rsplit_once('@').map_or("", |(_, domain)| domain);
        self.state.is_none_or(|state| state == record.condition.state)
            && self.reason.is_none_or(|reason| record.condition.reason == Some(reason))
            && self.domain.as_deref().is_none_or(|wanted| wanted == domain)
    }
}

/// A task that is not done.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskRecord {
    /// Its number.
    pub task: u64,
    /// What it does.
    pub work: Work,
    /// Who started it.
    pub who: Box<str>,
    /// Why.
    pub why: Box<str>,
    /// When.
    pub started_at: Timestamp,
    /// Addresses looked at so far.
    pub addresses: u64,
}

/// What is on the suppression list, with who put it there.
#[derive(Clone, Debug, PartialEq)]
pub struct SuppressionRecord {
    /// What.
    pub entry: Suppressed,
    /// Since when.
    pub at: Timestamp,
    /// Who.
    pub who: Box<str>,
    /// Why.
    pub why: Box<str>,
}

impl Evidence {
    /// The hash by which admission knows the address.
    #[must_use]
    pub fn hash(&self) -> AddressHash {
        AddressHash::of(&self.address)
    }

    /// Whether the server took the message.
    #[must_use]
    pub const fn is_delivery(&self) -> bool {
        matches!(self.finding, Finding::Delivered)
    }
}
