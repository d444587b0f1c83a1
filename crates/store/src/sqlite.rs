//! The store on one SQLite database.
//!
//! **Promise.** A batch is acknowledged after its commit is on disk (WAL, `synchronous = FULL`). One
//! process holds the data folder at a time. A database of a newer version, of another program, or a
//! damaged one is refused in one line and left as it is.
//!
//! **How.** One connection writes and keeps a little in memory that saves questions (the `batch`
//! module); another reads. Statements are prepared once. SQLite moves the log into the database
//! after `checkpoint_pages` pages, passively: it never waits for readers.
//!
//! **Absences.** No page of the database is cached beyond the configured sizes; nothing is mapped
//! into memory; no read leaves a transaction open.

mod address_hash;
mod append;
mod arrivals;
mod batch;
mod bundles;
pub(crate) mod claims;
pub(crate) mod codec;
pub(crate) mod deliveries;
pub mod file;
pub(crate) mod forget;
mod ledger_reads;
mod open;
mod quarantine;
mod reads;
mod recent;
mod records;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;

pub use file::LOCK_FILE;
pub use open::{APPLICATION_ID, DATABASE_FILE, SCHEMA_VERSION};
pub use reads::SqliteReads;

use crate::contract::{Reads, Store};
use crate::fault::StoreFault;
use crate::kill_point;
use crate::words::{Write, Written};
use batch::{Batch, Memory, Stop};
use reads::SharedTotals;

/// How a database is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteOptions {
    /// The name of this node: its parts are its own again after a restart.
    pub node: String,
    /// Octets of the writer's page cache.
    pub cache_bytes: u64,
    /// Octets of each reader's page cache.
    pub reader_cache_bytes: u64,
    /// Pages of the write-ahead log after which they are moved into the database.
    pub checkpoint_pages: u32,
    /// The database never grows beyond this; `None`: as the disk allows.
    pub size_limit_bytes: Option<u64>,
    /// Messages known by address in memory before they are merged into the index on disk; up to twice
    /// as many, of about 50 octets each, are in memory.
    pub merge_addresses_at: usize,
    /// Fresh messages of streams that wait outside of the queue's tree, where they are cheap to put and to take; what is
    /// beyond moves into it. One that waits alone for its domain takes about 130 octets of memory, others 8.
    pub arrivals_at_most: usize,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            node: "node".into(),
            cache_bytes: 64 << 20,
            reader_cache_bytes: 8 << 20,
            checkpoint_pages: 16_384,
            size_limit_bytes: None,
            merge_addresses_at: 131_072,
            arrivals_at_most: 16_384,
        }
    }
}

/// The store on one SQLite database.
pub struct SqliteStore {
    /// First, because it is closed first: the last connection moves the log into the database, which
    /// one that only reads cannot do.
    reads: SqliteReads,
    connection: Connection,
    /// `None` after a fault: it is read again before the next batch.
    memory: Option<Memory>,
    totals: SharedTotals,
    incarnation: u64,
    options: SqliteOptions,
    path: PathBuf,
    /// Locked as long as it is open. Last, so that it is given up after the database is closed.
    _lock: File,
}

impl SqliteStore {
    /// Opens the database in a data folder; creates both where they are missing and migrates an older
    /// version.
    ///
    /// # Errors
    /// The folder is in use or cannot be written, or the database is damaged, foreign or newer.
    pub fn open(folder: &Path, options: SqliteOptions) -> Result<Self, StoreFault> {
        let lock = file::lock_folder(folder)?;
        kill_point::pass("start", "folder-locked");
        let path = folder.join(DATABASE_FILE);
        let mut connection = open::open_database(&path, &options)?;
        kill_point::pass("start", "database-opened");
        let fault = |error: rusqlite::Error| StoreFault::from_sqlite(&path, &error);
        let incarnation = open::next_incarnation(&mut connection, &options.node).map_err(fault)?;
        kill_point::pass("start", "life-counted");
        let memory = Memory::load(&connection, &options.node, incarnation).map_err(fault)?;
        let totals = SharedTotals::new(Mutex::new(memory.totals));
        let reads = SqliteReads::open(&path, options.reader_cache_bytes, Arc::clone(&totals))?;
        let memory = Some(memory);
        Ok(Self { connection, reads, memory, totals, incarnation, options, path, _lock: lock })
    }

