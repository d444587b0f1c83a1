//! `GET /api/v1/explain/{what}`: why is this mail waiting?
//!
//! `what` is a message (`m123`), a delivery (`d12`), an address or a domain. Every answer has the `kind` of what was
//! found; every wait has a reason, the time at which it may end (absent: when something else happens), the smallest
//! change that would release it, and the version of the rules.

use axum::extract::State;
use axum::response::Response;
use engine::work::DeliveryState;
use engine::{WaitReason, Waiting};
use mail::address::{Domain, Mailbox};
use mail::id::{DeliveryId, MessageId};
use mail::time::Timestamp;
use node::node::WaitingExplained;
use serde_json::{Value, json};
use store::{DeliveryRecord, DomainId, StoreFault};

use crate::app::{Shared, answer, asked, json as to_json, stored};
use crate::deliveries::{found, shown};
use crate::forms::{Query, Segment, delivery_id, message_id};
use crate::paths::{self, Asked};
use web::Problem;

/// Messages of an address that are shown.
const NEWEST: u32 = 20;
/// Domains of a delivery that are shown.
const DOMAINS_SHOWN: usize = 100;
/// Domains looked at in search of those.
const DOMAINS_SEARCHED: usize = 100_000;
/// Domains read from the store at a time.
const DOMAINS_PAGE: u32 = 2_000;
/// Queued messages of a domain are counted up to here.
const COUNT_UP_TO: u64 = 100_000;

/// `GET /api/v1/explain/{what}`
pub(crate) async fn explain(
    State(app): State<Shared>,
    Segment(what): Segment,
    query: Query,
) -> Result<Response, Problem> {
    query.only(&[])?;
    let numbered = |prefix: char| {
        what.strip_prefix(prefix).is_some_and(|rest| {
            !rest.is_empty() && rest.bytes().all(|octet| octet.is_ascii_digit())
        })
    };
    let explained = if what.contains('@') {
        address(&app, &what).await?
    } else if numbered('m') {
        message(&app, message_id(&what)?, &mut Asked::default()).await?
    } else if numbered('d') {
        delivery(&app, delivery_id(&what)?).await?
    } else {
        domain(&app, &what).await?
    };
    Ok(answer(explained))
}

async fn message(app: &Shared, id: MessageId, known: &mut Asked) -> Result<Value, Problem> {
    let explained = stored(app.questions.message(id)).await?;
    let explained =
        explained.ok_or_else(|| Problem::not_found(format!("there is no message {id}")))?;
    let host_of = explained.recipient.rsplit_once('@').map_or("", |(_, domain)| domain);
    let budgets = known.with_budgets(app, &explained.paths).await?;
    let domain = host_of.to_owned();
    let mut value = to_json(&explained)?;
    if let Value::Object(members) = &mut value {
        members.insert("kind".into(), "message".into());
        members.insert("domain".into(), domain.into());
        members.insert("rule".into(), paths::rules_of_views(&explained.paths).into());
        members.insert("paths".into(), budgets);
    }
    Ok(value)
}

async fn address(app: &Shared, text: &str) -> Result<Value, Problem> {
    let mailbox = Mailbox::parse(text)
        .map_err(|fault| Problem::invalid(format!("this is no address: {fault}")))?;
    let folded = mailbox.folded_key().into_owned();
    let records =
        stored(app.intake.read(move |reads| reads.messages_by_address(&folded, NEWEST))).await?;
    let mut messages = Vec::with_capacity(records.len());
    let mut known = Asked::default();
    for record in records {
        messages.push(message(app, record.id, &mut known).await?);
    }
    Ok(json!({ "kind": "address", "address": mailbox.as_str(), "messages": messages }))
}

