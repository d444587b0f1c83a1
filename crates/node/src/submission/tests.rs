//! A listener at work on a real socket with a real node behind it, and a client for it.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mail::id::MessageId;
use store::MessageRecord;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::config::{Config, TlsFiles};
use crate::listener::neighbourhood;
use crate::node::Node;

mod access;
mod hostile;
mod limits;
mod messages;

/// A user of the affinity `second` with low priority.
const USER: &str = "users = [{ name = \"shop\", password = { value = \"hunter2\" }, \
                    affinity = \"second\", priority = \"low\" }]\n";
/// AUTH PLAIN of that user.
const LOGIN: &str = "AUTH PLAIN AHNob3AAaHVudGVyMg==";

fn config(folder: &Path, submission: &str) -> Config {
    let text = format!(
        r#"
data_dir = "data"
[[source]]
public_id = 1
address = "127.0.0.21"
helo = "m1.sender.example"
[[affinity]]
name = "default"
sources = "1"
[[affinity]]
name = "second"
sources = "1"
[dns]
servers = ["127.0.0.1:9"]
[safety]
only_targets = ["127.0.0.0/8"]
[http]
listen = []
[submission]
listen = ["127.0.0.1:0"]
hostname = "submit.example"
max_message_bytes = 100_000
{submission}
"#
    );
    Config::parse(&text, "test.toml", folder).unwrap_or_else(|fault| panic!("{fault}"))
}

fn bounds() -> SubmissionBounds {
    SubmissionBounds {
        login_delay: Duration::ZERO,
        shutdown_patience: Duration::from_millis(500),
        ..SubmissionBounds::default()
    }
}

/// A listener at work, with its node.
struct Site {
    folder: tempfile::TempDir,
    node: Node,
    intake: Intake,
    address: SocketAddr,
    counts: Arc<SubmissionCounts>,
    shutdown: CancellationToken,
    running: JoinHandle<()>,
}

impl Site {
    fn start(submission: &str) -> Self {
        Self::with(submission, bounds(), None)
    }

    fn with(submission: &str, bounds: SubmissionBounds, pressure: Option<Pressure>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), submission);
        let mut listener = Submission::bind(&config.submission, bounds).unwrap();
        if let Some(pressure) = pressure {
            listener = listener.with_pressure(pressure);
        }
        let node = Node::start(config).unwrap();
        let intake = node.intake();
        let (address, counts) = (listener.addresses()[0], listener.counts());
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(listener.run(intake.clone(), shutdown.clone()));
        Self { folder, node, intake, address, counts, shutdown, running }
    }

    async fn connect(&self) -> Client<TcpStream> {
        let mut client = Client::new(TcpStream::connect(self.address).await.unwrap());
        assert_eq!(client.reply().await, "220 submit.example ESMTP Mailweir");
        client
    }

    /// A client that has said EHLO.
    async fn greeted(&self) -> Client<TcpStream> {
        let mut client = self.connect().await;
        assert!(client.say("EHLO client.example").await.starts_with("250-submit.example"));
        client
    }

    /// What was queued.
    async fn queued(&self) -> Vec<MessageRecord> {
        self.intake.read(|reads| reads.messages(MessageId(0), 100)).await.unwrap()
    }

    async fn content(&self, message: &MessageRecord) -> String {
        let content = message.content;
        let stored = self.intake.read(move |reads| reads.content(content)).await.unwrap().unwrap();
        String::from_utf8(stored.body.to_vec()).unwrap()
    }

    async fn stop(self) {
        self.shutdown.cancel();
        timeout(Duration::from_secs(5), self.running).await.unwrap().unwrap();
        assert_eq!(self.counts.connections_open.load(Ordering::Relaxed), 0);
        self.node.shutdown().await;
        drop(self.folder);
    }
}

/// A client that waits at most some seconds for anything.
struct Client<S> {
    stream: S,
    octets: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    fn new(stream: S) -> Self {
        Self { stream, octets: Vec::new() }
    }

    async fn send(&mut self, text: impl AsRef<[u8]>) {
        self.stream.write_all(text.as_ref()).await.unwrap();
    }

    /// Reads more; `false` at the end.
    async fn more(&mut self) -> bool {
        let mut buffer = [0; 4_096];
        let read = timeout(Duration::from_secs(5), self.stream.read(&mut buffer)).await;
        let count = read.expect("an answer in time").unwrap_or(0);
        self.octets.extend_from_slice(&buffer[..count]);
        count > 0
    }

    /// The next reply, its lines joined by LF; `closed` at the end.
    async fn reply(&mut self) -> String {
        let mut lines = Vec::new();
        loop {
            while let Some(end) = self.octets.iter().position(|octet| *octet == b'\n') {
                let line: Vec<u8> = self.octets.drain(..=end).collect();
                let line = String::from_utf8(line).unwrap();
                let line = line.strip_suffix("\r\n").expect("CR LF").to_owned();
                let last = line.as_bytes().get(3) != Some(&b'-');
                lines.push(line);
                if last {
                    return lines.join("\n");
                }
            }
            if !self.more().await {
                return "closed".into();
            }
        }
    }

    async fn say(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n")).await;
        self.reply().await
    }

    /// Everything until the other side closes.
    async fn rest(&mut self) -> String {
        while self.more().await {}
        String::from_utf8(core::mem::take(&mut self.octets)).unwrap()
    }

    /// Sends a message and answers with the reply to its dot.
    async fn deliver(&mut self, header: &str) -> String {
        assert_eq!(self.say("MAIL FROM:<a@shop.example>").await, "250 2.1.0 sender ok");
        assert_eq!(self.say("RCPT TO:<b@one.example>").await, "250 2.1.5 recipient ok");
        assert_eq!(&self.say("DATA").await[..3], "354");
        self.say(&format!("{header}Subject: hello\r\n\r\ntext\r\n.")).await
    }
}
