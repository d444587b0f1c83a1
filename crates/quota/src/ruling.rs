//! What the ledger asks of the MX rules.
//!
//! The ledger does not know masks, levels or files. It asks which rule governs a source at an MX
//! host and remembers nothing of the answer but the name of the rule: the name is what survives a
//! change of the rules, so a rule should keep its name when its figures change.

use core::time::Duration;

use mail::id::SourceId;
pub use rules::{Pacing, Scope};
use serde::{Deserialize, Serialize};

/// The limits of one budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetLimits {
    /// Messages (recipients) in any 3,600 s. 0: nothing is ever granted.
    pub messages_per_hour: u32,
    /// Connections open at once. 0: none is ever granted.
    pub max_connections: u32,
    /// Connections started in any 60 s; `None`: no such limit.
    pub connections_per_minute: Option<u32>,
    /// Time between two connection starts, at most one hour; `None`: none is required.
    pub min_interval: Option<Duration>,
}

impl BudgetLimits {
    /// The tighter of the two, field by field.
    #[must_use]
    pub fn tightest(self, other: Self) -> Self {
        Self {
            messages_per_hour: self.messages_per_hour.min(other.messages_per_hour),
            max_connections: self.max_connections.min(other.max_connections),
            connections_per_minute: match (
                self.connections_per_minute,
                other.connections_per_minute,
            ) {
                (Some(one), Some(two)) => Some(one.min(two)),
                (one, two) => one.or(two),
            },
            min_interval: self.min_interval.max(other.min_interval),
        }
    }
}

/// The rule that governs a source at an MX host, with the limits for that source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Governed<'a> {
    /// The stable name of the rule.
    pub rule: &'a str,
    /// What its limits count over.
    pub scope: Scope,
    /// How the hour is spread.
    pub pacing: Pacing,
    /// The limits at the level of the source. Where the scope is [`Scope::Rule`] and sources have
    /// different levels, the ledger uses the tightest of those that it has met.
    pub limits: BudgetLimits,
}

/// The rules in force. The answers of one `Ruling` never change; changed rules are another one,
/// given to [`Ledger::replace_rules`](crate::Ledger::replace_rules).
pub trait Ruling {
    /// The rule for `source` at the MX host `mx_host` (lower case, no final dot). Total: a rule set
    /// always ends with a rule for everything.
    fn governing(&self, source: SourceId, mx_host: &str) -> Governed<'_>;

    /// Grows with every change of the rules.
    fn version(&self) -> u64;
}

impl Ruling for rules::RuleSet {
    fn governing(&self, source: SourceId, mx_host: &str) -> Governed<'_> {
        let id = self.find(mx_host, source);
        let rule = self.rule(id);
        let limits = self.limits(id, source);
        Governed {
            rule: &rule.name,
            scope: rule.scope,
            pacing: rule.pacing,
            limits: BudgetLimits {
                messages_per_hour: limits.messages_per_hour,
                max_connections: limits.max_connections,
                connections_per_minute: limits.connections_per_minute,
                min_interval: limits.min_interval,
            },
        }
    }

    fn version(&self) -> u64 {
        Self::version(self)
    }
}
