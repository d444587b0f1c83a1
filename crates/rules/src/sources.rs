//! Sets of sources, written as a list of `public_id`s and ranges: `"1,4-7"`.

use core::fmt;
use core::ops::Range;

use mail::id::SourceId;

/// A set of sources.
///
/// Kept as sorted, disjoint, inclusive ranges that do not touch, so equal sets compare equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SourceSet(Vec<(u32, u32)>);

/// What is wrong with a list of sources, and which bytes of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SourceFault {
    /// The words for people.
    pub message: String,
    /// The part of the text that is at fault.
    pub at: Range<usize>,
}

/// More parts than this in one list are refused.
const MOST_PARTS: usize = 1_000;

impl SourceSet {
    /// Every source there is or will be.
    #[must_use]
    pub fn all() -> Self {
        Self(vec![(0, u32::MAX)])
    }

    /// Reads `"1,4-7"`. The empty text means all sources. Blanks around the parts do not matter.
    ///
    /// # Errors
    ///
    /// [`SourceFault`]: something that is no number, a range from high to low, an id named twice, or
    /// more than 1,000 parts.
    pub fn parse(text: &str) -> Result<Self, SourceFault> {
        if text.trim().is_empty() {
            return Ok(Self::all());
        }
        let mut parts: Vec<(u32, u32, Range<usize>)> = Vec::new();
        let mut start = 0;
        for part in text.split(',') {
            let at = start..start + part.len();
            start = at.end + 1;
            if parts.len() == MOST_PARTS {
                return Err(SourceFault {
                    message: format!("more than {MOST_PARTS} ids and ranges"),
                    at,
                });
            }
            let (low, high) = read_part(part, &at)?;
            parts.push((low, high, at));
        }
        parts.sort_by_key(|(low, _, at)| (*low, at.start));
        for pair in parts.windows(2) {
            if pair[1].0 <= pair[0].1 {
                // Blame the part that the reader meets second.
                let (first, second) =
                    if pair[0].2.start < pair[1].2.start { (0, 1) } else { (1, 0) };
                return Err(SourceFault {
                    message: format!(
                        "`{}` overlaps `{}`",
                        text[pair[second].2.clone()].trim(),
                        text[pair[first].2.clone()].trim()
                    ),
                    at: pair[second].2.clone(),
                });
            }
        }
        Ok(Self::from_ranges(parts.into_iter().map(|(low, high, _)| (low, high)).collect()))
    }

    /// Sorts and merges ranges.
    fn from_ranges(mut ranges: Vec<(u32, u32)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
        for (low, high) in ranges {
            match merged.last_mut() {
                Some(last) if low <= last.1.saturating_add(1) => last.1 = last.1.max(high),
                _ => merged.push((low, high)),
            }
        }
        Self(merged)
    }

    /// Whether `source` belongs to the set.
    #[must_use]
    pub fn contains(&self, source: SourceId) -> bool {
        let after = self.0.partition_point(|(low, _)| *low <= source.0);
        after > 0 && source.0 <= self.0[after - 1].1
    }

    /// Whether it is the set of all sources.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.0 == [(0, u32::MAX)]
    }

    /// Whether every source of `other` belongs to `self`.
    #[must_use]
    pub fn is_superset(&self, other: &Self) -> bool {
        other.0.iter().all(|(low, high)| {
            let after = self.0.partition_point(|(start, _)| start <= low);
            after > 0 && *high <= self.0[after - 1].1
        })
    }

    /// The sources of either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::from_ranges(self.0.iter().chain(&other.0).copied().collect())
    }
}

/// Reads `7` or `4-7`; `at` is where it stands in the whole text.
fn read_part(part: &str, at: &Range<usize>) -> Result<(u32, u32), SourceFault> {
    let fault = |message: String| SourceFault { message, at: at.clone() };
    let number = |digits: &str| -> Result<u32, SourceFault> {
        let digits = digits.trim();
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(fault(format!("`{}` is not a source id or a range of them", part.trim())));
        }
        digits.parse().map_err(|_| fault(format!("source id `{digits}` is above {}", u32::MAX)))
    };
    let (low, high) = match part.split_once('-') {
        Some((low, high)) => (number(low)?, number(high)?),
        None => (number(part)?, number(part)?),
    };
    if low > high {
        return Err(fault(format!("range `{}` runs from high to low", part.trim())));
    }
    Ok((low, high))
}

impl Default for SourceSet {
    /// All sources.
    fn default() -> Self {
        Self::all()
    }
}

impl fmt::Display for SourceSet {
    /// `all` or `1,4-7`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_all() {
            return out.write_str("all");
        }
        for (position, (low, high)) in self.0.iter().enumerate() {
            let comma = if position == 0 { "" } else { "," };
            if low == high {
                write!(out, "{comma}{low}")?;
            } else {
                write!(out, "{comma}{low}-{high}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_lists_and_ranges() {
        let set = SourceSet::parse("1, 4-7").unwrap();
        let inside: Vec<u32> = (0..10).filter(|id| set.contains(SourceId(*id))).collect();
        assert_eq!(inside, [1, 4, 5, 6, 7]);
        assert_eq!(set.to_string(), "1,4-7");
        assert_eq!(SourceSet::parse("2,1,3").unwrap().to_string(), "1-3");
        assert!(SourceSet::parse("").unwrap().is_all());
        assert!(SourceSet::all().contains(SourceId(u32::MAX)));
        assert!(
            SourceSet::parse("1-3,4-9").unwrap().is_superset(&SourceSet::parse("2-8").unwrap())
        );
    }

    #[test]
    fn says_which_part_is_wrong() {
        for (text, at, message) in [
            ("1,x", 2..3, "`x` is not a source id or a range of them"),
            ("1,,2", 2..2, "`` is not a source id or a range of them"),
            ("7-4", 0..3, "range `7-4` runs from high to low"),
            ("5,1-6", 2..5, "`1-6` overlaps `5`"),
            ("1,1", 2..3, "`1` overlaps `1`"),
            ("-1", 0..2, "`-1` is not a source id or a range of them"),
            ("1-4294967296", 0..12, "source id `4294967296` is above 4294967295"),
        ] {
            let fault = SourceSet::parse(text).unwrap_err();
            assert_eq!((fault.at, fault.message.as_str()), (at, message), "{text}");
        }
    }

    fn set_of(ids: &[u32]) -> SourceSet {
        SourceSet::from_ranges(ids.iter().map(|id| (*id, *id)).collect())
    }

    proptest! {
        #[test]
        fn behaves_as_a_set(
            left in proptest::collection::vec(0_u32..12, 0..8),
            right in proptest::collection::vec(0_u32..12, 0..8),
        ) {
            let (one, other) = (set_of(&left), set_of(&right));
            let both = one.union(&other);
            for id in 0..13 {
                prop_assert_eq!(one.contains(SourceId(id)), left.contains(&id));
                prop_assert_eq!(
                    both.contains(SourceId(id)),
                    left.contains(&id) || right.contains(&id)
                );
            }
            prop_assert_eq!(one.is_superset(&other), right.iter().all(|id| left.contains(id)));
            if !left.is_empty() {
                prop_assert_eq!(SourceSet::parse(&one.to_string()), Ok(one));
            }
        }
    }
}
