use std::net::Ipv4Addr;

use super::*;
use crate::chance::Sequence;
use crate::report::DnsReport;
use crate::{LabConfig, internet};

/// A conversation at a host of the benchmark world, without a socket.
struct Stage {
    world: Arc<World>,
    session: Session,
    input: Input,
}

fn stage() -> Stage {
    let config = LabConfig { record_keys: true, inspect_data: true, ..internet::hundred_domains() };
    let world =
        Arc::new(World { recorder: Recorder::new(&config).unwrap(), inspect: true, returns: None });
    let site = Arc::new(Site::new(0, &config.providers[0], &config));
    let source = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let record = world.recorder.source(0, source);
    let session = Session::new(Arc::clone(&world), site, record, Arc::from("mx.x"), source, 1);
    Stage { world, session, input: Input::new() }
}

impl Stage {
    /// Offers the octets in pieces of at most `largest` and returns what was said.
    fn offer(&mut self, octets: &[u8], mut largest: impl FnMut() -> usize) -> String {
        let mut out = Vec::new();
        let mut rest = octets;
        'all: while !rest.is_empty() {
            let room = self.input.room();
            let count = rest.len().min(room.len()).min(largest().max(1));
            room[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            self.input.filled(count);
            self.session.arrive(1_000);
            loop {
                match self.session.step(&mut self.input, &mut out) {
                    Step::Done => {}
                    Step::NeedInput => break,
                    _ => break 'all,
                }
            }
        }
        self.session.write_down();
        String::from_utf8(out).unwrap()
    }
}

fn codes(said: &str) -> Vec<&str> {
    said.lines()
        .filter(|line| line.as_bytes().get(3) == Some(&b' '))
        .map(|line| &line[..3])
        .collect()
}

const ENVELOPE: &str = "MAIL FROM:<a@t.example>\r\nRCPT TO:<b@d001.bench.example>\r\nDATA\r\n";

#[test]
fn replies_do_not_depend_on_how_octets_are_cut() {
    let long = "z".repeat(70_000);
    let script = format!(
        "EHLO t\r\n{ENVELOPE}Message-ID: <1>\r\n\r\nbody\r\n..x\r\n.\r\n{ENVELOPE}.\r\n\
         {ENVELOPE}X-Mailweir-Id: 9\r\nSubject: {long}\r\n.\r\n{ENVELOPE}\r\n\r\n.\r\n\
         NOOP\r\nnonsense\r\nQUIT\r\n"
    );
    let mut whole = stage();
    let wanted = whole.offer(script.as_bytes(), || usize::MAX);
    assert_eq!(
        codes(&wanted),
        [
            "250", "250", "250", "354", "250", "250", "250", "354", "250", "250", "250", "354",
            "250", "250", "250", "354", "250", "250", "500", "221"
        ]
    );
    let mut chance = Sequence::new(3);
    for round in 0..60 {
        let mut cut = stage();
        let most = [1, 2, 3, 7, 100, 4_000][round % 6];
        let said = cut.offer(script.as_bytes(), || 1 + chance.below(most));
        assert_eq!(said, wanted, "round {round}");
        let (a, b) = (
            cut.world.recorder.report(DnsReport::default()),
            whole.world.recorder.report(DnsReport::default()),
        );
        assert_eq!((a.totals, a.duplicates), (b.totals, b.duplicates), "round {round}");
        // <1>, 9, and twice the same recipient without any id.
        assert_eq!((a.duplicates.unique_accepted, a.duplicates.duplicated_keys), (3, 1));
    }
}

/// Octets behind BDAT.
fn chunk(content: &str, last: &str) -> String {
    format!("BDAT {}{last}\r\n{content}", content.len())
}

#[test]
fn chunks_are_counted_out_however_they_are_cut() {
    let envelope = ENVELOPE.strip_suffix("DATA\r\n").unwrap();
    let long = format!("Message-ID: <2>\r\n\r\n{}", ".\r\nQUIT\r\n".repeat(9_000));
    let script = [
        "EHLO t\r\n".to_owned(),
        envelope.to_owned() + &chunk("Message-ID: <1>\r\n\r\n\r\n.\r\nRSET\r\n", " LAST"),
        envelope.to_owned()
            + &chunk("Message-", "")
            + &chunk("ID: <3>\r\n", "")
            + &chunk("", " last"),
        envelope.to_owned() + &chunk(&long, " LAST"),
        // Nobody to take it: it is swallowed, refused, and RSET is due.
        envelope.replace("d001", "elsewhere") + &chunk("QUIT\r\n", " LAST") + "RSET\r\n",
        chunk("QUIT\r\n", "") + &chunk("QUIT\r\n", " LAST") + "RSET\r\n",
        // DATA within chunks, then another recipient.
        envelope.to_owned()
            + &chunk("x", "")
            + "DATA\r\nRCPT TO:<c@d001.bench.example>\r\nRSET\r\n",
        "QUIT\r\n".to_owned(),
    ]
    .concat();
    let mut chance = Sequence::new(5);
    for round in 0..60 {
        let mut stage = stage();
        let most = [usize::MAX, 1, 2, 3, 7, 4_000][round % 6];
        let said = stage.offer(script.as_bytes(), || 1 + chance.below(most));
        let wanted = "250 250 250 250 250 250 250 250 250 250 250 250 250 550 554 250 503 503 250 \
                      250 250 250 503 503 250 221";
        assert_eq!(codes(&said).join(" "), wanted, "round {round}");
        let report = stage.world.recorder.report(DnsReport::default());
        assert_eq!(report.duplicates.unique_accepted, 3, "round {round}");
    }
}

