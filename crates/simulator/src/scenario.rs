//! A world as text: what a failing seed was made small to, kept for as long as the defect must not come back.
//!
//! A seed is no test: as soon as worlds are drawn in another way, it is another world. A scenario says all that the script
//! of a world says, as TOML: rules, providers and their moods, deliveries, deeds. `cargo xtask simulate --shrink K` prints
//! one; those in `scenarios/` are run by the tests, each under the name of the defect that it shows.
//!
//! **Promise.** What [`write()`] writes, [`read`] reads as the same script, and the world of it has the same history.
//!
//! **Fails** with the line of what is not understood. Chance within a world (who of those in a hundred is refused) is
//! that of the number in `chance`: scenarios that rest on it should be made small until they do not.

use core::time::Duration;
use std::collections::BTreeMap;

use engine::work::{DeliveryOptions, RetrySchedule, SendMode, Wave, WaveSize};
use engine::{Affinity, BreakerSettings, Settings, Source};
use mail::id::{Priority, SourceId};
use mail::mask::Mask;
use quota::{SourceCaps, WarmUpCaps};
use rules::Levels;
use serde::{Deserialize, Serialize};

use crate::Sabotage;
use crate::chance::Chance;
use crate::plan::{Deed, Mailing, Provider, Script, WAVE_PERCENT, Zone};
use crate::reactions::{DrawnReaction, Reactions};

