//! Content by BDAT: transcripts, every combination of answers, and a server that keeps RFC 3030 to the letter.

use super::*;

/// What a server offers that takes all in one group.
const OFFER: &str = "PIPELINING,CHUNKING";

/// The first message of a conversation, up to its content.
const FIRST: &str = "M: 1
    C: MAIL FROM:<b@we.test>
    C: RCPT TO:<r1@x.test>
    C: BDAT 12 LAST
    C: Subject: 1
    ";

#[test]
fn the_first_message_is_one_group() {
    check_after(
        "PIPELINING,CHUNKING,SIZE",
        "M: 1
         C: MAIL FROM:<b@we.test> SIZE=12
         C: RCPT TO:<r1@x.test>
         C: BDAT 12 LAST
         C: Subject: 1
         M: 2
         S: 250 ok|250 ok
         S: 250 one
         C: MAIL FROM:<b@we.test> SIZE=12
         C: RCPT TO:<r2@x.test>
         C: DATA
         E: 1 sent: 250 one
         M: 3 dots
         S: 250 ok|250 ok|354 go
         C: Subject: 2
         C: .
         C: MAIL FROM:<b@we.test> SIZE=19
         C: RCPT TO:<r3@x.test>
         C: DATA
         finish
         S: 250 two|250 ok|250 ok|354 go
         C: ..
         C: mid.
         C: ...a
         C: end
         C: .
         E: 2 sent: 250 two",
    );
    for (message, octets, content) in [
        ("1 dots", 19, "C: .\nC: mid.\nC: ..a\nC: end\n"),
        ("1 lone", 17, "C: .\nC: ..\nC: .QUIT\nC: .\n"),
        ("1 empty", 0, ""),
    ] {
        let group = "C: MAIL FROM:<b@we.test>\nC: RCPT TO:<r1@x.test>\n";
        check_after(
            OFFER,
            &format!(
                "M: {message}\n{group}C: BDAT {octets} LAST\n{content}\
                 S: 250 ok|250 ok|250 taken\nE: 1 sent: 250 taken"
            ),
        );
    }
    check_after(
        OFFER,
        "M: 1 bare
         E: 1 unsendable 5.6.11: the content has a CR or LF that is not part of a CR LF pair (no MAIL)
         M: 2 test
         C: MAIL FROM:<b@we.test>
         C: RCPT TO:<r2@x.test>
         C: RSET",
    );
}

#[test]
fn a_used_connection_that_is_closed_leaves_nothing_in_doubt() {
    let rest = "S: 250 ok|250 ok|250 one
         E: 1 sent: 250 one
         M: 2
         C: MAIL FROM:<b@we.test>
         C: RCPT TO:<r2@x.test>
         C: DATA
         X:
         E: 2 not tried
         E: closed: connection closed by the server at mail-from";
    check_after(OFFER, &format!("{FIRST}{rest}"));
}

