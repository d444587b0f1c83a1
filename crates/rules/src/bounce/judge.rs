//! The judge: what people have said, then the rules, behind a bounded cache.

use core::hash::{BuildHasherDefault, Hasher};
use std::collections::HashMap;
use std::sync::Arc;

use super::normal::Key;
use super::set::{BounceRules, Decided, Room};
use super::verdict::{Action, Evidence, QualificationStatus, Qualifications, Verdict};

/// Verdicts that are kept, in two halves: when the younger one is full the older one is dropped.
const KEPT: usize = 32 * 1024;

/// Judges failures one after the other. Not shared: every thread has its own.
///
/// The verdict on a reply follows from its normalised text, its codes and the provider, so texts that
/// differ in their variable parts only are judged once. What a person has said about a text is asked
/// every time and is never cached.
#[derive(Debug)]
pub struct BounceJudge {
    rules: Arc<BounceRules>,
    room: Room,
    young: Kept,
    old: Kept,
}

type Kept = HashMap<Asked, Decided, BuildHasherDefault<KeyHasher>>;

/// What a verdict on a reply depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    key: Key,
    /// Reply code and status code, with all ones for none.
    codes: (u16, u8, u16, u16),
    provider: u64,
    synchronous: bool,
}

impl core::hash::Hash for Asked {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut word = [0; 8];
        word.copy_from_slice(&self.key.octets()[..8]);
        state.write_u64(u64::from_le_bytes(word) ^ self.provider);
    }
}

/// Takes the number it is given: it is a part of an MD5 already.
#[derive(Clone, Copy, Debug, Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, octets: &[u8]) {
        for octet in octets {
            self.0 = self.0.rotate_left(8) ^ u64::from(*octet);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

/// A verdict with the text it was given for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged<'judge> {
    /// The diagnostic, normalised.
    pub normalised: &'judge str,
    /// Its key.
    pub key: Key,
    /// What follows from it.
    pub verdict: Verdict,
    /// What the rules alone say, where a person has said something; `None`: the same.
    pub overruled: Option<Verdict>,
}

impl BounceJudge {
    /// A judge with an empty cache.
    #[must_use]
    pub fn new(rules: Arc<BounceRules>) -> Self {
        Self { rules, room: Room::default(), young: Kept::default(), old: Kept::default() }
    }

    /// The rules it goes by.
    #[must_use]
    pub fn rules(&self) -> &Arc<BounceRules> {
        &self.rules
    }

    /// Goes by other rules from now on; nothing of the old ones is kept.
    pub fn replace_rules(&mut self, rules: Arc<BounceRules>) {
        *self = Self::new(rules);
    }

    /// Judges: a person's qualification of the text first, then the rules.
    pub fn judge(&mut self, evidence: &Evidence<'_>, people: &impl Qualifications) -> Judged<'_> {
        self.room.normalise(evidence.diagnostic);
        let key = Key::of(self.room.normalised());
        let mut verdict = self.by_rules(evidence, key);
        let deferred = deferred(evidence, self.room.normalised());
        self.rules.known().correct(&key, &mut verdict, deferred);
        let mut overruled = None;
        let said = people.find(&key).filter(|said| said.status != QualificationStatus::ToQualify);
        if let Some(said) = said {
            // Whether it was deferred shows in the usual action of the rules' verdict only, so the
            // code is asked again.
            overruled = Some(verdict.clone());
            verdict.action = match verdict.reason == said.reason {
                true => verdict.action,
                false => Action::usual(said.reason, deferred),
            };
            verdict.reason = said.reason;
            verdict.failure_type = said.failure_type;
            verdict.status = said.status;
            verdict.rule = Arc::from("qualification");
        }
        Judged { normalised: self.room.normalised(), key, verdict, overruled }
    }

    /// By the cache or the rules.
    fn by_rules(&mut self, evidence: &Evidence<'_>, key: Key) -> Verdict {
        let bare = Evidence { subject: "", body: "", header: "", ..*evidence };
        let decided = self.by_diagnostic(&bare, key);
        if decided.by_diagnostic || bare == *evidence {
            return decided.verdict;
        }
        self.rules.classify_normalised(evidence, &mut self.room).verdict
    }

    /// What follows from evidence that has a diagnostic only.
    fn by_diagnostic(&mut self, bare: &Evidence<'_>, key: Key) -> Decided {
        let asked = Asked {
            key,
            codes: (
                bare.reply.unwrap_or(u16::MAX),
                bare.status.map_or(u8::MAX, |status| status.class),
                bare.status.map_or(u16::MAX, |status| status.subject),
                bare.status.map_or(u16::MAX, |status| status.detail),
            ),
            provider: provider_number(bare.provider),
            synchronous: bare.synchronous,
        };
        if let Some(decided) = self.young.get(&asked) {
            return decided.clone();
        }
        let decided = match self.old.get(&asked) {
            Some(decided) => decided.clone(),
            None => self.rules.classify_normalised(bare, &mut self.room),
        };
        if self.young.len() >= KEPT / 2 {
            self.old = core::mem::take(&mut self.young);
        }
        self.young.insert(asked, decided.clone());
        decided
    }
}

/// Whether the reply code, or else the status code, says that it may work later.
fn deferred(evidence: &Evidence<'_>, normalised: &str) -> bool {
    let (reply, status) = super::codes::codes_in(normalised);
    match evidence.reply.or(reply) {
        Some(code) => (400..500).contains(&code),
        None => evidence.status.or(status).is_some_and(|status| status.class == 4),
    }
}

/// A number for a host or domain, without regard to case (FNV-1a).
fn provider_number(provider: &str) -> u64 {
    provider.bytes().fold(0xcbf2_9ce4_8422_2325, |sum, octet| {
        (sum ^ u64::from(octet.to_ascii_lowercase())).wrapping_mul(0x0100_0000_01b3)
    })
}
