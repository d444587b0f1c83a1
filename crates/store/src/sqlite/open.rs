//! From a path to an open database of the present version, or a refusal.

use std::fs::{File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io::{ErrorKind, Read, Seek, Write as _};
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::SqliteOptions;
use super::codec::{column, number};
use crate::fault::StoreFault;

/// Marks a SQLite file as ours: "MWeQ" in ASCII.
pub const APPLICATION_ID: i32 = 0x4d57_6551;
/// The database in the data folder.
pub const DATABASE_FILE: &str = "mailweir.db";
/// The file whose lock says that the data folder is in use. Holds the process number.
pub const LOCK_FILE: &str = "mailweir.lock";
/// The newest version of the schema, which is the number of migrations.
pub const SCHEMA_VERSION: u32 = MIGRATIONS.len() as u32;

/// What leads from each version to the next, from an empty file on.
const MIGRATIONS: &[&str] = &[
    include_str!("schema_1.sql"),
    include_str!("schema_2.sql"),
    include_str!("schema_3.sql"),
    include_str!("schema_4.sql"),
    include_str!("schema_5.sql"),
    include_str!("schema_6.sql"),
];
const PAGE_BYTES: u64 = 4_096;
/// Octets to which the write-ahead log is cut when it starts anew.
const LOG_KEPT_BYTES: u64 = 128 << 20;
/// How long a lock of another connection is waited for.
const BUSY_WAIT: Duration = Duration::from_secs(5);
/// Prepared statements kept per connection; the program has fewer.
const STATEMENTS_KEPT: usize = 192;

/// Creates the folder where it is missing and takes its lock.
pub(super) fn lock_folder(folder: &Path) -> Result<File, StoreFault> {
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
pub(super) fn check_header(path: &Path) -> Result<(), StoreFault> {
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
    if word(68) != APPLICATION_ID.cast_unsigned() {
        return Err(foreign(format!("an SQLite file with application id {:#010x}", word(68))));
    }
    Ok(())
}

/// Opens the database for writing, creates or migrates it.
pub(super) fn open_database(
    path: &Path,
    options: &SqliteOptions,
) -> Result<Connection, StoreFault> {
    check_header(path)?;
    let fault = |error: rusqlite::Error| StoreFault::from_sqlite(path, &error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(fault)?;
    prepare_connection(&connection, options.cache_bytes).map_err(fault)?;
    connection.pragma_update(None, "page_size", column(PAGE_BYTES)).map_err(fault)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(fault)?;
    let found = version(&connection).map_err(fault)?;
    if found > SCHEMA_VERSION {
        return Err(StoreFault::NewerVersion {
            path: path.to_path_buf(),
            found,
            known: SCHEMA_VERSION,
        });
    }
    migrate(&mut connection, found).map_err(fault)?;
    let id: i32 =
        connection.query_row("PRAGMA application_id", [], |row| row.get(0)).map_err(fault)?;
    if id != APPLICATION_ID {
        let detail = format!("an SQLite file with application id {:#010x}", id.cast_unsigned());
        return Err(StoreFault::Foreign { path: path.to_path_buf(), detail });
    }
    let mode: String =
        connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(fault)?;
    if mode != "wal" {
        let detail = "the file system does not support a write-ahead log".to_owned();
        return Err(StoreFault::Io { path: path.to_path_buf(), detail });
    }
    let tune = |connection: &Connection| -> rusqlite::Result<()> {
        connection.pragma_update(None, "wal_autocheckpoint", options.checkpoint_pages)?;
        connection.query_row(
            &format!("PRAGMA journal_size_limit = {LOG_KEPT_BYTES}"),
            [],
            |_| Ok(()),
        )?;
        set_size_limit(connection, options.size_limit_bytes)
    };
    tune(&connection).map_err(fault)?;
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

/// Bounds the size of the database.
pub(super) fn set_size_limit(connection: &Connection, bytes: Option<u64>) -> rusqlite::Result<()> {
    let pages = bytes.map_or(u64::from(u32::MAX) - 1, |bytes| (bytes / PAGE_BYTES).max(1));
    connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))
}

pub(super) fn version(connection: &Connection) -> rusqlite::Result<u32> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Applies what is missing, each step in a transaction of its own.
fn migrate(connection: &mut Connection, found: u32) -> rusqlite::Result<()> {
    for (step, statements) in MIGRATIONS.iter().enumerate().skip(found as usize) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(statements)?;
        if step == 0 {
            transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
            transaction.execute(
                "INSERT INTO sequence VALUES (1, 1, 1, 1, 1, 1, 0, ?1)",
                [random_key().as_slice()],
            )?;
        }
        transaction.pragma_update(None, "user_version", step as u32 + 1)?;
        transaction.commit()?;
    }
    Ok(())
}

/// Sixteen octets that differ from database to database: the standard library seeds its hash tables
/// from the system's random numbers.
fn random_key() -> [u8; 16] {
    let mut key = [0; 16];
    for (index, half) in key.chunks_exact_mut(8).enumerate() {
        half.copy_from_slice(&RandomState::new().hash_one(index).to_le_bytes());
    }
    key
}

/// Counts the lives of this node.
pub(super) fn next_incarnation(connection: &mut Connection, node: &str) -> rusqlite::Result<u64> {
    let transaction = connection.transaction()?;
    let earlier: Option<i64> = transaction
        .query_row("SELECT incarnation FROM node WHERE name = ?1", [node], |row| row.get(0))
        .optional()?;
    let incarnation = number(earlier.unwrap_or(0))? + 1;
    transaction.execute(
        "INSERT INTO node (name, incarnation) VALUES (?1, ?2) \
         ON CONFLICT DO UPDATE SET incarnation = excluded.incarnation",
        params![node, column(incarnation)],
    )?;
    transaction.commit()?;
    Ok(incarnation)
}
