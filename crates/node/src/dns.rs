//! Finding the hosts that take mail for a domain.
//!
//! [`Resolver::route`] asks DNS (or a `[[relay]]` of the configuration) and gives the hosts with
//! their addresses, or the reason why there are none, and until when that may be believed. What
//! follows from the answers is decided in [`mail::route`]; here they are fetched, timed and kept.
//!
//! What holds:
//! - a domain is looked up once at a time, however many ask for it;
//! - no more than `[dns] max_lookups` questions are under way, and none outlives the time limit of
//!   its route;
//! - the cache holds at most `[dns] cache_domains` domains; hickory's own cache is not used, so a
//!   TTL has one meaning: at least `min_ttl`, at most `max_ttl`, for negative answers what the SOA
//!   says but at most an hour, for temporary failures five seconds;
//! - "there is none" comes only from a name server that said so. A time-out, SERVFAIL, REFUSED, a
//!   circle of aliases or an unreadable answer is a [`RouteFault::Temporary`] with its reason.
//!
//! Hosts of equal preference are not shuffled: the engine does that, with its own seed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use mail::route::{
    AddressAnswer, Candidates, Decision, Destination, MxAnswer, MxHost, MxRoute, Own, RelayTls,
    RouteFault,
};
use mail::time::Timestamp;
use rules::TlsPolicy;
use rules::recipient::{DomainRules, RelayTarget, shipped_domain_rules};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::{Config, DnsConfig, RelayConfig, RelayHost};

mod cache;
mod servers;
#[cfg(test)]
pub(crate) mod tests;

use cache::Cache;
use servers::{Answer, Servers, shown};

/// How long a temporary failure is believed.
const TEMPORARY_TTL: Duration = Duration::from_secs(5);

/// How long a route is believed when the addresses of some of its hosts could not be found out.
const PARTIAL_TTL: Duration = Duration::from_secs(60);

/// How long a negative answer without SOA is believed, and the most for one with it.
const NEGATIVE_TTL: Duration = Duration::from_secs(60);
const LONGEST_NEGATIVE_TTL: Duration = Duration::from_secs(3_600);

/// A route or the reason for none, and until when that may be believed.
pub type Routed = (Result<MxRoute, RouteFault>, Timestamp);

/// Why the resolver cannot be set up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetUpError {
    /// The system's name servers could not be found out.
    #[error(
        "cannot use the system's name servers: {0}; state some in the configuration, [dns] servers = [\"192.0.2.53\"]"
    )]
    System(String),
    /// The DNS library refused to start.
    #[error("cannot set up DNS: {0}")]
    Library(String),
}

/// Why records could not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupFault {
    /// The name does not exist.
    #[error("the name does not exist")]
    NoSuchName,
    /// The name exists and has no record of the type.
    #[error("there is no such record")]
    NoRecord,
    /// No answer.
    #[error("{0}")]
    Temporary(String),
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResolverCounts {
    /// Routes asked for.
    pub routes: u64,
    /// Of these, answered from the cache.
    pub from_cache: u64,
    /// Of these, that waited for a look-up which another had begun.
    pub joined: u64,
    /// Questions sent to name servers, retries included.
    pub questions: u64,
    /// Of these, without an answer that says anything.
    pub failures: u64,
}

/// Finds routes. Cheap to clone; clones share cache and limits.
#[derive(Clone)]
pub struct Resolver {
    inner: Arc<Inner>,
}

/// What the clones share.
struct Inner {
    servers: Servers,
    config: DnsConfig,
    port: u16,
    relays: Vec<RelayConfig>,
    domain_rules: ArcSwap<DomainRules>,
    cache: Mutex<Cache>,
    /// Look-ups under way. An entry is removed by the task that looks up, after its answer is in the
    /// cache.
    under_way: Mutex<HashMap<String, watch::Receiver<Option<Routed>>>>,
    routes: AtomicU64,
    from_cache: AtomicU64,
    joined: AtomicU64,
}

/// What is to be found out. Its text is the key of the cache.
#[derive(Clone, Debug)]
enum Wanted {
    Domain(String),
    Relay(usize),
    /// The relay of a domain rule; whether the rule is the operator's own.
    RuledRelay(Box<RelayConfig>, bool),
}

impl Wanted {
    fn key(&self) -> String {
        match self {
            Self::Domain(name) => name.clone(),
            // No domain has a blank.
            Self::Relay(place) => format!("relay {place}"),
            Self::RuledRelay(relay, local) => {
                format!("rule {local} {} {:?} {:?}", relay.port, relay.hosts, relay.tls)
            }
        }
    }
}

