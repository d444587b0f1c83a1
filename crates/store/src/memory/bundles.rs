//! Bundles of rules in maps.

use std::collections::BTreeMap;

use super::MemoryStore;
use crate::bundles::{
    BUNDLES_KEPT, BundleApplication, BundleChange, BundleInForce, BundleReads, KeptBundle,
};
use crate::fault::StoreFault;
use crate::sqlite::codec::{floor_ms, moment};
use crate::words::{RefusedWrite, Written};

/// The tables of bundles.
#[derive(Clone, Debug, Default)]
pub(super) struct Bundles {
    kept: BTreeMap<u64, KeptBundle>,
    in_force: Option<u64>,
    trust: Box<str>,
    since_ms: i64,
    applications: Vec<BundleApplication>,
}

impl MemoryStore {
    /// Puts another bundle in force.
    pub(super) fn change_bundle(&mut self, change: &BundleChange) -> Result<Written, RefusedWrite> {
        let bundles = &mut self.bundles;
        let in_force = bundles.in_force;
        if in_force != change.expected {
            return Err(RefusedWrite::OtherBundle { in_force, expected: change.expected });
        }
        let known = |version: &u64| bundles.kept.contains_key(version) && !change.forgets(*version);
        match (&change.bundle, change.to) {
            (Some(bundle), _) if known(&bundle.version) && !change.mends(bundle.version) => {
                return Err(RefusedWrite::OtherBundle { in_force, expected: change.to });
            }
            (None, Some(version)) if !known(&version) => {
                return Err(RefusedWrite::UnknownBundle(version));
            }
            _ => {}
        }
        bundles.kept.retain(|version, _| !change.forgets(*version));
        if let Some(bundle) = &change.bundle {
            bundles.kept.insert(bundle.version, bundle.clone());
        }
        bundles.in_force = change.to;
        bundles.trust.clone_from(&change.trust);
        bundles.since_ms = floor_ms(change.at);
        bundles.applications.push(BundleApplication {
            number: bundles.applications.len() as u64 + 1,
            at: moment(bundles.since_ms),
            who: change.who.clone(),
            why: change.why.clone(),
            from: in_force,
            to: change.to,
            difference: change.difference.clone(),
        });
        let newest: Vec<u64> =
            bundles.kept.keys().rev().take(BUNDLES_KEPT as usize).copied().collect();
        let stays = |version: u64| {
            newest.contains(&version) || [change.to, change.keep].contains(&Some(version))
        };
        bundles.kept.retain(|version, _| stays(*version));
        for (key, value) in &change.settings {
            self.settings.insert(key.clone(), value.clone());
        }
        Ok(Written::Done)
    }
}

impl BundleReads for MemoryStore {
    fn bundle_in_force(&self) -> Result<BundleInForce, StoreFault> {
        let bundles = &self.bundles;
        Ok(BundleInForce {
            bundle: bundles.in_force.and_then(|version| bundles.kept.get(&version).cloned()),
            trust: bundles.trust.clone(),
            since: moment(bundles.since_ms),
        })
    }

    fn bundle(&self, version: u64) -> Result<Option<KeptBundle>, StoreFault> {
        Ok(self.bundles.kept.get(&version).cloned())
    }

    fn bundle_versions(&self) -> Result<Vec<u64>, StoreFault> {
        Ok(self.bundles.kept.keys().rev().copied().collect())
    }

    fn bundle_keys(&self) -> Result<Vec<(u64, [u8; 32])>, StoreFault> {
        Ok(self.bundles.kept.iter().rev().map(|(version, kept)| (*version, kept.key)).collect())
    }

    fn bundle_applications(&self, limit: u32) -> Result<Vec<BundleApplication>, StoreFault> {
        Ok(self.bundles.applications.iter().rev().take(limit as usize).cloned().collect())
    }
}
