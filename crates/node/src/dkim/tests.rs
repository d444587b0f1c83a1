use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use mail_auth::common::parse::TxtRecordParser;
use mail_auth::common::verify::DomainKey;
use mail_auth::hickory_resolver::config::{ResolverConfig, ResolverOpts};
use mail_auth::{
    AuthenticatedMessage, DkimResult, MessageAuthenticator, Parameters, ResolverCache, Txt,
};
use proptest::prelude::*;

use super::*;

/// An RSA key of 2,048 bits in PKCS#1 and an Ed25519 key in PKCS#8, made anew for each test run.
fn keys() -> &'static DkimKeys {
    static KEYS: OnceLock<DkimKeys> = OnceLock::new();
    KEYS.get_or_init(|| {
        DkimKeys::load(&[
            DkimKeyText {
                domain: "example.com".into(),
                selector: "rsa1".into(),
                pem: rcgen_key(&rcgen::PKCS_RSA_SHA256),
            },
            DkimKeyText {
                domain: "Example.com".into(),
                selector: "ed1".into(),
                pem: rcgen_key(&rcgen::PKCS_ED25519),
            },
        ])
        .unwrap()
    })
}

fn rcgen_key(algorithm: &'static rcgen::SignatureAlgorithm) -> String {
    rcgen::KeyPair::generate_for(algorithm).unwrap().serialize_pem()
}

/// The answers of DNS: what the keys say must stand there.
struct Records(HashMap<Box<str>, Txt>);

impl ResolverCache<Box<str>, Txt> for Records {
    fn get<Q>(&self, name: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.0.get(name).cloned()
    }

    fn remove<Q>(&self, _: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        None
    }

    fn insert(&self, _: Box<str>, _: Txt, _: Instant) {}
}

fn records() -> Records {
    Records(
        keys()
            .iter()
            .map(|key| {
                let record = DomainKey::parse(key.dns_record().as_bytes()).unwrap();
                let name = format!("{}.", key.dns_name()).into_boxed_str();
                (name, Txt::DomainKey(Arc::new(record)))
            })
            .collect(),
    )
}

/// The results of an independent verifier, one for each signature.
fn verify(message: &[u8]) -> Vec<DkimResult> {
    static VERIFIER: OnceLock<(tokio::runtime::Runtime, MessageAuthenticator, Records)> =
        OnceLock::new();
    let (runtime, verifier, records) = VERIFIER.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // A resolver without servers: whatever is not among the records cannot be found.
        let verifier =
            MessageAuthenticator::new(ResolverConfig::default(), ResolverOpts::default()).unwrap();
        (runtime, verifier, records())
    });
    let parsed = AuthenticatedMessage::parse(message).unwrap();
    let parameters = Parameters::new(&parsed).with_txt_cache(records);
    let outputs = runtime.block_on(verifier.verify_dkim(parameters));
    outputs.iter().map(|output| output.result().clone()).collect()
}

fn signed(head: &[u8], body: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    keys()
        .for_domain(&Domain::parse("example.com").unwrap())
        .sign(head, body, Timestamp::from_secs(1_795_245_379), &mut message)
        .unwrap();
    message.extend_from_slice(head);
    message.extend_from_slice(b"\r\n");
    message.extend_from_slice(body);
    message
}

const HEAD: &[u8] = b"From: A  <a@example.com>\r\nTo: b@example.org\r\nSubject: =?UTF-8?Q?x?=\r\n  folded \t\r\n\ttwice\r\n\
    List-Unsubscribe: <https://u.example.com/u/1>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n\
    Feedback-ID: a:b:c:sender\r\nReceived: from x by y\r\n";

#[test]
fn fixed_messages_verify_and_changed_ones_do_not() {
    let long_line = ["x ".repeat(400), "\r\n".into()].concat();
    let bodies: [&[u8]; 11] = [
        b"",
        b"\r\n",
        b"\r\n\r\n\r\n",
        b"text",
        b"text\r\n",
        b"text \t \r\n\r\n\r\n",
        b".\r\n..\r\n. \r\n",
        b" leading  and\tinner\t \twhite  space\r\n \r\nend\r\n\r\n",
        b"8-bit \xc3\xa9\xff\x00\r\n",
        long_line.as_bytes(),
        b"\t\r\nx",
    ];
    for body in bodies {
        let message = signed(HEAD, body);
        assert_eq!(
            verify(&message),
            [DkimResult::Pass, DkimResult::Pass],
            "{}",
            body.escape_ascii()
        );
    }
    let message = String::from_utf8(signed(HEAD, b"text\r\n")).unwrap();
    for (from, to) in [
        ("\r\n\r\ntext", "\r\n\r\ntexT"),
        ("Feedback-ID: a", "Feedback-ID: b"),
        ("One-Click", "Two-Click"),
        ("\r\nTo:", "\r\nFrom: evil@example.net\r\nTo:"),
    ] {
        let changed = message.replacen(from, to, 1);
        assert_ne!(changed, message);
        let results = verify(changed.as_bytes());
        assert!(results.iter().all(|result| *result != DkimResult::Pass), "{from}: {results:?}");
    }
    let relayed = message.replacen("from x by y", "changed on the way", 1);
    assert_eq!(verify(relayed.as_bytes()), [DkimResult::Pass, DkimResult::Pass]);
}

