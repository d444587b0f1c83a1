//! A node that follows an instance over real sockets: what comes of every answer, and that the old bundle stays.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use engine::quarantine::{LedgerWrite, MetText, Qualification, TextKey, TextStatus};
use mail::failure::{FailureType, Reason};
use rules::bounce::Key;
use rules::bundle::ClientVersion;
use serde_json::json;
use store::Write;

use super::applying::{author, bundle, in_force, key, sealed, start};
use super::fake::{Deed, FakeInstance, Heard, answer, published};
use super::*;
use crate::alerts::{Alert, REACTION};
use crate::deliverability::{SyncFault, SyncOutcome, SyncStep, Synced};
use crate::node::{Node, Questions};

const ON_DEMAND: &str = "schedule = \"never\"\nread_timeout = \"1s\"\ntotal_timeout = \"2s\"\n";

/// What `[deliverability]` says of an instance.
fn following(instance: &FakeInstance, more: &str) -> String {
    let token = "token = { value = \"a-token-of-this-client\" }";
    format!("url = \"{}\"\n{token}\n{more}", instance.url())
}

/// Bundles as an instance serves them: with an ETag, and reports taken.
fn serving(version: u64, octets: &Arc<[u8]>) -> impl Fn(&Heard) -> Vec<Deed> + use<> {
    let octets = Arc::clone(octets);
    move |heard| {
        let etag = format!("{version}-00");
        let known = heard.field("if-none-match") == Some(&format!("\"{etag}\""));
        match heard.what.as_str() {
            "GET /v1/bundle" if known => answer("304 Not Modified", "", b""),
            "GET /v1/bundle" => published(&octets, &etag),
            "POST /v1/texts" => answer("202 Accepted", "", b"{\"taken\":1,\"refused\":0}"),
            _ => answer("204 No Content", "", b""),
        }
    }
}

async fn sync(questions: &Questions) -> Synced {
    questions.sync_bundle(author(), false).await.unwrap()
}

/// State and bundle of every report, in order.
fn reports(instance: &FakeInstance) -> Vec<String> {
    let all = instance.heard_of("POST /v1/report").into_iter();
    all.map(|heard| {
        let report = heard.json();
        format!("{} {}", report["bundle"], report["state"].as_str().unwrap())
    })
    .collect()
}

