//! What follows from which reason.

use core::time::Duration;

use mail::failure::{FailureType, Reason};
use serde::{Deserialize, Serialize};

const DAY: Duration = Duration::from_secs(86_400);

/// What one reason does to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ReasonPolicy {
    /// The error that quarantines the address, from 1 to 255; `None`: the reason never counts.
    pub quarantine_at: Option<u8>,
    /// The same for evidence of type Soft: a server that says "no such user" but with a temporary code
    /// is not believed at once. `None`: as `quarantine_at`.
    pub quarantine_at_when_soft: Option<u8>,
    /// How long the quarantine lasts; `None`: until somebody ends it.
    pub release_after: Option<Duration>,
    /// The first such report denylists the address. Outranks `quarantine_at`.
    pub denylist: bool,
}

impl ReasonPolicy {
    /// A reason that never counts.
    pub const NEVER: Self = Self {
        quarantine_at: None,
        quarantine_at_when_soft: None,
        release_after: None,
        denylist: false,
    };

    const fn at(error: u8) -> Self {
        Self { quarantine_at: Some(error), ..Self::NEVER }
    }

    /// The error at which evidence of this type quarantines; `None`: never.
    #[must_use]
    pub const fn threshold(&self, failure_type: FailureType) -> Option<u8> {
        match (self.quarantine_at, self.quarantine_at_when_soft, failure_type) {
            (None, ..) | (_, _, FailureType::Ignored) => None,
            (Some(_), Some(soft), FailureType::Soft) => Some(soft),
            (at, ..) => at,
        }
    }
}

/// The whole policy. [`Policy::default`] is the table of the documentation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Policy {
    /// In the order of [`Reason::ALL`].
    reasons: [ReasonPolicy; Reason::ALL.len()],
    /// The least time between two errors of an address that both count.
    pub significance: Duration,
    /// So long after the last counted error the count begins anew.
    pub reset_after: Duration,
}

/// A policy that contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyFault {
    /// A threshold of 0.
    #[error("the quarantine policy of `{0}` counts from the 0th error; the first one is 1")]
    Zero(Reason),
    /// A release at once.
    #[error(
        "the quarantine for `{0}` would end as soon as it begins; release after at least an hour, or never"
    )]
    ReleasedAtOnce(Reason),
    /// No span to count in.
    #[error(
        "errors are forgotten after {reset_s} seconds, but only one counts in {significance_s}: no second one can ever count; make the first span longer than the second"
    )]
    NothingAddsUp {
        /// The span after which the count begins anew, in seconds.
        reset_s: u64,
        /// The least time between two errors, in seconds.
        significance_s: u64,
    },
}

impl Default for Policy {
    /// User unknown and account disabled at the first error (at the third, if the server only deferred);
    /// mailbox full at the third, for 30 days; inactive user and invalid domain at the third; unreachable at the fifth;
    /// refused, ignored and not defined never; a complaint denylists. One error a day, anew after 10
    /// quiet days.
    fn default() -> Self {
        let mut policy = Self {
            reasons: [ReasonPolicy::NEVER; Reason::ALL.len()],
            significance: DAY,
            reset_after: 10 * DAY,
        };
        let believed = ReasonPolicy { quarantine_at_when_soft: Some(3), ..ReasonPolicy::at(1) };
        let full = ReasonPolicy { release_after: Some(30 * DAY), ..ReasonPolicy::at(3) };
        policy.set(Reason::UserUnknown, believed);
        policy.set(Reason::AccountDisabled, believed);
        policy.set(Reason::MailboxFull, full);
        policy.set(Reason::InactiveUser, ReasonPolicy::at(3));
        policy.set(Reason::InvalidDomain, ReasonPolicy::at(3));
        policy.set(Reason::Unreachable, ReasonPolicy::at(5));
        policy.set(Reason::Complaint, ReasonPolicy { denylist: true, ..ReasonPolicy::NEVER });
        policy
    }
}

impl Policy {
    /// What one reason does.
    #[must_use]
    pub const fn of(&self, reason: Reason) -> &ReasonPolicy {
        &self.reasons[reason as usize]
    }

    /// Sets what one reason does.
    pub const fn set(&mut self, reason: Reason, policy: ReasonPolicy) {
        self.reasons[reason as usize] = policy;
    }

    /// Looks for contradictions.
    ///
    /// # Errors
    /// The first one found.
    pub fn check(&self) -> Result<(), PolicyFault> {
        for reason in Reason::ALL {
            let policy = self.of(reason);
            if policy.quarantine_at == Some(0) || policy.quarantine_at_when_soft == Some(0) {
                return Err(PolicyFault::Zero(reason));
            }
            if policy.release_after.is_some_and(|span| span < Duration::from_secs(3_600)) {
                return Err(PolicyFault::ReleasedAtOnce(reason));
            }
        }
        if self.reset_after <= self.significance {
            return Err(PolicyFault::NothingAddsUp {
                reset_s: self.reset_after.as_secs(),
                significance_s: self.significance.as_secs(),
            });
        }
        Ok(())
    }
}
