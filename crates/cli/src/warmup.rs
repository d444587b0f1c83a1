//! `mailweir warmup`: plans for new sources, where they stand, and the planner's proposals about levels.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use engine::warm_up::{Day, WarmUpPlan};
use mail::id::SourceId;
use mail::time::Timestamp;
use serde_json::{Value, json};

use crate::client::{NodeArguments, NodeClient};
use crate::exit::{Ended, Failure, Outcome};
use crate::globals::Globals;
use crate::output::{behind, number, print, print_json, source_id, table, terminal_width};
use crate::quarantine::text::{second, word};

/// `mailweir warmup`
#[derive(Debug, Args)]
pub struct WarmupArguments {
    #[command(subcommand)]
    command: WarmupCommand,
}

#[derive(Debug, Subcommand)]
enum WarmupCommand {
    /// The schedule for a new source, day by day. Shows it; --apply puts it in force
    Plan(PlanArguments),
    /// Plans, what sources sent beside their caps, and what the planner says
    Status(NodeArguments),
    /// Set the level that a proposal proposes
    Approve(AnswerArguments),
    /// Leave the level as it is; the same is not proposed again for a week
    Reject(AnswerArguments),
    /// No day counts from today on; the caps stay
    Pause(SourceArguments),
    /// Days count again
    Resume(SourceArguments),
    /// End the plan: no cap any more
    End(SourceArguments),
}

#[derive(Debug, Args)]
struct PlanArguments {
    /// The source
    #[arg(long, value_name = "PUBLIC_ID", value_parser = source_id)]
    source: u32,
    /// Messages a day at which the source is warm, such as 100000/day
    #[arg(long, value_name = "NUMBER/day", value_parser = per_day)]
    volume: u32,
    /// The first day, in UTC [default: today]
    #[arg(long, value_name = "DATE")]
    start: Option<String>,
    /// Messages in any hour of the first day
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    first_per_hour: u32,
    /// How the caps grow with each day that counts, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 140)]
    growth: u32,
    /// The most of a day that one provider takes, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 50)]
    provider_share: u32,
    /// A stricter cap per day at a provider, such as rackspace=99; may be given several times
    #[arg(long, value_name = "RULE=NUMBER", value_parser = provider_cap)]
    provider: Vec<(String, u32)>,
    /// Put the plan in force on the running node
    #[arg(long)]
    apply: bool,
    #[command(flatten)]
    node: NodeArguments,
}

#[derive(Debug, Args)]
struct AnswerArguments {
    /// Number of the proposal, as `status` shows it
    proposal: u64,
    /// Why; kept with the answer
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
    #[command(flatten)]
    node: NodeArguments,
}

#[derive(Debug, Args)]
struct SourceArguments {
    /// The source
    #[arg(long, value_name = "PUBLIC_ID", value_parser = source_id)]
    source: u32,
    #[command(flatten)]
    node: NodeArguments,
}

fn per_day(text: &str) -> Result<u32, String> {
    let figure = text.strip_suffix("/day").unwrap_or(text).replace(['_', ','], "");
    figure.parse().map_err(|_| "a number per day, such as 100000/day".to_owned())
}

fn provider_cap(text: &str) -> Result<(String, u32), String> {
    let (rule, cap) = text.split_once('=').ok_or("a rule and a number, such as rackspace=99")?;
    let cap = cap.parse().map_err(|_| format!("{cap:?} is no number of messages a day"))?;
    Ok((rule.to_owned(), cap))
}

/// Carries the command out.
///
/// # Errors
/// See [`Failure`].
pub fn run(globals: &Globals, arguments: WarmupArguments) -> Ended {
    match arguments.command {
        WarmupCommand::Plan(arguments) => plan(globals, &arguments),
        WarmupCommand::Status(node) => {
            let client = NodeClient::new(globals, &node)?;
            let answer = crate::runtime()?.block_on(client.get(&["warm-up"]))?;
            status(globals, &answer)
        }
        WarmupCommand::Approve(arguments) => answer(globals, &arguments, "approve"),
        WarmupCommand::Reject(arguments) => answer(globals, &arguments, "reject"),
        WarmupCommand::Pause(arguments) => steer(globals, &arguments, "pause"),
        WarmupCommand::Resume(arguments) => steer(globals, &arguments, "resume"),
        WarmupCommand::End(arguments) => steer(globals, &arguments, "end"),
    }
}

