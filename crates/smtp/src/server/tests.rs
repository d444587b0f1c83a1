//! Transcripts of whole conversations, the smuggling forms, and random octets.

use core::time::Duration;

use super::*;
use proptest::prelude::*;

mod hostile;

type Policy = fn(&OfferedRecipient<'_>) -> Option<Reply>;

/// Refuses recipients called `gone`.
fn policy(offered: &OfferedRecipient<'_>) -> Option<Reply> {
    offered.recipient.starts_with("gone@").then(|| Reply::line(550, "5.1.1 quarantined"))
}

fn settings() -> ServerSettings {
    ServerSettings {
        host_name: "we.test".into(),
        limits: ServerLimits {
            message_octets: 200,
            recipients: 3,
            errors: 6,
            idle_commands: 5,
            ..ServerLimits::default()
        },
        ..ServerSettings::default()
    }
}

fn shown(event: &ServerEvent) -> String {
    match event {
        ServerEvent::StartTls => "start TLS".into(),
        ServerEvent::Authenticate { user, password } => format!("login {user} {password}"),
        ServerEvent::Closed { why } => format!("closed: {why}"),
        ServerEvent::Message(message) => format!(
            "message from <{}> to {} by {}: {}",
            message.sender,
            message.recipients.join(","),
            message.user.as_deref().unwrap_or("nobody"),
            message.content.escape_ascii()
        ),
    }
}

fn session(settings: ServerSettings) -> ServerSession<Policy> {
    ServerSession::new(Arc::new(settings), policy as Policy, false, Timestamp::from_secs(1_000))
}

/// Plays the inputs of a script and compares the whole conversation with it.
///
/// Inputs: `C:` the client sends a line (`|` stands for CR LF inside one segment), `R:` raw octets
/// with `\r`, `\n`, `\0`, no line end added, `T:` seconds pass, `ok` and `no` answer the caller's
/// part, `tls`, `shutdown`. Outputs: `S:` and `E:`.
fn check(settings: ServerSettings, script: &str) {
    let mut now = Timestamp::from_secs(1_000);
    let mut session = session(settings);
    let mut actual = String::new();
    let record = |session: &mut ServerSession<Policy>, actual: &mut String| {
        while let Some(piece) = session.next_to_send() {
            for line in String::from_utf8_lossy(&piece).split_terminator("\r\n") {
                actual.push_str(format!("S: {line}").trim_end());
                actual.push('\n');
            }
        }
        while let Some(event) = session.poll_event() {
            actual.push_str(format!("E: {}", shown(&event)).trim_end());
            actual.push('\n');
        }
    };
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line.split_once(": ").unwrap_or((line, "")) {
            ("S" | "E", _) => continue,
            ("early", _) => session.receive(now, b"EHLO x\r\n"),
            ("greet", _) => {}
            ("C", text) => {
                session.receive(now, format!("{text}\r\n").replace('|', "\r\n").as_bytes());
            }
            ("R", text) => {
                let raw = text.replace("\\r", "\r").replace("\\n", "\n").replace("\\0", "\0");
                session.receive(now, raw.as_bytes());
            }
            ("T", seconds) => {
                now = now + Duration::from_secs(seconds.parse().unwrap());
                session.tick(now);
            }
            ("ok", _) => {
                session.auth_result(now, true);
                session.message_result(now, &Reply::line(250, "2.0.0 queued"));
            }
            ("no", _) => {
                session.auth_result(now, false);
                session.message_result(now, &Reply::line(451, "4.3.0 disk full"));
            }
            ("tls", _) => session.tls_established(now),
            ("shutdown", _) => session.shutdown(now),
            other => panic!("not a line of a script: {other:?}"),
        }
        actual.push_str(line);
        actual.push('\n');
        record(&mut session, &mut actual);
    }
    let expected: String =
        script.lines().map(str::trim).filter(|l| !l.is_empty()).map(|l| format!("{l}\n")).collect();
    assert_eq!(actual, expected, "\n--- actual:\n{actual}");
}

