//! Compiled rules: levels applied, masks indexed, ready to be asked.
//!
//! A [`RuleSet`] never changes. A change of rules or levels makes a new one with a new version, and
//! whoever holds the old one in an `Arc` finishes with it.

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;

use mail::id::SourceId;
use mail::mask::Mask;
use serde::{Deserialize, Serialize, Serializer};

use crate::bundle::LevelFigures;
use crate::columns::{self, FigureColumns, RuleColumns};
use crate::diagnostic::Place;
use crate::explain::{self, AppliedCap, CapReason, FigureOrigin};
use crate::figure::Figure;
use crate::file::{RuleFile, WrittenRule};
use crate::index::{Entry, MaskIndex};
use crate::level::Level;
use crate::levels::Levels;
use crate::parse::distance;
use crate::sources::SourceSet;
use crate::words::{Confidence, Pacing, Scope, TlsPolicy};

/// The number of a rule in its [`RuleSet`], from 0 in the order in which rules are tried. It means
/// nothing in another set; what lasts is the rule's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RuleId(pub u32);

/// The limits of a rule for one source, at that source's level. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Limits {
    /// Connections open at the same time, per budget.
    pub max_connections: u32,
    /// Messages on one connection before it is closed.
    pub max_messages_per_connection: u32,
    /// Messages (MAIL FROM) in any 3,600 consecutive seconds, per budget.
    pub messages_per_hour: u32,
    /// Connections opened in any 60 consecutive seconds, per budget.
    pub connections_per_minute: Option<u32>,
    /// Shortest time between the starts of two connections of one budget.
    pub min_interval: Option<Duration>,
}

/// How long a conversation waits (RFC 5321, 4.5.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Timeouts {
    /// Until the TCP connection stands.
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub connect: Duration,
    /// For the answer to the final dot.
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub data: Duration,
    /// For the greeting and the answer to every other command.
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub other: Duration,
}

/// Spans are written as in rule files: `30s`.
fn as_text<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&crate::span::show_span(*span))
}

/// Reads what [`as_text`] writes.
fn from_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    crate::span::parse_span(&text).map_err(serde::de::Error::custom)
}

impl Default for Timeouts {
    /// 30 seconds to connect, 10 minutes for the answer to the final dot, 5 minutes otherwise. The
    /// last two are what RFC 5321 asks for at least.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            data: Duration::from_secs(600),
            other: Duration::from_secs(300),
        }
    }
}

/// A compiled rule: what does not depend on the level.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Unique in its set.
    pub name: Box<str>,
    /// The name that people use for the provider.
    pub provider: Box<str>,
    /// Any of them may match the MX host.
    pub masks: Vec<Mask>,
    /// The sources that the rule is for.
    pub sources: SourceSet,
    /// What the limits count over.
    pub scope: Scope,
    /// How an hour's messages are spread.
    pub pacing: Pacing,
    /// How long conversations wait.
    pub timeouts: Timeouts,
    /// Whether conversations are encrypted.
    pub tls: TlsPolicy,
    /// Where the figures come from, in words; empty: not said.
    pub source_of_figures: Box<str>,
    /// How far the figures can be trusted.
    pub confidence: Confidence,
    /// Where the rule stands.
    pub place: Place,
}

impl Rule {
    /// Whether it is the generic rule, which holds for every host that no other rule is for.
    #[must_use]
    pub fn is_generic(&self) -> bool {
        self.sources.is_all() && self.masks.iter().any(|mask| mask.as_str() == "*")
    }

    /// Whether hosts that have nothing to do with each other count in one budget of it: it is the generic rule, and its
    /// limits do not count over single paths.
    #[must_use]
    pub fn shares_budget_of_unknown_hosts(&self) -> bool {
        self.is_generic() && self.scope != Scope::Path
    }
}

/// One figure worked out at one level, with every step.
pub(crate) struct Resolved {
    pub(crate) value: u64,
    pub(crate) written: u64,
    pub(crate) place: Place,
    pub(crate) origin: FigureOrigin,
    /// The multiplied (or taken over) figure before caps.
    pub(crate) before_caps: u64,
    pub(crate) cap: Option<AppliedCap>,
}

