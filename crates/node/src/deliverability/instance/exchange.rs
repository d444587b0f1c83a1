//! One request to an instance and its answer, over a connection of its own.
//!
//! **Promise.** The host's addresses are found and checked here, and only a checked one is connected to: nothing
//! between the check and the connection asks DNS again. Every wait is bounded, and the whole by one limit that a
//! server cannot stretch by sending a little now and then. An answer is whole or an error; nothing of it is larger
//! than the caller allows, before and after unpacking. The token goes to nobody but the configured origin.
//!
//! **Absences.** No connection is kept, no cookie, no proxy, no download goes on where another ended.

use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue,
    LOCATION, USER_AGENT,
};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use super::fault::FetchFault;
use super::target::Target;
use crate::config::{InstanceConfig, TargetPolicy, TargetRefused};
use crate::dns::Resolver;
use crate::smtp_client::TlsClients;

/// Redirections that are followed.
const MOST_REDIRECTIONS: usize = 3;
/// Addresses of a host that are tried.
const MOST_ADDRESSES: usize = 4;
/// Octets of the head of an answer.
const LARGEST_HEAD: usize = 64 * 1024;
/// Fields of the head of an answer.
const MOST_FIELDS: usize = 64;

/// What is asked.
pub(super) struct Asked {
    pub(super) method: Method,
    /// Below the instance's URL.
    pub(super) path: &'static str,
    pub(super) fields: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Bytes,
    /// Octets of the answer's body, packed and unpacked.
    pub(super) largest: u64,
}

/// What came back, whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) fields: HeaderMap,
    pub(super) body: Vec<u8>,
}

/// What every request needs.
pub(super) struct Exchange<'a> {
    pub(super) config: &'a InstanceConfig,
    pub(super) resolver: &'a Resolver,
    pub(super) tls: &'a TlsClients,
}

impl Exchange<'_> {
    /// Asks and waits for the whole answer, at most `total_timeout`.
    pub(super) async fn ask(&self, asked: Asked) -> Result<Answer, FetchFault> {
        let limit = self.config.total_timeout;
        match tokio::time::timeout(limit, self.follow(asked)).await {
            Ok(answer) => answer,
            Err(_) => Err(FetchFault::Slow { what: "the whole answer", limit }),
        }
    }

    /// Follows redirections of what is only read.
    async fn follow(&self, asked: Asked) -> Result<Answer, FetchFault> {
        let origin = self.config.url.below(asked.path);
        let mut target = origin.clone();
        for _ in 0..=MOST_REDIRECTIONS {
            let known = target.same_origin(&origin);
            let response = self.request(&target, &asked, known).await?;
            let status = response.response.status();
            if !status.is_redirection() || status == StatusCode::NOT_MODIFIED {
                return self.whole(response, asked.largest).await;
            }
            if asked.method != Method::GET {
                return Err(FetchFault::redirection(&target, "only a fetch is followed"));
            }
            let location = response.response.headers().get(LOCATION);
            let location = location.and_then(|value| value.to_str().ok());
            let location = location
                .ok_or_else(|| FetchFault::redirection(&target, "it does not say where to"))?;
            let next =
                target.follow(location).map_err(|why| FetchFault::redirection(&target, why))?;
            if target.is_secure() && !next.is_secure() {
                return Err(FetchFault::redirection(&target, format!("{next} has no TLS")));
            }
            target = next;
        }
        let why = format!("more than {MOST_REDIRECTIONS} one after the other");
        Err(FetchFault::redirection(&target, why))
    }

    /// One request to one target; the head of its answer.
    async fn request(
        &self,
        target: &Target,
        asked: &Asked,
        with_token: bool,
    ) -> Result<Begun, FetchFault> {
        let mut request = Request::builder()
            .method(asked.method.clone())
            .uri(target.path())
            .header(HOST, target.authority())
            .header(USER_AGENT, concat!("mailweir/", env!("CARGO_PKG_VERSION")));
        if with_token {
            let token = format!("Bearer {}", self.config.token.expose());
            let mut token = HeaderValue::try_from(token).map_err(FetchFault::broken)?;
            token.set_sensitive(true);
            request = request.header(AUTHORIZATION, token);
        }
        for (name, value) in &asked.fields {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(asked.body.clone())).map_err(FetchFault::broken)?;
        let stream = self.connect(target).await?;
        if !target.is_secure() {
            return self.converse(stream.0, request).await;
        }
        let (stream, address) = stream;
        let host = target.host().to_owned();
        let limit = self.config.connect_timeout;
        let handshake = self.tls.handshake(stream, &host, address, true);
        let (stream, _) = tokio::time::timeout(limit, handshake)
            .await
            .map_err(|_| FetchFault::Slow { what: "the TLS handshake", limit })?
            .map_err(|why| FetchFault::Tls { host, why })?;
        self.converse(stream, request).await
    }

    /// Sends the request and waits for the head of the answer.
    async fn converse<S>(
        &self,
        stream: S,
        request: Request<Full<Bytes>>,
    ) -> Result<Begun, FetchFault>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limit = self.config.read_timeout;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(LARGEST_HEAD)
            .max_headers(MOST_FIELDS)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(FetchFault::broken)?;
        // Its errors come out of the request, too.
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            let _ = connection.await;
        }));
        let response = tokio::time::timeout(limit, sender.send_request(request))
            .await
            .map_err(|_| FetchFault::Slow { what: "the head of the answer", limit })?
            .map_err(FetchFault::of_http)?;
        Ok(Begun { response, _connection: connection })
    }

    /// Connects to the first address that is allowed and answers.
    async fn connect(&self, target: &Target) -> Result<(TcpStream, IpAddr), FetchFault> {
        let limit = self.config.connect_timeout;
        let mut last = None;
        for address in self.addresses(target).await?.into_iter().take(MOST_ADDRESSES) {
            let connecting = TcpStream::connect(SocketAddr::new(address, target.port()));
            let fault = match tokio::time::timeout(limit, connecting).await {
                Ok(Ok(stream)) => return Ok((stream, address)),
                Ok(Err(fault)) => FetchFault::Connect {
                    host: target.authority(),
                    address,
                    why: fault.to_string(),
                },
                Err(_) => FetchFault::Slow { what: "the connection", limit },
            };
            last = Some(fault);
        }
        Err(last.unwrap_or_else(|| FetchFault::NoAddress {
            host: target.host().to_owned(),
            why: "it has none".to_owned(),
        }))
    }

    /// The addresses of a target that may be connected to; not empty.
    async fn addresses(&self, target: &Target) -> Result<Vec<IpAddr>, FetchFault> {
        let found = match target.address() {
            Some(address) => vec![address],
            None if target.means_this_machine() => {
                vec![IpAddr::from([127, 0, 0, 1]), std::net::Ipv6Addr::LOCALHOST.into()]
            }
            None => {
                let found = self.resolver.addresses(target.host()).await;
                found.map_err(|why| FetchFault::NoAddress {
                    host: target.host().to_owned(),
                    why: why.to_string(),
                })?
            }
        };
        let (mut allowed, mut refused) = (Vec::new(), None);
        for address in found {
            match permitted(self.config, target, address) {
                Ok(()) => allowed.push(address),
                Err(fault) => refused = Some(fault),
            }
        }
        match refused {
            Some(fault) if allowed.is_empty() => Err(fault),
            _ => Ok(allowed),
        }
    }

    /// Reads the body to its end and unpacks it.
    async fn whole(&self, begun: Begun, largest: u64) -> Result<Answer, FetchFault> {
        let Begun { response, _connection: connection } = begun;
        let (head, mut body) = response.into_parts();
        let announced = head.headers.get(CONTENT_LENGTH);
        let announced = announced.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|octets| octets > largest) {
            return Err(FetchFault::TooLarge { most: largest });
        }
        let limit = self.config.read_timeout;
        let mut octets = Vec::new();
        loop {
            let frame = tokio::time::timeout(limit, body.frame())
                .await
                .map_err(|_| FetchFault::Slow { what: "the next part of the answer", limit })?;
            let Some(frame) = frame else { break };
            let Ok(data) = frame.map_err(FetchFault::of_http)?.into_data() else { continue };
            if (octets.len() + data.len()) as u64 > largest {
                return Err(FetchFault::TooLarge { most: largest });
            }
            octets.extend_from_slice(&data);
        }
        drop(connection);
        let body = match head.headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes) {
            None | Some(b"identity") => octets,
            Some(b"gzip") => unpacked(octets, largest).await?,
            Some(_) => {
                return Err(FetchFault::broken("it is packed in a way that nobody asked for"));
            }
        };
        Ok(Answer { status: head.status, fields: head.headers, body })
    }
}

