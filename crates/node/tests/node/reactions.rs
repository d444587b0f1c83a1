//! Reactions on real sockets: a provider asks for quiet and has it, over a restart too, and mail goes on afterwards.

use std::collections::BTreeMap;

use engine::reactions::{About, ReactionOrder};
use lab::Situation;
use mailweir_node::alerts;

use super::*;

const RULES: &str = r#"
schema_version = 1
version = "test"
[[rule]]
name = "slower"
mask = "mx.one.example"
text = '\[x1\]'
scope = "path"
action = ["suspend", "alert"]
for = "6s"
recovery = { steps = 2, every = "1s" }
source = "the test"
matches = ["451 4.7.1 [X1] come slower, please"]
matches_not = ["451 4.7.1 [X2] come slower, please"]
"#;

/// A provider that puts off every first attempt with words of its own.
fn world(block: u8) -> World {
    let words = "451 4.7.1 [X1] come slower, please".to_owned();
    let mood = Mood {
        temporary_share: 1.0,
        replies: BTreeMap::from([(Situation::Temporary, words)]),
        ..Mood::default()
    };
    let world = World::one(block, mood).sources(&[""]).more(
        "[reaction_rules]\nfile = \"reactions.toml\"\n[retry]\nsteps = [\"1s\"]\njitter_percent = 0\n",
    );
    std::fs::write(world.path("reactions.toml"), RULES).unwrap();
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_is_left_alone_for_as_long_as_it_was_asked_for() {
    let world = world(70);
    let node = world.start();
    let intake = node.intake();
    let id = delivery(&intake, recipients(&["one.example"], 300)).await;
    let questions = node.questions();
    let begun = eventually("a reaction", async || {
        questions.reactions().await.unwrap().in_force.into_iter().next()
    })
    .await;
    assert_eq!((begun.rule.as_str(), begun.version.split('+').next()), ("slower", Some("test")));
    assert!(matches!(begun.about, About::Path { .. }), "{begun:?}");
    assert!(begun.heard.contains("[X1]"), "{begun:?}");
    let standing = questions.alerts().await.unwrap();
    assert_eq!(standing[0].code, alerts::REACTION, "{standing:?}");
    world.set_mood("one", Mood::default());

    // Another process holds to it.
    node.shutdown().await;
    let node = world.start();
    let intake = node.intake();
    let kept = node.questions().reactions().await.unwrap().in_force;
    assert_eq!(kept.iter().map(|one| one.id).collect::<Vec<_>>(), [begun.id], "{kept:?}");
    assert_eq!(node.questions().alerts().await.unwrap().len(), 1);
    let counters = settled(&intake, id).await;
    assert_eq!(counters.sent, 300, "{counters:?}");
    let questions = node.questions();
    let ended = eventually("its end", async || {
        let all = questions.reactions().await.unwrap();
        all.in_force.is_empty().then_some(all.ended)
    })
    .await;
    assert_eq!(ended.last().unwrap().id, begun.id);
    assert!(questions.alerts().await.unwrap().is_empty());

    let ended = world.end(node).await;
    let cited = format!("R{} slower@{}", begun.id, begun.version);
    let micros = |line: &LogLine| line.started_micros;
    let cites = |line: &&LogLine| line.reaction.as_deref() == Some(cited.as_str());
    let last_refused = ended.log.iter().filter(cites).filter_map(micros).max().unwrap();
    let next = ended.log.iter().filter_map(micros).filter(|at| *at > last_refused).min().unwrap();
    let quiet = Duration::from_micros(next - last_refused);
    assert!(quiet > Duration::from_millis(5_500), "{quiet:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_421_to_mail_from_is_heard_and_written_down() {
    let words = "421 4.7.0 [X1] come slower, please".to_owned();
    let mood = Mood {
        messages_per_hour: Some(3),
        replies: BTreeMap::from([(Situation::HourQuota, words)]),
        ..Mood::default()
    };
    let world =
        World::one(72, mood).sources(&[""]).more("[reaction_rules]\nfile = \"reactions.toml\"\n");
    let long = RULES.replace("for = \"6s\"", "for = \"10m\"");
    std::fs::write(world.path("reactions.toml"), long).unwrap();
    let node = world.start();
    delivery(&node.intake(), recipients(&["one.example"], 50)).await;
    let questions = node.questions();
    let begun = eventually("a reaction", async || {
        questions.reactions().await.unwrap().in_force.into_iter().next()
    })
    .await;
    assert!(begun.heard.contains("421 4.7.0 [X1]"), "{begun:?}");
    let ended = world.end(node).await;
    let refused = ended.log.iter().filter(|line| line.stage.as_deref() == Some("mail-from"));
    let cited = format!("R{} slower@{}", begun.id, begun.version);
    assert!(refused.clone().any(|line| line.reaction.as_deref() == Some(cited.as_str())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_lifts_it_and_mail_goes_on_at_once() {
    let world = world(71);
    let long = RULES.replace("for = \"6s\"", "for = \"10m\"");
    std::fs::write(world.path("reactions.toml"), long).unwrap();
    let node = world.start();
    let intake = node.intake();
    let id = delivery(&intake, recipients(&["one.example"], 50)).await;
    let questions = node.questions();
    let begun = eventually("a reaction", async || {
        questions.reactions().await.unwrap().in_force.into_iter().next()
    })
    .await;
    world.set_mood("one", Mood::default());
    let unknown = questions.order_reaction(begun.id + 1, ReactionOrder::Lift, "ann", "").await;
    assert!(unknown.unwrap_err().to_string().contains("no reaction"));
    questions
        .order_reaction(begun.id, ReactionOrder::Lift, "ann", "they have said so")
        .await
        .unwrap();
    assert_eq!(settled(&intake, id).await.sent, 50);
    let ended = questions.reactions().await.unwrap().ended;
    assert_eq!(ended[0].changes[0].who, "ann", "{ended:?}");
    world.end(node).await;
}
