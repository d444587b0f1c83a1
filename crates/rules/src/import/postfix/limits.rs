//! Limits of destinations, times of the client, and retries.

use core::time::Duration;
use std::collections::BTreeMap;

use super::super::draft::{DirectiveId, Draft, DraftRule, Wait};
use super::super::kumomta::unknown_hosts;
use super::super::rate::{self, Rate};
use super::super::render::quoted;
use super::{Machine, Parameter, Row};
use crate::figure::Figure;
use crate::span::show_span;
use crate::words::{Scope, TlsPolicy};

/// Limits of a destination, behind the name of a transport or `default`.
const OF_DESTINATIONS: [&str; 11] = [
    "_destination_concurrency_limit",
    "_destination_rate_delay",
    "_destination_recipient_limit",
    "_initial_destination_concurrency",
    "_destination_concurrency_negative_feedback",
    "_destination_concurrency_positive_feedback",
    "_destination_concurrency_failed_cohort_limit",
    "_transport_rate_delay",
    "_extra_recipient_limit",
    "_recipient_limit",
    "_recipient_refill_limit",
];

/// What steers something other than mail to other servers: the beginnings of names.
const OTHERS: [&str; 40] = [
    "smtpd_",
    "virtual_",
    "local_",
    "mydestination",
    "mynetworks",
    "alias_",
    "mailbox_",
    "inet_",
    "mydomain",
    "myorigin",
    "myhostname",
    "relay_domains",
    "relay_recipient",
    "home_mailbox",
    "command_",
    "queue_directory",
    "daemon_directory",
    "data_directory",
    "mail_owner",
    "debug",
    "sendmail_path",
    "newaliases_path",
    "mailq_path",
    "setgid_group",
    "html_directory",
    "manpage_directory",
    "sample_directory",
    "readme_directory",
    "compatibility_level",
    "biff",
    "append_dot_mydomain",
    "recipient_delimiter",
    "milter_",
    "non_smtpd_milters",
    "message_size_limit",
    "header_",
    "body_checks",
    "postscreen_",
    "proxy_",
    "maillog_",
];

/// What sends mail and has no counterpart.
const WITHOUT_COUNTERPART: [(&[&str], &str); 9] = [
    (
        &["initial_destination_concurrency"],
        "connections do not grow step by step; a path that fails rests, and reactions lower what is too much",
    ),
    (
        &[
            "smtp_connection_cache_on_demand",
            "smtp_connection_cache_destinations",
            "smtp_connection_cache_time_limit",
        ],
        "connections are always used again; [smtp_client] idle_timeout says how long they wait",
    ),
    (
        &[
            "smtp_sasl_auth_enable",
            "smtp_sasl_password_maps",
            "smtp_sasl_security_options",
            "smtp_sasl_tls_security_options",
        ],
        "the client does not log in to other servers",
    ),
    (
        &["smtp_tls_CAfile", "smtp_tls_CApath"],
        "[smtp_client] tls_roots of the configuration names a PEM file of trusted certificates",
    ),
    (
        &[
            "smtp_tls_loglevel",
            "smtp_tls_note_starttls_offer",
            "smtp_tls_session_cache_database",
            "smtp_tls_protocols",
            "smtp_tls_mandatory_protocols",
            "smtp_tls_ciphers",
            "smtp_tls_mandatory_ciphers",
            "smtp_tls_exclude_ciphers",
        ],
        "TLS is configured for the whole node: [smtp_client] tls, tls_verify",
    ),
    (
        &[
            "bounce_queue_lifetime",
            "queue_run_delay",
            "delay_warning_time",
            "qmgr_message_active_limit",
            "qmgr_message_recipient_limit",
            "default_delivery_slot_cost",
            "qmgr_clog_warn_time",
        ],
        "there is nothing like it here",
    ),
    (
        &["smtp_address_preference", "smtp_dns_support_level", "smtp_host_lookup"],
        "[dns] of the configuration says how names are looked up",
    ),
    (
        &[
            "smtp_generic_maps",
            "canonical_maps",
            "sender_canonical_maps",
            "recipient_canonical_maps",
        ],
        "addresses are not rewritten",
    ),
    (
        &[
            "default_transport",
            "relay_transport",
            "fallback_relay",
            "smtp_fallback_relay",
            "sender_dependent_relayhost_maps",
            "sender_dependent_default_transport_maps",
        ],
        "the sender does not choose a way here; affinities choose the source",
    ),
];

