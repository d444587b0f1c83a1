//! Fetching from an instance that misbehaves in every way a network knows.

use std::io::Write as _;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio_rustls::TlsAcceptor;

use super::exchange::permitted;
use super::*;
use crate::config::{DnsConfig, Secret};
use crate::deliverability::tests::fake::{Deed, FakeInstance, Heard, answer, published, say};
use crate::dns::tests::fake::FakeServer;

const TOKEN: &str = "a-token-of-this-client";

fn config(url: &str) -> InstanceConfig {
    InstanceConfig {
        connect_timeout: Duration::from_secs(5),
        read_timeout: Duration::from_millis(400),
        total_timeout: Duration::from_millis(1_200),
        max_bundle_bytes: 100_000,
        ..InstanceConfig::new(Target::parse_base(url).unwrap(), Secret::new(TOKEN))
    }
}

fn instance(config: InstanceConfig, dns: std::net::SocketAddr) -> Instance {
    let dns = DnsConfig { servers: vec![dns], ..DnsConfig::default() };
    Instance::new(config, Arc::new(Resolver::new(&dns).unwrap())).unwrap()
}

/// Nobody is asked for names.
fn of(server: &FakeInstance) -> Instance {
    instance(config(&server.url()), "127.0.0.1:9".parse().unwrap())
}

/// What is told of a bundle in force of this version.
fn stated(version: u64) -> Stated {
    Stated { version, digest: Some("0123456789abcdef".to_owned()) }
}

fn gzip(octets: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packer.write_all(octets).unwrap();
    packer.finish().unwrap()
}

/// The name of the fault, or what came.
fn shown(fetched: &Result<Fetched, FetchFault>) -> String {
    match fetched {
        Ok(Fetched::Unchanged) => "unchanged".into(),
        Ok(Fetched::Nothing) => "nothing".into(),
        Ok(Fetched::Bundle { octets, etag }) => {
            format!("{} octets, {}", octets.len(), etag.as_deref().unwrap_or("no etag"))
        }
        Err(fault) => fault.name().to_owned(),
    }
}

