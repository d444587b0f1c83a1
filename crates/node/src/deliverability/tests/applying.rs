//! Bundles put in force in a node that can reach nobody: what is refused, what a crash leaves, what is shared.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use engine::quarantine::Author;
use mail::id::SourceId;
use rules::{Level, LevelChange, LevelScope, LevelSubject};
use store::{BundleChange, BundleInForce, SqliteOptions, SqliteStore, Store as _, Write};

use super::*;
use crate::config::Config;
use crate::deliverability::following::Origin;
use crate::deliverability::{ApplyFault, ApplyStep};
use crate::node::{Node, Questions, StartFault};

/// The folder and the step of a process that is to crash.
const CRASH: &str = "MAILWEIR_TEST_CRASH_AT";

pub(super) fn author() -> Author {
    Author { who: "jane".into(), why: "a test".into() }
}

/// A node with a key of its own instance, in a folder.
pub(super) fn start(folder: &Path, more: &str) -> Node {
    Node::start(config(folder, more)).unwrap()
}

fn config(folder: &Path, more: &str) -> Config {
    let text = format!(
        "data_dir = \"data\"\n[[source]]\npublic_id = 1\naddress = \"127.0.0.42\"\n\
         helo = \"m1.sender.example\"\n[dns]\nservers = [\"127.0.0.1:9\"]\n\
         [safety]\nonly_targets = [\"127.0.0.0/8\"]\n[submission]\nlisten = []\n\
         [http]\nlisten = []\n[deliverability]\npublic_keys = [\"{}\"]\n{more}",
        key(folder).public()
    );
    Config::parse(&text, "test.toml", folder).unwrap()
}

/// The instance's key.
pub(super) fn key(folder: &Path) -> SigningKey {
    let path = folder.join("key");
    if !path.exists() {
        SigningKey::generate().unwrap().write(&path).unwrap();
    }
    SigningKey::read(&path).unwrap()
}

/// A bundle of which every kind shows its version.
pub(super) fn bundle(folder: &Path, version: u64) -> Arc<[u8]> {
    let mx = format!(
        "schema_version = 1\n[[rule]]\nname = \"big\"\nmask = \"*.big.example\"\n\
         messages_per_hour = {}\n[[rule]]\nname = \"generic\"\nmask = \"*\"\n\
         max_connections = 2\nmax_messages_per_connection = 10\nmessages_per_hour = 500\n",
        version * 100
    );
    let bounce = format!(
        "schema_version = 1\nversion = \"{version}\"\n[[rule]]\nname = \"full\"\n\
         text = [\"mailbox is full\"]\nreason = \"Mailbox full\"\n\
         matches = [\"552 5.2.2 Mailbox is full\"]\nmatches_not = [\"550 no such user\"]\n"
    );
    let domain = format!(
        "schema_version = 1\nversion = \"{version}\"\n[[rule]]\nname = \"all\"\nmask = \"*\"\n\
         tls = \"opportunistic\"\nmatches = [\"a.example\"]\n"
    );
    let reaction = format!(
        "schema_version = 1\nversion = \"{version}\"\n[[rule]]\nname = \"slower\"\n\
         mask = \"*.big.example\"\ntext = 'v{version}'\nscope = \"path\"\naction = [\"suspend\"]\n\
         for = \"1h\"\nsource = \"a test\"\nmatches = [\"451 v{version} slower\"]\n\
         matches_not = [\"451 faster\"]\n"
    );
    let levels = format!(
        "schema_version = 1\nmost_connections = 100\n[boost]\nmessages_per_hour = {}\n\
         max_connections = 283\n",
        800 + version
    );
    let sections = BTreeMap::from([
        (Kind::Mx, mx),
        (Kind::Bounce, bounce),
        (Kind::Reaction, reaction),
        (Kind::Levels, levels),
        (Kind::Domain, domain),
        (Kind::Suppression, format!("v{version}.example\n")),
    ]);
    sealed(folder, version, sections)
}

pub(super) fn sealed(folder: &Path, version: u64, sections: BTreeMap<Kind, String>) -> Arc<[u8]> {
    let now = Timestamp::from_micros(crate::clock::read_clocks().wall);
    let draft = Draft {
        version,
        created: Timestamp::from_secs(now.as_secs()),
        expires: now + Duration::from_secs(86_400),
        minimum_client: client_version(),
        keys: Vec::new(),
        notes: String::new(),
        sections,
    };
    let key = key(folder);
    draft.seal(&key.public(), |message| key.sign(message)).unwrap().into()
}

