//! The contents of deliveries, compiled once and shared by all connections.

mod fresh;

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use arc_swap::ArcSwap;
use mail::id::DeliveryId;
use store::{Reads, SqliteReads, StoreFault};

use rules::recipient::{
    DomainRules, FormatRules, FormatTreatment, RecipientRule, shipped_domain_rules,
    shipped_format_rules,
};

use self::fresh::FreshContents;
use crate::prepare::{ContentSpec, Prepared, RenderInput, SenderSettings, Template};
use crate::smtp_client::PrepareFault;

/// Compiled templates held at a time; a delivery that is not among them is compiled again.
const TEMPLATES_MAX: usize = 256;

/// Readers of the database shared by the engine's loop and the connections.
const READERS: usize = 2;

/// Readers for questions from outside, which may take long: mail does not wait for them.
const QUESTION_READERS: usize = 2;

/// A compiled template and when it was last used, counted in uses.
struct Held {
    template: Arc<Template>,
    used: AtomicU64,
}

/// Some readers that take turns.
struct Readers {
    readers: Vec<Mutex<SqliteReads>>,
    next: AtomicUsize,
}

impl Readers {
    fn open(
        count: usize,
        open: &impl Fn() -> Result<SqliteReads, StoreFault>,
    ) -> Result<Self, StoreFault> {
        let readers = (0..count).map(|_| open().map(Mutex::new)).collect::<Result<_, _>>()?;
        Ok(Self { readers, next: AtomicUsize::new(0) })
    }

    fn ask<T>(&self, question: impl FnOnce(&dyn Reads) -> T) -> T {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let reader = &self.readers[turn % self.readers.len()];
        // A panic while reading leaves nothing half done.
        let reads = reader.lock().unwrap_or_else(PoisonError::into_inner);
        question(&*reads)
    }
}

/// Where connections find what they send.
pub struct Contents {
    readers: Readers,
    question_readers: Readers,
    fresh: FreshContents,
    settings: Arc<SenderSettings>,
    /// By delivery and the name of the format rule; empty: none.
    templates: RwLock<BTreeMap<(DeliveryId, Box<str>), Held>>,
    formats: ArcSwap<FormatRules>,
    domains: ArcSwap<DomainRules>,
    /// Counts the uses of templates.
    uses: AtomicU64,
}

impl Contents {
    /// Opens readers by `open`.
    ///
    /// # Errors
    /// The database cannot be opened for reading.
    pub fn new(
        settings: Arc<SenderSettings>,
        open: impl Fn() -> Result<SqliteReads, StoreFault>,
    ) -> Result<Self, StoreFault> {
        Ok(Self {
            readers: Readers::open(READERS, &open)?,
            question_readers: Readers::open(QUESTION_READERS, &open)?,
            fresh: FreshContents::default(),
            settings,
            templates: RwLock::default(),
            formats: ArcSwap::from_pointee(FormatRules::compile(shipped_format_rules())),
            domains: ArcSwap::from_pointee(DomainRules::compile(shipped_domain_rules())),
            uses: AtomicU64::new(0),
        })
    }

    /// Asks the database something for the sake of mail. It runs on the caller's thread and must be short.
    pub fn read<T>(&self, question: impl FnOnce(&dyn Reads) -> T) -> T {
        self.readers.ask(question)
    }

    /// Asks the database something for the sake of people and programs. It runs on the caller's thread and may
    /// take long.
    pub fn ask<T>(&self, question: impl FnOnce(&dyn Reads) -> T) -> T {
        self.question_readers.ask(question)
    }

    /// How mail is addressed and signed.
    #[must_use]
    pub fn settings(&self) -> &Arc<SenderSettings> {
        &self.settings
    }

