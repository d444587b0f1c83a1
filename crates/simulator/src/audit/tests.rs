use proptest::prelude::*;
use rules::{Level, Levels, RuleSet};

use super::*;

const RULES: &str = r#"
schema_version = 1

[[rule]]
name = "by-source"
mask = "*.source.example"
messages_per_hour = 3

[[rule]]
name = "by-path"
mask = "*.path.example"
scope = "path"
messages_per_hour = 3

[[rule]]
name = "by-rule"
mask = "*.rule.example"
scope = "rule"
messages_per_hour = 3

[[rule]]
name = "generic"
mask = "*"
max_connections = 1
max_messages_per_connection = 1
messages_per_hour = 1
"#;

fn rule_set(levels: &Levels) -> RuleSet {
    RuleSet::compile(&rules::parse("rules.toml", RULES.as_bytes()).unwrap(), levels, 1)
}

fn entry(started_micros: u64, source: u32, target: u8, rule: &str) -> Entry {
    Entry { started_micros, source, target: [192, 0, 2, target].into(), rule: rule.to_owned() }
}

fn audit(rules: &RuleSet, entries: &[Entry]) -> AuditReport {
    let mut auditor = Auditor::new(rules, BTreeMap::new());
    for (line, entry) in (1..).zip(entries) {
        auditor.attempt("log", line, entry);
    }
    auditor.finish()
}

fn summary(report: &AuditReport) -> String {
    let line = |budget: &BudgetAudit| {
        format!("{} {} {}/{}", budget.rule, budget.key, budget.maximum, budget.limit_per_hour)
    };
    report.budgets.iter().map(line).collect::<Vec<_>>().join(", ")
}

#[test]
fn the_hour_is_closed_at_its_beginning_and_open_at_its_end() {
    let rules = rule_set(&Levels::default());
    let at = |micros| entry(micros, 1, 1, "by-source");
    let four_in_the_hour = [at(0), at(1), at(2), at(HOUR - 1)];
    let report = audit(&rules, &four_in_the_hour);
    assert_eq!(summary(&report), "by-source s1 4/3");
    assert!(!report.limits_held);
    assert_eq!(report.budgets[0].busiest_from, "1970-01-01T00:00:00.000Z");
    assert_eq!(report.budgets[0].busiest_to, "1970-01-01T00:59:59.999Z");
    let report = audit(&rules, &[at(0), at(1), at(2), at(HOUR)]);
    assert_eq!(summary(&report), "by-source s1 3/3");
    assert!(report.limits_held);
}

#[test]
fn attempts_count_over_the_scope_of_their_rule() {
    let rules = rule_set(&Levels::default());
    let of = |rule| [entry(1, 1, 1, rule), entry(2, 1, 2, rule), entry(3, 2, 1, rule)];
    for (rule, wanted) in [
        ("by-source", "by-source s1 2/3, by-source s2 1/3"),
        ("by-path", "by-path s1>192.0.2.1 1/3, by-path s1>192.0.2.2 1/3, by-path s2>192.0.2.1 1/3"),
        ("by-rule", "by-rule all 3/3"),
    ] {
        assert_eq!(summary(&audit(&rules, &of(rule))), wanted);
    }
}

#[test]
fn the_level_and_the_cap_of_a_source_are_limits_too() {
    let rules = rule_set(&Levels::all(Level::Slow));
    let entries = [entry(1, 1, 1, "by-source"), entry(2, 1, 1, "by-path")];
    let mut auditor = Auditor::new(&rules, BTreeMap::from([(1, 1)]));
    for (line, entry) in (1..).zip(&entries) {
        auditor.attempt("log", line, entry);
    }
    let report = auditor.finish();
    assert_eq!(summary(&report), "[[source]] s1 2/1, by-path s1>192.0.2.1 1/1, by-source s1 1/1");
    assert_eq!((report.excesses, report.limits_held), (1, false));
}

