//! The DNS of the lab: one authoritative server for every name that its configuration knows.
//!
//! It answers MX (with the hosts' A records beside), A, AAAA (always without data: the lab has
//! IPv4 only), TXT, PTR and CNAME, over UDP and TCP, with EDNS sizes and truncation. A name that
//! exists without the asked type gives NODATA, any other NXDOMAIN, both with a SOA (RFC 2308).
//! Answers depend on the configuration alone, so they need no lock. Faults are switchable.
//!
//! Bounded: 256 TCP connections, 1,024 delayed answers; a query that cannot be read gets FORMERR if its
//! header can be read and silence otherwise.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, MX, PTR, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use crate::chance::{falls_within, mix};
use crate::config::{DnsFaults, LabConfig};
use crate::report::DnsReport;

/// The largest answer over UDP, whatever the client offers (no fragments on a real line).
const LARGEST_UDP_ANSWER: usize = 1_232;
const TCP_IDLE: Duration = Duration::from_secs(10);
const MOST_ALIASES: usize = 8;

/// What is known of a name.
#[derive(Clone, Debug, Default)]
struct Entry {
    ttl: u32,
    mx: Vec<(u16, String)>,
    addresses: Vec<Ipv4Addr>,
    texts: Vec<String>,
    alias: Option<String>,
    pointer: Option<String>,
    servfail: bool,
}

/// All that the server knows, fixed when the lab starts.
#[derive(Debug)]
pub(crate) struct Zone {
    names: HashMap<String, Entry>,
    /// Suffixes of wildcard domains, without the star, with what each name below them has.
    suffixes: HashMap<String, Entry>,
    absent: HashSet<String>,
    negative_ttl: u32,
}

impl Zone {
    /// The zone of a checked configuration.
    pub(crate) fn new(config: &LabConfig) -> Self {
        let mut zone = Self {
            names: HashMap::new(),
            suffixes: HashMap::new(),
            absent: config.nxdomain.iter().map(|name| name.to_ascii_lowercase()).collect(),
            negative_ttl: config.negative_ttl,
        };
        for provider in &config.providers {
            let ttl = provider.ttl.unwrap_or(config.ttl);
            for mx in &provider.mx {
                zone.entry(&mx.host, ttl).addresses.clone_from(&mx.addresses);
            }
            for domain in &provider.domains {
                let hosts: Vec<(u16, String)> =
                    provider.hosts_of(domain).map(|mx| (mx.preference, mx.host.clone())).collect();
                match domain.strip_prefix("*.") {
                    Some(suffix) => {
                        let entry = Entry { ttl, mx: hosts, ..Entry::default() };
                        zone.suffixes.insert(suffix.to_ascii_lowercase(), entry);
                    }
                    None => zone.entry(domain, ttl).mx = hosts,
                }
            }
            for domain in &provider.implicit_mx {
                if let Some(first) = provider.mx.first() {
                    zone.entry(domain, ttl).addresses.clone_from(&first.addresses);
                }
            }
        }
        for domain in &config.null_mx {
            zone.entry(domain, config.ttl).mx = vec![(0, String::new())];
        }
        for name in &config.servfail {
            zone.entry(name, config.ttl).servfail = true;
        }
        for alias in &config.cname {
            zone.entry(&alias.name, config.ttl).alias = Some(alias.target.to_ascii_lowercase());
        }
        for source in &config.source {
            zone.entry(&source.name, config.ttl).addresses.push(source.address);
            let [a, b, c, d] = source.address.octets();
            let reverse = format!("{d}.{c}.{b}.{a}.in-addr.arpa");
            zone.entry(&reverse, config.ttl).pointer = Some(source.name.clone());
        }
        for record in &config.txt {
            zone.entry(&record.name, config.ttl).texts.push(record.text.clone());
        }
        zone
    }

    fn entry(&mut self, name: &str, ttl: u32) -> &mut Entry {
        let entry = self.names.entry(name.to_ascii_lowercase()).or_default();
        entry.ttl = ttl;
        entry
    }

