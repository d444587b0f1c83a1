//! What no client should send: one line of a table for each single thing, and what is answered.
//!
//! An answer is written as the replies in their order, separated by `|`, each with its code and
//! enhanced status only; then ` ## ` and why the session ended, if it did; then ` << ` and each
//! message that came out.

use super::*;

mod contents;

/// Limits that the tables reach, and everything offered that can be.
fn open() -> ServerSettings {
    ServerSettings {
        host_name: "we.test".into(),
        limits: ServerLimits { errors: 10_000, idle_commands: 10_000, ..ServerLimits::default() },
        ..ServerSettings::default()
    }
}

/// The same behind a login, in clear.
fn with_logins() -> ServerSettings {
    ServerSettings {
        logins: true,
        auth_in_clear: true,
        access: Access::Authenticated,
        limits: ServerLimits { failed_logins: 1_000, ..open().limits },
        ..open()
    }
}

/// The beginning of every conversation here.
const EHLO: &[u8] = b"EHLO c.test\r\n";
/// Up to the content.
const TO_DATA: &str = "MAIL FROM:<a@c.test>\r\nRCPT TO:<r@x.test>\r\nDATA\r\n";
/// Up to a chunk.
const TO_CHUNK: &str = "MAIL FROM:<a@c.test>\r\nRCPT TO:<r@x.test>\r\n";

/// What is said to octets that come after EHLO, in pieces that end at `cuts`. Every octet of every
/// reply is printable: nothing of the input comes back raw.
fn said_in_pieces(settings: ServerSettings, first: &[u8], octets: &[u8], cuts: &[usize]) -> String {
    let now = Timestamp::from_secs(1);
    let mut session = session(settings);
    let mut replies = Vec::new();
    let mut events = String::new();
    let mut take = |session: &mut ServerSession<Policy>| {
        loop {
            while let Some(piece) = session.next_to_send() {
                replies.extend_from_slice(&piece);
            }
            let Some(event) = session.poll_event() else { return };
            match event {
                ServerEvent::Message(message) => {
                    events.push_str(&format!(" << {}", message.content.escape_ascii()));
                    session.message_result(now, &Reply::line(250, "2.0.0 queued"));
                }
                ServerEvent::Authenticate { user, password } => {
                    events.push_str(&format!(" << login {user}"));
                    session.auth_result(now, password == "pass");
                }
                ServerEvent::StartTls => events.push_str(" << TLS"),
                ServerEvent::Closed { why } => events.push_str(&format!(" ## {why}")),
            }
        }
    };
    take(&mut session);
    session.receive(now, first);
    take(&mut session);
    let mut from = 0;
    for &to in cuts.iter().chain([&octets.len()]) {
        session.receive(now, &octets[from..to]);
        from = to;
        take(&mut session);
    }
    let text = String::from_utf8(replies).expect("replies are ASCII");
    assert!(text.bytes().all(|octet| matches!(octet, b' '..=b'~' | b'\r' | b'\n')), "{text:?}");
    // The greeting and the answer to EHLO are the same for all.
    let short: Vec<String> = text
        .split_terminator("\r\n")
        .filter(|line| line.as_bytes().get(3) != Some(&b'-'))
        .skip(if first.is_empty() { 1 } else { 2 })
        .map(|line| match line.split(' ').take(2).collect::<Vec<_>>()[..] {
            [code, status] if status.matches('.').count() == 2 => format!("{code} {status}"),
            [code, ..] => code.to_owned(),
            [] => String::new(),
        })
        .collect();
    format!("{}{events}", short.join("|"))
}

fn said(octets: impl AsRef<[u8]>) -> String {
    said_in_pieces(open(), EHLO, octets.as_ref(), &[])
}

/// Plays a table after EHLO.
fn check_table(settings: &ServerSettings, table: &[(&[u8], &str)]) {
    for (octets, wanted) in table {
        let found = said_in_pieces(settings.clone(), EHLO, octets, &[]);
        let shown =
            String::from_utf8_lossy(&octets[..octets.len().min(200)]).escape_debug().to_string();
        assert_eq!(found, *wanted, "{shown}");
    }
}

