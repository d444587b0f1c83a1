//! Changes to many addresses at once: undo and restore, alerts of the outage guard.
//!
//! Whatever could touch many addresses shows the difference first: without `"apply": true` nothing is changed. With
//! it a durable task is started, which goes on after a crash; `GET /quarantine/tasks` lists those at work.

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use engine::quarantine::{
    Difference, HOLDS_KEPT, HoldRecord, Qualification, Selection, TaskRecord, TextKey, Work,
};
use mail::failure::Reason;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::access::Caller;
use crate::app::{Shared, answer};
use crate::forms::{Query, Segment, any_moment, label};
use crate::quarantine::{at_text, author, change};
use web::Problem;

/// The body of `POST /quarantine/undo`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Undo {
    #[serde(default)]
    provider: Option<String>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    rule: Option<String>,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    from: Option<String>,
    #[serde(default)]
    to: Option<String>,
    #[serde(default)]
    why: String,
    #[serde(default)]
    apply: bool,
}

impl Undo {
    fn selection(&self) -> Result<Selection, Problem> {
        let words = [&self.provider, &self.text, &self.rule, &self.reason, &self.from, &self.to];
        if words.iter().all(|word| word.is_none()) {
            return Err(Problem::invalid(
                "say what is to be undone: at least one of provider, text, rule, reason, from, to",
            ));
        }
        let mut selection = Selection::default();
        for (field, given, place) in [
            ("provider", &self.provider, &mut selection.provider),
            ("rule", &self.rule, &mut selection.rule),
        ] {
            if let Some(given) = given {
                label(field, given)?;
                *place = Some(given.as_str().into());
            }
        }
        if let Some(text) = &self.text {
            selection.text = Some(text_key("text", text)?);
        }
        if let Some(word) = &self.reason {
            let reason = word.parse::<Reason>().map_err(|fault| Problem::field("reason", fault))?;
            selection.reason = Some(reason);
        }
        if let Some(text) = &self.from {
            selection.from = any_moment("from", text)?;
        }
        if let Some(text) = &self.to {
            selection.to = any_moment("to", text)?;
        }
        if selection.to <= selection.from {
            return Err(Problem::field("to", "must be later than from"));
        }
        Ok(selection)
    }
}

/// Reads the key of a text.
fn text_key(field: &str, text: &str) -> Result<TextKey, Problem> {
    text.parse().map_err(|fault| Problem::field(field, fault))
}

/// `POST /api/v1/quarantine/undo`
pub(crate) async fn undo(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let wanted: Undo = app.read_json(request).await?;
    let work = Work::Undo { selection: wanted.selection()? };
    work_or_preview(&app, &caller, work, &wanted.why, wanted.apply).await
}

/// The body of `POST /quarantine/restore`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Restore {
    task: u64,
    #[serde(default)]
    why: String,
    #[serde(default)]
    apply: bool,
}

/// `POST /api/v1/quarantine/restore`
pub(crate) async fn restore(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let wanted: Restore = app.read_json(request).await?;
    let task = Some(wanted.task)
        .filter(|task| (1..=i64::MAX.unsigned_abs()).contains(task))
        .ok_or_else(|| Problem::field("task", "the number of the task that undid something"))?;
    work_or_preview(&app, &caller, Work::Restore { task }, &wanted.why, wanted.apply).await
}

/// The body of `POST /quarantine/rejudge`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Rejudge {
    why: String,
    apply: bool,
}

/// `POST /api/v1/quarantine/rejudge`
pub(crate) async fn rejudge(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let wanted: Rejudge = app.read_json(request).await?;
    work_or_preview(&app, &caller, Work::Everyone, &wanted.why, wanted.apply).await
}

async fn work_or_preview(
    app: &Shared,
    caller: &Caller,
    work: Work,
    why: &str,
    apply: bool,
) -> Result<Response, Problem> {
    let author = author(caller, why)?;
    if apply {
        let task = app.ledger.start(work, author).await?;
        return Ok(answer(applied(task)));
    }
    Ok(answer(previewed(&app.ledger.preview(work, None).await?)))
}

/// The answer to a change that was started.
pub(crate) fn applied(task: u64) -> Value {
    json!({ "applied": true, "task": task, "difference": null })
}

