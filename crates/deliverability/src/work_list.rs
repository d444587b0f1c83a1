//! What people have to qualify: unknown texts of all clients, brought together, ranked by volume, each cluster with a
//! rule that would take it and what that rule would do.
//!
//! A pure function of the recorded texts and of what has been said ([`WorkList::of`]): the same texts always give the
//! same list. Looked at are the [`MOST_LOOKED_AT`] texts with the most occurrences; rules are proposed for the
//! [`MOST_CLUSTERS`] largest clusters.

mod proposal;
mod skeleton;

use std::collections::BTreeMap;

use mail::failure::Reason;
use mail::time::Timestamp;
use rules::bounce::{BounceRules, Evidence, Key, Qualification};

pub use proposal::{Contradiction, Effect, Proposal, Suggestion, rules_file};
use skeleton::{Skeleton, Words, folded, groups};

use crate::database::RecordedText;

/// Texts that are looked at.
pub const MOST_LOOKED_AT: u32 = 20_000;
/// Clusters that are listed.
pub const MOST_CLUSTERS: usize = 100;
/// Qualified texts that hints are taken from.
const MOST_KNOWN: usize = 5_000;
/// Providers that are named with a cluster.
const MOST_PROVIDERS: usize = 5;

/// A text that people have qualified.
#[derive(Clone, Debug)]
struct Known {
    text: String,
    skeleton: Skeleton,
    words: Words,
    qualification: Qualification,
}

/// Texts that say the same thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// `c-` and 16 hexadecimal digits; the same as long as the same words stay the same.
    pub id: String,
    /// Its texts, the most frequent first.
    pub texts: Vec<RecordedText>,
    /// How often they were met.
    pub occurrences: u64,
    /// How many clients have met the text that most have met.
    pub clients: u32,
    /// Whom clients name as providers, the first few.
    pub providers: Vec<String>,
    /// When one was met first.
    pub first: Timestamp,
    /// When one was met last.
    pub last: Timestamp,
    /// What they may mean.
    pub suggestion: Option<Suggestion>,
    /// The rule that would take them, or why there is none.
    pub proposal: Result<Proposal, String>,
    /// What it would take.
    pub effect: Effect,
}

/// The work list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkList {
    /// By falling volume.
    pub clusters: Vec<Cluster>,
    /// Unknown texts that were looked at.
    pub texts: usize,
    /// How often they were met.
    pub occurrences: u64,
    /// Clusters in all; those beyond [`MOST_CLUSTERS`] are not listed.
    pub all_clusters: usize,
}

impl WorkList {
    /// The list for these texts, where people have said so much already.
    #[must_use]
    pub fn of(recorded: Vec<RecordedText>, said: &BTreeMap<Key, (String, Qualification)>) -> Self {
        let known: Vec<Known> = said
            .values()
            .take(MOST_KNOWN)
            .map(|(text, qualification)| {
                let skeleton = Skeleton::of(text);
                let words = Words::of(&skeleton);
                Known { text: text.clone(), skeleton, words, qualification: *qualification }
            })
            .collect();
        let mut texts = recorded;
        texts.retain(|text| !said.contains_key(&text.key));
        texts.truncate(MOST_LOOKED_AT as usize);
        let skeletons: Vec<Skeleton> = texts.iter().map(|text| Skeleton::of(&text.text)).collect();
        let words: Vec<Words> = skeletons.iter().map(Words::of).collect();
        let folded_texts: Vec<String> = texts.iter().map(|text| folded(&text.text)).collect();
        let shipped = BounceRules::shipped();
        let reasons: Vec<Reason> = texts
            .iter()
            .map(|text| shipped.classify(&Evidence::reply(&text.text, "")).reason)
            .collect();
        let mut found = groups(&skeletons, |number| reasons[number]);
        let volume = |numbers: &[usize]| {
            numbers.iter().fold(0_u64, |sum, one| sum.saturating_add(texts[*one].occurrences))
        };
        found.sort_by_key(|group| {
            let first = group.texts.iter().map(|number| texts[*number].key).min();
            (core::cmp::Reverse(volume(&group.texts)), first)
        });
        let mut list = Self {
            clusters: Vec::new(),
            texts: texts.len(),
            occurrences: volume(&(0..texts.len()).collect::<Vec<_>>()),
            all_clusters: found.len(),
        };
        for group in found.into_iter().take(MOST_CLUSTERS) {
            let mut members: Vec<RecordedText> =
                group.texts.iter().map(|number| texts[*number].clone()).collect();
            members.sort_by_key(|text| (core::cmp::Reverse(text.occurrences), text.key));
            let id = id_of(&group.skeleton);
            let suggestion = proposal::suggestion(&members[0].text, &group.skeleton, &known);
            let proposal = proposal::proposal(&id, &group.skeleton, &group.texts, &texts, &words);
            let reason = suggestion.as_ref().map(|suggestion| suggestion.reason);
            let effect = match &proposal {
                Ok((rule, compiled)) => {
                    proposal::effect(rule, compiled, reason, &texts, &folded_texts, &known)
                }
                Err(_) => Effect::default(),
            };
            let proposal = proposal.map(|(rule, _)| rule);
            let mut providers: Vec<String> = members
                .iter()
                .map(|text| text.provider.clone())
                .filter(|name| !name.is_empty())
                .collect();
            providers.sort_unstable();
            providers.dedup();
            providers.truncate(MOST_PROVIDERS);
            list.clusters.push(Cluster {
                id,
                occurrences: volume(&group.texts),
                clients: members.iter().map(|text| text.clients).max().unwrap_or(0),
                providers,
                first: members.iter().map(|text| text.first).min().unwrap_or(Timestamp::NEVER),
                last: members.iter().map(|text| text.last).max().unwrap_or(Timestamp::NEVER),
                texts: members,
                suggestion,
                proposal,
                effect,
            });
        }
        list
    }

    /// The cluster of this name.
    #[must_use]
    pub fn cluster(&self, id: &str) -> Option<&Cluster> {
        self.clusters.iter().find(|cluster| cluster.id == id)
    }
}

/// The name of a cluster.
fn id_of(skeleton: &Skeleton) -> String {
    let digits = Key::of(&format!("{skeleton:?}")).to_string();
    format!("c-{}", &digits[..16])
}

#[cfg(test)]
mod tests;
