//! Public keys, signatures, and the statements by which one key names the next.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::fault::BundleFault;

/// Statements that a bundle may carry: changes of the key that a client may have slept through.
pub const MOST_STATEMENTS: usize = 8;

/// A text that is not the hexadecimal form of something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} lower-case hexadecimal digits are expected")]
pub struct BadHex(usize);

/// Reads exactly as many octets from lower-case hexadecimal digits: every value has one form only.
pub(super) fn octets_of<const N: usize>(text: &str) -> Result<[u8; N], BadHex> {
    let digit = |octet: u8| match octet {
        b'0'..=b'9' => Some(octet - b'0'),
        b'a'..=b'f' => Some(octet - b'a' + 10),
        _ => None,
    };
    let mut octets = [0; N];
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return Err(BadHex(N * 2));
    }
    for (octet, [high, low]) in octets.iter_mut().zip(pairs) {
        *octet = digit(*high)
            .zip(digit(*low))
            .map(|(high, low)| high << 4 | low)
            .ok_or(BadHex(N * 2))?;
    }
    Ok(octets)
}

/// Octets as lower-case hexadecimal digits.
fn hex(out: &mut fmt::Formatter<'_>, octets: &[u8]) -> fmt::Result {
    octets.iter().try_for_each(|octet| write!(out, "{octet:02x}"))
}

/// Writes and reads a type as the text that its `Display` and `FromStr` know.
macro_rules! as_text {
    ($name:ident, $octets:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                hex(out, &self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                hex(out, &self.0)
            }
        }

        impl FromStr for $name {
            type Err = BadHex;

            /// Reads what `Display` writes, in that form only.
            fn from_str(text: &str) -> Result<Self, BadHex> {
                octets_of::<$octets>(text).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadHex;

            fn try_from(text: String) -> Result<Self, BadHex> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    };
}

/// The public half of an Ed25519 key (RFC 8032). Shown as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PublicKey(pub [u8; 32]);
as_text!(PublicKey, 32);

impl PublicKey {
    /// By what it is called: the first 64 bits of its SHA-256. Names only; trust is by the key itself.
    #[must_use]
    pub fn id(&self) -> KeyId {
        let digest = Sha256::digest(self.0);
        let (first, _) = digest.split_first_chunk::<8>().expect("a SHA-256 has 32 octets");
        KeyId(*first)
    }
}

/// The name of a key. Shown as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct KeyId(pub [u8; 8]);
as_text!(KeyId, 8);

/// An Ed25519 signature. Shown as 128 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Signature(pub [u8; 64]);
as_text!(Signature, 64);

/// Knows whether a signature holds; the shell has the arithmetic.
pub trait SignatureCheck {
    /// Whether this key made this signature over exactly this message (Ed25519, RFC 8032, 5.1.7).
    fn holds(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool;
}

impl<F: Fn(&PublicKey, &[u8], &Signature) -> bool> SignatureCheck for F {
    fn holds(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        self(key, message, signature)
    }
}

/// One key names the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyStatement {
    /// The key that is replaced, and that signs.
    pub old: KeyId,
    /// The key that takes its place.
    pub new: PublicKey,
    /// The old key's signature over [`KeyStatement::message`].
    pub signature: Signature,
}

impl KeyStatement {
    /// What the old key signs: `mailweir-key 1 <id of the old> <the new>` and a line end.
    #[must_use]
    pub fn message(old: KeyId, new: &PublicKey) -> Vec<u8> {
        format!("mailweir-key 1 {old} {new}\n").into_bytes()
    }
}

/// One key has named the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Succession {
    old: PublicKey,
    new: PublicKey,
}

/// Whom a client believes: what its operator has configured, and what followed from it.
///
/// A key that a statement has named is believed for as long as the chain of statements begins at a configured key:
/// an operator who takes the first key out of the configuration ends the trust in all that followed from it.
///
/// It is kept with what is in force, because a key that was replaced must not come back when later bundles do not
/// carry its statement any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredTrust")]
pub struct Trust {
    /// What the operator has configured. Not stored: the configuration decides at every start.
    #[serde(skip)]
    configured: Vec<PublicKey>,
    /// Every statement that was followed, in their order.
    successions: Vec<Succession>,
}

