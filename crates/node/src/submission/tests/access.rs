//! Who may send, and who speaks as nobody should.

use mail::id::Priority;
use rustls::pki_types::ServerName;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_relays_without_a_login() {
    let site = Site::start(USER);
    let senders = ["", "a@shop.example", "postmaster@submit.example", "a@[127.0.0.1]"];
    let recipients = [
        "v@x.example",
        "\"v@x.example\"",
        "v%x.example@submit.example",
        "@submit.example:v@x.example",
        "x.example!v",
    ];
    let mut forms = 0;
    for sender in senders {
        for recipient in recipients {
            forms += 1;
            let mut client = site.greeted().await;
            let from = client.say(&format!("MAIL FROM:<{sender}>")).await;
            assert_eq!(from, "530 5.7.0 authentication is required", "{sender}");
            let to = client.say(&format!("RCPT TO:<{recipient}>")).await;
            assert_eq!(&to[..5], "503 5", "{recipient}");
            assert_eq!(&client.say("DATA").await[..5], "503 5");
        }
    }
    assert_eq!(forms, 20);
    assert_eq!(site.queued().await.len(), 0);
    assert_eq!(site.counts.replies_permanent.load(Ordering::Relaxed), 60);
    site.stop().await;
    // Beyond loopback no password travels in clear and nobody sends without one.
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "").submission;
    let beyond = settings(&config, &bounds(), false);
    assert!(beyond.tls_required && !beyond.auth_in_clear);
    assert_eq!(beyond.access, Access::Authenticated);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_brings_the_options_of_the_user() {
    let site = Site::start(USER);
    let mut client = site.greeted().await;
    // shop/wrong, nobody/hunter2, then LOGIN in two steps.
    for login in ["AUTH PLAIN AHNob3AAd3Jvbmc=", "AUTH PLAIN AG5vYm9keQBodW50ZXIy"] {
        assert_eq!(client.say(login).await, "535 5.7.8 authentication failed");
    }
    assert_eq!(client.say("AUTH LOGIN").await, "334 VXNlcm5hbWU6");
    assert_eq!(client.say("c2hvcA==").await, "334 UGFzc3dvcmQ6");
    assert_eq!(client.say("aHVudGVyMg==").await, "235 2.7.0 authenticated");
    let answer = client.deliver("").await;
    assert_eq!(&answer[..3], "250", "{answer}");
    let queued = site.queued().await;
    let delivery = site.intake.delivery(queued[0].delivery).await.unwrap().unwrap();
    let options = delivery.delivery.options;
    assert_eq!((&*options.tenant, &*options.affinity), ("shop", "second"));
    assert_eq!(options.priority, Priority::Low);
    assert!(site.content(&queued[0]).await.contains(" with ESMTPA id "));
    let mut other = site.greeted().await;
    for _ in 0..2 {
        other.say("AUTH PLAIN AHNob3AAd3Jvbmc=").await;
    }
    assert_eq!(other.say("AUTH PLAIN AHNob3AAd3Jvbmc=").await, "421 4.7.0 too many failed logins");
    assert_eq!(site.counts.logins_failed.load(Ordering::Relaxed), 5);
    assert_eq!(site.counts.logins_accepted.load(Ordering::Relaxed), 1);
    site.stop().await;
}

