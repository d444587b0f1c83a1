//! The ledger of evidence as the handlers see it: what is asked of it, and what is changed in it.
//!
//! Everything that changes an address goes through here and so through the node, which tells the admission set
//! and the queue. Answers leave after the commit. Nothing is decided here.

use engine::quarantine::{
    Assumption, Author, Change, Deed, Difference, Policy, Qualification, Suppressed, TextKey, Work,
};
use mail::address::Mailbox;
use mail::time::Timestamp;
use node::intake::Intake;
use node::nondeliverables::{AddressExplained, Erasure, NonDeliverables, UnsubscribeFault};
use store::{Reads, StoreFault};

use crate::app::stored;
use crate::problem::AsProblem;
use web::Problem;

/// How long a preview may take.
const PREVIEW_TIME: std::time::Duration = std::time::Duration::from_secs(45);

/// What became of an unsubscription, or would become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsubscribed {
    /// The recipient is known and gets no more mail.
    Done,
    /// The message is ours, but so old that its recipient is not known any more.
    Forgotten,
    /// The token was not made here.
    NotOurs,
}

/// The ledger of a node.
#[derive(Clone)]
pub(crate) struct Ledger {
    intake: Intake,
    desk: NonDeliverables,
}

impl Ledger {
    pub(crate) fn new(intake: Intake, desk: NonDeliverables) -> Self {
        Self { intake, desk }
    }

    /// Asks the store.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn Reads) -> Result<T, StoreFault> + Send + 'static,
    ) -> Result<T, Problem> {
        stored(self.intake.read(question)).await
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.intake.now()
    }

    /// Everything about one address.
    pub(crate) async fn explain(&self, mailbox: &Mailbox) -> Result<AddressExplained, Problem> {
        stored(self.desk.explain(mailbox)).await
    }

    /// Does something to single, folded addresses.
    pub(crate) async fn act(
        &self,
        deeds: Vec<(Box<str>, Deed)>,
        author: Author,
    ) -> Result<Vec<Change>, Problem> {
        stored(self.desk.act_folded(deeds, author)).await
    }

    /// Says what a text means; `None`: what the rule says. Answers the task that judges its addresses anew.
    pub(crate) async fn qualify(
        &self,
        key: TextKey,
        qualification: Option<Qualification>,
        author: Author,
    ) -> Result<u64, Problem> {
        stored(self.desk.qualify(key, qualification, author)).await
    }

    /// Starts a task and answers its number.
    pub(crate) async fn start(&self, work: Work, author: Author) -> Result<u64, Problem> {
        stored(self.desk.start(work, author)).await
    }

    /// Ends a hold of the outage guard.
    pub(crate) async fn end_hold(
        &self,
        hold: u64,
        confirmed: bool,
        author: Author,
    ) -> Result<(), Problem> {
        stored(self.desk.end_hold(hold, confirmed, author)).await
    }

    /// Erases an address everywhere but its hash.
    pub(crate) async fn forget(
        &self,
        mailbox: &Mailbox,
        author: Author,
    ) -> Result<Erasure, Problem> {
        stored(self.desk.forget(mailbox, author)).await
    }

    /// Puts on the suppression list, or takes off it.
    pub(crate) async fn suppress(
        &self,
        entries: Vec<Suppressed>,
        suppressed: bool,
        author: Author,
    ) -> Result<(), Problem> {
        stored(self.desk.suppress(entries, suppressed, author)).await
    }

    /// What a click on the link with this token would lead to. Changes nothing.
    pub(crate) async fn would_unsubscribe(&self, token: &str) -> Result<Unsubscribed, Problem> {
        judged(stored(told(self.desk.read_unsubscribe(token))).await?)
    }

    /// Unsubscribes the recipient of the message to which this token belongs.
    pub(crate) async fn unsubscribe(&self, token: &str) -> Result<Unsubscribed, Problem> {
        judged(stored(told(self.desk.unsubscribe(token))).await?)
    }

    /// What a task would do.
    pub(crate) async fn preview(
        &self,
        work: Work,
        qualification: Option<(TextKey, Option<Qualification>)>,
    ) -> Result<Difference, Problem> {
        let policy = Policy::clone(&self.desk.policy());
        let assumption = Assumption { policy, qualification };
        match tokio::time::timeout(PREVIEW_TIME, self.desk.preview_with(work, assumption)).await {
            Ok(difference) => difference.map_err(AsProblem::problem),
            Err(_) => Err(Problem::try_later(
                "the difference takes longer than 45 s to work out; choose a shorter window of time",
            )),
        }
    }
}

/// Keeps what is wrong with the token apart from what is wrong with the store.
async fn told<T>(
    asked: impl Future<Output = Result<T, UnsubscribeFault>>,
) -> Result<Result<(), UnsubscribeFault>, node::intake::IntakeFault> {
    match asked.await {
        Ok(_) => Ok(Ok(())),
        Err(UnsubscribeFault::Intake(fault)) => Err(fault),
        Err(other) => Ok(Err(other)),
    }
}

fn judged(told: Result<(), UnsubscribeFault>) -> Result<Unsubscribed, Problem> {
    match told {
        Ok(()) => Ok(Unsubscribed::Done),
        Err(UnsubscribeFault::Token(_)) => Ok(Unsubscribed::NotOurs),
        Err(UnsubscribeFault::Forgotten) => Ok(Unsubscribed::Forgotten),
        Err(UnsubscribeFault::Intake(fault)) => Err(fault.problem()),
    }
}