/// The version in force, which every kind must show.
pub(super) async fn in_force(questions: &Questions) -> Option<u64> {
    let in_force = questions.in_force();
    let version = in_force.layer.published().map(|published| published.version);
    let mx = questions.rules().await.unwrap();
    assert!(Arc::ptr_eq(&mx, &in_force.mx), "the engine has the same rules");
    let refused = |version: u64| {
        let address = format!("jane@v{version}.example");
        let mailbox = mail::address::Mailbox::parse(&address).unwrap();
        let ledger = questions.nondeliverables().clone();
        async move { ledger.explain(&mailbox).await.unwrap().refused.is_some() }
    };
    match version {
        None => assert!(mx.id_of("big").is_none() && mx.id_of("google").is_some()),
        Some(version) => {
            let limits = mx.limits(mx.id_of("big").unwrap(), SourceId(1));
            assert_eq!(u64::from(limits.messages_per_hour), version * 100);
            let text = version.to_string();
            assert_eq!(in_force.mx.level_figures().boost.messages_per_hour, 800 + version);
            assert_eq!(in_force.reaction.version().split('+').next(), Some(&*text));
            assert!(in_force.reaction.knows("slower"));
            assert_eq!(**in_force.bounce.rules.version(), *text);
            assert_eq!(**in_force.domain.version(), *text);
            assert!(refused(version).await && !refused(version + 1).await);
            assert!(!refused(version - 1).await);
        }
    }
    version
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_is_applied_taken_back_and_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path(), "");
    let questions = node.questions();
    assert_eq!(in_force(&questions).await, None);
    for version in [1, 2] {
        let octets = bundle(folder.path(), version);
        let applied = questions.apply_bundle(octets, author()).await.unwrap();
        assert_eq!((applied.changed, applied.to), (true, Some(version)));
        assert_eq!(in_force(&questions).await, Some(version));
    }
    // A reload reads the operator's files again and keeps the bundle.
    questions.reload_rules().await.unwrap();
    assert_eq!(in_force(&questions).await, Some(2));
    let applied = questions.roll_back(Some(1), author()).await.unwrap();
    assert_eq!((applied.from, applied.to), (Some(2), Some(1)));
    assert!(applied.difference.kinds.iter().any(|kind| !kind.changed.is_empty()));
    assert_eq!(in_force(&questions).await, Some(1));
    // What was rolled back does not come again by itself, nor by its file.
    let again = questions.apply_bundle(bundle(folder.path(), 2), author()).await;
    let fault = again.map(|applied| applied.changed);
    assert!(!matches!(fault, Ok(true)), "{fault:?}");
    assert!(matches!(
        questions.roll_back(Some(7), author()).await,
        Err(ApplyFault::Refused(store::RefusedWrite::UnknownBundle(7)))
    ));
    node.shutdown().await;
    let node = start(folder.path(), "");
    let questions = node.questions();
    assert_eq!(in_force(&questions).await, Some(1));
    questions.roll_back(None, author()).await.unwrap();
    assert_eq!(in_force(&questions).await, None);
    let steps: Vec<_> = questions
        .bundle_history(10)
        .await
        .unwrap()
        .iter()
        .map(|step| (step.from, step.to, step.who.to_string()))
        .collect();
    let jane = || "jane".to_owned();
    assert_eq!(
        steps,
        [
            (Some(1), None, jane()),
            (Some(2), Some(1), jane()),
            (Some(1), Some(2), jane()),
            (None, Some(1), jane())
        ]
    );
    assert_eq!(questions.deliverability().await.unwrap().kept, [2, 1]);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_bundle_changes_nothing_and_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let stranger = tempfile::tempdir().unwrap();
    let node = start(folder.path(), "");
    let questions = node.questions();
    let good = bundle(folder.path(), 5);
    questions.apply_bundle(Arc::clone(&good), author()).await.unwrap();
    let newer = bundle(folder.path(), 6);
    let mut flipped = newer.to_vec();
    let place = newer.windows(4).position(|four| four == b"hour").unwrap();
    flipped[place] ^= 1;
    let cases: [(&str, Arc<[u8]>); 5] = [
        ("truncated", newer[..newer.len() - 9].into()),
        ("older", bundle(folder.path(), 4)),
        ("unknown-key", bundle(stranger.path(), 6)),
        ("not-a-bundle", b"<html>"[..].into()),
        ("bad-signature", flipped.into()),
    ];
    for (wanted, octets) in cases {
        let fault = questions.apply_bundle(octets, author()).await.unwrap_err();
        assert_eq!(fault.name(), wanted, "{fault}");
        let status = questions.deliverability().await.unwrap();
        assert_eq!(status.trouble.unwrap().fault, wanted);
        let alerts = questions.alerts().await.unwrap();
        assert!(alerts.iter().any(|one| one.code == "bundle-refused" && one.evidence == wanted));
        assert_eq!(in_force(&questions).await, Some(5));
        assert_eq!(status.kept, [5]);
    }
    // The same one again is no change, and the alert is over.
    assert!(!questions.apply_bundle(good, author()).await.unwrap().changed);
    assert_eq!(questions.deliverability().await.unwrap().trouble, None);
    assert!(questions.alerts().await.unwrap().is_empty());
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_at_once_the_newer_one_stays() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path(), "");
    let questions = node.questions();
    for round in 0..3 {
        let (one, two) = (round * 2 + 1, round * 2 + 2);
        let apply = |version| questions.apply_bundle(bundle(folder.path(), version), author());
        let (older, newer) = tokio::join!(apply(one), apply(two));
        assert!(newer.is_ok());
        assert!(older.is_ok() || older.as_ref().is_err_and(|fault| fault.name() == "older"));
        assert_eq!(in_force(&questions).await, Some(two));
    }
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operators_rules_are_stronger_and_custom_leaves_mx_rules_alone() {
    let folder = tempfile::tempdir().unwrap();
    let local = "schema_version = 1\n[[rule]]\nname = \"big\"\nmask = \"*.big.example\"\n\
                 messages_per_hour = 7\n";
    std::fs::write(folder.path().join("local.toml"), local).unwrap();
    let node = start(folder.path(), "[rules]\nmx = \"local.toml\"\n");
    let questions = node.questions();
    questions.apply_bundle(bundle(folder.path(), 1), author()).await.unwrap();
    let mx = questions.rules().await.unwrap();
    let limits = |name: &str| mx.limits(mx.id_of(name).unwrap(), SourceId(1)).messages_per_hour;
    assert_eq!((limits("big"), limits("generic")), (7, 500));
    // A file that is being written comes into force by nothing but a reload, and a faulty one stops nothing else.
    let half = local.replace("= 7", "= 9000");
    for text in [&*half, "schema_version = 1\n[[rule]]\n"] {
        std::fs::write(folder.path().join("local.toml"), text).unwrap();
        questions.roll_back(None, author()).await.unwrap();
        questions.roll_back(Some(1), author()).await.unwrap();
        let mx = questions.rules().await.unwrap();
        let big = mx.limits(mx.id_of("big").unwrap(), SourceId(1)).messages_per_hour;
        assert_eq!(big, 7, "{text}");
    }
    assert!(matches!(questions.reload_rules().await, Err(StartFault::Rules(_))));
    std::fs::write(folder.path().join("local.toml"), local).unwrap();
    node.shutdown().await;
    let node = start(folder.path(), "[rules]\nmx = \"local.toml\"\nlevel = \"custom\"\n");
    let questions = node.questions();
    // The MX rules that were in force stay; other kinds follow.
    let held = async |questions: &Questions, version: u64, domain: &str| {
        let mx = questions.rules().await.unwrap();
        let limits = |name: &str| mx.limits(mx.id_of(name).unwrap(), SourceId(1)).messages_per_hour;
        assert_eq!((limits("big"), limits("generic")), (7, 500));
        assert_eq!(mx.level_figures().boost.messages_per_hour, 800 + version);
        assert_eq!(&**questions.in_force().domain.version(), domain);
        assert_eq!(questions.deliverability().await.unwrap().mx_bundle, Some(version));
        mx.version()
    };
    let before = held(&questions, 1, "1").await;
    questions.apply_bundle(bundle(folder.path(), 2), author()).await.unwrap();
    assert_eq!(held(&questions, 1, "2").await, before, "no other MX rules, no other version");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_level_decided_at_run_time_holds_the_mx_rules_that_were_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path(), "");
    let questions = node.questions();
    let decide = async |questions: &Questions, level: Option<Level>| {
        let scope = LevelScope { subject: LevelSubject::Everything, rule: None };
        let change = match level {
            Some(level) => LevelChange::set(scope, level, None, questions.now()),
            None => LevelChange::AsConfigured { scope },
        };
        questions.decide_level(change, "ann", "a test").await.unwrap();
    };
    // What the MX rules are of, beside the bundle in force.
    let of = async |questions: &Questions| {
        let in_force = questions.in_force();
        let status = questions.deliverability().await.unwrap();
        let big = in_force.mx.id_of("big");
        let per_hour = big.map(|big| in_force.mx.limits(big, SourceId(1)).messages_per_hour);
        assert_eq!(per_hour.map(|figure| u64::from(figure) / 100), status.mx_bundle);
        assert!(Arc::ptr_eq(&questions.rules().await.unwrap(), &in_force.mx));
        (status.mx_bundle, status.published.map(|published| published.version))
    };
    questions.apply_bundle(bundle(folder.path(), 1), author()).await.unwrap();
    decide(&questions, Some(Level::Custom)).await;
    assert_eq!(of(&questions).await, (Some(1), Some(1)));
    questions.apply_bundle(bundle(folder.path(), 2), author()).await.unwrap();
    assert_eq!(of(&questions).await, (Some(1), Some(2)));
    assert_eq!(&**questions.in_force().bounce.rules.version(), "2");
    // However many come after it, over a reload and a restart.
    for version in 3..=u64::from(store::BUNDLES_KEPT) + 4 {
        questions.apply_bundle(bundle(folder.path(), version), author()).await.unwrap();
    }
    questions.reload_rules().await.unwrap();
    let last = Some(u64::from(store::BUNDLES_KEPT) + 4);
    assert_eq!(of(&questions).await, (Some(1), last));
    node.shutdown().await;
    let node = start(folder.path(), "");
    let questions = node.questions();
    assert_eq!(of(&questions).await, (Some(1), last));
    questions.roll_back(None, author()).await.unwrap();
    assert_eq!(of(&questions).await, (Some(1), None));
    // With the level the rules of what is in force come back.
    decide(&questions, None).await;
    assert_eq!(of(&questions).await, (None, None));
    questions.roll_back(last, author()).await.unwrap();
    assert_eq!(of(&questions).await, (last, last));
    decide(&questions, Some(Level::Custom)).await;
    decide(&questions, Some(Level::Slow)).await;
    assert_eq!(questions.deliverability().await.unwrap().mx_bundle, last);
    node.shutdown().await;
}