/// The answer to a change that was only worked out.
pub(crate) fn previewed(difference: &Difference) -> Value {
    let states: Vec<Value> = difference
        .states
        .iter()
        .map(
            |(from, to, count)| json!({ "from": from.word(), "to": to.word(), "addresses": count }),
        )
        .collect();
    let examples: Vec<Value> = difference.examples.iter().map(change).collect();
    json!({
        "applied": false,
        "task": null,
        "difference": {
            "addresses": difference.addresses,
            "entries": difference.entries,
            "states": states,
            "examples": examples,
        },
    })
}

/// `GET /api/v1/quarantine/tasks`
pub(crate) async fn tasks(State(app): State<Shared>, query: Query) -> Result<Response, Problem> {
    query.only(&[])?;
    let tasks = app.ledger.read(|reads| reads.tasks()).await?;
    let tasks: Vec<Value> = tasks.iter().map(task).collect();
    Ok(answer(json!({ "tasks": tasks })))
}

fn task(task: &TaskRecord) -> Value {
    let word = match &task.work {
        Work::Undo { .. } => "undo",
        Work::Restore { .. } => "restore",
        Work::Hold { .. } => "hold",
        Work::Confirm { .. } => "confirm",
        Work::Dismiss { .. } => "dismiss",
        Work::Text { .. } => "text",
        Work::Everyone => "everyone",
    };
    json!({
        "task": task.task, "work": word, "who": task.who, "why": task.why,
        "started_at": at_text(task.started_at), "addresses": task.addresses,
    })
}

/// `GET /api/v1/quarantine/holds`
pub(crate) async fn holds(State(app): State<Shared>, query: Query) -> Result<Response, Problem> {
    query.only(&["limit"])?;
    let limit = query.limit(crate::quarantine::PAGE_USUAL, HOLDS_KEPT)?;
    let holds = app.ledger.read(move |reads| reads.holds(limit)).await?;
    let holds: Vec<Value> = holds.iter().map(hold).collect();
    Ok(answer(json!({ "holds": holds })))
}

fn hold(hold: &HoldRecord) -> Value {
    json!({
        "hold": hold.hold,
        "provider": hold.provider,
        "doubted_since": at_text(hold.doubted_since),
        "tripped_at": at_text(hold.tripped_at),
        "usual_permille": hold.usual_permille,
        "sudden_permille": hold.sudden_permille,
        "ended_at": hold.ended.and_then(|(at, _)| at_text(at)),
        "end": hold.ended.map(|(_, end)| end),
        "who": hold.who,
        "why": hold.why,
    })
}

/// The body of the end of a hold.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct End {
    why: String,
}

/// `POST /api/v1/quarantine/holds/{hold}/confirm`
pub(crate) async fn confirm(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    Segment(number): Segment,
    request: Request,
) -> Result<Response, Problem> {
    end(&app, &caller, &number, request, true).await
}

/// `POST /api/v1/quarantine/holds/{hold}/dismiss`
pub(crate) async fn dismiss(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    Segment(number): Segment,
    request: Request,
) -> Result<Response, Problem> {
    end(&app, &caller, &number, request, false).await
}

async fn end(
    app: &Shared,
    caller: &Caller,
    text: &str,
    request: Request,
    confirmed: bool,
) -> Result<Response, Problem> {
    let wanted: End = app.read_json(request).await?;
    let author = author(caller, &wanted.why)?;
    let number: u64 = text
        .parse()
        .map_err(|_| Problem::not_found("a hold is named by its number; see /quarantine/holds"))?;
    let find = async || -> Result<Option<HoldRecord>, Problem> {
        let holds = app.ledger.read(move |reads| reads.holds(HOLDS_KEPT)).await?;
        Ok(holds.into_iter().find(|hold| hold.hold == number))
    };
    match find().await? {
        None => return Err(Problem::not_found(format!("there is no hold {number}"))),
        Some(HoldRecord { ended: Some((at, end)), .. }) => {
            let end = format!("{end:?}").to_ascii_lowercase();
            let why = format!("hold {number} has ended ({end}, {at}); what it held can be undone");
            return Err(Problem::conflict("wrong-state", why));
        }
        Some(_) => app.ledger.end_hold(number, confirmed, author).await?,
    }
    let ended = find().await?;
    let ended = ended.ok_or_else(|| Problem::not_found(format!("there is no hold {number}")))?;
    Ok(answer(hold(&ended)))
}

/// A meaning, as JSON.
pub(crate) fn meaning(meaning: &Qualification) -> Value {
    json!({
        "reason": meaning.reason.word(),
        "type": meaning.failure_type.word(),
        "status": meaning.status,
    })
}
