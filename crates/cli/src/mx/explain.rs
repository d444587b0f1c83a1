//! `mailweir mx explain`: the MX hosts of a domain, the rule for each and why, the paths, the budgets
//! and the ceiling per hour.
//!
//! [`gather`] asks DNS, [`explain`] works everything out from what was gathered (without asking
//! anybody), [`super::live`] adds what a running node knows, [`super::text`] writes it for people.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use mail::address::{Domain, Mailbox};
use mail::id::SourceId;
use mail::route::{MxRoute, RouteFault};
use node::clock::SteadyClock;
use node::config::{Config, DnsConfig, SourceConfig};
use node::dns::Resolver;
use rules::{
    Confidence, ExplainedFigure, Explanation, Level, LevelOrigin, Limits, Pacing, RuleSet, Scope,
    SourceSet, Timeouts, TlsPolicy,
};
use serde::Serialize;

use crate::client::{NodeArguments, NodeClient};
use crate::exit::{Ended, Failure, Outcome};
use crate::globals::Globals;
use crate::output::{number, print, print_json};

use super::{live, text};

const LONG_ABOUT: &str = "\
Which rule holds for a domain's mail exchangers, why, and how much it allows.

Give an address or a domain: its MX hosts and their addresses (targets) come from DNS. Or give the
name of an MX host. A budget is what a limit counts over: with scope `source` one for each source,
with `path` one for each source and target, with `rule` one in all. The ceiling per hour is the sum of
the limits of all budgets: limit × budgets. The same target under two MX hosts is one path.

When a node is running, its live state is shown too: what is used, what rests, when it goes on.

Exit status 0; 1 when the domain takes no mail or DNS gave no answer.

Fields of --format json (stable; new ones may be added):
  query, domain         what was asked, and its domain (absent for an MX host taken by name)
  route_fault           why there is no route: {fault, why}; else null
  mx_hosts[]            name, preference, addresses[], rule {name, provider, file, line, column, mask,
                        sources, source_of_figures, confidence}, level, level_origin, limits
                        {max_connections, max_messages_per_connection, messages_per_hour,
                        connections_per_minute, min_interval}, figures[] {figure, value, written,
                        place, origin, cap, why}, scope, pacing, tls, timeouts, other_sources[]
                        (sources for which another rule or level holds)
  sources[]             id, address, helo, cap_per_hour, used (false: why_not says why)
  targets               distinct addresses
  paths[]               source, target, mx_hosts[], rule; live: state, connections, next_at, wait
  paths_total           distinct paths: source × target
  budgets[]             rule, scope, key, limit_per_hour, max_connections, paths; live: used,
                        used_in_period, period_limit, next_at, connections
  ceilings[]            rule, scope, sources, targets, budgets, arithmetic, ceiling_per_hour
  ceiling_per_hour      over all rules, with the caps of the sources
  live                  whether a running node was asked
  notes[]               in words";

/// `mailweir mx explain`
#[derive(Debug, Args)]
#[command(long_about = LONG_ABOUT)]
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
    /// Figures at this level, in place of that of the configuration
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

/// A source as the explanation shows it.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedSource {
    /// Its number.
    pub id: u32,
    /// The address that it is bound to; `None` when no configuration says.
    pub address: Option<IpAddr>,
    /// Its HELO name.
    pub helo: Option<String>,
    /// Its cap over all rules.
    pub cap_per_hour: Option<u32>,
    /// Whether it may write to this domain.
    pub used: bool,
    /// Why it is not used.
    pub why_not: Option<String>,
}

/// The rule of an MX host.
#[derive(Clone, Debug, Serialize)]
pub struct HostRule {
    /// Its name.
    pub name: String,
    /// The provider.
    pub provider: String,
    /// The file in which it stands.
    pub file: String,
    /// Its line.
    pub line: u32,
    /// Its column.
    pub column: u32,
    /// The mask that matched.
    pub mask: String,
    /// The sources that it is for.
    pub sources: String,
    /// Where its figures come from.
    pub source_of_figures: String,
    /// How far they can be trusted.
    pub confidence: Confidence,
}

/// An MX host and what holds for it.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedHost {
    /// Its name.
    pub name: String,
    /// Lowest first.
    pub preference: u16,
    /// All its addresses.
    pub addresses: Vec<IpAddr>,
    /// The rule for the first source.
    pub rule: HostRule,
    /// The level for the first source.
    pub level: Level,
    /// Who set it.
    pub level_origin: LevelOrigin,
    /// What the limits count over.
    pub scope: Scope,
    /// How the hour is spread.
    pub pacing: Pacing,
    /// Whether conversations are encrypted.
    pub tls: TlsPolicy,
    /// How long conversations wait.
    pub timeouts: Timeouts,
    /// The limits for the first source.
    pub limits: Limits,
    /// Where each comes from.
    pub figures: Vec<ExplainedFigure>,
    /// Sources for which another rule or level holds.
    pub other_sources: Vec<OtherSource>,
}

