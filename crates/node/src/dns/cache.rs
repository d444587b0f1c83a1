//! The cache of routes: bounded, and cheap to keep so.
//!
//! Two generations of half the size each. What is used moves into the young one; when that is full
//! it becomes the old one, and what nobody used since is gone. So no list has to be kept in order,
//! and the domains of a running campaign stay.

use std::collections::HashMap;

use mail::time::Timestamp;

use super::Routed;

/// Answers by domain.
pub(super) struct Cache {
    young: HashMap<String, Routed>,
    old: HashMap<String, Routed>,
    /// Entries of one generation; 0: nothing is kept.
    half: usize,
}

impl Cache {
    /// A cache for at most so many domains (rounded up to an even number).
    pub(super) fn new(domains: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), half: domains.div_ceil(2) }
    }

    /// The answer for a domain, if it may still be believed.
    pub(super) fn get(&mut self, key: &str, now: Timestamp) -> Option<Routed> {
        if let Some(routed) = self.young.get(key) {
            return (now < routed.1).then(|| routed.clone());
        }
        let routed = self.old.remove(key)?;
        if routed.1 <= now {
            return None;
        }
        self.insert(key, routed.clone());
        Some(routed)
    }

    /// Keeps an answer, in place of any other for the domain.
    pub(super) fn insert(&mut self, key: &str, routed: Routed) {
        if self.half == 0 {
            return;
        }
        self.old.remove(key);
        if self.young.len() >= self.half && !self.young.contains_key(key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key.to_owned(), routed);
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }
}

#[cfg(test)]
mod tests {
    use mail::route::RouteFault;

    use super::*;

    fn routed(until: u64) -> Routed {
        (Err(RouteFault::NullMx), Timestamp::from_secs(until))
    }

    #[test]
    fn it_is_bounded_and_keeps_what_is_used() {
        let now = Timestamp::from_secs(10);
        let mut cache = Cache::new(100);
        cache.insert("used", routed(1_000));
        for n in 0..10_000 {
            cache.insert(&format!("domain{n}"), routed(1_000));
            assert!(cache.young.len() + cache.old.len() <= 100);
            assert!(cache.get("used", now).is_some(), "after {n}");
        }
        assert!(cache.get("domain9999", now).is_some());
        assert!(cache.get("domain1", now).is_none());
    }

    #[test]
    fn nothing_is_believed_after_its_time() {
        let mut cache = Cache::new(2);
        cache.insert("a", routed(10));
        assert!(cache.get("a", Timestamp::from_secs(9)).is_some());
        assert!(cache.get("a", Timestamp::from_secs(10)).is_none());
        cache.insert("b", routed(20));
        cache.insert("c", routed(20));
        assert!(cache.get("a", Timestamp::from_secs(10)).is_none());
        cache.insert("a", routed(30));
        assert_eq!(cache.get("a", Timestamp::from_secs(10)), Some(routed(30)));
        cache.clear();
        assert!(cache.get("a", Timestamp::EPOCH).is_none());
        let mut off = Cache::new(0);
        off.insert("a", routed(30));
        assert!(off.get("a", Timestamp::EPOCH).is_none());
    }
}
