//! Why a message waits: a closed list (DESIGN 6).

use core::fmt;

use mail::time::Timestamp;
use serde::Serialize;

use crate::event::{QuotaLimit, QuotaWait};
use crate::path::RestCause;
use crate::reactions::ReactionCited;

/// Why mail is not being sent. Every waiting message has exactly one.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "reason")]
pub enum WaitReason {
    /// Its delivery has not been started.
    DeliveryNotStarted,
    /// Its delivery is paused by a person.
    DeliveryPaused,
    /// Its delivery was cancelled: it is being taken out of the queue.
    DeliveryCancelled,
    /// Its wave has not opened.
    WaveNotOpen,
    /// It was put off after a temporary failure.
    RetryScheduled,
    /// Its due time has not come.
    NotDue,
    /// The route of its domain is being looked up.
    FindingRoute,
    /// DNS failed for now.
    DnsTemporaryFailure {
        /// What it said.
        why: String,
    },
    /// No source of its affinity may write to this domain, or the affinity is unknown.
    NoSource {
        /// The affinity.
        affinity: String,
    },
    /// A limit of the ledger.
    Quota {
        /// Which, and how full.
        wait: QuotaWait,
    },
    /// All paths rest after failures.
    PathResting {
        /// Whether the target was out of reach or would not talk to us.
        cause: RestCause,
        /// What was said last.
        last: String,
    },
    /// A reaction has suspended all paths, or its delivery.
    Suspended {
        /// Which.
        by: ReactionCited,
    },
    /// A reaction lets messages or connections through only now and then.
    Slowed {
        /// Which.
        by: ReactionCited,
    },
    /// As many connections are open as a reaction leaves.
    FewerConnections {
        /// Which.
        by: ReactionCited,
    },
    /// Too many failures: the circuit breaker of the MX group is open.
    BreakerOpen,
    /// As many connections are open as this node may hold.
    NodeConnectionLimit,
    /// The store cannot commit.
    StoreSick,
    /// The node is shutting down; another run goes on.
    NodeDraining,
    /// A connection is being opened.
    Connecting,
    /// It stands behind others of its MX group that are being sent now.
    InTurn,
}

