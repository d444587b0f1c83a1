//! An IMAP server in this process that fails as it is asked to.

use std::collections::VecDeque;
use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// At a command with these words, this is said in place of the answer, and the connection closed.
type Fault = (&'static str, &'static str);

#[derive(Clone)]
struct Message {
    uid: u32,
    text: String,
    deleted: bool,
}

struct Server {
    address: SocketAddr,
    messages: Mutex<Vec<Message>>,
    faults: Mutex<VecDeque<Fault>>,
    uidplus: bool,
}

impl Server {
    async fn start(texts: &[&str], faults: &[Fault], uidplus: bool) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let message =
            |(uid, text): (u32, &&str)| Message { uid, text: (*text).into(), deleted: false };
        let server = Arc::new(Self {
            address: listener.local_addr().unwrap(),
            messages: Mutex::new((10..).zip(texts).map(message).collect()),
            faults: Mutex::new(faults.iter().copied().collect()),
            uidplus,
        });
        let own = Arc::clone(&server);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let server = Arc::clone(&own);
                let fault = server.faults.lock().unwrap().pop_front();
                // However the session ends, the next one may come.
                tokio::spawn(async move {
                    let _ended = server.session(stream, fault).await;
                });
            }
        });
        server
    }

    async fn session(&self, stream: TcpStream, fault: Option<Fault>) -> std::io::Result<()> {
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        write.write_all(b"* OK ready\r\n").await?;
        while let Some(line) = lines.next_line().await? {
            if let Some((words, said)) = fault
                && line.contains(words)
            {
                write.write_all(said.as_bytes()).await?;
                return Ok(());
            }
            let (tag, command) = line.split_once(' ').unwrap();
            let mut answer = self.answer(command);
            answer.push_str(&format!("{tag} OK done\r\n"));
            write.write_all(answer.as_bytes()).await?;
        }
        Ok(())
    }

    fn answer(&self, command: &str) -> String {
        let mut messages = self.messages.lock().unwrap();
        let words: Vec<&str> = command.split(' ').collect();
        let numbers = |wanted: bool| -> String {
            let chosen = messages.iter().filter(|one| one.deleted == wanted);
            chosen.map(|one| format!(" {}", one.uid)).collect()
        };
        match words.as_slice() {
            ["CAPABILITY"] if self.uidplus => "* CAPABILITY IMAP4rev1 UIDPLUS\r\n".into(),
            ["CAPABILITY"] => "* CAPABILITY IMAP4rev1\r\n".into(),
            ["SELECT", ..] => {
                format!("* {} EXISTS\r\n* OK [UIDVALIDITY 3] ok\r\n", messages.len())
            }
            ["UID", "SEARCH", "DELETED"] => format!("* SEARCH{}\r\n", numbers(true)),
            ["UID", "SEARCH", ..] => format!("* SEARCH{}\r\n", numbers(false)),
            ["UID", "FETCH", uid, ..] => {
                let uid: u32 = uid.parse().unwrap();
                let Some(one) = messages.iter().find(|one| one.uid == uid) else {
                    return String::new();
                };
                let (text, octets) = (&one.text, one.text.len());
                format!("* 1 FETCH (UID {uid} BODY[]<0> {{{octets}}}\r\n{text})\r\n")
            }
            ["UID", "STORE", set, ..] => {
                messages
                    .iter_mut()
                    .filter(|one| within(one.uid, set))
                    .for_each(|one| one.deleted = true);
                String::new()
            }
            ["UID", "EXPUNGE", set] => {
                messages.retain(|one| !(one.deleted && within(one.uid, set)));
                String::new()
            }
            ["EXPUNGE"] => {
                messages.retain(|one| !one.deleted);
                String::new()
            }
            _ => String::new(),
        }
    }
}

fn within(uid: u32, set: &str) -> bool {
    set.split(',').any(|part| {
        let (from, to) = part.split_once(':').unwrap_or((part, part));
        (from.parse().unwrap()..=to.parse().unwrap()).contains(&uid)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mailbox_is_emptied_through_all_faults() {
    let faults = [
        ("LOGIN", "m2 NO [AUTHENTICATIONFAILED] no\r\n"),
        ("SELECT", "* BYE going down\r\n"),
        ("SEARCH", "* SEARCH 1 2 99999999999 x\r\nm5 NO\r\n"),
        ("FETCH", "* 1 FETCH (UID 10 BODY[]<0> {999999999}\r\n"),
        ("FETCH", "* 1 FETCH (UID 10 BODY[]<0> {30}\r\nhalf"),
        ("FETCH 12", "* 1 FETCH (UID 12 BODY[]<0> NIL)\r\nm9 OK\r\n"),
        ("STORE", ""),
        ("EXPUNGE", ""),
    ];
    for uidplus in [true, false] {
        let server = Server::start(&["one", "two", "three"], &faults, uidplus).await;
        let home = Home::new(&mailbox("box", "imap", "none", server.address.port()));
        let running = home.start();
        home.processed(3).await;
        // Where the server lost the line after STORE they are flagged and looked at no more.
        eventually("nothing to fetch", async || {
            let messages = server.messages.lock().unwrap();
            messages.iter().all(|one| one.deleted).then_some(())
        })
        .await;
        eventually("a good session", async || {
            running.mailbox(0).last_fault().is_none().then_some(())
        })
        .await;
        assert_eq!(home.texts(), ["one", "three", "two"]);
        assert_eq!(load(&running.counts.kept), 3);
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_have_flagged_is_not_expunged() {
    let server = Server::start(&["one", "two"], &[], false).await;
    server.messages.lock().unwrap()[0].deleted = true;
    let home = Home::new(&mailbox("box", "imap", "none", server.address.port()));
    let running = home.start();
    home.processed(1).await;
    eventually("sessions", async || (load(&running.mailbox(0).sessions) > 2).then_some(())).await;
    assert_eq!(server.messages.lock().unwrap().len(), 2);
    assert_eq!(home.texts(), ["two"]);
    running.stop().await;
}
