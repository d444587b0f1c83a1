//! A rule's figures at all six levels: the columns of `mx level show`.

use serde::Serialize;

use crate::bundle::LevelFigures;
use crate::diagnostic::Place;
use crate::explain::{AppliedCap, CapReason, FigureOrigin, why};
use crate::figure::Figure;
use crate::file::WrittenRule;
use crate::level::Level;
use crate::levels::LevelOrigin;
use crate::set::{Resolved, resolve};
use crate::words::Scope;

/// A rule with its figures at all levels.
#[derive(Clone, Debug, Serialize)]
pub struct RuleColumns {
    /// The rule's name.
    pub rule: Box<str>,
    /// The provider's name for people.
    pub provider: Box<str>,
    /// What its limits count over.
    pub scope: Scope,
    /// Where it stands.
    pub place: Place,
    /// Where its own figures come from, in words; empty: not said.
    pub source_of_figures: Box<str>,
    /// The level that holds for the source asked about.
    pub in_force: Option<(Level, LevelOrigin)>,
    /// Its figures.
    pub figures: Vec<FigureColumns>,
}

/// One figure of a rule at all levels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FigureColumns {
    /// Which.
    pub figure: Figure,
    /// In the order of [`Level::ALL`]. A level at which neither the rule nor the generic one states the figure is absent:
    /// nothing is limited there.
    pub levels: Vec<LevelFigure>,
}

/// One figure at one level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LevelFigure {
    /// The level.
    pub level: Level,
    /// What holds there; milliseconds for [`Figure::MinInterval`].
    pub value: u64,
    /// What is written; the same unit.
    pub written: u64,
    /// How the value came about: one or several of these, in this order.
    pub made_by: Vec<MadeBy>,
    /// All of it in one line.
    pub why: String,
}

/// What makes a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MadeBy {
    /// The rule states it.
    Stated,
    /// The rule states none: it is the generic rule's.
    Inherited,
    /// It is stated for this level and not multiplied.
    ForThisLevel,
    /// The level multiplied it, or lowered it to what the level allows.
    Multiplied,
    /// A hard or published figure held it down.
    HardCap,
    /// The most connections per source and provider, 100 unless a bundle says less, held it down.
    ConnectionCap,
}

/// All figures of a rule.
pub(crate) fn columns(
    rule: &WrittenRule,
    generic: &WrittenRule,
    figures: &LevelFigures,
) -> Vec<FigureColumns> {
    let of = |figure: Figure| {
        let stated = Level::ALL.into_iter().filter_map(|level| {
            let resolved = resolve(rule, generic, figure, level, figures)?;
            Some(at_level(figure, level, &resolved, figures))
        });
        let levels: Vec<LevelFigure> = stated.collect();
        (!levels.is_empty()).then_some(FigureColumns { figure, levels })
    };
    Figure::ALL.into_iter().filter_map(of).collect()
}

