//! Reactions of the running node: their rules, what is kept of them, and what people order.
//!
//! The engine decides; this module reads the rules, keeps what the engine wants kept as one setting of the store, and
//! turns reactions that a rule marks so into alerts.

use std::path::Path;
use std::sync::Arc;

use engine::event::Event;
use engine::reactions::{KeptReactions, ReactionOrder};
use mail::time::Timestamp;
use rules::reaction::{ReactionFile, ReactionRules, shipped_reactions};
use store::{AuditEntry, Write};

use crate::alerts::{Alert, REACTION};
use crate::deliverability::Layer;
use crate::intake::IntakeFault;
use crate::node::{Questions, StartFault};
use crate::regular_file;
use crate::runner::Input;

/// Name of the store's setting.
pub(crate) const SETTING: &str = "reactions";

/// Reads and checks the operator's own reaction rules.
///
/// # Errors
/// The file cannot be read, or has faults.
pub(crate) fn local_rules(path: &Path) -> Result<ReactionFile, StartFault> {
    let bytes = regular_file::read(path)
        .map_err(|source| StartFault::File { path: path.into(), source })?;
    ReactionFile::parse(&path.display().to_string(), &bytes).map_err(StartFault::ReactionRules)
}

/// The operator's own reaction rules, if any, over those of a bundle or the shipped ones.
pub(crate) fn rules_over(local: Option<&ReactionFile>, layer: &Layer) -> Arc<ReactionRules> {
    match (local, layer.contents().reaction.as_ref()) {
        (None, None) => ReactionRules::shipped(),
        (None, Some(published)) => Arc::new(ReactionRules::compile(published)),
        (Some(local), published) => {
            let below = published.unwrap_or_else(|| shipped_reactions());
            Arc::new(ReactionRules::compile(&ReactionFile::combine(Some(local), below)))
        }
    }
}

/// What an earlier process kept; nothing where it cannot be read any more, which is said in the log: a reaction that is
/// forgotten costs some replies, a node that does not start costs all mail.
pub(crate) fn kept(setting: Option<&str>) -> KeptReactions {
    let Some(text) = setting else { return KeptReactions::default() };
    serde_json::from_str(text).unwrap_or_else(|fault| {
        tracing::error!(%fault, "the reactions in force cannot be read; they begin anew");
        KeptReactions::default()
    })
}

/// The write that keeps them.
pub(crate) fn write(kept: &KeptReactions) -> Write {
    let value =
        serde_json::to_string(kept).expect("numbers, texts and lists are JSON whatever they hold");
    Write::PutSetting { key: SETTING.into(), value: value.into() }
}

/// The alerts that reactions in force stand for.
pub(crate) fn alerts(kept: &KeptReactions) -> Vec<Alert> {
    let marked = kept.in_force.iter().filter(|reaction| reaction.effect.alert);
    marked
        .map(|reaction| Alert {
            code: REACTION.into(),
            key: format!("R{}", reaction.id),
            words: format!(
                "{} ({}) until {}: rule {}@{}",
                reaction.about,
                reaction.effect.words(),
                reaction.ends_at(),
                reaction.rule,
                reaction.version
            ),
            evidence: format!("{}: {}", reaction.mx_host, reaction.heard),
            since: reaction.began,
        })
        .collect()
}

/// Why an order about a reaction was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OrderFault {
    /// No reaction in force has this number.
    #[error("no reaction R{0} is in force")]
    Unknown(u64),
    /// The node is ending.
    #[error("the node is ending")]
    Ending,
    /// The store takes nothing, so the order could not be written down.
    #[error("{0}")]
    Store(#[from] IntakeFault),
}

impl Questions {
    /// All reactions in force and the last that have ended; `None`: the node is ending.
    pub async fn reactions(&self) -> Option<KeptReactions> {
        self.ask(|view| view.engine.reactions()).await
    }

    /// The reaction rules in force; `None`: the node is ending.
    pub async fn reaction_rules(&self) -> Option<Arc<ReactionRules>> {
        self.ask(|view| Arc::clone(view.engine.reaction_rules())).await
    }

    /// Lifts or prolongs a reaction. The order is in the audit trail before it takes effect.
    ///
    /// # Errors
    /// See [`OrderFault`].
    pub async fn order_reaction(
        &self,
        id: u64,
        order: ReactionOrder,
        who: &str,
        why: &str,
    ) -> Result<(), OrderFault> {
        let kept = self.reactions().await.ok_or(OrderFault::Ending)?;
        let known = kept.in_force.iter().find(|reaction| reaction.id == id);
        let reaction = known.ok_or(OrderFault::Unknown(id))?;
        let deed = match order {
            ReactionOrder::Lift => "lifted".to_owned(),
            ReactionOrder::HoldUntil(until) => format!("held until {until}"),
        };
        let entry = AuditEntry {
            at: self.now(),
            who: who.into(),
            what: format!("reaction {} about {} {deed}", reaction.cited(), reaction.about).into(),
            why: why.into(),
        };
        self.intake().write(Write::Audit(entry)).await?;
        let (who, why) = (who.to_owned(), why.to_owned());
        let event = Event::ReactionOrdered { id, order, who, why };
        if self.send(Input::Event(event)) { Ok(()) } else { Err(OrderFault::Ending) }
    }

    /// Everything that a person has to look at, the oldest first.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn alerts(&self) -> Result<Vec<Alert>, IntakeFault> {
        let mut all = self.standing_alerts().list();
        let holds = self.nondeliverables().holds(HOLDS_SHOWN).await?;
        for hold in holds.into_iter().filter(|hold| hold.ended.is_none()) {
            all.push(Alert {
                code: crate::alerts::OUTAGE_GUARD.into(),
                key: hold.provider.to_string(),
                words: format!(
                    "{} suddenly calls far more recipients unknown than usual; nobody there is quarantined for it (hold {})",
                    hold.provider, hold.hold
                ),
                evidence: format!(
                    "{} of 1000 unknown, usually {}",
                    hold.sudden_permille, hold.usual_permille
                ),
                since: hold.tripped_at,
            });
        }
        all.sort_by_key(|alert: &Alert| alert.since);
        Ok(all)
    }
}

/// Holds of the outage guard that are looked at.
const HOLDS_SHOWN: u32 = 1_000;

/// A line in the log for each reaction that began, was renewed or ended between two lists.
pub(crate) fn tell(before: &KeptReactions, after: &KeptReactions) {
    for reaction in &after.in_force {
        let known = before.in_force.iter().find(|one| one.id == reaction.id);
        if known.is_none_or(|one| one.times != reaction.times || one.until != reaction.until) {
            tracing::warn!(
                reaction = %reaction.cited(),
                about = %reaction.about,
                effect = %reaction.effect.words(),
                until = %reaction.until,
                heard = %reaction.heard,
                "a reaction is in force"
            );
        }
    }
    let ended =
        |one: &&engine::reactions::Reaction| before.in_force.iter().any(|was| was.id == one.id);
    for reaction in after.ended.iter().filter(ended) {
        tracing::info!(reaction = %reaction.cited(), about = %reaction.about, "a reaction has ended");
    }
}

/// Whether a time up to which a reaction is to be held makes sense.
#[must_use]
pub fn may_hold_until(now: Timestamp, until: Timestamp) -> bool {
    until > now && until - now <= core::time::Duration::from_secs(90 * 86_400)
}
