//! `mailweir mx level`: which level holds where, what it makes of every rule, and decisions about it.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use mail::id::SourceId;
use rules::{Level, LevelOrigin, Levels};
use serde_json::{Map, Value, json};

use crate::client::{CallFault, NodeArguments, NodeClient};
use crate::exit::{Ended, Failure, Outcome};
use crate::globals::{Globals, mx_below, whose};
use crate::output::{behind, number, print, print_json, printable, say, source_id, terminal_width};
use crate::quarantine::text::{second, word};

/// Figures in the table, with their names in 14 columns.
const FIGURES: [(&str, &str); 5] = [
    ("max_connections", "connections"),
    ("max_messages_per_connection", "per connection"),
    ("messages_per_hour", "per hour"),
    ("connections_per_minute", "conn. a minute"),
    ("min_interval", "interval ms"),
];
/// Width of the table where there is room for it.
const WIDTH: usize = 98;
/// Columns for the name of a rule; a longer one has a line of its own.
const NAME_WIDTH: usize = 20;
/// Width of the narrower one.
const NARROW: usize = 79;

/// `mailweir mx level`
#[derive(Debug, Args)]
pub struct LevelArguments {
    #[command(subcommand)]
    command: LevelCommand,
}

#[derive(Debug, Subcommand)]
enum LevelCommand {
    /// The figures of every rule at all six levels, and where each comes from
    Show(ShowArguments),
    /// Set a level from now on. Boost ends by itself after 24 hours unless --for says otherwise
    Set(SetArguments),
    /// Every decision: when, who, why, and what became of it
    History(NodeArguments),
    /// Undo a decision: what held before holds again
    Undo(UndoArguments),
}

#[derive(Debug, Args)]
struct ShowArguments {
    /// One rule in detail
    rule: Option<String>,
    /// Say the level of this source too
    #[arg(long, value_name = "PUBLIC_ID", value_parser = source_id)]
    source: Option<u32>,
    /// Rules without a figure of their own in full too
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    node: NodeArguments,
}

#[derive(Debug, Args)]
struct SetArguments {
    /// slow, normal, fast, very-fast, boost, custom; or configured: as the configuration says
    level: String,
    /// Only this source
    #[arg(long, value_name = "PUBLIC_ID", conflicts_with = "affinity", value_parser = source_id)]
    source: Option<u32>,
    /// Only the sources of this affinity
    #[arg(long, value_name = "NAME")]
    affinity: Option<String>,
    /// Only at the provider of this rule
    #[arg(long, value_name = "RULE")]
    provider: Option<String>,
    /// For so long, such as 24h or 3d (boost: 1 minute to 7 days); then what held before holds again
    #[arg(long = "for", value_name = "SPAN")]
    lasts: Option<String>,
    /// Undo every more particular decision within it too; without, they are named and stay
    #[arg(long)]
    clear: bool,
    /// Why; kept with the decision
    #[arg(long, value_name = "TEXT")]
    why: String,
    #[command(flatten)]
    node: NodeArguments,
}

#[derive(Debug, Args)]
struct UndoArguments {
    /// Number of the decision, as `history` shows it
    decision: u64,
    /// Why; kept with the undoing
    #[arg(long, value_name = "TEXT")]
    why: String,
    #[command(flatten)]
    node: NodeArguments,
}

/// Carries the command out.
///
/// # Errors
/// See [`Failure`].
pub fn run(globals: &Globals, arguments: LevelArguments) -> Ended {
    match arguments.command {
        LevelCommand::Show(arguments) => show(globals, &arguments),
        LevelCommand::Set(arguments) => set(globals, &arguments),
        LevelCommand::History(node) => history(globals, &node),
        LevelCommand::Undo(arguments) => {
            let body = json!({ "decision": arguments.decision, "why": arguments.why });
            decided(globals, &arguments.node, &["levels", "undo"], &body)
        }
    }
}