/// What should have ended holds on: that is shown, and told until it can be seen to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_of_a_level_that_cannot_be_carried_out_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path(), "");
    let questions = node.questions();
    let put = async |value: Box<str>| {
        let write = Write::PutSetting { key: "level_decisions".into(), value };
        questions.intake().write(write).await.unwrap();
    };
    put("a list of a newer program".into()).await;
    questions.end_levels().await.unwrap_err();
    let codes = async || -> Vec<String> {
        questions.alerts().await.unwrap().into_iter().map(|alert| alert.code).collect()
    };
    assert_eq!(codes().await, ["level-not-ended"]);
    put(serde_json::to_string(&rules::LevelDecisions::default()).unwrap().into()).await;
    assert!(!questions.end_levels().await.unwrap());
    assert_eq!(codes().await, [""; 0]);
    node.shutdown().await;
}

/// What is in force by the store of a node that is down becomes something else.
fn damage(folder: &Path, change: impl FnOnce(&mut BundleChange)) {
    let mut store = SqliteStore::open(&folder.join("data"), SqliteOptions::default()).unwrap();
    let BundleInForce { bundle, trust, .. } = store.reads().bundle_in_force().unwrap();
    let version = bundle.as_ref().map(|bundle| bundle.version);
    let mut write = BundleChange {
        expected: version,
        to: version,
        bundle,
        mends: true,
        forgets: Vec::new(),
        keep: None,
        trust,
        settings: Vec::new(),
        who: "disk".into(),
        why: String::new().into(),
        difference: "{}".into(),
        at: Timestamp::from_secs(1),
    };
    change(&mut write);
    let written = store.apply(&[Write::ChangeBundle(Box::new(write))]).unwrap();
    assert_eq!(written, [store::Written::Done]);
}

