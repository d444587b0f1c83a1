//! Options of an egress path.

use core::time::Duration;

use super::super::draft::{DirectiveId, Draft, DraftRule, Wait};
use super::super::rate::{self, Rate};
use super::super::render::quoted;
use super::{About, Block, Setting, Value, recipient_tls};
use crate::figure::Figure;
use crate::span::show_span;
use crate::words::TlsPolicy;

/// Options that have no counterpart, with the reason.
const WITHOUT_COUNTERPART: [(&[&str], &str); 12] = [
    (&["max_recipients_per_batch"], "a message has one recipient here, so that each is counted"),
    (
        &[
            "max_ready",
            "source_selection_rate",
            "additional_source_selection_rates",
            "readyq_pool_name",
        ],
        "there is no ready queue; [limits] window_messages bounds what is in memory",
    ),
    (
        &["consecutive_connection_failures_before_delay"],
        "a path rests after its first failure (4 s, doubled to 10 min), and others go on",
    ),
    (
        &["remember_broken_tls", "opportunistic_tls_reconnect_on_failed_handshake"],
        "opportunistic TLS that fails is left out by itself for the next attempt",
    ),
    (&["enable_mta_sts", "enable_dane"], "MTA-STS and DANE are not looked at"),
    (
        &[
            "smtp_auth_plain_username",
            "smtp_auth_plain_password",
            "allow_smtp_auth_plain_without_tls",
        ],
        "the client does not log in to other servers",
    ),
    (&["use_lmtp"], "say lmtp = true in a [[relay]] of the configuration"),
    (
        &["prohibited_hosts", "skip_hosts"],
        "[safety] of the configuration refuses private addresses; other hosts are not left out",
    ),
    (&["ehlo_domain"], "each [[source]] of the configuration has its helo"),
    (
        &[
            "tls_prefer_openssl",
            "tls_certificate",
            "tls_private_key",
            "rustls_cipher_suites",
            "openssl_cipher_list",
            "openssl_cipher_suites",
            "openssl_options",
        ],
        "TLS is configured for the whole node: [smtp_client] tls_verify, tls_roots",
    ),
    (
        &[
            "refresh_interval",
            "refresh_strategy",
            "dispatcher_wakeup_strategy",
            "maintainer_wakeup_strategy",
            "low_memory_reduction_policy",
            "no_memory_reduction_policy",
            "aggressive_connection_opening",
            "system_shutdown_timeout",
            "reconnect_strategy",
            "try_next_host_on_transport_error",
            "ignore_8bit_checks",
            "enable_rset",
        ],
        "it steers the inside of KumoMTA",
    ),
    (&["ttl", "provider_source_selection_rate"], "there is nothing like it here"),
];

/// Takes one option over.
pub(super) fn setting(
    draft: &mut Draft<'_>,
    block: &Block,
    rule: &mut DraftRule,
    setting: &Setting,
) {
    let Setting { key, value, id } = setting;
    let id = *id;
    match key.as_str() {
        "match" if matches!(block.about, About::Provider(_)) => {}
        "replace_base" => draft.taken(id, "what earlier files said in this table does not hold"),
        "mx_rollup" => match value {
            Value::Flag(false) => draft.differs(
                id,
                "rules are for MX hosts, so domains with the same hosts share the limits all the same",
            ),
            _ => draft.taken(id, "rules are for MX hosts"),
        },
        "provider_name" => draft.not_taken(id, "`provider` of the rule is for people only"),
        "connection_limit" | "provider_connection_limit" => connections(draft, block, rule, setting),
        "max_deliveries_per_connection" => match whole(value) {
            Some((limit, besides)) if limit > 0 => {
                draft.figure(rule, Figure::MaxMessagesPerConnection, limit, id, &besides);
            }
            _ => draft.not_taken(id, "it is no number from 1"),
        },
        "max_message_rate" | "provider_max_message_rate" => messages(draft, block, rule, setting),
        "max_connection_rate" => match throttle(value) {
            Some((rate, besides)) => draft.connection_rate(rule, rate, id, &besides),
            None => draft.not_taken(id, "it is no throttle such as \"100/min\""),
        },
        "additional_message_rate_throttles" | "additional_connection_limits" => {
            additional(draft, rule, setting);
        }
        "enable_tls" => tls(draft, block, rule, setting),
        "connect_timeout" => wait(draft, rule, Wait::Connect, setting, &[]),
        "data_dot_timeout" => wait(draft, rule, Wait::Data, setting, &[]),
        "banner_timeout" | "ehlo_timeout" | "mail_from_timeout" | "rcpt_to_timeout" | "data_timeout"
        | "rset_timeout" | "starttls_timeout" | "auth_timeout" => {
            let one = "one `timeout` for all answers but the last; the longest of them".to_owned();
            wait(draft, rule, Wait::Other, setting, &[one]);
        }
        "idle_timeout" | "smtp_port" | "enable_pipelining" => whole_node(draft, block, setting),
        other => {
            let known = WITHOUT_COUNTERPART.iter().find(|(keys, _)| keys.contains(&other));
            let words = known.map_or("not an option that is known here", |(_, words)| words);
            draft.not_taken(id, words);
        }
    }
}