fn at_level(
    figure: Figure,
    level: Level,
    resolved: &Resolved,
    figures: &LevelFigures,
) -> LevelFigure {
    let (own, for_level) = match resolved.origin {
        FigureOrigin::Own => (true, false),
        FigureOrigin::OwnLevel => (true, true),
        FigureOrigin::Inherited => (false, false),
        FigureOrigin::InheritedLevel => (false, true),
    };
    let mut made_by = vec![if own { MadeBy::Stated } else { MadeBy::Inherited }];
    if for_level {
        made_by.push(MadeBy::ForThisLevel);
    } else if resolved.before_caps != resolved.written {
        made_by.push(MadeBy::Multiplied);
    }
    match resolved.cap {
        Some(AppliedCap { reason: CapReason::EveryProvider, .. }) => {
            made_by.push(MadeBy::ConnectionCap);
        }
        Some(_) => made_by.push(MadeBy::HardCap),
        None => {}
    }
    LevelFigure {
        level,
        value: resolved.value,
        written: resolved.written,
        made_by,
        why: why(figure, level, resolved, figures),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Levels, RuleSet, shipped};

    fn row(set: &RuleSet, rule: &str, figure: Figure) -> Vec<u64> {
        let columns = set.columns(set.id_of(rule).unwrap());
        let found = columns.iter().find(|row| row.figure == figure).unwrap();
        found.levels.iter().map(|one| one.value).collect()
    }

    /// The table of levels with the shipped rules: slow, normal, fast, very-fast, boost, custom.
    #[test]
    fn the_shipped_figures_at_all_levels() {
        let set = RuleSet::compile(shipped(), &Levels::default(), 1);
        for (rule, figure, want) in [
            ("default", Figure::MaxConnections, [3, 10, 14, 20, 28, 10]),
            ("default", Figure::MaxMessagesPerConnection, [10, 100, 100, 100, 100, 100]),
            ("default", Figure::MessagesPerHour, [250, 2_500, 5_000, 10_000, 20_000, 2_500]),
            ("google", Figure::MaxConnections, [1, 5, 7, 10, 14, 5]),
            ("google", Figure::MaxMessagesPerConnection, [10, 50, 50, 50, 50, 50]),
            ("google", Figure::MessagesPerHour, [250, 2_500, 5_000, 10_000, 20_000, 2_500]),
            ("orange", Figure::MaxConnections, [1, 2, 2, 2, 2, 2]),
            ("yahoo", Figure::MaxMessagesPerConnection, [10, 20, 20, 20, 20, 20]),
        ] {
            assert_eq!(row(&set, rule, figure), want, "{rule} {figure}");
        }
    }

    /// Every figure of every shipped rule at every level is what the limits say, and no level
    /// passes what the rule calls hard, nor 100 connections.
    #[test]
    fn columns_agree_with_the_limits_and_pass_no_cap() {
        let mut capped = 0;
        for level in Level::ALL {
            let set = RuleSet::compile(shipped(), &Levels::all(level), 1);
            for (id, rule) in set.rules() {
                let limits = set.limits(id, mail::id::SourceId(1));
                for row in set.columns(id) {
                    let Some(found) = row.levels.iter().find(|one| one.level == level) else {
                        continue;
                    };
                    let held = match row.figure {
                        Figure::MaxConnections => u64::from(limits.max_connections),
                        Figure::MaxMessagesPerConnection => {
                            u64::from(limits.max_messages_per_connection)
                        }
                        Figure::MessagesPerHour => u64::from(limits.messages_per_hour),
                        _ => continue,
                    };
                    assert_eq!(found.value, held, "{} {}", rule.name, row.figure);
                    capped += usize::from(found.made_by.contains(&MadeBy::HardCap));
                }
                assert!(level == Level::Custom || limits.max_connections <= 100, "{}", rule.name);
            }
        }
        assert!(capped > 20, "{capped} figures were held by a hard figure");
    }

    /// A figure that is stated for one level only has a row with that level.
    #[test]
    fn a_figure_for_some_levels_only_is_shown_for_these() {
        let text = "schema_version = 1\n[[rule]]\nname = \"a\"\nmask = \"mx.a.example\"\n\
                    [rule.levels.slow]\nconnections_per_minute = 7\n\
                    [[rule]]\nname = \"generic\"\nmask = \"*\"\nmax_connections = 60\n\
                    max_messages_per_connection = 50\nmessages_per_hour = 1000\n";
        let file = crate::parse("mx.toml", text.as_bytes()).unwrap();
        let set = RuleSet::compile(&file, &Levels::default(), 1);
        let columns = set.columns(set.id_of("a").unwrap());
        let found = columns.iter().find(|row| row.figure == Figure::ConnectionsPerMinute).unwrap();
        let levels: Vec<_> = found.levels.iter().map(|one| (one.level, one.value)).collect();
        assert_eq!(levels, [(Level::Slow, 7)]);
    }

    #[test]
    fn the_hourly_base_is_one_setting_that_rules_inherit() {
        let levels = Levels { hourly_base: Some(1_000), ..Levels::default() };
        let set = RuleSet::compile(shipped(), &levels, 1);
        let want = [100, 1_000, 2_000, 4_000, 8_000, 1_000];
        for rule in ["google", "yahoo", "default"] {
            assert_eq!(row(&set, rule, Figure::MessagesPerHour), want, "{rule}");
        }
        let columns = set.columns(set.id_of("google").unwrap());
        let hourly = columns.iter().find(|row| row.figure == Figure::MessagesPerHour).unwrap();
        assert_eq!(hourly.levels[1].made_by, [MadeBy::Inherited]);
        assert_eq!(hourly.levels[2].made_by, [MadeBy::Inherited, MadeBy::Multiplied]);
        assert!(hourly.levels[2].why.contains("[rules] hourly_base"), "{}", hourly.levels[2].why);
        // A rule that states its own figure keeps it.
        let own = set.rules().map(|(id, _)| set.columns(id)).filter(|columns| {
            columns.iter().any(|row| {
                row.figure == Figure::MessagesPerHour
                    && row.levels[1].made_by.contains(&MadeBy::Stated)
            })
        });
        assert!(own.count() > 1);
    }
}
