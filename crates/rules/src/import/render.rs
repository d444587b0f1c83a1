//! From what was put together to the text of rule files that pass our own checks.

use core::fmt::Write as _;
use std::collections::{BTreeMap, BTreeSet};

use mail::mask::Mask;

use super::domains::{MOST_MASKS, name_for, short_name};
use super::draft::{Directive, Draft, DraftReaction, DraftRecipients, LONGEST_WORDS, shortened};
use super::example::hits;
use super::report::{ImportEntry, ImportReport, ImportVerdict};
use super::{Dialect, Imported};
use crate::diagnostic::Diagnostic;
use crate::reaction::ReactionFile;
use crate::recipient::DomainRuleFile;
use crate::span::show_span;

mod mx_rules;

use mx_rules::mx_rules;

/// Reaction rules whose examples are tried on each other.
const MOST_REACTIONS: usize = 500;

/// Writes everything, and the report.
pub(super) fn finish(mut draft: Draft<'_>) -> Imported {
    let mx = mx_rules(&mut draft);
    let domains = domain_rules(&mut draft);
    let reactions = reaction_rules(&mut draft);
    let config = configuration(&draft, mx.is_some(), domains.is_some(), reactions.is_some());
    let entries = in_file_order(draft.directives.into_iter().map(entry).collect());
    let report = ImportReport { entries, notes: draft.notes };
    let unknown_domains = draft.unknown_domains.into_iter().collect();
    Imported { mx, domains, reactions, config, report, unknown_domains }
}

/// Entries by file, in the order in which the files were first read, and by line.
fn in_file_order(mut entries: Vec<ImportEntry>) -> Vec<ImportEntry> {
    let mut files: BTreeMap<std::sync::Arc<str>, usize> = BTreeMap::new();
    for entry in &entries {
        let next = files.len();
        files.entry(std::sync::Arc::clone(&entry.place.file)).or_insert(next);
    }
    entries.sort_by_key(|entry| (files[&entry.place.file], entry.place.line, entry.place.column));
    entries
}

fn entry(directive: Directive) -> ImportEntry {
    let Directive { place, name, value, fates } = directive;
    let first = fates.first().map_or(ImportVerdict::NotTaken, |(verdict, _)| *verdict);
    let alike = fates.iter().all(|(verdict, _)| *verdict == first);
    let verdict = if alike { first } else { ImportVerdict::Differs };
    let mut words: Vec<String> = Vec::new();
    for (_, said) in fates {
        if !words.contains(&said) {
            words.push(said);
        }
    }
    if words.is_empty() {
        words.push("not a directive that is known here".to_owned());
    }
    ImportEntry {
        place,
        directive: name,
        value,
        verdict,
        words: shortened(&words.join("; "), LONGEST_WORDS),
    }
}

/// Writes items, has the text checked, and leaves out what the checks refuse, until they pass.
fn settle<T>(
    mut items: Vec<T>,
    write: impl Fn(&[T]) -> (String, Vec<u32>),
    check: impl Fn(&str) -> Result<(), Vec<Diagnostic>>,
    mut refuse: impl FnMut(&T, &str),
) -> Option<String> {
    while !items.is_empty() {
        let (text, lines) = write(&items);
        let Err(faults) = check(&text) else { return Some(text) };
        let mut refused: BTreeMap<usize, String> = BTreeMap::new();
        for fault in faults {
            let item = lines.partition_point(|line| *line <= fault.line).saturating_sub(1);
            refused.entry(item).or_insert(fault.message);
        }
        let mut number = 0;
        items.retain(|item| {
            let why = refused.get(&number);
            number += 1;
            if let Some(why) = why {
                refuse(item, &format!("our checks refuse the rule: {why}"));
            }
            why.is_none()
        });
    }
    None
}

/// A text as TOML writes it.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            letter if letter.is_control() => {
                // Writing to a String does not fail.
                let _ = write!(out, "\\u{:04X}", u32::from(letter));
            }
            letter => out.push(letter),
        }
    }
    out.push('"');
    out
}

/// A list as TOML writes it; one text alone without brackets.
pub(super) fn list(texts: &[String]) -> String {
    match texts {
        [one] => quoted(one),
        _ => format!("[{}]", texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", ")),
    }
}

fn heading(dialect: Dialect, what: &str, version: Option<&str>) -> String {
    let mut text = format!(
        "# {what}, imported from {}. The report of `mailweir import {}` says what differs in meaning.\nschema_version = 1\n",
        dialect.name(),
        dialect.word()
    );
    if let Some(version) = version {
        text += &format!("version = {}\n", quoted(version));
    }
    text
}

