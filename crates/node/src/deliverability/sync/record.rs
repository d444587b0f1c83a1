//! What is known about the instance, as it is kept in the store and shown.

use mail::time::Timestamp;
use serde::{Deserialize, Serialize};
use store::{Reads, StoreFault};

use super::RECORD;
use crate::config::InstanceConfig;
use crate::deliverability::following::Trouble;
use crate::deliverability::instance::{FetchFault, Report, ReportState};
use crate::deliverability::schedule::SyncHistory;

/// Reports that wait; beyond that the oldest goes.
const MOST_REPORTS: usize = 32;

/// What is known about the instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SyncRecord {
    /// The instance that all of this is about.
    pub url: String,
    /// Since when this node follows it.
    pub since: Option<Timestamp>,
    /// When it was asked and answered.
    pub history: SyncHistory,
    /// The ETag of the bundle that was fetched and applied last.
    pub etag: Option<String>,
    /// Why the instance did not answer as it should; `None`: it did, the last time.
    pub last_error: Option<Trouble>,
    /// Reports that it has not taken yet, the oldest first.
    pub reports: Vec<Report>,
    /// Texts met before this moment were sent.
    pub texts_until: Option<Timestamp>,
    /// The version of the bundle under which an alert was raised that rules can cause, and its words.
    pub alarmed: Option<(u64, String)>,
}

/// Reads the record. One that cannot be read (of a newer program) is begun anew: nothing is in it that the instance
/// does not tell again.
pub(crate) fn stored_record(reads: &dyn Reads) -> Result<SyncRecord, StoreFault> {
    let text = reads.setting(RECORD)?;
    let read = |text: Box<str>| {
        let record = serde_json::from_str(&text);
        record
            .inspect_err(
                |fault| tracing::warn!(%fault, "what was known about the instance is lost"),
            )
            .ok()
    };
    Ok(text.and_then(read).unwrap_or_default())
}

impl SyncRecord {
    /// The record of the instance with this URL: another one begins anew.
    pub(in crate::deliverability) fn of(self, url: &str, now: Timestamp) -> Self {
        match self.url == url {
            true => self,
            false => Self { url: url.to_owned(), since: Some(now), ..Self::default() },
        }
    }

    /// The instance has answered as it should.
    pub(in crate::deliverability) fn contacted(&mut self, now: Timestamp) {
        self.history.contacted(now);
        self.last_error = None;
    }

    /// It has not.
    pub(in crate::deliverability) fn failed(&mut self, now: Timestamp, fault: &FetchFault) {
        self.history.failed(now, fault.retry_after());
        let (fault, words) = (fault.name().to_owned(), fault.to_string());
        self.last_error = Some(Trouble { at: now, fault, words });
    }

    /// It has answered, and for reasons of this node it is to be asked again soon.
    pub(in crate::deliverability) fn put_off(&mut self, now: Timestamp) {
        self.last_error = None;
        self.history.failed(now, None);
        self.history.last_contact = Some(now);
    }

    /// A report is to be sent. What it says about the same bundle in place of an earlier one replaces that.
    pub(in crate::deliverability) fn wait(&mut self, report: Report) {
        self.reports.retain(|one| (one.bundle, one.state) != (report.bundle, report.state));
        self.reports.push(report);
        let surplus = self.reports.len().saturating_sub(MOST_REPORTS);
        self.reports.drain(..surplus);
    }

    /// How this node fares with the bundle in force.
    pub(in crate::deliverability) fn fares(&mut self, version: u64) {
        let report = match &self.alarmed {
            Some((of, words)) if *of == version => Report::new(version, ReportState::Alarm, words),
            _ => Report::new(version, ReportState::Well, ""),
        };
        self.wait(report);
    }

    pub(in crate::deliverability) fn status(
        self,
        config: &InstanceConfig,
        next_at: Option<Timestamp>,
        under_way: bool,
    ) -> InstanceStatus {
        InstanceStatus {
            url: self.url,
            next_at,
            under_way,
            since: self.since,
            last_contact: self.history.last_contact,
            last_failure: self.history.last_failure,
            failures: self.history.failures,
            last_error: self.last_error,
            etag: self.etag,
            reports_waiting: self.reports.len(),
            shares_unknown_texts: config.share_unknown_texts,
            texts_until: self.texts_until,
        }
    }
}

/// How a node stands to the instance that it asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InstanceStatus {
    /// Where it is.
    pub url: String,
    /// When it is asked next; `None`: only on demand.
    pub next_at: Option<Timestamp>,
    /// Whether a synchronisation is under way.
    pub under_way: bool,
    /// Since when this node follows it.
    pub since: Option<Timestamp>,
    /// When it answered last as it should.
    pub last_contact: Option<Timestamp>,
    /// When it did not.
    pub last_failure: Option<Timestamp>,
    /// Failures since the last contact.
    pub failures: u32,
    /// Why it did not answer as it should; `None`: it did, the last time.
    pub last_error: Option<Trouble>,
    /// The ETag of the bundle that was fetched and applied last.
    pub etag: Option<String>,
    /// Reports that it has not taken yet.
    pub reports_waiting: usize,
    /// Whether unknown texts are sent.
    pub shares_unknown_texts: bool,
    /// Texts met before this moment were sent.
    pub texts_until: Option<Timestamp>,
}
