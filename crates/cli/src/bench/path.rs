//! The scenarios of the mail path, each run several times; the median counts.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use lab::load::{LoadPlan, Pipelining};
use serde::Serialize;

use super::cpu::Used;
use super::rsa;
use super::world::{self, Plan, Signing};

/// One run.
pub(super) struct Run {
    pub(super) messages: u64,
    pub(super) time: Duration,
    pub(super) cpu: Used,
    /// Octets of mail that were taken; 0: not the point.
    pub(super) octets: u64,
}

/// One scenario, measured.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figure {
    /// Its name.
    pub(super) scenario: String,
    /// Messages (or recipients, or signatures) of one run.
    pub(super) messages: u64,
    /// Median of the seconds.
    pub(super) seconds: f64,
    /// Messages per second at the median.
    pub(super) per_second: f64,
    /// Octets of mail per second at the median, where that is the point.
    pub(super) octets_per_second: Option<f64>,
    /// Share of the bare ceiling, where the comparison makes sense.
    pub(super) of_ceiling: Option<f64>,
    /// Share of the signatures that all cores make with nothing else to do.
    pub(super) of_bare_rsa: Option<f64>,
    /// Processor time of the product per message, in microseconds; absent where nothing of the product is at work.
    pub(super) cpu_micros: Option<f64>,
    /// The same by kind of thread, with those that play the world.
    pub(super) cpu_by_thread: Vec<(String, f64)>,
    /// What is aimed at.
    pub(super) aim: Option<&'static str>,
    /// All runs, in messages per second.
    pub(super) runs: Vec<f64>,
}

/// What a scenario does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// The load source straight into the sink.
    Ceiling,
    /// Acceptance of a list.
    Accept,
    /// Delivery of a campaign.
    Deliver(Signing),
    /// The same over a network with a round trip.
    DeliverAfar(Duration),
    /// Single messages by SMTP until all are accepted.
    Inject,
    /// Single messages by SMTP until all are delivered.
    InjectAndDeliver,
    /// Drain of messages that were put off once.
    Deferred,
    /// Nothing but the RSA operation.
    Rsa,
}

/// A scenario to be run.
#[derive(Clone, Debug)]
pub(super) struct Scenario {
    pub(super) name: String,
    pub(super) work: Work,
    pub(super) messages: u64,
    /// Octets of a message.
    pub(super) octets: usize,
    pub(super) aim: Option<&'static str>,
    pub(super) runs: u32,
    /// Seconds that one run takes on two quiet cores.
    pub(super) seconds: f64,
}

impl Scenario {
    async fn run_once(&self) -> anyhow::Result<Run> {
        let plan = Plan { octets: self.octets, ..Plan::default() };
        match self.work {
            Work::Ceiling => ceiling(self.messages).await,
            Work::Accept => world::accept(self.messages).await,
            Work::Deliver(signing) => world::deliver(self.messages, Plan { signing, ..plan }).await,
            Work::DeliverAfar(round_trip) => {
                world::deliver(self.messages, plan.with_round_trip(Some(round_trip))).await
            }
            Work::Inject => world::inject(self.messages, self.octets, false).await,
            Work::InjectAndDeliver => world::inject(self.messages, self.octets, true).await,
            Work::Deferred => world::drain_deferred(self.messages).await,
            Work::Rsa => rsa::sign(self.messages).await,
        }
    }

    /// Runs it as often as it says, and compares it with what was measured before.
    pub(super) async fn measure(
        &self,
        before: &[Figure],
        say: &(dyn Fn(&str) + Sync),
    ) -> anyhow::Result<Figure> {
        let mut all = Vec::new();
        for number in 1..=self.runs {
            let run = self.run_once().await.with_context(|| format!("scenario {}", self.name))?;
            let cpu = run.cpu.total_micros() / run.messages as f64;
            let cpu = if cpu > 0.0 { format!(", {cpu:>6.1} us") } else { String::new() };
            let rate = run.messages as f64 / run.time.as_secs_f64();
            say(&format!("run {number}/{}: {rate:>9.0} a second{cpu}", self.runs));
            all.push(run);
        }
        Ok(self.figure(all, before))
    }

