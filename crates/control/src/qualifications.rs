//! Texts that servers said, and what they mean: by the rules, or by a person.

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use engine::quarantine::{Qualification, TextFilter, TextKey, TextRecord, TextStatus, Work};
use mail::failure::{FailureType, Reason};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::access::Caller;
use crate::app::{Shared, answer};
use crate::forms::{Query, Segment};
use crate::quarantine::{PAGE_MOST, PAGE_USUAL, at_text, author};
use crate::repairs::{applied, meaning, previewed};
use web::Problem;

fn status(word: &str) -> Result<TextStatus, Problem> {
    word.parse().map_err(|fault| Problem::field("status", fault))
}

/// A text with what is known about it, as JSON.
fn shown(text: &TextRecord) -> Value {
    json!({
        "key": text.key.to_string(),
        "text": text.normalised,
        "first_raw": text.first_raw,
        "meaning": meaning(&text.qualification()),
        "by_rule": meaning(&text.by_rule),
        "by_person": text.by_person.as_ref().map(meaning),
        "qualified_by": text.qualified_by,
        "rule": text.rule,
        "version": text.version,
        "occurrences": text.occurrences,
        "first_at": at_text(text.first_at),
        "last_at": at_text(text.last_at),
    })
}

/// `GET /api/v1/qualifications`
pub(crate) async fn list(State(app): State<Shared>, query: Query) -> Result<Response, Problem> {
    query.only(&["status", "by_person", "after", "limit"])?;
    let by_person = match query.get("by_person") {
        None | Some("" | "false") => false,
        Some("true") => true,
        Some(_) => return Err(Problem::field("by_person", "true or false")),
    };
    let wanted = query.get("status").filter(|word| !word.is_empty()).map(status).transpose()?;
    let filter = TextFilter { status: wanted, by_person };
    let limit = query.limit(PAGE_USUAL, PAGE_MOST)?;
    let after = query.get("after").filter(|text| !text.is_empty()).map(place).transpose()?;
    let page = app.ledger.read(move |reads| reads.texts(filter, after, limit)).await?;
    let last = page.last().filter(|_| page.len() >= limit as usize);
    let next = last.map(|text| format!("{}-{}", text.occurrences, text.key));
    let list: Vec<Value> = page.iter().map(shown).collect();
    Ok(answer(json!({ "texts": list, "next": next })))
}

/// Where a page begins: after the text with these occurrences and this key.
fn place(text: &str) -> Result<(u32, TextKey), Problem> {
    text.split_once('-')
        .and_then(|(count, key)| Some((count.parse().ok()?, key.parse().ok()?)))
        .ok_or_else(|| Problem::field("after", "the next of the page before"))
}

/// `GET /api/v1/qualifications/{key}`
pub(crate) async fn get(
    State(app): State<Shared>,
    Segment(key): Segment,
    query: Query,
) -> Result<Response, Problem> {
    query.only(&[])?;
    Ok(answer(shown(&found(&app, &key).await?)))
}

async fn found(app: &Shared, text: &str) -> Result<TextRecord, Problem> {
    let unknown =
        |key: &str| Problem::not_found(format!("no text with the key {key:?} was ever met"));
    let key: TextKey = text.parse().map_err(|_| {
        let shown: String = text.chars().take(80).collect();
        unknown(&shown)
    })?;
    let found = app.ledger.read(move |reads| reads.text(key)).await?;
    found.ok_or_else(|| unknown(&key.to_string()))
}

/// The body of `POST /qualifications/{key}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    #[serde(default)]
    reason: Option<String>,
    #[serde(default, rename = "type")]
    failure_type: Option<String>,
    #[serde(default)]
    status: Option<String>,
    /// What a person said is taken back: the rule decides again.
    #[serde(default)]
    withdraw: bool,
    #[serde(default)]
    why: String,
    #[serde(default)]
    apply: bool,
}

impl Said {
    /// What is said; `None`: what the rule says.
    fn qualification(&self) -> Result<Option<Qualification>, Problem> {
        let Some(reason) = &self.reason else {
            if self.withdraw && self.failure_type.is_none() && self.status.is_none() {
                return Ok(None);
            }
            return Err(Problem::field("reason", "say what the text means, or \"withdraw\": true"));
        };
        if self.withdraw {
            return Err(Problem::field("withdraw", "either a reason or a withdrawal, not both"));
        }
        let reason: Reason = reason.parse().map_err(|fault| Problem::field("reason", fault))?;
        let failure_type = match &self.failure_type {
            None => reason.usual_type(),
            Some(word) => {
                word.parse::<FailureType>().map_err(|fault| Problem::field("type", fault))?
            }
        };
        let status = self.status.as_deref().map_or(Ok(TextStatus::Keep), status)?;
        if status == TextStatus::ToQualify {
            return Err(Problem::field(
                "status",
                "Keep or Ignore; to leave it open again, withdraw",
            ));
        }
        Ok(Some(Qualification { reason, failure_type, status }))
    }
}

/// `POST /api/v1/qualifications/{key}`
pub(crate) async fn set(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    Segment(key): Segment,
    request: Request,
) -> Result<Response, Problem> {
    let wanted: Said = app.read_json(request).await?;
    let qualification = wanted.qualification()?;
    let author = author(&caller, &wanted.why)?;
    let key = found(&app, &key).await?.key;
    if wanted.apply {
        let task = app.ledger.qualify(key, qualification, author).await?;
        return Ok(answer(applied(task)));
    }
    let assumed = Some((key, qualification));
    Ok(answer(previewed(&app.ledger.preview(Work::Text { key }, assumed).await?)))
}
