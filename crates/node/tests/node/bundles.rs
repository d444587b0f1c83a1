//! Bundles of rules in a node that sends: limits change at once, and no count is lost.

use std::collections::BTreeMap;

use engine::quarantine::Author;
use lab::Mood;
use mail::time::Timestamp;
use mailweir_node::deliverability::client_version;
use mailweir_node::deliverability::keys::SigningKey;
use rules::bundle::{Draft, Kind};

use super::*;

fn bundle(key: &SigningKey, version: u64, per_hour: u32) -> std::sync::Arc<[u8]> {
    let mx = format!(
        "schema_version = 1\n[[rule]]\nname = \"published\"\nmask = \"*.one.example\"\n\
         pacing = \"burst\"\nmessages_per_hour = {per_hour}\n[[rule]]\nname = \"generic\"\n\
         mask = \"*\"\nmax_connections = 2\nmax_messages_per_connection = 10\n\
         messages_per_hour = 500\n"
    );
    sealed(key, version, BTreeMap::from([(Kind::Mx, mx)]))
}

fn sealed(
    key: &SigningKey,
    version: u64,
    sections: BTreeMap<Kind, String>,
) -> std::sync::Arc<[u8]> {
    let now = Timestamp::from_micros(mailweir_node::clock::read_clocks().wall);
    let draft = Draft {
        version,
        created: Timestamp::from_secs(now.as_secs()),
        expires: now + Duration::from_secs(86_400),
        minimum_client: client_version(),
        keys: Vec::new(),
        notes: String::new(),
        sections,
    };
    draft.seal(&key.public(), |message| key.sign(message)).unwrap().into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_count_is_lost_when_other_rules_come() {
    let world = World::one(95, Mood::default()).sources(&[""]);
    world.write_rules(
        &rule(OPEN)
            .replace("\"*.example\", \"127.*\"", "\"*.nowhere\"")
            .replace("mx.one.example", "mx.nowhere"),
    );
    let key = SigningKey::generate().unwrap();
    let mut config = world.config();
    config.rules.levels = rules::Levels::default();
    config.deliverability.public_keys = vec![key.public()];
    let node = Node::start(config).unwrap();
    let questions = node.questions();
    let apply = async |version, per_hour| {
        let author = Author { who: "test".into(), why: "other limits".into() };
        questions.apply_bundle(bundle(&key, version, per_hour), author).await.unwrap()
    };
    apply(1, 30).await;
    let intake = node.intake();
    let id = delivery(&intake, recipients(&["one.example"], 200)).await;
    sent(&intake, id, 30).await;
    let held = async |limit: u64| {
        sent(&intake, id, limit).await;
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert_eq!(intake.counters(id).await.unwrap().sent, limit);
        assert_eq!(world.lab.report().totals.accepted, limit);
    };
    held(30).await;
    // Fifteen more, not forty-five: what was sent under the rules before counts under these.
    apply(2, 45).await;
    held(45).await;
    apply(3, 40).await;
    held(45).await;
    let author = Author { who: "test".into(), why: "too little".into() };
    questions.roll_back(Some(2), author).await.unwrap();
    held(45).await;
    apply(4, 60).await;
    held(60).await;
    let ended = world.end(node).await;
    assert_eq!(ended.report.duplicates.extra_copies, 0);
    let versions: std::collections::BTreeSet<u64> =
        ended.log.iter().map(|line| line.rules_version).collect();
    assert!(versions.len() >= 3, "{versions:?}");
}

/// What a bundle says of a provider's words holds from the swap on, and no longer when it is taken back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reactions_of_a_bundle_come_and_go_with_it() {
    let words = "451 4.7.1 [X1] come slower, please".to_owned();
    let mood = Mood {
        temporary_share: 1.0,
        replies: BTreeMap::from([(lab::Situation::Temporary, words)]),
        ..Mood::default()
    };
    let world = World::one(96, mood).sources(&[""]);
    let key = SigningKey::generate().unwrap();
    let mut config = world.config();
    config.deliverability.public_keys = vec![key.public()];
    let node = Node::start(config).unwrap();
    let (questions, intake) = (node.questions(), node.intake());
    let author = || Author { who: "test".into(), why: "other reactions".into() };
    let attempts = || world.lab.report().totals.refused;
    // Without it nobody minds those words.
    delivery(&intake, recipients(&["one.example"], 20)).await;
    eventually("an attempt", async || (attempts() > 0).then_some(())).await;
    assert_eq!(questions.reactions().await.unwrap().in_force, []);
    let reaction = "schema_version = 1\nversion = \"of the bundle\"\n[[rule]]\nname = \"slower\"\n\
                    mask = \"mx.one.example\"\ntext = '\\[X1\\]'\nscope = \"path\"\n\
                    action = [\"suspend\"]\nfor = \"2h\"\nsource = \"a test\"\n\
                    matches = [\"451 4.7.1 [X1] come slower, please\"]\n\
                    matches_not = [\"451 4.7.1 [X2]\"]\n";
    let octets = sealed(&key, 1, BTreeMap::from([(Kind::Reaction, reaction.to_owned())]));
    questions.apply_bundle(octets, author()).await.unwrap();
    // Everybody's first attempt is put off; these are others.
    delivery(&intake, recipients(&["one.example"], 120)).await;
    let begun = eventually("a reaction", async || {
        questions.reactions().await.unwrap().in_force.into_iter().next()
    })
    .await;
    assert_eq!((&*begun.rule, begun.version.starts_with("of the bundle")), ("slower", true));
    // What is in force goes on as it began; nothing new begins under the rules before.
    questions.roll_back(None, author()).await.unwrap();
    assert_eq!(
        questions.in_force().reaction.version(),
        rules::reaction::ReactionRules::shipped().version()
    );
    assert_eq!(questions.reactions().await.unwrap().in_force.len(), 1);
    node.shutdown().await;
}
