//! What the engine works on: deliveries, queued messages, and what became of them.
//!
//! These are the words that the engine and the store share. The store keeps them; the engine
//! decides about them.

use core::time::Duration;
use std::sync::Arc;

use mail::attempt::Verdict;
use mail::id::{DeliveryId, MessageId, Priority, SourceId};
use mail::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::qualify::Judgement;

/// The state of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeliveryState {
    /// Recipients may be added; nothing is sent before it is started.
    Draft,
    /// Its messages are sent.
    Running,
    /// Started, and held by a person until resumed.
    Paused,
    /// Stopped for good; what had not been sent is cancelled.
    Cancelled,
    /// No message of it is queued any more. An open stream (see [`DeliveryOptions::stream`]) never finishes.
    Finished,
}

impl core::fmt::Display for DeliveryState {
    /// As in a sentence: it is `a draft`, `running`, `paused`, `cancelled`, `finished`.
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        out.write_str(match self {
            Self::Draft => "a draft",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Cancelled => "cancelled",
            Self::Finished => "finished",
        })
    }
}

/// How far a delivery goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SendMode {
    /// Messages are delivered.
    #[default]
    Real,
    /// Real conversations up to RCPT TO, then RSET: no content is ever sent.
    Test,
    /// Everything except connecting: routing, limits, rendering. Every message ends as sent, marked dry.
    Dry,
}

/// How large a wave is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaveSize {
    /// So many recipients.
    Count(u64),
    /// A share of all recipients that were accepted when the delivery was started, 0 to 100.
    Percent(f64),
}

/// One wave of a delivery. What the last wave leaves over belongs to the last wave.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wave {
    /// How many recipients.
    pub size: WaveSize,
    /// How long after the start of the delivery it opens.
    pub start_after: Duration,
}

/// When a message is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetrySchedule {
    /// Pauses after the first, second, ... temporary failure.
    pub steps: Vec<Duration>,
    /// Pause after every further one.
    pub then_every: Duration,
    /// Pause after a greylisting answer; the next try uses the same source.
    pub greylisted: Duration,
    /// Share by which each pause may be longer, 0 to 1; chosen by the engine's seeded generator.
    pub jitter_percent: u8,
}

impl Default for RetrySchedule {
    /// Five tries an hour apart, then one a day; greylisting after 10 minutes; up to 10 % longer.
    fn default() -> Self {
        Self {
            steps: vec![Duration::from_secs(3_600); 5],
            then_every: Duration::from_secs(86_400),
            greylisted: Duration::from_secs(600),
            jitter_percent: 10,
        }
    }
}

/// What a delivery asks for, besides content and recipients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeliveryOptions {
    /// A name for people. Not unique.
    pub name: String,
    /// The affinity: the named set of sources it may use.
    pub affinity: String,
    /// High, normal or low.
    pub priority: Priority,
    /// How long after its start its messages may still be sent.
    pub validity: Duration,
    /// An explicit end that overrides `validity`.
    pub valid_until: Option<Timestamp>,
    /// Waves; empty: everything may go at once.
    pub waves: Vec<Wave>,
    /// At most so many messages in any hour for the whole delivery; `None`: only the rules limit it.
    pub messages_per_hour: Option<u32>,
    /// Real, test or dry.
    pub mode: SendMode,
    /// When messages are tried again.
    pub retry: RetrySchedule,
    /// Whether it is an endless stream of single messages (SMTP, `/api/v1/messages`). The validity of a
    /// stream's message counts from its own acceptance.
    pub stream: bool,
    /// Free label for the sending application: goes to logs and webhooks.
    pub tenant: String,
}

impl Default for DeliveryOptions {
    fn default() -> Self {
        Self {
            name: String::new(),
            affinity: "default".into(),
            priority: Priority::Normal,
            validity: Duration::from_secs(5 * 86_400),
            valid_until: None,
            waves: Vec::new(),
            messages_per_hour: None,
            mode: SendMode::Real,
            retry: RetrySchedule::default(),
            stream: false,
            tenant: String::new(),
        }
    }
}

