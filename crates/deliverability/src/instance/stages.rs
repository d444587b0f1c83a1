//! Stages of bundles: whom they cover, what clients say of them, what people decide, and what time does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::MutexGuard;

use mail::time::Timestamp;
use serde::Deserialize;
use store::StoreFault;

use super::{Instance, InstanceFault, locked};
use crate::database::{Author, BundleFacts, Database, Said};
use crate::rollout::{Share, Stage, Standing, covered, may_advance, must_halt, open};

/// What is to happen to a roll-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RolloutAction {
    /// To more clients.
    Advance,
    /// To nobody who has not got it.
    Halt,
    /// On with it.
    Resume,
}

/// Whom the stages cover that go to a share of the clients. To find that out takes a look at all clients, and it stays the
/// same however many of those that are covered get the bundle.
#[derive(Debug, Default)]
pub(super) struct Covers {
    /// The share of a version, and the names of those it covers.
    stages: BTreeMap<u64, (Share, BTreeSet<String>)>,
    /// How often all clients were looked at.
    #[cfg(test)]
    pub(super) looks: u32,
}

impl Covers {
    /// Whether a stage covers a client; `all` reads all clients, and is asked only when it is not known.
    pub(super) fn cover(
        &mut self,
        stage: &Stage,
        client: &Standing,
        all: impl FnOnce() -> Result<Vec<Standing>, StoreFault>,
    ) -> Result<bool, StoreFault> {
        if stage.share == Share::ALL || client.has >= stage.version {
            return Ok(true);
        }
        let known = self.stages.get(&stage.version).filter(|(share, _)| *share == stage.share);
        if let Some((_, names)) = known {
            return Ok(names.contains(&client.name));
        }
        let mut clients = all()?;
        // What it says now is newer than what is noted.
        for other in &mut clients {
            if other.name == client.name {
                other.clone_from(client);
            }
        }
        let covers = covered(stage.version, stage.share, &clients);
        let both = clients.into_iter().zip(covers).filter(|(_, covers)| *covers);
        let names: BTreeSet<String> = both.map(|(client, _)| client.name).collect();
        let is_covered = names.contains(&client.name);
        self.stages.insert(stage.version, (stage.share, names));
        #[cfg(test)]
        (self.looks += 1);
        Ok(is_covered)
    }

    /// A client has a version. Where it was not to get it yet, it takes the place of another one.
    pub(super) fn has(&mut self, client: &str, version: u64) {
        self.stages.retain(|of, (_, names)| *of > version || names.contains(client));
    }

    /// Forgets stages that go to nobody any more.
    fn keep(&mut self, open: &[Stage]) {
        self.stages.retain(|version, _| open.iter().any(|stage| stage.version == *version));
    }

    /// Everything is to be found out anew.
    pub(super) fn clear(&mut self) {
        self.stages.clear();
    }
}

