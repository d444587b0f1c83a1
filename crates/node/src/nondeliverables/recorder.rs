//! The queue of what happened, and the one who writes it down.
//!
//! **Promise.** The engine's thread never waits. What was handed over is written in the order in which it came,
//! many pieces to a commit, and repeated until it is durable. Who handed over a report hears when its effect is, and the
//! outcomes that came with attempts go back to the engine's loop then.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use engine::qualify::Judgement;
use engine::quarantine::{
    Alert, Channel, Evidence, Failure, Finding, GuardAlert, LedgerWrite, LedgerWritten, MetText,
    NewEntry, OutageGuard, Qualification, SeenKey, Stray, TextKey,
};
use engine::work::{Attempt, Fate, FinalState, QueuedMessage, SendMode, Settled};
use mail::attempt::{Stage, Verdict};
use mail::failure::Reason;
use mail::id::MessageId;
use mail::time::Timestamp;
use tokio::sync::{mpsc, oneshot};

use super::{NonDeliverableCounts, NonDeliverables, folded};
use crate::intake::IntakeFault;
use crate::runner::Input;

/// Batches and reports that may wait.
const WAITING_MAX: usize = 2_048;

/// Batches and reports that are taken at a time.
const TAKEN_MAX: usize = 256;

/// Entries or texts of one write.
const WRITE_MAX: usize = 2_000;

/// Pieces handed to the desk while nobody else may ask it.
const DESK_MAX: usize = 128;

/// Pause before something that the store did not take is tried again.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// Messages of whose failure the outage guard has heard, that are remembered.
const HEARD_MAX: usize = 100_000;

/// Recipient domains whose provider is remembered.
const DOMAINS_MAX: usize = 200_000;

/// What an attempt says of its recipient.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    message: Arc<QueuedMessage>,
    /// The MX group; empty: just the domain.
    group: Arc<str>,
    /// The MX host that spoke.
    host: Arc<str>,
    at: Timestamp,
    /// Number of the attempt.
    number: u32,
    /// `None`: the server took the message.
    refusal: Option<Refused>,
}

impl Heard {
    /// The message about whose recipient it says something that must not be lost.
    pub(crate) fn evidence_of(&self) -> Option<MessageId> {
        self.refusal.as_ref().filter(|refused| refused.of_recipient).map(|_| self.message.id)
    }
}

#[derive(Clone, Debug)]
struct Refused {
    judgement: Arc<Judgement>,
    words: Box<str>,
    /// Whether it speaks of the recipient; else of the path, and only its text is counted.
    of_recipient: bool,
    /// Whether it was the last word about this message.
    last: bool,
}

/// A report about a message of ours.
#[derive(Debug)]
pub(super) struct NewReport {
    /// The failure, as the rules alone judge it.
    pub(super) entry: NewEntry,
    /// What it is taken for: what a person says of its text comes first.
    pub(super) taken_for: Qualification,
}

/// What waits.
pub(super) enum Handed {
    /// Of the engine, with the outcomes that must not be durable sooner.
    Attempts(Vec<Heard>, Vec<Settled>),
    /// Of returned mail; the answer comes when it is durable: whether it was a repetition.
    Report(Box<NewReport>, oneshot::Sender<Result<bool, String>>),
    /// Something that changes nothing.
    Stray(Stray),
    /// Everything before this is durable when it is answered; nothing is taken afterwards.
    Stop(oneshot::Sender<()>),
}

/// The end at which the engine hands over.
#[derive(Clone)]
pub(crate) struct Recorder {
    pub(super) sender: mpsc::Sender<Handed>,
    pub(super) counts: Arc<NonDeliverableCounts>,
}

/// What an attempt says of its recipient; `None`: nothing.
pub(crate) fn heard(attempt: &Attempt, mode: SendMode) -> Option<Heard> {
    let heard = |refusal| {
        let group = match &*attempt.rule {
            // The generic rule and DNS hold for everybody: they name no provider.
            "default" | "dns" => Arc::from(""),
            _ => Arc::clone(&attempt.rule),
        };
        let message = Arc::clone(&attempt.message);
        let (host, at) = (Arc::clone(&attempt.mx_host), attempt.ended_at);
        Some(Heard { message, group, host, at, number: attempt.number, refusal })
    };
    if mode == SendMode::Dry {
        return None;
    }
    if let Some(Verdict::Sent { .. }) = &attempt.verdict {
        // A test ends before the message: nothing was delivered.
        return if mode == SendMode::Real { heard(None) } else { None };
    }
    let judgement = Arc::clone(attempt.judgement.as_ref()?);
    let (words, of_recipient): (Box<str>, bool) = match &attempt.verdict {
        Some(Verdict::Refused { stage, reply }) => {
            let words = String::from_utf8_lossy(reply.raw()).trim_end().into();
            (words, matches!(stage, Stage::RcptTo | Stage::Data | Stage::Content))
        }
        None => (attempt.note.clone(), true),
        Some(_) => return None,
    };
    let last = attempt.fate == Fate::Final(FinalState::Failed);
    heard(Some(Refused { judgement, words, of_recipient, last }))
}

