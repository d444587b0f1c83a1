//! Limits: quotas, caps, connections, memory.

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;

use mail::attempt::EndCause;
use mail::id::DeliveryId;

use super::harness::{Bench, START, route, rules, rules_at, sources};
use crate::Settings;
use crate::event::{Command, Event, QuotaLimit, QuotaWait};
use crate::path::RestCause;
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
    // Later some are done, and the bound would not show.
    assert_eq!(bench.engine.sizes().2, 20, "the others are found when there is room");
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

/// So many groups of one domain each, behind whatever rule governs `mx.d*.example`, with so many messages each.
fn small_groups(bench: &mut Bench, delivery: DeliveryId, count: usize, messages: usize) {
    for number in 0..count {
        let domain = format!("d{number:03}.example");
        let address = format!("192.0.{}.{}", number / 200, number % 200 + 1);
        bench.routes.insert(domain.clone(), route(&[(10, &format!("mx.{domain}"), &[&address])]));
        bench.queue(delivery, &domain, messages);
    }
}

#[test]
fn small_groups_behind_one_budget_do_not_wait_for_idle_connections() {
    let mut bench =
        Bench::new(rules(&rule("max_connections = 5")), sources(&[1]), Settings::default());
    let delivery = bench.plain(1);
    small_groups(&mut bench, delivery, 300, 2);
    bench.run(Duration::from_secs(10));
    // A connection is set up in 20 ms and sends two messages in 10: five of them do all in two seconds.
    assert_eq!(bench.sent(), 600);
}

#[test]
fn the_limit_of_the_node_has_a_line_too() {
    let settings = Settings { connections_max: 5, ..Settings::default() };
    let mut bench = Bench::new(rules(&rule("scope = \"path\"")), sources(&[1]), settings);
    let delivery = bench.plain(1);
    small_groups(&mut bench, delivery, 300, 2);
    bench.run(Duration::from_secs(1));
    let waiting = |bench: &Bench| {
        let groups = bench.engine.groups();
        let waits = groups.into_iter().filter_map(|group| group.waiting);
        waits.filter(|wait| wait.reason == WaitReason::NodeConnectionLimit).collect::<Vec<_>>()
    };
    let waits = waiting(&bench);
    assert!(!waits.is_empty() && waits.iter().all(|wait| wait.until >= bench.now), "{waits:?}");
    bench.run(Duration::from_secs(9));
    assert_eq!(bench.sent(), 600);
    assert!(bench.most_connections <= 5);
    assert!(waiting(&bench).is_empty());
}

#[test]
fn those_that_wait_in_line_are_not_woken_one_by_one() {
    let text = rule("max_connections = 1");
    let mut bench = Bench::new(rules(&text), sources(&[1]), Settings::default());
    bench.latency = Duration::from_secs(3_000);
    let delivery = bench.plain(1);
    small_groups(&mut bench, delivery, 200, 1);
    bench.run(Duration::from_secs(5));
    let mut woken = 0;
    let end = bench.now + MINUTE;
    while bench.now < end {
        let next = bench.engine.wake_at().unwrap();
        bench.run(next - bench.now);
        woken += 1;
    }
    // The one in front looks every two seconds, and the rest of the engine does a little.
    assert!(woken < 80, "{woken} wakes in a minute");
    // And still each of them knows when it may move.
    for group in bench.engine.groups().into_iter().filter(|group| group.connections == 0) {
        let waiting = group.waiting.unwrap();
        assert!(waiting.until >= bench.now, "{waiting:?}");
    }
}

#[test]
fn many_groups_behind_one_quota_leave_their_messages_in_the_store() {
    let text = "[[rule]]\nname = \"small\"\nmask = \"mx.d*.example\"\nmessages_per_hour = 1200";
    let mut bench = Bench::new(rules(text), sources(&[1]), Settings::default());
    let delivery = bench.plain(1);
    bench.routes.insert("quick.example".into(), route(&[(10, "quick", &["198.51.100.1"])]));
    small_groups(&mut bench, delivery, 800, 5);
    bench.queue(delivery, "quick.example", 5_000);
    bench.run(MINUTE * 4);
    let quick = bench.begun.iter().filter(|begun| begun.2.to_string() == "198.51.100.1").count();
    assert_eq!(quick, 5_000, "those that can go do not wait for those that cannot");
    assert_eq!(bench.sent() - quick, 100, "a twelfth of the hour");
    let claims = bench.claims;
    let holding = bench.engine.groups().iter().filter(|group| group.window > 0).count();
    assert!(holding <= 256, "{holding} groups hold messages that they cannot send");
    // Where the quota is used up nothing is claimed, and everybody says why.
    bench.run(Duration::from_secs(50));
    assert_eq!(bench.claims, claims);
    for group in bench.engine.groups().into_iter().filter(|group| group.domains > 0) {
        let Some(waiting) = group.waiting else { continue };
        let WaitReason::Quota { wait } = &waiting.reason else { panic!("{waiting:?}") };
        assert_eq!(wait.limit, QuotaLimit::Period);
        assert_eq!(waiting.until.as_secs(), START + 300);
    }
    bench.run(MINUTE * 60 * 4);
    assert_eq!(bench.sent(), 9_000);
}

