//! From the engine's plans to conversations, and back from their reports to events.

use std::collections::HashMap;
use std::sync::Arc;

use engine::Event;
use engine::event::{Assignment, ConnectionPlan, DoneResult, MessageDone, TlsUse};
use engine::work::{QueuedMessage, SendMode, Settled};
use mail::attempt::{EndCause, SessionEnd, Stage, Verdict};
use mail::id::{ConnectionId, MessageId, SourceId};
use mail::reply::Reply;
use mail::time::Timestamp;
use smtp::client::{ClientSettings, Timeouts, TlsMode};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Counts;
use super::contents::Contents;
use crate::clock::SteadyClock;
use crate::config::{Config, SourceConfig, TlsVerify};
use crate::nondeliverables::Admission;
use crate::prepare::RenderInput;
use crate::smtp_client::{
    ConnectPlan, ConnectionReport, Connector, MessageFate, Outgoing, Prepare, PrepareFault,
    Prepared, ReportKind,
};

/// Batches handed to one connection ahead; the engine assigns far fewer.
const BATCHES_MAX: usize = 1_024;

/// Renders one message on the task of its connection.
pub(super) struct Render {
    admission: Arc<Admission>,
    contents: Arc<Contents>,
    message: Arc<QueuedMessage>,
    mode: SendMode,
    clock: Arc<SteadyClock>,
}

impl Prepare for Render {
    fn prepare(self) -> Result<Prepared, PrepareFault> {
        let message = &self.message;
        // The last moment: what became durable before this is heeded.
        if let Some(why) = self.admission.withdraw(&message.recipient) {
            return Err(PrepareFault::Message(why));
        }
        let input = RenderInput {
            message_id: message.id,
            delivery: message.delivery,
            recipient: &message.recipient,
            merge_json: &message.merge,
            now: self.clock.now(),
        };
        let prepared = if message.content == 0 {
            self.contents.prepare(message.delivery, &input)?
        } else {
            self.contents.single(message.content, &input)?
        };
        // The application's own return path, where it gave one.
        let sender = if message.sender.is_empty() {
            prepared.envelope_sender.into_boxed_str()
        } else if *message.sender == *crate::intake::NULL_SENDER {
            "".into()
        } else {
            message.sender.clone()
        };
        Ok(Prepared {
            // What was prepared knows nothing of the application's return path.
            smtputf8: prepared.smtputf8 || !sender.is_ascii(),
            sender,
            recipient: message.recipient.clone(),
            content: prepared.content,
            test_only: self.mode == SendMode::Test,
        })
    }
}

/// What the runner keeps of an open connection.
enum Open {
    /// A conversation on a task of its own.
    Real { work: mpsc::Sender<Vec<Outgoing<Render>>>, close: CancellationToken },
    /// A conversation that was asked to end when it has sent what it holds.
    Ending { close: CancellationToken },
    /// A dry run: a task that only prepares.
    Dry { work: mpsc::UnboundedSender<Vec<Assignment>> },
}

/// All connections of the node.
pub(crate) struct Connections {
    open: HashMap<ConnectionId, Open>,
    /// What was handed to connections that take nothing more: given back when they report their end. The engine
    /// would hand it to the same connection again and again if it heard of it earlier.
    too_late: HashMap<ConnectionId, Vec<MessageDone>>,
    connector: Arc<Connector<NodeTime>>,
    admission: Arc<Admission>,
    contents: Arc<Contents>,
    clock: Arc<SteadyClock>,
    sources: HashMap<SourceId, SourceConfig>,
    settings: Arc<Config>,
    runtime: tokio::runtime::Handle,
    reports: mpsc::UnboundedSender<ConnectionReport>,
    counts: Arc<Counts>,
    /// Breaks off every conversation at the end.
    ended: CancellationToken,
}

/// The node's clock as a function.
pub(crate) type NodeTime = Box<dyn Fn() -> Timestamp + Send + Sync>;

impl Connections {
    pub(crate) fn new(
        connector: Connector<NodeTime>,
        admission: Arc<Admission>,
        contents: Arc<Contents>,
        clock: Arc<SteadyClock>,
        settings: Arc<Config>,
        runtime: tokio::runtime::Handle,
        counts: Arc<Counts>,
    ) -> Self {
        let reports = connector.reports.clone();
        let sources = settings.sources.iter().map(|source| (source.id, source.clone())).collect();
        Self {
            open: HashMap::new(),
            too_late: HashMap::new(),
            connector: Arc::new(connector),
            admission,
            contents,
            clock,
            sources,
            settings,
            runtime,
            reports,
            counts,
            ended: CancellationToken::new(),
        }
    }

