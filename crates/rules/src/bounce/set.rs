//! Compiled rules: one pass over a text finds the few that can match, in order.

use core::cell::OnceCell;
use core::ops::Range;
use std::sync::{Arc, OnceLock};

use mail::failure::{FailureType, Reason};
use mail::reply::EnhancedStatus;
use regex::bytes::Regex;

use super::codes::codes_in;
use super::file::{BounceRuleFile, WrittenBounceRule};
use super::fold::fold_into;
use super::known::KnownTexts;
use super::normal::normalise_into;
use super::pattern::{self, Pattern};
use super::said::{heart, without_links};
use super::search::{PatternNumber, Search, Sight};
use super::verdict::{Action, Evidence, QualificationStatus, Verdict};

/// A checked file of bounce rules, compiled. Immutable; shared in an `Arc` and replaced as a whole.
///
/// The time of a judgement is linear in the text: one pass of a literal search, then the patterns of
/// the rules whose words were found, in order, until one matches. It hardly grows with the number of
/// rules.
#[derive(Debug)]
pub struct BounceRules {
    rules: Vec<Compiled>,
    version: Arc<str>,
    /// Every `text` and `unless` pattern of every rule, in the order of the rules.
    patterns: Vec<Searched>,
    /// The words of these patterns.
    search: Search,
    /// The rules without `text` that look at a mail, in order: candidates whatever the text.
    of_mail: Vec<Candidate>,
    /// The rules that look at codes only, in order.
    of_codes: Vec<Candidate>,
    /// What of a mail any rule looks at beside its text.
    looked_at: LookedAt,
    unknown: Arc<str>,
    /// Texts that a bundle knows.
    known: KnownTexts,
}

/// What of a mail any rule has a condition for; a body is always looked at, in the end.
#[derive(Clone, Copy, Debug)]
struct LookedAt {
    subject: bool,
    header: bool,
}

/// A verdict, and what it rests on.
#[derive(Clone, Debug)]
pub(super) struct Decided {
    pub(super) verdict: Verdict,
    /// The diagnostic and the codes settle it: of evidence without subject, body and header it is the
    /// same as with any.
    pub(super) by_diagnostic: bool,
}

/// A `text` or `unless` pattern.
#[derive(Debug)]
struct Searched {
    /// Of which rule.
    rule: u32,
    /// Where [`Search`] finds it possible it matches.
    is_decided: bool,
    pattern: Lazy,
}

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
    /// Its `unless` patterns.
    unless: Range<PatternNumber>,
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
    /// What the search found in `text`.
    sight: &'a Sight,
}

/// What the conditions are tried on: evidence with its codes and folded texts.
struct Question<'a> {
    reply: Option<u16>,
    status: Option<EnhancedStatus>,
    provider: &'a str,
    synchronous: bool,
    subject: &'a str,
    body: Body<'a>,
    header: &'a str,
}

/// The body of a mail, which is normalised and folded when it is first looked at: most never are.
struct Body<'a> {
    raw: &'a str,
    folded: OnceCell<String>,
}

impl Body<'_> {
    fn get(&self) -> &str {
        self.folded.get_or_init(|| {
            let (mut plain, mut folded) = (String::new(), String::new());
            if !self.raw.is_empty() {
                normalise_into(&mut plain, self.raw);
                fold_into(&mut folded, &plain);
            }
            folded
        })
    }
}

/// What a pass through the rules says beside the rules it found.
#[derive(Clone, Copy, Debug)]
struct Said {
    /// The server only deferred, by its reply.
    deferred: bool,
    /// It may work later, by any code, or by the reply that is quoted.
    hopeful: bool,
    /// See [`Decided::by_diagnostic`].
    by_diagnostic: bool,
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
    header: String,
    /// What was found in the text with and without the paths of links, and in the body with and without.
    seen: [Seen; 4],
    /// The rules that are tried.
    candidates: Vec<Candidate>,
}

/// What was found in a text, and in its heart where that is less.
#[derive(Debug, Default)]
struct Seen {
    whole: Sight,
    heart: Sight,
}

/// A text that rules are asked about: first its heart, then all of it.
struct Looked<'a> {
    text: &'a str,
    heart: Range<usize>,
    seen: &'a Seen,
}

impl<'a> Looked<'a> {
    /// Searches a text once.
    fn at(search: &Search, text: &'a str, heart: Range<usize>, seen: &'a mut Seen) -> Self {
        search.look(text, &heart, &mut seen.whole, &mut seen.heart);
        Self { text, heart, seen }
    }

    /// Searches the body of a mail once, which quotes so much that it has no heart.
    fn of_body(search: &Search, text: &'a str, seen: &'a mut Seen) -> Self {
        Self::at(search, text, 0..text.len(), seen)
    }
}

/// A pass through the rules.
struct Trial<'a, F> {
    question: &'a Question<'a>,
    candidates: &'a mut Vec<Candidate>,
    said: Said,
    /// Is told the number of a rule that matches; whether that satisfies.
    found: &'a mut F,
}

