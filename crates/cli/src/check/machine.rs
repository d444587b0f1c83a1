//! Checks that need only this machine: addresses, ports, data folder, keys, rules.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use node::config::Config;
use node::node::{CheckedRuleFile, StartFault};

use super::{Finding, inmail};
use crate::globals::{mx_below, whose};

/// All of them.
#[must_use]
pub fn check(config: &Config) -> Vec<Finding> {
    let mut findings = sources(config);
    let running = node_running(&config.data_dir);
    findings.extend(data_folder(&config.data_dir, running.as_deref()));
    findings.extend(listeners(config, running.is_some()));
    findings.extend(rules(config));
    findings.extend(node::node::check_rule_files(config).into_iter().map(rule_file));
    findings.extend(inmail::check(config));
    findings
}

/// Each source can be bound.
fn sources(config: &Config) -> Vec<Finding> {
    let sources = config.sources.iter().map(|source| {
        let check = format!("source {}", source.id);
        match TcpListener::bind(SocketAddr::new(source.address, 0)) {
            Ok(_) => Finding::ok(check, format!("{} belongs to this machine", source.address)),
            Err(fault) if fault.kind() == ErrorKind::AddrNotAvailable => Finding::fail(
                check,
                format!("{} does not belong to this machine", source.address),
                format!(
                    "add it to an interface (`ip address add {}/{} dev ...`), or correct [[source]] public_id = {}",
                    source.address,
                    if source.address.is_ipv4() { 32 } else { 128 },
                    source.id.0
                ),
            ),
            Err(fault) => Finding::fail(
                check,
                format!("{} cannot be bound: {fault}", source.address),
                "connections could not leave from it",
            ),
        }
    });
    sources.collect()
}

/// Whether a node holds the data folder, and which.
fn node_running(folder: &Path) -> Option<String> {
    let mut file = File::open(folder.join(store::LOCK_FILE)).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {
            let mut process = String::new();
            let read = std::io::Read::by_ref(&mut file).take(20).read_to_string(&mut process);
            let known = read.is_ok() && process.trim().parse::<u32>().is_ok();
            Some(if known { format!("process {}", process.trim()) } else { "a process".to_owned() })
        }
        // The lock is given back when the file is closed.
        Ok(()) | Err(TryLockError::Error(_)) => None,
    }
}

/// Makes a file in a folder, which is gone when what is answered is dropped.
pub fn writable(folder: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    tempfile::Builder::new().prefix(".mailweir-check").tempfile_in(folder)
}

/// Writable, and its database one that this program knows.
fn data_folder(folder: &Path, running: Option<&str>) -> Vec<Finding> {
    let check = "data folder";
    let shown = folder.display();
    if !folder.exists() {
        let above = folder.ancestors().skip(1).find(|above| above.exists());
        let above = above.unwrap_or(Path::new("."));
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        return match writable(above) {
            Ok(_) => Finding::ok(check, format!("{shown} will be made at the first start")),
            Err(fault) => Finding::fail(
                check,
                format!("{shown} is not there and cannot be made: {fault}"),
                format!("make it and give it to the user that runs the node: `install -d -o USER {shown}`"),
            ),
        }
        .into();
    }
    let found = match writable(folder) {
        Ok(_) => Finding::ok(check, format!("{shown} can be written")),
        Err(fault) => Finding::fail(
            check,
            format!("{shown} cannot be written: {fault}"),
            "correct its owner and permissions, free some space, or set another data_dir",
        ),
    };
    let mut findings = vec![found];
    findings.push(database(&folder.join(store::DATABASE_FILE)));
    if let Some(process) = running {
        findings.push(Finding::ok("node", format!("running ({process})")));
    }
    findings
}

/// The header of the database: ours, and of a version that this program knows.
fn database(path: &Path) -> Finding {
    let check = "database";
    let shown = path.display();
    let mut header = Vec::with_capacity(100);
    match File::open(path).and_then(|file| file.take(100).read_to_end(&mut header)) {
        Err(fault) if fault.kind() == ErrorKind::NotFound => {
            return Finding::ok(check, "will be made at the first start");
        }
        Err(fault) => {
            let mend = "correct its owner and permissions";
            return Finding::fail(check, format!("{shown} cannot be read: {fault}"), mend);
        }
        Ok(_) => {}
    }
    // File format of SQLite: user_version at octet 60, application_id at octet 68, big-endian.
    let word = |at: usize| {
        let octets = header.get(at..at + 4).and_then(|octets| octets.try_into().ok());
        octets.map_or(0, u32::from_be_bytes)
    };
    let ours = word(68) == store::APPLICATION_ID.cast_unsigned();
    if header.is_empty() {
        return Finding::ok(check, "empty; will be filled at the first start");
    }
    if !header.starts_with(b"SQLite format 3\0") || !ours {
        return Finding::fail(
            check,
            format!("{shown} is not a Mailweir database"),
            "move it away, or set another data_dir",
        );
    }
    match word(60) {
        version if version > store::SCHEMA_VERSION => Finding::fail(
            check,
            format!(
                "{shown} has version {version}, this program knows versions up to {}",
                store::SCHEMA_VERSION
            ),
            "install the newer program again, or restore the backup made before the upgrade",
        ),
        version => Finding::ok(check, format!("version {version}")),
    }
}

