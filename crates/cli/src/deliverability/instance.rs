//! The publisher's side of an instance's HTTP API.
//!
//! A connection for each request, over TLS wherever the instance is not on this machine: a token never travels in
//! clear. The certificate is judged by the roots of the machine, or by `--ca-file` alone. Every wait and every answer
//! is bounded; redirections are not followed.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use node::config::Secret;
use reqwest::Url;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::broken;
use crate::client::refusal;
use crate::exit::Failure;

/// For the connection and the handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For a request and its whole answer: a bundle is at most 32 MiB.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// Larger answers are refused.
const LARGEST_ANSWER: usize = 64 << 20;

/// Which instance, and with which token.
#[derive(Clone, Debug, Args)]
pub(super) struct InstanceArguments {
    /// Where the instance is: https://HOST, or http://127.0.0.1:2590 on this machine
    #[arg(
        long,
        value_name = "URL",
        env = "MAILWEIR_INSTANCE",
        default_value = "http://127.0.0.1:2590"
    )]
    instance: String,
    /// The file with a publisher's token
    #[arg(long, value_name = "FILE", env = "MAILWEIR_PUBLISHER_TOKEN_FILE")]
    token_file: PathBuf,
    /// Certificates that the instance's one must come from, in PEM form [default: those that this
    /// machine trusts]
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

/// A publisher's way to an instance.
pub(super) struct InstanceClient {
    base: Url,
    token: Secret,
    tls: Option<TlsConnector>,
}

/// What is asked of an instance.
pub(super) struct Asked<'a> {
    method: Method,
    path: &'a [&'a str],
    query: Option<String>,
    fields: Vec<(&'static str, String)>,
    body: Bytes,
}

impl<'a> Asked<'a> {
    /// For a resource below `/v1`.
    pub(super) fn get(path: &'a [&'a str]) -> Self {
        let body = Bytes::new();
        Self { method: Method::GET, path, query: None, fields: Vec::new(), body }
    }

    /// Away with a resource.
    pub(super) fn delete(path: &'a [&'a str]) -> Self {
        Self { method: Method::DELETE, ..Self::get(path) }
    }

    /// With a JSON document.
    pub(super) fn json(path: &'a [&'a str], document: &Value) -> Self {
        Self::octets(path, "application/json", document.to_string().into_bytes())
    }

    /// With these octets.
    pub(super) fn octets(path: &'a [&'a str], kind: &str, octets: Vec<u8>) -> Self {
        Self { method: Method::POST, body: octets.into(), ..Self::get(path) }
            .with(CONTENT_TYPE.as_str(), kind)
    }

    /// With a further field.
    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.fields.push((name, value.into()));
        self
    }

    /// At most so many entries.
    pub(super) fn limited(self, limit: u32) -> Self {
        Self { query: Some(format!("limit={limit}")), ..self }
    }
}

impl InstanceClient {
    /// Reads token and certificates.
    ///
    /// # Errors
    /// The URL cannot be used or would carry a token in clear; a file cannot be read.
    pub(super) fn new(arguments: &InstanceArguments) -> Result<Self, Failure> {
        let shown = crate::output::printable(&arguments.instance);
        let base = Url::parse(&arguments.instance)
            .ok()
            .filter(|url| ["http", "https"].contains(&url.scheme()) && url.has_host())
            .ok_or_else(|| {
                Failure::environment(format!("{shown} is no URL of an instance: https://HOST"))
            })?;
        let secure = base.scheme() == "https";
        let host = base.host_str().unwrap_or_default();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let here = address.map_or(host == "localhost", |address| address.is_loopback());
        if !secure && !here {
            let words =
                format!("{shown} has no TLS: the token would travel in clear; use https://");
            return Err(Failure::environment(words));
        }
        let token = Secret::from_file(&arguments.token_file).map_err(Failure::environment)?;
        let tls = secure.then(|| connector(arguments.ca_file.as_deref())).transpose()?;
        Ok(Self { base, token, tls })
    }

