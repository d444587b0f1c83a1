//! Hours of wall clock under an hourly limit, with more mail waiting than may go, while the node is killed, stopped,
//! frozen, and given other rules and levels. Three judges that share no code must agree: the lab counts what came over its
//! sockets, the auditor reads the delivery log, and the ledger tells what it has counted.

use super::*;

/// What a source may send to each of the four exchangers in an hour.
const LIMIT: u32 = 400;

/// The limit while the rules are lowered.
const LOWERED: u32 = 300;

/// The exchangers of the judge, each under another pacing or scope.
const EXCHANGERS: [(&str, &str); 4] = [
    ("a", "scope = \"path\"\npacing = \"burst\""),
    ("b", "scope = \"path\"\npacing = \"even\""),
    ("c", "scope = \"source\"\npacing = \"burst\""),
    ("d", "scope = \"path\"\npacing = \"staircase\""),
];

fn rules(limit: u32) -> String {
    let mut text = "schema_version = 1\n".to_owned();
    for (name, how) in EXCHANGERS {
        text.push_str(&format!(
            "[[rule]]\nname = \"{name}\"\nprovider = \"exchanger {name}\"\nmask = \"mx.{name}.judge.example\"\n{how}\n\
             max_connections = 3\nmax_messages_per_connection = 7\nmessages_per_hour = {limit}\ntls = \"disabled\"\n\
             source_of_figures = \"this trial\"\nmatches = [\"mx.{name}.judge.example\"]\n\
             matches_not = [\"mx.{name}.judge.test\"]\n"
        ));
    }
    text
}

fn promising_judge(journal: PathBuf) -> Lab {
    let mut config = LabConfig { journal: Some(journal), ..LabConfig::default() };
    for (number, (name, _)) in (1_u8..).zip(EXCHANGERS) {
        let domain = format!("{name}.judge.example");
        config.providers.push(ProviderConfig {
            name: name.into(),
            domains: vec![domain.clone()],
            mood: Mood { round_trip: Some(Span(Duration::from_millis(4))), ..Mood::default() },
            promise: Promise {
                max_connections: Some(3),
                max_messages_per_connection: Some(7),
                messages_per_hour: Some(LIMIT),
            },
            mx: vec![MxConfig {
                host: format!("mx.{domain}"),
                preference: 10,
                addresses: vec![[127, 15, number, 1].into()],
                domains: Vec::new(),
            }],
            ..ProviderConfig::default()
        });
    }
    Lab::start(config).unwrap()
}