const GREETED: &str = "greet\nS: 220 we.test ESMTP Mailweir\n";
const HELLO: &str = "greet
    S: 220 we.test ESMTP Mailweir
    C: EHLO c.test
    S: 250-we.test
    S: 250-PIPELINING
    S: 250-SIZE 200
    S: 250-8BITMIME
    S: 250-SMTPUTF8
    S: 250-CHUNKING
    S: 250 ENHANCEDSTATUSCODES\n";

/// After EHLO, on a listener for everybody.
fn check_open(script: &str) {
    check(settings(), &format!("{HELLO}{script}"));
}

/// A group of commands up to the 354.
const OPEN: &str = "C: MAIL FROM:<a@c.test>|RCPT TO:<r@x.test>|DATA
    S: 250 2.1.0 sender ok
    S: 250 2.1.5 recipient ok
    S: 354 end with a dot on a line of its own\n";

#[test]
fn a_pipelined_conversation() {
    check_open(
        "C: MAIL FROM:<a@C.test> SIZE=100 BODY=8BITMIME|RCPT TO:<r@x.test>|RCPT TO:<gone@x.test>|DATA
         S: 250 2.1.0 sender ok
         S: 250 2.1.5 recipient ok
         S: 550 5.1.1 quarantined
         S: 354 end with a dot on a line of its own
         C: Subject: a||..dot|.|mail from:<>|rcpt to: <r2@x.test>|data
         E: message from <a@c.test> to r@x.test by nobody: Subject: a\\r\\n\\r\\n.dot\\r\\n
         ok
         S: 250 2.0.0 queued
         S: 250 2.1.0 sender ok
         S: 250 2.1.5 recipient ok
         S: 354 end with a dot on a line of its own
         R: .\\r
         R: \\n
         E: message from <> to r2@x.test by nobody:
         no
         S: 451 4.3.0 disk full
         C: QUIT
         S: 221 2.0.0 bye
         E: closed: QUIT",
    );
}

