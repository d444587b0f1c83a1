use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rules::bounce::{Key, normalise};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;
use crate::tests::{PUBLISHER, TestClock, TestKey, bundle, config};

/// A server on loopback.
struct Served {
    address: SocketAddr,
    key: TestKey,
    clock: TestClock,
    certificate: Option<Certificate>,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<std::io::Result<()>>,
    folder: tempfile::TempDir,
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn read(octets: &[u8]) -> Self {
        let end = octets.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8(octets[..end].to_vec()).unwrap().to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head, body: octets[end + 4..].to_vec() }
    }

    fn field(&self, name: &str) -> Option<&str> {
        let prefix = format!("{name}: ");
        self.head.lines().find_map(|line| line.strip_prefix(prefix.as_str()))
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|fault| panic!("{fault}: {}", String::from_utf8_lossy(&self.body)))
    }
}

impl Served {
    async fn with(lines: &str) -> Self {
        Self::in_folder(tempfile::tempdir().unwrap(), lines).await
    }

    async fn in_folder(folder: tempfile::TempDir, lines: &str) -> Self {
        let (key, clock) = (TestKey::of(1), TestClock::new());
        let server = Server::start(config(folder.path(), &key, lines), clock.clock()).unwrap();
        let address = server.local_addresses().unwrap()[0];
        let (stop, certificate) = (CancellationToken::new(), server.certificate());
        let running = tokio::spawn(server.run(stop.clone()));
        Self { address, key, clock, certificate, stop, running, folder }
    }

    async fn ask(&self, line: &str, token: &str, fields: &str, body: &[u8]) -> Answer {
        let stream = TcpStream::connect(self.address).await.unwrap();
        asked(stream, line, token, fields, body).await
    }

    /// A publisher's request with JSON.
    async fn publish(&self, line: &str, body: serde_json::Value) -> Answer {
        let json = "Content-Type: application/json\r\n";
        self.ask(line, PUBLISHER, json, body.to_string().as_bytes()).await
    }

    /// A client with its token.
    async fn client(&self, name: &str) -> String {
        let answer = self.publish("POST /v1/clients", serde_json::json!({ "name": name })).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()["token"].as_str().unwrap().to_owned()
    }

    async fn push(&self, version: u64, share: u8) -> Answer {
        let octets = bundle(&self.key, version, self.clock.now());
        let fields = format!("X-Mailweir-Share: {share}\r\nX-Mailweir-Why: because\r\n");
        self.ask("POST /v1/bundles", PUBLISHER, &fields, &octets).await
    }

    async fn end(self) {
        self.stop.cancel();
        timeout(Duration::from_secs(10), self.running).await.unwrap().unwrap().unwrap();
        drop(self.folder);
    }
}

