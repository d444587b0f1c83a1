//! The history of a world as one number, and as text where somebody wants to read it.

use core::fmt::{self, Write};

use mail::time::Timestamp;

/// Hashes (like FNV-1a, but eight octets at a time) what is written to it.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    hash: u64,
    verbose: bool,
    /// Lines, kept only where wanted.
    pub(crate) lines: Vec<String>,
}

impl Log {
    pub(crate) const fn new(verbose: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, verbose, lines: Vec::new() }
    }

    pub(crate) const fn hash(&self) -> u64 {
        self.hash
    }

    /// One thing that happened.
    pub(crate) fn note(&mut self, now: Timestamp, what: fmt::Arguments<'_>) {
        // Hashing cannot fail.
        let _ = write!(self, "{} ", now.as_micros());
        let _ = self.write_fmt(what);
        if self.verbose {
            self.lines.push(format!("{now} {what}"));
        }
    }
}

impl Write for Log {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut mix = |word: u64| {
            self.hash = (self.hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        };
        let (words, rest) = text.as_bytes().as_chunks::<8>();
        for word in words {
            mix(u64::from_le_bytes(*word));
        }
        // The length keeps pieces with zeros at their end apart.
        let last = rest.iter().fold(rest.len() as u64, |last, octet| last << 8 | u64::from(*octet));
        mix(last);
        Ok(())
    }
}
