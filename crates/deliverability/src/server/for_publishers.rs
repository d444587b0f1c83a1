//! What publishers ask: bundles, roll-outs, clients, texts and the audit trail.

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use mail::time::Timestamp;
use rules::bundle::LARGEST_BUNDLE;
use serde::Deserialize;
use serde_json::{Value, json};
use web::Problem;

use super::access::Caller;
use super::for_clients::BUNDLE_TYPE;
use super::{Shared, json};
use crate::database::{Author, BundleFacts, ClientFacts, Fetch, LastReport, RecordedText};
use crate::instance::{Qualify, RolloutAction};
use crate::rollout::Share;
use crate::work_list::{Cluster, MOST_CLUSTERS};

/// Octets of small documents.
const SMALL_DOCUMENT: usize = 64 << 10;
/// Characters of a reason for the audit trail.
const LONGEST_WHY: usize = 500;
/// Bundles whose roll-out is shown.
const STAGES_SHOWN: usize = 10;
/// Texts of a cluster that its line shows; asked for by itself it shows more.
const SAMPLES: usize = 3;
const MOST_SAMPLES: usize = 1_000;

fn author(caller: &Caller, why: &str) -> Result<Author, Problem> {
    let long = why.chars().count() > LONGEST_WHY;
    if long || why.chars().any(char::is_control) {
        let words = format!("one line of up to {LONGEST_WHY} characters");
        return Err(Problem::field("why", words));
    }
    Ok(Author { who: caller.0.to_string(), why: why.to_owned() })
}

/// A reason in a field, whose octets are UTF-8.
fn why_in(fields: &HeaderMap) -> Result<String, Problem> {
    let Some(value) = fields.get("x-mailweir-why") else { return Ok(String::new()) };
    let text = core::str::from_utf8(value.as_bytes());
    text.map(str::to_owned).map_err(|_| Problem::field("X-Mailweir-Why", "UTF-8 text"))
}

fn share_of(percent: u64) -> Result<Share, Problem> {
    let share = u8::try_from(percent).ok().and_then(Share::new);
    share.ok_or_else(|| Problem::field("share", "percent from 1 to 100"))
}

/// `limit` in the query.
fn limit_in(query: Option<&str>, default: u32, most: u32) -> Result<u32, Problem> {
    let Some(query) = query.filter(|query| !query.is_empty()) else { return Ok(default) };
    let limit = query.strip_prefix("limit=").and_then(|text| text.parse::<u32>().ok());
    limit
        .filter(|limit| (1..=most).contains(limit))
        .ok_or_else(|| Problem::invalid(format!("the only parameter is limit, from 1 to {most}")))
}

fn version_of(text: &str) -> Result<u64, Problem> {
    text.parse().map_err(|_| Problem::not_found("a bundle is named by its version"))
}

fn shown(facts: &BundleFacts) -> Value {
    json!({
        "version": facts.stage.version,
        "etag": facts.etag,
        "octets": facts.octets,
        "created": facts.created.to_string(),
        "expires": facts.stage.expires.to_string(),
        "minimum_client": facts.stage.minimum_client.to_string(),
        "key": facts.signed_by,
        "notes": facts.notes,
        "pushed_at": facts.pushed_at.to_string(),
        "pushed_by": facts.pushed_by,
        "share": facts.stage.share.percent(),
        "halted": facts.stage.halted,
        "since": facts.stage.since.to_string(),
        "why": facts.why,
    })
}

/// `GET /v1/bundles`
pub(super) async fn bundles(State(app): State<Shared>) -> Result<Response, Problem> {
    let bundles = app.ask(|instance| instance.bundles()).await?;
    Ok(json(json!({ "bundles": bundles.iter().map(shown).collect::<Vec<_>>() })))
}

/// `GET /v1/bundles/{version}`
pub(super) async fn bundle(
    State(app): State<Shared>,
    Path(version): Path<String>,
) -> Result<Response, Problem> {
    let version = version_of(&version)?;
    let (facts, octets) = app.ask(move |instance| instance.bundle(version)).await?;
    let mut response = Body::from(octets).into_response();
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, BUNDLE_TYPE);
    if let Ok(etag) = HeaderValue::from_str(&format!("\"{}\"", facts.etag)) {
        fields.insert(header::ETAG, etag);
    }
    Ok(response)
}

