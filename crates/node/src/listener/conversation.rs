//! One connection: the socket, the timers and the commits around a [`ServerSession`].

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mail::reply::{ReplyClass, escaped};
use smtp::server::{ReceivedMessage, ServerEvent, ServerSession, ServerSettings};
use socket2::SockRef;
use store::kill_point;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{Counts, Desk, Gate, Held, Peer, Shared, shown};

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
pub(super) enum Stream {
    Plain(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// The handshake failed.
    Gone,
}

impl Stream {
    /// Reads some octets; 0: the end. Cancelling it loses nothing.
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer).await,
            Self::Unix(stream) => stream.read(buffer).await,
            Self::Tls(stream) => stream.read(buffer).await,
            Self::Gone => Ok(0),
        }
    }

    async fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(octets).await,
            Self::Unix(stream) => stream.write_all(octets).await,
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
            Self::Unix(stream) => stream.shutdown().await,
            Self::Tls(stream) => stream.shutdown().await,
            Self::Gone => Ok(()),
        }
    }
}

/// One connection with its session.
pub(super) struct Conversation<D: Desk> {
    shared: Arc<Shared>,
    desk: Arc<D>,
    session: ServerSession<Gate<D>>,
    stream: Stream,
    peer: Peer,
    buffer: Box<[u8]>,
    held: Held,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    draining: bool,
    /// A message was taken, and its answer is not written yet.
    acknowledging: bool,
}

impl<D: Desk> Conversation<D> {
    pub(super) fn new(
        shared: Arc<Shared>,
        desk: Arc<D>,
        settings: Arc<ServerSettings>,
        stream: Stream,
        peer: Peer,
        stop: CancellationToken,
    ) -> Self {
        let gate = Gate { shared: Arc::clone(&shared), desk: Arc::clone(&desk) };
        Self {
            session: ServerSession::new(settings, gate, false, desk.now()),
            held: Held::none(Arc::clone(&shared)),
            shared,
            desk,
            stream,
            peer,
            buffer: vec![0; READ_OCTETS].into_boxed_slice(),
            stop: Box::pin(stop.cancelled_owned()),
            draining: false,
            acknowledging: false,
        }
    }

    /// Speaks with the client until the end.
    pub(super) async fn hold(mut self) {
        if self.spoke_first() {
            self.listen().await;
        }
        loop {
            if !self.speak().await {
                tracing::debug!(peer = shown(self.peer), "the SMTP client took no reply");
                return;
            }
            match self.session.poll_event() {
                Some(ServerEvent::StartTls) => self.start_tls().await,
                Some(ServerEvent::Authenticate { user, password }) => {
                    self.log_in(&user, &password).await;
                }
                Some(ServerEvent::Message(message)) => self.store(*message).await,
                Some(ServerEvent::Closed { why }) => {
                    tracing::debug!(peer = shown(self.peer), why, "SMTP connection ends");
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
        let socket = match &self.stream {
            Stream::Plain(stream) => SockRef::from(stream),
            Stream::Unix(stream) => SockRef::from(stream),
            Stream::Tls(_) | Stream::Gone => return false,
        };
        let mut octet = [core::mem::MaybeUninit::uninit()];
        matches!(socket.peek(&mut octet), Ok(1))
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
        if core::mem::take(&mut self.acknowledging) {
            kill_point::pass("after-reply", "smtp");
        }
        true
    }

    /// Waits for octets, the deadline or the shutdown, and tells the session.
    async fn listen(&mut self) {
        let wait = self.session.deadline().since(self.desk.now());
        let read = self.stream.read(&mut self.buffer);
        tokio::select! {
            biased;
            // First, so that a client that never pauses learns of it too.
            () = &mut self.stop, if !self.draining => {
                self.draining = true;
                self.session.shutdown(self.desk.now());
            }
            read = timeout(wait, read) => match read {
                Ok(Ok(count @ 1..)) => {
                    self.session.receive(self.desk.now(), &self.buffer[..count]);
                }
                Ok(_) => self.session.connection_lost(),
                Err(_) => self.session.tick(self.desk.now()),
            },
        }
    }

    /// Has a message committed, and meanwhile reads ahead.
    async fn store(&mut self, message: ReceivedMessage) {
        let content = message.content.capacity();
        // The message was counted while it came; what its copy adds is small.
        self.held.set(content + self.session.held_octets());
        let accepted = Arc::clone(&self.desk).take(self.peer, message);
        tokio::pin!(accepted);
        let mut more = true;
        let reply = loop {
            let ahead = self.session.held_octets();
            tokio::select! {
                biased;
                reply = &mut accepted => break reply,
                () = &mut self.stop, if !self.draining => {
                    self.draining = true;
                    self.session.shutdown(self.desk.now());
                }
                read = self.stream.read(&mut self.buffer), if more && ahead < AHEAD_OCTETS => {
                    match read {
                        Ok(count @ 1..) => {
                            self.session.receive(self.desk.now(), &self.buffer[..count]);
                            self.held.set(content + self.session.held_octets());
                        }
                        // What came before the end is still used; the next read sees it again.
                        _ => more = false,
                    }
                }
            }
        };
        self.acknowledging = reply.class() == ReplyClass::Success;
        if self.acknowledging {
            kill_point::pass("before-reply", "smtp");
        }
        self.session.message_result(self.desk.now(), &reply);
        self.held.set(self.session.held_octets());
    }

    /// Answers a login.
    async fn log_in(&mut self, user: &str, password: &str) {
        let allowed = self.desk.may_log_in(user, password);
        let counts = &self.shared.counts;
        if allowed {
            Counts::add(&counts.logins_accepted, 1);
        } else {
            Counts::add(&counts.logins_failed, 1);
            let user = escaped(user.as_bytes());
            tracing::warn!(peer = shown(self.peer), user, "SMTP login failed");
            sleep(self.shared.bounds.login_delay).await;
        }
        self.session.auth_result(self.desk.now(), allowed);
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
                self.session.tls_established(self.desk.now());
                self.follow_shutdown();
            }
            Ok(Err(fault)) => {
                tracing::debug!(peer = shown(self.peer), %fault, "TLS handshake failed");
                self.session.connection_lost();
            }
            Err(_) => self.session.connection_lost(),
        }
    }

    /// Reminds the session of a shutdown that began while it could not follow.
    fn follow_shutdown(&mut self) {
        if self.draining {
            self.session.shutdown(self.desk.now());
        }
    }

    /// Ends a connection whose message would take more memory than there is.
    async fn give_up(mut self) {
        tracing::warn!(peer = shown(self.peer), "an SMTP connection ended: too much mail at once");
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