/// A number, or a limit as text.
fn whole(value: &Value) -> Option<(u64, Vec<String>)> {
    match value {
        Value::Whole(number) => Some((*number, Vec::new())),
        Value::Text(text) => match text.strip_prefix("local:") {
            Some(rest) => {
                let words = "`local:` counts on each node alone; here all nodes count together";
                Some((rate::number(rest)?, vec![words.to_owned()]))
            }
            None => Some((rate::number(text)?, Vec::new())),
        },
        _ => None,
    }
}

fn throttle(value: &Value) -> Option<(Rate, Vec<String>)> {
    let Value::Text(text) = value else { return None };
    let (rate, besides) = rate::kumomta(text)?;
    Some((rate, besides.into_iter().map(str::to_owned).collect()))
}

/// What counting per source and provider means where it was per source and site.
fn per_site(block: &Block) -> Vec<String> {
    match block.about {
        About::Provider(_) => vec![
            "counts per source over all MX hosts of the provider, there per source and site"
                .to_owned(),
        ],
        About::Default | About::Domain(_) => Vec::new(),
    }
}

fn connections(draft: &mut Draft<'_>, block: &Block, rule: &mut DraftRule, setting: &Setting) {
    let id = setting.id;
    let of_provider = setting.key.starts_with("provider_");
    if !of_provider && block.setting("provider_connection_limit").is_some() {
        let words =
            "provider_connection_limit is taken: one limit over all MX hosts of the provider";
        draft.not_taken(id, words);
        return;
    }
    match whole(&setting.value) {
        Some((limit, mut besides)) if limit > 0 => {
            if !of_provider {
                besides.extend(per_site(block));
            }
            draft.figure(rule, Figure::MaxConnections, limit, id, &besides);
        }
        _ => draft.not_taken(id, "it is no number from 1"),
    }
}

fn messages(draft: &mut Draft<'_>, block: &Block, rule: &mut DraftRule, setting: &Setting) {
    let id = setting.id;
    let of_provider = setting.key.starts_with("provider_");
    if !of_provider && block.setting("provider_max_message_rate").is_some() {
        let words =
            "provider_max_message_rate is taken: one limit over all MX hosts of the provider";
        draft.not_taken(id, words);
        return;
    }
    match throttle(&setting.value) {
        Some((rate, mut besides)) => {
            if !of_provider {
                besides.extend(per_site(block));
            }
            draft.message_rate(rule, rate, id, &besides);
        }
        None => draft.not_taken(id, "it is no throttle such as \"1000/hour\""),
    }
}

