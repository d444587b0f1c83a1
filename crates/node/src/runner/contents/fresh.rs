//! Contents of single messages that were committed just now, for their first attempt.
//!
//! Most mail leaves within a moment of its acceptance. Its content need not be read back then: it is kept here, until
//! [`FRESH_OCTETS_MAX`] of others have come. What is not here is in the store. Contents of messages that end without an
//! attempt stay until then too, in memory only; where an address is to be forgotten all are dropped.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// Octets kept in all.
const FRESH_OCTETS_MAX: usize = 16 << 20;

/// Contents kept, whatever their size.
const FRESH_COUNT_MAX: usize = 16_384;

/// Octets of one content: larger ones are read from the store, which costs them little.
const FRESH_CONTENT_MAX: usize = 256 << 10;

/// Contents by number.
#[derive(Default)]
pub(super) struct FreshContents {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    by_number: HashMap<u64, Arc<[u8]>>,
    /// In order of arrival; some may have been taken already.
    order: VecDeque<u64>,
    octets: usize,
}

impl FreshContents {
    /// Keeps a content; the oldest go where there is no room.
    pub(super) fn keep(&self, number: u64, body: Arc<[u8]>) {
        if body.len() > FRESH_CONTENT_MAX {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.octets += body.len();
        kept.order.push_back(number);
        if let Some(before) = kept.by_number.insert(number, body) {
            kept.octets -= before.len();
        }
        // Numbers without their contents are bounded too.
        while kept.octets > FRESH_OCTETS_MAX
            || kept.by_number.len() > FRESH_COUNT_MAX
            || kept.order.len() > 2 * kept.by_number.len() + 64
        {
            let Some(oldest) = kept.order.pop_front() else { break };
            if let Some(gone) = kept.by_number.remove(&oldest) {
                kept.octets -= gone.len();
            }
        }
    }

    /// A content for an attempt. It is given away: who needs it again reads it from the store.
    pub(super) fn take(&self, number: u64) -> Option<Arc<[u8]>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let body = kept.by_number.remove(&number)?;
        kept.octets -= body.len();
        Some(body)
    }

    /// Octets that are kept.
    #[cfg(test)]
    pub(super) fn octets(&self) -> usize {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).octets
    }

    /// Drops everything.
    pub(super) fn clear(&self) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Kept::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(octets: usize) -> Arc<[u8]> {
        vec![b'x'; octets].into()
    }

    #[test]
    fn what_was_kept_is_given_away_once() {
        let fresh = FreshContents::default();
        fresh.keep(1, body(10));
        fresh.keep(2, body(20));
        assert_eq!(fresh.take(2).map(|body| body.len()), Some(20));
        assert_eq!(fresh.take(2), None);
        assert_eq!(fresh.take(1).map(|body| body.len()), Some(10));
        assert_eq!(fresh.octets(), 0);
    }

    #[test]
    fn the_oldest_go_where_there_is_no_room() {
        let fresh = FreshContents::default();
        let size = 200 << 10;
        let fit = (FRESH_OCTETS_MAX / size) as u64;
        for number in 0..=fit {
            fresh.keep(number, body(size));
        }
        assert_eq!(fresh.take(0), None);
        assert!((1..=fit).all(|number| fresh.take(number).is_some()));
        fresh.keep(1_000, body(FRESH_CONTENT_MAX + 1));
        assert_eq!(fresh.take(1_000), None, "too large to be kept");
    }

    #[test]
    fn numbers_without_contents_do_not_pile_up() {
        let fresh = FreshContents::default();
        for number in 0..10_000 {
            fresh.keep(number, body(1));
            assert!(fresh.take(number).is_some());
        }
        assert!(fresh.kept.lock().unwrap().order.len() <= 70);
    }
}
