//! Warm-up on the running node: the plans, their caps in the ledger, and the planner's proposals.
//!
//! **Promise.** The caps of a plan are in the ledger before the first message after a start, and follow the plan with each
//! day (UTC). A raise of a level waits for a person unless `[warm_up] automatic = "all"`; a fall on a breached
//! guard is carried out at once unless it is `"none"`. Every proposal keeps its figures and what became of it.
//!
//! **How.** The engine's thread counts attempts per source, rule and day ([`TallyBook`]); a task writes the counts to
//! the store every ten seconds, sees to the caps, and asks the planner a minute after the start and once an hour. Plans and proposals are one
//! value of the store, written whole.
//!
//! **What may be lost.** A crash loses at most ten seconds of the planner's counts. What holds a source within its caps is the
//! ledger, which has counts of its own; how high the caps are rests on the age of the source, and that on the counts of its days.
//! Counts are forgotten after [`DAYS_KEPT`] days, and not before their plan has kept what they were worth.

mod record;
mod tally;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use engine::warm_up::{
    Day, LastChange, LevelEvidence, Move, Proposal, WarmUpPlan, WarmUpState, propose,
};
use mail::id::SourceId;
use mail::time::Timestamp;
use quota::{SourceDayView, WarmUpCaps};
use rules::{LevelChange, LevelDecision, LevelScope, LevelSubject, RuleSet};
use serde::Serialize;
use store::Write;

use crate::alerts::{self, Alert};
use crate::config::Automatic;
use crate::intake::IntakeFault;
use crate::levels::LevelFault;
use crate::node::Questions;
use crate::runner::{Input, ask};
pub(crate) use record::stored_record;
pub use record::{PastCaps, PlanChange, ProposalState, StoredProposal, WarmUpRecord};
pub use tally::DAYS_KEPT;
pub(crate) use tally::{TALLIES, TallyBook};

/// How often counts are stored and caps looked after.
const ROUND: Duration = Duration::from_secs(10);
/// How soon after the start the planner is asked.
const FIRST_ASK: Duration = Duration::from_secs(60);
/// How often the planner is asked.
const ASK_EVERY: Duration = Duration::from_secs(3_600);
/// For so long a raise that was rejected is not proposed again.
const REJECTED_FOR: Duration = Duration::from_secs(7 * 86_400);
/// Who carries out what the planner decides.
const PLANNER: &str = "warm-up planner";

/// Plans, proposals and counts.
pub(crate) struct WarmUpDesk {
    pub(crate) tallies: Arc<TallyBook>,
    record: Mutex<WarmUpRecord>,
    /// Held while the record is changed and stored.
    changing: tokio::sync::Mutex<()>,
    /// Held by whoever answers proposals, a person or the planner, so that each is answered once.
    answering: tokio::sync::Mutex<()>,
    /// What was decided is in the record, and the store has not taken the record since.
    unsaved: AtomicBool,
}

/// What is shown of warm-up.
#[derive(Clone, Debug, Serialize)]
pub struct WarmUpShown {
    /// Now.
    pub now: Timestamp,
    /// What the planner may do by itself.
    pub automatic: Automatic,
    /// The plans with where they stand.
    pub plans: Vec<ShownPlan>,
    /// What sources sent, beside their caps.
    pub sources: Vec<SourceDayView>,
    /// What the planner says of each source and provider with mail in the last week.
    pub levels: Vec<Proposal>,
    /// Proposals and what became of them, oldest first.
    pub proposals: Vec<StoredProposal>,
    /// The caps that were in force, oldest first.
    pub past_caps: Vec<PastCaps>,
    /// What people did with plans, oldest first.
    pub changes: Vec<PlanChange>,
}

/// A plan with where it stands.
#[derive(Clone, Debug, Serialize)]
pub struct ShownPlan {
    /// The plan.
    pub plan: WarmUpPlan,
    /// Where it stands.
    pub state: WarmUpState,
}

