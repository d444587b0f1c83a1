//! kill -9 at every named point, also while the node recovers from the kill before.
//!
//! A trial brings mail in by every way (list, single messages over HTTP and SMTP, bounces), cancels a delivery and
//! denies an address. Who brings something repeats it until it is acknowledged, as a good client does, and goes on when
//! the node has been started again. At the end the lab's journal and the store on the disk must say the same as after a
//! life without a kill, but for the copies that the kills have cost.

use std::collections::{BTreeSet, VecDeque};
use std::os::unix::process::ExitStatusExt as _;

use lab::StartTls;
use store::kill_point::{COMPILED, POINTS, VARIABLE};
use store::{Reads as _, SqliteReads};

use super::*;

/// Recipients of the campaign. One in twelve is refused.
const LISTED: u32 = 96;

/// Recipients of the delivery that is cancelled before it starts.
const CANCELLED: u32 = 10;

/// Single messages by each of the two ways.
const SINGLES: u32 = 5;

/// Recipients whose mail comes back.
const BOUNCED: u32 = 4;

/// Beginnings of the recipients' domains.
const DOMAINS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// How long a trial may take, on a machine that is busy with other things too.
const PATIENCE: Duration = Duration::from_secs(180);

/// SIGABRT: what a kill point ends with.
const ABORTED: i32 = 6;

/// A lab in which all states of a conversation are met: by DATA one host that pipelines and one that does not; by BDAT
/// one with TLS, one that puts some recipients off, and one that does not pipeline.
fn lab(journal: &Path) -> Lab {
    let quick = Mood { round_trip: Some(Span(Duration::from_millis(1))), ..Mood::default() };
    let moods = [
        Mood { no_chunking: true, ..quick.clone() },
        Mood { no_chunking: true, no_pipelining: true, ..quick.clone() },
        Mood { starttls: StartTls::Good, ..quick.clone() },
        Mood { temporary_share: 0.2, ..quick.clone() },
        Mood { no_pipelining: true, ..quick },
    ];
    let mut config = LabConfig { journal: Some(journal.to_owned()), ..LabConfig::default() };
    for ((number, name), mood) in (1_u8..).zip(DOMAINS).zip(moods) {
        let domain = format!("{name}.judge.example");
        config.providers.push(ProviderConfig {
            name: name.into(),
            domains: vec![domain.clone()],
            mood,
            mx: vec![MxConfig {
                host: format!("mx.{domain}"),
                preference: 10,
                addresses: vec![[127, 16, number, 1].into()],
                domains: Vec::new(),
            }],
            ..ProviderConfig::default()
        });
    }
    Lab::start(config).unwrap()
}

/// What one life left when it was killed.
#[derive(Clone, Copy, Debug)]
struct Kill {
    /// Messages that the lab has accepted and the store does not know as sent.
    in_doubt: u64,
}

/// What is left at the end of a trial, but for what kills may change.
#[derive(Clone, Debug, Default, PartialEq)]
struct Final {
    /// State of each message by its address.
    messages: BTreeMap<String, String>,
    /// What is known of each address: refusals in sessions, bounces. A refusal of a message that was sent later is left
    /// out: who puts us off once does not do it again after the kill.
    evidence: BTreeMap<String, [u32; 2]>,
    /// State and counts of each delivery.
    deliveries: Vec<String>,
}

/// What a trial came to.
struct Outcome {
    kills: Vec<Kill>,
    /// Points that were armed and never reached.
    unreached: usize,
    /// Copies more than one.
    repeats: u64,
    longest_start: Duration,
    end: Final,
}

/// A node that is killed, and those who use it.
struct Trial {
    name: String,
    folder: tempfile::TempDir,
    lab: Lab,
    http: u16,
    smtp: u16,
    inmail: u16,
    node: Option<Node>,
    /// The points of the next lives.
    arms: VecDeque<String>,
    kills: Vec<Kill>,
    longest_start: Duration,
    begun: Instant,
}