    /// Starts a conversation.
    pub(super) fn connect(&mut self, connection: ConnectionId, plan: &ConnectionPlan) {
        if plan.dry {
            return self.connect_dry(connection);
        }
        let Some(source) = self.sources.get(&plan.path.source) else {
            let cause = EndCause::Local { why: format!("source {} is gone", plan.path.source) };
            return self.report(
                connection,
                ReportKind::Closed(SessionEnd { stage: Stage::Connect, cause }),
            );
        };
        let client = &self.settings.smtp_client;
        let session = ClientSettings {
            helo: source.helo.as_str().to_owned(),
            tls: match plan.tls {
                TlsUse::Off => TlsMode::Disabled,
                TlsUse::Opportunistic => TlsMode::Opportunistic,
                TlsUse::Required => TlsMode::Required,
            },
            lmtp: plan.lmtp,
            timeouts: Timeouts {
                greeting: plan.timeouts.other,
                command: plan.timeouts.other,
                final_dot: plan.timeouts.data,
                // The engine closes idle connections; this is for one that it has lost sight of.
                idle: client.idle_timeout * 2 + plan.timeouts.other,
                ..Timeouts::default()
            },
            // The engine counts the messages of each connection.
            max_messages: u32::MAX,
            pipelining: client.pipelining,
            chunking: client.chunking && plan.chunking,
        };
        let verify = match client.tls_verify {
            TlsVerify::Never => false,
            TlsVerify::WhenRequired => plan.tls == TlsUse::Required,
            TlsVerify::Always => true,
        };
        let plan = ConnectPlan {
            connection,
            source_address: Some(source.address),
            target: (plan.path.target, plan.port).into(),
            mx_host: plan.mx_host.to_string(),
            relay: plan.relay,
            connect_timeout: plan.timeouts.connect,
            verify_certificate: verify,
            session,
        };
        let (work, receiver) = mpsc::channel(BATCHES_MAX);
        let close = CancellationToken::new();
        self.open.insert(connection, Open::Real { work, close: close.clone() });
        let connector = Arc::clone(&self.connector);
        let ended = self.ended.clone();
        self.runtime.spawn(async move {
            ended.run_until_cancelled(connector.carry(plan, receiver, close)).await
        });
    }

    fn connect_dry(&mut self, connection: ConnectionId) {
        let (work, receiver) = mpsc::unbounded_channel();
        self.open.insert(connection, Open::Dry { work });
        let dry = DryRun {
            connection,
            admission: Arc::clone(&self.admission),
            contents: Arc::clone(&self.contents),
            clock: Arc::clone(&self.clock),
            reports: self.reports.clone(),
        };
        self.runtime.spawn(dry.carry(receiver));
    }

    /// Hands messages to a connection. What it cannot take any more comes back as not tried, with its end.
    pub(super) fn send(&mut self, connection: ConnectionId, messages: Vec<Assignment>) {
        let not_tried = |message| MessageDone {
            message,
            started_at: None,
            result: DoneResult::Verdict(Verdict::NotTried),
        };
        let ids: Vec<MessageId> = messages.iter().map(|assigned| assigned.message.id).collect();
        let taken = match self.open.get(&connection) {
            Some(Open::Real { work, .. }) => {
                let batch = messages
                    .into_iter()
                    .map(|assigned| Outgoing {
                        token: assigned.message.id.0,
                        send_before: assigned.use_before,
                        message: Render {
                            admission: Arc::clone(&self.admission),
                            contents: Arc::clone(&self.contents),
                            message: assigned.message,
                            mode: assigned.mode,
                            clock: Arc::clone(&self.clock),
                        },
                    })
                    .collect();
                work.try_send(batch).is_ok()
            }
            Some(Open::Dry { work }) => work.send(messages).is_ok(),
            Some(Open::Ending { .. }) | None => false,
        };
        if !taken {
            let too_late = self.too_late.entry(connection).or_default();
            too_late.extend(ids.into_iter().map(not_tried));
        }
    }

