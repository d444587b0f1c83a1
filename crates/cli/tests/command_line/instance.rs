//! One deliverability instance and two clients, all of them the real program, on loopback: publish, synchronise, change
//! levels, send unknown texts back, qualify them, publish again, roll out in stages, halt, roll back.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lab::{Lab, LabConfig, Mood, MxConfig, ProviderConfig, Situation};
use serde_json::Value;

use super::command;

/// For anything that takes its time on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What no rule that is shipped knows.
const UNKNOWN: &str = "550 the wizard of this tower sleeps until spring";

/// A process that serves.
pub(super) struct Process {
    child: Child,
    /// Where it listens for HTTP.
    pub(super) url: String,
    /// What it has said; a line that is no UTF-8 as its fault.
    pub(super) log: Arc<Mutex<Vec<Result<String, std::io::ErrorKind>>>>,
}

impl Process {
    /// Starts it and waits until it says where it listens and that it is `ready`.
    pub(super) fn start(folder: &Path, words: &[&str], ready: &str) -> Self {
        let mut child =
            command(folder, words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (mut url, mut said) = (None, Vec::new());
        for line in lines.by_ref().map_while(Result::ok) {
            if let Some((_, address)) = line.split_once("listens address=") {
                url = Some(format!("http://{address}"));
            }
            let is_ready = line.contains(ready);
            said.push(line);
            if is_ready {
                break;
            }
        }
        let Some(url) = url else {
            let _ = child.kill();
            panic!("{words:?} does not serve: {said:#?}");
        };
        let log = Arc::new(Mutex::new(said.into_iter().map(Ok).collect::<Vec<_>>()));
        let written = Arc::clone(&log);
        // Somebody must go on reading, or the process would wait for its log.
        std::thread::spawn(move || {
            lines.for_each(|line| {
                written.lock().unwrap().push(line.map_err(|fault| fault.kind()));
            });
        });
        Self { child, url, log }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A test may have failed before: it must not stay.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command that must go well; what it said as JSON.
pub(super) fn json(folder: &Path, words: &[&str]) -> Value {
    let mut all = words.to_vec();
    all.extend(["--format", "json"]);
    let (status, out, fault) = super::run(folder, &all);
    assert_eq!(status, 0, "{words:?}\n{out}{fault}");
    if out.is_empty() {
        return Value::Null;
    }
    serde_json::from_str(&out).unwrap_or_else(|why| panic!("{words:?}: {why}\n{out}"))
}

/// Asks until the answer is right.
pub(super) fn until(
    what: &str,
    mut ask: impl FnMut() -> Value,
    right: impl Fn(&Value) -> bool,
) -> Value {
    let began = Instant::now();
    loop {
        let answer = ask();
        if right(&answer) {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "{what}: {answer:#}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The instance with its publisher.
struct Publisher {
    folder: tempfile::TempDir,
    instance: Process,
}

impl Publisher {
    fn start() -> Self {
        Self::start_with("", |_| ())
    }

    fn start_with(lines: &str, prepare: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path();
        prepare(here);
        json(here, &["deliverability", "keygen", "instance.key"]);
        json(here, &["deliverability", "token", "publisher.token"]);
        let text = format!(
            "listen = [\"127.0.0.1:0\"]\ndata_dir = \"data\"\npublic_keys = [\"instance.key.pub\"]\n\
             [[publisher]]\nname = \"anna\"\ntoken_file = \"publisher.token\"\n{lines}"
        );
        std::fs::write(here.join("instance.toml"), text).unwrap();
        let words = ["deliverability", "serve", "--config", "instance.toml"];
        let instance = Process::start(here, &words, "listens");
        std::fs::create_dir(here.join("rules")).unwrap();
        Self { folder, instance }
    }

    /// A command of the publisher.
    fn does(&self, words: &[&str]) -> Value {
        let mut all = vec!["deliverability"];
        all.extend(words);
        all.extend(["--instance", &self.instance.url, "--token-file", "publisher.token"]);
        json(self.folder.path(), &all)
    }

    /// Publishes the folder with so many messages an hour as the next version, to a share of the clients.
    fn publishes(&self, version: u64, per_hour: u32, share: &str) {
        let here = self.folder.path();
        std::fs::write(
            here.join("rules/mx.toml"),
            format!(
                "schema_version = 1\n[[rule]]\nname = \"generic\"\nmask = \"*\"\nmax_connections = 2\n\
                 max_messages_per_connection = 20\nmessages_per_hour = {per_hour}\nmatches = [\"mx.example.org\"]\n"
            ),
        )
        .unwrap();
        let out = format!("{version}.bundle");
        let before = format!("{}.bundle", version - 1);
        let mut words =
            vec!["deliverability", "publish", "rules", "--key", "instance.key", "--out", &out];
        if version > 1 {
            words.extend(["--previous", &before]);
        }
        json(here, &words);
        let pushed = self.does(&["push", &out, "--share", share, "--why", "the next one"]);
        assert_eq!(pushed["bundle"]["version"], version, "{pushed}");
    }

    /// The stage of a bundle.
    fn stage(&self, version: u64) -> Value {
        let rollout = self.does(&["rollout", "show"]);
        let stages = rollout["stages"].as_array().unwrap();
        stages.iter().find(|stage| stage["version"] == version).unwrap().clone()
    }
}

/// A node that follows the instance.
struct Client {
    folder: PathBuf,
    node: Process,
}

impl Client {
    fn start(publisher: &Publisher, lab: &Lab, name: &str, source: u8) -> Self {
        let folder = publisher.folder.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        let token = format!("{name}/client.token");
        publisher.does(&["clients", "add", name, "--token-out", &token]);
        let text = format!(
            "data_dir = \"data\"\n[[source]]\npublic_id = 1\naddress = \"127.0.0.{source}\"\n\
             helo = \"{name}.sender.example\"\n[smtp_client]\nport = {port}\n[dns]\nservers = [\"{dns}\"]\n\
             [safety]\nonly_targets = [\"127.0.0.0/8\"]\n[submission]\nlisten = []\n\
             [http]\nlisten = [\"127.0.0.1:0\"]\n[deliverability]\nurl = \"{url}\"\n\
             public_keys = [\"../instance.key.pub\"]\ntoken = {{ file = \"client.token\" }}\n\
             schedule = \"never\"\nshare_unknown_texts = true\n",
            port = lab.port(),
            dns = lab.dns_address(),
            url = publisher.instance.url,
        );
        std::fs::write(folder.join("mailweir.toml"), text).unwrap();
        let words = ["serve", "--config", "mailweir.toml"];
        let node = Process::start(&folder, &words, "the node runs");
        Self { folder, node }
    }

    fn does(&self, words: &[&str]) -> Value {
        let mut all = words.to_vec();
        all.extend(["--url", &self.node.url]);
        json(&self.folder, &all)
    }

    /// Synchronises; what became of it, and the version in force then.
    fn syncs(&self) -> (String, u64) {
        let synced = self.does(&["deliverability", "sync", "--why", "a test"]);
        let status = self.does(&["deliverability", "status"]);
        let outcome = synced["outcome"].as_str().unwrap().to_owned();
        (outcome, status["bundle"]["version"].as_u64().unwrap_or(0))
    }

    /// Sends to somebody whom the tower's wizard turns away, and waits for the refusal.
    fn sends_to(&self, local_part: &str) {
        let list = format!("email\n{local_part}@tower.example\n");
        std::fs::write(self.folder.join("list.csv"), list).unwrap();
        std::fs::write(self.folder.join("text.txt"), "Hello\n").unwrap();
        let sent = self.does(&[
            "delivery",
            "send",
            "--from",
            "news@sender.example",
            "--subject",
            "News",
            "--text",
            "text.txt",
            "--no-unsubscribe",
            "--recipients",
            "list.csv",
        ]);
        let id = sent["delivery"]["id"]
            .as_str()
            .or_else(|| sent["id"].as_str())
            .unwrap_or_else(|| panic!("{sent:#}"));
        let show = || self.does(&["delivery", "show", id]);
        until("the refusal", show, |shown| shown["counters"]["failed"] == 1);
    }

    /// What it says of the wizard's text; `Null`: it has not met it.
    fn wizard(&self) -> Value {
        let list = self.does(&["qualification", "list"]);
        let texts = list["texts"].as_array().unwrap();
        let wizard = |text: &&Value| text.to_string().contains("wizard");
        texts.iter().find(wizard).cloned().unwrap_or(Value::Null)
    }
}

fn tower() -> Lab {
    let wizard = BTreeMap::from([(Situation::UnknownUser, UNKNOWN.to_owned())]);
    let mut config = LabConfig::default();
    config.providers.push(ProviderConfig {
        name: "tower".into(),
        domains: vec!["tower.example".into()],
        mood: Mood { replies: wizard, ..Mood::default() },
        mx: vec![MxConfig {
            host: "mx.tower.example".into(),
            preference: 10,
            addresses: vec![[127, 81, 1, 1].into()],
            domains: Vec::new(),
        }],
        ..ProviderConfig::default()
    });
    Lab::start(config).unwrap()
}

#[test]
fn two_clients_follow_an_instance() {
    let lab = tower();
    let publisher = Publisher::start();
    let one = Client::start(&publisher, &lab, "one", 81);
    let two = Client::start(&publisher, &lab, "two", 82);
    let clients = [&one, &two];

    // Publish and synchronise.
    assert_eq!(one.syncs(), ("nothing-published".to_owned(), 0));
    publisher.publishes(1, 2_000, "100");
    // Both at the same moment, and each twice at once: of two one waits for the other.
    let outcomes = std::thread::scope(|scope| {
        let all = [&one, &two, &one, &two].map(|client| scope.spawn(|| client.syncs()));
        all.map(|syncing| syncing.join().unwrap())
    });
    for client in 0..2 {
        let mut both = [&outcomes[client], &outcomes[client + 2]];
        both.sort_unstable();
        let wanted = [("applied".to_owned(), 1), ("unchanged".to_owned(), 1)];
        assert_eq!(both, wanted.each_ref(), "client {client}");
    }
    for client in clients {
        let history = client.does(&["deliverability", "history"]);
        assert_eq!(history["history"].as_array().map(Vec::len), Some(1), "{history:#}");
    }
    let stage = until(
        "both say so",
        || publisher.stage(1),
        |stage| {
            let said = |state: &str| stage["clients"][state].as_u64().unwrap();
            said("applied") + said("well") == 2
        },
    );
    assert_eq!(stage["clients"]["given"], 2, "{stage}");

    // One goes faster, the other follows its own MX rules.
    one.does(&["mx", "level", "set", "fast", "--why", "a good reputation"]);
    two.does(&["mx", "level", "set", "custom", "--why", "we know better"]);
    assert_eq!(one.does(&["deliverability", "status"])["level"], "fast");
    assert_eq!(two.does(&["deliverability", "status"])["level"], "custom");

    // Unknown texts come back to the instance, from both.
    for client in clients {
        client.sends_to("unknown-anton");
        until("the text", || client.wizard(), |text| !text.is_null());
        assert_eq!(client.syncs(), ("unchanged".to_owned(), 1));
    }
    let list =
        until("both texts", || publisher.does(&["texts", "list"]), |list| list["occurrences"] == 2);
    let cluster = &list["clusters"][0];
    assert_eq!((&cluster["texts"], &cluster["clients"]), (&1.into(), &2.into()), "{cluster:#}");
    assert!(cluster["rule"].as_str().unwrap().contains("wizard of this tower"), "{cluster:#}");
    assert_eq!(cluster["effect"]["occurrences"], 2);
    let id = cluster["id"].as_str().unwrap();
    let said = publisher.does(&[
        "texts",
        "qualify",
        id,
        "--reason",
        "Inactive user",
        "--accept-rule",
        "--why",
        "spring is late",
    ]);
    assert!(said["rule"].is_string(), "{said}");
    assert_eq!(publisher.does(&["texts", "list"])["texts"], 0);
    publisher.does(&["texts", "export", "--out", "rules/qualifications.jsonl"]);
    publisher.does(&["texts", "export", "--what", "rules", "--out", "accepted.toml"]);
    json(publisher.folder.path(), &["bounce", "rules", "check", "accepted.toml"]);

    // The next bundle carries it: to one of them, then to the other.
    publisher.publishes(2, 3_000, "50");
    let outcomes = clients.map(Client::syncs);
    let newer = outcomes.iter().filter(|outcome| outcome.1 == 2).count();
    assert_eq!(newer, 1, "{outcomes:?}");
    publisher.does(&["rollout", "advance", "2", "--why", "no alarms"]);
    for client in clients {
        assert_eq!(client.syncs().1, 2);
        let status = client.does(&["deliverability", "status"]);
        assert_eq!(status["known_texts"], 1, "{status:#}");
        // What the text means is known from now on.
        client.sends_to("unknown-berta");
        let known = |text: &Value| text.to_string().contains("Inactive user");
        until("what it means", || client.wizard(), known);
    }
    // The MX rules of the bundle are in force at one, and at the other its own.
    let per_hour = |client: &Client| {
        let shown = client.does(&["mx", "level", "show"]);
        shown.to_string()
    };
    assert!(per_hour(&one).contains("3000"), "{}", per_hour(&one));
    assert!(!per_hour(&two).contains("3000"), "{}", per_hour(&two));
    // Who judges the log without asking the nodes knows that, too.
    for (client, wanted) in [(&one, 2), (&two, 1)] {
        let audited = json(&client.folder, &["stat", "audit"]);
        assert_eq!(
            (&audited["mx_bundle"], &audited["limits_held"]),
            (&wanted.into(), &true.into())
        );
        let listed = json(&client.folder, &["mx", "list"]);
        let last = listed.as_array().unwrap().last().unwrap();
        let place = last["place"].to_string();
        assert!(place.contains(&format!("bundle {wanted}: ")), "{last:#}");
        let explain = ["mx", "explain", "mx.tower.example", "--mx-host", "--offline"];
        let notes = json(&client.folder, &explain)["notes"].to_string();
        assert!(notes.contains(&format!("those of bundle {wanted}")), "{notes}");
    }

    // A bundle that one client takes back goes to nobody else.
    publisher.publishes(3, 9_000, "50");
    let outcomes = clients.map(Client::syncs);
    let (bold, shy) = match outcomes.each_ref().map(|outcome| outcome.1) {
        [3, 2] => (&one, &two),
        [2, 3] => (&two, &one),
        _ => panic!("{outcomes:?}"),
    };
    bold.does(&["deliverability", "rollback", "2", "--why", "too much"]);
    let stage = until("it halts", || publisher.stage(3), |stage| stage["halted"] == true);
    assert!(stage["why"].as_str().unwrap().contains("too much"), "{stage}");
    for client in [shy, bold] {
        let (_, version) = client.syncs();
        assert_eq!(version, 2);
    }

    // Back to the content of version 2, for all.
    let why = ["--why", "3 war zu groß"];
    let words = ["revert", "2", "--key", "instance.key", "--out", "4.bundle"];
    publisher.does(&[&words[..], &why[..]].concat());
    for client in clients {
        assert_eq!(client.syncs(), ("applied".to_owned(), 4));
    }
    let differs = ["deliverability", "diff", "2.bundle", "4.bundle"];
    assert_eq!(json(publisher.folder.path(), &differs)["kinds"], serde_json::json!([]));
    let audit = publisher.does(&["audit"]);
    let lines: Vec<&str> = audit["audit"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["what"].as_str().unwrap())
        .collect();
    for wanted in [
        "pushed bundle 4 to 100 %",
        "halted bundle 3 at 50 %",
        "advanced bundle 2 from 50 to 100 %",
        "added client one",
    ] {
        assert!(lines.contains(&wanted), "{wanted}: {lines:#?}");
    }
    drop(lab.stop());
}

#[test]
fn publishers_speak_tls_and_believe_only_their_roots() {
    let lines = "[tls]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n";
    let publisher = Publisher::start_with(lines, |folder| {
        for name in ["cert", "other"] {
            let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
            std::fs::write(folder.join(format!("{name}.pem")), made.cert.pem()).unwrap();
            let key = if name == "cert" { "key.pem" } else { "other-key.pem" };
            std::fs::write(folder.join(key), made.signing_key.serialize_pem()).unwrap();
        }
    });
    let here = publisher.folder.path();
    let secure = publisher.instance.url.replace("http://", "https://");
    let list = |url: &str, more: &[&str]| {
        let mut words =
            vec!["deliverability", "clients", "list", "--token-file", "publisher.token"];
        words.extend(["--instance", url]);
        words.extend(more);
        super::run(here, &words)
    };
    let (status, out, fault) = list(&secure, &["--ca-file", "cert.pem"]);
    assert_eq!(status, 0, "{out}{fault}");
    for (url, more, wanted) in [
        (secure.as_str(), &["--ca-file", "other.pem"][..], "certificate"),
        (secure.as_str(), &["--ca-file", "key.pem"], "no certificate in PEM form"),
        (publisher.instance.url.as_str(), &[], "cannot be asked"),
        ("http://rules.example.net", &[], "use https://"),
        ("ftp://127.0.0.1", &[], "no URL of an instance"),
        ("http://127.0.0.1:1", &[], "cannot be asked"),
    ] {
        let (status, _, fault) = list(url, more);
        assert_eq!(status, 2, "{url}: {fault}");
        assert!(fault.contains(wanted), "{url}: {fault}");
    }
    // A token that is none.
    std::fs::write(here.join("publisher.token"), "another-token-altogether").unwrap();
    let (status, _, fault) = list(&secure, &["--ca-file", "cert.pem"]);
    assert_eq!(status, 1, "{fault}");
    assert!(fault.contains("refused (401)") && fault.contains("--token-file"), "{fault}");
}

#[test]
fn a_faulty_configuration_is_named_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let text = "listen = [\"0.0.0.0:2590\"]\ndata_dir = \"data\"\npublic_keys = []\n";
    std::fs::write(folder.path().join("instance.toml"), text).unwrap();
    let words = ["deliverability", "serve", "--check", "--config", "instance.toml"];
    let (status, _, fault) = super::run(folder.path(), &words);
    assert_eq!(status, 2, "{fault}");
    for wanted in ["instance.toml:1:11", "instance.toml:3:15", "there is no publisher"] {
        assert!(fault.contains(wanted), "{wanted}: {fault}");
    }
    let (status, _, fault) = super::run(folder.path(), &["deliverability", "serve"]);
    assert_eq!(status, 2, "{fault}");
    assert!(fault.contains("--config instance.toml"), "{fault}");
}
