//! `mailweir bench path`: the mail path against the clock. ([`bounce`]: `mailweir bench bounce`.)
//!
//! Everything runs on loopback, one part after the other. Figures of one run may be compared with one another, and with
//! other programs measured on the same machine; never with a figure of another machine. So the table gives ratios to
//! the bare ceiling: the load source straight into the lab's sink.
//!
//! The scenarios of the path ([`path`]) run in this process, each several times; the median counts. Processor time is read
//! per thread and summed by the threads' names: what the product needs is kept apart from what the lab needs to play the
//! world. `--full` adds large messages, messages that were put off, what logs and metrics cost ([`costs`]), forecasts
//! ([`forecast`]) and long queues ([`queue`]); the last are measured on the program itself, in a process of its own.
//!
//! What is written lies in the system's folder for temporary files (`TMPDIR`) and is removed at the end, also after a
//! fault and ctrl-c. Every wait is bounded. Progress goes to standard error.

mod bounce;
mod costs;
mod cpu;
mod forecast;
mod path;
mod plan;
mod process;
mod queue;
mod rsa;
mod settings;
mod table;
mod world;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde::Serialize;
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use crate::exit::{Ended, Failure, Outcome};
use crate::globals::Globals;
use crate::output::{print, print_json, print_raw, say};
use plan::Part;

/// How long what is left of a run may take to end.
const FAREWELL: Duration = Duration::from_secs(2);

/// Arguments of `mailweir bench`.
#[derive(Debug, Args)]
pub struct BenchArguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Acceptance and delivery of campaigns and single messages on loopback
    Path(PathArguments),
    /// Replies and bounce mails judged, per second and core
    Bounce(bounce::BounceBenchArguments),
}

/// Arguments of `mailweir bench path`.
#[derive(Clone, Debug, Args)]
pub struct PathArguments {
    /// How often each scenario runs; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    runs: u32,
    /// A tenth of the messages or less, one run: to see that it works, not to be quoted
    #[arg(long)]
    quick: bool,
    /// Also large messages, long queues and restarts, logs and metrics, forecasts: some 15 minutes and 4 GB of disk
    #[arg(long)]
    full: bool,
    /// Only the parts whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
struct Report {
    path: Vec<path::Figure>,
    queues: Vec<queue::QueueFigure>,
    costs: Vec<costs::CostFigure>,
    forecasts: Vec<forecast::ForecastFigure>,
    /// How long each part took.
    parts: Vec<PartTime>,
}

/// How long a part took, with all that goes before and after what is measured.
#[derive(Debug, Serialize)]
struct PartTime {
    part: String,
    seconds: f64,
}

/// Carries `mailweir bench` out.
pub fn run(globals: &Globals, arguments: &BenchArguments) -> Ended {
    let arguments = match &arguments.what {
        What::Path(arguments) => arguments,
        What::Bounce(arguments) => {
            let figures = bounce::run(arguments)?;
            match globals.json() {
                true => print_json(&figures)?,
                false => print(&bounce::text(&figures))?,
            }
            return Ok(Outcome::Fine);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("runtime")
        .enable_all()
        .build()?;
    let measured = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        // Dropping what is under way ends its processes and removes its folders.
        let stopped = tokio::select! {
            report = measure(arguments) => return report.map_err(Failure::from),
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "ctrl-c",
        };
        Err(Failure::refused(format!("stopped by {stopped}; nothing is left behind")))
    });
    runtime.shutdown_timeout(FAREWELL);
    let report = measured?;
    match globals.json() {
        true => print_json(&report)?,
        false => print_raw(&table::text(&report))?,
    }
    Ok(Outcome::Fine)
}

/// A folder of its own for a part, gone with the value.
fn temporary_folder() -> anyhow::Result<TempDir> {
    TempDir::with_prefix("mailweir-bench-").context("no folder for temporary files")
}

async fn measure(arguments: &PathArguments) -> anyhow::Result<Report> {
    let parts = plan::parts(arguments);
    anyhow::ensure!(!parts.is_empty(), "no part has such a name: see docs/performance.md");
    plan::check_disk(&parts, &std::env::temp_dir())?;
    let expected: Duration = parts.iter().map(Part::estimate).sum();
    say(&format!(
        "{} parts, about {} on two quiet cores; files in {}",
        parts.len(),
        span(expected),
        std::env::temp_dir().display()
    ));
    let mut report = Report::default();
    let (begun, mut done) = (Instant::now(), Duration::ZERO);
    for (number, part) in (1..).zip(&parts) {
        let left = expected.saturating_sub(done);
        say(&format!(
            "[{number}/{}] {}: about {}, all that is left about {}",
            parts.len(),
            part.name(),
            span(part.estimate()),
            span(left)
        ));
        let part_begun = Instant::now();
        run_part(part, &mut report).await.with_context(|| part.name())?;
        let seconds = part_begun.elapsed().as_secs_f64();
        say(&format!("    took {seconds:.1} s"));
        report.parts.push(PartTime { part: part.name(), seconds });
        done += part.estimate();
    }
    say(&format!("everything took {}", span(begun.elapsed())));
    Ok(report)
}

async fn run_part(part: &Part, report: &mut Report) -> anyhow::Result<()> {
    let tell = |text: &str| say(&format!("    {text}"));
    match part {
        Part::Scenario(scenario) => {
            let figure = scenario.measure(&report.path, &tell).await?;
            report.path.push(figure);
        }
        Part::Forecast(plan) => report.forecasts.push(plan.measure().await?),
        Part::Cost(plan) => report.costs.extend(plan.measure(&tell).await?),
        Part::Queue(plan) => report.queues.push(plan.measure(&tell).await?),
    }
    Ok(())
}

/// `14 min 20 s`.
fn span(span: Duration) -> String {
    let seconds = span.as_secs_f64().ceil() as u64;
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds} s"),
        (minutes, seconds) => format!("{minutes} min {seconds} s"),
    }
}
