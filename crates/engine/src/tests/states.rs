//! Deliveries that are paused, cancelled, over; a node that drains, or cannot store.

use core::time::Duration;

use mail::id::MessageId;

use super::harness::{Bench, RowState, START, accept};
use crate::event::Event;
use crate::reason::WaitReason;
use crate::work::{DeliveryOptions, DeliveryState, FinalState, Wave, WaveSize};

const MINUTE: Duration = Duration::from_secs(60);

/// A slow exchanger, so that things can happen in the middle.
fn slow() -> Bench {
    let mut bench =
        Bench::simple("[[rule]]\nname = \"a\"\nmask = \"mx.a.example\"\nmax_connections = 1");
    bench.latency = Duration::from_millis(500);
    bench
}

#[test]
fn waves_open_one_after_the_other() {
    let mut bench = Bench::simple("");
    let wave = |minutes: u32| Wave { size: WaveSize::Count(10), start_after: MINUTE * minutes };
    let options =
        DeliveryOptions { waves: vec![wave(0), wave(30), wave(90)], ..Default::default() };
    let delivery = bench.delivery(1, options);
    bench.change(delivery, |d| d.wave_ends = vec![MessageId(10), MessageId(20), MessageId(30)]);
    let ids = bench.queue(delivery, "a.example", 30);
    for (minutes, sent) in [(29, 10), (32, 20), (88, 20), (92, 30)] {
        let at = mail::time::Timestamp::from_secs(START + minutes * 60);
        bench.run(at - bench.now);
        assert_eq!(bench.sent(), sent, "after {minutes} minutes");
        if sent < 30 {
            let message = bench.message(ids[29]).clone();
            let why =
                bench.engine.why(bench.now, ids[29], delivery, &message.recipient, message.due);
            assert_eq!(why.reason, WaitReason::WaveNotOpen);
            assert_eq!(why.until.as_secs(), START + 90 * 60);
        }
    }
}

#[test]
fn paused_means_nothing_more_goes_and_resumed_that_it_does() {
    let mut bench = slow();
    let delivery = bench.plain(1);
    bench.queue(delivery, "a.example", 200);
    bench.run(Duration::from_secs(10));
    bench.change(delivery, |d| d.state = DeliveryState::Paused);
    bench.run(MINUTE);
    let sent = bench.sent();
    assert!(sent > 5 && sent < 100, "{sent}");
    assert_eq!(bench.held(), 0);
    bench.run(MINUTE * 120);
    assert_eq!(bench.sent(), sent);
    bench.change(delivery, |d| d.state = DeliveryState::Running);
    bench.run(MINUTE * 3);
    assert_eq!(bench.sent(), 200);
}

#[test]
fn cancelled_is_cancelled() {
    let mut bench = slow();
    let delivery = bench.plain(1);
    bench.queue(delivery, "a.example", 200);
    bench.run(Duration::from_secs(10));
    bench.change(delivery, |d| d.state = DeliveryState::Cancelled);
    bench.run(MINUTE);
    let cancelled = bench.count(RowState::Final(FinalState::Cancelled));
    assert_eq!(bench.sent() + cancelled, 200);
    assert!(cancelled > 100);
}

#[test]
fn a_claim_that_crosses_a_cancellation_leaves_nothing_behind() {
    let mut bench = slow();
    let delivery = bench.plain(1);
    let ids = bench.queue(delivery, "a.example", 5);
    // The claim is carried out, and its answer comes after the cancellation.
    bench.engine.handle(
        bench.now,
        Event::DeliveryChanged(Box::new({
            let mut changed = bench.deliveries[&delivery].clone();
            changed.state = DeliveryState::Cancelled;
            changed
        })),
    );
    let messages = ids.iter().map(|id| bench.message(*id).clone()).collect();
    let priority = mail::id::Priority::Normal;
    let claimed = Event::Claimed { domain: "a.example".into(), priority, messages, next_due: None };
    bench.engine.handle(bench.now, claimed);
    bench.engine.decide(bench.now);
    let mut settled = Vec::new();
    while let Some(command) = bench.engine.next_command() {
        if let crate::Command::Settle(some) = command {
            settled.extend(some.into_iter().map(|one| one.fate));
        }
    }
    assert_eq!(settled, [crate::work::Fate::Final(FinalState::Cancelled); 5]);
}

