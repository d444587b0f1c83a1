//! Virtual MTAs and pools as sources and affinities, and what stands outside of all blocks.

use core::net::IpAddr;

use super::super::domains::short_name;
use super::super::draft::Draft;
use super::super::rate;
use super::super::render::quoted;
use super::{Block, Contents, Known};

/// What steers something other than delivery, outside of all blocks.
const OTHERS: [&str; 24] = [
    "run-as-root",
    "log-file",
    "spool",
    "http-mgmt-port",
    "http-access",
    "http-api-port",
    "smtp-listener",
    "smtp-port",
    "relay-domain",
    "postmaster",
    "sync-msg-create",
    "sync-msg-update",
    "pickup",
    "acct-file",
    "allow-unencrypted-plain-auth",
    "max-message-size",
    "license-file",
    "log-rotate",
    "domain-suspend",
    "min-free-space",
    "edit-config-mode",
    "simple-vmta-ip-rotation",
    "spool-delete-corrupted",
    "worker-threads",
];

/// Gives every virtual MTA its number, and writes sources and affinities for the configuration.
pub(super) fn virtual_mtas(draft: &mut Draft<'_>, root: &Contents, known: &mut Known) {
    let given = draft.options.sources.clone();
    let mut next = 1_u32;
    for block in root.named("virtual-mta") {
        let name = block.argument.trim().to_owned();
        let id = given.get(&name).copied().unwrap_or_else(|| {
            while given.values().chain(known.sources.values()).any(|taken| *taken == next) {
                next += 1;
            }
            next
        });
        known.sources.insert(name.clone(), id);
        virtual_mta(draft, block, &name, id);
    }
    for block in root.named("virtual-mta-pool") {
        pool(draft, block, known);
    }
}

fn virtual_mta(draft: &mut Draft<'_>, block: &Block, name: &str, number: u32) {
    let (mut address, mut helo) = (None, None);
    for line in &block.inside.lines {
        let words: Vec<&str> = line.value.split_whitespace().collect();
        match (line.name.as_str(), words.as_slice()) {
            ("smtp-source-host" | "smtp-source-ip", [ip, rest @ ..]) => {
                let read = ip.trim_matches(['[', ']']).parse::<IpAddr>();
                match (read, address.is_some()) {
                    (Ok(ip), false) => {
                        address = Some((ip, line.id));
                        if let Some(host) = rest.first() {
                            helo = Some(((*host).to_owned(), line.id));
                        }
                    }
                    (Ok(_), true) => draft.not_taken(
                        line.id,
                        "a source has one address: make another virtual MTA of it",
                    ),
                    (Err(_), _) => draft.not_taken(line.id, "it is no IP address"),
                }
            }
            ("host-name", [host]) => helo = Some(((*host).to_owned(), line.id)),
            ("domain-key", _) => domain_key(draft, line),
            (other, _) => {
                let why = match other {
                    "cold-virtual-mta" | "max-cold-virtual-mta-msg" | "auto-cold-virtual-mta" => {
                        format!(
                            "warm the source up with `mailweir warmup plan --source {number} --volume N/day`"
                        )
                    }
                    "max-smtp-out" => {
                        "connections of a source are limited at each provider only".to_owned()
                    }
                    _ => "not a directive of a virtual MTA that is known here".to_owned(),
                };
                draft.not_taken(line.id, why);
            }
        }
    }
    let shown = format!("source {number}");
    match (address, helo) {
        (Some((address, one)), Some((helo, other))) if sound_name(&helo) => {
            draft.config.push((
                "[[source]]".to_owned(),
                vec![
                    format!("public_id = {number}"),
                    format!("address = {}", quoted(&address.to_string())),
                    format!("helo = {}", quoted(&helo.to_ascii_lowercase())),
                ],
            ));
            draft.taken(block.id, shown);
            draft.taken(one, format!("configuration: [[source]] {number}"));
            if other != one {
                draft.taken(other, format!("configuration: [[source]] {number}"));
            }
        }
        (address, helo) => {
            let why = format!(
                "source {number} ({name}) needs an address and a HELO name: write its [[source]]"
            );
            draft.differs(block.id, format!("{shown}; {why}"));
            for id in address.map(|(_, id)| id).into_iter().chain(helo.map(|(_, id)| id)) {
                draft.not_taken(id, why.clone());
            }
        }
    }
}

