//! Time, memory, connections, the store: what happens when there is not enough.

use std::time::Instant;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_are_cut() {
    let bounds = SubmissionBounds {
        command_timeout: Duration::from_millis(150),
        data_timeout: Duration::from_millis(150),
        ..bounds()
    };
    let site = Site::with("", bounds, None);
    let mut idle = site.greeted().await;
    let mut slow = site.greeted().await;
    slow.send("MAIL FROM:<a@shop.example>\r\nRCPT TO:<b@one.example>\r\nDATA\r\n").await;
    for _ in 0..3 {
        slow.reply().await;
    }
    slow.send("Subject: a\r\n").await;
    let begun = Instant::now();
    assert_eq!(idle.rest().await, "421 4.4.2 waited too long\r\n");
    assert_eq!(slow.rest().await, "421 4.4.2 waited too long\r\n");
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert_eq!(site.queued().await.len(), 0);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_takes_nothing_is_told_as_try_again() {
    let site = Site::start("");
    let mut client = site.greeted().await;
    assert_eq!(&client.deliver("").await[..3], "250");
    let Site { node, intake, address: _, counts, shutdown, running, folder } = site;
    // The store goes while a message comes, and is gone when the next one is offered.
    assert_eq!(client.say("MAIL FROM:<a@shop.example>").await, "250 2.1.0 sender ok");
    assert_eq!(client.say("RCPT TO:<b@one.example>").await, "250 2.1.5 recipient ok");
    assert_eq!(&client.say("DATA").await[..3], "354");
    node.shutdown().await;
    let not_now = "451 4.3.0 the queue takes nothing now, try again later";
    assert_eq!(client.say("Subject: hello\r\n\r\ntext\r\n.").await, not_now);
    assert_eq!(client.say("MAIL FROM:<a@shop.example>").await, "250 2.1.0 sender ok");
    assert_eq!(client.say("RCPT TO:<b@one.example>").await, not_now);
    assert_eq!(counts.messages_accepted.load(Ordering::Relaxed), 1);
    assert_eq!(counts.replies_temporary.load(Ordering::Relaxed), 2);
    shutdown.cancel();
    running.await.unwrap();
    drop((intake, folder));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pressure_and_lack_of_memory_are_told_as_try_again() {
    let pressure: Pressure = Arc::new(|| Some("the disk is\r\nalmost full".into()));
    let site = Site::with("", bounds(), Some(pressure));
    let mut client = site.greeted().await;
    client.say("MAIL FROM:<a@shop.example>").await;
    let answer = client.say("RCPT TO:<b@one.example>").await;
    assert_eq!(answer, "452 4.3.1 the disk is  almost full");
    site.stop().await;

    let tight = SubmissionBounds { octets_in_flight: 40_000, ..bounds() };
    let site = Site::with("", tight, None);
    let begin = "MAIL FROM:<a@shop.example>\r\nRCPT TO:<b@one.example>\r\nDATA\r\n";
    let mut greedy = site.greeted().await;
    greedy.send(begin).await;
    for _ in 0..3 {
        greedy.reply().await;
    }
    greedy.send("x: 56789\r\n".repeat(3_100)).await;
    let patient = Instant::now();
    // The octets are on their way; the next who asks is refused as soon as they have come.
    while site.greeted().await.offer().await != "452 4.3.1 too much mail at once, try again later" {
        assert!(patient.elapsed() < Duration::from_secs(5));
    }
    greedy.send("x: 56789\r\n".repeat(6_000)).await;
    assert_eq!(greedy.rest().await, "421 4.3.1 too much mail at once, try again later\r\n");
    assert_eq!(&site.greeted().await.deliver("").await[..3], "250");
    assert_eq!(site.queued().await.len(), 1);
    site.stop().await;
}

impl Client<TcpStream> {
    /// The answer to a recipient.
    async fn offer(&mut self) -> String {
        self.say("MAIL FROM:<a@shop.example>").await;
        self.say("RCPT TO:<b@one.example>").await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_lets_the_message_in_hand_end() {
    let site = Site::start("");
    let mut idle = site.greeted().await;
    let mut busy = site.greeted().await;
    let mut stuck = site.greeted().await;
    for client in [&mut busy, &mut stuck] {
        client.send("MAIL FROM:<a@shop.example>\r\nRCPT TO:<b@one.example>\r\nDATA\r\n").await;
        for _ in 0..3 {
            client.reply().await;
        }
    }
    site.shutdown.cancel();
    assert_eq!(idle.rest().await, "421 4.3.2 closing down\r\n");
    busy.send("Subject: a\r\n\r\ntext\r\n.\r\n").await;
    assert_eq!(busy.reply().await, "250 2.0.0 accepted as m1");
    assert_eq!(busy.rest().await, "421 4.3.2 closing down\r\n");
    assert_eq!(stuck.rest().await, "", "cut when the patience is over");
    assert_eq!(site.queued().await.len(), 1);
    assert!(TcpStream::connect(site.address).await.is_err());
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_bounded() {
    let site = Site::with("", SubmissionBounds { connections_per_peer: 2, ..bounds() }, None);
    let (first, _second) = (site.greeted().await, site.greeted().await);
    let mut third = Client::new(TcpStream::connect(site.address).await.unwrap());
    assert_eq!(third.rest().await, "421 4.7.0 too many connections, try again later\r\n");
    drop(first);
    let begun = Instant::now();
    while site.counts.connections_open.load(Ordering::Relaxed) > 1 {
        assert!(begun.elapsed() < Duration::from_secs(5));
        tokio::task::yield_now().await;
    }
    site.greeted().await;
    assert_eq!(site.counts.connections_refused.load(Ordering::Relaxed), 1);
    site.stop().await;
    let peer = |text: &str| neighbourhood(text.parse().unwrap()).to_string();
    assert_eq!(peer("192.0.2.7"), "192.0.2.7");
    assert_eq!(peer("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
}

#[tokio::test]
async fn what_cannot_start_says_why_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path(), "").submission;
    let first = Submission::bind(&config, bounds()).unwrap();
    config.listen = first.addresses();
    let fault = Submission::bind(&config, bounds()).unwrap_err().to_string();
    let address = config.listen[0];
    assert!(fault.starts_with(&format!("cannot listen for SMTP on {address}: ")), "{fault}");
    assert!(fault.ends_with("stop the program that uses it or change `listen` in [submission]"));
    assert!(!fault.contains('\n'));
    let path = folder.path().join("empty.pem");
    std::fs::write(&path, "").unwrap();
    config.tls = Some(TlsFiles { certificate: path.clone(), key: path.clone() });
    let fault = Submission::bind(&config, bounds()).unwrap_err().to_string();
    assert_eq!(
        fault,
        format!("cannot use {} for TLS: it holds no certificate in PEM form", path.display())
    );
}
