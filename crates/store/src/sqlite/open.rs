//! From a path to an open database of the present version, or a refusal.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};

use super::SqliteOptions;
use super::codec::{column, number};
use super::file::Layout;
use crate::fault::StoreFault;

/// Marks a SQLite file as ours: "MWeQ" in ASCII.
pub const APPLICATION_ID: i32 = 0x4d57_6551;
/// The database in the data folder.
pub const DATABASE_FILE: &str = "mailweir.db";
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
    include_str!("schema_7.sql"),
];
/// What the database of a node is.
const LAYOUT: Layout = Layout { application_id: APPLICATION_ID, migrations: MIGRATIONS };
const PAGE_BYTES: u64 = 4_096;
/// Octets to which the write-ahead log is cut when it starts anew.
const LOG_KEPT_BYTES: u64 = 128 << 20;

/// Opens the database for writing, creates or migrates it.
pub(super) fn open_database(
    path: &Path,
    options: &SqliteOptions,
) -> Result<Connection, StoreFault> {
    let connection = super::file::open(path, &LAYOUT, options.cache_bytes, &|transaction| {
        let first = "INSERT INTO sequence VALUES (1, 1, 1, 1, 1, 1, 0, ?1)";
        transaction.execute(first, [random_key().as_slice()]).map(drop)
    })?;
    let fault = |error: rusqlite::Error| StoreFault::from_sqlite(path, &error);
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

/// Bounds the size of the database.
pub(super) fn set_size_limit(connection: &Connection, bytes: Option<u64>) -> rusqlite::Result<()> {
    let pages = bytes.map_or(u64::from(u32::MAX) - 1, |bytes| (bytes / PAGE_BYTES).max(1));
    connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))
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
