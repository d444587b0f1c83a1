//! Clients, what they fetched and what they said.

use mail::time::Timestamp;
use rusqlite::{OptionalExtension as _, Row, Transaction, params};
use store::StoreFault;
use web::TokenDigest;

use super::{Author, Database, column, count, moment, note, signed};
use crate::rollout::{ReportState, Standing};

/// What is known of a client.
#[derive(Clone, Debug)]
pub struct ClientFacts {
    /// Its name.
    pub name: String,
    /// The digest of its token.
    pub token: TokenDigest,
    /// When it got its token.
    pub added_at: Timestamp,
    /// From whom.
    pub added_by: String,
    /// The newest bundle that it was sent whole, or has named by its tag; 0: none.
    pub given: u64,
    /// The bundle of this instance that it said is in force; 0: none.
    pub in_force: u64,
    /// The version of its program; empty: it has not said.
    pub program: String,
    /// When it asked last.
    pub seen_at: Option<Timestamp>,
    /// What it said last.
    pub last_report: Option<LastReport>,
}

impl ClientFacts {
    /// As a roll-out sees it.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let has = self.given.max(self.in_force);
        Standing { name: self.name.clone(), has, remembers: self.in_force }
    }
}

/// What a client said last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastReport {
    /// When.
    pub at: Timestamp,
    /// Of which bundle.
    pub bundle: u64,
    /// What.
    pub state: String,
    /// Its words.
    pub reason: String,
}

/// A fetch of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// When.
    pub at: Timestamp,
    /// The bundle that the answer was about; 0: none.
    pub version: u64,
    /// 200: it was given; 304: it had it already; 204: none.
    pub status: u16,
    /// What the client had in force; 0: none.
    pub in_force: u64,
    /// The version of its program; empty: it has not said.
    pub program: String,
}

/// A fetch that is to be noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked<'a> {
    /// The client.
    pub client: &'a str,
    /// The version of its program.
    pub program: &'a str,
    /// What it says is in force; 0: none.
    pub stated: u64,
    /// The same where it is a bundle of this instance; else 0.
    pub in_force: u64,
    /// Bundles that it has named by their tags: it has their octets.
    pub named: &'a [u64],
    /// The version that the answer is about, with 200 or 304; `None`: there is nothing for it.
    pub answer: Option<(u64, u16)>,
}

/// A report of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said<'a> {
    /// The client.
    pub client: &'a str,
    /// Of which bundle.
    pub bundle: u64,
    /// What.
    pub state: ReportState,
    /// Its words.
    pub reason: &'a str,
    /// The version of its program.
    pub program: &'a str,
}

fn facts(row: &Row<'_>) -> rusqlite::Result<ClientFacts> {
    let said: Option<i64> = row.get(8)?;
    let last_report = match said {
        None => None,
        Some(at) => Some(LastReport {
            at: moment(at),
            bundle: count(row.get(9)?),
            state: row.get(10)?,
            reason: row.get(11)?,
        }),
    };
    Ok(ClientFacts {
        name: row.get(0)?,
        token: TokenDigest::kept(row.get(1)?),
        added_at: moment(row.get(2)?),
        added_by: row.get(3)?,
        given: count(row.get(4)?),
        in_force: count(row.get(5)?),
        program: row.get(6)?,
        seen_at: row.get::<_, Option<i64>>(7)?.map(moment),
        last_report,
    })
}

const STANDING: &str = "SELECT name, MAX(given, in_force), in_force FROM client";

fn standing(row: &Row<'_>) -> rusqlite::Result<Standing> {
    Ok(Standing { name: row.get(0)?, has: count(row.get(1)?), remembers: count(row.get(2)?) })
}