/// An answer with the time for which it holds.
struct Timed<T> {
    value: T,
    ttl: Duration,
}

impl Resolver {
    /// A resolver that finds hosts with port 25 and knows no relays.
    ///
    /// # Errors
    /// [`SetUpError`]: no servers are configured and those of the system cannot be found out.
    pub fn new(config: &DnsConfig) -> Result<Self, SetUpError> {
        Self::with_relays(config, 25, &[])
    }

    /// The resolver of a whole configuration.
    ///
    /// # Errors
    /// As [`Resolver::new`].
    pub fn for_config(config: &Config) -> Result<Self, SetUpError> {
        Self::with_relays(&config.dns, config.smtp_client.port, &config.relays)
    }

    /// A resolver whose MX hosts listen on `port`, and that sends some domains to relays.
    ///
    /// # Errors
    /// As [`Resolver::new`].
    pub fn with_relays(
        config: &DnsConfig,
        port: u16,
        relays: &[RelayConfig],
    ) -> Result<Self, SetUpError> {
        Ok(Self {
            inner: Arc::new(Inner {
                servers: Servers::new(config)?,
                config: config.clone(),
                port,
                relays: relays.to_vec(),
                domain_rules: ArcSwap::from_pointee(DomainRules::compile(shipped_domain_rules())),
                cache: Mutex::new(Cache::new(config.cache_domains)),
                under_way: Mutex::default(),
                routes: AtomicU64::new(0),
                from_cache: AtomicU64::new(0),
                joined: AtomicU64::new(0),
            }),
        })
    }

    /// Where mail for `domain` goes, and until when that may be believed (in a route: its
    /// `valid_until`). Takes at most `[dns] route_timeout`, also when no server answers.
    ///
    /// The look-up goes on when the caller stops waiting, and others have its answer. Must be called
    /// within a tokio runtime.
    pub async fn route(&self, domain: &str, now: Timestamp) -> Routed {
        let (route, until) = self.route_of(domain, now).await;
        let tls = self.inner.ruled_tls(domain);
        let ruled = |route: MxRoute| match route.relay {
            false => MxRoute { tls: tls.or(route.tls), ..route },
            true => route,
        };
        (route.map(ruled), until)
    }

    /// Takes in domain rules, in place of those before. Routes that are in use hold until they end.
    pub fn set_domain_rules(&self, rules: Arc<DomainRules>) {
        self.inner.domain_rules.store(rules);
    }

    /// The same without what domain rules say of TLS.
    async fn route_of(&self, domain: &str, now: Timestamp) -> Routed {
        self.inner.routes.fetch_add(1, Ordering::Relaxed);
        let wanted = match self.inner.wanted(domain, now) {
            Ok(wanted) => wanted,
            Err(routed) => return *routed,
        };
        let key = wanted.key();
        let mut answer = {
            // Held while the cache is read, so that no second look-up begins between the end of the
            // first and its answer in the cache.
            let mut under_way = lock(&self.inner.under_way);
            if let Some(routed) = lock(&self.inner.cache).get(&key, now) {
                self.inner.from_cache.fetch_add(1, Ordering::Relaxed);
                return routed;
            }
            match under_way.get(&key) {
                Some(receiver) => {
                    self.inner.joined.fetch_add(1, Ordering::Relaxed);
                    receiver.clone()
                }
                None => {
                    let (sender, receiver) = watch::channel(None);
                    under_way.insert(key.clone(), receiver.clone());
                    tokio::spawn(Arc::clone(&self.inner).look_up(wanted, key, now, sender));
                    receiver
                }
            }
        };
        let found = answer.wait_for(Option::is_some).await.ok().and_then(|found| found.clone());
        found.unwrap_or_else(|| {
            let why = "the look-up was broken off".to_owned();
            (Err(RouteFault::Temporary { why }), now + TEMPORARY_TTL)
        })
    }

    /// Counts since the start.
    #[must_use]
    pub fn counts(&self) -> ResolverCounts {
        ResolverCounts {
            routes: self.inner.routes.load(Ordering::Relaxed),
            from_cache: self.inner.from_cache.load(Ordering::Relaxed),
            joined: self.inner.joined.load(Ordering::Relaxed),
            questions: self.inner.servers.questions.load(Ordering::Relaxed),
            failures: self.inner.servers.failures.load(Ordering::Relaxed),
        }
    }

    /// Forgets every answer.
    pub fn forget(&self) {
        lock(&self.inner.cache).clear();
    }

