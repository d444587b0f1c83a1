//! Transcripts of whole conversations, and a random server.

use core::time::Duration;

use super::*;
use proptest::prelude::*;

mod chunks;
mod hostile;

/// Settings that most transcripts use.
fn settings() -> ClientSettings {
    ClientSettings {
        helo: "we.test".into(),
        tls: TlsMode::Disabled,
        lmtp: false,
        timeouts: Timeouts::default(),
        max_messages: 100,
        pipelining: true,
        chunking: true,
    }
}

/// One line for each event.
fn shown(event: &ClientEvent) -> String {
    match event {
        ClientEvent::StartTls => "start TLS".into(),
        ClientEvent::Ready { tls, .. } => format!("ready tls={tls}"),
        ClientEvent::Done { token, verdict, started_at } => {
            let verdict = match verdict {
                Verdict::Sent { reply } => format!("sent: {reply}"),
                Verdict::Refused { stage, reply } => format!("refused at {stage}: {reply}"),
                Verdict::Unsendable { status, why } => format!("unsendable {status}: {why}"),
                Verdict::PossiblyDelivered => "possibly delivered".into(),
                Verdict::NotTried => "not tried".into(),
            };
            let spent = if started_at.is_some() { "" } else { " (no MAIL)" };
            format!("{token} {verdict}{spent}")
        }
        ClientEvent::Closed(end) => format!("closed: {end}"),
    }
}

/// Plays the inputs of a script and compares the whole conversation with it.
///
/// Inputs: `S:` the server sends a line (`|` stands for CR LF inside one segment), `M:` a message
/// is handed over (token, then options), `T:` so many seconds pass, `X:` the connection is lost
/// with these words, `finish`, `tls ok`, `tls bad`, `hold` (writes are not completed any more).
/// Outputs: `C:` the client sends a line, `E:` an event.
fn check(settings: ClientSettings, script: &str) {
    let mut now = Timestamp::from_secs(1_000);
    let mut session = ClientSession::new(settings, now);
    let mut actual = String::new();
    let mut hold = false;
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line.split_once(": ").unwrap_or((line, "")) {
            ("C" | "E", _) => continue,
            ("S", text) => {
                session.receive(now, format!("{text}\r\n").replace('|', "\r\n").as_bytes());
            }
            ("M", text) => session.enqueue(now, message(text, now)),
            ("T", seconds) => {
                now = now + Duration::from_secs(seconds.parse().unwrap());
                session.tick(now);
            }
            ("X", why) => session.connection_lost(now, why),
            ("X:", _) => session.connection_lost(now, ""),
            ("finish", _) => session.finish(now),
            ("tls ok", _) => session.tls_established(now),
            ("tls bad", _) => session.tls_failed(now, "bad certificate"),
            ("hold", _) => hold = true,
            other => panic!("not a line of a script: {other:?}"),
        }
        actual.push_str(line);
        actual.push('\n');
        let mut sent = Vec::new();
        while let Some(piece) = session.next_to_send() {
            sent.extend_from_slice(&piece);
        }
        if !hold {
            session.written(now, sent.len());
        }
        for line in String::from_utf8_lossy(&sent).split_terminator("\r\n") {
            actual.push_str(&format!("C: {line}\n"));
        }
        while let Some(event) = session.poll_event() {
            actual.push_str(&format!("E: {}\n", shown(&event)));
        }
    }
    let expected: String =
        script.lines().map(str::trim).filter(|l| !l.is_empty()).map(|l| format!("{l}\n")).collect();
    assert_eq!(actual, expected, "\n--- actual:\n{actual}");
}

