//! A real Postfix as receiving peer: STARTTLS, PIPELINING, connections that are used again.
//!
//! Its own instance, with its own configuration, queue and data in a folder of the test, on loopback alone. It is
//! skipped with a notice where Postfix is not installed or the test does not run as root.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use lab::Mood;

use super::*;

/// Who owns the mail: `nobody` on every Linux.
const NOBODY: u32 = 65_534;

/// A running Postfix.
struct Postfix {
    master: Child,
    folder: TempDir,
    port: u16,
}

/// The folder of Postfix' programs; `None`, with the reason printed: it cannot be run here.
fn programs() -> Option<PathBuf> {
    let output = Command::new("id").arg("-u").output().ok()?;
    if output.stdout.trim_ascii() != b"0" {
        println!("skipped: Postfix can be started by root only");
        return None;
    }
    let Ok(output) = Command::new("postconf").args(["-d", "-h", "daemon_directory"]).output()
    else {
        println!("skipped: Postfix is not installed");
        return None;
    };
    let text = String::from_utf8(output.stdout).ok()?;
    let folder = PathBuf::from(text.trim());
    if !folder.join("master").is_file() {
        println!("skipped: Postfix has no master in {}", folder.display());
        return None;
    }
    Some(folder)
}

/// The services that receiving and storing mail needs. None runs in a changed root.
fn services(address: &str, port: u16) -> String {
    format!(
        "{address}:{port} inet n - n - - smtpd\n\
         cleanup unix n - n - 0 cleanup\n\
         qmgr unix n - n 300 1 qmgr\n\
         tlsmgr unix - - n 1000? 1 tlsmgr\n\
         rewrite unix - - n - - trivial-rewrite\n\
         bounce unix - - n - 0 bounce\n\
         defer unix - - n - 0 bounce\n\
         trace unix - - n - 0 bounce\n\
         flush unix n - n 1000? 0 flush\n\
         proxymap unix - - n - - proxymap\n\
         error unix - - n - - error\n\
         retry unix - - n - - error\n\
         virtual unix - n n - - virtual\n\
         anvil unix - - n - 1 anvil\n\
         postlog unix-dgram n - n - 1 postlogd\n"
    )
}

/// The folders of its queue.
const QUEUES: [&str; 11] = [
    "active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private",
    "saved", "trace",
];

/// The number of a user (`passwd`) or of a group (`group`).
fn number_of(database: &str, name: &str) -> u32 {
    let output = Command::new("getent").args([database, name]).output().unwrap().stdout;
    let text = String::from_utf8(output).unwrap();
    text.trim().split(':').nth(2).unwrap().parse().unwrap()
}

impl Postfix {
    fn start(programs: &Path, address: &str) -> Self {
        // Postfix writes no log to a folder whose name begins with a dot.
        let folder = TempDir::with_prefix("mailweir-postfix-").unwrap();
        let place = |name: &str| folder.path().join(name);
        let port = std::net::TcpListener::bind((address, 0)).unwrap().local_addr().unwrap().port();
        for name in ["etc", "queue", "data", "mail"] {
            std::fs::create_dir(place(name)).unwrap();
        }
        // Its programs run as users of their own and must come through.
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        chown(place("mail"), Some(NOBODY), Some(NOBODY)).unwrap();
        let owner = Some(number_of("passwd", "postfix"));
        chown(place("data"), owner, None).unwrap();
        let own_folder = |name: &str, group: Option<u32>, mode: u32| {
            let path = place("queue").join(name);
            std::fs::create_dir(&path).unwrap();
            chown(&path, owner, group).unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        };
        for name in QUEUES {
            own_folder(name, None, 0o700);
        }
        let group = Some(number_of("group", "postdrop"));
        own_folder("public", group, 0o710);
        own_folder("maildrop", group, 0o730);
        std::fs::create_dir(place("queue/pid")).unwrap();
        let names = vec!["mx.one.example".to_string()];
        let certified = rcgen::generate_simple_self_signed(names).unwrap();
        std::fs::write(place("etc/cert.pem"), certified.cert.pem()).unwrap();
        std::fs::write(place("etc/key.pem"), certified.signing_key.serialize_pem()).unwrap();
        let root = folder.path().display();
        let main = format!(
            "compatibility_level = 3.6\n\
             command_directory = /usr/sbin\n\
             daemon_directory = {programs}\n\
             queue_directory = {root}/queue\n\
             data_directory = {root}/data\n\
             maillog_file = {root}/mail.log\n\
             maillog_file_prefixes = {root}\n\
             inet_interfaces = 127.0.0.1\n\
             inet_protocols = ipv4\n\
             myhostname = mx.one.example\n\
             mydestination =\n\
             mynetworks =\n\
             alias_maps =\n\
             alias_database =\n\
             local_recipient_maps =\n\
             virtual_mailbox_domains = one.example\n\
             virtual_mailbox_maps = static:inbox/\n\
             virtual_mailbox_base = {root}/mail\n\
             virtual_uid_maps = static:{NOBODY}\n\
             virtual_gid_maps = static:{NOBODY}\n\
             smtpd_relay_restrictions = reject_unauth_destination\n\
             smtpd_peername_lookup = no\n\
             smtpd_tls_security_level = may\n\
             smtpd_tls_loglevel = 1\n\
             smtpd_tls_cert_file = {root}/etc/cert.pem\n\
             smtpd_tls_key_file = {root}/etc/key.pem\n\
             notify_classes =\n",
            programs = programs.display(),
        );
        std::fs::write(place("etc/main.cf"), main).unwrap();
        std::fs::write(place("etc/master.cf"), services(address, port)).unwrap();
        let log = std::fs::File::create(place("start.log")).unwrap();
        let master = Command::new(programs.join("master"))
            .arg("-c")
            .arg(place("etc"))
            .arg("-s")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            // It begins a session of its own, which it ends with itself.
            .spawn()
            .unwrap();
        Self { master, folder, port }
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }

