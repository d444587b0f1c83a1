//! Answers about addresses and texts, for people.

use std::fmt::Write as _;

use serde_json::Value;

use crate::output::{count, moment, number, printable, table};

/// Characters of a reply or text in a table.
const WORDS: usize = 72;

/// A word of an answer; `-` when there is none.
pub fn word(value: &Value, name: &str) -> String {
    match value.get(name) {
        Some(Value::String(text)) if !text.is_empty() => printable(text),
        Some(Value::Number(digits)) => digits.as_u64().map_or_else(|| digits.to_string(), number),
        Some(Value::Bool(true)) => "yes".to_owned(),
        Some(Value::Bool(false)) => "no".to_owned(),
        _ => "-".to_owned(),
    }
}

/// A moment to the second, which is what fits into a table.
pub fn second(value: &Value, name: &str) -> String {
    moment(value.get(name))
}

/// A moment for a table, in UTC to the minute: where the column is narrow it breaks between day and time.
fn minute(value: &Value, name: &str) -> String {
    let text = moment(value.get(name));
    match text.split_once('T') {
        Some((day, time)) => format!("{day} {}", time.get(..5).unwrap_or(time)),
        None => text,
    }
}

/// The first words of a text.
pub fn cut(text: &str) -> String {
    let flat = printable(text).replace('\n', " ");
    if flat.chars().count() <= WORDS {
        return flat;
    }
    flat.chars().take(WORDS - 1).chain(['…']).collect()
}

fn list<'a>(answer: &'a Value, name: &str) -> &'a [Value] {
    answer.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// `1 address`, `2 addresses`.
pub fn addresses_count(number: u64) -> String {
    count(number, if number == 1 { "address" } else { "addresse" })
}

/// `Mailbox full 2, Unreachable 1`.
fn errors(value: &Value) -> String {
    let errors = value.get("errors").and_then(Value::as_object);
    let parts: Vec<String> = errors
        .into_iter()
        .flatten()
        .map(|(reason, count)| format!("{} {count}", printable(reason)))
        .collect();
    if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
}

/// `quarantine list`
pub fn addresses(answer: &Value) -> String {
    let found = list(answer, "addresses");
    if found.is_empty() {
        return "no such addresses".to_owned();
    }
    let mut rows = table(&["address", "state", "reason", "since", "until"]);
    for one in found {
        rows.add_row([
            word(one, "address"),
            word(one, "state"),
            word(one, "reason"),
            minute(one, "since"),
            minute(one, "until"),
        ]);
    }
    let mut text = format!("{rows}\n");
    if answer.get("more") == Some(&Value::Bool(true)) {
        text += &format!("the first {}; --limit shows more\n", number(found.len() as u64));
    }
    text
}

/// `quarantine counts`
pub fn counts(answer: &Value) -> String {
    let mut text = String::new();
    let found = list(answer, "addresses");
    if found.is_empty() {
        text += "nothing is recorded about any address\n";
    } else {
        let mut rows = table(&["state", "reason", ">addresses"]);
        for one in found {
            rows.add_row([word(one, "state"), word(one, "reason"), word(one, "addresses")]);
        }
        let _ = writeln!(text, "{rows}");
    }
    let strays = list(answer, "strays");
    if !strays.is_empty() {
        let mut rows = table(&["day", "changed nothing", ">count"]);
        for one in strays {
            rows.add_row([word(one, "day"), word(one, "kind"), word(one, "count")]);
        }
        let _ = write!(text, "\n{rows}\n");
    }
    text
}

/// `quarantine show`
pub fn shown(answer: &Value) -> String {
    let mut text = head(answer);
    text += &deeds(answer);
    let entries = list(answer, "entries").len() as u64;
    if entries > 0 {
        let what = count(entries, if entries == 1 { "entry" } else { "entrie" });
        let _ =
            writeln!(text, "\n{what} recorded; `mailweir quarantine explain` shows what they did");
    }
    text
}

/// `quarantine explain`
pub fn explained(answer: &Value) -> String {
    let mut text = head(answer);
    let entries = list(answer, "entries");
    if !entries.is_empty() {
        let mut rows = table(&["entry", "at", "what was said", "rule", "what it did"]);
        for one in entries {
            let failure = one.get("failure").filter(|failure| !failure.is_null());
            let said = failure.map_or_else(|| "delivered".to_owned(), |it| cut(&word(it, "reply")));
            let rule = failure.map_or_else(
                || "-".to_owned(),
                |failure| match failure.get("by_person") {
                    Some(Value::Bool(true)) => "a person".to_owned(),
                    _ => word(failure, "rule"),
                },
            );
            let mut did = word(one, "verdict");
            if one.get("current") == Some(&Value::Bool(false)) {
                did += " (over)";
            }
            let (entry, at) = (word(one, "entry"), minute(one, "at"));
            rows.add_row([entry, at, said, rule, did]);
        }
        let _ = write!(text, "\n{rows}\n");
        let keys: std::collections::BTreeMap<String, String> = entries
            .iter()
            .filter_map(|one| one.get("failure"))
            .filter(|failure| !failure.is_null())
            .map(|failure| (word(failure, "text"), word(failure, "reason")))
            .collect();
        for (key, reason) in keys {
            let _ = writeln!(text, "text {key}: {reason}");
        }
    }
    text += &deeds(answer);
    text
}

