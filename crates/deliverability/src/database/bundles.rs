//! Bundles and their stages.

use mail::time::Timestamp;
use rules::bundle::{ClientVersion, Trust};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use store::StoreFault;

use super::{Author, Database, column, count, moment, note, signed};
use crate::rollout::{ReportState, Reports, Share, Stage};

/// A bundle that has passed every check.
pub struct NewBundle<'a> {
    /// What [`BundleFacts::etag`] will be.
    pub etag: &'a str,
    /// Its version.
    pub version: u64,
    /// When it was made.
    pub created: Timestamp,
    /// From when on clients refuse it.
    pub expires: Timestamp,
    /// The oldest program that may apply it.
    pub minimum_client: ClientVersion,
    /// The name of the key that signed it.
    pub signed_by: &'a str,
    /// For people.
    pub notes: &'a str,
    /// Its octets.
    pub octets: &'a [u8],
    /// The same, compressed by gzip.
    pub compressed: &'a [u8],
    /// To how many clients it goes.
    pub share: Share,
    /// What is trusted from now on.
    pub trust: &'a Trust,
}

/// What is known of a bundle besides its octets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleFacts {
    /// Version and digest, as clients name it: `8-0123456789abcdef`.
    pub etag: String,
    /// When it was made.
    pub created: Timestamp,
    /// The name of the key that signed it.
    pub signed_by: String,
    /// For people.
    pub notes: String,
    /// When it was pushed.
    pub pushed_at: Timestamp,
    /// By whom.
    pub pushed_by: String,
    /// How many octets it has.
    pub octets: u64,
    /// Why its stage is what it is.
    pub why: String,
    /// Its stage.
    pub stage: Stage,
}

/// The steps of a push, in order; a test stops the process at each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushStep {
    /// Its contents are checked, and the database is not taken yet.
    Read,
    /// Everything is checked, and nothing is written yet.
    Checked,
    /// The octets are written, in a transaction that is not committed.
    BundleWritten,
    /// So is the line of the audit trail.
    TrailWritten,
    /// The transaction is committed.
    Committed,
}

/// How many clients have said what of a bundle; each client counts with its last word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct StageTotals {
    /// Clients that were sent it whole, or have named it by its tag, and have it as the newest.
    pub given: u32,
    /// Clients whose last word was [`ReportState::Applied`].
    pub applied: u32,
    /// Clients whose last word was [`ReportState::Refused`].
    pub refused: u32,
    /// Clients whose last word was [`ReportState::RolledBack`].
    pub rolled_back: u32,
    /// Clients whose last word was [`ReportState::Alarm`].
    pub alarm: u32,
    /// Clients whose last word was [`ReportState::Well`].
    pub well: u32,
}

const FACTS: &str = "SELECT version, etag, created, expires, minimum_client, signed_by, notes, pushed_at, \
                     pushed_by, share, halted, since, judged_from, why, octets_count FROM bundle";

fn facts(row: &Row<'_>) -> rusqlite::Result<BundleFacts> {
    let unexpected = |column: usize, what: &str| {
        let kind = rusqlite::types::Type::Text;
        rusqlite::Error::FromSqlConversionFailure(column, kind, what.to_owned().into())
    };
    let minimum: String = row.get(4)?;
    let stage = Stage {
        version: count(row.get(0)?),
        share: Share::new(row.get(9)?).ok_or_else(|| unexpected(9, "not a share"))?,
        halted: row.get(10)?,
        since: moment(row.get(11)?),
        judged_from: moment(row.get(12)?),
        expires: moment(row.get(3)?),
        minimum_client: minimum.parse().map_err(|fault: String| unexpected(4, &fault))?,
    };
    Ok(BundleFacts {
        etag: row.get(1)?,
        created: moment(row.get(2)?),
        signed_by: row.get(5)?,
        notes: row.get(6)?,
        pushed_at: moment(row.get(7)?),
        pushed_by: row.get(8)?,
        octets: count(row.get(14)?),
        why: row.get(13)?,
        stage,
    })
}

