//! Cases with known figures.

use std::time::Duration;

use mail::id::DeliveryId;
use quota::{
    CapKey, GiveBackError, JournalEntry, LotId, PermitAnswer, PermitRequest, Slot, SourceCaps,
    Wait, WaitKind, WarmUpCaps,
};

use super::*;

const HOUR: u64 = 3_600_000_000;

/// Takes whatever a budget gives for so many hours, in lots of at most `want`, each used at once.
fn full_demand(ledger: &mut Ledger, hours: u64, want: u32) -> Vec<(u64, u64)> {
    let end = START + Duration::from_secs(hours * 3_600);
    let mut now = START;
    let mut uses = Vec::new();
    while now < end {
        match ask(ledger, now, path(1, 1), want) {
            TokenAnswer::Granted(lot) => {
                assert!(now < lot.use_before && lot.slot == Slot::of(now));
                uses.push((now.as_micros(), u64::from(lot.count)));
                now = now + Duration::from_millis(20);
            }
            TokenAnswer::Wait(wait) => now = wait.until.expect("limits above 0 end"),
        }
        let _ = ledger.take_journal();
    }
    uses
}

fn per(uses: &[(u64, u64)], span: u64) -> Vec<u64> {
    let mut sums = BTreeMap::new();
    for (at, count) in uses {
        *sums.entry((at - START.as_micros()) / span).or_insert(0) += count;
    }
    sums.into_values().collect()
}

#[test]
fn staircase_gives_833_per_period() {
    let rules = one_rule(Scope::Source, Pacing::Staircase, limits(10_000, 1));
    let uses = full_demand(&mut fresh(Arc::clone(&rules)), 5, 50);
    assert_eq!(per(&uses, HOUR / 12), [833; 60]);
    assert!(densest(&uses, HOUR) <= 10_000);

    // For ever: 61 slots are the window, so a day of full demand loses 1 in 61.
    let uses = full_demand(&mut fresh(rules), 30, 100);
    assert!(densest(&uses, HOUR) <= 10_000);
    assert!(per(&uses, HOUR / 12).iter().all(|sum| *sum <= 833));
    let hours = per(&uses, HOUR);
    assert!(hours.len() == 30 && hours.iter().all(|sum| *sum >= 9_150), "{hours:?}");
    assert!(hours.iter().sum::<u64>() >= 30 * 9_800, "{hours:?}");
}

#[test]
fn burst_and_small_limits() {
    let rules = one_rule(Scope::Path, Pacing::Burst, limits(1_000, 1));
    let uses = full_demand(&mut fresh(rules), 3, 1_000);
    assert_eq!(per(&uses, HOUR / 60), [1_000; 3], "all in the first minute of each 61");
    for limit in [1, 5, 11, 12, 13] {
        let rules = one_rule(Scope::Path, Pacing::Staircase, limits(limit, 1));
        let uses = full_demand(&mut fresh(rules), 10, 50);
        assert!(densest(&uses, HOUR) <= limit.into());
        assert!(per(&uses, HOUR / 12).iter().all(|sum| *sum == 1));
        let sent: u64 = uses.iter().map(|(_, count)| count).sum();
        assert!(sent >= u64::from(limit.min(12)) * 9, "{limit}: {sent}");
    }
}

#[test]
fn even_is_even() {
    for (limit, ten_seconds, hour) in [(10_000, 30, 9_830), (60, 1, 59), (5, 1, 4)] {
        let rules = one_rule(Scope::Path, Pacing::Even, limits(limit, 1));
        let uses = full_demand(&mut fresh(rules), 4, 50);
        assert!(densest(&uses, HOUR) <= limit.into());
        let most = densest(&uses, HOUR / 360);
        assert!(most <= ten_seconds, "{limit}: {most} within ten seconds");
        assert!(per(&uses, HOUR).iter().all(|sum| *sum >= hour), "{:?}", per(&uses, HOUR));
    }
}

