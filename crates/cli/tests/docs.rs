//! The guides tell the truth: what they name exists, and the commands in them work.
//!
//! Read are README.md, CONTRIBUTING.md and docs/*.md. What the words after the three backquotes mean:
//!
//! - `console`: every `$ mailweir ...` must parse; nothing is run.
//! - `console test` and `console run`: every line is run in a folder of the guide and must end with status 0.
//!   A line that ends with `&` is started, awaited until it serves, and ended with the guide.
//! - `text expect`: every line must be in the output of the last command, blanks apart. Where one is not, the
//!   command is repeated until they are, because mail takes its time.
//! - `... file=NAME`: the text is a file; all guides share these.
//!
//! Ports are replaced by free ones, so guides can run side by side with anything else.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_mailweir");

/// Longest time that one command, or the start of a node, may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The ports of the guides: name server, MX hosts, submission, HTTP, deliverability instance.
const PORTS: [&str; 5] = ["5353", "2525", "2587", "2580", "2590"];

struct Fence {
    /// Line of its first line of text.
    line: usize,
    info: String,
    text: String,
}

impl Fence {
    fn is(&self, kind: &str) -> bool {
        self.info == kind
    }

    /// Its commands with their lines, without the prompt.
    fn commands(&self) -> impl Iterator<Item = (usize, &str)> {
        let numbered = self.text.lines().enumerate();
        numbered.filter_map(|(at, line)| Some((self.line + at, line.strip_prefix("$ ")?)))
    }

    fn file(&self) -> Option<&str> {
        self.info.split(' ').find_map(|word| word.strip_prefix("file="))
    }
}

struct Guide {
    name: String,
    text: String,
    fences: Vec<Fence>,
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read_guide(name: &str) -> Guide {
    let text = std::fs::read_to_string(workspace().join(name)).expect(name);
    let mut fences = Vec::new();
    let mut open: Option<Fence> = None;
    for (at, line) in text.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) => {
                let fence =
                    Fence { line: at + 2, info: info.trim().to_owned(), text: String::new() };
                open = Some(fence);
            }
            (Some(_), Some(_)) => fences.extend(open.take()),
            (Some(fence), None) => {
                fence.text.push_str(line);
                fence.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{name}: a fence is not closed");
    Guide { name: name.to_owned(), text, fences }
}

fn guides() -> Vec<Guide> {
    let mut names = vec!["README.md".to_owned(), "CONTRIBUTING.md".to_owned()];
    for entry in std::fs::read_dir(workspace().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") {
            names.push(format!("docs/{name}"));
        }
    }
    names.sort();
    names.iter().map(|name| read_guide(name)).collect()
}

/// The words of a command line as a shell sees them: blanks outside quotes separate.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for letter in line.chars() {
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

/// Free ports in place of those of the guides. Below the range from which the system takes ports for
/// outgoing connections, so that no other test gets them in the meantime.
fn free_ports() -> Vec<(&'static str, String)> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 12_000 + u16::try_from(std::process::id() % 500).unwrap() * 40;
    let mut free = Vec::new();
    while free.len() < PORTS.len() {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed) % 10_000;
        let is_free = |address: &str| {
            TcpListener::bind((address, port)).is_ok() && UdpSocket::bind((address, port)).is_ok()
        };
        if is_free("127.0.0.1") && is_free("127.1.0.1") {
            free.push((PORTS[free.len()], port.to_string()));
        }
    }
    free
}