    fn find(&self, name: &str) -> Option<&Entry> {
        if self.absent.contains(name) {
            return None;
        }
        if let Some(entry) = self.names.get(name) {
            return Some(entry);
        }
        let mut rest = name;
        while let Some((_, suffix)) = rest.split_once('.') {
            if let Some(entry) = self.suffixes.get(suffix) {
                return Some(entry);
            }
            rest = suffix;
        }
        None
    }

    /// Fills `answer` for one question.
    fn answer(&self, query: &Query, answer: &mut Message) {
        let mut owner = query.name().clone();
        for _ in 0..=MOST_ALIASES {
            let key = plain(&owner);
            let Some(entry) = self.find(&key) else {
                answer.metadata.response_code = ResponseCode::NXDomain;
                break;
            };
            if entry.servfail {
                answer.metadata.response_code = ResponseCode::ServFail;
                answer.answers.clear();
                return;
            }
            if let Some(target) = entry.alias.as_deref().and_then(name_of) {
                let data = RData::CNAME(CNAME(target.clone()));
                answer.add_answer(Record::from_rdata(owner, entry.ttl, data));
                if query.query_type() == RecordType::CNAME {
                    return;
                }
                owner = target;
                continue;
            }
            if self.records(&owner, entry, query.query_type(), answer) {
                return;
            }
            break;
        }
        answer.add_authority(self.start_of_authority(&owner));
    }

    /// Adds the records of one type. False when there are none.
    fn records(&self, owner: &Name, entry: &Entry, kind: RecordType, answer: &mut Message) -> bool {
        let before = answer.answers.len();
        let any = kind == RecordType::ANY;
        let mut add = |data: RData| {
            answer.answers.push(Record::from_rdata(owner.clone(), entry.ttl, data));
        };
        if any || kind == RecordType::A {
            entry.addresses.iter().for_each(|address| add(RData::A(A(*address))));
        }
        if any || kind == RecordType::TXT {
            for text in &entry.texts {
                let parts = text.as_bytes().chunks(255).collect();
                add(RData::TXT(TXT::from_bytes(parts)));
            }
        }
        if any || kind == RecordType::PTR {
            entry.pointer.as_deref().and_then(name_of).into_iter().for_each(|name| {
                add(RData::PTR(PTR(name)));
            });
        }
        if any || kind == RecordType::MX {
            let hosts: Vec<(u16, Name)> = entry
                .mx
                .iter()
                .filter_map(|(preference, host)| Some((*preference, name_of(host)?)))
                .collect();
            for (preference, host) in &hosts {
                add(RData::MX(MX::new(*preference, host.clone())));
            }
            for (_, host) in hosts {
                let Some(found) = self.names.get(&plain(&host)) else { continue };
                for address in &found.addresses {
                    let data = RData::A(A(*address));
                    answer.add_additional(Record::from_rdata(host.clone(), found.ttl, data));
                }
            }
        }
        answer.answers.len() > before
    }

    fn start_of_authority(&self, name: &Name) -> Record {
        // The zone cut of a real name is not known here; two labels are where most of them are.
        let apex = if name.num_labels() > 2 { name.trim_to(2) } else { name.clone() };
        let server = name_of("ns.lab.invalid").unwrap_or_else(Name::root);
        let person = name_of("hostmaster.lab.invalid").unwrap_or_else(Name::root);
        let soa = SOA::new(server, person, 1, 7_200, 900, 1_209_600, self.negative_ttl);
        Record::from_rdata(apex, self.negative_ttl, RData::SOA(soa))
    }
}

/// A name as key: lower case, no final dot.
fn plain(name: &Name) -> String {
    let mut text = name.to_ascii();
    text.make_ascii_lowercase();
    if text.ends_with('.') {
        text.pop();
    }
    text
}

