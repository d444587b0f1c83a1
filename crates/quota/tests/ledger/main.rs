//! The ledger from outside: cases with their figures, and random histories against a naive model.

// The name under which the other crates know it.
extern crate mailweir_quota as quota;

mod cases;
mod model;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use mail::id::SourceId;
use mail::time::Timestamp;
use quota::{
    BudgetLimits, Governed, Ledger, NodeId, Owner, Pacing, PathKey, Ruling, Scope, Settings,
    TokenAnswer, TokenRequest,
};

/// A rule of a test.
#[derive(Clone, Debug)]
struct TestRule {
    name: String,
    scope: Scope,
    pacing: Pacing,
    limits: BudgetLimits,
}

/// Rules by exact MX host name; a source's level divides the hourly limit.
#[derive(Clone, Debug, Default)]
struct TestRules {
    hosts: BTreeMap<String, TestRule>,
    divisors: BTreeMap<SourceId, u32>,
    version: u64,
}

impl TestRules {
    fn limits(&self, source: SourceId, host: &str) -> BudgetLimits {
        let mut limits = self.hosts[host].limits;
        let divisor = self.divisors.get(&source).copied().unwrap_or(1);
        if limits.messages_per_hour > 0 {
            limits.messages_per_hour = (limits.messages_per_hour / divisor).max(1);
        }
        limits
    }
}

impl Ruling for TestRules {
    fn governing(&self, source: SourceId, mx_host: &str) -> Governed<'_> {
        let rule = &self.hosts[mx_host];
        Governed {
            rule: &rule.name,
            scope: rule.scope,
            pacing: rule.pacing,
            limits: self.limits(source, mx_host),
        }
    }

    fn version(&self) -> u64 {
        self.version
    }
}

const NODE: Owner = Owner { node: NodeId(1), incarnation: 1 };

/// A time with nothing special about it, at the start of a period.
const START: Timestamp = Timestamp::from_secs(1_700_000_100);

fn limits(messages_per_hour: u32, max_connections: u32) -> BudgetLimits {
    BudgetLimits {
        messages_per_hour,
        max_connections,
        connections_per_minute: None,
        min_interval: None,
    }
}

/// One rule `rule` for the host `mx`.
fn one_rule(scope: Scope, pacing: Pacing, limits: BudgetLimits) -> Arc<TestRules> {
    let rule = TestRule { name: "rule".into(), scope, pacing, limits };
    Arc::new(TestRules { hosts: BTreeMap::from([("mx".into(), rule)]), ..TestRules::default() })
}

fn fresh(rules: Arc<TestRules>) -> Ledger {
    Ledger::restore(Settings::default(), rules, NODE, START, [])
}

fn path(source: u32, target: u8) -> PathKey {
    let target = IpAddr::V4(Ipv4Addr::new(203, 0, 113, target));
    PathKey { source: SourceId(source), target }
}

fn ask(ledger: &mut Ledger, now: Timestamp, path: PathKey, want: u32) -> TokenAnswer {
    let request = TokenRequest { path, mx_host: "mx", want, source_limit: None, caps: &[] };
    ledger.ask_tokens(now, &request)
}

/// The most that any closed span of `span` microseconds contains.
fn densest(uses: &[(u64, u64)], span: u64) -> u64 {
    assert!(uses.is_sorted_by_key(|(at, _)| *at));
    let (mut most, mut sum, mut oldest) = (0, 0, 0);
    for (at, count) in uses {
        sum += count;
        while uses[oldest].0 + span < *at {
            sum -= uses[oldest].1;
            oldest += 1;
        }
        most = most.max(sum);
    }
    most
}
