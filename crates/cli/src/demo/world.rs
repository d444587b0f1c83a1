//! The world of a demonstration: the lab with the limits that the compiled rules state, and the
//! configuration of the node that sends to it.
//!
//! What "limit" means on the receiving side comes from one place only: the rule set that the node
//! compiles too, at the same level, for each MX host of a provider and each source
//! ([`promise_of`]). The lab is told these figures before it starts and judges by them.
//!
//! Absences: nothing of it leads outside 127.0.0.0/8. The lab refuses other addresses, and the
//! configuration says `only_targets = ["127.0.0.0/8"]`.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lab::{Lab, LabConfig, Promise, ProviderConfig, ReturnsConfig, SourceName, Span, TextRecord};
use mail::id::SourceId;
use node::config::Config;
use node::dkim::{DkimKeyText, DkimKeys};
use node::prepare::{AddressSpec, ContentSpec, TemplateSpec};
use rules::{Level, Levels, RuleSet, Scope};

use crate::exit::Failure;

/// The domain that the campaign is sent from.
pub(crate) const SENDER_DOMAIN: &str = "riverside-shop.example";
/// How the configuration begins that may be written anew.
const MARK: &str = "# Written by `mailweir demo`.";
/// The configuration in the folder of a demonstration.
const CONFIG_FILE: &str = "mailweir.toml";
/// The name of the node.
pub(crate) const NODE: &str = "demo";
/// Queue and log, in the folder of a demonstration.
const DATA_DIR: &str = "data";
/// Three sources.
pub(crate) const SOURCES: [(u32, Ipv4Addr); 3] = [
    (1, Ipv4Addr::new(127, 0, 0, 11)),
    (2, Ipv4Addr::new(127, 0, 0, 12)),
    (3, Ipv4Addr::new(127, 0, 0, 13)),
];
/// Where mail for the return path is taken; nobody else listens there.
pub(crate) const RETURN_PATH: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 14);
/// Open files that are not connections: database, log, listeners of the lab.
const OTHER_FILES: u64 = 300;
/// Open files for each connection: our end, the lab's end, and its means to look at it.
const FILES_PER_CONNECTION: u64 = 3;

/// What stands for the providers in tables.
pub(crate) const NO_HOST: &str = "no mail host";

/// A provider as the demonstration sees it.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Its name for people.
    pub(crate) name: String,
    /// Its name in the lab; empty: domains for which there is no host at all.
    pub(crate) lab_name: String,
    /// Its domains.
    pub(crate) domains: Vec<String>,
    /// What the rules allow, per source.
    pub(crate) promise: Promise,
}

/// Where each domain belongs.
#[derive(Clone, Debug)]
pub(crate) struct World {
    /// The lab's configuration, with the promises.
    pub(crate) lab: LabConfig,
    /// The rules, as the node compiles them.
    pub(crate) rules: RuleSet,
    /// The providers; the last has no hosts.
    pub(crate) plans: Vec<Plan>,
    /// Place in `plans` by domain.
    pub(crate) by_domain: HashMap<String, usize>,
}

