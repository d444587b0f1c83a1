//! What the engine is told and what it asks for: its table of contents.

use std::sync::Arc;

use mail::attempt::{SessionEnd, Verdict};
use mail::id::{ConnectionId, DeliveryId, MessageId, Priority, SourceId};
use mail::route::{MxRoute, RouteFault};
use mail::time::Timestamp;
use rules::RuleSet;
use rules::bounce::{BounceRules, Key, Qualification};
use rules::reaction::ReactionRules;
use serde::{Deserialize, Serialize};

use crate::reactions::{KeptReactions, ReactionOrder};
use crate::work::{Attempt, Delivery, QueuedMessage, SendMode, Settled};
use quota::{LotId, PathKey};

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Other MX rules or levels are in force from now on.
    RulesReplaced(Arc<RuleSet>),
    /// A delivery is new, or its state, options or waves changed.
    DeliveryChanged(Box<Delivery>),
    /// Messages were committed to the queue: some mail of `delivery` for each of these domains may go at `due`.
    Queued {
        /// Their delivery.
        delivery: DeliveryId,
        /// When the first of them may go.
        due: Timestamp,
        /// The recipient domains.
        domains: Vec<Box<str>>,
    },
    /// Answer to [`Command::FindDue`].
    DueFound {
        /// Domains with the earliest due time of their queued mail.
        domains: Vec<(Box<str>, Timestamp)>,
        /// Where to go on; `None` when the store has no more.
        next: Option<u64>,
    },
    /// Answer to [`Command::Claim`].
    Claimed {
        /// The domain that was asked for.
        domain: Box<str>,
        /// The priority that was asked for.
        priority: Priority,
        /// The messages, now ours.
        messages: Vec<QueuedMessage>,
        /// Earliest due time of what remains for the deliveries asked for.
        next_due: Option<Timestamp>,
    },
    /// Answer to [`Command::FindRoute`].
    RouteFound {
        /// The domain.
        domain: Box<str>,
        /// Its route, or why it has none.
        route: Result<Arc<MxRoute>, RouteFault>,
    },
    /// Answer to [`Command::AskPermit`].
    PermitAnswered {
        /// The connection it was asked for.
        connection: ConnectionId,
        /// `Ok`: granted.
        answer: Result<(), QuotaWait>,
    },
    /// Answer to [`Command::AskTokens`].
    TokensAnswered {
        /// The path.
        path: PathKey,
        /// The delivery with a cap of its own, if it was asked for one.
        cap: Option<DeliveryId>,
        /// Tokens, or why not now.
        answer: Result<Tokens, QuotaWait>,
    },
    /// The server greeted us and messages may be sent.
    ConnectionReady {
        /// Which.
        connection: ConnectionId,
    },
    /// Verdicts of messages that were assigned to a connection.
    MessagesDone {
        /// Which.
        connection: ConnectionId,
        /// In the order in which they came.
        results: Vec<MessageDone>,
    },
    /// A connection has ended. Every message assigned to it was reported before.
    ConnectionClosed {
        /// Which.
        connection: ConnectionId,
        /// Why.
        end: SessionEnd,
    },
    /// A step of [`Command::Expire`] or [`Command::CancelQueued`] is done.
    SweepDone {
        /// The delivery.
        delivery: DeliveryId,
        /// Whether more remains to be done.
        more: bool,
    },
    /// The store cannot commit (`true`) or can again (`false`). While it cannot, nothing is sent: a delivery
    /// whose outcome cannot be kept would be repeated.
    StoreSick(bool),
    /// Other bounce rules are in force from now on.
    BounceRulesReplaced(Arc<BounceRules>),
    /// A person has said what a text means, or (`None`) takes that back.
    TextQualified {
        /// The text.
        key: Key,
        /// What it means.
        said: Option<Qualification>,
    },
    /// Other reaction rules are in force from now on. What is in force goes on as it began.
    ReactionRulesReplaced(Arc<ReactionRules>),
    /// What an earlier process kept by [`Command::KeepReactions`].
    ReactionsRestored(Box<KeptReactions>),
    /// A person lifts or prolongs a reaction.
    ReactionOrdered {
        /// Which.
        id: u64,
        /// What is to be done.
        order: ReactionOrder,
        /// Who.
        who: String,
        /// Why.
        why: String,
    },
    /// Finish what is on the wire, give the rest back, begin nothing new.
    Drain,
}

