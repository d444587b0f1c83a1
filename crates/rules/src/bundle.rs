//! Bundles: all rules of a deliverability instance in one signed, versioned text.
//!
//! A deliverability instance publishes; its clients verify, check and apply. This module knows the
//! format and every reason to refuse it; who holds keys, clocks, files and sockets is the shell.
//!
//! # The format, schema version 1
//!
//! ```text
//! mailweir-bundle 1 <octets from the next line to the end of the sections>
//! {"version":42,"created":...,"expires":...,"minimum_client":"0.1.0","keys":[],"sections":[...]}
//! <the sections, one after the other, as long as the manifest says>
//! signature <id of the key> <Ed25519 signature, 128 hexadecimal digits>
//! ```
//!
//! The signature is over every octet before its line, so no octet of a bundle can be another one. The
//! sections are what stands in the files of the folder it was published from ([`Kind::file_name`]):
//! rules as TOML, qualifications as lines of JSON, the suppression list as lines of hashes and domains.
//! [`Manifest`] documents the second line.
//!
//! # Keys
//!
//! A key is known by the first 16 hexadecimal digits of the SHA-256 of its public half. To change the key,
//! the old one signs a [`KeyStatement`] that names the new one; bundles carry up to
//! [`MOST_STATEMENTS`] of them. A client follows them from a key that it trusts; a key that was replaced is
//! not trusted any more. When a key is lost nothing can name its successor, and every client must be given
//! the new one by its operator.
//!
//! # Steps of a reader
//!
//! 1. [`Sealed::split`] bounds the size and finds the parts; it believes nothing.
//! 2. [`Sealed::verify`] checks the signature against a [`Trust`].
//! 3. [`Sealed::admit`] checks times, versions and the client that it is for.
//! 4. [`Sealed::contents`] reads every section with the checks of its kind, examples included.
//! 5. [`difference`] says what another bundle changes, rule by rule.
//!
//! # Invariants
//!
//! - Whatever the octets, a reader ends in bounded time and memory: [`LARGEST_BUNDLE`] octets, and the bounds
//!   of every kind.
//! - A [`Contents`] has passed every check; there is no way to make one of a faulty bundle.
//! - Nothing here knows the time, a file, a socket, a thread, chance or a private key.
//!
//! # When it fails
//!
//! Every reason has a name, [`BundleFault::name`], that logs, alerts and the server's statistics use.

mod container;
mod contents;
mod difference;
mod fault;
mod keys;
mod levels;
mod lists;
mod manifest;
mod report;

pub use container::{Draft, LARGEST_BUNDLE, Sealed};
pub use contents::Contents;
pub use difference::{
    Changed, Difference, FieldChange, KindDifference, Moved, difference, shipped_text,
};
pub use fault::BundleFault;
pub use keys::{
    BadHex, KeyId, KeyStatement, MOST_STATEMENTS, PublicKey, Signature, SignatureCheck, Trust,
};
pub use levels::{LevelFactors, LevelFigures};
pub use lists::{KnownText, MOST_SUPPRESSED, MOST_TEXTS, SuppressedEntry};
pub use manifest::{
    Admission, ClientVersion, FUTURE_TOLERANCE, InForce, Kind, LONGEST_LEAP, LONGEST_LIFE,
    Manifest, Section,
};
pub use report::ReportState;

/// What a bundle is called on its way over HTTP (Content-Type).
pub const MEDIA_TYPE: &str = "application/vnd.mailweir.bundle";

#[cfg(test)]
mod tests;
