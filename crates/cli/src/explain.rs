//! `mailweir explain`: why is this mail waiting, and what would release it?

use std::collections::BTreeSet;
use std::fmt::Write as _;

use clap::Args;
use mail::time::Timestamp;
use serde_json::Value;

use crate::client::{NodeArguments, NodeClient};
use crate::exit::{Ended, Failure, Outcome};
use crate::globals::Globals;
use crate::output::{count, fits, moment, moment_ahead, print, print_json, table, terminal_width};
use crate::{paths, show};

/// `mailweir explain`
#[derive(Debug, Args)]
pub struct ExplainArguments {
    /// Address, message (m123), delivery (d12) or domain
    what: String,
    #[command(flatten)]
    node: NodeArguments,
}

/// Carries the command out.
///
/// # Errors
/// No node is running, or it knows nothing of it.
pub fn run(globals: &Globals, arguments: &ExplainArguments) -> Ended {
    if arguments.what.is_empty() {
        return Err(Failure::environment(
            "give an address, a message (m123), a delivery (d12) or a domain",
        ));
    }
    let client = NodeClient::new(globals, &arguments.node)?;
    let answer = crate::runtime()?.block_on(client.get(&["explain", &arguments.what]))?;
    if globals.json() {
        print_json(&answer)?;
    } else {
        let now = node::clock::SteadyClock::start_at_wall().now();
        print(&text(&arguments.what, &answer, now))?;
    }
    Ok(Outcome::Fine)
}

/// The chain for people: why it waits and what would release it, then what is known of it, then the
/// paths and their budgets.
fn text(what: &str, answer: &Value, now: Timestamp) -> String {
    if let Some(messages) = answer.get("messages").and_then(Value::as_array) {
        if messages.is_empty() {
            return format!("{what}: no message to this address is known");
        }
        let chains = messages.iter().map(|found| message(what, found, now));
        return format!("{what}\n\n{}", chains.collect::<Vec<_>>().join("\n"));
    }
    match answer.get("kind").and_then(Value::as_str) {
        Some("message") => message(what, answer, now),
        Some("delivery") => delivery(what, answer, now),
        Some("domain") => domain(what, answer, now),
        // A node of another version may know others.
        _ => format!("{what}\n\n{}", show::document(answer)),
    }
}

/// A field of an answer, if it has a value.
fn field<'a>(answer: &'a Value, name: &str) -> Option<&'a Value> {
    answer.get(name).filter(|found| !found.is_null())
}

fn list<'a>(answer: &'a Value, name: &str) -> &'a [Value] {
    answer.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Adds an indented line; further lines of its words are indented more.
fn line(text: &mut String, label: &str, words: &str) {
    let _ = writeln!(text, "  {label}: {}", words.trim_end().replace('\n', "\n    "));
}

/// A state in the words of the guides.
fn state_words(state: &str) -> &str {
    match state {
        "in-flight" | "in_flight" => "claimed by the node",
        other => other,
    }
}

/// A message: its wait, its story, its paths.
fn message(what: &str, answer: &Value, now: Timestamp) -> String {
    let id = field(answer, "message").map_or_else(|| what.to_owned(), show::plain);
    let of = field(answer, "delivery").map(|id| format!(" of {}", show::plain(id)));
    let state = field(answer, "state").map(show::plain).unwrap_or_default();
    let mut text = format!("{id}{}: {}\n", of.unwrap_or_default(), state_words(&state));
    why(&mut text, answer, now);
    if what.contains('@') {
        // The address stands above.
    } else if let Some(recipient) = field(answer, "recipient") {
        line(&mut text, "recipient", &show::plain(recipient));
    }
    if let Some(accepted) = field(answer, "accepted_at") {
        line(&mut text, "accepted", &moment(Some(accepted)));
    }
    if let Some(settled) = field(answer, "settled_at") {
        line(&mut text, "settled", &moment(Some(settled)));
    }
    if let Some(attempts) = field(answer, "attempts") {
        line(&mut text, "attempts", &show::plain(attempts));
    }
    if let Some(reply) = field(answer, "last_reply") {
        line(&mut text, "last reply", &show::plain(reply));
    }
    rules(&mut text, answer);
    with_paths(text, answer)
}