impl Trial {
    /// Prepares everything; the lives of the node are armed one after the other with these points.
    fn new(arms: &[String]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lab = lab(&folder.path().join("journal.jsonl"));
        let (http, smtp, inmail) = (free_port(), free_port(), free_port());
        std::fs::write(folder.path().join("key"), "the key of the return path").unwrap();
        let more = format!(
            "[submission]\nlisten = [\"127.0.0.1:{smtp}\"]\n\
             [return_path]\ndomain = \"bounce.sender.example\"\nkeys = [{{ file = \"key\" }}]\n\
             [sender]\ndomain = \"sender.example\"\n[inmail]\nlisten = [\"127.0.0.1:{inmail}\"]\n\
             [retry]\nsteps = [\"1s\"]\njitter_percent = 0\n"
        );
        write_configuration(folder.path(), &lab, http, &more);
        let rules = RULES.replace("disabled", "opportunistic");
        std::fs::write(folder.path().join("mx.toml"), rules).unwrap();
        Self {
            name: arms.join(", then "),
            folder,
            lab,
            http,
            smtp,
            inmail,
            node: None,
            arms: arms.iter().cloned().collect(),
            kills: Vec::new(),
            longest_start: Duration::ZERO,
            begun: Instant::now(),
        }
    }

    /// Sees to it that a node runs: starts the next life when the last has been killed.
    fn keep_alive(&mut self) {
        assert!(
            self.begun.elapsed() < PATIENCE,
            "{}: it takes too long:\n{}",
            self.name,
            self.said()
        );
        if let Some(node) = &mut self.node {
            let Some(status) = node.child.try_wait().unwrap() else { return };
            let said = self.said();
            self.note_kill(status, &said);
        }
        loop {
            let mut command = program(self.folder.path());
            match self.arms.pop_front() {
                Some(point) => command.env(VARIABLE, point),
                None => command.env_remove(VARIABLE),
            };
            let begun = Instant::now();
            match Node::launch(command) {
                Ok(node) => {
                    self.longest_start = self.longest_start.max(begun.elapsed());
                    self.node = Some(node);
                    return;
                }
                Err((status, said)) => self.note_kill(status, &said),
            }
        }
    }

    fn said(&self) -> String {
        self.node.as_ref().map(Node::said).unwrap_or_default()
    }

    /// A life has ended: by its kill point and nothing else.
    fn note_kill(&mut self, status: ExitStatus, said: &str) {
        self.node = None;
        let aborted = status.signal() == Some(ABORTED) && said.contains("killed at ");
        assert!(aborted, "{}: it ended with {status}:\n{said}", self.name);
        // What was written to the sockets before the kill still arrives.
        while self.lab.report().totals.open_connections > 0 {
            assert!(self.begun.elapsed() < PATIENCE, "{}: connections stay open", self.name);
            std::thread::sleep(Duration::from_millis(1));
        }
        let accepted = self.lab.report().duplicates.unique_accepted;
        // In its first moments there is no database yet.
        let sent = SqliteReads::look(&self.folder.path().join("data"))
            .and_then(|reads| reads.totals())
            .map_or(0, |totals| totals.counters.sent);
        let in_doubt = accepted.checked_sub(sent).unwrap_or_else(|| {
            panic!("{}: {sent} are settled as sent and the lab has {accepted}", self.name)
        });
        self.kills.push(Kill { in_doubt });
    }

