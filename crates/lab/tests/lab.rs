//! A lab as its users meet it: over real sockets on loopback, with a small client of the test's own.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mailweir_lab::load::{self, LoadPlan, Pipelining};
use mailweir_lab::{
    DnsFaults, Lab, LabConfig, Mood, MxConfig, Promise, ProviderConfig, Span, StartTls, Wording,
    internet,
};

/// A lab with one provider. The third octet keeps the tests' addresses apart.
fn one_provider(third: u8, mood: Mood) -> LabConfig {
    LabConfig {
        threads: 1,
        providers: vec![ProviderConfig {
            name: "p".to_owned(),
            domains: vec!["p.example".to_owned()],
            mood,
            mx: vec![MxConfig {
                host: "mx.p.example".to_owned(),
                preference: 10,
                addresses: vec![Ipv4Addr::new(127, 3, third, 1)],
                domains: Vec::new(),
            }],
            ..ProviderConfig::default()
        }],
        ..LabConfig::default()
    }
}

fn start(third: u8, mood: Mood) -> (Lab, SocketAddr) {
    let lab = Lab::start(one_provider(third, mood)).unwrap();
    let address = SocketAddr::from(([127, 3, third, 1], lab.port()));
    (lab, address)
}

/// A client that says a line and hears a reply.
struct Client(TcpStream);

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        Self(stream)
    }

    /// Connected, greeted and introduced.
    fn ready(address: SocketAddr) -> Self {
        let mut client = Self::connect(address);
        assert!(client.hear().starts_with("220 "));
        assert!(client.say("EHLO t.example").starts_with("250-"));
        client
    }

    fn send(&mut self, octets: &[u8]) {
        self.0.write_all(octets).unwrap();
    }

    fn say(&mut self, line: &str) -> String {
        self.send(line.as_bytes());
        self.send(b"\r\n");
        self.hear()
    }

    /// One reply, or what came before the end.
    fn hear(&mut self) -> String {
        let mut heard = String::new();
        let mut octet = [0u8];
        loop {
            match self.0.read(&mut octet) {
                Ok(1) => heard.push(char::from(octet[0])),
                _ => return heard,
            }
            let last = heard.trim_end_matches("\r\n").rsplit("\r\n").next().unwrap_or("");
            if heard.ends_with("\r\n") && last.as_bytes().get(3) != Some(&b'-') {
                return heard;
            }
        }
    }

    fn message(&mut self, recipient: &str, id: &str) -> String {
        for line in ["MAIL FROM:<s@t.example>".to_owned(), format!("RCPT TO:<{recipient}>")] {
            let reply = self.say(&line);
            if !reply.starts_with("250") {
                return reply;
            }
        }
        let reply = self.say("DATA");
        if !reply.starts_with("354") {
            return reply;
        }
        self.say(&format!("X-Mailweir-Id: {id}\r\n\r\nhello\r\n."))
    }

    fn is_closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0u8]), Ok(0) | Err(_))
    }
}

/// Waits for something that another thread is about to bring about.
fn eventually(condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(5), "it did not come about");
        std::thread::yield_now();
    }
}

#[test]
fn dns_answers_over_udp_and_can_fail() {
    let lab = Lab::start(one_provider(1, Mood::default())).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(lab.dns_address()).unwrap();
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend(b"\x01p\x07example\x00\x00\x0f\x00\x01");
    let mut answer = [0u8; 512];
    let mut ask = |longest: u64| {
        socket.set_read_timeout(Some(Duration::from_millis(longest))).unwrap();
        socket.send(&query).unwrap();
        socket.recv(&mut answer).ok().map(|length| answer[..length].to_vec())
    };
    let good = ask(5_000).unwrap();
    assert_eq!(good[..8], [0x12, 0x34, 0x85, 0, 0, 1, 0, 1]);
    assert!(good.ends_with(&[127, 3, 1, 1]), "the address is among the additional records");
    lab.set_dns_faults(DnsFaults { wrong_id_share: 1.0, ..DnsFaults::default() }).unwrap();
    assert_ne!(ask(5_000).unwrap()[..2], [0x12, 0x34]);
    lab.set_dns_faults(DnsFaults { servfail: true, ..DnsFaults::default() }).unwrap();
    assert_eq!(ask(5_000).unwrap()[3] & 15, 2);
    lab.set_dns_faults(DnsFaults { drop_share: 1.0, ..DnsFaults::default() }).unwrap();
    assert_eq!(ask(50), None);
    assert_eq!(lab.stop().dns.dropped, 1);
}

