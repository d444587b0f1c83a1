//! What a refusal means for the message, the path and the delivery.
//!
//! Every refusal that a server puts into words, and every failure of ours that is put into words like
//! one (a domain without mail servers), is judged by the same bounce rules and qualifications as the
//! mail that comes back later. **The reason decides, not the class of the reply**: a full mailbox is
//! tried again though it came as 552, a throttle in a 5yz is a throttle.
//!
//! The [`Judgement`] goes with the [`Attempt`](crate::work::Attempt) to the delivery log and to the evidence about the
//! address.

use core::fmt;
use std::collections::BTreeMap;
use std::sync::Arc;

use mail::reply::Reply;
use rules::bounce::{BounceJudge, BounceRules, Evidence, Key, Qualification, Verdict};

use crate::engine::Engine;

/// Qualifications by people that are kept in memory.
const QUALIFICATIONS_MAX: usize = 200_000;

/// What a refusal was found to mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What the bounce rules and people say.
    pub verdict: Verdict,
    /// What the rules alone say, where a person has said something; `None`: the same. The evidence keeps this, so
    /// that what a person says can be taken back.
    pub overruled: Option<Verdict>,
    /// The key of the text.
    pub key: Key,
    /// The text, normalised.
    pub normalised: Box<str>,
}

/// The engine's judge.
pub(crate) struct Qualifier {
    judge: BounceJudge,
    people: Arc<BTreeMap<Key, Qualification>>,
}

impl Clone for Qualifier {
    /// Judges the same; what the judge remembers of earlier texts is not copied.
    fn clone(&self) -> Self {
        Self {
            judge: BounceJudge::new(Arc::clone(self.judge.rules())),
            people: Arc::clone(&self.people),
        }
    }
}

impl fmt::Debug for Qualifier {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Qualifier({} by people)", self.people.len())
    }
}

impl Qualifier {
    /// Goes by these rules; nobody has said anything yet.
    pub(crate) fn new(rules: Arc<BounceRules>) -> Self {
        Self { judge: BounceJudge::new(rules), people: Arc::default() }
    }

    /// Other bounce rules are in force.
    pub(crate) fn replace_rules(&mut self, rules: Arc<BounceRules>) {
        self.judge.replace_rules(rules);
    }

    /// Somebody has qualified a text, or taken that back.
    pub(crate) fn qualify(&mut self, key: Key, said: Option<Qualification>) {
        let people = Arc::make_mut(&mut self.people);
        match said {
            None => {
                people.remove(&key);
            }
            Some(said) => {
                if people.len() < QUALIFICATIONS_MAX || people.contains_key(&key) {
                    people.insert(key, said);
                }
            }
        }
    }

    /// Judges words of a server or of our own.
    pub(crate) fn judge(&mut self, words: &str, provider: &str) -> Judgement {
        let people = &self.people;
        let find = |key: &Key| people.get(key).copied();
        let judged = self.judge.judge(&Evidence::reply(words, provider), &find);
        Judgement {
            normalised: judged.normalised.into(),
            verdict: judged.verdict,
            overruled: judged.overruled,
            key: judged.key,
        }
    }
}

impl Engine {
    /// What a reply means.
    pub(crate) fn judge_reply(&mut self, reply: &Reply, mx_host: &str) -> Arc<Judgement> {
        let words = String::from_utf8_lossy(reply.raw());
        Arc::new(self.qualifier.judge(&words, mx_host))
    }
}
