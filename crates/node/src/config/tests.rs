//! Texts in, configurations or faults out.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// Reads a text with the secrets `KEY` and `TOKEN` of the environment and the file `key`.
fn read(text: &str) -> Result<Config, Vec<Diagnostic>> {
    let secrets = |source: SecretSource<'_>| match source {
        SecretSource::Variable("KEY" | "TOKEN") | SecretSource::File("key") => {
            Ok(Secret::new("0123456789abcdef-secret"))
        }
        SecretSource::Variable(name) => Err(format!("the environment variable {name} is not set")),
        SecretSource::File(path) => Err(format!("cannot read {path}")),
    };
    Config::parse_with(text, "mailweir.toml", Path::new("/etc/mailweir"), &secrets).map_err(
        |error| match error {
            ConfigError::Faults(faults) => faults,
            ConfigError::Unreadable(why) => panic!("{why}"),
        },
    )
}

/// The faults, one a line, without the name of the file.
fn faults(text: &str) -> Vec<String> {
    let found = read(text).expect_err("the text is at fault");
    found
        .iter()
        .map(|fault| {
            let line = fault.to_string();
            let help =
                if fault.help.is_empty() { String::new() } else { format!(" ({})", fault.help) };
            format!("{}{help}", line.strip_prefix("mailweir.toml:").expect("begins with the file"))
        })
        .collect()
}

/// Three sources to put other sections behind.
const SOURCES: &str = r#"
[[source]]
public_id = 1
address = "192.0.2.1"
helo = "a.example.com"
[[source]]
public_id = 3
address = "192.0.2.3"
helo = "c.example.com"
[[source]]
public_id = 4
address = "10.0.0.4"
public_address = "192.0.2.4"
helo = "d.example.com"
"#;

/// How many lines `SOURCES` has before the first line behind it.
const LINES: usize = 14;

#[test]
fn the_smallest_configuration_has_all_defaults() {
    let config = read(SOURCES).unwrap();
    assert_eq!(config.data_dir, Path::new("/var/lib/mailweir"));
    assert_eq!(config.log.delivery_log, Path::new("/var/lib/mailweir/delivery.jsonl"));
    assert_eq!(config.sources.len(), 3);
    assert_eq!(config.sources[2].public_address, IpAddr::from([192, 0, 2, 4]));
    assert_eq!(config.sources[0].weight, 1);
    let default = config.sources_of("default").unwrap();
    assert_eq!(default.iter().map(|s| s.id.0).collect::<Vec<_>>(), [1, 3, 4]);
    assert!(config.sources_of("other").is_none());
    assert_eq!(config.submission.listen, ["127.0.0.1:2587".parse().unwrap()]);
    assert_eq!(config.submission.hostname.as_str(), "a.example.com");
    assert!(!config.submission.require_auth_on_loopback);
    assert_eq!(config.http.listen, ["127.0.0.1:2580".parse().unwrap()]);
    assert_eq!(config.smtp_client.tls, TlsPolicy::Opportunistic);
    assert_eq!(config.retry, RetrySchedule::default());
    assert_eq!(config.validity, Duration::from_secs(5 * 86_400));
    assert_eq!((config.circuit_breaker.messages, config.circuit_breaker.error_percent), (300, 90));
    assert!(!config.dns.ipv6);
    assert_eq!(
        config.dns.own_names,
        ["a.example.com", "c.example.com", "d.example.com", "a.example.com"]
    );
    assert!(!config.safety.allows(IpAddr::from([127, 0, 0, 1])));
    assert!(config.return_path.is_none());
}

