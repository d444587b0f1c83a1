//! Putting a bundle in force, and taking it back.
//!
//! **Promise.** A bundle is in force whole or not at all, under the operator's own rules as they were read last
//! ([`LocalRules`](crate::node::LocalRules)). What is wrong with one, whoever brought it and whatever fails
//! on the way, the rules in force before stay in force, here and after a restart; no count of the ledger is lost.
//!
//! **How.** Verify, read and check everything; make the new sets; one transaction of the store that keeps the octets and
//! moves the pointer, and only if the pointer stands where it stood when the work began; then the running node takes the
//! new sets, which cannot fail. One at a time, and to its end even where whoever asked has gone: a change that is durable
//! is told to everybody. After a crash the start reads the pointer.
//!
//! **A bundle in force that cannot be used any more** (a damaged disk, stricter checks) leaves the pointer where it is, and
//! the shipped rules in its place. Every later change starts from the pointer, and the same version may come again
//! ([`believing`](super::believing)).

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::quarantine::{Author, PublishedList};
use mail::time::Timestamp;
use rules::bundle::{BundleFault, Difference, Sealed, Trust, difference};
use rules::reaction::ReactionRules;
use rules::recipient::{DomainRules, FormatRules};
use rules::{Level, Levels, RuleSet};
use serde::Serialize;
use store::{BundleApplication, BundleChange, KeptBundle, RefusedWrite, Write};

use super::believing::{Believed, Coming, SEEN};
use super::following::{Origin, RulesInForce, Trouble};
use super::instance::{Report, ReportState};
use super::layer::{Layer, MxBase, Published};
use super::sync::InstanceStatus;
use crate::intake::IntakeFault;
use crate::node::{LocalRules, MX_RULES_OF, Questions, RuleSource};
use crate::nondeliverables::BounceRulesInForce;
use crate::runner::Input;

/// Octets of a difference that the history keeps.
const DIFFERENCE_KEPT: usize = 64 * 1024;

/// Why rules were not put in force. Those before stay.
#[derive(Debug, thiserror::Error)]
pub enum ApplyFault {
    /// No key is configured, so nobody's bundle can be believed.
    #[error(
        "no key of a deliverability instance is configured: put it into `[deliverability] public_keys`"
    )]
    NoKey,
    /// The bundle is refused.
    #[error("{0}")]
    Bundle(#[from] BundleFault),
    /// A bundle that is kept cannot be used any more.
    #[error(
        "bundle {version} cannot be used any more as it is kept here ({fault}); bring it once more: `mailweir deliverability apply FILE`"
    )]
    Damaged {
        /// Its version.
        version: u64,
        /// What is wrong with it.
        fault: BundleFault,
    },
    /// A bundle of another instance has the version, and is needed.
    #[error(
        "bundle {0} of the instance that was followed before has the same version, and is kept because its MX rules are in force at \
         level custom: leave that level first, or have the bundle published under another version"
    )]
    VersionTaken(u64),
    /// Somebody else was quicker, or the version is not kept.
    #[error("{0}")]
    Refused(RefusedWrite),
    /// The store reads or takes nothing.
    #[error("{0}")]
    Store(IntakeFault),
}

impl From<IntakeFault> for ApplyFault {
    fn from(fault: IntakeFault) -> Self {
        match fault {
            IntakeFault::Refused(refused) => Self::Refused(refused),
            other => Self::Store(other),
        }
    }
}

impl ApplyFault {
    /// The name by which logs and alerts know the reason.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::NoKey => "no-key",
            Self::Bundle(fault) => fault.name(),
            Self::Damaged { .. } => "damaged",
            Self::VersionTaken(_) => "version-taken",
            Self::Refused(_) => "refused",
            Self::Store(_) => "store",
        }
    }
}

/// Steps of putting rules in force, in their order. A crash may come between any two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ApplyStep {
    /// The bundle is believed and admitted.
    Verified,
    /// Every section of it was read and checked.
    Checked,
    /// All sets are made.
    Made,
    /// The store has committed.
    Stored,
    /// The engine was told.
    EngineTold,
    /// Everybody else was told.
    Done,
}