/// A delivery: its counts and the domains for which it waits.
fn delivery(what: &str, answer: &Value, now: Timestamp) -> String {
    let state = field(answer, "state").map(show::plain).unwrap_or_default();
    let name = answer.get("options").and_then(|options| options.get("name")).map(show::plain);
    let name = name.filter(|name| !name.is_empty()).map(|name| format!(" ({name})"));
    let mut text = format!("{what}{}: {state}\n", name.unwrap_or_default());
    why(&mut text, answer, now);
    if let Some(Value::Object(counters)) = answer.get("counters") {
        let count = |name: &str| counters.get(name).map(show::plain);
        let counted = |list: &[(&str, &str)]| {
            let words = |(name, words): &(&str, &str)| Some(format!("{} {words}", count(name)?));
            list.iter().filter_map(words).collect::<Vec<_>>().join(", ")
        };
        let handed =
            [("accepted", "accepted"), ("refused", "refused"), ("duplicates", "duplicates")];
        line(&mut text, "recipients", &counted(&handed));
        let fates = [
            ("sent", "sent"),
            ("failed", "failed"),
            ("queued", "queued"),
            ("in_flight", "claimed by the node"),
            ("expired", "expired"),
            ("cancelled", "cancelled"),
        ];
        line(&mut text, "of those accepted", &counted(&fates));
    }
    if let Some(started) = field(answer, "started_at") {
        line(&mut text, "started", &moment(Some(started)));
    }
    let domains = list(answer, "domains");
    if !domains.is_empty() {
        let rows = waiting_domains(domains, now, terminal_width());
        text += &format!("\n{rows}{}", paths::more(domains.len()));
        if field(answer, "domains_complete") == Some(&Value::Bool(false)) {
            text += "more domains wait; these were found first\n";
        }
    }
    text
}

/// The domains for which a delivery waits: a table, or lines where the terminal is too narrow for it.
fn waiting_domains(domains: &[Value], now: Timestamp, width: Option<u16>) -> String {
    let mut rows = table(&["domain", "waits for", "not before", "would release it"]);
    let mut lines = String::new();
    for domain in paths::shown(domains) {
        let waiting = domain.get("waiting").unwrap_or(&Value::Null);
        let cell = |value: &Value, name: &str| field(value, name).map(show::plain);
        let row = [
            cell(domain, "domain").unwrap_or_default(),
            cell(waiting, "reason").unwrap_or_default(),
            waiting_until(waiting, now),
            release(waiting).unwrap_or_default(),
        ];
        let _ = writeln!(lines, "{}: {}\n    not before {}", row[0], row[1], row[2]);
        if !row[3].is_empty() {
            let _ = writeln!(lines, "    {}", row[3]);
        }
        rows.add_row(row);
    }
    if fits(&rows, width) { format!("{rows}\n") } else { lines }
}

