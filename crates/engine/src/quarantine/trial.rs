//! What would follow if other bounce rules, or another policy, were in force; nothing is changed.
//!
//! **Promise.** Every address is judged twice from the same ledger at the same moment, by [`super::judge()`]: as it stands, and as it
//! would stand. What differs is the doing of the rules and the policy, never of time that passed.
//!
//! **How.** The caller hands in one address after the other ([`Trial::add`]) and every text ([`Trial::add_text`]).
//!
//! **Absences.** Memory does not grow with the ledger: pairs of rules, examples, holds and days of providers have
//! named maxima, and what is left out is counted.

use std::collections::BTreeMap;

use mail::failure::Reason;
use mail::time::Timestamp;
use serde::Serialize;

use super::evidence::{Entry, Finding, History, Qualification, Standing, TextKey};
use super::guard::{OutageGuard, ProviderDay};
use super::judge::judge;
use super::ledger::{HoldRecord, TextRecord};
use super::policy::Policy;
use super::rejudging::{Anew, Rejudging};
use super::task::{Change, Difference};

/// Pairs of "was" and "would be" that are kept apart.
const PAIRS_MAX: usize = 2_000;
/// Texts that are listed, the most frequent ones.
pub const TEXTS_LISTED: usize = 500;
/// Days of providers whose "user unknown" is counted.
const PROVIDER_DAYS_MAX: usize = 100_000;
/// Days of providers that are listed.
const DOUBTS_LISTED: usize = 100;

/// A meaning with the rule that gave it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Said {
    /// The rule.
    pub rule: Box<str>,
    /// What it says.
    #[serde(flatten)]
    pub meaning: Qualification,
}

/// Entries that go from one meaning to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reclassified {
    /// As recorded.
    pub was: Said,
    /// As it would be.
    pub would_be: Said,
    /// Entries of the ledger.
    pub entries: u64,
    /// Messages that they are about.
    pub messages: u64,
    /// Addresses that have such entries.
    pub addresses: u64,
}

/// A text that would mean something else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TextChange {
    /// Its key.
    pub key: TextKey,
    /// The text, normalised.
    pub text: Box<str>,
    /// How often it was met.
    pub occurrences: u32,
    /// Who said it first: MX host or recipient domain; empty: not recorded.
    pub host: Box<str>,
    /// As the rules in force say.
    pub was: Said,
    /// As the other rules say.
    pub would_be: Said,
}

/// What the texts would mean.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Texts {
    /// Texts looked at.
    pub looked_at: u64,
    /// How often they were met.
    pub occurrences: u64,
    /// Texts that would mean something else.
    pub changed: u64,
    /// How often these were met.
    pub changed_occurrences: u64,
    /// Texts of which a person has said what they mean: that stands.
    pub by_person: u64,
    /// Texts that the rules in force leave to a person.
    pub to_qualify_now: u64,
    /// Texts that the other rules would leave to a person.
    pub to_qualify_then: u64,
    /// Texts whose speaker is not recorded (met before version 6 of the database): rules for some hosts cannot take them.
    pub without_host: u64,
    /// The most frequent of those that would mean something else.
    pub list: Vec<TextChange>,
}

/// What the entries would mean.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Entries {
    /// Failures judged again.
    pub judged: u64,
    /// Failures that would mean something else.
    pub changed: u64,
    /// Messages that these are about.
    pub messages: u64,
    /// Failures whose text a person has qualified: that stands.
    pub by_person: u64,
    /// Failures that came by mail and whose words alone would mean something else: they stay.
    pub kept_as_mail: u64,
    /// Failures that a rule for some hosts has judged and another would not: they stay.
    pub kept_for_host: u64,
    /// Failures older than the asked days: they stay.
    pub older: u64,
    /// By what they were and would be, the most entries first.
    pub pairs: Vec<Reclassified>,
    /// Changed entries that found no room in `pairs`.
    pub pairs_left_out: u64,
}

/// Which addresses would stand elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Addresses {
    /// Addresses looked at.
    pub looked_at: u64,
    /// Those that would be refused and are not.
    pub quarantined: Difference,
    /// Those that would be free and are refused.
    pub freed: Difference,
    /// Those whose state or reason would be another one, refused or not as before.
    pub otherwise: Difference,
}

/// What would become of a hold of the outage guard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HoldTrial {
    /// Its number.
    pub hold: u64,
    /// The provider.
    pub provider: Box<str>,
    /// Entries that it holds back.
    pub entries: u64,
    /// Of these, "user unknown" as the ledger has it.
    pub unknown: u64,
    /// Of these, "user unknown" by the other rules.
    pub unknown_then: u64,
}

/// A day on which the outage guard would doubt a provider that it did not doubt before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Doubt {
    /// The provider.
    pub provider: Box<str>,
    /// The day, `YYYY-MM-DD`.
    pub day: String,
    /// Outcomes on that day.
    pub outcomes: u32,
    /// "User unknown" among them.
    pub unknown: u32,
    /// "User unknown" by the other rules.
    pub unknown_then: u32,
    /// The usual share before, by the other rules, in per mille.
    pub usual_permille: u32,
}