#[tokio::test]
async fn every_answer_is_a_whole_bundle_or_a_named_fault() {
    const KIND: &str = "content-type: application/vnd.mailweir.bundle\r\n";
    let packed = |octets: &[u8], packed: &[u8]| {
        assert!(octets.len() > packed.len());
        let fields = format!("{KIND}content-encoding: gzip\r\n");
        answer("200 OK", &fields, packed)
    };
    let text = b"mailweir-bundle ".repeat(100);
    let whole = gzip(&text);
    let bomb = vec![0; 5_000_000];
    let drip = Deed::Drip(Duration::from_millis(20));
    let head = |length: usize| {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n{KIND}\r\n").into_bytes()
    };
    let cases: Vec<(&str, Vec<Deed>, &str)> = vec![
        ("a bundle", published(b"octets", "7-00"), "6 octets, \"7-00\""),
        ("packed", packed(&text, &whole), "1600 octets, no etag"),
        ("nothing", answer("204 No Content", "", b""), "nothing"),
        ("304 without an ETag of ours", answer("304 Not Modified", "", b""), "status"),
        ("half a download", vec![Deed::Say([head(900), vec![b'x'; 450]].concat())], "cut-off"),
        ("nothing of it", vec![Deed::Say(head(900))], "cut-off"),
        ("half of something packed", packed(&text, &whole[..whole.len() / 2]), "cut-off"),
        ("a bomb", packed(&bomb, &gzip(&bomb)), "answer-too-large"),
        ("too large as announced", vec![Deed::Say(head(100_001)), Deed::Hang], "answer-too-large"),
        (
            "too large unannounced",
            vec![
                Deed::Say(format!("HTTP/1.1 200 OK\r\n{KIND}\r\n").into_bytes()),
                Deed::Say(vec![b'x'; 200_000]),
            ],
            "answer-too-large",
        ),
        ("not packed as it says", packed(&text, b"plain text"), "not-understood"),
        (
            "something behind it",
            packed(&text, &[whole.clone(), b"more".to_vec()].concat()),
            "not-understood",
        ),
        (
            "packed otherwise",
            answer("200 OK", &format!("{KIND}content-encoding: br\r\n"), b"x"),
            "not-understood",
        ),
        ("a page", answer("200 OK", "content-type: text/html\r\n", b"<html>"), "not-understood"),
        ("no type", answer("200 OK", "", b"x"), "not-understood"),
        ("not HTTP", say("220 mail.example ESMTP\r\n"), "not-understood"),
        ("silence", vec![Deed::Hang], "slow"),
        ("a slow head", vec![Deed::Say(b"HTTP/1.1 200 OK\r\nx: ".to_vec()), drip.clone()], "slow"),
        ("a slow body", vec![Deed::Say(head(90_000)), drip], "slow"),
        ("a body that stops", vec![Deed::Say(head(900)), Deed::Hang], "slow"),
        (
            "an endless head",
            say([b"HTTP/1.1 200 OK\r\nx: ".to_vec(), vec![b'x'; 200_000]].concat()),
            "not-understood",
        ),
        ("gone at once", vec![], "cut-off"),
        ("token", answer("401 Unauthorized", "", b""), "not-admitted"),
        ("role", answer("403 Forbidden", "", b"{\"detail\":\"no\"}"), "not-admitted"),
        ("broken", answer("500 Internal Server Error", "", b""), "status"),
        ("a redirection to nowhere", answer("302 Found", "", b""), "redirection"),
        ("to itself", answer("302 Found", "location: /v1/bundle\r\n", b""), "redirection"),
        (
            "to a private address",
            answer("302 Found", "location: http://10.0.0.1/x\r\n", b""),
            "forbidden-address",
        ),
        (
            "to what cannot be asked",
            answer("302 Found", "location: file:///etc/passwd\r\n", b""),
            "redirection",
        ),
    ];
    // Made before anybody's time runs.
    let mut ready = Vec::new();
    for (name, deeds, wanted) in cases {
        let server = FakeInstance::start(move |_| deeds.clone()).await;
        ready.push((name, of(&server), server, wanted));
    }
    let mut tasks = tokio::task::JoinSet::new();
    for (name, instance, server, wanted) in ready {
        tasks.spawn(async move {
            let begun = Instant::now();
            let fetched = instance.bundle(None, &stated(7)).await;
            assert!(begun.elapsed() < Duration::from_secs(4), "{name}: {:?}", begun.elapsed());
            drop(server);
            let shown = shown(&fetched);
            (shown != wanted).then(|| format!("{name}: {shown}, not {wanted}"))
        });
    }
    let wrong: Vec<String> = tasks.join_all().await.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn an_instance_is_asked_as_the_protocol_says() {
    let server = FakeInstance::start(|heard: &Heard| match heard.what.as_str() {
        "GET /v1/bundle" if heard.field("if-none-match").is_some() => {
            answer("304 Not Modified", "", b"")
        }
        "GET /v1/bundle" => {
            answer("503 Service Unavailable", "retry-after: 90\r\n", b"{\"detail\":\"busy\\n\"}")
        }
        "POST /v1/texts" => answer("202 Accepted", "", b"{\"taken\":1,\"refused\":0}"),
        _ => answer("204 No Content", "", b""),
    })
    .await;
    let instance = of(&server);
    assert!(matches!(instance.bundle(Some("\"7-ab\""), &stated(7)).await, Ok(Fetched::Unchanged)));
    let fault = instance.bundle(None, &Stated::default()).await.unwrap_err();
    assert_eq!(fault.retry_after(), Some(Duration::from_secs(90)));
    assert!(fault.to_string().ends_with("status 503: busy"), "{fault}");
    instance.report(&Report::new(8, ReportState::RolledBack, "too much")).await.unwrap();
    let text = SharedText {
        key: "0".repeat(32),
        text: "552 box closed".into(),
        provider: String::new(),
        occurrences: 3,
        first: "2026-11-21T00:00:00.000Z".into(),
        last: "2026-11-21T00:00:00.000Z".into(),
    };
    assert_eq!(instance.texts(&[text]).await.unwrap(), TextsTaken { taken: 1, refused: 0 });
    let heard = server.heard();
    let fields = |place: usize, name: &str| heard[place].field(name).unwrap_or("-").to_owned();
    for place in 0..4 {
        assert_eq!(fields(place, "authorization"), format!("Bearer {TOKEN}"));
        assert_eq!(fields(place, "host"), server.address.to_string());
    }
    assert_eq!(fields(0, "if-none-match"), "\"7-ab\"");
    assert_eq!(fields(0, "x-mailweir-bundle"), "7");
    assert_eq!(fields(1, "x-mailweir-bundle"), "0");
    assert_eq!(fields(0, "x-mailweir-digest"), "0123456789abcdef");
    assert_eq!(fields(1, "x-mailweir-digest"), "-");
    assert_eq!(fields(0, "x-mailweir-program"), env!("CARGO_PKG_VERSION"));
    assert_eq!(fields(0, "accept-encoding"), "gzip");
    let report = serde_json::json!({
        "bundle": 8, "state": "rolled-back", "reason": "too much",
        "program": env!("CARGO_PKG_VERSION"),
    });
    assert_eq!(heard[2].json(), report);
    assert_eq!(heard[3].json()["texts"][0]["text"], "552 box closed");
}

#[tokio::test]
async fn redirections_are_followed_three_times_and_take_no_token_elsewhere() {
    let goal = FakeInstance::start(|_| published(b"octets", "7-00")).await;
    let address = goal.address;
    let server = FakeInstance::start(move |heard: &Heard| {
        let location = match heard.what.as_str() {
            "GET /v1/bundle" => "/v1/one".to_owned(),
            "GET /v1/one" => "two".to_owned(),
            _ => format!("http://{address}/bundle"),
        };
        answer("307 Temporary Redirect", &format!("location: {location}\r\n"), b"")
    })
    .await;
    assert_eq!(shown(&of(&server).bundle(None, &stated(7)).await), "6 octets, \"7-00\"");
    let asked: Vec<String> = server.heard().iter().map(|heard| heard.what.clone()).collect();
    assert_eq!(asked, ["GET /v1/bundle", "GET /v1/one", "GET /v1/two"]);
    assert!(server.heard().iter().all(|heard| heard.field("authorization").is_some()));
    assert_eq!(goal.heard()[0].field("authorization"), None, "another origin");
    // One more is one too many.
    server.turn(move |heard: &Heard| {
        let next = heard.what.len();
        answer("302 Found", &format!("location: /{}\r\n", "x".repeat(next)), b"")
    });
    assert_eq!(shown(&of(&server).bundle(None, &stated(7)).await), "redirection");
    assert_eq!(server.heard().len(), 3 + 4);
    // What is sent is never sent on.
    let report = Report::new(8, ReportState::Well, "");
    assert_eq!(of(&server).report(&report).await.unwrap_err().name(), "redirection");
}

/// A certificate for a name, and what accepts connections with it.
fn certificate(name: &str) -> (String, TlsAcceptor) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    (chain, TlsAcceptor::from(Arc::new(config)))
}

