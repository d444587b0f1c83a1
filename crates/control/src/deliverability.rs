//! Bundles of rules: what is in force, its history, fetch one, apply one, take one back.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use mail::time::Timestamp;
use node::deliverability::{
    Applied, ApplyFault, DeliverabilityStatus, InstanceStatus, SyncFault, Synced, Trouble,
};
use rules::bundle::{BundleFault, LARGEST_BUNDLE};
use serde::Deserialize;
use serde_json::{Value, json};
use store::BundleApplication;

use crate::access::Caller;
use crate::app::{Shared, exact, json as to_json, stored};
use crate::forms::Query;
use crate::problem::AsProblem as _;
use crate::quarantine::{PAGE_MOST, PAGE_USUAL, at_text, author};
use crate::stat::rule_faults;
use crate::transfer::field;
use web::Problem;
use web::media_type;

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn trouble_shown(trouble: &Trouble) -> Value {
    json!({ "at": at_text(trouble.at), "fault": trouble.fault, "words": trouble.words })
}

fn instance_shown(instance: &InstanceStatus) -> Value {
    json!({
        "url": instance.url,
        "next_at": instance.next_at.and_then(at_text),
        "under_way": instance.under_way,
        "since": instance.since.and_then(at_text),
        "last_contact": instance.last_contact.and_then(at_text),
        "last_failure": instance.last_failure.and_then(at_text),
        "failures": instance.failures,
        "last_error": instance.last_error.as_ref().map(trouble_shown),
        "etag": instance.etag,
        "reports_waiting": instance.reports_waiting,
        "shares_unknown_texts": instance.shares_unknown_texts,
        "texts_until": instance.texts_until.and_then(at_text),
    })
}

fn shown(status: &DeliverabilityStatus, now: Timestamp) -> Value {
    let bundle = status.published.map(|published| {
        json!({
            "version": published.version,
            "digest": hex(&published.digest),
            "key": published.key.id().to_string(),
            "created_at": at_text(published.created),
            "expires_at": at_text(published.expires),
            "age_secs": now.since(published.created).as_secs(),
            "expired": published.expires <= now,
            "key_trusted": status.key_trusted,
        })
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
        "mx_bundle": status.mx_bundle,
        "known_texts": status.known_texts,
        "suppressed": status.suppressed,
        "trouble": status.trouble.as_ref().map(trouble_shown),
        "level": status.level,
        "local": status.local,
        "instance": status.instance.as_ref().map(instance_shown),
    })
}

/// `GET /api/v1/deliverability`
pub(crate) async fn status(State(app): State<Shared>, query: Query) -> Result<Response, Problem> {
    query.only(&[])?;
    let status = stored(app.questions.deliverability()).await?;
    Ok(exact(shown(&status, app.questions.now())))
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
    Ok(exact(json!({ "history": steps.iter().map(step).collect::<Vec<_>>() })))
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
    let wanted: RollBack = app.read_json(request).await?;
    let author = author(&caller, &wanted.why)?;
    applied(app.questions.roll_back(wanted.version, author).await)
}

/// The body of `POST /deliverability/sync`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sync {
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    why: String,
}

/// `POST /api/v1/deliverability/sync`
///
/// It ends by the bounds of the configuration, and goes on to its end when the caller goes away.
pub(crate) async fn sync(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let wanted: Sync = app.read_json(request).await?;
    let author = author(&caller, &wanted.why)?;
    let questions = app.questions.clone();
    let syncing = async move { questions.sync_bundle(author, wanted.dry_run).await };
    let synced = tokio::spawn(syncing).await;
    match synced {
        Ok(Ok(synced)) => Ok(exact(synced_shown(&synced)?)),
        Ok(Err(fault @ SyncFault::NoInstance)) => {
            Err(Problem::conflict("no-instance", fault.to_string()))
        }
        Ok(Err(fault @ SyncFault::UnderWay)) => {
            Err(Problem::conflict("under-way", fault.to_string()))
        }
        Err(fault) => Err(Problem::try_later(fault.to_string())),
    }
}

fn synced_shown(synced: &Synced) -> Result<Value, Problem> {
    let mut shown = to_json(synced)?;
    shown["next_at"] = synced.next_at.and_then(at_text).into();
    Ok(shown)
}

fn applied(outcome: Result<Applied, ApplyFault>) -> Result<Response, Problem> {
    match outcome {
        Ok(applied) => Ok(exact(to_json(&applied)?)),
        Err(ApplyFault::Store(fault)) => Err(fault.problem()),
        Err(ApplyFault::Refused(refused)) => Err(refused.problem()),
        Err(fault) => {
            let faults = match &fault {
                ApplyFault::Bundle(BundleFault::Rules { faults, .. }) => rule_faults(faults),
                _ => Vec::new(),
            };
            let name = fault.name();
            let words = format!("{fault}; the rules in force stay");
            Err(Problem::invalid(words).with("fault", name).with("faults", faults))
        }
    }
}
