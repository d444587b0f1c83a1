//! Watching the delivery until everything that may go now has gone.
//!
//! The end is reached when no message is on a connection and every message that is left waits for a
//! known moment that is more than some seconds away: its own next time, or that of the limit in its
//! way. A time limit ends the watch in any case, and so does a person.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use engine::{RestCause, WaitReason, Waiting};
use mail::time::Timestamp;
use node::node::Questions;
use serde::Serialize;

use super::progress::Progress;
use super::tally::{Tail, Tally};
use super::world::World;
use crate::exit::Failure;

/// Between two looks.
const TICK: Duration = Duration::from_millis(200);
/// A moment that is nearer than this is waited for.
const SOON: Duration = Duration::from_secs(4);
/// Nothing must have moved for so long.
const QUIET: Duration = Duration::from_millis(800);
/// When nothing has moved for so long, and nothing is on a connection, the watch ends too.
const STILL: Duration = Duration::from_secs(4);

/// How the watch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FinishedBy {
    /// Every message is at its end.
    Settled,
    /// What is left waits for a known moment.
    Waiting,
    /// Nothing moved any more, though not everything had a known moment.
    Still,
    /// The time limit.
    Time,
    /// A person.
    Interrupt,
}

/// Why messages of a provider wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// The reason in a few words.
    pub(crate) reason: String,
    /// Messages.
    pub(crate) messages: u64,
    /// The first moment at which one of them may move.
    pub(crate) until: Timestamp,
}

/// A provider at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    /// Recipients accepted.
    pub(crate) recipients: u64,
    /// Taken.
    pub(crate) sent: u64,
    /// Refused for good.
    pub(crate) failed: u64,
    /// Expired or cancelled.
    pub(crate) ended: u64,
    /// Not at their end.
    pub(crate) waiting: u64,
    /// Why, the most frequent first.
    pub(crate) held: Vec<Held>,
    /// Connecting has failed, and nothing has ever arrived.
    pub(crate) out_of_reach: bool,
}

impl Row {
    /// Lets the reasons add up to the messages that wait. Those of which nobody knows the reason, because they moved after
    /// the look, are taken from the rarest reasons or counted with the most frequent one.
    fn reconcile(&mut self) {
        let told: u64 = self.held.iter().map(|held| held.messages).sum();
        let mut gone = told.saturating_sub(self.waiting);
        for held in self.held.iter_mut().rev() {
            let less = gone.min(held.messages);
            held.messages -= less;
            gone -= less;
        }
        self.held.retain(|held| held.messages > 0);
        if let Some(first) = self.held.first_mut() {
            first.messages += self.waiting.saturating_sub(told);
        }
    }
}

/// Everything at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    /// In the order of the plans.
    pub(crate) rows: Vec<Row>,
    /// Connections open or being opened.
    pub(crate) connections: usize,
    /// Messages on connections.
    pub(crate) on_connections: usize,
    /// Since the start of sending.
    pub(crate) elapsed: Duration,
    /// From the start of sending until the last outcome.
    pub(crate) moved: Duration,
    /// Now, in the node's time.
    pub(crate) now: Timestamp,
    /// Each message that is left waits for a moment that is not near.
    pub(crate) all_wait: bool,
}

impl Snapshot {
    /// The sum of a figure over all providers.
    pub(crate) fn sum(&self, figure: impl Fn(&Row) -> u64) -> u64 {
        self.rows.iter().map(figure).sum()
    }

    /// Takes the counts from the tally again; the reasons stay as they were.
    pub(crate) fn recount(&mut self, tally: &Tally) {
        for row in &mut self.rows {
            let held = core::mem::take(&mut row.held);
            *row = Row { held, out_of_reach: row.out_of_reach, ..Row::default() };
        }
        for domain in &tally.domains {
            let row = &mut self.rows[domain.plan];
            row.recipients += domain.recipients;
            row.sent += domain.sent;
            row.failed += domain.failed;
            row.ended += domain.ended;
            row.waiting += domain.waiting();
        }
        self.rows.iter_mut().for_each(Row::reconcile);
    }

    /// Looks once more. How long the sending took stays as it was.
    ///
    /// # Errors
    /// The node ends by itself.
    pub(crate) async fn look_again(
        &mut self,
        questions: &Questions,
        world: &World,
        tally: &Tally,
    ) -> Result<(), Failure> {
        let seen =
            look(questions, world, tally, Instant::now()).await.ok_or_else(ended_by_itself)?;
        let (elapsed, moved) = (self.elapsed, self.moved);
        *self = Self { elapsed, moved, ..seen };
        Ok(())
    }

    /// Reasons over all providers, the most frequent first.
    pub(crate) fn reasons(&self) -> Vec<Held> {
        let mut found = BTreeMap::new();
        for held in self.rows.iter().flat_map(|row| &row.held) {
            note(&mut found, &held.reason, held.messages, held.until);
        }
        sorted(found)
    }
}

fn note(
    found: &mut BTreeMap<String, (u64, Timestamp)>,
    reason: &str,
    messages: u64,
    until: Timestamp,
) {
    let entry = found.entry(reason.to_owned()).or_insert((0, Timestamp::NEVER));
    entry.0 += messages;
    entry.1 = entry.1.min(until);
}

fn sorted(found: BTreeMap<String, (u64, Timestamp)>) -> Vec<Held> {
    let mut held: Vec<Held> = found
        .into_iter()
        .map(|(reason, (messages, until))| Held { reason, messages, until })
        .collect();
    held.sort_by_key(|held| core::cmp::Reverse(held.messages));
    held
}

