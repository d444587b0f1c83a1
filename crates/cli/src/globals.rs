//! What all commands share: the configuration file and the form of the output.

use std::io::ErrorKind::NotFound;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use mail::time::Timestamp;
use node::config::{Config, ConfigError, SecretSource};
use node::deliverability::{Layer, MxBase};
use node::dry_run::Recorded;
use rules::{Levels, RuleFile, RuleSet};

use crate::exit::Failure;

/// Where the configuration is looked for without `--config`.
pub const PLACES: [&str; 2] = ["mailweir.toml", "/etc/mailweir/mailweir.toml"];

/// Options of every command.
#[derive(Clone, Debug, Default, Args)]
pub struct Globals {
    /// The configuration; without it ./mailweir.toml, then /etc/mailweir/mailweir.toml
    #[arg(long, global = true, value_name = "FILE", env = "MAILWEIR_CONFIG")]
    pub config: Option<PathBuf>,
    /// Form of the output: for people, or JSON for programs
    #[arg(long, global = true, value_enum, default_value_t)]
    pub format: Format,
}

/// Form of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs; of commands that answer many times, one object a line.
    #[value(alias = "jsonl")]
    Json,
}

impl Globals {
    /// Whether JSON is asked for.
    #[must_use]
    pub fn json(&self) -> bool {
        self.format == Format::Json
    }

    /// The file of the configuration, if one is named or found.
    #[must_use]
    pub fn config_path(&self) -> Option<PathBuf> {
        let found = || PLACES.iter().map(PathBuf::from).find(|path| path.exists());
        self.config.clone().or_else(found)
    }

    /// The configuration with its secrets.
    ///
    /// # Errors
    /// There is none, or it has faults; all of them, with pictures.
    pub fn load(&self) -> Result<Config, Failure> {
        let path = self.config_path().ok_or_else(|| {
            Failure::environment(format!(
                "no configuration: neither --config nor {} is there; `mailweir init` writes one",
                PLACES.join(" nor ")
            ))
        })?;
        Config::load(&path).map_err(|fault| Failure::environment(fault.to_string()))
    }

    /// The configuration, if there is one, for commands that need none of its secrets: whoever may
    /// read the configuration need not be able to read the keys. A secret of this configuration is
    /// not the real one.
    ///
    /// # Errors
    /// It has faults; all of them, with pictures.
    pub fn load_without_secrets(&self) -> Result<Option<Config>, Failure> {
        let Some(path) = self.config_path() else { return Ok(None) };
        let failure = |fault: ConfigError| Failure::environment(fault.to_string());
        let readable = std::fs::metadata(&path)
            .is_ok_and(|about| about.is_file() && about.len() <= node::config::MAX_FILE_BYTES);
        let text = readable.then(|| std::fs::read_to_string(&path).ok()).flatten();
        let Some(text) = text else {
            // What is wrong with the file is said best by whoever knows all that may be.
            return Config::load(&path).map(Some).map_err(failure);
        };
        let folder = path.parent().unwrap_or(Path::new(""));
        // Long enough for every check and different for each secret.
        let secret = |source: SecretSource<'_>| {
            let text = format!("a secret that is not needed: {source:?}");
            // Tokens take visible ASCII alone.
            let visible = |letter: char| if letter.is_ascii_graphic() { letter } else { '-' };
            Ok(node::config::Secret::new(&text.chars().map(visible).collect::<String>()))
        };
        Config::parse_with(&text, &path.display().to_string(), folder, &secret)
            .map(Some)
            .map_err(failure)
    }
}

/// Local rules before those below them, at these levels.
///
/// # Errors
/// The file cannot be read or has faults; all of them, with pictures.
pub fn rule_set(
    local: Option<&Path>,
    below: &RuleFile,
    levels: &Levels,
) -> Result<RuleSet, Failure> {
    let local = local.map(local_rules).transpose()?;
    let file = RuleFile::combine(local.as_ref(), below);
    Ok(RuleSet::compile(&file, levels, 1))
}

/// The MX rules that a node of this configuration has below the operator's own: those of the bundle in force as its
/// data folder says, whether or not the node runs; else those shipped with the program. Where the folder cannot be read,
/// that is said on standard error.
#[must_use]
pub fn mx_below(config: Option<&Config>) -> MxBase {
    let shipped = || Layer::default().mx_base();
    let Some(config) = config else { return shipped() };
    let database = config.data_dir.join(store::DATABASE_FILE);
    if matches!(std::fs::metadata(database), Err(fault) if fault.kind() == NotFound) {
        // No node has ever run here, so no bundle can be in force.
        return shipped();
    }
    let now = Timestamp::from_micros(node::clock::read_clocks().wall);
    let found = Recorded::open(&config.data_dir, Some(config.clone()), now);
    found.and_then(|recorded| recorded.mx_base()).unwrap_or_else(|fault| {
        crate::output::say(&format!(
            "note: which bundle of rules is in force cannot be read, so the shipped MX rules are shown: {fault}"
        ));
        shipped()
    })
}

/// Whose the rules are.
#[must_use]
pub fn whose(below: &MxBase) -> String {
    match below.version() {
        Some(version) => format!("those of bundle {version}"),
        None => "the shipped ones".to_owned(),
    }
}

/// Reads a file of local rules.
fn local_rules(path: &Path) -> Result<RuleFile, Failure> {
    let bytes = read_bounded(path)?;
    rules::parse_local(&path.display().to_string(), &bytes).map_err(|faults| {
        Failure::environment(format!(
            "{}\n{} in {}",
            crate::mx::render(&faults),
            crate::output::count(faults.len() as u64, "fault"),
            path.display()
        ))
    })
}

/// The octets of a file, at most 64 MiB.
///
/// # Errors
/// It cannot be read, or is larger.
pub fn read_bounded(path: &Path) -> Result<Vec<u8>, Failure> {
    const MOST: u64 = 64 << 20;
    let shown = path.display();
    let cannot =
        |why: &dyn std::fmt::Display| Failure::environment(format!("cannot read {shown}: {why}"));
    let about = std::fs::metadata(path).map_err(|fault| cannot(&fault))?;
    if about.is_dir() {
        return Err(cannot(&"it is a folder"));
    }
    // The shell's `<(...)` is a pipe and has no length: it is read up to the bound, as a device is.
    let mut octets = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MOST + 1).read_to_end(&mut octets))
        .map_err(|fault| cannot(&fault))?;
    if octets.len() as u64 > MOST {
        return Err(cannot(&format_args!("it is larger than {MOST} bytes")));
    }
    Ok(octets)
}
