//! The running lab: its threads, its listeners, and the handle by which it is watched and changed.
//!
//! The lab serves on threads of its own, each with its own single-threaded runtime, so it neither
//! borrows time from the runtime of the engine under judgement nor lends it any. A connection stays
//! on one thread for life; new ones are dealt out in turn. Dropping the [`Lab`] ends the threads and with them
//! every connection.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::config::{DnsFaults, LabConfig};
use crate::connection::{Carrier, Entry};
use crate::dns;
use crate::mood::Mood;
use crate::recorder::{Recorder, SourceRecord};
use crate::report::{Counts, Report, ReturnReport};
use crate::returns::Returns;
use crate::session::{Session, World};
use crate::site::Site;

/// Ports tried when one is wanted that is free on every address.
const PORT_TRIES: usize = 64;
const BACKLOG: i32 = 1_024;
/// How often, and how long each time, octets that may be a farewell are given time to be read.
const FAREWELL_TRIES: usize = 10;
const FAREWELL_WAIT: Duration = Duration::from_millis(2);

/// A running lab.
pub struct Lab {
    dns_address: SocketAddr,
    port: u16,
    world: Arc<World>,
    dns: Arc<dns::Server>,
    names: Vec<String>,
    sites: Vec<Arc<Site>>,
    lanes: Vec<Lane>,
}

/// One serving thread.
struct Lane {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Lab {
    /// Starts a lab: when this returns, its DNS answers and its ports are open.
    ///
    /// # Errors
    /// The configuration is at fault; a port is taken; no port is free on all addresses; the
    /// journal cannot be opened; threads cannot be started.
    pub fn start(config: LabConfig) -> anyhow::Result<Self> {
        config.check()?;
        let recorder = Recorder::new(&config)?;
        let (dns_udp, dns_tcp) = dns::bind(config.dns)
            .with_context(|| format!("cannot open the DNS at {}", config.dns))?;
        let dns_address = dns_udp.local_addr()?;
        let (port, listeners) = open_ports(&config)?;
        let sites: Vec<Arc<Site>> = config
            .providers
            .iter()
            .enumerate()
            .map(|(index, provider)| Arc::new(Site::new(index, provider, &config)))
            .collect();
        let returns = config.returns.clone().map(|returns| Arc::new(Returns::new(returns)));
        let mut lab = Self {
            dns_address,
            port,
            world: Arc::new(World { recorder, inspect: config.inspect_data, returns }),
            dns: Arc::new(dns::Server::new(&config)),
            names: config.providers.iter().map(|provider| provider.name.clone()).collect(),
            sites,
            lanes: start_lanes(config.threads)?,
        };
        lab.serve_dns(dns_udp, dns_tcp)?;
        if let Some(returns) = &lab.world.returns {
            lab.lanes[0].handle.spawn(Arc::clone(returns).carry());
        }
        lab.serve_mx(&config, listeners);
        Ok(lab)
    }

    fn serve_dns(
        &mut self,
        udp: std::net::UdpSocket,
        tcp: std::net::TcpListener,
    ) -> anyhow::Result<()> {
        let handle = &self.lanes[0].handle;
        let (udp, tcp) = {
            let _inside = handle.enter();
            (tokio::net::UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?)
        };
        handle.spawn(dns::serve_udp(Arc::clone(&self.dns), udp));
        handle.spawn(dns::serve_tcp(Arc::clone(&self.dns), tcp));
        Ok(())
    }

    fn serve_mx(&mut self, config: &LabConfig, listeners: Vec<Port>) {
        let shared = Arc::new(Reception {
            world: Arc::clone(&self.world),
            lanes: self.lanes.iter().map(|lane| lane.handle.clone()).collect(),
            next: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            most: config.max_connections,
            idle: config.idle_timeout.0,
        });
        for (place, port) in listeners.into_iter().enumerate() {
            let lane = place % self.lanes.len();
            let site = Arc::clone(&self.sites[port.provider]);
            let reception = Arc::clone(&shared);
            self.lanes[lane].handle.spawn(reception.attend(site, port, lane));
        }
    }

    /// Where the DNS server listens, UDP and TCP.
    #[must_use]
    pub const fn dns_address(&self) -> SocketAddr {
        self.dns_address
    }

    /// The port of all MX hosts.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// What was seen so far.
    #[must_use]
    pub fn report(&self) -> Report {
        let mut report = self.world.recorder.report(self.dns.report());
        report.returns = self.returns();
        report
    }

    /// The sums of what was seen so far; quick enough to be asked for every few milliseconds.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.world.recorder.counts()
    }

    /// What was sent back so far; quicker than the whole report.
    #[must_use]
    pub fn returns(&self) -> ReturnReport {
        self.world.returns.as_ref().map(|returns| returns.report()).unwrap_or_default()
    }

