//! Texts of which a bundle says what they mean: behind people and local rules, before all other rules.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mail::failure::FailureType;

use super::file::BounceRuleFile;
use super::normal::Key;
use super::verdict::{Action, Qualification, Verdict};

/// The name that verdicts cite in place of a rule.
const RULE: &str = "bundle-qualification";

/// Texts that a bundle knows, with status Keep. Shared with the rules that they belong to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownTexts {
    texts: BTreeMap<Key, Qualification>,
    /// The rules of the operator's own file: what they say stands.
    local: BTreeSet<Box<str>>,
}

impl KnownTexts {
    /// `local` are the operator's own rules.
    #[must_use]
    pub fn new(
        texts: impl IntoIterator<Item = (Key, Qualification)>,
        local: Option<&BounceRuleFile>,
    ) -> Self {
        let local = local.into_iter().flat_map(BounceRuleFile::rules);
        Self {
            texts: texts.into_iter().collect(),
            local: local.map(|rule| rule.name.clone()).collect(),
        }
    }

    /// What a text with this key means, where rules have said `verdict`; `deferred`: the server said 4yz.
    pub(super) fn correct(&self, key: &Key, verdict: &mut Verdict, deferred: bool) {
        let Some(known) = self.texts.get(key) else { return };
        if self.local.contains(&*verdict.rule) {
            return;
        }
        if verdict.reason != known.reason {
            verdict.action = Action::usual(known.reason, deferred);
        }
        verdict.reason = known.reason;
        verdict.failure_type = match known.failure_type {
            FailureType::Hard if deferred => FailureType::Soft,
            other => other,
        };
        verdict.status = known.status;
        verdict.rule = Arc::from(RULE);
    }
}
