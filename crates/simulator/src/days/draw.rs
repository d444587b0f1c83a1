//! How a world of many days is drawn.

use core::fmt::Write as _;
use core::time::Duration;
use std::collections::BTreeMap;

use engine::work::{DeliveryOptions, RetrySchedule, SendMode, Wave, WaveSize};
use mail::id::{Priority, SourceId};
use quota::{SourceCaps, WarmUpCaps};
use rules::{Level, Levels};

use super::DaysPlan;
use crate::chance::Chance;
use crate::plan::draw::{
    draw_figures, draw_provider, draw_restart, draw_settings, draw_source_limits, draw_sources,
    millis, minutes,
};
use crate::plan::{Deed, Mailing, Provider, Restart, Script, WAVE_PERCENT, Zone};
use crate::reactions::Reactions;

const DAY: Duration = Duration::from_secs(86_400);

/// The scopes, which are part of the names: so the auditor, who knows a rule by its name, can judge days on which
/// the scope was another.
const SCOPES: [&str; 3] = ["source", "path", "rule"];

/// Draws a world.
pub(super) fn script(chance: &mut Chance, plan: &DaysPlan) -> Script {
    let span = DAY * u32::try_from(plan.days.clamp(1, 400)).unwrap_or(1);
    let (sources, affinities, excluded) = draw_sources(chance);
    let source_limits = draw_source_limits(chance, &sources);
    let ids: Vec<SourceId> = sources.iter().map(|source| source.id).collect();
    let mut providers: Vec<Provider> =
        (0..chance.between(1, 3)).map(|number| draw_provider(chance, number, true)).collect();
    providers.iter_mut().for_each(|provider| spread(chance, provider, span));
    let zones = zones(chance, &providers);
    let mut deeds = Vec::new();
    let rules = rules(chance, plan.days, providers.len(), &mut deeds);
    let warm_up = warm_up(chance, plan.days, &ids, &mut deeds);
    let mut mailings = Vec::new();
    let mut boot_allowed = true;
    for day in 0..plan.days {
        let from = DAY * u32::try_from(day).unwrap_or(0);
        // On one day in seven nobody mails.
        if !chance.percent(14) {
            for _ in 0..chance.between(1, 4) {
                mail(chance, from, &zones, &mut mailings, &mut deeds);
            }
        }
        disturb(chance, from, &mut boot_allowed, &mut deeds);
    }
    let reactions: Vec<Reactions> = (0..3).map(|_| Reactions::draw(chance)).collect();
    for _ in 0..plan.days.div_ceil(4) {
        let which = usize::try_from(chance.between(0, 2)).unwrap_or(0);
        deeds.push((within(chance, span), Deed::Reactions(which)));
    }
    deeds.sort_by_key(|(at, _)| *at);
    Script {
        settings: draw_settings(chance),
        sources,
        affinities,
        excluded,
        source_limits,
        warm_up,
        rules,
        providers,
        zones,
        mailings,
        reactions,
        deeds,
        faults_end: span,
        commit: millis(chance, 1, 30),
        commit_requests_max: *chance.pick(&[1, 5, 1_000, 1_000]),
        drift: i64::try_from(chance.between(0, 100)).unwrap_or(50) - 50,
        sabotage: plan.sabotage,
    }
}