#[test]
fn behind_a_refusal_comes_rset_and_no_content_unasked() {
    check_after(
        OFFER,
        &(FIRST.to_owned()
            + "M: 2
         S: 250 ok|550 no
         S: 554 no recipient
         C: RSET
         C: MAIL FROM:<b@we.test>
         C: RCPT TO:<r2@x.test>
         C: DATA
         E: 1 refused at rcpt-to: 550 no
         S: 250 ok|250 ok|250 ok|354 go
         C: Subject: 2
         C: .
         S: 250 two
         E: 2 sent: 250 two"),
    );
    check_after(
        OFFER,
        &(FIRST.to_owned()
            + "M: 2
         finish
         E: 2 not tried (no MAIL)
         S: 250 ok|250 ok|452 full
         C: QUIT
         E: 1 refused at content: 452 full"),
    );
    // A server that reads a content as commands gives itself away here.
    check_after(
        OFFER,
        "M: 1
         C: MAIL FROM:<b@we.test>
         C: RCPT TO:<r1@x.test>
         C: BDAT 12 LAST
         C: Subject: 1
         M: 2
         S: 250 ok|550 no|503 no
         C: RSET
         C: MAIL FROM:<b@we.test>
         C: RCPT TO:<r2@x.test>
         C: DATA
         E: 1 refused at rcpt-to: 550 no
         S: 500 what is Subject:?
         E: 2 not tried
         E: closed: refused at reset: 500 what is Subject:?",
    );
}

#[test]
fn without_pipelining_it_follows_the_recipient() {
    check_after(
        "CHUNKING",
        "M: 1
         C: MAIL FROM:<b@we.test>
         M: 2
         S: 250 ok
         C: RCPT TO:<r1@x.test>
         S: 250 ok
         C: BDAT 12 LAST
         C: Subject: 1
         S: 250 one
         C: MAIL FROM:<b@we.test>
         E: 1 sent: 250 one
         S: 250 ok
         C: RCPT TO:<r2@x.test>
         M: 3
         S: 550 no
         C: RSET
         E: 2 refused at rcpt-to: 550 no
         S: 250 ok
         C: MAIL FROM:<b@we.test>
         S: 250 ok
         C: RCPT TO:<r3@x.test>
         S: 250 ok
         C: BDAT 12 LAST
         C: Subject: 3
         M: 4
         S: 552 full
         C: RSET
         E: 3 refused at content: 552 full
         S: 250 ok
         C: MAIL FROM:<b@we.test>",
    );
}

#[test]
fn where_it_is_not_used() {
    let group = "M: 1\nC: MAIL FROM:<b@we.test>\nC: RCPT TO:<r1@x.test>\nC: DATA\n";
    check(ClientSettings { chunking: false, ..settings() }, &(hello(OFFER) + group));
    check(
        ClientSettings { lmtp: true, ..settings() },
        &(hello(OFFER).replace("EHLO", "LHLO") + group),
    );
    check_after("PIPELINING", group);
}

/// What leaves at first, and behind the answers to MAIL and RCPT, for this content.
fn two_steps(offer: &str, content: Bytes) -> [String; 2] {
    let now = Timestamp::from_secs(1_000);
    let mut session = ClientSession::new(settings(), now);
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
    session.receive(now, offer.as_bytes());
    session.enqueue(now, Envelope { content, ..message("1", now) });
    let mut first = all(&mut session);
    session.receive(now, b"250 ok\r\n");
    first += &all(&mut session);
    session.receive(now, b"250 ok\r\n");
    [first, all(&mut session)]
}

#[test]
fn a_large_content_waits_for_the_recipient() {
    let both = "250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n";
    let commands = "MAIL FROM:<b@we.test>\r\nRCPT TO:<r1@x.test>\r\n";
    let bound = usize::try_from(GROUP_OCTETS).unwrap();
    let line = |octets: usize| Bytes::from("x".repeat(octets - 2) + "\r\n");
    let [first, then] = two_steps(both, line(bound));
    assert!(first.starts_with(&format!("{commands}BDAT 65536 LAST\r\nxx")), "{}", &first[..90]);
    assert_eq!((first.ends_with("x\r\n"), then.as_str()), (true, ""));
    let [first, then] = two_steps(both, line(bound + 1));
    assert_eq!((first, then), (format!("{commands}DATA\r\n"), String::new()));
    let [first, then] = two_steps("250-mx\r\n250 CHUNKING\r\n", line(bound + 1));
    assert_eq!(first, commands);
    assert!(then.starts_with("BDAT 65537 LAST\r\nxx"), "{}", &then[..40]);
    assert_eq!(then.len(), bound + 1 + "BDAT 65537 LAST\r\n".len());
}

/// A server that offers CHUNKING and does not know it would do what stands there, before it is heard.
#[test]
fn what_could_be_taken_for_commands_goes_by_data() {
    let forged = "RSET\r\nMAIL FROM:<x@y.test>\r\nRCPT TO:<z@x.test>\r\n data\r\nforged\r\n.\r\n";
    let commands = "MAIL FROM:<b@we.test>\r\nRCPT TO:<r1@x.test>\r\n";
    let both = "250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n";
    assert_eq!(two_steps(both, forged.into()), [format!("{commands}DATA\r\n"), String::new()]);
    let alone = "250-mx\r\n250 CHUNKING\r\n";
    assert_eq!(two_steps(alone, forged.into()), [commands, "DATA\r\n"]);
}

#[test]
fn the_content_is_shared_with_the_original() {
    let now = Timestamp::from_secs(1_000);
    let mut session = ClientSession::new(settings(), now);
    session.receive(now, b"220 mx\r\n");
    let greeting = session.next_to_send().unwrap();
    session.written(now, greeting.len());
    session.receive(now, b"250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n");
    let envelope = message("1 dots", now);
    let original = envelope.content.clone();
    session.enqueue(now, envelope);
    let pieces: Vec<Bytes> = std::iter::from_fn(|| session.next_to_send()).collect();
    let [commands, content, end] = pieces.as_slice() else { panic!("{pieces:?}") };
    assert_eq!(&commands[..], b"MAIL FROM:<b@we.test>\r\nRCPT TO:<r1@x.test>\r\nBDAT 19 LAST\r\n");
    assert_eq!((content.as_ptr(), content.len()), (original.as_ptr(), original.len()));
    assert_eq!(&end[..], b"\r\n");
}

#[test]
fn endings() {
    let group =
        "M: 1\nC: MAIL FROM:<b@we.test>\nC: RCPT TO:<r1@x.test>\nC: BDAT 12 LAST\nC: Subject: 1\n";
    for script in [
        // A server that does not know what it has offered.
        "M: 2\nS: 250 ok|250 ok|502 5.5.1 what\nE: 1 not tried\nE: 2 not tried (no MAIL)\nE: closed: CHUNKING was offered and BDAT is not known: 502 5.5.1 what",
        "S: 250 ok|250 ok|500 what|500 what is Subject?|250 ok\nE: 1 not tried\nE: closed: CHUNKING was offered and BDAT is not known: 500 what",
        "S: 250 ok|550 no|500 what\nE: 1 refused at rcpt-to: 550 no\nE: closed: CHUNKING was offered and BDAT is not known: 500 what",
        // The end of the connection.
        "X: reset\nE: 1 possibly delivered\nE: closed: connection lost at mail-from: reset",
        "S: 250 ok|250 ok\nX: reset\nE: 1 possibly delivered\nE: closed: connection lost at content: reset",
        "S: 250 ok|550 no\nX:\nE: 1 refused at rcpt-to: 550 no\nE: closed: connection closed by the server at content",
        "S: 451 no\nX:\nE: 1 refused at mail-from: 451 no\nE: closed: connection closed by the server at rcpt-to",
        "S: 421 x\nE: 1 refused at mail-from: 421 x\nE: closed: refused at mail-from: 421 x",
        "S: 250 ok|421 x\nE: 1 refused at rcpt-to: 421 x\nE: closed: refused at rcpt-to: 421 x",
        "M: 2\nS: 250 ok|250 ok|421 x\nE: 1 refused at content: 421 x\nE: 2 not tried (no MAIL)\nE: closed: refused at content: 421 x",
        "S: 250 ok|550 no|421 x\nE: 1 refused at rcpt-to: 550 no\nE: closed: refused at content: 421 x",
        // Times.
        "T: 299\nT: 1\nE: 1 possibly delivered\nE: closed: no answer in time at mail-from",
        "S: 250 ok|250 ok\nT: 599\nT: 1\nE: 1 possibly delivered\nE: closed: no answer in time at content",
        // Answers that fit nothing.
        "S: 250 ok|250 ok|354 go\nE: 1 possibly delivered\nE: closed: protocol broken at content: not an answer to this command: 354 go",
        "S: 250 ok|550 no|354 go\nE: 1 refused at rcpt-to: 550 no\nE: closed: protocol broken at content: not an answer to this command: 354 go",
        "S: 250 ok|250 ok|250 ok|250 extra\nE: 1 sent: 250 ok\nE: closed: protocol broken at idle: unasked: 250 extra",
        "S: 250 ok|550 no|250 taken\nE: 1 refused at rcpt-to: 550 no\nS: 250 more\nE: closed: protocol broken at idle: unasked: 250 more",
    ] {
        check_after(OFFER, &format!("{group}{script}"));
    }
    // The content is not written whole.
    for script in [
        "X:\nE: 1 not tried\nE: closed: connection closed by the server at mail-from",
        "T: 300\nE: 1 not tried\nE: closed: no answer in time at mail-from",
    ] {
        check_after(OFFER, &format!("hold\n{group}{script}"));
    }
    let step = "M: 1\nC: MAIL FROM:<b@we.test>\nS: 250 ok\nC: RCPT TO:<r1@x.test>\nhold\nS: 250 ok\nC: BDAT 12 LAST\nC: Subject: 1\n";
    for script in [
        "X:\nE: 1 not tried\nE: closed: connection closed by the server at content",
        "T: 179\nT: 1\nE: 1 not tried\nE: closed: no answer in time at content",
        "S: 552 full\nE: 1 refused at content: 552 full\nE: closed: protocol broken at content: answered before the content was sent whole: 552 full",
        "S: 250 early\nE: 1 not tried\nE: closed: protocol broken at content: answered before the content was sent whole: 250 early",
        "S: 502 what\nE: 1 not tried\nE: closed: CHUNKING was offered and BDAT is not known: 502 what",
    ] {
        let script = format!("{step}{script}");
        check_after("CHUNKING", &script);
    }
}

/// A refused recipient owes no patience with the rest of the content, which goes out whole all the same.
#[test]
fn an_early_answer_to_content_in_vain() {
    let now = Timestamp::from_secs(1_000);
    let mut session = ClientSession::new(settings(), now);
    let all = |session: &mut ClientSession, written: Option<usize>| {
        let mut sent = Vec::new();
        while let Some(piece) = session.next_to_send() {
            sent.extend_from_slice(&piece);
        }
        session.written(now, written.unwrap_or(sent.len()));
        sent
    };
    session.receive(now, b"220 mx\r\n");
    all(&mut session, None);
    session.receive(now, b"250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n");
    session.enqueue(now, message("1 big", now));
    let group = all(&mut session, Some(100));
    assert!(!session.has_content_out());
    session.receive(now, b"250 ok\r\n550 no\r\n503 no recipient\r\n");
    assert_eq!(
        std::iter::from_fn(|| session.poll_event()).map(|one| shown(&one)).last().unwrap(),
        "1 refused at rcpt-to: 550 no"
    );
    session.enqueue(now, message("2", now));
    let next = all(&mut session, Some(group.len() - 100));
    assert!(next.starts_with(b"RSET\r\nMAIL FROM"), "{}", next.escape_ascii());
    session.written(now, next.len());
    session.receive(now, b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n");
    assert_eq!(all(&mut session, None), b"Subject: 2\r\n.\r\n");
    assert!(session.has_content_out());
    session.receive(now, b"250 two\r\n");
    assert_eq!(shown(&session.poll_event().unwrap()), "2 sent: 250 two");
    assert!(!session.has_content_out());
}

/// What becomes of the message, how the session goes on, by what RFC 3030 and the table of the module say:
/// written as plainly as can be.
fn expected(mail: &str, rcpt: &str, bdat: &str) -> String {
    let mut refused: Option<String> = None;
    for (stage, answer) in [("mail-from", mail), ("rcpt-to", rcpt), ("content", bdat)] {
        let known = refused.clone();
        let last = stage == "content";
        let now = |stage: &str| format!("1 refused at {stage}: {answer}");
        let in_doubt = || known.clone().unwrap_or("1 possibly delivered".into());
        if answer == "421 x" {
            let verdict = known.clone().unwrap_or_else(|| now(stage));
            return format!("{verdict}; closed: refused at {stage}: 421 x");
        }
        if answer == "999 x" {
            let why = "no such class of replies: 999 x";
            return format!("{}; closed: protocol broken at {stage}: {why}", in_doubt());
        }
        if answer == "354 x" {
            let why = "not an answer to this command: 354 x";
            return format!("{}; closed: protocol broken at {stage}: {why}", in_doubt());
        }
        let is_unknown = matches!(&answer[..3], "500" | "502")
            || (known.is_none() && matches!(&answer[..3], "501" | "503" | "504"));
        if last && is_unknown {
            let verdict = known.unwrap_or("1 not tried".into());
            return format!(
                "{verdict}; closed: CHUNKING was offered and BDAT is not known: {answer}"
            );
        }
        if !answer.starts_with('2') && refused.is_none() {
            refused = Some(now(stage));
        }
    }
    match refused {
        Some(verdict) => format!("{verdict}; then RSET"),
        None => format!("1 sent: {bdat}; then MAIL"),
    }
}

/// Whole, and cut anywhere: the same must come out.
fn check_combination([mail, rcpt, bdat]: [&str; 3]) {
    let now = Timestamp::from_secs(1_000);
    let flush = |session: &mut ClientSession| {
        let mut sent = Vec::new();
        while let Some(piece) = session.next_to_send() {
            session.written(now, piece.len());
            sent.extend_from_slice(&piece);
        }
        sent
    };
    let wanted = expected(mail, rcpt, bdat);
    let replies = format!("{mail}\r\n{rcpt}\r\n{bdat}\r\n");
    for cut in (0..replies.len()).step_by(3) {
        let mut session = ClientSession::new(settings(), now);
        session.receive(now, b"220 mx\r\n");
        flush(&mut session);
        session.receive(now, b"250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n");
        session.enqueue(now, message("1", now));
        flush(&mut session);
        session.poll_event();
        let (first, rest) = replies.as_bytes().split_at(cut);
        session.receive(now, first);
        assert!(flush(&mut session).is_empty(), "{mail}, {rcpt}, {bdat}");
        session.receive(now, rest);
        let mut heard: Vec<String> =
            std::iter::from_fn(|| session.poll_event()).map(|event| shown(&event)).collect();
        if !session.is_closed() {
            session.enqueue(now, message("2", now));
            let next = flush(&mut session);
            let verb = String::from_utf8_lossy(&next[..4]).into_owned();
            assert!(next.ends_with(b"DATA\r\n"), "{}", next.escape_ascii());
            heard.push(format!("then {verb}"));
        }
        assert_eq!(heard.join("; "), wanted, "{mail}, {rcpt}, {bdat} cut at {cut}");
    }
}

#[test]
fn every_combination_of_answers() {
    let answers =
        ["250 x", "251 x", "354 x", "421 x", "452 x", "500 x", "502 x", "503 x", "550 x", "999 x"];
    for mail in answers {
        for rcpt in answers {
            for bdat in answers {
                check_combination([mail, rcpt, bdat]);
            }
        }
    }
}

/// A server that keeps the RFCs to the letter, refuses by its dice, and cannot be got out of step without noticing.
#[derive(Default)]
struct HonestServer {
    line: Vec<u8>,
    /// Octets of the chunk that are still to come, and those that came.
    chunk: Option<(usize, Vec<u8>)>,
    /// Content behind a 354.
    data: Option<Vec<u8>>,
    mail: bool,
    recipient: Option<String>,
    /// A BDAT has failed: nothing but RSET and QUIT may come.
    reset_due: bool,
    /// Answers that the client has not read; to a content with its number.
    unread: Vec<(Vec<u8>, Option<u64>)>,
    taken: Vec<u64>,
    /// Stage at which a message was refused first.
    refused: std::collections::BTreeMap<u64, &'static str>,
    chunks: usize,
}

impl HonestServer {
    fn answer(&mut self, text: &str, content_of: Option<u64>) {
        self.unread.push((format!("{text}\r\n").into_bytes(), content_of));
    }

    fn content_ended(&mut self, content: &[u8], chunked: bool, roll: u8) {
        let token = self.token();
        let (mail, recipient) = (core::mem::take(&mut self.mail), self.recipient.take());
        if recipient.is_none() || !mail {
            assert!(chunked, "content without a recipient");
            self.reset_due = true;
            // Some say 250 to what they throw away.
            let text = ["554 no valid recipients", "503 what for", "250 thrown away"];
            return self.answer(text[usize::from(roll) % 3], token);
        }
        let token = token.unwrap();
        assert_eq!(content, message(&sample(token), Timestamp::EPOCH).content);
        if roll < 40 {
            self.reset_due = chunked;
            self.refused.insert(token, "content");
            self.answer("452 no room", Some(token));
        } else {
            self.taken.push(token);
            self.answer("250 taken", Some(token));
        }
    }

    fn token(&self) -> Option<u64> {
        self.recipient.as_ref()?.strip_prefix('r')?.split('@').next()?.parse().ok()
    }

    fn command(&mut self, line: &str, roll: u8) {
        assert!(
            !self.reset_due || line == "RSET" || line == "QUIT",
            "{line} behind a BDAT that failed"
        );
        if let Some(rest) = line.strip_prefix("BDAT ") {
            let octets = rest.strip_suffix(" LAST").unwrap().parse().unwrap();
            self.chunks += 1;
            self.chunk = Some((octets, Vec::new()));
        } else if line.starts_with("MAIL FROM:<b@we.test>") {
            assert!(!self.mail, "nested MAIL");
            if roll < 30 {
                return self.answer("451 not now", None);
            }
            self.mail = true;
            self.answer("250 sender", None);
        } else if let Some(rest) = line.strip_prefix("RCPT TO:<") {
            let recipient = rest.strip_suffix('>').unwrap().to_owned();
            let token = recipient[1..].split('@').next().unwrap().parse().unwrap();
            if !self.mail {
                self.refused.insert(token, "mail-from");
                self.answer("503 no sender", None);
            } else if roll < 60 {
                self.refused.insert(token, "rcpt-to");
                self.answer("550 nobody", None);
            } else {
                self.recipient = Some(recipient);
                self.answer("250 recipient", None);
            }
        } else if line == "DATA" {
            if self.recipient.is_some() {
                self.data = Some(Vec::new());
                self.answer("354 go", None);
            } else {
                self.answer("503 no recipient", None);
            }
        } else if line == "RSET" {
            (self.mail, self.recipient, self.reset_due) = (false, None, false);
            self.answer("250 reset", None);
        } else {
            assert_eq!(line, "QUIT");
            self.answer("221 bye", None);
        }
    }

    fn read(&mut self, octets: &[u8], mut roll: impl FnMut() -> u8) {
        for &octet in octets {
            if let Some((left, content)) = &mut self.chunk {
                content.push(octet);
                *left -= 1;
                if *left == 0 {
                    let (_, content) = self.chunk.take().unwrap();
                    self.content_ended(&content, true, roll());
                }
                continue;
            }
            self.line.push(octet);
            if !self.line.ends_with(b"\r\n") {
                continue;
            }
            let line = core::mem::take(&mut self.line);
            if let Some(content) = &mut self.data {
                if line == b".\r\n" {
                    let content = self.data.take().unwrap();
                    self.content_ended(&content, false, roll());
                } else {
                    content.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
                }
                continue;
            }
            self.command(core::str::from_utf8(&line[..line.len() - 2]).unwrap(), roll());
            if self.chunk.as_ref().is_some_and(|(left, _)| *left == 0) {
                self.chunk = None;
                self.content_ended(b"", true, roll());
            }
        }
    }
}

/// The message of a number, as [`message`] reads it. Their contents end with CR LF, so that they arrive as they are.
fn sample(token: u64) -> String {
    let options = ["", " big", " lone", " empty", " 8bit"];
    format!("{token}{}", options[usize::try_from(token).unwrap() % options.len()])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// However a conversation is cut: what is reported as sent is what the server took, a refusal cites the command that was
    /// refused, and one content at most is in doubt.
    #[test]
    fn the_client_knows_what_the_server_did(
        seed in prop::collection::vec((0u8..8, any::<u8>()), 1..300),
        pipelining in any::<bool>(),
        lost in any::<bool>(),
    ) {
        let now = Timestamp::from_secs(1);
        let mut session = ClientSession::new(ClientSettings { max_messages: 1_000, ..settings() }, now);
        session.receive(now, b"220 mx\r\n");
        while let Some(piece) = session.next_to_send() {
            session.written(now, piece.len());
        }
        let offer = if pipelining { "250-mx\r\n250-8BITMIME\r\n250-PIPELINING\r\n250 CHUNKING\r\n" } else {
            "250-mx\r\n250-8BITMIME\r\n250 CHUNKING\r\n"
        };
        session.receive(now, offer.as_bytes());
        let mut server = HonestServer::default();
        let (mut unwritten, mut handed_over) = (Vec::new(), 0);
        let mut verdicts = std::collections::BTreeMap::new();
        let mut dice = 1u32;
        let mut roll = move |salt: u8| {
            dice = dice.wrapping_mul(1_103_515_245).wrapping_add(12_345 + u32::from(salt));
            (dice >> 16) as u8
        };
        let steps = seed.len() * 3;
        let mut script: Vec<(u8, u8)> = seed.into_iter().cycle().take(steps).collect();
        if !lost {
            // To the end: everything is written and read.
            script.push((7, 0));
            script.extend([(0, 255), (4, 255)].repeat(60));
        }
        for (action, chance) in script {
            match action {
                0..=3 => {
                    while let Some(piece) = session.next_to_send() {
                        unwritten.extend_from_slice(&piece);
                    }
                    let most = if chance == 255 { usize::MAX } else { usize::from(chance) * 6 };
                    let count = unwritten.len().min(most);
                    let octets: Vec<u8> = unwritten.drain(..count).collect();
                    session.written(now, count);
                    server.read(&octets, || roll(chance));
                    let in_doubt =
                        server.unread.iter().filter(|(_, content)| content.is_some()).count();
                    prop_assert!(in_doubt <= 1, "{} in doubt", in_doubt);
                    prop_assert!(in_doubt == 0 || session.has_content_out());
                }
                4..=6 => {
                    let mut octets = Vec::new();
                    let mut left = if chance == 255 { usize::MAX } else { usize::from(chance) };
                    while left > 0 && !server.unread.is_empty() {
                        let (text, _) = &mut server.unread[0];
                        let part = text.len().min(left);
                        octets.extend(text.drain(..part));
                        left -= part;
                        if server.unread[0].0.is_empty() {
                            server.unread.remove(0);
                        }
                    }
                    session.receive(now, &octets);
                }
                _ => {
                    if chance == 0 {
                        session.finish(now);
                    } else if session.wants_message() {
                        handed_over += 1;
                        session.enqueue(now, message(&sample(handed_over), now));
                    }
                }
            }
            while let Some(event) = session.poll_event() {
                if let ClientEvent::Done { token, verdict, .. } = event {
                    prop_assert!(verdicts.insert(token, verdict).is_none());
                }
            }
        }
        if lost {
            session.connection_lost(now, "reset");
        } else {
            prop_assert!(session.is_closed(), "all was said");
        }
        while let Some(event) = session.poll_event() {
            match event {
                ClientEvent::Done { token, verdict, .. } => {
                    prop_assert!(verdicts.insert(token, verdict).is_none());
                }
                ClientEvent::Closed(end) => {
                    let words = end.to_string();
                    prop_assert!(!words.contains("broken"), "{}", words);
                }
                _ => {}
            }
        }
        prop_assert_eq!(verdicts.len() as u64, handed_over);
        for (token, verdict) in &verdicts {
            let taken = server.taken.contains(token);
            match verdict {
                Verdict::Sent { reply } => {
                    prop_assert!(taken, "{} was not taken: {}", token, reply);
                    prop_assert_eq!(reply.to_string(), "250 taken");
                }
                Verdict::Refused { stage, .. } => {
                    prop_assert!(!taken);
                    // Without PIPELINING the server has not heard of a recipient behind a refused MAIL.
                    let found = server.refused.get(token).copied().unwrap_or("mail-from");
                    prop_assert_eq!(stage.name(), found);
                }
                Verdict::PossiblyDelivered => prop_assert!(lost),
                Verdict::NotTried => prop_assert!(!taken),
                Verdict::Unsendable { why, .. } => prop_assert!(false, "{}", why),
            }
        }
        let sent = verdicts.values().filter(|v| matches!(v, Verdict::Sent { .. })).count();
        prop_assert!(lost || sent == server.taken.len());
        prop_assert!(lost || handed_over == 0 || !pipelining || server.chunks > 0);
    }
}
