//! Polls one mailbox, for ever.
//!
//! **Promise.** Polling goes on after every fault, with pauses that grow while faults go on. A refused
//! login is tried again after long pauses only, so that the account is not locked.
//!
//! **Getting forward with a bad server.** When a session breaks after messages were kept and before
//! their deletion was confirmed, the next one asks for half of them, down to one, so that some session
//! comes to its end; after each good one it is twice as many again. A message at which the session has
//! broken [`MOST_BREAKS`] times is not asked for again for [`REST_OF_BREAKER`]; one that is too large
//! is left in the mailbox until the next start.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mail::time::Timestamp;
use smtp::mailbox::{FetchCause, FetchEnd, FetchSettings};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::counts::{InmailCounts, MailboxCounts};
use super::folder::Folder;
use super::session::{self, SessionBounds, Site};
use crate::config::{MailboxConfig, TargetPolicy};
use crate::smtp_client::TlsClients;

/// A message at which the session has broken so often is left.
pub const MOST_BREAKS: u32 = 3;
/// How long it is left.
pub const REST_OF_BREAKER: Duration = Duration::from_secs(3_600);
/// Messages that are left, by name; beyond, they are looked at each time.
pub const MOST_LEFT: usize = 10_000;
/// Messages whose breaks are counted.
const MOST_SUSPECTS: usize = 1_000;

/// The pauses between sessions.
#[derive(Clone, Copy, Debug)]
pub struct PollingBounds {
    /// After a session that left more to fetch.
    pub more: Duration,
    /// After the first fault; twice as long each time.
    pub first_fault: Duration,
    /// After many faults, unless the period is longer.
    pub longest_fault: Duration,
    /// After many refused logins, unless the period is longer.
    pub longest_login: Duration,
    /// Bounds of each session.
    pub session: SessionBounds,
}

impl Default for PollingBounds {
    /// 1 s while there is more, 10 s to 15 minutes after faults, up to 1 hour after refused logins.
    fn default() -> Self {
        Self {
            more: Duration::from_secs(1),
            first_fault: Duration::from_secs(10),
            longest_fault: Duration::from_secs(900),
            longest_login: Duration::from_secs(3_600),
            session: SessionBounds::default(),
        }
    }
}

/// One mailbox and all that is remembered of it.
pub(super) struct Poller {
    pub(super) mailbox: MailboxConfig,
    pub(super) tls: TlsClients,
    pub(super) safety: TargetPolicy,
    pub(super) bounds: PollingBounds,
    pub(super) folder: Folder,
    pub(super) counts: Arc<MailboxCounts>,
}

/// What one session teaches for the next ones.
#[derive(Debug)]
struct Memory {
    /// Messages that are not asked for, until when.
    left: HashMap<Box<str>, Timestamp>,
    suspects: HashMap<Box<str>, u32>,
    /// Messages of the next session.
    allowed: u32,
    faults: u32,
}

/// Polls until `stop`, also if polling should panic.
pub(super) async fn keep_polling(poller: Arc<Poller>, stop: CancellationToken) {
    loop {
        let (polling, until) = (Arc::clone(&poller), stop.clone());
        let polling = tokio::spawn(async move { polling.run(&until).await });
        let ended = AbortOnDropHandle::new(polling).await;
        let Err(fault) = ended else { return };
        tracing::error!(mailbox = poller.mailbox.name, %fault, "polling has ended; it begins again");
        let pause = poller.mailbox.period;
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

/// The mailboxes, to be tried by people. Clones are the same.
#[derive(Clone)]
pub struct Mailboxes {
    pub(super) pollers: Vec<Arc<Poller>>,
}

impl core::fmt::Debug for Mailboxes {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let names = self.pollers.iter().map(|poller| &poller.mailbox.name);
        out.debug_list().entries(names).finish()
    }
}

impl Mailboxes {
    /// Logs in to a mailbox, looks and leaves: how many messages it holds. `None`: there is no such
    /// mailbox. Nothing is fetched or changed.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub async fn test(&self, name: &str) -> Option<Result<u64, String>> {
        let poller = self.pollers.iter().find(|poller| poller.mailbox.name == name)?;
        Some(poller.test().await)
    }
}