/// Limits with names of their own: the tightest, where it is tighter than what the table says otherwise.
fn additional(draft: &mut Draft<'_>, rule: &mut DraftRule, setting: &Setting) {
    let id = setting.id;
    let Value::Table(fields) = &setting.value else {
        draft.not_taken(id, "it is no table of named limits");
        return;
    };
    let named = "a limit with a name counts over everything that shares the name; here it counts as the rule does";
    let of_rates = setting.key == "additional_message_rate_throttles";
    let figure = if of_rates { Figure::MessagesPerHour } else { Figure::MaxConnections };
    let stated = rule.figures.get(&figure).map(|(value, _)| *value);
    let rates: Vec<Rate> =
        fields.iter().filter_map(|(_, value)| Some(throttle(value)?.0)).collect();
    let limits: Vec<u64> = fields
        .iter()
        .filter_map(|(_, value)| Some(whole(value)?.0))
        .filter(|limit| *limit > 0)
        .collect();
    let read = if of_rates { rates.len() } else { limits.len() };
    if read < fields.len() || fields.is_empty() {
        draft.not_taken(id, "one of its limits cannot be read");
        return;
    }
    if of_rates && let Some(tightest) = rates.into_iter().min_by_key(|rate| rate.per_hour()) {
        if stated.is_some_and(|stated| stated <= tightest.per_hour()) {
            draft.not_taken(id, "the limit of the table itself is tighter");
            return;
        }
        yield_to(draft, rule, figure, id);
        draft.message_rate(rule, tightest, id, &[named.to_owned()]);
    } else if let Some(tightest) = limits.into_iter().min() {
        if stated.is_some_and(|stated| stated <= tightest) {
            draft.not_taken(id, "the limit of the table itself is tighter");
            return;
        }
        yield_to(draft, rule, figure, id);
        draft.figure(rule, figure, tightest, id, &[named.to_owned()]);
    }
}

/// Takes a figure back, because the named limit `id` is tighter.
fn yield_to(draft: &mut Draft<'_>, rule: &mut DraftRule, figure: Figure, id: DirectiveId) {
    if let Some((_, earlier)) = rule.figures.remove(&figure) {
        let place = draft.place(id).clone();
        draft.withdraw(&[earlier], &format!("the limit with a name in {place} is tighter"));
    }
}

fn tls(draft: &mut Draft<'_>, block: &Block, rule: &mut DraftRule, setting: &Setting) {
    let id = setting.id;
    let Value::Text(word) = &setting.value else {
        draft.not_taken(id, "it is no word such as \"Required\"");
        return;
    };
    let insecure = "certificates are not looked at there; here as [smtp_client] tls_verify says";
    let (policy, differences) = match word.as_str() {
        "Opportunistic" => (
            TlsPolicy::Opportunistic,
            vec!["opportunistic TLS does not look at certificates here".to_owned()],
        ),
        "OpportunisticInsecure" => (TlsPolicy::Opportunistic, Vec::new()),
        "Required" => (TlsPolicy::Required, Vec::new()),
        "RequiredInsecure" => (TlsPolicy::Required, vec![insecure.to_owned()]),
        "Disabled" => (TlsPolicy::Disabled, Vec::new()),
        _ => {
            draft.not_taken(id, "it is not a way of TLS that is known here");
            return;
        }
    };
    match &block.about {
        About::Domain(domain) if rule.unreachable.is_some() && block.source.is_none() => {
            recipient_tls(draft, domain, policy, id);
        }
        _ => draft.tls(rule, policy, id, &differences),
    }
}

fn span_of(value: &Value) -> Option<Duration> {
    match value {
        Value::Text(text) => rate::span(text, 1),
        Value::Whole(seconds) => rate::span(&seconds.to_string(), 1),
        _ => None,
    }
}

fn wait(
    draft: &mut Draft<'_>,
    rule: &mut DraftRule,
    which: Wait,
    setting: &Setting,
    differences: &[String],
) {
    match span_of(&setting.value) {
        Some(span) => draft.timeout(rule, which, span, setting.id, differences),
        None => draft.not_taken(setting.id, "it is no span of time such as \"60s\""),
    }
}

/// What we have once for the whole node.
fn whole_node(draft: &mut Draft<'_>, block: &Block, setting: &Setting) {
    let id = setting.id;
    if block.about != About::Default || block.source.is_some() {
        draft.not_taken(id, "[smtp_client] of the configuration has it for the whole node");
        return;
    }
    let found = match setting.key.as_str() {
        "idle_timeout" => span_of(&setting.value)
            .map(|span| ("idle_timeout", quoted(&show_span(span.min(Duration::from_secs(600)))))),
        "smtp_port" => whole(&setting.value)
            .filter(|(port, _)| (1..=65_535).contains(port))
            .map(|(port, _)| ("port", port.to_string())),
        _ => match setting.value {
            Value::Flag(flag) => Some(("pipelining", flag.to_string())),
            _ => None,
        },
    };
    match found {
        Some((key, value)) => {
            draft.configure("smtp_client", key, &value);
            draft.taken(id, format!("configuration: [smtp_client] {key} = {value}"));
        }
        None => draft.not_taken(id, "its value cannot be read"),
    }
}
