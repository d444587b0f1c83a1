//! The HTTP API of a running node (`/api/v1`), as the commands use it.
//!
//! Where it is and the bearer token come from `--url` and `MAILWEIR_TOKEN`, else from the
//! configuration: its first HTTP listener and the token with the widest role. Every wait is bounded.
//! A problem document (RFC 9457) becomes one line; a node that is not there is told apart from one
//! that says no.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde_json::Value;

use crate::exit::Failure;
use crate::globals::Globals;

/// Where a node listens that has no configuration.
const DEFAULT_URL: &str = "http://127.0.0.1:2580";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For one question and its answer. Whoever streams a list watches its progress instead.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Larger answers are refused.
const LARGEST_ANSWER: usize = 64 << 20;

/// How a running node is reached.
#[derive(Clone, Debug, Default, Args)]
pub struct NodeArguments {
    /// Address of the node's HTTP API [default: the first HTTP listener of the configuration]
    #[arg(long, value_name = "URL", env = "MAILWEIR_URL")]
    pub url: Option<String>,
    /// Bearer token [default: that of the configuration with the widest role]
    #[arg(long, value_name = "TOKEN", env = "MAILWEIR_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

/// A node's HTTP API.
pub struct NodeClient {
    http: reqwest::Client,
    base: Url,
    token: Option<String>,
}

/// Why the node gave no answer.
#[derive(Debug)]
pub enum CallFault {
    /// Nobody listens there.
    NotRunning(String),
    /// It said no: status and words.
    Refused(u16, String),
    /// Anything else: time-out, no JSON, too long.
    Broken(String),
}

impl std::fmt::Display for CallFault {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotRunning(words) | Self::Refused(_, words) | Self::Broken(words) => {
                out.write_str(words)
            }
        }
    }
}

impl From<CallFault> for Failure {
    fn from(fault: CallFault) -> Self {
        match fault {
            CallFault::Refused(_, words) => Self::refused(words),
            CallFault::NotRunning(words) | CallFault::Broken(words) => Self::environment(words),
        }
    }
}

