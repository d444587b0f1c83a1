//! A disk of a few mebibytes, to be filled. Tests of the node and of the program have it.

use std::path::{Path, PathBuf};
use std::process::Command;

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// A small disk of its own, unmounted at the end.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// `None`: this machine does not let us, and the reason is printed.
    pub fn mount(path: PathBuf, mebibytes: u32) -> Option<Self> {
        if !is_root() {
            println!("skipped: a small disk can be mounted by root only");
            return None;
        }
        std::fs::create_dir_all(&path).unwrap();
        let size = format!("size={mebibytes}m");
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "mailweir-test"])
            .arg(&path)
            .output()
            .unwrap();
        if !output.status.success() {
            println!("skipped: mount: {}", String::from_utf8_lossy(&output.stderr).trim());
            return None;
        }
        Some(Self(path))
    }

    /// Fills it to the last octet.
    pub fn fill(&self) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(self.0.join("ballast")).unwrap();
        let mut piece = vec![7_u8; 1 << 20];
        while !piece.is_empty() {
            if file.write_all(&piece).is_err() {
                piece.truncate(piece.len() / 2);
            }
        }
    }

    /// Gives back what was filled.
    pub fn free(&self) {
        std::fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let done = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(done.is_ok_and(|status| status.success()), "{} stays mounted", self.0.display());
    }
}
