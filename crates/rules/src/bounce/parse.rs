//! From the bytes of a file of bounce rules to checked rules, or to every fault in them.
//!
//! The file is TOML 1.0 with `schema_version = 1`, a `version` and `[[rule]]` tables in the order in
//! which they are tried; [`WrittenBounceRule`] documents the fields.
//!
//! Bounds: 4 MiB, 5,000 rules, 200 patterns of 500 characters in a list, 256 KiB for a compiled
//! pattern, 200 faults reported.

use core::ops::Range;
use std::sync::Arc;

use mail::failure::{FailureType, Reason};
use mail::mask::Mask;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::codes::{ReplyMask, StatusMask};
use super::file::{BounceRuleFile, Example, WrittenBounceRule};
use super::verdict::Action;
use super::{check, pattern};
use crate::diagnostic::{Diagnostic, Source};
use crate::parse::versioned::{Kind, LONGEST_NAME, check_name, read_versioned, truth};
use crate::parse::{Reader, in_order, read_toml, source_of};

/// `[[rule]]` tables of a file.
const MOST_RULES: usize = 5_000;
const LONGEST_TEXT: usize = 4_000;
const LONGEST_PATTERN: usize = 500;
const MOST_PATTERNS: usize = 200;
const MOST_ENTRIES: usize = 64;

const KIND: Kind = Kind {
    most_rules: MOST_RULES,
    too_many: "join rules with the same verdict: a rule takes 200 patterns",
    who_names_it: "verdicts",
};

/// Every key of a rule, for suggestions.
const KEYS: [&str; 21] = [
    "name",
    "provider",
    "mask",
    "reply",
    "status",
    "arrives",
    "text",
    "unless",
    "subject",
    "body",
    "header",
    "last_resort",
    "guess",
    "reason",
    "type",
    "deferred",
    "action",
    "before",
    "matches",
    "matches_not",
    "notes",
];

/// A rule with the places of what is checked later.
pub(super) struct ReadRule {
    pub(super) rule: WrittenBounceRule,
    /// Whether it was read without a fault. The others are not compared with each other.
    pub(super) sound: bool,
    pub(super) name: Range<usize>,
    pub(super) before: Vec<Range<usize>>,
    pub(super) matches: Vec<Range<usize>>,
    pub(super) matches_not: Vec<Range<usize>>,
}

/// See [`BounceRuleFile::parse`].
pub(super) fn parse(file_name: &str, bytes: &[u8]) -> Result<BounceRuleFile, Vec<Diagnostic>> {
    parse_with(file_name, bytes, true)
}

/// Reads the shipped file without trying its examples, which a test has done.
pub(super) fn parse_trusted(
    file_name: &str,
    bytes: &[u8],
) -> Result<BounceRuleFile, Vec<Diagnostic>> {
    parse_with(file_name, bytes, false)
}

fn parse_with(
    file_name: &str,
    bytes: &[u8],
    examples: bool,
) -> Result<BounceRuleFile, Vec<Diagnostic>> {
    let source = source_of(file_name, bytes)?;
    let (document, syntax_faults) = read_toml(&source);
    let mut reader = Reader::new(&source, syntax_faults);
    let (mut version, mut rules) = (String::new(), Vec::new());
    if source.text.trim().is_empty() && reader.toml_is_sound() {
        let help = "begin with `schema_version = 1`, `version = \"...\"` and a `[[rule]]`";
        reader.fault(0..0, "the file is empty", help);
    } else if let Some(document) = document {
        (version, rules) =
            read_versioned(&mut reader, &document, &KIND, |reader, header, fields| {
                read_rule(reader, header, fields, examples)
            });
    }
    let sound = reader.toml_is_sound() && rules.iter().all(|read| read.sound);
    if sound && rules.len() <= MOST_RULES {
        check::names(&mut reader, &rules);
    }
    let file = |rules: &[ReadRule], source: &Source<'_>| BounceRuleFile {
        name: Arc::clone(&source.file),
        version: version.as_str().into(),
        rules: rules.iter().map(|read| Arc::new(read.rule.clone())).collect(),
    };
    if examples && sound && rules.len() <= MOST_RULES {
        let file = file(&rules, &source);
        check::examples(&mut reader, &rules, &file);
    }
    let faults = reader.into_faults();
    if faults.is_empty() { Ok(file(&rules, &source)) } else { Err(in_order(faults)) }
}