async fn asked(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    line: &str,
    token: &str,
    fields: &str,
    body: &[u8],
) -> Answer {
    let token = match token {
        "" => String::new(),
        token => format!("Authorization: Bearer {token}\r\n"),
    };
    let head = format!(
        "{line} HTTP/1.1\r\nHost: instance\r\nConnection: close\r\nContent-Length: {}\r\n{token}{fields}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // Whoever refuses may close before all is sent.
    let _ = stream.write_all(body).await;
    let mut octets = Vec::new();
    let read = timeout(Duration::from_secs(20), stream.read_to_end(&mut octets)).await.unwrap();
    assert!(read.is_ok() || !octets.is_empty(), "{read:?}");
    Answer::read(&octets)
}

#[tokio::test]
async fn a_client_fetches_what_was_pushed() {
    let served = Served::with("").await;
    let token = served.client("one").await;
    assert_eq!(served.ask("GET /v1/bundle", &token, "", b"").await.status, 204);
    let pushed = served.push(1, 5).await;
    assert_eq!(pushed.status, 201, "{pushed:?}");
    let plain = served.ask("GET /v1/bundle", &token, "", b"").await;
    let octets = bundle(&served.key, 1, served.clock.now());
    assert_eq!((plain.status, &plain.body), (200, &octets));
    assert_eq!(plain.field("content-type"), Some("application/vnd.mailweir.bundle"));
    assert_eq!(plain.field("content-encoding"), None);
    let etag = plain.field("etag").unwrap().to_owned();
    assert!(etag.starts_with("\"1-") && etag.len() == 20, "{etag}");
    let packed = served.ask("GET /v1/bundle", &token, "Accept-Encoding: gzip\r\n", b"").await;
    assert_eq!(packed.field("content-encoding"), Some("gzip"));
    assert_eq!(packed.field("etag"), Some(etag.as_str()));
    assert!(packed.body.len() < octets.len());
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&packed.body[..]).read_to_end(&mut unpacked).unwrap();
    assert_eq!(unpacked, octets);
    let fields =
        format!("If-None-Match: {etag}\r\nX-Mailweir-Program: 0.1.0\r\nX-Mailweir-Bundle: 1\r\n");
    let same = served.ask("GET /v1/bundle", &token, &fields, b"").await;
    assert_eq!((same.status, same.body.len(), same.field("etag")), (304, 0, Some(etag.as_str())));
    let clients = served.ask("GET /v1/clients", PUBLISHER, "", b"").await.json();
    assert_eq!(clients["clients"][0]["in_force"], 1, "{clients}");
    assert_eq!(clients["clients"][0]["program"], "0.1.0");
    let name = clients["clients"][0]["name"].as_str().unwrap();
    let one = served.ask(&format!("GET /v1/clients/{name}"), PUBLISHER, "", b"").await.json();
    assert_eq!(one["fetches"][0]["program"], "0.1.0", "{one}");
    assert!(one["fetches"].as_array().unwrap().iter().any(|fetch| fetch["status"] == 200), "{one}");
    let kept = served.ask("GET /v1/bundles/1", PUBLISHER, "", b"").await;
    assert_eq!(kept.body, octets);
    served.end().await;
}

/// Two clients, each twice, at the same moment: one of them is the first, and every answer is whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clients_that_fetch_at_the_same_moment_get_one_answer_each() {
    let served = Served::with("").await;
    let tokens = [served.client("one").await, served.client("two").await];
    served.push(1, 100).await;
    let fetch = async |token: &str| {
        let answer = served.ask("GET /v1/bundle", token, "X-Mailweir-Bundle: 1\r\n", b"").await;
        let version = if answer.field("etag").unwrap().starts_with("\"2-") { 2 } else { 1 };
        assert_eq!(answer.body, bundle(&served.key, version, served.clock.now()));
        version
    };
    let all = async || {
        let [one, two] = &tokens;
        let (a, b, c, d) = tokio::join!(fetch(one), fetch(two), fetch(one), fetch(two));
        assert_eq!((a, b), (c, d), "the same answer for the same client");
        (a, b)
    };
    assert_eq!(all().await, (1, 1));
    served.push(2, 50).await;
    let (one, two) = all().await;
    assert_eq!(one + two, 3, "one of them is the first");
    let rollout = served.ask("GET /v1/rollout", PUBLISHER, "", b"").await.json();
    let given = |place: usize| rollout["stages"][place]["clients"]["given"].as_u64();
    assert_eq!((given(0), given(1)), (Some(1), Some(1)), "{rollout}");
    served.end().await;
}

#[tokio::test]
async fn every_role_has_its_own_doors() {
    let served = Served::with("").await;
    let client = served.client("one").await;
    let of_clients = ["GET /v1/bundle", "POST /v1/texts", "POST /v1/report"];
    let of_publishers = [
        "GET /v1/bundles",
        "POST /v1/bundles",
        "GET /v1/bundles/1",
        "GET /v1/rollout",
        "POST /v1/rollout",
        "GET /v1/clients",
        "POST /v1/clients",
        "GET /v1/clients/one",
        "DELETE /v1/clients/one",
        "GET /v1/texts",
        "GET /v1/texts/export",
        "GET /v1/texts/rules",
        "POST /v1/texts/c-0",
        "GET /v1/audit",
    ];
    for line in of_clients.iter().chain(&of_publishers) {
        for token in ["", "nobody's-token-at-all", &client[..63]] {
            let answer = served.ask(line, token, "", b"").await;
            assert_eq!(answer.status, 401, "{line} {token}");
            assert_eq!(answer.field("content-type"), Some("application/problem+json"));
        }
    }
    for line in of_clients {
        assert_eq!(served.ask(line, PUBLISHER, "", b"").await.status, 403, "{line}");
    }
    for line in of_publishers {
        assert_eq!(served.ask(line, &client, "", b"").await.status, 403, "{line}");
    }
    for (line, status) in
        [("GET /healthz", 200), ("GET /readyz", 200), ("GET /v2", 404), ("PUT /v1/bundle", 405)]
    {
        assert_eq!(served.ask(line, "", "", b"").await.status, status, "{line}");
    }
    // A removed client's token is worth nothing.
    assert_eq!(served.ask("DELETE /v1/clients/one", PUBLISHER, "", b"").await.status, 204);
    assert_eq!(served.ask("GET /v1/bundle", &client, "", b"").await.status, 401);
    served.end().await;
}