impl ApplyStep {
    /// Every step.
    pub const ALL: [Self; 6] =
        [Self::Verified, Self::Checked, Self::Made, Self::Stored, Self::EngineTold, Self::Done];
}

/// Told of every step that was taken. For tests; production passes what does nothing.
pub(crate) type Witness<'a> = &'a (dyn Fn(ApplyStep) + Sync);

/// The same for what goes on when whoever asked has gone.
pub(crate) type LastingWitness = Arc<dyn Fn(ApplyStep) + Send + Sync>;

/// Does something to its end, even when nobody waits for it any more: a caller that goes away must not leave the store
/// and the running node apart.
///
/// # Errors
/// It panicked, or the runtime ends.
pub(crate) async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, IntakeFault> {
    tokio::spawn(work).await.map_err(|fault| IntakeFault::TryLater(fault.to_string()))
}

/// What became of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Applied {
    /// Whether anything was changed; else it was in force already.
    pub changed: bool,
    /// The version before.
    pub from: Option<u64>,
    /// The version in force.
    pub to: Option<u64>,
    /// What it changed, rule by rule.
    pub difference: Difference,
    /// Version of the MX rules in force.
    pub rules_version: u64,
}

/// How a node stands to its deliverability instance.
#[derive(Clone, Debug)]
pub struct DeliverabilityStatus {
    /// The bundle in force; `None`: the rules shipped with the program.
    pub published: Option<Published>,
    /// Since when.
    pub since: Timestamp,
    /// Versions that can be put in force again, the newest first.
    pub kept: Vec<u64>,
    /// Version of the MX rules with their levels, as the delivery log cites it.
    pub mx_version: u64,
    /// Version of the bounce rules, as verdicts cite it.
    pub bounce_version: Arc<str>,
    /// Version of the reaction rules.
    pub reaction_version: Arc<str>,
    /// Version of the domain rules.
    pub domain_version: Arc<str>,
    /// Version of the format rules.
    pub format_version: Arc<str>,
    /// The bundle that the MX rules are of: at level Custom it may be an older one. `None`: the program.
    pub mx_bundle: Option<u64>,
    /// Texts that the bundle knows.
    pub known_texts: usize,
    /// Entries of its suppression list.
    pub suppressed: usize,
    /// The bundle that was refused last, if none was applied since.
    pub trouble: Option<Trouble>,
    /// Whether the key that signed the bundle in force is still trusted; `None`: there is no bundle.
    pub key_trusted: Option<bool>,
    /// The general level in force.
    pub level: Level,
    /// Kinds of rules for which the operator has a file of their own, which is stronger.
    pub local: Vec<&'static str>,
    /// The instance that bundles are fetched from; `None`: none is configured.
    pub instance: Option<InstanceStatus>,
}

/// The sets of all kinds, made of a layer and the operator's own rules.
struct Made {
    source: RuleSource,
    mx_base: Arc<MxBase>,
    bounce: Arc<BounceRulesInForce>,
    reaction: Arc<ReactionRules>,
    domain: Arc<DomainRules>,
    format: Arc<FormatRules>,
    suppression: PublishedList,
}

/// A bundle that was verified and read.
struct Checked {
    layer: Layer,
    trust: Trust,
    difference: Difference,
}

impl Questions {
    /// The rules in force.
    #[must_use]
    pub fn in_force(&self) -> Arc<RulesInForce> {
        self.following.in_force()
    }

