//! `mailweir reply`: what the replies of servers mean. Needs no server and no configuration.
//!
//! Replies are read from a file or standard input and answered in the order in which they come, each as soon as
//! it was read, whatever their number. A line longer than [`LONGEST_LINE`] is cut there.

use std::io::{BufRead, BufReader, Read, Write as _};
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use rules::bounce::{BounceJudge, BounceRules, Evidence, Judged};
use serde::{Deserialize, Serialize};

use crate::bounce::local_rules;
use crate::exit::{Ended, Failure, Outcome};
use crate::globals::Globals;
use crate::output::{self, count, printable};

/// Octets of one line of input.
const LONGEST_LINE: u64 = 1024 * 1024;

/// `mailweir reply`
#[derive(Debug, Args)]
pub struct ReplyArguments {
    #[command(subcommand)]
    command: ReplyCommand,
}

#[derive(Debug, Subcommand)]
enum ReplyCommand {
    /// Say what replies mean: reason, type, and the rule that decided
    ///
    /// Reads replies, one a line, or JSON objects {"id","text"} with --input jsonl, whose text may hold several lines ("provider", the MX host or recipient
    /// domain, may be given too).
    Classify(ClassifyArguments),
}

#[derive(Debug, Args)]
struct ClassifyArguments {
    /// A file of replies, or - for standard input
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// What the input holds
    #[arg(long, value_enum, default_value_t = Input::Lines)]
    input: Input,
    /// Local bounce rules, put before the shipped ones
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Input {
    /// One reply a line
    Lines,
    /// One JSON object a line
    Jsonl,
}

/// One object of `--input jsonl`.
#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    id: serde_json::Value,
    text: String,
    #[serde(default)]
    provider: String,
}

/// One answer.
#[derive(Serialize)]
struct Answer<'a> {
    id: serde_json::Value,
    text: &'a str,
    normalized: &'a str,
    key: String,
    #[serde(rename = "type")]
    failure_type: mail::failure::FailureType,
    reason: mail::failure::Reason,
    rule: &'a str,
    status: rules::bounce::QualificationStatus,
    action: rules::bounce::Action,
}

/// Carries the command out.
///
/// # Errors
/// Faults in the local rules or in a line of JSON; the output cannot be written.
pub fn run(globals: &Globals, arguments: &ReplyArguments) -> Ended {
    match &arguments.command {
        ReplyCommand::Classify(arguments) => classify(globals, arguments),
    }
}

/// Why a file cannot be read; what looks like a reply was meant as one.
fn not_a_file(path: &std::path::Path, fault: &std::io::Error) -> Failure {
    let shown = path.display().to_string();
    let reply = shown.contains(' ') || shown.starts_with(|first: char| first.is_ascii_digit());
    let hint = match reply && fault.kind() == std::io::ErrorKind::NotFound {
        true => {
            "; FILE is a file of replies: hand over a text by `echo '550 5.1.1 ...' | mailweir reply classify`"
        }
        false => "",
    };
    Failure::environment(format!("{}: {fault}{hint}", printable(&shown)))
}

