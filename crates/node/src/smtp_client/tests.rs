//! Connections to small servers on loopback.

use std::future::Future;
use std::sync::{Arc, LazyLock};

use mail::attempt::{EndCause, Stage};
use rustls::pki_types::PrivateKeyDer;
use smtp::client::{Timeouts, TlsMode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::clock::SteadyClock;

type Clock = fn() -> Timestamp;
type Work = Box<dyn FnOnce() -> Result<Prepared, PrepareFault> + Send>;

static CLOCK: LazyLock<SteadyClock> = LazyLock::new(SteadyClock::start_at_wall);

fn now() -> Timestamp {
    CLOCK.now()
}

fn message(token: u64) -> Outgoing<Work> {
    with_content(token, Bytes::from(format!("Subject: {token}\r\n\r\nbody\r\n")))
}

fn with_content(token: u64, content: Bytes) -> Outgoing<Work> {
    Outgoing {
        token,
        send_before: Timestamp::NEVER,
        message: Box::new(move || {
            Ok(Prepared {
                sender: "b@we.test".into(),
                recipient: format!("r{token}@x.test").into(),
                content,
                smtputf8: false,
                test_only: false,
            })
        }),
    }
}

fn plan(target: SocketAddr) -> ConnectPlan {
    ConnectPlan {
        connection: ConnectionId(1),
        source_address: None,
        target,
        mx_host: "mx.x.test".into(),
        relay: false,
        connect_timeout: Duration::from_secs(5),
        verify_certificate: false,
        session: ClientSettings {
            helo: "we.test".into(),
            tls: TlsMode::Opportunistic,
            lmtp: false,
            timeouts: Timeouts { command: Duration::from_secs(5), ..Timeouts::default() },
            max_messages: 100,
            pipelining: true,
            chunking: true,
        },
    }
}

/// How a server of ours behaves.
#[derive(Clone, Copy, Default)]
struct Mood {
    tls: bool,
    /// Answers the final dot by closing, once so many messages were taken.
    drop_after: Option<usize>,
    /// Octets sent in clear behind the 220 to STARTTLS.
    injection: &'static [u8],
    slow: bool,
    /// Offers CHUNKING.
    chunking: bool,
}

/// What a server saw: each read as one text, and whole messages.
#[derive(Default, Debug)]
struct Seen {
    reads: Vec<String>,
    messages: usize,
    octets: usize,
}

/// Talks SMTP until the client says QUIT, STARTTLS, or leaves. True for STARTTLS.
async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    mood: Mood,
    seen: &mut Seen,
) -> bool {
    let mut pending = Vec::new();
    let mut in_content = false;
    let mut in_chunk = None;
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok(count @ 1..) = stream.read(&mut buffer).await else { return false };
        if mood.slow {
            tokio::task::yield_now().await;
        }
        seen.octets += count;
        if count < 4_096 {
            seen.reads.push(String::from_utf8_lossy(&buffer[..count]).into_owned());
        }
        pending.extend_from_slice(&buffer[..count]);
        let mut answers = String::new();
        loop {
            if let Some(octets) = in_chunk.take_if(|octets| pending.len() >= *octets) {
                pending.drain(..octets);
                seen.messages += 1;
                answers.push_str("250 taken\r\n");
            }
            if in_chunk.is_some() {
                break;
            }
            let Some(end) = pending.iter().position(|octet| *octet == b'\n') else { break };
            let line: Vec<u8> = pending.drain(..=end).collect();
            if in_content {
                if line == b".\r\n" {
                    in_content = false;
                    seen.messages += 1;
                    if mood.drop_after == Some(seen.messages) {
                        return false;
                    }
                    answers.push_str("250 taken\r\n");
                }
                continue;
            }
            match &line[..4] {
                b"EHLO" if mood.tls => {
                    answers.push_str("250-mx\r\n250-STARTTLS\r\n250 PIPELINING\r\n")
                }
                b"EHLO" if mood.chunking => {
                    answers.push_str("250-mx\r\n250-CHUNKING\r\n250 PIPELINING\r\n");
                }
                b"EHLO" => answers.push_str("250-mx\r\n250 PIPELINING\r\n"),
                b"BDAT" => {
                    let words = String::from_utf8(line).unwrap();
                    let octets = words.trim_end().strip_suffix(" LAST").unwrap();
                    in_chunk = Some(octets[5..].parse::<usize>().unwrap());
                }
                b"STAR" => {
                    let go = [b"220 go\r\n", mood.injection].concat();
                    stream.write_all(&go).await.unwrap();
                    return true;
                }
                b"DATA" => {
                    in_content = true;
                    answers.push_str("354 go\r\n");
                }
                b"QUIT" => {
                    stream.write_all(b"221 bye\r\n").await.unwrap();
                    return false;
                }
                _ => answers.push_str("250 ok\r\n"),
            }
        }
        if stream.write_all(answers.as_bytes()).await.is_err() {
            return false;
        }
    }
}

