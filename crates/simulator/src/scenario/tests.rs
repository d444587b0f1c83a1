//! Scenarios are what they were written from; and each defect that a world has shown stays mended.

use super::*;
use crate::plan::Plan;
use crate::{run, run_scenario, scenario};

#[test]
fn the_world_of_a_text_has_the_same_history() {
    let plan = Plan::default();
    for seed in 1..=12 {
        let text = scenario(seed, &plan, &[]);
        let again = run_scenario(&text, Sabotage::None).unwrap();
        let first = run(seed, &plan);
        assert_eq!((again.log_hash, again.messages), (first.log_hash, first.messages), "{seed}");
    }
}

#[test]
fn what_is_not_understood_is_said_with_its_line() {
    let text = scenario(1, &Plan::default(), &[]);
    let wrong = text.replacen("[settings]\n", "[settings]\nunheard_of = 1\n", 1);
    let said = run_scenario(&wrong, Sabotage::None).unwrap_err();
    assert!(said.contains("unheard_of") && said.contains("line"), "{said}");
    let wrong = text.replacen("commit = \"", "commit = \"soon ", 1);
    let said = run_scenario(&wrong, Sabotage::None).unwrap_err();
    assert!(said.contains("is no span like `90s`"), "{said}");
}

/// Runs a scenario and demands that nothing is wrong with it.
fn holds(text: &str) {
    let outcome = run_scenario(text, Sabotage::None).unwrap_or_else(|fault| panic!("{fault}"));
    assert!(outcome.violations.is_empty(), "{:#?}", outcome.violations);
    assert!(outcome.messages > 0, "{outcome:?}");
}

// Each fails while the mend is taken out, as its first lines say.

#[test]
fn a_connection_takes_over_its_rule_when_the_rules_are_replaced() {
    holds(include_str!(
        "../../scenarios/a_connection_takes_over_its_rule_when_the_rules_are_replaced.toml"
    ));
}

#[test]
fn a_group_claims_again_when_an_answer_shows_that_it_can_send() {
    holds(include_str!(
        "../../scenarios/a_group_claims_again_when_an_answer_shows_that_it_can_send.toml"
    ));
}

#[test]
fn a_process_that_stood_still_keeps_its_permits() {
    holds(include_str!("../../scenarios/a_process_that_stood_still_keeps_its_permits.toml"));
}

#[test]
fn a_slowed_delivery_is_woken_when_its_moment_has_moved_on() {
    holds(include_str!(
        "../../scenarios/a_slowed_delivery_is_woken_when_its_moment_has_moved_on.toml"
    ));
}

#[test]
fn a_stream_sends_nothing_after_its_validity() {
    holds(include_str!("../../scenarios/a_stream_sends_nothing_after_its_validity.toml"));
}

#[test]
fn every_scenario_is_run_and_says_what_it_is_about() {
    let tests = include_str!("tests.rs");
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
    let mut found = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(tests.contains(&format!("fn {name}() {{")), "{name} is not run");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# ") && text.contains("\n# Without the mend: "), "{name}");
        found += 1;
    }
    assert!(found > 0);
}
