//! Sources, affinities, and which source may write to which domain.

use std::collections::BTreeMap;
use std::sync::Arc;

use mail::id::SourceId;
use mail::mask::Mask;

/// One public IP of ours.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// Its number.
    pub id: SourceId,
    /// Relative frequency, at least 1.
    pub weight: u32,
    /// Recipient domains it may write to; empty: all.
    pub include_domains: Vec<Mask>,
    /// Recipient domains it must not write to, applied after the inclusion.
    pub exclude_domains: Vec<Mask>,
    /// Whether it can reach IPv6 targets (`true`) or IPv4 targets (`false`): the family of its bind address.
    pub ipv6: bool,
}

impl Source {
    /// Whether it may write to `domain`.
    #[must_use]
    pub fn admits(&self, domain: &str) -> bool {
        (self.include_domains.is_empty()
            || self.include_domains.iter().any(|mask| mask.matches(domain)))
            && !self.exclude_domains.iter().any(|mask| mask.matches(domain))
    }
}

/// A named set of sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// Its name.
    pub name: String,
    /// Its sources.
    pub sources: Vec<SourceId>,
}

/// Why a set of sources cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourcesFault {
    /// Two sources with one number.
    #[error("public_id {0} is given to two sources")]
    Duplicate(u32),
    /// A weight of 0.
    #[error("source {0} has weight 0; the least is 1")]
    NoWeight(u32),
    /// An affinity names a source that does not exist.
    #[error("affinity {affinity:?} names source {source_id}, which does not exist")]
    Unknown {
        /// The affinity.
        affinity: String,
        /// The number.
        source_id: u32,
    },
}

/// A set of sources that messages may use, interned: equal sets have equal numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SetId(u32);

/// All sources and affinities of this node.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    sources: BTreeMap<SourceId, Source>,
    affinities: BTreeMap<String, Vec<SourceId>>,
    masked: bool,
    sets: Vec<Arc<[SourceId]>>,
    set_ids: BTreeMap<Arc<[SourceId]>, SetId>,
}

impl Sources {
    /// Checks and takes over sources and affinities.
    ///
    /// # Errors
    /// Duplicate numbers, weight 0, unknown sources in an affinity.
    pub fn new(sources: Vec<Source>, affinities: Vec<Affinity>) -> Result<Self, SourcesFault> {
        let mut all = Self::default();
        for source in sources {
            if source.weight == 0 {
                return Err(SourcesFault::NoWeight(source.id.0));
            }
            all.masked |= !source.include_domains.is_empty() || !source.exclude_domains.is_empty();
            if let Some(twin) = all.sources.insert(source.id, source) {
                return Err(SourcesFault::Duplicate(twin.id.0));
            }
        }
        for affinity in affinities {
            if let Some(unknown) = affinity.sources.iter().find(|id| !all.sources.contains_key(id))
            {
                return Err(SourcesFault::Unknown {
                    affinity: affinity.name.clone(),
                    source_id: unknown.0,
                });
            }
            all.affinities.insert(affinity.name, affinity.sources);
        }
        Ok(all)
    }

    /// One source.
    #[must_use]
    pub fn get(&self, id: SourceId) -> Option<&Source> {
        self.sources.get(&id)
    }

    /// All sources by number.
    pub fn iter(&self) -> impl Iterator<Item = &Source> {
        self.sources.values()
    }

    /// The sources of an affinity that may write to `domain`; empty when none may or it is unknown.
    #[must_use]
    pub fn admitted(&self, affinity: &str, domain: &str) -> Vec<SourceId> {
        let Some(ids) = self.affinities.get(affinity) else { return Vec::new() };
        ids.iter()
            .copied()
            .filter(|id| !self.masked || self.sources.get(id).is_some_and(|s| s.admits(domain)))
            .collect()
    }

    /// The number of a set.
    pub(crate) fn set_id(&mut self, mut ids: Vec<SourceId>) -> SetId {
        ids.sort_unstable();
        ids.dedup();
        let ids: Arc<[SourceId]> = ids.into();
        if let Some(id) = self.set_ids.get(&ids) {
            return *id;
        }
        // A few per affinity and mask combination: far from 2^32.
        let id = SetId(u32::try_from(self.sets.len()).unwrap_or(u32::MAX));
        self.sets.push(Arc::clone(&ids));
        self.set_ids.insert(ids, id);
        id
    }

    /// The sources of a set.
    pub(crate) fn set(&self, id: SetId) -> Arc<[SourceId]> {
        Arc::clone(&self.sets[id.0 as usize])
    }

    /// The greatest weight of some sources, at least 1.
    pub(crate) fn greatest_weight(&self, set: &[SourceId]) -> u64 {
        let weights = set.iter().filter_map(|id| self.sources.get(id)).map(|source| source.weight);
        u64::from(weights.max().unwrap_or(1).max(1))
    }

    /// Whether a set holds a source.
    pub(crate) fn set_has(&self, id: SetId, source: SourceId) -> bool {
        self.sets[id.0 as usize].contains(&source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(id: u32, include: &[&str], exclude: &[&str]) -> Source {
        Source {
            id: SourceId(id),
            weight: 1,
            include_domains: include.iter().map(|mask| Mask::new(mask)).collect(),
            exclude_domains: exclude.iter().map(|mask| Mask::new(mask)).collect(),
            ipv6: false,
        }
    }

    #[test]
    fn include_comes_before_exclude() {
        let only_yahoo = source(1, &["yahoo.*", "orange.fr"], &["yahoo.jp"]);
        assert!(only_yahoo.admits("yahoo.com"));
        assert!(!only_yahoo.admits("yahoo.jp"));
        assert!(!only_yahoo.admits("gmail.com"));
        assert!(source(2, &[], &["neo.*"]).admits("gmail.com"));
        assert!(!source(2, &[], &["neo.*"]).admits("neo.example"));
    }

    #[test]
    fn refuses_what_cannot_be_meant() {
        let all = |ids: &[u32]| Affinity {
            name: "default".into(),
            sources: ids.iter().copied().map(SourceId).collect(),
        };
        let two = || vec![source(1, &[], &[]), source(2, &[], &[])];
        assert_eq!(
            Sources::new(vec![source(1, &[], &[]), source(1, &[], &[])], vec![]).err(),
            Some(SourcesFault::Duplicate(1))
        );
        assert!(matches!(
            Sources::new(two(), vec![all(&[1, 3])]),
            Err(SourcesFault::Unknown { source_id: 3, .. })
        ));
        let good = Sources::new(two(), vec![all(&[1, 2])]).unwrap();
        assert_eq!(good.admitted("default", "x.example").len(), 2);
        assert!(good.admitted("other", "x.example").is_empty());
    }
}