/// An answer of which the head has come.
struct Begun {
    response: Response<Incoming>,
    _connection: AbortOnDropHandle<()>,
}

/// Whether this address may be connected to for this target.
///
/// This machine is meant only where the operator wrote it as that; a redirection or DNS leads there only with
/// `allow_private`. Without TLS the token is told to nobody beyond this machine, or with `allow_private` beyond private networks.
pub(super) fn permitted(
    config: &InstanceConfig,
    target: &Target,
    address: IpAddr,
) -> Result<(), FetchFault> {
    let loopback = address.to_canonical().is_loopback();
    let meant = config.url.means_this_machine() && target.means_this_machine() && loopback;
    let policy = TargetPolicy {
        only_targets: Vec::new(),
        allow_private_targets: config.allow_private || meant,
    };
    let host = target.authority();
    policy.check(address).map_err(|refused| {
        let kind = match refused {
            TargetRefused::Private { kind, .. } | TargetRefused::NoHost { kind, .. } => kind,
            TargetRefused::NotListed(_) => "not listed",
        };
        FetchFault::Forbidden { host: host.clone(), address, kind }
    })?;
    let inside = TargetPolicy { only_targets: Vec::new(), allow_private_targets: false };
    let own_network = config.allow_private && !inside.allows(address);
    if !target.is_secure() && !loopback && !own_network {
        let kind = "another machine, and there is no TLS";
        return Err(FetchFault::Forbidden { host, address, kind });
    }
    Ok(())
}

/// Unpacks gzip. Nothing beyond the bound is ever unpacked, whatever was packed.
async fn unpacked(packed: Vec<u8>, largest: u64) -> Result<Vec<u8>, FetchFault> {
    let unpacking = tokio::task::spawn_blocking(move || {
        let mut octets = Vec::new();
        let mut reader = flate2::bufread::GzDecoder::new(packed.as_slice());
        let read = reader.by_ref().take(largest + 1).read_to_end(&mut octets);
        match read {
            Ok(read) if read as u64 > largest => Err(FetchFault::TooLarge { most: largest }),
            Ok(_) if !reader.into_inner().is_empty() => {
                Err(FetchFault::broken("something stands behind the packed answer"))
            }
            Ok(_) => Ok(octets),
            Err(fault) if fault.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(FetchFault::CutOff)
            }
            Err(fault) => Err(FetchFault::broken(format!("it cannot be unpacked: {fault}"))),
        }
    });
    unpacking.await.map_err(FetchFault::broken)?
}

/// How long the instance wants to be left alone: seconds, as the protocol has them.
pub(super) fn retry_after(fields: &HeaderMap) -> Option<Duration> {
    let value = fields.get(hyper::header::RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}