/// The table of the design: sources, targets, scope, limit, budgets, ceiling.
#[test]
fn scopes_multiply() {
    for (sources, targets, scope, limit, budgets, ceiling) in [
        (2, 7, Scope::Source, 10_000, 2, 20_000),
        (2, 7, Scope::Path, 10_000, 14, 140_000),
        (1, 5, Scope::Source, 1_000, 1, 1_000),
        (1, 5, Scope::Path, 1_000, 5, 5_000),
        (2, 7, Scope::Rule, 10_000, 1, 10_000),
    ] {
        let mut ledger = fresh(one_rule(scope, Pacing::Burst, limits(limit, 1)));
        let mut granted = 0;
        for source in 1..=sources {
            for target in 1..=targets {
                while let TokenAnswer::Granted(lot) =
                    ask(&mut ledger, START, path(source, target), 777)
                {
                    granted += lot.count;
                }
            }
        }
        assert_eq!(granted, ceiling);
        let views = ledger.budgets(START);
        assert_eq!(views.len(), budgets);
        let end = Slot(Slot::of(START).0 + 61).start();
        for view in views {
            assert_eq!((view.used_in_window, view.next_at), (u64::from(limit), Some(end)));
        }
    }
}

fn granted(answer: TokenAnswer) -> quota::Lot {
    match answer {
        TokenAnswer::Granted(lot) => lot,
        TokenAnswer::Wait(wait) => panic!("{wait:?}"),
    }
}

fn waits(answer: TokenAnswer) -> Wait {
    match answer {
        TokenAnswer::Wait(wait) => wait,
        TokenAnswer::Granted(lot) => panic!("{lot:?}"),
    }
}

/// A wait as one line.
fn line(wait: &Wait) -> String {
    let until = wait.until.map(|until| until.since(START).as_millis());
    format!("{} {:?} {}/{} {until:?}", wait.limit, wait.kind, wait.used, wait.limit_value)
}

#[test]
fn waits_name_the_limit() {
    let mut ledger = fresh(one_rule(Scope::Source, Pacing::Burst, limits(100, 1)));
    assert_eq!(granted(ask(&mut ledger, START, path(1, 1), 70)).count, 70);
    assert_eq!(granted(ask(&mut ledger, START, path(1, 2), 70)).count, 30);
    let later = START + Duration::from_secs(61);
    assert_eq!(
        line(&waits(ask(&mut ledger, later, path(1, 3), 1))),
        "rule [s1] HourWindow 100/100 Some(3660000)"
    );
    // Another source has another budget, but caps may be tighter.
    let mut capped = |source_limit, caps: &[(CapKey, u32)]| {
        let request =
            TokenRequest { path: path(2, 1), mx_host: "mx", want: 10, source_limit, caps };
        ledger.ask_tokens(later, &request)
    };
    let delivery = CapKey::Delivery(DeliveryId(7));
    let tenant = CapKey::Tenant("shop".into());
    assert_eq!(granted(capped(Some(3), &[(delivery.clone(), 50)])).count, 3);
    assert_eq!(
        line(&waits(capped(Some(3), &[(delivery.clone(), 50)]))),
        "source s2 SourceCap 3/3 Some(3720000)"
    );
    let caps = [(delivery.clone(), 9), (delivery, 5), (tenant, 40)];
    assert_eq!(granted(capped(None, &caps)).count, 2, "a repeated cap counts once, tightest");
    assert_eq!(line(&waits(capped(None, &caps))), "delivery d7 Cap 5/5 Some(3720000)");
    assert_eq!(line(&waits(capped(Some(0), &[]))), "source s2 SourceCap 5/0 None");

    let mut ledger = fresh(one_rule(Scope::Rule, Pacing::Staircase, limits(120, 1)));
    assert_eq!(granted(ask(&mut ledger, START, path(1, 1), 70)).count, 10);
    let wait = waits(ask(&mut ledger, START, path(2, 2), 70));
    assert_eq!(line(&wait), "rule [all] Period 10/10 Some(300000)");

    // The last quarter of a second of a slot belongs to nobody.
    let mut ledger = fresh(one_rule(Scope::Path, Pacing::Burst, limits(120, 1)));
    let edge = START + Duration::from_millis(59_749);
    assert_eq!(
        granted(ask(&mut ledger, edge, path(1, 1), 1)).use_before.since(edge).as_millis(),
        1
    );
    let wait = waits(ask(&mut ledger, edge + Duration::from_millis(1), path(1, 1), 1));
    assert_eq!(line(&wait), "rule [s1>203.0.113.1] SlotEdge 1/120 Some(60000)");
}

