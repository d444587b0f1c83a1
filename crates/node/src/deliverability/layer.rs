//! The layer of rules below the operator's own: those of a bundle, or those shipped with the program.

use engine::quarantine::{AddressHash, DomainMask, PublishedList, Suppressed};
use mail::time::Timestamp;
use rules::RuleFile;
use rules::bounce::{BounceRuleFile, SHIPPED_BOUNCE_TOML, shipped_bounce_rules};
use rules::bundle::{BundleFault, Contents, PublicKey, Sealed, SuppressedEntry};
use rules::recipient::{
    DomainRuleFile, DomainRules, FormatRuleFile, FormatRules, shipped_domain_rules,
    shipped_format_rules,
};
use store::KeptBundle;

use super::keys::holds;

/// What is known about the bundle of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its version.
    pub version: u64,
    /// The SHA-256 of its octets.
    pub digest: [u8; 32],
    /// The key that signed it.
    pub key: PublicKey,
    /// When it was made.
    pub created: Timestamp,
    /// When it expires.
    pub expires: Timestamp,
}

/// The MX rules below the operator's own, and the bundle that they are of.
///
/// They are those of the layer, but at level Custom those that were in force when the level came: the operator answers
/// for them, and no bundle changes them.
#[derive(Clone, Debug)]
pub struct MxBase {
    version: Option<u64>,
    mark: String,
    file: RuleFile,
}

impl MxBase {
    /// The bundle; `None`: the program.
    #[must_use]
    pub const fn version(&self) -> Option<u64> {
        self.version
    }

    pub(crate) fn mark(&self) -> &str {
        &self.mark
    }

    /// The rules.
    #[must_use]
    pub const fn file(&self) -> &RuleFile {
        &self.file
    }

    /// How the store knows it.
    pub(crate) fn stored(&self) -> String {
        self.version.map_or_else(|| SHIPPED.to_owned(), |version| version.to_string())
    }
}

/// How the store knows the rules of the program.
const SHIPPED: &str = "shipped";

/// Rules of all kinds below the operator's own. What a bundle does not have is as shipped.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    published: Option<Published>,
    contents: Contents,
}

impl Layer {
    /// The layer of a bundle whose signature was checked.
    ///
    /// # Errors
    /// A section does not pass its checks.
    pub(super) fn of(sealed: &Sealed<'_>, key: PublicKey) -> Result<Self, BundleFault> {
        let manifest = sealed.manifest();
        let published = Published {
            version: manifest.version,
            digest: *sealed.digest(),
            key,
            created: manifest.created_at(),
            expires: manifest.expires_at(),
        };
        Ok(Self { published: Some(published), contents: sealed.contents()? })
    }

    /// The layer of a bundle that the store has kept. Its signature is checked again, by the key that was trusted when
    /// it came; its age is not.
    ///
    /// # Errors
    /// The disk has changed it, or this program has stricter checks than the one that took it.
    pub(crate) fn kept(kept: &KeptBundle) -> Result<Self, BundleFault> {
        let sealed = Sealed::split(&kept.octets)?;
        let key = PublicKey(kept.key);
        sealed.verify_by(&key, &holds)?;
        Self::of(&sealed, key)
    }

    /// What a bundle would make of the layer, for a dry run: its sections are checked, its signature is not.
    ///
    /// # Errors
    /// A section does not pass its checks.
    pub fn proposed(sealed: &Sealed<'_>) -> Result<Self, BundleFault> {
        Ok(Self { published: None, contents: sealed.contents()? })
    }

    /// Its bundle; `None`: everything is as shipped.
    #[must_use]
    pub const fn published(&self) -> Option<&Published> {
        self.published.as_ref()
    }

    /// What the bundle holds.
    #[must_use]
    pub const fn contents(&self) -> &Contents {
        &self.contents
    }

    /// A text that is different for different layers.
    pub(crate) fn mark(&self) -> String {
        match &self.published {
            None => concat!("shipped ", env!("CARGO_PKG_VERSION")).to_owned(),
            Some(published) => {
                let digest = published.digest.iter().map(|octet| format!("{octet:02x}"));
                digest.collect()
            }
        }
    }

    /// The same for bounce rules alone: what is shipped is known by its text, so that an update of the program
    /// without other rules judges nothing anew.
    pub(crate) fn bounce_mark(&self) -> String {
        match &self.published {
            None => crate::node::digest(SHIPPED_BOUNCE_TOML),
            Some(_) => self.mark(),
        }
    }

    /// Its MX rules, with its figures of the levels.
    #[must_use]
    pub fn mx_base(&self) -> MxBase {
        let Contents { mx, levels, .. } = &self.contents;
        let stated = mx.is_some() || levels.is_some();
        let file = mx.as_ref().unwrap_or_else(|| rules::shipped()).clone();
        let file = file.with_level_figures(levels.unwrap_or_default());
        let version = self.published.map(|published| published.version).filter(|_| stated);
        let mark = if version.is_some() { self.mark() } else { Self::default().mark() };
        MxBase { version, mark, file }
    }

    /// Bounce rules.
    pub(crate) fn bounce(&self) -> &BounceRuleFile {
        self.contents.bounce.as_ref().unwrap_or_else(|| shipped_bounce_rules())
    }

    /// Domain rules, behind the operator's own.
    pub(crate) fn domain(&self, local: Option<&DomainRuleFile>) -> DomainRules {
        let below = self.contents.domain.as_ref().unwrap_or_else(|| shipped_domain_rules());
        DomainRules::compile(&DomainRuleFile::combine(local, below))
    }

    /// Format rules, behind the operator's own.
    pub(crate) fn format(&self, local: Option<&FormatRuleFile>) -> FormatRules {
        let below = self.contents.format.as_ref().unwrap_or_else(|| shipped_format_rules());
        FormatRules::compile(&FormatRuleFile::combine(local, below))
    }

    /// Addresses and domains to which nobody writes.
    pub(crate) fn suppression(&self) -> PublishedList {
        let entry = |entry: &SuppressedEntry| match entry {
            SuppressedEntry::Address(hash) => Some(Suppressed::Address(AddressHash(*hash))),
            // The bundle's check has read the same form.
            SuppressedEntry::Domain(mask) => DomainMask::parse(mask).ok().map(Suppressed::Domain),
        };
        PublishedList::new(self.contents.suppression.iter().filter_map(entry))
    }
}
