//! The operator's own rule files, as they were read last.
//!
//! **Promise.** They are read from disk at the start and by a reload, and by nothing else. Whatever else puts rules in force
//! (a bundle, a roll-back, a level that is decided or ends) takes them as they were read: a file that somebody is still
//! writing never comes into force by itself, and a faulty one stops nobody but the reload.

use std::path::Path;
use std::sync::Arc;

use rules::Levels;
use rules::bounce::BounceRuleFile;
use rules::reaction::{ReactionFile, ReactionRules};
use rules::recipient::{DomainRuleFile, DomainRules, FormatRuleFile, FormatRules};

use super::in_force::{bounce_rules_over, local_bounce_rules};
use super::{RuleSource, StartFault, digest, local_mx_rules};
use crate::config::Config;
use crate::deliverability::{Layer, MxBase};
use crate::nondeliverables::BounceRulesInForce;
use crate::{reactions, regular_file};

/// The operator's own rules of all kinds; `None`: no file is named.
#[derive(Clone, Debug, Default)]
pub(crate) struct LocalRules {
    /// With the digest of the file.
    mx: Option<(rules::RuleFile, String)>,
    /// With the digest of the file.
    bounce: Option<(BounceRuleFile, String)>,
    reaction: Option<ReactionFile>,
    domain: Option<DomainRuleFile>,
    format: Option<FormatRuleFile>,
}

impl LocalRules {
    /// Reads and checks every file that the configuration names.
    ///
    /// # Errors
    /// The first that cannot be read or has faults.
    pub(crate) fn read(config: &Config) -> Result<Self, StartFault> {
        let Self { mx, .. } = Self::read_mx(config)?;
        let bounce = config.bounce_rules.file.as_deref().map(local_bounce_rules).transpose()?;
        let reaction = config.reaction_rules.file.as_deref().map(reactions::local_rules);
        let domain = config.domain_rules.file.as_deref().map(domain_rules);
        let format = config.format_rules.file.as_deref().map(format_rules);
        Ok(Self {
            mx,
            bounce: bounce.map(|(file, bytes)| (file, digest(&bytes))),
            reaction: reaction.transpose()?,
            domain: domain.transpose()?,
            format: format.transpose()?,
        })
    }

    /// Reads and checks the MX rules alone.
    ///
    /// # Errors
    /// The file cannot be read, or has faults.
    pub(crate) fn read_mx(config: &Config) -> Result<Self, StartFault> {
        let mx = config.rules.mx.as_deref().map(local_mx_rules).transpose()?;
        let mx = mx.map(|(file, bytes)| (file, digest(&bytes)));
        Ok(Self { mx, ..Self::default() })
    }

    /// The MX rules at these levels, over others.
    pub(crate) fn mx_over(&self, base: &MxBase, levels: Levels) -> RuleSource {
        let mut fingerprint = base.mark().to_owned();
        if let Some((_, digest)) = &self.mx {
            fingerprint.push_str(digest);
        }
        fingerprint.push_str(&serde_json::to_string(&levels).unwrap_or_default());
        let file = rules::RuleFile::combine(self.mx.as_ref().map(|(file, _)| file), base.file());
        RuleSource { file, levels, fingerprint: digest(fingerprint.as_bytes()) }
    }

    /// The bounce rules over those of a layer.
    pub(crate) fn bounce_over(&self, layer: &Layer) -> Arc<BounceRulesInForce> {
        let mut fingerprint = layer.bounce_mark();
        if let Some((_, digest)) = &self.bounce {
            fingerprint.push_str(digest);
        }
        bounce_rules_over(self.bounce.as_ref().map(|(file, _)| file), layer, fingerprint)
    }

    /// The reaction rules over those of a layer.
    pub(crate) fn reaction_over(&self, layer: &Layer) -> Arc<ReactionRules> {
        reactions::rules_over(self.reaction.as_ref(), layer)
    }

    /// The domain and format rules over those of a layer.
    pub(crate) fn recipient_over(&self, layer: &Layer) -> (Arc<DomainRules>, Arc<FormatRules>) {
        let domain = layer.domain(self.domain.as_ref());
        (Arc::new(domain), Arc::new(layer.format(self.format.as_ref())))
    }
}

/// The name of a file for faults, and what is in it.
fn octets(path: &Path) -> Result<(String, Vec<u8>), StartFault> {
    let bytes = regular_file::read(path)
        .map_err(|source| StartFault::File { path: path.into(), source })?;
    Ok((path.display().to_string(), bytes))
}

fn domain_rules(path: &Path) -> Result<DomainRuleFile, StartFault> {
    let (name, bytes) = octets(path)?;
    DomainRuleFile::parse(&name, &bytes).map_err(StartFault::DomainRules)
}

fn format_rules(path: &Path) -> Result<FormatRuleFile, StartFault> {
    let (name, bytes) = octets(path)?;
    FormatRuleFile::parse(&name, &bytes).map_err(StartFault::FormatRules)
}

/// A file of the operator's own rules, read and checked as the start does it.
#[derive(Debug)]
pub struct CheckedRuleFile {
    /// `reaction`, `domain` or `format`.
    pub kind: &'static str,
    /// Which file.
    pub path: std::path::PathBuf,
    /// How many rules it has, or why the start would refuse it.
    pub rules: Result<usize, StartFault>,
}

/// Reads and checks the reaction, domain and format rules that the configuration names; those that it does not name are
/// left out. MX and bounce rules have functions of their own. Changes nothing.
#[must_use]
pub fn check_rule_files(config: &Config) -> Vec<CheckedRuleFile> {
    let mut checked = Vec::new();
    let mut add = |kind, path: &Path, rules| {
        checked.push(CheckedRuleFile { kind, path: path.to_owned(), rules });
    };
    if let Some(path) = config.reaction_rules.file.as_deref() {
        add("reaction", path, reactions::local_rules(path).map(|file| file.rules().len()));
    }
    if let Some(path) = config.domain_rules.file.as_deref() {
        add("domain", path, domain_rules(path).map(|file| file.rules().len()));
    }
    if let Some(path) = config.format_rules.file.as_deref() {
        add("format", path, format_rules(path).map(|file| file.rules().len()));
    }
    checked
}