/// Group 1: every octet that no command has, in the name of every command and in its argument.
#[test]
fn octets_that_no_command_has() {
    let commands: [&[u8]; 9] = [
        b"?\r\n",
        b"NO?OP\r\n",
        b"EHLO c?.test\r\n",
        b"MAIL FROM:<a?@c.test>\r\n",
        b"MAIL FROM:<\"a?\"@c.test>\r\n",
        b"VRFY ?\r\n",
        b"MAIL FROM:<> SIZE=?1\r\n",
        b"AUTH PLAIN ?\r\n",
        b"RSET?\r\n",
    ];
    let hostile = (0u8..=255).filter(|octet| !matches!(octet, b' '..=b'~'));
    for octet in hostile {
        for command in commands {
            let sent: Vec<u8> =
                command.iter().map(|&one| if one == b'?' { octet } else { one }).collect();
            let wanted = match octet {
                b'\r' | b'\n' => "500 5.5.2 ## bare CR or LF in a command",
                _ => "500 5.5.2",
            };
            let found = said(&sent);
            assert!(found.starts_with(wanted), "{}: {found}", sent.escape_ascii());
        }
    }
    // Characters of more than one octet that steer a terminal are refused where they are read; those
    // that do not are answered as what they are, without being said again.
    for (command, wanted) in [
        ("NOOP \u{9b}2J", "500 5.5.2"),
        ("EHLO \u{85}", "500 5.5.2"),
        ("EHLO a\u{202e}b", "501 5.5.4"),
        ("EHLO a\u{2028}b", "501 5.5.4"),
        ("EHLO b\u{fc}cher.example", "250 ENHANCEDSTATUSCODES"),
        ("VRFY \u{202e}", "252 2.0.0"),
        ("\u{202e}QUIT", "500 5.5.2"),
    ] {
        assert_eq!(
            said(format!("{command}\r\n")),
            wanted.replace(" ENHANCEDSTATUSCODES", ""),
            "{command}"
        );
    }
}

/// Groups 2 and 3: long lines, lines without end, and ends that are none.
#[test]
fn lengths_and_ends_of_lines() {
    let noop =
        |length: usize, end: &str| format!("NOOP {}{end}", "x".repeat(length - 5 - end.len()));
    for (octets, wanted) in [
        (noop(512, "\r\n"), "250 2.0.0"),
        (noop(513, "\r\n"), "250 2.0.0"),
        (noop(2_049, "\r\n"), "250 2.0.0"),
        (noop(2_050, "\r\n"), "500 5.5.2"),
        (noop(4_096, "\r\n"), "500 5.5.2"),
        (noop(4_096, "\r\n") + "QUIT\r\n", "500 5.5.2|221 2.0.0 ## QUIT"),
        (noop(1 << 20, "\r\n"), "500 5.5.2 ## a line without end"),
        ("x".repeat(1 << 20), "500 5.5.2 ## a line without end"),
        ("\r".repeat(1 << 20), "500 5.5.2 ## a line without end"),
        ("x".repeat(60_000), ""),
        (noop(4_096, "\n"), "500 5.5.2"),
        ("NOOP\n".into(), "500 5.5.2 ## bare CR or LF in a command"),
        ("NOOP\r".into(), ""),
        ("NOOP\rQUIT\r\n".into(), "500 5.5.2 ## bare CR or LF in a command"),
        ("NOOP\r\r\n".into(), "500 5.5.2 ## bare CR or LF in a command"),
        ("\r\r\n".into(), "500 5.5.2 ## bare CR or LF in a command"),
        ("\n\r\n".into(), "500 5.5.2 ## bare CR or LF in a command"),
        ("NOOP\r\n\r\n".into(), "250 2.0.0|500 5.5.2"),
        ("NOOP\0\r\n".into(), "500 5.5.2"),
    ] {
        assert_eq!(said(&octets), wanted, "{:?}", &octets[..octets.len().min(20)]);
    }
    // CR LF over two and three segments is one line end.
    for cuts in [&[4][..], &[5], &[4, 5], &[1, 2, 3, 4, 5]] {
        assert_eq!(said_in_pieces(open(), EHLO, b"NOOP\r\n", cuts), "250 2.0.0", "{cuts:?}");
    }
}

