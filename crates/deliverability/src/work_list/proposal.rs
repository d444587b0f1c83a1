//! A rule for texts that belong together: its pattern, its reason, its examples and counter-examples.
//!
//! The pattern is the words that stay, in their order, with what changes between them left open: a regular expression
//! of linear time, read and tried by the same checks as every rule. What it would take is counted over all recorded
//! texts before anybody accepts it.

use std::fmt::Write as _;

use mail::failure::{FailureType, Reason};
use regex::bytes::RegexBuilder;
use rules::bounce::{
    BounceRuleFile, BounceRules, Evidence, Qualification, QualificationStatus, codes_in,
    shipped_bounce_rules,
};
use serde::Serialize;

use super::Known;
use super::skeleton::{Part, Skeleton, Words, folded};
use crate::database::RecordedText;

/// Octets of a pattern; rules allow 500.
const LONGEST_PATTERN: usize = 400;
/// A pattern with less to hold on to would take whatever comes.
const LEAST_LETTERS: usize = 10;
const LEAST_WORDS: usize = 2;
/// Examples of a proposed rule.
const EXAMPLES: usize = 8;
/// Counter-examples of a proposed rule.
const COUNTER_EXAMPLES: usize = 4;
/// The share of equal words from which a qualified text is taken as a hint, in percent.
const ALIKE: usize = 60;

/// A reason that is proposed for texts, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Suggestion {
    /// The reason.
    pub reason: Reason,
    /// The type.
    #[serde(rename = "type")]
    pub failure_type: FailureType,
    /// What it follows from.
    pub because: String,
}

/// A rule that would take all texts of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Its name.
    pub name: String,
    /// Its pattern.
    pub pattern: String,
    /// The first digit of reply codes that it is for.
    pub class: Option<u16>,
    /// Normalised texts that it must take.
    pub examples: Vec<String>,
    /// Texts that it must not take.
    pub counter_examples: Vec<String>,
    /// The longest part that every text that it takes has.
    literal: String,
}

impl Proposal {
    /// The rule as it stands in a file of bounce rules.
    #[must_use]
    pub fn rule(&self, reason: Reason, failure_type: FailureType) -> String {
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let list = |texts: &[String]| -> String {
            let lines: Vec<String> =
                texts.iter().map(|text| format!("  {},\n", quoted(text))).collect();
            format!("[\n{}]", lines.concat())
        };
        let mut rule = format!("[[rule]]\nname = {}\n", quoted(&self.name));
        if let Some(class) = self.class {
            let _ = writeln!(rule, "reply = [\"{class}\"]");
        }
        let _ = writeln!(rule, "text = [{}]", quoted(&self.pattern));
        let _ = writeln!(rule, "reason = {}", quoted(reason.word()));
        if failure_type != reason.usual_type() {
            let _ = writeln!(rule, "type = {}", quoted(failure_type.word()));
        }
        let _ = writeln!(rule, "matches = {}", list(&self.examples));
        let _ = writeln!(rule, "matches_not = {}", list(&self.counter_examples));
        rule
    }

    /// The rule alone, checked and compiled.
    ///
    /// # Errors
    /// The first fault that its checks find.
    pub fn compiled(&self) -> Result<BounceRules, String> {
        let text = rules_file("proposed", [self.rule(Reason::Refused, FailureType::Soft).as_str()]);
        let file = BounceRuleFile::parse("proposed", text.as_bytes());
        file.map(|file| BounceRules::compile(&file))
            .map_err(|faults| faults.first().map_or_else(String::new, ToString::to_string))
    }

    /// Whether the compiled rule takes a text. `folded` is the text folded.
    pub(super) fn takes(&self, compiled: &BounceRules, text: &str, folded: &str) -> bool {
        folded.contains(&self.literal) && takes(compiled, &self.name, text)
    }
}

/// Whether the rule of this name is the one that decides on a text.
fn takes(compiled: &BounceRules, name: &str, text: &str) -> bool {
    *compiled.classify(&Evidence::reply(text, "")).rule == *name
}

