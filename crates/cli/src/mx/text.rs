//! `mx explain` for people.

use std::fmt::Write as _;

use crate::output::{count, number, printable, short_moment, table};

use super::explain::{Explained, ExplainedHost};

/// Rows of a table beyond which the rest is only counted; JSON has them all.
const MOST_ROWS: usize = 40;

/// The explanation as text.
#[must_use]
pub fn show(explained: &Explained) -> String {
    let mut text = String::new();
    let subject = match &explained.domain {
        Some(domain) if *domain != explained.query => format!("{} ({domain})", explained.query),
        _ => explained.query.clone(),
    };
    let _ = writeln!(text, "{subject}\n");
    hosts(&mut text, explained);
    rules(&mut text, explained);
    sources(&mut text, explained);
    paths(&mut text, explained);
    budgets(&mut text, explained);
    ceilings(&mut text, explained);
    for note in &explained.notes {
        let _ = writeln!(text, "note: {}", printable(note));
    }
    text
}

fn hosts(text: &mut String, explained: &Explained) {
    if explained.mx_hosts.is_empty() {
        return;
    }
    let mut hosts =
        table(&[">preference", "MX host", "addresses", "rule", "mask", "from", "level"])
            .leaves_out(&["from", "mask", "level", "preference"]);
    for host in &explained.mx_hosts {
        let addresses: Vec<String> = host.addresses.iter().map(ToString::to_string).collect();
        hosts.add_row([
            host.preference.to_string(),
            host.name.clone(),
            if addresses.is_empty() { "-".to_owned() } else { addresses.join(" ") },
            host.rule.name.clone(),
            host.rule.mask.clone(),
            format!("{}:{}", host.rule.file, host.rule.line),
            host.level.to_string(),
        ]);
    }
    let _ = writeln!(text, "{hosts}\n");
}

/// Each rule once, with the steps that led to its figures.
fn rules(text: &mut String, explained: &Explained) {
    let mut shown: Vec<&str> = Vec::new();
    for host in &explained.mx_hosts {
        if shown.contains(&host.rule.name.as_str()) {
            continue;
        }
        shown.push(&host.rule.name);
        rule(text, host);
    }
}

fn rule(text: &mut String, host: &ExplainedHost) {
    let named = &host.rule;
    let origin = host.level_origin.words();
    let _ =
        writeln!(text, "rule {} ({}), {}:{}", named.name, named.provider, named.file, named.line);
    let _ = writeln!(
        text,
        "  why: the first rule that matches {} (mask {}, sources {})",
        host.name, named.mask, named.sources
    );
    let _ = writeln!(
        text,
        "  scope {}, pacing {}, tls {}, level {} ({})",
        host.scope, host.pacing, host.tls, host.level, origin
    );
    for figure in &host.figures {
        let _ = writeln!(
            text,
            "  {} {}: {}",
            super::figure_name(figure.figure),
            figure.figure.show(figure.value),
            figure.why
        );
    }
    if !named.source_of_figures.is_empty() {
        let _ = writeln!(
            text,
            "  figures from: {} (confidence {})",
            named.source_of_figures, named.confidence
        );
    }
    for other in &host.other_sources {
        let _ = writeln!(
            text,
            "  but from s{}: rule {}, level {}, {} an hour",
            other.source,
            other.rule,
            other.level,
            number(u64::from(other.limits.messages_per_hour))
        );
    }
    text.push('\n');
}

fn sources(text: &mut String, explained: &Explained) {
    let known = explained.sources.iter().any(|source| source.address.is_some());
    if !known {
        return;
    }
    let mut sources = table(&["source", "address", "HELO", ">cap per hour", "used"]);
    for source in &explained.sources {
        sources.add_row([
            format!("s{}", source.id),
            source.address.map_or_else(|| "-".to_owned(), |address| address.to_string()),
            source.helo.clone().unwrap_or_else(|| "-".to_owned()),
            source.cap_per_hour.map_or_else(|| "-".to_owned(), |cap| number(u64::from(cap))),
            source.why_not.as_ref().map_or_else(|| "yes".to_owned(), |why| format!("no: {why}")),
        ]);
    }
    let _ = writeln!(text, "{sources}\n");
}