/// What the full configuration says about mail that comes in.
fn check_inmail(config: &InmailConfig, folder: &Path) {
    let shown: Vec<&str> = config.domains.iter().map(Domain::as_str).collect();
    assert_eq!(shown, ["bounce.example.com", "example.com"]);
    let lmtp = [
        LmtpAddress::Tcp(([127, 0, 0, 1], 24).into()),
        LmtpAddress::Unix(folder.join("lmtp.sock")),
    ];
    assert_eq!(config.lmtp, lmtp);
    assert_eq!(config.listen, ["0.0.0.0:25".parse().unwrap()]);
    assert_eq!(config.hostname.as_str(), "mx.example.com");
    assert_eq!((config.max_message_bytes, config.max_connections), (1_000_000, 5));
    assert_eq!((config.max_connections_per_peer, config.workers), (2, 3));
    assert_eq!((config.backlog_files, config.aside_files, config.dump_files), (10, 11, 12));
    assert_eq!(config.aside_bytes, 2_000_000);
    assert_eq!(config.spool_period, Duration::from_secs(1));
    assert!(config.tls.is_some());
    assert_eq!(config.forward_to.as_ref().unwrap().as_str(), "ops@example.com");
    assert_eq!(config.folder, folder.join("data/inmail"));
    assert_eq!((&config.spool, &config.dump), (&folder.join("spool"), &Some(folder.join("dump"))));
    let [bounces, loops] = config.mailboxes.as_slice() else { panic!("{:?}", config.mailboxes) };
    assert_eq!((bounces.name.as_str(), bounces.server.as_str()), ("bounces", "pop.example.com"));
    assert_eq!((bounces.port, bounces.protection), (995, smtp::mailbox::Protection::Tls));
    assert_eq!((bounces.folder.as_str(), bounces.session_messages), ("INBOX", 200));
    assert_eq!(bounces.period, Duration::from_secs(300));
    assert_eq!(bounces.session_time, Duration::from_secs(100));
    assert!(bounces.tls_verify && !bounces.ignore_size);
    assert_eq!((loops.port, loops.protocol), (143, MailboxProtocol::Imap));
    assert_eq!(loops.protection, smtp::mailbox::Protection::StartTls);
    assert_eq!((loops.folder.as_str(), loops.session_messages), ("FBL", 7));
    assert_eq!(loops.timeout, Duration::from_secs(30));
    assert!(!loops.tls_verify && loops.ignore_size && loops.tls_roots.is_some());
}

#[test]
fn faults_of_inmail_are_shown_where_they_are() {
    let text = format!(
        "{SOURCES}[inmail]\nlisten = [\"127.0.0.1:25\"]\nlmtp = [\"unix:\"]\n[[mailbox]]\nname = \
         \"a\"\nserver = \"pop.example.com\"\nuser = \"u\"\n[[mailbox]]\nname = \"a\"\nserver = \
         \"-\"\nuser = \"u\"\npassword = {{ value = \"p\" }}\nprotocol = \"pop\"\n"
    );
    let found = faults(&text);
    let wanted = [
        "there is no domain to take mail for",
        "`unix:` needs a path",
        "`mailbox.password` is missing",
        "there is already a mailbox \"a\"",
        "`mailbox.server`: ",
        "`mailbox.protocol` must be one of pop3, imap, not \"pop\"",
    ];
    for part in wanted {
        assert!(found.iter().any(|fault| fault.contains(part)), "{part}: {found:#?}");
    }
    assert_eq!(found.len(), wanted.len(), "{found:#?}");
}

#[test]
fn every_section_is_read() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["dkim.pem", "tls.pem", "tls-key.pem", "roots.pem", "vp.key"] {
        std::fs::write(folder.path().join(file), "0123456789abcdef0123456789\n").unwrap();
    }
    let text = r#"
