//! What every HTTP listener of ours has: bounded connections and bodies, bearer tokens, and one form for answers and errors.
//!
//! **Promise.** No client, however slow, large or silent, holds more than its share: connections, heads (64 KiB,
//! 10 s), bodies (size, rate, and the memory of all together), pauses in taking an answer and the TLS handshake are
//! bounded. Everything that is not 2xx is `application/problem+json` (RFC 9457).
//!
//! **How.** HTTP/1.1 by hyper over TCP, or over TLS 1.2 and 1.3 by rustls; what is served is a router of axum.
//!
//! **Absences.** No route, no role, no store, no clock beyond time-outs. No HTTP/2. No token is kept or shown.

mod bearer;
mod body;
mod handed;
mod listening;
mod patient;
mod problem;
mod tls;

pub use bearer::{TokenDigest, bearer_token, new_token};
pub use body::{Document, Incoming, Memory, expect_json, from_json, media_type};
pub use handed::Handed;
pub use listening::{Listeners, Times};
pub use problem::{Problem, json};
pub use tls::{Certificate, CertificateFault, TlsFiles};
