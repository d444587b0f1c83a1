//! The quota ledger: who may send how much, when, over how many connections.
//!
//! # Promise
//!
//! - In any 3,600 consecutive seconds no budget sends more than its `messages_per_hour`, provided
//!   that each token is used before the `use_before` of its [`Lot`].
//! - At no instant does a budget hold more permits than its `max_connections`, and no connection
//!   outlives its permit, provided that the holder closes it before the lease ends.
//! - In any 3,600 and any 86,400 consecutive seconds no source that is warmed up sends more than its caps
//!   ([`warm_up`]), in all and at one provider.
//! - All of it holds across rule changes, level changes, restarts, crashes and clock steps.
//!
//! # How
//!
//! Tokens are counted per path (source × target) and slot (one minute of
//! [`Timestamp`](mail::time::Timestamp)), never per rule and never under the value of a limit, so
//! that changed rules find their history. A budget is the sum over the paths in its scope, and 61
//! consecutive slots of it may not exceed the limit: a window of 3,600 s touches at most 61 slots.
//! The price is a factor of 60/61: a budget under constant full demand sends at most
//! `messages_per_hour` in 61 minutes.
//!
//! Every change is first an entry of the [journal]. The shell hands an answer out only
//! after the entries that were taken with [`Ledger::take_journal`] are durable. A crash can then
//! only lose tokens (counted, never used), never uses.
//!
//! # Absences
//!
//! No clock, no file, no thread, no randomness; no iteration order that depends on a hash. The
//! same calls with the same times give the same answers and the same journal. A grant never looks
//! at more than the path asked for and the budgets it counts in.
//!
//! # Modules
//!
//! [`ruling`] is what the ledger asks of the rules; [`ledger`] and [`permits`] answer requests;
//! [`warm_up`] caps sources by hour and day;
//! [`journal`] is what is stored; [`clock`] makes the time that survives restarts; [`view`] is for
//! people.

mod accounts;
pub mod budget;
pub mod clock;
pub mod journal;
pub mod ledger;
mod meter;
pub mod permits;
mod restore;
pub mod ruling;
pub mod slots;
pub mod view;
pub mod warm_up;

pub use budget::{BudgetKey, CapKey, LimitName, PathKey, ScopeKey, Wait, WaitKind};
pub use clock::{ClockReading, SAVE_CLOCK_EVERY, SavedClock, anchor};
pub use journal::{JournalEntry, JournalKey};
pub use ledger::{GiveBackError, Ledger, Lot, LotId, Settings, TokenAnswer, TokenRequest};
pub use permits::{NodeId, Owner, Permit, PermitAnswer, PermitId, PermitRequest, Renewal};
pub use ruling::{BudgetLimits, Governed, Pacing, Ruling, Scope};
pub use slots::Slot;
pub use view::{BudgetView, PathView};
pub use warm_up::{ProviderDayView, SourceCaps, SourceDayView, WarmUpCaps};
