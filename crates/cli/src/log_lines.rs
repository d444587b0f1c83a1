//! A delivery log, line by line, however long its lines.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use crate::exit::Failure;

/// Octets of a line; more is no line of ours.
const LONGEST_LINE: u64 = 4 << 20;

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineIs {
    /// All there.
    Whole,
    /// The last one, without a line end: a running node may be writing it.
    Unfinished,
    /// Longer than any line of ours; its octets are its beginning.
    TooLong,
}

/// A log that is read.
pub struct LogLines {
    /// The file, for people.
    pub name: String,
    /// Number of the line that was read last, from 1.
    pub line: u64,
    reader: BufReader<File>,
}

impl LogLines {
    /// Opens a log.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let cannot = |why: String| Failure::environment(format!("cannot read {name}: {why}"));
        let file = File::open(path).map_err(|fault| cannot(fault.to_string()))?;
        if file.metadata().is_ok_and(|about| about.is_dir()) {
            return Err(cannot("it is a folder".to_owned()));
        }
        let reader = BufReader::with_capacity(256 << 10, file);
        Ok(Self { name, line: 0, reader })
    }

    /// Reads the next line into `octets`, without its end; `None`: there is none.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn next(&mut self, octets: &mut Vec<u8>) -> Result<Option<LineIs>, Failure> {
        octets.clear();
        let read = self.reader.by_ref().take(LONGEST_LINE).read_until(b'\n', octets);
        let cannot = |fault: std::io::Error, name: &str| {
            Failure::environment(format!("cannot read {name}: {fault}"))
        };
        if read.map_err(|fault| cannot(fault, &self.name))? == 0 {
            return Ok(None);
        }
        self.line += 1;
        if octets.pop_if(|last| *last == b'\n').is_some() {
            return Ok(Some(LineIs::Whole));
        }
        if (octets.len() as u64) < LONGEST_LINE {
            return Ok(Some(LineIs::Unfinished));
        }
        self.reader.skip_until(b'\n').map_err(|fault| cannot(fault, &self.name))?;
        Ok(Some(LineIs::TooLong))
    }
}

/// A delivery log and its rotated files, the oldest first: ..., `log.2`, `log.1`, `log`.
///
/// # Errors
/// There is none.
pub fn with_rotated(log: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for number in (1..=10_000).rev() {
        let mut name = log.as_os_str().to_owned();
        name.push(format!(".{number}"));
        let path = PathBuf::from(name);
        if path.exists() {
            files.push(path);
        }
    }
    if log.exists() {
        files.push(log.to_owned());
    }
    if files.is_empty() {
        return Err(Failure::environment(format!(
            "there is no delivery log {} (has the node sent anything yet?)",
            log.display()
        )));
    }
    Ok(files)
}
