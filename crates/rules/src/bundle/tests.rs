//! The signature here is a stand-in with the same shape; the golden file is signed by a real key, which the node's
//! tests check.

use core::time::Duration;
use std::collections::BTreeMap;

use mail::time::Timestamp;
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use super::*;

const MX: &str = r#"schema_version = 1

[[rule]]
name = "big"
mask = "*.big.example"
max_connections = 5
messages_per_hour = 1000
matches = ["mx1.big.example"]
matches_not = ["big.example.net"]

[rule.levels.boost]
max_connections = 6

[[rule]]
name = "generic"
mask = "*"
max_connections = 2
max_messages_per_connection = 10
messages_per_hour = 500
matches = ["mx.other.example"]
"#;

const BOUNCE: &str = r#"schema_version = 1
version = "7"

[[rule]]
name = "full"
text = ["mailbox is full"]
reason = "Mailbox full"
matches = ["552 5.2.2 Mailbox is full"]
matches_not = ["550 no such user"]
"#;

const TEXTS: &str =
    "{\"text\":\"552 5.2.2 the box is closed\",\"reason\":\"Mailbox full\",\"type\":\"Soft\"}\n";
const HASH: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const NOW: Timestamp = Timestamp::from_secs(1_763_700_000);
const DAY: Duration = Duration::from_secs(86_400);

/// A key, of which the name is all there is to it.
fn key(name: &str) -> PublicKey {
    PublicKey(Sha256::digest(name).into())
}

fn sign(key: &PublicKey, message: &[u8]) -> Signature {
    let half = |salt: &[u8]| {
        Sha256::new().chain_update(salt).chain_update(key.0).chain_update(message).finalize()
    };
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&half(b"1"));
    signature[32..].copy_from_slice(&half(b"2"));
    Signature(signature)
}

fn check(key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
    sign(key, message) == *signature
}

fn statement(old: &PublicKey, new: &PublicKey) -> KeyStatement {
    let signature = sign(old, &KeyStatement::message(old.id(), new));
    KeyStatement { old: old.id(), new: *new, signature }
}

fn draft() -> Draft {
    let sections = [
        (Kind::Mx, MX.to_owned()),
        (Kind::Bounce, BOUNCE.to_owned()),
        (Kind::Levels, LevelFigures::default().to_text()),
        (Kind::Qualification, TEXTS.to_owned()),
        (Kind::Suppression, format!("*.trap.example\n{HASH}\n")),
    ];
    let sections = BTreeMap::from(sections);
    Draft {
        version: 42,
        created: NOW,
        expires: NOW + 14 * DAY,
        minimum_client: ClientVersion(0, 1, 0),
        keys: Vec::new(),
        notes: "A note\nof two lines".to_owned(),
        sections,
    }
}

fn sealed_by(draft: &Draft, key: &PublicKey) -> Vec<u8> {
    draft.seal(key, |message| sign(key, message)).expect("the draft is good")
}

fn trust(keys: &[&str]) -> Trust {
    Trust::new(keys.iter().map(|name| key(name)), Trust::default())
}

/// Everything a client does before it applies a bundle.
fn accept(bytes: &[u8], trust: &Trust) -> Result<Contents, BundleFault> {
    let sealed = Sealed::split(bytes)?;
    sealed.verify(trust, &check)?;
    sealed.admit(NOW, ClientVersion(0, 1, 0), None)?;
    sealed.contents()
}

#[test]
fn what_was_sealed_reads_back() {
    let bytes = sealed_by(&draft(), &key("one"));
    let sealed = Sealed::split(&bytes).expect("splits");
    let (by, after) = sealed.verify(&trust(&["one"]), &check).expect("verifies");
    assert_eq!((by, after.keys()), (key("one"), vec![key("one")]));
    assert_eq!(sealed.admit(NOW, ClientVersion(0, 1, 0), None), Ok(Admission::New));
    let contents = sealed.contents().expect("reads");
    assert_eq!(contents.mx.expect("has MX rules").rules().len(), 2);
    assert_eq!(&**contents.bounce.expect("has bounce rules").version(), "7");
    assert_eq!(contents.levels, Some(LevelFigures::default()));
    assert_eq!(contents.qualifications.len(), 1);
    assert_eq!(contents.suppression.len(), 2);
    assert_eq!(sealed.manifest().notes, "A note\nof two lines");
}