/// A rule with its limits at every level.
#[derive(Clone, Debug)]
struct Compiled {
    rule: Rule,
    written: Arc<WrittenRule>,
    /// In the order of [`Level::ALL`].
    limits: [Limits; 6],
}

/// Compiled rules. Share it in an `Arc`.
#[derive(Clone, Debug)]
pub struct RuleSet {
    version: u64,
    levels: Levels,
    level_figures: LevelFigures,
    /// Never empty; the last one is generic.
    rules: Vec<Compiled>,
    index: MaskIndex,
    names: BTreeMap<Box<str>, RuleId>,
}

impl RuleSet {
    /// Applies levels and builds the index. A file without a generic rule gets the shipped one;
    /// a generic rule that does not state a main figure gets the shipped one's figure.
    #[must_use]
    pub fn compile(file: &RuleFile, levels: &Levels, version: u64) -> Self {
        let written = file.completed(levels.hourly_base);
        let level_figures = *file.level_figures();
        let generic = written.last().expect("a completed file ends with a generic rule");
        let mut index = MaskIndex::default();
        let mut names = BTreeMap::new();
        let mut rules = Vec::with_capacity(written.len());
        for (number, rule) in (0_u32..).zip(&written) {
            for (mask_number, mask) in (0_u32..).zip(&rule.masks) {
                index.insert(Entry { rule: number, mask: mask_number }, mask);
            }
            names.insert(rule.name.clone(), RuleId(number));
            rules.push(Compiled {
                rule: compiled_rule(rule, generic),
                written: Arc::clone(rule),
                limits: Level::ALL.map(|level| limits_at(rule, generic, level, &level_figures)),
            });
        }
        Self { version, levels: levels.clone(), level_figures, rules, index, names }
    }

    /// The version given to [`RuleSet::compile`].
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The levels it was compiled with.
    #[must_use]
    pub fn levels(&self) -> &Levels {
        &self.levels
    }

    /// The multipliers and caps of the levels.
    #[must_use]
    pub fn level_figures(&self) -> &LevelFigures {
        &self.level_figures
    }

    /// The rules in the order in which they are tried. Never empty.
    pub fn rules(&self) -> impl Iterator<Item = (RuleId, &Rule)> {
        (0_u32..).map(RuleId).zip(self.rules.iter().map(|compiled| &compiled.rule))
    }

    /// The rule with this name.
    #[must_use]
    pub fn id_of(&self, name: &str) -> Option<RuleId> {
        self.names.get(name).copied()
    }

    /// Names of at most five rules that somebody may have meant by a name that no rule has: of the provider, of a mail
    /// domain, of a part of the name, or with a letter or two wrong.
    #[must_use]
    pub fn near(&self, meant: &str) -> Vec<&str> {
        // Longer ones are nobody's slip of the pen.
        let meant: String = meant.to_ascii_lowercase().chars().take(64).collect();
        let close = |rule: &Compiled| {
            let (name, provider) = (&rule.rule.name, rule.rule.provider.to_ascii_lowercase());
            let of_domain = || {
                let mut domains = rule.written.domains.iter();
                domains.any(|domain| {
                    let (meant, domain) = (meant.as_str(), domain.to_ascii_lowercase());
                    domain == meant
                        || domain.strip_prefix(meant).is_some_and(|rest| rest.starts_with('.'))
                })
            };
            let letters = meant.chars().count();
            let part = letters >= 3 && (name.contains(&*meant) || provider.contains(&*meant));
            let slip = if letters < 5 { 1 } else { 2 };
            // The order is that of how likely it is.
            if of_domain() {
                Some(0)
            } else if part {
                Some(1)
            } else if distance(&meant, name) <= slip {
                Some(2)
            } else {
                None
            }
        };
        let mut found: Vec<(u8, &str)> =
            self.rules.iter().filter_map(|rule| Some((close(rule)?, &*rule.rule.name))).collect();
        found.sort();
        found.into_iter().map(|(_, name)| name).take(5).collect()
    }