impl Database {
    /// What bundles have said about keys.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn trust(&self) -> Result<Trust, StoreFault> {
        let kept = self.ask(|connection| {
            let kept = "SELECT keys FROM trust";
            connection.query_row(kept, [], |row| row.get::<_, String>(0)).optional()
        })?;
        let read = kept.as_deref().map(serde_json::from_str).transpose();
        read.map(Option::unwrap_or_default).map_err(|fault| StoreFault::Internal {
            path: self.path.clone(),
            detail: format!("keys: {fault}"),
        })
    }

    /// Every bundle that is kept, the newest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn bundles(&self) -> Result<Vec<BundleFacts>, StoreFault> {
        self.ask(|connection| {
            let mut all = connection.prepare_cached(&format!("{FACTS} ORDER BY version DESC"))?;
            all.query_map([], facts)?.collect()
        })
    }

    /// One bundle.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn bundle(&self, version: u64) -> Result<Option<BundleFacts>, StoreFault> {
        self.ask(|connection| {
            let mut one = connection.prepare_cached(&format!("{FACTS} WHERE version = ?1"))?;
            one.query_row([signed(version)], facts).optional()
        })
    }

    /// The octets of a bundle, as they are or compressed by gzip.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn octets(&self, version: u64, compressed: bool) -> Result<Option<Vec<u8>>, StoreFault> {
        let which = if compressed { "compressed" } else { "octets" };
        self.ask(|connection| {
            let one = format!("SELECT {which} FROM bundle WHERE version = ?1");
            connection.query_row(&one, [signed(version)], |row| row.get(0)).optional()
        })
    }

    /// Keeps a bundle. `step` is told how far the work is.
    ///
    /// # Errors
    /// The database cannot be written, or has the version already; then nothing has changed.
    pub fn push(
        &mut self,
        new: &NewBundle<'_>,
        now: Timestamp,
        author: &Author,
        step: &mut dyn FnMut(PushStep),
    ) -> Result<(), StoreFault> {
        step(PushStep::Checked);
        let keys = serde_json::to_string(new.trust).map_err(|fault| StoreFault::Internal {
            path: self.path.clone(),
            detail: format!("keys: {fault}"),
        })?;
        self.change(|change| {
            change.execute(
                "INSERT INTO bundle (version, etag, created, expires, minimum_client, signed_by, notes, pushed_at, \
                 pushed_by, share, halted, since, judged_from, why, octets_count, octets, compressed) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, 0, ?8, ?8, ?11, ?12, ?13, ?14)",
                params![
                    signed(new.version),
                    new.etag,
                    column(new.created),
                    column(new.expires),
                    new.minimum_client.to_string(),
                    new.signed_by,
                    new.notes,
                    column(now),
                    author.who,
                    new.share.percent(),
                    author.why,
                    signed(new.octets.len() as u64),
                    new.octets,
                    new.compressed,
                ],
            )?;
            step(PushStep::BundleWritten);
            change.execute("INSERT OR REPLACE INTO trust VALUES (1, ?1)", [&keys])?;
            let what = format!("pushed bundle {} to {} %", new.version, new.share.percent());
            note(change, now, author, &what)?;
            step(PushStep::TrailWritten);
            Ok(())
        })?;
        step(PushStep::Committed);
        Ok(())
    }

    /// Changes a stage; `what` is the line of the audit trail.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn set_stage(
        &mut self,
        stage: &Stage,
        now: Timestamp,
        author: &Author,
        what: &str,
    ) -> Result<(), StoreFault> {
        self.change(|change| {
            change.execute(
                "UPDATE bundle SET share = ?2, halted = ?3, since = ?4, judged_from = ?5, why = ?6 WHERE version = ?1",
                params![
                    signed(stage.version),
                    stage.share.percent(),
                    stage.halted,
                    column(stage.since),
                    column(stage.judged_from),
                    author.why,
                ],
            )?;
            note(change, now, author, what)
        })
    }

    /// What clients that have a bundle have said of it since its stage is judged.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn reports(&self, stage: &Stage) -> Result<Reports, StoreFault> {
        self.ask(|connection| {
            let question = "SELECT state, COUNT(DISTINCT client), MAX(at) FROM report \
                            WHERE bundle = ?1 AND at >= ?2 AND client IN \
                            (SELECT client FROM holder WHERE version = ?1) \
                            GROUP BY state IN ('applied', 'well')";
            let mut rows = connection.prepare_cached(question)?;
            let mut rows = rows.query(params![signed(stage.version), column(stage.judged_from)])?;
            let mut reports = Reports::default();
            while let Some(row) = rows.next()? {
                let (state, clients, last): (String, u32, i64) =
                    (row.get(0)?, row.get(1)?, row.get(2)?);
                let good = [ReportState::Applied.word(), ReportState::Well.word()];
                match good.contains(&state.as_str()) {
                    true => reports.in_force = clients,
                    false => {
                        (reports.against, reports.last_against) = (clients, Some(moment(last)));
                    }
                }
            }
            Ok(reports)
        })
    }

    /// Who spoke against a bundle last since its stage is judged, what, and in which words.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn last_against(&self, stage: &Stage) -> Result<Option<[String; 3]>, StoreFault> {
        self.ask(|connection| {
            let question = "SELECT client, state, reason FROM report \
                            WHERE bundle = ?1 AND at >= ?2 AND state NOT IN ('applied', 'well') \
                            AND client IN (SELECT client FROM holder WHERE version = ?1) \
                            ORDER BY id DESC LIMIT 1";
            let mut last = connection.prepare_cached(question)?;
            let row = |row: &Row<'_>| Ok([row.get(0)?, row.get(1)?, row.get(2)?]);
            last.query_row(params![signed(stage.version), column(stage.judged_from)], row)
                .optional()
        })
    }

    /// How a bundle stands with the clients.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn stage_totals(&self, version: u64) -> Result<StageTotals, StoreFault> {
        self.ask(|connection| totals(connection, signed(version)))
    }
}

fn totals(connection: &Connection, version: i64) -> rusqlite::Result<StageTotals> {
    let given = "SELECT COUNT(*) FROM client WHERE given = ?1";
    let mut totals = StageTotals {
        given: connection.query_row(given, [version], |row| row.get(0))?,
        ..StageTotals::default()
    };
    // SQLite takes the state from the row that has the greatest id.
    let last = "SELECT state, COUNT(*) FROM \
                (SELECT state, MAX(id) FROM report WHERE bundle = ?1 \
                 AND client IN (SELECT client FROM holder WHERE version = ?1) GROUP BY client) GROUP BY state";
    let mut rows = connection.prepare_cached(last)?;
    let mut rows = rows.query([version])?;
    while let Some(row) = rows.next()? {
        let (state, clients): (String, u32) = (row.get(0)?, row.get(1)?);
        match ReportState::of(&state) {
            Some(ReportState::Applied) => totals.applied = clients,
            Some(ReportState::Refused) => totals.refused = clients,
            Some(ReportState::RolledBack) => totals.rolled_back = clients,
            Some(ReportState::Alarm) => totals.alarm = clients,
            Some(ReportState::Well) => totals.well = clients,
            None => {}
        }
    }
    Ok(totals)
}