data_dir = "data"
[node]
name = "n1"
[[source]]
public_id = 0x0a
address = "2001:db8::1"
helo = "Bücher.example"
weight = 5
include_domains = ["*.example.com", "bücher.example"]
exclude_domains = ["x.example.com"]
messages_per_hour = 1_000
[[affinity]]
name = "one"
sources = "10"
[rules]
mx = "local.toml"
level = "slow"
levels.sources."10" = "very-fast"
levels.rules.google = "boost"
levels.affinities.default = "fast"
levels.sources_at_rules."10 google" = "slow"
hourly_base = 1000
[smtp_client]
port = 2525
tls = "required"
tls_verify = "always"
tls_roots = "roots.pem"
idle_timeout = "500ms"
max_connections_total = 10
pipelining = false
chunking = false
[dns]
servers = ["127.0.0.1:5353", "192.0.2.53", "[::1]:54", "::1"]
query_timeout = "1s"
attempts = 1
route_timeout = "10s"
max_lookups = 10
cache_domains = 0
min_ttl = "10s"
max_ttl = "1h"
own_names = ["mx.example"]
own_addresses = ["192.0.2.9"]
[[relay]]
domains = ["example.com", "*.corp.example"]
hosts = ["127.0.1.1:2525", "[::1]:2525", "Relay.example.net:2525"]
[[relay]]
domains = ["*"]
hosts = ["::1", "[::1]", "relay.example.net"]
lmtp = true
port = 24
tls = "disabled"
[safety]
only_targets = ["127.0.0.0/8", "::1"]
[return_path]
domain = "bounce.example.com"
keys = [{ file = "vp.key" }, { value = "another-key-of-24-octets" }]
[sender]
domain = "example.com"
unsubscribe_base_url = "https://example.com/u/"
unsubscribe_mailto = "u@example.com"
feedback_id_sender = "example"
[[dkim]]
domain = "example.com"
selector = "s1"
key_file = "dkim.pem"
algorithm = "ed25519-sha256"
[submission]
listen = ["0.0.0.0:587"]
hostname = "submit.example.com"
max_message_bytes = 1_000_000
require_auth = "always"
users = [{ name = "shop", password = { value = "hunter2" }, affinity = "one", priority = "low" }]
tls_certificate = "tls.pem"
tls_key = "tls-key.pem"
[inmail]
listen = ["0.0.0.0:25"]
lmtp = ["127.0.0.1:24", "unix:lmtp.sock"]
hostname = "mx.example.com"
max_message_bytes = 1_000_000
max_connections = 5
max_connections_per_peer = 2
tls_certificate = "tls.pem"
tls_key = "tls-key.pem"
spool = "spool"
spool_period = "1s"
backlog_files = 10
aside_files = 11
aside_bytes = 2_000_000
workers = 3
forward_to = "ops@example.com"
dump = "dump"
dump_files = 12
[[mailbox]]
name = "bounces"
server = "POP.example.com"
user = "b"
password = { value = "p" }
[[mailbox]]
name = "loops"
protocol = "imap"
encryption = "starttls"
server = "127.0.0.1"
user = "b@example.com"
password = { value = "p" }
folder = "FBL"
period = "1m"
session_messages = 7
session_time = "20s"
timeout = "30s"
ignore_size = true
tls_verify = false
tls_roots = "roots.pem"
[[mailbox]]
name = "old"
enabled = false
server = "pop.example.com"
user = "b"
password = { value = "p" }
[http]
listen = ["[::]:80"]
tokens = [{ name = "ops", role = "operator", token = { value = "0123456789abcdef" } }]
[retry]
steps = ["1m", "2m"]
then_every = "3m"
greylisted = "4m"
jitter_percent = 0
validity = "1d"
[circuit_breaker]
messages = 0
error_percent = 50
rest = "1m"
[limits]
window_messages = 1000
[store]
keep_finished_days = 7
[log]
delivery_log = "/var/log/d.jsonl"
level = "debug"
format = "json"
"#;
    let config = Config::parse(text, "x.toml", folder.path()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.data_dir, folder.path().join("data"));
    assert_eq!(config.store.keep_finished_days, 7);
    let source = &config.sources[0];
    assert_eq!((source.id.0, source.helo.as_str()), (10, "xn--bcher-kva.example"));
    assert_eq!(source.include_domains[1].as_str(), "xn--bcher-kva.example");
    assert!(config.dns.ipv6, "the source has IPv6");
    assert_eq!(config.rules.levels.per_source[&SourceId(10)], rules::Level::VeryFast);
    assert_eq!(config.rules.levels.per_rule["google"], rules::Level::Boost);
    assert_eq!(config.rules.levels.hourly_base, Some(1_000));
    let of = |rule: &str, source| config.rules.levels.of(rule, SourceId(source)).0;
    assert_eq!(of("google", 10), rules::Level::Slow);
    let servers: Vec<String> = config.dns.servers.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["127.0.0.1:5353", "192.0.2.53:53", "[::1]:54", "[::1]:53"]);
    assert_eq!(config.dns.own_names, ["mx.example"]);
    let relay = config.relay_for("a.corp.example").unwrap();
    assert_eq!((relay.port, relay.lmtp, relay.tls), (2_525, false, None));
    assert_eq!(relay.hosts[2], RelayHost::Name("relay.example.net".into()));
    let other = config.relay_for("corp.example").unwrap();
    assert_eq!((other.port, other.lmtp, other.tls), (24, true, Some(TlsPolicy::Disabled)));
    let keys = &config.return_path.as_ref().unwrap().keys;
    assert_eq!(keys[0].expose(), "0123456789abcdef0123456789");
    assert_eq!(config.retry.steps, [Duration::from_secs(60), Duration::from_secs(120)]);
    check_inmail(&config.inmail, folder.path());
    assert_eq!(config.submission.users[0].priority, Priority::Low);
    assert_eq!(config.http.tokens[0].role, Role::Operator);
    let debug = format!("{config:?}");
    for secret in ["hunter2", "another-key", "0123456789abcdef"] {
        assert!(!debug.contains(secret), "Debug shows {secret}");
    }
}

/// A section behind the sources, and the faults in it, with lines counted from the section.
fn section_faults(section: &str) -> Vec<String> {
    let shifted = |fault: String| {
        let (line, rest) = fault.split_once(':').expect("line:column");
        format!("{}:{rest}", line.parse::<usize>().expect("a line") - LINES)
    };
    faults(&format!("{SOURCES}{section}")).into_iter().map(shifted).collect()
}

