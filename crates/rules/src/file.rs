//! Rules as written: a checked rule file, before levels are applied.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use mail::mask::Mask;

use crate::bundle::LevelFigures;
use crate::diagnostic::Place;
use crate::figure::{Figure, Figures, Stated};
use crate::level::Level;
use crate::sources::SourceSet;
use crate::words::{Confidence, Pacing, Scope, TlsPolicy};

/// One `[[rule]]` of a file, as it was written and checked.
///
/// ```toml
/// [[rule]]
/// name = "google"
/// provider = "Gmail and Google Workspace"
/// mask = ["*.google.com", "*.googlemail.com"]
/// max_connections = 5
/// max_messages_per_connection = 50
/// tls = "required"
/// source_of_figures = "community rule sets; the provider publishes none"
/// confidence = "medium"
/// matches = ["gmail-smtp-in.l.google.com"]
/// matches_not = ["google.com", "mx1.google.com.example.net"]
///
/// [rule.levels.boost]
/// max_connections = 6
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenRule {
    /// `name`: the unique id of the rule in levels, logs and answers. 1 to 64 lower-case letters,
    /// digits, `-`, `_` and `.`. Required.
    pub name: Box<str>,
    /// `provider`: the name that people use. Absent: the rule's name.
    pub provider: Box<str>,
    /// `mask`: a text or a list of 1 to 64; a rule matches when one of them does. Compared with the
    /// name of the **MX host**, not with the mail domain, without regard to case and a final dot.
    /// `*` is any run of characters, dots too; `?` is one character. Required.
    pub masks: Vec<Mask>,
    /// `sources`: the `public_id`s that the rule is for, such as `"1,4-7"`. Absent or empty: all.
    pub sources: SourceSet,
    /// `scope`: what the limits count over: `source` (the default), `path` or `rule`.
    pub scope: Scope,
    /// `max_connections` (1 to 10,000), `max_messages_per_connection` (1 to 1,000,000),
    /// `messages_per_hour` (1 to 100,000,000), `connections_per_minute` (1 to 100,000) and
    /// `min_interval` (`"1ms"` to `"1h"`, between the starts of two connections of one budget), at level
    /// Normal. An absent one means that nobody published a figure: the one of the generic rule holds.
    pub figures: Figures,
    /// `published_max_connections`, `published_max_messages_per_connection` and
    /// `published_messages_per_hour`: ceilings that the provider states, where they are not the
    /// figures to work with. No level passes them.
    pub published: Figures,
    /// `hard`: a list of the keys of this rule's own figures that no level may pass, because the
    /// provider published or gave them.
    pub hard: BTreeSet<Figure>,
    /// `levels`: sub-tables `slow`, `normal`, `fast`, `very-fast` and `boost` with figures of their
    /// own, which hold at that level instead of the multiplied ones, still under the hard ones.
    pub levels: BTreeMap<Level, Figures>,
    /// `connect_timeout`, `data_timeout` and `timeout`.
    pub timeouts: WrittenTimeouts,
    /// `tls`: `default` (as the configuration says), `disabled`, `opportunistic` or `required`.
    /// Absent: as the generic rule says.
    pub tls: Option<TlsPolicy>,
    /// `pacing`: `staircase` (the default), `even` or `burst`. Absent: as the generic rule says.
    pub pacing: Option<Pacing>,
    /// `source_of_figures`: where the numbers come from, in words.
    pub source_of_figures: Box<str>,
    /// `confidence`: `high`, `medium`, `low` or `none` (the default).
    pub confidence: Confidence,
    /// `matches`: up to 64 names of MX hosts for which this rule must win. Checked.
    pub matches: Vec<Box<str>>,
    /// `matches_not`: up to 64 names of MX hosts that this rule must not match. Checked.
    pub matches_not: Vec<Box<str>>,
    /// `domains`: mail domains known to sit behind these hosts. For information only.
    pub domains: Vec<Box<str>>,
    /// `notes`: for people.
    pub notes: Box<str>,
    /// Where its `[[rule]]` stands.
    pub place: Place,
}

/// The waiting times that a rule states. Absent ones are those of the generic rule, and where that
/// is silent too, of [`crate::Timeouts::default`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WrittenTimeouts {
    /// `connect_timeout`: until the TCP connection stands. `"100ms"` to `"10m"`.
    pub connect: Option<Duration>,
    /// `data_timeout`: for the answer to the final dot. `"100ms"` to `"1h"`.
    pub data: Option<Duration>,
    /// `timeout`: for the greeting and the answer to every other command. `"100ms"` to `"1h"`.
    pub other: Option<Duration>,
}

impl WrittenRule {
    /// Whether it is a generic rule: the mask `*` and all sources.
    #[must_use]
    pub fn is_generic(&self) -> bool {
        self.sources.is_all() && self.masks.iter().any(|mask| mask.as_str() == "*")
    }

    /// The value that no level passes, if the rule states one: the published ceiling or the hard
    /// figure, whichever is gentler. In the unit of [`crate::Stated::value`].
    #[must_use]
    pub fn cap(&self, figure: Figure) -> Option<u64> {
        let published = self.published.get(figure).map(|stated| stated.value);
        let hard = self
            .hard
            .contains(&figure)
            .then(|| self.figures.get(figure).map(|stated| stated.value))
            .flatten();
        match (published, hard) {
            (Some(one), Some(other)) => Some(figure.gentler(one, other)),
            (one, other) => one.or(other),
        }
    }

