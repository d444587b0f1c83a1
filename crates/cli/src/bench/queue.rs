//! A long queue in a process of its own: how fast it comes, what it needs of memory and disk, and how soon the first
//! message leaves after a restart.
//!
//! The queue is made while DNS is out of reach, so that nothing leaves. Then the node is stopped in order and started
//! with DNS; killed while it delivers; and started again. After a kill the first connections wait for two seconds on
//! purpose: those of the dead process may still stand at the other side.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use lab::Lab;
use serde::Serialize;

use super::process::{Process, Start};
use super::world::submit;

/// For how long it delivers at most before it is killed, so that connections to all sinks are open.
const BEFORE_THE_KILL: Duration = Duration::from_secs(1);

/// The longest wait for a first message, and for the last.
const PATIENCE: Duration = Duration::from_secs(300);

/// What the queue is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Recipients of one delivery, handed over by HTTP.
    Campaign,
    /// Messages of 2 KiB with a content of their own, by SMTP over 20 connections.
    Single,
}

/// A queue to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueuePlan {
    pub(super) kind: Kind,
    pub(super) messages: u64,
    /// Between the acceptance and the look at memory and disk: the window is filled and the log of commits is worked off.
    pub(super) calm: Duration,
    /// For how long a campaign is delivered before memory is read once more.
    pub(super) delivering: Duration,
}

/// A queue, measured.
#[derive(Clone, Debug, Serialize)]
pub(super) struct QueueFigure {
    pub(super) queue: String,
    pub(super) messages: u64,
    /// Until the last was accepted.
    pub(super) accepted_seconds: f64,
    pub(super) accepted_per_second: f64,
    /// Processor time of the node per message accepted.
    pub(super) accepted_cpu_micros: f64,
    /// Size of the data folder while all wait.
    pub(super) disk_bytes: u64,
    /// The most resident memory until all were accepted.
    pub(super) accepting_peak_kib: u64,
    /// Resident memory while all wait.
    pub(super) waiting_kib: u64,
    /// From SIGTERM to the end of the process.
    pub(super) stop_seconds: f64,
    /// From the start of the process to the first message at the sinks, after SIGTERM.
    pub(super) first_after_stop_seconds: f64,
    /// The same after SIGKILL; two seconds of it are waited on purpose.
    pub(super) first_after_kill_seconds: f64,
    /// The most resident memory of the last process, up to some seconds of delivering.
    pub(super) delivering_peak_kib: u64,
    /// How fast all of it leaves, for queues that are short enough.
    pub(super) drain: Option<Drain>,
}

/// From the first message to the last.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Drain {
    pub(super) messages: u64,
    pub(super) seconds: f64,
    pub(super) per_second: f64,
    pub(super) cpu_micros: f64,
}

impl QueuePlan {
    /// How it is called.
    pub(super) fn name(&self) -> String {
        let count = crate::output::number(self.messages);
        match self.kind {
            Kind::Campaign => format!("queue of {count} campaign recipients"),
            Kind::Single => format!("queue of {count} single messages of 2 KiB"),
        }
    }

