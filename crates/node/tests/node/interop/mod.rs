//! Real mail servers as peers: mail to them and mail from them, random and compared octet by octet, and signatures as they find them.
//!
//! Each runs as an instance of its own, with its own configuration, queue and data in a folder of the test, on loopback alone. What is not installed
//! (`.ci/peers` installs it), or cannot be run by this user, is skipped with a notice.

mod exim;
mod feeder;
mod opensmtpd;
mod postfix;
mod random;
mod signatures;

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use mail::id::Priority;
use mailweir_node::dkim::DkimKeys;
use mailweir_node::intake::{NULL_SENDER, SingleMessage, StreamName};
use mailweir_node::submission::{Submission, SubmissionBounds};
use random::{ReturnPath, Sample, Taste, samples};
use tokio_util::sync::CancellationToken;

use super::sink::{Kept, Sink};
use super::*;

/// Where servers are unpacked whose packages exclude one another.
const PEERS: &str = "/opt/mailweir-peers";

/// Messages of each run.
const MESSAGES: usize = 1_000;

/// Who owns the mail: `nobody` on every Linux.
const NOBODY: u32 = 65_534;

/// Fields that either side adds, at the top. Date and Message-ID where they are missing.
const ADDED: [&str; 9] = [
    "received",
    "return-path",
    "delivered-to",
    "x-original-to",
    "envelope-to",
    "dkim-signature",
    "x-mailweir-id",
    "date",
    "message-id",
];

/// What our rule for a peer says.
const FIGURES: &str = r#"
scope = "path"
pacing = "burst"
max_connections = 4
max_messages_per_connection = 1000
messages_per_hour = 1000000
tls = "required"
"#;

/// Where a peer passes on what is not for `one.example`.
struct Next {
    address: SocketAddr,
    /// It is our submission listener: over STARTTLS, and as user `shop` with the password `secret` where the peer can log in.
    submission: bool,
}

/// A running mail server.
struct Peer {
    name: &'static str,
    process: Child,
    folder: TempDir,
    address: SocketAddr,
    /// The folder with one file for each mail.
    inbox: &'static str,
    logs: &'static [&'static str],
}

/// Whether a server can be started that changes its user; else the reason is printed.
fn is_root(name: &str) -> bool {
    let output = Command::new("id").arg("-u").output();
    let root = output.is_ok_and(|output| output.stdout.trim_ascii() == b"0");
    if !root {
        println!("skipped: {name} can be started by root only");
    }
    root
}

/// A program among [`PEERS`]; `None`, with the reason printed: it cannot be run here.
fn unpacked(name: &str, program: &str, user: &str) -> Option<PathBuf> {
    if !is_root(name) {
        return None;
    }
    let path = Path::new(PEERS).join(program);
    let known = Command::new("getent").args(["passwd", user]).output();
    if !path.is_file() || !known.is_ok_and(|output| output.status.success()) {
        println!("skipped: {name} is not in {PEERS}, or there is no user {user}");
        return None;
    }
    Some(path)
}

/// The number of a user (`passwd`) or of a group (`group`).
fn number_of(database: &str, name: &str) -> u32 {
    let output = Command::new("getent").args([database, name]).output().unwrap().stdout;
    let text = String::from_utf8(output).unwrap();
    text.trim().split(':').nth(2).unwrap().parse().unwrap()
}

