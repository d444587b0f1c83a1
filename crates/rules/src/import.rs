//! What other mail servers were told, as rules of ours: KumoMTA, PowerMTA, Postfix.
//!
//! [`import`] takes the text of configuration files of one [`Dialect`] and gives [`Imported`]: the text of MX
//! rules, domain rules and reaction rules, a fragment of our configuration, and a report that says of **every**
//! directive what became of it, with the line it stands on: taken, taken with another meaning, or not taken and
//! why.
//!
//! # Invariants
//!
//! - Nothing is lost in silence: a directive enters the report when it is read, and one that no translation has
//!   spoken for is there as *not taken*.
//! - What comes out passes the checks of this crate, examples and counter-examples included. A rule that they
//!   refuse is left out, and the report says why.
//! - Everything is bounded: 4 MiB a file, 64 files with those that are included, 100,000 directives, eight levels
//!   of inclusion and of expansion.
//! - Secrets (passwords) are never repeated, neither in the report nor in the rules.
//! - Nothing here reads a file or asks DNS: the caller hands in what files are included, and the MX hosts of
//!   domains that the shipped rules do not know ([`ImportOptions::mx_hosts`]).
//!
//! # When it fails
//!
//! A file that cannot be read as what it claims to be (not TOML, not UTF-8, a block that is not closed, too large)
//! gives every fault with file, line and column, and no rules.

mod domains;
mod draft;
mod example;
mod kind;
mod kumomta;
mod postfix;
mod powermta;
mod rate;
mod render;
mod report;

use std::collections::BTreeMap;

use crate::diagnostic::Diagnostic;
use crate::parse::{in_order, source_of};

pub use report::{ImportEntry, ImportReport, ImportVerdict};

/// Whose configuration is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dialect {
    /// Shaping files of KumoMTA: TOML.
    Kumomta,
    /// The configuration of PowerMTA: `<domain>` blocks and directives.
    Powermta,
    /// `main.cf`, `master.cf` and the text form of the transport and TLS policy tables of Postfix.
    Postfix,
}

impl Dialect {
    /// Every dialect.
    pub const ALL: [Self; 3] = [Self::Kumomta, Self::Powermta, Self::Postfix];

    /// The word on the command line.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Kumomta => "kumomta",
            Self::Powermta => "powermta",
            Self::Postfix => "postfix",
        }
    }

    /// The name as its makers write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kumomta => "KumoMTA",
            Self::Powermta => "PowerMTA",
            Self::Postfix => "Postfix",
        }
    }
}

/// A file to be imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportFile {
    /// Its name, used in messages; Postfix's files are told apart by its last part.
    pub name: String,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// What the files themselves do not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportOptions {
    /// `public_id`s of the sources that the files name. What is said of a source without an entry is not taken;
    /// PowerMTA's `<virtual-mta>`s without one are numbered in their order.
    pub sources: BTreeMap<String, u32>,
    /// MX hosts of recipient domains, lower-case. Those that the shipped rules name need no entry.
    pub mx_hosts: BTreeMap<String, Vec<String>>,
    /// `version` of the files that have one.
    pub version: String,
    /// The names under which the files will be written, for the fragment of the configuration.
    pub names: ImportNames,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            sources: BTreeMap::new(),
            mx_hosts: BTreeMap::new(),
            version: "imported".to_owned(),
            names: ImportNames::default(),
        }
    }
}

/// Names of the files that come out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportNames {
    /// MX rules.
    pub mx: String,
    /// Domain rules.
    pub domains: String,
    /// Reaction rules.
    pub reactions: String,
}

impl Default for ImportNames {
    fn default() -> Self {
        Self {
            mx: "mx.toml".to_owned(),
            domains: "mx.domains.toml".to_owned(),
            reactions: "mx.reactions.toml".to_owned(),
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// A file of local MX rules; `None`: there is nothing for one.
    pub mx: Option<String>,
    /// A file of local domain rules.
    pub domains: Option<String>,
    /// A file of local reaction rules.
    pub reactions: Option<String>,
    /// Sections for the configuration, to be put in by hand.
    pub config: Option<String>,
    /// What became of every directive.
    pub report: ImportReport,
    /// Recipient domains whose MX hosts would have to be known for a rule.
    pub unknown_domains: Vec<String>,
}

/// Files that are imported together, at most, with those that they include.
const MOST_FILES: usize = 64;

/// Reads the file of this name that another file includes. The name is relative and has no `..`.
pub type ReadInclude<'a> = dyn FnMut(&str) -> Result<Vec<u8>, String> + 'a;

/// Translates files of one dialect. They are read in their order; a later one overrides an earlier one where the
/// dialect has it so.
///
/// `include` is asked for files that others include (PowerMTA only).
///
/// # Errors
///
/// Every fault of the files as files, with its place; at least one and at most 201. A file that is of another product
/// by the look of its lines, or of which nothing is known, is one fault. No line that may hold a secret is shown.
pub fn import(
    dialect: Dialect,
    files: &[ImportFile],
    options: &ImportOptions,
    include: &mut ReadInclude<'_>,
) -> Result<Imported, Vec<Diagnostic>> {
    if let Some(excess) = files.get(MOST_FILES) {
        let message = format!("more than {MOST_FILES} files");
        let help = "import them in parts";
        return Err(vec![Diagnostic::in_text(&excess.name, "", 0..0, message, help)]);
    }
    let mut draft = draft::Draft::new(dialect, options);
    let mut faults = Vec::new();
    let mut sources = Vec::new();
    for file in files {
        match source_of(&file.name, &file.bytes) {
            Ok(source) => match kind::of_another_kind(dialect, &file.name, source.text) {
                Some(fault) => faults.push(fault),
                None => sources.push(source.without_secrets()),
            },
            Err(found) => faults.extend(found),
        }
    }
    if faults.is_empty() {
        faults = match dialect {
            Dialect::Kumomta => kumomta::read(&mut draft, &sources),
            Dialect::Powermta => powermta::read(&mut draft, &sources, include),
            Dialect::Postfix => postfix::read(&mut draft, &sources),
        };
    }
    if faults.is_empty()
        && draft.knows_nothing()
        && !sources.iter().any(|source| kind::looks_like(dialect, source.text))
        && let Some(file) = files.first()
    {
        let message = format!("nothing in it is known as a configuration of {}", dialect.name());
        let help = "see what the file is; mailweir import knows KumoMTA, PowerMTA and Postfix";
        faults.push(Diagnostic::in_text(&file.name, "", 0..0, message, help));
    }
    if !faults.is_empty() {
        return Err(in_order(faults));
    }
    Ok(render::finish(draft))
}

#[cfg(test)]
mod tests;