fn plan(globals: &Globals, arguments: &PlanArguments) -> Ended {
    let start = match &arguments.start {
        Some(text) => Day::parse(text).ok_or_else(|| {
            Failure::environment(format!("{text:?} is no date such as 2026-12-01"))
        })?,
        None => today(),
    };
    let past = start < today();
    if past && arguments.apply {
        return Err(Failure::environment(past_words(start, today())));
    }
    let mut plan = WarmUpPlan::new(SourceId(arguments.source), start, arguments.volume);
    plan.first_per_hour = arguments.first_per_hour;
    plan.growth_percent = arguments.growth;
    plan.provider_percent = arguments.provider_share;
    plan.providers.extend(arguments.provider.iter().cloned());
    plan.check().map_err(|fault| Failure::environment(fault.to_string()))?;
    if arguments.apply {
        let body = json!({
            "source": arguments.source,
            "volume_per_day": arguments.volume,
            "start": start.to_string(),
            "first_per_hour": plan.first_per_hour,
            "growth_percent": plan.growth_percent,
            "provider_percent": plan.provider_percent,
            "providers": plan.providers,
            "apply": true,
        });
        let client = NodeClient::new(globals, &arguments.node)?;
        let answer = crate::runtime()?.block_on(client.post(&["warm-up", "plans"], &body))?;
        if globals.json() {
            print_json(&answer)?;
            return Ok(Outcome::Fine);
        }
        // The node leaves out the usual caps at rules that it has not.
        let applied = answer.get("plan").and_then(|plan| plan.get("providers"));
        let applied = applied.and_then(Value::as_object);
        plan.providers.retain(|rule, _| applied.is_none_or(|applied| applied.contains_key(rule)));
    } else if globals.json() {
        let days: Vec<Value> = plan.schedule().iter().map(day_json).collect();
        print_json(&json!({ "applied": false, "plan": plan_json(&plan), "schedule": days }))?;
        return Ok(Outcome::Fine);
    }
    let mut text = plan_text(&plan);
    text += if arguments.apply {
        "\nin force now: the caps hold in any hour and any 24 hours\n"
    } else {
        "\nnothing is changed; --apply puts it in force\n"
    };
    if past {
        let _ = writeln!(text, "note: {}", past_words(start, today()));
    }
    print(&text)?;
    Ok(Outcome::Fine)
}

/// Why a plan that begins in the past is not put in force.
fn past_words(start: Day, today: Day) -> String {
    format!(
        "the first day, {start}, is past (today is {today} in UTC), and days without mail warm nothing up: \
         leave --start out, or give a day to come"
    )
}

/// The day of the wall clock.
fn today() -> Day {
    Day::of(Timestamp::from_micros(node::clock::read_clocks().wall))
}

fn plan_json(plan: &WarmUpPlan) -> Value {
    json!({
        "source": plan.source,
        "start": plan.start.to_string(),
        "goal_per_day": plan.goal_per_day,
        "first_per_hour": plan.first_per_hour,
        "growth_percent": plan.growth_percent,
        "provider_percent": plan.provider_percent,
        "providers": plan.providers,
        "rewarm_after_days": plan.rewarm_after_days,
    })
}

fn day_json(day: &engine::warm_up::ScheduledDay) -> Value {
    json!({
        "day": day.day.to_string(), "age": day.age, "caps": day.caps, "reaches_goal": day.reaches_goal,
    })
}

