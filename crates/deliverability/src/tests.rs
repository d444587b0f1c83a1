//! What the tests of this crate share: keys, bundles, and an instance on a clock that they turn.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use mail::time::Timestamp;
use rules::bundle::{ClientVersion, Draft, KeyStatement, Kind, PublicKey, Signature};

use crate::Clock;
use crate::config::Config;
use crate::database::Author;

/// The publisher's token.
pub(crate) const PUBLISHER: &str = "a-token-of-the-publisher";

/// A private key, made of one octet.
pub(crate) struct TestKey(Ed25519KeyPair);

impl TestKey {
    pub(crate) fn of(seed: u8) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap())
    }

    pub(crate) fn public(&self) -> PublicKey {
        PublicKey(self.0.public_key().as_ref().try_into().unwrap())
    }

    fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).as_ref().try_into().unwrap())
    }
}

/// Time that stands still until it is told to go on.
#[derive(Clone)]
pub(crate) struct TestClock(Arc<AtomicU64>);

impl TestClock {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicU64::new(1_800_000_000)))
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_secs(self.0.load(Ordering::Acquire))
    }

    pub(crate) fn pass(&self, span: Duration) {
        self.0.fetch_add(span.as_secs(), Ordering::AcqRel);
    }

    pub(crate) fn clock(&self) -> Clock {
        let clock = self.clone();
        Arc::new(move || clock.now())
    }
}

/// MX rules with so many messages an hour.
pub(crate) fn mx_rules(messages: u32) -> String {
    format!(
        "schema_version = 1\n\n[[rule]]\nname = \"generic\"\nmask = \"*\"\nmax_connections = 2\n\
         max_messages_per_connection = 20\nmessages_per_hour = {messages}\nmatches = [\"mx.example.org\"]\n"
    )
}

/// A bundle with MX rules, made now.
pub(crate) fn bundle(key: &TestKey, version: u64, now: Timestamp) -> Vec<u8> {
    bundle_for(key, version, now, ClientVersion(0, 1, 0))
}

/// The same for programs from a version on.
pub(crate) fn bundle_for(
    key: &TestKey,
    version: u64,
    now: Timestamp,
    minimum_client: ClientVersion,
) -> Vec<u8> {
    draft(version, now, minimum_client).seal(&key.public(), |message| key.sign(message)).unwrap()
}

/// The same, signed by a key that the bundle says takes the place of another one.
pub(crate) fn renewing_bundle(
    old: &TestKey,
    new: &TestKey,
    version: u64,
    now: Timestamp,
) -> Vec<u8> {
    let mut draft = draft(version, now, ClientVersion(0, 1, 0));
    let old_id = old.public().id();
    let signature = old.sign(&KeyStatement::message(old_id, &new.public()));
    draft.keys = vec![KeyStatement { old: old_id, new: new.public(), signature }];
    draft.seal(&new.public(), |message| new.sign(message)).unwrap()
}

fn draft(version: u64, now: Timestamp, minimum_client: ClientVersion) -> Draft {
    let rules = mx_rules(2_000 + u32::try_from(version).unwrap());
    Draft {
        version,
        created: now,
        expires: now + Duration::from_secs(30 * 86_400),
        minimum_client,
        keys: Vec::new(),
        notes: String::new(),
        sections: BTreeMap::from([(Kind::Mx, rules)]),
    }
}

/// A configuration in this folder, with further lines at its top.
pub(crate) fn config(folder: &Path, key: &TestKey, lines: &str) -> Config {
    std::fs::write(folder.join("publisher.token"), PUBLISHER).unwrap();
    let text = format!(
        "data_dir = \"data\"\npublic_keys = [\"{}\"]\nlisten = [\"127.0.0.1:0\"]\n{lines}\n\
         [[publisher]]\nname = \"anna\"\ntoken_file = \"publisher.token\"\n",
        key.public()
    );
    Config::parse("instance.toml", &text, folder).unwrap_or_else(|fault| panic!("{fault}"))
}

/// Somebody.
pub(crate) fn author(why: &str) -> Author {
    Author { who: "anna".to_owned(), why: why.to_owned() }
}
