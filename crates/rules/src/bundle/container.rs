//! The frame of a bundle: finding its parts, checking its signature, and making one.

use std::collections::BTreeMap;

use mail::time::Timestamp;
use sha2::{Digest as _, Sha256};

use super::contents::Contents;
use super::fault::BundleFault;
use super::keys::{KeyId, KeyStatement, PublicKey, Signature, SignatureCheck, Trust};
use super::manifest::{Admission, ClientVersion, InForce, Kind, Manifest, Section};

/// Octets of a bundle.
pub const LARGEST_BUNDLE: usize = 32 * 1024 * 1024;

/// Octets of the second line.
const LARGEST_MANIFEST: usize = 64 * 1024;

/// The first word.
const MAGIC: &str = "mailweir-bundle ";

/// The only schema so far.
const SCHEMA: u64 = 1;

/// The longest first line: the word, a schema, a number of octets.
const LONGEST_FIRST_LINE: usize = 64;

/// `signature`, the id of a key, 64 octets as digits, and the blanks and line end.
const SIGNATURE_LINE: usize = 10 + 16 + 1 + 128 + 1;

/// A bundle whose parts were found. Nothing in it is believed before [`Sealed::verify`].
#[derive(Clone, Debug)]
pub struct Sealed<'bytes> {
    signed: &'bytes [u8],
    manifest: Manifest,
    sections: BTreeMap<Kind, &'bytes str>,
    key: KeyId,
    signature: Signature,
    digest: [u8; 32],
}

impl<'bytes> Sealed<'bytes> {
    /// Finds the parts of a bundle.
    ///
    /// # Errors
    /// Too large, cut off, of another schema, or malformed.
    pub fn split(bytes: &'bytes [u8]) -> Result<Self, BundleFault> {
        let first = first_line(bytes)?;
        let begin = first.len() + 1;
        let announced = announced_octets(first)?;
        let most = LARGEST_BUNDLE as u64;
        let wanted = announced.saturating_add((begin + SIGNATURE_LINE) as u64);
        let have = bytes.len() as u64;
        if wanted.max(have) > most {
            return Err(BundleFault::TooLarge { octets: wanted.max(have), most });
        }
        if have < wanted {
            return Err(BundleFault::Truncated { have, wanted });
        }
        if have > wanted {
            return Err(BundleFault::malformed("something stands behind the signature"));
        }
        let (signed, signature_line) = bytes.split_at(bytes.len() - SIGNATURE_LINE);
        let (key, signature) = signature_of(signature_line)?;
        let rest = &signed[begin..];
        let end = rest.iter().take(LARGEST_MANIFEST).position(|octet| *octet == b'\n');
        let end = end.ok_or_else(|| BundleFault::malformed("the manifest does not end"))?;
        let manifest: Manifest = serde_json::from_slice(&rest[..end])
            .map_err(|fault| BundleFault::malformed(format!("manifest: {fault}")))?;
        manifest.check()?;
        let sections = sections_of(&manifest, &rest[end + 1..])?;
        let digest = Sha256::digest(bytes).into();
        Ok(Self { signed, manifest, sections, key, signature, digest })
    }

    /// Its second line.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The SHA-256 of all its octets.
    #[must_use]
    pub const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// The key that says it has signed it.
    #[must_use]
    pub const fn key(&self) -> KeyId {
        self.key
    }

    /// The texts of its sections.
    #[must_use]
    pub const fn sections(&self) -> &BTreeMap<Kind, &'bytes str> {
        &self.sections
    }

    /// Checks the signature. Answers the key that made it, and what is trusted from now on.
    ///
    /// # Errors
    /// [`BundleFault::BadStatement`], [`BundleFault::UnknownKey`], [`BundleFault::RetiredKey`] or
    /// [`BundleFault::BadSignature`].
    pub fn verify(
        &self,
        trust: &Trust,
        check: &impl SignatureCheck,
    ) -> Result<(PublicKey, Trust), BundleFault> {
        let mut trust = trust.clone();
        trust.follow(&self.manifest.keys, check)?;
        let key = trust.find(self.key)?;
        self.verify_by(&key, check)?;
        Ok((key, trust))
    }

    /// Checks the signature against one key, whatever is trusted: for a bundle that has been accepted before.
    ///
    /// # Errors
    /// [`BundleFault::UnknownKey`] or [`BundleFault::BadSignature`].
    pub fn verify_by(
        &self,
        key: &PublicKey,
        check: &impl SignatureCheck,
    ) -> Result<(), BundleFault> {
        if key.id() != self.key {
            return Err(BundleFault::UnknownKey { key: self.key });
        }
        match check.holds(key, self.signed, &self.signature) {
            true => Ok(()),
            false => Err(BundleFault::BadSignature { key: self.key }),
        }
    }

    /// Whether a client of this version, with this bundle in force, may apply it now.
    ///
    /// # Errors
    /// It is older, expired, from the future, or for a newer client.
    pub fn admit(
        &self,
        now: Timestamp,
        client: ClientVersion,
        in_force: Option<InForce>,
    ) -> Result<Admission, BundleFault> {
        self.manifest.admit(&self.digest, now, client, in_force)
    }

    /// Reads every section with all the checks of its kind, examples included.
    ///
    /// # Errors
    /// The first section that does not pass, with every fault in it.
    pub fn contents(&self) -> Result<Contents, BundleFault> {
        Contents::read(self.manifest.version, &self.sections)
    }
}