#[tokio::test]
async fn names_are_looked_up_once_checked_and_certified() {
    let folder = tempfile::tempdir().unwrap();
    let (chain, acceptor) = certificate("rules.example");
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, chain).unwrap();
    let server = FakeInstance::start_with(Some(acceptor), |_| published(b"octets", "7-00")).await;
    let port = server.address.port();
    let dns = FakeServer::start(
        "rules.example 60 A 127.0.0.1\nother.example 60 A 127.0.0.1\n\
         inside.example 60 A 10.1.2.3\nmixed.example 60 A 224.0.0.1\nmixed.example 60 A 127.0.0.1\n",
    )
    .await;
    let ask = async |url: String, allow_private: bool, roots: Option<&std::path::Path>| {
        let tls_roots = roots.map(Into::into);
        let config = InstanceConfig { allow_private, tls_roots, ..config(&url) };
        shown(&instance(config, dns.address).bundle(None, &Stated::default()).await)
    };
    let roots = Some(roots.as_path());
    let url = |name: &str| format!("https://{name}:{port}");
    assert_eq!(ask(url("rules.example"), true, roots).await, "6 octets, \"7-00\"");
    assert_eq!(dns.asked("rules.example A"), 1, "what was checked is what was connected to");
    for (url, allow_private, roots, wanted) in [
        // DNS may not lead to this machine, nor inside.
        (url("rules.example"), false, roots, "forbidden-address"),
        (url("inside.example"), false, roots, "forbidden-address"),
        (url("nowhere.example"), true, roots, "no-address"),
        // The certificate has another name, or is nobody's that is trusted.
        (url("other.example"), true, roots, "no-tls"),
        (url("mixed.example"), true, roots, "no-tls"),
        (url("rules.example"), true, None, "no-tls"),
        // TLS is expected and not spoken to, and the other way round.
        (format!("http://rules.example:{port}"), true, roots, "cut-off"),
    ] {
        let got = ask(url.clone(), allow_private, roots).await;
        let fits = got == wanted || wanted == "cut-off" && got == "not-understood";
        assert!(fits, "{url}: {got}, not {wanted}");
    }
    // From TLS to none.
    let plain = FakeInstance::start(|_| published(b"octets", "7-00")).await;
    let location = format!("location: {}/bundle\r\n", plain.url());
    server.turn(move |_| answer("302 Found", &location, b""));
    assert_eq!(ask(url("rules.example"), true, roots).await, "redirection");
    assert!(plain.heard().is_empty());
}

