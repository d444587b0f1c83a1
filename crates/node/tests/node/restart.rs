//! What a node finds when it starts again, and what it refuses to start on.

use std::os::unix::fs::FileExt as _;
use std::sync::atomic::Ordering::Relaxed;

use engine::work::DeliveryState;
use lab::{Mood, Span};
use mailweir_node::retention::{Passed, forget_ended_before};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_campaign_goes_on_after_an_orderly_stop() {
    let slow = Mood { latency: Some(Span::from_millis(2)), ..Mood::default() };
    let world =
        World::new(60, vec![provider(60, 1, "one", slow), provider(60, 2, "two", Mood::default())]);
    let node = world.start();
    let intake = node.intake();
    let list = recipients(&["one.example", "two.example"], 1_200);
    let id = delivery(&intake, list).await;
    sent(&intake, id, 650).await;
    // In the middle of it, several times.
    let mut node = node;
    for stop in 1..=3 {
        node.shutdown().await;
        node = world.start();
        let intake = node.intake();
        let counters = intake.counters(id).await.unwrap();
        assert_eq!(counters.accepted, 1_200);
        assert_eq!(counters.sent, world.lab.report().totals.accepted, "stop {stop}");
        if stop == 3 {
            assert!(counters.pending() > 0, "it was over too early: {counters:?}");
            world.set_mood("one", Mood::default());
        }
        if stop < 3 {
            sent(&intake, id, counters.sent + 20).await;
        }
    }
    let counters = settled(&node.intake(), id).await;
    assert_eq!(counters.sent, 1_200, "{counters:?}");
    let ended = world.end(node).await;
    assert_eq!(ended.report.duplicates.unique_accepted, 1_200);
    assert_eq!(ended.report.duplicates.extra_copies, 0);
    assert_eq!(ended.log.iter().filter(|line| line.outcome == "sent").count(), 1_200);
}

/// Intake of one life, mail of the next: drafts, paused deliveries and those in wait survive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn states_survive_a_restart() {
    let world = World::one(61, Mood::default());
    let node = world.start();
    let intake = node.intake();
    let (draft_id, _) =
        draft(&intake, intake.default_options(), recipients(&["one.example"], 5)).await;
    let (paused, _) =
        draft(&intake, intake.default_options(), recipients(&["one.example"], 7)).await;
    world.set_mood("one", Mood { refuse_connection: true, ..Mood::default() });
    intake.start(paused).await.unwrap();
    intake.set_state(paused, DeliveryState::Paused, "test", "later").await.unwrap();
    node.shutdown().await;

    world.set_mood("one", Mood::default());
    let node = world.start();
    assert_eq!(node.questions().counts().sessions_failed.load(Relaxed), 0);
    let intake = node.intake();
    let state = async |id| intake.delivery(id).await.unwrap().unwrap().delivery.state;
    assert_eq!(state(draft_id).await, DeliveryState::Draft);
    assert_eq!(state(paused).await, DeliveryState::Paused);
    intake.start(draft_id).await.unwrap();
    assert_eq!(settled(&intake, draft_id).await.sent, 5);
    assert_eq!(intake.counters(paused).await.unwrap().sent, 0);
    intake.set_state(paused, DeliveryState::Running, "test", "now").await.unwrap();
    assert_eq!(settled(&intake, paused).await.sent, 7);
    eventually("the end of the delivery", async || {
        (state(paused).await == DeliveryState::Finished).then_some(())
    })
    .await;
    world.end(node).await;
}

