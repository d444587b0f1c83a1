//! What is looked after while nobody asks: the schedule, and alerts about the bundle and the instance.

use std::time::Duration;

use engine::quarantine::Author;
use mail::time::Timestamp;

use crate::alerts::{
    Alert, BUNDLE_EXPIRED, BUNDLE_KEY, CLOCK_OFF, DELIVERY_STOPPED, INSTANCE_UNREACHABLE,
    OUTAGE_GUARD, REACTION,
};
use crate::deliverability::instance::{Report, ReportState};
use crate::deliverability::layer::Published;
use crate::node::Questions;

/// How often it is looked whether something is due.
const ROUND: Duration = Duration::from_secs(30);
/// After so long without contact a person should look.
const UNREACHABLE_AFTER: Duration = Duration::from_secs(48 * 3_600);
/// The node's clock and the machine's may differ by so much: corrections, and a machine that slept.
const CLOCKS_APART: Duration = Duration::from_secs(1_800);
/// Codes of alerts that rules can cause.
const CAUSED_BY_RULES: [&str; 3] = [DELIVERY_STOPPED, REACTION, OUTAGE_GUARD];

/// Asks the instance when it is time, for as long as the node runs.
pub(crate) async fn keep_up(questions: Questions) {
    loop {
        questions.look_after_bundle().await;
        questions.sync_if_due().await;
        tokio::select! {
            () = tokio::time::sleep(ROUND) => {}
            () = questions.sync.nudge.notified() => {}
        }
    }
}

impl Questions {
    /// One synchronisation if it is due; else what waits to be told.
    async fn sync_if_due(&self) {
        let desk = &self.sync;
        let Some(followed) = &desk.followed else { return };
        let record = desk.record();
        let now = self.now();
        if followed.schedule.next(now, &record.history).is_some_and(|next| next <= now) {
            let author = Author { who: "schedule".into(), why: "daily synchronisation".into() };
            // One that is under way does the same.
            let _ = self.sync_bundle(author, false).await;
        } else if !record.reports.is_empty() && record.history.failures == 0 {
            let _alone = desk.under_way.lock().await;
            if let Err(words) = self.send_reports(followed).await {
                tracing::warn!("a report could not be sent to the instance: {words}");
            }
            self.store_sync_record().await;
        }
    }

    /// Raises and clears the alerts, and notes an alarm for the instance.
    pub(crate) async fn look_after_bundle(&self) {
        let now = self.now();
        let in_force = self.in_force();
        let published = in_force.layer.published();
        let alerts = self.standing_alerts();
        alerts.replace(BUNDLE_EXPIRED, expired(published, now).into_iter().collect());
        let trusted = self.key_trusted(&in_force);
        alerts.replace(BUNDLE_KEY, distrusted(published, trusted, now).into_iter().collect());
        let drift_micros = self.clock_drift_micros();
        alerts.replace(CLOCK_OFF, clock_off(drift_micros, now).into_iter().collect());
        if self.sync.followed.is_none() {
            return;
        }
        let record = self.sync.record();
        let heard = record.history.last_contact.or(record.since).unwrap_or(now);
        let evidence = record.last_error.map_or_else(String::new, |error| error.words);
        let silent = unreachable(&record.url, heard, now, evidence);
        alerts.replace(INSTANCE_UNREACHABLE, silent.into_iter().collect());
        if let Some(Published { version, .. }) = published
            && record.alarmed.is_none_or(|(of, _)| of != *version)
            && let Some(words) = self.alarm_since(in_force.since).await
        {
            self.sync.change(|record| record.alarmed = Some((*version, words.clone())));
            self.note_for_instance(Some(Report::new(*version, ReportState::Alarm, &words))).await;
        }
    }