/// Why something about warm-up is not done.
#[derive(Debug, thiserror::Error)]
pub enum WarmUpFault {
    /// It cannot be meant, or names what is not there.
    #[error("{0}")]
    Refused(String),
    /// The level cannot be changed.
    #[error("{0}")]
    Level(#[from] LevelFault),
    /// The store takes nothing now.
    #[error("{0}")]
    Store(#[from] IntakeFault),
}

impl WarmUpDesk {
    pub(crate) fn new(record: WarmUpRecord, tallies: Arc<TallyBook>) -> Self {
        Self {
            tallies,
            record: Mutex::new(record),
            changing: tokio::sync::Mutex::default(),
            answering: tokio::sync::Mutex::default(),
            unsaved: AtomicBool::new(false),
        }
    }

    fn record(&self) -> WarmUpRecord {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the record in memory; answers what is to be stored.
    fn note(&self, note: impl FnOnce(&mut WarmUpRecord)) -> Write {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        note(&mut record);
        self.unsaved.store(true, Ordering::Relaxed);
        record.write()
    }

    /// The caps that the plans ask for at a moment.
    pub(crate) fn caps(&self, now: Timestamp) -> WarmUpCaps {
        let today = Day::of(now);
        let plans = self.record.lock().unwrap_or_else(PoisonError::into_inner).plans.clone();
        let caps = plans.into_iter().filter_map(|(source, plan)| {
            let state = plan.state(&self.tallies.of_source(source), today);
            Some((source, state.caps?))
        });
        WarmUpCaps { sources: caps.collect() }
    }
}

impl Questions {
    /// Everything about warm-up.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn warm_up(&self) -> Result<WarmUpShown, IntakeFault> {
        let (now, record) = (self.now(), self.warm_up.record());
        let today = Day::of(now);
        let plans = record.plans.into_values().map(|plan| {
            let state = plan.state(&self.warm_up.tallies.of_source(plan.source), today);
            ShownPlan { plan, state }
        });
        let plans = plans.collect();
        let sources = ask(&self.inputs, |view| view.ledger.source_days(view.now)).await;
        Ok(WarmUpShown {
            now,
            automatic: self.config().warm_up.automatic,
            plans,
            sources: sources.unwrap_or_default(),
            levels: self.judgements(now, &record.proposals).await?,
            proposals: record.proposals,
            past_caps: record.past_caps,
            changes: record.changes,
        })
    }

    /// What sources sent within a day beside their caps, and how many proposals wait for a person.
    pub async fn warm_up_figures(&self) -> Option<(Vec<SourceDayView>, usize)> {
        let open = |one: &&StoredProposal| one.state == ProposalState::Open;
        let open = self.warm_up.record().proposals.iter().filter(open).count();
        let sources = ask(&self.inputs, |view| view.ledger.source_days(view.now)).await?;
        Some((sources, open))
    }

    /// Changes the record and stores it; nothing is changed when it cannot be stored.
    async fn change_warm_up<T>(
        &self,
        change: impl FnOnce(&mut WarmUpRecord) -> Result<T, WarmUpFault>,
    ) -> Result<T, WarmUpFault> {
        let _one_at_a_time = self.warm_up.changing.lock().await;
        let mut record = self.warm_up.record();
        let answer = change(&mut record)?;
        self.intake().write(record.write()).await?;
        *self.warm_up.record.lock().unwrap_or_else(PoisonError::into_inner) = record;
        self.warm_up.unsaved.store(false, Ordering::Relaxed);
        Ok(answer)
    }

    /// Notes what was decided, which stands whether the note can be stored or not: what cannot be stored now is
    /// stored with the next change, at the latest when the planner is asked again.
    async fn note_answers(&self, note: impl FnOnce(&mut WarmUpRecord)) -> Result<(), WarmUpFault> {
        let _one_at_a_time = self.warm_up.changing.lock().await;
        let write = self.warm_up.note(note);
        self.intake().write(write).await?;
        self.warm_up.unsaved.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Puts a plan in force; the one that its source had is replaced, and kept with the note of who did it. Answers the plan
    /// as it is in force: a cap that every plan has is left out where no rule has its name.
    ///
    /// # Errors
    /// Its figures cannot be meant, there is no such source, or it names a rule that is not there.
    pub async fn apply_plan(
        &self,
        mut plan: WarmUpPlan,
        who: &str,
    ) -> Result<WarmUpPlan, WarmUpFault> {
        plan.check().map_err(|fault| WarmUpFault::Refused(fault.to_string()))?;
        if !self.config().sources.iter().any(|one| one.id == plan.source) {
            return Err(WarmUpFault::Refused(format!("there is no source {}", plan.source.0)));
        }
        if let Some(rules) = self.rules().await {
            fit_providers(&mut plan, &rules)?;
        }
        let now = self.now();
        let mut applied = plan.clone();
        self.change_warm_up(|record| {
            plan.past = record.past_days(&plan);
            applied = plan.clone();
            record.note(plan.source, "applied", who, now);
            record.plans.insert(plan.source, plan);
            Ok(())
        })
        .await?;
        self.renew_caps().await?;
        Ok(applied)
    }

    /// Pauses or resumes the plan of a source, or ends it.
    ///
    /// # Errors
    /// The source has no plan.
    pub async fn steer_plan(
        &self,
        source: SourceId,
        how: Steering,
        who: &str,
    ) -> Result<(), WarmUpFault> {
        let now = self.now();
        let today = Day::of(now);
        self.change_warm_up(|record| {
            if record.plans.contains_key(&source) {
                record.note(source, how.word(), who, now);
            }
            let none = || WarmUpFault::Refused(format!("source {} has no plan", source.0));
            let plan = record.plans.get_mut(&source).ok_or_else(none)?;
            match how {
                Steering::Pause => plan.pause(today),
                Steering::Resume => plan.resume(today),
                Steering::End => drop(record.plans.remove(&source)),
            }
            Ok(())
        })
        .await?;
        self.renew_caps().await
    }

    /// Approves or rejects an open proposal; what is approved is in force when it is answered.
    ///
    /// # Errors
    /// There is no such open proposal.
    pub async fn answer_proposal(
        &self,
        number: u64,
        approve: bool,
        who: &str,
        why: &str,
    ) -> Result<StoredProposal, WarmUpFault> {
        let _one_at_a_time = self.warm_up.answering.lock().await;
        let record = self.warm_up.record();
        let found = record.proposals.iter().find(|one| one.number == number);
        let found = found.ok_or_else(|| {
            WarmUpFault::Refused(format!("there is no proposal {number}; see the status"))
        })?;
        if found.state != ProposalState::Open {
            let state = found.state.word();
            return Err(WarmUpFault::Refused(format!("proposal {number} is not open: {state}")));
        }
        let reason = if why.is_empty() { found.proposal.why.as_str() } else { why };
        let decision = match approve {
            true => Some(self.carry_out(&found.proposal, who, reason).await?),
            false => None,
        };
        let state = if approve { ProposalState::Approved } else { ProposalState::Rejected };
        let now = self.now();
        let mut answered = found.clone();
        (answered.state, answered.answered_at, answered.decision) = (state, Some(now), decision);
        (answered.who, answered.words) = (who.to_owned(), why.to_owned());
        let put = |record: &mut WarmUpRecord| {
            let one = record.proposals.iter_mut().find(|one| one.number == number);
            one.into_iter().for_each(|one| *one = answered.clone());
        };
        self.note_answers(put).await?;
        Ok(answered)
    }

    /// Sets the level that a proposal proposes.
    async fn carry_out(
        &self,
        proposal: &Proposal,
        who: &str,
        why: &str,
    ) -> Result<u64, LevelFault> {
        let scope = LevelScope {
            subject: LevelSubject::Source(proposal.source),
            rule: Some(proposal.rule.clone()),
        };
        let now = self.now();
        let until = match proposal.step {
            Move::Lower => {
                let here = (proposal.source, proposal.rule.as_str());
                let decisions = self.level_decisions().await?;
                decisions.end_of_fall(&self.configured_levels(), here, proposal.to, now)
            }
            Move::Raise | Move::Hold => None,
        };
        let change = LevelChange::Set { scope, level: proposal.to, until };
        // The figures may be more words than a decision keeps.
        let why: String = why.chars().filter(|c| !c.is_control()).take(300).collect();
        Ok(self.decide_level(change, who, &why).await?.number)
    }

    /// What the planner says of every source and rule with mail in the last week.
    async fn judgements(
        &self,
        now: Timestamp,
        past: &[StoredProposal],
    ) -> Result<Vec<Proposal>, IntakeFault> {
        let Some(rules) = self.rules().await else { return Ok(Vec::new()) };
        let decisions = self.level_decisions().await?;
        let levels = rules.levels();
        let pairs = self.warm_up.tallies.pairs(Day(Day::of(now).0.saturating_sub(6)));
        let judge = |(source, rule, days): (SourceId, Arc<str>, SourceDays)| {
            let level = levels.of(&rule, source).0;
            let covers = |one: &&LevelDecision| {
                let Some(scope) = one.change.scope() else { return true };
                let subject = match &scope.subject {
                    LevelSubject::Everything => true,
                    LevelSubject::Source(of) => *of == source,
                    LevelSubject::Affinity(name) => {
                        levels.affinities.get(name).is_some_and(|all| all.contains(&source))
                    }
                };
                subject && scope.rule.as_ref().is_none_or(|name| **name == *rule)
            };
            let ended = |one: &LevelDecision| match one.change {
                LevelChange::Set { until: Some(until), .. } if until <= now => until,
                _ => one.at,
            };
            let changed_at = decisions.all().iter().filter(covers).map(ended).max();
            let fell = past.iter().rev().find_map(|one| {
                let mine = one.proposal.source == source && *one.proposal.rule == *rule;
                let fell = mine && one.proposal.step == Move::Lower && one.decision.is_some();
                fell.then_some((one.at, one.proposal.from))
            });
            let changed = changed_at.map(|at| {
                let before = self.warm_up.tallies.before(source, &rule, Day::of(at), level);
                LastChange { at, before }
            });
            let evidence = LevelEvidence { source, rule: &rule, level, changed, fell, days: &days };
            propose(&evidence, now)
        };
        Ok(pairs.into_iter().map(judge).collect())
    }

    /// Asks the planner, carries out what it may, and keeps the rest for people.
    pub(crate) async fn ask_planner(&self) -> Result<(), WarmUpFault> {
        let _one_at_a_time = self.warm_up.answering.lock().await;
        let now = self.now();
        let record = self.warm_up.record();
        let said = self.judgements(now, &record.proposals).await?;
        let automatic = self.config().warm_up.automatic;
        let mut new: Vec<StoredProposal> = Vec::new();
        let mut fault: Option<LevelFault> = None;
        for proposal in said.iter().filter(|one| one.step != Move::Hold && one.from != one.to) {
            let by_itself = match proposal.step {
                Move::Lower => automatic != Automatic::None,
                _ => automatic == Automatic::All,
            };
            let same = |one: &&StoredProposal| one.is_about(proposal);
            let known = record.proposals.iter().rev().find(same);
            let still = |one: &StoredProposal| match one.state {
                ProposalState::Open => !by_itself,
                ProposalState::Rejected => {
                    one.answered_at.is_some_and(|at| at + REJECTED_FOR > now)
                }
                _ => false,
            };
            if known.is_some_and(still) {
                continue;
            }
            let mut one = StoredProposal::open(proposal.clone(), now);
            if by_itself {
                // One that fails is tried again; those that were carried out are kept all the same.
                match self.carry_out(proposal, PLANNER, &proposal.why).await {
                    Ok(decision) => one.decision = Some(decision),
                    Err(found) => {
                        fault.get_or_insert(found);
                        continue;
                    }
                }
                (one.state, one.answered_at) = (ProposalState::Automatic, Some(now));
                PLANNER.clone_into(&mut one.who);
                let (source, rule, to) = (proposal.source, &proposal.rule, proposal.to);
                tracing::warn!(%source, rule, %to, why = proposal.why, "the planner has set a level");
            }
            new.push(one);
        }
        let stands = |one: &StoredProposal| {
            said.iter().any(|said| said.step != Move::Hold && one.is_about(said))
        };
        let stale =
            record.proposals.iter().any(|one| one.state == ProposalState::Open && !stands(one));
        let unsaved = self.warm_up.unsaved.load(Ordering::Relaxed);
        if new.is_empty() && !stale && !unsaved {
            return fault.map_or(Ok(()), |fault| Err(fault.into()));
        }
        let noted = self.note_answers(|record| {
            for one in &mut record.proposals {
                let replaced = new.iter().any(|new| one.is_about(&new.proposal));
                if one.state == ProposalState::Open && (replaced || !stands(one)) {
                    (one.state, one.answered_at) = (ProposalState::Withdrawn, Some(now));
                }
            }
            record.add(new);
        });
        let noted = noted.await;
        fault.map_or(noted, |fault| Err(fault.into()))
    }

    /// Gives the ledger the caps of the plans if they have changed, and notes them.
    pub(crate) async fn renew_caps(&self) -> Result<(), WarmUpFault> {
        let now = self.now();
        let caps = self.warm_up.caps(now);
        if let Some(rules) = self.rules().await {
            self.alerts.replace(alerts::WARM_UP_CAP, orphaned_caps(&caps, &rules, now));
        }
        let held = self.warm_up.record().past_caps.pop().map(|past| past.caps).unwrap_or_default();
        if held == caps {
            return Ok(());
        }
        for source in caps.sources.keys().filter(|one| !held.sources.contains_key(one)) {
            tracing::info!(%source, "the source has warm-up caps from now on");
        }
        for source in held.sources.keys().filter(|one| !caps.sources.contains_key(one)) {
            tracing::info!(%source, "the source has no warm-up caps any more");
        }
        // Tighter caps must not wait for the store; wider ones do no harm before their note is stored.
        let _ = self.inputs.send(Input::WarmUp(Arc::new(caps.clone())));
        self.change_warm_up(|record| {
            record.past_caps.push(PastCaps { from: now, caps });
            Ok(())
        })
        .await
    }

    /// Stores what the tallies have counted since the last time.
    ///
    /// # Errors
    /// The store takes nothing now; the counts are kept and stored later.
    pub(crate) async fn store_tallies(&self) -> Result<(), WarmUpFault> {
        let tallies = &self.warm_up.tallies;
        let rows = tallies.changed();
        if !rows.is_empty()
            && let Err(fault) = self.intake().write(Write::Ledger(rows.clone())).await
        {
            tallies.not_stored(&rows);
            return Err(fault.into());
        }
        let today = Day::of(self.now());
        if tallies.is_to_forget(today) && self.warm_up.record().settle(tallies, today) {
            self.change_warm_up(|record| {
                record.settle(tallies, today);
                Ok(())
            })
            .await?;
        }
        if let Some(before) = tallies.forget_before(today) {
            let prune = Write::PruneLedger { kind: tally::TALLIES, before_slot: before.0.into() };
            self.intake().write(prune).await?;
        }
        Ok(())
    }
}

/// Leaves usual caps out where no rule has their name, and refuses other names that no rule has.
fn fit_providers(plan: &mut WarmUpPlan, rules: &RuleSet) -> Result<(), WarmUpFault> {
    let has = |name: &str| rules.id_of(name).is_some();
    plan.providers.retain(|name, cap| has(name) || !WarmUpPlan::is_usual_cap(name, *cap));
    match plan.providers.keys().find(|name| !has(name)) {
        Some(unknown) => Err(WarmUpFault::Refused(format!("there is no rule {unknown:?}"))),
        None => Ok(()),
    }
}

/// Caps at rules that are not there any more, such as after a bundle that calls them otherwise: they hold nothing.
fn orphaned_caps(caps: &WarmUpCaps, rules: &RuleSet, now: Timestamp) -> Vec<Alert> {
    let all = caps.sources.iter().flat_map(|(source, caps)| {
        caps.providers.iter().map(move |(rule, cap)| (source.0, rule, cap))
    });
    let orphaned = all.filter(|(_, rule, _)| rules.id_of(rule).is_none());
    let alert = |(source, rule, cap): (u32, &String, &u32)| Alert {
        code: alerts::WARM_UP_CAP.to_owned(),
        key: format!("{source} {rule}"),
        words: format!(
            "the warm-up cap of source {source} at {rule} holds nothing: no rule has that name any more. Apply the plan again, with the name that the rule has now"
        ),
        evidence: format!("{cap} a day; rules version {}", rules.version()),
        since: now,
    };
    orphaned.map(alert).collect()
}

/// What is done with a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steering {
    /// No day counts from today on; the caps stay.
    Pause,
    /// Days count again.
    Resume,
    /// There is no plan and no cap any more.
    End,
}

impl Steering {
    /// What was done, in a word.
    const fn word(self) -> &'static str {
        match self {
            Self::Pause => "paused",
            Self::Resume => "resumed",
            Self::End => "ended",
        }
    }
}

/// Sees to counts, caps, ends of levels and proposals for as long as the node lives.
pub(crate) async fn keep_up(questions: Questions) {
    // Soon after the start, so that a node which starts often asks all the same.
    let mut ask_at = questions.now() + FIRST_ASK;
    let mut day = Day::of(questions.now());
    loop {
        let now = questions.now();
        let end = match questions.level_decisions().await {
            Ok(decisions) => decisions.next_end(now).unwrap_or(Timestamp::NEVER),
            Err(_) => Timestamp::NEVER,
        };
        let midnight = day.plus(1).start();
        let wait = end.min(midnight).since(now).clamp(Duration::from_millis(1), ROUND);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = questions.levels_changed.notified() => continue,
        }
        let fault = |what: &str, fault: &dyn core::fmt::Display| {
            tracing::warn!(%fault, "{what}; it is tried again");
        };
        if let Err(found) = questions.end_levels().await {
            fault("levels cannot be looked after", &found);
        }
        if let Err(found) = questions.store_tallies().await {
            fault("the planner's counts cannot be stored", &found);
        }
        if let Err(found) = questions.renew_caps().await {
            fault("the caps of warm-up cannot be noted", &found);
        }
        let now = questions.now();
        if now >= ask_at || Day::of(now) != day {
            (ask_at, day) = (now + ASK_EVERY, Day::of(now));
            if let Err(found) = questions.ask_planner().await {
                fault("the planner cannot be asked", &found);
            }
        }
    }
}

/// The days of a source, ready for a plan: see [`TallyBook`].
pub(crate) type SourceDays = Vec<(Day, engine::warm_up::Tally, engine::warm_up::PooledComplaints)>;