/// A folder that every user can come through, with a certificate in `etc` and a folder `mail` of nobody.
fn folder_for(name: &str) -> TempDir {
    // Postfix writes no log to a folder whose name begins with a dot.
    let folder = TempDir::with_prefix(format!("mailweir-{name}-")).unwrap();
    for name in ["etc", "mail"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    chown(folder.path().join("mail"), Some(NOBODY), Some(NOBODY)).unwrap();
    certify(&folder.path().join("etc/cert.pem"), &folder.path().join("etc/key.pem"));
    folder
}

/// Writes a certificate that nobody has signed, and its key.
fn certify(certificate: &Path, key: &Path) {
    let certified = rcgen::generate_simple_self_signed(vec!["mx.one.example".into()]).unwrap();
    std::fs::write(certificate, certified.cert.pem()).unwrap();
    std::fs::write(key, certified.signing_key.serialize_pem()).unwrap();
    std::fs::set_permissions(key, Permissions::from_mode(0o600)).unwrap();
}

/// A port that nobody listens on.
fn free_port(address: [u8; 4]) -> SocketAddr {
    let listener = std::net::TcpListener::bind((IpAddr::from(address), 0)).unwrap();
    listener.local_addr().unwrap()
}

impl Peer {
    /// Starts its program, which must stay in the foreground and end with all that it started when it gets TERM.
    fn run(
        name: &'static str,
        mut command: Command,
        folder: TempDir,
        address: SocketAddr,
        inbox: &'static str,
        logs: &'static [&'static str],
    ) -> Self {
        let log = std::fs::File::create(folder.path().join("start.log")).unwrap();
        let process = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { name, process, folder, address, inbox, logs }
    }

    /// A file of its folder; empty where there is none.
    fn text(&self, name: &str) -> String {
        let octets = std::fs::read(self.folder.path().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&octets).into_owned()
    }

    /// All that it has logged.
    fn log(&self) -> String {
        self.logs.iter().map(|name| self.text(name)).collect()
    }

    /// The files of the inbox.
    fn mail(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder.path().join(self.inbox));
        entries.map_or_else(
            |_| Vec::new(),
            |entries| entries.map(|entry| entry.unwrap().path()).collect(),
        )
    }

    async fn answers(&self) {
        eventually(self.name, async || {
            let mut stream = tokio::net::TcpStream::connect(self.address).await.ok()?;
            let mut octets = [0; 3];
            tokio::io::AsyncReadExt::read_exact(&mut stream, &mut octets).await.ok()?;
            (octets == *b"220").then_some(())
        })
        .await;
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let number = self.process.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &number]).status();
        if !asked.is_ok_and(|status| status.success()) {
            eprintln!("{} {number} could not be asked to end", self.name);
        }
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = self.log();
            let end = log.lines().rev().take(60).collect::<Vec<_>>();
            eprintln!("{}", self.text("start.log"));
            end.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// The fields of a header, each with its continuations and line ends.
fn fields(head: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    let mut begin = 0;
    for end in memchr::memchr_iter(b'\n', head).map(|at| at + 1) {
        if !matches!(head.get(end), Some(b' ' | b'\t')) {
            found.push(&head[begin..end]);
            begin = end;
        }
    }
    found
}

fn name_of(field: &[u8]) -> String {
    let name = field.split(|octet| *octet == b':').next().unwrap_or_default();
    String::from_utf8_lossy(name).to_ascii_lowercase()
}

/// A message as it arrived, with CRLF line ends.
struct Arrived {
    recipient: String,
    sender: String,
    content: Vec<u8>,
}

