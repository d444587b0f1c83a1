//! What becomes of messages.

use core::cell::Cell;
use core::time::Duration;
use std::rc::Rc;

use mail::attempt::{EndCause, Stage};
use mail::failure::{FailureType, Reason};
use mail::id::SourceId;
use mail::reply::Reply;
use rules::TlsPolicy;
use rules::bounce::{Key, Qualification, QualificationStatus};

use super::harness::{Answer, Bench, RowState, accept, route, rules, sources};
use crate::event::{Event, TlsUse};
use crate::reason::WaitReason;
use crate::work::{DeliveryOptions, DeliveryState, FinalState};
use crate::{BreakerSettings, Settings};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn greylisting_comes_back_from_the_same_source() {
    let mut bench = Bench::new(rules(""), sources(&[1, 1, 1]), Settings::default());
    bench.routes.insert("a.example".into(), route(&[(10, "mx.a.example", &["192.0.2.1"])]));
    bench.exchanger = Box::new(|_, _, message| match message.attempts {
        0 => Answer::Reply(Stage::RcptTo, Reply::line(451, "4.7.1 Greylisted, come back")),
        _ => accept(),
    });
    let delivery = bench.plain(1);
    let ids = bench.queue(delivery, "a.example", 400);
    bench.run(MINUTE * 9);
    assert_eq!(bench.count(RowState::Queued), 400, "the breaker is not for this");
    bench.run(MINUTE * 3);
    assert_eq!(bench.sent(), 400);
    for id in ids {
        let tries: Vec<SourceId> =
            bench.begun.iter().filter(|begun| begun.3 == id).map(|begun| begun.1).collect();
        assert!(tries.len() == 2 && tries[0] == tries[1], "{id}: {tries:?}");
        let pause = {
            let times: Vec<_> = bench.begun.iter().filter(|begun| begun.3 == id).collect();
            times[1].0 - times[0].0
        };
        assert!(pause >= MINUTE * 10 && pause <= MINUTE * 12, "{pause:?}");
    }
}

#[test]
fn temporary_refusals_follow_the_schedule_until_the_validity_ends() {
    let mut bench = Bench::simple("");
    bench.exchanger =
        Box::new(|_, _, _| Answer::Reply(Stage::RcptTo, Reply::line(452, "4.2.2 mailbox full")));
    let delivery = bench.plain(1);
    let ids = bench.queue(delivery, "a.example", 3);
    bench.run(MINUTE * 60 * 24 * 6);
    assert_eq!(bench.state(ids[0]), RowState::Final(FinalState::Expired));
    let times: Vec<u64> = bench
        .begun
        .iter()
        .filter(|begun| begun.3 == ids[0])
        .map(|begun| (begun.0 - bench.begun[0].0).as_secs() / 3_600)
        .collect();
    // Five tries an hour apart (a little more by chance), then one a day.
    assert!((9..=10).contains(&times.len()), "{times:?}");
    assert_eq!(&times[..6], &[0, 1, 2, 3, 4, 5]);
    assert!(times[6] - times[5] >= 24, "{times:?}");
}

#[test]
fn refusals_for_good_fail_at_once() {
    let mut bench = Bench::simple("");
    bench.exchanger =
        Box::new(|_, _, _| Answer::Reply(Stage::RcptTo, Reply::line(550, "5.1.1 user unknown")));
    let delivery = bench.plain(1);
    let ids = bench.queue(delivery, "a.example", 20);
    bench.run(MINUTE);
    assert_eq!(bench.count(RowState::Final(FinalState::Failed)), 20);
    assert_eq!(bench.begun.len(), 20);
    assert_eq!(bench.message(ids[7]).attempts, 1);
}

