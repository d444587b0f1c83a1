//! Rules by recipient domain: how mail to it is signed and routed ([`domain`]), and how it is built ([`format`]).
//!
//! Both kinds are files of `[[rule]]` tables with masks on the **recipient's domain** (not on the MX host, as
//! MX rules have them). The first rule whose mask matches decides; where none does, nothing is changed.
//!
//! 1. `DomainRuleFile::parse` and `FormatRuleFile::parse` read TOML and report every fault with file, line and
//!    column. [`Recipients`] documents what both kinds have in common, [`DomainTreatment`] and
//!    [`FormatTreatment`] the rest.
//! 2. [`shipped_domain_rules`] and [`shipped_format_rules`] are what comes with the program;
//!    [`RecipientRuleFile::combine`] puts local rules before them.
//! 3. [`RecipientRules::compile`] gives an immutable set to be shared in an `Arc` and replaced as a whole;
//!    [`RecipientRules::find`] answers.
//!
//! # Invariants
//!
//! - Every rule has an example that it wins and, unless its mask is `*`, a counter-example; the reader tries
//!   them. A mask that can never win is a fault.
//! - Nothing here knows a message, a key, the time, a file, a socket, a thread or chance.

mod check;
mod domain;
mod format;
mod parse;

use std::sync::Arc;

use mail::mask::Mask;

use crate::diagnostic::Place;
use crate::index::{Entry, MaskIndex};

pub use domain::{
    DomainRuleFile, DomainRules, DomainTreatment, RelayTarget, SHIPPED_DOMAINS_TOML,
    shipped_domain_rules,
};
pub use format::{
    Charset, FormatRuleFile, FormatRules, FormatTreatment, SHIPPED_FORMATS_TOML, Structure,
    Transfer, shipped_format_rules,
};

/// For whom a rule is: what domain rules and format rules have in common.
///
/// ```toml
/// [[rule]]
/// name = "docomo"
/// mask = ["docomo.ne.jp", "*.docomo.ne.jp"]
/// matches = ["docomo.ne.jp"]
/// matches_not = ["docomo.ne.jp.example.net"]
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipients {
    /// `name`: the unique id of the rule. 1 to 64 lower-case letters, digits, `-`, `_` and `.`. Required.
    pub name: Box<str>,
    /// `provider`: the name that people use. Absent: empty.
    pub provider: Box<str>,
    /// `mask`: a text or a list of 1 to 64, compared with the recipient's domain without regard to case. `*` is any
    /// run of characters, dots too; `?` is one character. Required.
    pub masks: Vec<Mask>,
    /// `matches`: 1 to 64 domains for which this rule must win. Required. Checked.
    pub matches: Vec<Box<str>>,
    /// `matches_not`: up to 64 domains that it must not match. Required unless a mask is `*`. Checked.
    pub matches_not: Vec<Box<str>>,
    /// `notes`: for people.
    pub notes: Box<str>,
    /// Where its `[[rule]]` stands.
    pub place: Place,
}

/// One `[[rule]]`: for whom, and what is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipientRule<T> {
    /// For whom.
    pub to: Recipients,
    /// What is done.
    pub treatment: T,
}

/// A checked file of rules by recipient domain, in the order in which they are tried.
///
/// Made by `parse` and [`RecipientRuleFile::combine`] only, so whoever holds one knows that the checks have
/// passed. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipientRuleFile<T> {
    name: Arc<str>,
    version: Arc<str>,
    rules: Arc<[Arc<RecipientRule<T>>]>,
    /// How many of them, at the front, are the operator's own.
    local: usize,
}

impl<T> RecipientRuleFile<T> {
    /// The name that the caller gave to the file; of combined files both, with ` + ` between.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `version` of the file; of combined files both, with `+` between.
    #[must_use]
    pub fn version(&self) -> &Arc<str> {
        &self.version
    }

    /// The rules in the order in which they are tried.
    #[must_use]
    pub fn rules(&self) -> &[Arc<RecipientRule<T>>] {
        &self.rules
    }

    /// Local rules before those below them. A local rule with the name of another replaces it; it stands where the
    /// local file has it.
    #[must_use]
    pub fn combine(local: Option<&Self>, below: &Self) -> Self {
        let clone = |file: &Self| Self {
            name: Arc::clone(&file.name),
            version: Arc::clone(&file.version),
            rules: Arc::clone(&file.rules),
            local: file.local,
        };
        let Some(local) = local else { return clone(below) };
        let replaced = |rule: &&Arc<RecipientRule<T>>| {
            local.rules.iter().any(|own| own.to.name == rule.to.name)
        };
        let kept = below.rules.iter().filter(|rule| !replaced(rule));
        Self {
            name: format!("{} + {}", local.name, below.name).into(),
            version: format!("{}+{}", local.version, below.version).into(),
            rules: local.rules.iter().chain(kept).cloned().collect(),
            local: local.rules.len(),
        }
    }
}

/// Compiled rules by recipient domain. Immutable; shared in an `Arc` and replaced as a whole.
#[derive(Clone, Debug)]
pub struct RecipientRules<T> {
    version: Arc<str>,
    rules: Arc<[Arc<RecipientRule<T>>]>,
    local: usize,
    index: MaskIndex,
}

impl<T> RecipientRules<T> {
    /// Makes a set of a checked file.
    #[must_use]
    pub fn compile(file: &RecipientRuleFile<T>) -> Self {
        let mut index = MaskIndex::default();
        for (rule, written) in (0_u32..).zip(file.rules.iter()) {
            for (mask, text) in (0_u32..).zip(&written.to.masks) {
                index.insert(Entry { rule, mask }, text);
            }
        }
        Self {
            version: Arc::clone(&file.version),
            rules: Arc::clone(&file.rules),
            local: file.local,
            index,
        }
    }

    /// The version of the file.
    #[must_use]
    pub fn version(&self) -> &Arc<str> {
        &self.version
    }

    /// The rules in the order in which they are tried.
    #[must_use]
    pub fn rules(&self) -> &[Arc<RecipientRule<T>>] {
        &self.rules
    }

    /// Whether a rule of this set is the operator's own.
    #[must_use]
    pub fn is_local(&self, rule: &RecipientRule<T>) -> bool {
        self.rules[..self.local].iter().any(|own| own.to.name == rule.to.name)
    }

    /// The first rule that matches a recipient's domain, without regard to case and a final dot.
    #[must_use]
    pub fn find(&self, domain: &str) -> Option<&Arc<RecipientRule<T>>> {
        let name = domain.strip_suffix('.').unwrap_or(domain).to_ascii_lowercase();
        let matches = |entry: &&Entry| {
            self.rules[entry.rule as usize].to.masks[entry.mask as usize].matches(&name)
        };
        let lists = self.index.lists(name.as_bytes());
        let best = lists.filter_map(|list| list.iter().find(matches)).min()?;
        self.rules.get(best.rule as usize)
    }
}

#[cfg(test)]
mod tests;