impl Recorder {
    /// Hands over what attempts said. Their outcomes come back as [`Input::Recorded`] when it is durable. Never waits.
    ///
    /// # Errors
    /// The queue has no room: the evidence is left out and counted, and the outcomes come back at once.
    pub(crate) fn hand(
        &self,
        heard: Vec<Heard>,
        outcomes: Vec<Settled>,
    ) -> Result<(), Vec<Settled>> {
        if heard.is_empty() {
            return Err(outcomes);
        }
        let count = heard.len() as u64;
        let Err(refused) = self.sender.try_send(Handed::Attempts(heard, outcomes)) else {
            return Ok(());
        };
        NonDeliverableCounts::add(&self.counts.left_out, count);
        tracing::warn!(count, "the store is too slow: evidence about addresses is left out");
        match refused.into_inner() {
            Handed::Attempts(_, outcomes) => Err(outcomes),
            _ => Err(Vec::new()),
        }
    }

    /// Has everything written that was handed over.
    pub(crate) async fn stop(&self) {
        let (sender, receiver) = oneshot::channel();
        if self.sender.send(Handed::Stop(sender)).await.is_ok() {
            // When it has ended there is nothing left to wait for.
            let _ = receiver.await;
        }
    }
}

pub(super) fn channel() -> (mpsc::Sender<Handed>, mpsc::Receiver<Handed>) {
    mpsc::channel(WAITING_MAX)
}

/// What is to be written next.
#[derive(Default)]
struct Page {
    entries: Vec<NewEntry>,
    /// What the outage guard hears of the entries that turn out not to be repetitions.
    unheard: Vec<Unheard>,
    /// Who waits for which entry.
    waiting: Vec<(u32, oneshot::Sender<Result<bool, String>>)>,
    texts: Vec<MetText>,
    strays: [u32; Stray::ALL.len()],
    /// New holds. Their rows come first: an entry that names a hold whose number a crash gave away again
    /// would be confirmed or dismissed with another provider's.
    holds: Vec<LedgerWrite>,
    others: Vec<LedgerWrite>,
    /// Outcomes that may be durable when the entries are.
    outcomes: Vec<Settled>,
}

/// A failure of which the outage guard has not heard.
struct Unheard {
    /// Its place among the entries.
    place: u32,
    /// As much of it as the guard needs.
    evidence: Evidence,
    taken_for: Qualification,
}

/// Failures of which the outage guard has heard: of each message once, however often it is tried. In two halves: when
/// the younger one is full the older one is forgotten.
#[derive(Default)]
struct AlreadyHeard {
    young: HashSet<(MessageId, bool)>,
    old: HashSet<(MessageId, bool)>,
}

impl AlreadyHeard {
    /// Whether this is the first failure of a message that calls (or does not call) its recipient unknown.
    fn is_first(&mut self, message: MessageId, unknown: bool) -> bool {
        if self.old.contains(&(message, unknown)) || !self.young.insert((message, unknown)) {
            return false;
        }
        if self.young.len() >= HEARD_MAX / 2 {
            self.old = core::mem::take(&mut self.young);
        }
        true
    }
}

/// Writes down what comes, until it is told to stop.
pub(super) async fn record(all: NonDeliverables, mut handed: mpsc::Receiver<Handed>) {
    let mut providers = HashMap::new();
    let mut already = AlreadyHeard::default();
    let mut taken = Vec::with_capacity(TAKEN_MAX);
    while handed.recv_many(&mut taken, TAKEN_MAX).await > 0 {
        let mut page = Page::default();
        for one in taken.drain(..) {
            match one {
                Handed::Attempts(attempts, outcomes) => {
                    for some in attempts.chunks(DESK_MAX) {
                        page.take_attempts(&all, some, &mut providers);
                    }
                    page.outcomes.extend(outcomes);
                }
                Handed::Report(report, answer) => {
                    page.take_report(&all, *report, answer, &providers);
                }
                Handed::Stray(kind) => page.strays[kind as usize] += 1,
                Handed::Stop(answer) => {
                    page.write(&all, &mut already).await;
                    // Who asked may have gone.
                    let _ = answer.send(());
                    return;
                }
            }
            if page.entries.len() >= WRITE_MAX || page.texts.len() >= WRITE_MAX {
                core::mem::take(&mut page).write(&all, &mut already).await;
            }
        }
        page.write(&all, &mut already).await;
    }
}

