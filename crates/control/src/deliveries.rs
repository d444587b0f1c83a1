//! Deliveries: create, give content, start, pause, resume, cancel, look at.

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use engine::work::DeliveryState;
use mail::id::DeliveryId;
use node::intake::Created;
use node::prepare::{ContentSpec, Unsubscribe};
use serde::Deserialize;
use serde_json::{Value, json};
use store::{Counters, DeliveryRecord};

use crate::access::Caller;
use crate::app::{SMALL_DOCUMENT, Shared, answer, json as to_json, once, stored};
use crate::forms::{OptionsForm, Query, Segment, delivery_id, label, one_line};
use crate::problem::AsProblem;
use web::Problem;
use web::{expect_json, from_json, media_type};

/// Most deliveries or refusals on a page.
const PAGE_MOST: u32 = 1_000;
const PAGE_USUAL: u32 = 100;

/// The body of `POST /deliveries`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct NewDelivery {
    options: OptionsForm,
    content: Option<ContentSpec>,
}

/// `POST /api/v1/deliveries`
pub(crate) async fn create(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    expect_json(&parts.headers)?;
    let document = app.read(body, app.content_limit()).await?;
    let once = once(&parts.headers, &caller, &[b"delivery", &document.octets])?;
    let wanted: NewDelivery = from_json(&document.octets)?;
    let now = app.intake.now();
    let mut defaults = app.intake.default_options();
    defaults.tenant = caller.name.to_string();
    let options = wanted.options.read(defaults, now)?;
    if let Some(content) = &wanted.content {
        check_content(content)?;
    }
    let created = stored(app.intake.create(options, wanted.content.as_ref(), once)).await?;
    let (status, id) = match created {
        Created::New(id) => (StatusCode::CREATED, id),
        Created::Repeated(earlier) => (StatusCode::OK, earlier.delivery),
    };
    let mut response = (status, axum::Json(json!({ "id": id.to_string() }))).into_response();
    let place = HeaderValue::try_from(format!("/api/v1/deliveries/{id}"));
    response
        .headers_mut()
        .insert(header::LOCATION, place.expect("a path with a number is a header value"));
    Ok(response)
}

/// `PUT /api/v1/deliveries/{id}/content`
pub(crate) async fn set_content(
    State(app): State<Shared>,
    Segment(id): Segment,
    request: Request,
) -> Result<Response, Problem> {
    let id = delivery_id(&id)?;
    let (parts, body) = request.into_parts();
    let kind = media_type(&parts.headers)?;
    let document = app.read(body, app.content_limit()).await?;
    let content: ContentSpec = match kind.as_str() {
        "application/json" => from_json(&document.octets)?,
        "message/rfc822" => ContentSpec::from_eml(&document.octets)
            .map_err(|fault| Problem::invalid(fault.to_string()))?,
        _ => {
            return Err(Problem::media_type("send application/json or message/rfc822"));
        }
    };
    drop(document);
    check_content(&content)?;
    stored(app.intake.set_content(id, &content)).await?;
    let variables = app.intake.variables(&content).map_err(AsProblem::problem)?;
    Ok(answer(json!({ "id": id.to_string(), "variables": variables })))
}

/// Refuses line ends and their like in everything that ends in a header, naming the field.
pub(crate) fn check_content(content: &ContentSpec) -> Result<(), Problem> {
    let unsubscribe = match content {
        ContentSpec::Raw(raw) => &raw.unsubscribe,
        ContentSpec::Template(spec) => {
            for (field, text) in [
                ("from.name", &spec.from.name),
                ("from.address", &spec.from.address),
                ("to_name", &spec.to_name),
                ("subject", &spec.subject),
                ("feedback_id.campaign", &spec.feedback_id.campaign),
                ("feedback_id.customer", &spec.feedback_id.customer),
                ("feedback_id.mail_type", &spec.feedback_id.mail_type),
            ] {
                one_line(field, text)?;
            }
            if let Some(reply_to) = &spec.reply_to {
                one_line("reply_to.name", &reply_to.name)?;
                one_line("reply_to.address", &reply_to.address)?;
            }
            for (place, field) in spec.headers.iter().enumerate() {
                one_line(&format!("headers[{place}].name"), &field.name)?;
                one_line(&format!("headers[{place}].value"), &field.value)?;
            }
            for (place, file) in spec.attachments.iter().enumerate() {
                one_line(&format!("attachments[{place}].name"), &file.name)?;
                one_line(&format!("attachments[{place}].content_type"), &file.content_type)?;
                let cid = file.content_id.as_deref().unwrap_or_default();
                one_line(&format!("attachments[{place}].content_id"), cid)?;
            }
            &spec.unsubscribe
        }
    };
    match unsubscribe {
        Unsubscribe::Own { url, .. } => {
            one_line("unsubscribe.url", url)?;
            let merged = ["{{", "{%", "{#"].iter().any(|mark| url.contains(mark));
            // What the recipient's data makes of a template is judged when his message is made.
            if !merged && !is_https(url) {
                return Err(Problem::field(
                    "unsubscribe.url",
                    "an https URL of ASCII characters, at most 900 (RFC 8058)",
                ));
            }
            Ok(())
        }
        Unsubscribe::Managed | Unsubscribe::None => Ok(()),
    }
}

fn is_https(url: &str) -> bool {
    url.strip_prefix("https://").is_some_and(|rest| rest.starts_with(|c: char| c.is_alphanumeric()))
        && url.len() <= 900
        && url.bytes().all(|octet| octet.is_ascii_graphic())
}

/// The body of a change of state.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Change {
    why: String,
}