#[test]
fn faults_of_single_values() {
    for (section, wanted) in [
        (
            "[smtp_client]\nprot = 25",
            "2:1: unknown key `prot` in [smtp_client] (did you mean `port`?)",
        ),
        (
            "[smtp_client]\nport = \"25\"",
            "2:8: `smtp_client.port` must be a whole number, not a string",
        ),
        ("[smtp_client]\nport = 0", "2:8: `smtp_client.port` must be 1 to 65535, not 0"),
        ("[smtp_client]\nport = -1", "2:8: `smtp_client.port` must be 1 to 65535, not -1"),
        ("[smtp_client]\nport = 65536", "2:8: `smtp_client.port` must be 1 to 65535, not 65536"),
        (
            "[smtp_client]\nport = 25.0",
            "2:8: `smtp_client.port` must be a whole number, not a float",
        ),
        (
            "[smtp_client]\nidle_timeout = \"30\"",
            "2:16: `smtp_client.idle_timeout`: a duration is a whole number and a unit: 500ms, 30s, 10m, 1h or 5d",
        ),
        (
            "[smtp_client]\nidle_timeout = 30",
            "2:16: `smtp_client.idle_timeout` must be a duration in quotes such as \"30s\" or \"10m\", not an integer",
        ),
        (
            "[smtp_client]\nidle_timeout = \"1h\"",
            "2:16: `smtp_client.idle_timeout` must be 0s to 10m, not 1h",
        ),
        (
            "[smtp_client]\npipelining = 1",
            "2:14: `smtp_client.pipelining` must be true or false, not an integer",
        ),
        (
            "[smtp_client]\ntls = \"requird\"",
            "2:7: `smtp_client.tls` must be one of opportunistic, required, disabled, not \"requird\" (did you mean `required`?)",
        ),
        (
            "[smtp_clients]",
            "1:2: unknown key `smtp_clients` at the top (did you mean `smtp_client`?)",
        ),
        ("[[node]]", "1:1: `node` must be a section, `[node]`, not an array"),
        ("[relay]", "1:1: `relay` must be a list of sections, `[[relay]]`, not a table"),
        (
            "[safety]\nonly_targets = [\"10.1.0.0/8\"]",
            "2:17: `safety.only_targets`: 10.1.0.0/8 has bits set behind its prefix; 10.0.0.0/8 may be meant",
        ),
        (
            "[safety]\nonly_targets = \"10.0.0.0/8\"",
            "2:16: `safety.only_targets` must be a list in brackets, not a string",
        ),
        (
            "[safety]\nonly_targets = [10]",
            "2:17: `safety.only_targets` must be a list of texts in quotes, not an integer",
        ),
        (
            "[dns]\nservers = [\"dns.example\"]",
            "2:12: `dns.servers`: \"dns.example\" is no server such as \"192.0.2.53\", \"127.0.0.1:5353\" or \"[::1]:53\"",
        ),
        (
            "[dns]\nmin_ttl = \"1h\"\nmax_ttl = \"1m\"",
            "3:11: `dns.max_ttl` must be 1h to 7d, not 1m",
        ),
        (
            "[rules]\nlevel = \"turbo\"",
            "2:9: `rules.level` must be one of slow, normal, fast, very-fast, boost, custom, not \"turbo\"",
        ),
        (
            "[rules.levels.sources]\n\"1,2\" = \"slow\"",
            "2:4: there is no source 2 (the sources are 1, 3, 4)",
        ),
        (
            "[rules.levels.rules]\ngoogle = \"fastt\"",
            "2:10: a level is one of slow, normal, fast, very-fast, boost, custom (did you mean `fast`?)",
        ),
        (
            "[rules.levels.affinities]\ndefualt = \"fast\"",
            "2:1: there is no affinity \"defualt\" (did you mean `default`?)",
        ),
        (
            "[rules.levels.sources_at_rules]\ngoogle = \"fast\"",
            "2:1: sources and a rule, such as \"1,3-5 google\"",
        ),
        (
            "[warm_up]\nautomatic = \"some\"",
            "2:13: `warm_up.automatic` must be one of none, falls, all, not \"some\"",
        ),
        ("[node]\nname = \"a b\"", "2:8: `node.name`: only letters, digits, `-`, `_` and `.`"),
        ("[retry]\nsteps = [\"0s\"]", "2:10: `retry.steps` must be 1s to 30d, not 0s"),
        (
            "[sender]\nunsubscribe_base_url = \"http://a/\"",
            "2:24: `sender.unsubscribe_base_url`: it must begin with https:// and hold none of < > ,",
        ),
        ("[sender]\nunsubscribe_mailto = \"nobody\"", "2:22: `sender.unsubscribe_mailto`"),
        (
            "[[dkim]]\ndomain = \"a.example\"\nkey_file = \"none.pem\"",
            "1:1: `dkim.selector` is missing",
        ),
    ] {
        let found = section_faults(section);
        assert!(
            found[0].starts_with(wanted),
            "{section}\n  found  {}\n  wanted {wanted}",
            found[0]
        );
    }
}

