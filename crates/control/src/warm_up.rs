//! Warm-up: plans, what they allow, and the planner's proposals.

use std::collections::BTreeMap;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use engine::warm_up::{Day, WarmUpPlan};
use mail::id::SourceId;
use node::warm_up::{Steering, WarmUpFault};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::access::Caller;
use crate::app::{Shared, answer, json as to_json, stored};
use crate::forms::{Query, Segment};
use crate::problem::AsProblem;
use web::Problem;

impl AsProblem for WarmUpFault {
    fn problem(self) -> Problem {
        match self {
            Self::Refused(why) => Problem::conflict("refused", why),
            Self::Level(fault) => fault.problem(),
            Self::Store(fault) => fault.problem(),
        }
    }
}

/// Days are numbers inside and dates outside.
fn days_as_text(value: &mut Value) {
    const NAMES: [&str; 6] = ["day", "today", "start", "reached_on", "before", "last_mail"];
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let day = member.as_u64().filter(|_| NAMES.contains(&name.as_str()));
                match day.and_then(|day| u32::try_from(day).ok()) {
                    Some(day) => *member = Day(day).to_string().into(),
                    None if name == "pauses" => pauses_as_text(member),
                    None => days_as_text(member),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(days_as_text),
        _ => {}
    }
}

fn pauses_as_text(pauses: &mut Value) {
    for end in pauses.as_array_mut().into_iter().flatten().filter_map(Value::as_array_mut).flatten()
    {
        if let Some(day) = end.as_u64().and_then(|day| u32::try_from(day).ok()) {
            *end = Day(day).to_string().into();
        }
    }
}

fn shown(value: &impl serde::Serialize) -> Result<Response, Problem> {
    let mut value = to_json(value)?;
    days_as_text(&mut value);
    Ok(answer(value))
}

/// `GET /api/v1/warm-up`
pub(crate) async fn status(State(app): State<Shared>, query: Query) -> Result<Response, Problem> {
    query.only(&[])?;
    shown(&stored(app.questions.warm_up()).await?)
}

/// The body of `POST /warm-up/plans`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    source: u32,
    volume_per_day: u32,
    #[serde(default)]
    start: Option<String>,
    #[serde(default)]
    first_per_hour: Option<u32>,
    #[serde(default)]
    growth_percent: Option<u32>,
    #[serde(default)]
    provider_percent: Option<u32>,
    /// Caps per day at single providers; absent: those that providers state.
    #[serde(default)]
    providers: Option<BTreeMap<String, u32>>,
    /// Put in force; else it is only shown.
    #[serde(default)]
    apply: bool,
}

/// A date such as `2026-12-01`.
fn day(text: &str) -> Result<Day, Problem> {
    Day::parse(text).ok_or_else(|| Problem::field("start", "a date such as 2026-12-01"))
}

/// `POST /api/v1/warm-up/plans`
pub(crate) async fn plan(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let wanted: Wanted = app.read_json(request).await?;
    let start = match &wanted.start {
        Some(text) => day(text)?,
        None => Day::of(app.questions.now()),
    };
    let mut plan = WarmUpPlan::new(SourceId(wanted.source), start, wanted.volume_per_day);
    plan.first_per_hour = wanted.first_per_hour.unwrap_or(plan.first_per_hour);
    plan.growth_percent = wanted.growth_percent.unwrap_or(plan.growth_percent);
    plan.provider_percent = wanted.provider_percent.unwrap_or(plan.provider_percent);
    plan.providers = wanted.providers.unwrap_or(plan.providers);
    plan.check().map_err(|fault| Problem::invalid(fault.to_string()))?;
    if wanted.apply {
        plan = stored(app.questions.apply_plan(plan, caller.who())).await?;
    }
    let schedule = plan.schedule();
    shown(&json!({ "applied": wanted.apply, "plan": plan, "schedule": schedule }))
}

/// `POST /api/v1/warm-up/plans/{source}/pause`
pub(crate) async fn pause(
    app: State<Shared>,
    caller: Extension<Caller>,
    source: Segment,
) -> Result<Response, Problem> {
    steer(app, caller, source, Steering::Pause).await
}

/// `POST /api/v1/warm-up/plans/{source}/resume`
pub(crate) async fn resume(
    app: State<Shared>,
    caller: Extension<Caller>,
    source: Segment,
) -> Result<Response, Problem> {
    steer(app, caller, source, Steering::Resume).await
}

/// `POST /api/v1/warm-up/plans/{source}/end`
pub(crate) async fn end(
    app: State<Shared>,
    caller: Extension<Caller>,
    source: Segment,
) -> Result<Response, Problem> {
    steer(app, caller, source, Steering::End).await
}

async fn steer(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    Segment(source): Segment,
    how: Steering,
) -> Result<Response, Problem> {
    let source = source.trim_start_matches('s').parse();
    let source = source.map_err(|_| Problem::not_found("a source is a number such as 3"))?;
    stored(app.questions.steer_plan(SourceId(source), how, caller.who())).await?;
    shown(&stored(app.questions.warm_up()).await?)
}

/// The body of an answer to a proposal.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Words {
    #[serde(default)]
    why: String,
}

/// `POST /api/v1/warm-up/proposals/{number}/approve`
pub(crate) async fn approve(
    app: State<Shared>,
    caller: Extension<Caller>,
    number: Segment,
    request: Request,
) -> Result<Response, Problem> {
    answered(app, caller, number, request, true).await
}

/// `POST /api/v1/warm-up/proposals/{number}/reject`
pub(crate) async fn reject(
    app: State<Shared>,
    caller: Extension<Caller>,
    number: Segment,
    request: Request,
) -> Result<Response, Problem> {
    answered(app, caller, number, request, false).await
}

async fn answered(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    Segment(number): Segment,
    request: Request,
    approve: bool,
) -> Result<Response, Problem> {
    let number = number.parse();
    let number = number.map_err(|_| Problem::not_found("a proposal is a number such as 7"))?;
    let Words { why } = app.read_json(request).await?;
    crate::forms::label("why", &why)?;
    shown(&stored(app.questions.answer_proposal(number, approve, caller.who(), &why)).await?)
}
