//! Kill -9 on the real process: nothing accepted is lost, and nothing is repeated without cause.
//!
//! The lab is the judge: it runs in the test's process and outlives the node, which is killed at random
//! moments of a campaign and started again on the same folder. In the second test the test itself sends bounces for
//! what the lab took, and holds the node to every 250.

#[path = "kill/faults.rs"]
mod faults;
#[path = "kill/hours.rs"]
mod hours;
#[path = "kill/points.rs"]
mod points;
#[path = "kill/single.rs"]
mod single;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use engine::quarantine::{Channel, Selection, TextFilter};
use engine::work::FinalState;
use lab::{Lab, LabConfig, Mood, MxConfig, Promise, ProviderConfig, Span};
use mail::id::MessageId;
use store::{LedgerPlace, MessageState, SqliteOptions, SqliteStore, Store as _};

/// Recipients of the campaign.
const RECIPIENTS: u32 = 6_000;

/// How often the process is killed.
const KILLS: u32 = 20;

/// Connections that the node may hold in all: what can be open at a kill.
const CONNECTIONS: u32 = 4 * 5;

const RULES: &str = r#"
schema_version = 1
[[rule]]
name = "judge"
provider = "the judge"
mask = "*.judge.example"
scope = "path"
pacing = "burst"
max_connections = 100
max_messages_per_connection = 50
messages_per_hour = 100000000
tls = "disabled"
source_of_figures = "this test"
matches = ["mx.a.judge.example"]
matches_not = ["mx.a.judge.test"]
"#;

/// Four domains whose hosts take a few milliseconds for an answer, so that a campaign lasts for some seconds; two are sent
/// contents by BDAT, two by DATA. `net` keeps the addresses of two judges apart.
fn judge(net: u8, mood: &Mood, journal: Option<PathBuf>) -> Lab {
    let mut config = LabConfig { journal, ..LabConfig::default() };
    for (number, name) in (1_u8..).zip(["a", "b", "c", "d"]) {
        let domain = format!("{name}.judge.example");
        config.providers.push(ProviderConfig {
            name: name.into(),
            domains: vec![domain.clone()],
            mood: Mood {
                round_trip: Some(Span(Duration::from_millis(4))),
                no_chunking: number % 2 == 0,
                ..mood.clone()
            },
            mx: vec![MxConfig {
                host: format!("mx.{domain}"),
                preference: 10,
                addresses: vec![[127, net, number, 1].into()],
                domains: Vec::new(),
            }],
            ..ProviderConfig::default()
        });
    }
    Lab::start(config).unwrap()
}

/// The node's process.
struct Node {
    child: Child,
    /// What it has said so far, line by line.
    log: Arc<Mutex<Vec<String>>>,
}

/// The program on the configuration of a folder.
fn program(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mailweir"));
    command.current_dir(folder).args(["serve", "--config", "mailweir.toml"]);
    command
}

impl Node {
    fn start(folder: &Path) -> Self {
        Self::launch(program(folder))
            .unwrap_or_else(|(status, log)| panic!("the node did not start: {status}\n{log}"))
    }

    /// Starts it by this command.
    ///
    /// # Errors
    /// It has ended before it ran: how, and what it said.
    fn launch(mut command: Command) -> Result<Self, (ExitStatus, String)> {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (ready, runs) = channel();
        let written = Arc::clone(&log);
        // Somebody must go on reading, or the node would wait for its log.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if line.contains("the node runs") {
                    // Who starts it may have given up.
                    let _ = ready.send(());
                }
                written.lock().unwrap().push(line);
            }
        });
        let mut node = Self { child, log };
        match runs.recv_timeout(Duration::from_secs(30)) {
            Ok(()) => Ok(node),
            Err(RecvTimeoutError::Disconnected) => Err((node.child.wait().unwrap(), node.said())),
            Err(RecvTimeoutError::Timeout) => panic!("it does not start:\n{}", node.said()),
        }
    }

    /// Everything that it has said.
    fn said(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// SIGKILL.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Already ended, or a test has failed before: either way it must not stay.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One request with a body, answered in full and well.
fn request(port: u16, method: &str, path: &str, kind: &str, body: &str) -> serde_json::Value {
    let fields = format!("Content-Type: {kind}\r\n");
    let (status, answer) = try_request(port, method, path, &fields, body).unwrap();
    assert_eq!(status / 100, 2, "{answer}");
    answer
}

/// Status and body of the answer to a request with these header fields; `None`: there was none.
fn try_request(
    port: u16,
    method: &str,
    path: &str,
    fields: &str,
    body: &str,
) -> Option<(u16, serde_json::Value)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{fields}Content-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )
    .ok()?;
    let answer = std::io::read_to_string(stream).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, serde_json::from_str(body).unwrap_or_default()))
}

