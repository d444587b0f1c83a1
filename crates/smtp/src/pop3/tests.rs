//! Transcripts of whole sessions, hostile servers, and random octets.

use core::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::mailbox::tests::{Played, check, settings};

fn play(settings: FetchSettings, script: &str) {
    check(|now| Pop3Session::new(settings.clone(), now), script);
}

/// The way to the first message, in clear.
const LOGIN: &str = "S: +OK ready\nC: CAPA\nS: -ERR what\nC: USER box\nS: +OK\nC: PASS se cret\n";

#[test]
fn a_mailbox_is_emptied() {
    play(
        settings(),
        r#"
        S: +OK ready
        C: CAPA
        S: +OK
        S: USER|UIDL|PIPELINING|.
        C: USER box
        S: +OK
        C: PASS se cret
        S: +OK logged in
        C: STAT
        S: +OK 2 40
        C: UIDL
        S: +OK|1 a1|2 a2|.
        C: LIST
        S: +OK|1 20|2 20|.
        C: RETR 1
        S: +OK 20 octets
        S: Subject: x||..dot|text|.
        E: message "a1" "Subject: x\r\n\r\n.dot\r\ntext\r\n"
        kept
        C: DELE 1
        C: RETR 2
        S: +OK deleted
        S: +OK|two|.
        E: message "a2" "two\r\n"
        kept
        C: DELE 2
        S: +OK deleted
        C: QUIT
        S: +OK bye
        E: closed: finished; held 2, fetched 2, deleted 2, unconfirmed 0, left 0
        "#,
    );
}

#[test]
fn without_lists_pipelining_and_names_it_works_too() {
    let script = format!(
        "{LOGIN}{}",
        r#"
        S: +OK
        C: STAT
        S: +OK 2 40
        C: UIDL
        S: -ERR no
        C: LIST
        S: -ERR no
        C: RETR 1
        S: +OK|one|.
        E: message "" "one\r\n"
        kept
        C: DELE 1
        S: +OK
        C: RETR 2
        S: -ERR no such message
        C: QUIT
        S: +OK
        E: closed: finished; held 2, fetched 1, deleted 1, unconfirmed 0, left 1
        "#
    );
    play(settings(), &script);
}

#[test]
fn nothing_is_deleted_that_was_not_kept() {
    let begin = format!(
        "{LOGIN}{}",
        r#"
        S: +OK
        C: STAT
        S: +OK 3 40
        C: UIDL
        S: +OK|1 a|2 b|3 c|.
        C: LIST
        S: +OK|1 5|2 5|3 5|.
        C: RETR 1
        S: +OK|one|.
        E: message "a" "one\r\n"
        "#
    );
    let refused = r#"
        not kept
        C: QUIT
        S: +OK
        E: closed: a message could not be kept here; held 3, fetched 0, deleted 0, unconfirmed 0, left 0
        "#;
    play(settings(), &format!("{begin}{refused}"));
    let lost = r#"
        kept
        C: DELE 1
        S: +OK
        C: RETR 2
        S: +OK|half
        lost
        E: closed: the connection was lost; held 3, fetched 1, deleted 0, unconfirmed 1, left 0 during "b"
        "#;
    play(settings(), &format!("{begin}{lost}"));
    let not_taken = r#"
        kept
        C: DELE 1
        S: -ERR locked
        C: RETR 2
        S: +OK|two|.
        E: message "b" "two\r\n"
        finish
        kept
        C: DELE 2
        S: +OK
        C: QUIT
        S: -ERR some deleted messages not removed
        E: closed: the server refuses QUIT: -ERR some deleted messages not removed; held 3, fetched 2, deleted 0, unconfirmed 2, left 0
        "#;
    play(settings(), &format!("{begin}{not_taken}"));
}

#[test]
fn sizes_decide_nothing_but_the_command() {
    let begin = |size: &str| {
        format!(
            "{LOGIN}S: +OK\nC: STAT\nS: +OK 1 1\nC: UIDL\nS: +OK|1 a|.\nC: LIST\n\
             S: +OK|1 {size}|.\n"
        )
    };
    // Announced as small, and large: what is behind the limit is cut, and it stays.
    let large = "x".repeat(70);
    let kept = "x".repeat(60);
    let lied = format!(
        "{}C: RETR 1\nS: +OK 5 octets\nS: {large}|.\nE: message \"a\" \"{kept}\" (cut)\nkept\n\
         C: QUIT\nS: +OK\nE: closed: finished; held 1, fetched 1, deleted 0, unconfirmed 0, left 1\n",
        begin("5")
    );
    play(settings(), &lied);
    // Announced as large: only its head is fetched, even if it turns out to be all.
    let announced = format!(
        "{}C: TOP 1 2000\nS: +OK\nS: head||.\nE: message \"a\" \"head\\r\\n\\r\\n\" (cut)\nkept\n\
         C: QUIT\nS: +OK\nE: closed: finished; held 1, fetched 1, deleted 0, unconfirmed 0, left 1\n",
        begin("99999999999")
    );
    play(settings(), &announced);
    let trusting = FetchSettings { ignore_size: true, ..settings() };
    let ignored = format!(
        "{}C: RETR 1\nS: +OK\nS: all|.\nE: message \"a\" \"all\\r\\n\"\nkept\nC: DELE 1\nS: +OK\n\
         C: QUIT\nS: +OK\nE: closed: finished; held 1, fetched 1, deleted 1, unconfirmed 0, left 0\n",
        begin("99999999999")
    );
    play(trusting, &ignored);
    let left = FetchSettings { left: ["a".into()].into(), ..settings() };
    let untouched = format!(
        "{}C: QUIT\nS: +OK\nE: closed: finished; held 1, fetched 0, deleted 0, unconfirmed 0, left 0\n",
        begin("5")
    );
    play(left, &untouched);
}

