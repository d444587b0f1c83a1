//! What receiving servers do to us, and what becomes of the mail.

use std::time::{Duration, Instant};

use lab::{LabConfig, Mood, Promise, Span};
use store::MessageState;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_recipients_fail_or_wait_by_what_was_said() {
    let world = World::one(2, Mood::default());
    let node = world.start();
    let intake = node.intake();
    let list = addressed(&["unknown1@one.example", "full1@one.example", "fine@one.example"]);
    let (id, first) = delivery_with(&intake, intake.default_options(), list).await;
    eventually("three outcomes", async || {
        let counters = intake.counters(id).await.unwrap();
        (counters.sent == 1 && counters.failed == 1 && counters.in_flight == 0).then_some(())
    })
    .await;
    let unknown = explained(&node, first).await;
    assert_eq!((unknown.state.as_str(), unknown.attempts), ("failed", 1));
    assert!(unknown.last_reply.starts_with("550 5.1.1"), "{unknown:?}");

    let full_id = MessageId(first.0 + 1);
    let full = waits_for(&node, full_id, "retry scheduled").await;
    assert_eq!((full.state.as_str(), full.attempts), ("queued", 1));
    assert!(full.last_reply.contains("4.2.2"), "{full:?}");
    assert!(full.waiting.unwrap().next_at.is_some());
    let record = intake.read(move |reads| reads.message(full_id)).await.unwrap().unwrap();
    let MessageState::Queued { due, .. } = record.state else { panic!("{record:?}") };
    let pause = due.since(intake.now());
    let hour = Duration::from_secs(3_600);
    assert!(pause > hour - PATIENCE && pause < hour * 11 / 10, "{pause:?}");

    let ended = world.end(node).await;
    let source = &ended.report.provider("one").unwrap().sources;
    assert_eq!(source.iter().map(|source| source.accepted).sum::<u64>(), 1);
    let line = ended.log.iter().find(|line| line.outcome == "failed").unwrap();
    assert_eq!(line.stage.as_deref(), Some("rcpt-to"), "{line:?}");
    assert_eq!((line.rule.as_str(), line.recipient.as_str()), ("lab", "unknown1@one.example"));
    let line = ended.log.iter().find(|line| line.outcome == "deferred").unwrap();
    assert!(line.next_at.is_some(), "{line:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn greylisted_mail_comes_again_from_the_same_source() {
    // Slow enough that one connection does not carry everything.
    let mood = Mood {
        greylist: Some(Span::from_millis(500)),
        latency: Some(Span::from_millis(5)),
        ..Mood::default()
    };
    let world = World::one(3, mood).more("[retry]\ngreylisted = \"1s\"\njitter_percent = 0\n");
    let node = world.start();
    let intake = node.intake();
    let id = delivery(&intake, recipients(&["one.example"], 100)).await;
    let counters = settled(&intake, id).await;
    assert_eq!(counters.sent, 100, "{counters:?}");
    let ended = world.end(node).await;
    assert_eq!(ended.log.len(), 200);
    let mut used = std::collections::BTreeSet::new();
    for first in ended.log.iter().filter(|line| line.outcome == "deferred") {
        let second = ended
            .log
            .iter()
            .find(|line| line.recipient == first.recipient && line.outcome == "sent")
            .unwrap();
        assert_eq!(first.source, second.source, "{first:?} {second:?}");
        used.insert(first.source);
    }
    // Else the test would show nothing.
    assert_eq!(used.len(), 2);
}

/// A server that says 421 takes everything in the end, and nothing fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_421_costs_no_message() {
    let crowded = Mood { max_connections: Some(2), ..Mood::default() };
    let brief = Mood { max_messages_per_connection: Some(5), ..Mood::default() };
    let silent = Mood { close_silently: true, ..brief.clone() };
    let providers = [("one", crowded), ("two", brief), ("three", silent)]
        .into_iter()
        .zip(1..)
        .map(|((name, mood), at)| {
            let mut provider = provider(4, at, name, mood);
            provider.promise = Promise { max_connections: Some(10), ..Promise::default() };
            provider
        })
        .collect();
    let world = World::new(4, providers);
    let node = world.start();
    let intake = node.intake();
    let domains = ["one.example", "two.example", "three.example"];
    // After each 421 the path rests for seconds, so this is not much.
    let id = delivery(&intake, recipients(&domains, 60)).await;
    let counters = settled(&intake, id).await;
    let groups = node.questions().groups().await.unwrap();
    assert_eq!(counters.sent, 60, "{counters:?} {groups:#?}");
    let ended = world.end(node).await;
    assert_eq!(ended.report.duplicates.unique_accepted, 60, "{:#?}", ended.report);
    assert_eq!(ended.report.duplicates.extra_copies, 0);
    assert!(ended.report.limits_held(), "{:#?}", ended.report.limit_violations);
    for source in &ended.report.provider("three").unwrap().sources {
        assert!(source.most_accepted_on_one_connection <= 5, "{source:?}");
    }
}