#[test]
fn every_command_in_its_place() {
    for (line, reply) in [
        ("MAIL", "501 5.5.4 the form is MAIL FROM:<address>"),
        ("MAIL FROM:a@c.test", "501 5.5.4 the form is MAIL FROM:<address>"),
        ("MAIL FROM:<a@c.test", "501 5.5.4 the form is MAIL FROM:<address>"),
        ("MAIL FROM:<a@c.test>junk", "501 5.5.4 the form is MAIL FROM:<address>"),
        ("MAIL FROM:<a@c.test><b@c.test>", "501 5.5.4 the form is MAIL FROM:<address>"),
        ("MAIL FROM:<a@b@c.test>", "501 5.1.7 the return path is not an address"),
        ("MAIL FROM:<@x.test:a@c.test>", "501 5.1.7 the return path is not an address"),
        ("MAIL FROM:<a@>", "501 5.1.7 the return path is not an address"),
        ("MAIL FROM:<;id>", "501 5.1.7 the return path is not an address"),
        ("MAIL FROM:<jö@c.test>", "553 5.6.7 such an address needs SMTPUTF8"),
        ("MAIL FROM:<jö@c.test> SMTPUTF8", "250 2.1.0 sender ok"),
        ("MAIL FROM:<\"a> b\"@c.test>", "250 2.1.0 sender ok"),
        ("MAIL FROM:<> SIZE=200", "250 2.1.0 sender ok"),
        ("MAIL FROM:<> SIZE=201", "552 5.3.4 the message is too large"),
        ("MAIL FROM:<> SIZE=99999999999999999999", "552 5.3.4 the message is too large"),
        ("MAIL FROM:<> SIZE=-1", "501 5.5.4 a parameter has a value that it cannot have"),
        ("MAIL FROM:<> SIZE", "501 5.5.4 a parameter has a value that it cannot have"),
        ("MAIL FROM:<> SIZE=1 SIZE=1", "501 5.5.4 a parameter is given twice"),
        ("MAIL FROM:<> BODY=BINARYMIME", "501 5.5.4 a parameter has a value that it cannot have"),
        ("MAIL FROM:<> RET=HDRS", "555 5.5.4 a parameter is not known here"),
        ("RCPT TO:<r@x.test>", "503 5.5.1 say MAIL first"),
        ("DATA", "503 5.5.1 say MAIL first"),
        ("DATA x", "501 5.5.4 DATA has no argument"),
        ("BDAT 0 LAST", "503 5.5.1 no recipient was accepted"),
        ("RSET", "250 2.0.0 forgotten"),
        ("noop anything", "250 2.0.0 ok"),
        ("VRFY root", "252 2.0.0 not told; send the mail and see"),
        ("EXPN all", "502 5.5.1 this command is not offered"),
        ("STARTTLS", "502 5.5.1 this command is not offered"),
        ("AUTH PLAIN AGEAYg==", "502 5.5.1 this command is not offered"),
        ("EHLO", "501 5.5.4 a host name or address literal is needed"),
        ("EHLO a b", "501 5.5.4 a host name or address literal is needed"),
        ("HELO [IPv6:::1]", "250 we.test"),
        ("LHLO x", "500 5.5.2 this is no command"),
        ("GET / HTTP/1.1", "500 5.5.2 this is no command"),
        ("", "500 5.5.2 this is no command"),
        ("NOOP \0", "500 5.5.2 the line has octets that no command has"),
        ("NOOP \u{1b}[2J", "500 5.5.2 the line has octets that no command has"),
    ] {
        check_open(&format!("C: {line}\nS: {reply}").replace("C: \n", "R: \\r\\n\n"));
    }
    check(settings(), &format!("{GREETED}C: MAIL FROM:<>\nS: 503 5.5.1 say EHLO first"));
    check_open(
        "C: MAIL FROM:<>|MAIL FROM:<>|DATA
         S: 250 2.1.0 sender ok
         S: 503 5.5.1 a message is open already
         S: 554 5.5.1 no recipient was accepted
         C: RCPT TO:<r@x.test>|RCPT TO:<r@x.test> NOTIFY=NEVER|RCPT TO:<r>|RCPT TO:<Postmaster>|RCPT TO:<r@x.test>|RCPT TO:<r@x.test>
         S: 250 2.1.5 recipient ok
         S: 555 5.5.4 a parameter is not known here
         S: 501 5.1.3 this is not an address
         S: 250 2.1.5 recipient ok
         S: 250 2.1.5 recipient ok
         S: 452 4.5.3 too many recipients for one message",
    );
}

#[test]
fn lines_too_long_and_without_end() {
    let line = |length: usize| format!("NOOP {}", "x".repeat(length - 6));
    check_open(&format!("C: {}\nS: 250 2.0.0 ok", line(LONGEST_COMMAND)));
    check_open(&format!("C: {}\nS: 500 5.5.2 the line is too long", line(LONGEST_COMMAND + 1)));
    let endless = "x".repeat(ENDLESS_LINE + 1);
    let end = "S: 500 5.5.2 a line without end\nE: closed: a line without end";
    check_open(&format!("R: {endless}\n{end}"));
    check_open(&format!("C: {endless}\n{end}"));
    for bare in [
        "NOOP\\n",
        "NOOP\\r\\r\\n",
        "NO\\rOP\\r\\n",
        "\\n",
        "MAIL FROM:<>\\nRCPT TO:<r@x.test>\\r\\n",
    ] {
        check_open(&format!(
            "R: {bare}\nS: 500 5.5.2 a line must end with CR LF and have no other CR or LF\nE: closed: bare CR or LF in a command"
        ));
    }
}

