//! `mailweir stat`: budgets of the running node, reload of its rules, audit of the delivery log.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use node::deliverability::MxBase;
use quota::WarmUpCaps;
use rules::{Level, Levels, RuleSet};
use serde::Serialize;
use serde_json::Value;
use simulator::audit::{AuditReport, Auditor, Entry, Past};

use crate::client::{NodeArguments, NodeClient};
use crate::exit::{Ended, Failure, Outcome};
use crate::globals::{Globals, mx_below, rule_set, whose};
use crate::log_lines::{LineIs, LogLines, with_rotated};
use crate::output::{
    count, moment, number, print, print_json, printable, say, short_moment, table,
};
use crate::{paths, show};

mod reactions;

/// Budgets in the table of an audit unless all are asked for.
const MOST_BUDGETS: usize = 40;

/// `mailweir stat`
#[derive(Debug, Args)]
pub struct StatArguments {
    #[command(subcommand)]
    command: StatCommand,
}

#[derive(Debug, Subcommand)]
enum StatCommand {
    /// Budgets, connections and wait reasons of the running node
    Show(NodeArguments),
    /// Let the running node read its rules again; no count is lost
    Reload(NodeArguments),
    /// Reactions in force: which path, source or delivery is held back, by which rule, until when
    Reactions(reactions::ReactionsArguments),
    /// Lift or prolong a reaction
    Reaction(reactions::ReactionArguments),
    /// What a person has to look at; exit status 1 when there is something
    Alerts(NodeArguments),
    /// Recompute from the delivery log alone the most that any budget sent in any hour
    #[command(long_about = AUDIT_LONG_ABOUT)]
    Audit(AuditArguments),
}

/// Paragraphs are one line each, for the terminal to fold.
const AUDIT_LONG_ABOUT: &str = "\
Recompute from the delivery log alone the most messages that any budget sent in any 3,600 \
consecutive seconds, and compare it with the limit in force. Shares no code with the ledger.

Exit status 1 when a limit was passed, and when lines could not be judged: malformed, of a rule that \
the rule set does not have, or hours out of order.

Levels and warm-up caps are those of the time of each message, when a node runs that can say them; the \
rules are those of now: the operator's own over those of the bundle in force. After a rule was lowered, hours before that may show as excess: audit those \
with the rules of that time (--rules, --level).";

#[derive(Debug, Args)]
struct AuditArguments {
    /// Delivery logs, rotated ones too, in any order [default: those of the configuration]
    #[arg(long, value_name = "FILE", num_args = 1..)]
    log: Vec<PathBuf>,
    /// Local rules, put before the shipped ones [default: those of the configuration]
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// Figures at this general level, in place of that of the configuration
    #[arg(long)]
    level: Option<Level>,
    /// All budgets in the table, not only the fullest
    #[arg(long)]
    all: bool,
}

/// Carries the command out.
///
/// # Errors
/// See [`Failure`].
pub fn run(globals: &Globals, arguments: StatArguments) -> Ended {
    match arguments.command {
        StatCommand::Show(node) => {
            let client = NodeClient::new(globals, &node)?;
            let answer = crate::runtime()?.block_on(client.get(&["stat"]))?;
            if globals.json() {
                print_json(&answer)?
            } else {
                print(&stat_text(&answer))?
            }
            Ok(Outcome::Fine)
        }
        StatCommand::Reload(node) => {
            let client = NodeClient::new(globals, &node)?;
            let answer =
                crate::runtime()?.block_on(client.post(&["stat", "reload"], &Value::Null))?;
            if globals.json() {
                print_json(&answer)?;
            } else {
                print(&format!("reloaded; no count was lost\n{}", show::document(&answer)))?;
            }
            Ok(Outcome::Fine)
        }
        StatCommand::Reactions(arguments) => reactions::show(globals, &arguments),
        StatCommand::Reaction(arguments) => reactions::change(globals, &arguments),
        StatCommand::Alerts(node) => reactions::alerts(globals, &node),
        StatCommand::Audit(arguments) => audit(globals, &arguments),
    }
}

