//! Faults that show only between rules: names, examples, rules that shadow or contradict each other.

use super::file::{BounceRuleFile, Example};
use super::parse::ReadRule;
use super::set::BounceRules;
use crate::parse::Reader;
use crate::parse::versioned::{brief, unique_names};

/// Every name is there once, and `before` names rules that come later.
pub(super) fn names(reader: &mut Reader<'_, '_>, rules: &[ReadRule]) {
    let named = rules.iter().map(|read| (&*read.rule.name, &read.name, &read.rule.place));
    unique_names(reader, named, "verdicts and logs");
    for (number, read) in rules.iter().enumerate() {
        for (mask, at) in read.rule.before.iter().zip(&read.before) {
            if !rules[number + 1..].iter().any(|later| mask.matches(&later.rule.name)) {
                reader.fault(
                    at.clone(),
                    format!("no later rule is called `{mask}`"),
                    "name rules that stand behind this one, or drop the entry",
                );
            }
        }
    }
}

/// Every rule wins for its examples, matches none of its counter-examples, and no other rule with
/// another reason claims an example unless it is ordered on purpose.
pub(super) fn examples(reader: &mut Reader<'_, '_>, rules: &[ReadRule], file: &BounceRuleFile) {
    let set = BounceRules::compile(file);
    for (number, read) in rules.iter().enumerate() {
        for (example, at) in read.rule.matches.iter().zip(&read.matches) {
            let matching = set.all_matching(&example.evidence());
            if let Some((message, help)) = fault_of(rules, number, example, &matching) {
                reader.fault(at.clone(), message, help);
            }
        }
        for (example, at) in read.rule.matches_not.iter().zip(&read.matches_not) {
            if set.all_matching(&example.evidence()).contains(&number) {
                reader.fault(
                    at.clone(),
                    format!(
                        "rule `{}` matches its counter-example `{}`",
                        read.rule.name,
                        brief(example.shown())
                    ),
                    "make the patterns narrower, add `unless`, or mend the counter-example",
                );
            }
        }
    }
}

/// What is wrong with an example of a rule, when these rules match it.
fn fault_of(
    rules: &[ReadRule],
    number: usize,
    example: &Example,
    matching: &[usize],
) -> Option<(String, String)> {
    let rule = &rules[number].rule;
    let Some(place) = matching.iter().position(|other| *other == number) else {
        let message =
            format!("rule `{}` does not match its example `{}`", rule.name, brief(example.shown()));
        return Some((message, "mend the patterns or the example".to_owned()));
    };
    if place > 0 {
        let first = &rules[matching[0]].rule;
        let message = format!(
            "`{}` goes to rule `{}` in line {}, which shadows `{}`",
            brief(example.shown()),
            first.name,
            first.place.line,
            rule.name
        );
        let help = "put the particular rule before the general one, or mend the example";
        return Some((message, help.to_owned()));
    }
    // Rules of codes give way to those of texts by their nature.
    let contradicts = |other: &&usize| {
        let other = &rules[**other].rule;
        other.reason != rule.reason
            && !other.last_resort
            && (rule.is_of_codes() || !other.is_of_codes())
            && !rule.before.iter().any(|mask| mask.matches(&other.name))
    };
    let other = &rules[*matching[1..].iter().find(contradicts)?].rule;
    let message = format!(
        "`{}` is claimed by rule `{}` in line {} too, as {}",
        brief(example.shown()),
        other.name,
        other.place.line,
        other.reason
    );
    let help = format!(
        "if `{}` comes first on purpose, add `before = [\"{}\"]` to it",
        rule.name, other.name
    );
    Some((message, help))
}
