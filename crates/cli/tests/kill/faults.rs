//! Faults of the machine done to the real process: what intake answers, what the log says, and that it recovers by
//! itself. Whoever looks for a fault in production finds these words in docs/faults.md.
//!
//! System calls are made to fail by `strace`, which is attached to the running process and goes again; limits are set by
//! `prlimit`; small disks need root. Where the machine has none of it, or does not allow it, a test says so and ends.

use store::{Reads as _, SqliteReads};

use super::hours::signal;
use super::*;

#[path = "../../../node/tests/node/small_disk.rs"]
mod small_disk;

use small_disk::SmallDisk;

/// The longest that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(40);

/// A judge whose answers take some milliseconds, a folder, and the ways into the node.
struct Site {
    folder: tempfile::TempDir,
    lab: Lab,
    http: u16,
    smtp: u16,
}

/// How often something happens until it is asked whether it has happened.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Asks until there is an answer.
fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "never came: {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}

impl Site {
    /// `net` keeps the addresses of two sites apart.
    fn new(net: u8, more: &str) -> Self {
        let lab = judge(net, &Mood::default(), None);
        let folder = tempfile::tempdir().unwrap();
        let (http, smtp) = (free_port(), free_port());
        let site = Self { folder, lab, http, smtp };
        site.configure(more);
        site
    }

    fn configure(&self, more: &str) {
        let smtp = self.smtp;
        let more = format!("[submission]\nlisten = [\"127.0.0.1:{smtp}\"]\n{more}");
        write_configuration(self.folder.path(), &self.lab, self.http, &more);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&self) -> Node {
        Node::start(self.folder.path())
    }

    /// Hands a message in over HTTP; status and detail of the answer.
    fn post(&self, who: &str, key: Option<&str>) -> (u16, String) {
        let key = key.map_or_else(String::new, |key| format!("Idempotency-Key: {key}\r\n"));
        let fields = format!("Content-Type: application/json\r\n{key}");
        let message = format!(
            "{{\"from\":\"news@sender.example\",\"to\":\"{who}@a.judge.example\",\"subject\":\"One\",\"text\":\"x\"}}"
        );
        let answer = try_request(self.http, "POST", "/api/v1/messages", &fields, &message);
        let (status, answer) = answer.expect("HTTP answers");
        (status, answer["detail"].as_str().unwrap_or_default().to_owned())
    }

    /// Hands a message in over SMTP; the first answer that is no good, or the last.
    fn submit(&self, who: &str) -> String {
        let mut talk = talk(self.smtp).expect("SMTP answers");
        let recipient = format!("RCPT TO:<{who}@a.judge.example>");
        let content = format!("From: news@sender.example\r\nSubject: {who}.\r\n\r\nx\r\n.");
        for command in ["MAIL FROM:<news@sender.example>", &recipient, "DATA", &content] {
            talk.get_mut().write_all(format!("{command}\r\n").as_bytes()).unwrap();
            let line = last_line(&mut talk).expect("SMTP answers");
            if !line.starts_with(['2', '3']) || command == content {
                return line;
            }
        }
        unreachable!("the content is the last command")
    }

    fn counters(&self, id: &str) -> serde_json::Value {
        let path = format!("/api/v1/deliveries/{id}");
        request(self.http, "GET", &path, "application/json", "")["counters"].clone()
    }

    /// Waits until a delivery is sent in full.
    fn until_sent(&self, id: &str, count: u32) {
        eventually("the end of the delivery", || {
            (self.counters(id)["sent"] == count).then_some(())
        });
    }

    /// How many different messages have arrived.
    fn arrived(&self) -> u64 {
        self.lab.report().duplicates.unique_accepted
    }

    /// Waits until so many have arrived.
    fn until_arrived(&self, count: u64) {
        eventually("mail at the judge", || (self.arrived() >= count).then_some(()));
    }

    /// Ends everything: so many different messages must have arrived; the copies that were too many.
    fn end(self, node: Node, count: u64) -> u64 {
        drop(node);
        let seen = self.lab.stop().duplicates;
        assert_eq!(seen.unique_accepted, count, "{seen:?}");
        seen.extra_copies
    }
}

