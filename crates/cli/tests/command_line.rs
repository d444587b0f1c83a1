//! The program as a person or a script meets it: exit status, standard output and standard error.

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

#[path = "command_line/hostile.rs"]
mod hostile;
#[path = "command_line/instance.rs"]
mod instance;

/// The program in a folder, without anything of the caller's environment that it looks at.
fn command(folder: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mailweir"));
    command.current_dir(folder).args(words).stdin(Stdio::null());
    for name in ["MAILWEIR_CONFIG", "MAILWEIR_URL", "MAILWEIR_TOKEN"] {
        command.env_remove(name);
    }
    command
}

fn run(folder: &Path, words: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command(folder, words).output().unwrap();
    let text = |octets: Vec<u8>| String::from_utf8(octets).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

const CONFIG: &str = r#"
data_dir = "data"
[[source]]
public_id = 1
address = "127.0.0.1"
helo = "out1.example.com"
[submission]
listen = []
[http]
listen = []
"#;

#[test]
fn wrong_usage_and_missing_configuration_are_status_2() {
    let folder = tempfile::tempdir().unwrap();
    for (words, wanted) in [
        (&["frobnicate"][..], "unrecognized subcommand"),
        (&["mx", "list", "--level", "turbo"], "a level is one of"),
        (&["check"], "`mailweir init` writes one"),
        (&["--config", "none.toml", "check"], "no such file"),
        (&["mx", "check", "none.toml"], "none.toml"),
        (&["stat", "audit"], "--log"),
        (&["stat", "show", "--url", "http://127.0.0.1:1"], "no node answers"),
        (&["delivery", "show", "x1"], "d<number>"),
        (&["quarantine", "list", "--url", "http://127.0.0.1:1"], "no node answers"),
        (&["quarantine", "list", "--state", "gone"], "Valid, With errors, Quarantined"),
        (&["quarantine", "add"], "<ADDRESSES>"),
        (&["quarantine", "undo", "--apply"], "--provider"),
        (&["quarantine", "undo", "--from", "yesterday"], "--from"),
        (&["quarantine", "import", "none.csv", "--url", "http://127.0.0.1:1"], "none.csv"),
        (
            &["quarantine", "export", "-o", "x.csv", "--url", "http://127.0.0.1:1"],
            "no node answers",
        ),
        (&["qualification", "set", "abc", "--reason", "refused"], "32 hexadecimal digits"),
        (&["qualification", "set", "8d54d1a1ff4b73384faf3ebcce8b625b"], "--reason"),
        (&["qualification", "list", "--url", "http://127.0.0.1:1"], "no node answers"),
        (&["bounce", "simulate"], "--rules"),
        (&["mx", "simulate"], "--rules"),
        (&["mx", "simulate", "--level", "turbo"], "a level is one of"),
        (&["mx", "simulate", "--level", "fast", "--days", "0"], "--days"),
        (&["bounce", "simulate", "--rules", "none.toml"], "none.toml"),
    ] {
        let (status, stdout, stderr) = run(folder.path(), words);
        assert_eq!((status, stdout.as_str()), (2, ""), "{words:?}: {stderr}");
        assert!(stderr.contains(wanted), "{words:?}: {stderr}");
    }
    // A list that did not come leaves nothing behind.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn every_fault_of_a_configuration_is_shown_and_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!("{CONFIG}colour = 1\n[retry]\nvalidity = \"soon\"\n");
    std::fs::write(folder.path().join("mailweir.toml"), text).unwrap();
    for words in [&["check"][..], &["mx", "list"], &["stat", "audit"]] {
        let (status, _, stderr) = run(folder.path(), words);
        assert_eq!(status, 2);
        assert!(stderr.contains("colour") && stderr.contains("soon"), "{stderr}");
        assert!(stderr.contains("2 faults"), "{stderr}");
    }
}

#[test]
fn what_init_writes_passes_check() {
    let folder = tempfile::tempdir().unwrap();
    let (status, stdout, stderr) = run(folder.path(), &["init"]);
    assert_eq!(status, 0, "{stderr}");
    assert!(stdout.contains("mailweir check"), "{stdout}");
    let (status, _, stderr) = run(folder.path(), &["init"]);
    assert_eq!(status, 2);
    assert!(stderr.contains("exists"), "{stderr}");
    std::fs::write(folder.path().join("mailweir.toml"), CONFIG).unwrap();
    let words = ["check", "--offline", "--format", "json"];
    let (status, stdout, stderr) = run(folder.path(), &words);
    assert_eq!(status, 0, "{stdout}{stderr}");
    let answer: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(answer["ok"], true);
    assert_eq!(answer["failed"], 0);
    let foreign = CONFIG.replace("127.0.0.1", "203.0.113.77");
    std::fs::write(folder.path().join("mailweir.toml"), foreign).unwrap();
    let (status, stdout, _) = run(folder.path(), &["check", "--offline"]);
    assert_eq!(status, 1);
    assert!(stdout.contains("FAIL  source s1"), "{stdout}");
}

#[test]
fn rule_files_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let write = |text: &str| std::fs::write(folder.path().join("local.toml"), text).unwrap();
    write("schema_version = 1\n[[rule]]\nname = \"google\"\nmask = \"*.google.com\"\n");
    let (status, stdout, _) = run(folder.path(), &["mx", "check", "local.toml"]);
    assert_eq!(status, 0);
    assert!(stdout.contains("ok, 1 rule, replacing the shipped google"), "{stdout}");
    write(
        "schema_version = 1\n[[rule]]\nname = \"a\"\nmask = \"b\"\nmax_connections = 0\ncolour = 1\n",
    );
    let (status, stdout, stderr) = run(folder.path(), &["mx", "check", "local.toml"]);
    assert_eq!((status, stdout.as_str()), (1, ""));
    assert!(stderr.contains("local.toml:5") && stderr.contains("local.toml:6"), "{stderr}");
    assert!(stderr.contains("2 faults in local.toml"), "{stderr}");
    // Commands that need the rules do not start with them.
    let (status, _, stderr) = run(folder.path(), &["mx", "list", "--rules", "local.toml"]);
    assert_eq!(status, 2);
    assert!(stderr.contains("local.toml:5"), "{stderr}");
}

