//! `mailweir mx explain`: the MX hosts of a domain, the rule for each and why, the paths, the budgets
//! and the ceiling per hour.
//!
//! [`gather`] asks DNS, [`explain`] works everything out from what was gathered (without asking
//! anybody), [`super::live`] adds what a running node knows, [`super::text`] writes it for people.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use mail::id::SourceId;
use node::config::{Config, SourceConfig};
use rules::{Level, Levels, SourceSet};

use super::{live, text};
use crate::client::{NodeArguments, NodeClient};
use crate::exit::{Ended, Failure, Outcome};
use crate::globals::{Globals, mx_below, rule_set, whose};
use crate::output::{print, print_json};

mod answer;
mod gather;
mod reckon;
#[cfg(test)]
mod tests;

pub use answer::{Explained, ExplainedHost, ExplainedSource};
pub use gather::resolver;
use gather::{Found, bare_host, gather, name_of};
use reckon::explain;

/// The long help. Paragraphs are one line each, for the terminal to fold; the list fits 80 columns.
pub const LONG_ABOUT: &str = "\
Which rule holds for a domain's mail exchangers, why, and how much it allows.

Give an address or a domain: its MX hosts and their addresses (targets) come from DNS. Or give the \
name of an MX host. A budget is what a limit counts over: with scope `source` one for each source, \
with `path` one for each source and target, with `rule` one in all. The ceiling per hour is the sum \
of the limits of all budgets: limit × budgets. The same target under two MX hosts is one path.

When a node is running, its live state is shown too: what is used, what rests, when it goes on.

Exit status 0; 1 when the domain takes no mail or DNS gave no answer.

Fields of --format json (stable; new ones may be added):
  query             what was asked
  domain            its domain; null for an MX host taken by name
  route_fault       why there is no route: {fault, why}; else null
  mx_hosts[]        name, preference, addresses[], level, level_origin, scope,
                    pacing, tls, timeouts,
                    rule {name, provider, file, line, column, mask, sources,
                    source_of_figures, confidence},
                    limits {max_connections, max_messages_per_connection,
                    messages_per_hour, connections_per_minute, min_interval},
                    figures[] {figure, value, written, place, origin, cap, why},
                    other_sources[] {source, rule, level, limits}: sources for
                    which another rule or level holds
  sources[]         id, address, helo, cap_per_hour, used, why_not
  targets           distinct addresses
  paths[]           source, target, mx_hosts[], rule;
                    live: state, connections, next_at, wait
  paths_total       distinct paths: source × target
  budgets[]         rule, scope, key, limit_per_hour, max_connections, paths;
                    live: used, used_in_period, period_limit, next_at,
                    connections
  ceilings[]        rule, scope, sources, targets, budgets, arithmetic,
                    ceiling_per_hour
  ceiling_per_hour  over all rules, with the caps of the sources
  live              whether a running node was asked
  notes[]           in words";

/// `mailweir mx explain`
#[derive(Debug, Args)]
pub struct MxExplainArguments {
    /// Address, domain or name of an MX host
    what: String,
    /// Take it as the name of an MX host and do not ask DNS
    #[arg(long)]
    mx_host: bool,
    /// Only these sources: public_ids such as 1,4-7 [default: all of the affinity]
    #[arg(long, value_name = "PUBLIC_IDS", conflicts_with = "affinity")]
    source: Option<String>,
    /// The affinity whose sources are used
    #[arg(long, default_value = "default")]
    affinity: String,
    /// Figures at this general level, in place of that of the configuration
    #[arg(long)]
    level: Option<Level>,
    /// Local rules, put before the shipped ones [default: those of the configuration]
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// Ask this name server
    #[arg(long, value_name = "IP:PORT")]
    dns: Option<SocketAddr>,
    /// Do not ask a running node
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    node: NodeArguments,
}

/// The sources that the options and the configuration ask for, with what keeps any of them away from
/// the domain.
///
/// # Errors
/// Unknown affinity or source; an id that cannot be read.
fn sources_for(
    config: Option<&Config>,
    arguments: &MxExplainArguments,
    domain: Option<&str>,
) -> Result<Vec<ExplainedSource>, Failure> {
    let chosen = arguments
        .source
        .as_deref()
        // As they are shown, too: s1, s4-s7.
        .map(|text| SourceSet::parse(&text.replace(['s', 'S'], "")))
        .transpose()
        .map_err(|fault| Failure::environment(format!("--source: {}", fault.message)))?;
    let Some(config) = config else {
        let ids = match &chosen {
            None => vec![1],
            Some(chosen) if chosen.is_all() => vec![1],
            Some(chosen) => (0..=100_000).filter(|id| chosen.contains(SourceId(*id))).collect(),
        };
        let unknown = |id| ExplainedSource {
            id,
            address: None,
            helo: None,
            cap_per_hour: None,
            used: true,
            why_not: None,
        };
        return Ok(ids.into_iter().map(unknown).collect());
    };
    let sources: Vec<&SourceConfig> = match &chosen {
        Some(chosen) => config.sources.iter().filter(|source| chosen.contains(source.id)).collect(),
        None => config.sources_of(&arguments.affinity).ok_or_else(|| {
            let names: Vec<&str> = config.affinities.iter().map(|one| one.name.as_str()).collect();
            Failure::environment(format!(
                "there is no affinity {:?}; there are: {}",
                arguments.affinity,
                names.join(", ")
            ))
        })?,
    };
    if sources.is_empty() {
        return Err(Failure::environment("the configuration has none of these sources"));
    }
    Ok(sources.into_iter().map(|source| configured_source(source, domain)).collect())
}