#[test]
fn lots_are_given_back_once() {
    let mut ledger = fresh(one_rule(Scope::Source, Pacing::Burst, limits(100, 1)));
    let lot = granted(ask(&mut ledger, START, path(1, 1), 100));
    assert_eq!(ledger.give_back(START, lot.id, 40), Ok(()));
    assert_eq!(ledger.give_back(START, lot.id, 30), Ok(()));
    assert_eq!(
        ledger.give_back(START, lot.id, 31),
        Err(GiveBackError::MoreThanGranted { lot: lot.id, count: 31, left: 30 })
    );
    assert_eq!(ledger.budgets(START)[0].used_in_window, 30);
    let unknown = LotId(lot.id.0 + 1);
    let error = Err(GiveBackError::UnknownLot { lot: unknown });
    assert_eq!(ledger.give_back(START, unknown, 1), error);
    assert_eq!(ledger.give_back(START + Duration::from_secs(119), lot.id, 1), Ok(()));
    let late = ledger.give_back(START + Duration::from_secs(120), lot.id, 1);
    assert_eq!(late, Err(GiveBackError::UnknownLot { lot: lot.id }));
    // The journal says what is left, once per batch.
    let spent: Vec<_> = ledger
        .take_journal()
        .into_iter()
        .filter(|entry| matches!(entry, JournalEntry::Spent { .. }))
        .collect();
    let slot = Slot::of(START);
    assert_eq!(spent, [JournalEntry::Spent { path: path(1, 1), slot, total_now: 29 }]);
}

#[test]
fn changed_rules_find_their_history() {
    let mut ledger = fresh(one_rule(Scope::Source, Pacing::Burst, limits(100, 1)));
    granted(ask(&mut ledger, START, path(1, 1), 60));
    granted(ask(&mut ledger, START, path(1, 2), 30));
    let minute = START + Duration::from_secs(60);
    // Lower, and counted over the whole rule.
    ledger.replace_rules(minute, one_rule(Scope::Rule, Pacing::Burst, limits(50, 1)));
    let wait = waits(ask(&mut ledger, minute, path(2, 2), 10));
    assert_eq!(line(&wait), "rule [all] HourWindow 90/50 Some(3660000)");
    // Per path.
    ledger.replace_rules(minute, one_rule(Scope::Path, Pacing::Burst, limits(50, 1)));
    assert_eq!(granted(ask(&mut ledger, minute, path(1, 2), 50)).count, 20);
    waits(ask(&mut ledger, minute, path(1, 1), 10));
    // Raised: no burst beyond the difference.
    ledger.replace_rules(minute, one_rule(Scope::Source, Pacing::Burst, limits(200, 1)));
    assert_eq!(granted(ask(&mut ledger, minute, path(1, 1), 999)).count, 90);
}

#[test]
fn a_path_of_two_hosts_counts_in_both_rules() {
    let rule = |name: &str, limit| TestRule {
        name: name.into(),
        scope: Scope::Source,
        pacing: Pacing::Burst,
        limits: limits(limit, 2),
    };
    let hosts = BTreeMap::from([("mx".into(), rule("a", 100)), ("other".into(), rule("b", 40))]);
    let mut ledger = fresh(Arc::new(TestRules { hosts, ..TestRules::default() }));
    assert_eq!(granted(ask(&mut ledger, START, path(1, 1), 30)).count, 30);
    let request = TokenRequest {
        path: path(1, 1),
        mx_host: "other",
        want: 30,
        source_limit: None,
        caps: &[],
    };
    assert_eq!(granted(ledger.ask_tokens(START, &request)).count, 10);
    let wait = waits(ask(&mut ledger, START, path(1, 1), 1));
    assert_eq!(line(&wait), "b [s1] HourWindow 40/40 Some(3660000)");
    assert_eq!(granted(ask(&mut ledger, START, path(1, 2), 100)).count, 60);
    // An hour after the last use under the other host its rule has no hold on the path any more.
    let mut now = START;
    for _ in 0..63 {
        now = now + Duration::from_secs(60);
        let _ = ask(&mut ledger, now, path(1, 1), 1);
        ledger.prune(now);
    }
    assert_eq!(ledger.paths(now)[0].budgets, ["a [s1]"]);
    assert_eq!(ledger.budgets(now).len(), 1);
}

