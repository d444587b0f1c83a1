//! `mailweir mx simulate`: recorded mail, sent again under other MX rules.
//!
//! The delivery log says what was sent when and what was answered; the store what waited besides. The engine and the ledger
//! send it again on a virtual clock, once under the rules in force and once under those that are tried. Both courses,
//! and the log itself, are judged by the auditor, which shares no code with the ledger. The fields of the answer in JSON
//! are described in docs/dry-runs.md.

mod record;
mod tally;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use engine::work::DeliveryOptions;
use mail::id::SourceId;
use mail::time::Timestamp;
use node::config::Config;
use node::dry_run::{ProposedMx, Recorded};
use node::node::StartFault;
use quota::{Ledger, NodeId, Owner, PathKey};
use rules::{Level, RuleSet};
use serde::Serialize;
use simulator::audit::{AuditReport, Auditor, BudgetAudit, Entry};
use simulator::{Latency, ReplayInput, ReplayReport, Started, send_again};

use crate::dry_run::{Proposed, RecordedArguments, days_before, open, too_short};
use crate::exit::{Ended, Failure, Outcome};
use crate::globals::Globals;
use crate::log_lines::with_rotated;
use crate::output::{count, number, print, print_json};
use record::{Counts, Record, Window};
use tally::{One, Tally, Told, hour_text};

use super::render;

pub(super) const LONG_ABOUT: &str = "\
Send the mail of the last days again under other MX rules, on a virtual clock; nothing is changed

Shown are three courses side by side: what was recorded, what the rules in force make of the same mail, and what FILE \
makes of it; which limits of FILE the recorded mail has passed, when and by how much; what would have waited and \
expired.

FILE is a file of MX rules, tried in place of [rules] mx, or a bundle, tried in place of the one in force. Each message \
arrives when it might have gone and is answered what was recorded. The data folder is only read, while a node works \
on it too.";

/// Longest time after the window in which what waits may go.
const TAIL_MAX: Duration = Duration::from_secs(60 * 86_400);

#[derive(Debug, Args)]
#[group(id = "tried", required = true, multiple = true, args = ["rules", "level"])]
pub(super) struct SimulateArguments {
    /// MX rules in place of the operator's own, or a bundle in place of the one in force
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// A level for everything, as `mx level set` would set it: what is set for a source, an affinity or
    /// a rule stays
    #[arg(long)]
    level: Option<Level>,
    /// The mail of the last so many days
    #[arg(long, value_name = "NUMBER", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=400))]
    days: u32,
    /// Delivery logs, the oldest first [default: that of the configuration with its rotated files]
    #[arg(long, value_name = "FILE", num_args = 1..)]
    log: Vec<PathBuf>,
    #[command(flatten)]
    recorded: RecordedArguments,
}

/// The answer in JSON.
#[derive(Serialize)]
pub(super) struct Answer {
    now: Timestamp,
    since: Timestamp,
    days: u32,
    recorded_from: Option<Timestamp>,
    rules: Option<String>,
    bundle: Option<u64>,
    level: Option<String>,
    notes: Vec<String>,
    log: Counts,
    messages: u64,
    all: Three<Told>,
    outcome: Two<Came>,
    providers: Vec<Provider>,
    hours: Vec<Hour>,
    paths: Vec<PathHour>,
    passed: Vec<BudgetAudit>,
    limits_held: Two<bool>,
}

/// What was recorded, what the rules in force make of it, and what those that are tried make of it.
#[derive(Serialize)]
struct Three<T> {
    recorded: T,
    now: T,
    then: T,
}

/// Under the rules in force, and under those that are tried.
#[derive(Serialize)]
struct Two<T> {
    now: T,
    then: T,
}

/// What became of the messages.
#[derive(Serialize)]
struct Came {
    sent: u64,
    failed: u64,
    expired: u64,
    waiting: u64,
    assumed: u64,
    finished_at: Option<String>,
    stopped: BTreeMap<String, String>,
    left: Vec<LeftOver>,
}

#[derive(Serialize)]
struct LeftOver {
    domain: Box<str>,
    count: u64,
    reason: String,
}

#[derive(Serialize)]
struct Provider {
    provider: Box<str>,
    #[serde(flatten)]
    courses: Three<Told>,
}

#[derive(Serialize)]
struct Hour {
    hour: String,
    provider: Box<str>,
    #[serde(flatten)]
    counts: Three<u64>,
}

