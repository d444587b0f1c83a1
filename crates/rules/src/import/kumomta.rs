//! Shaping files of KumoMTA.
//!
//! A file is TOML: `["default"]`, `[provider."name"]` with `match`, and one table for each domain or site; each
//! with options of an egress path, `sources."name"` tables of options for one egress source, and `automation`.
//! Their options count per source and *site* (the MX hosts of a domain); ours count per source over all MX hosts
//! of a rule. Files are layered: what a later one says again, holds.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::domains::mask_of;
use super::draft::{DirectiveId, Draft, DraftRecipients, DraftRule, shown};
use crate::diagnostic::{Diagnostic, Source};
use crate::parse::read_toml;
use crate::words::Scope;

mod automation;
mod options;

/// What a table is about.
#[derive(Clone, Debug, PartialEq, Eq)]
enum About {
    Default,
    Provider(String),
    Domain(String),
}

/// A value that was read, free of the text it stood in.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Text(String),
    Whole(u64),
    Flag(bool),
    List(Vec<Value>),
    Table(Vec<(String, Value)>),
    /// A number with a fraction, a negative one, a date.
    Other,
}

/// One option.
#[derive(Clone, Debug)]
struct Setting {
    key: String,
    value: Value,
    id: DirectiveId,
}

/// A table of options, of all files together.
#[derive(Clone, Debug)]
struct Block {
    about: About,
    source: Option<String>,
    header: DirectiveId,
    settings: Vec<Setting>,
    automation: Vec<Vec<Setting>>,
}

/// Levels of tables that are read within a value.
const DEEPEST: usize = 8;

/// Reads files into the draft; answers the faults of the files as TOML.
pub(super) fn read(draft: &mut Draft<'_>, files: &[Source<'_>]) -> Vec<Diagnostic> {
    let mut faults = Vec::new();
    let mut blocks: Vec<Block> = Vec::new();
    for file in files {
        let (document, found) = read_toml(file);
        faults.extend(found);
        if let Some(document) = document.filter(|_| faults.is_empty()) {
            faults.extend(read_file(draft, &mut blocks, file, document.get_ref()));
        }
    }
    if faults.is_empty() {
        translate(draft, &blocks);
    }
    faults
}

fn read_file(
    draft: &mut Draft<'_>,
    blocks: &mut Vec<Block>,
    file: &Source<'_>,
    document: &DeTable<'_>,
) -> Vec<Diagnostic> {
    let mut walk = Walk { draft, blocks, file, faults: Vec::new() };
    for (key, value) in in_order(document) {
        let name = key.get_ref().as_ref();
        match (name, value.get_ref().as_table()) {
            ("provider", Some(providers)) => {
                for (key, value) in in_order(providers) {
                    let about = About::Provider(key.get_ref().to_string());
                    match value.get_ref().as_table() {
                        Some(table) => walk.table(about, None, key, table),
                        None => walk.stray("provider", key, value),
                    }
                }
            }
            ("default", Some(table)) => walk.table(About::Default, None, key, table),
            (domain, Some(table)) => {
                let domain = domain.trim_end_matches('.').to_ascii_lowercase();
                walk.table(About::Domain(domain), None, key, table);
            }
            (_, None) => walk.stray("", key, value),
        }
    }
    walk.faults
}

/// A walk through a file.
struct Walk<'w, 'o, 'text> {
    draft: &'w mut Draft<'o>,
    blocks: &'w mut Vec<Block>,
    file: &'w Source<'text>,
    faults: Vec<Diagnostic>,
}

