//! Reactions in force and alerts: `GET /api/v1/reactions`, `POST /api/v1/reactions/{id}/lift` and `/prolong`,
//! `GET /api/v1/alerts`.

use core::time::Duration;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use engine::reactions::{Reaction, ReactionOrder};
use mail::time::Timestamp;
use node::reactions::{OrderFault, may_hold_until};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::access::Caller;
use crate::app::{Shared, answer, asked, json as to_json, stored};
use crate::forms::{Query, Segment};
use crate::problem::AsProblem as _;
use crate::quarantine::{at_text, author};
use web::Problem;

/// A reaction as JSON.
fn shown(reaction: &Reaction, now: Timestamp) -> Value {
    let allowed = reaction.allowed(now);
    let mut words: Vec<String> = Vec::new();
    if allowed.suspended {
        words.push("nothing is sent".into());
    }
    if let Some(rate) = allowed.messages_per_hour {
        words.push(format!("{rate} messages an hour"));
    }
    if let Some(rate) = allowed.connections_per_hour {
        words.push(format!("{rate} connections an hour"));
    }
    if let Some(most) = allowed.connections {
        words.push(format!("{most} connections at a time"));
    }
    if words.is_empty() {
        words.push("nothing is held back".into());
    }
    let changes: Vec<Value> = reaction
        .changes
        .iter()
        .map(|change| {
            json!({
                "at": at_text(change.at), "who": change.who, "why": change.why,
                "what": change.what,
            })
        })
        .collect();
    json!({
        "id": format!("R{}", reaction.id),
        "rule": reaction.rule,
        "version": reaction.version,
        "scope": reaction.about.scope(),
        "about": reaction.about.to_string(),
        "does": reaction.effect.words(),
        "began": at_text(reaction.began),
        "until": at_text(reaction.until),
        "ends_at": at_text(reaction.ends_at()),
        "next_change_at": reaction.ended.is_none().then(|| at_text(reaction.next_change(now))),
        "now": words.join(", "),
        "suspended": allowed.suspended,
        "messages_per_hour": allowed.messages_per_hour,
        "connections": allowed.connections,
        "connections_per_hour": allowed.connections_per_hour,
        "times": reaction.times,
        "mx_host": reaction.mx_host,
        "heard": reaction.heard,
        "changes": changes,
        "ended": reaction.ended.and_then(at_text),
    })
}

/// `GET /api/v1/reactions`
pub(crate) async fn list(State(app): State<Shared>, query: Query) -> Result<Response, Problem> {
    query.only(&[])?;
    let kept = asked(app.questions.reactions()).await?;
    let rules = asked(app.questions.reaction_rules()).await?;
    let now = app.questions.now();
    let all =
        |list: &[Reaction]| -> Vec<Value> { list.iter().map(|one| shown(one, now)).collect() };
    Ok(answer(json!({
        "reactions": all(&kept.in_force),
        "ended": all(&kept.ended),
        "rules_version": &**rules.version(),
    })))
}

/// The body of an order.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ordered {
    #[serde(default)]
    why: String,
    /// Only to prolong: for how long from now on.
    #[serde(default)]
    seconds: Option<u64>,
}

/// `POST /api/v1/reactions/{id}/lift`
pub(crate) async fn lift(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    Segment(id): Segment,
    request: Request,
) -> Result<Response, Problem> {
    let wanted: Ordered = app.read_json(request).await?;
    if wanted.seconds.is_some() {
        return Err(Problem::field("seconds", "a reaction is lifted at once"));
    }
    order(&app, &caller, &id, ReactionOrder::Lift, &wanted.why).await
}

/// `POST /api/v1/reactions/{id}/prolong`
pub(crate) async fn prolong(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    Segment(id): Segment,
    request: Request,
) -> Result<Response, Problem> {
    let wanted: Ordered = app.read_json(request).await?;
    let now = app.questions.now();
    let seconds = wanted.seconds.ok_or_else(|| Problem::field("seconds", "is missing"))?;
    let until = now + Duration::from_secs(seconds.min(u64::from(u32::MAX)));
    if !may_hold_until(now, until) {
        return Err(Problem::field("seconds", "from 1 second to 90 days"));
    }
    order(&app, &caller, &id, ReactionOrder::HoldUntil(until), &wanted.why).await
}

async fn order(
    app: &Shared,
    caller: &Caller,
    text: &str,
    order: ReactionOrder,
    why: &str,
) -> Result<Response, Problem> {
    let digits = text.strip_prefix('R').unwrap_or(text);
    let id: u64 = digits.parse().map_err(|_| {
        Problem::not_found("a reaction is named by its number, such as R7; see /api/v1/reactions")
    })?;
    let author = author(caller, why)?;
    let done = app.questions.order_reaction(id, order, &author.who, &author.why).await;
    done.map_err(|fault| match fault {
        OrderFault::Unknown(_) => Problem::not_found(fault.to_string()),
        OrderFault::Ending => Problem::try_later("the node is shutting down"),
        OrderFault::Store(fault) => fault.problem(),
    })?;
    let kept = asked(app.questions.reactions()).await?;
    let now = app.questions.now();
    let all = kept.in_force.iter().chain(kept.ended.iter().rev());
    let found = all.into_iter().find(|one| one.id == id);
    let found = found.ok_or_else(|| Problem::not_found(format!("there is no reaction R{id}")))?;
    Ok(answer(shown(found, now)))
}

/// `GET /api/v1/alerts`
pub(crate) async fn alerts(State(app): State<Shared>, query: Query) -> Result<Response, Problem> {
    query.only(&[])?;
    let alerts = stored(app.questions.alerts()).await?;
    Ok(answer(json!({ "alerts": to_json(&alerts)? })))
}
