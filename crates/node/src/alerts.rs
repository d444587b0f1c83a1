//! Alerts: what a person has to look at, in one place.
//!
//! **Promise.** An alert is raised once, however often its cause shows, and stands until the cause is gone. It goes to
//! the log at its beginning and at its end, and is shown by `/api/v1/alerts`, `/metrics` and `mailweir stat alerts`.
//!
//! **How.** Whoever finds a cause calls [`Alerts::raise`] with a code (a closed word for machines) and a key (which of
//! many), and [`Alerts::clear`] when it is over. Causes that are kept elsewhere, such as holds of the outage guard, are
//! put beside these by [`Questions::alerts`](crate::node::Questions::alerts).
//!
//! **Absences.** Nothing is kept over a restart: causes that last are found again. At most [`ALERTS_MAX`] stand at a
//! time; what comes beyond goes to the log alone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mail::time::Timestamp;
use serde::Serialize;

/// Alerts that stand at a time.
pub const ALERTS_MAX: usize = 1_000;

/// Code: a reaction that a rule marks as an alert is in force.
pub const REACTION: &str = "reaction";

/// Code: servers refuse a delivery for its own fault, and it was paused.
pub const DELIVERY_STOPPED: &str = "delivery-stopped";

/// Code: the outage guard holds back what a provider says of addresses.
pub const OUTAGE_GUARD: &str = "outage-guard";

/// Code: a bundle of rules was refused; those in force stay.
pub const BUNDLE_REFUSED: &str = "bundle-refused";

/// Code: the bundle in force is past its end; it stays in force.
pub const BUNDLE_EXPIRED: &str = "bundle-expired";

/// Code: the key that signed the bundle in force is not trusted any more; the bundle stays in force.
pub const BUNDLE_KEY: &str = "bundle-key-not-trusted";

/// Code: the node's own clock and that of the machine are far apart.
pub const CLOCK_OFF: &str = "clock-off";

/// Code: a warm-up plan caps a source at a rule that is not there any more.
pub const WARM_UP_CAP: &str = "warm-up-cap";

/// Code: the deliverability instance has not answered for two days.
pub const INSTANCE_UNREACHABLE: &str = "instance-unreachable";

/// Code: the end of a level could not be carried out; the level holds on.
pub const LEVEL_NOT_ENDED: &str = "level-not-ended";

/// One alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Alert {
    /// What kind, for machines.
    pub code: String,
    /// Which of its kind: a delivery, a reaction, a provider.
    pub key: String,
    /// What is wrong, for people.
    pub words: String,
    /// What it rests on: a reply, a figure.
    pub evidence: String,
    /// Since when.
    pub since: Timestamp,
}

/// The alerts that stand. Clones are the same list.
#[derive(Clone, Debug, Default)]
pub struct Alerts {
    standing: Arc<Mutex<BTreeMap<(String, String), Alert>>>,
    /// The newest of each code, whether it stands or not. Codes are few.
    newest: Arc<Mutex<BTreeMap<String, Alert>>>,
}

impl Alerts {
    /// Raises an alert, unless one with its code and key stands.
    pub fn raise(&self, alert: Alert) {
        let mut standing = self.lock();
        let place = (alert.code.clone(), alert.key.clone());
        if standing.contains_key(&place) {
            return;
        }
        let Alert { code, key, words, evidence, .. } = &alert;
        tracing::error!(%code, %key, %evidence, "ALERT: {words}");
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        newest.insert(alert.code.clone(), alert.clone());
        if standing.len() < ALERTS_MAX {
            standing.insert(place, alert);
        }
    }

    /// The cause is gone.
    pub fn clear(&self, code: &str, key: &str) {
        if let Some(alert) = self.lock().remove(&(code.to_owned(), key.to_owned())) {
            tracing::info!(%code, %key, "the alert is over: {}", alert.words);
        }
    }

    /// Those of a code are exactly these from now on.
    pub fn replace(&self, code: &str, alerts: Vec<Alert>) {
        let mut gone = Vec::new();
        for (of, key) in self.lock().keys() {
            if of == code && alerts.iter().all(|alert| alert.key != *key) {
                gone.push(key.clone());
            }
        }
        gone.iter().for_each(|key| self.clear(code, key));
        alerts.into_iter().for_each(|alert| self.raise(alert));
    }

    /// All that stand, the oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Alert> {
        let mut all: Vec<Alert> = self.lock().values().cloned().collect();
        all.sort_by_key(|alert| alert.since);
        all
    }

    /// The newest of a code that was raised since this process began, whether it stands or not.
    #[must_use]
    pub fn newest(&self, code: &str) -> Option<Alert> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).get(code).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), Alert>> {
        // A list is whole between any two calls.
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(code: &str, key: &str, second: u64) -> Alert {
        Alert {
            code: code.into(),
            key: key.into(),
            words: "look here".into(),
            evidence: "421".into(),
            since: Timestamp::from_secs(second),
        }
    }

    #[test]
    fn each_stands_once_until_its_cause_is_gone() {
        let alerts = Alerts::default();
        alerts.raise(alert("a", "1", 20));
        alerts.raise(alert("a", "1", 30));
        alerts.raise(alert("b", "1", 10));
        let keys = |alerts: &Alerts| -> Vec<(String, u64)> {
            alerts.list().into_iter().map(|one| (one.code, one.since.as_secs())).collect()
        };
        assert_eq!(keys(&alerts), [("b".into(), 10), ("a".into(), 20)]);
        alerts.clear("b", "1");
        alerts.clear("b", "2");
        assert_eq!(keys(&alerts), [("a".into(), 20)]);
        assert_eq!(alerts.newest("b").unwrap().since.as_secs(), 10, "also when it is over");
        alerts.replace("a", vec![alert("a", "2", 40), alert("a", "3", 50)]);
        assert_eq!(keys(&alerts), [("a".into(), 40), ("a".into(), 50)]);
    }

    #[test]
    fn there_are_never_more_than_the_bound() {
        let alerts = Alerts::default();
        (0..ALERTS_MAX + 50).for_each(|key| alerts.raise(alert("a", &key.to_string(), 1)));
        assert_eq!(alerts.list().len(), ALERTS_MAX);
    }
}
