//! What one bundle changes against another, rule by rule.
//!
//! Rules are compared as they are written, by their names, so that a kind needs nothing here but its
//! `[[rule]]` tables.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::manifest::Kind;
use crate::bounce::SHIPPED_BOUNCE_TOML;
use crate::file::SHIPPED_MX_TOML;
use crate::reaction::SHIPPED_REACTIONS_TOML;
use crate::recipient::{SHIPPED_DOMAINS_TOML, SHIPPED_FORMATS_TOML};

/// Names listed of what was added or removed; the rest is only counted.
const MOST_NAMES: usize = 500;
/// Characters of a value that are shown.
const LONGEST_VALUE: usize = 300;
/// How deep tables within a rule are looked into.
const DEEPEST: usize = 4;

/// What changed from one bundle to another, or from what is shipped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Kinds with a change, in order.
    pub kinds: Vec<KindDifference>,
}

impl Difference {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }
}

/// What changed in one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindDifference {
    /// Which.
    pub kind: Kind,
    /// How many are new.
    pub added_count: usize,
    /// Names of the first of them.
    pub added: Vec<String>,
    /// How many are gone.
    pub removed_count: usize,
    /// Names of the first of them.
    pub removed: Vec<String>,
    /// What stayed and says something else.
    pub changed: Vec<Changed>,
    /// What stayed and is tried earlier or later than others that stayed.
    pub moved: Vec<Moved>,
}

/// A rule, text or level that says something else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Its name.
    pub name: String,
    /// What of it.
    pub fields: Vec<FieldChange>,
}

/// A field of a rule with another value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    /// Its name; of a table within the rule with a dot: `levels.boost.max_connections`.
    pub field: String,
    /// As it was; `None`: not stated.
    pub from: Option<String>,
    /// As it is; `None`: not stated.
    pub to: Option<String>,
}

/// A rule in another place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Its name.
    pub name: String,
    /// The place from 1 in which it was tried.
    pub from: usize,
    /// The place in which it is tried now.
    pub to: usize,
}

/// Things with names, in their order, each with its fields.
struct Listed {
    names: Vec<String>,
    fields: BTreeMap<String, BTreeMap<String, String>>,
}

/// The rules of a kind that the program comes with; empty for kinds that have none. They hold where a bundle does not have
/// the kind.
#[must_use]
pub fn shipped_text(kind: Kind) -> &'static str {
    let octets = match kind {
        Kind::Mx => return SHIPPED_MX_TOML,
        Kind::Bounce => SHIPPED_BOUNCE_TOML,
        Kind::Reaction => SHIPPED_REACTIONS_TOML,
        Kind::Domain => SHIPPED_DOMAINS_TOML,
        Kind::Format => SHIPPED_FORMATS_TOML,
        Kind::Levels | Kind::Qualification | Kind::Suppression => b"",
    };
    str::from_utf8(octets).unwrap_or_default()
}

/// What `to` changes against `from`: the texts of their sections. Where a kind is missing, the rules that come with the
/// program are meant: a bundle with two MX rules takes all shipped ones away. A text that cannot be read is as if it were
/// empty; whoever compares has checked them, or shows the faults.
#[must_use]
pub fn difference(from: &BTreeMap<Kind, &str>, to: &BTreeMap<Kind, &str>) -> Difference {
    let text = |sections: &BTreeMap<Kind, &str>, kind| {
        sections.get(&kind).copied().unwrap_or_else(|| shipped_text(kind)).to_owned()
    };
    let of_kind = |kind: Kind| {
        let (from, to) = (text(from, kind), text(to, kind));
        if from == to {
            return None;
        }
        let between = match kind {
            Kind::Suppression => of_lines(kind, &from, &to),
            _ => between(kind, &listed(kind, &from), &listed(kind, &to)),
        };
        let nothing = between.added_count == 0
            && between.removed_count == 0
            && between.changed.is_empty()
            && between.moved.is_empty();
        (!nothing).then_some(between)
    };
    Difference { kinds: Kind::ALL.into_iter().filter_map(of_kind).collect() }
}

/// The suppression list: lines are there or not.
fn of_lines(kind: Kind, from: &str, to: &str) -> KindDifference {
    let (from, to): (BTreeSet<&str>, BTreeSet<&str>) =
        (from.lines().collect(), to.lines().collect());
    let listed = |lines: &[&str]| lines.iter().take(MOST_NAMES).map(ToString::to_string).collect();
    let added: Vec<&str> = to.difference(&from).copied().collect();
    let removed: Vec<&str> = from.difference(&to).copied().collect();
    KindDifference {
        kind,
        added_count: added.len(),
        added: listed(&added),
        removed_count: removed.len(),
        removed: listed(&removed),
        changed: Vec::new(),
        moved: Vec::new(),
    }
}