fn name_of(text: &str) -> Option<Name> {
    if text.is_empty() {
        return Some(Name::root());
    }
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// What both transports share.
pub(crate) struct Server {
    zone: Zone,
    faults: RwLock<DnsFaults>,
    seed: u64,
    received: AtomicU64,
    over_tcp: AtomicU64,
    answered: AtomicU64,
    dropped: AtomicU64,
    no_such_name: AtomicU64,
    malformed: AtomicU64,
    by_mx: AtomicU64,
    by_address: AtomicU64,
}

impl Server {
    /// A server for this configuration.
    pub(crate) fn new(config: &LabConfig) -> Self {
        Self {
            zone: Zone::new(config),
            faults: RwLock::new(config.dns_faults),
            seed: config.seed,
            received: AtomicU64::new(0),
            over_tcp: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            no_such_name: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
            by_mx: AtomicU64::new(0),
            by_address: AtomicU64::new(0),
        }
    }

    /// The faults in force.
    fn faults(&self) -> DnsFaults {
        *self.faults.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Exchanges the faults in force.
    pub(crate) fn set_faults(&self, faults: DnsFaults) {
        *self.faults.write().unwrap_or_else(std::sync::PoisonError::into_inner) = faults;
    }

    /// The counts so far.
    pub(crate) fn report(&self) -> DnsReport {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        DnsReport {
            queries: read(&self.received),
            queries_over_tcp: read(&self.over_tcp),
            queries_for_mx: read(&self.by_mx),
            queries_for_addresses: read(&self.by_address),
            answered: read(&self.answered),
            dropped: read(&self.dropped),
            no_such_name: read(&self.no_such_name),
            malformed: read(&self.malformed),
        }
    }

    /// The answer to a query, or nothing when there is none to give. `largest` is the most that
    /// the transport can carry without an offer of the client; `None` means no bound (TCP).
    fn respond(&self, query: &[u8], largest: Option<usize>, faults: DnsFaults) -> Option<Vec<u8>> {
        self.received.fetch_add(1, Ordering::Relaxed);
        let Ok(request) = Message::from_vec(query) else {
            self.malformed.fetch_add(1, Ordering::Relaxed);
            return format_error(query);
        };
        if request.metadata.message_type != MessageType::Query {
            self.malformed.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let mut answer = Message::response(request.metadata.id, request.metadata.op_code);
        answer.metadata = Metadata::response_from_request(&request.metadata);
        answer.metadata.authoritative = true;
        answer.queries.clone_from(&request.queries);
        match request.queries.as_slice() {
            _ if request.metadata.op_code != OpCode::Query => {
                answer.metadata.response_code = ResponseCode::NotImp;
            }
            [_] if faults.servfail => answer.metadata.response_code = ResponseCode::ServFail,
            [query] => {
                match query.query_type() {
                    RecordType::MX => self.by_mx.fetch_add(1, Ordering::Relaxed),
                    RecordType::A | RecordType::AAAA => {
                        self.by_address.fetch_add(1, Ordering::Relaxed)
                    }
                    _ => 0,
                };
                self.zone.answer(query, &mut answer);
                if answer.metadata.response_code == ResponseCode::NXDomain {
                    self.no_such_name.fetch_add(1, Ordering::Relaxed);
                }
            }
            _ => answer.metadata.response_code = ResponseCode::FormErr,
        }
        let mut room = largest;
        if let Some(offer) = &request.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(1_232);
            answer.set_edns(edns);
            let offered = usize::from(offer.max_payload());
            room = room.map(|least| offered.clamp(least, LARGEST_UDP_ANSWER));
        }
        let mut octets = answer.to_vec().ok()?;
        if let Some(room) = room {
            // Addresses beside an MX are a courtesy; their lack is no truncation (RFC 2181, 9).
            if octets.len() > room && !answer.additionals.is_empty() {
                answer.additionals.clear();
                octets = answer.to_vec().ok()?;
            }
            if octets.len() > room || faults.truncate {
                octets = answer.truncate().to_vec().ok()?;
            }
        }
        self.answered.fetch_add(1, Ordering::Relaxed);
        Some(octets)
    }
}

/// FORMERR for a query whose header at least could be read (RFC 1035 section 4.1.1).
fn format_error(query: &[u8]) -> Option<Vec<u8>> {
    let header = query.get(..12)?;
    let is_response = header[2] & 0x80 != 0;
    if is_response {
        return None;
    }
    let id = u16::from_be_bytes([header[0], header[1]]);
    let mut answer = Message::response(id, OpCode::Query);
    answer.metadata.response_code = ResponseCode::FormErr;
    answer.to_vec().ok()
}

/// Serves UDP until the task is dropped.
pub(crate) async fn serve_udp(server: Arc<Server>, socket: UdpSocket) {
    let socket = Arc::new(socket);
    let delayed = Arc::new(Semaphore::new(1_024));
    let mut buffer = vec![0u8; 4_096];
    let mut count = 0u64;
    loop {
        // An ICMP "port unreachable" of an earlier answer surfaces here; it concerns nobody else.
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
            tokio::task::yield_now().await;
            continue;
        };
        count += 1;
        let faults = server.faults();
        if falls_within(mix(server.seed ^ count), faults.drop_share) {
            server.received.fetch_add(1, Ordering::Relaxed);
            server.dropped.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let Some(mut answer) = server.respond(&buffer[..length], Some(512), faults) else {
            continue;
        };
        if falls_within(mix(server.seed ^ !count), faults.wrong_id_share) {
            answer[1] ^= 0x55;
        }
        let Some(delay) = faults.delay else {
            let _ = socket.send_to(&answer, peer).await;
            continue;
        };
        if let Ok(place) = Arc::clone(&delayed).try_acquire_owned() {
            let socket = Arc::clone(&socket);
            tokio::spawn(async move {
                tokio::time::sleep(delay.0).await;
                let _ = socket.send_to(&answer, peer).await;
                drop(place);
            });
        }
    }
}

/// Serves TCP until the task is dropped.
pub(crate) async fn serve_tcp(server: Arc<Server>, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(256));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            // A client that goes away in the middle is its own affair.
            let _ = serve_stream(&server, stream).await;
            drop(place);
        });
    }
}

