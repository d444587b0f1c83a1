//! `mailweir bounce simulate`: what would follow if other bounce rules, or another policy, were in force.
//!
//! The fields of the answer in JSON are described in docs/dry-runs.md.

mod text;

use std::path::PathBuf;

use clap::Args;
use engine::quarantine::TrialReport;
use mail::time::Timestamp;
use node::config::Config;
use node::dry_run::{BounceTrial, ProposedBounce};
use rules::bounce::BounceRuleFile;
use serde::Serialize;

use crate::dry_run::{Proposed, RecordedArguments, days_before, open, too_short};
use crate::exit::{Ended, Failure, Outcome};
use crate::globals::{Globals, read_bounded};
use crate::mx::render;
use crate::output::{print, print_json};

pub(super) const LONG_ABOUT: &str = "\
Try bounce rules, a bundle or a quarantine policy on what is recorded; nothing is changed

Every text and every recorded failure is judged again, and every address by what follows. Shown are the texts and \
messages that would get another reason, the addresses that would be quarantined or freed, and holds of the outage guard.

FILE is a file of bounce rules, which is tried in place of [bounce_rules] file, or a bundle, in place of the one in force. \
--policy takes [quarantine] of a configuration, or of a file with nothing else in it. The data folder is only \
read, while a node works on it too.";

#[derive(Debug, Args)]
#[group(id = "tried", required = true, multiple = true, args = ["rules", "policy"])]
pub(super) struct SimulateArguments {
    /// Bounce rules in place of the operator's own, or a bundle in place of the one in force
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// A configuration whose [quarantine] is tried
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Judge again only what was recorded in the last so many days [default: everything]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: Option<u32>,
    #[command(flatten)]
    recorded: RecordedArguments,
}

/// The answer in JSON.
#[derive(Serialize)]
struct Answer {
    now: Timestamp,
    since: Timestamp,
    recorded_from: Option<Timestamp>,
    rules: Option<String>,
    bundle: Option<u64>,
    policy: Option<String>,
    version_now: String,
    version_then: String,
    notes: Vec<String>,
    #[serde(flatten)]
    report: TrialReport,
}

pub(super) fn run(globals: &Globals, arguments: &SimulateArguments) -> Ended {
    let mut proposed = ProposedBounce::default();
    let mut bundle = None;
    match arguments.rules.as_deref().map(Proposed::read).transpose()? {
        None => {}
        Some(Proposed::File(name, octets)) => {
            let file = BounceRuleFile::parse(&name, &octets)
                .map_err(|faults| Failure::environment(render(&faults)))?;
            proposed.file = Some(file);
        }
        Some(Proposed::Bundle { version, layer }) => {
            bundle = Some(version);
            proposed.layer = Some(*layer);
        }
    }
    if let Some(path) = &arguments.policy {
        let octets = read_bounded(path)?;
        let name = path.display().to_string();
        let text = String::from_utf8(octets)
            .map_err(|_| Failure::environment(format!("{name} is not UTF-8 text")))?;
        let section = Config::parse_quarantine(&text, &name)
            .map_err(|fault| Failure::environment(fault.to_string()))?;
        proposed.policy = Some(section.policy);
    }
    let recorded = open(globals, &arguments.recorded)?;
    let now = recorded.now();
    let since = arguments.days.map_or(Timestamp::EPOCH, |days| days_before(now, days));
    let trial = recorded
        .try_bounce(&proposed, since)
        .map_err(|fault| Failure::environment(fault.to_string()))?;
    let BounceTrial { version_now, version_then, recorded_from, report } = trial;
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let answer = Answer {
        now,
        since,
        recorded_from,
        rules: path(&arguments.rules),
        bundle,
        policy: path(&arguments.policy),
        version_now: version_now.to_string(),
        version_then: version_then.to_string(),
        notes: notes(&report, too_short(arguments.days, recorded_from, now), recorded_from),
        report,
    };
    match globals.json() {
        true => print_json(&answer)?,
        false => print(&text::report(&answer))?,
    }
    Ok(Outcome::Fine)
}

/// What somebody should know who believes the figures.
fn notes(report: &TrialReport, short: Option<String>, from: Option<Timestamp>) -> Vec<String> {
    use crate::output::count;
    let mut notes: Vec<String> = short.into_iter().collect();
    if from.is_none() {
        notes.push("nothing is recorded: no text, and no failure of an address".to_owned());
    }
    let entries = &report.entries;
    let mut note = |number: u64, what: &str, why: &str| {
        if number > 0 {
            notes.push(format!("{} {why}", count(number, what)));
        }
    };
    note(
        entries.kept_as_mail,
        "failure",
        "came by mail and would mean something else by the words alone: they stay, as a rule may have looked at more of the mail",
    );
    note(
        entries.kept_for_host,
        "failure",
        "stay as a rule for some hosts has judged them: which host spoke is not kept with a failure",
    );
    note(entries.by_person, "failure", "stay as a person has qualified their text");
    note(entries.older, "failure", "are older than the asked days and stay");
    note(
        report.texts.without_host,
        "text",
        "were met before the host was recorded with them: rules for some hosts cannot take them here",
    );
    note(entries.pairs_left_out, "failure", "would change too, and found no room in the list");
    notes
}