    /// Takes in rules by recipient domain, in place of those before.
    pub fn set_rules(&self, domains: Arc<DomainRules>, formats: Arc<FormatRules>) {
        self.domains.store(domains);
        self.formats.store(formats);
        // Rules of one name may ask for something else now.
        let mut known = self.templates.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(_, rule), _| rule.is_empty());
    }

    /// Makes one recipient's message of a delivery, as the rules for the recipient's domain say.
    ///
    /// # Errors
    /// As [`Contents::template`], and why this recipient's message cannot be made.
    pub fn prepare(
        &self,
        delivery: DeliveryId,
        input: &RenderInput<'_>,
    ) -> Result<Prepared, PrepareFault> {
        let domain = domain_of(input.recipient);
        let format = self.formats.load().find(domain).cloned();
        let template = self.template_as(delivery, format.as_deref())?;
        self.rendered(&template, input)
    }

    fn rendered(
        &self,
        template: &Template,
        input: &RenderInput<'_>,
    ) -> Result<Prepared, PrepareFault> {
        let rules = self.domains.load();
        let rule = rules.find(domain_of(input.recipient));
        let treatment = rule.map(|rule| &rule.treatment);
        template.render_as(input, treatment).map_err(|fault| fault.to_string().into())
    }

    /// The compiled content of a delivery, as it is for recipients without a format rule.
    ///
    /// # Errors
    /// It is not in the store or cannot be compiled any more; or (the machine's fault) it cannot be read just now.
    pub fn template(&self, delivery: DeliveryId) -> Result<Arc<Template>, PrepareFault> {
        self.template_as(delivery, None)
    }

    /// The same for recipients with a format rule.
    fn template_as(
        &self,
        delivery: DeliveryId,
        rule: Option<&RecipientRule<FormatTreatment>>,
    ) -> Result<Arc<Template>, PrepareFault> {
        let key = (delivery, rule.map_or_else(Box::default, |rule| rule.to.name.clone()));
        let known = self.templates.read().unwrap_or_else(PoisonError::into_inner);
        let use_number = self.uses.fetch_add(1, Ordering::Relaxed);
        if let Some(held) = known.get(&key) {
            held.used.store(use_number, Ordering::Relaxed);
            return Ok(Arc::clone(&held.template));
        }
        drop(known);
        let stored = self
            .read(|reads| {
                let record = reads.delivery(delivery)?;
                record.map_or(Ok(None), |record| reads.content(record.content))
            })
            .map_err(|fault| {
                PrepareFault::Machine(format!("the content of {delivery} cannot be read: {fault}"))
            })?;
        let body = stored.ok_or_else(|| format!("the content of {delivery} is missing"))?.body;
        let spec = ContentSpec::decode(&body)
            .map_err(|fault| format!("the content of {delivery} cannot be understood: {fault}"))?;
        let compiled = match rule {
            None => Template::compile(&spec, Arc::clone(&self.settings)),
            Some(rule) => {
                let shaped =
                    Template::compile_as(&spec, Arc::clone(&self.settings), &rule.treatment);
                // A template that cannot be shaped so is sent as it was written.
                shaped.or_else(|fault| {
                    tracing::warn!(%delivery, rule = %rule.to.name, %fault, "the format rule is not followed");
                    Template::compile(&spec, Arc::clone(&self.settings))
                })
            }
        };
        let template = compiled
            .map_err(|fault| format!("the content of {delivery} does not compile: {fault}"))?;
        let template = Arc::new(template);
        let mut known = self.templates.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= TEMPLATES_MAX {
            let oldest = known.iter().min_by_key(|(_, held)| held.used.load(Ordering::Relaxed));
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                known.remove(&oldest);
            }
        }
        let held = Held { template: Arc::clone(&template), used: AtomicU64::new(use_number) };
        known.insert(key, held);
        Ok(template)
    }

    /// Keeps the content of a single message that was committed just now, for its first attempt.
    pub(crate) fn keep_fresh(&self, content: u64, body: Arc<[u8]>) {
        self.fresh.keep(content, body);
    }

    /// Drops what is kept of contents: somebody is to be forgotten.
    pub(crate) fn drop_fresh(&self) {
        self.fresh.clear();
    }

    /// Octets that are kept for first attempts.
    #[cfg(test)]
    pub(crate) fn fresh_octets(&self) -> usize {
        self.fresh.octets()
    }

    /// Prepares a single message of a stream.
    ///
    /// # Errors
    /// Its content is missing, or is no message; or (the machine's fault) it cannot be read just now.
    pub fn single(&self, content: u64, input: &RenderInput<'_>) -> Result<Prepared, PrepareFault> {
        let body = match self.fresh.take(content) {
            Some(body) => body,
            None => {
                let stored = self.read(|reads| reads.content(content)).map_err(|fault| {
                    PrepareFault::Machine(format!("content {content} cannot be read: {fault}"))
                })?;
                stored.ok_or_else(|| format!("content {content} is missing"))?.body
            }
        };
        let spec = ContentSpec::single_message(body.to_vec());
        let template = Template::compile(&spec, Arc::clone(&self.settings));
        self.rendered(&template.map_err(|fault| fault.to_string())?, input)
    }
}

/// The domain of a recipient.
fn domain_of(recipient: &str) -> &str {
    recipient.rsplit_once('@').map_or("", |(_, domain)| domain)
}
