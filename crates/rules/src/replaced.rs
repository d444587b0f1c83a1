//! What local rules take away: figures of a shipped rule on which the rule in its place is silent.
//!
//! A rule replaces another as a whole. What it does not state it inherits from the generic rule, not from the rule
//! before it, so a limit, a ceiling or required TLS can go without a word having been said of it. [`replaced`] finds
//! every such word. What a local rule states itself, also where it is looser, is meant and not listed.

use core::fmt;
use std::collections::BTreeSet;

use mail::id::SourceId;
use serde::Serialize;

use crate::figure::Figure;
use crate::file::{RuleFile, WrittenRule};
use crate::index::{Entry, MaskIndex};
use crate::level::Level;
use crate::levels::Levels;
use crate::set::RuleSet;
use crate::span::show_span;

/// Something that a shipped rule states and the rule in its place does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// Its key in a rule file, such as `max_connections`, `tls` or `levels.boost.max_connections`.
    pub key: String,
    /// What the shipped rule says.
    pub shipped: String,
    /// What holds instead at level Normal; empty: nothing does.
    pub now: String,
}

impl fmt::Display for Dropped {
    /// `max_messages_per_connection 20, now 100`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let now = if self.now.is_empty() { "none" } else { &self.now };
        write!(out, "{} {}, now {now}", self.key, self.shipped)
    }
}

/// A shipped rule that a local one takes the place of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Replaced {
    /// Name of the shipped rule.
    pub shipped: Box<str>,
    /// Name of the local rule: the same, or that of the first rule whose masks cover all of the shipped rule's.
    pub by: Box<str>,
    /// What is gone, in the order of a rule file. Not listed is what the local rule inherits as it was.
    pub dropped: Vec<Dropped>,
}

/// Every shipped rule that local rules replace, by name or because they come first for all of its hosts from all
/// sources, with what is gone with it. The generic rule is none of them: a local one completes it.
#[must_use]
pub fn replaced(local: &RuleFile, shipped: &RuleFile) -> Vec<Replaced> {
    let combined = RuleFile::combine(Some(local), shipped);
    let set = RuleSet::compile(&combined, &Levels::all(Level::Normal), 0);
    let mut index = MaskIndex::default();
    let local: Vec<&WrittenRule> =
        local.rules().iter().map(|rule| &**rule).filter(|rule| !rule.is_generic()).collect();
    for (number, rule) in (0_u32..).zip(&local) {
        for (mask, text) in (0_u32..).zip(&rule.masks) {
            index.insert(Entry { rule: number, mask }, text);
        }
    }
    let particular = shipped.rules().iter().filter(|rule| !rule.is_generic());
    let found = particular.filter_map(|old| {
        let by_name = local.iter().find(|rule| rule.name == old.name);
        let new = by_name.or_else(|| Some(&local[covering(&local, &index, old)?]))?;
        Some(Replaced {
            shipped: old.name.clone(),
            by: new.name.clone(),
            dropped: dropped(old, new, &set),
        })
    });
    found.collect()
}

/// The first local rule past which nothing reaches the shipped one.
fn covering(local: &[&WrittenRule], index: &MaskIndex, shipped: &WrittenRule) -> Option<usize> {
    let mut all: Option<BTreeSet<usize>> = None;
    for inner in &shipped.masks {
        let entries = index.lists_covering(inner).flatten();
        let covers = |entry: &&Entry| {
            let rule = local[entry.rule as usize];
            rule.sources.is_superset(&shipped.sources)
                && rule.masks[entry.mask as usize].covers(inner)
        };
        let by: BTreeSet<usize> = entries.filter(covers).map(|entry| entry.rule as usize).collect();
        all = Some(match all {
            Some(all) => all.intersection(&by).copied().collect(),
            None => by,
        });
    }
    all?.first().copied()
}