/// A listener with TLS, and what a client needs to trust it.
pub(super) fn tls_site(folder: &Path) -> (Site, tokio_rustls::TlsConnector) {
    let made = rcgen::generate_simple_self_signed(vec!["submit.example".into()]).unwrap();
    std::fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let shown = folder.display();
    let site = Site::start(&format!(
        "{USER}tls_certificate = \"{shown}/cert.pem\"\ntls_key = \"{shown}/key.pem\"\n"
    ));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let configuration = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (site, tokio_rustls::TlsConnector::from(Arc::new(configuration)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starttls_protects_and_forgets_what_was_said_in_clear() {
    let folder = tempfile::tempdir().unwrap();
    let (site, connector) = tls_site(folder.path());
    let mut client = site.connect().await;
    assert!(client.say("EHLO client.example").await.contains("250-STARTTLS"));
    assert_eq!(client.say("STARTTLS").await, "220 2.0.0 go ahead");
    let name = ServerName::try_from("submit.example").unwrap();
    let stream = connector.connect(name.clone(), client.stream).await.unwrap();
    let mut client = Client::new(stream);
    assert_eq!(client.say("MAIL FROM:<a@shop.example>").await, "503 5.5.1 say EHLO first");
    assert!(!client.say("EHLO client.example").await.contains("STARTTLS"));
    assert_eq!(client.say(LOGIN).await, "235 2.7.0 authenticated");
    let answer = client.deliver("").await;
    assert_eq!(&answer[..3], "250", "{answer}");
    assert!(site.content(&site.queued().await[0]).await.contains(" with ESMTPSA id "));
    // Commands injected behind STARTTLS are never carried into the protected conversation.
    let mut client = site.greeted().await;
    client.send("STARTTLS\r\nMAIL FROM:<evil@x.example>\r\n").await;
    let answers = client.rest().await;
    assert!(answers.ends_with("554 5.5.0 you spoke out of turn\r\n"), "{answers}");
    let mut client = site.greeted().await;
    assert_eq!(client.say("STARTTLS").await, "220 2.0.0 go ahead");
    client.send("EHLO evil.example\r\nMAIL FROM:<evil@x.example>\r\n").await;
    // Only a TLS alert, or nothing, comes back.
    while client.more().await {}
    assert!(!client.octets.starts_with(b"2"), "{:?}", client.octets);
    assert_eq!(site.queued().await.len(), 1);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_lines_and_early_words_end_it() {
    let site = Site::start("");
    for (sent, wanted) in [
        (
            format!("NOOP {}\r\nQUIT\r\n", "x".repeat(3_000)),
            "500 5.5.2 the line is too long\r\n221",
        ),
        ("x".repeat(70_000), "500 5.5.2 a line without end\r\n"),
        ("NOOP\nQUIT\r\n".into(), "500 5.5.2 a line must end with CR LF"),
        ("FOO\r\n".repeat(30), "421 4.7.0 too many errors\r\n"),
    ] {
        let mut client = site.greeted().await;
        client.send(&sent).await;
        let answers = client.rest().await;
        assert!(answers.contains(wanted), "{answers}");
    }
    let mut client = site.greeted().await;
    let answer = client.deliver(&format!("X-Long: {}\r\n", "x".repeat(1_000))).await;
    assert_eq!(answer, "550 5.6.0 the message has a line that is too long");
    let answer = client.deliver(&"Received: from a\r\n".repeat(101)).await;
    assert_eq!(answer, "554 5.4.6 too many hops: the message loops");
    let answer = client.deliver(&"X-Filler: 0123456789\r\n".repeat(5_000)).await;
    assert_eq!(answer, "552 5.3.4 the message is too large");
    assert_eq!(&client.deliver(&"Received: from a\r\n".repeat(100)).await[..3], "250");
    assert_eq!(site.queued().await.len(), 1);
    site.stop().await;
}

#[tokio::test]
async fn who_speaks_before_the_greeting_is_sent_away() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "");
    let listener = Submission::bind(&config.submission, bounds()).unwrap();
    let address = listener.addresses()[0];
    // The connection waits in the backlog with its octets before anybody accepts it.
    let mut client = Client::new(TcpStream::connect(address).await.unwrap());
    client.send("EHLO early.example\r\n").await;
    let node = Node::start(config).unwrap();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(listener.run(node.intake(), shutdown.clone()));
    assert!(client.rest().await.ends_with("554 5.5.0 you spoke out of turn\r\n"));
    shutdown.cancel();
    running.await.unwrap();
    node.shutdown().await;
}
