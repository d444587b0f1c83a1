//! From the bytes of a file of reaction rules to checked rules, or to every fault in them.
//!
//! The file is TOML 1.0 with `schema_version = 1`, a `version` and `[[rule]]` tables in the order in
//! which they are tried; [`WrittenReaction`] documents the fields.
//!
//! Bounds: 4 MiB, 2,000 rules, 200 patterns of 500 characters in a list, 256 KiB for a compiled
//! pattern, 64 examples in a list, 200 faults reported.

use core::ops::Range;
use core::time::Duration;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::check;
use super::file::{Effect, ReactionExample, ReactionFile, Recovery, WrittenReaction};
use super::words::{RateCut, ReactionAction, ReactionScope, ReactionStage};
use crate::bounce::{Action, ReplyMask, StatusMask, codes, masks, read_patterns};
use crate::diagnostic::{Diagnostic, Source};
use crate::parse::versioned::{Kind, LONGEST_NAME, check_name, read_versioned, truth};
use crate::parse::{Reader, in_order, read_toml, source_of};

const LONGEST_TEXT: usize = 4_000;
const MOST_EXAMPLES: usize = 64;
/// Hits that a rule may wait for: each is remembered with its time.
const MOST_HITS: u64 = 100;
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

pub(super) const KIND: Kind = Kind {
    most_rules: 2_000,
    too_many: "join rules with the same effect: a rule takes 200 patterns",
    who_names_it: "reactions",
};

/// Every key of a rule, for suggestions.
const KEYS: [&str; 27] = [
    "name",
    "provider",
    "mask",
    "reply",
    "status",
    "text",
    "unless",
    "stage",
    "judged",
    "hits",
    "within",
    "in_a_row",
    "goes_on",
    "scope",
    "action",
    "messages_per_minute",
    "messages_per_hour",
    "percent",
    "connections",
    "connections_per_hour",
    "levels",
    "for",
    "recovery",
    "source",
    "matches",
    "matches_not",
    "notes",
];

/// A rule with the places of what is checked later.
pub(super) struct ReadReaction {
    pub(super) rule: WrittenReaction,
    /// Whether it was read without a fault. The others are not compared with each other.
    pub(super) sound: bool,
    pub(super) name: Range<usize>,
    pub(super) matches: Vec<Range<usize>>,
    pub(super) matches_not: Vec<Range<usize>>,
    /// What `action` names.
    actions: Vec<(ReactionAction, Range<usize>)>,
    /// `for`, as far as it was written.
    lasts: Option<Duration>,
    recovery: Option<Recovery>,
}

/// See [`ReactionFile::parse`].
pub(super) fn parse(file_name: &str, bytes: &[u8]) -> Result<ReactionFile, Vec<Diagnostic>> {
    let source = source_of(file_name, bytes)?;
    let (document, syntax_faults) = read_toml(&source);
    let mut reader = Reader::new(&source, syntax_faults);
    let (mut version, mut rules) = (String::new(), Vec::new());
    if source.text.trim().is_empty() && reader.toml_is_sound() {
        let help = "begin with `schema_version = 1`, `version = \"...\"` and a `[[rule]]`";
        reader.fault(0..0, "the file is empty", help);
    } else if let Some(document) = document {
        (version, rules) = read_versioned(&mut reader, &document, &KIND, read_rule);
    }
    let sound = reader.toml_is_sound() && rules.iter().all(|read| read.sound);
    let file = made_of(&source, &version, &rules);
    if sound && rules.len() <= KIND.most_rules {
        check::names(&mut reader, &rules);
        check::examples(&mut reader, &rules, &file);
        check::greedy(&mut reader, &rules, &file);
    }
    let faults = reader.into_faults();
    if faults.is_empty() { Ok(file) } else { Err(in_order(faults)) }
}

fn made_of(source: &Source<'_>, version: &str, rules: &[ReadReaction]) -> ReactionFile {
    ReactionFile {
        name: Arc::clone(&source.file),
        version: version.into(),
        rules: rules.iter().map(|read| Arc::new(read.rule.clone())).collect(),
    }
}

