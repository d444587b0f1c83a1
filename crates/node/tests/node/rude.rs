//! Servers that do at each step of a conversation whatever servers do: nothing, half of it, too much, too late.
//!
//! Each cell of the table is a domain with a server of its own, which is rude on its first connection and sound from then
//! on. So all mail must arrive; what may arrive twice, and what the log says, depends on the step.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use lab::{LabConfig, SourceName};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// What is answered rudely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Greeting,
    Ehlo,
    Mail,
    Rcpt,
    Data,
    /// The final dot.
    Dot,
    Quit,
}

/// What is done in place of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// The connection is closed in order.
    Close,
    /// It is reset.
    Reset,
    /// Our direction is closed; the other one is read on.
    HalfClose,
    /// Whatever comes is read and nothing is said.
    Swallow,
    /// One octet at a time, each well within the time of a step, all together not.
    Drip,
    /// The right answer, after the time of a step.
    Late,
    /// A megabyte of one reply.
    Flood,
    /// 421 and the end.
    GoesAway,
}

const STEPS: [Step; 7] =
    [Step::Greeting, Step::Ehlo, Step::Mail, Step::Rcpt, Step::Data, Step::Dot, Step::Quit];

const ACTS: [Act; 8] = [
    Act::Close,
    Act::Reset,
    Act::HalfClose,
    Act::Swallow,
    Act::Drip,
    Act::Late,
    Act::Flood,
    Act::GoesAway,
];

/// The time of each step by the rule.
const STEP_TIME: Duration = Duration::from_secs(1);

/// Messages that a server has said 250 to, and those that it had read to the dot when it was rude.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    well: u32,
    rudely: u32,
}

/// A server of one domain.
#[derive(Clone)]
struct Rude {
    step: Step,
    act: Act,
    taken: Arc<Mutex<Taken>>,
}

impl Rude {
    async fn serve(self, listener: TcpListener) {
        let mut rude = true;
        while let Ok((stream, _)) = listener.accept().await {
            let now = core::mem::take(&mut rude);
            let server = self.clone();
            // However it ends: the client's side is what is looked at.
            tokio::spawn(async move { server.talk(stream, now).await });
        }
    }

    async fn talk(self, stream: TcpStream, rude: bool) -> io::Result<()> {
        let mut talk = BufReader::new(stream);
        self.answer(&mut talk, rude, Step::Greeting, "220 here").await?;
        loop {
            let mut line = String::new();
            if talk.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            match line.get(..4).unwrap_or_default() {
                "EHLO" => self.answer(&mut talk, rude, Step::Ehlo, "250 here").await?,
                "MAIL" => self.answer(&mut talk, rude, Step::Mail, "250 2.1.0 fine").await?,
                "RCPT" => self.answer(&mut talk, rude, Step::Rcpt, "250 2.1.5 fine").await?,
                "DATA" => {
                    self.answer(&mut talk, rude, Step::Data, "354 go on").await?;
                    while line != ".\r\n" {
                        line.clear();
                        if talk.read_line(&mut line).await? == 0 {
                            return Ok(());
                        }
                    }
                    if rude && self.step == Step::Dot {
                        self.taken.lock().unwrap().rudely += 1;
                    }
                    self.answer(&mut talk, rude, Step::Dot, "250 2.0.0 taken").await?;
                    self.taken.lock().unwrap().well += 1;
                }
                "QUIT" => {
                    self.answer(&mut talk, rude, Step::Quit, "221 2.0.0 bye").await?;
                    return Ok(());
                }
                _ => talk.get_mut().write_all(b"250 2.0.0 fine\r\n").await?,
            }
        }
    }

