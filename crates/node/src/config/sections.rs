//! From the text to a [`Config`], section by section. What concerns one value is checked here; what
//! concerns several of them together in `check`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use engine::work::RetrySchedule;
use mail::address::{Domain, Mailbox};
use mail::id::{Priority, SourceId};
use mail::mask::Mask;
use rules::{Diagnostic, Level, Levels, TlsPolicy};
use toml::de::DeTable;

use super::check::{self, PlacedSource};
use super::deliverability::{read_deliverability, read_recipient_rules};
use super::faults::Faults;
use super::inmail::{Surroundings, read_inmail};
use super::quarantine::{
    QuarantineConfig, read_bounce_rules, read_quarantine, read_reaction_rules,
};
use super::read::{Found, Reading, SecretReader, SecretSource, Section, suggestion};
use super::{
    AffinityConfig, Automatic, CircuitBreakerConfig, Config, DkimAlgorithm, DkimConfig, DnsConfig,
    HttpConfig, HttpToken, Ipv6, LimitsConfig, LogConfig, LogFormat, NodeConfig, RelayConfig,
    RelayHost, ReturnPathConfig, Role, RulesConfig, SenderConfig, SmtpClientConfig, SourceConfig,
    StoreConfig, SubmissionConfig, SubmissionUser, TargetPolicy, TlsFiles, TlsVerify, WarmUpConfig,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
const MIB: u64 = 1 << 20;

/// Reads and checks everything.
pub(super) fn read(
    text: &str,
    file: &str,
    folder: &Path,
    secrets: &SecretReader<'_>,
) -> Result<Config, Vec<Diagnostic>> {
    read_with(text, file, secrets, |root| read_root(root, folder))
}

/// Reads `[quarantine]` of a file and looks at nothing else of it.
///
/// # Errors
/// The text is no TOML, or its `[quarantine]` has faults.
pub(super) fn read_quarantine_alone(
    text: &str,
    file: &str,
) -> Result<QuarantineConfig, Vec<Diagnostic>> {
    let none = |_: SecretSource<'_>| Err("no secret is read here".to_owned());
    read_with(text, file, &none, |root| {
        root.require("quarantine");
        read_quarantine(root.section("quarantine"))
    })
}

/// Reads a text section by section.
fn read_with<T>(
    text: &str,
    file: &str,
    secrets: &SecretReader<'_>,
    read: impl FnOnce(Section<'_>) -> T,
) -> Result<T, Vec<Diagnostic>> {
    // A byte order mark is what some editors leave; it says nothing.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let reading = Reading { faults: Faults::new(file, text), secrets };
    let (table, syntax) = DeTable::parse_recoverable(text);
    if !syntax.is_empty() {
        // What a broken text seems to say would give faults that are none.
        reading.faults.hide_by_guess();
        for error in syntax {
            let end = text.len();
            reading.faults.add(&error.span().unwrap_or(end..end), error.message());
        }
        return Err(reading.faults.finish());
    }
    let config = read(Section::root(&reading, table.get_ref()));
    if reading.faults.is_empty() { Ok(config) } else { Err(reading.faults.finish()) }
}

/// Every section. What could not be read has its default; the caller throws that away.
fn read_root(root: Section<'_>, folder: &Path) -> Config {
    let data_dir = root.text("data_dir").map_or("/var/lib/mailweir".into(), |path| path.value);
    let data_dir = folder.join(data_dir);
    let node = read_node(root.section("node"));
    let placed: Vec<PlacedSource> =
        root.sections("source").into_iter().filter_map(read_source).collect();
    check::sources(&root, &placed);
    let mut sources: Vec<SourceConfig> = placed.into_iter().map(|placed| placed.source).collect();
    sources.sort_by_key(|source| source.id);
    let affinities = check::affinities(root.sections("affinity"), &sources);
    let rules = read_rules(root.section("rules"), folder, &sources, &affinities);
    let warm_up = read_warm_up(root.section("warm_up"));
    let smtp_client = read_smtp_client(root.section("smtp_client"), folder);
    let submission = check::submission(root.section("submission"), folder, &sources, &affinities);
    let dns = read_dns(root.section("dns"), &sources, &submission);
    let relays = root.sections("relay").into_iter().filter_map(read_relay).collect();
    let safety = read_safety(root.section("safety"));
    let return_path = read_return_path(root.section("return_path"));
    let sender = read_sender(root.section("sender"));
    let dkim = read_dkim(root.sections("dkim"), folder);
    let surroundings = Surroundings {
        folder,
        data_dir: &data_dir,
        hostname: &submission.hostname,
        return_path: return_path.as_ref(),
        sender: &sender,
    };
    let inmail = read_inmail(root.section("inmail"), root.sections("mailbox"), &surroundings);
    let quarantine = read_quarantine(root.section("quarantine"));
    let bounce_rules = read_bounce_rules(root.section("bounce_rules"), folder);
    let reaction_rules = read_reaction_rules(root.section("reaction_rules"), folder);
    let domain_rules = read_recipient_rules(root.section("domain_rules"), folder);
    let format_rules = read_recipient_rules(root.section("format_rules"), folder);
    let deliverability = read_deliverability(root.section("deliverability"), folder);
    let http = read_http(root.section("http"));
    let (retry, validity) = read_retry(root.section("retry"));
    let circuit_breaker = read_circuit_breaker(root.section("circuit_breaker"));
    let limits = read_limits(root.section("limits"));
    let store = read_store(root.section("store"));
    let log = read_log(root.section("log"), &data_dir, folder);
    root.finish();
    Config {
        folder: folder.to_owned(),
        node,
        data_dir,
        sources,
        affinities,
        rules,
        warm_up,
        smtp_client,
        dns,
        relays,
        safety,
        return_path,
        sender,
        dkim,
        submission,
        inmail,
        quarantine,
        bounce_rules,
        reaction_rules,
        domain_rules,
        format_rules,
        deliverability,
        http,
        retry,
        validity,
        circuit_breaker,
        limits,
        store,
        log,
    }
}

fn read_node(section: Section<'_>) -> NodeConfig {
    let name = section.parsed("name", |name| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        match name {
            "" => Err("it is empty"),
            _ if name.len() > 63 => Err("it is longer than 63 characters"),
            _ if !name.chars().all(allowed) => Err("only letters, digits, `-`, `_` and `.`"),
            _ => Ok(name.to_owned()),
        }
    });
    section.finish();
    NodeConfig { name: name.map_or("node".into(), |found| found.value) }
}

/// A source; `None` when a part without which it is none is missing or wrong.
fn read_source(section: Section<'_>) -> Option<PlacedSource> {
    let id = section.number("public_id", 1..=u32::MAX);
    for key in ["public_id", "address", "helo"] {
        section.require(key);
    }
    let address = section.parsed("address", read_address);
    let public = section.parsed("public_address", read_address);
    let helo = section.parsed("helo", Domain::parse);
    let weight = section.number_or("weight", 1..=1_000_000, 1_u32);
    let include_domains = read_masks(&section, "include_domains");
    let exclude_domains = read_masks(&section, "exclude_domains");
    let messages_per_hour = section.number("messages_per_hour", 1..=u32::MAX).map(|f| f.value);
    if let (Some(address), Some(public)) = (&address, &public)
        && address.value.is_ipv4() != public.value.is_ipv4()
    {
        section
            .faults()
            .add(&public.at, "`source.public_address` is of another family than `address`");
    }
    section.finish();
    let (id, address, helo) = (id?, address?, helo?);
    Some(PlacedSource {
        id_at: id.at,
        address_at: public.as_ref().map_or(address.at, |public| public.at.clone()),
        helo_at: helo.at,
        source: SourceConfig {
            id: SourceId(id.value),
            address: address.value,
            public_address: public.map_or(address.value, |public| public.value),
            helo: helo.value,
            weight,
            include_domains: include_domains.unwrap_or_default(),
            exclude_domains: exclude_domains.unwrap_or_default(),
            messages_per_hour,
        },
    })
}

/// An address that a host can have.
fn read_address(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|_| format!("{text:?} is not an IP address"))?;
    if address.is_unspecified()
        || address.is_multicast()
        || address == IpAddr::V4(Ipv4Addr::BROADCAST)
    {
        return Err(format!("{address} is not the address of one host"));
    }
    Ok(address.to_canonical())
}

