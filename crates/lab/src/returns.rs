//! What comes back after a message was taken: late bounces, complaints and out-of-office replies.
//!
//! A provider that has said 250 may find out later that it cannot deliver, its user may press the
//! spam button, or be away. [`Returns`] makes such mail for the shares that the [`Mood`](crate::Mood) states and
//! carries it over SMTP to one address on this machine, where the sender's listener for its return
//! path stands. Which address meets which is a hash of the address and the lab's seed.
//!
//! Bounces come in three dialects, as they do in life: the report of RFC 3464, the prose of Exim and
//! the prose of qmail. Complaints are RFC 5965 reports, for some providers with the recipient taken
//! out. Replies follow RFC 3834.
//!
//! Nothing is sent outside 127.0.0.0/8; nothing is sent for the null sender. At most
//! [`MOST_WAITING`] returns wait; more are counted and dropped. Each is tried [`TRIES`] times. Every
//! wait is bounded.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::recorder::lock;
use crate::report::ReturnReport;
use crate::span::Span;
use crate::wording::{Situation, Wording};

/// Returns waiting at a time.
const MOST_WAITING: usize = 100_000;
/// Times that one return is tried.
const TRIES: u32 = 5;
/// Pause after a failed connection.
const PAUSE: Duration = Duration::from_millis(500);
/// Longest wait for a reply.
const PATIENCE: Duration = Duration::from_secs(30);
/// Returns over one connection.
const PER_CONNECTION: u32 = 100;
/// Octets of the header that are sent back.
const LARGEST_RETURNED: usize = 16 * 1024;
const LONGEST_REPLY: u64 = 64 * 1024;

/// Where returns go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReturnsConfig {
    /// The SMTP listener that takes mail for the return path; within 127.0.0.0/8.
    pub to: SocketAddr,
    /// How long after the message its return is sent.
    #[serde(default = "ReturnsConfig::usual_delay")]
    pub after: Span,
    /// To whom complaints are sent. Absent: `complaints@` the domain of the return path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complaints_to: Option<String>,
}

impl ReturnsConfig {
    const fn usual_delay() -> Span {
        Span::from_millis(300)
    }

    /// Whether this may be used.
    ///
    /// # Errors
    /// The address is not on this machine, or the recipient of complaints is no address.
    pub fn check(&self) -> anyhow::Result<()> {
        if !self.to.ip().is_loopback() {
            bail!("returns.to = \"{}\" is not on this machine", self.to);
        }
        if let Some(to) = &self.complaints_to {
            let clean = to.bytes().all(|byte| (b'!'..=b'~').contains(&byte) && byte != b'>');
            if !clean || !to.contains('@') || to.len() > 254 {
                bail!("returns.complaints_to = {to:?} is no address");
            }
        }
        Ok(())
    }
}

/// What comes back for one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Return {
    /// A late bounce that says this.
    Bounce(Situation),
    /// The recipient complains.
    Complaint,
    /// The recipient is away.
    OutOfOffice,
}

/// A return on its way.
struct Waiting {
    due: Instant,
    tries: u32,
    kind: Return,
    to: String,
    text: String,
}

/// The returns of a lab.
pub(crate) struct Returns {
    config: ReturnsConfig,
    waiting: Mutex<VecDeque<Waiting>>,
    news: Notify,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    /// All that were put on their way.
    begun: AtomicU64,
    bounces: Mutex<BTreeMap<Situation, u64>>,
    complaints: AtomicU64,
    out_of_office: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

/// The message that is answered.
pub(crate) struct Taken<'a> {
    /// The return path.
    pub sender: &'a [u8],
    /// For whom it was.
    pub recipient: &'a [u8],
    /// Its header, as far as it was kept.
    pub header: &'a [u8],
    /// The host that took it.
    pub host: &'a str,
    /// How its provider speaks.
    pub wording: Wording,
    /// The number that the host gave it.
    pub number: u64,
}

impl Returns {
    /// Nothing waits yet.
    pub(crate) fn new(config: ReturnsConfig) -> Self {
        Self { config, waiting: Mutex::default(), news: Notify::new(), counts: Counts::default() }
    }

