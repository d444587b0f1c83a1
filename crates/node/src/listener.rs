//! Listeners for SMTP and LMTP: sockets, places, memory and timers around
//! [`smtp::server::ServerSession`].
//!
//! **Promise.** Who takes the mail, the [`Desk`], is asked once for each message that came whole, and
//! its answer is what the client hears. Connections in all and by peer, memory for content over all
//! connections and every wait are bounded. A shutdown lets a message in hand come to its end within
//! the patience of the bounds.
//!
//! **How connections share commits.** While a message of one connection is being taken its next octets
//! are read ahead, and all others go on.
//!
//! **Absences.** A certificate that changed on disk is read at the next start only.

use std::collections::HashMap;
use std::future::Future;
use std::io::Write as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mail::reply::Reply;
use mail::time::Timestamp;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use smtp::server::{Admission, OfferedRecipient, ReceivedMessage, ServerSettings};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::TlsFiles;
use conversation::{Conversation, Stream};

mod conversation;

/// Connections that the system holds for us until they are accepted.
const BACKLOG: i32 = 1_024;
/// Pause after a failed accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Octets of a text that is put into a reply (RFC 5321, 4.5.3.1.5: a line has 512 at most).
const REPLY_TEXT: usize = 400;

/// Why a listener does not start. Nothing listens then.
#[derive(Debug, thiserror::Error)]
pub enum BindFault {
    /// The address cannot be listened on.
    #[error(
        "cannot listen for SMTP on {address}: {source}; {}",
        advice(source.kind(), section)
    )]
    Address {
        /// Which: address and port, or the path of a socket.
        address: String,
        /// The section of the configuration that names it.
        section: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A certificate or key cannot be used.
    #[error("cannot use {} for TLS: {why}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// What to do about an address that is refused.
fn advice(kind: std::io::ErrorKind, section: &str) -> String {
    match kind {
        std::io::ErrorKind::AddrInUse => {
            format!("stop the program that uses it or change `listen` in [{section}]")
        }
        std::io::ErrorKind::PermissionDenied => {
            "ports below 1024 need the right CAP_NET_BIND_SERVICE".to_owned()
        }
        _ => format!("change `listen` in [{section}]"),
    }
}

/// The bounds of a listener.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Connections at one time; further ones get 421 4.7.0.
    pub connections: u32,
    /// Connections at one time from one IPv4 address or one IPv6 /64.
    pub connections_per_peer: u32,
    /// Memory for content over all connections, in octets. New messages get 452 4.3.1 from three
    /// quarters of it on; a message that would pass all of it gets 421 4.3.1.
    pub octets_in_flight: u64,
    /// How long a command may take to come.
    pub command_timeout: Duration,
    /// How long each further 1 KiB of a message may take to come.
    pub data_timeout: Duration,
    /// How long the client may take to accept our replies.
    pub write_timeout: Duration,
    /// How long the TLS handshake may take.
    pub handshake_timeout: Duration,
    /// How long a commit may take before the client is told to try again.
    pub store_timeout: Duration,
    /// How long a failed login waits for its answer.
    pub login_delay: Duration,
    /// How long connections may go on with the message in hand after the shutdown began.
    pub shutdown_patience: Duration,
}

impl Default for Bounds {
    /// 1,000 connections, 100 per peer, 256 MiB; 5 minutes for a command, 3 for a block, 1 for a
    /// reply, 30 s for TLS, 5 minutes for a commit, 1 s after a failed login, 5 s at the end.
    fn default() -> Self {
        Self {
            connections: 1_000,
            connections_per_peer: 100,
            octets_in_flight: 256 << 20,
            command_timeout: Duration::from_secs(300),
            data_timeout: Duration::from_secs(180),
            write_timeout: Duration::from_secs(60),
            handshake_timeout: Duration::from_secs(30),
            store_timeout: Duration::from_secs(300),
            login_delay: Duration::from_secs(1),
            shutdown_patience: Duration::from_secs(5),
        }
    }
}

