//! Checks of what comes back: folders, mailboxes, bounce rules, quarantine.
//!
//! A mailbox is connected to, no more: nobody logs in, because servers count that, and some lock an account whose
//! mailbox is open already.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::path::Path;
use std::time::Duration;

use node::config::{Config, LmtpAddress, MailboxConfig};

use super::Finding;
use super::machine::writable;

/// How long a mailbox server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Addresses of a mailbox server that are tried.
const MOST_ADDRESSES: usize = 4;

/// Those that need only this machine.
pub fn check(config: &Config) -> Vec<Finding> {
    let mut findings = folders(config);
    findings.extend(bounce_rules(config));
    if !config.quarantine.enabled {
        findings.push(Finding::warn(
            "quarantine",
            "[quarantine] enabled = false: quarantined addresses are written to",
            "set it to true, unless somebody else refuses such addresses",
        ));
    }
    findings
}

/// Every listener with what it is for.
pub fn listeners(config: &Config) -> Vec<(&'static str, SocketAddr)> {
    let tcp = |address: &LmtpAddress| match address {
        LmtpAddress::Tcp(address) => Some(*address),
        LmtpAddress::Unix(_) => None,
    };
    let submission = config.submission.listen.iter().map(|at| ("submission", *at));
    let http = config.http.listen.iter().map(|at| ("HTTP", *at));
    let inmail = config.inmail.listen.iter().map(|at| ("incoming mail", *at));
    let lmtp = config.inmail.lmtp.iter().filter_map(tcp).map(|at| ("incoming mail (LMTP)", at));
    submission.chain(http).chain(inmail).chain(lmtp).collect()
}