/// What has ended goes from the database when its days are over; the counts over all stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ended_long_ago_is_forgotten() {
    let world = World::one(66, Mood::default());
    let node = world.start();
    let intake = node.intake();
    let ended = delivery(&intake, recipients(&["one.example"], 30)).await;
    assert_eq!(settled(&intake, ended).await.sent, 30);
    let (waiting, first) =
        draft(&intake, intake.default_options(), recipients(&["one.example"], 5)).await;
    let long_ago = intake.now().saturating_sub(Duration::from_secs(60));
    let passed = forget_ended_before(&intake, long_ago, long_ago).await.unwrap();
    assert_eq!(passed, Passed::default(), "nothing is that old");
    let passed = forget_ended_before(&intake, intake.now(), long_ago).await.unwrap();
    assert_eq!(passed, Passed { messages: 30, deliveries: 1 });
    assert!(intake.delivery(ended).await.unwrap().is_none());
    assert!(node.questions().message(first).await.unwrap().is_some());
    let totals = intake.read(|reads| reads.totals()).await.unwrap();
    assert_eq!((totals.counters.accepted, totals.counters.sent, totals.finished), (35, 30, 0));
    // What is left goes on, in this life and the next.
    node.shutdown().await;
    let node = world.start();
    let intake = node.intake();
    intake.start(waiting).await.unwrap();
    assert_eq!(settled(&intake, waiting).await.sent, 5);
    world.end(node).await;
}

