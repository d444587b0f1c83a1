//! STARTTLS, good and bad.

use lab::{Mood, StartTls};

use super::*;

fn mood(starttls: StartTls) -> Mood {
    Mood { starttls, ..Mood::default() }
}

/// Connections, those with TLS, MAIL commands.
fn seen(report: &Report) -> (u64, u64, u64) {
    let sources = &report.provider("one").unwrap().sources;
    (
        sources.iter().map(|source| source.connections).sum(),
        sources.iter().map(|source| source.connections_with_tls).sum(),
        sources.iter().map(|source| source.mail_commands).sum(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn required_tls_is_used() {
    let world = World::one(20, mood(StartTls::Good)).rules(&format!("{OPEN}\ntls = \"required\""));
    let node = world.start();
    let intake = node.intake();
    let id = delivery(&intake, recipients(&["one.example"], 30)).await;
    assert_eq!(settled(&intake, id).await.sent, 30);
    let ended = world.end(node).await;
    let (connections, with_tls, mail) = seen(&ended.report);
    assert!(connections > 0 && connections == with_tls, "{:#?}", ended.report);
    assert_eq!(mail, 30);
}

/// Neither a server without STARTTLS nor one with a broken handshake gets mail in clear.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn required_tls_is_never_done_without() {
    let providers =
        [("one", StartTls::None), ("two", StartTls::BrokenHandshake), ("three", StartTls::Refuses)]
            .into_iter()
            .zip(1..)
            .map(|((name, kind), at)| provider(21, at, name, mood(kind)))
            .collect();
    let world = World::new(21, providers).rules(&format!("{OPEN}\ntls = \"required\""));
    let node = world.start();
    let intake = node.intake();
    let list = addressed(&["a@one.example", "a@two.example", "a@three.example"]);
    let (id, first) = delivery_with(&intake, intake.default_options(), list).await;
    for number in 0..3 {
        let message = MessageId(first.0 + number);
        let found = eventually("a rest", async || {
            let found = explained(&node, message).await;
            let reason = found.waiting.as_ref().map(|waiting| waiting.reason.clone());
            reason.is_some_and(|reason| reason.starts_with("path resting")).then_some(found)
        })
        .await;
        assert!(found.waiting.unwrap().detail.contains("TLS"));
    }
    let counters = intake.counters(id).await.unwrap();
    assert_eq!((counters.sent, counters.failed), (0, 0));
    let ended = world.end(node).await;
    for provider in &ended.report.providers {
        assert_eq!(provider.accepted, 0);
        assert!(provider.connections > 0);
        assert!(provider.sources.iter().all(|source| source.mail_commands == 0), "{provider:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opportunistic_tls_gives_way_to_clear_text() {
    let providers = [("one", StartTls::BrokenHandshake), ("two", StartTls::Refuses)]
        .into_iter()
        .zip(1..)
        .map(|((name, kind), at)| provider(22, at, name, mood(kind)))
        .collect();
    let world = World::new(22, providers).rules(&format!("{OPEN}\ntls = \"opportunistic\""));
    let node = world.start();
    let intake = node.intake();
    let id = delivery(&intake, recipients(&["one.example", "two.example"], 20)).await;
    assert_eq!(settled(&intake, id).await.sent, 20);
    let ended = world.end(node).await;
    let (connections, with_tls, _) = seen(&ended.report);
    // The broken one, and the new one in clear.
    assert!(connections >= 2 && with_tls == 0, "{:#?}", ended.report);
    assert_eq!(ended.report.duplicates.unique_accepted, 20);
}

/// Octets that came in clear behind the 220 are the mark of an attack: nothing is sent over that connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn injected_replies_get_no_mail() {
    let world = World::one(23, mood(StartTls::Injects));
    let node = world.start();
    let intake = node.intake();
    let options = intake.default_options();
    let (id, first) = delivery_with(&intake, options, addressed(&["a@one.example"])).await;
    let found = waits_for(&node, first, "path resting: broken off").await;
    assert_eq!(found.attempts, 0);
    assert_eq!(seen(&world.lab.report()).2, 0);
    world.set_mood("one", mood(StartTls::Good));
    assert_eq!(settled(&intake, id).await.sent, 1);
    let ended = world.end(node).await;
    let (_, with_tls, mail) = seen(&ended.report);
    assert_eq!((with_tls, mail), (1, 1));
}
