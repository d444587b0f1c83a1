//! Dry runs: what is recorded in a data folder, looked at under other rules. Nothing is changed.
//!
//! **Promise.** The folder is only read, whether or not a node works on it. What is in force is found as the start of a
//! node finds it: the operator's files, the bundle that the store points at, the decisions about levels, the policy by
//! which the ledger was judged.
//!
//! **Absences.** No socket; nothing of the ledger is held in memory but one page ([`engine::quarantine::Trial`] bounds the rest).
//!
//! **When it fails.** No database, one of another version, or rules that have faults: [`StartFault`].

use std::path::Path;
use std::sync::Arc;

use engine::quarantine::{OutageGuard, Policy, Trial, TrialReport};
use mail::time::Timestamp;
use quota::WarmUpCaps;
use rules::bounce::{BounceRuleFile, BounceRules};
use rules::reaction::ReactionRules;
use rules::{Level, Levels, RuleFile, RuleSet};
use store::{LedgerReads as _, Reads as _, SqliteReads};

use crate::config::Config;
use crate::deliverability::{Layer, MxBase};
use crate::levels::stored_decisions;
use crate::node::in_force::{bounce_rules_over, kept_layer, local_bounce_rules, mx_base};
use crate::node::{StartFault, local_mx_rules, settings_of};
use crate::nondeliverables::{BounceRulesInForce, chores};
use crate::reactions;
use crate::warm_up::{self, TallyBook, WarmUpDesk};

/// Addresses or texts read at a time.
const PAGE: u32 = 2_000;
/// Holds that are looked at.
const HOLDS: u32 = 1_000;

/// What a data folder has recorded, and what is in force for it.
pub struct Recorded {
    reads: SqliteReads,
    config: Option<Config>,
    layer: Layer,
    /// What a node at level Custom holds on to.
    mx_held: MxBase,
    now: Timestamp,
}

impl core::fmt::Debug for Recorded {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        out.debug_struct("Recorded").field("now", &self.now).finish_non_exhaustive()
    }
}

/// What would be in force in place of what is.
#[derive(Debug, Default)]
pub struct ProposedBounce {
    /// A file of bounce rules, in place of the operator's own.
    pub file: Option<BounceRuleFile>,
    /// A bundle, in place of the one in force.
    pub layer: Option<Layer>,
    /// A policy, in place of the one by which the ledger was judged.
    pub policy: Option<Policy>,
}

/// The same for MX rules.
#[derive(Debug, Default)]
pub struct ProposedMx {
    /// A file of MX rules, in place of the operator's own.
    pub file: Option<RuleFile>,
    /// A bundle, in place of the one in force.
    pub layer: Option<Layer>,
    /// A general level, in place of the one in force. What is set for a source, an affinity or a rule stays.
    pub level: Option<Level>,
}

/// What a dry run of bounce rules answers.
#[derive(Debug)]
pub struct BounceTrial {
    /// Version of the bounce rules in force.
    pub version_now: Arc<str>,
    /// Version of those that were tried.
    pub version_then: Arc<str>,
    /// The earliest text or failure that is recorded; `None`: nothing is.
    pub recorded_from: Option<Timestamp>,
    /// What was found.
    pub report: TrialReport,
}

impl Recorded {
    /// Opens a data folder; `now` is the present time. Without a configuration the operator has no rules of his own.
    ///
    /// # Errors
    /// There is no database, or none of this version.
    pub fn open(folder: &Path, config: Option<Config>, now: Timestamp) -> Result<Self, StartFault> {
        let reads = SqliteReads::look(folder)?;
        let layer = kept_layer(&reads)?.layer;
        let mx_held = mx_base(&reads, &layer, &Levels::all(Level::Custom))?;
        Ok(Self { reads, config, layer, mx_held, now })
    }

    /// The time of the dry run.
    #[must_use]
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// What is asked.
    #[must_use]
    pub const fn reads(&self) -> &SqliteReads {
        &self.reads
    }

