//! An MX group: the recipient domains that share one set of MX hosts, and their connections.

use core::net::IpAddr;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use mail::id::{ConnectionId, SourceId};
use mail::route::MxRoute;
use mail::time::Timestamp;
use rules::RuleId;

use crate::breaker::Breaker;
use crate::domain::DomainIx;
use crate::line::{LineKey, Turn};
use crate::reason::Waiting;
use crate::window::Window;

/// One address of one MX host.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Target {
    pub(crate) address: IpAddr,
    pub(crate) host: Arc<str>,
    pub(crate) preference: u16,
}

/// What a source has sent to the group, for the weights.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Share {
    /// Messages × `SHARE_SCALE` / weight.
    pub(crate) virtual_time: u64,
    /// When it last got or finished something.
    pub(crate) active_at: Timestamp,
    /// It had no tokens when it last asked.
    pub(crate) out_of_tokens: bool,
}

/// Counts since the start of the process, for progress displays and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct GroupCounts {
    /// Messages taken by the servers.
    pub sent: u64,
    /// Messages refused for good.
    pub failed: u64,
    /// Attempts put off.
    pub deferred: u64,
    /// Conversations that failed.
    pub sessions_failed: u64,
}

/// An MX group.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) key: String,
    pub(crate) port: u16,
    pub(crate) lmtp: bool,
    pub(crate) relay: bool,
    /// What the relay's section says about TLS.
    pub(crate) tls: Option<mail::route::RelayTls>,
    /// By preference, then in the order of DNS.
    pub(crate) targets: Vec<Target>,
    /// One of the domains, to give it a name for people.
    pub(crate) sample_domain: Arc<str>,
    /// Per priority: domains with due mail, in the order of their turn.
    pub(crate) line: [VecDeque<DomainIx>; 3],
    pub(crate) window: Window,
    /// Messages to hold in the window: grows while they are sent faster than claimed.
    pub(crate) want: usize,
    pub(crate) claims_open: u32,
    pub(crate) connections: Vec<ConnectionId>,
    pub(crate) shares: BTreeMap<SourceId, Share>,
    pub(crate) breaker: Breaker,
    /// The rule of each (MX host, source), found once per rule set.
    pub(crate) rulings: BTreeMap<(Arc<str>, SourceId), RuleId>,
    /// Its places in the lines for permits.
    pub(crate) turns: BTreeMap<LineKey, Turn>,
    /// The budget that lets it claim before it has a connection.
    pub(crate) pass: Option<LineKey>,
    /// It stands outside these budgets, with this number, and claims nothing.
    pub(crate) outside: Option<(u64, Vec<LineKey>)>,
    /// Messages handed to its connections.
    pub(crate) in_flight: usize,
    /// Connections that became ready or reported something since it was looked at.
    pub(crate) fresh: Vec<ConnectionId>,
    /// Memory is short and it cannot send: it claims nothing until then.
    pub(crate) claims_held_until: Timestamp,
    pub(crate) wake: Timestamp,
    pub(crate) waiting: Option<Waiting>,
    pub(crate) counts: GroupCounts,
    /// Smoothed time from asking for a connection to its readiness, in microseconds.
    pub(crate) setup_micros: u64,
    /// Smoothed time per message on one connection, in microseconds; 0: not known.
    pub(crate) message_micros: u64,
    /// Domains whose route leads here.
    pub(crate) domains: u32,
    /// It stands in line for room in the windows: for urgent mail, and for the rest.
    pub(crate) starved: [bool; 2],
}

impl Group {
    pub(crate) fn new(key: String, route: &MxRoute, sample_domain: Arc<str>) -> Self {
        let mut group = Self {
            key,
            port: route.port,
            lmtp: route.lmtp,
            relay: route.relay,
            tls: route.tls,
            targets: Vec::new(),
            sample_domain,
            line: Default::default(),
            window: Window::default(),
            want: FIRST_WANT,
            claims_open: 0,
            connections: Vec::new(),
            shares: BTreeMap::new(),
            breaker: Breaker::default(),
            rulings: BTreeMap::new(),
            turns: BTreeMap::new(),
            pass: None,
            outside: None,
            in_flight: 0,
            fresh: Vec::new(),
            claims_held_until: Timestamp::EPOCH,
            wake: Timestamp::NEVER,
            waiting: None,
            counts: GroupCounts::default(),
            setup_micros: 50_000,
            message_micros: 0,
            domains: 0,
            starved: [false; 2],
        };
        group.set_targets(route);
        group
    }

    /// Takes over the targets of a newer answer of DNS.
    pub(crate) fn set_targets(&mut self, route: &MxRoute) {
        self.targets.clear();
        for host in &route.hosts {
            let name: Arc<str> = Arc::from(&*host.name);
            for address in &host.addresses {
                // The same target under two MX names is one path.
                if self.targets.iter().all(|target| target.address != *address) {
                    self.targets.push(Target {
                        address: *address,
                        host: Arc::clone(&name),
                        preference: host.preference,
                    });
                }
            }
        }
        self.targets.sort_by_key(|target| target.preference);
    }

    /// Takes a domain out of the lines in which it stands.
    pub(crate) fn leave_line(&mut self, domain: DomainIx, in_line: [bool; 3]) {
        for (line, _) in self.line.iter_mut().zip(in_line).filter(|(_, stands)| *stands) {
            line.retain(|member| *member != domain);
        }
    }

    /// Whether domains stand in line to be claimed.
    pub(crate) fn has_line(&self) -> bool {
        self.line.iter().any(|line| !line.is_empty())
    }

    /// Whether nothing would be lost by forgetting it.
    pub(crate) fn is_idle(&self, now: Timestamp) -> bool {
        self.domains == 0
            && self.connections.is_empty()
            && self.window.len() == 0
            && self.claims_open == 0
            && !self.breaker.is_open(now)
    }
}

/// Messages a new or blocked group holds in its window.
pub(crate) const FIRST_WANT: usize = 32;