#[tokio::test]
async fn bad_pushes_are_named() {
    let served = Served::with("").await;
    assert_eq!(served.push(2, 100).await.status, 201);
    assert_eq!(served.push(2, 100).await.status, 200);
    let older = served.push(1, 100).await;
    assert_eq!(older.status, 409);
    assert_eq!(older.json()["type"], "urn:mailweir:problem:older");
    let mut touched = bundle(&served.key, 3, served.clock.now());
    let place = touched.len() - 180;
    touched[place] ^= 1;
    let bad = served.ask("POST /v1/bundles", PUBLISHER, "", &touched).await;
    assert_eq!((bad.status, bad.json()["fault"].as_str()), (422, Some("bad-signature")));
    for share in ["0", "101", "x"] {
        let fields = format!("X-Mailweir-Share: {share}\r\n");
        let octets = bundle(&served.key, 3, served.clock.now());
        let answer = served.ask("POST /v1/bundles", PUBLISHER, &fields, &octets).await;
        assert_eq!(answer.status, 422, "{share}");
    }
    let bundles = served.ask("GET /v1/bundles", PUBLISHER, "", b"").await.json();
    assert_eq!(bundles["bundles"].as_array().unwrap().len(), 1);
    let trail = served.ask("GET /v1/audit?limit=5", PUBLISHER, "", b"").await.json();
    assert_eq!(trail["audit"][0]["what"], "pushed bundle 2 to 100 %");
    assert_eq!(
        (trail["audit"][0]["who"].as_str(), trail["audit"][0]["why"].as_str()),
        (Some("anna"), Some("because"))
    );
    served.end().await;
}

