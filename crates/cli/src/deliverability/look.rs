//! `mailweir deliverability verify`, `show` and `diff`: bundles in files.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use mail::time::Timestamp;
use node::deliverability::client_version;
use node::deliverability::keys::{holds, read_public};
use rules::bundle::{
    Admission, BundleFault, Changed, Difference, FieldChange, InForce, KindDifference, Sealed,
    Trust, difference,
};
use serde::Serialize;

use super::{broken, read_bundle, refused, split};
use crate::exit::{Ended, Failure, Outcome};
use crate::globals::Globals;
use crate::output::{self, count, number, print, print_json, printable};

#[derive(Debug, Args)]
pub(super) struct VerifyArguments {
    /// The bundle
    file: PathBuf,
    /// A trusted public key: its digits, or the file that keygen wrote; may be repeated
    #[arg(long = "public-key", value_name = "KEY", required = true)]
    keys: Vec<String>,
    /// The bundle in force: the checked one must be newer
    #[arg(long, value_name = "FILE")]
    in_force: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct ShowArguments {
    /// The bundle. Its signature is not checked: see `verify`
    file: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct DiffArguments {
    /// The bundle before
    from: PathBuf,
    /// The bundle after
    to: PathBuf,
}

/// A bundle, as it is shown.
#[derive(Serialize)]
pub(super) struct Shown {
    version: u64,
    created: String,
    expires: String,
    minimum_client: String,
    key: String,
    digest: String,
    statements: Vec<String>,
    sections: Vec<ShownSection>,
    notes: String,
}

#[derive(Serialize)]
struct ShownSection {
    kind: &'static str,
    octets: u64,
    /// Rules, levels, texts or entries.
    entries: usize,
}

impl Shown {
    pub(super) fn of(sealed: &Sealed<'_>) -> Self {
        let manifest = sealed.manifest();
        let section = |section: &rules::bundle::Section| {
            let text = sealed.sections().get(&section.kind).copied().unwrap_or_default();
            let of_file = || text.parse::<toml::Table>().unwrap_or_default();
            let entries = match section.kind {
                kind if kind.is_rules() => {
                    of_file().get("rule").and_then(toml::Value::as_array).map_or(0, Vec::len)
                }
                rules::bundle::Kind::Levels => {
                    of_file().values().filter(|value| value.is_table()).count()
                }
                _ => text.lines().count(),
            };
            ShownSection { kind: section.kind.word(), octets: section.octets, entries }
        };
        Self {
            version: manifest.version,
            created: manifest.created_at().to_string(),
            expires: manifest.expires_at().to_string(),
            minimum_client: manifest.minimum_client.to_string(),
            key: sealed.key().to_string(),
            digest: sealed.digest().iter().map(|octet| format!("{octet:02x}")).collect(),
            statements: manifest
                .keys
                .iter()
                .map(|statement| format!("{} -> {}", statement.old, statement.new.id()))
                .collect(),
            sections: manifest.sections.iter().map(section).collect(),
            notes: manifest.notes.clone(),
        }
    }

    pub(super) fn words(&self) -> String {
        let mut words = format!(
            "bundle {}, made {}, expires {}\nsigned by key {}, for clients from {} on\nSHA-256 {}\n",
            self.version, self.created, self.expires, self.key, self.minimum_client, self.digest
        );
        for statement in &self.statements {
            let _ = writeln!(words, "key {statement}");
        }
        if !self.notes.is_empty() {
            let _ = writeln!(words, "{}", printable(&self.notes));
        }
        let mut table = output::table(&["kind", ">entries", ">octets"]);
        for section in &self.sections {
            let row =
                [section.kind.to_owned(), number(section.entries as u64), number(section.octets)];
            table.add_row(row);
        }
        let _ = write!(words, "\n{table}\n");
        words
    }
}

/// What `deliverability verify --format json` answers.
#[derive(Serialize)]
struct Verified {
    file: String,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    bundle: Option<Shown>,
    /// The name of the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    words: Option<String>,
    /// Every faulty place of the rules.
    faults: Vec<String>,
}

pub(super) fn verify(globals: &Globals, arguments: &VerifyArguments) -> Ended {
    let keys = arguments.keys.iter().map(|key| read_public(key).map_err(broken));
    let trust = Trust::new(keys.collect::<Result<Vec<_>, Failure>>()?, Trust::default());
    let bytes = read_bundle(&arguments.file)?;
    let in_force = match &arguments.in_force {
        None => None,
        Some(path) => {
            let bytes = read_bundle(path)?;
            let sealed = split(path, &bytes)?;
            Some(InForce { version: sealed.manifest().version, digest: *sealed.digest() })
        }
    };
    let now = Timestamp::from_micros(node::clock::read_clocks().wall);
    let checked = |sealed: &Sealed<'_>| -> Result<Admission, BundleFault> {
        sealed.verify(&trust, &holds)?;
        let admission = sealed.admit(now, client_version(), in_force)?;
        sealed.contents()?;
        Ok(admission)
    };
    let outcome =
        Sealed::split(&bytes).and_then(|sealed| checked(&sealed).map(|found| (sealed, found)));
    match outcome {
        Ok((sealed, admission)) => {
            let bundle = Shown::of(&sealed);
            if globals.json() {
                let file = arguments.file.display().to_string();
                print_json(&Verified {
                    file,
                    ok: true,
                    bundle: Some(bundle),
                    fault: None,
                    words: None,
                    faults: Vec::new(),
                })?;
                return Ok(Outcome::Fine);
            }
            let end = match admission {
                Admission::New => "ok: a client would apply it",
                Admission::InForce => "ok: it is the one in force",
            };
            print(&format!("{}\n{end}", bundle.words()))?;
            Ok(Outcome::Fine)
        }
        Err(fault) if globals.json() => {
            let faults = match &fault {
                BundleFault::Rules { faults, .. } => {
                    faults.iter().map(ToString::to_string).collect()
                }
                _ => Vec::new(),
            };
            print_json(&Verified {
                file: arguments.file.display().to_string(),
                ok: false,
                bundle: None,
                fault: Some(fault.name()),
                words: Some(fault.to_string()),
                faults,
            })?;
            Ok(Outcome::Negative)
        }
        Err(fault) => Err(refused(&arguments.file, &fault)),
    }
}

pub(super) fn show(globals: &Globals, arguments: &ShowArguments) -> Ended {
    let bytes = read_bundle(&arguments.file)?;
    let shown = Shown::of(&split(&arguments.file, &bytes)?);
    match globals.json() {
        true => print_json(&shown)?,
        false => print(&shown.words())?,
    }
    Ok(Outcome::Fine)
}

pub(super) fn diff(globals: &Globals, arguments: &DiffArguments) -> Ended {
    let (from, to) = (read_bundle(&arguments.from)?, read_bundle(&arguments.to)?);
    let (from, to) = (split(&arguments.from, &from)?, split(&arguments.to, &to)?);
    let found = difference(from.sections(), to.sections());
    if globals.json() {
        print_json(&serde_json::json!({
            "from": from.manifest().version,
            "to": to.manifest().version,
            "kinds": found.kinds,
        }))?;
    } else {
        let (one, other) = (from.manifest().version, to.manifest().version);
        print(&format!("bundle {one} -> {other}\n{}", difference_words(&found)))?;
    }
    Ok(Outcome::Fine)
}

/// A difference for people.
#[must_use]
pub(super) fn difference_words(difference: &Difference) -> String {
    if difference.is_empty() {
        return "nothing changes\n".to_owned();
    }
    difference.kinds.iter().map(kind_words).collect()
}

/// Names listed in one line.
const NAMES: usize = 20;

fn kind_words(kind: &KindDifference) -> String {
    let mut words = format!("\n{}\n", kind.kind);
    for (what, total, names) in
        [("added", kind.added_count, &kind.added), ("removed", kind.removed_count, &kind.removed)]
    {
        if total > 0 {
            let shown: Vec<String> = names.iter().take(NAMES).map(|name| printable(name)).collect();
            let more = if total > shown.len() { ", ..." } else { "" };
            let _ =
                writeln!(words, "  {} {what}: {}{more}", number(total as u64), shown.join(", "));
        }
    }
    for Changed { name, fields } in &kind.changed {
        let _ = writeln!(words, "  changed: {}", printable(name));
        for FieldChange { field, from, to } in fields {
            let value = |value: &Option<String>| {
                value.as_deref().map_or_else(|| "(not stated)".to_owned(), printable)
            };
            let _ = writeln!(words, "    {field}: {} -> {}", value(from), value(to));
        }
    }
    for moved in &kind.moved {
        let name = printable(&moved.name);
        let _ = writeln!(words, "  moved: {name} from place {} to {}", moved.from, moved.to);
    }
    if kind.changed.len() > NAMES {
        let _ = writeln!(words, "  {} in all", count(kind.changed.len() as u64, "change"));
    }
    words
}