/// RFC 6376 section 3.4.4: white space at line ends goes first, then empty lines at the end.
#[test]
fn a_body_of_white_space_is_empty() {
    let empty = digest(&SHA256, b"");
    for body in ["", "\r\n", " \r\n\t\r\n", " "] {
        assert_eq!(relaxed_body_hash(body.as_bytes()).as_ref(), empty.as_ref(), "{body:?}");
    }
}

#[test]
fn the_field_is_as_promised() {
    let message = String::from_utf8(signed(HEAD, b"text\r\n")).unwrap();
    assert!(message.starts_with(
        "DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;\r\n\td=example.com; s=rsa1;"
    ));
    let unfolded = message.replace("\r\n\t", "");
    assert!(
        unfolded
            .contains("h=from:from:to:subject:list-unsubscribe:list-unsubscribe-post:feedback-id;"),
        "{unfolded}"
    );
    assert!(
        message.lines().take_while(|line| !line.is_empty()).all(|line| line.len() <= 78),
        "{message}"
    );
}

#[test]
fn keys_are_chosen_by_domain() {
    let count = |domain: &str| keys().for_domain(&Domain::parse(domain).unwrap()).keys.len();
    assert_eq!(count("example.com"), 2);
    assert_eq!(count("news.mail.example.com"), 2);
    assert_eq!(count("example.org"), 0);
    assert_eq!(count("notexample.com"), 0);
    assert_eq!(count("com"), 0);
}

#[test]
fn bad_keys_are_refused_and_none_is_shown() {
    let rsa = rcgen_key(&rcgen::PKCS_RSA_SHA256);
    let text = |domain: &str, selector: &str, pem: &str| DkimKeyText {
        domain: domain.into(),
        selector: selector.into(),
        pem: pem.into(),
    };
    let load = |text: &DkimKeyText| DkimKeys::load([text]).unwrap_err();
    assert!(matches!(load(&text("exa mple", "s", &rsa)), DkimFault::Domain { .. }));
    assert!(matches!(load(&text("example.com", "s;d=x", &rsa)), DkimFault::Selector { .. }));
    assert!(matches!(load(&text("example.com", "s", "hello")), DkimFault::NotPem { .. }));
    let elliptic = rcgen_key(&rcgen::PKCS_ECDSA_P256_SHA256);
    assert!(matches!(load(&text("example.com", "s", &elliptic)), DkimFault::Refused { .. }));
    assert!(matches!(load(&text("example.com", "s", RSA_1024)), DkimFault::Refused { .. }));
    let one = text("example.com", "s", &rsa);
    assert!(matches!(DkimKeys::load([&one, &one]), Err(DkimFault::Twice { .. })));
    let secret = &rsa.lines().nth(1).unwrap()[10..30];
    let shown = format!("{one:?} {:?}", DkimKeys::load([&one]).unwrap());
    assert!(!shown.contains(secret), "{shown}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_messages_verify(
        subject in "[ -~]{0,200}",
        long in "([a-z]{1,40}[ \t]{1,3}){0,40}",
        lines in prop::collection::vec(
            prop_oneof![
                "\\.{0,3}[ \ta-z=]{0,40}".prop_map(String::into_bytes),
                prop::collection::vec(any::<u8>().prop_filter("no line ends", |o| !b"\r\n".contains(o)), 0..60),
                Just(Vec::new()),
            ],
            0..20,
        ),
        ended: bool,
    ) {
        let head = format!(
            "From: a@example.com\r\nSubject: {subject}\r\nMessage-ID: <1@example.com>\r\nX-Long: {}\r\n\
             References: {}\r\n",
            long, long.replace(' ', "\r\n "),
        );
        // The verifier takes lines of nothing but white space at the end of a body for content, which
        // RFC 6376 section 3.4.4 does not; a test above holds what the standard says.
        let mut lines = lines;
        while lines.last().is_some_and(|line| line.iter().all(|octet| b" \t".contains(octet))) {
            lines.pop();
        }
        let mut body = lines.join(&b"\r\n"[..]);
        if ended {
            body.extend_from_slice(b"\r\n");
        }
        let message = signed(head.as_bytes(), &body);
        prop_assert_eq!(verify(&message), [DkimResult::Pass, DkimResult::Pass]);
    }
}

