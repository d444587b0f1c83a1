//! Chance without a source of chance: hashes and a seeded sequence, the same on every machine.
//!
//! Which addresses are unknown, full or refused must not depend on the order in which connections
//! happen to be served, so every such choice is a hash of what it is about and of the seed.
//! Nothing here is fit for secrets.

/// A 64-bit hash of `bytes` under `seed`, the same in every run and on every machine.
#[must_use]
pub(crate) fn hash64(seed: u64, bytes: &[u8]) -> u64 {
    let mut state = seed ^ 0x9e37_79b9_7f4a_7c15 ^ (bytes.len() as u64);
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let mut word = [0u8; 8];
        word.copy_from_slice(chunk);
        state = mix(state ^ u64::from_le_bytes(word));
    }
    let mut word = [0u8; 8];
    let rest = chunks.remainder();
    word[..rest.len()].copy_from_slice(rest);
    mix(state ^ u64::from_le_bytes(word))
}

/// As [`hash64`], with ASCII letters taken as lower case; for addresses and domains.
#[must_use]
pub(crate) fn hash64_folded(seed: u64, bytes: &[u8]) -> u64 {
    let mut folded = [0u8; 320];
    match folded.get_mut(..bytes.len()) {
        Some(room) => {
            room.copy_from_slice(bytes);
            room.make_ascii_lowercase();
            hash64(seed, room)
        }
        None => hash64(seed, &bytes.to_ascii_lowercase()),
    }
}

/// One bijective stir of 64 bits in which each input bit moves about half of the output bits.
#[must_use]
pub(crate) const fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Whether a hash falls into the given share (0 = never, 1 = always).
#[must_use]
pub(crate) fn falls_within(hash: u64, share: f64) -> bool {
    if share <= 0.0 {
        return false;
    }
    (fraction(hash)) < share
}

/// A hash as a number from 0 (included) to 1 (excluded).
#[must_use]
pub(crate) fn fraction(hash: u64) -> f64 {
    // 53 bits are what a double holds exactly.
    (hash >> 11) as f64 / (1u64 << 53) as f64
}

/// A seeded endless sequence of 64-bit numbers.
#[derive(Clone, Debug)]
pub(crate) struct Sequence(u64);

impl Sequence {
    /// The sequence of this seed.
    pub(crate) const fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// The next number.
    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// The next number below `limit` (0 when `limit` is 0).
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        if limit == 0 {
            return 0;
        }
        (self.next() % limit as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_do_not_depend_on_case_when_folded() {
        assert_eq!(hash64_folded(1, b"Ann@Gmail.COM"), hash64_folded(1, b"ann@gmail.com"));
        assert_ne!(hash64_folded(1, b"ann@gmail.com"), hash64_folded(2, b"ann@gmail.com"));
        assert_ne!(hash64(1, b""), hash64(1, b"\0"));
    }

    #[test]
    fn shares_come_out() {
        for share in [0.02, 0.3, 0.9] {
            let hits = (0..20_000u32)
                .filter(|n| falls_within(hash64(7, format!("user{n}@x.example").as_bytes()), share))
                .count();
            let seen = hits as f64 / 20_000.0;
            assert!((seen - share).abs() < 0.01, "share {share}, seen {seen}");
        }
        assert!(!falls_within(0, 0.0));
        assert!(falls_within(u64::MAX, 1.0));
    }
}
