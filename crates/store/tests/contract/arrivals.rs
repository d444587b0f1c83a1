//! Fresh messages of streams, which one of the stores keeps outside of its queue: nobody may notice.

use crate::contract;
use crate::support::*;
use mail::id::{DeliveryId, MessageId};
use mailweir_store::*;

contract![
    retries_fresh_messages_and_arrivals_come_in_order,
    what_comes_after_a_restart_comes_later,
    a_stream_expires_up_to_a_message,
    a_full_step_of_a_sweep_goes_on_at_the_next_domain_of_anybody,
    due_domains_are_found_wherever_their_messages_are,
    many_for_one_domain_are_claimed_in_order,
];

/// Appends one message to a stream for each address.
fn come(subject: &mut Subject, stream: DeliveryId, addresses: &[&str]) {
    for address in addresses {
        subject.append(stream, Some("one"), &[address]);
    }
}

fn up_to(delivery: DeliveryId, message: u64) -> ClaimFrom {
    ClaimFrom { through: Some(MessageId(message)), ..all(delivery) }
}

fn retries_fresh_messages_and_arrivals_come_in_order(subject: &mut Subject) {
    let id = subject.stream();
    come(subject, id, &["a@x.org", "b@x.org", "c@x.org"]);
    let domain = subject.domain("x.org");
    assert_eq!(ids(&subject.claim(domain, &[all(id)], 2)), [1, 2]);
    subject.settle(vec![again(1, id, 50), again(2, id, 900)]);
    come(subject, id, &["d@x.org", "e@x.org", "f@x.org"]);
    // The second is not due yet; what is fresh has a bound.
    let claimed = subject.claim_until(domain, &[up_to(id, 4)], 9, 60);
    assert_eq!((ids(&claimed), claimed.next_due), (vec![1, 3, 4], Some(time(900))));
    let claimed = subject.claim_until(domain, &[all(id)], 1, 60);
    assert_eq!((ids(&claimed), claimed.next_due), (vec![5], Some(time(0))));
    let claimed = subject.claim_until(domain, &[all(id)], 9, 60);
    assert_eq!((ids(&claimed), claimed.next_due), (vec![6], Some(time(900))));
}

fn what_comes_after_a_restart_comes_later(subject: &mut Subject) {
    let id = subject.stream();
    come(subject, id, &["a@x.org", "b@x.org", "c@x.org", "d@x.org"]);
    let domain = subject.domain("x.org");
    assert_eq!(ids(&subject.claim(domain, &[all(id)], 2)), [1, 2]);
    subject.restart("a");
    come(subject, id, &["e@x.org"]);
    assert_eq!(subject.release(0).messages, 2);
    assert_eq!(subject.state(3), subject.state(5));
    let claimed = subject.claim(domain, &[all(id)], 9);
    assert_eq!((ids(&claimed), claimed.next_due), (vec![1, 2, 3, 4, 5], None));
    subject.settle((1..=5).map(|number| sent(number, id)).collect());
    assert_eq!(subject.counters(id).pending(), 0);
}

fn a_stream_expires_up_to_a_message(subject: &mut Subject) {
    let id = subject.stream();
    come(subject, id, &["a@x.org", "b@y.org", "c@x.org", "d@x.org", "e@z.org", "f@x.org"]);
    let x = subject.domain("x.org");
    assert_eq!(ids(&subject.claim(x, &[all(id)], 1)), [1]);
    subject.settle(vec![again(1, id, 80)]);
    let (mut from, mut counts) = (DomainId(0), Vec::new());
    loop {
        let step = Sweep { through: Some(MessageId(5)), ..sweep(id, from, 2) };
        let Written::Swept(swept) = subject.apply(Write::Expire(step)) else { panic!("not swept") };
        counts.push(swept.count);
        let Some(next) = swept.next else { break };
        from = next;
    }
    assert_eq!(counts, [2, 2, 1]);
    assert_eq!(subject.counters(id).expired, 5);
    let claimed = subject.claim(x, &[all(id)], 9);
    assert_eq!((ids(&claimed), claimed.next_due), (vec![6], None));
}

fn a_full_step_of_a_sweep_goes_on_at_the_next_domain_of_anybody(subject: &mut Subject) {
    let id = subject.running(&["a@x.org", "b@x.org"]);
    let other = subject.stream();
    come(subject, other, &["a@z.org"]);
    let z = subject.domain("z.org");
    let mut step = |from| match subject.apply(Write::Expire(sweep(id, from, 2))) {
        Written::Swept(swept) => (swept.count, swept.next),
        other => panic!("not swept: {other:?}"),
    };
    assert_eq!(step(DomainId(0)), (2, Some(z)));
    assert_eq!(subject.counters(other).queued(), 1);
}