/// Rules of all transports, and everything in `main.cf` and `master.cf`.
pub(super) fn translate(draft: &mut Draft<'_>, machine: &Machine) {
    let mut generic: Option<DraftRule> = None;
    for (name, parameter) in &machine.parameters {
        if let Some((transport, limit)) = destination_limit(name) {
            match transport {
                // What `default_` says holds for `smtp` unless that has its own.
                "default" if machine.parameters.contains_key(&format!("smtp{limit}")) => {
                    draft.not_taken(
                        parameter.id,
                        format!("smtp{limit} says it for mail to other servers"),
                    );
                }
                "default" | "smtp" => {
                    let rule = generic_rule(draft, &mut generic, parameter.id);
                    let delayed = delay_of(machine, &["smtp", "default"]).is_some();
                    destination(draft, rule, limit, parameter, delayed);
                }
                // Those of other transports come with their domains.
                _ => {}
            }
        } else if client_wait(name).is_some() || CLIENT.contains(&name.as_str()) {
            let rule = generic_rule(draft, &mut generic, parameter.id);
            client(draft, rule, name, parameter);
        } else {
            whole_node(draft, machine, name, parameter);
        }
    }
    transports(draft, machine);
    backoff(draft, machine);
    services(draft, machine);
    draft.rules.extend(generic);
}

/// Client options that a rule has, beside the waiting times.
const CLIENT: [&str; 4] = [
    "smtp_connection_reuse_count_limit",
    "smtp_tls_security_level",
    "smtp_use_tls",
    "smtp_enforce_tls",
];

/// The transport and the limit that a name is made of.
fn destination_limit(name: &str) -> Option<(&str, &'static str)> {
    let limit = OF_DESTINATIONS.into_iter().find(|limit| name.ends_with(limit))?;
    let transport = name.strip_suffix(limit)?;
    (!transport.is_empty()).then_some((transport, limit))
}

fn generic_rule<'a>(
    draft: &mut Draft<'_>,
    generic: &'a mut Option<DraftRule>,
    id: DirectiveId,
) -> &'a mut DraftRule {
    generic.get_or_insert_with(|| {
        let mut rule = DraftRule::new("default", id);
        rule.has_header = false;
        rule.masks = vec!["*".to_owned()];
        rule.scope = Scope::Path;
        rule.rank = 2;
        draft.note(
            "the generic rule counts per source and target address (scope `path`), Postfix per destination domain; shipped rules inherit its figures",
        );
        rule
    })
}

fn value<'a>(draft: &mut Draft<'_>, parameter: &'a Parameter) -> Option<&'a str> {
    match &parameter.value {
        Ok(value) => Some(value),
        Err(why) => {
            draft.not_taken(parameter.id, why.clone());
            None
        }
    }
}

/// The rate delay of the first of these transports that has one above zero.
fn delay_of(machine: &Machine, transports: &[&str]) -> Option<Duration> {
    let name = |transport: &&str| format!("{transport}_destination_rate_delay");
    let found = transports.iter().find_map(|one| machine.parameters.get(&name(one)))?;
    rate::span(found.value.as_deref().ok()?, 1).filter(|delay| !delay.is_zero())
}

/// One limit of a destination. `delayed`: the transport has a rate delay too.
fn destination(
    draft: &mut Draft<'_>,
    rule: &mut DraftRule,
    limit: &str,
    parameter: &Parameter,
    delayed: bool,
) {
    let id = parameter.id;
    let Some(text) = value(draft, parameter) else { return };
    match limit {
        "_destination_concurrency_limit" if delayed => {
            draft.not_taken(id, "with a rate delay Postfix sends one message at a time: max_connections = 1");
        }
        "_destination_concurrency_limit" => match rate::number(text) {
            Some(0) => draft.not_taken(id, "nothing is unlimited here"),
            Some(many) => {
                let words = "it holds from the first message on; Postfix begins with initial_destination_concurrency and feels its way up";
                draft.figure(rule, Figure::MaxConnections, many, id, &[words.to_owned()]);
            }
            None => draft.not_taken(id, "it is no number"),
        },
        "_destination_rate_delay" => match rate::span(text, 1) {
            Some(delay) if delay.is_zero() => draft.taken(id, "no delay, so none is stated"),
            Some(delay) => {
                let seconds = delay.as_secs().max(1);
                draft.figure(rule, Figure::MaxConnections, 1, id, &[]);
                // The figure of connections rests on this directive too: it does not say it again.
                draft.message_rate(rule, Rate { count: 1, period: seconds }, id, &[]);
            }
            None => draft.not_taken(id, "it is no span of time such as 5s"),
        },
        "_destination_recipient_limit" if text.trim() == "1" => draft.not_taken(
            id,
            "a message has one recipient here; with 1, limits of Postfix count for each recipient and not for a domain",
        ),
        "_destination_recipient_limit" | "_extra_recipient_limit" | "_recipient_limit" => {
            draft.not_taken(id, "a message has one recipient here, so that each is counted");
        }
        "_initial_destination_concurrency" => draft.not_taken(id, WITHOUT_COUNTERPART[0].1),
        _ => draft.not_taken(id, "a path that fails rests (4 s, doubled to 10 min); nothing else is steered by feedback"),
    }
}

