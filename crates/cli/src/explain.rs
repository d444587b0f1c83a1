//! `mailweir explain`: why is this mail waiting, and what would release it?

use clap::Args;
use serde_json::Value;

use crate::client::{NodeArguments, NodeClient};
use crate::exit::{Ended, Failure, Outcome};
use crate::globals::Globals;
use crate::output::{moment, print, print_json, table};
use crate::show;

/// Rows of a table beyond which the rest is only counted.
const MOST_ROWS: usize = 40;

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
        print(&text(&arguments.what, &answer))?;
    }
    Ok(Outcome::Fine)
}

/// The chain for people: why it waits and what would release it, then the paths, then the rest.
fn text(what: &str, answer: &Value) -> String {
    let messages = answer.get("messages").and_then(Value::as_array);
    let Some(messages) = messages else { return chain(what, answer) };
    if messages.is_empty() {
        return format!("{what}: no message to this address is known");
    }
    let name =
        |message: &Value| message.get("message").map_or_else(|| what.to_owned(), show::plain);
    let chains = messages.iter().map(|message| chain(&name(message), message));
    format!("{what}\n\n{}", chains.collect::<Vec<_>>().join("\n"))
}

/// Fields that the beginning of the chain has already said.
const SAID: [&str; 6] = ["kind", "state", "waiting", "rule", "paths", "domains"];

fn chain(name: &str, answer: &Value) -> String {
    let field = |value: &Value, name: &str| {
        value.get(name).filter(|found| !found.is_null()).map(show::plain)
    };
    let mut text = match field(answer, "state") {
        Some(state) => format!("{name}: {state}\n"),
        None => format!("{name}\n"),
    };
    if let Some(rule) = field(answer, "rule").filter(|rule| rule != "-") {
        text += &format!("  rule: {rule}\n");
    }
    if let Some(waiting) = answer.get("waiting").filter(|waiting| !waiting.is_null()) {
        text += &why(waiting, "  ");
    }
    text += &paths(answer);
    text += &domains(answer);
    if let Value::Object(fields) = answer {
        let mut rest = fields.clone();
        SAID.iter().for_each(|name| drop(rest.remove(*name)));
        text += &format!("\n{}", show::document(&Value::Object(rest)));
    }
    text
}

/// A wait reason, its time and what would end it.
fn why(waiting: &Value, indent: &str) -> String {
    let field = |name: &str| waiting.get(name).filter(|found| !found.is_null()).map(show::plain);
    let mut text = String::new();
    let mut line = |label: &str, words: String| {
        text += &format!(
            "{indent}{label}: {}\n",
            words.trim_end().replace('\n', &format!("\n{indent}  "))
        );
    };
    match (field("reason"), field("detail")) {
        // The full words often begin with the short ones.
        (Some(reason), Some(detail)) if detail.starts_with(&reason) => line("waits for", detail),
        (Some(reason), Some(detail)) => {
            line("waits for", format!("{reason} ({detail})"));
        }
        (Some(words), _) | (None, Some(words)) => line("waits for", words),
        (None, None) => {}
    }
    match waiting.get("next_at").filter(|at| !at.is_null()) {
        Some(next) => line("not before", moment(Some(next))),
        None => line("not before", "something else happens".to_owned()),
    }
    if let Some(version) = field("rules_version") {
        line("rules", format!("version {version}"));
    }
    if let Some(change) = field("smallest_change") {
        line("would release it", change);
    }
    text
}

/// The paths of a message or domain, with their budgets.
fn paths(answer: &Value) -> String {
    let list = answer.get("paths").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if list.is_empty() {
        return String::new();
    }
    let mut rows = table(&[
        "path",
        "MX host",
        "rule",
        ">connections",
        "rests until",
        "budgets: used of limit",
    ]);
    for path in list.iter().take(MOST_ROWS) {
        // In an answer about a domain the live part stands apart.
        let live = path.get("live").filter(|live| !live.is_null()).unwrap_or(path);
        let cell =
            |value: &Value, name: &str| value.get(name).map_or_else(|| "-".to_owned(), show::plain);
        let budgets = path.get("budgets").and_then(Value::as_array).into_iter().flatten();
        let budget = |budget: &Value| {
            let (used, limit) = (cell(budget, "used_in_window"), cell(budget, "limit_per_hour"));
            format!("{} {used} of {limit}", cell(budget, "key"))
        };
        rows.add_row([
            format!("s{}>{}", cell(path, "source").trim_start_matches('s'), cell(path, "target")),
            cell(path, "mx_host"),
            cell(path, "rule"),
            cell(live, "connections"),
            moment(live.get("resting_until")),
            budgets.map(budget).collect::<Vec<_>>().join(", "),
        ]);
    }
    format!("\n{rows}\n{}", more(list.len()))
}

/// How many rows are not shown.
fn more(rows: usize) -> String {
    match rows.checked_sub(MOST_ROWS) {
        None | Some(0) => String::new(),
        Some(more) => format!("... and {more} more; --format json has them all\n"),
    }
}

/// The domains for which a delivery waits.
fn domains(answer: &Value) -> String {
    let list =
        answer.get("domains").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if list.is_empty() {
        return String::new();
    }
    let mut rows = table(&["domain", "waits for", "not before", "would release it"]);
    for domain in list.iter().take(MOST_ROWS) {
        let waiting = domain.get("waiting").unwrap_or(&Value::Null);
        let cell =
            |value: &Value, name: &str| value.get(name).map_or_else(|| "-".to_owned(), show::plain);
        rows.add_row([
            cell(domain, "domain"),
            cell(waiting, "reason"),
            moment(waiting.get("next_at")),
            cell(waiting, "smallest_change"),
        ]);
    }
    format!("\n{rows}\n{}", more(list.len()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_chain_comes_first() {
        let waiting = json!({ "reason": "hour quota", "detail": "2,500 of 2,500 used",
            "next_at": "2026-11-21T07:16:19.042Z", "smallest_change": "add a source", "rules_version": 3 });
        let message = json!({ "kind": "message", "message": "m7", "state": "queued", "rule": ["yahoo"],
            "waiting": waiting, "attempts": 2, "paths": [{ "source": 1, "target": "192.0.2.1",
            "mx_host": "mx", "rule": "yahoo", "connections": 0, "resting_until": null,
            "budgets": [{ "key": "s1", "used_in_window": 2500, "limit_per_hour": 2500 }] }] });
        let shown = text("m7", &message);
        assert!(
            shown.starts_with(
                "m7: queued\n  rule: yahoo\n  waits for: hour quota (2,500 of 2,500 used)\n  \
                 not before: 2026-11-21T07:16:19.042Z\n  rules: version 3\n  would release it: add a source\n"
            ),
            "{shown}"
        );
        for wanted in ["s1>192.0.2.1", "s1 2,500 of 2,500", "attempts  2"] {
            assert!(shown.contains(wanted), "{wanted}: {shown}");
        }
        let of_address = text("a@b.example", &json!({ "kind": "address", "messages": [message] }));
        assert!(of_address.starts_with("a@b.example\n\nm7: queued\n"), "{of_address}");
        let none = text("a@b.example", &json!({ "messages": [] }));
        assert_eq!(none, "a@b.example: no message to this address is known");
        let delivery = json!({ "state": "running", "domains": [{ "domain": "yahoo.com", "waiting": waiting }] });
        assert!(text("d1", &delivery).contains("yahoo.com"));
    }
}
