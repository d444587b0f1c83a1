//! A real Dovecot: POP3 and IMAP, in clear, with STARTTLS and with TLS.
//!
//! Its own instance, with its own configuration, users and mail in a folder of the test, on loopback alone. It is
//! skipped with a notice where Dovecot is not installed or the test does not run as root.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::process::{Child, Command, Stdio};

use super::*;

/// Who owns the mail: `nobody` on every Linux.
const NOBODY: u32 = 65_534;
/// Messages of each mailbox.
const MESSAGES: usize = 25;

/// A running Dovecot.
struct Dovecot {
    master: Child,
    folder: TempDir,
    /// IMAP, IMAP with TLS, POP3, POP3 with TLS.
    ports: [u16; 4],
}

/// Whether it can be run here; if not, the reason is printed.
fn can_run() -> bool {
    let root = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout.trim_ascii() == b"0");
    if !root {
        println!("skipped: Dovecot can be started by root only");
        return false;
    }
    let has = |name: &str| std::path::Path::new("/usr/lib/dovecot").join(name).is_file();
    let there = Command::new("dovecot").arg("--version").output().is_ok_and(|o| o.status.success());
    if !(there && has("pop3") && has("imap")) {
        println!("skipped: Dovecot with POP3 and IMAP is not installed");
        return false;
    }
    true
}

/// A message as it must come out.
fn text(user: &str, number: usize) -> String {
    let body = match number {
        0 => ".\r\n..\r\n.dots\r\n".to_owned(),
        1 => "a line of a large message\r\n".repeat(12_000),
        2 => "{123}\r\n)\r\n+OK\r\n* BYE\r\n".to_owned(),
        3 => "\u{e4}\u{f6}\u{fc}\r\n\r\n".to_owned(),
        _ => format!("number {number}\r\n"),
    };
    format!("From: a@x.example\r\nSubject: {user} {number}\r\n\r\n{body}")
}