async fn delivery(app: &Shared, id: DeliveryId) -> Result<Value, Problem> {
    let record = found(app, id).await?;
    let (dues, complete) = domains_of(app, id).await?;
    let rules = asked(app.questions.rules()).await?;
    let names = dues.iter().map(|(name, _)| name.to_string()).collect();
    let waits = asked(app.questions.why_domains(names)).await?;
    let whole = whole_delivery(&record, app.questions.now());
    let mut domains = Vec::with_capacity(dues.len());
    for ((name, earliest), (_, waiting)) in dues.iter().zip(&waits) {
        // What holds the delivery as a whole holds each of its domains; then a due time that has not come.
        let waiting = match &whole {
            Some(whole) => whole.clone(),
            None if *earliest > app.questions.now() => {
                Waiting { reason: WaitReason::RetryScheduled, until: *earliest }
            }
            None => waiting.clone(),
        };
        domains.push(json!({
            "domain": name,
            "earliest": (*earliest != Timestamp::EPOCH).then(|| earliest.to_string()),
            "waiting": to_json(&WaitingExplained::new(&waiting, &rules))?,
        }));
    }
    let mut value = shown(&record)?;
    if let Value::Object(members) = &mut value {
        members.insert("kind".into(), "delivery".into());
        let waiting = whole.map(|whole| WaitingExplained::new(&whole, &rules));
        members.insert("waiting".into(), to_json(&waiting)?);
        members.insert("domains".into(), domains.into());
        members.insert("domains_complete".into(), complete.into());
    }
    Ok(value)
}

/// Why nothing of a delivery goes, if that is so.
fn whole_delivery(record: &DeliveryRecord, now: Timestamp) -> Option<Waiting> {
    let delivery = &record.delivery;
    let waiting = |reason, until| Some(Waiting { reason, until });
    match delivery.state {
        DeliveryState::Draft => waiting(WaitReason::DeliveryNotStarted, Timestamp::NEVER),
        DeliveryState::Paused => waiting(WaitReason::DeliveryPaused, Timestamp::NEVER),
        DeliveryState::Running => {
            let first = delivery.options.waves.first()?;
            let opens = delivery.started_at? + first.start_after;
            (opens > now).then_some(Waiting { reason: WaitReason::WaveNotOpen, until: opens })
        }
        DeliveryState::Cancelled | DeliveryState::Finished => None,
    }
}

type Dues = Vec<(Box<str>, Timestamp)>;

/// Domains for which messages of a delivery wait, and whether these are all.
async fn domains_of(app: &Shared, id: DeliveryId) -> Result<(Dues, bool), Problem> {
    let search = move |reads: &dyn store::Reads| -> Result<(Dues, bool), StoreFault> {
        let (mut dues, mut after, mut searched) = (Dues::new(), DomainId(0), 0);
        loop {
            let page = reads.due_domains(after, DOMAINS_PAGE)?;
            let Some(last) = page.last() else { return Ok((dues, true)) };
            after = last.id;
            searched += page.len();
            for domain in page {
                let Some(due) = domain.deliveries.iter().find(|due| due.delivery == id) else {
                    continue;
                };
                if dues.len() == DOMAINS_SHOWN {
                    return Ok((dues, false));
                }
                dues.push((domain.name, due.earliest));
            }
            if searched >= DOMAINS_SEARCHED {
                return Ok((dues, false));
            }
        }
    };
    stored(app.intake.read(search)).await
}

async fn domain(app: &Shared, text: &str) -> Result<Value, Problem> {
    let domain = Domain::parse(text).map_err(|fault| {
        let shown: String = text.chars().take(80).collect();
        Problem::invalid(format!(
            "{shown:?} is no message (m123), delivery (d12), address or domain: {fault}"
        ))
    })?;
    let name = domain.as_str().to_owned();
    let asked_name = name.clone();
    let queue = stored(app.intake.read(move |reads| {
        let Some(id) = reads.domain(&asked_name)? else { return Ok(None) };
        let queues = reads.domain_queues(DomainId(id.0.saturating_sub(1)), 1, COUNT_UP_TO)?;
        Ok(queues.into_iter().find(|queue| queue.id == id))
    }))
    .await?;
    let rules = asked(app.questions.rules()).await?;
    let mut value = paths::explained(app, &name, None).await?;
    let waiting = match &queue {
        Some(queue) if queue.queued > 0 => {
            let waits = asked(app.questions.why_domains(vec![name])).await?;
            waits.into_iter().next().map(|(_, waiting)| WaitingExplained::new(&waiting, &rules))
        }
        _ => None,
    };
    if let Value::Object(members) = &mut value {
        members.insert("kind".into(), "domain".into());
        members.insert("queued".into(), queue.as_ref().map_or(0, |queue| queue.queued).into());
        members.insert("queued_counted_up_to".into(), COUNT_UP_TO.into());
        let oldest = queue.map(|queue| queue.oldest.to_string());
        members.insert("oldest".into(), oldest.into());
        members.insert("waiting".into(), to_json(&waiting)?);
    }
    Ok(value)
}
