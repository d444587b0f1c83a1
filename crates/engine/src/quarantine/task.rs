//! Changes to many addresses at once: undone in bulk, held, judged anew.
//!
//! A task is durable and works in stretches, so that a million addresses hold nobody up and a crash loses
//! nothing. Before it is started the same words give a preview, which changes nothing.

use mail::failure::Reason;
use mail::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::evidence::{Entry, History, Qualification, Standing, TextKey};
use super::judge::judge;
use super::policy::Policy;
use super::state::{Condition, State};

/// Which entries of the ledger. All conditions that are given must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Selection {
    /// From this moment on.
    pub from: Timestamp,
    /// Up to this moment, which is not part of it.
    pub to: Timestamp,
    /// Of this provider: as recorded with the entry, or the domain of the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<Box<str>>,
    /// With this text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<TextKey>,
    /// Judged by this rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<Box<str>>,
    /// With this reason, as it is today. Without one an [`Work::Undo`] leaves complaints alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

impl Default for Selection {
    /// Every failure there is.
    fn default() -> Self {
        Self {
            from: Timestamp::EPOCH,
            to: Timestamp::NEVER,
            provider: None,
            text: None,
            rule: None,
            reason: None,
        }
    }
}

impl Selection {
    /// Whether a moment lies in the window. Entries are kept in milliseconds, rounded down; so are the
    /// ends of the window.
    #[must_use]
    pub fn window_contains(&self, at: Timestamp) -> bool {
        (self.from.as_millis()..self.to.as_millis()).contains(&at.as_millis())
    }

    /// Whether an entry is meant. Deliveries never are.
    #[must_use]
    pub fn takes(&self, entry: &Entry) -> bool {
        let Some((failure, meaning)) = entry.failure() else { return false };
        let evidence = &entry.evidence;
        let domain = evidence.address.rsplit_once('@').map_or("", |(_, domain)| domain);
        let of_provider =
            |wanted: &str| wanted == domain || wanted.eq_ignore_ascii_case(&evidence.provider);
        self.window_contains(evidence.at)
            && self.provider.as_deref().is_none_or(of_provider)
            && self.text.is_none_or(|key| key == failure.text)
            && self.rule.as_deref().is_none_or(|rule| rule == &*failure.rule)
            && self.reason.is_none_or(|reason| reason == meaning.reason)
    }

    /// Whether an undoing means an entry. A complaint is the word of the recipient and no fault of a
    /// provider: it is undone only where the selection asks for complaints.
    #[must_use]
    pub fn undoes(&self, entry: &Entry) -> bool {
        let complaint = |(_, meaning): (_, Qualification)| meaning.reason == Reason::Complaint;
        self.takes(entry)
            && (self.reason == Some(Reason::Complaint) || !entry.failure().is_some_and(complaint))
    }
}

/// What a task does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "work")]
pub enum Work {
    /// Entries are void: they never happened, as far as the addresses are concerned. Complaints only where the
    /// selection asks for them ([`Selection::undoes`]).
    Undo {
        /// Which.
        #[serde(flatten)]
        selection: Selection,
    },
    /// What a task undid counts again.
    Restore {
        /// The number of that task.
        task: u64,
    },
    /// The outage guard holds entries back that were recorded before it was sure.
    Hold {
        /// The number of the hold.
        hold: u64,
        /// Which.
        #[serde(flatten)]
        selection: Selection,
    },
    /// What a hold held back was true: it counts.
    Confirm {
        /// The number of the hold.
        hold: u64,
    },
    /// What a hold held back was false: it is void.
    Dismiss {
        /// The number of the hold.
        hold: u64,
    },
    /// Addresses with this text in their ledger are judged anew, because its qualification changed.
    Text {
        /// The text.
        key: TextKey,
    },
    /// Every address is judged anew, because the policy changed.
    Everyone,
}

