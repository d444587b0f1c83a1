//! Ed25519 keys of a deliverability instance: made, kept in files, used.
//!
//! **Files.** A private key is one line, `mailweir-private-key 1` and its 32-octet seed as hexadecimal
//! digits, in a file that only its owner may read. A public key is one line of 64 hexadecimal digits, as the
//! configuration of clients takes it. A statement that a key replaces another one is one line of JSON
//! ([`KeyStatement`]).
//!
//! **Absences.** No private key is shown by `Debug`, written anywhere but into its file, or overwritten.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use rules::bundle::{KeyStatement, PublicKey, Signature};

use crate::config::Secret;

/// What a file with a private key begins with.
const PRIVATE: &str = "mailweir-private-key 1 ";

/// What is wrong with a key or its file.
#[derive(Debug, thiserror::Error)]
pub enum KeyFault {
    /// A file cannot be read.
    #[error("{0}")]
    Unreadable(String),
    /// A file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Unwritable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("{} holds no {what}", path.display())]
    NotA {
        /// Which.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// The system gives no randomness.
    #[error("the system gives no randomness for a key")]
    NoRandomness,
}

/// Checks Ed25519 signatures.
#[must_use]
pub fn holds(key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
    UnparsedPublicKey::new(&ED25519, key.0).verify(message, &signature.0).is_ok()
}

/// A private key.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    seed: [u8; 32],
}

impl core::fmt::Debug for SigningKey {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(out, "SigningKey({})", self.public().id())
    }
}

impl SigningKey {
    /// A new key.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn generate() -> Result<Self, KeyFault> {
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).map_err(|_| KeyFault::NoRandomness)?;
        Self::from_seed(seed).ok_or(KeyFault::NoRandomness)
    }

    fn from_seed(seed: [u8; 32]) -> Option<Self> {
        Ed25519KeyPair::from_seed_unchecked(&seed).ok().map(|pair| Self { pair, seed })
    }

    /// Reads the file of a private key.
    ///
    /// # Errors
    /// It cannot be read, or holds no key.
    pub fn read(path: &Path) -> Result<Self, KeyFault> {
        let secret = Secret::from_file(path).map_err(KeyFault::Unreadable)?;
        let digits = secret.expose().strip_prefix(PRIVATE);
        // 64 digits like those of a public key.
        let seed = digits.and_then(|digits| digits.parse::<PublicKey>().ok());
        seed.and_then(|seed| Self::from_seed(seed.0))
            .ok_or_else(|| KeyFault::NotA { path: path.to_owned(), what: "private key" })
    }

    /// Writes the private key into a new file that only its owner may read, on disk when this returns.
    ///
    /// # Errors
    /// The file is there, or cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), KeyFault> {
        let line = format!("{PRIVATE}{}\n", PublicKey(self.seed));
        write_new(path, &line, 0o600)
    }

    /// The public half.
    ///
    /// # Panics
    /// Never: an Ed25519 key has 32 octets.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let octets = self.pair.public_key().as_ref();
        PublicKey(octets.try_into().expect("an Ed25519 key has 32 octets"))
    }

    /// Signs.
    ///
    /// # Panics
    /// Never: an Ed25519 signature has 64 octets.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Signature {
        let signature = self.pair.sign(message);
        Signature(signature.as_ref().try_into().expect("an Ed25519 signature has 64 octets"))
    }

    /// Says that another key takes the place of this one.
    #[must_use]
    pub fn replaced_by(&self, new: PublicKey) -> KeyStatement {
        let old = self.public().id();
        KeyStatement { old, new, signature: self.sign(&KeyStatement::message(old, &new)) }
    }
}

/// Writes a new file and has it on disk when this returns.
///
/// # Errors
/// The file is there, or cannot be written.
pub fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), KeyFault> {
    let write = || {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|source| KeyFault::Unwritable { path: path.to_owned(), source })
}

/// Reads the file of a public key, or takes the digits themselves.
///
/// # Errors
/// It is neither.
pub fn read_public(key_or_path: &str) -> Result<PublicKey, KeyFault> {
    if let Ok(key) = key_or_path.parse() {
        return Ok(key);
    }
    let path = Path::new(key_or_path);
    let text = Secret::from_file(path).map_err(KeyFault::Unreadable)?;
    let fault = |_| KeyFault::NotA { path: path.to_owned(), what: "public key" };
    text.expose().parse().map_err(fault)
}

/// Reads the file of a statement.
///
/// # Errors
/// It cannot be read, or holds no statement.
pub fn read_statement(path: &Path) -> Result<KeyStatement, KeyFault> {
    let text = Secret::from_file(path).map_err(KeyFault::Unreadable)?;
    let fault = |_| KeyFault::NotA { path: path.to_owned(), what: "statement of keys" };
    serde_json::from_str(text.expose()).map_err(fault)
}
