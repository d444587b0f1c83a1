//! Many literals searched at once, by their rarest octets.
//!
//! Every literal has one window of a few octets that it shares with the fewest others. The text is
//! looked at window by window; a small table says at once that most windows belong to no literal, and
//! where one does, the few literals that have it are compared. The time for a text is linear in it and
//! hardly depends on how many literals there are, and the tables are small enough for a processor's
//! cache, which those of an automaton of thousands of literals are not.
//!
//! Every occurrence of every literal is found, also where they overlap.

use std::collections::HashMap;

/// Bits of the number of a window's place in the table that says no quickly.
const QUICK_BITS: u32 = 16;

/// Literals of at least `WIDTH` octets; `WIDTH` is at most 4.
#[derive(Debug)]
pub(super) struct Grams<const WIDTH: usize> {
    /// One bit for each place that some literal's window has.
    quick: Vec<u64>,
    /// By place: where its literals begin among `literals`; one more than there are places.
    first: Vec<u32>,
    literals: Vec<Literal>,
    /// The octets of all literals.
    octets: Vec<u8>,
}

#[derive(Debug)]
struct Literal {
    /// The caller's number.
    number: u32,
    window: u32,
    /// Of its window in it.
    offset: u32,
    start: u32,
    length: u32,
}

impl<const WIDTH: usize> Grams<WIDTH> {
    /// From literals with numbers of the caller; shorter ones are left out.
    pub(super) fn build<'a>(all: impl Iterator<Item = (u32, &'a [u8])>) -> Self {
        let all: Vec<(u32, &[u8])> = all.filter(|(_, octets)| octets.len() >= WIDTH).collect();
        let mut shared: HashMap<u32, u32> = HashMap::new();
        for window in all.iter().flat_map(|(_, octets)| octets.windows(WIDTH)) {
            *shared.entry(number_of::<WIDTH>(window)).or_default() += 1;
        }
        let mut grams = Self {
            quick: vec![0; (1 << QUICK_BITS) / 64],
            first: Vec::with_capacity((1 << QUICK_BITS) + 1),
            literals: Vec::with_capacity(all.len()),
            octets: Vec::new(),
        };
        for (number, octets) in all {
            let windows = (0..).zip(octets.windows(WIDTH).map(number_of::<WIDTH>));
            let rarest = windows.min_by_key(|(_, window)| shared.get(window));
            let Some((offset, window)) = rarest else { continue };
            // A file of rules is far smaller than 4 GiB.
            let size = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
            let (start, length) = (size(grams.octets.len()), size(octets.len()));
            grams.literals.push(Literal { number, window, offset, start, length });
            grams.octets.extend_from_slice(octets);
            let place = place_of(window);
            grams.quick[place / 64] |= 1 << (place % 64);
        }
        grams.literals.sort_by_key(|literal| place_of(literal.window));
        let mut at = 0;
        for place in 0..=1 << QUICK_BITS {
            while grams.literals.get(at).is_some_and(|one| place_of(one.window) < place) {
                at += 1;
            }
            grams.first.push(u32::try_from(at).unwrap_or(u32::MAX));
        }
        grams
    }

    /// Octets that it takes.
    pub(super) fn octets(&self) -> usize {
        8 * self.quick.len()
            + 4 * self.first.len()
            + size_of::<Literal>() * self.literals.len()
            + self.octets.len()
    }

    /// Gives the number of every literal that stands in `text` to `hit`, with the octets where it
    /// begins and ends.
    pub(super) fn each(&self, text: &[u8], mut hit: impl FnMut(u32, usize, usize)) {
        if self.literals.is_empty() {
            return;
        }
        for (at, window) in text.windows(WIDTH).enumerate() {
            let window = number_of::<WIDTH>(window);
            let place = place_of(window);
            if self.quick[place / 64] >> (place % 64) & 1 == 0 {
                continue;
            }
            let literals = self.first[place] as usize..self.first[place + 1] as usize;
            for literal in &self.literals[literals] {
                let Some(begin) = at.checked_sub(literal.offset as usize) else { continue };
                let (start, length) = (literal.start as usize, literal.length as usize);
                if literal.window == window
                    && text.get(begin..begin + length) == Some(&self.octets[start..start + length])
                {
                    hit(literal.number, begin, begin + length);
                }
            }
        }
    }
}

/// A window as a number.
fn number_of<const WIDTH: usize>(window: &[u8]) -> u32 {
    window.iter().take(WIDTH).fold(0, |number, octet| number << 8 | u32::from(*octet))
}

/// Where a window's bit is.
const fn place_of(window: u32) -> usize {
    (window.wrapping_mul(0x9e37_79b1) >> (32 - QUICK_BITS)) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// It finds what looking for each literal at each place finds.
        #[test]
        fn finds_what_a_plain_search_finds(
            literals in proptest::collection::btree_set("[abc]{3,7}", 0..20),
            text in "[abc]{0,60}",
        ) {
            let literals: Vec<String> = literals.into_iter().collect();
            let numbered = || (0..).zip(literals.iter().map(String::as_bytes));
            let mut want = Vec::new();
            for (number, literal) in numbered() {
                for (begin, _) in text.as_bytes().windows(literal.len()).enumerate().filter(|(_, window)| *window == literal) {
                    want.push((number, begin, begin + literal.len()));
                }
            }
            want.sort_unstable();
            let mut found = Vec::new();
            let short = numbered().filter(|(_, literal)| literal.len() == 3);
            Grams::<3>::build(short).each(text.as_bytes(), |number, begin, end| found.push((number, begin, end)));
            Grams::<4>::build(numbered()).each(text.as_bytes(), |number, begin, end| found.push((number, begin, end)));
            found.sort_unstable();
            prop_assert_eq!(found, want);
        }
    }
}
