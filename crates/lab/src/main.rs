//! `mailweir-lab`: the mail internet on loopback as a program of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    match mailweir_lab::command::run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("mailweir-lab: {fault:#}");
            ExitCode::FAILURE
        }
    }
}
