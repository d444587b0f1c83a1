//! Asking name servers, one question at a time.
//!
//! The transport (UDP with random port and id, the right question in the answer, TCP after a
//! truncated one) is hickory's. What an answer means is decided here, because a mail exchanger must
//! not take "I could not find out" for "there is none": aliases are followed here and not by
//! hickory's resolver, which ends a chain that is too long with "no records".

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolverOpts, ServerOrderingStrategy,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsHandle as _, FirstAnswer as _};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{DnsRequestOptions, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig};
use tokio::sync::Semaphore;

use super::SetUpError;
use crate::config::DnsConfig;

/// Aliases (CNAME) that are followed for one question.
const MAX_ALIASES: usize = 8;

/// What the name servers say about a name and a type.
#[derive(Debug)]
pub(super) enum Answer {
    /// Records of the type, at the end of the aliases.
    Records {
        /// Their data, in the order of the answer.
        records: Vec<RData>,
        /// The smallest TTL on the way, seconds.
        ttl: u32,
    },
    /// The name exists and has no such record.
    NoData {
        /// For how long, seconds, if the server said (SOA).
        ttl: Option<u32>,
    },
    /// The name does not exist.
    NxDomain {
        /// For how long, seconds, if the server said (SOA).
        ttl: Option<u32>,
    },
}

/// One response, before aliases are followed.
struct Response {
    code: ResponseCode,
    answers: Vec<Record>,
    negative_ttl: Option<u32>,
}

/// One name server.
struct Server {
    address: SocketAddr,
    pool: NameServerPool<TokioRuntimeProvider>,
}

/// The configured name servers.
pub(super) struct Servers {
    servers: Vec<Server>,
    /// The one that answered last: it is asked first.
    preferred: AtomicUsize,
    permits: Semaphore,
    attempts: u32,
    query_timeout: Duration,
    /// Questions sent, and those that a server could not answer.
    pub(super) questions: AtomicU64,
    pub(super) failures: AtomicU64,
}

impl Servers {
    /// Prepares to ask; sends nothing.
    pub(super) fn new(config: &DnsConfig) -> Result<Self, SetUpError> {
        let addresses =
            if config.servers.is_empty() { system_servers()? } else { config.servers.clone() };
        let mut options = ResolverOpts::default();
        options.timeout = config.query_timeout;
        options.cache_size = 0;
        options.num_concurrent_reqs = 1;
        options.max_active_requests = config.max_lookups;
        options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
        let server = |address: SocketAddr| {
            let tls = TlsConfig::new().map_err(|error| SetUpError::Library(error.to_string()))?;
            let context = Arc::new(PoolContext::new(options.clone(), tls));
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut one| {
                one.port = address.port();
                one
            });
            let one = NameServerConfig::new(address.ip(), true, connections.to_vec());
            let pool = NameServerPool::from_config([one], context, TokioRuntimeProvider::new());
            Ok(Server { address, pool })
        };
        Ok(Self {
            servers: addresses.into_iter().map(server).collect::<Result<_, SetUpError>>()?,
            preferred: AtomicUsize::new(0),
            permits: Semaphore::new(config.max_lookups),
            attempts: config.attempts,
            query_timeout: config.query_timeout,
            questions: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        })
    }

    /// Asks for the records of a type, following aliases.
    ///
    /// # Errors
    /// Why there is no answer, for people: a time-out, SERVFAIL, a loop of aliases, ...
    pub(super) async fn ask(&self, name: &str, kind: RecordType) -> Result<Answer, String> {
        let mut current =
            wire_name(name).ok_or_else(|| format!("{name} is not a name that DNS can carry"))?;
        let mut visited = vec![current.clone()];
        let mut ttl = u32::MAX;
        loop {
            let asked = current.clone();
            let response = self.exchange(&asked, kind).await?;
            // The aliases of one response are followed without asking again.
            loop {
                let at_name = |record: &&Record| record.name == current;
                let wanted = |record: &&Record| record.record_type() == kind;
                let found: Vec<&Record> =
                    response.answers.iter().filter(at_name).filter(wanted).collect();
                if let Some(smallest) = found.iter().map(|record| usable_ttl(record.ttl)).min() {
                    let records = found.into_iter().map(|record| record.data.clone()).collect();
                    return Ok(Answer::Records { records, ttl: ttl.min(smallest) });
                }
                let alias =
                    response.answers.iter().filter(at_name).find_map(|record| match &record.data {
                        RData::CNAME(target) => Some((target.0.clone(), record.ttl)),
                        _ => None,
                    });
                let Some((target, alias_ttl)) = alias else { break };
                if visited.contains(&target) {
                    return Err(format!("the aliases (CNAME) of {name} go round in a circle"));
                }
                if visited.len() > MAX_ALIASES {
                    return Err(format!(
                        "{name} has more than {MAX_ALIASES} aliases (CNAME) in a row"
                    ));
                }
                ttl = ttl.min(usable_ttl(alias_ttl));
                visited.push(target.clone());
                current = target;
            }
            let negative = response.negative_ttl.map(|negative| usable_ttl(negative).min(ttl));
            match response.code {
                ResponseCode::NXDomain => return Ok(Answer::NxDomain { ttl: negative }),
                // A server that gives only the alias leaves its target for us to ask.
                _ if current != asked && negative.is_none() => {}
                _ => return Ok(Answer::NoData { ttl: negative }),
            }
        }
    }

    /// Asks one server after the other until one answers.
    async fn exchange(&self, name: &Name, kind: RecordType) -> Result<Response, String> {
        let mut query = Query::query(name.clone(), kind);
        query.set_query_class(hickory_resolver::proto::rr::DNSClass::IN);
        let mut last = String::from("no name server is configured");
        let mut edns = true;
        for _ in 0..self.attempts {
            let first = self.preferred.load(Ordering::Relaxed);
            for step in 0..self.servers.len() {
                let place = (first + step) % self.servers.len();
                let server = &self.servers[place];
                let permit = self.permits.acquire().await;
                let _permit = permit.expect("the semaphore is never closed");
                self.questions.fetch_add(1, Ordering::Relaxed);
                let mut options = DnsRequestOptions::default();
                options.use_edns = edns;
                let answer = server.pool.lookup(query.clone(), options).first_answer();
                let fault = match tokio::time::timeout(self.query_timeout, answer).await {
                    Ok(answer) => match read_response(answer) {
                        Ok(response) => {
                            self.preferred.store(place, Ordering::Relaxed);
                            return Ok(response);
                        }
                        Err(fault) => fault,
                    },
                    Err(_) => Fault::Other("no answer in time".into()),
                };
                self.failures.fetch_add(1, Ordering::Relaxed);
                let what = match fault {
                    // Very old servers do not know EDNS and say so in this way.
                    Fault::Code(ResponseCode::FormErr | ResponseCode::NotImp) if edns => {
                        edns = false;
                        "FORMERR or NOTIMP".to_owned()
                    }
                    Fault::Code(code) => code_name(code),
                    Fault::Other(what) => what,
                };
                last = format!("{kind} of {}: {what} (server {})", shown(name), server.address);
            }
        }
        Err(last)
    }
}

