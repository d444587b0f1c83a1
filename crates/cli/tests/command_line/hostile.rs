//! A server that says what would steer a terminal, forge a line of a log or become markup, and all the places where a
//! node and its commands show what servers said.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;

use serde_json::Value;

use super::command;
use super::instance::{Process, json, until};

/// What is said in every reply: control sequences in 7 and 8 bits, NUL, a lone CR, a backspace, octets that are no UTF-8,
/// the characters that turn the direction of writing or end a line, markup, template marks, and what would end a text
/// in JSON or a label of a metric.
const HOSTILE: &[u8] = b"\x1b[2J\x1b]0;title\x07\x00\r\x08\x7f \xc2\x9b31m\xc2\x85 \x9b\xff \xe2\x80\xae \xe2\x80\xa8 \
    \xe2\x80\x8b\xef\xbb\xbf <script>alert(1)</script> {{7*7}} \"}\\n,\"outcome\":\"sent\" # HELP x";

/// A word that shows that the hostile text came as far as some place.
const MARK: &str = "alert(1)";

/// Answers every command with the hostile text behind a code that depends on the recipient.
fn talk(stream: TcpStream) -> std::io::Result<()> {
    let mut out = stream.try_clone()?;
    let mut say = |words: &str| -> std::io::Result<()> {
        out.write_all(&[words.as_bytes(), b" ", HOSTILE, b"\r\n"].concat())
    };
    say("220 mx")?;
    let mut lines = BufReader::new(stream).split(b'\n');
    while let Some(line) = lines.next() {
        let line = String::from_utf8_lossy(&line?).into_owned();
        match &line[..4.min(line.len())] {
            "EHLO" => say("250-mx")?,
            "RCPT" if line.contains("hard@") => say("550-5.1.1 User unknown")?,
            "RCPT" if line.contains("soft@") => say("451 4.2.1 come back")?,
            "RCPT" if line.contains("odd@") => say("550 5.9.9 the wizard sleeps")?,
            "RCPT" if line.contains("quit@") => say("421 4.3.2 closing")?,
            "DATA" => {
                say("354 go")?;
                while lines.next().transpose()?.is_some_and(|line| line != b".\r") {}
                say("250 2.0.0 taken")?;
            }
            _ => say("250 2.0.0 ok")?,
        }
        if line.starts_with("EHLO") {
            say("250 SIZE")?;
        } else if line.contains("hard@") {
            say("550 5.1.1 second line")?;
        }
    }
    Ok(())
}

/// Listens on an address of its own; the conversations end with the test.
fn hostile_server() -> SocketAddr {
    let listener = TcpListener::bind("127.9.77.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // How a conversation ends is the node's business.
            std::thread::spawn(move || drop(talk(stream)));
        }
    });
    address
}

/// Every octet that has no business in a text for people or in JSON.
fn first_deceptive(octets: &[u8]) -> Option<String> {
    let Ok(text) = core::str::from_utf8(octets) else { return Some("no UTF-8".into()) };
    let deceptive = |one: char| mail::reply::is_deceptive(one) && one != '\n';
    let at = text.find(deceptive)?;
    let before = text[..at].char_indices().rev().nth(60).map_or(0, |(at, _)| at);
    Some(text[before..].chars().take(90).collect::<String>().escape_debug().to_string())
}

fn assert_harmless(what: &str, octets: &[u8]) {
    if let Some(found) = first_deceptive(octets) {
        panic!("{what} shows {found}");
    }
}

/// The head and the body of an answer of the node.
fn get(url: &str, path: &str) -> (String, Vec<u8>) {
    let host = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let at = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    (String::from_utf8(answer[..at].to_vec()).unwrap(), answer[at + 4..].to_vec())
}

/// A node that hands everything for one.example to the hostile server.
fn configure(folder: &Path) {
    let server = hostile_server();
    let text = format!(
        r#"
data_dir = "data"
[[source]]
public_id = 1
address = "127.10.77.1"
helo = "m1.sender.example"
[[relay]]
domains = ["one.example"]
hosts = ["{server}"]
[dns]
servers = ["127.0.0.1:9"]
[safety]
only_targets = ["127.0.0.0/8"]
[submission]
listen = []
[http]
listen = ["127.0.0.1:0"]
[log]
level = "debug"
"#
    );
    std::fs::write(folder.join("mailweir.toml"), text).unwrap();
    std::fs::write(folder.join("letter.txt"), "Dear reader\n").unwrap();
    let list = "email\nhard@one.example\nsoft@one.example\nodd@one.example\nquit@one.example\nfine@one.example\n";
    std::fs::write(folder.join("list.csv"), list).unwrap();
}

