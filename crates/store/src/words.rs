//! What is asked of a store and what it answers.
//!
//! Plain data: no method here decides anything. Sizes are bounded by the constants of
//! `limits`; a write beyond them is refused whole.

use crate::bundles::BundleChange;
use engine::quarantine::{AddressHash, LedgerWrite, LedgerWritten, TextKey};
use engine::work::{Delivery, DeliveryOptions, DeliveryState, FinalState, QueuedMessage, Settled};
use mail::id::{DeliveryId, MessageId, SourceId};
use mail::time::Timestamp;
use std::sync::Arc;

/// Number of a recipient domain, given when it is first seen. From 1; 0 is before all others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainId(pub u32);

/// Number of a part: a set of claimed messages. Never used twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartId(pub u64);

/// What a content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContentKind {
    /// The template of a delivery, in the encoding of whoever prepares messages.
    Template,
    /// A complete message (RFC 5322).
    Message,
}

/// Content to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewContent {
    /// What it is.
    pub kind: ContentKind,
    /// Its octets, at most `CONTENT_LIMIT`.
    pub body: Arc<[u8]>,
}

/// Content as it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Its number, from 1.
    pub id: u64,
    /// What it is.
    pub kind: ContentKind,
    /// Its octets.
    pub body: Arc<[u8]>,
}

/// A recipient that admission let through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewRecipient {
    /// Line (or ordinal) in the caller's input, for the record of a duplicate.
    pub line: u64,
    /// The address as it will be written to RCPT TO.
    pub address: Box<str>,
    /// The key under which addresses are compared (case folded). Empty: the address itself.
    pub folded: Box<str>,
    /// The recipient domain, in the one form under which it is queued.
    pub domain: Box<str>,
    /// Merge data as a JSON object; empty: none.
    pub merge: Box<str>,
    /// Envelope sender given at intake; empty: none.
    pub sender: Box<str>,
}

/// A recipient that admission refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRefusal {
    /// Line (or ordinal) in the caller's input.
    pub line: u64,
    /// What stood there, as far as it could be read.
    pub address: Box<str>,
    /// Why, for people.
    pub reason: Box<str>,
}

/// A recorded refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Position among the recorded refusals of the delivery, from 0.
    pub ordinal: u64,
    /// Line (or ordinal) in the caller's input.
    pub line: u64,
    /// What stood there.
    pub address: Box<str>,
    /// Why; `duplicate of m<number>` for an address that was already accepted.
    pub reason: Box<str>,
}

/// A key under which a request takes effect at most once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Once {
    /// Whose key it is.
    pub tenant: Box<str>,
    /// The caller's key.
    pub key: Box<str>,
    /// Digest of the request: the same key with another digest is refused.
    pub digest: [u8; 32],
}

/// What an earlier request with the same key led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Earlier {
    /// The delivery that was created or appended to.
    pub delivery: DeliveryId,
    /// The first message that was accepted, if any.
    pub first: Option<MessageId>,
    /// How many messages were accepted; their numbers are contiguous.
    pub accepted: u64,
}

/// One delivery from which a claim may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimFrom {
    /// The delivery.
    pub delivery: DeliveryId,
    /// The highest message whose wave is open; `None`: all of them.
    pub through: Option<MessageId>,
    /// At most so many from this delivery; `None`: no share of its own.
    pub at_most: Option<u32>,
}

/// A request for messages of one domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRequest {
    /// The domain.
    pub domain: DomainId,
    /// The deliveries in the order in which they are served. Those that are not running give nothing.
    pub deliveries: Vec<ClaimFrom>,
    /// Only messages that are due by then.
    pub due_until: Timestamp,
    /// At most so many messages, 1 to `CLAIM_LIMIT`.
    pub limit: u32,
    /// When other nodes may take the messages over, unless the lease is renewed.
    pub lease_until: Timestamp,
}

/// One stretch of ending the queued messages of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// The delivery.
    pub delivery: DeliveryId,
    /// Where to go on: the default at first, then [`Swept::next`].
    pub from: DomainId,
    /// Only messages up to this number (the validity of a stream); `None`: all.
    pub through: Option<MessageId>,
    /// At most so many messages, 1 to `SWEEP_LIMIT`.
    pub limit: u32,
    /// When it was decided.
    pub at: Timestamp,
    /// Why, for `explain`.
    pub reason: Box<str>,
}

