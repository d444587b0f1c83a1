//! `mailweir lab`: a mail internet on loopback, usable alone.

use clap::Args;

use crate::exit::{Ended, Outcome};
use crate::globals::Globals;

/// Words that name a world themselves; then `--config` is not the lab's.
const WORLDS: [&str; 6] = ["--demo", "--bench-world", "print-demo", "bench", "load", "help"];

/// Arguments of `mailweir lab`: those of the lab's own program.
#[derive(Debug, Args)]
pub struct LabArguments {
    /// `--config FILE | --demo SEED | --bench-world`, `--report FILE`, `--journal FILE`; or
    /// `print-demo`, `bench`, `load`; `help` shows all
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "WORDS")]
    words: Vec<String>,
}

/// Carries `mailweir lab` out.
pub fn run(globals: &Globals, arguments: &LabArguments) -> Ended {
    let mut words = arguments.words.clone();
    // `--config` is an option of every command; here it names the lab's world.
    if let Some(config) = &globals.config
        && !words.iter().any(|word| WORLDS.contains(&word.as_str()))
    {
        words.extend(["--config".into(), config.display().to_string()]);
    }
    lab::command::run(&words)?;
    Ok(Outcome::Fine)
}
