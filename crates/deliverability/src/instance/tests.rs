use std::time::Duration;

use mail::failure::Reason;
use rules::bounce::{BounceRuleFile, BounceRules, Evidence, Key, normalise};
use rules::bundle::KnownText;

use super::*;
use crate::database::{MOST_QUALIFIED, PushStep, Said, StatedText, Withdrawn};
use crate::rollout::ReportState;
use crate::tests::{TestClock, TestKey, author, bundle, bundle_for, config, renewing_bundle};

const HOUR: Duration = Duration::from_secs(3_600);

/// An instance in a folder of its own.
struct Bench {
    folder: tempfile::TempDir,
    key: TestKey,
    clock: TestClock,
    instance: Instance,
}

impl Bench {
    fn new(lines: &str) -> Self {
        let (folder, key, clock) = (tempfile::tempdir().unwrap(), TestKey::of(1), TestClock::new());
        let config = config(folder.path(), &key, lines);
        let instance = Instance::open(config, clock.clock()).unwrap();
        Self { folder, key, clock, instance }
    }

    fn clients(&self, number: usize) -> Vec<String> {
        (0..number)
            .map(|number| {
                let name = format!("client-{number}");
                self.instance.add_client(&name, &author("")).unwrap();
                name
            })
            .collect()
    }

    fn push(&self, version: u64, share: u8) -> Result<Pushed, InstanceFault> {
        let octets = bundle(&self.key, version, self.clock.now());
        self.instance.push(&octets, Share::new(share), &author("because"))
    }

    /// A client asks, and goes away before it has the answer.
    fn ask(&self, client: &str, in_force: u64, has: &str) -> Given {
        let has = if has.is_empty() { Vec::new() } else { vec![has.to_owned()] };
        let asking = Asking { program: "0.1.0".to_owned(), has, in_force, ..Asking::default() };
        self.instance.fetch(client, &asking).unwrap()
    }

    /// A client asks, and gets the answer whole.
    fn fetch(&self, client: &str, has: &str) -> Given {
        let given = self.ask(client, 0, has);
        if let Given::Bundle { version, .. } = given {
            self.instance.sent(client, version).unwrap();
        }
        given
    }

    /// The versions that clients are given, as they all ask.
    fn given(&self, clients: &[String]) -> Vec<u64> {
        clients.iter().map(|client| version_of(&self.fetch(client, ""))).collect()
    }

    fn report(&self, client: &str, bundle: u64, state: ReportState) {
        let said = Said { client, bundle, state, reason: "words", program: "0.1.0" };
        self.instance.report(&said).unwrap();
    }

    fn stage(&self, version: u64) -> Stage {
        self.instance.bundle(version).unwrap().0.stage
    }

    fn newest(&self) -> Stage {
        self.instance.bundles().unwrap()[0].stage
    }

    fn trail(&self) -> Vec<String> {
        let lines = self.instance.trail(100).unwrap();
        lines.into_iter().map(|line| format!("{}: {}", line.who, line.what)).collect()
    }
}

/// The version of an answer; 0: there is none.
fn version_of(given: &Given) -> u64 {
    match given {
        Given::Nothing => 0,
        Given::Unchanged { etag } | Given::Bundle { etag, .. } => {
            etag.split('-').next().unwrap().parse().unwrap()
        }
    }
}

#[test]
fn only_what_a_client_would_apply_is_kept() {
    let bench = Bench::new("");
    let now = bench.clock.now();
    assert!(bench.push(3, 5).unwrap().is_new);
    let fault = |octets: &[u8]| match bench.instance.push(octets, None, &author("")) {
        Err(InstanceFault::Bundle(fault)) => fault.name(),
        other => panic!("{other:?}"),
    };
    let stranger = TestKey::of(2);
    let mut touched = bundle(&bench.key, 4, now);
    let place = touched.len() - 200;
    touched[place] ^= 1;
    let early = Timestamp::from_secs(now.as_secs() - 40 * 86_400);
    let late = now + Duration::from_secs(86_400);
    for (what, octets, wanted) in [
        ("another key", bundle(&stranger, 4, now), "unknown-key"),
        ("one bit", touched, "bad-signature"),
        ("a lower version", bundle(&bench.key, 2, now), "older"),
        (
            "another one of the same version",
            bundle_for(&bench.key, 3, now, ClientVersion(0, 0, 9)),
            "same-version",
        ),
        ("its time is over", bundle(&bench.key, 4, early), "expired"),
        ("its time is to come", bundle(&bench.key, 4, late), "from-the-future"),
        ("half of it", bundle(&bench.key, 4, now)[..300].to_vec(), "truncated"),
        ("something else", b"hello".to_vec(), "not-a-bundle"),
    ] {
        assert_eq!(fault(&octets), wanted, "{what}");
    }
    // The same one again is no fault: the answer to the first push may have been lost.
    assert!(!bench.instance.push(&bundle(&bench.key, 3, now), None, &author("")).unwrap().is_new);
    assert_eq!(bench.instance.bundles().unwrap().len(), 1);
    assert_eq!(bench.trail(), ["anna: pushed bundle 3 to 5 %"]);
    assert!(bench.push(5, 100).unwrap().is_new);
}

