//! The HTTP listener: intake API, explain, quarantine, unsubscription, statistics, metrics, health.
//!
//! **Promise.** A 2xx answer to something handed over leaves after the commit is on disk. Any other answer is
//! `application/problem+json` and says what was wrong, where, and what to do; 503 has Retry-After and means that
//! nothing was accepted (a list of recipients that breaks off says how many were). A request with an
//! `Idempotency-Key` takes effect once.
//!
//! **How.** HTTP/1.1 by hyper, routes by axum from the one table in `routes`, which also says what role each needs;
//! `openapi.json` describes the same table and is served at `/api/v1/openapi.json`. Every request turns into calls of
//! [`node::intake::Intake`] and [`node::node::Questions`]; nothing is decided here.
//!
//! **Bounds.** Connections, heads (64 KiB, 10 s), documents (size and the memory of all together), pauses in a body
//! and in taking an answer (60 s), the time for store and engine to answer, page sizes. Lists of recipients are
//! streamed: their length has no bound and no influence on memory.
//!
//! **Absences.** No TLS here (put a proxy in front, beyond loopback), no HTTP/2, no cookies, no token in a query, no
//! domain or address as a metric's label.

mod access;
mod app;
mod deliverability;
mod deliveries;
mod explain;
mod forms;
mod ledger;
mod levels;
mod messages;
mod metrics;
mod paths;
mod problem;
mod qualifications;
mod quarantine;
mod reactions;
mod recipients;
mod repairs;
mod routes;
mod server;
mod stat;
mod suppression;
mod transfer;
mod unsubscribe;
mod warm_up;

pub use server::HttpServer;
