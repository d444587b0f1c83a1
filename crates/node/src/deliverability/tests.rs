use std::collections::BTreeMap;

use mail::time::Timestamp;
use rules::bundle::{BundleFault, Draft, Kind, PublicKey, Sealed, Trust};

use super::keys::{self, SigningKey, holds};
use super::{client_version, folder};

/// The public half of the key that signed the golden bundle; the private one was thrown away.
const GOLDEN_KEY: &str = "74e86915c1f4dd4e0a279f916106b25966021e40e202d095f116a085e1a7922a";
const GOLDEN: &[u8] = include_bytes!("../../../rules/src/bundle/tests/golden-1.bundle");

#[test]
fn the_golden_bundle_is_signed_by_its_key() {
    let key: PublicKey = GOLDEN_KEY.parse().unwrap();
    let trust = Trust::new([key], Trust::default());
    let sealed = Sealed::split(GOLDEN).unwrap();
    assert_eq!(sealed.verify(&trust, &holds).unwrap().0, key);
    for at in (0..GOLDEN.len()).step_by(37) {
        let mut bytes = GOLDEN.to_vec();
        bytes[at] ^= 1;
        let verified = Sealed::split(&bytes).and_then(|sealed| sealed.verify(&trust, &holds));
        assert!(verified.is_err(), "octet {at}");
    }
}

#[test]
fn keys_are_kept_in_files_that_only_their_owner_reads() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let key = SigningKey::generate().unwrap();
    key.write(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let again = SigningKey::read(&path).unwrap();
    assert_eq!(again.public(), key.public());
    let signature = again.sign(b"message");
    assert!(holds(&key.public(), b"message", &signature));
    assert!(!holds(&key.public(), b"massage", &signature));
    assert!(!holds(&SigningKey::generate().unwrap().public(), b"message", &signature));
    // A key is never overwritten, and never shown.
    assert!(key.write(&path).is_err());
    let seed = std::fs::read_to_string(&path).unwrap();
    assert!(!format!("{key:?}").contains(seed.trim().rsplit(' ').next().unwrap()));
    std::fs::write(&path, key.public().to_string()).unwrap();
    assert!(SigningKey::read(&path).unwrap_err().to_string().contains("no private key"));
    assert_eq!(keys::read_public(path.to_str().unwrap()).unwrap(), key.public());
    assert_eq!(keys::read_public(&key.public().to_string()).unwrap(), key.public());
}

#[test]
fn a_bundle_is_published_from_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    assert!(folder::read(folder.path()).unwrap_err().to_string().contains("mx.toml"));
    put("mx.toml", "schema_version = 1\n[[rule]]\nname = \"generic\"\nmask = \"*\"\n");
    put("README", "not looked at");
    put(
        "suppression.txt",
        "# of the trap\nspam.example\nJane@EXAMPLE.org\n*.trap.example\njane@example.org\n",
    );
    let said = r#"{"text":"552 5.2.2 <jane@example.org> box closed","reason":"Mailbox full","type":"Soft"}"#;
    put("qualifications.jsonl", &format!("{said}\n\n{said}\n"));
    let sections = folder::read(folder.path()).unwrap();
    let kinds: Vec<Kind> = sections.keys().copied().collect();
    assert_eq!(kinds, [Kind::Mx, Kind::Qualification, Kind::Suppression]);
    assert_eq!(sections[&Kind::Suppression].lines().count(), 3);
    assert!(!sections[&Kind::Suppression].contains('@'));
    assert_eq!(sections[&Kind::Qualification].lines().count(), 1);
    assert!(!sections[&Kind::Qualification].contains("jane"));
    let now = Timestamp::from_secs(1_763_700_000);
    let draft = Draft {
        version: 1,
        created: now,
        expires: now + std::time::Duration::from_secs(86_400),
        minimum_client: client_version(),
        keys: Vec::new(),
        notes: String::new(),
        sections,
    };
    let key = SigningKey::generate().unwrap();
    let bytes = draft.seal(&key.public(), |message| key.sign(message)).unwrap();
    let sealed = Sealed::split(&bytes).unwrap();
    assert_eq!(sealed.contents().unwrap().suppression.len(), 3);
    // What a client would refuse is not signed.
    let sections = BTreeMap::from([(Kind::Mx, "schema_version = 1".to_owned())]);
    let fault = Draft { sections, ..draft }.seal(&key.public(), |_| panic!("signed")).unwrap_err();
    assert!(matches!(fault, BundleFault::Rules { kind: Kind::Mx, .. }), "{fault}");
    put("suppression.txt", "no domain here\n");
    assert!(folder::read(folder.path()).unwrap_err().to_string().contains("line 1"));
}

mod applying;
pub(super) mod fake;
mod mending;
mod syncing;
