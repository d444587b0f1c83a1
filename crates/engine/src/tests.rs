//! Scenarios: the engine with the production ledger, and a store, a DNS and mail exchangers that answer at once.

mod harness;
mod limits;
mod outcomes;
mod reactions;
mod routing;
mod states;
