//! How a world is drawn from its seed.

use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;
use std::collections::BTreeMap;

use engine::work::{DeliveryOptions, RetrySchedule, SendMode, Wave, WaveSize};
use engine::{Affinity, BreakerSettings, Settings, Source};
use mail::id::{Priority, SourceId};
use mail::mask::Mask;
use rules::{Level, Levels};

use super::{
    Deed, Host, Mailing, Mood, Network, Plan, Provider, Restart, Script, WAVE_PERCENT, Zone,
};
use crate::chance::Chance;
use crate::reactions::Reactions;

pub(crate) fn minutes(chance: &mut Chance, low: u64, high: u64) -> Duration {
    Duration::from_millis(chance.between(low * 60_000, high * 60_000))
}

pub(crate) fn millis(chance: &mut Chance, low: u64, high: u64) -> Duration {
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
                    nothing: Vec::new(),
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
        if plan.faults {
            draw_gone(chance, &mut zones);
        }
        zones.push(("nothing.example".into(), Zone::Nothing));
        zones.push(("null.example".into(), Zone::Null));
        let mut rules = vec![draw_rules(chance, providers.len())];
        for _ in 1..chance.between(1, 3) {
            // Either another file of rules, or the same at another level.
            let (text, levels) = draw_rules(chance, providers.len());
            let same = chance.percent(40).then(|| rules[0].0.clone());
            rules.push((same.unwrap_or(text), levels));
        }
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
            warm_up: vec![draw_warm_up(chance, &ids)],
        }
    }
}

pub(crate) fn draw_settings(chance: &mut Chance) -> Settings {
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

pub(crate) type DrawnSources = (Vec<Source>, Vec<Affinity>, Vec<(SourceId, String)>);

pub(crate) fn draw_sources(chance: &mut Chance) -> DrawnSources {
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

pub(crate) fn draw_source_limits(
    chance: &mut Chance,
    sources: &[Source],
) -> BTreeMap<SourceId, u32> {
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

pub(crate) fn draw_provider(chance: &mut Chance, number: u64, faults: bool) -> Provider {
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
    let latency = millis(chance, 1, 100);
    let network = if faults { draw_network(chance) } else { Network::default() };
    let mut mood =
        if faults { draw_mood(chance) } else { Mood { pipelining: true, ..Mood::default() } };
    // By what was drawn already, so that a seed draws the same plan as it did before there was BDAT.
    mood.chunking = latency.as_millis().is_multiple_of(2);
    mood.unknown_bdat = faults && latency.as_millis().is_multiple_of(20);
    Provider { hosts, domains, latency, network, mood, spells: Vec::new() }
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
    if chance.percent(10) {
        mood.unwelcome_percent = *chance.pick(&[10, 50, 100]);
    }
    if chance.percent(10) {
        mood.swallow_percent = chance.between(1, 15);
    }
    if chance.percent(15) {
        mood.reject_percent = chance.between(1, 20);
    }
    if chance.percent(10) {
        mood.drip = millis(chance, 1, 4_000);
    }
    mood
}

/// The figures of a rule: `hourly` messages an hour, up to `connections` at a time, of which up to `starts` may begin in
/// a minute.
pub(crate) fn draw_figures(
    chance: &mut Chance,
    hourly: u64,
    connections: u64,
    starts: u64,
) -> String {
    use core::fmt::Write as _;
    let mut figures = format!(
        "max_connections = {}\nmax_messages_per_connection = {}\nmessages_per_hour = {hourly}\npacing = \"{}\"\ntimeout = \"{}s\"\ndata_timeout = \"{}s\"\nconnect_timeout = \"20s\"\n",
        chance.between(1, connections),
        chance.between(1, 30),
        chance.pick(&["staircase", "even", "burst"]),
        chance.between(10, 60),
        chance.between(20, 120),
    );
    if chance.percent(20) {
        // Writing to a String cannot fail.
        let _ = writeln!(figures, "connections_per_minute = {}", chance.between(2, starts));
    }
    figures
}

fn draw_rules(chance: &mut Chance, providers: usize) -> (String, Levels) {
    use core::fmt::Write as _;
    let mut text = String::from("schema_version = 1\n");
    let figures = |chance: &mut Chance| {
        // Most limits are so low that a world presses against them.
        let hourly =
            if chance.percent(60) { chance.between(12, 50) } else { chance.between(50, 400) };
        draw_figures(chance, hourly, 6, 20)
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

pub(crate) fn draw_restart(chance: &mut Chance) -> Restart {
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

/// Domains that are gone from DNS for some minutes.
fn draw_gone(chance: &Chance, zones: &mut [(String, Zone)]) {
    // A chance of its own, so that the rest of a world is drawn as if none were ever gone.
    let mut chance = Chance::new(chance.clone().next().rotate_left(32));
    for (_, zone) in zones {
        let Zone::Mx { nothing, .. } = zone else { continue };
        if !chance.percent(15) {
            continue;
        }
        for _ in 0..chance.between(1, 3) {
            let from = minutes(&mut chance, 0, 110);
            nothing.push((from, from + minutes(&mut chance, 1, 20)));
        }
    }
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
