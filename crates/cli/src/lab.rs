//! `mailweir lab`: a mail internet on loopback, usable alone.

use clap::Args;

use crate::exit::{Ended, Outcome};

/// Arguments of `mailweir lab`: those of the lab's own program.
#[derive(Debug, Args)]
pub struct LabArguments {
    /// `--config FILE | --demo SEED | --bench-world`, `--report FILE`, `--journal FILE`; or
    /// `print-demo`, `bench`, `load`; `help` shows all
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "WORDS")]
    words: Vec<String>,
}

/// Carries `mailweir lab` out.
pub fn run(arguments: &LabArguments) -> Ended {
    lab::command::run(&arguments.words)?;
    Ok(Outcome::Fine)
}
