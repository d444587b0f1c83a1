//! What happens in a world, drawn from its seed before it begins: rules, providers and their moods, sources,
//! deliveries, and what is done to them and to the node.

use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;
use std::collections::BTreeMap;

use engine::work::{DeliveryOptions, RetrySchedule, SendMode, Wave, WaveSize};
use engine::{Affinity, BreakerSettings, Settings, Source, Sources};
use mail::id::{Priority, SourceId};
use mail::mask::Mask;
use rules::{Level, Levels};

use crate::chance::Chance;
use crate::reactions::Reactions;
use crate::sabotage::Sabotage;

/// What is drawn, and how much of it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Recipients of one delivery, at most.
    pub recipients_max: u64,
    /// Deliveries, at most.
    pub deliveries_max: u64,
    /// Crashes, drains and restarts, at most.
    pub restarts_max: u64,
    /// Whether providers have moods and DNS has faults.
    pub faults: bool,
    /// A fault built into the node.
    pub sabotage: Sabotage,
}

impl Default for Plan {
    /// A world of the normal tests: a few hundred messages, some virtual hours.
    fn default() -> Self {
        Self {
            recipients_max: 120,
            deliveries_max: 5,
            restarts_max: 3,
            faults: true,
            sabotage: Sabotage::None,
        }
    }
}

/// How a provider behaves until the faults stop.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mood {
    /// Percent of recipients that are unknown.
    pub(crate) unknown_percent: u64,
    /// Percent of messages put off.
    pub(crate) temporary_percent: u64,
    /// First tries from each source are put off for some minutes.
    pub(crate) greylists: bool,
    /// 421 to the RCPT TO of each so many-th recipient, every time.
    pub(crate) poison_every: Option<u64>,
    /// 421 to the MAIL FROM after so many messages on a connection.
    pub(crate) refuses_after: Option<u64>,
    /// Closes without a word after so many messages on a connection.
    pub(crate) closes_after: Option<u64>,
    /// 421 in the greeting when more connections are open.
    pub(crate) connections_max: Option<usize>,
    /// 450 to more messages in an hour.
    pub(crate) hourly: Option<usize>,
    /// 421 to the RCPT TO of a message when so many were taken in the last minute.
    pub(crate) per_minute: Option<usize>,
    /// Percent of commands that are never answered.
    pub(crate) hang_percent: u64,
    /// Percent of messages after whose final dot the connection is dropped.
    pub(crate) drop_percent: u64,
    /// Percent of connections that are refused.
    pub(crate) refuse_percent: u64,
    /// Percent of messages that are taken, answered, and followed by a reset.
    pub(crate) reset_percent: u64,
    /// Time to think before each answer.
    pub(crate) think: Duration,
    /// Offers PIPELINING.
    pub(crate) pipelining: bool,
}

/// An MX host.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) preference: u16,
    pub(crate) addresses: Vec<IpAddr>,
}

/// The way to a provider until the faults stop. Nothing is lost, as TCP sends again: it comes late.
#[derive(Clone, Debug, Default)]
pub(crate) struct Network {
    /// Each piece takes up to so much longer.
    pub(crate) jitter: Duration,
    /// Percent of pieces that arrive in two parts.
    pub(crate) split_percent: u64,
    /// Nothing passes from one time to the other, counted from the beginning.
    pub(crate) partitions: Vec<(Duration, Duration)>,
}

/// A provider: its hosts and the domains that point to them.
#[derive(Clone, Debug)]
pub(crate) struct Provider {
    pub(crate) hosts: Vec<Host>,
    pub(crate) domains: Vec<String>,
    /// One way.
    pub(crate) latency: Duration,
    pub(crate) network: Network,
    pub(crate) mood: Mood,
}

/// What DNS says about a domain.
#[derive(Clone, Debug)]
pub(crate) enum Zone {
    /// Points to a provider.
    Mx {
        provider: usize,
        ttl: Duration,
        /// Every look-up fails until then.
        servfail_until: Duration,
        /// Only the first host is known until then.
        one_host_until: Duration,
        /// Percent of look-ups that fail until the faults stop.
        fails_percent: u64,
        /// A look-up takes up to this long.
        slow: Duration,
        /// From some time on it points to another provider.
        moves: Option<(Duration, usize)>,
    },
    /// Does not exist.
    Nothing,
    /// Null MX.
    Null,
}