async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    for _ in 0..400 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("not within ten seconds: {what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_follows_its_instance_and_tells_it_how_it_fares() {
    let folder = tempfile::tempdir().unwrap();
    let bundles: Vec<_> = (1..=3).map(|version| bundle(folder.path(), version)).collect();
    let instance = FakeInstance::start(|_| answer("204 No Content", "", b"")).await;
    let node = start(folder.path(), &following(&instance, ON_DEMAND));
    let questions = node.questions();
    assert_eq!(sync(&questions).await.outcome, SyncOutcome::NothingPublished);
    instance.turn(serving(1, &bundles[0]));
    // A dry run shows, and does nothing else.
    let dry = questions.sync_bundle(author(), true).await.unwrap();
    assert_eq!((dry.outcome, dry.from, dry.to), (SyncOutcome::WouldApply, None, Some(1)));
    assert!(!dry.difference.kinds.is_empty());
    assert_eq!(in_force(&questions).await, None);
    assert_eq!(reports(&instance), [""; 0]);
    let synced = sync(&questions).await;
    assert_eq!((synced.outcome, synced.from, synced.to), (SyncOutcome::Applied, None, Some(1)));
    assert_eq!(synced.difference, dry.difference);
    assert_eq!(in_force(&questions).await, Some(1));
    assert_eq!(sync(&questions).await.outcome, SyncOutcome::Unchanged);
    instance.turn(serving(2, &bundles[1]));
    assert_eq!(sync(&questions).await.outcome, SyncOutcome::Applied);
    assert_eq!(reports(&instance), ["1 applied", "1 well", "2 applied"]);
    // What a person takes back does not come back by itself, also after a restart.
    questions.roll_back(Some(1), author()).await.unwrap();
    eventually("the report of the roll-back", async || reports(&instance).len() == 4).await;
    assert_eq!(sync(&questions).await.outcome, SyncOutcome::Unchanged);
    node.shutdown().await;
    let node = start(folder.path(), &following(&instance, ON_DEMAND));
    let questions = node.questions();
    let status = questions.deliverability().await.unwrap();
    let about = status.instance.unwrap();
    assert_eq!(about.etag.as_deref(), Some("\"2-00\""));
    assert!(about.last_contact.is_some() && about.failures == 0 && about.next_at.is_none());
    assert_eq!((status.key_trusted, status.local.len()), (Some(true), 0));
    assert_eq!(sync(&questions).await.outcome, SyncOutcome::Unchanged);
    assert_eq!(in_force(&questions).await, Some(1));
    instance.turn(serving(3, &bundles[2]));
    assert_eq!(sync(&questions).await.to, Some(3));
    assert_eq!(in_force(&questions).await, Some(3));
    let told = &reports(&instance)[3..];
    assert_eq!(told, ["2 rolled-back", "1 well", "1 well", "3 applied"]);
    let history = questions.bundle_history(1).await.unwrap();
    assert_eq!((&*history[0].who, &*history[0].why), ("jane", "a test"));
    let counts = questions.sync_counts();
    assert_eq!((counts.of(SyncOutcome::Applied), counts.of(SyncOutcome::Unchanged)), (1, 1));
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_asks_by_itself_when_it_starts_to_follow() {
    let folder = tempfile::tempdir().unwrap();
    let instance = FakeInstance::start(serving(1, &bundle(folder.path(), 1))).await;
    let node = start(folder.path(), &following(&instance, ""));
    let questions = node.questions();
    eventually("the first bundle", async || in_force(&questions).await == Some(1)).await;
    // The bundle is in force a moment before the synchronisation has ended.
    let next = || questions.instance().unwrap().next_at.unwrap();
    eventually("the next time", async || next() > questions.now()).await;
    assert!(next() < questions.now() + Duration::from_secs(2 * 86_400));
    let history = questions.bundle_history(1).await.unwrap();
    assert_eq!(&*history[0].who, "schedule");
    node.shutdown().await;
    // Asked daily, not at every start.
    let asked = instance.heard_of("GET /v1/bundle").len();
    let node = start(folder.path(), &following(&instance, ""));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(instance.heard_of("GET /v1/bundle").len(), asked);
    node.shutdown().await;
}

/// A bundle with other sections than usual.
fn with(folder: &Path, version: u64, kind: Kind, text: &str) -> Arc<[u8]> {
    sealed(folder, version, BTreeMap::from([(kind, text.to_owned())]))
}

/// A bundle whose faults no publisher would sign: what a client checks is what `publish` checks.
fn unchecked(folder: &Path, version: u64, change: impl FnOnce(&mut String)) -> Arc<[u8]> {
    let octets = bundle(folder, version);
    let text = String::from_utf8(octets.to_vec()).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    let (manifest, rest) = rest.split_once('\n').unwrap();
    let end = rest.rfind("signature ").unwrap();
    let mut sections = rest[..end].to_owned();
    let length = sections.len();
    change(&mut sections);
    // The bounce section takes what was added or removed.
    let mut manifest: serde_json::Value = serde_json::from_str(manifest).unwrap();
    for section in manifest["sections"].as_array_mut().unwrap() {
        if section["kind"] == "bounce" {
            let before = section["octets"].as_u64().unwrap();
            section["octets"] = (before + sections.len() as u64 - length as u64).into();
        }
    }
    let body = format!("{manifest}\n{sections}");
    let magic = first.rsplit_once(' ').unwrap().0;
    let signed = format!("{magic} {}\n{body}", body.len());
    let key = key(folder);
    let signature = key.sign(signed.as_bytes());
    format!("{signed}signature {} {signature}\n", key.public().id()).into_bytes().into()
}

/// A bundle of another time, or for another program.
fn at(folder: &Path, version: u64, created: i64, minimum_client: ClientVersion) -> Arc<[u8]> {
    let now = crate::clock::read_clocks().wall / 1_000_000;
    let created = Timestamp::from_secs(now.saturating_add_signed(created));
    let sections = BTreeMap::from([(Kind::Suppression, "spam.example\n".to_owned())]);
    let draft = Draft {
        version,
        created,
        expires: created + Duration::from_secs(86_400),
        minimum_client,
        keys: Vec::new(),
        notes: String::new(),
        sections,
    };
    let key = key(folder);
    draft.seal(&key.public(), |message| key.sign(message)).unwrap().into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_an_instance_has_the_old_bundle_stays() {
    let folder = tempfile::tempdir().unwrap();
    let stranger = tempfile::tempdir().unwrap();
    let here = folder.path();
    let instance = FakeInstance::start(serving(5, &bundle(here, 5))).await;
    let node = start(here, &following(&instance, ON_DEMAND));
    let questions = node.questions();
    assert_eq!(sync(&questions).await.to, Some(5));
    let newer = bundle(here, 6);
    let bounce = |text: &'static str| {
        move |sections: &mut String| {
            *sections = sections.replace("text = [\"mailbox is full\"]", text);
        }
    };
    let this = client_version();
    let mut flipped = newer.to_vec();
    let place = newer.windows(4).position(|four| four == b"hour").unwrap();
    flipped[place] = b'H';
    // Told to the instance is only what every client would say: this one's clock or keys halt no fleet.
    let cases: Vec<(&str, Arc<[u8]>, bool)> = vec![
        ("truncated", newer[..newer.len() / 2].into(), false),
        ("not-a-bundle", b"<html>sign in</html>"[..].into(), false),
        ("older", bundle(here, 4), false),
        ("same-version", with(here, 5, Kind::Suppression, "other.example\n"), false),
        ("from-the-future", at(here, 6, 2 * 3_600, this), false),
        ("expired", at(here, 6, -2 * 86_400, this), false),
        ("newer-client", at(here, 6, 0, ClientVersion(this.0 + 1, 0, 0)), false),
        // The instance lost its key and made a new one without a statement of the old.
        ("unknown-key", bundle(stranger.path(), 6), false),
        ("bad-signature", flipped.into(), true),
        ("faulty-rules", unchecked(here, 6, bounce("text = [\"((a{1000}){1000}){1000}\"]")), true),
        ("faulty-rules", unchecked(here, 6, bounce("text = [\"(\"]")), true),
        (
            "shadows-all",
            unchecked(here, 6, |sections| {
                let greedy = sections.replace("text = [\"mailbox is full\"]", r"text = ['\d']");
                *sections = greedy.replace("550 no such user", "no such user");
            }),
            true,
        ),
    ];
    for (wanted, octets, reported) in cases {
        let told = reports(&instance).len();
        instance.turn(serving(6, &octets));
        let dry = questions.sync_bundle(author(), true).await.unwrap();
        let synced = sync(&questions).await;
        for synced in [&dry, &synced] {
            assert_eq!(synced.outcome, SyncOutcome::Refused, "{wanted}: {synced:?}");
            assert_eq!(synced.fault, Some(wanted), "{:?}", synced.words);
            assert_eq!((synced.from, synced.to), (Some(5), Some(5)));
            assert_eq!(synced.faults.is_empty(), wanted != "faulty-rules", "{wanted}");
        }
        assert_eq!(in_force(&questions).await, Some(5), "{wanted}");
        let alerts = questions.alerts().await.unwrap();
        assert!(alerts.iter().any(|one| one.code == "bundle-refused" && one.evidence == wanted));
        let reports = reports(&instance);
        let refused = reports[told..].iter().filter(|one| one.ends_with(" refused")).count();
        assert_eq!(refused, usize::from(reported), "{wanted}: {reports:?}");
    }
    // The next good one is taken, and the alert is over.
    instance.turn(serving(7, &bundle(here, 7)));
    assert_eq!(sync(&questions).await.to, Some(7));
    assert_eq!(in_force(&questions).await, Some(7));
    assert!(questions.alerts().await.unwrap().is_empty());
    node.shutdown().await;
}

/// A bundle that a person brought stays told, whatever the instance has; one of the instance until it has another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_with_nothing_new_does_not_hide_what_a_person_brought() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let good = bundle(here, 5);
    let instance = FakeInstance::start(serving(5, &good)).await;
    let node = start(here, &following(&instance, ON_DEMAND));
    let questions = node.questions();
    assert_eq!(sync(&questions).await.to, Some(5));
    let trouble = async || {
        let trouble = questions.deliverability().await.unwrap().trouble;
        assert_eq!(trouble.is_some(), !questions.alerts().await.unwrap().is_empty());
        trouble.map(|trouble| trouble.fault)
    };
    questions.apply_bundle(bundle(here, 4), author()).await.unwrap_err();
    assert_eq!(sync(&questions).await.outcome, SyncOutcome::Unchanged);
    assert_eq!(trouble().await.as_deref(), Some("older"), "after 304");
    instance.turn(serving(7, &good));
    assert_eq!(sync(&questions).await.outcome, SyncOutcome::Unchanged);
    assert_eq!(trouble().await.as_deref(), Some("older"), "after the same bundle");
    instance.turn(serving(8, &bundle(here, 3)));
    assert_eq!(sync(&questions).await.outcome, SyncOutcome::Refused);
    instance.turn(serving(7, &good));
    assert_eq!(sync(&questions).await.outcome, SyncOutcome::Unchanged);
    assert_eq!(trouble().await, None, "the instance has taken it away");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_is_away_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let instance = FakeInstance::start(serving(1, &bundle(folder.path(), 1))).await;
    let node = start(folder.path(), &following(&instance, ON_DEMAND));
    let questions = node.questions();
    sync(&questions).await;
    let contact = questions.instance().unwrap().last_contact;
    for (failures, (fault, deeds)) in (1..).zip([
        ("cut-off", vec![]),
        ("slow", vec![Deed::Hang]),
        ("status", answer("503 Service Unavailable", "retry-after: 999999999\r\n", b"")),
        ("not-admitted", answer("401 Unauthorized", "", b"")),
        ("forbidden-address", answer("302 Found", "location: http://192.168.0.1/\r\n", b"")),
    ]) {
        instance.turn(move |_| deeds.clone());
        let synced = sync(&questions).await;
        assert_eq!((synced.outcome, synced.fault), (SyncOutcome::Unreachable, Some(fault)));
        let status = questions.instance().unwrap();
        assert_eq!((status.failures, status.last_contact), (failures, contact), "{fault}");
        assert_eq!(status.last_error.unwrap().fault, fault);
        assert_eq!(in_force(&questions).await, Some(1));
    }
    assert!(questions.alerts().await.unwrap().is_empty(), "not yet: it is not two days");
    // A report that cannot be sent now is sent when the instance is back, also after a restart.
    questions.roll_back(None, author()).await.unwrap();
    node.shutdown().await;
    instance.turn(serving(1, &bundle(folder.path(), 1)));
    let told = reports(&instance).len();
    let node = start(folder.path(), &following(&instance, ON_DEMAND));
    let questions = node.questions();
    assert_eq!(questions.instance().unwrap().reports_waiting, 1);
    let synced = sync(&questions).await;
    assert_eq!((synced.outcome, synced.to), (SyncOutcome::Unchanged, None));
    assert_eq!(reports(&instance)[told..], ["1 rolled-back"]);
    let status = questions.instance().unwrap();
    assert!(status.failures == 0 && status.last_error.is_none() && status.reports_waiting == 0);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_at_once_one_goes_and_the_other_waits_or_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let instance = FakeInstance::start(serving(1, &bundle(folder.path(), 1))).await;
    let node = start(folder.path(), &following(&instance, ON_DEMAND));
    let questions = node.questions();
    let (one, two) = tokio::join!(sync(&questions), sync(&questions));
    let mut outcomes = [one.outcome.word(), two.outcome.word()];
    outcomes.sort_unstable();
    assert_eq!(outcomes, ["applied", "unchanged"]);
    assert_eq!(questions.bundle_history(9).await.unwrap().len(), 1);
    // One that does not end: `total_timeout` ends it, and until then nobody waits for ever.
    instance.turn(|_| {
        vec![Deed::Say(b"HTTP/1.1 200 OK\r\nx: ".to_vec()), Deed::Drip(Duration::from_millis(50))]
    });
    let _alone = questions.sync.under_way_for_a_test().await;
    let told = questions.sync_bundle(author(), false).await;
    assert_eq!(told, Err(SyncFault::UnderWay));
    assert!(questions.instance().unwrap().under_way);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_instance_there_is_nothing_to_follow() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path(), "");
    let questions = node.questions();
    assert_eq!(questions.sync_bundle(author(), false).await, Err(SyncFault::NoInstance));
    assert_eq!(questions.instance(), None);
    questions.apply_bundle(bundle(folder.path(), 1), author()).await.unwrap();
    node.shutdown().await;
    // What is noted for nobody is not sent to the first who comes.
    let instance = FakeInstance::start(serving(1, &bundle(folder.path(), 1))).await;
    let node = start(folder.path(), &following(&instance, ON_DEMAND));
    assert_eq!(node.questions().instance().unwrap().reports_waiting, 0);
    node.shutdown().await;
}

