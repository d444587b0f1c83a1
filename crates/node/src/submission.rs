//! The submission listener: SMTP (RFC 6409, 5321) from applications into the queue.
//!
//! **Promise.** The 250 after the final dot, or after `BDAT ... LAST`, is written only after
//! [`Intake::submit`] has answered, which is after the commit is on disk. Its text names the
//! messages: `250 2.0.0 accepted as m12-m15`. Whatever else is answered, and whenever the
//! connection breaks before that, nothing was queued, with one exception: a commit that takes longer
//! than [`SubmissionBounds::store_timeout`], or than the patience of a shutdown, is not waited for and
//! may still happen, so that the client's next try makes a duplicate unless it has an idempotency key.
//!
//! **Who may send.** On a listener bound to loopback everybody, unless the configuration asks for
//! AUTH there. Beyond loopback only users that have logged in under TLS. Mail of a user has the
//! user's affinity and priority, and the user's name as tenant; mail of nobody has the affinity
//! `default`, high priority and the tenant `smtp`.
//!
//! **Options in the header**, read and removed before the message is stored: `X-Mailweir-Priority`
//! (`high`, `normal`, `low`), `X-Mailweir-Affinity` (a name of the configuration),
//! `X-Mailweir-Idempotency-Key` (1 to 255 visible ASCII characters; the same message with the same key
//! is queued once and answered with the numbers it got first).
//!
//! **What is added**: one `Received` field. Date and Message-ID are added when the message is
//! prepared for sending, if it has none.
//!
//! **What is bounded**: connections in all and by peer, memory for content over all connections, every
//! wait. A store that does not take anything gives 451 4.3.0, a full disk or memory 452 4.3.1.
//!
//! **How connections share commits.** While a message of one connection is being committed its next
//! octets are read ahead, and all others go on; the store's writer puts what waits into one commit.
//!
//! **Absences.** A certificate that changed on disk is read at the next start only.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mail::reply::Reply;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use smtp::server::{Access, Admission, OfferedRecipient, ServerLimits, ServerSettings};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{SubmissionConfig, TlsFiles};
use crate::intake::Intake;
use conversation::Conversation;
use users::Users;

mod conversation;
mod message;
#[cfg(test)]
mod tests;
mod users;

/// Connections that the system holds for us until they are accepted.
const BACKLOG: i32 = 1_024;
/// Pause after a failed accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Room that our `Received` field may take beside the largest message.
const TRACE_OCTETS: usize = 4_096;

/// Why a listener does not start. Nothing listens then.
#[derive(Debug, thiserror::Error)]
pub enum BindFault {
    /// The address cannot be listened on.
    #[error(
        "cannot listen for SMTP on {address}: {source}; {}",
        advice(source.kind())
    )]
    Address {
        /// Which.
        address: SocketAddr,
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
const fn advice(kind: std::io::ErrorKind) -> &'static str {
    match kind {
        std::io::ErrorKind::AddrInUse => {
            "stop the program that uses it or change `listen` in [submission]"
        }
        std::io::ErrorKind::PermissionDenied => {
            "ports below 1024 need the right CAP_NET_BIND_SERVICE"
        }
        _ => "change `listen` in [submission]",
    }
}

/// The bounds of a listener.
#[derive(Clone, Debug)]
pub struct SubmissionBounds {
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

impl Default for SubmissionBounds {
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
pub struct SubmissionCounts {
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

impl SubmissionCounts {
    fn add(counter: &AtomicU64, count: u64) {
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

/// Says in a few words why no mail is taken now (the disk is almost full, the queue too long), or
/// nothing. It is asked for every recipient and must not wait.
pub type Pressure = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// What all connections share.
struct Shared {
    bounds: SubmissionBounds,
    host_name: String,
    users: Users,
    tls: Option<TlsAcceptor>,
    pressure: Option<Pressure>,
    counts: Arc<SubmissionCounts>,
    in_flight: AtomicU64,
    peers: Mutex<HashMap<IpAddr, u32>>,
}

/// Listeners that are bound and not yet at work.
pub struct Submission {
    listeners: Vec<(TcpListener, SocketAddr, Arc<ServerSettings>)>,
    shared: Shared,
}

impl core::fmt::Debug for Submission {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        out.debug_struct("Submission").field("addresses", &self.addresses()).finish_non_exhaustive()
    }
}

impl Submission {
    /// Binds every address of the configuration (none: there will be nothing to do). Must be called
    /// within a tokio runtime.
    ///
    /// # Errors
    /// An address that cannot be listened on, or a certificate that cannot be used.
    pub fn bind(config: &SubmissionConfig, bounds: SubmissionBounds) -> Result<Self, BindFault> {
        let tls = config.tls.as_ref().map(acceptor).transpose()?;
        let mut listeners = Vec::with_capacity(config.listen.len());
        for &wanted in &config.listen {
            let bound = listen(wanted)
                .and_then(|listener| listener.local_addr().map(|address| (listener, address)));
            let (listener, address) =
                bound.map_err(|source| BindFault::Address { address: wanted, source })?;
            let loopback = address.ip().to_canonical().is_loopback();
            let settings = settings(config, &bounds, loopback);
            listeners.push((listener, address, Arc::new(settings)));
        }
        let shared = Shared {
            bounds,
            host_name: config.hostname.as_str().to_owned(),
            users: Users::new(&config.users),
            tls,
            pressure: None,
            counts: Arc::default(),
            in_flight: AtomicU64::new(0),
            peers: Mutex::default(),
        };
        Ok(Self { listeners, shared })
    }