    /// Repeats something until it has an answer.
    fn until<T>(&mut self, attempt: impl Fn(&Self) -> Option<T>) -> T {
        loop {
            self.keep_alive();
            if let Some(answer) = attempt(self) {
                return answer;
            }
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// A request, repeated until there is an answer; a node that is starting or ending says 503.
    fn http(
        &mut self,
        method: &str,
        path: &str,
        fields: &str,
        body: &str,
    ) -> (u16, serde_json::Value) {
        self.until(|trial| {
            try_request(trial.http, method, path, fields, body).filter(|(status, _)| *status != 503)
        })
    }

    /// A request that must succeed.
    fn well(&mut self, method: &str, path: &str, fields: &str, body: &str) -> serde_json::Value {
        let (status, answer) = self.http(method, path, fields, body);
        assert_eq!(status / 100, 2, "{}: {method} {path}: {answer}", self.name);
        answer
    }

    /// A request for a change that may have happened already when its answer was lost.
    fn change(&mut self, path: &str, body: &str, wanted: &[&str]) {
        let (status, answer) = self.http("POST", path, JSON, body);
        if status / 100 != 2 {
            let (delivery, _) = path.rsplit_once('/').unwrap();
            let state = self.well("GET", delivery, "", "")["state"].clone();
            let there = state.as_str().is_some_and(|state| wanted.contains(&state));
            assert!(there && !self.kills.is_empty(), "{}: {path}: {answer} {state}", self.name);
        }
    }

    /// Creates a delivery with a content of its own and these recipients.
    fn delivery(&mut self, name: &str, count: u32) -> String {
        let fields = format!("{JSON}Idempotency-Key: {name}\r\n");
        let options = format!("{{\"options\":{{\"name\":\"{name}\"}}}}");
        let made = self.well("POST", "/api/v1/deliveries", &fields, &options);
        let path = format!("/api/v1/deliveries/{}", made["id"].as_str().unwrap());
        let content = r#"{"kind":"template","from":{"name":"Shop","address":"news@sender.example"},
            "subject":"Hello {{ n }}","text":"Number {{ n }}\n"}"#;
        self.well("PUT", &format!("{path}/content"), JSON, content);
        let list: String = (0..count)
            .map(|number| {
                let refused = name == "listed" && number % 12 == 7;
                let who = if refused { "unknown" } else { name };
                let domain = DOMAINS[number as usize % DOMAINS.len()];
                format!("{{\"email\":\"{who}{number}@{domain}.judge.example\",\"n\":{number}}}\n")
            })
            .collect();
        // Who was taken before an answer was lost is a duplicate the second time.
        let taken = self.well("POST", &format!("{path}/recipients"), NDJSON, &list);
        let count_of = |name: &str| taken[name].as_u64().unwrap_or_default();
        assert_eq!(count_of("accepted") + count_of("duplicates"), u64::from(count), "{taken}");
        path
    }

    /// Brings all mail in.
    fn inject(&mut self) -> String {
        let campaign = self.delivery("listed", LISTED);
        self.change(&format!("{campaign}/start"), "{}", &["running", "finished"]);
        let cancelled = self.delivery("cancelled", CANCELLED);
        self.change(&format!("{cancelled}/cancel"), "{\"why\":\"a test\"}", &["cancelled"]);
        for number in 0..SINGLES {
            let fields = format!("{JSON}Idempotency-Key: single{number}\r\n");
            let message = format!(
                "{{\"from\":\"news@sender.example\",\"to\":\"http{number}@a.judge.example\",\
                 \"subject\":\"One\",\"text\":\"Number {number}\"}}"
            );
            self.well("POST", "/api/v1/messages", &fields, &message);
        }
        for number in 0..SINGLES {
            self.until(|trial| trial.submit(number));
        }
        campaign
    }

    /// Submits a message by SMTP; `None`: it was not acknowledged.
    fn submit(&self, number: u32) -> Option<()> {
        let mut talk = talk(self.smtp)?;
        ask(&mut talk, "MAIL FROM:<news@sender.example>").filter(|code| *code == 250)?;
        let recipient = format!("RCPT TO:<smtp{number}@b.judge.example>");
        ask(&mut talk, &recipient).filter(|code| *code == 250)?;
        ask(&mut talk, "DATA").filter(|code| *code == 354)?;
        let message = format!(
            "From: news@sender.example\r\nTo: smtp{number}@b.judge.example\r\nSubject: One\r\n\
             X-Mailweir-Idempotency-Key: submitted{number}\r\n\r\nNumber {number}\r\n."
        );
        let code = ask(&mut talk, &message)?;
        assert_eq!(code, 250, "{}", self.name);
        Some(())
    }

    /// Waits until nothing is under way any more.
    fn until_empty(&mut self) {
        self.until(|trial| {
            let (_, stat) = try_request(trial.http, "GET", "/api/v1/stat", "", "")?;
            let queue = &stat["queue"];
            let empty = queue["queued"] == 0 && queue["in_flight"] == 0;
            (empty && unread(trial.folder.path()) == 0).then_some(())
        });
    }

    /// What the lab has accepted: each recipient with its return path, as often as it was.
    fn accepted(&self) -> Vec<(String, String)> {
        let journal = std::fs::read_to_string(self.folder.path().join("journal.jsonl")).unwrap();
        let line = |line: &str| {
            let taken: serde_json::Value = serde_json::from_str(line).unwrap();
            let text = |name: &str| taken[name].as_str().unwrap().to_owned();
            (text("recipient"), text("sender"))
        };
        journal.lines().map(line).collect()
    }

    /// Sends bounces for some of what has arrived, each until it is acknowledged.
    fn bounce_some(&mut self) {
        let accepted = self.accepted();
        for number in (0..BOUNCED).map(|number| number * DOMAINS.len() as u32) {
            let recipient = format!("listed{number}@a.judge.example");
            let (_, sender) = accepted.iter().find(|(who, _)| *who == recipient).unwrap();
            self.until(|trial| {
                let mut talk = talk(trial.inmail)?;
                bounce(&mut talk, sender, &recipient).filter(|code| *code == 250)
            });
        }
    }

    /// The whole trial.
    fn run(mut self) -> Outcome {
        let campaign = self.inject();
        self.until_empty();
        self.bounce_some();
        let deny = r#"{"deed":"deny","addresses":["eve@a.judge.example"],"why":"a test"}"#;
        self.well("POST", "/api/v1/quarantine/deeds", JSON, deny);
        self.until_empty();
        let counters = self.well("GET", &campaign, "", "")["counters"].clone();
        assert_eq!(counters["accepted"], LISTED, "{}: {counters}", self.name);
        if let Some(mut node) = self.node.take() {
            node.kill();
        }
        let end = self.end();
        let sent: Vec<&String> = end
            .messages
            .iter()
            .filter(|(_, state)| *state == "Sent")
            .map(|(address, _)| address)
            .collect();
        let mut copies = BTreeMap::<String, u64>::new();
        for (recipient, _) in self.accepted() {
            *copies.entry(recipient).or_default() += 1;
        }
        let lost: Vec<_> = sent.iter().filter(|who| !copies.contains_key(**who)).collect();
        assert!(lost.is_empty(), "{}: lost: {lost:?}", self.name);
        assert_eq!(copies.len(), sent.len(), "{}: something else was sent: {copies:?}", self.name);
        let repeats = copies.values().map(|copies| copies - 1).sum();
        let in_doubt: u64 = self.kills.iter().map(|kill| kill.in_doubt).sum();
        assert!(repeats <= in_doubt, "{}: {repeats} repeats, {in_doubt} in doubt", self.name);
        for kill in &self.kills {
            assert!(kill.in_doubt <= 2 * u64::from(CONNECTIONS), "{}: {kill:?}", self.name);
        }
        let (kills, longest_start) = (self.kills, self.longest_start);
        Outcome { kills, unreached: self.arms.len(), repeats, longest_start, end }
    }

    /// Reads the end from the disk.
    fn end(&self) -> Final {
        let options = SqliteOptions { node: "mailweir".into(), ..SqliteOptions::default() };
        let store = SqliteStore::open(&self.folder.path().join("data"), options).unwrap();
        let mut end = Final { evidence: evidence(&store), ..Final::default() };
        for message in store.reads().messages(MessageId(0), 1_000).unwrap() {
            let MessageState::Final { state, .. } = message.state else {
                panic!("{}: {message:?}", self.name)
            };
            let earlier = end.messages.insert(message.address.to_string(), format!("{state:?}"));
            assert!(earlier.is_none(), "{}: {} was queued twice", self.name, message.address);
            if state == FinalState::Sent
                && let Some(known) = end.evidence.get_mut(&*message.address)
            {
                known[0] = 0;
            }
        }
        end.evidence.retain(|_, known| *known != [0, 0]);
        for record in store.reads().deliveries(mail::id::DeliveryId(0), 100).unwrap() {
            // A list that is brought again counts its duplicates.
            let counters = store::Counters { duplicates: 0, ..record.counters };
            end.deliveries.push(format!("{:?} {counters:?}", record.delivery.state));
        }
        assert!(store.reads().parts(10).unwrap().is_empty(), "{}: parts are left", self.name);
        store.quick_check().unwrap();
        end
    }
}

const JSON: &str = "Content-Type: application/json\r\n";
const NDJSON: &str = "Content-Type: application/x-ndjson\r\n";

/// Runs a trial; whether all its points were reached.
fn trial(points: &[String], expected: &Final, sums: &Mutex<Sums>) -> bool {
    let outcome = Trial::new(points).run();
    let reached = outcome.kills.len() + outcome.unreached >= points.len()
        && outcome.kills.len() == points.len();
    let (found, wanted) = (lines(&outcome.end), lines(expected));
    let surplus: Vec<_> = found.difference(&wanted).collect();
    let missing: Vec<_> = wanted.difference(&found).collect();
    assert!(
        surplus.is_empty() && missing.is_empty(),
        "{}: the end has {surplus:#?} and lacks {missing:#?}",
        points.join(", then ")
    );
    let mut sums = sums.lock().unwrap();
    sums.trials += 1;
    sums.longest_start = sums.longest_start.max(outcome.longest_start);
    sums.kills += outcome.kills.len();
    if !outcome.kills.is_empty() {
        *sums.repeats.entry(outcome.repeats).or_default() += 1;
    }
    for kill in outcome.kills {
        *sums.in_doubt.entry(kill.in_doubt).or_default() += 1;
    }
    reached
}

/// An end, fact by fact.
fn lines(end: &Final) -> BTreeSet<String> {
    let messages = end.messages.iter().map(|(who, state)| format!("{who} is {state}"));
    let evidence = end.evidence.iter().map(|(who, known)| format!("{who} has evidence {known:?}"));
    let deliveries = end.deliveries.iter().enumerate().map(|(at, one)| format!("{at}: {one}"));
    messages.chain(evidence).chain(deliveries).collect()
}

/// What many trials came to.
#[derive(Default)]
struct Sums {
    trials: usize,
    kills: usize,
    longest_start: Duration,
    /// Copies after a trial → trials with kills.
    repeats: BTreeMap<u64, u32>,
    /// Messages whose end was not on the disk → kills.
    in_doubt: BTreeMap<u64, u32>,
}

/// The end of a life without a kill, which must be right itself.
fn undisturbed() -> Final {
    let outcome = Trial::new(&[]).run();
    let end = outcome.end;
    assert_eq!((outcome.repeats, outcome.kills.len()), (0, 0));
    let count = |state: &str| end.messages.values().filter(|found| *found == state).count() as u32;
    assert_eq!(count("Cancelled"), CANCELLED, "{end:#?}");
    assert_eq!(count("Failed"), LISTED / 12, "{end:#?}");
    assert_eq!(count("Sent"), LISTED - LISTED / 12 + 2 * SINGLES, "{end:#?}");
    let known = end.evidence.values().filter(|[refusals, bounces]| refusals + bounces == 1).count();
    assert_eq!(known as u32, LISTED / 12 + BOUNCED, "{end:#?}");
    end
}

/// Does something with each of the things, several at a time.
fn in_parallel<T: Send>(things: Vec<T>, work: impl Fn(T) + Sync) {
    let threads = std::thread::available_parallelism().map_or(2, usize::from) + 1;
    let things = Mutex::new(VecDeque::from(things));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let Some(thing) = things.lock().unwrap().pop_front() else { return };
                    work(thing);
                }
            });
        }
    });
}