/// Whatever the node answers over HTTP.
fn check_http(url: &str) -> usize {
    let mut marked = 0;
    for path in [
        "/metrics",
        "/api/v1/explain/m1",
        "/api/v1/explain/m2",
        "/api/v1/explain/m3",
        "/api/v1/explain/m4",
        "/api/v1/explain/m5",
        "/api/v1/explain/d1",
        "/api/v1/explain/one.example",
        "/api/v1/explain/hard@one.example",
        "/api/v1/paths/one.example",
        "/api/v1/stat",
        "/api/v1/deliveries/d1",
        "/api/v1/deliveries/%C2%9B",
        "/api/v1/quarantine/addresses",
        "/api/v1/quarantine/addresses/hard@one.example",
        "/api/v1/quarantine/export",
        "/api/v1/qualifications",
        "/api/v1/qualifications?status=to-qualify",
    ] {
        let (head, body) = get(url, path);
        assert_harmless(path, head.replace("\r\n", "\n").as_bytes());
        let mut body = body;
        if !head.to_lowercase().contains("json") {
            // The lines of CSV, and those between the chunks.
            body.retain(|octet| *octet != b'\r');
        }
        assert_harmless(path, &body);
        assert!(!head.to_lowercase().contains("content-type: text/html"), "{path}: {head}");
        let text = String::from_utf8(body).unwrap();
        if path == "/metrics" {
            // No text of a server is a label, and every line has the form of its kind.
            assert!(!text.contains(MARK), "{text}");
            let sound = |line: &str| line.starts_with("# ") || line.starts_with("mailweir_");
            assert!(text.lines().all(sound), "{text}");
        } else if head.to_lowercase().contains("json") {
            serde_json::from_str::<Value>(&text).unwrap_or_else(|why| panic!("{path}: {why}"));
        }
        marked += usize::from(text.contains(MARK));
    }
    marked
}

/// Whatever the commands print, to people and to programs.
fn check_commands(folder: &Path) -> usize {
    let mut marked = 0;
    for words in [
        &["explain", "m1"][..],
        &["explain", "m2"],
        &["explain", "m3"],
        &["explain", "m4"],
        &["explain", "m5"],
        &["explain", "d1"],
        &["explain", "one.example"],
        &["explain", "hard@one.example"],
        &["delivery", "list"],
        &["delivery", "show", "d1"],
        &["stat", "show"],
        &["stat", "audit"],
        &["mx", "explain", "one.example"],
        &["mx", "simulate", "--level", "fast"],
        &["quarantine", "list"],
        &["quarantine", "explain", "hard@one.example"],
        &["qualification", "list"],
        &["quarantine", "export"],
    ] {
        for format in ["text", "json"] {
            let all = [words, &["--format", format]].concat();
            let done = command(folder, &all).output().unwrap();
            let place = all.join(" ");
            assert!(done.status.code().is_some_and(|code| code < 2), "{place}: {done:?}");
            assert_harmless(&place, &done.stdout);
            assert_harmless(&place, &done.stderr);
            marked += usize::from(String::from_utf8_lossy(&done.stdout).contains(MARK));
        }
    }
    // What is put in by a pipe comes out by the same rules.
    for words in [&["reply", "classify"][..], &["reply", "classify", "--format", "json"]] {
        let mut child = command(folder, words)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&[b"550 5.1.1 ", HOSTILE, b"\n"].concat()).unwrap();
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success(), "{done:?}");
        assert_harmless(&words.join(" "), &done.stdout);
        assert_eq!(done.stdout.iter().filter(|octet| **octet == b'\n').count(), 1, "{done:?}");
    }
    marked
}

#[test]
fn what_a_server_says_steers_nothing_that_shows_it() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    configure(here);
    let node = Process::start(here, &["serve"], "the node runs");
    // Port 0 is in the configuration; the commands are told where the node listens.
    let config = std::fs::read_to_string(here.join("mailweir.toml")).unwrap();
    let port = node.url.rsplit(':').next().unwrap();
    std::fs::write(
        here.join("mailweir.toml"),
        config.replace("127.0.0.1:0", &format!("127.0.0.1:{port}")),
    )
    .unwrap();
    let words = ["--from", "News <news@sender.example>", "--subject", "x", "--text", "letter.txt"];
    let sending = [&["delivery", "send", "--recipients", "list.csv"], &words[..]].concat();
    json(here, &sending);
    until(
        "five recipients have been tried",
        || json(here, &["delivery", "show", "d1"]),
        |shown| shown["counters"]["sent"] == 1 && shown["counters"]["failed"] == 2,
    );
    until(
        "the refusal is on record",
        || json(here, &["qualification", "list"]),
        |shown| shown["texts"].as_array().is_some_and(|texts| texts.len() >= 3),
    );
    let over_http = check_http(&node.url);
    let by_commands = check_commands(here);
    assert!(over_http >= 8 && by_commands >= 12, "{over_http} {by_commands}: too little was shown");
    let log = std::sync::Arc::clone(&node.log);
    drop(node);
    for line in log.lock().unwrap().iter() {
        let line = line.as_ref().expect("the log is UTF-8");
        assert_harmless("the log", line.as_bytes());
        // Each line begins with its time: none was made by a server.
        assert!(line.starts_with("20") && line.contains('T'), "{line}");
    }
    let lines = std::fs::read(here.join("data/delivery.jsonl")).unwrap();
    assert_harmless("the delivery log", &lines);
    let lines: Vec<Value> = lines
        .split(|octet| *octet == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    for (recipient, outcome) in
        [("hard@", "failed"), ("soft@", "deferred"), ("odd@", "failed"), ("fine@", "sent")]
    {
        let of: Vec<_> = lines
            .iter()
            .filter(|line| line["recipient"].as_str().unwrap().starts_with(recipient))
            .collect();
        assert!(!of.is_empty() && of.iter().all(|line| line["outcome"] == outcome), "{of:?}");
        assert!(of.iter().all(|line| line["reply"].as_str().unwrap().contains(MARK)), "{of:?}");
    }
}