    /// Puts a return on its way. The null sender and senders that cannot stand in a command get none.
    pub(crate) fn send_back(&self, kind: Return, taken: &Taken<'_>) {
        let Some(sender) = plain(taken.sender).filter(|sender| sender.contains('@')) else {
            return;
        };
        let Some(recipient) = plain(taken.recipient) else { return };
        let header = String::from_utf8_lossy(returned_header(taken.header)).into_owned();
        let letter = Letter { sender, recipient, header: &header, taken };
        let (to, text) = match kind {
            Return::Bounce(situation) => (sender.to_owned(), letter.bounce(situation)),
            Return::OutOfOffice => (sender.to_owned(), letter.out_of_office()),
            Return::Complaint => {
                let domain = sender.rsplit('@').next().unwrap_or("");
                let usual = || format!("complaints@{domain}");
                let to = self.config.complaints_to.clone().unwrap_or_else(usual);
                let text = letter.complaint(&to);
                (to, text)
            }
        };
        let mut waiting = lock(&self.waiting);
        if waiting.len() >= MOST_WAITING {
            self.counts.dropped.fetch_add(1, Ordering::Release);
            return;
        }
        self.counts.begun.fetch_add(1, Ordering::Release);
        let due = Instant::now() + self.config.after.0;
        waiting.push_back(Waiting { due, tries: 0, kind, to, text });
        drop(waiting);
        self.news.notify_one();
    }

    /// What was sent back so far.
    pub(crate) fn report(&self) -> ReturnReport {
        let count = |counter: &AtomicU64| counter.load(Ordering::Acquire);
        let bounces_by_cause = lock(&self.counts.bounces).clone();
        let mut report = ReturnReport {
            bounces: bounces_by_cause.values().sum(),
            bounces_by_cause,
            complaints: count(&self.counts.complaints),
            out_of_office: count(&self.counts.out_of_office),
            refused: count(&self.counts.refused),
            failed: count(&self.counts.failed),
            dropped: count(&self.counts.dropped),
            waiting: 0,
        };
        // Read last, so that one that ends meanwhile is told as waiting and none is left out.
        let ended = report.taken() + report.refused + report.failed;
        report.waiting = count(&self.counts.begun).saturating_sub(ended);
        report
    }