/// `stat show` for people: the fullest budgets, the MX groups that have something to do, and the sums.
fn stat_text(answer: &Value) -> String {
    let now = answer.get("now").and_then(Value::as_str).unwrap_or_default();
    let mut text = budgets_text(list(answer, "budgets"), now);
    text += &groups_text(list(answer, "groups"), now);
    let Value::Object(fields) = answer else { return text };
    text += &sums_text(answer);
    // Whatever else the node says.
    let mut rest = fields.clone();
    SUMS.iter().for_each(|name| drop(rest.remove(*name)));
    if !rest.is_empty() {
        text += &show::document(&Value::Object(rest));
    }
    if text.trim().is_empty() {
        text = "no budget has been used yet\n".to_owned();
    }
    text
}

fn list<'a>(answer: &'a Value, name: &str) -> &'a [Value] {
    answer.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The first of these fields that has a value.
fn cell(value: &Value, names: &[&str]) -> String {
    let found = names.iter().find_map(|name| value.get(*name)).filter(|found| !found.is_null());
    found.map_or_else(|| "-".to_owned(), show::plain)
}

fn budgets_text(budgets: &[Value], now: &str) -> String {
    if budgets.is_empty() {
        return String::new();
    }
    let columns = ["rule", "budget", ">in any hour", ">five minutes", ">connections", "next"];
    let mut rows = table(&columns).leaves_out(&["connections", "five minutes"]);
    for budget in paths::shown(budgets) {
        let of = |used: &[&str], limit: &[&str]| {
            format!("{} / {}", cell(budget, used), cell(budget, limit))
        };
        rows.add_row([
            cell(budget, &["rule"]),
            cell(budget, &["key"]),
            of(&["used_in_window", "used"], &["limit_per_hour", "limit"]),
            of(&["used_in_period"], &["period_limit"]),
            of(&["connections"], &["max_connections"]),
            // A time that is not to come is that of the answer.
            short_moment(budget.get("next_at"), now),
        ]);
    }
    format!("{rows}\n{}\n", paths::more(budgets.len()))
}