#[test]
fn what_a_client_must_not_do_with_chunks_is_recorded() {
    let envelope = ENVELOPE.strip_suffix("DATA\r\n").unwrap();
    let elsewhere = envelope.replace("d001", "elsewhere");
    let table: [(String, Mood, &str, &str); 5] = [
        (
            elsewhere.clone() + &chunk("x", " LAST") + "MAIL FROM:<>\r\n",
            Mood::default(),
            "no_reset_behind_a_failed_bdat",
            "250 550 554 503",
        ),
        (
            envelope.to_owned() + &chunk("x\r\n", " LAST"),
            Mood { no_chunking: true, ..Mood::default() },
            "bdat_without_offer",
            "250 250 250",
        ),
        (
            envelope.to_owned() + "BDAT -1 LAST\r\nNOOP\r\n",
            Mood::default(),
            "bdat_without_a_figure",
            "250 250 501",
        ),
        (
            envelope.to_owned() + "BDAT 18446744073709551616\r\nNOOP\r\n",
            Mood::default(),
            "bdat_without_a_figure",
            "250 250 501",
        ),
        (
            envelope.to_owned() + &chunk("a\n.\nb\r\n", " LAST"),
            Mood::default(),
            "bare_lf_in_data",
            "250 250 250",
        ),
    ];
    for (script, mood, fault, wanted) in table {
        let mut stage = stage();
        stage.session.mood = Arc::new(mood);
        let said = stage.offer(format!("EHLO t\r\n{script}").as_bytes(), || usize::MAX);
        assert_eq!(codes(&said)[1..].join(" "), wanted, "{script}");
        let report = stage.world.recorder.report(DnsReport::default());
        let faults = serde_json::to_string(&report).unwrap();
        assert!(faults.contains(fault), "{faults}");
    }
    // Content is taken for commands where BDAT is not known.
    let mut stage = stage();
    stage.session.mood = Arc::new(Mood { unknown_bdat: true, ..Mood::default() });
    let script = format!("EHLO t\r\n{envelope}{}", chunk("Subject: x\r\n", " LAST"));
    assert_eq!(codes(&stage.offer(script.as_bytes(), || 1))[3..], ["502", "500"]);
}

#[test]
fn only_crlf_dot_crlf_ends_a_message() {
    for smuggled in ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r.\r\n", "\r\n.\r", "\r\n\0.\r\n"] {
        let mut stage = stage();
        let script = format!("EHLO t\r\n{ENVELOPE}x{smuggled}MAIL FROM:<evil@t>\r\n.\r\nNOOP\r\n");
        let said = stage.offer(script.as_bytes(), || usize::MAX);
        assert_eq!(codes(&said), ["250", "250", "250", "354", "250", "250"], "{smuggled:?}");
    }
}

#[test]
fn commands_for_addresses_that_must_not_be_written_to_are_counted() {
    let mut stage = stage();
    let other = ENVELOPE.replace("<b@", "<c@");
    let script = format!("EHLO t\r\n{ENVELOPE}x\r\n.\r\n{other}x\r\n.\r\n");
    stage.offer(script.as_bytes(), || usize::MAX);
    stage.world.recorder.forbid(["B@d001.bench.example", "d@d001.bench.example"].into_iter());
    assert_eq!(stage.world.recorder.report(DnsReport::default()).forbidden_recipients, 0);
    stage.offer(script.as_bytes(), || usize::MAX);
    assert_eq!(stage.world.recorder.report(DnsReport::default()).forbidden_recipients, 1);
}

#[test]
fn keys_are_found_where_they_stand() {
    let table: [(&str, Option<&str>); 7] = [
        ("Message-ID: <1>\r\nX-Mailweir-Id: 7\r\n\r\nX-Mailweir-Id: 8\r\n", Some("7")),
        ("message-id:\r\n <2@x>\r\nTo: y\r\n\r\n", Some("<2@x>")),
        ("Message-ID: <1>\r\nMessage-ID: <2>\r\n\r\n", Some("<1>")),
        ("Subject: x\r\n\r\nMessage-ID: <1>\r\n", None),
        ("Message-ID:\r\n\r\n", None),
        ("X-Mailweir-Identity: 7\r\n\r\n", None),
        ("", None),
    ];
    for (message, wanted) in table {
        let found = find_key(message.as_bytes());
        assert_eq!(found.as_deref(), wanted.map(str::as_bytes), "{message:?}");
    }
}

#[test]
fn rubbish_never_brings_it_down() {
    let words = [
        "MAIL FROM:<",
        "RCPT TO:<",
        ">",
        "DATA",
        "BDAT ",
        " LAST",
        "\r\n",
        "\n",
        "\r",
        ".",
        "EHLO x",
        "a@d000.bench.example",
        " SIZE=",
        "99",
        "STARTTLS",
        "RSET",
        "\u{0}",
        "é",
        " BODY=8BITMIME",
        "X-Mailweir-Id:",
        " ",
        ":",
    ];
    let mut chance = Sequence::new(17);
    for _ in 0..300 {
        let mut stage = stage();
        let text: String =
            (0..chance.below(200)).map(|_| words[chance.below(words.len())]).collect();
        let _ = stage.offer(text.as_bytes(), || 1 + chance.next() as usize % 50);
    }
}