impl Walk<'_, '_, '_> {
    fn enter(
        &mut self,
        name: &str,
        key: &Spanned<toml::de::DeString<'_>>,
        value: &str,
    ) -> DirectiveId {
        if !self.draft.has_room() && self.faults.is_empty() {
            let help = "import the files in parts";
            self.faults.push(self.file.diagnostic(key.span(), "too many directives", help));
        }
        self.draft.directive(self.file.place(key.span().start), name, value)
    }

    /// A key where only tables are expected.
    fn stray(
        &mut self,
        within: &str,
        key: &Spanned<toml::de::DeString<'_>>,
        value: &Spanned<DeValue<'_>>,
    ) {
        let name = format!("{within}{}{}", if within.is_empty() { "" } else { "." }, key.get_ref());
        let text = self.file.text.get(value.span()).unwrap_or_default();
        let id = self.enter(&name, key, text);
        self.draft.not_taken(id, "it stands outside of a table of options");
    }

    fn table(
        &mut self,
        about: About,
        source: Option<String>,
        key: &Spanned<toml::de::DeString<'_>>,
        table: &DeTable<'_>,
    ) {
        let name = title(&about, source.as_deref());
        let header = self.enter(&format!("[{name}]"), key, "");
        let base = table.iter().any(|(key, value)| {
            key.get_ref() == "replace_base" && value.get_ref().as_bool() == Some(true)
        });
        let place = self.draft.place(header).clone();
        let known = self.blocks.iter().position(|one| one.about == about && one.source == source);
        let at = match known {
            Some(at) => {
                let earlier = self.blocks[at].header;
                self.draft.taken(
                    header,
                    format!("joined with the table in {}", self.draft.place(earlier)),
                );
                if base {
                    let block = &mut self.blocks[at];
                    let all = block.automation.drain(..).flatten().chain(block.settings.drain(..));
                    let ids: Vec<DirectiveId> = all.map(|setting| setting.id).collect();
                    for id in ids {
                        self.draft.not_taken(id, format!("replace_base in {place} drops it"));
                    }
                }
                at
            }
            None => {
                let (settings, automation) = (Vec::new(), Vec::new());
                self.blocks.push(Block {
                    about: about.clone(),
                    source: source.clone(),
                    header,
                    settings,
                    automation,
                });
                self.blocks.len() - 1
            }
        };
        for (key, value) in in_order(table) {
            let option = key.get_ref().as_ref();
            match (option, value.get_ref()) {
                ("sources", DeValue::Table(sources)) if source.is_none() => {
                    for (key, value) in in_order(sources) {
                        match value.get_ref().as_table() {
                            Some(table) => {
                                self.table(
                                    about.clone(),
                                    Some(key.get_ref().to_string()),
                                    key,
                                    table,
                                );
                            }
                            None => self.stray(&format!("{name}.sources"), key, value),
                        }
                    }
                }
                ("automation", DeValue::Array(items)) => {
                    for item in items {
                        let settings = self.automation(&name, key, item);
                        self.blocks[at].automation.push(settings);
                    }
                }
                _ => {
                    let setting = self.setting(&format!("{name}.{option}"), key, value);
                    let again =
                        self.blocks[at].settings.iter().position(|one| one.key == setting.key);
                    if let Some(again) = again {
                        let earlier = self.blocks[at].settings.remove(again);
                        let words =
                            format!("{} says it again, and later", self.draft.place(setting.id));
                        self.draft.not_taken(earlier.id, words);
                    }
                    self.blocks[at].settings.push(setting);
                }
            }
        }
    }

    fn automation(
        &mut self,
        within: &str,
        key: &Spanned<toml::de::DeString<'_>>,
        item: &Spanned<DeValue<'_>>,
    ) -> Vec<Setting> {
        match item.get_ref().as_table() {
            Some(table) => table
                .iter()
                .map(|(key, value)| {
                    self.setting(&format!("{within}.automation.{}", key.get_ref()), key, value)
                })
                .collect(),
            None => vec![self.setting(&format!("{within}.automation"), key, item)],
        }
    }

    fn setting(
        &mut self,
        name: &str,
        key: &Spanned<toml::de::DeString<'_>>,
        value: &Spanned<DeValue<'_>>,
    ) -> Setting {
        let text = self.file.text.get(value.span()).unwrap_or_default();
        let id = self.enter(name, key, text);
        Setting { key: key.get_ref().to_string(), value: read_value(value.get_ref(), DEEPEST), id }
    }
}

/// The fields of a table as they stand in the file.
fn in_order<'a, 'text>(
    table: &'a DeTable<'text>,
) -> Vec<(&'a Spanned<toml::de::DeString<'text>>, &'a Spanned<DeValue<'text>>)> {
    let mut fields: Vec<_> = table.iter().collect();
    fields.sort_by_key(|(key, _)| key.span().start);
    fields
}

fn title(about: &About, source: Option<&str>) -> String {
    let mut title = match about {
        About::Default => "default".to_owned(),
        About::Provider(name) => format!("provider.{}", shown(name)),
        About::Domain(name) => format!("\"{}\"", shown(name)),
    };
    if let Some(source) = source {
        title += &format!(".sources.{}", shown(source));
    }
    title
}

fn read_value(value: &DeValue<'_>, depth: usize) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Boolean(flag) => Value::Flag(*flag),
        DeValue::Integer(number) => {
            u64::from_str_radix(number.as_str(), number.radix()).map_or(Value::Other, Value::Whole)
        }
        DeValue::Array(items) if depth > 0 => {
            Value::List(items.iter().map(|item| read_value(item.get_ref(), depth - 1)).collect())
        }
        DeValue::Table(table) if depth > 0 => Value::Table(
            table
                .iter()
                .map(|(key, value)| {
                    (key.get_ref().to_string(), read_value(value.get_ref(), depth - 1))
                })
                .collect(),
        ),
        _ => Value::Other,
    }
}

