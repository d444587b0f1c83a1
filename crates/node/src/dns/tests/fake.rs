//! A name server on loopback that says what its zone tells it to, also what no server should.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, NS, PTR, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};

/// What a question is answered with.
#[derive(Clone, Debug, Default)]
struct Reply {
    /// TTL and data; owner where it is not the name asked for.
    records: Vec<(Option<Name>, u32, RData)>,
    /// `!` words of the zone, with their arguments.
    moods: Vec<(String, String)>,
}

/// A running server.
pub(crate) struct FakeServer {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    zone: Mutex<HashMap<(String, RecordType), Reply>>,
    asked: Mutex<Vec<String>>,
    /// Questions being answered, and the most there ever were.
    open: AtomicUsize,
    most_open: AtomicUsize,
}

fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}

/// Reads lines `name TTL TYPE data` and `name TYPE !mood [argument]`.
fn read_zone(text: &str) -> HashMap<(String, RecordType), Reply> {
    let mut zone: HashMap<_, Reply> = HashMap::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let Some(mood) = words[2].strip_prefix('!') {
            let kind = words[1].parse().unwrap();
            let argument = words.get(3).copied().unwrap_or_default().to_owned();
            let reply = zone.entry((words[0].to_owned(), kind)).or_default();
            reply.moods.push((mood.to_owned(), argument));
            continue;
        }
        let data = words[3..].join(" ");
        let (kind, data) = match words[2] {
            "A" => (RecordType::A, RData::A(A(data.parse().unwrap()))),
            "AAAA" => (RecordType::AAAA, RData::AAAA(AAAA(data.parse().unwrap()))),
            "PTR" => (RecordType::PTR, RData::PTR(PTR(name(&data)))),
            "TXT" => {
                let parts = data.split('|').map(str::to_owned).collect();
                (RecordType::TXT, RData::TXT(TXT::new(parts)))
            }
            "CNAME" => (RecordType::CNAME, RData::CNAME(CNAME(name(&data)))),
            "MX" => {
                let target = name(words[4]);
                (RecordType::MX, RData::MX(MX::new(words[3].parse().unwrap(), target)))
            }
            other => panic!("{other} is not served"),
        };
        let ttl = words[1].parse().unwrap();
        zone.entry((words[0].to_owned(), kind)).or_default().records.push((None, ttl, data));
    }
    zone
}

impl FakeServer {
    /// Starts a server with a zone on a free port of 127.0.0.1.
    pub(crate) async fn start(zone: &str) -> Self {
        // TCP first: its ports are scarcer. A UDP port that is taken by chance is tried elsewhere.
        let (tcp, udp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
                break (tcp, Arc::new(udp));
            }
        };
        let address = tcp.local_addr().unwrap();
        let shared = Arc::new(Shared {
            zone: Mutex::new(read_zone(zone)),
            asked: Mutex::default(),
            open: AtomicUsize::new(0),
            most_open: AtomicUsize::new(0),
        });
        let for_udp = Arc::clone(&shared);
        tokio::spawn(async move {
            let mut buffer = [0; 4_096];
            while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
                let (shared, udp) = (Arc::clone(&for_udp), Arc::clone(&udp));
                let question = buffer[..length].to_vec();
                tokio::spawn(async move {
                    let foreign = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                    for (bytes, from_elsewhere) in shared.answer(&question, true).await {
                        let socket = if from_elsewhere { &foreign } else { &*udp };
                        let _ = socket.send_to(&bytes, from).await;
                    }
                });
            }
        });
        let for_tcp = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let shared = Arc::clone(&for_tcp);
                tokio::spawn(async move {
                    while let Ok(length) = stream.read_u16().await {
                        let mut question = vec![0; length.into()];
                        if stream.read_exact(&mut question).await.is_err() {
                            return;
                        }
                        for (bytes, _) in shared.answer(&question, false).await {
                            let length = u16::try_from(bytes.len()).unwrap();
                            if stream.write_u16(length).await.is_err()
                                || stream.write_all(&bytes).await.is_err()
                            {
                                return;
                            }
                        }
                    }
                });
            }
        });
        Self { address, shared }
    }

    /// Puts another zone in place of the old.
    pub(crate) fn replace(&self, zone: &str) {
        *self.shared.zone.lock().unwrap() = read_zone(zone);
    }

    /// The most questions that were being answered at one time.
    pub(crate) fn most_open(&self) -> usize {
        self.shared.most_open.load(Ordering::SeqCst)
    }

    /// How often this question came, `"a.example MX"`.
    pub(crate) fn asked(&self, question: &str) -> usize {
        self.shared.asked.lock().unwrap().iter().filter(|asked| *asked == question).count()
    }
}

