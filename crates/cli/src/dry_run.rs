//! What dry runs share: the file that is tried, and the data folder that is looked at.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use mail::time::Timestamp;
use node::deliverability::Layer;
use node::dry_run::Recorded;
use rules::bundle::Sealed;

use crate::deliverability::{read_bundle, refused};
use crate::exit::Failure;
use crate::globals::{Globals, read_bounded};
use crate::output::{count, printable};

/// Octets with which every bundle begins.
const BUNDLE: &[u8] = b"mailweir-bundle ";

/// Seconds of a day.
const DAY: u64 = 86_400;

/// Whose records.
#[derive(Debug, Args)]
pub struct RecordedArguments {
    /// The data folder [default: that of the configuration]
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
}

/// What is tried.
pub enum Proposed {
    /// A file of rules of one kind, with its name.
    File(String, Vec<u8>),
    /// A bundle. Its signature is not checked: what is only tried need not be trusted.
    Bundle {
        /// Its version.
        version: u64,
        /// Its rules.
        layer: Box<Layer>,
    },
}

impl Proposed {
    /// Reads a file of rules, or a bundle.
    ///
    /// # Errors
    /// It cannot be read, or the bundle has faults.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let octets = read_bounded(path)?;
        if !octets.starts_with(BUNDLE) {
            return Ok(Self::File(path.display().to_string(), octets));
        }
        let octets = read_bundle(path)?;
        let sealed = Sealed::split(&octets).map_err(|fault| refused(path, &fault))?;
        let layer = Layer::proposed(&sealed).map_err(|fault| refused(path, &fault))?;
        Ok(Self::Bundle { version: sealed.manifest().version, layer: Box::new(layer) })
    }
}

/// Opens what is recorded.
///
/// # Errors
/// There is no configuration and no folder, or nothing that this program can read in it.
pub fn open(globals: &Globals, arguments: &RecordedArguments) -> Result<Recorded, Failure> {
    let config = globals.load_without_secrets()?;
    let folder = match (&arguments.data, &config) {
        (Some(folder), _) => folder.clone(),
        (None, Some(config)) => config.data_dir.clone(),
        (None, None) => {
            return Err(Failure::environment(
                "no configuration says where the records are: give --data FOLDER",
            ));
        }
    };
    let now = Timestamp::from_micros(node::clock::read_clocks().wall);
    Recorded::open(&folder, config, now).map_err(|fault| Failure::environment(fault.to_string()))
}

/// The moment so many days before.
#[must_use]
pub fn days_before(now: Timestamp, days: u32) -> Timestamp {
    let span = Duration::from_secs(u64::from(days) * DAY).as_micros();
    Timestamp::from_micros(now.as_micros().saturating_sub(u64::try_from(span).unwrap_or(u64::MAX)))
}

/// That less is recorded than was asked for; `None`: enough is.
#[must_use]
pub fn too_short(
    asked: Option<u32>,
    recorded_from: Option<Timestamp>,
    now: Timestamp,
) -> Option<String> {
    let days = asked?;
    let from = recorded_from.filter(|from| *from > days_before(now, days))?;
    Some(format!(
        "less is recorded than was asked for ({}): nothing before {from}",
        count(days.into(), "day")
    ))
}

/// What is tried, for people: a bundle or a file of rules of this kind, and what else is.
pub fn tried(
    kind: &str,
    rules: Option<&str>,
    bundle: Option<u64>,
    besides: Option<String>,
) -> String {
    let rules = rules.map(|file| match bundle {
        Some(version) => format!("bundle {version} ({file})"),
        None => format!("{kind} {file}"),
    });
    rules.into_iter().chain(besides).collect::<Vec<_>>().join(", ")
}

/// The first letters of a text, in one line.
pub fn cut(text: &str, most: usize) -> String {
    let flat = printable(text).replace('\n', " ");
    match flat.chars().count() > most {
        true => flat.chars().take(most - 1).chain(['…']).collect(),
        false => flat,
    }
}

/// How many of so many rows a table has not; empty: it has all.
pub fn more(all: u64, shown: usize, what: &str) -> String {
    match all.saturating_sub(shown as u64) {
        0 => String::new(),
        more => format!("... and {} (--format json)\n", count(more, &format!("more {what}"))),
    }
}

/// What stands below every report of a dry run.
pub fn ending(notes: &[String]) -> String {
    let notes: String = notes.iter().map(|note| format!("note: {note}\n")).collect();
    notes + "Nothing was changed.\n"
}
