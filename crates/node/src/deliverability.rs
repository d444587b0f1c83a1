//! Rules from a deliverability instance: keys, bundles from folders, and what is in force.
//!
//! [`rules::bundle`] knows the format; here is what needs a file, a clock or chance.
//!
//! - [`keys`] makes, keeps and uses Ed25519 keys.
//! - [`folder`] reads the files that a bundle is published from.
//! - A running node applies bundles and takes them back: [`Questions::apply_bundle`] and
//!   [`Questions::roll_back`]. What is in force is [`RulesInForce`], all kinds together.
//! - It follows an instance: asks it daily and on demand ([`Questions::sync_bundle`]), tells it how it fares, and sends it
//!   texts that nobody knows.
//!
//! [`Questions::apply_bundle`]: crate::node::Questions::apply_bundle
//! [`Questions::roll_back`]: crate::node::Questions::roll_back
//! [`Questions::sync_bundle`]: crate::node::Questions::sync_bundle

mod applying;
mod believing;
pub mod folder;
mod following;
mod instance;
pub mod keys;
mod layer;
mod schedule;
mod sharing;
mod sync;

pub(crate) use applying::to_the_end;
pub use applying::{Applied, ApplyFault, ApplyStep, DeliverabilityStatus};
pub(crate) use following::Following;
pub use following::{RulesInForce, Trouble};
pub use instance::{FetchFault, Report, ReportState, Target, TextsTaken};
pub use layer::{Layer, MxBase, Published};
pub use schedule::{LONGEST_RETRY_AFTER, SyncHistory, SyncSchedule};
pub use sharing::{SharedText, may_leave, shared};
pub use sync::{InstanceStatus, SyncCounts, SyncFault, SyncOutcome, SyncRecord, SyncStep, Synced};
pub(crate) use sync::{SyncDesk, keep_up, stored_record};

use rules::bundle::ClientVersion;

/// The version of this program, which a bundle's `minimum_client` is compared with.
///
/// # Panics
/// Never: the version in the manifest of the program is three numbers, and a test holds it.
#[must_use]
pub fn client_version() -> ClientVersion {
    env!("CARGO_PKG_VERSION").parse().expect("the program's version is three numbers")
}

#[cfg(test)]
mod tests;