/// A port that nobody listens on, below those that the system gives to connections by itself: the node must find it
/// free in each of its lives.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = std::process::id() % 12_000;
    loop {
        let next = u32::from(NEXT.fetch_add(1, Ordering::Relaxed)) + offset;
        let port = 20_000 + u16::try_from(next % 12_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A simple seeded generator: the moments differ, the test can be repeated.
struct Moments(u64);

impl Moments {
    /// From `least` to 180 ms more.
    fn next(&mut self, least: u64) -> Duration {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Duration::from_millis(least + (self.0 >> 33) % 180)
    }
}

fn write_configuration(folder: &Path, lab: &Lab, http: u16, more: &str) {
    std::fs::write(folder.join("mx.toml"), RULES).unwrap();
    let submission = if more.contains("[submission]") { "" } else { "[submission]\nlisten = []" };
    let text = format!(
        r#"
data_dir = "data"
[[source]]
public_id = 1
address = "127.0.0.41"
helo = "m1.sender.example"
[rules]
mx = "mx.toml"
level = "custom"
[smtp_client]
port = {port}
max_connections_total = {CONNECTIONS}
[dns]
servers = ["{dns}"]
[safety]
only_targets = ["127.0.0.0/8"]
{submission}
[http]
listen = ["127.0.0.1:{http}"]
{more}
"#,
        port = lab.port(),
        dns = lab.dns_address()
    );
    std::fs::write(folder.join("mailweir.toml"), text).unwrap();
}

/// The sections of a configuration under which bounces come back to this port, with the key that they need.
fn bounce_sections(folder: &Path, inmail: u16) -> String {
    std::fs::write(folder.join("key"), "the key of the return path").unwrap();
    format!(
        "[return_path]\ndomain = \"bounce.sender.example\"\nkeys = [{{ file = \"key\" }}]\n\
         [sender]\ndomain = \"sender.example\"\n[inmail]\nlisten = [\"127.0.0.1:{inmail}\"]\n"
    )
}

fn start_campaign(http: u16, recipients: u32) -> String {
    let delivery = r#"{"options":{"name":"kill"},"content":{"kind":"template",
        "from":{"name":"Shop","address":"news@sender.example"},
        "subject":"Hello {{ n }}","text":"Number {{ n }}\n"}}"#;
    let made = request(http, "POST", "/api/v1/deliveries", "application/json", delivery);
    let id = made["id"].as_str().unwrap().to_owned();
    let mut list = String::new();
    for number in 0..recipients {
        let domain = ["a", "b", "c", "d"][number as usize % 4];
        list.push_str(&format!(
            "{{\"email\":\"p{number}@{domain}.judge.example\",\"n\":{number}}}\n"
        ));
    }
    let path = format!("/api/v1/deliveries/{id}/recipients");
    let taken = request(http, "POST", &path, "application/x-ndjson", &list);
    assert_eq!(taken["accepted"], recipients, "{taken}");
    request(http, "POST", &format!("/api/v1/deliveries/{id}/start"), "application/json", "{}");
    id
}

/// What a campaign with kills came to.
struct Outcome {
    /// Kills between the first and the last message.
    while_sending: u32,
    /// Messages repeated after each kill, until the next.
    repeats: Vec<u64>,
}

