//! Compiled rules: one pass over a text finds the few that can match, in order.

use std::sync::{Arc, OnceLock};

use aho_corasick::{AhoCorasick, MatchKind};
use mail::failure::{FailureType, Reason};
use mail::reply::EnhancedStatus;
use regex::Regex;

use super::codes::codes_in;
use super::file::{BounceRuleFile, WrittenBounceRule};
use super::fold::fold_into;
use super::normal::normalise_into;
use super::pattern;
use super::verdict::{Action, Evidence, QualificationStatus, Verdict};

/// A checked file of bounce rules, compiled. Immutable; shared in an `Arc` and replaced as a whole.
///
/// The time of a judgement is linear in the text: one pass of a literal search, then the patterns of
/// the rules whose literals were found, in order, until one matches.
#[derive(Debug)]
pub struct BounceRules {
    rules: Vec<Compiled>,
    version: Arc<str>,
    /// Every literal of every `text` pattern.
    search: Option<AhoCorasick>,
    /// What each literal stands for.
    meaning: Vec<Vec<Found>>,
    /// Rules that are candidates whatever the text.
    always: Vec<u32>,
    unknown: Arc<str>,
}

/// A literal of a rule.
#[derive(Clone, Copy, Debug)]
struct Found {
    rule: u32,
    /// The literal is a whole pattern, so that nothing else must be searched.
    decides: bool,
}

