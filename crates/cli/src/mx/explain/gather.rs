//! What DNS says about the question.

use std::net::{IpAddr, SocketAddr};

use mail::address::{Domain, Mailbox};
use mail::route::{MxRoute, RouteFault};
use node::clock::SteadyClock;
use node::config::{Config, DnsConfig};
use node::dns::Resolver;

use crate::exit::Failure;

/// An MX host with all its addresses, those that other hosts have too among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundHost {
    /// Its name.
    pub name: String,
    /// Its preference.
    pub preference: u16,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// What DNS said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What was asked.
    pub query: String,
    /// The domain; `None`: the question is about an MX host.
    pub domain: Option<String>,
    /// The hosts; empty with a fault.
    pub hosts: Vec<FoundHost>,
    /// Why there is no route.
    pub fault: Option<RouteFault>,
    /// What is worth saying.
    pub notes: Vec<String>,
}

/// Reads the question: address, domain or host. Answers the name, and whether it was an address.
///
/// # Errors
/// It is none of them.
pub fn name_of(what: &str) -> Result<(String, bool), Failure> {
    let bad = |why: &dyn std::fmt::Display| {
        Failure::environment(format!("{what:?} is no address, domain or MX host: {why}"))
    };
    if what.contains('@') {
        let mailbox = Mailbox::parse(what).map_err(|fault| bad(&fault))?;
        return Ok((mailbox.domain().to_owned(), true));
    }
    if let Ok(address) = what.parse::<IpAddr>() {
        return Ok((address.to_string(), false));
    }
    let plain = what.strip_suffix('.').unwrap_or(what);
    let domain = Domain::parse(plain).map_err(|fault| bad(&fault))?;
    Ok((domain.as_str().to_owned(), false))
}

/// Asks DNS for the route of a domain and for all addresses of each of its hosts.
///
/// # Errors
/// `what` cannot be read.
pub async fn gather(resolver: &Resolver, ipv6: bool, what: &str) -> Result<Found, Failure> {
    let (name, is_address) = name_of(what)?;
    let now = SteadyClock::start_at_wall().now();
    let (routed, _) = resolver.route(&name, now).await;
    let mut found = Found {
        query: what.to_owned(),
        domain: Some(name.clone()),
        hosts: Vec::new(),
        fault: None,
        notes: Vec::new(),
    };
    match routed {
        Ok(route) => found.hosts = with_all_addresses(resolver, ipv6, &route).await,
        Err(fault) => {
            found.notes.push(format!("no route to {name}: {fault}"));
            if !is_address {
                // Perhaps an MX host of which DNS knows nothing here; the rules know it all the same.
                found.notes.push(format!(
                    "below, {name} is taken as the name of an MX host (--mx-host does so at once)"
                ));
                found.hosts = vec![bare_host(&name)];
                found.domain = None;
            }
            found.fault = Some(fault);
        }
    }
    if let [host] = found.hosts.as_slice()
        && found.fault.is_none()
        && host.name == name
    {
        found.notes.push(format!(
            "{name} has no MX record: it is an MX host itself, or a domain whose mail goes to its own addresses"
        ));
    }
    Ok(found)
}

/// An MX host of which only the name is known.
pub fn bare_host(name: &str) -> FoundHost {
    FoundHost { name: name.to_owned(), preference: 0, addresses: Vec::new() }
}

/// A route names each address once, under the first of its hosts. For people every host gets all its
/// addresses; a host that cannot be asked again keeps those of the route.
async fn with_all_addresses(resolver: &Resolver, ipv6: bool, route: &MxRoute) -> Vec<FoundHost> {
    let mut hosts = Vec::with_capacity(route.hosts.len());
    for host in &route.hosts {
        let mut addresses = host.addresses.clone();
        if host.name.parse::<IpAddr>().is_err()
            && let Ok(all) = resolver.addresses(&host.name).await
        {
            for address in all.into_iter().map(|address| address.to_canonical()) {
                if (ipv6 || address.is_ipv4()) && !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        hosts.push(FoundHost {
            name: host.name.to_string(),
            preference: host.preference,
            addresses,
        });
    }
    hosts
}

/// The resolver of the configuration, or of `--dns`.
pub fn resolver(config: Option<&Config>, dns: Option<SocketAddr>) -> Result<Resolver, Failure> {
    let made = match (config, dns) {
        (Some(config), None) => Resolver::for_config(config),
        (Some(config), Some(server)) => {
            let dns = DnsConfig { servers: vec![server], ..config.dns.clone() };
            Resolver::with_relays(&dns, config.smtp_client.port, &config.relays)
        }
        (None, server) => {
            let servers = server.into_iter().collect();
            Resolver::new(&DnsConfig { servers, ..DnsConfig::default() })
        }
    };
    made.map_err(|fault| Failure::environment(fault.to_string()))
}