fn acceptor() -> TlsAcceptor {
    acceptor_and_certificate().0
}

/// With the certificate as PEM, for those who are to trust it.
fn acceptor_and_certificate() -> (TlsAcceptor, String) {
    let made = rcgen::generate_simple_self_signed(vec!["mx.x.test".into()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let configuration = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    (TlsAcceptor::from(Arc::new(configuration)), made.cert.pem())
}

async fn serve(mut stream: TcpStream, mood: Mood, tls: TlsAcceptor) -> Seen {
    let mut seen = Seen::default();
    stream.write_all(b"220 mx\r\n").await.unwrap();
    if talk(&mut stream, mood, &mut seen).await
        && let Ok(mut secured) = tls.accept(stream).await
    {
        seen.reads.clear();
        talk(&mut secured, mood, &mut seen).await;
    }
    seen
}

/// Everything that one connection reported, as text, and what the server saw.
struct Played {
    reports: Vec<String>,
    seen: Seen,
}

fn shown(kind: &ReportKind) -> Vec<String> {
    match kind {
        ReportKind::Ready { tls, .. } => vec![match tls {
            None => "ready in clear".into(),
            Some(facts) => format!("ready {} resumed={}", facts.version, facts.resumed),
        }],
        ReportKind::Done(results) => {
            assert!(!results.is_empty());
            let one = |result: &MessageResult| {
                let fate = match &result.fate {
                    MessageFate::PrepareFailed { why } => format!("not prepared: {why}"),
                    MessageFate::PrepareLater { why } => format!("later: {why}"),
                    MessageFate::Verdict(Verdict::Sent { reply }) => format!("sent: {reply}"),
                    MessageFate::Verdict(Verdict::NotTried) => "not tried".into(),
                    MessageFate::Verdict(other) => format!("{other:?}"),
                };
                format!("{} {fate}", result.token)
            };
            results.iter().map(one).collect()
        }
        ReportKind::Closed(end) => vec![format!("closed: {end}")],
    }
}

fn connector() -> (Connector<Clock>, mpsc::UnboundedReceiver<ConnectionReport>) {
    let (reports, taken) = mpsc::unbounded_channel();
    let safety = TargetPolicy::loopback_only();
    let (tls, in_doubt) = (TlsClients::new().unwrap(), Arc::new(InDoubt::new(1_000)));
    (Connector { safety, tls, clock: now, reports, in_doubt }, taken)
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), future).await.unwrap() })
}

/// Hands the messages over, drops the sender, and plays the connection to its end.
async fn play(
    mood: Mood,
    messages: Vec<Outgoing<Work>>,
    adjust: impl Fn(&mut ConnectPlan),
) -> Played {
    let (connector, mut taken) = connector();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut plan = plan(listener.local_addr().unwrap());
    adjust(&mut plan);
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream, mood, acceptor()).await
    });
    let (give, work) = mpsc::channel(4);
    give.send(messages).await.unwrap();
    drop(give);
    connector.carry(plan, work, CancellationToken::new()).await;
    drop(connector);
    let mut reports = Vec::new();
    while let Some(report) = taken.recv().await {
        reports.extend(shown(&report.kind));
    }
    Played { reports, seen: server.await.unwrap() }
}

#[test]
fn one_write_carries_a_message_and_the_next_ones_commands() {
    let played = run(play(Mood::default(), (1..=3).map(message).collect(), |_| {}));
    assert_eq!(
        played.reports,
        [
            "ready in clear",
            "1 sent: 250 taken",
            "2 sent: 250 taken",
            "3 sent: 250 taken",
            "closed: finished"
        ]
    );
    let group = |n| format!("MAIL FROM:<b@we.test>\r\nRCPT TO:<r{n}@x.test>\r\nDATA\r\n");
    let content = |n| format!("Subject: {n}\r\n\r\nbody\r\n.\r\n");
    assert_eq!(
        played.seen.reads,
        [
            "EHLO we.test\r\n".to_owned(),
            group(1),
            content(1) + &group(2),
            content(2) + &group(3),
            content(3),
            "QUIT\r\n".to_owned(),
        ]
    );
}

