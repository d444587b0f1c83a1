//! `main.cf`, `master.cf` and the text form of two tables of Postfix.
//!
//! The parts of a file's name decide what it is: `main.cf`, `master.cf`, and the tables that `transport_maps` and
//! `smtp_tls_policy_maps` name (or whose names hold `transport` or `tls`). Limits of Postfix count per destination,
//! which is a recipient domain or a relay, for the whole machine; ours count per source over all MX hosts of a rule.

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

use super::draft::{DirectiveId, Draft};
use crate::diagnostic::{Diagnostic, Source};

mod limits;
mod lines;
mod tables;

use lines::{Logical, joined, logical_lines};

/// A parameter with its value worked out.
#[derive(Clone, Debug)]
struct Parameter {
    id: DirectiveId,
    /// The value, or why it cannot be worked out.
    value: Result<String, String>,
}

/// A service of `master.cf` that sends mail.
#[derive(Clone, Debug)]
struct Service {
    id: DirectiveId,
    name: String,
    /// Processes at most, where it is stated.
    processes: Option<u64>,
    /// What `-o` sets for it alone.
    options: BTreeMap<String, Parameter>,
}

/// A line of a table.
#[derive(Clone, Debug)]
struct Row {
    id: DirectiveId,
    key: String,
    value: String,
}

/// Everything that was read.
#[derive(Debug, Default)]
struct Machine {
    parameters: BTreeMap<String, Parameter>,
    /// Names that values of other parameters stand on.
    named: BTreeSet<String>,
    services: Vec<Service>,
    transports: Vec<Row>,
    tls_policies: Vec<Row>,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Main,
    Master,
    Transport,
    TlsPolicy,
    Unknown,
}

/// Reads files into the draft; answers the faults of the files.
pub(super) fn read(draft: &mut Draft<'_>, files: &[Source<'_>]) -> Vec<Diagnostic> {
    let mut faults = Vec::new();
    let mut read = Vec::new();
    for file in files {
        match logical_lines(file) {
            Ok(lines) => read.push((file, lines)),
            Err(found) => faults.extend(found),
        }
    }
    if !faults.is_empty() {
        return faults;
    }
    let mut machine = Machine::default();
    for (file, lines) in read.iter().filter(|(file, _)| base(&file.file) == "main.cf") {
        faults.extend(main(draft, &mut machine, file, lines));
    }
    let plain = |name: &str| {
        machine.parameters.get(name).and_then(|one| one.value.clone().ok()).unwrap_or_default()
    };
    let (transports, policies) = (plain("transport_maps"), plain("smtp_tls_policy_maps"));
    for (file, lines) in &read {
        match kind(&file.file, &transports, &policies) {
            Kind::Main => {}
            Kind::Master => master(draft, &mut machine, file, lines),
            Kind::Transport => machine.transports.extend(table(draft, file, lines)),
            Kind::TlsPolicy => machine.tls_policies.extend(table(draft, file, lines)),
            Kind::Unknown => {
                let help = "name the file main.cf, master.cf, or as transport_maps or smtp_tls_policy_maps does";
                // It may be the table of passwords.
                let file = Source::new(&file.file, file.text).without_lines();
                faults.push(file.diagnostic(0..0, "it is not clear what this file is", help));
            }
        }
        if !draft.has_room() {
            faults.push(file.diagnostic(0..0, "too many directives", "import the files in parts"));
            return faults;
        }
    }
    if faults.is_empty() {
        limits::translate(draft, &machine);
        tables::translate(draft, &machine);
    }
    faults
}

/// The last part of a path.
fn base(name: &str) -> &str {
    name.rsplit(['/', '\\']).next().unwrap_or(name)
}

fn kind(name: &str, transports: &str, policies: &str) -> Kind {
    let base = base(name);
    let named = |maps: &str| {
        maps.split([',', ' ', '\t'])
            .any(|map| self::base(map.rsplit(':').next().unwrap_or(map)) == base)
    };
    match base {
        "main.cf" => Kind::Main,
        "master.cf" => Kind::Master,
        _ if named(transports) => Kind::Transport,
        _ if named(policies) => Kind::TlsPolicy,
        _ if base.contains("tls") => Kind::TlsPolicy,
        _ if base.contains("transport") => Kind::Transport,
        _ => Kind::Unknown,
    }
}

