//! SipHash-2-4 (Aumasson and Bernstein, 2012) of folded addresses.
//!
//! The hash is stored, so it must stay the same over versions of the standard library, which promises
//! that for none of its own. Its key is random per database.

/// The 128-bit key of a database.
pub(super) type AddressKey = [u8; 16];

/// The state of the hash.
struct State(u64, u64, u64, u64);

impl State {
    /// One round.
    fn round(&mut self) {
        self.0 = self.0.wrapping_add(self.1);
        self.1 = self.1.rotate_left(13) ^ self.0;
        self.0 = self.0.rotate_left(32);
        self.2 = self.2.wrapping_add(self.3);
        self.3 = self.3.rotate_left(16) ^ self.2;
        self.0 = self.0.wrapping_add(self.3);
        self.3 = self.3.rotate_left(21) ^ self.0;
        self.2 = self.2.wrapping_add(self.1);
        self.1 = self.1.rotate_left(17) ^ self.2;
        self.2 = self.2.rotate_left(32);
    }

    /// Takes in eight octets.
    fn absorb(&mut self, word: u64) {
        self.3 ^= word;
        self.round();
        self.round();
        self.0 ^= word;
    }
}

/// The hash of a text.
pub(super) fn address_hash(key: &AddressKey, text: &str) -> u64 {
    let key = u128::from_le_bytes(*key);
    let (low, high) = (key as u64, (key >> 64) as u64);
    let mut state = State(
        low ^ 0x736f_6d65_7073_6575,
        high ^ 0x646f_7261_6e64_6f6d,
        low ^ 0x6c79_6765_6e65_7261,
        high ^ 0x7465_6462_7974_6573,
    );
    let (words, rest) = text.as_bytes().as_chunks::<8>();
    for word in words {
        state.absorb(u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    last[7] = text.len() as u8;
    state.absorb(u64::from_le_bytes(last));
    state.2 ^= 0xff;
    for _ in 0..4 {
        state.round();
    }
    state.0 ^ state.1 ^ state.2 ^ state.3
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of the paper's appendix and its reference program: octets 0, 1, 2, ...
    #[test]
    fn agrees_with_the_published_vectors() {
        let key: AddressKey = core::array::from_fn(|index| index as u8);
        let input: String = (0..15_u8).map(char::from).collect();
        for (length, expected) in
            [(0, 0x726f_db47_dd0e_0e31), (8, 0x93f5_f579_9a93_2462), (15, 0xa129_ca61_49be_45e5)]
        {
            assert_eq!(address_hash(&key, &input[..length]), expected, "{length} octets");
        }
    }
}
