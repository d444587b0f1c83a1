//! `GET /api/v1/stat`, `POST /api/v1/stat/reload`, `/healthz` and `/readyz`.

use std::sync::atomic::Ordering::Relaxed;

use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use node::node::{Questions, StartFault, WaitingExplained};
use rules::Diagnostic;
use serde_json::{Value, json};

use crate::app::{SMALL_DOCUMENT, Shared, answer, asked, json as to_json, stored};
use crate::forms::Query;
use web::Problem;

/// Groups and budgets in one answer. Those with the most to do come first.
const ROWS_MOST: u32 = 10_000;
const ROWS_USUAL: u32 = 1_000;
/// Time for reading and checking rule files.
const RELOAD_TIME: core::time::Duration = core::time::Duration::from_secs(60);

/// `GET /api/v1/stat`
pub(crate) async fn stat(State(app): State<Shared>, query: Query) -> Result<Response, Problem> {
    query.only(&["limit"])?;
    let limit = query.limit(ROWS_USUAL, ROWS_MOST)? as usize;
    let questions = &app.questions;
    let rules = asked(questions.rules()).await?;
    let (mut groups, mut budgets) =
        (asked(questions.groups()).await?, asked(questions.budgets()).await?);
    let (window, connections, domains) = asked(questions.sizes()).await?;
    let (groups_total, budgets_total) = (groups.len(), budgets.len());
    groups.sort_by_key(|group| {
        core::cmp::Reverse((group.window + group.in_flight, group.connections))
    });
    groups.truncate(limit);
    budgets.sort_by_key(|budget| core::cmp::Reverse((budget.used_in_window, budget.connections)));
    budgets.truncate(limit);
    let mut shown = Vec::with_capacity(groups.len());
    for group in &groups {
        let waiting = group.waiting.as_ref().map(|found| WaitingExplained::new(found, &rules));
        let mut value = to_json(group)?;
        if let Value::Object(members) = &mut value {
            members.insert("waiting".into(), to_json(&waiting)?);
        }
        shown.push(value);
    }
    let totals = stored(app.intake.read(|reads| reads.totals())).await?.counters;
    let health = app.intake.health();
    let short = app.intake.check_room().err().map(|short| short.to_string());
    Ok(answer(json!({
        "now": questions.now().to_string(),
        "node": questions.config().node.name,
        "rules_version": rules.version(),
        "levels": to_json(rules.levels())?,
        "groups": shown,
        "groups_total": groups_total,
        "budgets": to_json(&budgets)?,
        "budgets_total": budgets_total,
        "sizes": {
            "window_messages": window,
            "connections": connections,
            "domains": domains,
        },
        "queue": { "queued": totals.queued(), "in_flight": totals.in_flight },
        "counts": counts(questions),
        "store": { "healthy": health.is_ok(), "fault": health.err().map(|fault| fault.to_string()), "no_room": short },
        "clock_drift_micros": questions.clock_drift_micros(),
    })))
}

fn counts(questions: &Questions) -> Value {
    let counts = questions.counts();
    json!({
        "sent": counts.sent.load(Relaxed),
        "failed": counts.failed.load(Relaxed),
        "deferred": counts.deferred.load(Relaxed),
        "ended": counts.ended.load(Relaxed),
        "connections": counts.connections.load(Relaxed),
        "sessions_failed": counts.sessions_failed.load(Relaxed),
    })
}

/// `POST /api/v1/stat/reload`
pub(crate) async fn reload(
    State(app): State<Shared>,
    request: Request,
) -> Result<Response, Problem> {
    // There is nothing to be said; a body that came all the same is read so that the connection can go on.
    app.read(request.into_body(), SMALL_DOCUMENT).await?;
    let reload = tokio::time::timeout(RELOAD_TIME, app.questions.reload_rules());
    let rules = reload
        .await
        .map_err(|_| Problem::try_later("reading the rules takes more than a minute and goes on; `mailweir stat show` names the version in force"))?
        .map_err(unusable_rules)?;
    Ok(answer(json!({
        "rules_version": rules.version(),
        "rules": rules.rules().count(),
        "levels": to_json(rules.levels())?,
    })))
}

/// Faults of rules, each with its place.
pub(crate) fn rule_faults(faults: &[Diagnostic]) -> Vec<Value> {
    let shown = |fault: &Diagnostic| {
        json!({
            "file": &*fault.file,
            "line": fault.line,
            "column": fault.column,
            "message": fault.message,
            "help": fault.help,
            "rendered": fault.render(),
        })
    };
    faults.iter().map(shown).collect()
}

fn unusable_rules(fault: StartFault) -> Problem {
    match fault {
        StartFault::Rules(faults) => {
            let list = rule_faults(&faults);
            let first = faults.first().map(|fault| format!("; the first: {fault}"));
            Problem::invalid(format!(
                "the rules have {} {}, those in force stay{}",
                faults.len(),
                if faults.len() == 1 { "fault" } else { "faults" },
                first.unwrap_or_default()
            ))
            .with("faults", list)
        }
        file @ StartFault::File { .. } => {
            Problem::invalid(format!("{file}; the rules in force stay"))
        }
        other => Problem::try_later(format!("{other}; the rules in force stay")),
    }
}

/// `GET /healthz`: the process lives and answers.
pub(crate) async fn healthz() -> Response {
    axum::Json(json!({ "status": "alive" })).into_response()
}

/// `GET /readyz`: it takes mail. The reasons are short, because this is open to everybody.
pub(crate) async fn readyz(State(app): State<Shared>) -> Result<Response, Problem> {
    if app.shutdown.is_cancelled() {
        return Err(Problem::try_later("the node is shutting down"));
    }
    if app.intake.health().is_err() {
        return Err(Problem::try_later("the store does not commit; see /api/v1/stat"));
    }
    if app.intake.check_room().is_err() {
        return Err(Problem::try_later(
            "there is no room for more mail; see `store` in /api/v1/stat",
        ));
    }
    asked(app.questions.sizes()).await?;
    Ok(axum::Json(json!({ "status": "ready" })).into_response())
}