/// The messages of the last hour as the node counts them, by budget.
async fn used(node: &Node) -> Vec<(String, u64)> {
    let budgets = node.questions().budgets().await.unwrap();
    budgets.into_iter().map(|budget| (budget.key, budget.used_in_window)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_survives_restarts_and_other_rules() {
    let figures =
        |limit: u32| OPEN.replace("\"path\"", "\"source\"").replace("1000000", &limit.to_string());
    let world = World::one(62, Mood::default()).rules(&figures(40));
    let node = world.start();
    let intake = node.intake();
    let options = intake.default_options();
    let (id, first) = delivery_with(&intake, options, recipients(&["one.example"], 200)).await;
    sent(&intake, id, 80).await;
    let full = vec![("s1".to_string(), 40), ("s2".to_string(), 40)];
    assert_eq!(used(&node).await, full);
    node.shutdown().await;

    let node = world.start();
    waits_for(&node, MessageId(first.0 + 199), "hour quota").await;
    assert_eq!(used(&node).await, full);
    assert_eq!(node.intake().counters(id).await.unwrap().sent, 80);

    // A faulty file changes nothing.
    let questions = node.questions();
    let version = questions.rules().await.unwrap().version();
    world.write_rules(&rule(&figures(40)).replace("[[rule]]", "[[rule]]\nmax_messages = 3"));
    let Err(StartFault::Rules(diagnostics)) = questions.reload_rules().await else {
        panic!("faulty rules were taken")
    };
    let shown = diagnostics[0].render().to_string();
    assert!(shown.contains("mx.toml:4:1") && shown.contains("max_messages"), "{shown}");
    assert_eq!(questions.rules().await.unwrap().version(), version);
    assert_eq!(used(&node).await, full);
    std::fs::remove_file(world.path("mx.toml")).unwrap();
    let fault = questions.reload_rules().await.unwrap_err().to_string();
    assert!(one_line(&fault) && fault.contains("mx.toml"), "{fault}");

    // The same rules again are the same version.
    world.write_rules(&rule(&figures(40)));
    assert_eq!(questions.reload_rules().await.unwrap().version(), version);

    // Other figures count what was sent before them.
    world.write_rules(&rule(&figures(50)));
    assert_eq!(questions.reload_rules().await.unwrap().version(), version + 1);
    sent(&node.intake(), id, 100).await;
    waits_for(&node, MessageId(first.0 + 199), "hour quota").await;
    assert_eq!(used(&node).await, [("s1".to_string(), 50), ("s2".to_string(), 50)]);

    // And another scope, over all that was sent.
    world.write_rules(&rule(&figures(120).replace("\"source\"", "\"rule\"")));
    questions.reload_rules().await.unwrap();
    sent(&node.intake(), id, 120).await;
    waits_for(&node, MessageId(first.0 + 199), "hour quota").await;
    assert_eq!(used(&node).await, [("all".to_string(), 120)]);
    node.shutdown().await;

    let node = world.start();
    waits_for(&node, MessageId(first.0 + 199), "hour quota").await;
    assert_eq!(used(&node).await, [("all".to_string(), 120)]);
    let ended = world.end(node).await;
    assert_eq!(ended.report.totals.accepted, 120);
    let versions: std::collections::BTreeSet<u64> =
        ended.log.iter().map(|line| line.rules_version).collect();
    assert_eq!(versions.len(), 3, "{versions:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_has_one_node_at_a_time() {
    let world = World::one(63, Mood::default());
    let node = world.start();
    let fault = world.refused().to_string();
    assert!(one_line(&fault) && fault.contains("in use by process"), "{fault}");
    // The first is none the worse for it.
    let intake = node.intake();
    let id = delivery(&intake, recipients(&["one.example"], 10)).await;
    assert_eq!(settled(&intake, id).await.sent, 10);
    world.end(node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_used_is_refused_in_one_line() {
    let world = World::one(64, Mood::default());
    world.start().shutdown().await;

    // A database of a later version: SQLite keeps it at octet 60 of the file.
    let database = world.path("data/mailweir.db");
    let file = std::fs::File::options().read(true).write(true).open(&database).unwrap();
    let mut version = [0; 4];
    file.read_exact_at(&mut version, 60).unwrap();
    file.write_all_at(&99_u32.to_be_bytes(), 60).unwrap();
    let fault = world.refused().to_string();
    assert!(one_line(&fault) && fault.contains("schema version 99"), "{fault}");
    file.write_all_at(&version, 60).unwrap();
    world.start().shutdown().await;

    // A damaged one.
    let octets = std::fs::read(&database).unwrap();
    std::fs::write(&database, b"all gone").unwrap();
    let fault = world.refused().to_string();
    assert!(one_line(&fault) && fault.contains("mailweir.db"), "{fault}");
    std::fs::write(&database, octets).unwrap();

    // Faulty rules.
    world.write_rules(&rule("max_connections = 0"));
    let fault = world.refused();
    assert!(matches!(&fault, StartFault::Rules(list) if !list.is_empty()), "{fault}");
    assert!(one_line(&fault.to_string()));
    std::fs::remove_file(world.path("mx.toml")).unwrap();
    let fault = world.refused().to_string();
    assert!(one_line(&fault) && fault.contains("mx.toml"), "{fault}");
    world.write_rules(&rule(OPEN));
    world.start().shutdown().await;
}

/// A stop does not wait for a server that never answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_does_not_wait_for_ever() {
    let hangs = Mood { hang_in_data: true, ..Mood::default() };
    let world = World::one(65, hangs).rules(&format!("{OPEN}\ndata_timeout = \"10m\""));
    let node = world.start();
    let intake = node.intake();
    let id = delivery(&intake, recipients(&["one.example"], 3)).await;
    eventually("a message on the wire", async || {
        let sources = world.lab.report().providers[0].sources.clone();
        sources.iter().any(|source| source.mail_commands > 0).then_some(())
    })
    .await;
    let begin = Instant::now();
    node.shutdown_within(Duration::from_secs(1)).await;
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    world.set_mood("one", Mood::default());
    let node = world.start();
    let counters = node.intake().counters(id).await.unwrap();
    assert_eq!((counters.accepted, counters.pending()), (3, 3), "{counters:?}");
    world.end(node).await;
}

/// What `mailweir_sessions_failed_total` tells must be told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_sessions_are_counted() {
    let world = World::one(67, Mood { refuse_connection: true, ..Mood::default() });
    let node = world.start();
    let intake = node.intake();
    let id = delivery(&intake, recipients(&["one.example"], 1)).await;
    let questions = node.questions();
    eventually("a failed session", async || {
        (questions.counts().sessions_failed.load(Relaxed) > 0).then_some(())
    })
    .await;
    let before = questions.counts().sessions_failed.load(Relaxed);
    world.set_mood("one", Mood::default());
    assert_eq!(settled(&intake, id).await.sent, 1);
    assert!(questions.counts().sessions_failed.load(Relaxed) >= before);
    world.end(node).await;
}
