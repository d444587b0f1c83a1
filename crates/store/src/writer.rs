//! One thread that writes, for many that ask.
//!
//! **Promise.** A request is answered after its batch is durable, or with the fault that stopped it.
//! Requests are applied in the order in which they were sent. None is left without an answer: not
//! by a fault, not by the shutdown.
//!
//! **How.** The thread takes everything that waits in a bounded channel, up to a number of rows, and
//! applies it as one transaction, so that many requests share one sync (group commit). It never waits
//! for more to come: under load the next batch gathers while this one is written. Replies are called
//! on the writer's thread and must be short.
//!
//! **When it fails.** After a physical fault the writer is sick: every request is answered at once with
//! the fault, and a probe is written each second until it succeeds. Nothing is lost, because nothing
//! was acknowledged; who must not drop its request (a settlement) sends it again.

use std::sync::mpsc::{
    Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel,
};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::contract::Store;
use crate::fault::StoreFault;
use crate::words::{Write, Written};

/// What is done with the answer to a request. Called on the writer's thread.
pub type Reply = Box<dyn FnOnce(Result<Written, StoreFault>) + Send>;

/// The bounds of a writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriterOptions {
    /// Requests that may wait; who sends more waits itself or is refused.
    pub capacity: usize,
    /// Rows in one batch, about: a request is never split.
    pub batch_rows: usize,
    /// Pause between probes while the store is sick.
    pub probe_every: Duration,
}

impl Default for WriterOptions {
    /// 1,024 requests, 8,000 rows, one second.
    fn default() -> Self {
        Self { capacity: 1_024, batch_rows: 8_000, probe_every: Duration::from_secs(1) }
    }
}

/// Whether writing works.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// It does, as far as is known.
    #[default]
    Healthy,
    /// It does not: every request is refused with this fault until a probe succeeds.
    Sick(StoreFault),
}

/// A request on its way.
enum Request {
    Apply(Write, Reply),
    Shutdown,
}

/// What sends requests. Clones send to the same writer.
#[derive(Clone)]
pub struct WriterHandle {
    sender: SyncSender<Request>,
    health: Arc<Mutex<Health>>,
}

impl WriterHandle {
    /// Sends a request; waits while the channel is full. When the writer has been shut down the reply
    /// is called here, with [`StoreFault::Closed`].
    pub fn send(&self, write: Write, reply: Reply) {
        if let Err(refused) = self.sender.send(Request::Apply(write, reply)) {
            refuse(refused.0);
        }
    }

    /// Sends a request unless the channel is full.
    ///
    /// # Errors
    /// The channel is full: the request comes back, nothing was done.
    pub fn try_send(&self, write: Write, reply: Reply) -> Result<(), Box<(Write, Reply)>> {
        match self.sender.try_send(Request::Apply(write, reply)) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(Request::Apply(write, reply))) => Err(Box::new((write, reply))),
            Err(TrySendError::Full(other) | TrySendError::Disconnected(other)) => {
                refuse(other);
                Ok(())
            }
        }
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// The fault that stopped it.
    pub fn apply(&self, write: Write) -> Result<Written, StoreFault> {
        let (sender, receiver) = sync_channel(1);
        // The receiver waits below, so the answer always finds it.
        let reply = move |answer| drop(sender.send(answer));
        self.send(write, Box::new(reply));
        receiver.recv().unwrap_or(Err(StoreFault::Closed))
    }

    /// Whether writing works.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Answers a request that never reached the writer.
fn refuse(request: Request) {
    if let Request::Apply(_, reply) = request {
        reply(Err(StoreFault::Closed));
    }
}

/// The writing thread. Dropping it without [`Writer::shutdown`] leaves the thread at work until the
/// last handle is gone.
pub struct Writer {
    handle: WriterHandle,
    thread: JoinHandle<Box<dyn Store + Send>>,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(store: Box<dyn Store + Send>, options: WriterOptions) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(options.capacity);
        let health = Arc::new(Mutex::new(Health::default()));
        let work = Work { store, options, receiver, health: Arc::clone(&health) };
        let builder = std::thread::Builder::new().name("store-writer".into());
        let ending = Ending(Arc::clone(&health));
        let thread = builder.spawn(move || {
            let _ending = ending;
            work.run()
        })?;
        Ok(Self { handle: WriterHandle { sender, health }, thread })
    }

    /// What sends requests.
    #[must_use]
    pub fn handle(&self) -> WriterHandle {
        self.handle.clone()
    }

    /// Answers everything that was sent before, ends the thread and gives the store back. Later
    /// requests are answered with [`StoreFault::Closed`]. `None`: a reply panicked on the thread.
    #[must_use]
    pub fn shutdown(self) -> Option<Box<dyn Store + Send>> {
        // Where sending fails the thread has ended already, and there is nothing left to ask it.
        let _gone = self.handle.sender.send(Request::Shutdown);
        drop(self.handle);
        self.thread.join().ok()
    }
}