fn read_masks(section: &Section<'_>, key: &'static str) -> Option<Vec<Mask>> {
    let masks = section.parsed_list(key, |text| {
        if text.is_empty() || text.len() > 253 || text.contains(char::is_whitespace) {
            return Err("a mask is a domain of 1 to 253 characters with `*` and `?`".to_owned());
        }
        // U-labels are what people write; recipients' domains come in A-labels.
        if text.is_ascii() {
            return Ok(Mask::new(text));
        }
        Domain::parse(text)
            .map(|domain| Mask::new(domain.as_str()))
            .map_err(|why| format!("{why}; write a mask with `*` in A-labels (xn--...)"))
    })?;
    Some(masks.into_iter().map(|found| found.value).collect())
}

fn read_rules(
    section: Section<'_>,
    folder: &Path,
    sources: &[SourceConfig],
    affinities: &[AffinityConfig],
) -> RulesConfig {
    let words = Level::ALL.map(|level| (level.word(), level));
    let mx = section.text("mx").map(|path| folder.join(path.value));
    let mut levels = Levels::all(section.choice("level", &words, Level::Normal));
    let overrides = section.section("levels");
    for (key, level) in read_levels(&overrides.section("sources")) {
        for id in check::source_list(&key, sources, section.faults()) {
            if levels.per_source.insert(id, level).is_some() {
                let message = format!("source {} has two levels", id.0);
                section.faults().add(&key.at, message);
            }
        }
    }
    for (key, level) in read_levels(&overrides.section("rules")) {
        levels.per_rule.insert(key.value, level);
    }
    for affinity in affinities {
        let members = affinity.sources.iter().copied().collect();
        levels.affinities.insert(affinity.name.clone(), members);
    }
    for (key, level) in read_levels(&overrides.section("affinities")) {
        if !levels.affinities.contains_key(&key.value) {
            let known: Vec<&str> = affinities.iter().map(|one| one.name.as_str()).collect();
            let message = format!("there is no affinity {:?}", key.value);
            section.faults().add_with_help(&key.at, message, suggestion(&key.value, &known));
        }
        levels.per_affinity.insert(key.value, level);
    }
    for (key, level) in read_levels(&overrides.section("sources_at_rules")) {
        // "1,3-5 google": the sources, then the rule.
        let Some((list, rule)) = key.value.rsplit_once(' ') else {
            let message = "sources and a rule, such as \"1,3-5 google\"";
            section.faults().add(&key.at, message);
            continue;
        };
        let list = Found { value: list.trim().to_owned(), at: key.at.clone() };
        for id in check::source_list(&list, sources, section.faults()) {
            levels.per_source_and_rule.entry(id).or_default().insert(rule.to_owned(), level);
        }
    }
    levels.hourly_base = section.number("hourly_base", 1..=100_000_000).map(|found| found.value);
    overrides.finish();
    section.finish();
    RulesConfig { mx, levels }
}