/// Tokens granted by the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// How many; at least 1.
    pub count: u32,
    /// The lot, for giving back what is not used.
    pub lot: LotId,
    /// They must be used before this time.
    pub use_before: Timestamp,
}

/// Which limit the ledger answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuotaLimit {
    /// The messages of the last hour.
    Hour,
    /// The messages of the current five minutes (staircase pacing).
    Period,
    /// The messages that may have gone by now (even pacing).
    Pace,
    /// The minute of the ledger is about to end: a token of it could not be used in time.
    MinuteEnd,
    /// The hourly cap of the source (warm-up).
    Source,
    /// The cap per hour of a source that is warmed up.
    WarmUpHour,
    /// The cap per day of a source that is warmed up.
    WarmUpDay,
    /// The cap per day of a source that is warmed up at this provider.
    WarmUpProvider,
    /// The hourly cap of the delivery or tenant.
    Delivery,
    /// Simultaneous connections.
    Connections,
    /// Connections begun in the last minute.
    ConnectionRate,
    /// Time between two connections.
    ConnectionInterval,
    /// The ledger cannot be reached, or cannot make its record durable.
    Ledger,
    /// The ledger counts as many paths or caps as it may.
    LedgerFull,
}

impl QuotaLimit {
    /// Whether it is a limit of the budget of an MX rule.
    #[must_use]
    pub const fn is_of_rule(self) -> bool {
        matches!(
            self,
            Self::Hour
                | Self::Period
                | Self::Pace
                | Self::Connections
                | Self::ConnectionRate
                | Self::ConnectionInterval
        )
    }

    /// Whether it is a cap of a source that is warmed up.
    #[must_use]
    pub const fn is_warm_up(self) -> bool {
        matches!(self, Self::WarmUpHour | Self::WarmUpDay | Self::WarmUpProvider)
    }
}

/// Not now, says the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaWait {
    /// When asking again makes sense; `None`: when somebody gives something back.
    pub until: Option<Timestamp>,
    /// Which limit.
    pub limit: QuotaLimit,
    /// The MX rule whose budget it is, or at which a warm-up cap holds; empty for other caps.
    pub rule: Box<str>,
    /// The source whose cap it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceId>,
    /// Its figure.
    pub figure: u32,
    /// How much of it is used.
    pub used: u32,
}

/// The verdict on one assigned message.
#[derive(Clone, Debug, PartialEq)]
pub struct MessageDone {
    /// Which.
    pub message: MessageId,
    /// When its MAIL FROM was written; `None`: never.
    pub started_at: Option<Timestamp>,
    /// What happened.
    pub result: DoneResult,
}

/// Verdict of the server, or of our own preparation.
#[derive(Clone, Debug, PartialEq)]
pub enum DoneResult {
    /// The session's verdict.
    Verdict(Verdict),
    /// The message could not be prepared (undefined variable, output too large, ...). Nothing was sent.
    PrepareFailed {
        /// Why, for people.
        why: String,
    },
    /// The message could not be prepared for a fault of this machine, and is tried again after
    /// [`Settings::prepare_retry`](crate::Settings::prepare_retry). Nothing was sent.
    PrepareLater {
        /// Why, for people.
        why: String,
    },
}

/// What a connection must know of a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// The message.
    pub message: Arc<QueuedMessage>,
    /// Its token must be used before this time; later the message must come back as not tried.
    pub use_before: Timestamp,
    /// Real, test or dry.
    pub mode: SendMode,
}

/// How TLS is to be used on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsUse {
    /// Never.
    Off,
    /// When offered.
    Opportunistic,
    /// Or not at all.
    Required,
}