/// One trial in each kind of place; all of them: `cargo xtask trials --points`.
#[test]
fn kills_at_named_points_lose_nothing() {
    if !COMPILED {
        println!("skipped: a release has no kill points");
        return;
    }
    let expected = undisturbed();
    let sums = Mutex::new(Sums::default());
    let points = [
        vec!["before-commit/append:1"],
        vec!["after-commit/append:2"],
        vec!["before-reply/smtp:3"],
        vec!["after-reply/smtp:7"],
        vec!["before-reply/http:5"],
        vec!["after-commit/claim:2"],
        vec!["conversation/dot-written:4"],
        vec!["conversation/answered:9"],
        vec!["before-commit/settle:3"],
        vec!["outcome/evidence-durable:1"],
        vec!["inmail/processed:2", "start/parts-released:1", "after-commit/release-parts:1"],
    ];
    in_parallel(points.to_vec(), |points| {
        let points: Vec<String> = points.into_iter().map(str::to_owned).collect();
        assert!(trial(&points, &expected, &sums), "{points:?} was not reached");
    });
    let sums = sums.into_inner().unwrap();
    println!("{} kills, repeats after a trial -> trials: {:?}", sums.kills, sums.repeats);
}

/// Points that no trial reaches, each with the reason.
const OUT_OF_REACH: [(&str, &str); 6] = [
    ("forget", "what ended is forgotten after days; an address is erased by nobody here"),
    ("change-bundle", "no bundle is put in force; the tests of bundles have crashes of their own"),
    ("refuse", "no list has recipients that are denied already"),
    ("expire", "validities are a minute at least"),
    ("audit", "only reactions that a person lifts or prolongs"),
    (
        "quit",
        "a connection is kept for the next message, and the trial ends before its patience does",
    ),
];

