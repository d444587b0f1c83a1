//! Intake: what applications hand over becomes durable, or they are told why not.
//!
//! **Promise.** A call that answers `Ok` answers after the commit is on disk. A call that answers an
//! [`IntakeFault`] has changed nothing (of a batch of recipients: nothing of that batch). When the store is sick or
//! the disk short of space, intake refuses with [`IntakeFault::TryLater`] or [`IntakeFault::NoRoom`]; listeners
//! say 4yz or 503.
//!
//! All ways in (command line, HTTP, SMTP) use this one type.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use engine::quarantine::Refusal;
use engine::work::{DeliveryOptions, DeliveryState};
use mail::address::Mailbox;
use mail::id::{DeliveryId, MessageId, Priority};
use mail::time::Timestamp;
use store::{
    Appended, ContentKind, Counters, DeliveryRecord, Health, NewContent, NewRecipient, NewRefusal,
    Once, RefusedWrite, StoreFault, Write, WriterHandle, Written,
};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::clock::SteadyClock;
use crate::nondeliverables::Admission;
use crate::prepare::{ContentSpec, Part, Template, TemplateFault};
use crate::room::Room;
use crate::runner::Input;
use crate::runner::contents::Contents;

/// Why something was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum IntakeFault {
    /// The caller's request cannot be fulfilled as it is.
    #[error("{0}")]
    Refused(RefusedWrite),
    /// The content does not compile.
    #[error("{0}")]
    Template(TemplateFault),
    /// The caller's request cannot be fulfilled as it is.
    #[error("{0}")]
    Invalid(String),
    /// A recipient may not be written to: quarantined, denylisted, unsubscribed or suppressed.
    #[error("{0}")]
    Quarantined(String),
    /// Nothing is wrong with the request; the store cannot take it now.
    #[error("not now: {0}; nothing was accepted, try again")]
    TryLater(String),
    /// The same, because disk, memory or queue have no room for more.
    #[error("not now: {0}; nothing was accepted, try again")]
    NoRoom(String),
}

impl From<StoreFault> for IntakeFault {
    fn from(fault: StoreFault) -> Self {
        match fault {
            StoreFault::DiskFull { .. } => Self::NoRoom(fault.to_string()),
            _ => Self::TryLater(fault.to_string()),
        }
    }
}

/// What became of a request to create something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It is new.
    New(DeliveryId),
    /// The same request (by its idempotency key) was made before; this is what it led to.
    Repeated(store::Earlier),
}

/// What became of a batch of recipients or of a single message.
#[derive(Clone, Debug, PartialEq)]
pub enum Accepted {
    /// They are in the queue.
    New(Appended),
    /// The same request was made before.
    Repeated(store::Earlier),
}

/// What became of recipients that were added.
#[derive(Clone, Debug, PartialEq)]
pub struct Admitted {
    /// Those who may be written to.
    pub appended: Appended,
    /// The others, with the reasons. They are recorded.
    pub refused: Vec<NewRefusal>,
}

/// A recipient to be added.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipient {
    /// Line or number in the caller's list, for messages about it.
    pub line: u64,
    /// The address.
    pub mailbox: Mailbox,
    /// Merge data as a JSON object; empty: none.
    pub merge: String,
}

/// A single message.
#[derive(Clone, Debug, PartialEq)]
pub struct SingleMessage {
    /// Envelope sender given by the application; empty: a VERP return path of ours;
    /// [`NULL_SENDER`]: the null sender (RFC 5321, 4.5.5).
    pub sender: String,
    /// Recipients; each gets a copy of its own.
    pub recipients: Vec<Mailbox>,
    /// Header and body with CR LF line ends.
    pub content: Vec<u8>,
}

/// The endless stream of single messages to which one belongs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StreamName {
    /// The affinity its messages use.
    pub affinity: String,
    /// Their priority.
    pub priority: Priority,
    /// The sending application.
    pub tenant: String,
}

/// How the null sender is written in [`SingleMessage::sender`] and in the queue, where an empty text
/// stands for our own return path.
pub const NULL_SENDER: &str = "<>";

