//! DKIM signatures (RFC 6376, 8301, 8463).
//!
//! [`DkimKeys`] holds the private keys by domain and selector. [`DkimKeys::for_domain`] picks those
//! that sign mail of a From domain; [`DkimSigner::sign`] writes one DKIM-Signature field per key:
//! `rsa-sha256` or `ed25519-sha256`, always relaxed/relaxed, never with `l=`.
//!
//! The body is hashed once per message whatever the number of keys, and so are the signed fields
//! brought into canonical form. From is over-signed: its name stands once more in `h=` than the
//! message has it, so that nobody can add a second one. Return-Path, Received and other fields that
//! change on the way are never signed.
//!
//! Input must be what is sent: CRLF line ends, 7-bit unless the server takes more. Loading fails on a
//! key that is not PKCS#8 or PKCS#1 PEM, that is neither RSA nor Ed25519, or that is RSA of less than
//! 2,048 bits (RFC 8301 asks for them, and large receivers disregard less). No key is ever shown.

use core::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, Digest, SHA256, digest};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mail::address::Domain;
use mail::time::Timestamp;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

#[cfg(test)]
mod tests;

/// The fields that are signed wherever a message has them, in lower case and in the order of `h=`.
const SIGNED_FIELDS: [&str; 21] = [
    "from",
    "to",
    "cc",
    "reply-to",
    "sender",
    "subject",
    "date",
    "message-id",
    "in-reply-to",
    "references",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
    "list-id",
    "list-unsubscribe",
    "list-unsubscribe-post",
    "feedback-id",
    "cfbl-address",
    "cfbl-feedback-id",
    "auto-submitted",
    "content-id",
];
/// Most fields of a message that are signed; a message with more than this is no mail of a person
/// or a campaign.
const SIGNED_FIELDS_LIMIT: usize = 200;
/// Width of the signature field's lines.
const LINE: usize = 76;

/// Why keys could not be loaded or a message not be signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DkimFault {
    /// The domain of a key is no domain.
    #[error("DKIM key {selector:?}: {domain:?} is not a domain: {why}")]
    Domain {
        /// The selector.
        selector: String,
        /// What was given as its domain.
        domain: String,
        /// What is wrong with it.
        why: mail::address::DomainFault,
    },
    /// The selector is no name that DNS could carry.
    #[error("{selector:?} is not a DKIM selector: use letters, digits, hyphens and dots")]
    Selector {
        /// What was given.
        selector: String,
    },
    /// Not PEM, or PEM of something else.
    #[error(
        "DKIM key {selector}._domainkey.{domain}: no private key in PEM form (PKCS#8 or PKCS#1) found"
    )]
    NotPem {
        /// Its selector.
        selector: String,
        /// Its domain.
        domain: String,
    },
    /// Neither RSA of 2,048 to 8,192 bits nor Ed25519, or damaged.
    #[error(
        "DKIM key {selector}._domainkey.{domain}: refused ({why}); use Ed25519, or RSA of at least 2,048 bits"
    )]
    Refused {
        /// Its selector.
        selector: String,
        /// Its domain.
        domain: String,
        /// The library's word.
        why: String,
    },
    /// Two keys have the same domain and selector.
    #[error("DKIM key {selector}._domainkey.{domain} is given twice")]
    Twice {
        /// Its selector.
        selector: String,
        /// Its domain.
        domain: String,
    },
    /// The cryptographic library could not sign.
    #[error("the DKIM key {selector} could not sign")]
    Sign {
        /// The key's selector.
        selector: String,
    },
}

/// A key as the configuration gives it.
#[derive(Clone)]
pub struct DkimKeyText {
    /// The signing domain (`d=`).
    pub domain: String,
    /// The selector (`s=`).
    pub selector: String,
    /// The private key: PEM, PKCS#8 or PKCS#1.
    pub pem: String,
}

impl fmt::Debug for DkimKeyText {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "DkimKeyText({}._domainkey.{}, secret)", self.selector, self.domain)
    }
}

/// Makes a new RSA key of 2,048 bits: PEM, PKCS#8.
///
/// # Errors
/// The system gives no randomness.
pub fn generate_rsa_2048() -> Result<String, aws_lc_rs::error::Unspecified> {
    use aws_lc_rs::encoding::AsDer as _;
    let key = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048)?;
    let der: aws_lc_rs::encoding::Pkcs8V1Der<'_> = key.as_der()?;
    Ok(pem(der.as_ref()))
}

