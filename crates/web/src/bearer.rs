//! Bearer tokens (RFC 6750): found in a request, and compared by their digests in constant time.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use axum::http::{HeaderMap, header};

/// Longest token that is looked at.
const TOKEN_LIMIT: usize = 4_096;

/// Octets of a new token before they are written as digits.
const TOKEN_OCTETS: usize = 32;

/// A new token: 64 hexadecimal digits that nobody can guess; `None`: the system gives no randomness.
#[must_use]
pub fn new_token() -> Option<String> {
    let mut octets = [0; TOKEN_OCTETS];
    SystemRandom::new().fill(&mut octets).ok()?;
    Some(octets.iter().map(|octet| format!("{octet:02x}")).collect())
}

/// The SHA-256 of a token. Equality takes the same time wherever two differ.
#[derive(Clone, Copy, Debug)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// That of this token.
    ///
    /// # Panics
    /// Never: a SHA-256 has 32 octets.
    #[must_use]
    pub fn of(token: &[u8]) -> Self {
        let digest = digest::digest(&digest::SHA256, token);
        Self(digest.as_ref().try_into().expect("a SHA-256 has 32 octets"))
    }

    /// One that was kept.
    #[must_use]
    pub const fn kept(octets: [u8; 32]) -> Self {
        Self(octets)
    }

    /// Its octets, to be kept.
    #[must_use]
    pub const fn octets(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for TokenDigest {
    fn eq(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for TokenDigest {}

/// The token in the field Authorization; `None`: there is none, more than one field, another scheme, or it is longer
/// than 4,096 octets.
#[must_use]
pub fn bearer_token(fields: &HeaderMap) -> Option<TokenDigest> {
    let mut values = fields.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.as_bytes();
    // Two fields could be read differently by a proxy in front.
    if values.next().is_some() {
        return None;
    }
    let (scheme, token) = value.split_at_checked(7)?;
    let bearer = scheme.eq_ignore_ascii_case(b"bearer ");
    (bearer && !token.is_empty() && token.len() <= TOKEN_LIMIT).then(|| TokenDigest::of(token))
}
