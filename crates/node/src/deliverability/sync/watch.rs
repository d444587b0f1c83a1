//! What is looked after while nobody asks: the schedule, and alerts about the bundle and the instance.

use std::time::Duration;

use engine::quarantine::Author;
use mail::time::Timestamp;

use crate::alerts::{
    Alert, BUNDLE_EXPIRED, DELIVERY_STOPPED, INSTANCE_UNREACHABLE, OUTAGE_GUARD, REACTION,
};
use crate::deliverability::instance::{Report, ReportState};
use crate::deliverability::layer::Published;
use crate::node::Questions;

/// How often it is looked whether something is due.
const ROUND: Duration = Duration::from_secs(30);
/// After so long without contact a person should look.
const UNREACHABLE_AFTER: Duration = Duration::from_secs(48 * 3_600);
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