#[test]
fn pipelined_commands_are_answered_in_order_and_recorded() {
    let (lab, address) = start(2, Mood::default());
    let mut client = Client::ready(address);
    client.send(
        b"MAIL FROM:<a@t.example> SIZE=100\r\nRCPT TO:<b@p.example>\r\nRCPT TO:<unknown1@p.example>\r\n\
          RCPT TO:<x@other.example>\r\nDATA\r\n",
    );
    let codes: Vec<String> = (0..5).map(|_| client.hear()[..3].to_owned()).collect();
    assert_eq!(codes, ["250", "250", "550", "550", "354"]);
    client.send(b"Message-ID:\r\n <1@t>\r\n\r\n..dot\r\n.\n still data\r\n.\r\nMAIL FROM:<>\r\n");
    assert!(client.hear().starts_with("250 2.0.0"));
    assert!(client.hear().starts_with("250 2.1.0"));
    assert!(client.say("RSET").starts_with("250"));
    assert!(client.message("b@p.example", "7").starts_with("250"));
    assert!(client.message("b@p.example", "7").starts_with("250"));
    assert!(client.say("QUIT").starts_with("221"));
    assert!(client.is_closed());
    let counts = lab.counts();
    let report = lab.stop();
    assert_eq!((counts.accepted, counts.refused_recipients), (3, 2));
    assert_eq!(report.totals.accepted, 3);
    assert_eq!(report.duplicates.unique_accepted, 2);
    assert_eq!(report.duplicates.duplicated_keys, 1);
    let source = &report.provider("p").unwrap().sources[0];
    assert_eq!(source.source, "127.0.0.1");
    assert_eq!(source.mail_commands, 4);
    assert_eq!(source.most_messages_on_one_connection, 4);
    assert_eq!(source.most_messages_in_an_hour, 4);
    assert_eq!(source.most_accepted_in_an_hour, 3);
    assert_eq!(source.refused_by_stage["rcpt 550"], 2);
    assert_eq!(source.faults["recipient_of_another_provider"], 1);
    assert_eq!(source.faults["bare_lf_in_data"], 1);
}

#[test]
fn limits_are_enforced_and_promises_judged() {
    let mood = Mood { max_connections: Some(2), ..Mood::default() };
    let mut config = one_provider(3, mood);
    config.providers[0].promise = Promise {
        max_connections: Some(2),
        max_messages_per_connection: Some(1),
        ..Promise::default()
    };
    config.providers[0].wording = Wording::Orange;
    let lab = Lab::start(config).unwrap();
    let address = SocketAddr::from(([127, 3, 3, 1], lab.port()));
    let mut first = Client::ready(address);
    let second = Client::ready(address);
    // A client that leaves and comes back at once holds no more than before.
    drop(second);
    for _ in 0..20 {
        let again = Client::ready(address);
        drop(again);
    }
    assert!(lab.report().limits_held());
    let _second = Client::ready(address);
    let mut third = Client::connect(address);
    assert!(third.hear().contains("OFR_104"));
    assert!(third.is_closed());
    assert!(first.message("a@p.example", "1").starts_with("250"));
    assert!(first.message("b@p.example", "2").starts_with("250"));
    let report = lab.stop();
    let broken: Vec<(&str, u32, u64)> = report
        .limit_violations
        .iter()
        .map(|broken| (broken.limit, broken.promised, broken.seen))
        .collect();
    assert_eq!(broken, [("max_connections", 2, 3), ("max_messages_per_connection", 1, 2)]);
}

#[test]
fn connections_end_after_their_messages() {
    let limited = Mood { max_messages_per_connection: Some(2), ..Mood::default() };
    let (lab, address) = start(4, limited.clone());
    let mut client = Client::ready(address);
    assert!(client.message("a@p.example", "1").starts_with("250"));
    assert!(client.message("b@p.example", "2").starts_with("250"));
    assert!(client.message("c@p.example", "3").starts_with("421"));
    assert!(client.is_closed());
    lab.set_mood("p", Mood { close_silently: true, ..limited }).unwrap();
    let mut client = Client::ready(address);
    assert!(client.message("a@p.example", "4").starts_with("250"));
    assert!(client.message("b@p.example", "5").starts_with("250"));
    assert_eq!(client.say("NOOP"), "");
    lab.set_mood("p", Mood { messages_per_hour: Some(4), ..Mood::default() }).unwrap();
    let mut client = Client::ready(address);
    assert!(client.message("a@p.example", "6").starts_with("421"));
    assert!(lab.set_mood("q", Mood::default()).is_err());
}

