//! `mailweir deliverability sync`, `status`, `history`, `apply` and `rollback`: what a running node follows.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use rules::bundle::Difference;
use serde_json::{Value, json};

use super::look::difference_words;
use super::{broken, read_bundle};
use crate::client::{NodeArguments, NodeClient};
use crate::exit::{Ended, Failure, Outcome};
use crate::globals::Globals;
use crate::output::{self, moment, print, print_json, printable, span};

pub(super) const SYNC_ABOUT: &str = "\
Asks the deliverability instance of `[deliverability] url` for its bundle, checks it, and puts it in force in the
running node, which does the same by itself every day. Whatever goes wrong, the rules in force stay.

Exit status 1: the bundle is refused, or the instance does not answer as it should.";

/// Longer than the longest `total_timeout` with everything that follows from it.
const SYNC_TIMEOUT: Duration = Duration::from_secs(2 * 3_600);

#[derive(Debug, Args)]
pub(super) struct SyncArguments {
    #[command(flatten)]
    node: NodeArguments,
    /// Show what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// For the history
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
}

#[derive(Debug, Args)]
pub(super) struct StatusArguments {
    #[command(flatten)]
    node: NodeArguments,
}

#[derive(Debug, Args)]
pub(super) struct HistoryArguments {
    #[command(flatten)]
    node: NodeArguments,
    /// Changes shown, the newest first
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

#[derive(Debug, Args)]
pub(super) struct ApplyArguments {
    #[command(flatten)]
    node: NodeArguments,
    /// The bundle
    file: PathBuf,
    /// For the history
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
}

#[derive(Debug, Args)]
pub(super) struct RollbackArguments {
    #[command(flatten)]
    node: NodeArguments,
    /// A version that is kept (see `status`), or `shipped` for the rules that come with the program
    version: String,
    /// For the history
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
}

pub(super) fn status(globals: &Globals, arguments: &StatusArguments) -> Ended {
    let client = NodeClient::new(globals, &arguments.node)?;
    let answer = crate::runtime()?.block_on(client.get(&["deliverability"]))?;
    if globals.json() {
        print_json(&answer)?;
        return Ok(Outcome::Fine);
    }
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), printable);
    let mut words = String::new();
    match &answer["bundle"] {
        Value::Null => words += "rules in force: those shipped with the program\n",
        bundle => {
            let _ = writeln!(
                words,
                "rules in force: bundle {} since {}\nmade {} ({} ago), {} {}, signed by key {}{}",
                bundle["version"],
                moment(answer.get("since")),
                moment(bundle.get("created_at")),
                span(Duration::from_secs(bundle["age_secs"].as_u64().unwrap_or(0))),
                if bundle["expired"] == true { "EXPIRED" } else { "expires" },
                moment(bundle.get("expires_at")),
                text(&bundle["key"]),
                if bundle["key_trusted"] == false { " (not trusted any more)" } else { "" },
            );
            let _ = writeln!(
                words,
                "MX rules of {}; {} texts known, {} entries suppressed",
                version_words(&answer["mx_bundle"]),
                answer["known_texts"],
                answer["suppressed"],
            );
        }
    }
    let kept: Vec<String> =
        answer["kept"].as_array().into_iter().flatten().map(ToString::to_string).collect();
    let kept = if kept.is_empty() { "none".to_owned() } else { kept.join(", ") };
    let _ = writeln!(words, "versions kept: {kept}");
    let local: Vec<String> = answer["local"].as_array().into_iter().flatten().map(text).collect();
    let local = if local.is_empty() { "none".to_owned() } else { local.join(", ") };
    let _ = writeln!(words, "level {}; rules of the operator: {local}", text(&answer["level"]));
    words += &instance_words(&answer["instance"]);
    if let trouble @ Value::Object(_) = &answer["trouble"] {
        let _ = writeln!(
            words,
            "REFUSED {}: {} ({})",
            moment(trouble.get("at")),
            text(&trouble["words"]),
            text(&trouble["fault"])
        );
    }
    print(&words)?;
    Ok(Outcome::Fine)
}

/// How the node stands to its instance.
fn instance_words(instance: &Value) -> String {
    if instance.is_null() {
        return "instance: none; bundles come by hand\n".to_owned();
    }
    let text = |value: &Value| printable(value.as_str().unwrap_or_default());
    let at = |name: &str, nothing: &str| match &instance[name] {
        Value::Null => nothing.to_owned(),
        _ => moment(instance.get(name)),
    };
    let mut words = format!(
        "instance: {}\nlast contact {}, next {}\n",
        text(&instance["url"]),
        at("last_contact", "never"),
        match instance["under_way"] == true {
            true => "now: it is under way".to_owned(),
            false => at("next_at", "only on demand"),
        },
    );
    if let error @ Value::Object(_) = &instance["last_error"] {
        let _ = writeln!(
            words,
            "NO CONTACT ({} in a row): {} ({}, {})",
            instance["failures"],
            text(&error["words"]),
            text(&error["fault"]),
            moment(error.get("at")),
        );
    }
    if let Some(waiting) = instance["reports_waiting"].as_u64().filter(|waiting| *waiting > 0) {
        let _ = writeln!(words, "{waiting} reports wait to be sent");
    }
    words
}