/// An import is in force without a fault: the four files that it writes, read by `check`.
#[test]
fn what_import_writes_passes_check() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("more.conf", "<domain corp.example>\nmax-smtp-out 3\n</domain>\n");
    let config = "include more.conf\ninclude ../out.conf\n<smtp-pattern-list busy>\nreply /too many/ mode=backoff\n</smtp-pattern-list>\n\
        <domain gmail.com>\nmax-smtp-out 5\nmax-msg-rate 2000/h\nsmtp-pattern-list busy\nbackoff-max-msg-rate 1/m\n</domain>\n\
        <domain gateway.example>\nroute [192.0.2.9]:25\n</domain>\n<domain *>\nretry-after 10m\nbounce-after 4d\n</domain>\n";
    write("pmta.conf", config);
    let mx = "corp.example=mx1.corp.example,mx2.corp.example";
    let words = ["import", "powermta", "pmta.conf", "--out", "own.toml", "--mx", mx];
    let (status, stdout, stderr) = run(folder.path(), &words);
    assert_eq!(status, 0, "{stdout}{stderr}");
    assert!(stdout.contains("written: own.toml (MX rules, 2 rules)"), "{stdout}");
    assert!(stdout.contains("only files inside the folder"), "{stdout}");
    let (status, _, stderr) = run(folder.path(), &words);
    assert_eq!(status, 2);
    assert!(stderr.contains("own.toml exists"), "{stderr}");
    let (status, _, stderr) = run(folder.path(), &[&words[..], &["--overwrite"]].concat());
    assert_eq!(status, 0, "{stderr}");
    let fragment = std::fs::read_to_string(folder.path().join("own.config.toml")).unwrap();
    write("mailweir.toml", &format!("{CONFIG}{fragment}"));
    let (status, stdout, stderr) = run(folder.path(), &["check", "--offline"]);
    assert_eq!(status, 0, "{stdout}{stderr}");
    let (_, stdout, stderr) =
        run(folder.path(), &["mx", "explain", "aspmx.l.google.com", "--mx-host", "--offline"]);
    assert!(stdout.contains("imported from PowerMTA: pmta.conf:"), "{stdout}{stderr}");
    for name in ["own.domains.toml", "own.reactions.toml"] {
        assert!(fragment.contains(name), "{fragment}");
    }
    let (status, stdout, _) =
        run(folder.path(), &["import", "powermta", "pmta.conf", "--format", "json"]);
    assert_eq!(status, 0);
    let answer: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(answer["written"], false);
    assert_eq!(answer["directives"], answer["entries"].as_array().unwrap().len());
    assert_eq!(answer["unknown_domains"][0], "corp.example");
    write("bad.toml", "[x\n");
    let (status, stdout, stderr) = run(folder.path(), &["import", "kumomta", "bad.toml"]);
    assert_eq!((status, stdout.as_str()), (1, ""));
    assert!(stderr.contains("bad.toml:1:") && stderr.contains("nothing was imported"), "{stderr}");
}

