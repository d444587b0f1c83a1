//! The fields of one `[[rule]]`.

use core::ops::{Range, RangeInclusive};
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use mail::mask::Mask;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::values::Reader;
use crate::figure::{Figure, Figures, Stated};
use crate::file::{WrittenRule, WrittenTimeouts};
use crate::level::Level;
use crate::sources::SourceSet;
use crate::words::{Confidence, Pacing, Scope, TlsPolicy};

/// Every key of a rule, for suggestions.
const KEYS: [&str; 26] = [
    "name",
    "provider",
    "mask",
    "sources",
    "scope",
    "max_connections",
    "max_messages_per_connection",
    "messages_per_hour",
    "connections_per_minute",
    "min_interval",
    "published_max_connections",
    "published_max_messages_per_connection",
    "published_messages_per_hour",
    "hard",
    "levels",
    "connect_timeout",
    "data_timeout",
    "timeout",
    "tls",
    "pacing",
    "source_of_figures",
    "confidence",
    "matches",
    "matches_not",
    "domains",
    "notes",
];

/// The levels that a rule may state figures for.
const LEVELS: [&str; 5] = ["slow", "normal", "fast", "very-fast", "boost"];

const LONGEST_NAME: usize = 64;
const LONGEST_TEXT: usize = 2_000;
/// DNS names have at most 253 characters; masks may have a little more.
const LONGEST_MASK: usize = 255;
const MOST_MASKS: usize = 64;
const MOST_EXAMPLES: usize = 64;
const MOST_DOMAINS: usize = 1_000;
const CONNECT_RANGE: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(600);
const ANSWER_RANGE: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(3_600);

/// A rule with the places of what is checked later.
pub(crate) struct ReadRule {
    pub(crate) rule: WrittenRule,
    /// Whether it was read without a fault. The others are not compared with each other.
    pub(crate) sound: bool,
    pub(crate) header: Range<usize>,
    pub(crate) name: Range<usize>,
    pub(crate) masks: Vec<Range<usize>>,
    pub(crate) matches: Vec<Range<usize>>,
    pub(crate) matches_not: Vec<Range<usize>>,
}

/// Reads the table of a rule, whose `[[rule]]` stands at `header`.
pub(super) fn read_rule(
    reader: &mut Reader<'_, '_>,
    header: &Range<usize>,
    fields: &DeTable<'_>,
) -> ReadRule {
    let faults_before = reader.fault_count();
    let mut read = ReadRule {
        rule: silent_rule(reader, header),
        sound: false,
        header: header.clone(),
        name: header.clone(),
        masks: Vec::new(),
        matches: Vec::new(),
        matches_not: Vec::new(),
    };
    let mut hard = Vec::new();
    for (key, value) in fields {
        read_field(reader, &mut read, &mut hard, key, value);
    }
    if !fields.contains_key("name") {
        let help = "give every rule a short unique name, such as `name = \"google\"`";
        reader.missing(header.clone(), "the rule has no `name`", help);
    }
    if !fields.contains_key("mask") {
        let help = "say which MX hosts it is for, such as `mask = \"*.google.com\"`";
        reader.missing(header.clone(), "the rule has no `mask`", help);
    }
    if read.rule.provider.is_empty() {
        read.rule.provider = read.rule.name.clone();
    }
    for (figure, at) in hard {
        if read.rule.figures.get(figure).is_none() && !fields.contains_key(figure.key()) {
            let help = format!("state `{figure}` in this rule, or leave it out of `hard`");
            reader.missing(at, format!("`{figure}` is hard, but this rule states none"), help);
        }
    }
    check_caps(reader, &read.rule, fields);
    read.sound = reader.fault_count() == faults_before;
    read
}