/// What a trial found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TrialReport {
    /// What texts would mean.
    pub texts: Texts,
    /// What recorded failures would mean.
    pub entries: Entries,
    /// Who would be refused, and who no more.
    pub addresses: Addresses,
    /// Open holds of the outage guard, and those that hold something back.
    pub holds: Vec<HoldTrial>,
    /// Days on which the guard would hold "user unknown" back where the rules in force give it no cause. By the totals
    /// of days; the guard itself looks at each hour, so it may doubt a part of a day that is calm as a whole.
    pub doubts: Vec<Doubt>,
    /// The earliest failure that was looked at.
    pub first_entry_at: Option<Timestamp>,
}

/// A trial at work.
#[derive(Debug)]
pub struct Trial {
    /// `None`: the rules stay, only the policy is another one.
    then: Option<Rejudging>,
    before: Policy,
    after: Policy,
    since: Timestamp,
    now: Timestamp,
    pairs: BTreeMap<(Said, Said), (u64, u64, u64)>,
    holds: BTreeMap<u64, HoldTrial>,
    /// "User unknown" that goes, and that comes, by provider and day.
    days: BTreeMap<(Box<str>, u32), (u32, u32)>,
    report: TrialReport,
}

impl Trial {
    /// A trial of these rules (`None`: those that judged the ledger) and this policy in place of the one in force. Only
    /// entries from `since` on are judged by the rules; the policy is asked about everything.
    #[must_use]
    pub fn new(
        then: Option<Rejudging>,
        before: Policy,
        after: Policy,
        since: Timestamp,
        now: Timestamp,
    ) -> Self {
        Self {
            then,
            before,
            after,
            since,
            now,
            pairs: BTreeMap::new(),
            holds: BTreeMap::new(),
            days: BTreeMap::new(),
            report: TrialReport::default(),
        }
    }

