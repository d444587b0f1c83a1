//! Compiled reaction rules.

use std::sync::{Arc, OnceLock};

use mail::mask::Mask;
use regex::bytes::Regex;

use super::file::{ReactionFile, WrittenReaction};
use super::words::ReactionStage;
use crate::bounce::fold_words_into;
use crate::bounce::pattern;
use crate::bounce::{Action, codes_in};

/// Octets of a reply that are looked at.
pub const MOST_TEXT: usize = 4 * 1024;

/// Something that a server said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said<'a> {
    /// The reply as it came, with its codes, lines joined by line ends.
    pub text: &'a str,
    /// The MX host that said it.
    pub mx_host: &'a str,
    /// What it was an answer to.
    pub stage: ReactionStage,
    /// What the bounce rules made of the message; `None`: it was not about a message.
    pub judged: Option<Action>,
}

/// A checked file of reaction rules, compiled. Immutable; shared in an `Arc` and replaced as a whole.
#[derive(Debug)]
pub struct ReactionRules {
    rules: Vec<ReactionRule>,
    version: Arc<str>,
}

/// A compiled rule.
#[derive(Debug)]
pub struct ReactionRule {
    written: Arc<WrittenReaction>,
    name: Arc<str>,
    masks: Arc<[Mask]>,
    text: Vec<Lazy>,
    unless: Vec<Lazy>,
}

impl ReactionRule {
    /// The rule as it was written.
    #[must_use]
    pub fn written(&self) -> &WrittenReaction {
        &self.written
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The MX hosts that it is for; empty: all.
    #[must_use]
    pub const fn masks(&self) -> &Arc<[Mask]> {
        &self.masks
    }
}

/// A pattern that is compiled when it is first needed: most never are.
#[derive(Debug)]
struct Lazy {
    source: Box<str>,
    compiled: OnceLock<Option<Regex>>,
}

impl Lazy {
    fn all(written: &[Box<str>]) -> Vec<Self> {
        // The reader has read and compiled each once, with the same limits.
        let read = written.iter().filter_map(|text| pattern::read(text).ok());
        read.map(|found| Self { source: found.source.into(), compiled: OnceLock::new() }).collect()
    }

    fn is_match(&self, text: &str) -> bool {
        let compiled = self.compiled.get_or_init(|| pattern::compile(&self.source).ok());
        compiled.as_ref().is_some_and(|compiled| compiled.is_match(text.as_bytes()))
    }
}

impl ReactionRules {
    /// Makes a set of a checked file.
    #[must_use]
    pub fn compile(file: &ReactionFile) -> Self {
        let rules = file.rules.iter().map(|written| ReactionRule {
            name: Arc::from(&*written.name),
            masks: written.masks.clone().into(),
            text: Lazy::all(&written.text),
            unless: Lazy::all(&written.unless),
            written: Arc::clone(written),
        });
        Self { rules: rules.collect(), version: Arc::clone(&file.version) }
    }

    /// The shipped rules, compiled at the first call.
    #[must_use]
    pub fn shipped() -> Arc<Self> {
        static SHIPPED: OnceLock<Arc<ReactionRules>> = OnceLock::new();
        let compile = || Arc::new(Self::compile(super::file::shipped_reactions()));
        Arc::clone(SHIPPED.get_or_init(compile))
    }

    /// No rules: nothing ever follows.
    #[must_use]
    pub fn none() -> Arc<Self> {
        Arc::new(Self { rules: Vec::new(), version: Arc::from("none") })
    }

    /// The version of the rules.
    #[must_use]
    pub const fn version(&self) -> &Arc<str> {
        &self.version
    }

    /// All rules, in the order in which they are tried.
    #[must_use]
    pub fn rules(&self) -> &[ReactionRule] {
        &self.rules
    }

    /// Whether a rule has this name.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        self.rules.iter().any(|rule| *rule.name == *name)
    }

    /// The rules that are hit by what was said: the first one that matches, and those behind it as
    /// far as each says `goes_on`.
    #[must_use]
    pub fn matching(&self, said: &Said<'_>) -> Vec<&ReactionRule> {
        let question = Question::new(said);
        let mut hit = Vec::new();
        for rule in self.rules.iter().filter(|rule| rule.matches(&question)) {
            hit.push(rule);
            if !rule.written.goes_on {
                break;
            }
        }
        hit
    }

    /// The numbers of all rules that match, whatever stands before them. For the checker.
    pub(super) fn all_matching(&self, said: &Said<'_>) -> Vec<usize> {
        let question = Question::new(said);
        let matches = |(_, rule): &(usize, &ReactionRule)| rule.matches(&question);
        self.rules.iter().enumerate().filter(matches).map(|(number, _)| number).collect()
    }
}

/// What was said, with its codes, folded.
pub(super) struct Question<'a> {
    pub(super) said: Said<'a>,
    reply: Option<u16>,
    status: Option<mail::reply::EnhancedStatus>,
    folded: String,
}

impl<'a> Question<'a> {
    pub(super) fn new(said: &Said<'a>) -> Self {
        let mut end = said.text.len().min(MOST_TEXT);
        while !said.text.is_char_boundary(end) {
            end -= 1;
        }
        let text = &said.text[..end];
        let (reply, status) = codes_in(text);
        let mut folded = String::with_capacity(text.len());
        for (number, line) in text.lines().enumerate() {
            let line = if number == 0 { line } else { without_code(line) };
            fold_words_into(&mut folded, line);
        }
        Self { said: *said, reply, status, folded }
    }
}

/// A further line of a reply without the code that every line begins with.
fn without_code(line: &str) -> &str {
    match line.as_bytes() {
        [b'2'..=b'5', one, two, b'-' | b' ', ..]
            if one.is_ascii_digit() && two.is_ascii_digit() =>
        {
            &line[4..]
        }
        _ => line,
    }
}

impl ReactionRule {
    pub(super) fn matches(&self, question: &Question<'_>) -> bool {
        let written = &*self.written;
        let said = &question.said;
        let masks =
            written.masks.is_empty() || written.masks.iter().any(|mask| mask.matches(said.mx_host));
        let stage = written.stages.is_empty() || written.stages.contains(&said.stage);
        let judged = written.judged.is_empty()
            || said.judged.is_some_and(|action| written.judged.contains(&action));
        let reply = written.reply.is_empty()
            || question
                .reply
                .is_some_and(|code| written.reply.iter().any(|mask| mask.matches(code)));
        let status = written.status.is_empty()
            || question
                .status
                .is_some_and(|found| written.status.iter().any(|mask| mask.matches(found)));
        let found = |patterns: &[Lazy]| patterns.iter().any(|one| one.is_match(&question.folded));
        masks
            && stage
            && judged
            && reply
            && status
            && (self.text.is_empty() || found(&self.text))
            && !found(&self.unless)
    }
}