/// The table of a rule, whose `[[rule]]` stands at `header`.
fn read_rule(
    reader: &mut Reader<'_, '_>,
    header: &Range<usize>,
    fields: &DeTable<'_>,
) -> ReadReaction {
    let faults_before = reader.fault_count();
    let mut read = ReadReaction {
        rule: empty_rule(reader, header),
        sound: false,
        name: header.clone(),
        matches: Vec::new(),
        matches_not: Vec::new(),
        actions: Vec::new(),
        lasts: None,
        recovery: None,
    };
    // The name first: other faults name the rule.
    if let Some(value) = fields.get("name") {
        read.name = value.span();
        read.rule.name = reader.text("name", value, LONGEST_NAME).unwrap_or_default().into();
        check_name(reader, value, &read.rule.name);
    }
    for (key, value) in fields {
        read_condition(reader, &mut read, key, value);
    }
    check_whole(reader, header, fields, &read);
    check_effect(reader, header, fields, &mut read);
    read.sound = reader.fault_count() == faults_before;
    let rule = &mut read.rule;
    let (first_stage, first_judged) = (rule.stages.first(), rule.judged.first());
    for example in rule.matches.iter_mut().chain(&mut rule.matches_not) {
        if example.provider.is_empty()
            && let Some(mask) = rule.masks.first()
        {
            example.provider = mask.as_str().replace('*', "mx").replace('?', "1").into();
        }
        example.stage = example.stage.or(first_stage.copied());
        example.judged = example.judged.or(first_judged.copied());
    }
    read
}

fn empty_rule(reader: &Reader<'_, '_>, header: &Range<usize>) -> WrittenReaction {
    WrittenReaction {
        name: "".into(),
        provider: "".into(),
        masks: Vec::new(),
        reply: Vec::new(),
        status: Vec::new(),
        text: Vec::new(),
        unless: Vec::new(),
        stages: Vec::new(),
        judged: Vec::new(),
        hits: 1,
        within: Duration::from_secs(3_600),
        in_a_row: false,
        goes_on: false,
        scope: ReactionScope::Path,
        effect: Effect::default(),
        lasts: Duration::ZERO,
        recovery: Recovery::usual(Duration::ZERO),
        source: "".into(),
        matches: Vec::new(),
        matches_not: Vec::new(),
        notes: "".into(),
        place: reader.place(header),
    }
}

/// Everything but what it does.
fn read_condition(
    reader: &mut Reader<'_, '_>,
    read: &mut ReadReaction,
    key: &Spanned<std::borrow::Cow<'_, str>>,
    value: &Spanned<DeValue<'_>>,
) {
    let rule = &mut read.rule;
    let text = |reader: &mut Reader<'_, '_>, key: &str| -> Box<str> {
        reader.text(key, value, LONGEST_TEXT).unwrap_or_default().into()
    };
    let name = key.get_ref().as_ref();
    match name {
        "name" => {}
        "provider" => rule.provider = text(reader, "provider"),
        "source" => rule.source = text(reader, "source"),
        "notes" => rule.notes = text(reader, "notes"),
        "mask" => rule.masks = masks(reader, "mask", value).0,
        "reply" => {
            let help = "write a code or its first digits, such as \"550\" or \"4\"";
            rule.reply = codes(reader, "reply", value, ReplyMask::read, help);
        }
        "status" => {
            let help = "write \"4.7.28\", \"x.7.28\", \"5.7.606-649\" or \"x.7.*\"";
            rule.status = codes(reader, "status", value, StatusMask::read, help);
        }
        "text" => rule.text = read_patterns(reader, &rule.name, "text", value, true),
        "unless" => rule.unless = read_patterns(reader, &rule.name, "unless", value, true),
        "stage" => {
            let words = ReactionStage::ALL.map(ReactionStage::word);
            rule.stages = words_of(reader, "stage", value, ReactionStage::from_word, &words)
                .into_iter()
                .map(|(stage, _)| stage)
                .collect();
        }
        "judged" => {
            let words = Action::ALL.map(Action::word);
            rule.judged = words_of(reader, "judged", value, judged_word, &words)
                .into_iter()
                .map(|(action, _)| action)
                .collect();
        }
        "hits" => {
            let hits = reader.whole_number("hits", value, &(1..=MOST_HITS)).unwrap_or(1);
            rule.hits = u32::try_from(hits).unwrap_or(1);
        }
        "within" => {
            let found = reader.span("within", value, &(SECOND..=DAY * 7));
            rule.within = found.unwrap_or(rule.within);
        }
        "in_a_row" => rule.in_a_row = truth(reader, "in_a_row", value),
        "goes_on" => rule.goes_on = truth(reader, "goes_on", value),
        "matches" => (rule.matches, read.matches) = examples(reader, "matches", value),
        "matches_not" => {
            (rule.matches_not, read.matches_not) = examples(reader, "matches_not", value);
        }
        _ => read_effect(reader, read, key, value),
    }
}