#[test]
fn speaking_out_of_turn() {
    let end = "S: 554 5.5.0 you spoke out of turn\nE: closed: the client spoke out of turn";
    check(settings(), &format!("early\nS: 220 we.test ESMTP Mailweir\n{end}"));
    check(settings(), &format!("{GREETED}C: HELO c.test|MAIL FROM:<>\nS: 250 we.test\n{end}"));
    let helo = format!("{GREETED}C: HELO c.test\nS: 250 we.test\n");
    check(
        settings(),
        &format!("{helo}C: MAIL FROM:<>|RCPT TO:<r@x.test>\nS: 250 2.1.0 sender ok\n{end}"),
    );
    let hello = HELLO.replace("C: EHLO c.test", "C: EHLO c.test|MAIL FROM:<>");
    check(settings(), &format!("{hello}{end}"));
    // The end of data and the next command in one segment, without PIPELINING offered.
    check(
        settings(),
        &format!(
            "{helo}C: MAIL FROM:<>\nS: 250 2.1.0 sender ok\nC: RCPT TO:<r@x.test>\nS: 250 2.1.5 recipient ok
             C: DATA\nS: 354 end with a dot on a line of its own
             C: a|.|MAIL FROM:<>\nE: message from <> to r@x.test by nobody: a\\r\\n
             ok\nS: 250 2.0.0 queued\n{end}"
        ),
    );
    // Content that does not wait for the 354 would be read as commands if DATA were refused.
    check_open(&format!("C: DATA|Subject: x|.\nS: 503 5.5.1 say MAIL first\n{end}"));
}

#[test]
fn smuggling_is_refused() {
    let evil = "MAIL FROM:<e@x.test>|RCPT TO:<v@x.test>|DATA|evil|.|".replace('|', "\\r\\n");
    for form in [
        "\\n.\\n",
        "\\n.\\r\\n",
        "\\r\\n.\\n",
        "\\r.\\r",
        "\\r.\\r\\n",
        "\\r\\n.\\r",
        "\\n\\r.\\n\\r",
        "\\r\\r\\n.\\r\\r\\n",
        "\\r\\n.\\r\\r\\n",
    ] {
        check_open(&format!(
            "{OPEN}R: before{form}{evil}\nS: 550 5.6.11 the message has a bare CR or LF\nE: closed: bare CR or LF in a message"
        ));
    }
    for form in ["\\r\\n\\0.\\r\\n", "\\r\\n.\\0\\r\\n"] {
        check_open(&format!(
            "{OPEN}R: a{form}b\\r\\n.\\r\\n\nS: 550 5.6.11 the message has a NUL octet\nC: NOOP\nS: 250 2.0.0 ok"
        ));
    }
    // Where mail is only read, NUL octets are content like others; a bare line end is refused there too.
    let any = |script: &str| {
        let limits = ServerLimits { nul_octets: true, ..settings().limits };
        check(ServerSettings { limits, ..settings() }, &format!("{HELLO}{OPEN}{script}"));
    };
    any("R: a\\0b\\r\\n.\\r\\n\nE: message from <a@c.test> to r@x.test by nobody: a\\x00b\\r\\n");
    any(
        "R: a\\0\\nb\nS: 550 5.6.11 the message has a bare CR or LF\nE: closed: bare CR or LF in a message",
    );
    // A space in front makes an ordinary line.
    check_open(&format!(
        "{OPEN}R: a\\r\\n .\\r\\nb\\r\\n.\\r\\n\nE: message from <a@c.test> to r@x.test by nobody: a\\r\\n .\\r\\nb\\r\\n"
    ));
    // Nothing inside a chunk is an end.
    check_open(
        "C: MAIL FROM:<a@c.test>|RCPT TO:<r@x.test>|BDAT 10 LAST|a|.|DATA
         S: 250 2.1.0 sender ok
         S: 250 2.1.5 recipient ok
         E: message from <a@c.test> to r@x.test by nobody: a\\r\\n.\\r\\nDATA
         ok
         S: 250 2.0.0 queued
         S: 500 5.5.2 this is no command",
    );
    check_open(
        "C: MAIL FROM:<a@c.test>|RCPT TO:<r@x.test>
         S: 250 2.1.0 sender ok
         S: 250 2.1.5 recipient ok
         R: BDAT 4 LAST\\r\\na\\n.\\n
         S: 550 5.6.11 the message has a bare CR or LF
         C: NOOP
         S: 250 2.0.0 ok",
    );
}