#[test]
fn faults_of_sources_and_affinities() {
    let source = |id: &str, address: &str, helo: &str| {
        format!("[[source]]\npublic_id = {id}\naddress = \"{address}\"\nhelo = \"{helo}\"\n")
    };
    for (section, wanted) in [
        (source("1", "192.0.2.9", "z.example.com"), "2:13: public_id 1 is already another source"),
        (
            source("9", "192.0.2.1", "a.example.com"),
            "3:11: 192.0.2.1 is already source 1: one public address has one public_id",
        ),
        (
            source("9", "192.0.2.4", "d.example.com"),
            "3:11: 192.0.2.4 is already source 4: one public address has one public_id",
        ),
        (
            source("3", "192.0.2.3", "z.example.com"),
            "2:13: public_id 3 is already another source\n4:8: 192.0.2.3 is already called c.example.com: one public address has one HELO name",
        ),
        (
            source("9", "192.0.2.9", "a.example.com"),
            "4:8: a.example.com is already the HELO name of 192.0.2.1: each public address needs its own",
        ),
        (source("0", "192.0.2.9", "z.example.com"), "2:13: `source.public_id` must be 1 to 4294967295, not 0"),
        (source("9", "0.0.0.0", "z.example.com"), "3:11: `source.address`: 0.0.0.0 is not the address of one host"),
        (source("9", "eth0", "z.example.com"), "3:11: `source.address`: \"eth0\" is not an IP address"),
        (source("9", "192.0.2.9", "z_.example.com"), "4:8: `source.helo`: the character '_' may not stand in a domain"),
        ("[[source]]\n".into(), "1:1: `source.public_id` is missing\n1:1: `source.address` is missing\n1:1: `source.helo` is missing"),
        ("[[affinity]]\nname = \"x\"\nsources = \"1,3-4,4\"\n".into(), "3:18: `4` overlaps `3-4`"),
        ("[[affinity]]\nname = \"x\"\nsources = \"3,5\"\n".into(), "3:14: there is no source 5 (the sources are 1, 3, 4)"),
        ("[[affinity]]\nname = \"x\"\nsources = \"1-4294967295\"\n".into(), "3:12: there is no source 2 (the sources are 1, 3, 4)"),
        ("[[affinity]]\nname = \"x\"\nsources = \"4-3\"\n".into(), "3:12: range `4-3` runs from high to low"),
        ("[[affinity]]\nname = \"x\"\nsources = \"\"\n".into(), "3:11: the list of sources is empty"),
        ("[[affinity]]\nsources = \"1\"\n".into(), "1:1: `affinity.name` is missing"),
        (
            "[[affinity]]\nname = \"x\"\nsources = \"1\"\n[[affinity]]\nname = \"x\"\nsources = \"1\"\n".into(),
            "5:8: there is already an affinity \"x\"",
        ),
    ] {
        assert_eq!(section_faults(&section).join("\n"), wanted, "{section}");
    }
    assert_eq!(
        faults("data_dir = \"x\""),
        [
            "1:1: there is no [[source]] (mail is sent from sources; `mailweir init` writes one for each address of this machine)"
        ]
    );
    let both = "[[source]]\npublic_id = 9\naddress = \"2001:db8::1\"\nhelo = \"a.example.com\"\n";
    assert!(read(&format!("{SOURCES}{both}")).is_ok(), "both families of one host share its name");
}

