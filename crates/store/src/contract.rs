//! The trait that every store fulfils, and the questions it answers.

use mail::id::{DeliveryId, MessageId};
use mail::time::Timestamp;

use crate::bundles::BundleReads;
use crate::fault::StoreFault;
use crate::ledger_reads::LedgerReads;
use crate::words::{
    AuditEntry, Content, DeliveryRecord, DomainId, DomainQueue, DueDomain, LedgerRow,
    MessageRecord, PartRecord, PastRecipient, Refusal, Totals, Write, Written,
};

/// A durable store, used by one thread.
pub trait Store {
    /// Applies a batch as one durable transaction and answers each write in order.
    ///
    /// # Errors
    /// A physical fault: nothing of the batch was stored, and the store may be used again.
    fn apply(&mut self, batch: &[Write]) -> Result<Vec<Written>, StoreFault>;

    /// Writes something of no consequence durably, to learn whether writing works again.
    ///
    /// # Errors
    /// The fault that still stands in the way.
    fn probe(&mut self) -> Result<(), StoreFault>;

    /// Questions about what is stored, as of the last successful batch.
    fn reads(&self) -> &dyn Reads;
}

/// Questions to a store. Every answer is bounded by a limit that the caller gives, or by nature.
///
/// Every method fails with a [`StoreFault`] where the database cannot be read.
pub trait Reads: LedgerReads + BundleReads {
    /// Deliveries with a higher number, in order.
    ///
    /// # Errors
    /// The database cannot be read.
    fn deliveries(&self, after: DeliveryId, limit: u32) -> Result<Vec<DeliveryRecord>, StoreFault>;

    /// One delivery with its counts, at a cost that does not depend on its size.
    ///
    /// # Errors
    /// The database cannot be read.
    fn delivery(&self, id: DeliveryId) -> Result<Option<DeliveryRecord>, StoreFault>;

    /// Counts over all deliveries, at a cost that does not grow with the messages.
    ///
    /// # Errors
    /// The database cannot be read.
    fn totals(&self) -> Result<Totals, StoreFault>;

    /// A content. That of a stream's message is gone when all messages that share it have ended.
    ///
    /// # Errors
    /// The database cannot be read.
    fn content(&self, id: u64) -> Result<Option<Content>, StoreFault>;

    /// One message.
    ///
    /// # Errors
    /// The database cannot be read.
    fn message(&self, id: MessageId) -> Result<Option<MessageRecord>, StoreFault>;

    /// To whom a message was sent whose row is gone, as long as that is kept.
    ///
    /// # Errors
    /// The database cannot be read.
    fn past_recipient(&self, id: MessageId) -> Result<Option<PastRecipient>, StoreFault>;

    /// Messages with a higher number, in order.
    ///
    /// # Errors
    /// The database cannot be read.
    fn messages(&self, after: MessageId, limit: u32) -> Result<Vec<MessageRecord>, StoreFault>;

    /// The newest messages to an address, newest first, by its folded key.
    ///
    /// # Errors
    /// The database cannot be read.
    fn messages_by_address(
        &self,
        folded: &str,
        limit: u32,
    ) -> Result<Vec<MessageRecord>, StoreFault>;

    /// The newest message accepted before a moment: how a stream's validity is turned into numbers.
    ///
    /// # Errors
    /// The database cannot be read.
    fn newest_accepted_before(&self, at: Timestamp) -> Result<Option<MessageId>, StoreFault>;

    /// Recorded refusals of a delivery, from an ordinal on.
    ///
    /// # Errors
    /// The database cannot be read.
    fn refusals(
        &self,
        delivery: DeliveryId,
        from: u64,
        limit: u32,
    ) -> Result<Vec<Refusal>, StoreFault>;

    /// The number of a domain.
    ///
    /// # Errors
    /// The database cannot be read.
    fn domain(&self, name: &str) -> Result<Option<DomainId>, StoreFault>;

    /// The name of a domain.
    ///
    /// # Errors
    /// The database cannot be read.
    fn domain_name(&self, id: DomainId) -> Result<Option<Box<str>>, StoreFault>;

    /// Domains with a higher number for which messages wait. The cost grows with the pairs of domain
    /// and delivery, not with the messages.
    ///
    /// # Errors
    /// The database cannot be read.
    fn due_domains(&self, after: DomainId, limit: u32) -> Result<Vec<DueDomain>, StoreFault>;

    /// How many messages wait for each domain with a higher number, counted up to `count_up_to`.
    ///
    /// # Errors
    /// The database cannot be read.
    fn domain_queues(
        &self,
        after: DomainId,
        limit: u32,
        count_up_to: u64,
    ) -> Result<Vec<DomainQueue>, StoreFault>;

    /// Parts that are not done, by number.
    ///
    /// # Errors
    /// The database cannot be read.
    fn parts(&self, limit: u32) -> Result<Vec<PartRecord>, StoreFault>;

    /// The ledger's figures of one kind from a slot on, by key and slot.
    ///
    /// # Errors
    /// The database cannot be read.
    fn ledger(&self, kind: u8, since_slot: u64) -> Result<Vec<LedgerRow>, StoreFault>;

    /// A named value.
    ///
    /// # Errors
    /// The database cannot be read.
    fn setting(&self, key: &str) -> Result<Option<Box<str>>, StoreFault>;

    /// The newest entries of the audit trail, newest first.
    ///
    /// # Errors
    /// The database cannot be read.
    fn audit(&self, limit: u32) -> Result<Vec<AuditEntry>, StoreFault>;
}