/// Listeners that take each other's port.
pub fn overlaps(listeners: &[(&'static str, SocketAddr)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (place, (name, at)) in listeners.iter().enumerate() {
        let same = |other: &SocketAddr| {
            let any = other.ip().is_unspecified() || at.ip().is_unspecified();
            at.port() != 0 && other.port() == at.port() && (any || other.ip() == at.ip())
        };
        if let Some((first, other)) = listeners[..place].iter().find(|(_, other)| same(other)) {
            findings.push(Finding::fail(
                format!("port {at}"),
                format!("{name} wants what {first} has with {other}"),
                "give one of them another port or another address",
            ));
        }
    }
    findings
}

/// The folders of incoming mail can be written.
fn folders(config: &Config) -> Vec<Finding> {
    let inmail = &config.inmail;
    let sockets = inmail.lmtp.iter().filter_map(|address| match address {
        LmtpAddress::Unix(path) => path.parent().map(|folder| ("[inmail] lmtp", folder)),
        LmtpAddress::Tcp(_) => None,
    });
    let named = [("[inmail] folder", inmail.folder.as_path()), ("[inmail] spool", &inmail.spool)];
    let dump = inmail.dump.as_deref().map(|dump| ("[inmail] dump", dump));
    let all = named.into_iter().chain(dump).chain(sockets);
    // What is not there yet is made in a folder that is judged for itself.
    let existing = all.filter(|(_, path)| path.exists());
    existing.filter_map(|(key, path)| folder(key, path)).collect()
}

/// What is wrong with a folder.
fn folder(key: &str, path: &Path) -> Option<Finding> {
    let shown = path.display();
    match writable(path) {
        Ok(_) => None,
        Err(_) if !path.is_dir() => Some(Finding::fail(
            key,
            format!("{shown} is no folder"),
            "name a folder, or move the file away",
        )),
        Err(fault) => Some(Finding::fail(
            key,
            format!("{shown} cannot be written: {fault}"),
            "give it to the user that runs the node, or name another folder",
        )),
    }
}

fn bounce_rules(config: &Config) -> Option<Finding> {
    let file = config.bounce_rules.file.as_deref()?.display();
    Some(match node::node::check_bounce_rules(config) {
        Ok(count) => {
            let count = crate::output::count(count.unwrap_or(0) as u64, "rule");
            Finding::ok("bounce rules", format!("{count} of {file} before the shipped ones"))
        }
        Err(fault) => {
            // One line here; all faults with their pictures are for the command.
            let found = fault.to_string();
            let found = found.lines().next().unwrap_or_default();
            let mend = format!("`mailweir bounce rules check {file}` shows every fault");
            Finding::fail("bounce rules", found, mend)
        }
    })
}

/// Each mailbox has a server that answers. Asks DNS and the network.
pub fn mailboxes(config: &Config) -> Vec<Finding> {
    config.inmail.mailboxes.iter().map(|mailbox| reached(config, mailbox)).collect()
}

fn reached(config: &Config, mailbox: &MailboxConfig) -> Finding {
    let MailboxConfig { name, server, port, .. } = mailbox;
    let check = format!("mailbox {name}");
    let mend = format!(
        "correct server, port and protection of [[mailbox]] name = {name:?}, or open the way to it"
    );
    let addresses = match (server.as_str(), *port).to_socket_addrs() {
        Ok(addresses) => addresses,
        Err(fault) => {
            return Finding::fail(check, format!("cannot look up {server}: {fault}"), mend);
        }
    };
    let mut last = format!("{server} has no address");
    for address in addresses.take(MOST_ADDRESSES) {
        if let Err(refused) = config.safety.check_relay(address.ip()) {
            last = refused.to_string();
            continue;
        }
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(_) => return Finding::ok(check, format!("{server} answers at {address}")),
            Err(fault) => last = format!("cannot connect to {server} at {address}: {fault}"),
        }
    }
    Finding::fail(check, last, mend)
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    fn config(folder: &Path, more: &str) -> Config {
        let text = format!(
            "data_dir = \"data\"\n[return_path]\ndomain = \"bounce.example.com\"\nkeys = [{{ value = \"0123456789abcdef0123\" }}]\n\
             [[source]]\npublic_id = 1\naddress = \"127.0.0.1\"\nhelo = \"a.example.com\"\n{more}"
        );
        Config::parse(&text, "test.toml", folder).unwrap()
    }

    fn shown(findings: &[Finding]) -> Vec<String> {
        let failed = findings.iter().filter(|finding| finding.verdict != Verdict::Ok);
        failed
            .map(|finding| format!("{}: {} -> {}", finding.check, finding.found, finding.mend))
            .collect()
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place_and_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "x").unwrap();
        std::fs::write(folder.path().join("bounce.toml"), "schema_version = 1\nx = 1\n").unwrap();
        let more = "[http]\nlisten = [\"127.0.0.1:2525\"]\n[inmail]\nlisten = [\"0.0.0.0:2525\"]\n\
                    spool = \"file\"\n[bounce_rules]\nfile = \"bounce.toml\"\n[quarantine]\nenabled = false\n";
        let config = config(folder.path(), more);
        let found = shown(&check(&config));
        assert_eq!(found.len(), 3, "{found:#?}");
        assert!(
            found[0].starts_with("[inmail] spool: ") && found[0].contains("is no folder"),
            "{found:#?}"
        );
        assert!(
            found[1].contains("bounce.toml:1:1") && found[1].contains("bounce rules check"),
            "{found:#?}"
        );
        assert!(found[2].contains("enabled = false"), "{found:#?}");
        let found = shown(&overlaps(&listeners(&config)));
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(
            found[0].contains("incoming mail wants what HTTP has with 127.0.0.1:2525"),
            "{found:#?}"
        );
    }

    #[test]
    fn a_mailbox_that_does_not_answer_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let open = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let ports = [&open, &closed].map(|listener| listener.local_addr().unwrap().port());
        drop(closed);
        let mailbox = |name: &str, port: u16| {
            format!(
                "[[mailbox]]\nname = \"{name}\"\nserver = \"127.0.0.1\"\nport = {port}\nuser = \"u\"\n\
                 password = {{ value = \"p\" }}\n"
            )
        };
        let more = mailbox("good", ports[0]) + &mailbox("bad", ports[1]);
        let found = shown(&mailboxes(&config(folder.path(), &more)));
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].starts_with("mailbox bad: cannot connect to 127.0.0.1 at "), "{found:#?}");
    }
}
