//! Transcripts of whole sessions, hostile servers, and random octets.

use core::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::mailbox::tests::{Played, check, settings};

fn play(settings: FetchSettings, script: &str) {
    check(|now| ImapSession::new(settings.clone(), now), script);
}

/// To the selected mailbox of three messages; `%` stands for capabilities.
const SELECTED: &str = r#"
    S: * OK ready
    C: m1 CAPABILITY
    S: * CAPABILITY IMAP4rev1|m1 OK
    C: m2 LOGIN "box" "se cret"
    S: m2 OK
    C: m3 CAPABILITY
    S: * CAPABILITY IMAP4rev1 %|m3 OK
    C: m4 SELECT "INBOX"
    S: * 3 EXISTS|* OK [UIDVALIDITY 7] ok|* FLAGS (\Seen)|m4 OK [READ-WRITE] done
    C: m5 UID SEARCH 1:3 UNDELETED
"#;

fn selected(capabilities: &str) -> String {
    SELECTED.replace('%', capabilities)
}

#[test]
fn a_mailbox_is_emptied() {
    let script = r#"
        S: * SEARCH 12 10 11|m5 OK
        C: m6 UID FETCH 10 (UID BODY.PEEK[]<0.61>)
        S: * 1 FETCH (UID 10 BODY[]<0> {8}
        S: one(|))| FLAGS (\Seen))|* 4 EXISTS|m6 OK
        E: message "7/10" "one(\r\n))"
        kept
        C: m7 UID FETCH 11 (UID BODY.PEEK[]<0.61>)
        S: * 2 FETCH (BODY[]<0> "t\"wo" UID 11)|m7 OK
        E: message "7/11" "t\"wo"
        kept
        C: m8 UID FETCH 12 (UID BODY.PEEK[]<0.61>)
        S: * 3 FETCH (UID 12 BODY[]<0> NIL)|m8 OK
        C: m9 UID STORE 10:11 +FLAGS.SILENT (\Deleted)
        S: m9 OK
        C: m10 UID EXPUNGE 10:11
        S: * 1 EXPUNGE|* 1 EXPUNGE|m10 OK
        C: m11 LOGOUT
        S: * BYE|m11 OK
        E: closed: finished; held 3, fetched 2, deleted 2, unconfirmed 0, left 0
    "#;
    // The literal is counted exactly: `one(` CR LF `))`.
    let script = script.replace("S: one(|))| FLAGS", "S: one(|)) FLAGS");
    play(settings(), &format!("{}{script}", selected("UIDPLUS")));
}

#[test]
fn without_uid_expunge_nothing_of_others_goes() {
    let fetched = r#"
        S: * SEARCH 10|m5 OK
        C: m6 UID FETCH 10 (UID BODY.PEEK[]<0.61>)
        S: * 1 FETCH (UID 10 BODY[]<0> {3}
        S: one)|m6 OK
        E: message "7/10" "one"
        kept
        C: m7 UID STORE 10 +FLAGS.SILENT (\Deleted)
        S: m7 OK
        C: m8 UID SEARCH DELETED
    "#
    .replace("{3}\n        S: one)", "{3}|one)");
    let alone = r#"
        S: * SEARCH 10|m8 OK
        C: m9 EXPUNGE
        S: m9 OK
        C: m10 LOGOUT
        S: m10 OK
        E: closed: finished; held 3, fetched 1, deleted 1, unconfirmed 0, left 0
    "#;
    play(settings(), &format!("{}{fetched}{alone}", selected("")));
    let others = r#"
        S: * SEARCH 10 12|m8 OK
        C: m9 LOGOUT
        S: m9 OK
        E: closed: finished; held 3, fetched 1, deleted 1, unconfirmed 0, left 0
    "#;
    play(settings(), &format!("{}{fetched}{others}", selected("")));
}