/// A world as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    /// State of the generator where the world begins, in hexadecimal digits.
    chance: String,
    /// The world begins so many seconds after a full hour.
    second: u64,
    #[serde(with = "span")]
    faults_end: Duration,
    #[serde(with = "span")]
    commit: Duration,
    /// Absent: no bound.
    commit_requests_max: Option<usize>,
    #[serde(default, skip_serializing_if = "is_default")]
    drift: i64,
    settings: WrittenSettings,
    sources: Vec<WrittenSource>,
    affinities: Vec<WrittenAffinity>,
    warm_up: Vec<Vec<WrittenCaps>>,
    rules: Vec<WrittenRules>,
    reactions: Vec<WrittenReactions>,
    providers: Vec<Provider>,
    zones: Vec<WrittenZone>,
    mailings: Vec<WrittenMailing>,
    deeds: Vec<WrittenDeed>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSettings {
    window_messages_max: usize,
    group_window_messages_max: usize,
    domains_max: usize,
    connections_max: usize,
    breaker_messages: u32,
    breaker_error_percent: u8,
    #[serde(with = "span")]
    breaker_rest: Duration,
    /// In hexadecimal digits.
    seed: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSource {
    id: u32,
    weight: u32,
    #[serde(default, skip_serializing_if = "is_default")]
    excluded: Vec<String>,
    messages_per_hour: Option<u32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenAffinity {
    name: String,
    sources: Vec<SourceId>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenCaps {
    source: SourceId,
    caps: SourceCaps,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRules {
    text: String,
    levels: Levels,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenReactions {
    text: String,
    /// How long the rule suspends whose effect the judge works out for itself.
    #[serde(default, skip_serializing_if = "is_default")]
    judged_seconds: Option<u64>,
    shipped: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenZone {
    domain: String,
    answer: Zone,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenMailing {
    affinity: String,
    priority: Priority,
    mode: SendMode,
    #[serde(with = "span")]
    validity: Duration,
    #[serde(default, skip_serializing_if = "is_default")]
    stream: bool,
    messages_per_hour: Option<u32>,
    /// When each wave begins.
    #[serde(default, skip_serializing_if = "is_default", with = "spans")]
    waves: Vec<Duration>,
    #[serde(with = "spans")]
    retry_steps: Vec<Duration>,
    #[serde(with = "span")]
    retry_then_every: Duration,
    #[serde(with = "span")]
    retry_greylisted: Duration,
    retry_jitter_percent: u8,
    /// How many recipients in a row have which domain.
    recipients: Vec<(u64, String)>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenDeed {
    #[serde(with = "span")]
    at: Duration,
    deed: Deed,
}

/// Whether a field says nothing.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A world as text.
pub(crate) fn write(script: &Script, chance: &Chance, second: u64) -> String {
    let settings = &script.settings;
    let written = Written {
        chance: format!("{:016x}", chance.state()),
        second,
        faults_end: script.faults_end,
        commit: script.commit,
        commit_requests_max: Some(script.commit_requests_max).filter(|most| *most < 1_000_000),
        drift: script.drift,
        settings: WrittenSettings {
            window_messages_max: settings.window_messages_max,
            group_window_messages_max: settings.group_window_messages_max,
            domains_max: settings.domains_max,
            connections_max: settings.connections_max,
            breaker_messages: settings.breaker.messages,
            breaker_error_percent: settings.breaker.error_percent,
            breaker_rest: settings.breaker.rest,
            seed: format!("{:016x}", settings.seed),
        },
        sources: script.sources.iter().map(|source| written_source(script, source)).collect(),
        affinities: script
            .affinities
            .iter()
            .map(|one| WrittenAffinity { name: one.name.clone(), sources: one.sources.clone() })
            .collect(),
        warm_up: script
            .warm_up
            .iter()
            .map(|caps| {
                let caps = caps.sources.iter();
                caps.map(|(source, caps)| WrittenCaps { source: *source, caps: caps.clone() })
                    .collect()
            })
            .collect(),
        rules: script
            .rules
            .iter()
            .map(|(text, levels)| WrittenRules { text: text.clone(), levels: levels.clone() })
            .collect(),
        reactions: script
            .reactions
            .iter()
            .map(|one| WrittenReactions {
                text: one.text.clone(),
                judged_seconds: one.drawn.map(|drawn| drawn.lasts.as_secs()),
                shipped: one.shipped,
            })
            .collect(),
        providers: script.providers.clone(),
        zones: script
            .zones
            .iter()
            .map(|(domain, zone)| WrittenZone { domain: domain.clone(), answer: zone.clone() })
            .collect(),
        mailings: script.mailings.iter().map(written_mailing).collect(),
        deeds: script
            .deeds
            .iter()
            .map(|(at, deed)| WrittenDeed { at: *at, deed: deed.clone() })
            .collect(),
    };
    toml::to_string_pretty(&written).expect("numbers are small, and keys are words")
}

fn written_source(script: &Script, source: &Source) -> WrittenSource {
    let excluded = script.excluded.iter().filter(|(id, _)| *id == source.id);
    WrittenSource {
        id: source.id.0,
        weight: source.weight,
        excluded: excluded.map(|(_, domain)| domain.clone()).collect(),
        messages_per_hour: script.source_limits.get(&source.id).copied(),
    }
}

fn written_mailing(mailing: &Mailing) -> WrittenMailing {
    let options = &mailing.options;
    let mut recipients: Vec<(u64, String)> = Vec::new();
    for domain in &mailing.domains {
        match recipients.last_mut() {
            Some((count, last)) if last == domain => *count += 1,
            _ => recipients.push((1, domain.clone())),
        }
    }
    WrittenMailing {
        affinity: options.affinity.clone(),
        priority: options.priority,
        mode: options.mode,
        validity: options.validity,
        stream: options.stream,
        messages_per_hour: options.messages_per_hour,
        waves: options.waves.iter().map(|wave| wave.start_after).collect(),
        retry_steps: options.retry.steps.clone(),
        retry_then_every: options.retry.then_every,
        retry_greylisted: options.retry.greylisted,
        retry_jitter_percent: options.retry.jitter_percent,
        recipients,
    }
}

/// The world of a text: its script, its chance, and its second.
///
/// # Errors
/// What is not understood, and where.
pub(crate) fn read(text: &str, sabotage: Sabotage) -> Result<(Script, Chance, u64), String> {
    let written: Written = toml::from_str(text).map_err(|fault| fault.to_string())?;
    let number = |digits: &str| {
        u64::from_str_radix(digits, 16).map_err(|fault| format!("`{digits}`: {fault}"))
    };
    let chance = Chance::new(number(&written.chance)?);
    let settings = written.settings;
    let second = written.second;
    let script = Script {
        settings: Settings {
            window_messages_max: settings.window_messages_max,
            group_window_messages_max: settings.group_window_messages_max,
            domains_max: settings.domains_max,
            connections_max: settings.connections_max,
            breaker: BreakerSettings {
                messages: settings.breaker_messages,
                error_percent: settings.breaker_error_percent,
                rest: settings.breaker_rest,
            },
            seed: number(&settings.seed)?,
            ..Settings::default()
        },
        excluded: written
            .sources
            .iter()
            .flat_map(|one| one.excluded.iter().map(|domain| (SourceId(one.id), domain.clone())))
            .collect(),
        source_limits: written
            .sources
            .iter()
            .filter_map(|one| Some((SourceId(one.id), one.messages_per_hour?)))
            .collect::<BTreeMap<_, _>>(),
        sources: written
            .sources
            .into_iter()
            .map(|one| Source {
                id: SourceId(one.id),
                weight: one.weight,
                include_domains: Vec::new(),
                exclude_domains: one.excluded.iter().map(|domain| Mask::new(domain)).collect(),
                ipv6: false,
            })
            .collect(),
        affinities: written
            .affinities
            .into_iter()
            .map(|one| Affinity { name: one.name, sources: one.sources })
            .collect(),
        warm_up: written
            .warm_up
            .into_iter()
            .map(|caps| WarmUpCaps {
                sources: caps.into_iter().map(|one| (one.source, one.caps)).collect(),
            })
            .collect(),
        rules: written.rules.into_iter().map(|one| (one.text, one.levels)).collect(),
        reactions: written.reactions.into_iter().map(read_reactions).collect(),
        providers: written.providers,
        zones: written.zones.into_iter().map(|one| (one.domain, one.answer)).collect(),
        mailings: written.mailings.into_iter().map(read_mailing).collect(),
        deeds: written.deeds.into_iter().map(|one| (one.at, one.deed)).collect(),
        faults_end: written.faults_end,
        commit: written.commit,
        commit_requests_max: written.commit_requests_max.unwrap_or(usize::MAX),
        drift: written.drift,
        sabotage,
    };
    Ok((script, chance, second))
}

fn read_reactions(written: WrittenReactions) -> Reactions {
    let lasts = written.judged_seconds.map(Duration::from_secs);
    let drawn = lasts.map(|lasts| DrawnReaction { lasts });
    Reactions { text: written.text, drawn, shipped: written.shipped }
}

fn read_mailing(written: WrittenMailing) -> Mailing {
    let size = WaveSize::Percent(WAVE_PERCENT as f64);
    let domains = written.recipients.into_iter().flat_map(|(count, domain)| {
        core::iter::repeat_n(domain, usize::try_from(count).unwrap_or(0))
    });
    Mailing {
        options: DeliveryOptions {
            affinity: written.affinity,
            priority: written.priority,
            validity: written.validity,
            waves: written
                .waves
                .into_iter()
                .map(|start_after| Wave { size, start_after })
                .collect(),
            messages_per_hour: written.messages_per_hour,
            mode: written.mode,
            retry: RetrySchedule {
                steps: written.retry_steps,
                then_every: written.retry_then_every,
                greylisted: written.retry_greylisted,
                jitter_percent: written.retry_jitter_percent,
            },
            stream: written.stream,
            ..DeliveryOptions::default()
        },
        domains: domains.collect(),
    }
}

/// Spans as `90s`, `1500ms` or `20us`.
pub(crate) mod span {
    use core::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(crate) fn text(span: Duration) -> String {
        let micros = span.as_micros();
        match (micros % 1_000_000, micros % 1_000) {
            (0, _) => format!("{}s", micros / 1_000_000),
            (_, 0) => format!("{}ms", micros / 1_000),
            _ => format!("{micros}us"),
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Duration> {
        let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let number = digits.parse().ok()?;
        match &text[digits.len()..] {
            "s" => Some(Duration::from_secs(number)),
            "ms" => Some(Duration::from_millis(number)),
            "us" => Some(Duration::from_micros(number)),
            _ => None,
        }
    }

    pub(crate) fn serialize<S: Serializer>(span: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&text(*span))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        parse(&text)
            .ok_or_else(|| serde::de::Error::custom(format!("`{text}` is no span like `90s`")))
    }
}

/// Several spans.
mod spans {
    use core::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    pub(super) fn serialize<S: Serializer>(spans: &[Duration], to: S) -> Result<S::Ok, S::Error> {
        let texts: Vec<String> = spans.iter().map(|span| super::span::text(*span)).collect();
        texts.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<Duration>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        let parsed = texts.iter().map(|text| super::span::parse(text));
        parsed
            .collect::<Option<_>>()
            .ok_or_else(|| serde::de::Error::custom(format!("{texts:?} are no spans like `90s`")))
    }
}

/// From when to when.
pub(crate) mod stretches {
    use core::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        stretches: &[(Duration, Duration)],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let text = |(from, until): &(Duration, Duration)| {
            (super::span::text(*from), super::span::text(*until))
        };
        stretches.iter().map(text).collect::<Vec<_>>().serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<(Duration, Duration)>, D::Error> {
        let texts = Vec::<(String, String)>::deserialize(from)?;
        let parsed = texts
            .iter()
            .map(|(from, until)| Some((super::span::parse(from)?, super::span::parse(until)?)));
        parsed
            .collect::<Option<_>>()
            .ok_or_else(|| serde::de::Error::custom(format!("{texts:?} are no spans like `90s`")))
    }
}

/// When a domain moves, and where.
pub(crate) mod moving {
    use core::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    #[allow(clippy::ref_option, reason = "the form that serde asks for")]
    pub(crate) fn serialize<S: Serializer>(
        moves: &Option<(Duration, usize)>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        moves.map(|(at, other)| (super::span::text(at), other)).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<(Duration, usize)>, D::Error> {
        let Some((at, other)) = Option::<(String, usize)>::deserialize(from)? else {
            return Ok(None);
        };
        let at = super::span::parse(&at)
            .ok_or_else(|| serde::de::Error::custom(format!("`{at}` is no span like `90s`")))?;
        Ok(Some((at, other)))
    }
}

#[cfg(test)]
mod tests;