#[test]
fn a_push_that_breaks_off_is_there_whole_or_not_at_all() {
    let bench = Bench::new("");
    bench.push(1, 100).unwrap();
    let octets = bundle(&bench.key, 2, bench.clock.now());
    let mut copies: Vec<(PushStep, tempfile::TempDir)> = Vec::new();
    let data = bench.folder.path().join("data");
    let mut crash = |step| {
        // What the disk holds at this moment is what a start after a power cut finds.
        let copy = tempfile::tempdir().unwrap();
        std::fs::create_dir(copy.path().join("data")).unwrap();
        for file in ["instance.db", "instance.db-wal"] {
            if data.join(file).exists() {
                std::fs::copy(data.join(file), copy.path().join("data").join(file)).unwrap();
            }
        }
        copies.push((step, copy));
    };
    bench.instance.push_in_steps(&octets, None, &author(""), &mut crash).unwrap();
    assert_eq!(copies.len(), 5);
    for (step, copy) in copies {
        let config = config(copy.path(), &bench.key, "");
        let found = Instance::open(config, bench.clock.clock()).unwrap();
        let versions: Vec<u64> =
            found.bundles().unwrap().iter().map(|facts| facts.stage.version).collect();
        let lines = found.trail(10).unwrap().len();
        match step {
            PushStep::Committed => {
                assert_eq!((versions.as_slice(), lines), ([2, 1].as_slice(), 2));
                assert_eq!(&found.bundle(2).unwrap().1[..], &octets[..]);
            }
            _ => assert_eq!((versions.as_slice(), lines), ([1].as_slice(), 1), "{step:?}"),
        }
        // And it goes on from there.
        let after = bundle(&bench.key, 3, bench.clock.now());
        assert!(found.push(&after, None, &author("")).unwrap().is_new, "{step:?}");
    }
}

#[test]
fn a_bundle_goes_to_a_share_and_then_to_all() {
    let bench = Bench::new("");
    let clients = bench.clients(40);
    assert_eq!(bench.given(&clients), [0; 40]);
    bench.push(1, 100).unwrap();
    assert_eq!(bench.given(&clients), [1; 40]);
    bench.push(2, 5).unwrap();
    let first = bench.given(&clients);
    assert_eq!(first.iter().filter(|version| **version == 2).count(), 2);
    assert_eq!(bench.given(&clients), first, "nobody loses it, and nobody else gets it");
    let advance = |share| {
        bench.instance.guide(2, RolloutAction::Advance, Share::new(share), &author("so far good"))
    };
    advance(50).unwrap();
    let half = bench.given(&clients);
    assert_eq!(half.iter().filter(|version| **version == 2).count(), 20);
    assert!(first.iter().zip(&half).all(|(before, after)| before <= after));
    assert!(matches!(advance(50), Err(InstanceFault::Refused(_))), "a share only grows");
    advance(100).unwrap();
    assert_eq!(bench.given(&clients), [2; 40]);
    let (stages, number) = bench.instance.rollout(5).unwrap();
    assert_eq!((number, stages[0].1.given, stages[1].1.given), (40, 40, 0));
    // All clients were looked at once for each share, however many have asked.
    assert_eq!(bench.instance.covers().looks, 2);
}