fn read_warm_up(section: Section<'_>) -> WarmUpConfig {
    let words = [("none", Automatic::None), ("falls", Automatic::Falls), ("all", Automatic::All)];
    let automatic = section.choice("automatic", &words, Automatic::Falls);
    section.finish();
    WarmUpConfig { automatic }
}

/// The entries `"name" = "level"` of a section.
fn read_levels(section: &Section<'_>) -> Vec<(Found<String>, Level)> {
    let level = |(key, value): (Found<String>, &toml::Spanned<toml::de::DeValue<'_>>)| match value
        .get_ref()
        .as_str()
        .map(str::parse::<Level>)
    {
        Some(Ok(level)) => Some((key, level)),
        other => {
            let words = Level::ALL.map(Level::word);
            let word = value.get_ref().as_str().filter(|_| other.is_some()).unwrap_or_default();
            section.faults().add_with_help(
                &value.span(),
                format!("a level is one of {}", words.join(", ")),
                suggestion(word, &words),
            );
            None
        }
    };
    section.entries().into_iter().filter_map(level).collect()
}

/// `default` is no policy for the place that defines the default.
const TLS_WORDS: [(&str, TlsPolicy); 3] = [
    ("opportunistic", TlsPolicy::Opportunistic),
    ("required", TlsPolicy::Required),
    ("disabled", TlsPolicy::Disabled),
];

fn read_smtp_client(section: Section<'_>, folder: &Path) -> SmtpClientConfig {
    let verify = [
        ("when-required", TlsVerify::WhenRequired),
        ("always", TlsVerify::Always),
        ("never", TlsVerify::Never),
    ];
    let config = SmtpClientConfig {
        port: section.number_or("port", 1..=u16::MAX, 25),
        tls: section.choice("tls", &TLS_WORDS, TlsPolicy::Opportunistic),
        tls_verify: section.choice("tls_verify", &verify, TlsVerify::WhenRequired),
        tls_roots: read_existing_file(&section, "tls_roots", folder),
        idle_timeout: section.duration_or(
            "idle_timeout",
            Duration::ZERO..=10 * MINUTE,
            30 * SECOND,
        ),
        max_connections_total: section.number_or("max_connections_total", 1..=60_000, 2_000),
        pipelining: section.flag_or("pipelining", true),
        chunking: section.flag_or("chunking", true),
    };
    section.finish();
    config
}

/// A file that must be there.
pub(super) fn read_existing_file(
    section: &Section<'_>,
    key: &'static str,
    folder: &Path,
) -> Option<PathBuf> {
    let found = section.parsed(key, |text| {
        let path = folder.join(text);
        match std::fs::metadata(&path) {
            Ok(about) if about.is_file() => Ok(path),
            Ok(_) => Err(format!("{} is not a regular file", path.display())),
            Err(error) => Err(format!("cannot read {}: {error}", path.display())),
        }
    });
    found.map(|found| found.value)
}

fn read_dns(
    section: Section<'_>,
    sources: &[SourceConfig],
    submission: &SubmissionConfig,
) -> DnsConfig {
    let by_default = DnsConfig::default();
    let words = [("auto", Ipv6::Auto), ("on", Ipv6::On), ("off", Ipv6::Off)];
    let ipv6 = match section.choice("ipv6", &words, Ipv6::Auto) {
        Ipv6::Auto => sources.iter().any(|source| source.address.is_ipv6()),
        Ipv6::On => true,
        Ipv6::Off => false,
    };
    let own_names = section.parsed_list("own_names", Domain::parse).map_or_else(
        || {
            let helo = sources.iter().map(|source| &source.helo);
            helo.chain([&submission.hostname]).map(|name| name.as_str().to_owned()).collect()
        },
        |names| names.into_iter().map(|name| name.value.as_str().to_owned()).collect(),
    );
    let servers = section.parsed_list("servers", |text| match text.parse::<IpAddr>() {
        Ok(address) => Ok(SocketAddr::new(address, 53)),
        Err(_) => text.parse().map_err(|_| {
            format!(
                "{text:?} is no server such as \"192.0.2.53\", \"127.0.0.1:5353\" or \"[::1]:53\""
            )
        }),
    });
    let values = |list: Vec<Found<SocketAddr>>| list.into_iter().map(|f| f.value).collect();
    let min_ttl = section.duration_or("min_ttl", SECOND..=HOUR, by_default.min_ttl);
    let config = DnsConfig {
        servers: servers.map(values).unwrap_or_default(),
        ipv6,
        query_timeout: section.duration_or(
            "query_timeout",
            Duration::from_millis(50)..=30 * SECOND,
            by_default.query_timeout,
        ),
        attempts: section.number_or("attempts", 1..=10, by_default.attempts),
        route_timeout: section.duration_or(
            "route_timeout",
            SECOND..=5 * MINUTE,
            by_default.route_timeout,
        ),
        max_lookups: section.number_or("max_lookups", 1..=10_000, by_default.max_lookups),
        cache_domains: section.number_or("cache_domains", 0..=10_000_000, by_default.cache_domains),
        min_ttl,
        max_ttl: section.duration_or("max_ttl", min_ttl..=7 * DAY, by_default.max_ttl.max(min_ttl)),
        own_names,
        own_addresses: section
            .parsed_list("own_addresses", read_address)
            .map(|list| list.into_iter().map(|found| found.value).collect())
            .unwrap_or_default(),
    };
    section.finish();
    config
}

fn read_relay(section: Section<'_>) -> Option<RelayConfig> {
    let domains = read_masks(&section, "domains");
    let hosts = section.parsed_list("hosts", read_relay_host);
    let port = section.number("port", 1..=u16::MAX);
    let lmtp = section.flag_or("lmtp", false);
    let tls = section.choice("tls", &TLS_WORDS.map(|(word, policy)| (word, Some(policy))), None);
    section.require_elements("domains");
    section.require_elements("hosts");
    let common = check::relay_port(&section, hosts.as_deref().unwrap_or_default(), port.as_ref());
    section.finish();
    let hosts = hosts?.into_iter().map(|found| found.value.0).collect();
    Some(RelayConfig { domains: domains?, hosts, port: common, lmtp, tls })
}

/// `192.0.2.1`, `192.0.2.1:2525`, `::1`, `[::1]:25`, `relay.example.net`, `relay.example.net:2525`.
fn read_relay_host(text: &str) -> Result<(RelayHost, Option<u16>), String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return match address.port() {
            0 => Err("port 0 cannot be connected to".into()),
            port => Ok((RelayHost::Address(read_address(&address.ip().to_string())?), Some(port))),
        };
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if bare.parse::<IpAddr>().is_ok() {
        return Ok((RelayHost::Address(read_address(bare)?), None));
    }
    let (name, port) = match text.rsplit_once(':') {
        None => (text, None),
        Some((name, port)) => match port.parse::<u16>() {
            Ok(number) if number > 0 => (name, Some(number)),
            _ => return Err(format!("{port:?} is not a port (1 to 65535)")),
        },
    };
    let name = Domain::parse(name)
        .map_err(|why| format!("{name:?} is neither address nor host: {why}"))?;
    Ok((RelayHost::Name(name.as_str().to_owned()), port))
}