    /// How the node stands to its deliverability instance.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn deliverability(&self) -> Result<DeliverabilityStatus, IntakeFault> {
        let kept = self.intake().read(|reads| reads.bundle_versions()).await?;
        let in_force = self.in_force();
        let contents = in_force.layer.contents();
        Ok(DeliverabilityStatus {
            published: in_force.layer.published().copied(),
            since: in_force.since,
            kept,
            mx_version: in_force.mx.version(),
            bounce_version: Arc::clone(in_force.bounce.rules.version()),
            reaction_version: in_force.reaction.version().as_ref().into(),
            domain_version: Arc::clone(in_force.domain.version()),
            format_version: Arc::clone(in_force.format.version()),
            mx_bundle: in_force.mx_base.version(),
            known_texts: contents.qualifications.len(),
            suppressed: contents.suppression.len(),
            trouble: self.following.trouble(),
            key_trusted: self.key_trusted(&in_force),
            level: in_force.mx.levels().default,
            local: self.local_kinds(),
            instance: self.instance(),
        })
    }

    /// Whether the key of the bundle in force is still trusted; `None`: the rules are the shipped ones.
    pub(super) fn key_trusted(&self, in_force: &RulesInForce) -> Option<bool> {
        let published = in_force.layer.published()?;
        let keys = self.config().deliverability.public_keys.iter().copied();
        let trust = Trust::new(keys, in_force.trust.clone());
        Some(trust.find(published.key.id()).is_ok())
    }

    /// Kinds of rules for which the configuration names a file.
    fn local_kinds(&self) -> Vec<&'static str> {
        let config = self.config();
        let kinds = [
            ("mx", &config.rules.mx),
            ("bounce", &config.bounce_rules.file),
            ("reaction", &config.reaction_rules.file),
            ("domain", &config.domain_rules.file),
            ("format", &config.format_rules.file),
        ];
        kinds.into_iter().filter(|(_, file)| file.is_some()).map(|(kind, _)| kind).collect()
    }

    /// The newest changes of what is in force, newest first.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn bundle_history(&self, limit: u32) -> Result<Vec<BundleApplication>, IntakeFault> {
        self.intake().read(move |reads| reads.bundle_applications(limit)).await
    }

    /// Puts a bundle in force. It goes on to its end when whoever asked goes away.
    ///
    /// # Errors
    /// Why not; the rules in force stay, and an alert is raised.
    pub async fn apply_bundle(
        &self,
        octets: Arc<[u8]>,
        author: Author,
    ) -> Result<Applied, ApplyFault> {
        self.apply_bundle_to_the_end(octets, author, Arc::new(|_| {})).await
    }

    pub(crate) async fn apply_bundle_to_the_end(
        &self,
        octets: Arc<[u8]>,
        author: Author,
        witness: LastingWitness,
    ) -> Result<Applied, ApplyFault> {
        let questions = self.clone();
        to_the_end(async move {
            questions.apply_bundle_watched(octets, author, Origin::Here, &*witness).await
        })
        .await?
    }

    /// The same as long as it is waited for.
    pub(crate) async fn apply_bundle_watched(
        &self,
        octets: Arc<[u8]>,
        author: Author,
        origin: Origin,
        witness: Witness<'_>,
    ) -> Result<Applied, ApplyFault> {
        let outcome = {
            let _one_at_a_time = self.intake().reloading().await;
            self.apply_alone(Arc::clone(&octets), author, origin, witness).await
        };
        self.note_for_instance(Report::of(&octets, &outcome)).await;
        match &outcome {
            // What is kept and was taken back says nothing about the one in force that cannot be used.
            Ok(applied) if !applied.changed && self.in_force().unusable().is_some() => {}
            Ok(applied) if !applied.changed && origin == Origin::Instance => {
                self.following.note_instance_well();
            }
            Ok(_) => self.following.note(None),
            Err(fault) => {
                let (fault, words) = (fault.name().to_owned(), fault.to_string());
                self.following.note(Some((Trouble { at: self.now(), fault, words }, origin)));
            }
        }
        outcome
    }

    /// What putting a bundle in force would do. Everything is checked.
    ///
    /// # Errors
    /// Why it would be refused. No alert is raised.
    pub async fn try_bundle(&self, octets: Arc<[u8]>) -> Result<Applied, ApplyFault> {
        let _one_at_a_time = self.intake().reloading().await;
        let (from, trust) = match self.believe(&octets, Origin::Instance).await? {
            Believed::InForce(applied) => return Ok(applied),
            Believed::New(Coming { from, trust, .. }) => (from, trust),
        };
        let Checked { layer, difference, .. } = self.check(octets, trust, from).await?;
        let to = layer.published().map(|published| published.version);
        let made = self.make(Arc::new(layer), Arc::clone(&self.in_force().local)).await?;
        let (rules_version, _) = self.next_rules_version(&made.source.fingerprint).await?;
        Ok(Applied { changed: true, from, to, difference, rules_version })
    }

    async fn apply_alone(
        &self,
        octets: Arc<[u8]>,
        author: Author,
        origin: Origin,
        witness: Witness<'_>,
    ) -> Result<Applied, ApplyFault> {
        let Coming { from, trust, seen, mends, forgets } =
            match self.believe(&octets, origin).await? {
                Believed::InForce(applied) => return Ok(applied),
                Believed::New(coming) => coming,
            };
        witness(ApplyStep::Verified);
        let checked = self.check(Arc::clone(&octets), trust, from).await?;
        witness(ApplyStep::Checked);
        let Some(published) = checked.layer.published().copied() else {
            return Err(ApplyFault::NoKey);
        };
        let kept = KeptBundle { version: published.version, key: published.key.0, octets };
        let mut change =
            self.change(from, Some(published.version), Some(kept), &checked, &author)?;
        (change.mends, change.forgets) = (mends, forgets);
        let seen = serde_json::to_string(&seen).map_err(unwritable)?;
        change.settings.push((SEEN.into(), seen.into()));
        self.finish(checked, change, witness).await
    }

    /// Puts a version in force that is kept, or (`None`) the rules shipped with the program. It goes on to its end when
    /// whoever asked goes away.
    ///
    /// # Errors
    /// Why not; the rules in force stay.
    pub async fn roll_back(&self, to: Option<u64>, author: Author) -> Result<Applied, ApplyFault> {
        self.roll_back_to_the_end(to, author, Arc::new(|_| {})).await
    }

    pub(crate) async fn roll_back_to_the_end(
        &self,
        to: Option<u64>,
        author: Author,
        witness: LastingWitness,
    ) -> Result<Applied, ApplyFault> {
        let questions = self.clone();
        to_the_end(async move { questions.roll_back_watched(to, author, &*witness).await }).await?
    }

    async fn roll_back_watched(
        &self,
        to: Option<u64>,
        author: Author,
        witness: Witness<'_>,
    ) -> Result<Applied, ApplyFault> {
        let why = author.why.clone();
        let unusable = self.in_force().unusable();
        let applied = self.roll_back_alone(to, author, witness).await?;
        if applied.changed && unusable.is_some() {
            self.following.note(None);
        }
        if let Some(from) = applied.from.filter(|_| applied.changed) {
            self.note_for_instance(Some(Report::new(from, ReportState::RolledBack, &why))).await;
        }
        Ok(applied)
    }

    async fn roll_back_alone(
        &self,
        to: Option<u64>,
        author: Author,
        witness: Witness<'_>,
    ) -> Result<Applied, ApplyFault> {
        let _one_at_a_time = self.intake().reloading().await;
        let before = self.in_force();
        let from = before.pointer;
        if from == to && before.unusable().is_none() {
            let rules_version = before.mx.version();
            let difference = Difference::default();
            return Ok(Applied { changed: false, from, to, difference, rules_version });
        }
        let trust = before.trust.clone();
        let checked = match to {
            None => {
                let difference = self.changes_to(from, Arc::from([].as_slice())).await?;
                Checked { layer: Layer::default(), trust, difference }
            }
            Some(version) => {
                let kept = self.intake().read(move |reads| reads.bundle(version)).await?;
                let kept = kept.ok_or(ApplyFault::Refused(RefusedWrite::UnknownBundle(version)))?;
                let octets = Arc::clone(&kept.octets);
                let layer = match blocking(move || Layer::kept(&kept)).await {
                    Err(ApplyFault::Bundle(fault)) => {
                        return Err(ApplyFault::Damaged { version, fault });
                    }
                    layer => layer?,
                };
                Checked { layer, trust, difference: self.changes_to(from, octets).await? }
            }
        };
        let change = self.change(from, to, None, &checked, &author)?;
        self.finish(checked, change, witness).await
    }

    /// Reads and checks every section.
    async fn check(
        &self,
        octets: Arc<[u8]>,
        trust: Trust,
        from: Option<u64>,
    ) -> Result<Checked, ApplyFault> {
        let reading = (Arc::clone(&octets), trust.clone());
        let layer = blocking(move || {
            let (octets, trust) = reading;
            let sealed = Sealed::split(&octets)?;
            let key = trust.find(sealed.key())?;
            Layer::of(&sealed, key)
        })
        .await?;
        Ok(Checked { layer, trust, difference: self.changes_to(from, octets).await? })
    }

    /// What these octets change against a version that is kept; empty ones hold nothing.
    async fn changes_to(
        &self,
        from: Option<u64>,
        octets: Arc<[u8]>,
    ) -> Result<Difference, ApplyFault> {
        let before = match from {
            None => None,
            Some(version) => self.intake().read(move |reads| reads.bundle(version)).await?,
        };
        let changes = blocking(move || {
            let nothing = BTreeMap::new();
            let before = before.as_ref().and_then(|kept| Sealed::split(&kept.octets).ok());
            let after = Sealed::split(&octets).ok();
            let sections = |sealed: &Option<Sealed<'_>>| match sealed {
                Some(sealed) => difference(&nothing, sealed.sections()),
                None => Difference::default(),
            };
            Ok(match (&before, &after) {
                (Some(before), Some(after)) => difference(before.sections(), after.sections()),
                (Some(before), None) => difference(before.sections(), &nothing),
                (None, _) => sections(&after),
            })
        });
        changes.await
    }

    /// The write that makes it durable.
    fn change(
        &self,
        expected: Option<u64>,
        to: Option<u64>,
        bundle: Option<KeptBundle>,
        checked: &Checked,
        author: &Author,
    ) -> Result<BundleChange, ApplyFault> {
        let mut difference = serde_json::to_string(&checked.difference).map_err(unwritable)?;
        if difference.len() > DIFFERENCE_KEPT {
            let kinds: Vec<_> = checked.difference.kinds.iter().map(|kind| kind.kind).collect();
            difference = serde_json::json!({ "too_long": kinds }).to_string();
        }
        Ok(BundleChange {
            expected,
            to,
            bundle,
            mends: false,
            forgets: Vec::new(),
            keep: None,
            trust: serde_json::to_string(&checked.trust).map_err(unwritable)?.into(),
            settings: Vec::new(),
            who: author.who.clone(),
            why: author.why.clone(),
            difference: difference.into(),
            at: self.now(),
        })
    }

    /// Makes the sets, the change durable, and tells everybody.
    async fn finish(
        &self,
        checked: Checked,
        change: BundleChange,
        witness: Witness<'_>,
    ) -> Result<Applied, ApplyFault> {
        let (from, to) = (change.expected, change.to);
        let since = change.at;
        let Checked { layer, trust, difference } = checked;
        let (layer, local) = (Arc::new(layer), Arc::clone(&self.in_force().local));
        let rules = self.put_in_force(layer, local, trust, since, Some(change), witness).await?;
        let who =
            |version: Option<u64>| version.map_or_else(|| "shipped".into(), |v| v.to_string());
        tracing::info!(from = who(from), to = who(to), "other rules are in force");
        let rules_version = rules.version();
        Ok(Applied { changed: true, from, to, difference, rules_version })
    }

    /// Makes all sets of a layer and the operator's own rules, and puts them in force: the way of a bundle, a roll-back
    /// and a reload.
    pub(crate) async fn put_in_force(
        &self,
        layer: Arc<Layer>,
        local: Arc<LocalRules>,
        trust: Trust,
        since: Timestamp,
        change: Option<BundleChange>,
        witness: Witness<'_>,
    ) -> Result<Arc<RuleSet>, ApplyFault> {
        let Made { source, mx_base, bounce, reaction, domain, format, suppression } =
            self.make(Arc::clone(&layer), Arc::clone(&local)).await?;
        let levels: &Levels = &source.levels;
        let (version, write) = self.next_rules_version(&source.fingerprint).await?;
        let rules = Arc::new(RuleSet::compile(&source.file, levels, version));
        let mark = layer.mark();
        let in_force = RulesInForce {
            domain,
            format,
            layer,
            local,
            since,
            trust,
            pointer: match &change {
                Some(change) => change.to,
                None => self.in_force().pointer,
            },
            mx: Arc::clone(&rules),
            mx_base: Arc::clone(&mx_base),
            bounce: Arc::clone(&bounce),
            reaction: Arc::clone(&reaction),
        };
        witness(ApplyStep::Made);
        let mut settings: Vec<(Box<str>, Box<str>)> =
            vec![(MX_RULES_OF.into(), mx_base.stored().into())];
        if let Some(Write::PutSetting { key, value }) = write {
            settings.push((key, value));
        }
        match change {
            Some(mut change) => {
                change.settings.append(&mut settings);
                change.keep = mx_base.version();
                let taken = change.keep.filter(|kept| change.forgets.contains(kept));
                let comes = change.bundle.as_ref().map(|bundle| bundle.version);
                if taken.is_some() && taken == comes && mx_base.mark() != mark {
                    return Err(ApplyFault::VersionTaken(taken.unwrap_or_default()));
                }
                self.intake().write(Write::ChangeBundle(Box::new(change))).await?;
            }
            // Either without the other is found out by the next start.
            None => {
                for (key, value) in settings {
                    self.intake().write(Write::PutSetting { key, value }).await?;
                }
            }
        }
        witness(ApplyStep::Stored);
        self.tell_engine(Input::InForce {
            mx: Arc::clone(&rules),
            bounce: Arc::clone(&bounce.rules),
            reaction,
        });
        witness(ApplyStep::EngineTold);
        self.nondeliverables().replace_rules(bounce);
        self.nondeliverables().publish(suppression);
        self.tell_preparers(&in_force);
        self.following.replace(in_force);
        witness(ApplyStep::Done);
        Ok(rules)
    }
}

