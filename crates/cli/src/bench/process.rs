//! The program itself, as a process of its own: its start, its memory, its processor time and its end.
//!
//! It is killed when the value is dropped, so that nothing outlives the benchmark.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use lab::Lab;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio_util::io::ReaderStream;

use super::cpu::Used;
use super::settings::{Settings, merge, recipient};
use super::world::content;
use crate::client::{NodeArguments, NodeClient};
use crate::globals::Globals;

/// The longest that a start and an end may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Recipients accepted in a second at least, or it is given up.
const SLOWEST_ACCEPTANCE: u64 = 5_000;

/// What is to be known of a process before it is started.
pub(super) struct Start<'a> {
    /// Where configuration and data are.
    pub(super) folder: &'a Path,
    /// The world that it sends to.
    pub(super) lab: &'a Lab,
    /// Whether DNS answers; without it everything stays in the queue.
    pub(super) routes: bool,
    /// The level of its own log.
    pub(super) level: &'a str,
}

/// `mailweir serve`.
pub(super) struct Process {
    child: Child,
    log: std::path::PathBuf,
    /// The HTTP API.
    pub(super) client: NodeClient,
    /// Where the API listens.
    pub(super) http: SocketAddr,
    /// Where single messages are submitted.
    pub(super) submission: SocketAddr,
    /// When it was started.
    pub(super) begun: Instant,
}

/// Resident memory, in KiB.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    /// Now.
    pub(super) now: u64,
    /// The most so far.
    pub(super) peak: u64,
}

