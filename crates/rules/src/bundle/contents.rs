//! What is in a bundle, read and checked.

use std::collections::BTreeMap;

use super::fault::BundleFault;
use super::levels::LevelFigures;
use super::lists::{KnownText, SuppressedEntry};
use super::manifest::Kind;
use crate::bounce::{BounceRuleFile, BounceRules, Key, shipped_bounce_rules};
use crate::diagnostic::Diagnostic;
use crate::file::RuleFile;
use crate::reaction::ReactionFile;
use crate::recipient::{DomainRuleFile, FormatRuleFile};

/// Patterns of all bounce rules together: what compiling them may cost is bounded by that.
const MOST_PATTERNS: usize = 10_000;

/// Every section of a bundle, checked. A kind that the bundle does not have is `None` or empty.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// MX rules; they end with a generic rule.
    pub mx: Option<RuleFile>,
    /// Bounce rules; every example has been tried.
    pub bounce: Option<BounceRuleFile>,
    /// Reaction rules; every example has been tried.
    pub reaction: Option<ReactionFile>,
    /// Domain rules; every example has been tried.
    pub domain: Option<DomainRuleFile>,
    /// Format rules; every example has been tried.
    pub format: Option<FormatRuleFile>,
    /// Multipliers and caps of the levels.
    pub levels: Option<LevelFigures>,
    /// Texts and what they mean.
    pub qualifications: BTreeMap<Key, KnownText>,
    /// Addresses and domains to which nobody writes, sorted.
    pub suppression: Vec<SuppressedEntry>,
}

impl Contents {
    /// Reads and checks all sections of a bundle of this version.
    pub(super) fn read(version: u64, sections: &BTreeMap<Kind, &str>) -> Result<Self, BundleFault> {
        let mut contents = Self::default();
        for (kind, text) in sections {
            let name = format!("bundle {version}: {}", kind.file_name());
            let rules = |faults: Vec<Diagnostic>| BundleFault::Rules { kind: *kind, faults };
            match kind {
                Kind::Mx => {
                    contents.mx = Some(crate::parse(&name, text.as_bytes()).map_err(rules)?);
                }
                Kind::Bounce => {
                    bound_patterns(text)?;
                    let file = BounceRuleFile::parse(&name, text.as_bytes()).map_err(rules)?;
                    shadows_all(&file)?;
                    contents.bounce = Some(file);
                }
                Kind::Reaction => {
                    let file = ReactionFile::parse(&name, text.as_bytes()).map_err(rules)?;
                    contents.reaction = Some(file);
                }
                Kind::Domain => {
                    let file = DomainRuleFile::parse(&name, text.as_bytes()).map_err(rules)?;
                    contents.domain = Some(file);
                }
                Kind::Format => {
                    let file = FormatRuleFile::parse(&name, text.as_bytes()).map_err(rules)?;
                    contents.format = Some(file);
                }
                Kind::Levels => contents.levels = Some(LevelFigures::read(&name, text)?),
                Kind::Qualification => contents.qualifications = KnownText::read_all(text)?,
                Kind::Suppression => contents.suppression = SuppressedEntry::read_all(text)?,
            }
        }
        Ok(contents)
    }
}

/// Counts patterns before any is compiled.
fn bound_patterns(text: &str) -> Result<(), BundleFault> {
    // A file that is no TOML is reported, with its place, by the parser of its kind.
    let Ok(file) = toml::from_str::<toml::Table>(text) else { return Ok(()) };
    let rules = file.get("rule").and_then(toml::Value::as_array);
    let count = |rule: &toml::Value| -> usize {
        let entries = |key: &&str| match rule.get(*key) {
            Some(toml::Value::Array(list)) => list.len(),
            Some(_) => 1,
            None => 0,
        };
        ["text", "unless", "subject", "body", "header"].iter().map(entries).sum()
    };
    let patterns: usize = rules.into_iter().flatten().map(count).sum();
    if patterns > MOST_PATTERNS {
        let what = format!("{patterns} patterns; at most {MOST_PATTERNS} are compiled");
        return Err(BundleFault::TooMany { kind: Kind::Bounce, what });
    }
    Ok(())
}

/// Refuses a rule that takes texts of all kinds: examples of the shipped rules, of which it should know a few.
///
/// The examples of the bundle itself show that no rule takes those of another; they show nothing when the rules
/// are few. Rules of last resort are meant to take what is left.
fn shadows_all(file: &BounceRuleFile) -> Result<(), BundleFault> {
    let set = BounceRules::compile(file);
    let (mut tried, mut taken) = (0, vec![0_usize; file.rules().len()]);
    for example in shipped_bounce_rules().rules().iter().filter_map(|rule| rule.matches.first()) {
        tried += 1;
        if let Some(first) = set.all_matching(&example.evidence()).first() {
            taken[*first] += 1;
        }
    }
    let most = taken.iter().zip(file.rules()).filter(|(_, rule)| !rule.last_resort);
    match most.max_by_key(|(taken, _)| **taken) {
        Some((taken, rule)) if taken * 3 > tried * 2 => {
            Err(BundleFault::ShadowsAll { rule: rule.name.clone(), taken: *taken, tried })
        }
        _ => Ok(()),
    }
}