fn paths(text: &mut String, explained: &Explained) {
    if explained.mx_hosts.is_empty() {
        return;
    }
    let used = explained.sources.iter().filter(|source| source.used).count() as u64;
    let _ = writeln!(
        text,
        "{} distinct {}: {} × {}{}\n",
        number(explained.paths_total),
        if explained.paths_total == 1 { "path" } else { "paths" },
        count(used, "source"),
        count(explained.targets, "target"),
        if used * explained.targets == explained.paths_total {
            ""
        } else {
            ", as far as both are IPv4 or both IPv6"
        }
    );
    if !explained.live || explained.paths.is_empty() {
        return;
    }
    let mut paths = table(&["path", "MX host", "state", ">connections", "next", "why"])
        .leaves_out(&["MX host", "connections"]);
    let now = wall_now();
    for path in explained.paths.iter().take(MOST_ROWS) {
        let live = path.live.clone().unwrap_or_default();
        paths.add_row([
            format!("s{}>{}", path.source, path.target),
            path.mx_hosts.first().cloned().unwrap_or_default(),
            if live.state.is_empty() { "not used yet".to_owned() } else { printable(&live.state) },
            live.connections.to_string(),
            live.next_at.map_or_else(|| "now".to_owned(), |at| short(&at, &now)),
            printable(&live.why),
        ]);
    }
    let _ = writeln!(text, "{paths}");
    more(text, explained.paths.len());
    text.push('\n');
}

fn budgets(text: &mut String, explained: &Explained) {
    if explained.budgets.is_empty() {
        return;
    }
    let columns = ["rule", "scope", "budget", ">paths", ">per hour", ">connections"];
    let with_live = [&columns[..], &[">used", ">held now", "next"]].concat();
    let mut budgets = table(if explained.live { &with_live } else { &columns }).leaves_out(&[
        "scope",
        "paths",
        "connections",
    ]);
    let now = wall_now();
    for budget in explained.budgets.iter().take(MOST_ROWS) {
        let mut row = vec![
            budget.rule.clone(),
            budget.scope.to_string(),
            budget.key.clone(),
            number(budget.paths),
            number(u64::from(budget.limit_per_hour)),
            number(u64::from(budget.max_connections)),
        ];
        if explained.live {
            let live = budget.live.clone().unwrap_or_default();
            row.push(number(live.used));
            row.push(live.connections.to_string());
            row.push(live.next_at.map_or_else(|| "now".to_owned(), |at| short(&at, &now)));
        }
        budgets.add_row(row);
    }
    let _ = writeln!(text, "{budgets}");
    more(text, explained.budgets.len());
    text.push('\n');
}

/// Now, by which times of the same day are shown without it.
fn wall_now() -> String {
    node::clock::SteadyClock::start_at_wall().now().to_string()
}

/// A time of the running node for a table.
fn short(at: &str, now: &str) -> String {
    short_moment(Some(&at.into()), now)
}

fn more(text: &mut String, rows: usize) {
    if rows > MOST_ROWS {
        let _ = writeln!(text, "... and {} more; --format json has them all", rows - MOST_ROWS);
    }
}

fn ceilings(text: &mut String, explained: &Explained) {
    if explained.ceilings.is_empty() {
        return;
    }
    let mut ceilings =
        table(&["rule", "scope", ">sources", ">targets", ">budgets", ">limit × budgets per hour"])
            .leaves_out(&["scope", "sources", "targets"]);
    for ceiling in &explained.ceilings {
        ceilings.add_row([
            ceiling.rule.clone(),
            ceiling.scope.to_string(),
            number(ceiling.sources),
            number(ceiling.targets),
            number(ceiling.budgets),
            ceiling.arithmetic.clone(),
        ]);
    }
    let _ = writeln!(
        text,
        "{ceilings}\nceiling: {} in any hour\n",
        count(explained.ceiling_per_hour, "message")
    );
}