/// Which waiting time of a rule an option of the client is.
fn client_wait(name: &str) -> Option<Wait> {
    match name {
        "smtp_connect_timeout" => Some(Wait::Connect),
        "smtp_data_done_timeout" => Some(Wait::Data),
        "smtp_helo_timeout"
        | "smtp_mail_timeout"
        | "smtp_rcpt_timeout"
        | "smtp_data_init_timeout"
        | "smtp_data_xfer_timeout"
        | "smtp_rset_timeout"
        | "smtp_quit_timeout"
        | "smtp_starttls_timeout"
        | "smtp_xforward_timeout" => Some(Wait::Other),
        _ => None,
    }
}

/// One option of the client that a rule has.
fn client(draft: &mut Draft<'_>, rule: &mut DraftRule, name: &str, parameter: &Parameter) {
    let id = parameter.id;
    let Some(text) = value(draft, parameter) else { return };
    if let Some(which) = client_wait(name) {
        let other = (which == Wait::Other)
            .then(|| "one `timeout` for all answers but the last; the longest of them".to_owned());
        match rate::span(text, 1) {
            Some(span) if !span.is_zero() => {
                draft.timeout(rule, which, span, id, &other.into_iter().collect::<Vec<_>>());
            }
            _ => draft
                .not_taken(id, "it is no span of time such as 30s; nothing waits for ever here"),
        }
        return;
    }
    match name {
        "smtp_connection_reuse_count_limit" => match rate::number(text) {
            Some(many) if many > 0 => {
                draft.figure(rule, Figure::MaxMessagesPerConnection, many, id, &[]);
            }
            _ => draft
                .not_taken(id, "nothing is unlimited here: the figure of the generic rule holds"),
        },
        "smtp_tls_security_level" => match tls_level(text) {
            Some((policy, differences)) => draft.tls(rule, policy, id, &differences),
            None => draft.not_taken(id, "it is no level of TLS that is known here"),
        },
        _ => match (name, text) {
            ("smtp_use_tls", "yes") => draft.tls(rule, TlsPolicy::Opportunistic, id, &[]),
            ("smtp_use_tls", _) => draft.tls(rule, TlsPolicy::Disabled, id, &[]),
            (_, "yes") => draft.tls(rule, TlsPolicy::Required, id, &[]),
            _ => draft.taken(id, "a rule does not require TLS unless it says so"),
        },
    }
}

/// A level of TLS as ours, and what differs.
pub(super) fn tls_level(text: &str) -> Option<(TlsPolicy, Vec<String>)> {
    let word = text.split_whitespace().next()?;
    let differs = |words: &str| vec![words.to_owned()];
    Some(match word {
        "none" => (TlsPolicy::Disabled, Vec::new()),
        "may" => (TlsPolicy::Opportunistic, Vec::new()),
        "encrypt" => (
            TlsPolicy::Required,
            differs("certificates are not looked at there; here as [smtp_client] tls_verify says"),
        ),
        "dane" => (TlsPolicy::Opportunistic, differs("DANE is not looked at")),
        "dane-only" | "half-dane" => (
            TlsPolicy::Required,
            differs("DANE is not looked at; the certificate must be valid and name the MX host"),
        ),
        "fingerprint" => (
            TlsPolicy::Required,
            differs("fingerprints are not looked at; the certificate must be valid"),
        ),
        "verify" | "secure" => (
            TlsPolicy::Required,
            differs("the certificate must be valid and name the MX host; match= is not looked at"),
        ),
        _ => return None,
    })
}

