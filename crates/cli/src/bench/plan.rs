//! What is measured, in which order, how long that takes on two quiet cores and how much disk it needs.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;

use super::PathArguments;
use super::costs::{CostPlan, Told};
use super::forecast::ForecastPlan;
use super::path::{BARE_RSA, CEILING, Scenario, Work};
use super::queue::{Kind, QueuePlan};
use super::world::Signing;

/// A part of the benchmark.
pub(super) enum Part {
    Scenario(Scenario),
    Forecast(ForecastPlan),
    Cost(CostPlan),
    Queue(QueuePlan),
}

/// Intake refuses when less is free (`limits.free_disk_bytes`), and other programs need some too.
const FLOOR: u64 = 1 << 30;

impl Part {
    /// How it is called; `--only` looks for a piece of it.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Scenario(scenario) => scenario.name.clone(),
            Self::Forecast(plan) => plan.name(),
            Self::Cost(plan) => plan.name().to_owned(),
            Self::Queue(plan) => plan.name(),
        }
    }

    /// How long it takes on two quiet cores.
    pub(super) fn estimate(&self) -> Duration {
        let seconds = match self {
            Self::Scenario(scenario) => scenario.seconds * f64::from(scenario.runs),
            Self::Forecast(plan) => 1.0 + plan.recipients as f64 / 300_000.0,
            Self::Cost(plan) => {
                f64::from(plan.deliveries()) * (1.5 + plan.messages as f64 / 18_000.0)
            }
            Self::Queue(plan) => {
                let rate = if plan.kind == Kind::Single { 6_000.0 } else { 90_000.0 };
                15.0 + plan.messages as f64 / rate
            }
        };
        Duration::from_secs_f64(seconds)
    }

    /// Octets that it takes of the disk at most, logs of commits and of deliveries included.
    fn disk(&self) -> u64 {
        /// A recipient in the database.
        const ROW: u64 = 220;
        /// A line of the delivery log.
        const LINE: u64 = 700;
        match self {
            Self::Scenario(scenario) => {
                let content = match scenario.work {
                    Work::Ceiling | Work::Rsa => return 0,
                    Work::Accept => return scenario.messages * ROW,
                    Work::Deliver(_) | Work::DeliverAfar(_) => 0,
                    Work::Deferred => LINE,
                    // Once in the database and once in the log of commits.
                    Work::Inject | Work::InjectAndDeliver => 2 * scenario.octets as u64 + 1_000,
                };
                scenario.messages * (ROW + LINE + content)
            }
            Self::Forecast(_) => 0,
            // A few lines for each message at the level debug.
            Self::Cost(plan) => plan.messages * (ROW + LINE + 4_000),
            Self::Queue(plan) => match plan.kind {
                Kind::Campaign => plan.messages * ROW + 300_000 * LINE,
                Kind::Single => plan.messages * (5_000 + LINE),
            },
        }
    }
}

/// All parts that are asked for.
pub(super) fn parts(arguments: &PathArguments) -> Vec<Part> {
    let mut parts: Vec<Part> = scenarios(arguments).into_iter().map(Part::Scenario).collect();
    if arguments.full {
        parts.extend(further(arguments));
    }
    let wanted = |part: &Part| {
        arguments.only.as_ref().is_none_or(|only| part.name().contains(only.as_str()))
    };
    parts.retain(wanted);
    parts
}

/// The scenarios of the mail path.
fn scenarios(arguments: &PathArguments) -> Vec<Scenario> {
    let (runs, scale) = if arguments.quick { (1, 10) } else { (arguments.runs, 1) };
    let scenario = |name: &str, work, messages: u64, octets, aim, seconds: f64| Scenario {
        name: name.to_owned(),
        work,
        messages: messages / scale,
        octets,
        aim,
        runs,
        seconds: seconds / scale as f64,
    };
    let afar = Work::DeliverAfar(Duration::from_millis(50));
    let mut all = vec![
        scenario(CEILING, Work::Ceiling, 500_000, 2_048, None, 5.5),
        scenario(
            "accept recipients",
            Work::Accept,
            1_000_000,
            0,
            Some("143,000/s (a million in 7 s)"),
            7.5,
        ),
        scenario(
            "deliver templated",
            Work::Deliver(Signing::None),
            100_000,
            2_048,
            Some("30,000/s, 28 % of the ceiling, 60 µs"),
            5.5,
        ),
        scenario("accept by SMTP", Work::Inject, 50_000, 2_048, Some("17,000/s"), 4.5),
        scenario(
            "accept by SMTP and deliver",
            Work::InjectAndDeliver,
            50_000,
            2_048,
            Some("12,500/s"),
            6.0,
        ),
        scenario(BARE_RSA, Work::Rsa, 20_000, 0, None, 3.0),
        scenario(
            "deliver with DKIM RSA-2048",
            Work::Deliver(Signing::Rsa),
            10_000,
            2_048,
            Some("85 % of the bare RSA"),
            4.0,
        ),
        scenario("deliver at 50 ms, 10 connections", afar, 2_000, 2_048, Some("200/s"), 11.5),
    ];
    if arguments.full {
        for (size, octets, share) in [("10 KiB", 10 << 10, 1), ("100 KiB", 100 << 10, 5)] {
            let deliver = Work::Deliver(Signing::None);
            let name = format!("deliver templated, {size}");
            all.push(scenario(&name, deliver, 50_000 / share, octets, None, 4.5));
            let name = format!("accept by SMTP, {size}");
            all.push(scenario(&name, Work::Inject, 20_000 / share, octets, None, 4.0));
            let name = format!("accept by SMTP and deliver, {size}");
            all.push(scenario(&name, Work::InjectAndDeliver, 20_000 / share, octets, None, 5.0));
        }
    }
    all
}