/// `<token> [test] [utf8] [8bit] [big] [empty] [lone] [dots] [bare] [before=<seconds>] [to=<address>]`.
fn message(text: &str, now: Timestamp) -> Envelope {
    let mut words = text.split(' ');
    let token = words.next().unwrap().parse().unwrap();
    let mut envelope = Envelope {
        token,
        sender: "b@we.test".into(),
        recipient: format!("r{token}@x.test").into(),
        content: Bytes::from(format!("Subject: {token}\r\n")),
        smtputf8: false,
        test_only: false,
        send_before: Timestamp::NEVER,
    };
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("test", _) => envelope.test_only = true,
            ("utf8", _) => envelope.smtputf8 = true,
            ("8bit", _) => envelope.content = Bytes::from_static("é\r\n".as_bytes()),
            ("big", _) => envelope.content = Bytes::from("x\r\n".repeat(400)),
            ("empty", _) => envelope.content = Bytes::new(),
            ("lone", _) => envelope.content = Bytes::from_static(b".\r\n..\r\n.QUIT\r\n.\r\n"),
            ("dots", _) => envelope.content = Bytes::from_static(b".\r\nmid.\r\n..a\r\nend"),
            ("bare", _) => envelope.content = Bytes::from_static(b"a\n.\nMAIL FROM:<evil@x>\r\n"),
            ("before", seconds) => {
                envelope.send_before = now + Duration::from_secs(seconds.parse().unwrap());
            }
            ("to", address) => envelope.recipient = address.replace('|', "\r\n").into(),
            other => panic!("not an option: {other:?}"),
        }
    }
    envelope
}

/// The beginning of a conversation with these extensions.
fn hello(extensions: &str) -> String {
    let mut text = "S: 220 mx\nC: EHLO we.test\n".to_owned();
    let lines: Vec<&str> = std::iter::once("mx").chain(extensions.split_terminator(',')).collect();
    let joined = lines
        .iter()
        .enumerate()
        .map(|(i, l)| format!("250{}{}", if i + 1 < lines.len() { '-' } else { ' ' }, l))
        .collect::<Vec<_>>()
        .join("|");
    text.push_str(&format!("S: {joined}\nE: ready tls=false\n"));
    text
}

fn check_after(extensions: &str, script: &str) {
    check(settings(), &(hello(extensions) + script));
}

#[test]
fn one_command_at_a_time_without_pipelining() {
    check_after(
        "SIZE2,X",
        "M: 1
         C: MAIL FROM:<b@we.test>
         M: 2
         S: 250 ok
         C: RCPT TO:<r1@x.test>
         S: 250 ok
         C: DATA
         S: 354 go
         C: Subject: 1
         C: .
         S: 250 2.0.0 queued
         C: MAIL FROM:<b@we.test>
         E: 1 sent: 250 2.0.0 queued
         S: 250 ok
         C: RCPT TO:<r2@x.test>
         S: 550-5.1.1 no
         S: 550 such user
         E: 2 refused at rcpt-to: 550-5.1.1 no / 550 such user
         M: 3
         C: RSET
         S: 250 ok
         C: MAIL FROM:<b@we.test>
         S: 451 later
         E: 3 refused at mail-from: 451 later
         finish
         C: QUIT
         S: 221 bye
         E: closed: finished",
    );
}

#[test]
fn the_next_message_travels_with_the_final_dot() {
    check_after(
        "PIPELINING,SIZE",
        "M: 1
         C: MAIL FROM:<b@we.test> SIZE=12
         C: RCPT TO:<r1@x.test>
         C: DATA
         M: 2
         S: 250 ok|250 ok|354 go
         C: Subject: 1
         C: .
         C: MAIL FROM:<b@we.test> SIZE=12
         C: RCPT TO:<r2@x.test>
         C: DATA
         M: 3
         S: 250 one
         E: 1 sent: 250 one
         S: 250 ok|250 ok|354 go
         C: Subject: 2
         C: .
         C: MAIL FROM:<b@we.test> SIZE=12
         C: RCPT TO:<r3@x.test>
         C: DATA
         finish
         S: 250 two|250 ok|250 ok|354 go
         C: Subject: 3
         C: .
         E: 2 sent: 250 two
         S: 452 full
         C: QUIT
         E: 3 refused at content: 452 full
         X:
         E: closed: finished",
    );
}

#[test]
fn refusals_in_a_pipeline() {
    // RCPT refused, DATA refused too; RCPT refused, 354 all the same; MAIL refused.
    check_after(
        "PIPELINING",
        "M: 1
         C: MAIL FROM:<b@we.test>
         C: RCPT TO:<r1@x.test>
         C: DATA
         S: 250 ok|550 no|503 no rcpt
         E: 1 refused at rcpt-to: 550 no
         M: 2
         C: RSET
         C: MAIL FROM:<b@we.test>
         C: RCPT TO:<r2@x.test>
         C: DATA
         S: 250 ok|250 ok|550 no|354 go
         C: .
         E: 2 refused at rcpt-to: 550 no
         M: 3
         C: MAIL FROM:<b@we.test>
         C: RCPT TO:<r3@x.test>
         C: DATA
         S: 554 no content|451 slow|503 a|503 b
         E: 3 refused at mail-from: 451 slow
         M: 4 dots
         C: MAIL FROM:<b@we.test>
         C: RCPT TO:<r4@x.test>
         C: DATA
         S: 250 ok|250 ok|354 go
         C: ..
         C: mid.
         C: ...a
         C: end
         C: .
         S: 250 ok
         E: 4 sent: 250 ok",
    );
}

