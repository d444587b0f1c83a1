use engine::{Affinity, Source};
use mail::id::SourceId;
use mail::route::MxHost;
use quota::{NodeId, TokenAnswer, TokenRequest};
use rules::{Level, Levels};

use super::*;

const START: u64 = 1_800_000_000;

fn rules(text: &str) -> Arc<RuleSet> {
    let text = format!(
        "schema_version = 1\n{text}\n[[rule]]\nname = \"rest\"\nmask = \"*\"\nmax_connections = 10\nmax_messages_per_connection = 100\nmessages_per_hour = 2500\n"
    );
    let file = rules::parse("rules.toml", text.as_bytes()).unwrap();
    Arc::new(RuleSet::compile(&file, &Levels::default(), 1))
}

fn input(text: &str, waiting: &[(&str, u64)]) -> AheadInput {
    let now = Timestamp::from_secs(START);
    let rules = rules(text);
    let owner = Owner { node: NodeId(1), incarnation: 1 };
    let ledger =
        Ledger::restore(quota::Settings::default(), Arc::clone(&rules) as _, owner, now, []);
    let source = Source {
        id: SourceId(1),
        weight: 1,
        include_domains: vec![],
        exclude_domains: vec![],
        ipv6: false,
    };
    let affinity = Affinity { name: "default".into(), sources: vec![SourceId(1)] };
    let route = |number: usize, domain: &str| {
        let host = MxHost {
            preference: 10,
            name: format!("mx.{domain}").into(),
            addresses: vec![format!("198.18.0.{}", number + 1).parse().unwrap()],
        };
        let valid_until = Timestamp::NEVER;
        Arc::new(MxRoute {
            hosts: vec![host],
            port: 25,
            lmtp: false,
            relay: false,
            tls: None,
            valid_until,
        })
    };
    AheadInput {
        now,
        ledger,
        owner,
        sources: Sources::new(vec![source], vec![affinity]).unwrap(),
        source_limits: BTreeMap::new(),
        rules,
        settings: Settings::default(),
        routes: waiting
            .iter()
            .enumerate()
            .map(|(number, (domain, _))| (Box::from(*domain), route(number, domain)))
            .collect(),
        waiting: waiting
            .iter()
            .map(|(domain, count)| Waiting {
                domain: (*domain).into(),
                delivery: DeliveryId(1),
                options: DeliveryOptions::default(),
                count: *count,
                due: Timestamp::EPOCH,
            })
            .collect(),
        latencies: BTreeMap::new(),
        latency: Latency::default(),
        horizon: Duration::from_secs(30 * 86_400),
    }
}

const TEN_THOUSAND: &str =
    "[[rule]]\nname = \"a\"\nmask = \"mx.a.example\"\nmessages_per_hour = 10000";

#[test]
fn twenty_thousand_at_ten_thousand_an_hour_take_two_hours() {
    let report = ahead(input(TEN_THOUSAND, &[("a.example", 20_000)]));
    assert!(report.left.is_empty(), "{:?}", report.left);
    let minutes = (report.finished_at.unwrap().as_secs() - START) / 60;
    assert!((119..=125).contains(&minutes), "{minutes} minutes");
    let course = &report.domains["a.example"];
    assert_eq!(course.per_five_minutes[0], 833);
    assert_eq!(course.per_five_minutes[11], 833);
    assert_eq!(course.messages, 20_000);
    assert_eq!(course.per_five_minutes.iter().sum::<u64>(), 20_000);
    assert!(course.per_hour().iter().all(|count| *count <= 10_000));
    assert_eq!(course.first_at.unwrap().as_secs(), START);
}

