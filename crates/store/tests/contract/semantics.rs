//! The semantics, case by case, for every store.

use crate::support::*;
use engine::work::{DeliveryOptions, DeliveryState, Fate, FinalState, Wave, WaveSize};
use mail::id::{DeliveryId, MessageId, SourceId};
use mail::time::Timestamp;
use mailweir_store::*;
use std::time::Duration;

/// Makes a test for each store of each function, and checks the invariants at its end.
#[macro_export]
macro_rules! contract {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(#[test] fn $name() {
                let mut subject = $crate::support::Subject::memory();
                super::$name(&mut subject);
                $crate::support::assert_consistent(subject.reads());
            })*
        }
        mod sqlite {
            $(#[test] fn $name() {
                let mut subject = $crate::support::Subject::sqlite();
                super::$name(&mut subject);
                $crate::support::assert_consistent(subject.reads());
            })*
        }
    };
}

contract![
    duplicates_are_refused_and_recorded,
    refusals_are_counted_and_kept,
    waves_end_at_ranks_and_bound_claims,
    claims_are_exclusive_and_leave_the_queue,
    claims_follow_the_given_order_and_shares,
    retries_and_fresh_messages_share_the_room,
    only_running_deliveries_give_messages,
    a_restart_returns_what_was_held,
    a_requeued_message_is_not_returned_by_its_old_part,
    leases_of_other_nodes_lapse,
    settlements_are_fenced,
    deliveries_finish_with_their_last_message,
    sweeps_go_in_stretches,
    streams_keep_their_content_until_the_end,
    contents_of_deliveries_are_stored_once,
    keys_take_effect_once,
    what_ended_long_ago_is_forgotten,
    an_address_is_erased_in_steps,
    what_is_shared_or_pending_is_not_forgotten,
    the_ledger_keeps_the_last_figure,
    settings_and_audit_are_kept,
    what_is_refused_changes_nothing,
    messages_are_found_by_address_and_time,
];

fn set_state(delivery: DeliveryId, state: DeliveryState) -> Write {
    Write::SetState { delivery, state, who: "ann".into(), why: "test".into(), at: time(20) }
}