/// Group 4: names of clients.
#[test]
fn names_of_clients() {
    let long = |length: usize| "x".repeat(length);
    for (name, wanted) in [
        ("", "501 5.5.4".to_owned()),
        (" ", "501 5.5.4".into()),
        ("   ", "501 5.5.4".into()),
        ("a b", "501 5.5.4".into()),
        ("a\tb", "500 5.5.2".into()),
        ("a;b", "501 5.5.4".into()),
        ("a\"b", "501 5.5.4".into()),
        ("a(b)", "501 5.5.4".into()),
        ("<a>", "501 5.5.4".into()),
        ("%s%n", "501 5.5.4".into()),
        ("{{ 7 }}", "501 5.5.4".into()),
        ("${run{x}}", "501 5.5.4".into()),
        ("[IPv6:::1", "250".into()),
        ("[IPv6:zz::1]", "250".into()),
        ("[]", "250".into()),
        (&long(255), "250".into()),
        (&long(256), "501 5.5.4".into()),
        (&long(2_100), "500 5.5.2".into()),
        (&long(65_000), "500 5.5.2".into()),
        (&long(70_000), "500 5.5.2 ## a line without end".into()),
    ] {
        let first = said_in_pieces(open(), b"", format!("EHLO {name}\r\n").as_bytes(), &[]);
        assert_eq!(first, wanted, "{:?}", &name[..name.len().min(20)]);
    }
}

/// Groups 5 and 13: commands out of their place, and floods of those that lead to nothing.
#[test]
fn commands_out_of_their_place_and_floods() {
    check_table(
        &open(),
        &[
            (b"RCPT TO:<r@x.test>\r\n", "503 5.5.1"),
            (b"DATA\r\n", "503 5.5.1"),
            (b"MAIL FROM:<>\r\nDATA\r\n", "250 2.1.0|554 5.5.1"),
            (b"MAIL FROM:<>\r\nMAIL FROM:<>\r\n", "250 2.1.0|503 5.5.1"),
            (b"MAIL FROM:<>\r\nEHLO c.test\r\n", "250 2.1.0|250"),
            (b"MAIL FROM:<>\r\nRSET\r\nRCPT TO:<r@x.test>\r\n", "250 2.1.0|250 2.0.0|503 5.5.1"),
            (
                b"EHLO c.test\r\nRCPT TO:<r@x.test>\r\n",
                "250|554 5.5.0 ## the client spoke out of turn",
            ),
            (b"VRFY root\r\n", "252 2.0.0"),
            (b"VRFY\r\n", "252 2.0.0"),
            (b"EXPN staff\r\n", "502 5.5.1"),
            (b"ETRN x.test\r\n", "502 5.5.1"),
            (b"TURN\r\n", "502 5.5.1"),
            (b"HELP DATA\r\n", "214 2.0.0"),
            (b"SEND FROM:<a@c.test>\r\n", "500 5.5.2"),
            (b"XCLIENT ADDR=127.0.0.1\r\n", "500 5.5.2"),
            (b"XFORWARD ADDR=127.0.0.1\r\n", "500 5.5.2"),
            (b"LHLO c.test\r\n", "500 5.5.2"),
        ],
    );
    // None is answered for ever.
    let limits = ServerLimits { errors: 20, idle_commands: 100, ..open().limits };
    let bounded = ServerSettings { limits, ..open() };
    for (command, most, why) in [
        ("RSET", 99, "idle commands"),
        ("NOOP", 99, "idle commands"),
        ("VRFY a", 99, "idle commands"),
        ("HELP", 99, "idle commands"),
        ("HELO c.test", 99, "idle commands"),
        ("EXPN a", 20, "too many errors"),
        ("ETRN a", 20, "too many errors"),
        ("XCLIENT a", 20, "too many errors"),
        ("MAIL FROM:<a>", 20, "too many errors"),
        ("BDAT 0", 20, "too many errors"),
    ] {
        let octets = format!("{command}\r\n").repeat(5_000);
        let ends: Vec<usize> =
            memchr::memchr_iter(b'\n', octets.as_bytes()).map(|at| at + 1).collect();
        let found = said_in_pieces(bounded.clone(), EHLO, octets.as_bytes(), &ends);
        assert!(found.ends_with(&format!("|421 4.7.0 ## {why}")), "{command}: {found}");
        assert_eq!(found.matches('|').count(), most, "{command}: {found}");
    }
}

