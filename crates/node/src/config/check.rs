//! What concerns several values of the configuration together.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::path::Path;

use mail::address::Domain;
use mail::id::SourceId;
use rules::SourceSet;

use super::faults::Faults;
use super::read::{Found, Section, suggestion};
use super::sections::{read_listeners, read_tls, read_user};
use super::{AffinityConfig, RelayHost, SourceConfig, SubmissionConfig};

/// A source with the places of what must be its own.
pub(super) struct PlacedSource {
    pub(super) source: SourceConfig,
    pub(super) id_at: Range<usize>,
    /// Of the public address where it is stated.
    pub(super) address_at: Range<usize>,
    pub(super) helo_at: Range<usize>,
}

/// One `public_id`, one public address, one HELO name: receivers judge the three together.
pub(super) fn sources(root: &Section<'_>, placed: &[PlacedSource]) {
    if !root.states("source") {
        root.faults().add_with_help(
            &(0..0),
            "there is no [[source]]",
            "mail is sent from sources; `mailweir init` writes one for each address of this machine",
        );
    }
    let faults = root.faults();
    let (mut ids, mut addresses) = (HashMap::new(), HashMap::new());
    let (mut locals, mut names) = (HashMap::new(), HashMap::new());
    for PlacedSource { source, id_at, address_at, helo_at } in placed {
        let id = source.id.0;
        if ids.insert(source.id, ()).is_some() {
            faults.add(id_at, format!("public_id {id} is already another source"));
        }
        let public = source.public_address;
        if let Some((other, helo)) = addresses.insert(public, (id, &source.helo)) {
            if other != id {
                faults.add(
                    address_at,
                    format!(
                        "{public} is already source {other}: one public address has one public_id"
                    ),
                );
            }
            if *helo != source.helo {
                faults.add(
                    helo_at,
                    format!(
                        "{public} is already called {helo}: one public address has one HELO name"
                    ),
                );
            } else if other == id {
                faults.add(address_at, format!("{public} is stated twice"));
            }
        }
        if let Some(other) = locals.insert(source.address, id)
            && public != source.address
            && other != id
        {
            let address = source.address;
            faults.add(address_at, format!("{address} is already the address of source {other}: the two cannot appear as different public addresses"));
        }
        // An IPv4 and an IPv6 address of one host may share its name.
        if let Some(other) = names.insert((&source.helo, public.is_ipv4()), public)
            && other != public
        {
            let helo = &source.helo;
            faults.add(
                helo_at,
                format!(
                    "{helo} is already the HELO name of {other}: each public address needs its own"
                ),
            );
        }
    }
}

/// The sources that a list such as `"1,3-5"` names. Every one must exist.
pub(super) fn source_list(
    list: &Found<String>,
    sources: &[SourceConfig],
    faults: &Faults<'_>,
) -> Vec<SourceId> {
    if list.value.trim().is_empty() {
        faults.add(&list.at, "the list of sources is empty");
        return Vec::new();
    }
    let set = match SourceSet::parse(&list.value) {
        Ok(set) => set,
        Err(fault) => {
            faults.add(&list.part(&fault.at), fault.message);
            return Vec::new();
        }
    };
    let known: BTreeSet<u32> = sources.iter().map(|source| source.id.0).collect();
    let mut start = 0;
    for part in list.value.split(',') {
        let at = start..start + part.len();
        start = at.end + 1;
        let ends = part.split_once('-').unwrap_or((part, part));
        let (Ok(low), Ok(high)) = (ends.0.trim().parse::<u32>(), ends.1.trim().parse::<u32>())
        else {
            continue;
        };
        // Stops at the first gap: a range may span four billion ids.
        if let Some(missing) = (low..=high).find(|id| !known.contains(id)) {
            let all: Vec<String> = known.iter().take(20).map(u32::to_string).collect();
            faults.add_with_help(
                &list.part(&at),
                format!("there is no source {missing}"),
                format!("the sources are {}", all.join(", ")),
            );
        }
    }
    known.into_iter().map(SourceId).filter(|id| set.contains(*id)).collect()
}