    /// The mood in force at a provider.
    #[must_use]
    pub fn mood(&self, provider: &str) -> Option<Mood> {
        let site = self.site(provider)?;
        let mood = site.mood();
        let mood = mood.borrow();
        Some(Mood::clone(&mood))
    }

    /// Exchanges the mood of a provider. Open connections take it up with their next command,
    /// except for the pace (`latency`, `slow`, `round_trip`), which new connections have.
    ///
    /// # Errors
    /// No such provider, or the mood contradicts itself.
    pub fn set_mood(&self, provider: &str, mood: Mood) -> anyhow::Result<()> {
        let Some(site) = self.site(provider) else { bail!("the lab has no provider `{provider}`") };
        mood.check().map_err(|fault| anyhow::anyhow!("mood of `{provider}`: {fault}"))?;
        site.set_mood(mood);
        Ok(())
    }

    /// Exchanges the faults of the DNS server.
    ///
    /// # Errors
    /// A share outside 0..=1.
    pub fn set_dns_faults(&self, faults: DnsFaults) -> anyhow::Result<()> {
        faults.check()?;
        self.dns.set_faults(faults);
        Ok(())
    }

    /// Counts each RCPT command for one of these addresses from now on: somebody has promised not to write to them. They
    /// come on top of those named before; 8 octets are kept of each.
    pub fn watch_for<'a>(&self, addresses: impl IntoIterator<Item = &'a str>) {
        self.world.recorder.forbid(addresses.into_iter());
    }

    /// Ends the lab and returns what it saw. Open connections are cut. Blocks for some milliseconds.
    #[must_use]
    pub fn stop(mut self) -> Report {
        self.end_lanes();
        self.report()
    }

    fn site(&self, provider: &str) -> Option<&Arc<Site>> {
        let place = self.names.iter().position(|name| name == provider)?;
        self.sites.get(place)
    }

    fn end_lanes(&mut self) {
        for lane in &mut self.lanes {
            if let Some(stop) = lane.stop.take() {
                // The thread may have ended by itself; then there is nobody to tell.
                let _ = stop.send(());
            }
        }
        for lane in &mut self.lanes {
            if let Some(thread) = lane.thread.take()
                && thread.join().is_err()
            {
                tracing::error!("a thread of the lab has panicked; its report may be incomplete");
            }
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.end_lanes();
    }
}

fn start_lanes(threads: usize) -> anyhow::Result<Vec<Lane>> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let count = if threads == 0 { cores.min(4) } else { threads };
    (0..count).map(|number| start_lane(number).context("cannot start a thread")).collect()
}

fn start_lane(number: usize) -> anyhow::Result<Lane> {
    let (stop, stopped) = oneshot::channel();
    let (tell, told) = mpsc::channel();
    let thread = std::thread::Builder::new().name(format!("lab-{number}")).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => {
                // The starter waits for this message; it cannot have gone.
                let _ = tell.send(Ok(runtime.handle().clone()));
                // Both a message and a dropped sender mean the end.
                let _ = runtime.block_on(stopped);
            }
            Err(fault) => {
                let _ = tell.send(Err(fault));
            }
        }
    })?;
    let handle = told.recv().context("the thread ended at once")??;
    Ok(Lane { handle, stop: Some(stop), thread: Some(thread) })
}

/// An open port of an MX host.
struct Port {
    provider: usize,
    host: Arc<str>,
    address: SocketAddrV4,
    listener: std::net::TcpListener,
}

/// Opens the port on every address of every host; with port 0, one that is free on all of them.
fn open_ports(config: &LabConfig) -> anyhow::Result<(u16, Vec<Port>)> {
    let mut known = BTreeSet::new();
    let mut wanted: Vec<(usize, Arc<str>, Ipv4Addr)> = Vec::new();
    for (index, provider) in config.providers.iter().enumerate() {
        for mx in &provider.mx {
            let host: Arc<str> = Arc::from(mx.host.as_str());
            for address in &mx.addresses {
                // An address that several hosts share greets with the name of the first.
                if known.insert(*address) {
                    wanted.push((index, Arc::clone(&host), *address));
                }
            }
        }
    }
    let mut port = config.port;
    let mut last = None;
    for _ in 0..PORT_TRIES {
        match open_all(&wanted, port) {
            Ok(ports) => {
                let port = ports.first().map_or(port, |first| first.address.port());
                return Ok((port, ports));
            }
            Err((address, fault)) if config.port != 0 => {
                return Err(fault).with_context(|| format!("cannot open {address}"));
            }
            Err((_, fault)) => last = Some(fault),
        }
        port = 0;
    }
    let fault = last.unwrap_or_else(|| std::io::ErrorKind::AddrInUse.into());
    Err(fault).context("found no port that is free on all addresses of the MX hosts")
}

