//! Compiled rules: one pass over a text finds the few that can match, in order.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use aho_corasick::{AhoCorasick, MatchKind};
use mail::failure::{FailureType, Reason};
use mail::reply::EnhancedStatus;
use regex::bytes::Regex;

use super::codes::codes_in;
use super::file::{BounceRuleFile, WrittenBounceRule};
use super::fold::fold_into;
use super::normal::normalise_into;
use super::pattern;
use super::said::{from_the_heart, without_links};
use super::verdict::{Action, Evidence, QualificationStatus, Verdict};

/// A checked file of bounce rules, compiled. Immutable; shared in an `Arc` and replaced as a whole.
///
/// The time of a judgement is linear in the text: one pass of a literal search, then the patterns of
/// the rules whose literals were found, in order, until one matches.
#[derive(Debug)]
pub struct BounceRules {
    rules: Vec<Compiled>,
    version: Arc<str>,
    /// Every `text` pattern of every rule.
    patterns: Vec<Lazy>,
    /// Every literal of every `text` pattern.
    search: Option<AhoCorasick>,
    /// The patterns that each literal stands for.
    meaning: Vec<Vec<Candidate>>,
    /// What is a candidate whatever the text.
    always: Vec<Candidate>,
    /// The rules that look at codes only.
    of_codes: Vec<Candidate>,
    /// Whether any rule has a condition for the subject, body or header of a mail.
    looks_at_mail: bool,
    unknown: Arc<str>,
}

/// A verdict, and what it rests on.
#[derive(Clone, Debug)]
pub(super) struct Decided {
    pub(super) verdict: Verdict,
    /// The diagnostic and the codes settle it: of evidence without subject, body and header it is the
    /// same as with any.
    pub(super) by_diagnostic: bool,
}

/// A rule that may match, by one of its patterns. In the order of the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rule: u32,
    /// Index of the pattern; [`FOUND`] when nothing must be searched any more.
    pattern: u32,
}

/// Sorts before every pattern: the rule has no `text`, or a literal that is a whole pattern was found.
const FOUND: u32 = 0;

/// A pattern that is compiled when it is first needed: most never are.
#[derive(Debug)]
struct Lazy {
    source: Box<str>,
    compiled: OnceLock<Option<Regex>>,
}

impl Lazy {
    fn new(source: &str) -> Self {
        Self { source: source.into(), compiled: OnceLock::new() }
    }

    fn is_match(&self, text: &str) -> bool {
        // The checker compiled it once with the same limits, so it is there.
        let compiled = self.compiled.get_or_init(|| pattern::compile(&self.source).ok());
        compiled.as_ref().is_some_and(|compiled| compiled.is_match(text.as_bytes()))
    }
}

#[derive(Debug)]
struct Compiled {
    written: Arc<WrittenBounceRule>,
    name: Arc<str>,
    unless: Vec<Lazy>,
    subject: Vec<Lazy>,
    body: Vec<Lazy>,
    header: Vec<Lazy>,
    of_codes: bool,
}

/// Which rules are asked, and about what.
struct Asking<'a> {
    last_resort: bool,
    of_codes: bool,
    text: &'a str,
}

/// What the conditions are tried on: evidence with its codes and folded texts.
struct Question<'a> {
    reply: Option<u16>,
    status: Option<EnhancedStatus>,
    provider: &'a str,
    synchronous: bool,
    subject: &'a str,
    body: &'a str,
    header: &'a str,
}

impl Question<'_> {
    /// Whether the server only deferred, by either code.
    fn deferred(&self) -> bool {
        match self.reply {
            Some(code) => (400..500).contains(&code),
            None => self.status.is_some_and(|status| status.class == 4),
        }
    }

    /// Whether any code says that it may work later.
    fn hopeful(&self) -> bool {
        self.deferred() || self.status.is_some_and(|status| status.class == 4)
    }
}

/// Room for a judgement, kept from one to the next so that nothing is allocated in between.
#[derive(Debug, Default)]
pub struct Room {
    normalised: String,
    folded: String,
    linkless: String,
    subject: String,
    body: String,
    header: String,
    candidates: Vec<Candidate>,
}

