//! HTTP: the endpoints of clients and of publishers.
//!
//! Two roles that never meet: a **client** (a token of the database) fetches bundles, sends texts and reports; a
//! **publisher** (a token of the configuration) does everything else. `/healthz` and `/readyz` are open and say only
//! that the server answers, and that its database does.
//!
//! Every request ends within `request_seconds`: one whose body does not come is answered with 408, one for which the
//! database or the threads have no time with 503 and Retry-After. Clients that ask too often are answered with 429.

mod access;
mod for_clients;
mod for_publishers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{MethodRouter, get, post};
use mail::time::Timestamp;
use serde::de::DeserializeOwned;
use store::StoreFault;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use web::{
    Certificate, Document, Incoming, Listeners, Memory, Problem, Times, expect_json, from_json,
};

use crate::config::Config;
use crate::instance::{Instance, InstanceFault};
use crate::{Clock, config};
use access::Frequency;

/// Memory that bodies being read may take together.
const BODIES_MEMORY: usize = 128 << 20;
/// Requests at work on the database, or waiting for it.
const AT_WORK: usize = 64;
/// How often roll-outs and old rows are looked after.
const LOOK_AFTER: Duration = Duration::from_secs(30);
/// A step of the clock that is no mere correction.
const CLOCK_JUMP: Duration = Duration::from_secs(600);
/// For so long nothing rests on a clock that has jumped.
const CLOCK_DISTRUST: Duration = Duration::from_secs(3_600);
/// Longest pause in taking an answer.
const ANSWER_PAUSE: Duration = Duration::from_secs(60);

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartFault {
    /// An address cannot be bound.
    #[error("{0}")]
    Listen(#[from] std::io::Error),
    /// The certificate cannot be used.
    #[error("{0}")]
    Certificate(#[from] web::CertificateFault),
    /// The data folder cannot be used.
    #[error("{0}")]
    Store(#[from] StoreFault),
}

/// What every handler has.
pub(crate) struct App {
    instance: Arc<Instance>,
    memory: Memory,
    at_work: Arc<Semaphore>,
    frequency: Frequency,
}

/// The state as handlers get it.
type Shared = Arc<App>;

/// An instance that listens, and is not serving yet.
pub struct Server {
    listeners: Listeners,
    certificate: Option<Certificate>,
    app: Shared,
}

impl Server {
    /// Opens the data folder and binds the addresses.
    ///
    /// # Errors
    /// See [`StartFault`].
    pub fn start(config: Config, clock: Clock) -> Result<Self, StartFault> {
        let certificate = config.tls.clone().map(Certificate::read).transpose()?;
        // Ports first: what is in use is said before anything moves.
        let times = Times { head: config.limits.head, answer_pause: ANSWER_PAUSE };
        let listeners = Listeners::bind(&config.listen, "the configuration")?;
        let listeners = listeners.with_tls(certificate.clone()).with_times(times);
        let frequency = Frequency::new(config.limits.requests_per_minute);
        let instance = Arc::new(Instance::open(config, clock)?);
        let (memory, at_work) = (Memory::new(BODIES_MEMORY), Arc::new(Semaphore::new(AT_WORK)));
        Ok(Self {
            listeners,
            certificate,
            app: Arc::new(App { instance, memory, at_work, frequency }),
        })
    }

    /// The addresses that are bound, with the ports that the system chose for port 0.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn local_addresses(&self) -> std::io::Result<Vec<std::net::SocketAddr>> {
        self.listeners.local_addresses()
    }

    /// Its certificate, to be read again when it was renewed; `None`: it listens in clear.
    #[must_use]
    pub fn certificate(&self) -> Option<Certificate> {
        self.certificate.clone()
    }

    /// Serves until `shutdown`, and looks after roll-outs meanwhile.
    ///
    /// # Errors
    /// The system does not let the listeners be used.
    pub async fn run(self, shutdown: CancellationToken) -> std::io::Result<()> {
        let caring = tokio::spawn(look_after(Arc::clone(&self.app.instance), shutdown.clone()));
        let ended = self.listeners.run(router(self.app), shutdown.clone()).await;
        shutdown.cancel();
        if let Err(fault) = caring.await {
            tracing::error!(%fault, "looking after roll-outs did not end in order");
        }
        ended
    }
}

async fn look_after(instance: Arc<Instance>, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(LOOK_AFTER);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut watch = ClockWatch::new(instance.now(), Instant::now());
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if !watch.trusts(instance.now(), Instant::now()) {
            continue;
        }
        let instance = Arc::clone(&instance);
        match tokio::task::spawn_blocking(move || instance.look_after()).await {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => tracing::error!("roll-outs cannot be looked after: {fault}"),
            Err(fault) => tracing::error!(%fault, "looking after roll-outs has panicked"),
        }
    }
}

/// Whether the wall clock has gone on as time did. After a jump nothing is forgotten and no stage goes on for a while: a
/// clock that is years ahead for half a minute would else take the whole audit trail with it.
struct ClockWatch {
    wall: Timestamp,
    seen: Instant,
    trusted_from: Instant,
}

impl ClockWatch {
    fn new(wall: Timestamp, now: Instant) -> Self {
        Self { wall, seen: now, trusted_from: now }
    }

    fn trusts(&mut self, wall: Timestamp, now: Instant) -> bool {
        let expected = self.wall + now.saturating_duration_since(self.seen);
        let jump = wall.since(expected).max(expected.since(wall));
        if jump > CLOCK_JUMP {
            self.trusted_from = now + CLOCK_DISTRUST;
            tracing::warn!(
                "the clock of this machine has jumped by {} s, to {wall}: for {} minutes nothing is forgotten and no stage \
                 goes on by itself",
                jump.as_secs(),
                CLOCK_DISTRUST.as_secs() / 60
            );
        }
        (self.wall, self.seen) = (wall, now);
        now >= self.trusted_from
    }
}

fn router(app: Shared) -> Router {
    let client = |handler: MethodRouter<Shared>| {
        let gate = axum::middleware::from_fn_with_state(Arc::clone(&app), access::clients_only);
        handler.route_layer(gate)
    };
    let publisher = |handler: MethodRouter<Shared>| {
        let gate = axum::middleware::from_fn_with_state(Arc::clone(&app), access::publishers_only);
        handler.route_layer(gate)
    };
    use for_clients as clients;
    use for_publishers as publishers;
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/v1/bundle", client(get(clients::bundle)))
        .route("/v1/report", client(post(clients::report)))
        // Clients send what they could not qualify to the place where publishers read it.
        .route("/v1/texts", client(post(clients::texts)).merge(publisher(get(publishers::texts))))
        .route("/v1/bundles", publisher(get(publishers::bundles).post(publishers::push)))
        .route("/v1/bundles/{version}", publisher(get(publishers::bundle)))
        .route("/v1/rollout", publisher(get(publishers::rollout).post(publishers::guide)))
        .route("/v1/clients", publisher(get(publishers::clients).post(publishers::add_client)))
        .route(
            "/v1/clients/{name}",
            publisher(get(publishers::client).delete(publishers::remove_client)),
        )
        .route("/v1/texts/export", publisher(get(publishers::export_texts)))
        .route("/v1/texts/rules", publisher(get(publishers::export_rules)))
        .route("/v1/texts/qualified", publisher(get(publishers::qualified)))
        .route(
            "/v1/texts/{key}",
            publisher(get(publishers::text).post(publishers::qualify).delete(publishers::withdraw)),
        )
        .route("/v1/audit", publisher(get(publishers::audit)))
        .fallback(async || Problem::not_found("no route has this path"))
        .method_not_allowed_fallback(async || {
            Problem::method_not_allowed("the field Allow names the methods")
        })
        // Bodies are bounded by the handlers, each in its own way.
        .layer(DefaultBodyLimit::disable())
        .layer(map_response(for_no_cache))
        .with_state(app)
}

/// Whether the database answers.
async fn readyz(
    axum::extract::State(app): axum::extract::State<Shared>,
) -> Result<&'static str, Problem> {
    app.ask(|instance| instance.trail(1)).await.map(|_| "ready\n")
}