/// One octet of the bundle in force becomes another one.
fn flip(change: &mut BundleChange) {
    let bundle = change.bundle.as_mut().unwrap();
    let mut octets = bundle.octets.to_vec();
    let place = octets.windows(4).position(|four| four == b"hour").unwrap();
    octets[place] ^= 1;
    bundle.octets = octets.into();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stored_bundle_that_cannot_be_used_blocks_no_other() {
    for (by_hand, wanted) in [(true, Some(2)), (true, Some(3)), (false, Some(1)), (false, None)] {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path();
        let node = start(here, "");
        for version in [1, 2] {
            node.questions().apply_bundle(bundle(here, version), author()).await.unwrap();
        }
        node.shutdown().await;
        damage(here, flip);
        let node = start(here, "");
        let questions = node.questions();
        assert_eq!(in_force(&questions).await, None, "the shipped rules");
        let alerts = async |questions: &Questions| questions.alerts().await.unwrap().len();
        assert_eq!(alerts(&questions).await, 1);
        // Neither an older one nor what does not change anything ends that.
        let older = questions.apply_bundle(bundle(here, 1), author()).await.unwrap_err();
        assert_eq!(older.name(), "older");
        questions.roll_back(Some(2), author()).await.unwrap_err();
        questions.reload_rules().await.unwrap();
        assert_eq!(alerts(&questions).await, 1);
        let applied = match wanted.filter(|_| by_hand) {
            Some(version) => questions.apply_bundle(bundle(here, version), author()).await,
            None => questions.roll_back(wanted, author()).await,
        };
        let applied = applied.unwrap();
        assert_eq!((applied.changed, applied.from, applied.to), (true, Some(2), wanted));
        assert_eq!(alerts(&questions).await, 0);
        assert_eq!(in_force(&questions).await, wanted);
        node.shutdown().await;
        let node = start(here, "");
        assert_eq!(in_force(&node.questions()).await, wanted);
        assert_eq!(alerts(&node.questions()).await, 0);
        node.shutdown().await;
    }
}

/// The newest version that was seen counts, whatever the disk has made of it; a person may bring it once more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_bundle_that_is_not_in_force_opens_no_way_down_and_is_mended_by_hand() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let bundles = [1, 5].map(|version| bundle(here, version));
    for (damaged, in_force_then) in [(5, 1), (1, 5)] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(here.join("key"), folder.path().join("key")).unwrap();
        let here = folder.path();
        let node = start(here, "");
        let apply = async |questions: &Questions, place: usize| {
            questions.apply_bundle(Arc::clone(&bundles[place]), author()).await
        };
        apply(&node.questions(), 0).await.unwrap();
        if damaged == 5 {
            apply(&node.questions(), 1).await.unwrap();
        }
        node.shutdown().await;
        damage(here, |change| change.bundle.as_mut().unwrap().octets = b"?".as_slice().into());
        let node = match damaged {
            5 => {
                damage(here, |change| (change.to, change.bundle) = (Some(1), None));
                start(here, "")
            }
            _ => {
                let node = start(here, "");
                apply(&node.questions(), 1).await.unwrap();
                node
            }
        };
        let questions = node.questions();
        assert_eq!(in_force(&questions).await, Some(in_force_then));
        // It is no way back, and says what to do.
        let fault = questions.roll_back(Some(damaged), author()).await.unwrap_err();
        assert_eq!(fault.name(), "damaged");
        assert!(fault.to_string().contains("deliverability apply FILE"), "{fault}");
        // Nor does one come that is older, or another one of the version, by whomever; nor by itself what was taken back.
        let older = questions.apply_bundle(bundle(here, 4), author()).await.unwrap_err();
        assert_eq!(older.name(), "older");
        let by_itself = async |octets| {
            let outcome =
                questions.apply_bundle_watched(octets, author(), Origin::Instance, &|_| {});
            outcome.await.map(|applied| applied.changed).map_err(|fault| fault.name())
        };
        let again = Arc::clone(&bundles[usize::from(damaged == 5)]);
        let wanted = if damaged == 5 { Ok(false) } else { Err("older") };
        assert_eq!(by_itself(again).await, wanted);
        assert_eq!(by_itself(with_notes(here, 5)).await, Err("same-version"));
        assert_eq!(in_force(&questions).await, Some(in_force_then));
        // A person brings it, and it is whole from then on.
        let applied = apply(&questions, usize::from(damaged == 5)).await.unwrap();
        assert_eq!((applied.from, applied.to), (Some(in_force_then), Some(damaged)));
        for version in [in_force_then, damaged] {
            questions.roll_back(Some(version), author()).await.unwrap();
            assert_eq!(in_force(&questions).await, Some(version));
        }
        let older = questions.apply_bundle(bundle(here, 4), author()).await.unwrap_err();
        assert_eq!(older.name(), "older", "the newest one seen is still the newest");
        node.shutdown().await;
    }
}

