//! OpenSMTPD: STARTTLS, SIZE, 8BITMIME, and AUTH as a client. It has no PIPELINING as a server, no CHUNKING, no SMTPUTF8, and no quoted local parts.
//!
//! The names of its spool, its socket and its helpers' folder are built in, so each instance gets a mount namespace of its own in which folders of the
//! test stand in their place.

use std::process::Command;

use super::*;

const TASTE: Taste = Taste { utf8: false, quoted: false, unended: true, recipients: 8 };

/// Starts one that stores mail to `one.example` and passes everything else on.
fn start(address: SocketAddr, next: &Next) -> Option<Peer> {
    let program = unpacked("OpenSMTPD", "opensmtpd/usr/sbin/smtpd", "opensmtpd")?;
    let own = Command::new("unshare").args(["-m", "true"]).output();
    if !own.is_ok_and(|output| output.status.success()) {
        println!(
            "skipped: OpenSMTPD needs a mount namespace of its own, and this machine does not let us"
        );
        return None;
    }
    let folder = folder_for("opensmtpd");
    for name in ["spool", "run"] {
        let path = folder.path().join(name);
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o711)).unwrap();
    }
    let root = folder.path().display();
    let out = if next.submission {
        format!("host \"smtp+tls://us@{}\" tls no-verify auth <secrets>", next.address)
    } else {
        format!("host \"smtp+notls://{}\"", next.address)
    };
    let text = format!(
        "pki mx.one.example cert \"{root}/etc/cert.pem\"\n\
         pki mx.one.example key \"{root}/etc/key.pem\"\n\
         table everybody {{ \"@\" = nobody }}\n\
         table secrets {{ us = \"shop:secret\" }}\n\
         listen on {ip} port {port} tls pki mx.one.example hostname mx.one.example\n\
         action \"store\" maildir \"{root}/mail\" virtual <everybody>\n\
         action \"out\" relay {out}\n\
         match from any for domain \"one.example\" action \"store\"\n\
         match from any for any action \"out\"\n",
        ip = address.ip(),
        port = address.port(),
    );
    std::fs::write(folder.path().join("etc/smtpd.conf"), text).unwrap();
    // It looks for the names of clients, and nobody answers here.
    std::fs::write(folder.path().join("etc/resolv.conf"), "nameserver 127.9.0.1\n").unwrap();
    let script = format!(
        "mount --bind {root}/spool /var/spool/smtpd && mount --bind {root}/run /run && \
         mount --bind {PEERS}/opensmtpd/usr/libexec/opensmtpd /usr/libexec/opensmtpd && \
         mount --bind {root}/etc/resolv.conf /etc/resolv.conf && \
         exec {program} -d -f {root}/etc/smtpd.conf",
        program = program.display(),
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "--propagation", "private", "sh", "-c", &script]);
    Some(Peer::run("OpenSMTPD", command, folder, address, "mail/new", &[]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opensmtpd_stores_what_we_send() {
    let Some(taken) = sends_all(84, true, TASTE, start).await else { return };
    // It takes a hundred messages in a session; then each MAIL FROM gets 452. They go over other connections at once.
    assert!(!taken.others.is_empty());
    for line in &taken.others {
        let reply = line.reply.as_deref().unwrap_or_default();
        assert!(
            reply.starts_with("452 4.5.3 ") && line.next_at.as_ref() == Some(&line.at),
            "{line:?}"
        );
    }
    signatures::verify(&taken.keys, taken.stored.iter().step_by(10).chain(&taken.relayed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opensmtpd_submits_to_us() {
    let Some((peer, arrived)) = takes_all(85, TASTE, start, true).await else { return };
    for message in arrived {
        let text = String::from_utf8_lossy(&message.content);
        assert!(text.contains(" with ESMTPSA id "), "{text}");
    }
    drop(peer);
}