fn configured_source(source: &SourceConfig, domain: Option<&str>) -> ExplainedSource {
    let matching = |masks: &[mail::mask::Mask]| {
        domain.and_then(|domain| masks.iter().find(|mask| mask.matches(domain)).cloned())
    };
    let why_not = if let Some(mask) = matching(&source.exclude_domains) {
        Some(format!("exclude_domains: {mask}"))
    } else if domain.is_some()
        && !source.include_domains.is_empty()
        && matching(&source.include_domains).is_none()
    {
        Some("no mask of include_domains matches".to_owned())
    } else {
        None
    };
    ExplainedSource {
        id: source.id.0,
        address: Some(source.address),
        helo: Some(source.helo.as_str().to_owned()),
        cap_per_hour: source.messages_per_hour,
        used: why_not.is_none(),
        why_not,
    }
}

/// The levels of the running node, with what was decided since it started; `None`: no node answers, or the options
/// say another level. With them comes what is to be said about it.
///
/// # Errors
/// The address of the node cannot be meant.
async fn levels_in_force(
    globals: &Globals,
    arguments: &MxExplainArguments,
    config: Option<&Config>,
) -> Result<(Option<Levels>, Vec<String>), Failure> {
    let listens = config.is_some_and(|config| !config.http.listen.is_empty());
    let askable = arguments.node.url.is_some() || listens;
    if arguments.offline || arguments.level.is_some() || !askable {
        return Ok((None, Vec::new()));
    }
    let client = NodeClient::new(globals, &arguments.node)?;
    let configured = "the levels are those of the configuration, without later decisions";
    Ok(match client.get_if_running(&["levels"]).await {
        Ok(None) => (None, Vec::new()),
        Ok(Some(mut answer)) => {
            let held = answer.get_mut("in_force").map(serde_json::Value::take).unwrap_or_default();
            match serde_json::from_value(held) {
                Ok(levels) => (Some(levels), Vec::new()),
                Err(fault) => (
                    None,
                    vec![format!("the node's levels cannot be read ({fault}): {configured}")],
                ),
            }
        }
        Err(fault) => (None, vec![format!("{fault}: {configured}")]),
    })
}

/// Carries the command out.
///
/// # Errors
/// Unreadable question, faults in configuration or rules.
pub fn run(globals: &Globals, arguments: &MxExplainArguments) -> Ended {
    let config = globals.load_without_secrets()?;
    let runtime = crate::runtime()?;
    let (held, mut notes) =
        runtime.block_on(levels_in_force(globals, arguments, config.as_ref()))?;
    let below = mx_below(config.as_ref());
    if below.version().is_some() {
        notes.push(format!("the MX rules below the operator's own are {}", whose(&below)));
    }
    let rules = match held {
        Some(levels) => {
            let configured = config.as_ref().and_then(|config| config.rules.mx.as_deref());
            rule_set(arguments.rules.as_deref().or(configured), below.file(), &levels)?
        }
        None => {
            let (local, level) = (arguments.rules.as_deref(), arguments.level);
            super::rules_for(config.as_ref(), &below, local, level)?
        }
    };
    let found = if arguments.mx_host {
        let (name, _) = name_of(&arguments.what)?;
        Found {
            query: arguments.what.clone(),
            domain: None,
            hosts: vec![bare_host(&name)],
            fault: None,
            notes: vec!["DNS was not asked, so there are no targets".to_owned()],
        }
    } else {
        // Without a configuration nothing says that a source has IPv6.
        let ipv6 = config.as_ref().is_some_and(|config| config.dns.ipv6);
        runtime.block_on(async {
            gather(&resolver(config.as_ref(), arguments.dns)?, ipv6, &arguments.what).await
        })?
    };
    let sources = sources_for(config.as_ref(), arguments, found.domain.as_deref())?;
    let is_relay = found
        .domain
        .as_deref()
        .zip(config.as_ref())
        .is_some_and(|(domain, config)| config.relay_for(domain).is_some());
    let mut explained = explain(&rules, &sources, found);
    explained.notes.append(&mut notes);
    if is_relay {
        explained.notes.push("a [[relay]] of the configuration stands in for its MX hosts".into());
    }
    if config.is_none() && arguments.source.is_none() {
        explained
            .notes
            .push("no configuration: one source, s1, is assumed (--source 1-3 for others)".into());
    }
    if let Some(domain) = explained.domain.clone()
        && !arguments.offline
    {
        let client = NodeClient::new(globals, &arguments.node)?;
        match runtime.block_on(client.get_if_running(&["paths", &domain])) {
            Ok(Some(answer)) => live::merge(&mut explained, &answer),
            Ok(None) => {}
            Err(fault) => explained.notes.push(format!("live state: {fault}")),
        }
    }
    if globals.json() {
        print_json(&explained)?;
    } else {
        print(&text::show(&explained))?;
    }
    Ok(Outcome::of(explained.route_fault.is_none()))
}
