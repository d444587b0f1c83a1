//! The submission listener: SMTP (RFC 6409, 5321) from applications into the queue.
//!
//! **Promise.** The 250 after the final dot, or after `BDAT ... LAST`, is written only after
//! [`Intake::submit`] has answered, which is after the commit is on disk. Its text names the
//! messages: `250 2.0.0 accepted as m12-m15`. Whatever else is answered, and whenever the
//! connection breaks before that, nothing was queued, with one exception: a commit that takes longer
//! than [`SubmissionBounds::store_timeout`], or than the patience of a shutdown, is not waited for and
//! may still happen, so that the client's next try makes a duplicate unless it has an idempotency key.
//!
//! **Who may send.** On a listener bound to loopback everybody, unless the configuration asks for
//! AUTH there. Beyond loopback only users that have logged in under TLS. Mail of a user has the
//! user's affinity and priority, and the user's name as tenant; mail of nobody has the affinity
//! `default`, high priority and the tenant `smtp`.
//!
//! **Options in the header**, read and removed before the message is stored: `X-Mailweir-Priority`
//! (`high`, `normal`, `low`), `X-Mailweir-Affinity` (a name of the configuration),
//! `X-Mailweir-Idempotency-Key` (1 to 255 visible ASCII characters; the same message with the same key
//! is queued once and answered with the numbers it got first).
//!
//! **What is added**: one `Received` field. Date and Message-ID are added when the message is
//! prepared for sending, if it has none.
//!
//! **What is bounded**: connections in all and by peer, memory for content over all connections, every
//! wait. A store that does not take anything gives 451 4.3.0, a full disk or memory 452 4.3.1.
//!
//! Sockets and connections are those of [`crate::listener`]; the store's writer puts the messages that
//! wait into one commit.

use std::net::SocketAddr;
use std::sync::Arc;

use mail::reply::Reply;
use mail::time::Timestamp;
use smtp::server::{Access, OfferedRecipient, ReceivedMessage, ServerLimits, ServerSettings};
use tokio_util::sync::CancellationToken;

use crate::config::SubmissionConfig;
use crate::intake::Intake;
pub use crate::listener::{BindFault, Bounds as SubmissionBounds, Counts as SubmissionCounts};
use crate::listener::{Desk, Doors, Peer};
use users::Users;

mod message;
#[cfg(test)]
mod tests;
mod users;

/// Room that our `Received` field may take beside the largest message.
const TRACE_OCTETS: usize = 4_096;

/// Says in a few words why no mail is taken now (the disk is almost full, the queue too long), or
/// nothing. It is asked for every recipient and must not wait.
pub type Pressure = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// What becomes of submitted messages.
struct Submitting {
    bounds: SubmissionBounds,
    host_name: String,
    users: Users,
    pressure: Option<Pressure>,
    counts: Arc<SubmissionCounts>,
    intake: Intake,
}

impl Desk for Submitting {
    fn now(&self) -> Timestamp {
        self.intake.now()
    }

    /// Refuses recipients while no mail can be taken, so that nobody sends content in vain.
    fn refuse(&self, offered: &OfferedRecipient<'_>) -> Option<Reply> {
        if offered.recipient == "postmaster" {
            return Some(Reply::line(553, "5.1.3 postmaster needs a domain here"));
        }
        if let Some(why) = self.pressure.as_ref().and_then(|pressure| pressure()) {
            return Some(Reply::line(452, &format!("4.3.1 {}", message::one_line(&why))));
        }
        if let Err(fault) = self.intake.health() {
            return Some(message::reply_to(&fault.into()));
        }
        let mailbox = mail::address::Mailbox::parse(offered.recipient).ok()?;
        self.intake.refused(&mailbox).map(|why| message::not_written_to(&why))
    }

    fn may_log_in(&self, user: &str, password: &str) -> bool {
        self.users.may_log_in(user, password)
    }

    async fn take(self: Arc<Self>, peer: Peer, message: ReceivedMessage) -> Reply {
        message::accept(&self, peer, message).await
    }
}

/// Listeners that are bound and not yet at work.
pub struct Submission {
    doors: Doors,
    bounds: SubmissionBounds,
    host_name: String,
    users: Users,
    pressure: Option<Pressure>,
}

impl core::fmt::Debug for Submission {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        out.debug_struct("Submission").field("addresses", &self.addresses()).finish_non_exhaustive()
    }
}

impl Submission {
    /// Binds every address of the configuration (none: there will be nothing to do). Must be called
    /// within a tokio runtime.
    ///
    /// # Errors
    /// An address that cannot be listened on, or a certificate that cannot be used.
    pub fn bind(config: &SubmissionConfig, bounds: SubmissionBounds) -> Result<Self, BindFault> {
        let mut doors = Doors::new("submission", config.tls.as_ref(), bounds.clone())?;
        for &wanted in &config.listen {
            doors.tcp(wanted, |address| {
                settings(config, &bounds, address.ip().to_canonical().is_loopback())
            })?;
        }
        Ok(Self {
            doors,
            bounds,
            host_name: config.hostname.as_str().to_owned(),
            users: Users::new(&config.users),
            pressure: None,
        })
    }

    /// Asks `pressure` before taking recipients; where it has something to say they get 452 4.3.1.
    #[must_use]
    pub fn with_pressure(mut self, pressure: Pressure) -> Self {
        self.pressure = Some(pressure);
        self
    }

    /// The addresses that are listened on, with the ports that the system chose.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.doors.addresses().to_vec()
    }

    /// Figures for metrics, live.
    #[must_use]
    pub fn counts(&self) -> Arc<SubmissionCounts> {
        self.doors.counts()
    }

    /// Takes connections until `shutdown`. Then no more are taken, idle ones get 421, and those
    /// with a message in hand may finish it within the patience of the bounds. Returns when the last has
    /// ended; after it the node itself may end. Dropping this future cuts all connections.
    pub async fn run(self, intake: Intake, shutdown: CancellationToken) {
        let counts = self.doors.counts();
        let Self { doors, bounds, host_name, users, pressure } = self;
        let desk = Submitting { bounds, host_name, users, pressure, counts, intake };
        doors.run(Arc::new(desk), shutdown).await;
    }
}

/// How a listener behaves. Whether it is on loopback is decided by what it is bound to and not by
/// who connects: behind a proxy on this machine everybody seems to be here.
fn settings(
    config: &SubmissionConfig,
    bounds: &SubmissionBounds,
    loopback: bool,
) -> ServerSettings {
    let open = loopback && !config.require_auth_on_loopback;
    let largest = (store::CONTENT_LIMIT - TRACE_OCTETS) as u64;
    ServerSettings {
        host_name: config.hostname.as_str().to_owned(),
        lmtp: false,
        starttls: config.tls.is_some(),
        tls_required: !loopback,
        logins: !config.users.is_empty(),
        auth_in_clear: loopback && !config.users.is_empty(),
        access: if open { Access::Everybody } else { Access::Authenticated },
        limits: ServerLimits {
            message_octets: config.max_message_bytes.min(largest),
            // The limit is the first count that is refused.
            received_fields: 101,
            ..ServerLimits::default()
        },
        command_timeout: bounds.command_timeout,
        data_timeout: bounds.data_timeout,
    }
}