#[test]
fn chunks() {
    let to =
        "C: MAIL FROM:<>|RCPT TO:<r@x.test>\nS: 250 2.1.0 sender ok\nS: 250 2.1.5 recipient ok\n";
    check_open(&format!(
        "{to}C: BDAT 3|x
         S: 250 2.0.0 chunk taken
         C: DATA
         S: 503 5.5.1 the content has begun with BDAT
         C: RCPT TO:<r@x.test>
         S: 503 5.5.1 the content has begun
         C: BDAT 0 LAST
         E: message from <> to r@x.test by nobody: x\\r\\n
         ok
         S: 250 2.0.0 queued
         C: BDAT 0 LAST
         S: 503 5.5.1 no recipient was accepted"
    ));
    for bad in
        ["-1", "", "x", "1 FIRST", "1 LAST LAST", "18446744073709551616", "999999999999999999999"]
    {
        check_open(&format!(
            "{to}C: BDAT {bad}\nS: 501 5.5.4 the form is BDAT size [LAST]\nE: closed: BDAT without a size that can be read"
        ));
    }
    check_open(&format!(
        "{to}C: BDAT 18446744073709551615\nS: 552 5.3.4 the chunk is far too large\nE: closed: a chunk too large"
    ));
    let chunk = "x".repeat(150);
    check_open(&format!(
        "{to}R: BDAT 150\\r\\n{chunk}BDAT 150\\r\\n{chunk}BDAT 1 LAST\\r\\nx
         S: 250 2.0.0 chunk taken
         S: 552 5.3.4 the message is too large
         S: 503 5.5.1 no recipient was accepted
         C: NOOP
         S: 250 2.0.0 ok"
    ));
}

#[test]
fn contents_that_are_refused() {
    let limits = ServerLimits { text_line_octets: 20, received_fields: 2, ..settings().limits };
    let tight = ServerSettings { limits, ..settings() };
    for (content, reply) in [
        (
            "x".repeat(20),
            "E: message from <a@c.test> to r@x.test by nobody: xxxxxxxxxxxxxxxxxxxx\\r\\n",
        ),
        ("x".repeat(21), "S: 550 5.6.0 the message has a line that is too long"),
        ("0123456789|".repeat(17), "S: 552 5.3.4 the message is too large"),
        ("Received: a|RECEIVED: b||c".into(), "S: 554 5.4.6 too many hops: the message loops"),
        (
            "Received: a||Received: b".into(),
            "E: message from <a@c.test> to r@x.test by nobody: Received: a\\r\\n\\r\\nReceived: b\\r\\n",
        ),
    ] {
        check(tight.clone(), &format!("{HELLO}{OPEN}C: {content}|.\n{reply}"));
    }
    // Far beyond the limit it is not read to its end.
    check_open(&format!(
        "{OPEN}C: {}\nS: 552 5.3.4 the message is far too large\nE: closed: content without end",
        "0123456789|".repeat(120_000)
    ));
}