/// Groups 6, 7, 8 and 11: paths.
#[test]
fn paths() {
    let of = |length: usize| "l".repeat(length);
    let domain = |length: usize| {
        let mut name = format!("{}.", of(63)).repeat(length / 64);
        name.push_str(&of(length - name.len()));
        name
    };
    let fits = domain(189);
    for (path, sender, recipient) in [
        // Forms.
        ("", "501 5.5.4", "501 5.5.4"),
        ("<>", "250 2.1.0", "501 5.1.3"),
        ("a@c.test", "501 5.5.4", "501 5.5.4"),
        (" <a@c.test>", "250 2.1.0", "250 2.1.5"),
        ("< a@c.test>", "501 5.1.7", "501 5.1.3"),
        ("<a@c.test >", "501 5.1.7", "501 5.1.3"),
        ("<a@c.test", "501 5.5.4", "501 5.5.4"),
        ("a@c.test>", "501 5.5.4", "501 5.5.4"),
        ("<<a@c.test>>", "501 5.5.4", "501 5.5.4"),
        ("<a@c.test>,<b@c.test>", "501 5.5.4", "501 5.5.4"),
        ("<a@c.test,b@c.test>", "501 5.1.7", "501 5.1.3"),
        ("<a@c.test> <b@c.test>", "555 5.5.4", "555 5.5.4"),
        ("<a@c.test>garbage", "501 5.5.4", "501 5.5.4"),
        ("<@r.test:a@c.test>", "501 5.1.7", "501 5.1.3"),
        ("<@r.test,@s.test:a@c.test>", "501 5.1.7", "501 5.1.3"),
        // What has run as a command or was expanded elsewhere.
        ("<;id>", "501 5.1.7", "501 5.1.3"),
        ("<;id@c.test>", "501 5.1.7", "501 5.1.3"),
        ("<|id@c.test>", "250 2.1.0", "250 2.1.5"),
        ("<`id`@c.test>", "250 2.1.0", "250 2.1.5"),
        ("<${run{id}}@c.test>", "250 2.1.0", "250 2.1.5"),
        ("<{{7*7}}@c.test>", "250 2.1.0", "250 2.1.5"),
        ("<%=7%@c.test>", "250 2.1.0", "250 2.1.5"),
        ("<a@x>", "501 5.1.7", "501 5.1.3"),
        ("<\"a b\"@x>", "501 5.1.7", "501 5.1.3"),
        ("<@x>", "501 5.1.7", "501 5.1.3"),
        ("<x@>", "501 5.1.7", "501 5.1.3"),
        ("<@>", "501 5.1.7", "501 5.1.3"),
        ("<a@b@c.test>", "501 5.1.7", "501 5.1.3"),
        ("<a@[127.0.0.1]>", "501 5.1.7", "501 5.1.3"),
        ("<a@[IPv6:::1]>", "501 5.1.7", "501 5.1.3"),
        ("<a@c..test>", "501 5.1.7", "501 5.1.3"),
        ("<a@.test>", "501 5.1.7", "501 5.1.3"),
        ("<a@c.test.>", "501 5.1.7", "501 5.1.3"),
        ("<a@127.0.0.1>", "501 5.1.7", "501 5.1.3"),
        // Lengths.
        (&format!("<{}@c.test>", of(64)), "250 2.1.0", "250 2.1.5"),
        (&format!("<{}@c.test>", of(65)), "501 5.1.7", "501 5.1.3"),
        (&format!("<a@{}>", domain(253)), "501 5.1.7", "501 5.1.3"),
        (&format!("<a@{}>", domain(252)), "250 2.1.0", "250 2.1.5"),
        (&format!("<a@{}>", domain(256)), "501 5.1.7", "501 5.1.3"),
        (&format!("<{}@{fits}>", of(64)), "250 2.1.0", "250 2.1.5"),
        (&format!("<{}@{fits}l>", of(64)), "501 5.1.7", "501 5.1.3"),
        // Quoted local parts.
        ("<\"\"@c.test>", "501 5.1.7", "501 5.1.3"),
        ("<\"a\\\"@c.test>", "501 5.5.4", "501 5.5.4"),
        ("<\"a\\>@c.test>", "501 5.5.4", "501 5.5.4"),
        ("<\"a>b\"@c.test>", "250 2.1.0", "250 2.1.5"),
        ("<\"a\\\\\"@c.test>", "250 2.1.0", "250 2.1.5"),
        ("<\"r@x.test>\"@c.test>", "250 2.1.0", "250 2.1.5"),
        ("<\"a\r\nQUIT\r\n\"@c.test>", "501 5.5.4", "501 5.5.4"),
        ("<\"a\nb\"@c.test>", "500 5.5.2", "500 5.5.2"),
        ("<\"a\tb\"@c.test>", "500 5.5.2", "500 5.5.2"),
        // Beyond ASCII.
        ("<j\u{f6}@c.test>", "553 5.6.7", "553 5.6.7"),
        ("<a@b\u{fc}cher.test>", "553 5.6.7", "553 5.6.7"),
    ] {
        let found = said(format!("MAIL FROM:{path}\r\n"));
        assert!(found.starts_with(sender), "MAIL {path}: {found}");
        let found = said(format!("MAIL FROM:<>\r\nRCPT TO:{path}\r\n"));
        assert!(found.starts_with(&format!("250 2.1.0|{recipient}")), "RCPT {path}: {found}");
    }
    check_table(
        &open(),
        &[
            ("MAIL FROM:<j\u{f6}@c.test> SMTPUTF8\r\n".as_bytes(), "250 2.1.0"),
            (
                "MAIL FROM:<> SMTPUTF8\r\nRCPT TO:<j\u{f6}@x.test>\r\n".as_bytes(),
                "250 2.1.0|250 2.1.5",
            ),
            ("MAIL FROM:<>\r\nRCPT TO:<j\u{f6}@x.test>\r\n".as_bytes(), "250 2.1.0|553 5.6.7"),
            ("MAIL FROM:<a\u{202e}@c.test> SMTPUTF8\r\n".as_bytes(), "501 5.1.7"),
            ("MAIL FROM:<a\u{2066}@c.test> SMTPUTF8\r\n".as_bytes(), "501 5.1.7"),
            ("MAIL FROM:<a\u{200b}@c.test> SMTPUTF8\r\n".as_bytes(), "501 5.1.7"),
            ("MAIL FROM:<a@c\u{202e}.test> SMTPUTF8\r\n".as_bytes(), "501 5.1.7"),
            ("MAIL FROM:<a\u{85}@c.test> SMTPUTF8\r\n".as_bytes(), "500 5.5.2"),
            (b"MAIL FROM:<a\xff@c.test> SMTPUTF8\r\n", "500 5.5.2"),
            // `<` and `.` in too many octets, a surrogate, and a character cut off.
            (b"MAIL FROM:\xc0\xbca@c.test> SMTPUTF8\r\n", "500 5.5.2"),
            (b"MAIL FROM:<a@c\xc0\xaetest> SMTPUTF8\r\n", "500 5.5.2"),
            (b"MAIL FROM:<a\xed\xa0\x80@c.test> SMTPUTF8\r\n", "500 5.5.2"),
            (b"MAIL FROM:<a\xf4\x90\x80\x80@c.test> SMTPUTF8\r\n", "500 5.5.2"),
            (b"MAIL FROM:<a\xc3@c.test> SMTPUTF8\r\n", "500 5.5.2"),
        ],
    );
}