impl Room {
    /// The normalised diagnostic of the last judgement.
    #[must_use]
    pub fn normalised(&self) -> &str {
        &self.normalised
    }

    /// Normalises a text for a judgement to come.
    pub(super) fn normalise(&mut self, text: &str) {
        normalise_into(&mut self.normalised, text);
    }
}

impl BounceRules {
    /// Makes a set of a checked file.
    #[must_use]
    pub fn compile(file: &BounceRuleFile) -> Self {
        let mut rules = Vec::with_capacity(file.rules.len());
        // Index 0 is not a pattern; see `FOUND`.
        let mut patterns = vec![Lazy::new("-")];
        let mut literals: Vec<String> = Vec::new();
        let mut meaning: Vec<Vec<Candidate>> = Vec::new();
        let (mut always, mut of_codes) = (Vec::new(), Vec::new());
        let mut known = BTreeMap::new();
        for (rule, written) in (0_u32..).zip(file.rules.iter()) {
            if written.is_of_codes() {
                of_codes.push(Candidate { rule, pattern: FOUND });
            } else if written.text.is_empty() {
                always.push(Candidate { rule, pattern: FOUND });
            }
            for pattern in written.text.iter().filter_map(|text| pattern::read(text).ok()) {
                let candidate = match pattern.is_literal {
                    true => Candidate { rule, pattern: FOUND },
                    false => {
                        patterns.push(Lazy::new(&pattern.source));
                        // A file has at most a million patterns.
                        let last = u32::try_from(patterns.len() - 1).unwrap_or(u32::MAX);
                        Candidate { rule, pattern: last }
                    }
                };
                if pattern.literals.is_empty() {
                    always.push(candidate);
                }
                for literal in pattern.literals {
                    let slot = *known.entry(literal).or_insert_with_key(|literal| {
                        literals.push(literal.clone());
                        meaning.push(Vec::new());
                        literals.len() - 1
                    });
                    meaning[slot].push(candidate);
                }
            }
            let others = |written: &[Box<str>]| -> Vec<Lazy> {
                let read = written.iter().filter_map(|text| pattern::read(text).ok());
                read.map(|pattern| Lazy::new(&pattern.source)).collect()
            };
            rules.push(Compiled {
                name: Arc::from(&*written.name),
                unless: others(&written.unless),
                subject: others(&written.subject),
                body: others(&written.body),
                header: others(&written.header),
                of_codes: written.is_of_codes(),
                written: Arc::clone(written),
            });
        }
        let search = AhoCorasick::builder().match_kind(MatchKind::Standard).build(&literals).ok();
        Self {
            rules,
            version: Arc::clone(&file.version),
            patterns,
            search,
            meaning,
            always,
            of_codes,
            looks_at_mail: file.rules.iter().any(|rule| rule.looks_at_mail()),
            unknown: Arc::from("none"),
        }
    }

    /// The shipped rules, compiled at the first call.
    #[must_use]
    pub fn shipped() -> Arc<Self> {
        static SHIPPED: OnceLock<Arc<BounceRules>> = OnceLock::new();
        Arc::clone(
            SHIPPED.get_or_init(|| Arc::new(Self::compile(super::file::shipped_bounce_rules()))),
        )
    }

    /// The version of the rules.
    #[must_use]
    pub fn version(&self) -> &Arc<str> {
        &self.version
    }

    /// How many rules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is no rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Octets of the literal search; the patterns take room only as they are used.
    #[must_use]
    pub fn search_octets(&self) -> usize {
        self.search.as_ref().map_or(0, AhoCorasick::memory_usage)
    }

    /// Judges by the rules alone. [`super::BounceJudge`] adds what people have said, and a cache.
    #[must_use]
    pub fn classify(&self, evidence: &Evidence<'_>) -> Verdict {
        let mut room = Room::default();
        room.normalise(evidence.diagnostic);
        self.classify_normalised(evidence, &mut room).verdict
    }

