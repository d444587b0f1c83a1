//! What no server should say: one line of a table for each single thing, and what becomes of the
//! conversation and of the message in it.

use super::*;

/// How far a conversation has come when the hostile octets arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Greeting,
    Hello,
    /// MAIL is awaited; RCPT and DATA were sent behind it where that is offered.
    Mail,
    Recipient,
    Data,
    /// The final dot was sent.
    Dot,
    /// The message was taken and nothing is awaited.
    Idle,
}

/// What the client does after these octets, which are cut at `cuts`, and after the end of the
/// connection: its events, then `C:` and what it still wrote.
fn after(at: At, pipelining: bool, octets: &[u8], cuts: &[usize]) -> String {
    let now = Timestamp::from_secs(1_000);
    let mut session = ClientSession::new(settings(), now);
    let mut heard = Vec::new();
    let mut written = Vec::new();
    let mut drain = |session: &mut ClientSession| {
        while let Some(piece) = session.next_to_send() {
            session.written(now, piece.len());
            written.extend_from_slice(&piece);
        }
        while let Some(event) = session.poll_event() {
            heard.push(shown(&event));
        }
        (written.len(), heard.len())
    };
    let offer: &[u8] = if pipelining { b"250-mx\r\n250 PIPELINING\r\n" } else { b"250 mx\r\n" };
    let steps: [(At, &[u8]); 6] = [
        (At::Greeting, b"220 mx\r\n"),
        (At::Hello, offer),
        (At::Mail, b"250 ok\r\n"),
        (At::Recipient, b"250 ok\r\n"),
        (At::Data, b"354 go\r\n"),
        (At::Dot, b"250 taken\r\n"),
    ];
    let mut said = drain(&mut session);
    for (step, answer) in steps {
        if step == At::Mail {
            session.enqueue(now, message("1", now));
            said = drain(&mut session);
        }
        if step == at {
            break;
        }
        session.receive(now, answer);
        said = drain(&mut session);
    }
    let mut from = 0;
    for &to in cuts.iter().chain([&octets.len()]) {
        session.receive(now, &octets[from..to]);
        from = to;
        drain(&mut session);
    }
    session.connection_lost(now, "");
    drain(&mut session);
    let words = format!("{} C: {}", heard[said.1..].join("; "), written[said.0..].escape_ascii());
    assert!(words.chars().all(|one| matches!(one, ' '..='~')), "{words:?}");
    words
}

/// A reply with this text in front of its line end, at the step where it is an answer.
fn at_recipient(octets: &[u8]) -> String {
    let whole = after(At::Recipient, true, octets, &[]);
    // One octet at a time it must come out the same.
    let cuts: Vec<usize> = (1..octets.len().min(300)).collect();
    assert_eq!(after(At::Recipient, true, octets, &cuts), whole, "{}", octets.escape_ascii());
    whole
}

/// Group 86: greetings.
#[test]
fn greetings() {
    let many = b"220-x\r\n".repeat(10_000);
    let megabyte = [b"220 ".as_slice(), &vec![b'x'; 1 << 20], b"\r\n"].concat();
    let table: [(&[u8], &str); 19] = [
        (b"", "closed: connection closed by the server at greeting C: "),
        (b"\r\n", "protocol broken at greeting: a reply line does not begin"),
        (b"220\r\n", "C: EHLO we.test"),
        (b"220 \r\n", "C: EHLO we.test"),
        (b"220-\r\n220\r\n", "C: EHLO we.test"),
        (b"220", "closed: connection closed by the server at greeting"),
        (b"220-x\r\n", "closed: connection closed by the server at greeting"),
        (b"220-x\r\n221 y\r\n", "protocol broken at greeting: one reply with different codes"),
        (b"199 x\r\n", "protocol broken at greeting: no such class of replies"),
        (b"250 x\r\n", "C: EHLO we.test"),
        (b"354 x\r\n", "refused at greeting: 354 x"),
        (b"421 x\r\n", "refused at greeting: 421 x"),
        (b"521 x\r\n", "refused at greeting: 521 x"),
        (b"554 x\r\n", "refused at greeting: 554 x"),
        (b"\x16\x03\x03\0\x02\x02\x28", "closed: connection closed by the server at greeting"),
        (b"\0\0\0\x04\x08\0\n", "protocol broken at greeting"),
        (b"SSH-2.0-OpenSSH\r\n", "protocol broken at greeting"),
        (&megabyte, "protocol broken at greeting: a reply line of more than 4096 octets"),
        (&many, "protocol broken at greeting: a reply of more than 1024 lines"),
    ];
    for (octets, wanted) in table {
        let found = after(At::Greeting, false, octets, &[]);
        let shown = octets[..octets.len().min(30)].escape_ascii();
        assert!(found.contains(wanted), "{shown}: {found}");
    }
}

