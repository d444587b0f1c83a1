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
            let why = bench.why(ids[29]);
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
fn what_becomes_due_while_a_claim_is_answered_does_not_wait_for_the_next_scan() {
    let mut bench = slow();
    bench.claim_latency = Duration::from_millis(20);
    let delivery = bench.plain(1);
    let ids = bench.queue(delivery, "a.example", 1);
    // A store keeps moments in milliseconds, rounded up: what the engine takes for due is not due there yet.
    bench.postpone(ids[0], bench.now + Duration::from_millis(1));
    bench.run(Duration::from_secs(1));
    assert_eq!((bench.sent(), bench.claims), (1, 2));
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

#[test]
fn what_may_not_be_sent_is_not_looked_up() {
    let mut bench = Bench::simple("");
    let paused = bench.plain(1);
    bench.queue(paused, "a.example", 5);
    let held = bench.queue(paused, "b.example", 5)[0];
    bench.change(paused, |d| d.state = DeliveryState::Paused);
    // Long enough for several scans, and for what was known to be forgotten.
    bench.run(MINUTE * 10);
    assert!(bench.pages > 3);
    assert_eq!(bench.engine.sizes().2, 0, "no domain of it is known");
    assert_eq!(bench.engine.earliest_due(bench.now, [(paused, bench.now)]), None);
    let free = bench.plain(2);
    let due = [(paused, mail::time::Timestamp::EPOCH), (free, bench.now)];
    assert_eq!(bench.engine.earliest_due(bench.now, due), Some(bench.now));
    assert_eq!(bench.state(held), RowState::Queued);
}

#[test]
fn a_change_of_deliveries_does_not_read_the_queue_each_time() {
    let mut bench = slow();
    let delivery = bench.plain(1);
    bench.run(Duration::from_secs(5));
    let before = bench.pages;
    for _ in 0..200 {
        bench.change(delivery, |d| d.options.tenant.push('x'));
        bench.run(Duration::from_millis(10));
    }
    assert!((1..=4).contains(&(bench.pages - before)), "{} scans", bench.pages - before);
    for number in 0..200 {
        let other = bench.plain(2 + number);
        bench.change(other, |d| d.state = DeliveryState::Paused);
        bench.run(Duration::from_millis(10));
    }
    assert!((1..=26).contains(&(bench.pages - before)), "{} scans", bench.pages - before);
}

#[test]
fn a_delivery_that_is_resumed_goes_on_at_once() {
    let mut bench = Bench::simple("");
    let delivery = bench.plain(1);
    let other = bench.plain(2);
    bench.change(delivery, |d| d.state = DeliveryState::Paused);
    bench.queue(delivery, "a.example", 5);
    bench.run(MINUTE * 10);
    // Even where a scan has just begun for another reason.
    bench.change(other, |d| d.options.tenant.push('x'));
    bench.run(Duration::from_millis(1));
    bench.change(delivery, |d| d.state = DeliveryState::Running);
    bench.run(Duration::from_millis(250));
    assert_eq!(bench.sent(), 5);
}

#[test]
fn what_is_not_due_and_what_was_cancelled_say_so() {
    let mut bench = slow();
    let delivery = bench.plain(1);
    let id = bench.queue(delivery, "a.example", 1)[0];
    let due = bench.now + MINUTE;
    let why = |bench: &Bench, tried| {
        bench.engine.why(bench.now, id, delivery, "u1@a.example", due, tried)
    };
    assert_eq!(why(&bench, false), crate::Waiting { reason: WaitReason::NotDue, until: due });
    let retry = crate::Waiting { reason: WaitReason::RetryScheduled, until: due };
    assert_eq!(why(&bench, true), retry);
    bench.change(delivery, |d| d.state = DeliveryState::Cancelled);
    assert_eq!(why(&bench, true).reason, WaitReason::DeliveryCancelled);
    assert_eq!(why(&bench, true).reason.smallest_change(), None);
}

#[test]
fn the_advice_fits_the_limit() {
    use crate::event::{QuotaLimit, QuotaWait};
    use quota::{LimitName, Wait, WaitKind};
    let words = |kind| {
        let wait = Wait { until: None, limit: LimitName::Ledger, kind, limit_value: 5, used: 5 };
        let wait = QuotaWait::from(&wait);
        let limit = wait.limit;
        (limit, WaitReason::Quota { wait }.smallest_change().unwrap_or_default())
    };
    let (limit, advice) = words(WaitKind::Pace);
    assert!(limit == QuotaLimit::Pace && !advice.contains("five minutes"), "{advice}");
    assert_eq!(words(WaitKind::SlotEdge), (QuotaLimit::MinuteEnd, String::new()));
    assert_eq!(words(WaitKind::LedgerFull), (QuotaLimit::LedgerFull, String::new()));
    assert!(words(WaitKind::Period).1.contains("five minutes"));
}