/// The first line without its end.
fn first_line(bytes: &[u8]) -> Result<&str, BundleFault> {
    let magic = MAGIC.as_bytes();
    let known = bytes.len().min(magic.len());
    if bytes[..known] != magic[..known] {
        return Err(BundleFault::NotABundle);
    }
    let end = bytes.iter().take(LONGEST_FIRST_LINE).position(|octet| *octet == b'\n');
    match end {
        Some(end) => core::str::from_utf8(&bytes[..end]).map_err(|_| BundleFault::NotABundle),
        None if bytes.len() < LONGEST_FIRST_LINE => {
            let have = bytes.len() as u64;
            Err(BundleFault::Truncated {
                have,
                wanted: (LONGEST_FIRST_LINE + SIGNATURE_LINE) as u64,
            })
        }
        None => Err(BundleFault::NotABundle),
    }
}

/// The number in the first line. Every number has one form only.
fn announced_octets(first: &str) -> Result<u64, BundleFault> {
    let rest = first.strip_prefix(MAGIC).ok_or(BundleFault::NotABundle)?;
    let (schema, octets) = rest.split_once(' ').ok_or(BundleFault::NotABundle)?;
    let number = |text: &str| {
        text.parse::<u64>().ok().filter(|number| number.to_string() == text).ok_or_else(|| {
            BundleFault::malformed("the first line is not `mailweir-bundle`, a schema and a length")
        })
    };
    let schema = number(schema)?;
    if schema != SCHEMA {
        return Err(BundleFault::NewerSchema { schema });
    }
    number(octets)
}

/// The last line.
fn signature_of(line: &[u8]) -> Result<(KeyId, Signature), BundleFault> {
    let fault = || BundleFault::malformed("the last line is no signature");
    let line = core::str::from_utf8(line).map_err(|_| fault())?;
    let line = line.strip_suffix('\n').and_then(|line| line.strip_prefix("signature "));
    let (key, signature) = line.and_then(|line| line.split_once(' ')).ok_or_else(fault)?;
    Ok((key.parse().map_err(|_| fault())?, signature.parse().map_err(|_| fault())?))
}

/// Cuts the sections apart.
fn sections_of<'bytes>(
    manifest: &Manifest,
    mut rest: &'bytes [u8],
) -> Result<BTreeMap<Kind, &'bytes str>, BundleFault> {
    let mut sections = BTreeMap::new();
    for Section { kind, octets } in &manifest.sections {
        let cut = usize::try_from(*octets).ok().and_then(|octets| rest.split_at_checked(octets));
        let (section, behind) = cut.ok_or_else(|| {
            BundleFault::malformed(format!("section {kind} is longer than the bundle"))
        })?;
        let text = core::str::from_utf8(section)
            .map_err(|_| BundleFault::malformed(format!("section {kind} is not UTF-8")))?;
        sections.insert(*kind, text);
        rest = behind;
    }
    match rest.is_empty() {
        true => Ok(sections),
        false => {
            Err(BundleFault::malformed("something stands between the sections and the signature"))
        }
    }
}

/// What is to become a bundle.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Higher than that of every bundle before.
    pub version: u64,
    /// Now.
    pub created: Timestamp,
    /// When it is not applied any more.
    pub expires: Timestamp,
    /// The oldest program that may apply it.
    pub minimum_client: ClientVersion,
    /// Changes of the key, the oldest first.
    pub keys: Vec<KeyStatement>,
    /// For people.
    pub notes: String,
    /// The texts of the sections.
    pub sections: BTreeMap<Kind, String>,
}

impl Draft {
    /// Makes the bundle: checks everything a client checks, and has it signed.
    ///
    /// # Errors
    /// What a client would say of the manifest or a section; nothing is signed then.
    pub fn seal(
        &self,
        key: &PublicKey,
        sign: impl FnOnce(&[u8]) -> Signature,
    ) -> Result<Vec<u8>, BundleFault> {
        let section =
            |(kind, text): (&Kind, &String)| Section { kind: *kind, octets: text.len() as u64 };
        let manifest = Manifest {
            version: self.version,
            created: self.created.as_secs(),
            expires: self.expires.as_secs(),
            minimum_client: self.minimum_client,
            keys: self.keys.clone(),
            sections: self.sections.iter().map(section).collect(),
            notes: self.notes.clone(),
        };
        manifest.check()?;
        let sections = self.sections.iter().map(|(kind, text)| (*kind, text.as_str())).collect();
        Contents::read(self.version, &sections)?;
        let line = serde_json::to_string(&manifest)
            .map_err(|fault| BundleFault::malformed(format!("manifest: {fault}")))?;
        let body = line.len() + 1 + self.sections.values().map(String::len).sum::<usize>();
        let mut bytes = format!("{MAGIC}{SCHEMA} {body}\n{line}\n").into_bytes();
        self.sections.values().for_each(|text| bytes.extend_from_slice(text.as_bytes()));
        let signature = sign(&bytes);
        bytes.extend_from_slice(format!("signature {} {signature}\n", key.id()).as_bytes());
        // The manifest's own bounds, and that what was written reads back.
        Sealed::split(&bytes)?;
        Ok(bytes)
    }
}