/// A file that is included may not be a link to somewhere else.
#[cfg(unix)]
#[test]
fn an_included_file_is_no_link_out_of_the_folder() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(other.path().join("secret"), "<domain *>\nmax-smtp-out 1\n</domain>\n").unwrap();
    std::os::unix::fs::symlink(other.path().join("secret"), folder.path().join("link")).unwrap();
    std::fs::write(folder.path().join("config"), "include link\n").unwrap();
    let (status, stdout, _) = run(folder.path(), &["import", "powermta", "config"]);
    assert_eq!(status, 0);
    assert!(
        stdout.contains("a link out of the folder") && !stdout.contains("max-smtp-out"),
        "{stdout}"
    );
}

#[test]
fn a_dry_run_says_where_a_file_is_wrong_and_what_it_cannot_read() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write(
        "faulty.toml",
        "schema_version = 1\nversion = \"1\"\n[[rule]]\nname = \"a\"\ncolour = 1\n",
    );
    write(
        "mx.toml",
        "schema_version = 1\n[[rule]]\nname = \"a\"\nmask = \"b\"\nmax_connections = 0\n",
    );
    write("policy.toml", "[quarantine]\nuser_unknown = { at = 300 }\n");
    write("other.toml", "[limits]\n");
    write("good.toml", "[quarantine]\nuser_unknown = { at = 2 }\n");
    write("bundle", "mailweir-bundle 1 99\n{}");
    for (words, status, wanted) in [
        (&["--rules", "faulty.toml"][..], 2, "faulty.toml:5:1"),
        (&["--policy", "policy.toml"], 2, "policy.toml:2:"),
        (&["--policy", "other.toml"], 2, "quarantine"),
        (&["--rules", "bundle"], 1, "bundle"),
        (&["--policy", "good.toml"], 2, "--data"),
        (&["--policy", "good.toml", "--data", "nowhere"], 2, "nowhere/mailweir.db"),
        (&["--policy", "good.toml", "--days", "0"], 2, "--days"),
        (&["mx", "--rules", "mx.toml"], 2, "mx.toml:5"),
        (&["mx", "--rules", "bundle"], 1, "bundle"),
        (&["mx", "--level", "fast"], 2, "--data"),
        (&["mx", "--level", "fast", "--data", "nowhere"], 2, "nowhere/mailweir.db"),
    ] {
        let (noun, words) = match words {
            ["mx", words @ ..] => ("mx", words),
            words => ("bounce", words),
        };
        let all = [&[noun, "simulate"][..], words].concat();
        let (ended, stdout, stderr) = run(folder.path(), &all);
        assert_eq!((ended, stdout.as_str()), (status, ""), "{words:?}: {stderr}");
        assert!(stderr.contains(wanted), "{words:?}: {stderr}");
    }
    assert!(!folder.path().join("nowhere").exists(), "nothing is made");
}