/// Groups 9 and 10: parameters.
#[test]
fn parameters() {
    for (parameters, wanted) in [
        ("SIZE=0", "250 2.1.0"),
        ("SIZE=52428800", "250 2.1.0"),
        ("SIZE=52428801", "552 5.3.4"),
        ("SIZE=9223372036854775808", "552 5.3.4"),
        ("SIZE=18446744073709551615", "552 5.3.4"),
        ("SIZE=18446744073709551616", "552 5.3.4"),
        ("SIZE=184467440737095516160", "501 5.5.4"),
        ("SIZE=-1", "501 5.5.4"),
        ("SIZE=+1", "501 5.5.4"),
        ("SIZE=0x10", "501 5.5.4"),
        ("SIZE=1e3", "501 5.5.4"),
        ("SIZE=1.5", "501 5.5.4"),
        ("SIZE=many", "501 5.5.4"),
        ("SIZE=", "501 5.5.4"),
        ("SIZE", "501 5.5.4"),
        ("SIZE=1 SIZE=2", "501 5.5.4"),
        ("size=1 SIZE=2", "501 5.5.4"),
        ("BODY=7BIT BODY=8BITMIME", "501 5.5.4"),
        ("BODY=BINARYMIME", "501 5.5.4"),
        ("BODY", "501 5.5.4"),
        ("BODY=", "501 5.5.4"),
        ("SMTPUTF8=1", "501 5.5.4"),
        ("SMTPUTF8 SMTPUTF8", "501 5.5.4"),
        ("AUTH=<>", "250 2.1.0"),
        ("AUTH=a+0D+0ARCPT", "250 2.1.0"),
        ("AUTH=", "501 5.5.4"),
        ("AUTH=<> AUTH=<>", "501 5.5.4"),
        ("RET=FULL ENVID=x", "555 5.5.4"),
        ("MT-PRIORITY=9", "555 5.5.4"),
        ("REQUIRETLS", "555 5.5.4"),
        ("X=\u{fc}", "555 5.5.4"),
        ("=1", "555 5.5.4"),
        ("=", "555 5.5.4"),
        (&"SIZE=1 ".repeat(200), "501 5.5.4"),
        (&format!("X{}=1", "x".repeat(1_500)), "555 5.5.4"),
    ] {
        assert_eq!(said(format!("MAIL FROM:<> {parameters}\r\n")), wanted, "{parameters}");
    }
    for parameters in ["NOTIFY=NEVER", "ORCPT=rfc822;a", "SIZE=1", "X", "="] {
        let found = said(format!("MAIL FROM:<>\r\nRCPT TO:<r@x.test> {parameters}\r\n"));
        assert_eq!(found, "250 2.1.0|555 5.5.4", "{parameters}");
    }
    // A figure that lies low buys nothing.
    let limits = ServerLimits { message_octets: 100, ..open().limits };
    let tight = ServerSettings { limits, ..open() };
    let content = "0123456789\r\n".repeat(20);
    let lying =
        format!("MAIL FROM:<> SIZE=5\r\nRCPT TO:<r@x.test>\r\nDATA\r\n{content}.\r\nNOOP\r\n");
    let cuts = [lying.find("0123").unwrap()];
    assert_eq!(
        said_in_pieces(tight, EHLO, lying.as_bytes(), &cuts),
        "250 2.1.0|250 2.1.5|354|552 5.3.4|250 2.0.0"
    );
}