fn set(globals: &Globals, arguments: &SetArguments) -> Ended {
    let mut body = Map::new();
    body.insert("level".into(), arguments.level.clone().into());
    body.insert("why".into(), arguments.why.clone().into());
    if arguments.clear {
        body.insert("clear".into(), true.into());
    }
    let given = [
        ("source", arguments.source.map(Value::from)),
        ("affinity", arguments.affinity.clone().map(Value::from)),
        ("rule", arguments.provider.clone().map(Value::from)),
        ("for", arguments.lasts.clone().map(Value::from)),
    ];
    body.extend(given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    decided(globals, &arguments.node, &["levels"], &Value::Object(body))
}

/// Sends a decision and says what holds now.
fn decided(globals: &Globals, node: &NodeArguments, path: &[&str], body: &Value) -> Ended {
    let client = NodeClient::new(globals, node)?;
    let answer = crate::runtime()?.block_on(client.post(path, body))?;
    if globals.json() {
        print_json(&answer)?;
        return Ok(Outcome::Fine);
    }
    let mut text = format!(
        "decision {}, in force now (rules version {})\n",
        word(&answer, "number"),
        word(&answer, "rules_version")
    );
    if answer.get("until").is_some_and(|until| !until.is_null()) {
        let _ = writeln!(text, "it ends by itself at {}", second(&answer, "until"));
    }
    text += &reach_text(&answer);
    let held = answer.get("in_force").cloned().unwrap_or_default();
    text += &levels_text(&held);
    if answer.get("takes_mx_rules_of_bundles") == Some(&Value::Bool(false)) {
        text += "at level custom the MX rules of bundles are not taken; the other rules are\n";
    }
    print(&text)?;
    Ok(Outcome::Fine)
}

/// What a decision undid with it, and where it does not reach.
fn reach_text(answer: &Value) -> String {
    let list = |name: &str| answer.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut text = String::new();
    let cleared: Vec<String> = list("cleared").iter().map(plain).collect();
    if !cleared.is_empty() {
        let _ = writeln!(text, "undone with it: decision {}", cleared.join(", "));
    }
    let rest = list("not_reached");
    if rest.is_empty() {
        return text;
    }
    text += "NOT reached, because a more particular level holds there:\n";
    let mut clearable = false;
    for one in &rest {
        let of = match one.get("decision").and_then(Value::as_u64) {
            Some(number) => {
                clearable = true;
                format!("decision {number}")
            }
            None => "by the configuration".to_owned(),
        };
        let until = match one.get("until") {
            Some(until) if !until.is_null() => format!(", until {}", second(one, "until")),
            _ => String::new(),
        };
        let _ = writeln!(text, "  {:<32} {} ({of}{until})", scope_text(one), word(one, "level"));
    }
    if clearable {
        text += "`mailweir mx level undo NUMBER` ends one of them; --clear undoes them all with the decision\n";
    }
    text
}

/// Which level holds where, a line for each setting, the most general first.
fn levels_text(levels: &Value) -> String {
    let mut text = format!("{:<34} {}\n", "everything", word(levels, "default"));
    let flat = [
        ("per_affinity", "affinity "),
        ("per_source", "source "),
        ("per_rule", "every source at "),
    ];
    for (part, name) in flat {
        for (key, level) in levels.get(part).and_then(Value::as_object).into_iter().flatten() {
            let what = format!("{name}{}", printable(key));
            let _ = writeln!(text, "{what:<34} {}", level.as_str().unwrap_or("-"));
        }
    }
    for (part, name) in [("per_affinity_and_rule", "affinity"), ("per_source_and_rule", "source")] {
        for (key, rules) in levels.get(part).and_then(Value::as_object).into_iter().flatten() {
            for (rule, level) in rules.as_object().into_iter().flatten() {
                let what = format!("{name} {} at {}", printable(key), printable(rule));
                let _ = writeln!(text, "{what:<34} {}", level.as_str().unwrap_or("-"));
            }
        }
    }
    text
}

fn history(globals: &Globals, node: &NodeArguments) -> Ended {
    let client = NodeClient::new(globals, node)?;
    let answer = crate::runtime()?.block_on(client.get(&["levels"]))?;
    if globals.json() {
        print_json(&answer)?;
    } else {
        print(&history_text(&answer))?;
    }
    Ok(Outcome::Fine)
}

fn history_text(answer: &Value) -> String {
    let decisions = answer.get("decisions").and_then(Value::as_array);
    let decisions = decisions.map(Vec::as_slice).unwrap_or_default();
    if decisions.is_empty() {
        return "no decision yet: the levels are those of the configuration\n".to_owned();
    }
    let mut text = String::new();
    for one in decisions {
        let (what, until) = change_text(one.get("change").unwrap_or(&Value::Null));
        let _ = writeln!(text, "{:>4}  {}  {what}{until}", word(one, "number"), second(one, "at"));
        let standing = standing_text(one.get("standing").unwrap_or(&Value::Null));
        let (who, why) = (word(one, "who"), word(one, "why"));
        let _ = writeln!(text, "      {standing}; by {who}: {why}");
    }
    text
}

/// What something is set for: `source 3 at google`.
fn scope_text(of: &Value) -> String {
    let scope = of.get("scope").cloned().unwrap_or_default();
    let subject = match scope.get("subject") {
        Some(Value::Object(named)) => named
            .iter()
            .map(|(kind, name)| format!("{kind} {}", printable(&plain(name))))
            .collect::<String>(),
        _ => "everything".to_owned(),
    };
    match scope.get("rule").and_then(Value::as_str) {
        Some(rule) => format!("{subject} at {}", printable(rule)),
        None => subject,
    }
}

/// `boost for source 3 at google` and its end.
fn change_text(change: &Value) -> (String, String) {
    if let Some(set) = change.get("set") {
        let until = match set.get("until") {
            Some(until) if !until.is_null() => format!(" until {}", second(set, "until")),
            _ => String::new(),
        };
        return (format!("{} for {}", word(set, "level"), scope_text(set)), until);
    }
    if let Some(as_configured) = change.get("as-configured") {
        return (format!("as configured for {}", scope_text(as_configured)), String::new());
    }
    let undone = change.get("undo").map(|undo| word(undo, "decision")).unwrap_or_default();
    (format!("decision {undone} undone"), String::new())
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn standing_text(standing: &Value) -> String {
    match standing {
        Value::String(text) => text.replace('-', " "),
        Value::Object(fields) => fields
            .iter()
            .map(|(state, by)| format!("{state} by decision {}", word(by, "by")))
            .collect(),
        _ => "-".to_owned(),
    }
}

fn show(globals: &Globals, arguments: &ShowArguments) -> Ended {
    let (answer, levels) = figures(globals, arguments)?;
    if globals.json() {
        let levels = levels.get("in_force").cloned().unwrap_or(levels);
        let rules = answer.get("rules").cloned().unwrap_or_default();
        print_json(&json!({ "levels": levels, "rules": rules }))?;
        return Ok(Outcome::Fine);
    }
    let rules = answer.get("rules").and_then(Value::as_array).cloned().unwrap_or_default();
    let held = levels.get("in_force").unwrap_or(&levels);
    match (&arguments.rule, rules.first()) {
        (Some(_), Some(rule)) => print(&detail_text(rule, terminal_width()))?,
        _ => {
            let text = show_text(&rules, arguments.all, terminal_width());
            print(&format!("{}\n{text}", levels_text(held)))?;
        }
    }
    Ok(Outcome::Fine)
}

/// Figures and levels: of the running node, else as the configuration says.
fn figures(globals: &Globals, arguments: &ShowArguments) -> Result<(Value, Value), Failure> {
    let mut parameters: Vec<(&str, String)> = Vec::new();
    parameters.extend(arguments.rule.clone().map(|rule| ("rule", rule)));
    parameters.extend(arguments.source.map(|source| ("source", source.to_string())));
    let config = globals.load_without_secrets()?;
    let askable = arguments.node.url.is_some()
        || config.as_ref().is_none_or(|config| !config.http.listen.is_empty());
    if askable {
        let client = NodeClient::new(globals, &arguments.node)?;
        let asked = crate::runtime()?.block_on(async {
            let levels = match client.get(&["levels"]).await {
                Ok(levels) => levels,
                Err(CallFault::NotRunning(_)) => return Ok(None),
                Err(fault) => return Err(fault),
            };
            let figures = client.get_with(&["levels", "figures"], &parameters).await?;
            Ok(Some((figures, levels)))
        });
        if let Some(found) = asked? {
            return Ok(found);
        }
    }
    let below = mx_below(config.as_ref());
    say(&format!(
        "note: no node answers; these are the levels of the configuration, without later decisions; below the operator's own MX rules are {}",
        whose(&below)
    ));
    let levels = config.as_ref().map_or_else(Levels::default, |config| config.rules.levels.clone());
    let set = super::rules_for(config.as_ref(), &below, None, None)?;
    if let (Some(config), Some(id)) = (&config, arguments.source) {
        known_source(config, id)?;
    }
    let columns = set.all_columns(arguments.rule.as_deref(), arguments.source.map(SourceId));
    if let (true, Some(rule)) = (columns.is_empty(), &arguments.rule) {
        return Err(Failure::environment(format!("there is no rule {rule:?}{}", set.hint(rule))));
    }
    let json = |value: serde_json::Result<Value>| {
        value.map_err(|fault| Failure::environment(format!("cannot write JSON: {fault}")))
    };
    let rules = json(serde_json::to_value(columns))?;
    Ok((json!({ "rules": rules }), json(serde_json::to_value(levels))?))
}

/// Refuses a source that the configuration does not have.
fn known_source(config: &node::config::Config, id: u32) -> Result<(), Failure> {
    if config.sources.iter().any(|one| one.id == SourceId(id)) {
        return Ok(());
    }
    let known: Vec<String> =
        config.sources.iter().take(20).map(|one| one.id.0.to_string()).collect();
    Err(Failure::environment(format!("there is no source {id}; there are {}", known.join(", "))))
}

/// Whether all three main figures are the generic rule's.
fn inherits_all(rule: &Value) -> bool {
    let list = |value: &Value, name: &str| value.get(name).and_then(Value::as_array).cloned();
    let figures = list(rule, "figures").unwrap_or_default();
    let own =
        figures.iter().flat_map(|figure| list(figure, "levels").unwrap_or_default()).any(|one| {
            let made = list(&one, "made_by").unwrap_or_default();
            made.iter().any(|by| matches!(by.as_str(), Some("stated" | "hard-cap")))
        });
    !own
}

fn show_text(rules: &[Value], all: bool, terminal: Option<u16>) -> String {
    let names = Level::ALL.map(Level::word);
    let narrow = terminal.is_some_and(|width| usize::from(width) < WIDTH);
    let width = if narrow { NARROW } else { WIDTH };
    let mut rows = match narrow {
        true => narrow_line("rule, figure", &names, "from"),
        false => line("rule", "figure", &names, "from"),
    };
    rows += &format!("{}\n", "─".repeat(width - 1));
    let (mut inheriting, mut held) = (Vec::new(), false);
    for rule in rules {
        let name = word(rule, "rule");
        if !all && inherits_all(rule) {
            inheriting.push(name);
            continue;
        }
        let mut first = Some(name.clone());
        if narrow || name.chars().count() > NAME_WIDTH {
            let _ = writeln!(rows, "{}", printable(&name));
            first = None;
        }
        for figure in rule.get("figures").and_then(Value::as_array).into_iter().flatten() {
            let (levels, from) = row(figure);
            held |= levels.iter().any(|cell| cell.ends_with(['!', '^']));
            let name = first.take().unwrap_or_default();
            rows += &match narrow {
                true => narrow_line(&format!("  {}", figure_name(figure)), &levels, &from),
                false => line(&name, &figure_name(figure), &levels, &from),
            };
        }
    }
    let mut text = rows;
    if held {
        text += "\n!  held down by a hard or published figure, which no level passes\n";
        text += "^  held down by the 100 connections per source and provider\n";
    }
    let stated =
        "stated for this level; every other figure is multiplied by the level, rounded down";
    let _ = writeln!(text, "=  {}", behind(3, stated, terminal));
    if !inheriting.is_empty() {
        let said = format!(
            "{} rules state no figure of their own and have those of the rule default (--all shows them):",
            number(inheriting.len() as u64)
        );
        let _ = writeln!(text, "\n{}", behind(0, &said, terminal));
        text += &folded(&inheriting, width);
    }
    text
}

/// A line of the table. It fits 100 columns.
fn line<Cell: AsRef<str>>(rule: &str, figure: &str, levels: &[Cell], from: &str) -> String {
    let mut text = format!("{rule:<NAME_WIDTH$} {figure:<14}");
    for (cell, width) in levels.iter().zip([8, 8, 8, 10, 9, 8]) {
        let _ = write!(text, "{:>width$}", cell.as_ref());
    }
    format!("{text}  {from}\n")
}

/// A line of the table for 80 columns, where the name of the rule has a line of its own.
fn narrow_line<Cell: AsRef<str>>(figure: &str, levels: &[Cell], from: &str) -> String {
    let mut text = format!("{figure:<16}");
    for (cell, width) in levels.iter().zip([7, 8, 8, 11, 9, 8]) {
        let _ = write!(text, "{:>width$}", cell.as_ref());
    }
    format!("{text}  {from}\n")
}

/// Names in lines of this width.
fn folded(names: &[String], width: usize) -> String {
    let (mut text, mut line) = (String::new(), String::from(" "));
    for name in names {
        if line.chars().count() + name.chars().count() + 2 > width {
            text += &format!("{line}\n");
            line = String::from(" ");
        }
        line += &format!(" {}", printable(name));
    }
    format!("{text}{line}\n")
}

fn figure_name(figure: &Value) -> String {
    let key = figure.get("figure").and_then(Value::as_str).unwrap_or("-");
    let known = FIGURES.iter().find(|(name, _)| *name == key);
    known.map_or_else(|| key.to_owned(), |(_, name)| (*name).to_owned())
}

/// The six cells of a figure, each marked with what held it, and who states it. A level for which nothing is stated has a dash.
fn row(figure: &Value) -> (Vec<String>, String) {
    let mut from = "-".to_owned();
    let levels = figure.get("levels").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let cell = |level: Level| {
        let found = levels.iter().find(|one| word(one, "level") == level.word());
        let Some(one) = found else { return "-".to_owned() };
        let made = one.get("made_by").and_then(Value::as_array).into_iter().flatten();
        let mut mark = "";
        for by in made.filter_map(Value::as_str) {
            match by {
                "stated" | "inherited" => by.clone_into(&mut from),
                "for-this-level" => mark = "=",
                "hard-cap" => mark = "!",
                "connection-cap" => mark = "^",
                _ => {}
            }
        }
        format!("{}{mark}", number(one.get("value").and_then(Value::as_u64).unwrap_or(0)))
    };
    let cells = Level::ALL.map(cell).to_vec();
    (cells, from)
}

fn detail_text(rule: &Value, terminal: Option<u16>) -> String {
    let mut text = format!(
        "rule {} ({}), {}, scope {}\n",
        word(rule, "rule"),
        word(rule, "provider"),
        word(rule, "place"),
        word(rule, "scope")
    );
    if let Some(Value::Array(held)) = rule.get("in_force") {
        let level = held.first().map(plain).unwrap_or_default();
        let origin = held.get(1).cloned().unwrap_or_default();
        let words = serde_json::from_value(origin.clone()).map(LevelOrigin::words);
        let words = words.map_or_else(|_| plain(&origin), str::to_owned);
        let _ = writeln!(text, "level in force: {level} ({words})");
    }
    for figure in rule.get("figures").and_then(Value::as_array).into_iter().flatten() {
        let _ = writeln!(text, "\n{}", figure_name(figure));
        for one in figure.get("levels").and_then(Value::as_array).into_iter().flatten() {
            let value = one.get("value").and_then(Value::as_u64).unwrap_or(0);
            let level = word(one, "level");
            let why = behind(22, &word(one, "why"), terminal);
            let _ = writeln!(text, "  {level:<10} {:>7}  {why}", number(value));
        }
    }
    let figures = word(rule, "source_of_figures");
    if figures != "-" && !figures.is_empty() {
        let _ = writeln!(text, "\nfigures from: {}", behind(14, &figures, terminal));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped() -> Vec<Value> {
        let set = rules::RuleSet::compile(rules::shipped(), &Levels::default(), 1);
        let columns = serde_json::to_value(set.all_columns(None, Some(SourceId(1)))).unwrap();
        columns.as_array().unwrap().clone()
    }

    #[test]
    fn the_table_fits_100_columns_and_names_every_rule() {
        let rules = shipped();
        let text = show_text(&rules, false, None);
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        for rule in &rules {
            assert!(text.contains(&word(rule, "rule")), "{}", word(rule, "rule"));
        }
        let line =
            |start: &str| text.lines().find(|line| line.trim_start().starts_with(start)).unwrap();
        let words: Vec<&str> = line("google").split_whitespace().collect();
        assert_eq!(words, ["google", "connections", "1", "5", "7", "10", "14", "5", "stated"]);
        let words: Vec<&str> = line("orange").split_whitespace().collect();
        assert_eq!(words, ["orange", "connections", "1", "2", "2", "2!", "2!", "2", "stated"]);
        let words: Vec<&str> = line("default").split_whitespace().collect();
        assert_eq!(words, ["default", "connections", "3", "10", "14", "20", "28", "10", "stated"]);
        let orange = rules.iter().find(|rule| word(rule, "rule") == "orange").unwrap();
        let detail = detail_text(orange, None);
        assert!(detail.contains("a hard figure of this rule that no level passes"), "{detail}");
    }

    #[test]
    fn a_level_without_a_figure_has_a_dash() {
        let figure = json!({ "figure": "min_interval", "levels": [
            { "level": "fast", "value": 5, "made_by": ["stated", "for-this-level"] },
        ] });
        let cells = ["-", "-", "5=", "-", "-", "-"].map(str::to_owned).to_vec();
        assert_eq!(row(&figure), (cells, "stated".to_owned()));
    }

    /// `--level` takes the place of the general level, as `mx level set` does it.
    #[test]
    fn a_level_that_is_tried_leaves_the_particular_ones() {
        let text = "data_dir = \"data\"\n[[source]]\npublic_id = 1\naddress = \"127.0.0.41\"\n\
                    helo = \"m1.sender.example\"\n[rules]\nhourly_base = 700\n\
                    [rules.levels.rules]\n\"google\" = \"slow\"\n";
        let folder = std::path::Path::new(".");
        let config = node::config::Config::parse(text, "test.toml", folder).unwrap();
        let below = mx_below(Some(&config));
        let set = super::super::rules_for(Some(&config), &below, None, Some(Level::Boost)).unwrap();
        let mut wanted = config.rules.levels.clone();
        wanted.default = Level::Boost;
        assert_eq!(*set.levels(), wanted);
        assert_eq!((wanted.hourly_base, wanted.per_rule.len()), (Some(700), 1));
    }

    #[test]
    fn everything_fits_the_terminal() {
        let rules = shipped();
        for width in [80, 97, 98, 120] {
            for text in
                [show_text(&rules, true, Some(width)), show_text(&rules, false, Some(width))]
            {
                let long = text.lines().find(|line| line.chars().count() > usize::from(width));
                assert_eq!(long, None, "{width}");
            }
            for rule in &rules {
                let text = detail_text(rule, Some(width));
                let long =
                    text.lines().skip(1).find(|line| line.chars().count() > usize::from(width));
                assert_eq!(long, None, "{width}");
            }
        }
        let narrow = show_text(&rules, false, Some(80));
        let mut lines = narrow.lines().skip_while(|line| *line != "orange").skip(1);
        let words: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
        assert_eq!(words, ["connections", "1", "2", "2", "2!", "2!", "2", "stated"]);
        let google = detail_text(&rules[0], None);
        assert!(google.contains("level in force: normal (the general one)"), "{google}");
    }

    #[test]
    fn a_decision_says_where_it_does_not_reach() {
        let answer = json!({ "cleared": [], "not_reached": [
            { "scope": { "subject": { "source": 1 }, "rule": "google" }, "level": "boost", "decision": 2,
              "until": "2026-11-22T10:00:00.123Z" },
            { "scope": { "subject": "everything", "rule": "orange" }, "level": "fast", "decision": null },
        ] });
        let text = reach_text(&answer);
        for wanted in [
            "source 1 at google               boost (decision 2, until 2026-11-22T10:00:00Z)",
            "everything at orange             fast (by the configuration)",
            "--clear",
        ] {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
        assert_eq!(reach_text(&json!({ "cleared": [2, 3] })), "undone with it: decision 2, 3\n");
        assert_eq!(reach_text(&json!({ "number": 1 })), "");
    }

    #[test]
    fn a_source_that_is_not_there_is_refused() {
        let text = "data_dir = \"data\"\n[[source]]\npublic_id = 1\naddress = \"127.0.0.41\"\nhelo = \"m1.sender.example\"\n";
        let folder = std::path::Path::new(".");
        let config = node::config::Config::parse(text, "test.toml", folder).unwrap();
        assert!(known_source(&config, 1).is_ok());
        let fault = known_source(&config, 7).unwrap_err().to_string();
        assert!(fault.contains("no source 7; there are 1"), "{fault}");
    }

    #[test]
    fn decisions_are_told_in_two_lines() {
        let answer = json!({ "decisions": [
            { "number": 1, "at": "2026-11-21T10:00:00.000Z", "who": "ann", "why": "sale", "standing": "ended",
              "change": { "set": { "scope": { "subject": { "source": 3 }, "rule": "google" }, "level": "boost",
                                   "until": "2026-11-22T10:00:00.000Z" } } },
            { "number": 2, "at": "2026-11-21T11:00:00.000Z", "who": "bob", "why": "mistake", "standing": "done",
              "change": { "undo": { "decision": 1 } } },
            { "number": 3, "at": "2026-11-21T12:00:00.000Z", "who": "bob", "why": "x", "standing": { "hidden": { "by": 4 } },
              "change": { "as-configured": { "scope": { "subject": "everything", "rule": null } } } },
        ] });
        assert_eq!(
            history_text(&answer),
            "   1  2026-11-21T10:00:00Z  boost for source 3 at google until 2026-11-22T10:00:00Z
      ended; by ann: sale
   2  2026-11-21T11:00:00Z  decision 1 undone
      done; by bob: mistake
   3  2026-11-21T12:00:00Z  as configured for everything
      hidden by decision 4; by bob: x\n"
        );
    }
}
