//! The same list a second time: who is in quarantine or on the denylist by now is refused, and nobody tries to
//! write to them.
//!
//! The count of the refused is compared with the ledger of addresses, read before and after, and the lab is told
//! whom nobody may write to any more, so that it counts each attempt.
//!
//! What is accepted is sent for some seconds behind the first delivery, then the rest of it is cancelled, so that
//! what is left in the queue is the first delivery alone.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use engine::quarantine::{AddressFilter, State};
use engine::work::{DeliveryOptions, DeliveryState};
use mail::failure::Reason;
use mail::id::{DeliveryId, Priority};
use node::intake::{Created, Intake, IntakeFault};
use serde::Serialize;
use store::Counters;

use super::feed::{Fed, Listed, feed};
use super::progress::Progress;
use super::world::{self, World};
use crate::exit::Failure;

/// Addresses read at a time.
const PAGE: u32 = 1_000;
/// Between two looks at a cancellation.
const TICK: Duration = Duration::from_millis(100);
/// A cancellation that takes longer goes on by itself.
const PATIENCE: Duration = Duration::from_secs(20);

/// Who is refused, and why.
pub(crate) type Standing = HashMap<Box<str>, (State, Option<Reason>)>;

/// The second delivery after its recipients were handed over.
#[derive(Clone, Debug)]
pub(crate) struct Second {
    /// Its number.
    pub(crate) delivery: DeliveryId,
    fed: Fed,
    /// Who of the list had to be refused, and who was refused without need.
    due: Listed,
    needless: u64,
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct AgainRow {
    /// Quarantined or denylisted.
    pub(crate) state: State,
    /// Why.
    pub(crate) reason: Option<Reason>,
    /// Recipients of the list who are in this state.
    pub(crate) listed: u64,
    /// Those of them who were refused.
    pub(crate) refused: u64,
}

/// What became of the second delivery.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Again {
    /// Recipients handed over.
    pub(crate) offered: u64,
    /// Accepted.
    pub(crate) accepted: u64,
    /// Refused at admission.
    pub(crate) refused: u64,
    /// Those of the list who were in quarantine or on the denylist before, by state and reason.
    pub(crate) rows: Vec<AgainRow>,
    /// Recipients who ought to have been refused and were not, or the other way round.
    pub(crate) difference: u64,
    /// Attempts to write to one of the refused, as the receiving side saw them.
    pub(crate) attempts_to_refused: u64,
    /// Taken by the receiving side.
    pub(crate) sent: u64,
    /// Refused for good by the receiving side.
    pub(crate) failed: u64,
    /// Cancelled, or about to be.
    pub(crate) cancelled: u64,
}

/// Reads who is refused at present.
///
/// # Errors
/// The store cannot be read.
async fn standing(intake: &Intake) -> Result<Standing, Failure> {
    let mut found = Standing::new();
    for state in [State::Quarantined, State::Denylisted] {
        let mut after = 0;
        loop {
            let filter = AddressFilter { state: Some(state), ..AddressFilter::default() };
            let page = intake.read(move |reads| reads.addresses(&filter, after, PAGE)).await;
            let page = page.map_err(|fault| failure(&fault))?;
            let Some((last, _)) = page.last() else { break };
            after = *last;
            for (_, record) in page {
                found.insert(record.address, (state, record.condition.reason));
            }
        }
    }
    Ok(found)
}

fn failure(fault: &IntakeFault) -> Failure {
    Failure::environment(fault.to_string())
}

impl Second {
    /// Hands the same list over once more and compares who is refused with who is known.
    ///
    /// # Errors
    /// Intake refuses, or the store cannot be read.
    pub(crate) async fn hand_over(
        intake: &Intake,
        world: &World,
        amount: (u64, u64),
    ) -> Result<Self, Failure> {
        let before = standing(intake).await?;
        let options = DeliveryOptions {
            name: "spring, again".into(),
            priority: Priority::Low,
            ..intake.default_options()
        };
        let created = intake.create(options, Some(&world::campaign()), None).await;
        let Created::New(delivery) = created.map_err(|fault| failure(&fault))? else {
            return Err(Failure::environment("the delivery exists already, which cannot be"));
        };
        let mut due = Listed::among(before);
        let silent = &mut Progress::Silent;
        let fed = feed(intake, delivery, world, amount, &mut due, silent).await?;
        // Mail of the first delivery may have gone on meanwhile: who became known just now is refused with reason.
        let after = standing(intake).await?;
        let needless = fed.refused.iter().filter(|address| !after.contains_key(*address)).count();
        Ok(Self { delivery, fed, due, needless: needless as u64 })
    }

    /// Who was refused.
    pub(crate) fn refused(&self) -> impl Iterator<Item = &str> {
        self.fed.refused.iter().map(AsRef::as_ref)
    }

    /// What became of it. `counters` are those of the store.
    pub(crate) fn account(&self, counters: Counters, attempts_to_refused: u64) -> Again {
        let refused: HashMap<&str, ()> = self.refused().map(|address| (address, ())).collect();
        let mut rows: BTreeMap<(&str, Option<Reason>), AgainRow> = BTreeMap::new();
        let mut missed = 0;
        for (address, (state, reason)) in &self.due.met {
            let row = rows.entry((state.word(), *reason)).or_insert(AgainRow {
                state: *state,
                reason: *reason,
                listed: 0,
                refused: 0,
            });
            row.listed += 1;
            match refused.contains_key(&**address) {
                true => row.refused += 1,
                false => missed += 1,
            }
        }
        let mut rows: Vec<AgainRow> = rows.into_values().collect();
        rows.sort_by_key(|row| core::cmp::Reverse(row.listed));
        let ended = counters.sent + counters.failed;
        Again {
            offered: self.fed.accepted + self.fed.refused.len() as u64,
            accepted: self.fed.accepted,
            refused: self.fed.refused.len() as u64,
            rows,
            difference: missed + self.needless,
            attempts_to_refused,
            sent: counters.sent,
            failed: counters.failed,
            cancelled: counters.accepted - ended,
        }
    }
}

/// Takes back what is left of the second delivery.
///
/// # Errors
/// The store does not take it, or cannot be read.
pub(crate) async fn take_back(intake: &Intake, delivery: DeliveryId) -> Result<(), Failure> {
    let why = "the demonstration has shown who is refused";
    let cancelled = intake.set_state(delivery, DeliveryState::Cancelled, "demo", why).await;
    match cancelled {
        Ok(()) => {}
        // All of it has gone: there is nothing to cancel.
        Err(_) if pending(intake, delivery).await? == 0 => return Ok(()),
        Err(fault) => return Err(failure(&fault)),
    }
    let begun = Instant::now();
    while pending(intake, delivery).await? > 0 && begun.elapsed() < PATIENCE {
        tokio::time::sleep(TICK).await;
    }
    Ok(())
}

async fn pending(intake: &Intake, delivery: DeliveryId) -> Result<u64, Failure> {
    let counters = intake.counters(delivery).await.map_err(|fault| failure(&fault))?;
    Ok(counters.pending())
}
