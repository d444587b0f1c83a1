//! When the mail that waits will have gone: the same engine, run ahead on a virtual clock.
//!
//! It starts from a copy of the live ledger, so everything that was sent counts, and from the routes
//! that DNS gives now. Exchangers that take everything are assumed; mail for hosts that do not answer
//! is therefore left out, and so is what would only go after its validity.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use engine::Settings;
use engine::work::DeliveryOptions;
use mail::id::DeliveryId;
use mail::route::MxRoute;
use mail::time::Timestamp;
use node::node::Questions;
use quota::{NodeId, Owner};
use simulator::{AheadInput, Latency, Waiting, ahead};

use super::tally::Tally;
use super::watch::Snapshot;
use super::world::World;
use crate::exit::Failure;

/// The delivery that stands for everything that may go at once.
const READY: DeliveryId = DeliveryId(1);
/// The delivery that stands for what was put off.
const PUT_OFF: DeliveryId = DeliveryId(2);

/// For each provider with mail that waits, when the last of it will have gone; `None`: not within
/// its validity, or nobody can know.
///
/// # Errors
/// The node is ending; its sources do not fit together.
pub(crate) async fn forecast(
    questions: &Questions,
    world: &World,
    tally: &Tally,
    snapshot: &Snapshot,
) -> Result<Vec<Option<Timestamp>>, Failure> {
    let ending = || Failure::environment("the node has ended by itself; see its log");
    let now = questions.now();
    let ledger = questions.ledger().await.ok_or_else(ending)?;
    let rules = questions.rules().await.ok_or_else(ending)?;
    let put_off = tally.put_off(now);
    let mut waiting = Vec::new();
    let mut routes: BTreeMap<Box<str>, Arc<MxRoute>> = BTreeMap::new();
    for (place, domain) in tally.domains.iter().enumerate() {
        if domain.waiting() == 0 || unknowable(snapshot, domain.plan) {
            continue;
        }
        let later = put_off.get(&place);
        let part = |delivery, count, due| Waiting {
            domain: domain.name.as_str().into(),
            delivery,
            options: DeliveryOptions::default(),
            count,
            due,
        };
        let messages = later.map_or(0, |later| later.messages);
        if domain.waiting() > messages {
            waiting.push(part(READY, domain.waiting() - messages, now));
        }
        if let Some(later) = later {
            waiting.push(part(PUT_OFF, later.messages, later.last));
        }
        if let Ok(route) = questions.route(&domain.name).await {
            routes.insert(domain.name.as_str().into(), Arc::new(route));
        }
    }
    let config = questions.config();
    let input = AheadInput {
        now,
        ledger,
        // Somebody else than the node itself, whose few open connections give their permits back.
        owner: Owner { node: NodeId(u64::MAX), incarnation: 1 },
        sources: config
            .routing_sources()
            .map_err(|fault| Failure::environment(fault.to_string()))?,
        source_limits: config
            .sources
            .iter()
            .filter_map(|source| Some((source.id, source.messages_per_hour?)))
            .collect(),
        rules,
        settings: Settings {
            window_messages_max: config.limits.window_messages,
            connections_max: config.smtp_client.max_connections_total as usize,
            idle_timeout: config.smtp_client.idle_timeout,
            ..Settings::default()
        },
        routes,
        waiting,
        latencies: BTreeMap::new(),
        latency: Latency::default(),
        horizon: config.validity.saturating_sub(Duration::from_secs(60)),
    };
    let report = tokio::task::spawn_blocking(move || ahead(input))
        .await
        .map_err(|fault| Failure::environment(format!("running ahead failed: {fault}")))?;
    let plan_of = |domain: &str| {
        tally.domains.iter().find(|found| found.name == domain).map(|found| found.plan)
    };
    let mut gone = vec![None; world.plans.len()];
    for (domain, course) in &report.domains {
        if let Some(plan) = plan_of(domain) {
            gone[plan] = gone[plan].max(course.finished_at);
        }
    }
    let left: BTreeSet<usize> =
        report.left.iter().filter_map(|left| plan_of(&left.domain)).collect();
    for plan in left {
        gone[plan] = None;
    }
    Ok(gone)
}

/// Mail for a provider that is out of reach: when that ends is not ours to say.
pub(crate) fn unknowable(snapshot: &Snapshot, plan: usize) -> bool {
    let row = &snapshot.rows[plan];
    row.out_of_reach
        || row.held.first().is_some_and(|held| {
            held.reason.starts_with("path resting") || held.reason.starts_with("DNS")
        })
}