/// A file of bounce rules with these rules.
#[must_use]
pub fn rules_file<'a>(version: &str, rules: impl IntoIterator<Item = &'a str>) -> String {
    let version = toml::Value::from(version);
    let mut file = format!("schema_version = 1\nversion = {version}\n");
    for rule in rules {
        file.push('\n');
        file.push_str(rule);
    }
    file
}

/// What a text may mean. The rules that come with the program are asked first, then texts that people have qualified,
/// and at last what the rules only guess.
pub(super) fn suggestion(text: &str, skeleton: &Skeleton, known: &[Known]) -> Option<Suggestion> {
    let verdict = BounceRules::shipped().classify(&Evidence::reply(text, ""));
    let by_rule = || {
        let because = format!("rule `{}` of the shipped rules", verdict.rule);
        let (reason, failure_type) = (verdict.reason, verdict.failure_type);
        (reason != Reason::NotDefined).then_some(Suggestion { reason, failure_type, because })
    };
    match verdict.status {
        QualificationStatus::ToQualify => alike(skeleton, known).or_else(by_rule),
        QualificationStatus::Keep | QualificationStatus::Ignore => by_rule(),
    }
}

/// What people have said of the text that is most like these.
fn alike(skeleton: &Skeleton, known: &[Known]) -> Option<Suggestion> {
    let words = Words::of(skeleton);
    let alike = known.iter().filter(|one| one.skeleton.class == skeleton.class).filter_map(|one| {
        let shared = words.shared(&one.words);
        let all = words.len() + one.words.len() - shared;
        let alike = (shared * 100).checked_div(all)?;
        (alike >= ALIKE && shared >= LEAST_WORDS).then_some((alike, one))
    });
    // Of equals the first, which is the one with the smallest key.
    let (_, one) = alike.reduce(|best, next| if next.0 > best.0 { next } else { best })?;
    let Qualification { reason, failure_type, .. } = one.qualification;
    Some(Suggestion { reason, failure_type, because: format!("it is like `{}`", one.text) })
}

/// A rule for the texts of a cluster (their numbers in `texts`), or why there is none.
pub(super) fn proposal(
    id: &str,
    skeleton: &Skeleton,
    members: &[usize],
    texts: &[RecordedText],
    all_words: &[Words],
) -> Result<(Proposal, BounceRules), String> {
    let parts = trimmed(&skeleton.parts);
    let words: Vec<&str> = skeleton.words().collect();
    let letters: usize = words.iter().map(|word| word.len()).sum();
    if words.len() < LEAST_WORDS || letters < LEAST_LETTERS {
        return Err("too few words stay the same; qualify the texts".to_owned());
    }
    let (pattern, literal) = pattern_of(parts);
    let by_volume = {
        let mut members = members.to_vec();
        members.sort_by_key(|number| (core::cmp::Reverse(texts[*number].occurrences), *number));
        members
    };
    let example = |number: &usize| texts[*number].text.clone();
    let mut proposal = Proposal {
        name: format!("proposed-{}", id.trim_start_matches("c-")),
        pattern,
        class: skeleton.class,
        examples: by_volume.iter().take(EXAMPLES).map(example).collect(),
        counter_examples: Vec::new(),
        literal,
    };
    let expression = RegexBuilder::new(&proposal.pattern).unicode(false).build();
    let expression = expression.map_err(|fault| fault.to_string())?;
    let matches = |text: &str| {
        let same_class = skeleton
            .class
            .is_none_or(|class| codes_in(text).0.map(|code| code / 100) == Some(class));
        same_class && expression.is_match(folded(text).as_bytes())
    };
    proposal.counter_examples =
        counter_examples(&Words::of(skeleton), members, texts, all_words, matches);
    let compiled = proposal.compiled()?;
    let missed = members.iter().find(|one| !takes(&compiled, &proposal.name, &texts[**one].text));
    match missed {
        Some(number) => {
            let text = &texts[*number].text;
            Err(format!("the pattern does not take `{text}`; qualify the texts"))
        }
        None => Ok((proposal, compiled)),
    }
}

