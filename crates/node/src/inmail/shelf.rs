//! A folder of files that is bounded by number and size: the oldest go.
//!
//! The order is that of the names, which begin with a time. Files that others remove are missed only
//! when the bounds are reached: then the folder is read again before anything goes. With each file
//! `x.eml` goes `x.reason`, if there is one.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A bounded folder.
#[derive(Debug)]
pub(super) struct Shelf {
    folder: PathBuf,
    most_files: usize,
    most_octets: u64,
    files: BTreeMap<String, u64>,
    octets: u64,
}

impl Shelf {
    /// Reads what is there.
    pub(super) fn open(folder: &Path, most_files: usize, most_octets: u64) -> io::Result<Self> {
        let mut shelf = Self {
            folder: folder.to_owned(),
            most_files,
            most_octets,
            files: BTreeMap::new(),
            octets: 0,
        };
        shelf.read()?;
        Ok(shelf)
    }

    fn read(&mut self) -> io::Result<()> {
        self.files.clear();
        self.octets = 0;
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string()
                && name.ends_with(".eml")
                && let Ok(about) = entry.metadata()
            {
                self.octets += about.len();
                self.files.insert(name, about.len());
            }
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.files.len() > self.most_files || self.octets > self.most_octets
    }

    /// Notes a file that was put into the folder; how many of the oldest went for it. The file
    /// itself stays, however large.
    pub(super) fn put(&mut self, name: String, octets: u64) -> u64 {
        self.octets += octets;
        if let Some(before) = self.files.insert(name, octets) {
            self.octets -= before;
        }
        if self.is_over()
            && let Err(fault) = self.read()
        {
            tracing::warn!(%fault, folder = %self.folder.display(), "cannot be read");
        }
        let mut gone = 0;
        while self.is_over() && self.files.len() > 1 {
            let Some((name, octets)) = self.files.pop_first() else { break };
            self.octets -= octets;
            let path = self.folder.join(&name);
            match fs::remove_file(&path) {
                Ok(()) => gone += 1,
                Err(fault) if fault.kind() == io::ErrorKind::NotFound => {}
                Err(fault) => tracing::warn!(%fault, file = %path.display(), "cannot be removed"),
            }
            // Most have one; where there is none nothing is lost.
            let _gone = fs::remove_file(path.with_extension("reason"));
        }
        gone
    }
}
