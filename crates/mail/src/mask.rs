//! Masks: names with `*` (any run of characters, also none and also dots) and `?` (one character).
//!
//! Compared without regard to ASCII case, a final dot of the name is ignored. A mask never takes
//! more than `mask × name` steps, whatever it holds.

use core::fmt;

/// A mask, kept in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mask(Box<str>);

impl Mask {
    /// A mask from its text. Upper case and a final dot do not matter.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.trim_end_matches('.').to_ascii_lowercase().into_boxed_str())
    }

    /// Whether `name` matches, without regard to ASCII case and a final dot.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name).as_bytes();
        let mask = self.0.as_bytes();
        let (mut at_mask, mut at_name) = (0, 0);
        // Where the last star stood, and how much of the name it has swallowed so far.
        let mut star: Option<(usize, usize)> = None;
        while at_name < name.len() {
            match mask.get(at_mask) {
                Some(b'*') => {
                    star = Some((at_mask, at_name));
                    at_mask += 1;
                }
                Some(wanted)
                    if *wanted == b'?' || *wanted == name[at_name].to_ascii_lowercase() =>
                {
                    at_mask += 1;
                    at_name += 1;
                }
                _ => {
                    let Some((star_mask, star_name)) = star else { return false };
                    at_mask = star_mask + 1;
                    at_name = star_name + 1;
                    star = Some((star_mask, star_name + 1));
                }
            }
        }
        mask[at_mask..].iter().all(|byte| *byte == b'*')
    }

    /// Whether every name that `other` matches is matched by `self` too.
    ///
    /// Exact: treats the wildcards of `other` as letters that only a wildcard of ours can cover.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        covers(self.0.as_bytes(), other.0.as_bytes())
    }

    /// The mask as written, in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Language inclusion for masks by dynamic programming: `table[j]` says whether the first `i` characters of
/// `narrow` are covered by the first `j` of `wide`.
fn covers(wide: &[u8], narrow: &[u8]) -> bool {
    let mut row: Vec<bool> = Vec::with_capacity(wide.len() + 1);
    row.push(true);
    for (j, byte) in wide.iter().enumerate() {
        row.push(row[j] && *byte == b'*');
    }
    for have in narrow {
        let before = row.clone();
        row[0] = false;
        for (j, want) in wide.iter().enumerate() {
            row[j + 1] = match want {
                b'*' => row[j] || before[j + 1],
                b'?' => *have != b'*' && before[j],
                letter => letter == have && before[j],
            };
        }
    }
    row[wide.len()]
}

impl fmt::Display for Mask {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, spelled out: slow and plainly right.
    fn naive(mask: &[u8], name: &[u8]) -> bool {
        match (mask.first(), name.first()) {
            (None, None) => true,
            (Some(b'*'), _) => {
                naive(&mask[1..], name) || (!name.is_empty() && naive(mask, &name[1..]))
            }
            (Some(b'?'), Some(_)) => naive(&mask[1..], &name[1..]),
            (Some(want), Some(have)) if want == have => naive(&mask[1..], &name[1..]),
            _ => false,
        }
    }

    #[test]
    fn matches_as_the_old_system_did() {
        assert!(Mask::new("*.yahoo.com").matches("a.mx.yahoo.com"));
        assert!(Mask::new("?.mx.yahoo.com").matches("A.MX.yahoo.com."));
        assert!(!Mask::new("?.mx.yahoo.com").matches("ab.mx.yahoo.com"));
        assert!(!Mask::new("*.google.com").matches("google.com"));
        assert!(Mask::new("*").matches("anything"));
        let many_stars = Mask::new(&"*a".repeat(2_000));
        assert!(!many_stars.matches(&"a".repeat(1_999)));
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(mask in "[ab*?]{0,7}", name in "[ab]{0,8}") {
            prop_assert_eq!(
                Mask::new(&mask).matches(&name),
                naive(mask.as_bytes(), name.as_bytes())
            );
        }

        #[test]
        fn covering_is_inclusion(wide in "[ab*?]{0,5}", narrow in "[ab*?]{0,5}", name in "[abc]{0,6}") {
            let (wide, narrow) = (Mask::new(&wide), Mask::new(&narrow));
            if wide.covers(&narrow) && narrow.matches(&name) {
                prop_assert!(wide.matches(&name));
            }
        }
    }
}
