//! The transport and TLS policy tables, the relay of all mail, and the addresses that mail goes out from.

use core::net::IpAddr;

use super::super::domains::mask_of;
use super::super::draft::{Draft, DraftRecipients};
use super::super::render::quoted;
use super::limits::tls_level;
use super::{Machine, Parameter, Row, host_text, without_login};
use crate::words::TlsPolicy;

/// Domain rules and sources.
pub(super) fn translate(draft: &mut Draft<'_>, machine: &Machine) {
    maps(draft, machine);
    for row in &machine.transports {
        transport(draft, machine, row);
    }
    for row in &machine.tls_policies {
        tls_policy(draft, row);
    }
    if let Some(relay) = machine.parameters.get("relayhost") {
        relayhost(draft, machine, relay);
    }
    sources(draft, machine);
}

/// The parameters that name tables.
fn maps(draft: &mut Draft<'_>, machine: &Machine) {
    for (name, rows) in
        [("transport_maps", &machine.transports), ("smtp_tls_policy_maps", &machine.tls_policies)]
    {
        let Some(parameter) = machine.parameters.get(name) else { continue };
        match (&parameter.value, rows.is_empty()) {
            (Err(why), _) => draft.not_taken(parameter.id, why.clone()),
            (Ok(value), _) if value.is_empty() => draft.taken(parameter.id, "no table"),
            (Ok(_), true) => {
                draft.not_taken(
                    parameter.id,
                    "its table was not given: name its text file on the command line",
                );
            }
            (Ok(_), false) => draft.taken(parameter.id, "its lines are listed by themselves"),
        }
    }
}

/// The domain that a key of a table is about, as masks; `.example.com` is what is below.
fn masks_of(key: &str) -> Option<Vec<String>> {
    let mask = match key {
        "*" => "*".to_owned(),
        _ => match key.strip_prefix('.') {
            Some(parent) => format!("*.{parent}"),
            None => key.to_owned(),
        },
    };
    let plain = !key.contains(['@', '[', ':', '/']);
    Some(vec![mask_of(&mask).filter(|_| plain)?])
}

fn recipients(
    draft: &mut Draft<'_>,
    row: &Row,
    relay: Vec<String>,
    tls: Option<TlsPolicy>,
    words: &str,
    differences: &[String],
) {
    let Some(masks) = masks_of(&row.key) else {
        draft.not_taken(row.id, "a rule is for a recipient domain, not for an address or a host");
        return;
    };
    // What is said of the same domain in the other table goes into the same rule.
    let same = draft.recipients.iter_mut().find(|one| one.masks == masks);
    match same {
        Some(rule) => {
            rule.tls = rule.tls.or(tls);
            if rule.relay.is_empty() {
                rule.relay = relay;
            }
            rule.directives.push(row.id);
        }
        None => draft.recipients.push(DraftRecipients {
            label: row.key.clone(),
            masks,
            relay,
            tls,
            sign: None,
            directives: vec![row.id],
        }),
    }
    draft.said(row.id, words, differences);
}

/// A line of the transport table. What it says of limits was said with the transport.
fn transport(draft: &mut Draft<'_>, machine: &Machine, row: &Row) {
    let (name, host) = row.value.split_once(':').unwrap_or((row.value.as_str(), ""));
    let sends = machine.services.iter().any(|service| service.name == name)
        || matches!(name, "" | "smtp" | "relay" | "lmtp")
        || machine.parameters.keys().any(|key| key.starts_with(&format!("{name}_destination_")));
    if !sends {
        let why = match name {
            "error" | "retry" | "discard" => {
                "mail to the domain is refused or dropped there: use `mailweir suppression add`"
            }
            "local" | "virtual" | "pipe" => "mail is delivered by SMTP and LMTP only",
            _ => "the transport is not one that sends mail to other servers",
        };
        draft.not_taken(row.id, why);
        return;
    }
    let host = host.trim();
    if masks_of(&row.key).is_none() {
        draft.not_taken(row.id, "a rule is for a recipient domain, not for an address or a host");
        return;
    }
    if host.is_empty() {
        if !draft.has_fate(row.id) {
            draft
                .taken(row.id, "to the MX hosts of the domain, with the limits of everything else");
        }
        return;
    }
    if name == "lmtp" || host.starts_with("unix:") {
        draft.not_taken(row.id, "LMTP is said in a [[relay]] of the configuration: lmtp = true");
        return;
    }
    let relay = host_text(host);
    let words = format!("domain rule: relay = {relay}");
    let mx = (!host.starts_with('[')).then(|| {
        "the host itself; Postfix asks for its MX records, because there are no brackets".to_owned()
    });
    let mut differences: Vec<String> = mx.into_iter().collect();
    if logs_in(machine) {
        let why = without_login(&relay);
        differences.push(why.clone());
        draft.note(why);
    }
    recipients(draft, row, vec![relay], None, &words, &differences);
}