#[test]
fn the_breaker_opens_and_closes() {
    let breaker = BreakerSettings { messages: 50, error_percent: 90, rest: MINUTE * 180 };
    let settings = Settings { breaker, ..Settings::default() };
    let mut bench = Bench::new(rules(""), sources(&[1]), settings);
    bench.routes.insert("a.example".into(), route(&[(10, "mx.a.example", &["192.0.2.1"])]));
    bench.exchanger =
        Box::new(|_, _, _| Answer::Reply(Stage::RcptTo, Reply::line(550, "5.7.1 blocked")));
    let delivery = bench.plain(1);
    bench.queue(delivery, "a.example", 500);
    bench.run(MINUTE);
    let tried = bench.begun.len();
    assert!((50..300).contains(&tried), "{tried}");
    let waiting = bench.engine.groups()[0].waiting.clone().unwrap();
    assert_eq!(waiting.reason, WaitReason::BreakerOpen);
    assert_eq!(bench.held(), 0, "the window is empty meanwhile");
    bench.exchanger = Box::new(|_, _, _| accept());
    bench.run(MINUTE * 170);
    assert_eq!(bench.begun.len(), tried);
    bench.run(MINUTE * 20);
    assert_eq!(bench.sent() + tried, 500);
}

#[test]
fn a_server_that_breaks_off_is_not_hammered() {
    let mut bench = Bench::simple("");
    bench.exchanger = Box::new(|_, _, _| Answer::End(EndCause::Lost { why: String::new() }));
    let delivery = bench.plain(1);
    let ids = bench.queue(delivery, "a.example", 100);
    bench.run(MINUTE * 60);
    // Rests of 4 s, doubled to 10 min, each after one try (a few at once at the first).
    assert!(bench.begun.len() < 40, "{} tries in an hour", bench.begun.len());
    assert_eq!(bench.attempts.len(), bench.begun.len(), "each spent token is in the log");
    assert_eq!(bench.message(ids[0]).attempts, 0);
    bench.exchanger = Box::new(|_, _, _| accept());
    bench.run(MINUTE * 11);
    assert_eq!(bench.sent(), 100);
}

/// OpenSMTPD takes a hundred messages in a session; then each MAIL FROM gets 452, and the session stays open.
#[test]
fn a_server_that_has_had_enough_of_a_connection_is_asked_on_another() {
    let figures =
        "max_connections = 1\nmax_messages_per_connection = 1000\nmessages_per_hour = 100000\n";
    let rule = format!("[[rule]]\nname = \"a\"\nmask = \"mx.a.example\"\n{figures}");
    let mut bench = Bench::simple(&rule);
    let seen = Rc::new(Cell::new(0));
    let sessions = Rc::new(Cell::new(0));
    let (in_session, opened) = (Rc::clone(&seen), Rc::clone(&sessions));
    bench.door = Box::new(move |_, _| {
        in_session.set(0);
        opened.set(opened.get() + 1);
        Ok(())
    });
    bench.exchanger = Box::new(move |_, _, _| {
        seen.set(seen.get() + 1);
        match seen.get() {
            ..=100 => accept(),
            _ => Answer::Reply(Stage::MailFrom, Reply::line(452, "4.5.3 Too many messages sent")),
        }
    });
    let delivery = bench.plain(1);
    let ids = bench.queue(delivery, "a.example", 1_000);
    bench.run(MINUTE);
    assert_eq!(bench.sent(), 1_000, "{} tries", bench.begun.len());
    assert_eq!(sessions.get(), 10);
    // Refused at most: what a connection held when it was asked to close.
    assert!(bench.begun.len() < 1_100, "{} tries", bench.begun.len());
    assert!(ids.iter().all(|id| bench.message(*id).attempts <= 1));
}

/// A sender that is refused for now costs no connection of its own each time, and is put off in the end.
#[test]
fn a_refused_sender_among_others_is_put_off() {
    let mut bench = Bench::simple("");
    bench.exchanger = Box::new(|_, _, message| match message.id.0 {
        50 => Answer::Reply(Stage::MailFrom, Reply::line(450, "4.1.8 Sender domain not found")),
        _ => accept(),
    });
    let delivery = bench.plain(1);
    let ids = bench.queue(delivery, "a.example", 400);
    bench.run(MINUTE);
    assert_eq!(bench.sent(), 399);
    let refused = ids.into_iter().find(|id| id.0 == 50).unwrap();
    assert_eq!(bench.state(refused), RowState::Queued);
    let tries = bench.begun.iter().filter(|begun| begun.3 == refused).count();
    assert!(tries <= 399 / 10 + 1, "{tries}");
}

