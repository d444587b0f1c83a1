//! A load source: an SMTP client that sends as fast as the other side answers.
//!
//! With [`Pipelining::AcrossMessages`] the MAIL, RCPT and DATA of the next message travel with the
//! final dot of the present one (RFC 2920), one write and one read for each message. It serves to
//! find the bare ceiling (straight into a lab) and to inject into a submission listener. It is an
//! own small client that shares nothing with the engine's.
//!
//! A server that closes between messages is connected to again; five fruitless connections in a row end
//! the run with an error. Every wait is bounded by [`LoadPlan::timeout`].

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

const MOST_FRUITLESS: u32 = 5;
const LONGEST_REPLY: usize = 64 * 1024;
/// Where the number of the message is written into the prepared text.
const SLOT: &[u8] = b"0000000000";

/// How far commands are sent ahead of their replies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pipelining {
    /// Each command waits for its reply.
    Off,
    /// MAIL, RCPT and DATA in one group.
    WithinMessage,
    /// These also in one group with the message before.
    #[default]
    AcrossMessages,
}

/// What to send where.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadPlan {
    /// The SMTP server; on 127.0.0.0/8 or ::1.
    pub target: SocketAddr,
    /// Connections open at once.
    pub connections: usize,
    /// Messages over all connections, one recipient each.
    pub messages: u64,
    /// Octets of a message, headers included; at least 400.
    pub size_bytes: usize,
    /// How far commands are sent ahead. Without the server's offer nothing is.
    pub pipelining: Pipelining,
    /// Recipient domains, taken in turn.
    pub recipient_domains: Vec<String>,
    /// Envelope sender.
    pub sender: String,
    /// Name in EHLO.
    pub helo: String,
    /// Local address of the connections; any when absent.
    pub source: Option<IpAddr>,
    /// Threads; 0 takes one per core, at most four.
    pub threads: usize,
    /// Longest wait for a connection or a reply.
    pub timeout: Duration,
    /// First number given to a message, so that several runs do not repeat addresses.
    pub first_number: u64,
}

impl LoadPlan {
    /// A plan for this target with the usual figures: 10 connections, 100,000 messages of 2 KiB,
    /// pipelined across messages, to these domains.
    #[must_use]
    pub fn new(target: SocketAddr, recipient_domains: Vec<String>) -> Self {
        Self {
            target,
            connections: 10,
            messages: 100_000,
            size_bytes: 2_048,
            pipelining: Pipelining::AcrossMessages,
            recipient_domains,
            sender: "load@source.bench.example".to_owned(),
            helo: "source.bench.example".to_owned(),
            source: None,
            threads: 0,
            timeout: Duration::from_secs(60),
            first_number: 0,
        }
    }

    fn check(&self) -> anyhow::Result<()> {
        ensure!(
            self.target.ip().is_loopback(),
            "the target {} is not on this machine; the load source does not send elsewhere",
            self.target
        );
        ensure!((1..=10_000).contains(&self.connections), "connections is not from 1 to 10,000");
        ensure!(
            (400..=100_000_000).contains(&self.size_bytes),
            "size_bytes is not from 400 to 100,000,000"
        );
        ensure!(!self.recipient_domains.is_empty(), "there are no recipient domains");
        ensure!(self.threads <= 64, "threads is more than 64");
        let clean = |text: &str| text.bytes().all(|byte| (b'!'..=b'~').contains(&byte));
        let texts = self.recipient_domains.iter().chain([&self.sender, &self.helo]);
        for text in texts {
            ensure!(clean(text) && text.len() <= 255, "`{text}` cannot stand in an SMTP command");
        }
        Ok(())
    }
}

/// What came of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LoadResult {
    /// Messages answered with 250 after the dot.
    pub messages: u64,
    /// Messages refused at any stage.
    pub refused: u64,
    /// Connections opened.
    pub connections: u64,
    /// From the first connection to the last reply.
    pub seconds: f64,
    /// Messages accepted per second.
    pub per_second: f64,
    /// Median time from the final dot to its reply, in milliseconds.
    pub p50_millis: f64,
    /// 99th percentile of the same.
    pub p99_millis: f64,
}

