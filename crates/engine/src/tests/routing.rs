//! Which source, which target, which message first.

use core::time::Duration;
use std::collections::BTreeMap;

use mail::attempt::EndCause;
use mail::id::{DeliveryId, Priority, SourceId};
use mail::mask::Mask;
use mail::route::RouteFault;

use super::harness::{Answer, Bench, RowState, route, rules, sources};
use crate::reason::WaitReason;
use crate::work::{DeliveryOptions, FinalState};
use crate::{Affinity, Settings, Source, Sources};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_campaign_over_three_groups_drains() {
    let mut bench = Bench::new(rules(""), sources(&[1, 1]), Settings::default());
    for (domain, address) in
        [("a.example", "192.0.2.1"), ("b.example", "192.0.2.2"), ("c.example", "192.0.2.3")]
    {
        bench.routes.insert(domain.into(), route(&[(10, &format!("mx.{domain}"), &[address])]));
    }
    let delivery = bench.plain(1);
    for domain in ["a.example", "b.example", "c.example"] {
        bench.queue(delivery, domain, 500);
    }
    bench.run(MINUTE);
    assert_eq!((bench.sent(), bench.held()), (1_500, 0));
    assert_eq!(bench.begun.len(), 1_500, "each is tried once");
    assert!(bench.attempts.iter().all(|attempt| &*attempt.rule == "rest"));
    // Everything is closed and given back.
    let (window, connections, _) = bench.engine.sizes();
    assert_eq!((window, connections), (0, 0));
    bench.run(MINUTE * 2);
    assert_eq!(bench.engine.sizes().2, 0, "idle domains are forgotten");
    assert!(bench.engine.groups().is_empty(), "and idle groups");
}

#[test]
fn sources_share_by_weight() {
    let shares = |usable: [bool; 3], latency: u64| -> Vec<u64> {
        let one = "[[rule]]\nname = \"a\"\nmask = \"mx.a.example\"\nmax_connections = 1\nmessages_per_hour = 100000\npacing = \"burst\"";
        let mut bench = Bench::new(rules(one), sources(&[5, 5, 1]), Settings::default());
        bench.latency = Duration::from_millis(latency);
        bench.routes.insert("a.example".into(), route(&[(10, "mx.a.example", &["192.0.2.1"])]));
        bench.door = Box::new(move |_, plan| {
            if usable[plan.path.source.0 as usize - 1] {
                Ok(())
            } else {
                Err(EndCause::ConnectionRefused)
            }
        });
        let delivery = bench.plain(1);
        bench.queue(delivery, "a.example", 6_000);
        bench.run(MINUTE * 60);
        assert_eq!(bench.sent(), 6_000);
        let counts = bench.per_source();
        (1..=3).map(|id| counts.get(&id).map_or(0, |count| *count as u64 * 100 / 6_000)).collect()
    };
    for latency in [5, 400] {
        let all = shares([true; 3], latency);
        assert!(
            (44..=46).contains(&all[0]) && (44..=46).contains(&all[1]),
            "{latency} ms: {all:?}"
        );
        assert!((8..=10).contains(&all[2]), "{latency} ms: {all:?}");
        let two = shares([false, true, true], latency);
        assert!(two[0] == 0 && (82..=84).contains(&two[1]), "{latency} ms: {two:?}");
    }
}

#[test]
fn great_weights_mean_the_same_as_small_ones() {
    for (weights, unit) in [([45, 45, 10], 1), ([450, 450, 100], 1), ([1_000_000, 1_000_000, 1], 0)]
    {
        let text = "[[rule]]\nname = \"a\"\nmask = \"mx.a.example\"\nmax_connections = 1\nmessages_per_hour = 100000\npacing = \"burst\"";
        let mut bench = Bench::new(rules(text), sources(&weights), Settings::default());
        bench.routes.insert("a.example".into(), route(&[(10, "mx.a.example", &["192.0.2.1"])]));
        let delivery = bench.plain(1);
        // No more than a small campaign: the shares hold from the beginning.
        bench.queue(delivery, "a.example", 1_000);
        bench.run(MINUTE * 10);
        let counts = bench.per_source();
        let count = |id: u32| counts.get(&id).copied().unwrap_or(0);
        let near = |count: usize, wanted: usize| count.abs_diff(wanted) <= 45;
        assert_eq!(bench.sent(), 1_000);
        assert!(near(count(1), 500 - 50 * unit), "{weights:?}: {counts:?}");
        assert!(near(count(2), 500 - 50 * unit), "{weights:?}: {counts:?}");
        assert!(near(count(3), 100 * unit), "{weights:?}: {counts:?}");
    }
}

