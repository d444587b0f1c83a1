//! A provider while the lab runs: its mood, the domains it serves, and what it remembers of senders.
//!
//! What must be remembered (greylisted triples, first attempts) is kept in one bounded table of
//! hashes; when it is full, what is older than a day goes, and if that makes no room, the newest
//! are not remembered: a sender is then put off once more, never let in wrongly.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock};

use anyhow::Context as _;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::chance::{falls_within, hash64, hash64_folded, mix};
use crate::config::{LabConfig, ProviderConfig};
use crate::mood::Mood;
use crate::recorder::lock;
use crate::returns::Return;
use crate::wording::{Situation, Wording};

const MOST_REMEMBERED: usize = 2_000_000;
const REMEMBERED_MICROS: u64 = 86_400_000_000;

/// What an address is to meet at RCPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Welcome.
    Welcome,
    /// Not the business of this provider: the sender's routing is at fault.
    WrongHost,
    /// Answered with the words of this situation.
    Refused(Situation),
}

/// A provider while the lab runs.
pub(crate) struct Site {
    /// Its place in the configuration and in the recorder.
    pub index: usize,
    /// Its way of speaking.
    pub wording: Wording,
    mood: watch::Sender<Arc<Mood>>,
    seed: u64,
    hosts: Vec<String>,
    domains: HashSet<u64>,
    suffixes: Vec<String>,
    memory: Mutex<HashMap<u64, u64>>,
    tls: OnceLock<TlsAcceptor>,
}

/// Keeps the hashes of different questions about the same address apart.
#[derive(Clone, Copy)]
#[repr(u64)]
enum Salt {
    Domain = 1,
    Unknown,
    Full,
    Temporary,
    Greylist,
    Drop,
    Content,
    Once,
    Later,
    Complaint,
    Away,
    Cause,
}

impl Site {
    /// The site of one provider of a checked configuration.
    pub(crate) fn new(index: usize, provider: &ProviderConfig, config: &LabConfig) -> Self {
        let seed = mix(config.seed);
        let mut site = Self {
            index,
            wording: provider.wording,
            mood: watch::Sender::new(Arc::new(provider.mood.clone())),
            seed,
            hosts: provider.mx.iter().map(|mx| mx.host.clone()).collect(),
            domains: HashSet::new(),
            suffixes: Vec::new(),
            memory: Mutex::default(),
            tls: OnceLock::new(),
        };
        for domain in provider.domains.iter().chain(&provider.implicit_mx) {
            match domain.strip_prefix('*') {
                Some(suffix) => site.suffixes.push(suffix.to_ascii_lowercase()),
                None => site.serve(domain),
            }
        }
        // An alias of a mail domain is routed to the hosts of what it stands for.
        for _ in 0..8 {
            for alias in &config.cname {
                if site.serves(alias.target.as_bytes()) {
                    site.serve(&alias.name);
                }
            }
        }
        site
    }

    fn hash(&self, salt: Salt, address: &[u8]) -> u64 {
        hash64_folded(self.seed ^ ((salt as u64) << 56), address)
    }

    fn serve(&mut self, domain: &str) {
        let key = self.hash(Salt::Domain, domain.as_bytes());
        self.domains.insert(key);
    }

    fn serves(&self, domain: &[u8]) -> bool {
        self.domains.contains(&self.hash(Salt::Domain, domain))
            || self.suffixes.iter().any(|suffix| {
                domain.len() > suffix.len()
                    && domain[domain.len() - suffix.len()..].eq_ignore_ascii_case(suffix.as_bytes())
            })
    }

    /// The mood, to be watched.
    pub(crate) fn mood(&self) -> watch::Receiver<Arc<Mood>> {
        self.mood.subscribe()
    }

    /// Exchanges the mood.
    pub(crate) fn set_mood(&self, mood: Mood) {
        self.mood.send_replace(Arc::new(mood));
    }