/// Carries out a plan and returns when all messages have been answered. Blocks; has threads of its
/// own, so from asynchronous code call it on a thread for blocking work.
///
/// # Errors
/// The plan is at fault, the target cannot be reached, breaks the protocol, or answers too late.
pub fn run(plan: LoadPlan) -> anyhow::Result<LoadResult> {
    plan.check()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if plan.threads == 0 { cores.min(4) } else { plan.threads }.min(plan.connections);
    let shared = Arc::new(Shared { plan, next: AtomicU64::new(0) });
    let begun = Instant::now();
    let mut total = Share::default();
    let shares: Vec<anyhow::Result<Share>> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|thread| {
                let shared = Arc::clone(&shared);
                // Named, so that whoever reads processor time can tell it from what it measures.
                std::thread::Builder::new()
                    .name(format!("load-{thread}"))
                    .spawn_scoped(scope, move || run_thread(shared, thread, threads))
            })
            .collect();
        let panicked = || Err(anyhow::anyhow!("a thread of the load source has panicked"));
        running.into_iter().map(|thread| thread?.join().unwrap_or_else(|_| panicked())).collect()
    });
    let seconds = begun.elapsed().as_secs_f64();
    for share in shares {
        total.add(share?);
    }
    total.micros.sort_unstable();
    let percentile = |share: f64| {
        let last = total.micros.len().saturating_sub(1);
        let at = (last as f64 * share).round() as usize;
        total.micros.get(at).map_or(0.0, |micros| f64::from(*micros) / 1_000.0)
    };
    Ok(LoadResult {
        messages: total.accepted,
        refused: total.refused,
        connections: total.connections,
        seconds,
        per_second: total.accepted as f64 / seconds.max(1e-9),
        p50_millis: percentile(0.50),
        p99_millis: percentile(0.99),
    })
}

struct Shared {
    plan: LoadPlan,
    next: AtomicU64,
}

#[derive(Default)]
struct Share {
    accepted: u64,
    refused: u64,
    connections: u64,
    micros: Vec<u32>,
}

impl Share {
    fn add(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.connections += other.connections;
        self.micros.extend(other.micros);
    }
}

fn run_thread(shared: Arc<Shared>, thread: usize, threads: usize) -> anyhow::Result<Share> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let tasks: Vec<_> = (thread..shared.plan.connections)
            .step_by(threads)
            .map(|_| tokio::spawn(run_client(Arc::clone(&shared))))
            .collect();
        let mut total = Share::default();
        for task in tasks {
            total.add(task.await.context("a client has panicked")??);
        }
        Ok(total)
    })
}

async fn run_client(shared: Arc<Shared>) -> anyhow::Result<Share> {
    let mut client = Client::new(&shared)?;
    let mut fruitless = 0;
    while client.present.is_some() {
        let before = client.share.accepted + client.share.refused;
        let outcome = client.converse().await;
        if client.share.accepted + client.share.refused > before {
            fruitless = 0;
        } else {
            fruitless += 1;
        }
        match outcome {
            Ok(()) => {}
            Err(fault) if fruitless >= MOST_FRUITLESS => return Err(fault),
            Err(fault) => tracing::debug!("load source connects again: {fault:#}"),
        }
    }
    Ok(client.share)
}

/// One client: a connection at a time, one message after the other.
struct Client<'a> {
    shared: &'a Shared,
    /// The message in hand; it stays in hand until it is answered.
    present: Option<u64>,
    text: Vec<u8>,
    slots: Vec<usize>,
    out: Vec<u8>,
    replies: Replies,
    share: Share,
}

impl<'a> Client<'a> {
    fn new(shared: &'a Shared) -> anyhow::Result<Self> {
        let text = message_text(&shared.plan);
        let slots: Vec<usize> = memchr::memmem::find_iter(&text, SLOT).collect();
        let mut client = Self {
            shared,
            present: None,
            out: Vec::with_capacity(text.len() + 512),
            text,
            slots,
            replies: Replies::default(),
            share: Share::default(),
        };
        client.present = client.draw();
        Ok(client)
    }

    fn draw(&self) -> Option<u64> {
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let plan = &self.shared.plan;
        (number < plan.messages).then_some(plan.first_number + number)
    }

    async fn converse(&mut self) -> anyhow::Result<()> {
        let plan = &self.shared.plan;
        let mut stream = connect(plan).await?;
        self.share.connections += 1;
        self.replies = Replies::default();
        self.expect(&mut stream, 220, "greeting").await?;
        self.out.clear();
        self.out.extend_from_slice(format!("EHLO {}\r\n", plan.helo).as_bytes());
        self.send(&mut stream).await?;
        let offers = self.expect(&mut stream, 250, "EHLO").await?;
        let offered = offers.split(|byte| *byte == b'\n').any(|line| {
            line.get(4..).is_some_and(|word| word.trim_ascii().eq_ignore_ascii_case(b"PIPELINING"))
        });
        let pipelining = if offered { plan.pipelining } else { Pipelining::Off };
        let sent = match pipelining {
            Pipelining::Off => self.one_by_one(&mut stream).await,
            Pipelining::WithinMessage => self.in_groups(&mut stream, false).await,
            Pipelining::AcrossMessages => self.in_groups(&mut stream, true).await,
        };
        sent?;
        self.out.clear();
        self.out.extend_from_slice(b"QUIT\r\n");
        self.send(&mut stream).await?;
        self.expect(&mut stream, 221, "QUIT").await?;
        Ok(())
    }

