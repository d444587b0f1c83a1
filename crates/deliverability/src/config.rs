//! `instance.toml`: where the instance listens, what it believes, and how it rolls bundles out.
//!
//! Read whole and checked whole: either there is a [`Config`] with every default filled in, or every fault that was
//! found, each with file, line and column. A file that is no TOML, or has a value of a wrong type or an unknown key,
//! is reported at the first such place.
//!
//! What holds for every [`Config`]: no listener beyond loopback is in clear, unless the file says that a proxy stands
//! in front; there is a publisher and a public key; every token has been read, and no two are equal. Relative paths
//! count from the folder of the file.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rules::Diagnostic;
use rules::bundle::PublicKey;
use serde::Deserialize;
use toml::Spanned;
use web::{TlsFiles, TokenDigest};

use crate::rollout::Share;

/// A larger file is refused unread; so are larger files of tokens and keys.
const MOST_OCTETS: u64 = 64 << 10;
/// Characters of the shortest token.
const SHORTEST_TOKEN: usize = 16;

/// Everything that the file says, with defaults for what it does not say.
#[derive(Clone, Debug)]
pub struct Config {
    /// `listen`. Default: `127.0.0.1:2590`.
    pub listen: Vec<SocketAddr>,
    /// `[tls]`; `None`: in clear.
    pub tls: Option<TlsFiles>,
    /// `data_dir`: the database. One process at a time.
    pub data_dir: PathBuf,
    /// `public_keys`: whose bundles are taken.
    pub public_keys: Vec<PublicKey>,
    /// `[[publisher]]`.
    pub publishers: Vec<Publisher>,
    /// `[rollout]`.
    pub rollout: RolloutConfig,
    /// `[limits]`.
    pub limits: LimitsConfig,
    /// `[keep]`.
    pub keep: KeepConfig,
}

/// `[[publisher]]`: somebody who may push bundles, guide roll-outs and qualify texts.
#[derive(Clone, Debug)]
pub struct Publisher {
    /// `name`, as it stands in the audit trail.
    pub name: String,
    /// The digest of what stands in `token_file`.
    pub token: TokenDigest,
}

/// `[rollout]`
#[derive(Clone, Copy, Debug)]
pub struct RolloutConfig {
    /// `share`: percent of the clients that get a pushed bundle first. Default: 5.
    pub share: Share,
    /// `halt_after_reports`: clients that must speak against a bundle before its roll-out is halted. Default: 1.
    pub halt_after_reports: u32,
    /// `advance_after_hours`: a bundle goes to all clients after such a time without alarms. Default: never by itself.
    pub advance_after: Option<Duration>,
}

/// `[limits]`
#[derive(Clone, Copy, Debug)]
pub struct LimitsConfig {
    /// `clients`: tokens that may be given out. Default: 10,000.
    pub clients: u32,
    /// `requests_per_minute` of one client. Default: 60.
    pub requests_per_minute: u32,
    /// `head_seconds`: for the head of a request and the TLS handshake. Default: 10.
    pub head: Duration,
    /// `request_seconds`: for a body to come whole and be worked on. Default: 60.
    pub request: Duration,
}