/// A name that the masks match and that no earlier rule takes.
fn example_of(masks: &[String], taken: impl Fn(&str) -> bool) -> Option<String> {
    let any = ["mx1", "mx", "mail", "in", "mx-a", "relay", "a.mx", "mx99", "x7f"];
    let names = any.iter().flat_map(|any| masks.iter().map(move |mask| name_for(mask, any)));
    // The mask `*` alone must not be tried on a name without a dot.
    names
        .map(|name| if name.contains('.') { name } else { format!("{name}.example.org") })
        .filter(|name| masks.iter().any(|mask| Mask::new(mask).matches(name)))
        .find(|name| !taken(name))
}

/// Writes items behind a heading; the second value is the line on which each begins.
fn write_all<T>(heading: String, items: &[T], write: impl Fn(&T) -> String) -> (String, Vec<u32>) {
    let mut text = heading;
    let mut line = text.lines().count();
    let mut starts = Vec::with_capacity(items.len());
    for item in items {
        starts.push(u32::try_from(line + 1).unwrap_or(u32::MAX));
        let written = write(item);
        line += written.lines().count() + 1;
        text.push('\n');
        text.push_str(&written);
    }
    (text, starts)
}

// ---------------------------------------------------------------- domain rules

fn domain_rules(draft: &mut Draft<'_>) -> Option<String> {
    let mut rules: Vec<DraftRecipients> = Vec::new();
    for rule in core::mem::take(&mut draft.recipients) {
        // What several directives say of the same domains is one rule, as long as they say different things.
        let same = rules.iter_mut().find(|one| one.masks == rule.masks && one.can_take(&rule));
        match same {
            Some(one) => one.take(rule),
            None => rules.push(rule),
        }
    }
    // Exact names first, then the longer mask: the particular before the general.
    rules.sort_by_key(|rule| {
        let widest =
            rule.masks.iter().map(|mask| (mask.contains('*'), usize::MAX - mask.len())).max();
        (rule.masks.iter().any(|mask| mask == "*"), widest)
    });
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut names = BTreeSet::new();
    let mut ready: Vec<(String, DraftRecipients)> = Vec::new();
    for mut rule in rules {
        rule.masks.retain(|mask| seen.insert(mask.clone()));
        if rule.masks.is_empty() {
            let words = "another directive about the same domain was taken";
            draft.withdraw(&rule.directives, words);
            continue;
        }
        let chunks: Vec<Vec<String>> =
            rule.masks.chunks(MOST_MASKS).map(<[String]>::to_vec).collect();
        for masks in chunks {
            let label = match short_name(&rule.label) {
                empty if empty.is_empty() => "imported".to_owned(),
                label => label,
            };
            let numbered = (2_u32..).map(|number| format!("{label}-{number}"));
            let name =
                [label.clone()].into_iter().chain(numbered).find(|name| !names.contains(name));
            let name = name.expect("some number is free");
            names.insert(name.clone());
            ready.push((name, DraftRecipients { masks, ..rule.clone() }));
        }
    }
    let (dialect, mut refusals) = (draft.dialect, Vec::new());
    let version = draft.options.version.clone();
    let text = settle(
        ready,
        |ready| {
            let heading = heading(dialect, "Domain rules", Some(&version));
            let before: Vec<Mask> = ready
                .iter()
                .flat_map(|(_, rule)| &rule.masks)
                .map(|mask| Mask::new(mask))
                .collect();
            let offsets: Vec<usize> = ready
                .iter()
                .scan(0, |sum, (_, rule)| {
                    let at = *sum;
                    *sum += rule.masks.len();
                    Some(at)
                })
                .collect();
            let numbered: Vec<(usize, &(String, DraftRecipients))> =
                offsets.into_iter().zip(ready).collect();
            write_all(heading, &numbered, |(at, (name, rule))| {
                write_recipients(name, rule, &before[..*at])
            })
        },
        |text| DomainRuleFile::parse("imported", text.as_bytes()).map(drop),
        |(_, rule), why| refusals.push((rule.directives.clone(), why.to_owned())),
    );
    for (ids, why) in refusals {
        draft.withdraw(&ids, &why);
    }
    text
}

fn write_recipients(name: &str, rule: &DraftRecipients, before: &[Mask]) -> String {
    let mut text = format!("[[rule]]\nname = {}\nmask = {}\n", quoted(name), list(&rule.masks));
    if let Some(sign) = rule.sign {
        text += &format!("sign = {sign}\n");
    }
    if !rule.relay.is_empty() {
        text += &format!("relay = {}\n", list(&rule.relay));
    }
    if let Some(tls) = rule.tls {
        text += &format!("tls = {}\n", quoted(&tls.to_string()));
    }
    let masks: Vec<Mask> = rule.masks.iter().map(|mask| Mask::new(mask)).collect();
    let taken = |name: &str| before.iter().any(|mask| mask.matches(name));
    if let Some(example) = example_of(&rule.masks, taken) {
        text += &format!("matches = {}\n", quoted(&example));
    }
    let others = rule.masks.iter().map(|mask| format!("{}.example.net", name_for(mask, "mx")));
    let other = others
        .chain(["nobody.invalid".to_owned()])
        .find(|name| !masks.iter().any(|mask| mask.matches(name)));
    if let Some(other) = other {
        text += &format!("matches_not = {}\n", quoted(&other));
    }
    text
}

