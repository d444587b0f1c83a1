//! Budgets: their names, their state, and the answer "not now".
//!
//! A budget is named by its rule and what the rule counts over. Its counts are the sums of the
//! counts of its paths, kept up to date with every grant and rebuilt when the rules change.

use core::fmt;
use core::net::IpAddr;
use std::sync::Arc;

use mail::id::{DeliveryId, SourceId};
use mail::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::meter::Meter;
use crate::ruling::{BudgetLimits, Governed, Pacing, Scope};
use crate::slots::{HOUR_SLOTS, MINUTE_SECONDS, Window};

/// Source × target: what is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PathKey {
    /// Our side.
    pub source: SourceId,
    /// The address of the mail exchanger.
    pub target: IpAddr,
}

impl fmt::Display for PathKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}>{}", self.source, self.target)
    }
}

/// Which of a rule's budgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScopeKey {
    /// That of one path.
    Path(PathKey),
    /// That of one source.
    Source(SourceId),
    /// The only one.
    Rule,
}

impl ScopeKey {
    /// The key under which `path` counts in a rule of this scope.
    #[must_use]
    pub const fn new(scope: Scope, path: PathKey) -> Self {
        match scope {
            Scope::Path => Self::Path(path),
            Scope::Source => Self::Source(path.source),
            Scope::Rule => Self::Rule,
        }
    }

    /// The scope it belongs to.
    #[must_use]
    pub const fn scope(self) -> Scope {
        match self {
            Self::Path(_) => Scope::Path,
            Self::Source(_) => Scope::Source,
            Self::Rule => Scope::Rule,
        }
    }
}

impl fmt::Display for ScopeKey {
    /// `s1>192.0.2.1`, `s1` or `all`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.fmt(out),
            Self::Source(source) => source.fmt(out),
            Self::Rule => out.write_str("all"),
        }
    }
}

/// The name of a budget.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BudgetKey {
    /// The name of the rule.
    pub rule: Arc<str>,
    /// Which of its budgets.
    pub scope: ScopeKey,
}

impl fmt::Display for BudgetKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} [{}]", self.rule, self.scope)
    }
}

impl Serialize for BudgetKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;
        let mut fields = serializer.serialize_struct("BudgetKey", 2)?;
        fields.serialize_field("rule", &*self.rule)?;
        fields.serialize_field("scope", &self.scope)?;
        fields.end()
    }
}

/// A limit per hour beside the rules, with a counter of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CapKey {
    /// Over all messages of one delivery.
    Delivery(DeliveryId),
    /// Over all messages of one tenant.
    Tenant(String),
}

impl fmt::Display for CapKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delivery(delivery) => write!(out, "delivery {delivery}"),
            Self::Tenant(tenant) => write!(out, "tenant {tenant}"),
        }
    }
}

/// Whose limit it is that makes somebody wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LimitName {
    /// A budget of the MX rules.
    Budget(BudgetKey),
    /// The hourly cap of a source over all its paths.
    Source(SourceId),
    /// A named cap.
    Cap(CapKey),
    /// A warm-up cap of a source; with a rule: that of the source at this provider.
    #[serde(rename = "warm-up")]
    WarmUp {
        /// The source.
        source: SourceId,
        /// The name of the rule.
        rule: Option<Box<str>>,
    },
    /// The memory of the ledger itself.
    Ledger,
}

impl fmt::Display for LimitName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Budget(key) => key.fmt(out),
            Self::Source(source) => write!(out, "source {source}"),
            Self::Cap(cap) => cap.fmt(out),
            Self::WarmUp { source, rule: None } => write!(out, "warm-up of source {source}"),
            Self::WarmUp { source, rule: Some(rule) } => {
                write!(out, "warm-up of source {source} at {rule}")
            }
            Self::Ledger => out.write_str("the ledger"),
        }
    }
}