    fn figure(&self, mut runs: Vec<Run>, before: &[Figure]) -> Figure {
        let rates: Vec<f64> =
            runs.iter().map(|run| run.messages as f64 / run.time.as_secs_f64()).collect();
        runs.sort_by_key(|run| run.time);
        let median = &runs[runs.len() / 2];
        let seconds = median.time.as_secs_f64();
        let per_second = median.messages as f64 / seconds;
        let share_of = |name: &str| {
            let other = before.iter().find(|figure| figure.scenario == name)?;
            Some(per_second / other.per_second)
        };
        let small = self.octets <= 2_048;
        let (against_ceiling, is_signed) = match self.work {
            Work::Ceiling => return self.alone(median, rates, Some(1.0)),
            Work::Rsa => return self.alone(median, rates, None),
            Work::Deliver(signing) => (small, signing == Signing::Rsa),
            Work::Inject | Work::InjectAndDeliver | Work::Deferred => (small, false),
            Work::Accept | Work::DeliverAfar(_) => (false, false),
        };
        Figure {
            octets_per_second: (!small).then(|| median.octets as f64 / seconds),
            of_ceiling: against_ceiling.then(|| share_of(CEILING)).flatten(),
            of_bare_rsa: is_signed.then(|| share_of(BARE_RSA)).flatten(),
            cpu_micros: Some(median.cpu.total_micros() / median.messages as f64),
            ..self.alone(median, rates, None)
        }
    }

    /// What is compared with nothing.
    fn alone(&self, median: &Run, runs: Vec<f64>, of_ceiling: Option<f64>) -> Figure {
        Figure {
            scenario: self.name.clone(),
            messages: median.messages,
            seconds: median.time.as_secs_f64(),
            per_second: median.messages as f64 / median.time.as_secs_f64(),
            octets_per_second: None,
            of_ceiling,
            of_bare_rsa: None,
            cpu_micros: None,
            cpu_by_thread: median.cpu.per_message(median.messages),
            aim: self.aim,
            runs,
        }
    }
}

/// Name of the scenario that the others are compared with.
pub(super) const CEILING: &str = "bare ceiling";

/// Name of the scenario that signed mail is compared with.
pub(super) const BARE_RSA: &str = "bare RSA-2048 signatures (for DKIM)";

/// The load source straight into the sink: what no engine between them can beat.
async fn ceiling(messages: u64) -> anyhow::Result<Run> {
    let world = lab::Lab::start(lab::internet::hundred_domains())?;
    let target = (std::net::Ipv4Addr::new(127, 2, 0, 1), world.port()).into();
    let mut plan = LoadPlan::new(target, vec!["d000.bench.example".into()]);
    plan.messages = messages;
    plan.connections = 10;
    plan.size_bytes = 2_048;
    plan.pipelining = Pipelining::AcrossMessages;
    let before = Used::now(&world::OTHERS)?;
    let begun = Instant::now();
    let result = tokio::task::spawn_blocking(move || lab::load::run(plan)).await??;
    let time = begun.elapsed();
    let cpu = Used::now(&world::OTHERS)?.since(&before);
    let _report = world.stop();
    anyhow::ensure!(result.messages == messages, "the sink took {} messages", result.messages);
    Ok(Run { messages, time, cpu, octets: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(name: &str, work: Work, octets: usize) -> Scenario {
        let name = name.to_owned();
        Scenario { name, work, messages: 1_000, octets, aim: None, runs: 3, seconds: 1.0 }
    }

    fn run(millis: u64) -> Run {
        let (time, cpu) = (Duration::from_millis(millis), Used::default());
        Run { messages: 1_000, time, cpu, octets: 10_000_000 }
    }

    #[test]
    fn the_median_counts_and_shares_are_of_what_was_measured_before() {
        let ceiling = scenario(CEILING, Work::Ceiling, 2_048).figure(vec![run(100)], &[]);
        assert_eq!((ceiling.per_second, ceiling.of_ceiling), (10_000.0, Some(1.0)));
        let bare = scenario(BARE_RSA, Work::Rsa, 0).figure(vec![run(200)], &[]);
        let before = [ceiling, bare];
        let runs = || vec![run(900), run(400), run(100)];
        let small = scenario("small", Work::Deliver(Signing::Rsa), 2_048).figure(runs(), &before);
        assert_eq!((small.seconds, small.per_second), (0.4, 2_500.0));
        assert_eq!((small.of_ceiling, small.of_bare_rsa), (Some(0.25), Some(0.5)));
        assert_eq!(small.octets_per_second, None);
        // The ceiling is of messages of 2 KiB.
        let large = scenario("large", Work::Inject, 10_240).figure(runs(), &before);
        assert_eq!((large.of_ceiling, large.octets_per_second), (None, Some(25_000_000.0)));
        assert_eq!(scenario("alone", Work::Inject, 2_048).figure(runs(), &[]).of_ceiling, None);
    }
}