    /// What to say of a name that no rule has: `; did you mean google?`, or where the names are.
    #[must_use]
    pub fn hint(&self, meant: &str) -> String {
        match self.near(meant).as_slice() {
            [] => "; `mailweir mx list` shows the names".to_owned(),
            near => format!("; did you mean {}?", near.join(", ")),
        }
    }

    /// Names of rules in the levels that no rule has: mistakes of whoever set the levels.
    #[must_use]
    pub fn unknown_rules(&self) -> Vec<&str> {
        let mut unknown: Vec<&str> =
            self.levels.rules_named().filter(|name| self.id_of(name).is_none()).collect();
        unknown.sort_unstable();
        unknown.dedup();
        unknown
    }

    /// The first rule that matches the MX host and is for the source. There always is one.
    ///
    /// Case and a final dot of the host do not matter.
    #[must_use]
    pub fn find(&self, mx_host: &str, source: SourceId) -> RuleId {
        let host = mx_host.strip_suffix('.').unwrap_or(mx_host).to_ascii_lowercase();
        let mut best = self.generic_id().0;
        for list in self.index.lists(host.as_bytes()) {
            // Lists ascend, so the first hit of a list is its best, and nothing behind the best so
            // far can help.
            for entry in list.iter().take_while(|entry| entry.rule < best) {
                let rule = &self.rules[entry.rule as usize].rule;
                if rule.sources.contains(source) && rule.masks[entry.mask as usize].matches(mx_host)
                {
                    best = entry.rule;
                    break;
                }
            }
        }
        RuleId(best)
    }

    /// The generic rule: the last one.
    #[must_use]
    pub fn generic_id(&self) -> RuleId {
        RuleId(u32::try_from(self.rules.len() - 1).expect("a file has at most 20,000 rules"))
    }

    /// The rule with this number.
    ///
    /// # Panics
    ///
    /// When `id` does not come from this set and is too large for it.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> &Rule {
        &self.rules[id.0 as usize].rule
    }

    /// The level that holds for a rule and a source.
    ///
    /// # Panics
    ///
    /// As [`RuleSet::rule`].
    #[must_use]
    pub fn level(&self, id: RuleId, source: SourceId) -> Level {
        self.levels.of(&self.rules[id.0 as usize].rule.name, source).0
    }

    /// The limits of a rule for a source, at the level that holds for them.
    ///
    /// # Panics
    ///
    /// As [`RuleSet::rule`].
    #[must_use]
    pub fn limits(&self, id: RuleId, source: SourceId) -> Limits {
        self.rules[id.0 as usize].limits[self.level(id, source) as usize]
    }

    /// The limits of a rule for a source, so many levels below the one that holds for them.
    ///
    /// # Panics
    ///
    /// As [`RuleSet::rule`].
    #[must_use]
    pub fn limits_below(&self, id: RuleId, source: SourceId, levels: u8) -> Limits {
        self.rules[id.0 as usize].limits[self.level(id, source).below(levels) as usize]
    }

    /// A rule's figures at all six levels, each with how it came about. Figures that nobody limits
    /// are absent.
    ///
    /// # Panics
    ///
    /// As [`RuleSet::rule`].
    #[must_use]
    pub fn columns(&self, id: RuleId) -> Vec<FigureColumns> {
        let generic = &self.rules[self.rules.len() - 1].written;
        columns::columns(&self.rules[id.0 as usize].written, generic, &self.level_figures)
    }

    /// Every rule, or the one with this name, with its figures at all levels and the level that
    /// holds for a source.
    #[must_use]
    pub fn all_columns(&self, name: Option<&str>, source: Option<SourceId>) -> Vec<RuleColumns> {
        let wanted = self.rules().filter(|(_, rule)| name.is_none_or(|name| *name == *rule.name));
        let columns = wanted.map(|(id, rule)| RuleColumns {
            rule: rule.name.clone(),
            provider: rule.provider.clone(),
            scope: rule.scope,
            place: rule.place.clone(),
            source_of_figures: rule.source_of_figures.clone(),
            in_force: source.map(|source| self.levels.of(&rule.name, source)),
            figures: self.columns(id),
        });
        columns.collect()
    }

    /// Which rule holds for an MX host and a source, and where each of its figures comes from.
    #[must_use]
    pub fn explain(&self, mx_host: &str, source: SourceId) -> explain::Explanation {
        let id = self.find(mx_host, source);
        let generic = &self.rules[self.rules.len() - 1].written;
        explain::explain(self, id, &self.rules[id.0 as usize].written, generic, mx_host, source)
    }
}

