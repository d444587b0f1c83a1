//! Faults that show only between rules: names, examples, rules that shadow or contradict each other.

use super::file::{ReactionExample, ReactionFile};
use super::parse::ReadReaction;
use super::set::{Question, ReactionRules, Said};
use super::words::ReactionStage;
use crate::bounce::{Action, shipped_bounce_rules};
use crate::parse::Reader;
use crate::parse::versioned::{brief, unique_names};

/// Every name is there once.
pub(super) fn names(reader: &mut Reader<'_, '_>, rules: &[ReadReaction]) {
    let named = rules.iter().map(|read| (&*read.rule.name, &read.name, &read.rule.place));
    unique_names(reader, named, "reactions and logs");
}

/// Every rule is hit by its examples and not by its counter-examples, no rule takes the examples of
/// one behind it, and of two that are hit by the same reply neither makes the other pointless.
pub(super) fn examples(reader: &mut Reader<'_, '_>, rules: &[ReadReaction], file: &ReactionFile) {
    let set = ReactionRules::compile(file);
    for (number, read) in rules.iter().enumerate() {
        for (example, at) in read.rule.matches.iter().zip(&read.matches) {
            let matching = set.all_matching(&example.said());
            if let Some((message, help)) = fault_of(rules, number, example, &matching) {
                reader.fault(at.clone(), message, help);
            }
        }
        for (example, at) in read.rule.matches_not.iter().zip(&read.matches_not) {
            if set.all_matching(&example.said()).contains(&number) {
                let text = brief(&example.text);
                reader.fault(
                    at.clone(),
                    format!("rule `{}` matches its counter-example `{text}`", read.rule.name),
                    "make the conditions narrower, add `unless`, or mend the counter-example",
                );
            }
        }
    }
}

/// No rule is hit by whatever is said: its own examples do not show that, when they are few. Tried are replies of all
/// meanings, an example of each shipped bounce rule, at a host, a stage and with a verdict as the rule wants them.
pub(super) fn greedy(reader: &mut Reader<'_, '_>, rules: &[ReadReaction], file: &ReactionFile) {
    let set = ReactionRules::compile(file);
    let known = shipped_bounce_rules().rules();
    let mut replies: Vec<Question<'_>> = known
        .iter()
        .filter_map(|rule| Some((&*rule.matches.first()?.text, rule)))
        .filter(|(text, _)| !text.is_empty())
        .map(|(text, rule)| {
            let usual = || Action::usual(rule.reason, text.starts_with('4'));
            let (stage, judged) = (ReactionStage::Rcpt, Some(rule.action.unwrap_or_else(usual)));
            Question::new(&Said { text, mx_host: "", stage, judged })
        })
        .collect();
    for (read, rule) in rules.iter().zip(set.rules()) {
        let Some(own) = read.rule.matches.first().map(ReactionExample::said) else { continue };
        let mut hit = 0;
        for reply in &mut replies {
            (reply.said.mx_host, reply.said.stage) = (own.mx_host, own.stage);
            hit += usize::from(rule.matches(reply));
        }
        if hit * 3 > replies.len() * 2 {
            let message = format!(
                "rule `{}` is hit by {hit} of {} replies of all meanings, such as an unknown user: whatever is refused would count",
                read.rule.name,
                replies.len()
            );
            let help = "name the codes or the words of those replies that it is about";
            reader.fault(read.name.clone(), message, help);
        }
    }
}

/// What is wrong with an example of a rule, when these rules match it.
fn fault_of(
    rules: &[ReadReaction],
    number: usize,
    example: &ReactionExample,
    matching: &[usize],
) -> Option<(String, String)> {
    let rule = &rules[number].rule;
    let text = brief(&example.text);
    if !matching.contains(&number) {
        let message = format!("rule `{}` does not match its example `{text}`", rule.name);
        return Some((message, "mend the conditions or the example".to_owned()));
    }
    let before = matching.iter().take_while(|other| **other < number);
    for other in before {
        let first = &rules[*other].rule;
        if !first.goes_on {
            let message = format!(
                "`{text}` goes to rule `{}` in line {}, which shadows `{}`",
                first.name, first.place.line, rule.name
            );
            let help = "put the particular rule before the general one, let that one `goes_on`, or mend the example";
            return Some((message, help.to_owned()));
        }
        let shared = first
            .effect
            .actions()
            .into_iter()
            .find(|action| action.word() != "alert" && rule.effect.actions().contains(action));
        if let Some(action) =
            shared.filter(|_| first.scope == rule.scope && rule.hits <= first.hits)
        {
            let message = format!(
                "`{text}` hits rule `{}` in line {} too, which does `{}` to the same {} after {} hits; `{}` would always come first",
                first.name,
                first.place.line,
                action.word(),
                rule.scope,
                first.hits,
                rule.name
            );
            let help = "let the rule that comes first want fewer hits, or drop its `goes_on`";
            return Some((message, help.to_owned()));
        }
    }
    None
}