#[derive(Debug)]
struct Compiled {
    written: Arc<WrittenBounceRule>,
    name: Arc<str>,
    text: Option<Regex>,
    unless: Option<Regex>,
    subject: Option<Regex>,
    body: Option<Regex>,
    header: Option<Regex>,
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
    subject: String,
    body: String,
    header: String,
    candidates: Vec<u32>,
    decided: Vec<u32>,
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
    /// Compiles a checked file.
    #[must_use]
    pub fn compile(file: &BounceRuleFile) -> Self {
        let mut rules = Vec::with_capacity(file.rules.len());
        let mut literals: Vec<String> = Vec::new();
        let mut meaning: Vec<Vec<Found>> = Vec::new();
        let mut always = Vec::new();
        let mut known = std::collections::BTreeMap::new();
        for (number, written) in (0_u32..).zip(file.rules.iter()) {
            let patterns = |written: &[Box<str>]| -> Vec<pattern::Pattern> {
                written.iter().filter_map(|text| pattern::read(text).ok()).collect()
            };
            let text = patterns(&written.text);
            if text.is_empty() || text.iter().any(|pattern| pattern.literals.is_empty()) {
                always.push(number);
            }
            for pattern in &text {
                for literal in &pattern.literals {
                    let slot = *known.entry(literal.clone()).or_insert_with(|| {
                        literals.push(literal.clone());
                        meaning.push(Vec::new());
                        literals.len() - 1
                    });
                    meaning[slot].push(Found { rule: number, decides: pattern.is_literal });
                }
            }
            let compiled = |patterns: &[pattern::Pattern], all: bool| {
                let sources = patterns
                    .iter()
                    .filter(|pattern| all || !pattern.is_literal)
                    .map(|pattern| &*pattern.source);
                // The checker compiled them once with the same limits.
                pattern::compile(sources).ok().flatten()
            };
            rules.push(Compiled {
                name: Arc::from(&*written.name),
                text: compiled(&text, false),
                unless: compiled(&patterns(&written.unless), true),
                subject: compiled(&patterns(&written.subject), true),
                body: compiled(&patterns(&written.body), true),
                header: compiled(&patterns(&written.header), true),
                written: Arc::clone(written),
            });
        }
        let search = AhoCorasick::builder().match_kind(MatchKind::Standard).build(&literals).ok();
        Self {
            rules,
            version: Arc::clone(&file.version),
            search,
            meaning,
            always,
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
        self.classify_normalised(evidence, &mut room)
    }

    /// The numbers of all rules that match, in order; those of last resort behind the others. For the
    /// checker.
    pub(super) fn all_matching(&self, evidence: &Evidence<'_>) -> Vec<usize> {
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
    pub(super) fn classify_normalised(&self, evidence: &Evidence<'_>, room: &mut Room) -> Verdict {
        let mut winner = None;
        let question = self.passes(evidence, room, |number| {
            winner = Some(number);
            true
        });
        let deferred = question.0;
        match winner {
            Some(number) => self.verdict(&self.rules[number], deferred, question.1),
            None => Verdict {
                reason: Reason::NotDefined,
                failure_type: FailureType::Soft,
                rule: Arc::clone(&self.unknown),
                version: Arc::clone(&self.version),
                status: QualificationStatus::ToQualify,
                action: Action::usual(Reason::NotDefined, deferred),
            },
        }
    }

    fn verdict(&self, rule: &Compiled, deferred: bool, hopeful: bool) -> Verdict {
        let written = &rule.written;
        let (reason, wanted) = match written.deferred.filter(|_| deferred) {
            Some(reason) => (reason, reason.usual_type()),
            None => (written.reason, written.failure_type),
        };
        let softened = hopeful && wanted == FailureType::Hard && reason != Reason::Complaint;
        Verdict {
            reason,
            failure_type: if softened { FailureType::Soft } else { wanted },
            rule: Arc::clone(&rule.name),
            version: Arc::clone(&self.version),
            status: match written.guess {
                true => QualificationStatus::ToQualify,
                false => QualificationStatus::Keep,
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
        let Room { normalised, folded, subject, body, header, candidates, decided } = room;
        refold(folded, normalised);
        refold(subject, evidence.subject);
        refold(header, evidence.header);
        body.clear();
        if !evidence.body.is_empty() {
            let mut plain = String::new();
            normalise_into(&mut plain, evidence.body);
            fold_into(body, &plain);
        }
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
        for last_resort in [false, true] {
            for (pass, text) in [folded.as_str(), body.as_str()].into_iter().enumerate() {
                if pass == 1 && text.is_empty() {
                    continue;
                }
                self.candidates(text, candidates, decided);
                for number in candidates.iter().map(|number| *number as usize) {
                    let rule = &self.rules[number];
                    // Without a pattern for the text, the second pass can find nothing new.
                    let skipped = rule.written.last_resort != last_resort
                        || pass == 1 && rule.written.text.is_empty();
                    let whole = || decided.contains(&u32::try_from(number).unwrap_or(u32::MAX));
                    if !skipped && rule.matches(&question, text, whole) && found(number) {
                        return said;
                    }
                }
            }
        }
        said
    }

    /// The rules that can match the text, in order; `decided` are those with a pattern that is found
    /// already.
    fn candidates(&self, text: &str, candidates: &mut Vec<u32>, decided: &mut Vec<u32>) {
        candidates.clear();
        decided.clear();
        candidates.extend_from_slice(&self.always);
        if let Some(search) = &self.search {
            for hit in search.find_overlapping_iter(text) {
                for found in &self.meaning[hit.pattern().as_usize()] {
                    candidates.push(found.rule);
                    if found.decides {
                        decided.push(found.rule);
                    }
                }
            }
        }
        candidates.sort_unstable();
        candidates.dedup();
    }
}

/// `text` folded into a buffer that is emptied first.
fn refold(buffer: &mut String, text: &str) {
    buffer.clear();
    fold_into(buffer, text);
}

impl Compiled {
    /// Whether all conditions hold; `whole` says whether a literal that is a whole pattern was found.
    fn matches(&self, question: &Question<'_>, text: &str, whole: impl FnOnce() -> bool) -> bool {
        let written = &*self.written;
        let found = |pattern: &Option<Regex>, text: &str| {
            pattern.as_ref().is_none_or(|pattern| pattern.is_match(text))
        };
        self.codes_match(question)
            && (written.masks.is_empty()
                || written.masks.iter().any(|mask| mask.matches(question.provider)))
            && (written.text.is_empty()
                || whole()
                || self.text.as_ref().is_some_and(|pattern| pattern.is_match(text)))
            && found(&self.subject, question.subject)
            && found(&self.body, question.body)
            && found(&self.header, question.header)
            && !self.unless.as_ref().is_some_and(|pattern| pattern.is_match(text))
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