fn due_domains_are_found_wherever_their_messages_are(subject: &mut Subject) {
    let id = subject.stream();
    come(subject, id, &["a@w.org", "a@x.org", "a@y.org", "b@x.org"]);
    let (w, x) = (subject.domain("w.org"), subject.domain("x.org"));
    subject.claim(w, &[all(id)], 1);
    subject.claim(x, &[all(id)], 1);
    // One only waits for a retry, one has a retry and a fresh message, one fresh messages only.
    subject.settle(vec![again(1, id, 70), again(2, id, 80)]);
    let (mut after, mut found) = (DomainId(0), Vec::new());
    loop {
        let page = subject.reads().due_domains(after, 1).unwrap();
        let Some(domain) = page.first() else { break };
        after = domain.id;
        let due: Vec<_> =
            domain.deliveries.iter().map(|due| (due.delivery, due.earliest)).collect();
        found.push((domain.name.to_string(), due));
    }
    let expected = [("w.org", 70), ("x.org", 0), ("y.org", 0)]
        .map(|(name, due)| (name.to_owned(), vec![(id, time(due))]));
    assert_eq!(found, expected);
    let queues = subject.reads().domain_queues(DomainId(0), 9, 9).unwrap();
    let counts: Vec<_> = queues.iter().map(|queue| queue.queued).collect();
    assert_eq!(counts, [1, 2, 1]);
}

fn many_for_one_domain_are_claimed_in_order(subject: &mut Subject) {
    let id = subject.stream();
    let addresses: Vec<String> = (0..40).map(|number| format!("a{number}@x.org")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    come(subject, id, &addresses);
    let domain = subject.domain("x.org");
    let mut all_taken = Vec::new();
    while let taken = ids(&subject.claim(domain, &[all(id)], 7))
        && !taken.is_empty()
    {
        all_taken.extend(taken);
    }
    assert_eq!(all_taken, (1..=40).collect::<Vec<u64>>());
}

#[test]
fn a_fault_in_the_middle_forgets_what_arrived_and_was_taken_in_it() {
    let mut subject = Subject::sqlite();
    let id = subject.stream();
    come(&mut subject, id, &["a@x.org", "b@x.org"]);
    let domain = subject.domain("x.org");
    let Subject::Sqlite(Some(store), _) = &mut subject else { unreachable!() };
    store.set_size_limit(Some(1)).unwrap();
    let big = Write::PutSetting { key: "big".into(), value: "x".repeat(1 << 20).into() };
    let take = claim(domain, &[all(id)], 1, 9);
    let come_again = append(id, Some("two"), &["c@x.org"]);
    assert!(store.apply(&[come_again, take, big]).is_err());
    store.set_size_limit(None).unwrap();
    assert_consistent(subject.reads());
    assert_eq!(ids(&subject.claim(domain, &[all(id)], 9)), [1, 2]);
}

#[test]
fn a_queue_of_an_earlier_version_goes_on_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let first = SqliteOptions { arrivals_at_most: 1_000, ..options("a") };
    let mut store = SqliteStore::open(folder.path(), first.clone()).unwrap();
    let stream = engine::work::DeliveryOptions { stream: true, ..Default::default() };
    store.apply(&[create(stream, None)]).unwrap();
    let id = DeliveryId(1);
    for number in 1..=4 {
        store.apply(&[append(id, Some("one"), &[&format!("a{number}@x.org")])]).unwrap();
    }
    let take = |limit| claim(DomainId(1), &[all(id)], limit, 9);
    store.apply(&[take(2), Write::Settle(vec![again(1, id, 5)])]).unwrap();
    drop(store);
    // As the version before had it: one is retried, one in a part, two are fresh in the queue.
    let older = rusqlite::Connection::open(folder.path().join(DATABASE_FILE)).unwrap();
    older
        .execute_batch(
            "INSERT INTO queue SELECT domain_id, delivery_id, 0, message_id FROM arrival; \
             DROP TABLE arrival; PRAGMA user_version = 6;",
        )
        .unwrap();
    drop(older);
    let mut store = SqliteStore::open(folder.path(), first).unwrap();
    store.apply(&[append(id, Some("two"), &["a5@x.org"])]).unwrap();
    store.apply(&[Write::ReleaseParts { now: time(0) }]).unwrap();
    let answers = store.apply(&[take(9)]).unwrap();
    let Written::Claimed(claimed) = &answers[0] else { panic!("{answers:?}") };
    assert_eq!(ids(claimed), [1, 2, 3, 4, 5]);
    assert_consistent(store.reads());
}