/// Group 12: recipients without end.
#[test]
fn a_thousand_and_one_recipients() {
    let same = format!("MAIL FROM:<>\r\n{}", "RCPT TO:<r@x.test>\r\n".repeat(1_001));
    let found = said(same);
    assert_eq!(found.matches("250 2.1.5").count(), 1_000);
    assert!(found.ends_with("|452 4.5.3"), "{}", &found[found.len() - 40..]);
    let refused = format!("MAIL FROM:<>\r\n{}", "RCPT TO:<gone@x.test>\r\n".repeat(1_001));
    let limits = ServerLimits { errors: 20, ..open().limits };
    let found = said_in_pieces(ServerSettings { limits, ..open() }, EHLO, refused.as_bytes(), &[]);
    assert!(found.ends_with("|421 4.7.0 ## too many errors"), "{found}");
    assert_eq!(found.matches("550 5.1.1").count(), 20);
}

/// Group 17: STARTTLS. Whatever stands in clear behind the word is never used.
#[test]
fn commands_behind_starttls() {
    let settings = ServerSettings { starttls: true, ..open() };
    for (octets, wanted) in [
        ("STARTTLS\r\n", "220 2.0.0 << TLS"),
        ("STARTTLS now\r\n", "501 5.5.4"),
        ("STARTTLS \r\n", "220 2.0.0 << TLS"),
        ("STARTTLS\r\nSTARTTLS\r\n", "220 2.0.0|554 5.5.0 ## the client spoke out of turn"),
        (
            "STARTTLS\r\nMAIL FROM:<e@x.test>\r\n",
            "220 2.0.0|554 5.5.0 ## the client spoke out of turn",
        ),
        ("STARTTLS\r\n\x16\x03\x01", "220 2.0.0|554 5.5.0 ## the client spoke out of turn"),
        ("STARTTLS\r\n\r\n", "220 2.0.0|554 5.5.0 ## the client spoke out of turn"),
        (
            "NOOP\r\nSTARTTLS\r\nQUIT\r\n",
            "250 2.0.0|220 2.0.0|554 5.5.0 ## the client spoke out of turn",
        ),
    ] {
        let found = said_in_pieces(settings.clone(), EHLO, octets.as_bytes(), &[]);
        assert_eq!(found, wanted, "{octets:?}");
        // One octet at a time, each after the answers so far were taken: nothing is used either.
        let cuts: Vec<usize> = (1..octets.len()).collect();
        let found = said_in_pieces(settings.clone(), EHLO, octets.as_bytes(), &cuts);
        assert!(!found.contains("250 2.1.0") && found.matches("TLS").count() <= 2, "{found}");
    }
    // Under TLS it is refused, and what was said in clear is forgotten.
    let now = Timestamp::from_secs(1);
    let mut session = session(settings);
    let all = |session: &mut ServerSession<Policy>| {
        let mut said = Vec::new();
        while let Some(piece) = session.next_to_send() {
            said.extend_from_slice(&piece);
        }
        while session.poll_event().is_some() {}
        String::from_utf8(said).unwrap()
    };
    all(&mut session);
    session.receive(now, b"EHLO c.test\r\n");
    all(&mut session);
    session.receive(now, b"MAIL FROM:<a@c.test>\r\nRCPT TO:<r@x.test>\r\nSTARTTLS\r\n");
    assert!(all(&mut session).ends_with("220 2.0.0 go ahead\r\n"));
    session.tls_established(now);
    session.receive(now, b"DATA\r\n");
    assert!(all(&mut session).starts_with("503 5.5.1"));
    session.receive(now, b"MAIL FROM:<>\r\n");
    assert!(all(&mut session).starts_with("503 5.5.1 say EHLO first"));
    session.receive(now, b"EHLO c.test\r\n");
    assert!(!all(&mut session).contains("STARTTLS"));
    session.receive(now, b"STARTTLS\r\n");
    assert!(all(&mut session).starts_with("503 5.5.1"));
}

