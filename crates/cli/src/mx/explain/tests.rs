use std::collections::BTreeMap;
use std::net::IpAddr;

use lab::Lab;
use mail::route::RouteFault;
use node::config::DnsConfig;
use node::dns::Resolver;
use rules::{Levels, RuleSet, Scope};

use super::gather::FoundHost;
use super::*;
use crate::globals::rule_set;

fn unconfigured(count: u32) -> Vec<ExplainedSource> {
    (1..=count)
        .map(|id| ExplainedSource {
            id,
            address: None,
            helo: None,
            cap_per_hour: None,
            used: true,
            why_not: None,
        })
        .collect()
}

fn found(name: &str, targets: u8) -> Found {
    let addresses = (1..=targets).map(|last| IpAddr::from([192, 0, 2, last])).collect();
    Found {
        query: "example.com".to_owned(),
        domain: Some("example.com".to_owned()),
        hosts: vec![FoundHost { name: name.to_owned(), preference: 10, addresses }],
        fault: None,
        notes: Vec::new(),
    }
}

fn one_rule(scope: &str, per_hour: u32) -> RuleSet {
    let text = format!(
        "schema_version = 1\n[[rule]]\nname = \"big\"\nmask = \"mx.example.com\"\nscope = \"{scope}\"\n\
         messages_per_hour = {per_hour}\n"
    );
    let local = rules::parse_local("local.toml", text.as_bytes()).unwrap();
    let file = rules::RuleFile::combine(Some(&local), rules::shipped());
    RuleSet::compile(&file, &Levels::default(), 1)
}

#[test]
fn the_table_of_budgets_and_ceilings_comes_out() {
    for (sources, targets, scope, per_hour, budgets, ceiling, arithmetic) in [
        (2, 7, "source", 10_000, 2, 20_000, "10,000 × 2 = 20,000"),
        (2, 7, "path", 10_000, 14, 140_000, "10,000 × 14 = 140,000"),
        (1, 5, "source", 1_000, 1, 1_000, "1,000 × 1 = 1,000"),
        (1, 5, "path", 1_000, 5, 5_000, "1,000 × 5 = 5,000"),
        (2, 7, "rule", 10_000, 1, 10_000, "10,000 × 1 = 10,000"),
    ] {
        let rules = one_rule(scope, per_hour);
        let answer = explain(&rules, &unconfigured(sources), found("mx.example.com", targets));
        let [of_rule] = answer.ceilings.as_slice() else { panic!("{scope}: one rule") };
        assert_eq!(
            (of_rule.budgets, of_rule.ceiling_per_hour, of_rule.arithmetic.as_str()),
            (budgets, ceiling, arithmetic),
            "{scope}"
        );
        assert_eq!(answer.ceiling_per_hour, ceiling);
        assert_eq!(answer.budgets.len() as u64, budgets);
        assert_eq!(answer.paths_total, u64::from(sources) * u64::from(targets));
        // The rules crate works it out another way.
        let scope = Scope::from_word(scope).unwrap();
        let (sources, targets) = (u64::from(sources), u64::from(targets));
        assert_eq!(rules::ceiling_per_hour(scope, per_hour, sources, targets), ceiling);
    }
}

#[test]
fn the_cap_of_a_source_lowers_the_ceiling() {
    let mut sources = unconfigured(2);
    sources[0].cap_per_hour = Some(300);
    for (scope, wanted) in [("source", 1_300), ("path", 5_300), ("rule", 1_000)] {
        let answer = explain(&one_rule(scope, 1_000), &sources, found("mx.example.com", 5));
        assert_eq!(answer.ceiling_per_hour, wanted, "{scope}");
    }
    sources[1].cap_per_hour = Some(200);
    let answer = explain(&one_rule("rule", 1_000), &sources, found("mx.example.com", 5));
    assert_eq!(answer.ceiling_per_hour, 500);
}

#[test]
fn sources_at_different_levels_have_different_limits() {
    let levels =
        Levels { per_source: BTreeMap::from([(SourceId(2), Level::Slow)]), ..Levels::default() };
    let rules = rule_set(None, rules::shipped(), &levels).unwrap();
    let answer = explain(&rules, &unconfigured(3), found("mta5.am0.yahoodns.net", 4));
    assert_eq!(answer.ceilings[0].arithmetic, "250 × 1 + 2,500 × 2 = 5,250");
    assert_eq!(answer.mx_hosts[0].other_sources.len(), 1);
    assert_eq!(answer.mx_hosts[0].other_sources[0].level, Level::Slow);
}

#[test]
fn a_source_reaches_only_its_own_kind_of_address() {
    let mut sources = unconfigured(2);
    sources[0].address = Some([192, 0, 2, 99].into());
    sources[1].address = Some("2001:db8::1".parse().unwrap());
    let mut found = found("mx.example.com", 3);
    found.hosts[0].addresses.push("2001:db8::25".parse().unwrap());
    let answer = explain(&one_rule("path", 1), &sources, found);
    assert_eq!((answer.targets, answer.paths_total), (4, 4));
}