    /// Asks, and reads the answer as JSON; nothing is `null`.
    ///
    /// # Errors
    /// The instance cannot be reached, or says no.
    pub(super) fn ask(&self, asked: Asked<'_>) -> Result<Value, Failure> {
        let octets = self.ask_octets(asked)?;
        if octets.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&octets).map_err(|fault| {
            Failure::environment(format!("{} did not answer in JSON: {fault}", self.base))
        })
    }

    /// Asks, and reads the answer as it is.
    ///
    /// # Errors
    /// The instance cannot be reached, or says no.
    pub(super) fn ask_octets(&self, asked: Asked<'_>) -> Result<Vec<u8>, Failure> {
        let whole = async {
            match timeout(ANSWER_TIMEOUT, self.conversation(asked)).await {
                Ok(answer) => answer,
                Err(_) => Err(self.broken(&"it does not answer in time")),
            }
        };
        crate::runtime()?.block_on(whole)
    }

    fn broken(&self, why: &dyn std::fmt::Display) -> Failure {
        let base = self.base.as_str().trim_end_matches('/');
        Failure::environment(format!("the instance at {base} cannot be asked: {why}"))
    }

    async fn conversation(&self, asked: Asked<'_>) -> Result<Vec<u8>, Failure> {
        let mut url = self.base.clone();
        let unusable = |()| self.broken(&"the URL has no path");
        let mut path = url.path_segments_mut().map_err(unusable)?;
        path.pop_if_empty().push("v1").extend(asked.path);
        drop(path);
        url.set_query(asked.query.as_deref());
        let host = url.host_str().unwrap_or_default().to_owned();
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.clone(),
        };
        let target = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let mut request = Request::builder()
            .method(asked.method)
            .uri(target)
            .header(HOST, authority)
            .header(USER_AGENT, concat!("mailweir/", env!("CARGO_PKG_VERSION")))
            .header(AUTHORIZATION, format!("Bearer {}", self.token.expose()));
        for (name, value) in &asked.fields {
            // Octets, because a reason may be in any language.
            let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| {
                let shown = crate::output::printable(value);
                Failure::environment(format!("`{shown}` is not one line of text"))
            })?;
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(asked.body)).map_err(broken)?;
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = url.port_or_known_default().unwrap_or(443);
        let connecting = async {
            let stream = TcpStream::connect((bare.as_str(), port)).await?;
            let _ = stream.set_nodelay(true);
            match &self.tls {
                None => Ok(Either::Clear(stream)),
                Some(tls) => {
                    let name = ServerName::try_from(bare.clone())
                        .map_err(|fault| std::io::Error::other(fault.to_string()))?;
                    tls.connect(name, stream).await.map(|stream| Either::Tls(Box::new(stream)))
                }
            }
        };
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(Either::Clear(stream))) => self.answer(stream, request).await,
            Ok(Ok(Either::Tls(stream))) => self.answer(stream, request).await,
            Ok(Err(fault)) => Err(self.broken(&fault)),
            Err(_) => Err(self.broken(&"it does not take the connection in time")),
        }
    }

    /// Sends the request over a stream and reads the whole answer.
    async fn answer(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        request: Request<Full<Bytes>>,
    ) -> Result<Vec<u8>, Failure> {
        let started = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = started.map_err(|fault| self.broken(&fault))?;
        // Its faults come out of the request, too.
        let connection = tokio::spawn(connection);
        let sent = sender.send_request(request).await;
        let response = sent.map_err(|fault| self.broken(&fault))?;
        let status = response.status();
        let mut body = response.into_body();
        let mut octets = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|fault| self.broken(&fault))?;
            let Ok(data) = frame.into_data() else { continue };
            if octets.len() + data.len() > LARGEST_ANSWER {
                return Err(self.broken(&"its answer is too long"));
            }
            octets.extend_from_slice(&data);
        }
        connection.abort();
        if status.is_success() {
            return Ok(octets);
        }
        let advice = match status.as_u16() {
            401 => "; here it comes from --token-file",
            403 => "; the token is no publisher's",
            _ => "",
        };
        Err(Failure::refused(refusal("the instance", status, &octets, advice)))
    }
}

/// A connection, with TLS or without.
enum Either {
    Clear(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

/// TLS 1.2 and 1.3, with the roots of the machine or of a file.
fn connector(ca_file: Option<&std::path::Path>) -> Result<TlsConnector, Failure> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(broken)?;
    let config = match ca_file {
        None => {
            let verifier = rustls_platform_verifier::Verifier::new(provider).map_err(broken)?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
        Some(path) => {
            let unreadable = |fault: &dyn std::fmt::Display| {
                Failure::environment(format!("cannot use {}: {fault}", path.display()))
            };
            let mut roots = RootCertStore::empty();
            let found = CertificateDer::pem_file_iter(path).map_err(|fault| unreadable(&fault))?;
            for root in found {
                let root = root.map_err(|fault| unreadable(&fault))?;
                roots.add(root).map_err(|fault| unreadable(&fault))?;
            }
            if roots.is_empty() {
                return Err(unreadable(&"it holds no certificate in PEM form"));
            }
            builder.with_root_certificates(roots)
        }
    };
    Ok(TlsConnector::from(Arc::new(config.with_no_client_auth())))
}