    /// The files of the inbox.
    fn mail(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder.path().join("mail/inbox/new"));
        entries.map_or_else(
            |_| Vec::new(),
            |entries| entries.map(|entry| entry.unwrap().path()).collect(),
        )
    }

    async fn answers(&self, address: &str) {
        eventually("Postfix", async || {
            let stream = tokio::net::TcpStream::connect((address, self.port)).await.ok()?;
            let mut octets = [0; 3];
            let mut stream = stream;
            tokio::io::AsyncReadExt::read_exact(&mut stream, &mut octets).await.ok()?;
            (octets == *b"220").then_some(())
        })
        .await;
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        // It was started in the foreground, so this is its own process number.
        let number = self.master.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &number]).status();
        if !asked.is_ok_and(|status| status.success()) {
            eprintln!("Postfix {number} could not be asked to end");
        }
        let _ = self.master.wait();
        if std::thread::panicking() {
            eprintln!("{}\n{}", self.text("start.log"), self.text("mail.log"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_postfix_takes_everything_once() {
    const ADDRESS: &str = "127.9.80.1";
    let Some(programs) = programs() else { return };
    let postfix = Postfix::start(&programs, ADDRESS);
    postfix.answers(ADDRESS).await;
    // The lab has the DNS; mail goes to its MX host's address, but to the port of Postfix.
    let figures = OPEN
        .replace("max_connections = 10", "max_connections = 2\ntls = \"required\"")
        .replace("connection = 1000", "connection = 50");
    let mut world = World::one(80, Mood::default()).rules(&figures);
    world.port = postfix.port;
    let node = world.start();
    let intake = node.intake();
    let id = delivery(&intake, recipients(&["one.example"], 200)).await;
    let counters = settled(&intake, id).await;
    assert_eq!(counters.sent, 200, "{counters:?} {}", postfix.text("mail.log"));
    let ended = world.end(node).await;
    assert_eq!(ended.report.totals.connections, 0);
    assert_eq!(ended.log.len(), 200);
    assert!(ended.log.iter().all(|line| line.reply.as_ref().unwrap().contains("queued as")));

    eventually("200 files", async || (postfix.mail().len() >= 200).then_some(())).await;
    let log = eventually("the end of all connections", async || {
        let log = postfix.text("mail.log");
        let ends = log.matches("disconnect from unknown[127.10.").count();
        (ends > 0 && ends == log.matches(": connect from unknown[127.10.").count()).then_some(log)
    })
    .await;
    assert_eq!(log.matches("status=sent").count(), 200, "{log}");
    let mut to = BTreeSet::new();
    for file in postfix.mail() {
        let text = std::fs::read_to_string(file).unwrap();
        let line = text.lines().find(|line| line.starts_with("Delivered-To: ")).unwrap();
        assert!(to.insert(line.to_string()), "{line} came twice");
        assert!(text.contains(" with ESMTPS id ") && text.contains("Dear P"), "{text}");
    }
    assert_eq!(to.len(), 200);
    let connections = log.matches(": connect from unknown[127.10.").count();
    assert_eq!(log.matches("TLS connection established from").count(), connections, "{log}");
    assert!((4..=20).contains(&connections), "{connections} connections\n{log}");
    // Commands ahead of their time would be "improper command pipelining" in its log.
    assert!(
        !log.contains("improper")
            && log
                .lines()
                .all(|line| !line.contains("lost connection") || line.contains("[127.0.0.1]")),
        "{log}"
    );
}