fn read_safety(section: Section<'_>) -> TargetPolicy {
    let only_targets = section.parsed_list("only_targets", str::parse);
    let policy = TargetPolicy {
        only_targets: only_targets
            .map(|list| list.into_iter().map(|found| found.value).collect())
            .unwrap_or_default(),
        allow_private_targets: section.flag_or("allow_private_targets", false),
    };
    section.finish();
    policy
}

fn read_return_path(section: Section<'_>) -> Option<ReturnPathConfig> {
    if !section.is_stated() {
        return None;
    }
    section.require("domain");
    section.require_elements("keys");
    let domain = section.parsed("domain", Domain::parse);
    let keys = section.secrets("keys").unwrap_or_default();
    for key in &keys {
        if key.value.expose().len() < 16 {
            section.faults().add_with_help(
                &key.at,
                "a key of `return_path.keys` is shorter than 16 characters",
                "`openssl rand -hex 32` makes a good one",
            );
        }
    }
    section.finish();
    Some(ReturnPathConfig {
        domain: domain?.value,
        keys: keys.into_iter().map(|k| k.value).collect(),
    })
}

fn read_sender(section: Section<'_>) -> SenderConfig {
    let header_text = |text: &str| {
        let fits =
            !text.is_empty() && text.len() <= 500 && text.bytes().all(|b| b.is_ascii_graphic());
        if fits { Ok(text.to_owned()) } else { Err("1 to 500 visible ASCII characters") }
    };
    let config = SenderConfig {
        domain: section.parsed("domain", Domain::parse).map(|found| found.value),
        unsubscribe_base_url: section
            .parsed("unsubscribe_base_url", |text| {
                let url = header_text(text)?;
                // RFC 8058: one-click needs HTTPS. `<` and `>` would end the header's value.
                if !url.starts_with("https://") || url.contains(['<', '>', ',']) {
                    return Err("it must begin with https:// and hold none of < > ,");
                }
                Ok(url)
            })
            .map(|found| found.value),
        unsubscribe_mailto: section
            .parsed("unsubscribe_mailto", |text| {
                Mailbox::parse(text).map(|mailbox| mailbox.as_str().to_owned())
            })
            .map(|found| found.value),
        feedback_id_sender: section
            .parsed("feedback_id_sender", |text| {
                let fits = (5..=15).contains(&text.len())
                    && text
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
                if fits {
                    Ok(text.to_owned())
                } else {
                    Err("5 to 15 letters, digits, `-`, `_`, `.`")
                }
            })
            .map(|found| found.value),
    };
    section.finish();
    config
}