/// One step of forgetting what has been at its end for long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forget {
    /// Messages that ended earlier go; so do ended deliveries created earlier whose messages are gone.
    pub before: Timestamp,
    /// Of messages that were sent, the hash of the address stays; those of messages accepted earlier
    /// than this go too, at most `limit` in a step.
    pub hashes_before: Timestamp,
    /// Where to go on: `m0` at first, then [`Forgotten::next`].
    pub after: MessageId,
    /// Rows to look at, 1 to `FORGET_LIMIT`.
    pub limit: u32,
}

/// To whom a message was sent whose row is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PastRecipient {
    /// The delivery of the message.
    pub delivery: DeliveryId,
    /// The hash of the folded address.
    pub hash: AddressHash,
}

/// One step of erasing what names an address, outside the ledger of evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Erase {
    /// The folded address.
    pub address: Box<str>,
    /// Deliveries whose refusals were looked through; `d0` at first, then [`Erased::next`].
    pub after: DeliveryId,
    /// Refusals to look at, and messages to erase, about so many. 1 to `FORGET_LIMIT`.
    pub limit: u32,
}

/// One figure of the quota ledger. The store does not know what it means.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LedgerRow {
    /// Which kind of figure.
    pub kind: u8,
    /// What it counts.
    pub key: Box<str>,
    /// Its minute, or any other number that the kind gives a sense to. At most `i64::MAX`.
    pub slot: u64,
    /// The figure: absolute, it replaces the one before.
    pub value: i64,
    /// Whatever else belongs to it.
    pub extra: Box<str>,
}

/// A record of who did what and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub who: Box<str>,
    /// What, with its object.
    pub what: Box<str>,
    /// Why.
    pub why: Box<str>,
}

/// A change that is to be made durable.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Creates a delivery: a draft, or running at once when it is a stream. → [`Written::Created`].
    CreateDelivery {
        /// What is asked for.
        options: Box<DeliveryOptions>,
        /// Its content, if it is known already. Equal contents are stored once.
        content: Option<NewContent>,
        /// When.
        at: Timestamp,
        /// Takes effect once per key. → [`Written::Repeated`].
        once: Option<Once>,
    },
    /// Sets the content of a draft. → [`Written::Done`].
    SetContent {
        /// The draft.
        delivery: DeliveryId,
        /// Its content from now on.
        content: NewContent,
    },
    /// Accepts recipients, to a draft or a running or paused stream. → [`Written::Appended`].
    Append {
        /// The delivery.
        delivery: DeliveryId,
        /// Streams only: the content of just these messages. It is dropped when the last of them ends.
        content: Option<NewContent>,
        /// At most `APPEND_LIMIT`.
        recipients: Vec<NewRecipient>,
        /// When they were accepted.
        at: Timestamp,
        /// Takes effect once per key. → [`Written::Repeated`].
        once: Option<Once>,
    },
    /// Counts and records refused recipients. → [`Written::Done`].
    Refuse {
        /// The delivery.
        delivery: DeliveryId,
        /// At most `APPEND_LIMIT`. The first `REFUSALS_KEPT` of a delivery are kept, all are counted.
        refusals: Vec<NewRefusal>,
    },
    /// Starts a draft: its waves are fixed by rank. → [`Written::Started`].
    Start {
        /// The draft.
        delivery: DeliveryId,
        /// When.
        at: Timestamp,
    },
    /// Pauses, resumes or cancels, and writes that to the audit trail. → [`Written::Done`].
    ///
    /// Allowed: running → paused, paused → running, anything but finished → cancelled. After a
    /// cancellation the caller repeats [`Write::CancelQueued`] until nothing of it is queued, and again
    /// after [`Write::ReleaseParts`] at a start.
    SetState {
        /// The delivery.
        delivery: DeliveryId,
        /// Its new state: running, paused or cancelled.
        state: DeliveryState,
        /// Who wants it.
        who: Box<str>,
        /// Why.
        why: Box<str>,
        /// When.
        at: Timestamp,
    },
    /// Takes messages out of the queue into a part. → [`Written::Claimed`].
    ///
    /// From each delivery in turn: retries that are due (at most half of the room while fresh
    /// messages wait, so that neither starves the other), fresh messages in order, further retries.
    Claim(ClaimRequest),
    /// Ends claimed messages or returns them to the queue; at most `SETTLE_LIMIT`. In a cancelled
    /// delivery none is returned: it ends as cancelled.
    /// → [`Written::Settled`].
    Settle(Vec<Settled>),
    /// Ends queued messages of a running or paused delivery as expired. → [`Written::Swept`].
    Expire(Sweep),
    /// Ends queued messages of a cancelled delivery as cancelled. → [`Written::Swept`].
    CancelQueued(Sweep),
    /// Returns to the queue what earlier lives of this node left in parts, and what other nodes let
    /// lapse before `now`. To be repeated while [`Released::more`]. → [`Written::Released`].
    ReleaseParts {
        /// The present time.
        now: Timestamp,
    },
    /// Extends the leases of all parts of this node. → [`Written::Done`].
    RenewLeases {
        /// Until when.
        until: Timestamp,
    },
    /// Replaces figures of the quota ledger. → [`Written::Done`].
    Ledger(Vec<LedgerRow>),
    /// Drops the figures of one kind with a smaller slot. → [`Written::Done`].
    PruneLedger {
        /// The kind.
        kind: u8,
        /// The first slot that stays.
        before_slot: u64,
    },
    /// Adds to the audit trail. → [`Written::Done`].
    Audit(AuditEntry),
    /// Sets a named value. → [`Written::Done`].
    PutSetting {
        /// The name.
        key: Box<str>,
        /// The value.
        value: Box<str>,
    },
    /// Forgets keys of [`Once`] that are older, a bounded number of them. → [`Written::Done`].
    PruneOnce {
        /// The first moment whose keys stay.
        before: Timestamp,
    },
    /// Forgets messages and deliveries that ended long ago. Counts and totals stay.
    /// → [`Written::Forgotten`].
    Forget(Forget),
    /// Erases an address: rows of messages at their end, refusals, and texts of servers that quote it.
    /// → [`Written::Erased`].
    Erase(Erase),
    /// Puts another bundle of rules in force. → [`Written::Done`].
    ChangeBundle(Box<BundleChange>),
    /// Changes the ledger of evidence. → [`Written::Quarantine`].
    Quarantine(Box<LedgerWrite>),
}

