//! One pass over a text that finds the patterns which can match it.
//!
//! Every pattern names words of which a text must hold some ([`Pattern::groups`]). The words of all
//! patterns are searched together, so the pass takes the same time whatever the number of rules is. A
//! pattern is a candidate when every one of its groups has a word in the text, and only candidates
//! are searched by their regular expression; most need not even that, because their words say it all.
//!
//! Absences: a pattern without words is a candidate for every text. A text is searched once for itself
//! and for a part of it (see [`Search::look`]).

use core::ops::Range;
use std::collections::BTreeMap;

use super::grams::Grams;
use super::pattern::{Pattern, SHORTEST_LITERAL, Word};

/// Octets of the shortest literals.
const SHORT: usize = SHORTEST_LITERAL;
/// Octets of all others, at least.
const LONG: usize = SHORT + 1;

/// The number of a pattern in a [`Search`].
pub(super) type PatternNumber = u32;

/// The words of all patterns.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// The literals of [`SHORT`] octets, and the longer ones; nothing before they are built.
    short: Option<Grams<SHORT>>,
    long: Option<Grams<LONG>>,
    /// By the number of the literal: the words it stands for.
    meaning: Vec<Vec<Meaning>>,
    /// By pattern: its groups of words.
    groups: Vec<Vec<Vec<u32>>>,
    /// What is a candidate whatever the text.
    always: Vec<PatternNumber>,
    words: u32,
}

/// A word that a literal stands for where the literal is found.
#[derive(Debug)]
struct Meaning {
    number: u32,
    begins: bool,
    ends: bool,
    /// The patterns that this word makes candidates.
    leads: Vec<PatternNumber>,
}

/// What was found in one text. Kept from one text to the next, so that nothing is allocated.
#[derive(Debug, Default)]
pub(super) struct Sight {
    /// One bit per word.
    words: Vec<u64>,
    candidates: Vec<PatternNumber>,
}

impl Sight {
    /// The patterns of which a word of the first group was found, or which have none, in the order in
    /// which they were added; no other pattern matches.
    pub(super) fn candidates(&self) -> &[PatternNumber] {
        &self.candidates
    }

    fn clear(&mut self, search: &Search) {
        self.words.clear();
        self.words.resize(search.words as usize / 64 + 1, 0);
        self.candidates.clear();
    }

    fn has(&self, word: u32) -> bool {
        self.words[word as usize / 64] >> (word % 64) & 1 == 1
    }

    /// Notes a word; whether it is new.
    fn note(&mut self, word: u32) -> bool {
        let bit = 1 << (word % 64);
        let slot = &mut self.words[word as usize / 64];
        let new = *slot & bit == 0;
        *slot |= bit;
        new
    }

    fn finish(&mut self, search: &Search) {
        self.candidates.extend_from_slice(&search.always);
        self.candidates.sort_unstable();
        self.candidates.dedup();
    }
}

impl Search {
    /// Builds the search for patterns, which are numbered from 0. `leading` says of each whether it is wanted
    /// among the candidates; of the others only [`Search::is_possible`] is asked.
    pub(super) fn build<'a>(patterns: impl Iterator<Item = (&'a Pattern, bool)>) -> Self {
        let mut search = Self::default();
        let mut literals: Vec<&str> = Vec::new();
        let mut slots: BTreeMap<&str, usize> = BTreeMap::new();
        for (pattern, leading) in patterns {
            // A file has at most a million patterns.
            let number = u32::try_from(search.groups.len()).unwrap_or(u32::MAX);
            if leading && pattern.groups.is_empty() {
                search.always.push(number);
            }
            let mut groups = Vec::with_capacity(pattern.groups.len());
            for (place, group) in pattern.groups.iter().enumerate() {
                let leads = (leading && place == 0).then_some(number);
                let numbers = group.iter().map(|word| {
                    let slot = *slots.entry(&word.literal).or_insert_with(|| {
                        literals.push(&word.literal);
                        search.meaning.push(Vec::new());
                        literals.len() - 1
                    });
                    note_word(&mut search.meaning[slot], &mut search.words, word, leads)
                });
                groups.push(numbers.collect());
            }
            search.groups.push(groups);
        }
        let numbered = || (0..).zip(literals.iter().map(|literal| literal.as_bytes()));
        search.short = Some(Grams::build(numbered().filter(|(_, octets)| octets.len() == SHORT)));
        search.long = Some(Grams::build(numbered()));
        search
    }

    /// Octets that it takes, about.
    pub(super) fn octets(&self) -> usize {
        let meaning: usize = self
            .meaning
            .iter()
            .flatten()
            .map(|one| size_of::<Meaning>() + 4 * one.leads.len())
            .sum();
        let groups: usize = self.groups.iter().flatten().map(|one| 24 + 4 * one.len()).sum();
        let short = self.short.as_ref().map_or(0, Grams::octets);
        short + self.long.as_ref().map_or(0, Grams::octets) + meaning + groups
    }

    /// Whether every group of a pattern has a word in the text: if not, it does not match.
    pub(super) fn is_possible(&self, sight: &Sight, pattern: PatternNumber) -> bool {
        self.groups[pattern as usize].iter().all(|group| group.iter().any(|word| sight.has(*word)))
    }

    /// Looks through a text once: what can match all of it, and what can match a part of it, as if
    /// nothing stood around that. Where the part is the whole nothing is put into `of_part`.
    pub(super) fn look(
        &self,
        text: &str,
        part: &Range<usize>,
        whole: &mut Sight,
        of_part: &mut Sight,
    ) {
        let parted = part.len() < text.len();
        whole.clear(self);
        if parted {
            of_part.clear(self);
        }
        let octets = text.as_bytes();
        let is_word = |at: usize| {
            octets.get(at).is_some_and(|octet| octet.is_ascii_alphanumeric() || *octet == b'_')
        };
        let mut hit = |literal: u32, first: usize, after: usize| {
            let (on_first, on_last) = (is_word(first), is_word(after - 1));
            let begins = on_first != (first > 0 && is_word(first - 1));
            let ends = on_last != is_word(after);
            let in_part = parted && part.start <= first && after <= part.end;
            // Beyond the edges of the part there is nothing.
            let begins_part = if first == part.start { on_first } else { begins };
            let ends_part = if after == part.end { on_last } else { ends };
            for meaning in &self.meaning[literal as usize] {
                let fits = |begins, ends| (begins || !meaning.begins) && (ends || !meaning.ends);
                if fits(begins, ends) && whole.note(meaning.number) {
                    whole.candidates.extend_from_slice(&meaning.leads);
                }
                if in_part && fits(begins_part, ends_part) && of_part.note(meaning.number) {
                    of_part.candidates.extend_from_slice(&meaning.leads);
                }
            }
        };
        if let Some(short) = &self.short {
            short.each(octets, &mut hit);
        }
        if let Some(long) = &self.long {
            long.each(octets, &mut hit);
        }
        whole.finish(self);
        if parted {
            of_part.finish(self);
        }
    }
}

/// The number of a word among those of its literal; a new one if it is not there.
fn note_word(
    meanings: &mut Vec<Meaning>,
    words: &mut u32,
    word: &Word,
    leads: Option<PatternNumber>,
) -> u32 {
    let same = |one: &Meaning| one.begins == word.begins && one.ends == word.ends;
    let place = meanings.iter().position(same).unwrap_or_else(|| {
        let (number, begins, ends) = (*words, word.begins, word.ends);
        *words += 1;
        meanings.push(Meaning { number, begins, ends, leads: Vec::new() });
        meanings.len() - 1
    });
    meanings[place].leads.extend(leads);
    meanings[place].number
}
