//! `mailweir bounce`: bounce mails and the rules for them. Only `simulate`, which tries rules on what is recorded, needs more
//! than its files.

mod classify;
mod simulate;

pub(crate) use classify::evidence;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use rules::bounce::{BounceRuleFile, shipped_bounce_rules};
use serde::Serialize;

use crate::exit::{Ended, Failure, Outcome};
use crate::globals::{Globals, read_bounded};
use crate::mx::render;
use crate::output::{self, count, print, print_json};

/// `mailweir bounce`
#[derive(Debug, Args)]
pub struct BounceArguments {
    #[command(subcommand)]
    command: BounceCommand,
}

#[derive(Debug, Subcommand)]
enum BounceCommand {
    /// Say of mails whether they are bounces, of whom, and what the failure means
    ///
    /// Answers one line per recipient found, and one for a mail in which none was found; with
    /// --format jsonl one object a line.
    Classify(classify::ClassifyArguments),
    /// Try bounce rules, a bundle or a quarantine policy on what is recorded; nothing is changed
    #[command(long_about = simulate::LONG_ABOUT)]
    Simulate(simulate::SimulateArguments),
    /// The rules that say what replies and bounces mean
    Rules(RulesArguments),
}

#[derive(Debug, Args)]
struct RulesArguments {
    #[command(subcommand)]
    command: RulesCommand,
}

#[derive(Debug, Subcommand)]
enum RulesCommand {
    /// Check a file of bounce rules: every fault with its line [default: the shipped rules]
    Check(CheckArguments),
}

#[derive(Debug, Args)]
struct CheckArguments {
    /// The file
    file: Option<PathBuf>,
}

/// Carries the command out.
///
/// # Errors
/// See [`Failure`].
pub fn run(globals: &Globals, arguments: &BounceArguments) -> Ended {
    match &arguments.command {
        BounceCommand::Classify(arguments) => classify::run(globals, arguments),
        BounceCommand::Simulate(arguments) => simulate::run(globals, arguments),
        BounceCommand::Rules(arguments) => match &arguments.command {
            RulesCommand::Check(arguments) => check(globals, arguments),
        },
    }
}

/// The rules of a file, put before the shipped ones.
///
/// # Errors
/// The file cannot be read, or has faults; all are shown.
pub fn local_rules(path: &Path) -> Result<BounceRuleFile, Failure> {
    let bytes = read_bounded(path)?;
    match BounceRuleFile::parse(&path.display().to_string(), &bytes) {
        Ok(local) => Ok(BounceRuleFile::combine(Some(&local), shipped_bounce_rules())),
        Err(faults) => Err(Failure::environment(render(&faults))),
    }
}

/// What `bounce rules check --format json` answers.
#[derive(Serialize)]
struct Checked {
    file: String,
    ok: bool,
    version: String,
    rules: usize,
    examples: usize,
    /// Names of shipped rules that rules of this file replace.
    replaces: Vec<String>,
    faults: Vec<Fault>,
}

/// A fault of a rule file in JSON.
#[derive(Serialize)]
struct Fault {
    line: u32,
    column: u32,
    message: String,
    help: String,
}

fn check(globals: &Globals, arguments: &CheckArguments) -> Ended {
    let (name, bytes) = match &arguments.file {
        Some(path) => (path.display().to_string(), read_bounded(path)?),
        None => ("rules/bounce.toml".to_owned(), rules::bounce::SHIPPED_BOUNCE_TOML.to_vec()),
    };
    let shipped = arguments.file.is_none();
    let mut checked = Checked {
        file: name,
        ok: false,
        version: String::new(),
        rules: 0,
        examples: 0,
        replaces: Vec::new(),
        faults: Vec::new(),
    };
    let words = match BounceRuleFile::parse(&checked.file, &bytes) {
        Ok(file) => {
            checked.ok = true;
            checked.version = file.version().to_string();
            checked.rules = file.rules().len();
            checked.examples =
                file.rules().iter().map(|rule| rule.matches.len() + rule.matches_not.len()).sum();
            let is_shipped = |name: &str| {
                !shipped && shipped_bounce_rules().rules().iter().any(|rule| *rule.name == *name)
            };
            let names = file.rules().iter().map(|rule| rule.name.to_string());
            checked.replaces = names.filter(|name| is_shipped(name)).collect();
            let mut words = format!(
                "{}: ok, {}, {}",
                checked.file,
                count(checked.rules as u64, "rule"),
                count(checked.examples as u64, "example")
            );
            if !checked.replaces.is_empty() {
                words += &format!(", replacing the shipped {}", checked.replaces.join(", "));
            }
            words
        }
        Err(faults) => {
            let total = count(faults.len() as u64, "fault");
            let words = format!("{}\n\n{total} in {}", render(&faults), checked.file);
            checked.faults = faults
                .into_iter()
                .map(|fault| Fault {
                    line: fault.line,
                    column: fault.column,
                    message: fault.message,
                    help: fault.help,
                })
                .collect();
            words
        }
    };
    match (globals.json(), checked.ok) {
        (true, _) => print_json(&checked)?,
        (false, true) => print(&words)?,
        (false, false) => output::say(&words),
    }
    Ok(Outcome::of(checked.ok))
}
