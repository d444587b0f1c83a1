//! `mailweir reaction`: reaction rules and what they would do. Needs no server and no configuration.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use rules::bounce::{Action, BounceRules, Evidence};
use rules::reaction::{
    ReactionFile, ReactionRules, ReactionStage, SHIPPED_REACTIONS_TOML, Said, shipped_reactions,
};
use rules::show_span;
use serde_json::{Value, json};

use crate::exit::{Ended, Failure, Outcome};
use crate::globals::{Globals, read_bounded};
use crate::mx::render;
use crate::output::{self, count, print, print_json};

/// `mailweir reaction`
#[derive(Debug, Args)]
pub struct ReactionArguments {
    #[command(subcommand)]
    command: ReactionCommand,
}

#[derive(Debug, Subcommand)]
enum ReactionCommand {
    /// What would follow from a reply of a server
    Explain(ExplainArguments),
    /// The rules that say what follows when a provider refuses
    Rules(RulesArguments),
}

#[derive(Debug, Args)]
struct ExplainArguments {
    /// The reply as it was sent, such as "421 4.7.28 unusual rate of mail"
    reply: String,
    /// The MX host that sent it
    #[arg(long, value_name = "HOST")]
    mx: String,
    /// What it was an answer to: connect, ehlo, starttls, mail, rcpt, data, content, between
    #[arg(long, value_name = "STAGE", default_value = "rcpt", value_parser = stage)]
    stage: ReactionStage,
    /// Local reaction rules, put before the shipped ones
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct RulesArguments {
    #[command(subcommand)]
    command: RulesCommand,
}

#[derive(Debug, Subcommand)]
enum RulesCommand {
    /// Check a file of reaction rules: every fault with its line [default: the shipped rules]
    Check(CheckArguments),
}

#[derive(Debug, Args)]
struct CheckArguments {
    /// The file
    file: Option<PathBuf>,
}

fn stage(word: &str) -> Result<ReactionStage, String> {
    ReactionStage::from_word(word).ok_or_else(|| {
        format!("write one of {}", ReactionStage::ALL.map(ReactionStage::word).join(", "))
    })
}

/// Carries the command out.
///
/// # Errors
/// See [`Failure`].
pub fn run(globals: &Globals, arguments: &ReactionArguments) -> Ended {
    match &arguments.command {
        ReactionCommand::Explain(arguments) => explain(globals, arguments),
        ReactionCommand::Rules(arguments) => match &arguments.command {
            RulesCommand::Check(arguments) => check(globals, arguments),
        },
    }
}

/// The rules of a file, put before the shipped ones.
///
/// # Errors
/// The file cannot be read, or has faults; all are shown.
fn local_rules(path: &Path) -> Result<ReactionRules, Failure> {
    let bytes = read_bounded(path)?;
    match ReactionFile::parse(&path.display().to_string(), &bytes) {
        Ok(local) => {
            Ok(ReactionRules::compile(&ReactionFile::combine(Some(&local), shipped_reactions())))
        }
        Err(faults) => Err(Failure::environment(render(&faults))),
    }
}

fn explain(globals: &Globals, arguments: &ExplainArguments) -> Ended {
    let own = arguments.rules.as_deref().map(local_rules).transpose()?;
    let shipped = ReactionRules::shipped();
    let rules = own.as_ref().unwrap_or(&shipped);
    let text = arguments.reply.replace("\\n", "\n");
    // Only what is said about a message is judged by the bounce rules.
    let about_message = matches!(
        arguments.stage,
        ReactionStage::Mail | ReactionStage::Rcpt | ReactionStage::Data | ReactionStage::Content
    );
    let verdict = BounceRules::shipped().classify(&Evidence::reply(&text, &arguments.mx));
    let judged: Option<Action> = about_message.then_some(verdict.action);
    let said = Said { text: &text, mx_host: &arguments.mx, stage: arguments.stage, judged };
    let mut words = String::new();
    let mut found: Vec<Value> = Vec::new();
    for rule in rules.matching(&said) {
        let written = rule.written();
        let when = match written.hits {
            1 => "at once".to_owned(),
            hits => {
                let row = if written.in_a_row { " in a row" } else { "" };
                format!("after {hits} such replies{row} within {}", show_span(written.within))
            }
        };
        let lasts = written.effect.lasts().then(|| show_span(written.lasts));
        words += &format!("{} ({}): {} the {}", written.name, written.place, when, written.scope);
        words += &format!(": {}", written.effect.words());
        if let Some(lasts) = &lasts {
            words += &format!(" for {lasts}, then recovery in {}", written.recovery.words());
        }
        words += &format!("\n  source: {}\n", written.source);
        if !written.notes.is_empty() {
            words += &format!("  {}\n", written.notes);
        }
        found.push(json!({
            "rule": &*written.name, "version": &**rules.version(),
            "place": written.place.to_string(), "provider": &*written.provider,
            "scope": written.scope, "hits": written.hits, "within": show_span(written.within),
            "in_a_row": written.in_a_row, "effect": written.effect,
            "words": written.effect.words(), "for": lasts,
            "recovery": { "steps": written.recovery.steps, "every": show_span(written.recovery.every) },
            "source": &*written.source, "notes": &*written.notes,
        }));
    }
    if globals.json() {
        let action = judged.map(Action::word);
        print_json(&json!({ "judged": action, "reactions": found }))?;
    } else if found.is_empty() {
        print("nothing follows: no reaction rule matches")?;
    } else {
        print(words.trim_end())?;
    }
    Ok(Outcome::Fine)
}

fn check(globals: &Globals, arguments: &CheckArguments) -> Ended {
    let (name, bytes) = match &arguments.file {
        Some(path) => (path.display().to_string(), read_bounded(path)?),
        None => ("rules/reactions.toml".to_owned(), SHIPPED_REACTIONS_TOML.to_vec()),
    };
    let shipped = arguments.file.is_none();
    let (answer, words, good) = match ReactionFile::parse(&name, &bytes) {
        Ok(file) => {
            let rules = file.rules();
            let examples: usize =
                rules.iter().map(|rule| rule.matches.len() + rule.matches_not.len()).sum();
            let is_shipped = |name: &str| {
                !shipped && shipped_reactions().rules().iter().any(|rule| *rule.name == *name)
            };
            let replaces: Vec<&str> =
                rules.iter().map(|rule| &*rule.name).filter(|name| is_shipped(name)).collect();
            let mut words = format!(
                "{name}: ok, {}, {}",
                count(rules.len() as u64, "rule"),
                count(examples as u64, "example")
            );
            if !replaces.is_empty() {
                words += &format!(", replacing the shipped {}", replaces.join(", "));
            }
            let answer = json!({
                "file": name, "ok": true, "version": &**file.version(), "rules": rules.len(),
                "examples": examples, "replaces": replaces, "faults": [],
            });
            (answer, words, true)
        }
        Err(faults) => {
            let shown: Vec<Value> = faults
                .iter()
                .map(|fault| {
                    json!({
                        "line": fault.line, "column": fault.column, "message": fault.message,
                        "help": fault.help,
                    })
                })
                .collect();
            let total = count(faults.len() as u64, "fault");
            let words = format!("{}\n\n{total} in {name}", render(&faults));
            let answer = json!({
                "file": name, "ok": false, "version": "", "rules": 0, "examples": 0,
                "replaces": [], "faults": shown,
            });
            (answer, words, false)
        }
    };
    match (globals.json(), good) {
        (true, _) => print_json(&answer)?,
        (false, true) => print(&words)?,
        (false, false) => output::say(&words),
    }
    Ok(Outcome::of(good))
}
