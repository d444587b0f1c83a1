//! What is stored of warm-up: plans, proposals with what became of them, and the caps that were in force.

use std::collections::BTreeMap;

use engine::warm_up::{Day, Move, PastDays, Proposal, WarmUpPlan};
use mail::id::SourceId;
use mail::time::Timestamp;
use quota::WarmUpCaps;
use serde::{Deserialize, Serialize};
use store::{Reads, StoreFault, Write};

use super::tally::{DAYS_KEPT, TallyBook};
use crate::levels::unreadable;

/// Name of the store's setting.
const RECORD: &str = "warm_up";
/// Octets of the stored record; the store takes a little more.
const RECORD_MOST: usize = 900 << 10;
/// Proposals that are kept.
const PROPOSALS_MOST: usize = 500;
/// Changes of plans that are kept.
const CHANGES_MOST: usize = 200;
/// A day is settled in its plan when it is so old: days before its counts go, and later than the last that is shown.
const SETTLED_AFTER: u32 = 40;
const _: () = assert!(SETTLED_AFTER < DAYS_KEPT);
/// Changes of the caps that are kept, for the auditor.
const CAPS_MOST: usize = 400;

/// Everything that is stored.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct WarmUpRecord {
    /// By source.
    pub plans: BTreeMap<SourceId, WarmUpPlan>,
    /// Oldest first.
    pub proposals: Vec<StoredProposal>,
    /// Oldest first; the last are in force.
    pub past_caps: Vec<PastCaps>,
    /// The number of the last proposal.
    pub last_number: u64,
    /// What people did with plans, oldest first.
    pub changes: Vec<PlanChange>,
}

/// Something that a person did with a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanChange {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub who: String,
    /// Whose plan.
    pub source: SourceId,
    /// What was done: `applied`, `paused`, `resumed` or `ended`.
    pub what: String,
    /// The plan of the source before; `None`: it had none. Applied again, it undoes the change.
    pub plan: Option<WarmUpPlan>,
}

/// The caps from a moment on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastCaps {
    /// From then.
    pub from: Timestamp,
    /// These.
    pub caps: WarmUpCaps,
}

/// What became of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProposalState {
    /// It waits for a person.
    Open,
    /// A person approved it.
    Approved,
    /// A person rejected it.
    Rejected,
    /// The planner carried it out by itself.
    Automatic,
    /// The figures do not say so any more.
    Withdrawn,
}

impl ProposalState {
    /// The word in tables.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Approved => "approved",
            Self::Rejected => "rejected",
            Self::Automatic => "automatic",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// A proposal to raise or lower.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredProposal {
    /// Its number, from 1.
    pub number: u64,
    /// When it was made.
    pub at: Timestamp,
    /// What is proposed, with its figures.
    pub proposal: Proposal,
    /// What became of it.
    pub state: ProposalState,
    /// Since when.
    pub answered_at: Option<Timestamp>,
    /// Who answered.
    pub who: String,
    /// What was said with the answer.
    pub words: String,
    /// The decision about levels that carried it out.
    pub decision: Option<u64>,
}

impl StoredProposal {
    /// A new one; it gets its number when it is added.
    pub(super) fn open(proposal: Proposal, at: Timestamp) -> Self {
        let (who, words) = (String::new(), String::new());
        let (answered_at, decision) = (None, None);
        Self {
            number: 0,
            at,
            proposal,
            state: ProposalState::Open,
            answered_at,
            who,
            words,
            decision,
        }
    }

    /// Whether it proposes the same.
    pub(super) fn is_about(&self, other: &Proposal) -> bool {
        let own = &self.proposal;
        (own.source, &own.rule, own.step, own.to)
            == (other.source, &other.rule, other.step, other.to)
    }
}

impl WarmUpRecord {
    /// Takes into the plans what those days were worth whose counts will soon be forgotten. Answers whether a plan has changed.
    pub(super) fn settle(&mut self, tallies: &TallyBook, today: Day) -> bool {
        let before = Day(today.0.saturating_sub(SETTLED_AFTER));
        let mut changed = false;
        for (source, plan) in &mut self.plans {
            changed |= plan.settle(&tallies.of_source(*source), before);
        }
        changed
    }

    /// What the days were worth whose counts are gone, for a plan that is applied: one that its source has or had before,
    /// with the same start, is about the same days.
    pub(super) fn past_days(&self, plan: &WarmUpPlan) -> PastDays {
        let before = self.changes.iter().rev().filter(|one| one.source == plan.source);
        let before = before.filter_map(|one| one.plan.as_ref());
        let mut before = self.plans.get(&plan.source).into_iter().chain(before);
        before.find(|old| old.start == plan.start).map(|old| old.past).unwrap_or_default()
    }

    /// Notes what `who` does with the plan of a source, before it is done.
    pub(super) fn note(&mut self, source: SourceId, what: &str, who: &str, at: Timestamp) {
        let plan = self.plans.get(&source).cloned();
        let (who, what) = (who.to_owned(), what.to_owned());
        self.changes.push(PlanChange { at, who, source, what, plan });
    }

    /// Adds proposals and gives them their numbers; forgets the oldest that need no answer.
    pub(super) fn add(&mut self, new: Vec<StoredProposal>) {
        for mut one in new {
            self.last_number += 1;
            one.number = self.last_number;
            self.proposals.push(one);
        }
        while self.proposals.len() > PROPOSALS_MOST && self.forget_proposal() {}
    }

    /// Forgets the oldest proposal that is neither open nor a fall that still keeps from a raise.
    fn forget_proposal(&mut self) -> bool {
        let closed = |one: &StoredProposal| one.state != ProposalState::Open;
        let past = self
            .proposals
            .iter()
            .position(|one| closed(one) && one.proposal.step != Move::Lower)
            .or_else(|| self.proposals.iter().position(closed))
            .or((!self.proposals.is_empty()).then_some(0));
        past.map(|place| self.proposals.remove(place)).is_some()
    }

    /// The record as the store takes it, shortened where it would be too long.
    pub(super) fn write(&mut self) -> Write {
        if self.changes.len() > CHANGES_MOST {
            self.changes.drain(..self.changes.len() - CHANGES_MOST);
        }
        if self.past_caps.len() > CAPS_MOST {
            self.past_caps.drain(..self.past_caps.len() - CAPS_MOST);
        }
        loop {
            // Plain data: writing it as JSON cannot fail.
            let value = serde_json::to_string(self).unwrap_or_default();
            let shorter = value.len() > RECORD_MOST
                && (self.past_caps.len() > 2 || !self.proposals.is_empty());
            if !shorter {
                return Write::PutSetting { key: RECORD.into(), value: value.into() };
            }
            let half = self.past_caps.len() / 2;
            self.past_caps.drain(..half);
            if half <= 1 {
                self.forget_proposal();
            }
        }
    }
}

/// Reads the record of the store.
///
/// # Errors
/// The store cannot be read, or what it holds is no such record.
pub(crate) fn stored_record(reads: &dyn Reads) -> Result<WarmUpRecord, StoreFault> {
    let Some(text) = reads.setting(RECORD)? else { return Ok(WarmUpRecord::default()) };
    serde_json::from_str(&text).map_err(|fault| {
        unreadable(format!(
            "the plans of warm-up (setting {RECORD}) cannot be read: {fault}; were they written by a newer version?"
        ))
    })
}