/// Nobody on the way may keep an answer: each client has its own.
async fn for_no_cache(mut response: Response) -> Response {
    let fields = response.headers_mut();
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    fields.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

impl App {
    fn config(&self) -> &config::Config {
        self.instance.config()
    }

    /// Reads a body whole.
    async fn read(&self, body: Body, limit: usize) -> Result<Document, Problem> {
        let most = self.config().limits.request;
        let read = Incoming::new(body).whole(limit, &self.memory);
        match tokio::time::timeout(most, read).await {
            Ok(read) => read,
            Err(_) => {
                let words = format!("the body did not come whole within {} s", most.as_secs());
                Err(Problem::too_slow(words))
            }
        }
    }

    /// Reads a body that is one JSON object of at most `limit` octets.
    async fn read_json<T: DeserializeOwned>(
        &self,
        fields: &HeaderMap,
        body: Body,
        limit: usize,
    ) -> Result<T, Problem> {
        expect_json(fields)?;
        from_json(&self.read(body, limit).await?.octets)
    }

    /// Has the instance do something, on a thread that may wait for the disk.
    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Instance) -> Result<T, InstanceFault> + Send + 'static,
    ) -> Result<T, Problem> {
        let Ok(place) = Arc::clone(&self.at_work).try_acquire_owned() else {
            return Err(Problem::try_later("too many requests are at work"));
        };
        self.ask_at(place, work).await
    }

    /// The same, but waiting for its turn: for what belongs to an answer that has begun.
    async fn ask_in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Instance) -> Result<T, InstanceFault> + Send + 'static,
    ) -> Result<T, Problem> {
        let place = Arc::clone(&self.at_work).acquire_owned();
        match tokio::time::timeout(self.config().limits.request, place).await {
            Ok(Ok(place)) => self.ask_at(place, work).await,
            _ => Err(Problem::try_later("too many requests are at work")),
        }
    }

    async fn ask_at<T: Send + 'static>(
        &self,
        place: OwnedSemaphorePermit,
        work: impl FnOnce(&Instance) -> Result<T, InstanceFault> + Send + 'static,
    ) -> Result<T, Problem> {
        let instance = Arc::clone(&self.instance);
        let work = tokio::task::spawn_blocking(move || {
            let done = work(&instance);
            drop(place);
            done
        });
        match tokio::time::timeout(self.config().limits.request, work).await {
            Ok(Ok(done)) => done.map_err(problem),
            Ok(Err(fault)) => {
                tracing::error!(%fault, "a request has panicked");
                Err(Problem::try_later("the request met a fault of the server; see its log"))
            }
            Err(_) => Err(Problem::try_later(
                "the work takes longer than a request may; whether it is done is not known",
            )),
        }
    }
}

