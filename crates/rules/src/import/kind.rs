//! What a file is by the look of its lines, so that one of another product is named and refused whole instead of
//! being read as something that it is not. Nothing of the text is repeated.

use super::Dialect;
use crate::diagnostic::Diagnostic;

/// Blocks that only PowerMTA has.
const POWERMTA_BLOCKS: [&str; 12] = [
    "domain",
    "domain-macro",
    "virtual-mta",
    "virtual-mta-pool",
    "mx-rollup-list",
    "smtp-pattern-list",
    "bounce-category-patterns",
    "source",
    "smtp-user",
    "smtp-listener",
    "acct-file",
    "feedback-loop-processor",
];

/// Options by which a table is known as one of KumoMTA's shaping.
const KUMOMTA_OPTIONS: [&str; 12] = [
    "connection_limit",
    "provider_connection_limit",
    "max_connection_rate",
    "max_message_rate",
    "max_deliveries_per_connection",
    "consecutive_connection_failures_before_delay",
    "max_ready",
    "mx_rollup",
    "enable_tls",
    "enable_dane",
    "enable_mta_sts",
    "additional_connection_limits",
];

/// How a table of KumoMTA's shaping begins.
const KUMOMTA_TABLES: [&str; 5] = ["[\"", "[[\"", "[default]", "[provider.", "[[provider."];

/// Parameters, or beginnings of them, that only Postfix has.
const POSTFIX_PARAMETERS: [&str; 12] = [
    "smtp_",
    "smtpd_",
    "default_destination_",
    "relayhost",
    "myhostname",
    "mydestination",
    "mynetworks",
    "transport_maps",
    "queue_directory",
    "inet_interfaces",
    "compatibility_level",
    "maximal_queue_lifetime",
];

/// The fault of a file that is not of this dialect, if it is known what it is instead.
pub(super) fn of_another_kind(dialect: Dialect, name: &str, text: &str) -> Option<Diagnostic> {
    let fault = |what: &str, help: String| {
        Some(Diagnostic::in_text(name, "", 0..0, format!("this looks like {what}"), help))
    };
    if text.lines().any(|line| line.trim() == "[[rule]]") {
        return fault(
            "a rule file of Mailweir's own",
            format!("there is nothing to import; mailweir mx check {name}"),
        );
    }
    if looks_like(dialect, text) {
        return None;
    }
    let other = Dialect::ALL.into_iter().find(|other| looks_like(*other, text))?;
    let what = match other {
        Dialect::Kumomta => "a shaping file of KumoMTA",
        Dialect::Powermta => "a PowerMTA configuration",
        Dialect::Postfix => "a configuration of Postfix",
    };
    fault(what, format!("mailweir import {} {name}", other.word()))
}

/// Whether some line is one that only this product writes.
pub(super) fn looks_like(dialect: Dialect, text: &str) -> bool {
    let mut lines = text.lines().map(str::trim);
    match dialect {
        Dialect::Powermta => lines.any(is_powermta),
        Dialect::Kumomta => {
            let (mut table, mut option) = (false, false);
            for line in lines {
                // Tables of domains have quotes around their names, which other TOML seldom has.
                if KUMOMTA_TABLES.iter().any(|start| line.starts_with(start)) {
                    return true;
                }
                table |= line.starts_with('[');
                option |= line.split_once('=').is_some_and(|(key, _)| {
                    KUMOMTA_OPTIONS.contains(&key.trim()) || key.contains("automation")
                });
            }
            table && option
        }
        Dialect::Postfix => lines.any(is_postfix),
    }
}

fn is_powermta(line: &str) -> bool {
    let Some(inner) = line.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')) else {
        return false;
    };
    let name = inner.trim_start_matches('/').split_whitespace().next().unwrap_or_default();
    POWERMTA_BLOCKS.contains(&name.to_ascii_lowercase().as_str())
}

fn is_postfix(line: &str) -> bool {
    // A line of master.cf: service, type, five columns, command.
    let words: Vec<&str> = line.split_whitespace().take(8).collect();
    if words.len() == 8 && matches!(words[1], "inet" | "unix" | "fifo" | "pass") {
        return true;
    }
    let Some((name, value)) = line.split_once('=') else { return false };
    let (name, value) = (name.trim_end(), value.trim_start());
    // What stands in quotes is TOML.
    !value.starts_with(['"', '\''])
        && name.chars().all(|letter| letter.is_ascii_lowercase() || "_0123456789".contains(letter))
        && POSTFIX_PARAMETERS.iter().any(|known| name.starts_with(known))
}