/// Group 87: lines of replies. The message gets its verdict or is not tried, and no octet of the
/// reply becomes a second reply, a command, or an unescaped octet of what is shown.
#[test]
fn lines_of_replies() {
    let next = "DATA";
    let table: [(&[u8], &str); 27] = [
        (b"550\r\n", "1 refused at rcpt-to: 550; "),
        (b"550 \r\n", "1 refused at rcpt-to: 550 ; "),
        (b"550-\r\n550\r\n", "1 refused at rcpt-to: 550- / 550; "),
        (b"550-\r\n550-\r\n550-\r\n550 \r\n", "1 refused at rcpt-to: 550- / 550- / 550- / 550 ; "),
        (b"550 a\n", "1 refused at rcpt-to: 550 a; "),
        (b"550-a\n550 b\n", "1 refused at rcpt-to: 550-a / 550 b; "),
        (b"550 a\rb\r\n", "1 refused at rcpt-to: 550 a\\u{d}b; "),
        (b"550 a\r\r\n", "1 refused at rcpt-to: 550 a\\u{d}; "),
        (b"550 a\0b\r\n", "1 refused at rcpt-to: 550 a\\u{0}b; "),
        (b"550 \x1b[2J\x1b]0;x\x07\r\n", "1 refused at rcpt-to: 550 \\u{1b}[2J\\u{1b}]0;x\\u{7}; "),
        (b"550 \xc2\x9b2J\r\n", "1 refused at rcpt-to: 550 \\u{9b}2J; "),
        (b"550 \x9b2J\xff\r\n", "1 refused at rcpt-to: 550 \\x9b2J\\xff; "),
        (b"550 \xe2\x80\xae\r\n", "1 refused at rcpt-to: 550 \\u{202e}; "),
        (b"550 \xe2\x80\xa8\r\n", "1 refused at rcpt-to: 550 \\u{2028}; "),
        (b"550 a\r\n250 b\r\n", "1 refused at rcpt-to: 550 a; "),
        (
            b"550-a\r\n250 b\r\n",
            "1 not tried; closed: protocol broken at rcpt-to: one reply with different codes",
        ),
        (b"550-a\r\n", "1 not tried; closed: connection closed by the server at rcpt-to"),
        (b"550 no end", "1 not tried; closed: connection closed by the server at rcpt-to"),
        (b"55\r\n", "1 not tried; closed: protocol broken at rcpt-to"),
        (b"5500 a\r\n", "1 not tried; closed: protocol broken at rcpt-to"),
        (b" 550 a\r\n", "1 not tried; closed: protocol broken at rcpt-to"),
        (b"550\ta\r\n", "1 not tried; closed: protocol broken at rcpt-to"),
        (b"a50 x\r\n", "1 not tried; closed: protocol broken at rcpt-to"),
        (b"\xd9\xa5\xd9\xa5\xd9\xa0 x\r\n", "1 not tried; closed: protocol broken at rcpt-to"),
        (b"\r\n550 a\r\n", "1 not tried; closed: protocol broken at rcpt-to"),
        (b"000 a\r\n", "1 not tried; closed: protocol broken at rcpt-to: no such class"),
        (b"999 a\r\n", "1 not tried; closed: protocol broken at rcpt-to: no such class"),
    ];
    for (octets, wanted) in table {
        let found = at_recipient(octets);
        assert!(found.starts_with(wanted), "{}: {found}", octets.escape_ascii());
        assert!(!found.contains("sent") && !found.contains(next), "{found}");
    }
    let endless = [b"550 ".as_slice(), &vec![b'x'; 10 << 20]].concat();
    let lines = b"550-x\r\n".repeat(1_500_000);
    let wide = [b"550-".as_slice(), &[b'x'; 4_000], b"\r\n"].concat().repeat(2_500);
    for (octets, wanted) in [
        (endless, "a reply line of more than 4096 octets"),
        (lines, "a reply of more than 1024 lines"),
        (wide, "a reply of more than 65536 octets"),
    ] {
        let found = after(At::Recipient, true, &octets, &[]);
        assert!(found.starts_with("1 not tried; closed: protocol broken at rcpt-to: "), "{found}");
        assert!(found.contains(wanted), "{found}");
    }
    // What a server says of a message it took is kept as one text, too, and cannot become a field
    // of whatever it is kept in.
    let found = after(At::Dot, true, b"250-ok\r\n250 queued\rdue: 0\0state: sent\r\n", &[]);
    let wanted = "1 sent: 250-ok / 250 queued\\u{d}due: 0\\u{0}state: sent; closed";
    assert!(found.starts_with(wanted), "{found}");
}

