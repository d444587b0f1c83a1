//! What the disk has damaged, and bundles of more than one instance: what may come again, and what never does.

use std::path::Path;
use std::sync::Arc;

use rules::{Level, LevelChange, LevelScope, LevelSubject};
use store::{BundleChange, BundleInForce, SqliteOptions, SqliteStore, Store as _, Write};

use super::applying::{author, bundle, config, in_force, key, sealed, start};
use super::*;
use crate::deliverability::following::Origin;
use crate::node::{Node, Questions};

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