pub(super) fn sync(globals: &Globals, arguments: &SyncArguments) -> Ended {
    let client = NodeClient::new(globals, &arguments.node)?;
    let body = json!({ "dry_run": arguments.dry_run, "why": arguments.why });
    let asked = client.post_within(SYNC_TIMEOUT, &["deliverability", "sync"], &body);
    let answer = crate::runtime()?.block_on(asked)?;
    let bad = matches!(answer["outcome"].as_str(), Some("refused" | "unreachable"));
    if globals.json() {
        print_json(&answer)?;
        return Ok(Outcome::of(!bad));
    }
    let text = |value: &Value| printable(value.as_str().unwrap_or_default());
    let (from, to) = (version_words(&answer["from"]), version_words(&answer["to"]));
    let mut words = match answer["outcome"].as_str() {
        Some("unchanged") => format!("unchanged: {to} is in force\n"),
        Some("nothing-published") => "the instance has published nothing for this client\n".into(),
        Some("applied") => format!("applied: {from} -> {to}; no count was lost\n"),
        Some("would-apply") => format!("would apply: {from} -> {to}; nothing was changed\n"),
        Some(other) => {
            let faults = answer["faults"].as_array().into_iter().flatten();
            let pictures: String =
                faults.map(|fault| format!("{}\n\n", fault.as_str().unwrap_or_default())).collect();
            format!("{pictures}{other}: {} ({})\n", text(&answer["words"]), text(&answer["fault"]))
        }
        None => String::new(),
    };
    let difference: Difference =
        serde_json::from_value(answer["difference"].clone()).map_err(broken)?;
    if !difference.kinds.is_empty() {
        words += &difference_words(&difference);
        words.push('\n');
    }
    if let texts @ Value::Object(_) = &answer["texts"] {
        let _ = writeln!(words, "texts sent: {} taken", texts["taken"]);
    }
    if let Some(untold) = answer["untold"].as_str() {
        let _ = writeln!(words, "the instance was not told everything: {}", printable(untold));
    }
    print(words.trim_end())?;
    Ok(Outcome::of(!bad))
}

/// A version for people.
fn version_words(version: &Value) -> String {
    match version {
        Value::Null => "the shipped rules".to_owned(),
        version => format!("bundle {version}"),
    }
}

pub(super) fn history(globals: &Globals, arguments: &HistoryArguments) -> Ended {
    let client = NodeClient::new(globals, &arguments.node)?;
    let limit = [("limit", arguments.limit.to_string())];
    let asked = client.get_with(&["deliverability", "history"], &limit);
    let answer = crate::runtime()?.block_on(asked)?;
    if globals.json() {
        print_json(&answer)?;
        return Ok(Outcome::Fine);
    }
    let version = |value: &Value| match value {
        Value::Null => "shipped".to_owned(),
        version => version.to_string(),
    };
    let mut table = output::table(&["when", ">from", ">to", "who", "why"]);
    for step in answer["history"].as_array().into_iter().flatten() {
        let text = |key: &str| printable(step[key].as_str().unwrap_or_default());
        table.add_row([
            moment(step.get("at")),
            version(&step["from"]),
            version(&step["to"]),
            text("who"),
            text("why"),
        ]);
    }
    print(&format!("{table}"))?;
    Ok(Outcome::Fine)
}

pub(super) fn apply(globals: &Globals, arguments: &ApplyArguments) -> Ended {
    let client = NodeClient::new(globals, &arguments.node)?;
    let octets = read_bundle(&arguments.file)?;
    let fields = [("X-Mailweir-Why", arguments.why.clone())];
    let sent = client.post_stream_with(
        &["deliverability", "bundle"],
        "application/octet-stream",
        &fields,
        octets.into(),
    );
    let answer = crate::runtime()?.block_on(sent)?;
    told(globals, &answer)
}

pub(super) fn rollback(globals: &Globals, arguments: &RollbackArguments) -> Ended {
    let version = match arguments.version.as_str() {
        "shipped" => Value::Null,
        text => match text.parse::<u64>() {
            Ok(version) => version.into(),
            Err(_) => {
                let words = format!("`{text}` is neither a version nor `shipped`");
                return Err(Failure::environment(words));
            }
        },
    };
    let client = NodeClient::new(globals, &arguments.node)?;
    let body = json!({ "version": version, "why": arguments.why });
    let sent = client.post(&["deliverability", "rollback"], &body);
    let answer = crate::runtime()?.block_on(sent)?;
    told(globals, &answer)
}

/// What the node has done.
fn told(globals: &Globals, answer: &Value) -> Ended {
    if globals.json() {
        print_json(answer)?;
        return Ok(Outcome::Fine);
    }
    let (from, to) = (version_words(&answer["from"]), version_words(&answer["to"]));
    if answer["changed"] != true {
        print(&format!("{to} is in force already"))?;
        return Ok(Outcome::Fine);
    }
    let difference: Difference =
        serde_json::from_value(answer["difference"].clone()).map_err(broken)?;
    print(&format!("{from} -> {to}; no count was lost\n{}", difference_words(&difference)))?;
    Ok(Outcome::Fine)
}