impl World {
    /// The demonstration's internet at a level, which sends back to this listener.
    ///
    /// # Errors
    /// The shipped rules cannot be compiled.
    pub(crate) fn new(seed: u64, level: Level, return_path: SocketAddr) -> Result<Self, Failure> {
        let rules = crate::globals::rule_set(None, rules::shipped(), &Levels::all(level))?;
        let mut lab = lab::internet::demo(seed);
        lab.returns = Some(ReturnsConfig {
            to: return_path,
            after: Span::from_millis(300),
            complaints_to: None,
        });
        let mut plans = Vec::with_capacity(lab.providers.len() + 1);
        let names: Vec<String> = lab.providers.iter().map(|found| found.name.clone()).collect();
        for name in names {
            let Some(provider) = lab.provider(&name) else { continue };
            let promise = promise_of(provider, &rules);
            let domains = provider.domains.iter().chain(&provider.implicit_mx).cloned().collect();
            lab.set_promise(&name, promise);
            plans.push(Plan { name: name.replace('_', " "), lab_name: name, domains, promise });
        }
        let odd = lab.null_mx.iter().chain(&lab.nxdomain).chain(&lab.servfail);
        plans.push(Plan {
            name: NO_HOST.to_owned(),
            lab_name: String::new(),
            domains: odd.cloned().collect(),
            promise: Promise::default(),
        });
        let by_domain = (0..)
            .zip(&plans)
            .flat_map(|(place, plan)| plan.domains.iter().map(move |name| (name.clone(), place)))
            .collect();
        for (id, address) in SOURCES {
            lab.source.push(SourceName { address, name: helo(id) });
        }
        let text = |name: &str, text: &str| TextRecord { name: name.into(), text: text.into() };
        let addresses = SOURCES.map(|(_, address)| format!("ip4:{address}")).join(" ");
        lab.txt.push(text(SENDER_DOMAIN, &format!("v=spf1 {addresses} -all")));
        let bounces = format!("bounce.{SENDER_DOMAIN}");
        lab.txt.push(text(&bounces, &format!("v=spf1 {addresses} -all")));
        Ok(Self { lab, rules, plans, by_domain })
    }

    /// Starts the lab.
    ///
    /// # Errors
    /// Addresses or ports cannot be had.
    pub(crate) fn start(&self, key: &DkimKeyText) -> Result<Lab, Failure> {
        let mut config = self.lab.clone();
        let keys = DkimKeys::load([key])
            .map_err(|fault| Failure::environment(format!("the key for DKIM: {fault}")))?;
        for key in keys.iter() {
            config.txt.push(TextRecord { name: key.dns_name(), text: key.dns_record() });
        }
        Lab::start(config).map_err(|fault| {
            Failure::environment(format!(
                "the lab cannot start: {fault:#}\nIt needs the addresses 127.1.0.0 to 127.1.210.255 \
                 of this machine's loopback, as every Linux machine has them."
            ))
        })
    }
}

/// The HELO name of a source.
fn helo(id: u32) -> String {
    format!("out{id}.{SENDER_DOMAIN}")
}

/// What the rules allow one source at a provider: the sum over the budgets that its MX hosts fall
/// under, because each of them may be full at the same time.
fn promise_of(provider: &ProviderConfig, rules: &RuleSet) -> Promise {
    let mut most = (0_u64, 0_u32, 0_u64);
    for (id, _) in SOURCES {
        let source = SourceId(id);
        let mut budgets = BTreeSet::new();
        for mx in &provider.mx {
            let rule = rules.find(&mx.host, source);
            for address in &mx.addresses {
                let path = rules.rule(rule).scope == Scope::Path;
                budgets.insert((rule, path.then_some(*address)));
            }
        }
        for domain in &provider.implicit_mx {
            // Without an MX record the host has the name of the domain.
            budgets.insert((rules.find(domain, source), None));
        }
        let limits = || budgets.iter().map(|(rule, _)| rules.limits(*rule, source));
        most.0 = most.0.max(limits().map(|found| u64::from(found.max_connections)).sum());
        let on_one = limits().map(|found| found.max_messages_per_connection).max();
        most.1 = most.1.max(on_one.unwrap_or(0));
        most.2 = most.2.max(limits().map(|found| u64::from(found.messages_per_hour)).sum());
    }
    let some = |figure: u64| (figure > 0).then(|| u32::try_from(figure).unwrap_or(u32::MAX));
    Promise {
        max_connections: some(most.0),
        max_messages_per_connection: some(u64::from(most.1)),
        messages_per_hour: some(most.2),
    }
}

/// The folder of a demonstration, prepared.
#[derive(Debug)]
pub(crate) struct Folder {
    /// Where everything is.
    pub(crate) path: PathBuf,
    /// Removed with everything in it when this is dropped.
    temporary: Option<tempfile::TempDir>,
}

