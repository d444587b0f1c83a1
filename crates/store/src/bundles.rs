//! The bundle of rules in force, those before it, and who put which in force when.
//!
//! The store does not know what is in a bundle. It keeps its octets, and one pointer; both change in one
//! write ([`BundleChange`]), so that after a crash the old or the new one is in force.

use std::sync::Arc;

use mail::time::Timestamp;

use crate::fault::StoreFault;
use crate::limits::{ADDRESS_LIMIT, TEXT_LIMIT, within};
use crate::words::RefusedWrite;

/// Octets of a bundle.
pub const BUNDLE_LIMIT: usize = 32 << 20;
/// Bundles kept, the newest; the one in force and the one that a change keeps stay beyond that.
pub const BUNDLES_KEPT: u32 = 32;
/// Settings that change together with what is in force.
const SETTINGS_LIMIT: usize = 16;

/// A bundle as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptBundle {
    /// Its version, at most `i64::MAX`.
    pub version: u64,
    /// The public key that signed it.
    pub key: [u8; 32],
    /// Its octets.
    pub octets: Arc<[u8]>,
}

/// Puts a bundle in force, or one that was in force before, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleChange {
    /// The version that is in force; where it is another one, nothing changes.
    pub expected: Option<u64>,
    /// The version from now on; `None`: no bundle.
    pub to: Option<u64>,
    /// The bundle, where it is not kept already. Its version is `to`.
    pub bundle: Option<KeptBundle>,
    /// The bundle takes the place of the one that is kept under its own version, because that one cannot be used any more.
    pub mends: bool,
    /// Versions that go, because they are of another instance and its versions are not to be mixed with those of this one;
    /// but for the one that is kept besides ([`BundleChange::keep`]), unless the bundle has its version.
    pub forgets: Vec<u64>,
    /// A version that is kept however old it is, besides the one in force.
    pub keep: Option<u64>,
    /// Whom this node trusts from now on, in the words of whoever asks.
    pub trust: Box<str>,
    /// Settings that belong to it.
    pub settings: Vec<(Box<str>, Box<str>)>,
    /// Who wants it.
    pub who: Box<str>,
    /// Why.
    pub why: Box<str>,
    /// What it changes, in the words of whoever asks.
    pub difference: Box<str>,
    /// When.
    pub at: Timestamp,
}

impl BundleChange {
    /// Whether a bundle that is kept under this version may be replaced. A version has one bundle for ever otherwise.
    pub(crate) fn mends(&self, version: u64) -> bool {
        self.mends && self.to == Some(version)
    }

    /// Whether a bundle that is kept under this version goes.
    pub(crate) fn forgets(&self, version: u64) -> bool {
        let comes = self.bundle.as_ref().map(|bundle| bundle.version) == Some(version);
        self.forgets.contains(&version) && (comes || self.keep != Some(version))
    }
}

/// What is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BundleInForce {
    /// The bundle; `None`: none.
    pub bundle: Option<KeptBundle>,
    /// Whom this node trusts; empty: nothing was ever applied.
    pub trust: Box<str>,
    /// Since when; the epoch: nothing was ever applied.
    pub since: Timestamp,
}

/// One change of what is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleApplication {
    /// Its number, from 1.
    pub number: u64,
    /// When.
    pub at: Timestamp,
    /// Who wanted it.
    pub who: Box<str>,
    /// Why.
    pub why: Box<str>,
    /// The version before; `None`: no bundle.
    pub from: Option<u64>,
    /// The version after; `None`: no bundle.
    pub to: Option<u64>,
    /// What it changed.
    pub difference: Box<str>,
}

/// Questions about bundles.
pub trait BundleReads {
    /// What is in force.
    ///
    /// # Errors
    /// The database cannot be read.
    fn bundle_in_force(&self) -> Result<BundleInForce, StoreFault>;

    /// A bundle that is kept.
    ///
    /// # Errors
    /// The database cannot be read.
    fn bundle(&self, version: u64) -> Result<Option<KeptBundle>, StoreFault>;

    /// The versions that are kept, the newest first, at most [`BUNDLES_KEPT`] and two.
    ///
    /// # Errors
    /// The database cannot be read.
    fn bundle_versions(&self) -> Result<Vec<u64>, StoreFault>;

    /// The same versions with the public keys that signed them.
    ///
    /// # Errors
    /// The database cannot be read.
    fn bundle_keys(&self) -> Result<Vec<(u64, [u8; 32])>, StoreFault>;

    /// The newest changes of what is in force, newest first.
    ///
    /// # Errors
    /// The database cannot be read.
    fn bundle_applications(&self, limit: u32) -> Result<Vec<BundleApplication>, StoreFault>;
}

/// Refuses a change that passes a bound or contradicts itself.
pub(crate) fn check(change: &BundleChange) -> Result<(), RefusedWrite> {
    if let Some(bundle) = &change.bundle {
        within("a bundle (octets)", bundle.octets.len(), BUNDLE_LIMIT)?;
        if change.to != Some(bundle.version) {
            return Err(RefusedWrite::UnknownBundle(bundle.version));
        }
    }
    within("the trust (octets)", change.trust.len(), TEXT_LIMIT)?;
    within("a name (octets)", change.who.len(), TEXT_LIMIT)?;
    within("a reason (octets)", change.why.len(), TEXT_LIMIT)?;
    within("a difference (octets)", change.difference.len(), TEXT_LIMIT)?;
    within("the number of versions", change.forgets.len(), BUNDLES_KEPT as usize + 2)?;
    within("the number of settings", change.settings.len(), SETTINGS_LIMIT)?;
    for (key, value) in &change.settings {
        within("a setting's name (octets)", key.len(), ADDRESS_LIMIT)?;
        within("a setting (octets)", value.len(), TEXT_LIMIT)?;
    }
    Ok(())
}