/// A rule that may match by one of its patterns, or by none where it has none. In the order of the
/// rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rule: u32,
    pattern: Option<PatternNumber>,
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
    /// The same rules, corrected by the texts that a bundle knows.
    #[must_use]
    pub fn with_known(self, known: KnownTexts) -> Self {
        Self { known, ..self }
    }

    /// The texts that a bundle knows.
    pub(super) const fn known(&self) -> &KnownTexts {
        &self.known
    }

    /// Makes a set of a checked file.
    #[must_use]
    pub fn compile(file: &BounceRuleFile) -> Self {
        let mut rules = Vec::with_capacity(file.rules.len());
        let mut read: Vec<(Pattern, bool)> = Vec::new();
        let mut patterns = Vec::new();
        let (mut of_mail, mut of_codes) = (Vec::new(), Vec::new());
        for (rule, written) in (0_u32..).zip(file.rules.iter()) {
            if written.is_of_codes() {
                of_codes.push(Candidate { rule, pattern: None });
            } else if written.text.is_empty() {
                of_mail.push(Candidate { rule, pattern: None });
            }
            let texts = written.text.iter().map(|text| (text, true));
            let excluded = written.unless.iter().map(|text| (text, false));
            // A file has at most a million patterns.
            let count =
                |patterns: &Vec<Searched>| u32::try_from(patterns.len()).unwrap_or(u32::MAX);
            let mut unless = 0..0;
            for (text, leading) in texts.chain(excluded) {
                let Ok(pattern) = pattern::read(text) else { continue };
                if !leading && unless.is_empty() {
                    unless = count(&patterns)..count(&patterns);
                }
                let lazy = Lazy::new(&pattern.source);
                patterns.push(Searched { rule, is_decided: pattern.is_decided, pattern: lazy });
                unless.end = if leading { unless.end } else { count(&patterns) };
                read.push((pattern, leading));
            }
            let others = |written: &[Box<str>]| -> Vec<Lazy> {
                let read = written.iter().filter_map(|text| pattern::read(text).ok());
                read.map(|pattern| Lazy::new(&pattern.source)).collect()
            };
            rules.push(Compiled {
                name: Arc::from(&*written.name),
                unless,
                subject: others(&written.subject),
                body: others(&written.body),
                header: others(&written.header),
                of_codes: written.is_of_codes(),
                written: Arc::clone(written),
            });
        }
        let any = |has: fn(&Compiled) -> bool| rules.iter().any(has);
        Self {
            looked_at: LookedAt {
                subject: any(|rule| !rule.subject.is_empty()),
                header: any(|rule| !rule.header.is_empty()),
            },
            search: Search::build(read.iter().map(|(pattern, leading)| (pattern, *leading))),
            known: KnownTexts::default(),
            rules,
            version: Arc::clone(&file.version),
            patterns,
            of_mail,
            of_codes,
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
        self.search.octets()
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
        let Said { deferred, hopeful, by_diagnostic } = self.passes(evidence, room, |number| {
            winner = Some(number);
            true
        });
        match winner.map(|number| &self.rules[number]) {
            Some(rule) => Decided { verdict: self.verdict(rule, deferred, hopeful), by_diagnostic },
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
    /// then by the body, then those of last resort.
    fn passes(
        &self,
        evidence: &Evidence<'_>,
        room: &mut Room,
        mut found: impl FnMut(usize) -> bool,
    ) -> Said {
        let Room { normalised, folded, linkless, subject, header, seen, candidates } = room;
        refold(folded, normalised);
        refold(subject, if self.looked_at.subject { evidence.subject } else { "" });
        refold(header, if self.looked_at.header { evidence.header } else { "" });
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
            body: Body { raw: evidence.body, folded: OnceCell::new() },
            header,
        };
        let said = Said {
            deferred: question.deferred(),
            hopeful: question.hopeful(),
            by_diagnostic: true,
        };
        let mut trial = Trial { question: &question, candidates, said, found: &mut found };
        let [seen, seen_linkless, seen_body, seen_linkless_body] = seen;
        let all = Looked::at(&self.search, folded, heart(folded), seen);
        // What was quoted may have been a deferral that was given up in the end: `time exceeded, last
        // reply: 450 user unknown`.
        trial.said.hopeful |= all.heart.start > 0 && all.text[all.heart.clone()].starts_with('4');
        let linkless = without_links(linkless, folded)
            .then(|| Looked::at(&self.search, linkless, heart(linkless), seen_linkless));
        if self.ask_diagnostic(&all, linkless.as_ref(), false, &mut trial) {
            return trial.said;
        }
        trial.said.by_diagnostic = false;
        let body = question.body.get();
        let mut linkless_body = String::new();
        let linkless_body = without_links(&mut linkless_body, body)
            .then(|| Looked::of_body(&self.search, &linkless_body, seen_linkless_body));
        let body = (!body.is_empty()).then(|| Looked::of_body(&self.search, body, seen_body));
        let ask_bodies = |last_resort, trial: &mut Trial<'_, _>| {
            let mut bodies = linkless_body.iter().chain(&body);
            bodies.any(|body| self.ask_text(body, last_resort, trial))
        };
        let _ = ask_bodies(false, &mut trial)
            || self.ask_diagnostic(&all, linkless.as_ref(), true, &mut trial)
            || ask_bodies(true, &mut trial);
        trial.said
    }

    /// Tries the rules on the diagnostic: on its words, by its codes, and on the paths of its links;
    /// whether one satisfied.
    fn ask_diagnostic(
        &self,
        all: &Looked<'_>,
        linkless: Option<&Looked<'_>>,
        last_resort: bool,
        trial: &mut Trial<'_, impl FnMut(usize) -> bool>,
    ) -> bool {
        let words = linkless.unwrap_or(all);
        let codes =
            Asking { last_resort, of_codes: true, text: words.text, sight: &words.seen.whole };
        // Rules for the subject or header of a mail are asked even where it has no other text.
        self.ask_text(words, last_resort, trial)
            || self.ask(&codes, &self.of_codes, trial)
            || linkless.is_some() && self.ask_text(all, last_resort, trial)
    }

    /// Tries the rules with patterns on a text; whether one satisfied.
    fn ask_text(
        &self,
        looked: &Looked<'_>,
        last_resort: bool,
        trial: &mut Trial<'_, impl FnMut(usize) -> bool>,
    ) -> bool {
        let parts = [
            (&looked.text[looked.heart.clone()], &looked.seen.heart),
            (looked.text, &looked.seen.whole),
        ];
        let is_parted = looked.heart.len() < looked.text.len();
        parts[usize::from(!is_parted)..].iter().any(|(text, sight)| {
            let mut candidates = core::mem::take(trial.candidates);
            self.candidates(sight, &mut candidates);
            let asking = Asking { last_resort, of_codes: false, text, sight };
            let satisfied = self.ask(&asking, &candidates, trial);
            *trial.candidates = candidates;
            satisfied
        })
    }

    /// Tries candidates in order until one satisfies; whether one did. Notes where the answer hangs on
    /// more than the diagnostic.
    fn ask(
        &self,
        asking: &Asking<'_>,
        candidates: &[Candidate],
        trial: &mut Trial<'_, impl FnMut(usize) -> bool>,
    ) -> bool {
        candidates.chunk_by(|one, other| one.rule == other.rule).any(|same_rule| {
            let number = same_rule[0].rule as usize;
            let rule = &self.rules[number];
            let by_text = rule.written.last_resort == asking.last_resort
                && rule.of_codes == asking.of_codes
                && rule.conditions_hold(trial.question)
                && self.text_matches(same_rule, asking)
                && !self.is_excluded(rule, asking);
            if !by_text {
                return false;
            }
            if rule.written.looks_at_mail() {
                trial.said.by_diagnostic = false;
                return rule.mail_matches(trial.question) && (trial.found)(number);
            }
            (trial.found)(number)
        })
    }

    /// Whether one of the candidates, all of one rule, matches.
    fn text_matches(&self, same_rule: &[Candidate], asking: &Asking<'_>) -> bool {
        same_rule
            .iter()
            .any(|candidate| candidate.pattern.is_none_or(|number| self.matches(number, asking)))
    }

    /// Whether one of the rule's `unless` patterns matches.
    fn is_excluded(&self, rule: &Compiled, asking: &Asking<'_>) -> bool {
        rule.unless.clone().any(|number| self.matches(number, asking))
    }

    /// Whether a `text` or `unless` pattern matches. Most are settled by their words.
    fn matches(&self, number: PatternNumber, asking: &Asking<'_>) -> bool {
        let searched = &self.patterns[number as usize];
        self.search.is_possible(asking.sight, number)
            && (searched.is_decided || searched.pattern.is_match(asking.text))
    }

    /// What can match the text in which `sight` was found, in the order of the rules.
    fn candidates(&self, sight: &Sight, candidates: &mut Vec<Candidate>) {
        candidates.clear();
        candidates.extend_from_slice(&self.of_mail);
        candidates.extend(sight.candidates().iter().map(|number| Candidate {
            rule: self.patterns[*number as usize].rule,
            pattern: Some(*number),
        }));
        if !self.of_mail.is_empty() {
            candidates.sort_unstable();
        }
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
    /// Whether all conditions hold but those for texts and for the mail.
    fn conditions_hold(&self, question: &Question<'_>) -> bool {
        let masks = &self.written.masks;
        self.codes_match(question)
            && (masks.is_empty() || masks.iter().any(|mask| mask.matches(question.provider)))
    }

    /// Whether the conditions for the subject, body and header of the mail hold.
    fn mail_matches(&self, question: &Question<'_>) -> bool {
        let holds = |patterns: &[Lazy], text: &str| patterns.is_empty() || any(patterns, text);
        holds(&self.subject, question.subject)
            && holds(&self.header, question.header)
            && (self.body.is_empty() || any(&self.body, question.body.get()))
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
