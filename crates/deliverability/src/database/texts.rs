//! Texts that clients could not qualify, what people have said of them, and accepted rules.

use std::collections::BTreeMap;

use mail::time::Timestamp;
use rules::bounce::{Key, Qualification};
use rusqlite::{OptionalExtension as _, Row, params};
use store::StoreFault;

use super::{Author, Database, column, count, moment, note, signed};

/// Statements of all clients together.
pub const MOST_TEXTS: u64 = 200_000;
/// Statements of one client.
pub const MOST_TEXTS_OF_CLIENT: u64 = 20_000;

/// What a client says of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatedText {
    /// The key of the text.
    pub key: Key,
    /// The text, normalised.
    pub text: String,
    /// Who said it.
    pub provider: String,
    /// How often, in all.
    pub occurrences: u64,
    /// When for the first time.
    pub first: Timestamp,
    /// When for the last time.
    pub last: Timestamp,
}

/// A text with what all clients say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedText {
    /// The key of the text.
    pub key: Key,
    /// The text, normalised.
    pub text: String,
    /// Whom clients name as its provider: one of them.
    pub provider: String,
    /// How often, over all clients.
    pub occurrences: u64,
    /// How many clients have met it.
    pub clients: u32,
    /// When for the first time.
    pub first: Timestamp,
    /// When for the last time.
    pub last: Timestamp,
}

fn key_of(row: &Row<'_>, place: usize) -> rusqlite::Result<Key> {
    row.get(place).map(Key::from_octets)
}

fn recorded(row: &Row<'_>) -> rusqlite::Result<RecordedText> {
    Ok(RecordedText {
        key: key_of(row, 0)?,
        text: row.get(1)?,
        provider: row.get(2)?,
        occurrences: count(row.get(3)?),
        clients: row.get(4)?,
        first: moment(row.get(5)?),
        last: moment(row.get(6)?),
    })
}

const RECORDED: &str = "SELECT key, MAX(text), MAX(provider), SUM(occurrences), COUNT(*), MIN(first), MAX(last) FROM text";

impl Database {
    /// Keeps what a client says; answers how many of it were kept. A text that it has stated before takes the place
    /// of that statement; new ones are kept as long as there is room.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn state_texts(
        &mut self,
        client: &str,
        texts: &[StatedText],
        now: Timestamp,
    ) -> Result<usize, StoreFault> {
        self.change(|change| {
            let number = |question: &str| -> rusqlite::Result<u64> {
                change.query_row(question, [], |row| row.get(0)).map(count)
            };
            let mut all = number("SELECT COUNT(*) FROM text")?;
            let own = "SELECT COUNT(*) FROM text WHERE client = ?1";
            let mut own = count(change.query_row(own, [client], |row| row.get(0))?);
            let known = "SELECT 1 FROM text WHERE key = ?1 AND client = ?2";
            let mut known = change.prepare_cached(known)?;
            let keep = "INSERT OR REPLACE INTO text VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
            let mut keep = change.prepare_cached(keep)?;
            let mut taken = 0;
            for text in texts {
                let key = text.key.octets();
                let is_new =
                    known.query_row(params![key, client], |_| Ok(())).optional()?.is_none();
                if is_new && (all >= MOST_TEXTS || own >= MOST_TEXTS_OF_CLIENT) {
                    continue;
                }
                keep.execute(params![
                    key,
                    client,
                    text.text,
                    text.provider,
                    signed(text.occurrences),
                    column(text.first),
                    column(text.last),
                    column(now),
                ])?;
                (all, own) = (all + u64::from(is_new), own + u64::from(is_new));
                taken += 1;
            }
            Ok(taken)
        })
    }

    /// The texts with the most occurrences, at most `limit`, and how many there are in all.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn recorded_texts(&self, limit: u32) -> Result<(Vec<RecordedText>, u64), StoreFault> {
        self.ask(|connection| {
            let most = format!("{RECORDED} GROUP BY key ORDER BY 4 DESC, key LIMIT ?1");
            let mut rows = connection.prepare_cached(&most)?;
            let texts = rows.query_map([limit], recorded)?.collect::<rusqlite::Result<Vec<_>>>()?;
            let all = "SELECT COUNT(DISTINCT key) FROM text";
            Ok((texts, count(connection.query_row(all, [], |row| row.get(0))?)))
        })
    }

    /// The text with this key, if a client has sent it.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn text(&self, key: &Key) -> Result<Option<String>, StoreFault> {
        self.ask(|connection| {
            let one = "SELECT text FROM text WHERE key = ?1 LIMIT 1";
            connection.query_row(one, [key.octets()], |row| row.get(0)).optional()
        })
    }

    /// What people have said.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn qualifications(&self) -> Result<BTreeMap<Key, (String, Qualification)>, StoreFault> {
        let rows = self.ask(|connection| {
            let all = "SELECT key, text, reason, type, status FROM qualification";
            let mut rows = connection.prepare_cached(all)?;
            let row = |row: &Row<'_>| {
                let words: [String; 3] = [row.get(2)?, row.get(3)?, row.get(4)?];
                Ok((key_of(row, 0)?, row.get::<_, String>(1)?, words))
            };
            rows.query_map([], row)?.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        let mut said = BTreeMap::new();
        for (key, text, [reason, failure_type, status]) in rows {
            let unexpected = |fault: mail::failure::UnknownWord| StoreFault::Internal {
                path: self.path.clone(),
                detail: fault.to_string(),
            };
            let qualification = Qualification {
                reason: reason.parse().map_err(unexpected)?,
                failure_type: failure_type.parse().map_err(unexpected)?,
                status: status.parse().map_err(unexpected)?,
            };
            said.insert(key, (text, qualification));
        }
        Ok(said)
    }

    /// Keeps what a person says of texts, and the rule that he has accepted with it.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn qualify(
        &mut self,
        texts: &[(Key, String)],
        qualification: &Qualification,
        rule: Option<(&str, &str)>,
        now: Timestamp,
        author: &Author,
        what: &str,
    ) -> Result<(), StoreFault> {
        self.change(|change| {
            let keep =
                "INSERT OR REPLACE INTO qualification VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
            let mut keep = change.prepare_cached(keep)?;
            for (key, text) in texts {
                keep.execute(params![
                    key.octets(),
                    text,
                    qualification.reason.word(),
                    qualification.failure_type.word(),
                    qualification.status.word(),
                    author.who,
                    author.why,
                    column(now),
                ])?;
            }
            if let Some((name, rule)) = rule {
                let keep = "INSERT OR REPLACE INTO accepted_rule VALUES (?1, ?2, ?3, ?4)";
                change.execute(keep, params![name, rule, author.who, column(now)])?;
            }
            note(change, now, author, what)
        })
    }

    /// The rules that people have accepted, by name.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn accepted_rules(&self) -> Result<BTreeMap<String, String>, StoreFault> {
        self.ask(|connection| {
            let mut rows = connection.prepare_cached("SELECT name, rule FROM accepted_rule")?;
            rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })
    }
}