#[test]
fn validity_ends() {
    let mut bench = slow();
    let options = DeliveryOptions { validity: MINUTE, ..Default::default() };
    let delivery = bench.delivery(1, options);
    bench.queue(delivery, "a.example", 500);
    bench.run(MINUTE * 3);
    let expired = bench.count(RowState::Final(FinalState::Expired));
    assert_eq!(bench.sent() + expired, 500);
    assert!((100..=200).contains(&bench.sent()), "two a second for a minute: {}", bench.sent());
    let last = bench.begun.last().unwrap().0.as_secs();
    assert!(last <= START + 60 + 40, "what was on the connection, and no more");
}

#[test]
fn no_message_of_a_stream_goes_between_its_end_and_the_next_sweep() {
    let mut bench = Bench::simple(
        "[[rule]]\nname = \"a\"\nmask = \"mx.a.example\"\nmessages_per_hour = 60\npacing = \"even\"",
    );
    let options = DeliveryOptions { stream: true, validity: MINUTE * 4, ..Default::default() };
    let delivery = bench.delivery(1, options);
    bench.queue(delivery, "a.example", 30);
    bench.run(MINUTE * 30);
    let last = bench.begun.last().unwrap().0.as_secs();
    assert!(last <= START + 4 * 60, "{} s too late", last - START - 4 * 60);
    let expired = bench.count(RowState::Final(FinalState::Expired));
    assert_eq!(bench.sent() + expired, 30);
}

#[test]
fn messages_of_a_stream_expire_one_by_one() {
    let mut bench = Bench::simple("");
    bench.door = Box::new(|_, _| Err(mail::attempt::EndCause::ConnectionRefused));
    let options = DeliveryOptions { stream: true, validity: MINUTE * 60, ..Default::default() };
    let delivery = bench.delivery(1, options);
    let early = bench.queue(delivery, "a.example", 3);
    bench.run(MINUTE * 30);
    let late = bench.queue(delivery, "a.example", 3);
    bench.run(MINUTE * 45);
    assert_eq!(bench.state(early[0]), RowState::Final(FinalState::Expired));
    assert_ne!(bench.state(late[0]), RowState::Final(FinalState::Expired));
    bench.run(MINUTE * 40);
    assert_eq!(bench.state(late[2]), RowState::Final(FinalState::Expired));
}

#[test]
fn draining_gives_everything_back() {
    let mut bench = slow();
    let delivery = bench.plain(1);
    bench.queue(delivery, "a.example", 300);
    bench.run(Duration::from_secs(5));
    assert!(bench.held() > 0);
    bench.engine.handle(bench.now, Event::Drain);
    bench.run(MINUTE);
    assert!(bench.drained);
    assert_eq!(bench.held(), 0);
    assert_eq!(bench.sent() + bench.count(RowState::Queued), 300);
    // No token is held any more: the ledger has counted what was sent and nothing else.
    let used: u64 =
        bench.ledger.budgets(bench.now).iter().map(|budget| budget.used_in_window).sum();
    assert_eq!(used, bench.begun.len() as u64);
}

#[test]
fn nothing_is_begun_while_the_store_cannot_commit() {
    let mut bench = slow();
    let delivery = bench.plain(1);
    bench.queue(delivery, "a.example", 300);
    bench.run(Duration::from_secs(5));
    bench.engine.handle(bench.now, Event::StoreSick(true));
    bench.run(MINUTE);
    let begun = bench.begun.len();
    bench.run(MINUTE * 10);
    assert_eq!(bench.begun.len(), begun);
    bench.exchanger = Box::new(|_, _, _| accept());
    bench.engine.handle(bench.now, Event::StoreSick(false));
    bench.run(MINUTE * 4);
    assert_eq!(bench.sent(), 300);
}