    /// Lets a connection finish what it has, then close.
    pub(super) fn close(&mut self, connection: ConnectionId) {
        // Dropping the sender is the request.
        match self.open.remove(&connection) {
            Some(Open::Real { close, .. } | Open::Ending { close }) => {
                self.open.insert(connection, Open::Ending { close });
            }
            Some(Open::Dry { .. }) | None => {}
        }
    }

    /// Lets a connection finish what is on the wire, then close; what it has not begun comes back.
    pub(super) fn recall(&mut self, connection: ConnectionId) {
        if let Some(Open::Real { close, .. } | Open::Ending { close }) = self.open.get(&connection)
        {
            close.cancel();
        }
        self.close(connection);
    }

    /// These outcomes are on the disk.
    pub(super) fn settled(&self, settled: &[Settled]) {
        self.connector.in_doubt.settled(settled.iter().map(|one| one.id));
    }

    /// Conversations that have not come to their end.
    pub(super) fn count(&self) -> usize {
        self.open.len()
    }

    /// Breaks off whatever is still open. Nothing is reported of it any more.
    pub(super) fn break_off(&mut self) {
        self.ended.cancel();
        self.open.clear();
    }

    /// What a report means to the engine, in this order.
    pub(super) fn events_of(&mut self, report: ConnectionReport) -> (Option<Event>, Event) {
        let connection = report.connection;
        let mut before = None;
        let event = match report.kind {
            ReportKind::Ready { .. } => Event::ConnectionReady { connection },
            ReportKind::Done(results) => Event::MessagesDone {
                connection,
                results: results
                    .into_iter()
                    .map(|result| MessageDone {
                        message: MessageId(result.token),
                        started_at: result.started_at,
                        result: match result.fate {
                            MessageFate::Verdict(verdict) => DoneResult::Verdict(verdict),
                            MessageFate::PrepareFailed { why } => DoneResult::PrepareFailed { why },
                            MessageFate::PrepareLater { why } => DoneResult::PrepareLater { why },
                        },
                    })
                    .collect(),
            },
            ReportKind::Closed(end) => {
                if end.cause != EndCause::Finished {
                    Counts::add(&self.counts.sessions_failed, 1);
                }
                self.open.remove(&connection);
                let too_late = self.too_late.remove(&connection);
                before = too_late.map(|results| Event::MessagesDone { connection, results });
                Event::ConnectionClosed { connection, end }
            }
        };
        (before, event)
    }

    fn report(&self, connection: ConnectionId, kind: ReportKind) {
        // The runner holds the receiver as long as it holds this.
        let _ = self.reports.send(ConnectionReport { connection, kind });
    }
}

/// A connection that is none: every message is prepared, nothing is sent.
struct DryRun {
    connection: ConnectionId,
    admission: Arc<Admission>,
    contents: Arc<Contents>,
    clock: Arc<SteadyClock>,
    reports: mpsc::UnboundedSender<ConnectionReport>,
}

impl DryRun {
    async fn carry(self, mut work: mpsc::UnboundedReceiver<Vec<Assignment>>) {
        let report = |kind| {
            let _ = self.reports.send(ConnectionReport { connection: self.connection, kind });
        };
        report(ReportKind::Ready { tls: None, extensions: smtp::client::Extensions::default() });
        while let Some(batch) = work.recv().await {
            let results = batch.into_iter().map(|assigned| self.prepare(assigned)).collect();
            report(ReportKind::Done(results));
        }
        let end = SessionEnd { stage: Stage::Idle, cause: EndCause::Finished };
        report(ReportKind::Closed(end));
    }

    fn prepare(&self, assigned: Assignment) -> crate::smtp_client::MessageResult {
        let started = self.clock.now();
        let token = assigned.message.id.0;
        let render = Render {
            admission: Arc::clone(&self.admission),
            contents: Arc::clone(&self.contents),
            message: assigned.message,
            mode: assigned.mode,
            clock: Arc::clone(&self.clock),
        };
        let (fate, started_at) = match render.prepare() {
            Ok(_) => {
                let reply = Reply::line(250, "2.0.0 dry run: prepared, not sent");
                (MessageFate::Verdict(Verdict::Sent { reply }), Some(started))
            }
            Err(fault) => (fault.into(), None),
        };
        crate::smtp_client::MessageResult { token, fate, started_at, ended_at: self.clock.now() }
    }
}