/// Every point of the list, the first time that it is passed, the second, the third, the fifth, and so on, until it is
/// not passed so often.
#[test]
#[ignore = "takes minutes: cargo xtask trials --points"]
fn every_named_point() {
    let begun = Instant::now();
    let expected = undisturbed();
    let sums = Mutex::new(Sums::default());
    let counts = Mutex::new(BTreeMap::<String, u32>::new());
    let all: Vec<(&str, &str)> =
        POINTS.iter().flat_map(|(place, whats)| whats.iter().map(|what| (*place, *what))).collect();
    in_parallel(all, |(place, what)| {
        let name = format!("{place}/{what}");
        let mut reached = 0;
        for at in [1, 2, 3, 5, 9, 17, 33, 65] {
            if !trial(&[format!("{name}:{at}")], &expected, &sums) {
                break;
            }
            reached += 1;
        }
        counts.lock().unwrap().insert(name, reached);
    });
    let (sums, counts) = (sums.into_inner().unwrap(), counts.into_inner().unwrap());
    println!(
        "{} points, {} trials, {} kills in {:.0} s: 0 lost; the longest start took {:.1} s",
        counts.len(),
        sums.trials,
        sums.kills,
        begun.elapsed().as_secs_f64(),
        sums.longest_start.as_secs_f64()
    );
    println!("repeats of a trial -> trials: {:?}", sums.repeats);
    println!("messages in doubt at a kill -> kills: {:?}", sums.in_doubt);
    println!("trials that reached their point: {counts:?}");
    for (name, reached) in &counts {
        let (_, what) = name.split_once('/').unwrap();
        let out_of_reach = OUT_OF_REACH.iter().any(|(known, _)| *known == what);
        assert_eq!(*reached == 0, out_of_reach, "{name} was reached {reached} times");
    }
}