/// Each listener's port is free, or held by the running node.
fn listeners(config: &Config, running: bool) -> Vec<Finding> {
    let addresses = inmail::listeners(config);
    let overlapping = inmail::overlaps(&addresses);
    let check = |(name, address): (&str, SocketAddr)| {
        let check = format!("port {address}");
        match TcpListener::bind(address) {
            Ok(_) => Finding::ok(check, format!("free for {name}")),
            Err(fault) if fault.kind() == ErrorKind::AddrInUse && running => {
                Finding::ok(check, format!("{name}: in use, as the node is running"))
            }
            Err(fault) if fault.kind() == ErrorKind::AddrInUse => Finding::fail(
                check,
                format!("in use by another process, wanted for {name}"),
                format!(
                    "stop it (`ss -ltnp 'sport = :{}'` shows it), or listen elsewhere",
                    address.port()
                ),
            ),
            Err(fault) if fault.kind() == ErrorKind::PermissionDenied => Finding::fail(
                check,
                format!("may not be opened by this user, wanted for {name}"),
                "ports below 1024 need CAP_NET_BIND_SERVICE (AmbientCapabilities= in the systemd unit)",
            ),
            Err(fault) => Finding::fail(
                check,
                format!("cannot be opened for {name}: {fault}"),
                "listen on an address of this machine",
            ),
        }
    };
    addresses.into_iter().map(check).chain(overlapping).collect()
}

/// The local rules have no fault, and the levels name rules that exist.
fn rules(config: &Config) -> Vec<Finding> {
    let check = "MX rules";
    let below = mx_below(Some(config));
    let set = match crate::mx::rules_for(Some(config), &below, None, None) {
        Ok(set) => set,
        Err(failure) => {
            // One line here; all faults with their pictures are for `mx check`.
            let found = match node::node::read_rules(config) {
                Err(fault) => fault.to_string(),
                Ok(_) => failure.to_string(),
            };
            let file = config.rules.mx.as_deref().unwrap_or(Path::new("FILE")).display();
            let mend = format!("`mailweir mx check {file}` shows every fault");
            return vec![Finding::fail(check, found, mend)];
        }
    };
    let local = config.rules.mx.as_ref().map_or_else(
        || match below.version() {
            Some(_) => whose(&below),
            None => "shipped rules only".to_owned(),
        },
        |path| format!("{} before {}", path.display(), whose(&below)),
    );
    let total = crate::output::count(set.rules().count() as u64, "rule");
    let mut findings = vec![Finding::ok(check, format!("{total}, {local}"))];
    let unknown = set.unknown_rules();
    if !unknown.is_empty() {
        findings.push(Finding::warn(
            "levels",
            format!("[rules.levels.rules] names rules that do not exist: {}", unknown.join(", ")),
            "`mailweir mx list` shows the names",
        ));
    }
    findings
}

/// Faults of a rule file that are shown; there is no command that shows those of domain and format rules.
const FAULTS_SHOWN: usize = 5;

