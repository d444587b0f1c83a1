//! `mailweir deliverability clients` and `audit`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use node::deliverability::keys::write_new;
use serde_json::{Value, json};

use super::broken;
use super::instance::{Asked, InstanceArguments, InstanceClient};
use super::pushing::short;
use crate::exit::{Ended, Failure, Outcome};
use crate::globals::Globals;
use crate::output::{self, print, print_json, printable};

#[derive(Debug, Args)]
pub(super) struct ClientsArguments {
    #[command(subcommand)]
    command: ClientsCommand,
}

#[derive(Debug, Subcommand)]
enum ClientsCommand {
    /// Every client: what it has in force, when it asked last, what it said
    List {
        #[command(flatten)]
        instance: InstanceArguments,
    },
    /// What one client fetched and when, and what it said
    Show {
        #[command(flatten)]
        instance: InstanceArguments,
        /// Its name
        name: String,
        /// Lines of each shown, the newest first
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Add a client; its token is told once
    Add {
        #[command(flatten)]
        instance: InstanceArguments,
        /// Its name: letters, digits, `-`, `_` and `.`
        name: String,
        /// Write the token into this new file, which only its owner may read, instead of showing it
        #[arg(long, value_name = "FILE")]
        token_out: Option<PathBuf>,
        /// For the audit trail
        #[arg(long, value_name = "TEXT", default_value = "")]
        why: String,
    },
    /// Remove a client: its token is worth nothing from then on
    Remove {
        #[command(flatten)]
        instance: InstanceArguments,
        /// Its name
        name: String,
        /// For the audit trail
        #[arg(long, value_name = "TEXT", default_value = "")]
        why: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct AuditArguments {
    #[command(flatten)]
    instance: InstanceArguments,
    /// Lines shown, the newest first
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

pub(super) fn run(globals: &Globals, arguments: &ClientsArguments) -> Ended {
    match &arguments.command {
        ClientsCommand::List { instance } => list(globals, instance),
        ClientsCommand::Show { instance, name, limit } => show(globals, instance, name, *limit),
        ClientsCommand::Add { instance, name, token_out, why } => {
            let client = InstanceClient::new(instance)?;
            if let Some(path) = token_out.as_ref().filter(|path| path.exists()) {
                // Or the token would be made, and be lost.
                let words = format!("{} is there already; nothing was done", path.display());
                return Err(Failure::environment(words));
            }
            let body = json!({ "name": name, "why": why });
            let answer = client.ask(Asked::json(&["clients"], &body))?;
            let token = answer["token"].as_str().unwrap_or_default();
            if let Some(path) = token_out {
                write_new(path, &format!("{token}\n"), 0o600).map_err(broken)?;
            }
            match (globals.json(), token_out) {
                (true, None) => print_json(&answer)?,
                (true, Some(path)) => print_json(&json!({ "name": name, "token_file": path }))?,
                (false, None) => print(&format!("token of {name}, told only now: {token}"))?,
                (false, Some(path)) => print(&format!("token of {name}: {}", path.display()))?,
            }
            Ok(Outcome::Fine)
        }
        ClientsCommand::Remove { instance, name, why } => {
            let asked = ["clients", name];
            let asked = Asked::delete(&asked).with("X-Mailweir-Why", why);
            InstanceClient::new(instance)?.ask(asked)?;
            match globals.json() {
                true => print_json(&json!({ "removed": name }))?,
                false => print(&format!("{name} is removed"))?,
            }
            Ok(Outcome::Fine)
        }
    }
}

/// A version, or a line where there is none.
fn version(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        version => version.to_string(),
    }
}

fn show(globals: &Globals, instance: &InstanceArguments, name: &str, limit: u32) -> Ended {
    let asked = ["clients", name];
    let answer = InstanceClient::new(instance)?.ask(Asked::get(&asked).limited(limit))?;
    if globals.json() {
        print_json(&answer)?;
        return Ok(Outcome::Fine);
    }
    let mut fetches = output::table(&["asked", ">in force then", "answer", ">bundle", "program"]);
    for fetch in answer["fetches"].as_array().into_iter().flatten() {
        let words = match fetch["status"].as_u64() {
            Some(200) => "given",
            Some(304) => "has it",
            _ => "nothing",
        };
        let program = printable(fetch["program"].as_str().unwrap_or_default());
        fetches.add_row([
            short(&fetch["at"]),
            version(&fetch["in_force"]),
            words.to_owned(),
            version(&fetch["bundle"]),
            program.chars().take(20).collect(),
        ]);
    }
    let mut words = format!("{fetches}\n");
    for said in answer["reports"].as_array().into_iter().flatten() {
        let text = |key: &str| printable(said[key].as_str().unwrap_or_default());
        words += &format!("{}  bundle {} {}\n", short(&said["at"]), said["bundle"], text("state"));
        if !text("reason").is_empty() {
            words += &format!("    {}\n", text("reason"));
        }
    }
    print(&words)?;
    Ok(Outcome::Fine)
}

fn list(globals: &Globals, instance: &InstanceArguments) -> Ended {
    let answer = InstanceClient::new(instance)?.ask(Asked::get(&["clients"]))?;
    if globals.json() {
        print_json(&answer)?;
        return Ok(Outcome::Fine);
    }
    let mut table =
        output::table(&["client", ">in force", ">next", "asked last", "program", "said last"]);
    for client in answer["clients"].as_array().into_iter().flatten() {
        let text = |key: &str| printable(client[key].as_str().unwrap_or_default());
        let said = match &client["report"] {
            said @ Value::Object(_) => {
                let state = printable(said["state"].as_str().unwrap_or_default());
                format!("{} {state}", said["bundle"])
            }
            _ => "-".to_owned(),
        };
        let asked = match &client["seen_at"] {
            Value::Null => "never".to_owned(),
            at => short(at),
        };
        // What it is offered is news only when it is not in force.
        let next = match client["offered"] == client["in_force"] {
            true => "-".to_owned(),
            false => version(&client["offered"]),
        };
        let program = text("program");
        table.add_row([
            text("name").chars().take(26).collect(),
            version(&client["in_force"]),
            next,
            asked,
            program.chars().take(9).collect(),
            said,
        ]);
    }
    print(&format!("{table}"))?;
    Ok(Outcome::Fine)
}

pub(super) fn audit(globals: &Globals, arguments: &AuditArguments) -> Ended {
    let asked = Asked::get(&["audit"]).limited(arguments.limit);
    let answer = InstanceClient::new(&arguments.instance)?.ask(asked)?;
    if globals.json() {
        print_json(&answer)?;
        return Ok(Outcome::Fine);
    }
    let mut words = String::new();
    for line in answer["audit"].as_array().into_iter().flatten() {
        let text = |key: &str| printable(line[key].as_str().unwrap_or_default());
        words += &format!("{}  {}  {}\n", short(&line["at"]), text("who"), text("what"));
        if !text("why").is_empty() {
            words += &format!("    {}\n", text("why"));
        }
    }
    print(&words)?;
    Ok(Outcome::Fine)
}