fn open_all(
    wanted: &[(usize, Arc<str>, Ipv4Addr)],
    port: u16,
) -> Result<Vec<Port>, (SocketAddrV4, std::io::Error)> {
    let mut ports = Vec::with_capacity(wanted.len());
    let mut port = port;
    for (provider, host, address) in wanted {
        let address = SocketAddrV4::new(*address, port);
        let listener = listen(address).map_err(|fault| (address, fault))?;
        port = listener.local_addr().map_err(|fault| (address, fault))?.port();
        let address = SocketAddrV4::new(*address.ip(), port);
        ports.push(Port { provider: *provider, host: Arc::clone(host), address, listener });
    }
    Ok(ports)
}

fn listen(address: SocketAddrV4) -> std::io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    // Without it a lab could not be started again on its port while old connections linger.
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::V4(address).into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// What all listeners share.
struct Reception {
    world: Arc<World>,
    lanes: Vec<Handle>,
    next: AtomicU64,
    open: AtomicUsize,
    most: usize,
    idle: Duration,
}

impl Reception {
    /// Attends to one port: accepts while the mood lets it, closes it while the mood refuses.
    async fn attend(self: Arc<Self>, site: Arc<Site>, port: Port, lane: usize) {
        let mut moods = site.mood();
        let Port { host, address, listener, .. } = port;
        let mut listener = TcpListener::from_std(listener).ok();
        loop {
            let refuses = moods.borrow_and_update().refuse_connection;
            if refuses {
                listener = None;
                if moods.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let Some(open) = &listener else {
                match listen(address).and_then(TcpListener::from_std) {
                    Ok(again) => listener = Some(again),
                    Err(fault) => {
                        tracing::warn!(%address, %fault, "cannot open the port again yet");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
                continue;
            };
            tokio::select! {
                accepted = open.accept() => match accepted {
                    Ok((stream, peer)) => self.receive(&site, &host, stream, peer.ip(), lane),
                    // Out of descriptors, mostly: trying again at once would only burn time.
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                },
                changed = moods.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Takes in a new connection and hands it to the lane whose turn it is.
    fn receive(
        self: &Arc<Self>,
        site: &Arc<Site>,
        host: &Arc<str>,
        stream: TcpStream,
        peer: IpAddr,
        lane: usize,
    ) {
        if self.open.load(Ordering::Relaxed) >= self.most {
            return;
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let record = self.world.recorder.source(site.index, peer);
        let limit = self.limit(site);
        let handle = limit.and_then(|_| stream.as_fd().try_clone_to_owned().ok());
        let at_open = record.open(id, handle.map(std::net::TcpStream::from));
        let entry = Entry::new(Arc::clone(&record), id);
        let _ = stream.set_nodelay(true);
        self.open.fetch_add(1, Ordering::Relaxed);
        let place = Place(Arc::clone(self));
        let carrier = Carrier {
            world: Arc::clone(&self.world),
            site: Arc::clone(site),
            idle: self.idle,
            entry,
        };
        let (site, host) = (Arc::clone(site), Arc::clone(host));
        let session =
            Session::new(Arc::clone(&self.world), site, Arc::clone(&record), host, peer, id);
        let serve = async move |stream: TcpStream| {
            let standing = standing(&record, at_open, limit).await;
            record.settle(standing);
            let most = session.mood().max_connections.map(u64::from);
            let crowded = most.is_some_and(|most| standing > most);
            carrier.carry(stream, session, crowded).await;
            drop(place);
        };
        let chosen = usize::try_from(id).unwrap_or(0) % self.lanes.len();
        if chosen == lane {
            self.lanes[lane].spawn(async move { serve(stream).await });
        } else if let Ok(stream) = stream.into_std() {
            self.lanes[chosen].spawn(async move {
                // It fails only when the runtime is at its end, and the connection with it.
                if let Ok(stream) = TcpStream::from_std(stream) {
                    serve(stream).await;
                }
            });
        }
    }

    /// The smallest connection limit that has to be judged at a site.
    fn limit(&self, site: &Site) -> Option<u32> {
        let mood = site.mood().borrow().max_connections;
        let promised = self.world.recorder.promised_connections(site.index);
        mood.into_iter().chain(promised).min()
    }
}

/// How many connections stand open, giving those that may be leaving the time to do so.
async fn standing(record: &SourceRecord, at_open: u64, limit: Option<u32>) -> u64 {
    let mut standing = record.standing(at_open, limit);
    for _ in 0..FAREWELL_TRIES {
        let doubtful =
            standing.undecided > 0 && limit.is_some_and(|limit| standing.open > u64::from(limit));
        if !doubtful {
            break;
        }
        tokio::time::sleep(FAREWELL_WAIT).await;
        standing = record.standing(at_open, limit);
    }
    standing.open
}

/// One of the connections that the lab holds open.
struct Place(Arc<Reception>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
