//! Addresses with their states as CSV, in and out, and suppression lists: streamed, never held in memory.
//!
//! A list that breaks off leaves what was committed until then; sending it again does no harm, because every row
//! says what its address is to be and not what is to be added. A last row that was cut off is not taken.

use std::io::{self, BufReader, Read};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use engine::quarantine::csv::{self, BadRow, Defaults, FileFault};
use engine::quarantine::{Author, Deed, Suppressed};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};

use crate::access::Caller;
use crate::app::{Shared, answer};
use crate::deliveries::expects_nothing_else;
use crate::forms::Query;
use crate::ledger::Ledger;
use crate::quarantine::{author, filter};
use web::Problem;
use web::{Incoming, media_type};

/// Rows committed at once.
const BATCH_ROWS: usize = 1_000;
/// Refused rows that are listed in the answer.
const LISTED: usize = 1_000;
/// Addresses read at once for an export.
const EXPORT_PAGE: u32 = 1_000;
/// Lists that are read at a time. Each holds a thread while its client sends.
const LISTS_MAX: usize = 4;
/// Pieces of a body, and of an answer, that wait for the other side.
const PIECES: usize = 4;

/// Bounds the lists under way.
pub(crate) struct Lists(Semaphore);

impl Default for Lists {
    fn default() -> Self {
        Self(Semaphore::new(LISTS_MAX))
    }
}

/// A field of the request's head, once.
pub(crate) fn field<'a>(fields: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Problem> {
    let mut values = fields.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::field(name, "the field is given twice"));
    }
    let text = value.to_str().map_err(|_| Problem::field(name, "the field is not ASCII"))?;
    Ok(Some(text.trim()).filter(|text| !text.is_empty()))
}

/// `POST /api/v1/quarantine/import`
pub(crate) async fn import(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    expects_nothing_else(&parts.headers)?;
    if media_type(&parts.headers)? != "text/csv" {
        return Err(Problem::media_type("send text/csv with a column address"));
    }
    let state = field(&parts.headers, "X-Mailweir-State")?.map(str::parse).transpose();
    let reason = field(&parts.headers, "X-Mailweir-Reason")?.map(str::parse).transpose();
    let defaults = Defaults {
        state: state.map_err(|fault| Problem::field("X-Mailweir-State", fault))?,
        reason: reason.map_err(|fault| Problem::field("X-Mailweir-Reason", fault))?,
    };
    let author = author(&caller, field(&parts.headers, "X-Mailweir-Why")?.unwrap_or("import"))?;
    let now = app.ledger.now();
    let read = move |input: BufReader<Pieces>, tell: &mut dyn FnMut(Result<Row, BadRow>)| {
        csv::import(input, defaults, now, |row| {
            tell(row.map(|row| Row::Address(row.address, Deed::Import(row.imported))));
        })
    };
    take_in(&app, body, author, read).await
}

/// `POST /api/v1/suppression/import`
pub(crate) async fn import_suppression(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    expects_nothing_else(&parts.headers)?;
    if media_type(&parts.headers)? != "text/plain" {
        return Err(Problem::media_type("send text/plain: a hash, an address or a domain a line"));
    }
    let author = author(&caller, field(&parts.headers, "X-Mailweir-Why")?.unwrap_or("import"))?;
    let read = |input: BufReader<Pieces>, tell: &mut dyn FnMut(Result<Row, BadRow>)| {
        csv::import_suppression(input, |row| tell(row.map(Row::Suppressed)))
    };
    take_in(&app, body, author, read).await
}

/// A row to be committed.
enum Row {
    Address(Box<str>, Deed),
    Suppressed(Suppressed),
}

/// Rows, and how many were refused among them.
#[derive(Default)]
struct Batch {
    deeds: Vec<(Box<str>, Deed)>,
    suppressed: Vec<Suppressed>,
    refused: Vec<BadRow>,
}

impl Batch {
    fn len(&self) -> usize {
        self.deeds.len() + self.suppressed.len() + self.refused.len()
    }

    fn add(&mut self, row: Result<Row, BadRow>) {
        match row {
            Ok(Row::Address(address, deed)) => self.deeds.push((address, deed)),
            Ok(Row::Suppressed(entry)) => self.suppressed.push(entry),
            Err(bad) => self.refused.push(bad),
        }
    }
}

/// A body as a blocking reader sees it. A body that broke off is an error and not an end, so that half a row is never
/// taken for a whole one.
struct Pieces {
    pieces: mpsc::Receiver<Option<Bytes>>,
    present: Bytes,
    ended: bool,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.present.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Some(piece)) => self.present = piece,
                Some(None) => self.ended = true,
                None => return Err(io::Error::other("the body broke off")),
            }
        }
        let count = self.present.len().min(buffer.len());
        let taken = self.present.split_to(count);
        buffer[..count].copy_from_slice(&taken);
        Ok(count)
    }
}