fn read_dkim(sections: Vec<Section<'_>>, folder: &Path) -> Vec<DkimConfig> {
    let words = [
        ("auto", DkimAlgorithm::Auto),
        ("rsa-sha256", DkimAlgorithm::RsaSha256),
        ("ed25519-sha256", DkimAlgorithm::Ed25519Sha256),
    ];
    let mut keys: Vec<DkimConfig> = Vec::new();
    for section in sections {
        for key in ["domain", "selector", "key_file"] {
            section.require(key);
        }
        let domain = section.parsed("domain", Domain::parse);
        let selector = section.parsed("selector", |text| {
            Domain::parse(text).map(|selector| selector.as_str().to_owned())
        });
        let key_file = read_existing_file(&section, "key_file", folder);
        let algorithm = section.choice("algorithm", &words, DkimAlgorithm::Auto);
        if let (Some(domain), Some(selector), Some(key_file)) = (domain, selector, key_file) {
            if keys.iter().any(|k| k.domain == domain.value && k.selector == selector.value) {
                let message =
                    format!("selector {} of {} is stated twice", selector.value, domain.value);
                section.faults().add(&selector.at, message);
            }
            let (domain, selector) = (domain.value, selector.value);
            keys.push(DkimConfig { domain, selector, key_file, algorithm });
        }
        section.finish();
    }
    keys
}