/// A delivery to come.
#[derive(Clone, Debug)]
pub(crate) struct Mailing {
    pub(crate) options: DeliveryOptions,
    /// Recipient domain of each recipient; streams get them in two portions.
    pub(crate) domains: Vec<String>,
}

/// What is done.
#[derive(Clone, Debug)]
pub(crate) enum Deed {
    /// A mailing is handed in and started.
    Start(usize),
    /// The second portion of a stream.
    More(usize),
    Pause(usize),
    Resume(usize),
    Cancel(usize),
    /// Each so many-th recipient of a mailing is denylisted or quarantined.
    Forbid {
        mailing: usize,
        every: u64,
        denied: bool,
    },
    /// The same are free again.
    Free {
        mailing: usize,
        every: u64,
    },
    /// Other rules.
    Rules(usize),
    /// Other reaction rules.
    Reactions(usize),
    /// The process dies a few steps later.
    Crash {
        steps: u64,
        restart: Restart,
    },
    /// The process dies right after one of the next commits, before anybody hears of it.
    CrashAtCommit {
        commits: u64,
        restart: Restart,
    },
    /// The process does not run for a while, and the world goes on: stopped by a signal, or the machine was suspended.
    Freeze(Duration),
    /// No commit succeeds for a while.
    DiskFull(Duration),
    /// The process is asked to stop, and starts again.
    Drain(Restart),
}

impl Deed {
    /// Whether it writes to the store.
    pub(crate) const fn needs_the_store(&self) -> bool {
        matches!(
            self,
            Self::Start(_)
                | Self::More(_)
                | Self::Pause(_)
                | Self::Resume(_)
                | Self::Cancel(_)
                | Self::Forbid { .. }
                | Self::Free { .. }
        )
    }
}

/// How the process comes back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Restart {
    pub(crate) after: Duration,
    /// The machine was booted.
    pub(crate) boot: bool,
    /// Error of the wall clock from now on, in seconds.
    pub(crate) wall_error: i64,
}

/// Share of each wave but the last, which has the rest.
pub(crate) const WAVE_PERCENT: u64 = 30;

/// A world before it begins.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) settings: Settings,
    pub(crate) sources: Vec<Source>,
    pub(crate) affinities: Vec<Affinity>,
    /// Recipient domains that a source must not write to.
    pub(crate) excluded: Vec<(SourceId, String)>,
    /// Hourly caps of sources.
    pub(crate) source_limits: BTreeMap<SourceId, u32>,
    /// Caps per hour and day of sources that are warmed up.
    pub(crate) warm_up: quota::WarmUpCaps,
    pub(crate) rules: Vec<(String, Levels)>,
    pub(crate) providers: Vec<Provider>,
    pub(crate) zones: Vec<(String, Zone)>,
    pub(crate) mailings: Vec<Mailing>,
    /// Reaction rules: those of the start, and those that deeds put in their place.
    pub(crate) reactions: Vec<Reactions>,
    pub(crate) deeds: Vec<(Duration, Deed)>,
    /// Moods and DNS faults end here.
    pub(crate) faults_end: Duration,
    pub(crate) commit: Duration,
    /// Requests in one commit, at most.
    pub(crate) commit_requests_max: usize,
    /// How much faster the machine's clock runs, in millionths.
    pub(crate) drift: i64,
    pub(crate) sabotage: Sabotage,
}

fn minutes(chance: &mut Chance, low: u64, high: u64) -> Duration {
    Duration::from_millis(chance.between(low * 60_000, high * 60_000))
}

fn millis(chance: &mut Chance, low: u64, high: u64) -> Duration {
    Duration::from_millis(chance.between(low, high))
}