#[test]
fn one_write_carries_the_first_message_with_its_commands() {
    let mood = Mood { chunking: true, ..Mood::default() };
    let played = run(play(mood, (1..=2).map(message).collect(), |_| {}));
    assert_eq!(
        played.reports,
        ["ready in clear", "1 sent: 250 taken", "2 sent: 250 taken", "closed: finished"]
    );
    let envelope = |n| format!("MAIL FROM:<b@we.test>\r\nRCPT TO:<r{n}@x.test>\r\n");
    assert_eq!(
        played.seen.reads,
        [
            "EHLO we.test\r\n".to_owned(),
            envelope(1) + "BDAT 20 LAST\r\nSubject: 1\r\n\r\nbody\r\n",
            envelope(2) + "DATA\r\n",
            "Subject: 2\r\n\r\nbody\r\n.\r\n".to_owned(),
            "QUIT\r\n".to_owned(),
        ]
    );
}

#[test]
fn opportunistic_tls_takes_any_certificate_and_resumes() {
    run(async {
        let (connector, mut taken) = connector();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let tls = acceptor();
            let mut messages = 0;
            for _ in 0..2 {
                let (stream, _) = listener.accept().await.unwrap();
                let seen = serve(stream, Mood { tls: true, ..Mood::default() }, tls.clone()).await;
                messages += seen.messages;
            }
            messages
        });
        let mut reports = Vec::new();
        for token in [1, 2] {
            let (give, work) = mpsc::channel(1);
            give.send(vec![message(token)]).await.unwrap();
            drop(give);
            connector.carry(plan(address), work, CancellationToken::new()).await;
            while let Ok(report) = taken.try_recv() {
                reports.extend(shown(&report.kind));
            }
        }
        assert_eq!(
            reports,
            [
                "ready TLSv1_3 resumed=false",
                "1 sent: 250 taken",
                "closed: finished",
                "ready TLSv1_3 resumed=true",
                "2 sent: 250 taken",
                "closed: finished"
            ]
        );
        assert_eq!(server.await.unwrap(), 2);
    });
}

#[test]
fn tls_that_cannot_be_trusted_ends_the_connection() {
    let tls = Mood { tls: true, ..Mood::default() };
    let played = run(play(tls, vec![message(1)], |plan| plan.verify_certificate = true));
    assert_eq!(played.reports[0], "1 not tried");
    assert!(played.reports[1].starts_with("closed: TLS failed: "), "{:?}", played.reports);

    let injected = Mood { injection: b"250 go on\r\n", ..tls };
    let played = run(play(injected, vec![message(1)], |_| {}));
    assert_eq!(played.reports[0], "1 not tried");
    assert!(played.reports[1].starts_with("closed: protocol broken at starttls"));

    let clear = run(play(Mood::default(), vec![message(1)], |plan| {
        plan.session.tls = TlsMode::Required;
    }));
    assert_eq!(clear.reports, ["1 not tried", "closed: TLS failed: STARTTLS is not offered"]);
    assert_eq!(clear.seen.reads, ["EHLO we.test\r\n"]);
}

#[test]
fn roots_of_the_configuration_are_trusted_for_the_right_name_only() {
    run(async {
        let (acceptor, certificate) = acceptor_and_certificate();
        let folder = tempfile::tempdir().unwrap();
        let roots = folder.path().join("roots.pem");
        std::fs::write(&roots, certificate).unwrap();
        let (mut connector, mut taken) = connector();
        connector.tls = connector.tls.with_roots(Some(roots));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serve(stream, Mood { tls: true, ..Mood::default() }, acceptor.clone()).await;
            }
        });
        for (name, expected) in [("mx.x.test", "ready TLSv1_3"), ("other.test", "1 not tried")] {
            let (give, work) = mpsc::channel(1);
            give.send(vec![message(1)]).await.unwrap();
            drop(give);
            let plan =
                ConnectPlan { mx_host: name.into(), verify_certificate: true, ..plan(address) };
            connector.carry(plan, work, CancellationToken::new()).await;
            let mut reports = Vec::new();
            while let Ok(report) = taken.try_recv() {
                reports.extend(shown(&report.kind));
            }
            assert!(reports[0].starts_with(expected), "{name}: {reports:?}");
        }
    });
}

