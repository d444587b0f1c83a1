//! Speaking with a deliverability instance: its bundle, reports about bundles, texts that nobody knows.
//!
//! The paths, fields and statuses are those of docs/deliverability-instance.md; how a request reaches the instance,
//! and what it may not reach, is [`exchange`].

mod exchange;
mod fault;
mod target;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{ACCEPT_ENCODING, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH};
use hyper::{Method, StatusCode};
use rules::bundle::MEDIA_TYPE;
pub use rules::bundle::ReportState;
use serde::{Deserialize, Serialize};

use self::exchange::{Answer, Asked, Exchange, retry_after};
pub use self::fault::FetchFault;
pub use self::target::Target;
use super::following::Stated;
use super::sharing::SharedText;
use crate::config::InstanceConfig;
use crate::dns::Resolver;
use crate::smtp_client::TlsClients;

/// Octets of answers that are no bundles.
const SMALL_ANSWER: u64 = 64 * 1024;
/// Characters of an instance's words that are shown.
const LONGEST_WORDS: usize = 300;
/// Octets of an ETag.
const LONGEST_ETAG: usize = 200;
/// Characters of the reason of a report.
const LONGEST_REASON: usize = 500;

/// An instance, as this client asks it.
pub(crate) struct Instance {
    config: InstanceConfig,
    resolver: Arc<Resolver>,
    tls: TlsClients,
}

/// What became of asking for the bundle.
#[derive(Debug)]
pub(crate) enum Fetched {
    /// It is the one fetched before.
    Unchanged,
    /// Nothing is published for this client.
    Nothing,
    /// A bundle, whole, not yet believed.
    Bundle { octets: Arc<[u8]>, etag: Option<String> },
}

/// What a client reports about a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Its version.
    pub bundle: u64,
    /// How the client fares with it.
    pub state: ReportState,
    /// Why, for people.
    pub reason: String,
}

impl Report {
    /// A report; its reason is cut to what is sent.
    #[must_use]
    pub fn new(bundle: u64, state: ReportState, reason: &str) -> Self {
        Self { bundle, state, reason: reason.chars().take(LONGEST_REASON).collect() }
    }
}

/// What an instance took of the texts sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextsTaken {
    /// Taken.
    pub taken: u64,
    /// Refused: too long, not masked.
    pub refused: u64,
}

impl Instance {
    /// # Errors
    /// TLS cannot be set up.
    pub(crate) fn new(
        config: InstanceConfig,
        resolver: Arc<Resolver>,
    ) -> Result<Self, rustls::Error> {
        let tls = TlsClients::new()?.with_roots(config.tls_roots.clone());
        Ok(Self { config, resolver, tls })
    }

    pub(crate) const fn config(&self) -> &InstanceConfig {
        &self.config
    }

    /// Asks for the bundle that is meant for this client.
    ///
    /// # Errors
    /// There is no answer, or none that can be used.
    pub(crate) async fn bundle(
        &self,
        etag: Option<&str>,
        in_force: &Stated,
    ) -> Result<Fetched, FetchFault> {
        let mut fields = vec![
            (ACCEPT_ENCODING, HeaderValue::from_static("gzip")),
            (field("x-mailweir-program"), HeaderValue::from_static(env!("CARGO_PKG_VERSION"))),
            (field("x-mailweir-bundle"), HeaderValue::from(in_force.version)),
        ];
        let digest = in_force.digest.as_deref().map(HeaderValue::from_str);
        if let Some(Ok(digest)) = digest {
            fields.push((field("x-mailweir-digest"), digest));
        }
        if let Some(etag) = etag {
            fields.push((IF_NONE_MATCH, HeaderValue::from_str(etag).map_err(FetchFault::broken)?));
        }
        let answer = self
            .ask(Asked {
                method: Method::GET,
                path: "/v1/bundle",
                fields,
                body: Bytes::new(),
                largest: self.config.max_bundle_bytes,
            })
            .await?;
        match answer.status {
            StatusCode::NOT_MODIFIED if etag.is_some() => Ok(Fetched::Unchanged),
            StatusCode::NO_CONTENT => Ok(Fetched::Nothing),
            StatusCode::OK => {
                let kind =
                    answer.fields.get(CONTENT_TYPE).map_or("", |kind| kind.to_str().unwrap_or("?"));
                if kind != MEDIA_TYPE {
                    // A proxy's page of its own, for example.
                    let kind: String = kind.chars().take(80).collect();
                    return Err(FetchFault::broken(format!("it is {kind:?}, not {MEDIA_TYPE}")));
                }
                let etag = answer.fields.get(ETAG).and_then(|etag| etag.to_str().ok());
                let etag = etag.filter(|etag| etag.len() <= LONGEST_ETAG).map(str::to_owned);
                Ok(Fetched::Bundle { octets: answer.body.into(), etag })
            }
            _ => Err(refusal(&answer)),
        }
    }

    /// Reports how this client fares with a bundle.
    ///
    /// # Errors
    /// The instance has not taken it.
    pub(crate) async fn report(&self, report: &Report) -> Result<(), FetchFault> {
        let body = serde_json::json!({
            "bundle": report.bundle,
            "state": report.state,
            "reason": report.reason,
            "program": env!("CARGO_PKG_VERSION"),
        });
        let answer = self.post("/v1/report", body.to_string()).await?;
        match answer.status.is_success() {
            true => Ok(()),
            false => Err(refusal(&answer)),
        }
    }

    /// Sends texts that nobody has qualified.
    ///
    /// # Errors
    /// The instance has not taken them.
    pub(crate) async fn texts(&self, texts: &[SharedText]) -> Result<TextsTaken, FetchFault> {
        let body = serde_json::json!({ "texts": texts });
        let answer = self.post("/v1/texts", body.to_string()).await?;
        match answer.status.is_success() {
            true => serde_json::from_slice(&answer.body).map_err(FetchFault::broken),
            false => Err(refusal(&answer)),
        }
    }

    async fn post(&self, path: &'static str, body: String) -> Result<Answer, FetchFault> {
        let json = HeaderValue::from_static("application/json");
        let fields = vec![(CONTENT_TYPE, json)];
        let (method, largest) = (Method::POST, SMALL_ANSWER);
        self.ask(Asked { method, path, fields, body: body.into(), largest }).await
    }

    async fn ask(&self, asked: Asked) -> Result<Answer, FetchFault> {
        let Self { config, resolver, tls } = self;
        Exchange { config, resolver, tls }.ask(asked).await
    }
}

const fn field(name: &'static str) -> HeaderName {
    HeaderName::from_static(name)
}

/// An answer that says no.
fn refusal(answer: &Answer) -> FetchFault {
    let status = answer.status.as_u16();
    let problem: Option<serde_json::Value> = serde_json::from_slice(&answer.body).ok();
    let words = problem
        .as_ref()
        .and_then(|problem| problem["detail"].as_str().or_else(|| problem["title"].as_str()));
    let usual = answer.status.canonical_reason().unwrap_or("no reason");
    let words = words.unwrap_or(usual).chars().filter(|letter| !letter.is_control());
    let words = words.take(LONGEST_WORDS).collect();
    match answer.status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            FetchFault::NotAdmitted { status, words }
        }
        _ => FetchFault::Status { status, words, retry_after: retry_after(&answer.fields) },
    }
}