fn connect(ledger: &mut Ledger, now: Timestamp, owner: Owner, path: PathKey) -> PermitAnswer {
    ledger.ask_permit(now, &PermitRequest { owner, path, mx_host: "mx" })
}

fn permit(answer: PermitAnswer) -> quota::Permit {
    match answer {
        PermitAnswer::Granted(permit) => permit,
        other => panic!("{other:?}"),
    }
}

fn permit_wait(answer: PermitAnswer) -> String {
    match answer {
        PermitAnswer::Wait(wait) => line(&wait),
        other => panic!("{other:?}"),
    }
}

#[test]
fn permits_are_leases() {
    let mut ledger = fresh(one_rule(Scope::Source, Pacing::Burst, limits(100, 2)));
    let other = Owner { node: NodeId(2), incarnation: 1 };
    let first = permit(connect(&mut ledger, START, NODE, path(1, 1)));
    let second = permit(connect(&mut ledger, START, other, path(1, 2)));
    assert_eq!(first.expires_at, START + Duration::from_secs(30));
    let refused = permit_wait(connect(&mut ledger, START, NODE, path(1, 3)));
    assert_eq!(refused, "rule [s1] ConnectionLimit 2/2 Some(32000)", "if the other node is gone");
    // Only the holder releases, and only once.
    assert!(!ledger.release_permit(START, NODE, second.id));
    assert!(ledger.release_permit(START, other, second.id));
    assert!(!ledger.release_permit(START, other, second.id));
    permit(connect(&mut ledger, START, NODE, path(1, 3)));
    let refused = permit_wait(connect(&mut ledger, START, NODE, path(1, 3)));
    assert_eq!(refused, "rule [s1] ConnectionLimit 2/2 None", "only a release helps");
    // Renewed, they hold; not renewed, they end together.
    let later = START + Duration::from_secs(20);
    let renewal = ledger.renew_permits(later, NODE);
    assert_eq!((renewal.permits, renewal.expires_at), (2, later + Duration::from_secs(30)));
    assert_eq!(ledger.next_expiry(), Some(START + Duration::from_secs(32)), "of the other node");
    assert!(ledger.expire(later + Duration::from_millis(31_999)).is_empty());
    assert_eq!(ledger.expire(later + Duration::from_secs(32)).len(), 2);
    assert_eq!(ledger.renew_permits(later + Duration::from_secs(33), NODE).permits, 0);
    assert_eq!(ledger.budgets(later)[0].connections, 0);
}

/// Stopped by a signal or suspended, and going on with all its connections open.
#[test]
fn a_process_that_stood_still_keeps_its_permits() {
    let mut ledger = fresh(one_rule(Scope::Source, Pacing::Burst, limits(100, 2)));
    let other = Owner { node: NodeId(2), incarnation: 1 };
    permit(connect(&mut ledger, START, NODE, path(1, 1)));
    let second = permit(connect(&mut ledger, START, NODE, path(1, 2)));
    let late = START + Duration::from_secs(600);
    let refused = permit_wait(connect(&mut ledger, late, NODE, path(1, 3)));
    assert_eq!(refused, "rule [s1] ConnectionLimit 2/2 None", "both connections are still open");
    assert!(ledger.release_permit(late, NODE, second.id));
    assert_eq!(ledger.renew_permits(late, NODE).permits, 1);
    // Where somebody else asks first, the permits are gone.
    let later = late + Duration::from_secs(600);
    permit(connect(&mut ledger, later, other, path(1, 3)));
    assert_eq!(ledger.renew_permits(later, NODE).permits, 0);
}

