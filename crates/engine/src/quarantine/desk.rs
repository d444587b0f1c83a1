//! Where everything that happens to addresses is handed in.

use core::time::Duration;
use std::sync::Arc;

use mail::failure::Reason;
use mail::time::Timestamp;

use super::admission::{AdmissionSet, Mark};
use super::evidence::{Evidence, Finding};
use super::guard::{GuardAlert, OutageGuard};
use super::ledger::{Author, HoldEnd, HoldRecord, LedgerWrite, MetText, NewEntry, SeenKey, Stray};
use super::policy::Policy;
use super::state::State;
use super::suppression::{AddressHash, PublishedList, Suppressed};
use super::task::{Change, Selection, Work};

/// What a person should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alert {
    /// The outage guard tripped or calmed down.
    Guard(GuardAlert),
}

/// What is to be done after something was handed in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// To be made durable, in this order.
    pub writes: Vec<LedgerWrite>,
    /// To be told.
    pub alerts: Vec<Alert>,
}

/// Holds the admission set, the outage guard and the policy of a node. One thread hands in; many may ask
/// [`Desk::admission`].
#[derive(Clone, Debug)]
pub struct Desk {
    policy: Arc<Policy>,
    set: AdmissionSet,
    guard: OutageGuard,
}

impl Desk {
    /// A desk that knows no address.
    #[must_use]
    pub fn new(policy: Arc<Policy>, guard: OutageGuard) -> Self {
        Self { policy, set: AdmissionSet::new(), guard }
    }

    /// The policy in force.
    #[must_use]
    pub const fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// Puts another policy in force. What it changes about addresses is a task: [`Work::Everyone`].
    pub fn set_policy(&mut self, policy: Arc<Policy>) {
        self.policy = policy;
    }

    /// Who may be written to.
    #[must_use]
    pub const fn admission(&self) -> &AdmissionSet {
        &self.set
    }

    /// The outage guard, to restore it and to keep what changed.
    pub const fn guard(&mut self) -> &mut OutageGuard {
        &mut self.guard
    }

    /// Takes in what the store knows about a folded address, at the start.
    pub fn load(&mut self, folded: &str, mark: Mark) {
        self.set.put(&AddressHash::of(folded), Some(mark));
    }

    /// Takes in what is on the suppression list, at the start and after a durable change.
    pub fn suppress(&mut self, entry: &Suppressed, suppressed: bool) {
        match entry {
            Suppressed::Address(hash) => self.set.suppress(hash, suppressed),
            Suppressed::Domain(mask) => self.set.suppress_domain(mask.clone(), suppressed),
        }
    }

    /// Takes in a suppression list that somebody else publishes, in place of the one before.
    pub fn publish(&mut self, list: Arc<PublishedList>) {
        self.set.publish(list);
    }

    /// Takes in changes that are durable.
    pub fn learn(&mut self, changes: &[Change]) {
        for change in changes {
            let mark = change.known.then(|| Mark::from(&change.after));
            self.set.put(&AddressHash::of(&change.address), mark);
        }
    }

    /// Hands in what happened. A delivery is recorded only where it says something: the address has
    /// errors, or had some.
    ///
    /// What is not authentic is counted as forged and changes nothing.
    #[must_use]
    pub fn record(
        &mut self,
        evidence: Evidence,
        text: Option<MetText>,
        seen: Vec<SeenKey>,
        now: Timestamp,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        if !evidence.authentic {
            outcome.writes.push(LedgerWrite::Stray { kind: Stray::Forged, count: 1, at: now });
            return outcome;
        }
        let unknown = match &evidence.finding {
            Finding::Delivered => Some(false),
            Finding::Failed(failure) => match failure.qualification.reason {
                Reason::UserUnknown => Some(true),
                Reason::ErrorIgnored | Reason::Complaint => None,
                _ => Some(false),
            },
        };
        let alert = unknown
            .and_then(|unknown| self.guard.observe(&evidence.provider, evidence.at, unknown));
        // An outcome that shows that the provider calmed down is not doubted itself.
        let hold = self.guard.hold_of(&evidence.provider).filter(|_| unknown == Some(true));
        if self.is_worth_recording(&evidence) {
            let entries = vec![NewEntry { evidence, hold, text, seen }];
            let policy = Arc::clone(&self.policy);
            outcome.writes.push(LedgerWrite::Record { entries, policy, now });
        } else if let Some(text) = text {
            outcome.writes.push(LedgerWrite::Meet(vec![text]));
        }
        if let Some(alert) = alert {
            outcome.writes.extend(consequences(&alert, now));
            outcome.alerts.push(Alert::Guard(alert));
        }
        outcome
    }

    fn is_worth_recording(&self, evidence: &Evidence) -> bool {
        let state = || self.set.mark(&evidence.hash()).state();
        !evidence.is_delivery() || matches!(state(), Some(State::Valid | State::WithErrors))
    }
}

/// What is to be made durable when the guard speaks.
fn consequences(alert: &GuardAlert, now: Timestamp) -> Vec<LedgerWrite> {
    let author = |why: String| Author { who: "outage guard".into(), why: why.into() };
    match alert {
        GuardAlert::Tripped { hold, provider, doubted_since, usual_permille, sudden_permille } => {
            let record = HoldRecord {
                hold: *hold,
                provider: provider.clone(),
                doubted_since: *doubted_since,
                tripped_at: now,
                usual_permille: *usual_permille,
                sudden_permille: *sudden_permille,
                ended: None,
                who: "".into(),
                why: "".into(),
            };
            let selection = Selection {
                from: *doubted_since,
                // What comes later is held when it is recorded.
                to: now + Duration::from_millis(1),
                provider: Some(provider.clone()),
                reason: Some(Reason::UserUnknown),
                ..Selection::default()
            };
            let why = format!(
                "{provider} calls {}.{} % of its recipients unknown; usual are {}.{} %",
                sudden_permille / 10,
                sudden_permille % 10,
                usual_permille / 10,
                usual_permille % 10
            );
            let work = Work::Hold { hold: *hold, selection };
            vec![LedgerWrite::Hold(record), LedgerWrite::Start { work, author: author(why), now }]
        }
        GuardAlert::CalmedDown { hold, provider, held } => {
            let why = format!("{provider} is its usual self again; {held} replies were held back");
            let (end, author) = (HoldEnd::CalmedDown, author(why));
            vec![LedgerWrite::EndHold { hold: *hold, end, author, now }]
        }
    }
}