#[test]
fn faults_of_listeners_relays_and_secrets() {
    for (section, wanted) in [
        (
            "[submission]\nlisten = [\"127.0.0.1:25\", \"0.0.0.0:25\"]",
            "2:27: 0.0.0.0:25 is reachable from beyond this machine, and there are neither users nor TLS (state `users`, `tls_certificate` and `tls_key`, or listen on 127.0.0.1)",
        ),
        (
            "[submission]\nlisten = [\"192.0.2.1:25\"]\nusers = [{ name = \"a\", password = { env = \"KEY\" } }]",
            "2:11: 192.0.2.1:25 is reachable from beyond this machine, and there is no TLS (state `users`, `tls_certificate` and `tls_key`, or listen on 127.0.0.1)",
        ),
        (
            "[submission]\nrequire_auth = \"always\"",
            "1:1: AUTH is always required, and there are no users: nobody could submit (state `users` in [submission], or leave `require_auth` out)",
        ),
        (
            "[submission]\ntls_key = \"/dev/null\"",
            "2:1: `tls_certificate` and `tls_key` need each other\n2:11: `submission.tls_key`: /dev/null is not a regular file",
        ),
        (
            "[submission]\nusers = [{ name = \"a\", password = { env = \"KEY\" }, affinity = \"defalt\" }]",
            "2:63: there is no affinity \"defalt\" (did you mean `default`?)",
        ),
        (
            "[http]\nlisten = [\"[::]:80\"]",
            "2:11: [::]:80 is reachable from beyond this machine, and there are no tokens (state `tokens` in [http], or listen on 127.0.0.1 and put a proxy in front)",
        ),
        (
            "[http]\ntokens = [{ name = \"a\", role = \"root\", token = { value = \"short\" } }]",
            "2:32: `http.tokens.role` must be one of reader, sender, operator, not \"root\"\n2:48: a token needs at least 16 characters",
        ),
        (
            "[return_path]\ndomain = \"b.example\"\nkeys = [{ env = \"NONE\" }, { env = \"KEY\", file = \"key\" }, { fil = \"key\" }]",
            "3:9: `return_path.keys`: the environment variable NONE is not set\n3:27: `return_path.keys` needs exactly one of env, file and value (write { env = \"NAME\" } or { file = \"path\" }; { value = \"...\" } is for tests)\n3:58: `return_path.keys` needs exactly one of env, file and value (write { env = \"NAME\" } or { file = \"path\" }; { value = \"...\" } is for tests)\n3:60: unknown key `fil` in [return_path.keys] (did you mean `file`?)",
        ),
        ("[return_path]\ndomain = \"b.example\"", "1:1: `return_path.keys` is missing"),
        ("[return_path]\ndomain = \"b.example\"\nkeys = []", "3:8: `return_path.keys` is empty"),
        (
            "[[relay]]\ndomains = []\nhosts = [\"h:0\"]",
            "2:11: `relay.domains` is empty\n3:10: `relay.hosts`: \"0\" is not a port (1 to 65535)",
        ),
        ("[[relay]]\nhosts = [\"h\"]", "1:1: `relay.domains` is missing"),
        (
            "[[relay]]\ndomains = [\"*\"]\nhosts = [\"127.0.1.1:2525\", \"relay.example.net\"]",
            "3:28: this host has port 25, the first one port 2525: the hosts of a relay share one port (state the port once, as `port = ...`, and leave it out in `hosts`)",
        ),
    ] {
        assert_eq!(section_faults(section).join("\n"), wanted, "{section}");
    }
}

#[test]
fn all_faults_come_at_once_with_pictures() {
    let text = "dta_dir = \"x\"\n[smtp_client]\nport = 0\nidle_timeout = \"x\"\n[dns]\nattempts = \"ü\" # é\n";
    let found = read(text).unwrap_err();
    assert_eq!(found.len(), 5, "{found:?}");
    assert_eq!((found[4].line, found[4].column), (6, 12));
    let picture = found[2].render();
    for part in ["mailweir.toml:3:8", "port = 0", "^", "must be 1 to 65535"] {
        assert!(picture.contains(part), "{part:?} is missing in\n{picture}");
    }
    let shown = ConfigError::Faults(found).to_string();
    assert!(shown.ends_with("5 faults in the configuration; nothing was started"), "{shown}");
}

#[test]
fn no_picture_shows_a_secret() {
    for section in [
        // In clear where a reference is expected; under a wrong name; beside another fault; in a
        // text that is no TOML.
        "[return_path]\ndomain = 1\nkeys = [\"hunter2-hunter2\"]",
        "[return_path]\nkees = [{ value = \"hunter2-hunter2\" }]",
        "[submission]\nusers = [{ nam = \"x\", password = \"hunter2-hunter2\" }]",
        "[submission]\nusers = [{ nam = \"x\", password = { value = \"hunter2-hunter2\" } }]",
        "[submission]\nusers = [{ name = \"x\", pasword = \"hunter2-hunter2\" }]",
        "[http]\ntokens = [{ name = \"x\" role = 1, token = { value = \"hunter2-hunter2\" } }]",
        "hunter2 = { value = \"x\" }\n[http]\ntoken = \"hunter2-hunter2",
    ] {
        let found = read(&format!("{SOURCES}{section}")).unwrap_err();
        for fault in &found {
            let picture = fault.render();
            assert!(!picture.contains("hunter2-hunter2"), "{section}\n{picture}");
        }
    }
}