impl Poller {
    fn site(&self) -> Site<'_> {
        Site {
            mailbox: &self.mailbox,
            tls: &self.tls,
            safety: &self.safety,
            bounds: self.bounds.session,
            folder: &self.folder,
        }
    }

    async fn test(&self) -> Result<u64, String> {
        let settings =
            FetchSettings { messages: 0, ..settings(&self.mailbox, self.folder.message_bytes()) };
        let end = session::hold(&self.site(), settings, &CancellationToken::new()).await?;
        match end.cause {
            FetchCause::Finished => Ok(end.held),
            cause => Err(cause.to_string()),
        }
    }

    /// Polls until `stop`.
    pub(super) async fn run(&self, stop: &CancellationToken) {
        let mut memory = Memory {
            left: HashMap::new(),
            suspects: HashMap::new(),
            allowed: self.mailbox.session_messages,
            faults: 0,
        };
        loop {
            let pause = self.poll(&mut memory, stop).await;
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// One session; the pause after it.
    async fn poll(&self, memory: &mut Memory, stop: &CancellationToken) -> Duration {
        // Without room nothing could be kept, so the server need not be bothered.
        if let Err(fault) = self.folder.check_room() {
            tracing::warn!(mailbox = self.mailbox.name, %fault, "a mailbox is not polled");
            self.counts.set_fault(Some(fault.to_string()));
            return self.mailbox.period;
        }
        let mut settings = settings(&self.mailbox, self.folder.message_bytes());
        settings.messages = memory.allowed;
        let now = self.folder.now();
        memory.left.retain(|_, until| *until > now);
        settings.left = memory.left.keys().cloned().collect();
        match session::hold(&self.site(), settings, stop).await {
            Ok(end) => self.ended(memory, &end),
            Err(why) => {
                self.failed(memory, why, self.bounds.first_fault, self.bounds.longest_fault)
            }
        }
    }

    fn ended(&self, memory: &mut Memory, end: &FetchEnd) -> Duration {
        InmailCounts::add(&self.counts.fetched, end.fetched.into());
        InmailCounts::add(&self.counts.deleted, end.deleted.into());
        self.counts.held.store(end.held, Ordering::Relaxed);
        for identity in &end.cut {
            memory.leave(identity, Timestamp::NEVER);
        }
        if let Some(identity) = &end.during {
            self.suspect(memory, identity);
        }
        self.counts.left.store(memory.left.len() as u64, Ordering::Relaxed);
        match &end.cause {
            FetchCause::Finished => {
                memory.faults = 0;
                let all = self.mailbox.session_messages;
                let used_up = end.fetched + end.refused >= memory.allowed;
                memory.allowed = memory.allowed.saturating_mul(2).min(all);
                self.counts.went_well(self.folder.now());
                let known = end.deleted as usize + memory.left.len();
                let more = end.deleted > 0 && (used_up || end.held > known as u64);
                if more { self.bounds.more.min(self.mailbox.period) } else { self.mailbox.period }
            }
            cause => {
                if end.unconfirmed > 0 {
                    memory.allowed = (end.fetched.min(memory.allowed) / 2).max(1);
                }
                let (first, longest) = match cause {
                    FetchCause::LoginRefused(_) => (self.mailbox.period, self.bounds.longest_login),
                    _ => (self.bounds.first_fault, self.bounds.longest_fault),
                };
                self.failed(memory, cause.to_string(), first, longest)
            }
        }
    }

    /// A session has failed; the pause after it.
    fn failed(
        &self,
        memory: &mut Memory,
        why: String,
        first: Duration,
        longest: Duration,
    ) -> Duration {
        tracing::warn!(mailbox = self.mailbox.name, why, "a mailbox cannot be polled in order");
        InmailCounts::add(&self.counts.sessions_failed, 1);
        self.counts.set_fault(Some(why));
        let twice = 1_u32.checked_shl(memory.faults.min(20)).unwrap_or(u32::MAX);
        memory.faults += 1;
        let first = first.min(self.mailbox.period);
        first.saturating_mul(twice).min(longest.max(self.mailbox.period))
    }

    /// A session has broken in the middle of a message.
    fn suspect(&self, memory: &mut Memory, identity: &str) {
        if memory.suspects.len() >= MOST_SUSPECTS && !memory.suspects.contains_key(identity) {
            memory.suspects.clear();
        }
        let breaks = memory.suspects.entry(identity.into()).or_insert(0);
        *breaks += 1;
        if *breaks >= MOST_BREAKS {
            tracing::warn!(
                mailbox = self.mailbox.name,
                message = identity,
                "sessions break at this message; it is left in the mailbox"
            );
            memory.suspects.remove(identity);
            memory.leave(identity, self.folder.now() + REST_OF_BREAKER);
        }
    }
}

impl Memory {
    fn leave(&mut self, identity: &str, until: Timestamp) {
        if !identity.is_empty() && self.left.len() < MOST_LEFT {
            self.left.insert(identity.into(), until);
        }
    }
}

/// What a session is to do, as the configuration says.
fn settings(mailbox: &MailboxConfig, message_bytes: u64) -> FetchSettings {
    FetchSettings {
        user: mailbox.user.clone(),
        password: mailbox.password.expose().to_owned(),
        protection: mailbox.protection,
        folder: mailbox.folder.clone(),
        messages: mailbox.session_messages,
        session_time: mailbox.session_time,
        reply_timeout: mailbox.timeout,
        message_octets: usize::try_from(message_bytes).unwrap_or(usize::MAX),
        ignore_size: mailbox.ignore_size,
        left: HashSet::new(),
    }
}
