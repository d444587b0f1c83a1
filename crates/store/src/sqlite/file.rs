//! One SQLite file of ours, whatever is in it: its folder's lock, its marks, its versions, its settings.
//!
//! For the store of a node, and for other parts of the program that keep something durable in a database of
//! their own.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write as _};
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Transaction};

use super::codec::column;
use crate::fault::StoreFault;

/// The file whose lock says that the data folder is in use. Holds the process number.
pub const LOCK_FILE: &str = "mailweir.lock";
const PAGE_BYTES: u64 = 4_096;
/// How long a lock of another connection is waited for.
const BUSY_WAIT: Duration = Duration::from_secs(5);
/// Prepared statements kept per connection; the program has fewer.
const STATEMENTS_KEPT: usize = 192;

/// What a database of ours is.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Marks the file.
    pub application_id: i32,
    /// What leads from each version to the next, from an empty file on.
    pub migrations: &'static [&'static str],
}

impl Layout {
    /// The newest version, which is the number of migrations.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.migrations.len() as u32
    }
}

/// Creates the folder where it is missing and takes its lock.
///
/// # Errors
/// The folder is in use, or cannot be written.
pub fn lock_folder(folder: &Path) -> Result<File, StoreFault> {
    std::fs::create_dir_all(folder).map_err(|error| StoreFault::from_io(folder, &error))?;
    let path = folder.join(LOCK_FILE);
    let fault = |error: &std::io::Error| StoreFault::from_io(&path, error);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| fault(&error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut process = String::new();
            let read = Read::by_ref(&mut file).take(20).read_to_string(&mut process);
            let known = read.is_ok() && process.trim().parse::<u32>().is_ok();
            let holder = if known {
                format!("process {}", process.trim())
            } else {
                "another process".to_owned()
            };
            return Err(StoreFault::Locked { path: folder.to_path_buf(), holder });
        }
        Err(TryLockError::Error(error)) => return Err(fault(&error)),
    }
    let write = |file: &mut File| -> std::io::Result<()> {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(|error| fault(&error))?;
    Ok(file)
}

/// Looks at the first octets of an existing file, before SQLite may touch it.
pub(super) fn check_header(path: &Path, application_id: i32) -> Result<(), StoreFault> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StoreFault::from_io(path, &error)),
    };
    let mut journal = path.as_os_str().to_owned();
    journal.push("-journal");
    let mut header = Vec::with_capacity(100);
    Read::by_ref(&mut file)
        .take(100)
        .read_to_end(&mut header)
        .map_err(|error| StoreFault::from_io(path, &error))?;
    // SQLite would throw the log of an empty database away. No crash leaves the two: the log begins when the database
    // has been made.
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    if header.is_empty() && std::fs::metadata(&log).is_ok_and(|log| log.len() > 0) {
        let detail = "it is empty, and a log of commits stands beside it".to_owned();
        return Err(StoreFault::Corrupt { path: path.to_path_buf(), detail });
    }
    // A journal means that a crash fell into the creation: SQLite rolls back, then it is empty.
    if header.is_empty() || Path::new(&journal).exists() {
        return Ok(());
    }
    let foreign = |detail: String| StoreFault::Foreign { path: path.to_path_buf(), detail };
    if header.len() < 100 || !header.starts_with(b"SQLite format 3\0") {
        return Err(foreign("it is not an SQLite file".into()));
    }
    let word = |at: usize| {
        let octets = header.get(at..at + 4).and_then(|slice| slice.try_into().ok());
        octets.map_or(0, u32::from_be_bytes)
    };
    if word(68) != application_id.cast_unsigned() {
        return Err(foreign(format!("an SQLite file with application id {:#010x}", word(68))));
    }
    Ok(())
}

/// Opens the database for writing with a write-ahead log and `synchronous = FULL`; creates or migrates it. `first`
/// writes what a new database begins with.
///
/// # Errors
/// The file is damaged, foreign, newer or locked, or cannot be written.
pub fn open(
    path: &Path,
    layout: &Layout,
    cache_bytes: u64,
    first: &dyn Fn(&Transaction<'_>) -> rusqlite::Result<()>,
) -> Result<Connection, StoreFault> {
    check_header(path, layout.application_id)?;
    let fault = |error: rusqlite::Error| StoreFault::from_sqlite(path, &error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(fault)?;
    prepare_connection(&connection, cache_bytes).map_err(fault)?;
    connection.pragma_update(None, "page_size", column(PAGE_BYTES)).map_err(fault)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(fault)?;
    let found = version(&connection).map_err(fault)?;
    let known = layout.version();
    if found > known {
        return Err(StoreFault::NewerVersion { path: path.to_path_buf(), found, known });
    }
    migrate(&mut connection, found, layout, first).map_err(fault)?;
    let id: i32 =
        connection.query_row("PRAGMA application_id", [], |row| row.get(0)).map_err(fault)?;
    if id != layout.application_id {
        let detail = format!("an SQLite file with application id {:#010x}", id.cast_unsigned());
        return Err(StoreFault::Foreign { path: path.to_path_buf(), detail });
    }
    let mode: String =
        connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(fault)?;
    if mode != "wal" {
        let detail = "the file system does not support a write-ahead log".to_owned();
        return Err(StoreFault::Io { path: path.to_path_buf(), detail });
    }
    Ok(connection)
}

/// What every connection has.
pub(super) fn prepare_connection(
    connection: &Connection,
    cache_bytes: u64,
) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_WAIT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    // Otherwise some statements are compiled anew for each value that is bound to them.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // Negative: kibibytes instead of pages.
    connection.pragma_update(None, "cache_size", -column(cache_bytes / 1_024))
}

pub(super) fn version(connection: &Connection) -> rusqlite::Result<u32> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Applies what is missing, each step in a transaction of its own.
fn migrate(
    connection: &mut Connection,
    found: u32,
    layout: &Layout,
    first: &dyn Fn(&Transaction<'_>) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    for (step, statements) in layout.migrations.iter().enumerate().skip(found as usize) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(statements)?;
        if step == 0 {
            transaction.pragma_update(None, "application_id", layout.application_id)?;
            first(&transaction)?;
        }
        transaction.pragma_update(None, "user_version", step as u32 + 1)?;
        transaction.commit()?;
    }
    Ok(())
}
