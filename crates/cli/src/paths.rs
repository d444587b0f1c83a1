//! Paths and budgets of a node's answer, for people.
//!
//! A node says of a path what it saw when it last tried it. A path that it did not try since its budget
//! ran full still looks free, so the state shown here also asks the budgets ([`state_of`]): a path is
//! `ready` only if none of them is full.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::Value;

use crate::output::{exact_moment, fits, moment, printable, table, terminal_width};
use crate::show::plain;

/// Rows of a table beyond which the rest is only counted.
const MOST_ROWS: usize = 40;

/// Whether a path can be used now, and if not, why and until when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathState {
    /// `ready`, `sending`, `not used yet`, `resting: ...` or `waiting: ...`.
    pub state: String,
    /// When it may go on; `None`: now.
    pub next_at: Option<String>,
    /// The figures of the limit, or what was said last; empty: nothing.
    pub why: String,
}

/// The state of a path: `live` is what the engine says of it, `path` has its `budgets`.
#[must_use]
pub fn state_of(path: &Value, live: Option<&Value>) -> PathState {
    let field = |name: &str| live.and_then(|live| live.get(name)).filter(|found| !found.is_null());
    let connections = field("connections").and_then(Value::as_u64).unwrap_or(0);
    if let Some(held) = field("held_by_reaction").and_then(|held| reaction(held, connections)) {
        return held;
    }
    if let Some(until) = field("resting_until") {
        return PathState {
            state: format!("resting: {}", field("rest_cause").map(plain).unwrap_or_default()),
            next_at: Some(exact_moment(Some(until))),
            why: field("last_fault").map(plain).unwrap_or_default(),
        };
    }
    if let Some(wait) = field("wait") {
        return PathState {
            state: format!("waiting: {}", limit_name(wait)),
            next_at: wait.get("until").filter(|at| !at.is_null()).map(|at| exact_moment(Some(at))),
            why: used_of(wait.get("used"), wait.get("figure")),
        };
    }
    if let Some(full) = budgets_of(path).find_map(full) {
        return full;
    }
    let state = match (live, connections) {
        (None, _) => "not used yet",
        (Some(_), 0) => "ready",
        (Some(_), _) => "sending",
    };
    PathState {
        state: state.to_owned(),
        next_at: None,
        why: field("last_fault").map(plain).unwrap_or_default(),
    }
}

/// A reaction that holds a path up, as its state. One that only slows says nothing while something is being sent.
fn reaction(held: &Value, connections: u64) -> Option<PathState> {
    let what = match held.get("reason").and_then(Value::as_str) {
        Some("suspended") => "suspended",
        _ if connections > 0 => return None,
        Some("slowed") => "slowed",
        Some("fewer-connections") => "fewer connections",
        _ => "held",
    };
    let by = held.get("by");
    let part = |name: &str| by.and_then(|by| by.get(name)).map(plain).unwrap_or_default();
    Some(PathState {
        state: format!("{what} by reaction R{} {}", part("id"), part("rule")),
        next_at: held.get("until").filter(|at| !at.is_null()).map(|at| exact_moment(Some(at))),
        why: format!("mailweir stat reaction lift R{} ends it", part("id")),
    })
}

/// A budget without room, as the state of every path that counts in it.
fn full(budget: &Value) -> Option<PathState> {
    let figure = |name: &str| budget.get(name).and_then(Value::as_u64);
    let is_full = |used: &str, limit: &str| figure(used)?.ge(&figure(limit)?).then_some(());
    let (name, used, limit) = if is_full("used_in_window", "limit_per_hour").is_some() {
        ("hour quota", "used_in_window", "limit_per_hour")
    } else if is_full("used_in_period", "period_limit").is_some() {
        ("five-minute quota", "used_in_period", "period_limit")
    } else {
        return None;
    };
    Some(PathState {
        state: format!("waiting: {name}"),
        next_at: budget.get("next_at").filter(|at| !at.is_null()).map(|at| exact_moment(Some(at))),
        why: used_of(budget.get(used), budget.get(limit)),
    })
}

/// The limit of a wait, in the words of the wait reasons.
fn limit_name(wait: &Value) -> String {
    match wait.get("limit").and_then(Value::as_str) {
        Some("hour") => "hour quota".to_owned(),
        Some("period") => "five-minute quota".to_owned(),
        Some("source") => "source cap".to_owned(),
        Some("delivery") => "delivery cap".to_owned(),
        Some("connections") => "connection limit".to_owned(),
        Some("connection-rate") => "connection rate".to_owned(),
        Some("connection-interval") => "connection interval".to_owned(),
        Some("ledger") => "ledger unreachable".to_owned(),
        // A node of another version may know others.
        Some(other) => printable(other),
        None => plain(wait),
    }
}