/// What became of a [`Write`].
#[derive(Clone, Debug, PartialEq)]
pub enum Written {
    /// It was done.
    Done,
    /// The delivery was created.
    Created(DeliveryId),
    /// The key was used before by the same request: this is what that led to. Nothing was changed.
    Repeated(Earlier),
    /// Recipients were accepted.
    Appended(Appended),
    /// The delivery was started.
    Started(Started),
    /// Messages were claimed.
    Claimed(Claimed),
    /// Messages were settled.
    Settled(SettleReport),
    /// Queued messages were ended.
    Swept(Swept),
    /// Parts were released.
    Released(Released),
    /// What is old was forgotten.
    Forgotten(Forgotten),
    /// An address was erased.
    Erased(Erased),
    /// The ledger of evidence was changed.
    Quarantine(Box<LedgerWritten>),
    /// It was refused and changed nothing.
    Refused(RefusedWrite),
}

/// A domain that got work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TouchedDomain {
    /// Its number.
    pub id: DomainId,
    /// Its name.
    pub name: Arc<str>,
    /// How many messages were added.
    pub count: u32,
}

/// What an append led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The first accepted message; the others follow without a gap. `None`: none was accepted.
    pub first: Option<MessageId>,
    /// How many were accepted.
    pub accepted: u32,
    /// Lines that repeat an address of the same delivery: refused and recorded.
    pub duplicates: Vec<u64>,
    /// The domains that got work, in order of first appearance.
    pub domains: Vec<TouchedDomain>,
    /// The number of their own content; 0: they have that of their delivery.
    pub content: u64,
}

/// What a start led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// For each wave the highest message that belongs to it; `m0` for an empty wave at the front.
    pub wave_ends: Vec<MessageId>,
    /// The delivery had no message and is finished already.
    pub finished: bool,
}

/// Claimed messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The part that holds them; `None`: nothing was due.
    pub part: Option<PartId>,
    /// The messages, in the order in which they should go.
    pub messages: Vec<QueuedMessage>,
    /// The earliest due time among what remains for this domain in the asked deliveries (running, open
    /// waves); [`Timestamp::EPOCH`]: at once; `None`: nothing remains.
    pub next_due: Option<Timestamp>,
}

/// What became of a settlement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SettleReport {
    /// How many were settled.
    pub settled: u32,
    /// Messages that this node does not hold (settled before, or taken away): nothing was changed.
    pub late: Vec<MessageId>,
    /// Messages that were to be returned to the queue of a cancelled delivery: they are at their end
    /// as cancelled instead.
    pub cancelled: Vec<MessageId>,
    /// Deliveries that finished with it.
    pub finished: Vec<DeliveryId>,
}

