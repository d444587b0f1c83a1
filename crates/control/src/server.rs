//! Listening, and serving connections within bounds.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use node::config::HttpConfig;
use node::intake::Intake;
use node::node::Questions;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::Access;
use crate::app::App;
use crate::routes::router;
use crate::socket::Patient;

/// Connections at a time, over all listeners; more wait in the system's backlog.
const CONNECTIONS_MAX: usize = 1_024;
/// The bounds of a connection in time.
#[derive(Clone, Copy)]
struct Times {
    /// For the head of a request, and the longest pause between two requests.
    head: Duration,
    /// Longest pause in taking an answer.
    answer_pause: Duration,
}

const TIMES: Times = Times { head: Duration::from_secs(10), answer_pause: Duration::from_secs(60) };
/// Octets of a head.
const HEAD_OCTETS: usize = 64 << 10;
/// Fields of a head.
const HEAD_FIELDS: usize = 100;
/// How long requests that are under way at the shutdown may take.
const SHUTDOWN_TIME: Duration = Duration::from_secs(30);

/// The HTTP listeners of a node, bound and not yet serving.
pub struct HttpServer {
    listeners: Vec<StdListener>,
    config: HttpConfig,
    intake: Intake,
    questions: Questions,
}

impl HttpServer {
    /// Binds all addresses of the configuration. Without any, [`HttpServer::run`] only waits for the shutdown.
    ///
    /// # Errors
    /// An address cannot be bound (the error names it), or lies beyond loopback while there is no token.
    pub fn bind(config: &HttpConfig, intake: Intake, questions: Questions) -> io::Result<Self> {
        let mut listeners = Vec::with_capacity(config.listen.len());
        for address in &config.listen {
            if config.tokens.is_empty() && !address.ip().is_loopback() {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!(
                        "cannot listen for HTTP on {address} without tokens: state them in [http]"
                    ),
                ));
            }
            let listener = StdListener::bind(address)
                .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
                .map_err(|fault| {
                    let why = format!(
                        "cannot listen for HTTP on {address}: {fault}; stop the program that uses \
                         it or change `listen` in [http]"
                    );
                    io::Error::new(fault.kind(), why)
                })?;
            listeners.push(listener);
        }
        Ok(Self { listeners, config: config.clone(), intake, questions })
    }

    /// The addresses that are bound, with the ports that the system chose for port 0.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn local_addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.listeners.iter().map(StdListener::local_addr).collect()
    }

    /// Serves until `shutdown`; then finishes the requests that are under way, for at most 30 seconds.
    ///
    /// # Errors
    /// The system does not let the listeners be used.
    pub async fn run(self, shutdown: CancellationToken) -> io::Result<()> {
        let app = Arc::new(App::new(self.intake, self.questions, shutdown.clone()));
        let router = router(app, &Arc::new(Access::new(&self.config)));
        let connections = TaskTracker::new();
        let end = CancellationToken::new();
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut listening = Vec::with_capacity(self.listeners.len());
        for listener in self.listeners {
            let listener = Listening {
                listener: TcpListener::from_std(listener)?,
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

/// One listener at work.
struct Listening {
    listener: TcpListener,
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
                    let router = self.router.clone();
                    let (shutdown, end) = (self.shutdown.clone(), self.end.clone());
                    self.connections.spawn(async move {
                        serve(stream, router, TIMES, shutdown, end).await;
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

async fn serve(
    stream: TcpStream,
    router: Router,
    times: Times,
    shutdown: CancellationToken,
    end: CancellationToken,
) {
    // Small answers should not wait for each other; where the system refuses, they are only slower.
    let _ = stream.set_nodelay(true);
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
