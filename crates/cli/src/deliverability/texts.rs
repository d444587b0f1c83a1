//! `mailweir deliverability texts`: what clients could not qualify.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use mail::failure::{FailureType, Reason};
use serde_json::{Value, json};

use super::instance::{Asked, InstanceArguments, InstanceClient};
use super::publish::write_whole;
use super::pushing::short;
use crate::exit::{Ended, Outcome};
use crate::globals::Globals;
use crate::output::{self, count, number, print, print_json, printable};

/// Characters of a text in a table.
const SHOWN: usize = 36;

#[derive(Debug, Args)]
pub(super) struct TextsArguments {
    #[command(subcommand)]
    command: TextsCommand,
}

#[derive(Debug, Subcommand)]
enum TextsCommand {
    /// Clusters of unknown texts, the largest first, with what they may mean
    List {
        #[command(flatten)]
        instance: InstanceArguments,
        /// Clusters shown
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
        limit: u32,
    },
    /// A cluster with its texts, the rule that would take them, and what the rule would do
    Show {
        #[command(flatten)]
        instance: InstanceArguments,
        /// A cluster of the list, or the key of a text
        cluster: String,
    },
    /// Say what a text, or every text of a cluster, means; the next bundle carries it
    Qualify {
        #[command(flatten)]
        instance: InstanceArguments,
        /// A cluster of the list, or the key of a text
        cluster: String,
        /// Why mail with this answer was not delivered, such as "Mailbox full"
        #[arg(long)]
        reason: Reason,
        /// How strong the evidence is: Hard, Soft or Ignored [default: the usual one of the reason]
        #[arg(long = "type", value_name = "TYPE")]
        failure_type: Option<FailureType>,
        /// The texts are never counted against an address, and are not published
        #[arg(long)]
        ignore: bool,
        /// Take the proposed rule of the cluster, too; `export --what rules` writes it
        #[arg(long, conflicts_with = "ignore")]
        accept_rule: bool,
        /// For the audit trail
        #[arg(long, value_name = "TEXT", default_value = "")]
        why: String,
    },
    /// What people have said of texts, the newest first, and the rules they have accepted
    Qualified {
        #[command(flatten)]
        instance: InstanceArguments,
        /// Texts shown
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Take back what was said of a text or a cluster, or an accepted rule; the next bundle goes without it
    Withdraw {
        #[command(flatten)]
        instance: InstanceArguments,
        /// The key of a text, the cluster as it was qualified, or the name of a rule: `qualified` lists them
        which: String,
        /// For the audit trail
        #[arg(long, value_name = "TEXT", default_value = "")]
        why: String,
    },
    /// What was qualified, for the folder that `publish` reads
    Export {
        #[command(flatten)]
        instance: InstanceArguments,
        /// Texts with their meaning (qualifications.jsonl), or accepted rules for bounce.toml
        #[arg(long, value_enum, default_value_t)]
        what: Exported,
        /// The file [default: standard output]
        #[arg(long, short, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// What is exported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Exported {
    #[default]
    Texts,
    Rules,
}

pub(super) fn run(globals: &Globals, arguments: &TextsArguments) -> Ended {
    match &arguments.command {
        TextsCommand::List { instance, limit } => list(globals, instance, *limit),
        TextsCommand::Show { instance, cluster } => show(globals, instance, cluster),
        TextsCommand::Qualify {
            instance,
            cluster,
            reason,
            failure_type,
            ignore,
            accept_rule,
            why,
        } => {
            let status = if *ignore { "ignore" } else { "keep" };
            let body = json!({
                "reason": reason, "type": failure_type, "status": status, "why": why,
                "accept_rule": accept_rule,
            });
            let path = ["texts", cluster];
            let answer = InstanceClient::new(instance)?.ask(Asked::json(&path, &body))?;
            if globals.json() {
                print_json(&answer)?;
                return Ok(Outcome::Fine);
            }
            let texts = answer["texts"].as_u64().unwrap_or(0);
            let mut words = format!("{}: {reason}, {status}", count(texts, "text"));
            if let Some(rule) = answer["rule"].as_str() {
                let _ = write!(words, "; rule `{}` accepted", printable(rule));
            }
            print(&words)?;
            Ok(Outcome::Fine)
        }
        TextsCommand::Qualified { instance, limit } => qualified(globals, instance, *limit),
        TextsCommand::Withdraw { instance, which, why } => {
            let path = ["texts", which];
            let asked = Asked::delete(&path).with("X-Mailweir-Why", why);
            let answer = InstanceClient::new(instance)?.ask(asked)?;
            if globals.json() {
                print_json(&answer)?;
                return Ok(Outcome::Fine);
            }
            let texts = answer["texts"].as_u64().unwrap_or(0);
            let mut words = format!("withdrawn: {}", count(texts, "text"));
            for rule in answer["rules"].as_array().into_iter().flatten() {
                let _ = write!(words, ", rule `{}`", printable(rule.as_str().unwrap_or_default()));
            }
            print(&words)?;
            Ok(Outcome::Fine)
        }
        TextsCommand::Export { instance, what, out } => {
            let path: &[&str] = match what {
                Exported::Texts => &["texts", "export"],
                Exported::Rules => &["texts", "rules"],
            };
            let octets = InstanceClient::new(instance)?.ask_octets(Asked::get(path))?;
            match out {
                Some(path) => {
                    write_whole(path, &octets)?;
                    let lines = octets.iter().filter(|octet| **octet == b'\n').count();
                    match globals.json() {
                        true => print_json(&json!({ "file": path, "lines": lines }))?,
                        false => {
                            let lines = count(lines as u64, "line");
                            print(&format!("{}: {lines}", path.display()))?;
                        }
                    }
                }
                None => print(&String::from_utf8_lossy(&octets))?,
            }
            Ok(Outcome::Fine)
        }
    }
}

fn reason_of(cluster: &Value) -> String {
    printable(cluster["suggestion"]["reason"].as_str().unwrap_or("?"))
}

fn list(globals: &Globals, instance: &InstanceArguments, limit: u32) -> Ended {
    let asked = Asked::get(&["texts"]).limited(limit);
    let answer = InstanceClient::new(instance)?.ask(asked)?;
    if globals.json() {
        print_json(&answer)?;
        return Ok(Outcome::Fine);
    }
    let figure = |value: &Value| value.as_u64().unwrap_or(0);
    let words = format!(
        "{} of unknown texts, {} in all, met {} times",
        count(figure(&answer["all_clusters"]), "cluster"),
        count(figure(&answer["texts"]), "text"),
        number(figure(&answer["occurrences"])),
    );
    let mut table = output::table(&["cluster", ">met", ">texts", "may mean", "the most frequent"]);
    for cluster in answer["clusters"].as_array().into_iter().flatten() {
        let text = printable(cluster["samples"][0]["text"].as_str().unwrap_or_default());
        let long = text.chars().count() > SHOWN;
        let shown: String = text.chars().take(SHOWN - usize::from(long) * 3).collect();
        table.add_row([
            printable(cluster["id"].as_str().unwrap_or_default()),
            number(figure(&cluster["occurrences"])),
            number(figure(&cluster["texts"])),
            reason_of(cluster),
            if long { format!("{shown}...") } else { shown },
        ]);
    }
    print(&format!("{words}\n\n{table}"))?;
    Ok(Outcome::Fine)
}

fn qualified(globals: &Globals, instance: &InstanceArguments, limit: u32) -> Ended {
    let asked = ["texts", "qualified"];
    let answer = InstanceClient::new(instance)?.ask(Asked::get(&asked).limited(limit))?;
    if globals.json() {
        print_json(&answer)?;
        return Ok(Outcome::Fine);
    }
    let all = answer["all"].as_u64().unwrap_or(0);
    let list = |name: &str| answer[name].as_array().cloned().unwrap_or_default();
    let (texts, rules) = (list("texts"), list("rules"));
    let mut words = format!("{} qualified", count(all, "text"));
    let _ = writeln!(words, ", {} accepted", count(rules.len() as u64, "rule"));
    for said in texts.iter().chain(&rules) {
        let text = |key: &str| printable(said[key].as_str().unwrap_or_default());
        let meaning = match text("status").as_str() {
            "rule" => "rule".to_owned(),
            status => format!("{}, {status}", text("reason")),
        };
        let _ = writeln!(
            words,
            "\n{}  {meaning}  {} {}{}",
            text("key"),
            short(&said["at"]),
            text("who"),
            match text("said_of") {
                of if of.is_empty() || of == text("key") => String::new(),
                of => format!(", with {of}"),
            },
        );
        if text("status") != "rule" {
            let _ = writeln!(words, "    {}", text("text"));
        }
    }
    print(&words)?;
    Ok(Outcome::Fine)
}

fn show(globals: &Globals, instance: &InstanceArguments, cluster: &str) -> Ended {
    let cluster = InstanceClient::new(instance)?.ask(Asked::get(&["texts", cluster]))?;
    if globals.json() {
        print_json(&cluster)?;
        return Ok(Outcome::Fine);
    }
    let figure = |value: &Value| value.as_u64().unwrap_or(0);
    let text = |value: &Value| printable(value.as_str().unwrap_or_default());
    let mut words = format!(
        "{}: {}, met {} times by up to {}, {} to {}\n",
        text(&cluster["id"]),
        count(figure(&cluster["texts"]), "text"),
        number(figure(&cluster["occurrences"])),
        count(figure(&cluster["clients"]), "client"),
        short(&cluster["first"]),
        short(&cluster["last"]),
    );
    let _ = match &cluster["suggestion"] {
        Value::Null => writeln!(words, "what it means is not known"),
        said => writeln!(
            words,
            "may mean: {}, {} ({})",
            text(&said["reason"]),
            text(&said["type"]),
            text(&said["because"])
        ),
    };
    for sample in cluster["samples"].as_array().into_iter().flatten().take(20) {
        let (key, met) = (text(&sample["key"]), number(figure(&sample["occurrences"])));
        let _ = writeln!(words, "\n  {key}  met {met} times\n    {}", text(&sample["text"]));
    }
    let _ = match (&cluster["rule"], &cluster["pattern"]) {
        (Value::String(rule), _) => writeln!(words, "\nproposed rule:\n\n{}", printable(rule)),
        (_, Value::String(pattern)) => {
            writeln!(words, "\nproposed pattern: {}", printable(pattern))
        }
        _ => writeln!(words, "\nno rule: {}", text(&cluster["no_pattern"])),
    };
    let effect = &cluster["effect"];
    if !cluster["pattern"].is_null() {
        let _ = writeln!(
            words,
            "it would take {}, met {} times; {} of the qualified ones too",
            count(figure(&effect["texts"]), "recorded text"),
            number(figure(&effect["occurrences"])),
            number(figure(&effect["qualified"])),
        );
    }
    for other in effect["contradictions"].as_array().into_iter().flatten() {
        let _ = writeln!(words, "  otherwise: {} {}", text(&other["reason"]), text(&other["text"]));
    }
    print(&words)?;
    Ok(Outcome::Fine)
}