/// Two publishers push at once. What one bundle says of keys is not forgotten over the other.
#[test]
fn of_two_pushes_at_once_neither_forgets_the_keys_of_the_other() {
    let (bench, next) = (Bench::new(""), TestKey::of(2));
    let now = bench.clock.now();
    bench.push(1, 100).unwrap();
    let renewed = renewing_bundle(&bench.key, &next, 2, now);
    let of_old_key = bundle(&bench.key, 3, now);
    let mut meanwhile = |step| {
        if step == PushStep::Read {
            bench.instance.push(&renewed, None, &author("a new key")).unwrap();
        }
    };
    let late = bench.instance.push_in_steps(&of_old_key, None, &author(""), &mut meanwhile);
    let Err(InstanceFault::Bundle(fault)) = late else { panic!("{late:?}") };
    assert_eq!(fault.name(), "retired-key");
    assert!(bench.instance.push(&bundle(&next, 3, now), None, &author("")).unwrap().is_new);
}

/// What speaks against a bundle counts only from clients that have it.
#[test]
fn only_who_was_sent_a_bundle_whole_is_heard_about_it() {
    for (what, sends, wanted) in [
        ("it was never asked for", 0, false),
        ("it was asked for, and never sent whole", 1, false),
        ("it was sent whole", 2, true),
    ] {
        let bench = Bench::new("[rollout]\nhalt_after_reports = 1");
        let client = bench.clients(1).remove(0);
        bench.push(1, 100).unwrap();
        let given = (sends > 0).then(|| bench.ask(&client, 0, ""));
        assert_eq!(given.as_ref().map_or(1, version_of), 1);
        if sends > 1 {
            bench.instance.sent(&client, 1).unwrap();
        }
        for state in [ReportState::Well, ReportState::Alarm] {
            bench.report(&client, 1, state);
        }
        bench.instance.look_after().unwrap();
        let totals = bench.instance.rollout(1).unwrap().0[0].1;
        let facts = &bench.instance.clients().unwrap()[0].0;
        assert_eq!(bench.newest().halted, wanted, "{what}");
        assert_eq!((totals.given, totals.alarm), (u32::from(wanted), u32::from(wanted)), "{what}");
        assert_eq!((facts.given, facts.in_force), (u64::from(wanted), u64::from(wanted)), "{what}");
    }
}

/// A halted bundle goes to nobody but who says that it has it.
#[test]
fn a_halted_bundle_stays_with_those_who_have_it() {
    let bench = Bench::new("");
    let client = bench.clients(1).remove(0);
    bench.push(1, 100).unwrap();
    bench.fetch(&client, "");
    bench.push(2, 100).unwrap();
    let Given::Bundle { etag, .. } = bench.ask(&client, 1, "") else { panic!() };
    bench.instance.guide(2, RolloutAction::Halt, None, &author("")).unwrap();
    for (what, in_force, has, wanted) in [
        ("it was offered, and did not get it", 1, "", 1),
        ("it was installed anew", 0, "", 1),
        ("it is in force there", 2, "", 2),
        ("it has taken it back", 1, etag.as_str(), 2),
    ] {
        assert_eq!(version_of(&bench.ask(&client, in_force, has)), wanted, "{what}");
    }
    // Also when it had it whole: what it has not put in force, it does not get again.
    bench.instance.sent(&client, 2).unwrap();
    assert_eq!(version_of(&bench.ask(&client, 1, "")), 1);
}

/// Every stage that is still open is judged, whatever was pushed since.
#[test]
fn every_open_stage_is_halted_and_advanced() {
    let bench = Bench::new("[rollout]\nadvance_after_hours = 24");
    let clients = bench.clients(20);
    bench.push(1, 100).unwrap();
    bench.push(2, 10).unwrap();
    bench.push(3, 10).unwrap();
    bench.push(4, 10).unwrap();
    // Each goes to others first.
    let given = bench.given(&clients);
    let who = |version: u64| {
        let place = given.iter().position(|given| *given == version);
        &clients[place.unwrap_or_else(|| panic!("{version}: {given:?}"))]
    };
    bench.report(who(2), 2, ReportState::Alarm);
    bench.report(who(3), 3, ReportState::Applied);
    let halted = |bench: &Bench| [1, 2, 3, 4].map(|version| bench.stage(version).halted);
    assert_eq!(halted(&bench), [false, true, false, false]);
    bench.clock.pass(24 * HOUR);
    bench.instance.look_after().unwrap();
    let share = [1, 2, 3, 4].map(|version| bench.stage(version).share.percent());
    assert_eq!(share, [100, 10, 100, 10]);
    // What the newer one has overtaken is not judged any more.
    bench.report(who(1), 1, ReportState::Alarm);
    assert_eq!(halted(&bench), [false, true, false, false]);
}