#[derive(Serialize)]
struct PathHour {
    source: u32,
    target: String,
    hour: String,
    #[serde(flatten)]
    counts: Three<u64>,
}

/// A fault of the node's parts, for people.
fn broken(fault: StartFault) -> Failure {
    Failure::environment(fault.to_string())
}

/// What is tried, the version of its bundle.
fn proposed(arguments: &SimulateArguments) -> Result<(ProposedMx, Option<u64>), Failure> {
    let mut proposed = ProposedMx { level: arguments.level, ..ProposedMx::default() };
    let mut bundle = None;
    match arguments.rules.as_deref().map(Proposed::read).transpose()? {
        None => {}
        Some(Proposed::File(name, octets)) => {
            let file = rules::parse_local(&name, &octets)
                .map_err(|faults| Failure::environment(render(&faults)))?;
            proposed.file = Some(file);
        }
        Some(Proposed::Bundle { version, layer }) => {
            bundle = Some(version);
            proposed.layer = Some(*layer);
        }
    }
    Ok((proposed, bundle))
}

pub(super) fn run(globals: &Globals, arguments: &SimulateArguments) -> Ended {
    let (proposed, bundle) = proposed(arguments)?;
    let recorded = open(globals, &arguments.recorded)?;
    let config = recorded.config().ok_or_else(|| {
        Failure::environment("no configuration says which sources there are: give --config FILE")
    })?;
    let files = match arguments.log.as_slice() {
        [] => with_rotated(&config.log.delivery_log)?,
        files => files.to_vec(),
    };
    let simulation = Simulation {
        recorded: &recorded,
        config,
        rules_now: Arc::new(recorded.mx(&ProposedMx::default()).map_err(broken)?),
        rules_then: Arc::new(recorded.mx(&proposed).map_err(broken)?),
        proposed: &proposed,
        until: recorded.now(),
        since: days_before(recorded.now(), arguments.days),
    };
    let found = simulation.run(&files)?;
    let answer = simulation.answer(
        found,
        arguments.days,
        arguments.rules.as_ref().map(|path| path.display().to_string()),
        bundle,
        arguments.level.map(|level| level.to_string()),
    );
    match globals.json() {
        true => print_json(&answer)?,
        false => print(&text::report(&answer))?,
    }
    // The course under the tried rules is judged from outside: a limit of theirs that it passes is a fault of ours.
    Ok(Outcome::of(answer.limits_held.then))
}

/// A dry run before it is run.
struct Simulation<'a> {
    recorded: &'a Recorded,
    config: &'a Config,
    rules_now: Arc<RuleSet>,
    rules_then: Arc<RuleSet>,
    proposed: &'a ProposedMx,
    since: Timestamp,
    until: Timestamp,
}

/// One course on the virtual clock.
struct CourseRun {
    tally: Tally,
    report: ReplayReport,
    audit: AuditReport,
}

/// Everything that was found.
struct Found<'a> {
    record: Record<'a>,
    /// The log under the limits that are tried.
    audit: AuditReport,
    now: CourseRun,
    then: CourseRun,
}

