//! Finding masks without trying all of them.
//!
//! Every mask ends in some literal text after its last wildcard, its *tail*: `.google.com` for
//! `*.google.com`, the whole mask when it has no wildcard, nothing for `*`. A name can only match a
//! mask whose tail it ends with, so masks are kept by tail and a name is looked up by its ends.

use std::collections::BTreeMap;

use mail::mask::Mask;

/// A mask of a rule: number of the rule, number of the mask in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) rule: u32,
    pub(crate) mask: u32,
}

/// Masks by their tails. Ordered maps only: a hash map would draw its key from the system.
#[derive(Clone, Debug, Default)]
pub(crate) struct MaskIndex {
    tails: BTreeMap<Box<[u8]>, Vec<Entry>>,
    /// Lengths that occur, in ascending order.
    lengths: Vec<usize>,
}

/// The literal text after the last wildcard.
fn tail(mask: &Mask) -> &[u8] {
    let bytes = mask.as_str().as_bytes();
    let after = bytes.iter().rposition(|byte| matches!(byte, b'*' | b'?')).map_or(0, |at| at + 1);
    &bytes[after..]
}

impl MaskIndex {
    /// Adds a mask. Entries must come in ascending order.
    pub(crate) fn insert(&mut self, entry: Entry, mask: &Mask) {
        let tail = tail(mask);
        if let Err(at) = self.lengths.binary_search(&tail.len()) {
            self.lengths.insert(at, tail.len());
        }
        self.tails.entry(tail.into()).or_default().push(entry);
    }

    /// The lists, each in ascending order, that together hold every mask that can match `name`
    /// (lower case, without a final dot), and some that do not.
    pub(crate) fn lists<'index>(
        &'index self,
        name: &'index [u8],
    ) -> impl Iterator<Item = &'index [Entry]> {
        self.lengths
            .iter()
            .take_while(|length| **length <= name.len())
            .filter_map(|length| self.tails.get(&name[name.len() - length..]))
            .map(Vec::as_slice)
    }

    /// The lists that together hold every mask that can cover `mask`: whatever covers it must end
    /// as it ends.
    pub(crate) fn lists_covering<'index>(
        &'index self,
        mask: &'index Mask,
    ) -> impl Iterator<Item = &'index [Entry]> {
        self.lists(tail(mask))
    }
}