    async fn one_by_one(&mut self, stream: &mut TcpStream) -> anyhow::Result<()> {
        while let Some(number) = self.present {
            let mut refused = false;
            for line in self.envelope(number) {
                self.out.clear();
                self.out.extend_from_slice(&line);
                self.send(stream).await?;
                let code = self.reply(stream).await?;
                if !matches!(code, 250 | 354) {
                    refused = true;
                    break;
                }
            }
            if refused {
                self.refused();
                self.out.clear();
                self.out.extend_from_slice(b"RSET\r\n");
                self.send(stream).await?;
                self.expect(stream, 250, "RSET").await?;
                continue;
            }
            self.out.clear();
            self.put_text(number);
            self.send(stream).await?;
            let begun = Instant::now();
            let code = self.reply(stream).await?;
            self.answered(code, begun);
        }
        Ok(())
    }

    /// Sends in groups. `across`: a group begins with the text of the message before.
    async fn in_groups(&mut self, stream: &mut TcpStream, across: bool) -> anyhow::Result<()> {
        self.out.clear();
        let Some(first) = self.present else { return Ok(()) };
        self.put_envelope(first);
        self.send(stream).await?;
        while let Some(number) = self.present {
            let mut codes = [0u16; 3];
            for code in &mut codes {
                *code = self.reply(stream).await?;
            }
            self.out.clear();
            match codes {
                [250, 250, 354] => self.put_text(number),
                // Every recipient refused, and DATA taken none the less: RFC 2920 section 3.1.
                [_, _, 354] => self.out.extend_from_slice(b".\r\n"),
                [_, _, _] => {
                    self.refused();
                    self.out.extend_from_slice(b"RSET\r\n");
                    self.send(stream).await?;
                    self.expect(stream, 250, "RSET").await?;
                    self.out.clear();
                    if let Some(next) = self.present {
                        self.put_envelope(next);
                        self.send(stream).await?;
                    }
                    continue;
                }
            }
            let refused_before_data = codes[0] != 250 || codes[1] != 250;
            let next = self.draw();
            if let Some(next) = next
                && across
            {
                self.put_envelope(next);
            }
            let begun = Instant::now();
            self.send(stream).await?;
            let code = self.reply(stream).await?;
            self.note(if refused_before_data { 554 } else { code }, begun);
            self.present = next;
            if let Some(next) = next
                && !across
            {
                self.out.clear();
                self.put_envelope(next);
                self.send(stream).await?;
            }
        }
        Ok(())
    }

    fn note(&mut self, code: u16, begun: Instant) {
        if code == 250 {
            self.share.accepted += 1;
            let micros = begun.elapsed().as_micros();
            self.share.micros.push(u32::try_from(micros).unwrap_or(u32::MAX));
        } else {
            self.share.refused += 1;
        }
    }

    fn answered(&mut self, code: u16, begun: Instant) {
        self.note(code, begun);
        self.present = self.draw();
    }

    fn refused(&mut self) {
        self.share.refused += 1;
        self.present = self.draw();
    }

    fn envelope(&self, number: u64) -> [Vec<u8>; 3] {
        let plan = &self.shared.plan;
        let domains = &plan.recipient_domains;
        let domain = &domains[usize::try_from(number).unwrap_or(0) % domains.len()];
        [
            format!("MAIL FROM:<{}>\r\n", plan.sender).into_bytes(),
            format!("RCPT TO:<user{number}@{domain}>\r\n").into_bytes(),
            b"DATA\r\n".to_vec(),
        ]
    }

    fn put_envelope(&mut self, number: u64) {
        let plan = &self.shared.plan;
        let domains = &plan.recipient_domains;
        let domain = &domains[usize::try_from(number).unwrap_or(0) % domains.len()];
        self.out.extend_from_slice(b"MAIL FROM:<");
        self.out.extend_from_slice(plan.sender.as_bytes());
        self.out.extend_from_slice(b">\r\nRCPT TO:<user");
        let mut digits = [0u8; 20];
        self.out.extend_from_slice(decimal(number, &mut digits));
        self.out.push(b'@');
        self.out.extend_from_slice(domain.as_bytes());
        self.out.extend_from_slice(b">\r\nDATA\r\n");
    }

