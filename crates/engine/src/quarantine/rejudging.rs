//! What other bounce rules say of entries that are recorded already.
//!
//! **Promise.** One decision for both who put other rules in force and who only want to know: an entry gets
//! another meaning only where the new rules can tell from what the ledger keeps.
//!
//! **Absences.** What came back by mail keeps its meaning: a rule may have looked at more of the mail than its words. A
//! meaning that a rule for some hosts gave stays where another rule would take its place: which host spoke is not kept.

use std::collections::HashSet;
use std::sync::Arc;

use rules::bounce::{BounceJudge, BounceRules, Evidence as Question};

use super::evidence::{Channel, Entry, Failure, Finding, Qualification, TextStatus, meaning};

/// What the new rules say of an entry.
#[derive(Clone, Debug, PartialEq)]
pub enum Anew {
    /// The same, or it is a delivery.
    Same,
    /// This.
    Other {
        /// The meaning.
        meaning: Qualification,
        /// The rule.
        rule: Arc<str>,
    },
    /// Its words alone would mean something else, but it came by mail: it stays.
    KeptAsMail,
    /// Its words would mean something else, but a rule for some hosts has said what they mean: it stays.
    KeptForHost,
}

/// Judges recorded entries by other rules.
#[derive(Debug)]
pub struct Rejudging {
    judge: BounceJudge,
    /// The names of the rules that hold for some hosts only.
    masked: HashSet<Box<str>>,
}

impl Rejudging {
    /// By these rules; `masked` are the names of those among them that hold for some hosts only.
    #[must_use]
    pub fn new(rules: Arc<BounceRules>, masked: HashSet<Box<str>>) -> Self {
        Self { judge: BounceJudge::new(rules), masked }
    }

    /// What the new rules say of an entry. What a person has said of its text stands aside from this, and above it.
    pub fn of(&mut self, entry: &Entry) -> Anew {
        let Finding::Failed(failure) = &entry.evidence.finding else { return Anew::Same };
        let domain = entry.evidence.address.rsplit_once('@').map_or("", |(_, domain)| domain);
        let verdict = self.judge.judge(&Question::reply(&failure.reply, domain), &()).verdict;
        let (was, now) = (failure.qualification, meaning(&verdict));
        if now == was {
            return Anew::Same;
        }
        if entry.evidence.channel != Channel::Synchronous {
            return Anew::KeptAsMail;
        }
        let understood = was.status == TextStatus::ToQualify && now.status != was.status;
        let same_rule = verdict.rule == failure.rule;
        match understood || same_rule || !self.masked.contains(&*failure.rule) {
            true => Anew::Other { meaning: now, rule: verdict.rule },
            false => Anew::KeptForHost,
        }
    }

    /// The same, put into the entry. Answers what was there before where it changed.
    pub fn apply(&mut self, entry: &mut Entry) -> (Anew, Option<Failure>) {
        let anew = self.of(entry);
        let version = Arc::clone(self.judge.rules().version());
        let Anew::Other { meaning, rule } = &anew else { return (anew, None) };
        let Finding::Failed(failure) = &mut entry.evidence.finding else { return (anew, None) };
        let before = failure.clone();
        (failure.qualification, failure.rule, failure.version) =
            (*meaning, Arc::clone(rule), version);
        (anew, Some(before))
    }

    /// What the rules say of words alone, and by which rule; `host` may be empty.
    pub fn of_words(&mut self, words: &str, host: &str) -> (Qualification, Arc<str>) {
        let verdict = self.judge.judge(&Question::reply(words, host), &()).verdict;
        (meaning(&verdict), verdict.rule)
    }
}