impl Simulation<'_> {
    fn caps(&self) -> BTreeMap<SourceId, u32> {
        let capped = self.config.sources.iter();
        capped.filter_map(|source| Some((source.id, source.messages_per_hour?))).collect()
    }

    fn auditor<'rules>(&self, rules: &'rules RuleSet) -> Auditor<'rules> {
        let caps = self.caps().into_iter().map(|(source, cap)| (source.0, cap)).collect();
        Auditor::new(rules, caps)
    }

    fn run(&self, files: &[PathBuf]) -> Result<Found<'_>, Failure> {
        let window = Window {
            since: self.since,
            until: self.until,
            rules_now: &self.rules_now,
            rules_then: &self.rules_then,
            sources: self.config.sources.iter().map(|source| source.id).collect::<BTreeSet<_>>(),
            usual: DeliveryOptions {
                validity: self.config.validity,
                retry: self.config.retry.clone(),
                ..DeliveryOptions::default()
            },
            reads: self.recorded.reads(),
        };
        let mut record = Record::new(window);
        let mut auditor = self.auditor(&self.rules_then);
        record.read(files, &mut auditor)?;
        let counts = &record.counts;
        if counts.malformed > 0 && counts.malformed == counts.lines {
            let first = counts.faulty_lines.first().map_or("", |fault| fault);
            return Err(Failure::environment(format!("this is no delivery log: {first}")));
        }
        let now = self.course(&record, &self.rules_now, &ProposedMx::default())?;
        let then = self.course(&record, &self.rules_then, self.proposed)?;
        Ok(Found { audit: auditor.finish(), record, now, then })
    }

    /// Sends the recorded mail again under some rules.
    fn course(
        &self,
        record: &Record<'_>,
        rules: &Arc<RuleSet>,
        proposed: &ProposedMx,
    ) -> Result<CourseRun, Failure> {
        let (bounce, reactions) =
            self.recorded.bounce_and_reactions(proposed.layer.as_ref()).map_err(broken)?;
        let owner = Owner { node: NodeId(u64::MAX), incarnation: 1 };
        let ruling = Arc::clone(rules) as _;
        let begin = self.since;
        let mut ledger = Ledger::restore(quota::Settings::default(), ruling, owner, begin, []);
        let caps = self.recorded.warm_up_caps().map_err(broken)?;
        ledger.replace_warm_up(begin, Arc::new(caps));
        let sources = self.config.routing_sources();
        let sources = sources.map_err(|fault| Failure::environment(fault.to_string()))?;
        let deliveries = record.running();
        let longest = deliveries.iter().map(|one| one.options.validity).max().unwrap_or_default();
        let (routes, latencies) = record.routes();
        let input = ReplayInput {
            begin,
            until: self.until,
            tail: longest.min(TAIL_MAX),
            ledger,
            owner,
            sources,
            source_limits: self.caps(),
            rules: Arc::clone(rules),
            bounce,
            reactions,
            settings: self.recorded.engine_settings(),
            routes,
            latencies,
            latency: Latency::default(),
            deliveries,
            demand: &record.demand,
        };
        let mut tally = Tally::until(self.until);
        let mut auditor = self.auditor(rules);
        let report = send_again(input, &mut |started| {
            tally.add(&self.one(started));
            auditor.attempt("simulated", 0, &entry(rules, started));
        });
        Ok(CourseRun { tally, report, audit: auditor.finish() })
    }

    fn one<'one>(&'one self, started: &Started<'_>) -> One<'one> {
        let now = self.rules_now.find(started.mx_host, started.path.source);
        One {
            at: started.at,
            due: Some(started.due),
            path: started.path,
            provider: &self.rules_now.rule(now).name,
            taken: *started.answer == simulator::Answer::Taken,
        }
    }

    /// The answer.
    fn answer(
        &self,
        found: Found<'_>,
        days: u32,
        rules: Option<String>,
        bundle: Option<u64>,
        level: Option<String>,
    ) -> Answer {
        Answer {
            now: self.until,
            since: self.since,
            days,
            rules,
            bundle,
            level,
            notes: self.notes(&found, days),
            recorded_from: found.record.recorded_from,
            messages: found.record.demand.messages(),
            all: Three {
                recorded: found.record.tally.all.told(),
                now: found.now.tally.all.told(),
                then: found.then.tally.all.told(),
            },
            providers: providers(&found),
            hours: hours(&found),
            paths: path_hours(&found),
            passed: found.audit.budgets.into_iter().filter(|budget| !budget.held).collect(),
            limits_held: Two {
                now: found.now.audit.limits_held,
                then: found.then.audit.limits_held,
            },
            outcome: Two { now: came(found.now.report), then: came(found.then.report) },
            log: found.record.counts,
        }
    }

    /// What somebody should know who believes the figures.
    fn notes(&self, found: &Found<'_>, days: u32) -> Vec<String> {
        let record = &found.record;
        let counts = &record.counts;
        let mut notes: Vec<String> =
            too_short(Some(days), record.recorded_from, self.until).into_iter().collect();
        if counts.in_window == 0 {
            notes.push("nothing of this time is in the delivery log".to_owned());
        }
        if self.proposed.layer.is_some() && !self.rules_then.levels().takes_mx_rules_of_bundles() {
            notes.push(
                "at level custom the MX rules of a bundle are not taken: those that were in force stay"
                    .to_owned(),
            );
        }
        let bounds = record.demand.bounds();
        if bounds.grain_micros > 1_000_000 {
            notes.push(format!(
                "so much arrived that arrivals are rounded up to {} s",
                number(bounds.grain_micros / 1_000_000)
            ));
        }
        let due_from = record.due_from.map_or_else(
            || "no line of this log does".to_owned(),
            |from| format!("lines do since {from}"),
        );
        let mut note = |count_of: u64, what: &str, why: String| {
            if count_of > 0 {
                notes.push(format!("{} {why}", count(count_of, what)));
            }
        };
        note(
            counts.without_due,
            "attempt",
            format!(
                "do not say since when their message might have gone ({due_from}): they arrive when they went"
            ),
        );
        note(counts.malformed, "line", "could not be read and are left out".to_owned());
        note(
            counts.not_started,
            "attempt",
            "never came to MAIL FROM (no route, no connection): left out".to_owned(),
        );
        note(
            counts.never_tried,
            "message",
            "waited or expired without any attempt: they are taken at their first one".to_owned(),
        );
        note(
            counts.foreign_sources,
            "attempt",
            "went from sources that are not in the configuration any more; here those that are send".to_owned(),
        );
        note(
            counts.torn,
            "attempt",
            "arrive as messages of their own: too many were between two attempts".to_owned(),
        );
        note(
            bounds.simplified,
            "answer",
            "were replaced by plain ones: too many differ".to_owned(),
        );
        note(
            found.then.report.assumed,
            "conversation",
            "under the tried rules have no recorded answer: they are taken".to_owned(),
        );
        for (delivery, by) in &found.then.report.stopped {
            notes.push(format!(
                "delivery {delivery} would have been stopped by {by}; here it goes on"
            ));
        }
        notes
    }
}