/// What somebody is told of a fault.
fn problem(fault: InstanceFault) -> Problem {
    use rules::bundle::BundleFault;
    let words = fault.to_string();
    match fault {
        InstanceFault::Store(fault) => {
            tracing::error!("the database: {fault}");
            Problem::try_later(words)
        }
        InstanceFault::Bundle(
            fault @ (BundleFault::Older { .. }
            | BundleFault::Leap { .. }
            | BundleFault::SameVersion { .. }),
        ) => Problem::conflict(fault.name(), words),
        InstanceFault::Bundle(fault) => {
            let faults: Vec<serde_json::Value> = match &fault {
                BundleFault::Rules { faults, .. } => faults
                    .iter()
                    .map(|fault| serde_json::json!({ "rendered": fault.render() }))
                    .collect(),
                _ => Vec::new(),
            };
            let problem = Problem::invalid(words).with("fault", fault.name());
            if faults.is_empty() { problem } else { problem.with("faults", faults) }
        }
        InstanceFault::Unknown(_) => Problem::not_found(words),
        InstanceFault::Refused(_) => Problem::conflict("refused", words),
        InstanceFault::Invalid(_) => Problem::invalid(words),
    }
}

/// An answer as JSON.
fn json(value: serde_json::Value) -> Response {
    web::json(&value)
}

#[cfg(test)]
mod tests;
