//! The delivery log: one JSON line per attempt.
//!
//! A thread of its own formats and writes; the engine hands it batches through a bounded channel. Lines of one batch
//! leave in one write. The file is rotated by size: `delivery.jsonl` becomes `delivery.jsonl.1` and so
//! on, the oldest is removed.
//!
//! A line has: `at` and `started_at` (RFC 3339, UTC; the latter is the moment that the hourly limits
//! count), `due_micros` (since when it might have gone), `message`, `delivery`, `recipient`, `source`, `target`, `mx_host`, `rule`, `rules_version`,
//! `attempt`, `outcome`, `next_at`, `stage`, `reply`, `note`; of a refusal also `type`, `reason` and `bounce_rule` (with
//! its version behind `@`): what it was taken for, and `reaction`, where one
//! began or was renewed by it. The auditor (`mailweir stat audit`) needs nothing else.
//!
//! When the disk is full the line is lost and counted; mail is not held up by its log. What was written of it is
//! taken back, and what a crash left of a line is ended at the next start: no line runs into another.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use engine::work::{Attempt, Fate};
use mail::attempt::Verdict;
use mail::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Batches that may wait for the disk before the engine has to wait too.
const BATCHES_MAX: usize = 256;

/// One line of the delivery log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    /// When the verdict was known.
    pub at: String,
    /// When MAIL FROM went out; absent: never.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub started_at: Option<String>,
    /// The same as `started_at`, in microseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub started_micros: Option<u64>,
    /// Since when it might have gone, in microseconds since the Unix epoch: its acceptance, or the time to which it was put
    /// off. The start and the waves of its delivery may have come later. Absent in lines of versions before 0.1.0.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub due_micros: Option<u64>,
    /// The message.
    pub message: String,
    /// Its delivery.
    pub delivery: String,
    /// The recipient.
    pub recipient: String,
    /// `public_id` of the source.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub source: Option<u32>,
    /// The target's address.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target: Option<String>,
    /// The MX host.
    pub mx_host: String,
    /// The rule that governed it.
    pub rule: String,
    /// Version of the rule set.
    pub rules_version: u64,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// `sent`, `failed`, `expired`, `cancelled` or `deferred`.
    pub outcome: String,
    /// When it will be tried again.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_at: Option<String>,
    /// The command that was answered.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stage: Option<String>,
    /// The reply, lines joined by LF, control octets escaped.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reply: Option<String>,
    /// Why it was not delivered.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// `Hard`, `Soft` or `Ignored`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none", default)]
    pub failure_type: Option<String>,
    /// The bounce rule that said so, `name@version`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bounce_rule: Option<String>,
    /// The reaction that the refusal began or renewed, `R7 google-rate@2026-11-21`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reaction: Option<String>,
    /// Our own words, where no server spoke.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub note: String,
}

impl From<&Attempt> for LogLine {
    fn from(attempt: &Attempt) -> Self {
        let (outcome, next_at) = match attempt.fate {
            Fate::Final(state) => (state.name(), None),
            Fate::Requeued { due, .. } => ("deferred", Some(due.to_string())),
        };
        let (stage, reply) = match &attempt.verdict {
            Some(Verdict::Sent { reply }) => (Some("content"), Some(reply)),
            Some(Verdict::Refused { stage, reply }) => (Some(stage.name()), Some(reply)),
            Some(Verdict::PossiblyDelivered) => (Some("content"), None),
            _ => (None, None),
        };
        let verdict = attempt.judgement.as_deref().map(|found| &found.verdict);
        Self {
            at: attempt.ended_at.to_string(),
            started_at: attempt.started_at.as_ref().map(Timestamp::to_string),
            started_micros: attempt.started_at.map(Timestamp::as_micros),
            due_micros: Some(attempt.message.due.max(attempt.message.accepted_at).as_micros()),
            message: attempt.message.id.to_string(),
            delivery: attempt.message.delivery.to_string(),
            recipient: attempt.message.recipient.to_string(),
            source: attempt.source.map(|source| source.0),
            target: attempt.target.map(|target| target.to_string()),
            mx_host: attempt.mx_host.to_string(),
            rule: attempt.rule.to_string(),
            rules_version: attempt.rules_version,
            attempt: attempt.number,
            outcome: outcome.into(),
            next_at,
            stage: stage.map(str::to_string),
            reply: reply.map(ToString::to_string),
            reason: verdict.map(|found| found.reason.to_string()),
            failure_type: verdict.map(|found| found.failure_type.to_string()),
            bounce_rule: verdict.map(|found| format!("{}@{}", found.rule, found.version)),
            reaction: attempt.reaction.as_deref().map(str::to_owned),
            note: attempt.note.to_string(),
        }
    }
}

/// Where the log is kept.
#[derive(Clone, Debug)]
pub struct DeliveryLogSettings {
    /// The file.
    pub path: PathBuf,
    /// It is rotated when it is larger than this.
    pub rotate_bytes: u64,
    /// Old files kept.
    pub keep: u32,
}