/// Reads `main.cf`.
fn main(
    draft: &mut Draft<'_>,
    machine: &mut Machine,
    file: &Source<'_>,
    lines: &[Logical],
) -> Vec<Diagnostic> {
    let mut faults = Vec::new();
    let mut raw: BTreeMap<String, (DirectiveId, String)> = BTreeMap::new();
    for line in lines.iter().take(super::draft::MOST_DIRECTIVES) {
        let (start, text) = (line[0].0, joined(line));
        let Some((name, value)) = text.split_once('=') else {
            let help = "a line is `name = value`";
            faults.push(file.diagnostic(start..start + 1, "a line without `=`", help));
            continue;
        };
        let (name, value) = (name.trim(), value.trim());
        let id = draft.directive(file.place(start), name, value);
        if let Some((earlier, _)) = raw.insert(name.to_owned(), (id, value.to_owned())) {
            let place = draft.place(id).clone();
            draft.not_taken(earlier, format!("{place} says it again, and later"));
        }
    }
    let values: BTreeMap<String, String> =
        raw.iter().map(|(name, (_, value))| (name.clone(), value.clone())).collect();
    for value in values.values() {
        machine.named.extend(lines::names_in(value));
    }
    for (name, (id, value)) in raw {
        let value = lines::expand(&values, &value);
        machine.parameters.insert(name, Parameter { id, value });
    }
    faults
}

/// Reads `master.cf`.
fn master(draft: &mut Draft<'_>, machine: &mut Machine, file: &Source<'_>, lines: &[Logical]) {
    let values: BTreeMap<String, String> = machine
        .parameters
        .iter()
        .filter_map(|(name, one)| Some((name.clone(), one.value.clone().ok()?)))
        .collect();
    for line in lines {
        let (start, first) = &line[0];
        let words: Vec<&str> = first.split_whitespace().collect();
        let name = words.first().copied().unwrap_or_default();
        let id = draft.directive(file.place(*start), name, &words[1.min(words.len())..].join(" "));
        let command = words.get(7).copied().unwrap_or_default();
        let sends = words.get(1) == Some(&"unix") && matches!(command, "smtp" | "lmtp");
        let processes = words.get(6).and_then(|text| text.parse().ok()).filter(|many| *many > 0);
        let mut service =
            Service { id, name: name.to_owned(), processes, options: BTreeMap::new() };
        let mut pieces: Vec<(usize, String)> =
            vec![(*start, words.get(8..).unwrap_or_default().join(" "))];
        pieces.extend(line[1..].iter().cloned());
        for (at, text) in pieces {
            for (option, value) in options_in(&text) {
                let shown = format!("{name} -o {option}");
                let id = draft.directive(file.place(at), &shown, &value);
                let value = lines::expand(&values, &value);
                if let Some(earlier) = service.options.insert(option, Parameter { id, value }) {
                    draft.not_taken(earlier.id, "it is said again, and later");
                }
            }
        }
        if sends {
            machine.services.push(service);
        } else {
            let why = "the service does not send mail to other servers";
            draft.not_taken(id, why);
            for option in service.options.values() {
                draft.not_taken(option.id, why);
            }
        }
    }
}

/// The `-o name=value` of a line, also as `-o { name = value }`.
fn options_in(text: &str) -> Vec<(String, String)> {
    let spaced = format!(" {}", text.replace('\t', " "));
    let mut found = Vec::new();
    let mut rest = spaced.as_str();
    while let Some(at) = rest.find(" -o") {
        rest = rest[at + 3..].trim_start();
        let (option, after) = match rest.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some(both) => both,
            None => rest.split_at(rest.find(' ').unwrap_or(rest.len())),
        };
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        found.push((name.trim().to_owned(), value.trim().to_owned()));
        rest = after;
    }
    found
}

/// Reads a table in its text form: a key, blanks, a value.
fn table(draft: &mut Draft<'_>, file: &Source<'_>, lines: &[Logical]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut seen = BTreeSet::new();
    for line in lines.iter().take(super::draft::MOST_DIRECTIVES) {
        let (start, text) = (line[0].0, joined(line));
        let (key, value) = text.split_once(char::is_whitespace).unwrap_or((&text, ""));
        let id = draft.directive(file.place(start), key, value.trim());
        if seen.insert(key.to_owned()) {
            rows.push(Row { id, key: key.to_owned(), value: value.trim().to_owned() });
        } else {
            draft.not_taken(id, "the key stands in the table already, and the first one holds");
        }
    }
    rows
}

/// What to say of a relay that is logged in to there.
pub(super) fn without_login(relay: &str) -> String {
    format!(
        "the relay rule cannot log in: {relay} will refuse the mail unless it accepts these sources without a password"
    )
}

/// A host of a relay as our domain rules write it: brackets only around IPv6 addresses, ports as numbers.
pub(super) fn host_text(text: &str) -> String {
    let (host, port) = match text.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
        Some((host, after)) => (host, after.strip_prefix(':')),
        None if text.parse::<IpAddr>().is_ok() => (text, None),
        None => text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let host = host.trim_start_matches("ipv6:").trim_start_matches("IPv6:").trim_end_matches('.');
    let host = match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        _ => host.to_ascii_lowercase(),
    };
    match port {
        None | Some("") => format!("{host}:25"),
        Some("smtp") => format!("{host}:25"),
        Some("submission") => format!("{host}:587"),
        Some("smtps" | "submissions") => format!("{host}:465"),
        Some(port) => format!("{host}:{port}"),
    }
}