impl Shared {
    /// The datagrams (or TCP messages) for a question; `true`: from a port that was not asked.
    async fn answer(&self, question: &[u8], udp: bool) -> Vec<(Vec<u8>, bool)> {
        let Ok(question) = Message::from_vec(question) else { return Vec::new() };
        let query = question.queries[0].clone();
        let asked = query.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
        let kind = query.query_type();
        self.asked.lock().unwrap().push(format!("{asked} {kind}"));
        let (reply, exists) = {
            let zone = self.zone.lock().unwrap();
            let alias = || zone.get(&(asked.clone(), RecordType::CNAME)).cloned();
            let reply = zone.get(&(asked.clone(), kind)).cloned().or_else(alias);
            (reply, zone.keys().any(|(name, _)| *name == asked))
        };
        let mut message = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
        message.metadata.recursion_available = true;
        message.add_query(query.clone());
        let Some(reply) = reply else {
            let code = if exists { ResponseCode::NoError } else { ResponseCode::NXDomain };
            message.metadata.response_code = code;
            message.add_authority(soa(60));
            return vec![(message.to_vec().unwrap(), false)];
        };
        for (owner, ttl, data) in &reply.records {
            let owner = owner.clone().unwrap_or_else(|| query.name().clone());
            message.add_answer(Record::from_rdata(owner, *ttl, data.clone()));
        }
        let mut from_elsewhere = false;
        for (mood, argument) in &reply.moods {
            match mood.as_str() {
                "code" => {
                    message.metadata.response_code =
                        ResponseCode::from(0, argument.parse().unwrap());
                }
                "soa" => {
                    message.add_authority(soa(argument.parse().unwrap()));
                }
                "referral" => {
                    let data = RData::NS(NS(name("ns.example")));
                    message.add_authority(Record::from_rdata(name("example"), 60, data));
                }
                // The target of an alias in the same response.
                "with-a" => {
                    let target = reply.records.iter().find_map(|(_, _, data)| match data {
                        RData::CNAME(alias) => Some(alias.0.clone()),
                        _ => None,
                    });
                    let data = RData::A(A(argument.parse().unwrap()));
                    message.add_answer(Record::from_rdata(target.unwrap(), 60, data));
                }
                "noedns" if question.edns.is_some() => {
                    message.answers.clear();
                    message.metadata.response_code = ResponseCode::FormErr;
                }
                "noedns" => {}
                "delay" => {
                    let open = self.open.fetch_add(1, Ordering::SeqCst) + 1;
                    self.most_open.fetch_max(open, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(argument.parse().unwrap())).await;
                    self.open.fetch_sub(1, Ordering::SeqCst);
                }
                "drop" => return Vec::new(),
                "cut" if udp || argument == "always" => {
                    message.answers.clear();
                    message.metadata.truncation = true;
                }
                "cut" => {}
                "wrong-id" => message.metadata.id ^= 1,
                "wrong-question" => {
                    message.queries[0].set_name(name("other.example"));
                }
                "elsewhere" => from_elsewhere = true,
                "then-right" => {
                    let mut right = message.clone();
                    right.queries = vec![query.clone()];
                    right.metadata.id = question.metadata.id;
                    return vec![
                        (message.to_vec().unwrap(), from_elsewhere),
                        (right.to_vec().unwrap(), false),
                    ];
                }
                "garbage" => {
                    let mut bytes = question.metadata.id.to_be_bytes().to_vec();
                    bytes.extend_from_slice(&[0x81, 0x80, 0, 1, 0, 9, 0, 0, 0, 0, 3, b'x']);
                    return vec![(bytes, false)];
                }
                // An answer whose name points at itself.
                "pointer-loop" => {
                    let mut bytes = message.to_vec().unwrap();
                    bytes[7] = 1;
                    let here = u8::try_from(bytes.len()).unwrap();
                    bytes.extend_from_slice(&[
                        0xc0, here, 0, 15, 0, 1, 0, 0, 0, 60, 0, 4, 0, 10, 0xc0, here,
                    ]);
                    return vec![(bytes, false)];
                }
                // One record of these octets, in hexadecimal, behind the question.
                "raw" => {
                    message.answers.clear();
                    let mut bytes = message.to_vec().unwrap();
                    bytes[7] = 1;
                    bytes.extend(argument.as_bytes().chunks(2).map(|pair| {
                        u8::from_str_radix(core::str::from_utf8(pair).unwrap(), 16).unwrap()
                    }));
                    return vec![(bytes, false)];
                }
                // Over TCP only: an answer without an octet, or of one kind of octets.
                "empty" if !udp => return vec![(Vec::new(), false)],
                "zeros" if !udp => return vec![(vec![0; argument.parse().unwrap()], false)],
                "empty" | "zeros" => {
                    message.answers.clear();
                    message.metadata.truncation = true;
                }
                other => panic!("{other} is no mood"),
            }
        }
        vec![(message.to_vec().unwrap(), from_elsewhere)]
    }
}

fn soa(minimum: u32) -> Record {
    let data = SOA::new(name("ns.example"), name("root.example"), 1, 60, 60, 60, minimum);
    Record::from_rdata(name("example"), minimum, RData::SOA(data))
}

/// An address as it stands in the reverse tree.
pub(crate) fn reverse(address: &str) -> String {
    let name = Name::from(address.parse::<IpAddr>().unwrap());
    name.to_ascii().trim_end_matches('.').to_owned()
}