#[test]
fn shares_and_second_attempts() {
    let mood = Mood { temporary_share: 1.0, drop_after_dot: 1.0, ..Mood::default() };
    let (lab, address) = start(5, mood);
    let mut client = Client::ready(address);
    assert!(client.message("a@p.example", "1").starts_with("451"));
    assert!(client.say("RSET").starts_with("250"));
    assert_eq!(client.message("a@p.example", "1"), "");
    let mut client = Client::ready(address);
    assert!(client.message("a@p.example", "1").starts_with("250"));
    assert!(client.message("full@p.example", "2").starts_with("452"));
    let report = lab.report();
    assert_eq!(report.totals.possibly_delivered, 1);
    assert_eq!(report.duplicates.accepted_after_drop, 1);
    assert_eq!(report.duplicates.extra_copies, 0);
    lab.set_mood("p", Mood { reject_after_data: 1.0, ..Mood::default() }).unwrap();
    assert!(client.say("RSET").starts_with("250"));
    assert!(client.message("a@p.example", "3").starts_with("550 5.7.1"));
}

#[test]
fn greylisting_lets_in_the_source_that_waited() {
    let mood = Mood { greylist: Some(Span::from_millis(30)), ..Mood::default() };
    let (_lab, address) = start(6, mood);
    let mut client = Client::ready(address);
    assert!(client.message("a@p.example", "1").starts_with("451 4.7.1"));
    assert!(client.say("RSET").starts_with("250"));
    std::thread::sleep(Duration::from_millis(40));
    // Another source has its own wait.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 9], 0)).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    let mut other = Client(socket.into());
    assert!(other.hear().starts_with("220"));
    assert!(other.say("EHLO o.example").starts_with("250"));
    assert!(other.message("a@p.example", "1").starts_with("451 4.7.1"));
    assert!(client.message("a@p.example", "1").starts_with("250"));
}

#[test]
fn hosts_that_hang_refuse_or_close_their_door() {
    let (lab, address) = start(7, Mood { hang_in_data: true, ..Mood::default() });
    let mut client = Client::ready(address);
    client.0.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert_eq!(client.message("a@p.example", "1"), "");
    lab.set_mood("p", Mood { greeting_554: true, ..Mood::default() }).unwrap();
    assert!(Client::connect(address).hear().starts_with("554"));
    lab.set_mood("p", Mood { refuse_connection: true, ..Mood::default() }).unwrap();
    eventually(|| TcpStream::connect(address).is_err());
    lab.set_mood("p", Mood::default()).unwrap();
    eventually(|| TcpStream::connect(address).is_ok());
    assert!(Client::ready(address).message("a@p.example", "1").starts_with("250"));
}

#[test]
fn a_round_trip_delays_but_lets_commands_travel() {
    let mood = Mood { round_trip: Some(Span::from_millis(40)), ..Mood::default() };
    let (_lab, address) = start(8, mood);
    let mut client = Client::ready(address);
    let begun = Instant::now();
    for _ in 0..4 {
        client.send(b"NOOP\r\n");
        std::thread::sleep(Duration::from_millis(5));
    }
    for _ in 0..4 {
        assert!(client.hear().starts_with("250"));
    }
    let taken = begun.elapsed();
    assert!(taken >= Duration::from_millis(40), "{taken:?}");
    assert!(taken < Duration::from_millis(140), "four round trips one after the other: {taken:?}");
}