/// A source for which an MX host has another rule or level.
#[derive(Clone, Debug, Serialize)]
pub struct OtherSource {
    /// The source.
    pub source: u32,
    /// Its rule.
    pub rule: String,
    /// Its level.
    pub level: Level,
    /// Its limits.
    pub limits: Limits,
}

/// A path: source × target.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedPath {
    /// The source.
    pub source: u32,
    /// The target.
    pub target: IpAddr,
    /// The MX hosts under which it is reached.
    pub mx_hosts: Vec<String>,
    /// The rule of the first of them.
    pub rule: String,
    /// What a running node says.
    #[serde(flatten)]
    pub live: Option<live::LivePath>,
}

/// A budget.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedBudget {
    /// Its rule.
    pub rule: String,
    /// What it counts over.
    pub scope: Scope,
    /// `s1`, `s1>192.0.2.1` or `all`.
    pub key: String,
    /// Messages in any hour.
    pub limit_per_hour: u32,
    /// Connections at one time.
    pub max_connections: u32,
    /// Paths that count in it.
    pub paths: u64,
    /// What a running node says.
    #[serde(flatten)]
    pub live: Option<live::LiveBudget>,
}

/// The ceiling of one rule.
#[derive(Clone, Debug, Serialize)]
pub struct Ceiling {
    /// The rule.
    pub rule: String,
    /// What it counts over.
    pub scope: Scope,
    /// Sources that use it.
    pub sources: u64,
    /// Targets that it governs.
    pub targets: u64,
    /// Its budgets.
    pub budgets: u64,
    /// `10,000 × 14 = 140,000`.
    pub arithmetic: String,
    /// Messages in any hour, by the rule alone.
    pub ceiling_per_hour: u64,
}

/// The whole answer.
#[derive(Clone, Debug, Serialize)]
pub struct Explained {
    /// What was asked.
    pub query: String,
    /// The domain; `None`: a name taken as that of an MX host.
    pub domain: Option<String>,
    /// Why there is no route.
    pub route_fault: Option<RouteFault>,
    /// In the order in which they are tried.
    pub mx_hosts: Vec<ExplainedHost>,
    /// Our side.
    pub sources: Vec<ExplainedSource>,
    /// Distinct addresses.
    pub targets: u64,
    /// Every one once.
    pub paths: Vec<ExplainedPath>,
    /// How many there are.
    pub paths_total: u64,
    /// Every one once.
    pub budgets: Vec<ExplainedBudget>,
    /// One for each rule.
    pub ceilings: Vec<Ceiling>,
    /// Messages in any hour over everything.
    pub ceiling_per_hour: u64,
    /// Whether a running node was asked.
    pub live: bool,
    /// In words.
    pub notes: Vec<String>,
}

/// An MX host with all its addresses, those that other hosts have too among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundHost {
    /// Its name.
    pub name: String,
    /// Its preference.
    pub preference: u16,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// What DNS said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What was asked.
    pub query: String,
    /// The domain; `None`: the question is about an MX host.
    pub domain: Option<String>,
    /// The hosts; empty with a fault.
    pub hosts: Vec<FoundHost>,
    /// Why there is no route.
    pub fault: Option<RouteFault>,
    /// What is worth saying.
    pub notes: Vec<String>,
}

/// Reads the question: address, domain or host. Answers the name, and whether it was an address.
///
/// # Errors
/// It is none of them.
fn name_of(what: &str) -> Result<(String, bool), Failure> {
    let bad = |why: &dyn std::fmt::Display| {
        Failure::environment(format!("{what:?} is no address, domain or MX host: {why}"))
    };
    if what.contains('@') {
        let mailbox = Mailbox::parse(what).map_err(|fault| bad(&fault))?;
        return Ok((mailbox.domain().to_owned(), true));
    }
    if let Ok(address) = what.parse::<IpAddr>() {
        return Ok((address.to_string(), false));
    }
    let plain = what.strip_suffix('.').unwrap_or(what);
    let domain = Domain::parse(plain).map_err(|fault| bad(&fault))?;
    Ok((domain.as_str().to_owned(), false))
}