#[test]
fn test_mode_stops_after_the_recipient() {
    check_after(
        "PIPELINING",
        "M: 1 test
         C: MAIL FROM:<b@we.test>
         C: RCPT TO:<r1@x.test>
         C: RSET
         S: 250 ok|250 there|250 ok
         E: 1 sent: 250 there
         M: 2 test
         C: MAIL FROM:<b@we.test>
         C: RCPT TO:<r2@x.test>
         C: RSET
         S: 250 ok|550 no|250 ok
         E: 2 refused at rcpt-to: 550 no
         M: 3
         C: MAIL FROM:<b@we.test>
         C: RCPT TO:<r3@x.test>
         C: DATA",
    );
    check_after(
        "",
        "M: 1 test
         C: MAIL FROM:<b@we.test>
         S: 250 ok
         C: RCPT TO:<r1@x.test>
         S: 250 there
         E: 1 sent: 250 there
         M: 2 test
         C: RSET
         S: 250 ok
         C: MAIL FROM:<b@we.test>",
    );
}

#[test]
fn what_the_server_does_not_offer_is_not_asked_of_it() {
    check_after(
        "SIZE 1000",
        "M: 1 big
         E: 1 unsendable 5.3.4: its 1200 octets exceed the server's limit of 1000 (no MAIL)
         M: 2 8bit
         E: 2 unsendable 5.6.3: it needs 8BITMIME, which the server does not offer (no MAIL)
         M: 3 utf8
         E: 3 unsendable 5.6.7: it needs SMTPUTF8, which the server does not offer (no MAIL)
         M: 4 bare
         E: 4 unsendable 5.6.11: the content has a CR or LF that is not part of a CR LF pair (no MAIL)
         M: 5 to=a@x>|DATA|
         E: 5 unsendable 5.1.3: the recipient address has a space or bracket outside quotes (no MAIL)
         M: 6 to=a|@x
         E: 6 unsendable 5.1.3: the recipient address has a control octet (no MAIL)
         M: 7
         C: MAIL FROM:<b@we.test> SIZE=12",
    );
    check_after(
        "8BITMIME,SMTPUTF8",
        "M: 1 8bit utf8 to=jö@x.test
         C: MAIL FROM:<b@we.test> BODY=8BITMIME SMTPUTF8
         S: 250 ok
         C: RCPT TO:<jö@x.test>",
    );
}

#[test]
fn starttls_by_mode() {
    let with = |tls, script: &str| check(ClientSettings { tls, ..settings() }, script);
    let offered =
        "S: 220 mx\nC: EHLO we.test\nS: 250-mx|250-PIPELINING|250 STARTTLS\nC: STARTTLS\n";
    let plain = "S: 220 mx\nC: EHLO we.test\nS: 250 mx\n";
    for (mode, script) in [
        (
            TlsMode::Opportunistic,
            "S: 220 go\nE: start TLS\ntls ok\nC: EHLO we.test\nS: 250-mx|250 STARTTLS\nE: ready tls=true
             M: 1\nC: MAIL FROM:<b@we.test>",
        ),
        (TlsMode::Opportunistic, "S: 454 not now\nE: ready tls=false\nM: 1\nC: MAIL FROM:<b@we.test>\nC: RCPT TO:<r1@x.test>\nC: DATA"),
        (TlsMode::Required, "S: 454 not now\nE: closed: TLS failed: STARTTLS was refused: 454 not now"),
        (TlsMode::Required, "S: 220 go\nE: start TLS\ntls bad\nE: closed: TLS failed: bad certificate"),
        (
            TlsMode::Opportunistic,
            "S: 220 go|250 injected\nE: closed: protocol broken at starttls: octets in clear after the 220 to STARTTLS",
        ),
        (
            TlsMode::Opportunistic,
            "S: 220 go\nE: start TLS\nS: 250 late\nE: closed: protocol broken at starttls: octets in clear after the 220 to STARTTLS",
        ),
        (TlsMode::Opportunistic, "S: 220 go\nE: start TLS\nT: 300\nE: closed: no answer in time at starttls"),
        (TlsMode::Opportunistic, "S: 421 go away\nE: closed: refused at starttls: 421 go away"),
    ] {
        with(mode, &format!("{offered}{script}"));
    }
    with(TlsMode::Opportunistic, &format!("{plain}E: ready tls=false"));
    with(TlsMode::Required, &format!("{plain}E: closed: TLS failed: STARTTLS is not offered"));
}

