//! `[deliverability]`: whose bundles of rules are applied; `[domain_rules]` and `[format_rules]`: the operator's own.

use std::path::{Path, PathBuf};

use rules::bundle::PublicKey;

use super::read::Section;
use super::sections::read_existing_file;
use crate::deliverability::keys::read_public;

/// `[deliverability]`
#[derive(Clone, Debug, Default)]
pub struct DeliverabilityConfig {
    /// `public_keys`: the instance's keys, as `mailweir deliverability keygen` shows them, or files that it wrote (a
    /// relative path counts from the folder of the configuration). Default: none, and no bundle is applied.
    pub public_keys: Vec<PublicKey>,
}

/// `[domain_rules]` or `[format_rules]`
#[derive(Clone, Debug, Default)]
pub struct RecipientRulesConfig {
    /// Local rules; they come before those of a bundle and the shipped ones. Default: none.
    pub file: Option<PathBuf>,
}

/// Reads `[domain_rules]` or `[format_rules]`.
pub(super) fn read_recipient_rules(section: Section<'_>, folder: &Path) -> RecipientRulesConfig {
    let config = RecipientRulesConfig { file: read_existing_file(&section, "file", folder) };
    section.finish();
    config
}

/// Reads `[deliverability]`.
pub(super) fn read_deliverability(section: Section<'_>, folder: &Path) -> DeliverabilityConfig {
    let read = |text: &str| match text.parse::<PublicKey>() {
        Ok(key) => Ok(key),
        Err(_) => read_public(&folder.join(text).display().to_string()),
    };
    let keys = section.parsed_list("public_keys", read).unwrap_or_default();
    let config =
        DeliverabilityConfig { public_keys: keys.into_iter().map(|key| key.value).collect() };
    section.finish();
    config
}