fn within(chance: &mut Chance, span: Duration) -> Duration {
    Duration::from_millis(chance.between(1, u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
}

/// Moods and partitions come and go over the days.
fn spread(chance: &mut Chance, provider: &mut Provider, span: Duration) {
    let mut from = minutes(chance, 0, 1_440);
    while from < span {
        let until = from + minutes(chance, 30, 900);
        provider.spells.push((from, until));
        from = until + minutes(chance, 120, 2_880);
    }
    for _ in 0..provider.network.partitions.len() * 4 {
        let from = within(chance, span);
        provider.network.partitions.push((from, from + millis(chance, 100, 900_000)));
    }
}

fn zones(chance: &mut Chance, providers: &[Provider]) -> Vec<(String, Zone)> {
    let mut zones = Vec::new();
    for (provider, of) in providers.iter().enumerate() {
        for domain in &of.domains {
            let fails = chance.percent(20);
            let zone = Zone::Mx {
                provider,
                ttl: minutes(chance, 5, 600),
                servfail_until: if fails { minutes(chance, 1, 90) } else { Duration::ZERO },
                nothing: Vec::new(),
                one_host_until: minutes(chance, 0, 1_440),
                fails_percent: if fails { chance.between(0, 30) } else { 0 },
                slow: millis(chance, 200, if fails { 15_000 } else { 200 }),
                moves: None,
            };
            zones.push((domain.clone(), zone));
        }
    }
    zones
}

/// Sets of rules and levels, and when each takes the place of the one before it.
fn rules(
    chance: &mut Chance,
    days: u64,
    providers: usize,
    deeds: &mut Vec<(Duration, Deed)>,
) -> Vec<(String, Levels)> {
    let span = DAY * u32::try_from(days).unwrap_or(1);
    let changes = days.max(1) * chance.between(0, 3) / 2 + 1;
    let mut times: Vec<Duration> = (0..changes).map(|_| within(chance, span)).collect();
    times.sort();
    let mut rules = vec![(rule_text(chance, providers), levels(chance))];
    for at in times {
        let before = rules[rules.len() - 1].0.clone();
        let text = if chance.percent(45) { before } else { rule_text(chance, providers) };
        deeds.push((at, Deed::Rules(rules.len())));
        rules.push((text, levels(chance)));
    }
    rules
}

fn levels(chance: &mut Chance) -> Levels {
    let all =
        [Level::Normal, Level::Normal, Level::Fast, Level::VeryFast, Level::Slow, Level::Custom];
    let mut levels = Levels::all(*chance.pick(&all));
    if chance.percent(30) {
        let scope = chance.pick(&SCOPES);
        levels.per_rule.insert(format!("p0-{scope}"), *chance.pick(&all));
    }
    levels
}

/// A rule of each scope for every provider, of which one governs it.
fn rule_text(chance: &mut Chance, providers: usize) -> String {
    let mut text = String::from("schema_version = 1\n");
    for provider in 0..providers {
        let governs = *chance.pick(&SCOPES);
        for scope in SCOPES {
            let zone = if scope == governs { "example" } else { scope };
            let own = figures(chance);
            // An attempt that is under way when the rules are replaced is logged under the new rule's name, at a time
            // when that rule governed nobody and so had no limit.
            let own = if scope == governs { own } else { unlimited(&own) };
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "[[rule]]\nname = \"p{provider}-{scope}\"\nmask = \"*.p{provider}.{zone}\"\nscope = \"{scope}\"\n{own}"
            );
        }
    }
    let rest = figures(chance);
    // Writing to a String cannot fail.
    let _ = write!(text, "[[rule]]\nname = \"rest\"\nmask = \"*\"\n{rest}");
    text
}

/// The same figures with an hourly limit that nothing comes near.
fn unlimited(figures: &str) -> String {
    let lines = figures.lines();
    let lines = lines.map(|line| match line.starts_with("messages_per_hour") {
        true => "messages_per_hour = 1000000\n".to_owned(),
        false => format!("{line}\n"),
    });
    lines.collect()
}

fn figures(chance: &mut Chance) -> String {
    let hourly = if chance.percent(70) { chance.between(4, 40) } else { chance.between(40, 250) };
    draw_figures(chance, hourly, 5, 10)
}

/// Plans of warm-up: the caps of a day grow from day to day.
fn warm_up(
    chance: &mut Chance,
    days: u64,
    sources: &[SourceId],
    deeds: &mut Vec<(Duration, Deed)>,
) -> Vec<WarmUpCaps> {
    let mut plans: Vec<(SourceId, f64, bool, bool)> = Vec::new();
    for source in sources {
        if chance.percent(45) {
            let first = chance.between(15, 70) as f64;
            plans.push((*source, first, chance.percent(60), chance.percent(60)));
        }
    }
    // A plan that is begun again, or held back for some days, falls.
    let mut growth = 1.0;
    let mut caps = Vec::new();
    for day in 0..days {
        let of = |(source, first, hourly, line): &(SourceId, f64, bool, bool)| {
            let per_day = (first * growth) as u32;
            let caps = SourceCaps {
                per_hour: hourly.then_some((per_day / 5).max(1)),
                per_day: Some(per_day),
                provider_per_day: line.then_some((per_day / 2).max(1)),
                providers: BTreeMap::new(),
            };
            (*source, caps)
        };
        caps.push(WarmUpCaps { sources: plans.iter().map(of).collect() });
        if day > 0 {
            let at = DAY * u32::try_from(day).unwrap_or(0) + minutes(chance, 0, 600);
            deeds.push((at, Deed::WarmUp(usize::try_from(day).unwrap_or(0))));
        }
        growth = if chance.percent(10) { 1.0 } else { (growth * 1.2_f64).min(8.0) };
    }
    caps
}

/// One mailing of a day: mostly to one provider, and more than may go at once.
fn mail(
    chance: &mut Chance,
    day: Duration,
    zones: &[(String, Zone)],
    mailings: &mut Vec<Mailing>,
    deeds: &mut Vec<(Duration, Deed)>,
) {
    let stream = chance.percent(20);
    let waves = if !stream && chance.percent(15) {
        let size = WaveSize::Percent(WAVE_PERCENT as f64);
        let wave = |start_after| Wave { size, start_after };
        vec![wave(Duration::ZERO), wave(minutes(chance, 1, 60)), wave(minutes(chance, 61, 240))]
    } else {
        Vec::new()
    };
    let options = DeliveryOptions {
        affinity: if chance.percent(15) { "first".into() } else { "default".into() },
        priority: *chance.pick(&[Priority::High, Priority::Normal, Priority::Low]),
        validity: minutes(chance, 240, 1_800),
        waves,
        messages_per_hour: chance
            .percent(20)
            .then(|| u32::try_from(chance.between(10, 60)).unwrap_or(10)),
        mode: if chance.percent(4) { SendMode::Test } else { SendMode::Real },
        retry: RetrySchedule {
            steps: vec![Duration::from_secs(900); 3],
            then_every: Duration::from_secs(7_200),
            greylisted: Duration::from_secs(600),
            jitter_percent: 10,
        },
        stream,
        ..DeliveryOptions::default()
    };
    let favourite = chance.pick(zones).0.clone();
    let domains = (0..chance.between(5, 130))
        .map(|_| if chance.percent(70) { favourite.clone() } else { chance.pick(zones).0.clone() })
        .collect();
    let number = mailings.len();
    mailings.push(Mailing { options, domains });
    let start = day + minutes(chance, 0, 1_380);
    deeds.push((start, Deed::Start(number)));
    if stream {
        deeds.push((start + minutes(chance, 1, 180), Deed::More(number)));
    }
    if chance.percent(15) {
        let pause = start + minutes(chance, 0, 120);
        deeds.push((pause, Deed::Pause(number)));
        deeds.push((pause + minutes(chance, 1, 180), Deed::Resume(number)));
    }
    if chance.percent(8) {
        deeds.push((start + minutes(chance, 0, 180), Deed::Cancel(number)));
    }
    if chance.percent(10) {
        let (every, denied) = (chance.between(2, 6), chance.percent(50));
        deeds.push((
            start + minutes(chance, 1, 120),
            Deed::Forbid { mailing: number, every, denied },
        ));
    }
}

/// What is done to the process and its machine on one day.
fn disturb(
    chance: &mut Chance,
    day: Duration,
    boot_allowed: &mut bool,
    deeds: &mut Vec<(Duration, Deed)>,
) {
    for _ in 0..*chance.pick(&[0, 0, 1, 1, 2]) {
        let mut restart: Restart = draw_restart(chance);
        // A boot with a wall clock that is behind lets the node's own time fall behind for good: not on every day.
        restart.boot &= *boot_allowed;
        *boot_allowed = !restart.boot;
        let deed = match chance.between(1, 8) {
            1..=4 => Deed::Crash { steps: chance.between(0, 300), restart },
            5 | 6 => Deed::CrashAtCommit { commits: chance.between(0, 20), restart },
            _ => Deed::Drain(restart),
        };
        deeds.push((day + within(chance, DAY), deed));
    }
    if chance.percent(12) {
        let span =
            if chance.percent(50) { millis(chance, 10, 30_000) } else { minutes(chance, 0, 15) };
        deeds.push((day + within(chance, DAY), Deed::Freeze(span)));
    }
    if chance.percent(8) {
        let span =
            if chance.percent(50) { millis(chance, 10, 5_000) } else { minutes(chance, 0, 20) };
        deeds.push((day + within(chance, DAY), Deed::DiskFull(span)));
    }
}
