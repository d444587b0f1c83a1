//! A POP3 server in this process that fails in every way it is asked to.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// What goes wrong in one session.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Nothing.
    None,
    /// At a command that begins so, this is said in place of the answer, and the connection closed.
    At(&'static str, &'static str),
    /// At a command that begins so nothing more is ever said.
    Silent(&'static str),
    /// At a command that begins so octets come without end, with or without line ends.
    Endless(&'static str, &'static str),
    /// The message with this text has no end.
    EndlessMessage(&'static str),
}

/// A server with one mailbox.
struct Server {
    address: SocketAddr,
    messages: Mutex<Vec<(u32, String)>>,
    /// One for each session; then there are none.
    faults: Mutex<VecDeque<Fault>>,
    /// Said in LIST and STAT in place of sizes.
    lie: Option<&'static str>,
    commands: Mutex<Vec<String>>,
}

impl Server {
    async fn start(messages: &[&str], faults: &[Fault], lie: Option<&'static str>) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let messages = (1..).zip(messages).map(|(id, text)| (id, (*text).to_owned())).collect();
        let server = Arc::new(Self {
            address: listener.local_addr().unwrap(),
            messages: Mutex::new(messages),
            faults: Mutex::new(faults.iter().copied().collect()),
            lie,
            commands: Mutex::default(),
        });
        let own = Arc::clone(&server);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let server = Arc::clone(&own);
                let fault = server.faults.lock().unwrap().pop_front().unwrap_or(Fault::None);
                // However the session ends, the next one may come.
                tokio::spawn(async move {
                    let _ended = server.session(stream, fault).await;
                });
            }
        });
        server
    }

    fn home(&self) -> Home {
        Home::new(&mailbox("box", "pop3", "none", self.address.port()))
    }

    fn is_empty(&self) -> bool {
        self.messages.lock().unwrap().is_empty()
    }

    async fn session(&self, stream: TcpStream, fault: Fault) -> std::io::Result<()> {
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        write.write_all(b"+OK ready\r\n").await?;
        let held = self.messages.lock().unwrap().clone();
        let mut marked = BTreeSet::new();
        while let Some(line) = lines.next_line().await? {
            self.commands.lock().unwrap().push(line.clone());
            match fault {
                Fault::At(begin, words) if line.starts_with(begin) => {
                    write.write_all(words.as_bytes()).await?;
                    return Ok(());
                }
                Fault::Silent(begin) if line.starts_with(begin) => {
                    std::future::pending::<()>().await;
                }
                Fault::Endless(begin, filler) if line.starts_with(begin) => {
                    write.write_all(b"+OK\r\n").await?;
                    let block = filler.repeat(1_000);
                    loop {
                        write.write_all(block.as_bytes()).await?;
                    }
                }
                _ => {}
            }
            let number = line.split(' ').nth(1).and_then(|word| word.parse::<usize>().ok());
            let message = number.and_then(|number| held.get(number - 1));
            if let (Fault::EndlessMessage(wanted), Some((_, text))) = (fault, message)
                && line.starts_with("RETR")
                && text == wanted
            {
                write.write_all(b"+OK\r\n").await?;
                loop {
                    write.write_all(&[b'y'; 4_096]).await?;
                }
            }
            let answer = match (line.split(' ').next().unwrap(), message) {
                ("CAPA", _) => "+OK\r\nUIDL\r\nPIPELINING\r\n.\r\n".to_owned(),
                ("STAT", _) => format!("+OK {} {}\r\n", held.len(), self.lie.unwrap_or("100")),
                ("UIDL", _) => list(&held, |(id, _)| format!("u{id}")),
                ("LIST", _) => list(&held, |(_, text)| {
                    self.lie.map_or_else(|| text.len().to_string(), str::to_owned)
                }),
                ("RETR", Some((_, text))) => format!("+OK\r\n{text}\r\n.\r\n"),
                ("TOP", Some((_, text))) => format!("+OK\r\n{}\r\n.\r\n", &text[..10]),
                ("DELE", Some((id, _))) => {
                    marked.insert(*id);
                    "+OK\r\n".to_owned()
                }
                ("QUIT", _) => {
                    self.messages.lock().unwrap().retain(|(id, _)| !marked.contains(id));
                    "+OK\r\n".to_owned()
                }
                ("USER" | "PASS", _) => "+OK\r\n".to_owned(),
                _ => "-ERR\r\n".to_owned(),
            };
            write.write_all(answer.as_bytes()).await?;
        }
        Ok(())
    }
}