/// The shipped rules at each level, with more mail than any of them lets go: what goes in an hour grows from level to level
/// as the guide says, nearly all that the level allows goes, and no limit is passed.
#[test]
fn each_level_sends_more_than_the_one_below() {
    let hours =
        [Level::Slow, Level::Normal, Level::Fast, Level::VeryFast, Level::Boost].map(|level| {
            let mut input = input("", &[("google.com", 60_000), ("a.example", 60_000)]);
            let rules = Arc::new(RuleSet::compile(rules::shipped(), &Levels::all(level), 1));
            let settings = quota::Settings::default();
            input.ledger =
                Ledger::restore(settings, Arc::clone(&rules) as _, input.owner, input.now, []);
            input.rules = Arc::clone(&rules);
            input.horizon = Duration::from_secs(7_200);
            let report = ahead(input);
            let of = |domain: &str| {
                let rule = rules.find(&format!("mx.{domain}"), SourceId(1));
                let limit = u64::from(rules.limits(rule, SourceId(1)).messages_per_hour);
                let course = &report.domains[domain].per_five_minutes;
                let densest =
                    course.windows(12).map(|hour| hour.iter().sum::<u64>()).max().unwrap();
                assert!(
                    densest <= limit,
                    "{level}: {densest} in an hour to {domain}, limit {limit}"
                );
                assert!(
                    densest * 100 >= limit * 95,
                    "{level}: only {densest} of {limit} to {domain}"
                );
                densest
            };
            [of("google.com"), of("a.example")]
        });
    assert!(hours.is_sorted_by(|one, next| one[0] < next[0] && one[1] < next[1]), "{hours:?}");
}

#[test]
fn groups_do_not_wait_for_each_other_and_what_cannot_go_is_left() {
    let mut input =
        input(TEN_THOUSAND, &[("a.example", 1_000), ("b.example", 100), ("c.example", 7)]);
    input.routes.remove("c.example");
    input.horizon = Duration::from_secs(7_200);
    let report = ahead(input);
    assert_eq!(report.groups.len(), 2);
    let at = |domain: &str| report.domains[domain].finished_at.unwrap().as_secs() - START;
    assert!(at("b.example") < 60, "{}", at("b.example"));
    assert!((300..400).contains(&at("a.example")), "{}", at("a.example"));
    assert_eq!((report.left.len(), report.left[0].count), (1, 7));
    assert!(report.left[0].reason.contains("no route"), "{:?}", report.left);
}

#[test]
fn what_the_ledger_has_counted_counts() {
    let mut input = input(TEN_THOUSAND, &[("a.example", 100)]);
    let path = quota::PathKey { source: SourceId(1), target: "198.18.0.1".parse().unwrap() };
    let request =
        TokenRequest { path, mx_host: "mx.a.example", want: 800, source_limit: None, caps: &[] };
    assert!(matches!(input.ledger.ask_tokens(input.now, &request), TokenAnswer::Granted(_)));
    let report = ahead(input);
    assert_eq!(report.domains["a.example"].per_five_minutes, [33, 67]);
}

#[test]
fn what_was_put_off_does_not_hold_up_the_rest() {
    let mut input = input(TEN_THOUSAND, &[("a.example", 20), ("a.example", 30), ("b.example", 5)]);
    input.waiting[1].due = Timestamp::from_secs(START + 7_200);
    let report = ahead(input);
    let course = &report.domains["a.example"].per_five_minutes;
    assert_eq!((course[0], course[24], course.len()), (20, 30, 25), "{course:?}");
    assert!(report.left.is_empty());
}

#[test]
fn the_cap_of_a_source_counts() {
    let mut input = input(TEN_THOUSAND, &[("a.example", 150), ("b.example", 150)]);
    input.source_limits.insert(SourceId(1), 100);
    let report = ahead(input);
    let sum = |hour: usize| -> u64 {
        report
            .domains
            .values()
            .map(|course| course.per_hour().get(hour).copied().unwrap_or(0))
            .sum()
    };
    assert!(sum(0) <= 100, "{report:?}");
    let minutes = (report.finished_at.unwrap().as_secs() - START) / 60;
    assert!((115..=190).contains(&minutes), "{minutes} minutes");
}

#[test]
fn each_host_takes_as_long_as_its_group() {
    let mut input = input("", &[("a.example", 40), ("b.example", 40)]);
    let slow = Latency { set_up: Duration::from_secs(30), message: Duration::from_secs(2) };
    input.latencies.insert(mail::route::group_key(&input.routes["b.example"]), slow);
    let report = ahead(input);
    let first = |domain: &str| report.domains[domain].first_at.unwrap().as_secs() - START;
    assert_eq!((first("a.example"), first("b.example")), (0, 30));
}

/// Sums of all domains in each period, without the empty ones at the end.
fn all_together(report: &AheadReport) -> Vec<u64> {
    let mut sum = AheadCourse::default();
    report.domains.values().for_each(|course| sum.add(course));
    sum.per_five_minutes
}

const LONG: [(&str, u64); 4] =
    [("a.example", 60_000), ("b.example", 40_000), ("c.example", 30_000), ("d.example", 9_000)];