#[test]
fn permits_survive_restarts() {
    let rules = one_rule(Scope::Source, Pacing::Burst, limits(100, 2));
    let mut ledger = fresh(Arc::clone(&rules));
    let other = Owner { node: NodeId(2), incarnation: 9 };
    permit(connect(&mut ledger, START, NODE, path(1, 1)));
    permit(connect(&mut ledger, START, other, path(1, 1)));
    let saved = ledger.take_journal();
    let now = START + Duration::from_secs(5);
    let next = Owner { incarnation: 2, ..NODE };
    let mut ledger = Ledger::restore(Settings::default(), rules, next, now, saved);
    let refused = permit_wait(connect(&mut ledger, now, next, path(1, 2)));
    assert_eq!(refused, "rule [s1] ConnectionLimit 2/2 Some(7000)", "until the old have settled");
    let settled = now + Duration::from_secs(2);
    permit(connect(&mut ledger, settled, next, path(1, 2)));
    let refused = permit_wait(connect(&mut ledger, settled, next, path(1, 2)));
    assert_eq!(refused, "rule [s1] ConnectionLimit 2/2 Some(32000)", "until the other lease ends");
    let stale = connect(&mut ledger, settled, NODE, path(1, 2));
    assert_eq!(stale, PermitAnswer::Stale { incarnation: 2 });
    assert_eq!(ledger.permits_of(other).len(), 1);
}

#[test]
fn connection_starts_are_limited() {
    let limits = BudgetLimits { connections_per_minute: Some(2), ..limits(100, 9) };
    let mut ledger = fresh(one_rule(Scope::Source, Pacing::Burst, limits));
    permit(connect(&mut ledger, START, NODE, path(1, 1)));
    let ten = START + Duration::from_secs(10);
    permit(connect(&mut ledger, ten, NODE, path(1, 2)));
    let refused = permit_wait(connect(&mut ledger, ten, NODE, path(1, 3)));
    assert_eq!(refused, "rule [s1] ConnectRate 2/2 Some(62000)");
    // A restart does not forget them.
    let rules = one_rule(Scope::Source, Pacing::Burst, limits);
    let saved = ledger.take_journal();
    let next = Owner { incarnation: 2, ..NODE };
    let mut ledger = Ledger::restore(Settings::default(), rules, next, ten, saved);
    let refused = permit_wait(connect(&mut ledger, ten, next, path(1, 3)));
    assert_eq!(refused, "rule [s1] ConnectRate 2/2 Some(62000)");
    permit(connect(&mut ledger, START + Duration::from_secs(62), next, path(1, 3)));

    let limits = BudgetLimits { min_interval: Some(Duration::from_millis(1_500)), ..limits };
    let limits = BudgetLimits { connections_per_minute: None, ..limits };
    let mut ledger = fresh(one_rule(Scope::Rule, Pacing::Burst, limits));
    permit(connect(&mut ledger, START, NODE, path(1, 1)));
    let soon = START + Duration::from_millis(400);
    let refused = permit_wait(connect(&mut ledger, soon, NODE, path(2, 1)));
    assert_eq!(refused, "rule [all] MinInterval 400/1500 Some(1500)");
    permit(connect(&mut ledger, START + Duration::from_millis(1_500), NODE, path(2, 1)));
}

#[test]
fn the_journal_may_be_repeated_and_mixed() {
    let rules = one_rule(Scope::Source, Pacing::Staircase, limits(1_200, 3));
    let mut ledger = fresh(Arc::clone(&rules));
    let mut log = Vec::new();
    for step in 0..40_u8 {
        let now = START + Duration::from_secs(u64::from(step) * 50);
        if let TokenAnswer::Granted(lot) = ask(&mut ledger, now, path(1, step % 3), 20) {
            ledger.give_back(now, lot.id, u32::from(step % 4)).unwrap();
        }
        if let PermitAnswer::Granted(permit) = connect(&mut ledger, now, NODE, path(1, 1))
            && step % 3 > 0
        {
            ledger.release_permit(now, NODE, permit.id);
        }
        log.extend(ledger.take_journal());
    }
    let now = START + Duration::from_secs(40 * 50);
    ledger.expire(now);
    let expected = format!("{:?}", ledger.budgets(now));
    let restored = |saved: Vec<JournalEntry>| {
        let rules = Arc::clone(&rules);
        let ledger = Ledger::restore(Settings::default(), rules, NODE, now, saved);
        format!("{:?}", ledger.budgets(now))
    };
    assert_eq!(restored(log.clone()), expected);
    let twice: Vec<_> = log.iter().chain(&log).cloned().collect();
    assert_eq!(restored(twice), restored(log.clone()));
    // One row per key, in the order of the keys' texts, those forgotten that say they may be.
    let rows: BTreeMap<String, JournalEntry> =
        log.iter().map(|entry| (entry.key().to_string(), entry.clone())).collect();
    let kept = rows.into_values().filter(|entry| entry.forget_after() >= now).collect();
    assert_eq!(restored(kept), restored(log));
}

