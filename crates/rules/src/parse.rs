//! From the bytes of a rule file to checked rules, or to every fault in them.
//!
//! The file is TOML 1.0 with `schema_version = 1` and `[[rule]]` tables in the order in which they
//! are tried; [`crate::WrittenRule`] documents the fields. Reading goes in three steps: TOML, the
//! fields of each rule, the rules among each other. Faults of all steps are reported together, in the
//! order of the file, as far as one step can be trusted after a fault of another.
//!
//! Bounds: 4 MiB, 20,000 rules, 64 masks a rule, 255 characters a mask, 200 faults reported.

use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::check;
use crate::diagnostic::{Diagnostic, Source};
use crate::file::RuleFile;

mod rule;
mod values;
pub(crate) mod versioned;

pub(crate) use rule::{ReadRule, mask_fault};
pub(crate) use values::{Reader, distance};

/// The only version of the format so far.
const SCHEMA_VERSION: u64 = 1;
/// Bytes of a rule file.
const LARGEST_FILE: usize = 4 * 1024 * 1024;
/// `[[rule]]` tables of a file.
const MOST_RULES: usize = 20_000;
/// Faults reported of one file.
const MOST_FAULTS: usize = 200;
/// Files up to this size are searched for more than one fault of the TOML itself; in a larger one
/// that is no TOML at all there could be millions.
const RECOVERABLE_FILE: usize = 256 * 1024;

/// Reads a complete rule file: its last rule must be the generic one (mask `*`, all sources).
///
/// `file_name` is used in messages only.
///
/// # Errors
///
/// Every fault, sorted by place, at least one and at most 201: faults beyond the first 200 are only
/// counted, by the last one. Every place lies inside the file.
pub fn parse(file_name: &str, bytes: &[u8]) -> Result<RuleFile, Vec<Diagnostic>> {
    parse_as(file_name, bytes, Kind::Complete)
}

/// Reads a file of local rules, which may do without a generic rule: it is put before other rules
/// with [`RuleFile::combine`]. If it has a generic rule, that one must be the last.
///
/// # Errors
///
/// As [`parse`].
pub fn parse_local(file_name: &str, bytes: &[u8]) -> Result<RuleFile, Vec<Diagnostic>> {
    parse_as(file_name, bytes, Kind::Local)
}

/// Whether a file stands alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It ends with a generic rule.
    Complete,
    /// It is put before other rules.
    Local,
}

fn parse_as(file_name: &str, bytes: &[u8], kind: Kind) -> Result<RuleFile, Vec<Diagnostic>> {
    let source = source_of(file_name, bytes)?;
    let (rules, faults) = read(&source, kind);
    if faults.is_empty() {
        let rules = rules.into_iter().map(|read| Arc::new(read.rule)).collect();
        return Ok(RuleFile::new(Arc::clone(&source.file), rules));
    }
    Err(in_order(faults))
}

/// The text of a file of rules of any kind.
///
/// # Errors
///
/// One fault: it is too large or not UTF-8.
pub(crate) fn source_of<'text>(
    file_name: &str,
    bytes: &'text [u8],
) -> Result<Source<'text>, Vec<Diagnostic>> {
    if bytes.len() > LARGEST_FILE {
        let help = "split off what is not needed; a rule takes about 300 bytes";
        let message =
            format!("the file has {} bytes; at most {LARGEST_FILE} are read", bytes.len());
        return Err(vec![Source::new(file_name, "").diagnostic(0..0, message, help)]);
    }
    match core::str::from_utf8(bytes) {
        Ok(text) => Ok(Source::new(file_name, text)),
        Err(fault) => {
            let good = String::from_utf8_lossy(&bytes[..fault.valid_up_to()]);
            let at = good.len();
            Err(vec![Source::new(file_name, &good).diagnostic(
                at..at,
                "the file is not UTF-8 from here on",
                "save it as UTF-8",
            )])
        }
    }
}

/// Sorts faults by place, drops repeated ones and bounds their number.
pub(crate) fn in_order(mut faults: Vec<Diagnostic>) -> Vec<Diagnostic> {
    faults.sort_by(|one, other| {
        (one.line, one.column, &one.message).cmp(&(other.line, other.column, &other.message))
    });
    faults.dedup();
    if let Some(first_left_out) = faults.get(MOST_FAULTS) {
        let mut last = first_left_out.clone();
        last.message = format!("and {} more faults from here on", faults.len() - MOST_FAULTS);
        last.help = String::new();
        faults.truncate(MOST_FAULTS);
        faults.push(last);
    }
    faults
}