fn classify(globals: &Globals, arguments: &ClassifyArguments) -> Ended {
    let rules = match &arguments.rules {
        Some(path) => std::sync::Arc::new(BounceRules::compile(&local_rules(path)?)),
        None => BounceRules::shipped(),
    };
    let mut judge = BounceJudge::new(rules);
    let name = printable(&arguments.file.display().to_string());
    let source: Box<dyn Read> = match arguments.file.as_os_str() == "-" {
        true => Box::new(std::io::stdin().lock()),
        false => Box::new(
            std::fs::File::open(&arguments.file)
                .map_err(|fault| not_a_file(&arguments.file, &fault))?,
        ),
    };
    let mut input = BufReader::with_capacity(64 * 1024, source);
    let mut out = std::io::BufWriter::with_capacity(64 * 1024, std::io::stdout().lock());
    let mut line = Vec::new();
    let (mut number, mut bad) = (0_u64, 0_u64);
    while read_line(&mut input, &mut line)? {
        number += 1;
        let text = String::from_utf8_lossy(&line);
        if text.trim().is_empty() {
            continue;
        }
        let asked = match arguments.input {
            Input::Lines => {
                Asked { id: number.into(), text: text.into_owned(), provider: String::new() }
            }
            Input::Jsonl => match serde_json::from_str(&text) {
                Ok(asked) => asked,
                // The others are answered all the same.
                Err(fault) => {
                    // The place in the line comes behind; the reader believes that every line is the first.
                    let (why, column) = (fault.to_string(), fault.column());
                    let why = why.split(" at line ").next().unwrap_or_default();
                    output::say(&format!(
                        "{name}:{number}:{column}: {why}; one object {{\"id\",\"text\"}} a line is wanted"
                    ));
                    bad += 1;
                    continue;
                }
            },
        };
        let judged = judge.judge(&Evidence::reply(&asked.text, &asked.provider), &());
        if globals.json() {
            output::write_json_line(&mut out, &answer(&asked, &judged))?;
        } else {
            let verdict = &judged.verdict;
            writeln!(
                out,
                "{:<7} {:<16} {:<28} {}",
                verdict.failure_type,
                verdict.reason,
                verdict.rule,
                printable(judged.normalised)
            )?;
        }
        // Whoever pipes one reply in waits for its answer.
        if input.buffer().is_empty() {
            out.flush()?;
        }
    }
    out.flush()?;
    match bad {
        0 => Ok(Outcome::Fine),
        _ => Err(Failure::environment(format!("{} could not be read", count(bad, "line")))),
    }
}

fn answer<'a>(asked: &'a Asked, judged: &'a Judged<'_>) -> Answer<'a> {
    Answer {
        id: asked.id.clone(),
        text: &asked.text,
        normalized: judged.normalised,
        key: judged.key.to_string(),
        failure_type: judged.verdict.failure_type,
        reason: judged.verdict.reason,
        rule: &judged.verdict.rule,
        status: judged.verdict.status,
        action: judged.verdict.action,
    }
}

/// One line without its end, cut at [`LONGEST_LINE`]; `false` at the end of the input.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> Result<bool, Failure> {
    line.clear();
    let read = input.by_ref().take(LONGEST_LINE).read_until(b'\n', line)?;
    if read == 0 {
        return Ok(false);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if read as u64 == LONGEST_LINE {
        output::say("a line is longer than 1 MiB; the rest of it is left out");
        input.skip_until(b'\n')?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_cut_and_the_next_one_is_whole() {
        let long = "x".repeat(usize::try_from(LONGEST_LINE).unwrap() + 10);
        let text = format!("{long}\n550 no\r\nlast");
        let mut input = text.as_bytes();
        let mut line = Vec::new();
        let mut lengths = Vec::new();
        while read_line(&mut input, &mut line).unwrap() {
            lengths.push(line.len());
        }
        assert_eq!(lengths, [usize::try_from(LONGEST_LINE).unwrap(), 7, 4]);
    }

    #[test]
    fn an_answer_has_the_agreed_keys() {
        let asked =
            Asked { id: 7.into(), text: "550 \"Unknown user\"".into(), provider: String::new() };
        let mut judge = BounceJudge::new(BounceRules::shipped());
        let judged = judge.judge(&Evidence::reply(&asked.text, &asked.provider), &());
        let json = serde_json::to_value(answer(&asked, &judged)).unwrap();
        let wanted = serde_json::json!({
            "id": 7, "text": "550 \"Unknown user\"", "normalized": "550 \"Unknown user\"",
            "key": "8d54d1a1ff4b73384faf3ebcce8b625b", "type": "Hard", "reason": "User unknown",
            "rule": "user-unknown", "status": "Keep", "action": "give-up",
        });
        assert_eq!(json, wanted);
    }
}
