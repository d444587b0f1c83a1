//! Carries one SMTP conversation over a socket, at the pace of the provider's mood.
//!
//! At the usual pace each read is answered by one write, whatever number of commands it held. With
//! `latency` or `slow` each reply goes by itself. With `round_trip` every read is answered so much later
//! while further reads go on, as on a long line. Every wait is bounded by the lab's idle timeout.
//!
//! A conversation is off the books before its last octets are sent: a client that has heard the
//! farewell may open its next connection at once and holds one, not two.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};

use crate::mood::StartTls;
use crate::octets::Input;
use crate::recorder::SourceRecord;
use crate::session::{Session, Step, World};
use crate::site::Site;

/// Replies are sent when so many octets have gathered, though the input is not used up.
const GATHERED: usize = 16 * 1024;
/// What a server with broken TLS answers to a handshake.
const NO_HANDSHAKE: &[u8] = b"this is no handshake\r\n";
const HANDSHAKE: Duration = Duration::from_secs(30);
/// How long the rest of a client's octets is read away, so that closing does not reset the
/// connection and lose the last reply on its way.
const LINGER: Duration = Duration::from_secs(1);
/// Batches under way in a round trip.
const MOST_UNDER_WAY: usize = 256;

/// An entry in the books of a source, taken out at the latest when dropped.
pub(crate) struct Entry {
    record: Arc<SourceRecord>,
    id: u64,
    open: bool,
}

impl Entry {
    /// The entry of an open connection.
    pub(crate) const fn new(record: Arc<SourceRecord>, id: u64) -> Self {
        Self { record, id, open: true }
    }

    fn close(&mut self) {
        if std::mem::take(&mut self.open) {
            self.record.close(self.id);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.close();
    }
}

/// What a connection needs besides its session.
pub(crate) struct Carrier {
    /// The lab's recorder and clock.
    pub world: Arc<World>,
    /// The site, for its certificate.
    pub site: Arc<Site>,
    /// The lab's idle timeout.
    pub idle: Duration,
    /// The connection's entry in the books.
    pub entry: Entry,
}

#[derive(Clone, Copy)]
enum Pace {
    Batches,
    Replies { latency: Duration, octet: Option<Duration> },
    RoundTrip(Duration),
}

enum End {
    Closed,
    StartTls(StartTls),
}

impl Carrier {
    /// Carries the conversation to its end.
    pub(crate) async fn carry(
        mut self,
        mut stream: TcpStream,
        mut session: Session,
        crowded: bool,
    ) {
        let mut out = Vec::with_capacity(1_024);
        session.arrive(self.world.recorder.now());
        if session.mood().hang_at_greeting {
            swallow(&mut stream, self.idle).await;
            return;
        }
        let mut input = Input::new();
        let greeted = session.greet(crowded, &mut out);
        if greeted == Step::Close {
            self.entry.close();
            let _ = timeout(self.idle, stream.write_all(&out)).await;
            part(&mut stream).await;
            return;
        }
        // A broken connection ends the conversation like any other end; what was seen is recorded.
        let end = self.converse(&mut stream, &mut session, &mut input, out).await;
        match end {
            Ok(End::StartTls(StartTls::Good | StartTls::Injects)) => {
                self.converse_secured(stream, session, input).await;
            }
            Ok(End::StartTls(StartTls::BrokenHandshake)) => {
                // The answer to the client's first octets: behind the 220 it would look like an injection.
                let mut hello = [0; 1_024];
                if let Ok(Ok(1..)) = timeout(self.idle, stream.read(&mut hello)).await {
                    let _ = timeout(self.idle, stream.write_all(NO_HANDSHAKE)).await;
                }
                self.entry.close();
                part(&mut stream).await;
            }
            Ok(_) => {
                self.entry.close();
                part(&mut stream).await;
            }
            Err(_) => {}
        }
    }

    async fn converse_secured(
        &mut self,
        stream: TcpStream,
        mut session: Session,
        mut input: Input,
    ) {
        let acceptor = match self.site.tls() {
            Ok(acceptor) => acceptor,
            Err(fault) => {
                tracing::error!("STARTTLS cannot be served: {fault:#}");
                return;
            }
        };
        let Ok(Ok(mut stream)) = timeout(HANDSHAKE, acceptor.accept(stream)).await else { return };
        session.secured();
        let end = self.converse(&mut stream, &mut session, &mut input, Vec::new()).await;
        if end.is_ok() {
            self.entry.close();
            part(&mut stream).await;
        }
    }

    async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        session: &mut Session,
        input: &mut Input,
        out: Vec<u8>,
    ) -> std::io::Result<End> {
        let mood = session.mood();
        let pace = match (mood.round_trip, mood.latency, mood.slow) {
            (Some(trip), _, _) => Pace::RoundTrip(trip.0),
            (None, None, None) => Pace::Batches,
            (None, latency, octet) => Pace::Replies {
                latency: latency.map_or(Duration::ZERO, |span| span.0),
                octet: octet.map(|span| span.0),
            },
        };
        match pace {
            Pace::RoundTrip(trip) => self.converse_afar(stream, session, input, out, trip).await,
            Pace::Batches | Pace::Replies { .. } => {
                self.converse_near(stream, session, input, out, pace).await
            }
        }
    }

