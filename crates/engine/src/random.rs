//! The engine's own chance: a small seeded generator (SplitMix64).
//!
//! It chooses among equal MX hosts and stretches retry pauses. It is not for secrets.

/// A seeded generator; the same seed gives the same numbers for ever.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// A generator from its seed.
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 when `bound` is 0. The bias is below `bound / 2^64`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.next()) * u128::from(bound);
        // The upper half of a 64 by 64 bit product is below `bound`, so it fits.
        (wide >> 64) as u64
    }
}