/// The golden file of schema version 1: a program that reads this version reads it for ever.
#[test]
fn the_golden_bundle_of_schema_1_is_still_read() {
    let golden = include_bytes!("tests/golden-1.bundle");
    let sealed = Sealed::split(golden).expect("splits");
    assert_eq!(sealed.manifest().version, 3);
    assert_eq!(sealed.key().to_string(), "5e9bec8ed2944698");
    assert_eq!(sealed.manifest().minimum_client, ClientVersion(0, 1, 0));
    let contents = sealed.contents().expect("reads");
    let names: Vec<_> =
        contents.mx.iter().flat_map(|file| file.rules()).map(|rule| &*rule.name).collect();
    assert_eq!(names, ["big", "generic"]);
    assert_eq!(contents.qualifications.len(), 1);
    assert_eq!(contents.suppression.len(), 2);
}

#[test]
fn every_fault_has_its_name() {
    let one = key("one");
    let good = sealed_by(&draft(), &one);
    let text = String::from_utf8(good.clone()).expect("a bundle of texts is a text");
    let with = |change: fn(&mut Draft)| {
        let mut other = draft();
        change(&mut other);
        // Signed as it is, whatever a publisher would say of it.
        let (line, body) = forged(&other);
        seal_raw(&line, &body, &one)
    };
    let section = |kind: Kind, text: &str| {
        let mut other = draft();
        other.sections.insert(kind, text.to_owned());
        let (line, body) = forged(&other);
        seal_raw(&line, &body, &one)
    };
    let bomb =
        BOUNCE.replace("\"mailbox is full\"", r"'((\w{1,90}\W){1,90}x){1,90}', 'mailbox is full'");
    let greedy = BOUNCE
        .replace("text = [\"mailbox is full\"]", "text = ['\\d']")
        .replace("550 no such user", "no such user");
    let shadow = MX.replacen("*.big.example", "*", 1).replace("matches_not", "notes_not");
    let patterns = format!("text = [{}]", "\"mailbox is full\",".repeat(10_001));
    let hostile = |first: &str| first.as_bytes().to_vec();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("truncated", b"".to_vec()),
        ("not-a-bundle", b"PK\x03\x04".to_vec()),
        ("not-a-bundle", hostile("mailweir-bundle\n")),
        ("truncated", b"mailweir-bun".to_vec()),
        ("truncated", good[..good.len() - 1].to_vec()),
        ("truncated", good[..200].to_vec()),
        ("malformed", [&good[..], b"\n"].concat()),
        ("malformed", hostile("mailweir-bundle 1 00012\n")),
        ("newer-schema", hostile("mailweir-bundle 2 12\n")),
        ("too-large", hostile("mailweir-bundle 1 99999999999\n")),
        ("too-large", hostile(&format!("mailweir-bundle 1 {}\n", u64::MAX))),
        (
            "bad-signature",
            text.replace("messages_per_hour = 1000", "messages_per_hour = 9000").into_bytes(),
        ),
        ("unknown-key", sealed_by(&draft(), &key("two"))),
        (
            "expired",
            with(|draft| (draft.created, draft.expires) = (NOW.saturating_sub(DAY_2), NOW)),
        ),
        ("from-the-future", with(|draft| draft.created = NOW + FUTURE_TOLERANCE + SECOND)),
        ("newer-client", with(|draft| draft.minimum_client = ClientVersion(0, 2, 0))),
        ("malformed", with(|draft| draft.version = 0)),
        ("malformed", with(|draft| draft.expires = draft.created)),
        ("malformed", with(|draft| draft.expires = draft.created + LONGEST_LIFE + SECOND)),
        ("malformed", with(|draft| draft.sections.clear())),
        ("malformed", with(|draft| draft.notes = "\u{1b}[2J".into())),
        ("malformed", with(|draft| draft.keys = vec![statement(&key("x"), &key("y")); 9])),
        ("faulty-rules", section(Kind::Mx, "schema_version = 1")),
        ("faulty-rules", section(Kind::Mx, &shadow)),
        ("faulty-rules", section(Kind::Mx, &MX.replace("mx1.big.example", "mx1.other.example"))),
        (
            "faulty-rules",
            section(Kind::Bounce, &BOUNCE.replace("552 5.2.2 Mailbox is full", "552 Full")),
        ),
        ("faulty-rules", section(Kind::Bounce, &bomb)),
        ("faulty-rules", section(Kind::Levels, "schema_version = 1\nmost_connections = 5000")),
        ("faulty-rules", section(Kind::Reaction, "schema_version = 9\n")),
        ("faulty-rules", section(Kind::Domain, &"[".repeat(5_000))),
        ("shadows-all", section(Kind::Bounce, &greedy)),
        (
            "too-many",
            section(Kind::Bounce, &BOUNCE.replace("text = [\"mailbox is full\"]", &patterns)),
        ),
        ("malformed", section(Kind::Qualification, &TEXTS.replace("box is", "box  is"))),
        ("malformed", section(Kind::Qualification, &TEXTS.repeat(2))),
        ("malformed", section(Kind::Suppression, "b.example\na.example\n")),
        ("malformed", section(Kind::Suppression, "jane@example.org\n")),
        ("malformed", section(Kind::Suppression, &HASH.to_uppercase())),
    ];
    for (number, (wanted, bytes)) in cases.iter().enumerate() {
        let fault = accept(bytes, &trust(&["one"])).expect_err(wanted);
        assert_eq!(fault.name(), *wanted, "case {number}: {fault}");
        assert!(!fault.to_string().is_empty());
    }
    accept(&good, &trust(&["one"])).expect("and the good one is good");
}

