//! What servers say about addresses, and what follows from it: quarantine, denylist, unsubscription.
//!
//! **Promise.** Every refusal that speaks of a recipient, every genuine bounce and every genuine complaint
//! becomes evidence in the ledger, judged by the same rules and the same qualifications. What admission
//! refuses is what is durable, nothing more and nothing less: before, during and after a restart. No attempt
//! begins for an address after its quarantine is durable. What is forged or not ours is counted and
//! changes nothing.
//!
//! **How.** The engine's loop hands its attempts to a bounded queue and never waits; mail that came
//! back is read by [`ReturnedMail`]. One recorder takes both, asks the desk (policy and outage guard), and
//! writes in batches. The admission set learns of a change on the writer's thread, right after its commit,
//! so that the order is that of the disk. It is asked at intake, when messages are claimed, and right before one is
//! sent. Chores end what ends by itself, work off tasks and keep the guard's memory.
//!
//! **No loss.** What a refusal says of an address is durable before the outcome of its message is, and what came back
//! before its mail is removed. A crash in between repeats the attempt or the reading, and the same evidence is
//! recognised by its key, so it counts once.
//!
//! **Absences.** That a message was delivered may be forgotten in a crash: the errors of its address then count on. When
//! the queue is full (the store is very slow), evidence is left out and counted; mail does not wait for it.

mod admission;
pub(crate) mod chores;
mod counts;
mod matching;
mod opening;
mod people;
mod recorder;
mod returned;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use engine::quarantine::{
    AddressFilter, AddressHash, AddressRecord, Assumption, Change, CleanUpReport, Deed, Difference,
    Entry, Explanation, History, HoldEnd, HoldRecord, LedgerWrite, LedgerWritten, Policy,
    PublishedList, Qualification, Rejudging, Selection, State, Stray, Suppressed,
    SuppressionRecord, TaskRecord, TextFilter, TextKey, TextRecord, Work, explain,
};
use mail::address::Mailbox;
use mail::failure::Reason;
use mail::id::DeliveryId;
use mail::verp::{Purpose, Verp, VerpFault};
use rules::bounce::{BounceJudge, BounceRuleFile, BounceRules, Key, KnownTexts};
use store::{Erase, LedgerPlace, Write, Written};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::config::QuarantineConfig;
use crate::inmail::InmailCounts;
use crate::intake::{Intake, IntakeFault};
use crate::runner::Input;
use crate::runner::contents::Contents;

pub(crate) use admission::Admission;
use admission::folded;
pub use counts::{NonDeliverableCounts, Snapshot};
pub use engine::quarantine::Author;
pub(crate) use opening::{Opening, load};
pub(crate) use recorder::{Heard, Recorder, heard};
pub use returned::ReturnedMail;

/// Entries or addresses looked at in one step of a task or a preview.
const STEP: u32 = 1_000;

/// Everything about one address.
#[derive(Clone, Debug)]
pub struct AddressExplained {
    /// The folded address.
    pub address: String,
    /// Its row; `None`: nothing is recorded about it.
    pub record: Option<AddressRecord>,
    /// Its entries and deeds.
    pub history: History,
    /// What each entry did, under the policy in force.
    pub explanation: Explanation,
    /// Why it is refused, in words; `None`: it is not.
    pub refused: Option<String>,
}

/// Why an unsubscription did not happen.
#[derive(Debug, thiserror::Error)]
pub enum UnsubscribeFault {
    /// The token was not made here, or was changed.
    #[error("this is not a link of ours: {0}")]
    Token(#[from] VerpFault),
    /// The message is not known any more.
    #[error("the message of this link is not known any more")]
    Forgotten,
    /// The store cannot take it now.
    #[error("{0}")]
    Intake(#[from] IntakeFault),
}

/// The message to which a text leads back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// Its number, and that of its delivery.
    pub verp: Verp,
    /// Who got it.
    pub addressee: Addressee,
}

/// What is known of the recipient of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addressee {
    /// The address as it was written to.
    Known(String),
    /// The message is forgotten (`[store] keep_finished_days`); the hash of the folded address is left
    /// (`keep_hashes_days`).
    Hashed(AddressHash),
}