/// Why a server did not answer the question.
enum Fault {
    Code(ResponseCode),
    Other(String),
}

/// Tells answers about the name from answers about the server.
fn read_response(
    answer: Result<hickory_resolver::proto::op::DnsResponse, NetError>,
) -> Result<Response, Fault> {
    match answer {
        Ok(response) => match response.metadata.response_code {
            code @ (ResponseCode::NoError | ResponseCode::NXDomain) => {
                let negative_ttl = response.negative_ttl();
                let answers = response.into_message().answers;
                Ok(Response { code, answers, negative_ttl })
            }
            code => Err(Fault::Code(code)),
        },
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => match none.response_code {
            code @ (ResponseCode::NoError | ResponseCode::NXDomain) => {
                // A referral in place of an answer: the server does not recurse for us. To take
                // that for "no such record" would bounce mail.
                if code == ResponseCode::NoError && none.soa.is_none() && none.ns.is_some() {
                    return Err(Fault::Other("a referral in place of an answer".into()));
                }
                let negative_ttl = none.negative_ttl;
                Ok(Response { code, answers: Vec::new(), negative_ttl })
            }
            code => Err(Fault::Code(code)),
        },
        Err(NetError::Dns(DnsError::ResponseCode(code))) => Err(Fault::Code(code)),
        Err(NetError::Timeout) => Err(Fault::Other("no answer in time".into())),
        Err(error) => Err(Fault::Other(error.to_string())),
    }
}

/// The name of a code as the tools of the trade show it.
fn code_name(code: ResponseCode) -> String {
    match code {
        ResponseCode::ServFail => "SERVFAIL".into(),
        ResponseCode::Refused => "REFUSED".into(),
        ResponseCode::FormErr => "FORMERR".into(),
        ResponseCode::NotImp => "NOTIMP".into(),
        other => format!("response code {}", u16::from(other)),
    }
}

/// RFC 2181, 8: a TTL with its highest bit set is 0.
const fn usable_ttl(ttl: u32) -> u32 {
    if ttl > i32::MAX as u32 { 0 } else { ttl }
}

/// A host name as DNS carries it; `None`: a label is empty or too long.
fn wire_name(name: &str) -> Option<Name> {
    let labels = name.split('.').map(str::as_bytes);
    let mut name = Name::from_labels(labels).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// A name from DNS as text, without the final dot. Labels may hold any octet; what no host name has
/// is shown as `?`, which no later step takes for a host.
pub(super) fn shown(name: &Name) -> String {
    let labels: Vec<String> = name
        .iter()
        .map(|label| {
            let plain = |b: &u8| if b.is_ascii_graphic() && *b != b'.' { *b as char } else { '?' };
            label.iter().map(plain).collect()
        })
        .collect();
    labels.join(".")
}

/// The servers of `/etc/resolv.conf`.
fn system_servers() -> Result<Vec<SocketAddr>, SetUpError> {
    let (config, _) = hickory_resolver::system_conf::read_system_conf()
        .map_err(|error| SetUpError::System(error.to_string()))?;
    let servers: Vec<SocketAddr> =
        config.name_servers().iter().map(|server| SocketAddr::new(server.ip, 53)).collect();
    if servers.is_empty() {
        return Err(SetUpError::System("it names no server".into()));
    }
    Ok(servers)
}