impl Folder {
    /// The folder that was asked for, or a temporary one.
    ///
    /// # Errors
    /// It cannot be made, or somebody else's configuration is in it.
    pub(crate) fn prepare(wanted: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = wanted else {
            let made = tempfile::Builder::new().prefix("mailweir-demo-").tempdir();
            let made = made.map_err(|fault| {
                let place = std::env::temp_dir();
                Failure::environment(format!(
                    "cannot make a folder in {}: {fault}; name one with --data-dir",
                    place.display()
                ))
            })?;
            return Ok(Self { path: made.path().to_owned(), temporary: Some(made) });
        };
        fs::create_dir_all(path).map_err(|fault| cannot_write(path, &fault))?;
        let path = fs::canonicalize(path).map_err(|fault| cannot_write(path, &fault))?;
        let config = path.join(CONFIG_FILE);
        match fs::read_to_string(&config) {
            Ok(text) if !text.starts_with(MARK) => Err(Failure::environment(format!(
                "{} is not of a demonstration and was left as it is; name another folder with \
                 --data-dir",
                config.display()
            ))),
            Err(fault) if fault.kind() != std::io::ErrorKind::NotFound => {
                Err(Failure::environment(format!("cannot read {}: {fault}", config.display())))
            }
            _ => Ok(Self { path, temporary: None }),
        }
    }

    /// Lets a temporary folder stay after the end.
    pub(crate) fn keep(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            self.path = temporary.keep();
        }
    }

    /// Whether it stays after the end.
    pub(crate) fn stays(&self) -> bool {
        self.temporary.is_none()
    }

    /// The configuration.
    pub(crate) fn config_file(&self) -> PathBuf {
        self.path.join(CONFIG_FILE)
    }

    /// The data folder of the node.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.path.join(DATA_DIR)
    }

    /// The key for DKIM of this folder, made where there is none.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub(crate) fn dkim_key(&self) -> Result<DkimKeyText, Failure> {
        let path = self.path.join("dkim.pem");
        if !path.exists() {
            // RFC 8410: the frame of a private key for Ed25519, then its 32 octets.
            const FRAME: [u8; 16] = [
                0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22,
                0x04, 0x20,
            ];
            let octets = [&FRAME[..], &random()?].concat();
            let text = STANDARD.encode(octets);
            let pem = format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n");
            write_private(&path, &pem)?;
        }
        let pem = fs::read_to_string(&path).map_err(|fault| {
            Failure::environment(format!("cannot read {}: {fault}", path.display()))
        })?;
        Ok(DkimKeyText { domain: SENDER_DOMAIN.into(), selector: "demo".into(), pem })
    }

    /// Writes the configuration of the node and reads it as every other.
    ///
    /// # Errors
    /// It cannot be written, or does not fit this machine.
    pub(crate) fn configure(
        &self,
        lab: &Lab,
        level: Level,
        listeners: (SocketAddr, Option<SocketAddr>),
    ) -> Result<Config, Failure> {
        let key = self.path.join("return-path.key");
        if !key.exists() {
            let text: String = random()?.iter().map(|octet| format!("{octet:02x}")).collect();
            write_private(&key, &text)?;
        }
        let path = self.config_file();
        let text = config_text(lab, level, listeners);
        fs::write(&path, text).map_err(|fault| cannot_write(&path, &fault))?;
        Config::load(&path).map_err(|fault| Failure::environment(fault.to_string()))
    }
}

fn cannot_write(path: &Path, fault: &std::io::Error) -> Failure {
    Failure::environment(format!("cannot write {}: {fault}", path.display()))
}

/// Writes a file that only its owner may read.
fn write_private(path: &Path, text: &str) -> Result<(), Failure> {
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|fault| cannot_write(path, &fault))
}

/// Random octets of the system.
fn random() -> Result<[u8; 32], Failure> {
    let mut octets = [0; 32];
    fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut octets))
        .map_err(|fault| Failure::environment(format!("cannot read /dev/urandom: {fault}")))?;
    Ok(octets)
}

/// Connections that the limit of open files leaves room for.
fn connections_max() -> u64 {
    let text = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    let files = soft.unwrap_or(1_024);
    (files.saturating_sub(OTHER_FILES) / FILES_PER_CONNECTION).clamp(50, 2_000)
}

