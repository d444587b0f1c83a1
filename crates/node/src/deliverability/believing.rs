//! Whether a bundle may come: who signed it, and what was seen of him before.
//!
//! **Promise.** A bundle that is older than the newest one ever applied of the same instance does not come again, however many
//! others came since. Whose it is says the key at which the chain of its signer begins ([`Trust::origin`]): versions
//! of two instances have nothing to do with each other, so a node that follows another one begins with what that has.
//!
//! **How.** The newest bundle of every instance is kept as one setting of the store ([`Seen`]), written together with the bundle
//! itself. The store keeps the bundles of one instance; those of the one before go with the first of another one.
//!
//! **What may come again.** A bundle whose octets the disk has changed: the one in force from wherever it comes, any other one
//! that is kept by a person's hand. And the newest one of an instance, when a bundle of another one came after it.

use std::sync::Arc;

use rules::bundle::{Admission, Difference, InForce, PublicKey, Sealed, Trust};
use serde::{Deserialize, Serialize};
use store::Reads;

use super::applying::{Applied, ApplyFault, blocking};
use super::client_version;
use super::following::Origin;
use super::keys::holds;
use super::layer::Layer;
use crate::levels::unreadable;
use crate::node::Questions;

/// Name of the store's setting.
pub(super) const SEEN: &str = "bundles_seen";
/// Instances that are remembered; beyond that the one that was followed longest ago goes.
const MOST_SEEN: usize = 64;

/// The newest bundle of an instance that was ever applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SeenBundle {
    /// The key that signed it.
    key: PublicKey,
    /// Its version.
    version: u64,
    /// The SHA-256 of its octets; zeros: not known.
    digest: [u8; 32],
}

impl SeenBundle {
    fn is(&self, version: u64, digest: &[u8; 32]) -> bool {
        self.version == version && self.digest == *digest
    }
}

/// The newest bundle of every instance, that of the one that was applied last at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Seen(Vec<SeenBundle>);

impl Seen {
    /// The newest one of the instance with this origin.
    fn of(&self, origin: PublicKey, trust: &Trust) -> Option<&SeenBundle> {
        let same = |seen: &&SeenBundle| trust.origin(&seen.key) == origin;
        self.0.iter().filter(same).max_by_key(|seen| seen.version)
    }

    /// Whether a bundle of this instance was applied last.
    fn ends_with(&self, origin: PublicKey, trust: &Trust) -> bool {
        self.0.last().is_some_and(|last| trust.origin(&last.key) == origin)
    }

    /// With a bundle that is applied now.
    fn with(mut self, applied: SeenBundle, trust: &Trust) -> Self {
        let origin = trust.origin(&applied.key);
        // One that is mended is not the newest for that.
        let newest = self.of(origin, trust).filter(|seen| seen.version > applied.version).cloned();
        self.0.retain(|seen| trust.origin(&seen.key) != origin);
        self.0.push(newest.unwrap_or(applied));
        let surplus = self.0.len().saturating_sub(MOST_SEEN);
        self.0.drain(..surplus);
        self
    }
}

/// A bundle that was verified.
pub(super) enum Believed {
    /// It is in force already, or was and has been taken back.
    InForce(Applied),
    /// It may come.
    New(Coming),
}

/// What becomes of a bundle that may come.
pub(super) struct Coming {
    /// The version that the pointer names now.
    pub(super) from: Option<u64>,
    /// Whom this node trusts then.
    pub(super) trust: Trust,
    /// What it has seen then.
    pub(super) seen: Seen,
    /// Whether it takes the place of one of the same version that cannot be used any more.
    pub(super) mends: bool,
    /// Versions of another instance, which go.
    pub(super) forgets: Vec<u64>,
}