#[tokio::test]
async fn bodies_are_bounded_in_size_and_time() {
    let served = Served::with("[limits]\nrequest_seconds = 1\nhead_seconds = 1").await;
    let token = served.client("one").await;
    let json = "Content-Type: application/json\r\n";
    let large = vec![b' '; (1 << 20) + 1];
    assert_eq!(served.ask("POST /v1/texts", &token, json, &large).await.status, 413);
    let large = vec![b'x'; rules::bundle::LARGEST_BUNDLE + 1];
    assert_eq!(served.ask("POST /v1/bundles", PUBLISHER, "", &large).await.status, 413);
    // A body that does not come.
    let mut slow = TcpStream::connect(served.address).await.unwrap();
    let head = format!(
        "POST /v1/report HTTP/1.1\r\nHost: i\r\nConnection: close\r\n{json}Authorization: Bearer {token}\r\nContent-Length: 50\r\n\r\n{{"
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut octets = Vec::new();
    timeout(Duration::from_secs(10), slow.read_to_end(&mut octets)).await.unwrap().unwrap();
    assert_eq!(Answer::read(&octets).status, 408);
    // A head that does not end.
    let mut slow = TcpStream::connect(served.address).await.unwrap();
    slow.write_all(b"GET /healthz HTTP/1.1\r\nX-Slow: ").await.unwrap();
    let mut octets = Vec::new();
    let ended = timeout(Duration::from_secs(10), slow.read_to_end(&mut octets)).await;
    assert!(ended.is_ok(), "the connection is held");
    assert!(!octets.starts_with(b"HTTP/1.1 2"));
    assert_eq!(served.ask("GET /healthz", "", "", b"").await.status, 200);
    served.end().await;
}

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_come_again() {
    let served = Served::with("[limits]\nrequests_per_minute = 2").await;
    let token = served.client("one").await;
    for wanted in [204, 204, 429] {
        let answer = served.ask("GET /v1/bundle", &token, "", b"").await;
        assert_eq!(answer.status, wanted);
        let wait = answer.field("retry-after").map(|wait| wait.parse::<u64>().unwrap());
        assert_eq!(wait.is_some_and(|wait| (1..=60).contains(&wait)), wanted == 429);
    }
    served.clock.pass(Duration::from_secs(60));
    assert_eq!(served.ask("GET /v1/bundle", &token, "", b"").await.status, 204);
    served.end().await;
}

#[tokio::test]
async fn clients_are_heard() {
    let served = Served::with("").await;
    let token = served.client("one").await;
    served.push(1, 5).await;
    let json = "Content-Type: application/json\r\n";
    let text = normalise("550 purple elephants guard this gateway");
    let entry = |text: &str, occurrences: u64| {
        serde_json::json!({
            "key": Key::of(text).to_string(), "text": text, "provider": "gmail", "occurrences": occurrences,
            "first": "2026-11-20T10:00:00Z", "last": "2026-11-21T10:00:00.5Z",
        })
    };
    let send = async |texts: Vec<serde_json::Value>| {
        let body = serde_json::json!({ "texts": texts }).to_string();
        served.ask("POST /v1/texts", &token, json, body.as_bytes()).await
    };
    let mut backwards = entry(&text, 1);
    backwards["first"] = "2026-11-22T10:00:00Z".into();
    let taken = send(vec![
        entry(&text, 12),
        entry("550 of jane@corp.example", 1),
        entry(&text, 0),
        backwards,
    ])
    .await;
    assert_eq!(
        (taken.status, taken.json()),
        (202, serde_json::json!({ "taken": 1, "refused": 3 }))
    );
    assert_eq!(send(vec![entry(&text, 1); 1_001]).await.status, 413);
    let list = served.ask("GET /v1/texts", PUBLISHER, "", b"").await.json();
    let cluster = list["clusters"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(
        (&list["occurrences"], &list["clusters"][0]["providers"][0]),
        (&12.into(), &"gmail".into())
    );
    let shown = served.ask(&format!("GET /v1/texts/{}", Key::of(&text)), PUBLISHER, "", b"").await;
    assert_eq!(shown.json()["id"], cluster.as_str());
    let said =
        serde_json::json!({ "reason": "Refused", "type": "Soft", "status": "keep", "why": "seen" });
    let done = served.publish(&format!("POST /v1/texts/{cluster}"), said).await;
    assert_eq!((done.status, done.json()["texts"].as_u64()), (200, Some(1)), "{done:?}");
    let lines = served.ask("GET /v1/texts/export", PUBLISHER, "", b"").await;
    assert_eq!(
        String::from_utf8(lines.body).unwrap(),
        "{\"text\":\"550 purple elephants guard this gateway\",\"reason\":\"Refused\",\"type\":\"Soft\"}\n"
    );
    let said = served.ask("GET /v1/texts/qualified?limit=5", PUBLISHER, "", b"").await.json();
    assert_eq!((&said["all"], &said["texts"][0]["said_of"]), (&1.into(), &cluster.clone().into()));
    let withdraw = format!("DELETE /v1/texts/{cluster}");
    assert_eq!(served.ask(&withdraw, &token, "", b"").await.status, 403);
    let withdrawn = served.ask(&withdraw, PUBLISHER, "X-Mailweir-Why: wrong\r\n", b"").await;
    assert_eq!(withdrawn.json(), serde_json::json!({ "texts": 1, "rules": [] }));
    assert_eq!(served.ask(&withdraw, PUBLISHER, "", b"").await.status, 404);
    let report = async |state: &str| {
        let body = format!(
            "{{\"bundle\":1,\"state\":\"{state}\",\"reason\":\"words\",\"program\":\"0.1.0\"}}"
        );
        served.ask("POST /v1/report", &token, json, body.as_bytes()).await.status
    };
    // Who has only asked for the head of a bundle has none, and is not heard about it.
    assert_eq!(served.ask("HEAD /v1/bundle", &token, "", b"").await.status, 200);
    assert_eq!((report("applied").await, report("so").await), (204, 422));
    assert_eq!(report("alarm").await, 204);
    let rollout = async || served.ask("GET /v1/rollout", PUBLISHER, "", b"").await.json();
    let stage = rollout().await["stages"][0].clone();
    assert_eq!((&stage["halted"], &stage["clients"]["given"]), (&false.into(), &0.into()));
    assert_eq!(served.ask("GET /v1/bundle", &token, "", b"").await.status, 200);
    assert_eq!(report("alarm").await, 204);
    let rollout = rollout().await;
    assert_eq!(
        (&rollout["stages"][0]["halted"], &rollout["stages"][0]["clients"]["alarm"]),
        (&true.into(), &1.into())
    );
    let resume = serde_json::json!({ "version": 1, "action": "resume", "share": 100, "why": "so" });
    let resumed = served.publish("POST /v1/rollout", resume).await.json();
    assert_eq!(
        (&resumed["bundle"]["halted"], &resumed["bundle"]["share"]),
        (&false.into(), &100.into())
    );
    served.end().await;
}

#[tokio::test]
async fn over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["rules.example".to_owned()]).unwrap();
    std::fs::write(folder.path().join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let lines = "[tls]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n[limits]\nhead_seconds = 1";
    let served = Served::in_folder(folder, lines).await;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let connector = |roots: rustls::RootCertStore| {
        let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tokio_rustls::TlsConnector::from(Arc::new(config))
    };
    let connect = async |roots| {
        let stream = TcpStream::connect(served.address).await.unwrap();
        connector(roots).connect("rules.example".try_into().unwrap(), stream).await
    };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let stream = connect(roots).await.unwrap();
    let answer = asked(stream, "GET /v1/rollout", PUBLISHER, "", b"").await;
    assert_eq!((answer.status, answer.json()["clients"].as_u64()), (200, Some(0)));
    assert!(connect(rustls::RootCertStore::empty()).await.is_err());
    // Renewed: half of it is not taken, all of it is.
    let renewed = rcgen::generate_simple_self_signed(["rules.example".to_owned()]).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(renewed.cert.der().clone()).unwrap();
    let (folder, certificate) = (served.folder.path(), served.certificate.as_ref().unwrap());
    std::fs::write(folder.join("cert.pem"), renewed.cert.pem()).unwrap();
    assert!(certificate.read_again().is_err());
    assert!(connect(roots.clone()).await.is_err());
    std::fs::write(folder.join("key.pem"), renewed.signing_key.serialize_pem()).unwrap();
    certificate.read_again().unwrap();
    assert!(connect(roots).await.is_ok());
    // In clear nothing is answered, and a handshake that does not come is given up.
    let mut clear = TcpStream::connect(served.address).await.unwrap();
    clear.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").await.unwrap();
    let mut octets = Vec::new();
    let _ = clear.read_to_end(&mut octets).await;
    assert!(!octets.starts_with(b"HTTP"), "{octets:?}");
    let mut silent = TcpStream::connect(served.address).await.unwrap();
    let mut octets = Vec::new();
    timeout(Duration::from_secs(10), silent.read_to_end(&mut octets)).await.unwrap().unwrap();
    served.end().await;
}

#[test]
fn a_clock_that_jumps_is_not_believed_for_an_hour() {
    let (wall, now) = (Timestamp::from_secs(1_800_000_000), Instant::now());
    let mut watch = ClockWatch::new(wall, now);
    let minutes = |count: u64| Duration::from_secs(count * 60);
    for (wall_minutes, elapsed, trusted) in [
        (1, 1, true),
        // Corrections.
        (11, 2, true),
        (4, 3, true),
        // Four years ahead for a minute, and back.
        (4 * 366 * 1_440, 4, false),
        (5, 5, false),
        (64, 64, false),
        (65, 65, true),
        (300, 300, true),
    ] {
        let trusts = watch.trusts(wall + minutes(wall_minutes), now + minutes(elapsed));
        assert_eq!(trusts, trusted, "after {elapsed} minutes");
    }
}