/// What `--full` adds behind the scenarios.
fn further(arguments: &PathArguments) -> Vec<Part> {
    let pick = |full: u64, quick: u64| if arguments.quick { quick } else { full };
    let runs = if arguments.quick { 1 } else { arguments.runs };
    let forecast =
        |domains| Part::Forecast(ForecastPlan { recipients: pick(10_000_000, 100_000), domains });
    let cost = |told| Part::Cost(CostPlan { told, messages: pick(100_000, 5_000), runs });
    let seconds = |full, quick| Duration::from_secs(pick(full, quick));
    let queue = |kind, full, quick| {
        let (calm, delivering) = (seconds(3, 0), seconds(5, 1));
        Part::Queue(QueuePlan { kind, messages: pick(full, quick), calm, delivering })
    };
    let deferred = pick(1_000_000, 1_000);
    vec![
        forecast(10),
        forecast(100),
        cost(Told::Attempts),
        cost(Told::Process),
        Part::Scenario(Scenario {
            name: format!(
                "drain of {} messages deferred once, all due",
                crate::output::number(deferred)
            ),
            work: Work::Deferred,
            messages: deferred,
            octets: 2_048,
            aim: None,
            runs: 1,
            seconds: 10.0 + deferred as f64 / 6_000.0,
        }),
        queue(Kind::Single, 200_000, 1_000),
        queue(Kind::Campaign, 1_000_000, 20_000),
        queue(Kind::Campaign, 10_000_000, 50_000),
    ]
}

/// Whether the disk of a folder has room for the largest part. Each part removes what it wrote.
///
/// # Errors
/// It has not; the words say what would help.
pub(super) fn check_disk(parts: &[Part], folder: &Path) -> anyhow::Result<()> {
    let Some(largest) = parts.iter().max_by_key(|part| part.disk()) else { return Ok(()) };
    let Some(free) = node::room::free_bytes(folder) else { return Ok(()) };
    let need = largest.disk() + FLOOR;
    ensure!(
        free >= need,
        "{} has {} MiB free, and \"{}\" needs {} MiB: set TMPDIR to a folder with more room, or leave it out with --only",
        folder.display(),
        free >> 20,
        largest.name(),
        need >> 20
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(full: bool, quick: bool, only: Option<&str>) -> PathArguments {
        PathArguments { runs: 3, quick, full, only: only.map(str::to_owned) }
    }

    #[test]
    fn all_of_it_takes_less_than_twenty_minutes() {
        let all = parts(&arguments(true, false, None));
        let names: std::collections::BTreeSet<String> = all.iter().map(Part::name).collect();
        assert_eq!(names.len(), all.len(), "each has a name of its own");
        let total: Duration = all.iter().map(Part::estimate).sum();
        assert!(total < Duration::from_secs(20 * 60), "{total:?}");
        let quick: Duration = parts(&arguments(true, true, None)).iter().map(Part::estimate).sum();
        assert!(quick < Duration::from_secs(5 * 60), "{quick:?}");
    }

    #[test]
    fn parts_are_picked_by_a_piece_of_their_name() {
        assert_eq!(parts(&arguments(true, false, Some("queue of"))).len(), 3);
        assert_eq!(parts(&arguments(false, false, Some("DKIM"))).len(), 2);
        assert!(parts(&arguments(false, false, Some("queue of"))).is_empty(), "only in full");
    }

    #[test]
    fn a_small_disk_is_told_before_anything_is_written() {
        let (calm, delivering) = (Duration::ZERO, Duration::ZERO);
        let kind = Kind::Campaign;
        let queue = |messages| Part::Queue(QueuePlan { kind, messages, calm, delivering });
        let fault = check_disk(&[queue(1), queue(1 << 50)], Path::new("/")).unwrap_err();
        assert!(fault.to_string().contains("TMPDIR"), "{fault}");
        let millions = queue(10_000_000).disk();
        assert!((2_000_000_000..3_000_000_000).contains(&millions), "{millions}");
    }
}
