//! The instance: what it decides and keeps, one request after the other.
//!
//! Every method is a question or a change that is whole when it returns. All of them block on the database; whoever
//! serves many connections calls them from threads that may.

mod qualifying;
mod stages;

use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use flate2::Compression;
use flate2::write::GzEncoder;
use mail::time::Timestamp;
use rules::bundle::{BundleFault, ClientVersion, InForce, PublicKey, Sealed, Signature, Trust};
use store::StoreFault;
use web::TokenDigest;

use crate::Clock;
use crate::config::{Config, NAME_HELP, is_name};
use crate::database::{
    Asked, Author, BundleFacts, ClientFacts, Database, Fetch, LastReport, NewBundle, PushStep,
    StageTotals, TrailLine,
};
use crate::rollout::{Share, Stage, offer, offers};
use crate::work_list::WorkList;

pub use qualifying::{Qualified, Qualify};
use stages::Covers;
pub(crate) use stages::RolloutAction;

/// Bundles whose octets stay in memory, in both forms together.
const CACHED: usize = 4;

/// What an instance does not do.
#[derive(Debug, thiserror::Error)]
pub enum InstanceFault {
    /// The disk or the database.
    #[error(transparent)]
    Store(#[from] StoreFault),
    /// A bundle that no client would apply.
    #[error("{0}")]
    Bundle(#[from] BundleFault),
    /// There is no such thing.
    #[error("{0}")]
    Unknown(String),
    /// The state of things does not allow it.
    #[error("{0}")]
    Refused(String),
    /// A value that cannot be.
    #[error("{0}")]
    Invalid(String),
}

/// What a client is given.
#[derive(Clone, Debug)]
pub(crate) enum Given {
    /// Nothing is published for it.
    Nothing,
    /// It has the newest one that it may have.
    Unchanged {
        /// Which.
        etag: String,
    },
    /// A bundle.
    Bundle {
        /// Which.
        etag: String,
        /// Its version.
        version: u64,
        /// Its octets.
        octets: axum::body::Bytes,
    },
}

/// What a client says when it fetches.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asking {
    /// The version of its program; empty: not said.
    pub(crate) program: String,
    /// The bundle in force; 0: none.
    pub(crate) in_force: u64,
    /// The first 16 digits of its SHA-256; empty: not said.
    pub(crate) digest: String,
    /// The tags of what it has.
    pub(crate) has: Vec<String>,
    /// Whether it takes gzip.
    pub(crate) compressed: bool,
}

impl Asking {
    /// The tag of what it says is in force.
    fn tag_in_force(&self) -> String {
        format!("{}-{}", self.in_force, self.digest)
    }
}

/// How a push ended.
#[derive(Clone, Debug)]
pub(crate) struct Pushed {
    /// The bundle as it is kept.
    pub(crate) facts: BundleFacts,
    /// `false`: it was there already, octet by octet.
    pub(crate) is_new: bool,
}

/// The octets of a bundle, as they are or compressed.
type CachedOctets = ((u64, bool), axum::body::Bytes);

/// The instance.
pub struct Instance {
    config: Config,
    clock: Clock,
    database: Mutex<Database>,
    /// Digests of the clients' tokens with their names.
    clients: RwLock<Vec<(TokenDigest, Arc<str>)>>,
    octets: Mutex<Vec<CachedOctets>>,
    /// Whom the stages cover that go to a share of the clients.
    covers: Mutex<Covers>,
    /// Counts changes of texts and of what is said of them.
    texts_changed: AtomicU64,
    work_list: Mutex<Option<(u64, Arc<WorkList>)>>,
}

/// Checks an Ed25519 signature.
fn holds(key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
    UnparsedPublicKey::new(&ED25519, key.0).verify(message, &signature.0).is_ok()
}

/// A lock whose holder has panicked guards nothing that a panic could leave half done: changes of the database are
/// transactions.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Instance {
    /// Opens the data folder of a configuration.
    ///
    /// # Errors
    /// The folder is in use or cannot be written, or the database is damaged, foreign or newer.
    pub fn open(config: Config, clock: Clock) -> Result<Self, StoreFault> {
        let database = Database::open(&config.data_dir)?;
        let instance = Self {
            config,
            clock,
            clients: RwLock::new(names_of(&database.clients()?)),
            database: Mutex::new(database),
            octets: Mutex::default(),
            covers: Mutex::default(),
            texts_changed: AtomicU64::new(0),
            work_list: Mutex::default(),
        };
        Ok(instance)
    }

