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

/// How many of so many worlds with a fault built in are found guilty in these words.
fn found(sabotage: Sabotage, words: &str) -> usize {
    let plan = Plan { sabotage, recipients_max: 250, ..Plan::default() };
    let guilty = |seed: &u64| run(*seed, &plan).violations.iter().any(|text| text.contains(words));
    (1..=20).filter(guilty).count()
}

#[test]
fn a_ledger_that_grants_a_token_too_many_is_found() {
    let found = found(Sabotage::ExtraToken, "3: messages");
    assert!(found >= 5, "{found}");
}

#[test]
fn a_ledger_that_does_not_count_permits_is_found() {
    let found = found(Sabotage::UncountedPermits, "3: connections");
    assert!(found >= 5, "{found}");
}

#[test]
fn a_store_that_forgets_a_recipient_is_found() {
    let found = found(Sabotage::ForgottenRecipient, "1: message");
    assert!(found >= 19, "{found}");
}

#[test]
fn a_store_that_forgets_settlements_is_found() {
    let plan = Plan { sabotage: Sabotage::ForgottenSettlement, ..Plan::default() };
    let texts: Vec<String> = (1..=20).flat_map(|seed| run(seed, &plan).violations).collect();
    assert!(texts.iter().any(|text| text.contains(" 5: ")), "left in the queue: {texts:?}");
    assert!(texts.iter().any(|text| text.contains("2: message")), "or sent again: {texts:?}");
}

#[test]
fn another_seed_is_another_history() {
    let plan = Plan::default();
    assert_ne!(run(1, &plan).log_hash, run(2, &plan).log_hash);
}
