//! Rules, paths, budgets and ceilings from what was gathered. Asks nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use mail::id::SourceId;
use rules::{Explanation, RuleSet, Scope};

use super::answer::{
    Ceiling, Explained, ExplainedBudget, ExplainedHost, ExplainedPath, ExplainedSource, HostRule,
    OtherSource,
};
use super::gather::{Found, FoundHost};
use crate::output::number;

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
    let first = shown.first().copied().unwrap_or(SourceId(1));
    let mut held_by = found.hosts.iter().map(|host| rules.rule(rules.find(&host.name, first)));
    let shared = held_by.find(|rule| rule.shares_budget_of_unknown_hosts());
    if let Some(rule) = shared {
        let each =
            if rule.scope == rules::Scope::Rule { "all sources together" } else { "each source" };
        notes.push(format!(
            "rule {} is the generic rule: its ceiling is one for {each} and shared by every host without a rule of its own; \
             a rule for this host, or scope = \"path\" in the generic rule, gives it a ceiling of its own",
            rule.name
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
