//! The answer of `mx explain`: what its JSON has, field by field.

use std::net::IpAddr;

use mail::route::RouteFault;
use rules::{
    Confidence, ExplainedFigure, Level, LevelOrigin, Limits, Pacing, Scope, Timeouts, TlsPolicy,
};
use serde::Serialize;

use crate::mx::live;

/// A source as the explanation shows it.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedSource {
    /// Its number.
    pub id: u32,
    /// The address that it is bound to; `None` when no configuration says.
    pub address: Option<IpAddr>,
    /// Its HELO name.
    pub helo: Option<String>,
    /// Its cap over all rules.
    pub cap_per_hour: Option<u32>,
    /// Whether it may write to this domain.
    pub used: bool,
    /// Why it is not used.
    pub why_not: Option<String>,
}

/// The rule of an MX host.
#[derive(Clone, Debug, Serialize)]
pub struct HostRule {
    /// Its name.
    pub name: String,
    /// The provider.
    pub provider: String,
    /// The file in which it stands.
    pub file: String,
    /// Its line.
    pub line: u32,
    /// Its column.
    pub column: u32,
    /// The mask that matched.
    pub mask: String,
    /// The sources that it is for.
    pub sources: String,
    /// Where its figures come from.
    pub source_of_figures: String,
    /// How far they can be trusted.
    pub confidence: Confidence,
}

/// An MX host and what holds for it.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedHost {
    /// Its name.
    pub name: String,
    /// Lowest first.
    pub preference: u16,
    /// All its addresses.
    pub addresses: Vec<IpAddr>,
    /// The rule for the first source.
    pub rule: HostRule,
    /// The level for the first source.
    pub level: Level,
    /// Who set it.
    pub level_origin: LevelOrigin,
    /// What the limits count over.
    pub scope: Scope,
    /// How the hour is spread.
    pub pacing: Pacing,
    /// Whether conversations are encrypted.
    pub tls: TlsPolicy,
    /// How long conversations wait.
    pub timeouts: Timeouts,
    /// The limits for the first source.
    pub limits: Limits,
    /// Where each comes from.
    pub figures: Vec<ExplainedFigure>,
    /// Sources for which another rule or level holds.
    pub other_sources: Vec<OtherSource>,
}

/// A source for which an MX host has another rule or level.
#[derive(Clone, Debug, Serialize)]
pub struct OtherSource {
    /// The source.
    pub source: u32,
    /// Its rule.
    pub rule: String,
    /// Its level.
    pub level: Level,
    /// Its limits.
    pub limits: Limits,
}

/// A path: source × target.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedPath {
    /// The source.
    pub source: u32,
    /// The target.
    pub target: IpAddr,
    /// The MX hosts under which it is reached.
    pub mx_hosts: Vec<String>,
    /// The rule of the first of them.
    pub rule: String,
    /// What a running node says.
    #[serde(flatten)]
    pub live: Option<live::LivePath>,
}

/// A budget.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedBudget {
    /// Its rule.
    pub rule: String,
    /// What it counts over.
    pub scope: Scope,
    /// `s1`, `s1>192.0.2.1` or `all`.
    pub key: String,
    /// Messages in any hour.
    pub limit_per_hour: u32,
    /// Connections at one time.
    pub max_connections: u32,
    /// Paths that count in it.
    pub paths: u64,
    /// What a running node says.
    #[serde(flatten)]
    pub live: Option<live::LiveBudget>,
}

/// The ceiling of one rule.
#[derive(Clone, Debug, Serialize)]
pub struct Ceiling {
    /// The rule.
    pub rule: String,
    /// What it counts over.
    pub scope: Scope,
    /// Sources that use it.
    pub sources: u64,
    /// Targets that it governs.
    pub targets: u64,
    /// Its budgets.
    pub budgets: u64,
    /// `10,000 × 14 = 140,000`.
    pub arithmetic: String,
    /// Messages in any hour, by the rule alone.
    pub ceiling_per_hour: u64,
}

/// The whole answer.
#[derive(Clone, Debug, Serialize)]
pub struct Explained {
    /// What was asked.
    pub query: String,
    /// The domain; `None`: a name taken as that of an MX host.
    pub domain: Option<String>,
    /// Why there is no route.
    pub route_fault: Option<RouteFault>,
    /// In the order in which they are tried.
    pub mx_hosts: Vec<ExplainedHost>,
    /// Our side.
    pub sources: Vec<ExplainedSource>,
    /// Distinct addresses.
    pub targets: u64,
    /// Every one once.
    pub paths: Vec<ExplainedPath>,
    /// How many there are.
    pub paths_total: u64,
    /// Every one once.
    pub budgets: Vec<ExplainedBudget>,
    /// One for each rule.
    pub ceilings: Vec<Ceiling>,
    /// Messages in any hour over everything.
    pub ceiling_per_hour: u64,
    /// Whether a running node was asked.
    pub live: bool,
    /// In words.
    pub notes: Vec<String>,
}