fn groups_text(groups: &[Value], now: &str) -> String {
    let is_busy = |group: &&Value| {
        let some = |name: &&str| group.get(*name).and_then(Value::as_u64) > Some(0);
        ["window", "connections", "in_flight"].iter().any(some)
            || group.get("waiting").is_some_and(|waiting| !waiting.is_null())
    };
    let busy: Vec<&Value> = groups.iter().filter(is_busy).collect();
    let at_rest = groups.len() - busy.len();
    let mut text = String::new();
    if !busy.is_empty() {
        let columns =
            ["MX group", "rule", ">window", ">connections", ">in flight", "waits for", "until"];
        let mut rows = table(&columns).leaves_out(&["window", "in flight", "rule", "connections"]);
        for group in paths::shown(&busy) {
            let waiting = group.get("waiting").filter(|waiting| !waiting.is_null());
            let reason = waiting.and_then(|waiting| waiting.get("reason")).map_or_else(
                || waiting.map(show::plain).unwrap_or_else(|| "-".to_owned()),
                |reason| reason.get("reason").map_or_else(|| show::plain(reason), show::plain),
            );
            let until = waiting.and_then(|waiting| waiting.get("until").or(waiting.get("next_at")));
            rows.add_row([
                cell(group, &["sample_domain", "key"]),
                cell(group, &["rule"]),
                cell(group, &["window"]),
                cell(group, &["connections"]),
                cell(group, &["in_flight"]),
                printable(&reason),
                short_moment(until, now),
            ]);
        }
        text += &format!("{rows}\n{}", paths::more(busy.len()));
    }
    if at_rest > 0 {
        let other = if busy.is_empty() { "" } else { "other " };
        text += &format!("{} at rest\n", count(at_rest as u64, &format!("{other}MX group")));
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

/// Fields that the tables and [`sums_text`] say.
const SUMS: [&str; 13] = [
    "budgets",
    "budgets_total",
    "groups",
    "groups_total",
    "now",
    "node",
    "rules_version",
    "levels",
    "sizes",
    "queue",
    "counts",
    "store",
    "clock_drift_micros",
];
/// A difference from the wall clock that is worth a line, in microseconds.
const DRIFT_SHOWN: u64 = 1_000_000;

/// Queue, counts since the start, sizes, rules, store and clock, each in a line.
fn sums_text(answer: &Value) -> String {
    let at = |path: [&str; 2]| answer.get(path[0]).and_then(|part| part.get(path[1]));
    let words = |part: &str, names: &[(&str, &str)]| {
        let one = |(name, words): &(&str, &str)| {
            Some(format!("{} {words}", show::plain(at([part, name])?)))
        };
        names.iter().filter_map(one).collect::<Vec<_>>().join(", ")
    };
    let mut text = String::new();
    let mut line = |label: &str, words: String| {
        if !words.is_empty() {
            text += &format!("{label:12}{words}\n");
        }
    };
    line("queue", words("queue", &[("queued", "queued"), ("in_flight", "claimed by nodes")]));
    let counts =
        [("sent", "sent"), ("failed", "failed"), ("deferred", "put off"), ("ended", "ended")];
    line("attempts", words("counts", &counts));
    let connections = [words("sizes", &[("connections", "open")]), {
        words("counts", &[("connections", "made"), ("sessions_failed", "failed")])
    }];
    line(
        "connections",
        connections.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", "),
    );
    line(
        "memory",
        words("sizes", &[("window_messages", "messages in windows"), ("domains", "domains")]),
    );
    if let Some(version) = answer.get("rules_version") {
        let level =
            at(["levels", "default"]).map(|level| format!(", level {}", show::plain(level)));
        line("rules", format!("version {}{}", show::plain(version), level.unwrap_or_default()));
        for part in ["per_source", "per_rule"] {
            let own = at(["levels", part]).map(show::plain).filter(|own| own != "-");
            line(
                "",
                own.map(|own| format!("{}: {own}", part.replace('_', " "))).unwrap_or_default(),
            );
        }
    }
    match (at(["store", "healthy"]), at(["store", "fault"])) {
        (Some(Value::Bool(true)), _) => line("store", "takes everything".to_owned()),
        (_, Some(fault)) => line("store", format!("TAKES NOTHING: {}", show::plain(fault))),
        _ => {}
    }
    let drift = answer.get("clock_drift_micros").and_then(Value::as_i64).unwrap_or(0);
    if drift.unsigned_abs() >= DRIFT_SHOWN {
        let side = if drift > 0 { "ahead of" } else { "behind" };
        let seconds = number(drift.unsigned_abs() / 1_000_000);
        line("clock", format!("{seconds} s {side} the wall clock"));
    }
    let named = answer.get("node").map(show::plain);
    line(
        "node",
        named.map(|name| format!("{name}, {}", moment(answer.get("now")))).unwrap_or_default(),
    );
    text
}

/// What `stat audit --format json` answers.
#[derive(Serialize)]
struct Audited<'a> {
    #[serde(flatten)]
    report: &'a AuditReport,
    /// The bundle that the MX rules below the operator's own are of; null: the program.
    mx_bundle: Option<u64>,
}