    /// States the main figures, where this rule is silent, as `other` does.
    fn complete_from(&mut self, other: &Self) {
        for figure in
            [Figure::MaxConnections, Figure::MaxMessagesPerConnection, Figure::MessagesPerHour]
        {
            if let (None, Some(stated)) = (self.figures.get(figure), other.figures.get(figure)) {
                self.figures.set(figure, stated.clone());
            }
        }
    }
}

/// A checked rule file: rules in the order in which they are tried.
///
/// Made by [`crate::parse`], [`crate::parse_local`] and [`RuleFile::combine`] only, so whoever holds
/// one knows that the checks have passed. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleFile {
    name: Arc<str>,
    rules: Vec<Arc<WrittenRule>>,
    level_figures: LevelFigures,
}

impl RuleFile {
    /// For the parser, after its checks.
    pub(crate) fn new(name: Arc<str>, rules: Vec<Arc<WrittenRule>>) -> Self {
        Self { name, rules, level_figures: LevelFigures::default() }
    }

    /// The same rules with other multipliers and caps of the levels than the shipped ones.
    #[must_use]
    pub fn with_level_figures(self, level_figures: LevelFigures) -> Self {
        Self { level_figures, ..self }
    }

    /// The multipliers and caps of the levels.
    #[must_use]
    pub fn level_figures(&self) -> &LevelFigures {
        &self.level_figures
    }

    /// The name that the caller gave to the file; of combined files both, with ` + ` between.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The rules in the order in which they are tried. Those of [`crate::parse`] end with a generic
    /// rule; local rules need not.
    #[must_use]
    pub fn rules(&self) -> &[Arc<WrittenRule>] {
        &self.rules
    }

    /// The generic rule at the end, if the file has one.
    #[must_use]
    pub fn generic(&self) -> Option<&Arc<WrittenRule>> {
        self.rules.last().filter(|rule| rule.is_generic())
    }

    /// Local rules before shipped ones.
    ///
    /// - A local rule with the name of a shipped rule replaces it.
    /// - A local generic rule replaces the shipped one and stays at the end; the main figures on
    ///   which it is silent are the shipped ones.
    /// - The multipliers of the levels are those of the shipped side.
    /// - A shipped rule may end up behind a local one that covers it: that is what local rules are
    ///   for, and no fault.
    #[must_use]
    pub fn combine(local: Option<&Self>, shipped: &Self) -> Self {
        let Some(local) = local else { return shipped.clone() };
        let local_names: BTreeSet<&str> = local.rules.iter().map(|rule| &*rule.name).collect();
        let is_particular = |rule: &&Arc<WrittenRule>| !rule.is_generic();
        let mut rules: Vec<Arc<WrittenRule>> =
            local.rules.iter().filter(is_particular).cloned().collect();
        rules.extend(
            shipped
                .rules
                .iter()
                .filter(is_particular)
                .filter(|rule| !local_names.contains(&*rule.name))
                .cloned(),
        );
        match (local.generic(), shipped.generic()) {
            (Some(own), Some(theirs)) => {
                let mut generic = WrittenRule::clone(own);
                generic.complete_from(theirs);
                rules.push(Arc::new(generic));
            }
            (own, theirs) => rules.extend(own.or(theirs).cloned()),
        }
        let name = format!("{} + {}", local.name, shipped.name).into();
        Self { name, rules, level_figures: shipped.level_figures }
    }

    /// The rules with a generic rule at the end that states the three main figures; what is missing
    /// comes from the shipped rules. With `hourly_base`, that is the generic rule's hourly figure.
    pub(crate) fn completed(&self, hourly_base: Option<u32>) -> Vec<Arc<WrittenRule>> {
        let mut rules = self.rules.clone();
        match rules.last_mut().filter(|rule| rule.is_generic()) {
            None => rules.push(Arc::clone(shipped_generic())),
            Some(generic) => {
                let complete =
                    Figure::ALL[..3].iter().all(|figure| generic.figures.get(*figure).is_some());
                if !complete {
                    Arc::make_mut(generic).complete_from(shipped_generic());
                }
            }
        }
        if let (Some(base), Some(generic)) = (hourly_base, rules.last_mut()) {
            let place = Place { file: HOURLY_BASE.into(), line: 1, column: 1 };
            let stated = Stated { value: base.max(1).into(), place };
            Arc::make_mut(generic).figures.set(Figure::MessagesPerHour, stated);
        }
        rules
    }
}

/// Where an hourly base that a person has set is said to be written.
const HOURLY_BASE: &str = "[rules] hourly_base";

/// The generic rule of the shipped file: the one place where the basic figures are set, among them
/// the 2,500 messages an hour from which every rule without an hourly figure starts.
fn shipped_generic() -> &'static Arc<WrittenRule> {
    shipped().generic().expect("the shipped rules end with a generic rule; a test holds it")
}

/// The MX rules that come with the program, as they are written.
pub(crate) const SHIPPED_MX_TOML: &str = include_str!("../../../rules/mx.toml");

/// The rules that come with the program, from `rules/mx.toml`.
///
/// Read and checked at the first call, which takes some milliseconds; later calls are free.
#[must_use]
pub fn shipped() -> &'static RuleFile {
    static SHIPPED: OnceLock<RuleFile> = OnceLock::new();
    SHIPPED.get_or_init(|| {
        crate::parse("rules/mx.toml", SHIPPED_MX_TOML.as_bytes())
            .expect("the shipped rules have no fault; a test holds it")
    })
}

#[cfg(test)]
mod tests;
