//! Reaction rules: what we do about a provider that says we press too hard, or are not welcome.
//!
//! A bounce rule says what a reply means for **one message**; a reaction rule says what follows for
//! everything that would come after it: a path, a source at a provider, a delivery or a source is
//! suspended, slowed, given fewer connections or the figures of a lower level, a delivery is
//! stopped, somebody is told.
//!
//! 1. [`ReactionFile::parse`] reads a TOML file and reports every fault with file, line and column;
//!    [`WrittenReaction`] documents the fields. [`shipped_reactions`] is the data that comes with the
//!    program (`rules/reactions.toml`); [`ReactionFile::combine`] puts local rules before it.
//! 2. [`ReactionRules::compile`] gives an immutable set to be shared in an `Arc` and replaced as a
//!    whole; [`ReactionRules::matching`] names the rules that a reply speaks to.
//! 3. [`Hits`] counts, per rule and per thing it is about, until a rule's threshold is reached.
//!
//! # Invariants
//!
//! - The first rule that matches decides, unless it says `goes_on`: then the next is asked too.
//! - Every rule cites where its figures come from, has an example that it wins and a
//!   counter-example; the reader tries them, so a file whose rules do not do what they say is not
//!   taken.
//! - Time is linear in the text, of which the first [`MOST_TEXT`] octets are looked at; [`Hits`]
//!   holds a bounded number of counters with a bounded number of moments each.
//! - Nothing here knows the time, a file, a socket, a thread or chance. Who acts is the engine.

mod check;
mod file;
mod hits;
mod parse;
mod set;
mod words;

pub use file::{
    Effect, ReactionExample, ReactionFile, Recovery, SHIPPED_REACTIONS_TOML, WrittenReaction,
    shipped_reactions,
};
pub use hits::{Hits, MOST_COUNTERS};
pub use set::{MOST_TEXT, ReactionRule, ReactionRules, Said};
pub use words::{RateCut, ReactionAction, ReactionScope, ReactionStage};

#[cfg(test)]
mod tests;
