//! Addresses and what is recorded about them: list, explain, release, allow, deny, quarantine by hand.
//!
//! Addresses that are changed stand in the body, never in the path. Every change has who (the token's name) and
//! why, and goes to the audit trail.

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use engine::quarantine::{
    AddressFilter, AddressHash, AddressRecord, Author, Cause, Change, Condition, Deed, Entry,
    Explained, Finding, NotCounted, Standing, State as AddressState, Verdict,
};
use mail::address::{Domain, Mailbox};
use mail::failure::Reason;
use mail::time::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::access::Caller;
use crate::app::{Shared, answer};
use crate::forms::{Query, Segment, label, time_text};
use web::Problem;

/// Most entries on a page.
pub(crate) const PAGE_MOST: u32 = 1_000;
pub(crate) const PAGE_USUAL: u32 = 100;
/// Addresses in one request.
const DEEDS_LIMIT: usize = 1_000;
/// Days whose counts of strays are shown.
const STRAY_DAYS: u32 = 30;

/// Who asks for a change, and why.
pub(crate) fn author(caller: &Caller, why: &str) -> Result<Author, Problem> {
    label("why", why)?;
    Ok(Author { who: caller.who().into(), why: why.into() })
}

/// A moment of the ledger; none for "always" and "never".
pub(crate) fn at_text(at: Timestamp) -> Option<String> {
    time_text(at).filter(|_| at != Timestamp::EPOCH)
}

/// Which addresses: `state`, `reason` and `domain` of a query.
pub(crate) fn filter(query: &Query) -> Result<AddressFilter, Problem> {
    let given = |name| query.get(name).filter(|text| !text.is_empty());
    let state = given("state").map(|word| word.parse::<AddressState>());
    let reason = given("reason").map(|word| word.parse::<Reason>());
    let domain = given("domain").map(Domain::parse);
    Ok(AddressFilter {
        state: state.transpose().map_err(|fault| Problem::field("state", fault))?,
        reason: reason.transpose().map_err(|fault| Problem::field("reason", fault))?,
        domain: domain
            .transpose()
            .map_err(|fault| Problem::field("domain", fault))?
            .map(|domain| domain.as_str().into()),
    })
}

/// Where an address stands, as JSON.
pub(crate) fn condition(condition: &Condition) -> Map<String, Value> {
    let errors: Map<String, Value> =
        condition.counts.iter().map(|(reason, count)| (reason.to_string(), count.into())).collect();
    let mut members = Map::new();
    members.insert("state".into(), condition.state.word().into());
    members.insert("reason".into(), condition.reason.map(Reason::word).into());
    members.insert("since".into(), at_text(condition.since).into());
    members.insert("until".into(), condition.until.and_then(at_text).into());
    members.insert("errors".into(), errors.into());
    members.insert("last_error_at".into(), condition.last_counted_at.and_then(at_text).into());
    members.insert("changes_at".into(), condition.changes_at.and_then(at_text).into());
    members
}

fn record(record: &AddressRecord) -> Value {
    let mut members = condition(&record.condition);
    members.insert("address".into(), (*record.address).into());
    members.insert("created_at".into(), at_text(record.created_at).into());
    members.insert("changed_at".into(), at_text(record.changed_at).into());
    members.insert("last_entry_at".into(), at_text(record.last_entry_at).into());
    members.into()
}

/// One address that changes, as JSON.
pub(crate) fn change(change: &Change) -> Value {
    json!({
        "address": change.address,
        "before": condition(&change.before),
        "after": condition(&change.after),
    })
}

/// `GET /api/v1/quarantine/addresses`
pub(crate) async fn list(State(app): State<Shared>, query: Query) -> Result<Response, Problem> {
    query.only(&["state", "reason", "domain", "after", "limit"])?;
    let filter = filter(&query)?;
    let limit = query.limit(PAGE_USUAL, PAGE_MOST)?;
    let after = query.position("after")?;
    let page = app.ledger.read(move |reads| reads.addresses(&filter, after, limit)).await?;
    let last = page.last().filter(|_| page.len() >= limit as usize);
    let next = last.map(|(id, _)| id.to_string());
    let list: Vec<Value> = page.iter().map(|(_, found)| record(found)).collect();
    Ok(answer(json!({ "addresses": list, "next": next })))
}

