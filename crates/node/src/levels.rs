//! Levels while the program runs: decided by people or by the planner, kept in the store, in force at once.
//!
//! **Promise.** A decision is in force when it is answered, and it is durable before: the list of all decisions
//! ([`LevelDecisions`]) is one value of the store, written whole. The start lays it over the levels of the
//! configuration, so a decision that ended while the program was down has ended. A change goes the way of a reload, so the
//! level custom can take other MX rules, and the ledger loses no count.
//!
//! **When it fails.** A decision that cannot be stored is not taken. Where the end of one cannot be carried out, an alert
//! stands until it is, and what is shown is what holds. The operator's rule files are not read for a level: one that is being
//! written neither stops an end nor comes into force by it. A list that cannot be read (of a newer program)
//! stops the start, because nobody knows then which levels hold.

use std::sync::Arc;

use mail::time::Timestamp;
use rules::{
    DecisionFault, DecisionStanding, LevelChange, LevelDecision, LevelDecisions, LevelScope,
    LevelSubject, Levels, NotReached,
};
use serde::Serialize;
use store::{Reads, StoreFault, Write};

use crate::alerts::{Alert, LEVEL_NOT_ENDED};
use crate::deliverability::{ApplyFault, to_the_end};
use crate::intake::IntakeFault;
use crate::node::Questions;

/// Name of the store's setting.
const DECISIONS: &str = "level_decisions";

/// What is shown of the levels.
#[derive(Clone, Debug, Serialize)]
pub struct LevelsShown {
    /// Now.
    pub now: Timestamp,
    /// The version of the rules in force.
    pub rules_version: u64,
    /// What the configuration says.
    pub configured: Levels,
    /// What holds.
    pub in_force: Levels,
    /// Whether the MX rules of a bundle are taken.
    pub takes_mx_rules_of_bundles: bool,
    /// When something ends next.
    pub next_end: Option<Timestamp>,
    /// Every decision, oldest first.
    pub decisions: Vec<ShownDecision>,
}

/// A decision with what has become of it.
#[derive(Clone, Debug, Serialize)]
pub struct ShownDecision {
    /// The decision.
    #[serde(flatten)]
    pub decision: LevelDecision,
    /// What has become of it.
    pub standing: DecisionStanding,
}

/// A decision that was taken.
#[derive(Clone, Debug, Serialize)]
pub struct Decided {
    /// Its number.
    pub number: u64,
    /// Until when it holds.
    pub until: Option<Timestamp>,
    /// The version of the rules now in force.
    pub rules_version: u64,
    /// Where it does not reach, because a more particular level holds there.
    pub not_reached: Vec<NotReached>,
    /// More particular decisions that were undone with it.
    pub cleared: Vec<u64>,
}

/// Why a decision is not taken.
#[derive(Debug, thiserror::Error)]
pub enum LevelFault {
    /// It cannot be meant.
    #[error("{0}")]
    Refused(#[from] DecisionFault),
    /// It names something that is not there.
    #[error("there is no {what} {name:?}{known}")]
    Unknown {
        /// `source`, `affinity` or `rule`.
        what: &'static str,
        /// The name.
        name: String,
        /// What there is, in words.
        known: String,
    },
    /// The rules cannot be put in force.
    #[error("{0}; the level is as it was")]
    Rules(String),
    /// The store takes nothing now.
    #[error("{0}")]
    Store(#[from] IntakeFault),
}

/// Reads the decisions of the store.
///
/// # Errors
/// The store cannot be read, or what it holds is none of this program's lists.
pub(crate) fn stored_decisions(reads: &dyn Reads) -> Result<LevelDecisions, StoreFault> {
    let Some(text) = reads.setting(DECISIONS)? else { return Ok(LevelDecisions::default()) };
    serde_json::from_str(&text).map_err(|fault| {
        unreadable(format!(
            "the decisions about levels (setting {DECISIONS}) cannot be read: {fault}; were they written by a newer version?"
        ))
    })
}

/// What the store holds under a name is none of this program's values.
pub(crate) fn unreadable(detail: String) -> StoreFault {
    StoreFault::Internal { path: store::DATABASE_FILE.into(), detail }
}

fn write_of(decisions: &LevelDecisions) -> Write {
    // Plain data: writing it as JSON cannot fail.
    let value = serde_json::to_string(decisions).unwrap_or_default();
    Write::PutSetting { key: DECISIONS.into(), value: value.into() }
}

impl Questions {
    /// The levels of the configuration, those in force, and all decisions.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn levels(&self) -> Result<LevelsShown, IntakeFault> {
        let decisions = self.level_decisions().await?;
        let now = self.now();
        let configured = self.configured_levels();
        // What holds, not what should hold.
        let rules = self.rules().await.unwrap_or_else(|| Arc::clone(&self.in_force().mx));
        let (in_force, rules_version) = (rules.levels().clone(), rules.version());
        let standings = decisions.standings(now);
        let shown = standings.into_iter().map(|(decision, standing)| {
            let decision = decision.clone();
            ShownDecision { decision, standing }
        });
        Ok(LevelsShown {
            now,
            rules_version,
            takes_mx_rules_of_bundles: in_force.takes_mx_rules_of_bundles(),
            next_end: decisions.next_end(now),
            decisions: shown.collect(),
            configured,
            in_force,
        })
    }

    /// All decisions.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn level_decisions(&self) -> Result<LevelDecisions, IntakeFault> {
        self.intake().read(stored_decisions).await
    }

    /// The levels of the configuration.
    pub(crate) fn configured_levels(&self) -> Levels {
        self.config().rules.levels.clone()
    }