/// A client has a bundle.
fn hold(
    change: &Transaction<'_>,
    client: &str,
    version: u64,
    now: Timestamp,
) -> rusqlite::Result<()> {
    // A bundle or a client that is gone leaves no row.
    let hold = "INSERT INTO holder SELECT ?1, ?2, ?3 \
                WHERE EXISTS (SELECT 1 FROM bundle WHERE version = ?1) \
                AND EXISTS (SELECT 1 FROM client WHERE name = ?2) ON CONFLICT DO NOTHING";
    let is_new =
        change.prepare_cached(hold)?.execute(params![signed(version), client, column(now)])? == 1;
    if is_new {
        let newest = "UPDATE client SET given = MAX(given, ?2) WHERE name = ?1";
        change.prepare_cached(newest)?.execute(params![client, signed(version)])?;
    }
    Ok(())
}

impl Database {
    /// Every client, by name.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn clients(&self) -> Result<Vec<ClientFacts>, StoreFault> {
        self.ask(|connection| {
            let all = "SELECT c.name, c.token, c.added_at, c.added_by, c.given, c.in_force, c.program, c.seen_at, \
                       r.at, r.bundle, r.state, r.reason FROM client c LEFT JOIN report r \
                       ON r.id = (SELECT MAX(id) FROM report WHERE client = c.name) ORDER BY c.name";
            connection.prepare_cached(all)?.query_map([], facts)?.collect()
        })
    }

    /// Every client as a roll-out sees it.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn standings(&self) -> Result<Vec<Standing>, StoreFault> {
        self.ask(|connection| {
            let mut rows = connection.prepare_cached(&format!("{STANDING} ORDER BY name"))?;
            rows.query_map([], standing)?.collect()
        })
    }

    /// One client as a roll-out sees it.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn standing(&self, name: &str) -> Result<Option<Standing>, StoreFault> {
        self.ask(|connection| {
            let mut one = connection.prepare_cached(&format!("{STANDING} WHERE name = ?1"))?;
            one.query_row([name], standing).optional()
        })
    }

    /// Keeps a new client; `false`: there is one of this name, or there are `most` of them.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn add_client(
        &mut self,
        name: &str,
        token: &TokenDigest,
        most: u32,
        now: Timestamp,
        author: &Author,
    ) -> Result<bool, StoreFault> {
        self.change(|change| {
            let add = "INSERT INTO client (name, token, added_at, added_by) SELECT ?1, ?2, ?3, ?4 \
                       WHERE (SELECT COUNT(*) FROM client) < ?5 ON CONFLICT (name) DO NOTHING";
            let values = params![name, token.octets(), column(now), author.who, most];
            let added = change.execute(add, values)? == 1;
            if added {
                note(change, now, author, &format!("added client {name}"))?;
            }
            Ok(added)
        })
    }

    /// Forgets a client, its token and its texts; `false`: there is none of this name.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn remove_client(
        &mut self,
        name: &str,
        now: Timestamp,
        author: &Author,
    ) -> Result<bool, StoreFault> {
        self.change(|change| {
            let removed = change.execute("DELETE FROM client WHERE name = ?1", [name])? == 1;
            if removed {
                change.execute("DELETE FROM text WHERE client = ?1", [name])?;
                change.execute("DELETE FROM holder WHERE client = ?1", [name])?;
                note(change, now, author, &format!("removed client {name}"))?;
            }
            Ok(removed)
        })
    }

    /// Notes that a client has asked for a bundle, and what it is answered.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn note_fetch(&mut self, fetch: &Asked<'_>, now: Timestamp) -> Result<(), StoreFault> {
        let (version, status) = fetch.answer.unwrap_or((0, 204));
        self.change(|change| {
            change
                .prepare_cached(
                    "INSERT INTO fetch (at, client, version, status, in_force, program) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?
                .execute(params![
                    column(now),
                    fetch.client,
                    signed(version),
                    status,
                    signed(fetch.stated),
                    fetch.program,
                ])?;
            change
                .prepare_cached(
                    "UPDATE client SET in_force = ?2, program = ?3, seen_at = ?4 WHERE name = ?1",
                )?
                .execute(params![
                    fetch.client,
                    signed(fetch.in_force),
                    fetch.program,
                    column(now)
                ])?;
            fetch.named.iter().try_for_each(|version| hold(change, fetch.client, *version, now))
        })
    }

    /// Notes that a client was sent a bundle whole. One that was removed meanwhile has none.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn note_sent(
        &mut self,
        client: &str,
        version: u64,
        now: Timestamp,
    ) -> Result<(), StoreFault> {
        self.change(|change| hold(change, client, version, now))
    }

    /// How often each answer was given to fetches since a moment: 200, 204 and 304.
    #[cfg(test)]
    pub(crate) fn fetches_since(&self, since: Timestamp) -> Result<Vec<(u16, u64)>, StoreFault> {
        self.ask(|connection| {
            let question = "SELECT status, COUNT(*) FROM fetch WHERE at >= ?1 GROUP BY status";
            let mut rows = connection.prepare_cached(question)?;
            let row = |row: &Row<'_>| Ok((row.get(0)?, count(row.get(1)?)));
            rows.query_map([column(since)], row)?.collect()
        })
    }

    /// What a client fetched, the newest first, and what it said. Empty where nothing is kept any more.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn history_of_client(
        &self,
        name: &str,
        limit: u32,
    ) -> Result<(Vec<Fetch>, Vec<LastReport>), StoreFault> {
        self.ask(|connection| {
            let question = "SELECT at, version, status, in_force, program FROM fetch \
                            WHERE client = ?1 ORDER BY id DESC LIMIT ?2";
            let mut rows = connection.prepare_cached(question)?;
            let fetch = |row: &Row<'_>| {
                Ok(Fetch {
                    at: moment(row.get(0)?),
                    version: count(row.get(1)?),
                    status: row.get(2)?,
                    in_force: count(row.get(3)?),
                    program: row.get(4)?,
                })
            };
            let fetches = rows.query_map(params![name, limit], fetch)?.collect::<Result<_, _>>()?;
            let question = "SELECT at, bundle, state, reason FROM report \
                            WHERE client = ?1 ORDER BY id DESC LIMIT ?2";
            let mut rows = connection.prepare_cached(question)?;
            let said = |row: &Row<'_>| {
                Ok(LastReport {
                    at: moment(row.get(0)?),
                    bundle: count(row.get(1)?),
                    state: row.get(2)?,
                    reason: row.get(3)?,
                })
            };
            let reports = rows.query_map(params![name, limit], said)?.collect::<Result<_, _>>()?;
            Ok((fetches, reports))
        })
    }

    /// Keeps a report.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn report(&mut self, said: &Said<'_>, now: Timestamp) -> Result<(), StoreFault> {
        self.change(|change| {
            change
                .prepare_cached(
                    "INSERT INTO report (at, client, bundle, state, reason, program) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?
                .execute(params![
                    column(now),
                    said.client,
                    signed(said.bundle),
                    said.state.word(),
                    said.reason,
                    said.program,
                ])?;
            // Who has no such bundle cannot have it in force.
            let in_force = said.state.is_in_force().then(|| signed(said.bundle));
            change
                .prepare_cached(
                    "UPDATE client SET in_force = COALESCE( \
                     (SELECT version FROM holder WHERE version = ?2 AND client = ?1), in_force), \
                     program = ?3, seen_at = ?4 WHERE name = ?1",
                )?
                .execute(params![said.client, in_force, said.program, column(now)])
                .map(drop)
        })
    }

    /// Whether a client of this name is there.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn has_client(&self, name: &str) -> Result<bool, StoreFault> {
        self.ask(|connection| {
            let question = "SELECT 1 FROM client WHERE name = ?1";
            let found = connection.query_row(question, [name], |_| Ok(())).optional()?;
            Ok(found.is_some())
        })
    }
}