/// A domain: what is queued for it, where it leads, and how much may go there.
fn domain(what: &str, answer: &Value, now: Timestamp) -> String {
    let queued = field(answer, "queued").and_then(Value::as_u64).unwrap_or(0);
    let most = field(answer, "queued_counted_up_to").and_then(Value::as_u64);
    let at_least = if most.is_some_and(|most| queued >= most) { "at least " } else { "" };
    let mut text = format!("{what}: {at_least}{} queued\n", count(queued, "message"));
    why(&mut text, answer, now);
    if let (Some(oldest), true) = (field(answer, "oldest"), queued > 0) {
        line(&mut text, "oldest", &moment(Some(oldest)));
    }
    if let Some(fault) = field(answer, "route_fault") {
        let known = field(answer, "route_fault_text").map(show::plain);
        line(&mut text, "no route", &known.unwrap_or_else(|| show::plain(fault)));
    }
    if let Some(route) = field(answer, "route") {
        let hosts = list(route, "hosts");
        let names = |host: &Value| {
            let cell = |name: &str| field(host, name).map(show::plain).unwrap_or_default();
            format!("{} {} ({})", cell("preference"), cell("name"), cell("addresses"))
        };
        let relay = field(route, "relay") == Some(&Value::Bool(true));
        let label = if relay { "relay" } else { "MX hosts" };
        let names: Vec<String> = paths::shown(hosts).iter().map(names).collect();
        line(&mut text, label, &format!("{}\n{}", names.join("\n"), paths::more(hosts.len())));
    }
    let names: BTreeSet<String> = list(answer, "rules")
        .iter()
        .chain(list(answer, "paths"))
        .filter_map(|of| field(of, "rule").map(show::plain))
        .collect();
    if !names.is_empty() {
        let names = names.into_iter().collect::<Vec<_>>().join(", ");
        line(&mut text, "rule", &format!("{names} (`mailweir mx explain {what}` tells why)"));
    }
    if let Some(ceiling) = field(answer, "ceiling_per_hour").and_then(Value::as_u64)
        && field(answer, "route").is_some()
    {
        let total = field(answer, "paths_total").and_then(Value::as_u64).unwrap_or(0);
        let words =
            format!("{} in any hour, over {}", count(ceiling, "message"), count(total, "path"));
        line(&mut text, "ceiling", &words);
    }
    with_paths(text, answer)
}

/// The rules that govern it, and their version.
fn rules(text: &mut String, answer: &Value) {
    if let Some(rule) = field(answer, "rule").map(show::plain).filter(|rule| rule != "-") {
        let version = answer.get("waiting").and_then(|waiting| field(waiting, "rules_version"));
        let version = version.map(|version| format!(" (rules version {})", show::plain(version)));
        line(text, "rule", &format!("{rule}{}", version.unwrap_or_default()));
    }
}

fn with_paths(mut text: String, answer: &Value) -> String {
    let paths = paths::tables(list(answer, "paths"));
    if !paths.is_empty() {
        text += &format!("\n{paths}");
    }
    text
}

/// A wait reason, its time and what would end it.
fn why(text: &mut String, answer: &Value, now: Timestamp) {
    let Some(waiting) = field(answer, "waiting") else { return };
    let words = |name: &str| field(waiting, name).map(show::plain);
    match (words("reason"), words("detail")) {
        // The full words often begin with the short ones.
        (Some(reason), Some(detail)) if detail.starts_with(&reason) => {
            line(text, "waits for", &detail);
        }
        (Some(reason), Some(detail)) => line(text, "waits for", &format!("{reason} ({detail})")),
        (Some(words), _) | (None, Some(words)) => line(text, "waits for", &words),
        (None, None) => {}
    }
    line(text, "not before", &waiting_until(waiting, now));
    if let Some(change) = release(waiting) {
        line(text, "would release it", &change);
    }
}

fn waiting_until(waiting: &Value, now: Timestamp) -> String {
    match field(waiting, "next_at") {
        Some(next) => moment_ahead(Some(next), now),
        None => "something else happens".to_owned(),
    }
}