/// The stated affinities, and `default` with all sources where it is not among them.
pub(super) fn affinities(
    sections: Vec<Section<'_>>,
    sources: &[SourceConfig],
) -> Vec<AffinityConfig> {
    let mut affinities: Vec<AffinityConfig> = Vec::new();
    for section in sections {
        let name = section.required_text("name");
        let list = section.required_text("sources");
        let ids = list.map(|list| source_list(&list, sources, section.faults()));
        if let Some(name) = name {
            if name.value.is_empty() {
                section.faults().add(&name.at, "the name of an affinity is empty");
            }
            if affinities.iter().any(|other| other.name == name.value) {
                let message = format!("there is already an affinity {:?}", name.value);
                section.faults().add(&name.at, message);
            }
            affinities.push(AffinityConfig { name: name.value, sources: ids.unwrap_or_default() });
        }
        section.finish();
    }
    if !affinities.iter().any(|affinity| affinity.name == "default") {
        let all = sources.iter().map(|source| source.id).collect();
        affinities.push(AffinityConfig { name: "default".into(), sources: all });
    }
    affinities
}

/// The one port of a relay's hosts.
pub(super) fn relay_port(
    section: &Section<'_>,
    hosts: &[Found<(RelayHost, Option<u16>)>],
    stated: Option<&Found<u16>>,
) -> u16 {
    let of = |host: &Found<(RelayHost, Option<u16>)>| {
        host.value.1.or(stated.map(|port| port.value)).unwrap_or(25)
    };
    let Some(first) = hosts.first().map(of) else { return 25 };
    for host in hosts {
        let port = of(host);
        if port != first {
            section.faults().add_with_help(
                &host.at,
                format!("this host has port {port}, the first one port {first}: the hosts of a relay share one port"),
                "state the port once, as `port = ...`, and leave it out in `hosts`",
            );
        }
    }
    first
}

/// `[submission]`: beyond loopback nobody may submit without AUTH, and no password may travel
/// without TLS.
pub(super) fn submission(
    section: Section<'_>,
    folder: &Path,
    sources: &[SourceConfig],
    affinities: &[AffinityConfig],
) -> SubmissionConfig {
    let listen = read_listeners(&section, "127.0.0.1:2587");
    let hostname = section.parsed("hostname", Domain::parse).map(|found| found.value);
    let localhost = || Domain::parse("localhost").expect("localhost is a domain");
    let hostname = hostname
        .or_else(|| sources.first().map(|source| source.helo.clone()))
        .unwrap_or_else(localhost);
    let max_message_bytes = section.number_or("max_message_bytes", 1_024..=(200 << 20), 25 << 20);
    let always = section.choice(
        "require_auth",
        &[("auto", None), ("always", Some(true)), ("beyond-loopback", Some(false))],
        None,
    );
    let mut users = Vec::new();
    for entry in section.sections("users") {
        if let Some((user, affinity)) = read_user(&entry) {
            if let Some(affinity) = affinity
                && !affinities.iter().any(|known| known.name == affinity.value)
            {
                let known: Vec<&str> = affinities.iter().map(|a| a.name.as_str()).collect();
                entry.faults().add_with_help(
                    &affinity.at,
                    format!("there is no affinity {:?}", affinity.value),
                    suggestion(&affinity.value, &known),
                );
            }
            let twice = users.iter().any(|other: &super::SubmissionUser| other.name == user.name);
            if twice {
                entry.faults().add(&entry.at, format!("there is already a user {:?}", user.name));
            }
            users.push(user);
        }
        entry.finish();
    }
    let tls = read_tls(&section, folder);
    let missing = match (section.states("users"), section.states("tls_certificate")) {
        (true, true) => None,
        (true, false) => Some("there is no TLS"),
        (false, true) => Some("there are no users"),
        (false, false) => Some("there are neither users nor TLS"),
    };
    if let Some(missing) = missing {
        for found in listen.iter().filter(|found| !found.value.ip().to_canonical().is_loopback()) {
            section.faults().add_with_help(
                &found.at,
                format!("{} is reachable from beyond this machine, and {missing}", found.value),
                "state `users`, `tls_certificate` and `tls_key`, or listen on 127.0.0.1",
            );
        }
    }
    if always == Some(true) && !section.states("users") {
        let help = "state `users` in [submission], or leave `require_auth` out";
        let message = "AUTH is always required, and there are no users: nobody could submit";
        section.faults().add_with_help(&section.at, message, help);
    }
    section.finish();
    let require_auth_on_loopback = always.unwrap_or(!users.is_empty());
    SubmissionConfig {
        listen: listen.into_iter().map(|found| found.value).collect(),
        hostname,
        max_message_bytes,
        require_auth_on_loopback,
        users,
        tls,
    }
}
