//! Texts that clients could not qualify, what people have said of them, and accepted rules.

use std::collections::BTreeMap;

use mail::time::Timestamp;
use rules::bounce::{Key, Qualification};
use rusqlite::{OptionalExtension as _, Row, params};
use serde::Serialize;
use store::StoreFault;

use super::{Author, Database, column, count, moment, note, signed};

/// Statements of all clients together.
pub const MOST_TEXTS: u64 = 200_000;
/// Statements of one client.
pub const MOST_TEXTS_OF_CLIENT: u64 = 20_000;

/// Texts of which people have said something: as many as a bundle takes.
pub const MOST_QUALIFIED: u64 = rules::bundle::MOST_TEXTS as u64;
/// Rules that people have accepted.
pub const MOST_ACCEPTED_RULES: u64 = 1_000;

/// What a person says of texts.
#[derive(Clone, Copy, Debug)]
pub struct Saying<'a> {
    /// How he has named them: a cluster, or a key.
    pub said_of: &'a str,
    /// The texts.
    pub texts: &'a [(Key, String)],
    /// What they mean.
    pub qualification: Qualification,
    /// The rule that he has accepted with it, by its name.
    pub rule: Option<(&'a str, &'a str)>,
    /// The line of the audit trail.
    pub what: &'a str,
}

/// Whether there was room for what people have said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is kept.
    Kept,
    /// There would be more than [`MOST_QUALIFIED`] texts; nothing is changed.
    TooManyTexts,
    /// There would be more than [`MOST_ACCEPTED_RULES`] rules; nothing is changed.
    TooManyRules,
}

/// What a person has said of a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QualifiedText {
    /// The key of the text, or the name of an accepted rule.
    pub key: String,
    /// What was named when it was said: a cluster, or the key.
    pub said_of: String,
    /// The text, or the rule.
    pub text: String,
    /// What it means; empty for a rule, which says it itself.
    pub reason: String,
    /// `keep` or `ignore`; `rule` for a rule.
    pub status: String,
    /// Who has said it.
    pub who: String,
    /// When.
    pub at: String,
}

/// What was taken back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Withdrawn {
    /// Texts that nobody has qualified any more.
    pub texts: usize,
    /// Rules that are not accepted any more.
    pub rules: Vec<String>,
}

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
        said: &Saying<'_>,
        now: Timestamp,
        author: &Author,
    ) -> Result<Kept, StoreFault> {
        let Saying { said_of, texts, qualification, rule, what } = *said;
        self.change(|change| {
            let number = |question: &str| -> rusqlite::Result<u64> {
                change.query_row(question, [], |row| row.get(0)).map(count)
            };
            let known = "SELECT 1 FROM qualification WHERE key = ?1";
            let mut known = change.prepare_cached(known)?;
            let mut all = number("SELECT COUNT(*) FROM qualification")?;
            for (key, _) in texts {
                all += u64::from(!known.exists([key.octets()])?);
            }
            if all > MOST_QUALIFIED {
                return Ok(Kept::TooManyTexts);
            }
            if let Some((name, _)) = rule {
                let known = "SELECT 1 FROM accepted_rule WHERE name = ?1";
                let is_new = !change.prepare_cached(known)?.exists([name])?;
                let all = number("SELECT COUNT(*) FROM accepted_rule")? + u64::from(is_new);
                if all > MOST_ACCEPTED_RULES {
                    return Ok(Kept::TooManyRules);
                }
            }
            let keep =
                "INSERT OR REPLACE INTO qualification (key, text, reason, type, status, who, why, at, said_of) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
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
                    said_of,
                ])?;
            }
            if let Some((name, rule)) = rule {
                let keep = "INSERT OR REPLACE INTO accepted_rule (name, rule, who, at, said_of) \
                            VALUES (?1, ?2, ?3, ?4, ?5)";
                change.execute(keep, params![name, rule, author.who, column(now), said_of])?;
            }
            note(change, now, author, what)?;
            Ok(Kept::Kept)
        })
    }

    /// Takes back what was said: of the text with this key, of a cluster as it was named then, or an accepted rule by its
    /// name. Nothing is noted where there is no such thing.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn withdraw(
        &mut self,
        which: &str,
        now: Timestamp,
        author: &Author,
    ) -> Result<Withdrawn, StoreFault> {
        self.change(|change| {
            let texts = match Key::from_hex(which) {
                Some(key) => {
                    let one = "DELETE FROM qualification WHERE key = ?1";
                    change.execute(one, [key.octets()])?
                }
                None => change.execute("DELETE FROM qualification WHERE said_of = ?1", [which])?,
            };
            let rules = "DELETE FROM accepted_rule WHERE name = ?1 OR said_of = ?1 RETURNING name";
            let mut rules = change.prepare(rules)?;
            let rules: Vec<String> =
                rules.query_map([which], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
            let withdrawn = Withdrawn { texts, rules };
            if withdrawn != Withdrawn::default() {
                let rules = match withdrawn.rules.is_empty() {
                    true => String::new(),
                    false => format!(", rule {}", withdrawn.rules.join(", ")),
                };
                note(change, now, author, &format!("withdrew {which} ({texts} texts{rules})"))?;
            }
            Ok(withdrawn)
        })
    }

    /// What people have said of texts, the newest first, how many texts it is in all, and every accepted rule.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn qualified(
        &self,
        limit: u32,
    ) -> Result<(Vec<QualifiedText>, u64, Vec<QualifiedText>), StoreFault> {
        self.ask(|connection| {
            let said = |row: &Row<'_>, key: String| {
                Ok(QualifiedText {
                    key,
                    said_of: row.get(1)?,
                    text: row.get(2)?,
                    reason: row.get(3)?,
                    status: row.get(4)?,
                    who: row.get(5)?,
                    at: moment(row.get(6)?).to_string(),
                })
            };
            let texts = "SELECT key, said_of, text, reason, status, who, at FROM qualification \
                         ORDER BY at DESC, key LIMIT ?1";
            let mut texts = connection.prepare_cached(texts)?;
            let texts = texts
                .query_map([limit], |row| said(row, key_of(row, 0)?.to_string()))?
                .collect::<rusqlite::Result<_>>()?;
            let all = "SELECT COUNT(*) FROM qualification";
            let all = count(connection.query_row(all, [], |row| row.get(0))?);
            let rules = "SELECT name, said_of, rule, '', 'rule', who, at FROM accepted_rule \
                         ORDER BY at DESC, name";
            let mut rules = connection.prepare_cached(rules)?;
            let rules = rules
                .query_map([], |row| said(row, row.get(0)?))?
                .collect::<rusqlite::Result<_>>()?;
            Ok((texts, all, rules))
        })
    }

    /// As if a person had said something of so many texts; answers their keys.
    #[cfg(test)]
    pub(crate) fn fill_qualified(&mut self, number: u64) -> Result<Vec<Key>, StoreFault> {
        self.change(|change| {
            let fill = "WITH RECURSIVE counted (number) AS \
                        (SELECT 1 UNION ALL SELECT number + 1 FROM counted WHERE number < ?1) \
                        INSERT INTO qualification SELECT randomblob(16), '554 text ' || number, 'Refused', \
                        'Soft', 'keep', 'anna', '', 1, 'all' FROM counted";
            change.execute(fill, [signed(number)])?;
            let mut keys = change.prepare("SELECT key FROM qualification LIMIT 20")?;
            keys.query_map([], |row| key_of(row, 0))?.collect()
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
