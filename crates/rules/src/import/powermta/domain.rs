//! Directives of a `<domain>`.

use core::time::Duration;

use super::super::domains::mask_of;
use super::super::draft::{Draft, DraftRecipients, DraftRule, Wait};
use super::super::rate::{self, Throttle};
use super::super::render::quoted;
use super::{DomainBlock, Line};
use crate::figure::Figure;
use crate::span::show_span;
use crate::words::TlsPolicy;

/// Directives that have no counterpart, with the reason.
const WITHOUT_COUNTERPART: [(&[&str], &str); 7] = [
    (
        &["max-rcpt-per-message", "max-rcpt-per-transaction", "max-errors-per-connection"],
        "a message has one recipient here, so that each is counted",
    ),
    (
        &[
            "cold-virtual-mta",
            "max-cold-virtual-mta-msg",
            "auto-cold-virtual-mta",
            "track-recipients-per-virtual-mta",
        ],
        "warm a source up with `mailweir warmup plan --source N --volume N/day`",
    ),
    (
        &[
            "log-connections",
            "log-commands",
            "log-data",
            "log-resolution",
            "log-transfer-failures",
            "log-dk-sign",
            "log-auth",
            "log-tls",
        ],
        "each attempt is in the delivery log",
    ),
    (
        &["auth-username", "auth-password", "use-unencrypted-plain-auth"],
        "the client does not log in to other servers",
    ),
    (
        &[
            "bounce-upon-no-mx",
            "bounce-upon-pix-transfer-failure",
            "bounce-upon-transfer-failure",
            "smtp-421-means-mx-unavailable",
            "421-means-mx-unavailable",
            "smtp-553-means-invalid-mailbox",
            "550-means-invalid-mailbox",
        ],
        "bounce rules say what a reply means",
    ),
    (
        &[
            "deliver-local-dsn",
            "type",
            "file-format",
            "file-destination",
            "command",
            "pipe-command",
        ],
        "mail is delivered by SMTP and LMTP only",
    ),
    (
        &[
            "ignore-8bitmime",
            "suppress-local-dsn",
            "pix-bug-workaround",
            "assume-delivery-upon-data-termination-timeout",
            "replace-smtp-421-service-response",
            "disable-mx-rollup",
            "mx-connection-attempts",
            "max-mx-attempts",
        ],
        "there is nothing like it here",
    ),
];

/// What a rule's `<domain>` has for the whole node only.
fn for_all(draft: &mut Draft<'_>, block: &DomainBlock, line: &Line, what: &str) -> bool {
    let generic = block.is_generic() && block.virtual_mta.is_none();
    if !generic {
        draft.not_taken(
            line.id,
            format!(
                "{what} of the configuration has it for everything; here it is said of <domain *>"
            ),
        );
    }
    generic
}