/// What we have once for the whole node, and the rest of `main.cf`.
fn whole_node(draft: &mut Draft<'_>, machine: &Machine, name: &str, parameter: &Parameter) {
    let id = parameter.id;
    match name {
        // Said by their own functions.
        "minimal_backoff_time"
        | "maximal_backoff_time"
        | "transport_maps"
        | "smtp_tls_policy_maps"
        | "relayhost"
        | "smtp_bind_address"
        | "smtp_bind_address6"
        | "smtp_helo_name" => {}
        "maximal_queue_lifetime" => {
            let Some(text) = value(draft, parameter) else { return };
            match rate::span(text, 86_400) {
                Some(span) => {
                    let span =
                        span.clamp(Duration::from_secs(60), Duration::from_secs(365 * 86_400));
                    let shown = quoted(&show_span(span));
                    draft.configure("retry", "validity", &shown);
                    draft.taken(id, format!("configuration: [retry] validity = {shown}"));
                }
                None => draft.not_taken(id, "it is no span of time such as 5d"),
            }
        }
        "default_process_limit" => {
            let Some(text) = value(draft, parameter) else { return };
            match rate::number(text).filter(|many| *many > 0) {
                Some(many) => {
                    let shown = many.min(60_000).to_string();
                    draft.configure("smtp_client", "max_connections_total", &shown);
                    draft.differs(
                        id,
                        format!("configuration: [smtp_client] max_connections_total = {shown}; it counts connections, not processes of each service"),
                    );
                }
                None => draft.not_taken(id, "it is no number"),
            }
        }
        other => {
            let known = WITHOUT_COUNTERPART.iter().find(|(names, _)| names.contains(&other));
            let elsewhere = OTHERS.iter().any(|start| other.starts_with(start));
            match (known, &parameter.value) {
                (Some((_, words)), _) => draft.not_taken(id, *words),
                (None, _) if elsewhere => {
                    draft.not_taken(id, "it does not steer mail to other servers");
                }
                (None, Err(why)) => draft.not_taken(id, why.clone()),
                (None, Ok(_)) if machine.named.contains(other) => {
                    draft.taken(id, format!("worked out where ${other} stands"));
                }
                (None, Ok(_)) => draft.not_taken(id, "not a parameter that is known here"),
            }
        }
    }
}

/// The lines of the transport table that name a transport and no host, by transport.
fn rows_of<'a>(machine: &'a Machine, transport: &str) -> Vec<(&'a Row, String)> {
    let mut rows = Vec::new();
    for row in &machine.transports {
        let (name, host) = row.value.split_once(':').unwrap_or((row.value.as_str(), ""));
        if name == transport && !row.key.contains('@') {
            rows.push((row, host.trim().to_owned()));
        }
    }
    rows
}

/// Rules of the transports that have limits of their own: one for each of their destinations.
fn transports(draft: &mut Draft<'_>, machine: &Machine) {
    let mut own: BTreeMap<&str, Vec<(&str, &Parameter)>> = BTreeMap::new();
    for (name, parameter) in &machine.parameters {
        match destination_limit(name) {
            Some(("default" | "smtp", _)) | None => {}
            Some((transport, limit)) => own.entry(transport).or_default().push((limit, parameter)),
        }
    }
    for service in &machine.services {
        let entry = own.entry(&service.name).or_default();
        let relevant = |name: &str| client_wait(name).is_some() || CLIENT.contains(&name);
        entry.extend(
            service
                .options
                .iter()
                .filter(|(name, _)| relevant(name))
                .map(|(name, one)| (name.as_str(), one)),
        );
    }
    for (transport, limits) in own.into_iter().filter(|(_, limits)| !limits.is_empty()) {
        let rows = rows_of(machine, transport);
        let mut groups: BTreeMap<Vec<String>, Vec<String>> = BTreeMap::new();
        let mut unknown = Vec::new();
        for (row, host) in &rows {
            if !host.is_empty() {
                let relay = super::host_text(host);
                let name =
                    relay.rsplit_once(':').map_or(relay.as_str(), |(name, _)| name).to_owned();
                groups.entry(vec![name]).or_default().push(row.key.clone());
                continue;
            }
            let domain = row.key.trim_start_matches('.').to_ascii_lowercase();
            let (masks, missing) = match domain.as_str() {
                "*" => (vec!["*".to_owned()], Vec::new()),
                _ => draft.masks_of(core::slice::from_ref(&domain)),
            };
            if missing.is_empty() {
                draft.differs(
                    row.id,
                    format!("the limits of {transport} for MX hosts {}", masks.join(", ")),
                );
                groups.entry(masks).or_default().push(domain);
            } else {
                draft.not_taken(row.id, unknown_hosts(&missing));
                unknown.extend(missing);
            }
        }
        if groups.is_empty() {
            let why = match rows.is_empty() {
                true if transport == "smtp" => {
                    "the service smtp carries all other mail: state it in main.cf to have it imported"
                        .to_owned()
                }
                true => format!("no line of a transport table uses {transport}"),
                false => unknown_hosts(&unknown),
            };
            for (_, parameter) in limits {
                draft.not_taken(parameter.id, why.clone());
            }
            continue;
        }
        let delayed = delay_of(machine, &[transport, "default"]).is_some();
        for (masks, domains) in groups {
            let label = domains.first().map_or(transport, String::as_str).to_owned();
            let mut rule = DraftRule::new(&label, limits[0].1.id);
            rule.has_header = false;
            rule.rank = u8::from(masks == ["*"]);
            rule.domains = domains.into_iter().filter(|one| one != "*").collect();
            rule.masks = masks;
            for (name, parameter) in &limits {
                match name.starts_with('_') {
                    true => destination(draft, &mut rule, name, parameter, delayed),
                    false => client(draft, &mut rule, name, parameter),
                }
            }
            draft.rules.push(rule);
        }
    }
}

