//! A whole node on loopback: real store, real sockets, against the lab (and real mail servers) as the judge.
//!
//! Each test has a block of addresses of its own: MX hosts in 127.9.*block*.0/24, sources in
//! 127.10.*block*.0/24, so that all of them can run side by side.

mod bundles;
mod dkim;
mod dry_runs;
mod faults;
mod formats;
mod inmail;
mod interop;
mod levels;
mod limits;
mod moods;
mod reactions;
mod restart;
mod returns;
mod rude;
mod sink;
mod small_disk;
mod steering;
mod tls;

use std::path::Path;
use std::time::{Duration, Instant};

use engine::work::DeliveryOptions;
use lab::{Lab, LabConfig, Mood, MxConfig, ProviderConfig, Report};
use mail::address::Mailbox;
use mail::id::{DeliveryId, MessageId};
use mailweir_node::config::Config;
use mailweir_node::intake::{Created, Intake, Recipient};
use mailweir_node::node::{MessageExplained, Node, StartFault};
use mailweir_node::prepare::{AddressSpec, ContentSpec, TemplateSpec};
use mailweir_node::runner::delivery_log::LogLine;
use tempfile::TempDir;

/// The longest that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Figures that limit nothing here.
const OPEN: &str = r#"
scope = "path"
pacing = "burst"
max_connections = 10
max_messages_per_connection = 1000
messages_per_hour = 1000000
"#;

/// A rule file with one rule for all MX hosts of the lab, which has these figures.
fn rule(figures: &str) -> String {
    format!(
        r#"
schema_version = 1
[[rule]]
name = "lab"
provider = "the lab"
mask = ["*.example", "127.*"]
{figures}
connect_timeout = "2s"
timeout = "5s"
source_of_figures = "the test"
matches = ["mx.one.example"]
matches_not = ["mx.one.test"]
"#
    )
}

/// A provider with one MX host.
fn provider(block: u8, number: u8, name: &str, mood: Mood) -> ProviderConfig {
    ProviderConfig {
        name: name.into(),
        domains: vec![format!("{name}.example")],
        mood,
        mx: vec![MxConfig {
            host: format!("mx.{name}.example"),
            preference: 10,
            addresses: vec![[127, 9, block, number].into()],
            domains: Vec::new(),
        }],
        ..ProviderConfig::default()
    }
}

/// A lab, and the folder and configuration of a node that sends to it.
struct World {
    lab: Lab,
    folder: TempDir,
    block: u8,
    /// TCP port of the MX hosts.
    port: u16,
    /// `[smtp_client] pipelining`.
    pipelining: bool,
    /// Lines within `[submission]`.
    submission: String,
    /// Sections of the configuration besides the usual ones.
    more: String,
    /// Lines within `[[source]]`, for each of the sources.
    sources: Vec<&'static str>,
}

impl World {
    fn of(block: u8, config: LabConfig) -> Self {
        let lab = Lab::start(config).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let port = lab.port();
        let (submission, more) = ("listen = []".into(), String::new());
        let (pipelining, sources) = (true, vec!["", ""]);
        let world = Self { lab, folder, block, port, pipelining, submission, more, sources };
        world.write_rules(&rule(OPEN));
        world
    }

    fn new(block: u8, providers: Vec<ProviderConfig>) -> Self {
        Self::of(block, LabConfig { providers, ..LabConfig::default() })
    }

    /// One provider, `one.example`.
    fn one(block: u8, mood: Mood) -> Self {
        Self::new(block, vec![provider(block, 1, "one", mood)])
    }

    fn rules(self, figures: &str) -> Self {
        self.write_rules(&rule(figures));
        self
    }

    fn write_rules(&self, text: &str) {
        std::fs::write(self.path("mx.toml"), text).unwrap();
    }

    fn more(mut self, text: &str) -> Self {
        self.more.push_str(text);
        self
    }

