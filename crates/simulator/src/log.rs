//! The history of a world as one number, and as text where somebody wants to read it.

use core::fmt::{self, Write};

use mail::time::Timestamp;

/// Hashes (FNV-1a, 64 bits) what is written to it.
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
        for octet in text.bytes() {
            self.hash = (self.hash ^ u64::from(octet)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Ok(())
    }
}