    /// The TXT records of a name, each with its parts joined (SPF, DKIM). Not cached.
    ///
    /// # Errors
    /// Why there are none.
    pub async fn texts(&self, name: &str) -> Result<Vec<String>, LookupFault> {
        self.records(name, RecordType::TXT, |data| match data {
            RData::TXT(text) => Some(String::from_utf8_lossy(&text.txt_data.concat()).into_owned()),
            _ => None,
        })
        .await
    }

    /// The addresses of a name, IPv4 first. Not cached; IPv6 is asked for whatever the configuration
    /// says.
    ///
    /// # Errors
    /// Why there are none.
    pub async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, LookupFault> {
        let (four, six) = tokio::join!(
            self.records(name, RecordType::A, address),
            self.records(name, RecordType::AAAA, address)
        );
        match (four, six) {
            (Ok(mut four), six) => {
                four.extend(six.unwrap_or_default());
                Ok(four)
            }
            (Err(LookupFault::NoRecord), six) => six,
            (Err(fault), Err(_)) => Err(fault),
            (Err(_), Ok(six)) => Ok(six),
        }
    }

    /// The names that an address points back to (PTR). Not cached.
    ///
    /// # Errors
    /// Why there are none.
    pub async fn names_of(&self, address: IpAddr) -> Result<Vec<String>, LookupFault> {
        let name = Name::from(address);
        self.records(&shown(&name), RecordType::PTR, |data| match data {
            RData::PTR(name) => Some(shown(&name.0)),
            _ => None,
        })
        .await
    }

    /// The MX records of a name: preference and target. Not cached.
    ///
    /// # Errors
    /// Why there are none.
    pub async fn exchangers(&self, name: &str) -> Result<Vec<(u16, String)>, LookupFault> {
        self.records(name, RecordType::MX, exchanger).await
    }

    /// Records of one type.
    async fn records<T>(
        &self,
        name: &str,
        kind: RecordType,
        read: impl Fn(&RData) -> Option<T>,
    ) -> Result<Vec<T>, LookupFault> {
        let limit = self.inner.config.route_timeout;
        match tokio::time::timeout(limit, self.inner.servers.ask(name, kind)).await {
            Ok(Ok(Answer::Records { records, .. })) => {
                Ok(records.iter().filter_map(read).collect())
            }
            Ok(Ok(Answer::NoData { .. })) => Err(LookupFault::NoRecord),
            Ok(Ok(Answer::NxDomain { .. })) => Err(LookupFault::NoSuchName),
            Ok(Err(why)) => Err(LookupFault::Temporary(why)),
            Err(_) => Err(LookupFault::Temporary(format!("no answer within {limit:?}"))),
        }
    }
}

/// A lock that a panic of another thread does not make useless: what these guard is whole between
/// any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    }
}

fn exchanger(data: &RData) -> Option<(u16, String)> {
    match data {
        RData::MX(mx) => Some((mx.preference, shown(&mx.exchange))),
        _ => None,
    }
}

impl Inner {
    /// The relay that a domain rule names.
    fn ruled_relay(&self, domain: &str) -> Option<Wanted> {
        let rules = self.domain_rules.load();
        let rule = rules.find(domain)?;
        let first = rule.treatment.relay.first()?;
        let host = |target: &RelayTarget| match target.address() {
            Some(address) => RelayHost::Address(address),
            None => RelayHost::Name(target.host.to_string()),
        };
        let relay = RelayConfig {
            domains: Vec::new(),
            hosts: rule.treatment.relay.iter().map(host).collect(),
            port: first.port,
            lmtp: false,
            tls: rule.treatment.tls,
        };
        Some(Wanted::RuledRelay(Box::new(relay), rules.is_local(rule)))
    }

    /// What a domain rule says about TLS.
    fn ruled_tls(&self, domain: &str) -> Option<RelayTls> {
        let rules = self.domain_rules.load();
        tls_of(rules.find(domain)?.treatment.tls)
    }