    /// Carries the returns; runs until it is dropped.
    pub(crate) async fn carry(self: Arc<Self>) {
        loop {
            let due = lock(&self.waiting).front().map(|first| first.due);
            match due {
                None => self.news.notified().await,
                Some(due) if due > Instant::now() => tokio::time::sleep_until(due.into()).await,
                Some(_) => {
                    if let Err(fault) = self.carry_some().await {
                        tracing::debug!("a return could not be delivered: {fault:#}");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }
    }

    /// Delivers what is due over one connection.
    async fn carry_some(&self) -> anyhow::Result<()> {
        let Some(mut first) = self.take_due() else { return Ok(()) };
        first.tries += 1;
        let mut client = match Client::connect(self.config.to).await {
            Ok(client) => client,
            Err(fault) => {
                self.put_back(first);
                return Err(fault);
            }
        };
        let mut present = first;
        for round in 1..=PER_CONNECTION {
            match client.deliver(&present.to, &present.text).await {
                Ok(true) => self.counts.delivered(present.kind),
                Ok(false) => {
                    self.counts.refused.fetch_add(1, Ordering::Release);
                }
                Err(fault) => {
                    self.put_back(present);
                    return Err(fault);
                }
            }
            if round == PER_CONNECTION {
                // What is taken now would go with this connection.
                break;
            }
            let Some(mut next) = self.take_due() else { break };
            next.tries += 1;
            present = next;
        }
        client.quit().await
    }

    fn take_due(&self) -> Option<Waiting> {
        let mut waiting = lock(&self.waiting);
        waiting
            .front()
            .is_some_and(|first| first.due <= Instant::now())
            .then(|| waiting.pop_front())?
    }

    fn put_back(&self, mut again: Waiting) {
        if again.tries >= TRIES {
            self.counts.failed.fetch_add(1, Ordering::Release);
            return;
        }
        again.due = Instant::now() + PAUSE;
        lock(&self.waiting).push_back(again);
    }
}

impl Counts {
    fn delivered(&self, kind: Return) {
        let counter = match kind {
            Return::Bounce(cause) => {
                *lock(&self.bounces).entry(cause).or_default() += 1;
                return;
            }
            Return::Complaint => &self.complaints,
            Return::OutOfOffice => &self.out_of_office,
        };
        counter.fetch_add(1, Ordering::Release);
    }
}

/// An address that may stand in a command and in a header.
fn plain(address: &[u8]) -> Option<&str> {
    let clean = address.iter().all(|byte| (b'!'..=b'~').contains(byte) && !b"<>".contains(byte));
    let short = (3..=320).contains(&address.len());
    (clean && short).then(|| std::str::from_utf8(address).ok()).flatten()
}

/// The header fields of what was kept, without the body, in whole lines.
fn returned_header(kept: &[u8]) -> &[u8] {
    let end = memchr::memmem::find(kept, b"\r\n\r\n").map_or(kept.len(), |at| at + 2);
    let kept = &kept[..end.min(LARGEST_RETURNED)];
    memchr::memrchr(b'\n', kept).map_or(&[], |at| &kept[..=at])
}

/// What is needed to write one.
struct Letter<'a> {
    sender: &'a str,
    recipient: &'a str,
    header: &'a str,
    taken: &'a Taken<'a>,
}

impl Letter<'_> {
    fn bounce(&self, situation: Situation) -> String {
        match self.taken.wording {
            Wording::Yahoo | Wording::Tencent | Wording::Netease => self.qmail_bounce(situation),
            Wording::Gmx | Wording::MailRu | Wording::LaPoste => self.exim_bounce(situation),
            _ => self.report_bounce(situation),
        }
    }

    /// The words of the provider, as lines.
    fn words(&self, situation: Situation) -> Vec<String> {
        let text = self.taken.wording.text(situation);
        text.split('\n')
            .map(|line| {
                line.replace("{recipient}", self.recipient).replace("{source}", "192.0.2.25")
            })
            .collect()
    }

    fn head(&self, from: &str, to: &str, subject: &str) -> String {
        format!(
            "From: {from}\r\nTo: <{to}>\r\nSubject: {subject}\r\nMessage-ID: <{:x}.back@{}>\r\nMIME-Version: 1.0\r\n",
            self.taken.number, self.taken.host
        )
    }

    /// A report of RFC 3464.
    fn report_bounce(&self, situation: Situation) -> String {
        let host = self.taken.host;
        let words = self.words(situation);
        let status = words
            .iter()
            .filter_map(|line| line.split(' ').nth(1))
            .find(|word| word.split('.').count() == 3 && word.starts_with(['4', '5']))
            .map_or("5.0.0".to_owned(), |word| word.replacen('4', "5", 1));
        let mut text = self.head(
            &format!("Mail Delivery Subsystem <mailer-daemon@{host}>"),
            self.sender,
            "Delivery Status Notification (Failure)",
        );
        let boundary = format!("=_{:x}_dsn", self.taken.number);
        let _ = write!(
            text,
            "Auto-Submitted: auto-replied\r\nContent-Type: multipart/report; report-type=delivery-status;\r\n\
             \tboundary=\"{boundary}\"\r\n\r\n--{boundary}\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n\
             Your message could not be delivered to {recipient}.\r\n\r\n--{boundary}\r\n\
             Content-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; {host}\r\n\r\n\
             Final-Recipient: rfc822; {recipient}\r\nAction: failed\r\nStatus: {status}\r\n\
             Diagnostic-Code: smtp; {words}\r\n\r\n--{boundary}\r\n\
             Content-Type: text/rfc822-headers\r\n\r\n{header}\r\n--{boundary}--\r\n",
            recipient = self.recipient,
            words = words.join("\r\n    "),
            header = self.header,
        );
        text
    }

    /// Prose, as Exim writes it.
    fn exim_bounce(&self, situation: Situation) -> String {
        let host = self.taken.host;
        let mut text = self.head(
            &format!("Mail Delivery System <Mailer-Daemon@{host}>"),
            self.sender,
            "Mail delivery failed: returning message to sender",
        );
        let _ = write!(
            text,
            "X-Failed-Recipients: {recipient}\r\nAuto-Submitted: auto-replied\r\n\
             Content-Type: text/plain; charset=us-ascii\r\n\r\n\
             This message was created automatically by mail delivery software.\r\n\r\n\
             A message that you sent could not be delivered to one or more of its\r\n\
             recipients. This is a permanent error. The following address(es) failed:\r\n\r\n  \
             {recipient}\r\n    SMTP error from remote mail server after end of data:\r\n    {words}\r\n\r\n\
             ------ This is a copy of the message, including all the headers. ------\r\n\r\n{header}\r\n",
            recipient = self.recipient,
            words = self.words(situation).join("\r\n    "),
            header = self.header,
        );
        text
    }

    /// Prose, as qmail writes it.
    fn qmail_bounce(&self, situation: Situation) -> String {
        let host = self.taken.host;
        let mut text = self.head(&format!("MAILER-DAEMON@{host}"), self.sender, "failure notice");
        let _ = write!(
            text,
            "\r\nHi. This is the qmail-send program at {host}.\r\n\
             I'm afraid I wasn't able to deliver your message to the following addresses.\r\n\
             This is a permanent error; I've given up. Sorry it didn't work out.\r\n\r\n\
             <{recipient}>:\r\n192.0.2.9 does not like recipient.\r\nRemote host said: {words}\r\n\
             Giving up on 192.0.2.9.\r\n\r\n--- Below this line is a copy of the message.\r\n\r\n\
             {header}\r\n",
            recipient = self.recipient,
            words = self.words(situation).join("\r\n"),
            header = self.header,
        );
        text
    }

    /// A complaint of RFC 5965; Yahoo and Comcast leave the recipient out.
    fn complaint(&self, to: &str) -> String {
        let host = self.taken.host;
        let redacted = matches!(self.taken.wording, Wording::Yahoo | Wording::Comcast);
        let mut text = self.head(&format!("feedback@{host}"), to, "complaint about message");
        let boundary = format!("=_{:x}_arf", self.taken.number);
        let recipient = if redacted {
            String::new()
        } else {
            format!("Original-Rcpt-To: <{}>\r\n", self.recipient)
        };
        let header = if redacted {
            self.header.replace(self.recipient, "redacted")
        } else {
            self.header.to_owned()
        };
        let _ = write!(
            text,
            "Content-Type: multipart/report; report-type=feedback-report;\r\n\
             \tboundary=\"{boundary}\"\r\n\r\n--{boundary}\r\nContent-Type: text/plain\r\n\r\n\
             This is an email abuse report for a message that came from your network.\r\n\r\n\
             --{boundary}\r\nContent-Type: message/feedback-report\r\n\r\nFeedback-Type: abuse\r\n\
             User-Agent: Lab-Feedback/1.0\r\nVersion: 1\r\n{recipient}\r\n--{boundary}\r\n\
             Content-Type: message/rfc822\r\n\r\n{header}\r\n--{boundary}--\r\n"
        );
        text
    }

    /// A reply of RFC 3834.
    fn out_of_office(&self) -> String {
        let mut text = self.head(
            &format!("<{}>", self.recipient),
            self.sender,
            "Automatic reply: out of office",
        );
        text.push_str(
            "Auto-Submitted: auto-replied\r\nPrecedence: bulk\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n\
             I am out of the office until Monday and will answer when I am back.\r\n",
        );
        text
    }
}

/// One connection to the listener.
struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    async fn connect(to: SocketAddr) -> anyhow::Result<Self> {
        let stream = timeout(PATIENCE, TcpStream::connect(to)).await??;
        let mut client = Self { stream: BufReader::new(stream) };
        client.expect(220, "greeting").await?;
        client.say("EHLO returns.lab.example\r\n").await?;
        client.expect(250, "EHLO").await?;
        Ok(client)
    }

