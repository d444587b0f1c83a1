//! `mailweir deliverability publish`

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use mail::time::Timestamp;
use node::deliverability::keys::{SigningKey, read_statement};
use node::deliverability::{client_version, folder};
use rules::bundle::{
    BundleFault, ClientVersion, Draft, KeyStatement, Kind, LONGEST_LEAP, Sealed, difference,
    shipped_text,
};

use super::look::{Shown, difference_words};
use super::{broken, read_bundle, refused, split};
use crate::exit::{Ended, Failure, Outcome};
use crate::globals::Globals;
use crate::output::{print, print_json};

pub(super) const LONG_ABOUT: &str = "\
Make and sign a bundle from a folder of rules and lists

The folder has one file for each kind; a kind without a file stays as it is shipped with the clients:

  mx.toml, bounce.toml, reactions.toml, domains.toml, formats.toml   rules
  levels.toml             multipliers and caps of the levels
  qualifications.jsonl    {\"text\": ..., \"reason\": ..., \"type\": ...}, one text a line
  suppression.txt         an address, its SHA-256, a domain or *.domain a line

Everything a client checks is checked before anything is signed. With --previous the version is one more
than that of the bundle before, and what changes is shown.";

#[derive(Debug, Args)]
pub(super) struct PublishArguments {
    /// The folder
    folder: PathBuf,
    /// The private key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The file of the bundle
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
    /// The bundle published before this one
    #[arg(long, value_name = "FILE")]
    previous: Option<PathBuf>,
    /// Its version [default: one more than that of the previous bundle, else 1]
    #[arg(long = "bundle-version", value_name = "NUMBER")]
    version: Option<u64>,
    /// From when on it is not applied any more
    #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=400))]
    expires: u64,
    /// The oldest program that may apply it [default: this one]
    #[arg(long, value_name = "VERSION")]
    minimum_client: Option<ClientVersion>,
    /// A statement that a key replaces another one; repeat it, the oldest first [default: those of
    /// the previous bundle]
    #[arg(long = "statement", value_name = "FILE")]
    statements: Vec<PathBuf>,
    /// For people
    #[arg(long, value_name = "TEXT", default_value = "")]
    notes: String,
}

#[derive(Debug, Args)]
pub(super) struct BeginArguments {
    /// The folder; made if it is missing
    folder: PathBuf,
}

/// Writes each kind of rules that the program comes with; what is there already stays.
pub(super) fn begin(arguments: &BeginArguments) -> Ended {
    let folder = &arguments.folder;
    std::fs::create_dir_all(folder).map_err(|fault| {
        Failure::environment(format!("cannot make the folder {}: {fault}", folder.display()))
    })?;
    let mut words = String::new();
    for kind in Kind::ALL.into_iter().filter(|kind| kind.is_rules()) {
        let path = folder.join(kind.file_name());
        let said = if path.symlink_metadata().is_ok() {
            "is there already, left as it is"
        } else {
            write_whole(&path, shipped_text(kind).as_bytes())?;
            "written"
        };
        words += &format!("{}: {said}\n", path.display());
    }
    print(&words)?;
    Ok(Outcome::Fine)
}

pub(super) fn run(globals: &Globals, arguments: &PublishArguments) -> Ended {
    let key = SigningKey::read(&arguments.key).map_err(broken)?;
    let sections = folder::read(&arguments.folder).map_err(broken)?;
    let previous = arguments.previous.as_deref().map(read_bundle).transpose()?;
    let previous = match (&arguments.previous, &previous) {
        (Some(path), Some(bytes)) => Some(split(path, bytes)?),
        _ => None,
    };
    let version = version_of(arguments, previous.as_ref())?;
    let created = Timestamp::from_secs(node::clock::read_clocks().wall / 1_000_000);
    let draft = Draft {
        version,
        created,
        expires: created + Duration::from_secs(86_400 * arguments.expires),
        minimum_client: arguments.minimum_client.unwrap_or_else(client_version),
        keys: statements_of(arguments, previous.as_ref())?,
        notes: arguments.notes.clone(),
        sections,
    };
    let sealed = draft.seal(&key.public(), |message| key.sign(message));
    let bytes = sealed.map_err(|fault| refused(&arguments.folder, &fault))?;
    write_whole(&arguments.out, &bytes)?;
    let sealed = split(&arguments.out, &bytes)?;
    let nothing = std::collections::BTreeMap::new();
    let before = previous.as_ref().map_or(&nothing, Sealed::sections);
    let changes = difference(before, sealed.sections());
    if globals.json() {
        print_json(&serde_json::json!({
            "file": arguments.out,
            "bundle": Shown::of(&sealed),
            "changes": changes,
        }))?;
        return Ok(Outcome::Fine);
    }
    let against = match &previous {
        Some(sealed) => format!("against bundle {}", sealed.manifest().version),
        None => "against the shipped rules".to_owned(),
    };
    print(&format!(
        "{}\n{}\n{against}:\n{}",
        arguments.out.display(),
        Shown::of(&sealed).words(),
        difference_words(&changes)
    ))?;
    Ok(Outcome::Fine)
}

/// Higher than the version before.
fn version_of(arguments: &PublishArguments, previous: Option<&Sealed<'_>>) -> Result<u64, Failure> {
    let before = previous.map_or(0, |sealed| sealed.manifest().version);
    let version = arguments.version.unwrap_or(before + 1);
    let fault = if version <= before {
        BundleFault::Older { version, in_force: before }
    } else if previous.is_some() && version - before > LONGEST_LEAP {
        BundleFault::Leap { version, in_force: before }
    } else {
        return Ok(version);
    };
    Err(refused(&arguments.folder, &fault))
}

/// Those that are named, else those of the bundle before.
fn statements_of(
    arguments: &PublishArguments,
    previous: Option<&Sealed<'_>>,
) -> Result<Vec<KeyStatement>, Failure> {
    if arguments.statements.is_empty() {
        return Ok(previous.map_or_else(Vec::new, |sealed| sealed.manifest().keys.clone()));
    }
    let read = arguments.statements.iter().map(|path| read_statement(path).map_err(broken));
    read.collect()
}

/// Writes a file that is there whole or not at all.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let write = || {
        let mut file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|fault| fault.error)?;
        Ok::<_, std::io::Error>(())
    };
    write()
        .map_err(|fault| Failure::environment(format!("cannot write {}: {fault}", path.display())))
}
