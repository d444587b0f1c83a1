//! What the configuration gives to every message: return path, keys, unsubscription.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use mail::address::DomainFault;
use mail::verp::{KeyTooShort, NoKey, ReturnPath, VerpKey};

use crate::config::{Config, DkimAlgorithm};
use crate::dkim::{DkimFault, DkimKeyText, DkimKeys};
use crate::prepare::SenderSettings;
use crate::regular_file;

/// The file of the generated key, in the data folder.
const KEY_FILE: &str = "return-path.key";

/// Octets of a generated key.
const KEY_OCTETS: usize = 32;

/// Why the sender's settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SetupFault {
    /// A key file cannot be read or written.
    #[error("cannot use the key file {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A DKIM key cannot be used.
    #[error("{0}")]
    Dkim(#[from] DkimFault),
    /// A DKIM key is of another kind than its section says.
    #[error("[[dkim]] {} is a key for {is}, `algorithm` says {wanted}", path.display())]
    Algorithm {
        /// The key's file.
        path: PathBuf,
        /// What it is.
        is: &'static str,
        /// What it should be.
        wanted: &'static str,
    },
    /// A key of the return path is too short.
    #[error("[return_path] {0}")]
    Key(#[from] KeyTooShort),
    /// There is no key.
    #[error("[return_path] {0}")]
    NoKey(#[from] NoKey),
    /// The return path has no usable domain.
    #[error("[return_path] domain: {0}")]
    Domain(#[from] DomainFault),
}

/// The settings of a configuration. Where it has no `[return_path]`, the domain is that of `[sender]` or the
/// first source's HELO name, and the key is generated once and kept in the data folder.
///
/// # Errors
/// Keys that cannot be read or used.
pub fn settings(config: &Config) -> Result<SenderSettings, SetupFault> {
    let (domain, keys) = match &config.return_path {
        Some(given) => {
            let keys = given.keys.iter().map(|key| VerpKey::new(key.expose().as_bytes()));
            (given.domain.clone(), keys.collect::<Result<Vec<_>, _>>()?)
        }
        None => {
            let domain = match (&config.sender.domain, config.sources.first()) {
                (Some(domain), _) => domain.clone(),
                (None, Some(source)) => source.helo.clone(),
                (None, None) => config.submission.hostname.clone(),
            };
            (domain, vec![VerpKey::new(&generated_key(&config.data_dir)?)?])
        }
    };
    let mut texts = Vec::new();
    for key in &config.dkim {
        let fault = |source| SetupFault::File { path: key.key_file.clone(), source };
        let pem = String::from_utf8(regular_file::read(&key.key_file).map_err(fault)?)
            .map_err(|_| fault(std::io::Error::other("it is not UTF-8 text")))?;
        let domain = key.domain.as_str().to_owned();
        texts.push(DkimKeyText { domain, selector: key.selector.clone(), pem });
    }
    let dkim = DkimKeys::load(&texts)?;
    for (key, stated) in dkim.iter().zip(&config.dkim) {
        let wanted = match stated.algorithm {
            DkimAlgorithm::Auto => continue,
            DkimAlgorithm::RsaSha256 => "rsa-sha256",
            DkimAlgorithm::Ed25519Sha256 => "ed25519-sha256",
        };
        if key.algorithm() != wanted {
            return Err(SetupFault::Algorithm {
                path: stated.key_file.clone(),
                is: key.algorithm(),
                wanted,
            });
        }
    }
    let limit = usize::try_from(config.limits.message_bytes).unwrap_or(usize::MAX);
    Ok(SenderSettings {
        return_path: ReturnPath::new(domain, keys)?,
        dkim,
        unsubscribe_base: config.sender.unsubscribe_base_url.clone(),
        unsubscribe_mailto: config.sender.unsubscribe_mailto.clone(),
        feedback_sender: config.sender.feedback_id_sender.clone().unwrap_or_default(),
        output_limit: limit,
    })
}

/// The key in the data folder; made at the first start, readable by its owner alone.
fn generated_key(data_dir: &Path) -> Result<Vec<u8>, SetupFault> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = data_dir.join(KEY_FILE);
    let fault = |source| SetupFault::File { path: path.clone(), source };
    match std::fs::read(&path) {
        Ok(key) => return Ok(key),
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => {}
        Err(other) => return Err(fault(other)),
    }
    let mut key = vec![0; KEY_OCTETS];
    SystemRandom::new()
        .fill(&mut key)
        .map_err(|_| fault(std::io::Error::other("the system gives no random octets")))?;
    std::fs::create_dir_all(data_dir).map_err(fault)?;
    // Written aside and renamed, so that a crash leaves either no key or a whole one.
    let aside = data_dir.join(format!("{KEY_FILE}.new"));
    let mut options = std::fs::OpenOptions::new();
    let mut file =
        options.write(true).create(true).truncate(true).mode(0o600).open(&aside).map_err(fault)?;
    file.write_all(&key).and_then(|()| file.sync_all()).map_err(fault)?;
    std::fs::rename(&aside, &path).map_err(fault)?;
    Ok(key)
}
