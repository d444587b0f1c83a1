//! Kill -9 on the real process: nothing accepted is lost, and nothing is repeated without cause.
//!
//! The lab is the judge: it runs in the test's process and outlives the node, which is killed at random
//! moments of a campaign and started again on the same folder.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lab::{Lab, LabConfig, Mood, MxConfig, ProviderConfig, Span};

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

/// Four domains whose hosts take a few milliseconds for an answer, so that a campaign lasts for some seconds.
fn judge() -> Lab {
    let mut config = LabConfig::default();
    for (number, name) in (1_u8..).zip(["a", "b", "c", "d"]) {
        let domain = format!("{name}.judge.example");
        config.providers.push(ProviderConfig {
            name: name.into(),
            domains: vec![domain.clone()],
            mood: Mood { round_trip: Some(Span(Duration::from_millis(4))), ..Mood::default() },
            mx: vec![MxConfig {
                host: format!("mx.{domain}"),
                preference: 10,
                addresses: vec![[127, 13, number, 1].into()],
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
}

impl Node {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mailweir"))
            .current_dir(folder)
            .args(["serve", "--config", "mailweir.toml"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let ready =
            lines.by_ref().any(|line| line.is_ok_and(|line| line.contains("the node runs")));
        assert!(ready, "the node did not start: {:?}", child.wait());
        // Somebody must go on reading, or the node would wait for its log.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child }
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

/// One request with a body, answered in full.
fn request(port: u16, method: &str, path: &str, kind: &str, body: &str) -> serde_json::Value {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let answer = std::io::read_to_string(stream).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 2"), "{head}\n{body}");
    serde_json::from_str(body).unwrap_or_default()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn write_configuration(folder: &Path, lab: &Lab, http: u16) {
    std::fs::write(folder.join("mx.toml"), RULES).unwrap();
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
[submission]
listen = []
[http]
listen = ["127.0.0.1:{http}"]
"#,
        port = lab.port(),
        dns = lab.dns_address()
    );
    std::fs::write(folder.join("mailweir.toml"), text).unwrap();
}

fn start_campaign(http: u16) -> String {
    let delivery = r#"{"options":{"name":"kill"},"content":{"kind":"template",
        "from":{"name":"Shop","address":"news@sender.example"},
        "subject":"Hello {{ n }}","text":"Number {{ n }}\n"}}"#;
    let made = request(http, "POST", "/api/v1/deliveries", "application/json", delivery);
    let id = made["id"].as_str().unwrap().to_owned();
    let mut list = String::new();
    for number in 0..RECIPIENTS {
        let domain = ["a", "b", "c", "d"][number as usize % 4];
        list.push_str(&format!(
            "{{\"email\":\"p{number}@{domain}.judge.example\",\"n\":{number}}}\n"
        ));
    }
    let path = format!("/api/v1/deliveries/{id}/recipients");
    let taken = request(http, "POST", &path, "application/x-ndjson", &list);
    assert_eq!(taken["accepted"], RECIPIENTS, "{taken}");
    request(http, "POST", &format!("/api/v1/deliveries/{id}/start"), "application/json", "{}");
    id
}

#[test]
fn twenty_kills_lose_nothing() {
    let lab = judge();
    let folder = tempfile::tempdir().unwrap();
    let http = free_port();
    write_configuration(folder.path(), &lab, http);
    let mut node = Node::start(folder.path());
    let id = start_campaign(http);
    // A simple seeded generator: the moments differ, the test can be repeated.
    let mut state = 0x9e37_79b9_u64;
    let mut killed_while_sending = 0;
    for _ in 0..KILLS {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let pause = Duration::from_millis(20 + (state >> 33) % 180);
        std::thread::sleep(pause);
        let before = lab.report().duplicates.unique_accepted;
        killed_while_sending += u32::from(before > 0 && before < u64::from(RECIPIENTS));
        node.kill();
        node = Node::start(folder.path());
    }
    let begun = Instant::now();
    let counters = loop {
        let path = format!("/api/v1/deliveries/{id}");
        let counters = request(http, "GET", &path, "application/json", "")["counters"].clone();
        if counters["sent"] == RECIPIENTS || begun.elapsed() > Duration::from_secs(60) {
            break counters;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(counters["sent"], RECIPIENTS, "{counters}");
    assert_eq!(counters["queued"], 0);
    assert_eq!(counters["in_flight"], 0);
    drop(node);
    let report = lab.stop();
    let seen = report.duplicates;
    println!(
        "{KILLS} kills, {killed_while_sending} of them while sending: {} messages, {} repeated",
        seen.unique_accepted, seen.extra_copies
    );
    assert_eq!(seen.unique_accepted, u64::from(RECIPIENTS), "lost: {seen:?}");
    assert!(killed_while_sending >= KILLS / 2, "the kills must fall into the campaign");
    // What a kill can repeat: messages whose 250 had come and whose outcome was not yet on the disk.
    let bound = u64::from(KILLS) * u64::from(CONNECTIONS) * 2;
    assert!(seen.extra_copies <= bound, "{} repeats, bound {bound}", seen.extra_copies);
}
