//! `mailweir stat`: budgets of the running node, reload of its rules, audit of the delivery log.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use rules::Level;
use serde_json::Value;

use crate::audit::{AuditReport, Auditor, Entry};
use crate::client::{NodeArguments, NodeClient};
use crate::exit::{Ended, Failure, Outcome};
use crate::globals::Globals;
use crate::output::{count, moment, number, print, print_json, printable, say, table};
use crate::show;

/// Longest line of a delivery log that is read; replies are bounded well below.
const LONGEST_LINE: u64 = 4 << 20;
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

Limits are those of the rules and levels as they are now. After they were lowered, hours before that \
may show as excess: audit those with the rules of that time (--rules, --level).";

#[derive(Debug, Args)]
struct AuditArguments {
    /// Delivery logs, rotated ones too, in any order [default: those of the configuration]
    #[arg(long, value_name = "FILE", num_args = 1..)]
    log: Vec<PathBuf>,
    /// Local rules, put before the shipped ones [default: those of the configuration]
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// Figures at this level, in place of that of the configuration
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
        StatCommand::Audit(arguments) => audit(globals, &arguments),
    }
}

/// `stat show` for people.
fn stat_text(answer: &Value) -> String {
    let mut text = String::new();
    let list =
        |name: &str| answer.get(name).and_then(Value::as_array).filter(|list| !list.is_empty());
    let figure = |value: &Value, names: &[&str]| {
        names
            .iter()
            .find_map(|name| value.get(*name))
            .filter(|found| !found.is_null())
            .map(show::plain)
    };
    let cell =
        |value: &Value, names: &[&str]| figure(value, names).unwrap_or_else(|| "-".to_owned());
    if let Some(budgets) = list("budgets") {
        let columns = [
            "rule",
            "budget",
            ">used",
            ">per hour",
            ">in period",
            ">of",
            ">connections",
            ">of",
            "next",
        ];
        let mut rows = table(&columns);
        for budget in budgets {
            rows.add_row([
                cell(budget, &["rule"]),
                cell(budget, &["key"]),
                cell(budget, &["used_in_window", "used"]),
                cell(budget, &["limit_per_hour", "limit"]),
                cell(budget, &["used_in_period"]),
                cell(budget, &["period_limit"]),
                cell(budget, &["connections"]),
                cell(budget, &["max_connections"]),
                moment(budget.get("next_at")),
            ]);
        }
        text += &format!("{rows}\n\n");
    }
    if let Some(groups) = list("groups") {
        let mut rows = table(&[
            "MX group",
            "rule",
            ">window",
            ">connections",
            ">in flight",
            "waits for",
            "until",
        ]);
        for group in groups {
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
                moment(until),
            ]);
        }
        text += &format!("{rows}\n\n");
    }
    // Whatever else the node says.
    if let Value::Object(fields) = answer {
        let mut rest = fields.clone();
        rest.remove("budgets");
        rest.remove("groups");
        text += &show::document(&Value::Object(rest));
    }
    if text.trim().is_empty() {
        text = "no budget has been used yet\n".to_owned();
    }
    text
}

fn audit(globals: &Globals, arguments: &AuditArguments) -> Ended {
    let config = globals.load_without_secrets()?;
    let rules = crate::mx::rules_for(config.as_ref(), arguments.rules.as_deref(), arguments.level)?;
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
    let mut auditor = Auditor::new(&rules, caps);
    let unfinished = feed(&files, &mut auditor)?;
    let report = auditor.finish();
    if globals.json() {
        print_json(&report)?;
    } else {
        print(&audit_text(&report, files.len(), arguments.all))?;
    }
    for file in unfinished {
        say(&format!(
            "note: the last line of {file} has no line end and was left out: is it being written?"
        ));
    }
    Ok(Outcome::of(report.limits_held))
}

/// A delivery log and its rotated files: `log`, `log.1`, `log.2`, ...
fn with_rotated(log: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for number in (1..=10_000).rev() {
        let mut name = log.as_os_str().to_owned();
        name.push(format!(".{number}"));
        let path = PathBuf::from(name);
        if path.exists() {
            files.push(path);
        }
    }
    if log.exists() {
        files.push(log.to_owned());
    }
    if files.is_empty() {
        return Err(Failure::environment(format!(
            "there is no delivery log {} (has the node sent anything yet?)",
            log.display()
        )));
    }
    Ok(files)
}

/// A log on its way to the auditor.
struct Log {
    name: String,
    reader: BufReader<File>,
    line: u64,
    /// The next attempt, with its line.
    next: Option<(u64, Entry)>,
    unfinished: bool,
}

impl Log {
    fn open(path: &Path) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let cannot = |why: String| Failure::environment(format!("cannot read {name}: {why}"));
        let file = File::open(path).map_err(|fault| cannot(fault.to_string()))?;
        if file.metadata().is_ok_and(|about| about.is_dir()) {
            return Err(cannot("it is a folder".to_owned()));
        }
        let reader = BufReader::with_capacity(256 << 10, file);
        Ok(Self { name, reader, line: 0, next: None, unfinished: false })
    }

    /// Reads on to the next attempt; what is none goes to the auditor at once.
    fn advance(&mut self, auditor: &mut Auditor<'_>) -> Result<(), Failure> {
        self.next = None;
        let mut octets = Vec::new();
        loop {
            octets.clear();
            let read = self.reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut octets);
            let read = read.map_err(|fault| {
                Failure::environment(format!("cannot read {}: {fault}", self.name))
            })?;
            if read == 0 {
                return Ok(());
            }
            self.line += 1;
            let whole = octets.pop_if(|last| *last == b'\n').is_some();
            if !whole && octets.len() as u64 == LONGEST_LINE {
                auditor.malformed(&self.name, self.line, "longer than 4 MiB".to_owned());
                self.skip_line()?;
                continue;
            }
            match Entry::read(&octets) {
                Ok(Some(entry)) => {
                    self.next = Some((self.line, entry));
                    return Ok(());
                }
                Ok(None) => auditor.not_started(),
                Err(_) if !whole => self.unfinished = true,
                Err(why) => auditor.malformed(&self.name, self.line, why),
            }
        }
    }

    /// Throws the rest of a line away.
    fn skip_line(&mut self) -> Result<(), Failure> {
        self.reader
            .skip_until(b'\n')
            .map(drop)
            .map_err(|fault| Failure::environment(format!("cannot read {}: {fault}", self.name)))
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
            auditor.attempt(&log.name, line, &entry);
        }
        log.advance(auditor)?;
    }
    Ok(logs.into_iter().filter(|log| log.unfinished).map(|log| log.name).collect())
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
        let mut rows = table(&columns);
        for budget in report.budgets.iter().take(shown) {
            rows.add_row([
                printable(&budget.rule),
                budget.key.clone(),
                number(u64::from(budget.limit_per_hour)),
                number(budget.maximum),
                budget.busiest_from.clone(),
                budget.busiest_to.clone(),
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