#[test]
fn nothing_is_flagged_that_was_not_kept_or_was_cut() {
    let large = "x".repeat(75);
    let kept = "x".repeat(60);
    let script = format!(
        "{}{}",
        selected("UIDPLUS"),
        r#"
        S: * SEARCH 10 11 12|m5 OK
        C: m6 UID FETCH 10 (UID BODY.PEEK[]<0.61>)
        S: * 1 FETCH (UID 10 BODY[] {75}|LARGE)|m6 OK
        E: message "7/10" "KEPT" (cut)
        kept
        C: m7 UID FETCH 11 (UID BODY.PEEK[]<0.61>)
        S: m7 NO [EXPUNGEISSUED] gone
        C: m8 UID FETCH 12 (UID BODY.PEEK[]<0.61>)
        S: * 3 FETCH (UID 12 BODY[]<0> {1}|x)|m8 OK
        E: message "7/12" "x"
        not kept
        C: m9 LOGOUT
        S: m9 OK
        E: closed: a message could not be kept here; held 3, fetched 1, deleted 0, unconfirmed 0, left 2
        "#
        .replace("LARGE", &large)
        .replace("KEPT", &kept)
    );
    play(settings(), &script);
    let lost = format!(
        "{}{}",
        selected("UIDPLUS"),
        r#"
        S: * SEARCH 10 11|m5 OK
        C: m6 UID FETCH 10 (UID BODY.PEEK[]<0.61>)
        S: * 1 FETCH (UID 10 BODY[]<0> {1}|x)|m6 OK
        E: message "7/10" "x"
        kept
        C: m7 UID FETCH 11 (UID BODY.PEEK[]<0.61>)
        S: * 1 FETCH (UID 11 BODY[]<0> {30}|half
        lost
        E: closed: the connection was lost; held 3, fetched 1, deleted 0, unconfirmed 1, left 0 during "7/11"
        "#
    );
    play(settings(), &lost);
    let left = FetchSettings { left: ["7/10".into()].into(), messages: 1, ..settings() };
    let skipped = format!(
        "{}{}",
        selected("UIDPLUS"),
        "S: * SEARCH 10 11 12|m5 OK\nC: m6 UID FETCH 11 (UID BODY.PEEK[]<0.61>)\n"
    );
    play(left, &skipped);
}

#[test]
fn tls_and_logins() {
    let required = FetchSettings { protection: Protection::StartTls, ..settings() };
    play(
        required.clone(),
        r#"
        S: * OK ready
        C: m1 STARTTLS
        S: m1 OK
        E: start TLS
        tls ok
        C: m2 CAPABILITY
        S: * CAPABILITY LOGINDISABLED AUTH=PLAIN|m2 OK
        C: m3 AUTHENTICATE PLAIN
        S: +
        C: AGJveABzZSBjcmV0
        S: m3 NO [AUTHENTICATIONFAILED] no
        E: closed: the server refuses the login: [AUTHENTICATIONFAILED] no; held 0, fetched 0, deleted 0, unconfirmed 0, left 0
        "#,
    );
    for (greeting, wanted) in [
        (
            "S: * PREAUTH welcome",
            "the server does not begin TLS, which is required: it began with PREAUTH",
        ),
        ("S: * BYE busy", "the server refuses the connection: busy"),
    ] {
        let script = format!(
            "{greeting}\nE: closed: {wanted}; held 0, fetched 0, deleted 0, unconfirmed 0, left 0\n"
        );
        play(required.clone(), &script);
    }
    play(
        required.clone(),
        "S: * OK\nC: m1 STARTTLS\nS: m1 BAD what\nE: closed: the server does not begin TLS, which \
         is required: what; held 0, fetched 0, deleted 0, unconfirmed 0, left 0\n",
    );
    let mut played = Played::new(|now| ImapSession::new(required, now));
    played.receive(b"* OK\r\nm1 OK\r\n* CAPABILITY forged\r\n", usize::MAX);
    let wanted = "octets in clear behind the answer to STARTTLS";
    assert!(played.transcript.contains(wanted), "{}", played.transcript);
    play(
        settings(),
        "S: * OK\nC: m1 CAPABILITY\nS: * CAPABILITY LOGINDISABLED|m1 OK\nE: closed: the server \
         refuses the login: it offers no login that name and password can be said with; held 0, \
         fetched 0, deleted 0, unconfirmed 0, left 0\n",
    );
    // A password that no quoted string can hold.
    let odd = FetchSettings { password: "pässwort".into(), ..settings() };
    play(
        odd.clone(),
        "S: * OK\nC: m1 CAPABILITY\nS: * CAPABILITY AUTH=PLAIN|m1 OK\n\
         C: m2 AUTHENTICATE PLAIN\nS: + \nC: AGJveABww6Rzc3dvcnQ=\nS: m2 OK\nC: m3 CAPABILITY\n",
    );
    play(
        odd,
        "S: * PREAUTH\nC: m1 CAPABILITY\nS: m1 OK\nC: m2 SELECT \"INBOX\"\nS: m2 NO [X] none\n\
         E: closed: the server refuses SELECT: [X] none; held 0, fetched 0, deleted 0, \
         unconfirmed 0, left 0\n",
    );
}

#[test]
fn a_read_only_or_empty_mailbox_is_left() {
    let begin = SELECTED.split("S: * 3 EXISTS").next().unwrap().replace('%', "");
    let read_only = "S: * 3 EXISTS|m4 OK [READ-ONLY] ok\nE: closed: the server refuses SELECT: the \
                     mailbox is read-only: nothing could be deleted; held 3, fetched 0, deleted 0, \
                     unconfirmed 0, left 0\n";
    play(settings(), &format!("{begin}{read_only}"));
    let empty = "S: * 0 EXISTS|m4 OK\nC: m5 LOGOUT\nS: m5 OK\nE: closed: finished; held 0, \
                 fetched 0, deleted 0, unconfirmed 0, left 0\n";
    play(settings(), &format!("{begin}{empty}"));
    let look = FetchSettings { messages: 0, ..settings() };
    let many = "S: * 99999999999 EXISTS|m4 OK\nC: m5 LOGOUT\nS: m5 NO\nE: closed: finished; held \
                99999999999, fetched 0, deleted 0, unconfirmed 0, left 0\n";
    play(look, &format!("{begin}{many}"));
    let window = "S: * 99999999999 EXISTS|m4 OK\nC: m5 UID SEARCH 1:5000 UNDELETED\n";
    play(settings(), &format!("{begin}{window}"));
}

/// How a session ends that gets all of these octets.
fn end_of(octets: &[u8]) -> Option<FetchCause> {
    let mut session = ImapSession::new(settings(), Timestamp::EPOCH);
    for piece in octets.chunks(65_536) {
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
    for (octets, wanted) in [
        (vec![b'x'; 200_000], "a response without end"),
        (b"* 1 FETCH {99999999999999999999}\r\n".to_vec(), "a literal without end"),
        (b"* {3}\r\nabc ".repeat(100), "a literal without end"),
        (b"* 1 EXISTS\r\n".repeat(100_002), "responses without end"),
        (b"* OK\nhello".to_vec(), "a line that does not end with CR LF"),
        (b"* OK\r\nm9 OK\r\n".to_vec(), "a response with a tag that is not ours"),
        (b"* OK\r\nm1 WELL\r\n".to_vec(), "an answer that is not OK, NO or BAD"),
        (b"* OK\r\n+ go on\r\n".to_vec(), "a continuation that nobody asked for"),
    ] {
        assert_eq!(end_of(&octets), Some(FetchCause::Broken(wanted)));
    }
}

#[test]
fn time_is_bounded() {
    play(
        settings(),
        "S: * OK\nC: m1 CAPABILITY\nT: 299\nS: * OK still here\nT: 299\nT: 102\nE: closed: the \
         server took too long; held 0, fetched 0, deleted 0, unconfirmed 0, left 0\n",
    );
}

#[test]
fn sets_are_short() {
    assert_eq!(set(&[5, 1, 2, 3, 7, 8]), "1:3,5,7:8");
    assert_eq!(set(&[u32::MAX]), "4294967295");
    assert_eq!(quoted("a\"b\\c").unwrap(), "\"a\\\"b\\\\c\"");
    assert!(quoted("a\r\nb").is_none() && quoted("").is_none());
}

proptest! {
    #[test]
    fn no_octets_make_it_panic(
        lines in proptest::collection::vec(
            prop_oneof![
                Just("* SEARCH 1 2 4294967295".to_owned()), Just("* 3 EXISTS".to_owned()),
                Just("* 1 FETCH (UID 1 BODY[]<0> {3}\r\nabc)".to_owned()),
                Just("* 1 FETCH ((((((((".to_owned()), Just("* 1 FETCH (UID \"\\".to_owned()),
                Just("* 1 FETCH ([[( {0}".to_owned()), Just("* {".to_owned()),
                (0_u32..12, proptest::sample::select(vec!["OK", "NO", "BAD"]))
                    .prop_map(|(tag, word)| format!("m{tag} {word}")),
                "[ -~]{0,20}",
            ],
            0..40,
        ),
        kept in any::<bool>(),
    ) {
        let mut session = ImapSession::new(settings(), Timestamp::EPOCH);
        let mut now = Timestamp::EPOCH;
        session.receive(now, b"* OK\r\n");
        let mut closed = 0;
        for line in lines {
            now = now + Duration::from_secs(1);
            session.receive(now, format!("{line}\r\n").as_bytes());
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