const SECOND: Duration = Duration::from_secs(1);
const DAY_2: Duration = Duration::from_secs(2 * 86_400);

/// The manifest and the sections of a draft that nobody has checked.
fn forged(draft: &Draft) -> (String, String) {
    let section =
        |(kind, text): (&Kind, &String)| Section { kind: *kind, octets: text.len() as u64 };
    let manifest = Manifest {
        version: draft.version,
        created: draft.created.as_secs(),
        expires: draft.expires.as_secs(),
        minimum_client: draft.minimum_client,
        keys: draft.keys.clone(),
        sections: draft.sections.iter().map(section).collect(),
        notes: draft.notes.clone(),
    };
    let line = serde_json::to_string(&manifest).expect("plain data");
    (line, draft.sections.values().map(String::as_str).collect())
}

fn seal_raw(manifest: &str, sections: &str, key: &PublicKey) -> Vec<u8> {
    let body = format!("{manifest}\n{sections}");
    let signed = format!("mailweir-bundle 1 {}\n{body}", body.len());
    let signature = sign(key, signed.as_bytes());
    format!("{signed}signature {} {signature}\n", key.id()).into_bytes()
}

#[test]
fn a_manifest_is_exactly_what_it_should_be() {
    let (line, body) = forged(&draft());
    let cases = [
        ("an unknown field", line.replacen('{', "{\"more\":1,", 1)),
        ("a field twice", line.replacen('{', "{\"version\":42,", 1)),
        ("a missing field", line.replace("\"keys\":[],", "")),
        ("an unknown kind", line.replace("\"kind\":\"levels\"", "\"kind\":\"weather\"")),
        ("the order of kinds", line.replace("\"kind\":\"mx\"", "\"kind\":\"suppression\"")),
        ("a section too long", line.replacen("\"octets\":", "\"octets\":9", 1)),
        (
            "nested without end",
            line.replace("\"keys\":[]", &format!("\"keys\":{}", "[".repeat(60_000))),
        ),
        ("not JSON", "[".to_owned()),
    ];
    for (what, manifest) in cases {
        assert_ne!(manifest, line, "{what}");
        let fault = accept(&seal_raw(&manifest, &body, &key("one")), &trust(&["one"]));
        assert_eq!(fault.expect_err(what).name(), "malformed", "{what}");
    }
    assert!(accept(&seal_raw(&line, &body, &key("one")), &trust(&["one"])).is_ok());
}