/// A guide while its commands are run.
struct Run {
    folder: tempfile::TempDir,
    ports: Vec<(&'static str, String)>,
    started: Vec<Child>,
}

impl Drop for Run {
    fn drop(&mut self) {
        for child in &mut self.started {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Run {
    fn new(files: &[(&str, &str)]) -> Self {
        let run =
            Self { folder: tempfile::tempdir().unwrap(), ports: free_ports(), started: Vec::new() };
        for (name, text) in files {
            std::fs::write(run.folder.path().join(name), run.with_ports(text)).unwrap();
        }
        run
    }

    fn with_ports(&self, text: &str) -> String {
        let replace = |text: String, (from, to): &(&str, String)| text.replace(from, to);
        self.ports.iter().fold(text.to_owned(), replace)
    }

    fn command(&self, line: &str) -> Command {
        let words = words(&self.with_ports(line));
        let (program, arguments) = words.split_first().expect("a command has a word");
        let program = if program == "mailweir" { PROGRAM } else { program };
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        for name in ["MAILWEIR_CONFIG", "MAILWEIR_URL", "MAILWEIR_TOKEN"] {
            command.env_remove(name);
        }
        // The guide rests on the default, whose port is another one here.
        command.env("MAILWEIR_INSTANCE", self.with_ports("http://127.0.0.1:2590"));
        command
    }

    /// Runs a line to its end, and answers what it said.
    fn run(&self, place: &str, line: &str) -> String {
        let path = self.folder.path().join("output.txt");
        let output = File::create(&path).unwrap();
        let mut child = self
            .command(line)
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap_or_else(|fault| panic!("{place}: {line}: {fault}"));
        let began = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if began.elapsed() > PATIENCE {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let said = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
        match status {
            None => panic!("{place}: {line}\nis not over after {PATIENCE:?}\n{said}"),
            Some(status) if !status.success() => panic!("{place}: {line}\n{status}\n{said}"),
            Some(_) => said,
        }
    }

    /// Starts a line and waits until it serves.
    fn start(&mut self, place: &str, line: &str) {
        let log = self.folder.path().join(format!("started-{}.txt", self.started.len()));
        let mut child = self
            .command(line)
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap_or_else(|fault| panic!("{place}: {line}: {fault}"));
        let output = child.stdout.take().expect("the output is piped");
        self.started.push(child);
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        if line.starts_with("mailweir lab") {
            // It says its addresses when it serves, and nothing more until its end.
            let mut first = String::new();
            BufReader::new(output).read_line(&mut first).unwrap();
            assert!(first.contains("\"dns\""), "{place}: {line}\n{first}{}", said());
            return;
        }
        let instance = line.starts_with("mailweir deliverability serve");
        let http = &self.ports[if instance { 4 } else { 3 }].1;
        let began = Instant::now();
        while !is_ready(http) {
            let ended = self.started.last_mut().and_then(|child| child.try_wait().unwrap());
            assert!(ended.is_none(), "{place}: {line}\nhas ended: {ended:?}\n{}", said());
            assert!(began.elapsed() < PATIENCE, "{place}: {line}\nis not ready\n{}", said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Whether a node or an instance says on this port of loopback that it is ready.
fn is_ready(port: &str) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut socket = TcpStream::connect(format!("127.0.0.1:{port}"))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        let request =
            format!("GET /readyz HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes())?;
        let mut answer = String::new();
        socket.take(65_536).read_to_string(&mut answer)?;
        Ok(answer.starts_with("HTTP/1.1 200"))
    };
    ask().unwrap_or(false)
}

/// A text with every run of blanks as one.
fn without_layout(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Runs all marked commands of one guide.
fn run_guide(guide: &Guide, files: &[(&str, &str)], curl: bool) {
    if !guide.fences.iter().any(|fence| fence.is("console test") || fence.is("console run")) {
        return;
    }
    let mut run = Run::new(files);
    let mut last = None;
    for fence in &guide.fences {
        if fence.is("text expect") {
            let (place, line, said): &(String, &str, String) =
                last.as_ref().expect("a command comes first");
            expect(&run, place, line, said, &fence.text);
        }
        if !fence.is("console test") && !fence.is("console run") {
            continue;
        }
        for (at, line) in fence.commands() {
            let place = format!("{}:{at}", guide.name);
            let mut said = String::new();
            match line.strip_suffix('&') {
                Some(line) => run.start(&place, line.trim_end()),
                None if line.starts_with("curl ") && !curl => {
                    eprintln!("{place}: not run, because curl is not installed");
                }
                None => said = run.run(&place, line),
            }
            last = Some((place, line, said));
        }
    }
}

/// Looks for these lines in what a command said, and repeats it until they are there.
fn expect(run: &Run, place: &str, line: &str, said: &str, wanted: &str) {
    let began = Instant::now();
    let mut said = said.to_owned();
    loop {
        let flat = without_layout(&said);
        let missing = wanted.lines().find(|wanted| !flat.contains(&without_layout(wanted)));
        let Some(missing) = missing else { return };
        let in_time = began.elapsed() < PATIENCE;
        assert!(in_time, "{place}: {line}\ndoes not say: {missing}\n{said}");
        std::thread::sleep(Duration::from_millis(100));
        said = run.run(place, line);
    }
}

#[test]
fn commands_of_the_guides_work() {
    let guides = guides();
    let files: Vec<(&str, &str)> = guides
        .iter()
        .flat_map(|guide| &guide.fences)
        .filter_map(|fence| Some((fence.file()?, fence.text.as_str())))
        .collect();
    let names: std::collections::BTreeSet<&str> = files.iter().map(|(name, _)| *name).collect();
    assert_eq!(names.len(), files.len(), "a file has two texts");
    let curl =
        Command::new("curl").arg("--version").output().is_ok_and(|done| done.status.success());
    std::thread::scope(|scope| {
        for guide in &guides {
            scope.spawn(|| run_guide(guide, &files, curl));
        }
    });
}

#[test]
fn every_command_that_is_named_exists() {
    let folder = tempfile::tempdir().unwrap();
    let mut seen = 0;
    let mut faults = Vec::new();
    for guide in guides() {
        for fence in guide.fences.iter().filter(|fence| fence.info.starts_with("console")) {
            for (at, line) in fence.commands() {
                let words = words(line.trim_end_matches('&').trim_end());
                // The lab hands its words on to its own command line, which serves before it helps.
                if words[0] != "mailweir" || words.get(1).is_some_and(|word| word == "lab") {
                    continue;
                }
                seen += 1;
                let output = Command::new(PROGRAM)
                    .args(&words[1..])
                    .arg("--help")
                    .current_dir(folder.path())
                    .output()
                    .unwrap();
                if !output.status.success() {
                    let said = String::from_utf8_lossy(&output.stderr).into_owned();
                    faults.push(format!("{}:{at}: {line}\n{said}", guide.name));
                }
            }
        }
    }
    assert!(seen > 30, "only {seen} commands were found");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn paths_in_backquotes_exist() {
    let mut missing = Vec::new();
    for guide in guides() {
        for quoted in guide.text.split('`').skip(1).step_by(2) {
            let ours = ["crates/", "xtask/", "contrib/", "rules/"];
            let is_path = ours.iter().any(|start| quoted.starts_with(start))
                && !quoted.contains([' ', '*', ':', '<', '\n']);
            if is_path && !workspace().join(quoted).exists() {
                missing.push(format!("{}: {quoted}", guide.name));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// Every test that the page on bad input names is there, and all of its groups.
#[test]
fn tests_that_hold_bad_input_exist() {
    check_named_tests("docs/bad-input.md", 94, 150);
}

/// The same of the page on faults.
#[test]
fn tests_that_hold_faults_exist() {
    check_named_tests("docs/faults.md", 49, 80);
}

/// The same of what must always hold.
#[test]
fn tests_that_hold_the_promises_exist() {
    check_named_tests("docs/proof.md", 8, 30);
}

/// A page with numbered rows, each with the tests that hold it or the words "not there"; at least so many tests in all.
fn check_named_tests(page: &str, rows: u32, least: usize) {
    let page = read_guide(page);
    let mut faults = Vec::new();
    let mut groups = Vec::new();
    let mut named = 0;
    for (at, line) in page.text.lines().enumerate() {
        let cells: Vec<&str> = line.split(" | ").collect();
        let is_row = line.starts_with("| ") && cells.len() == 3;
        let number = cells[0].trim_start_matches("| ").split(' ').next().unwrap_or_default();
        if let (true, Ok(group)) = (is_row, number.parse::<u32>()) {
            groups.push(group);
            let is_absent = cells[1].contains("not there");
            if !cells[2].contains('`') && !is_absent {
                faults.push(format!("line {}: group {group} has neither test nor reason", at + 1));
            }
        }
        // In a row only its last cell names tests; outside of tables everything in backquotes does.
        let text = if is_row { cells[2] } else { line };
        let mut file = None;
        for quoted in text.split('`').skip(1).step_by(2) {
            if quoted.starts_with("crates/") {
                file = std::fs::read_to_string(workspace().join(quoted)).ok();
            } else if let Some(text) = &file {
                named += 1;
                if !text.contains(&format!("fn {quoted}(")) {
                    faults.push(format!("line {}: there is no test {quoted}", at + 1));
                }
            }
        }
    }
    assert_eq!(groups, (1..=rows).collect::<Vec<_>>());
    assert!(named >= least, "only {named} tests are named");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_wait_reason_is_in_the_guide_and_no_other() {
    use engine::event::{QuotaLimit, QuotaWait};
    use engine::{RestCause, WaitReason};

    let quota = |limit| WaitReason::Quota {
        wait: QuotaWait { until: None, limit, rule: "".into(), source: None, figure: 1, used: 1 },
    };
    let resting = |cause| WaitReason::PathResting { cause, last: String::new() };
    let by = engine::reactions::ReactionCited { id: 1, rule: "r".into(), version: "v".into() };
    let all = [
        WaitReason::DeliveryNotStarted,
        WaitReason::DeliveryPaused,
        WaitReason::DeliveryCancelled,
        WaitReason::WaveNotOpen,
        WaitReason::RetryScheduled,
        WaitReason::NotDue,
        WaitReason::FindingRoute,
        WaitReason::DnsTemporaryFailure { why: String::new() },
        WaitReason::NoSource { affinity: String::new() },
        quota(QuotaLimit::Hour),
        quota(QuotaLimit::Period),
        quota(QuotaLimit::Pace),
        quota(QuotaLimit::MinuteEnd),
        quota(QuotaLimit::Source),
        quota(QuotaLimit::WarmUpHour),
        quota(QuotaLimit::WarmUpProvider),
        quota(QuotaLimit::Delivery),
        quota(QuotaLimit::Connections),
        quota(QuotaLimit::ConnectionRate),
        quota(QuotaLimit::ConnectionInterval),
        quota(QuotaLimit::Ledger),
        quota(QuotaLimit::LedgerFull),
        resting(RestCause::Unreachable),
        resting(RestCause::Refused),
        resting(RestCause::Broken),
        resting(RestCause::NoTls),
        WaitReason::Suspended { by: by.clone() },
        WaitReason::Slowed { by: by.clone() },
        WaitReason::FewerConnections { by },
        WaitReason::BreakerOpen,
        WaitReason::NodeConnectionLimit,
        WaitReason::StoreSick,
        WaitReason::NodeDraining,
        WaitReason::Connecting,
        WaitReason::InTurn,
    ];
    // Does not compile when a reason is added: then add it to the list above and to the guide.
    for reason in &all {
        match reason {
            WaitReason::DeliveryNotStarted
            | WaitReason::DeliveryPaused
            | WaitReason::DeliveryCancelled
            | WaitReason::WaveNotOpen
            | WaitReason::RetryScheduled
            | WaitReason::NotDue
            | WaitReason::FindingRoute
            | WaitReason::DnsTemporaryFailure { .. }
            | WaitReason::NoSource { .. }
            | WaitReason::Quota { .. }
            | WaitReason::PathResting { .. }
            | WaitReason::Suspended { .. }
            | WaitReason::Slowed { .. }
            | WaitReason::FewerConnections { .. }
            | WaitReason::BreakerOpen
            | WaitReason::NodeConnectionLimit
            | WaitReason::StoreSick
            | WaitReason::NodeDraining
            | WaitReason::Connecting
            | WaitReason::InTurn => {}
        }
    }
    let guide = read_guide("docs/why-is-it-waiting.md");
    let rows: BTreeMap<&str, &str> = guide
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .filter_map(|(name, rest)| Some((name, rest.split(" | ").nth(1)?)))
        .collect();
    let mut wanted: Vec<&str> = all.iter().map(WaitReason::name).collect();
    wanted.sort_unstable();
    assert_eq!(rows.keys().copied().collect::<Vec<_>>(), wanted);
    for reason in &all {
        let only_time = rows[reason.name()].starts_with("only time");
        assert_eq!(reason.smallest_change().is_none(), only_time, "{}", reason.name());
    }
}

/// What stands in the guide of rules as a whole file is one.
#[test]
fn rule_files_of_the_guide_are_sound() {
    let guide = read_guide("docs/rules.md");
    let mut seen = 0;
    for fence in &guide.fences {
        let faults = match fence.file() {
            Some("domains.toml") => {
                rules::recipient::DomainRuleFile::parse("domains.toml", fence.text.as_bytes()).err()
            }
            Some("formats.toml") => {
                rules::recipient::FormatRuleFile::parse("formats.toml", fence.text.as_bytes()).err()
            }
            _ => continue,
        };
        assert_eq!(faults, None, "docs/rules.md:{}", fence.line);
        seen += 1;
    }
    assert_eq!(seen, 2);
}

/// Keys and sections of the example, with the values that stand there.
fn keys_of_the_example() -> BTreeMap<(String, String), String> {
    let machine = node::config::MachineFacts {
        hostname: "mail.example.com".to_owned(),
        addresses: vec!["192.0.2.1".parse().unwrap()],
        data_dir: "/var/lib/mailweir".to_owned(),
    };
    let text = node::config::Config::example_for(&machine);
    let mut section = String::new();
    let mut keys = BTreeMap::new();
    for line in text.lines() {
        let line = line.strip_prefix("# ").unwrap_or(line);
        if line.starts_with('[') && line.ends_with(']') {
            section = line.trim_matches(['[', ']']).to_owned();
        } else if let Some((key, value)) = line.split_once(" = ")
            && !key.is_empty()
            && key.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_')
        {
            let value = value.split("   ").next().unwrap_or_default();
            keys.insert((section.clone(), key.to_owned()), value.to_owned());
        }
    }
    keys
}

#[test]
fn every_key_of_the_configuration_is_in_the_guide_with_its_default() {
    let guide = read_guide("docs/configuration.md");
    let keys = keys_of_the_example();
    assert!(keys.len() > 60, "{keys:?}");
    let mut faults = Vec::new();
    for (section, key) in keys.keys() {
        if !guide.text.contains(&format!("`{key}`")) {
            faults.push(format!("[{section}] {key} is not in the guide"));
        }
        let heading = [format!("[{section}]`"), format!("[[{section}]]`"), format!("[{section}.")];
        if !section.is_empty() && !heading.iter().any(|text| guide.text.contains(text)) {
            faults.push(format!("[{section}] is not in the guide"));
        }
    }
    // Rows of one key whose default is a value, not words.
    let mut section = "";
    let mut compared = 0;
    for line in guide.text.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            section = heading.trim_matches(['`', '[', ']']);
        }
        let cells: Vec<&str> = line.split(" | ").collect();
        let (Some(key), Some(default)) = (cells[0].strip_prefix("| `"), cells.get(1)) else {
            continue;
        };
        let Some(key) = key.strip_suffix('`') else { continue };
        let Some(value) = keys.get(&(section.to_owned(), key.to_owned())) else { continue };
        let plain = |text: &str| text.trim_matches(['`', '"']).to_owned();
        let is_value = default.starts_with(['`', '['])
            || default.parse::<u64>().is_ok()
            || *default == "true"
            || *default == "false";
        if is_value && section != "source" {
            compared += 1;
            if plain(default) != plain(value) {
                faults.push(format!(
                    "[{section}] {key}: {default} in the guide, {value} in the example"
                ));
            }
        }
    }
    assert!(compared > 20, "only {compared} defaults were compared");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn quotes_are_understood() {
    let line =
        r#"mailweir delivery send --subject "News for {{ a }}" --x '{"b": 1}' --empty "" --c"#;
    let wanted = [
        "mailweir",
        "delivery",
        "send",
        "--subject",
        "News for {{ a }}",
        "--x",
        r#"{"b": 1}"#,
        "--empty",
        "",
        "--c",
    ];
    assert_eq!(words(line), wanted);
}
