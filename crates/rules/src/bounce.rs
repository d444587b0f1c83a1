//! Bounce rules: from what a server or a bounce mail said to a reason, and what follows from it.
//!
//! 1. [`normalise`] makes one text of the many that say the same thing; [`Key`] is its MD5.
//! 2. [`BounceRuleFile::parse`] reads a TOML file of rules and reports every fault with file, line and
//!    column; [`WrittenBounceRule`] documents the fields. [`shipped_bounce_rules`] is the rule data
//!    that comes with the program (`rules/bounce.toml`); [`BounceRuleFile::combine`] puts local rules
//!    before it.
//! 3. [`BounceRules::compile`] gives an immutable set to be shared; [`BounceRules::classify`] judges.
//! 4. [`BounceJudge`] puts what people have said, and a bounded cache, before it.
//!
//! # The order of a judgement
//!
//! A person's qualification of the text; then local rules; then what a bundle knows ([`KnownTexts`]); then the first rule that matches (local rules stand before
//! shipped ones) by the diagnostic text; then by the body of the mail; then the rules of last resort;
//! else Not defined, To qualify.
//!
//! # Invariants
//!
//! - The verdict on a reply follows from its normalised text, its codes, the provider and whether it
//!   was said in the session; nothing else.
//! - A deferral (4yz) is never Hard, whatever it says.
//! - Time is linear in the text, which is cut at [`MOST_OCTETS`].
//! - Nothing here knows the time, a file, a socket, a thread or chance.

mod check;
mod codes;
mod file;
mod fold;
mod grams;
mod judge;
mod known;
mod normal;
mod parse;
pub(crate) mod pattern;
mod said;
mod search;
mod set;
mod verdict;

pub use fold::fold_into;
pub(crate) use fold::fold_words_into;
pub(crate) use parse::{codes, masks, read_patterns};

pub use codes::{ReplyMask, StatusMask, codes_in};
pub use file::{
    BounceRuleFile, Example, SHIPPED_BOUNCE_TOML, WrittenBounceRule, shipped_bounce_rules,
};
pub use judge::{BounceJudge, Judged};
pub use known::KnownTexts;
pub use normal::{Key, MOST_OCTETS, normalise, normalise_into};
pub use set::BounceRules;
pub use verdict::{Action, Evidence, Qualification, QualificationStatus, Qualifications, Verdict};

#[cfg(test)]
mod tests;