/// A rule that states nothing yet.
fn silent_rule(reader: &Reader<'_, '_>, header: &Range<usize>) -> WrittenRule {
    WrittenRule {
        name: "".into(),
        provider: "".into(),
        masks: Vec::new(),
        sources: SourceSet::all(),
        scope: Scope::default(),
        figures: Figures::default(),
        published: Figures::default(),
        hard: BTreeSet::new(),
        levels: BTreeMap::new(),
        timeouts: WrittenTimeouts::default(),
        tls: None,
        pacing: None,
        source_of_figures: "".into(),
        confidence: Confidence::default(),
        matches: Vec::new(),
        matches_not: Vec::new(),
        domains: Vec::new(),
        notes: "".into(),
        place: reader.place(header),
    }
}

/// One key of a rule.
fn read_field(
    reader: &mut Reader<'_, '_>,
    read: &mut ReadRule,
    hard: &mut Vec<(Figure, Range<usize>)>,
    key: &Spanned<toml::de::DeString<'_>>,
    value: &Spanned<DeValue<'_>>,
) {
    let rule = &mut read.rule;
    let name = key.get_ref().as_ref();
    if let Some(figure) = Figure::from_key(name) {
        read_figure(reader, &mut rule.figures, figure, name, value);
        return;
    }
    if let Some(figure) =
        Figure::ALL.into_iter().find(|figure| figure.published_key() == Some(name))
    {
        read_figure(reader, &mut rule.published, figure, name, value);
        return;
    }
    let text = |reader: &mut Reader<'_, '_>| -> Box<str> {
        reader.text(name, value, LONGEST_TEXT).unwrap_or_default().into()
    };
    match name {
        "name" => {
            read.name = value.span();
            rule.name = read_name(reader, value);
        }
        "provider" => rule.provider = text(reader),
        "mask" => (rule.masks, read.masks) = read_masks(reader, value),
        "sources" => rule.sources = read_sources(reader, value),
        "scope" => {
            rule.scope =
                reader.word(name, value, Scope::from_word, Scope::WORDS).unwrap_or_default();
        }
        "hard" => {
            *hard = read_hard(reader, value);
            rule.hard = hard.iter().map(|(figure, _)| *figure).collect();
        }
        "levels" => rule.levels = read_levels(reader, value),
        "connect_timeout" => rule.timeouts.connect = reader.span(name, value, &CONNECT_RANGE),
        "data_timeout" => rule.timeouts.data = reader.span(name, value, &ANSWER_RANGE),
        "timeout" => rule.timeouts.other = reader.span(name, value, &ANSWER_RANGE),
        "tls" => {
            rule.tls = reader.word(name, value, TlsPolicy::from_word, TlsPolicy::WORDS);
        }
        "pacing" => {
            rule.pacing = reader.word(name, value, Pacing::from_word, Pacing::WORDS);
        }
        "source_of_figures" => rule.source_of_figures = text(reader),
        "confidence" => {
            rule.confidence = reader
                .word(name, value, Confidence::from_word, Confidence::WORDS)
                .unwrap_or_default();
        }
        "matches" => (rule.matches, read.matches) = read_examples(reader, name, value),
        "matches_not" => (rule.matches_not, read.matches_not) = read_examples(reader, name, value),
        "domains" => {
            let domains = reader.texts(name, value, MOST_DOMAINS, LONGEST_MASK);
            rule.domains = domains.into_iter().map(|(domain, _)| domain.into()).collect();
        }
        "notes" => rule.notes = text(reader),
        other => reader.unknown_key(key.span(), other, &KEYS),
    }
}

/// Reads a figure into `figures`.
fn read_figure(
    reader: &mut Reader<'_, '_>,
    figures: &mut Figures,
    figure: Figure,
    key: &str,
    value: &Spanned<DeValue<'_>>,
) {
    let range = figure.range();
    let number = if figure == Figure::MinInterval {
        let range = Duration::from_millis(*range.start())..=Duration::from_millis(*range.end());
        let span = reader.span(key, value, &range);
        span.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
    } else {
        reader.whole_number_or(
            key,
            value,
            &range,
            "; where nobody published a figure, leave the key out and the generic rule decides",
        )
    };
    if let Some(number) = number {
        figures.set(figure, Stated { value: number, place: reader.place(&value.span()) });
    }
}

