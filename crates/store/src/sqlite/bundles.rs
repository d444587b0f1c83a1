//! Bundles of rules: the pointer and what it points at.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::batch::{Batch, Stop};
use super::codec::{column, floor_ms, moment, number, unexpected};
use super::reads::SqliteReads;
use crate::bundles::{
    BUNDLES_KEPT, BundleApplication, BundleChange, BundleInForce, BundleReads, KeptBundle,
};
use crate::fault::StoreFault;
use crate::words::{RefusedWrite, Written};

impl Batch<'_> {
    /// Puts another bundle in force.
    pub(super) fn change_bundle(&mut self, change: &BundleChange) -> Result<Written, Stop> {
        let (in_force, _, _) = pointer(self.connection)?;
        if in_force != change.expected {
            return Err(RefusedWrite::OtherBundle { in_force, expected: change.expected }.into());
        }
        let known = |version: u64| -> rusqlite::Result<bool> {
            let kept = self
                .connection
                .prepare_cached("SELECT 1 FROM bundle WHERE version = ?1")?
                .exists([column(version)])?;
            Ok(kept && !change.forgets(version))
        };
        match (&change.bundle, change.to) {
            (Some(bundle), _) if known(bundle.version)? && !change.mends(bundle.version) => {
                return Err(RefusedWrite::OtherBundle { in_force, expected: change.to }.into());
            }
            (None, Some(version)) if !known(version)? => {
                return Err(RefusedWrite::UnknownBundle(version).into());
            }
            _ => {}
        }
        for version in change.forgets.iter().filter(|version| change.forgets(**version)) {
            self.connection
                .prepare_cached("DELETE FROM bundle WHERE version = ?1")?
                .execute([column(*version)])?;
        }
        if let Some(bundle) = &change.bundle {
            self.connection
                .prepare_cached(
                    "INSERT INTO bundle (version, key, octets) VALUES (?1, ?2, ?3) \
                     ON CONFLICT (version) DO UPDATE SET key = ?2, octets = ?3",
                )?
                .execute(params![column(bundle.version), bundle.key, &*bundle.octets])?;
        }
        let to = change.to.map(column);
        self.connection
            .prepare_cached("UPDATE bundle_in_force SET version = ?1, trust = ?2, since = ?3")?
            .execute(params![to, change.trust, floor_ms(change.at)])?;
        self.connection
            .prepare_cached(
                "INSERT INTO bundle_application (at, who, why, from_version, to_version, difference) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                floor_ms(change.at),
                change.who,
                change.why,
                in_force.map(column),
                to,
                change.difference
            ])?;
        self.connection
            .prepare_cached(
                "DELETE FROM bundle WHERE version NOT IN \
                 (SELECT version FROM bundle ORDER BY version DESC LIMIT ?1) \
                 AND version IS NOT (SELECT version FROM bundle_in_force) \
                 AND version IS NOT ?2",
            )?
            .execute(params![BUNDLES_KEPT, change.keep.map(column)])?;
        for (key, value) in &change.settings {
            self.put_setting(key, value)?;
        }
        Ok(Written::Done)
    }
}

/// Version, trust and time of what is in force.
fn pointer(connection: &Connection) -> rusqlite::Result<(Option<u64>, Box<str>, i64)> {
    connection.prepare_cached("SELECT version, trust, since FROM bundle_in_force")?.query_row(
        [],
        |row| {
            let version: Option<i64> = row.get(0)?;
            Ok((version.map(number).transpose()?, row.get(1)?, row.get(2)?))
        },
    )
}

fn read_bundle(row: &Row<'_>) -> rusqlite::Result<KeptBundle> {
    Ok(KeptBundle {
        version: number(row.get(0)?)?,
        key: row.get(1)?,
        octets: row.get_ref(2)?.as_blob()?.into(),
    })
}

fn bundle_of(connection: &Connection, version: u64) -> rusqlite::Result<Option<KeptBundle>> {
    connection
        .prepare_cached("SELECT version, key, octets FROM bundle WHERE version = ?1")?
        .query_row([column(version)], read_bundle)
        .optional()
}

impl BundleReads for SqliteReads {
    fn bundle_in_force(&self) -> Result<BundleInForce, StoreFault> {
        self.ask(|connection| {
            let (version, trust, since) = pointer(connection)?;
            let bundle = match version {
                None => None,
                Some(version) => Some(
                    bundle_of(connection, version)?
                        .ok_or_else(|| unexpected("a bundle in force that is not kept"))?,
                ),
            };
            Ok(BundleInForce { bundle, trust, since: moment(since) })
        })
    }

    fn bundle(&self, version: u64) -> Result<Option<KeptBundle>, StoreFault> {
        self.ask(|connection| bundle_of(connection, version))
    }

    fn bundle_versions(&self) -> Result<Vec<u64>, StoreFault> {
        self.ask(|connection| {
            connection
                .prepare_cached("SELECT version FROM bundle ORDER BY version DESC")?
                .query_map([], |row| number(row.get(0)?))?
                .collect()
        })
    }

    fn bundle_keys(&self) -> Result<Vec<(u64, [u8; 32])>, StoreFault> {
        self.ask(|connection| {
            connection
                .prepare_cached("SELECT version, key FROM bundle ORDER BY version DESC")?
                .query_map([], |row| Ok((number(row.get(0)?)?, row.get(1)?)))?
                .collect()
        })
    }

    fn bundle_applications(&self, limit: u32) -> Result<Vec<BundleApplication>, StoreFault> {
        self.ask(|connection| {
            connection
                .prepare_cached(
                    "SELECT id, at, who, why, from_version, to_version, difference \
                     FROM bundle_application ORDER BY id DESC LIMIT ?1",
                )?
                .query_map([limit], |row| {
                    let version = |place: usize| -> rusqlite::Result<Option<u64>> {
                        row.get::<_, Option<i64>>(place)?.map(number).transpose()
                    };
                    Ok(BundleApplication {
                        number: number(row.get(0)?)?,
                        at: moment(row.get(1)?),
                        who: row.get(2)?,
                        why: row.get(3)?,
                        from: version(4)?,
                        to: version(5)?,
                        difference: row.get(6)?,
                    })
                })?
                .collect()
        })
    }
}