/// Which kind of limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaitKind {
    /// Messages in a sliding hour.
    HourWindow,
    /// Messages in a period of five minutes (staircase pacing).
    Period,
    /// Messages by now in this slot (even pacing).
    Pace,
    /// The slot is about to end: a token of it could not be used in time any more.
    SlotEdge,
    /// Messages of the source in a sliding hour.
    SourceCap,
    /// Messages of a delivery or tenant in a sliding hour.
    Cap,
    /// Messages of a source that is warmed up in a sliding hour.
    WarmUpHour,
    /// Messages of a source that is warmed up in a sliding day.
    WarmUpDay,
    /// Messages of a source that is warmed up in a sliding day at one provider.
    WarmUpProvider,
    /// Connections open at once.
    ConnectionLimit,
    /// Connections started in a minute.
    ConnectRate,
    /// Time between two connection starts.
    MinInterval,
    /// The ledger counts as many paths or caps as it may, and none of them is idle.
    LedgerFull,
}

/// "Not now": which limit, how full it is, and when to ask again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Wait {
    /// The earliest time at which at least one token, or the permit, can be granted if nobody else
    /// takes it. Exact for tokens, connection rates and intervals. For [`WaitKind::ConnectionLimit`]
    /// it is when leases of other owners end unless they are renewed; a release may come sooner,
    /// and where only a release can help it is `None`. `None` also for a limit of 0.
    pub until: Option<Timestamp>,
    /// Whose limit; of several the one that lasts longest.
    pub limit: LimitName,
    /// Which kind of limit.
    pub kind: WaitKind,
    /// The limit: messages, connections, or milliseconds for [`WaitKind::MinInterval`].
    pub limit_value: u64,
    /// What is used of it. May be more than the limit after the limit was lowered.
    pub used: u64,
}

/// The state of one budget.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    pub(crate) key: BudgetKey,
    pub(crate) pacing: Pacing,
    pub(crate) limits: BudgetLimits,
    /// Tokens per slot.
    pub(crate) spent: Window,
    /// Connection starts per second.
    pub(crate) starts: Window,
    pub(crate) last_start: Option<Timestamp>,
    /// Permits held on its paths.
    pub(crate) connections: u32,
    /// Paths that count in it.
    pub(crate) paths: u32,
}

impl Budget {
    /// An unused budget.
    pub(crate) fn new(key: BudgetKey, governed: &Governed<'_>) -> Self {
        Self {
            key,
            pacing: governed.pacing,
            limits: governed.limits,
            spent: Window::new(HOUR_SLOTS),
            starts: Window::new(MINUTE_SECONDS),
            last_start: None,
            connections: 0,
            paths: 0,
        }
    }

    /// What measures its tokens.
    pub(crate) fn meter(&self) -> Meter<'_> {
        Meter::new(&self.spent, self.limits.messages_per_hour, self.pacing)
    }

    /// The limit that forbids a connection start at `now` for longest, if one does. `room_at` says
    /// when leases end so that there is room for one more connection.
    pub(crate) fn connect_wait(
        &self,
        now: Timestamp,
        room_at: impl FnOnce() -> Option<Timestamp>,
    ) -> Option<Wait> {
        let wait = |until, kind, limit_value, used| {
            Some(Wait {
                until,
                limit: LimitName::Budget(self.key.clone()),
                kind,
                limit_value,
                used,
            })
        };
        let limits = &self.limits;
        let full = if self.connections >= limits.max_connections {
            let (limit, used) = (limits.max_connections.into(), self.connections.into());
            wait(room_at(), WaitKind::ConnectionLimit, limit, used)
        } else {
            None
        };
        let second = now.as_secs();
        let rate = limits.connections_per_minute.and_then(|limit| {
            let used = self.starts.sum(second);
            let free = self.starts.first_below(limit.into(), second);
            let until = free.map(Timestamp::from_secs);
            if used >= limit.into() {
                wait(until, WaitKind::ConnectRate, limit.into(), used)
            } else {
                None
            }
        });
        let interval = limits.min_interval.zip(self.last_start).and_then(|(interval, last)| {
            if last + interval <= now {
                return None;
            }
            let millis =
                |span: core::time::Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
            let passed = millis(now.since(last));
            wait(Some(last + interval), WaitKind::MinInterval, millis(interval), passed)
        });
        latest(full, latest(rate, interval))
    }
}

/// The wait that lasts longer; one without an end lasts longest.
pub(crate) fn latest(one: Option<Wait>, two: Option<Wait>) -> Option<Wait> {
    let end = |wait: &Wait| wait.until.unwrap_or(Timestamp::NEVER);
    match (one, two) {
        (Some(one), Some(two)) => Some(if end(&two) > end(&one) { two } else { one }),
        (one, two) => one.or(two),
    }
}