async fn serve_stream(server: &Server, mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let length = tokio::time::timeout(TCP_IDLE, stream.read_u16()).await??;
        let mut query = vec![0u8; usize::from(length)];
        tokio::time::timeout(TCP_IDLE, stream.read_exact(&mut query)).await??;
        server.over_tcp.fetch_add(1, Ordering::Relaxed);
        let faults = server.faults();
        if let Some(delay) = faults.delay {
            tokio::time::sleep(delay.0).await;
        }
        let Some(answer) = server.respond(&query, None, faults) else { return Ok(()) };
        let Ok(length) = u16::try_from(answer.len()) else { return Ok(()) };
        let mut framed = Vec::with_capacity(answer.len() + 2);
        framed.extend_from_slice(&length.to_be_bytes());
        framed.extend_from_slice(&answer);
        tokio::time::timeout(TCP_IDLE, stream.write_all(&framed)).await??;
    }
}

/// The UDP and TCP sockets of one address; with port 0, one that is free for both.
///
/// # Errors
/// The port is taken, or none could be found that is free for both.
pub(crate) fn bind(
    address: SocketAddr,
) -> std::io::Result<(std::net::UdpSocket, std::net::TcpListener)> {
    let mut last = None;
    for _ in 0..32 {
        let udp = std::net::UdpSocket::bind(address)?;
        match std::net::TcpListener::bind(udp.local_addr()?) {
            Ok(tcp) => {
                udp.set_nonblocking(true)?;
                tcp.set_nonblocking(true)?;
                return Ok((udp, tcp));
            }
            Err(fault) if address.port() != 0 => return Err(fault),
            Err(fault) => last = Some(fault),
        }
    }
    Err(last.unwrap_or_else(|| std::io::ErrorKind::AddrInUse.into()))
}

#[cfg(test)]
mod tests;