    /// The configuration, if there is one.
    #[must_use]
    pub const fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    /// MX rules as they are in force, or with some of it replaced.
    ///
    /// # Errors
    /// The store cannot be read, or the operator's own rules have faults.
    pub fn mx(&self, proposed: &ProposedMx) -> Result<RuleSet, StartFault> {
        let configured = self.config.as_ref().map(|config| &config.rules);
        let mut levels = self.levels()?;
        // As a decision for everything does it: what is set for a source, an affinity or a rule stays.
        levels.default = proposed.level.unwrap_or(levels.default);
        let own = match (&proposed.file, configured.and_then(|rules| rules.mx.as_deref())) {
            (Some(file), _) => Some(file.clone()),
            (None, Some(path)) => Some(local_mx_rules(path)?.0),
            (None, None) => None,
        };
        let below = self.mx_below(proposed.layer.as_ref(), &levels);
        let file = RuleFile::combine(own.as_ref(), below.file());
        Ok(RuleSet::compile(&file, &levels, 1))
    }

    /// Bounce and reaction rules as they are in force, or with another bundle below the operator's own.
    ///
    /// # Errors
    /// The operator's own rules have faults.
    pub fn bounce_and_reactions(
        &self,
        other: Option<&Layer>,
    ) -> Result<(Arc<BounceRules>, Arc<ReactionRules>), StartFault> {
        let layer = other.unwrap_or(&self.layer);
        let own = self.own_bounce_rules()?;
        let bounce = bounce_rules_over(own.as_ref(), layer, String::new());
        let own = self.config.as_ref().and_then(|config| config.reaction_rules.file.as_deref());
        let own = own.map(reactions::local_rules).transpose()?;
        let reactions = reactions::rules_over(own.as_ref(), layer);
        Ok((Arc::clone(bounce.rules()), reactions))
    }

    /// The engine's settings of the configuration, with a seed that is always the same.
    #[must_use]
    pub fn engine_settings(&self) -> engine::Settings {
        let usual = engine::Settings::default();
        let seed = usual.seed;
        self.config
            .as_ref()
            .map_or(usual, |config| engine::Settings { seed, ..settings_of(config) })
    }

