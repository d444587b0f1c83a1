//! Why a rule holds for an MX host and a source, and where each figure comes from.
//!
//! Made for `explain` in text and JSON: everything is serialisable and said in words too.

use core::fmt;

use mail::id::SourceId;
use serde::{Deserialize, Serialize};

use crate::bundle::LevelFigures;
use crate::diagnostic::Place;
use crate::figure::Figure;
use crate::file::WrittenRule;
use crate::level::Level;
use crate::levels::LevelOrigin;
use crate::set::{Limits, Resolved, RuleId, RuleSet, Timeouts, resolve};
use crate::words::{Confidence, Pacing, Scope, TlsPolicy};

/// The answer of [`RuleSet::explain`].
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The MX host asked about.
    pub mx_host: String,
    /// The source asked about.
    pub source: SourceId,
    /// Version of the rule set.
    pub version: u64,
    /// Name of the rule that wins.
    pub rule: Box<str>,
    /// The provider's name for people.
    pub provider: Box<str>,
    /// Where the rule stands.
    pub place: Place,
    /// The mask of the rule that matched.
    pub mask: String,
    /// The sources that the rule is for: `all` or a list.
    pub sources: String,
    /// What the limits count over.
    pub scope: Scope,
    /// How an hour's messages are spread.
    pub pacing: Pacing,
    /// Whether conversations are encrypted.
    pub tls: TlsPolicy,
    /// How long conversations wait.
    pub timeouts: Timeouts,
    /// The level that holds.
    pub level: Level,
    /// Who set that level.
    pub level_origin: LevelOrigin,
    /// The limits that hold.
    pub limits: Limits,
    /// How each of them came about. A figure that nobody limits is absent.
    pub figures: Vec<ExplainedFigure>,
    /// Where the rule's own figures come from, in words; empty: not said.
    pub source_of_figures: Box<str>,
    /// How far they can be trusted.
    pub confidence: Confidence,
}

/// Who states a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FigureOrigin {
    /// The rule itself; the level multiplies it.
    Own,
    /// The rule itself, for this level.
    OwnLevel,
    /// The generic rule, because this one is silent; the level multiplies it.
    Inherited,
    /// The generic rule, for this level.
    InheritedLevel,
}

/// What a cap rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CapReason {
    /// A hard or published figure of the rule.
    Rule,
    /// A hard or published figure of the generic rule, from which the figure is inherited.
    GenericRule,
    /// The most connections per source and provider, 100 unless a bundle says otherwise.
    EveryProvider,
}

/// A cap that lowered a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedCap {
    /// The cap; milliseconds for [`Figure::MinInterval`].
    pub limit: u64,
    /// What it rests on.
    pub reason: CapReason,
}

/// One figure and how it came about.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedFigure {
    /// Which.
    pub figure: Figure,
    /// What holds; milliseconds for [`Figure::MinInterval`].
    pub value: u64,
    /// What is written; the same unit.
    pub written: u64,
    /// Where it is written.
    pub place: Place,
    /// Who states it.
    pub origin: FigureOrigin,
    /// The cap that lowered it, if one did.
    pub cap: Option<AppliedCap>,
    /// All of it in one line.
    pub why: String,
}

/// Puts the answer together.
pub(crate) fn explain(
    set: &RuleSet,
    id: RuleId,
    written: &WrittenRule,
    generic: &WrittenRule,
    mx_host: &str,
    source: SourceId,
) -> Explanation {
    let rule = set.rule(id);
    let (level, level_origin) = set.levels().of(&rule.name, source);
    let mask = rule.masks.iter().find(|mask| mask.matches(mx_host));
    let figures = Figure::ALL
        .into_iter()
        .filter_map(|figure| {
            Some((figure, resolve(written, generic, figure, level, set.level_figures())?))
        })
        .map(|(figure, resolved)| ExplainedFigure {
            figure,
            value: resolved.value,
            written: resolved.written,
            origin: resolved.origin,
            cap: resolved.cap,
            why: why(figure, level, &resolved, set.level_figures()),
            place: resolved.place,
        })
        .collect();
    Explanation {
        mx_host: mx_host.to_owned(),
        source,
        version: set.version(),
        rule: rule.name.clone(),
        provider: rule.provider.clone(),
        place: rule.place.clone(),
        mask: mask.map_or_else(|| "*".to_owned(), ToString::to_string),
        sources: rule.sources.to_string(),
        scope: rule.scope,
        pacing: rule.pacing,
        tls: rule.tls,
        timeouts: rule.timeouts,
        level,
        level_origin,
        limits: set.limits(id, source),
        figures,
        source_of_figures: rule.source_of_figures.clone(),
        confidence: rule.confidence,
    }
}

/// The steps of one figure in words.
pub(crate) fn why(
    figure: Figure,
    level: Level,
    resolved: &Resolved,
    figures: &LevelFigures,
) -> String {
    let written = figure.show(resolved.written);
    let place = &resolved.place;
    let mut text = match resolved.origin {
        FigureOrigin::Own => format!("{written} stated by this rule ({place})"),
        FigureOrigin::OwnLevel => {
            format!("{written} stated by this rule for level {level} ({place})")
        }
        FigureOrigin::Inherited => {
            format!("no published figure: {written} inherited from the generic rule ({place})")
        }
        FigureOrigin::InheritedLevel => format!(
            "no published figure: {written} inherited from the generic rule for level {level} ({place})"
        ),
    };
    let multiplied = matches!(resolved.origin, FigureOrigin::Own | FigureOrigin::Inherited);
    let hundredths = figures.hundredths(level, figure);
    if multiplied && hundredths != 100 {
        let factor = format!("{}.{:02}", hundredths / 100, hundredths % 100);
        let factor = factor.trim_end_matches('0').trim_end_matches('.');
        text += &format!(
            ", × {factor} at level {level}, rounded down to {}",
            figure.show(resolved.before_caps)
        );
    } else if multiplied
        && resolved.before_caps != resolved.written
        && let Some(most) = figures.messages_per_connection_most(level)
    {
        text += &format!(", at most {most} at level {level}");
    }
    if let Some(cap) = resolved.cap {
        let reason = match cap.reason {
            CapReason::Rule => "a hard figure of this rule that no level passes",
            CapReason::GenericRule => "a hard figure of the rule * that no level passes",
            CapReason::EveryProvider => "the most per source and provider at any level",
        };
        text += &format!(", held to {}: {reason}", figure.show(cap.limit));
    }
    text
}

impl fmt::Display for Explanation {
    /// Several lines for people; the last has no line end.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "{} from {}: rule {} ({}), {}, version {}",
            self.mx_host, self.source, self.rule, self.provider, self.place, self.version
        )?;
        writeln!(out, "  first rule that matches: mask {}, sources {}", self.mask, self.sources)?;
        let origin = self.level_origin.words();
        write!(
            out,
            "  level {} ({origin}), scope {}, pacing {}, tls {}",
            self.level, self.scope, self.pacing, self.tls
        )?;
        for explained in &self.figures {
            let value = explained.figure.show(explained.value);
            write!(out, "\n  {} = {value}: {}", explained.figure, explained.why)?;
        }
        if !self.source_of_figures.is_empty() {
            write!(
                out,
                "\n  figures from: {} (confidence {})",
                self.source_of_figures, self.confidence
            )?;
        }
        Ok(())
    }
}