impl Instance {
    pub(super) fn covers(&self) -> MutexGuard<'_, Covers> {
        locked(&self.covers)
    }

    /// Changes a roll-out by a person's word.
    pub(crate) fn guide(
        &self,
        version: u64,
        action: RolloutAction,
        share: Option<Share>,
        author: &Author,
    ) -> Result<BundleFacts, InstanceFault> {
        let now = self.now();
        let mut database = self.database();
        let unknown = || InstanceFault::Unknown(format!("there is no bundle {version}"));
        let stage = database.bundle(version)?.ok_or_else(unknown)?.stage;
        let percent = stage.share.percent();
        let (stage, what) = match action {
            RolloutAction::Advance if stage.halted => {
                let why = format!("bundle {version} is halted; `resume` it first");
                return Err(InstanceFault::Refused(why));
            }
            RolloutAction::Advance => {
                let share = share.unwrap_or(Share::ALL);
                if share <= stage.share {
                    let why = format!(
                        "bundle {version} goes to {percent} % already, and a share only grows; \
                         `halt` keeps it from those who have not got it"
                    );
                    return Err(InstanceFault::Refused(why));
                }
                let what =
                    format!("advanced bundle {version} from {percent} to {} %", share.percent());
                (Stage { share, since: now, ..stage }, what)
            }
            RolloutAction::Halt if stage.halted => {
                return Err(InstanceFault::Refused(format!("bundle {version} is halted already")));
            }
            RolloutAction::Halt => {
                (Stage { halted: true, ..stage }, format!("halted bundle {version} at {percent} %"))
            }
            RolloutAction::Resume if !stage.halted => {
                return Err(InstanceFault::Refused(format!("bundle {version} is not halted")));
            }
            RolloutAction::Resume => {
                let share = share.unwrap_or(stage.share).max(stage.share);
                let resumed = Stage { halted: false, share, since: now, judged_from: now, ..stage };
                (resumed, format!("resumed bundle {version} at {} %", share.percent()))
            }
        };
        database.set_stage(&stage, now, author, &what)?;
        database.bundle(version)?.ok_or_else(unknown)
    }

    /// Keeps what a client says of a bundle. Enough clients that have it and speak against it halt its roll-out.
    pub(crate) fn report(&self, said: &Said<'_>) -> Result<(), InstanceFault> {
        let now = self.now();
        let mut database = self.database();
        database.report(said, now)?;
        if said.state.is_bad() {
            tracing::warn!(
                client = said.client,
                bundle = said.bundle,
                state = said.state.word(),
                "a client speaks against a bundle: {}",
                said.reason
            );
            self.judge(&mut database, now)?;
        }
        Ok(())
    }

    /// Halts every open stage against which enough clients have spoken that have the bundle.
    fn judge(&self, database: &mut Database, now: Timestamp) -> Result<(), InstanceFault> {
        for stage in open_stages(database, now)? {
            let reports = database.reports(&stage)?;
            if !must_halt(&stage, &reports, self.config.rollout.halt_after_reports) {
                continue;
            }
            let last = database.last_against(&stage)?.unwrap_or_default();
            let [client, state, reason] = last;
            let why = format!(
                "{} of the clients spoke against it; the last one, {client}, said {state}: {reason}",
                reports.against
            );
            let author = Author { who: "clients' reports".to_owned(), why };
            let what = format!("halted bundle {} at {} %", stage.version, stage.share.percent());
            tracing::error!(bundle = stage.version, "a roll-out is halted: {}", author.why);
            database.set_stage(&Stage { halted: true, ..stage }, now, &author, &what)?;
        }
        Ok(())
    }

    /// What is done from time to time: roll-outs stop, or go on where that is asked for, and what is old is forgotten.
    ///
    /// # Errors
    /// The database cannot be read or written.
    pub fn look_after(&self) -> Result<(), InstanceFault> {
        let now = self.now();
        let mut database = self.database();
        database.forget(&self.config.keep, now)?;
        // A limit that was lowered holds for what was said before, too.
        self.judge(&mut database, now)?;
        let open = open_stages(&database, now)?;
        self.covers().keep(&open);
        let Some(after) = self.config.rollout.advance_after else { return Ok(()) };
        for stage in open {
            if !may_advance(&stage, &database.reports(&stage)?, after, now) {
                continue;
            }
            let why = format!("{} h without alarms", after.as_secs() / 3_600);
            let author = Author { who: "time".to_owned(), why };
            let percent = stage.share.percent();
            let what = format!("advanced bundle {} from {percent} to 100 %", stage.version);
            tracing::info!(bundle = stage.version, "a bundle goes to all clients: {}", author.why);
            let all = Stage { share: Share::ALL, since: now, ..stage };
            database.set_stage(&all, now, &author, &what)?;
        }
        Ok(())
    }
}

/// The stages that still go to somebody, the newest first.
fn open_stages(database: &Database, now: Timestamp) -> Result<Vec<Stage>, StoreFault> {
    let stages: Vec<Stage> = database.bundles()?.into_iter().map(|facts| facts.stage).collect();
    Ok(open(&stages, now))
}