/// What has happened since the start. Each figure only grows, except `connections_open`.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections taken.
    pub connections_accepted: AtomicU64,
    /// Connections turned away because there were too many.
    pub connections_refused: AtomicU64,
    /// Connections now.
    pub connections_open: AtomicU64,
    /// Messages answered with 250 and new in the queue.
    pub messages_accepted: AtomicU64,
    /// Messages answered with 250 because their idempotency key was known.
    pub messages_repeated: AtomicU64,
    /// Recipients of accepted messages.
    pub recipients_accepted: AtomicU64,
    /// Octets of accepted messages, as stored.
    pub octets_accepted: AtomicU64,
    /// Replies 4yz, to whatever.
    pub replies_temporary: AtomicU64,
    /// Replies 5yz, to whatever.
    pub replies_permanent: AtomicU64,
    /// Logins that succeeded.
    pub logins_accepted: AtomicU64,
    /// Logins that failed.
    pub logins_failed: AtomicU64,
}

impl Counts {
    pub(crate) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts the refusals in what is about to be written: whole lines.
    fn count_replies(&self, lines: &[u8]) {
        for line in lines.split_inclusive(|octet| *octet == b'\n') {
            match line {
                [b'4', _, _, b' ', ..] => Self::add(&self.replies_temporary, 1),
                [b'5', _, _, b' ', ..] => Self::add(&self.replies_permanent, 1),
                _ => {}
            }
        }
    }
}

/// Who takes the mail of a listener.
pub(crate) trait Desk: Send + Sync + 'static {
    /// Now, in the node's time.
    fn now(&self) -> Timestamp;

    /// The reply that refuses a recipient, if any. It must not wait.
    fn refuse(&self, offered: &OfferedRecipient<'_>) -> Option<Reply>;

    /// Whether name and password belong together.
    fn may_log_in(&self, user: &str, password: &str) -> bool;

    /// Makes a message durable and answers with the reply for the client.
    fn take(
        self: Arc<Self>,
        peer: Peer,
        message: ReceivedMessage,
    ) -> impl Future<Output = Reply> + Send;
}

/// Who connects; `None`: somebody on this machine, by a socket in the file system.
pub(crate) type Peer = Option<IpAddr>;

/// A peer as logs show it.
pub(crate) fn shown(peer: Peer) -> String {
    peer.map_or_else(|| "a local socket".to_owned(), |address| address.to_string())
}

/// What all connections share.
struct Shared {
    bounds: Bounds,
    tls: Option<TlsAcceptor>,
    counts: Arc<Counts>,
    in_flight: AtomicU64,
    peers: Mutex<HashMap<IpAddr, u32>>,
}

/// A socket that is listened on.
enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            // Whoever connects should hear that nobody is there.
            let _gone = std::fs::remove_file(path);
        }
    }
}

impl Listening {
    async fn accept(&self) -> std::io::Result<(Stream, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Replies are written whole, so waiting for more of them would only delay.
                let _no_matter = stream.set_nodelay(true);
                Ok((Stream::Plain(stream), Some(peer.ip().to_canonical())))
            }
            Self::Unix(listener, _) => Ok((Stream::Unix(listener.accept().await?.0), None)),
        }
    }
}

/// Listeners that are bound and not yet at work.
pub(crate) struct Doors {
    bound: Vec<(Listening, String, Arc<ServerSettings>)>,
    addresses: Vec<SocketAddr>,
    section: &'static str,
    shared: Shared,
}

impl Doors {
    /// No listeners yet. `section` names the part of the configuration, for faults.
    ///
    /// # Errors
    /// A certificate that cannot be used.
    pub(crate) fn new(
        section: &'static str,
        tls: Option<&TlsFiles>,
        bounds: Bounds,
    ) -> Result<Self, BindFault> {
        let shared = Shared {
            bounds,
            tls: tls.map(acceptor).transpose()?,
            counts: Arc::default(),
            in_flight: AtomicU64::new(0),
            peers: Mutex::default(),
        };
        Ok(Self { bound: Vec::new(), addresses: Vec::new(), section, shared })
    }