/// The smallest change that would end a wait; where there is none and its time is known, that time is.
fn release(waiting: &Value) -> Option<String> {
    match (field(waiting, "smallest_change"), field(waiting, "next_at")) {
        (Some(change), _) => Some(show::plain(change)),
        (None, Some(_)) => Some("only time helps".to_owned()),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_795_245_000_000_000);

    fn waiting() -> Value {
        json!({ "reason": "hour quota", "detail": "2,500 of 2,500 used",
            "next_at": "2026-11-21T07:16:19.042Z", "smallest_change": "add a source", "rules_version": 3 })
    }

    fn path() -> Value {
        json!({ "source": 1, "target": "192.0.2.1", "mx_host": "mx", "rule": "yahoo",
            "connections": 0, "resting_until": null, "budgets": [{ "rule": "yahoo", "key": "s1",
            "used_in_window": 2500, "limit_per_hour": 2500, "next_at": "2026-11-21T07:16:19.042Z" }] })
    }

    #[test]
    fn the_chain_comes_first() {
        let message = json!({ "kind": "message", "message": "m7", "delivery": "d1",
            "recipient": "a@b.example", "state": "queued", "rule": ["yahoo"], "attempts": 2,
            "last_reply": "421 later", "waiting": waiting(), "paths": [path()] });
        let chain = "waits for: hour quota (2,500 of 2,500 used)\n  \
             not before: 2026-11-21T07:16:19Z (in 7 min)\n  would release it: add a source\n";
        let shown = text("m7", &message, NOW);
        assert!(
            shown.starts_with(&format!("m7 of d1: queued\n  {chain}  recipient: a@b.example\n")),
            "{shown}"
        );
        for wanted in
            ["s1>192.0.2.1", "waiting: hour quota", "attempts: 2", "last reply: 421 later"]
        {
            assert!(shown.contains(wanted), "{wanted}: {shown}");
        }
        let of_address = json!({ "kind": "address", "messages": [message] });
        let shown = text("a@b.example", &of_address, NOW);
        assert!(
            shown.starts_with(&format!("a@b.example\n\nm7 of d1: queued\n  {chain}")),
            "{shown}"
        );
        let none = text("a@b.example", &json!({ "messages": [] }), NOW);
        assert_eq!(none, "a@b.example: no message to this address is known");
    }

    #[test]
    fn a_delivery_is_told_by_its_domains() {
        let retry = json!({ "reason": "retry scheduled", "next_at": "2026-11-21T07:16:19.042Z" });
        let delivery = json!({ "kind": "delivery", "state": "running", "options": { "name": "spring" },
            "counters": { "accepted": 3000, "refused": 1, "sent": 2598, "in_flight": 57 },
            "domains": [{ "domain": "yahoo.com", "waiting": retry }], "domains_complete": false });
        let shown = text("d1", &delivery, NOW);
        for wanted in [
            "d1 (spring): running\n",
            "  recipients: 3,000 accepted, 1 refused\n",
            "  of those accepted: 2,598 sent, 57 claimed by the node\n",
            "yahoo.com",
            "only time helps",
            "more domains wait",
        ] {
            assert!(shown.contains(wanted), "{wanted}: {shown}");
        }
    }

    #[test]
    fn a_domain_is_told_without_its_rules_in_full() {
        let host = json!({ "preference": 5, "name": "mx.b.example", "addresses": ["192.0.2.1"] });
        let rule = json!({ "rule": "yahoo", "figures": [{ "figure": "x", "why": "long words" }] });
        let domain = json!({ "kind": "domain", "domain": "b.example", "queued": 2, "oldest": "x",
            "route": { "hosts": [host], "relay": false }, "rules": [rule], "paths": [path()],
            "paths_total": 1, "ceiling_per_hour": 2500, "waiting": null });
        let shown = text("b.example", &domain, NOW);
        for wanted in [
            "b.example: 2 messages queued\n",
            "  MX hosts: 5 mx.b.example (192.0.2.1)\n",
            "  rule: yahoo (`mailweir mx explain b.example` tells why)\n",
            "  ceiling: 2,500 messages in any hour, over 1 path\n",
        ] {
            assert!(shown.contains(wanted), "{wanted}: {shown}");
        }
        assert!(!shown.contains("long words"), "{shown}");
        assert!(shown.lines().all(|line| line.trim_end().chars().count() <= 120), "{shown}");
        let none = json!({ "kind": "domain", "queued": 0, "route": null, "paths": [],
            "route_fault": { "fault": "no-such-domain" }, "route_fault_text": "the domain does not exist" });
        let shown = text("foo.example", &none, NOW);
        assert_eq!(
            shown,
            "foo.example: 0 messages queued\n  no route: the domain does not exist\n"
        );
    }
}