#[test]
fn tls_is_begun_before_any_name_is_said() {
    let required = FetchSettings { protection: Protection::StartTls, ..settings() };
    play(
        required.clone(),
        r#"
        S: +OK
        C: STLS
        S: +OK begin
        E: start TLS
        tls ok
        C: CAPA
        S: -ERR
        C: USER box
        "#,
    );
    play(
        required.clone(),
        r#"
        S: +OK
        C: STLS
        S: -ERR not here
        E: closed: the server does not begin TLS, which is required: -ERR not here; held 0, fetched 0, deleted 0, unconfirmed 0, left 0
        "#,
    );
    let mut played = Played::new(|now| Pop3Session::new(required, now));
    played.receive(b"+OK\r\n+OK begin\r\n+OK injected\r\n", usize::MAX);
    let wanted = "octets in clear behind the answer to STLS";
    assert!(played.transcript.contains(wanted), "{}", played.transcript);
    assert_eq!(played.session.deadline(), Timestamp::NEVER, "it is over");
    for bad in ["se\r\ncret", "", "a\0b"] {
        let settings = FetchSettings { password: bad.into(), ..settings() };
        let mut session = Pop3Session::new(settings, Timestamp::EPOCH);
        session.receive(Timestamp::EPOCH, b"+OK\r\n-ERR\r\n");
        let said = session.next_to_send().unwrap();
        assert_eq!(&said[..], b"CAPA\r\n", "{bad:?} is not said");
    }
}

#[test]
fn a_refused_login_is_told_apart_from_a_busy_server() {
    for (reply, wanted) in [
        ("-ERR wrong", "the server refuses the login: -ERR wrong"),
        ("-ERR [IN-USE] later", "the server refuses the login for now: -ERR [IN-USE] later"),
    ] {
        let script = format!(
            "{LOGIN}S: {reply}\nE: closed: {wanted}; held 0, fetched 0, deleted 0, unconfirmed 0, \
             left 0\n"
        );
        play(settings(), &script);
    }
    play(
        settings(),
        r#"
        S: -ERR go away
        E: closed: the server refuses the connection: -ERR go away; held 0, fetched 0, deleted 0, unconfirmed 0, left 0
        "#,
    );
}

#[test]
fn the_session_is_bounded_by_messages_and_time() {
    let begin = format!(
        "{LOGIN}{}",
        r#"
        S: +OK
        C: STAT
        S: +OK 3 40
        C: UIDL
        S: +OK|1 a|2 b|3 c|.
        C: LIST
        S: +OK|1 5|2 5|3 5|.
        C: RETR 1
        S: +OK|one|.
        E: message "a" "one\r\n"
        "#
    );
    let end = r#"
        kept
        C: DELE 1
        S: +OK
        C: QUIT
        S: +OK
        E: closed: finished; held 3, fetched 1, deleted 1, unconfirmed 0, left 0
        "#;
    play(FetchSettings { messages: 1, ..settings() }, &format!("{begin}{end}"));
    play(settings(), &format!("{begin}T: 100\n{end}"));
    play(
        FetchSettings { messages: 0, ..settings() },
        &format!(
            "{LOGIN}S: +OK\nC: STAT\nS: +OK 3 40\nC: QUIT\nS: +OK\n\
             E: closed: finished; held 3, fetched 0, deleted 0, unconfirmed 0, left 0\n"
        ),
    );
    play(
        settings(),
        &format!(
            "{LOGIN}T: 299\nT: 1\nE: closed: the server took too long; held 0, fetched 0, \
             deleted 0, unconfirmed 0, left 0\n"
        ),
    );
}

/// How a session ends that gets all of these octets.
fn end_of(octets: &[u8]) -> Option<FetchCause> {
    let mut session = Pop3Session::new(settings(), Timestamp::EPOCH);
    for piece in octets.chunks(4_096) {
        session.receive(Timestamp::EPOCH, piece);
        while let Some(event) = session.poll_event() {
            match event {
                FetchEvent::Closed(end) => return Some(end.cause),
                FetchEvent::Message(_) => session.message_kept(Timestamp::EPOCH, true),
                FetchEvent::StartTls => session.connection_lost(),
            }
        }
    }
    None
}

