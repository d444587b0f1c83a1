//! Handing the recipients over: streamed in batches of a thousand, never held together.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use mail::address::Mailbox;
use mail::id::DeliveryId;
use node::intake::{Intake, Recipient};
use tokio::task::JoinSet;

use super::again::Standing;
use super::progress::Progress;
use super::world::World;
use crate::exit::Failure;

/// Recipients in a batch.
const BATCH: usize = 1_000;
/// Batches on their way to the disk at a time, so that the store can commit some of them together.
const UNDER_WAY: usize = 8;

/// What was accepted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fed {
    /// Recipients accepted.
    pub(crate) accepted: u64,
    /// Folded addresses refused at admission, because they are quarantined or denylisted.
    pub(crate) refused: Vec<Box<str>>,
    /// By domain.
    pub(crate) by_domain: HashMap<String, u64>,
    /// Until the last commit.
    pub(crate) time: Duration,
}

/// Who of a list was known before it was handed over.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listed {
    known: Standing,
    /// Those of the list.
    pub(crate) met: Standing,
}

impl Listed {
    /// Looks out for these.
    pub(crate) fn among(known: Standing) -> Self {
        Self { known, met: Standing::new() }
    }

    fn meet(&mut self, mailbox: &Mailbox) {
        if let Some((address, state)) = self.known.remove_entry(&*mailbox.folded_key()) {
            self.met.insert(address, state);
        }
    }
}

/// A batch that is on disk.
struct Counted {
    accepted: u64,
    refused: Vec<Box<str>>,
    by_domain: HashMap<String, u64>,
}

/// Feeds a delivery.
///
/// # Errors
/// Intake refuses.
pub(crate) async fn feed(
    intake: &Intake,
    delivery: DeliveryId,
    world: &World,
    (count, seed): (u64, u64),
    listed: &mut Listed,
    progress: &mut Progress,
) -> Result<Fed, Failure> {
    let begun = Instant::now();
    let mut fed = Fed::default();
    let mut under_way: JoinSet<Result<Counted, Failure>> = JoinSet::new();
    let mut people = lab::internet::recipients(&world.lab, count, seed).zip(1_u64..);
    loop {
        let mut batch = Vec::with_capacity(BATCH);
        let mut domains: HashMap<String, u64> = HashMap::new();
        for (person, line) in people.by_ref().take(BATCH) {
            let mailbox = Mailbox::parse(&person.email).map_err(|fault| {
                Failure::environment(format!("recipient {line}, {}: {fault}", person.email))
            })?;
            listed.meet(&mailbox);
            let domain = mailbox.domain();
            match domains.get_mut(domain) {
                Some(known) => *known += 1,
                None => drop(domains.insert(domain.to_owned(), 1)),
            }
            let merge = serde_json::json!({
                "first_name": person.first_name,
                "last_name": person.last_name,
                "city": person.city,
                "language": person.language,
                "customer": person.customer,
            });
            batch.push(Recipient { line, mailbox, merge: merge.to_string() });
        }
        let last = batch.is_empty();
        while under_way.len() >= UNDER_WAY || (last && !under_way.is_empty()) {
            let Some(done) = under_way.join_next().await else { break };
            let done = done.map_err(|fault| Failure::environment(fault.to_string()))?;
            let counted = done?;
            fed.accepted += counted.accepted;
            fed.refused.extend(counted.refused);
            for (domain, count) in counted.by_domain {
                *fed.by_domain.entry(domain).or_default() += count;
            }
            progress.accepted(fed.accepted, count - fed.refused.len() as u64, begun.elapsed());
        }
        if last {
            break;
        }
        let intake = intake.clone();
        under_way.spawn(async move {
            let offered = batch.len() as u64;
            let admitted = intake.admit(delivery, batch).await.map_err(|fault| {
                Failure::environment(format!("the recipients are not accepted: {fault}"))
            })?;
            let mut by_domain = domains;
            let mut refused = Vec::with_capacity(admitted.refused.len());
            for one in &admitted.refused {
                let domain = one.address.rsplit('@').next().unwrap_or("");
                if let Some(count) = by_domain.get_mut(domain) {
                    *count = count.saturating_sub(1);
                }
                // What was read above can be read again.
                let folded = Mailbox::parse(&one.address).map(|mailbox| mailbox.folded_key().into());
                refused.push(folded.unwrap_or_else(|_| one.address.clone()));
            }
            let accepted = u64::from(admitted.appended.accepted);
            let refused_count = refused.len() as u64;
            if accepted + refused_count != offered {
                // The generator gives each person an address of their own.
                return Err(Failure::environment(format!(
                    "of {offered} recipients only {accepted} were accepted and {refused_count} refused"
                )));
            }
            Ok(Counted { accepted, refused, by_domain })
        });
    }
    fed.time = begun.elapsed();
    Ok(fed)
}