#[test]
fn one_poisonous_message_does_not_stop_the_others() {
    let poisons: [fn() -> Answer; 2] = [
        || Answer::End(EndCause::Lost { why: "reset".into() }),
        || Answer::Last(Stage::RcptTo, Reply::line(421, "4.3.0 try again later")),
    ];
    for poison in poisons {
        let mut bench = Bench::simple("");
        bench.exchanger = Box::new(move |_, _, message| match message.id.0 {
            3 => poison(),
            _ => accept(),
        });
        let delivery = bench.plain(1);
        bench.queue(delivery, "a.example", 200);
        bench.run(MINUTE * 5);
        assert_eq!(bench.sent(), 199);
    }
}

#[test]
fn one_failed_handshake_does_not_mean_days_in_clear_text() {
    let seen = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let handshakes = std::rc::Rc::clone(&seen);
    let mut bench = Bench::simple("");
    bench.door = Box::new(move |now, plan| {
        let opportunistic = plan.tls == TlsUse::Opportunistic;
        let first = handshakes.borrow().is_empty();
        handshakes.borrow_mut().push((now, opportunistic));
        if first { Err(EndCause::TlsFailed { why: "reset".into() }) } else { Ok(()) }
    });
    let delivery = bench.plain(1);
    bench.queue(delivery, "a.example", 1);
    bench.run(MINUTE);
    assert_eq!(bench.sent(), 1, "the next try goes without");
    bench.run(MINUTE * 15);
    bench.queue(delivery, "a.example", 1);
    bench.run(MINUTE);
    assert_eq!(bench.sent(), 2);
    let tls: Vec<bool> = seen.borrow().iter().map(|(_, tls)| *tls).collect();
    assert_eq!(tls, [true, false, true], "and a later one with TLS again");
}

/// Before the rest of a path that has failed would be over, all has gone.
#[test]
fn where_bdat_is_not_known_content_goes_by_data_at_once() {
    let mut bench = Bench::simple("");
    bench.exchanger = Box::new(|_, plan, _| {
        let reply = Reply::line(502, "5.5.1 command not known");
        if plan.chunking { Answer::End(EndCause::ChunkingFailed { reply }) } else { accept() }
    });
    let delivery = bench.plain(1);
    let ids = bench.queue(delivery, "a.example", 100);
    bench.run(Settings::default().path_rest_first - Duration::from_secs(1));
    assert_eq!(bench.sent(), 100);
    let in_vain = bench.begun.len() - 100;
    assert!((1..=2).contains(&in_vain), "{in_vain} tries by BDAT");
    let attempts = |bench: &Bench| ids.iter().map(|id| bench.message(*id).attempts).max();
    assert_eq!(attempts(&bench), Some(1), "the try by BDAT is none");
    // It is remembered where nothing is open any more, and not for ever.
    bench.run(MINUTE * 60);
    bench.queue(delivery, "a.example", 1);
    bench.run(MINUTE);
    assert_eq!((bench.sent(), bench.begun.len()), (101, 101 + in_vain));
    bench.run(Settings::default().broken_chunking_remembered);
    bench.queue(delivery, "a.example", 1);
    bench.run(MINUTE);
    assert_eq!((bench.sent(), bench.begun.len()), (102, 103 + in_vain));
}

