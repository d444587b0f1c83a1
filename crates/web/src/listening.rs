//! Listening, and serving connections within bounds.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{Version, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::patient::Patient;
use crate::problem::Problem;
use crate::tls::Certificate;

/// Connections at a time, over all listeners; more wait in the system's backlog.
const CONNECTIONS_MAX: usize = 1_024;
/// The bounds of a connection in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// For the TLS handshake, for the head of a request, and the longest pause between two requests.
    pub head: Duration,
    /// Longest pause in taking an answer.
    pub answer_pause: Duration,
}

impl Default for Times {
    fn default() -> Self {
        TIMES
    }
}

const TIMES: Times = Times { head: Duration::from_secs(10), answer_pause: Duration::from_secs(60) };
/// Octets of a head.
const HEAD_OCTETS: usize = 64 << 10;
/// Fields of a head.
const HEAD_FIELDS: usize = 100;
/// How long requests that are under way at the shutdown may take.
const SHUTDOWN_TIME: Duration = Duration::from_secs(30);

/// Listeners, bound and not yet serving.
pub struct Listeners {
    bound: Vec<StdListener>,
    tls: Option<Certificate>,
    times: Times,
}

impl Listeners {
    /// Binds all addresses. Without any, [`Listeners::run`] only waits for the shutdown.
    ///
    /// # Errors
    /// An address cannot be bound; the error names it and says what to do, for which `stated_in` tells where the
    /// addresses are stated.
    pub fn bind(addresses: &[SocketAddr], stated_in: &str) -> io::Result<Self> {
        let mut bound = Vec::with_capacity(addresses.len());
        for address in addresses {
            let listener = StdListener::bind(address)
                .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
                .map_err(|fault| {
                    let why = format!(
                        "cannot listen for HTTP on {address}: {fault}; stop the program that uses \
                         it or change `listen` in {stated_in}"
                    );
                    io::Error::new(fault.kind(), why)
                })?;
            bound.push(listener);
        }
        Ok(Self { bound, tls: None, times: TIMES })
    }

    /// Speaks TLS on all of them.
    #[must_use]
    pub fn with_tls(self, tls: Option<Certificate>) -> Self {
        Self { tls, ..self }
    }

    /// With other bounds in time.
    #[must_use]
    pub fn with_times(self, times: Times) -> Self {
        Self { times, ..self }
    }

    /// The addresses that are bound, with the ports that the system chose for port 0.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn local_addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.bound.iter().map(StdListener::local_addr).collect()
    }

    /// Serves until `shutdown`; then finishes the requests that are under way, for at most 30 seconds.
    ///
    /// # Errors
    /// The system does not let the listeners be used.
    pub async fn run(self, router: Router, shutdown: CancellationToken) -> io::Result<()> {
        let router = router.layer(from_fn(name_one_host));
        let connections = TaskTracker::new();
        let end = CancellationToken::new();
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut listening = Vec::with_capacity(self.bound.len());
        for listener in self.bound {
            let listener = Listening {
                listener: TcpListener::from_std(listener)?,
                tls: self.tls.clone(),
                times: self.times,
                router: router.clone(),
                room: Arc::clone(&room),
                connections: connections.clone(),
                shutdown: shutdown.clone(),
                end: end.clone(),
            };
            listening.push(tokio::spawn(listener.accept()));
        }
        shutdown.cancelled().await;
        for task in listening {
            if let Err(fault) = task.await {
                tracing::error!(%fault, "a listener for HTTP did not end in order");
            }
        }
        connections.close();
        if timeout(SHUTDOWN_TIME, connections.wait()).await.is_err() {
            tracing::warn!(
                left = connections.len(),
                "HTTP requests are broken off at the shutdown"
            );
            end.cancel();
            connections.wait().await;
        }
        Ok(())
    }
}

/// Refuses a request that names no host or more than one (RFC 9112, 3.2): what stands in front of us could have let it
/// through for the other.
async fn name_one_host(request: Request, next: Next) -> Response {
    let named = request.headers().get_all(header::HOST).iter().count();
    if named > 1 || (named == 0 && request.version() == Version::HTTP_11) {
        return Problem::unreadable("a request names its host once, in the field Host")
            .into_response();
    }
    next.run(request).await
}