#[test]
fn the_audit_is_a_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let log = |count: u64| {
        let lines: String = (0..count)
            .map(|number| {
                format!("{{\"started_micros\":{number},\"source\":1,\"target\":\"192.0.2.1\",\"rule\":\"google\"}}\n")
            })
            .collect();
        std::fs::write(folder.path().join("delivery.jsonl"), lines).unwrap();
        run(folder.path(), &["stat", "audit", "--log", "delivery.jsonl", "--format", "json"])
    };
    let (status, stdout, _) = log(2_500);
    assert_eq!(status, 0, "{stdout}");
    let (status, stdout, _) = log(2_501);
    assert_eq!(status, 1);
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["limits_held"], false);
    assert_eq!(report["budgets"][0]["maximum"], 2_501);
}

/// The names of the fields that the help of `mx explain` promises, top level only.
#[test]
fn the_documented_fields_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let (_, help, _) = run(folder.path(), &["mx", "explain", "--help"]);
    let words = ["mx", "explain", "--mx-host", "mta5.am0.yahoodns.net", "--format", "json"];
    let (status, stdout, stderr) = run(folder.path(), &words);
    assert_eq!(status, 0, "{stderr}");
    let answer: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&stdout).unwrap();
    for name in answer.keys() {
        assert!(help.contains(name), "{name} is not documented");
    }
    for name in ["query", "mx_hosts", "paths", "budgets", "ceilings", "ceiling_per_hour", "notes"] {
        assert!(answer.contains_key(name), "{name} is missing");
    }
    for name in answer["mx_hosts"][0].as_object().unwrap().keys() {
        assert!(help.contains(name), "mx_hosts[].{name} is not documented");
    }
    assert_eq!(answer["mx_hosts"][0]["rule"]["name"], "yahoo");
}

#[test]
fn a_closed_pipe_is_a_success() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = command(folder.path(), &["mx", "list", "--format", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The list is larger than a pipe holds, so the program meets the closed end for certain.
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(0), ""));
}

/// Runs the parts of the benchmark whose name contains `only`, small, and holds them to leaving nothing behind.
fn bench(only: &str) -> (serde_json::Value, String) {
    let folder = tempfile::tempdir().unwrap();
    let words = ["--format", "json", "bench", "path", "--full", "--quick", "--only", only];
    let mut command = command(folder.path(), &words);
    let Output { status, stdout, stderr } = command.env("TMPDIR", folder.path()).output().unwrap();
    let told = String::from_utf8(stderr).unwrap();
    assert!(status.success(), "{told}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "something is left behind");
    (serde_json::from_slice(&stdout).unwrap(), told)
}

#[test]
fn the_benchmark_measures_a_queue_in_a_process_of_its_own() {
    let (report, told) = bench("single messages");
    let [queue] = report["queues"].as_array().unwrap().as_slice() else { panic!("{report}") };
    for name in [
        "messages",
        "accepted_per_second",
        "disk_bytes",
        "waiting_kib",
        "first_after_stop_seconds",
        "first_after_kill_seconds",
        "delivering_peak_kib",
    ] {
        assert!(queue[name].as_f64().unwrap() > 0.0, "{name}: {queue}");
    }
    assert!(queue["drain"]["per_second"].as_f64().unwrap() > 0.0, "{queue}");
    assert!(told.contains("[1/1] queue of 1,000 single messages"), "{told}");
    assert!(told.contains("everything took"), "{told}");
}

#[test]
fn the_benchmark_drains_what_was_put_off() {
    let (report, _) = bench("deferred once");
    let [figure] = report["path"].as_array().unwrap().as_slice() else { panic!("{report}") };
    assert!(figure["messages"].as_u64().unwrap() > 500, "{figure}");
    assert!(figure["cpu_micros"].as_f64().unwrap() > 0.0, "{figure}");
    let folder = tempfile::tempdir().unwrap();
    let (status, _, told) = run(folder.path(), &["bench", "path", "--only", "nothing like it"]);
    assert_eq!(status, 2, "{told}");
    assert!(told.contains("no part has such a name"), "{told}");
}