/// A rule that knows of the server's limit never meets its 421.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn within_the_limits_nothing_is_refused() {
    let mood =
        Mood { max_connections: Some(2), max_messages_per_connection: Some(5), ..Mood::default() };
    let figures = OPEN
        .replace("max_connections = 10", "max_connections = 2")
        .replace("connection = 1000", "connection = 5");
    let world = World::one(5, mood).rules(&figures);
    let node = world.start();
    let intake = node.intake();
    let id = delivery(&intake, recipients(&["one.example"], 100)).await;
    let counters = settled(&intake, id).await;
    assert_eq!(counters.sent, 100, "{counters:?}");
    let ended = world.end(node).await;
    assert_eq!(ended.report.totals.refused, 0, "{:#?}", ended.report);
    assert_eq!(ended.log.len(), 100);
    for source in &ended.report.provider("one").unwrap().sources {
        assert!(source.most_simultaneous_connections <= 2, "{source:?}");
        assert!(source.most_messages_on_one_connection <= 5, "{source:?}");
    }
}

/// A connection that is lost after the final dot leaves the message possibly delivered: it is sent again,
/// and both we and the receiving side know of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_to_the_dot_is_repeated_and_counted() {
    let mood = Mood { drop_after_dot: 0.2, ..Mood::default() };
    let world = World::one(6, mood).more("[retry]\nsteps = [\"1s\"]\njitter_percent = 0\n");
    let node = world.start();
    let intake = node.intake();
    let id = delivery(&intake, recipients(&["one.example"], 50)).await;
    let counters = settled(&intake, id).await;
    assert_eq!(counters.sent, 50, "{counters:?}");
    let ended = world.end(node).await;
    let duplicates = ended.report.duplicates;
    let possibly = ended.report.totals.possibly_delivered;
    assert!(possibly > 0, "{:#?}", ended.report);
    assert_eq!(duplicates.unique_accepted, 50);
    assert_eq!(duplicates.accepted_after_drop, possibly);
    assert_eq!(duplicates.extra_copies, 0);
    let noted = ended.log.iter().filter(|line| line.note.contains("possibly delivered")).count();
    assert_eq!(noted as u64, possibly);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_port_rests_and_is_tried_again() {
    let closed = Mood { refuse_connection: true, ..Mood::default() };
    let world = World::one(7, closed);
    let node = world.start();
    let intake = node.intake();
    let options = intake.default_options();
    let (id, first) = delivery_with(&intake, options, recipients(&["one.example"], 5)).await;
    let found = waits_for(&node, first, "path resting: unreachable").await;
    assert_eq!(found.attempts, 0, "{found:#?}");
    assert!(found.waiting.as_ref().unwrap().next_at.is_some(), "{found:#?}");
    assert!(found.paths.iter().any(|path| path.resting_until.is_some()), "{found:#?}");
    world.set_mood("one", Mood::default());
    let counters = settled(&intake, id).await;
    assert_eq!((counters.sent, counters.failed), (5, 0));
    world.end(node).await;
}