/// Which bundle a client says is in force is believed only where it is one of this instance.
#[test]
fn a_version_of_another_instance_is_not_believed() {
    let bench = Bench::new("");
    let client = bench.clients(1).remove(0);
    bench.push(7, 100).unwrap();
    let own = bench.instance.bundles().unwrap()[0].etag.split_once('-').unwrap().1.to_owned();
    bench.instance.guide(7, RolloutAction::Halt, None, &author("")).unwrap();
    for (what, in_force, digest, wanted) in [
        ("it has it", 7, own.as_str(), 7),
        ("it has it, and says no digest", 7, "", 7),
        ("another one of this version", 7, "0123456789abcdef", 0),
        ("a higher one that is not known", 99, "", 0),
        ("a lower one that is not known", 3, "0123456789abcdef", 0),
    ] {
        let asking = Asking { in_force, digest: digest.to_owned(), ..Asking::default() };
        let given = bench.instance.fetch(&client, &asking).unwrap();
        let noted = bench.instance.clients().unwrap()[0].0.in_force;
        assert_eq!((version_of(&given), noted), (wanted, wanted), "{what}");
        let (fetches, _) = bench.instance.history_of_client(&client, 1).unwrap();
        assert_eq!(fetches[0].in_force, in_force, "{what}: what it said is kept");
    }
    // Who says 99 gets what is published here.
    bench.push(8, 100).unwrap();
    assert_eq!(version_of(&bench.ask(&client, 99, "")), 8);
}

#[test]
fn who_has_it_is_told_that_nothing_changed() {
    let bench = Bench::new("");
    let clients = bench.clients(1);
    bench.push(1, 5).unwrap();
    let Given::Bundle { etag, octets, .. } = bench.fetch(&clients[0], "") else { panic!() };
    assert_eq!(&octets[..], &bundle(&bench.key, 1, bench.clock.now())[..]);
    assert!(matches!(bench.fetch(&clients[0], &etag), Given::Unchanged { .. }));
    assert!(matches!(bench.fetch(&clients[0], "1-0123456789abcdef"), Given::Bundle { .. }));
    bench.push(2, 100).unwrap();
    assert!(matches!(bench.fetch(&clients[0], &etag), Given::Bundle { .. }));
    let database = bench.instance.database();
    let fetches = database.fetches_since(Timestamp::from_secs(0)).unwrap();
    assert_eq!(fetches, [(200, 3), (304, 1)]);
}

#[test]
fn clients_halt_a_roll_out_and_a_person_resumes_it() {
    let bench = Bench::new("[rollout]\nhalt_after_reports = 2");
    let clients = bench.clients(10);
    bench.push(1, 100).unwrap();
    bench.push(2, 50).unwrap();
    let given = bench.given(&clients);
    // Those that get it first.
    let clients: Vec<String> = {
        let mut both: Vec<_> = given.iter().zip(clients).collect();
        both.sort_by_key(|(version, _)| core::cmp::Reverse(**version));
        both.into_iter().map(|(_, client)| client).collect()
    };
    bench.report(&clients[0], 2, ReportState::Applied);
    bench.report(&clients[1], 2, ReportState::Alarm);
    bench.report(&clients[1], 2, ReportState::RolledBack);
    assert!(!bench.newest().halted, "one client speaks twice");
    bench.report(&clients[2], 1, ReportState::Alarm);
    assert!(!bench.newest().halted, "it speaks of another one");
    bench.report(&clients[2], 2, ReportState::Refused);
    assert!(bench.newest().halted);
    assert_eq!(bench.trail()[0], "clients' reports: halted bundle 2 at 50 %");
    assert!(!bench.given(&clients[5..]).contains(&2), "the others get it no more");
    assert!(matches!(
        bench.instance.guide(2, RolloutAction::Advance, None, &author("")),
        Err(InstanceFault::Refused(_))
    ));
    bench.clock.pass(HOUR);
    let resume = RolloutAction::Resume;
    bench.instance.guide(2, resume, None, &author("it was the network")).unwrap();
    assert_eq!(bench.given(&clients).iter().filter(|version| **version == 2).count(), 5);
    // What was said before does not count any more.
    bench.report(&clients[3], 2, ReportState::Alarm);
    assert!(!bench.newest().halted);
    bench.instance.guide(2, RolloutAction::Halt, None, &author("no")).unwrap();
    assert!(bench.newest().halted);
    assert!(matches!(
        bench.instance.guide(7, RolloutAction::Halt, None, &author("")),
        Err(InstanceFault::Unknown(_))
    ));
}