/// Another bundle of the same version.
fn with_notes(folder: &Path, version: u64) -> Arc<[u8]> {
    let text = "spam.example\n".to_owned();
    sealed(folder, version, BTreeMap::from([(Kind::Suppression, text)]))
}

/// A node that comes to another instance begins with what that has; of each the newest version that was seen counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_of_two_instances_have_nothing_to_do_with_each_other() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let begin = || {
        let mut config = config(folder.path(), "");
        config.deliverability.public_keys.push(key(other.path()).public());
        Node::start(config).unwrap()
    };
    let made = |version| [folder.path(), other.path()].map(|folder| bundle(folder, version));
    let bundles: BTreeMap<u64, [Arc<[u8]>; 2]> =
        (2..=8).map(|version| (version, made(version))).collect();
    let mut node = begin();
    let apply = async |node: &Node, of: usize, version: u64| {
        let octets = Arc::clone(&bundles[&version][of]);
        match node.questions().apply_bundle(octets, author()).await {
            Ok(applied) if applied.changed => "applied",
            Ok(_) => "unchanged",
            Err(fault) => fault.name(),
        }
    };
    for (of, version, wanted, kept) in [
        (0, 5, "applied", vec![5]),
        (0, 6, "applied", vec![6, 5]),
        (1, 3, "applied", vec![3]),
        (0, 5, "older", vec![3]),
        (1, 2, "older", vec![3]),
        (1, 3, "unchanged", vec![3]),
        // Back at the first one: its newest one comes again, nothing older.
        (0, 6, "applied", vec![6]),
        (1, 2, "older", vec![6]),
        (1, 6, "applied", vec![6]),
        (0, 4, "older", vec![6]),
        (1, 7, "applied", vec![7, 6]),
    ] {
        assert_eq!(apply(&node, of, version).await, wanted, "{version} of {of}");
        let questions = node.questions();
        assert_eq!(questions.deliverability().await.unwrap().kept, kept, "{version} of {of}");
        let newest = in_force(&questions).await;
        assert!(wanted != "applied" || newest == Some(version), "{version} of {of}: {newest:?}");
        node.shutdown().await;
        node = begin();
        assert_eq!(in_force(&node.questions()).await, newest, "after a restart");
    }
    // What a person takes back stays away.
    node.questions().roll_back(None, author()).await.unwrap();
    assert_eq!(apply(&node, 1, 7).await, "unchanged");
    assert_eq!(in_force(&node.questions()).await, None);
    // At level custom the MX rules of the one before are kept, and no other bundle gets their version.
    node.questions().roll_back(Some(7), author()).await.unwrap();
    let scope = LevelScope { subject: LevelSubject::Everything, rule: None };
    let change = LevelChange::set(scope, Level::Custom, None, node.questions().now());
    node.questions().decide_level(change, "ann", "a test").await.unwrap();
    assert_eq!(apply(&node, 0, 7).await, "version-taken");
    assert_eq!(apply(&node, 0, 8).await, "applied");
    node.shutdown().await;
    node = begin();
    let status = node.questions().deliverability().await.unwrap();
    assert_eq!((status.mx_bundle, status.kept), (Some(7), vec![8, 7]));
    node.shutdown().await;
}