/// Makes a new Ed25519 key: PEM, PKCS#8.
///
/// # Errors
/// The system gives no randomness.
pub fn generate_ed25519() -> Result<String, aws_lc_rs::error::Unspecified> {
    let random = aws_lc_rs::rand::SystemRandom::new();
    let der = Ed25519KeyPair::generate_pkcs8(&random)?;
    Ok(pem(der.as_ref()))
}

/// A private key in the armour of RFC 7468.
fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
    // Base 64 is ASCII, so every cut is on a border of characters.
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    pem
}

/// The two algorithms.
enum PrivateKey {
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// One private key with its names.
pub struct DkimKey {
    domain: Domain,
    selector: String,
    private: PrivateKey,
}

impl fmt::Debug for DkimKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "DkimKey({}, {}, secret)", self.dns_name(), self.algorithm())
    }
}

impl DkimKey {
    fn load(text: &DkimKeyText) -> Result<Self, DkimFault> {
        let DkimKeyText { domain, selector, pem } = text;
        let name = Domain::parse(domain).map_err(|why| DkimFault::Domain {
            selector: selector.clone(),
            domain: domain.clone(),
            why,
        })?;
        if Domain::parse(selector).is_err() || !selector.is_ascii() {
            return Err(DkimFault::Selector { selector: selector.clone() });
        }
        let refused = |why: &dyn fmt::Display| DkimFault::Refused {
            selector: selector.clone(),
            domain: domain.clone(),
            why: why.to_string(),
        };
        let private = match PrivateKeyDer::from_pem_slice(pem.as_bytes()) {
            Ok(PrivateKeyDer::Pkcs1(der)) => RsaKeyPair::from_der(der.secret_pkcs1_der())
                .map(PrivateKey::Rsa)
                .map_err(|fault| refused(&fault))?,
            Ok(PrivateKeyDer::Pkcs8(der)) => {
                let der = der.secret_pkcs8_der();
                match Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
                    Ok(pair) => PrivateKey::Ed25519(pair),
                    Err(_) => RsaKeyPair::from_pkcs8(der)
                        .map(PrivateKey::Rsa)
                        .map_err(|fault| refused(&fault))?,
                }
            }
            Ok(_) => return Err(refused(&"an elliptic-curve key")),
            Err(_) => {
                return Err(DkimFault::NotPem {
                    selector: selector.clone(),
                    domain: domain.clone(),
                });
            }
        };
        Ok(Self { domain: name, selector: selector.to_ascii_lowercase(), private })
    }

    /// The signing domain.
    #[must_use]
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// The selector.
    #[must_use]
    pub fn selector(&self) -> &str {
        &self.selector
    }

    /// The value of `a=`.
    #[must_use]
    pub fn algorithm(&self) -> &'static str {
        match self.private {
            PrivateKey::Rsa(_) => "rsa-sha256",
            PrivateKey::Ed25519(_) => "ed25519-sha256",
        }
    }

    /// The DNS name at which receivers look for the public key.
    #[must_use]
    pub fn dns_name(&self) -> String {
        format!("{}._domainkey.{}", self.selector, self.domain)
    }

    /// The TXT record that must stand there.
    #[must_use]
    pub fn dns_record(&self) -> String {
        match &self.private {
            PrivateKey::Rsa(pair) => {
                let der: Result<PublicKeyX509Der<'_>, _> = pair.public_key().as_der();
                let der = der.expect("a loaded RSA key has a public key");
                format!("v=DKIM1; k=rsa; p={}", STANDARD.encode(der.as_ref()))
            }
            PrivateKey::Ed25519(pair) => {
                format!("v=DKIM1; k=ed25519; p={}", STANDARD.encode(pair.public_key().as_ref()))
            }
        }
    }

    /// Signs canonical data; answers the signature in base 64.
    fn sign(&self, data: &[u8], random: &SystemRandom) -> Result<String, DkimFault> {
        match &self.private {
            PrivateKey::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, random, data, &mut signature)
                    .map_err(|_| DkimFault::Sign { selector: self.selector.clone() })?;
                Ok(STANDARD.encode(signature))
            }
            // RFC 8463 section 3: what Ed25519 signs is the SHA-256 of the data.
            PrivateKey::Ed25519(pair) => {
                Ok(STANDARD.encode(pair.sign(digest(&SHA256, data).as_ref())))
            }
        }
    }
}