impl Script {
    /// Draws a world.
    pub(crate) fn draw(chance: &mut Chance, plan: &Plan) -> Self {
        let faults_end = minutes(chance, 60, 300);
        let (sources, affinities, excluded) = draw_sources(chance);
        let source_limits = draw_source_limits(chance, &sources);
        let ids: Vec<SourceId> = sources.iter().map(|source| source.id).collect();
        let providers: Vec<Provider> =
            (0..chance.between(1, 4)).map(|n| draw_provider(chance, n, plan.faults)).collect();
        let mut zones = Vec::new();
        for (number, provider) in providers.iter().enumerate() {
            for domain in &provider.domains {
                let fails = plan.faults && chance.percent(20);
                let zone = Zone::Mx {
                    provider: number,
                    ttl: minutes(chance, 1, 90),
                    servfail_until: if fails { minutes(chance, 1, 90) } else { Duration::ZERO },
                    one_host_until: minutes(chance, 0, 60),
                    fails_percent: if fails { chance.between(0, 60) } else { 0 },
                    slow: millis(chance, 200, if fails { 15_000 } else { 200 }),
                    moves: (plan.faults && chance.percent(10)).then(|| {
                        let other = chance.between(0, providers.len() as u64 - 1);
                        (minutes(chance, 1, 120), usize::try_from(other).unwrap_or(0))
                    }),
                };
                zones.push((domain.clone(), zone));
            }
        }
        zones.push(("nothing.example".into(), Zone::Nothing));
        zones.push(("null.example".into(), Zone::Null));
        let rules: Vec<(String, Levels)> =
            (0..chance.between(1, 3)).map(|_| draw_rules(chance, providers.len())).collect();
        let mailings: Vec<Mailing> = (0..chance.between(1, plan.deliveries_max))
            .map(|_| draw_mailing(chance, plan, &zones))
            .collect();
        let mut deeds = draw_deeds(chance, plan, &mailings, &rules, faults_end);
        let reactions: Vec<Reactions> =
            (0..chance.between(1, 3)).map(|_| Reactions::draw(chance)).collect();
        for number in 1..reactions.len() {
            deeds.push((minutes(chance, 1, 120), Deed::Reactions(number)));
        }
        deeds.sort_by_key(|(at, _)| *at);
        Self {
            reactions,
            settings: draw_settings(chance),
            sources,
            affinities,
            excluded,
            source_limits,
            rules,
            providers,
            zones,
            mailings,
            deeds,
            faults_end,
            commit: millis(chance, 1, 30),
            commit_requests_max: *chance.pick(&[1, 2, 5, 1_000, 1_000]),
            drift: i64::try_from(chance.between(0, 100)).unwrap_or(50) - 50,
            sabotage: plan.sabotage,
            warm_up: draw_warm_up(chance, &ids),
        }
    }

    /// What the node is told about its sources.
    pub(crate) fn sources(&self) -> Sources {
        let (sources, affinities) =
            self.sabotage.bend_sources(self.sources.clone(), self.affinities.clone());
        Sources::new(sources, affinities)
            .expect("the drawn sources have their own numbers, weights and affinities")
    }
}

fn draw_settings(chance: &mut Chance) -> Settings {
    Settings {
        window_messages_max: usize::try_from(chance.between(20, 400)).unwrap_or(20),
        group_window_messages_max: 128,
        domains_max: usize::try_from(chance.between(3, 40)).unwrap_or(3),
        connections_max: usize::try_from(chance.between(2, 30)).unwrap_or(2),
        breaker: BreakerSettings {
            messages: 40,
            error_percent: 90,
            rest: Duration::from_secs(1_800),
        },
        seed: chance.next(),
        ..Settings::default()
    }
}

type DrawnSources = (Vec<Source>, Vec<Affinity>, Vec<(SourceId, String)>);

