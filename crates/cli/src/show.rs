//! Answers of a node for people, whatever fields they have.
//!
//! The node may be newer or older than this program. So answers are shown by their shape: plain
//! values as `name: value`, lists of flat objects as tables, everything else indented. Moments
//! (`..._at`, `at`, `until`, ...) given in microseconds become dates.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::output::{moment, number, printable, table};

/// Objects nested deeper than this are shown as JSON.
const DEEPEST: usize = 6;

/// A value in one line.
#[must_use]
pub fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(digits) => digits.as_u64().map_or_else(|| digits.to_string(), number),
        Value::String(text) => printable(text),
        Value::Array(list) if list.is_empty() => "-".to_owned(),
        Value::Object(fields) if fields.is_empty() => "-".to_owned(),
        Value::Array(list) => list.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            let part = |(name, value): (&String, &Value)| {
                format!("{} {}", label(name), named(name, value))
            };
            fields.iter().map(part).collect::<Vec<_>>().join(", ")
        }
    }
}

/// A value in one line, with what its name says about it.
fn named(name: &str, value: &Value) -> String {
    let is_moment = name.ends_with("_at") || name.ends_with("until") || name == "at";
    if is_moment && !value.is_null() { moment(Some(value)) } else { plain(value) }
}

/// A field's name for people.
fn label(name: &str) -> String {
    name.replace(['_', '-'], " ")
}

/// A whole answer.
#[must_use]
pub fn document(value: &Value) -> String {
    let mut text = String::new();
    write_value(&mut text, value, 0);
    text
}

fn write_value(text: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(fields) if depth < DEEPEST => write_fields(text, fields, depth),
        Value::Array(list) if depth < DEEPEST => write_list(text, list, depth),
        other => {
            let _ = writeln!(text, "{:indent$}{}", "", plain(other), indent = depth * 2);
        }
    }
}

fn is_flat(value: &Value) -> bool {
    match value {
        Value::Array(list) => list.iter().all(|inner| !inner.is_array() && !inner.is_object()),
        Value::Object(fields) => fields.is_empty(),
        _ => true,
    }
}

fn write_fields(text: &mut String, fields: &Map<String, Value>, depth: usize) {
    let indent = depth * 2;
    let (flat, nested): (Vec<_>, Vec<_>) = fields.iter().partition(|(_, value)| is_flat(value));
    let width = flat.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, value) in flat {
        let (name_shown, value) = (label(name), named(name, value));
        let mut lines = value.lines();
        let first = lines.next().unwrap_or("-");
        let _ = writeln!(text, "{:indent$}{name_shown:width$}  {first}", "");
        for line in lines {
            let _ = writeln!(text, "{:indent$}{:width$}  {line}", "", "");
        }
    }
    for (name, value) in nested {
        let _ = writeln!(text, "{:indent$}{}:", "", label(name));
        write_value(text, value, depth + 1);
    }
}

fn write_list(text: &mut String, list: &[Value], depth: usize) {
    let objects: Vec<&Map<String, Value>> = list.iter().filter_map(Value::as_object).collect();
    if objects.is_empty() || objects.len() < list.len() {
        for value in list {
            write_value(text, value, depth);
        }
        return;
    }
    // Columns in the order in which they first appear.
    let mut columns: Vec<&str> = Vec::new();
    let mut seen = BTreeSet::new();
    for name in objects.iter().flat_map(|fields| fields.keys()) {
        if seen.insert(name.as_str()) {
            columns.push(name);
        }
    }
    let headings: Vec<String> = columns.iter().map(|name| label(name)).collect();
    let mut rows = table(&headings.iter().map(String::as_str).collect::<Vec<_>>());
    for fields in objects {
        let cell =
            |name: &&str| fields.get(*name).map(|value| named(name, value)).unwrap_or_default();
        rows.add_row(columns.iter().map(cell));
    }
    let _ = writeln!(text, "{rows}");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_are_shown_by_their_shape() {
        let answer = json!({
            "message": "m7", "next_at": 1_000_000, "state": "queued", "used": 2_500,
            "waiting": { "reason": "hour-quota", "until": u64::MAX, "paused": false },
            "reply": "421 try\nlater\u{7}",
        });
        assert_eq!(
            document(&answer),
            "message  m7\nnext at  1970-01-01T00:00:01Z\nreply    421 try\n         later\\u{7}\n\
             state    queued\nused     2,500\nwaiting:\n  paused  no\n  reason  hour-quota\n  until   never\n"
        );
    }

    #[test]
    fn lists_of_objects_are_tables() {
        let text =
            document(&json!({ "steps": [{ "a": 1 }, { "a": 2, "b": ["x", "y"] }], "none": {} }));
        assert!(text.starts_with("none  -\nsteps:\n"), "{text}");
        assert!(text.contains("x, y"), "{text}");
    }

    #[test]
    fn depth_is_bounded() {
        let mut value = json!(1);
        for _ in 0..100 {
            value = json!({ "in": [value] });
        }
        assert!(document(&value).lines().count() < 20);
    }
}
