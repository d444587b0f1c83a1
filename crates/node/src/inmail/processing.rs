//! The loop that hands kept mail to whoever reads it.
//!
//! **Promise.** Every mail of the folder is handed to the [`Processor`], and goes only after its
//! answer. A mail that it cannot read is kept aside with the reason; a fault that is not the mail's is
//! waited out, longer each time, and loses nothing. A processor that panics or does not come back
//! costs the mail at hand, not the loop.
//!
//! **More than once.** A mail whose processing was broken off by the end of the program is handed over
//! again. The processor must be able to take the same mail twice.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::counts::InmailCounts;
use super::folder::{Claim, Folder, KeepFault};
use super::forward::{Forwarded, Forwarder};
use super::origin::Origin;

/// A mail to be processed.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// Header and body as they came.
    pub octets: Bytes,
    /// Where it came from.
    pub origin: Origin,
    /// What names it in logs: time and hash.
    pub name: String,
}

/// What became of a mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has had its effect, durably; it is removed.
    Done,
    /// It cannot be read or is of no kind that is known. Kept for people, with this reason.
    KeepAside(String),
    /// Something else is at fault (the store, say). It comes again.
    TryLater(String),
}

/// Whoever reads the mail.
pub trait Processor: Send + Sync + 'static {
    /// Reads one mail and lets it have its effect. Several calls run at a time.
    fn process(&self, mail: Arrived) -> impl Future<Output = Outcome> + Send;
}

impl<F, O> Processor for F
where
    F: Fn(Arrived) -> O + Send + Sync + 'static,
    O: Future<Output = Outcome> + Send,
{
    fn process(&self, mail: Arrived) -> impl Future<Output = Outcome> + Send {
        self(mail)
    }
}

/// The time that processing may take.
#[derive(Clone, Copy, Debug)]
pub struct ProcessingBounds {
    /// Of one mail.
    pub process_timeout: Duration,
    /// How long a mail that was put off rests at first; twice as long each time, up to
    /// `longest_rest`.
    pub first_rest: Duration,
    /// The longest rest.
    pub longest_rest: Duration,
    /// How long mails in hand may go on after the shutdown began.
    pub shutdown_patience: Duration,
}

impl Default for ProcessingBounds {
    /// 2 minutes for a mail, rests of 1 s to 5 minutes, 5 s at the end.
    fn default() -> Self {
        Self {
            process_timeout: Duration::from_secs(120),
            first_rest: Duration::from_secs(1),
            longest_rest: Duration::from_secs(300),
            shutdown_patience: Duration::from_secs(5),
        }
    }
}

/// The longest that an idle worker sleeps.
const IDLE: Duration = Duration::from_secs(5);

/// What all workers share.
pub(super) struct Processing<P> {
    pub(super) folder: Folder,
    pub(super) processor: P,
    pub(super) forwarder: Option<Forwarder>,
    pub(super) bounds: ProcessingBounds,
    pub(super) counts: Arc<InmailCounts>,
    /// Mails in a row that were put off: the fault is elsewhere.
    pub(super) troubles: AtomicU32,
}

/// Works with so many workers until `stop`.
pub(super) async fn run<P: Processor>(
    processing: Arc<Processing<P>>,
    workers: usize,
    stop: CancellationToken,
) {
    let mut tasks = JoinSet::new();
    for _ in 0..workers {
        tasks.spawn(work(Arc::clone(&processing), stop.clone()));
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(fault) = ended {
            tracing::error!(%fault, "a worker for incoming mail has ended; another one begins");
            if !stop.is_cancelled() {
                tasks.spawn(work(Arc::clone(&processing), stop.clone()));
            }
        }
    }
}

async fn work<P: Processor>(processing: Arc<Processing<P>>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let folder = processing.folder.clone();
        match blocking(move || folder.claim()).await {
            Ok(Some(claim)) => {
                processing.handle(claim, &stop).await;
                let pause = processing.pause();
                if !pause.is_zero() {
                    stop.run_until_cancelled(sleep(pause)).await;
                }
            }
            Ok(None) => {
                let due = processing.folder.next_due();
                let now = processing.folder.now();
                let wait = due.map_or(IDLE, |due| due.since(now).min(IDLE));
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = processing.folder.arrived() => {}
                    () = sleep(wait) => {}
                }
            }
            Err(fault) => {
                tracing::error!(%fault, "a mail that waits cannot be taken");
                stop.run_until_cancelled(sleep(IDLE)).await;
            }
        }
    }
}