fn plan_text(plan: &WarmUpPlan) -> String {
    let schedule = plan.schedule();
    let mut columns = vec!["day", ">in any hour", ">in any day", ">one provider"];
    let names: Vec<String> = plan.providers.keys().take(4).map(|rule| format!(">{rule}")).collect();
    columns.extend(names.iter().map(String::as_str));
    columns.push("");
    let mut rows = table(&columns);
    for day in &schedule {
        let mut cells = vec![day.day.to_string()];
        let show = |cap: Option<u32>| cap.map_or_else(|| "-".to_owned(), |cap| number(cap.into()));
        match &day.caps {
            Some(caps) => {
                cells.extend([caps.per_hour, caps.per_day, caps.provider_per_day].map(show));
                cells.extend(plan.providers.keys().take(4).map(|rule| show(caps.line(rule))));
            }
            None => cells.extend(vec!["-".to_owned(); 3 + names.len()]),
        }
        cells.push(match (day.caps.is_none(), day.reaches_goal) {
            (true, _) => "warm: no cap".to_owned(),
            (false, true) => format!("{} a day", number(plan.goal_per_day.into())),
            (false, false) => String::new(),
        });
        rows.add_row(cells);
    }
    let reached = schedule.iter().find(|day| day.reaches_goal);
    let reached = reached.map_or_else(|| "never".to_owned(), |day| day.day.to_string());
    let reached = format!(
        "{} a day are reached on {reached}, if every day has mail and keeps its guards (complaints under 0.3 %, \
         put off under 20 %, unknown users under 3 %). After {} days without mail it begins anew.",
        number(plan.goal_per_day.into()),
        plan.rewarm_after_days,
    );
    format!(
        "source {}: {} an hour times {:.2} a day, from {}\n\n{rows}\n\n{}\n",
        plan.source.0,
        plan.first_per_hour,
        f64::from(plan.growth_percent) / 100.0,
        plan.start,
        // A line of more than 100 columns is long in a file too.
        behind(0, &reached, terminal_width().or(Some(100))),
    )
}

fn steer(globals: &Globals, arguments: &SourceArguments, verb: &str) -> Ended {
    let client = NodeClient::new(globals, &arguments.node)?;
    let source = arguments.source.to_string();
    let path = ["warm-up", "plans", &source, verb];
    let answer = crate::runtime()?.block_on(client.post(&path, &Value::Null))?;
    status(globals, &answer)
}

fn answer(globals: &Globals, arguments: &AnswerArguments, verb: &str) -> Ended {
    let client = NodeClient::new(globals, &arguments.node)?;
    let number = arguments.proposal.to_string();
    let path = ["warm-up", "proposals", &number, verb];
    let body = json!({ "why": arguments.why });
    let answer = crate::runtime()?.block_on(client.post(&path, &body))?;
    if globals.json() {
        print_json(&answer)?;
        return Ok(Outcome::Fine);
    }
    let proposal = answer.get("proposal").cloned().unwrap_or_default();
    let mut text =
        format!("proposal {number} {}: {}\n", word(&answer, "state"), move_text(&proposal));
    if answer.get("decision").is_some_and(|decision| !decision.is_null()) {
        let decision = word(&answer, "decision");
        let _ = writeln!(
            text,
            "in force as decision {decision}; `mailweir mx level undo {decision}` takes it back"
        );
    }
    print(&text)?;
    Ok(Outcome::Fine)
}

/// `raise s3 at google from normal to fast`
fn move_text(proposal: &Value) -> String {
    format!(
        "{} source {} at {} from {} to {}",
        word(proposal, "move"),
        word(proposal, "source"),
        word(proposal, "rule"),
        word(proposal, "from"),
        word(proposal, "to")
    )
}

