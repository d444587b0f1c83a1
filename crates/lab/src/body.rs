//! What tells one mail's body from another in the journal.
//!
//! The 64-bit FNV-1a hash of the octets below the header, with their line ends; of the dots that DATA doubles at the
//! beginning of a line one counts, so that a body has one hash by DATA and by BDAT. Who knows what was handed in can work it out by himself. Not fit for secrets.

/// Hash of no octets.
const NOTHING: u64 = 0xcbf2_9ce4_8422_2325;
const FACTOR: u64 = 0x0000_0100_0000_01b3;

/// The hash of a body that is there as a whole.
#[must_use]
pub fn body_hash(body: &[u8]) -> u64 {
    more(NOTHING, body)
}

fn more(hash: u64, octets: &[u8]) -> u64 {
    octets.iter().fold(hash, |hash, octet| (hash ^ u64::from(*octet)).wrapping_mul(FACTOR))
}

/// The end of the header: an empty line.
const END: &[u8] = b"\r\n\r\n";

/// The same while a mail comes in, header and all, in runs of any length.
pub(crate) struct BodyHash {
    /// Octets of the header's end that the last ones were.
    matched: usize,
    /// The two octets before the next one.
    before: [u8; 2],
    hash: u64,
}

impl Default for BodyHash {
    fn default() -> Self {
        // A mail without a header begins with the empty line.
        Self { matched: 2, before: *b"\r\n", hash: NOTHING }
    }
}

impl BodyHash {
    /// The next octets of the mail. `stuffed`: dots that begin a line are doubled.
    pub(crate) fn take(&mut self, run: &[u8], stuffed: bool) {
        for &octet in run {
            if self.matched < END.len() {
                self.matched = match octet {
                    octet if octet == END[self.matched] => self.matched + 1,
                    b'\r' => 1,
                    _ => 0,
                };
            } else if !(stuffed && octet == b'.' && self.before == *b"\r\n") {
                self.hash = more(self.hash, &[octet]);
            }
            self.before = [self.before[1], octet];
        }
    }

    /// That of what came so far.
    pub(crate) const fn hash(&self) -> u64 {
        self.hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header ends where it must, wherever the mail is cut.
    #[test]
    fn the_body_is_what_comes_behind_the_first_empty_line() {
        assert_eq!(body_hash(b"a"), 0xaf63_dc4c_8601_ec8c, "as its authors published it");
        let mails: [(&[u8], &[u8]); 6] = [
            (b"Subject: a\r\n\r\nhello\r\n", b"hello\r\n"),
            (b"\r\nhello\r\n\r\nhello\r\n", b"hello\r\n\r\nhello\r\n"),
            (b"Subject: a\r\n\tb\r\r\n\r\n\r\n..\r\n", b"\r\n..\r\n"),
            (b"Subject: a\r\n\r\n", b""),
            (b"Subject: a\r\n", b""),
            (b"a: \r\n\rb\r\n\n\r\n\r\nx", b"x"),
        ];
        for (mail, body) in mails {
            for cut in 0..=mail.len() {
                let (mut hash, (one, other)) = (BodyHash::default(), mail.split_at(cut));
                hash.take(one, false);
                hash.take(other, false);
                assert_eq!(hash.hash(), body_hash(body), "{} at {cut}", mail.escape_ascii());
            }
        }
    }

    #[test]
    fn a_body_has_one_hash_by_data_and_by_bdat() {
        let (stuffed, body) =
            (b"a: b\r\n\r\n..\r\n...x\r\ny.\r\n..z\r\n", b".\r\n..x\r\ny.\r\n.z\r\n");
        for cut in 0..=stuffed.len() {
            let (mut hash, (one, other)) = (BodyHash::default(), stuffed.split_at(cut));
            hash.take(one, true);
            hash.take(other, true);
            assert_eq!(hash.hash(), body_hash(body), "at {cut}");
        }
    }
}
