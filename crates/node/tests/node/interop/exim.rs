//! Exim: STARTTLS, PIPELINING, CHUNKING, SIZE, 8BITMIME, SMTPUTF8, and AUTH as a client. Its log tells which extensions a session has used.

use std::os::unix::fs::chown;
use std::process::Command;

use super::*;

/// The user whose name is built into Debian's Exim.
const USER: &str = "Debian-exim";

const TASTE: Taste = Taste { utf8: true, quoted: true, unended: true, recipients: 8 };

/// Starts one that stores mail to `one.example` and passes everything else on.
fn start(address: SocketAddr, next: &Next) -> Option<Peer> {
    let program = unpacked("Exim", "exim/usr/sbin/exim4", USER)?;
    let folder = folder_for("exim");
    let root = folder.path().display();
    // What it passes on to us it sends from its queue, so that its connections are bounded. Each message has one of its own: over a connection that
    // is used again it forgets that SMTPUTF8 was offered, and rewrites UTF-8 local parts.
    let (queue, security) = if next.submission {
        ("queue_only\nqueue_run_max = 3\n", "hosts_require_tls = *\n  hosts_require_auth = *\n")
    } else {
        ("", "hosts_avoid_tls = *\n")
    };
    let text = format!(
        "primary_hostname = mx.one.example\n\
         local_interfaces = {ip}.{port}\n\
         spool_directory = {root}/spool\n\
         log_file_path = {root}/%slog\n\
         pid_file_path = {root}/exim.pid\n\
         exim_path = {program}\n\
         {queue}\
         keep_environment =\n\
         deliver_drop_privilege\n\
         host_lookup =\n\
         rfc1413_query_timeout = 0s\n\
         dkim_verify_signers =\n\
         tls_advertise_hosts = *\n\
         tls_certificate = {root}/etc/cert.pem\n\
         tls_privatekey = {root}/etc/key.pem\n\
         log_selector = +pipelining +tls_cipher +smtp_connection\n\
         smtp_accept_max = 100\n\
         smtp_accept_queue_per_connection = 0\n\
         acl_smtp_rcpt = accept\n\
         begin routers\n\
         store:\n  driver = accept\n  domains = one.example : *.one.example\n  transport = inbox\n\
         out:\n  driver = manualroute\n  route_list = * {next_ip}\n  self = send\n  transport = out\n\
         begin transports\n\
         inbox:\n  driver = appendfile\n  directory = {root}/mail\n  maildir_format\n  user = {USER}\n\
         \x20 envelope_to_add\n  return_path_add\n\
         out:\n  driver = smtp\n  port = {next_port}\n  hosts_try_dane =\n  {security}\
         begin retry\n* * F,1h,1s\n\
         begin authenticators\n\
         plain:\n  driver = plaintext\n  public_name = PLAIN\n  client_send = ^shop^secret\n",
        program = program.display(),
        ip = address.ip(),
        port = address.port(),
        next_ip = next.address.ip(),
        next_port = next.address.port(),
    );
    let config = folder.path().join("etc/exim.conf");
    std::fs::write(&config, text).unwrap();
    let user = Some(number_of("passwd", USER));
    for name in ["", "mail", "etc/key.pem"] {
        chown(folder.path().join(name), user, None).unwrap();
    }
    let mut command = Command::new(program);
    command.arg("-C").arg(config).args(["-bdf", "-q1s"]);
    Some(Peer::run(
        "Exim",
        command,
        folder,
        address,
        "mail/new",
        &["mainlog", "paniclog", "rejectlog"],
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exim_stores_what_we_send() {
    let Some(taken) = sends_all(82, true, TASTE, start).await else { return };
    assert!(taken.others.is_empty(), "{:?}", taken.others);
    signatures::verify(&taken.keys, taken.stored.iter().chain(&taken.relayed));
    let log = taken.peer.log();
    // "L": it was told commands in groups ("L-": it was not); the dot: PIPECONNECT, which we do not have, was offered.
    let taken: Vec<&str> = log.lines().filter(|line| line.contains(" <= ")).collect();
    for line in &taken {
        assert!(line.contains("esmtps L. "), "{line}");
    }
    // "K": content by BDAT: that of the first message of a connection.
    let by_bdat = taken.iter().filter(|line| line.contains(" K ")).count();
    println!("{by_bdat} of {} by BDAT", taken.len());
    assert!((1..taken.len()).contains(&by_bdat), "{by_bdat} of {}", taken.len());
}

/// Without PIPELINING all contents go by BDAT, the large ones too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exim_stores_what_we_send_by_bdat() {
    let Some(taken) = sends_all(88, false, TASTE, start).await else { return };
    assert!(taken.others.is_empty(), "{:?}", taken.others);
    let log = taken.peer.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(" <= ")).collect();
    for line in &lines {
        assert!(line.contains("esmtps L.- "), "{line}");
    }
    // Content in which a line could be taken for a command goes by DATA.
    let by_bdat = lines.iter().filter(|line| line.contains(" K ")).count();
    println!("{by_bdat} of {} by BDAT", lines.len());
    assert!(by_bdat > 0 && by_bdat * 20 > lines.len() * 19, "{by_bdat} of {}: {log}", lines.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exim_submits_to_us() {
    let Some((peer, arrived)) = takes_all(83, TASTE, start, true).await else { return };
    let log = peer.log();
    // "L": commands in groups; "K": content by BDAT; "A=": logged in.
    for line in log.lines().filter(|line| line.contains(" => ")) {
        assert!(
            line.contains(" L ") && line.contains(" K ") && line.contains(" A=plain "),
            "{line}"
        );
    }
    assert!(log.contains(" => "), "{log}");
    for message in arrived {
        let text = String::from_utf8_lossy(&message.content);
        assert!(
            text.contains(" with ESMTPSA id ") || text.contains(" with UTF8SMTPSA id "),
            "{text}"
        );
    }
}