/// What a sweep led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Swept {
    /// How many messages were ended.
    pub count: u32,
    /// Where to go on; `None`: nothing of the delivery is queued beyond this point.
    pub next: Option<DomainId>,
    /// The delivery finished with it.
    pub finished: bool,
}

/// What a release led to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Parts that were dissolved.
    pub parts: u32,
    /// Messages that went back to the queue. Each may have reached its server before the crash: this
    /// is the bound of what is sent twice.
    pub messages: u32,
    /// Call again: there are more parts.
    pub more: bool,
}

/// What a step of forgetting led to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Messages that are gone.
    pub messages: u32,
    /// Deliveries that are gone.
    pub deliveries: u32,
    /// Where to go on; `None`: nothing that old is left.
    pub next: Option<MessageId>,
}

/// What a step of erasing led to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    /// Messages whose rows are gone.
    pub messages: u32,
    /// Refusals that do not name the address any more.
    pub refusals: u32,
    /// Texts whose first raw form was replaced by the normalised one.
    pub texts: u32,
    /// Messages of the address that are not at their end; only the first step counts them.
    pub waiting: u32,
    /// Where to go on; `None`: all was looked through.
    pub next: Option<DeliveryId>,
}

/// Why a write was refused. The caller's matter: nothing is wrong with the store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedWrite {
    /// There is no such delivery.
    #[error("there is no delivery {0}")]
    UnknownDelivery(DeliveryId),
    /// The delivery's state does not allow it.
    #[error("delivery {delivery} is {state}; {needed}")]
    WrongState {
        /// The delivery.
        delivery: DeliveryId,
        /// Its state.
        state: DeliveryState,
        /// What would have been needed.
        needed: &'static str,
    },
    /// It cannot be started without content.
    #[error("delivery {0} has no content; set its content before it is started")]
    NoContent(DeliveryId),
    /// Content per message was given to a mailing, or none to a stream that has none.
    #[error("delivery {0}: messages of a stream, and only those, bring their own content")]
    WrongContent(DeliveryId),
    /// The key was used for another request.
    #[error("the idempotency key was used for a different request; use a new key")]
    KeyReused,
    /// The options contradict themselves.
    #[error("the options of the delivery are not usable: {0}")]
    BadOptions(&'static str),
    /// Something is larger than its limit.
    #[error("{what} is {size}, at most {limit} is allowed")]
    TooLarge {
        /// What.
        what: &'static str,
        /// How large it is.
        size: u64,
        /// How large it may be.
        limit: u64,
    },
    /// A text that was never met cannot be qualified.
    #[error("no text with the key {0} was ever met; see the list of texts")]
    UnknownText(TextKey),
    /// There is no such task, or it is done.
    #[error("there is no task {0} at work; it may be done")]
    UnknownTask(u64),
    /// Another bundle is in force than the change was made for, or its version is taken.
    #[error(
        "the rules in force are {}, and the change was made for {}: somebody else was quicker",
        version_words(*.in_force), version_words(*.expected)
    )]
    OtherBundle {
        /// The version in force.
        in_force: Option<u64>,
        /// The version that was expected.
        expected: Option<u64>,
    },
    /// There is no such bundle any more, or never was.
    #[error("no bundle of version {0} is kept; see `mailweir deliverability history`")]
    UnknownBundle(u64),
    /// An empty address or domain, at this line of the input.
    #[error("line {line}: the address or its domain is empty")]
    EmptyAddress {
        /// The line.
        line: u64,
    },
}

/// A version of a bundle for people.
fn version_words(version: Option<u64>) -> String {
    version.map_or_else(|| "the shipped ones".to_owned(), |version| format!("bundle {version}"))
}

/// Counts of one delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Recipients accepted.
    pub accepted: u64,
    /// Recipients refused by admission (without duplicates).
    pub refused: u64,
    /// Recipients refused because the delivery already has the address.
    pub duplicates: u64,
    /// Messages sent.
    pub sent: u64,
    /// Messages refused for good by the remote side.
    pub failed: u64,
    /// Messages whose validity ended first.
    pub expired: u64,
    /// Messages whose delivery was cancelled first.
    pub cancelled: u64,
    /// Messages in parts: claimed and not settled.
    pub in_flight: u64,
}

impl Counters {
    /// Messages that wait in the queue.
    #[must_use]
    pub const fn queued(&self) -> u64 {
        self.accepted - self.sent - self.failed - self.expired - self.cancelled - self.in_flight
    }

    /// Messages that are not at their end.
    #[must_use]
    pub const fn pending(&self) -> u64 {
        self.queued() + self.in_flight
    }