#[test]
fn after_a_day_without_alarms_it_goes_to_all() {
    let bench = Bench::new("[rollout]\nadvance_after_hours = 24");
    let clients = bench.clients(30);
    bench.push(1, 10).unwrap();
    let advanced = || {
        bench.instance.look_after().unwrap();
        bench.newest().share == Share::ALL
    };
    bench.clock.pass(30 * HOUR);
    assert!(!advanced(), "nobody has said that it is in force");
    let first = |bench: &Bench| {
        let newest = bench.newest().version;
        let given = bench.given(&clients);
        let first = clients.iter().zip(given).filter(|(_, given)| *given == newest);
        first.map(|(client, _)| client.clone()).collect::<Vec<_>>()
    };
    bench.report(&first(&bench)[0], 1, ReportState::Applied);
    assert!(advanced());
    assert_eq!(bench.trail()[0], "time: advanced bundle 1 from 10 to 100 %");
    bench.push(2, 10).unwrap();
    bench.report(&first(&bench)[0], 2, ReportState::Applied);
    bench.clock.pass(23 * HOUR);
    assert!(!advanced());
    bench.clock.pass(HOUR);
    assert!(advanced());
    bench.push(3, 10).unwrap();
    let third = first(&bench);
    bench.report(&third[0], 3, ReportState::Applied);
    bench.report(&third[1], 3, ReportState::Alarm);
    bench.clock.pass(48 * HOUR);
    assert!(!advanced(), "it is halted");
}

#[test]
fn old_programs_keep_what_they_can_read() {
    let bench = Bench::new("");
    let clients = bench.clients(1);
    bench.push(1, 100).unwrap();
    let newer = bundle_for(&bench.key, 2, bench.clock.now(), ClientVersion(0, 2, 0));
    bench.instance.push(&newer, Share::new(100), &author("")).unwrap();
    assert_eq!(bench.given(&clients), [1]);
    let shown = bench.instance.clients().unwrap();
    assert_eq!((shown[0].0.program.as_str(), shown[0].1), ("0.1.0", Some(1)));
}

#[test]
fn tokens_are_told_once_and_end_with_their_client() {
    let bench = Bench::new("[limits]\nclients = 2");
    let token = bench.instance.add_client("one", &author("")).unwrap();
    let digest = TokenDigest::of(token.as_bytes());
    assert_eq!(bench.instance.client_of(&digest).as_deref(), Some("one"));
    let add = |name: &str| bench.instance.add_client(name, &author(""));
    assert!(matches!(add("one"), Err(InstanceFault::Refused(_))));
    assert!(matches!(add("no name"), Err(InstanceFault::Invalid(_))));
    add("two").unwrap();
    assert!(matches!(add("three"), Err(InstanceFault::Refused(_))));
    let stored = std::fs::read(bench.folder.path().join("data/instance.db-wal")).unwrap();
    let within = |text: &[u8]| stored.windows(text.len()).any(|window| window == text);
    assert!(within(digest.octets()) && !within(token.as_bytes()));
    bench.instance.remove_client("one", &author("left")).unwrap();
    assert_eq!(bench.instance.client_of(&digest), None);
    assert!(matches!(
        bench.instance.remove_client("one", &author("")),
        Err(InstanceFault::Unknown(_))
    ));
    // A start later it is the same.
    let Bench { folder, key, clock, instance } = bench;
    drop(instance);
    let again = Instance::open(config(folder.path(), &key, ""), clock.clock()).unwrap();
    let names: Vec<String> =
        again.clients().unwrap().into_iter().map(|(client, _)| client.name).collect();
    assert_eq!(names, ["two"]);
    assert!(Instance::open(config(folder.path(), &key, ""), clock.clock()).is_err(), "in use");
}

fn stated(text: &str, occurrences: u64) -> StatedText {
    let text = normalise(text);
    let (first, last) = (Timestamp::from_secs(1_790_000_000), Timestamp::from_secs(1_799_000_000));
    StatedText {
        key: Key::of(&text),
        text,
        provider: "mx.example".into(),
        occurrences,
        first,
        last,
    }
}