/// Kills in the start after a kill, three deep.
#[test]
#[ignore = "takes minutes: cargo xtask trials --points"]
fn kills_while_recovering() {
    let begun = Instant::now();
    let expected = undisturbed();
    let sums = Mutex::new(Sums::default());
    let starts: Vec<String> = POINTS[0].1.iter().map(|what| format!("start/{what}:1")).collect();
    let commits = ["release-parts", "ledger", "prune-ledger"];
    let commits = commits
        .iter()
        .flat_map(|what| [format!("before-commit/{what}:1"), format!("after-commit/{what}:1")]);
    let recovery: Vec<String> = starts.into_iter().chain(commits).collect();
    let first = [
        "after-commit/claim:3",
        "conversation/answered:20",
        "before-commit/settle:4",
        "inmail/kept:2",
    ];
    let mut trials = Vec::new();
    for (number, point) in recovery.iter().enumerate() {
        let other = |step: usize| recovery[(number + step) % recovery.len()].clone();
        let begin = first[number % first.len()].to_owned();
        trials.push(vec![begin.clone(), point.clone(), point.clone(), point.clone()]);
        trials.push(vec![begin, point.clone(), other(5), other(11)]);
    }
    let count = trials.len();
    in_parallel(trials, |points| {
        assert!(trial(&points, &expected, &sums), "{points:?} was not reached");
    });
    let sums = sums.into_inner().unwrap();
    println!(
        "{count} trials with {} kills, three of four while recovering, in {:.0} s: 0 lost",
        sums.kills,
        begun.elapsed().as_secs_f64()
    );
    println!("repeats of a trial -> trials: {:?}", sums.repeats);
}
