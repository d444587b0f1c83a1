use std::fs::File;
use std::io::Write as _;

use rules::Levels;

use super::*;

fn line(minute: u64, target: u8) -> String {
    format!(
        "{{\"at\":\"x\",\"started_micros\":{},\"source\":1,\"target\":\"192.0.2.{target}\",\"rule\":\"yahoo\"}}\n",
        minute * 60_000_000
    )
}

/// Writes logs, audits them, and answers the report and the unfinished files.
fn audited(contents: &[&[u8]]) -> (AuditReport, usize) {
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<PathBuf> = (0..contents.len())
        .map(|number| folder.path().join(format!("delivery.jsonl.{number}")))
        .collect();
    for (path, content) in files.iter().zip(contents) {
        File::create(path).unwrap().write_all(content).unwrap();
    }
    let rules = crate::globals::rule_set(None, rules::shipped(), &Levels::default()).unwrap();
    let mut auditor = Auditor::new(&rules, BTreeMap::new());
    let unfinished = feed(&files, &mut auditor).unwrap();
    (auditor.finish(), unfinished.len())
}

#[test]
fn files_may_come_in_any_order() {
    let lines = |minutes: core::ops::Range<u64>| minutes.map(|at| line(at, 1)).collect::<String>();
    // Three days in three files, the newest first.
    let parts = [lines(2_880..4_320), lines(0..1_440), lines(1_440..2_880)];
    let (report, _) = audited(&[parts[0].as_bytes(), parts[1].as_bytes(), parts[2].as_bytes()]);
    assert_eq!((report.attempts, report.out_of_order), (4_320, 0));
    assert_eq!(report.budgets[0].maximum, 60);
    assert!(report.limits_held);
}

#[test]
fn an_excess_is_found_and_said() {
    let lines: String = (0..2_501).map(|at| line(at / 60, 1)).collect();
    let (report, _) = audited(&[lines.as_bytes()]);
    assert_eq!((report.excesses, report.budgets[0].maximum), (1, 2_501));
    let text = audit_text(&report, 1, false);
    assert!(text.contains("PASSED") && text.contains("LIMITS PASSED: 1 budget"), "{text}");
}

#[test]
fn broken_lines_are_counted_with_their_numbers() {
    let text = format!("{}garbage\n{}\u{0}\n{}{{\"at\"", line(0, 1), line(1, 1), line(2, 1));
    let (report, unfinished) = audited(&[text.as_bytes()]);
    assert_eq!((report.attempts, report.malformed, unfinished), (3, 2, 1));
    let places: Vec<u64> = report.faulty_lines.iter().map(|fault| fault.line).collect();
    assert_eq!(places, [2, 4]);
    assert!(!report.limits_held);
}

#[test]
fn an_endless_line_is_one_malformed_line() {
    let mut text = line(0, 1).into_bytes();
    text.extend(std::iter::repeat_n(b'x', 5 << 20));
    text.extend(b"\n");
    text.extend(line(1, 1).into_bytes());
    let (report, _) = audited(&[&text]);
    assert_eq!((report.attempts, report.malformed, report.faulty_lines[0].line), (2, 1, 2));
}

#[test]
fn an_empty_log_holds() {
    let (report, _) = audited(&[b""]);
    assert!(report.limits_held);
    assert!(audit_text(&report, 1, false).contains("nothing was sent"));
}

#[test]
fn the_rotated_files_of_a_log_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("delivery.jsonl");
    assert!(with_rotated(&log).is_err());
    for name in ["delivery.jsonl", "delivery.jsonl.1", "delivery.jsonl.2", "delivery.jsonl.old"] {
        File::create(folder.path().join(name)).unwrap();
    }
    let names: Vec<_> = with_rotated(&log)
        .unwrap()
        .iter()
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(names, ["delivery.jsonl.2", "delivery.jsonl.1", "delivery.jsonl"]);
}

#[test]
fn what_a_node_says_is_shown() {
    let answer = serde_json::json!({
        "connections": 3,
        "budgets": [{ "rule": "yahoo", "key": "s1", "used_in_window": 1200, "limit_per_hour": 2500,
                      "connections": 3, "max_connections": 10, "next_at": 1_000_000 }],
        "groups": [{ "sample_domain": "yahoo.com", "window": 5, "connections": 3, "in_flight": 1,
                     "waiting": { "reason": { "reason": "quota", "wait": {} }, "until": 2_000_000 } }]
    });
    let text = stat_text(&answer);
    for wanted in ["yahoo", "1,200", "2,500", "1970-01-01T00:00:01Z", "quota", "connections  3"] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    assert_eq!(stat_text(&serde_json::json!({})), "no budget has been used yet\n");
}

#[test]
fn groups_at_rest_are_counted_and_sums_are_lines() {
    let idle = serde_json::json!({ "sample_domain": "idle.example", "rule": "default", "window": 0,
        "connections": 0, "in_flight": 0, "waiting": null });
    let busy = serde_json::json!({ "sample_domain": "busy.example", "rule": "default", "window": 7,
        "connections": 0, "in_flight": 0, "waiting": null });
    let answer = serde_json::json!({
        "now": "2026-11-21T10:01:23.618Z", "node": "demo", "rules_version": 1,
        "levels": { "default": "normal", "per_source": {}, "per_rule": { "google": "fast" } },
        "budgets": [{ "rule": "google", "key": "s1", "next_at": "2026-11-21T10:01:23.618Z" },
                    { "rule": "google", "key": "s2", "next_at": "2026-11-21T10:05:00.000Z" }],
        "groups": [busy, idle, idle], "groups_total": 3, "budgets_total": 2,
        "queue": { "queued": 274, "in_flight": 57 }, "sizes": { "connections": 3 },
        "counts": { "sent": 2598, "connections": 226 }, "clock_drift_micros": -1,
        "store": { "healthy": false, "fault": "the disk is full" },
    });
    let text = stat_text(&answer);
    let (tables, sums) = text.split_once("2 other MX groups at rest\n\n").unwrap();
    assert!(tables.contains("busy.example") && !tables.contains("idle.example"), "{tables}");
    assert!(tables.contains("now") && tables.contains("10:05:00Z"), "{tables}");
    assert!(!tables.contains("10:01:23"), "{tables}");
    assert_eq!(
        sums,
        "queue       274 queued, 57 claimed by nodes\n\
         attempts    2,598 sent\n\
         connections 3 open, 226 made\n\
         rules       version 1, level normal\n            per rule: google fast\n\
         store       TAKES NOTHING: the disk is full\n\
         node        demo, 2026-11-21T10:01:23Z\n"
    );
}
