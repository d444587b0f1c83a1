//! SMTP and LMTP: who may bring mail, and what the 250 means.

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpStream, UnixStream};

use super::*;

/// A client that waits at most some seconds for anything.
struct Client<S>(BufReader<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    async fn greeted(stream: S, hello: &str) -> Self {
        let mut client = Self(BufReader::new(stream));
        assert_eq!(&client.reply().await[..4], "220 ");
        assert!(client.say(hello).await.contains("PIPELINING"));
        client
    }

    /// The next reply, its lines joined by LF; empty at the end.
    async fn reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let begin = reply.len();
            let read = tokio::time::timeout(PATIENCE, self.0.read_line(&mut reply));
            if read.await.unwrap().unwrap() == 0 || reply.as_bytes().get(begin + 3) == Some(&b' ') {
                return reply.trim_end().replace("\r\n", "\n");
            }
        }
    }

    async fn say(&mut self, line: &str) -> String {
        self.0.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
        self.reply().await
    }

    /// Sends a mail and answers with the first reply to its dot.
    async fn deliver(&mut self, from: &str, to: &[&str], text: &str) -> String {
        assert_eq!(&self.say(&format!("MAIL FROM:<{from}>")).await[..3], "250");
        for recipient in to {
            let reply = self.say(&format!("RCPT TO:<{recipient}>")).await;
            if &reply[..3] != "250" {
                return reply;
            }
        }
        assert_eq!(&self.say("DATA").await[..3], "354");
        self.say(&format!("{text}\r\n.")).await
    }
}

const LISTEN: &str = "[inmail]\nlisten = [\"127.0.0.1:0\"]\nlmtp = [\"127.0.0.1:0\", \
                      \"unix:lmtp.sock\"]\nmax_message_bytes = 65536\nbacklog_files = 50\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_mail_for_our_return_paths_is_taken() {
    let home = Home::new(LISTEN);
    let running = home.start();
    let stream = TcpStream::connect(running.smtp[0]).await.unwrap();
    let mut client = Client::greeted(stream, "EHLO mx.other.example").await;
    assert_eq!(
        client.say("AUTH PLAIN AHNob3AAaHVudGVyMg==").await,
        "502 5.5.1 this command is not offered"
    );
    client.say("MAIL FROM:<MAILER-DAEMON>").await;
    for other in [
        "a@other.example",
        "a@x.bounce.example",
        "\"a@bounce.example\"@other.example",
        "a%other.example@other.example",
        "a@example",
    ] {
        let reply = client.say(&format!("RCPT TO:<{other}>")).await;
        assert!(reply.starts_with('5'), "{other}: {reply}");
    }
    assert_eq!(client.say("DATA").await, "554 5.5.1 no recipient was accepted");
    client.say("RSET").await;
    let mixed = ["b+token=1@BOUNCE.example", "leave@unsubscribe.example", "postmaster"];
    assert_eq!(client.deliver("", &mixed, "Subject: bounce\r\n\r\nx").await, "250 2.0.0 kept");
    home.processed(1).await;
    let mail = home.got.lock().unwrap()[0].clone();
    assert_eq!(&mail.octets[..], b"Subject: bounce\r\n\r\nx\r\n");
    assert_eq!(mail.origin.sender.as_deref(), Some(""));
    let wanted = ["b+token=1@bounce.example", "leave@unsubscribe.example", "postmaster"];
    assert_eq!(
        (mail.origin.recipients, mail.origin.from),
        (wanted.map(String::from).into(), "127.0.0.1".into())
    );
    // The answer was lost: it comes again, and is known.
    assert_eq!(client.deliver("", &mixed, "Subject: bounce\r\n\r\nx").await, "250 2.0.0 kept");
    // Another bounce with the same words is another mail.
    client.deliver("", &["b+token=2@bounce.example"], "Subject: bounce\r\n\r\nx").await;
    home.processed(2).await;
    assert_eq!((load(&running.counts.kept), load(&running.counts.repeated)), (2, 1));
    assert_eq!(load(&running.counts.relay_denied), 4);
    let large = client.deliver("", &["b@bounce.example"], &"x\r\n".repeat(30_000)).await;
    assert_eq!(large, "552 5.3.4 the message is too large");
    let long = client.deliver("", &["b@bounce.example"], &"x".repeat(20_000)).await;
    assert_eq!(long, "250 2.0.0 kept");
    running.shutdown.cancel();
    assert_eq!(client.reply().await, "421 4.3.2 closing down");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lmtp_answers_for_each_recipient() {
    let home = Home::new(LISTEN);
    // One that a killed process has left behind.
    drop(std::os::unix::net::UnixListener::bind(home.folder.path().join("lmtp.sock")).unwrap());
    let running = home.start();
    let to = ["a@bounce.example", "b@bounce.example"];
    let stream = TcpStream::connect(running.lmtp[0]).await.unwrap();
    let mut client = Client::greeted(stream, "LHLO mx").await;
    assert_eq!(client.deliver("x@y.example", &to, "Subject: one\r\n").await, "250 2.0.0 kept");
    assert_eq!(client.reply().await, "250 2.0.0 kept");
    let stream = UnixStream::connect(home.folder.path().join("lmtp.sock")).await.unwrap();
    let mut client = Client::greeted(stream, "LHLO mx").await;
    assert_eq!(client.deliver("", &to, "Subject: two\r\n").await, "250 2.0.0 kept");
    assert_eq!(client.reply().await, "250 2.0.0 kept");
    home.processed(2).await;
    running.stop().await;
    assert!(!home.folder.path().join("lmtp.sock").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_on_the_disk_is_not_acknowledged() {
    let home = Home::new(LISTEN).tweak(|config| config.inmail.backlog_files = 3);
    let running = home.start();
    let stream = TcpStream::connect(running.smtp[0]).await.unwrap();
    let mut client = Client::greeted(stream, "EHLO mx").await;
    let to = ["a@bounce.example"];
    for number in 0..3 {
        let reply = client.deliver("", &to, &format!("{number} slow")).await;
        assert_eq!(reply, "250 2.0.0 kept");
    }
    let reply = client.deliver("", &to, "one more").await;
    assert_eq!(reply, "452 4.3.1 too much mail waits, try again later");
    running.kill().await;
    let home = Home { more: home.more.clone(), got: Got::default(), tweak: |_| {}, ..home };
    let running = home.start();
    assert_eq!(load(&running.counts.waiting), 3, "a kill loses nothing that was acknowledged");
    std::fs::remove_dir_all(home.path("tmp")).unwrap();
    let stream = TcpStream::connect(running.smtp[0]).await.unwrap();
    let mut client = Client::greeted(stream, "EHLO mx").await;
    let reply = client.deliver("", &to, "lost disk").await;
    assert_eq!(reply, "451 4.3.0 nothing can be kept now, try again later");
    std::fs::create_dir(home.path("tmp")).unwrap();
    assert_eq!(client.deliver("", &to, "found disk").await, "250 2.0.0 kept");
    running.stop().await;
}