/// All that is needed to open a connection.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectionPlan {
    /// Source and target.
    pub path: PathKey,
    /// TCP port.
    pub port: u16,
    /// Name of the MX host.
    pub mx_host: Arc<str>,
    /// Use of TLS.
    pub tls: TlsUse,
    /// LMTP.
    pub lmtp: bool,
    /// Whether content may go by BDAT where CHUNKING is offered: not where that has failed.
    pub chunking: bool,
    /// The host was written into the configuration by a person, not found by DNS.
    pub relay: bool,
    /// Whether no real connection is to be made (dry mode): every message is prepared and reported as
    /// sent.
    pub dry: bool,
    /// Times of the rule.
    pub timeouts: rules::Timeouts,
    /// Name of the rule.
    pub rule: Arc<str>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Ask the store for domains with queued mail, after the cursor `after`.
    FindDue {
        /// Where to go on; 0: from the beginning.
        after: u64,
        /// At most so many.
        limit: usize,
    },
    /// Lease due messages of a domain.
    Claim {
        /// The recipient domain.
        domain: Box<str>,
        /// Priority of the deliveries, handed back in the answer.
        priority: Priority,
        /// The deliveries in the order of preference, each with the highest message number whose wave is open.
        deliveries: Vec<(DeliveryId, Option<MessageId>)>,
        /// Due not later than this.
        due_until: Timestamp,
        /// At most so many.
        limit: u32,
    },
    /// Find the route of a domain.
    FindRoute {
        /// The domain.
        domain: Box<str>,
    },
    /// Ask the ledger for the permission to hold a connection open.
    AskPermit {
        /// The connection to be.
        connection: ConnectionId,
        /// Its path.
        path: PathKey,
        /// MX host name, which decides the rule.
        mx_host: Arc<str>,
    },
    /// The connection has ended or was never made.
    ReleasePermit {
        /// Which.
        connection: ConnectionId,
    },
    /// Ask the ledger for tokens.
    AskTokens {
        /// The path.
        path: PathKey,
        /// MX host name, which decides the rule.
        mx_host: Arc<str>,
        /// How many would be useful.
        want: u32,
        /// A delivery with an hourly cap of its own, and the cap.
        cap: Option<(DeliveryId, u32)>,
    },
    /// Tokens that were not used.
    GiveBack {
        /// The lot they were granted in.
        lot: LotId,
        /// How many.
        count: u32,
    },
    /// Open a connection; its permit was granted.
    Connect {
        /// Its number.
        connection: ConnectionId,
        /// How.
        plan: Box<ConnectionPlan>,
    },
    /// Send these over a connection, in this order.
    Send {
        /// Which.
        connection: ConnectionId,
        /// What.
        messages: Vec<Assignment>,
    },
    /// Finish what is assigned, say QUIT, close.
    Close {
        /// Which.
        connection: ConnectionId,
    },
    /// Take back what a connection has not begun (it is reported as not tried), finish what is on the wire, say
    /// QUIT, close: its path was suspended. It may have been asked to close before.
    Recall {
        /// Which.
        connection: ConnectionId,
    },
    /// Keep this for [`Event::ReactionsRestored`]; it takes the place of what was kept before.
    KeepReactions(Box<KeptReactions>),
    /// Make these outcomes durable. What was recorded of them came before.
    Settle(Vec<Settled>),
    /// Write these attempts to the delivery log, and what they say of addresses to the ledger of evidence.
    Record(Vec<Attempt>),
    /// Expire queued messages of a delivery: all, or (streams) those accepted before a time.
    Expire {
        /// Which.
        delivery: DeliveryId,
        /// Only those accepted earlier.
        accepted_before: Option<Timestamp>,
    },
    /// Pause a delivery: servers refuse it for a fault of its own (its authentication, its content), and what
    /// is not sent yet would fare no better. A person must look at it.
    StopDelivery {
        /// Which.
        delivery: DeliveryId,
        /// What was said, for the person.
        why: Box<str>,
        /// The reaction rule that demands it, `name@version`.
        by: Box<str>,
    },
    /// Cancel all queued messages of a delivery.
    CancelQueued {
        /// Which.
        delivery: DeliveryId,
    },
    /// Nothing is on the wire any more and nothing is held.
    Drained,
}