    /// What has to be found out for a domain; an answer at once where that is nothing.
    fn wanted(&self, domain: &str, now: Timestamp) -> Result<Wanted, Box<Routed>> {
        let forever = now + self.config.max_ttl;
        let destination =
            mail::route::destination(domain).map_err(|fault| Box::new((Err(fault), forever)))?;
        let matched = match &destination {
            Destination::Name(name) => name.as_str(),
            Destination::Address(_) => domain,
        };
        if let Some(place) = self.relays.iter().position(|relay| relay.matches(matched)) {
            return Ok(Wanted::Relay(place));
        }
        if let Some(relay) = self.ruled_relay(matched) {
            return Ok(relay);
        }
        let address = match destination {
            Destination::Name(name) => return Ok(Wanted::Domain(name)),
            Destination::Address(address) => address.to_canonical(),
        };
        if self.config.own_addresses.contains(&address) {
            return Err(Box::new((Err(RouteFault::Loop), forever)));
        }
        let name = address.to_string().into_boxed_str();
        Err(Box::new((
            Ok(MxRoute {
                hosts: vec![MxHost { preference: 0, name, addresses: vec![address] }],
                port: self.port,
                lmtp: false,
                relay: false,
                tls: None,
                valid_until: forever,
            }),
            forever,
        )))
    }

    /// The task of one look-up: finds the route, keeps it, tells everybody who waits.
    async fn look_up(
        self: Arc<Self>,
        wanted: Wanted,
        key: String,
        now: Timestamp,
        sender: watch::Sender<Option<Routed>>,
    ) {
        // Removed also when finding panics: a dead entry would stop the domain's mail for ever.
        let _entry = UnderWay { inner: &self, key: &key };
        let limit = self.config.route_timeout;
        let finding = async {
            match &wanted {
                Wanted::Domain(name) => self.find(name, now).await,
                Wanted::Relay(place) => self.find_relay(&self.relays[*place], now).await,
                Wanted::RuledRelay(relay, local) => {
                    let mut found = self.find_relay(relay, now).await;
                    if let Ok(route) = &mut found.value {
                        // A relay that somebody else has named is held to the rules for MX hosts: no private
                        // address is reached.
                        route.relay = *local;
                    }
                    found
                }
            }
        };
        let found = tokio::time::timeout(limit, finding).await.unwrap_or_else(|_| {
            let why = format!("DNS gave no route within {}", rules::show_span(limit));
            Timed { value: Err(RouteFault::Temporary { why }), ttl: TEMPORARY_TTL }
        });
        let valid_until = now + found.ttl;
        let result = found.value.map(|route| MxRoute { valid_until, ..route });
        let routed = (result, valid_until);
        lock(&self.cache).insert(&key, routed.clone());
        sender.send_replace(Some(routed));
    }

    /// By MX.
    async fn find(
        self: &Arc<Self>,
        domain: &str,
        now: Timestamp,
    ) -> Timed<Result<MxRoute, RouteFault>> {
        let own = Own { names: &self.config.own_names, addresses: &self.config.own_addresses };
        let (answer, mx_ttl) = match self.servers.ask(domain, RecordType::MX).await {
            Ok(Answer::Records { records, ttl }) => {
                let records = records.iter().filter_map(exchanger).collect();
                (MxAnswer::Records(records), self.positive_ttl(ttl))
            }
            Ok(Answer::NoData { ttl }) => (MxAnswer::NoData, self.negative_ttl(ttl)),
            Ok(Answer::NxDomain { ttl }) => (MxAnswer::NxDomain, self.negative_ttl(ttl)),
            Err(why) => (MxAnswer::Temporary(why), TEMPORARY_TTL),
        };
        let candidates = match mail::route::decide(domain, answer, own) {
            Decision::LookUp(candidates) => candidates,
            Decision::Fault(fault) => return Timed { value: Err(fault), ttl: mx_ttl },
        };
        let found = self.find_addresses(&candidates).await;
        let answers: Vec<AddressAnswer> = found.value;
        let value = mail::route::assemble(&candidates, &answers, own, self.port, now);
        let ttl = match &value {
            Err(fault) if fault.is_temporary() => TEMPORARY_TTL,
            _ => mx_ttl.min(found.ttl),
        };
        Timed { value, ttl }
    }

    /// By the host list of a relay.
    async fn find_relay(
        self: &Arc<Self>,
        relay: &RelayConfig,
        now: Timestamp,
    ) -> Timed<Result<MxRoute, RouteFault>> {
        let hosts = relay.hosts.iter().enumerate();
        let candidates = hosts.map(|(place, host)| {
            let (name, literal) = match host {
                RelayHost::Name(name) => (name.clone(), None),
                RelayHost::Address(address) => (address.to_string(), Some(*address)),
            };
            let preference = u16::try_from(place).unwrap_or(u16::MAX);
            mail::route::Candidate { preference, name: name.into_boxed_str(), literal }
        });
        let candidates = Candidates { hosts: candidates.collect(), implicit: false };
        let found = self.find_addresses(&candidates).await;
        // A person wrote the list, so being in it ourselves is no loop that DNS could lay.
        let own = Own::default();
        let value =
            mail::route::assemble(&candidates, &found.value, own, relay.port, now).map(|route| {
                MxRoute { relay: true, lmtp: relay.lmtp, tls: tls_of(relay.tls), ..route }
            });
        let ttl = if value.is_err() { TEMPORARY_TTL } else { found.ttl };
        Timed { value, ttl }
    }