/// Requests that may be on their way to the store at a time.
const REQUESTS_MAX: usize = 512;

/// The way in. Clones are the same.
#[derive(Clone, Debug)]
pub struct Intake {
    inner: Arc<Inner>,
}

struct Inner {
    writer: WriterHandle,
    contents: Arc<Contents>,
    clock: Arc<SteadyClock>,
    inputs: mpsc::UnboundedSender<Input>,
    streams: Mutex<HashMap<StreamName, DeliveryId>>,
    defaults: DeliveryOptions,
    affinities: Vec<String>,
    permits: Semaphore,
    room: Room,
    admission: Arc<Admission>,
    /// Held while rules are read again: two at a time could give one version to two rule sets.
    reloading: tokio::sync::Mutex<()>,
}

impl core::fmt::Debug for Inner {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        out.debug_struct("Inner").field("affinities", &self.affinities).finish_non_exhaustive()
    }
}

impl Intake {
    pub(crate) fn new(
        writer: WriterHandle,
        contents: Arc<Contents>,
        clock: Arc<SteadyClock>,
        inputs: mpsc::UnboundedSender<Input>,
        defaults: DeliveryOptions,
        affinities: Vec<String>,
        (room, admission): (Room, Arc<Admission>),
    ) -> Self {
        let inner = Inner {
            writer,
            contents,
            clock,
            inputs,
            streams: Mutex::default(),
            defaults,
            affinities,
            permits: Semaphore::new(REQUESTS_MAX),
            room,
            admission,
            reloading: tokio::sync::Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The options of a delivery that states none: validity and retry schedule of the configuration.
    #[must_use]
    pub fn default_options(&self) -> DeliveryOptions {
        self.inner.defaults.clone()
    }

    /// Now, in the node's time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    /// Whether the store takes anything.
    ///
    /// # Errors
    /// Why it does not.
    pub fn health(&self) -> Result<(), StoreFault> {
        match self.inner.writer.health() {
            Health::Healthy => Ok(()),
            Health::Sick(fault) => Err(fault),
        }
    }

    /// Creates a delivery in the state of a draft, with or without content.
    ///
    /// # Errors
    /// Unknown affinity, content that does not compile, reused key, sick store.
    pub async fn create(
        &self,
        options: DeliveryOptions,
        content: Option<&ContentSpec>,
        once: Option<Once>,
    ) -> Result<Created, IntakeFault> {
        self.check_room()?;
        self.check_affinity(&options.affinity)?;
        let content = content.map(|content| self.compiled(content)).transpose()?;
        let write =
            Write::CreateDelivery { options: Box::new(options), content, at: self.now(), once };
        match self.write(write).await? {
            Written::Created(id) => {
                self.touched(id);
                Ok(Created::New(id))
            }
            Written::Repeated(earlier) => Ok(Created::Repeated(earlier)),
            other => Err(unexpected(&other)),
        }
    }

    /// Sets the content of a draft.
    ///
    /// # Errors
    /// Content that does not compile, wrong state, sick store.
    pub async fn set_content(
        &self,
        delivery: DeliveryId,
        content: &ContentSpec,
    ) -> Result<(), IntakeFault> {
        let content = self.compiled(content)?;
        self.write(Write::SetContent { delivery, content }).await.map(drop)
    }

    /// Checks that a content compiles, and names the variables that it needs.
    ///
    /// # Errors
    /// It does not compile.
    pub fn variables(&self, content: &ContentSpec) -> Result<Vec<String>, IntakeFault> {
        let settings = Arc::clone(self.inner.contents.settings());
        let template = Template::compile(content, settings).map_err(IntakeFault::Template)?;
        Ok(template.required_variables())
    }

    /// The variables that the content of a delivery needs and a list with these columns lacks, each with the part of
    /// the content that asks for it. Nothing is missed where the delivery has no content yet.
    #[must_use]
    pub fn missing_columns(&self, delivery: DeliveryId, columns: &[String]) -> Vec<(String, Part)> {
        // A content that cannot be had just now is judged when its messages are prepared.
        let Ok(template) = self.inner.contents.template(delivery) else { return Vec::new() };
        let places = template.required_places().into_iter();
        places.filter(|(variable, _)| !columns.contains(variable)).collect()
    }

    fn compiled(&self, content: &ContentSpec) -> Result<NewContent, IntakeFault> {
        let settings = Arc::clone(self.inner.contents.settings());
        Template::compile(content, settings).map_err(IntakeFault::Template)?;
        Ok(NewContent { kind: ContentKind::Template, body: content.encode().into() })
    }

    /// As [`Intake::admit`], without the refusals.
    ///
    /// # Errors
    /// Wrong state, sick store.
    pub async fn append(
        &self,
        delivery: DeliveryId,
        recipients: Vec<Recipient>,
    ) -> Result<Appended, IntakeFault> {
        Ok(self.admit(delivery, recipients).await?.appended)
    }

    /// Adds recipients to a delivery, at most [`store::APPEND_LIMIT`] at a time. Duplicates within the delivery are
    /// not accepted and listed by their lines. Recipients who may not be written to are not accepted either; they
    /// are recorded among the refusals of the delivery, with line and reason.
    ///
    /// # Errors
    /// Wrong state, sick store.
    pub async fn admit(
        &self,
        delivery: DeliveryId,
        recipients: Vec<Recipient>,
    ) -> Result<Admitted, IntakeFault> {
        self.check_room()?;
        let (recipients, refused) = self.sort_out(recipients).await?;
        if !refused.is_empty() {
            self.inner.admission.count_refused(refused.len());
            // Before the others: who repeats the call after a fault in between counts them twice, but accepts nobody
            // twice.
            self.refuse(delivery, refused.clone()).await?;
        }
        let recipients = recipients
            .into_iter()
            .map(|recipient| row(recipient.line, &recipient.mailbox, recipient.merge, ""))
            .collect();
        let write =
            Write::Append { delivery, content: None, recipients, at: self.now(), once: None };
        match self.write(write).await? {
            Written::Appended(appended) => {
                self.queued(delivery, &appended);
                Ok(Admitted { appended, refused })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Those who may be written to, and the refusals of the others.
    async fn sort_out(
        &self,
        recipients: Vec<Recipient>,
    ) -> Result<(Vec<Recipient>, Vec<NewRefusal>), IntakeFault> {
        let refusal = |recipient: &Recipient| self.refusal(&recipient.mailbox);
        let Some(first) = recipients.iter().position(|recipient| refusal(recipient).is_some())
        else {
            return Ok((recipients, Vec::new()));
        };
        let mut admitted: Vec<Recipient> = Vec::with_capacity(recipients.len());
        let mut refused = Vec::new();
        for (place, recipient) in recipients.into_iter().enumerate() {
            let found = if place < first { None } else { refusal(&recipient) };
            match found {
                None => admitted.push(recipient),
                Some(found) => refused.push((recipient, found)),
            }
        }
        let since = self.since(refused.iter().map(|(one, _)| &one.mailbox)).await?;
        let refused = refused
            .into_iter()
            .zip(since)
            .map(|((recipient, found), since)| NewRefusal {
                line: recipient.line,
                address: recipient.mailbox.as_str().into(),
                reason: words(found, since).into(),
            })
            .collect();
        Ok((admitted, refused))
    }

    /// Why an address may not be written to; `None`: it may.
    fn refusal(&self, mailbox: &Mailbox) -> Option<Refusal> {
        self.inner.admission.refuse(&mailbox.folded_key())
    }

    /// Why nothing is taken for this address, in words; `None`: it is.
    #[must_use]
    pub fn refused(&self, mailbox: &Mailbox) -> Option<String> {
        self.refusal(mailbox).map(|found| words(found, None))
    }

    /// Since when each of these addresses is in its state, where that is known.
    async fn since(
        &self,
        mailboxes: impl Iterator<Item = &Mailbox>,
    ) -> Result<Vec<Option<Timestamp>>, IntakeFault> {
        let keys: Vec<String> = mailboxes.map(|one| one.folded_key().into_owned()).collect();
        let since = |record: engine::quarantine::AddressRecord| record.condition.since;
        self.read(move |reads| keys.iter().map(|key| Ok(reads.address(key)?.map(since))).collect())
            .await
    }

    /// Records recipients that were refused before they reached the store, with their reasons.
    ///
    /// # Errors
    /// Unknown delivery, sick store.
    pub async fn refuse(
        &self,
        delivery: DeliveryId,
        refusals: Vec<NewRefusal>,
    ) -> Result<(), IntakeFault> {
        self.write(Write::Refuse { delivery, refusals }).await.map(drop)
    }

    /// Starts a delivery.
    ///
    /// # Errors
    /// No content, wrong state, sick store.
    pub async fn start(&self, delivery: DeliveryId) -> Result<(), IntakeFault> {
        self.write(Write::Start { delivery, at: self.now() }).await?;
        self.touched(delivery);
        Ok(())
    }

    /// Pauses, resumes or cancels a delivery; who and why go to the audit trail.
    ///
    /// # Errors
    /// Wrong state, sick store.
    pub async fn set_state(
        &self,
        delivery: DeliveryId,
        state: DeliveryState,
        who: &str,
        why: &str,
    ) -> Result<(), IntakeFault> {
        let (who, why) = (who.into(), why.into());
        self.write(Write::SetState { delivery, state, who, why, at: self.now() }).await?;
        self.touched(delivery);
        Ok(())
    }

    /// A delivery with its counts.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn delivery(&self, id: DeliveryId) -> Result<Option<DeliveryRecord>, IntakeFault> {
        self.read(move |reads| reads.delivery(id)).await
    }

    /// The counts of a delivery; zeroes when there is none.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn counters(&self, id: DeliveryId) -> Result<Counters, IntakeFault> {
        Ok(self.delivery(id).await?.map(|record| record.counters).unwrap_or_default())
    }

    /// Asks the store something on a thread that may wait for the disk.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn store::Reads) -> Result<T, StoreFault> + Send + 'static,
    ) -> Result<T, IntakeFault> {
        let contents = Arc::clone(&self.inner.contents);
        tokio::task::spawn_blocking(move || contents.ask(question))
            .await
            .map_err(|fault| IntakeFault::TryLater(fault.to_string()))?
            .map_err(IntakeFault::from)
    }

    /// Accepts a single message: one copy per recipient, in the stream's delivery.
    ///
    /// # Errors
    /// Unknown affinity, no recipients, reused key, sick store.
    pub async fn submit(
        &self,
        stream: &StreamName,
        message: SingleMessage,
        once: Option<Once>,
    ) -> Result<Accepted, IntakeFault> {
        self.check_room()?;
        if message.recipients.is_empty() {
            return Err(IntakeFault::Invalid("the message has no recipients".into()));
        }
        let refused: Vec<&Mailbox> =
            message.recipients.iter().filter(|one| self.refusal(one).is_some()).collect();
        if !refused.is_empty() {
            self.inner.admission.count_refused(refused.len());
            let since = self.since(refused.iter().copied()).await?;
            let why = |(mailbox, since): (&&Mailbox, Option<Timestamp>)| {
                self.refusal(mailbox).map(|found| format!("{mailbox}: {}", words(found, since)))
            };
            let why: Vec<String> = refused.iter().zip(since).filter_map(why).collect();
            if !why.is_empty() {
                return Err(IntakeFault::Quarantined(why.join("; ")));
            }
        }
        let delivery = self.stream(stream).await?;
        let body: Arc<[u8]> = message.content.into();
        let content = NewContent { kind: ContentKind::Message, body: Arc::clone(&body) };
        let recipients = message
            .recipients
            .iter()
            .zip(1..)
            .map(|(mailbox, line)| row(line, mailbox, String::new(), &message.sender))
            .collect();
        let at = self.now();
        let write = Write::Append { delivery, content: Some(content), recipients, at, once };
        let contents = Arc::clone(&self.inner.contents);
        // Before anybody can claim it; later it would be kept for nobody.
        let keep = move |written: &Written| {
            if let Written::Appended(appended) = written
                && appended.accepted == 1
            {
                contents.keep_fresh(appended.content, body);
            }
        };
        let written = self.write_then(write, keep).await;
        if let Err(IntakeFault::Refused(RefusedWrite::WrongState { .. })) = &written {
            // Somebody has cancelled the stream: the next message begins a new one.
            let mut streams = self.inner.streams.lock().unwrap_or_else(PoisonError::into_inner);
            streams.remove(stream);
            return Err(IntakeFault::TryLater(format!("stream {delivery} was cancelled")));
        }
        match written? {
            Written::Appended(appended) => {
                self.queued(delivery, &appended);
                Ok(Accepted::New(appended))
            }
            Written::Repeated(earlier) => Ok(Accepted::Repeated(earlier)),
            other => Err(unexpected(&other)),
        }
    }

    /// The delivery of a stream; made at its first message.
    async fn stream(&self, name: &StreamName) -> Result<DeliveryId, IntakeFault> {
        let known = |inner: &Inner| {
            inner.streams.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied()
        };
        if let Some(id) = known(&self.inner) {
            return Ok(id);
        }
        self.check_affinity(&name.affinity)?;
        let wanted = name.clone();
        let found = self
            .read(move |reads| {
                let mut after = DeliveryId(0);
                loop {
                    let page = reads.deliveries(after, 256)?;
                    let Some(last) = page.last() else { return Ok(None) };
                    after = last.delivery.id;
                    let fits = page.iter().find(|record| {
                        let options = &record.delivery.options;
                        options.stream
                            && record.delivery.state == DeliveryState::Running
                            && options.affinity == wanted.affinity
                            && options.priority == wanted.priority
                            && options.tenant == wanted.tenant
                    });
                    if let Some(record) = fits {
                        return Ok(Some(record.delivery.id));
                    }
                }
            })
            .await?;
        let id = match found {
            Some(id) => id,
            None => {
                let options = DeliveryOptions {
                    name: format!("single messages of {}", name.tenant)
                        .trim_end_matches(" of ")
                        .to_owned(),
                    affinity: name.affinity.clone(),
                    priority: name.priority,
                    tenant: name.tenant.clone(),
                    stream: true,
                    ..self.inner.defaults.clone()
                };
                // The key makes two first messages at the same time agree on one delivery.
                let mut key = format!("stream/{}/{:?}", name.affinity, name.priority);
                loop {
                    let once = Once {
                        tenant: name.tenant.as_str().into(),
                        key: key.as_str().into(),
                        digest: [0; 32],
                    };
                    match self.create(options.clone(), None, Some(once)).await? {
                        // A stream runs from its creation on.
                        Created::New(id) => break id,
                        Created::Repeated(earlier) => {
                            let record = self.delivery(earlier.delivery).await?;
                            let state = record.map(|record| record.delivery.state);
                            if state == Some(DeliveryState::Running) {
                                break earlier.delivery;
                            }
                            // That stream was cancelled: the next one is made under a key of its own.
                            key = format!("{key}/after {}", earlier.delivery);
                        }
                    }
                }
            }
        };
        let mut streams = self.inner.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.insert(name.clone(), id);
        Ok(id)
    }

    /// Whether disk, queue and memory have room for more.
    ///
    /// # Errors
    /// What is short.
    pub fn check_room(&self) -> Result<(), IntakeFault> {
        self.inner.room.check().map_err(IntakeFault::NoRoom)
    }

    fn check_affinity(&self, name: &str) -> Result<(), IntakeFault> {
        if self.inner.affinities.iter().any(|known| known == name) {
            return Ok(());
        }
        let known = self.inner.affinities.join(", ");
        Err(IntakeFault::Invalid(format!("affinity {name:?} does not exist; there are: {known}")))
    }

    /// Sends a write and waits for its commit.
    pub(crate) async fn write(&self, write: Write) -> Result<Written, IntakeFault> {
        self.write_then(write, |_| {}).await
    }

    /// The same; what was written is shown to `then` on the writer's thread, in the order of the commits and before
    /// anybody else hears of it. It must be short.
    pub(crate) async fn write_then(
        &self,
        write: Write,
        then: impl FnOnce(&Written) + Send + 'static,
    ) -> Result<Written, IntakeFault> {
        // Bounds what waits, so that a slow disk is felt by the callers and not by memory.
        let _permit = self
            .inner
            .permits
            .acquire()
            .await
            .map_err(|_| IntakeFault::TryLater("the node is shutting down".into()))?;
        let (sender, receiver) = oneshot::channel();
        let mut request: (Write, store::Reply) = (
            write,
            Box::new(move |answer: Result<Written, StoreFault>| {
                if let Ok(written) = &answer {
                    then(written);
                }
                // Who asked may have gone; the commit stands.
                let _ = sender.send(answer);
            }),
        );
        while let Err(full) = self.inner.writer.try_send(request.0, request.1) {
            request = *full;
            tokio::time::sleep(core::time::Duration::from_millis(1)).await;
        }
        match receiver.await {
            Ok(Ok(Written::Refused(refused))) => Err(IntakeFault::Refused(refused)),
            Ok(Ok(written)) => Ok(written),
            Ok(Err(fault)) => Err(fault.into()),
            Err(_) => Err(IntakeFault::TryLater("the node is shutting down".into())),
        }
    }

    /// Lets one read the rules again at a time.
    pub(crate) async fn reloading(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.inner.reloading.lock().await
    }

    /// Tells the planner's counts of a complaint about mail to a domain.
    pub(crate) fn complained(&self, domain: Box<str>) {
        // When the engine has ended the planner asks no more.
        let _ = self.inner.inputs.send(Input::Complained(domain));
    }

    /// Tells the engine what has come.
    fn queued(&self, delivery: DeliveryId, appended: &Appended) {
        let domains = appended.domains.clone();
        // When the engine has ended it finds the mail at its next start.
        let _ = self.inner.inputs.send(Input::Queued { delivery, domains });
    }

    fn touched(&self, delivery: DeliveryId) {
        let _ = self.inner.inputs.send(Input::DeliveryTouched(delivery));
    }
}

/// The messages of an accepted batch, by number.
#[must_use]
pub fn messages_of(appended: &Appended) -> Vec<MessageId> {
    appended
        .first
        .map(|first| (0..u64::from(appended.accepted)).map(|n| MessageId(first.0 + n)).collect())
        .unwrap_or_default()
}

fn row(line: u64, mailbox: &Mailbox, merge: String, sender: &str) -> NewRecipient {
    NewRecipient {
        line,
        address: mailbox.as_str().into(),
        folded: mailbox.folded_key().into(),
        domain: mailbox.domain().into(),
        merge: merge.into(),
        sender: sender.into(),
    }
}

/// A refusal in words, such as `quarantined: User unknown since 2026-03-01T08:00:00Z`.
fn words(refusal: Refusal, since: Option<Timestamp>) -> String {
    let (state, reason) = match refusal {
        Refusal::Suppressed => return "suppressed: the address is on the suppression list".into(),
        Refusal::DomainSuppressed => {
            return "suppressed: the domain is on the suppression list".into();
        }
        Refusal::Denylisted(reason) => ("denylisted", reason),
        Refusal::Quarantined(reason) => ("quarantined", reason),
    };
    let reason = reason.map_or_else(|| "by decision".to_owned(), |reason| reason.to_string());
    match since.filter(|since| *since != Timestamp::EPOCH) {
        Some(since) => format!("{state}: {reason} since {since}"),
        None => format!("{state}: {reason}"),
    }
}

fn unexpected(written: &Written) -> IntakeFault {
    IntakeFault::TryLater(format!("the store answered with something else: {written:?}"))
}