#[test]
fn failures_to_connect_are_told_apart() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // Bound and not listening: nobody else can take the port, and it refuses.
        let deaf = tokio::net::TcpSocket::new_v4().unwrap();
        deaf.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let free = deaf.local_addr().unwrap();
        let open = listener.local_addr().unwrap();
        let elsewhere: SocketAddr = "192.0.2.1:25".parse().unwrap();
        let own: IpAddr = "127.0.0.2".parse().unwrap();
        let foreign: Option<IpAddr> = Some("192.0.2.77".parse().unwrap());
        for (target, source, expected) in [
            (free, Some(own), "connection refused"),
            (elsewhere, None, "not possible here: 192.0.2.1 is not in [safety] only_targets"),
            (open, foreign, "not possible here: cannot open a socket on 192.0.2.77"),
        ] {
            let (connector, mut taken) = connector();
            let (give, work) = mpsc::channel(1);
            give.send(vec![message(1), message(2)]).await.unwrap();
            let plan = ConnectPlan { source_address: source, ..plan(target) };
            connector.carry(plan, work, CancellationToken::new()).await;
            assert!(give.send(vec![message(3)]).await.is_err(), "the channel is closed");
            drop(connector);
            let mut reports = Vec::new();
            while let Some(report) = taken.recv().await {
                reports.extend(shown(&report.kind));
            }
            assert_eq!(reports[..2], ["1 not tried", "2 not tried"]);
            assert!(reports[2].starts_with(&format!("closed: {expected}")), "{reports:?}");
            assert_eq!(reports.len(), 3);
        }
        let (safety, plan) = (
            TargetPolicy::loopback_only(),
            ConnectPlan { source_address: Some(own), ..plan(open) },
        );
        let (stream, accepted) = tokio::join!(socket::connect(&plan, &safety), listener.accept());
        assert_eq!(stream.unwrap().local_addr().unwrap().ip(), own);
        assert_eq!(accepted.unwrap().1.ip(), own);
    });
}

#[test]
fn a_server_that_leaves_after_the_dot() {
    let mood = Mood { drop_after: Some(2), ..Mood::default() };
    let played = run(play(mood, (1..=4).map(message).collect(), |_| {}));
    assert_eq!(played.reports[..3], ["ready in clear", "1 sent: 250 taken", "2 PossiblyDelivered"]);
    assert_eq!(played.reports[3..5], ["3 not tried", "4 not tried"]);
    assert!(played.reports[5].starts_with("closed: connection "), "{:?}", played.reports);
}

#[test]
fn while_too_much_is_in_doubt_nothing_more_is_begun() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let plan = plan(listener.local_addr().unwrap());
        let server = async {
            let (stream, _) = listener.accept().await.unwrap();
            serve(stream, Mood::default(), acceptor()).await.messages
        };
        let (mut connector, mut taken) = connector();
        let in_doubt = Arc::new(InDoubt::new(1));
        connector.in_doubt = Arc::clone(&in_doubt);
        let (give, work) = mpsc::channel(8);
        give.send((1..=5).map(message).collect()).await.unwrap();
        drop(give);
        let watch = async {
            let mut sent = async || loop {
                let report = taken.recv().await.unwrap();
                if let ReportKind::Done(results) = report.kind {
                    return results.into_iter().map(|one| one.token).collect::<Vec<u64>>();
                }
            };
            // The second has begun before the first was answered, and the third was prepared.
            let mut first = sent().await;
            while first.len() < 3 {
                first.extend(sent().await);
            }
            assert_eq!(first, [1, 2, 3]);
            let more = tokio::time::timeout(Duration::from_millis(100), sent()).await;
            assert!(more.is_err(), "{more:?} were sent while three are in doubt");
            assert_eq!(in_doubt.count(), 3);
            in_doubt.settled([1, 2, 3].map(mail::id::MessageId));
            let mut rest = Vec::new();
            while rest.len() < 2 {
                let some = sent().await;
                in_doubt.settled(some.iter().copied().map(mail::id::MessageId));
                rest.extend(some);
            }
            assert_eq!(rest, [4, 5]);
        };
        let carried = connector.carry(plan, work, CancellationToken::new());
        let (messages, (), ()) = tokio::join!(server, carried, watch);
        assert_eq!(messages, 5);
    });
}