/// What was erased with an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Erasure {
    /// Whether the ledger of evidence knew it.
    pub known: bool,
    /// Messages whose rows are gone.
    pub messages: u64,
    /// Refusals that do not name it any more.
    pub refusals: u64,
    /// Texts of servers that quoted it.
    pub texts: u64,
    /// Messages that are not at their end. They are not sent, and still name it until then.
    pub waiting: u64,
}

/// The way to everything about addresses that are not written to. Clones are the same.
#[derive(Clone)]
pub struct NonDeliverables {
    inner: Arc<Inner>,
}

/// The bounce rules in force.
#[derive(Debug)]
pub(crate) struct BounceRulesInForce {
    pub(crate) rules: Arc<BounceRules>,
    /// The names of the rules that hold for some hosts only.
    masked: HashSet<Box<str>>,
    /// A text that is different for different rules.
    fingerprint: String,
}

impl BounceRulesInForce {
    /// `fingerprint` must be different for different rules and known texts.
    pub(crate) fn new(file: &BounceRuleFile, known: KnownTexts, fingerprint: String) -> Arc<Self> {
        let masked = file.rules().iter().filter(|rule| !rule.masks.is_empty());
        let masked = masked.map(|rule| rule.name.as_ref().into()).collect();
        let rules = BounceRules::compile(file).with_known(known);
        Arc::new(Self { rules: Arc::new(rules), masked, fingerprint })
    }

    /// The rules.
    pub(crate) const fn rules(&self) -> &Arc<BounceRules> {
        &self.rules
    }

    /// Whoever judges by these rules what is recorded already.
    pub(crate) fn rejudging(&self) -> Rejudging {
        Rejudging::new(Arc::clone(&self.rules), self.masked.clone())
    }
}

struct Inner {
    intake: Intake,
    admission: Arc<Admission>,
    contents: Arc<Contents>,
    config: QuarantineConfig,
    people: people::People,
    judge: Mutex<BounceJudge>,
    recorder: mpsc::Sender<recorder::Handed>,
    engine: mpsc::UnboundedSender<Input>,
    tasks_wait: Notify,
    stopping: CancellationToken,
    rules: RwLock<Arc<BounceRulesInForce>>,
    rules_changed: Notify,
    counts: Arc<NonDeliverableCounts>,
    inmail: OnceLock<Arc<InmailCounts>>,
    snapshot: RwLock<Snapshot>,
}

impl core::fmt::Debug for NonDeliverables {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        out.debug_struct("NonDeliverables").finish_non_exhaustive()
    }
}

impl NonDeliverables {
    // ------------------------------------------------------------------ addresses