/// What it does.
fn read_effect(
    reader: &mut Reader<'_, '_>,
    read: &mut ReadReaction,
    key: &Spanned<std::borrow::Cow<'_, str>>,
    value: &Spanned<DeValue<'_>>,
) {
    let effect = &mut read.rule.effect;
    let name = key.get_ref().as_ref();
    let figure = |reader: &mut Reader<'_, '_>, most: u64| {
        reader.whole_number(name, value, &(1..=most)).and_then(|figure| u32::try_from(figure).ok())
    };
    let mut rate = None;
    match name {
        "scope" => {
            let words = ReactionScope::ALL.map(ReactionScope::word);
            let found = reader.word("scope", value, ReactionScope::from_word, &words);
            read.rule.scope = found.unwrap_or(read.rule.scope);
        }
        "action" => {
            let words = ReactionAction::ALL.map(ReactionAction::word);
            read.actions = words_of(reader, "action", value, ReactionAction::from_word, &words);
        }
        "messages_per_minute" => {
            rate = figure(reader, 1_000_000).map(|per_minute| RateCut::PerHour(per_minute * 60));
        }
        "messages_per_hour" => rate = figure(reader, 60_000_000).map(RateCut::PerHour),
        "percent" => {
            let percent = figure(reader, 99).and_then(|percent| u8::try_from(percent).ok());
            rate = percent.map(RateCut::Percent);
        }
        "connections" => effect.connections = figure(reader, 10_000),
        "connections_per_hour" => effect.connections_per_hour = figure(reader, 1_000_000),
        "levels" => {
            let levels = figure(reader, 4).and_then(|levels| u8::try_from(levels).ok());
            effect.lower_levels = levels.unwrap_or(0);
        }
        "for" => read.lasts = reader.span("for", value, &(SECOND..=DAY * 30)),
        "recovery" => read.recovery = read_recovery(reader, value),
        other => reader.unknown_key(key.span(), other, &KEYS),
    }
    if rate.is_some() && core::mem::replace(&mut effect.rate, rate).is_some() {
        let help = "keep one of messages_per_minute, messages_per_hour and percent";
        reader.fault(key.span(), format!("`{name}` beside another rate"), help);
    }
}

fn read_recovery(reader: &mut Reader<'_, '_>, value: &Spanned<DeValue<'_>>) -> Option<Recovery> {
    let Some(table) = value.get_ref().as_table() else {
        let help = "write `recovery = { steps = 10, every = \"3m\" }`";
        reader.wrong_type(value, "recovery", "a table", help);
        return None;
    };
    let (mut steps, mut every) = (None, None);
    for (key, part) in table {
        match key.get_ref().as_ref() {
            "steps" => steps = reader.whole_number("steps", part, &(1..=1_000)),
            "every" => every = reader.span("every", part, &(SECOND..=DAY)),
            other => reader.unknown_key(key.span(), other, &["steps", "every"]),
        }
    }
    for (key, missing) in
        [("steps", !table.contains_key("steps")), ("every", !table.contains_key("every"))]
    {
        if missing {
            reader.missing(value.span(), format!("`recovery` has no `{key}`"), "");
        }
    }
    Some(Recovery { steps: u32::try_from(steps?).ok()?, every: every? })
}