/// `mailweir` with these words, in the node's folder; its standard output, which must be JSON.
fn command(folder: &Path, words: &[&str]) -> serde_json::Value {
    let done = Command::new(env!("CARGO_BIN_EXE_mailweir"))
        .current_dir(folder)
        .args(words)
        .args(["--config", "mailweir.toml", "--format", "json"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{words:?}: {said}{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_str(said.trim()).unwrap_or(serde_json::Value::Null)
}

pub(super) fn signal(node: &Node, name: &str) {
    let id = node.child.id().to_string();
    assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
}

/// What happens to the node in one turn.
fn disturb(turn: u32, node: &mut Node, folder: &Path, freeze: Duration) -> String {
    let said = |words: &[&str]| {
        command(folder, words);
        words.join(" ")
    };
    match turn % 8 {
        0 | 4 => {
            node.kill();
            *node = Node::start(folder);
            "kill -9 and start".to_owned()
        }
        1 => {
            std::fs::write(folder.join("mx.toml"), rules(LOWERED)).unwrap();
            format!("{LOWERED} in an hour: {}", said(&["stat", "reload"]))
        }
        2 => {
            signal(node, "-STOP");
            std::thread::sleep(freeze);
            signal(node, "-CONT");
            format!("frozen for {} s", freeze.as_secs())
        }
        3 => {
            std::fs::write(folder.join("mx.toml"), rules(LIMIT)).unwrap();
            format!("{LIMIT} in an hour: {}", said(&["stat", "reload"]))
        }
        5 => said(&["mx", "level", "set", "slow", "--why", "trial"]),
        6 => {
            signal(node, "-TERM");
            node.child.wait().unwrap();
            *node = Node::start(folder);
            "stopped and started".to_owned()
        }
        _ => said(&["mx", "level", "set", "configured", "--why", "trial"]),
    }
}

/// `cargo xtask hours`: `MAILWEIR_HOURS` of wall clock, 2 unless it says otherwise.
#[test]
#[ignore = "takes hours: cargo xtask hours"]
fn no_sliding_hour_over_its_limit() {
    let hours: f64 = std::env::var("MAILWEIR_HOURS").map_or(2.0, |hours| hours.parse().unwrap());
    let span = Duration::from_secs_f64(hours * 3_600.0);
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal.jsonl");
    let lab = promising_judge(journal);
    let http = free_port();
    let second =
        "[[source]]\npublic_id = 2\naddress = \"127.0.0.42\"\nhelo = \"m2.sender.example\"\n";
    write_configuration(folder.path(), &lab, http, second);
    std::fs::write(folder.path().join("mx.toml"), rules(LIMIT)).unwrap();
    let mut node = Node::start(folder.path());
    // Twice as much as may go.
    let most = f64::from(LIMIT) * 2.0 * 4.0 * (hours + 1.0) * 2.0;
    start_campaign(http, most as u32);
    let begun = Instant::now();
    let mut moments = Moments(0x5bd1_e995);
    // About sixteen disturbances, at moments of their own.
    for turn in 0.. {
        let share = f64::from(moments.next(90).as_millis() as u32) / 180.0;
        let pause = (span / 16).mul_f64(share).min(span.saturating_sub(begun.elapsed()));
        std::thread::sleep(pause);
        if begun.elapsed() >= span {
            break;
        }
        let what =
            disturb(turn, &mut node, folder.path(), (span / 80).min(Duration::from_secs(120)));
        let seen = lab.report();
        println!(
            "{:>6.0} s  {:>6} taken  {what}",
            begun.elapsed().as_secs_f64(),
            seen.totals.accepted
        );
        assert!(seen.limits_held(), "{:?}", seen.limit_violations);
    }
    std::fs::write(folder.path().join("mx.toml"), rules(LIMIT)).unwrap();
    command(folder.path(), &["mx", "level", "set", "configured", "--why", "trial"]);
    command(folder.path(), &["stat", "reload"]);
    let ledger = command(folder.path(), &["stat", "show"]);
    signal(&node, "-TERM");
    node.child.wait().unwrap();
    let audit = command(folder.path(), &["stat", "audit", "--all"]);
    let seen = lab.stop();
    let rows = agree(&ledger, &audit, &seen);
    println!("most messages in any sliding hour:");
    println!(
        "{:<6} {:<10} {:>5} {:>5} {:>8} {:>8}",
        "rule", "source", "limit", "lab", "auditor", "ledger"
    );
    for row in &rows {
        let [limit, lab, auditor, ledger] = row.counts;
        println!("{:<6} {:<10} {limit:>5} {lab:>5} {auditor:>8} {ledger:>8}", row.rule, row.source);
    }
    let most = seen.totals.accepted;
    println!("{most} taken in {:.2} h; excess 0; repeats {}", hours, seen.duplicates.extra_copies);
    if hours >= 1.0 {
        // Without mail waiting all the time the trial would prove nothing. What keeps an even pace cannot make up
        // for the time of a lower limit.
        for row in &rows {
            let least = if matches!(&*row.rule, "a" | "c") { 95 } else { 60 };
            assert!(row.counts[1] * 100 >= u64::from(LIMIT) * least, "rule {}: too few", row.rule);
        }
    }
}

/// A budget in the eyes of the three judges.
struct Row {
    rule: String,
    source: String,
    /// The limit, what the lab saw, what the auditor found, and what the ledger counts in the hour up to now.
    counts: [u64; 4],
}

/// Demands that the judges agree, and tells what each of them counted.
fn agree(ledger: &serde_json::Value, audit: &serde_json::Value, seen: &lab::Report) -> Vec<Row> {
    assert!(seen.limits_held(), "{:?}", seen.limit_violations);
    assert_eq!(audit["limits_held"], true, "{audit}");
    for nothing in ["malformed", "excesses", "out_of_order"] {
        assert_eq!(audit[nothing], 0, "{nothing}: {audit}");
    }
    assert_eq!(audit["unknown_rules"], serde_json::json!({}), "{audit}");
    let mut rows = Vec::new();
    for budget in audit["budgets"].as_array().unwrap() {
        let (key, rule) = (budget["key"].as_str().unwrap(), budget["rule"].as_str().unwrap());
        let source = if key.starts_with("s1") { "127.0.0.41" } else { "127.0.0.42" };
        let provider = seen.provider(rule).unwrap();
        let of_source = provider.sources.iter().find(|one| one.source == source).unwrap();
        let counted = ledger["budgets"].as_array().unwrap().iter();
        let counted = counted.filter(|one| one["key"] == key && one["rule"] == rule);
        let counted: u64 = counted.map(|one| one["used_in_window"].as_u64().unwrap()).sum();
        let (lab, auditor) =
            (of_source.most_messages_in_an_hour, budget["maximum"].as_u64().unwrap());
        assert!(lab <= u64::from(LIMIT) && counted <= u64::from(LIMIT), "{budget}");
        // A kill may take the log's last lines with it, never add any; the ledger counts before anything is sent.
        assert!(auditor <= lab, "{budget}: the lab saw {lab}");
        assert!(lab - auditor <= 20 * u64::from(CONNECTIONS), "{budget}: the lab saw {lab}");
        rows.push(Row {
            rule: rule.to_owned(),
            source: source.to_owned(),
            counts: [u64::from(LIMIT), lab, auditor, counted],
        });
    }
    assert_eq!(rows.len(), 8, "{audit}");
    rows
}