/// Waits until the node has said this.
fn until_said(node: &Node, words: &str) {
    let begun = Instant::now();
    while !node.said().contains(words) {
        assert!(begun.elapsed() < PATIENCE, "it never said {words:?}:\n{}", node.said());
        std::thread::sleep(LOOK_EVERY);
    }
}

/// System calls of a process that do not work as they should, until this is dropped.
struct Tampered(Child);

/// `None`: not on this machine, and the reason is printed.
fn tamper(node: &Node, options: &[&str]) -> Option<Tampered> {
    let id = node.child.id().to_string();
    let started =
        Command::new("strace").args(["-f", "-p", &id]).args(options).stderr(Stdio::piped()).spawn();
    let mut strace = match started {
        Ok(strace) => strace,
        Err(fault) => {
            println!("skipped: strace: {fault}");
            return None;
        }
    };
    let mut lines = BufReader::new(strace.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut said = String::new();
    while let Some(line) = lines.next() {
        if line.contains("attached") {
            std::thread::spawn(move || lines.for_each(drop));
            return Some(Tampered(strace));
        }
        said.push_str(&line);
    }
    // It has ended by itself.
    strace.wait().unwrap();
    println!("skipped: {said}");
    None
}

impl Drop for Tampered {
    fn drop(&mut self) {
        // In order, so that no call of the process is left half done.
        let _ = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        let _ = self.0.wait();
    }
}

/// What a store that cannot write does to those who hand mail in, and what it says.
struct Sick {
    net: u8,
    /// What strace does.
    injected: &'static str,
    /// Parts of the answers over HTTP and SMTP, and of the log.
    http: &'static str,
    smtp: &'static str,
    log: &'static str,
}

/// A campaign goes on, the disk fails, nothing is taken and nothing more is sent, the disk works again, and all of it
/// arrives once.
fn a_disk_that_fails(case: &Sick) {
    let site = Site::new(case.net, "");
    let node = site.start();
    let count = 1_500;
    let id = start_campaign(site.http, count);
    site.until_arrived(40);
    let Some(tampered) = tamper(&node, &["-o", "/dev/null", "-e", case.injected]) else { return };
    let refused = eventually("a refusal", || {
        let (status, why) = site.post("early", Some("early"));
        (status != 202 && status != 200).then_some((status, why))
    });
    assert_eq!(refused.0, 503, "{refused:?}");
    assert!(refused.1.contains(case.http), "{refused:?}");
    let reply = site.submit("refused");
    assert!(reply.starts_with(case.smtp), "{reply}");
    until_said(&node, "the store does not take anything; trying again each second");
    until_said(&node, case.log);
    until_said(&node, "the store cannot commit; delivery stops until it can");
    let ready = try_request(site.http, "GET", "/readyz", "", "").unwrap();
    assert_eq!(ready.0, 503, "{ready:?}");
    // What was on its way comes to its end; then nothing more is sent.
    eventually("silence", || {
        let before = site.arrived();
        std::thread::sleep(Duration::from_millis(300));
        (site.arrived() == before).then_some(())
    });
    assert!(site.arrived() < count.into(), "the fault came too late");
    drop(tampered);
    let begun = Instant::now();
    until_said(&node, "the store works again");
    eventually("an acceptance", || (site.post("early", Some("early")).0 / 100 == 2).then_some(()));
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    site.until_sent(&id, count);
    site.until_arrived(u64::from(count) + 1);
    assert_eq!(site.end(node, u64::from(count) + 1), 0, "nobody has it twice");
}

#[test]
fn syncs_that_fail() {
    a_disk_that_fails(&Sick {
        net: 21,
        injected: "inject=fsync,fdatasync:error=EIO",
        http: "disk I/O error",
        smtp: "451 4.3.0",
        log: "check the disk and the system log",
    });
}

#[test]
fn writes_that_fail() {
    a_disk_that_fails(&Sick {
        net: 22,
        injected: "inject=pwrite64:error=EIO",
        http: "disk I/O error",
        smtp: "451 4.3.0",
        log: "check the disk and the system log",
    });
}

#[test]
fn a_disk_without_room_for_outcomes() {
    a_disk_that_fails(&Sick {
        net: 23,
        injected: "inject=pwrite64:error=ENOSPC",
        http: "is full",
        smtp: "452 4.3.1",
        log: "free some space, nothing accepted is lost",
    });
}

/// A disk whose syncs take a fifth of a second slows intake and loses nothing; a kill in the middle of it repeats what
/// was not on the disk, and that is bounded.
#[test]
fn slow_syncs_and_a_kill() {
    let most = 16;
    let site = Site::new(24, &format!("[limits]\nin_doubt_messages = {most}\n"));
    let mut node = site.start();
    let id = start_campaign(site.http, 3_000);
    site.until_arrived(40);
    let slow = ["-o", "/dev/null", "-e", "inject=fsync,fdatasync:delay_enter=200000"];
    let Some(tampered) = tamper(&node, &slow) else { return };
    let begun = Instant::now();
    assert_eq!(site.post("slow", None), (202, String::new()));
    assert!(begun.elapsed() > Duration::from_millis(200), "{:?}", begun.elapsed());
    assert!(site.submit("slower").starts_with("250"));
    // In the middle of it.
    site.until_arrived(site.arrived() + 100);
    node.kill();
    drop(tampered);
    eventually("the end of all connections", || {
        (site.lab.report().totals.open_connections == 0).then_some(())
    });
    let reads = SqliteReads::look(&site.path("data")).unwrap();
    let in_doubt = site.arrived() - reads.totals().unwrap().counters.sent;
    drop(reads);
    node = site.start();
    site.until_sent(&id, 3_000);
    site.until_arrived(3_002);
    let repeats = site.end(node, 3_002);
    println!("{in_doubt} in doubt at a kill while each sync takes 200 ms: {repeats} repeats");
    assert!(repeats <= in_doubt, "{repeats} {in_doubt}");
    assert!(in_doubt <= most + 3 * u64::from(CONNECTIONS), "{in_doubt}");
}

/// The order of the calls themselves: between the arrival of a message and its 250 lies a sync of the log.
#[test]
fn no_250_is_written_before_its_sync() {
    let site = Site::new(25, "");
    let node = site.start();
    let trace = site.path("trace");
    let calls = "trace=fsync,fdatasync,recvfrom,sendto,write,writev,read";
    let options = ["-y", "-s", "4096", "-o", trace.to_str().unwrap(), "-e", calls];
    let Some(tampered) = tamper(&node, &options) else { return };
    let count = 60;
    for number in 0..count {
        let reply = site.submit(&format!("order{number}"));
        assert!(reply.starts_with("250 2.0.0 accepted as m"), "{reply}");
    }
    drop(tampered);
    let text = std::fs::read_to_string(&trace).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let mut from = 0;
    let mut next = |what: &str, found: &dyn Fn(&str) -> bool| {
        let step = lines[from..].iter().position(|line| found(line));
        from += step.unwrap_or_else(|| panic!("{what} is missing after line {from}")) + 1;
        from
    };
    for number in 0..count {
        let subject = format!("Subject: order{number}.");
        next(&subject, &|line| line.contains(&subject));
        let synced = next("the sync of the log", &|line| {
            // One that another thread interrupted in the record has its file in the first of two lines.
            let begun = line.contains("sync(") && line.contains("mailweir.db-wal");
            begun && (line.ends_with("= 0") || line.contains("unfinished"))
        });
        let said = next("the 250", &|line| line.contains("250 2.0.0 accepted as m"));
        assert!(said > synced);
    }
    drop(node);
}

#[test]
fn a_full_disk() {
    let site = Site::new(26, "[limits]\nfree_disk_bytes = 0\n");
    let Some(disk) = SmallDisk::mount(site.path("data"), 48) else { return };
    let node = site.start();
    let id = start_campaign(site.http, 1_000);
    site.until_arrived(40);
    disk.fill();
    let mut taken = 0;
    let (status, why) = eventually("a refusal", || {
        let answer = site.post(&format!("filler{taken}"), None);
        taken += u64::from(answer.0 == 202);
        (answer.0 != 202).then_some(answer)
    });
    assert_eq!(status, 503, "{why}");
    assert!(why.contains("is full") && why.contains("nothing was accepted, try again"), "{why}");
    let reply = site.submit("refused");
    assert!(reply.starts_with("452 4.3.1"), "{reply}");
    until_said(&node, "free some space, nothing accepted is lost");
    disk.free();
    let begun = Instant::now();
    until_said(&node, "the store works again");
    assert_eq!(site.post("later", None).0, 202);
    assert!(begun.elapsed() < Duration::from_secs(30));
    site.until_sent(&id, 1_000);
    site.until_arrived(1_001 + taken);
    assert_eq!(site.end(node, 1_001 + taken), 0);
    drop(disk);
}

/// A start that must be refused: status and words.
fn refused(site: &Site) -> String {
    match Node::launch(program(site.folder.path())) {
        Ok(node) => panic!("it has started:\n{}", node.said()),
        Err((status, said)) => {
            assert_eq!(status.code(), Some(2), "{said}");
            said
        }
    }
}

#[test]
fn a_data_folder_that_is_read_only_or_in_use() {
    let site = Site::new(27, "");
    let Some(disk) = SmallDisk::mount(site.path("data"), 24) else { return };
    let mount = |how: &str| {
        let options = format!("remount,{how}");
        eventually("a remount", || {
            let done = Command::new("mount").args(["-o", &options]).arg(disk.path()).output();
            done.unwrap().status.success().then_some(())
        });
    };
    mount("ro");
    let said = refused(&site);
    assert!(said.contains("Read-only file system"), "{said}");
    mount("rw");
    site.configure("[limits]\nfree_disk_bytes = 0\n");
    let node = site.start();
    signal(&node, "-TERM");
    drop(node);
    mount("ro");
    let said = refused(&site);
    assert!(said.contains("cannot be written") && said.contains("mounted for writing"), "{said}");
    mount("rw");
    let node = site.start();
    let id = start_campaign(site.http, 50);
    // Another process on the same folder, with ports of its own.
    let second = tempfile::tempdir().unwrap();
    let data = site.path("data");
    write_configuration(second.path(), &site.lab, free_port(), "");
    let path = second.path().join("mailweir.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace("\"data\"", &format!("{:?}", data.to_str().unwrap()));
    std::fs::write(&path, text).unwrap();
    let (status, said) = Node::launch(program(second.path())).err().expect("it is refused");
    assert_eq!(status.code(), Some(2), "{said}");
    let expected = format!("is in use by process {}", node.child.id());
    assert!(said.contains(&expected) && said.contains("choose another data folder"), "{said}");
    site.until_sent(&id, 50);
    assert_eq!(site.end(node, 50), 0);
    drop(disk);
}

/// Things in the data folder that nobody put there in order.
#[test]
fn torn_empty_and_foreign_files() {
    let inmail = free_port();
    let site = Site::new(
        28,
        &format!(
            "[return_path]\ndomain = \"bounce.sender.example\"\nkeys = [{{ file = \"key\" }}]\n\
             [sender]\ndomain = \"sender.example\"\n[inmail]\nlisten = [\"127.0.0.1:{inmail}\"]\n"
        ),
    );
    std::fs::write(site.path("key"), "the key of the return path").unwrap();
    let mut node = site.start();
    let id = start_campaign(site.http, 300);
    site.until_arrived(30);
    node.kill();
    let data = site.path("data");
    std::fs::write(data.join("foreign"), "not ours").unwrap();
    std::fs::create_dir(data.join("folder")).unwrap();
    std::fs::write(data.join("mailweir.lock"), "").unwrap();
    // The index of the log in shared memory is made anew; a log that was cut in the middle of a write ends there.
    std::fs::write(data.join("mailweir.db-shm"), vec![0xa5; 32_768]).unwrap();
    let mut log = std::fs::File::options().append(true).open(data.join("delivery.jsonl")).unwrap();
    log.write_all(b"{\"half a line").unwrap();
    for (name, octets) in [("empty", ""), ("0-torn.eml", "half"), ("17", "\0\0\0")] {
        std::fs::write(data.join("inmail/new").join(name), octets).unwrap();
    }
    let node = site.start();
    site.until_sent(&id, 300);
    assert!(std::fs::exists(data.join("foreign")).unwrap(), "what is not ours stays");
    drop(node);
    // An empty database beside a log is no new one: to begin anew would throw the log away.
    let wal = data.join("mailweir.db-wal");
    assert!(std::fs::metadata(&wal).unwrap().len() > 0, "a kill leaves the log");
    let database = std::fs::read(data.join("mailweir.db")).unwrap();
    std::fs::write(data.join("mailweir.db"), "").unwrap();
    let said = refused(&site);
    assert!(said.contains("mailweir.db") && said.contains("is empty"), "{said}");
    assert!(std::fs::metadata(&wal).unwrap().len() > 0, "the log is still there");
    std::fs::write(data.join("mailweir.db"), database).unwrap();
    let node = site.start();
    assert_eq!(site.counters(&id)["sent"], 300);
    drop(node);
    assert_eq!(site.lab.stop().duplicates.unique_accepted, 300);
}

/// Sets the number of files that a process may hold.
fn set_files(node: &Node, count: usize) {
    let id = node.child.id().to_string();
    let limit = format!("--nofile={count}:");
    let done = Command::new("prlimit").args(["--pid", &id, &limit]).status();
    assert!(done.is_ok_and(|status| status.success()));
}

#[test]
fn without_file_descriptors_it_waits() {
    if Command::new("prlimit").arg("--version").output().is_err() {
        println!("skipped: there is no prlimit");
        return;
    }
    let site = Site::new(29, "");
    let node = site.start();
    let id = start_campaign(site.http, 1_000);
    site.until_arrived(40);
    set_files(&node, 4);
    let mut waiting = TcpStream::connect(("127.0.0.1", site.smtp)).unwrap();
    until_said(&node, "cannot accept an SMTP connection");
    until_said(&node, "Too many open files");
    set_files(&node, 1_024);
    // Who was waiting is let in.
    waiting.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut greeting = [0; 3];
    std::io::Read::read_exact(&mut waiting, &mut greeting).unwrap();
    assert_eq!(&greeting, b"220");
    assert_eq!(site.post("later", None).0, 202);
    site.until_sent(&id, 1_000);
    site.until_arrived(1_001);
    assert_eq!(site.end(node, 1_001), 0);
}

fn frozen_for(span: Duration, net: u8) {
    let site = Site::new(net, "");
    let node = site.start();
    let id = start_campaign(site.http, 1_000);
    site.until_arrived(100);
    signal(&node, "-STOP");
    std::thread::sleep(span);
    signal(&node, "-CONT");
    assert_eq!(site.post("later", None).0, 202);
    site.until_sent(&id, 1_000);
    site.until_arrived(1_001);
    assert_eq!(site.end(node, 1_001), 0);
}

#[test]
fn a_process_that_is_stopped_goes_on() {
    frozen_for(Duration::from_secs(2), 30);
}

/// Longer than leases, permits and the patience of most.
#[test]
#[ignore = "takes minutes: cargo xtask faults"]
fn a_process_that_is_stopped_for_minutes_goes_on() {
    frozen_for(Duration::from_secs(200), 31);
}

#[test]
fn stops_under_load_lose_and_repeat_nothing() {
    let site = Site::new(32, "");
    let mut node = site.start();
    let id = start_campaign(site.http, 1_500);
    for stop in 1..=4 {
        site.until_arrived(stop * 100);
        signal(&node, "-TERM");
        let begun = Instant::now();
        let status = node.child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{}", node.said());
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        assert!(node.said().contains("stopped"));
        node = site.start();
        // An orderly end leaves nothing in doubt.
        assert!(site.counters(&id)["sent"].as_u64().unwrap() >= stop * 100);
    }
    site.until_sent(&id, 1_500);
    assert_eq!(site.end(node, 1_500), 0);
}

#[test]
fn a_step_of_the_wall_clock_frees_no_hour() {
    if !store::kill_point::COMPILED {
        println!("skipped: the clock of a release cannot be set by a test");
        return;
    }
    let site = Site::new(33, "");
    let rules = RULES.replace("messages_per_hour = 100000000", "messages_per_hour = 30");
    std::fs::write(site.path("mx.toml"), rules).unwrap();
    let step = site.path("step");
    let set = |seconds: i64| std::fs::write(&step, seconds.to_string()).unwrap();
    let start = || {
        let mut command = program(site.folder.path());
        command.env("MAILWEIR_WALL_CLOCK_STEP", &step);
        Node::launch(command).unwrap_or_else(|(status, said)| panic!("{status}\n{said}"))
    };
    let drift = || {
        let stat = request(site.http, "GET", "/api/v1/stat", "application/json", "");
        stat["clock_drift_micros"].as_i64().unwrap() / 1_000_000
    };
    // Thirty to each of four domains may go.
    let quiet = |when: &str| {
        std::thread::sleep(Duration::from_millis(1_200));
        assert_eq!(site.arrived(), 120, "{when}");
    };
    set(0);
    let mut node = start();
    start_campaign(site.http, 400);
    site.until_arrived(120);
    assert!(drift().abs() <= 1);
    for (seconds, name) in [(7_200, "forward"), (-7_200, "back")] {
        set(seconds);
        quiet(&format!("{name}, while it runs"));
        assert!((drift() + seconds).abs() <= 2, "ours is {} s ahead of the wall", drift());
        node.kill();
        node = start();
        quiet(&format!("{name}, after a kill"));
        signal(&node, "-TERM");
        node.child.wait().unwrap();
        node = start();
        quiet(&format!("{name}, after a stop"));
    }
    drop(node);
    assert!(site.lab.stop().limits_held());
}

#[test]
fn without_memory_nothing_more_is_taken() {
    let site = Site::new(34, "");
    let node = site.start();
    // It begins while there is room.
    let id = start_campaign(site.http, 100);
    site.until_sent(&id, 100);
    drop(node);
    site.configure("[limits]\nmemory_bytes = 2_000_000\n");
    let node = site.start();
    let (status, why) = eventually("a refusal", || {
        let answer = site.post("early", Some("early"));
        (answer.0 == 503).then_some(answer)
    });
    assert!(why.contains("limits.memory_bytes"), "{status} {why}");
    let reply = site.submit("early");
    assert!(reply.starts_with("452 4.3.1") && reply.contains("memory_bytes"), "{reply}");
    until_said(&node, "nothing more is accepted");
    drop(node);
    site.configure("");
    let node = site.start();
    assert_eq!(site.post("early", Some("early")).0 / 100, 2);
    site.until_arrived(101);
    assert_eq!(site.end(node, 101), 0);
}

/// Clients that repeat themselves, and clients that leave in the middle.
#[test]
fn clients_that_repeat_or_leave() {
    let site = Site::new(35, "");
    let node = site.start();
    // With a key a request takes effect once, without one each time.
    assert_eq!(site.post("keyed", Some("one")).0, 202);
    assert_eq!(site.post("keyed", Some("one")).0, 200);
    assert_eq!(site.post("unkeyed", None).0, 202);
    assert_eq!(site.post("unkeyed", None).0, 202);
    // Half a message, by each way in.
    for half in [
        "POST /api/v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: 500\r\n\r\n{\"from\":\"news@sender.example\",\"to\":\"half@a.judge.example\"",
        "POST /api/v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: message/rfc822\r\n\
         X-Mailweir-Recipients: half@a.judge.example\r\nTransfer-Encoding: chunked\r\n\r\n\
         1a\r\nFrom: news@sender.example\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", site.http)).unwrap();
        stream.write_all(half.as_bytes()).unwrap();
    }
    let mut talk = talk(site.smtp).unwrap();
    for command in ["MAIL FROM:<news@sender.example>", "RCPT TO:<half@a.judge.example>", "DATA"] {
        assert!(ask(&mut talk, command).is_some());
    }
    talk.get_mut().write_all(b"From: news@sender.example\r\n\r\nhalf\r\n").unwrap();
    drop(talk);
    assert!(site.submit("whole").starts_with("250"));
    site.until_arrived(4);
    let stat = request(site.http, "GET", "/api/v1/stat", "application/json", "");
    assert_eq!(stat["queue"]["queued"], 0, "{stat}");
    assert_eq!(site.end(node, 4), 0);
}

