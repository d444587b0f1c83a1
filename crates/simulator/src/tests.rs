//! Many worlds, and proofs that the checkers see what they are for.

use super::*;

/// A hundred worlds, each lived twice. Two tests of these run side by side.
fn hundred_worlds(from: u64) {
    let summary = seeds(from, 100);
    assert!(summary.violations.is_empty(), "{}", summary.violations.join("\n"));
    assert!(summary.messages > 5_000 && summary.duplicates > 0, "{summary:?}");
}

/// So many worlds, each lived once.
fn worlds(from: u64, count: u64) {
    let plan = Plan::default();
    let guilty = (from..from + count).map(|seed| run(seed, &plan));
    let guilty: Vec<Outcome> = guilty.filter(|outcome| !outcome.violations.is_empty()).collect();
    assert!(guilty.is_empty(), "{guilty:#?}");
}

#[test]
fn four_hundred_worlds_lived_once() {
    worlds(201, 400);
}

#[test]
fn another_four_hundred_worlds_lived_once() {
    worlds(601, 400);
}

#[test]
fn a_failing_world_is_made_small() {
    let plan = Plan { sabotage: Sabotage::EarlyWaves, ..Plan::default() };
    let fails = |seed: &u64| !run(*seed, &plan).violations.is_empty();
    let seed = (1..=60).find(fails).expect("some world has waves");
    let whole = run(seed, &plan);
    let (cuts, small) = shrink(seed, &plan).expect("it fails");
    assert!(small.violations[0].contains("9: before its wave"), "{small:?}");
    assert!(small.messages * 4 < whole.messages, "{} of {}", small.messages, whole.messages);
    assert!(cuts.contains(&Cut::Names) && cuts.contains(&Cut::Mood(0)), "{cuts:?}");
    assert_eq!(run_cut(seed, &plan, &cuts), small, "it can be run again");
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

/// Every checker sees what it is for, in three worlds of two hundred at least.
fn found(part: usize) {
    for (sabotage, words) in Sabotage::ALL.into_iter().skip(part).step_by(2) {
        let seeds = guilty(sabotage, words, 200);
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
fn a_rate_that_nobody_tells_is_approached_and_kept() {
    let reacting = approach::approach(120, 1, true);
    assert_eq!(reacting.violations, Vec::<String>::new());
    assert!(reacting.refused_permille() <= 10, "{reacting:?}");
    assert!(reacting.reached_permille() >= 900, "{reacting:?}");
    // Near it in every minute: no up and down.
    assert!(reacting.least_and_most.0 * 10 >= 8 * u64::from(reacting.limit), "{reacting:?}");
    let fixed = approach::approach(120, 1, false);
    assert!(fixed.refused_permille() >= 100, "{fixed:?}");
}

#[test]
fn another_seed_is_another_history() {
    let plan = Plan::default();
    assert_ne!(run(1, &plan).log_hash, run(2, &plan).log_hash);
}