fn audit(globals: &Globals, arguments: &AuditArguments) -> Ended {
    let config = globals.load_without_secrets()?;
    let below = mx_below(config.as_ref());
    let (local, level) = (arguments.rules.as_deref(), arguments.level);
    let rules = crate::mx::rules_for(config.as_ref(), &below, local, level)?;
    let files = match (arguments.log.as_slice(), &config) {
        ([], Some(config)) => with_rotated(&config.log.delivery_log)?,
        ([], None) => {
            return Err(Failure::environment(
                "no configuration says where the delivery log is: give --log FILE",
            ));
        }
        (files, _) => files.to_vec(),
    };
    let sources = config.iter().flat_map(|config| &config.sources);
    let caps: BTreeMap<u32, u32> =
        sources.filter_map(|source| Some((source.id.0, source.messages_per_hour?))).collect();
    let past = match (&config, arguments.level, &arguments.rules) {
        (Some(config), None, None) => past_of_node(globals, config, &below)?,
        _ => Past::default(),
    };
    let mut auditor = Auditor::new(&rules, caps).with_past(past);
    let unfinished = feed(&files, &mut auditor)?;
    let report = auditor.finish();
    if globals.json() {
        print_json(&Audited { report: &report, mx_bundle: below.version() })?;
    } else {
        let text = audit_text(&report, files.len(), arguments.all);
        print(&format!(
            "{}\nMX rules below the operator's own: {}",
            text.trim_end(),
            whose(&below)
        ))?;
    }
    for file in unfinished {
        say(&format!(
            "note: the last line of {file} has no line end and was left out: is it being written?"
        ));
    }
    Ok(Outcome::of(report.limits_held))
}

/// Levels and warm-up caps as they were, asked of the running node; without one, those of the configuration
/// count for all times.
fn past_of_node(
    globals: &Globals,
    config: &node::config::Config,
    below: &MxBase,
) -> Result<Past, Failure> {
    if config.http.listen.is_empty() {
        return Ok(Past::default());
    }
    let client = NodeClient::new(globals, &NodeArguments::default())?;
    let asked = crate::runtime()?.block_on(async {
        let levels = client.get_if_running(&["levels", "past"]).await?;
        let warm_up = client.get_if_running(&["warm-up"]).await?;
        Ok::<_, Failure>(levels.zip(warm_up))
    });
    let Some((levels, warm_up)) = asked? else {
        say(
            "note: no node answers; the levels of the configuration are taken for all times, and no warm-up caps",
        );
        return Ok(Past::default());
    };
    let strange = |fault: serde_json::Error| {
        Failure::environment(format!("the node's answer is of another version: {fault}"))
    };
    let mut past = Past::default();
    for one in list(&levels, "past") {
        let from = one.get("from_micros").and_then(Value::as_u64).unwrap_or(0);
        let held = one.get("levels").cloned().unwrap_or_default();
        let held: Levels = serde_json::from_value(held).map_err(strange)?;
        if past.rules.last().is_none_or(|(_, set): &(u64, RuleSet)| *set.levels() != held) {
            past.rules.push((from, rule_set(config.rules.mx.as_deref(), below.file(), &held)?));
        }
    }
    for one in list(&warm_up, "past_caps") {
        let from = one.get("from").and_then(Value::as_str).unwrap_or_default();
        let from: jiff::Timestamp = from.parse().map_err(|fault| {
            Failure::environment(format!("the node's answer is of another version: {fault}"))
        })?;
        let caps = one.get("caps").cloned().unwrap_or_default();
        let caps: WarmUpCaps = serde_json::from_value(caps).map_err(strange)?;
        past.warm_up.push((u64::try_from(from.as_microsecond()).unwrap_or(0), caps));
    }
    Ok(past)
}

/// A log on its way to the auditor.
struct Log {
    lines: LogLines,
    /// The next attempt, with its line.
    next: Option<(u64, Entry)>,
    unfinished: bool,
}

impl Log {
    fn open(path: &Path) -> Result<Self, Failure> {
        Ok(Self { lines: LogLines::open(path)?, next: None, unfinished: false })
    }

    /// Reads on to the next attempt; what is none goes to the auditor at once.
    fn advance(&mut self, auditor: &mut Auditor<'_>) -> Result<(), Failure> {
        self.next = None;
        let mut octets = Vec::new();
        while let Some(is) = self.lines.next(&mut octets)? {
            let (name, line) = (&self.lines.name, self.lines.line);
            if is == LineIs::TooLong {
                auditor.malformed(name, line, "longer than 4 MiB".to_owned());
                continue;
            }
            match Entry::read(&octets) {
                Ok(Some(entry)) => {
                    self.next = Some((line, entry));
                    return Ok(());
                }
                Ok(None) => auditor.not_started(),
                Err(_) if is == LineIs::Unfinished => self.unfinished = true,
                Err(why) => auditor.malformed(name, line, why),
            }
        }
        Ok(())
    }
}

