//! What a server offers in its answer to EHLO.
//!
//! **Promise.** Reads any answer: unknown keywords, odd values and repetitions are passed over
//! (RFC 5321, 4.1.1.1). Keywords are compared without regard to case.

/// The service extensions that matter to a sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// Commands may be sent in groups (RFC 2920).
    pub pipelining: bool,
    /// Largest message in octets (RFC 1870): `None` when SIZE is not offered, `Some(0)` when it is
    /// offered without a figure or with one that cannot be read.
    pub size: Option<u64>,
    /// Content may have octets above 127 (RFC 6152).
    pub eight_bit_mime: bool,
    /// Addresses and header fields may be UTF-8 (RFC 6531).
    pub smtputf8: bool,
    /// The conversation can be moved to TLS (RFC 3207).
    pub starttls: bool,
    /// Replies begin with an enhanced status code (RFC 2034).
    pub enhanced_status_codes: bool,
    /// Content may be sent with BDAT (RFC 3030).
    pub chunking: bool,
    /// Delivery status notifications can be asked for (RFC 3461).
    pub dsn: bool,
}

impl Extensions {
    /// Reads the texts of the lines of an EHLO answer; the first is the server's name.
    #[must_use]
    pub fn read<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut offered = Self::default();
        for line in lines.skip(1) {
            let mut words = line.split(|octet| *octet == b' ').filter(|word| !word.is_empty());
            let Some(keyword) = words.next() else { continue };
            match keyword.to_ascii_uppercase().as_slice() {
                b"PIPELINING" => offered.pipelining = true,
                b"SIZE" => offered.size = Some(words.next().and_then(read_size).unwrap_or(0)),
                b"8BITMIME" => offered.eight_bit_mime = true,
                b"SMTPUTF8" => offered.smtputf8 = true,
                b"STARTTLS" => offered.starttls = true,
                b"ENHANCEDSTATUSCODES" => offered.enhanced_status_codes = true,
                b"CHUNKING" => offered.chunking = true,
                b"DSN" => offered.dsn = true,
                _ => {}
            }
        }
        offered
    }
}

/// A figure of decimal digits; `None` when it is not one or does not fit.
fn read_size(word: &[u8]) -> Option<u64> {
    core::str::from_utf8(word).ok().filter(|text| !text.starts_with('+'))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_odd_answers() {
        for (answer, expected) in [
            ("mx.test", Extensions::default()),
            ("PIPELINING", Extensions::default()),
            (
                "mx|pipelining|Size 100|AUTH=LOGIN|STARTTLS|STARTTLS",
                Extensions {
                    pipelining: true,
                    size: Some(100),
                    starttls: true,
                    ..Extensions::default()
                },
            ),
            ("mx|SIZE", Extensions { size: Some(0), ..Extensions::default() }),
            ("mx|SIZE 0", Extensions { size: Some(0), ..Extensions::default() }),
            ("mx|SIZE 18446744073709551616", Extensions { size: Some(0), ..Extensions::default() }),
            ("mx|SIZE -5", Extensions { size: Some(0), ..Extensions::default() }),
            ("mx||  |X|PIPELINING2", Extensions::default()),
        ] {
            assert_eq!(
                Extensions::read(answer.split('|').map(str::as_bytes)),
                expected,
                "{answer}"
            );
        }
    }
}
