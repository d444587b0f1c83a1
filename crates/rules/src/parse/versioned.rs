//! The frame that all rule files with a version of their own share: `schema_version`, `version` and
//! `[[rule]]` tables.

use core::ops::Range;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Reader, read_version};
use crate::diagnostic::Place;

/// Characters of a version and of the name of a rule.
pub(crate) const LONGEST_NAME: usize = 64;

/// What a kind of rule file says about itself.
pub(crate) struct Kind {
    /// `[[rule]]` tables at most.
    pub(crate) most_rules: usize,
    /// What to do where there are more.
    pub(crate) too_many: &'static str,
    /// What names the version, for people.
    pub(crate) who_names_it: &'static str,
}

/// Reads the top level; the version, and the rules that `read_rule` makes of their tables.
pub(crate) fn read_versioned<'source, 'text, R>(
    reader: &mut Reader<'source, 'text>,
    document: &Spanned<DeTable<'text>>,
    kind: &Kind,
    read_rule: impl FnMut(&mut Reader<'source, 'text>, &Range<usize>, &DeTable<'text>) -> R,
) -> (String, Vec<R>) {
    let (mut version, mut rules) = (String::new(), Vec::new());
    let mut read_rule = read_rule;
    for (key, value) in document.get_ref() {
        match key.get_ref().as_ref() {
            "schema_version" => read_version(reader, value),
            "version" => {
                version = reader.text("version", value, LONGEST_NAME).unwrap_or_default();
            }
            "rule" => rules = read_rules(reader, value, kind, &mut read_rule),
            other => {
                reader.unknown_key(key.span(), other, &["schema_version", "version", "rule"]);
            }
        }
    }
    let who = kind.who_names_it;
    for (key, help) in [
        ("schema_version", "write `schema_version = 1` at the top".to_owned()),
        ("version", format!("write `version = \"2026-11-21\"` or the like; {who} name it")),
    ] {
        if !document.get_ref().contains_key(key) {
            reader.missing(0..0, format!("`{key}` is missing"), help);
        }
    }
    if !document.get_ref().contains_key("rule") {
        let end = reader.end_of_file();
        reader.missing(end, "the file has no rule", "write at least one `[[rule]]`");
    }
    (version, rules)
}

fn read_rules<'source, 'text, R>(
    reader: &mut Reader<'source, 'text>,
    value: &Spanned<DeValue<'text>>,
    kind: &Kind,
    read_rule: &mut impl FnMut(&mut Reader<'source, 'text>, &Range<usize>, &DeTable<'text>) -> R,
) -> Vec<R> {
    let Some(tables) = value.get_ref().as_array() else {
        let help = "begin every rule with `[[rule]]`, in two pairs of brackets";
        reader.wrong_type(value, "rule", "a list of tables", help);
        return Vec::new();
    };
    if let Some(excess) = tables.get(kind.most_rules) {
        let message = format!("more than {} rules", kind.most_rules);
        reader.fault(excess.span(), message, kind.too_many);
    }
    let mut rules = Vec::with_capacity(tables.len().min(kind.most_rules));
    for table in tables.iter().take(kind.most_rules + 1) {
        match table.get_ref().as_table() {
            Some(fields) => rules.push(read_rule(reader, &table.span(), fields)),
            None => reader.wrong_type(table, "rule", "a table", "begin every rule with `[[rule]]`"),
        }
    }
    rules
}

/// Checks that a name is short and plain.
pub(crate) fn check_name(reader: &mut Reader<'_, '_>, value: &Spanned<DeValue<'_>>, name: &str) {
    let good = !name.is_empty()
        && name.bytes().all(|letter| {
            letter.is_ascii_lowercase() || letter.is_ascii_digit() || b"-_.".contains(&letter)
        });
    if !good && value.get_ref().is_str() {
        let help = "use 1 to 64 lower-case letters, digits, `-`, `_` and `.`";
        reader.fault(value.span(), "`name` is not a short name", help);
    }
}

/// Checks that every name is there once. `rules`: name, where it is written, where the rule stands.
pub(crate) fn unique_names<'a>(
    reader: &mut Reader<'_, '_>,
    rules: impl Iterator<Item = (&'a str, &'a Range<usize>, &'a Place)>,
    who_uses_them: &str,
) {
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    for (name, at, place) in rules {
        match seen.entry(name) {
            Entry::Vacant(slot) => {
                slot.insert(place.line);
            }
            Entry::Occupied(first) => reader.fault(
                at.clone(),
                format!("rule name `{name}` is taken by the rule in line {}", first.get()),
                format!("names are unique: {who_uses_them} use them"),
            ),
        }
    }
}

/// `true` or `false`.
pub(crate) fn truth(reader: &mut Reader<'_, '_>, key: &str, value: &Spanned<DeValue<'_>>) -> bool {
    value.get_ref().as_bool().unwrap_or_else(|| {
        reader.wrong_type(value, key, "true or false", "");
        false
    })
}

/// An example as people recognise it, in one line.
pub(crate) fn brief(text: &str) -> String {
    let shown: String = text.replace('\n', " / ");
    match shown.char_indices().nth(80) {
        Some((end, _)) => format!("{}...", &shown[..end]),
        None => shown,
    }
}