#[test]
fn versions_only_grow() {
    let bytes = sealed_by(&draft(), &key("one"));
    let sealed = Sealed::split(&bytes).expect("splits");
    let in_force = |version, digest| Some(InForce { version, digest });
    let ask = |in_force| sealed.admit(NOW, ClientVersion(9, 0, 0), in_force);
    assert_eq!(ask(in_force(41, [0; 32])), Ok(Admission::New));
    assert_eq!(ask(in_force(42, *sealed.digest())), Ok(Admission::InForce));
    assert_eq!(ask(in_force(42, [0; 32])), Err(BundleFault::SameVersion { version: 42 }));
    assert_eq!(ask(in_force(43, [0; 32])), Err(BundleFault::Older { version: 42, in_force: 43 }));
    for (version, before, refused) in [
        (1_000_000_000_041, 41, None),
        (1_000_000_000_042, 41, Some("leap")),
        (1 << 62, 41, Some("leap")),
    ] {
        let bytes = sealed_by(&Draft { version, ..draft() }, &key("one"));
        let admitted = Sealed::split(&bytes).and_then(|sealed| {
            sealed.admit(NOW, ClientVersion(9, 0, 0), in_force(before, [0; 32]))
        });
        assert_eq!(admitted.err().map(|fault| fault.name()), refused, "{version}");
    }
}

/// Only what every client would say is told against a bundle; and a clock that is wrong is named with how far it is.
#[test]
fn what_only_this_client_has_blames_no_bundle() {
    let bytes = sealed_by(&draft(), &key("one"));
    let sealed = Sealed::split(&bytes).expect("splits");
    let created = sealed.manifest().created_at();
    let ask = |now| sealed.admit(now, ClientVersion(9, 0, 0), None).expect_err("refused");
    for (now, words) in [
        (created + Duration::from_secs(400 * 86_400), "has expired on"),
        (Timestamp::from_secs(created.as_secs() - 7_500), "2 h 5 min behind"),
        (Timestamp::from_secs(created.as_secs() - 3 * 86_400 - 3_600), "3 d 1 h behind"),
    ] {
        let fault = ask(now);
        assert!(!fault.blames_bundle(), "{fault}");
        let text = fault.to_string();
        assert!(text.contains(words) && text.contains(&now.to_string()), "{text}");
    }
    assert!(!BundleFault::UnknownKey { key: key("one").id() }.blames_bundle());
    assert!(BundleFault::BadSignature { key: key("one").id() }.blames_bundle());
}

