//! `POST /api/v1/deliveries/{id}/recipients`: lists of any length, never held in memory.
//!
//! The body is decoded as it comes and appended in batches; while a batch is being committed the next one is
//! decoded, and no more is read than that. The answer leaves after the last commit. When the body breaks off, the
//! batches committed until then stay: sending the whole list again adds the rest, and counts the others as
//! duplicates.

use axum::extract::{Request, State};
use axum::response::Response;
use mail::id::DeliveryId;
use node::intake::{Intake, Recipient};
use node::recipients::{Decoder, Format, ListFault, Reason, Row, Step};
use serde_json::{Value, json};
use store::NewRefusal;
use tokio::task::JoinHandle;

use crate::app::{Shared, answer, stored};
use crate::deliveries::{expects_nothing_else, found};
use crate::forms::{Segment, delivery_id};
use web::Problem;
use web::{Incoming, media_type};

/// Rows in one batch.
const BATCH_ROWS: usize = 1_000;
/// Octets of merge data after which a batch is full whatever its rows.
const BATCH_OCTETS: usize = 4 << 20;
/// Refusals listed in the answer; the others can be asked for.
const LISTED: usize = 1_000;

/// `POST /api/v1/deliveries/{id}/recipients`
pub(crate) async fn append(
    State(app): State<Shared>,
    Segment(id): Segment,
    request: Request,
) -> Result<Response, Problem> {
    let id = delivery_id(&id)?;
    let (parts, body) = request.into_parts();
    expects_nothing_else(&parts.headers)?;
    let format = match media_type(&parts.headers)?.as_str() {
        "text/csv" => Format::Csv,
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Format::Ndjson,
        _ => return Err(Problem::media_type("send text/csv or application/x-ndjson")),
    };
    // Said before a long list is on its way for nothing.
    found(&app, id).await?;
    let limits = &app.questions.config().limits;
    let merge_limit =
        usize::try_from(limits.merge_bytes).unwrap_or(usize::MAX).min(store::MERGE_LIMIT);
    let mut list = List {
        intake: app.intake.clone(),
        delivery: id,
        merge_limit,
        recipients: Vec::new(),
        octets: 0,
        refusals: Vec::new(),
        commit: None,
        totals: Totals::default(),
    };
    let mut incoming = Incoming::new(body);
    let read = list.read(&mut incoming, format).await;
    // What is on its way to the disk is waited for in any case, so that the counts are true.
    let ended = list.settle().await;
    match read.and(ended) {
        Ok(()) => Ok(answer(list.totals.shown())),
        Err(problem) => {
            incoming.drain().await;
            Err(list.totals.tell(problem))
        }
    }
}

/// A list being taken in.
struct List {
    intake: Intake,
    delivery: DeliveryId,
    merge_limit: usize,
    recipients: Vec<Recipient>,
    /// Octets of merge data in `recipients`.
    octets: usize,
    refusals: Vec<NewRefusal>,
    /// The batch on its way.
    commit: Option<JoinHandle<Result<Committed, Problem>>>,
    totals: Totals,
}

/// What one batch led to.
struct Committed {
    accepted: u64,
    duplicates: u64,
    refused: u64,
    /// Those who may not be written to; they are among the refused.
    not_admitted: Vec<NewRefusal>,
}

/// Counts of what is on disk.
#[derive(Default)]
struct Totals {
    accepted: u64,
    duplicates: u64,
    refused: u64,
    listed: Vec<Value>,
}

impl Totals {
    fn shown(self) -> Value {
        json!({
            "accepted": self.accepted,
            "duplicates": self.duplicates,
            "refused": self.refused,
            "refusals": self.listed,
        })
    }

    fn tell(&self, problem: Problem) -> Problem {
        let words = format!(
            "{} recipients are accepted for good, {} were duplicates, {} refused; the rest was not taken, send the list again",
            self.accepted, self.duplicates, self.refused
        );
        let problem = if self.accepted > 0 { problem.prefixed(&words) } else { problem };
        problem
            .with("accepted", self.accepted)
            .with("duplicates", self.duplicates)
            .with("refused", self.refused)
    }
}

