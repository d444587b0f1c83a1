//! Mail that comes in, by all ways, from servers that fail in all ways.

mod dovecot;
mod imap;
mod listening;
mod pop3;
mod processing;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use mailweir_node::config::MailboxConfig;
use mailweir_node::inmail::{
    Arrived, Inmail, InmailBounds, InmailCounts, Mailboxes, Outcome, PollingBounds,
    ProcessingBounds,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;

/// What was processed, in order.
type Got = Arc<Mutex<Vec<Arrived>>>;

/// A folder with a configuration, in which a node may run several times.
struct Home {
    folder: TempDir,
    more: String,
    tweak: fn(&mut Config),
    got: Got,
}

/// A node that takes mail.
struct Running {
    node: Node,
    counts: Arc<InmailCounts>,
    mailboxes: Mailboxes,
    smtp: Vec<std::net::SocketAddr>,
    lmtp: Vec<std::net::SocketAddr>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

/// A mailbox that is polled often.
fn mailbox(name: &str, protocol: &str, encryption: &str, port: u16) -> String {
    format!(
        "[[mailbox]]\nname = \"{name}\"\nprotocol = \"{protocol}\"\nencryption = \"{encryption}\"\n\
         server = \"127.0.0.1\"\nport = {port}\nuser = \"{name}\"\n\
         password = {{ value = \"se cret\" }}\ntimeout = \"2s\"\n"
    )
}

/// Polls all the time.
fn often(mailbox: &mut MailboxConfig) {
    mailbox.period = Duration::from_millis(30);
}

/// Reads mail as its words say: `aside`, `panic`, `slow`, `later` (twice); all else is done.
async fn process(got: Got, tries: Arc<AtomicU64>, mail: Arrived) -> Outcome {
    let text = String::from_utf8_lossy(&mail.octets).into_owned();
    if text.contains("panic") {
        panic!("as asked");
    }
    if text.contains("slow") {
        tokio::time::sleep(PATIENCE).await;
    }
    if text.contains("later") && tries.fetch_add(1, Ordering::Relaxed) < 2 {
        return Outcome::TryLater("the store is sick".into());
    }
    got.lock().unwrap().push(mail);
    if text.contains("aside") {
        Outcome::KeepAside("no kind of\r\nmail".into())
    } else {
        Outcome::Done
    }
}

impl Home {
    fn new(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, more: more.into(), tweak: |_| {}, got: Got::default() }
    }

    fn tweak(mut self, tweak: fn(&mut Config)) -> Self {
        self.tweak = tweak;
        self
    }

    fn start(&self) -> Running {
        let text = format!(
            r#"
data_dir = "data"
[[source]]
public_id = 1
address = "127.10.90.1"
helo = "m1.sender.example"
[dns]
servers = ["127.0.0.1:9"]
[safety]
only_targets = ["127.0.0.0/8"]
[return_path]
domain = "bounce.example"
keys = [{{ value = "0123456789abcdef" }}]
[sender]
unsubscribe_mailto = "leave@unsubscribe.example"
[submission]
listen = []
[http]
listen = []
{}
"#,
            self.more
        );
        let mut config = parse(&text, self.folder.path());
        config.inmail.mailboxes.iter_mut().for_each(often);
        config.inmail.spool_period = Duration::from_millis(30);
        (self.tweak)(&mut config);
        let bounds = InmailBounds {
            polling: PollingBounds {
                more: Duration::from_millis(1),
                first_fault: Duration::from_millis(5),
                longest_fault: Duration::from_millis(50),
                longest_login: Duration::from_millis(50),
                ..PollingBounds::default()
            },
            processing: ProcessingBounds {
                process_timeout: Duration::from_millis(300),
                first_rest: Duration::from_millis(5),
                longest_rest: Duration::from_millis(50),
                shutdown_patience: Duration::from_millis(200),
            },
            listener: None,
        };
        let bound = Inmail::bind(&config, bounds).unwrap();
        let node = Node::start(config).unwrap_or_else(|fault| panic!("{fault}"));
        let inmail = bound.open(&node.intake()).unwrap();
        let (smtp, lmtp) = (inmail.smtp_addresses(), inmail.lmtp_addresses());
        let (counts, mailboxes) = (inmail.counts(), inmail.mailboxes());
        let shutdown = CancellationToken::new();
        let (got, tries) = (Arc::clone(&self.got), Arc::default());
        let processor = move |mail| process(Arc::clone(&got), Arc::clone(&tries), mail);
        let task = tokio::spawn(inmail.run(processor, shutdown.clone()));
        Running { node, counts, mailboxes, smtp, lmtp, shutdown, task }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("data/inmail").join(name)
    }

    /// Names of the files in a folder of incoming mail.
    fn files(&self, name: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(name)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The texts that were processed, sorted.
    fn texts(&self) -> Vec<String> {
        let got = self.got.lock().unwrap();
        let mut texts: Vec<String> =
            got.iter().map(|mail| String::from_utf8_lossy(&mail.octets).into_owned()).collect();
        texts.sort();
        texts
    }

    async fn processed(&self, count: usize) {
        eventually(&format!("{count} mails"), async || {
            (self.got.lock().unwrap().len() >= count).then_some(())
        })
        .await;
    }
}

impl Running {
    fn mailbox(&self, place: usize) -> &mailweir_node::inmail::MailboxCounts {
        &self.counts.mailboxes[place]
    }

    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap();
        self.node.shutdown().await;
    }

    /// Ends as a killed process does: nothing is finished.
    async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
        drop(self.mailboxes);
        // What a thread had in hand would be gone too.
        eventually("the end of all threads", async || {
            (Arc::strong_count(&self.counts) == 1).then_some(())
        })
        .await;
        self.node.shutdown().await;
    }
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
