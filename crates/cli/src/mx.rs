//! `mailweir mx`: check a rule file, list the rules, explain what holds for a domain.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use mail::id::SourceId;
use node::deliverability::MxBase;
use rules::{Diagnostic, Figure, Level, RuleFile, RuleSet};
use serde::Serialize;

use crate::exit::{Ended, Failure, Outcome};
use crate::globals::{Globals, mx_below, read_bounded, rule_set, whose};
use crate::output::{self, count, number, print, print_json};

mod explain;
mod level;
mod live;
mod simulate;
mod text;

pub use explain::resolver;

/// `mailweir mx`
#[derive(Debug, Args)]
pub struct MxArguments {
    #[command(subcommand)]
    command: MxCommand,
}

#[derive(Debug, Subcommand)]
enum MxCommand {
    /// Check a rule file: every fault with its line
    Check(CheckArguments),
    /// The rules in the order in which they are tried
    List(ListArguments),
    /// Which rule holds for a domain's mail exchangers, why, and how much it allows
    #[command(long_about = explain::LONG_ABOUT)]
    Explain(explain::MxExplainArguments),
    /// Send the mail of the last days again under other rules; nothing is changed
    #[command(long_about = simulate::LONG_ABOUT)]
    Simulate(simulate::SimulateArguments),
    /// Levels: how hard the figures are pressed; show, set, history, undo
    Level(level::LevelArguments),
    /// The same as `mailweir warmup`: plan, status, and the planner's proposals about levels
    Warmup(crate::warmup::WarmupArguments),
}

#[derive(Debug, Args)]
struct CheckArguments {
    /// The file
    file: PathBuf,
    /// The file must stand alone: its last rule must be the generic one
    #[arg(long)]
    complete: bool,
}

#[derive(Debug, Args)]
struct ListArguments {
    /// Local rules, put before the shipped ones [default: those of the configuration]
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// Figures at this general level; what is set for a source or a rule stays [default: that of the
    /// configuration, else normal]
    #[arg(long)]
    level: Option<Level>,
    /// Figures for this source
    #[arg(long, value_name = "PUBLIC_ID", default_value_t = 1, value_parser = output::source_id)]
    source: u32,
}

/// Carries the command out.
///
/// # Errors
/// See [`Failure`].
pub fn run(globals: &Globals, arguments: MxArguments) -> Ended {
    match arguments.command {
        MxCommand::Check(arguments) => check(globals, &arguments),
        MxCommand::List(arguments) => list(globals, &arguments),
        MxCommand::Explain(arguments) => explain::run(globals, &arguments),
        MxCommand::Simulate(arguments) => simulate::run(globals, &arguments),
        MxCommand::Level(arguments) => level::run(globals, arguments),
        MxCommand::Warmup(arguments) => crate::warmup::run(globals, arguments),
    }
}

/// The pictures of faults, an empty line between them.
#[must_use]
pub fn render(faults: &[Diagnostic]) -> String {
    faults.iter().map(Diagnostic::render).collect::<Vec<_>>().join("\n\n")
}

/// What `mx check --format json` answers.
#[derive(Serialize)]
struct Checked {
    file: String,
    ok: bool,
    rules: usize,
    /// Names of shipped rules that rules of this file replace.
    replaces: Vec<String>,
    /// What shipped rules say that is gone with them, because the rules in their place do not state it.
    dropped: Vec<DroppedFigure>,
    faults: Vec<Fault>,
}

/// Something that a shipped rule states and the rule of the file in its place does not.
#[derive(Serialize)]
struct DroppedFigure {
    /// Name of the shipped rule.
    shipped_rule: String,
    /// Name of the rule in its place.
    rule: String,
    #[serde(flatten)]
    dropped: rules::Dropped,
}

/// A fault of a rule file in JSON.
#[derive(Serialize)]
struct Fault {
    line: u32,
    column: u32,
    message: String,
    help: String,
}

fn check(globals: &Globals, arguments: &CheckArguments) -> Ended {
    let file = arguments.file.display().to_string();
    let bytes = read_bounded(&arguments.file)?;
    let parsed = match arguments.complete {
        true => rules::parse(&file, &bytes),
        false => rules::parse_local(&file, &bytes),
    };
    let mut checked = Checked {
        file,
        ok: parsed.is_ok(),
        rules: 0,
        replaces: Vec::new(),
        dropped: Vec::new(),
        faults: Vec::new(),
    };
    let (words, good) = match parsed {
        Ok(rules) => {
            checked.rules = rules.rules().len();
            checked.replaces = replaced(&rules);
            let mut words =
                format!("{}: ok, {}", checked.file, count(checked.rules as u64, "rule"));
            if !checked.replaces.is_empty() && !arguments.complete {
                words += &format!(", replacing the shipped {}", checked.replaces.join(", "));
            }
            if !arguments.complete {
                let all = rules::replaced(&rules, rules::shipped());
                words += &dropped_text(&all);
                checked.dropped = all.into_iter().flat_map(dropped_figures).collect();
            }
            (words, true)
        }
        Err(faults) => {
            checked.faults = faults
                .iter()
                .map(|fault| Fault {
                    line: fault.line,
                    column: fault.column,
                    message: fault.message.clone(),
                    help: fault.help.clone(),
                })
                .collect();
            let total = count(faults.len() as u64, "fault");
            (format!("{}\n\n{total} in {}", render(&faults), checked.file), false)
        }
    };
    match (globals.json(), good) {
        (true, _) => print_json(&checked)?,
        (false, true) => print(&words)?,
        (false, false) => output::say(&words),
    }
    Ok(Outcome::of(good))
}