/// What is repeated instead of being run through again changes no period's sum, and moves the end of a single
/// domain's mail by little.
#[test]
fn hours_that_are_repeated_are_those_of_the_full_run() {
    for pacing in ["staircase", "even"] {
        let rules = format!(
            "[[rule]]\nname = \"all\"\nmask = \"*.example\"\nmessages_per_hour = 2500\npacing = {pacing:?}"
        );
        let (full, strided) =
            (ahead_with(input(&rules, &LONG), u64::MAX), ahead_with(input(&rules, &LONG), 0));
        assert!(strided.left.is_empty(), "{:?}", strided.left);
        let (sums, repeated) = (all_together(&full), all_together(&strided));
        assert!(full.repeated == 0 && strided.repeated > 10_000, "{pacing}: {}", strided.repeated);
        assert!(sums.len().abs_diff(repeated.len()) <= 1, "{pacing}");
        let differing = sums.iter().zip(&repeated).filter(|(one, other)| one.abs_diff(**other) > 2);
        assert!(differing.count() <= sums.len() / 20, "{pacing}: {sums:?} {repeated:?}");
        let densest = |sums: &[u64]| sums.windows(12).map(|hour| hour.iter().sum::<u64>()).max();
        assert!(densest(&repeated) <= Some(2_500), "{pacing}");
        for (domain, count) in LONG {
            let (course, full) = (&strided.domains[domain], &full.domains[domain]);
            assert_eq!((course.messages, course.first_at), (count, full.first_at), "{domain}");
            assert_eq!(course.per_five_minutes.iter().sum::<u64>(), count, "{domain}");
            let length = |course: &AheadCourse| course.finished_at.unwrap().as_secs() - START;
            let moved = length(course).abs_diff(length(full));
            assert!(
                moved * 20 <= length(full),
                "{pacing}, {domain}: {moved} s of {}",
                length(full)
            );
        }
    }
}

/// Where each path has a budget of its own nobody gets what another has left. So little goes that cycles with and without
/// the first one are alike.
#[test]
fn nobody_inherits_what_is_anothers_own() {
    let rules = "[[rule]]\nname = \"all\"\nmask = \"*.example\"\nmessages_per_hour = 24\npacing = \"even\"\nscope = \"path\"";
    let waiting = [("a.example", 900), ("b.example", 4_000)];
    let (full, strided) =
        (ahead_with(input(rules, &waiting), u64::MAX), ahead_with(input(rules, &waiting), 0));
    assert!(strided.repeated > 2_000, "{}", strided.repeated);
    for (domain, _) in waiting {
        let (course, full) = (&strided.domains[domain], &full.domains[domain]);
        let densest = |course: &AheadCourse| {
            course.per_five_minutes.windows(12).map(|hour| hour.iter().sum::<u64>()).max()
        };
        assert_eq!(densest(course), densest(full), "{domain}");
        assert_eq!(course.finished_at, full.finished_at, "{domain}");
    }
}

/// What makes hours differ.
type Capped = fn(&mut AheadInput);

/// A cap per hour or day, and mail that was put off, make hours of different kinds: all of them are run through.
#[test]
fn nothing_is_repeated_where_hours_may_differ() {
    let capped_by: [(&str, Capped); 4] = [
        ("a delivery's cap", |input| {
            input.waiting.iter_mut().for_each(|one| one.options.messages_per_hour = Some(2_000));
        }),
        ("a source's cap", |input| {
            input.source_limits.insert(SourceId(1), 2_000);
        }),
        ("a cap of the warm-up", |input| {
            let mut caps = quota::WarmUpCaps::default();
            let of_source = quota::SourceCaps { per_day: Some(30_000), ..Default::default() };
            caps.sources.insert(SourceId(1), of_source);
            input.ledger.replace_warm_up(input.now, Arc::new(caps));
        }),
        ("mail that was put off", |input| {
            input.waiting[0].due = input.now + Duration::from_secs(20 * 3_600);
        }),
    ];
    for (name, capped) in capped_by {
        let make = || {
            let mut input = input("", &[("a.example", 8_000), ("b.example", 30_000)]);
            capped(&mut input);
            input.horizon = Duration::from_secs(18 * 3_600);
            input
        };
        assert_eq!(ahead_with(make(), 0), ahead_with(make(), u64::MAX), "{name}");
    }
}
