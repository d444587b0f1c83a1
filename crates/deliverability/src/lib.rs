//! The deliverability instance: publishes bundles to clients in stages, and gathers the texts they could not qualify.
//!
//! **Promise.** A client is given the octets of a bundle exactly as they were pushed, never an older one than it has,
//! and never one that is halted. A bundle is kept whole or not at all; what was answered is on disk. Every change says
//! who made it and why, in an audit trail.
//!
//! **How.** [`config`] reads `instance.toml`; [`Instance`] decides over a [`database`] of its own; [`Server`] speaks
//! HTTP ([`web`] bounds it). Who gets which bundle is decided in [`rollout`], what people have to qualify is made in
//! [`work_list`]: both are pure. The time is handed in ([`Clock`]).
//!
//! **Absences.** No node, no mail, no private key: a bundle is signed by its publisher, elsewhere. No token is kept,
//! only its digest. No clock of its own.
//!
//! **When it fails.** A fault of the disk is answered with 503 and changes nothing; every other refusal says what was
//! wrong and what to do.

pub mod config;
pub mod database;
mod instance;
pub mod rollout;
mod server;
#[cfg(test)]
mod tests;
pub mod work_list;

use std::sync::Arc;

use mail::time::Timestamp;

pub use instance::{Instance, InstanceFault, Qualified, Qualify};
pub use server::{Server, StartFault};

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;