/// A delivery as the engine knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    /// Its number.
    pub id: DeliveryId,
    /// Its state.
    pub state: DeliveryState,
    /// What was asked for.
    pub options: DeliveryOptions,
    /// When it was started.
    pub started_at: Option<Timestamp>,
    /// For each wave the highest message number that belongs to it, in order; fixed at the start. Empty without
    /// waves.
    pub wave_ends: Vec<MessageId>,
}

/// A queued message, as the store hands it to the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedMessage {
    /// Its number.
    pub id: MessageId,
    /// The delivery it belongs to.
    pub delivery: DeliveryId,
    /// The recipient, normalised: domain in lower-case A-labels (or UTF-8 where SMTPUTF8 is needed).
    pub recipient: Box<str>,
    /// The recipient's merge data as a JSON object; empty: none.
    pub merge: Box<str>,
    /// The content of a single message of a stream (raw content, stored once per accepted message); 0: the
    /// content of its delivery.
    pub content: u64,
    /// Envelope sender given at intake; empty: the VERP return path of the configuration.
    pub sender: Box<str>,
    /// Attempts made so far that counted.
    pub attempts: u32,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// When it may go.
    pub due: Timestamp,
    /// The source that must be used next (greylisting), if any.
    pub pinned_source: Option<SourceId>,
}

/// Where a message ends. Every accepted message ends in exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FinalState {
    /// The remote server took it (or the dry or test run came to its end).
    Sent,
    /// It was refused for good.
    Failed,
    /// Its validity ended first.
    Expired,
    /// Its delivery was cancelled first.
    Cancelled,
}

impl FinalState {
    /// The word used in logs and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What became of a claimed message: what the store must make durable.
#[derive(Clone, Debug, PartialEq)]
pub struct Settled {
    /// The message.
    pub id: MessageId,
    /// Its delivery.
    pub delivery: DeliveryId,
    /// What it is now.
    pub fate: Fate,
    /// Attempts that counted, including this one.
    pub attempts: u32,
    /// The words that led to it (escaped reply, fault, or reason), for `explain`; empty: none.
    pub last_reply: Box<str>,
    /// When it was decided.
    pub at: Timestamp,
}

/// The two ways a claimed message goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is at its end.
    Final(FinalState),
    /// It goes back to the queue.
    Requeued {
        /// Not before this time; [`Timestamp::EPOCH`]: at once.
        due: Timestamp,
        /// The source that the next attempt must use, if any.
        pinned_source: Option<SourceId>,
    },
}

/// The record of one attempt, for the delivery log.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// The message.
    pub message: Arc<QueuedMessage>,
    /// The source; `None` where it never came so far.
    pub source: Option<SourceId>,
    /// The target.
    pub target: Option<core::net::IpAddr>,
    /// The MX host's name.
    pub mx_host: Arc<str>,
    /// Name of the MX rule that governed it.
    pub rule: Arc<str>,
    /// Version of the rule set.
    pub rules_version: u64,
    /// Number of the attempt, from 1; those that do not count against the address repeat the number.
    pub number: u32,
    /// When its MAIL FROM went out: the moment that the hourly limits count. `None`: it never did.
    pub started_at: Option<Timestamp>,
    /// When its verdict was known.
    pub ended_at: Timestamp,
    /// What happened to the message; `None`: it ended without a conversation, as `note` says.
    pub verdict: Option<Verdict>,
    /// Our own words, where no server spoke; else empty.
    pub note: Box<str>,
    /// What the refusal means; `None`: nothing was refused.
    pub judgement: Option<Arc<Judgement>>,
    /// The reaction that its refusal began or renewed, `R7 google-rate@2026-11-21`.
    pub reaction: Option<Arc<str>>,
    /// What became of the message.
    pub fate: Fate,
}