/// Group 19: logins.
#[test]
fn logins() {
    let megabyte = "QUFB".repeat(262_144);
    let long = "QUFB".repeat(400);
    for (octets, wanted) in [
        (format!("AUTH PLAIN {megabyte}\r\n"), "500 5.5.2 ## a line without end"),
        (format!("AUTH PLAIN {long}\r\n"), "501 5.5.2"),
        (format!("AUTH LOGIN\r\n{long}\r\n{long}\r\n"), "334|334|535 5.7.8"),
        ("AUTH PLAIN AGEAYg\r\n".into(), "501 5.5.2"),
        ("AUTH PLAIN AGEAYg=\r\n".into(), "501 5.5.2"),
        ("AUTH PLAIN AGEAYg===\r\n".into(), "501 5.5.2"),
        ("AUTH PLAIN AGEAYh==\r\n".into(), "501 5.5.2"),
        ("AUTH PLAIN AGE AYg==\r\n".into(), "501 5.5.2"),
        ("AUTH PLAIN AGEAYg-_\r\n".into(), "501 5.5.2"),
        ("AUTH PLAIN ====\r\n".into(), "501 5.5.2"),
        ("AUTH PLAIN =\r\n".into(), "501 5.5.2"),
        // NUL in many places; octets that are no text; control characters in name and password.
        ("AUTH PLAIN AAAA\r\n".into(), "501 5.5.2"),
        ("AUTH PLAIN AAA=\r\n".into(), "535 5.7.8"),
        ("AUTH PLAIN AGEAYgBj\r\n".into(), "501 5.5.2"),
        ("AUTH PLAIN AP8A/w==\r\n".into(), "501 5.5.2"),
        ("AUTH PLAIN AGEKYgBj\r\n".into(), "535 5.7.8"),
        ("AUTH PLAIN AGEAYhtb\r\n".into(), "535 5.7.8"),
        ("AUTH PLAIN\r\n*\r\n".into(), "334|501 5.7.0"),
        ("AUTH PLAIN *\r\n".into(), "501 5.7.0"),
        ("AUTH LOGIN\r\n*\r\n".into(), "334|501 5.7.0"),
        ("AUTH LOGIN\r\ndXNlcg==\r\n*\r\n".into(), "334|334|501 5.7.0"),
        ("AUTH PLAIN\r\n\r\n".into(), "334|501 5.5.2"),
        ("AUTH LOGIN\r\nMAIL FROM:<>\r\n".into(), "334|501 5.5.2"),
        ("AUTH GSSAPI\r\n".into(), "504 5.5.4"),
        ("AUTH CRAM-MD5\r\n".into(), "504 5.5.4"),
        ("AUTH\r\n".into(), "501 5.5.4"),
        (
            "AUTH PLAIN AHVzZXIAcGFzcw==\r\nAUTH PLAIN AHVzZXIAcGFzcw==\r\n".into(),
            "235 2.7.0|503 5.5.1 << login user",
        ),
        (
            "AUTH PLAIN AHVzZXIAcGFzcw==\r\nMAIL FROM:<>\r\nAUTH LOGIN\r\n".into(),
            "235 2.7.0|250 2.1.0|503 5.5.1 << login user",
        ),
        ("AUTH PLAIN AHVzZXIAeA==\r\nMAIL FROM:<>\r\n".into(), "535 5.7.8|530 5.7.0 << login user"),
    ] {
        let cuts: Vec<usize> =
            memchr::memchr_iter(b'\n', octets.as_bytes()).map(|at| at + 1).collect();
        let found = said_in_pieces(with_logins(), EHLO, octets.as_bytes(), &cuts);
        assert_eq!(found, wanted, "{}", &octets[..octets.len().min(60)]);
    }
    // Before EHLO, and in clear where that is not allowed.
    let before = said_in_pieces(with_logins(), b"", b"AUTH PLAIN AHVzZXIAcGFzcw==\r\n", &[]);
    assert_eq!(before, "503 5.5.1");
    let needs_tls = ServerSettings { starttls: true, auth_in_clear: false, ..with_logins() };
    let clear = said_in_pieces(needs_tls, EHLO, b"AUTH PLAIN AHVzZXIAcGFzcw==\r\n", &[]);
    assert_eq!(clear, "538 5.7.11");
    // A command that does not wait for the answer is not taken for a line of the dialogue.
    let early = said_in_pieces(with_logins(), EHLO, b"AUTH LOGIN\r\ndXNlcg==\r\n", &[]);
    assert_eq!(early, "334|554 5.5.0 ## the client spoke out of turn");
}