    /// The numbers of all rules that match, in order; those of last resort behind the others. For the
    /// checker.
    pub(crate) fn all_matching(&self, evidence: &Evidence<'_>) -> Vec<usize> {
        let mut room = Room::default();
        room.normalise(evidence.diagnostic);
        let mut all = Vec::new();
        self.passes(evidence, &mut room, |number| {
            if !all.contains(&number) {
                all.push(number);
            }
            false
        });
        all
    }

    /// Judges evidence whose diagnostic `room` holds normalised.
    pub(super) fn classify_normalised(&self, evidence: &Evidence<'_>, room: &mut Room) -> Decided {
        let mut winner = None;
        let (deferred, hopeful) = self.passes(evidence, room, |number| {
            winner = Some(number);
            true
        });
        match winner.map(|number| &self.rules[number]) {
            Some(rule) => Decided {
                verdict: self.verdict(rule, deferred, hopeful),
                by_diagnostic: !rule.written.last_resort && !self.looks_at_mail,
            },
            None => Decided {
                verdict: Verdict {
                    reason: Reason::NotDefined,
                    failure_type: FailureType::Soft,
                    rule: Arc::clone(&self.unknown),
                    version: Arc::clone(&self.version),
                    status: QualificationStatus::ToQualify,
                    action: Action::usual(Reason::NotDefined, deferred),
                },
                by_diagnostic: false,
            },
        }
    }

    fn verdict(&self, rule: &Compiled, deferred: bool, hopeful: bool) -> Verdict {
        let written = &rule.written;
        let (reason, wanted) = match written.deferred.filter(|_| deferred) {
            Some(reason) => (reason, reason.usual_type()),
            None => (written.reason, written.failure_type),
        };
        // A refusal that is not the address's fault is not when it is put off either.
        let excused = written.reason == Reason::Refused && reason == Reason::Unreachable;
        let softened = hopeful && wanted == FailureType::Hard && reason != Reason::Complaint;
        Verdict {
            reason,
            failure_type: if softened { FailureType::Soft } else { wanted },
            rule: Arc::clone(&rule.name),
            version: Arc::clone(&self.version),
            status: match (written.guess, excused) {
                (true, _) => QualificationStatus::ToQualify,
                (false, true) => QualificationStatus::Ignore,
                (false, false) => QualificationStatus::Keep,
            },
            action: written.action.unwrap_or_else(|| Action::usual(reason, deferred)),
        }
    }

    /// Goes through the rules that match, in order, until `found` is satisfied: by the diagnostic,
    /// then by the body, then those of last resort. Answers whether the server deferred, by its
    /// reply and by any code.
    fn passes(
        &self,
        evidence: &Evidence<'_>,
        room: &mut Room,
        mut found: impl FnMut(usize) -> bool,
    ) -> (bool, bool) {
        let Room { normalised, folded, linkless, subject, body, header, candidates } = room;
        refold(folded, normalised);
        refold(subject, evidence.subject);
        refold(header, evidence.header);
        body.clear();
        if !evidence.body.is_empty() {
            let mut plain = String::new();
            normalise_into(&mut plain, evidence.body);
            fold_into(body, &plain);
        }
        let mut linked_body = String::new();
        let linked_body = without_links(&mut linked_body, body).then_some(linked_body);
        let (reply, status) = match (evidence.reply, evidence.status) {
            (Some(reply), Some(status)) => (Some(reply), Some(status)),
            (reply, status) => {
                let (reply_found, status_found) = codes_in(normalised);
                (reply.or(reply_found), status.or(status_found))
            }
        };
        let question = Question {
            reply,
            status,
            provider: evidence.provider,
            synchronous: evidence.synchronous,
            subject,
            body,
            header,
        };
        let said = (question.deferred(), question.hopeful());
        let linked = without_links(linkless, folded);
        let plain = if linked { linkless.as_str() } else { folded.as_str() };
        for last_resort in [false, true] {
            // Rules for the subject or header of a mail are asked even where it has no other text.
            if self.ask_texts(from_the_heart(plain), last_resort, &question, candidates, &mut found)
            {
                return said;
            }
            let asking = Asking { last_resort, of_codes: true, text: folded };
            if self.ask(&asking, &question, &self.of_codes, &mut found) {
                return said;
            }
            let more = linked.then_some(folded.as_str()).into_iter().flat_map(from_the_heart);
            let body = (!question.body.is_empty()).then_some(question.body);
            let texts = more.chain(linked_body.as_deref()).chain(body);
            if self.ask_texts(texts, last_resort, &question, candidates, &mut found) {
                return said;
            }
        }
        said
    }