    async fn converse_near<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        session: &mut Session,
        input: &mut Input,
        mut out: Vec<u8>,
        pace: Pace,
    ) -> std::io::Result<End> {
        let mut idle = Box::pin(sleep(self.idle));
        self.send(stream, &mut out, pace).await?;
        loop {
            if !self.read(stream, session, input, idle.as_mut()).await? {
                return Ok(End::Closed);
            }
            loop {
                match session.step(input, &mut out) {
                    Step::NeedInput => break,
                    Step::Done => {
                        if matches!(pace, Pace::Replies { .. }) || out.len() > GATHERED {
                            session.write_down();
                            self.send(stream, &mut out, pace).await?;
                        }
                    }
                    Step::Close => {
                        session.write_down();
                        self.entry.close();
                        self.send(stream, &mut out, pace).await?;
                        return Ok(End::Closed);
                    }
                    Step::Hang => {
                        session.write_down();
                        self.send(stream, &mut out, pace).await?;
                        swallow(stream, self.idle).await;
                        return Ok(End::Closed);
                    }
                    Step::StartTls(kind) => {
                        session.write_down();
                        input.clear();
                        self.send(stream, &mut out, pace).await?;
                        return Ok(End::StartTls(kind));
                    }
                }
            }
            session.write_down();
            self.send(stream, &mut out, pace).await?;
        }
    }

    async fn converse_afar<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        session: &mut Session,
        input: &mut Input,
        greeting: Vec<u8>,
        trip: Duration,
    ) -> std::io::Result<End> {
        let mut idle = Box::pin(sleep(self.idle));
        let mut under_way: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
        if !greeting.is_empty() {
            under_way.push_back((Instant::now() + trip, greeting));
        }
        let mut last = None;
        loop {
            let due = under_way.front().map(|(due, _)| *due);
            if last.is_some() && due.is_none() {
                break;
            }
            let listens = last.is_none() && under_way.len() < MOST_UNDER_WAY;
            tokio::select! {
                biased;
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    if let Some((_, mut octets)) = under_way.pop_front() {
                        if under_way.is_empty() && last.is_some() {
                            self.entry.close();
                        }
                        self.send(stream, &mut octets, Pace::Batches).await?;
                    }
                }
                open = self.read(stream, session, input, idle.as_mut()), if listens => {
                    if !open? {
                        return Ok(End::Closed);
                    }
                    let mut out = Vec::new();
                    let step = loop {
                        let step = session.step(input, &mut out);
                        if step != Step::Done {
                            break step;
                        }
                    };
                    session.write_down();
                    if !out.is_empty() {
                        under_way.push_back((Instant::now() + trip, out));
                    }
                    if step != Step::NeedInput {
                        last = Some(step);
                    }
                }
            }
        }
        match last {
            Some(Step::StartTls(kind)) => {
                input.clear();
                Ok(End::StartTls(kind))
            }
            Some(Step::Hang) => {
                swallow(stream, self.idle).await;
                Ok(End::Closed)
            }
            _ => Ok(End::Closed),
        }
    }

    /// Reads once. False at the client's end, and when it has been silent for too long.
    async fn read<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        session: &mut Session,
        input: &mut Input,
        mut idle: Pin<&mut Sleep>,
    ) -> std::io::Result<bool> {
        let count = loop {
            tokio::select! {
                biased;
                count = stream.read(input.room()) => break count?,
                () = idle.as_mut() => {
                    // One timer serves for the whole conversation; it is moved only when it fires.
                    let silent = self.world.recorder.now().saturating_sub(session.now);
                    let left = self.idle.saturating_sub(Duration::from_micros(silent));
                    if left.is_zero() {
                        let farewell = b"421 4.4.2 Nothing heard for too long, closing\r\n";
                        let _ = timeout(LINGER, stream.write_all(farewell)).await;
                        return Ok(false);
                    }
                    idle.as_mut().reset(Instant::now() + left);
                }
            }
        };
        input.filled(count);
        session.arrive(self.world.recorder.now());
        Ok(count > 0)
    }

    async fn send<S: AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        out: &mut Vec<u8>,
        pace: Pace,
    ) -> std::io::Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        if let Pace::Replies { latency, octet } = pace {
            sleep(latency).await;
            if let Some(octet) = octet {
                for at in 0..out.len() {
                    sleep(octet).await;
                    timeout(self.idle, stream.write_all(&out[at..=at])).await??;
                    timeout(self.idle, stream.flush()).await??;
                }
                out.clear();
                return Ok(());
            }
        }
        timeout(self.idle, stream.write_all(out)).await??;
        timeout(self.idle, stream.flush()).await??;
        out.clear();
        Ok(())
    }
}

/// Reads away whatever comes, until the client leaves or the time is up.
async fn swallow<S: AsyncRead + Unpin>(stream: &mut S, longest: Duration) {
    let mut sink = [0u8; 4_096];
    let _ = timeout(longest, async {
        while matches!(stream.read(&mut sink).await, Ok(count) if count > 0) {}
    })
    .await;
}

/// Ends our direction, then waits shortly for the client's end.
async fn part<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    if matches!(timeout(LINGER, stream.shutdown()).await, Ok(Ok(()))) {
        swallow(stream, LINGER).await;
    }
}