/// Feeds logs to the auditor in the order of their start times, so that the files may be given in any
/// order and those of several nodes together. Answers the files whose last line is not finished.
fn feed(files: &[PathBuf], auditor: &mut Auditor<'_>) -> Result<Vec<String>, Failure> {
    let mut logs: VecDeque<Log> = VecDeque::with_capacity(files.len());
    for path in files {
        let mut log = Log::open(path)?;
        log.advance(auditor)?;
        logs.push_back(log);
    }
    loop {
        let earliest = logs
            .iter_mut()
            .filter(|log| log.next.is_some())
            .min_by_key(|log| log.next.as_ref().map(|(_, entry)| entry.started_micros));
        let Some(log) = earliest else { break };
        if let Some((line, entry)) = log.next.take() {
            auditor.attempt(&log.lines.name, line, &entry);
        }
        log.advance(auditor)?;
    }
    Ok(logs.into_iter().filter(|log| log.unfinished).map(|log| log.lines.name).collect())
}

/// `stat audit` for people.
fn audit_text(report: &AuditReport, files: usize, all: bool) -> String {
    let mut text = String::new();
    let shown = if all { report.budgets.len() } else { MOST_BUDGETS.max(report.excesses as usize) };
    if !report.budgets.is_empty() {
        let columns = [
            "rule",
            "budget",
            ">limit",
            ">maximum",
            "busiest hour from",
            "to",
            ">messages",
            "verdict",
        ];
        let mut rows = table(&columns).leaves_out(&["to", "messages"]);
        let time = |text: &str| moment(Some(&text.into()));
        for budget in report.budgets.iter().take(shown) {
            rows.add_row([
                printable(&budget.rule),
                budget.key.clone(),
                match budget.limit_per_hour {
                    // No cap held when the window was fullest.
                    u32::MAX => "-".to_owned(),
                    limit => number(u64::from(limit)),
                },
                number(budget.maximum),
                time(&budget.busiest_from),
                time(&budget.busiest_to),
                number(budget.messages),
                if budget.held { "held".to_owned() } else { "PASSED".to_owned() },
            ]);
        }
        text += &format!("{rows}\n");
        if report.budgets.len() > shown {
            let more = report.budgets.len() - shown;
            text += &format!("... and {} less full (--all)\n", count(more as u64, "budget"));
        }
        text.push('\n');
    }
    for fault in &report.faulty_lines {
        text += &format!("{}:{}: {}\n", fault.file, fault.line, printable(&fault.why));
    }
    let faulty = report.malformed + report.out_of_order;
    if faulty > report.faulty_lines.len() as u64 {
        text += &format!("... and {} more\n", number(faulty - report.faulty_lines.len() as u64));
    }
    for (rule, attempts) in &report.unknown_rules {
        text += &format!(
            "rule {}: not in the rule set, {} cannot be judged; give the rules of that time with --rules\n",
            printable(rule),
            count(*attempts, "attempt")
        );
    }
    text += &format!(
        "{} in {}: {} counted, {} never started, {} malformed, {} out of order\n",
        count(report.lines, "line"),
        count(files as u64, "file"),
        count(report.attempts, "attempt"),
        number(report.not_started),
        number(report.malformed),
        number(report.out_of_order)
    );
    text += &match (report.limits_held, report.excesses) {
        (true, _) if report.attempts == 0 => {
            "nothing was sent, so every limit was held\n".to_owned()
        }
        (true, _) => format!(
            "every limit was held: {}, any 3,600 seconds\n",
            count(report.budgets.len() as u64, "budget")
        ),
        (false, 0) => "not proven: see the lines above\n".to_owned(),
        (false, excesses) => format!("LIMITS PASSED: {}\n", count(excesses, "budget")),
    };
    text
}

#[cfg(test)]
mod tests;