fn used_of(used: Option<&Value>, limit: Option<&Value>) -> String {
    match (used, limit) {
        (Some(used), Some(limit)) => format!("{} of {}", plain(used), plain(limit)),
        _ => String::new(),
    }
}

fn budgets_of(path: &Value) -> impl Iterator<Item = &Value> {
    path.get("budgets").and_then(Value::as_array).into_iter().flatten()
}

fn cell(value: &Value, name: &str) -> String {
    value.get(name).map_or_else(|| "-".to_owned(), plain)
}

/// The paths of a message or domain and, below, their budgets, each once; empty without any path. Where the terminal is
/// too narrow for the table of paths, each has lines of its own.
#[must_use]
pub fn tables(paths: &[Value]) -> String {
    tables_within(paths, terminal_width())
}

fn tables_within(paths: &[Value], width: Option<u16>) -> String {
    if paths.is_empty() {
        return String::new();
    }
    // The rule has a column only where there are several.
    let rules: BTreeSet<String> = paths.iter().map(|path| cell(path, "rule")).collect();
    let mut columns = vec!["path", "MX host", "state", ">connections", "next", "why"];
    if rules.len() > 1 {
        columns.insert(2, "rule");
    }
    let mut rows = table(&columns);
    let mut lines = String::new();
    for path in paths.iter().take(MOST_ROWS) {
        // In an answer about a domain the live part stands apart.
        let live = match path.get("live") {
            Some(live) => Some(live).filter(|live| !live.is_null()),
            None => Some(path),
        };
        let state = state_of(path, live);
        let mut row = vec![
            format!("s{}>{}", cell(path, "source").trim_start_matches('s'), cell(path, "target")),
            cell(path, "mx_host"),
            state.state,
            live.map_or_else(|| "0".to_owned(), |live| cell(live, "connections")),
            state.next_at.map_or_else(|| "now".to_owned(), |at| moment(Some(&at.into()))),
            state.why,
        ];
        let _ = writeln!(lines, "{}  {}\n    {}", row[0], row[1], in_words(&row[2..]));
        if rules.len() > 1 {
            let rule = cell(path, "rule");
            let _ = writeln!(lines, "    rule {rule}");
            row.insert(2, rule);
        }
        rows.add_row(row);
    }
    let shown = if fits(&rows, width) { format!("{rows}\n") } else { lines };
    format!("{shown}{}\n{}", more(paths.len()), budgets(paths))
}

/// State, connections, next time and reason of a path, as a sentence.
fn in_words(row: &[String]) -> String {
    let [state, connections, next, why] = row else { return row.join(", ") };
    let mut text = state.clone();
    if next != "now" {
        let _ = write!(text, " until {next}");
    }
    if connections != "0" {
        let _ = write!(text, ", connections: {connections}");
    }
    if !why.is_empty() {
        let _ = write!(text, "\n    {why}");
    }
    text
}

/// The budgets of some paths, each once.
fn budgets(paths: &[Value]) -> String {
    let mut seen = BTreeSet::new();
    let list: Vec<&Value> = paths
        .iter()
        .flat_map(budgets_of)
        .filter(|budget| seen.insert((cell(budget, "rule"), cell(budget, "key"))))
        .collect();
    if list.is_empty() {
        return String::new();
    }
    let mut rows = table(&["rule", "budget", ">in any hour", ">five minutes", ">connections"]);
    for budget in list.iter().take(MOST_ROWS) {
        let of =
            |used: &str, limit: &str| format!("{} / {}", cell(budget, used), cell(budget, limit));
        rows.add_row([
            cell(budget, "rule"),
            cell(budget, "key"),
            of("used_in_window", "limit_per_hour"),
            of("used_in_period", "period_limit"),
            of("connections", "max_connections"),
        ]);
    }
    format!("{rows}\n{}", more(list.len()))
}

/// How many rows are not shown.
#[must_use]
pub fn more(rows: usize) -> String {
    match rows.checked_sub(MOST_ROWS) {
        None | Some(0) => String::new(),
        Some(more) => format!("... and {more} more; --format json has them all\n"),
    }
}