/// Without the keys that were replaced they would be believed again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreadable_keys_stop_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path(), "");
    node.questions().apply_bundle(bundle(folder.path(), 1), author()).await.unwrap();
    node.shutdown().await;
    damage(folder.path(), |change| change.trust = r#"{"retired":[7]}"#.into());
    let Err(fault) = Node::start(config(folder.path(), "")) else { panic!("it has started") };
    let words = fault.to_string();
    assert!(words.contains("trust") && words.contains("backup"), "{words}");
}

/// Who asked goes away when the store has the change: everybody else is told of it all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_away_leaves_store_and_node_together() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let node = start(here, "");
    let questions = node.questions();
    for (back, wanted) in [(false, 1), (false, 2), (true, 1)] {
        let (stored, mut is_stored) = tokio::sync::mpsc::unbounded_channel();
        let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
        let may_go_on = std::sync::Mutex::new(may_go_on);
        let witness = Arc::new(move |step| {
            if step == ApplyStep::Stored {
                stored.send(()).unwrap();
                // Until the caller has gone.
                let _ = may_go_on.lock().unwrap().recv();
            }
        });
        let asked = async {
            match back {
                false => {
                    let octets = bundle(here, wanted);
                    questions.apply_bundle_to_the_end(octets, author(), witness).await
                }
                true => questions.roll_back_to_the_end(Some(wanted), author(), witness).await,
            }
        };
        tokio::select! {
            biased;
            _ = is_stored.recv() => {}
            answer = asked => panic!("answered before it was told: {answer:?}"),
        }
        drop(go_on);
        // Whatever comes next waits for the change.
        questions.reload_rules().await.unwrap();
        assert_eq!(in_force(&questions).await, Some(wanted));
    }
    questions.apply_bundle(bundle(here, 3), author()).await.unwrap();
    assert_eq!(in_force(&questions).await, Some(3));
    node.shutdown().await;
}