    /// The words of an alert that rules can cause and that was raised since a moment.
    async fn alarm_since(&self, since: Timestamp) -> Option<String> {
        let newest = CAUSED_BY_RULES.map(|code| self.standing_alerts().newest(code));
        // Some are kept elsewhere. If the store cannot be read it is looked at again soon.
        let standing = self.alerts().await.unwrap_or_default();
        let all = newest.into_iter().flatten().chain(standing);
        let mut caused = all
            .filter(|alert| alert.since >= since && CAUSED_BY_RULES.contains(&alert.code.as_str()));
        caused.next().map(|alert| format!("{}: {}", alert.code, alert.evidence))
    }
}

/// The alert about a bundle that is past its end.
pub(super) fn expired(published: Option<&Published>, now: Timestamp) -> Option<Alert> {
    let published = published.filter(|published| published.expires <= now)?;
    Some(Alert {
        code: BUNDLE_EXPIRED.into(),
        key: published.version.to_string(),
        words: format!(
            "bundle {} in force has expired; it stays in force until another one comes",
            published.version
        ),
        evidence: format!("expired at {}", published.expires),
        since: published.expires,
    })
}

/// The alert about a bundle whose key was taken out of the configuration, or replaced.
pub(super) fn distrusted(
    published: Option<&Published>,
    trusted: Option<bool>,
    now: Timestamp,
) -> Option<Alert> {
    let published = published.filter(|_| trusted == Some(false))?;
    Some(Alert {
        code: BUNDLE_KEY.into(),
        key: published.version.to_string(),
        words: format!(
            "bundle {} in force was signed by a key that is not trusted any more; it stays in force until another one \
             comes: `mailweir deliverability sync`, or `rollback` if you do not trust what it says",
            published.version
        ),
        evidence: String::new(),
        since: now,
    })
}

/// The alert about clocks that are far apart. The node's own never goes back, and goes forward with the time that has
/// passed alone, because the limits rest on it.
pub(super) fn clock_off(drift_micros: i64, now: Timestamp) -> Option<Alert> {
    let apart = Duration::from_micros(drift_micros.unsigned_abs());
    if apart <= CLOCKS_APART {
        return None;
    }
    let shown = rules::show_span(Duration::from_secs(apart.as_secs()));
    let words = if drift_micros > 0 {
        format!(
            "the node's clock is {shown} ahead of this machine's: the node was started once while the machine's was wrong, \
             or the machine's is wrong now; correct it, or, if it is right, let the queue run empty and begin with a new \
             data folder"
        )
    } else {
        format!(
            "the node's clock is {shown} behind this machine's: the machine slept, or its clock was set; if it is right \
             now, start the node again after a restart of the machine"
        )
    };
    Some(Alert {
        code: CLOCK_OFF.into(),
        key: CLOCK_OFF.into(),
        words,
        evidence: format!("{drift_micros} µs"),
        since: now,
    })
}

/// The alert about an instance that has been silent for long.
pub(super) fn unreachable(
    url: &str,
    heard: Timestamp,
    now: Timestamp,
    evidence: String,
) -> Option<Alert> {
    (now.since(heard) >= UNREACHABLE_AFTER).then(|| Alert {
        code: INSTANCE_UNREACHABLE.into(),
        key: url.to_owned(),
        words: format!(
            "the deliverability instance {url} has not answered since {heard}; the rules in force stay"
        ),
        evidence,
        since: heard + UNREACHABLE_AFTER,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_are_far_apart_are_told_and_how_it_ends() {
        let now = Timestamp::from_secs(1_800_000_000);
        let words = |seconds: i64| clock_off(seconds * 1_000_000, now).map(|alert| alert.words);
        assert_eq!(words(1_800), None);
        assert_eq!(words(-1_800), None);
        let ahead = words(2 * 365 * 86_400).expect("an alert");
        assert!(ahead.contains("ahead") && ahead.contains("new data folder"), "{ahead}");
        let behind = words(-1_801).expect("an alert");
        assert!(behind.contains("behind") && behind.contains("restart of the machine"), "{behind}");
        assert!(clock_off(i64::MIN, now).is_some());
    }
}
