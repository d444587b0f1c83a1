//! From the answers of DNS to the hosts and targets of a domain.
//!
//! The words are here; the decisions (order, null MX, implicit MX, own name in the list) are pure
//! functions over what DNS answered, so that they can be tested without a name server.

use core::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// One mail exchanger of a domain with the addresses found for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MxHost {
    /// Lowest first. 0 for implicit MX and for relays.
    pub preference: u16,
    /// Lower case, without the final dot. For a relay given by address: the address as text.
    pub name: Box<str>,
    /// In the resolver's order, duplicates within the host removed; empty when none could be found.
    pub addresses: Vec<IpAddr>,
}

/// Where mail for a domain goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MxRoute {
    /// Sorted by preference, then by name, so that equal sets compare equal. Never empty.
    pub hosts: Vec<MxHost>,
    /// TCP port of every host.
    pub port: u16,
    /// LMTP instead of SMTP (relays only).
    pub lmtp: bool,
    /// Whether it came from a `[[relay]]` of the configuration rather than from DNS.
    pub relay: bool,
    /// Until when the answer may be used.
    pub valid_until: Timestamp,
}

/// Why a domain has no route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "fault")]
pub enum RouteFault {
    /// Permanent: the domain does not exist (NXDOMAIN).
    NoSuchDomain,
    /// Permanent: the domain exists but has neither MX nor address.
    NoMailHost,
    /// Permanent: null MX (RFC 7505); the domain says that it takes no mail.
    NullMx,
    /// Permanent: we are the best MX ourselves (RFC 5321, 5.1).
    Loop,
    /// Permanent: not a domain name.
    BadName {
        /// Why.
        why: String,
    },
    /// Temporary: SERVFAIL, time-out, refused, CNAME loop, MX hosts without address, or name servers unreachable.
    Temporary {
        /// Why.
        why: String,
    },
}

impl RouteFault {
    /// Whether trying again later can help.
    #[must_use]
    pub const fn is_temporary(&self) -> bool {
        matches!(self, Self::Temporary { .. })
    }
}
