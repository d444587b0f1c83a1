//! Postfix: STARTTLS, PIPELINING, CHUNKING, SIZE, 8BITMIME, SMTPUTF8; connections that are used again.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use lab::Mood;

use super::*;

/// The folder of Postfix' programs; `None`, with the reason printed: it cannot be run here.
fn programs() -> Option<PathBuf> {
    if !is_root("Postfix") {
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

/// The services that receiving, storing and relaying mail needs. None runs in a changed root.
fn services(address: SocketAddr) -> String {
    format!(
        "{address} inet n - n - - smtpd\n\
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
         smtp unix - - n - - smtp\n\
         scache unix - - n - 1 scache\n\
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

/// Its folders and their owners, in a folder.
fn make_folders(folder: &Path) {
    let place = |name: &str| folder.join(name);
    for name in ["queue", "data"] {
        std::fs::create_dir(place(name)).unwrap();
    }
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
}

/// Starts one that stores mail to `one.example` and passes everything else on.
fn start(address: SocketAddr, next: &Next) -> Option<Peer> {
    let programs = programs()?;
    let folder = folder_for("postfix");
    make_folders(folder.path());
    let root = folder.path().display();
    let tls = if next.submission { "encrypt" } else { "none" };
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
         mynetworks = 127.0.0.0/8\n\
         local_header_rewrite_clients =\n\
         alias_maps =\n\
         alias_database =\n\
         local_recipient_maps =\n\
         virtual_mailbox_domains = one.example, xn--bcher-kva.one.example\n\
         virtual_mailbox_maps = static:inbox/\n\
         virtual_mailbox_base = {root}/mail\n\
         virtual_uid_maps = static:{NOBODY}\n\
         virtual_gid_maps = static:{NOBODY}\n\
         relayhost = [{next_address}]:{next_port}\n\
         smtp_tls_security_level = {tls}\n\
         smtp_tls_loglevel = 1\n\
         smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination\n\
         smtpd_peername_lookup = no\n\
         smtpd_tls_security_level = may\n\
         smtpd_tls_loglevel = 1\n\
         smtpd_tls_cert_file = {root}/etc/cert.pem\n\
         smtpd_tls_key_file = {root}/etc/key.pem\n\
         notify_classes =\n",
        programs = programs.display(),
        next_address = next.address.ip(),
        next_port = next.address.port(),
    );
    std::fs::write(folder.path().join("etc/main.cf"), main).unwrap();
    std::fs::write(folder.path().join("etc/master.cf"), services(address)).unwrap();
    let mut command = Command::new(programs.join("master"));
    // In the foreground. It begins a session of its own, which it ends with itself.
    command.arg("-c").arg(folder.path().join("etc")).arg("-s");
    Some(Peer::run("Postfix", command, folder, address, "mail/inbox/new", &["mail.log"]))
}

/// How many of these commands it has taken and heard, by what it says at the end of each conversation:
/// `bdat=3`, or `bdat=2/3` where one was refused.
fn told(log: &str, verb: &str) -> [usize; 2] {
    let start = format!("{verb}=");
    let ends = log.lines().filter(|line| line.contains("disconnect from "));
    let counts = ends.flat_map(|line| line.split(' ')).filter_map(|word| word.strip_prefix(&start));
    counts.fold([0, 0], |[taken, heard], count| {
        let (first, last) = count.split_once('/').unwrap_or((count, count));
        [taken + first.parse::<usize>().unwrap(), heard + last.parse::<usize>().unwrap()]
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_postfix_takes_everything_once() {
    let address = free_port([127, 9, 80, 1]);
    let Some(postfix) = start(address, &Next { address, submission: false }) else { return };
    postfix.answers().await;
    // The lab has the DNS; mail goes to its MX host's address, but to the port of Postfix.
    let figures = OPEN
        .replace("max_connections = 10", "max_connections = 2\ntls = \"required\"")
        .replace("connection = 1000", "connection = 50");
    let mut world = World::one(80, Mood::default()).rules(&figures);
    world.port = address.port();
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
    // The first message of each connection in one group, those behind it with the end of the one before.
    // Content in which a line could be taken for a command goes by DATA.
    let [by_bdat, asked] = told(&log, "bdat");
    assert!(by_bdat == asked && (1..=connections).contains(&by_bdat), "{log}");
    assert_eq!(told(&log, "data"), [200 - by_bdat, 200 - by_bdat], "{log}");
    // Commands ahead of their time would be "improper command pipelining" in its log.
    assert!(
        !log.contains("improper")
            && log
                .lines()
                .all(|line| !line.contains("lost connection") || line.contains("[127.0.0.1]")),
        "{log}"
    );
}

const TASTE: Taste = Taste { utf8: true, quoted: true, unended: true, recipients: 8 };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postfix_stores_what_we_send() {
    let Some(taken) = sends_all(86, true, TASTE, start).await else { return };
    assert!(taken.others.is_empty(), "{:?}", taken.others);
    signatures::verify(&taken.keys, taken.stored.iter().step_by(10).chain(&taken.relayed));
    let log = taken.peer.log();
    assert!(!log.contains("improper") && !log.contains("warning"), "{log}");
    let ([by_bdat, asked], [by_data, _]) = (told(&log, "bdat"), told(&log, "data"));
    println!("{by_bdat} by BDAT, {by_data} by DATA");
    assert!(by_bdat == asked && by_bdat > 0 && by_data > 0, "{by_bdat} of {asked}, {by_data}");
}

/// Without PIPELINING all contents go by BDAT, the large ones too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postfix_stores_what_we_send_by_bdat() {
    let Some(taken) = sends_all(89, false, TASTE, start).await else { return };
    assert!(taken.others.is_empty(), "{:?}", taken.others);
    let log = taken.peer.log();
    assert!(!log.contains("improper") && !log.contains("warning"), "{log}");
    let [by_bdat, asked] = told(&log, "bdat");
    // Content in which a line could be taken for a command goes by DATA.
    let [by_data, _] = told(&log, "data");
    println!("{by_bdat} by BDAT, {by_data} by DATA");
    assert!(by_bdat == asked && by_bdat > 20 * by_data, "{by_bdat}, {by_data}: {log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postfix_submits_to_us() {
    // It logs in by a library that its package does not need, so it is let in without.
    let Some((peer, arrived)) = takes_all(87, TASTE, start, false).await else { return };
    let log = peer.log();
    assert!(log.contains("TLS connection established to") && !log.contains("warning"), "{log}");
    for message in arrived {
        let text = String::from_utf8_lossy(&message.content);
        assert!(
            text.contains(" with ESMTPS id ") || text.contains(" with UTF8SMTPS id "),
            "{text}"
        );
    }
}