/// Asks DNS for the route of a domain and for all addresses of each of its hosts.
///
/// # Errors
/// `what` cannot be read.
pub async fn gather(resolver: &Resolver, ipv6: bool, what: &str) -> Result<Found, Failure> {
    let (name, is_address) = name_of(what)?;
    let now = SteadyClock::start_at_wall().now();
    let (routed, _) = resolver.route(&name, now).await;
    let mut found = Found {
        query: what.to_owned(),
        domain: Some(name.clone()),
        hosts: Vec::new(),
        fault: None,
        notes: Vec::new(),
    };
    match routed {
        Ok(route) => found.hosts = with_all_addresses(resolver, ipv6, &route).await,
        Err(fault) => {
            found.notes.push(format!("no route to {name}: {}", fault_words(&fault)));
            if !is_address {
                // Perhaps an MX host of which DNS knows nothing here; the rules know it all the same.
                found.notes.push(format!(
                    "below, {name} is taken as the name of an MX host (--mx-host does so at once)"
                ));
                found.hosts = vec![bare_host(&name)];
                found.domain = None;
            }
            found.fault = Some(fault);
        }
    }
    if let [host] = found.hosts.as_slice()
        && found.fault.is_none()
        && host.name == name
    {
        found.notes.push(format!(
            "{name} has no MX record: it is an MX host itself, or a domain whose mail goes to its own addresses"
        ));
    }
    Ok(found)
}

/// An MX host of which only the name is known.
fn bare_host(name: &str) -> FoundHost {
    FoundHost { name: name.to_owned(), preference: 0, addresses: Vec::new() }
}

/// A fault of routing in words.
pub fn fault_words(fault: &RouteFault) -> String {
    match fault {
        RouteFault::NoSuchDomain => "the domain does not exist".to_owned(),
        RouteFault::NoMailHost => "the domain has neither MX nor address".to_owned(),
        RouteFault::NullMx => "the domain takes no mail (null MX, RFC 7505)".to_owned(),
        RouteFault::Loop => {
            "we are its best mail exchanger ourselves; see [dns] own_names and own_addresses"
                .to_owned()
        }
        RouteFault::BadName { why } => why.clone(),
        RouteFault::Temporary { why } => format!("{why} (may pass)"),
    }
}