#[test]
fn counts_of_a_time_to_come_count_now() {
    let rules = one_rule(Scope::Source, Pacing::Burst, limits(100, 3));
    let mut ledger = fresh(Arc::clone(&rules));
    let ahead = START + Duration::from_secs(7_200);
    granted(ask(&mut ledger, ahead, path(1, 1), 60));
    let mut log = ledger.take_journal();
    for _ in 0..2 {
        // Twice: the second start must not count them twice, nor lose them.
        let saved = log.clone();
        let mut ledger = Ledger::restore(
            Settings::default(),
            Arc::<TestRules>::clone(&rules),
            NODE,
            START,
            saved,
        );
        log.extend(ledger.take_journal());
        assert_eq!(granted(ask(&mut ledger, START, path(1, 1), 999)).count, 40);
        let wait = waits(ask(&mut ledger, START, path(1, 1), 999));
        assert_eq!(line(&wait), "rule [s1] HourWindow 100/100 Some(3660000)");
    }
}

#[test]
fn memory_is_bounded() {
    let settings = Settings { max_paths: 10, max_caps: 2, max_lots: 5, ..Settings::default() };
    let rules = one_rule(Scope::Rule, Pacing::Burst, limits(10_000, 3));
    let mut ledger = Ledger::restore(settings, rules, NODE, START, []);
    let lots: Vec<_> =
        (0..10).map(|target| granted(ask(&mut ledger, START, path(1, target), 1)).id).collect();
    let wait = waits(ask(&mut ledger, START, path(1, 10), 1));
    assert_eq!(line(&wait), "the ledger LedgerFull 10/10 Some(60000)");
    assert!(ledger.give_back(START, lots[4], 1).is_err(), "of ten lots five are remembered");
    assert!(ledger.give_back(START, lots[5], 1).is_ok());
    let caps: Vec<_> = (0..3).map(|cap| (CapKey::Tenant(cap.to_string()), 5)).collect();
    let request =
        TokenRequest { path: path(1, 1), mx_host: "mx", want: 1, source_limit: None, caps: &caps };
    assert_eq!(
        line(&waits(ledger.ask_tokens(START, &request))),
        "the ledger LedgerFull 2/2 Some(60000)"
    );
    // An hour later the idle ones make room.
    let later = START + Duration::from_secs(63 * 60);
    granted(ask(&mut ledger, later, path(1, 10), 1));
    assert_eq!(ledger.paths(later).len(), 1);
}

#[test]
fn many_names_of_one_address_are_one_path() {
    let rule = TestRule {
        name: "hoster".into(),
        scope: Scope::Source,
        pacing: Pacing::Burst,
        limits: limits(1_000, 3),
    };
    let hosts = (0..500).map(|host| (format!("customer{host}"), rule.clone())).collect();
    let mut ledger = fresh(Arc::new(TestRules { hosts, ..TestRules::default() }));
    for host in 0..500 {
        let mx_host = format!("customer{host}");
        let request = TokenRequest {
            path: path(1, 1),
            mx_host: &mx_host,
            want: 1,
            source_limit: None,
            caps: &[],
        };
        granted(ledger.ask_tokens(START, &request));
    }
    let paths = ledger.paths(START);
    assert_eq!((paths.len(), paths[0].mx_hosts.len(), paths[0].used_in_window), (1, 16, 500));
    assert_eq!(ledger.budgets_of(START, path(1, 1), "customer0")[0].used_in_window, 500);
}

