//! Two verifiers that share no code with ours or with one another: opendkim (in C) and dkimpy (in Python).
//!
//! Each is run once over a folder of messages. Each message has two signatures of ours, RSA and Ed25519; opendkim tells about one signature of a
//! message only, so it is given two copies, each with one of them.

use std::path::Path;
use std::process::{Command, Stdio};

use mailweir_node::dkim::{DkimKeyText, DkimKeys};

use super::{Arrived, PEERS, fields};

/// The selectors of [`keys`], in the order in which signatures stand in a message.
const SELECTORS: [&str; 2] = ["rsa", "ed"];

/// An RSA key of 2,048 bits and an Ed25519 key, written into a folder, and the sections of the configuration that name them.
pub(super) fn keys(folder: &Path) -> (DkimKeys, String) {
    let algorithms = [&rcgen::PKCS_RSA_SHA256, &rcgen::PKCS_ED25519];
    let texts: Vec<DkimKeyText> = SELECTORS
        .into_iter()
        .zip(algorithms)
        .map(|(selector, algorithm)| DkimKeyText {
            domain: "sender.example".into(),
            selector: selector.into(),
            pem: rcgen::KeyPair::generate_for(algorithm).unwrap().serialize_pem(),
        })
        .collect();
    let mut sections = String::new();
    for text in &texts {
        let name = &text.selector;
        std::fs::write(folder.join(format!("{name}.pem")), &text.pem).unwrap();
        sections += &format!(
            "[[dkim]]\ndomain = \"sender.example\"\nselector = \"{name}\"\nkey_file = \"{name}.pem\"\n"
        );
    }
    (DkimKeys::load(&texts).unwrap(), sections)
}

/// Has both verifiers judge messages with CRLF line ends. A verifier that is not installed is passed over with a notice.
pub(super) fn verify<'a>(keys: &DkimKeys, messages: impl Iterator<Item = &'a Arrived>) {
    let messages: Vec<&[u8]> = messages.map(|message| &message.content[..]).collect();
    let folder = tempfile::tempdir().unwrap();
    for (number, message) in messages.iter().enumerate() {
        std::fs::write(folder.path().join(format!("{number}.eml")), message).unwrap();
    }
    dkimpy(keys, folder.path(), messages.len());
    opendkim(keys, folder.path(), &messages);
}

const SCRIPT: &str = r#"
import sys, dkim
count, records = int(sys.argv[1]), dict(line.split("=", 1) for line in sys.argv[2:])
find = lambda name, timeout=5: records[name.decode().rstrip(".")].encode()
for number in range(count):
    message = dkim.DKIM(open(f"{number}.eml", "rb").read())
    print(number, *(message.verify(idx=at, dnsfunc=find) for at in range(2)))
"#;

fn dkimpy(keys: &DkimKeys, folder: &Path, count: usize) {
    let mut python = Command::new("python3");
    let installed = python.args(["-c", "import dkim, nacl"]).stderr(Stdio::null()).status();
    if !installed.is_ok_and(|status| status.success()) {
        println!("skipped: python3 with dkimpy and pynacl is not installed");
        return;
    }
    let records = keys.iter().map(|key| format!("{}={}", key.dns_name(), key.dns_record()));
    let output = Command::new("python3")
        .args(["-c", SCRIPT, &count.to_string()])
        .args(records)
        .current_dir(folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "dkimpy: {said} {errors}");
    let expected: String = (0..count).map(|number| format!("{number} True True\n")).collect();
    for (line, expected) in said.lines().zip(expected.lines()) {
        assert_eq!(line, expected, "dkimpy: {}", shown(folder, line));
    }
    assert_eq!(said, expected, "{errors}");
}

fn shown(folder: &Path, line: &str) -> String {
    let number = line.split(' ').next().unwrap_or_default();
    let message = std::fs::read(folder.join(format!("{number}.eml"))).unwrap_or_default();
    message.escape_ascii().to_string()
}

fn opendkim(keys: &DkimKeys, folder: &Path, messages: &[&[u8]]) {
    let program = Path::new(PEERS).join("opendkim/usr/sbin/opendkim");
    if !program.is_file() {
        println!("skipped: opendkim is not in {PEERS}");
        return;
    }
    let records: String =
        keys.iter().map(|key| format!("{} {}\n", key.dns_name(), key.dns_record())).collect();
    std::fs::write(folder.join("keys"), records).unwrap();
    std::fs::write(folder.join("conf"), "TestPublicKeys keys\nMode v\nSyslog no\n").unwrap();
    let mut names = Vec::new();
    let mut expected = String::new();
    for (number, message) in messages.iter().enumerate() {
        for (selector, bits) in SELECTORS.iter().zip(["2048", "0"]) {
            let name = format!("{selector}{number}");
            std::fs::write(folder.join(&name), with_only(message, selector)).unwrap();
            expected += &format!(
                "opendkim: {name}: verification (s={selector}, d=sender.example, {bits}-bit key) succeeded\n"
            );
            names.push(name);
        }
    }
    let output = Command::new(program)
        .args(["-f", "-x", "conf", "-t", &names.join(",")])
        .current_dir(folder)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    for (line, expected) in said.lines().zip(expected.lines()) {
        assert_eq!(line, expected);
    }
    assert_eq!(said, expected);
}

/// The message without the signatures of other selectors.
fn with_only(message: &[u8], selector: &str) -> Vec<u8> {
    let end = memchr::memmem::find(message, b"\r\n\r\n").map_or(message.len(), |end| end + 2);
    let (head, rest) = message.split_at(end);
    let selected = format!(" s={selector};");
    let is_other = |field: &[u8]| {
        field.starts_with(b"DKIM-Signature:")
            && memchr::memmem::find(field, selected.as_bytes()).is_none()
    };
    let mut left: Vec<u8> =
        fields(head).into_iter().filter(|field| !is_other(field)).flatten().copied().collect();
    left.extend_from_slice(rest);
    left
}