/// A server that never answers the content holds up its own mail, by the rule's time, and no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_holds_up_nobody_else() {
    let hangs = Mood { hang_in_data: true, ..Mood::default() };
    let world =
        World::new(8, vec![provider(8, 1, "one", hangs), provider(8, 2, "two", Mood::default())])
            .rules(&format!("{OPEN}\ndata_timeout = \"1s\"\n"))
            .more("[retry]\nsteps = [\"1s\"]\njitter_percent = 0\n");
    let node = world.start();
    let intake = node.intake();
    let options = intake.default_options();
    let (slow, first) = delivery_with(&intake, options, recipients(&["one.example"], 3)).await;
    let begin = Instant::now();
    let quick = delivery(&intake, recipients(&["two.example"], 100)).await;
    assert_eq!(settled(&intake, quick).await.sent, 100);
    let took = begin.elapsed();
    eventually("an attempt that counted", async || {
        (explained(&node, first).await.attempts > 0).then_some(())
    })
    .await;
    assert!(explained(&node, first).await.last_reply.contains("possibly delivered"));
    world.set_mood("one", Mood::default());
    let counters = settled(&intake, slow).await;
    let groups = node.questions().groups().await.unwrap();
    let mut all = Vec::new();
    for number in 0..3 {
        all.push(explained(&node, MessageId(first.0 + number)).await);
    }
    assert_eq!(counters.sent, 3, "{counters:?} {groups:#?} {all:#?}");
    let ended = world.end(node).await;
    assert_eq!(ended.report.duplicates.unique_accepted, 103);
    let quick: Vec<_> =
        ended.log.iter().filter(|line| line.recipient.ends_with("two.example")).collect();
    assert_eq!(quick.len(), 100, "{took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
}

/// A server that does not know what it offers is sent the same mail at once by DATA, and nobody's attempt is counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_bdat_is_not_known_the_mail_goes_by_data() {
    let mood = Mood { unknown_bdat: true, ..Mood::default() };
    let world = World::one(15, mood).rules(OPEN);
    let node = world.start();
    let intake = node.intake();
    let begin = Instant::now();
    let options = intake.default_options();
    let (id, first) = delivery_with(&intake, options, recipients(&["one.example"], 50)).await;
    assert_eq!(settled(&intake, id).await.sent, 50);
    let took = begin.elapsed();
    assert!(explained(&node, first).await.attempts <= 1);
    let ended = world.end(node).await;
    assert_eq!(ended.report.duplicates.unique_accepted, 50);
    assert_eq!(ended.report.duplicates.duplicated_keys, 0);
    // A path that had failed would have rested for four seconds.
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn domains_without_mail_fail_with_their_codes() {
    let world = World::of(
        9,
        LabConfig {
            providers: vec![provider(9, 1, "one", Mood::default())],
            null_mx: vec!["nomail.example".into()],
            ..LabConfig::default()
        },
    );
    let node = world.start();
    let intake = node.intake();
    let list = addressed(&["a@nomail.example", "a@missing.example", "a@one.example"]);
    let (id, first) = delivery_with(&intake, intake.default_options(), list).await;
    let counters = settled(&intake, id).await;
    assert_eq!((counters.sent, counters.failed), (1, 2), "{counters:?}");
    for (number, code) in [(0, "5.1.10 "), (1, "5.1.2 ")] {
        let found = explained(&node, MessageId(first.0 + number)).await;
        assert_eq!(found.state, "failed");
        assert!(found.last_reply.starts_with(code), "{found:?}");
    }
    let ended = world.end(node).await;
    assert_eq!(ended.log.len(), 3);
    assert!(ended.log.iter().filter(|line| line.rule == "dns").all(|line| line.source.is_none()));
}

/// The whole way of a content that is refused after the dot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_refused_after_the_dot_fails() {
    let mood = Mood { reject_after_data: 0.5, ..Mood::default() };
    let world = World::one(10, mood);
    let node = world.start();
    let intake = node.intake();
    let id = delivery(&intake, recipients(&["one.example"], 60)).await;
    let counters = settled(&intake, id).await;
    assert_eq!(counters.sent + counters.failed, 60);
    let ended = world.end(node).await;
    assert_eq!(ended.report.totals.accepted, counters.sent);
    assert!(counters.failed > 5 && counters.sent > 5, "{counters:?}");
    let failed: Vec<_> = ended.log.iter().filter(|line| line.outcome == "failed").collect();
    assert_eq!(failed.len() as u64, counters.failed);
    for line in failed {
        assert_eq!(line.stage.as_deref(), Some("content"), "{line:?}");
    }
}