    /// Appends the text of a message and its final dot.
    fn put_text(&mut self, number: u64) {
        let from = self.out.len();
        self.out.extend_from_slice(&self.text);
        let mut digits = [b'0'; 20];
        let shown = decimal(number, &mut digits).len();
        for slot in &self.slots {
            let end = from + slot + SLOT.len();
            let width = shown.min(SLOT.len());
            self.out[end - width..end].copy_from_slice(&digits[20 - width..]);
        }
    }

    async fn send(&self, stream: &mut TcpStream) -> anyhow::Result<()> {
        timeout(self.shared.plan.timeout, stream.write_all(&self.out))
            .await
            .context("the server takes nothing more")??;
        Ok(())
    }

    async fn reply(&mut self, stream: &mut TcpStream) -> anyhow::Result<u16> {
        loop {
            if let Some((code, _)) = self.replies.next()? {
                if code == 421 {
                    bail!("the server closes the connection with 421");
                }
                return Ok(code);
            }
            self.replies.fill(stream, self.shared.plan.timeout).await?;
        }
    }

    async fn expect(
        &mut self,
        stream: &mut TcpStream,
        wanted: u16,
        stage: &str,
    ) -> anyhow::Result<Vec<u8>> {
        loop {
            if let Some((code, text)) = self.replies.next()? {
                if code != wanted {
                    bail!("{stage}: {}", String::from_utf8_lossy(text).trim_end());
                }
                return Ok(text.to_vec());
            }
            self.replies.fill(stream, self.shared.plan.timeout).await?;
        }
    }
}

async fn connect(plan: &LoadPlan) -> anyhow::Result<TcpStream> {
    let socket = if plan.target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = plan.source {
        socket
            .bind(SocketAddr::new(source, 0))
            .with_context(|| format!("cannot send from {source}"))?;
    }
    let stream = timeout(plan.timeout, socket.connect(plan.target))
        .await
        .with_context(|| format!("{} does not answer", plan.target))?
        .with_context(|| format!("cannot connect to {}", plan.target))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Replies as they come in.
struct Replies {
    octets: Vec<u8>,
    start: usize,
    end: usize,
}

impl Default for Replies {
    fn default() -> Self {
        Self { octets: vec![0; 4_096], start: 0, end: 0 }
    }
}

impl Replies {
    /// The next whole reply, with its code.
    fn next(&mut self) -> anyhow::Result<Option<(u16, &[u8])>> {
        let mut at = self.start;
        while let Some(length) = memchr::memchr(b'\n', &self.octets[at..self.end]) {
            let line = &self.octets[at..at + length];
            at += length + 1;
            ensure!(line.len() >= 3, "the server sent no SMTP reply");
            if line.get(3) != Some(&b'-') {
                let code = std::str::from_utf8(&line[..3]).ok().and_then(|code| code.parse().ok());
                let code = code.context("the server sent no SMTP reply")?;
                let text = &self.octets[self.start..at];
                self.start = at;
                return Ok(Some((code, text)));
            }
        }
        Ok(None)
    }

    async fn fill(&mut self, stream: &mut TcpStream, longest: Duration) -> anyhow::Result<()> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.octets.len() {
            self.octets.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            if self.end == self.octets.len() {
                ensure!(self.octets.len() < LONGEST_REPLY, "the server's reply has no end");
                self.octets.resize(self.octets.len() * 2, 0);
            }
        }
        let count = timeout(longest, stream.read(&mut self.octets[self.end..]))
            .await
            .context("the server does not answer")??;
        ensure!(count > 0, "the server closed the connection");
        self.end += count;
        Ok(())
    }
}

/// The digits of a number, at the end of `digits`.
fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    &digits[at..]
}

/// A message of the planned size with slots for its number, its final dot included.
fn message_text(plan: &LoadPlan) -> Vec<u8> {
    let slot = std::str::from_utf8(SLOT).unwrap_or("0");
    let mut text = format!(
        "From: Load <{sender}>\r\nTo: Reader {slot} <reader@load.example>\r\n\
         Subject: Message {slot}\r\nDate: Sat, 21 Nov 2026 08:00:00 +0000\r\n\
         Message-ID: <load-{slot}@{helo}>\r\nMIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=us-ascii\r\n\r\n",
        sender = plan.sender,
        helo = plan.helo,
    );
    let line = "The quick brown fox jumps over the lazy dog and comes back again.\r\n";
    while text.len() + line.len() <= plan.size_bytes {
        text.push_str(line);
    }
    let left = plan.size_bytes.saturating_sub(text.len());
    if left > 2 {
        text.push_str(&"x".repeat(left - 2));
        text.push_str("\r\n");
    }
    text.push_str(".\r\n");
    text.into_bytes()
}