    /// What comes back later for a message that was taken for this recipient.
    pub(crate) fn comes_back(&self, mood: &Mood, recipient: &[u8]) -> Option<Return> {
        let begins = |prefix: &[u8]| {
            recipient.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        };
        let by_share =
            |share: f64, salt: Salt| share > 0.0 && falls_within(self.hash(salt, recipient), share);
        if begins(b"ghost") || by_share(mood.bounces_later, Salt::Later) {
            let situation = match self.hash(Salt::Cause, recipient) % 10 {
                0..6 => Situation::UnknownUser,
                6..9 => Situation::MailboxFull,
                _ => Situation::ContentRefused,
            };
            return Some(Return::Bounce(situation));
        }
        if begins(b"angry") || by_share(mood.complaints, Salt::Complaint) {
            return Some(Return::Complaint);
        }
        (begins(b"away") || by_share(mood.out_of_office, Salt::Away)).then_some(Return::OutOfOffice)
    }

    /// What this recipient is to meet at RCPT, from this source and sender at this moment.
    pub(crate) fn judge(
        &self,
        mood: &Mood,
        recipient: &[u8],
        sender: &[u8],
        source: IpAddr,
        now: u64,
    ) -> Verdict {
        let at = memchr::memrchr(b'@', recipient).unwrap_or(recipient.len());
        let (local, domain) = (&recipient[..at], recipient.get(at + 1..).unwrap_or(b""));
        if !mood.any_domain && !self.serves(domain) {
            return Verdict::WrongHost;
        }
        let begins = |prefix: &[u8]| {
            local.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        };
        let by_share =
            |share: f64, salt: Salt| share > 0.0 && falls_within(self.hash(salt, recipient), share);
        if begins(b"unknown") || by_share(mood.unknown_users, Salt::Unknown) {
            return Verdict::Refused(Situation::UnknownUser);
        }
        if begins(b"full") || by_share(mood.mailbox_full, Salt::Full) {
            return Verdict::Refused(Situation::MailboxFull);
        }
        if by_share(mood.temporary_share, Salt::Temporary)
            && self.first_time(self.hash(Salt::Once, recipient), now)
        {
            return Verdict::Refused(Situation::Temporary);
        }
        if let Some(span) = mood.greylist {
            let key = hash64(self.hash(Salt::Greylist, recipient), sender)
                ^ hash64(self.seed, source.to_string().as_bytes());
            if self.too_early(key, now, span.as_micros()) {
                return Verdict::Refused(Situation::Greylisted);
            }
        }
        Verdict::Welcome
    }

    /// Whether this recipient's message, taken in whole, is to be dropped without a reply; only
    /// once for each recipient.
    pub(crate) fn drops(&self, mood: &Mood, recipient: &[u8], now: u64) -> bool {
        let hash = self.hash(Salt::Drop, recipient);
        falls_within(hash, mood.drop_after_dot) && self.first_time(hash, now)
    }

    /// Whether this recipient's message is refused after the dot.
    pub(crate) fn refuses_content(&self, mood: &Mood, recipient: &[u8]) -> bool {
        mood.reject_after_data > 0.0
            && falls_within(self.hash(Salt::Content, recipient), mood.reject_after_data)
    }

    fn first_time(&self, key: u64, now: u64) -> bool {
        let mut memory = lock(&self.memory);
        if memory.contains_key(&key) {
            return false;
        }
        remember(&mut memory, key, now);
        true
    }

    fn too_early(&self, key: u64, now: u64, span: u64) -> bool {
        let mut memory = lock(&self.memory);
        match memory.get(&key) {
            Some(first) => now.saturating_sub(*first) < span,
            None => {
                remember(&mut memory, key, now);
                true
            }
        }
    }

    /// The TLS side of its hosts, with a self-signed certificate for their names, made when first
    /// asked for.
    ///
    /// # Errors
    /// The certificate cannot be made.
    pub(crate) fn tls(&self) -> anyhow::Result<TlsAcceptor> {
        if let Some(ready) = self.tls.get() {
            return Ok(ready.clone());
        }
        let made = rcgen::generate_simple_self_signed(self.hosts.clone())
            .context("cannot make a certificate")?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("no TLS version is to be had")?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .context("the certificate does not serve")?;
        Ok(self.tls.get_or_init(|| TlsAcceptor::from(Arc::new(config))).clone())
    }
}

fn remember(memory: &mut HashMap<u64, u64>, key: u64, now: u64) {
    if memory.len() >= MOST_REMEMBERED {
        memory.retain(|_, first| now.saturating_sub(*first) < REMEMBERED_MICROS);
    }
    if memory.len() < MOST_REMEMBERED {
        memory.insert(key, now);
    }
}
