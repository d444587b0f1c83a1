//! What can break beneath a store, in words for people.
//!
//! A [`StoreFault`] is physical: the disk, the file, another process. What a caller asked wrongly is
//! a [`crate::RefusedWrite`] instead. It can be cloned because every request of a failed batch is
//! told the same.

use std::path::{Path, PathBuf};

/// A physical fault. Nothing of the batch that met it was stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreFault {
    /// No room on the disk, or the configured size limit of the database is reached.
    #[error("the disk that holds {} is full ({detail}); free some space, nothing accepted is lost", .path.display())]
    DiskFull {
        /// The database.
        path: PathBuf,
        /// What SQLite or the system said.
        detail: String,
    },
    /// Another process holds the data folder or a lock on the database.
    #[error("{} is in use by {holder}; stop it or choose another data folder", .path.display())]
    Locked {
        /// The folder or the database.
        path: PathBuf,
        /// Who holds it, as far as known.
        holder: String,
    },
    /// The file is damaged.
    #[error("{} is damaged ({detail}); restore it from a backup or move it away", .path.display())]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The file is not one of ours.
    #[error("{} is not a Mailweir database ({detail}); choose another data folder", .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        detail: String,
    },
    /// The database was written by a newer version of the program.
    #[error("{} has schema version {found}, this program knows versions up to {known}; install the newer program again or restore the backup made before the upgrade", .path.display())]
    NewerVersion {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version that this program knows.
        known: u32,
    },
    /// The database was written by an older version of the program, and whoever asks does not upgrade it.
    #[error("{} has schema version {found}, and this program needs version {known} to look into it; a node of this version upgrades it at its start", .path.display())]
    OlderVersion {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The version that is needed.
        known: u32,
    },
    /// The folder or the file may not be written.
    #[error("{} cannot be written ({detail}); check its owner and permissions and that its disk is mounted for writing", .path.display())]
    ReadOnly {
        /// The folder or the file.
        path: PathBuf,
        /// What the system said.
        detail: String,
    },
    /// The disk or the file system failed.
    #[error("reading or writing {} failed ({detail}); check the disk and the system log", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        detail: String,
    },
    /// The database holds something that this program never writes, or a statement is wrong.
    #[error("the database {} was not as expected ({detail}); keep a copy of it and report this", .path.display())]
    Internal {
        /// The database.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// The writer was shut down.
    #[error("the store has been shut down")]
    Closed,
}

impl StoreFault {
    /// Reads a fault of the file system.
    pub(crate) fn from_io(path: &Path, error: &std::io::Error) -> Self {
        use std::io::ErrorKind as Kind;
        let (path, detail) = (path.to_path_buf(), error.to_string());
        match error.kind() {
            Kind::StorageFull | Kind::QuotaExceeded => Self::DiskFull { path, detail },
            Kind::PermissionDenied | Kind::ReadOnlyFilesystem => Self::ReadOnly { path, detail },
            _ => Self::Io { path, detail },
        }
    }

    /// Reads a fault of SQLite.
    #[must_use]
    pub fn from_sqlite(path: &Path, error: &rusqlite::Error) -> Self {
        use rusqlite::ErrorCode as Code;
        let (path, detail) = (path.to_path_buf(), error.to_string());
        let Some(code) = error.sqlite_error_code() else {
            return Self::Internal { path, detail };
        };
        match code {
            Code::DiskFull => Self::DiskFull { path, detail },
            Code::DatabaseBusy | Code::DatabaseLocked | Code::FileLockingProtocolFailed => {
                Self::Locked { path, holder: "another process".into() }
            }
            Code::DatabaseCorrupt => Self::Corrupt { path, detail },
            Code::NotADatabase => Self::Foreign { path, detail },
            Code::ReadOnly | Code::CannotOpen | Code::PermissionDenied => {
                Self::ReadOnly { path, detail }
            }
            Code::SystemIoFailure | Code::OutOfMemory | Code::NoLargeFileSupport => {
                Self::Io { path, detail }
            }
            _ => Self::Internal { path, detail },
        }
    }
}