/// All private keys of the configuration.
#[derive(Clone, Debug, Default)]
pub struct DkimKeys {
    keys: Vec<Arc<DkimKey>>,
}

impl DkimKeys {
    /// Loads keys. None at all is allowed: then nothing is signed.
    ///
    /// # Errors
    /// The first key that cannot be used, and why.
    pub fn load<'a>(texts: impl IntoIterator<Item = &'a DkimKeyText>) -> Result<Self, DkimFault> {
        let mut keys: Vec<Arc<DkimKey>> = Vec::new();
        for text in texts {
            let key = DkimKey::load(text)?;
            if keys.iter().any(|other| other.dns_name() == key.dns_name()) {
                return Err(DkimFault::Twice {
                    selector: key.selector,
                    domain: key.domain.to_string(),
                });
            }
            keys.push(Arc::new(key));
        }
        Ok(Self { keys })
    }

    /// All keys, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &DkimKey> {
        self.keys.iter().map(AsRef::as_ref)
    }

    /// The signer for mail whose From address is at `domain`: all keys of that domain, else those of
    /// the nearest domain above it (which is aligned for DMARC), else none.
    #[must_use]
    pub fn for_domain(&self, domain: &Domain) -> DkimSigner {
        let mut name = domain.as_str();
        loop {
            let keys: Vec<_> =
                self.keys.iter().filter(|key| key.domain.as_str() == name).cloned().collect();
            match name.split_once('.') {
                Some((_, above)) if keys.is_empty() => name = above,
                _ => return DkimSigner { keys, random: SystemRandom::new() },
            }
        }
    }
}

/// The keys that sign one delivery. May be shared between threads.
#[derive(Clone, Debug)]
pub struct DkimSigner {
    keys: Vec<Arc<DkimKey>>,
    random: SystemRandom,
}

impl DkimSigner {
    /// Whether nothing will be signed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The same by the keys with these selectors; where there is none of them, or none is named, by all.
    ///
    /// # Errors
    /// The cryptographic library could not sign.
    pub fn sign_by(
        &self,
        selectors: &[Box<str>],
        head: &[u8],
        body: &[u8],
        now: Timestamp,
        out: &mut Vec<u8>,
    ) -> Result<(), DkimFault> {
        let named = |key: &&Arc<DkimKey>| {
            selectors.iter().any(|selector| key.selector.eq_ignore_ascii_case(selector))
        };
        let keys: Vec<_> = self.keys.iter().filter(named).cloned().collect();
        if keys.is_empty() {
            return self.sign(head, body, now, out);
        }
        Self { keys, random: self.random.clone() }.sign(head, body, now, out)
    }

    /// Appends one DKIM-Signature field per key to `out`. `head` is the message's header without the
    /// empty line, `body` what follows that; both exactly as they will be sent.
    ///
    /// # Errors
    /// The cryptographic library could not sign.
    pub fn sign(
        &self,
        head: &[u8],
        body: &[u8],
        now: Timestamp,
        out: &mut Vec<u8>,
    ) -> Result<(), DkimFault> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let body_hash = STANDARD.encode(relaxed_body_hash(body));
        let (canonical, names) = signed_fields(head);
        let mut data = Vec::with_capacity(canonical.len() + 1_024);
        for key in &self.keys {
            let start = out.len();
            write_unsigned(key, now, &names, &body_hash, out);
            data.clear();
            data.extend_from_slice(&canonical);
            relaxed_field(&out[start..], &mut data);
            // The signature field itself is signed without its line end (RFC 6376 section 3.7).
            data.truncate(data.len() - 2);
            let signature = key.sign(&data, &self.random)?;
            push_folded(&signature, out);
            out.extend_from_slice(b"\r\n");
        }
        Ok(())
    }
}

/// Writes the signature field up to and including `b=`.
fn write_unsigned(
    key: &DkimKey,
    now: Timestamp,
    names: &[&str],
    body_hash: &str,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"DKIM-Signature: v=1; a=");
    out.extend_from_slice(key.algorithm().as_bytes());
    out.extend_from_slice(b"; c=relaxed/relaxed;\r\n\td=");
    out.extend_from_slice(key.domain.as_str().as_bytes());
    out.extend_from_slice(b"; s=");
    out.extend_from_slice(key.selector.as_bytes());
    out.extend_from_slice(b";\r\n\tt=");
    out.extend_from_slice(now.as_secs().to_string().as_bytes());
    out.extend_from_slice(b"; h=");
    let mut column = 20;
    for (index, name) in names.iter().enumerate() {
        if index > 0 {
            out.push(b':');
            column += 1;
        }
        if column + name.len() > LINE {
            out.extend_from_slice(b"\r\n\t");
            column = 8;
        }
        out.extend_from_slice(name.as_bytes());
        column += name.len();
    }
    out.extend_from_slice(b";\r\n\tbh=");
    out.extend_from_slice(body_hash.as_bytes());
    out.extend_from_slice(b";\r\n\tb=");
}

