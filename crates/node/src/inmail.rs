//! Mail that comes in: bounces, complaints, answers, unsubscriptions.
//!
//! **Promise.** Every mail is on the disk of this machine before anybody is told so: before the 250 of
//! a listener, before a message is deleted from a mailbox, before a spooled file is removed. From there
//! it is handed to a [`Processor`] until that has answered. Whatever fails, the rest goes on, and what
//! failed is tried again.
//!
//! **Ways in.** SMTP and LMTP listeners for the return-path domains, POP3 and IMAP mailboxes that are
//! polled, and a spool folder of `.eml` files.
//!
//! **How.** [`Inmail::bind`] takes the ports, [`Bound::open`] the folder, [`Inmail::run`] works until
//! the shutdown: first the ways in end, then the mails in hand. What waits then waits for the next start.
//!
//! **Bounded**: connections, sizes, the backlog, what is kept aside, sessions by messages and time.
//!
//! **Absences.** What a mail means is the processor's business.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use mail::time::Timestamp;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::config::{Config, InmailConfig, TargetPolicy};
use crate::intake::Intake;
use crate::listener::Doors;
pub use crate::listener::{BindFault, Bounds as ListenerBounds, Counts as ListenerCounts};
use crate::smtp_client::TlsClients;
use crate::submission::Pressure;
use forward::Forwarder;
use polling::Poller;
use processing::Processing;
use receiving::Receiving;

mod counts;
mod folder;
mod forward;
mod origin;
mod polling;
mod processing;
mod receiving;
mod session;
mod shelf;
mod spool;

pub use counts::{InmailCounts, MailboxCounts};
pub use folder::{Folder, FolderLimits, KeepFault, Kept};
pub use origin::{Origin, Way};
pub use polling::{Mailboxes, PollingBounds};
pub use processing::{Arrived, Outcome, ProcessingBounds, Processor};
pub use session::SessionBounds;

/// The node's time.
pub(crate) type Now = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Why incoming mail cannot be set up. Nothing of it runs then.
#[derive(Debug, thiserror::Error)]
pub enum OpenFault {
    /// The folder.
    #[error("{0}")]
    Folder(#[from] KeepFault),
    /// TLS.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// The bounds that the configuration does not state.
#[derive(Clone, Debug, Default)]
pub struct InmailBounds {
    /// Of polling.
    pub polling: PollingBounds,
    /// Of processing.
    pub processing: ProcessingBounds,
    /// Of the listeners; `None`: those of the configuration and the defaults.
    pub listener: Option<ListenerBounds>,
}

/// Listeners that are bound; nothing else has begun.
pub struct Bound {
    config: InmailConfig,
    safety: TargetPolicy,
    bounds: InmailBounds,
    store_timeout: Duration,
    smtp: Doors,
    lmtp: Doors,
}

impl core::fmt::Debug for Bound {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        out.debug_struct("Bound").field("smtp", &self.smtp_addresses()).finish_non_exhaustive()
    }
}

/// All ways in, ready to run.
pub struct Inmail {
    bound: Bound,
    folder: Folder,
    counts: Arc<InmailCounts>,
    mailboxes: Mailboxes,
    pressure: Option<Pressure>,
    forwarder: Option<Forwarder>,
}

impl core::fmt::Debug for Inmail {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        out.debug_struct("Inmail").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Inmail {
    /// Binds the listeners of the configuration (none: mail comes by other ways). Must be called
    /// within a tokio runtime.
    ///
    /// # Errors
    /// An address that cannot be listened on, or a certificate that cannot be used.
    pub fn bind(config: &Config, bounds: InmailBounds) -> Result<Bound, BindFault> {
        let listener = bounds.listener.clone().unwrap_or_else(|| receiving::bounds(&config.inmail));
        let (smtp, lmtp) = receiving::bind(&config.inmail, &listener)?;
        Ok(Bound {
            config: config.inmail.clone(),
            safety: config.safety.clone(),
            bounds,
            store_timeout: listener.store_timeout,
            smtp,
            lmtp,
        })
    }

    /// Asks `pressure` before taking mail; where it has something to say, senders get 452 4.3.1.
    #[must_use]
    pub fn with_pressure(mut self, pressure: Pressure) -> Self {
        self.pressure = Some(pressure);
        self
    }

    /// Figures for metrics, live.
    #[must_use]
    pub fn counts(&self) -> Arc<InmailCounts> {
        Arc::clone(&self.counts)
    }

    /// Figures of the SMTP and of the LMTP listeners, live.
    #[must_use]
    pub fn listener_counts(&self) -> [Arc<ListenerCounts>; 2] {
        [self.bound.smtp.counts(), self.bound.lmtp.counts()]
    }

    /// The SMTP addresses that are listened on.
    #[must_use]
    pub fn smtp_addresses(&self) -> Vec<SocketAddr> {
        self.bound.smtp_addresses()
    }