/// The table of a rule, whose `[[rule]]` stands at `header`.
fn read_rule(
    reader: &mut Reader<'_, '_>,
    header: &Range<usize>,
    fields: &DeTable<'_>,
    compile: bool,
) -> ReadRule {
    let faults_before = reader.fault_count();
    let mut read = ReadRule {
        rule: WrittenBounceRule {
            name: "".into(),
            provider: "".into(),
            masks: Vec::new(),
            reply: Vec::new(),
            status: Vec::new(),
            synchronous: None,
            text: Vec::new(),
            unless: Vec::new(),
            subject: Vec::new(),
            body: Vec::new(),
            header: Vec::new(),
            last_resort: false,
            guess: false,
            reason: Reason::NotDefined,
            failure_type: FailureType::Soft,
            deferred: None,
            action: None,
            before: Vec::new(),
            matches: Vec::new(),
            matches_not: Vec::new(),
            notes: "".into(),
            place: reader.place(header),
        },
        sound: false,
        name: header.clone(),
        before: Vec::new(),
        matches: Vec::new(),
        matches_not: Vec::new(),
    };
    // The name first: other faults name the rule.
    if let Some(value) = fields.get("name") {
        read.name = value.span();
        read.rule.name = reader.text("name", value, LONGEST_NAME).unwrap_or_default().into();
        check_name(reader, value, &read.rule.name);
    }
    let mut failure_type = None;
    for (key, value) in fields {
        let key_text = key.get_ref().as_ref();
        match key_text {
            "name" => {}
            "type" => {
                let words = FailureType::ALL.map(FailureType::word);
                failure_type = reader.word("type", value, |word| word.parse().ok(), &words);
            }
            "text" | "unless" | "subject" | "body" | "header" => {
                let patterns = read_patterns(reader, &read.rule.name, key_text, value, compile);
                *list_of(&mut read.rule, key_text) = patterns;
            }
            _ => read_field(reader, &mut read, key, value),
        }
    }
    read.rule.failure_type = failure_type.unwrap_or_else(|| read.rule.reason.usual_type());
    check_whole(reader, header, fields, &read);
    read.sound = reader.fault_count() == faults_before;
    for example in read.rule.matches.iter_mut().chain(&mut read.rule.matches_not) {
        if example.provider.is_empty()
            && let Some(mask) = read.rule.masks.first()
        {
            example.provider = mask.as_str().replace('*', "mx").replace('?', "1").into();
        }
        example.synchronous = read.rule.synchronous.unwrap_or(true);
    }
    read
}

/// What a rule must have, and what cannot stand together.
fn check_whole(
    reader: &mut Reader<'_, '_>,
    header: &Range<usize>,
    fields: &DeTable<'_>,
    read: &ReadRule,
) {
    for (key, help) in [
        ("name", "give every rule a short unique name, such as `name = \"mailbox-full\"`"),
        ("reason", "say why mail with this text was not delivered"),
        ("matches", "give at least one text, as a server sends it, that this rule is for"),
    ] {
        if !fields.contains_key(key) {
            reader.missing(header.clone(), format!("the rule has no `{key}`"), help);
        }
    }
    if !read.rule.is_of_codes() && !fields.contains_key("matches_not") {
        let help = "give a text that looks alike but means something else";
        reader.missing(header.clone(), "the rule has no `matches_not`", help);
    }
    let conditions = ["mask", "reply", "status", "text", "subject", "body", "header"];
    if !conditions.iter().any(|key| fields.contains_key(*key)) {
        let help = format!("say when it holds: {}", conditions.join(", "));
        reader.missing(header.clone(), "the rule has no condition", help);
    }
    if let Some(value) = fields.get("guess")
        && read.rule.guess
        && !read.rule.last_resort
    {
        let help = "a guess stands behind everything that is known: add `last_resort = true`";
        reader.fault(value.span(), "`guess` without `last_resort`", help);
    }
}

fn list_of<'a>(rule: &'a mut WrittenBounceRule, key: &str) -> &'a mut Vec<Box<str>> {
    match key {
        "text" => &mut rule.text,
        "unless" => &mut rule.unless,
        "subject" => &mut rule.subject,
        "body" => &mut rule.body,
        _ => &mut rule.header,
    }
}

/// A list of patterns. Each is read, and the whole list compiled, within the limits.
pub(crate) fn read_patterns(
    reader: &mut Reader<'_, '_>,
    rule: &str,
    key: &str,
    value: &Spanned<DeValue<'_>>,
    compile: bool,
) -> Vec<Box<str>> {
    let written = reader.texts(key, value, MOST_PATTERNS, LONGEST_PATTERN);
    if !compile {
        return written.into_iter().map(|(text, _)| text.into()).collect();
    }
    for (text, at) in &written {
        let compiled = pattern::read(text).and_then(|pattern| pattern::compile(&pattern.source));
        if let Err(fault) = compiled {
            let help = "patterns are regular expressions of linear time: no look-around, no back-references, no classes beyond ASCII";
            reader.fault(at.clone(), format!("a pattern of rule `{rule}` {fault}"), help);
        }
    }
    written.into_iter().map(|(text, _)| text.into()).collect()
}