/// The shipped rules are a ruling: their figures are the ledger's.
#[test]
fn shipped_rules_govern() {
    let levels = rules::Levels::default();
    let rules = Arc::new(rules::RuleSet::compile(rules::shipped(), &levels, 7));
    let ruling = Arc::<rules::RuleSet>::clone(&rules);
    let mut ledger = Ledger::restore(Settings::default(), ruling, NODE, START, []);
    assert_eq!(ledger.rules_version(), 7);
    let mut names = Vec::new();
    for mx_host in ["gmail-smtp-in.l.google.com", "mta5.am0.yahoodns.net", "mx.example.org"] {
        let request = TokenRequest {
            path: path(1, u8::try_from(names.len()).unwrap()),
            mx_host,
            want: u32::MAX,
            source_limit: None,
            caps: &[],
        };
        let lot = granted(ledger.ask_tokens(START, &request));
        let view = &ledger.budgets_of(START, lot.path, mx_host)[0];
        let id = rules.find(mx_host, SourceId(1));
        assert_eq!(view.rule, *rules.rule(id).name);
        assert_eq!(view.limit_per_hour, rules.limits(id, SourceId(1)).messages_per_hour);
        assert_eq!(view.period_limit, Some(u64::from(view.limit_per_hour / 12)));
        assert_eq!(view.period_limit, Some(lot.count.into()), "all at once");
        names.push(view.rule.clone());
    }
    names.dedup();
    assert_eq!(names.len(), 3, "{names:?}");
}

fn warm_up(source: u32, caps: SourceCaps) -> Arc<WarmUpCaps> {
    Arc::new(WarmUpCaps { sources: BTreeMap::from([(SourceId(source), caps)]) })
}

/// `20 an hour, 480 a day`: no hour has more than 20, no 24 hours more than 480 (or 60, the tighter
/// one), and all of it is given.
#[test]
fn a_day_of_warm_up_slides() {
    for (per_hour, per_day, days) in [(20, 480, 6), (20, 60, 6), (600, 480, 6)] {
        let mut ledger = fresh(one_rule(Scope::Source, Pacing::Burst, limits(100_000, 1)));
        let caps = SourceCaps {
            per_hour: Some(per_hour),
            per_day: Some(per_day),
            ..SourceCaps::default()
        };
        ledger.replace_warm_up(START, warm_up(1, caps));
        let uses = full_demand(&mut ledger, days * 24, 50);
        assert!(densest(&uses, HOUR) <= per_hour.into());
        assert!(densest(&uses, 24 * HOUR) <= per_day.into());
        let sent: u64 = uses.iter().map(|(_, count)| count).sum();
        let least = u64::from(per_day) * (days - 1);
        assert!(sent >= least.min(u64::from(per_hour) * 23 * days), "{sent} of {least}");
    }
}

#[test]
fn caps_that_come_later_find_the_day_and_survive_a_restart() {
    let rules = one_rule(Scope::Path, Pacing::Burst, limits(1_000, 1));
    let mut ledger = fresh(Arc::clone(&rules));
    // Twenty hours ago 300 were sent to two targets, half an hour ago 30 more.
    for target in [1, 2] {
        assert_eq!(granted(ask(&mut ledger, START, path(1, target), 150)).count, 150);
    }
    let later = START + Duration::from_secs(20 * 3_600);
    let lot = granted(ask(&mut ledger, later, path(1, 1), 40));
    ledger.give_back(later, lot.id, 10).unwrap();
    let now = later + Duration::from_secs(1_800);
    ledger.prune(now);
    let journal = ledger.take_journal();
    let caps =
        SourceCaps { per_day: Some(400), provider_per_day: Some(50), ..SourceCaps::default() };
    let restored = Ledger::restore(Settings::default(), rules, NODE, now, journal);
    for mut ledger in [ledger, restored] {
        ledger.replace_warm_up(now, warm_up(1, caps.clone()));
        // The line begins with the last hour of its paths, the source has its whole day.
        assert_eq!(granted(ask(&mut ledger, now, path(1, 3), 99)).count, 20);
        let wait = waits(ask(&mut ledger, now, path(1, 3), 1));
        assert_eq!(wait.limit.to_string(), "warm-up of source s1 at rule");
        assert_eq!((wait.kind, wait.used, wait.limit_value), (WaitKind::WarmUpProvider, 50, 50));
        let views = ledger.source_days(now);
        assert_eq!(views[0].used_in_day, 350);
        assert_eq!(views[0].providers[0].used_in_day, 50);
        let wider = SourceCaps { per_day: Some(350), ..SourceCaps::default() };
        ledger.replace_warm_up(now, warm_up(1, wider));
        let wait = waits(ask(&mut ledger, now, path(1, 3), 1));
        assert_eq!(
            (wait.kind, wait.limit.to_string().as_str()),
            (WaitKind::WarmUpDay, "warm-up of source s1")
        );
        // When the first 300 are a day and at most twenty minutes old, there is room again.
        let until = wait.until.unwrap().since(START).as_secs();
        assert!((86_400 + 600..=86_400 + 1_200).contains(&until), "{until}");
        // Other sources and a source without caps are free.
        assert_eq!(granted(ask(&mut ledger, now, path(2, 3), 99)).count, 99);
        ledger.replace_warm_up(now, Arc::default());
        assert_eq!(granted(ask(&mut ledger, now, path(1, 3), 99)).count, 99);
        // Caps that come back within the day find at the provider what was sent meanwhile.
        ledger.replace_warm_up(now, warm_up(1, caps.clone()));
        assert_eq!(ledger.source_days(now)[0].providers[0].used_in_day, 149);
        assert_eq!(waits(ask(&mut ledger, now, path(1, 3), 1)).used, 149);
    }
}