/// As many of them as a table shows.
#[must_use]
pub fn shown<T>(list: &[T]) -> &[T] {
    &list[..list.len().min(MOST_ROWS)]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn budget(used: u64) -> Value {
        json!({ "rule": "google", "key": "s1", "used_in_window": used, "limit_per_hour": 2500,
            "used_in_period": used, "period_limit": 208, "connections": 1, "max_connections": 5,
            "next_at": "2026-11-21T10:05:00.000Z" })
    }

    #[test]
    fn a_path_is_ready_only_if_its_budgets_have_room() {
        let live =
            json!({ "connections": 0, "resting_until": null, "wait": null, "last_fault": "" });
        let sending = json!({ "connections": 2, "resting_until": null, "wait": null });
        let resting = json!({ "connections": 0, "resting_until": "2026-11-21T10:06:00.000Z",
            "rest_cause": "broken", "last_fault": "a reply line of more than 4096 octets" });
        let by = json!({ "id": 7, "rule": "google-rate", "version": "v" });
        let held = |reason: &str, connections: u64| {
            json!({ "connections": connections, "resting_until": null, "wait": null,
                "held_by_reaction": { "reason": reason, "by": by, "until": "2026-11-21T10:30:00.000Z" } })
        };
        let (suspended, slowed) = (held("suspended", 0), held("slowed", 2));
        let waiting = json!({ "connections": 0, "wait": { "figure": 208, "limit": "period",
            "rule": "google", "until": "2026-11-21T10:05:00.000Z", "used": 208 } });
        for (used, live, wanted) in [
            (0, None, "not used yet||"),
            (0, Some(&live), "ready||"),
            (0, Some(&sending), "sending||"),
            (
                208,
                Some(&suspended),
                "suspended by reaction R7 google-rate|2026-11-21T10:30:00.000Z|mailweir stat reaction lift R7 ends it",
            ),
            (0, Some(&slowed), "sending||"),
            (208, None, "waiting: five-minute quota|2026-11-21T10:05:00.000Z|208 of 208"),
            (208, Some(&live), "waiting: five-minute quota|2026-11-21T10:05:00.000Z|208 of 208"),
            (2_500, Some(&live), "waiting: hour quota|2026-11-21T10:05:00.000Z|2,500 of 2,500"),
            (
                0,
                Some(&resting),
                "resting: broken|2026-11-21T10:06:00.000Z|a reply line of more than 4096 octets",
            ),
            (0, Some(&waiting), "waiting: five-minute quota|2026-11-21T10:05:00.000Z|208 of 208"),
        ] {
            let state = state_of(&json!({ "budgets": [budget(used)] }), live);
            let flat =
                format!("{}|{}|{}", state.state, state.next_at.unwrap_or_default(), state.why);
            assert_eq!(flat, wanted, "{used} {live:?}");
        }
    }

    #[test]
    fn a_budget_of_many_paths_is_shown_once() {
        let path = |target: &str| {
            json!({ "source": 1, "target": target, "mx_host": "mx", "rule": "google",
                "budgets": [budget(3)], "live": null })
        };
        let text = tables(&[path("192.0.2.1"), path("192.0.2.2")]);
        assert_eq!(text.matches("3 / 2,500").count(), 1, "{text}");
        assert_eq!(text.matches("not used yet").count(), 2, "{text}");
        assert_eq!(tables(&[]), "");
    }

    #[test]
    fn a_narrow_terminal_gets_lines_in_place_of_a_table() {
        let path = json!({ "source": 1, "target": "192.0.2.100", "rule": "google",
            "mx_host": "alt2.gmail-smtp-in.l.google.com", "budgets": [budget(208)],
            "live": { "connections": 2 } });
        for width in [None, Some(80), Some(100), Some(140)] {
            let text = tables_within(core::slice::from_ref(&path), width);
            let longest = text.lines().map(|line| line.trim_end().chars().count()).max();
            let room = width.map_or(usize::MAX, usize::from);
            assert!(longest.is_some_and(|longest| longest <= room), "{width:?}\n{text}");
            let is_table = text.contains("MX host");
            assert_eq!(is_table, room >= 140, "{width:?}\n{text}");
            for wanted in [
                "s1>192.0.2.100",
                "waiting: five-minute quota",
                "2026-11-21T10:05:00Z",
                "208 of 208",
            ] {
                assert!(text.contains(wanted), "{wanted}: {width:?}\n{text}");
            }
        }
    }
}