/// All three steps. The rules may only be used when there is no fault.
fn read(source: &Source<'_>, kind: Kind) -> (Vec<ReadRule>, Vec<Diagnostic>) {
    let (document, syntax_faults) = read_toml(source);
    let mut reader = Reader::new(source, syntax_faults);
    let empty = source.text.trim().is_empty();
    if empty && reader.toml_is_sound() {
        let help = "begin with `schema_version = 1` and a `[[rule]]`";
        reader.fault(0..0, "the file is empty", help);
        return (Vec::new(), reader.into_faults());
    }
    let rules = document.map_or_else(Vec::new, |document| read_document(&mut reader, &document));
    // The rules among each other mean something only when they have all been read.
    if reader.toml_is_sound() && rules.len() <= MOST_RULES {
        check::names(&mut reader, &rules);
        check::generic(&mut reader, &rules, kind);
        check::reach(&mut reader, &rules);
    }
    (rules, reader.into_faults())
}

/// The TOML of the file, as far as it can be read, and its faults.
pub(crate) fn read_toml<'text>(
    source: &Source<'text>,
) -> (Option<Spanned<DeTable<'text>>>, Vec<Diagnostic>) {
    let diagnostic = |fault: &toml::de::Error| {
        // The parser gives the place of all its faults but "too deeply nested".
        let at = fault.span().unwrap_or(0..0);
        source.diagnostic(at, format!("not TOML: {}", fault.message()), "")
    };
    match DeTable::parse(source.text) {
        Ok(document) => (Some(document), Vec::new()),
        Err(fault) if source.text.len() > RECOVERABLE_FILE => (None, vec![diagnostic(&fault)]),
        Err(_) => {
            let (document, faults) = DeTable::parse_recoverable(source.text);
            (Some(document), faults.iter().map(diagnostic).collect())
        }
    }
}

/// The top level of the file.
fn read_document<'text>(
    reader: &mut Reader<'_, 'text>,
    document: &Spanned<DeTable<'text>>,
) -> Vec<ReadRule> {
    let mut rules = Vec::new();
    let (mut has_version, mut has_rules) = (false, false);
    for (key, value) in document.get_ref() {
        match key.get_ref().as_ref() {
            "schema_version" => {
                has_version = true;
                read_version(reader, value);
            }
            "rule" => {
                has_rules = true;
                rules = read_rules(reader, value);
            }
            other => reader.unknown_key(key.span(), other, &["schema_version", "rule"]),
        }
    }
    if !has_version {
        reader.missing(
            0..0,
            "`schema_version` is missing",
            "write `schema_version = 1` at the top",
        );
    }
    if !has_rules {
        let end = reader.end_of_file();
        reader.missing(end, "the file has no rule", "write at least one `[[rule]]`");
    }
    rules
}

/// `schema_version`.
pub(crate) fn read_version(reader: &mut Reader<'_, '_>, value: &Spanned<DeValue<'_>>) {
    let Some(version) = reader.whole_number("schema_version", value, &(1..=u64::from(u32::MAX)))
    else {
        return;
    };
    if version != SCHEMA_VERSION {
        let message = format!(
            "rule files of schema version {version} are not known; this program reads version {SCHEMA_VERSION}"
        );
        reader.fault(value.span(), message, "use a program as new as the file");
    }
}

/// The list of `[[rule]]` tables.
fn read_rules<'text>(
    reader: &mut Reader<'_, 'text>,
    value: &Spanned<DeValue<'text>>,
) -> Vec<ReadRule> {
    let Some(tables) = value.get_ref().as_array() else {
        let help = "begin every rule with `[[rule]]`, in two pairs of brackets";
        reader.wrong_type(value, "rule", "a list of tables", help);
        return Vec::new();
    };
    let mut rules = Vec::with_capacity(tables.len().min(MOST_RULES));
    if let Some(excess) = tables.get(MOST_RULES) {
        let help = "join rules with equal figures: a rule takes 64 masks";
        reader.fault(excess.span(), format!("more than {MOST_RULES} rules"), help);
    }
    for table in tables.iter().take(MOST_RULES + 1) {
        match table.get_ref().as_table() {
            Some(fields) => rules.push(rule::read_rule(reader, &table.span(), fields)),
            None => reader.wrong_type(table, "rule", "a table", "begin every rule with `[[rule]]`"),
        }
    }
    rules
}

#[cfg(test)]
mod tests;