fn sound_name(name: &str) -> bool {
    mail::address::Domain::parse(name).is_ok()
}

fn pool(draft: &mut Draft<'_>, block: &Block, known: &Known) {
    let mut ids = Vec::new();
    for line in &block.inside.lines {
        match line.name.as_str() {
            "virtual-mta" => {
                let mut lost = Vec::new();
                // Names of virtual MTAs are kept as they were written.
                for name in line.value.split([',', ' ', '\t']).filter(|name| !name.is_empty()) {
                    match known.sources.get(name) {
                        Some(id) if !ids.contains(id) => ids.push(*id),
                        Some(_) => {}
                        None => lost.push(name.to_owned()),
                    }
                }
                match lost.is_empty() {
                    true => draft.taken(line.id, "a source of the affinity"),
                    false => draft.not_taken(
                        line.id,
                        format!("there is no <virtual-mta {}>", lost.join(", ")),
                    ),
                }
            }
            _ => draft.not_taken(line.id, "not a directive of a pool that is known here"),
        }
    }
    let name = short_name(&block.argument);
    if ids.is_empty() || name.is_empty() {
        draft.not_taken(block.id, "the pool has no virtual MTA that is known");
        return;
    }
    ids.sort_unstable();
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    draft.config.push((
        "[[affinity]]".to_owned(),
        vec![format!("name = {}", quoted(&name)), format!("sources = {}", quoted(&ids.join(",")))],
    ));
    draft.differs(
        block.id,
        format!("configuration: [[affinity]] {name}; a delivery names it, sources are chosen by their weight"),
    );
}

/// `domain-key SELECTOR,DOMAIN,FILE`.
fn domain_key(draft: &mut Draft<'_>, line: &super::Line) {
    let parts: Vec<&str> =
        line.value.split(',').map(|part| part.trim().trim_matches('"')).collect();
    let [selector, domain, file] = parts.as_slice() else {
        draft.not_taken(line.id, "it is not SELECTOR,DOMAIN,FILE");
        return;
    };
    if !sound_name(domain) {
        draft.not_taken(line.id, "a key belongs to one domain here: write its [[dkim]]");
        return;
    }
    draft.config.push((
        "[[dkim]]".to_owned(),
        vec![
            format!("domain = {}", quoted(&domain.to_ascii_lowercase())),
            format!("selector = {}", quoted(selector)),
            format!("key_file = {}", quoted(file)),
        ],
    ));
    draft.taken(line.id, format!("configuration: [[dkim]] {selector} of {domain}"));
}

/// What stands outside of all blocks.
pub(super) fn globals(draft: &mut Draft<'_>, root: &Contents) {
    for line in &root.lines {
        match line.name.as_str() {
            "domain-macro" => {}
            "domain-key" => domain_key(draft, line),
            "total-max-smtp-out" => match rate::number(&line.value).filter(|total| *total > 0) {
                Some(total) => {
                    let value = total.min(60_000).to_string();
                    draft.configure("smtp_client", "max_connections_total", &value);
                    draft.taken(
                        line.id,
                        format!("configuration: [smtp_client] max_connections_total = {value}"),
                    );
                }
                None => draft.not_taken(line.id, "nothing is unlimited here"),
            },
            "host-name" => {
                draft.not_taken(line.id, "each [[source]] of the configuration has its helo")
            }
            other if OTHERS.contains(&other) => {
                draft.not_taken(
                    line.id,
                    "it steers something other than delivery limits; docs/configuration.md",
                );
            }
            _ => draft.not_taken(line.id, "not a directive that is known here"),
        }
    }
}
