//! MX, bounce and reaction rules, and signed bundles of them: text, checked, compiled, explained.
//!
//! A deliverability engineer writes rules as TOML; a rule says how hard we may press the mail
//! exchangers (MX hosts) that its masks match. This crate takes that text to an answer for one MX
//! host and one source:
//!
//! 1. [`parse`] and [`parse_local`] read the text into a [`RuleFile`] and report *every* fault with
//!    file, line and column ([`Diagnostic`]). The fields are documented at [`WrittenRule`].
//! 2. [`shipped`] is the rule data that comes with the program (`rules/mx.toml`);
//!    [`RuleFile::combine`] puts local rules before it.
//! 3. [`RuleSet::compile`] applies the [`Levels`] and gives an immutable, indexed [`RuleSet`], to be
//!    shared in an `Arc` and replaced as a whole on reload.
//!    What people decide about levels while the program runs is [`LevelDecisions`], laid over the
//!    levels of the configuration.
//! 4. [`RuleSet::find`], [`RuleSet::limits`] and [`RuleSet::explain`] answer.
//!
//! # Invariants
//!
//! - The first rule that matches MX host and source wins, and one always does: the last rule has
//!   the mask `*` and all sources. It is called the *generic rule*.
//! - No limit is ever 0 and none of the three main limits is ever unlimited: what a rule does not
//!   state it inherits from the generic rule, at the same level.
//! - No level passes a hard figure (see [`WrittenRule::hard`]).
//! - Nothing here knows the time, a file, a socket, a thread or chance. The caller reads the bytes.
//!
//! # When it fails
//!
//! Only [`parse`] and [`parse_local`] can fail, and a file with any fault gives no rules at all, so
//! that running rules are never replaced by half a file.

pub mod bounce;
pub mod bundle;
mod ceiling;
mod check;
mod columns;
mod decision;
mod diagnostic;
mod explain;
mod figure;
mod file;
pub mod import;
mod index;
mod level;
mod levels;
mod parse;
pub mod reaction;
pub mod recipient;
mod replaced;
mod set;
mod sources;
mod span;
mod words;

pub use ceiling::{budgets, ceiling_per_hour};
pub use columns::{FigureColumns, LevelFigure, MadeBy, RuleColumns};
pub use decision::{
    BOOST_LASTS, DecisionFault, DecisionStanding, LevelChange, LevelDecision, LevelDecisions,
    LevelScope, LevelSubject, NotReached,
};
pub use diagnostic::{Diagnostic, Place};
pub use explain::{AppliedCap, CapReason, ExplainedFigure, Explanation, FigureOrigin};
pub use figure::{Figure, Figures, Stated, show_number};
pub use file::{RuleFile, WrittenRule, WrittenTimeouts, shipped};
pub use level::{Level, UnknownLevel};
pub use levels::{LevelOrigin, Levels};
pub use parse::{parse, parse_local};
pub use replaced::{Dropped, Replaced, replaced};
pub use set::{Limits, Rule, RuleId, RuleSet, Timeouts};
pub use sources::{SourceFault, SourceSet};
pub use span::{SpanFault, parse_span, show_span};
pub use words::{Confidence, Pacing, Scope, TlsPolicy};