/// Recipient domains and the MX groups that answer for them.
type Providers = HashMap<Box<str>, Arc<str>>;

impl Page {
    fn take_attempts(&mut self, all: &NonDeliverables, some: &[Heard], providers: &mut Providers) {
        let now = all.inner.intake.now();
        let mut desk = all.inner.admission.desk_mut();
        for heard in some {
            let address = folded(&heard.message.recipient);
            let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
            if !heard.group.is_empty() && !providers.contains_key(domain) {
                if providers.len() >= DOMAINS_MAX {
                    // They are learned again with the next attempts.
                    providers.clear();
                }
                providers.insert(domain.into(), Arc::clone(&heard.group));
            }
            let provider: Box<str> =
                if heard.group.is_empty() { domain.into() } else { (&*heard.group).into() };
            let evidence = |finding| Evidence {
                address: address.clone().into(),
                provider: provider.clone(),
                at: heard.at,
                delivery: Some(heard.message.delivery),
                message: Some(heard.message.id),
                channel: Channel::Synchronous,
                authentic: true,
                finding,
            };
            match &heard.refusal {
                None => {
                    let outcome = desk.record(evidence(Finding::Delivered), None, Vec::new(), now);
                    self.take_writes(outcome.writes);
                    tell(all, &outcome.alerts);
                }
                Some(refused) => {
                    let Judgement { verdict, overruled, key, normalised } = &*refused.judgement;
                    let (key, words) = (TextKey::from(*key), &refused.words);
                    let by_rules = overruled.as_ref().unwrap_or(verdict);
                    let met =
                        MetText::judged(key, normalised, words, &heard.host, by_rules, heard.at);
                    let channel = Channel::Synchronous;
                    all.inner.counts.failed(verdict.reason, verdict.failure_type, channel);
                    let policy = desk.policy().of(verdict.reason);
                    let matters = refused.last
                        || policy.threshold(verdict.failure_type).is_some()
                        || policy.denylist
                        || verdict.reason == Reason::NotDefined;
                    if !refused.of_recipient || !matters {
                        self.texts.push(met);
                        continue;
                    }
                    // A crash before the outcome is durable repeats the attempt.
                    let kind = format!("attempt {}", heard.number);
                    let seen = vec![SeenKey::of_report(heard.message.id, &address, &kind, key)];
                    let finding = Finding::Failed(Failure::judged(key, words, by_rules));
                    let entry =
                        NewEntry { evidence: evidence(finding), hold: None, text: Some(met), seen };
                    let taken_for = Failure::judged(key, "", verdict).qualification;
                    self.take_failure(desk.guard(), entry, taken_for);
                }
            }
        }
    }

    /// A failure is written first; answers its place. The outage guard hears of it when the store has said that it is new.
    fn take_failure(
        &mut self,
        guard: &OutageGuard,
        mut entry: NewEntry,
        taken_for: Qualification,
    ) -> u32 {
        let place = u32::try_from(self.entries.len())
            .expect("a page is written long before it has so many entries");
        let unknown = taken_for.reason == Reason::UserUnknown;
        entry.hold = guard.hold_of(&entry.evidence.provider).filter(|_| unknown);
        if let Finding::Failed(failure) = &entry.evidence.finding {
            let failure = Failure {
                text: failure.text,
                reply: "".into(),
                qualification: taken_for,
                rule: Arc::clone(&failure.rule),
                version: Arc::clone(&failure.version),
            };
            let evidence = Evidence {
                address: "".into(),
                provider: entry.evidence.provider.clone(),
                finding: Finding::Failed(failure),
                ..entry.evidence
            };
            self.unheard.push(Unheard { place, evidence, taken_for });
        }
        self.entries.push(entry);
        place
    }

    fn take_report(
        &mut self,
        all: &NonDeliverables,
        report: NewReport,
        answer: oneshot::Sender<Result<bool, String>>,
        providers: &Providers,
    ) {
        let NewReport { mut entry, taken_for } = report;
        if let Some(group) = providers.get(&*entry.evidence.provider) {
            entry.evidence.provider = (&**group).into();
        }
        let place = self.take_failure(all.inner.admission.desk_mut().guard(), entry, taken_for);
        self.waiting.push((place, answer));
    }