#[test]
fn tls_and_logins() {
    let submission = ServerSettings {
        starttls: true,
        tls_required: true,
        logins: true,
        access: Access::Authenticated,
        ..settings()
    };
    let hello = HELLO.replace("S: 250 ENH", "S: 250-STARTTLS\n    S: 250 ENH");
    let under_tls = HELLO.replace("S: 250 ENH", "S: 250-AUTH PLAIN LOGIN\n    S: 250 ENH");
    let again = under_tls.split_once("Mailweir\n").unwrap().1;
    let secured = format!(
        "{hello}C: MAIL FROM:<>\nS: 530 5.7.0 say STARTTLS first\nC: AUTH LOGIN\nS: 538 5.7.11 say STARTTLS first
         C: STARTTLS\nS: 220 2.0.0 go ahead\nE: start TLS\ntls\n{again}"
    );
    check(
        submission.clone(),
        &format!(
            "{secured}C: STARTTLS
             S: 503 5.5.1 this is TLS already
             C: MAIL FROM:<>
             S: 530 5.7.0 authentication is required
             C: AUTH PLAIN AHVzZXIAcGFzcw==
             E: login user pass
             no
             S: 535 5.7.8 authentication failed
             C: AUTH LOGIN
             S: 334 VXNlcm5hbWU6
             C: dXNlcg==
             S: 334 UGFzc3dvcmQ6
             C: cGFzcw==
             E: login user pass
             ok
             S: 235 2.7.0 authenticated
             C: AUTH PLAIN
             S: 503 5.5.1 not now
             {OPEN}C: a|.
             E: message from <a@c.test> to r@x.test by user: a\\r\\n
             ok
             S: 250 2.0.0 queued"
        ),
    );
    for (line, reply) in [
        ("AUTH", "501 5.5.4 AUTH needs a mechanism: PLAIN or LOGIN"),
        ("AUTH CRAM-MD5", "504 5.5.4 this mechanism is not offered: use PLAIN or LOGIN"),
        ("AUTH PLAIN =", "501 5.5.2 PLAIN needs two NUL octets"),
        ("AUTH PLAIN !!!", "501 5.5.2 this is not base64 of UTF-8 text"),
        ("AUTH PLAIN AHVzZXIAcGFzcw", "501 5.5.2 this is not base64 of UTF-8 text"),
        ("AUTH PLAIN AHVzZXI=", "501 5.5.2 PLAIN needs two NUL octets"),
        // Acting for somebody else; an empty password.
        ("AUTH PLAIN cm9vdAB1c2VyAHBhc3M=", "535 5.7.8 authentication failed"),
        ("AUTH PLAIN AHVzZXIA", "535 5.7.8 authentication failed"),
        ("AUTH PLAIN\nS: 334\nC: *", "501 5.7.0 authentication cancelled"),
    ] {
        check(submission.clone(), &format!("{secured}C: {line}\nS: {reply}"));
    }
    let failed = "C: AUTH PLAIN AHVzZXIAcGFzcw==\nE: login user pass\nno\n";
    check(
        submission.clone(),
        &format!(
            "{secured}{failed}S: 535 5.7.8 authentication failed\n{failed}S: 535 5.7.8 authentication failed
             {failed}S: 421 4.7.0 too many failed logins\nE: closed: too many failed logins"
        ),
    );
    check(
        submission.clone(),
        &format!(
            "{hello}C: STARTTLS|NOOP\nS: 220 2.0.0 go ahead\nS: 554 5.5.0 you spoke out of turn\nE: closed: the client spoke out of turn"
        ),
    );
    check(
        submission,
        &format!(
            "{hello}C: STARTTLS\nS: 220 2.0.0 go ahead\nE: start TLS\nC: NOOP\nE: closed: octets in clear behind the 220 of STARTTLS"
        ),
    );
}

#[test]
fn ends_by_time_number_and_request() {
    check_open("T: 299\nT: 1\nS: 421 4.4.2 waited too long\nE: closed: time over");
    check_open(&format!(
        "{OPEN}T: 179\nR: x\nT: 1\nS: 421 4.4.2 waited too long\nE: closed: time over"
    ));
    check_open("shutdown\nS: 421 4.3.2 closing down\nE: closed: closing down");
    check_open(&format!(
        "{OPEN}shutdown\nC: a|.\nE: message from <a@c.test> to r@x.test by nobody: a\\r\\n\nok
         S: 250 2.0.0 queued\nS: 421 4.3.2 closing down\nE: closed: closing down"
    ));
    let bad = "C: X\nS: 500 5.5.2 this is no command\n".repeat(6);
    check_open(&format!("{bad}C: X\nS: 421 4.7.0 too many errors\nE: closed: too many errors"));
    // EHLO was the first of five.
    let idle = "C: RSET\nS: 250 2.0.0 forgotten\n".repeat(4);
    check_open(&format!(
        "{idle}C: NOOP\nS: 421 4.7.0 too many commands without mail\nE: closed: idle commands"
    ));
}

