//! `mailweir delivery`: send a mailing, and look after those under way.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::client::{NodeArguments, NodeClient};
use crate::exit::{Ended, Failure, Outcome};
use crate::globals::Globals;
use crate::output::{moment, print, print_json, table};
use crate::show;

mod content;
mod send;
mod stream;
mod wave;

/// `mailweir delivery`
#[derive(Debug, Args)]
pub struct DeliveryArguments {
    #[command(subcommand)]
    command: DeliveryCommand,
}

#[derive(Debug, Subcommand)]
enum DeliveryCommand {
    /// Hand over a mailing: content, recipients (CSV or NDJSON with an email column) and options
    #[command(long_about = send::LONG_ABOUT)]
    Send(Box<send::SendArguments>),
    /// All deliveries
    List(NodeArguments),
    /// One delivery: state, options, counts
    Show(OneDelivery),
    /// Start a delivery that was handed over with --paused
    Start(OneDelivery),
    /// Hold a delivery; messages under way are finished
    Pause(OneDelivery),
    /// Let a paused delivery go on
    Resume(OneDelivery),
    /// Stop a delivery for good; what was not sent is cancelled
    Cancel(OneDelivery),
}

#[derive(Debug, Args)]
struct OneDelivery {
    /// Its number, such as d12
    id: mail::id::DeliveryId,
    /// Why; for the record
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
    #[command(flatten)]
    node: NodeArguments,
}

/// Carries the command out.
///
/// # Errors
/// See [`Failure`].
pub fn run(globals: &Globals, arguments: DeliveryArguments) -> Ended {
    match arguments.command {
        DeliveryCommand::Send(arguments) => send::run(globals, &arguments),
        DeliveryCommand::List(node) => list(globals, &node),
        DeliveryCommand::Show(one) => show_one(globals, &one),
        DeliveryCommand::Start(one) => change(globals, &one, "start", "started"),
        DeliveryCommand::Pause(one) => change(globals, &one, "pause", "paused"),
        DeliveryCommand::Resume(one) => change(globals, &one, "resume", "resumed"),
        DeliveryCommand::Cancel(one) => change(globals, &one, "cancel", "cancelled"),
    }
}

fn show_one(globals: &Globals, one: &OneDelivery) -> Ended {
    let client = NodeClient::new(globals, &one.node)?;
    let answer = crate::runtime()?.block_on(client.get(&["deliveries", &one.id.to_string()]))?;
    if globals.json() {
        print_json(&answer)?
    } else {
        print(&show::document(&answer))?
    }
    Ok(Outcome::Fine)
}

fn change(globals: &Globals, one: &OneDelivery, verb: &str, done: &str) -> Ended {
    let client = NodeClient::new(globals, &one.node)?;
    let id = one.id.to_string();
    let body = json!({ "why": one.why });
    let answer = crate::runtime()?.block_on(client.post(&["deliveries", &id, verb], &body))?;
    if globals.json() {
        print_json(&answer)?
    } else {
        print(&format!("{id} {done}"))?
    }
    Ok(Outcome::Fine)
}

/// Deliveries asked for at once, and in all.
const PAGE: u64 = 1_000;
const MOST_LISTED: usize = 100_000;

fn list(globals: &Globals, node: &NodeArguments) -> Ended {
    let client = NodeClient::new(globals, node)?;
    let deliveries = crate::runtime()?.block_on(all(&client))?;
    if globals.json() {
        print_json(&json!({ "deliveries": deliveries }))?;
    } else {
        print(&list_text(&deliveries))?;
    }
    Ok(Outcome::Fine)
}

/// All deliveries, page by page.
async fn all(client: &NodeClient) -> Result<Vec<Value>, Failure> {
    let mut deliveries = Vec::new();
    let mut after = String::new();
    while deliveries.len() < MOST_LISTED {
        let parameters = [("after", after.clone()), ("limit", PAGE.to_string())];
        let mut page = client.get_with(&["deliveries"], &parameters).await?;
        let next = page.get("next").and_then(Value::as_str).map(str::to_owned);
        match page.get_mut("deliveries").map(Value::take) {
            Some(Value::Array(list)) => deliveries.extend(list),
            _ => return Err(Failure::environment("the node's answer is no list of deliveries")),
        }
        match next {
            Some(next) if next != after => after = next,
            _ => break,
        }
    }
    Ok(deliveries)
}

/// Counts shown per delivery.
const COUNTS: [&str; 6] = ["accepted", "sent", "failed", "queued", "in_flight", "refused"];
/// Counts shown where a delivery has any.
const RARE_COUNTS: [&str; 2] = ["expired", "cancelled"];

fn list_text(list: &[Value]) -> String {
    if list.is_empty() {
        return "no deliveries".to_owned();
    }
    fn counters(delivery: &Value) -> &Value {
        delivery.get("counters").unwrap_or(delivery)
    }
    let has = |count: &&str| {
        let some = |one: &Value| counters(one).get(*count).and_then(Value::as_u64) > Some(0);
        list.iter().any(some)
    };
    let counts: Vec<&str> = COUNTS.into_iter().chain(RARE_COUNTS.into_iter().filter(has)).collect();
    let headings: Vec<String> =
        counts.iter().map(|count| format!(">{}", count.replace('_', " "))).collect();
    let mut columns = vec!["delivery", "name", "state"];
    columns.extend(headings.iter().map(String::as_str));
    columns.push("started");
    let mut rows = table(&columns).leaves_out(&[
        "duplicates",
        "refused",
        "started",
        "queued",
        "in flight",
        "failed",
    ]);
    for delivery in list {
        let field = |value: Option<&Value>| value.map_or_else(|| "-".to_owned(), show::plain);
        let name = delivery.get("options").and_then(|options| options.get("name"));
        let mut row = vec![field(delivery.get("id")), field(name), field(delivery.get("state"))];
        row.extend(counts.iter().map(|count| field(counters(delivery).get(*count))));
        row.push(moment(delivery.get("started_at")));
        rows.add_row(row);
    }
    rows.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_are_listed() {
        let one = json!({ "id": "d1", "state": "running", "options": { "name": "spring" },
            "counters": { "accepted": 20_000, "sent": 7 }, "started_at": "2026-11-21T07:16:19.042Z" });
        let text = list_text(&[one]);
        for wanted in ["d1", "spring", "20,000", "2026-11-21T07:16:19Z"] {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
        assert!(!text.contains("cancelled"), "{text}");
        let cancelled =
            json!({ "id": "d2", "state": "cancelled", "counters": { "cancelled": 12_345 } });
        let text = list_text(&[cancelled]);
        assert!(text.contains("cancelled") && text.contains("12,345"), "{text}");
        assert!(!text.contains("expired"), "{text}");
        assert_eq!(list_text(&[]), "no deliveries");
    }
}