/// `[keep]`: what is forgotten when.
#[derive(Clone, Copy, Debug)]
pub struct KeepConfig {
    /// `bundles`: the newest so many. Default: 64.
    pub bundles: u32,
    /// `fetches_days`: who fetched and reported what. Default: 90.
    pub fetches: Duration,
    /// `texts_days`: texts that no client has sent again. Default: 180.
    pub texts: Duration,
    /// `audit_days`. Default: 1,100.
    pub audit: Duration,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFault {
    /// The file cannot be read.
    #[error("{0}")]
    Unreadable(String),
    /// Faults in it, by their places. Not empty.
    #[error("{}", rendered(.0))]
    Faulty(Vec<Diagnostic>),
}

fn rendered(faults: &[Diagnostic]) -> String {
    let pictures: Vec<String> = faults.iter().map(Diagnostic::render).collect();
    pictures.join("\n\n")
}

/// The file as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    listen: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    behind_proxy: bool,
    data_dir: PathBuf,
    public_keys: Spanned<Vec<Spanned<String>>>,
    tls: Option<WrittenTls>,
    #[serde(default)]
    publisher: Vec<Spanned<WrittenPublisher>>,
    #[serde(default)]
    rollout: WrittenRollout,
    #[serde(default)]
    limits: WrittenLimits,
    #[serde(default)]
    keep: WrittenKeep,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTls {
    certificate: Spanned<PathBuf>,
    key: Spanned<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenPublisher {
    name: Spanned<String>,
    token_file: Spanned<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRollout {
    share: Option<Spanned<u64>>,
    halt_after_reports: Option<Spanned<u64>>,
    advance_after_hours: Option<Spanned<u64>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenLimits {
    clients: Option<Spanned<u64>>,
    requests_per_minute: Option<Spanned<u64>>,
    head_seconds: Option<Spanned<u64>>,
    request_seconds: Option<Spanned<u64>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenKeep {
    bundles: Option<Spanned<u64>>,
    fetches_days: Option<Spanned<u64>>,
    texts_days: Option<Spanned<u64>>,
    audit_days: Option<Spanned<u64>>,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or has faults.
    pub fn load(path: &Path) -> Result<Self, ConfigFault> {
        let text = read_text(path).map_err(ConfigFault::Unreadable)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Self::parse(&path.display().to_string(), &text, folder)
    }

    /// Reads a text; `file` is its name in faults, and relative paths count from `folder`.
    ///
    /// # Errors
    /// It has faults.
    pub fn parse(file: &str, text: &str, folder: &Path) -> Result<Self, ConfigFault> {
        let written: Written = toml::from_str(text).map_err(|fault| {
            let at = fault.span().unwrap_or(0..0);
            let fault = Diagnostic::in_text(file, text, at, fault.message(), "");
            ConfigFault::Faulty(vec![fault])
        })?;
        let mut reading = Reading { file, text, folder, faults: Vec::new() };
        let config = reading.config(written);
        match reading.faults.is_empty() {
            true => Ok(config),
            false => {
                reading.faults.sort_by_key(|fault| (fault.line, fault.column));
                Err(ConfigFault::Faulty(reading.faults))
            }
        }
    }
}

/// The work of reading.
struct Reading<'a> {
    file: &'a str,
    text: &'a str,
    folder: &'a Path,
    faults: Vec<Diagnostic>,
}

impl Reading<'_> {
    fn fault(&mut self, at: Range<usize>, message: impl Into<String>, help: &str) {
        self.faults.push(Diagnostic::in_text(self.file, self.text, at, message, help));
    }

    fn config(&mut self, written: Written) -> Config {
        let tls = written.tls.map(|tls| TlsFiles {
            certificate: self.existing(&tls.certificate),
            key: self.existing(&tls.key),
        });
        let clear = tls.is_none() && !written.behind_proxy;
        let listen = self.listen(written.listen, clear);
        let public_keys = self.public_keys(&written.public_keys);
        let publishers = self.publishers(&written.publisher);
        let rollout = RolloutConfig {
            share: Share::new(self.small(written.rollout.share, "share", 5, 1, 100))
                .unwrap_or(Share::ALL),
            halt_after_reports: self.small(
                written.rollout.halt_after_reports,
                "halt_after_reports",
                1,
                1,
                10_000,
            ),
            advance_after: written.rollout.advance_after_hours.map(|hours| {
                hours_of(self.small(Some(hours), "advance_after_hours", 24, 1, 8_760))
            }),
        };
        let WrittenLimits { clients, requests_per_minute, head_seconds, request_seconds } =
            written.limits;
        let limits = LimitsConfig {
            clients: self.small(clients, "clients", 10_000, 1, 10_000),
            requests_per_minute: self.small(
                requests_per_minute,
                "requests_per_minute",
                60,
                1,
                10_000,
            ),
            head: seconds(self.small(head_seconds, "head_seconds", 10, 1, 120)),
            request: seconds(self.small(request_seconds, "request_seconds", 60, 1, 600)),
        };
        let WrittenKeep { bundles, fetches_days, texts_days, audit_days } = written.keep;
        let keep = KeepConfig {
            bundles: self.small(bundles, "bundles", 64, 2, 1_000),
            fetches: days(self.small(fetches_days, "fetches_days", 90, 1, 3_660)),
            texts: days(self.small(texts_days, "texts_days", 180, 1, 3_660)),
            audit: days(self.small(audit_days, "audit_days", 1_100, 1, 3_660)),
        };
        let data_dir = self.folder.join(written.data_dir);
        Config { listen, tls, data_dir, public_keys, publishers, rollout, limits, keep }
    }

    /// A number within its bounds; all of them are small.
    fn small<T: TryFrom<u64> + Default>(
        &mut self,
        found: Option<Spanned<u64>>,
        key: &str,
        default: u64,
        least: u64,
        most: u64,
    ) -> T {
        let value = match found {
            None => default,
            Some(found) if (least..=most).contains(found.get_ref()) => *found.get_ref(),
            Some(found) => {
                self.fault(found.span(), format!("`{key}` must be {least} to {most}"), "");
                default
            }
        };
        // The largest bound of a number fits its type.
        T::try_from(value).unwrap_or_default()
    }

    fn listen(&mut self, found: Option<Vec<Spanned<String>>>, clear: bool) -> Vec<SocketAddr> {
        let Some(found) = found else { return vec![SocketAddr::from(([127, 0, 0, 1], 2590))] };
        let mut addresses = Vec::with_capacity(found.len());
        for text in found {
            let Ok(address) = text.get_ref().parse::<SocketAddr>() else {
                let shown = text.get_ref().escape_debug();
                let message =
                    format!("\"{shown}\" is no listener such as \"0.0.0.0:443\" or \"[::1]:2590\"");
                self.fault(text.span(), message, "");
                continue;
            };
            if clear && !address.ip().to_canonical().is_loopback() {
                self.fault(
                    text.span(),
                    format!("{address} is reachable from beyond this machine, and without TLS tokens would travel in clear"),
                    "state `certificate` and `key` in [tls], or `behind_proxy = true` where a proxy speaks TLS",
                );
            }
            addresses.push(address);
        }
        addresses
    }

    fn public_keys(&mut self, found: &Spanned<Vec<Spanned<String>>>) -> Vec<PublicKey> {
        let mut keys = Vec::new();
        for text in found.get_ref() {
            let read = text.get_ref().parse::<PublicKey>().or_else(|_| {
                let path = self.folder.join(text.get_ref());
                let digits = read_text(&path)?;
                let fault = |_| format!("{} holds no public key", path.display());
                digits.trim_end().parse::<PublicKey>().map_err(fault)
            });
            match read {
                Ok(key) => keys.push(key),
                Err(why) => self.fault(
                    text.span(),
                    why,
                    "state the 64 digits, or the file with the ending .pub that keygen wrote",
                ),
            }
        }
        if found.get_ref().is_empty() {
            let help =
                "without a key no bundle is believed; `mailweir deliverability keygen` makes one";
            self.fault(found.span(), "`public_keys` is empty", help);
        }
        keys
    }

    fn publishers(&mut self, found: &[Spanned<WrittenPublisher>]) -> Vec<Publisher> {
        if found.is_empty() {
            let help = "add [[publisher]] with `name` and `token_file`";
            self.fault(0..0, "there is no publisher, so nobody could push a bundle", help);
        }
        let (mut names, mut publishers) = (BTreeSet::new(), Vec::<Publisher>::new());
        for written in found.iter().map(Spanned::get_ref) {
            let name = written.name.get_ref();
            if !is_name(name) {
                self.fault(written.name.span(), NAME_HELP, "");
            }
            if !names.insert(name.clone()) {
                self.fault(written.name.span(), "another publisher has the same name", "");
            }
            let path = self.folder.join(written.token_file.get_ref());
            let token = match read_text(&path) {
                Ok(text) => text,
                Err(why) => {
                    let help = "`mailweir deliverability token FILE` makes one";
                    self.fault(written.token_file.span(), why, help);
                    continue;
                }
            };
            let token = token.trim_end_matches(['\r', '\n']);
            if token.len() < SHORTEST_TOKEN {
                let message = format!("a token needs at least {SHORTEST_TOKEN} characters");
                self.fault(written.token_file.span(), message, "");
            }
            let token = TokenDigest::of(token.as_bytes());
            if publishers.iter().any(|other| other.token == token) {
                self.fault(written.token_file.span(), "another publisher has the same token", "");
            }
            publishers.push(Publisher { name: name.clone(), token });
        }
        publishers
    }

    /// A path of a file that is there.
    fn existing(&mut self, found: &Spanned<PathBuf>) -> PathBuf {
        let path = self.folder.join(found.get_ref());
        if let Err(why) = std::fs::File::open(&path) {
            self.fault(found.span(), format!("cannot read {}: {why}", path.display()), "");
        }
        path
    }
}

/// What a name of a client or publisher is.
pub(crate) const NAME_HELP: &str =
    "a name is 1 to 64 letters, digits, `-`, `_` and `.`, and begins with a letter or digit";

/// Whether a client or publisher can be called so.
pub(crate) fn is_name(name: &str) -> bool {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    // `.` and `..` would be taken for folders in an address of the API.
    name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.len() <= 64
        && name.chars().all(is_part)
}

const fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

const fn hours_of(number: u64) -> Duration {
    Duration::from_secs(number * 3_600)
}

const fn days(number: u64) -> Duration {
    Duration::from_secs(number * 86_400)
}

/// A small text from a regular file.
fn read_text(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let unreadable = |fault: std::io::Error| format!("cannot read {shown}: {fault}");
    // A FIFO would block for ever, a device might never end.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(format!("{shown} is no regular file"));
    }
    let mut octets = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MOST_OCTETS + 1).read_to_end(&mut octets).map_err(unreadable)?;
    if octets.len() as u64 > MOST_OCTETS {
        return Err(format!("{shown} is longer than {MOST_OCTETS} octets"));
    }
    String::from_utf8(octets).map_err(|_| format!("{shown} is not UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

    /// A folder with a token, and what reading `text` in it says: places and messages.
    fn read(text: &str) -> Result<Config, Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "0123456789abcdef\n").unwrap();
        std::fs::write(folder.path().join("short"), "0123\n").unwrap();
        Config::parse("instance.toml", text, folder.path()).map_err(|fault| match fault {
            ConfigFault::Unreadable(why) => vec![why],
            ConfigFault::Faulty(faults) => faults.iter().map(ToString::to_string).collect(),
        })
    }

    fn complete(rest: &str) -> String {
        format!(
            "data_dir = \"data\"\npublic_keys = [\"{KEY}\"]\n{rest}\n\
             [[publisher]]\nname = \"anna\"\ntoken_file = \"token\"\n"
        )
    }

    #[test]
    fn defaults() {
        let config = read(&complete("")).unwrap();
        assert_eq!(config.listen, ["127.0.0.1:2590".parse().unwrap()]);
        assert!(config.tls.is_none() && config.data_dir.ends_with("data"));
        assert_eq!(config.publishers[0].token, TokenDigest::of(b"0123456789abcdef"));
        assert_eq!(config.rollout.share.percent(), 5);
        assert_eq!((config.rollout.halt_after_reports, config.rollout.advance_after), (1, None));
        assert_eq!(config.limits.requests_per_minute, 60);
    }

    #[test]
    fn faults_have_places() {
        for (text, wanted) in [
            (
                complete("listen = [\"0.0.0.0:2590\"]"),
                "instance.toml:3:11: 0.0.0.0:2590 is reachable",
            ),
            (complete("listen = [\"here\"]"), "instance.toml:3:11: \"here\" is no listener"),
            (complete("[rollout]\nshare = 0"), "instance.toml:4:9: `share` must be 1 to 100"),
            (complete("[rollout]\nshares = 5"), "instance.toml:4:1: unknown field `shares`"),
            (complete("[rollout]\nshare = \"5\""), "instance.toml:4:9: invalid type"),
            (
                complete("[tls]\ncertificate = \"none\"\nkey = \"none\""),
                "instance.toml:4:15: cannot read",
            ),
            (
                complete("[[publisher]]\nname = \"berta\"\ntoken_file = \"token\""),
                "another publisher has the same token",
            ),
            (
                complete("[[publisher]]\nname = \"be rta\"\ntoken_file = \"short\""),
                "instance.toml:4:8: a name is",
            ),
            (
                complete("[[publisher]]\nname = \"berta\"\ntoken_file = \"short\""),
                "instance.toml:5:14: a token needs",
            ),
            (
                format!("data_dir = \"d\"\npublic_keys = [\"{KEY}\"]\n"),
                "instance.toml:1:1: there is no publisher",
            ),
            (complete("").replace(KEY, "absent.pub"), "instance.toml:2:16: cannot read"),
            ("data_dir = ".to_owned(), "instance.toml:1:12:"),
        ] {
            let faults = read(&text).unwrap_err();
            assert!(faults.iter().any(|fault| fault.contains(wanted)), "{wanted}: {faults:?}");
        }
    }

    #[test]
    fn in_clear_beyond_loopback_only_behind_a_proxy() {
        let config = read(&complete("listen = [\"0.0.0.0:2590\"]\nbehind_proxy = true")).unwrap();
        assert_eq!(config.listen, ["0.0.0.0:2590".parse().unwrap()]);
        assert!(read(&complete("listen = [\"[::1]:2590\"]")).is_ok());
    }
}
