//! What is paid for being told: the delivery log, the program's own log, and metrics.
//!
//! Each cost is a difference of processor time per message between deliveries of the same campaign. The variants take
//! turns, so that a machine that gets busier meanwhile does not speak for one of them; medians are compared. The delivery
//! log is compared in this process, the rest in processes of their own whose log goes to a file.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use lab::Lab;
use serde::Serialize;

use super::process::{Process, Start};
use super::world::{self, Plan};

/// The longest that one delivery may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Pause between two scrapes of the metrics.
const SCRAPE_EVERY: Duration = Duration::from_millis(500);

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Delivery log, or none.
    Attempts,
    /// Levels of the program's own log, and metrics.
    Process,
}

/// Costs to be measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct CostPlan {
    pub(super) told: Told,
    pub(super) messages: u64,
    pub(super) runs: u32,
}

/// One variant, measured.
#[derive(Clone, Debug, Serialize)]
pub(super) struct CostFigure {
    pub(super) variant: &'static str,
    pub(super) messages: u64,
    /// Median of the processor time per message.
    pub(super) cpu_micros: f64,
    /// Median of the messages per second.
    pub(super) per_second: f64,
    /// The variant that it is compared with.
    pub(super) against: Option<&'static str>,
    /// Microseconds of processor time more than that one.
    pub(super) difference_micros: Option<f64>,
    /// Processor time per message of all runs.
    pub(super) runs: Vec<f64>,
}

/// One variant.
struct Variant {
    name: &'static str,
    against: Option<&'static str>,
    level: &'static str,
    is_scraped: bool,
    delivery_log: bool,
}

const WITHOUT_LOG: &str = "no delivery log";
const QUIET: &str = "own log: error";
const INFO: &str = "own log: info";

const ATTEMPTS: [Variant; 2] = [
    Variant { name: WITHOUT_LOG, against: None, level: "", is_scraped: false, delivery_log: false },
    Variant {
        name: "delivery log",
        against: Some(WITHOUT_LOG),
        level: "",
        is_scraped: false,
        delivery_log: true,
    },
];

const PROCESS: [Variant; 4] = [
    Variant { name: QUIET, against: None, level: "error", is_scraped: false, delivery_log: true },
    Variant {
        name: INFO,
        against: Some(QUIET),
        level: "info",
        is_scraped: false,
        delivery_log: true,
    },
    Variant {
        name: "own log: debug",
        against: Some(INFO),
        level: "debug",
        is_scraped: false,
        delivery_log: true,
    },
    Variant {
        name: "own log: info, /metrics scraped twice a second",
        against: Some(INFO),
        level: "info",
        is_scraped: true,
        delivery_log: true,
    },
];

/// Processor time and rate of one delivery.
#[derive(Clone, Copy, Debug)]
struct Taken {
    cpu_micros: f64,
    per_second: f64,
}

