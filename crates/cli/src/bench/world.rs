//! The world of a scenario: a hundred domains with a sink each, and a node on a folder of its own, in this process.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use engine::work::DeliveryState;
use lab::load::{LoadPlan, Pipelining};
use lab::{Lab, Mood, Span};
use mail::address::Mailbox;
use mail::id::DeliveryId;
use node::config::Config;
use node::intake::{Created, Intake, Recipient};
use node::node::Node;
use node::prepare::{AddressSpec, ContentSpec, TemplateSpec};
use node::submission::{Submission, SubmissionBounds};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::cpu::Used;
use super::path::Run;
use super::settings::{Settings, merge, recipient};

/// Threads that play the world.
pub(super) const OTHERS: [&str; 2] = ["lab", "load"];

/// Recipients handed over in one batch.
const BATCH: u64 = 4_000;

/// The longest that one run may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Pause between two looks at whether it is done.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Messages a second that are attempted at least: so the pause before the second attempt is chosen.
const SLOWEST_FIRST_PASS: u64 = 12_000;

/// How messages are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signing {
    /// Not at all.
    None,
    /// One RSA-2048 signature.
    Rsa,
}

/// What a world is like.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// How messages are signed.
    pub(super) signing: Signing,
    /// The sinks' mood.
    pub(super) mood: Mood,
    /// Whether DNS answers; without it everything stays in the queue.
    pub(super) routes: bool,
    /// Octets of a message.
    pub(super) octets: usize,
    /// Whether there is a delivery log.
    pub(super) delivery_log: bool,
    /// After how many seconds a message is tried again.
    pub(super) retry_seconds: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            signing: Signing::None,
            mood: Mood::default(),
            routes: true,
            octets: 2_048,
            delivery_log: true,
            retry_seconds: 3_600,
        }
    }
}

impl Plan {
    /// A network with a round trip, put on by the sinks.
    pub(super) fn with_round_trip(mut self, round_trip: Option<Duration>) -> Self {
        self.mood.round_trip = round_trip.map(Span);
        self
    }
}

/// Lab and node.
pub(super) struct World {
    lab: Lab,
    node: Node,
    submission: SocketAddr,
    stop: CancellationToken,
    octets: usize,
    retry: Duration,
    _folder: TempDir,
}

impl World {
    /// # Errors
    /// The folder cannot be made, a port is taken, the node does not start.
    pub(super) async fn start(plan: Plan) -> anyhow::Result<Self> {
        let mut internet = lab::internet::hundred_domains();
        if let Some(provider) = internet.provider_mut("bench") {
            provider.mood = plan.mood;
        }
        let lab = Lab::start(internet)?;
        let folder = super::temporary_folder()?;
        let dkim = match plan.signing {
            Signing::None => String::new(),
            Signing::Rsa => {
                let key = node::dkim::generate_rsa_2048().context("making an RSA key")?;
                std::fs::write(folder.path().join("dkim.pem"), key)?;
                "[[dkim]]\ndomain = \"sender.example\"\nselector = \"bench\"\nkey_file = \"dkim.pem\"\n"
                    .to_string()
            }
        };
        let settings = Settings {
            lab: &lab,
            routes: plan.routes,
            submission: (Ipv4Addr::LOCALHOST, 0).into(),
            http: None,
            more: &format!(
                "{dkim}[retry]\nsteps = [\"{0}s\"]\nthen_every = \"{0}s\"\njitter_percent = 0\n\
                 [circuit_breaker]\nmessages = 0\n",
                plan.retry_seconds
            ),
        };
        let text = settings.write_rules(folder.path())?;
        let mut config = Config::parse(&text, "bench.toml", folder.path())?;
        config.log.record_attempts = plan.delivery_log;
        let submission = Submission::bind(&config.submission, SubmissionBounds::default())?;
        let address = *submission.addresses().first().context("a listener")?;
        let node = Node::start(config)?;
        let stop = CancellationToken::new();
        tokio::spawn(submission.run(node.intake(), stop.clone()));
        Ok(Self {
            lab,
            node,
            submission: address,
            stop,
            octets: plan.octets,
            retry: Duration::from_secs(plan.retry_seconds),
            _folder: folder,
        })
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
        let content = content(self.octets);
        let created = intake.create(intake.default_options(), Some(&content), None).await?;
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
        let report = self.lab.report();
        let taken = report.totals.accepted;
        ensure!(taken == messages, "the sink took {taken} of {messages} messages");
        let sources = report.providers.iter().flat_map(|provider| &provider.sources);
        let octets = sources.map(|source| source.data_octets).sum();
        Ok(Run { messages, time, cpu, octets })
    }