/// The writing end of the delivery log.
#[derive(Debug)]
pub struct DeliveryLog {
    sender: Option<SyncSender<Vec<Attempt>>>,
    thread: Option<JoinHandle<()>>,
    lost: Arc<AtomicU64>,
}

impl DeliveryLog {
    /// Opens the file for appending and starts the thread.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(settings: DeliveryLogSettings) -> std::io::Result<Self> {
        let mut file = open_append(&settings.path)?;
        end_torn_line(&mut file)?;
        let size = file.metadata()?.len();
        let lost = Arc::new(AtomicU64::new(0));
        let (sender, receiver) = sync_channel(BATCHES_MAX);
        let counter = Arc::clone(&lost);
        let thread = std::thread::Builder::new()
            .name("delivery-log".into())
            .spawn(move || write_all(&settings, file, size, &receiver, &counter))?;
        Ok(Self { sender: Some(sender), thread: Some(thread), lost })
    }

    /// No log: what is handed over is dropped.
    #[must_use]
    pub fn none() -> Self {
        Self { sender: None, thread: None, lost: Arc::default() }
    }

    /// Hands over attempts; waits while the disk is far behind.
    pub fn record(&self, attempts: Vec<Attempt>) {
        if let Some(sender) = &self.sender
            && let Err(unsent) = sender.send(attempts)
        {
            self.lost.fetch_add(unsent.0.len() as u64, Ordering::Relaxed);
        }
    }

    /// Counter of the lines that could not be written.
    #[must_use]
    pub fn lost(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.lost)
    }
}

impl Drop for DeliveryLog {
    /// Writes what was handed over, then ends.
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the delivery log has panicked");
        }
    }
}

fn open_append(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).read(true).append(true).mode(0o640).open(path)
}

/// Ends a line that a crash has cut off.
fn end_torn_line(file: &mut File) -> std::io::Result<()> {
    let size = file.metadata()?.len();
    let Some(last) = size.checked_sub(1) else { return Ok(()) };
    let mut octet = [0];
    // A pipe or a device has no past.
    if file.read_exact_at(&mut octet, last).is_ok() && octet != *b"\n" {
        file.write_all(b"\n")?;
    }
    Ok(())
}

fn write_all(
    settings: &DeliveryLogSettings,
    mut file: File,
    mut size: u64,
    receiver: &Receiver<Vec<Attempt>>,
    lost: &AtomicU64,
) {
    let mut buffer: Vec<u8> = Vec::with_capacity(256 * 1024);
    while let Ok(attempts) = receiver.recv() {
        buffer.clear();
        let mut lines = 0;
        for attempt in
            attempts.iter().chain(receiver.try_iter().flatten().collect::<Vec<_>>().iter())
        {
            // Plain data: writing it as JSON into memory cannot fail.
            if serde_json::to_writer(&mut buffer, &LogLine::from(attempt)).is_ok() {
                buffer.push(b'\n');
                lines += 1;
            }
        }
        if let Err(fault) = file.write_all(&buffer) {
            lost.fetch_add(lines, Ordering::Relaxed);
            tracing::error!(%fault, lines, "the delivery log cannot be written");
            // Half a line would make the next one unreadable too.
            if let Err(fault) = file.set_len(size) {
                tracing::error!(%fault, "the delivery log may have a torn line");
            }
            continue;
        }
        size += buffer.len() as u64;
        if size > settings.rotate_bytes {
            match rotate(settings) {
                Ok(new) => {
                    file = new;
                    size = 0;
                }
                Err(fault) => tracing::error!(%fault, "the delivery log cannot be rotated"),
            }
        }
    }
    if let Err(fault) = file.sync_data() {
        tracing::error!(%fault, "the delivery log cannot be synced");
    }
}

/// `log` → `log.1` → `log.2` ...
fn rotate(settings: &DeliveryLogSettings) -> std::io::Result<File> {
    let numbered = |number: u32| {
        let mut name = settings.path.clone().into_os_string();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    for number in (1..settings.keep).rev() {
        if numbered(number).exists() {
            std::fs::rename(numbered(number), numbered(number + 1))?;
        }
    }
    if settings.keep > 0 {
        std::fs::rename(&settings.path, numbered(1))?;
    } else {
        std::fs::remove_file(&settings.path)?;
    }
    open_append(&settings.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_a_crash_has_cut_off_does_not_spoil_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("delivery.jsonl");
        for (before, after) in
            [("", ""), ("{}\n", "{}\n"), ("{}\n{\"at\":\"2026", "{}\n{\"at\":\"2026\n")]
        {
            std::fs::write(&path, before).unwrap();
            let settings =
                DeliveryLogSettings { path: path.clone(), rotate_bytes: 1 << 20, keep: 1 };
            drop(DeliveryLog::open(settings).unwrap());
            assert_eq!(std::fs::read_to_string(&path).unwrap(), after);
        }
    }
}
