use clap::Parser;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    arguments: SendArguments,
}

fn parsed(words: &[&str]) -> Result<SendArguments, clap::Error> {
    let words = ["send", "--recipients", "-"].iter().chain(words).copied();
    Line::try_parse_from(words).map(|line| line.arguments)
}

const CONTENT: [&str; 6] = ["--from", "a@example.com", "--subject", "S", "--text", "t.txt"];

#[test]
fn options_are_what_was_stated_and_nothing_else() {
    let options = |more: &[&str]| {
        parsed(&[&CONTENT[..], more].concat()).map(|arguments| arguments.options().to_string())
    };
    assert_eq!(options(&[]).unwrap(), "{}");
    let all = [
        "--name",
        "spring",
        "--affinity",
        "news",
        "--priority",
        "low",
        "--validity",
        "2d",
        "--per-hour",
        "500",
        "--wave",
        "10%@0",
        "--wave",
        "100@2h",
        "--dry",
    ];
    let wanted = json!({
        "name": "spring", "affinity": "news", "priority": "low", "validity": "2d",
        "messages_per_hour": 500, "mode": "dry",
        "waves": [{ "size": { "percent": 10.0 }, "start_after": "0s" },
                  { "size": { "count": 100 }, "start_after": "2h" }],
    });
    assert_eq!(options(&all).unwrap(), wanted.to_string());
    for bad in [
        &["--validity", "soon"][..],
        &["--per-hour", "0"],
        &["--wave", "10%"],
        &["--test", "--dry"],
        &["--eml", "x.eml"],
    ] {
        assert!(options(bad).is_err(), "{bad:?}");
    }
    assert!(parsed(&["--from", "a@example.com", "--subject", "S"]).is_err());
    assert!(parsed(&["--eml", "x.eml"]).is_ok());
}

/// Reads one HTTP request: its first line and its body.
async fn request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let mut body = Vec::new();
    if head.contains("transfer-encoding: chunked") {
        loop {
            let mut size = Vec::new();
            while !size.ends_with(b"\r\n") {
                size.push(stream.read_u8().await.ok()?);
            }
            let size = std::str::from_utf8(&size).unwrap().trim();
            let size = usize::from_str_radix(size, 16).unwrap();
            let mut part = vec![0; size + 2];
            stream.read_exact(&mut part).await.ok()?;
            if size == 0 {
                break;
            }
            body.extend_from_slice(&part[..size]);
        }
    } else if let Some((_, rest)) = head.split_once("content-length: ") {
        let length = rest.lines().next().unwrap().parse().unwrap();
        body = vec![0; length];
        stream.read_exact(&mut body).await.ok()?;
    }
    Some((head.lines().next().unwrap().to_owned(), body))
}

/// A node that answers from a list, one answer for each request, and tells what it was asked.
async fn node(listener: TcpListener, answers: Vec<(u16, Value)>) -> Vec<(String, Vec<u8>)> {
    let mut asked = Vec::new();
    let mut answers = answers.into_iter().peekable();
    while answers.peek().is_some() {
        let (mut stream, _) = listener.accept().await.unwrap();
        while let Some(one) = request(&mut stream).await {
            asked.push(one);
            let Some((status, answer)) = answers.next() else { return asked };
            let answer = answer.to_string();
            let text = format!(
                "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{answer}",
                answer.len()
            );
            stream.write_all(text.as_bytes()).await.unwrap();
            if answers.peek().is_none() {
                return asked;
            }
        }
    }
    asked
}

struct Played {
    ended: Ended,
    asked: Vec<String>,
    list: Vec<u8>,
    refusals: String,
}