impl WaitReason {
    /// The word used in tables, logs and metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::DeliveryNotStarted => "delivery not started",
            Self::DeliveryPaused => "delivery paused",
            Self::DeliveryCancelled => "delivery cancelled",
            Self::WaveNotOpen => "wave not open",
            Self::RetryScheduled => "retry scheduled",
            Self::NotDue => "not due yet",
            Self::FindingRoute => "finding route",
            Self::DnsTemporaryFailure { .. } => "DNS temporary failure",
            Self::NoSource { .. } => "no source for domain",
            Self::Quota { wait } => match wait.limit {
                QuotaLimit::Hour => "hour quota",
                QuotaLimit::Period => "five-minute quota",
                QuotaLimit::Pace => "even pace",
                QuotaLimit::MinuteEnd => "end of the minute",
                QuotaLimit::Source => "source cap",
                QuotaLimit::WarmUpHour | QuotaLimit::WarmUpDay => "warm-up cap",
                QuotaLimit::WarmUpProvider => "warm-up cap at this provider",
                QuotaLimit::Delivery => "delivery cap",
                QuotaLimit::Connections => "connection limit",
                QuotaLimit::ConnectionRate => "connection rate",
                QuotaLimit::ConnectionInterval => "connection interval",
                QuotaLimit::Ledger => "ledger unreachable",
                QuotaLimit::LedgerFull => "ledger full",
            },
            Self::PathResting { cause: RestCause::Unreachable, .. } => "path resting: unreachable",
            Self::PathResting { cause: RestCause::Refused, .. } => "path resting: refused",
            Self::PathResting { cause: RestCause::Broken, .. } => "path resting: broken off",
            Self::PathResting { cause: RestCause::NoTls, .. } => "path resting: no TLS",
            Self::Suspended { .. } => "suspended by reaction",
            Self::Slowed { .. } => "slowed by reaction",
            Self::FewerConnections { .. } => "fewer connections by reaction",
            Self::BreakerOpen => "breaker open",
            Self::NodeConnectionLimit => "node's connection limit",
            Self::StoreSick => "store cannot commit",
            Self::NodeDraining => "node draining",
            Self::Connecting => "connecting",
            Self::InTurn => "in turn",
        }
    }

    /// The smallest change that would release it, for people; `None` when only time helps.
    #[must_use]
    pub fn smallest_change(&self) -> Option<String> {
        Some(match self {
            Self::DeliveryNotStarted => "start the delivery".into(),
            Self::DeliveryPaused => "resume the delivery".into(),
            Self::WaveNotOpen => "move the start of its wave forward".into(),
            Self::NoSource { affinity } => {
                format!("add a source whose domain masks admit it to affinity \"{affinity}\"")
            }
            Self::Quota { wait } => match wait.limit {
                QuotaLimit::Hour => {
                    format!(
                        "raise messages_per_hour of rule \"{}\" above {} (now used: {}), raise the level, or add a source",
                        wait.rule, shown(wait.figure), shown(wait.used)
                    )
                }
                QuotaLimit::Period => format!(
                    "raise messages_per_hour of rule \"{}\" (this five minutes: {} of {}), or set its pacing to \"burst\"",
                    wait.rule, shown(wait.used), shown(wait.figure)
                ),
                QuotaLimit::Pace => format!(
                    "raise messages_per_hour of rule \"{}\", or set its pacing to \"staircase\" or \"burst\"",
                    wait.rule
                ),
                QuotaLimit::Source => format!("raise the cap of the source above {}", shown(wait.figure)),
                QuotaLimit::WarmUpHour | QuotaLimit::WarmUpDay | QuotaLimit::WarmUpProvider => {
                    "let warmed sources take it (affinity), or look at `mailweir warmup status`"
                        .into()
                }
                QuotaLimit::Delivery => {
                    format!("raise messages_per_hour of the delivery above {}", shown(wait.figure))
                }
                QuotaLimit::Connections => format!(
                    "raise max_connections of rule \"{}\" above {}, or add a source",
                    wait.rule, shown(wait.figure)
                ),
                QuotaLimit::ConnectionRate | QuotaLimit::ConnectionInterval => {
                    format!("relax the connection rate of rule \"{}\"", wait.rule)
                }
                QuotaLimit::Ledger => "mend the store: see `mailweir stat show`".into(),
                QuotaLimit::MinuteEnd | QuotaLimit::LedgerFull => return None,
            },
            Self::Suspended { by } | Self::Slowed { by } | Self::FewerConnections { by } => {
                format!("wait, or lift it: mailweir stat reaction lift R{} --why TEXT", by.id)
            }
            Self::PathResting { cause: RestCause::NoTls, .. } => {
                "let the host offer STARTTLS, or set tls = \"opportunistic\" in what requires it (mail may go in clear then)"
                    .into()
            }
            Self::NodeConnectionLimit => "raise max_connections_total in [smtp_client]".into(),
            Self::StoreSick => "free disk space or mend the store: see the log".into(),
            Self::NodeDraining => "start the node again".into(),
            Self::DeliveryCancelled
            | Self::RetryScheduled
            | Self::NotDue
            | Self::FindingRoute
            | Self::DnsTemporaryFailure { .. }
            | Self::PathResting { .. }
            | Self::BreakerOpen
            | Self::Connecting
            | Self::InTurn => return None,
        })
    }
}

/// A figure of the ledger, for people.
fn shown(figure: u32) -> String {
    rules::show_number(u64::from(figure))
}

impl fmt::Display for WaitReason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())?;
        match self {
            Self::Quota { wait } if wait.limit.is_warm_up() => {
                let source = wait.source.map_or(0, |source| source.0);
                let span = if wait.limit == QuotaLimit::WarmUpHour { "an hour" } else { "a day" };
                write!(out, " of source {source}")?;
                if !wait.rule.is_empty() {
                    write!(out, " (rule {})", wait.rule)?;
                }
                write!(out, ": {} {span} ({} used)", shown(wait.figure), shown(wait.used))
            }
            Self::Quota { wait } if !wait.rule.is_empty() => {
                write!(
                    out,
                    " of rule {} ({} of {})",
                    wait.rule,
                    shown(wait.used),
                    shown(wait.figure)
                )
            }
            Self::DnsTemporaryFailure { why } => write!(out, " ({why})"),
            Self::Suspended { by } | Self::Slowed { by } | Self::FewerConnections { by } => {
                write!(out, " {by}")
            }
            Self::PathResting { last, .. } if !last.is_empty() => write!(out, " ({last})"),
            Self::NoSource { affinity } => write!(out, " (affinity {affinity})"),
            _ => Ok(()),
        }
    }
}

/// A reason with the time at which it may end.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Waiting {
    /// Why.
    #[serde(flatten)]
    pub reason: WaitReason,
    /// When it may move; [`Timestamp::NEVER`]: when a person or another event moves it.
    pub until: Timestamp,
}