#[test]
fn what_cannot_be_judged_is_not_held() {
    let rules = rule_set(&Levels::default());
    let report = audit(&rules, &[entry(1, 1, 1, "gone")]);
    assert_eq!((report.limits_held, report.unknown_rules["gone"]), (false, 1));
    let late = [
        entry(20 * HOUR, 1, 1, "by-source"),
        entry(40 * HOUR, 1, 1, "by-source"),
        entry(60 * HOUR, 1, 1, "by-source"),
        entry(1, 1, 1, "by-source"),
    ];
    let report = audit(&rules, &late);
    assert_eq!((report.limits_held, report.out_of_order), (false, 1));
    assert_eq!(report.faulty_lines[0].line, 4);
    let mut auditor = Auditor::new(&rules, BTreeMap::new());
    auditor.malformed("log", 7, "torn".to_owned());
    assert!(!auditor.finish().limits_held);
}

#[test]
fn lines_are_read_or_their_fault_is_said() {
    let read = |line: &str| match Entry::read(line.as_bytes()) {
        Ok(Some(entry)) => format!("{entry:?}"),
        Ok(None) => "not started".to_owned(),
        Err(why) => why,
    };
    let whole = r#"{"at":"x","started_at":"y","started_micros":5,"source":1,"target":"192.0.2.1",
        "rule":"*","reply":"250 \"ok\"","note":"","more":[1]}"#;
    assert_eq!(
        read(whole),
        "Entry { started_micros: 5, source: 1, target: 192.0.2.1, rule: \"*\" }"
    );
    assert_eq!(read(r#"{"at":"x","rule":"*"}"#), "not started");
    for (line, wanted) in [
        (r#"{"started_at":"y"}"#, "started_at without started_micros"),
        (r#"{"started_micros":5,"source":1,"rule":"*"}"#, "started_micros without target"),
        (r#"{"started_micros":-5}"#, "not a log line"),
        (r#"{"started_micros":5,"source":1,"target":"#, "not a log line"),
        ("[]", "not a log line"),
        ("", "not a log line"),
        ("\u{0}\u{0}", "not a log line"),
    ] {
        assert!(read(line).starts_with(wanted), "{line}: {}", read(line));
    }
}

/// Every window begins with a message: count each of them out.
fn naive_maximum(times: &[u64]) -> u64 {
    let in_hour = |first: &u64| {
        let inside = |time: &&u64| **time >= *first && **time - *first < HOUR;
        times.iter().filter(inside).count() as u64
    };
    times.iter().map(in_hour).max().unwrap_or(0)
}

proptest! {
    /// Start times in any order within the horizon, over many hours, and on the edges of the hour.
    #[test]
    fn agrees_with_counting_every_window(
        steps in proptest::collection::vec(
            (prop_oneof![0..3_u64, Just(HOUR - 1), Just(HOUR), 0..HOUR / 2, Just(5 * HOUR)],
             0..HORIZON, 1..3_u32, 1..3_u8),
            0..60,
        ),
    ) {
        let rules = rule_set(&Levels::default());
        let mut newest = HORIZON;
        let mut entries = Vec::new();
        for (step, back, source, target) in steps {
            newest += step;
            entries.push(entry(newest - back, source, target, "by-path"));
        }
        let report = audit(&rules, &entries);
        prop_assert_eq!(report.out_of_order, 0);
        for budget in &report.budgets {
            let times: Vec<u64> = entries
                .iter()
                .filter(|entry| format!("{}>{}", SourceId(entry.source), entry.target) == budget.key)
                .map(|entry| entry.started_micros)
                .collect();
            prop_assert_eq!(budget.maximum, naive_maximum(&times));
            prop_assert_eq!(budget.messages, times.len() as u64);
            prop_assert_eq!(budget.held, budget.maximum <= 3);
        }
        let all: u64 = report.budgets.iter().map(|budget| budget.messages).sum();
        prop_assert_eq!(all, entries.len() as u64);
    }
}

/// A level that was lowered at noon: what was sent before it is no excess, what came after is.
#[test]
fn each_message_is_judged_by_the_level_of_its_time() {
    let minute = 60_000_000;
    let noon = 1_000 * minute;
    let past = |before: Level, after: Level| Past {
        rules: vec![(0, rule_set(&Levels::all(before))), (noon, rule_set(&Levels::all(after)))],
        warm_up: Vec::new(),
    };
    let rules = rule_set(&Levels::default());
    let audit = |past: Past, entries: &[Entry]| {
        let mut auditor = Auditor::new(&rules, BTreeMap::new()).with_past(past);
        for (line, entry) in (1..).zip(entries) {
            auditor.attempt("log", line, entry);
        }
        auditor.finish()
    };
    // Six in the hour before noon: allowed at fast (twice three), not at normal.
    let six: Vec<Entry> =
        (0..6).map(|n| entry(noon - (30 - n) * minute, 1, 1, "by-source")).collect();
    assert!(audit(past(Level::Fast, Level::Normal), &six).limits_held);
    assert!(!audit(past(Level::Normal, Level::Fast), &six).limits_held);
    // One more, ten minutes after noon, is one too many at normal; half a minute after it a token of before is used.
    let mut late = six.clone();
    late[5].started_micros = noon + minute / 2;
    assert!(audit(past(Level::Fast, Level::Normal), &late).limits_held);
    late.push(entry(noon + 10 * minute, 1, 1, "by-source"));
    let report = audit(past(Level::Fast, Level::Normal), &late);
    assert!(!report.limits_held && report.excesses == 1);
    assert_eq!((report.budgets[0].maximum, report.budgets[0].limit_per_hour), (7, 3));
}

/// Warm-up caps: any hour, any day, a provider's line, by what held at the time.
#[test]
fn warm_up_caps_are_audited_by_hour_and_day() {
    let hour = 3_600_000_000;
    let caps = |per_hour, per_day, line| {
        let caps = SourceCaps {
            per_hour: Some(per_hour),
            per_day: Some(per_day),
            provider_per_day: Some(line),
            providers: BTreeMap::new(),
        };
        WarmUpCaps { sources: BTreeMap::from([(SourceId(7), caps)]) }
    };
    let rules = rule_set(&Levels::all(Level::Boost));
    let audit = |past: Vec<(u64, WarmUpCaps)>, entries: &[Entry]| {
        let past = Past { rules: Vec::new(), warm_up: past };
        let mut auditor = Auditor::new(&rules, BTreeMap::new()).with_past(past);
        for (line, entry) in (1..).zip(entries) {
            auditor.attempt("log", line, entry);
        }
        let report = auditor.finish();
        let passed = report.budgets.iter().filter(|budget| !budget.held);
        passed.map(|budget| format!("{} {}", budget.rule, budget.key)).collect::<Vec<_>>()
    };
    let day: Vec<Entry> = (0..20).map(|n| entry(n * hour, 7, 1, "by-source")).collect();
    let none: Vec<String> = Vec::new();
    assert_eq!(audit(vec![(0, caps(1, 20, 20))], &day), none);
    assert_eq!(audit(vec![(0, caps(1, 19, 20))], &day), ["warm-up s7 a day"]);
    assert_eq!(audit(vec![(0, caps(1, 20, 19))], &day), ["warm-up at by-source s7 a day"]);
    assert_eq!(audit(vec![(0, caps(0, 20, 20))], &day), ["warm-up s7 an hour"]);
    // Caps that came after the last message judge nothing; those that were lifted judge nothing later.
    assert_eq!(audit(vec![(21 * hour, caps(0, 0, 0))], &day), none);
    let lifted = vec![(0, caps(1, 10, 10)), (9 * hour + 1, WarmUpCaps::default())];
    assert_eq!(audit(lifted, &day), none);
}