// ---------------------------------------------------------------- reaction rules

fn reaction_rules(draft: &mut Draft<'_>) -> Option<String> {
    let mut rules: Vec<DraftReaction> = core::mem::take(&mut draft.reactions);
    for excess in rules.split_off(rules.len().min(MOST_REACTIONS)) {
        draft.withdraw(&excess.directives, "more reactions than are imported at one time");
    }
    // The masks of one provider come before those of all, as the particular before the general.
    rules.sort_by_key(|rule| rule.masks.is_empty());
    // Theirs act one and all; ours end at the first that matches, unless it goes on.
    for later in 1..rules.len() {
        for earlier in 0..later {
            let shared = rules[earlier].masks.is_empty()
                || rules[earlier].masks.iter().any(|mask| rules[later].masks.contains(mask))
                || rules[later].masks.is_empty();
            let meets = shared
                && !rules[earlier].goes_on
                && rules[later]
                    .matches
                    .iter()
                    .any(|reply| rules[earlier].text.iter().any(|pattern| hits(pattern, reply)));
            rules[earlier].goes_on |= meets;
        }
    }
    let mut names = BTreeSet::new();
    let mut ready: Vec<(String, DraftReaction, String)> = Vec::new();
    for rule in rules {
        let label = match short_name(&rule.label) {
            empty if empty.is_empty() => "imported".to_owned(),
            label => label,
        };
        let name = (1_u32..).map(|number| format!("{label}-{number}"));
        let name =
            name.into_iter().find(|name| !names.contains(name)).expect("some number is free");
        names.insert(name.clone());
        let place = rule.directives.first().map(|id| draft.place(*id).to_string());
        ready.push((name, rule, place.unwrap_or_default()));
    }
    let (dialect, mut refusals) = (draft.dialect, Vec::new());
    let version = draft.options.version.clone();
    let text = settle(
        ready,
        |ready| {
            let heading = heading(dialect, "Reaction rules", Some(&version));
            write_all(heading, ready, |(name, rule, place)| {
                write_reaction(dialect, name, rule, place)
            })
        },
        |text| ReactionFile::parse("imported", text.as_bytes()).map(drop),
        |(_, rule, _), why| refusals.push((rule.directives.clone(), why.to_owned())),
    );
    for (ids, why) in refusals {
        draft.withdraw(&ids, &why);
    }
    text
}

fn write_reaction(dialect: Dialect, name: &str, rule: &DraftReaction, place: &str) -> String {
    let mut text = format!("[[rule]]\nname = {}\n", quoted(name));
    if !rule.masks.is_empty() {
        text += &format!("mask = {}\n", list(&rule.masks));
    }
    text += &format!("text = {}\n", list(&rule.text));
    if rule.hits > 1 {
        text += &format!("hits = {}\nwithin = {}\n", rule.hits, quoted(&show_span(rule.within)));
    }
    if rule.goes_on {
        text += "goes_on = true\n";
    }
    text += &format!("scope = {}\n", quoted(rule.scope));
    for line in &rule.effect {
        text += &format!("{line}\n");
    }
    if let Some(lasts) = rule.lasts {
        text += &format!("for = {}\n", quoted(&show_span(lasts)));
    }
    let from = format!("imported from {}: {place}", dialect.name());
    text += &format!(
        "source = {}\nmatches = {}\nmatches_not = {}\n",
        quoted(&from),
        list(&rule.matches),
        quoted(&rule.matches_not)
    );
    text
}

// ---------------------------------------------------------------- configuration

fn configuration(draft: &Draft<'_>, mx: bool, domains: bool, reactions: bool) -> Option<String> {
    let names = &draft.options.names;
    let mut sections = draft.config.clone();
    for (there, section, key, name) in [
        (mx, "[rules]", "mx", &names.mx),
        (domains, "[domain_rules]", "file", &names.domains),
        (reactions, "[reaction_rules]", "file", &names.reactions),
    ] {
        if there {
            sections.push((section.to_owned(), vec![format!("{key} = {}", quoted(name))]));
        }
    }
    if sections.is_empty() {
        return None;
    }
    let mut text = format!(
        "# Sections for mailweir.toml, imported from {}. Put them in by hand: a section may stand there only once.\n",
        draft.dialect.name()
    );
    for (header, lines) in sections {
        text += &format!("\n{header}\n{}\n", lines.join("\n"));
    }
    Some(text)
}