    /// Makes the queue and goes through the restarts.
    ///
    /// # Errors
    /// The node does not start, refuses, loses its way, or takes too long.
    pub(super) async fn measure(&self, say: &(dyn Fn(&str) + Sync)) -> anyhow::Result<QueueFigure> {
        let folder = super::temporary_folder()?;
        let lab = Lab::start(lab::internet::hundred_domains())?;
        let start = |routes| Start { folder: folder.path(), lab: &lab, routes, level: "info" };
        let mut node = Process::start(&start(false))?;
        node.ready().await?;
        let before = node.cpu()?;
        let accepted = self.fill(&node).await?;
        let cpu = node.cpu()?.since(&before).total_micros() / self.messages as f64;
        let accepting_peak_kib = node.memory()?.peak;
        say(&format!("accepted in {:.1} s", accepted.as_secs_f64()));
        tokio::time::sleep(self.calm).await;
        let waiting_kib = node.memory()?.now;
        let disk_bytes = folder_size(&folder.path().join("data"))?;
        say(&format!("{} MiB on disk, {} MiB in memory", disk_bytes >> 20, waiting_kib >> 10));
        ensure!(lab.counts().accepted == 0, "messages left the queue without DNS");
        let stopped = node.end().await?;

        let mut node = Process::start(&start(true))?;
        let after_stop = first_message(&mut node, &lab, 0).await?;
        say(&format!("first message {:.2} s after a start", after_stop.as_secs_f64()));
        let delivering = Instant::now();
        while lab.counts().accepted < self.messages / 4 && delivering.elapsed() < BEFORE_THE_KILL {
            node.check_alive()?;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        node.kill()?;
        let taken = settled(&lab).await?;
        ensure!(taken < self.messages, "everything had left before the kill");

        let mut node = Process::start(&start(true))?;
        let after_kill = first_message(&mut node, &lab, taken).await?;
        say(&format!("{:.2} s after kill -9", after_kill.as_secs_f64()));
        let drain = self.drain(&mut node, &lab).await?;
        let delivering_peak_kib = node.memory()?.peak;
        // Its data are thrown away.
        node.kill()?;
        let _report = lab.stop();
        Ok(QueueFigure {
            queue: self.name(),
            messages: self.messages,
            accepted_seconds: accepted.as_secs_f64(),
            accepted_per_second: self.messages as f64 / accepted.as_secs_f64(),
            accepted_cpu_micros: cpu,
            disk_bytes,
            accepting_peak_kib,
            waiting_kib,
            stop_seconds: stopped.as_secs_f64(),
            first_after_stop_seconds: after_stop.as_secs_f64(),
            first_after_kill_seconds: after_kill.as_secs_f64(),
            delivering_peak_kib,
            drain,
        })
    }

    /// Fills the queue, and the time that it took.
    async fn fill(&self, node: &Process) -> anyhow::Result<Duration> {
        match self.kind {
            Kind::Campaign => {
                let (id, time) = node.hand_over(self.messages).await?;
                node.start_delivery(&id).await?;
                Ok(time)
            }
            Kind::Single => {
                let begun = Instant::now();
                submit(node.submission, self.messages, 2_048).await?;
                Ok(begun.elapsed())
            }
        }
    }

    /// Lets single messages leave to the last, and a campaign for some seconds.
    async fn drain(&self, node: &mut Process, lab: &Lab) -> anyhow::Result<Option<Drain>> {
        let (begun, before, first) = (Instant::now(), node.cpu()?, lab.counts().accepted);
        let limit = if self.kind == Kind::Single { PATIENCE } else { self.delivering };
        // What the killed process had sent and not written down is sent once more, so the last few are not waited for.
        while lab.counts().accepted < self.messages && begun.elapsed() < limit {
            node.check_alive()?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (time, cpu) = (begun.elapsed(), node.cpu()?.since(&before));
        let messages = lab.counts().accepted.saturating_sub(first);
        if self.kind == Kind::Campaign || messages == 0 {
            return Ok(None);
        }
        ensure!(lab.counts().accepted >= self.messages, "not all were delivered in {limit:?}");
        Ok(Some(Drain {
            messages,
            seconds: time.as_secs_f64(),
            per_second: messages as f64 / time.as_secs_f64(),
            cpu_micros: cpu.total_micros() / messages as f64,
        }))
    }
}

/// The time from the start of a process until the sinks have taken a message more than `taken`.
async fn first_message(node: &mut Process, lab: &Lab, taken: u64) -> anyhow::Result<Duration> {
    while lab.counts().accepted <= taken {
        node.check_alive()?;
        ensure!(node.begun.elapsed() < PATIENCE, "no message has left");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(node.begun.elapsed())
}

/// What the sinks have taken when the last connection of a killed process is read to its end.
async fn settled(lab: &Lab) -> anyhow::Result<u64> {
    let begun = Instant::now();
    while lab.counts().open_connections > 0 {
        ensure!(begun.elapsed() < PATIENCE, "connections of a dead process stay open");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(lab.counts().accepted)
}

/// Octets of all files below a folder.
fn folder_size(folder: &Path) -> anyhow::Result<u64> {
    let mut size = 0;
    let listed = std::fs::read_dir(folder);
    for entry in listed.with_context(|| folder.display().to_string())? {
        let entry = entry?;
        // A file may go between the listing and the look.
        let Ok(about) = entry.metadata() else { continue };
        size += if about.is_dir() { folder_size(&entry.path())? } else { about.len() };
    }
    Ok(size)
}
