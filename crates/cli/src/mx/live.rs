//! What a running node knows about the paths and budgets of a domain.
//!
//! The node's answer (`GET /api/v1/paths/{domain}`) lists `paths` (`source`, `target`); each has `live`
//! (`connections`, `resting_until`, `rest_cause`, `last_fault`, `wait`; null when it was never used) and
//! `budgets` (`rule`, `key`, `used_in_window`, `used_in_period`, `period_limit`, `connections`,
//! `next_at`). Fields that it does not have stay unknown: a node of another version must not break the
//! explanation.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;

use super::explain::Explained;
use crate::output::exact_moment;
use crate::paths::state_of;

/// A path of a running node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LivePath {
    /// `ready`, `sending`, `resting: ...` or `waiting: ...`.
    pub state: String,
    /// Connections open or being opened.
    pub connections: u64,
    /// When it may go on; `None`: now.
    pub next_at: Option<String>,
    /// The limit that it waits for, or what was said last; as the node says it.
    pub wait: Option<Value>,
    /// The same for people: the figures of the limit, or what was said last.
    pub why: String,
}

/// A budget of a running node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LiveBudget {
    /// Messages in the current minute and the 60 before.
    pub used: u64,
    /// Messages in the current five minutes.
    pub used_in_period: Option<u64>,
    /// Messages allowed in five minutes.
    pub period_limit: Option<u64>,
    /// When it has room for the next message.
    pub next_at: Option<String>,
    /// Connections held.
    pub connections: u64,
}

/// Adds what the node says to the explanation.
pub fn merge(explained: &mut Explained, answer: &Value) {
    explained.live = true;
    let paths = || list(answer, "paths");
    for path in paths() {
        let (Some(source), Some(target)) = (number_of_source(path), text(path, "target")) else {
            continue;
        };
        let same = explained
            .paths
            .iter_mut()
            .find(|known| known.source == source && known.target.to_string() == target);
        if let Some(known) = same {
            known.live = Some(live_path(path, path.get("live").filter(|live| !live.is_null())));
        }
    }
    let budgets: Vec<&Value> =
        paths().flat_map(|path| list(path, "budgets")).chain(list(answer, "budgets")).collect();
    let mut differing = BTreeSet::new();
    for budget in budgets {
        let (Some(rule), Some(key)) = (text(budget, "rule"), text(budget, "key")) else { continue };
        let figure = |name: &str| budget.get(name).and_then(Value::as_u64);
        let same =
            explained.budgets.iter_mut().find(|known| known.rule == rule && known.key == key);
        let Some(known) = same else { continue };
        known.live = Some(LiveBudget {
            used: figure("used_in_window").unwrap_or(0),
            used_in_period: figure("used_in_period"),
            period_limit: figure("period_limit"),
            next_at: time(budget.get("next_at")),
            connections: figure("connections").unwrap_or(0),
        });
        if let Some(limit) = figure("limit_per_hour")
            && limit != u64::from(known.limit_per_hour)
        {
            differing.insert(format!(
                "the running node has {limit} an hour for rule {rule}: its rules or levels differ from those read here (`mailweir mx level show`, `mailweir stat reload`)"
            ));
        }
    }
    explained.notes.extend(differing);
}

fn live_path(path: &Value, live: Option<&Value>) -> LivePath {
    let field = |name: &str| live.and_then(|live| live.get(name)).filter(|found| !found.is_null());
    let said = field("last_fault").filter(|said| said.as_str() != Some(""));
    let state = state_of(path, live);
    LivePath {
        state: state.state,
        connections: field("connections").and_then(Value::as_u64).unwrap_or(0),
        next_at: state.next_at,
        wait: field("wait").or(said).cloned(),
        why: state.why,
    }
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn time(value: Option<&Value>) -> Option<String> {
    value.filter(|value| !value.is_null()).map(|value| exact_moment(Some(value)))
}

fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name).and_then(Value::as_str)
}

/// `3` or `"s3"`.
fn number_of_source(path: &Value) -> Option<u32> {
    let source = path.get("source")?;
    source
        .as_u64()
        .and_then(|number| u32::try_from(number).ok())
        .or_else(|| source.as_str()?.trim_start_matches('s').parse().ok())
}