/// `listeners`: for the return path, and for HTTP.
fn config_text(
    lab: &Lab,
    level: Level,
    (return_path, http): (SocketAddr, Option<SocketAddr>),
) -> String {
    let mut sources = String::new();
    for (id, address) in SOURCES {
        let name = helo(id);
        sources += &format!(
            "\n[[source]]\npublic_id = {id}\naddress = \"{address}\"\nhelo = \"{name}\"\n"
        );
    }
    let http = http.map(|address| format!("\"{address}\"")).unwrap_or_default();
    format!(
        r#"{MARK} Everything in it stays on this machine: see [safety].
data_dir = "{DATA_DIR}"

[node]
name = "{NODE}"
{sources}
[rules]
level = "{level}"

[smtp_client]
# The lab listens here. Its certificates are made up, so nobody vouches for them.
port = {port}
tls_verify = "never"
idle_timeout = "2s"
max_connections_total = {connections}

[dns]
servers = ["{dns}"]

[safety]
only_targets = ["127.0.0.0/8"]

[return_path]
domain = "bounce.{SENDER_DOMAIN}"
keys = [{{ file = "return-path.key" }}]

[inmail]
# Bounces, complaints and replies come back here.
listen = ["{return_path}"]

[sender]
domain = "{SENDER_DOMAIN}"
unsubscribe_base_url = "https://news.{SENDER_DOMAIN}/unsubscribe/"
unsubscribe_mailto = "unsubscribe@{SENDER_DOMAIN}"
feedback_id_sender = "riverside"

[[dkim]]
domain = "{SENDER_DOMAIN}"
selector = "demo"
key_file = "dkim.pem"

[submission]
listen = []

[http]
listen = [{http}]

[log]
rotate_bytes = 107374182400
"#,
        port = lab.port(),
        dns = lab.dns_address(),
        connections = connections_max(),
    )
}

/// The campaign: subject, HTML and text, all personalised.
pub(crate) fn campaign() -> ContentSpec {
    ContentSpec::Template(TemplateSpec {
        from: AddressSpec {
            name: "Riverside Shop".into(),
            address: format!("news@{SENDER_DOMAIN}"),
        },
        to_name: "{{ first_name }} {{ last_name }}".into(),
        subject: concat!(
            "{% if language == 'de' %}{{ first_name }}, der Frühling kommt nach {{ city }}",
            "{% elif language == 'fr' %}{{ first_name }}, le printemps arrive à {{ city }}",
            "{% else %}{{ first_name }}, spring comes to {{ city }}{% endif %}"
        )
        .into(),
        html: Some(HTML.into()),
        text: Some(TEXT.into()),
        ..TemplateSpec::default()
    })
}

const TEXT: &str = "\
{% if language == 'de' %}Guten Tag {{ first_name }},

in {{ city }} wird es Frühling, und bei uns gibt es alles für den Garten.
{% elif language == 'fr' %}Bonjour {{ first_name }},

le printemps arrive à {{ city }}, et nous avons tout pour le jardin.
{% else %}Hello {{ first_name }},

spring comes to {{ city }}, and we have everything for the garden.
{% endif %}
Your customer number is {{ customer }}.

Riverside Shop
";

const HTML: &str = r#"<!doctype html>
<html lang="{{ language }}">
<body style="font-family: sans-serif; max-width: 36em; margin: auto">
{% if language == 'de' %}<h1>Guten Tag {{ first_name }}</h1>
<p>In {{ city }} wird es Frühling, und bei uns gibt es alles für den Garten.</p>
{% elif language == 'fr' %}<h1>Bonjour {{ first_name }}</h1>
<p>Le printemps arrive à {{ city }}, et nous avons tout pour le jardin.</p>
{% else %}<h1>Hello {{ first_name }}</h1>
<p>Spring comes to {{ city }}, and we have everything for the garden.</p>
{% endif %}<ul>
<li>Seeds and bulbs</li>
<li>Tools that last</li>
<li>Pots, baskets and watering cans</li>
</ul>
<p>Customer {{ customer }}: {{ first_name }} {{ last_name }}, {{ city }}</p>
</body>
</html>
"#;