/// Something on the way may let the offer through and break what was offered.
#[test]
fn where_conversations_end_amid_bdat_data_is_used_for_an_hour() {
    for cause in [EndCause::Lost { why: "reset".into() }, EndCause::TimedOut] {
        let mut bench = Bench::simple("");
        let chunking = Rc::new(std::cell::RefCell::new(Vec::new()));
        let seen = Rc::clone(&chunking);
        bench.exchanger = Box::new(move |_, plan, _| {
            seen.borrow_mut().push(plan.chunking);
            if plan.chunking { Answer::End(cause.clone()) } else { accept() }
        });
        let delivery = bench.plain(1);
        bench.queue(delivery, "a.example", 100);
        bench.run(MINUTE * 50);
        assert_eq!(bench.sent(), 100);
        let in_vain = chunking.borrow().iter().filter(|chunking| **chunking).count();
        assert!((1..=2).contains(&in_vain), "{in_vain} tries by BDAT");
        bench.run(MINUTE * 20);
        bench.queue(delivery, "a.example", 1);
        bench.run(MINUTE);
        assert_eq!(chunking.borrow().iter().filter(|chunking| **chunking).count(), in_vain + 1);
    }
}

#[test]
fn required_tls_that_cannot_be_had_says_who_requires_it() {
    let by_rule = "[[rule]]\nname = \"strict\"\nmask = \"mx.a.example\"\ntls = \"required\"\nmatches = \"mx.a.example\"";
    for (text, default, wanted) in [
        (by_rule, TlsPolicy::Opportunistic, "rule strict"),
        ("", TlsPolicy::Required, "[smtp_client] tls"),
    ] {
        let settings = Settings { default_tls: default, ..Settings::default() };
        let mut bench = Bench::new(rules(text), sources(&[1]), settings);
        bench.routes.insert("a.example".into(), route(&[(10, "mx.a.example", &["192.0.2.1"])]));
        bench.door = Box::new(|_, plan| {
            assert_eq!(plan.tls, TlsUse::Required);
            Err(EndCause::TlsFailed { why: "STARTTLS is not offered".into() })
        });
        let delivery = bench.plain(1);
        let ids = bench.queue(delivery, "a.example", 1);
        bench.run(MINUTE);
        let why = bench.why(ids[0]).reason;
        assert_eq!(why.name(), "path resting: no TLS", "{why:?}");
        let words = why.to_string();
        assert!(
            words.contains(&format!("TLS is required by {wanted}: STARTTLS is not offered")),
            "{words}"
        );
        assert!(why.smallest_change().unwrap().contains("opportunistic"));
    }
}

#[test]
fn dry_messages_are_never_connected() {
    let mut bench = Bench::simple("");
    let options = DeliveryOptions { mode: crate::work::SendMode::Dry, ..Default::default() };
    let dry = bench.delivery(1, options);
    let real = bench.plain(2);
    bench.queue(dry, "a.example", 40);
    bench.queue(real, "a.example", 40);
    bench.run(MINUTE);
    assert_eq!(bench.sent(), 80);
    assert_eq!(bench.begun.len(), 40);
    assert!(bench.begun.iter().all(|begun| begun.4 == real));
}

#[test]
fn test_mode_is_passed_on_with_each_message() {
    let mut bench = Bench::simple("");
    let options = DeliveryOptions { mode: crate::work::SendMode::Test, ..Default::default() };
    let test = bench.delivery(1, options);
    bench.queue(test, "a.example", 1);
    bench.run(MINUTE);
    assert_eq!(bench.sent(), 1);
    assert_eq!(bench.begun.len(), 1, "a real conversation");
}

#[test]
fn the_reason_decides_and_not_the_class() {
    let mut bench = Bench::simple("");
    bench.exchanger =
        Box::new(|_, _, _| Answer::Reply(Stage::RcptTo, Reply::line(552, "mailbox full")));
    let delivery = bench.plain(1);
    let ids = bench.queue(delivery, "a.example", 2);
    bench.run(MINUTE * 90);
    assert_eq!(bench.message(ids[0]).attempts, 2, "a full mailbox is tried again");
    let verdict = bench.attempts[0].judgement.clone().unwrap().verdict.clone();
    assert_eq!((verdict.reason, &*verdict.rule), (Reason::MailboxFull, "full"));
    bench.exchanger = Box::new(|_, _, _| accept());
    bench.run(MINUTE * 90);
    assert_eq!(bench.sent(), 2);
}