#[test]
fn the_limit_of_messages_gives_the_rest_back() {
    let played = run(play(Mood::default(), (1..=5).map(message).collect(), |plan| {
        plan.session.max_messages = 2;
    }));
    let mut reports = played.reports.clone();
    reports[1..6].sort();
    assert_eq!(
        reports,
        [
            "ready in clear",
            "1 sent: 250 taken",
            "2 sent: 250 taken",
            "3 not tried",
            "4 not tried",
            "5 not tried",
            "closed: finished"
        ]
    );
    assert_eq!(played.seen.messages, 2);
}

#[test]
fn what_cannot_be_prepared_never_reaches_the_wire() {
    let failing =
        |token, work: Work| Outgoing { token, send_before: Timestamp::NEVER, message: work };
    let expired = Outgoing { send_before: Timestamp::from_secs(1), ..message(3) };
    let messages = vec![
        failing(1, Box::new(|| Err("`name` is not defined".to_string().into()))),
        failing(2, Box::new(|| panic!("a fault of ours"))),
        expired,
        message(4),
    ];
    let played = run(play(Mood::default(), messages, |_| {}));
    assert_eq!(
        played.reports,
        [
            "ready in clear",
            "1 not prepared: `name` is not defined",
            "2 not prepared: preparing it panicked; this is a fault of Mailweir",
            "3 not tried",
            "4 sent: 250 taken",
            "closed: finished"
        ]
    );
    assert_eq!(played.seen.messages, 1);
}

#[test]
fn a_large_message_under_tls_and_in_clear() {
    for tls in [false, true] {
        let content =
            Bytes::from(b"0123456789abcdef0123456789abcdef0123456789\r\n".repeat(100_000));
        let length = content.len();
        let mood = Mood { tls, slow: true, ..Mood::default() };
        let played = run(play(mood, vec![with_content(1, content), message(2)], |_| {}));
        assert_eq!(
            played.reports[1..],
            ["1 sent: 250 taken", "2 sent: 250 taken", "closed: finished"]
        );
        assert!(played.seen.octets > length);
    }
}

/// Says one line, unless empty, and expects these octets.
async fn exchange(stream: &mut TcpStream, line: &str, expected: &str) {
    if !line.is_empty() {
        stream.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
    }
    let mut octets = vec![0; expected.len()];
    stream.read_exact(&mut octets).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&octets), expected);
}

#[test]
fn cancelling_finishes_what_is_in_flight() {
    run(async {
        let (connector, mut taken) = connector();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let plan = plan(listener.local_addr().unwrap());
        let close = CancellationToken::new();
        let (give, work) = mpsc::channel(1);
        let carried = connector.carry(plan, work, close.clone());
        let outside = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            exchange(&mut stream, "220 mx", "EHLO we.test\r\n").await;
            // The connection waits without anything to do, then gets two messages.
            stream.write_all(b"250 mx\r\n").await.unwrap();
            give.send(vec![message(1), message(2)]).await.unwrap();
            exchange(&mut stream, "", "MAIL FROM:<b@we.test>\r\n").await;
            close.cancel();
            // The second message comes back while the first is still in flight.
            let mut reports = Vec::new();
            while reports.len() < 2 {
                reports.extend(shown(&taken.recv().await.unwrap().kind));
            }
            assert_eq!(reports, ["ready in clear", "2 not tried"]);
            exchange(&mut stream, "250 ok", "RCPT TO:<r1@x.test>\r\n").await;
            exchange(&mut stream, "250 ok", "DATA\r\n").await;
            exchange(&mut stream, "354 go", "Subject: 1\r\n\r\nbody\r\n.\r\n").await;
            exchange(&mut stream, "250 taken", "QUIT\r\n").await;
            drop(stream);
            let mut reports = Vec::new();
            while reports.len() < 2 {
                reports.extend(shown(&taken.recv().await.unwrap().kind));
            }
            assert_eq!(reports, ["1 sent: 250 taken", "closed: finished"]);
        };
        tokio::join!(carried, outside);
    });
}

#[test]
fn a_silent_server_costs_no_more_than_its_time() {
    run(async {
        let (connector, mut taken) = connector();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut plan = plan(listener.local_addr().unwrap());
        plan.session.timeouts.greeting = Duration::from_millis(50);
        let (_give, work) = mpsc::channel::<Vec<Outgoing<Work>>>(1);
        connector.carry(plan, work, CancellationToken::new()).await;
        let report = taken.recv().await.unwrap();
        let ReportKind::Closed(end) = report.kind else { panic!("{report:?}") };
        assert_eq!(end, SessionEnd { stage: Stage::Greeting, cause: EndCause::TimedOut });
    });
}