    /// Answers, or does what is done in its place; then the conversation is over.
    async fn answer(
        &self,
        talk: &mut BufReader<TcpStream>,
        rude: bool,
        step: Step,
        reply: &str,
    ) -> io::Result<()> {
        let stream = talk.get_mut();
        let reply = format!("{reply}\r\n");
        if !rude || self.step != step {
            return stream.write_all(reply.as_bytes()).await;
        }
        match self.act {
            Act::Close => {}
            Act::Reset => stream.set_zero_linger()?,
            Act::HalfClose => {
                stream.shutdown().await?;
                drain(talk).await?;
            }
            Act::Swallow => drain(talk).await?,
            Act::Drip => {
                let (code, text) = reply.split_at(4);
                for octet in format!("{code}{}{text}", "slowly ".repeat(20)).bytes() {
                    stream.write_all(&[octet]).await?;
                    tokio::time::sleep(STEP_TIME / 10).await;
                }
            }
            Act::Late => {
                tokio::time::sleep(STEP_TIME * 3 / 2).await;
                stream.write_all(reply.as_bytes()).await?;
                drain(talk).await?;
            }
            Act::Flood => {
                let line = format!("{}-{}\r\n", &reply[..3], "x".repeat(500));
                for _ in 0..2_000 {
                    stream.write_all(line.as_bytes()).await?;
                }
                stream.write_all(reply.as_bytes()).await?;
                drain(talk).await?;
            }
            Act::GoesAway => stream.write_all(b"421 4.3.2 going away\r\n").await?,
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    }
}

/// Reads whatever comes, to the end.
async fn drain(talk: &mut BufReader<TcpStream>) -> io::Result<()> {
    let mut buffer = [0; 4_096];
    while talk.read(&mut buffer).await? > 0 {}
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_fail_in_every_way_at_every_step_get_all_mail() {
    let block = 80;
    let cells: Vec<(Step, Act)> =
        STEPS.iter().flat_map(|step| ACTS.iter().map(|act| (*step, *act))).collect();
    let name = |number: usize| format!("s{number}.rude.example");
    let address =
        |number: usize| std::net::Ipv4Addr::new(127, 9, block, u8::try_from(number + 10).unwrap());
    let source = (0..cells.len())
        .map(|number| SourceName { address: address(number), name: name(number) })
        .collect();
    let providers = vec![provider(block, 1, "one", lab::Mood::default())];
    let world = World::of(block, LabConfig { providers, source, ..LabConfig::default() })
        .more("[retry]\nsteps = [\"1s\"]\njitter_percent = 0\n");
    let times = "\ntimeout = \"1s\"\ndata_timeout = \"1s\"";
    world.write_rules(&rule(OPEN).replace("\ntimeout = \"5s\"", times));
    let mut servers = Vec::new();
    for (number, (step, act)) in cells.iter().enumerate() {
        let listener =
            TcpListener::bind(std::net::SocketAddr::from((address(number), world.port))).await;
        let listener = listener.unwrap_or_else(|fault| panic!("{:?}: {fault}", address(number)));
        let server = Rude { step: *step, act: *act, taken: Arc::default() };
        tokio::spawn(server.clone().serve(listener));
        servers.push(server);
    }
    let node = world.start();
    let intake = node.intake();
    // Two for each: the second one waits behind the first, or goes over the same connection.
    let list: Vec<String> =
        (0..cells.len() * 2).map(|number| format!("p{number}@{}", name(number / 2))).collect();
    let list: Vec<&str> = list.iter().map(String::as_str).collect();
    let id = delivery(&intake, addressed(&list)).await;
    let counters = settled(&intake, id).await;
    let groups = node.questions().groups().await.unwrap();
    assert_eq!(counters.sent, list.len() as u64, "{counters:?} {groups:#?}");
    let ended = world.end(node).await;
    let mut unsure = BTreeMap::<&str, u32>::new();
    for line in ended.log.iter().filter(|line| line.note.contains("possibly delivered")) {
        *unsure.entry(line.recipient.split_once('@').unwrap().1).or_default() += 1;
    }
    for (number, server) in servers.iter().enumerate() {
        let cell = format!("{:?} {:?}", server.act, server.step);
        let taken = *server.taken.lock().unwrap();
        let unsure = unsure.get(&*name(number)).copied().unwrap_or(0);
        let at_dot = server.step == Step::Dot;
        // Said well and heard: exactly once for each message.
        assert_eq!(taken.well, 2, "{cell}: {taken:?}");
        assert_eq!(taken.rudely, u32::from(at_dot), "{cell}: {taken:?}");
        // Only what had its dot may have arrived before; who says 421 has not taken it.
        let expected = u32::from(at_dot && server.act != Act::GoesAway);
        assert_eq!(unsure, expected, "{cell}: possibly delivered");
    }
}