fn list(held: &[(u32, String)], value: impl Fn(&(u32, String)) -> String) -> String {
    let lines = (1..).zip(held).map(|(number, one)| format!("{number} {}\r\n", value(one)));
    format!("+OK\r\n{}.\r\n", lines.collect::<String>())
}

const FIVE: [&str; 5] = ["one", "two", "three", "four", "five"];

/// All five are processed once and gone from the server.
async fn arrive(home: &Home, server: &Server, running: &Running) {
    home.processed(5).await;
    eventually("an empty mailbox", async || server.is_empty().then_some(())).await;
    let mut wanted: Vec<String> = FIVE.iter().map(|text| format!("{text}\r\n")).collect();
    wanted.sort();
    assert_eq!(home.texts(), wanted);
    assert_eq!(load(&running.counts.kept), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polling_goes_on_after_every_fault_and_nothing_is_lost_or_doubled() {
    use Fault::{At, Endless, Silent};
    let faults = [
        At("CAPA", "hello\r\n"),
        At("USER", "-ERR [SYS/TEMP] not now\r\n"),
        At("PASS", "-ERR wrong\r\n"),
        At("STAT", "+OK \u{fffd} -7\r\n+OK forged\r\n"),
        Endless("UIDL", "1 "),
        Endless("LIST", "x"),
        At("LIST", "+OK\r\n1 5\r\n7 \r\n"),
        Silent("STAT"),
        At("RETR 1", ""),
        At("RETR 3", "+OK\r\nhalf of it"),
        At("DELE 2", ""),
        At("DELE 2", "+OK\r\n+OK\r\nwords that nobody asked for\r\n"),
        At("QUIT", ""),
        At("QUIT", "-ERR some messages were not removed\r\n"),
        Endless("RETR 2", "x\r\n"),
        At("DELE 4", "-ERR\r\n"),
    ];
    let server = Server::start(&FIVE, &faults, None).await;
    let home = server.home().tweak(|config| {
        config.inmail.mailboxes[0].timeout = Duration::from_millis(200);
        config.inmail.max_message_bytes = 2_000;
    });
    let running = home.start();
    arrive(&home, &server, &running).await;
    eventually("a good session after all faults", async || {
        let over = server.faults.lock().unwrap().is_empty();
        (over && running.mailbox(0).last_fault().is_none()).then_some(())
    })
    .await;
    // Not all of them happen: a session of one message has no second one.
    assert!(load(&running.mailbox(0).sessions_failed) >= 10);
    assert!(load(&running.counts.repeated) >= 1, "they came again after QUIT was lost");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_never_reaches_quit_is_still_emptied() {
    // Breaks whenever a second message is to be deleted.
    let server = Server::start(&FIVE, &[Fault::At("DELE 2", ""); 12], None).await;
    let home = server.home();
    let running = home.start();
    eventually("an empty mailbox", async || server.is_empty().then_some(())).await;
    assert!(!server.faults.lock().unwrap().is_empty(), "sessions got short enough");
    arrive(&home, &server, &running).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_between_keeping_and_deleting_makes_no_double() {
    let faults = [Fault::At("QUIT", ""), Fault::Silent("QUIT"), Fault::Silent("DELE 1")];
    let server = Server::start(&FIVE, &faults, None).await;
    let home = server.home();
    for _ in 0..3 {
        let before = server.commands.lock().unwrap().len();
        let running = home.start();
        eventually("the deletion that is not answered", async || {
            let commands = server.commands.lock().unwrap();
            commands[before..].iter().any(|line| line == "DELE 5" || line == "DELE 1").then_some(())
        })
        .await;
        running.kill().await;
    }
    assert!(!server.is_empty());
    let running = home.start();
    eventually("an empty mailbox", async || server.is_empty().then_some(())).await;
    eventually("nothing waits", async || (load(&running.counts.waiting) == 0).then_some(())).await;
    let all = home.texts();
    let once: BTreeSet<&String> = all.iter().collect();
    assert_eq!(once.len(), 5, "{all:?}");
    assert_eq!(home.files("new").len() + home.files("tmp").len() + home.files("aside").len(), 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_kept_stays_on_the_server() {
    let server = Server::start(&FIVE, &[], None).await;
    let home = server.home();
    let tmp = home.path("tmp");
    std::fs::create_dir_all(home.path("")).unwrap();
    let running = home.start();
    // From the first moment or a few mails later: whatever is deleted is here.
    std::fs::remove_dir_all(&tmp).unwrap();
    eventually("a session that kept nothing", async || {
        running.mailbox(0).last_fault().filter(|why| why.contains("could not be kept"))
    })
    .await;
    let held = server.messages.lock().unwrap().len();
    assert_eq!(held as u64 + load(&running.counts.kept), 5);
    std::fs::create_dir(&tmp).unwrap();
    arrive(&home, &server, &running).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_lies_about_sizes_costs_nothing() {
    let large = "L".repeat(5_000);
    let texts = ["one", large.as_str(), "three"];
    // Everything is announced as tiny; one is not, and is cut and left.
    let server = Server::start(&texts, &[], Some("1")).await;
    let home = server.home().tweak(|config| config.inmail.max_message_bytes = 2_000);
    let running = home.start();
    home.processed(3).await;
    eventually("sessions", async || (load(&running.mailbox(0).sessions) > 3).then_some(())).await;
    assert_eq!(server.messages.lock().unwrap().len(), 1);
    assert_eq!(load(&running.mailbox(0).left), 1);
    let asked = server.commands.lock().unwrap().iter().filter(|line| *line == "RETR 2").count();
    assert_eq!(asked, 1, "it is not fetched each time");
    let cut: Vec<usize> = {
        let got = home.got.lock().unwrap();
        got.iter().filter(|mail| mail.origin.cut).map(|mail| mail.octets.len()).collect()
    };
    assert_eq!(cut, [2_000]);
    running.stop().await;
    // Everything is announced as larger than the world: only heads are looked at, nothing goes.
    let texts = ["one is short", "two is short"];
    let server = Server::start(&texts, &[], Some("99999999999999999999999")).await;
    let home = server.home();
    let running = home.start();
    home.processed(2).await;
    running.stop().await;
    let server = Server::start(&texts, &[], Some("9999999999")).await;
    let home = server.home();
    let running = home.start();
    home.processed(2).await;
    eventually("sessions", async || (load(&running.mailbox(0).sessions) > 2).then_some(())).await;
    assert_eq!(server.messages.lock().unwrap().len(), 2);
    assert!(home.got.lock().unwrap().iter().all(|mail| mail.origin.cut));
    assert_eq!(running.mailboxes.test("box").await, Some(Ok(2)));
    assert_eq!(running.mailboxes.test("none").await, None);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_message_that_breaks_every_session_holds_up_no_other() {
    let server = Server::start(&FIVE, &[Fault::EndlessMessage("three"); 99], None).await;
    let home = server.home().tweak(|config| config.inmail.max_message_bytes = 2_000);
    let running = home.start();
    home.processed(4).await;
    eventually("four gone", async || (server.messages.lock().unwrap().len() == 1).then_some(()))
        .await;
    assert_eq!(server.messages.lock().unwrap()[0].1, "three");
    assert_eq!(load(&running.mailbox(0).left), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_at_home_is_a_fault_like_any_other() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut more = mailbox("gone", "pop3", "none", port);
    more.push_str(&mailbox("beyond", "imap", "none", 143).replace("127.0.0.1", "192.0.2.1"));
    more.push_str(&mailbox("tls", "pop3", "tls", port));
    let running = Home::new(&more).start();
    for (place, wanted) in [(0, "cannot connect to 127.0.0.1"), (1, "192.0.2.1"), (2, "cannot")] {
        let fault = eventually("a fault", async || running.mailbox(place).last_fault()).await;
        assert!(fault.contains(wanted) && one_line(&fault), "{fault}");
    }
    running.stop().await;
}