#[test]
fn broken_toml_is_reported_where_it_breaks() {
    for (text, line) in [
        ("a = ", 1),
        ("\n[node\nname = \"x\"", 2),
        ("[node]\nname = \"x\nb", 2),
        ("[node]\nname = \"x\"\nname = \"y\"", 3),
        ("[node]\n[node]", 2),
        ("a = 1 b = 2", 1),
        ("\0", 1),
    ] {
        let found = read(text).unwrap_err();
        assert_eq!(found[0].line, line, "{text:?}: {}", found[0]);
    }
    let deep = format!("a = {}", "[".repeat(100_000));
    assert!(read(&deep).is_err());
    assert!(read(&"x".repeat(100_000)).is_err());
    assert!(read(&format!("\u{feff}{}", SOURCES.replace('\n', "\r\n"))).is_ok(), "BOM and CRLF");
}

#[test]
fn files_are_read_or_refused_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.toml");
    let fault = |path: &Path| match Config::load(path).unwrap_err() {
        ConfigError::Unreadable(why) => why,
        ConfigError::Faults(faults) => panic!("{faults:?}"),
    };
    assert!(fault(&path).contains("there is no such file"));
    assert!(fault(folder.path()).contains("not a regular file"));
    std::fs::write(&path, b"a = 1\nb = \"\xff\"").unwrap();
    assert!(fault(&path).ends_with("line 2 is not UTF-8 text"));
    std::fs::write(&path, vec![b'#'; 2 << 20]).unwrap();
    assert!(fault(&path).contains("larger than"));
    std::fs::write(&path, format!("data_dir = \"d\"\n{SOURCES}")).unwrap();
    assert_eq!(Config::load(&path).unwrap().data_dir, folder.path().join("d"));
}

#[test]
fn the_example_is_read_without_a_fault() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join(Config::EXAMPLE_KEY_FILE);
    std::fs::write(key, "0123456789abcdef0123456789abcdef\n").unwrap();
    for (hostname, addresses, sources) in [
        ("mta1.shop.example", vec!["192.0.2.1", "192.0.2.2", "2001:db8::1"], 3),
        ("localhost", vec![], 1),
        ("not a host \"name\"", vec!["192.0.2.1"], 1),
        ("example.com", vec!["192.0.2.1", "192.0.2.2"], 2),
    ] {
        let machine = MachineFacts {
            hostname: hostname.into(),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            data_dir: "/var/lib/mail \"weir\"".into(),
        };
        let text = Config::example_for(&machine);
        let config = Config::parse(&text, "mailweir.toml", folder.path())
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(config.sources.len(), sources);
        assert_eq!(config.data_dir, Path::new("/var/lib/mail \"weir\""));
    }
}

#[test]
fn the_defaults_that_the_example_shows_are_the_defaults() {
    let machine = MachineFacts {
        hostname: "mta1.shop.example".into(),
        addresses: vec![IpAddr::from([192, 0, 2, 1])],
        data_dir: "data".into(),
    };
    let text = Config::example_for(&machine);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(Config::EXAMPLE_KEY_FILE), "0123456789abcdef01\n").unwrap();
    // Uncomments what is stated as a default; leaves what needs files, users or other sources.
    let not_defaults = [
        "mx",
        "tls_roots",
        "servers",
        "only_targets",
        "own_names",
        "hourly_base",
        "unsubscribe_base_url",
        "unsubscribe_mailto",
        "feedback_id_sender",
        "users",
        "tokens",
        "tls_certificate",
        "tls_key",
        "delivery_log",
        "domains",
        "hosts",
        "name",
        "sources",
        "domain",
        "selector",
        "key_file",
        "algorithm",
        "hostname",
        "spool",
        "forward_to",
        "dump",
        "file",
        "url",
        "token",
    ];
    let mut in_optional = false;
    let mut stated = 0;
    let uncommented: Vec<&str> = text
        .lines()
        .map(|line| {
            in_optional = (in_optional || line.starts_with("# [")) && line.starts_with('#');
            match line
                .strip_prefix("# ")
                .and_then(|rest| rest.split_once(" = ").map(|kv| (rest, kv.0)))
            {
                Some((rest, key))
                    if !in_optional
                        && key
                            .bytes()
                            .all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit())
                        && !rest.contains("   ")
                        && !rest.ends_with('.')
                        && !not_defaults.contains(&key) =>
                {
                    stated += 1;
                    rest
                }
                _ => line,
            }
        })
        .collect();
    assert!(stated > 35, "only {stated} defaults were found");
    let parse = |text: &str| {
        Config::parse(text, "x", folder.path()).unwrap_or_else(|error| panic!("{text}\n{error}"))
    };
    let (plain, explicit) = (parse(&text), parse(&uncommented.join("\n")));
    assert_eq!(format!("{plain:#?}"), format!("{explicit:#?}"));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(
        lines in prop::collection::vec(
            prop_oneof![
                Just("[[source]]".to_owned()),
                Just("[submission]".to_owned()),
                Just("users = [{ name = \"ü\", password = { value = \"ß\" } }]".to_owned()),
                "(public_id|address|helo|listen|keys|sources|\"ü\") = (0|-1|1e9|\"[a-zü,.:-]{0,6}\"|\\[\\]|\\{\\}|true|1979-05-27)",
                ".{0,20}",
            ],
            0..12,
        )
    ) {
        let _ = read(&lines.join("\n"));
    }
}