#[test]
fn a_key_names_the_next_and_is_believed_no_more() {
    let [one, two, three] = ["one", "two", "three"].map(key);
    let signed = |keys: &[KeyStatement], by: &PublicKey| {
        sealed_by(&Draft { keys: keys.to_vec(), ..draft() }, by)
    };
    let verify = |bytes: &[u8], trust: &Trust| {
        Sealed::split(bytes).and_then(|sealed| sealed.verify(trust, &check))
    };
    let chain = [statement(&one, &two), statement(&two, &three)];
    let (by, after) = verify(&signed(&chain, &three), &trust(&["one"])).expect("the chain holds");
    assert_eq!(by, three);
    assert_eq!(after.keys(), [three]);
    // A client that slept through one change only needs the other.
    assert!(verify(&signed(&chain, &three), &trust(&["two"])).is_ok());
    // Later bundles need not carry the chain, and the old keys stay out, over a restart too.
    let text = serde_json::to_string(&after).expect("plain data");
    let kept: Trust = serde_json::from_str(&text).expect("reads back");
    let kept = Trust::new([one], kept);
    assert!(verify(&signed(&[], &three), &kept).is_ok());
    for (old, keys) in [(one, vec![]), (two, vec![]), (one, vec![statement(&three, &one)])] {
        let fault = verify(&signed(&keys, &old), &kept).expect_err("replaced");
        assert_eq!(fault, BundleFault::RetiredKey { key: old.id() });
    }
    // Whoever has found a replaced key cannot name a successor to it.
    let evil = key("evil");
    let fault = verify(&signed(&[statement(&one, &evil)], &evil), &kept).expect_err("not believed");
    assert_eq!(fault, BundleFault::UnknownKey { key: evil.id() });
    // Nor can a statement be signed by somebody else.
    let forged = KeyStatement { old: three.id(), ..statement(&evil, &evil) };
    let fault = verify(&signed(&[forged], &evil), &kept).expect_err("forged");
    assert_eq!(fault, BundleFault::BadStatement { key: three.id() });
    // An operator who configures a new key has the last word: so a lost key is mended, and a stolen one is believed no more.
    let mended = Trust::new([evil], kept);
    assert!(verify(&signed(&[], &evil), &mended).is_ok());
    let unknown = |key: PublicKey| BundleFault::UnknownKey { key: key.id() };
    let stolen = |keys: &[KeyStatement], by: &PublicKey| verify(&signed(keys, by), &mended);
    assert_eq!(stolen(&[], &three).expect_err("not in the configuration"), unknown(three));
    let four = key("four");
    let fault = stolen(&[statement(&three, &four)], &four).expect_err("nor what it names");
    assert_eq!(fault, unknown(four));
}