fn judged_word(word: &str) -> Option<Action> {
    Action::ALL.into_iter().find(|action| action.word() == word)
}

/// A word or a list of words of a closed list, each with its place.
fn words_of<T: Copy>(
    reader: &mut Reader<'_, '_>,
    key: &str,
    value: &Spanned<DeValue<'_>>,
    from_word: fn(&str) -> Option<T>,
    words: &[&str],
) -> Vec<(T, Range<usize>)> {
    let items: Vec<&Spanned<DeValue<'_>>> = match value.get_ref() {
        DeValue::Array(items) => items.iter().take(words.len()).collect(),
        _ => vec![value],
    };
    items
        .into_iter()
        .filter_map(|item| Some((reader.word(key, item, from_word, words)?, item.span())))
        .collect()
}

/// What a rule must have.
fn check_whole(
    reader: &mut Reader<'_, '_>,
    header: &Range<usize>,
    fields: &DeTable<'_>,
    read: &ReadReaction,
) {
    for (key, help) in [
        ("name", "give every rule a short unique name, such as `name = \"google-rate\"`"),
        ("action", "say what is to be done, such as `action = \"suspend\"`"),
        ("source", "say where the rule and its figures come from"),
        ("matches", "give at least one reply, as a server sends it, that this rule is for"),
        ("matches_not", "give a reply that looks alike but asks for something else"),
    ] {
        if !fields.contains_key(key) {
            reader.missing(header.clone(), format!("the rule has no `{key}`"), help);
        }
    }
    let conditions = ["reply", "status", "text", "judged"];
    if !conditions.iter().any(|key| fields.contains_key(*key)) {
        let help = format!("say what it is hit by: {}", conditions.join(", "));
        reader.missing(header.clone(), "the rule has no condition on what was said", help);
    }
    let rule = &read.rule;
    if rule.hits > 1 && !fields.contains_key("within") {
        let help = "say how soon, such as `within = \"1h\"`";
        reader.missing(header.clone(), "`hits` without `within`", help);
    }
    if rule.hits == 1 && rule.in_a_row {
        let at = fields.get("in_a_row").map_or(header.clone(), Spanned::span);
        reader.fault(at, "`in_a_row` with one hit", "give `hits`, or drop it");
    }
}

