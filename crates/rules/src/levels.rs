//! Which level holds where.
//!
//! A level can be set for everything, for an affinity, for a source, for a rule (a provider), and for
//! an affinity or a source at a rule. **The most particular one wins**, in this order:
//!
//! | | set for | |
//! |---|---|---|
//! | 1 | a source at a rule | source 3 at `google` |
//! | 2 | an affinity at a rule | the sources of `newsletter` at `google` |
//! | 3 | a rule | every source at `google` |
//! | 4 | a source | source 3 everywhere |
//! | 5 | an affinity | the sources of `newsletter` everywhere |
//! | 6 | everything | |
//!
//! A source in several affinities has the gentlest of their levels, because what one affinity sends
//! counts in the same budgets as what the other sends. For that, `custom` is the least gentle.
//!
//! These are the levels at one moment. What people decide while the program runs, with ends and
//! reasons, is [`LevelDecisions`](crate::LevelDecisions), which is laid over those of the
//! configuration.

use std::collections::{BTreeMap, BTreeSet};

use mail::id::SourceId;
use serde::{Deserialize, Serialize};

use crate::level::Level;

/// Which level holds where. See the module for the order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Levels {
    /// For everything that has no level of its own.
    pub default: Level,
    /// For a source at all providers.
    pub per_source: BTreeMap<SourceId, Level>,
    /// For a rule, by its name, at all sources. A name that no rule has changes nothing; see
    /// [`crate::RuleSet::unknown_rules`].
    pub per_rule: BTreeMap<String, Level>,
    /// For the sources of an affinity at all providers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub per_affinity: BTreeMap<String, Level>,
    /// For a source at a rule.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub per_source_and_rule: BTreeMap<SourceId, BTreeMap<String, Level>>,
    /// For the sources of an affinity at a rule.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub per_affinity_and_rule: BTreeMap<String, BTreeMap<String, Level>>,
    /// The sources of each affinity. An affinity that is absent here has none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub affinities: BTreeMap<String, BTreeSet<SourceId>>,
    /// Messages an hour at level Normal for every rule that states no figure of its own. `None`: the
    /// generic rule's figure, 2,500 in the shipped rules.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hourly_base: Option<u32>,
}

/// Which setting a level comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LevelOrigin {
    /// It is set for the source at the rule.
    SourceAndRule,
    /// It is set for an affinity of the source at the rule.
    AffinityAndRule,
    /// It is set for the rule.
    Rule,
    /// It is set for the source.
    Source,
    /// It is set for an affinity of the source.
    Affinity,
    /// It is the general one.
    Default,
}

impl LevelOrigin {
    /// In words, for people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::SourceAndRule => "set for this source at this rule",
            Self::AffinityAndRule => "set for an affinity of this source at this rule",
            Self::Rule => "set for this rule",
            Self::Source => "set for this source",
            Self::Affinity => "set for an affinity of this source",
            Self::Default => "the general one",
        }
    }
}

impl Levels {
    /// One level everywhere.
    #[must_use]
    pub fn all(level: Level) -> Self {
        Self { default: level, ..Self::default() }
    }

    /// The level of a source at a rule, and which setting it comes from.
    #[must_use]
    pub fn of(&self, rule: &str, source: SourceId) -> (Level, LevelOrigin) {
        let mine = |affinity: &str| {
            self.affinities.get(affinity).is_some_and(|sources| sources.contains(&source))
        };
        let at_affinity_and_rule = || {
            let of = self.per_affinity_and_rule.iter().filter(|(name, _)| mine(name));
            of.filter_map(|(_, rules)| rules.get(rule)).min().copied()
        };
        let at_affinity = || {
            let of = self.per_affinity.iter().filter(|(name, _)| mine(name));
            of.map(|(_, level)| *level).min()
        };
        let own = self.per_source_and_rule.get(&source).and_then(|rules| rules.get(rule)).copied();
        own.map(|level| (level, LevelOrigin::SourceAndRule))
            .or_else(|| Some((at_affinity_and_rule()?, LevelOrigin::AffinityAndRule)))
            .or_else(|| Some((*self.per_rule.get(rule)?, LevelOrigin::Rule)))
            .or_else(|| Some((*self.per_source.get(&source)?, LevelOrigin::Source)))
            .or_else(|| Some((at_affinity()?, LevelOrigin::Affinity)))
            .unwrap_or((self.default, LevelOrigin::Default))
    }

    /// Whether the MX rules of a bundle are taken. At the general level `custom` they are not: the
    /// operator answers for the MX rules, and nobody else changes them. The other kinds of rules
    /// are taken all the same. A `custom` for some sources or rules only does not count.
    #[must_use]
    pub fn takes_mx_rules_of_bundles(&self) -> bool {
        self.default != Level::Custom
    }

    /// Every rule that is named somewhere.
    pub(crate) fn rules_named(&self) -> impl Iterator<Item = &str> {
        let pairs = self.per_source_and_rule.values().chain(self.per_affinity_and_rule.values());
        self.per_rule.keys().chain(pairs.flat_map(BTreeMap::keys)).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each setting in turn, from the most general one, beats those before it.
    #[test]
    fn the_most_particular_setting_wins() {
        let source = SourceId(3);
        let rules = |level| BTreeMap::from([("google".to_owned(), level)]);
        let mut levels = Levels::all(Level::Slow);
        let members = |ids: &[u32]| ids.iter().copied().map(SourceId).collect::<BTreeSet<_>>();
        levels.affinities =
            BTreeMap::from([("news".into(), members(&[3, 4])), ("shop".into(), members(&[3]))]);
        let mut seen = vec![levels.of("google", source)];
        levels.per_affinity.insert("news".into(), Level::Boost);
        seen.push(levels.of("google", source));
        levels.per_affinity.insert("shop".into(), Level::Fast);
        seen.push(levels.of("google", source));
        levels.per_source.insert(source, Level::VeryFast);
        seen.push(levels.of("google", source));
        levels.per_rule = rules(Level::Normal);
        seen.push(levels.of("google", source));
        levels.per_affinity_and_rule.insert("news".into(), rules(Level::Custom));
        seen.push(levels.of("google", source));
        levels.per_source_and_rule.insert(source, rules(Level::Boost));
        seen.push(levels.of("google", source));
        assert_eq!(
            seen,
            [
                (Level::Slow, LevelOrigin::Default),
                (Level::Boost, LevelOrigin::Affinity),
                (Level::Fast, LevelOrigin::Affinity),
                (Level::VeryFast, LevelOrigin::Source),
                (Level::Normal, LevelOrigin::Rule),
                (Level::Custom, LevelOrigin::AffinityAndRule),
                (Level::Boost, LevelOrigin::SourceAndRule),
            ]
        );
        // Others are not touched by what is set for this one.
        assert_eq!(levels.of("google", SourceId(9)), (Level::Normal, LevelOrigin::Rule));
        assert_eq!(levels.of("yahoo", SourceId(4)), (Level::Boost, LevelOrigin::Affinity));
        assert_eq!(levels.of("yahoo", SourceId(9)), (Level::Slow, LevelOrigin::Default));
        assert!(levels.takes_mx_rules_of_bundles());
        assert!(!Levels::all(Level::Custom).takes_mx_rules_of_bundles());
    }
}