/// A key that was learnt is believed while the chain to it begins at a configured key, wherever that stands in it.
#[test]
fn a_learnt_key_is_believed_while_its_chain_begins_at_a_configured_one() {
    let [one, two, three, four] = ["one", "two", "three", "four"].map(key);
    let mut before = Trust::new([one], Trust::default());
    before.follow(&[statement(&one, &two), statement(&two, &three)], &check).expect("holds");
    let cases: [(&[PublicKey], &[PublicKey]); 6] = [
        (&[one], &[three]),
        (&[two], &[three]),
        (&[three], &[three]),
        (&[one, four], &[four, three]),
        (&[four], &[four]),
        (&[], &[]),
    ];
    for (configured, wanted) in cases {
        let trust = Trust::new(configured.iter().copied(), before.clone());
        assert_eq!(trust.keys(), wanted, "{configured:?}");
        let text = serde_json::to_string(&trust).expect("plain data");
        let kept: Trust = serde_json::from_str(&text).expect("reads back");
        assert_eq!(Trust::new(configured.iter().copied(), kept), trust);
    }
    // As it was stored before keys had an origin.
    let old = format!(r#"{{"learnt":["{three}"],"retired":["{one}","{two}"]}}"#);
    let old: Trust = serde_json::from_str(&old).expect("reads");
    assert_eq!(Trust::new([one], old.clone()).keys(), [three]);
    assert_eq!(Trust::new([four], old).keys(), [four]);
}

#[test]
fn a_difference_names_rules_fields_and_moves() {
    let before = draft();
    let mut after = draft();
    let mx = MX
        .replace("max_connections = 6", "max_connections = 9")
        .replace("messages_per_hour = 1000\n", "")
        .replace("name = \"generic\"", "name = \"rest\"");
    after.sections.insert(Kind::Mx, mx);
    after.sections.insert(Kind::Suppression, "*.trap.example\nspam.example\n".to_owned());
    after.sections.insert(Kind::Qualification, TEXTS.replace("Soft", "Hard"));
    assert!(difference(&texts_of(&before), &texts_of(&before)).is_empty());
    let found = difference(&texts_of(&before), &texts_of(&after));
    let [mx, qualification, suppression] = &found.kinds[..] else { panic!("{found:?}") };
    assert_eq!(
        (&mx.added[..], &mx.removed[..]),
        (&["rest".to_owned()][..], &["generic".to_owned()][..])
    );
    let change = |field: &str, from: Option<&str>, to: Option<&str>| FieldChange {
        field: field.to_owned(),
        from: from.map(str::to_owned),
        to: to.map(str::to_owned),
    };
    let fields = vec![
        change("levels.boost.max_connections", Some("6"), Some("9")),
        change("messages_per_hour", Some("1000"), None),
    ];
    assert_eq!(mx.changed, [Changed { name: "big".to_owned(), fields }]);
    assert_eq!(
        qualification.changed[0].fields,
        [change("type", Some("\"Soft\""), Some("\"Hard\""))]
    );
    assert_eq!(suppression.added, ["spam.example"]);
    assert_eq!(suppression.removed, [HASH]);
}

#[test]
fn a_bundle_of_two_mx_rules_takes_the_shipped_ones_away() {
    let draft = draft();
    let nothing = BTreeMap::new();
    let mx = difference(&nothing, &texts_of(&draft)).kinds.into_iter().next().expect("MX rules");
    assert_eq!(mx.kind, Kind::Mx);
    assert!(mx.added_count > 0 && mx.removed_count > 200, "{mx:?}");
    let back = difference(&texts_of(&draft), &nothing).kinds.into_iter().next().expect("MX rules");
    assert_eq!((back.added_count, back.removed_count), (mx.removed_count, mx.added_count));
    assert!(difference(&nothing, &nothing).is_empty());
}

fn texts_of(draft: &Draft) -> BTreeMap<Kind, &str> {
    draft.sections.iter().map(|(kind, text)| (*kind, text.as_str())).collect()
}

fn rules_in_order(names: &[u8]) -> String {
    names.iter().map(|name| format!("[[rule]]\nname = \"r{name}\"\n")).collect()
}

/// The bundle that property tests spoil: sealing checks everything, which takes its time.
static GOOD: std::sync::LazyLock<Vec<u8>> =
    std::sync::LazyLock::new(|| sealed_by(&draft(), &key("one")));

proptest! {
    /// Whatever octet becomes whatever other one, the bundle is refused.
    #[test]
    fn no_octet_can_be_another_one(at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
        let mut bytes = GOOD.clone();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        prop_assert!(accept(&bytes, &trust(&["one", "two"])).is_err());
    }

    /// Whatever is cut off, put in or doubled, the bundle is refused.
    #[test]
    fn no_octets_can_be_lost_or_added(
        from in any::<prop::sample::Index>(),
        length in 0..300_usize,
        put in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let good = &*GOOD;
        let from = from.index(good.len());
        let end = (from + length).min(good.len());
        let bytes = [&good[..from], &put[..], &good[end..]].concat();
        prop_assume!(bytes != *good);
        prop_assert!(accept(&bytes, &trust(&["one"])).is_err());
    }

    /// Octets of any kind end in a fault, never in a panic.
    #[test]
    fn anything_at_all_is_refused(head in "(mailweir-bundle 1 [0-9]{1,4}\n)?", rest in prop::collection::vec(any::<u8>(), 0..600)) {
        let bytes = [head.as_bytes(), &rest[..]].concat();
        prop_assert!(accept(&bytes, &trust(&["one"])).is_err());
    }

    /// Moving the rules that a difference names, and no others, turns one order into the other.
    #[test]
    fn moves_explain_the_new_order(
        from in Just((0..12_u8).collect::<Vec<_>>()).prop_shuffle(),
        to in Just((0..12_u8).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let (before, after) = (rules_in_order(&from), rules_in_order(&to));
        let sections = |text| BTreeMap::from([(Kind::Mx, text)]);
        let found = difference(&sections(&*before), &sections(&*after));
        let moved: Vec<Moved> = found.kinds.into_iter().flat_map(|kind| kind.moved).collect();
        let named = |name: &u8| moved.iter().any(|moved| moved.name == format!("r{name}"));
        let stays = |order: &[u8]| order.iter().filter(|name| !named(name)).copied().collect::<Vec<_>>();
        prop_assert_eq!(stays(&from), stays(&to));
        for moved in &moved {
            prop_assert_eq!(&format!("r{}", from[moved.from - 1]), &moved.name);
            prop_assert_eq!(&format!("r{}", to[moved.to - 1]), &moved.name);
        }
        prop_assert_eq!(moved.is_empty(), from == to);
    }
}