    /// Asks `pressure` before taking recipients; where it has something to say they get 452 4.3.1.
    #[must_use]
    pub fn with_pressure(mut self, pressure: Pressure) -> Self {
        self.shared.pressure = Some(pressure);
        self
    }

    /// The addresses that are listened on, with the ports that the system chose.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|(_, address, _)| *address).collect()
    }

    /// Figures for metrics, live.
    #[must_use]
    pub fn counts(&self) -> Arc<SubmissionCounts> {
        Arc::clone(&self.shared.counts)
    }

    /// Takes connections until `shutdown`. Then no more are taken, idle ones get 421, and those
    /// with a message in hand may finish it within the patience of the bounds. Returns when the last has
    /// ended; after it the node itself may end. Dropping this future cuts all connections.
    pub async fn run(self, intake: Intake, shutdown: CancellationToken) {
        let shared = Arc::new(self.shared);
        let tracker = TaskTracker::new();
        let cut = CancellationToken::new();
        let cut_when_dropped = cut.clone().drop_guard();
        let mut doors = JoinSet::new();
        for (listener, address, settings) in self.listeners {
            tracing::info!(%address, "listening for SMTP submission");
            let door = Door {
                listener,
                settings,
                shared: Arc::clone(&shared),
                intake: intake.clone(),
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
struct Door {
    listener: TcpListener,
    settings: Arc<ServerSettings>,
    shared: Arc<Shared>,
    intake: Intake,
    tracker: TaskTracker,
    shutdown: CancellationToken,
    cut: CancellationToken,
}

impl Door {
    /// Takes connections until the shutdown.
    async fn open(self) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.let_in(stream, peer.ip().to_canonical()),
                Err(fault) => {
                    tracing::warn!(%fault, "cannot accept an SMTP connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn let_in(&self, stream: TcpStream, peer: IpAddr) {
        let Some(place) = Place::take(&self.shared, peer) else {
            SubmissionCounts::add(&self.shared.counts.connections_refused, 1);
            tracing::info!(%peer, "turned away: too many SMTP connections");
            // As much as goes without waiting: who floods us must not cost us a task.
            let words = b"421 4.7.0 too many connections, try again later\r\n";
            let _unheard = stream.into_std().and_then(|mut stream| stream.write(words));
            return;
        };
        // Replies are written whole, so waiting for more of them would only delay.
        let _no_matter = stream.set_nodelay(true);
        let stop = self.shutdown.child_token();
        let cut = self.cut.child_token();
        let conversation = Conversation::new(
            Arc::clone(&self.shared),
            self.intake.clone(),
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

/// A connection's place among those allowed; given back when dropped.
struct Place {
    shared: Arc<Shared>,
    peer: IpAddr,
}

impl Place {
    fn take(shared: &Arc<Shared>, peer: IpAddr) -> Option<Self> {
        let peer = neighbourhood(peer);
        let mut peers = shared.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let open = shared.counts.connections_open.load(Ordering::Relaxed);
        let of_peer = peers.get(&peer).copied().unwrap_or(0);
        if open >= u64::from(shared.bounds.connections)
            || of_peer >= shared.bounds.connections_per_peer
        {
            return None;
        }
        peers.insert(peer, of_peer + 1);
        // Under the lock of the peers, so that the bound is exact.
        SubmissionCounts::add(&shared.counts.connections_open, 1);
        SubmissionCounts::add(&shared.counts.connections_accepted, 1);
        Some(Self { shared: Arc::clone(shared), peer })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut peers = self.shared.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = peers.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                peers.remove(&self.peer);
            }
        }
        self.shared.counts.connections_open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whom connections are counted for: an IPv6 site has at least a /64 of addresses.
fn neighbourhood(peer: IpAddr) -> IpAddr {
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

/// Refuses recipients while no mail can be taken, so that nobody sends content in vain.
struct Gate {
    shared: Arc<Shared>,
    intake: Intake,
}

impl Admission for Gate {
    fn refuse(&mut self, offered: &OfferedRecipient<'_>) -> Option<Reply> {
        if offered.recipient == "postmaster" {
            return Some(Reply::line(553, "5.1.3 postmaster needs a domain here"));
        }
        if let Some(why) = self.shared.pressure.as_ref().and_then(|pressure| pressure()) {
            return Some(Reply::line(452, &format!("4.3.1 {}", message::one_line(&why))));
        }
        let in_flight = self.shared.in_flight.load(Ordering::Relaxed);
        if in_flight > self.shared.bounds.octets_in_flight / 4 * 3 {
            return Some(Reply::line(452, "4.3.1 too much mail at once, try again later"));
        }
        self.intake.health().err().map(|fault| message::not_now(&fault))
    }
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

/// How a listener behaves. Whether it is on loopback is decided by what it is bound to and not by
/// who connects: behind a proxy on this machine everybody seems to be here.
fn settings(
    config: &SubmissionConfig,
    bounds: &SubmissionBounds,
    loopback: bool,
) -> ServerSettings {
    let open = loopback && !config.require_auth_on_loopback;
    let largest = (store::CONTENT_LIMIT - TRACE_OCTETS) as u64;
    ServerSettings {
        host_name: config.hostname.as_str().to_owned(),
        lmtp: false,
        starttls: config.tls.is_some(),
        tls_required: !loopback,
        auth_in_clear: loopback,
        access: if open { Access::Everybody } else { Access::Authenticated },
        limits: ServerLimits {
            message_octets: config.max_message_bytes.min(largest),
            // The limit is the first count that is refused.
            received_fields: 101,
            ..ServerLimits::default()
        },
        command_timeout: bounds.command_timeout,
        data_timeout: bounds.data_timeout,
    }
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