fn draw_sources(chance: &mut Chance) -> DrawnSources {
    let count = u32::try_from(chance.between(1, 3)).unwrap_or(1);
    let mut excluded = Vec::new();
    let sources = (1..=count)
        .map(|id| {
            // The first source may write to everybody, so that nothing waits for ever.
            let mut exclude_domains = vec![];
            if id > 1 && chance.percent(25) {
                let domain = format!("d{}.p0.example", chance.between(0, 1));
                exclude_domains.push(Mask::new(&domain));
                excluded.push((SourceId(id), domain));
            }
            Source {
                id: SourceId(id),
                weight: u32::try_from(chance.between(1, 5)).unwrap_or(1),
                include_domains: vec![],
                exclude_domains,
                ipv6: false,
            }
        })
        .collect();
    let all: Vec<SourceId> = (1..=count).map(SourceId).collect();
    let first = vec![SourceId(1)];
    let affinities = vec![
        Affinity { name: "default".into(), sources: all },
        Affinity { name: "first".into(), sources: first },
    ];
    (sources, affinities, excluded)
}

fn draw_source_limits(chance: &mut Chance, sources: &[Source]) -> BTreeMap<SourceId, u32> {
    let mut limits = BTreeMap::new();
    for source in sources {
        if chance.percent(20) {
            limits.insert(source.id, u32::try_from(chance.between(15, 80)).unwrap_or(15));
        }
    }
    limits
}

fn draw_warm_up(chance: &mut Chance, sources: &[SourceId]) -> quota::WarmUpCaps {
    let mut caps = quota::WarmUpCaps::default();
    for source in sources {
        if !chance.percent(25) {
            continue;
        }
        // Half of it at one provider must be enough for a world's mail within the five days of its validity.
        let per_day = u32::try_from(chance.between(200, 600)).unwrap_or(200);
        let of_source = quota::SourceCaps {
            per_hour: chance.percent(50).then_some(per_day / 3),
            per_day: Some(per_day),
            provider_per_day: chance.percent(50).then_some(per_day / 2),
            providers: BTreeMap::new(),
        };
        caps.sources.insert(*source, of_source);
    }
    caps
}

fn draw_provider(chance: &mut Chance, number: u64, faults: bool) -> Provider {
    let mut next_address = 1_u8;
    let hosts = (0..chance.between(1, 3))
        .map(|host| {
            let addresses = (0..chance.between(1, 3))
                .map(|_| {
                    let last = next_address;
                    next_address += 1;
                    let third = u8::try_from(number).unwrap_or(0);
                    IpAddr::V4(Ipv4Addr::new(198, 18, third, last))
                })
                .collect();
            Host {
                name: format!("mx{host}.p{number}.example"),
                preference: if chance.percent(60) { 10 } else { 20 },
                addresses,
            }
        })
        .collect();
    let domains =
        (0..chance.between(1, 4)).map(|domain| format!("d{domain}.p{number}.example")).collect();
    Provider {
        hosts,
        domains,
        latency: millis(chance, 1, 100),
        network: if faults { draw_network(chance) } else { Network::default() },
        mood: if faults { draw_mood(chance) } else { Mood { pipelining: true, ..Mood::default() } },
    }
}

fn draw_network(chance: &mut Chance) -> Network {
    let mut network = Network::default();
    if chance.percent(30) {
        network.jitter = millis(chance, 1, 3_000);
    }
    if chance.percent(20) {
        network.split_percent = chance.between(1, 50);
    }
    if chance.percent(20) {
        for _ in 0..chance.between(1, 3) {
            let from = minutes(chance, 0, 120);
            let span = if chance.percent(50) {
                millis(chance, 100, 20_000)
            } else {
                minutes(chance, 0, 20)
            };
            network.partitions.push((from, from + span));
        }
    }
    network
}