#[test]
fn what_is_urgent_does_not_wait_long_inside_a_connection() {
    let one = "[[rule]]\nname = \"a\"\nmask = \"mx.a.example\"\nmax_connections = 1";
    let mut bench = Bench::simple(one);
    bench.latency = Duration::from_millis(200);
    let low = bench.delivery(1, DeliveryOptions { priority: Priority::Low, ..Default::default() });
    bench.queue(low, "a.example", 2_000);
    bench.run(MINUTE);
    let options = DeliveryOptions { priority: Priority::High, ..Default::default() };
    let high = bench.delivery(2, options);
    let ids = bench.queue(high, "a.example", 1);
    bench.run(Duration::from_millis(1_700));
    assert_eq!(bench.state(ids[0]), RowState::Final(FinalState::Sent));
}

#[test]
fn what_is_urgent_overtakes() {
    let one = "[[rule]]\nname = \"a\"\nmask = \"mx.a.example\"\nmax_connections = 1";
    let mut bench = Bench::simple(one);
    let low = bench.delivery(1, DeliveryOptions { priority: Priority::Low, ..Default::default() });
    bench.queue(low, "a.example", 2_000);
    bench.run(Duration::from_secs(1));
    let high =
        bench.delivery(2, DeliveryOptions { priority: Priority::High, ..Default::default() });
    bench.queue(high, "a.example", 5);
    let before = bench.begun.len();
    bench.run(Duration::from_secs(20));
    let order: Vec<DeliveryId> = bench.begun[before..].iter().map(|begun| begun.4).collect();
    let last_high = order.iter().rposition(|delivery| *delivery == high).unwrap();
    // Only what is on the connection already goes before.
    assert!(
        last_high < 5 + Settings::default().assigned_per_connection_max as usize,
        "{last_high}"
    );
    assert_eq!(bench.sent(), 2_005);
}

#[test]
fn deliveries_on_one_group_take_turns() {
    let mut bench = Bench::simple("");
    let large = bench.plain(1);
    bench.queue(large, "a.example", 10_000);
    bench.run(Duration::from_secs(2));
    let small = bench.plain(2);
    let ids = bench.queue(small, "a.example", 200);
    let before = bench.begun.len();
    bench.run(MINUTE * 5);
    assert_eq!(bench.state(ids[199]), RowState::Final(FinalState::Sent));
    let last = bench.begun[before..].iter().rposition(|begun| begun.4 == small).unwrap();
    // Half of what is sent meanwhile is the large delivery's, beside what was claimed before.
    assert!(last < 400 + 2_500, "the small delivery waited for {last} messages");
}

#[test]
fn a_backup_host_serves_only_while_the_better_ones_rest() {
    let few =
        "[[rule]]\nname = \"a\"\nmask = \"*.a.example\"\nmessages_per_hour = 120\nscope = \"path\"";
    let mut bench = Bench::new(rules(few), sources(&[1]), Settings::default());
    let both =
        route(&[(10, "mx1.a.example", &["192.0.2.1"]), (20, "mx2.a.example", &["192.0.2.2"])]);
    bench.routes.insert("a.example".into(), both);
    let delivery = bench.plain(1);
    bench.queue(delivery, "a.example", 200);
    bench.run(MINUTE * 90);
    // Its quota is used up again and again, and still the backup is left alone.
    assert_eq!(bench.targets().into_iter().collect::<Vec<_>>(), ["192.0.2.1"]);
    bench.door = Box::new(|_, plan| match plan.path.target.to_string().as_str() {
        "192.0.2.1" => Err(EndCause::Unreachable { why: "no route to host".into() }),
        _ => Ok(()),
    });
    bench.queue(delivery, "a.example", 5);
    bench.run(MINUTE * 60);
    assert_eq!(bench.targets().len(), 2);
    assert_eq!(bench.sent(), 205);
}