/// `name`.
fn read_name(reader: &mut Reader<'_, '_>, value: &Spanned<DeValue<'_>>) -> Box<str> {
    let Some(name) = reader.text("name", value, LONGEST_NAME) else { return "".into() };
    let allowed = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.')
    };
    if name.is_empty() || !name.bytes().all(allowed) {
        let help =
            "use 1 to 64 lower-case letters, digits, `-`, `_` and `.`; `provider` takes any text";
        reader.fault(value.span(), "`name` is not a short name", help);
        return "".into();
    }
    name.into()
}

/// `mask`.
fn read_masks(
    reader: &mut Reader<'_, '_>,
    value: &Spanned<DeValue<'_>>,
) -> (Vec<Mask>, Vec<Range<usize>>) {
    let faults_before = reader.fault_count();
    let texts = reader.texts("mask", value, MOST_MASKS, LONGEST_MASK);
    if texts.is_empty() && reader.fault_count() == faults_before {
        reader.fault(value.span(), "`mask` is an empty list", "name at least one mask");
    }
    let (mut masks, mut places): (Vec<Mask>, Vec<Range<usize>>) = (Vec::new(), Vec::new());
    for (text, at) in texts {
        if let Some(message) = mask_fault(&text) {
            let help =
                "a mask is an MX host name with `*` for any run of characters and `?` for one";
            reader.fault(at, message, help);
            continue;
        }
        let mask = Mask::new(&text);
        if masks.contains(&mask) {
            reader.fault(
                at,
                format!("mask `{mask}` stands twice in this rule"),
                "drop one of them",
            );
            continue;
        }
        masks.push(mask);
        places.push(at);
    }
    (masks, places)
}

/// What is wrong with the text of a mask.
pub(crate) fn mask_fault(text: &str) -> Option<String> {
    if text.is_empty() || text == "." {
        return Some("the mask is empty".to_owned());
    }
    let allowed = |letter: char| {
        letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.' | '*' | '?')
    };
    if let Some(letter) = text.chars().find(|letter| !allowed(*letter)) {
        let hint = if letter == '@' { ": masks are for MX hosts, not for addresses" } else { "" };
        return Some(format!("`{}` cannot stand in a mask{hint}", letter.escape_debug()));
    }
    if text.starts_with('.') || text.contains("..") {
        return Some("the mask has an empty label".to_owned());
    }
    text.contains("**").then(|| "`**` in a mask means no more than `*`".to_owned())
}

/// `sources`.
fn read_sources(reader: &mut Reader<'_, '_>, value: &Spanned<DeValue<'_>>) -> SourceSet {
    let Some(text) = value.get_ref().as_str() else {
        let help = "write ids and ranges in quotes, such as `sources = \"1,4-7\"`";
        reader.wrong_type(value, "sources", "a text", help);
        return SourceSet::all();
    };
    match SourceSet::parse(text) {
        Ok(sources) => sources,
        Err(fault) => {
            let at = reader.part(value, text, &fault.at);
            let help = "list each source once: ids and ranges from low to high, such as \"1,4-7\"";
            reader.fault(at, format!("`sources`: {fault}"), help);
            SourceSet::all()
        }
    }
}

/// `hard`.
fn read_hard(
    reader: &mut Reader<'_, '_>,
    value: &Spanned<DeValue<'_>>,
) -> Vec<(Figure, Range<usize>)> {
    let mut hard: Vec<(Figure, Range<usize>)> = Vec::new();
    for (text, at) in reader.texts("hard", value, Figure::ALL.len(), LONGEST_NAME) {
        match Figure::from_key(&text) {
            None => {
                let keys = Figure::ALL.map(Figure::key).join(", ");
                reader.fault(
                    at,
                    format!("`hard` knows no figure `{text}`"),
                    format!("write {keys}"),
                );
            }
            Some(figure) if hard.iter().any(|(known, _)| *known == figure) => {
                reader.fault(at, format!("`{figure}` stands twice in `hard`"), "drop one of them");
            }
            Some(figure) => hard.push((figure, at)),
        }
    }
    hard
}