impl Work {
    /// What an entry's standing becomes by this task; `None`: it is not touched.
    #[must_use]
    pub fn changes(&self, entry: &Entry, task: u64) -> Option<Standing> {
        let void = Standing::Void { task };
        match (self, entry.standing) {
            (Self::Undo { selection }, Standing::Live | Standing::Held { .. }) => {
                selection.undoes(entry).then_some(void)
            }
            (Self::Hold { hold, selection }, Standing::Live) => {
                selection.takes(entry).then_some(Standing::Held { hold: *hold })
            }
            (Self::Restore { task: undone }, Standing::Void { task }) if task == *undone => {
                Some(Standing::Live)
            }
            (Self::Confirm { hold }, Standing::Held { hold: held }) if held == *hold => {
                Some(Standing::Live)
            }
            (Self::Dismiss { hold }, Standing::Held { hold: held }) if held == *hold => Some(void),
            _ => None,
        }
    }

    /// Whether the task touches an address because of this entry: it changes it, or judges anew for it.
    #[must_use]
    pub fn concerns(&self, entry: &Entry) -> bool {
        match self {
            Self::Text { key } => entry.failure().is_some_and(|(failure, _)| failure.text == *key),
            Self::Everyone => true,
            _ => self.changes(entry, 0).is_some(),
        }
    }
}

/// What a preview assumes beyond what is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assumption {
    /// This policy.
    pub policy: Policy,
    /// This qualification of a text; `Some(None)` of it: that of the rule, as if no person had spoken.
    pub qualification: Option<(TextKey, Option<Qualification>)>,
}

/// One address that changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The address, folded.
    pub address: Box<str>,
    /// Where it stood.
    pub before: Condition,
    /// Where it stands now. [`Condition::default`] for an address that is not known any more.
    pub after: Condition,
    /// Whether the store still knows the address.
    pub known: bool,
}

impl Change {
    /// Whether state or reason differ; else only dates or counts do.
    #[must_use]
    pub fn is_visible(&self) -> bool {
        (self.before.state, self.before.reason) != (self.after.state, self.after.reason)
    }
}

/// Applies a task to the history of one address, in memory, and judges. Answers the entries that change
/// (places in `history.entries`) and the new condition.
pub fn work_on(
    history: &mut History,
    work: &Work,
    task: u64,
    assumption: &Assumption,
    now: Timestamp,
) -> (Vec<usize>, Condition) {
    let mut changed = Vec::new();
    for (index, entry) in history.entries.iter_mut().enumerate() {
        if let Some((key, person)) = &assumption.qualification
            && entry.failure().is_some_and(|(failure, _)| failure.text == *key)
        {
            entry.person = *person;
        }
        if let Some(standing) = work.changes(entry, task) {
            entry.standing = standing;
            changed.push(index);
        }
    }
    (changed, judge(history, &assumption.policy, now))
}

/// Changes of so many addresses are listed in a [`Difference`].
pub const EXAMPLES: usize = 100;

/// What a task did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Addresses looked at.
    pub addresses: u64,
    /// Entries that change.
    pub entries: u64,
    /// How many addresses go from which state to which.
    pub states: Vec<(State, State, u64)>,
    /// The first addresses whose state or reason changes.
    pub examples: Vec<Change>,
}

impl Difference {
    /// Takes in one address that was looked at.
    pub fn add(&mut self, change: &Change, entries: u64) {
        self.addresses += 1;
        self.entries += entries;
        if !change.is_visible() {
            return;
        }
        self.count(change.before.state, change.after.state, 1);
        if self.examples.len() < EXAMPLES {
            self.examples.push(change.clone());
        }
    }

    /// Takes in the difference of another stretch.
    pub fn join(&mut self, other: Self) {
        self.addresses += other.addresses;
        self.entries += other.entries;
        for (from, to, count) in other.states {
            self.count(from, to, count);
        }
        let room = EXAMPLES.saturating_sub(self.examples.len());
        self.examples.extend(other.examples.into_iter().take(room));
    }

    fn count(&mut self, from: State, to: State, count: u64) {
        match self.states.iter_mut().find(|(a, b, _)| (*a, *b) == (from, to)) {
            Some(known) => known.2 += count,
            None => {
                self.states.push((from, to, count));
                self.states.sort_unstable();
            }
        }
    }
}
