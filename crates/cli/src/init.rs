//! `mailweir init`: writes a commented configuration for this machine, and the key that signs return
//! paths. Nothing that exists is overwritten.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use node::config::{Config, MachineFacts};

use crate::exit::{Ended, Failure, Outcome};
use crate::globals::Globals;
use crate::output::{print, print_json};

/// Where the data folder is when the configuration is a system's.
const SYSTEM_DATA_DIR: &str = "/var/lib/mailweir";

/// `mailweir init`
#[derive(Debug, Args)]
pub struct InitArguments {
    /// The file to write; - is standard output
    #[arg(long, short, value_name = "FILE", default_value = "mailweir.toml")]
    output: PathBuf,
    /// Queue, ledger and logs [default: /var/lib/mailweir below /etc, else the folder data]
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<String>,
}

/// Carries the command out.
///
/// # Errors
/// The file exists, or cannot be written.
pub fn run(globals: &Globals, arguments: &InitArguments) -> Ended {
    let system = arguments.output.starts_with("/etc");
    let default_data = if system { SYSTEM_DATA_DIR } else { "data" };
    let facts = MachineFacts {
        hostname: crate::machine::hostname(),
        addresses: crate::machine::addresses(),
        data_dir: arguments.data_dir.clone().unwrap_or_else(|| default_data.to_owned()),
    };
    let text = Config::example_for(&facts);
    if arguments.output == Path::new("-") {
        print(&text)?;
        return Ok(Outcome::Fine);
    }
    let folder = arguments.output.parent().unwrap_or(Path::new(""));
    let key_file = folder.join(Config::EXAMPLE_KEY_FILE);
    write_new(&arguments.output, 0o640, text.as_bytes())?;
    let new_key = match write_new(&key_file, 0o600, format!("{}\n", random_key()?).as_bytes()) {
        Ok(()) => true,
        // Return paths that it signed must stay valid.
        Err(_) if key_file.exists() => false,
        Err(failure) => return Err(failure),
    };
    let shown = arguments.output.display();
    if globals.json() {
        let addresses: Vec<String> = facts.addresses.iter().map(ToString::to_string).collect();
        print_json(&serde_json::json!({
            "config": shown.to_string(),
            "return_path_key": key_file.display().to_string(),
            "return_path_key_is_new": new_key,
            "hostname": facts.hostname,
            "addresses": addresses,
        }))?;
        return Ok(Outcome::Fine);
    }
    let key_words = if new_key { "a new key" } else { "kept as it was" };
    print(&format!(
        "wrote {shown} ({} and return-path key {}: {key_words})\n\
         next: read it, set your domains, then `mailweir check --config {shown}`",
        crate::output::count(facts.addresses.len().max(1) as u64, "source"),
        key_file.display(),
    ))?;
    Ok(Outcome::Fine)
}

/// Writes a file that must not exist yet, and makes it durable.
fn write_new(path: &Path, mode: u32, content: &[u8]) -> Result<(), Failure> {
    let shown = path.display();
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(|fault| {
            match fault.kind() {
                ErrorKind::AlreadyExists => Failure::environment(format!(
                    "{shown} exists and was left as it is; name another file with --output"
                )),
                _ => Failure::environment(format!("cannot write {shown}: {fault}")),
            }
        })?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .map_err(|fault| Failure::environment(format!("cannot write {shown}: {fault}")))
}

/// 32 random octets of the system in hexadecimal.
fn random_key() -> Result<String, Failure> {
    let mut octets = [0_u8; 32];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut octets))
        .map_err(|fault| Failure::environment(format!("cannot read /dev/urandom: {fault}")))?;
    Ok(octets.iter().map(|octet| format!("{octet:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_writes_is_a_configuration_and_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("mailweir.toml");
        let arguments = InitArguments { output: output.clone(), data_dir: None };
        run(&Globals::default(), &arguments).unwrap();
        let config = Config::load(&output).unwrap();
        assert_eq!(config.data_dir, folder.path().join("data"));
        assert_eq!(config.return_path.unwrap().keys[0].expose().len(), 64);
        let before = std::fs::read_to_string(&output).unwrap();
        let refused = run(&Globals::default(), &arguments).unwrap_err();
        assert!(refused.to_string().contains("exists"), "{refused}");
        assert_eq!(std::fs::read_to_string(&output).unwrap(), before);
    }

    #[test]
    fn an_old_key_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join(Config::EXAMPLE_KEY_FILE);
        std::fs::write(&key, "an old key of enough letters").unwrap();
        let output = folder.path().join("mailweir.toml");
        run(&Globals::default(), &InitArguments { output, data_dir: None }).unwrap();
        assert_eq!(std::fs::read_to_string(&key).unwrap(), "an old key of enough letters");
    }
}