/// A second independent verifier, where it is installed.
#[test]
fn dkimpy_agrees() {
    let script = "import sys, dkim\n\
        records = dict(line.split('=', 1) for line in sys.argv[1:])\n\
        dns = lambda name, timeout=5: records[name.decode().rstrip('.')].encode()\n\
        message = sys.stdin.buffer.read()\n\
        d = dkim.DKIM(message)\n\
        print(d.verify(idx=0, dnsfunc=dns), d.verify(idx=1, dnsfunc=dns))\n";
    let installed =
        Command::new("python3").args(["-c", "import dkim, nacl"]).stderr(Stdio::null()).status();
    if !installed.is_ok_and(|status| status.success()) {
        eprintln!("skipped: python3 with dkimpy and pynacl is not installed");
        return;
    }
    let arguments: Vec<_> =
        keys().iter().map(|key| format!("{}={}", key.dns_name(), key.dns_record())).collect();
    for body in [&b""[..], b"a  b \t\r\n.\r\n\r\n\r\n", b"8-bit \xc3\xa9\r\n"] {
        let mut child = Command::new("python3")
            .args(["-c", script])
            .args(&arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&signed(HEAD, body)).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout).trim(),
            "True True",
            "{}",
            body.escape_ascii()
        );
    }
}

/// A key that is too short, for the test that refuses it. It signs nothing anywhere.
const RSA_1024: &str = "\
-----BEGIN RSA PRIVATE KEY-----\n\
MIICXAIBAAKBgQCxcpiTkFY2gV3QBbxkqCQnrjTvs7f6P14YauJBaIONuwt1IXuo\n\
7YXv2TMdYqDnwiT6o/1xaTbY8NESYwoLTn0XIyt6cGwJmlVfK7eM0npjNnerMSPe\n\
KFx+moJ2/bP8jbHa7aLpuzQsJsF6cRB8lX4uBDn3yNZA83/8wHjz1uCgdQIDAQAB\n\
AoGBAIq8BOyCUdVliZpFkcjE6ReZDUxHn9TozEGc926aLxiVn9yhJBSsOCaRE3Sr\n\
ExB/6veHVXThBP/SMDQG+OhkIkmwtZvw99eSTm9CDG/FILf4umY31sCHG8L9nqMD\n\
aSFELzqmOtj3G0u6wskqWawx0ajIQH6bJqlg8MsJdZY4hbdVAkEA6/aDuihamhw5\n\
OS6u2waFvGegdPj/P2xfEtqjt1EHJ0BfzLlw3LWDjvRbyyMxeFiDe4hJyCkaifnf\n\
dK6Wfv66cwJBAMCEC5QEPT3lbyYzqbGQOmD5lE3WLvRjR6rcUTBVJ9166iRG5mai\n\
f0ER2kyuQ4HXVnp6f1hO608oedMGPFFh93cCQE1icj75/wStnuKu+a9hCzkHryrN\n\
gkBVlTSEuc5j53mq9gAZDPeFG9klMHmFWDMErFI2FyRqvoZjiTImE7sgZRsCQAsp\n\
nOJAPKzSGNfGNxisnDXzQr4gpShWeVlW3P5Icb9N2TWxRrq8wVQsjNPVZuSob8M6\n\
Rxf/u3Uji6zIt8agP5ECQBEu8CRcvHjl4Dmmb/iX7uVGHzHhSDZz+5R9YN8psLwX\n\
o6R6Kg3ngwD6zIyHBfdGXm22zCa+15ZAdZC3+WSzQ94=\n\
-----END RSA PRIVATE KEY-----\n\
";

#[test]
fn generated_keys_can_be_loaded() {
    for pem in [generate_rsa_2048().unwrap(), generate_ed25519().unwrap()] {
        let text = DkimKeyText { domain: "sender.example".into(), selector: "new".into(), pem };
        assert_eq!(DkimKeys::load(&[text]).unwrap().iter().count(), 1);
    }
}