/// `POST /v1/bundles`
pub(super) async fn push(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    fields: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let author = author(&caller, &why_in(&fields)?)?;
    let share = match fields.get("x-mailweir-share") {
        None => None,
        Some(value) => {
            let percent = value.to_str().ok().and_then(|text| text.trim().parse().ok());
            Some(share_of(percent.unwrap_or(0))?)
        }
    };
    let document = app.read(body, LARGEST_BUNDLE).await?;
    let pushed = app.ask(move |instance| instance.push(&document.octets, share, &author)).await?;
    let status = if pushed.is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, json(json!({ "new": pushed.is_new, "bundle": shown(&pushed.facts) })))
        .into_response())
}

/// `GET /v1/rollout`
pub(super) async fn rollout(State(app): State<Shared>) -> Result<Response, Problem> {
    let (stages, clients) = app.ask(|instance| instance.rollout(STAGES_SHOWN)).await?;
    let stages: Vec<Value> = stages
        .iter()
        .map(|(facts, totals)| {
            let mut stage = shown(facts);
            stage["clients"] = json!(totals);
            stage["covers"] = facts.stage.share.of(clients).into();
            stage
        })
        .collect();
    let rollout = &app.config().rollout;
    Ok(json(json!({
        "clients": clients,
        "halt_after_reports": rollout.halt_after_reports,
        "advance_after_hours": rollout.advance_after.map(|after| after.as_secs() / 3_600),
        "stages": stages,
    })))
}

/// The body of `POST /v1/rollout`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Guide {
    version: u64,
    action: RolloutAction,
    share: Option<u64>,
    #[serde(default)]
    why: String,
}

/// `POST /v1/rollout`
pub(super) async fn guide(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    fields: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let guide: Guide = app.read_json(&fields, body, SMALL_DOCUMENT).await?;
    let author = author(&caller, &guide.why)?;
    let share = guide.share.map(share_of).transpose()?;
    let Guide { version, action, .. } = guide;
    let facts = app.ask(move |instance| instance.guide(version, action, share, &author)).await?;
    Ok(json(json!({ "bundle": shown(&facts) })))
}

/// `GET /v1/clients`
pub(super) async fn clients(State(app): State<Shared>) -> Result<Response, Problem> {
    let clients = app.ask(|instance| instance.clients()).await?;
    let version = |version: u64| (version > 0).then_some(version);
    let shown = |(client, offered): &(ClientFacts, Option<u64>)| {
        let said = client.last_report.as_ref().map(said_shown);
        json!({
            "name": client.name,
            "added_at": client.added_at.to_string(),
            "added_by": client.added_by,
            "program": client.program,
            "seen_at": client.seen_at.map(|at: Timestamp| at.to_string()),
            "given": version(client.given),
            "in_force": version(client.in_force),
            "offered": offered,
            "report": said,
        })
    };
    Ok(json(json!({ "clients": clients.iter().map(shown).collect::<Vec<_>>() })))
}

/// `GET /v1/clients/{name}`
pub(super) async fn client(
    State(app): State<Shared>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let limit = limit_in(query.as_deref(), 50, 1_000)?;
    let asked = name.clone();
    let (fetches, reports) =
        app.ask(move |instance| instance.history_of_client(&asked, limit)).await?;
    let version = |version: u64| (version > 0).then_some(version);
    let fetched = |fetch: &Fetch| {
        json!({
            "at": fetch.at.to_string(),
            "bundle": version(fetch.version),
            "status": fetch.status,
            "in_force": version(fetch.in_force),
            "program": fetch.program,
        })
    };
    Ok(json(json!({
        "name": name,
        "fetches": fetches.iter().map(fetched).collect::<Vec<_>>(),
        "reports": reports.iter().map(said_shown).collect::<Vec<_>>(),
    })))
}

fn said_shown(said: &LastReport) -> Value {
    json!({
        "at": said.at.to_string(),
        "bundle": said.bundle,
        "state": said.state,
        "reason": said.reason,
    })
}

/// The body of `POST /v1/clients`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewClient {
    name: String,
    #[serde(default)]
    why: String,
}

/// `POST /v1/clients`
pub(super) async fn add_client(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    fields: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let NewClient { name, why } = app.read_json(&fields, body, SMALL_DOCUMENT).await?;
    let author = author(&caller, &why)?;
    let named = name.clone();
    let token = app.ask(move |instance| instance.add_client(&named, &author)).await?;
    let answer = json(json!({ "name": name, "token": token }));
    Ok((StatusCode::CREATED, answer).into_response())
}

