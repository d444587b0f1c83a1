//! The life of a message, decided.
//!
//! [`Engine`] never acts. It is told what happened ([`Event`]) and at what time, and answers what should
//! be done ([`Command`]). It owns no clock, socket, file, thread or source of chance, so the same code
//! runs live, in the simulator and in forecasts.
//!
//! # Contract
//! - [`Engine::handle`] takes events; [`Engine::decide`] draws the conclusions of all events since the
//!   last call; [`Engine::next_command`] hands out what is to be done, in order.
//! - Time never goes back from one call to the next. [`Engine::wake_at`] says when `decide` must be called
//!   even if nothing happens.
//! - Same settings, same seed, same events at the same times: same commands.
//!
//! # What it keeps, and what not
//! It holds a bounded window of due messages; the backlog stays in the store and is claimed in parts. It
//! never counts tokens or permits against a limit: it asks the quota ledger, and waits.

mod breaker;
mod connection;
mod delivery;
mod domain;
mod engine;
pub mod event;
pub mod explain;
mod group;
mod line;
mod opening;
mod outcome;
mod pass;
mod path;
pub mod qualify;
pub mod quarantine;
mod quota_words;
mod random;
pub mod reactions;
pub mod reason;
mod settings;
mod shaping;
mod sources;
mod tokens;
pub mod warm_up;
mod window;
pub mod work;

#[cfg(test)]
mod tests;

pub use engine::Engine;
pub use event::{Command, Event};
pub use path::RestCause;
pub use quota::PathKey;
pub use reason::{WaitReason, Waiting};
pub use settings::{BreakerSettings, Settings};
pub use sources::{Affinity, Source, Sources, SourcesFault};