    /// Its configuration.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.clock)()
    }

    fn database(&self) -> MutexGuard<'_, Database> {
        locked(&self.database)
    }

    /// The client whose token has this digest. Every known token is compared, each in constant time.
    pub(crate) fn client_of(&self, token: &TokenDigest) -> Option<Arc<str>> {
        let clients = self.clients.read().unwrap_or_else(PoisonError::into_inner);
        let mut found = None;
        for (known, name) in clients.iter() {
            if known == token {
                found = Some(Arc::clone(name));
            }
        }
        found
    }

    /// What a client is given; that it has asked is noted. Whoever sends it whole says so with [`Self::sent`].
    pub(crate) fn fetch(&self, client: &str, asking: &Asking) -> Result<Given, InstanceFault> {
        let now = self.now();
        let mut database = self.database();
        let bundles = database.bundles()?;
        let stages: Vec<Stage> = bundles.iter().map(|facts| facts.stage).collect();
        let Some(mut own) = database.standing(client)? else { return Ok(Given::Nothing) };
        // A version says nothing of whose it is: what this instance has not published is another one's, and is not believed.
        let is_stated = |facts: &&BundleFacts| {
            facts.stage.version == asking.in_force
                && (asking.digest.is_empty() || facts.etag == asking.tag_in_force())
        };
        let in_force = bundles.iter().find(is_stated).map_or(0, |facts| facts.stage.version);
        let has_tag = |facts: &&BundleFacts| asking.has.contains(&facts.etag);
        let named: Vec<u64> =
            bundles.iter().filter(has_tag).map(|facts| facts.stage.version).collect();
        own.remembers = named.iter().copied().fold(in_force, u64::max);
        own.has = own.has.max(own.remembers);
        self.covers().has(client, own.has);
        let program: Option<ClientVersion> = asking.program.parse().ok();
        let offered = offer(&stages, &own, program, now, |stage| {
            self.covers().cover(stage, &own, || database.standings())
        })?;
        let offered =
            offered.and_then(|version| bundles.iter().find(|facts| facts.stage.version == version));
        let given = match offered {
            None => Given::Nothing,
            Some(facts) if asking.has.contains(&facts.etag) => {
                Given::Unchanged { etag: facts.etag.clone() }
            }
            Some(facts) => {
                let version = facts.stage.version;
                let octets = self.octets(&database, version, asking.compressed)?;
                Given::Bundle { etag: facts.etag.clone(), version, octets }
            }
        };
        let status = match &given {
            Given::Nothing => None,
            Given::Unchanged { .. } => Some(304),
            Given::Bundle { .. } => Some(200),
        };
        let asked = Asked {
            client,
            program: &asking.program,
            stated: asking.in_force,
            in_force,
            named: &named,
            answer: offered.zip(status).map(|(facts, status)| (facts.stage.version, status)),
        };
        database.note_fetch(&asked, now)?;
        Ok(given)
    }

    /// A client was sent a bundle whole: from now on what it says of it counts.
    pub(crate) fn sent(&self, client: &str, version: u64) -> Result<(), InstanceFault> {
        let now = self.now();
        let mut database = self.database();
        database.note_sent(client, version, now)?;
        self.covers().has(client, version);
        Ok(())
    }

    /// The octets of a bundle, from memory where they are.
    fn octets(
        &self,
        database: &Database,
        version: u64,
        compressed: bool,
    ) -> Result<axum::body::Bytes, InstanceFault> {
        let name = (version, compressed);
        let mut cached = locked(&self.octets);
        if let Some((_, octets)) = cached.iter().find(|(known, _)| *known == name) {
            return Ok(octets.clone());
        }
        let octets = database.octets(version, compressed)?;
        let unknown = || InstanceFault::Unknown(format!("bundle {version} is not kept"));
        let octets = axum::body::Bytes::from(octets.ok_or_else(unknown)?);
        if cached.len() >= CACHED {
            // The one that was read first; the newest bundles are asked for most.
            cached.remove(0);
        }
        cached.push((name, octets.clone()));
        Ok(octets)
    }

    /// A bundle for a publisher.
    pub(crate) fn bundle(
        &self,
        version: u64,
    ) -> Result<(BundleFacts, axum::body::Bytes), InstanceFault> {
        let database = self.database();
        let facts = database.bundle(version)?;
        let unknown = || InstanceFault::Unknown(format!("there is no bundle {version}"));
        Ok((facts.ok_or_else(unknown)?, self.octets(&database, version, false)?))
    }

    /// Every bundle, the newest first.
    pub(crate) fn bundles(&self) -> Result<Vec<BundleFacts>, InstanceFault> {
        Ok(self.database().bundles()?)
    }

    /// Every bundle with how it stands with the clients, and how many clients there are.
    pub(crate) fn rollout(
        &self,
        limit: usize,
    ) -> Result<(Vec<(BundleFacts, StageTotals)>, usize), InstanceFault> {
        let database = self.database();
        let newest = database.bundles()?.into_iter().take(limit);
        let with_totals =
            newest.map(|facts| Ok((database.stage_totals(facts.stage.version)?, facts)));
        let stages: Result<Vec<_>, StoreFault> = with_totals.collect();
        let stages = stages?.into_iter().map(|(totals, facts)| (facts, totals)).collect();
        Ok((stages, database.standings()?.len()))
    }

    /// Checks a bundle as a client does, and keeps it.
    pub(crate) fn push(
        &self,
        octets: &[u8],
        share: Option<Share>,
        author: &Author,
    ) -> Result<Pushed, InstanceFault> {
        self.push_in_steps(octets, share, author, &mut |_| {})
    }

    pub(crate) fn push_in_steps(
        &self,
        octets: &[u8],
        share: Option<Share>,
        author: &Author,
        step: &mut dyn FnMut(PushStep),
    ) -> Result<Pushed, InstanceFault> {
        let now = self.now();
        let sealed = Sealed::split(octets)?;
        // Strangers are turned away before anything of theirs is read.
        sealed.verify(&self.trust(&self.database())?, &holds)?;
        let manifest = sealed.manifest();
        let etag = etag_of(manifest.version, sealed.digest());
        // A client that can apply it at all has this version.
        sealed.admit(now, manifest.minimum_client, None)?;
        // Checked before the database is taken: this is what takes time.
        sealed.contents()?;
        let compressed = gzip(octets);
        step(PushStep::Read);
        let mut database = self.database();
        // Once more: another push may have replaced the key meanwhile, and what it taught must not be forgotten.
        let (key, trust) = sealed.verify(&self.trust(&database)?, &holds)?;
        if let Some(newest) = database.bundles()?.into_iter().next() {
            if newest.etag == etag {
                return Ok(Pushed { facts: newest, is_new: false });
            }
            let digest =
                if newest.stage.version == manifest.version { [0; 32] } else { *sealed.digest() };
            let in_force = InForce { version: newest.stage.version, digest };
            sealed.admit(now, manifest.minimum_client, Some(in_force))?;
        }
        let new = NewBundle {
            etag: &etag,
            version: manifest.version,
            created: manifest.created_at(),
            expires: manifest.expires_at(),
            minimum_client: manifest.minimum_client,
            signed_by: &key.id().to_string(),
            notes: &manifest.notes,
            octets,
            compressed: &compressed,
            share: share.unwrap_or(self.config.rollout.share),
            trust: &trust,
        };
        database.push(&new, now, author, step)?;
        let facts = database.bundle(manifest.version)?;
        let gone = || InstanceFault::Refused("the bundle is not kept".to_owned());
        Ok(Pushed { facts: facts.ok_or_else(gone)?, is_new: true })
    }

    /// Whom this instance believes, with all that bundles have said so far.
    fn trust(&self, database: &Database) -> Result<Trust, InstanceFault> {
        Ok(Trust::new(self.config.public_keys.iter().copied(), database.trust()?))
    }

    /// Every client, with the version that it would be given now.
    pub(crate) fn clients(&self) -> Result<Vec<(ClientFacts, Option<u64>)>, InstanceFault> {
        let now = self.now();
        let database = self.database();
        let clients = database.clients()?;
        let stages: Vec<Stage> = database.bundles()?.into_iter().map(|facts| facts.stage).collect();
        drop(database);
        let standings: Vec<_> = clients.iter().map(ClientFacts::standing).collect();
        let offers =
            offers(&stages, &standings, |number| clients[number].program.parse().ok(), now);
        Ok(clients.into_iter().zip(offers).collect())
    }

    /// Adds a client and answers its token, which is never known again.
    pub(crate) fn add_client(&self, name: &str, author: &Author) -> Result<String, InstanceFault> {
        if !is_name(name) {
            return Err(InstanceFault::Invalid(format!("name: {NAME_HELP}")));
        }
        let fault =
            || InstanceFault::Refused("the system gives no randomness for a token".to_owned());
        let token = web::new_token().ok_or_else(fault)?;
        let digest = TokenDigest::of(token.as_bytes());
        let (now, most) = (self.now(), self.config.limits.clients);
        let mut database = self.database();
        if !database.add_client(name, &digest, most, now, author)? {
            let why = match database.has_client(name)? {
                true => format!("there is a client {name} already; `clients remove {name}` first"),
                false => {
                    format!("there are {most} clients, as many as `clients` in [limits] allows")
                }
            };
            return Err(InstanceFault::Refused(why));
        }
        self.take_names(&database)?;
        Ok(token)
    }

    /// Removes a client: its token is worth nothing from now on.
    pub(crate) fn remove_client(&self, name: &str, author: &Author) -> Result<(), InstanceFault> {
        let now = self.now();
        let mut database = self.database();
        if !database.remove_client(name, now, author)? {
            return Err(InstanceFault::Unknown(format!("there is no client {name}")));
        }
        self.texts_changed.fetch_add(1, Ordering::AcqRel);
        self.take_names(&database)
    }

    fn take_names(&self, database: &Database) -> Result<(), InstanceFault> {
        let names = names_of(&database.clients()?);
        *self.clients.write().unwrap_or_else(PoisonError::into_inner) = names;
        // Other clients, other shares of them.
        self.covers().clear();
        Ok(())
    }

    /// What a client fetched and what it said, the newest first; also of one that was removed.
    pub(crate) fn history_of_client(
        &self,
        name: &str,
        limit: u32,
    ) -> Result<(Vec<Fetch>, Vec<LastReport>), InstanceFault> {
        Ok(self.database().history_of_client(name, limit)?)
    }

    /// The newest lines of the audit trail.
    pub(crate) fn trail(&self, limit: u32) -> Result<Vec<TrailLine>, InstanceFault> {
        Ok(self.database().trail(limit)?)
    }
}

fn names_of(clients: &[ClientFacts]) -> Vec<(TokenDigest, Arc<str>)> {
    clients.iter().map(|client| (client.token, Arc::from(client.name.as_str()))).collect()
}

/// By what clients name the octets of a bundle.
fn etag_of(version: u64, digest: &[u8; 32]) -> String {
    let digits: String = digest.iter().take(8).map(|octet| format!("{octet:02x}")).collect();
    format!("{version}-{digits}")
}

/// Compressed, once for all clients.
fn gzip(octets: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let written = encoder.write_all(octets).and_then(|()| encoder.finish());
    written.expect("writing into memory does not fail")
}

/// What a report may say of a bundle at most, in characters.
pub(crate) const LONGEST_REASON: usize = 1_000;

#[cfg(test)]
mod tests;
