//! Rules by recipient domain, as the receiving side sees them: structure, encodings, signature, way.

use lab::Mood;

use super::sink::Sink;
use super::*;

const DOMAINS: &str = r#"
schema_version = 1
version = "1"

[[rule]]
name = "mobile"
mask = "mobile.example"
selector = "second"
relay = "SINK"
matches = ["mobile.example"]
matches_not = ["mobile.example.net"]
"#;

const FORMATS: &str = r#"
schema_version = 1
version = "1"

[[rule]]
name = "mobile"
mask = "mobile.example"
structure = "multipart"
related = true
subject_charset = "shift_jis"
html_charset = "shift_jis"
html_transfer = "8bit"
text_charset = "iso-2022-jp"
text_transfer = "7bit"
matches = ["mobile.example"]
matches_not = ["mobile.example.net"]
"#;

fn japanese() -> ContentSpec {
    ContentSpec::Template(TemplateSpec {
        from: AddressSpec { name: "Shop".into(), address: "news@sender.example".into() },
        subject: "\u{3053}\u{3093}\u{306b}\u{3061}\u{306f} {{ first_name }}".into(),
        html: Some(
            "<p>\u{3053}\u{3093}\u{306b}\u{3061}\u{306f} {{ first_name }} \u{1f600}</p>\n".into(),
        ),
        ..TemplateSpec::default()
    })
}

/// Whether some octets stand within others.
fn has(octets: &[u8], wanted: &[u8]) -> bool {
    octets.windows(wanted.len()).any(|found| found == wanted)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_domain_gets_its_own_structure_encodings_signature_and_relay() {
    let dkim: String = ["first", "second"]
        .map(|name| {
            format!("[[dkim]]\ndomain = \"sender.example\"\nselector = \"{name}\"\nkey_file = \"{name}.pem\"\n")
        })
        .concat();
    let sink = Sink::start([127, 9, 96, 9]).await;
    let world = World::one(96, Mood::default())
        .more(&dkim)
        .more("[domain_rules]\nfile = \"domains.toml\"\n[format_rules]\nfile = \"formats.toml\"\n");
    for name in ["first", "second"] {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_pem();
        std::fs::write(world.path(&format!("{name}.pem")), key).unwrap();
    }
    let domains = DOMAINS.replace("SINK", &sink.address.to_string());
    std::fs::write(world.path("domains.toml"), domains).unwrap();
    std::fs::write(world.path("formats.toml"), FORMATS).unwrap();
    let node = world.start();
    let intake = node.intake();
    let created = intake.create(intake.default_options(), Some(&japanese()), None).await.unwrap();
    let Created::New(id) = created else { panic!("{created:?}") };
    let to = addressed(&["jane@mobile.example", "john@one.example"]);
    intake.append(id, to).await.unwrap();
    intake.start(id).await.unwrap();
    let counters = settled(&intake, id).await;
    assert_eq!(counters.sent, 2, "{counters:?}");
    let kept = eventually("the message for the relay", async || {
        let kept = sink.kept();
        (!kept.is_empty()).then_some(kept)
    })
    .await;
    let [message] = &kept[..] else { panic!("{} messages came to the relay", kept.len()) };
    let content = &message.content;
    // The subject: Shift_JIS, and what it says.
    assert!(has(content, b"Subject: =?SHIFT_JIS?B?grGC8YLJgr+CzSBQMQ==?="));
    // One signature, by the key that the rule names.
    assert!(has(content, b"s=second") && !has(content, b"s=first"));
    // The HTML in Shift_JIS as it is, within multipart/related; what that set does not have as a reference.
    assert!(has(content, b"multipart/alternative") && has(content, b"multipart/related"));
    assert!(has(content, b"text/html; charset=shift_jis"));
    assert!(has(content, b"<p>\x82\xb1\x82\xf1\x82\xc9\x82\xbf\x82\xcd P1 &#128512;</p>"));
    // The text made of it, in 7 bits, back in ASCII at its end.
    assert!(has(content, b"text/plain; charset=iso-2022-jp"));
    assert!(has(content, b"Content-Transfer-Encoding: 7bit"));
    assert!(has(content, b"\x1b$B$3$s$K$A$O\x1b(B P1 ?\r\n"));
    let ended = world.end(node).await;
    // The other one took the ordinary way.
    assert_eq!(ended.report.totals.accepted, 1);
}
