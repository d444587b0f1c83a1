//! What every handler has: the node's two faces, and the bounds that requests share.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::response::Response;
use node::intake::Intake;
use node::node::Questions;
use serde::de::DeserializeOwned;
use serde_json::Value;
use store::Once;
use tokio_util::sync::CancellationToken;

use crate::access::Caller;
use crate::ledger::Ledger;
use crate::problem::AsProblem;
use crate::transfer::Lists;
use web::{Document, Incoming, Memory, Problem, expect_json, from_json};

/// Octets of documents that are not contents.
pub(crate) const SMALL_DOCUMENT: usize = 256 << 10;
/// Memory that documents being read may take together.
const DOCUMENTS_MEMORY: usize = 256 << 20;
/// How long the store may take for one request.
const STORE_TIME: Duration = Duration::from_secs(60);
/// How long the engine may take for one answer.
const ENGINE_TIME: Duration = Duration::from_secs(10);
/// Octets of an Idempotency-Key.
const KEY_LIMIT: usize = 255;

/// The state of the server.
pub(crate) struct App {
    pub(crate) intake: Intake,
    pub(crate) questions: Questions,
    pub(crate) memory: Memory,
    pub(crate) ledger: Ledger,
    pub(crate) lists: Lists,
    /// Cancelled when the node is to end.
    pub(crate) shutdown: CancellationToken,
}

/// The state as handlers get it.
pub(crate) type Shared = Arc<App>;

impl App {
    pub(crate) fn new(intake: Intake, questions: Questions, shutdown: CancellationToken) -> Self {
        let ledger = Ledger::new(intake.clone(), questions.nondeliverables().clone());
        let (memory, lists) = (Memory::new(DOCUMENTS_MEMORY), Lists::default());
        Self { intake, questions, memory, ledger, lists, shutdown }
    }

    /// Octets of a document with a content.
    pub(crate) fn content_limit(&self) -> usize {
        usize::try_from(self.questions.config().limits.content_bytes).unwrap_or(usize::MAX)
    }

    /// Octets of a complete message.
    pub(crate) fn message_limit(&self) -> usize {
        usize::try_from(self.questions.config().limits.message_bytes).unwrap_or(usize::MAX)
    }

    /// Reads a body whole.
    pub(crate) async fn read(
        &self,
        body: axum::body::Body,
        limit: usize,
    ) -> Result<Document, Problem> {
        Incoming::new(body).whole(limit, &self.memory).await
    }

    /// Reads a request whose body is one JSON object of at most [`SMALL_DOCUMENT`] octets.
    pub(crate) async fn read_json<T: DeserializeOwned>(
        &self,
        request: Request,
    ) -> Result<T, Problem> {
        let (parts, body) = request.into_parts();
        expect_json(&parts.headers)?;
        from_json(&self.read(body, SMALL_DOCUMENT).await?.octets)
    }
}

/// Waits for the store, at most a minute.
pub(crate) async fn stored<T, F>(work: impl Future<Output = Result<T, F>>) -> Result<T, Problem>
where
    F: AsProblem,
{
    match tokio::time::timeout(STORE_TIME, work).await {
        Ok(answer) => answer.map_err(AsProblem::problem),
        Err(_) => Err(Problem::try_later(
            "the store has not answered for a minute; whether it took the request is not known (repeating it is safe with an Idempotency-Key, and for recipients)",
        )),
    }
}

/// Waits for the engine, at most ten seconds.
pub(crate) async fn asked<T>(question: impl Future<Output = Option<T>>) -> Result<T, Problem> {
    match tokio::time::timeout(ENGINE_TIME, question).await {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(Problem::try_later("the node is shutting down")),
        Err(_) => Err(Problem::try_later("the engine has not answered for ten seconds")),
    }
}

/// The key under which a request takes effect once. Keys of different tokens never meet, nor do those of different
/// kinds of request with one key pass for the same request.
pub(crate) fn once(
    fields: &HeaderMap,
    caller: &Caller,
    parts: &[&[u8]],
) -> Result<Option<Once>, Problem> {
    let mut values = fields.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::field("Idempotency-Key", "the field is given twice"));
    }
    let key = value.to_str().ok().filter(|key| {
        (1..=KEY_LIMIT).contains(&key.len()) && key.bytes().all(|octet| octet.is_ascii_graphic())
    });
    let Some(key) = key else {
        let why = format!("1 to {KEY_LIMIT} visible ASCII characters");
        return Err(Problem::field("Idempotency-Key", why));
    };
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        // With its length in front, so that parts cannot run into one another.
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    Ok(Some(Once { tenant: format!("http:{}", caller.name).into(), key: key.into(), digest }))
}

/// An answer as JSON, with times as texts.
pub(crate) fn answer(mut value: Value) -> Response {
    crate::forms::times_as_text(&mut value);
    web::json(&value)
}

/// An answer as JSON, as it stands: for those whose members called `from` are no times.
pub(crate) fn exact(value: Value) -> Response {
    web::json(&value)
}

/// A part of an answer as JSON.
pub(crate) fn json<T: serde::Serialize>(value: &T) -> Result<Value, Problem> {
    serde_json::to_value(value)
        .map_err(|fault| Problem::try_later(format!("the answer cannot be written: {fault}")))
}
