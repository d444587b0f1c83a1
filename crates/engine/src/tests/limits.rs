//! Limits: quotas, caps, connections, memory.

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;

use mail::id::DeliveryId;

use super::harness::{Bench, START, route, rules, rules_at, sources};
use crate::Settings;
use crate::event::{Event, QuotaLimit};
use crate::reason::WaitReason;
use crate::work::DeliveryOptions;

const MINUTE: Duration = Duration::from_secs(60);

fn rule(figures: &str) -> String {
    format!("[[rule]]\nname = \"a\"\nmask = \"*.example\"\n{figures}\n")
}

#[test]
fn the_staircase_is_climbed_and_the_wait_has_its_reason() {
    let mut bench = Bench::simple(&rule("messages_per_hour = 10000"));
    let delivery = bench.plain(1);
    bench.queue(delivery, "a.example", 3_000);
    bench.run(MINUTE * 4);
    // 1,800,000,000 s is the start of a period.
    assert_eq!(START % 300, 0);
    assert_eq!(bench.sent(), 833);
    let waiting = bench.engine.groups()[0].waiting.clone().unwrap();
    match waiting.reason {
        WaitReason::Quota { wait } => {
            assert_eq!((wait.limit, wait.figure, wait.used), (QuotaLimit::Period, 833, 833));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(waiting.until.as_secs(), START + 300);
    bench.run(MINUTE * 5);
    assert_eq!(bench.sent(), 1_666);
}

#[test]
fn idle_connections_are_closed() {
    let mut bench = Bench::simple("");
    let delivery = bench.plain(1);
    bench.queue(delivery, "a.example", 10);
    bench.run(Duration::from_secs(3));
    assert!(bench.engine.sizes().1 > 0);
    bench.run(Duration::from_secs(4));
    assert_eq!(bench.engine.sizes().1, 0);
}

#[test]
fn a_cap_of_a_delivery_slows_only_that_delivery() {
    let mut bench = Bench::simple("");
    let options = DeliveryOptions { messages_per_hour: Some(60), ..Default::default() };
    let capped = bench.delivery(1, options);
    let free = bench.plain(2);
    bench.queue(capped, "a.example", 100);
    bench.run(MINUTE);
    bench.queue(free, "a.example", 100);
    bench.run(MINUTE * 10);
    let count = |bench: &Bench, of: DeliveryId| bench.begun.iter().filter(|b| b.4 == of).count();
    assert_eq!((count(&bench, capped), count(&bench, free)), (60, 100));
    bench.run(MINUTE * 60);
    assert_eq!(count(&bench, capped), 100);
}

#[test]
fn two_groups_of_one_rule_share_its_connections() {
    let text = rule("max_connections = 1\nmax_messages_per_connection = 20");
    let mut bench = Bench::new(rules(&text), sources(&[1]), Settings::default());
    bench.latency = Duration::from_millis(50);
    for (domain, address) in [("a.example", "192.0.2.1"), ("b.example", "192.0.2.2")] {
        bench.routes.insert(domain.into(), route(&[(10, &format!("mx.{domain}"), &[address])]));
    }
    let delivery = bench.plain(1);
    bench.queue(delivery, "a.example", 2_000);
    bench.queue(delivery, "b.example", 2_000);
    bench.run(MINUTE);
    let mut per_target: BTreeMap<String, usize> = BTreeMap::new();
    for begun in &bench.begun {
        *per_target.entry(begun.2.to_string()).or_default() += 1;
    }
    let counts: Vec<usize> = per_target.values().copied().collect();
    assert!(counts.len() == 2 && counts[0].abs_diff(counts[1]) <= 40, "{counts:?}");
    // 20 messages take a second and set-up 20 ms: the connection is never left unused.
    assert!(counts.iter().sum::<usize>() > 1_000, "{counts:?}");
}

#[test]
fn a_full_budget_of_one_source_does_not_hold_another_source_back() {
    let text = rule("max_connections = 1");
    let mut bench = Bench::new(rules(&text), sources(&[1, 1]), Settings::default());
    bench.latency = Duration::from_millis(200);
    bench.routes.insert("a.example".into(), route(&[(10, "mx.a.example", &["192.0.2.1"])]));
    let delivery = bench.plain(1);
    bench.queue(delivery, "a.example", 5_000);
    bench.run(MINUTE * 2);
    let counts = bench.per_source();
    // Five a second each, the set-up aside.
    assert!(counts[&1] > 500 && counts[&2] > 500, "{counts:?}");
}

#[test]
fn all_paths_of_scope_path_are_used() {
    let text = rule("scope = \"path\"\nmessages_per_hour = 120");
    let mut bench = Bench::new(rules(&text), sources(&[1, 1]), Settings::default());
    let seven: Vec<String> = (1..=7).map(|n| format!("192.0.2.{n}")).collect();
    let seven: Vec<&str> = seven.iter().map(String::as_str).collect();
    bench.routes.insert("a.example".into(), route(&[(10, "mx.a.example", &seven)]));
    let delivery = bench.plain(1);
    bench.queue(delivery, "a.example", 2_000);
    bench.run(MINUTE * 4);
    // Ten in each period for each of 14 paths.
    assert_eq!(bench.sent(), 140);
    bench.run(MINUTE * 55);
    assert!((1_600..=1_680).contains(&bench.sent()), "{}", bench.sent());
}

#[test]
fn rules_replaced_in_mid_flight_hold_at_once() {
    let mut bench =
        Bench::simple(&rule("messages_per_hour = 1200\nmax_messages_per_connection = 100"));
    bench.latency = Duration::from_millis(100);
    let delivery = bench.plain(1);
    bench.queue(delivery, "a.example", 1_000);
    bench.run(MINUTE * 2);
    assert_eq!(bench.sent(), 100);
    let tighter = rules_at(&rule("messages_per_hour = 120\nmax_connections = 1"), 2);
    bench.ledger.replace_rules(bench.now, Arc::<rules::RuleSet>::clone(&tighter));
    bench.engine.handle(bench.now, Event::RulesReplaced(tighter));
    bench.run(MINUTE * 50);
    assert!(
        bench.sent() <= 120,
        "no more than 120 an hour, with what went before: {}",
        bench.sent()
    );
    assert!(bench.attempts.iter().take(100).all(|attempt| attempt.rules_version == 1));
    let wider = rules_at(&rule("messages_per_hour = 100000"), 3);
    bench.ledger.replace_rules(bench.now, Arc::<rules::RuleSet>::clone(&wider));
    bench.engine.handle(bench.now, Event::RulesReplaced(wider));
    bench.run(MINUTE * 3);
    assert_eq!(bench.sent(), 1_000);
    assert_eq!(bench.attempts.last().unwrap().rules_version, 3);
}

/// Groups on slow servers, one connection each, that want more than all windows together may hold.
fn slow_groups(count: usize) -> Bench {
    let settings = Settings { window_messages_max: 64, ..Settings::default() };
    let text = rule("max_connections = 1\nscope = \"path\"");
    let mut bench = Bench::new(rules(&text), sources(&[1]), settings);
    bench.latency = Duration::from_secs(10);
    let delivery = bench.plain(1);
    for number in 0..count {
        let domain = format!("d{number:02}.example");
        let address = format!("192.0.2.{}", number + 1);
        bench.routes.insert(domain.clone(), route(&[(10, &format!("mx.{domain}"), &[&address])]));
        bench.queue(delivery, &domain, 400);
    }
    bench
}

#[test]
fn groups_take_turns_where_memory_is_short() {
    let mut bench = slow_groups(20);
    bench.run(MINUTE * 30);
    let mut per_target: BTreeMap<String, usize> = BTreeMap::new();
    for begun in &bench.begun {
        *per_target.entry(begun.2.to_string()).or_default() += 1;
    }
    let least = per_target.values().min().copied().unwrap_or(0);
    // Six a minute is all that one connection can do.
    assert!(per_target.len() == 20 && least > 90, "{per_target:?}");
}

#[test]
fn urgent_mail_finds_room_where_memory_is_short() {
    let mut bench = slow_groups(20);
    bench.run(MINUTE * 5);
    let options = DeliveryOptions { priority: mail::id::Priority::High, ..Default::default() };
    let urgent = bench.delivery(2, options);
    bench.queue(urgent, "d19.example", 3);
    let before = bench.begun.len();
    bench.run(MINUTE);
    let begun = bench.begun[before..].iter().filter(|begun| begun.4 == urgent).count();
    assert_eq!(begun, 3);
}

#[test]
fn a_group_that_gave_its_messages_back_says_why() {
    let settings = Settings { window_messages_max: 40, ..Settings::default() };
    let text = rule("messages_per_hour = 12\nscope = \"path\"");
    let mut bench = Bench::new(rules(&text), sources(&[1]), settings);
    let delivery = bench.plain(1);
    for number in 0..10 {
        let domain = format!("d{number}.example");
        let address = format!("192.0.2.{}", number + 1);
        bench.routes.insert(domain.clone(), route(&[(10, &format!("mx.{domain}"), &[&address])]));
        bench.queue(delivery, &domain, 40);
    }
    bench.run(MINUTE * 2);
    let mut given_back = 0;
    for group in bench.engine.groups() {
        let waiting = group.waiting.unwrap();
        let quota = matches!(waiting.reason, WaitReason::Quota { .. });
        assert!(quota || group.window > 0, "{waiting:?}");
        if quota {
            assert!(waiting.until > bench.now && waiting.until < bench.now + MINUTE * 61);
            given_back += usize::from(group.window == 0);
        }
    }
    assert!(given_back > 0, "memory was short");
}

#[test]
fn memory_is_bounded_by_the_settings() {
    let settings = Settings { window_messages_max: 500, domains_max: 20, ..Settings::default() };
    // Fifty domains behind one small quota each, and one that takes everything.
    let text = "[[rule]]\nname = \"small\"\nmask = \"mx.d*.example\"\nmessages_per_hour = 12\nscope = \"path\"";
    let mut bench = Bench::new(rules(text), sources(&[1]), settings);
    let delivery = bench.plain(1);
    for number in 0..50 {
        let domain = format!("d{number}.example");
        let address = format!("192.0.2.{}", number + 1);
        bench.routes.insert(domain.clone(), route(&[(10, &format!("mx.{domain}"), &[&address])]));
        bench.queue(delivery, &domain, 40);
    }
    bench.routes.insert("quick.example".into(), route(&[(10, "quick", &["198.51.100.1"])]));
    bench.run(MINUTE * 2);
    let quick = bench.queue(delivery, "quick.example", 3_000);
    bench.run(MINUTE * 30);
    assert!(bench.most_in_window <= 500, "{}", bench.most_in_window);
    assert!(bench.engine.sizes().2 <= 20);
    let sent = quick
        .iter()
        .filter(|id| {
            bench.state(**id) == super::harness::RowState::Final(crate::work::FinalState::Sent)
        })
        .count();
    assert_eq!(sent, 3_000, "those that can go do not wait for those that cannot");
    bench.run(MINUTE * 60 * 10);
    assert_eq!(bench.sent(), 5_000);
}