    /// Holds whose fate is asked for: those that are open.
    pub fn watch_holds<'hold>(&mut self, holds: impl IntoIterator<Item = &'hold HoldRecord>) {
        for hold in holds.into_iter().filter(|hold| hold.ended.is_none()) {
            let provider = hold.provider.clone();
            self.holds.insert(
                hold.hold,
                HoldTrial { hold: hold.hold, provider, entries: 0, unknown: 0, unknown_then: 0 },
            );
        }
    }

    /// Takes in all that is recorded about an address.
    pub fn add(&mut self, address: &str, mut history: History) {
        self.report.addresses.looked_at += 1;
        let before = judge(&history, &self.before, self.now);
        let mut seen: Vec<(Said, Said)> = Vec::new();
        let mut messages = Vec::new();
        let mut changed = 0;
        for entry in &mut history.entries {
            if let Some(pair) = self.add_entry(entry) {
                changed += 1;
                let new_message = entry.evidence.message.filter(|id| !messages.contains(id));
                messages.extend(new_message);
                let first = !seen.contains(&pair);
                self.count_pair(&pair, new_message.is_some(), first);
                if first {
                    seen.push(pair);
                }
            }
        }
        self.report.entries.changed += changed;
        self.report.entries.messages += messages.len() as u64;
        let after = judge(&history, &self.after, self.now);
        let change = Change { address: address.into(), before, after, known: true };
        if change.is_visible() {
            let addresses = &mut self.report.addresses;
            let place = match (before.state.is_refused(), after.state.is_refused()) {
                (false, true) => &mut addresses.quarantined,
                (true, false) => &mut addresses.freed,
                _ => &mut addresses.otherwise,
            };
            place.add(&change, changed);
        }
    }

    /// Judges an entry anew. Answers what it was and is now, where that matters.
    fn add_entry(&mut self, entry: &mut Entry) -> Option<(Said, Said)> {
        let was = match &entry.evidence.finding {
            Finding::Failed(failure) => failure.qualification.reason == Reason::UserUnknown,
            Finding::Delivered => return None,
        };
        let first = self.report.first_entry_at.get_or_insert(entry.evidence.at);
        *first = (*first).min(entry.evidence.at);
        let said = self.judge_entry(entry);
        let is = said.as_ref().map_or(was, |(_, then)| then.meaning.reason == Reason::UserUnknown);
        if let Standing::Held { hold } = entry.standing
            && let Some(hold) = self.holds.get_mut(&hold)
        {
            hold.entries += 1;
            hold.unknown += u64::from(was);
            hold.unknown_then += u64::from(is);
        }
        if was != is && entry.evidence.authentic {
            let day = u32::try_from(entry.evidence.at.as_secs() / 86_400).unwrap_or(u32::MAX);
            let name = (entry.evidence.provider.clone(), day);
            if self.days.len() < PROVIDER_DAYS_MAX || self.days.contains_key(&name) {
                let (goes, comes) = self.days.entry(name).or_default();
                *(if was { goes } else { comes }) += 1;
            }
        }
        said
    }

    fn judge_entry(&mut self, entry: &mut Entry) -> Option<(Said, Said)> {
        let rejudging = self.then.as_mut()?;
        let counts = &mut self.report.entries;
        if entry.evidence.at < self.since {
            counts.older += 1;
            return None;
        }
        counts.judged += 1;
        let (anew, before) = rejudging.apply(entry);
        match anew {
            Anew::Other { meaning, rule } if entry.person.is_none() => {
                let before = before?;
                let was = Said { rule: (&*before.rule).into(), meaning: before.qualification };
                return Some((was, Said { rule: (&*rule).into(), meaning }));
            }
            Anew::Other { .. } => counts.by_person += 1,
            Anew::KeptAsMail if entry.person.is_none() => counts.kept_as_mail += 1,
            Anew::KeptForHost if entry.person.is_none() => counts.kept_for_host += 1,
            _ => {}
        }
        None
    }

    fn count_pair(&mut self, pair: &(Said, Said), message: bool, address: bool) {
        if self.pairs.len() >= PAIRS_MAX && !self.pairs.contains_key(pair) {
            self.report.entries.pairs_left_out += 1;
            return;
        }
        let (entries, messages, addresses) = self.pairs.entry(pair.clone()).or_default();
        *entries += 1;
        *messages += u64::from(message);
        *addresses += u64::from(address);
    }

    /// Takes in a text. `now` are the rules in force: both judge the same words, so that nothing but the rules differs.
    pub fn add_text(&mut self, text: &TextRecord, now: &mut Rejudging) {
        let Some(then) = &mut self.then else { return };
        if text.last_at < self.since {
            return;
        }
        let texts = &mut self.report.texts;
        let occurrences = u64::from(text.occurrences);
        texts.looked_at += 1;
        texts.occurrences += occurrences;
        if text.by_person.is_some() {
            texts.by_person += 1;
            return;
        }
        texts.without_host += u64::from(text.host.is_empty());
        let (was, was_rule) = now.of_words(&text.first_raw, &text.host);
        let (would_be, rule) = then.of_words(&text.first_raw, &text.host);
        let open = |meaning: Qualification| {
            u64::from(meaning.status == super::evidence::TextStatus::ToQualify)
        };
        texts.to_qualify_now += open(was);
        texts.to_qualify_then += open(would_be);
        if was == would_be {
            return;
        }
        texts.changed += 1;
        texts.changed_occurrences += occurrences;
        texts.list.push(TextChange {
            key: text.key,
            text: text.normalised.clone(),
            occurrences: text.occurrences,
            host: text.host.clone(),
            was: Said { rule: (&*was_rule).into(), meaning: was },
            would_be: Said { rule: (&*rule).into(), meaning: would_be },
        });
        if texts.list.len() >= TEXTS_LISTED * 2 {
            Self::keep_most_frequent(&mut texts.list);
        }
    }

    fn keep_most_frequent(list: &mut Vec<TextChange>) {
        list.sort_by(|one, other| {
            other.occurrences.cmp(&one.occurrences).then_with(|| one.key.cmp(&other.key))
        });
        list.truncate(TEXTS_LISTED);
    }

    /// The report. `days` are the totals of providers that the guard has kept, `guard` one that has seen nothing.
    #[must_use]
    pub fn finish(mut self, mut days: Vec<ProviderDay>, mut guard: OutageGuard) -> TrialReport {
        Self::keep_most_frequent(&mut self.report.texts.list);
        let pair = |((was, would_be), (entries, messages, addresses))| Reclassified {
            was,
            would_be,
            entries,
            messages,
            addresses,
        };
        let mut pairs: Vec<Reclassified> = self.pairs.into_iter().map(pair).collect();
        pairs.sort_by_key(|pair| core::cmp::Reverse(pair.entries));
        self.report.entries.pairs = pairs;
        self.report.holds = self.holds.into_values().collect();
        days.sort_by(|one, other| (one.day, &one.provider).cmp(&(other.day, &other.provider)));
        let mut as_it_is = guard.clone();
        for of_day in days.chunk_by(|one, other| one.day == other.day) {
            let then: Vec<ProviderDay> = of_day
                .iter()
                .map(|day| {
                    let moved = self.days.get(&(day.provider.clone(), day.day));
                    let (goes, comes) = moved.copied().unwrap_or_default();
                    let unknown = day.unknown.saturating_sub(goes).saturating_add(comes);
                    ProviderDay { unknown: unknown.min(day.total), ..day.clone() }
                })
                .collect();
            for (is, then) in of_day.iter().zip(&then) {
                if as_it_is.doubts(is).is_none()
                    && let Some(usual_permille) = guard.doubts(then)
                    && self.report.doubts.len() < DOUBTS_LISTED
                {
                    self.report.doubts.push(Doubt {
                        provider: is.provider.clone(),
                        day: Timestamp::from_secs(u64::from(is.day) * 86_400).to_string()[..10]
                            .to_owned(),
                        outcomes: is.total,
                        unknown: is.unknown,
                        unknown_then: then.unknown,
                        usual_permille,
                    });
                }
            }
            as_it_is.restore(of_day.iter().cloned(), [], 0);
            guard.restore(then, [], 0);
        }
        self.report
    }
}
