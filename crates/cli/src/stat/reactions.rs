//! `mailweir stat reactions`, `stat reaction lift|prolong` and `stat alerts`.

use core::time::Duration;

use clap::{Args, Subcommand};
use rules::parse_span;
use serde_json::{Value, json};

use super::{cell, list};
use crate::client::{NodeArguments, NodeClient};
use crate::exit::{Ended, Outcome};
use crate::globals::Globals;
use crate::output::{print, print_json, printable};
use crate::quarantine::text::second;

/// `mailweir stat reactions`
#[derive(Debug, Args)]
pub struct ReactionsArguments {
    /// Those that have ended, too
    #[arg(long)]
    ended: bool,
    #[command(flatten)]
    node: NodeArguments,
}

/// `mailweir stat reaction`
#[derive(Debug, Args)]
pub struct ReactionArguments {
    #[command(subcommand)]
    command: ReactionCommand,
}

#[derive(Debug, Subcommand)]
enum ReactionCommand {
    /// End a reaction now, without its recovery
    Lift {
        /// Its number, as `stat reactions` shows it: R7
        #[arg(value_parser = number)]
        id: u64,
        #[command(flatten)]
        rest: Reasoned,
    },
    /// Let a reaction hold in full for so long from now on; it recovers afterwards
    Prolong {
        /// Its number, as `stat reactions` shows it: R7
        #[arg(value_parser = number)]
        id: u64,
        /// How long, such as 2h
        #[arg(long = "for", value_name = "TIME", value_parser = span)]
        lasts: Duration,
        #[command(flatten)]
        rest: Reasoned,
    },
}

#[derive(Debug, Args)]
struct Reasoned {
    /// Why; for the record
    #[arg(long, value_name = "TEXT")]
    why: String,
    #[command(flatten)]
    node: NodeArguments,
}

fn number(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix(['R', 'r']).unwrap_or(text);
    digits.parse().map_err(|_| "write the number of a reaction, such as R7".to_owned())
}

fn span(text: &str) -> Result<Duration, String> {
    parse_span(text).map_err(|fault| fault.to_string())
}

/// Carries `stat reactions` out.
///
/// # Errors
/// See [`crate::exit::Failure`].
pub fn show(globals: &Globals, arguments: &ReactionsArguments) -> Ended {
    let client = NodeClient::new(globals, &arguments.node)?;
    let answer = crate::runtime()?.block_on(client.get(&["reactions"]))?;
    if globals.json() {
        print_json(&answer)?;
        return Ok(Outcome::Fine);
    }
    let mut text: String = list(&answer, "reactions").iter().map(reaction_text).collect();
    if text.is_empty() {
        text = "no reaction is in force\n".into();
    }
    if arguments.ended {
        let ended: String = list(&answer, "ended").iter().rev().map(reaction_text).collect();
        text += if ended.is_empty() { "none has ended\n" } else { "\nended, the last first:\n" };
        text += &ended;
    }
    print(text.trim_end())?;
    Ok(Outcome::Fine)
}

fn reaction_text(one: &Value) -> String {
    let word = |name: &str| printable(&cell(one, &[name]));
    let mut text = format!("{}  {}: {}\n", word("id"), word("about"), word("does"));
    text +=
        &format!("    rule {}@{}, begun {}", word("rule"), word("version"), second(one, "began"));
    match one.get("ended").filter(|ended| !ended.is_null()) {
        Some(_) => text += &format!(", ended {}\n", second(one, "ended")),
        None => {
            let ends = second(one, "ends_at");
            text += &format!(", in full until {}, over at {ends}\n", second(one, "until"));
            text += &format!("    now: {}\n", word("now"));
        }
    }
    text += &format!("    {} said: {}\n", word("mx_host"), word("heard"));
    for change in list(one, "changes") {
        let part = |name: &str| printable(&cell(change, &[name]));
        let at = second(change, "at");
        text += &format!("    {} {at} by {}: {}\n", part("what"), part("who"), part("why"));
    }
    text
}

/// Carries `stat reaction` out.
///
/// # Errors
/// See [`crate::exit::Failure`].
pub fn change(globals: &Globals, arguments: &ReactionArguments) -> Ended {
    let (id, deed, body, node) = match &arguments.command {
        ReactionCommand::Lift { id, rest } => (id, "lift", json!({ "why": rest.why }), &rest.node),
        ReactionCommand::Prolong { id, lasts, rest } => {
            let body = json!({ "why": rest.why, "seconds": lasts.as_secs() });
            (id, "prolong", body, &rest.node)
        }
    };
    let client = NodeClient::new(globals, node)?;
    let name = format!("R{id}");
    let answer = crate::runtime()?.block_on(client.post(&["reactions", &name, deed], &body))?;
    if globals.json() {
        print_json(&answer)?;
    } else {
        print(&changed_text(&name, deed, &answer))?;
    }
    Ok(Outcome::Fine)
}

/// What an order did to a reaction.
fn changed_text(name: &str, deed: &str, answer: &Value) -> String {
    match deed {
        "lift" => format!("{name} is lifted: it has no effect any more"),
        _ => format!(
            "{name} is prolonged: in full until {}, over at {}",
            second(answer, "until"),
            second(answer, "ends_at")
        ),
    }
}

/// Carries `stat alerts` out: status 1 when there are any.
///
/// # Errors
/// See [`crate::exit::Failure`].
pub fn alerts(globals: &Globals, node: &NodeArguments) -> Ended {
    let client = NodeClient::new(globals, node)?;
    let answer = crate::runtime()?.block_on(client.get(&["alerts"]))?;
    let alerts = list(&answer, "alerts");
    if globals.json() {
        print_json(&answer)?;
    } else if alerts.is_empty() {
        print("no alerts")?;
    } else {
        let mut text = String::new();
        for alert in alerts {
            let word = |name: &str| printable(&cell(alert, &[name]));
            let since = second(alert, "since");
            text += &format!("{since}  {} {}\n    {}\n", word("code"), word("key"), word("words"));
            text += &format!("    {}\n", word("evidence"));
        }
        print(text.trim_end())?;
    }
    Ok(Outcome::of(alerts.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_they_are_shown() {
        for (text, want) in [("R7", Some(7)), ("7", Some(7)), ("r12", Some(12)), ("x", None)] {
            assert_eq!(number(text).ok(), want, "{text}");
        }
    }

    #[test]
    fn a_reaction_is_told_in_a_few_lines() {
        let one = json!({
            "id": "R7", "about": "source 1 at mx.example", "does": "suspend", "rule": "r",
            "version": "v", "began": "2026-11-21T10:00:00Z", "until": "2026-11-21T12:00:00Z",
            "ends_at": "2026-11-21T13:00:00Z", "now": "nothing is sent", "ended": null,
            "mx_host": "mx.example", "heard": "421 slow\u{1b}[31m",
            "changes": [{ "at": "2026-11-21T11:00:00Z", "who": "ann", "why": "asked", "what": "lifted" }],
        });
        let text = reaction_text(&one);
        assert!(text.contains("R7  source 1 at mx.example: suspend"), "{text}");
        assert!(text.contains("nothing is sent") && text.contains("by ann: asked"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
        let words = changed_text("R7", "prolong", &one);
        assert!(
            words.contains("until 2026-11-21T12:00:00Z, over at 2026-11-21T13:00:00Z"),
            "{words}"
        );
    }
}