impl Dovecot {
    fn start(users: &[&str]) -> Self {
        let folder = TempDir::with_prefix("mailweir-dovecot-").unwrap();
        let place = |name: &str| folder.path().join(name);
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        for name in ["run", "state", "mail"] {
            std::fs::create_dir(place(name)).unwrap();
        }
        let mut passwords = String::new();
        for user in users {
            passwords.push_str(&format!("{user}:{{PLAIN}}se cret:::::\n"));
            let mail = place("mail").join(user);
            for part in ["", "Maildir", "Maildir/new", "Maildir/cur", "Maildir/tmp"] {
                let path = mail.join(part);
                std::fs::create_dir(&path).unwrap();
                chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
            }
            for number in 0..MESSAGES {
                // A Maildir has bare LFs; Dovecot makes CR LF of them.
                let path = mail.join(format!("Maildir/new/{number}.eml"));
                std::fs::write(&path, text(user, number).replace("\r\n", "\n")).unwrap();
                chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
        std::fs::write(place("users"), passwords).unwrap();
        let certified = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
        std::fs::write(place("cert.pem"), certified.cert.pem()).unwrap();
        std::fs::write(place("key.pem"), certified.signing_key.serialize_pem()).unwrap();
        let ports = free_ports();
        std::fs::write(place("dovecot.conf"), configuration(folder.path(), ports)).unwrap();
        let log = std::fs::File::create(place("start.log")).unwrap();
        let master = Command::new("dovecot")
            .arg("-F")
            .arg("-c")
            .arg(place("dovecot.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { master, folder, ports }
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }

    /// Files that a mailbox still has.
    fn left(&self, user: &str) -> usize {
        let maildir = self.folder.path().join("mail").join(user).join("Maildir");
        let count = |name: &str| std::fs::read_dir(maildir.join(name)).unwrap().count();
        count("new") + count("cur")
    }
}

/// Four ports that nobody listens on.
fn free_ports() -> [u16; 4] {
    let held = [(); 4].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

fn configuration(root: &Path, [imap, imaps, pop3, pop3s]: [u16; 4]) -> String {
    let root = root.display();
    let service = |name: &str, plain: u16, tls: u16| {
        format!(
            "service {name}-login {{\n  inet_listener {name} {{\n    port = {plain}\n  }}\n  \
             inet_listener {name}s {{\n    port = {tls}\n    ssl = yes\n  }}\n}}\n"
        )
    };
    format!(
        "base_dir = {root}/run\nstate_dir = {root}/state\nlog_path = {root}/log\n\
         protocols = imap pop3\nlisten = 127.0.0.1\nssl = yes\nssl_cert = <{root}/cert.pem\n\
         ssl_key = <{root}/key.pem\ndisable_plaintext_auth = no\nmail_location = maildir:~/Maildir\n\
         first_valid_uid = 1\npassdb {{\n  driver = passwd-file\n  \
         args = username_format=%u {root}/users\n}}\nuserdb {{\n  driver = static\n  \
         args = uid={NOBODY} gid={NOBODY} home={root}/mail/%u\n}}\n{}{}",
        service("imap", imap, imaps),
        service("pop3", pop3, pop3s),
    )
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        // It was started in the foreground, so this is its own process number.
        let number = self.master.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &number]).status();
        if !asked.is_ok_and(|status| status.success()) {
            eprintln!("Dovecot {number} could not be asked to end");
        }
        let _ = self.master.wait();
        if std::thread::panicking() {
            eprintln!("{}\n{}", self.text("start.log"), self.text("log"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_dovecot_is_emptied_by_every_way() {
    if !can_run() {
        return;
    }
    let ways = [
        ("p-clear", "pop3", "none", 2),
        ("p-starttls", "pop3", "starttls", 2),
        ("p-tls", "pop3", "tls", 3),
        ("i-clear", "imap", "none", 0),
        ("i-starttls", "imap", "starttls", 0),
        ("i-tls", "imap", "tls", 1),
    ];
    let users = ways.map(|way| way.0);
    let dovecot = Dovecot::start(&users);
    eventually("Dovecot", async || {
        tokio::net::TcpStream::connect(("127.0.0.1", dovecot.ports[0])).await.ok()
    })
    .await;
    let roots = format!("tls_roots = \"{}\"\n", dovecot.folder.path().join("cert.pem").display());
    let mut more = String::new();
    for (user, protocol, encryption, port) in ways {
        more.push_str(&mailbox(user, protocol, encryption, dovecot.ports[port]));
        more.push_str("session_messages = 10\n");
        more.push_str(&roots);
    }
    // Neither a wrong password nor a certificate that nobody vouches for disturbs the others.
    let wrong = mailbox("p-clear", "pop3", "none", dovecot.ports[2]);
    more.push_str(
        &wrong.replace("name = \"p-clear\"", "name = \"wrong\"").replace("se cret", "no"),
    );
    let unknown = mailbox("i-tls", "imap", "tls", dovecot.ports[1]);
    more.push_str(&unknown.replace("name = \"i-tls\"", "name = \"unknown\""));
    let home = Home::new(&more).tweak(|config| {
        for mailbox in &mut config.inmail.mailboxes {
            mailbox.timeout = Duration::from_secs(20);
        }
    });
    let running = home.start();
    home.processed(users.len() * MESSAGES).await;
    for user in users {
        eventually(user, async || (dovecot.left(user) == 0).then_some(())).await;
    }
    let mut wanted: Vec<String> =
        users.iter().flat_map(|user| (0..MESSAGES).map(move |number| text(user, number))).collect();
    wanted.sort();
    assert!(home.texts() == wanted, "{:?}", home.texts());
    for (place, user) in users.iter().enumerate() {
        let counts = running.mailbox(place);
        eventually("the figures", async || {
            (load(&counts.deleted) == MESSAGES as u64).then_some(())
        })
        .await;
        assert_eq!(running.mailboxes.test(user).await, Some(Ok(0)));
    }
    let fault = eventually("a refused login", async || running.mailbox(6).last_fault()).await;
    assert!(fault.starts_with("the server refuses the login: "), "{fault}");
    let fault = eventually("a refused certificate", async || running.mailbox(7).last_fault()).await;
    assert!(fault.starts_with("TLS with 127.0.0.1 fails: "), "{fault}");
    running.stop().await;
}