impl Process {
    /// Starts the program that runs now on the folder; [`Process::ready`] waits until it answers.
    ///
    /// # Errors
    /// A file cannot be written, no port is free, the program cannot be started.
    pub(super) fn start(start: &Start<'_>) -> anyhow::Result<Self> {
        let (http, submission) = (free_port()?, free_port()?);
        let settings = Settings {
            lab: start.lab,
            routes: start.routes,
            submission,
            http: Some(http),
            more: &format!("[log]\nlevel = {:?}\n", start.level),
        };
        std::fs::write(start.folder.join("mailweir.toml"), settings.write_rules(start.folder)?)?;
        let log = start.folder.join("serve.log");
        let arguments = NodeArguments { url: Some(format!("http://{http}")), token: None };
        let client = NodeClient::new(&Globals::default(), &arguments)
            .map_err(|fault| anyhow::anyhow!("{fault}"))?;
        let begun = Instant::now();
        let child = Command::new(std::env::current_exe()?)
            .current_dir(start.folder)
            .args(["serve", "--config", "mailweir.toml"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .context("the program cannot be started")?;
        Ok(Self { child, log, client, http, submission, begun })
    }

    /// Waits until its listeners answer.
    ///
    /// # Errors
    /// It has ended, or takes too long.
    pub(super) async fn ready(&mut self) -> anyhow::Result<()> {
        while tokio::net::TcpStream::connect(self.http).await.is_err() {
            self.check_alive()?;
            ensure!(self.begun.elapsed() < PATIENCE, "the node does not start:\n{}", self.said());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// # Errors
    /// It has ended.
    pub(super) fn check_alive(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the node has ended ({status}):\n{}", self.said()),
        }
    }

    /// The end of what it has said.
    fn said(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// # Errors
    /// `/proc` cannot be read.
    pub(super) fn memory(&self) -> anyhow::Result<Memory> {
        let path = format!("/proc/{}/status", self.child.id());
        let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        read_memory(&text).with_context(|| format!("no VmRSS and VmHWM in {path}"))
    }

    /// # Errors
    /// `/proc` cannot be read.
    pub(super) fn cpu(&self) -> anyhow::Result<Used> {
        Used::of(self.child.id())
    }

    /// SIGTERM, and the time until it has ended.
    ///
    /// # Errors
    /// It does not end, or not well.
    pub(super) async fn end(mut self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(begun.elapsed()),
                Some(status) => bail!("the node ended with {status}:\n{}", self.said()),
                None => tokio::time::sleep(Duration::from_millis(2)).await,
            }
            ensure!(begun.elapsed() < PATIENCE, "the node does not end:\n{}", self.said());
        }
    }

    /// SIGKILL; it is gone when this returns.
    ///
    /// # Errors
    /// The system refuses.
    pub(super) fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Makes a delivery of the benchmark's template and streams its recipients. Answers its name and the time that the
    /// list took.
    ///
    /// # Errors
    /// The node refuses, or takes too long.
    pub(super) async fn hand_over(&self, recipients: u64) -> anyhow::Result<(String, Duration)> {
        let body = json!({ "options": { "name": "bench" }, "content": content(2_048) });
        let made = self.client.post(&["deliveries"], &body).await.map_err(spoken)?;
        let id = made.get("id").and_then(Value::as_str).context("a delivery has a name")?;
        let (list, reader) = tokio::io::duplex(1 << 20);
        let writer = tokio::spawn(write_list(list, recipients));
        let begun = Instant::now();
        let body = reqwest::Body::wrap_stream(ReaderStream::with_capacity(reader, 256 << 10));
        let path = ["deliveries", id, "recipients"];
        let call = self.client.post_stream(&path, "application/x-ndjson", body);
        let limit = PATIENCE + Duration::from_secs(recipients / SLOWEST_ACCEPTANCE);
        let taken = tokio::time::timeout(limit, call)
            .await
            .with_context(|| format!("{recipients} recipients were not accepted in {limit:?}"))?
            .map_err(spoken)?;
        let time = begun.elapsed();
        writer.await??;
        let accepted = taken.get("accepted").and_then(Value::as_u64);
        ensure!(accepted == Some(recipients), "not all were accepted: {taken}");
        Ok((id.to_owned(), time))
    }

    /// Starts a delivery.
    ///
    /// # Errors
    /// The node refuses.
    pub(super) async fn start_delivery(&self, id: &str) -> anyhow::Result<()> {
        let body = json!({ "why": "bench" });
        let path = ["deliveries", id, "start"];
        let started = self.client.post_within(PATIENCE, &path, &body).await;
        started.map_err(|fault| anyhow::anyhow!("starting {id}: {fault}"))?;
        Ok(())
    }

    /// Messages of a delivery that are sent and settled.
    ///
    /// # Errors
    /// The node does not answer.
    pub(super) async fn sent(&self, id: &str) -> anyhow::Result<u64> {
        let delivery = self.client.get(&["deliveries", id]).await.map_err(spoken)?;
        let sent = delivery.get("counters").and_then(|counters| counters.get("sent"));
        sent.and_then(Value::as_u64).context("a delivery has counters")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Mostly it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spoken(fault: crate::client::CallFault) -> anyhow::Error {
    anyhow::anyhow!("{fault}")
}

/// Recipients as NDJSON.
async fn write_list(mut list: tokio::io::DuplexStream, recipients: u64) -> anyhow::Result<()> {
    use std::fmt::Write as _;
    use tokio::io::AsyncWriteExt as _;
    let mut text = String::with_capacity(300 << 10);
    for number in 0..recipients {
        writeln!(text, "{{\"email\":\"{}\",{}}}", recipient(number, 100), merge(number))?;
        if text.len() > 256 << 10 {
            list.write_all(text.as_bytes()).await?;
            text.clear();
        }
    }
    list.write_all(text.as_bytes()).await?;
    Ok(())
}

/// A port that is free now. Somebody else could take it before the program does; then it says so.
fn free_port() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn read_memory(status: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse().ok()
    };
    Some(Memory { now: field("VmRSS:")?, peak: field("VmHWM:")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_words_about_memory() {
        let text = "Name:\tmailweir\nVmHWM:\t  104960 kB\nVmRSS:\t   98304 kB\nThreads:\t9\n";
        let memory = read_memory(text).unwrap();
        assert_eq!((memory.now, memory.peak), (98_304, 104_960));
        assert!(read_memory("VmRSS:\t 5 kB\n").is_none());
    }
}