/// Takes a look. `None`: the node is ending.
pub(crate) async fn look(
    questions: &Questions,
    world: &World,
    tally: &Tally,
    started: Instant,
) -> Option<Snapshot> {
    let now = questions.now();
    let groups = questions.groups().await?;
    let put_off = tally.put_off(now);
    let ready = |place: usize| {
        let later = put_off.get(&place).map_or(0, |found| found.messages);
        tally.domains[place].waiting().saturating_sub(later)
    };
    let places = 0..tally.domains.len();
    let waiting = places.clone().filter(|place| ready(*place) > 0);
    let waiting = waiting.map(|place| tally.domains[place].name.clone()).collect();
    let why: BTreeMap<String, Waiting> =
        questions.why_domains(waiting).await?.into_iter().collect();
    let mut snapshot = Snapshot {
        rows: vec![Row::default(); world.plans.len()],
        connections: groups.iter().map(|group| group.connections).sum(),
        on_connections: groups.iter().map(|group| group.in_flight).sum(),
        elapsed: started.elapsed(),
        moved: Duration::ZERO,
        now,
        all_wait: true,
    };
    let mut reasons = vec![BTreeMap::new(); world.plans.len()];
    for (place, domain) in tally.domains.iter().enumerate() {
        let reasons = &mut reasons[domain.plan];
        if let Some(why) = why.get(&domain.name) {
            // A host that was never reached is tried again in a few seconds, and again: that is not worth the wait.
            let never_reached =
                matches!(why.reason, WaitReason::PathResting { cause: RestCause::Unreachable, .. })
                    && domain.sent + domain.failed == 0;
            let later = why.until != Timestamp::NEVER && why.until > now + SOON;
            snapshot.all_wait &= later || never_reached;
            note(reasons, why.reason.name(), ready(place), why.until);
        }
        if let Some(later) = put_off.get(&place) {
            snapshot.all_wait &= later.first > now + SOON;
            note(reasons, WaitReason::RetryScheduled.name(), later.messages, later.first);
        }
    }
    let mut arrived = vec![(0, 0); world.plans.len()];
    for group in &groups {
        if let Some(plan) = world.by_domain.get(&group.sample_domain) {
            let counts = group.counts;
            arrived[*plan].0 += counts.sent + counts.failed + counts.deferred;
            arrived[*plan].1 += counts.sessions_failed;
        }
    }
    for (row, (messages, faults)) in snapshot.rows.iter_mut().zip(arrived) {
        row.out_of_reach = messages == 0 && faults > 0;
    }
    for (row, reasons) in snapshot.rows.iter_mut().zip(reasons) {
        row.held = sorted(reasons);
    }
    snapshot.recount(tally);
    Some(snapshot)
}

/// Watches until the end and answers with the last look.
///
/// # Errors
/// The delivery log cannot be read; the node ends by itself.
pub(crate) async fn watch(
    questions: &Questions,
    world: &World,
    (tail, tally): (&mut Tail, &mut Tally),
    most: Duration,
    progress: &mut Progress,
    end: impl Future<Output = ()>,
) -> Result<(Snapshot, FinishedBy), Failure> {
    let started = Instant::now();
    let mut moved = (started, 0);
    let mut end = core::pin::pin!(end);
    let mut ticks = tokio::time::interval(TICK);
    loop {
        let ended = tokio::select! {
            _ = ticks.tick() => false,
            () = &mut end => true,
        };
        tail.read(world, tally)?;
        let snapshot = look(questions, world, tally, started).await;
        let mut snapshot = snapshot.ok_or_else(ended_by_itself)?;
        progress.sending(world, &snapshot);
        if tally.attempts() != moved.1 {
            moved = (Instant::now(), tally.attempts());
        }
        let still = moved.0.elapsed();
        snapshot.moved = moved.0.duration_since(started);
        let idle = snapshot.on_connections == 0;
        let finished = if ended {
            Some(FinishedBy::Interrupt)
        } else if snapshot.sum(|row| row.waiting) == 0 {
            Some(FinishedBy::Settled)
        } else if idle && snapshot.all_wait && still > QUIET {
            Some(FinishedBy::Waiting)
        } else if idle && still > STILL {
            Some(FinishedBy::Still)
        } else {
            (started.elapsed() > most).then_some(FinishedBy::Time)
        };
        if let Some(finished) = finished {
            return Ok((snapshot, finished));
        }
    }
}

/// Lets mail go until nothing has moved for a moment, at most so long.
///
/// # Errors
/// As [`watch`].
pub(crate) async fn until_quiet(
    questions: &Questions,
    world: &World,
    (tail, tally): (&mut Tail, &mut Tally),
    most: Duration,
    end: impl Future<Output = ()>,
) -> Result<(), Failure> {
    let started = Instant::now();
    let mut moved = (started, tally.attempts());
    let mut end = core::pin::pin!(end);
    let mut ticks = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = &mut end => return Ok(()),
        }
        tail.read(world, tally)?;
        let groups = questions.groups().await.ok_or_else(ended_by_itself)?;
        if tally.attempts() != moved.1 {
            moved = (Instant::now(), tally.attempts());
        }
        let idle = groups.iter().all(|group| group.in_flight == 0);
        if (idle && moved.0.elapsed() > QUIET) || started.elapsed() > most {
            return Ok(());
        }
    }
}

fn ended_by_itself() -> Failure {
    Failure::environment("the node has ended by itself; see its log")
}
