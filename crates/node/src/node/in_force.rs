//! Bounce rules over those of a bundle or the shipped ones; and what the store says is in force.

use std::path::Path;
use std::sync::Arc;

use mail::time::Timestamp;
use rules::Levels;
use rules::bounce::{BounceRuleFile, KnownTexts};
use rules::bundle::Trust;
use store::{Reads, SqliteStore, Store as _, StoreFault, Write};

use super::StartFault;
use crate::config::Config;
use crate::deliverability::{Layer, MxBase, Trouble};
use crate::levels::unreadable;
use crate::nondeliverables::BounceRulesInForce;
use crate::regular_file;

/// The operator's own bounce rules, if any, over a layer.
pub(crate) fn bounce_rules_over(
    local: Option<&BounceRuleFile>,
    layer: &Layer,
    fingerprint: String,
) -> Arc<BounceRulesInForce> {
    let file = BounceRuleFile::combine(local, layer.bounce());
    let texts = layer.contents().qualifications.iter();
    let texts = texts.map(|(key, known)| (*key, known.qualification()));
    let known = KnownTexts::new(texts, local);
    BounceRulesInForce::new(&file, known, fingerprint)
}

pub(crate) fn local_bounce_rules(path: &Path) -> Result<(BounceRuleFile, Vec<u8>), StartFault> {
    let bytes = regular_file::read(path)
        .map_err(|source| StartFault::File { path: path.into(), source })?;
    let file = BounceRuleFile::parse(&path.display().to_string(), &bytes)
        .map_err(StartFault::BounceRules)?;
    Ok((file, bytes))
}

/// How many local bounce rules there are; `None`: no file is named. Compiles nothing.
///
/// # Errors
/// The file cannot be read, or has faults.
pub fn check_bounce_rules(config: &Config) -> Result<Option<usize>, StartFault> {
    let path = config.bounce_rules.file.as_deref();
    path.map(|path| Ok(local_bounce_rules(path)?.0.rules().len())).transpose()
}

/// What the store says is in force.
pub(crate) struct Kept {
    pub(crate) layer: Layer,
    pub(crate) trust: Trust,
    /// The version that the store's pointer names, usable or not.
    pub(crate) pointer: Option<u64>,
    pub(crate) since: Timestamp,
    pub(crate) trouble: Option<Trouble>,
}

/// Reads the pointer. A bundle that cannot be used any more is told, and the shipped rules are in force: mail goes on.
///
/// # Errors
/// The store cannot be read, or what it holds of trusted keys cannot: without it keys that were replaced would be
/// believed again.
pub(crate) fn kept_layer(reads: &dyn Reads) -> Result<Kept, StoreFault> {
    let kept = reads.bundle_in_force()?;
    let trust = match &*kept.trust {
        "" => Trust::default(),
        text => serde_json::from_str(text).map_err(|fault| {
            unreadable(format!(
                "the keys that bundles may be signed with (bundle_in_force.trust) cannot be read: {fault}; restore the database from a backup, or start the version that wrote it"
            ))
        })?,
    };
    let pointer = kept.bundle.as_ref().map(|bundle| bundle.version);
    let (since, mut trouble) = (kept.since, None);
    let layer = match kept.bundle.as_ref().map(Layer::kept) {
        None => Layer::default(),
        Some(Ok(layer)) => layer,
        Some(Err(fault)) => {
            let words = format!(
                "the bundle in force cannot be used any more, so the shipped rules are: {fault}"
            );
            trouble = Some(Trouble { at: since, fault: fault.name().to_owned(), words });
            Layer::default()
        }
    };
    Ok(Kept { layer, trust, pointer, since, trouble })
}

/// Name of the store's setting with the bundle whose MX rules are in force.
pub(crate) const MX_RULES_OF: &str = "mx_rules_of";

/// The MX rules below the operator's own at the start.
pub(super) fn mx_base_of_start(
    store: &mut SqliteStore,
    layer: &Layer,
    levels: &Levels,
) -> Result<MxBase, StoreFault> {
    let base = mx_base(store.reads(), layer, levels)?;
    let value: Box<str> = base.stored().into();
    if store.reads().setting(MX_RULES_OF)?.as_ref() != Some(&value) {
        store.apply(&[Write::PutSetting { key: MX_RULES_OF.into(), value }])?;
    }
    Ok(base)
}

/// The MX rules below the operator's own: those of a layer, or at level Custom those that are in force.
///
/// # Errors
/// The store cannot be read.
pub(crate) fn mx_base(
    reads: &dyn Reads,
    layer: &Layer,
    levels: &Levels,
) -> Result<MxBase, StoreFault> {
    match reads.setting(MX_RULES_OF)? {
        Some(stored) if !levels.takes_mx_rules_of_bundles() => base_of(reads, layer, &stored),
        _ => Ok(layer.mx_base()),
    }
}

/// The MX rules of a bundle that is kept; those of the program where it cannot be used any more.
fn base_of(reads: &dyn Reads, layer: &Layer, stored: &str) -> Result<MxBase, StoreFault> {
    let Ok(version) = stored.parse::<u64>() else { return Ok(Layer::default().mx_base()) };
    if layer.published().is_some_and(|published| published.version == version) {
        return Ok(layer.mx_base());
    }
    let kept = reads.bundle(version)?;
    let why = match kept.as_ref().map(Layer::kept) {
        Some(Ok(layer)) => return Ok(layer.mx_base()),
        Some(Err(fault)) => fault.to_string(),
        None => "it is not kept".to_owned(),
    };
    tracing::error!(
        version,
        "the MX rules of this bundle cannot be used any more, so the shipped ones are: {why}"
    );
    Ok(Layer::default().mx_base())
}