fn tls_policy(draft: &mut Draft<'_>, row: &Row) {
    match tls_level(&row.value) {
        Some((policy, mut differences)) => {
            if row.value.split_whitespace().nth(1).is_some() && differences.is_empty() {
                differences.push("what stands behind the level is not looked at".to_owned());
            }
            let words = format!("domain rule: tls = {policy}");
            recipients(draft, row, Vec::new(), Some(policy), &words, &differences);
        }
        None => draft.not_taken(row.id, "it is no level of TLS that is known here"),
    }
}

/// Whether mail is sent with a login, which a relay of ours does not do.
fn logs_in(machine: &Machine) -> bool {
    let value = |name: &str| machine.parameters.get(name).and_then(|one| one.value.as_deref().ok());
    value("smtp_sasl_auth_enable") == Some("yes")
        || value("smtp_sasl_password_maps").is_some_and(|maps| !maps.is_empty())
}

fn relayhost(draft: &mut Draft<'_>, machine: &Machine, parameter: &Parameter) {
    match &parameter.value {
        Err(why) => draft.not_taken(parameter.id, why.clone()),
        Ok(host) if host.is_empty() => draft.taken(parameter.id, "to the MX hosts"),
        Ok(host) => {
            let relay = host_text(host);
            let mut words =
                format!("domain rule: relay = {relay} for all domains that no other rule is for");
            if logs_in(machine) {
                let why = without_login(&relay);
                words += &format!("; {why}");
                draft.note(why);
            }
            draft.recipients.push(DraftRecipients {
                label: "relayhost".to_owned(),
                masks: vec!["*".to_owned()],
                relay: vec![relay],
                tls: None,
                sign: None,
                directives: vec![parameter.id],
            });
            draft.differs(parameter.id, words);
        }
    }
}

/// `smtp_bind_address` of `main.cf` and of single transports, as sources.
fn sources(draft: &mut Draft<'_>, machine: &Machine) {
    let helo = ["smtp_helo_name", "myhostname"]
        .iter()
        .find_map(|name| machine.parameters.get(*name).filter(|one| one.value.is_ok()));
    if let Some(own) = machine.parameters.get("smtp_helo_name") {
        match &own.value {
            Ok(_) => {
                draft.taken(own.id, "the HELO name of the sources that have none of their own")
            }
            Err(why) => draft.not_taken(own.id, why.clone()),
        }
    }
    let mut bound: Vec<(String, &Parameter, Option<&Parameter>)> = Vec::new();
    for name in ["smtp_bind_address", "smtp_bind_address6"] {
        if let Some(address) = machine.parameters.get(name) {
            bound.push(("smtp".to_owned(), address, helo));
        }
    }
    for service in &machine.services {
        let own = service.options.get("smtp_helo_name");
        for name in ["smtp_bind_address", "smtp_bind_address6"] {
            if let Some(address) = service.options.get(name) {
                bound.push((service.name.clone(), address, own.or(helo)));
            }
        }
        if let Some(own) = own {
            draft.taken(own.id, "the HELO name of the source");
        }
    }
    let mut next = 1_u32;
    let mut taken: Vec<u32> = draft.options.sources.values().copied().collect();
    let mut written: Vec<u32> = Vec::new();
    for (transport, address, helo) in bound {
        let read = match &address.value {
            Ok(text) => text.parse::<IpAddr>().map_err(|_| "it is no IP address".to_owned()),
            Err(why) => Err(why.clone()),
        };
        let helo = helo.and_then(|one| one.value.clone().ok());
        let (Ok(ip), Some(helo)) = (&read, &helo) else {
            let why = read
                .err()
                .unwrap_or_else(|| "a source needs a HELO name: set smtp_helo_name".to_owned());
            draft.not_taken(address.id, why);
            continue;
        };
        let given = draft.options.sources.get(&transport).copied();
        let number = given.filter(|number| !written.contains(number)).unwrap_or_else(|| {
            while taken.contains(&next) {
                next += 1;
            }
            next
        });
        taken.push(number);
        written.push(number);
        draft.config.push((
            "[[source]]".to_owned(),
            vec![
                format!("public_id = {number}"),
                format!("address = {}", quoted(&ip.to_string())),
                format!("helo = {}", quoted(&helo.to_ascii_lowercase())),
            ],
        ));
        draft.differs(
            address.id,
            format!("configuration: [[source]] {number}; affinities and include_domains say which mail goes out from it"),
        );
    }
}
