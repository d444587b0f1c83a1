//! The world of a benchmark: a hundred domains with a sink each, and a node on a folder of its own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use lab::load::{LoadPlan, Pipelining};
use lab::{Lab, Span};
use mail::address::Mailbox;
use mail::id::DeliveryId;
use node::config::Config;
use node::intake::{Created, Intake, Recipient};
use node::node::Node;
use node::prepare::{AddressSpec, ContentSpec, TemplateSpec};
use node::submission::{Submission, SubmissionBounds};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::Run;
use super::cpu::Used;

/// Threads that play the world.
const OTHERS: [&str; 2] = ["lab", "load"];

/// Where no name server is: the port "discard".
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9);

/// Recipients handed over in one batch.
const BATCH: u64 = 4_000;

/// The longest that one run may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Rules under which nothing but the machine limits the rate.
const RULES: &str = r#"
schema_version = 1
[[rule]]
name = "bench"
provider = "the benchmark's sink"
mask = "*.bench.example"
scope = "path"
pacing = "burst"
max_connections = 10
max_messages_per_connection = 100000
messages_per_hour = 100000000
tls = "disabled"
source_of_figures = "the benchmark"
matches = ["mx.d000.bench.example"]
matches_not = ["mx.d000.bench.test"]
"#;

/// How messages are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signing {
    /// Not at all.
    None,
    /// One RSA-2048 signature.
    Rsa,
}

/// What a world is like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// How messages are signed.
    pub(super) signing: Signing,
    /// The network's round trip, put on by the sink; `None`: that of loopback.
    pub(super) round_trip: Option<Duration>,
    /// Whether DNS answers; without it everything stays in the queue.
    pub(super) routes: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self { signing: Signing::None, round_trip: None, routes: true }
    }
}

/// Lab and node.
pub(super) struct World {
    lab: Lab,
    node: Node,
    submission: SocketAddr,
    stop: CancellationToken,
    _folder: TempDir,
}

impl World {
    pub(super) async fn start(plan: Plan) -> anyhow::Result<Self> {
        let Plan { signing, round_trip, routes } = plan;
        let mut internet = lab::internet::hundred_domains();
        if let Some(round_trip) = round_trip
            && let Some(provider) = internet.provider_mut("bench")
        {
            provider.mood.round_trip = Some(Span(round_trip));
        }
        let lab = Lab::start(internet)?;
        let folder = TempDir::with_prefix("mailweir-bench-")?;
        std::fs::write(folder.path().join("mx.toml"), RULES)?;
        let dkim = match signing {
            Signing::None => String::new(),
            Signing::Rsa => {
                std::fs::write(folder.path().join("dkim.pem"), rsa_key()?)?;
                "[[dkim]]\ndomain = \"sender.example\"\nselector = \"bench\"\nkey_file = \"dkim.pem\"\n"
                    .to_string()
            }
        };
        let text = format!(
            r#"
data_dir = "data"
[[source]]
public_id = 1
address = "127.0.0.31"
helo = "m1.sender.example"
[rules]
mx = "mx.toml"
level = "custom"
[smtp_client]
port = {port}
[dns]
servers = ["{dns}"]
[safety]
only_targets = ["127.0.0.0/8"]
[submission]
listen = ["127.0.0.1:0"]
[http]
listen = []
{dkim}
"#,
            port = lab.port(),
            dns = if routes { lab.dns_address() } else { NOBODY },
        );
        let config = Config::parse(&text, "bench.toml", folder.path())?;
        let submission = Submission::bind(&config.submission, SubmissionBounds::default())?;
        let address = *submission.addresses().first().context("a listener")?;
        let node = Node::start(config)?;
        let stop = CancellationToken::new();
        tokio::spawn(submission.run(node.intake(), stop.clone()));
        Ok(Self { lab, node, submission: address, stop, _folder: folder })
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.node.shutdown().await;
        // Its last report has been read where it was needed.
        let _report = self.lab.stop();
    }

    /// Adds recipients to a new delivery, not started.
    async fn load(&self, messages: u64, domains: u64) -> anyhow::Result<DeliveryId> {
        let intake = self.node.intake();
        let created = intake.create(intake.default_options(), Some(&content()), None).await?;
        let Created::New(id) = created else { anyhow::bail!("a new delivery is new") };
        append(&intake, id, messages, domains).await?;
        Ok(id)
    }