    /// Takes a decision. When it is answered it is durable and in force. It goes on to its end when whoever asked goes away.
    ///
    /// # Errors
    /// It is refused, or cannot be stored; then nothing has changed.
    pub async fn decide_level(
        &self,
        change: LevelChange,
        who: &str,
        why: &str,
    ) -> Result<Decided, LevelFault> {
        self.decide_level_with(change, who, why, false).await
    }

    /// The same; with `clear`, more particular decisions within it are undone by the same stroke, so that it holds
    /// wherever the configuration says nothing more particular.
    ///
    /// # Errors
    /// As [`Questions::decide_level`].
    pub async fn decide_level_with(
        &self,
        change: LevelChange,
        who: &str,
        why: &str,
        clear: bool,
    ) -> Result<Decided, LevelFault> {
        let questions = self.clone();
        let (who, why) = (who.to_owned(), why.to_owned());
        to_the_end(async move { questions.decide_level_alone(change, &who, &why, clear).await })
            .await?
    }

    async fn decide_level_alone(
        &self,
        change: LevelChange,
        who: &str,
        why: &str,
        clear: bool,
    ) -> Result<Decided, LevelFault> {
        if let Some(scope) = change.scope() {
            self.check_scope(scope).await?;
        }
        let _one_at_a_time = self.intake().reloading().await;
        let mut decisions = self.level_decisions().await?;
        let now = self.now();
        let until = match &change {
            LevelChange::Set { until, .. } => *until,
            _ => None,
        };
        let before = decisions.clone();
        let scope = change.scope().cloned();
        let level = match &change {
            LevelChange::Set { level, .. } => Some(*level),
            _ => None,
        };
        let number = decisions.decide(change, who, why, now)?;
        let configured = self.configured_levels();
        let cleared = match &scope {
            Some(scope) if clear => {
                decisions.clear_particular(&configured, scope, who, why, now)?
            }
            _ => Vec::new(),
        };
        let not_reached = scope
            .map(|scope| decisions.not_reached(&configured, &scope, level, now))
            .unwrap_or_default();
        self.intake().write(write_of(&decisions)).await?;
        let rules_version = match self.put_levels_in_force().await {
            Ok(version) => version,
            Err(fault) => {
                // What is not in force must not come into force at the next start.
                self.intake().write(write_of(&before)).await?;
                return Err(fault);
            }
        };
        self.levels_changed.notify_one();
        Ok(Decided { number, until, rules_version, not_reached, cleared })
    }

    /// Refuses names that nothing has.
    async fn check_scope(&self, scope: &LevelScope) -> Result<(), LevelFault> {
        let config = self.config();
        let unknown = |what, name: &str, known: Vec<String>| LevelFault::Unknown {
            what,
            name: name.to_owned(),
            known: if known.is_empty() {
                String::new()
            } else {
                format!("; there are {}", known.join(", "))
            },
        };
        match &scope.subject {
            LevelSubject::Everything => {}
            LevelSubject::Affinity(name) => {
                let known = || config.affinities.iter().map(|one| one.name.clone());
                if !known().any(|one| one == *name) {
                    return Err(unknown("affinity", name, known().take(20).collect()));
                }
            }
            LevelSubject::Source(source) => {
                if !config.sources.iter().any(|one| one.id == *source) {
                    let known = config.sources.iter().take(20).map(|one| one.id.0.to_string());
                    return Err(unknown("source", &source.0.to_string(), known.collect()));
                }
            }
        }
        if let (Some(rule), Some(rules)) = (&scope.rule, self.rules().await)
            && rules.id_of(rule).is_none()
        {
            let known = rules.hint(rule);
            return Err(LevelFault::Unknown { what: "rule", name: rule.clone(), known });
        }
        Ok(())
    }

    /// Puts the rules in force again, at the levels that hold now. Whoever calls it has the lock of reloading.
    async fn put_levels_in_force(&self) -> Result<u64, LevelFault> {
        let now = self.following.in_force();
        let (layer, local) = (Arc::clone(&now.layer), Arc::clone(&now.local));
        let (trust, since) = (now.trust.clone(), now.since);
        let rules = self.put_in_force(layer, local, trust, since, None, &|_| {}).await;
        let rules = rules.map_err(|fault| match fault {
            ApplyFault::Store(fault) => LevelFault::Store(fault),
            other => LevelFault::Rules(other.to_string()),
        });
        Ok(rules?.version())
    }

    /// Puts the levels in force again if a decision has ended since they were; answers whether it had.
    ///
    /// # Errors
    /// The store takes or reads nothing now; an alert stands until it does.
    pub(crate) async fn end_levels(&self) -> Result<bool, LevelFault> {
        let outcome = self.end_levels_alone().await;
        let alerts = self.standing_alerts();
        match &outcome {
            Ok(_) => alerts.clear(LEVEL_NOT_ENDED, LEVEL_NOT_ENDED),
            Err(fault) => alerts.raise(Alert {
                code: LEVEL_NOT_ENDED.into(),
                key: LEVEL_NOT_ENDED.into(),
                words: "whether a level has ended cannot be seen to, so what holds goes on; it is tried again every minute".into(),
                evidence: fault.to_string(),
                since: self.now(),
            }),
        }
        outcome
    }

    async fn end_levels_alone(&self) -> Result<bool, LevelFault> {
        let _one_at_a_time = self.intake().reloading().await;
        let decisions = self.level_decisions().await?;
        let wanted = decisions.over(&self.configured_levels(), self.now());
        match self.rules().await {
            Some(rules) if *rules.levels() != wanted => {
                let version = self.put_levels_in_force().await?;
                tracing::info!(
                    rules_version = version,
                    "a level has ended; what held before holds again"
                );
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}