    /// The LMTP addresses that are listened on; sockets in the file system are not among them.
    #[must_use]
    pub fn lmtp_addresses(&self) -> Vec<SocketAddr> {
        self.bound.lmtp.addresses().to_vec()
    }

    /// The mailboxes, to be tried.
    #[must_use]
    pub fn mailboxes(&self) -> Mailboxes {
        self.mailboxes.clone()
    }

    /// The folder, to bring mail by other ways.
    #[must_use]
    pub fn folder(&self) -> Folder {
        self.folder.clone()
    }

    /// Works until `shutdown`: then takes no more mail, ends sessions in order and lets the mails in
    /// hand be processed, each within its patience. Dropping this future ends everything at once; what
    /// was being processed is processed again after the next start.
    pub async fn run<P: Processor>(self, processor: P, shutdown: CancellationToken) {
        let Self { bound, folder, counts, mailboxes, pressure, forwarder } = self;
        let processing = Processing {
            folder: folder.clone(),
            processor,
            forwarder,
            bounds: bound.bounds.processing,
            counts: Arc::clone(&counts),
            troubles: AtomicU32::new(0),
        };
        let workers = bound.config.workers;
        // Ends after the ways in, so that what they brought last is not left for the next start
        // without need.
        let enough = CancellationToken::new();
        let processing =
            tokio::spawn(processing::run(Arc::new(processing), workers, enough.clone()));
        let processing = AbortOnDropHandle::new(processing);
        let domains: HashSet<String> =
            bound.config.domains.iter().map(|domain| domain.as_str().to_owned()).collect();
        let domains = Arc::new(domains);
        let desk = |way| {
            Arc::new(Receiving {
                way,
                folder: folder.clone(),
                domains: Arc::clone(&domains),
                pressure: pressure.clone(),
                counts: Arc::clone(&counts),
                store_timeout: bound.store_timeout,
            })
        };
        let mut ways = JoinSet::new();
        ways.spawn(bound.smtp.run(desk(Way::Smtp), shutdown.clone()));
        ways.spawn(bound.lmtp.run(desk(Way::Lmtp), shutdown.clone()));
        let (spool, period) = (bound.config.spool, bound.config.spool_period);
        ways.spawn(spool::watch(spool, period, folder, counts, shutdown.clone()));
        for poller in mailboxes.pollers {
            ways.spawn(polling::keep_polling(poller, shutdown.clone()));
        }
        while let Some(ended) = ways.join_next().await {
            if let Err(fault) = ended {
                tracing::error!(%fault, "a way in has panicked; the others go on");
            }
        }
        enough.cancel();
        if let Err(fault) = processing.await {
            tracing::error!(%fault, "the processing of incoming mail has panicked");
        }
    }
}

impl Bound {
    /// The SMTP addresses that are listened on, with the ports that the system chose.
    #[must_use]
    pub fn smtp_addresses(&self) -> Vec<SocketAddr> {
        self.smtp.addresses().to_vec()
    }

    /// Opens the folder. Mail that could not be read is sent to `forward_to` through `intake`.
    ///
    /// # Errors
    /// The folder cannot be used, or TLS not be set up.
    pub fn open(self, intake: &Intake) -> Result<Inmail, OpenFault> {
        let clock = intake.clone();
        let forwarder =
            self.config.forward_to.clone().map(|to| {
                Forwarder::new(intake.clone(), to, self.config.hostname.as_str().to_owned())
            });
        self.open_with(Arc::new(move || clock.now()), forwarder)
    }

    fn open_with(self, now: Now, forwarder: Option<Forwarder>) -> Result<Inmail, OpenFault> {
        let config = &self.config;
        let names = config.mailboxes.iter().map(|mailbox| mailbox.name.as_str());
        let counts = Arc::new(InmailCounts::new(names));
        let limits = FolderLimits {
            backlog_files: config.backlog_files,
            message_bytes: config.max_message_bytes,
            aside_files: config.aside_files,
            aside_bytes: config.aside_bytes,
            dump: config.dump.clone().map(|path| (path, config.dump_files)),
        };
        let folder = Folder::open(&config.folder, limits, now, Arc::clone(&counts))?;
        make(&config.spool)?;
        let mut pollers = Vec::new();
        for (mailbox, counts) in config.mailboxes.iter().zip(&counts.mailboxes) {
            pollers.push(Arc::new(Poller {
                tls: TlsClients::new()?.with_roots(mailbox.tls_roots.clone()),
                mailbox: mailbox.clone(),
                safety: self.safety.clone(),
                bounds: self.bounds.polling,
                folder: folder.clone(),
                counts: Arc::clone(counts),
            }));
        }
        let mailboxes = Mailboxes { pollers };
        Ok(Inmail { folder, counts, mailboxes, pressure: None, forwarder, bound: self })
    }
}

fn make(path: &Path) -> Result<(), KeepFault> {
    std::fs::create_dir_all(path)
        .map_err(|source| KeepFault::Disk { path: path.to_owned(), source })
}
