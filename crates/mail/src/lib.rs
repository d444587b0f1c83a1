//! The words of mail and its wire formats.
//!
//! Everything in this crate is pure: no clock, socket, file, thread or system randomness.
//! The other crates share these words, so each has one meaning:
//!
//! - [`time`]: one strictly increasing time, made in one place of the shell.
//! - [`id`]: numbers that name deliveries, messages, sources and connections.
//! - [`reply`]: what a remote server said, byte for byte.
//! - [`attempt`]: the stages of an SMTP conversation and what an attempt led to.
//! - [`failure`]: why mail did not arrive: reasons and types.
//! - [`route`]: from the answers of DNS to the hosts and targets of a domain.
//! - [`address`]: mailboxes and domains (RFC 5321, 6531, 5890).
//! - [`mask`]: the `*` and `?` patterns of MX rules and source filters.
//! - [`incoming`]: bounces, complaints, auto-replies and other mail that comes back.
//! - [`verp`]: return paths that name the message they belong to, with a keyed MAC.
//! - [`compose`]: from header fields and bodies to the octets of a message.

pub mod address;
pub mod attempt;
pub mod compose;
pub mod failure;
pub mod id;
pub mod incoming;
pub mod mask;
pub mod reply;
pub mod route;
pub mod time;
pub mod verp;