/// Whether `action` and the figures fit together; makes the effect.
fn check_effect(
    reader: &mut Reader<'_, '_>,
    header: &Range<usize>,
    fields: &DeTable<'_>,
    read: &mut ReadReaction,
) {
    let named = |action: ReactionAction| read.actions.iter().find(|(one, _)| *one == action);
    let effect = &mut read.rule.effect;
    effect.suspend = named(ReactionAction::Suspend).is_some();
    effect.stop_delivery = named(ReactionAction::StopDelivery).is_some();
    effect.alert = named(ReactionAction::Alert).is_some();
    for (action, has, figures) in [
        (
            ReactionAction::Slow,
            effect.rate.is_some() || effect.connections_per_hour.is_some(),
            "messages_per_minute, messages_per_hour, percent or connections_per_hour",
        ),
        (ReactionAction::FewerConnections, effect.connections.is_some(), "connections"),
        (ReactionAction::LowerLevel, effect.lower_levels > 0, "levels"),
    ] {
        match (named(action), has) {
            (Some((_, at)), false) => {
                let word = action.word();
                reader.missing(
                    at.clone(),
                    format!("`{word}` without a figure"),
                    format!("add {figures}"),
                );
            }
            (None, true) => {
                let message =
                    format!("a figure of `{}`, which `action` does not name", action.word());
                reader.fault(header.clone(), message, "add the action, or drop the figure");
            }
            _ => {}
        }
    }
    let of_delivery = read.rule.scope == ReactionScope::Delivery;
    for (action, at) in &read.actions {
        let misfit = match action {
            ReactionAction::StopDelivery => !of_delivery,
            ReactionAction::FewerConnections | ReactionAction::LowerLevel => of_delivery,
            ReactionAction::Slow => {
                of_delivery
                    && (effect.connections_per_hour.is_some()
                        || matches!(effect.rate, Some(RateCut::Percent(_))))
            }
            ReactionAction::Suspend | ReactionAction::Alert => false,
        };
        if misfit {
            let message =
                format!("`{}` cannot be done to the scope `{}`", action.word(), read.rule.scope);
            let help = "a delivery can be stopped, suspended or slowed to a figure; only a delivery can be stopped";
            reader.fault(at.clone(), message, help);
        }
    }
    let at_once = [ReactionAction::StopDelivery, ReactionAction::Alert];
    let needs_time = read.actions.iter().any(|(action, _)| !at_once.contains(action));
    match (needs_time, read.lasts) {
        (true, Some(lasts)) => {
            read.rule.lasts = lasts;
            read.rule.recovery = read.recovery.unwrap_or_else(|| Recovery::usual(lasts));
        }
        (true, None) => {
            if !fields.contains_key("for") {
                let help = "say how long, such as `for = \"30m\"`; the recovery comes after it";
                reader.missing(header.clone(), "the rule has no `for`", help);
            }
        }
        (false, None) if read.recovery.is_none() => {}
        (false, _) => {
            let help = "a stop and an alert are done at once: drop `for` and `recovery`";
            reader.fault(header.clone(), "a time for something that does not last", help);
        }
    }
}

/// Examples: texts, or tables for those that need more than a text.
fn examples(
    reader: &mut Reader<'_, '_>,
    key: &str,
    value: &Spanned<DeValue<'_>>,
) -> (Vec<ReactionExample>, Vec<Range<usize>>) {
    let items: Vec<&Spanned<DeValue<'_>>> = match value.get_ref() {
        DeValue::Array(items) => items.iter().collect(),
        _ => vec![value],
    };
    if let Some(excess) = items.get(MOST_EXAMPLES) {
        reader.fault(excess.span(), format!("`{key}` has more than {MOST_EXAMPLES} entries"), "");
    }
    if items.is_empty() {
        reader.fault(value.span(), format!("`{key}` is an empty list"), "");
    }
    let (mut found, mut places) = (Vec::new(), Vec::new());
    for item in items.into_iter().take(MOST_EXAMPLES) {
        found.push(example(reader, key, item));
        places.push(item.span());
    }
    (found, places)
}

fn example(reader: &mut Reader<'_, '_>, key: &str, item: &Spanned<DeValue<'_>>) -> ReactionExample {
    let mut example =
        ReactionExample { text: "".into(), provider: "".into(), stage: None, judged: None };
    let Some(table) = item.get_ref().as_table() else {
        example.text = reader.text(key, item, LONGEST_TEXT).unwrap_or_default().into();
        return example;
    };
    for (part, value) in table {
        match part.get_ref().as_ref() {
            "text" => {
                example.text = reader.text("text", value, LONGEST_TEXT).unwrap_or_default().into();
            }
            "provider" => {
                example.provider = reader.text("provider", value, 255).unwrap_or_default().into();
            }
            "stage" => {
                let words = ReactionStage::ALL.map(ReactionStage::word);
                example.stage = reader.word("stage", value, ReactionStage::from_word, &words);
            }
            "judged" => {
                let words = Action::ALL.map(Action::word);
                example.judged = reader.word("judged", value, judged_word, &words);
            }
            other => {
                reader.unknown_key(part.span(), other, &["text", "provider", "stage", "judged"]);
            }
        }
    }
    example
}