#[test]
fn null_mx_and_unknown_domains_fail_in_words() {
    let mut bench = Bench::simple("");
    bench.routes.insert("null.example".into(), Err(RouteFault::NullMx));
    let delivery = bench.plain(1);
    bench.queue(delivery, "null.example", 300);
    bench.queue(delivery, "nowhere.example", 1);
    bench.run(MINUTE);
    assert_eq!(bench.count(RowState::Final(FinalState::Failed)), 301);
    assert_eq!(bench.attempts.len(), 301);
    assert!(bench.attempts[0].note.contains("null MX"), "{}", bench.attempts[0].note);
    assert!(bench.begun.is_empty());
}

#[test]
fn a_name_server_that_is_down_delays_and_nothing_more() {
    let mut bench = Bench::simple("");
    let good = bench.routes["a.example"].clone();
    let fault = RouteFault::Temporary { why: "SERVFAIL".into() };
    bench.routes.insert("a.example".into(), Err(fault));
    let delivery = bench.plain(1);
    let ids = bench.queue(delivery, "a.example", 10);
    bench.run(MINUTE * 5);
    assert_eq!(bench.count(RowState::Queued), 10);
    let why = bench.why(ids[0]);
    assert!(matches!(why.reason, WaitReason::DnsTemporaryFailure { .. }), "{why:?}");
    assert!(why.until > bench.now && why.until < bench.now + MINUTE * 11, "{why:?}");
    bench.routes.insert("a.example".into(), good);
    bench.run(MINUTE * 11);
    assert_eq!(bench.sent(), 10);
    assert_eq!(bench.message(ids[0]).attempts, 1);
}

#[test]
fn domain_masks_choose_the_source_or_say_that_there_is_none() {
    let only = |id: u32, mask: &str| Source {
        id: SourceId(id),
        weight: 1,
        include_domains: vec![Mask::new(mask)],
        exclude_domains: vec![],
        ipv6: false,
    };
    let sources = Sources::new(
        vec![only(1, "a.example"), only(2, "b.example")],
        vec![Affinity { name: "default".into(), sources: vec![SourceId(1), SourceId(2)] }],
    )
    .unwrap();
    let mut bench = Bench::new(rules(""), sources, Settings::default());
    for domain in ["a.example", "b.example", "c.example"] {
        bench.routes.insert(domain.into(), route(&[(10, "mx.hoster.example", &["192.0.2.1"])]));
    }
    let delivery = bench.plain(1);
    for domain in ["a.example", "b.example"] {
        bench.queue(delivery, domain, 100);
    }
    let stuck = bench.queue(delivery, "c.example", 1);
    bench.run(MINUTE);
    assert_eq!(bench.per_source(), BTreeMap::from([(1, 100), (2, 100)]));
    let why = bench.why(stuck[0]);
    assert_eq!(why.reason, WaitReason::NoSource { affinity: "default".into() });
    assert!(why.until > bench.now && why.until <= bench.now + MINUTE * 10, "{why:?}");
    assert!(why.reason.smallest_change().is_some());
    assert_eq!(bench.state(stuck[0]), RowState::Queued);
}

#[test]
fn a_conversation_refused_by_421_goes_on_over_another_path() {
    let mut bench = Bench::new(rules(""), sources(&[1]), Settings::default());
    let two =
        route(&[(10, "mx1.a.example", &["192.0.2.1"]), (10, "mx2.a.example", &["192.0.2.2"])]);
    bench.routes.insert("a.example".into(), two);
    bench.exchanger = Box::new(|_, plan, _| {
        if plan.path.target.to_string() == "192.0.2.1" {
            let reply = mail::reply::Reply::line(421, "4.7.0 try later");
            return Answer::Last(mail::attempt::Stage::RcptTo, reply);
        }
        super::harness::accept()
    });
    let delivery = bench.plain(1);
    let ids = bench.queue(delivery, "a.example", 50);
    bench.run(Duration::from_millis(200));
    let paths = bench.engine.paths_of("a.example", bench.now);
    assert!(
        paths.iter().any(|path| path.resting_until.is_some() && path.last_fault.contains("421")),
        "{paths:?}"
    );
    bench.run(MINUTE * 2);
    assert_eq!(bench.sent(), 50);
    assert!(
        ids.iter().all(|id| bench.message(*id).attempts == 1),
        "421 is not the address's fault"
    );
    assert_eq!(bench.targets().len(), 2, "the refusing one was tried");
}
