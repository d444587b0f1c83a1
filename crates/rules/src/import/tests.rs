//! Imports of whole files: from input to output, nothing lost, bad input.

use proptest::prelude::*;

use super::*;
use crate::reaction::ReactionFile;
use crate::recipient::DomainRuleFile;
use crate::{Level, Levels, RuleFile, RuleSet};

mod bad;
mod kumomta;
mod postfix;
mod powermta;

fn file(name: &str, text: &str) -> ImportFile {
    ImportFile { name: name.to_owned(), bytes: text.as_bytes().to_vec() }
}

fn no_include(name: &str) -> Result<Vec<u8>, String> {
    Err(format!("there is no file {name}"))
}

fn options() -> ImportOptions {
    ImportOptions {
        sources: [("ip-1".to_owned(), 1), ("ip-2".to_owned(), 2)].into(),
        mx_hosts: [
            (
                "corp.example".to_owned(),
                vec!["mx1.corp.example".to_owned(), "MX2.corp.example.".to_owned()],
            ),
            ("shop.example".to_owned(), vec!["aspmx.l.google.com".to_owned()]),
        ]
        .into(),
        ..ImportOptions::default()
    }
}

/// Imports what must be readable; whatever comes out passes our checks.
fn imported(dialect: Dialect, files: &[ImportFile]) -> Imported {
    let found = import(dialect, files, &options(), &mut no_include);
    let imported = found.unwrap_or_else(|faults| {
        panic!("{}", faults.iter().map(Diagnostic::render).collect::<Vec<_>>().join("\n"))
    });
    check(&imported);
    imported
}

fn check(imported: &Imported) {
    if let Some(text) = &imported.mx {
        crate::parse_local("mx.toml", text.as_bytes())
            .unwrap_or_else(|faults| panic!("{text}\n{faults:?}"));
    }
    if let Some(text) = &imported.domains {
        DomainRuleFile::parse("d.toml", text.as_bytes())
            .unwrap_or_else(|faults| panic!("{text}\n{faults:?}"));
    }
    if let Some(text) = &imported.reactions {
        ReactionFile::parse("r.toml", text.as_bytes())
            .unwrap_or_else(|faults| panic!("{text}\n{faults:?}"));
    }
    for entry in &imported.report.entries {
        assert!(!entry.words.is_empty(), "{entry:?}");
    }
}

/// The figures of the rule for an MX host from a source: rule, connections, per connection, per hour.
fn limits(imported: &Imported, host: &str, source: u32) -> (String, u32, u32, u32) {
    let local =
        imported.mx.as_deref().map(|text| crate::parse_local("mx.toml", text.as_bytes()).unwrap());
    let combined = RuleFile::combine(local.as_ref(), crate::shipped());
    let set = RuleSet::compile(&combined, &Levels::all(Level::Normal), 1);
    let source = mail::id::SourceId(source);
    let rule = set.find(host, source);
    let limits = set.limits(rule, source);
    let name = set.explain(host, source).rule.to_string();
    (name, limits.max_connections, limits.max_messages_per_connection, limits.messages_per_hour)
}

/// One line for each entry: `line verdict directive`.
fn lines(imported: &Imported) -> Vec<String> {
    let entries = imported.report.entries.iter();
    entries
        .map(|entry| format!("{} {} {}", entry.place.line, entry.verdict.words(), entry.directive))
        .collect()
}

fn words_of<'a>(imported: &'a Imported, directive: &str) -> (&'static str, &'a str) {
    let found = imported.report.entries.iter().find(|entry| entry.directive == directive);
    let entry = found.unwrap_or_else(|| panic!("{directive} is not in {:?}", lines(imported)));
    (entry.verdict.words(), &entry.words)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever octets a file holds, an import ends, without a panic, with faults inside the file or with rules
    /// that pass our checks.
    #[test]
    fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), dialect in 0_usize..3) {
        let dialect = Dialect::ALL[dialect];
        let name = if dialect == Dialect::Postfix { "main.cf" } else { "file" };
        let files = [ImportFile { name: name.to_owned(), bytes }];
        if let Ok(imported) = import(dialect, &files, &options(), &mut no_include) {
            check(&imported);
        }
    }
}