/// Another program that locks the database, a backup say.
#[test]
#[ignore = "needs python3 and takes ten seconds: cargo xtask faults"]
fn a_database_that_somebody_else_locks() {
    let site = Site::new(36, "");
    let node = site.start();
    let id = start_campaign(site.http, 2_000);
    site.until_arrived(40);
    let script = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1])\nc.execute('BEGIN IMMEDIATE')\n\
                  print('held', flush=True)\nsys.stdin.read()";
    let started = Command::new("python3")
        .args(["-c", script])
        .arg(site.path("data/mailweir.db"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut holder) = started else {
        println!("skipped: there is no python3");
        return;
    };
    let mut held = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut held).unwrap();
    assert_eq!(held, "held\n");
    let (status, why) = eventually("a refusal", || {
        let answer = site.post("early", Some("early"));
        (answer.0 == 503).then_some(answer)
    });
    assert!(why.contains("is in use by another process"), "{status} {why}");
    assert!(site.submit("early").starts_with("451 4.3.0"));
    drop(holder.stdin.take());
    holder.wait().unwrap();
    until_said(&node, "the store works again");
    eventually("an acceptance", || (site.post("early", Some("early")).0 / 100 == 2).then_some(()));
    site.until_sent(&id, 2_000);
    site.until_arrived(2_001);
    assert_eq!(site.end(node, 2_001), 0);
}

