//! The command line of the lab, for its own program and for the `lab` command of `mailweir`.
//!
//! Serving, it prints its addresses on one line of JSON and goes on until SIGTERM or ctrl-c, and then writes its
//! report. `bench` measures the bare ceiling: the load source straight into the MX hosts.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::load::{self, LoadPlan, Pipelining};
use crate::{Lab, LabConfig, Span, internet};
use anyhow::{Context as _, bail};

const USAGE: &str = "\
Usage: mailweir-lab --config FILE | --demo SEED | --bench-world  [--report FILE] [--journal FILE]
       mailweir-lab print-demo [SEED]
       mailweir-lab bench [--messages N] [--connections N] [--size BYTES] [--runs N]
                          [--pipelining across-messages|within-message|off]
                          [--round-trip SPAN] [--threads N] [--keys]
       mailweir-lab load --target ADDRESS:PORT --domains A,B,...  [the same options]

Serves a DNS server and MX hosts on 127.0.0.0/8 until SIGTERM or ctrl-c, then writes the report
(to standard output, or to FILE).";

/// Carries out a command line, without the program's name. Blocks; a serving lab goes on until
/// SIGTERM or ctrl-c. Addresses, results and reports go to standard output.
///
/// # Errors
/// An option is not known or out of range, a file cannot be read or written, or as [`Lab::start`]
/// and [`load::run`].
pub fn run(arguments: &[String]) -> anyhow::Result<()> {
    match arguments.first().map(String::as_str) {
        Some("bench") => bench(&Options::read(&arguments[1..])?),
        Some("load") => send_load(&Options::read(&arguments[1..])?),
        Some("print-demo") => {
            let seed = arguments.get(1).map_or(Ok(1), |seed| seed.parse());
            let config = internet::demo(seed.context("the seed is a number")?);
            println!("{}", toml::to_string(&config)?);
            Ok(())
        }
        None | Some("--help" | "-h" | "help") => {
            println!("{USAGE}");
            Ok(())
        }
        Some(_) => serve(&Options::read(arguments)?),
    }
}

/// All options of all commands; each command uses its own.
#[derive(Default)]
struct Options {
    config: Option<LabConfig>,
    report: Option<PathBuf>,
    journal: Option<PathBuf>,
    messages: Option<u64>,
    connections: Option<usize>,
    size: Option<usize>,
    threads: Option<usize>,
    runs: Option<usize>,
    pipelining: Pipelining,
    round_trip: Option<Span>,
    keys: bool,
    target: Option<SocketAddr>,
    domains: Vec<String>,
}

impl Options {
    fn read(arguments: &[String]) -> anyhow::Result<Self> {
        let mut options = Self::default();
        let mut rest = arguments.iter();
        while let Some(name) = rest.next() {
            let mut value =
                || rest.next().with_context(|| format!("{name} needs a value\n{USAGE}"));
            match name.as_str() {
                "--config" => {
                    options.config = Some(LabConfig::from_file(&PathBuf::from(value()?))?);
                }
                "--demo" => options.config = Some(internet::demo(number(name, value()?)?)),
                "--bench-world" => options.config = Some(internet::hundred_domains()),
                "--report" => options.report = Some(value()?.into()),
                "--journal" => options.journal = Some(value()?.into()),
                "--messages" => options.messages = Some(number(name, value()?)?),
                "--connections" => options.connections = Some(number(name, value()?)?),
                "--size" => options.size = Some(number(name, value()?)?),
                "--threads" => options.threads = Some(number(name, value()?)?),
                "--runs" => options.runs = Some(number(name, value()?)?),
                "--pipelining" => {
                    options.pipelining = match value()?.as_str() {
                        "across-messages" => Pipelining::AcrossMessages,
                        "within-message" => Pipelining::WithinMessage,
                        "off" => Pipelining::Off,
                        other => bail!("--pipelining {other}: no such kind\n{USAGE}"),
                    };
                }
                "--round-trip" => {
                    let span = Span::try_from(value()?.clone());
                    options.round_trip = Some(span.map_err(|fault| anyhow::anyhow!(fault))?);
                }
                "--keys" => options.keys = true,
                "--target" => options.target = Some(number(name, value()?)?),
                "--domains" => {
                    options.domains = value()?.split(',').map(str::to_owned).collect();
                }
                other => bail!("{other} is not an option\n{USAGE}"),
            }
        }
        Ok(options)
    }

    fn plan(&self, target: SocketAddr, domains: Vec<String>) -> LoadPlan {
        let mut plan = LoadPlan::new(target, domains);
        plan.messages = self.messages.unwrap_or(plan.messages);
        plan.connections = self.connections.unwrap_or(plan.connections);
        plan.size_bytes = self.size.unwrap_or(plan.size_bytes);
        plan.threads = self.threads.unwrap_or(plan.threads);
        plan.pipelining = self.pipelining;
        plan
    }
}

fn number<T: std::str::FromStr>(name: &str, text: &str) -> anyhow::Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    text.parse().with_context(|| format!("{name} {text}"))
}

fn serve(options: &Options) -> anyhow::Result<()> {
    let mut config =
        options.config.clone().context("which lab? give --config, --demo or --bench-world")?;
    if options.journal.is_some() {
        config.journal.clone_from(&options.journal);
    }
    let lab = Lab::start(config)?;
    let addresses = serde_json::json!({
        "dns": lab.dns_address().to_string(),
        "port": lab.port(),
        "pid": std::process::id(),
    });
    println!("{addresses}");
    std::io::stdout().flush()?;
    wait_for_the_end()?;
    let report = serde_json::to_string_pretty(&lab.stop())?;
    match &options.report {
        Some(path) => std::fs::write(path, report + "\n")
            .with_context(|| format!("cannot write the report {}", path.display())),
        None => {
            println!("{report}");
            Ok(())
        }
    }
}

fn wait_for_the_end() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            _ = terminate.recv() => {}
            interrupted = tokio::signal::ctrl_c() => interrupted?,
        }
        Ok(())
    })
}

fn bench(options: &Options) -> anyhow::Result<()> {
    let mut rates = Vec::new();
    for run in 0..options.runs.unwrap_or(3) {
        let mut config = internet::hundred_domains();
        config.record_keys = options.keys;
        config.threads = options.threads.unwrap_or(0);
        config.providers[0].mood.round_trip = options.round_trip;
        let domains = config.providers[0].domains.clone();
        let lab = Lab::start(config)?;
        let target = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 2, 0, 1)), lab.port());
        let result = load::run(options.plan(target, domains))?;
        let report = lab.stop();
        if report.totals.accepted != result.messages {
            bail!("sent {} messages, {} arrived", result.messages, report.totals.accepted);
        }
        println!("run {run}: {}", serde_json::to_string(&result)?);
        rates.push(result.per_second);
    }
    rates.sort_by(f64::total_cmp);
    let median = rates.get(rates.len() / 2).copied().context("--runs 0 measures nothing")?;
    println!("median: {median:.0} messages/s");
    Ok(())
}

fn send_load(options: &Options) -> anyhow::Result<()> {
    let target = options.target.context("load needs --target ADDRESS:PORT")?;
    let domains = if options.domains.is_empty() {
        (0..100).map(|number| format!("d{number:03}.bench.example")).collect()
    } else {
        options.domains.clone()
    };
    let result = load::run(options.plan(target, domains))?;
    println!("{}", serde_json::to_string(&result)?);
    Ok(())
}