impl List {
    async fn read(&mut self, incoming: &mut Incoming, format: Format) -> Result<(), Problem> {
        let mut decoder = Decoder::new(format);
        let mut judged = false;
        loop {
            let step = decoder.next().map_err(|fault| unusable(&fault))?;
            if let Some(columns) = decoder.columns().filter(|_| !judged) {
                judged = true;
                self.judge_columns(columns)?;
            }
            match step {
                Step::Row(row) => {
                    self.take(row);
                    if self.is_full() {
                        self.send().await?;
                    }
                }
                Step::NeedInput => match incoming.next().await? {
                    Some(octets) => decoder.push(&octets),
                    None => decoder.finish(),
                },
                Step::End => return self.send().await,
            }
        }
    }

    /// Refuses a list that lacks what the template needs: every message of it would fail.
    fn judge_columns(&self, columns: &[String]) -> Result<(), Problem> {
        let missing = self.intake.missing_columns(self.delivery, columns);
        if missing.is_empty() {
            return Ok(());
        }
        let named: Vec<String> = missing
            .iter()
            .map(|(column, part)| format!("{column} (the template's {part} asks for it)"))
            .collect();
        Err(Problem::invalid(format!(
            "the list has no column {}; add it, or give it a default in the template: {{{{ {}|default(\"\") }}}}",
            named.join(", no column "),
            missing[0].0
        )))
    }

    fn take(&mut self, row: Row) {
        match row {
            Row::Recipient { line, mailbox, merge_json }
                if merge_json.len() <= self.merge_limit =>
            {
                self.octets += merge_json.len();
                self.recipients.push(Recipient { line, mailbox, merge: merge_json });
            }
            Row::Recipient { line, mailbox, merge_json } => {
                let reason = format!(
                    "the merge data has {} octets, at most {} are allowed",
                    merge_json.len(),
                    self.merge_limit
                );
                self.refuse(line, mailbox.as_str().into(), reason);
            }
            Row::Refused { line, reason } => {
                let address = match &reason {
                    Reason::Address { address, .. } => address.as_str().into(),
                    _ => Box::default(),
                };
                self.refuse(line, address, reason.to_string());
            }
        }
    }

    fn refuse(&mut self, line: u64, address: Box<str>, reason: String) {
        if self.totals.listed.len() < LISTED {
            self.totals.listed.push(json!({ "line": line, "reason": reason }));
        }
        self.refusals.push(NewRefusal { line, address, reason: reason.into() });
    }

    fn is_full(&self) -> bool {
        self.recipients.len() + self.refusals.len() >= BATCH_ROWS || self.octets >= BATCH_OCTETS
    }

    /// Waits for the batch on its way and sends the one that was gathered.
    async fn send(&mut self) -> Result<(), Problem> {
        self.settle().await?;
        let recipients = core::mem::take(&mut self.recipients);
        let refusals = core::mem::take(&mut self.refusals);
        self.octets = 0;
        if recipients.is_empty() && refusals.is_empty() {
            return Ok(());
        }
        let (intake, delivery) = (self.intake.clone(), self.delivery);
        // A task of its own: the client may go, the batch is committed and told to the engine.
        self.commit = Some(tokio::spawn(async move {
            let refused = refusals.len() as u64;
            if refused > 0 {
                stored(intake.refuse(delivery, refusals)).await?;
            }
            let mut committed =
                Committed { accepted: 0, duplicates: 0, refused, not_admitted: Vec::new() };
            if !recipients.is_empty() {
                let admitted = stored(intake.admit(delivery, recipients)).await?;
                committed.accepted = u64::from(admitted.appended.accepted);
                committed.duplicates = admitted.appended.duplicates.len() as u64;
                committed.refused += admitted.refused.len() as u64;
                committed.not_admitted = admitted.refused;
            }
            Ok(committed)
        }));
        Ok(())
    }

    /// Waits for the batch on its way.
    async fn settle(&mut self) -> Result<(), Problem> {
        let Some(commit) = self.commit.take() else { return Ok(()) };
        let committed = commit
            .await
            .map_err(|fault| Problem::try_later(format!("a batch was not committed: {fault}")))??;
        self.totals.accepted += committed.accepted;
        self.totals.duplicates += committed.duplicates;
        self.totals.refused += committed.refused;
        let room = LISTED.saturating_sub(self.totals.listed.len());
        let listed = |row: NewRefusal| json!({ "line": row.line, "reason": row.reason });
        self.totals.listed.extend(committed.not_admitted.into_iter().take(room).map(listed));
        Ok(())
    }
}

fn unusable(fault: &ListFault) -> Problem {
    Problem::invalid(fault.to_string())
}
