//! What people ask of a delivery: pause, cancel, waves, validity, modes, priorities, sources.

use std::time::Duration;

use engine::work::{DeliveryState, SendMode, Wave, WaveSize};
use lab::{Mood, Span};
use mail::id::Priority;
use mailweir_node::intake::{Accepted, SingleMessage, StreamName};

use super::*;

/// A server so slow that people can act in between.
fn slow() -> Mood {
    Mood { latency: Some(Span::from_millis(4)), ..Mood::default() }
}

/// Two connections, so that a delivery to a slow server takes its time.
fn narrow() -> String {
    OPEN.replace("max_connections = 10", "max_connections = 1")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_delivery_waits_and_goes_on() {
    let world = World::one(30, slow()).rules(&narrow());
    let node = world.start();
    let intake = node.intake();
    let options = intake.default_options();
    let (id, first) = delivery_with(&intake, options, recipients(&["one.example"], 400)).await;
    sent(&intake, id, 20).await;
    intake.set_state(id, DeliveryState::Paused, "test", "to see").await.unwrap();
    // What was on its way is carried to its end.
    let held = eventually("nothing in flight", async || {
        let counters = intake.counters(id).await.unwrap();
        (counters.in_flight == 0).then_some(counters)
    })
    .await;
    assert!(held.queued() > 0, "{held:?}");
    assert_eq!(world.lab.report().totals.accepted, held.sent);
    waits_for(&node, MessageId(first.0 + 399), "delivery paused").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(intake.counters(id).await.unwrap(), held);
    intake.set_state(id, DeliveryState::Running, "test", "seen").await.unwrap();
    world.set_mood("one", Mood::default());
    assert_eq!(settled(&intake, id).await.sent, 400);
    let ended = world.end(node).await;
    assert_eq!(ended.report.duplicates.unique_accepted, 400);
    assert_eq!(ended.report.duplicates.extra_copies, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_delivery_sends_nothing_more() {
    let world = World::one(31, slow()).rules(&narrow());
    let node = world.start();
    let intake = node.intake();
    let id = delivery(&intake, recipients(&["one.example"], 1_000)).await;
    sent(&intake, id, 20).await;
    intake.set_state(id, DeliveryState::Cancelled, "test", "wrong price").await.unwrap();
    let at_cancel = intake.counters(id).await.unwrap();
    let counters = settled(&intake, id).await;
    assert_eq!(counters.sent + counters.cancelled, 1_000, "{counters:?}");
    // At most what stood on the connections: 64 on each of two.
    assert!(counters.sent - at_cancel.sent <= 2 * 64, "{at_cancel:?} {counters:?}");
    assert!(counters.cancelled > 500, "{counters:?}");
    assert_eq!(world.lab.report().totals.accepted, counters.sent);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(world.lab.report().totals.accepted, counters.sent);
    let again = intake.set_state(id, DeliveryState::Running, "test", "no, do").await;
    assert!(again.is_err(), "{again:?}");
    world.end(node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waves_open_in_their_time() {
    let world = World::one(32, Mood::default());
    let node = world.start();
    let intake = node.intake();
    let wave = |size, start_after| Wave { size, start_after };
    let options = DeliveryOptions {
        waves: vec![
            wave(WaveSize::Count(10), Duration::ZERO),
            wave(WaveSize::Percent(100.0), Duration::from_secs(1)),
        ],
        ..intake.default_options()
    };
    let list = recipients(&["one.example"], 30);
    let (id, first) = delivery_with(&intake, options, list).await;
    sent(&intake, id, 10).await;
    let last = explained(&node, MessageId(first.0 + 29)).await;
    assert_eq!(last.waiting.unwrap().reason, "wave not open");
    assert_eq!(settled(&intake, id).await.sent, 30);
    let started = intake.delivery(id).await.unwrap().unwrap().delivery.started_at.unwrap();
    let ended = world.end(node).await;
    for line in &ended.log {
        let number = line.message[1..].parse::<u64>().unwrap() - first.0;
        let after = line.started_micros.unwrap().saturating_sub(started.as_micros());
        assert_eq!(number >= 10, after >= 1_000_000, "{line:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_go_in_its_time_expires() {
    let world = World::one(33, Mood { refuse_connection: true, ..Mood::default() });
    let node = world.start();
    let intake = node.intake();
    let options = DeliveryOptions {
        valid_until: Some(intake.now() + Duration::from_millis(1_500)),
        ..intake.default_options()
    };
    let list = recipients(&["one.example"], 10);
    let (id, first) = delivery_with(&intake, options, list).await;
    let counters = settled(&intake, id).await;
    assert_eq!(counters.expired, 10, "{counters:?}");
    let found = explained(&node, first).await;
    assert_eq!(found.state, "expired");
    assert!(found.last_reply.contains("validity"), "{found:?}");
    let ended = world.end(node).await;
    assert_eq!(ended.report.totals.accepted, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_test_run_asks_and_a_dry_run_does_not_even_call() {
    let world = World::one(34, Mood::default());
    let node = world.start();
    let intake = node.intake();
    let mode = |mode| DeliveryOptions { mode, ..intake.default_options() };
    let mut list = recipients(&["one.example"], 20);
    list.push(recipient(21, "unknown1@one.example"));
    let (dry, _) = delivery_with(&intake, mode(SendMode::Dry), list.clone()).await;
    assert_eq!(settled(&intake, dry).await.sent, 21);
    assert_eq!(world.lab.report().totals.connections, 0);
    let (test, _) = delivery_with(&intake, mode(SendMode::Test), list).await;
    let counters = settled(&intake, test).await;
    assert_eq!((counters.sent, counters.failed), (20, 1));
    let ended = world.end(node).await;
    assert_eq!(ended.report.totals.accepted, 0);
    let sources = &ended.report.provider("one").unwrap().sources;
    assert_eq!(sources.iter().map(|source| source.mail_commands).sum::<u64>(), 21);
    assert_eq!(sources.iter().map(|source| source.data_octets).sum::<u64>(), 0);
    assert!(sources.iter().all(|source| source.faults.is_empty()), "{sources:#?}");
    let to_dry: Vec<_> = ended.log.iter().filter(|line| line.delivery == dry.to_string()).collect();
    assert_eq!(to_dry.len(), 21);
    assert!(to_dry.iter().all(|line| line.reply.as_ref().unwrap().contains("dry run")));
}

/// A template that lacks a variable costs no connection, and no other message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recipient_without_its_merge_data_fails_before_anything_is_sent() {
    let world = World::one(35, Mood::default());
    let node = world.start();
    let intake = node.intake();
    let mut list = recipients(&["one.example"], 10);
    list[3].merge = "{}".into();
    let (id, first) = delivery_with(&intake, intake.default_options(), list).await;
    let counters = settled(&intake, id).await;
    assert_eq!((counters.sent, counters.failed), (9, 1));
    let found = explained(&node, MessageId(first.0 + 3)).await;
    assert!(found.last_reply.contains("first_name"), "{found:?}");
    let ended = world.end(node).await;
    let sources = &ended.report.provider("one").unwrap().sources;
    assert_eq!(sources.iter().map(|source| source.mail_commands).sum::<u64>(), 9);
}

/// Mail for which a person waits goes before a campaign that fills all connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_message_overtakes_a_campaign() {
    let world = World::one(36, slow()).rules(&narrow());
    let node = world.start();
    let intake = node.intake();
    let id = delivery(&intake, recipients(&["one.example"], 1_000)).await;
    sent(&intake, id, 5).await;
    let stream =
        StreamName { affinity: "default".into(), priority: Priority::High, tenant: "shop".into() };
    let message = SingleMessage {
        sender: String::new(),
        recipients: vec![Mailbox::parse("urgent@one.example").unwrap()],
        content: b"From: a@sender.example\r\nSubject: your code\r\n\r\n4711\r\n".to_vec(),
    };
    let before = intake.counters(id).await.unwrap().sent;
    let Accepted::New(appended) = intake.submit(&stream, message, None).await.unwrap() else {
        panic!("it is new")
    };
    let urgent = appended.first.unwrap();
    eventually("the single message", async || {
        (explained(&node, urgent).await.state == "sent").then_some(())
    })
    .await;
    let after = intake.counters(id).await.unwrap().sent;
    // What stands on the connections goes first: at most 64 on each of two.
    assert!(after - before <= 150, "{before} {after}");
    assert!(after < 900, "{after}");
    intake.set_state(id, DeliveryState::Cancelled, "test", "seen").await.unwrap();
    settled(&intake, id).await;
    world.end(node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_keeps_its_own_speed() {
    let world = World::one(37, Mood::default());
    let node = world.start();
    let intake = node.intake();
    let options = DeliveryOptions { messages_per_hour: Some(12), ..intake.default_options() };
    let list = recipients(&["one.example"], 40);
    let (id, first) = delivery_with(&intake, options, list).await;
    sent(&intake, id, 12).await;
    let other = delivery(&intake, recipients(&["one.example"], 40)).await;
    assert_eq!(settled(&intake, other).await.sent, 40);
    let found = waits_for(&node, MessageId(first.0 + 39), "delivery cap").await;
    let waiting = found.waiting.unwrap();
    assert!(waiting.next_at.is_some() && waiting.smallest_change.unwrap().contains("12"));
    assert_eq!(intake.counters(id).await.unwrap().sent, 12);
    world.end(node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sources_are_chosen_by_affinity_and_masks() {
    let world = World::new(
        38,
        vec![
            provider(38, 1, "one", slow()),
            provider(38, 2, "two", Mood::default()),
            provider(38, 3, "three", Mood::default()),
        ],
    )
    .sources(&[
        "exclude_domains = [\"two.example\", \"three.example\"]",
        "exclude_domains = [\"three.example\"]",
    ])
    .more("[[affinity]]\nname = \"second\"\nsources = \"2\"\n");
    let node = world.start();
    let intake = node.intake();
    let list = recipients(&["one.example", "two.example"], 80);
    let (both, _) = delivery_with(&intake, intake.default_options(), list.clone()).await;
    let options = DeliveryOptions { affinity: "second".into(), ..intake.default_options() };
    let (second, _) = delivery_with(&intake, options, list).await;
    let (_, nowhere) =
        delivery_with(&intake, intake.default_options(), addressed(&["a@three.example"])).await;
    assert_eq!(settled(&intake, both).await.sent, 80);
    assert_eq!(settled(&intake, second).await.sent, 80);
    let found = waits_for(&node, nowhere, "no source for domain").await;
    assert!(found.waiting.unwrap().smallest_change.unwrap().contains("default"));
    let ended = world.end(node).await;
    let count = |delivery: DeliveryId, domain: &str, source: u32| {
        let fits = |line: &&LogLine| {
            line.delivery == delivery.to_string()
                && line.recipient.ends_with(domain)
                && line.source == Some(source)
        };
        ended.log.iter().filter(fits).count()
    };
    assert_eq!((count(both, "two.example", 1), count(both, "two.example", 2)), (0, 40));
    assert!(count(both, "one.example", 1) > 0);
    assert_eq!((count(second, "one.example", 1), count(second, "one.example", 2)), (0, 40));
    let unknown = DeliveryOptions { affinity: "none".into(), ..DeliveryOptions::default() };
    let fault = intake.create(unknown, None, None).await.unwrap_err().to_string();
    assert!(one_line(&fault) && fault.contains("default") && fault.contains("second"), "{fault}");
}