impl Questions {
    /// Makes the sets of all kinds.
    async fn make(&self, layer: Arc<Layer>, local: Arc<LocalRules>) -> Result<Made, ApplyFault> {
        let (decisions, now) = (self.level_decisions().await?, self.now());
        let levels = decisions.over(&self.configured_levels(), now);
        let before = Arc::clone(&self.in_force().mx_base);
        let made = tokio::task::spawn_blocking(move || {
            let mx_base = match levels.takes_mx_rules_of_bundles() {
                true => Arc::new(layer.mx_base()),
                false => before,
            };
            let (domain, format) = local.recipient_over(&layer);
            Made {
                source: local.mx_over(&mx_base, levels),
                mx_base,
                bounce: local.bounce_over(&layer),
                reaction: local.reaction_over(&layer),
                domain,
                format,
                suppression: layer.suppression(),
            }
        });
        Ok(made.await.map_err(|fault| IntakeFault::TryLater(fault.to_string()))?)
    }
}

/// What cannot be written as JSON.
fn unwritable(fault: serde_json::Error) -> IntakeFault {
    IntakeFault::TryLater(fault.to_string())
}

/// Runs what takes a while beside the runtime.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BundleFault> + Send + 'static,
) -> Result<T, ApplyFault> {
    match tokio::task::spawn_blocking(work).await {
        Ok(answer) => Ok(answer?),
        Err(fault) => Err(IntakeFault::TryLater(fault.to_string()).into()),
    }
}