fn read_field(
    reader: &mut Reader<'_, '_>,
    read: &mut ReadRule,
    key: &Spanned<std::borrow::Cow<'_, str>>,
    value: &Spanned<DeValue<'_>>,
) {
    let rule = &mut read.rule;
    let reasons = Reason::ALL.map(Reason::word);
    match key.get_ref().as_ref() {
        "provider" => {
            rule.provider = reader.text("provider", value, LONGEST_TEXT).unwrap_or_default().into();
        }
        "notes" => {
            rule.notes = reader.text("notes", value, LONGEST_TEXT).unwrap_or_default().into();
        }
        "mask" => rule.masks = masks(reader, "mask", value).0,
        "before" => (rule.before, read.before) = masks(reader, "before", value),
        "reply" => {
            let help = "write a code or its first digits, such as \"550\" or \"4\"";
            rule.reply = codes(reader, "reply", value, ReplyMask::read, help);
        }
        "status" => {
            let help = "write \"5.1.1\", \"x.2.2\", \"5.7.606-649\" or \"x.7.*\"";
            rule.status = codes(reader, "status", value, StatusMask::read, help);
        }
        "arrives" => {
            let from_word = |word: &str| match word {
                "synchronous" => Some(true),
                "asynchronous" => Some(false),
                _ => None,
            };
            rule.synchronous =
                reader.word("arrives", value, from_word, &["synchronous", "asynchronous"]);
        }
        "last_resort" => rule.last_resort = truth(reader, "last_resort", value),
        "guess" => rule.guess = truth(reader, "guess", value),
        "reason" => {
            if let Some(reason) = reader.word("reason", value, |word| word.parse().ok(), &reasons) {
                rule.reason = reason;
            }
        }
        "deferred" => {
            rule.deferred = reader.word("deferred", value, |word| word.parse().ok(), &reasons);
        }
        "action" => {
            let from_word =
                |word: &str| Action::ALL.into_iter().find(|action| action.word() == word);
            rule.action = reader.word("action", value, from_word, &Action::ALL.map(Action::word));
        }
        "matches" => (rule.matches, read.matches) = examples(reader, "matches", value),
        "matches_not" => {
            (rule.matches_not, read.matches_not) = examples(reader, "matches_not", value);
        }
        other => reader.unknown_key(key.span(), other, &KEYS),
    }
}

pub(crate) fn masks(
    reader: &mut Reader<'_, '_>,
    key: &str,
    value: &Spanned<DeValue<'_>>,
) -> (Vec<Mask>, Vec<Range<usize>>) {
    let texts = reader.texts(key, value, MOST_PATTERNS, 255);
    texts.into_iter().map(|(text, at)| (Mask::new(&text), at)).unzip()
}

pub(crate) fn codes<T>(
    reader: &mut Reader<'_, '_>,
    key: &str,
    value: &Spanned<DeValue<'_>>,
    read: fn(&str) -> Option<T>,
    help: &str,
) -> Vec<T> {
    let texts = reader.texts(key, value, MOST_ENTRIES, 20);
    let mut masks = Vec::with_capacity(texts.len());
    for (text, at) in texts {
        match read(&text) {
            Some(mask) => masks.push(mask),
            None => reader.fault(at, format!("`{text}` in `{key}` is no pattern of codes"), help),
        }
    }
    masks
}

/// Examples: texts, or tables for those that need more than a text.
fn examples(
    reader: &mut Reader<'_, '_>,
    key: &str,
    value: &Spanned<DeValue<'_>>,
) -> (Vec<Example>, Vec<Range<usize>>) {
    let items: Vec<&Spanned<DeValue<'_>>> = match value.get_ref() {
        DeValue::Array(items) => items.iter().collect(),
        _ => vec![value],
    };
    if let Some(excess) = items.get(MOST_ENTRIES) {
        reader.fault(excess.span(), format!("`{key}` has more than {MOST_ENTRIES} entries"), "");
    }
    if items.is_empty() {
        reader.fault(value.span(), format!("`{key}` is an empty list"), "");
    }
    let (mut found, mut places) = (Vec::new(), Vec::new());
    for item in items.into_iter().take(MOST_ENTRIES) {
        let mut example = Example { synchronous: true, ..Example::default() };
        match item.get_ref().as_table() {
            None => example.text = reader.text(key, item, LONGEST_TEXT).unwrap_or_default().into(),
            Some(table) => {
                for (part, text) in table {
                    let name = part.get_ref().as_ref();
                    let slot = match name {
                        "text" => &mut example.text,
                        "subject" => &mut example.subject,
                        "body" => &mut example.body,
                        "header" => &mut example.header,
                        "provider" => &mut example.provider,
                        other => {
                            let known = ["text", "subject", "body", "header", "provider"];
                            reader.unknown_key(part.span(), other, &known);
                            continue;
                        }
                    };
                    *slot = reader.text(name, text, LONGEST_TEXT).unwrap_or_default().into();
                }
            }
        }
        found.push(example);
        places.push(item.span());
    }
    (found, places)
}