/// Without gaps at either end.
fn trimmed(parts: &[Part]) -> &[Part] {
    let is_word = |part: &Part| matches!(part, Part::Word(_));
    let begin = parts.iter().position(is_word).unwrap_or(parts.len());
    let end = parts.iter().rposition(is_word).map_or(begin, |last| last + 1);
    &parts[begin..end]
}

/// The pattern, and the longest literal in it.
fn pattern_of(parts: &[Part]) -> (String, String) {
    let (mut pattern, mut literal, mut longest) = (String::new(), String::new(), String::new());
    let mut open = false;
    for part in parts {
        match part {
            Part::Gap => open = true,
            Part::Word(word) => {
                let escaped = regex::escape(word);
                if pattern.len() + escaped.len() + 5 > LONGEST_PATTERN {
                    break;
                }
                match (pattern.is_empty(), open) {
                    (true, _) => {}
                    (false, true) => pattern.push_str(" .+ "),
                    (false, false) => pattern.push(' '),
                }
                if open {
                    literal.clear();
                } else if !literal.is_empty() {
                    literal.push(' ');
                }
                literal.push_str(word);
                if literal.len() > longest.len() {
                    longest.clone_from(&literal);
                }
                pattern.push_str(&escaped);
                open = false;
            }
        }
    }
    (pattern, longest)
}

/// Texts that are most like those of the cluster and that the rule does not take; where there are none, examples of
/// the shipped rules.
fn counter_examples(
    words: &Words,
    members: &[usize],
    texts: &[RecordedText],
    all_words: &[Words],
    matches: impl Fn(&str) -> bool,
) -> Vec<String> {
    let mut others: Vec<(core::cmp::Reverse<usize>, usize)> = (0..texts.len())
        .filter(|number| members.binary_search(number).is_err())
        .map(|number| (core::cmp::Reverse(all_words[number].shared(words)), number))
        .collect();
    // Only the first few are needed, and a list of thousands need not be in order.
    if others.len() > COUNTER_EXAMPLES * 8 {
        others.select_nth_unstable(COUNTER_EXAMPLES * 8);
        others.truncate(COUNTER_EXAMPLES * 8);
    }
    others.sort_unstable();
    let recorded = others.iter().map(|(_, number)| texts[*number].text.clone());
    let shipped = shipped_bounce_rules().rules().iter().filter_map(|rule| {
        let example = rule.matches.first().filter(|example| !example.text.is_empty())?;
        Some(example.text.to_string())
    });
    recorded
        .chain(shipped.step_by(9))
        .filter(|text| !matches(text))
        .take(COUNTER_EXAMPLES)
        .collect()
}

/// What a proposed rule would take of the recorded texts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Effect {
    /// Texts that it would take.
    pub texts: usize,
    /// How often these were met.
    pub occurrences: u64,
    /// Texts that people have qualified and that it would take too.
    pub qualified: usize,
    /// Those of them of which people have said something else than is suggested, the first few.
    pub contradictions: Vec<Contradiction>,
}

/// A text of which people have said something else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Contradiction {
    /// The text.
    pub text: String,
    /// What they have said.
    pub reason: Reason,
}

/// Contradictions that are listed.
const MOST_CONTRADICTIONS: usize = 20;

/// Counts what a rule would take.
pub(super) fn effect(
    proposal: &Proposal,
    compiled: &BounceRules,
    reason: Option<Reason>,
    texts: &[RecordedText],
    folded_texts: &[String],
    known: &[Known],
) -> Effect {
    let mut effect = Effect::default();
    for (text, folded) in texts.iter().zip(folded_texts) {
        if proposal.takes(compiled, &text.text, folded) {
            effect.texts += 1;
            effect.occurrences = effect.occurrences.saturating_add(text.occurrences);
        }
    }
    for one in known {
        if proposal.takes(compiled, &one.text, &folded(&one.text)) {
            effect.qualified += 1;
            let contradicts = reason.is_some_and(|reason| reason != one.qualification.reason);
            if contradicts && effect.contradictions.len() < MOST_CONTRADICTIONS {
                let (text, reason) = (one.text.clone(), one.qualification.reason);
                effect.contradictions.push(Contradiction { text, reason });
            }
        }
    }
    effect
}