    /// Tries the rules with patterns on one text after the other until `found` is satisfied; whether it was.
    fn ask_texts<'text>(
        &self,
        mut texts: impl Iterator<Item = &'text str>,
        last_resort: bool,
        question: &Question<'_>,
        candidates: &mut Vec<Candidate>,
        found: &mut impl FnMut(usize) -> bool,
    ) -> bool {
        texts.any(|text| {
            self.candidates(text, candidates);
            let asking = Asking { last_resort, of_codes: false, text };
            self.ask(&asking, question, candidates, found)
        })
    }

    /// Tries candidates in order until `found` is satisfied; whether it was.
    fn ask(
        &self,
        asking: &Asking<'_>,
        question: &Question<'_>,
        candidates: &[Candidate],
        found: &mut impl FnMut(usize) -> bool,
    ) -> bool {
        candidates.chunk_by(|one, other| one.rule == other.rule).any(|same_rule| {
            let number = same_rule[0].rule as usize;
            let rule = &self.rules[number];
            rule.written.last_resort == asking.last_resort
                && rule.of_codes == asking.of_codes
                && rule.conditions_hold(question)
                && self.text_matches(same_rule, asking.text)
                && !any(&rule.unless, asking.text)
                && found(number)
        })
    }

    /// Whether one of the candidates, all of one rule, matches.
    fn text_matches(&self, same_rule: &[Candidate], text: &str) -> bool {
        same_rule.iter().any(|candidate| {
            candidate.pattern == FOUND || self.patterns[candidate.pattern as usize].is_match(text)
        })
    }

    /// What can match the text, in the order of the rules.
    fn candidates(&self, text: &str, candidates: &mut Vec<Candidate>) {
        candidates.clear();
        candidates.extend_from_slice(&self.always);
        if let Some(search) = &self.search {
            for hit in search.find_overlapping_iter(text) {
                candidates.extend_from_slice(&self.meaning[hit.pattern().as_usize()]);
            }
        }
        candidates.sort_unstable();
        candidates.dedup();
    }
}

/// Whether one of the patterns matches.
fn any(patterns: &[Lazy], text: &str) -> bool {
    patterns.iter().any(|pattern| pattern.is_match(text))
}

/// `text` folded into a buffer that is emptied first.
fn refold(buffer: &mut String, text: &str) {
    buffer.clear();
    fold_into(buffer, text);
}

impl Compiled {
    /// Whether all conditions but those of `text` and `unless` hold.
    fn conditions_hold(&self, question: &Question<'_>) -> bool {
        let masks = &self.written.masks;
        let holds = |patterns: &[Lazy], text: &str| patterns.is_empty() || any(patterns, text);
        self.codes_match(question)
            && (masks.is_empty() || masks.iter().any(|mask| mask.matches(question.provider)))
            && holds(&self.subject, question.subject)
            && holds(&self.body, question.body)
            && holds(&self.header, question.header)
    }

    fn codes_match(&self, question: &Question<'_>) -> bool {
        let written = &*self.written;
        let reply = written.reply.is_empty()
            || question
                .reply
                .is_some_and(|code| written.reply.iter().any(|mask| mask.matches(code)));
        let status = written.status.is_empty()
            || question
                .status
                .is_some_and(|status| written.status.iter().any(|mask| mask.matches(status)));
        reply
            && status
            && written.synchronous.is_none_or(|synchronous| synchronous == question.synchronous)
    }
}
