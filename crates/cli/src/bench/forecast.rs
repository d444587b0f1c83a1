//! How long the run ahead takes for much mail.
//!
//! Half of the domains belong to five large providers, the others have hosts of their own; exchangers take 200 ms to be
//! ready and 100 ms for a message.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use engine::work::DeliveryOptions;
use engine::{Affinity, Settings, Source, Sources};
use mail::id::{DeliveryId, SourceId};
use mail::route::{MxHost, MxRoute};
use mail::time::Timestamp;
use quota::{Ledger, NodeId, Owner};
use rules::{Levels, RuleSet};
use serde::Serialize;
use simulator::{AheadInput, Latency, Waiting, ahead};

use super::cpu::timed;

/// It is given up after this.
const PATIENCE: Duration = Duration::from_secs(300);

/// How far it looks: everything has gone by then.
const HORIZON: Duration = Duration::from_secs(60 * 86_400);

const RULES: &str = "schema_version = 1
[[rule]]
name = \"big\"
mask = \"mx.p0.example\"
messages_per_hour = 100000
max_connections = 20
[[rule]]
name = \"rest\"
mask = \"*\"
messages_per_hour = 5000
";

/// A forecast to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct ForecastPlan {
    pub(super) recipients: u64,
    pub(super) domains: u64,
}

/// A forecast, measured.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ForecastFigure {
    pub(super) recipients: u64,
    pub(super) domains: u64,
    pub(super) seconds: f64,
    pub(super) cpu_seconds: f64,
    /// Days until the last will have gone.
    pub(super) days_foreseen: f64,
}

impl ForecastPlan {
    /// How it is called.
    pub(super) fn name(&self) -> String {
        let number = crate::output::number;
        format!(
            "forecast for {} recipients, {} domains",
            number(self.recipients),
            number(self.domains)
        )
    }

    /// Makes it once.
    ///
    /// # Errors
    /// It takes too long, or does not foresee all of the mail.
    pub(super) async fn measure(&self) -> anyhow::Result<ForecastFigure> {
        let input = self.input()?;
        let now = input.now;
        let begun = Instant::now();
        let running = tokio::task::spawn_blocking(move || timed(|| ahead(input)));
        let (report, cpu_seconds) = tokio::time::timeout(PATIENCE, running)
            .await
            .with_context(|| format!("no forecast within {PATIENCE:?}"))???;
        let time = begun.elapsed();
        let gone: u64 = report.domains.values().map(|course| course.messages).sum();
        ensure!(gone == self.recipients, "{gone} of {} messages were foreseen", self.recipients);
        let finished_at = report.finished_at.context("a forecast of mail has an end")?;
        Ok(ForecastFigure {
            recipients: self.recipients,
            domains: self.domains,
            seconds: time.as_secs_f64(),
            cpu_seconds,
            days_foreseen: finished_at.as_secs().saturating_sub(now.as_secs()) as f64 / 86_400.0,
        })
    }

    fn input(&self) -> anyhow::Result<AheadInput> {
        let now = Timestamp::from_secs(1_800_000_000);
        let file = rules::parse("rules.toml", RULES.as_bytes())
            .map_err(|faults| anyhow::anyhow!(crate::mx::render(&faults)))?;
        let rules = Arc::new(RuleSet::compile(&file, &Levels::default(), 1));
        let owner = Owner { node: NodeId(1), incarnation: 1 };
        let ledger =
            Ledger::restore(quota::Settings::default(), Arc::clone(&rules) as _, owner, now, []);
        let source = |id| Source {
            id: SourceId(id),
            weight: 1,
            include_domains: vec![],
            exclude_domains: vec![],
            ipv6: false,
        };
        let affinity = Affinity { name: "default".into(), sources: vec![SourceId(1), SourceId(2)] };
        let mut routes = BTreeMap::new();
        let mut waiting = Vec::new();
        let mut latencies = BTreeMap::new();
        for number in 0..self.domains {
            let domain: Box<str> = format!("d{number}.example").into();
            // Every second domain belongs to one of five providers, whose numbers no other has.
            let host = if number % 2 == 0 { number / 2 % 5 } else { number + 5 };
            let route = Arc::new(route(host));
            latencies.insert(
                mail::route::group_key(&route),
                Latency { set_up: Duration::from_millis(200), message: Duration::from_millis(100) },
            );
            routes.insert(domain.clone(), route);
            waiting.push(Waiting {
                domain,
                delivery: DeliveryId(1 + number % 3),
                options: DeliveryOptions::default(),
                count: self.recipients / self.domains
                    + u64::from(number < self.recipients % self.domains),
                due: Timestamp::EPOCH,
            });
        }
        Ok(AheadInput {
            now,
            ledger,
            owner,
            sources: Sources::new(vec![source(1), source(2)], vec![affinity])?,
            source_limits: BTreeMap::new(),
            rules,
            settings: Settings::default(),
            routes,
            waiting,
            latencies,
            latency: Latency::default(),
            horizon: HORIZON,
        })
    }
}

/// One host with an address of its own.
fn route(host: u64) -> MxRoute {
    let octets = (host + 1).to_be_bytes();
    MxRoute {
        hosts: vec![MxHost {
            preference: 10,
            name: format!("mx.p{host}.example").into(),
            addresses: vec![[10, octets[5], octets[6], octets[7]].into()],
        }],
        port: 25,
        lmtp: false,
        relay: false,
        tls: None,
        valid_until: Timestamp::NEVER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everything_is_foreseen() {
        let plan = ForecastPlan { recipients: 25_000, domains: 3 };
        let figure = plan.measure().await.unwrap();
        // 8,333 for the first large provider, 8,334 for each of the others at 5,000 an hour from two sources.
        assert!(figure.days_foreseen > 0.0 && figure.days_foreseen < 0.2, "{figure:?}");
    }
}
