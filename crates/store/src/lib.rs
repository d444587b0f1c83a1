//! Everything durable, behind one trait.
//!
//! **Promise.** What [`Store::apply`] acknowledged is on disk and survives the loss of the process
//! and of the machine's power. One call is one transaction: a physical fault leaves nothing of it.
//! Each [`Write`] of a batch succeeds or is refused ([`Written::Refused`]) on its own.
//!
//! **How.** [`SqliteStore`] keeps one SQLite database in the data folder (WAL, full sync).
//! [`MemoryStore`] has the same semantics without a disk; the simulator uses it and the contract
//! tests compare both. [`Writer`] runs a store on one thread and joins all waiting requests into one
//! transaction, so that many callers share one sync. [`Reads`] answers questions from a second
//! connection while the writer works.
//!
//! **Life of a message.** `Append` makes a short row and a queue entry. `Claim` moves up to 256
//! entries of one domain from the queue into a *part*, which is leased to this node. `Settle` ends
//! each message or returns it to the queue; when all messages of a part are settled the part goes.
//! What has been at its end for long is dropped by `Forget`; the counts of its delivery stay, and the
//! totals stay even when the delivery goes.
//! After a crash `ReleaseParts` returns what parts still hold to the queue, at their old place.
//!
//! **Invariants.**
//! - An accepted message is in exactly one place: queued, in one part, or at its end.
//! - `accepted = queued + in flight + sent + failed + expired + cancelled`, for every delivery, after
//!   every commit.
//! - No message is handed out while another part holds it; a settlement by somebody who does not
//!   hold the message changes nothing and is reported as late.
//! - Numbers of messages, parts and deliveries grow and are never used again.
//!
//! **Absences.** There is no clock here: times are arguments, kept in milliseconds (due times
//! rounded up, others down). Nothing is held in memory in proportion to the backlog.
//!
//! **When it fails.** [`StoreFault`] says in one line what broke and what to do.

mod bundles;
mod contract;
mod fault;
pub mod kill_point;
mod ledger_reads;
mod limits;
mod memory;
mod quarantine;
mod sqlite;
mod waves;
mod words;
mod writer;

pub use bundles::{
    BUNDLE_LIMIT, BUNDLES_KEPT, BundleApplication, BundleChange, BundleInForce, BundleReads,
    KeptBundle,
};
pub use contract::{Reads, Store};
pub use fault::StoreFault;
pub use ledger_reads::{AddressHistory, AddressMark, LedgerPlace, LedgerReads};
pub use limits::{
    ADDRESS_LIMIT, APPEND_LIMIT, CLAIM_LIMIT, CONTENT_LIMIT, FORGET_LIMIT, LAST_REPLY_LIMIT,
    MERGE_LIMIT, REFUSALS_KEPT, SETTLE_LIMIT, SWEEP_LIMIT,
};
pub use memory::MemoryStore;
pub use sqlite::file as sqlite_file;
pub use sqlite::{APPLICATION_ID, DATABASE_FILE, LOCK_FILE, SCHEMA_VERSION};
pub use sqlite::{SqliteOptions, SqliteReads, SqliteStore};
pub use words::{
    Appended, AuditEntry, ClaimFrom, ClaimRequest, Claimed, Content, ContentKind, Counters,
    DeliveryDue, DeliveryRecord, DomainId, DomainQueue, DueDomain, Earlier, Erase, Erased, Forget,
    Forgotten, LedgerRow, MessageRecord, MessageState, NewContent, NewRecipient, NewRefusal, Once,
    PartId, PartRecord, PastRecipient, Refusal, RefusedWrite, Released, SettleReport, Started,
    Sweep, Swept, Totals, TouchedDomain, Write, Written,
};
pub use writer::{Health, Reply, Writer, WriterHandle, WriterOptions};