/// Group 88: offers.
#[test]
fn offers() {
    let thousand =
        format!("250-mx\r\n{}250 PIPELINING\r\n", "250-X-NOBODY-KNOWS 1 2 3\r\n".repeat(1_000));
    let many = format!("250-mx\r\n{}250 PIPELINING\r\n", "250-X\r\n".repeat(1_100));
    let long = format!("250-mx\r\n250 PIPELINING {}\r\n", "x".repeat(4_090));
    for (offer, wanted) in [
        ("250 mx\r\n", "MAIL FROM:<b@we.test>\\r\\n"),
        ("250\r\n", "MAIL FROM:<b@we.test>\\r\\n"),
        ("250-mx\r\n250-\r\n250\r\n", "MAIL FROM:<b@we.test>\\r\\n"),
        ("250-PIPELINING\r\n250 SIZE 5\r\n", "unsendable 5.3.4"),
        ("250-mx\r\n250 SIZE\r\n", "MAIL FROM:<b@we.test> SIZE=12\\r\\n"),
        ("250-mx\r\n250 SIZE 0\r\n", "MAIL FROM:<b@we.test> SIZE=12\\r\\n"),
        ("250-mx\r\n250 SIZE 18446744073709551616\r\n", "MAIL FROM:<b@we.test> SIZE=12\\r\\n"),
        ("250-mx\r\n250 SIZE -1\r\n", "MAIL FROM:<b@we.test> SIZE=12\\r\\n"),
        ("250-mx\r\n250 SIZE +5\r\n", "MAIL FROM:<b@we.test> SIZE=12\\r\\n"),
        ("250-mx\r\n250 size 12\r\n", "MAIL FROM:<b@we.test> SIZE=12\\r\\n"),
        ("250-mx\r\n250-SIZE 5\r\n250 SIZE 500\r\n", "MAIL FROM:<b@we.test> SIZE=12\\r\\n"),
        ("250-mx\r\n250-STARTTLS\r\n250 STARTTLS\r\n", "MAIL FROM:<b@we.test>\\r\\n"),
        ("250-mx\r\n250-AUTH=LOGIN\r\n250 AUTH LOGIN\r\n", "MAIL FROM:<b@we.test>\\r\\n"),
        (
            "250-mx\r\n250 pipelining\r\n",
            "MAIL FROM:<b@we.test>\\r\\nRCPT TO:<r1@x.test>\\r\\nDATA",
        ),
        ("250-mx\r\n250 PIPELINING\0\r\n", "MAIL FROM:<b@we.test>\\r\\n"),
        (&thousand, "RCPT TO:<r1@x.test>\\r\\nDATA"),
        (&many, "protocol broken at hello: a reply of more than 1024 lines"),
        (&long, "protocol broken at hello: a reply line of more than 4096 octets"),
        ("354 go\r\n", "refused at hello: 354 go"),
        ("220 mx\r\n", "MAIL FROM:<b@we.test>\\r\\n"),
    ] {
        let now = Timestamp::from_secs(1_000);
        let mut session = ClientSession::new(settings(), now);
        let mut all = String::new();
        let mut drain = |session: &mut ClientSession| {
            while let Some(piece) = session.next_to_send() {
                session.written(now, piece.len());
                all.push_str(&piece.escape_ascii().to_string());
            }
            while let Some(event) = session.poll_event() {
                all.push_str(&format!("\n{}\n", shown(&event)));
            }
        };
        session.receive(now, b"220 mx\r\n");
        drain(&mut session);
        session.receive(now, offer.as_bytes());
        session.enqueue(now, message("1", now));
        drain(&mut session);
        let short = &offer[..offer.len().min(60)];
        assert!(all.contains(wanted), "{short}: {all}");
        let lone = wanted.ends_with("\\r\\n") && all.contains("RCPT");
        assert!(!lone, "{short}: RCPT before the answer to MAIL: {all}");
    }
}