/// By a clock that runs 50 millionths too fast a day is over 4.3 s too soon.
#[test]
fn a_day_is_not_over_too_soon_by_a_clock_that_runs_too_fast() {
    let rules = one_rule(Scope::Path, Pacing::Burst, limits(1_000, 1));
    let mut ledger = fresh(rules);
    let caps = SourceCaps { per_day: Some(10), ..SourceCaps::default() };
    ledger.replace_warm_up(START, warm_up(1, caps));
    // The last second of ten minutes.
    let sent = START + Duration::from_secs(600 - START.as_secs() % 600 + 599);
    assert_eq!(granted(ask(&mut ledger, sent, path(1, 1), 99)).count, 10);
    let a_day_by_its_clock = sent + Duration::from_millis(86_400_500);
    assert_eq!(waits(ask(&mut ledger, a_day_by_its_clock, path(1, 1), 1)).used, 10);
    let later = sent + Duration::from_secs(86_400 + 601);
    assert_eq!(granted(ask(&mut ledger, later, path(1, 1), 99)).count, 10);
}

/// A change of level in the middle of an hour: what was sent before counts, whichever way it goes.
#[test]
fn a_change_of_level_loses_no_count() {
    let rules =
        |level| Arc::new(rules::RuleSet::compile(rules::shipped(), &rules::Levels::all(level), 1));
    let ask = |ledger: &mut Ledger, now, want| {
        let (path, caps) = (path(1, 1), &[]);
        let request =
            TokenRequest { path, mx_host: "mx.a.example", want, source_limit: None, caps };
        match ledger.ask_tokens(now, &request) {
            TokenAnswer::Granted(lot) => lot.count,
            TokenAnswer::Wait(_) => 0,
        }
    };
    let owner = Settings::default();
    let mut ledger = Ledger::restore(owner, rules(rules::Level::Boost), NODE, START, []);
    assert_eq!(
        ask(&mut ledger, START, 5_000),
        1_666,
        "20,000 an hour, a twelfth each five minutes"
    );
    let later = START + Duration::from_secs(600);
    ledger.replace_rules(later, rules(rules::Level::Slow));
    assert_eq!(ask(&mut ledger, later, 1), 0, "1,666 of 250 are used");
    ledger.replace_rules(later, rules(rules::Level::Normal));
    assert_eq!(ask(&mut ledger, later, 5_000), 208);
    let later = START + Duration::from_secs(1_200);
    assert_eq!(ask(&mut ledger, later, 5_000), 208);
    let later = START + Duration::from_secs(1_500);
    assert_eq!(ask(&mut ledger, later, 5_000), 208);
    let later = START + Duration::from_secs(1_800);
    assert_eq!(ask(&mut ledger, later, 5_000), 208);
    let later = START + Duration::from_secs(2_100);
    assert_eq!(ask(&mut ledger, later, 5_000), 2_500 - 1_666 - 4 * 208);
    assert_eq!(ledger.budgets(later)[0].used_in_window, 2_500);
}
