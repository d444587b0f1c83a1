//! What a node follows: the rules in force, and what became of the last bundle that came.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use mail::time::Timestamp;
use rules::RuleSet;
use rules::bundle::Trust;
use rules::reaction::ReactionRules;
use rules::recipient::{DomainRules, FormatRules};
use serde::{Deserialize, Serialize};

use super::layer::{Layer, MxBase};
use crate::alerts::{Alert, Alerts, BUNDLE_REFUSED};
use crate::node::LocalRules;
use crate::nondeliverables::BounceRulesInForce;

/// The rules of all kinds that are in force. Replaced as a whole.
#[derive(Clone, Debug)]
pub struct RulesInForce {
    /// What is below the operator's own rules.
    pub layer: Arc<Layer>,
    /// What is above it: the operator's own rules, as they were read last.
    pub(crate) local: Arc<LocalRules>,
    /// Since when; the epoch: no bundle was ever applied.
    pub since: Timestamp,
    /// Whom this node trusts, besides its configuration.
    pub(crate) trust: Trust,
    /// The version that the store's pointer names: that of the layer, but for one that cannot be used any more.
    pub(crate) pointer: Option<u64>,
    /// MX rules with levels.
    pub mx: Arc<RuleSet>,
    /// What they have below the operator's own.
    pub mx_base: Arc<MxBase>,
    /// Bounce rules and the texts that the bundle knows.
    pub(crate) bounce: Arc<BounceRulesInForce>,
    /// Reaction rules.
    pub reaction: Arc<ReactionRules>,
    /// Domain rules.
    pub domain: Arc<DomainRules>,
    /// Format rules.
    pub format: Arc<FormatRules>,
}

impl RulesInForce {
    /// The version that the store says is in force and that cannot be used any more; the shipped rules are in its place.
    pub(crate) fn unusable(&self) -> Option<u64> {
        self.pointer.filter(|_| self.layer.published().is_none())
    }

    /// What an instance is told: a version alone does not say whose bundle it is.
    pub(crate) fn stated(&self) -> Stated {
        let published = self.layer.published();
        let digest = published.map(|published| {
            published.digest.iter().take(8).map(|octet| format!("{octet:02x}")).collect()
        });
        Stated { version: self.pointer.unwrap_or(0), digest }
    }
}

/// What an instance is told of the bundle in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stated {
    /// Its version; 0: there is none.
    pub(crate) version: u64,
    /// The first 16 digits of its SHA-256; `None`: it is not known.
    pub(crate) digest: Option<String>,
}

/// Who brought a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The instance.
    Instance,
    /// A person, or the store at the start.
    Here,
}

/// What went wrong, and when: a bundle that was refused, an instance that did not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// When.
    pub at: Timestamp,
    /// The name of the reason.
    pub fault: String,
    /// The reason in words.
    pub words: String,
}

/// The rules in force and the last trouble. Shared by everybody who asks.
#[derive(Debug)]
pub(crate) struct Following {
    in_force: ArcSwap<RulesInForce>,
    alerts: Alerts,
    trouble: Mutex<Option<(Trouble, Origin)>>,
}

impl Following {
    pub(crate) fn new(in_force: RulesInForce, alerts: Alerts, trouble: Option<Trouble>) -> Self {
        let in_force = ArcSwap::from_pointee(in_force);
        let following = Self { in_force, alerts, trouble: Mutex::new(None) };
        following.note(trouble.map(|trouble| (trouble, Origin::Here)));
        following
    }

    pub(crate) fn in_force(&self) -> Arc<RulesInForce> {
        self.in_force.load_full()
    }

    pub(crate) fn replace(&self, in_force: RulesInForce) {
        self.in_force.store(Arc::new(in_force));
    }

    /// A bundle was refused, and the alert stands; or one was applied, and it is over.
    pub(crate) fn note(&self, trouble: Option<(Trouble, Origin)>) {
        // The newest reason is the one to look at.
        self.alerts.clear(BUNDLE_REFUSED, BUNDLE_REFUSED);
        if let Some((Trouble { at, fault, words }, _)) = trouble.clone() {
            self.alerts.raise(Alert {
                code: BUNDLE_REFUSED.into(),
                key: BUNDLE_REFUSED.into(),
                words: format!("a bundle of rules was refused, those in force stay: {words}"),
                evidence: fault,
                since: at,
            });
        }
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// What the instance has now is not refused. What a person has brought, or the disk has changed, stays told.
    pub(crate) fn note_instance_well(&self) {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if trouble.is_some_and(|(_, origin)| origin == Origin::Instance) {
            self.note(None);
        }
    }

    pub(crate) fn trouble(&self) -> Option<Trouble> {
        self.trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .map(|(trouble, _)| trouble)
    }
}
