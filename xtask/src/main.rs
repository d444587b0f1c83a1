//! Chores of the project: `cargo xtask tidy | simulate | bench | evaluate`.

mod bench;
mod evaluate;
mod tidy;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};

const HELP: &str = "\
cargo xtask tidy                     check what the compiler does not
cargo xtask simulate --seeds N       run N seeds of the simulator in release mode
cargo xtask simulate --seed K        replay one seed, with --verbose step by step
cargo xtask simulate --shrink K      make a failing seed small
cargo xtask bench path [--quick]     measure the mail path; writes a table and JSON
cargo xtask bench bounce [--quick]   measure replies and bounce mails judged per core
cargo xtask evaluate --corpus DIR     accuracy on labelled bounce mails (labels.jsonl and eml/)";

/// The folder of the workspace.
fn workspace() -> PathBuf {
    let mut folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    folder.pop();
    folder
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("xtask: {fault:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> anyhow::Result<()> {
    match arguments.split_first() {
        Some((task, [])) if task == "tidy" => {
            let faults = tidy::check(&workspace())?;
            for fault in &faults {
                eprintln!("{fault}");
            }
            if !faults.is_empty() {
                bail!("{} places are not tidy", faults.len());
            }
            Ok(())
        }
        Some((task, rest)) if task == "simulate" => simulate(rest),
        Some((task, rest)) if task == "bench" => bench::run(&workspace(), rest),
        Some((task, rest)) if task == "evaluate" => evaluate::run(&workspace(), rest),
        _ => {
            println!("{HELP}");
            Ok(())
        }
    }
}

/// Runs the simulator's own program in release mode.
fn simulate(rest: &[String]) -> anyhow::Result<()> {
    let status = Command::new(env!("CARGO"))
        .current_dir(workspace())
        .args(["run", "--quiet", "--release", "--package", "mailweir-simulator"])
        .args(["--example", "simulate", "--"])
        .args(rest)
        .status()
        .context("cargo cannot be started")?;
    if !status.success() {
        bail!("the simulator found a violation or could not run");
    }
    Ok(())
}