fn status(globals: &Globals, answer: &Value) -> Ended {
    if globals.json() {
        print_json(answer)?;
    } else {
        print(&status_text(answer))?;
    }
    Ok(Outcome::Fine)
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn status_text(answer: &Value) -> String {
    let mut text = String::new();
    for one in list(answer, "plans") {
        text += &plan_status(one);
    }
    let sources: Vec<&Value> = list(answer, "sources").iter().collect();
    if !sources.is_empty() {
        let columns = ["source", "at", ">in any hour", ">of", ">in any day", ">of"];
        let mut rows = table(&columns);
        let figure = |value: &Value, name: &str| match value.get(name).and_then(Value::as_u64) {
            Some(figure) => number(figure),
            None => "-".to_owned(),
        };
        for source in sources {
            rows.add_row([
                word(source, "source"),
                "all".to_owned(),
                figure(source, "used_in_hour"),
                figure(source, "per_hour"),
                figure(source, "used_in_day"),
                figure(source, "per_day"),
            ]);
            for provider in list(source, "providers") {
                rows.add_row([
                    String::new(),
                    word(provider, "rule"),
                    String::new(),
                    String::new(),
                    figure(provider, "used_in_day"),
                    figure(provider, "per_day"),
                ]);
            }
        }
        let _ = writeln!(text, "{rows}\n");
    }
    text += &levels_text(list(answer, "levels"));
    text += &proposals_text(list(answer, "proposals"));
    text += &changes_text(list(answer, "changes"));
    if text.is_empty() {
        text = "no plan, nothing sent within a day, nothing proposed\n".to_owned();
    }
    text
}

fn plan_status(one: &Value) -> String {
    let (plan, state) = (
        one.get("plan").cloned().unwrap_or_default(),
        one.get("state").cloned().unwrap_or_default(),
    );
    let mut text = format!(
        "source {}: plan from {} to {} a day",
        word(&plan, "source"),
        word(&plan, "start"),
        word(&plan, "goal_per_day")
    );
    let is = |name: &str| state.get(name) == Some(&Value::Bool(true));
    if is("warm") {
        text += ", warm: no cap\n";
    } else {
        let caps = state.get("caps").cloned().unwrap_or_default();
        let _ = write!(
            text,
            ", {} sending days\n  {} in any hour, {} in any day, {} of these at one provider\n",
            word(&state, "age"),
            word(&caps, "per_hour"),
            word(&caps, "per_day"),
            word(&caps, "provider_per_day")
        );
        if is("paused") {
            text += "  paused: no day counts\n";
        } else {
            let reached = word(&state, "reached_on");
            let _ = writeln!(text, "  reached on {reached} if every day counts");
        }
    }
    let days = list(&state, "days");
    for day in days.iter().skip(days.len().saturating_sub(7)) {
        let tally = day.get("tally").cloned().unwrap_or_default();
        let _ = writeln!(
            text,
            "  {}  {:>9} sent  {}",
            word(day, "day"),
            word(&tally, "sent"),
            word(day, "why")
        );
    }
    text.push('\n');
    text
}

fn levels_text(levels: &[Value]) -> String {
    let mut text = String::new();
    for one in levels {
        let sure = one.get("confidence").and_then(Value::as_f64).unwrap_or(0.0) * 100.0;
        let (source, rule, level) = (word(one, "source"), word(one, "rule"), word(one, "from"));
        let _ = writeln!(
            text,
            "source {source} at {rule}, level {level}: {} ({sure:.1} % sure)\n  {}",
            word(one, "move"),
            behind(2, &word(one, "why"), terminal_width())
        );
    }
    if text.is_empty() { text } else { format!("{text}\n") }
}

/// Who did what with plans, the latest first.
fn changes_text(changes: &[Value]) -> String {
    let mut text = String::new();
    for one in changes.iter().rev().take(5) {
        let _ = writeln!(
            text,
            "{}  plan of source {} {} by {}",
            second(one, "at"),
            word(one, "source"),
            word(one, "what"),
            word(one, "who")
        );
    }
    if text.is_empty() { text } else { format!("\n{text}") }
}

fn proposals_text(proposals: &[Value]) -> String {
    let mut text = String::new();
    for one in proposals.iter().rev().take(20) {
        let proposal = one.get("proposal").cloned().unwrap_or_default();
        let _ = writeln!(
            text,
            "proposal {:>3} {:<9} {}  {}",
            word(one, "number"),
            word(one, "state"),
            second(one, "at"),
            move_text(&proposal)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_fits_100_columns_and_says_when_it_is_reached() {
        let start = Day::parse("2026-12-01").unwrap();
        let text = plan_text(&WarmUpPlan::new(SourceId(3), start, 100_000));
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        assert!(text.contains("100,000 a day are reached on 2026-12-17"), "{text}");
        let words: Vec<&str> = text
            .lines()
            .find(|line| line.contains("2026-12-02"))
            .unwrap()
            .split_whitespace()
            .collect();
        assert_eq!(words, ["2026-12-02", "28", "672", "336", "99"]);
        assert_eq!(per_day("100000/day"), Ok(100_000));
        assert_eq!(per_day("100,000"), Ok(100_000));
        assert!(per_day("many").is_err() && provider_cap("rackspace").is_err());
    }
}