/// `GET /api/v1/quarantine/counts`
pub(crate) async fn counts(State(app): State<Shared>, query: Query) -> Result<Response, Problem> {
    query.only(&[])?;
    let today = u32::try_from(app.ledger.now().as_secs() / 86_400).unwrap_or(u32::MAX);
    let since = today.saturating_sub(STRAY_DAYS);
    let (counts, strays) =
        app.ledger.read(move |reads| Ok((reads.address_counts()?, reads.strays(since)?))).await?;
    let counts: Vec<Value> = counts
        .into_iter()
        .map(|(state, reason, addresses)| {
            json!({
                "state": state.word(), "reason": reason.map(Reason::word), "addresses": addresses,
            })
        })
        .collect();
    let strays: Vec<Value> = strays
        .into_iter()
        .map(|(day, kind, count)| {
            let day = Timestamp::from_secs(u64::from(day) * 86_400).to_string();
            json!({ "day": day.get(..10), "kind": kind.word(), "count": count })
        })
        .collect();
    Ok(answer(json!({ "addresses": counts, "strays": strays })))
}

/// An address as it was sent, folded as the ledger has it.
pub(crate) fn folded(text: &str) -> Result<Box<str>, String> {
    let mailbox = Mailbox::parse(text).map_err(|fault| fault.to_string())?;
    Ok(mailbox.folded_key().into())
}

/// `GET /api/v1/quarantine/addresses/{address}`: why does this address stand where it stands?
pub(crate) async fn explained(
    State(app): State<Shared>,
    Segment(text): Segment,
    query: Query,
) -> Result<Response, Problem> {
    query.only(&[])?;
    let mailbox = Mailbox::parse(&text)
        .map_err(|fault| Problem::invalid(format!("this is no address: {fault}")))?;
    let found = app.ledger.explain(&mailbox).await?;
    let (history, explanation) = (&found.history, &found.explanation);
    let mut members = condition(&explanation.condition);
    members.insert("hash".into(), AddressHash::of(&found.address).to_string().into());
    members.insert("address".into(), found.address.into());
    members.insert("known".into(), found.record.is_some().into());
    // Beside its own state the suppression list may be in its way.
    members.insert("refused".into(), found.refused.into());
    members.insert("cause".into(), cause(explanation.condition.cause).into());
    let entries = explanation
        .entries
        .iter()
        .filter_map(|explained| Some(entry(history.entries.get(explained.index)?, explained)));
    members.insert("entries".into(), entries.collect());
    let mut actions: Vec<_> = history.actions.iter().collect();
    actions.sort_by_key(|action| (action.at, action.id));
    let deeds = actions.into_iter().map(|action| {
        let reason = match &action.deed {
            Deed::Quarantine(reason) => Some(reason.word()),
            Deed::Import(imported) => imported.reason.map(Reason::word),
            _ => None,
        };
        json!({
            "deed": format!("a{}", action.id), "at": at_text(action.at), "what": action.deed.word(),
            "reason": reason, "who": action.who, "why": action.why,
        })
    });
    members.insert("deeds".into(), deeds.collect());
    Ok(answer(members.into()))
}

/// `e12`: an entry; `a3`: a deed.
fn cause(cause: Cause) -> Option<String> {
    match cause {
        Cause::Nothing => None,
        Cause::Entry(entry) => Some(entry.to_string()),
        Cause::Action(action) => Some(format!("a{action}")),
    }
}

fn entry(entry: &Entry, explained: &Explained) -> Value {
    let evidence = &entry.evidence;
    let standing = match entry.standing {
        Standing::Live => "live",
        Standing::Held { .. } => "held",
        Standing::Void { .. } => "void",
    };
    let mut value = json!({
        "entry": entry.id.to_string(),
        "at": at_text(evidence.at),
        "provider": evidence.provider,
        "delivery": evidence.delivery.map(|id| id.to_string()),
        "message": evidence.message.map(|id| id.to_string()),
        "channel": evidence.channel,
        "standing": standing,
        "counted": matches!(explained.verdict, Verdict::Counted { .. }),
        "current": explained.current,
        "verdict": verdict(explained.verdict),
        "failure": null,
    });
    if let (Finding::Failed(_), Some((failure, meaning))) = (&evidence.finding, entry.failure()) {
        value["failure"] = json!({
            "reason": meaning.reason.word(),
            "type": meaning.failure_type.word(),
            "status": meaning.status,
            "by_person": entry.person.is_some(),
            "rule": &*failure.rule,
            "version": &*failure.version,
            "text": failure.text.to_string(),
            "reply": failure.reply,
        });
    }
    value
}

