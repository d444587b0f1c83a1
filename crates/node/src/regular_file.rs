//! Files that people name: rules and keys.
//!
//! **Promise.** Only a regular file is read, through links too, and at most [`LARGEST`] octets of it. A pipe would hold up
//! the node until somebody writes into it, and a device might never end; the size of a file of rules is judged by its reader,
//! which allows far less.

use std::fs::File;
use std::io::{Error, Read as _, Result};
use std::path::Path;

/// Most octets of a file.
pub(crate) const LARGEST: u64 = 64 << 20;

/// What is in a file.
///
/// # Errors
/// Those of the system; it is no regular file, or larger than [`LARGEST`].
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(Error::other("it is no regular file"));
    }
    let mut octets = Vec::new();
    // The file may have grown since it was looked at.
    File::open(path)?.take(LARGEST + 1).read_to_end(&mut octets)?;
    if octets.len() as u64 > LARGEST {
        return Err(Error::other(format!("it is larger than {LARGEST} octets")));
    }
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn only_files_are_read_and_only_so_much() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("rules.toml"), "a = 1\n").unwrap();
        std::fs::write(path("empty"), "").unwrap();
        std::fs::create_dir(path("folder")).unwrap();
        mknodat(CWD, path("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        File::create(path("large")).unwrap().set_len(LARGEST + 1).unwrap();
        for (link, target) in
            [("to-rules", "rules.toml"), ("to-pipe", "pipe"), ("to-itself", "to-itself")]
        {
            symlink(path(target), path(link)).unwrap();
        }
        symlink("/dev/zero", path("to-zero")).unwrap();
        for (name, wanted) in [
            ("rules.toml", Ok("a = 1\n")),
            ("to-rules", Ok("a = 1\n")),
            ("empty", Ok("")),
            ("none", Err("No such file")),
            ("rules.toml/x", Err("Not a directory")),
            ("folder", Err("no regular file")),
            ("pipe", Err("no regular file")),
            ("to-pipe", Err("no regular file")),
            ("to-itself", Err("symbolic link")),
            ("to-zero", Err("no regular file")),
            ("socket", Err("no regular file")),
            ("large", Err("larger than")),
        ] {
            match (read(&path(name)), wanted) {
                (Ok(found), Ok(wanted)) => assert_eq!(found, wanted.as_bytes(), "{name}"),
                (Err(fault), Err(wanted)) => {
                    assert!(fault.to_string().contains(wanted), "{name}: {fault}");
                }
                (found, _) => panic!("{name}: {found:?}"),
            }
        }
    }
}