    /// Adds how far a delivery's counts have come.
    pub(crate) const fn advance(&mut self, from: &Self, to: &Self) {
        self.accepted += to.accepted - from.accepted;
        self.refused += to.refused - from.refused;
        self.duplicates += to.duplicates - from.duplicates;
        self.sent += to.sent - from.sent;
        self.failed += to.failed - from.failed;
        self.expired += to.expired - from.expired;
        self.cancelled += to.cancelled - from.cancelled;
        // The only one that goes down too.
        self.in_flight = self.in_flight + to.in_flight - from.in_flight;
    }

    /// The count of one final state.
    pub(crate) const fn of(&mut self, state: FinalState) -> &mut u64 {
        match state {
            FinalState::Sent => &mut self.sent,
            FinalState::Failed => &mut self.failed,
            FinalState::Expired => &mut self.expired,
            FinalState::Cancelled => &mut self.cancelled,
        }
    }
}

/// Counts over all deliveries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Sums over all deliveries that ever were, forgotten ones too.
    pub counters: Counters,
    /// Deliveries that are drafts.
    pub draft: u64,
    /// Deliveries that run.
    pub running: u64,
    /// Deliveries that are paused.
    pub paused: u64,
    /// Deliveries that were cancelled and are not forgotten.
    pub cancelled: u64,
    /// Deliveries that are finished and are not forgotten.
    pub finished: u64,
}

impl Totals {
    /// The count of one state.
    pub(crate) const fn of(&mut self, state: DeliveryState) -> &mut u64 {
        match state {
            DeliveryState::Draft => &mut self.draft,
            DeliveryState::Running => &mut self.running,
            DeliveryState::Paused => &mut self.paused,
            DeliveryState::Cancelled => &mut self.cancelled,
            DeliveryState::Finished => &mut self.finished,
        }
    }
}

/// A delivery with what is known about it.
#[derive(Clone, Debug, PartialEq)]
pub struct DeliveryRecord {
    /// As the engine knows it.
    pub delivery: Delivery,
    /// Number of its content; 0: none.
    pub content: u64,
    /// When it was created.
    pub created_at: Timestamp,
    /// Its counts.
    pub counters: Counters,
    /// How many of its messages are forgotten: counted, but no longer there to be looked at.
    pub forgotten: u64,
}

/// Where a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageState {
    /// In the queue.
    Queued {
        /// When it may go; [`Timestamp::EPOCH`]: at once.
        due: Timestamp,
        /// The source that must be used next, if any.
        pinned_source: Option<SourceId>,
    },
    /// In a part: somebody is working on it.
    InFlight,
    /// At its end.
    Final {
        /// Which.
        state: FinalState,
        /// Since when.
        settled_at: Timestamp,
    },
}

/// A message with what is known about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageRecord {
    /// Its number.
    pub id: MessageId,
    /// Its delivery.
    pub delivery: DeliveryId,
    /// The recipient.
    pub address: Box<str>,
    /// Number of its domain.
    pub domain: DomainId,
    /// Merge data; empty: none.
    pub merge: Box<str>,
    /// Number of its own content; 0: that of its delivery.
    pub content: u64,
    /// Envelope sender given at intake; empty: none.
    pub sender: Box<str>,
    /// Where it is.
    pub state: MessageState,
    /// Attempts that counted.
    pub attempts: u32,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// The words of its last attempt; empty: none yet.
    pub last_reply: Box<str>,
}

/// What waits for one domain in one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryDue {
    /// The delivery, in whatever state.
    pub delivery: DeliveryId,
    /// The earliest due time, waves aside; [`Timestamp::EPOCH`]: at once.
    pub earliest: Timestamp,
}

/// A domain for which messages wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueDomain {
    /// Its number.
    pub id: DomainId,
    /// Its name.
    pub name: Box<str>,
    /// Its deliveries, by number.
    pub deliveries: Vec<DeliveryDue>,
}

/// How many messages wait for a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainQueue {
    /// Its number.
    pub id: DomainId,
    /// Its name.
    pub name: Box<str>,
    /// Messages in the queue, counted up to the asked bound.
    pub queued: u64,
    /// When the longest waiting among the first in line was accepted.
    pub oldest: Timestamp,
}

/// A part, for people and tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartRecord {
    /// Its number.
    pub id: PartId,
    /// The node that holds it.
    pub node: Box<str>,
    /// Which life of that node.
    pub incarnation: u64,
    /// When others may take it.
    pub lease_until: Timestamp,
    /// The domain of its messages.
    pub domain: DomainId,
}
