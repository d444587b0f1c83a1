//! One conversation over one socket.
//!
//! The loop: offer messages while the session wants them, gather what it writes, report what it
//! decided, then wait for whatever comes first: room to write, octets to read, work, the deadline,
//! or the request to close. Reading and writing are polled in one task, so nothing is locked or
//! copied between tasks.

use core::future::{Future, poll_fn};
use core::pin::{Pin, pin};
use core::task::{Context, Poll};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::{Buf, Bytes};
use mail::attempt::{EndCause, SessionEnd, Stage, Verdict};
use mail::id::MessageId;
use mail::time::Timestamp;
use smtp::client::{ClientEvent, ClientSession, Envelope};
use store::kill_point;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use super::{
    ConnectPlan, ConnectionReport, Connector, MessageFate, MessageResult, Outgoing, Prepare,
    PrepareFault, ReportKind, TlsFacts,
};

/// Octets read at once: dozens of replies.
const READ_BUFFER: usize = 16_384;
/// Most pieces in one write: what one message and the next need, several times over.
const MOST_PIECES: usize = 16;
/// The alarm rings at least so often; it then finds that nothing is due.
const LONGEST_SLEEP: Duration = Duration::from_secs(3_600);
/// When a conversation that is held back looks whether it may go on.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How long an orderly end of TLS may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// A conversation and the work that waits for it.
pub(super) struct Conversation<'a, P, C> {
    connector: &'a Connector<C>,
    plan: &'a ConnectPlan,
    work: mpsc::Receiver<Vec<Outgoing<P>>>,
    /// Whether `work` has ended.
    work_ended: bool,
    close: CancellationToken,
    closing: bool,
    /// How it ended, once it has.
    end: Option<SessionEnd>,
    backlog: VecDeque<Outgoing<P>>,
    results: Vec<MessageResult>,
    tls: Option<TlsFacts>,
    /// What is to be written, in order.
    pieces: VecDeque<Bytes>,
    unflushed: bool,
    /// Why writing failed; reading goes on, for the server may have said why.
    write_fault: Option<String>,
    buffer: Box<[u8]>,
    /// A message waits for the disk: too much is in doubt.
    held_back: bool,
    /// The answer that was awaited when a kill point was passed last.
    awaited: Option<Stage>,
}

/// What the wait ended with.
enum Woken<P> {
    Read(usize),
    Lost(io::Error),
    Work(Option<Vec<Outgoing<P>>>),
    Deadline,
    Close,
}

impl<'a, P: Prepare, C: Fn() -> Timestamp> Conversation<'a, P, C> {
    pub(super) fn new(
        connector: &'a Connector<C>,
        plan: &'a ConnectPlan,
        work: mpsc::Receiver<Vec<Outgoing<P>>>,
        close: CancellationToken,
    ) -> Self {
        Self {
            connector,
            plan,
            work,
            work_ended: false,
            close,
            closing: false,
            end: None,
            backlog: VecDeque::new(),
            results: Vec::new(),
            tls: None,
            pieces: VecDeque::new(),
            unflushed: false,
            write_fault: None,
            buffer: vec![0; READ_BUFFER].into_boxed_slice(),
            held_back: false,
            awaited: None,
        }
    }

    fn now(&self) -> Timestamp {
        (self.connector.clock)()
    }

    /// Holds the whole conversation.
    pub(super) async fn hold(&mut self, mut stream: TcpStream) -> SessionEnd {
        let mut session = ClientSession::new(self.plan.session.clone(), self.now());
        self.converse(&mut session, &mut stream).await;
        if self.end.is_none() {
            self.hold_under_tls(&mut session, stream).await;
        }
        if self.end.is_none() {
            session.abort(self.now(), "the session asked for TLS inside TLS");
            self.take_events(&mut session);
        }
        self.end.take().expect("an aborted session has ended")
    }

    /// The handshake, and the rest of the conversation.
    async fn hold_under_tls(&mut self, session: &mut ClientSession, stream: TcpStream) {
        let patience = session.deadline().map_or(Duration::ZERO, |at| at.since(self.now()));
        let handshake = self.connector.tls.handshake(
            stream,
            &self.plan.mx_host,
            self.plan.target.ip(),
            self.plan.verify_certificate,
        );
        // On the heap: the state of a handshake is large and needed only for a moment.
        let secured = tokio::time::timeout(patience, Box::pin(handshake))
            .await
            .unwrap_or_else(|_| Err("the handshake took too long".to_owned()));
        match secured {
            Ok((mut stream, facts)) => {
                self.tls = Some(facts);
                session.tls_established(self.now());
                self.converse(session, &mut stream).await;
                if self.end.as_ref().is_some_and(|end| end.cause == EndCause::Finished) {
                    // The close_notify is a courtesy; the results stand whether it arrives or not.
                    let _ = tokio::time::timeout(FAREWELL, stream.shutdown()).await;
                }
            }
            Err(why) => {
                session.tls_failed(self.now(), &why);
                self.take_events(session);
            }
        }
    }