/// Reads a list on a thread of its own while batches of it are committed.
async fn take_in(
    app: &Shared,
    body: Body,
    author: Author,
    read: impl FnOnce(BufReader<Pieces>, &mut dyn FnMut(Result<Row, BadRow>)) -> Result<(), FileFault>
    + Send
    + 'static,
) -> Result<Response, Problem> {
    let _place = app
        .lists
        .0
        .try_acquire()
        .map_err(|_| Problem::try_later("other lists are being imported"))?;
    let (to_reader, pieces) = mpsc::channel(PIECES);
    let (to_ledger, batches) = mpsc::channel::<Batch>(1);
    let reading = tokio::task::spawn_blocking(move || {
        let pieces = Pieces { pieces, present: Bytes::new(), ended: false };
        let mut batch = Batch::default();
        let mut tell = |row| {
            batch.add(row);
            if batch.len() >= BATCH_ROWS {
                // Nobody takes it any more when a commit has failed; then the body ends too.
                let _ = to_ledger.blocking_send(core::mem::take(&mut batch));
            }
        };
        let read = read(BufReader::new(pieces), &mut tell);
        if read.is_ok() {
            let _ = to_ledger.blocking_send(batch);
        }
        read
    });
    let mut incoming = Incoming::new(body);
    let mut totals = Totals::default();
    let (sent, committed) = tokio::join!(
        hand_over(&mut incoming, to_reader),
        totals.commit(&app.ledger, author, batches)
    );
    let read = reading.await.map_err(|fault| {
        Problem::try_later(format!("the list was not read to its end: {fault}"))
    })?;
    // What the reader says about a body that broke off says less than what broke it off.
    let outcome =
        committed.and(sent).and(read.map_err(|fault| Problem::invalid(fault.to_string())));
    match outcome {
        Ok(()) => Ok(answer(totals.shown())),
        Err(problem) => {
            incoming.drain().await;
            Err(totals.tell(problem))
        }
    }
}

/// Passes the body on until it ends or nobody reads it any more.
async fn hand_over(
    incoming: &mut Incoming,
    to_reader: mpsc::Sender<Option<Bytes>>,
) -> Result<(), Problem> {
    loop {
        let piece = incoming.next().await?;
        let last = piece.is_none();
        if to_reader.send(piece).await.is_err() || last {
            return Ok(());
        }
    }
}

/// Counts of what is on disk.
#[derive(Default)]
struct Totals {
    taken: u64,
    changed: u64,
    refused: u64,
    listed: Vec<Value>,
}

impl Totals {
    async fn commit(
        &mut self,
        ledger: &Ledger,
        author: Author,
        mut batches: mpsc::Receiver<Batch>,
    ) -> Result<(), Problem> {
        while let Some(batch) = batches.recv().await {
            let (addresses, entries) = (batch.deeds.len(), batch.suppressed.len());
            if addresses > 0 {
                let changes = ledger.act(batch.deeds, author.clone()).await?;
                self.changed += changes.len() as u64;
            }
            if entries > 0 {
                ledger.suppress(batch.suppressed, true, author.clone()).await?;
                self.changed += entries as u64;
            }
            self.taken += (addresses + entries) as u64;
            self.refused += batch.refused.len() as u64;
            let room = LISTED.saturating_sub(self.listed.len());
            self.listed.extend(
                batch
                    .refused
                    .into_iter()
                    .take(room)
                    .map(|bad| json!({ "line": bad.line, "text": bad.text, "reason": bad.reason })),
            );
        }
        Ok(())
    }

    fn shown(self) -> Value {
        json!({
            "taken": self.taken,
            "changed": self.changed,
            "refused": self.refused,
            "refusals": self.listed,
        })
    }

    fn tell(&self, problem: Problem) -> Problem {
        let words = format!(
            "{} rows are taken for good, {} were refused; the rest was not taken, send the list again",
            self.taken, self.refused
        );
        let problem = if self.taken > 0 { problem.prefixed(&words) } else { problem };
        problem.with("taken", self.taken).with("refused", self.refused)
    }
}

/// `GET /api/v1/quarantine/export`
pub(crate) async fn export(State(app): State<Shared>, query: Query) -> Result<Response, Problem> {
    query.only(&["state", "reason", "domain"])?;
    let filter = filter(&query)?;
    // A store that cannot be read is told before the answer has begun.
    let mut page = {
        let filter = filter.clone();
        app.ledger.read(move |reads| reads.addresses(&filter, 0, EXPORT_PAGE)).await?
    };
    let (sender, pieces) = mpsc::channel(PIECES);
    let ledger = app.ledger.clone();
    tokio::spawn(async move {
        let mut text = csv::header();
        text.push('\n');
        loop {
            for (_, record) in &page {
                text.push_str(&csv::row(record));
                text.push('\n');
            }
            let next = page.last().filter(|_| page.len() >= EXPORT_PAGE as usize);
            let next = next.map(|(id, _)| *id);
            let piece = core::mem::take(&mut text);
            // The client may have gone.
            if sender.send(Ok(Bytes::from(piece))).await.is_err() {
                return;
            }
            let Some(after) = next else { return };
            let filter = filter.clone();
            match ledger.read(move |reads| reads.addresses(&filter, after, EXPORT_PAGE)).await {
                Ok(more) => page = more,
                // The connection breaks, so that nobody takes a part for the whole.
                Err(problem) => {
                    let _ = sender.send(Err(io::Error::other(problem.to_string()))).await;
                    return;
                }
            }
        }
    });
    let kind = [(header::CONTENT_TYPE, "text/csv; charset=utf-8; header=present")];
    Ok((kind, Body::new(Outgoing { pieces })).into_response())
}

/// An answer that is written while it is read.
struct Outgoing {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
}

impl hyper::body::Body for Outgoing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let piece = ready!(self.pieces.poll_recv(context));
        Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
    }
}