/// Runs what may wait for the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, KeepFault> + Send + 'static,
) -> Result<T, KeepFault> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(fault) => Err(KeepFault::Disk {
            path: "the folder of incoming mail".into(),
            source: std::io::Error::other(fault.to_string()),
        }),
    }
}

/// How the work on one mail ended.
enum Ended {
    Outcome(Outcome),
    /// It did not come back in time.
    TimeOver,
    /// The program ends.
    Broken,
}

impl<P: Processor> Processing<P> {
    /// Processes one mail and puts it where it belongs.
    async fn handle(self: &Arc<Self>, claim: Claim, stop: &CancellationToken) {
        let ended = self.process(&claim, stop).await;
        let counts = &self.counts;
        let folder = self.folder.clone();
        let stem = claim.stem();
        let put = match ended {
            Ended::Outcome(Outcome::Done) => {
                self.troubles.store(0, Ordering::Relaxed);
                InmailCounts::add(&counts.processed, 1);
                blocking(move || folder.done(&claim)).await
            }
            Ended::Outcome(Outcome::KeepAside(why)) => self.keep_aside(claim, why).await,
            Ended::Outcome(Outcome::TryLater(why)) => {
                tracing::warn!(mail = stem, why, "an incoming mail is put off");
                self.put_off(claim).await
            }
            Ended::TimeOver => {
                let why = "processing it did not end in time";
                tracing::error!(mail = stem, why, "an incoming mail is at fault");
                InmailCounts::add(&counts.put_off, 1);
                blocking(move || folder.unfinished(&claim, why).map(drop)).await
            }
            Ended::Broken => blocking(move || folder.give_back(&claim)).await,
        };
        if let Err(fault) = put {
            tracing::error!(%fault, mail = stem, "an incoming mail stays in the folder `processing`");
        }
    }

    /// Has the mail processed, on a task of its own, so that a panic ends nothing else.
    async fn process(self: &Arc<Self>, claim: &Claim, stop: &CancellationToken) -> Ended {
        let mail = Arrived {
            octets: claim.octets.clone(),
            origin: claim.origin.clone(),
            name: claim.stem(),
        };
        let shared = Arc::clone(self);
        let task = tokio::spawn(async move { shared.processor.process(mail).await });
        let mut task = AbortOnDropHandle::new(task);
        let out_of_patience = async {
            stop.cancelled().await;
            sleep(self.bounds.shutdown_patience).await;
        };
        let ended = tokio::select! {
            ended = timeout(self.bounds.process_timeout, &mut task) => ended,
            () = out_of_patience => {
                task.abort();
                return Ended::Broken;
            }
        };
        match ended {
            Ok(Ok(outcome)) => Ended::Outcome(outcome),
            Ok(Err(fault)) if fault.is_panic() => {
                tracing::error!(mail = claim.stem(), "processing an incoming mail has panicked");
                Ended::Outcome(Outcome::KeepAside("processing it has panicked".into()))
            }
            Ok(Err(_)) => Ended::Broken,
            Err(_) => {
                task.abort();
                Ended::TimeOver
            }
        }
    }

    async fn keep_aside(&self, claim: Claim, why: String) -> Result<(), KeepFault> {
        tracing::info!(mail = claim.stem(), why, "an incoming mail is kept aside");
        if let Some(forwarder) = &self.forwarder {
            match forwarder.forward(&claim.origin, &claim.octets, &claim.stem(), &why).await {
                Forwarded::Sent => InmailCounts::add(&self.counts.forwarded, 1),
                Forwarded::NotSent => InmailCounts::add(&self.counts.not_forwarded, 1),
                Forwarded::TryLater => return self.put_off(claim).await,
            }
        }
        self.troubles.store(0, Ordering::Relaxed);
        let folder = self.folder.clone();
        blocking(move || folder.aside(&claim, &why)).await
    }

    async fn put_off(&self, claim: Claim) -> Result<(), KeepFault> {
        InmailCounts::add(&self.counts.put_off, 1);
        self.troubles.fetch_add(1, Ordering::Relaxed);
        let rest = self.rest(claim.put_off);
        let folder = self.folder.clone();
        blocking(move || folder.again(&claim, rest)).await
    }

    /// A rest after so many before it.
    fn rest(&self, before: u32) -> Duration {
        let twice = 1_u32.checked_shl(before.min(20)).unwrap_or(u32::MAX);
        self.bounds.first_rest.saturating_mul(twice).min(self.bounds.longest_rest)
    }

    /// How long a worker pauses before the next mail: when several in a row were put off, all would
    /// be.
    fn pause(&self) -> Duration {
        match self.troubles.load(Ordering::Relaxed) {
            0..=3 => Duration::ZERO,
            many => self.rest(many - 4),
        }
    }
}