#[test]
fn only_what_may_be_is_connected_to() {
    let check = |url: &str, target: &str, address: &str, allow_private: bool| {
        let config = InstanceConfig { allow_private, ..config(url) };
        let address: IpAddr = address.parse().unwrap();
        permitted(&config, &Target::parse(target).unwrap(), address).is_ok()
    };
    let public = "https://rules.example";
    for address in ["8.8.8.8", "2600::1"] {
        assert!(check(public, public, address, false), "{address}");
    }
    for address in [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "198.18.0.1",
        "::1",
        "fe80::1",
        "fc00::1",
        "::ffff:10.0.0.1",
        "::ffff:127.0.0.1",
        "64:ff9b::a00:1",
        "2002:a00:1::",
    ] {
        assert!(!check(public, public, address, false), "{address}");
        assert!(check(public, public, address, true), "{address}");
    }
    for address in ["0.0.0.0", "255.255.255.255", "224.0.0.1", "ff02::1", "::", "::ffff:0.0.0.0"] {
        assert!(!check(public, public, address, false), "{address}");
        assert!(!check(public, public, address, true), "{address}");
    }
    // This machine where it is meant, and nothing else because of that.
    let here = "http://127.0.0.1:2590";
    assert!(check(here, here, "127.0.0.1", false));
    assert!(check("http://localhost:2590", "http://localhost:2590", "::1", false));
    assert!(!check(here, "http://rules.example", "127.0.0.1", false), "a name that leads here");
    assert!(!check(here, "http://10.0.0.1", "10.0.0.1", false));
    assert!(!check(public, "https://127.0.0.1", "127.0.0.1", false), "a redirection to here");
    // Without TLS only here, or where the operator says so.
    assert!(!check("http://8.8.8.8", "http://8.8.8.8", "8.8.8.8", false));
    assert!(check("http://10.0.0.1", "http://10.0.0.1", "10.0.0.1", true));
    for address in ["8.8.8.8", "2600::1", "::ffff:8.8.8.8"] {
        assert!(!check("http://rules.example", "http://rules.example", address, true), "{address}");
    }
}
