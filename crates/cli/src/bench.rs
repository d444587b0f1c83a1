//! `mailweir bench path`: the mail path against the clock. ([`bounce`]: `mailweir bench bounce`.)
//!
//! Everything runs on loopback in one process, one scenario after the other, each several times; the median counts.
//! Figures of one run may be compared with one another, and with other programs measured on the same
//! machine; never with a figure of another machine. So the table gives ratios to the bare ceiling:
//! the load source straight into the lab's sink.
//!
//! Processor time is read per thread and summed by the threads' names: what the product needs is kept apart
//! from what the lab needs to play the world.

mod bounce;
mod cpu;
mod world;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use lab::load::{LoadPlan, Pipelining};
use serde::Serialize;

use crate::exit::{Ended, Outcome};
use crate::globals::Globals;
use crate::output::{print, print_json};
use world::{Plan, Signing, World};

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
    /// A tenth of the messages, one run: to see that it works, not to be quoted
    #[arg(long)]
    quick: bool,
    /// Only the scenarios whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// One scenario, measured.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Its name.
    pub scenario: String,
    /// Messages (or recipients) of one run.
    pub messages: u64,
    /// Median of the seconds.
    pub seconds: f64,
    /// Messages per second at the median.
    pub per_second: f64,
    /// Share of the bare ceiling, where the comparison makes sense.
    pub of_ceiling: Option<f64>,
    /// Processor time of the product per message, in microseconds.
    pub cpu_micros: f64,
    /// The same by kind of thread.
    pub cpu_by_thread: Vec<(String, f64)>,
    /// All runs, in messages per second.
    pub runs: Vec<f64>,
}

/// One run.
pub(crate) struct Run {
    pub(crate) messages: u64,
    pub(crate) time: Duration,
    pub(crate) cpu: cpu::Used,
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
    let figures = runtime.block_on(path(globals, arguments))?;
    if globals.json() {
        print_json(&figures)?;
    } else {
        print(&table(&figures))?;
    }
    Ok(Outcome::Fine)
}

async fn path(globals: &Globals, arguments: &PathArguments) -> anyhow::Result<Vec<Figure>> {
    let runs = if arguments.quick { 1 } else { arguments.runs };
    let scale = if arguments.quick { 10 } else { 1 };
    let wanted = |name: &str| arguments.only.as_ref().is_none_or(|only| name.contains(only));
    let say = |text: &str| {
        if !globals.json() {
            eprintln!("{text}");
        }
    };
    let mut figures: Vec<Figure> = Vec::new();
    macro_rules! scenario {
        ($name:literal, $against_ceiling:literal, $run:expr) => {
            if wanted($name) {
                let mut all = Vec::new();
                for number in 1..=runs {
                    let run: Run = $run.await.with_context(|| format!("scenario {}", $name))?;
                    say(&format!(
                        "{:<34} run {number}/{runs}: {:>9.0} a second, {:>6.1} us",
                        $name,
                        run.messages as f64 / run.time.as_secs_f64(),
                        run.cpu.total_micros() / run.messages as f64
                    ));
                    all.push(run);
                }
                let ceiling = figures
                    .first()
                    .filter(|first: &&Figure| first.scenario == CEILING)
                    .map(|first| first.per_second);
                figures.push(figure($name, all, ceiling.filter(|_| $against_ceiling)));
            }
        };
    }
    scenario!("bare ceiling", true, ceiling(500_000 / scale));
    scenario!("accept recipients", false, world::accept(1_000_000 / scale));
    scenario!("deliver templated", true, deliver(100_000 / scale, Signing::None, None));
    scenario!("accept by SMTP", true, world::inject(50_000 / scale, false));
    scenario!("accept by SMTP and deliver", true, world::inject(50_000 / scale, true));
    scenario!("deliver with DKIM RSA-2048", true, deliver(10_000 / scale, Signing::Rsa, None));
    scenario!(
        "deliver at 50 ms, 10 connections",
        false,
        deliver(2_000 / scale, Signing::None, Some(Duration::from_millis(50)))
    );
    Ok(figures)
}

/// Name of the scenario that the others are compared with.
const CEILING: &str = "bare ceiling";

/// The load source straight into the sink: what no engine between them can beat.
async fn ceiling(messages: u64) -> anyhow::Result<Run> {
    let world = lab::Lab::start(lab::internet::hundred_domains())?;
    let target = (std::net::Ipv4Addr::new(127, 2, 0, 1), world.port()).into();
    let mut plan = LoadPlan::new(target, vec!["d000.bench.example".into()]);
    plan.messages = messages;
    plan.connections = 10;
    plan.size_bytes = 2_048;
    plan.pipelining = Pipelining::AcrossMessages;
    let before = cpu::Used::now(&[])?;
    let begun = Instant::now();
    let result = tokio::task::spawn_blocking(move || lab::load::run(plan)).await??;
    let time = begun.elapsed();
    let cpu = cpu::Used::now(&[])?.since(&before);
    let _report = world.stop();
    anyhow::ensure!(result.messages == messages, "the sink took {} messages", result.messages);
    Ok(Run { messages, time, cpu })
}

async fn deliver(
    messages: u64,
    signing: Signing,
    round_trip: Option<Duration>,
) -> anyhow::Result<Run> {
    let world = World::start(Plan { signing, round_trip, ..Plan::default() }).await?;
    // On a path with a round trip the question is what its ten connections carry.
    let domains = if round_trip.is_some() { 1 } else { 100 };
    let run = world.deliver(messages, domains).await;
    world.stop().await;
    run
}

fn figure(name: &str, mut runs: Vec<Run>, ceiling: Option<f64>) -> Figure {
    runs.sort_by_key(|run| run.time);
    let rates: Vec<f64> =
        runs.iter().map(|run| run.messages as f64 / run.time.as_secs_f64()).collect();
    let median = &runs[runs.len() / 2];
    let per_second = median.messages as f64 / median.time.as_secs_f64();
    Figure {
        scenario: name.into(),
        messages: median.messages,
        seconds: median.time.as_secs_f64(),
        per_second,
        of_ceiling: ceiling.map(|ceiling| per_second / ceiling),
        cpu_micros: median.cpu.total_micros() / median.messages as f64,
        cpu_by_thread: median.cpu.per_message(median.messages),
        runs: rates,
    }
}

fn table(figures: &[Figure]) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    let _ = writeln!(
        text,
        "| scenario | messages | seconds | a second | of ceiling | CPU us | where |\n|---|--:|--:|--:|--:|--:|---|"
    );
    for figure in figures {
        let share = figure.of_ceiling.map_or("-".into(), |share| format!("{:.0} %", share * 100.0));
        let threads: Vec<String> = figure
            .cpu_by_thread
            .iter()
            .filter(|(_, micros)| *micros >= 0.5)
            .map(|(name, micros)| format!("{name} {micros:.1}"))
            .collect();
        let _ = writeln!(
            text,
            "| {} | {} | {:.2} | {:.0} | {share} | {:.1} | {} |",
            figure.scenario,
            figure.messages,
            figure.seconds,
            figure.per_second,
            figure.cpu_micros,
            threads.join(", ")
        );
    }
    text
}