/// A file of reaction, domain or format rules, as the start would read it.
fn rule_file(file: CheckedRuleFile) -> Finding {
    let check = format!("{} rules", file.kind);
    let path = file.path.display();
    let fault = match file.rules {
        Ok(rules) => {
            let rules = crate::output::count(rules as u64, "rule");
            return Finding::ok(check, format!("{rules} of {path} before the shipped ones"));
        }
        Err(fault) => fault,
    };
    let mend = match &fault {
        StartFault::ReactionRules(_) => {
            format!("`mailweir reaction rules check {path}` shows every fault")
        }
        StartFault::DomainRules(faults) | StartFault::FormatRules(faults) => {
            let mut lines: Vec<String> = faults
                .iter()
                .take(FAULTS_SHOWN)
                .map(|one| match one.help.is_empty() {
                    true => one.to_string(),
                    false => format!("{one} ({})", one.help),
                })
                .collect();
            if let Some(more) = faults.len().checked_sub(FAULTS_SHOWN).filter(|more| *more > 0) {
                lines.push(format!("and {}", crate::output::count(more as u64, "other fault")));
            }
            lines.join("\n")
        }
        _ => "correct its name in the configuration, or its permissions".to_owned(),
    };
    let found = fault.to_string();
    Finding::fail(check, found.lines().next().unwrap_or_default(), mend)
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    fn summary(findings: &[Finding]) -> Vec<(Verdict, &str)> {
        findings.iter().map(|finding| (finding.verdict, finding.check.as_str())).collect()
    }

    fn config(folder: &Path, more: &str) -> Config {
        let text = format!(
            "data_dir = \"data\"\n[[source]]\npublic_id = 1\naddress = \"127.0.0.1\"\nhelo = \"a.example.com\"\n{more}"
        );
        Config::parse(&text, "test.toml", folder).unwrap()
    }

    #[test]
    fn a_foreign_address_and_a_taken_port_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = taken.local_addr().unwrap();
        let more = format!(
            "[[source]]\npublic_id = 2\naddress = \"203.0.113.77\"\nhelo = \"b.example.com\"\n\
             [http]\nlisten = [\"{at}\"]\n[submission]\nlisten = [\"127.0.0.1:0\"]\n"
        );
        let config = config(folder.path(), &more);
        let findings = check(&config);
        let port = format!("port {at}");
        assert_eq!(
            summary(&findings),
            [
                (Verdict::Ok, "source s1"),
                (Verdict::Fail, "source s2"),
                (Verdict::Ok, "data folder"),
                (Verdict::Ok, "port 127.0.0.1:0"),
                (Verdict::Fail, port.as_str()),
                (Verdict::Ok, "MX rules"),
            ]
        );
        assert!(
            findings
                .iter()
                .all(|finding| { (finding.verdict == Verdict::Ok) == finding.mend.is_empty() })
        );
    }

    #[test]
    fn databases_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(store::DATABASE_FILE);
        let header = |version: u32, application: i32| {
            let mut header = vec![0_u8; 100];
            header[..16].copy_from_slice(b"SQLite format 3\0");
            header[60..64].copy_from_slice(&version.to_be_bytes());
            header[68..72].copy_from_slice(&application.to_be_bytes());
            header
        };
        assert_eq!(database(&path).verdict, Verdict::Ok);
        for (content, verdict) in [
            (Vec::new(), Verdict::Ok),
            (header(store::SCHEMA_VERSION, store::APPLICATION_ID), Verdict::Ok),
            (header(store::SCHEMA_VERSION + 1, store::APPLICATION_ID), Verdict::Fail),
            (header(1, 7), Verdict::Fail),
            (b"text".to_vec(), Verdict::Fail),
        ] {
            std::fs::write(&path, &content).unwrap();
            assert_eq!(database(&path).verdict, verdict, "{content:?}");
        }
    }

    #[test]
    fn the_stores_own_database_and_lock_are_recognised() {
        let folder = tempfile::tempdir().unwrap();
        let options = store::SqliteOptions::default();
        let open = store::SqliteStore::open(folder.path(), options).unwrap();
        let running = node_running(folder.path());
        assert_eq!(running, Some(format!("process {}", std::process::id())));
        let findings = data_folder(folder.path(), running.as_deref());
        assert_eq!(
            summary(&findings),
            [(Verdict::Ok, "data folder"), (Verdict::Ok, "database"), (Verdict::Ok, "node")]
        );
        drop(open);
        assert_eq!(node_running(folder.path()), None);
        assert_eq!(
            database(&folder.path().join(store::DATABASE_FILE)).found,
            format!("version {}", store::SCHEMA_VERSION)
        );
    }

    #[test]
    fn faulty_rules_and_unknown_levels_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let more = "[rules]\nmx = \"local.toml\"\n[rules.levels.rules]\n\"nobody\" = \"fast\"\n";
        let rule = "schema_version = 1\n[[rule]]\nname = \"a\"\nmask = \"a.example\"\n";
        std::fs::write(folder.path().join("local.toml"), rule).unwrap();
        let config = config(folder.path(), more);
        let found = rules(&config);
        assert_eq!(summary(&found), [(Verdict::Ok, "MX rules"), (Verdict::Warn, "levels")]);
        std::fs::write(folder.path().join("local.toml"), "schema_version = 1\nx = 1\n").unwrap();
        let found = rules(&config);
        assert_eq!(summary(&found), [(Verdict::Fail, "MX rules")]);
        let found = &found[0].found;
        assert!(found.contains("local.toml:2") && found.lines().count() == 1, "{found}");
    }

    /// Whatever `serve` refuses to start with, `check` finds.
    #[test]
    fn every_rule_file_is_checked() {
        let folder = tempfile::tempdir().unwrap();
        let more = "[reaction_rules]\nfile = \"r.toml\"\n[domain_rules]\nfile = \"d.toml\"\n[format_rules]\nfile = \"f.toml\"\n";
        let write = |text: &str| {
            for name in ["r.toml", "d.toml", "f.toml"] {
                std::fs::write(folder.path().join(name), text).unwrap();
            }
        };
        write("schema_version = 1\ncolour = 1\n");
        let config = config(folder.path(), more);
        let found = |config: &Config| {
            check(config)
                .into_iter()
                .filter(|one| one.check.ends_with(" rules"))
                .collect::<Vec<_>>()
        };
        let names = ["MX rules", "reaction rules", "domain rules", "format rules"];
        let of = |verdict| -> Vec<(Verdict, &str)> {
            names.map(|name| (if name == "MX rules" { Verdict::Ok } else { verdict }, name)).into()
        };
        let faulty = found(&config);
        assert_eq!(summary(&faulty), of(Verdict::Fail));
        assert!(faulty[2].mend.contains("d.toml:2:1"), "{faulty:?}");
        assert!(node::node::Node::start(config).is_err(), "and serve refuses");
    }
}