#[test]
fn lmtp_answers_for_each_recipient() {
    check(
        ServerSettings { lmtp: true, ..settings() },
        &HELLO.replace("ESMTP", "LMTP").replace("EHLO", "LHLO").replace(
            "ENHANCEDSTATUSCODES\n",
            "ENHANCEDSTATUSCODES
             C: MAIL FROM:<>|RCPT TO:<r@x.test>|RCPT TO:<s@x.test>|DATA
             S: 250 2.1.0 sender ok
             S: 250 2.1.5 recipient ok
             S: 250 2.1.5 recipient ok
             S: 354 end with a dot on a line of its own
             C: .
             E: message from <> to r@x.test,s@x.test by nobody:
             ok
             S: 250 2.0.0 queued
             S: 250 2.0.0 queued",
        ),
    );
}

#[test]
fn nobody_relays_without_a_login() {
    let closed = ServerSettings { access: Access::Authenticated, ..settings() };
    for path in [
        "<r@x.test>",
        "<r%x.test@we.test>",
        "<x.test!r@we.test>",
        "<@we.test:r@x.test>",
        "<\"r@x.test\"@we.test>",
        "<r@x.test@we.test>",
        "<postmaster>",
    ] {
        check(
            closed.clone(),
            &format!(
                "{HELLO}C: MAIL FROM:<a@we.test>|RCPT TO:{path}
                 S: 530 5.7.0 authentication is required\nS: 503 5.5.1 say MAIL first"
            ),
        );
    }
    // Without logins, and without a way to TLS, AUTH is neither offered nor taken.
    let no_users = ServerSettings { starttls: true, ..settings() };
    let hello = HELLO.replace("S: 250 ENH", "S: 250-STARTTLS\n    S: 250 ENH");
    let refused = "C: AUTH PLAIN AGEAYg==\nS: 502 5.5.1 this command is not offered";
    check(no_users, &format!("{hello}{refused}"));
    let no_tls = ServerSettings { logins: true, access: Access::Authenticated, ..settings() };
    check(no_tls, &format!("{HELLO}{refused}"));
    let bounces = ServerSettings { access: Access::OwnRecipientsOnly, ..settings() };
    check(
        bounces.clone(),
        &format!(
            "{HELLO}C: MAIL FROM:<MAILER-DAEMON>\nS: 250 2.1.0 sender ok\nC: RSET\nS: 250 2.0.0 forgotten
             C: MAIL FROM:<MAILER DAEMON@x>\nS: 501 5.1.7 the return path is not an address"
        ),
    );
    check(
        bounces,
        &format!(
            "{HELLO}C: AUTH PLAIN\nS: 502 5.5.1 this command is not offered
             C: MAIL FROM:<>|RCPT TO:<gone@x.test>\nS: 250 2.1.0 sender ok\nS: 550 5.1.1 quarantined"
        ),
    );
}

