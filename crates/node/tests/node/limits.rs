//! Limits as the receiving side and the delivery log see them, recomputed without the ledger.

use lab::{Mood, Promise};

use super::*;

/// The most messages that began within any 3,600 seconds, from the log alone.
fn most_in_an_hour(starts: &mut [u64]) -> usize {
    starts.sort_unstable();
    let mut most = 0;
    let mut oldest = 0;
    for newest in 0..starts.len() {
        while starts[newest] - starts[oldest] >= 3_600_000_000 {
            oldest += 1;
        }
        most = most.max(newest + 1 - oldest);
    }
    most
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_campaign_above_its_limit_is_held_to_it() {
    let mut one = provider(40, 1, "one", Mood::default());
    one.promise = Promise {
        max_connections: Some(3),
        max_messages_per_connection: Some(7),
        messages_per_hour: Some(60),
    };
    let world = World::new(40, vec![one]).rules(
        "scope = \"source\"\npacing = \"burst\"\nmax_connections = 3\n\
         max_messages_per_connection = 7\nmessages_per_hour = 60",
    );
    let node = world.start();
    let intake = node.intake();
    let options = intake.default_options();
    let list = recipients(&["one.example"], 300);
    let (id, first) = delivery_with(&intake, options, list).await;
    // 60 for each of two sources.
    sent(&intake, id, 120).await;
    let found = waits_for(&node, MessageId(first.0 + 299), "hour quota").await;
    let waiting = found.waiting.unwrap();
    assert!(waiting.next_at.is_some(), "{waiting:?}");
    assert!(waiting.smallest_change.unwrap().contains("\"lab\""));
    let budgets = node.questions().budgets().await.unwrap();
    assert_eq!(budgets.len(), 2, "{budgets:#?}");
    for budget in &budgets {
        assert_eq!((budget.limit_per_hour, budget.used_in_window), (60, 60), "{budget:?}");
    }
    let counters = intake.counters(id).await.unwrap();
    assert_eq!((counters.sent, counters.queued() + counters.in_flight), (120, 180));
    let ended = world.end(node).await;
    assert!(ended.report.limits_held(), "{:#?}", ended.report.limit_violations);
    for source in &ended.report.provider("one").unwrap().sources {
        assert!(source.most_simultaneous_connections <= 3, "{source:?}");
        assert!(source.most_messages_on_one_connection <= 7, "{source:?}");
        assert_eq!(source.most_messages_in_an_hour, 60, "{source:?}");
    }
    for number in [1, 2] {
        let of_source = ended.log.iter().filter(|line| line.source == Some(number));
        let mut starts: Vec<u64> = of_source.filter_map(|line| line.started_micros).collect();
        assert_eq!(most_in_an_hour(&mut starts), 60);
    }
}

#[test]
fn the_sliding_hour_of_this_test_is_right() {
    let second = 1_000_000;
    let mut starts = vec![0, 10 * second, 3_599 * second, 3_600 * second, 3_610 * second];
    assert_eq!(most_in_an_hour(&mut starts), 3);
}

/// A cap of the source and the scope "rule" count over everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tightest_limit_wins() {
    let world = World::new(
        41,
        vec![provider(41, 1, "one", Mood::default()), provider(41, 2, "two", Mood::default())],
    )
    .rules(&OPEN.replace("\"path\"", "\"rule\"").replace("1000000", "50"))
    .sources(&["messages_per_hour = 15", ""]);
    let node = world.start();
    let intake = node.intake();
    let id = delivery(&intake, recipients(&["one.example", "two.example"], 200)).await;
    sent(&intake, id, 50).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(intake.counters(id).await.unwrap().sent, 50);
    let ended = world.end(node).await;
    let of_first = ended.log.iter().filter(|line| line.source == Some(1)).count();
    assert!(of_first <= 15, "{of_first}");
    assert_eq!(ended.report.totals.accepted, 50);
}