/// `DELETE /v1/clients/{name}`
pub(super) async fn remove_client(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    fields: HeaderMap,
) -> Result<Response, Problem> {
    let author = author(&caller, &why_in(&fields)?)?;
    app.ask(move |instance| instance.remove_client(&name, &author)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn text_shown(text: &RecordedText) -> Value {
    json!({
        "key": text.key.to_string(),
        "text": text.text,
        "provider": text.provider,
        "occurrences": text.occurrences,
        "clients": text.clients,
        "first": text.first.to_string(),
        "last": text.last.to_string(),
    })
}

fn cluster_shown(cluster: &Cluster, samples: usize) -> Value {
    let reason = cluster.suggestion.as_ref();
    let rule = cluster.proposal.as_ref().ok().zip(reason);
    json!({
        "id": cluster.id,
        "texts": cluster.texts.len(),
        "occurrences": cluster.occurrences,
        "clients": cluster.clients,
        "providers": cluster.providers,
        "first": cluster.first.to_string(),
        "last": cluster.last.to_string(),
        "samples": cluster.texts.iter().take(samples).map(text_shown).collect::<Vec<_>>(),
        "suggestion": reason,
        "pattern": cluster.proposal.as_ref().ok().map(|proposal| &proposal.pattern),
        "no_pattern": cluster.proposal.as_ref().err(),
        "rule": rule.map(|(rule, said)| rule.rule(said.reason, said.failure_type)),
        "effect": cluster.effect,
    })
}

/// `GET /v1/texts`
pub(super) async fn texts(
    State(app): State<Shared>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let limit = limit_in(query.as_deref(), 20, MOST_CLUSTERS as u32)?;
    let list = app.ask(|instance| instance.work_list()).await?;
    let shown = list.clusters.iter().take(limit as usize);
    Ok(json(json!({
        "texts": list.texts,
        "occurrences": list.occurrences,
        "all_clusters": list.all_clusters,
        "clusters": shown.map(|cluster| cluster_shown(cluster, SAMPLES)).collect::<Vec<_>>(),
    })))
}

/// `GET /v1/texts/{key}`: a cluster, or the cluster of a text.
pub(super) async fn text(
    State(app): State<Shared>,
    Path(which): Path<String>,
) -> Result<Response, Problem> {
    let list = app.ask(|instance| instance.work_list()).await?;
    let holds = |cluster: &&Cluster| {
        cluster.id == which || cluster.texts.iter().any(|text| text.key.to_string() == which)
    };
    match list.clusters.iter().find(holds) {
        Some(cluster) => Ok(json(cluster_shown(cluster, MOST_SAMPLES))),
        None => {
            let words = "neither a cluster of the work list nor the key of a text in one";
            Err(Problem::not_found(words))
        }
    }
}

/// `POST /v1/texts/{key}`
pub(super) async fn qualify(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(which): Path<String>,
    fields: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let said: Qualify = app.read_json(&fields, body, SMALL_DOCUMENT).await?;
    let author = author(&caller, &said.why)?;
    let done = app.ask(move |instance| instance.qualify(&which, &said, &author)).await?;
    Ok(json(json!({ "texts": done.texts, "rule": done.rule })))
}

/// `DELETE /v1/texts/{key}`
pub(super) async fn withdraw(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(which): Path<String>,
    fields: HeaderMap,
) -> Result<Response, Problem> {
    let author = author(&caller, &why_in(&fields)?)?;
    let withdrawn = app.ask(move |instance| instance.withdraw(&which, &author)).await?;
    Ok(json(json!({ "texts": withdrawn.texts, "rules": withdrawn.rules })))
}

/// `GET /v1/texts/qualified`
pub(super) async fn qualified(
    State(app): State<Shared>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let limit = limit_in(query.as_deref(), 50, 1_000)?;
    let (texts, all, rules) = app.ask(move |instance| instance.qualified(limit)).await?;
    Ok(json(json!({ "texts": texts, "all": all, "rules": rules })))
}

/// `GET /v1/texts/export`
pub(super) async fn export_texts(State(app): State<Shared>) -> Result<Response, Problem> {
    let lines = app.ask(|instance| instance.export_texts()).await?;
    let kind = [(header::CONTENT_TYPE, "application/jsonl; charset=utf-8")];
    Ok((kind, lines).into_response())
}

/// `GET /v1/texts/rules`
pub(super) async fn export_rules(State(app): State<Shared>) -> Result<Response, Problem> {
    let file = app.ask(|instance| instance.export_rules()).await?;
    Ok(([(header::CONTENT_TYPE, "application/toml; charset=utf-8")], file).into_response())
}

/// `GET /v1/audit`
pub(super) async fn audit(
    State(app): State<Shared>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let limit = limit_in(query.as_deref(), 50, 1_000)?;
    let lines = app.ask(move |instance| instance.trail(limit)).await?;
    Ok(json(json!({ "audit": lines })))
}