impl Block {
    fn setting(&self, key: &str) -> Option<&Setting> {
        self.settings.iter().find(|setting| setting.key == key)
    }
}

/// Makes rules of all tables.
fn translate(draft: &mut Draft<'_>, blocks: &[Block]) {
    let mut rules: Vec<DraftRule> = Vec::new();
    for block in blocks {
        let mut rule = hosts(draft, block, blocks);
        // Limits with names are compared with those of the table, so they come last.
        let (named, plain): (Vec<&Setting>, Vec<&Setting>) =
            block.settings.iter().partition(|setting| setting.key.starts_with("additional_"));
        for setting in plain.into_iter().chain(named) {
            options::setting(draft, block, &mut rule, setting);
        }
        for item in &block.automation {
            automation::reaction(draft, block, &rule, item);
        }
        rules.push(rule);
    }
    for at in 0..rules.len() {
        for other in layers(blocks, at) {
            let below = rules[other].clone();
            if below.unreachable.is_none() {
                rules[at].complete_from(&below);
            }
        }
    }
    draft.rules = rules;
}

/// The tables whose options hold below those of the table `at`, the nearest first. The default is inherited by
/// all rules anyway.
fn layers(blocks: &[Block], at: usize) -> Vec<usize> {
    let block = &blocks[at];
    if block.settings.is_empty() {
        return Vec::new();
    }
    let mut below = Vec::new();
    let find = |about: &About, source: Option<&String>| {
        blocks.iter().position(|one| one.about == *about && one.source.as_ref() == source)
    };
    if block.source.is_some() {
        below.extend(find(&block.about, None));
    }
    if let About::Domain(domain) = &block.about {
        let provider = blocks.iter().find(|one| one.source.is_none() && names_domain(one, domain));
        if let Some(provider) = provider {
            if block.source.is_some() {
                below.extend(find(&provider.about, block.source.as_ref()));
            }
            below.extend(find(&provider.about, None));
        }
    }
    below
}

/// Whether a provider's `match` names a domain, or the MX hosts of the shipped rule that the domain belongs to.
fn names_domain(block: &Block, domain: &str) -> bool {
    let About::Provider(_) = &block.about else { return false };
    let shipped = super::domains::hosts_of(&super::ImportOptions::default(), domain);
    matches_of(block).into_iter().any(|(kind, text)| {
        let text = text.trim_end_matches('.').to_ascii_lowercase();
        match kind {
            "DomainSuffix" => {
                format!(".{domain}").ends_with(&format!(".{}", text.trim_start_matches('.')))
            }
            "MXSuffix" => {
                shipped.as_ref().is_some_and(|hosts| hosts.iter().all(|mask| mask.ends_with(&text)))
            }
            _ => shipped.as_ref().is_some_and(|hosts| hosts.contains(&text)),
        }
    })
}

/// The clauses of `match`: `MXSuffix`, `DomainSuffix`, `HostName`, or another word as it stands.
fn matches_of(block: &Block) -> Vec<(&str, &str)> {
    let Some(Setting { value: Value::List(items), .. }) = block.setting("match") else {
        return Vec::new();
    };
    items
        .iter()
        .filter_map(|item| match item {
            Value::Table(fields) => fields.first(),
            _ => None,
        })
        .filter_map(|(kind, value)| match value {
            Value::Text(text) => Some((kind.as_str(), text.as_str())),
            _ => None,
        })
        .collect()
}