/// Sends a campaign to a judge at `net`, kills the node at random moments and starts it again, and demands that nothing
/// is lost and no kill repeats more than was open.
fn killed_campaign(net: u8, recipients: u32, kills: u32, seed: u64) -> Outcome {
    let lab = judge(net, &Mood::default(), None);
    let folder = tempfile::tempdir().unwrap();
    let http = free_port();
    write_configuration(folder.path(), &lab, http, "");
    let mut node = Node::start(folder.path());
    let id = start_campaign(http, recipients);
    let mut moments = Moments(seed);
    let mut while_sending = 0;
    let mut copies = vec![0];
    for _ in 0..kills {
        std::thread::sleep(moments.next(20));
        let before = lab.report().duplicates;
        while_sending +=
            u32::from(before.unique_accepted > 0 && before.unique_accepted < u64::from(recipients));
        node.kill();
        copies.push(lab.report().duplicates.extra_copies);
        node = Node::start(folder.path());
    }
    let begun = Instant::now();
    let counters = loop {
        let path = format!("/api/v1/deliveries/{id}");
        let counters = request(http, "GET", &path, "application/json", "")["counters"].clone();
        if counters["sent"] == recipients || begun.elapsed() > Duration::from_secs(60) {
            break counters;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(counters["sent"], recipients, "seed {seed}: {counters}");
    assert_eq!(counters["queued"], 0, "seed {seed}");
    assert_eq!(counters["in_flight"], 0, "seed {seed}");
    drop(node);
    let seen = lab.stop().duplicates;
    assert_eq!(seen.unique_accepted, u64::from(recipients), "seed {seed}: lost: {seen:?}");
    copies.push(seen.extra_copies);
    // `copies[k]` stands for what was repeated up to kill `k`: the first entry is before all of them.
    let repeats: Vec<u64> = copies.windows(2).skip(1).map(|pair| pair[1] - pair[0]).collect();
    // What a kill can repeat: messages whose 250 had come and whose outcome was not yet on the disk. A message of an
    // earlier kill may be repeated after a later one, so the bound is that of the kills together.
    let bound = u64::from(kills) * u64::from(CONNECTIONS) * 2;
    assert!(seen.extra_copies <= bound, "seed {seed}: {} repeats", seen.extra_copies);
    Outcome { while_sending, repeats }
}

#[test]
fn twenty_kills_lose_nothing() {
    let outcome = killed_campaign(13, RECIPIENTS, KILLS, 0x9e37_79b9);
    println!("{KILLS} kills, {} while sending: {:?}", outcome.while_sending, outcome.repeats);
    assert!(outcome.while_sending >= KILLS / 2, "the kills must fall into the campaign");
}

/// `cargo xtask trials`: `MAILWEIR_TRIALS` kills, twenty in a campaign and twenty among single messages in turn.
#[test]
#[ignore = "takes minutes: cargo xtask trials"]
fn many_kills_lose_nothing() {
    let wanted = std::env::var("MAILWEIR_TRIALS").map_or(1_000, |count| count.parse().unwrap());
    let recipients = std::env::var("MAILWEIR_TRIAL_RECIPIENTS")
        .map_or(RECIPIENTS, |count| count.parse().unwrap());
    let begun = Instant::now();
    let (mut kills, mut while_sending) = (0, 0);
    let mut repeats = BTreeMap::<u64, u32>::new();
    let (mut singles, mut single_kills, mut single_repeats) = (0, 0, 0);
    for seed in 1.. {
        let (messages, repeated) = single::killed_singles(17, KILLS, seed);
        singles += messages;
        single_repeats += repeated;
        single_kills += KILLS;
        let outcome = killed_campaign(13, recipients, KILLS, seed);
        kills += KILLS;
        while_sending += outcome.while_sending;
        for count in outcome.repeats {
            *repeats.entry(count).or_default() += 1;
        }
        if kills + single_kills >= wanted {
            break;
        }
    }
    println!(
        "{kills} kills in campaigns, {while_sending} of them while sending, and {single_kills} among {singles} single \
         messages, in {:.0} s: 0 lost; {single_repeats} single messages repeated",
        begun.elapsed().as_secs_f64()
    );
    println!("repeated after a kill -> kills: {repeats:?}");
}

/// Recipients of the campaign whose mail bounces; each tenth is refused at once instead.
const BOUNCING: u32 = 1_500;

/// How often the process is killed while bounces arrive.
const KILLS_WITH_BOUNCES: u32 = 12;

/// The words of every bounce.
const WORDS: &str = "550 5.1.1 No such user here, said much later";

/// The one who sends bounces: for each message in the lab's journal one, until it was acknowledged.
struct Bouncer {
    journal: BufReader<std::fs::File>,
    line: String,
    inmail: u16,
    /// Return path and recipient of what has not been acknowledged.
    waiting: Vec<(String, String)>,
    /// How often a bounce about a recipient was acknowledged.
    acknowledged: BTreeMap<String, u32>,
    /// Conversations that broke down before the answer.
    broken: u32,
}

impl Bouncer {
    fn new(journal: &Path, inmail: u16) -> Self {
        let file = std::fs::File::options().create(true).append(true).read(true).open(journal);
        let mut journal = BufReader::new(file.unwrap());
        journal.seek(SeekFrom::Start(0)).unwrap();
        let (waiting, acknowledged) = (Vec::new(), BTreeMap::new());
        Self { journal, line: String::new(), inmail, waiting, acknowledged, broken: 0 }
    }

    /// Reads what the lab has taken since, and bounces some of it over one connection.
    fn go_on(&mut self) {
        // A line whose end is being written is read on the next time.
        while self.journal.read_line(&mut self.line).unwrap() > 0 && self.line.ends_with('\n') {
            let taken: serde_json::Value = serde_json::from_str(&self.line).unwrap();
            let text = |name: &str| taken[name].as_str().unwrap().to_owned();
            self.waiting.push((text("sender"), text("recipient")));
            self.line.clear();
        }
        let Ok(stream) = TcpStream::connect(("127.0.0.1", self.inmail)) else {
            // It is being started again.
            std::thread::sleep(Duration::from_millis(10));
            return;
        };
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut talk = BufReader::new(stream);
        let greeted = answer(&mut talk).is_some() && ask(&mut talk, "EHLO judge.example").is_some();
        for _ in 0..20 {
            let Some((sender, recipient)) = self.waiting.pop() else { break };
            let kept = greeted.then(|| bounce(&mut talk, &sender, &recipient)).flatten();
            if kept == Some(250) {
                *self.acknowledged.entry(recipient).or_default() += 1;
            } else {
                self.broken += u32::from(greeted);
                self.waiting.insert(0, (sender, recipient));
                break;
            }
        }
    }
}

/// A conversation after its EHLO; `None`: nobody speaks with us.
fn talk(port: u16) -> Option<BufReader<TcpStream>> {
    let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    let mut talk = BufReader::new(stream);
    answer(&mut talk).filter(|code| *code == 220)?;
    ask(&mut talk, "EHLO judge.example").filter(|code| *code == 250)?;
    Some(talk)
}

/// The last line of an answer; `None`: the conversation has broken down.
fn last_line(talk: &mut BufReader<TcpStream>) -> Option<String> {
    loop {
        let mut line = String::new();
        talk.read_line(&mut line).ok().filter(|octets| *octets > 3)?;
        if line.as_bytes()[3] != b'-' {
            return Some(line);
        }
    }
}

/// The code of an answer; `None`: the conversation has broken down.
fn answer(talk: &mut BufReader<TcpStream>) -> Option<u16> {
    last_line(talk)?[..3].parse().ok()
}

fn ask(talk: &mut BufReader<TcpStream>, command: &str) -> Option<u16> {
    talk.get_mut().write_all(format!("{command}\r\n").as_bytes()).ok()?;
    answer(talk)
}

/// Sends one bounce; what the last answer was.
fn bounce(talk: &mut BufReader<TcpStream>, sender: &str, recipient: &str) -> Option<u16> {
    ask(talk, "MAIL FROM:<>").filter(|code| *code == 250)?;
    ask(talk, &format!("RCPT TO:<{sender}>")).filter(|code| *code == 250)?;
    ask(talk, "DATA").filter(|code| *code == 354)?;
    let report = format!(
        "From: MAILER-DAEMON@judge.example\r\nTo: <{sender}>\r\nSubject: Undelivered Mail\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=x\r\n\r\n--x\r\n\r\n\
         It could not be delivered.\r\n\r\n--x\r\nContent-Type: message/delivery-status\r\n\r\n\
         Reporting-MTA: dns; judge.example\r\n\r\nFinal-Recipient: rfc822; {recipient}\r\nAction: failed\r\n\
         Status: 5.1.1\r\nDiagnostic-Code: smtp; {WORDS}\r\n\r\n--x--\r\n."
    );
    ask(talk, &report)
}

/// What the ledger on the disk holds of each address: refusals in the session, bounces.
fn evidence(store: &SqliteStore) -> BTreeMap<String, [u32; 2]> {
    let mut found: BTreeMap<String, [u32; 2]> = BTreeMap::new();
    let mut after = LedgerPlace::default();
    loop {
        let (entries, next) = store.reads().entries(&Selection::default(), after, 1_000).unwrap();
        for entry in entries.iter().filter(|entry| entry.failure().is_some()) {
            let way = usize::from(entry.evidence.channel == Channel::Asynchronous);
            found.entry(entry.evidence.address.to_string()).or_default()[way] += 1;
        }
        match next {
            Some(next) => after = next,
            None => return found,
        }
    }
}

/// Mails that were kept and have not had their effect.
fn unread(folder: &Path) -> usize {
    let count = |name: &str| {
        let files = std::fs::read_dir(folder.join("data/inmail").join(name)).unwrap();
        files.count()
    };
    count("new") + count("processing")
}

#[test]
fn kills_lose_no_bounce_that_was_acknowledged_and_no_refusal_and_count_none_twice() {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal.jsonl");
    let mood = Mood { unknown_users: 0.1, ..Mood::default() };
    let lab = judge(14, &mood, Some(journal.clone()));
    let (http, inmail) = (free_port(), free_port());
    let more = bounce_sections(folder.path(), inmail);
    write_configuration(folder.path(), &lab, http, &more);
    let mut node = Node::start(folder.path());
    let id = start_campaign(http, BOUNCING);
    let end = Arc::new(AtomicBool::new(false));
    let mut bouncer = Bouncer::new(&journal, inmail);
    let bouncing = std::thread::spawn({
        let end = Arc::clone(&end);
        move || {
            while !end.load(Ordering::Relaxed) || !bouncer.waiting.is_empty() {
                bouncer.go_on();
            }
            // What was taken meanwhile.
            bouncer.go_on();
            while !bouncer.waiting.is_empty() {
                bouncer.go_on();
            }
            bouncer
        }
    });
    let mut moments = Moments(0x51f1_5e3d);
    for _ in 0..KILLS_WITH_BOUNCES {
        std::thread::sleep(moments.next(60));
        node.kill();
        node = Node::start(folder.path());
    }
    let begun = Instant::now();
    let done = || {
        let path = format!("/api/v1/deliveries/{id}");
        let counters = request(http, "GET", &path, "application/json", "")["counters"].clone();
        let count = |name: &str| counters[name].as_u64().unwrap();
        count("sent") + count("failed") == u64::from(BOUNCING)
    };
    while !done() && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(done(), "the campaign does not come to its end");
    end.store(true, Ordering::Relaxed);
    let bouncer = bouncing.join().unwrap();
    while unread(folder.path()) > 0 && begun.elapsed() < Duration::from_secs(90) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(unread(folder.path()), 0, "mail that was kept must be read");
    node.kill();
    drop(node);
    let report = lab.stop();

    let options = SqliteOptions { node: "mailweir".into(), ..SqliteOptions::default() };
    let store = SqliteStore::open(&folder.path().join("data"), options).unwrap();
    let found = evidence(&store);
    // Every 250 of inmail stands for one piece of evidence, however often the mail was brought.
    for (address, times) in &bouncer.acknowledged {
        let bounces = found.get(address).map_or(0, |[_, bounces]| *bounces);
        assert_eq!(bounces, 1, "{address} was acknowledged {times} times");
    }
    let bounced = found.values().filter(|[_, bounces]| *bounces > 0).count();
    assert_eq!(bounced, bouncer.acknowledged.len());
    assert_eq!(bounced as u64, report.duplicates.unique_accepted);
    // Every message that the server refused has its one piece of evidence too.
    let messages = store.reads().messages(MessageId(0), 2 * BOUNCING).unwrap();
    let (mut refused, mut withdrawn) = (0, 0);
    for message in &messages {
        let MessageState::Final { state, .. } = message.state else { panic!("{message:?}") };
        let [refusals, bounces] = found.get(&*message.address).copied().unwrap_or_default();
        if message.last_reply.starts_with("quarantined") {
            // Killed after the evidence and before the outcome: it was not written to again.
            assert!(refusals + bounces > 0 && refusals <= 1, "{message:?}");
            withdrawn += 1;
        } else {
            assert_eq!(refusals, u32::from(state == FinalState::Failed), "{message:?}");
        }
        refused += refusals;
    }
    let texts = store.reads().texts(TextFilter::default(), None, 100).unwrap();
    let met = texts.iter().find(|text| text.first_raw.contains("said much later")).unwrap();
    assert_eq!(met.occurrences as usize, bounced, "a text is counted as often as it was met");
    let again: u32 = bouncer.acknowledged.values().map(|times| times - 1).sum();
    println!(
        "{KILLS_WITH_BOUNCES} kills: {bounced} bounces kept, {} conversations broken off, {again} brought again; \
         {refused} refusals, {withdrawn} messages not sent again after it",
        bouncer.broken
    );
    assert!(refused > 50 && bounced > 1_000, "{refused} {bounced}");
}