#[test]
fn texts_are_gathered_qualified_and_go_into_the_next_bundle() {
    let bench = Bench::new("");
    let clients = bench.clients(2);
    let blocked = "550 the postbox of this person is presently bricked up";
    let texts: Vec<StatedText> = ["a1", "b2", "c3"]
        .iter()
        .map(|name| stated(&format!("{blocked} <{name}@corp.example>"), 7))
        .chain([stated("554 purple elephants guard this gateway", 2)])
        .collect();
    let mut foreign = stated("550 something", 1);
    foreign.key = Key::of("else");
    let mut unmasked = stated("550 something", 1);
    unmasked.text = "550 something of jane@corp.example".to_owned();
    unmasked.key = Key::of(&unmasked.text);
    let sent: Vec<StatedText> = texts.iter().cloned().chain([foreign, unmasked]).collect();
    assert_eq!(bench.instance.take_texts(&clients[0], &sent).unwrap(), texts.len());
    // A client's word takes the place of its word before; two clients add up.
    let more = StatedText { occurrences: 10, ..texts[0].clone() };
    bench.instance.take_texts(&clients[0], std::slice::from_ref(&more)).unwrap();
    bench.instance.take_texts(&clients[1], &[more]).unwrap();
    let list = bench.instance.work_list().unwrap();
    assert_eq!(list.occurrences, 22, "{list:?}");
    assert_eq!(list.clusters[0].texts.len(), 1, "addresses are masked: {list:?}");
    let id = list.clusters[0].id.clone();
    let say = |which: &str, reason, accept_rule, status: &str| {
        let said = Qualify {
            reason,
            failure_type: None,
            status: Some(status.to_owned()),
            why: String::new(),
            accept_rule,
        };
        bench.instance.qualify(which, &said, &author("seen"))
    };
    let done = say(&id, Reason::InactiveUser, true, "keep").unwrap();
    assert_eq!(done.texts, 1);
    let rule = done.rule.unwrap();
    let purple = texts[3].key.to_string();
    assert!(matches!(
        say(&purple, Reason::NotDefined, false, "keep"),
        Err(InstanceFault::Invalid(_))
    ));
    assert!(matches!(say(&purple, Reason::Refused, true, "keep"), Err(InstanceFault::Invalid(_))));
    assert!(matches!(say(&purple, Reason::Refused, false, "so"), Err(InstanceFault::Invalid(_))));
    assert!(matches!(say("c-0", Reason::Refused, false, "keep"), Err(InstanceFault::Unknown(_))));
    assert_eq!(say(&purple, Reason::Refused, false, "ignore").unwrap().texts, 1);
    assert_eq!(bench.instance.work_list().unwrap().clusters, []);

    let lines = bench.instance.export_texts().unwrap();
    let known: Vec<KnownText> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(known.len(), 1, "what is ignored is not published: {lines}");
    assert_eq!((known[0].text.as_str(), known[0].reason), (&*texts[0].text, Reason::InactiveUser));
    let file = bench.instance.export_rules().unwrap();
    let file = BounceRuleFile::parse("bounce.toml", file.as_bytes()).unwrap();
    let verdict = BounceRules::compile(&file)
        .classify(&Evidence::reply("550 The postbox of this person is presently BRICKED up", ""));
    assert_eq!((&*verdict.rule, verdict.reason), (rule.as_str(), Reason::InactiveUser));
    // A client that leaves takes its texts along; what people have said stays.
    bench.instance.remove_client(&clients[0], &author("")).unwrap();
    assert_eq!(bench.instance.export_texts().unwrap(), lines);
}