    /// The addresses of all candidates at the same time, and for how long the whole holds.
    async fn find_addresses(
        self: &Arc<Self>,
        candidates: &Candidates,
    ) -> Timed<Vec<AddressAnswer>> {
        let mut tasks = JoinSet::new();
        for (place, host) in candidates.hosts.iter().enumerate() {
            if host.literal.is_none() {
                let (inner, name) = (Arc::clone(self), host.name.clone());
                tasks.spawn(async move { (place, inner.find_host(&name).await) });
            }
        }
        let not_asked = || AddressAnswer::Temporary("the look-up was broken off".into());
        let mut answers: Vec<AddressAnswer> =
            candidates.hosts.iter().map(|_| not_asked()).collect();
        let mut ttl = self.config.max_ttl;
        while let Some(done) = tasks.join_next().await {
            if let Ok((place, found)) = done {
                ttl = ttl.min(found.ttl);
                answers[place] = found.value;
            }
        }
        Timed { value: answers, ttl }
    }

    /// The addresses of one host: IPv4 in the server's order, then IPv6.
    async fn find_host(&self, name: &str) -> Timed<AddressAnswer> {
        let six = async {
            if self.config.ipv6 {
                Some(self.servers.ask(name, RecordType::AAAA).await)
            } else {
                None
            }
        };
        let (four, six) = tokio::join!(self.servers.ask(name, RecordType::A), six);
        let mut addresses = Vec::new();
        let mut ttl = self.config.max_ttl;
        let mut failure = None;
        let mut exists = false;
        for answer in [Some(four), six].into_iter().flatten() {
            match answer {
                Ok(Answer::Records { records, ttl: seconds }) => {
                    addresses.extend(records.iter().filter_map(address));
                    ttl = ttl.min(self.positive_ttl(seconds));
                    exists = true;
                }
                Ok(Answer::NoData { ttl: seconds }) => {
                    ttl = ttl.min(self.negative_ttl(seconds));
                    exists = true;
                }
                Ok(Answer::NxDomain { ttl: seconds }) => ttl = ttl.min(self.negative_ttl(seconds)),
                Err(why) => {
                    ttl = ttl.min(PARTIAL_TTL);
                    failure = Some(why);
                }
            }
        }
        let value = match failure {
            _ if !addresses.is_empty() => AddressAnswer::Found(addresses),
            Some(why) => AddressAnswer::Temporary(why),
            // To bounce mail because we have no IPv6 would blame the wrong side.
            None if exists && !self.config.ipv6 => {
                match self.servers.ask(name, RecordType::AAAA).await {
                    Ok(Answer::Records { .. }) => AddressAnswer::OnlyIpv6,
                    Ok(_) => AddressAnswer::NoAddress,
                    Err(why) => AddressAnswer::Temporary(why),
                }
            }
            None => AddressAnswer::NoAddress,
        };
        Timed { value, ttl }
    }

    fn positive_ttl(&self, seconds: u32) -> Duration {
        Duration::from_secs(seconds.into()).clamp(self.config.min_ttl, self.config.max_ttl)
    }

    fn negative_ttl(&self, seconds: Option<u32>) -> Duration {
        let stated = seconds.map_or(NEGATIVE_TTL, |seconds| Duration::from_secs(seconds.into()));
        let longest = LONGEST_NEGATIVE_TTL.min(self.config.max_ttl).max(self.config.min_ttl);
        stated.clamp(self.config.min_ttl, longest)
    }
}

/// Removes the entry of a look-up when its task ends, however it ends.
struct UnderWay<'a> {
    inner: &'a Inner,
    key: &'a str,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        lock(&self.inner.under_way).remove(self.key);
    }
}

/// What a relay's section or a domain rule says about TLS.
fn tls_of(policy: Option<TlsPolicy>) -> Option<RelayTls> {
    match policy {
        None | Some(TlsPolicy::Default) => None,
        Some(TlsPolicy::Disabled) => Some(RelayTls::Disabled),
        Some(TlsPolicy::Opportunistic) => Some(RelayTls::Opportunistic),
        Some(TlsPolicy::Required) => Some(RelayTls::Required),
    }
}