/// `levels`.
fn read_levels(
    reader: &mut Reader<'_, '_>,
    value: &Spanned<DeValue<'_>>,
) -> BTreeMap<Level, Figures> {
    let mut levels = BTreeMap::new();
    let Some(table) = value.get_ref().as_table() else {
        reader.wrong_type(value, "levels", "a table", "write `[rule.levels.boost]` and so on");
        return levels;
    };
    for (key, value) in table {
        let word = key.get_ref().as_ref();
        let level = word.parse().ok().filter(|level| *level != Level::Custom);
        let (Some(level), Some(fields)) = (level, value.get_ref().as_table()) else {
            if level.is_some() {
                reader.wrong_type(value, word, "a table", "write `[rule.levels.boost]` and so on");
            } else if word == Level::Custom.word() {
                let help = "at level custom the figures of the rule hold as written; change those";
                reader.fault(key.span(), "level `custom` has no figures of its own", help);
            } else {
                reader.unknown_key(key.span(), word, &LEVELS);
            }
            continue;
        };
        let mut figures = Figures::default();
        for (key, value) in fields {
            match Figure::from_key(key.get_ref()) {
                Some(figure) => read_figure(reader, &mut figures, figure, key.get_ref(), value),
                None => {
                    let known = Figure::ALL.map(Figure::key);
                    reader.unknown_key(key.span(), key.get_ref(), &known);
                }
            }
        }
        levels.insert(level, figures);
    }
    levels
}

/// `matches` and `matches_not`.
fn read_examples(
    reader: &mut Reader<'_, '_>,
    key: &str,
    value: &Spanned<DeValue<'_>>,
) -> (Vec<Box<str>>, Vec<Range<usize>>) {
    let mut examples = (Vec::new(), Vec::new());
    for (text, at) in reader.texts(key, value, MOST_EXAMPLES, LONGEST_MASK) {
        if text.is_empty() || text.contains(['*', '?']) || text.contains(char::is_whitespace) {
            let message = format!("`{text}` in `{key}` is not the name of an MX host");
            reader.fault(at, message, "write a whole host name without wildcards");
            continue;
        }
        examples.0.push(text.to_ascii_lowercase().into());
        examples.1.push(at);
    }
    examples
}

/// No figure of a rule may pass its own published or hard one.
fn check_caps(reader: &mut Reader<'_, '_>, rule: &WrittenRule, fields: &DeTable<'_>) {
    for figure in Figure::ALL {
        let Some(cap) = rule.cap(figure) else { continue };
        let passes = |stated: &Stated| figure.passes(stated.value, cap);
        let shown = figure.show(cap);
        if rule.figures.get(figure).is_some_and(passes)
            && let Some(value) = fields.get(figure.key())
        {
            let message = format!("`{figure}` passes the published ceiling {shown}");
            reader.fault(
                value.span(),
                message,
                "state a figure that is not harder on the provider",
            );
        }
        let Some(tables) = fields.get("levels").and_then(|levels| levels.get_ref().as_table())
        else {
            continue;
        };
        for (level, figures) in &rule.levels {
            let value = tables
                .get(level.word())
                .and_then(|table| table.get_ref().as_table()?.get(figure.key()));
            if let Some(value) = value.filter(|_| figures.get(figure).is_some_and(passes)) {
                let message = format!(
                    "`{figure}` at level {level} passes the hard figure {shown} of the rule"
                );
                let help = "no level passes a figure that the provider published or gave";
                reader.fault(value.span(), message, help);
            }
        }
    }
}