/// A rule for the MX hosts of a table.
fn hosts(draft: &mut Draft<'_>, block: &Block, blocks: &[Block]) -> DraftRule {
    let label = match &block.about {
        About::Default => "default",
        About::Provider(name) | About::Domain(name) => name,
    };
    let label = match &block.source {
        Some(source) => format!("{label} from {source}"),
        None => label.to_owned(),
    };
    let mut rule = DraftRule::new(&label, block.header);
    rule.rank = match (&block.about, block.source.is_some()) {
        (About::Domain(_), true) => 0,
        (About::Domain(_), false) => 1,
        (About::Provider(_), true) => 2,
        (About::Provider(_), false) => 3,
        (About::Default, true) => 4,
        (About::Default, false) => 5,
    };
    match &block.about {
        About::Default => {
            rule.masks = vec!["*".to_owned()];
            rule.scope = Scope::Path;
            draft.differs(
                block.header,
                "the generic rule: limits count per source and target address (scope `path`), there per source and site; shipped rules inherit its figures",
            );
        }
        About::Domain(domain) => {
            let (masks, unknown) = draft.masks_of(core::slice::from_ref(domain));
            if unknown.is_empty() {
                draft.differs(
                    block.header,
                    "limits hold for every domain behind these MX hosts, per source over all of them",
                );
                rule.domains = vec![domain.clone()];
            } else {
                rule.unreachable = Some(unknown_hosts(&unknown));
            }
            rule.masks = masks;
        }
        About::Provider(name) => provider(draft, block, blocks, &mut rule, name),
    }
    if let Some(source) = &block.source {
        match draft.options.sources.get(source) {
            Some(id) => rule.sources = vec![*id],
            None => {
                let source = shown(source);
                rule.unreachable = Some(format!(
                    "the egress source {source} has no number here: say --source {source}=PUBLIC_ID"
                ));
            }
        }
    }
    if let Some(why) = &rule.unreachable {
        draft.not_taken(block.header, why.clone());
    }
    rule
}

/// What to say where the MX hosts of domains are not known.
pub(super) fn unknown_hosts(domains: &[String]) -> String {
    let domain = domains.first().map_or("DOMAIN".to_owned(), |domain| shown(domain));
    format!("the MX hosts of {domain} are not known: say --lookup, or --mx {domain}=HOST")
}

fn provider(
    draft: &mut Draft<'_>,
    block: &Block,
    blocks: &[Block],
    rule: &mut DraftRule,
    name: &str,
) {
    // A table of one source takes the clauses of the provider's own table.
    let own = blocks.iter().find(|one| one.about == block.about && one.setting("match").is_some());
    let Some(own) = own else {
        rule.unreachable =
            Some(format!("provider {} has no `match`, so it applies to nothing", shown(name)));
        return;
    };
    let speaks = core::ptr::eq(own, block);
    let id = own.setting("match").map_or(block.header, |setting| setting.id);
    let clauses = matches_of(own);
    let mut suffixes = Vec::new();
    let mut said = false;
    for (kind, text) in &clauses {
        let trimmed = text.trim_end_matches('.');
        match *kind {
            "MXSuffix" | "HostName" => {
                let star = if *kind == "MXSuffix" { "*" } else { "" };
                match mask_of(&format!("{star}{trimmed}")) {
                    Some(mask) if !rule.masks.contains(&mask) => rule.masks.push(mask),
                    Some(_) => {}
                    None if speaks => {
                        draft.not_taken(id, format!("{text} is no part of a host name"));
                        said = true;
                    }
                    None => {}
                }
                if speaks && trimmed != *text {
                    draft.differs(
                        id,
                        format!("{text} ends with a dot and never matched there; here it does"),
                    );
                    said = true;
                }
            }
            "DomainSuffix" => suffixes.push(trimmed.trim_start_matches('.').to_ascii_lowercase()),
            other if speaks => {
                draft.not_taken(id, format!("{other} is no clause that is known here"));
                said = true;
            }
            _ => {}
        }
    }
    let (masks, unknown) = draft.masks_of(&suffixes);
    for mask in masks {
        if !rule.masks.contains(&mask) {
            rule.masks.push(mask);
        }
    }
    rule.domains = suffixes.iter().filter(|one| !unknown.contains(one)).cloned().collect();
    if speaks {
        if !unknown.is_empty() {
            draft.not_taken(id, unknown_hosts(&unknown));
        } else if !suffixes.is_empty() {
            draft.differs(id, "DomainSuffix as the MX hosts of the domain itself; domains below it are not looked at");
        } else if !said {
            draft.differs(
                id,
                "a host is matched by itself; there, all MX hosts of a domain must match",
            );
        }
    }
    if rule.masks.is_empty() {
        rule.unreachable = Some(match unknown.is_empty() {
            true => format!("`match` of provider {} names no MX host", shown(name)),
            false => unknown_hosts(&unknown),
        });
    }
}

/// TLS by recipient domain, where the MX hosts are not known.
fn recipient_tls(draft: &mut Draft<'_>, domain: &str, policy: crate::TlsPolicy, id: DirectiveId) {
    let Some(mask) = mask_of(domain) else { return };
    draft.recipients.push(DraftRecipients {
        label: domain.to_owned(),
        masks: vec![mask],
        relay: Vec::new(),
        tls: Some(policy),
        sign: None,
        directives: vec![id],
    });
    draft.taken(id, format!("domain rule: tls = {policy}"));
}
