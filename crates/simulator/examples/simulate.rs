//! Runs simulated worlds: `--seeds N [--from K]`, or one again: `--seed K [--verbose]`, or makes a failing one small:
//! `--shrink K`, or the world of a scenario: `--scenario FILE [--verbose]`, or worlds of many days: `--days N [--from K]`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut seeds, mut from, mut seed, mut verbose) = (1_000, 1, None, false);
    let (mut small, mut days, mut text) = (None, None, None);
    while let Some(argument) = arguments.next() {
        if argument == "--scenario" {
            text = Some(arguments.next().unwrap_or_default());
            continue;
        }
        let mut number = || arguments.next().and_then(|text| text.parse::<u64>().ok());
        let read = match argument.as_str() {
            "--seeds" => number().map(|value| seeds = value),
            "--from" => number().map(|value| from = value),
            "--seed" => number().map(|value| seed = Some(value)),
            "--shrink" => number().map(|value| small = Some(value)),
            "--days" => number().map(|value| days = Some(value)),
            "--verbose" => {
                verbose = true;
                Some(())
            }
            _ => None,
        };
        if read.is_none() {
            eprintln!(
                "usage: simulate [--seeds N] [--from K] | --seed K [--verbose] | --shrink K | --scenario FILE [--verbose] | --days N [--from K]"
            );
            return ExitCode::from(2);
        }
    }
    if let Some(file) = text {
        return scenario(&file, verbose);
    }
    let guilty = match (days, small, seed) {
        (Some(days), ..) => live_days(from, days),
        (None, Some(seed), _) => shrink(seed),
        (None, None, Some(seed)) => replay(seed, verbose),
        (None, None, None) => many(from, seeds),
    };
    if guilty { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn shrink(seed: u64) -> bool {
    let plan = mailweir_simulator::Plan::default();
    let Some((cuts, outcome)) = mailweir_simulator::shrink(seed, &plan) else {
        println!("seed {seed} holds what must always hold");
        return false;
    };
    println!("{outcome:#?}\nleft out: {cuts:?}\nas a scenario, for crates/simulator/scenarios/:\n");
    println!("{}", mailweir_simulator::scenario(seed, &plan, &cuts));
    true
}

fn scenario(file: &str, verbose: bool) -> ExitCode {
    let text = std::fs::read_to_string(file).map_err(|fault| fault.to_string());
    match text.and_then(|text| mailweir_simulator::replay_scenario(&text, verbose)) {
        Ok(lived) => match show(lived) {
            true => ExitCode::FAILURE,
            false => ExitCode::SUCCESS,
        },
        Err(fault) => {
            eprintln!("{file}: {fault}");
            ExitCode::from(2)
        }
    }
}

fn replay(seed: u64, verbose: bool) -> bool {
    show(mailweir_simulator::replay(seed, verbose))
}

fn show((outcome, lines): (mailweir_simulator::Outcome, Vec<String>)) -> bool {
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

fn live_days(from: u64, wanted: u64) -> bool {
    let plan = mailweir_simulator::DaysPlan::default();
    let report = mailweir_simulator::days(from, wanted, &plan);
    for text in &report.violations {
        println!("{text}");
    }
    println!(
        "{:.0} days in {} worlds: {} messages, {} MAIL FROM seen, {} of the delivery log audited, {} budgets compared, {} looks at the ledger; {:.1} days/s",
        report.days,
        report.worlds,
        report.messages,
        report.mails,
        report.audited,
        report.budgets,
        report.looks,
        report.days_per_second
    );
    let done: Vec<String> =
        report.done.iter().map(|(name, count)| format!("{name} {count}")).collect();
    println!("{}", done.join(", "));
    println!(
        "| limit | judged | took the last place | fullest window | excess |\n|---|--:|--:|--:|--:|"
    );
    for kept in &report.limits {
        let (most, limit) = kept.most;
        println!(
            "| {} | {} | {} | {most} of {limit} | {} |",
            kept.limit, kept.judged, kept.last_places, kept.excess
        );
    }
    println!("{} violations, excess {}", report.violations.len(), report.excess());
    !report.violations.is_empty() || report.excess() > 0
}
