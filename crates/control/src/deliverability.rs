//! Bundles of rules: what is in force, its history, apply one, take one back.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use node::deliverability::{Applied, ApplyFault, DeliverabilityStatus};
use rules::bundle::{BundleFault, LARGEST_BUNDLE};
use serde::Deserialize;
use serde_json::{Value, json};
use store::BundleApplication;

use crate::access::Caller;
use crate::app::{SMALL_DOCUMENT, Shared, answer, stored};
use crate::forms::Query;
use crate::problem::AsProblem as _;
use crate::quarantine::{PAGE_MOST, PAGE_USUAL, at_text, author};
use crate::transfer::field;
use web::Problem;
use web::{expect_json, from_json, media_type};

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn shown(status: &DeliverabilityStatus) -> Value {
    let bundle = status.published.map(|published| {
        json!({
            "version": published.version,
            "digest": hex(&published.digest),
            "key": published.key.id().to_string(),
            "created_at": at_text(published.created),
            "expires_at": at_text(published.expires),
        })
    });
    let trouble = status.trouble.as_ref().map(|trouble| {
        json!({ "at": at_text(trouble.at), "fault": trouble.fault, "words": trouble.words })
    });
    json!({
        "bundle": bundle,
        "since": at_text(status.since),
        "kept": status.kept,
        "versions": {
            "mx": status.mx_version,
            "bounce": *status.bounce_version,
            "reaction": *status.reaction_version,
            "domain": *status.domain_version,
            "format": *status.format_version,
        },
        "mx_from_bundle": status.mx_from_bundle,
        "known_texts": status.known_texts,
        "suppressed": status.suppressed,
        "trouble": trouble,
    })
}

/// `GET /api/v1/deliverability`
pub(crate) async fn status(State(app): State<Shared>, query: Query) -> Result<Response, Problem> {
    query.only(&[])?;
    Ok(answer(shown(&stored(app.questions.deliverability()).await?)))
}

fn step(application: &BundleApplication) -> Value {
    json!({
        "number": application.number,
        "at": at_text(application.at),
        "who": application.who,
        "why": application.why,
        "from": application.from,
        "to": application.to,
        "difference": serde_json::from_str::<Value>(&application.difference).unwrap_or_default(),
    })
}

/// `GET /api/v1/deliverability/history`
pub(crate) async fn history(State(app): State<Shared>, query: Query) -> Result<Response, Problem> {
    query.only(&["limit"])?;
    let limit = query.limit(PAGE_USUAL, PAGE_MOST)?;
    let steps = stored(app.questions.bundle_history(limit)).await?;
    Ok(answer(json!({ "history": steps.iter().map(step).collect::<Vec<_>>() })))
}

/// `POST /api/v1/deliverability/bundle`
pub(crate) async fn apply(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    if media_type(&parts.headers)? != "application/octet-stream" {
        return Err(Problem::media_type("send a bundle as application/octet-stream"));
    }
    let author = author(&caller, field(&parts.headers, "X-Mailweir-Why")?.unwrap_or_default())?;
    let document = app.read(body, LARGEST_BUNDLE).await?;
    let octets: Arc<[u8]> = Arc::from(&*document.octets);
    drop(document);
    applied(app.questions.apply_bundle(octets, author).await)
}

/// The body of `POST /deliverability/rollback`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RollBack {
    /// `null`: the rules shipped with the program.
    version: Option<u64>,
    #[serde(default)]
    why: String,
}

/// `POST /api/v1/deliverability/rollback`
pub(crate) async fn roll_back(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    expect_json(&parts.headers)?;
    let document = app.read(body, SMALL_DOCUMENT).await?;
    let wanted: RollBack = from_json(&document.octets)?;
    let author = author(&caller, &wanted.why)?;
    applied(app.questions.roll_back(wanted.version, author).await)
}

fn applied(outcome: Result<Applied, ApplyFault>) -> Result<Response, Problem> {
    match outcome {
        Ok(applied) => Ok(answer(crate::app::json(&applied)?)),
        Err(ApplyFault::Store(fault)) => Err(fault.problem()),
        Err(ApplyFault::Refused(refused)) => Err(refused.problem()),
        Err(fault) => {
            let faults: Vec<Value> = match &fault {
                ApplyFault::Bundle(BundleFault::Rules { faults, .. }) => {
                    faults.iter().map(|fault| fault.render().into()).collect()
                }
                _ => Vec::new(),
            };
            let name = fault.name();
            let words = format!("{fault}; the rules in force stay");
            Err(Problem::invalid(words).with("fault", name).with("faults", faults))
        }
    }
}
