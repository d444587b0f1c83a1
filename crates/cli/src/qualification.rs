//! `mailweir qualification`: what servers said, and what it means.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use engine::quarantine::{TextKey, TextStatus};
use mail::failure::{FailureType, Reason};
use serde_json::{Map, Value, json};

use crate::client::{NodeArguments, NodeClient};
use crate::exit::{Ended, Outcome};
use crate::globals::Globals;
use crate::output::{print, print_json};
use crate::quarantine::text::{cut, second, word};
use crate::quarantine::{Applying, apply, pages};

/// `mailweir qualification`
#[derive(Debug, Args)]
pub struct QualificationArguments {
    #[command(subcommand)]
    command: QualificationCommand,
}

#[derive(Debug, Subcommand)]
enum QualificationCommand {
    /// Texts that servers said, the most frequent first
    List(ListArguments),
    /// One text with all that is known about it
    Show(ShowArguments),
    /// Say what a text means. Shows the difference that it makes; --apply does it
    Set(SetArguments),
}

#[derive(Debug, Args)]
struct ListArguments {
    /// Only with this status: to-qualify, keep or ignore
    #[arg(long, value_name = "STATUS")]
    status: Option<TextStatus>,
    /// Only those that a person has qualified
    #[arg(long)]
    by_person: bool,
    /// At most so many
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
    #[command(flatten)]
    node: NodeArguments,
}

#[derive(Debug, Args)]
struct ShowArguments {
    /// Key of the text, as `list` shows it
    key: TextKey,
    #[command(flatten)]
    node: NodeArguments,
}

#[derive(Debug, Args)]
struct SetArguments {
    /// Key of the text, as `list` shows it
    key: TextKey,
    /// What it means, such as user-unknown or refused
    #[arg(long, value_name = "REASON", required_unless_present = "withdraw")]
    reason: Option<Reason>,
    /// Hard, soft or ignored [default: the usual one of the reason]
    #[arg(long = "type", value_name = "TYPE", requires = "reason")]
    failure_type: Option<FailureType>,
    /// Never count it against an address
    #[arg(long, requires = "reason")]
    ignore: bool,
    /// Take back what a person said: the rules decide again
    #[arg(long, conflicts_with = "reason")]
    withdraw: bool,
    #[command(flatten)]
    applying: Applying,
}

/// Carries the command out.
///
/// # Errors
/// See [`crate::exit::Failure`].
pub fn run(globals: &Globals, arguments: QualificationArguments) -> Ended {
    match arguments.command {
        QualificationCommand::List(arguments) => list(globals, &arguments),
        QualificationCommand::Show(arguments) => show(globals, &arguments),
        QualificationCommand::Set(arguments) => set(globals, &arguments),
    }
}

fn list(globals: &Globals, arguments: &ListArguments) -> Ended {
    let client = NodeClient::new(globals, &arguments.node)?;
    let mut parameters = vec![("by_person", arguments.by_person.to_string())];
    parameters.extend(arguments.status.map(|status| ("status", status.to_string())));
    let pages = pages(&client, &["qualifications"], "texts", parameters, arguments.limit);
    let (texts, more) = crate::runtime()?.block_on(pages)?;
    if globals.json() {
        print_json(&json!({ "texts": texts, "more": more }))?;
    } else {
        print(&list_text(&texts, more))?;
    }
    Ok(Outcome::Fine)
}

fn list_text(texts: &[Value], more: bool) -> String {
    if texts.is_empty() {
        return "no such texts".to_owned();
    }
    // The text below its figures: side by side neither could be read in 80 columns.
    let mut shown = format!("{:>7}  {:<32}  means\n", "times", "key");
    for one in texts {
        let meaning = one.get("meaning").cloned().unwrap_or_default();
        let _ = write!(
            shown,
            "{:>7}  {}  {}, {}",
            word(one, "occurrences"),
            word(one, "key"),
            word(&meaning, "reason"),
            word(&meaning, "type")
        );
        let status = word(&meaning, "status");
        if status != TextStatus::Keep.word() {
            let _ = write!(shown, ", {status}");
        }
        if one.get("by_person").is_some_and(|said| !said.is_null()) {
            let _ = write!(shown, " (said by {})", word(one, "qualified_by"));
        }
        let _ = writeln!(shown, "\n         {}", cut(&word(one, "text")));
    }
    if more {
        shown += "there are more; --limit shows them\n";
    }
    shown
}

fn show(globals: &Globals, arguments: &ShowArguments) -> Ended {
    let client = NodeClient::new(globals, &arguments.node)?;
    let key = arguments.key.to_string();
    let answer = crate::runtime()?.block_on(client.get(&["qualifications", &key]))?;
    if globals.json() {
        print_json(&answer)?
    } else {
        print(&show_text(&answer))?
    }
    Ok(Outcome::Fine)
}

fn show_text(one: &Value) -> String {
    let meaning = |name: &str| {
        let said = one.get(name).cloned().unwrap_or_default();
        if said.is_null() {
            return "-".to_owned();
        }
        format!("{}, {}, {}", word(&said, "reason"), word(&said, "type"), word(&said, "status"))
    };
    [
        ("key", word(one, "key")),
        ("text", word(one, "text")),
        ("first seen as", word(one, "first_raw")),
        ("means", meaning("meaning")),
        (
            "by rule",
            format!(
                "{} (rule {}, {})",
                meaning("by_rule"),
                word(one, "rule"),
                word(one, "version")
            ),
        ),
        ("by a person", meaning("by_person")),
        ("said by", word(one, "qualified_by")),
        ("times", word(one, "occurrences")),
        ("first", second(one, "first_at")),
        ("last", second(one, "last_at")),
    ]
    .into_iter()
    .filter(|(_, value)| value != "-")
    .map(|(name, value)| format!("{name:<14} {value}\n"))
    .collect()
}

fn set(globals: &Globals, arguments: &SetArguments) -> Ended {
    let mut body = Map::new();
    if let Some(reason) = arguments.reason {
        body.insert("reason".into(), reason.word().into());
        let status = if arguments.ignore { TextStatus::Ignore } else { TextStatus::Keep };
        body.insert("status".into(), status.word().into());
    }
    if let Some(failure_type) = arguments.failure_type {
        body.insert("type".into(), failure_type.word().into());
    }
    if arguments.withdraw {
        body.insert("withdraw".into(), true.into());
    }
    let key = arguments.key.to_string();
    apply(globals, &arguments.applying, &["qualifications", &key], body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_listed_within_80_columns() {
        let text = |said: Value, status: &str| {
            json!({
                "key": "8d54d1a1ff4b73384faf3ebcce8b625b", "occurrences": 100_000, "by_person": said,
                "qualified_by": "boss", "text": format!("550 {}\u{1b}[2J", "no such user ".repeat(20)),
                "meaning": { "reason": "Account disabled", "type": "Ignored", "status": status },
            })
        };
        let listed = list_text(&[text(Value::Null, "To qualify"), text(json!({}), "Keep")], true);
        assert!(listed.lines().all(|line| line.chars().count() <= 83), "{listed}");
        assert!(listed.contains("100,000  8d54d1a1ff4b73384faf3ebcce8b625b"), "{listed}");
        assert!(listed.contains("Account disabled, Ignored, To qualify"), "{listed}");
        assert!(listed.contains("Ignored (said by boss)"), "{listed}");
        assert!(listed.contains("--limit") && !listed.contains('\u{1b}'), "{listed}");
        assert_eq!(list_text(&[], false), "no such texts");
    }
}
