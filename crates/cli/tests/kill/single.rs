//! Kill -9 while single messages come in by SMTP and go on at once: what got its 250 arrives.
//!
//! Some clients submit without a pause, each message with a key, and each again and again until it has its 250. So after
//! every kill there are messages that wait, that were just claimed, that are under way, and such whose client does not
//! know whether they were taken.

use super::*;

/// Clients that submit at the same time.
const CLIENTS: u32 = 6;

/// Kills in the normal tests.
const KILLS_OF_SINGLES: u32 = 10;

/// One client: submits until it is to end, and then until its last message is taken. Answers how many were.
fn submit_until(client: u32, port: u16, end: &AtomicBool) -> u32 {
    let patience = Instant::now() + Duration::from_secs(600);
    let mut taken = 0;
    let mut conversation: Option<BufReader<TcpStream>> = None;
    // A message without an answer may have been taken.
    let mut in_doubt = false;
    while in_doubt || !end.load(Ordering::Relaxed) {
        assert!(Instant::now() < patience, "client {client}: message {taken} is not taken");
        let Some(open) = &mut conversation else {
            conversation = talk(port);
            if conversation.is_none() {
                // It is being started again.
                std::thread::sleep(Duration::from_millis(5));
            }
            continue;
        };
        in_doubt = submit(open, client, taken).is_none();
        if in_doubt {
            conversation = None;
        } else {
            taken += 1;
        }
    }
    taken
}

fn recipient(client: u32, number: u32) -> String {
    let domain = ["a", "b", "c", "d"][number as usize % 4];
    format!("c{client}-{number}@{domain}.judge.example")
}

/// What is said to one recipient only, in up to forty lines; some begin with a dot, which is doubled on the wire.
fn body(client: u32, number: u32) -> String {
    let mut lines = Moments(0x9e37_79b9 ^ u64::from(client) << 32 ^ u64::from(number));
    let mut body = format!("Number {number} of client {client}\r\n");
    for line in 0..number % 40 {
        let dots = if line % 8 == 3 { ".." } else { "" };
        body += &format!("{dots}{line}: {:?}\r\n", lines.next(1_000_000));
    }
    body
}

/// Submits one message; `None`: it was not acknowledged.
fn submit(talk: &mut BufReader<TcpStream>, client: u32, number: u32) -> Option<()> {
    let recipient = recipient(client, number);
    ask(talk, "MAIL FROM:<news@sender.example>").filter(|code| *code == 250)?;
    ask(talk, &format!("RCPT TO:<{recipient}>")).filter(|code| *code == 250)?;
    ask(talk, "DATA").filter(|code| *code == 354)?;
    let message = format!(
        "From: news@sender.example\r\nTo: {recipient}\r\nSubject: One\r\n\
         X-Mailweir-Idempotency-Key: c{client}-{number}\r\n\r\n{}.",
        body(client, number)
    );
    ask(talk, &message).filter(|code| *code == 250).map(drop)
}

/// Lets clients submit while the node is killed so often, and demands that every message that was taken arrives, each
/// copy with the body that was handed in for its recipient, and no kill repeats more than was open. Answers how many messages there were and how many copies too many.
pub(super) fn killed_singles(net: u8, kills: u32, seed: u64) -> (u64, u64) {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal.jsonl");
    let lab = judge(net, &Mood::default(), Some(journal.clone()));
    let (http, smtp) = (free_port(), free_port());
    let listener = format!("[submission]\nlisten = [\"127.0.0.1:{smtp}\"]\n");
    write_configuration(folder.path(), &lab, http, &listener);
    let mut node = Node::start(folder.path());
    let end = AtomicBool::new(false);
    let mut moments = Moments(seed);
    let taken: Vec<u32> = std::thread::scope(|scope| {
        let submit = |client| {
            scope.spawn({
                let end = &end;
                move || submit_until(client, smtp, end)
            })
        };
        let clients: Vec<_> = (0..CLIENTS).map(submit).collect();
        for _ in 0..kills {
            std::thread::sleep(moments.next(20));
            node.kill();
            node = Node::start(folder.path());
        }
        std::thread::sleep(Duration::from_millis(100));
        end.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let patience = Instant::now() + Duration::from_secs(60);
    loop {
        let stat = request(http, "GET", "/api/v1/stat", "application/json", "");
        if stat["queue"]["queued"] == 0 && stat["queue"]["in_flight"] == 0 {
            break;
        }
        assert!(Instant::now() < patience, "seed {seed}: the queue does not drain: {stat}");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(node);
    drop(lab.stop());
    // By recipient: the hash of each copy's body.
    let mut copies = BTreeMap::<String, Vec<String>>::new();
    for line in std::fs::read_to_string(journal).unwrap().lines() {
        let seen: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = |field: &str| seen[field].as_str().unwrap().to_owned();
        copies.entry(text("recipient")).or_default().push(text("body"));
    }
    let mut messages = 0;
    for (client, count) in (0_u32..).zip(&taken) {
        for number in 0..*count {
            let recipient = recipient(client, number);
            let bodies = copies.get(&recipient);
            let bodies = bodies.unwrap_or_else(|| panic!("seed {seed}: {recipient} is lost"));
            let body = body(client, number).replace("\r\n..", "\r\n.");
            let body = format!("{:016x}", lab::body_hash(body.as_bytes()));
            let same = bodies.iter().all(|came| *came == body);
            assert!(same, "seed {seed}: {recipient} got another body: {bodies:?}, not {body}");
            messages += 1;
        }
    }
    assert_eq!(copies.len() as u64, messages, "seed {seed}: nobody else was written to");
    let repeats = copies.values().map(|bodies| bodies.len() as u64).sum::<u64>() - messages;
    let bound = u64::from(kills) * u64::from(CONNECTIONS) * 2;
    assert!(repeats <= bound, "seed {seed}: {repeats} repeats");
    (messages, repeats)
}

#[test]
fn ten_kills_lose_no_single_message() {
    let (messages, repeats) = killed_singles(17, KILLS_OF_SINGLES, 0x2545_f491);
    println!("{KILLS_OF_SINGLES} kills, {messages} messages, {repeats} repeats");
    assert!(messages > 100, "the kills must fall into traffic: {messages}");
}