/// Lets a node meet texts that nobody knows.
async fn meet(questions: &Questions, texts: &[&str]) {
    let now = questions.now();
    let met = texts.iter().map(|text| MetText {
        key: TextKey(*Key::of(text).octets()),
        normalised: (*text).into(),
        host: "mx1.big.example".into(),
        raw: "550 jane@example.org said so".into(),
        qualification: Qualification {
            reason: Reason::NotDefined,
            failure_type: FailureType::Soft,
            status: TextStatus::ToQualify,
        },
        rule: "".into(),
        version: "1".into(),
        at: now,
    });
    let write = Write::Quarantine(Box::new(LedgerWrite::Meet(met.collect())));
    questions.intake().write(write).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_texts_are_sent_once_masked_and_only_when_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let instance = FakeInstance::start(serving(1, &bundle(folder.path(), 1))).await;
    let node = start(folder.path(), &following(&instance, ON_DEMAND));
    let questions = node.questions();
    meet(&questions, &["552 box closed", "550 for jane@example.org", "550 no 12345678"]).await;
    assert_eq!(sync(&questions).await.texts, None);
    assert!(instance.heard_of("POST /v1/texts").is_empty(), "nobody has asked for that");
    node.shutdown().await;
    let sharing = format!("{ON_DEMAND}share_unknown_texts = true\n");
    let node = start(folder.path(), &following(&instance, &sharing));
    let questions = node.questions();
    let sent = || -> Vec<Vec<String>> {
        let texts = |heard: Heard| {
            assert!(!heard.body.contains("jane"), "{}", heard.body);
            let all = heard.json()["texts"].as_array().unwrap().clone();
            all.iter().map(|text| text["text"].as_str().unwrap().to_owned()).collect()
        };
        instance.heard_of("POST /v1/texts").into_iter().map(texts).collect()
    };
    // An instance that does not take them is sent them again.
    let octets = bundle(folder.path(), 1);
    let usual = serving(1, &octets);
    instance.turn(move |heard| match heard.what.as_str() {
        "POST /v1/texts" => answer("503 Service Unavailable", "", b""),
        _ => usual(heard),
    });
    let synced = sync(&questions).await;
    assert_eq!((synced.outcome, synced.texts), (SyncOutcome::Unchanged, None));
    assert!(synced.untold.unwrap().contains("503"));
    instance.turn(serving(1, &octets));
    assert_eq!(sync(&questions).await.texts.unwrap().taken, 1);
    assert_eq!(sent(), vec![vec!["552 box closed"]; 2]);
    let text = instance.heard_of("POST /v1/texts")[1].json()["texts"][0].clone();
    assert_eq!(text["key"], Key::of("552 box closed").to_string());
    assert_eq!((&text["occurrences"], &text["provider"]), (&json!(1), &json!("big")));
    // Only what was met since.
    assert_eq!(sync(&questions).await.texts, None);
    assert_eq!(sent().len(), 2);
    meet(&questions, &["554 another", "552 box closed"]).await;
    meet(&questions, &["554 another"]).await;
    sync(&questions).await;
    assert_eq!(sent()[2], ["552 box closed", "554 another"]);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alert_that_rules_can_cause_is_reported_as_an_alarm() {
    let folder = tempfile::tempdir().unwrap();
    let instance = FakeInstance::start(serving(1, &bundle(folder.path(), 1))).await;
    let node = start(folder.path(), &following(&instance, ON_DEMAND));
    let questions = node.questions();
    let alert = |key: &str, since| Alert {
        code: REACTION.into(),
        key: key.into(),
        words: "slowed down".into(),
        evidence: "421 too much".into(),
        since,
    };
    // Not what began under the rules before.
    questions.standing_alerts().raise(alert("before", questions.now()));
    sync(&questions).await;
    questions.look_after_bundle().await;
    sync(&questions).await;
    assert_eq!(reports(&instance), ["1 applied", "1 well"]);
    questions.standing_alerts().raise(alert("after", questions.now()));
    questions.standing_alerts().clear(REACTION, "after");
    questions.look_after_bundle().await;
    eventually("the alarm", async || reports(&instance).len() == 3).await;
    questions.look_after_bundle().await;
    sync(&questions).await;
    assert_eq!(reports(&instance)[2..], ["1 alarm", "1 alarm"], "once at once, then daily");
    let report = &instance.heard_of("POST /v1/report")[2];
    assert_eq!(report.json()["reason"], "reaction: 421 too much");
    // The next bundle is not to blame.
    instance.turn(serving(2, &bundle(folder.path(), 2)));
    sync(&questions).await;
    sync(&questions).await;
    assert_eq!(reports(&instance)[4..], ["2 applied", "2 well"]);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_instance_and_an_expired_bundle_raise_alerts_and_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let this = client_version();
    let instance = FakeInstance::start(|_| answer("204 No Content", "", b"")).await;
    let node = start(here, &following(&instance, ON_DEMAND));
    let questions = node.questions();
    let alerts = async || {
        questions.look_after_bundle().await;
        let all = questions.alerts().await.unwrap();
        all.into_iter().map(|alert| alert.code).collect::<Vec<_>>()
    };
    // It ends soon after it came.
    instance.turn(serving(1, &at(here, 1, 4 - 86_400, this)));
    assert_eq!(sync(&questions).await.outcome, SyncOutcome::Applied);
    eventually("its end", async || alerts().await == ["bundle-expired"]).await;
    let published = questions.in_force().layer.published().copied();
    assert_eq!(published.unwrap().version, 1, "it stays in force");
    // Silence is counted from the last contact, and not told before two days have passed.
    let heard = |ago: u64| {
        let moment = questions.now().saturating_sub(Duration::from_secs(ago));
        questions.sync.change(|record| record.contacted(moment));
    };
    heard(2 * 86_400 - 60);
    assert_eq!(alerts().await, ["bundle-expired"]);
    heard(2 * 86_400);
    let mut codes = alerts().await;
    codes.sort_unstable();
    assert_eq!(codes, ["bundle-expired", "instance-unreachable"]);
    // The next contact and the next bundle end both.
    instance.turn(serving(2, &bundle(here, 2)));
    assert_eq!(sync(&questions).await.to, Some(2));
    assert_eq!(alerts().await, [""; 0]);
    node.shutdown().await;
}

/// The folder and the step of a process that is to crash.
const CRASH: &str = "MAILWEIR_TEST_CRASH_IN_SYNC";

/// The process that crashes: nothing unless it was started by the test below.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_crashes_in_a_sync_when_told() {
    let Ok(told) = std::env::var(CRASH) else { return };
    let (step, rest) = told.split_once(' ').unwrap();
    let (url, folder) = rest.split_once(' ').unwrap();
    let instance = format!("url = \"{url}\"\ntoken = {{ value = \"a-token-of-this-client\" }}\n");
    let node: Node = start(Path::new(folder), &format!("{instance}{ON_DEMAND}"));
    let crash = |at: SyncStep| {
        if format!("{at:?}") == step {
            std::process::abort();
        }
    };
    let outcome = node.questions().sync_watched(author(), false, &crash).await;
    panic!("it should have crashed: {outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_in_a_sync_leaves_the_old_or_the_new_bundle_in_force() {
    for (step, wanted, reported) in [
        (SyncStep::Fetched, 1, false),
        (SyncStep::Applying(crate::deliverability::ApplyStep::Made), 1, false),
        (SyncStep::Applying(crate::deliverability::ApplyStep::Stored), 2, false),
        (SyncStep::Noted, 2, false),
        (SyncStep::Told, 2, true),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let instance = FakeInstance::start(serving(1, &bundle(folder.path(), 1))).await;
        let more = following(&instance, ON_DEMAND);
        let node = start(folder.path(), &more);
        sync(&node.questions()).await;
        node.shutdown().await;
        instance.turn(serving(2, &bundle(folder.path(), 2)));
        let name = "deliverability::tests::syncing::a_process_that_crashes_in_a_sync_when_told";
        let told = format!("{step:?} {} {}", instance.url(), folder.path().display());
        let process = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(CRASH, told)
            .stderr(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .spawn();
        let mut process = process.unwrap();
        let status = tokio::task::spawn_blocking(move || process.wait().unwrap()).await.unwrap();
        use std::os::unix::process::ExitStatusExt as _;
        assert_eq!(status.signal(), Some(6), "{step:?}");
        assert_eq!(reports(&instance).contains(&"2 applied".to_owned()), reported, "{step:?}");
        let node = start(folder.path(), &more);
        let questions = node.questions();
        assert_eq!(in_force(&questions).await, Some(wanted), "{step:?}");
        let synced = sync(&questions).await;
        let again = if wanted == 1 { SyncOutcome::Applied } else { SyncOutcome::Unchanged };
        assert_eq!((synced.outcome, synced.to), (again, Some(2)), "{step:?}");
        assert_eq!(in_force(&questions).await, Some(2));
        assert_eq!(questions.bundle_history(9).await.unwrap().len(), 2, "{step:?}: applied once");
        node.shutdown().await;
    }
}