/// `minimal_backoff_time` and `maximal_backoff_time` as a schedule.
fn backoff(draft: &mut Draft<'_>, machine: &Machine) {
    let names = ["minimal_backoff_time", "maximal_backoff_time"];
    let found: Vec<&Parameter> =
        names.iter().filter_map(|name| machine.parameters.get(*name)).collect();
    if found.is_empty() {
        return;
    }
    let span = |name: &str, by_default: u64| match machine.parameters.get(name) {
        Some(one) => one.value.as_deref().ok().and_then(|text| rate::span(text, 1)),
        None => Some(Duration::from_secs(by_default)),
    };
    // Postfix's own figures where only one of them is set.
    let (Some(least), Some(most)) = (span(names[0], 300), span(names[1], 4_000)) else {
        for one in found {
            draft.not_taken(one.id, "one of the two times cannot be read");
        }
        return;
    };
    let month = Duration::from_secs(30 * 86_400);
    let least = least.clamp(Duration::from_secs(1), month);
    let most = most.clamp(least, month);
    let mut steps = vec![least];
    while let Some(last) = steps.last().copied().filter(|last| *last < most && steps.len() < 32) {
        steps.push((last * 2).min(most));
    }
    let shown: Vec<String> = steps.iter().map(|span| quoted(&show_span(*span))).collect();
    let (steps, last) = (format!("[{}]", shown.join(", ")), quoted(&show_span(most)));
    draft.configure("retry", "steps", &steps);
    draft.configure("retry", "then_every", &last);
    for one in found {
        draft.differs(
            one.id,
            format!("configuration: [retry] steps = {steps}, then_every = {last}; Postfix waits as long as the message is old, within these two"),
        );
    }
}

/// Services of `master.cf`, with what `-o` sets that is not a rule's.
fn services(draft: &mut Draft<'_>, machine: &Machine) {
    for service in &machine.services {
        match service.processes {
            Some(many) if service.name == "smtp" => {
                let shown = many.min(60_000).to_string();
                draft.configure("smtp_client", "max_connections_total", &shown);
                draft.differs(
                    service.id,
                    format!("configuration: [smtp_client] max_connections_total = {shown}; it counts connections of the whole node"),
                );
            }
            Some(many) => draft.not_taken(
                service.id,
                format!("{many} processes: connections are limited at each provider, not over all that a transport sends to"),
            ),
            None => draft.taken(service.id, "a service that sends mail; its limits are those of main.cf"),
        }
        for (name, option) in &service.options {
            let in_rule = client_wait(name).is_some() || CLIENT.contains(&name.as_str());
            if in_rule || draft.has_fate(option.id) {
                continue;
            }
            match name.as_str() {
                "smtp_bind_address" | "smtp_bind_address6" | "smtp_helo_name" => {}
                _ => {
                    let known = WITHOUT_COUNTERPART
                        .iter()
                        .find(|(names, _)| names.contains(&name.as_str()));
                    let words =
                        known.map_or("not a parameter that is known here", |(_, words)| words);
                    draft.not_taken(option.id, words);
                }
            }
        }
    }
}