impl NodeClient {
    /// The node that options, environment and configuration name.
    ///
    /// # Errors
    /// Faults in the configuration; no HTTP listener; a URL that cannot be used.
    pub fn new(globals: &Globals, arguments: &NodeArguments) -> Result<Self, Failure> {
        let config = match (&arguments.url, &arguments.token) {
            // Nothing of the configuration is needed.
            (Some(_), Some(_)) => None,
            (None, Some(_)) => globals.load_without_secrets()?,
            (Some(_), None) if globals.config.is_none() => None,
            (_, None) if globals.config_path().is_none() => None,
            (_, None) => Some(globals.load()?),
        };
        let base = match (&arguments.url, &config) {
            (Some(url), _) => url.clone(),
            (None, None) => DEFAULT_URL.to_owned(),
            (None, Some(config)) => {
                let listener = config.http.listen.first().ok_or_else(|| {
                    Failure::environment(
                        "the configuration has no HTTP listener ([http] listen), so the node cannot be asked",
                    )
                })?;
                format!("http://{}", reachable(*listener))
            }
        };
        let base = Url::parse(&base)
            .ok()
            .filter(|url| url.scheme() == "http" && url.has_host())
            .ok_or_else(|| {
                Failure::environment(format!("{base:?} is no URL of a node: http://HOST:PORT"))
            })?;
        let token = arguments.token.clone().or_else(|| {
            let tokens = config.iter().flat_map(|config| &config.http.tokens);
            let widest = tokens.max_by_key(|token| token.role);
            widest.map(|token| token.token.expose().to_owned())
        });
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("mailweir/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|fault| Failure::environment(format!("cannot set up HTTP: {fault}")))?;
        Ok(Self { http, base, token })
    }

    /// `/api/v1/` and the segments, each escaped.
    fn url(&self, segments: &[&str]) -> Result<Url, CallFault> {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .map_err(|()| CallFault::Broken(format!("{} cannot be used as a base", self.base)))?
            .pop_if_empty()
            .extend(["api", "v1"])
            .extend(segments);
        Ok(url)
    }

    fn request(&self, method: Method, url: Url) -> RequestBuilder {
        let request = self.http.request(method, url).header(ACCEPT, "application/json");
        match &self.token {
            Some(token) => request.header(AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        }
    }

    /// Asks for a resource.
    ///
    /// # Errors
    /// See [`CallFault`].
    pub async fn get(&self, segments: &[&str]) -> Result<Value, CallFault> {
        self.get_with(segments, &[]).await
    }

    /// Asks for a resource with query parameters.
    ///
    /// # Errors
    /// See [`CallFault`].
    pub async fn get_with(
        &self,
        segments: &[&str],
        parameters: &[(&str, String)],
    ) -> Result<Value, CallFault> {
        let mut url = self.url(segments)?;
        if !parameters.is_empty() {
            url.query_pairs_mut().extend_pairs(parameters);
        }
        let request = self.request(Method::GET, url).timeout(ANSWER_TIMEOUT);
        self.answer(request.send().await).await
    }

    /// Asks for a resource; `None` when no node is running or it knows nothing of it.
    ///
    /// # Errors
    /// The other [`CallFault`]s.
    pub async fn get_if_running(&self, segments: &[&str]) -> Result<Option<Value>, CallFault> {
        match self.get(segments).await {
            Ok(answer) => Ok(Some(answer)),
            Err(CallFault::NotRunning(_) | CallFault::Refused(404, _)) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Sends a JSON document.
    ///
    /// # Errors
    /// See [`CallFault`].
    pub async fn post(&self, segments: &[&str], body: &Value) -> Result<Value, CallFault> {
        self.post_within(ANSWER_TIMEOUT, segments, body).await
    }

    /// The same, for what takes its time.
    ///
    /// # Errors
    /// See [`CallFault`].
    pub async fn post_within(
        &self,
        limit: Duration,
        segments: &[&str],
        body: &Value,
    ) -> Result<Value, CallFault> {
        let request = self.request(Method::POST, self.url(segments)?).timeout(limit);
        self.answer(request.json(body).send().await).await
    }

    /// Streams a body whose length nobody knows. Takes as long as it takes; the caller watches it.
    ///
    /// # Errors
    /// See [`CallFault`].
    pub async fn post_stream(
        &self,
        segments: &[&str],
        content_type: &str,
        body: reqwest::Body,
    ) -> Result<Value, CallFault> {
        self.post_stream_with(segments, content_type, &[], body).await
    }

    /// The same with further header fields.
    ///
    /// # Errors
    /// See [`CallFault`].
    pub async fn post_stream_with(
        &self,
        segments: &[&str],
        content_type: &str,
        fields: &[(&str, String)],
        body: reqwest::Body,
    ) -> Result<Value, CallFault> {
        let mut request = self.request(Method::POST, self.url(segments)?);
        for (name, value) in fields {
            request = request.header(*name, value);
        }
        let request = request.header(CONTENT_TYPE, content_type).body(body);
        self.answer(request.send().await).await
    }

    /// Fetches something of any length and writes it as it comes. The time between two parts is bounded, not the
    /// whole.
    ///
    /// # Errors
    /// See [`CallFault`]; or it cannot be written.
    pub async fn get_stream(
        &self,
        segments: &[&str],
        parameters: &[(&str, String)],
        out: &mut dyn std::io::Write,
    ) -> Result<(), Failure> {
        let mut url = self.url(segments)?;
        if !parameters.is_empty() {
            url.query_pairs_mut().extend_pairs(parameters);
        }
        let slow =
            |_| CallFault::Broken(format!("the node at {} did not answer in time", self.base));
        let sent = self.request(Method::GET, url).send();
        let sent = tokio::time::timeout(ANSWER_TIMEOUT, sent).await.map_err(slow)?;
        let mut response = match sent {
            Ok(response) if response.status().is_success() => response,
            other => {
                self.answer(other).await?;
                return Err(Failure::environment("the node answered without a list"));
            }
        };
        loop {
            let part =
                tokio::time::timeout(ANSWER_TIMEOUT, response.chunk()).await.map_err(slow)?;
            match part.map_err(|fault| self.fault(&fault))? {
                Some(part) => out.write_all(&part)?,
                None => break,
            }
        }
        out.flush()?;
        Ok(())
    }

    /// Reads an answer: JSON when it went well, else the words of the problem.
    async fn answer(&self, sent: Result<Response, reqwest::Error>) -> Result<Value, CallFault> {
        let mut response = sent.map_err(|fault| self.fault(&fault))?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(part) = response.chunk().await.map_err(|fault| self.fault(&fault))? {
            body.extend_from_slice(&part);
            if body.len() > LARGEST_ANSWER {
                let words = format!("the answer of {} is too long", self.base);
                return Err(CallFault::Broken(words));
            }
        }
        if !status.is_success() {
            return Err(CallFault::Refused(status.as_u16(), problem(status, &body)));
        }
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&body).map_err(|fault| {
            CallFault::Broken(format!("{} did not answer in JSON: {fault}", self.base))
        })
    }

    fn fault(&self, fault: &reqwest::Error) -> CallFault {
        let base = self.base.as_str().trim_end_matches('/');
        if fault.is_connect() {
            return CallFault::NotRunning(format!(
                "no node answers at {base}: start one with `mailweir serve`, or name another with --url"
            ));
        }
        if fault.is_timeout() {
            return CallFault::Broken(format!("the node at {base} did not answer in time"));
        }
        // The outer words of the library say only that sending failed.
        let mut cause: &dyn std::error::Error = fault;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        CallFault::Broken(format!("the conversation with the node at {base} broke off: {cause}"))
    }
}

/// A refusal of the node in words.
fn problem(status: StatusCode, body: &[u8]) -> String {
    let advice = match status {
        StatusCode::UNAUTHORIZED => {
            "; here it comes from --token, MAILWEIR_TOKEN or the configuration"
        }
        StatusCode::FORBIDDEN => "; the token's role does not allow it",
        _ => "",
    };
    refusal("the node", status, body, advice)
}

/// A problem document in one line; other bodies are shown as far as they are short text.
pub(crate) fn refusal(who: &str, status: StatusCode, body: &[u8], advice: &str) -> String {
    let document: Option<Value> = serde_json::from_slice(body).ok();
    let field = |name: &str| {
        let text = document.as_ref()?.get(name)?.as_str()?;
        Some(crate::output::printable(text)).filter(|text| !text.is_empty())
    };
    // The title only names the kind of problem; the detail says what it is.
    let words = match (field("detail"), field("title")) {
        (Some(words), _) | (None, Some(words)) => words,
        (None, None) => {
            let text = String::from_utf8_lossy(body);
            let line = text.lines().next().unwrap_or_default();
            let line: String = line.chars().take(200).collect();
            if line.is_empty() {
                status.canonical_reason().unwrap_or("no reason given").to_owned()
            } else {
                crate::output::printable(&line)
            }
        }
    };
    let mut words = format!("{who} refused ({}): {words}{advice}", status.as_u16());
    // Faults in rules come with their pictures.
    let faults = document.as_ref().and_then(|document| document.get("faults")?.as_array());
    for picture in faults.into_iter().flatten().filter_map(|fault| fault.get("rendered")?.as_str())
    {
        words += "\n\n";
        words += &crate::output::printable(picture);
    }
    words
}

/// A listener on all addresses is reached on loopback.
fn reachable(listener: SocketAddr) -> SocketAddr {
    let address = match listener.ip() {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    };
    SocketAddr::new(address, listener.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(url: &str) -> Result<NodeClient, Failure> {
        let arguments =
            NodeArguments { url: Some(url.to_owned()), token: Some("secret".to_owned()) };
        NodeClient::new(&Globals::default(), &arguments)
    }

    #[test]
    fn segments_cannot_break_out_of_the_path() {
        let client = client("http://127.0.0.1:2580/").unwrap();
        let url = client.url(&["explain", "a/../b?c#d@e"]).unwrap();
        assert_eq!(url.as_str(), "http://127.0.0.1:2580/api/v1/explain/a%2F..%2Fb%3Fc%23d@e");
    }

    #[test]
    fn only_plain_http_urls_are_taken() {
        for bad in ["", "127.0.0.1:2580", "ftp://x", "file:///etc"] {
            assert!(client(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn problems_become_one_line() {
        for (status, body, wanted) in [
            (
                409,
                r#"{"title":"Wrong state","detail":"d1 is finished"}"#,
                "the node refused (409): d1 is finished",
            ),
            (404, r#"{"title":"Not found"}"#, "the node refused (404): Not found"),
            (
                401,
                "",
                "the node refused (401): Unauthorized; here it comes from --token, MAILWEIR_TOKEN or the configuration",
            ),
            (500, "oh\u{1b}[1m\nmore", "the node refused (500): oh\\u{1b}[1m"),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(problem(status, body.as_bytes()), wanted);
        }
    }

    #[test]
    fn a_node_that_is_not_there_is_told_apart() {
        // A port that was free a moment ago and on which nobody listens.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let client = client(&format!("http://127.0.0.1:{port}")).unwrap();
        let answer = crate::runtime().unwrap().block_on(client.get_if_running(&["stat"]));
        assert!(matches!(answer, Ok(None)), "{answer:?}");
    }
}