/// Takes one directive over.
pub(super) fn directive(
    draft: &mut Draft<'_>,
    block: &DomainBlock,
    rule: &mut DraftRule,
    line: &Line,
) {
    let id = line.id;
    let holds = block.last(&line.name).is_none_or(|last| last.id == id);
    if !holds {
        draft.not_taken(id, "it is said again, and later");
        return;
    }
    match line.name.as_str() {
        "max-smtp-out" => number(draft, rule, Figure::MaxConnections, line),
        "max-msg-per-connection" => number(draft, rule, Figure::MaxMessagesPerConnection, line),
        "max-msg-rate" => match rate::powermta(&line.value) {
            Some(Throttle::Rate(rate)) => draft.message_rate(rule, rate, id, &[]),
            Some(Throttle::Unlimited) => unlimited(draft, line),
            None => draft.not_taken(id, "it is no rate such as 1000/h"),
        },
        "max-connect-rate" => match rate::powermta(&line.value) {
            Some(Throttle::Rate(rate)) => draft.connection_rate(rule, rate, id, &[]),
            Some(Throttle::Unlimited) => draft.taken(id, "a rule states none"),
            None => draft.not_taken(id, "it is no rate such as 10/m"),
        },
        "use-starttls" | "require-starttls" => tls(draft, block, rule, line),
        "retry-after" | "bounce-after" => retry(draft, block, line),
        "use-chunking" => {
            if for_all(draft, block, line, "[smtp_client]") {
                match truth(&line.value) {
                    Some(wanted) => {
                        let value = wanted.to_string();
                        draft.configure("smtp_client", "chunking", &value);
                        draft.taken(id, format!("configuration: [smtp_client] chunking = {value}"));
                    }
                    None => draft.not_taken(id, "it is neither yes nor no"),
                }
            }
        }
        "idle-timeout" => {
            if for_all(draft, block, line, "[smtp_client]") {
                match rate::span(&line.value, 1) {
                    Some(span) => {
                        let value = quoted(&show_span(span.min(Duration::from_secs(600))));
                        draft.configure("smtp_client", "idle_timeout", &value);
                        draft.taken(
                            id,
                            format!("configuration: [smtp_client] idle_timeout = {value}"),
                        );
                    }
                    None => draft.not_taken(id, "it is no span of time such as 30s"),
                }
            }
        }
        "connect-timeout" => wait(draft, rule, Wait::Connect, line, &[]),
        "data-term-timeout" | "data-send-timeout" => wait(draft, rule, Wait::Data, line, &[]),
        "smtp-greeting-timeout"
        | "ehlo-timeout"
        | "helo-timeout"
        | "mail-from-timeout"
        | "rcpt-to-timeout"
        | "data-init-timeout"
        | "data-block-timeout"
        | "rset-timeout"
        | "starttls-timeout"
        | "quit-timeout" => {
            let one = "one `timeout` for all answers but the last; the longest of them".to_owned();
            wait(draft, rule, Wait::Other, line, &[one]);
        }
        "route" | "smtp-hosts" => relay(draft, block, line),
        "dkim-sign" => sign(draft, block, line),
        // Said by the lists of patterns, by the queues, or not at all.
        "smtp-pattern-list" | "queue-to" => {}
        backoff if backoff.starts_with("backoff-") => {}
        other => {
            let known = WITHOUT_COUNTERPART.iter().find(|(names, _)| names.contains(&other));
            draft.not_taken(
                id,
                known.map_or("not a directive that is known here", |(_, words)| words),
            );
        }
    }
}

fn unlimited(draft: &mut Draft<'_>, line: &Line) {
    draft.not_taken(line.id, "nothing is unlimited here: the figure of the generic rule holds");
}

fn number(draft: &mut Draft<'_>, rule: &mut DraftRule, figure: Figure, line: &Line) {
    match rate::number(&line.value) {
        Some(0) => unlimited(draft, line),
        Some(limit) => draft.figure(rule, figure, limit, line.id, &[]),
        None if line.value.eq_ignore_ascii_case("unlimited") => unlimited(draft, line),
        None => draft.not_taken(line.id, "it is no number"),
    }
}

/// `yes` and `no`.
fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "true" | "on" | "1" => Some(true),
        "no" | "false" | "off" | "0" => Some(false),
        _ => None,
    }
}

fn tls(draft: &mut Draft<'_>, block: &DomainBlock, rule: &mut DraftRule, line: &Line) {
    let Some(wanted) = truth(&line.value) else {
        draft.not_taken(line.id, "it is neither yes nor no");
        return;
    };
    let required =
        block.last("require-starttls").is_some_and(|line| truth(&line.value) == Some(true));
    let policy = match (line.name.as_str(), wanted) {
        ("use-starttls", _) if required => {
            draft.taken(line.id, "require-starttls says more");
            return;
        }
        ("require-starttls", true) => TlsPolicy::Required,
        ("require-starttls", false) => {
            draft.taken(line.id, "a rule does not require TLS unless it says so");
            return;
        }
        (_, true) => TlsPolicy::Opportunistic,
        (_, false) => TlsPolicy::Disabled,
    };
    let masks: Vec<String> = block.names.iter().filter_map(|name| mask_of(name)).collect();
    if rule.unreachable.is_some() && block.virtual_mta.is_none() && !masks.is_empty() {
        draft.recipients.push(DraftRecipients {
            label: block.label.clone(),
            masks,
            relay: Vec::new(),
            tls: Some(policy),
            sign: None,
            directives: vec![line.id],
        });
        draft.taken(line.id, format!("domain rule: tls = {policy}"));
        return;
    }
    draft.tls(rule, policy, line.id, &[]);
}