#[test]
fn openings() {
    for script in [
        "S: 554 no\nE: closed: refused at greeting: 554 no",
        "S: 521 no mail here\nE: closed: refused at greeting: 521 no mail here",
        "S: 421-too many\nS: 421 connections\nE: closed: refused at greeting: 421-too many / 421 connections",
        "S: 220\nC: EHLO we.test",
        "S: 220-a|220-b|220 c\nC: EHLO we.test\nS: 502 what\nC: HELO we.test\nS: 250 mx\nE: ready tls=false",
        "S: 220 a\nC: EHLO we.test\nS: 550 what\nC: HELO we.test\nS: 550 no\nE: closed: refused at hello: 550 no",
        "S: 220 a\nC: EHLO we.test\nS: 554 bad reputation\nE: closed: refused at hello: 554 bad reputation",
        "S: 199 a\nE: closed: protocol broken at greeting: no such class of replies: 199 a",
        "S: 600 a\nE: closed: protocol broken at greeting: no such class of replies: 600 a",
        "S: 354 a\nE: closed: refused at greeting: 354 a",
        "S: HTTP/1.1 200\nE: closed: protocol broken at greeting: a reply line does not begin with a three-digit code",
        "S: 220 a|250 b\nE: closed: protocol broken at hello: answered before the hello was sent whole: 250 b",
        "X:\nE: closed: connection closed by the server at greeting",
        "X: reset\nE: closed: connection lost at greeting: reset",
        "T: 299\nT: 1\nE: closed: no answer in time at greeting",
        "M: 1\nM: 2 before=5\nS: 554 no\nE: 1 not tried (no MAIL)\nE: 2 not tried (no MAIL)\nE: closed: refused at greeting: 554 no\nM: 3\nE: 3 not tried (no MAIL)",
    ] {
        check(settings(), script);
    }
}

#[test]
fn four_two_one_anywhere() {
    let group = "M: 1\nC: MAIL FROM:<b@we.test>\nC: RCPT TO:<r1@x.test>\nC: DATA\n";
    for (script, expected) in [
        ("S: 421 x", "E: 1 refused at mail-from: 421 x\nE: closed: refused at mail-from: 421 x"),
        ("S: 250 ok|421 x", "E: 1 refused at rcpt-to: 421 x\nE: closed: refused at rcpt-to: 421 x"),
        (
            "S: 250 ok|250 ok|421 x",
            "E: 1 refused at data: 421 x\nE: closed: refused at data: 421 x",
        ),
        (
            "S: 250 ok|550 no|421 x",
            "E: 1 refused at rcpt-to: 550 no\nE: closed: refused at data: 421 x",
        ),
        (
            "M: 2\nS: 250 ok|250 ok|354 go\nC: Subject: 1\nC: .\nC: MAIL FROM:<b@we.test>\nC: RCPT TO:<r2@x.test>\nC: DATA\nM: 3\nS: 421 x",
            "E: 1 refused at content: 421 x\nE: 2 not tried\nE: 3 not tried (no MAIL)\nE: closed: refused at content: 421 x",
        ),
        (
            "S: 250 ok|250 ok|354 go\nC: Subject: 1\nC: .\nS: 250 ok\nE: 1 sent: 250 ok\nS: 421 idle",
            "E: closed: refused at idle: 421 idle",
        ),
        (
            "S: 250 ok|550 no|503 no\nE: 1 refused at rcpt-to: 550 no\nM: 2\nC: RSET\nC: MAIL FROM:<b@we.test>\nC: RCPT TO:<r2@x.test>\nC: DATA\nS: 421 x",
            "E: 2 not tried\nE: closed: refused at reset: 421 x",
        ),
        (
            "finish\nS: 250 ok|421 x",
            "E: 1 refused at rcpt-to: 421 x\nE: closed: refused at rcpt-to: 421 x",
        ),
    ] {
        check_after("PIPELINING", &format!("{group}{script}\n{expected}"));
    }
}