    /// Another connection for questions, for another thread.
    ///
    /// # Errors
    /// The database cannot be opened.
    pub fn reader(&self) -> Result<SqliteReads, StoreFault> {
        let totals = Arc::clone(&self.totals);
        SqliteReads::open(&self.path, self.options.reader_cache_bytes, totals)
    }

    /// Which life of the node this is, from 1.
    #[must_use]
    pub const fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Looks through the whole database for damage. Takes about a second per gigabyte.
    ///
    /// # Errors
    /// [`StoreFault::Corrupt`] with the first damage found.
    pub fn quick_check(&self) -> Result<(), StoreFault> {
        let answer: String = self
            .connection
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(|error| self.fault(&error))?;
        if answer == "ok" {
            return Ok(());
        }
        Err(StoreFault::Corrupt { path: self.path.clone(), detail: answer })
    }

    /// Sets the bound on the size of the database anew; `None`: as the disk allows.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn set_size_limit(&mut self, bytes: Option<u64>) -> Result<(), StoreFault> {
        self.options.size_limit_bytes = bytes;
        open::set_size_limit(&self.connection, bytes).map_err(|error| self.fault(&error))
    }

    fn fault(&self, error: &rusqlite::Error) -> StoreFault {
        StoreFault::from_sqlite(&self.path, error)
    }

    fn try_apply(&mut self, batch: &[Write]) -> rusqlite::Result<Vec<Written>> {
        if self.memory.is_none() {
            let node = &self.options.node;
            self.memory = Some(Memory::load(&self.connection, node, self.incarnation)?);
        }
        let memory = self.memory.as_mut().expect("the memory was loaded just above");
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let mut work = Batch { connection: &self.connection, memory };
        let mut answers = Vec::with_capacity(batch.len());
        for write in batch {
            answers.push(match work.write(write) {
                Ok(written) => written,
                Err(Stop::Refused(refused)) => Written::Refused(refused),
                Err(Stop::Sqlite(error)) => return Err(error),
            });
        }
        work.flush(&self.options)?;
        kill_point::pass_batch("before-commit", batch);
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        kill_point::pass_batch("after-commit", batch);
        *self.totals.lock().unwrap_or_else(PoisonError::into_inner) = memory.totals;
        memory.trim();
        Ok(answers)
    }
}

impl Store for SqliteStore {
    fn apply(&mut self, batch: &[Write]) -> Result<Vec<Written>, StoreFault> {
        self.try_apply(batch).map_err(|error| {
            self.memory = None;
            if !self.connection.is_autocommit() {
                // Where the roll-back fails too, SQLite rolls back by itself when the file is opened
                // again; until then every batch fails at its BEGIN, so nothing is acknowledged.
                if let Err(second) = self.connection.execute_batch("ROLLBACK") {
                    tracing::error!(error = %second, "a failed batch could not be rolled back");
                }
            }
            if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull) {
                // What was written of the batch stands in the log and would keep the disk full. Where it cannot be cut
                // now, because somebody reads, the next checkpoint that starts the log anew does it.
                let cut = "PRAGMA wal_checkpoint(TRUNCATE)";
                if let Err(second) = self.connection.query_row(cut, [], |_| Ok(())) {
                    tracing::warn!(error = %second, "the log of the database could not be cut");
                }
            }
            self.fault(&error)
        })
    }

    fn probe(&mut self) -> Result<(), StoreFault> {
        // A quarter of a mebibyte, so that a disk with a few free blocks does not count as healthy.
        let filler = "x".repeat(256 << 10);
        let put = |value: &str| Write::PutSetting { key: "probe".into(), value: value.into() };
        self.apply(&[put(&filler)])?;
        self.apply(&[put("")]).map(|_| ())
    }

    fn reads(&self) -> &dyn Reads {
        &self.reads
    }
}