    fn sources(mut self, lines: &[&'static str]) -> Self {
        self.sources = lines.to_vec();
        self
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self) -> Config {
        let mut text = String::from("data_dir = \"data\"\n");
        for (number, lines) in (1..).zip(&self.sources) {
            let block = self.block;
            text.push_str(&format!(
                "[[source]]\npublic_id = {number}\naddress = \"127.10.{block}.{number}\"\n\
                 helo = \"m{number}.sender.example\"\n{lines}\n"
            ));
        }
        text.push_str(&format!(
            r#"
[rules]
mx = "mx.toml"
level = "custom"
[smtp_client]
port = {port}
tls_verify = "never"
pipelining = {pipelining}
[dns]
servers = ["{dns}"]
route_timeout = "2s"
[safety]
only_targets = ["127.0.0.0/8"]
[submission]
{submission}
[http]
listen = []
{more}
"#,
            submission = self.submission,
            port = self.port,
            pipelining = self.pipelining,
            dns = self.lab.dns_address(),
            more = self.more,
        ));
        parse(&text, self.folder.path())
    }

    fn start(&self) -> Node {
        match Node::start(self.config()) {
            Ok(node) => node,
            Err(fault) => panic!("{fault}"),
        }
    }

    /// Why the node does not start.
    fn refused(&self) -> StartFault {
        match Node::start(self.config()) {
            Ok(_) => panic!("the node has started"),
            Err(fault) => fault,
        }
    }

    /// The delivery log. Complete when the node has ended.
    fn log(&self) -> Vec<LogLine> {
        let text = std::fs::read_to_string(self.path("data/delivery.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn set_mood(&self, provider: &str, mood: Mood) {
        self.lab.set_mood(provider, mood).unwrap();
    }

    /// Ends the node; what the lab saw.
    async fn end(self, node: Node) -> Ended {
        node.shutdown().await;
        let log = self.log();
        Ended { report: self.lab.stop(), log }
    }
}

/// What remains of a world.
struct Ended {
    report: Report,
    log: Vec<LogLine>,
}

fn parse(text: &str, folder: &Path) -> Config {
    match Config::parse(text, "test.toml", folder) {
        Ok(config) => config,
        Err(fault) => panic!("{fault}"),
    }
}

fn content() -> ContentSpec {
    ContentSpec::Template(TemplateSpec {
        from: AddressSpec { name: "Shop".into(), address: "news@sender.example".into() },
        subject: "Hello {{ first_name }}".into(),
        text: Some("Dear {{ first_name }},\nnothing to see.\n".into()),
        ..TemplateSpec::default()
    })
}

fn recipient(line: u64, address: &str) -> Recipient {
    Recipient {
        line,
        mailbox: Mailbox::parse(address).unwrap(),
        merge: format!("{{\"first_name\":\"P{line}\"}}"),
    }
}

fn recipients(domains: &[&str], count: u64) -> Vec<Recipient> {
    let domain = |number: u64| domains[(number % domains.len() as u64) as usize];
    (0..count)
        .map(|number| recipient(number + 1, &format!("person{number}@{}", domain(number))))
        .collect()
}

/// The recipients with these addresses.
fn addressed(addresses: &[&str]) -> Vec<Recipient> {
    (1..).zip(addresses).map(|(line, address)| recipient(line, address)).collect()
}

/// A delivery that has not been started, and its first message.
async fn draft(
    intake: &Intake,
    options: DeliveryOptions,
    recipients: Vec<Recipient>,
) -> (DeliveryId, MessageId) {
    let created = intake.create(options, Some(&content()), None).await.unwrap();
    let Created::New(id) = created else { panic!("{created:?}") };
    let mut first = None;
    for batch in recipients.chunks(500) {
        first = first.or(intake.append(id, batch.to_vec()).await.unwrap().first);
    }
    (id, first.unwrap())
}

/// A running delivery with its own options, and its first message.
async fn delivery_with(
    intake: &Intake,
    options: DeliveryOptions,
    recipients: Vec<Recipient>,
) -> (DeliveryId, MessageId) {
    let (id, first) = draft(intake, options, recipients).await;
    intake.start(id).await.unwrap();
    (id, first)
}

/// A running delivery.
async fn delivery(intake: &Intake, recipients: Vec<Recipient>) -> DeliveryId {
    delivery_with(intake, intake.default_options(), recipients).await.0
}

/// Asks until there is an answer.
async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(answer) = probe().await {
            return answer;
        }
        assert!(begin.elapsed() < PATIENCE, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until nothing of a delivery is pending, or the patience is over.
async fn settled(intake: &Intake, id: DeliveryId) -> store::Counters {
    let begin = Instant::now();
    loop {
        let counters = intake.counters(id).await.unwrap();
        if counters.pending() == 0 || begin.elapsed() > PATIENCE {
            return counters;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until at least so many messages of a delivery have been sent.
async fn sent(intake: &Intake, id: DeliveryId, at_least: u64) {
    eventually(&format!("{at_least} messages sent"), async || {
        (intake.counters(id).await.unwrap().sent >= at_least).then_some(())
    })
    .await;
}

/// All that is known of a message.
async fn explained(node: &Node, message: MessageId) -> MessageExplained {
    node.questions().message(message).await.unwrap().unwrap()
}

/// Waits until a message waits for this reason.
async fn waits_for(node: &Node, message: MessageId, reason: &str) -> MessageExplained {
    let mut last = None;
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        let found = explained(node, message).await;
        if found.waiting.as_ref().is_some_and(|waiting| waiting.reason == reason) {
            return found;
        }
        last = Some(found);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never waits for {reason:?}: {last:#?}")
}

/// Whether a text for people is one line.
fn one_line(text: &str) -> bool {
    !text.is_empty() && !text.contains('\n')
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_campaign_arrives_once() {
    let providers = ["one", "two"].into_iter().zip(1..);
    let providers = providers.map(|(name, at)| provider(1, at, name, Mood::default())).collect();
    let world = World::new(1, providers);
    let node = world.start();
    let intake = node.intake();
    let id = delivery(&intake, recipients(&["one.example", "two.example"], 400)).await;
    let counters = settled(&intake, id).await;
    let groups = node.questions().groups().await.unwrap();
    assert_eq!(counters.sent, 400, "{counters:?} {groups:#?}");
    let ended = world.end(node).await;
    assert_eq!(ended.report.duplicates.unique_accepted, 400, "{:#?}", ended.report);
    assert_eq!(ended.report.totals.accepted, 400);
    assert!(ended.report.limits_held());
    assert_eq!(ended.log.len(), 400);
}
