//! One session with a mailbox server: the socket, TLS and the timers around a
//! [`smtp::mailbox::MailboxSession`].
//!
//! **Promise.** It returns, whatever the server does: looking up the name, connecting, the handshake,
//! each write and each reply are bounded, and so is the whole. A message is handed on as durable only
//! after the folder has said so.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use smtp::imap::ImapSession;
use smtp::mailbox::{
    FetchEnd, FetchEvent, FetchSettings, FetchedMessage, MailboxSession, Protection,
};
use smtp::pop3::Pop3Session;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::folder::Folder;
use super::origin::{Origin, Way};
use crate::config::{MailboxConfig, MailboxProtocol, TargetPolicy};
use crate::smtp_client::TlsClients;

/// Octets read at once.
const READ_OCTETS: usize = 16_384;
/// Addresses of a server that are tried.
const MOST_ADDRESSES: usize = 8;

/// The time that the parts of a session may take which its configuration does not state.
#[derive(Clone, Copy, Debug)]
pub struct SessionBounds {
    /// Looking up the server's name.
    pub lookup_timeout: Duration,
    /// Connecting to one of its addresses.
    pub connect_timeout: Duration,
    /// The TLS handshake.
    pub handshake_timeout: Duration,
    /// One write.
    pub write_timeout: Duration,
    /// How long a session may go on after the shutdown began.
    pub shutdown_patience: Duration,
}

impl Default for SessionBounds {
    /// 30 s for the beginnings, 1 minute for a write, 5 s at the end.
    fn default() -> Self {
        Self {
            lookup_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(30),
            handshake_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
            shutdown_patience: Duration::from_secs(5),
        }
    }
}

/// Where and how a session is held.
pub(super) struct Site<'a> {
    pub(super) mailbox: &'a MailboxConfig,
    pub(super) tls: &'a TlsClients,
    pub(super) safety: &'a TargetPolicy,
    pub(super) bounds: SessionBounds,
    pub(super) folder: &'a Folder,
}

/// The connection.
enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Wire {
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer).await,
            Self::Tls(stream) => stream.read(buffer).await,
        }
    }

    async fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(octets).await,
            Self::Tls(stream) => {
                stream.write_all(octets).await?;
                stream.flush().await
            }
        }
    }

    async fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.shutdown().await,
            Self::Tls(stream) => stream.shutdown().await,
        }
    }
}

/// Holds one session.
///
/// # Errors
/// Why there was none, for people.
pub(super) async fn hold(
    site: &Site<'_>,
    settings: FetchSettings,
    stop: &CancellationToken,
) -> Result<FetchEnd, String> {
    let (stream, address) = connect(site).await?;
    let mut wire = Wire::Plain(stream);
    if settings.protection == Protection::Tls {
        wire = handshake(site, wire, address).await?;
    }
    let now = site.folder.now();
    match site.mailbox.protocol {
        MailboxProtocol::Pop3 => {
            let session = Pop3Session::new(settings, now);
            drive(site, session, wire, address, Way::Pop3, stop).await
        }
        MailboxProtocol::Imap => {
            let session = ImapSession::new(settings, now);
            drive(site, session, wire, address, Way::Imap, stop).await
        }
    }
}

/// Connects to the first address that answers.
async fn connect(site: &Site<'_>) -> Result<(TcpStream, SocketAddr), String> {
    let MailboxConfig { server, port, .. } = site.mailbox;
    let looking = tokio::net::lookup_host((server.as_str(), *port));
    let addresses = timeout(site.bounds.lookup_timeout, looking)
        .await
        .map_err(|_| format!("looking up {server} took too long"))?
        .map_err(|fault| format!("cannot look up {server}: {fault}"))?;
    let mut last = format!("{server} has no address");
    for address in addresses.take(MOST_ADDRESSES) {
        if let Err(refused) = site.safety.check_relay(address.ip()) {
            last = refused.to_string();
            continue;
        }
        match timeout(site.bounds.connect_timeout, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Commands are written whole, so waiting for more of them would only delay.
                let _no_matter = stream.set_nodelay(true);
                return Ok((stream, address));
            }
            Ok(Err(fault)) => last = format!("cannot connect to {server} at {address}: {fault}"),
            Err(_) => last = format!("{server} at {address} does not answer"),
        }
    }
    Err(last)
}

async fn handshake(site: &Site<'_>, wire: Wire, address: SocketAddr) -> Result<Wire, String> {
    let Wire::Plain(stream) = wire else { return Err("there is no connection".into()) };
    let MailboxConfig { server, tls_verify, .. } = site.mailbox;
    let shaking = site.tls.handshake(stream, server, address.ip(), *tls_verify);
    match timeout(site.bounds.handshake_timeout, shaking).await {
        Ok(Ok((stream, _))) => Ok(Wire::Tls(Box::new(stream))),
        Ok(Err(fault)) => Err(format!("TLS with {server} fails: {fault}")),
        Err(_) => Err(format!("the TLS handshake with {server} took too long")),
    }
}

/// Speaks with the server until the end.
async fn drive<S: MailboxSession>(
    site: &Site<'_>,
    mut session: S,
    mut wire: Wire,
    address: SocketAddr,
    way: Way,
    stop: &CancellationToken,
) -> Result<FetchEnd, String> {
    let mut buffer = vec![0; READ_OCTETS].into_boxed_slice();
    // When a session that is to end has had its time.
    let mut cut_at = None;
    loop {
        while let Some(octets) = session.next_to_send() {
            let write = timeout(site.bounds.write_timeout, wire.write(&octets)).await;
            if !matches!(write, Ok(Ok(()))) {
                session.connection_lost();
            }
        }
        match session.poll_event() {
            Some(FetchEvent::StartTls) => {
                wire = handshake(site, wire, address).await?;
                session.tls_established(site.folder.now());
            }
            Some(FetchEvent::Message(message)) => {
                let kept = keep(site, message, way).await;
                session.message_kept(site.folder.now(), kept);
            }
            Some(FetchEvent::Closed(end)) => {
                let _parted = timeout(site.bounds.write_timeout, wire.shutdown()).await;
                return Ok(end);
            }
            None => {
                let wait = session.deadline().since(site.folder.now());
                let told_to_stop = async {
                    match cut_at {
                        None => stop.cancelled().await,
                        Some(at) => tokio::time::sleep_until(at).await,
                    }
                };
                tokio::select! {
                    biased;
                    read = timeout(wait, wire.read(&mut buffer)) => match read {
                        Ok(Ok(count @ 1..)) => session.receive(site.folder.now(), &buffer[..count]),
                        Ok(_) => session.connection_lost(),
                        Err(_) => session.tick(site.folder.now()),
                    },
                    () = told_to_stop => {
                        // What was kept and is not deleted yet comes again; it is known here.
                        if cut_at.is_some() {
                            session.connection_lost();
                        }
                        cut_at = Some(Instant::now() + site.bounds.shutdown_patience);
                        session.finish();
                    }
                }
            }
        }
    }
}

/// Keeps a message; `false`: it could not be kept.
async fn keep(site: &Site<'_>, message: FetchedMessage, way: Way) -> bool {
    let origin =
        Origin { way, from: site.mailbox.name.clone(), cut: !message.whole, ..Origin::default() };
    match site.folder.keep(origin, message.octets).await {
        Ok(_) => true,
        Err(fault) => {
            tracing::warn!(mailbox = site.mailbox.name, %fault, "a message stays in its mailbox");
            false
        }
    }
}