impl Questions {
    /// Checks the signature, and whether the bundle may come now.
    pub(super) async fn believe(
        &self,
        octets: &Arc<[u8]>,
        brought_by: Origin,
    ) -> Result<Believed, ApplyFault> {
        let keys = &self.config().deliverability.public_keys;
        if keys.is_empty() {
            return Err(ApplyFault::NoKey);
        }
        let before = self.in_force();
        let trust = Trust::new(keys.iter().copied(), before.trust.clone());
        let (seen, kept) = (self.seen_bundles().await?, self.kept_keys().await?);
        let verifying = Arc::clone(octets);
        let (version, digest, key, trust) = blocking(move || {
            let sealed = Sealed::split(&verifying)?;
            let (key, trust) = sealed.verify(&trust, &holds)?;
            Ok((sealed.manifest().version, *sealed.digest(), key, trust))
        })
        .await?;
        let origin = trust.origin(&key);
        let is_own = |key: &[u8; 32]| trust.origin(&PublicKey(*key)) == origin;
        let is_kept = kept.iter().any(|(kept, key)| *kept == version && is_own(key));
        // What cannot be used is not there: its version may come again.
        let mends = is_kept
            && (before.unusable() == Some(version)
                || (brought_by == Origin::Here && self.is_damaged(version).await?));
        let newest = seen.of(origin, &trust);
        let is_newest = newest.is_some_and(|newest| newest.is(version, &digest));
        // Another instance was followed meanwhile; the newest one of this is none that a person has taken back.
        let returns = is_newest && !seen.ends_with(origin, &trust);
        let newest = newest.filter(|_| !mends && !returns);
        let newest = newest.map(|seen| InForce { version: seen.version, digest: seen.digest });
        // What is mended came when it was time for it.
        let in_time = mends && is_newest;
        let (admitting, now) = (Arc::clone(octets), self.now());
        let admission = blocking(move || {
            let sealed = Sealed::split(&admitting)?;
            let moment = if in_time { sealed.manifest().created_at() } else { now };
            sealed.admit(moment, client_version(), newest)
        })
        .await?;
        let from = before.pointer;
        if admission == Admission::InForce {
            let rules_version = before.mx.version();
            let difference = Difference::default();
            let applied = Applied { changed: false, from, to: from, difference, rules_version };
            return Ok(Believed::InForce(applied));
        }
        let forgets = kept.iter().filter(|(_, key)| !is_own(key)).map(|(version, _)| *version);
        let forgets = forgets.collect();
        let seen = seen.with(SeenBundle { key, version, digest }, &trust);
        Ok(Believed::New(Coming { from, trust, seen, mends, forgets }))
    }

    /// Whether the octets of a version that is kept cannot be used any more.
    async fn is_damaged(&self, version: u64) -> Result<bool, ApplyFault> {
        let kept = self.intake().read(move |reads| reads.bundle(version)).await?;
        let Some(kept) = kept else { return Ok(false) };
        blocking(move || Ok(Layer::kept(&kept).is_err())).await
    }

    /// The versions that are kept, with the keys that signed them.
    async fn kept_keys(&self) -> Result<Vec<(u64, [u8; 32])>, ApplyFault> {
        Ok(self.intake().read(|reads| reads.bundle_keys()).await?)
    }

    /// The newest bundle of every instance. A store in which nothing of that is written knows the newest one that it keeps.
    async fn seen_bundles(&self) -> Result<Seen, ApplyFault> {
        let read = |reads: &dyn Reads| {
            if let Some(text) = reads.setting(SEEN)? {
                let seen: Seen = serde_json::from_str(&text).map_err(|fault| {
                    unreadable(format!(
                        "which bundles were applied before (setting {SEEN}) cannot be read: {fault}; restore the database from a backup"
                    ))
                })?;
                return Ok((seen, None));
            }
            let newest = match reads.bundle_versions()?.first() {
                Some(version) => reads.bundle(*version)?,
                None => None,
            };
            Ok((Seen::default(), newest))
        };
        let (mut seen, newest) = self.intake().read(read).await?;
        if let Some(newest) = newest {
            let (version, key) = (newest.version, PublicKey(newest.key));
            let digest = blocking(move || Ok(*Sealed::split(&newest.octets)?.digest())).await;
            // What the disk has changed has no digest that a bundle could have; its version was seen all the same.
            seen.0.push(SeenBundle { key, version, digest: digest.unwrap_or_default() });
        }
        Ok(seen)
    }
}