fn listed(kind: Kind, text: &str) -> Listed {
    let mut listed = Listed { names: Vec::new(), fields: BTreeMap::new() };
    if kind == Kind::Qualification {
        for line in text.lines() {
            let Ok(serde_json::Value::Object(fields)) = serde_json::from_str(line) else {
                continue;
            };
            let name = fields.get("text").and_then(serde_json::Value::as_str).unwrap_or_default();
            let fields = fields.iter().filter(|(key, _)| *key != "text");
            let fields = fields.map(|(key, value)| (key.clone(), shortened(&value.to_string())));
            listed.add(name, fields.collect());
        }
        return listed;
    }
    let Ok(file) = toml::from_str::<toml::Table>(text) else { return listed };
    if kind == Kind::Levels {
        for (level, value) in &file {
            let mut fields = BTreeMap::new();
            flatten("", value, 0, &mut fields);
            listed.add(level, fields);
        }
        return listed;
    }
    for rule in file.get("rule").and_then(toml::Value::as_array).into_iter().flatten() {
        let mut fields = BTreeMap::new();
        flatten("", rule, 0, &mut fields);
        fields.remove("name");
        listed.add(rule.get("name").and_then(toml::Value::as_str).unwrap_or_default(), fields);
    }
    listed
}

impl Listed {
    fn add(&mut self, name: &str, fields: BTreeMap<String, String>) {
        let name = shortened(name);
        if self.fields.insert(name.clone(), fields).is_none() {
            self.names.push(name);
        }
    }
}

/// The fields of a table, those of tables within it with dots.
fn flatten(prefix: &str, value: &toml::Value, depth: usize, fields: &mut BTreeMap<String, String>) {
    match value {
        toml::Value::Table(table) if depth < DEEPEST => {
            for (key, value) in table {
                let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&name, value, depth + 1, fields);
            }
        }
        other => {
            let name = if prefix.is_empty() { "value" } else { prefix };
            fields.insert(name.to_owned(), shortened(&other.to_string()));
        }
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(LONGEST_VALUE) {
        // The length tells two long values apart that begin alike.
        Some((end, _)) => format!("{}... ({} octets)", &text[..end], text.len()),
        None => text.to_owned(),
    }
}

fn between(kind: Kind, from: &Listed, to: &Listed) -> KindDifference {
    let missing = |names: &[String], other: &Listed| -> Vec<String> {
        names.iter().filter(|name| !other.fields.contains_key(*name)).cloned().collect()
    };
    let (mut added, mut removed) = (missing(&to.names, from), missing(&from.names, to));
    let (added_count, removed_count) = (added.len(), removed.len());
    added.truncate(MOST_NAMES);
    removed.truncate(MOST_NAMES);
    let changed = to.names.iter().filter_map(|name| {
        let fields = changes(from.fields.get(name)?, &to.fields[name]);
        (!fields.is_empty()).then(|| Changed { name: name.clone(), fields })
    });
    let ordered = kind.is_rules();
    KindDifference {
        kind,
        added_count,
        added,
        removed_count,
        removed,
        changed: changed.collect(),
        moved: if ordered { moved(&from.names, &to.names) } else { Vec::new() },
    }
}

fn changes(from: &BTreeMap<String, String>, to: &BTreeMap<String, String>) -> Vec<FieldChange> {
    let keys: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    let change = |key: &String| FieldChange {
        field: key.clone(),
        from: from.get(key).cloned(),
        to: to.get(key).cloned(),
    };
    keys.into_iter().map(change).filter(|change| change.from != change.to).collect()
}

/// The fewest rules whose moving turns the one order into the other: those outside a longest ascending run.
fn moved(from: &[String], to: &[String]) -> Vec<Moved> {
    let places: BTreeMap<&String, usize> = from.iter().zip(0..).collect();
    let common: Vec<(usize, usize)> = to
        .iter()
        .enumerate()
        .filter_map(|(now, name)| places.get(name).map(|before| (*before, now)))
        .collect();
    // `ends[n]`: the entry of `common` with which the best run of n + 1 rules ends.
    let mut ends: Vec<usize> = Vec::new();
    let mut previous: Vec<Option<usize>> = Vec::with_capacity(common.len());
    for (at, (before, _)) in common.iter().enumerate() {
        let length = ends.partition_point(|end| common[*end].0 < *before);
        previous.push(length.checked_sub(1).map(|shorter| ends[shorter]));
        match ends.get_mut(length) {
            Some(end) => *end = at,
            None => ends.push(at),
        }
    }
    let mut stays = vec![false; common.len()];
    let mut next = ends.last().copied();
    while let Some(at) = next {
        stays[at] = true;
        next = previous[at];
    }
    let moves = common.iter().zip(&stays).filter(|(_, stays)| !**stays);
    moves
        .map(|((before, now), _)| Moved { name: to[*now].clone(), from: before + 1, to: now + 1 })
        .collect()
}