fn from_lab(what: &str) -> Found {
    let config = lab::LabConfig { threads: 1, ..lab::internet::demo(1) };
    let lab = Lab::start(config).unwrap();
    let config = DnsConfig { servers: vec![lab.dns_address()], ..DnsConfig::default() };
    let runtime = crate::runtime().unwrap();
    let found = runtime.block_on(async {
        let resolver = Resolver::new(&config).unwrap();
        gather(&resolver, false, what).await.unwrap()
    });
    drop(lab.stop());
    found
}

#[test]
fn yahoo_has_32_paths_from_two_sources() {
    let answer = explain(
        &rule_set(None, rules::shipped(), &Levels::default()).unwrap(),
        &unconfigured(2),
        from_lab("a@yahoo.com"),
    );
    let hosts: Vec<(&str, usize)> =
        answer.mx_hosts.iter().map(|host| (host.name.as_str(), host.addresses.len())).collect();
    assert_eq!(
        hosts,
        [("mta5.am0.yahoodns.net", 8), ("mta6.am0.yahoodns.net", 8), ("mta7.am0.yahoodns.net", 8)]
    );
    assert_eq!((answer.targets, answer.paths_total), (16, 32));
    assert_eq!(answer.domain.as_deref(), Some("yahoo.com"));
    assert!(answer.mx_hosts.iter().all(|host| host.rule.name == "yahoo"));
    assert_eq!(answer.mx_hosts[0].rule.mask, "*.yahoodns.net");
    assert_eq!(answer.ceilings[0].arithmetic, "2,500 × 2 = 5,000");
    let shared: Vec<_> = answer.paths.iter().filter(|path| path.mx_hosts.len() == 2).collect();
    assert_eq!(shared.len(), 16);
    let text = text::show(&answer);
    assert!(text.contains("32 distinct paths: 2 sources × 16 targets\n"), "{text}");
    assert!(text.contains("24 addresses under 3 MX hosts are 16 distinct targets"), "{text}");
}

#[test]
fn a_domain_without_mail_says_why() {
    let rules = rule_set(None, rules::shipped(), &Levels::default()).unwrap();
    for (what, fault, hosts) in [
        ("x@no-mail-here.example", RouteFault::NullMx, 0),
        ("x@gone-company.example", RouteFault::NoSuchDomain, 0),
        ("mx.gone-company.example", RouteFault::NoSuchDomain, 1),
    ] {
        let answer = explain(&rules, &unconfigured(1), from_lab(what));
        assert_eq!(answer.route_fault, Some(fault), "{what}");
        assert_eq!((answer.mx_hosts.len(), answer.paths_total), (hosts, 0), "{what}");
        assert_eq!(answer.ceiling_per_hour, 0);
    }
}

#[test]
fn what_a_node_says_is_added() {
    let mut answer = explain(&one_rule("path", 10), &unconfigured(1), found("mx.example.com", 2));
    let budget = serde_json::json!({ "rule": "big", "key": "s1>192.0.2.1", "used_in_window": 4,
        "connections": 2, "next_at": "1970-01-01T00:00:02.000Z", "limit_per_hour": 20 });
    let said = serde_json::json!({
        "paths": [
            { "source": 1, "target": "192.0.2.1", "budgets": [budget],
              "live": { "connections": 2, "resting_until": null } },
            { "source": 1, "target": "192.0.2.2",
              "live": { "connections": 0, "resting_until": "1970-01-01T00:00:01.000Z",
                        "rest_cause": "unreachable", "last_fault": "timed out" } },
            { "source": 9, "target": "192.0.2.2", "live": null }, 7
        ]
    });
    live::merge(&mut answer, &said);
    let states: Vec<_> =
        answer.paths.iter().map(|path| path.live.as_ref().unwrap().state.as_str()).collect();
    assert_eq!(states, ["sending", "resting: unreachable"]);
    let resting = answer.paths[1].live.as_ref().unwrap();
    assert_eq!(resting.next_at.as_deref(), Some("1970-01-01T00:00:01.000Z"));
    assert_eq!(answer.budgets[0].live.as_ref().unwrap().used, 4);
    assert!(answer.notes.iter().any(|note| note.contains("has 20 an hour")), "{:?}", answer.notes);
    let json = serde_json::to_value(&answer).unwrap();
    assert_eq!(json["budgets"][0]["next_at"], "1970-01-01T00:00:02.000Z");
    assert_eq!(json["paths"][0]["state"], "sending");
    live::merge(&mut answer, &serde_json::json!(["not", "an", "object"]));
}

#[test]
fn questions_are_read() {
    for (what, wanted) in [
        ("a@Example.COM", Some(("example.com", true))),
        ("example.com.", Some(("example.com", false))),
        ("bücher.example", Some(("xn--bcher-kva.example", false))),
        ("192.0.2.1", Some(("192.0.2.1", false))),
        ("a@", None),
        ("", None),
        ("two words", None),
    ] {
        let read = name_of(what).ok();
        assert_eq!(
            read.as_ref().map(|(name, address)| (name.as_str(), *address)),
            wanted,
            "{what}"
        );
    }
}