#[test]
fn a_group_that_cannot_be_reached_says_so_though_its_budget_is_used_up_too() {
    let text = "[[rule]]\nname = \"small\"\nmask = \"mx.d*.example\"\nmessages_per_hour = 120";
    let mut bench = Bench::new(rules(text), sources(&[1, 2]), Settings::default());
    bench.door = Box::new(|_, plan| match plan.path.target.to_string().as_str() {
        "192.0.0.1" => Err(EndCause::ConnectionRefused),
        _ => Ok(()),
    });
    let delivery = bench.plain(1);
    small_groups(&mut bench, delivery, 3, 40);
    bench.run(MINUTE * 2);
    let names = ["d000.example", "d001.example", "d002.example"];
    let why = |bench: &Bench| -> Vec<crate::Waiting> {
        bench.engine.why_domains(names.into_iter()).into_iter().map(|(_, why)| why).collect()
    };
    let before = why(&bench);
    let WaitReason::PathResting { cause, last } = &before[0].reason else { panic!("{before:?}") };
    assert_eq!(*cause, RestCause::Unreachable);
    assert!(last.contains("refused"), "{last}");
    assert!(before[0].until >= bench.now, "{before:?}");
    for quota in &before[1..] {
        assert!(matches!(quota.reason, WaitReason::Quota { .. }), "{quota:?}");
    }
    // When it is well again, its mail goes.
    bench.door = Box::new(|_, _| Ok(()));
    bench.run(MINUTE * 60);
    assert_eq!(bench.sent(), 120);
}

#[test]
fn a_permit_that_comes_too_late_goes_to_the_next_in_line() {
    let text = rule("max_connections = 1");
    let mut bench = Bench::new(rules(&text), sources(&[1]), Settings::default());
    let delivery = bench.plain(1);
    small_groups(&mut bench, delivery, 3, 1);
    // Up to the first request for a permit, whose connection is to be closed before the answer comes.
    let mut asked = None;
    while asked.is_none() {
        bench.engine.decide(bench.now);
        let commands: Vec<Command> = core::iter::from_fn(|| bench.engine.next_command()).collect();
        for command in commands {
            match command {
                Command::AskPermit { connection, .. } if asked.is_none() => {
                    asked = Some(connection);
                }
                Command::AskPermit { connection, .. } => {
                    let wait = QuotaWait {
                        until: None,
                        limit: QuotaLimit::Connections,
                        rule: "a".into(),
                        source: None,
                        figure: 1,
                        used: 1,
                    };
                    let answer = Err(wait);
                    bench.engine.handle(bench.now, Event::PermitAnswered { connection, answer });
                }
                other => bench.carry_out(other),
            }
        }
    }
    let asked = asked.unwrap();
    bench.engine.decide(bench.now);
    bench.engine.close(asked);
    let granted = Event::PermitAnswered { connection: asked, answer: Ok(()) };
    bench.engine.handle(bench.now, granted);
    bench.engine.decide(bench.now);
    let mut commands: Vec<Command> = core::iter::from_fn(|| bench.engine.next_command()).collect();
    let release = Command::ReleasePermit { connection: asked };
    let at = commands.iter().position(|command| *command == release).unwrap();
    commands.remove(at);
    commands.into_iter().for_each(|command| bench.carry_out(command));
    bench.settle_down();
    assert_eq!(bench.engine.sizes().1, 1, "the next one is connected at once");
}

#[test]
fn a_connection_that_is_idle_again_and_again_is_one_wake() {
    let mut bench = Bench::simple(&rule("max_connections = 1"));
    let delivery = bench.plain(1);
    for _ in 0..80 {
        bench.queue(delivery, "a.example", 1);
        bench.run(Duration::from_millis(200));
    }
    assert_eq!(bench.sent(), 80);
    assert_eq!(bench.engine.sizes().1, 1, "it never was idle for long");
    assert!(bench.engine.wakes.len() < 10, "{:?}", bench.engine.wakes);
}

#[test]
fn a_claim_names_a_few_deliveries_and_finds_the_mail_of_all() {
    let mut bench = Bench::simple("");
    for number in 1..=300 {
        let delivery = bench.plain(number);
        if number % 3 == 0 {
            bench.queue(delivery, "a.example", 2);
        }
    }
    bench.run(Duration::from_secs(20));
    assert_eq!(bench.sent(), 200);
    assert!(bench.most_claimed_from <= 64, "{}", bench.most_claimed_from);
    // A delivery in the middle that comes later is found as well.
    bench.queue(DeliveryId(151), "a.example", 1);
    bench.run(Duration::from_secs(1));
    assert_eq!(bench.sent(), 201);
}

#[test]
fn domains_that_take_no_mail_do_not_fill_the_windows() {
    let settings = Settings { window_messages_max: 1_000, ..Settings::default() };
    let mut bench = Bench::new(rules(""), sources(&[1]), settings);
    let delivery = bench.plain(1);
    for number in 0..500 {
        bench.queue(delivery, &format!("dead{number}.example"), 2);
    }
    let mut most = 0;
    let mut on_their_way = 0;
    for _ in 0..20 {
        bench.engine.decide(bench.now);
        most = most.max(bench.engine.claimed_ahead);
        let commands: Vec<Command> = core::iter::from_fn(|| bench.engine.next_command()).collect();
        let claims = commands.iter().filter(|command| matches!(command, Command::Claim { .. }));
        on_their_way = on_their_way.max(claims.count());
        commands.into_iter().for_each(|command| bench.carry_out(command));
    }
    assert_eq!(most, 0, "nothing of them ever comes into a window");
    assert!((1..=66).contains(&on_their_way), "{on_their_way}");
    bench.run(Duration::from_secs(1));
    assert_eq!(bench.sent(), 0);
    let failed = super::harness::RowState::Final(crate::work::FinalState::Failed);
    assert_eq!(bench.count(failed), 1_000);
}
