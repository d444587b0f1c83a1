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

/// An instance that answers every fetch with these octets, and everything else with 204.
async fn instance(octets: std::sync::Arc<std::sync::Mutex<std::sync::Arc<[u8]>>>) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 8_192];
            let read = stream.read(&mut head).await.unwrap_or(0);
            let mut answer = b"HTTP/1.1 204 No Content\r\n\r\n".to_vec();
            if head[..read].starts_with(b"GET") {
                let octets = std::sync::Arc::clone(&octets.lock().unwrap());
                let fields = "content-type: application/vnd.mailweir.bundle\r\n";
                let length = octets.len();
                answer =
                    format!("HTTP/1.1 200 OK\r\n{fields}content-length: {length}\r\n\r\n").into();
                answer.extend_from_slice(&octets);
            }
            let _ = stream.write_all(&answer).await;
        }
    });
    url
}

/// A bundle that does not fit on the disk changes nothing, and comes when there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_leaves_the_old_bundle_in_force_until_there_is_room() {
    use mailweir_node::config::{InstanceConfig, Secret};
    use mailweir_node::deliverability::{SyncOutcome, Target};
    let world = World::one(97, Mood::default()).more("[limits]\nfree_disk_bytes = 0\n");
    let Some(disk) = super::small_disk::SmallDisk::mount(world.path("data"), 64) else { return };
    let key = SigningKey::generate().unwrap();
    let served = std::sync::Arc::new(std::sync::Mutex::new(bundle(&key, 1, 30)));
    let mut config = world.config();
    config.rules.levels = rules::Levels::default();
    config.deliverability.public_keys = vec![key.public()];
    let url = Target::parse_base(&instance(std::sync::Arc::clone(&served)).await).unwrap();
    let following = InstanceConfig::new(url, Secret::new("a-token-of-this-client"));
    config.deliverability.instance = Some(InstanceConfig { schedule: None, ..following });
    let node = Node::start(config).unwrap();
    let questions = node.questions();
    let sync = async || {
        let author = Author { who: "test".into(), why: "a full disk".into() };
        questions.sync_bundle(author, false).await.unwrap()
    };
    let in_force = || questions.in_force().layer.published().map(|published| published.version);
    assert_eq!(sync().await.outcome, SyncOutcome::Applied);
    // Larger than what the database has left in its files.
    let spam = |number: u32| format!("{}.spam.example\n", "x".repeat(40) + &number.to_string());
    let mut domains: Vec<String> = (0..60_000).map(spam).collect();
    domains.sort_unstable();
    let sections = BTreeMap::from([(Kind::Suppression, domains.concat())]);
    *served.lock().unwrap() = sealed(&key, 2, sections);
    disk.fill();
    let refused = sync().await;
    assert_eq!(
        (refused.outcome, refused.fault),
        (SyncOutcome::Refused, Some("store")),
        "{refused:?}"
    );
    assert_eq!(in_force(), Some(1));
    let status = questions.instance().unwrap();
    assert!(
        status.failures > 0 && status.last_error.is_none(),
        "to be asked again soon: {status:?}"
    );
    assert_eq!(questions.alerts().await.unwrap()[0].evidence, "store");
    disk.free();
    let applied = eventually("room", async || {
        let synced = sync().await;
        (synced.outcome == SyncOutcome::Applied).then_some(synced)
    })
    .await;
    assert_eq!((applied.from, applied.to), (Some(1), Some(2)));
    assert_eq!(in_force(), Some(2));
    assert!(questions.alerts().await.unwrap().is_empty());
    node.shutdown().await;
    drop(disk);
}