/// The process that crashes: nothing unless it was started by the test below.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_crashes_when_told() {
    let Ok(told) = std::env::var(CRASH) else { return };
    let (step, rest) = told.split_once(' ').unwrap();
    let (how, folder) = rest.split_once(' ').unwrap();
    let node = start(Path::new(folder), "");
    let (step, how) = (step.to_owned(), how.to_owned());
    let crash = move |at: ApplyStep| {
        if format!("{at:?}") == step {
            std::process::abort();
        }
    };
    let octets = bundle(Path::new(folder), 3);
    let questions = node.questions();
    let outcome = match how.as_str() {
        "apply" => questions.apply_bundle_watched(octets, author(), Origin::Here, &crash).await,
        _ => questions.roll_back_to_the_end(Some(1), author(), Arc::new(crash)).await,
    };
    panic!("it should have crashed: {outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_step_leaves_the_old_or_the_new_bundle_in_force() {
    let rolling_back = ApplyStep::ALL.into_iter().filter(|step| *step >= ApplyStep::Made);
    let steps = ApplyStep::ALL.map(|step| ("apply", step, 3)).into_iter();
    for (how, step, new) in steps.chain(rolling_back.map(|step| ("roll-back", step, 1))) {
        let folder = tempfile::tempdir().unwrap();
        let node = start(folder.path(), "");
        for version in [1, 2] {
            let octets = bundle(folder.path(), version);
            node.questions().apply_bundle(octets, author()).await.unwrap();
        }
        node.shutdown().await;
        let name = "deliverability::tests::applying::a_process_that_crashes_when_told";
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(CRASH, format!("{step:?} {how} {}", folder.path().display()))
            .stderr(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        use std::os::unix::process::ExitStatusExt as _;
        assert_eq!(status.signal(), Some(6), "{how}: {step:?}");
        let node = start(folder.path(), "");
        let questions = node.questions();
        let is_stored = step >= ApplyStep::Stored;
        let wanted = if is_stored { new } else { 2 };
        assert_eq!(in_force(&questions).await, Some(wanted), "{how}: {step:?}");
        let history = questions.bundle_history(9).await.unwrap();
        assert_eq!(history.len(), 2 + usize::from(is_stored), "{how}: {step:?}");
        // And the next attempt goes through.
        let applied = questions.apply_bundle(bundle(folder.path(), 4), author()).await.unwrap();
        assert_eq!((applied.from, applied.to), (Some(wanted), Some(4)));
        assert_eq!(in_force(&questions).await, Some(4));
        node.shutdown().await;
    }
}