/// `POST /api/v1/deliveries/{id}/start`
pub(crate) async fn start(
    State(app): State<Shared>,
    Segment(id): Segment,
    request: Request,
) -> Result<Response, Problem> {
    let id = delivery_id(&id)?;
    read_change(&app, request).await?;
    stored(app.intake.start(id)).await?;
    show(&app, id).await
}

/// `POST /api/v1/deliveries/{id}/pause`
pub(crate) async fn pause(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    Segment(id): Segment,
    request: Request,
) -> Result<Response, Problem> {
    change(&app, &caller, &id, request, DeliveryState::Paused).await
}

/// `POST /api/v1/deliveries/{id}/resume`
pub(crate) async fn resume(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    Segment(id): Segment,
    request: Request,
) -> Result<Response, Problem> {
    change(&app, &caller, &id, request, DeliveryState::Running).await
}

/// `POST /api/v1/deliveries/{id}/cancel`
pub(crate) async fn cancel(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    Segment(id): Segment,
    request: Request,
) -> Result<Response, Problem> {
    change(&app, &caller, &id, request, DeliveryState::Cancelled).await
}

async fn change(
    app: &Shared,
    caller: &Caller,
    id: &str,
    request: Request,
    state: DeliveryState,
) -> Result<Response, Problem> {
    let id = delivery_id(id)?;
    let why = read_change(app, request).await?.why;
    stored(app.intake.set_state(id, state, caller.who(), &why)).await?;
    show(app, id).await
}

/// Reads the body of a change of state; it may be empty.
async fn read_change(app: &Shared, request: Request) -> Result<Change, Problem> {
    let (parts, body) = request.into_parts();
    let document = app.read(body, SMALL_DOCUMENT).await?;
    if document.octets.is_empty() {
        return Ok(Change::default());
    }
    expect_json(&parts.headers)?;
    let change: Change = from_json(&document.octets)?;
    label("why", &change.why)?;
    Ok(change)
}

/// `GET /api/v1/deliveries/{id}`
pub(crate) async fn get(
    State(app): State<Shared>,
    Segment(id): Segment,
    query: Query,
) -> Result<Response, Problem> {
    query.only(&[])?;
    show(&app, delivery_id(&id)?).await
}

async fn show(app: &Shared, id: DeliveryId) -> Result<Response, Problem> {
    Ok(answer(shown(&found(app, id).await?)?))
}

/// The record of a delivery, or 404.
pub(crate) async fn found(app: &Shared, id: DeliveryId) -> Result<DeliveryRecord, Problem> {
    let record = stored(app.intake.delivery(id)).await?;
    record.ok_or_else(|| Problem::not_found(format!("there is no delivery {id}")))
}

/// A delivery as JSON.
pub(crate) fn shown(record: &DeliveryRecord) -> Result<Value, Problem> {
    let delivery = &record.delivery;
    Ok(json!({
        "id": delivery.id.to_string(),
        "state": to_json(&delivery.state)?,
        "stream": delivery.options.stream,
        "options": to_json(&OptionsForm::of(&delivery.options))?,
        "has_content": record.content != 0,
        "counters": counters(&record.counters),
        "created_at": record.created_at.to_string(),
        "started_at": delivery.started_at.map(|at| at.to_string()),
    }))
}

fn counters(counters: &Counters) -> Value {
    json!({
        "accepted": counters.accepted,
        "refused": counters.refused,
        "duplicates": counters.duplicates,
        "sent": counters.sent,
        "failed": counters.failed,
        "expired": counters.expired,
        "cancelled": counters.cancelled,
        "queued": counters.queued(),
        "in_flight": counters.in_flight,
    })
}

/// `GET /api/v1/deliveries`
pub(crate) async fn list(State(app): State<Shared>, query: Query) -> Result<Response, Problem> {
    query.only(&["after", "limit"])?;
    let limit = query.limit(PAGE_USUAL, PAGE_MOST)?;
    let after = match query.get("after") {
        None | Some("") => DeliveryId(0),
        Some(text) => delivery_id(text).map_err(|_| Problem::field("after", "d<number>"))?,
    };
    let page = stored(app.intake.read(move |reads| reads.deliveries(after, limit))).await?;
    let next = (page.len() >= limit as usize)
        .then(|| page.last().map(|record| record.delivery.id.to_string()))
        .flatten();
    let list = page.iter().map(shown).collect::<Result<Vec<_>, _>>()?;
    Ok(answer(json!({ "deliveries": list, "next": next })))
}

/// `GET /api/v1/deliveries/{id}/refusals`
pub(crate) async fn refusals(
    State(app): State<Shared>,
    Segment(id): Segment,
    query: Query,
) -> Result<Response, Problem> {
    query.only(&["from", "limit"])?;
    let id = delivery_id(&id)?;
    let limit = query.limit(PAGE_USUAL, PAGE_MOST)?;
    let from = query.position("from")?;
    found(&app, id).await?;
    let page = stored(app.intake.read(move |reads| reads.refusals(id, from, limit))).await?;
    let next = (page.len() >= limit as usize)
        .then(|| page.last().map(|refusal| refusal.ordinal + 1))
        .flatten();
    let list: Vec<Value> = page
        .iter()
        .map(|refusal| {
            json!({
                "ordinal": refusal.ordinal,
                "line": refusal.line,
                "address": refusal.address,
                "reason": refusal.reason,
            })
        })
        .collect();
    Ok(answer(json!({ "refusals": list, "next": next })))
}

/// A field that every handler of a streamed body looks at.
pub(crate) fn expects_nothing_else(fields: &HeaderMap) -> Result<(), Problem> {
    // A range of a body to be stored would be half a list taken for a whole one.
    match fields.get(header::CONTENT_RANGE) {
        Some(_) => Err(Problem::unreadable("Content-Range is not understood here")),
        None => Ok(()),
    }
}
