//! From the bytes of a file of rules by recipient domain to checked rules, or to every fault in them.
//!
//! Bounds: 4 MiB, 5,000 rules, 64 masks and examples in a list, 200 faults reported.

use core::ops::Range;
use std::sync::Arc;

use mail::mask::Mask;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::check;
use super::{RecipientRule, RecipientRuleFile, Recipients};
use crate::diagnostic::Diagnostic;
use crate::parse::versioned::{Kind, LONGEST_NAME, check_name, read_versioned};
use crate::parse::{Reader, in_order, read_toml, source_of};

const LONGEST_TEXT: usize = 2_000;
const LONGEST_MASK: usize = 255;
const MOST_ENTRIES: usize = 64;

const KIND: Kind = Kind {
    most_rules: 5_000,
    too_many: "join rules with the same treatment: a rule takes 64 masks",
    who_names_it: "logs",
};

/// The keys that both kinds have.
const COMMON: [&str; 6] = ["name", "provider", "mask", "matches", "matches_not", "notes"];

/// A rule with the places of what is checked later.
pub(super) struct ReadRule<T> {
    pub(super) rule: RecipientRule<T>,
    /// Whether it was read without a fault. The others are not compared with each other.
    pub(super) sound: bool,
    pub(super) name: Range<usize>,
    pub(super) masks: Vec<Range<usize>>,
    pub(super) matches: Vec<Range<usize>>,
    pub(super) matches_not: Vec<Range<usize>>,
}

/// What is particular to a kind.
pub(super) struct Particular<T> {
    /// Its keys.
    pub(super) keys: &'static [&'static str],
    /// Reads one of them.
    pub(super) read: fn(&mut Reader<'_, '_>, &mut T, &str, &Spanned<DeValue<'_>>),
    /// Looks at a rule as a whole; `header` is its `[[rule]]`.
    pub(super) check: fn(&mut Reader<'_, '_>, &T, &Range<usize>),
}

/// Reads a file.
pub(super) fn parse<T: Clone + Default>(
    file_name: &str,
    bytes: &[u8],
    particular: &Particular<T>,
) -> Result<RecipientRuleFile<T>, Vec<Diagnostic>> {
    let source = source_of(file_name, bytes)?;
    let (document, syntax_faults) = read_toml(&source);
    let mut reader = Reader::new(&source, syntax_faults);
    let (mut version, mut rules) = (String::new(), Vec::new());
    if source.text.trim().is_empty() && reader.toml_is_sound() {
        let help = "begin with `schema_version = 1`, `version = \"...\"` and a `[[rule]]`";
        reader.fault(0..0, "the file is empty", help);
    } else if let Some(document) = document {
        let read = |reader: &mut Reader<'_, '_>, header: &Range<usize>, fields: &DeTable<'_>| {
            read_rule(reader, header, fields, particular)
        };
        (version, rules) = read_versioned(&mut reader, &document, &KIND, read);
    }
    if reader.toml_is_sound() && rules.len() <= KIND.most_rules {
        check::names(&mut reader, &rules);
        check::reach(&mut reader, &rules);
    }
    let faults = reader.into_faults();
    if !faults.is_empty() {
        return Err(in_order(faults));
    }
    Ok(RecipientRuleFile {
        name: Arc::clone(&source.file),
        version: version.as_str().into(),
        rules: rules.into_iter().map(|read| Arc::new(read.rule)).collect(),
        local: 0,
    })
}

/// The table of a rule, whose `[[rule]]` stands at `header`.
fn read_rule<T: Default>(
    reader: &mut Reader<'_, '_>,
    header: &Range<usize>,
    fields: &DeTable<'_>,
    particular: &Particular<T>,
) -> ReadRule<T> {
    let faults_before = reader.fault_count();
    let to = Recipients {
        name: "".into(),
        provider: "".into(),
        masks: Vec::new(),
        matches: Vec::new(),
        matches_not: Vec::new(),
        notes: "".into(),
        place: reader.place(header),
    };
    let mut read = ReadRule {
        rule: RecipientRule { to, treatment: T::default() },
        sound: false,
        name: header.clone(),
        masks: Vec::new(),
        matches: Vec::new(),
        matches_not: Vec::new(),
    };
    for (key, value) in fields {
        let name = key.get_ref().as_ref();
        if particular.keys.contains(&name) {
            (particular.read)(reader, &mut read.rule.treatment, name, value);
        } else if COMMON.contains(&name) {
            read_common(reader, &mut read, name, value);
        } else {
            let known: Vec<&str> = COMMON.iter().chain(particular.keys).copied().collect();
            reader.unknown_key(key.span(), name, &known);
        }
    }
    let everybody = read.rule.to.masks.iter().any(|mask| mask.as_str() == "*");
    for (key, help) in [
        ("name", "give every rule a short unique name, such as `name = \"docomo\"`"),
        ("mask", "say which recipient domains it is for, such as `mask = \"*.docomo.ne.jp\"`"),
        ("matches", "give at least one domain that this rule is for"),
        ("matches_not", "give a domain that looks alike but is another one"),
    ] {
        let needed = key != "matches_not" || !everybody;
        if needed && !fields.contains_key(key) {
            reader.missing(header.clone(), format!("the rule has no `{key}`"), help);
        }
    }
    if !particular.keys.iter().any(|key| fields.contains_key(*key)) {
        let help = format!("say what is done: {}", particular.keys.join(", "));
        reader.missing(header.clone(), "the rule does nothing", help);
    }
    (particular.check)(reader, &read.rule.treatment, header);
    read.sound = reader.fault_count() == faults_before;
    read
}

fn read_common<T>(
    reader: &mut Reader<'_, '_>,
    read: &mut ReadRule<T>,
    name: &str,
    value: &Spanned<DeValue<'_>>,
) {
    let to = &mut read.rule.to;
    match name {
        "name" => {
            read.name = value.span();
            to.name = reader.text(name, value, LONGEST_NAME).unwrap_or_default().into();
            check_name(reader, value, &to.name);
        }
        "provider" => {
            to.provider = reader.text(name, value, LONGEST_TEXT).unwrap_or_default().into();
        }
        "notes" => to.notes = reader.text(name, value, LONGEST_TEXT).unwrap_or_default().into(),
        "mask" => {
            let texts = domains(reader, name, value);
            (to.masks, read.masks) =
                texts.into_iter().map(|(text, at)| (Mask::new(&text), at)).unzip();
        }
        "matches" => {
            let texts = domains(reader, name, value);
            (to.matches, read.matches) =
                texts.into_iter().map(|(text, at)| (Box::from(text), at)).unzip();
        }
        _ => {
            let texts = domains(reader, name, value);
            (to.matches_not, read.matches_not) =
                texts.into_iter().map(|(text, at)| (Box::from(text), at)).unzip();
        }
    }
}

/// A list of names or masks, none of them empty.
fn domains(
    reader: &mut Reader<'_, '_>,
    key: &str,
    value: &Spanned<DeValue<'_>>,
) -> Vec<(String, Range<usize>)> {
    let texts = reader.texts(key, value, MOST_ENTRIES, LONGEST_MASK);
    if texts.is_empty() && value.get_ref().as_array().is_some_and(|list| list.is_empty()) {
        reader.fault(value.span(), format!("`{key}` is an empty list"), "");
    }
    for (text, at) in &texts {
        if text.is_empty() || text.contains([' ', '@', '\n', '\t']) {
            let help = "write the part behind the @, such as \"example.com\"";
            reader.fault(at.clone(), format!("`{text}` in `{key}` is no domain"), help);
        }
    }
    texts
}