/// What the auditor is told of a MAIL FROM on the virtual clock.
fn entry(rules: &RuleSet, started: &Started<'_>) -> Entry {
    let rule = rules.find(started.mx_host, started.path.source);
    Entry {
        started_micros: started.at.as_micros(),
        source: started.path.source.0,
        target: started.path.target,
        rule: rules.rule(rule).name.to_string(),
    }
}

fn came(report: ReplayReport) -> Came {
    let left = report.left.into_iter().map(|left| LeftOver {
        domain: left.domain,
        count: left.count,
        reason: left.reason,
    });
    Came {
        sent: report.sent,
        failed: report.failed,
        expired: report.expired,
        waiting: report.waiting,
        assumed: report.assumed,
        finished_at: report.finished_at.map(|at| at.to_string()),
        stopped: report.stopped.into_iter().map(|(id, by)| (id.to_string(), by)).collect(),
        left: left.collect(),
    }
}

/// The three tallies.
fn tallies<'a>(found: &'a Found<'_>) -> [&'a Tally; 3] {
    [&found.record.tally, &found.now.tally, &found.then.tally]
}

fn providers(found: &Found<'_>) -> Vec<Provider> {
    let all = tallies(found);
    let names: BTreeSet<&str> =
        all.iter().flat_map(|tally| tally.providers.keys().map(|name| &**name)).collect();
    let told = |tally: &Tally, name: &str| {
        tally.providers.get(name).map_or_else(Told::default, tally::Course::told)
    };
    let one = |name: &str| Provider {
        provider: name.into(),
        courses: Three {
            recorded: told(all[0], name),
            now: told(all[1], name),
            then: told(all[2], name),
        },
    };
    let mut rows: Vec<Provider> = names.into_iter().map(one).collect();
    let size = |row: &Provider| row.courses.recorded.mail_froms.max(row.courses.then.mail_froms);
    rows.sort_by_key(|row| std::cmp::Reverse(size(row)));
    rows
}

fn hours(found: &Found<'_>) -> Vec<Hour> {
    let all = tallies(found);
    let names: BTreeSet<&(u64, Box<str>)> =
        all.iter().flat_map(|tally| tally.hours.keys()).collect();
    let of = |tally: &Tally, name: &(u64, Box<str>)| tally.hours.get(name).copied().unwrap_or(0);
    let one = |name: &(u64, Box<str>)| Hour {
        hour: hour_text(name.0),
        provider: name.1.clone(),
        counts: Three { recorded: of(all[0], name), now: of(all[1], name), then: of(all[2], name) },
    };
    names.into_iter().map(one).collect()
}

fn path_hours(found: &Found<'_>) -> Vec<PathHour> {
    let all = tallies(found);
    let names: BTreeSet<&(PathKey, u64)> =
        all.iter().flat_map(|tally| tally.path_hours.keys()).collect();
    let of =
        |tally: &Tally, name: &(PathKey, u64)| tally.path_hours.get(name).copied().unwrap_or(0);
    let one = |name: &(PathKey, u64)| PathHour {
        source: name.0.source.0,
        target: name.0.target.to_string(),
        hour: hour_text(name.1),
        counts: Three { recorded: of(all[0], name), now: of(all[1], name), then: of(all[2], name) },
    };
    names.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests;
