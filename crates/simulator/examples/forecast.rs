//! How long the run ahead takes for much mail: `[RECIPIENTS] [DOMAINS]`, a million over ten thousand unless told.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::work::DeliveryOptions;
use engine::{Affinity, Settings, Source, Sources};
use mail::id::{DeliveryId, SourceId};
use mail::route::{MxHost, MxRoute};
use mail::time::Timestamp;
use mailweir_simulator::{AheadInput, Latency, Waiting, ahead};
use quota::{Ledger, NodeId, Owner};
use rules::{Levels, RuleSet};

const RULES: &str = "schema_version = 1
[[rule]]
name = \"big\"
mask = \"mx.p0.example\"
messages_per_hour = 100000
max_connections = 20
[[rule]]
name = \"rest\"
mask = \"*\"
messages_per_hour = 5000
";

fn main() -> ExitCode {
    let numbers: Result<Vec<u64>, _> = std::env::args().skip(1).map(|text| text.parse()).collect();
    let Ok(numbers) = numbers else {
        eprintln!("usage: forecast [RECIPIENTS] [DOMAINS]");
        return ExitCode::from(2);
    };
    let recipients = numbers.first().copied().unwrap_or(1_000_000);
    let domains = numbers.get(1).copied().unwrap_or(10_000).max(1);
    let input = input(recipients, domains);
    let began = Instant::now();
    let report = ahead(input);
    let took = began.elapsed();
    let gone: u64 = report.domains.values().map(|course| course.messages).sum();
    println!(
        "{gone} of {recipients} messages for {domains} domains foreseen in {took:.2?}; {} groups, the last at {:?}",
        report.groups.len(),
        report.finished_at.map(|at| at.to_string())
    );
    ExitCode::SUCCESS
}

/// Half of the mail is for the domains of five large providers, the rest for domains with hosts of their own.
fn input(recipients: u64, domains: u64) -> AheadInput {
    let now = Timestamp::from_secs(1_800_000_000);
    let file = rules::parse("rules.toml", RULES.as_bytes()).expect("the rules are well formed");
    let rules = Arc::new(RuleSet::compile(&file, &Levels::default(), 1));
    let owner = Owner { node: NodeId(1), incarnation: 1 };
    let ledger =
        Ledger::restore(quota::Settings::default(), Arc::clone(&rules) as _, owner, now, []);
    let source = |id| Source {
        id: SourceId(id),
        weight: 1,
        include_domains: vec![],
        exclude_domains: vec![],
        ipv6: false,
    };
    let affinity = Affinity { name: "default".into(), sources: vec![SourceId(1), SourceId(2)] };
    let mut routes = BTreeMap::new();
    let mut waiting = Vec::new();
    let mut latencies = BTreeMap::new();
    for number in 0..domains {
        let domain: Box<str> = format!("d{number}.example").into();
        // Every second domain belongs to one of five providers.
        let host = if number % 2 == 0 { number / 2 % 5 } else { number };
        let octets = (u32::try_from(host).unwrap_or(0) + 1).to_be_bytes();
        let route = Arc::new(MxRoute {
            hosts: vec![MxHost {
                preference: 10,
                name: format!("mx.p{host}.example").into(),
                addresses: vec![[10, octets[1], octets[2], octets[3]].into()],
            }],
            port: 25,
            lmtp: false,
            relay: false,
            tls: None,
            valid_until: Timestamp::NEVER,
        });
        latencies.insert(
            mail::route::group_key(&route),
            Latency { set_up: Duration::from_millis(200), message: Duration::from_millis(100) },
        );
        routes.insert(domain.clone(), route);
        waiting.push(Waiting {
            domain,
            delivery: DeliveryId(1 + number % 3),
            options: DeliveryOptions::default(),
            count: recipients / domains + u64::from(number < recipients % domains),
            due: Timestamp::EPOCH,
        });
    }
    AheadInput {
        now,
        ledger,
        owner,
        sources: Sources::new(vec![source(1), source(2)], vec![affinity])
            .expect("the sources have their own numbers"),
        source_limits: BTreeMap::new(),
        rules,
        settings: Settings::default(),
        routes,
        waiting,
        latencies,
        latency: Latency::default(),
        horizon: Duration::from_secs(5 * 86_400),
    }
}