/// What was said is taken back as it was said, or by the key or the name; what nobody has said is refused.
#[test]
fn what_was_said_of_texts_can_be_withdrawn() {
    let bench = Bench::new("");
    let client = bench.clients(1).remove(0);
    let texts = [
        stated("550 the postbox of this person is presently bricked up", 7),
        stated("554 purple elephants guard this gateway", 2),
    ];
    bench.instance.take_texts(&client, &texts).unwrap();
    let cluster = bench.instance.work_list().unwrap().clusters[0].id.clone();
    let say = |which: &str, accept_rule: bool| {
        let (reason, failure_type, status, why) = (Reason::InactiveUser, None, None, String::new());
        let said = Qualify { reason, failure_type, status, why, accept_rule };
        bench.instance.qualify(which, &said, &author("")).unwrap()
    };
    let purple = texts[1].key.to_string();
    let rule = say(&cluster, true).rule.unwrap();
    bench.instance.withdraw(&cluster, &author("")).unwrap();
    for (which, wanted) in [
        (&cluster, Withdrawn { texts: 1, rules: vec![rule.clone()] }),
        (&rule, Withdrawn { texts: 0, rules: vec![rule.clone()] }),
        (&purple, Withdrawn { texts: 1, rules: vec![] }),
    ] {
        say(&cluster, true);
        say(&purple, false);
        let (said, all, rules) = bench.instance.qualified(9).unwrap();
        let named = said.iter().map(|one| one.said_of.as_str()).collect::<Vec<_>>();
        assert!(named.contains(&cluster.as_str()) && named.contains(&purple.as_str()));
        assert_eq!((all, rules.len(), &rules[0].key), (2, 1, &rule));
        let withdraw = || bench.instance.withdraw(which, &author("it was wrong"));
        assert_eq!(withdraw().unwrap(), wanted, "{which}");
        assert!(bench.trail()[0].starts_with(&format!("anna: withdrew {which} (")));
        assert!(matches!(withdraw(), Err(InstanceFault::Unknown(_))), "{which}");
        let (_, all, rules) = bench.instance.qualified(9).unwrap();
        assert_eq!((all, rules.len()), (2 - wanted.texts as u64, 1 - wanted.rules.len()));
        // What nobody has qualified is on the list again, and not in the next bundle.
        assert_eq!(bench.instance.work_list().unwrap().clusters.len(), wanted.texts);
        assert_eq!(bench.instance.export_texts().unwrap().lines().count(), 2 - wanted.texts);
        let rules = bench.instance.export_rules().unwrap().matches("[[rule]]").count();
        assert_eq!(rules, 1 - wanted.rules.len());
        for rest in [&cluster, &purple] {
            let _ = bench.instance.withdraw(rest, &author(""));
        }
    }
}

/// What people say is kept for ever, so there is a bound, and an answer that says what to do.
#[test]
fn what_people_say_has_a_bound() {
    let bench = Bench::new("");
    let client = bench.clients(1).remove(0);
    let one = stated("554 purple elephants guard this gateway", 2);
    bench.instance.take_texts(&client, std::slice::from_ref(&one)).unwrap();
    let keys = bench.instance.database().fill_qualified(MOST_QUALIFIED).unwrap();
    let say = |which: &str| {
        let (reason, failure_type, status, why) = (Reason::Refused, None, None, String::new());
        let said = Qualify { reason, failure_type, status, why, accept_rule: false };
        bench.instance.qualify(which, &said, &author(""))
    };
    let Err(InstanceFault::Refused(why)) = say(&one.key.to_string()) else { panic!() };
    assert!(why.contains("50000 qualified texts") && why.contains("texts withdraw"), "{why}");
    // What is there already may be said otherwise, and what is withdrawn makes room.
    say(&keys[7].to_string()).unwrap();
    bench.instance.withdraw(&keys[8].to_string(), &author("")).unwrap();
    say(&one.key.to_string()).unwrap();
}

#[test]
fn what_is_old_is_forgotten() {
    let bench =
        Bench::new("[keep]\nbundles = 2\nfetches_days = 10\ntexts_days = 5\naudit_days = 20");
    let clients = bench.clients(1);
    for version in 1..=4 {
        bench.push(version, 100).unwrap();
    }
    bench.given(&clients);
    bench.instance.take_texts(&clients[0], &[stated("550 purple elephants", 1)]).unwrap();
    bench.instance.look_after().unwrap();
    let versions = |bench: &Bench| -> Vec<u64> {
        bench.instance.bundles().unwrap().iter().map(|facts| facts.stage.version).collect()
    };
    assert_eq!(versions(&bench), [4, 3]);
    assert_eq!(bench.trail().len(), 5);
    bench.clock.pass(9 * 24 * HOUR);
    bench.instance.look_after().unwrap();
    let (texts, all) = bench.instance.database().recorded_texts(10).unwrap();
    assert_eq!((texts.len(), all), (0, 0));
    let since = Timestamp::from_secs(0);
    assert_eq!(bench.instance.database().fetches_since(since).unwrap(), [(200, 1)]);
    bench.clock.pass(12 * 24 * HOUR);
    bench.instance.look_after().unwrap();
    assert_eq!(bench.instance.database().fetches_since(since).unwrap(), []);
    assert_eq!(bench.trail(), Vec::<String>::new());
    assert_eq!(versions(&bench), [4, 3], "the newest bundles stay however old");
}