impl Arrived {
    /// Reads a file of an inbox: lines end with LF there, and the envelope stands in fields at the top.
    fn stored(path: &Path) -> Self {
        let text = std::fs::read(path).unwrap();
        assert!(memchr::memchr(b'\r', &text).is_none(), "{} has a CR", path.display());
        let mut content = Vec::with_capacity(text.len() + text.len() / 32);
        for line in text.split_inclusive(|octet| *octet == b'\n') {
            content.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
            content.extend_from_slice(b"\r\n");
        }
        let head = memchr::memmem::find(&content, b"\r\n\r\n").unwrap() + 2;
        let value = |names: &[&str]| {
            let mut all = fields(&content[..head]).into_iter();
            let found = all.find(|field| names.contains(&name_of(field).as_str()));
            let field = found.map(|field| String::from_utf8_lossy(field).into_owned());
            let field = field.unwrap_or_default();
            field.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        // None is written for the null sender by some.
        let sender = value(&["return-path"]);
        let recipient = value(&["delivered-to", "envelope-to"]);
        Self { recipient: normal(&recipient), sender: normal(&sender), content }
    }

    fn kept(kept: Kept) -> Self {
        Self {
            recipient: normal(&kept.recipient),
            sender: normal(&kept.sender),
            content: kept.content,
        }
    }
}

/// The normal form of an address in a command or field, with brackets and parameters or without.
fn normal(text: &str) -> String {
    let address = match text.strip_prefix('<') {
        Some(rest) => rest.split("> ").next().unwrap_or_default(),
        None => text,
    };
    let address = match text.starts_with('<') {
        true => address.strip_suffix('>').unwrap_or(address),
        false => address,
    };
    match Mailbox::parse(address) {
        Ok(mailbox) => mailbox.as_str().to_owned(),
        Err(_) if address.is_empty() => String::new(),
        Err(fault) => panic!("{text}: {fault}"),
    }
}

/// Fails unless every recipient of every sample has got one message, with its return path, and its content behind nothing but fields that are
/// known to be added.
fn judge<'a>(samples: &[Sample], arrived: impl Iterator<Item = &'a Arrived>) {
    let mut expected: BTreeMap<&str, &Sample> = BTreeMap::new();
    for sample in samples {
        for recipient in &sample.recipients {
            assert!(expected.insert(recipient, sample).is_none(), "{recipient} is there twice");
        }
    }
    for message in arrived {
        let recipient = message.recipient.as_str();
        let Some(sample) = expected.remove(recipient) else {
            panic!("{recipient} came twice, or unasked")
        };
        assert_eq!(message.sender, sample.sender.text(), "return path to {recipient}");
        let complete = sample.complete();
        let Some(before) = message.content.strip_suffix(&complete[..]) else {
            panic!("{recipient}: {}", difference(&message.content, &complete));
        };
        for field in fields(before) {
            let name = name_of(field);
            assert!(ADDED.contains(&name.as_str()), "{recipient}: {}", field.escape_ascii());
        }
        let end = memchr::memmem::find(&message.content, b"\r\n\r\n").unwrap();
        let names: Vec<String> =
            fields(&message.content[..end + 2]).into_iter().map(name_of).collect();
        for name in ["date", "message-id"] {
            assert_eq!(
                names.iter().filter(|other| *other == name).count(),
                1,
                "{name} to {recipient}"
            );
        }
    }
    assert!(expected.is_empty(), "{} never came: {:?}", expected.len(), expected.keys());
}

/// Where two contents differ, looked at from their ends.
fn difference(arrived: &[u8], sent: &[u8]) -> String {
    let same =
        arrived.iter().rev().zip(sent.iter().rev()).take_while(|(one, other)| one == other).count();
    let piece = |content: &[u8]| {
        let at = content.len() - same;
        content[at.saturating_sub(60)..(at + 30).min(content.len())].escape_ascii().to_string()
    };
    format!("sent\n{}\narrived\n{}", piece(sent), piece(arrived))
}

