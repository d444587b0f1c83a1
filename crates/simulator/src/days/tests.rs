//! Some of the days in the normal tests, and the proof that an excess would be seen.

use super::*;

#[test]
fn forty_days_keep_every_limit_and_three_judges_agree() {
    let report = days(1, 40, &DaysPlan { days: 10, ..DaysPlan::default() });
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
    assert_eq!(report.excess(), 0);
    assert!(report.mails > 2_000 && report.looks > 1_000 && report.audited > 2_000, "{report:?}");
    // Limits that nothing presses on would prove nothing.
    for name in [
        "messages of a path",
        "messages of a source",
        "messages of a rule",
        "connections",
        "warm-up cap of a day",
        "cap of a delivery",
    ] {
        let kept = report.limits.iter().find(|kept| kept.limit == name);
        let kept = kept.unwrap_or_else(|| panic!("no {name}: {report:?}"));
        assert!(kept.last_places > 0 && kept.most.0 == kept.most.1, "{kept:?}");
    }
    let done: BTreeMap<&str, u64> = report.done.iter().copied().collect();
    assert!(done.values().all(|count| *count > 0), "{done:?}");
}

/// Words of what the judges say when a fault is built into the node, over some worlds of some days.
fn guilty(sabotage: Sabotage, words: &[&str]) {
    let mut missing: Vec<&str> = words.to_vec();
    for seed in 1..=12 {
        let report = days(seed, 1, &DaysPlan { days: 6, sabotage });
        missing.retain(|words| !report.violations.iter().any(|text| text.contains(words)));
        if missing.is_empty() {
            assert!(report.excess() > 0, "{sabotage:?}: {report:?}");
            return;
        }
    }
    panic!("{sabotage:?}: nobody says {missing:?}");
}

#[test]
fn each_of_the_three_judges_sees_a_token_too_many() {
    guilty(
        Sabotage::ExtraToken,
        &[
            "3: messages: ",
            "3: the auditor finds in the delivery log",
            "3: the auditor finds in the exchangers' record",
            "3: the ledger counts",
        ],
    );
}

#[test]
fn each_of_the_three_judges_sees_a_day_too_full() {
    guilty(
        Sabotage::UncappedWarmUp,
        &["in a day for a source, which is warmed up", "in 86400 s for warm-up"],
    );
}
