//! A mail internet on loopback: a DNS server, the MX hosts of providers with moods, a load source.
//!
//! The lab stands outside the engine and judges it. It shares no SMTP code with it, sees only what
//! comes over its sockets, and reports what it saw: for each provider and source the connections
//! open at once, the messages on one connection, the messages in every sliding hour, and every
//! message that came twice. [`Lab::start`] takes a [`LabConfig`], from a file or built in code
//! ([`internet`] has ready ones); [`load::run`] is an SMTP client that goes as fast as the other
//! side lets it. What was taken may come back as late bounces, complaints and out-of-office replies
//! ([`ReturnsConfig`]).
//!
//! Nothing of the lab listens or leads outside 127.0.0.0/8; a configuration that would is refused.
//! It is bounded in connections, line lengths, memory per connection and time of every wait, so it
//! can be offered anything.

mod body;
mod chance;
pub mod command;
mod config;
mod connection;
mod dns;
pub mod internet;
mod lab;
pub mod load;
mod mood;
mod octets;
mod recorder;
pub mod report;
mod returns;
mod session;
mod site;
mod span;
mod wording;

pub use body::body_hash;
pub use config::{
    Alias, DnsFaults, LabConfig, MxConfig, Promise, ProviderConfig, SourceName, TextRecord,
};
pub use lab::Lab;
pub use mood::{Mood, StartTls};
pub use report::{Counts, Report};
pub use returns::ReturnsConfig;
pub use span::Span;
pub use wording::{Situation, Wording};