fn draw_mood(chance: &mut Chance) -> Mood {
    let mut mood = Mood { pipelining: chance.percent(75), ..Mood::default() };
    if chance.percent(25) {
        return mood;
    }
    if chance.percent(40) {
        mood.unknown_percent = chance.between(1, 30);
    }
    if chance.percent(30) {
        mood.temporary_percent = chance.between(1, 40);
    }
    mood.greylists = chance.percent(15);
    if chance.percent(20) {
        mood.poison_every = Some(chance.between(3, 40));
    }
    if chance.percent(20) {
        mood.refuses_after = Some(chance.between(0, 12));
    }
    if chance.percent(15) {
        mood.closes_after = Some(chance.between(0, 12));
    }
    if chance.percent(15) {
        mood.connections_max = usize::try_from(chance.between(0, 4)).ok();
    }
    if chance.percent(15) {
        mood.hourly = usize::try_from(chance.between(5, 60)).ok();
    }
    if chance.percent(15) {
        mood.hang_percent = chance.between(1, 8);
    }
    if chance.percent(20) {
        mood.drop_percent = chance.between(1, 15);
    }
    if chance.percent(20) {
        mood.refuse_percent = *chance.pick(&[10, 50, 100]);
    }
    if chance.percent(10) {
        mood.reset_percent = chance.between(1, 20);
    }
    if chance.percent(30) {
        mood.think = millis(chance, 1, 3_000);
    }
    mood
}

fn draw_rules(chance: &mut Chance, providers: usize) -> (String, Levels) {
    use core::fmt::Write as _;
    let mut text = String::from("schema_version = 1\n");
    let figures = |chance: &mut Chance| {
        // Most limits are so low that a world presses against them.
        let hourly =
            if chance.percent(60) { chance.between(12, 50) } else { chance.between(50, 400) };
        let mut figures = format!(
            "max_connections = {}\nmax_messages_per_connection = {}\nmessages_per_hour = {}\npacing = \"{}\"\ntimeout = \"{}s\"\ndata_timeout = \"{}s\"\nconnect_timeout = \"20s\"\n",
            chance.between(1, 6),
            chance.between(1, 30),
            hourly,
            chance.pick(&["staircase", "even", "burst"]),
            chance.between(10, 60),
            chance.between(20, 120),
        );
        if chance.percent(20) {
            // Writing to a String cannot fail.
            let _ = writeln!(figures, "connections_per_minute = {}", chance.between(2, 20));
        }
        figures
    };
    for provider in 0..providers {
        if chance.percent(70) {
            let scope = chance.pick(&["source", "path", "rule"]);
            let own = figures(chance);
            let _ = write!(
                text,
                "[[rule]]\nname = \"p{provider}\"\nmask = \"*.p{provider}.example\"\nscope = \"{scope}\"\n{own}"
            );
        }
    }
    let rest = figures(chance);
    let _ = write!(text, "[[rule]]\nname = \"rest\"\nmask = \"*\"\n{rest}");
    let default = *chance.pick(&[Level::Normal, Level::Normal, Level::Fast, Level::Custom]);
    let mut levels = Levels::all(default);
    if chance.percent(20) {
        levels.per_rule.insert("p0".into(), Level::VeryFast);
    }
    (text, levels)
}

fn draw_mailing(chance: &mut Chance, plan: &Plan, zones: &[(String, Zone)]) -> Mailing {
    let stream = chance.percent(25);
    let waves = if !stream && chance.percent(25) {
        let size = WaveSize::Percent(WAVE_PERCENT as f64);
        let wave = |start_after| Wave { size, start_after };
        vec![wave(Duration::ZERO), wave(minutes(chance, 1, 40)), wave(minutes(chance, 41, 100))]
    } else {
        Vec::new()
    };
    let short = chance.percent(15);
    let options = DeliveryOptions {
        name: String::new(),
        affinity: if chance.percent(15) { "first".into() } else { "default".into() },
        priority: *chance.pick(&[
            Priority::High,
            Priority::Normal,
            Priority::Normal,
            Priority::Low,
        ]),
        validity: if short { minutes(chance, 5, 120) } else { Duration::from_secs(5 * 86_400) },
        valid_until: None,
        waves,
        messages_per_hour: if chance.percent(25) {
            u32::try_from(chance.between(20, 120)).ok()
        } else {
            None
        },
        mode: *chance.pick(&[
            SendMode::Real,
            SendMode::Real,
            SendMode::Real,
            SendMode::Real,
            SendMode::Real,
            SendMode::Test,
            SendMode::Dry,
        ]),
        retry: RetrySchedule {
            steps: vec![Duration::from_secs(600); 3],
            then_every: Duration::from_secs(3_600),
            greylisted: Duration::from_secs(600),
            jitter_percent: 10,
        },
        stream,
        tenant: String::new(),
    };
    let domains = (0..chance.between(1, plan.recipients_max))
        .map(|_| {
            if chance.percent(97) {
                let real = zones.len() - 2;
                zones[usize::try_from(chance.between(0, real as u64 - 1)).unwrap_or(0)].0.clone()
            } else {
                chance.pick(zones).0.clone()
            }
        })
        .collect();
    Mailing { options, domains }
}