    /// Listens on an address. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub(crate) fn tcp(
        &mut self,
        wanted: SocketAddr,
        settings: impl FnOnce(SocketAddr) -> ServerSettings,
    ) -> Result<(), BindFault> {
        let bound =
            listen(wanted).and_then(|listener| listener.local_addr().map(|at| (listener, at)));
        let (listener, address) = bound.map_err(|source| BindFault::Address {
            address: wanted.to_string(),
            section: self.section,
            source,
        })?;
        self.addresses.push(address);
        let settings = Arc::new(settings(address));
        self.bound.push((Listening::Tcp(listener), address.to_string(), settings));
        Ok(())
    }

    /// Listens on a socket in the file system. One that nobody listens on any more is replaced. Must
    /// be called within a tokio runtime.
    ///
    /// # Errors
    /// The path cannot be listened on.
    pub(crate) fn unix(&mut self, path: &Path, settings: ServerSettings) -> Result<(), BindFault> {
        if std::os::unix::net::UnixStream::connect(path)
            .is_err_and(|fault| fault.kind() == std::io::ErrorKind::ConnectionRefused)
        {
            // If it cannot be removed, binding says why.
            let _gone = std::fs::remove_file(path);
        }
        let shown = path.display().to_string();
        let listener = UnixListener::bind(path).map_err(|source| BindFault::Address {
            address: shown.clone(),
            section: self.section,
            source,
        })?;
        let listening = Listening::Unix(listener, path.to_owned());
        self.bound.push((listening, shown, Arc::new(settings)));
        Ok(())
    }

    /// The TCP addresses that are listened on, with the ports that the system chose.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Figures for metrics, live.
    pub(crate) fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.shared.counts)
    }

    /// Takes connections until `shutdown`. Then no more are taken, idle ones get 421, and those
    /// with a message in hand may finish it within the patience of the bounds. Returns when the last has
    /// ended. Dropping this future cuts all connections.
    pub(crate) async fn run<D: Desk>(self, desk: Arc<D>, shutdown: CancellationToken) {
        let shared = Arc::new(self.shared);
        let tracker = TaskTracker::new();
        let cut = CancellationToken::new();
        let cut_when_dropped = cut.clone().drop_guard();
        let mut doors = JoinSet::new();
        for (listening, address, settings) in self.bound {
            tracing::info!(%address, section = self.section, "listening for mail");
            let door = Door {
                listening,
                settings,
                shared: Arc::clone(&shared),
                desk: Arc::clone(&desk),
                tracker: tracker.clone(),
                shutdown: shutdown.clone(),
                cut: cut.clone(),
            };
            doors.spawn(door.open());
        }
        while doors.join_next().await.is_some() {}
        tracker.close();
        if timeout(shared.bounds.shutdown_patience, tracker.wait()).await.is_err() {
            tracing::warn!(connections = tracker.len(), "cutting SMTP connections at shutdown");
            cut.cancel();
            tracker.wait().await;
        }
        drop(cut_when_dropped);
    }
}

/// One listening socket at work.
struct Door<D> {
    listening: Listening,
    settings: Arc<ServerSettings>,
    shared: Arc<Shared>,
    desk: Arc<D>,
    tracker: TaskTracker,
    shutdown: CancellationToken,
    cut: CancellationToken,
}