/// A list of `address:port`.
pub(super) fn read_listeners(section: &Section<'_>, default: &str) -> Vec<Found<SocketAddr>> {
    section
        .parsed_list("listen", |text| {
            text.parse::<SocketAddr>().map_err(|_| {
                format!("{text:?} is no listener such as \"127.0.0.1:2587\" or \"[::1]:25\"")
            })
        })
        .unwrap_or_else(|| {
            let address = default.parse().expect("the default listener is an address with a port");
            vec![Found { value: address, at: section.at.clone() }]
        })
}

fn read_http(section: Section<'_>) -> HttpConfig {
    let roles = [("reader", Role::Reader), ("sender", Role::Sender), ("operator", Role::Operator)];
    let listen = read_listeners(&section, "127.0.0.1:2580");
    let mut tokens: Vec<HttpToken> = Vec::new();
    for entry in section.sections("tokens") {
        let name = entry.required_text("name");
        entry.require("role");
        entry.require("token");
        let role = entry.choice("role", &roles, Role::Reader);
        let token = entry.secret("token");
        if let (Some(name), Some(token)) = (name, token) {
            if token.value.expose().len() < 16 {
                entry.faults().add(&token.at, "a token needs at least 16 characters");
            }
            if tokens.iter().any(|other| other.token == token.value) {
                entry.faults().add(&token.at, "another entry has the same token");
            }
            tokens.push(HttpToken { name: name.value, role, token: token.value });
        }
        entry.finish();
    }
    let guarded = section.states("tokens");
    for listener in listen.iter().filter(|found| !found.value.ip().to_canonical().is_loopback()) {
        if !guarded {
            section.faults().add_with_help(
                &listener.at,
                format!(
                    "{} is reachable from beyond this machine, and there are no tokens",
                    listener.value
                ),
                "state `tokens` in [http], or listen on 127.0.0.1 and put a proxy in front",
            );
        }
    }
    section.finish();
    HttpConfig { listen: listen.into_iter().map(|found| found.value).collect(), tokens }
}

fn read_retry(section: Section<'_>) -> (RetrySchedule, Duration) {
    let by_default = RetrySchedule::default();
    let pause = SECOND..=30 * DAY;
    let schedule = RetrySchedule {
        steps: section.durations("steps", &pause).unwrap_or(by_default.steps),
        then_every: section.duration_or("then_every", pause.clone(), by_default.then_every),
        greylisted: section.duration_or("greylisted", pause, by_default.greylisted),
        jitter_percent: section.number_or("jitter_percent", 0..=100, by_default.jitter_percent),
    };
    let validity = section.duration_or("validity", MINUTE..=365 * DAY, 5 * DAY);
    section.finish();
    (schedule, validity)
}