#[test]
fn what_a_person_says_about_a_text_decides() {
    let mut bench = Bench::simple("");
    bench.exchanger =
        Box::new(|_, _, _| Answer::Reply(Stage::RcptTo, Reply::line(550, "5.1.1 user unknown")));
    let key = Key::of(&rules::bounce::normalise("550 5.1.1 user unknown"));
    let said = Qualification {
        reason: Reason::MailboxFull,
        failure_type: FailureType::Soft,
        status: QualificationStatus::Keep,
    };
    let now = bench.now;
    bench.engine.handle(now, Event::TextQualified { key, said: Some(said) });
    let delivery = bench.plain(1);
    let ids = bench.queue(delivery, "a.example", 1);
    bench.run(MINUTE * 10);
    assert_eq!(bench.state(ids[0]), RowState::Queued);
    assert_eq!(&*bench.attempts[0].judgement.clone().unwrap().verdict.rule, "qualification");
    let now = bench.now;
    bench.engine.handle(now, Event::TextQualified { key, said: None });
    bench.run(MINUTE * 90);
    assert_eq!(bench.state(ids[0]), RowState::Final(FinalState::Failed));
}

#[test]
fn a_source_that_is_refused_is_not_the_message_s_fault() {
    let mut bench = Bench::new(rules(""), sources(&[1, 1]), Settings::default());
    bench.routes.insert("a.example".into(), route(&[(10, "mx.a.example", &["192.0.2.1"])]));
    bench.exchanger = Box::new(|_, plan, _| match plan.path.source.0 {
        1 => Answer::Reply(Stage::RcptTo, Reply::line(550, "192.0.2.1 is blocked here")),
        _ => accept(),
    });
    let delivery = bench.plain(1);
    bench.queue(delivery, "a.example", 100);
    bench.run(MINUTE * 30);
    assert_eq!(bench.sent(), 100, "the other source takes them all");
    let refused = bench.attempts.iter().filter(|attempt| attempt.judgement.is_some()).count();
    assert!(refused < 20, "{refused} tries over a path that refuses");
}

#[test]
fn a_delivery_at_fault_is_stopped_and_loses_nothing() {
    let mut bench = Bench::simple("");
    bench.exchanger = Box::new(|_, _, _| {
        Answer::Reply(Stage::Content, Reply::line(550, "5.7.26 unauthenticated"))
    });
    let delivery = bench.plain(1);
    bench.queue(delivery, "a.example", 300);
    bench.run(MINUTE * 10);
    assert_eq!(bench.stopped[0].0, delivery);
    assert!(bench.stopped[0].1.contains("5.7.26"), "{:?}", bench.stopped);
    let tried = bench.begun.len();
    assert!(tried < 100, "{tried} were still tried");
    assert_eq!(bench.count(RowState::Queued), 300);
    bench.exchanger = Box::new(|_, _, _| accept());
    bench.change(delivery, |d| d.state = DeliveryState::Running);
    bench.run(MINUTE * 120);
    assert_eq!(bench.sent(), 300, "after the mending all of it goes");
}

#[test]
fn a_fault_of_this_machine_costs_no_message() {
    let mut bench = Bench::simple("");
    bench.exchanger = Box::new(|_, _, _| Answer::NotPrepared("the disk does not read".into()));
    let delivery = bench.plain(1);
    let ids = bench.queue(delivery, "a.example", 5);
    bench.run(MINUTE);
    assert_eq!(bench.count(RowState::Queued), 5);
    assert_eq!(bench.message(ids[0]).attempts, 0);
    assert!(bench.attempts.iter().all(|attempt| attempt.note.contains("disk")));
    bench.exchanger = Box::new(|_, _, _| accept());
    bench.run(MINUTE);
    assert_eq!(bench.sent(), 5);
}
