use mail::failure::{FailureType, Reason};

use super::*;

#[test]
fn the_shipped_rules_have_no_fault() {
    let bytes = include_bytes!("../../../../rules/bounce.toml");
    if let Err(faults) = BounceRuleFile::parse("rules/bounce.toml", bytes) {
        let shown: Vec<String> =
            faults.iter().map(|fault| format!("{fault} [{}]", fault.help)).collect();
        panic!("{}", shown.join("\n"));
    }
}

/// Type and reason by the shipped rules.
fn judged(text: &str) -> (FailureType, Reason, String) {
    let verdict = BounceRules::shipped().classify(&Evidence::reply(text, ""));
    (verdict.failure_type, verdict.reason, verdict.rule.to_string())
}

#[test]
fn a_deferral_is_never_hard() {
    let (kind, reason, _) = judged("450 4.1.1 <jane@example.com>: user unknown");
    assert_eq!((kind, reason), (FailureType::Soft, Reason::UserUnknown));
}
