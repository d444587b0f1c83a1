//! Bundles put in force in a node that can reach nobody: what is refused, what a crash leaves, what is shared.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use engine::quarantine::Author;
use mail::id::SourceId;
use rules::{Level, LevelChange, LevelScope, LevelSubject};
use store::Write;

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

pub(super) fn config(folder: &Path, more: &str) -> Config {
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
    // `Made+250`: so many microseconds after the step, in the midst of what the store writes.
    let (step, after) = step.split_once('+').unwrap_or((step, ""));
    let (step, how) = (step.to_owned(), how.to_owned());
    let after = after.parse().ok().map(Duration::from_micros);
    let crash = move |at: ApplyStep| {
        if format!("{at:?}") != step {
            return;
        }
        let Some(after) = after else { std::process::abort() };
        std::thread::spawn(move || {
            std::thread::sleep(after);
            std::process::abort();
        });
    };
    let octets = bundle(Path::new(folder), 3);
    let questions = node.questions();
    let outcome = match how.as_str() {
        "apply" => questions.apply_bundle_watched(octets, author(), Origin::Here, &crash).await,
        _ => questions.roll_back_to_the_end(Some(1), author(), Arc::new(crash)).await,
    };
    panic!("it should have crashed: {outcome:?}");
}

/// A folder with all that is in it.
fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let there = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => {
                std::fs::create_dir(&there).unwrap();
                copy(&entry.path(), &there);
            }
            false => drop(std::fs::copy(entry.path(), there).unwrap()),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_step_leaves_the_old_or_the_new_bundle_in_force() {
    let steps = |from: ApplyStep| ApplyStep::ALL.into_iter().filter(move |step| *step >= from);
    let applying = steps(ApplyStep::Verified).map(|step| ("apply", format!("{step:?}"), 3));
    let back = steps(ApplyStep::Made).map(|step| ("roll-back", format!("{step:?}"), 1));
    let within = [200, 1_000, 4_000].map(|after| ("apply", format!("Made+{after}"), 3));
    let before = tempfile::tempdir().unwrap();
    let node = start(before.path(), "");
    for version in [1, 2] {
        let octets = bundle(before.path(), version);
        node.questions().apply_bundle(octets, author()).await.unwrap();
    }
    node.shutdown().await;
    for (how, step, new) in applying.chain(back).chain(within) {
        let folder = tempfile::tempdir().unwrap();
        copy(before.path(), folder.path());
        let name = "deliverability::tests::applying::a_process_that_crashes_when_told";
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(CRASH, format!("{step} {how} {}", folder.path().display()))
            .stderr(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let status = tokio::task::spawn_blocking(move || process.wait().unwrap()).await.unwrap();
        use std::os::unix::process::ExitStatusExt as _;
        let timed = step.contains('+');
        assert!(status.signal() == Some(6) || timed, "{how}: {step}");
        let node = start(folder.path(), "");
        let questions = node.questions();
        // Every kind shows the same version, or this fails.
        let found = in_force(&questions).await.unwrap();
        let is_stored = match timed {
            true => found == new,
            false => steps(ApplyStep::Stored).any(|stored| format!("{stored:?}") == step),
        };
        assert_eq!(found, if is_stored { new } else { 2 }, "{how}: {step}");
        let history = questions.bundle_history(9).await.unwrap();
        assert_eq!(history.len(), 2 + usize::from(is_stored), "{how}: {step}");
        // And the next attempt goes through.
        let applied = questions.apply_bundle(bundle(folder.path(), 4), author()).await.unwrap();
        assert_eq!((applied.from, applied.to), (Some(found), Some(4)));
        assert_eq!(in_force(&questions).await, Some(4));
        node.shutdown().await;
    }
}