    /// The warm-up caps that hold now.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn warm_up_caps(&self) -> Result<WarmUpCaps, StartFault> {
        let tallies = TallyBook::restore(&self.reads.ledger(warm_up::TALLIES, 0)?);
        let record = warm_up::stored_record(&self.reads)?;
        Ok(WarmUpDesk::new(record, Arc::new(tallies)).caps(self.now))
    }

    /// The MX rules in force below the operator's own, and the bundle that they are of.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn mx_base(&self) -> Result<MxBase, StartFault> {
        let levels = self.levels()?;
        Ok(self.mx_below(None, &levels))
    }

    /// The levels in force: those of the configuration, and what was decided over them.
    fn levels(&self) -> Result<Levels, StartFault> {
        let configured = self.config.as_ref().map(|config| config.rules.levels.clone());
        Ok(stored_decisions(&self.reads)?.over(&configured.unwrap_or_default(), self.now))
    }

    /// MX rules of the layer in force (or of another one) at these levels, below the operator's own.
    fn mx_below(&self, other: Option<&Layer>, levels: &Levels) -> MxBase {
        match levels.takes_mx_rules_of_bundles() {
            true => other.unwrap_or(&self.layer).mx_base(),
            false => self.mx_held.clone(),
        }
    }

    fn own_bounce_rules(&self) -> Result<Option<BounceRuleFile>, StartFault> {
        let own = self.config.as_ref().and_then(|config| config.bounce_rules.file.as_deref());
        Ok(own.map(local_bounce_rules).transpose()?.map(|(file, _)| file))
    }

    /// The policy by which the ledger was judged; else that of the configuration, else the usual one.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn policy(&self) -> Result<Policy, StartFault> {
        let stored = self.reads.setting(chores::POLICY)?;
        let stored = stored.and_then(|text| serde_json::from_str(&text).ok());
        let configured = || self.config.as_ref().map(|config| config.quarantine.policy.clone());
        Ok(stored.or_else(configured).unwrap_or_default())
    }

    /// Judges all texts, and all failures from `since` on, by other rules, and every address by what follows.
    ///
    /// # Errors
    /// The store cannot be read, or the operator's own rules have faults.
    pub fn try_bounce(
        &self,
        proposed: &ProposedBounce,
        since: Timestamp,
    ) -> Result<BounceTrial, StartFault> {
        let own = self.own_bounce_rules()?;
        let now = bounce_rules_over(own.as_ref(), &self.layer, String::new());
        let other_rules = proposed.file.is_some() || proposed.layer.is_some();
        let then = other_rules.then(|| {
            let local = proposed.file.as_ref().or(own.as_ref());
            let layer = proposed.layer.as_ref().unwrap_or(&self.layer);
            bounce_rules_over(local, layer, String::new())
        });
        let before = self.policy()?;
        let after = proposed.policy.clone().unwrap_or_else(|| before.clone());
        let rejudging = then.as_deref().map(BounceRulesInForce::rejudging);
        let mut trial = Trial::new(rejudging, before, after, since, self.now);
        trial.watch_holds(&self.reads.holds(HOLDS)?);
        let first_text_at = self.feed_texts(&mut trial, &now)?;
        self.feed_addresses(&mut trial)?;
        let guard = self.config.as_ref().map(|config| config.quarantine.guard).unwrap_or_default();
        let days = chores::provider_days(&self.reads, self.now)?;
        let report = trial.finish(days, OutageGuard::new(guard));
        let version = |rules: &BounceRulesInForce| Arc::clone(rules.rules().version());
        Ok(BounceTrial {
            version_now: version(&now),
            version_then: version(then.as_deref().unwrap_or(&now)),
            recorded_from: first_text_at.into_iter().chain(report.first_entry_at).min(),
            report,
        })
    }

    /// Hands all texts over; answers when the first was met.
    fn feed_texts(
        &self,
        trial: &mut Trial,
        in_force: &BounceRulesInForce,
    ) -> Result<Option<Timestamp>, StartFault> {
        let (mut after, mut first) = (None, None);
        let mut now = in_force.rejudging();
        loop {
            let page = self.reads.texts_by_key(after, PAGE)?;
            let Some(last) = page.last() else { return Ok(first) };
            after = Some(last.key);
            for text in &page {
                trial.add_text(text, &mut now);
                first = first.into_iter().chain([text.first_at]).min();
            }
        }
    }

    fn feed_addresses(&self, trial: &mut Trial) -> Result<(), StartFault> {
        let mut after = 0;
        loop {
            let page = self.reads.histories(after, PAGE)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.id;
            for one in page {
                trial.add(&one.record.address, one.history);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rules::{LevelChange, LevelScope, LevelSubject};

    use super::*;
    use crate::node::Node;

    /// A dry run at a level has the levels, and so the figures, that setting the level for everything would bring.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_level_is_tried_as_a_decision_would_set_it() {
        let folder = tempfile::tempdir().unwrap();
        let text = "data_dir = \"data\"\n[[source]]\npublic_id = 1\naddress = \"127.0.0.41\"\n\
                    helo = \"m1.sender.example\"\n[dns]\nservers = [\"127.0.0.1:9\"]\n\
                    [safety]\nonly_targets = [\"127.0.0.0/8\"]\n[submission]\nlisten = []\n\
                    [http]\nlisten = []\n[rules]\nhourly_base = 700\n\
                    [rules.levels.rules]\n\"google\" = \"slow\"\n";
        let config = Config::parse(text, "test.toml", folder.path()).unwrap();
        let node = Node::start(config.clone()).unwrap();
        let questions = node.questions();
        let decide = async |subject, rule: Option<&str>, level| {
            let scope = LevelScope { subject, rule: rule.map(str::to_owned) };
            let change = LevelChange::set(scope, level, None, questions.now());
            questions.decide_level(change, "ann", "a test").await.unwrap();
        };
        let source = LevelSubject::Source(mail::id::SourceId(1));
        decide(source, Some("yahoo"), Level::Fast).await;
        // What would be tried, and then what is set.
        let tried = {
            let recorded =
                Recorded::open(&config.data_dir, Some(config.clone()), questions.now()).unwrap();
            let at = |level| recorded.mx(&ProposedMx { level, ..ProposedMx::default() }).unwrap();
            assert_eq!(at(None).levels(), questions.rules().await.unwrap().levels());
            at(Some(Level::VeryFast)).levels().clone()
        };
        decide(LevelSubject::Everything, None, Level::VeryFast).await;
        assert_eq!(tried, *questions.rules().await.unwrap().levels());
        assert_eq!((tried.default, tried.hourly_base), (Level::VeryFast, Some(700)));
        node.shutdown().await;
    }
}