fn dropped(old: &WrittenRule, new: &WrittenRule, set: &RuleSet) -> Vec<Dropped> {
    let mut gone: Vec<Dropped> = Vec::new();
    let mut lose = |key: String, shipped: String, now: String| {
        if shipped != now {
            gone.push(Dropped { key, shipped, now });
        }
    };
    let without: Vec<&str> = old
        .masks
        .iter()
        .filter(|inner| !new.masks.iter().any(|outer| outer.covers(inner)))
        .map(|mask| mask.as_str())
        .collect();
    if !without.is_empty() {
        lose("mask".to_owned(), without.join(" "), String::new());
    }
    if !new.sources.is_superset(&old.sources) {
        lose("sources".to_owned(), old.sources.to_string(), new.sources.to_string());
    }
    let id = set.id_of(&new.name);
    // Any source that the rule is for: they are all at level Normal.
    let source = (1..=10_000).map(SourceId).find(|source| new.sources.contains(*source));
    let limits = id.zip(source).map(|(id, source)| set.limits(id, source));
    for figure in Figure::ALL {
        if let (Some(stated), None) = (old.figures.get(figure), new.figures.get(figure)) {
            let now = limits.and_then(|limits| match figure {
                Figure::MaxConnections => Some(limits.max_connections.into()),
                Figure::MaxMessagesPerConnection => Some(limits.max_messages_per_connection.into()),
                Figure::MessagesPerHour => Some(limits.messages_per_hour.into()),
                Figure::ConnectionsPerMinute => limits.connections_per_minute.map(u64::from),
                Figure::MinInterval => {
                    limits.min_interval.and_then(|span| u64::try_from(span.as_millis()).ok())
                }
            });
            let now = now.map_or_else(String::new, |value| figure.show(value));
            lose(figure.key().to_owned(), figure.show(stated.value), now);
        }
        if let Some(cap) = old.cap(figure)
            && new.cap(figure).is_none()
        {
            let key = match old.published.get(figure).and(figure.published_key()) {
                Some(key) => key.to_owned(),
                None => format!("hard {}", figure.key()),
            };
            lose(key, figure.show(cap), String::new());
        }
    }
    let rule = id.and_then(|id| set.rules().nth(id.0 as usize)).map(|(_, rule)| rule);
    for (key, was, is, now) in [
        (
            "connect_timeout",
            old.timeouts.connect,
            new.timeouts.connect,
            rule.map(|rule| rule.timeouts.connect),
        ),
        ("data_timeout", old.timeouts.data, new.timeouts.data, rule.map(|rule| rule.timeouts.data)),
        ("timeout", old.timeouts.other, new.timeouts.other, rule.map(|rule| rule.timeouts.other)),
    ] {
        if let (Some(was), None) = (was, is) {
            lose(key.to_owned(), show_span(was), now.map_or_else(String::new, show_span));
        }
    }
    if let (Some(was), None) = (old.tls, new.tls) {
        let now = rule.map_or_else(String::new, |rule| rule.tls.to_string());
        lose("tls".to_owned(), was.to_string(), now);
    }
    if let (Some(was), None) = (old.pacing, new.pacing) {
        let now = rule.map_or_else(String::new, |rule| rule.pacing.to_string());
        lose("pacing".to_owned(), was.to_string(), now);
    }
    for (level, figures) in &old.levels {
        for figure in Figure::ALL {
            let stated = |rule: &WrittenRule| {
                rule.levels.get(level).and_then(|figures| figures.get(figure)).is_some()
            };
            if let Some(was) = figures.get(figure)
                && !stated(new)
            {
                let key = format!("levels.{level}.{}", figure.key());
                lose(key, figure.show(was.value), String::new());
            }
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(text: &str) -> Vec<String> {
        let text = format!("schema_version = 1\n{text}");
        let local = crate::parse_local("own.toml", text.as_bytes())
            .unwrap_or_else(|faults| panic!("{faults:?}"));
        let found = replaced(&local, crate::shipped());
        let lines = found.iter().flat_map(|one| {
            one.dropped.iter().map(move |gone| {
                format!("{} {} {} {}>{}", one.shipped, one.by, gone.key, gone.shipped, gone.now)
            })
        });
        lines.collect()
    }

    #[test]
    fn what_a_rule_takes_away_is_found_by_name_and_by_mask() {
        let yahoo = |name: &str| {
            format!(
                "[[rule]]\nname = \"{name}\"\nmask = \"*.yahoodns.net\"\nmax_connections = 5\n\
                 matches = \"mta5.am0.yahoodns.net\"\nmatches_not = \"yahoo.com\"\n"
            )
        };
        let by_name = gone(&yahoo("yahoo"));
        assert!(
            by_name.iter().any(|line| line == "yahoo yahoo max_messages_per_connection 20>100"),
            "{by_name:?}"
        );
        assert!(by_name.iter().all(|line| !line.contains(" max_connections ")), "{by_name:?}");
        let by_mask = gone(&yahoo("own"));
        assert!(
            by_mask.iter().any(|line| line == "yahoo own max_messages_per_connection 20>100"),
            "{by_mask:?}"
        );
        let google = gone(
            "[[rule]]\nname = \"google\"\nmask = \"*.google.com\"\nmax_messages_per_connection = 50\n\
             matches = \"aspmx.l.google.com\"\nmatches_not = \"google.com\"\n",
        );
        for wanted in ["google google tls required>default", "google google mask *.googlemail.com>"]
        {
            assert!(google.iter().any(|line| line == wanted), "{wanted}: {google:?}");
        }
        // A rule for one host of a provider leaves the provider's rule in force.
        let part = gone(
            "[[rule]]\nname = \"one\"\nmask = \"mta5.am0.yahoodns.net\"\nmax_connections = 5\n\
             matches = \"mta5.am0.yahoodns.net\"\nmatches_not = \"yahoo.com\"\n",
        );
        assert!(part.is_empty(), "{part:?}");
    }
}