fn read_circuit_breaker(section: Section<'_>) -> CircuitBreakerConfig {
    let config = CircuitBreakerConfig {
        messages: section.number_or("messages", 0..=u32::MAX, 300),
        error_percent: section.number_or("error_percent", 1..=100, 90),
        rest: section.duration_or("rest", SECOND..=7 * DAY, 3 * HOUR),
    };
    section.finish();
    config
}

fn read_limits(section: Section<'_>) -> LimitsConfig {
    let config = LimitsConfig {
        window_messages: section.number_or("window_messages", 256..=10_000_000, 50_000),
        part_messages: section.number_or("part_messages", 1..=256, 256),
        queue_messages: section.number_or("queue_messages", 1..=u64::MAX, 50_000_000),
        free_disk_bytes: section.number_or("free_disk_bytes", 0..=u64::MAX, 512 * MIB),
        content_bytes: section.number_or("content_bytes", 1..=100 * MIB, 10 * MIB),
        message_bytes: section.number_or("message_bytes", 1_024..=200 * MIB, 25 * MIB),
        merge_bytes: section.number_or("merge_bytes", 1..=MIB, 65_536),
        memory_bytes: section.number_or("memory_bytes", MIB..=u64::MAX, 1_024 * MIB),
        in_doubt_messages: section.number_or("in_doubt_messages", 1..=10_000_000, 4_000),
    };
    section.finish();
    config
}

fn read_store(section: Section<'_>) -> StoreConfig {
    let config = StoreConfig {
        keep_finished_days: section.number_or("keep_finished_days", 0..=36_500, 30),
        keep_hashes_days: section.number_or("keep_hashes_days", 0..=36_500, 180),
    };
    section.finish();
    config
}

fn read_log(section: Section<'_>, data_dir: &Path, folder: &Path) -> LogConfig {
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let config = LogConfig {
        delivery_log: section
            .text("delivery_log")
            .map_or_else(|| data_dir.join("delivery.jsonl"), |path| folder.join(path.value)),
        record_attempts: true,
        rotate_bytes: section.number_or("rotate_bytes", MIB..=u64::MAX, 1_024 * MIB),
        keep_files: section.number_or("keep_files", 0..=10_000, 10),
        level: section.text("level").map_or("info".into(), |level| level.value),
        format: section.choice("format", &formats, LogFormat::Text),
    };
    section.finish();
    config
}

/// The words of `priority`.
pub(super) const PRIORITIES: [(&str, Priority); 3] =
    [("high", Priority::High), ("normal", Priority::Normal), ("low", Priority::Low)];

/// Certificate and key; one without the other is a fault.
pub(super) fn read_tls(section: &Section<'_>, folder: &Path) -> Option<TlsFiles> {
    let certificate = read_existing_file(section, "tls_certificate", folder);
    let key = read_existing_file(section, "tls_key", folder);
    let stated: Vec<Found<String>> = section
        .entries()
        .into_iter()
        .map(|(key, _)| key)
        .filter(|key| matches!(key.value.as_str(), "tls_certificate" | "tls_key"))
        .collect();
    if let [only] = stated.as_slice() {
        section.faults().add(&only.at, "`tls_certificate` and `tls_key` need each other");
    }
    Some(TlsFiles { certificate: certificate?, key: key? })
}

/// A user of the submission listener, before its affinity was looked up.
pub(super) fn read_user(section: &Section<'_>) -> Option<(SubmissionUser, Option<Found<String>>)> {
    let name = section.required_text("name");
    section.require("password");
    let password = section.secret("password");
    let affinity = section.text("affinity");
    let priority = section.choice("priority", &PRIORITIES, Priority::High);
    let user = SubmissionUser {
        name: name?.value,
        password: password?.value,
        affinity: affinity.as_ref().map_or("default".into(), |found| found.value.clone()),
        priority,
    };
    Some((user, affinity))
}
