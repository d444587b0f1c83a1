//! What is to be done now and then: ending what ends by itself, working off tasks, keeping the guard's
//! memory, judging anew under other rules.
//!
//! Everything goes in bounded steps, each a commit of its own between those of mail.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use engine::quarantine::{
    Anew, CleanUpReport, CleanUpStep, Cleaned, Entry, EntryId, LedgerWrite, LedgerWritten,
    ProviderDay, Qualification, Selection, TextFilter, TextStatus,
};
use mail::time::Timestamp;
use store::{LedgerPlace, LedgerRow, Reads, StoreFault, Write};

use super::{BounceRulesInForce, NonDeliverables, STEP, Snapshot};
use crate::intake::IntakeFault;

/// How often quarantines that ended are looked for.
const EACH: Duration = Duration::from_secs(60);

/// How often the sizes of lists are read.
const SNAPSHOT_EACH: Duration = Duration::from_secs(300);

/// Pause after the store did not take something.
const STORE_RETRY: Duration = Duration::from_secs(5);

/// Texts that wait for somebody, counted up to here.
const TEXTS_COUNTED: u32 = 10_000;

/// Kind of the rows with the guard's daily totals: key is the provider, slot the day.
const PROVIDER_DAYS: u8 = 16;

/// Days for which they are kept.
const DAYS_KEPT: u64 = 29;

/// The setting with the version of the bounce rules by which the ledger was judged.
const JUDGED_BY: &str = "bounce_rules_version";

/// The setting with the policy by which the ledger was judged.
pub(crate) const POLICY: &str = "quarantine_policy";

/// The guard's daily totals of earlier runs.
///
/// # Errors
/// The store cannot be read.
pub(crate) fn provider_days(
    reads: &dyn Reads,
    now: Timestamp,
) -> Result<Vec<ProviderDay>, StoreFault> {
    let rows = reads.ledger(PROVIDER_DAYS, (now.as_secs() / 86_400).saturating_sub(DAYS_KEPT))?;
    let day = |row: LedgerRow| {
        Some(ProviderDay {
            provider: row.key,
            day: u32::try_from(row.slot).ok()?,
            total: u32::try_from(row.value).ok()?,
            unknown: row.extra.parse().ok()?,
        })
    };
    // A row that is none is as if nothing were known of that day.
    Ok(rows.into_iter().filter_map(day).collect())
}

/// Does what is to be done, until it is dropped.
pub(super) async fn keep(all: NonDeliverables) {
    let mut clean_up_at = next_clean_up(&all);
    let mut snapshot_at = Timestamp::EPOCH;
    judge_anew(&all).await;
    while !all.inner.stopping.is_cancelled() {
        work_off(&all).await;
        let now = all.inner.intake.now();
        if let Err(fault) = end_what_is_due(&all).await {
            tracing::warn!(%fault, "quarantines that have come to their end could not be ended");
        }
        keep_guard(&all).await;
        if now >= clean_up_at {
            let report = clean_up(&all).await;
            tracing::info!("{report}");
            clean_up_at = next_clean_up(&all);
        }
        if now >= snapshot_at {
            look_around(&all).await;
            snapshot_at = now + SNAPSHOT_EACH;
        }
        tokio::select! {
            () = all.inner.stopping.cancelled() => {}
            () = all.inner.tasks_wait.notified() => {}
            () = all.inner.rules_changed.notified() => judge_anew(&all).await,
            () = tokio::time::sleep(EACH) => {}
        }
    }
}

fn next_clean_up(all: &NonDeliverables) -> Timestamp {
    CleanUpReport::next_at(all.inner.intake.now(), all.inner.config.clean_up_at)
}

/// Works off all tasks, in their order.
async fn work_off(all: &NonDeliverables) {
    loop {
        let tasks = match all.tasks().await {
            Ok(tasks) => tasks,
            Err(fault) => return tracing::warn!(%fault, "the tasks cannot be read"),
        };
        let Some(task) = tasks.first() else { return };
        let mut changed = 0_usize;
        loop {
            if all.inner.stopping.is_cancelled() {
                return;
            }
            let (policy, now) = (all.policy(), all.inner.intake.now());
            let write = LedgerWrite::GoOn { task: task.task, limit: STEP, policy, now };
            match all.carry_out(write).await {
                Ok(LedgerWritten::Worked(worked)) => {
                    changed += worked.changes.len();
                    if worked.done {
                        break;
                    }
                }
                Ok(other) => {
                    tracing::error!(?other, "the store answered a task with something else");
                    return;
                }
                Err(fault) => {
                    tracing::warn!(%fault, task = task.task, "a task waits");
                    let rest = tokio::time::sleep(STORE_RETRY);
                    all.inner.stopping.run_until_cancelled(rest).await;
                    break;
                }
            }
        }
        tracing::info!(task = task.task, who = %task.who, changed, "addresses were judged anew");
    }
}

async fn end_what_is_due(all: &NonDeliverables) -> Result<(), IntakeFault> {
    while !all.inner.stopping.is_cancelled() && step(all, CleanUpStep::Due).await?.more {}
    Ok(())
}