fn head(answer: &Value) -> String {
    let mut text =
        format!("{} is {}", word(answer, "address"), word(answer, "state").to_lowercase());
    if let Some(Value::String(reason)) = answer.get("reason") {
        let _ = write!(text, ": {}", printable(reason).to_lowercase());
    }
    text.push('\n');
    let mut line = |name: &str, value: String| {
        if value != "-" {
            let _ = writeln!(text, "  {name:<12}{value}");
        }
    };
    line("no mail:", word(answer, "refused"));
    line("since:", second(answer, "since"));
    line("until:", second(answer, "until"));
    line("errors:", errors(answer));
    line("last error:", second(answer, "last_error_at"));
    line("rests on:", word(answer, "cause"));
    if answer.get("known") == Some(&Value::Bool(false)) {
        text += "  nothing is recorded about it\n";
    }
    text
}

fn deeds(answer: &Value) -> String {
    let deeds = list(answer, "deeds");
    if deeds.is_empty() {
        return String::new();
    }
    let mut rows = table(&["deed", "at", "what was done", "reason", "who", "why"]);
    for one in deeds {
        let at = minute(one, "at");
        let [deed, what, reason, who, why] =
            ["deed", "what", "reason", "who", "why"].map(|name| word(one, name));
        rows.add_row([deed, at, what, reason, who, why]);
    }
    format!("\n{rows}\n")
}

/// What was erased with an address.
pub fn forgotten(answer: &Value) -> String {
    let number = |name| answer.get(name).and_then(Value::as_u64).unwrap_or(0);
    let mut text = format!(
        "erased: {}, {}, {}; its hash {} is on the suppression list\n",
        count(number("messages"), "message"),
        count(number("refusals"), "refusal"),
        count(number("texts"), "text"),
        word(answer, "hash"),
    );
    if number("waiting") > 0 {
        text += &format!(
            "{} of it not at its end and will not be sent; give the command again then\n",
            count(number("waiting"), "message"),
        );
    }
    text
}

/// Addresses that changed.
pub fn changes(answer: &Value) -> String {
    let changes = list(answer, "changes");
    if changes.is_empty() {
        return "nothing changed: they stand there already".to_owned();
    }
    change_table(changes)
}

fn change_table(changes: &[Value]) -> String {
    let mut rows = table(&["address", "was", "is", "reason"]);
    for one in changes {
        let side = |name: &str| one.get(name).cloned().unwrap_or_default();
        let (before, after) = (side("before"), side("after"));
        let (was, is) = (word(&before, "state"), word(&after, "state"));
        rows.add_row([word(one, "address"), was, is, word(&after, "reason")]);
    }
    format!("{rows}\n")
}

/// What a change did, or would do.
pub fn outcome(answer: &Value) -> String {
    if let Some(task) = answer.get("task").and_then(Value::as_u64) {
        return match answer.get("done") {
            Some(Value::Bool(true)) => format!("done by task {task}\n"),
            _ => format!("task {task} is at work and goes on by itself, over restarts too\n"),
        };
    }
    let Some(difference) = answer.get("difference") else { return String::new() };
    let of = |name: &str| difference.get(name).and_then(Value::as_u64).unwrap_or(0);
    let mut text = format!("{} looked at", addresses_count(of("addresses")));
    match of("entries") {
        0 => {}
        1 => text += ", 1 entry would change",
        more => {
            let _ = write!(text, ", {} entries would change", number(more));
        }
    }
    text.push('\n');
    let states = list(difference, "states");
    if states.is_empty() {
        text += "no address would change its state\n";
    } else {
        let mut rows = table(&["from", "to", ">addresses"]);
        for one in states {
            rows.add_row([word(one, "from"), word(one, "to"), word(one, "addresses")]);
        }
        let _ = write!(
            text,
            "\n{rows}\n\n{}",
            change_table(&list(difference, "examples")[..examples(difference)])
        );
        let shown = examples(difference) as u64;
        let all: u64 = states.iter().filter_map(|one| one.get("addresses")?.as_u64()).sum();
        if all > shown {
            let _ = writeln!(text, "... and {} more", number(all - shown));
        }
    }
    text += "\nNothing was changed. With --apply it is done.\n";
    text
}

/// So many examples are shown.
fn examples(difference: &Value) -> usize {
    list(difference, "examples").len().min(20)
}

/// `quarantine alerts`
pub fn alerts(answer: &Value) -> String {
    let holds = list(answer, "holds");
    if holds.is_empty() {
        return "no alert: no provider has called far more of its recipients unknown than usual"
            .to_owned();
    }
    let mut rows =
        table(&[">alert", "provider", "since", ">usual", ">sudden", "state", "who", "why"]);
    for one in holds {
        let permille = |name: &str| {
            let share = one.get(name).and_then(Value::as_u64).unwrap_or(0);
            format!("{}.{} %", share / 10, share % 10)
        };
        let state = match one.get("end").and_then(Value::as_str) {
            None => "held back".to_owned(),
            Some("calmeddown") => "calmed down".to_owned(),
            Some(other) => printable(other),
        };
        rows.add_row([
            word(one, "hold"),
            word(one, "provider"),
            minute(one, "doubted_since"),
            permille("usual_permille"),
            permille("sudden_permille"),
            state,
            word(one, "who"),
            word(one, "why"),
        ]);
    }
    format!("{rows}\n")
}

#[cfg(test)]
mod tests;