/// How a trust is stored: also in the form without the origin of a key.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct StoredTrust {
    successions: Vec<Succession>,
    learnt: Vec<PublicKey>,
    retired: Vec<PublicKey>,
}

impl From<StoredTrust> for Trust {
    fn from(stored: StoredTrust) -> Self {
        let StoredTrust { mut successions, learnt, retired } = stored;
        // Which key has named which is not known any more: each may have been named by every one that is replaced.
        for old in retired {
            successions.extend(learnt.iter().map(|new| Succession { old, new: *new }));
        }
        Self { configured: Vec::new(), successions }
    }
}

impl Trust {
    /// Believes these keys, and what followed from them by the statements that `before` knows.
    #[must_use]
    pub fn new(configured: impl IntoIterator<Item = PublicKey>, before: Self) -> Self {
        Self { configured: configured.into_iter().collect(), ..before }
    }

    /// Whether a statement has replaced this key. It never comes back.
    fn is_retired(&self, key: &PublicKey) -> bool {
        self.successions.iter().any(|succession| succession.old == *key)
    }

    /// The keys that are believed now.
    #[must_use]
    pub fn keys(&self) -> Vec<PublicKey> {
        let mut reached = self.configured.clone();
        let mut at = 0;
        // A replaced key never comes back, so the chains have no loop; and no key is looked at twice.
        while let Some(key) = reached.get(at).copied() {
            at += 1;
            let named = self.successions.iter().filter(|succession| succession.old == key);
            for Succession { new, .. } in named {
                if !reached.contains(new) {
                    reached.push(*new);
                }
            }
        }
        reached.retain(|key| !self.is_retired(key));
        reached
    }

    /// The key with this name, if it is believed.
    ///
    /// # Errors
    /// [`BundleFault::RetiredKey`] or [`BundleFault::UnknownKey`].
    pub fn find(&self, id: KeyId) -> Result<PublicKey, BundleFault> {
        if let Some(key) = self.keys().into_iter().find(|key| key.id() == id) {
            return Ok(key);
        }
        match self.successions.iter().any(|succession| succession.old.id() == id) {
            true => Err(BundleFault::RetiredKey { key: id }),
            false => Err(BundleFault::UnknownKey { key: id }),
        }
    }

    /// The key at which the chain of statements begins that names this one; the key itself where none names it. Keys of
    /// one origin are those of one instance.
    #[must_use]
    pub fn origin(&self, key: &PublicKey) -> PublicKey {
        let mut at = *key;
        // A replaced key never comes back, so no chain is longer than there are statements.
        for _ in 0..self.successions.len() {
            match self.successions.iter().find(|succession| succession.new == at) {
                Some(Succession { old, .. }) => at = *old,
                None => break,
            }
        }
        at
    }

    /// Follows statements, in their order: whoever is named by a believed key is believed in its place. A statement of
    /// a key that is not believed changes nothing.
    ///
    /// # Errors
    /// [`BundleFault::BadStatement`]: it names a believed key that did not sign it.
    pub fn follow(
        &mut self,
        statements: &[KeyStatement],
        check: &impl SignatureCheck,
    ) -> Result<(), BundleFault> {
        for statement in statements.iter().take(MOST_STATEMENTS) {
            let Ok(old) = self.find(statement.old) else { continue };
            let message = KeyStatement::message(statement.old, &statement.new);
            if !check.holds(&old, &message, &statement.signature) {
                return Err(BundleFault::BadStatement { key: statement.old });
            }
            // A key that was replaced once never comes back, not even by a loop of statements.
            if old == statement.new || self.is_retired(&statement.new) {
                continue;
            }
            self.successions.push(Succession { old, new: statement.new });
        }
        Ok(())
    }
}
