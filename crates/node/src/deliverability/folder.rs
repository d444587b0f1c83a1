//! The folder that a bundle is published from: one file for each kind ([`Kind::file_name`]).
//!
//! Files of rules go into the bundle as they are. The two lists may be written as people have them: a
//! qualified text as a server said it, and an address to suppress as itself; they are normalised, hashed,
//! sorted and each kept once. A file that is absent leaves its kind out; other files are not looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use engine::quarantine::Suppressed;
use rules::bounce::normalise;
use rules::bundle::{Kind, KnownText, LARGEST_BUNDLE};

/// What is wrong with a folder.
#[derive(Debug, thiserror::Error)]
pub enum FolderFault {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {what}", path.display())]
    Faulty {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// There is nothing to publish.
    #[error("{} has none of the files {}", path.display(), Kind::ALL.map(Kind::file_name).join(", "))]
    Empty {
        /// Which.
        path: PathBuf,
    },
}

/// Reads the sections of a bundle from a folder.
///
/// # Errors
/// A file that cannot be read, is larger than a bundle, or a line of a list that is not understood.
pub fn read(folder: &Path) -> Result<BTreeMap<Kind, String>, FolderFault> {
    let mut sections = BTreeMap::new();
    for kind in Kind::ALL {
        let path = folder.join(kind.file_name());
        let Some(text) = read_text(&path)? else { continue };
        let faulty = |what: String| FolderFault::Faulty { path: path.clone(), what };
        let text = match kind {
            Kind::Qualification => qualifications(&text).map_err(faulty)?,
            Kind::Suppression => suppression(&text).map_err(faulty)?,
            _ => text,
        };
        sections.insert(kind, text);
    }
    match sections.is_empty() {
        true => Err(FolderFault::Empty { path: folder.to_owned() }),
        false => Ok(sections),
    }
}

/// The text of a file; `None`: it is not there.
fn read_text(path: &Path) -> Result<Option<String>, FolderFault> {
    let unreadable = |source| FolderFault::Unreadable { path: path.to_owned(), source };
    let about = match std::fs::metadata(path) {
        Err(fault) if fault.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(unreadable)?,
    };
    if !about.is_file() || about.len() > LARGEST_BUNDLE as u64 {
        let what = format!("not a file of at most {LARGEST_BUNDLE} octets");
        return Err(FolderFault::Faulty { path: path.to_owned(), what });
    }
    std::fs::read_to_string(path).map(Some).map_err(unreadable)
}

/// Lines with a number, empty ones and comments left out.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = (1..).zip(text.lines().map(str::trim));
    numbered.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// Texts, normalised and sorted. One text with two meanings is a fault.
fn qualifications(text: &str) -> Result<String, String> {
    let mut known: BTreeMap<String, (usize, KnownText)> = BTreeMap::new();
    for (number, line) in lines(text) {
        let mut one: KnownText =
            serde_json::from_str(line).map_err(|fault| format!("line {number}: {fault}"))?;
        one.text = normalise(&one.text);
        if let Some((first, other)) = known.get(&one.text)
            && *other != one
        {
            return Err(format!("line {number} says something else of the text of line {first}"));
        }
        known.entry(one.text.clone()).or_insert((number, one));
    }
    let line = |(_, one): (usize, KnownText)| {
        serde_json::to_string(&one).map_err(|fault| fault.to_string())
    };
    Ok(known.into_values().map(line).collect::<Result<Vec<_>, _>>()?.join("\n") + "\n")
}

/// Hashes and domains, sorted.
fn suppression(text: &str) -> Result<String, String> {
    let mut entries = BTreeSet::new();
    for (number, line) in lines(text) {
        let entry: Suppressed = line.parse().map_err(|fault| format!("line {number}: {fault}"))?;
        entries.insert(entry.to_string());
    }
    Ok(entries.into_iter().map(|entry| entry + "\n").collect())
}