fn draw_restart(chance: &mut Chance) -> Restart {
    let boot = chance.percent(30);
    let wall_error = match (chance.percent(60), boot) {
        (true, _) => 0,
        // A wall clock in the future at the first start after a boot is what nothing can see.
        (false, true) => -i64::try_from(chance.between(1, 7_200)).unwrap_or(0),
        (false, false) => i64::try_from(chance.between(0, 14_400)).unwrap_or(0) - 7_200,
    };
    Restart { after: millis(chance, 10, 120_000), boot, wall_error }
}

fn draw_deeds(
    chance: &mut Chance,
    plan: &Plan,
    mailings: &[Mailing],
    rules: &[(String, Levels)],
    faults_end: Duration,
) -> Vec<(Duration, Deed)> {
    let mut deeds: Vec<(Duration, Deed)> = Vec::new();
    let most = u64::try_from(faults_end.as_millis()).unwrap_or(u64::MAX);
    for (number, mailing) in mailings.iter().enumerate() {
        let start = minutes(chance, 0, 50);
        deeds.push((start, Deed::Start(number)));
        if mailing.options.stream {
            deeds.push((start + minutes(chance, 1, 60), Deed::More(number)));
        }
        if chance.percent(25) {
            let pause = start + minutes(chance, 0, 60);
            deeds.push((pause, Deed::Pause(number)));
            deeds.push((pause + minutes(chance, 1, 90), Deed::Resume(number)));
        }
        if chance.percent(12) {
            deeds.push((start + minutes(chance, 0, 90), Deed::Cancel(number)));
        }
    }
    for number in 1..rules.len() {
        deeds.push((minutes(chance, 1, 120), Deed::Rules(number)));
    }
    for _ in 0..chance.between(0, plan.restarts_max) {
        // Most while the mailings run.
        let last = if chance.percent(70) { most / 3 } else { most };
        let at = millis(chance, 1, last);
        let restart = draw_restart(chance);
        let deed = match chance.between(1, 8) {
            1..=4 => Deed::Crash { steps: chance.between(0, 300), restart },
            5 | 6 => Deed::CrashAtCommit { commits: chance.between(0, 20), restart },
            _ => Deed::Drain(restart),
        };
        deeds.push((at, deed));
    }
    if plan.faults && chance.percent(25) {
        let span =
            if chance.percent(50) { millis(chance, 10, 30_000) } else { minutes(chance, 0, 15) };
        deeds.push((minutes(chance, 0, 100), Deed::Freeze(span)));
    }
    if plan.faults && chance.percent(25) {
        let span =
            if chance.percent(50) { millis(chance, 10, 5_000) } else { minutes(chance, 0, 20) };
        deeds.push((minutes(chance, 0, 100), Deed::DiskFull(span)));
    }
    draw_bans(chance, mailings, &mut deeds);
    deeds.sort_by_key(|(at, _)| *at);
    deeds
}

/// Who may not be written to any more, while the mailings run.
fn draw_bans(chance: &Chance, mailings: &[Mailing], deeds: &mut Vec<(Duration, Deed)>) {
    // A chance of its own, so that the rest of a world is drawn as if there were no bans.
    let mut chance = Chance::new(!chance.clone().next());
    for mailing in 0..mailings.len() {
        if !chance.percent(40) {
            continue;
        }
        let (at, every) = (minutes(&mut chance, 1, 110), chance.between(1, 5));
        deeds.push((at, Deed::Forbid { mailing, every, denied: chance.percent(50) }));
        if chance.percent(30) {
            deeds.push((at + minutes(&mut chance, 1, 60), Deed::Free { mailing, every }));
        }
    }
}
