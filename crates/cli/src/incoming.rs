//! Mail that comes back to a node, from the moment its ports are bound until it has ended.
//!
//! It is opened after the node, because the node records what is read, and ends before it for the same reason.

use std::net::SocketAddr;
use std::sync::Arc;

use node::inmail::{Bound, InmailCounts, OpenFault};
use node::node::Node;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// All ways in of a running node.
pub(crate) struct Incoming {
    /// The SMTP addresses that are listened on.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Figures, live.
    pub(crate) counts: Arc<InmailCounts>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Incoming {
    /// Begins to take and to read mail, until `stop`.
    ///
    /// # Errors
    /// The folder for it cannot be used, or TLS not be set up.
    pub(crate) fn begin(
        bound: Bound,
        node: &Node,
        stop: CancellationToken,
    ) -> Result<Self, OpenFault> {
        let inmail = bound.open(&node.intake())?;
        let room = node.intake();
        let inmail = inmail
            .with_pressure(Arc::new(move || room.health().err().map(|sick| sick.to_string())));
        let (addresses, counts) = (inmail.smtp_addresses(), inmail.counts());
        let nondeliverables = node.nondeliverables();
        nondeliverables.watch_inmail(Arc::clone(&counts));
        let task = tokio::spawn(inmail.run(nondeliverables.returned_mail(), stop.clone()));
        Ok(Self { addresses, counts, stop, task })
    }

    /// Takes no more mail, and lets what is in hand be read and recorded.
    pub(crate) async fn end(self) {
        self.stop.cancel();
        if let Err(fault) = self.task.await {
            tracing::error!(%fault, "the reading of incoming mail has panicked");
        }
    }
}
