//! Forgetting messages and deliveries that ended long ago (`[store] keep_finished_days`).
//!
//! **Promise.** What ended longer ago than the configured days is gone from the database at most
//! [`PASS_EVERY`] later: the rows of messages, and deliveries of which nothing is left, with their refusals and
//! contents. Counts and totals stay. Of a message that was sent the hash of its address stays for longer
//! (`keep_hashes_days`), so that links and bounces that come late are understood. The delivery log is a matter of its own (`[log] keep_files`).
//!
//! **How.** A pass takes small steps through the store's writer and rests after each for several times as long
//! as it took, so that mail always comes first. The room that rows leave is used for new ones; the file
//! does not shrink.
//!
//! **When it fails.** A store that takes nothing ends the pass; the next one begins anew.

use std::time::Duration;

use mail::id::MessageId;
use mail::time::Timestamp;
use store::{Forget, Write, Written};

use crate::intake::{Intake, IntakeFault};

/// Pause between two passes.
pub const PASS_EVERY: Duration = Duration::from_secs(3_600);
/// Pause before the first pass: a start has better things to do.
const FIRST_AFTER: Duration = Duration::from_secs(60);
/// Rows looked at in one step.
const STEP: u32 = 1_000;
/// The rest after a step, in times of what the step took.
const REST: u32 = 4;

/// What a pass has forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Messages.
    pub messages: u64,
    /// Deliveries.
    pub deliveries: u64,
}

/// One pass: forgets everything that ended before a moment, and hashes of what was accepted before another.
///
/// # Errors
/// The store takes nothing now; what was forgotten until then stays so.
pub async fn forget_ended_before(
    intake: &Intake,
    before: Timestamp,
    hashes_before: Timestamp,
) -> Result<Passed, IntakeFault> {
    let mut passed = Passed::default();
    let mut after = MessageId(0);
    loop {
        let begun = tokio::time::Instant::now();
        let step = Write::Forget(Forget { before, hashes_before, after, limit: STEP });
        let Written::Forgotten(forgotten) = intake.write(step).await? else {
            return Err(IntakeFault::TryLater(
                "the store did something else than to forget".into(),
            ));
        };
        passed.messages += u64::from(forgotten.messages);
        passed.deliveries += u64::from(forgotten.deliveries);
        let Some(next) = forgotten.next else { return Ok(passed) };
        after = next;
        tokio::time::sleep(begun.elapsed() * REST).await;
    }
}

/// Passes for ever, until the task is aborted.
pub(crate) async fn keep_for(intake: Intake, kept: Duration, hashes: Duration) {
    tokio::time::sleep(FIRST_AFTER).await;
    loop {
        let before = intake.now().saturating_sub(kept);
        let hashes_before = intake.now().saturating_sub(hashes);
        match forget_ended_before(&intake, before, hashes_before).await {
            Ok(Passed { messages: 0, deliveries: 0 }) => {}
            Ok(Passed { messages, deliveries }) => {
                tracing::info!(messages, deliveries, "forgot what ended before {before}");
            }
            Err(fault) => tracing::warn!(%fault, "what is old could not be forgotten"),
        }
        tokio::time::sleep(PASS_EVERY).await;
    }
}