impl CostPlan {
    fn variants(&self) -> &'static [Variant] {
        match self.told {
            Told::Attempts => &ATTEMPTS,
            Told::Process => &PROCESS,
        }
    }

    /// How it is called.
    pub(super) const fn name(&self) -> &'static str {
        match self.told {
            Told::Attempts => "cost of the delivery log",
            Told::Process => "cost of log levels and metrics",
        }
    }

    /// Deliveries that it takes.
    pub(super) fn deliveries(&self) -> u32 {
        self.runs * u32::try_from(self.variants().len()).unwrap_or(u32::MAX)
    }

    /// Runs all variants in turn.
    ///
    /// # Errors
    /// As those of the deliveries.
    pub(super) async fn measure(
        &self,
        say: &(dyn Fn(&str) + Sync),
    ) -> anyhow::Result<Vec<CostFigure>> {
        let variants = self.variants();
        let mut taken: Vec<Vec<Taken>> = variants.iter().map(|_| Vec::new()).collect();
        for number in 1..=self.runs {
            for (variant, taken) in variants.iter().zip(&mut taken) {
                let run = self.deliver(variant).await.context(variant.name)?;
                say(&format!(
                    "run {number}/{}: {:>6.1} us, {:>9.0} a second: {}",
                    self.runs, run.cpu_micros, run.per_second, variant.name
                ));
                taken.push(run);
            }
        }
        Ok(compare(self.messages, variants, &taken))
    }

    async fn deliver(&self, variant: &Variant) -> anyhow::Result<Taken> {
        match self.told {
            Told::Attempts => {
                let plan = Plan { delivery_log: variant.delivery_log, ..Plan::default() };
                let run = world::deliver(self.messages, plan).await?;
                Ok(Taken {
                    cpu_micros: run.cpu.total_micros() / run.messages as f64,
                    per_second: run.messages as f64 / run.time.as_secs_f64(),
                })
            }
            Told::Process => self.deliver_by_process(variant).await,
        }
    }

    async fn deliver_by_process(&self, variant: &Variant) -> anyhow::Result<Taken> {
        let folder = super::temporary_folder()?;
        let lab = Lab::start(lab::internet::hundred_domains())?;
        let start = Start { folder: folder.path(), lab: &lab, routes: true, level: variant.level };
        let mut node = Process::start(&start)?;
        node.ready().await?;
        let (id, _) = node.hand_over(self.messages).await?;
        let url = format!("http://{}/metrics", node.http);
        let scraper = variant.is_scraped.then(|| Scraper(tokio::spawn(scrape(url))));
        let before = node.cpu()?;
        let begun = Instant::now();
        node.start_delivery(&id).await?;
        while lab.counts().accepted < self.messages {
            node.check_alive()?;
            ensure!(begun.elapsed() < PATIENCE, "not all were delivered");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let time = begun.elapsed();
        // The last outcomes are on their way to the disk.
        while node.sent(&id).await? < self.messages {
            ensure!(begun.elapsed() < PATIENCE, "not all were settled");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let cpu = node.cpu()?.since(&before);
        if let Some(scraper) = scraper {
            scraper.check()?;
        }
        node.kill()?;
        let _report = lab.stop();
        Ok(Taken {
            cpu_micros: cpu.total_micros() / self.messages as f64,
            per_second: self.messages as f64 / time.as_secs_f64(),
        })
    }
}

/// The task that scrapes; it ends with this value.
struct Scraper(tokio::task::JoinHandle<anyhow::Result<()>>);

impl Scraper {
    /// # Errors
    /// It has failed, so the run says nothing.
    fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.0.is_finished(), "/metrics did not answer");
        Ok(())
    }
}

impl Drop for Scraper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Scrapes for ever; ends when the node gives no metrics.
async fn scrape(url: String) -> anyhow::Result<()> {
    let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
    let mut turn = tokio::time::interval(SCRAPE_EVERY);
    loop {
        turn.tick().await;
        let answer = http.get(&url).send().await?.error_for_status()?;
        ensure!(!answer.bytes().await?.is_empty(), "no metrics");
    }
}

fn compare(messages: u64, variants: &[Variant], taken: &[Vec<Taken>]) -> Vec<CostFigure> {
    let mut figures: Vec<CostFigure> = Vec::new();
    for (variant, taken) in variants.iter().zip(taken) {
        let runs: Vec<f64> = taken.iter().map(|run| run.cpu_micros).collect();
        let cpu_micros = median(&runs);
        let before = |name| figures.iter().find(|figure| figure.variant == name);
        let against = variant.against.and_then(before).map(|figure| figure.cpu_micros);
        figures.push(CostFigure {
            variant: variant.name,
            messages,
            cpu_micros,
            per_second: median(&taken.iter().map(|run| run.per_second).collect::<Vec<_>>()),
            against: variant.against,
            difference_micros: against.map(|against| cpu_micros - against),
            runs,
        });
    }
    figures
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_is_the_difference_of_medians() {
        let taken = |all: &[f64]| -> Vec<Taken> {
            all.iter()
                .map(|cpu_micros| Taken { cpu_micros: *cpu_micros, per_second: 1.0 })
                .collect()
        };
        let all = [taken(&[40.0, 90.0, 41.0]), taken(&[44.0, 43.0, 10.0])];
        let figures = compare(7, &ATTEMPTS, &all);
        assert_eq!(figures[0].difference_micros, None);
        assert_eq!((figures[0].cpu_micros, figures[1].cpu_micros), (41.0, 43.0));
        assert_eq!(figures[1].difference_micros, Some(2.0));
        for variant in ATTEMPTS.iter().chain(&PROCESS) {
            let known = |name: &str| ATTEMPTS.iter().chain(&PROCESS).any(|one| one.name == name);
            assert!(variant.against.is_none_or(known), "{}", variant.name);
        }
    }
}