/// A route names each address once, under the first of its hosts. For people every host gets all its
/// addresses; a host that cannot be asked again keeps those of the route.
async fn with_all_addresses(resolver: &Resolver, ipv6: bool, route: &MxRoute) -> Vec<FoundHost> {
    let mut hosts = Vec::with_capacity(route.hosts.len());
    for host in &route.hosts {
        let mut addresses = host.addresses.clone();
        if host.name.parse::<IpAddr>().is_err()
            && let Ok(all) = resolver.addresses(&host.name).await
        {
            for address in all.into_iter().map(|address| address.to_canonical()) {
                if (ipv6 || address.is_ipv4()) && !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        hosts.push(FoundHost {
            name: host.name.to_string(),
            preference: host.preference,
            addresses,
        });
    }
    hosts
}

/// Works out rules, paths, budgets and ceilings. Asks nobody.
#[must_use]
pub fn explain(rules: &RuleSet, sources: &[ExplainedSource], found: Found) -> Explained {
    let used: Vec<&ExplainedSource> = sources.iter().filter(|source| source.used).collect();
    // Without a source that may be used, the rules are still worth showing.
    let shown: Vec<SourceId> = match used.as_slice() {
        [] => sources.iter().map(|source| SourceId(source.id)).take(1).collect(),
        used => used.iter().map(|source| SourceId(source.id)).collect(),
    };
    let shown = if shown.is_empty() { vec![SourceId(1)] } else { shown };
    let mx_hosts = found.hosts.iter().map(|host| explain_host(rules, &shown, host)).collect();
    let (paths, governed) = paths(rules, &used, &found.hosts);
    let budgets = budgets(rules, &governed);
    let ceilings = ceilings(rules, &governed, &budgets);
    let targets: BTreeSet<IpAddr> =
        found.hosts.iter().flat_map(|host| host.addresses.iter().copied()).collect();
    let mut notes = found.notes;
    let named: usize = found.hosts.iter().map(|host| host.addresses.len()).sum();
    if named > targets.len() {
        notes.push(format!(
            "{named} addresses under {} MX hosts are {} distinct targets; a target under two names is one path",
            found.hosts.len(),
            targets.len()
        ));
    }
    let by_rules =
        ceilings.iter().map(|ceiling| ceiling.ceiling_per_hour).fold(0, u64::saturating_add);
    let ceiling_per_hour = capped(by_rules, &used, &budgets);
    if ceiling_per_hour < by_rules {
        notes.push(format!(
            "the caps of the sources lower the ceiling from {} to {}",
            number(by_rules),
            number(ceiling_per_hour)
        ));
    }
    if used.is_empty() {
        notes.push("no source may write to this domain, so there is no path".to_owned());
    }
    Explained {
        query: found.query,
        domain: found.domain,
        route_fault: found.fault,
        mx_hosts,
        sources: sources.to_vec(),
        targets: targets.len() as u64,
        paths_total: paths.len() as u64,
        paths,
        budgets,
        ceilings,
        ceiling_per_hour,
        live: false,
        notes,
    }
}

fn explain_host(rules: &RuleSet, sources: &[SourceId], host: &FoundHost) -> ExplainedHost {
    let first = sources.first().copied().unwrap_or(SourceId(1));
    let explanation: Explanation = rules.explain(&host.name, first);
    let other_sources = sources
        .iter()
        .skip(1)
        .map(|source| (*source, rules.find(&host.name, *source)))
        .map(|(source, id)| OtherSource {
            source: source.0,
            rule: rules.rule(id).name.to_string(),
            level: rules.level(id, source),
            limits: rules.limits(id, source),
        })
        .filter(|other| *other.rule != *explanation.rule || other.level != explanation.level)
        .collect();
    ExplainedHost {
        name: host.name.clone(),
        preference: host.preference,
        addresses: host.addresses.clone(),
        rule: HostRule {
            name: explanation.rule.to_string(),
            provider: explanation.provider.to_string(),
            file: explanation.place.file.to_string(),
            line: explanation.place.line,
            column: explanation.place.column,
            mask: explanation.mask,
            sources: explanation.sources,
            source_of_figures: explanation.source_of_figures.to_string(),
            confidence: explanation.confidence,
        },
        level: explanation.level,
        level_origin: explanation.level_origin,
        scope: explanation.scope,
        pacing: explanation.pacing,
        tls: explanation.tls,
        timeouts: explanation.timeouts,
        limits: explanation.limits,
        figures: explanation.figures,
        other_sources,
    }
}

/// A path and the rule that it falls under.
struct Governed {
    source: SourceId,
    target: IpAddr,
    rule: rules::RuleId,
}

/// Whether a source can reach a target: both IPv4 or both IPv6. Unknown families fit everything.
fn reaches(source: &ExplainedSource, target: IpAddr) -> bool {
    source.address.is_none_or(|address| address.is_ipv4() == target.is_ipv4())
}

/// Every path once, with all hosts under which it is reached. A path counts for the rule of each of
/// them.
fn paths(
    rules: &RuleSet,
    sources: &[&ExplainedSource],
    hosts: &[FoundHost],
) -> (Vec<ExplainedPath>, Vec<Governed>) {
    let mut places: BTreeMap<(u32, IpAddr), usize> = BTreeMap::new();
    let mut paths: Vec<ExplainedPath> = Vec::new();
    let mut governed: BTreeMap<(u32, IpAddr, rules::RuleId), ()> = BTreeMap::new();
    for host in hosts {
        for source in sources {
            let rule = rules.find(&host.name, SourceId(source.id));
            for target in host.addresses.iter().copied().filter(|target| reaches(source, *target)) {
                governed.insert((source.id, target, rule), ());
                let place = *places.entry((source.id, target)).or_insert_with(|| {
                    paths.push(ExplainedPath {
                        source: source.id,
                        target,
                        mx_hosts: Vec::new(),
                        rule: rules.rule(rule).name.to_string(),
                        live: None,
                    });
                    paths.len() - 1
                });
                paths[place].mx_hosts.push(host.name.clone());
            }
        }
    }
    let governed = governed
        .into_keys()
        .map(|(source, target, rule)| Governed { source: SourceId(source), target, rule })
        .collect();
    (paths, governed)
}

fn budgets(rules: &RuleSet, governed: &[Governed]) -> Vec<ExplainedBudget> {
    let mut found: BTreeMap<(rules::RuleId, Option<SourceId>, Option<IpAddr>), ExplainedBudget> =
        BTreeMap::new();
    for path in governed {
        let rule = rules.rule(path.rule);
        let limits = rules.limits(path.rule, path.source);
        let (source, target, key) = match rule.scope {
            Scope::Path => {
                (Some(path.source), Some(path.target), format!("{}>{}", path.source, path.target))
            }
            Scope::Source => (Some(path.source), None, path.source.to_string()),
            Scope::Rule => (None, None, "all".to_owned()),
        };
        let budget = found.entry((path.rule, source, target)).or_insert(ExplainedBudget {
            rule: rule.name.to_string(),
            scope: rule.scope,
            key,
            limit_per_hour: limits.messages_per_hour,
            max_connections: limits.max_connections,
            paths: 0,
            live: None,
        });
        // One budget for sources at different levels: the gentlest level holds.
        budget.limit_per_hour = budget.limit_per_hour.min(limits.messages_per_hour);
        budget.max_connections = budget.max_connections.min(limits.max_connections);
        budget.paths += 1;
    }
    found.into_values().collect()
}

/// The ceiling of each rule: limit × budgets, summed over different limits (levels of sources).
fn ceilings(rules: &RuleSet, governed: &[Governed], budgets: &[ExplainedBudget]) -> Vec<Ceiling> {
    let ids: BTreeSet<rules::RuleId> = governed.iter().map(|path| path.rule).collect();
    let of_rule = |id: rules::RuleId| {
        let rule = rules.rule(id);
        let paths = || governed.iter().filter(move |path| path.rule == id);
        let mut by_limit: BTreeMap<u32, u64> = BTreeMap::new();
        for budget in budgets.iter().filter(|budget| *budget.rule == *rule.name) {
            *by_limit.entry(budget.limit_per_hour).or_default() += 1;
        }
        let ceiling = by_limit
            .iter()
            .map(|(limit, budgets)| u64::from(*limit).saturating_mul(*budgets))
            .fold(0, u64::saturating_add);
        let products: Vec<String> = by_limit
            .iter()
            .map(|(limit, budgets)| format!("{} × {budgets}", number(u64::from(*limit))))
            .collect();
        Ceiling {
            rule: rule.name.to_string(),
            scope: rule.scope,
            sources: paths().map(|path| path.source).collect::<BTreeSet<_>>().len() as u64,
            targets: paths().map(|path| path.target).collect::<BTreeSet<_>>().len() as u64,
            budgets: by_limit.values().sum(),
            arithmetic: format!("{} = {}", products.join(" + "), number(ceiling)),
            ceiling_per_hour: ceiling,
        }
    };
    ids.into_iter().map(of_rule).collect()
}

/// The ceiling under the caps of the sources: each source sends at most its cap, whatever its budgets
/// allow; budgets of scope `rule` may be spent by any source.
fn capped(by_rules: u64, sources: &[&ExplainedSource], budgets: &[ExplainedBudget]) -> u64 {
    if sources.iter().all(|source| source.cap_per_hour.is_none()) {
        return by_rules;
    }
    let sum = |belongs: &dyn Fn(&ExplainedBudget) -> bool| {
        let limits = budgets.iter().filter(|budget| belongs(budget));
        limits.map(|budget| u64::from(budget.limit_per_hour)).fold(0, u64::saturating_add)
    };
    let shared = sum(&|budget| budget.scope == Scope::Rule);
    let of_source = |source: &&ExplainedSource| {
        let name = SourceId(source.id).to_string();
        let own = sum(&|budget| {
            budget.scope != Scope::Rule && budget.key.split('>').next() == Some(name.as_str())
        });
        (own, source.cap_per_hour.map_or(u64::MAX, u64::from))
    };
    let amounts: Vec<(u64, u64)> = sources.iter().map(of_source).collect();
    let own_first: u64 =
        amounts.iter().map(|(own, cap)| *own.min(cap)).fold(shared, u64::saturating_add);
    let together: u64 = amounts
        .iter()
        .map(|(own, cap)| own.saturating_add(shared).min(*cap))
        .fold(0, u64::saturating_add);
    by_rules.min(own_first).min(together)
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
        .map(SourceSet::parse)
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

/// The resolver of the configuration, or of `--dns`.
fn resolver(config: Option<&Config>, dns: Option<SocketAddr>) -> Result<Resolver, Failure> {
    let made = match (config, dns) {
        (Some(config), None) => Resolver::for_config(config),
        (Some(config), Some(server)) => {
            let dns = DnsConfig { servers: vec![server], ..config.dns.clone() };
            Resolver::with_relays(&dns, config.smtp_client.port, &config.relays)
        }
        (None, server) => {
            let servers = server.into_iter().collect();
            Resolver::new(&DnsConfig { servers, ..DnsConfig::default() })
        }
    };
    made.map_err(|fault| Failure::environment(fault.to_string()))
}

/// Carries the command out.
///
/// # Errors
/// Unreadable question, faults in configuration or rules.
pub fn run(globals: &Globals, arguments: &MxExplainArguments) -> Ended {
    let config = globals.load_without_secrets()?;
    let rules = super::rules_for(config.as_ref(), arguments.rules.as_deref(), arguments.level)?;
    let runtime = crate::runtime()?;
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

#[cfg(test)]
mod tests;