/// What does not depend on the level, with what the generic rule adds.
fn compiled_rule(written: &WrittenRule, generic: &WrittenRule) -> Rule {
    let (own, inherited) = (&written.timeouts, &generic.timeouts);
    let fallback = Timeouts::default();
    Rule {
        name: written.name.clone(),
        provider: written.provider.clone(),
        masks: written.masks.clone(),
        sources: written.sources.clone(),
        scope: written.scope,
        pacing: written.pacing.or(generic.pacing).unwrap_or_default(),
        timeouts: Timeouts {
            connect: own.connect.or(inherited.connect).unwrap_or(fallback.connect),
            data: own.data.or(inherited.data).unwrap_or(fallback.data),
            other: own.other.or(inherited.other).unwrap_or(fallback.other),
        },
        tls: written.tls.or(generic.tls).unwrap_or_default(),
        source_of_figures: written.source_of_figures.clone(),
        confidence: written.confidence,
        place: written.place.clone(),
    }
}

/// All limits of a rule at a level.
fn limits_at(
    rule: &WrittenRule,
    generic: &WrittenRule,
    level: Level,
    figures: &LevelFigures,
) -> Limits {
    let value =
        |figure| resolve(rule, generic, figure, level, figures).map(|resolved| resolved.value);
    let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let main = |figure| {
        number(value(figure).expect("a completed generic rule states the three main figures"))
    };
    Limits {
        max_connections: main(Figure::MaxConnections),
        max_messages_per_connection: main(Figure::MaxMessagesPerConnection),
        messages_per_hour: main(Figure::MessagesPerHour),
        connections_per_minute: value(Figure::ConnectionsPerMinute).map(number),
        min_interval: value(Figure::MinInterval).map(Duration::from_millis),
    }
}

/// Works out one figure at one level; `None` where neither rule states it.
///
/// The order: the rule's figure for that level, the rule's figure multiplied, the generic rule's
/// figure for that level, the generic rule's figure multiplied. Then the caps.
pub(crate) fn resolve(
    rule: &WrittenRule,
    generic: &WrittenRule,
    figure: Figure,
    level: Level,
    figures: &LevelFigures,
) -> Option<Resolved> {
    let (holder, at_level, own) =
        [(rule, true), (generic, false)].into_iter().find_map(|(holder, own)| {
            let at_level = holder.levels.get(&level).and_then(|figures| figures.get(figure));
            let any = at_level.is_some() || holder.figures.get(figure).is_some();
            any.then_some((holder, at_level, own))
        })?;
    let (stated, before_caps) = match at_level {
        Some(stated) => (stated, stated.value),
        None => {
            let stated = holder.figures.get(figure)?;
            (stated, figures.scale(level, figure, stated.value))
        }
    };
    let origin = match (own, at_level.is_some()) {
        (true, false) => FigureOrigin::Own,
        (true, true) => FigureOrigin::OwnLevel,
        (false, false) => FigureOrigin::Inherited,
        (false, true) => FigureOrigin::InheritedLevel,
    };
    let mut value = before_caps;
    let mut applied = None;
    let everywhere =
        figure == Figure::MaxConnections && level != Level::Custom && rule.scope != Scope::Rule;
    let caps = [
        (rule.cap(figure), CapReason::Rule),
        (generic.cap(figure).filter(|_| !own), CapReason::GenericRule),
        (everywhere.then_some(figures.most_connections), CapReason::EveryProvider),
    ];
    for (cap, reason) in caps {
        if let Some(limit) = cap.filter(|cap| figure.passes(value, *cap)) {
            value = limit;
            applied = Some(AppliedCap { limit, reason });
        }
    }
    Some(Resolved {
        value,
        written: stated.value,
        place: stated.place.clone(),
        origin,
        before_caps,
        cap: applied,
    })
}

#[cfg(test)]
mod tests;