    /// Lets every message be put off once, waits until all may be tried again, and measures from then until the last
    /// is settled. The sinks' mood must put each address off at its first attempt.
    async fn drain_deferred(&self, messages: u64) -> anyhow::Result<Run> {
        let id = self.load(messages, 100).await?;
        let intake = self.node.intake();
        let begun = Instant::now();
        intake.start(id).await?;
        while self.lab.counts().refused_recipients < messages {
            ensure!(begun.elapsed() < PATIENCE, "not all were put off: {:?}", self.lab.counts());
            tokio::time::sleep(LOOK_EVERY).await;
        }
        intake.set_state(id, DeliveryState::Paused, "bench", "all are put off").await?;
        tokio::time::sleep(self.retry + Duration::from_secs(1)).await;
        // Where the first pass took longer than the pause, some have gone meanwhile and do not count.
        let early = intake.counters(id).await?.sent;
        ensure!(
            early < messages / 2,
            "{early} of {messages} messages went before all were put off"
        );
        let taken = self.lab.counts().accepted;
        let octets = (messages - early) * self.octets as u64;
        let before = Used::now(&OTHERS)?;
        let begun = Instant::now();
        intake.set_state(id, DeliveryState::Running, "bench", "all are due").await?;
        self.all_sent(id, messages).await?;
        let time = begun.elapsed();
        let cpu = Used::now(&OTHERS)?.since(&before);
        let drained = self.lab.counts().accepted - taken;
        ensure!(drained == messages - early, "the sink took {drained} of {}", messages - early);
        Ok(Run { messages: messages - early, time, cpu, octets })
    }

    async fn all_sent(&self, id: DeliveryId, messages: u64) -> anyhow::Result<()> {
        let intake = self.node.intake();
        let begun = Instant::now();
        loop {
            let counters = intake.counters(id).await?;
            if counters.sent == messages {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                let groups = self.node.questions().groups().await;
                anyhow::bail!("not all sent: {counters:?} {groups:#?}");
            }
            tokio::time::sleep(LOOK_EVERY).await;
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
                Ok(Recipient {
                    line: number + 1,
                    mailbox: Mailbox::parse(&recipient(number, domains))?,
                    merge: format!("{{{}}}", merge(number)),
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
    Ok(Run { messages: recipients, time, cpu, octets: 0 })
}

/// Delivery of a campaign in a world of its own.
pub(super) async fn deliver(messages: u64, plan: Plan) -> anyhow::Result<Run> {
    // On a path with a round trip the question is what its ten connections carry.
    let domains = if plan.mood.round_trip.is_some() { 1 } else { 100 };
    let world = World::start(plan).await?;
    let run = world.deliver(messages, domains).await;
    world.stop().await;
    run
}

/// Drain of messages that were put off once and are all due.
pub(super) async fn drain_deferred(messages: u64) -> anyhow::Result<Run> {
    let plan = Plan {
        mood: Mood { temporary_share: 1.0, ..Mood::default() },
        retry_seconds: 3 + messages / SLOWEST_FIRST_PASS,
        ..Plan::default()
    };
    let world = World::start(plan).await?;
    let run = world.drain_deferred(messages).await;
    world.stop().await;
    run
}

/// Single messages by SMTP over 20 connections: until all are accepted, or until all are delivered.
pub(super) async fn inject(messages: u64, octets: usize, deliver: bool) -> anyhow::Result<Run> {
    let world = World::start(Plan { routes: deliver, octets, ..Plan::default() }).await?;
    let before = Used::now(&OTHERS)?;
    let begun = Instant::now();
    submit(world.submission, messages, octets).await?;
    if deliver {
        let patience = Instant::now();
        while world.lab.counts().accepted < messages {
            ensure!(patience.elapsed() < PATIENCE, "not all were delivered");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    let time = begun.elapsed();
    let cpu = Used::now(&OTHERS)?.since(&before);
    world.stop().await;
    Ok(Run { messages, time, cpu, octets: messages * octets as u64 })
}

/// Sends single messages to a submission listener over 20 connections, until the last was answered.
pub(super) async fn submit(to: SocketAddr, messages: u64, octets: usize) -> anyhow::Result<()> {
    let domains = (0..100).map(|number| format!("d{number:03}.bench.example")).collect();
    let mut plan = LoadPlan::new(to, domains);
    plan.messages = messages;
    plan.connections = 20;
    plan.size_bytes = octets;
    plan.pipelining = Pipelining::AcrossMessages;
    let load = tokio::task::spawn_blocking(move || lab::load::run(plan)).await??;
    ensure!(load.messages == messages, "{} of {messages} messages were accepted", load.messages);
    Ok(())
}

/// A personalised message of about so many octets, at least 1,000.
pub(super) fn content(octets: usize) -> ContentSpec {
    let filler = "The quick brown fox jumps over the lazy dog, and the dog does not mind.\r\n";
    // Header fields and the personal lines need about 700.
    let lines = octets.saturating_sub(700) / filler.len();
    ContentSpec::Template(TemplateSpec {
        from: AddressSpec { name: "Shop".into(), address: "news@sender.example".into() },
        subject: "{{ first_name }}, news from {{ city }}".into(),
        text: Some(format!(
            "Dear {{{{ first_name }}}},\r\n\r\n{}\r\nYours, the shop in {{{{ city }}}}\r\n",
            filler.repeat(lines)
        )),
        ..TemplateSpec::default()
    })
}
