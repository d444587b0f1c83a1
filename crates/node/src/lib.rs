//! The shell: intake, DNS, TLS, signing, SMTP sockets and timers around the engine.

pub mod alerts;
pub mod clock;
pub mod config;
pub mod data_dir;
pub mod deliverability;
pub mod dkim;
pub mod dns;
pub mod dry_run;
pub mod inmail;
pub mod intake;
pub mod levels;
mod listener;
pub mod node;
pub mod nondeliverables;
pub mod prepare;
pub mod reactions;
pub mod recipients;
mod regular_file;
pub mod retention;
pub mod room;
pub mod runner;
pub mod sender;
pub mod smtp_client;
pub mod submission;
pub mod warm_up;
