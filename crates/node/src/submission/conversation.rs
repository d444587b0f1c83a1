//! One connection: the socket, the timers and the commits around a [`ServerSession`].

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mail::reply::escaped;
use smtp::server::{ReceivedMessage, ServerEvent, ServerSession, ServerSettings};
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::message::accept;
use super::{Gate, Held, Shared, SubmissionCounts};
use crate::intake::Intake;

/// Octets read at once.
const READ_OCTETS: usize = 16_384;
/// Octets read ahead, at most one read more, while a message is being committed: well below what the
/// session takes.
const AHEAD_OCTETS: usize = 131_072;
const _: () = assert!(AHEAD_OCTETS + READ_OCTETS <= smtp::server::MOST_PENDING);
/// How long, and how much, is read without use after the last reply, lest a reset overtake it.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_OCTETS: usize = 4 << 20;

/// The connection, before or after STARTTLS.
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// The handshake failed.
    Gone,
}

impl Stream {
    /// Reads some octets; 0: the end. Cancelling it loses nothing.
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer).await,
            Self::Tls(stream) => stream.read(buffer).await,
            Self::Gone => Ok(0),
        }
    }

    async fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(octets).await,
            Self::Tls(stream) => {
                stream.write_all(octets).await?;
                stream.flush().await
            }
            Self::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    async fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.shutdown().await,
            Self::Tls(stream) => stream.shutdown().await,
            Self::Gone => Ok(()),
        }
    }
}

/// One connection with its session.
pub(super) struct Conversation {
    shared: Arc<Shared>,
    intake: Intake,
    session: ServerSession<Gate>,
    stream: Stream,
    peer: IpAddr,
    buffer: Box<[u8]>,
    held: Held,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    draining: bool,
}

impl Conversation {
    pub(super) fn new(
        shared: Arc<Shared>,
        intake: Intake,
        settings: Arc<ServerSettings>,
        stream: TcpStream,
        peer: IpAddr,
        stop: CancellationToken,
    ) -> Self {
        let gate = Gate { shared: Arc::clone(&shared), intake: intake.clone() };
        Self {
            session: ServerSession::new(settings, gate, false, intake.now()),
            held: Held::none(Arc::clone(&shared)),
            shared,
            intake,
            stream: Stream::Plain(stream),
            peer,
            buffer: vec![0; READ_OCTETS].into_boxed_slice(),
            stop: Box::pin(stop.cancelled_owned()),
            draining: false,
        }
    }

    /// Speaks with the client until the end.
    pub(super) async fn hold(mut self) {
        if self.spoke_first() {
            self.listen().await;
        }
        loop {
            if !self.speak().await {
                tracing::debug!(peer = %self.peer, "the SMTP client took no reply");
                return;
            }
            match self.session.poll_event() {
                Some(ServerEvent::StartTls) => self.start_tls().await,
                Some(ServerEvent::Authenticate { user, password }) => {
                    self.log_in(&user, &password).await;
                }
                Some(ServerEvent::Message(message)) => self.store(*message).await,
                Some(ServerEvent::Closed { why }) => {
                    tracing::debug!(peer = %self.peer, why, "SMTP connection ends");
                    return self.part().await;
                }
                None => {
                    self.listen().await;
                    if !self.held.set(self.session.held_octets()) {
                        return self.give_up().await;
                    }
                }
            }
        }
    }

    /// Whether the client has spoken before our greeting. It can only be seen of a client that was
    /// fast; nobody is made to wait for it.
    fn spoke_first(&self) -> bool {
        let Stream::Plain(stream) = &self.stream else { return false };
        let mut octet = [core::mem::MaybeUninit::uninit()];
        matches!(SockRef::from(stream).peek(&mut octet), Ok(1))
    }

    /// Writes all replies; `false` when they cannot be written.
    async fn speak(&mut self) -> bool {
        while let Some(octets) = self.session.next_to_send() {
            self.shared.counts.count_replies(&octets);
            let write = self.stream.write(&octets);
            if !matches!(timeout(self.shared.bounds.write_timeout, write).await, Ok(Ok(()))) {
                return false;
            }
        }
        true
    }