    /// Delivers one; false: refused for good.
    async fn deliver(&mut self, to: &str, text: &str) -> anyhow::Result<bool> {
        for (command, wanted) in
            [("MAIL FROM:<>\r\n", 250), (&*format!("RCPT TO:<{to}>\r\n"), 250), ("DATA\r\n", 354)]
        {
            self.say(command).await?;
            let code = self.reply().await?;
            if (500..600).contains(&code) {
                self.say("RSET\r\n").await?;
                self.expect(250, "RSET").await?;
                return Ok(false);
            }
            if code != wanted {
                bail!("{} was answered with {code}", command.trim_end());
            }
        }
        let mut data = String::with_capacity(text.len() + 8);
        for line in text.split_inclusive("\r\n") {
            if line.starts_with('.') {
                data.push('.');
            }
            data.push_str(line);
        }
        data.push_str(".\r\n");
        self.say(&data).await?;
        match self.reply().await? {
            250 => Ok(true),
            500..600 => Ok(false),
            code => bail!("the message was answered with {code}"),
        }
    }

    async fn quit(mut self) -> anyhow::Result<()> {
        self.say("QUIT\r\n").await?;
        self.expect(221, "QUIT").await
    }

    async fn say(&mut self, line: &str) -> anyhow::Result<()> {
        timeout(PATIENCE, self.stream.write_all(line.as_bytes())).await??;
        Ok(())
    }

    async fn expect(&mut self, wanted: u16, what: &str) -> anyhow::Result<()> {
        let code = self.reply().await?;
        if code != wanted {
            bail!("{what} was answered with {code}");
        }
        Ok(())
    }

    async fn reply(&mut self) -> anyhow::Result<u16> {
        let mut line = Vec::new();
        let mut room = LONGEST_REPLY;
        loop {
            line.clear();
            let mut limited = (&mut self.stream).take(room);
            let count = timeout(PATIENCE, limited.read_until(b'\n', &mut line)).await??;
            if count == 0 || line.last() != Some(&b'\n') {
                bail!("the listener closed in the middle of a reply");
            }
            room = room.saturating_sub(count as u64);
            if line.get(3) != Some(&b'-') {
                let code = line.get(..3).and_then(|code| std::str::from_utf8(code).ok());
                return code.and_then(|code| code.parse().ok()).context("a reply has no code");
            }
        }
    }
}

#[cfg(test)]
mod tests;