    /// Drives the session until it ends or asks for the handshake.
    async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        session: &mut ClientSession,
        stream: &mut S,
    ) {
        let mut alarm = pin!(tokio::time::sleep(Duration::ZERO));
        let mut armed_for = Timestamp::EPOCH;
        let mut cancelled = pin!(self.close.clone().cancelled_owned());
        loop {
            // Before the next message is asked for: what was answered may be one too many in doubt.
            let mut wants_tls = self.take_events(session);
            self.feed(session);
            while let Some(piece) = session.next_to_send() {
                self.pieces.push_back(piece);
            }
            wants_tls |= self.take_events(session);
            self.flush_results();
            if kill_point::COMPILED {
                self.pass(session);
            }
            if self.end.is_some() || wants_tls {
                return;
            }
            // The alarm is moved only when it would ring too late: replies come thousands of times
            // more often than deadlines.
            let mut deadline = session.deadline().unwrap_or(Timestamp::NEVER);
            if core::mem::take(&mut self.held_back) {
                deadline = deadline.min(self.now() + LOOK_AGAIN);
            }
            if armed_for == Timestamp::EPOCH || deadline < armed_for {
                alarm.as_mut().reset(self.instant(deadline));
                armed_for = deadline;
            }
            let woken = poll_fn(|context| {
                let socket = self.poll(context, session, stream);
                if socket.is_ready() {
                    return socket;
                }
                if alarm.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Woken::Deadline);
                }
                if !self.closing && cancelled.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Woken::Close);
                }
                Poll::Pending
            })
            .await;
            let now = self.now();
            match woken {
                Woken::Read(0) => {
                    let why = self.write_fault.take().unwrap_or_default();
                    session.connection_lost(now, &why);
                }
                Woken::Read(octets) => session.receive(now, &self.buffer[..octets]),
                Woken::Lost(fault) => {
                    let why = self.write_fault.take().unwrap_or_else(|| words(&fault));
                    session.connection_lost(now, &why);
                }
                Woken::Work(Some(batch)) => self.backlog.extend(batch),
                Woken::Work(None) => self.work_ended = true,
                Woken::Deadline => {
                    armed_for = Timestamp::EPOCH;
                    session.tick(now);
                }
                Woken::Close => {
                    self.closing = true;
                    session.finish(now);
                }
            }
        }
    }

    /// Hands the session the messages that it wants, prepared; gives the others back when it will
    /// never want them.
    fn feed(&mut self, session: &mut ClientSession) {
        if !session.will_take_more() {
            return self.give_back_ready();
        }
        while session.wants_message() {
            if self.backlog.is_empty()
                && let Ok(batch) = self.work.try_recv()
            {
                self.backlog.extend(batch);
            }
            if !self.backlog.is_empty() && self.connector.in_doubt.is_full() {
                self.held_back = true;
                return;
            }
            let Some(outgoing) = self.backlog.pop_front() else {
                if self.work_ended {
                    session.finish(self.now());
                }
                return;
            };
            let token = outgoing.token;
            if outgoing.send_before <= self.now() {
                self.settle(token, MessageFate::Verdict(Verdict::NotTried), None);
                continue;
            }
            // A panic in a template must not take the connection's other messages with it.
            let prepared = catch_unwind(AssertUnwindSafe(|| outgoing.message.prepare()))
                .unwrap_or_else(|_| {
                    let why = "preparing it panicked; this is a fault of Mailweir";
                    Err(PrepareFault::Message(why.into()))
                });
            match prepared {
                Ok(prepared) => {
                    let envelope = Envelope {
                        token,
                        sender: prepared.sender,
                        recipient: prepared.recipient,
                        content: prepared.content,
                        smtputf8: prepared.smtputf8,
                        test_only: prepared.test_only,
                        send_before: outgoing.send_before,
                    };
                    session.enqueue(self.now(), envelope);
                }
                Err(fault) => self.settle(token, fault.into(), None),
            }
        }
    }

    /// Takes the session's events. True when it asks for the handshake.
    fn take_events(&mut self, session: &mut ClientSession) -> bool {
        let mut wants_tls = false;
        while let Some(event) = session.poll_event() {
            match event {
                ClientEvent::StartTls => wants_tls = true,
                ClientEvent::Ready { extensions, .. } => {
                    let tls = self.tls.clone();
                    self.report(ReportKind::Ready { tls, extensions });
                }
                ClientEvent::Done { token, verdict, started_at } => {
                    if matches!(verdict, Verdict::Sent { .. }) {
                        self.connector.in_doubt.taken(MessageId(token));
                        kill_point::pass("conversation", "answered");
                    }
                    self.settle(token, MessageFate::Verdict(verdict), started_at);
                }
                ClientEvent::Closed(end) => self.end = Some(end),
            }
        }
        wants_tls
    }

    /// Passes the kill point of the state that the conversation has come to.
    fn pass(&mut self, session: &ClientSession) {
        let awaited = session.awaits();
        if core::mem::replace(&mut self.awaited, awaited) != awaited {
            kill_point::pass("conversation", awaited.unwrap_or(Stage::Idle).name());
        }
    }

    /// One round of polling the socket and the work. Writes first: what is written decides what can
    /// be read.
    fn poll<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        session: &mut ClientSession,
        stream: &mut S,
    ) -> Poll<Woken<P>> {
        self.poll_write(context, session, stream);
        let mut buffer = ReadBuf::new(&mut self.buffer);
        if let Poll::Ready(result) = Pin::new(stream).poll_read(context, &mut buffer) {
            return Poll::Ready(match result {
                Ok(()) => Woken::Read(buffer.filled().len()),
                Err(fault) => Woken::Lost(fault),
            });
        }
        if !self.work_ended
            && self.backlog.is_empty()
            && session.wants_message()
            && let Poll::Ready(batch) = self.work.poll_recv(context)
        {
            return Poll::Ready(Woken::Work(batch));
        }
        Poll::Pending
    }

    /// Writes as much as the socket takes.
    fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        session: &mut ClientSession,
        stream: &mut S,
    ) {
        while !self.pieces.is_empty() {
            let mut slices = [IoSlice::new(&[]); MOST_PIECES];
            let mut count = 0;
            for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
                *slice = IoSlice::new(piece);
                count += 1;
            }
            match Pin::new(&mut *stream).poll_write_vectored(context, &slices[..count]) {
                Poll::Pending => return,
                Poll::Ready(Ok(octets)) if octets > 0 => {
                    self.unflushed = true;
                    session.written((self.connector.clock)(), octets);
                    self.consume(octets);
                    if kill_point::COMPILED && self.pieces.is_empty() && session.has_content_out() {
                        kill_point::pass("conversation", "dot-written");
                    }
                }
                Poll::Ready(Ok(_)) => return self.writing_failed("the socket takes no octets"),
                Poll::Ready(Err(fault)) => return self.writing_failed(&words(&fault)),
            }
        }
        if self.unflushed {
            match Pin::new(stream).poll_flush(context) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(fault)) => self.writing_failed(&words(&fault)),
            }
        }
    }

    /// Drops the octets that were written.
    fn consume(&mut self, mut octets: usize) {
        while let Some(front) = self.pieces.front_mut() {
            if octets < front.len() {
                front.advance(octets);
                return;
            }
            octets -= front.len();
            self.pieces.pop_front();
        }
    }

    fn writing_failed(&mut self, why: &str) {
        self.pieces.clear();
        self.unflushed = false;
        self.write_fault.get_or_insert_with(|| why.to_owned());
    }

    /// The moment of the runtime's clock that corresponds to a moment of ours.
    fn instant(&self, at: Timestamp) -> Instant {
        // A millisecond more than asked, so that our clock has surely come there too.
        let span = at.since(self.now()).min(LONGEST_SLEEP) + Duration::from_millis(1);
        Instant::now() + span
    }

    // ---- results -------------------------------------------------------------------------

    fn settle(&mut self, token: u64, fate: MessageFate, started_at: Option<Timestamp>) {
        let ended_at = self.now();
        self.results.push(MessageResult { token, fate, started_at, ended_at });
    }

    fn flush_results(&mut self) {
        if !self.results.is_empty() {
            let results = core::mem::take(&mut self.results);
            self.report(ReportKind::Done(results));
            kill_point::pass("conversation", "reported");
        }
    }

    pub(super) fn report(&self, kind: ReportKind) {
        let connection = self.plan.connection;
        // Nobody listens any more only when the node is going down without waiting for its
        // connections; the store's leases then decide about these messages.
        if self.connector.reports.send(ConnectionReport { connection, kind }).is_err() {
            tracing::warn!(%connection, "nobody takes the report of this connection");
        }
    }

    /// Gives back everything that is here, and lets nothing more come.
    fn give_back_ready(&mut self) {
        self.work.close();
        while let Ok(batch) = self.work.try_recv() {
            self.backlog.extend(batch);
        }
        while let Some(outgoing) = self.backlog.pop_front() {
            self.settle(outgoing.token, MessageFate::Verdict(Verdict::NotTried), None);
        }
    }

    /// The same at the end, waiting for a sender that is just putting in a batch.
    pub(super) async fn give_back_all(&mut self) {
        self.work.close();
        while let Some(batch) = self.work.recv().await {
            self.backlog.extend(batch);
        }
        self.give_back_ready();
        self.flush_results();
    }
}

/// The words for a fault of the socket; empty for an orderly end. A TLS peer that closes without
/// its farewell counts as orderly: many do, and SMTP has its own end of everything.
fn words(fault: &io::Error) -> String {
    if fault.kind() == io::ErrorKind::UnexpectedEof { String::new() } else { fault.to_string() }
}
