//! Chores of the project: `cargo xtask tidy | simulate | bench | evaluate | fuzz | trials | faults | hours`.

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
cargo xtask simulate --scenario FILE  run the world of a scenario, with --verbose step by step
cargo xtask simulate --days N        worlds of many days: every limit, judged three times
cargo xtask bench path [--full] [--quick]  measure the mail path; writes Markdown, or JSON with --format json
cargo xtask bench bounce [--quick]   measure replies and bounce mails judged per core
cargo xtask evaluate --corpus DIR     accuracy on labelled bounce mails (labels.jsonl and eml/)
cargo xtask fuzz --minutes N [TARGET...]  each fuzz target for so many minutes; all without names
cargo xtask trials --kills N         kill -9 a node so often in campaigns; nothing may be lost
cargo xtask trials --points          kill -9 at each named point, and while recovering, three deep; minutes
cargo xtask faults                   faults of the machine that take too long for the normal tests; minutes
cargo xtask hours [--hours H]        an hourly limit on a real node for H hours of wall clock (2), with kills";

/// The folder of the workspace.
fn workspace() -> PathBuf {
    let mut folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    folder.pop();
    folder
}

/// The cargo that runs this chore: cargo names itself in `CARGO`. The one that built xtask may be gone since.
fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
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
        Some((task, rest)) if task == "fuzz" => fuzz(rest),
        Some((task, rest)) if task == "trials" => trials(rest),
        Some((task, [])) if task == "faults" => long_tests(Build::Debug, "faults::", &[]),
        Some((task, rest)) if task == "hours" => hours(rest),
        _ => {
            println!("{HELP}");
            Ok(())
        }
    }
}

/// Runs the simulator's own program in release mode.
fn simulate(rest: &[String]) -> anyhow::Result<()> {
    let status = cargo()
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

/// Runs the long forms of the kill tests.
fn trials(arguments: &[String]) -> anyhow::Result<()> {
    if let [flag] = arguments
        && flag == "--points"
    {
        return long_tests(Build::Debug, "points::", &[]);
    }
    let [flag, kills] = arguments else { bail!("say `--kills N` or `--points`\n{HELP}") };
    if flag != "--kills" {
        bail!("the options are `--kills` and `--points`, not `{flag}`");
    }
    let kills: u32 = kills.parse().context("--kills takes a whole number")?;
    long_tests(
        Build::Release,
        "many_kills_lose_nothing",
        &[("MAILWEIR_TRIALS", kills.to_string()), ("MAILWEIR_TRIAL_RECIPIENTS", "20000".into())],
    )
}

/// Runs a real node under an hourly limit for hours of wall clock.
fn hours(arguments: &[String]) -> anyhow::Result<()> {
    let hours = match arguments {
        [] => "2",
        [flag, hours] if flag == "--hours" => hours,
        _ => bail!("say `--hours H`\n{HELP}"),
    };
    let sound = hours.parse().is_ok_and(|hours: f64| (0.005..=48.0).contains(&hours));
    if !sound {
        bail!("--hours takes 0.005 to 48");
    }
    long_tests(
        Build::Release,
        "no_sliding_hour_over_its_limit",
        &[("MAILWEIR_HOURS", hours.to_owned())],
    )
}

/// How tests on the real process are built.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Build {
    Release,
    /// With debug assertions: kill points and clocks that a test sets.
    Debug,
}

/// Runs tests on the real process that take too long for every day: those whose path begins so.
fn long_tests(build: Build, name: &str, environment: &[(&str, String)]) -> anyhow::Result<()> {
    let mut command = cargo();
    command.current_dir(workspace()).args([
        "test",
        "--quiet",
        "--package",
        "mailweir",
        "--test",
        "kill",
    ]);
    if build == Build::Release {
        command.arg("--release");
    }
    let status = command
        .args(["--", "--ignored", "--nocapture", name])
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .status()
        .context("cargo cannot be started")?;
    if !status.success() {
        bail!("a trial failed");
    }
    Ok(())
}

/// Runs fuzz targets one after the other; see fuzz/README.md.
fn fuzz(arguments: &[String]) -> anyhow::Result<()> {
    let [flag, minutes, targets @ ..] = arguments else { bail!("say `--minutes N`\n{HELP}") };
    if flag != "--minutes" {
        bail!("the first option is `--minutes`, not `{flag}`");
    }
    let minutes: u32 = minutes.parse().context("--minutes takes a whole number")?;
    if !(1..=1_440).contains(&minutes) {
        bail!("--minutes takes 1 to 1440");
    }
    let mut command = Command::new(workspace().join("fuzz/run.sh"));
    command.args(["-s", &(minutes * 60).to_string()]).args(targets);
    let status = command.status().context("fuzz/run.sh cannot be started")?;
    if !status.success() {
        bail!("something was found: see found/ beside the logs");
    }
    Ok(())
}