/// A flood of bounces, one in a hundred of them genuine, beside a campaign: each genuine one counts once, no forged one
/// does, and mail goes on.
#[test]
#[ignore = "takes minutes: cargo xtask faults"]
fn a_flood_of_forged_bounces() {
    let (forged, genuine) = (20_000_u32, 200_u32);
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal.jsonl");
    let lab = judge(37, &Mood::default(), Some(journal.clone()));
    let (http, inmail) = (free_port(), free_port());
    let more = bounce_sections(folder.path(), inmail);
    write_configuration(folder.path(), &lab, http, &more);
    let mut node = Node::start(folder.path());
    // Messages at their end: some of the second campaign go to addresses that have bounced meanwhile.
    let ended = |id: &str| {
        let path = format!("/api/v1/deliveries/{id}");
        let counters = request(http, "GET", &path, "application/json", "")["counters"].clone();
        counters["sent"].as_u64().unwrap() + counters["failed"].as_u64().unwrap()
    };
    let first = start_campaign(http, genuine);
    eventually("the first campaign", || (ended(&first) == u64::from(genuine)).then_some(()));
    let lines = std::fs::read_to_string(&journal).unwrap();
    let arrived: Vec<(String, String)> = lines
        .lines()
        .map(|line| {
            let taken: serde_json::Value = serde_json::from_str(line).unwrap();
            let text = |name: &str| taken[name].as_str().unwrap().to_owned();
            (text("sender"), text("recipient"))
        })
        .collect();
    // A return path with one letter of its proof changed.
    let forge = |sender: &str| {
        let (local, domain) = sender.split_once('@').unwrap();
        let last = if local.ends_with('a') { 'b' } else { 'a' };
        format!("{}{last}@{domain}", &local[..local.len() - 1])
    };
    let begun = Instant::now();
    let second = start_campaign(http, 2_000);
    let mut talk = talk(inmail).unwrap();
    for number in 0..forged {
        let (sender, recipient) = &arrived[(number % genuine) as usize];
        if number % 100 == 0 {
            let (sender, recipient) = &arrived[(number / 100) as usize];
            assert_eq!(bounce(&mut talk, sender, recipient), Some(250));
        }
        assert_eq!(bounce(&mut talk, &forge(sender), recipient), Some(250));
    }
    let flooded = begun.elapsed();
    eventually("the second campaign", || (ended(&second) == 2_000).then_some(()));
    let begun = Instant::now();
    while unread(folder.path()) > 0 && begun.elapsed() < Duration::from_secs(300) {
        std::thread::sleep(LOOK_EVERY);
    }
    assert_eq!(unread(folder.path()), 0);
    node.kill();
    drop(node);
    drop(lab);
    let options = SqliteOptions { node: "mailweir".into(), ..SqliteOptions::default() };
    let store = SqliteStore::open(&folder.path().join("data"), options).unwrap();
    let found = evidence(&store);
    let counted: u32 = found.values().map(|[_, bounces]| *bounces).sum();
    println!("{forged} forged and {genuine} genuine bounces in {flooded:?}; {counted} counted");
    assert_eq!(counted, genuine);
    assert!(found.values().all(|[_, bounces]| *bounces <= 1), "{found:?}");
}