/// Plays a hand-over against a node with these answers.
fn play(list: &[u8], more: &[&str], answers: Vec<(u16, Value)>) -> Played {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("list.csv"), list).unwrap();
    std::fs::write(path("t.txt"), "Dear {{ name }}").unwrap();
    let runtime = crate::runtime().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (text, recipients, refusals) = (path("t.txt"), path("list.csv"), path("refusals.csv"));
    let mut words = vec![
        "send",
        "--from",
        "a@example.com",
        "--subject",
        "S",
        "--text",
        &text,
        "--recipients",
        &recipients,
        "--url",
        &url,
        "--token",
        "secret",
        "--refusals",
        &refusals,
    ];
    words.extend(more);
    let arguments = Line::try_parse_from(words).unwrap().arguments;
    let server = std::thread::spawn(move || runtime.block_on(node(listener, answers)));
    let ended = run(&Globals::default(), &arguments);
    let asked = server.join().unwrap();
    let list = asked.iter().find(|(line, _)| line.contains("/recipients"));
    Played {
        ended,
        list: list.map(|(_, body)| body.clone()).unwrap_or_default(),
        refusals: std::fs::read_to_string(path("refusals.csv")).unwrap_or_default(),
        asked: asked.into_iter().map(|(line, _)| line).collect(),
    }
}

#[test]
fn a_mailing_is_made_streamed_and_started() {
    let mut list = b"email,name\n".to_vec();
    for number in 0..20_000 {
        list.extend(format!("a{number}@example.com,Ann\n").into_bytes());
    }
    let played = play(
        &list,
        &[],
        vec![
            (201, json!({ "id": "d7" })),
            (
                200,
                json!({ "accepted": 19_999, "duplicates": 0, "refused": 1,
                      "refusals": [{ "line": 9, "reason": "invalid address" }] }),
            ),
            (
                200,
                json!({ "refusals": [{ "line": 9, "address": "x,y", "reason": "invalid address" }], "next": 5 }),
            ),
            (
                200,
                json!({ "refusals": [{ "line": 12, "address": "z", "reason": "bad" }], "next": null }),
            ),
            (200, json!({ "id": "d7", "state": "running" })),
        ],
    );
    assert_eq!(played.ended.unwrap(), Outcome::Fine);
    assert_eq!(played.list, list);
    assert_eq!(
        played.asked,
        [
            "post /api/v1/deliveries http/1.1",
            "post /api/v1/deliveries/d7/recipients http/1.1",
            "get /api/v1/deliveries/d7/refusals?from=0&limit=1000 http/1.1",
            "get /api/v1/deliveries/d7/refusals?from=5&limit=1000 http/1.1",
            "post /api/v1/deliveries/d7/start http/1.1",
        ]
    );
    assert_eq!(played.refusals, "line,address,reason\n9,\"x,y\",invalid address\n12,z,bad\n");
}

#[test]
fn a_paused_or_empty_mailing_is_not_started() {
    for (accepted, more, outcome) in
        [(3, &["--paused"][..], Outcome::Fine), (0, &[], Outcome::Negative)]
    {
        let played = play(
            b"email\na@example.com\n",
            more,
            vec![
                (201, json!({ "id": "d7" })),
                (
                    200,
                    json!({ "accepted": accepted, "duplicates": 0, "refused": 0, "refusals": [] }),
                ),
                (200, json!({ "refusals": [], "next": null })),
            ],
        );
        assert_eq!(played.ended.unwrap(), outcome);
        assert!(!played.asked.iter().any(|line| line.contains("/start")), "{:?}", played.asked);
    }
}

#[test]
fn half_a_list_is_cancelled() {
    let problem = json!({ "title": "Not now", "detail": "the disk is full" });
    let played = play(
        b"email\na@example.com\n",
        &[],
        vec![
            (201, json!({ "id": "d7" })),
            (503, problem),
            (200, json!({ "id": "d7", "state": "cancelled" })),
        ],
    );
    let words = played.ended.unwrap_err().to_string();
    assert!(words.contains("the disk is full") && words.contains("d7 was cancelled"), "{words}");
    assert!(played.asked[2].contains("/d7/cancel"), "{:?}", played.asked);
}

#[test]
fn a_list_that_is_none_makes_no_delivery() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("list.csv"), "name\nAnn\n").unwrap();
    std::fs::write(path("t.txt"), "Hello").unwrap();
    let (text, list) = (path("t.txt"), path("list.csv"));
    let words = [
        "send",
        "--from",
        "a@example.com",
        "--subject",
        "S",
        "--text",
        &text,
        "--recipients",
        &list,
        "--url",
        "http://127.0.0.1:9",
        "--token",
        "secret",
    ];
    let arguments = Line::try_parse_from(words).unwrap().arguments;
    let words = run(&Globals::default(), &arguments).unwrap_err().to_string();
    assert!(words.contains("no column email"), "{words}");
}