    /// Addresses with a number above `after` (0: from the beginning), by number.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn addresses(
        &self,
        filter: AddressFilter,
        after: u64,
        limit: u32,
    ) -> Result<Vec<(u64, AddressRecord)>, IntakeFault> {
        self.inner.intake.read(move |reads| reads.addresses(&filter, after, limit)).await
    }

    /// Everything about one address.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn explain(&self, mailbox: &Mailbox) -> Result<AddressExplained, IntakeFault> {
        let address = mailbox.folded_key().into_owned();
        let asked = address.clone();
        let (record, history) = self
            .inner
            .intake
            .read(move |reads| Ok((reads.address(&asked)?, reads.history(&asked)?)))
            .await?;
        let explanation = explain(&history, &self.policy(), self.inner.intake.now());
        let refused = self.inner.admission.refuse(&address).map(|refusal| refusal.to_string());
        Ok(AddressExplained { address, record, history, explanation, refused })
    }

    /// How many addresses are in which state for which reason.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn address_counts(&self) -> Result<Vec<(State, Option<Reason>, u64)>, IntakeFault> {
        self.inner.intake.read(|reads| reads.address_counts()).await
    }

    /// Does something to single addresses: deny, allow, quarantine, release, import. At most
    /// [`engine::quarantine::WRITE_LIMIT`] at a time. Answers what changed; in force when this returns.
    ///
    /// # Errors
    /// Too many, words too long, or the store takes nothing.
    pub async fn act(
        &self,
        deeds: Vec<(Mailbox, Deed)>,
        author: Author,
    ) -> Result<Vec<Change>, IntakeFault> {
        let fold = |(mailbox, deed): (Mailbox, Deed)| (mailbox.folded_key().into(), deed);
        self.act_folded(deeds.into_iter().map(fold).collect(), author).await
    }

    /// The same for rows of an import ([`engine::quarantine::csv::import`]), whose addresses are folded already.
    ///
    /// # Errors
    /// As [`NonDeliverables::act`].
    pub async fn act_folded(
        &self,
        deeds: Vec<(Box<str>, Deed)>,
        author: Author,
    ) -> Result<Vec<Change>, IntakeFault> {
        let (policy, now) = (self.policy(), self.inner.intake.now());
        match self.carry_out(LedgerWrite::Act { deeds, author, policy, now }).await? {
            LedgerWritten::Changed(changes) => Ok(changes),
            other => Err(unexpected(&other)),
        }
    }

    /// Forgets everything about an address: evidence, deeds, its messages at their end, refusals of deliveries, and
    /// texts of servers that quote it. Its hash goes on the suppression list, first of all, so that nothing new can
    /// come meanwhile. `author` must not name it. Doing it again when nothing waits any more erases the rest.
    ///
    /// # Errors
    /// The store takes nothing; what was erased until then stays so.
    pub async fn forget(&self, mailbox: &Mailbox, author: Author) -> Result<Erasure, IntakeFault> {
        let address: Box<str> = mailbox.folded_key().into();
        let now = self.inner.intake.now();
        let write = LedgerWrite::Forget { address: address.clone(), author, now };
        let mut erasure = match self.carry_out(write).await? {
            LedgerWritten::Changed(changes) => {
                Erasure { known: !changes.is_empty(), ..Erasure::default() }
            }
            other => return Err(unexpected(&other)),
        };
        self.inner.contents.drop_fresh();
        let mut after = DeliveryId(0);
        loop {
            let step = Write::Erase(Erase { address: address.clone(), after, limit: STEP });
            let Written::Erased(erased) = self.inner.intake.write(step).await? else {
                return Err(IntakeFault::TryLater(
                    "the store did something else than to erase".into(),
                ));
            };
            erasure.messages += u64::from(erased.messages);
            erasure.refusals += u64::from(erased.refusals);
            erasure.texts += u64::from(erased.texts);
            // Those that wait are counted again by each of the first steps.
            erasure.waiting = erasure.waiting.max(erased.waiting.into());
            match erased.next {
                Some(next) => after = next,
                None => return Ok(erasure),
            }
        }
    }

    // ------------------------------------------------------------------ entries and tasks

    /// Entries that a selection takes, by time, among the next `limit` of its window; and where to go on.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn entries(
        &self,
        selection: Selection,
        after: LedgerPlace,
        limit: u32,
    ) -> Result<(Vec<Entry>, Option<LedgerPlace>), IntakeFault> {
        self.inner.intake.read(move |reads| reads.entries(&selection, after, limit)).await
    }

    /// What a task would do; nothing is changed. Reads in steps, so that it may be dropped half-way.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn preview(&self, work: Work) -> Result<Difference, IntakeFault> {
        let policy = (*self.policy()).clone();
        self.preview_with(work, Assumption { policy, qualification: None }).await
    }

    /// What would follow if a text were qualified so (`None`: as the rules say).
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn preview_qualification(
        &self,
        key: TextKey,
        qualification: Option<Qualification>,
    ) -> Result<Difference, IntakeFault> {
        let policy = (*self.policy()).clone();
        let assumption = Assumption { policy, qualification: Some((key, qualification)) };
        self.preview_with(Work::Text { key }, assumption).await
    }

    /// As [`NonDeliverables::preview`], under another policy or qualification.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn preview_with(
        &self,
        work: Work,
        assumption: Assumption,
    ) -> Result<Difference, IntakeFault> {
        let (work, assumption) = (Arc::new(work), Arc::new(assumption));
        let now = self.inner.intake.now();
        let mut whole = Difference::default();
        let mut after = LedgerPlace::default();
        loop {
            let (work, assumption) = (Arc::clone(&work), Arc::clone(&assumption));
            let (part, next) = self
                .inner
                .intake
                .read(move |reads| reads.preview(&work, &assumption, after, STEP, now))
                .await?;
            whole.join(part);
            match next {
                Some(next) => after = next,
                None => return Ok(whole),
            }
        }
    }

    /// Starts a task ([`Work::Undo`], [`Work::Restore`], [`Work::Everyone`]); it goes on by itself, over restarts
    /// too. Answers its number.
    ///
    /// # Errors
    /// The store takes nothing.
    pub async fn start(&self, work: Work, author: Author) -> Result<u64, IntakeFault> {
        let now = self.inner.intake.now();
        match self.carry_out(LedgerWrite::Start { work, author, now }).await? {
            LedgerWritten::Started(task) => Ok(task),
            other => Err(unexpected(&other)),
        }
    }

    /// Tasks that are not done, by number.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn tasks(&self) -> Result<Vec<TaskRecord>, IntakeFault> {
        self.inner.intake.read(|reads| reads.tasks()).await
    }

    // ------------------------------------------------------------------ texts

    /// Texts, the most frequent first, after the one with these occurrences and this key.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn texts(
        &self,
        filter: TextFilter,
        after: Option<(u32, TextKey)>,
        limit: u32,
    ) -> Result<Vec<TextRecord>, IntakeFault> {
        self.inner.intake.read(move |reads| reads.texts(filter, after, limit)).await
    }

    /// One text.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn text(&self, key: TextKey) -> Result<Option<TextRecord>, IntakeFault> {
        self.inner.intake.read(move |reads| reads.text(key)).await
    }

    /// Says what a text means; `None`: what the rules say. In force for the next reply at once; the addresses with
    /// this text are judged anew by a task, whose number is answered.
    ///
    /// # Errors
    /// The text was never met, or the store takes nothing.
    pub async fn qualify(
        &self,
        key: TextKey,
        qualification: Option<Qualification>,
        author: Author,
    ) -> Result<u64, IntakeFault> {
        let now = self.inner.intake.now();
        let write = LedgerWrite::Qualify { key, qualification, author, now };
        match self.carry_out(write).await? {
            LedgerWritten::Started(task) => Ok(task),
            other => Err(unexpected(&other)),
        }
    }

    // ------------------------------------------------------------------ alerts

    /// Holds of the outage guard, the newest first: its alerts. Those without an end are in force.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn holds(&self, limit: u32) -> Result<Vec<HoldRecord>, IntakeFault> {
        self.inner.intake.read(move |reads| reads.holds(limit)).await
    }

    /// Ends a hold: its replies were true (`confirmed`), or they were not.
    ///
    /// # Errors
    /// The store takes nothing.
    pub async fn end_hold(
        &self,
        hold: u64,
        confirmed: bool,
        author: Author,
    ) -> Result<(), IntakeFault> {
        let now = self.inner.intake.now();
        let end = if confirmed { HoldEnd::Confirmed } else { HoldEnd::Dismissed };
        self.carry_out(LedgerWrite::EndHold { hold, end, author, now }).await.map(drop)
    }

    /// Daily counts of what changed nothing, from a day (since 1970-01-01) on.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn strays(&self, since_day: u32) -> Result<Vec<(u32, Stray, u64)>, IntakeFault> {
        self.inner.intake.read(move |reads| reads.strays(since_day)).await
    }

    // ------------------------------------------------------------------ suppression

    /// The suppression list after an entry: hashes first, then domains.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn suppressions(
        &self,
        after: Option<Suppressed>,
        limit: u32,
    ) -> Result<Vec<SuppressionRecord>, IntakeFault> {
        self.inner.intake.read(move |reads| reads.suppressions(after.as_ref(), limit)).await
    }

    /// Puts on the suppression list (or takes off, with `suppressed` false); in force when this returns.
    ///
    /// # Errors
    /// Too many, or the store takes nothing.
    pub async fn suppress(
        &self,
        entries: Vec<Suppressed>,
        suppressed: bool,
        author: Author,
    ) -> Result<(), IntakeFault> {
        let now = self.inner.intake.now();
        let write = match suppressed {
            true => LedgerWrite::Suppress { entries, author, now },
            false => LedgerWrite::Unsuppress { entries, author, now },
        };
        self.carry_out(write).await.map(drop)
    }

    // ------------------------------------------------------------------ unsubscription

    /// Whose token this is. Changes nothing.
    ///
    /// # Errors
    /// It is not ours, or its message is not known any more.
    pub async fn read_unsubscribe(&self, token: &str) -> Result<Recipient, UnsubscribeFault> {
        let verp = self.inner.contents.settings().return_path.decode_name(token)?;
        if verp.purpose != Purpose::Unsubscribe {
            return Err(VerpFault::NotOurs.into());
        }
        self.recipient(verp).await?.ok_or(UnsubscribeFault::Forgotten)
    }

    /// Unsubscribes the recipient of the message to which this token belongs: nothing is sent to the address any more,
    /// not even what is queued. Answers whom. Doing it twice is doing it once.
    ///
    /// # Errors
    /// It is not ours, its message is not known any more, or the store takes nothing.
    pub async fn unsubscribe(&self, token: &str) -> Result<Recipient, UnsubscribeFault> {
        let found = self.read_unsubscribe(token).await?;
        self.unsubscribe_recipient(&found, "one-click link").await?;
        Ok(found)
    }

    async fn unsubscribe_recipient(&self, found: &Recipient, why: &str) -> Result<(), IntakeFault> {
        let author = Author {
            who: "recipient".into(),
            why: format!("{why} of {}", found.verp.message).into(),
        };
        match &found.addressee {
            Addressee::Known(address) => {
                let address = folded(address);
                let deeds = vec![(address.into(), Deed::Unsubscribe)];
                if self.act_folded(deeds, author).await?.is_empty() {
                    return Ok(());
                }
            }
            Addressee::Hashed(hash) => {
                if !self.suppress_hash(*hash, author).await? {
                    return Ok(());
                }
            }
        }
        NonDeliverableCounts::add(&self.inner.counts.unsubscribed, 1);
        Ok(())
    }

    /// Puts an address on the suppression list of which only the hash is known. Answers whether it was not there.
    async fn suppress_hash(&self, hash: AddressHash, author: Author) -> Result<bool, IntakeFault> {
        if self.inner.admission.desk().admission().mark(&hash).is_suppressed() {
            return Ok(false);
        }
        self.suppress(vec![Suppressed::Address(hash)], true, author).await?;
        Ok(true)
    }

    /// The recipient of a message; `None`: it is not known any more.
    async fn recipient(&self, verp: Verp) -> Result<Option<Recipient>, IntakeFault> {
        let found = self.inner.intake.read(move |reads| {
            Ok(match reads.message(verp.message)? {
                Some(record) => Some((record.delivery, Addressee::Known(record.address.into()))),
                None => reads
                    .past_recipient(verp.message)?
                    .map(|past| (past.delivery, Addressee::Hashed(past.hash))),
            })
        });
        // The number of a message alone could be that of another database.
        let found = found.await?.filter(|(delivery, _)| *delivery == verp.delivery);
        Ok(found.map(|(_, addressee)| Recipient { verp, addressee }))
    }

    // ------------------------------------------------------------------ the rest

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(self.inner.admission.desk().policy())
    }

    /// Does the whole clean-up now; else it is done once a day.
    pub async fn clean_up(&self) -> CleanUpReport {
        chores::clean_up(self).await
    }

    /// Counts since the start.
    #[must_use]
    pub fn counts(&self) -> &NonDeliverableCounts {
        &self.inner.counts
    }

    /// Sizes of the lists as of a few minutes ago at most.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.inner.snapshot.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Addresses in the admission set.
    #[must_use]
    pub fn known_addresses(&self) -> usize {
        self.inner.admission.desk().admission().len()
    }

    /// Lets metrics show the figures of incoming mail.
    pub fn watch_inmail(&self, counts: Arc<InmailCounts>) {
        // Only the first one counts: a node has one.
        let _ = self.inner.inmail.set(counts);
    }

    /// The figures of incoming mail; `None`: none comes in.
    #[must_use]
    pub fn inmail(&self) -> Option<&Arc<InmailCounts>> {
        self.inner.inmail.get()
    }

    /// Whoever reads mail that came in: for [`crate::inmail::Inmail::run`].
    #[must_use]
    pub fn returned_mail(&self) -> ReturnedMail {
        ReturnedMail::new(self.clone())
    }

    /// Lets the chores end at the next opportunity.
    pub(crate) fn stop_chores(&self) {
        self.inner.stopping.cancel();
    }

    /// Other bounce rules are in force: what comes next is judged by them, and the ledger is looked through.
    pub(crate) fn replace_rules(&self, in_force: Arc<BounceRulesInForce>) {
        let rules = Arc::clone(&in_force.rules);
        *self.inner.rules.write().unwrap_or_else(PoisonError::into_inner) = in_force;
        self.inner.judge.lock().unwrap_or_else(PoisonError::into_inner).replace_rules(rules);
        self.inner.rules_changed.notify_one();
    }

    /// Takes in the suppression list of a bundle, in place of the one before.
    pub(crate) fn publish(&self, list: PublishedList) {
        self.inner.admission.desk_mut().publish(Arc::new(list));
    }

    /// Has a write made durable. The admission set and what people have said are up to date when this returns.
    async fn carry_out(&self, write: LedgerWrite) -> Result<LedgerWritten, IntakeFault> {
        let starts_task = matches!(
            write,
            LedgerWrite::Start { .. } | LedgerWrite::Qualify { .. } | LedgerWrite::EndHold { .. }
        );
        let learn = self.lesson(&write);
        let write = Write::Quarantine(Box::new(write));
        let written = self.inner.intake.write_then(write, learn).await?;
        if starts_task {
            self.inner.tasks_wait.notify_one();
        }
        match written {
            Written::Quarantine(written) => Ok(*written),
            other => Err(IntakeFault::TryLater(format!("the store answered otherwise: {other:?}"))),
        }
    }

    /// What memory learns when a write is durable. Called on the writer's thread, so that its order is that of the
    /// disk.
    fn lesson(&self, write: &LedgerWrite) -> impl FnOnce(&Written) + Send + use<> {
        let inner = Arc::clone(&self.inner);
        let suppressed = match write {
            LedgerWrite::Suppress { entries, .. } => Some((entries.clone(), true)),
            LedgerWrite::Unsuppress { entries, .. } => Some((entries.clone(), false)),
            LedgerWrite::Forget { address, .. } => {
                let hash = engine::quarantine::AddressHash::of(address);
                Some((vec![Suppressed::Address(hash)], true))
            }
            _ => None,
        };
        let said = match write {
            LedgerWrite::Qualify { key, qualification, .. } => Some((*key, *qualification)),
            _ => None,
        };
        let ended = match write {
            LedgerWrite::EndHold { hold, end, .. } => Some((*hold, *end == HoldEnd::Confirmed)),
            _ => None,
        };
        move |written| {
            let Written::Quarantine(written) = written else { return };
            inner.counts.count_changes(written.changes());
            let mut desk = inner.admission.desk_mut();
            desk.learn(written.changes());
            for entry in suppressed.iter().flat_map(|(entries, _)| entries) {
                desk.suppress(entry, suppressed.as_ref().is_some_and(|(_, on)| *on));
            }
            if let Some((hold, confirmed)) = ended {
                // One that calmed down ended in memory first, which is where that is noticed.
                desk.guard().end(hold, confirmed);
            }
            drop(desk);
            if let Some((key, said)) = said {
                inner.people.learn(key, said);
            }
        }
    }
}

/// Qualifications by people, by key.
type Said = BTreeMap<Key, Qualification>;

fn unexpected(written: &LedgerWritten) -> IntakeFault {
    IntakeFault::TryLater(format!("the store answered with something else: {written:?}"))
}