/// Writes base 64 in lines that continue the field.
fn push_folded(text: &str, out: &mut Vec<u8>) {
    for (index, line) in text.as_bytes().chunks(LINE - 8).enumerate() {
        if index > 0 {
            out.extend_from_slice(b"\r\n\t");
        }
        out.extend_from_slice(line);
    }
}

/// The fields to sign in canonical form, and their names for `h=`.
fn signed_fields(head: &[u8]) -> (Vec<u8>, Vec<&'static str>) {
    let mut found: [Vec<&[u8]>; SIGNED_FIELDS.len()] = Default::default();
    let mut count = 0;
    for field in fields(head) {
        let name = field_name(field);
        let place =
            SIGNED_FIELDS.iter().position(|known| name.eq_ignore_ascii_case(known.as_bytes()));
        if let Some(place) = place
            && count < SIGNED_FIELDS_LIMIT
        {
            found[place].push(field);
            count += 1;
        }
    }
    let mut canonical = Vec::with_capacity(head.len());
    let mut names = Vec::with_capacity(count + 1);
    for (name, occurrences) in SIGNED_FIELDS.iter().zip(&found) {
        // Of several fields of one name the last is taken first (RFC 6376 section 5.4.2).
        for field in occurrences.iter().rev() {
            names.push(*name);
            relaxed_field(field, &mut canonical);
        }
        if *name == "from" {
            names.push(name);
        }
    }
    (canonical, names)
}

/// The fields of a header, each with its continuation lines and its CRLF.
pub(crate) fn fields(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = head;
    core::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut end = 0;
        loop {
            match rest[end..].iter().position(|&octet| octet == b'\n') {
                Some(line) => end += line + 1,
                None => end = rest.len(),
            }
            if !matches!(rest.get(end), Some(b' ' | b'\t')) {
                break;
            }
        }
        let (field, after) = rest.split_at(end);
        rest = after;
        Some(field)
    })
}

/// The name of a field, without the colon and white space before it.
pub(crate) fn field_name(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&octet| octet == b':').unwrap_or(field.len());
    field[..end].trim_ascii()
}

/// Appends a field in relaxed form (RFC 6376 section 3.4.2), ended by CRLF.
fn relaxed_field(field: &[u8], out: &mut Vec<u8>) {
    let name = field_name(field);
    out.extend(name.iter().map(u8::to_ascii_lowercase));
    out.push(b':');
    let value = field.splitn(2, |&octet| octet == b':').nth(1).unwrap_or_default();
    let mut space = false;
    for &octet in value.trim_ascii() {
        match octet {
            b'\r' | b'\n' => {}
            b' ' | b'\t' => space = true,
            _ => {
                if space {
                    out.push(b' ');
                    space = false;
                }
                out.push(octet);
            }
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// SHA-256 of a body in relaxed form (RFC 6376 section 3.4.4). Octets that stay as they are go into
/// the hash from where they lie.
fn relaxed_body_hash(body: &[u8]) -> Digest {
    let mut context = Context::new(&SHA256);
    let is_end = |octet: &u8| matches!(octet, b' ' | b'\t' | b'\r' | b'\n');
    let length = body.iter().rposition(|octet| !is_end(octet)).map_or(0, |last| last + 1);
    if length == 0 {
        return context.finish();
    }
    let body = &body[..length];
    let mut clean = 0;
    let mut index = 0;
    while let Some(found) = memchr::memchr2(b' ', b'\t', &body[index..]) {
        let start = index + found;
        let mut end = start + 1;
        while matches!(body.get(end), Some(b' ' | b'\t')) {
            end += 1;
        }
        // The body ends in something else, so there is always an octet after the white space.
        let line_end = body[end..].starts_with(b"\r\n");
        if line_end || &body[start..end] != b" " {
            context.update(&body[clean..start]);
            if !line_end {
                context.update(b" ");
            }
            clean = end;
        }
        index = end;
    }
    context.update(&body[clean..]);
    context.update(b"\r\n");
    context.finish()
}