/// The whole conversation for octets cut at `cuts`; replies are taken only after the greeting and
/// at the end, or after each line when `polite`.
fn converse(octets: &[u8], cuts: &[usize], polite: bool) -> String {
    let now = Timestamp::from_secs(1);
    let mut session =
        session(ServerSettings { starttls: true, logins: true, auth_in_clear: true, ..settings() });
    let mut said = session.next_to_send().unwrap().to_vec();
    let mut events = String::new();
    let mut bounds: Vec<usize> = cuts.iter().map(|cut| cut % (octets.len() + 1)).collect();
    if polite {
        bounds.extend(memchr::memchr_iter(b'\n', octets).map(|end| end + 1));
    }
    bounds.push(octets.len());
    bounds.sort_unstable();
    let mut from = 0;
    for to in bounds {
        session.receive(now, &octets[from..to]);
        from = to;
        while let Some(event) = session.poll_event() {
            events.push_str(&format!("{}\n", shown(&event)));
            match event {
                ServerEvent::Message(_) => session.message_result(now, &Reply::line(250, "ok")),
                ServerEvent::Authenticate { password, .. } => {
                    session.auth_result(now, password.len() > 1);
                }
                _ => {}
            }
        }
        assert!(session.pending.len() <= octets.len());
        if polite && octets[..to].ends_with(b"\n") {
            while let Some(piece) = session.next_to_send() {
                said.extend_from_slice(&piece);
            }
        }
    }
    while let Some(piece) = session.next_to_send() {
        said.extend_from_slice(&piece);
    }
    format!("{}\n---\n{events}", said.escape_ascii())
}

/// Pieces of conversations, so that random ones come far.
const FRAGMENTS: &[&str] = &[
    "EHLO c.test\r\n",
    "HELO c\r\n",
    "MAIL FROM:<a@c.test>\r\n",
    "RCPT TO:<r@x.test>\r\n",
    "DATA\r\n",
    "Subject: x\r\n\r\n",
    ".\r\n",
    "..\r\n",
    "\r\n.\r\n",
    "\n.\n",
    "\r",
    "\n",
    ".",
    "BDAT 5\r\n",
    "12345",
    "BDAT 7 LAST\r\n",
    "RSET\r\n",
    "QUIT\r\n",
    "STARTTLS\r\n",
    "AUTH PLAIN AHVzZXIAcGFzcw==\r\n",
    "AUTH LOGIN\r\n",
    "dXNlcg==\r\n",
    "*\r\n",
    "\0",
    "x",
    "MAIL FROM:<> SIZE=99\r\nRCPT TO:<r@x.test>\r\nDATA\r\n",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_cut_gives_the_same_conversation(
        fragments in prop::collection::vec(prop::sample::select(FRAGMENTS), 0..25),
        noise in prop::collection::vec(any::<u8>(), 0..8),
        cuts in prop::collection::vec(any::<usize>(), 0..30),
        polite in any::<bool>(),
    ) {
        let mut octets = if polite { b"EHLO c.test\r\n".to_vec() } else { Vec::new() };
        octets.extend(fragments.concat().into_bytes());
        octets.extend(noise);
        prop_assert_eq!(converse(&octets, &cuts, polite), converse(&octets, &[], polite));
    }

    /// Whatever stands in DATA: either the session ends or refuses, or the message that comes out
    /// is the whole text.
    #[test]
    fn no_text_ends_early(text in "[.a\r\n\0]{0,30}") {
        let mut octets = b"EHLO c.test\r\nMAIL FROM:<>\r\nRCPT TO:<r@x.test>\r\nDATA\r\n".to_vec();
        let start = octets.len();
        octets.extend_from_slice(text.as_bytes());
        octets.extend_from_slice(b"\r\n.\r\n");
        let heard = converse(&octets, &[], true);
        let end = memchr::memmem::find(&octets[start - 2..], b"\r\n.\r\n").unwrap();
        if let Some((_, event)) = heard.split_once("message from <> to r@x.test by nobody: ") {
            let whole = &octets[start..start - 2 + end + 2];
            let unstuffed = whole.split_inclusive(|octet| *octet == b'\n')
                .flat_map(|line| line.strip_prefix(b".").unwrap_or(line).iter().copied())
                .collect::<Vec<u8>>();
            prop_assert_eq!(event.lines().next().unwrap(), unstuffed.escape_ascii().to_string());
        } else {
            prop_assert!(heard.contains("550 5.6.11"), "{heard}");
        }
    }
}