fn duplicates_are_refused_and_recorded(subject: &mut Subject) {
    let id = subject.draft(DeliveryOptions::default(), &["a@x.org", "b@x.org", "A@X.org"]);
    let appended = subject.append(id, None, &["c@x.org", "B@x.org", "c@x.org", "d@y.org"]);
    assert_eq!((appended.first, appended.accepted), (Some(MessageId(3)), 2));
    assert_eq!(appended.duplicates, [2, 3]);
    let touched: Vec<_> = appended.domains.iter().map(|d| (d.id.0, &*d.name, d.count)).collect();
    assert_eq!(touched, [(1, "x.org", 1), (2, "y.org", 1)]);
    let many: Vec<String> = (0..20).map(|n| format!("r{n}@x.org")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(subject.append(id, None, &many).accepted, 20);
    assert_eq!(subject.append(id, None, &many).accepted, 0);
    subject.restart("a");
    assert_eq!(subject.append(id, None, &many[..3]).duplicates, [1, 2, 3]);
    let counters = subject.counters(id);
    assert_eq!((counters.accepted, counters.duplicates), (24, 26));
    let refusals = subject.reads().refusals(id, 1, 2).unwrap();
    let seen: Vec<_> =
        refusals.iter().map(|r| (r.ordinal, r.line, &*r.address, &*r.reason)).collect();
    assert_eq!(seen, [(1, 2, "B@x.org", "duplicate of m2"), (2, 3, "c@x.org", "duplicate of m3")]);
    let other = subject.draft(DeliveryOptions::default(), &["a@x.org"]);
    assert_eq!(subject.counters(other).accepted, 1, "another delivery may write to it too");
}

fn refusals_are_counted_and_kept(subject: &mut Subject) {
    let id = subject.draft(DeliveryOptions::default(), &[]);
    let refusals = (0..30)
        .map(|line| NewRefusal { line, address: "?".into(), reason: "é".repeat(400).into() })
        .collect();
    assert_eq!(subject.apply(Write::Refuse { delivery: id, refusals }), Written::Done);
    assert_eq!(subject.counters(id).refused, 30);
    let kept = subject.reads().refusals(id, 28, 10).unwrap();
    assert_eq!(kept.len(), 2);
    assert_eq!(&*kept[0].reason, "é".repeat(250), "cut at a character");
}

fn waves_end_at_ranks_and_bound_claims(subject: &mut Subject) {
    let wave = |size| Wave { size, start_after: Duration::ZERO };
    let waves =
        vec![wave(WaveSize::Count(2)), wave(WaveSize::Percent(40.0)), wave(WaveSize::Count(1))];
    let options = DeliveryOptions { waves, ..DeliveryOptions::default() };
    let first = subject.draft(options, &["a@x.org", "b@x.org"]);
    let second = subject.draft(DeliveryOptions::default(), &["a@x.org", "b@x.org"]);
    subject.append(first, None, &["c@x.org", "d@x.org", "e@x.org"]);
    // Messages 1, 2 and 5, 6, 7 are the first delivery's; 3 and 4 the second's.
    let started = subject.start(first);
    assert_eq!(started.wave_ends, [MessageId(2), MessageId(6), MessageId(7)]);
    let record = subject.reads().delivery(first).unwrap().unwrap();
    assert_eq!(record.delivery.wave_ends, started.wave_ends);
    assert_eq!(record.delivery.started_at, Some(time(10)));
    let domain = subject.domain("x.org");
    let from = |wave: usize| [ClaimFrom { through: Some(started.wave_ends[wave]), ..all(first) }];
    let claimed = subject.claim(domain, &from(0), 256);
    assert_eq!((ids(&claimed), claimed.next_due), (vec![1, 2], None));
    subject.settle(vec![again(1, first, 30)]);
    let claimed = subject.claim_until(domain, &from(0), 256, 29);
    assert_eq!((ids(&claimed), claimed.next_due), (vec![], Some(time(30))));
    let claimed = subject.claim_until(domain, &from(1), 1, 31);
    assert_eq!((ids(&claimed), claimed.next_due), (vec![1], Some(Timestamp::EPOCH)));
    assert_eq!(ids(&subject.claim(domain, &from(1), 256)), [5, 6]);
    assert_eq!(ids(&subject.claim(domain, &from(2), 256)), [7]);
    subject.start(second);
    assert_eq!(ids(&subject.claim(domain, &[all(second)], 256)), [3, 4]);
}

fn claims_are_exclusive_and_leave_the_queue(subject: &mut Subject) {
    let id = subject.running(&["a@x.org", "b@x.org", "c@y.org"]);
    let (x, y) = (subject.domain("x.org"), subject.domain("y.org"));
    let claimed = subject.claim(x, &[all(id)], 1);
    assert_eq!((ids(&claimed), claimed.next_due), (vec![1], Some(Timestamp::EPOCH)));
    let message = &claimed.messages[0];
    assert_eq!((&*message.recipient, &*message.merge), ("a@x.org", "{\"line\":1}"));
    assert_eq!((message.accepted_at, message.due), (time(2), Timestamp::EPOCH));
    assert_eq!(subject.state(1), MessageState::InFlight);
    assert_eq!(ids(&subject.claim(x, &[all(id)], 256)), [2]);
    let nothing = subject.claim(x, &[all(id)], 256);
    assert_eq!(nothing, Claimed { part: None, messages: vec![], next_due: None });
    let due = subject.reads().due_domains(DomainId(0), 10).unwrap();
    assert_eq!(due.len(), 1);
    assert_eq!((due[0].id, &*due[0].name), (y, "y.org"));
    assert_eq!(due[0].deliveries, [DeliveryDue { delivery: id, earliest: Timestamp::EPOCH }]);
    assert_eq!(subject.counters(id).in_flight, 2);
    assert_eq!(subject.reads().parts(10).unwrap().len(), 2);
    subject.apply(Write::RenewLeases { until: time(5_000) });
    assert_eq!(subject.reads().parts(1).unwrap()[0].lease_until, time(5_000));
    subject.settle(vec![sent(1, id), sent(2, id)]);
    assert_eq!(subject.reads().parts(10).unwrap(), []);
}

fn claims_follow_the_given_order_and_shares(subject: &mut Subject) {
    let first = subject.running(&["a@x.org", "b@x.org", "c@x.org"]);
    let second = subject.running(&["a@x.org", "b@x.org", "c@x.org"]);
    let domain = subject.domain("x.org");
    let share = |delivery, most| ClaimFrom { at_most: Some(most), ..all(delivery) };
    let claimed = subject.claim(domain, &[share(second, 1), share(first, 2)], 256);
    assert_eq!(ids(&claimed), [4, 1, 2]);
    assert_eq!(ids(&subject.claim(domain, &[all(second), all(first)], 2)), [5, 6]);
    assert_eq!(ids(&subject.claim(domain, &[all(second), all(first)], 2)), [3]);
}

fn retries_and_fresh_messages_share_the_room(subject: &mut Subject) {
    let addresses: Vec<String> = (0..12).map(|n| format!("r{n}@x.org")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let id = subject.running(&addresses);
    let domain = subject.domain("x.org");
    subject.claim(domain, &[all(id)], 6);
    // Due in the reverse order of their numbers; the last not before 500 s.
    subject.settle((1..=6).map(|n| again(n, id, if n == 1 { 500 } else { 100 - n })).collect());
    let claimed = subject.claim_until(domain, &[all(id)], 4, 200);
    assert_eq!(ids(&claimed), [6, 5, 7, 8], "half retries, by due time; the rest fresh");
    let pinned = (claimed.messages[0].pinned_source, claimed.messages[0].attempts);
    assert_eq!(pinned, (Some(SourceId(7)), 1));
    assert_eq!(claimed.messages[0].due, time(94));
    assert_eq!(ids(&subject.claim_until(domain, &[all(id)], 5, 200)), [4, 3, 2, 9, 10]);
    let claimed = subject.claim_until(domain, &[all(id)], 5, 200);
    assert_eq!((ids(&claimed), claimed.next_due), (vec![11, 12], Some(time(500))));
    assert_eq!(ids(&subject.claim_until(domain, &[all(id)], 5, 500)), [1]);
}

fn only_running_deliveries_give_messages(subject: &mut Subject) {
    let id = subject.draft(DeliveryOptions::default(), &["a@x.org"]);
    let domain = subject.domain("x.org");
    let from = [all(id), all(DeliveryId(99))];
    assert_eq!(ids(&subject.claim(domain, &from, 9)), [0_u64; 0]);
    subject.start(id);
    subject.apply(set_state(id, DeliveryState::Paused));
    assert_eq!(ids(&subject.claim(domain, &from, 9)), [0_u64; 0]);
    subject.apply(set_state(id, DeliveryState::Running));
    assert_eq!(ids(&subject.claim(domain, &from, 9)), [1]);
    let audit = subject.reads().audit(10).unwrap();
    assert_eq!(audit.len(), 2);
    assert_eq!((&*audit[0].what, &*audit[0].who), ("d1 set to running", "ann"));
}

fn a_restart_returns_what_was_held(subject: &mut Subject) {
    let id = subject.running(&["a@x.org", "b@x.org", "c@x.org", "d@x.org"]);
    let domain = subject.domain("x.org");
    subject.claim(domain, &[all(id)], 3);
    subject.settle(vec![sent(1, id), again(2, id, 70)]);
    assert_eq!(subject.release(9_999), Released::default(), "its own life's parts stay");
    subject.restart("a");
    let late = subject.settle(vec![sent(3, id)]);
    assert_eq!((late.settled, late.late), (0, vec![MessageId(3)]));
    assert_eq!(subject.release(0), Released { parts: 1, messages: 1, more: false });
    assert_eq!(subject.release(0), Released::default());
    assert_eq!(subject.counters(id).in_flight, 0);
    let due = MessageState::Queued { due: time(70), pinned_source: Some(SourceId(7)) };
    assert_eq!(subject.state(2), due);
    assert_eq!(ids(&subject.claim_until(domain, &[all(id)], 9, 60)), [3, 4]);
}

fn a_requeued_message_is_not_returned_by_its_old_part(subject: &mut Subject) {
    let id = subject.running(&["a@x.org", "b@x.org"]);
    let domain = subject.domain("x.org");
    subject.claim(domain, &[all(id)], 9);
    subject.settle(vec![again(1, id, 0)]);
    subject.restart("a");
    // The old part still names both messages, but the first one moved on to a new part.
    assert_eq!(ids(&subject.claim(domain, &[all(id)], 9)), [1]);
    assert_eq!(subject.release(0), Released { parts: 1, messages: 1, more: false });
    assert_eq!(ids(&subject.claim(domain, &[all(id)], 9)), [2]);
    assert_eq!(subject.settle(vec![sent(1, id), sent(2, id)]).settled, 2);
}

fn leases_of_other_nodes_lapse(subject: &mut Subject) {
    let id = subject.running(&["a@x.org"]);
    let domain = subject.domain("x.org");
    subject.claim_until(domain, &[all(id)], 9, 100);
    subject.restart("b");
    let part = subject.reads().parts(9).unwrap().remove(0);
    assert_eq!((&*part.node, part.incarnation, part.lease_until), ("a", 1, time(160)));
    assert_eq!(subject.release(160), Released::default(), "the lease still runs");
    assert_eq!(subject.release(161).messages, 1);
    assert_eq!(ids(&subject.claim(domain, &[all(id)], 9)), [1]);
}

fn settlements_are_fenced(subject: &mut Subject) {
    let id = subject.running(&["a@x.org", "b@x.org"]);
    let domain = subject.domain("x.org");
    subject.claim(domain, &[all(id)], 1);
    let report = subject.settle(vec![
        sent(2, id),
        sent(1, DeliveryId(77)),
        sent(1, id),
        settled(1, id, Fate::Final(FinalState::Failed)),
        sent(99, id),
    ]);
    assert_eq!(report.settled, 1);
    let late: Vec<u64> = report.late.iter().map(|message| message.0).collect();
    assert_eq!(late, [2, 1, 1, 99]);
    let state = MessageState::Final { state: FinalState::Sent, settled_at: time(50) };
    assert_eq!(subject.state(1), state);
    let record = subject.reads().message(MessageId(1)).unwrap().unwrap();
    assert_eq!((&*record.last_reply, record.attempts), ("250 Ok", 1));
}

fn deliveries_finish_with_their_last_message(subject: &mut Subject) {
    let id = subject.running(&["a@x.org", "b@x.org"]);
    let domain = subject.domain("x.org");
    subject.claim(domain, &[all(id)], 9);
    assert_eq!(subject.settle(vec![sent(1, id)]).finished, []);
    subject.apply(set_state(id, DeliveryState::Paused));
    assert_eq!(subject.settle(vec![sent(2, id)]).finished, [id]);
    let record = subject.reads().delivery(id).unwrap().unwrap();
    assert_eq!(record.delivery.state, DeliveryState::Finished);
    let empty = subject.draft(DeliveryOptions::default(), &[]);
    assert!(subject.start(empty).finished);
}

fn sweeps_go_in_stretches(subject: &mut Subject) {
    let id = subject.running(&["a@x.org", "b@x.org", "c@y.org", "d@z.org", "e@z.org"]);
    let other = subject.running(&["a@y.org"]);
    let z = subject.domain("z.org");
    subject.claim(z, &[all(id)], 1);
    let (mut from, mut counts) = (DomainId(0), Vec::new());
    loop {
        let Written::Swept(swept) = subject.apply(Write::Expire(sweep(id, from, 2))) else {
            panic!("not swept")
        };
        counts.push(swept.count);
        assert!(!swept.finished, "one message is in flight");
        let Some(next) = swept.next else { break };
        from = next;
    }
    assert_eq!(counts, [2, 2]);
    let counters = subject.counters(id);
    assert_eq!((counters.expired, counters.in_flight, counters.queued()), (4, 1, 0));
    assert_eq!(
        &*subject.reads().message(MessageId(1)).unwrap().unwrap().last_reply,
        "validity ended"
    );
    assert_eq!(subject.settle(vec![again(4, id, 80)]).finished, []);
    subject.apply(set_state(id, DeliveryState::Cancelled));
    let Written::Swept(swept) = subject.apply(Write::CancelQueued(sweep(id, DomainId(0), 9)))
    else {
        panic!("not swept")
    };
    assert_eq!((swept.count, swept.next, swept.finished), (1, None, false));
    assert_eq!(subject.counters(other).queued(), 1, "another delivery is left alone");
    let third = subject.running(&["a@z.org", "b@z.org"]);
    let held = ids(&subject.claim(z, &[all(third)], 9));
    subject.apply(set_state(third, DeliveryState::Cancelled));
    let report = subject.settle(vec![again(held[0], third, 80), sent(held[1], third)]);
    assert_eq!(report.cancelled, [MessageId(held[0])]);
    let counters = subject.counters(third);
    assert_eq!((counters.cancelled, counters.sent, counters.pending()), (1, 1, 0));
}

fn streams_keep_their_content_until_the_end(subject: &mut Subject) {
    let id = subject.stream();
    subject.append(id, Some("one"), &["a@x.org", "a@x.org"]);
    subject.append(id, Some("two"), &["a@x.org"]);
    let domain = subject.domain("x.org");
    let claimed = subject.claim(domain, &[all(id)], 9);
    assert_eq!(claimed.messages.iter().map(|m| m.content).collect::<Vec<_>>(), [1, 1, 2]);
    assert_eq!(&*subject.reads().content(1).unwrap().unwrap().body, b"one");
    subject.settle(vec![sent(1, id), again(2, id, 5), sent(3, id)]);
    assert!(subject.reads().content(1).unwrap().is_some(), "the second still needs it");
    assert!(subject.reads().content(2).unwrap().is_none());
    assert_eq!(ids(&subject.claim(domain, &[all(id)], 9)), [2]);
    assert_eq!(subject.settle(vec![sent(2, id)]).finished, [], "a stream never finishes");
    assert!(subject.reads().content(1).unwrap().is_none());
}

fn contents_of_deliveries_are_stored_once(subject: &mut Subject) {
    let ids = ["Hello", "Hello", "Bye"].map(|text| {
        match subject.apply(create(DeliveryOptions::default(), Some(text))) {
            Written::Created(id) => id,
            other => panic!("{other:?}"),
        }
    });
    let contents = ids.map(|id| subject.reads().delivery(id).unwrap().unwrap().content);
    assert_eq!(contents, [1, 1, 2]);
    let set = Write::SetContent { delivery: ids[0], content: content("Bye") };
    assert_eq!(subject.apply(set), Written::Done);
    assert_eq!(subject.reads().delivery(ids[0]).unwrap().unwrap().content, 2);
}

fn what_ended_long_ago_is_forgotten(subject: &mut Subject) {
    // Ten in all, so that some addresses are in the index and some are not.
    let names: Vec<String> = (0..10).map(|n| format!("r{n}@x.org")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let id = subject.running(&names);
    let domain = subject.domain("x.org");
    subject.claim(domain, &[all(id)], 10);
    subject.settle((1..=9).map(|message| sent(message, id)).collect());
    // Settled at 50.
    assert_eq!(
        subject.apply(forget(50, 0, 100)),
        Written::Forgotten(Forgotten::default()),
        "nothing ended before"
    );
    let step = |messages, next: Option<u64>| {
        Written::Forgotten(Forgotten { messages, deliveries: 0, next: next.map(MessageId) })
    };
    assert_eq!(subject.apply(forget(51, 0, 4)), step(4, Some(4)));
    assert_eq!(subject.apply(forget(51, 4, 4)), step(4, Some(8)));
    assert_eq!(subject.apply(forget(51, 8, 4)), step(1, None), "the tenth has not ended");
    crate::support::assert_consistent(subject.reads());
    subject.restart("a");
    assert!(subject.reads().message(MessageId(1)).unwrap().is_none());
    let hash = engine::quarantine::AddressHash::of("r0@x.org");
    let past = subject.reads().past_recipient(MessageId(1)).unwrap();
    assert_eq!(past, Some(PastRecipient { delivery: id, hash }));
    assert_eq!(subject.reads().past_recipient(MessageId(10)).unwrap(), None, "it has not ended");
    assert_eq!(subject.reads().messages_by_address("r0@x.org", 9).unwrap(), []);
    assert_eq!(subject.reads().messages_by_address("r9@x.org", 9).unwrap().len(), 1);
    let record = subject.reads().delivery(id).unwrap().unwrap();
    assert_eq!((record.counters.sent, record.forgotten), (9, 9));
    subject.release(0);
    subject.claim(domain, &[all(id)], 10);
    assert_eq!(subject.settle(vec![sent(10, id)]).finished, [id]);
    let rest = Forgotten { messages: 1, deliveries: 1, next: None };
    assert_eq!(subject.apply(forget(51, 0, 4)), Written::Forgotten(rest));
    assert!(subject.reads().delivery(id).unwrap().is_none());
    assert!(subject.reads().content(1).unwrap().is_none());
    let totals = subject.reads().totals().unwrap();
    assert_eq!((totals.counters.accepted, totals.counters.sent, totals.finished), (10, 10, 0));
    // The hashes stay for longer, and go too.
    subject.apply(forget(101, 0, 4));
    assert!(subject.reads().past_recipient(MessageId(1)).unwrap().is_some());
    for _ in 0..3 {
        subject.apply(forget(1_000, 0, 4));
    }
    assert_eq!(subject.reads().past_recipient(MessageId(10)).unwrap(), None);
    // Numbers are never used again.
    assert_eq!(subject.running(&["a@x.org"]), DeliveryId(2));
    assert_eq!(subject.reads().messages(MessageId(0), 9).unwrap()[0].id, MessageId(11));
}

fn an_address_is_erased_in_steps(subject: &mut Subject) {
    let ids: Vec<DeliveryId> = (0..3).map(|_| subject.running(&["a@x.org", "b@x.org"])).collect();
    let domain = subject.domain("x.org");
    for id in &ids {
        subject.claim(domain, &[all(*id)], 9);
        let line =
            |address: &str| NewRefusal { line: 9, address: address.into(), reason: "x".into() };
        let refusals = vec![line("A@x.org"), line("c@x.org")];
        subject.apply(Write::Refuse { delivery: *id, refusals });
    }
    subject.settle(vec![sent(1, ids[0]), sent(3, ids[1])]);
    let mut erase = |after: u64, limit| {
        let address = "a@x.org".into();
        match subject.apply(Write::Erase(Erase { address, after: DeliveryId(after), limit })) {
            Written::Erased(erased) => erased,
            other => panic!("{other:?}"),
        }
    };
    let none = Erased::default();
    let again = Erased { messages: 1, waiting: 1, next: Some(DeliveryId(0)), ..none };
    assert_eq!(erase(0, 1), again);
    assert_eq!(
        erase(0, 1),
        Erased { messages: 1, refusals: 1, waiting: 1, next: Some(ids[0]), ..none }
    );
    assert_eq!(erase(1, 4), Erased { refusals: 2, next: Some(ids[2]), ..none });
    assert_eq!(erase(3, 4), none);
    assert_eq!(erase(0, 99), Erased { waiting: 1, ..none });
    assert!(subject.reads().message(MessageId(1)).unwrap().is_none());
    assert!(subject.reads().past_recipient(MessageId(1)).unwrap().is_some());
    let rows = subject.reads().refusals(ids[0], 0, 9).unwrap();
    let named: Vec<&str> = rows.iter().map(|row| &*row.address).collect();
    assert_eq!(named, ["(erased)", "c@x.org"]);
    crate::support::assert_consistent(subject.reads());
}

fn what_is_shared_or_pending_is_not_forgotten(subject: &mut Subject) {
    let gone = subject.running(&["a@x.org"]);
    let draft = subject.draft(DeliveryOptions::default(), &["a@x.org"]);
    let domain = subject.domain("x.org");
    subject.claim(domain, &[all(gone)], 9);
    // An end, a new content for another and the forgetting in one transaction.
    let set = Write::SetContent { delivery: draft, content: content("Other") };
    let back = Write::SetContent { delivery: draft, content: content("Hello") };
    let batch = [Write::Settle(vec![sent(1, gone)]), set, back, forget(1_000, 0, 9)];
    let answers = subject.store().apply(&batch).unwrap();
    let done = Forgotten { messages: 1, deliveries: 1, next: None };
    assert_eq!(answers[3], Written::Forgotten(done));
    assert!(subject.reads().delivery(gone).unwrap().is_none());
    let kept = subject.reads().delivery(draft).unwrap().unwrap();
    assert_eq!(&*subject.reads().content(kept.content).unwrap().unwrap().body, b"Hello");
    assert!(subject.reads().content(2).unwrap().is_none(), "nobody has the other any more");
    // Cancelled, but not swept yet: its messages are not at their end.
    subject.apply(set_state(draft, DeliveryState::Cancelled));
    assert_eq!(subject.apply(forget(1_000, 0, 9)), Written::Forgotten(Forgotten::default()));
    subject.apply(Write::CancelQueued(sweep(draft, DomainId(0), 9)));
    let done = Forgotten { messages: 1, deliveries: 1, next: None };
    assert_eq!(subject.apply(forget(1_000, 0, 9)), Written::Forgotten(done));
    let refused = Write::Refuse {
        delivery: draft,
        refusals: vec![NewRefusal { line: 1, address: "a".into(), reason: "b".into() }],
    };
    assert_eq!(
        subject.apply(refused),
        Written::Refused(RefusedWrite::UnknownDelivery(draft)),
        "a forgotten delivery is unknown"
    );
}

fn keys_take_effect_once(subject: &mut Subject) {
    let id = subject.stream();
    let request = |key: &str, digest: u8| Write::Append {
        delivery: id,
        content: Some(content("one")),
        recipients: vec![recipient(1, "a@x.org")],
        at: time(30),
        once: Some(Once { tenant: "shop".into(), key: key.into(), digest: [digest; 32] }),
    };
    assert!(matches!(subject.apply(request("k", 1)), Written::Appended(_)));
    let earlier = Earlier { delivery: id, first: Some(MessageId(1)), accepted: 1 };
    assert_eq!(subject.apply(request("k", 1)), Written::Repeated(earlier));
    assert_eq!(subject.apply(request("k", 2)), Written::Refused(RefusedWrite::KeyReused));
    assert!(matches!(subject.apply(request("other", 2)), Written::Appended(_)));
    assert_eq!(subject.counters(id).accepted, 2);
    subject.apply(Write::PruneOnce { before: time(30) });
    assert_eq!(subject.apply(request("k", 1)), Written::Repeated(earlier));
    subject.apply(Write::PruneOnce { before: time(31) });
    assert!(matches!(subject.apply(request("k", 1)), Written::Appended(_)));
}

fn the_ledger_keeps_the_last_figure(subject: &mut Subject) {
    let row = |kind, key: &str, slot, value| LedgerRow {
        kind,
        key: key.into(),
        slot,
        value,
        extra: format!("{value}").into(),
    };
    let rows = vec![row(1, "b", 5, 1), row(1, "a", 6, 2), row(1, "a", 5, 3), row(2, "a", 5, 4)];
    subject.apply(Write::Ledger(rows));
    subject.apply(Write::Ledger(vec![row(1, "a", 5, -9)]));
    subject.restart("a");
    let expected = [row(1, "a", 5, -9), row(1, "a", 6, 2), row(1, "b", 5, 1)];
    assert_eq!(subject.reads().ledger(1, 0).unwrap(), expected);
    assert_eq!(subject.reads().ledger(1, 6).unwrap(), expected[1..2]);
    subject.apply(Write::PruneLedger { kind: 1, before_slot: 6 });
    assert_eq!(subject.reads().ledger(1, 0).unwrap(), expected[1..2]);
    assert_eq!(subject.reads().ledger(2, 0).unwrap().len(), 1);
}

fn settings_and_audit_are_kept(subject: &mut Subject) {
    let put = |value: &str| Write::PutSetting { key: "level".into(), value: value.into() };
    subject.apply(put("slow"));
    subject.apply(put("fast"));
    let entry = |what: &str| AuditEntry {
        at: time(3),
        who: "ann".into(),
        what: what.into(),
        why: "".into(),
    };
    subject.apply(Write::Audit(entry("one")));
    subject.apply(Write::Audit(entry("two")));
    subject.restart("a");
    assert_eq!(subject.reads().setting("level").unwrap().as_deref(), Some("fast"));
    assert_eq!(subject.reads().setting("other").unwrap(), None);
    assert_eq!(subject.reads().audit(1).unwrap(), [entry("two")]);
}

fn what_is_refused_changes_nothing(subject: &mut Subject) {
    let running = subject.running(&["a@x.org"]);
    let draft = subject.draft(DeliveryOptions::default(), &[]);
    let stream = subject.stream();
    let bare = match subject.apply(create(DeliveryOptions::default(), None)) {
        Written::Created(id) => id,
        other => panic!("{other:?}"),
    };
    let nobody = DeliveryId(99);
    let long = NewRecipient { address: "a".repeat(1_001).into(), ..recipient(1, "a@x.org") };
    let recipients = vec![recipient(1, "q@x.org"), long];
    let too_long =
        Write::Append { delivery: draft, content: None, recipients, at: time(3), once: None };
    let waves = vec![Wave { size: WaveSize::Percent(101.0), start_after: Duration::ZERO }];
    let cases = [
        (append(nobody, None, &["a@x.org"]), "there is no delivery d99"),
        (
            append(running, None, &["b@x.org"]),
            "delivery d1 is running; recipients can be added only before it is started",
        ),
        (
            append(draft, Some("own"), &["b@x.org"]),
            "delivery d2: messages of a stream, and only those, bring their own content",
        ),
        (
            append(stream, None, &["b@x.org"]),
            "delivery d3: messages of a stream, and only those, bring their own content",
        ),
        (too_long, "an address (octets) is 1001, at most 1000 is allowed"),
        (append(draft, None, &["q@x.org", ""]), "line 2: the address or its domain is empty"),
        (
            Write::Start { delivery: bare, at: time(3) },
            "delivery d4 has no content; set its content before it is started",
        ),
        (
            Write::Start { delivery: running, at: time(3) },
            "delivery d1 is running; only a draft can be started",
        ),
        (
            set_state(draft, DeliveryState::Paused),
            "delivery d2 is a draft; only a running delivery can be paused",
        ),
        (
            Write::CancelQueued(sweep(running, DomainId(0), 9)),
            "delivery d1 is running; cancel the delivery first",
        ),
        (
            claim(DomainId(1), &[all(running)], 257, 9),
            "the size of a part is 257, at most 256 is allowed",
        ),
        (
            create(DeliveryOptions { waves, ..DeliveryOptions::default() }, None),
            "the options of the delivery are not usable: a wave's share must be from 0 to 100 percent",
        ),
    ];
    let before = subject.reads().deliveries(DeliveryId(0), 99).unwrap();
    // One batch: each is refused on its own, and what stands beside it is done.
    let mut batch: Vec<Write> = cases.iter().map(|(write, _)| write.clone()).collect();
    batch.push(Write::PutSetting { key: "beside".into(), value: "done".into() });
    let answers = subject.store().apply(&batch).unwrap();
    for (answer, (_, expected)) in answers.iter().zip(&cases) {
        let Written::Refused(refused) = answer else { panic!("{answer:?} for {expected}") };
        assert_eq!(refused.to_string(), *expected);
    }
    assert_eq!(answers.last(), Some(&Written::Done));
    assert_eq!(subject.reads().deliveries(DeliveryId(0), 99).unwrap(), before);
    assert_eq!(subject.reads().messages(MessageId(0), 99).unwrap().len(), 1);
}

fn messages_are_found_by_address_and_time(subject: &mut Subject) {
    let first = subject.running(&["A@x.org", "b@x.org"]);
    let second = subject.draft(DeliveryOptions::default(), &["a@x.org"]);
    let stream = subject.stream();
    for _ in 0..5 {
        subject.append(stream, Some("m"), &["a@x.org", "c@x.org"]);
    }
    let found = |limit| -> Vec<(u64, u64)> {
        let found = subject.reads().messages_by_address("a@x.org", limit).unwrap();
        found.iter().map(|message| (message.delivery.0, message.id.0)).collect()
    };
    let (d1, d2, d3) = (first.0, second.0, stream.0);
    let newest = [(d3, 12), (d3, 10), (d3, 8), (d3, 6), (d3, 4), (d2, 3), (d1, 1)];
    assert_eq!(found(99), newest);
    assert_eq!(found(2), newest[..2]);
    assert_eq!(subject.reads().messages_by_address("nobody@x.org", 9).unwrap(), []);
    let recipients = vec![recipient(1, "late@x.org")];
    let content = Some(content("late"));
    subject.apply(Write::Append {
        delivery: stream,
        content,
        recipients,
        at: time(500),
        once: None,
    });
    let before = |at| subject.reads().newest_accepted_before(time(at)).unwrap();
    assert_eq!(before(2), None);
    assert_eq!(before(3), Some(MessageId(13)));
    assert_eq!(before(500), Some(MessageId(13)));
    assert_eq!(before(501), Some(MessageId(14)));
}
