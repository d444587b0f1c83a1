//! The suppression list: hashes of addresses, and domains, to which nobody writes.

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use engine::quarantine::{Suppressed, SuppressionRecord};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::access::Caller;
use crate::app::{Shared, answer};
use crate::forms::Query;
use crate::quarantine::{PAGE_MOST, PAGE_USUAL, at_text, author};
use web::Problem;

/// Entries in one request.
const ENTRIES_LIMIT: usize = 1_000;

fn shown(record: &SuppressionRecord) -> Value {
    let kind = match record.entry {
        Suppressed::Address(_) => "hash",
        Suppressed::Domain(_) => "domain",
    };
    json!({
        "entry": record.entry.to_string(), "kind": kind, "at": at_text(record.at),
        "who": record.who, "why": record.why,
    })
}

/// `GET /api/v1/suppression`
pub(crate) async fn list(State(app): State<Shared>, query: Query) -> Result<Response, Problem> {
    query.only(&["after", "limit"])?;
    let limit = query.limit(PAGE_USUAL, PAGE_MOST)?;
    let after = query.get("after").filter(|text| !text.is_empty()).map(str::parse::<Suppressed>);
    let after = after.transpose().map_err(|fault| Problem::field("after", fault))?;
    let page = app.ledger.read(move |reads| reads.suppressions(after.as_ref(), limit)).await?;
    let last = page.last().filter(|_| page.len() >= limit as usize);
    let next = last.map(|record| record.entry.to_string());
    let list: Vec<Value> = page.iter().map(shown).collect();
    Ok(answer(json!({ "entries": list, "next": next })))
}

/// The body of `POST /suppression`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Changed {
    #[serde(default)]
    add: Vec<String>,
    #[serde(default)]
    remove: Vec<String>,
    #[serde(default)]
    why: String,
}

/// `POST /api/v1/suppression`
pub(crate) async fn change(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let wanted: Changed = app.read_json(request).await?;
    let author = author(&caller, &wanted.why)?;
    let count = wanted.add.len() + wanted.remove.len();
    if count == 0 || count > ENTRIES_LIMIT {
        let why = format!("add and remove: from 1 to {ENTRIES_LIMIT} entries together");
        return Err(Problem::invalid(why));
    }
    let (add, remove) = (entries("add", &wanted.add)?, entries("remove", &wanted.remove)?);
    let answered = json!({ "added": add.len(), "removed": remove.len() });
    // What is on both lists ends as removed.
    for (entries, suppressed) in [(add, true), (remove, false)] {
        if !entries.is_empty() {
            app.ledger.suppress(entries, suppressed, author.clone()).await?;
        }
    }
    Ok(answer(answered))
}

fn entries(field: &str, texts: &[String]) -> Result<Vec<Suppressed>, Problem> {
    let read = |(place, text): (usize, &String)| {
        text.parse().map_err(|fault: String| Problem::field(format!("{field}[{place}]"), fault))
    };
    texts.iter().enumerate().map(read).collect()
}