/// Says that nothing is written any more when the thread ends, also by a panic.
struct Ending(Arc<Mutex<Health>>);

impl Drop for Ending {
    fn drop(&mut self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Health::Sick(StoreFault::Closed);
    }
}

/// What the thread has.
struct Work {
    store: Box<dyn Store + Send>,
    options: WriterOptions,
    receiver: Receiver<Request>,
    health: Arc<Mutex<Health>>,
}

/// How many rows a write touches, about.
fn rows(write: &Write) -> usize {
    1 + match write {
        Write::Append { recipients, .. } => recipients.len(),
        Write::Refuse { refusals, .. } => refusals.len(),
        Write::Claim(claim) => claim.limit as usize,
        Write::Settle(settled) => settled.len(),
        Write::Expire(sweep) | Write::CancelQueued(sweep) => sweep.limit as usize,
        Write::Forget(forget) => forget.limit as usize,
        Write::Erase(erase) => erase.limit as usize,
        Write::Ledger(rows) => rows.len(),
        Write::Quarantine(write) => crate::quarantine::bounds::rows(write),
        _ => 0,
    }
}

impl Work {
    /// Works until the shutdown or until nobody can send any more.
    fn run(mut self) -> Box<dyn Store + Send> {
        let mut open = true;
        while open {
            let Ok(first) = self.receiver.recv() else { break };
            let (batch, replies) = self.gather(first, &mut open);
            self.write(&batch, replies);
            if let Health::Sick(fault) = self.state() {
                open &= self.recover(fault);
            }
        }
        for request in self.receiver.try_iter() {
            refuse(request);
        }
        self.store
    }

    fn state(&self) -> Health {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_state(&self, health: Health) {
        *self.health.lock().unwrap_or_else(PoisonError::into_inner) = health;
    }

    /// Everything that waits, up to the size of a batch.
    fn gather(&self, first: Request, open: &mut bool) -> (Vec<Write>, Vec<Reply>) {
        let (mut batch, mut replies, mut size) = (Vec::new(), Vec::new(), 0);
        let mut next = Ok(first);
        loop {
            match next {
                Ok(Request::Apply(write, reply)) => {
                    size += rows(&write);
                    batch.push(write);
                    replies.push(reply);
                }
                Ok(Request::Shutdown) | Err(TryRecvError::Disconnected) => {
                    *open = false;
                    break;
                }
                Err(TryRecvError::Empty) => break,
            }
            if size >= self.options.batch_rows {
                break;
            }
            next = self.receiver.try_recv();
        }
        (batch, replies)
    }

    /// Applies a batch and answers its requests.
    fn write(&mut self, batch: &[Write], replies: Vec<Reply>) {
        if batch.is_empty() {
            return;
        }
        match self.store.apply(batch) {
            Ok(answers) => {
                for (reply, answer) in replies.into_iter().zip(answers) {
                    reply(Ok(answer));
                }
            }
            Err(fault) => {
                tracing::error!(%fault, "the store does not take anything; trying again each second");
                // Before the replies, so that who is told of the fault sees it in the health too.
                self.set_state(Health::Sick(fault.clone()));
                for reply in replies {
                    reply(Err(fault.clone()));
                }
            }
        }
    }

    /// Refuses requests and probes until writing works again. Answers `false` when it is to shut down.
    fn recover(&mut self, mut fault: StoreFault) -> bool {
        let mut probe_at = Instant::now() + self.options.probe_every;
        loop {
            let wait = probe_at.saturating_duration_since(Instant::now());
            match self.receiver.recv_timeout(wait) {
                Ok(Request::Apply(_, reply)) => reply(Err(fault.clone())),
                Ok(Request::Shutdown) | Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) => {
                    match self.store.probe() {
                        Ok(()) => {
                            tracing::info!("the store works again");
                            self.set_state(Health::Healthy);
                            return true;
                        }
                        Err(still) => fault = still,
                    }
                    self.set_state(Health::Sick(fault.clone()));
                    probe_at = Instant::now() + self.options.probe_every;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
