//! `GET /api/v1/paths/{domain}`: the route of a domain, the rule for each host and source, paths and budgets.
//!
//! Works for domains that the engine has never heard of: the route is looked up, the rules are asked, and budgets
//! without any use are shown as they would be made. The ceiling per hour counts each budget once, over all paths
//! that may be used, however many of them are listed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use axum::extract::State;
use axum::response::Response;
use engine::explain::PathView;
use mail::address::Domain;
use mail::id::SourceId;
use mail::route::MxRoute;
use node::config::SourceConfig;
use quota::PathKey;
use rules::{RuleSet, Scope};
use serde_json::{Value, json};

use crate::app::{Shared, answer, asked, json as to_json};
use crate::forms::{Query, Segment, label, time_text};
use web::Problem;

/// Paths that are listed with their budgets.
const PATHS_SHOWN: usize = 256;
/// Pairs of host and source whose rule is explained.
const RULES_SHOWN: usize = 200;

/// `GET /api/v1/paths/{domain}`
pub(crate) async fn paths(
    State(app): State<Shared>,
    Segment(text): Segment,
    query: Query,
) -> Result<Response, Problem> {
    query.only(&["affinity"])?;
    let domain = Domain::parse(&text)
        .map_err(|fault| Problem::invalid(format!("this is no domain: {fault}")))?;
    let affinity = query.get("affinity");
    if let Some(affinity) = affinity {
        label("affinity", affinity)?;
    }
    Ok(answer(explained(&app, domain.as_str(), affinity).await?))
}

/// A path that could be used, before anybody asked about its budgets.
struct Candidate<'a> {
    source: &'a SourceConfig,
    target: IpAddr,
    host: &'a str,
    preference: u16,
    /// Why the domain masks of the source exclude it; empty: they do not.
    excluded: &'static str,
}

/// Everything about the paths of a domain.
pub(crate) async fn explained(
    app: &Shared,
    domain: &str,
    affinity: Option<&str>,
) -> Result<Value, Problem> {
    let config = app.questions.config();
    let sources: Vec<&SourceConfig> = match affinity {
        None => config.sources.iter().collect(),
        Some(name) => config
            .sources_of(name)
            .ok_or_else(|| Problem::field("affinity", "there is no affinity of this name"))?,
    };
    let rules = asked(app.questions.rules()).await?;
    let time = config.dns.route_timeout + core::time::Duration::from_secs(5);
    let route = tokio::time::timeout(time, app.questions.route(domain))
        .await
        .map_err(|_| Problem::try_later("the look-up of the route takes too long"))?;
    let route = match route {
        Ok(route) => route,
        Err(fault) => {
            return Ok(json!({
                "domain": domain,
                "route": Value::Null,
                "route_fault": to_json(&fault)?,
                "route_fault_text": fault.to_string(),
                "temporary": fault.is_temporary(),
                "rules_version": rules.version(),
                "rules": [],
                "paths": [],
                "paths_total": 0,
                "ceiling_per_hour": 0,
            }));
        }
    };
    let candidates = candidates(&route, &sources, domain);
    let live = asked(app.questions.paths_of(domain)).await?;
    let shown = with_budgets(app, &candidates, &rules, &live).await?;
    Ok(json!({
        "domain": domain,
        "route": route_shown(&route),
        "rules_version": rules.version(),
        "rules": explained_rules(&route, &sources, &rules)?,
        "targets": candidates.iter().map(|path| path.target).collect::<BTreeSet<_>>().len(),
        "sources": sources.len(),
        "paths": shown,
        "paths_total": candidates.len(),
        "ceiling_per_hour": ceiling(&candidates, &rules),
    }))
}

fn route_shown(route: &MxRoute) -> Value {
    let hosts: Vec<Value> = route
        .hosts
        .iter()
        .map(|host| {
            json!({
                "preference": host.preference,
                "name": host.name,
                "addresses": host.addresses,
            })
        })
        .collect();
    json!({
        "hosts": hosts,
        "port": route.port,
        "lmtp": route.lmtp,
        "relay": route.relay,
        "valid_until": time_text(route.valid_until),
    })
}

/// Sources and targets of one family, whatever else keeps them apart.
fn candidates<'a>(
    route: &'a MxRoute,
    sources: &[&'a SourceConfig],
    domain: &str,
) -> Vec<Candidate<'a>> {
    let mut found = Vec::new();
    for host in &route.hosts {
        for target in &host.addresses {
            for source in sources {
                if source.address.is_ipv6() != target.is_ipv6() {
                    continue;
                }
                found.push(Candidate {
                    source,
                    target: *target,
                    host: &host.name,
                    preference: host.preference,
                    excluded: excluded(source, domain),
                });
            }
        }
    }
    found
}