fn dropped_figures(replaced: rules::Replaced) -> Vec<DroppedFigure> {
    let (shipped_rule, rule) = (replaced.shipped.to_string(), replaced.by.to_string());
    let figures = replaced.dropped.into_iter();
    figures
        .map(|dropped| DroppedFigure {
            shipped_rule: shipped_rule.clone(),
            rule: rule.clone(),
            dropped,
        })
        .collect()
}

/// Figure by figure, what shipped rules say and the rules in their place do not.
fn dropped_text(all: &[rules::Replaced]) -> String {
    let mut text = String::new();
    for one in all.iter().filter(|one| !one.dropped.is_empty()) {
        text += &format!(
            "\nrule {} takes the place of the shipped rule {}, which says what this one does not:\n",
            one.by, one.shipped
        );
        for dropped in &one.dropped {
            text += &format!("  {dropped}\n");
        }
    }
    if !text.is_empty() {
        text +=
            "state in the file what shall go on; what is not stated comes from the generic rule";
    }
    text
}

/// Shipped rules whose names the file uses too.
fn replaced(local: &RuleFile) -> Vec<String> {
    let is_shipped = |name: &str| {
        rules::shipped().rules().iter().any(|rule| *rule.name == *name && !rule.is_generic())
    };
    let names = local.rules().iter().map(|rule| rule.name.to_string());
    names.filter(|name| is_shipped(name)).collect()
}

/// The rule set that the options and the configuration ask for, over the rules below: a level takes the place of the
/// general one only.
///
/// # Errors
/// Faults in the rule file.
pub fn rules_for(
    config: Option<&node::config::Config>,
    below: &MxBase,
    local: Option<&Path>,
    level: Option<Level>,
) -> Result<RuleSet, Failure> {
    let configured = config.and_then(|config| config.rules.mx.as_deref());
    let mut levels = config.map(|config| config.rules.levels.clone()).unwrap_or_default();
    // As `mx level set` does it: what is set for a source, an affinity or a rule stays.
    levels.default = level.unwrap_or(levels.default);
    rule_set(local.or(configured), below.file(), &levels)
}

/// A rule in `mx list --format json`.
#[derive(Serialize)]
struct Listed<'a> {
    name: &'a str,
    provider: &'a str,
    masks: Vec<&'a str>,
    sources: String,
    scope: rules::Scope,
    pacing: rules::Pacing,
    tls: rules::TlsPolicy,
    level: Level,
    limits: rules::Limits,
    timeouts: rules::Timeouts,
    confidence: rules::Confidence,
    source_of_figures: &'a str,
    place: &'a rules::Place,
}

fn list(globals: &Globals, arguments: &ListArguments) -> Ended {
    let config = globals.load_without_secrets()?;
    let below = mx_below(config.as_ref());
    let set = rules_for(config.as_ref(), &below, arguments.rules.as_deref(), arguments.level)?;
    let source = SourceId(arguments.source);
    let listed = set.rules().map(|(id, rule)| Listed {
        name: &rule.name,
        provider: &rule.provider,
        masks: rule.masks.iter().map(|mask| mask.as_str()).collect(),
        sources: rule.sources.to_string(),
        scope: rule.scope,
        pacing: rule.pacing,
        tls: rule.tls,
        level: set.level(id, source),
        limits: set.limits(id, source),
        timeouts: rule.timeouts,
        confidence: rule.confidence,
        source_of_figures: &rule.source_of_figures,
        place: &rule.place,
    });
    if globals.json() {
        print_json(&listed.collect::<Vec<_>>())?;
        return Ok(Outcome::Fine);
    }
    let mut table = output::table(&[
        "rule",
        "masks",
        "scope",
        ">per hour",
        ">connections",
        ">per connection",
        "level",
        "from",
    ])
    .leaves_out(&["from", "scope", "level"]);
    let mut total = 0_u64;
    for rule in listed {
        total += 1;
        let more = match rule.masks.len() {
            0..=2 => String::new(),
            all => format!(" +{}", all - 2),
        };
        let masks: Vec<&str> = rule.masks.into_iter().take(2).collect();
        table.add_row([
            rule.name.to_owned(),
            format!("{}{more}", masks.join(" ")),
            rule.scope.to_string(),
            number(u64::from(rule.limits.messages_per_hour)),
            number(u64::from(rule.limits.max_connections)),
            number(u64::from(rule.limits.max_messages_per_connection)),
            rule.level.to_string(),
            format!("{}:{}", rule.place.file, rule.place.line),
        ]);
    }
    print(&format!(
        "{table}\n{} for {source}; the first whose mask matches the MX host wins\nbelow the operator's own: {}",
        count(total, "rule"),
        whose(&below),
    ))?;
    Ok(Outcome::Fine)
}

/// The key of a figure without underscores, for people.
fn figure_name(figure: Figure) -> String {
    figure.key().replace('_', " ")
}