/// What an entry did, in words.
fn verdict(verdict: Verdict) -> String {
    let why = match verdict {
        Verdict::Counted { threshold: 0, .. } => return "denylisted at once".into(),
        Verdict::Counted { error, threshold } if error >= threshold => {
            return format!("error {error} of {threshold}: quarantined");
        }
        Verdict::Counted { error, threshold } => return format!("error {error} of {threshold}"),
        Verdict::CountsAnew => return "delivered: the count began anew".into(),
        Verdict::NotCounted { why } => why,
    };
    match why {
        NotCounted::Undone { task } => format!("not counted: undone by task {task}"),
        NotCounted::HeldByOutageGuard { hold } => {
            format!("not counted: held back by the outage guard (hold {hold})")
        }
        NotCounted::NotAuthentic => "not counted: it may be forged".into(),
        NotCounted::CameBack => "not counted: the message came back".into(),
        NotCounted::NotQualified => "not counted: nobody has qualified its text".into(),
        NotCounted::Ignored => "not counted: ignored".into(),
        NotCounted::ReasonNeverCounts => "not counted: this reason never counts".into(),
        NotCounted::TooSoonAfter { entry } if entry.0 == 0 => {
            "not counted: too soon after an imported error".into()
        }
        NotCounted::TooSoonAfter { entry } => format!("not counted: too soon after {entry}"),
        NotCounted::Allowlisted => "not counted: the address was allowlisted".into(),
        NotCounted::AlreadyQuarantined => "not counted: already quarantined".into(),
        NotCounted::AlreadyDenylisted => "not counted: already denylisted".into(),
    }
}

/// What a person can do to addresses.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Quarantine,
    Deny,
    Allow,
    Release,
}

/// The body of `POST /quarantine/deeds`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Deeds {
    deed: Word,
    addresses: Vec<String>,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    why: String,
}

/// `POST /api/v1/quarantine/deeds`
pub(crate) async fn act(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let wanted: Deeds = app.read_json(request).await?;
    let deed = wanted.deed()?;
    let author = author(&caller, &wanted.why)?;
    if wanted.addresses.is_empty() || wanted.addresses.len() > DEEDS_LIMIT {
        let why = format!("from 1 to {DEEDS_LIMIT} addresses; import a list for more");
        return Err(Problem::field("addresses", why));
    }
    let mut deeds = Vec::with_capacity(wanted.addresses.len());
    for (place, text) in wanted.addresses.iter().enumerate() {
        let address =
            folded(text).map_err(|fault| Problem::field(format!("addresses[{place}]"), fault))?;
        deeds.push((address, deed.clone()));
    }
    let changes = app.ledger.act(deeds, author).await?;
    let shown: Vec<Value> = changes.iter().map(change).collect();
    Ok(answer(json!({ "changes": shown })))
}

/// The body of `POST /quarantine/forget`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Forgetting {
    address: String,
    #[serde(default)]
    why: String,
}

/// `POST /api/v1/quarantine/forget`
pub(crate) async fn forget(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let wanted: Forgetting = app.read_json(request).await?;
    let mailbox = Mailbox::parse(&wanted.address)
        .map_err(|fault| Problem::field("address", fault.to_string()))?;
    let folded = mailbox.folded_key();
    if wanted.why.to_lowercase().contains(&*folded) {
        return Err(Problem::field("why", "it is kept, so it must not name the address"));
    }
    let author = author(&caller, &wanted.why)?;
    let erased = app.ledger.forget(&mailbox, author).await?;
    Ok(answer(json!({
        "hash": AddressHash::of(&folded).to_string(), "known": erased.known,
        "messages": erased.messages, "refusals": erased.refusals, "texts": erased.texts,
        "waiting": erased.waiting,
    })))
}

impl Deeds {
    fn deed(&self) -> Result<Deed, Problem> {
        let reason = self.reason.as_deref().map(str::parse::<Reason>).transpose();
        let reason = reason.map_err(|fault| Problem::field("reason", fault))?;
        match (self.deed, reason) {
            (Word::Quarantine, Some(reason)) => Ok(Deed::Quarantine(reason)),
            (Word::Quarantine, None) => Err(Problem::field(
                "reason",
                "say why these addresses are bad, such as User unknown",
            )),
            (_, Some(_)) => {
                Err(Problem::field("reason", "only a quarantine has a reason; use why"))
            }
            (Word::Deny, None) => Ok(Deed::Deny),
            (Word::Allow, None) => Ok(Deed::Allow),
            (Word::Release, None) => Ok(Deed::Release),
        }
    }
}