fn excluded(source: &SourceConfig, domain: &str) -> &'static str {
    let matches = |masks: &[mail::mask::Mask]| masks.iter().any(|mask| mask.matches(domain));
    if !source.include_domains.is_empty() && !matches(&source.include_domains) {
        "include_domains of the source does not name the domain"
    } else if matches(&source.exclude_domains) {
        "exclude_domains of the source names the domain"
    } else {
        ""
    }
}

/// Why each rule holds, for every host and source.
fn explained_rules(
    route: &MxRoute,
    sources: &[&SourceConfig],
    rules: &RuleSet,
) -> Result<Vec<Value>, Problem> {
    let pairs =
        route.hosts.iter().flat_map(|host| sources.iter().map(move |source| (host, source)));
    pairs
        .take(RULES_SHOWN)
        .map(|(host, source)| to_json(&rules.explain(&host.name, source.id)))
        .collect()
}

/// The most messages that all budgets of these paths allow together in any hour.
fn ceiling(candidates: &[Candidate<'_>], rules: &RuleSet) -> u64 {
    let mut budgets: BTreeMap<(u32, Option<SourceId>, Option<IpAddr>), u32> = BTreeMap::new();
    for path in candidates.iter().filter(|path| path.excluded.is_empty()) {
        let rule = rules.find(path.host, path.source.id);
        let limit = rules.limits(rule, path.source.id).messages_per_hour;
        let key = match rules.rule(rule).scope {
            Scope::Path => (rule.0, Some(path.source.id), Some(path.target)),
            Scope::Source => (rule.0, Some(path.source.id), None),
            Scope::Rule => (rule.0, None, None),
        };
        // Sources at different levels share the one budget of a rule: the tightest figure holds.
        budgets.entry(key).and_modify(|known| *known = limit.min(*known)).or_insert(limit);
    }
    budgets.values().map(|limit| u64::from(*limit)).sum()
}

async fn with_budgets(
    app: &Shared,
    candidates: &[Candidate<'_>],
    rules: &RuleSet,
    live: &[PathView],
) -> Result<Vec<Value>, Problem> {
    let listed = &candidates[..candidates.len().min(PATHS_SHOWN)];
    let key = |path: &Candidate<'_>| PathKey { source: path.source.id, target: path.target };
    let keys = listed.iter().map(|path| (key(path), path.host.to_owned())).collect();
    let all = asked(app.questions.budgets_of(keys)).await?;
    let mut shown = Vec::with_capacity(listed.len());
    for (path, budgets) in listed.iter().zip(&all) {
        let key = key(path);
        let rule = rules.find(path.host, path.source.id);
        let state = live.iter().find(|view| view.source == key.source && view.target == key.target);
        shown.push(json!({
            "source": path.source.id,
            "source_address": path.source.address,
            "target": path.target,
            "mx_host": path.host,
            "preference": path.preference,
            "rule": rules.rule(rule).name,
            "excluded": (!path.excluded.is_empty()).then_some(path.excluded),
            "live": to_json(&state)?,
            "budgets": to_json(budgets)?,
        }));
    }
    Ok(shown)
}

/// Budgets that were asked for in one request: the messages of an address share their paths.
#[derive(Default)]
pub(crate) struct Asked(BTreeMap<(PathKey, String), Value>);

impl Asked {
    /// Paths as the engine sees them, each with its budgets; at most as many as are listed elsewhere.
    pub(crate) async fn with_budgets(
        &mut self,
        app: &Shared,
        views: &[PathView],
    ) -> Result<Value, Problem> {
        let listed = &views[..views.len().min(PATHS_SHOWN)];
        let key = |view: &PathView| {
            (PathKey { source: view.source, target: view.target }, view.mx_host.clone())
        };
        let new: Vec<_> = listed.iter().map(key).filter(|key| !self.0.contains_key(key)).collect();
        let found = asked(app.questions.budgets_of(new.clone())).await?;
        for (key, budgets) in new.into_iter().zip(&found) {
            self.0.insert(key, to_json(budgets)?);
        }
        let mut shown = Vec::with_capacity(listed.len());
        for view in listed {
            let budgets = self.0.get(&key(view)).cloned().unwrap_or_default();
            let mut value = to_json(view)?;
            if let Value::Object(members) = &mut value {
                members.insert("budgets".into(), budgets);
            }
            shown.push(value);
        }
        Ok(shown.into())
    }
}

/// The names of the rules that govern these paths, each once.
pub(crate) fn rules_of_views(views: &[PathView]) -> Vec<String> {
    let names: BTreeSet<&str> = views.iter().map(|view| view.rule.as_str()).collect();
    names.into_iter().map(str::to_owned).collect()
}