impl<D: Desk> Door<D> {
    /// Takes connections until the shutdown.
    async fn open(self) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return,
                accepted = self.listening.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.let_in(stream, peer),
                Err(fault) => {
                    tracing::warn!(%fault, "cannot accept an SMTP connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn let_in(&self, stream: Stream, peer: Peer) {
        let Some(place) = Place::take(&self.shared, peer) else {
            Counts::add(&self.shared.counts.connections_refused, 1);
            tracing::info!(peer = shown(peer), "turned away: too many SMTP connections");
            turn_away(stream);
            return;
        };
        let stop = self.shutdown.child_token();
        let cut = self.cut.child_token();
        let conversation = Conversation::new(
            Arc::clone(&self.shared),
            Arc::clone(&self.desk),
            Arc::clone(&self.settings),
            stream,
            peer,
            stop,
        );
        self.tracker.spawn(async move {
            let _place = place;
            cut.run_until_cancelled(conversation.hold()).await;
        });
    }
}

/// Says as much as goes without waiting: who floods us must not cost us a task.
fn turn_away(stream: Stream) {
    let words = b"421 4.7.0 too many connections, try again later\r\n";
    let _unheard = match stream {
        Stream::Plain(stream) => {
            TcpStream::into_std(stream).and_then(|mut stream| stream.write(words))
        }
        Stream::Unix(stream) => {
            UnixStream::into_std(stream).and_then(|mut stream| stream.write(words))
        }
        Stream::Tls(_) | Stream::Gone => Ok(0),
    };
}

/// A connection's place among those allowed; given back when dropped.
struct Place {
    shared: Arc<Shared>,
    peer: Peer,
}

impl Place {
    fn take(shared: &Arc<Shared>, peer: Peer) -> Option<Self> {
        let peer = peer.map(neighbourhood);
        let mut peers = shared.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let open = shared.counts.connections_open.load(Ordering::Relaxed);
        if open >= u64::from(shared.bounds.connections) {
            return None;
        }
        if let Some(peer) = peer {
            let of_peer = peers.get(&peer).copied().unwrap_or(0);
            if of_peer >= shared.bounds.connections_per_peer {
                return None;
            }
            peers.insert(peer, of_peer + 1);
        }
        // Under the lock of the peers, so that the bound is exact.
        Counts::add(&shared.counts.connections_open, 1);
        Counts::add(&shared.counts.connections_accepted, 1);
        Some(Self { shared: Arc::clone(shared), peer })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut peers = self.shared.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = self.peer
            && let Some(count) = peers.get_mut(&peer)
        {
            *count -= 1;
            if *count == 0 {
                peers.remove(&peer);
            }
        }
        self.shared.counts.connections_open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whom connections are counted for: an IPv6 site has at least a /64 of addresses.
pub(crate) fn neighbourhood(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
    }
}

/// A connection's part of the memory for content; given back when dropped.
struct Held {
    shared: Arc<Shared>,
    octets: u64,
}

impl Held {
    const fn none(shared: Arc<Shared>) -> Self {
        Self { shared, octets: 0 }
    }

    /// States what the connection holds now; answers whether all together are within the bound.
    fn set(&mut self, octets: usize) -> bool {
        let octets = octets as u64;
        let before = self.octets;
        self.octets = octets;
        match octets.cmp(&before) {
            core::cmp::Ordering::Equal => true,
            core::cmp::Ordering::Less => {
                self.shared.in_flight.fetch_sub(before - octets, Ordering::Relaxed);
                true
            }
            core::cmp::Ordering::Greater => {
                let more = octets - before;
                let all = self.shared.in_flight.fetch_add(more, Ordering::Relaxed) + more;
                all <= self.shared.bounds.octets_in_flight
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.in_flight.fetch_sub(self.octets, Ordering::Relaxed);
    }
}

/// Refuses recipients that the desk does not want, and all while there is too much mail at once.
struct Gate<D> {
    shared: Arc<Shared>,
    desk: Arc<D>,
}

impl<D: Desk> Admission for Gate<D> {
    fn refuse(&mut self, offered: &OfferedRecipient<'_>) -> Option<Reply> {
        let in_flight = self.shared.in_flight.load(Ordering::Relaxed);
        if in_flight > self.shared.bounds.octets_in_flight / 4 * 3 {
            return Some(Reply::line(452, "4.3.1 too much mail at once, try again later"));
        }
        self.desk.refuse(offered)
    }
}

/// A text that can stand in a reply: one line of printable ASCII, not too long.
pub(crate) fn one_line(text: &str) -> String {
    text.chars()
        .map(|character| match character {
            ' '..='~' => character,
            character if character.is_whitespace() => ' ',
            _ => '?',
        })
        .take(REPLY_TEXT)
        .collect()
}

/// A listening socket. IPv6 sockets take no IPv4, so that `0.0.0.0` and `[::]` go together.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Or a restart would wait for the connections of the process before.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// TLS 1.2 and 1.3 with the configured certificate.
fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, BindFault> {
    let fault = |path: &PathBuf, why: String| BindFault::Certificate { path: path.clone(), why };
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|why| fault(&files.certificate, why.to_string()))?;
    if chain.is_empty() {
        return Err(fault(&files.certificate, "it holds no certificate in PEM form".into()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|why| fault(&files.key, why.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let configuration = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|why| fault(&files.certificate, why.to_string()))?;
    Ok(TlsAcceptor::from(Arc::new(configuration)))
}
