//! `[inmail]` and `[[mailbox]]`: how bounces, complaints and answers come back to us.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mail::address::{Domain, Mailbox};
use smtp::mailbox::Protection;

use super::read::{Found, Section};
use super::sections::{read_existing_file, read_tls};
use super::{ReturnPathConfig, Secret, SenderConfig, TlsFiles};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

/// Where an LMTP listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LmtpAddress {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
}

/// `[inmail]`
#[derive(Clone, Debug)]
pub struct InmailConfig {
    /// Where mail is kept until it is processed: `inmail` in `data_dir`.
    pub folder: PathBuf,
    /// SMTP listeners. Default: none.
    pub listen: Vec<SocketAddr>,
    /// LMTP listeners. Default: none.
    pub lmtp: Vec<LmtpAddress>,
    /// What the listeners call themselves. Default: that of the submission listener.
    pub hostname: Domain,
    /// Mail is taken for these domains and no others. Default: `return_path.domain`, and the domain
    /// of `sender.unsubscribe_mailto`.
    pub domains: Vec<Domain>,
    /// Largest mail, from wherever. Default: 25 MiB.
    pub max_message_bytes: u64,
    /// Connections at one time. Default: 200.
    pub max_connections: u32,
    /// Connections at one time from one IPv4 address or one IPv6 /64. Default: 20.
    pub max_connections_per_peer: u32,
    /// For STARTTLS. Both exist.
    pub tls: Option<TlsFiles>,
    /// Files `*.eml` are picked up from here. Default: `spool` in `folder`.
    pub spool: PathBuf,
    /// How often the spool folder is looked at. Default: 5 s.
    pub spool_period: Duration,
    /// Mails waiting to be processed beyond which no more are taken. Default: 100,000.
    pub backlog_files: usize,
    /// Mails kept aside at most; the oldest go. Default: 10,000.
    pub aside_files: usize,
    /// Octets kept aside at most; the oldest go. Default: 1 GiB.
    pub aside_bytes: u64,
    /// Mails processed at one time. Default: 4.
    pub workers: usize,
    /// Whom mail is sent to that could not be read. Default: nobody.
    pub forward_to: Option<Mailbox>,
    /// A folder for copies of everything that comes. Default: none.
    pub dump: Option<PathBuf>,
    /// Copies in it at most; the oldest go. Default: 10,000.
    pub dump_files: usize,
    /// `[[mailbox]]`, in the order of the file, enabled ones only.
    pub mailboxes: Vec<MailboxConfig>,
}

/// The protocol of a mailbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MailboxProtocol {
    /// POP3.
    #[default]
    Pop3,
    /// IMAP.
    Imap,
}

/// `[[mailbox]]`: an account that is polled.
#[derive(Clone, Debug)]
pub struct MailboxConfig {
    /// Its name in logs and metrics; unique.
    pub name: String,
    /// Default: POP3.
    pub protocol: MailboxProtocol,
    /// Host name or address of the server.
    pub server: String,
    /// Default: 995, 110, 993 or 143, by protocol and protection.
    pub port: u16,
    /// Default: TLS from the first octet.
    pub protection: Protection,
    /// The account.
    pub user: String,
    /// Its password.
    pub password: Secret,
    /// IMAP: the mailbox to read, as written on the wire. Default: `INBOX`.
    pub folder: String,
    /// Pause between two sessions. Default: 5 min.
    pub period: Duration,
    /// Messages of one session. Default: 200.
    pub session_messages: u32,
    /// No further message is begun after so long. Default: 100 s.
    pub session_time: Duration,
    /// How long a reply may take. Default: 5 min.
    pub timeout: Duration,
    /// POP3: fetch a message whole even when the server announces it as too large. Default: false.
    pub ignore_size: bool,
    /// Whether the certificate must be valid and name the server. Default: true.
    pub tls_verify: bool,
    /// Certificates (PEM) that are trusted in place of the system's.
    pub tls_roots: Option<PathBuf>,
}