fn retry(draft: &mut Draft<'_>, block: &DomainBlock, line: &Line) {
    if !for_all(draft, block, line, "[retry]") {
        return;
    }
    let spans: Option<Vec<Duration>> = line
        .value
        .split(',')
        .map(|part| rate::span(part, 1).map(|span| span.max(Duration::from_secs(1))))
        .collect();
    let Some(spans) = spans.filter(|spans| !spans.is_empty() && spans.len() <= 64) else {
        draft.not_taken(line.id, "it is no span of time such as 10m");
        return;
    };
    let shown = |span: &Duration| quoted(&show_span(*span));
    if line.name == "bounce-after" {
        let value =
            shown(&spans[0].clamp(Duration::from_secs(60), Duration::from_secs(365 * 86_400)));
        draft.configure("retry", "validity", &value);
        draft.taken(line.id, format!("configuration: [retry] validity = {value}"));
        return;
    }
    let month = Duration::from_secs(30 * 86_400);
    let spans: Vec<Duration> = spans.into_iter().map(|span| span.min(month)).collect();
    let steps = format!("[{}]", spans.iter().map(shown).collect::<Vec<_>>().join(", "));
    let last = shown(&spans[spans.len() - 1]);
    draft.configure("retry", "steps", &steps);
    draft.configure("retry", "then_every", &last);
    draft.differs(
        line.id,
        format!("configuration: [retry] steps = {steps}, then_every = {last}; counted for each message, there for the queue of a domain"),
    );
}

fn wait(
    draft: &mut Draft<'_>,
    rule: &mut DraftRule,
    which: Wait,
    line: &Line,
    differences: &[String],
) {
    match rate::span(&line.value, 1) {
        Some(span) => draft.timeout(rule, which, span, line.id, differences),
        None => draft.not_taken(line.id, "it is no span of time such as 30s"),
    }
}

/// `route [192.0.2.1]:25`, `smtp-hosts lookup:gateway.example`.
fn relay(draft: &mut Draft<'_>, block: &DomainBlock, line: &Line) {
    if block.virtual_mta.is_some() {
        draft.not_taken(line.id, "a relay is for all sources here");
        return;
    }
    let hosts: Vec<String> = line
        .value
        .split([',', ' ', '\t'])
        .filter(|host| !host.is_empty())
        .map(|host| super::super::postfix::host_text(host.trim_start_matches("lookup:")))
        .collect();
    let masks: Vec<String> = block.names.iter().filter_map(|name| mask_of(name)).collect();
    if hosts.is_empty() || masks.is_empty() {
        draft.not_taken(line.id, "it names no host");
        return;
    }
    let words = format!("domain rule: relay = {}", hosts.join(", "));
    let login = (block.last("auth-username").is_some() || block.last("auth-password").is_some())
        .then(|| super::super::postfix::without_login(&hosts.join(", ")));
    draft.recipients.push(DraftRecipients {
        label: block.label.clone(),
        masks,
        relay: hosts,
        tls: None,
        sign: None,
        directives: vec![line.id],
    });
    if let Some(why) = &login {
        draft.note(why.clone());
    }
    draft.said(line.id, &words, &login.into_iter().collect::<Vec<_>>());
}

fn sign(draft: &mut Draft<'_>, block: &DomainBlock, line: &Line) {
    match truth(&line.value) {
        Some(true) => {
            draft.taken(line.id, "mail is signed by the keys of [[dkim]] unless a rule forbids it")
        }
        Some(false) => {
            let masks: Vec<String> = block.names.iter().filter_map(|name| mask_of(name)).collect();
            draft.recipients.push(DraftRecipients {
                label: block.label.clone(),
                masks,
                relay: Vec::new(),
                tls: None,
                sign: Some(false),
                directives: vec![line.id],
            });
            draft.taken(line.id, "domain rule: sign = false");
        }
        None => draft.not_taken(line.id, "it is neither yes nor no"),
    }
}