/// Groups 89, 90 and 92: too many answers, too few, and those that answer something else.
#[test]
fn answers_that_do_not_fit() {
    let broken = "1 not tried; closed: protocol broken at";
    let table: [(At, bool, &[u8], &str); 31] = [
        // More than were asked for.
        (
            At::Greeting,
            false,
            b"220 a\r\n250 b\r\n",
            "closed: protocol broken at hello: answered before",
        ),
        (
            At::Greeting,
            false,
            b"220 a\r\n220 b\r\n",
            "closed: protocol broken at hello: answered before",
        ),
        (At::Mail, false, b"250 a\r\n250 b\r\n", broken),
        (At::Mail, true, b"250 a\r\n250 b\r\n354 c\r\n250 d\r\n", broken),
        (At::Recipient, false, b"250 a\r\n354 b\r\n", broken),
        (At::Data, false, b"354 a\r\n250 taken\r\n", broken),
        (At::Data, true, b"354 a\r\n354 b\r\n", broken),
        (
            At::Dot,
            true,
            b"250 a\r\n250 b\r\n",
            "1 sent: 250 a; closed: protocol broken at idle: unasked: 250 b",
        ),
        (At::Idle, true, b"250 a\r\n", "closed: protocol broken at idle: unasked: 250 a"),
        (At::Idle, true, b"221 bye\r\n", "closed: "),
        (At::Idle, true, b"421 bye\r\n", "closed: refused at idle: 421 bye"),
        // Fewer.
        (
            At::Mail,
            true,
            b"250 a\r\n",
            "1 not tried; closed: connection closed by the server at rcpt-to",
        ),
        (
            At::Mail,
            true,
            b"250 a\r\n250 b\r\n",
            "1 not tried; closed: connection closed by the server at data",
        ),
        (
            At::Dot,
            true,
            b"",
            "1 possibly delivered; closed: connection closed by the server at content",
        ),
        // Out of order.
        (At::Mail, true, b"354 a\r\n250 b\r\n250 c\r\n", broken),
        (At::Mail, true, b"250 a\r\n354 b\r\n250 c\r\n", broken),
        // 354 although every recipient was refused; 250 to DATA; 354 twice; 250 before the dot.
        (
            At::Recipient,
            true,
            b"550 a\r\n354 b\r\n",
            "1 refused at rcpt-to: 550 a; closed: connection closed by the server at content C: .\\r\\n",
        ),
        (At::Recipient, true, b"550 a\r\n354 b\r\n250 c\r\n", "1 refused at rcpt-to: 550 a"),
        (At::Data, true, b"250 a\r\n", broken),
        (At::Data, true, b"220 a\r\n", broken),
        // Of a 3yz the first digit counts (RFC 5321, 4.3.2).
        (At::Data, true, b"334 a\r\n", "1 possibly delivered; closed: connection closed"),
        (At::Dot, true, b"354 a\r\n", "1 possibly delivered; closed: protocol broken at content"),
        // A class that does not fit its step.
        (At::Mail, false, b"334 a\r\n", broken),
        (At::Recipient, false, b"354 a\r\n", broken),
        (At::Recipient, false, b"199 a\r\n", broken),
        // 421 in the middle of a reply, and a close without a reply.
        (At::Recipient, true, b"550-a\r\n421 b\r\n", broken),
        (
            At::Recipient,
            true,
            b"421-a\r\n421 b\r\n",
            "1 refused at rcpt-to: 421-a / 421 b; closed: refused at rcpt-to",
        ),
        (At::Mail, true, b"221 bye\r\n", "1 "),
        (At::Hello, false, b"", "closed: connection closed by the server at hello"),
        (At::Mail, false, b"", "1 not tried; closed: connection closed by the server at mail-from"),
        (At::Data, true, b"", "1 not tried; closed: connection closed by the server at data"),
    ];
    for (at, pipelining, octets, wanted) in table {
        let found = after(at, pipelining, octets, &[]);
        assert!(found.starts_with(wanted), "{at:?} {}: {found}", octets.escape_ascii());
        // Nothing but a 250 that was awaited says that a message was taken.
        let taken = wanted.starts_with("1 sent");
        assert_eq!(found.contains("1 sent"), taken, "{at:?} {}: {found}", octets.escape_ascii());
    }
}