/// What `[inmail]` takes from other sections.
pub(super) struct Surroundings<'a> {
    pub(super) folder: &'a Path,
    pub(super) data_dir: &'a Path,
    pub(super) hostname: &'a Domain,
    pub(super) return_path: Option<&'a ReturnPathConfig>,
    pub(super) sender: &'a SenderConfig,
}

/// Reads `[inmail]` and `[[mailbox]]`.
pub(super) fn read_inmail(
    section: Section<'_>,
    mailboxes: Vec<Section<'_>>,
    around: &Surroundings<'_>,
) -> InmailConfig {
    let inmail = around.data_dir.join("inmail");
    let place = |key| section.text(key).map(|path| around.folder.join(path.value));
    let listen = section.parsed_list("listen", |text| {
        text.parse::<SocketAddr>()
            .map_err(|_| format!("{text:?} is no listener such as \"0.0.0.0:25\" or \"[::]:25\""))
    });
    let lmtp = section.parsed_list("lmtp", |text| read_lmtp(text, around.folder));
    let listen = listen.unwrap_or_default();
    let lmtp = lmtp.unwrap_or_default();
    let stated = section.parsed_list("domains", Domain::parse);
    let domains = match stated {
        Some(domains) => domains.into_iter().map(|found| found.value).collect(),
        None => own_domains(around),
    };
    if domains.is_empty()
        && let Some(at) = first_place(&listen, &lmtp)
    {
        section.faults().add_with_help(
            &at,
            "there is no domain to take mail for",
            "state `domains` in [inmail], or [return_path]",
        );
    }
    let config = InmailConfig {
        listen: listen.into_iter().map(|found| found.value).collect(),
        lmtp: lmtp.into_iter().map(|found| found.value).collect(),
        hostname: section
            .parsed("hostname", Domain::parse)
            .map_or_else(|| around.hostname.clone(), |found| found.value),
        domains,
        max_message_bytes: section.number_or("max_message_bytes", 65_536..=(100 << 20), 25 * MIB),
        max_connections: section.number_or("max_connections", 1..=60_000, 200),
        max_connections_per_peer: section.number_or("max_connections_per_peer", 1..=60_000, 20),
        tls: read_tls(&section, around.folder),
        spool: place("spool").unwrap_or_else(|| inmail.join("spool")),
        spool_period: section.duration_or(
            "spool_period",
            Duration::from_millis(100)..=60 * MINUTE,
            5 * SECOND,
        ),
        backlog_files: section.number_or("backlog_files", 1..=10_000_000, 100_000),
        aside_files: section.number_or("aside_files", 1..=10_000_000, 10_000),
        aside_bytes: section.number_or("aside_bytes", MIB..=u64::MAX, 1_024 * MIB),
        workers: section.number_or("workers", 1..=256, 4),
        forward_to: section.parsed("forward_to", Mailbox::parse).map(|found| found.value),
        dump: place("dump"),
        dump_files: section.number_or("dump_files", 1..=10_000_000, 10_000),
        mailboxes: read_mailboxes(mailboxes, around.folder),
        folder: inmail,
    };
    section.finish();
    config
}

/// The domains that our own mail names as places to answer to.
fn own_domains(around: &Surroundings<'_>) -> Vec<Domain> {
    let mut domains: Vec<Domain> =
        around.return_path.iter().map(|path| path.domain.clone()).collect();
    let mailto = around.sender.unsubscribe_mailto.as_deref().map(Mailbox::parse);
    if let Some(Ok(mailbox)) = mailto
        && let Ok(domain) = Domain::parse(mailbox.domain())
        && !domains.contains(&domain)
    {
        domains.push(domain);
    }
    domains
}

fn first_place(listen: &[Found<SocketAddr>], lmtp: &[Found<LmtpAddress>]) -> Option<Range<usize>> {
    let first = listen.first().map(|found| found.at.clone());
    first.or_else(|| lmtp.first().map(|found| found.at.clone()))
}

/// `127.0.0.1:24` or `unix:/run/mailweir/lmtp.sock`.
fn read_lmtp(text: &str, folder: &Path) -> Result<LmtpAddress, String> {
    match text.strip_prefix("unix:") {
        Some("") => Err("`unix:` needs a path".into()),
        Some(path) => Ok(LmtpAddress::Unix(folder.join(path))),
        None => text.parse().map(LmtpAddress::Tcp).map_err(|_| {
            format!("{text:?} is no listener such as \"127.0.0.1:24\" or \"unix:lmtp.sock\"")
        }),
    }
}

