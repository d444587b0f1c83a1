//! What clients ask: their bundle, and to be heard.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use mail::reply::is_deceptive;
use mail::time::Timestamp;
use rules::bounce::Key;
use rules::bundle::{MEDIA_TYPE, ReportState};
use serde::Deserialize;
use serde_json::json;
use web::{Handed, Problem};

use super::access::Caller;
use super::{Shared, json};
use crate::database::{Said, StatedText};
use crate::instance::{Asking, Given, LONGEST_REASON};

/// Octets of a body with texts.
const TEXTS_LIMIT: usize = 1 << 20;
/// Octets of a report.
const REPORT_LIMIT: usize = 16 << 10;
/// Texts of one request.
const MOST_TEXTS: usize = 1_000;
/// Characters of one text.
const LONGEST_TEXT: usize = 2_000;
/// Characters of a provider, and of the version of a program.
const LONGEST_WORD: usize = 255;
/// Tags in If-None-Match that are looked at.
const MOST_TAGS: usize = 16;
/// A larger count is a mistake.
const MOST_OCCURRENCES: u64 = 1_000_000_000;

/// Bundles, as they are.
pub(super) const BUNDLE_TYPE: HeaderValue = HeaderValue::from_static(MEDIA_TYPE);

fn text<'a>(fields: &'a HeaderMap, name: &str) -> &'a str {
    fields.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The entries of a list in a field, however often the field is there.
fn entries<'a>(fields: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = fields.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// Whether a client takes gzip (RFC 9110, 12.5.3).
fn takes_gzip(fields: &HeaderMap) -> bool {
    entries(fields, &header::ACCEPT_ENCODING).any(|entry| {
        let (coding, parameters) = entry.split_once(';').unwrap_or((entry, ""));
        let quality = parameters.trim().strip_prefix("q=").map(str::parse::<f32>);
        let wanted = !matches!(quality, Some(Ok(0.0)));
        wanted && ["gzip", "x-gzip", "*"].contains(&coding.trim().to_ascii_lowercase().as_str())
    })
}

/// A version that a field states; 0: none.
fn version_in(fields: &HeaderMap, name: &str) -> Result<u64, Problem> {
    match text(fields, name) {
        "" => Ok(0),
        value => value.parse().map_err(|_| Problem::field(name, "the version of a bundle, or 0")),
    }
}

/// The version of a program, cut to what is kept.
fn program_of(value: &str) -> String {
    value.chars().filter(|letter| !letter.is_control()).take(LONGEST_WORD).collect()
}

/// `GET /v1/bundle`
pub(super) async fn bundle(
    State(app): State<Shared>,
    Extension(Caller(client)): Extension<Caller>,
    fields: HeaderMap,
) -> Result<Response, Problem> {
    let tag = |entry: &str| {
        let entry = entry.strip_prefix("W/").unwrap_or(entry);
        entry.trim_matches('"').to_owned()
    };
    let asking = Asking {
        program: program_of(text(&fields, "x-mailweir-program")),
        in_force: version_in(&fields, "X-Mailweir-Bundle")?,
        digest: text(&fields, "x-mailweir-digest").chars().take(LONGEST_WORD).collect(),
        has: entries(&fields, &header::IF_NONE_MATCH).take(MOST_TAGS).map(tag).collect(),
        compressed: takes_gzip(&fields),
    };
    let compressed = asking.compressed;
    let asked_by = Arc::clone(&client);
    let given = app.ask(move |instance| instance.fetch(&asked_by, &asking)).await?;
    let tag = |etag: String| {
        // Digits, a hyphen and quotes.
        HeaderValue::from_str(&format!("\"{etag}\"")).map_err(|_| Problem::try_later("no tag"))
    };
    let mut response = match given {
        Given::Nothing => StatusCode::NO_CONTENT.into_response(),
        Given::Unchanged { etag } => {
            let mut response = StatusCode::NOT_MODIFIED.into_response();
            response.headers_mut().insert(header::ETAG, tag(etag)?);
            response
        }
        Given::Bundle { etag, version, octets } => {
            let noted = async move {
                let noted = app.ask_in_turn(move |instance| instance.sent(&client, version)).await;
                noted.map_err(|problem| {
                    tracing::error!("a bundle was not sent whole: {problem}");
                    problem.to_string()
                })
            };
            let mut response = Handed::body(octets, noted).into_response();
            let fields = response.headers_mut();
            fields.insert(header::CONTENT_TYPE, BUNDLE_TYPE);
            fields.insert(header::ETAG, tag(etag)?);
            if compressed {
                fields.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
            response
        }
    };
    let vary = HeaderValue::from_static("accept-encoding, authorization");
    response.headers_mut().insert(header::VARY, vary);
    Ok(response)
}

/// The body of `POST /v1/texts`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Texts {
    texts: Vec<Text>,
}

#[derive(Deserialize)]
struct Text {
    key: String,
    text: String,
    #[serde(default)]
    provider: String,
    occurrences: u64,
    first: String,
    last: String,
}

impl Text {
    /// As it is kept; `None`: it cannot be.
    fn stated(self) -> Option<StatedText> {
        let moment = |text: &str| {
            let at: jiff::Timestamp = text.parse().ok()?;
            u64::try_from(at.as_microsecond()).ok().map(Timestamp::from_micros)
        };
        let bounded = |text: &str, most: usize| {
            text.chars().count() <= most && !text.chars().any(is_deceptive)
        };
        let (first, last) = (moment(&self.first)?, moment(&self.last)?);
        let right = !self.text.is_empty()
            && bounded(&self.text, LONGEST_TEXT)
            && bounded(&self.provider, LONGEST_WORD)
            && (1..=MOST_OCCURRENCES).contains(&self.occurrences)
            && first <= last;
        right.then_some(StatedText {
            key: Key::from_hex(&self.key)?,
            text: self.text,
            provider: self.provider,
            occurrences: self.occurrences,
            first,
            last,
        })
    }
}

/// `POST /v1/texts`
pub(super) async fn texts(
    State(app): State<Shared>,
    Extension(Caller(client)): Extension<Caller>,
    fields: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let Texts { texts } = app.read_json(&fields, body, TEXTS_LIMIT).await?;
    if texts.len() > MOST_TEXTS {
        let words = format!("{} texts; at most {MOST_TEXTS} a request", texts.len());
        return Err(Problem::too_large(words));
    }
    let sent = texts.len();
    let stated: Vec<StatedText> = texts.into_iter().filter_map(Text::stated).collect();
    let taken = app.ask(move |instance| instance.take_texts(&client, &stated)).await?;
    let answer = json(json!({ "taken": taken, "refused": sent - taken }));
    Ok((StatusCode::ACCEPTED, answer).into_response())
}

/// The body of `POST /v1/report`.
#[derive(Deserialize)]
struct Report {
    bundle: u64,
    state: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    program: String,
}

/// `POST /v1/report`
pub(super) async fn report(
    State(app): State<Shared>,
    Extension(Caller(client)): Extension<Caller>,
    fields: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let report: Report = app.read_json(&fields, body, REPORT_LIMIT).await?;
    let state = ReportState::of(&report.state).ok_or_else(|| {
        Problem::field("state", "one of applied, refused, rolled-back, alarm and well")
    })?;
    let printable = |letter: &char| !letter.is_control();
    let reason: String = report.reason.chars().filter(printable).take(LONGEST_REASON).collect();
    let program = program_of(&report.program);
    app.ask(move |instance| {
        instance.report(&Said {
            client: &client,
            bundle: report.bundle,
            state,
            reason: &reason,
            program: &program,
        })
    })
    .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