/// One stretch of a step.
async fn step(all: &NonDeliverables, step: CleanUpStep) -> Result<Cleaned, IntakeFault> {
    let (policy, now) = (all.policy(), all.inner.intake.now());
    match all.carry_out(LedgerWrite::CleanUp { step, limit: STEP, policy, now }).await? {
        LedgerWritten::Cleaned(cleaned) => Ok(cleaned),
        other => Err(super::unexpected(&other)),
    }
}

/// The whole clean-up. A step that fails does not stop the others.
pub(super) async fn clean_up(all: &NonDeliverables) -> CleanUpReport {
    let now = all.inner.intake.now();
    let mut report = CleanUpReport::begin(now);
    for kind in CleanUpStep::ALL {
        loop {
            match step(all, kind).await {
                Ok(cleaned) => {
                    report.add(kind, &cleaned);
                    if !cleaned.more || all.inner.stopping.is_cancelled() {
                        break;
                    }
                }
                Err(fault) => {
                    report.failed.push((kind, fault.to_string()));
                    break;
                }
            }
        }
    }
    let before_slot = (now.as_secs() / 86_400).saturating_sub(DAYS_KEPT);
    let prune = Write::PruneLedger { kind: PROVIDER_DAYS, before_slot };
    if let Err(fault) = all.inner.intake.write(prune).await {
        tracing::warn!(%fault, "old totals of providers could not be dropped");
    }
    report
}

/// Keeps what the outage guard has seen over a restart.
async fn keep_guard(all: &NonDeliverables) {
    let days = all.inner.admission.desk_mut().guard().changed_days();
    if days.is_empty() {
        return;
    }
    let row = |day: ProviderDay| LedgerRow {
        kind: PROVIDER_DAYS,
        key: day.provider,
        slot: day.day.into(),
        value: day.total.into(),
        extra: day.unknown.to_string().into(),
    };
    let rows = days.into_iter().map(row).collect();
    if let Err(fault) = all.inner.intake.write(Write::Ledger(rows)).await {
        // The totals of today change again and are kept then.
        tracing::warn!(%fault, "the totals of providers could not be kept");
    }
}

/// Reads the sizes of lists.
async fn look_around(all: &NonDeliverables) {
    let read = all.inner.intake.read(|reads| {
        let waiting = TextFilter { status: Some(TextStatus::ToQualify), by_person: false };
        Ok(Snapshot {
            addresses: reads.address_counts()?,
            texts_to_qualify: reads.texts(waiting, None, TEXTS_COUNTED)?.len() as u64,
            holds: reads.holds(1_000)?.iter().filter(|hold| hold.ended.is_none()).count() as u64,
            tasks: reads.tasks()?.len() as u64,
        })
    });
    match read.await {
        Ok(snapshot) => {
            *all.inner.snapshot.write().unwrap_or_else(PoisonError::into_inner) = snapshot;
        }
        Err(fault) => tracing::warn!(%fault, "the figures of the quarantine cannot be read"),
    }
}

/// Looks through the ledger when the bounce rules are others than those that judged it: what was not
/// understood and is now, what the same rule says otherwise, and what a rule said that holds no more.
async fn judge_anew(all: &NonDeliverables) {
    let rules = Arc::clone(&all.inner.rules.read().unwrap_or_else(PoisonError::into_inner));
    match judge_anew_by(all, &rules).await {
        Ok(0) => {}
        Ok(changed) => tracing::info!(changed, "entries were judged anew under other bounce rules"),
        Err(fault) => tracing::warn!(%fault, "the ledger is judged anew at the next start"),
    }
}

async fn judge_anew_by(
    all: &NonDeliverables,
    in_force: &BounceRulesInForce,
) -> Result<u64, IntakeFault> {
    let intake = &all.inner.intake;
    let judged_by = intake.read(|reads| reads.setting(JUDGED_BY)).await?;
    let wanted = in_force.rules.version();
    if judged_by.as_deref() == Some(&*in_force.fingerprint) {
        return Ok(0);
    }
    let mut rejudging = in_force.rejudging();
    let mut after = LedgerPlace::default();
    let mut changed = 0;
    while judged_by.is_some() {
        let (entries, next) = all.entries(Selection::default(), after, STEP).await?;
        let other = |entry: &Entry| match rejudging.of(entry) {
            Anew::Other { meaning, rule } => Some((entry.id, meaning, rule)),
            Anew::Same | Anew::KeptAsMail | Anew::KeptForHost => None,
        };
        let others: Vec<(EntryId, Qualification, Arc<str>)> =
            entries.iter().filter_map(other).collect();
        if !others.is_empty() {
            changed += others.len() as u64;
            let (policy, now) = (all.policy(), intake.now());
            let version = Arc::clone(wanted);
            all.carry_out(LedgerWrite::Requalify { entries: others, version, policy, now }).await?;
        }
        match next {
            // What is left is looked through at the next start.
            Some(_) if all.inner.stopping.is_cancelled() => return Ok(changed),
            Some(next) => after = next,
            None => break,
        }
    }
    let value = in_force.fingerprint.as_str().into();
    intake.write(Write::PutSetting { key: JUDGED_BY.into(), value }).await?;
    Ok(changed)
}