fn read_mailboxes(sections: Vec<Section<'_>>, folder: &Path) -> Vec<MailboxConfig> {
    let mut mailboxes: Vec<MailboxConfig> = Vec::new();
    let mut names: Vec<String> = Vec::new();
    for section in sections {
        let name = section.required_text("name");
        let enabled = section.flag_or("enabled", true);
        let mailbox = read_mailbox(&section, folder);
        if let Some(name) = name {
            if name.value.is_empty() || name.value.len() > 63 {
                section.faults().add(&name.at, "the name of a mailbox has 1 to 63 characters");
            }
            if names.contains(&name.value) {
                let message = format!("there is already a mailbox {:?}", name.value);
                section.faults().add(&name.at, message);
            }
            names.push(name.value.clone());
            mailboxes.extend(
                mailbox
                    .filter(|_| enabled)
                    .map(|mailbox| MailboxConfig { name: name.value, ..mailbox }),
            );
        }
        section.finish();
    }
    mailboxes
}

/// A mailbox without its name; `None` when something without which it is none is missing.
fn read_mailbox(section: &Section<'_>, folder: &Path) -> Option<MailboxConfig> {
    let protocols = [("pop3", MailboxProtocol::Pop3), ("imap", MailboxProtocol::Imap)];
    let protections =
        [("tls", Protection::Tls), ("starttls", Protection::StartTls), ("none", Protection::Clear)];
    for key in ["server", "user", "password"] {
        section.require(key);
    }
    let protocol = section.choice("protocol", &protocols, MailboxProtocol::Pop3);
    let protection = section.choice("encryption", &protections, Protection::Tls);
    let usual = match (protocol, protection) {
        (MailboxProtocol::Pop3, Protection::Tls) => 995,
        (MailboxProtocol::Pop3, _) => 110,
        (MailboxProtocol::Imap, Protection::Tls) => 993,
        (MailboxProtocol::Imap, _) => 143,
    };
    let server = section.parsed("server", |text| {
        if text.parse::<std::net::IpAddr>().is_ok() {
            return Ok(text.to_owned());
        }
        Domain::parse(text).map(|name| name.as_str().to_owned())
    });
    let sayable = |text: &str| {
        let fits = !text.is_empty() && text.len() <= 255 && !text.chars().any(char::is_control);
        if fits { Ok(text.to_owned()) } else { Err("1 to 255 octets without controls") }
    };
    let user = section.parsed("user", sayable);
    let password = section.secret("password");
    let mailbox_folder = section.parsed("folder", |text| {
        let fits = !text.is_empty()
            && text.len() <= 255
            && text.bytes().all(|b| (b' '..=b'~').contains(&b));
        if fits { Ok(text.to_owned()) } else { Err("1 to 255 printable ASCII characters") }
    });
    let minute = SECOND..=24 * 60 * MINUTE;
    let period = section.duration_or("period", minute.clone(), 5 * MINUTE);
    let port = section.number_or("port", 1..=u16::MAX, usual);
    let session_messages = section.number_or("session_messages", 1..=100_000, 200);
    let session_time = section.duration_or("session_time", minute, 100 * SECOND);
    let timeout = section.duration_or("timeout", SECOND..=60 * MINUTE, 5 * MINUTE);
    let ignore_size = section.flag_or("ignore_size", false);
    let tls_verify = section.flag_or("tls_verify", true);
    let tls_roots = read_existing_file(section, "tls_roots", folder);
    Some(MailboxConfig {
        name: String::new(),
        protocol,
        server: server?.value,
        port,
        protection,
        user: user?.value,
        password: password?.value,
        folder: mailbox_folder.map_or_else(|| "INBOX".to_owned(), |found| found.value),
        period,
        session_messages,
        session_time,
        timeout,
        ignore_size,
        tls_verify,
        tls_roots,
    })
}