    /// The time from the start of a delivery until its last message is settled.
    pub(super) async fn deliver(&self, messages: u64, domains: u64) -> anyhow::Result<Run> {
        let id = self.load(messages, domains).await?;
        let intake = self.node.intake();
        let before = Used::now(&OTHERS)?;
        let begun = Instant::now();
        intake.start(id).await?;
        self.all_sent(id, messages).await?;
        let time = begun.elapsed();
        let cpu = Used::now(&OTHERS)?.since(&before);
        let taken = self.lab.report().totals.accepted;
        ensure!(taken == messages, "the sink took {taken} of {messages} messages");
        Ok(Run { messages, time, cpu })
    }

    async fn all_sent(&self, id: DeliveryId, messages: u64) -> anyhow::Result<()> {
        let intake = self.node.intake();
        let begun = Instant::now();
        loop {
            let counters = intake.counters(id).await?;
            if counters.sent == messages {
                return Ok(());
            }
            let groups = self.node.questions().groups().await;
            ensure!(begun.elapsed() < PATIENCE, "not all sent: {counters:?} {groups:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn append(
    intake: &Intake,
    id: DeliveryId,
    messages: u64,
    domains: u64,
) -> anyhow::Result<()> {
    let mut from = 0;
    // The next batch is made while the last one is written.
    let mut under_way: Option<tokio::task::JoinHandle<anyhow::Result<()>>> = None;
    while from < messages {
        let batch: Vec<Recipient> = (from..(from + BATCH).min(messages))
            .map(|number| {
                let address = format!("person{number}@d{:03}.bench.example", number % domains);
                Ok(Recipient {
                    line: number + 1,
                    mailbox: Mailbox::parse(&address)?,
                    merge: format!(
                        "{{\"first_name\":\"Person {number}\",\"city\":\"Springfield\"}}"
                    ),
                })
            })
            .collect::<anyhow::Result<_>>()?;
        from += BATCH;
        if let Some(task) = under_way.take() {
            task.await??;
        }
        let intake = intake.clone();
        under_way = Some(tokio::spawn(async move {
            let appended = intake.append(id, batch).await?;
            ensure!(appended.duplicates.is_empty(), "no duplicates are made");
            Ok(())
        }));
    }
    if let Some(task) = under_way {
        task.await??;
    }
    Ok(())
}

/// Acceptance of a list: from the first batch until the last commit.
pub(super) async fn accept(recipients: u64) -> anyhow::Result<Run> {
    let world = World::start(Plan::default()).await?;
    let before = Used::now(&OTHERS)?;
    let begun = Instant::now();
    world.load(recipients, 100).await?;
    let time = begun.elapsed();
    let cpu = Used::now(&OTHERS)?.since(&before);
    world.stop().await;
    Ok(Run { messages: recipients, time, cpu })
}

/// Single messages by SMTP over 20 connections: until all are accepted, or until all are delivered.
pub(super) async fn inject(messages: u64, deliver: bool) -> anyhow::Result<Run> {
    let world = World::start(Plan { routes: deliver, ..Plan::default() }).await?;
    let domains = (0..100).map(|number| format!("d{number:03}.bench.example")).collect();
    let mut plan = LoadPlan::new(world.submission, domains);
    plan.messages = messages;
    plan.connections = 20;
    plan.size_bytes = 2_048;
    plan.pipelining = Pipelining::AcrossMessages;
    let before = Used::now(&OTHERS)?;
    let begun = Instant::now();
    let load = tokio::task::spawn_blocking(move || lab::load::run(plan)).await??;
    ensure!(load.messages == messages, "{} of {messages} messages were accepted", load.messages);
    if deliver {
        let patience = Instant::now();
        while world.lab.report().totals.accepted < messages {
            ensure!(patience.elapsed() < PATIENCE, "not all were delivered");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let time = begun.elapsed();
    let cpu = Used::now(&OTHERS)?.since(&before);
    world.stop().await;
    Ok(Run { messages, time, cpu })
}

/// A personalised message of about 2 KiB.
fn content() -> ContentSpec {
    let filler = "The quick brown fox jumps over the lazy dog, and the dog does not mind.\r\n";
    ContentSpec::Template(TemplateSpec {
        from: AddressSpec { name: "Shop".into(), address: "news@sender.example".into() },
        subject: "{{ first_name }}, news from {{ city }}".into(),
        text: Some(format!(
            "Dear {{{{ first_name }}}},\r\n\r\n{}\r\nYours, the shop in {{{{ city }}}}\r\n",
            filler.repeat(18)
        )),
        ..TemplateSpec::default()
    })
}

/// A new RSA key of 2,048 bits.
fn rsa_key() -> anyhow::Result<String> {
    let key = node::dkim::generate_rsa_2048().context("making an RSA key")?;
    Ok(key)
}