#[test]
fn what_has_no_end_is_ended() {
    let to_list = b"+OK\r\n-ERR\r\n+OK\r\n+OK\r\n+OK 1 1\r\n+OK\r\n".to_vec();
    let to_content = [&to_list[..], b".\r\n+OK\r\n1 5\r\n.\r\n+OK\r\n"].concat();
    for (begin, filler, wanted) in [
        (Vec::new(), vec![b'x'; 5_000], "a line without end"),
        (to_list.clone(), vec![b'1'; 5_000], "a line without end"),
        (to_list, b"1 abcdefgh\r\n".repeat(6 << 20), "a list without end"),
        (to_content, vec![b'x'; 2 << 20], "a message without end"),
        (b"+OK\r\n".to_vec(), b"hello\r\n".to_vec(), "a reply that is neither +OK nor -ERR"),
        (b"+OK\r\n".to_vec(), b"+OK\n".to_vec(), "a line that does not end with CR LF"),
    ] {
        let cause = end_of(&[begin, filler].concat());
        assert_eq!(cause, Some(FetchCause::Broken(wanted)));
    }
}

#[test]
fn bare_line_ends_in_a_message_end_nothing() {
    let begin = format!("{LOGIN}S: +OK\nC: STAT\nS: +OK 1 1\nC: UIDL\nS: -ERR\nC: LIST\nS: -ERR\n");
    let script = format!(
        "{begin}C: RETR 1\nS: +OK|a~.~+OK forged~.|.\nE: message \"\" \"a\\n.\\n+OK forged\\n.\\r\\n\"\n\
         lost\nE: closed: the connection was lost; held 1, fetched 0, deleted 0, unconfirmed 0, left 0\n"
    );
    play(settings(), &script);
    // A server that knows no CR at all.
    let mut played = Played::new(|now| Pop3Session::new(settings(), now));
    played.receive(b"+OK\n-ERR\n+OK\n+OK\n+OK 1 1\n-ERR\n-ERR\n+OK\na\n..b\n.\n", usize::MAX);
    played.session.message_kept(Timestamp::from_secs(1_000), true);
    assert_eq!(&played.session.next_to_send().unwrap()[..], b"DELE 1\r\n");
}

/// What a message means, line by line.
fn naive(content: &[u8]) -> (Vec<u8>, usize) {
    let mut from = 0;
    let mut plain = Vec::new();
    loop {
        let end = content[from..].windows(2).position(|two| two == b"\r\n").unwrap() + from + 2;
        let line = &content[from..end];
        if line == b".\r\n" {
            return (plain, end);
        }
        plain.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        from = end;
    }
}

proptest! {
    #[test]
    fn content_is_what_its_lines_are(
        text in proptest::collection::vec(proptest::sample::select(b"ab.\r\n".to_vec()), 0..60),
        cut in 1_usize..9,
    ) {
        let all = [&text[..], b"\r\n.\r\nrest"].concat();
        let (wanted, end) = naive(&all);
        let mut content = Content::new(1_000, false);
        let mut used = 0;
        for piece in all.chunks(cut) {
            match content.read(piece) {
                Progress::More => used += piece.len(),
                Progress::End(here) => {
                    used += here;
                    break;
                }
            }
        }
        prop_assert_eq!(&content.kept, &wanted);
        prop_assert_eq!(used, end);
    }

    #[test]
    fn no_octets_make_it_panic(
        lines in proptest::collection::vec(
            prop_oneof![
                Just(b"+OK 3 9".to_vec()), Just(b"-ERR".to_vec()), Just(b".".to_vec()),
                Just(b"1 5".to_vec()), Just(b"2 99999999999999999999".to_vec()),
                Just(b"4294967296 x".to_vec()), Just(b"0 0".to_vec()),
                proptest::collection::vec(any::<u8>(), 0..20),
            ],
            0..40,
        ),
        kept in any::<bool>(),
    ) {
        let mut session = Pop3Session::new(settings(), Timestamp::EPOCH);
        let mut now = Timestamp::EPOCH;
        let mut closed = 0;
        for line in lines {
            now = now + Duration::from_secs(1);
            session.receive(now, &[&line[..], b"\r\n"].concat());
            while session.next_to_send().is_some() {}
            while let Some(event) = session.poll_event() {
                match event {
                    FetchEvent::Closed(_) => closed += 1,
                    FetchEvent::Message(message) => {
                        prop_assert!(message.octets.len() <= 60);
                        session.message_kept(now, kept);
                    }
                    FetchEvent::StartTls => session.tls_established(now),
                }
            }
        }
        prop_assert!(closed <= 1);
    }
}
