//! `mailweir suppression`: hashes of addresses, and domains, to which nobody writes.
//!
//! An address is handed to the node and becomes its hash there. What is listed are hashes: no list of addresses
//! can be made of them.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::client::{NodeArguments, NodeClient};
use crate::exit::{Ended, Failure, Outcome};
use crate::globals::Globals;
use crate::output::{count, printable};
use crate::quarantine::lists::{open, refusals};
use crate::quarantine::{pages, tell};

/// `mailweir suppression`
#[derive(Debug, Args)]
pub struct SuppressionArguments {
    #[command(subcommand)]
    command: SuppressionCommand,
}

#[derive(Debug, Subcommand)]
enum SuppressionCommand {
    /// What is on the list: hashes first, then domains
    List(ListArguments),
    /// Put on the list, in force at once
    Add(ChangeArguments),
    /// Take off the list
    Remove(ChangeArguments),
    /// Put a whole list on it: an entry a line
    Import(ImportArguments),
}

#[derive(Debug, Args)]
struct ListArguments {
    /// At most so many
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
    #[command(flatten)]
    node: NodeArguments,
}

#[derive(Debug, Args)]
struct ChangeArguments {
    /// Addresses, hashes (SHA-256), domains, or *. and a domain for all below it
    #[arg(required = true, num_args = 1..=1_000)]
    entries: Vec<String>,
    /// Why; for the record
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
    #[command(flatten)]
    node: NodeArguments,
}

#[derive(Debug, Args)]
struct ImportArguments {
    /// The file, or - for standard input: an address, hash or domain a line; empty lines and those with # are passed over
    file: PathBuf,
    /// Why; for the record
    #[arg(long, value_name = "TEXT", default_value = "import")]
    why: String,
    #[command(flatten)]
    node: NodeArguments,
}

/// Carries the command out.
///
/// # Errors
/// The node cannot be reached or refuses; the file cannot be read.
pub fn run(globals: &Globals, arguments: &SuppressionArguments) -> Ended {
    match &arguments.command {
        SuppressionCommand::List(arguments) => list(globals, arguments),
        SuppressionCommand::Add(arguments) => change(globals, arguments, "add"),
        SuppressionCommand::Remove(arguments) => change(globals, arguments, "remove"),
        SuppressionCommand::Import(arguments) => import(globals, arguments),
    }
}

fn list(globals: &Globals, arguments: &ListArguments) -> Ended {
    let client = NodeClient::new(globals, &arguments.node)?;
    let pages = pages(&client, &["suppression"], "entries", Vec::new(), arguments.limit);
    let (entries, more) = crate::runtime()?.block_on(pages)?;
    tell(globals, &json!({ "entries": entries, "more": more }), |answer| {
        let entries = answer.get("entries").and_then(Value::as_array);
        let mut text = String::new();
        for entry in entries.into_iter().flatten() {
            let word = |name| printable(entry.get(name).and_then(Value::as_str).unwrap_or("-"));
            text +=
                &format!("{}  {}  {}  {}\n", word("entry"), word("at"), word("who"), word("why"));
        }
        match (text.is_empty(), more) {
            (true, _) => "nothing is on the suppression list\n".to_owned(),
            (_, true) => text + "... and more; see --limit\n",
            (_, false) => text,
        }
    })
}

fn change(globals: &Globals, arguments: &ChangeArguments, verb: &str) -> Ended {
    let client = NodeClient::new(globals, &arguments.node)?;
    let body = json!({ verb: arguments.entries, "why": arguments.why });
    let answer = crate::runtime()?.block_on(client.post(&["suppression"], &body))?;
    tell(globals, &answer, |answer| {
        let number = |name| answer.get(name).and_then(Value::as_u64).unwrap_or(0);
        match verb {
            "add" => format!("{} put on the suppression list\n", entries(number("added"))),
            _ => format!("{} taken off the suppression list\n", entries(number("removed"))),
        }
    })
}

fn import(globals: &Globals, arguments: &ImportArguments) -> Ended {
    if !arguments.why.is_ascii() {
        return Err(Failure::environment("--why: only ASCII characters here"));
    }
    let client = NodeClient::new(globals, &arguments.node)?;
    let fields = [("X-Mailweir-Why", arguments.why.clone())];
    let answer = crate::runtime()?.block_on(async {
        let file = tokio_util::io::ReaderStream::new(open(&arguments.file).await?);
        let body = reqwest::Body::wrap_stream(file);
        let path = ["suppression", "import"];
        Ok::<_, Failure>(client.post_stream_with(&path, "text/plain", &fields, body).await?)
    })?;
    tell(globals, &answer, |answer| {
        let number = |name| answer.get(name).and_then(Value::as_u64).unwrap_or(0);
        let (taken, refused) = (entries(number("taken")), count(number("refused"), "line"));
        format!("{taken} put on the suppression list, {refused} refused\n{}", refusals(answer))
    })?;
    Ok(Outcome::of(answer.get("refused").and_then(Value::as_u64) == Some(0)))
}

fn entries(number: u64) -> String {
    match number {
        1 => "1 entry".to_owned(),
        _ => format!("{number} entries"),
    }
}