/// Group 24 of the listener's list, on our side: what stands in clear behind the 220 to STARTTLS is never read.
#[test]
fn answers_behind_starttls() {
    for (octets, injected) in [
        (&b"220 go\r\n250 x\r\n"[..], true),
        (b"220 go\r\n\r\n", true),
        (b"220 go\r\n\x16\x03\x03", true),
        (b"220 go\r\n2", true),
        (b"220-go\r\n220 on\r\n250-x\r\n250 PIPELINING\r\n", true),
        (b"220 go\n250 x\n", true),
        (b"220 go\r\n", false),
        (b"220-go\r\n220 on\r\n", false),
    ] {
        for cut in 0..octets.len() {
            for mode in [TlsMode::Opportunistic, TlsMode::Required] {
                let now = Timestamp::from_secs(1_000);
                let mut session =
                    ClientSession::new(ClientSettings { tls: mode, ..settings() }, now);
                let mut events = Vec::new();
                for piece in [
                    b"220 mx\r\n",
                    b"250-mx\r\n250 STARTTLS\r\n".as_slice(),
                    &octets[..cut],
                    &octets[cut..],
                ] {
                    session.receive(now, piece);
                    while let Some(piece) = session.next_to_send() {
                        session.written(now, piece.len());
                        assert!(!piece.starts_with(b"MAIL"), "{}", octets.escape_ascii());
                    }
                    while let Some(event) = session.poll_event() {
                        events.push(shown(&event));
                    }
                }
                let last = events.last().map_or("", String::as_str);
                let wanted = if injected {
                    "closed: protocol broken at starttls: octets in clear after the 220 to STARTTLS"
                } else {
                    "start TLS"
                };
                assert_eq!(last, wanted, "{} cut at {cut}", octets.escape_ascii());
            }
        }
    }
}