/// One listener at work.
struct Listening {
    listener: TcpListener,
    tls: Option<Certificate>,
    times: Times,
    router: Router,
    room: Arc<Semaphore>,
    connections: TaskTracker,
    shutdown: CancellationToken,
    end: CancellationToken,
}

impl Listening {
    async fn accept(self) {
        loop {
            let next = async {
                let place = Arc::clone(&self.room).acquire_owned().await.ok()?;
                Some((place, self.listener.accept().await))
            };
            let accepted = tokio::select! {
                () = self.shutdown.cancelled() => return,
                next = next => next,
            };
            match accepted {
                // The semaphore is never closed.
                None => return,
                Some((place, Ok((stream, _)))) => {
                    let (router, tls, times) = (
                        self.router.clone(),
                        self.tls.as_ref().map(Certificate::current),
                        self.times,
                    );
                    let (shutdown, end) = (self.shutdown.clone(), self.end.clone());
                    self.connections.spawn(async move {
                        // Small answers should not wait for each other; where the system refuses, they are
                        // only slower.
                        let _ = stream.set_nodelay(true);
                        match tls {
                            None => serve(stream, router, times, shutdown, end).await,
                            Some(tls) => {
                                if let Some(stream) = shaken(stream, &tls, times, &shutdown).await {
                                    serve(stream, router, times, shutdown, end).await;
                                }
                            }
                        }
                        drop(place);
                    });
                }
                Some((_, Err(fault))) => {
                    tracing::warn!(%fault, "a connection for HTTP could not be accepted");
                    // Out of file descriptors, say: trying at once would only burn the processor.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// The handshake of TLS; `None`: there was none in time.
async fn shaken(
    stream: TcpStream,
    tls: &TlsAcceptor,
    times: Times,
    shutdown: &CancellationToken,
) -> Option<tokio_rustls::server::TlsStream<TcpStream>> {
    let shaken = tokio::select! {
        () = shutdown.cancelled() => return None,
        shaken = timeout(times.head, tls.accept(stream)) => shaken,
    };
    match shaken {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(fault)) => {
            tracing::debug!(%fault, "a handshake of TLS failed");
            None
        }
        Err(_) => {
            tracing::debug!("a handshake of TLS took too long");
            None
        }
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    times: Times,
    shutdown: CancellationToken,
    end: CancellationToken,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(times.head)
        .max_buf_size(HEAD_OCTETS)
        .max_headers(HEAD_FIELDS)
        .serve_connection(
            TokioIo::new(Patient::new(stream, times.answer_pause)),
            TowerToHyperService::new(router),
        );
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = &mut connection => ended,
                () = end.cancelled() => return,
            }
        }
    };
    if let Err(fault) = ended {
        tracing::debug!(%fault, "a connection for HTTP ended with a fault");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Serves one connection with short times; answers the client's end.
    async fn connected(router: Router, times: Times) -> (TcpStream, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let (shutdown, end) = (CancellationToken::new(), CancellationToken::new());
        (client, tokio::spawn(serve(stream, router, times, shutdown, end)))
    }

    const SHORT: Times =
        Times { head: Duration::from_millis(50), answer_pause: Duration::from_millis(50) };

    #[tokio::test]
    async fn a_head_that_does_not_end_is_given_up() {
        let (mut client, served) = connected(Router::new(), SHORT).await;
        client.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ").await.unwrap();
        timeout(Duration::from_secs(5), served).await.unwrap().unwrap();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        assert!(!rest.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&rest));
    }

    #[tokio::test]
    async fn an_endless_head_is_given_up() {
        let long = Times { head: Duration::from_secs(60), ..SHORT };
        let (mut client, served) = connected(Router::new(), long).await;
        client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        while client.write_all(&[b'a'; 4_096]).await.is_ok() {
            tokio::task::yield_now().await;
        }
        timeout(Duration::from_secs(5), served).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_given_up() {
        let large = Router::new().fallback(async || vec![b'a'; 64 << 20]);
        let (mut client, served) = connected(large, SHORT).await;
        client.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        timeout(Duration::from_secs(5), served).await.unwrap().unwrap();
    }
}