#[test]
fn a_policy_is_read_reason_by_reason() {
    use mail::failure::{FailureType, Reason};
    let config = read(SOURCES).expect("nothing is wrong");
    assert_eq!(config.quarantine.policy, engine::quarantine::Policy::default());
    let text = format!(
        "{SOURCES}\n[quarantine]\nsignificance = \"1h\"\n[quarantine.user_unknown]\nat = 2\nat_when_soft = 0\n\
         release_after = \"90d\"\n[quarantine.mailbox_full]\nat = 0\n[quarantine.refused]\ndenylist = true\n\
         [quarantine.outage_guard]\nenabled = false\n"
    );
    let config = read(&text).expect("nothing is wrong").quarantine;
    let unknown = config.policy.of(Reason::UserUnknown);
    assert_eq!(unknown.threshold(FailureType::Soft), Some(2));
    assert_eq!(unknown.release_after, Some(Duration::from_secs(90 * 86_400)));
    assert_eq!(config.policy.of(Reason::MailboxFull).threshold(FailureType::Soft), None);
    assert!(config.policy.of(Reason::Refused).denylist);
    assert!(!config.guard.enabled && config.enabled);
    let faults = |more: &str| {
        let found = read(&format!("{SOURCES}\n{more}")).expect_err("it is at fault");
        found.iter().map(|fault| fault.message.clone()).collect::<Vec<_>>().join("\n")
    };
    let nothing = faults("[quarantine]\nsignificance = \"10d\"\nreset_after = \"1d\"\n");
    assert!(nothing.contains("no second one can ever count"), "{nothing}");
    let word = faults("[quarantine.mailboxfull]\nat = 1\n");
    assert!(word.contains("mailboxfull"), "{word}");
    let file = faults("[bounce_rules]\nfile = \"nowhere.toml\"\n");
    assert!(file.contains("cannot read"), "{file}");
}

#[test]
fn an_instance_is_configured_with_key_and_token_or_not_at_all() {
    let key = "ab".repeat(32);
    let text = |section: &str| {
        format!(
            "[[source]]\npublic_id = 1\naddress = \"192.0.2.1\"\nhelo = \"m1.example\"\n\
             [deliverability]\n{section}"
        )
    };
    let read = |section: &str| read(&text(section));
    let keys = format!("public_keys = [\"{key}\"]\n");
    let token = "token = { value = \"a-token-of-this-client\" }\n";
    let https = "url = \"https://rules.example.net\"\n";
    let config = read(&format!("{keys}{token}{https}")).unwrap().deliverability;
    let instance = config.instance.unwrap();
    assert_eq!(instance.url.to_string(), "https://rules.example.net");
    assert_eq!(instance.schedule.unwrap().to_string(), "06:00:00");
    assert!(!instance.allow_private && !instance.share_unknown_texts);
    assert!(read(&keys).unwrap().deliverability.instance.is_none());
    let never = read(&format!("{keys}{token}{https}schedule = \"never\"\n")).unwrap();
    assert_eq!(never.deliverability.instance.unwrap().schedule, None);
    for (section, wanted) in [
        (format!("{keys}{https}"), "`deliverability.token` is missing"),
        (format!("{token}{https}"), "needs `deliverability.public_keys`"),
        (format!("{keys}{token}url = \"http://rules.example.net\""), "without TLS"),
        (format!("{keys}{token}url = \"https://a@b\""), "user name"),
        (format!("{keys}{token}{https}schedule = \"6\""), "no time of the day"),
        (format!("{keys}{token}{https}schedule = \"24:00\""), "no time of the day"),
        (format!("{keys}{token}{https}jitter = \"13h\""), "must be 0s to 12h"),
        (format!("{keys}{token}{https}max_bundle_bytes = 99999999999"), "must be 1024 to"),
        (format!("{keys}{https}token = {{ value = \"short\" }}"), "at least 16"),
    ] {
        let found = faults(&text(&section)).join("\n");
        assert!(found.contains(wanted), "{section}: {found}");
    }
    // Without TLS to this machine, or where the operator says so.
    for section in
        ["url = \"http://127.0.0.1:2590\"\n", "url = \"http://10.0.0.1\"\nallow_private = true\n"]
    {
        assert!(read(&format!("{keys}{token}{section}")).is_ok(), "{section}");
    }
}
