//! Many worlds, and proofs that the checkers see what they are for.

use super::*;

/// A hundred worlds, each lived twice. Two tests of these run side by side.
fn hundred_worlds(from: u64) {
    let summary = seeds(from, 100);
    assert!(summary.violations.is_empty(), "{}", summary.violations.join("\n"));
    assert!(summary.messages > 5_000 && summary.duplicates > 0, "{summary:?}");
}

#[test]
fn a_hundred_worlds_hold_what_must_always_hold() {
    hundred_worlds(1);
}

#[test]
fn another_hundred_worlds_do_too() {
    hundred_worlds(101);
}

/// The first worlds that a sabotage betrays itself in, of so many.
fn guilty(sabotage: Sabotage, words: &str, worlds: u64) -> Vec<u64> {
    let plan = Plan { sabotage, ..Plan::default() };
    let found = |seed: &u64| {
        let twice = sabotage == Sabotage::OtherSeed;
        let outcome = if twice { run_twice(*seed, &plan) } else { run(*seed, &plan) };
        outcome.violations.iter().any(|text| text.contains(words))
    };
    (1..=worlds).filter(found).take(3).collect()
}

/// Every checker sees what it is for, in three worlds of sixty at least.
fn found(part: usize) {
    for (sabotage, words) in Sabotage::ALL.into_iter().skip(part).step_by(2) {
        let seeds = guilty(sabotage, words, 60);
        assert_eq!(seeds.len(), 3, "{sabotage:?} is found in {seeds:?} only");
    }
}

#[test]
fn a_sabotage_is_found() {
    found(0);
}

#[test]
fn another_sabotage_is_found() {
    found(1);
}

#[test]
fn the_page_of_proofs_lists_every_sabotage() {
    let page = include_str!("../../../docs/proof.md");
    for (sabotage, words) in Sabotage::ALL {
        let row = page.lines().find(|line| line.contains(&format!("| `{sabotage:?}` |")));
        let row = row.unwrap_or_else(|| panic!("docs/proof.md has no row for {sabotage:?}"));
        assert!(row.contains(words.trim()), "{row} does not say {words:?}");
    }
}

#[test]
fn another_seed_is_another_history() {
    let plan = Plan::default();
    assert_ne!(run(1, &plan).log_hash, run(2, &plan).log_hash);
}