#[test]
fn starttls_in_all_its_kinds() {
    let (lab, address) = start(9, Mood { starttls: StartTls::Refuses, ..Mood::default() });
    assert!(Client::ready(address).say("STARTTLS").starts_with("454"));
    let broken = Mood { starttls: StartTls::BrokenHandshake, ..Mood::default() };
    lab.set_mood("p", broken).unwrap();
    let mut client = Client::ready(address);
    assert!(client.say("STARTTLS").starts_with("220"));
    // Nothing comes before the client's part of the handshake.
    assert!(client.say("hello").starts_with("this is no handshake"));
    assert!(client.is_closed());
    let good = Mood { starttls: StartTls::Good, require_starttls: true, ..Mood::default() };
    lab.set_mood("p", good).unwrap();
    let mut client = Client::ready(address);
    assert!(client.say("MAIL FROM:<>").starts_with("530"));
    assert!(client.say("STARTTLS").starts_with("220"));
    let roots = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(roots)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    let name = rustls_pki_types::ServerName::try_from("mx.p.example").unwrap();
    let mut session = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = rustls::Stream::new(&mut session, &mut client.0);
    stream
        .write_all(b"EHLO t\r\nMAIL FROM:<>\r\nRCPT TO:<a@p.example>\r\nDATA\r\n.\r\nQUIT\r\n")
        .unwrap();
    let mut heard = String::new();
    // The server may end without a TLS farewell; what was heard before counts.
    let _ = stream.read_to_string(&mut heard);
    assert!(!heard.contains("STARTTLS"), "{heard}");
    assert!(
        heard.contains("354") && heard.contains("queued as") && heard.contains("221"),
        "{heard}"
    );
    let report = lab.stop();
    assert_eq!(report.totals.accepted, 1);
    assert_eq!(report.provider("p").unwrap().sources[0].connections_with_tls, 1);
}

/// The certificates of the lab are signed by themselves.
#[derive(Debug)]
struct AnyCertificate;

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[test]
fn hostile_input_is_bounded() {
    let (lab, address) = start(10, Mood::default());
    let mut client = Client::ready(address);
    client.send(&vec![b'x'; 4_096]);
    assert!(client.hear().starts_with("500"));
    assert!(client.is_closed());
    let mut client = Client::ready(address);
    assert!(client.say("MAIL FROM:<a@b>\nRCPT TO:<c@d>").starts_with("500"));
    let mut client = Client::ready(address);
    let mut last = String::new();
    for _ in 0..20 {
        last = client.say("\u{0}\u{1}");
    }
    assert!(last.starts_with("500"));
    assert!(client.hear().starts_with("421"));
    // A header block without end, in pieces.
    let mut client = Client::ready(address);
    client.send(b"MAIL FROM:<>\r\nRCPT TO:<a@p.example>\r\nDATA\r\n");
    assert!((0..3).all(|_| !client.hear().starts_with('5')));
    for _ in 0..100 {
        client.send(&vec![b'h'; 10_000]);
    }
    assert!(client.say("\r\n.").starts_with("250"));
    assert!(lab.report().provider("p").unwrap().sources[0].faults["text_line_too_long"] >= 1);
}

#[test]
fn load_arrives_whole_and_in_the_journal() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = internet::hundred_domains();
    config.record_keys = true;
    config.journal = Some(folder.path().join("journal.jsonl"));
    let domains = config.providers[0].domains.clone();
    let lab = Lab::start(config).unwrap();
    let target = SocketAddr::from(([127, 2, 0, 7], lab.port()));
    let kinds = [Pipelining::Off, Pipelining::WithinMessage, Pipelining::AcrossMessages];
    for (first_number, pipelining) in (0u64..).step_by(300).zip(kinds) {
        let mut plan = LoadPlan::new(target, domains.clone());
        (plan.messages, plan.connections, plan.first_number) = (300, 3, first_number);
        plan.pipelining = pipelining;
        let result = load::run(plan).unwrap();
        assert_eq!((result.messages, result.refused, result.connections), (300, 0, 3));
    }
    // A server that closes after each seventh message costs no message.
    lab.set_mood(
        "bench",
        Mood { max_messages_per_connection: Some(7), close_silently: true, ..Mood::default() },
    )
    .unwrap();
    let mut plan = LoadPlan::new(target, domains);
    (plan.messages, plan.connections, plan.first_number) = (100, 2, 900);
    assert_eq!(load::run(plan).unwrap().messages, 100);
    let report = lab.stop();
    assert_eq!(report.totals.accepted, 1_000);
    assert_eq!(report.duplicates.unique_accepted, 1_000);
    assert_eq!(report.totals.open_connections, 0);
    let journal = std::fs::read_to_string(folder.path().join("journal.jsonl")).unwrap();
    assert_eq!(journal.lines().count(), 1_000);
    let line: serde_json::Value = serde_json::from_str(journal.lines().next().unwrap()).unwrap();
    assert_eq!(line["provider"], "bench");
    assert!(line["recipient"].as_str().unwrap().ends_with(".bench.example"));
    assert!(line["id"].as_str().unwrap().starts_with("<load-"));
}