/// Groups 24 and 25: other protocols on this port, and ends in the middle.
#[test]
fn other_protocols_and_ends_in_the_middle() {
    for (octets, wanted) in [
        (&b"PROXY TCP4 192.0.2.1 192.0.2.2 1 25\r\n"[..], "500 5.5.2"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", "500 5.5.2"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "500 5.5.2"),
        (b"POST / HTTP/1.1\r\nContent-Length: 20\r\n\r\nMAIL FROM:<e@x.test>\r\n", "500 5.5.2"),
        (b"SSH-2.0-x\r\n", "500 5.5.2"),
        (
            b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\n",
            "500 5.5.2 ## bare CR or LF in a command",
        ),
    ] {
        let found = said_in_pieces(open(), b"", octets, &[]);
        assert!(found.starts_with(wanted), "{}: {found}", octets.escape_ascii());
        assert!(!found.contains("250"), "{}: {found}", octets.escape_ascii());
    }
    for (octets, wanted) in [
        (format!("{TO_DATA}text\r\nQUIT\r\n"), "250 2.1.0|250 2.1.5|354"),
        (
            format!("{TO_DATA}text\r\nQUIT\r\n.\r\n"),
            "250 2.1.0|250 2.1.5|354|250 2.0.0 << text\\r\\nQUIT\\r\\n",
        ),
        (format!("{TO_DATA}text\r\n."), "250 2.1.0|250 2.1.5|354"),
        (format!("{TO_DATA}text\r\n.\r"), "250 2.1.0|250 2.1.5|354"),
        (format!("{TO_CHUNK}BDAT 5 LAST\r\ntext"), "250 2.1.0|250 2.1.5"),
        ("MAIL FROM:<a@c.te".to_owned(), ""),
    ] {
        let cuts: &[usize] = if octets.starts_with(TO_DATA) { &[TO_DATA.len()] } else { &[] };
        assert_eq!(said_in_pieces(open(), EHLO, octets.as_bytes(), cuts), wanted, "{octets:?}");
        // And when the connection ends there, no message comes out of it afterwards.
        let now = Timestamp::from_secs(1);
        let mut session = session(open());
        for piece in [
            EHLO,
            &octets.as_bytes()[..cuts.first().copied().unwrap_or(0)],
            &octets.as_bytes()[cuts.first().copied().unwrap_or(0)..],
        ] {
            while session.next_to_send().is_some() {}
            session.receive(now, piece);
        }
        session.connection_lost();
        let events: Vec<String> =
            std::iter::from_fn(|| session.poll_event()).map(|event| shown(&event)).collect();
        let messages = wanted.matches(" << ").count();
        assert_eq!(events.iter().filter(|event| event.starts_with("message")).count(), messages);
        assert_eq!(events.last().unwrap(), "closed: the client closed the connection");
    }
}
