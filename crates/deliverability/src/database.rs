//! What the instance keeps: one SQLite file with bundles, clients, what they fetched and said, texts, and the trail.
//!
//! **Promise.** Every change is one transaction with the line of the audit trail that tells of it; what was answered
//! is on disk (WAL, `synchronous = FULL`). One process holds the folder at a time.
//!
//! **Bounds.** Every table has a largest number of rows and forgets by age ([`Database::forget`]), but for what people
//! have said of texts: that stays until they withdraw it, and is refused beyond its bound.
//!
//! **Absences.** No clock: times are arguments. No token, only digests.

mod bundles;
mod clients;
mod texts;

use std::fs::File;
use std::path::{Path, PathBuf};

use mail::time::Timestamp;
use rusqlite::{Connection, Transaction, params};
use serde::Serialize;
use store::StoreFault;
use store::sqlite_file::{self, Layout};

pub use bundles::{BundleFacts, NewBundle, PushStep, StageTotals};
pub use clients::{Asked, ClientFacts, Fetch, LastReport, Said};
pub use texts::{
    Kept, MOST_ACCEPTED_RULES, MOST_QUALIFIED, MOST_TEXTS, MOST_TEXTS_OF_CLIENT, QualifiedText,
    RecordedText, Saying, StatedText, Withdrawn,
};

use crate::config::KeepConfig;

/// The file in the data folder.
pub const DATABASE_FILE: &str = "instance.db";

/// "MWeI" in ASCII.
const LAYOUT: Layout = Layout {
    application_id: 0x4d57_6549,
    migrations: &[include_str!("database/schema_1.sql"), include_str!("database/schema_2.sql")],
};
/// Octets of the page cache.
const CACHE: u64 = 32 << 20;
/// Rows of fetches, and of reports, whatever their age.
const MOST_EVENTS: i64 = 1_000_000;
/// Lines of the audit trail, whatever their age.
const MOST_TRAIL: i64 = 200_000;

/// The database, open.
pub struct Database {
    connection: Connection,
    path: PathBuf,
    /// Locked as long as it is open. Last, so that it is given up after the database is closed.
    _lock: File,
}

/// Who does something, and why: what the audit trail says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    /// A publisher's name, or what acts by itself.
    pub who: String,
    /// His words.
    pub why: String,
}

/// One line of the audit trail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TrailLine {
    /// When.
    pub at: String,
    /// Who.
    pub who: String,
    /// What was done, with what it was done to.
    pub what: String,
    /// Why.
    pub why: String,
}

/// A moment as a column.
fn column(at: Timestamp) -> i64 {
    i64::try_from(at.as_millis()).unwrap_or(i64::MAX)
}

/// A moment from a column.
fn moment(column: i64) -> Timestamp {
    Timestamp::from_millis(count(column))
}

/// A number that is never negative, as a column.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number that is never negative, from a column.
fn count(column: i64) -> u64 {
    u64::try_from(column).unwrap_or(0)
}

impl Database {
    /// Opens the database of a folder; creates both where they are missing.
    ///
    /// # Errors
    /// The folder is in use or cannot be written, or the database is damaged, foreign or newer.
    pub fn open(folder: &Path) -> Result<Self, StoreFault> {
        let lock = sqlite_file::lock_folder(folder)?;
        let path = folder.join(DATABASE_FILE);
        let connection = sqlite_file::open(&path, &LAYOUT, CACHE, &|_| Ok(()))?;
        Ok(Self { connection, path, _lock: lock })
    }

    /// A question.
    fn ask<T>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreFault> {
        question(&self.connection).map_err(|fault| StoreFault::from_sqlite(&self.path, &fault))
    }

    /// A change: all of it or nothing.
    fn change<T>(
        &mut self,
        change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreFault> {
        let transaction = self.connection.transaction();
        let done = transaction.and_then(|transaction| {
            let done = change(&transaction)?;
            transaction.commit()?;
            Ok(done)
        });
        done.map_err(|fault| StoreFault::from_sqlite(&self.path, &fault))
    }

    /// The newest lines of the audit trail.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn trail(&self, limit: u32) -> Result<Vec<TrailLine>, StoreFault> {
        self.ask(|connection| {
            let newest = "SELECT at, who, what, why FROM trail ORDER BY id DESC LIMIT ?1";
            let mut lines = connection.prepare_cached(newest)?;
            let lines = lines.query_map([limit], |row| {
                let at = moment(row.get(0)?).to_string();
                Ok(TrailLine { at, who: row.get(1)?, what: row.get(2)?, why: row.get(3)? })
            })?;
            lines.collect()
        })
    }

    /// Forgets what is old, and what is beyond the bounds. Bundles go with [`KeepConfig::bundles`], the newest one never.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn forget(&mut self, keep: &KeepConfig, now: Timestamp) -> Result<(), StoreFault> {
        self.change(|change| {
            for (table, age, most) in [
                ("fetch", keep.fetches, MOST_EVENTS),
                ("report", keep.fetches, MOST_EVENTS),
                ("trail", keep.audit, MOST_TRAIL),
            ] {
                // Two statements: each follows an index.
                let old = format!("DELETE FROM {table} WHERE at < ?1");
                change.prepare_cached(&old)?.execute([column(now.saturating_sub(age))])?;
                let surplus =
                    format!("DELETE FROM {table} WHERE id <= (SELECT MAX(id) FROM {table}) - ?1");
                change.prepare_cached(&surplus)?.execute([most])?;
            }
            let before = column(now.saturating_sub(keep.texts));
            change.execute("DELETE FROM text WHERE stated_at < ?1", [before])?;
            let old = "DELETE FROM bundle WHERE version <= \
                       (SELECT version FROM bundle ORDER BY version DESC LIMIT 1 OFFSET ?1)";
            if change.execute(old, [keep.bundles])? > 0 {
                let gone = "DELETE FROM holder WHERE version < (SELECT MIN(version) FROM bundle)";
                change.execute(gone, [])?;
            }
            Ok(())
        })
    }
}

/// Writes a line of the audit trail.
fn note(
    change: &Transaction<'_>,
    now: Timestamp,
    author: &Author,
    what: &str,
) -> rusqlite::Result<()> {
    let line = "INSERT INTO trail (at, who, what, why) VALUES (?1, ?2, ?3, ?4)";
    let values = params![column(now), author.who, what, author.why];
    change.prepare_cached(line)?.execute(values).map(drop)
}

#[cfg(test)]
mod tests;
