//! Runs simulated worlds: `--seeds N [--from K]`, or one again: `--seed K [--verbose]`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut seeds, mut from, mut seed, mut verbose) = (1_000, 1, None, false);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|text| text.parse::<u64>().ok());
        let read = match argument.as_str() {
            "--seeds" => number().map(|value| seeds = value),
            "--from" => number().map(|value| from = value),
            "--seed" => number().map(|value| seed = Some(value)),
            "--verbose" => {
                verbose = true;
                Some(())
            }
            _ => None,
        };
        if read.is_none() {
            eprintln!("usage: simulate [--seeds N] [--from K] | --seed K [--verbose]");
            return ExitCode::from(2);
        }
    }
    let guilty = match seed {
        Some(seed) => replay(seed, verbose),
        None => many(from, seeds),
    };
    if guilty { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn replay(seed: u64, verbose: bool) -> bool {
    let (outcome, lines) = mailweir_simulator::replay(seed, verbose);
    for line in lines {
        println!("{line}");
    }
    println!("{outcome:#?}");
    !outcome.violations.is_empty()
}

fn many(from: u64, seeds: u64) -> bool {
    let summary = mailweir_simulator::seeds(from, seeds);
    for text in &summary.violations {
        println!("{text}");
    }
    println!(
        "{} seeds, each twice: {} violations, {} messages, {} sent twice with cause; {:.1} seeds/s, {:.0} virtual hours/s",
        summary.seeds,
        summary.violations.len(),
        summary.messages,
        summary.duplicates,
        summary.seeds_per_second,
        summary.virtual_hours_per_second
    );
    !summary.violations.is_empty()
}
