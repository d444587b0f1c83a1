//! Which texts say the same thing: the words that stay when everything that changes from mail to mail is left out.
//!
//! Two texts belong together when their skeletons are equal: the class of the reply code, and the words of the folded
//! text in which placeholders of the normaliser (`#xxx#`, `#IP#`, `#DOMAIN#`, `*`) and addresses of pages are gaps.
//! Skeletons that differ in one word at one place belong together too, when at that place at least
//! [`VARIES_FROM`] different words stand: names vary, words that say why do not.
//!
//! The cost is linear in the number of words, and each text gives at most [`MOST_WORDS`].

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use rules::bounce::{codes_in, fold_into};

/// Words of a text that are looked at.
const MOST_WORDS: usize = 60;
/// A place at which so many different words stand is one where names stand.
pub(super) const VARIES_FROM: usize = 5;
/// Words that must be equal before a differing one is taken for a name.
const EQUAL_WORDS: usize = 4;

/// A part of a skeleton.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Part {
    /// A word that stays.
    Word(Box<str>),
    /// Something that changes.
    Gap,
}

/// What stays of a text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Skeleton {
    /// The first digit of the reply code.
    pub(super) class: Option<u16>,
    /// The words behind the codes; gaps never stand beside each other.
    pub(super) parts: Vec<Part>,
}

/// A text folded, without the codes at its beginning.
pub(super) fn folded(text: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    fold_into(&mut folded, text);
    folded
}

/// Whether a word at the beginning of a text is a reply code or an enhanced status code.
fn is_code(word: &str) -> bool {
    !word.is_empty()
        && word.bytes().all(|octet| octet.is_ascii_digit() || b".-:;".contains(&octet))
        && word.bytes().any(|octet| octet.is_ascii_digit())
}

/// Whether a word changes from mail to mail.
fn changes(word: &str) -> bool {
    word.contains(['#', '*']) || word.contains("://") || word.len() > 60
}

impl Skeleton {
    /// That of a normalised text.
    pub(super) fn of(text: &str) -> Self {
        let class = codes_in(text).0.map(|code| code / 100);
        let folded = folded(text);
        let mut parts = Vec::new();
        let words = folded.split(' ').filter(|word| !word.is_empty());
        for word in words.skip_while(|word| is_code(word)).take(MOST_WORDS) {
            match changes(word) {
                false => parts.push(Part::Word(word.into())),
                true if parts.last() == Some(&Part::Gap) => {}
                true => parts.push(Part::Gap),
            }
        }
        Self { class, parts }
    }

    /// The words that stay.
    pub(super) fn words(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Word(word) => Some(&**word),
            Part::Gap => None,
        })
    }

    /// With gaps where others of the same length differ.
    fn widened(&mut self, other: &Self) {
        for (part, other) in self.parts.iter_mut().zip(&other.parts) {
            if part != other {
                *part = Part::Gap;
            }
        }
    }

    /// A number for each word: of everything but this word.
    fn without_each(&self) -> Vec<(usize, u64)> {
        let number = |what: (u64, &Part)| {
            // Without a key of its own, so that the same texts always come together in the same way.
            let mut hasher = DefaultHasher::new();
            what.hash(&mut hasher);
            hasher.finish()
        };
        let mut before = vec![u64::from(self.class.unwrap_or(0))];
        for part in &self.parts {
            before.push(number((*before.last().unwrap_or(&0), part)));
        }
        let mut behind = vec![1_u64];
        for part in self.parts.iter().rev() {
            behind.push(number((*behind.last().unwrap_or(&1), part)));
        }
        behind.reverse();
        let places = self.parts.iter().enumerate();
        places
            .filter(|(_, part)| matches!(part, Part::Word(_)))
            .map(|(place, _)| {
                let mut hasher = DefaultHasher::new();
                (place, self.parts.len(), before[place], behind[place + 1]).hash(&mut hasher);
                (place, hasher.finish())
            })
            .collect()
    }
}

/// The words of a skeleton as numbers, to be compared with those of thousands of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Words(Vec<u64>);

impl Words {
    /// Those of a skeleton, each once.
    pub(super) fn of(skeleton: &Skeleton) -> Self {
        let number = |word: &str| {
            let mut hasher = DefaultHasher::new();
            word.hash(&mut hasher);
            hasher.finish()
        };
        let mut numbers: Vec<u64> = skeleton.words().map(number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        Self(numbers)
    }

    /// How many they are.
    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    /// How many of them the others have, too.
    pub(super) fn shared(&self, other: &Self) -> usize {
        let mut others = other.0.iter().peekable();
        let mut shared = 0;
        for number in &self.0 {
            while others.next_if(|other| *other < number).is_some() {}
            shared += usize::from(others.next_if(|other| *other == number).is_some());
        }
        shared
    }
}

/// Texts that belong together, by their numbers in rising order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// What stays of all of them.
    pub(super) skeleton: Skeleton,
    /// Which texts.
    pub(super) texts: Vec<usize>,
}

/// Brings texts together. `apart` says what must be equal besides: texts of which the rules would say different things
/// do not come together by a differing word.
pub(super) fn groups<K: Eq + std::hash::Hash>(
    texts: &[Skeleton],
    apart: impl Fn(usize) -> K,
) -> Vec<Group> {
    let mut same: BTreeMap<&Skeleton, Vec<usize>> = BTreeMap::new();
    for (number, skeleton) in texts.iter().enumerate() {
        same.entry(skeleton).or_default().push(number);
    }
    let same: Vec<(&Skeleton, Vec<usize>)> = same.into_iter().collect();
    let mut alike: HashMap<(K, u64), Vec<usize>> = HashMap::new();
    for (number, (skeleton, members)) in same.iter().enumerate() {
        if skeleton.words().count() > EQUAL_WORDS {
            for (_, hash) in skeleton.without_each() {
                alike.entry((apart(members[0]), hash)).or_default().push(number);
            }
        }
    }
    let mut root: Vec<usize> = (0..same.len()).collect();
    for members in alike.into_values().filter(|members| members.len() >= VARIES_FROM) {
        for other in &members[1..] {
            let (one, other) = (find(&mut root, members[0]), find(&mut root, *other));
            // The smaller one, so that the order in which they are joined does not matter.
            let (small, large) = (one.min(other), one.max(other));
            root[large] = small;
        }
    }
    let mut groups: BTreeMap<usize, Group> = BTreeMap::new();
    for (number, (skeleton, members)) in same.into_iter().enumerate() {
        let group = groups
            .entry(find(&mut root, number))
            .or_insert_with(|| Group { skeleton: skeleton.clone(), texts: Vec::new() });
        group.skeleton.widened(skeleton);
        group.texts.extend(members);
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    for group in &mut groups {
        group.texts.sort_unstable();
        group.skeleton.parts.dedup_by(|next, part| *part == Part::Gap && *next == Part::Gap);
    }
    groups
}

/// The root of a set, with the way to it shortened.
fn find(root: &mut [usize], mut number: usize) -> usize {
    while root[number] != number {
        root[number] = root[root[number]];
        number = root[number];
    }
    number
}
