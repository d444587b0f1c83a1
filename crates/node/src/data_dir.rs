//! The data folder of a node: queue, ledger and logs.
//!
//! It holds addresses and mail, so a new one is closed to everybody but its owner and group. The files in
//! it need no modes of their own then. A folder that is there stays as it is: whoever made it has decided.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

/// Owner: everything; group: look; others: nothing.
const MODE: u32 = 0o750;

/// Makes the folder, and those above it, where it is missing.
///
/// # Errors
/// It cannot be made, or something that is no folder has its name.
pub fn make(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    DirBuilder::new().mode(MODE).create(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_new_folder_is_closed_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/data");
        make(&path).unwrap();
        assert_eq!(mode(&path) & 0o007, 0, "{:o}", mode(&path));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        make(&path).unwrap();
        assert_eq!(mode(&path), 0o755);
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(make(&file).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}