#[test]
fn connections_lost_and_times_over() {
    let group = "M: 1\nC: MAIL FROM:<b@we.test>\nC: RCPT TO:<r1@x.test>\nC: DATA\n";
    let content = "S: 250 ok|250 ok|354 go\nC: Subject: 1\nC: .\n";
    for script in [
        "X: reset\nE: 1 not tried\nE: closed: connection lost at mail-from: reset".to_owned(),
        "S: 250 ok|550 no\nX:\nE: 1 refused at rcpt-to: 550 no\nE: closed: connection closed by the server at data".to_owned(),
        "T: 300\nE: 1 not tried\nE: closed: no answer in time at mail-from".to_owned(),
        format!("{content}X:\nE: 1 possibly delivered\nE: closed: connection closed by the server at content"),
        format!("{content}T: 599\nT: 1\nE: 1 possibly delivered\nE: closed: no answer in time at content"),
        format!("{content}S: 354 again\nE: 1 possibly delivered\nE: closed: protocol broken at content: not an answer to this command: 354 again"),
        format!("hold\n{content}X:\nE: 1 not tried\nE: closed: connection closed by the server at content"),
        format!("hold\n{content}T: 180\nE: 1 not tried\nE: closed: no answer in time at content"),
        format!("hold\n{content}S: 552 too large\nE: 1 refused at content: 552 too large\nE: closed: protocol broken at content: answered before the content was sent whole: 552 too large"),
        format!("hold\n{content}S: 250 early\nE: 1 not tried\nE: closed: protocol broken at content: answered before the content was sent whole: 250 early"),
        "S: 250 ok|250 ok|250 ok\nE: 1 not tried\nE: closed: protocol broken at data: not an answer to this command: 250 ok".to_owned(),
        format!("{content}S: 250 ok|250 extra\nE: 1 sent: 250 ok\nE: closed: protocol broken at idle: unasked: 250 extra"),
        format!("{content}S: 250 ok\nE: 1 sent: 250 ok\nT: 59\nT: 1\nC: QUIT\nT: 5\nE: closed: finished"),
    ] {
        check_after("PIPELINING", &format!("{group}{script}"));
    }
}