/// Waits until there are so many, as long as more keep coming.
async fn all(world: &World, what: &str, count: usize, probe: impl Fn() -> usize) {
    let mut last = (0, Instant::now());
    loop {
        let now = probe();
        if now >= count {
            return;
        }
        if now > last.0 {
            last = (now, Instant::now());
        }
        if last.1.elapsed() > PATIENCE {
            let log =
                std::fs::read_to_string(world.path("data/delivery.jsonl")).unwrap_or_default();
            let others: String =
                log.lines().filter(|line| !line.contains("\"sent\"")).take(5).collect();
            panic!("only {now} of {count} {what}; not sent: {others}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What became of [`MESSAGES`] messages that we sent to a peer.
struct Taken {
    keys: DkimKeys,
    /// As the peer has stored them.
    stored: Vec<Arrived>,
    /// As the peer has passed them on.
    relayed: Vec<Arrived>,
    /// Attempts of which nothing was taken.
    others: Vec<LogLine>,
    peer: Peer,
}

/// Sends random messages to a peer over STARTTLS, signed; the peer stores them, and passes some on. Every one is judged.
async fn sends_all(
    block: u8,
    pipelining: bool,
    taste: Taste,
    start: fn(SocketAddr, &Next) -> Option<Peer>,
) -> Option<Taken> {
    let sink = Sink::start([127, 9, block, 9]).await;
    let address = free_port([127, 9, block, 1]);
    let peer = start(address, &Next { address: sink.address, submission: false })?;
    peer.answers().await;
    let mut one = provider(block, 1, "one", Mood::default());
    one.domains.push("xn--bcher-kva.one.example".into());
    let mut world = World::new(block, vec![one]).rules(FIGURES).more(&format!(
        "[[relay]]\ndomains = [\"relayed.example\", \"*.relayed.example\"]\nhosts = [\"{address}\"]\n"
    ));
    world.port = address.port();
    world.pipelining = pipelining;
    let (keys, sections) = signatures::keys(world.folder.path());
    let world = world.more(&sections);
    let node = world.start();
    let all_samples =
        samples(u64::from(block), MESSAGES, taste, "one.example", Some("relayed.example"));
    submit_all(&node.intake(), &all_samples).await;
    let recipients = || all_samples.iter().flat_map(|sample| &sample.recipients);
    let relayed = recipients().filter(|address| address.ends_with("relayed.example")).count();
    let stored = recipients().count() - relayed;
    all(&world, "stored", stored, || peer.mail().len()).await;
    all(&world, "passed on", relayed, || sink.count()).await;
    let ended = world.end(node).await;
    let stored: Vec<Arrived> = peer.mail().iter().map(|path| Arrived::stored(path)).collect();
    let relayed: Vec<Arrived> = sink.kept().into_iter().map(Arrived::kept).collect();
    judge(&all_samples, stored.iter().chain(&relayed));
    let (sent, others): (Vec<_>, Vec<_>) =
        ended.log.into_iter().partition(|line| line.outcome == "sent");
    assert_eq!(sent.len(), stored.len() + relayed.len());
    Some(Taken { keys, stored, relayed, others, peer })
}

/// Hands samples in, eight at a time.
async fn submit_all(intake: &Intake, all_samples: &[Sample]) {
    let stream =
        StreamName { affinity: "default".into(), priority: Priority::High, tenant: "shop".into() };
    let (intake, stream) = (intake.clone(), Arc::new(stream));
    let mut tasks = tokio::task::JoinSet::new();
    for part in all_samples.chunks(all_samples.len().div_ceil(8)) {
        let (intake, stream, part) = (intake.clone(), Arc::clone(&stream), part.to_vec());
        tasks.spawn(async move {
            for sample in part {
                let sender = match &sample.sender {
                    ReturnPath::Null => NULL_SENDER.to_owned(),
                    ReturnPath::Given(address) => address.clone(),
                };
                let recipients = sample.recipients.iter();
                let recipients = recipients.map(|text| Mailbox::parse(text).unwrap()).collect();
                let message = SingleMessage { sender, recipients, content: sample.content };
                intake.submit(&stream, message, None).await.unwrap();
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

/// Hands random messages to a peer, which passes them on to our submission listener over STARTTLS; we deliver them. Every one is judged.
async fn takes_all(
    block: u8,
    taste: Taste,
    start: fn(SocketAddr, &Next) -> Option<Peer>,
    logs_in: bool,
) -> Option<(Peer, Vec<Arrived>)> {
    let sink = Sink::start([127, 9, block, 9]).await;
    let relay = format!("[[relay]]\ndomains = [\"*\"]\nhosts = [\"{}\"]\n", sink.address);
    let mut world = World::one(block, Mood::default()).more(&relay);
    certify(&world.path("tls.pem"), &world.path("tls-key.pem"));
    world.submission =
        "listen = [\"127.0.0.1:0\"]\ntls_certificate = \"tls.pem\"\ntls_key = \"tls-key.pem\"\n"
            .into();
    if logs_in {
        std::fs::write(world.path("password"), "secret").unwrap();
        world.submission += "users = [{ name = \"shop\", password = { file = \"password\" } }]\n";
    }
    let config = world.config();
    let listener = Submission::bind(&config.submission, SubmissionBounds::default()).unwrap();
    let submission = listener.addresses()[0];
    let address = free_port([127, 9, block, 1]);
    let peer = start(address, &Next { address: submission, submission: true })?;
    peer.answers().await;
    let node = world.start();
    let end = CancellationToken::new();
    let running = tokio::spawn(listener.run(node.intake(), end.clone()));
    let all_samples = Arc::new(samples(u64::from(block), MESSAGES, taste, "two.example", None));
    let fed = Arc::clone(&all_samples);
    tokio::task::spawn_blocking(move || feeder::feed(address, &fed)).await.unwrap();
    let count = all_samples.iter().map(|sample| sample.recipients.len()).sum();
    all(&world, "delivered", count, || sink.count()).await;
    end.cancel();
    running.await.unwrap();
    node.shutdown().await;
    let arrived: Vec<Arrived> = sink.kept().into_iter().map(Arrived::kept).collect();
    judge(&all_samples, arrived.iter());
    Some((peer, arrived))
}
