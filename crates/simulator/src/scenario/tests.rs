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