#[test]
fn tokens_expire_and_the_connection_has_its_limit() {
    check_after(
        "",
        "M: 1
         C: MAIL FROM:<b@we.test>
         M: 2 before=3
         T: 2
         T: 1
         E: 2 not tried (no MAIL)
         S: 250 ok
         C: RCPT TO:<r1@x.test>",
    );
    check(
        ClientSettings { max_messages: 1, ..settings() },
        &(hello("PIPELINING")
            + "M: 1
         C: MAIL FROM:<b@we.test>
         C: RCPT TO:<r1@x.test>
         C: DATA
         M: 2
         E: 2 not tried (no MAIL)
         S: 250 ok|250 ok|354 go
         C: Subject: 1
         C: .
         S: 250 ok
         C: QUIT
         E: 1 sent: 250 ok
         S: 221 bye
         E: closed: finished"),
    );
}

#[test]
fn the_next_command_does_not_wait_behind_a_large_content() {
    let now = Timestamp::from_secs(1_000);
    let mut session = ClientSession::new(settings(), now);
    let written = |session: &mut ClientSession, octets: usize| session.written(now, octets);
    let all = |session: &mut ClientSession| {
        let mut sent = Vec::new();
        while let Some(piece) = session.next_to_send() {
            session.written(now, piece.len());
            sent.extend_from_slice(&piece);
        }
        String::from_utf8(sent).unwrap()
    };
    session.receive(now, b"220 mx\r\n");
    all(&mut session);
    session.receive(now, b"250-mx\r\n250 PIPELINING\r\n");
    let large =
        "x".repeat(70).repeat(3_000).as_bytes().chunks(70).fold(Vec::new(), |mut all, line| {
            all.extend_from_slice(line);
            all.extend_from_slice(b"\r\n");
            all
        });
    let message = |token: u64, content: Vec<u8>| Envelope {
        token,
        sender: "b@we.test".into(),
        recipient: "r@x.test".into(),
        content: content.into(),
        smtputf8: false,
        test_only: false,
        send_before: now + Duration::from_secs(60),
    };
    session.enqueue(now, message(1, large));
    session.enqueue(now, message(2, b"Subject: 2\r\n\r\n".to_vec()));
    all(&mut session);
    session.receive(now, b"250 ok\r\n250 ok\r\n354 go\r\n");
    let mut pieces = Vec::new();
    while let Some(piece) = session.next_to_send() {
        pieces.push(piece);
    }
    let queued: usize = pieces.iter().map(|piece| piece.len()).sum();
    assert!(!pieces.concat().windows(4).any(|four| four == b"MAIL"), "nothing behind the content");
    written(&mut session, queued - (32 << 10));
    assert!(all(&mut session).starts_with("MAIL FROM"), "now it leaves soon");
}

#[test]
fn pipelining_can_be_switched_off() {
    check(
        ClientSettings { pipelining: false, ..settings() },
        &(hello("PIPELINING")
            + "M: 1
         C: MAIL FROM:<b@we.test>
         S: 250 ok
         C: RCPT TO:<r1@x.test>
         S: 250 ok
         C: DATA"),
    );
}

#[test]
fn lmtp() {
    check(
        ClientSettings { lmtp: true, ..settings() },
        "S: 220 l
         C: LHLO we.test
         S: 250-l|250 PIPELINING
         E: ready tls=false
         M: 1
         C: MAIL FROM:<b@we.test>
         C: RCPT TO:<r1@x.test>
         C: DATA
         S: 250 ok|250 ok|354 go
         C: Subject: 1
         C: .
         S: 250 r1 ok
         E: 1 sent: 250 r1 ok",
    );
    check(
        ClientSettings { lmtp: true, ..settings() },
        "S: 220 l\nC: LHLO we.test\nS: 500 no\nE: closed: refused at hello: 500 no",
    );
}

/// A server that answers as its dice say, and records the contents that it took.
struct RandomServer {
    line: Vec<u8>,
    in_content: Option<Vec<u8>>,
    /// Octets of a chunk that are still to come.
    in_chunk: usize,
    taken: Vec<Vec<u8>>,
    extensions: &'static str,
}

impl RandomServer {
    /// Reads what the client wrote and answers each command by `dice`.
    fn read(&mut self, octets: &[u8], mut dice: impl FnMut() -> u8) -> Vec<u8> {
        let mut answers = Vec::new();
        for &octet in octets {
            if octet == b'\n' {
                assert_eq!(self.line.last(), Some(&b'\r'), "bare LF");
            } else {
                assert_ne!(self.line.last(), Some(&b'\r'), "bare CR");
            }
            self.line.push(octet);
            if self.in_chunk > 0 {
                self.in_chunk -= 1;
                if self.in_chunk > 0 {
                    continue;
                }
                assert_eq!(octet, b'\n', "no line end at the end");
                self.taken.push(core::mem::take(&mut self.line));
            } else if octet != b'\n' {
                continue;
            }
            let line = core::mem::take(&mut self.line);
            let roll = dice();
            if let Some(octets) = line.strip_prefix(b"BDAT ") {
                let octets = octets.strip_suffix(b" LAST\r\n").expect("one chunk");
                self.in_chunk = core::str::from_utf8(octets).unwrap().parse().unwrap();
                continue;
            }
            if let Some(content) = &mut self.in_content {
                if line != b".\r\n" {
                    content.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
                    continue;
                }
                self.taken.extend(self.in_content.take());
            }
            let is = |verb: &[u8]| line.starts_with(verb);
            let answer = match roll {
                0..=5 => "550 no\r\n".to_owned(),
                6..=9 => "451-later\r\n451 really\r\n".to_owned(),
                10 => "421 closing\r\n".to_owned(),
                11 => "999 odd\r\n".to_owned(),
                12 => "nonsense\r\n".to_owned(),
                13 => "250 one\r\n250 two\r\n".to_owned(),
                _ if is(b"EHLO") => format!("250-mx\r\n{}", self.extensions),
                _ if is(b"DATA") => {
                    self.in_content = Some(Vec::new());
                    "354 go\n".to_owned()
                }
                _ => "250 2.0.0 ok\r\n".to_owned(),
            };
            answers.extend_from_slice(answer.as_bytes());
        }
        answers
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever a server does: every message gets one verdict, the end comes once and last, and
    /// what is sent is well formed.
    #[test]
    fn every_message_gets_one_verdict(
        seed in prop::collection::vec((0u8..12, any::<u8>()), 1..200),
        extensions in prop::sample::select(vec![
            "250 x\r\n", "250-PIPELINING\r\n250 SIZE 300\r\n", "250-STARTTLS\r\n250 PIPELINING\n",
            "250-PIPELINING\r\n250 CHUNKING\r\n", "250-STARTTLS\r\n250 CHUNKING\r\n",
        ]),
        tls in prop::sample::select(vec![TlsMode::Disabled, TlsMode::Opportunistic, TlsMode::Required]),
    ) {
        let mut now = Timestamp::from_secs(1);
        let mut session =
            ClientSession::new(ClientSettings { tls, max_messages: 9, ..settings() }, now);
        let mut server = RandomServer {
            line: vec![], in_content: None, in_chunk: 0, taken: vec![], extensions,
        };
        let mut to_client: Vec<u8> = b"220 mx\r\n".to_vec();
        let mut unwritten: Vec<u8> = Vec::new();
        let mut enqueued = 0u64;
        let mut done = Vec::new();
        let mut closed = 0;
        for &(action, roll) in seed.iter().cycle().take(seed.len() * 4) {
            match action {
                0..=3 => {
                    let taken: Vec<u8> =
                        to_client.drain(..to_client.len().min(usize::from(roll))).collect();
                    session.receive(now, &taken);
                }
                4..=6 => {
                    while let Some(piece) = session.next_to_send() {
                        prop_assert_eq!(closed, 0, "writes after its end");
                        unwritten.extend_from_slice(&piece);
                    }
                    let count = unwritten.len().min(usize::from(roll) * 4);
                    let octets: Vec<u8> = unwritten.drain(..count).collect();
                    session.written(now, count);
                    let mut dice = u32::from(roll);
                    to_client.extend(server.read(&octets, || {
                        dice = dice.wrapping_mul(1_103_515_245).wrapping_add(12_345);
                        (dice >> 16) as u8
                    }));
                }
                7 | 8 if session.wants_message() || (roll > 250 && closed == 0) => {
                    enqueued += 1;
                    let options = ["", " dots", " test", " before=2", " 8bit", " big"];
                    let option = options[usize::from(roll) % options.len()];
                    session.enqueue(now, message(&format!("{enqueued}{option}"), now));
                }
                9 => {
                    now = now + Duration::from_millis(u64::from(roll) * 10);
                    session.tick(now);
                }
                10 if roll > 252 => session.finish(now),
                10 if roll < 2 => session.connection_lost(now, "reset"),
                _ => {}
            }
            while let Some(event) = session.poll_event() {
                prop_assert_eq!(closed, 0, "an event after its end");
                match event {
                    ClientEvent::StartTls if roll % 4 > 0 => session.tls_established(now),
                    ClientEvent::StartTls => session.tls_failed(now, "no"),
                    ClientEvent::Done { token, .. } => done.push(token),
                    ClientEvent::Closed(_) => closed += 1,
                    ClientEvent::Ready { .. } => {}
                }
            }
        }
        session.abort(now, "the end");
        while let Some(event) = session.poll_event() {
            match event {
                ClientEvent::Done { token, .. } => done.push(token),
                ClientEvent::Closed(_) => closed += 1,
                _ => {}
            }
        }
        prop_assert!(session.next_to_send().is_none());
        prop_assert_eq!(closed, 1);
        done.sort_unstable();
        prop_assert_eq!(done, (1..=enqueued).collect::<Vec<_>>());
        for content in &server.taken {
            let known = content.is_empty()
                || content.starts_with(b"Subject: ")
                || *content == b".\r\nmid.\r\n..a\r\nend\r\n"
                || *content == b"x\r\n".repeat(400);
            prop_assert!(known, "{}", content.escape_ascii());
        }
    }
}