    /// Waits for octets, the deadline or the shutdown, and tells the session.
    async fn listen(&mut self) {
        let wait = self.session.deadline().since(self.intake.now());
        let read = self.stream.read(&mut self.buffer);
        tokio::select! {
            biased;
            // First, so that a client that never pauses learns of it too.
            () = &mut self.stop, if !self.draining => {
                self.draining = true;
                self.session.shutdown(self.intake.now());
            }
            read = timeout(wait, read) => match read {
                Ok(Ok(count @ 1..)) => {
                    self.session.receive(self.intake.now(), &self.buffer[..count]);
                }
                Ok(_) => self.session.connection_lost(),
                Err(_) => self.session.tick(self.intake.now()),
            },
        }
    }

    /// Has a message committed, and meanwhile reads ahead.
    async fn store(&mut self, message: ReceivedMessage) {
        let content = message.content.capacity();
        // The message was counted while it came; what its copy adds is small.
        self.held.set(content + self.session.held_octets());
        let accepted = accept(Arc::clone(&self.shared), self.intake.clone(), self.peer, message);
        tokio::pin!(accepted);
        let mut more = true;
        let reply = loop {
            let ahead = self.session.held_octets();
            tokio::select! {
                biased;
                reply = &mut accepted => break reply,
                () = &mut self.stop, if !self.draining => {
                    self.draining = true;
                    self.session.shutdown(self.intake.now());
                }
                read = self.stream.read(&mut self.buffer), if more && ahead < AHEAD_OCTETS => {
                    match read {
                        Ok(count @ 1..) => {
                            self.session.receive(self.intake.now(), &self.buffer[..count]);
                            self.held.set(content + self.session.held_octets());
                        }
                        // What came before the end is still used; the next read sees it again.
                        _ => more = false,
                    }
                }
            }
        };
        self.session.message_result(self.intake.now(), &reply);
        self.held.set(self.session.held_octets());
    }

    /// Answers a login.
    async fn log_in(&mut self, user: &str, password: &str) {
        let allowed = self.shared.users.may_log_in(user, password);
        let counts = &self.shared.counts;
        if allowed {
            SubmissionCounts::add(&counts.logins_accepted, 1);
        } else {
            SubmissionCounts::add(&counts.logins_failed, 1);
            let user = escaped(user.as_bytes());
            tracing::warn!(peer = %self.peer, user, "SMTP login failed");
            sleep(self.shared.bounds.login_delay).await;
        }
        self.session.auth_result(self.intake.now(), allowed);
        self.follow_shutdown();
    }

    /// Does the handshake.
    async fn start_tls(&mut self) {
        let stream = core::mem::replace(&mut self.stream, Stream::Gone);
        let (Some(acceptor), Stream::Plain(stream)) = (&self.shared.tls, stream) else {
            return self.session.connection_lost();
        };
        match timeout(self.shared.bounds.handshake_timeout, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => {
                self.stream = Stream::Tls(Box::new(stream));
                self.session.tls_established(self.intake.now());
                self.follow_shutdown();
            }
            Ok(Err(fault)) => {
                tracing::debug!(peer = %self.peer, %fault, "TLS handshake failed");
                self.session.connection_lost();
            }
            Err(_) => self.session.connection_lost(),
        }
    }

    /// Reminds the session of a shutdown that began while it could not follow.
    fn follow_shutdown(&mut self) {
        if self.draining {
            self.session.shutdown(self.intake.now());
        }
    }

    /// Ends a connection whose message would take more memory than there is.
    async fn give_up(mut self) {
        tracing::warn!(peer = %self.peer, "an SMTP connection ended: too much mail at once");
        let words = b"421 4.3.1 too much mail at once, try again later\r\n";
        self.shared.counts.count_replies(words);
        self.session.connection_lost();
        self.held.set(self.session.held_octets());
        if matches!(
            timeout(self.shared.bounds.write_timeout, self.stream.write(words)).await,
            Ok(Ok(()))
        ) {
            self.part().await;
        }
    }

    /// Ends our direction and reads a little longer without use.
    async fn part(mut self) {
        self.held.set(0);
        let parting = async {
            self.stream.shutdown().await?;
            let mut left = LINGER_OCTETS;
            loop {
                let count = self.stream.read(&mut self.buffer).await?;
                left = left.saturating_sub(count);
                if count == 0 || left == 0 {
                    return io::Result::Ok(());
                }
            }
        };
        // However it ends, there is nothing left to do for this client.
        let _parted = timeout(LINGER, parting).await;
    }
}