    /// Lets the outage guard hear of the failures that were no repetitions, and counts those that came back by mail.
    fn hear(&mut self, all: &NonDeliverables, repeated: &HashSet<u32>, already: &mut AlreadyHeard) {
        let now = all.inner.intake.now();
        let mut unheard = core::mem::take(&mut self.unheard);
        unheard.retain(|one| !repeated.contains(&one.place));
        while !unheard.is_empty() {
            let rest = unheard.split_off(unheard.len().min(DESK_MAX));
            let mut desk = all.inner.admission.desk_mut();
            for Unheard { evidence, taken_for, .. } in unheard {
                let Qualification { reason, failure_type, .. } = taken_for;
                if evidence.channel == Channel::Asynchronous {
                    all.inner.counts.failed(reason, failure_type, evidence.channel);
                }
                let unknown = reason == Reason::UserUnknown;
                if evidence.message.is_some_and(|message| !already.is_first(message, unknown)) {
                    continue;
                }
                let outcome = desk.record(evidence, None, Vec::new(), now);
                // The entry itself is written already; what is left is what a hold needs.
                let of_hold = |write: &LedgerWrite| !matches!(write, LedgerWrite::Record { .. });
                self.others.extend(outcome.writes.into_iter().filter(of_hold));
                tell(all, &outcome.alerts);
            }
            unheard = rest;
        }
    }

    /// Sorts what the desk wants written. What a hold covers is written before the hold begins its work.
    fn take_writes(&mut self, writes: Vec<LedgerWrite>) {
        for write in writes {
            match write {
                LedgerWrite::Record { entries, .. } => self.entries.extend(entries),
                LedgerWrite::Meet(texts) => self.texts.extend(texts),
                LedgerWrite::Stray { kind, count, .. } => self.strays[kind as usize] += count,
                LedgerWrite::Hold(_) => self.holds.push(write),
                other => self.others.push(other),
            }
        }
    }

    /// Makes everything durable and answers who waits.
    async fn write(mut self, all: &NonDeliverables, already: &mut AlreadyHeard) {
        let now = all.inner.intake.now();
        let mut repeated = HashSet::new();
        let mut fault = None;
        for hold in core::mem::take(&mut self.holds) {
            // What the store refuses has been logged.
            let _ = until_durable(all, hold).await;
        }
        if !self.entries.is_empty() {
            let (entries, policy) = (core::mem::take(&mut self.entries), all.policy());
            match until_durable(all, LedgerWrite::Record { entries, policy, now }).await {
                Ok(LedgerWritten::Recorded(recorded)) => {
                    repeated.extend(recorded.repeated);
                }
                Ok(other) => fault = Some(format!("the store answered otherwise: {other:?}")),
                Err(why) => fault = Some(why),
            }
        }
        if fault.is_none() {
            self.hear(all, &repeated, already);
        }
        NonDeliverableCounts::add(&all.inner.counts.repeated, repeated.len() as u64);
        if !self.outcomes.is_empty() {
            // A loop that has ended leaves its messages claimed: the next start tries them again.
            let _ = all.inner.engine.send(Input::Recorded(self.outcomes));
        }
        let mut rest: Vec<LedgerWrite> = Vec::new();
        if !self.texts.is_empty() {
            rest.push(LedgerWrite::Meet(self.texts));
        }
        for (kind, count) in Stray::ALL.into_iter().zip(self.strays) {
            if count > 0 {
                rest.push(LedgerWrite::Stray { kind, count, at: now });
            }
        }
        rest.extend(self.others);
        for write in rest {
            // What the store refuses has been logged; nobody waits for these.
            let _ = until_durable(all, write).await;
        }
        for (place, answer) in self.waiting {
            let _ = answer.send(fault.clone().map_or(Ok(repeated.contains(&place)), Err));
        }
    }
}

/// Has a write made durable, however long it takes. An error: the store will never take it.
async fn until_durable(all: &NonDeliverables, write: LedgerWrite) -> Result<LedgerWritten, String> {
    loop {
        match all.carry_out(write.clone()).await {
            Ok(written) => return Ok(written),
            Err(IntakeFault::TryLater(why) | IntakeFault::NoRoom(why)) => {
                tracing::warn!(why, "evidence about addresses waits for the store");
                tokio::time::sleep(STORE_RETRY).await;
            }
            Err(fault) => {
                tracing::error!(%fault, "the store refuses evidence about addresses");
                return Err(fault.to_string());
            }
        }
    }
}

/// Tells people what the desk wants told.
fn tell(all: &NonDeliverables, alerts: &[Alert]) {
    for alert in alerts {
        match alert {
            Alert::Guard(GuardAlert::Tripped {
                hold,
                provider,
                usual_permille,
                sudden_permille,
                ..
            }) => {
                NonDeliverableCounts::add(&all.inner.counts.guard_alerts, 1);
                tracing::error!(
                    hold,
                    %provider,
                    usual_permille,
                    sudden_permille,
                    "ALERT: a provider suddenly calls far more recipients unknown than usual; nobody there is \
                     quarantined for it until somebody confirms it or it calms down"
                );
            }
            Alert::Guard(GuardAlert::CalmedDown { hold, provider, held }) => {
                tracing::warn!(hold, %provider, held, "a provider has calmed down; what it said is void");
            }
        }
    }
}
