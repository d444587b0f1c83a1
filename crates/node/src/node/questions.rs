//! What a running node answers: its engine, its ledger, its store, and why a message waits.
//!
//! Every answer about the engine or the ledger is made on their thread, between two batches of what happened; `None`
//! says that the node is ending. Nothing here changes a message.

use engine::WaitReason;

use super::*;
use crate::deliverability::to_the_end;

/// The chain that answers "why is this mail waiting?" for one message.
#[derive(Clone, Debug, serde::Serialize)]
pub struct MessageExplained {
    /// The message.
    pub message: String,
    /// Its delivery.
    pub delivery: String,
    /// The recipient.
    pub recipient: String,
    /// `queued`, `in-flight`, `sent`, `failed`, `expired` or `cancelled`.
    pub state: String,
    /// Attempts that counted.
    pub attempts: u32,
    /// When it was accepted.
    pub accepted_at: String,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settled_at: Option<String>,
    /// The last words about it: a reply, or our own.
    pub last_reply: String,
    /// Why it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<WaitingExplained>,
    /// The paths its mail can take.
    pub paths: Vec<PathView>,
}

/// A wait reason for people and scripts.
#[derive(Clone, Debug, serde::Serialize)]
pub struct WaitingExplained {
    /// The reason in a few words.
    pub reason: String,
    /// The reason in full.
    pub detail: String,
    /// When it may move; absent: when something else happens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_at: Option<String>,
    /// The smallest change that would release it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smallest_change: Option<String>,
    /// Version of the MX rules in force.
    pub rules_version: u64,
}

impl WaitingExplained {
    /// From the engine's answer, under these rules.
    #[must_use]
    pub fn new(waiting: &Waiting, rules: &RuleSet) -> Self {
        let mut smallest_change = waiting.reason.smallest_change();
        if let (WaitReason::Quota { wait }, Some(change)) = (&waiting.reason, &mut smallest_change)
            && wait.limit.is_of_rule()
            && let Some(rule) = rules.id_of(&wait.rule).map(|id| rules.rule(id))
            && rule.shares_budget_of_unknown_hosts()
        {
            change.push_str(
                "; every host without a rule of its own shares this budget: give this host a rule, or set scope = \"path\" in the generic rule",
            );
        }
        Self {
            reason: waiting.reason.name().to_string(),
            detail: waiting.reason.to_string(),
            next_at: (waiting.until != Timestamp::NEVER).then(|| waiting.until.to_string()),
            smallest_change,
            rules_version: rules.version(),
        }
    }
}

impl Questions {
    /// The way in, which also reads the store.
    #[must_use]
    pub const fn intake(&self) -> &Intake {
        &self.intake
    }

    /// The way to everything about addresses that are not written to.
    #[must_use]
    pub const fn nondeliverables(&self) -> &NonDeliverables {
        &self.nondeliverables
    }

    /// The alerts that stand in this process.
    pub(crate) const fn standing_alerts(&self) -> &Alerts {
        &self.alerts
    }

    /// Asks the engine; `None`: the node is ending.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&View<'_>) -> T + Send + 'static,
    ) -> Option<T> {
        ask(&self.inputs, question).await
    }

    /// Hands something to the loop; `false`: the node is ending.
    pub(crate) fn send(&self, input: Input) -> bool {
        self.inputs.send(input).is_ok()
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Counts since the start.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Lets metrics show the figures of the submission listener.
    #[must_use]
    pub fn with_submission(mut self, counts: Arc<SubmissionCounts>) -> Self {
        self.submission = Some(counts);
        self
    }

    /// The figures of the submission listener; `None`: there is none.
    #[must_use]
    pub const fn submission(&self) -> Option<&Arc<SubmissionCounts>> {
        self.submission.as_ref()
    }

    /// Lines of the delivery log that could not be written since the start.
    #[must_use]
    pub fn log_lines_lost(&self) -> u64 {
        self.log_lines_lost.load(core::sync::atomic::Ordering::Relaxed)
    }

    /// Messages that servers have taken and whose outcomes are not on the disk: what a crash would repeat now.
    #[must_use]
    pub fn in_doubt(&self) -> usize {
        self.in_doubt.count()
    }

    /// Now, in the node's time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// How far the node's time is ahead of the wall clock, in microseconds.
    #[must_use]
    pub fn clock_drift_micros(&self) -> i64 {
        self.clock.drift_from_wall()
    }

    /// The MX groups as they are now; `None`: the node is ending.
    pub async fn groups(&self) -> Option<Vec<GroupView>> {
        ask(&self.inputs, |view| view.engine.groups()).await
    }

    /// The paths of a domain whose route is known; `None`: the node is ending.
    pub async fn paths_of(&self, domain: &str) -> Option<Vec<PathView>> {
        let domain = domain.to_string();
        ask(&self.inputs, move |view| view.engine.paths_of(&domain, view.now)).await
    }

    /// All budgets that have been used; `None`: the node is ending.
    pub async fn budgets(&self) -> Option<Vec<BudgetView>> {
        ask(&self.inputs, |view| view.ledger.budgets(view.now)).await
    }

    /// The budgets of each of these paths and MX hosts, in their order; `None`: the node is ending.
    pub async fn budgets_of(&self, paths: Vec<(PathKey, String)>) -> Option<Vec<Vec<BudgetView>>> {
        if paths.is_empty() {
            return Some(Vec::new());
        }
        ask(&self.inputs, move |view| {
            let of =
                |(path, host): &(PathKey, String)| view.ledger.budgets_of(view.now, *path, host);
            paths.iter().map(of).collect()
        })
        .await
    }

    /// The rules in force; `None`: the node is ending.
    pub async fn rules(&self) -> Option<Arc<RuleSet>> {
        ask(&self.inputs, |view| Arc::clone(view.engine.rules())).await
    }

    /// A copy of the ledger, to run ahead with; `None`: the node is ending.
    pub async fn ledger(&self) -> Option<Ledger> {
        ask(&self.inputs, |view| view.ledger.clone()).await
    }

    /// Messages in windows, connections, domains known; `None`: the node is ending.
    pub async fn sizes(&self) -> Option<(usize, usize, usize)> {
        ask(&self.inputs, |view| view.engine.sizes()).await
    }

    /// The route of a domain.
    ///
    /// # Errors
    /// Why it has none.
    pub async fn route(&self, domain: &str) -> Result<MxRoute, RouteFault> {
        self.resolver.route(domain, self.clock.now()).await.0
    }

    /// Why mail for each of these domains waits; `None`: the node is ending.
    pub async fn why_domains(&self, domains: Vec<String>) -> Option<Vec<(String, Waiting)>> {
        ask(&self.inputs, move |view| {
            view.engine
                .why_domains(domains.iter().map(String::as_str))
                .into_iter()
                .map(|(domain, waiting)| (domain.to_string(), waiting))
                .collect()
        })
        .await
    }

    /// Everything about one message; `Ok(None)`: there is none with this number.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn message(
        &self,
        id: MessageId,
    ) -> Result<Option<MessageExplained>, crate::intake::IntakeFault> {
        let Some(record) = self.intake.read(move |reads| reads.message(id)).await? else {
            return Ok(None);
        };
        let recipient = record.address.to_string();
        let delivery = record.delivery;
        let tried = record.attempts > 0 || !record.last_reply.is_empty();
        let (state, due, settled_at) = match record.state {
            MessageState::Queued { due, .. } => ("queued", Some(due), None),
            MessageState::InFlight => ("in-flight", Some(Timestamp::EPOCH), None),
            MessageState::Final { state, settled_at } => (state.name(), None, Some(settled_at)),
        };
        let asked = recipient.clone();
        let explained = match due {
            None => None,
            Some(due) => {
                ask(&self.inputs, move |view| {
                    let waiting = view.engine.why(view.now, id, delivery, &asked, due, tried);
                    let domain = asked.rsplit_once('@').map_or("", |(_, domain)| domain);
                    let paths = view.engine.paths_of(domain, view.now);
                    (WaitingExplained::new(&waiting, view.engine.rules()), paths)
                })
                .await
            }
        };
        let (waiting, paths) = explained.map_or((None, Vec::new()), |(w, p)| (Some(w), p));
        Ok(Some(MessageExplained {
            message: id.to_string(),
            delivery: delivery.to_string(),
            recipient,
            state: state.to_string(),
            attempts: record.attempts,
            accepted_at: record.accepted_at.to_string(),
            settled_at: settled_at.map(|at| at.to_string()),
            last_reply: record.last_reply.to_string(),
            waiting,
            paths,
        }))
    }

    /// Reads the MX, bounce and reaction rules of the configuration again and puts them in force; the ledger loses
    /// no count, and addresses are judged anew where other bounce rules say otherwise. It goes on to its end when whoever
    /// asked goes away.
    ///
    /// # Errors
    /// Faulty rules: those in force stay.
    pub async fn reload_rules(&self) -> Result<Arc<RuleSet>, StartFault> {
        let questions = self.clone();
        let system = |fault: crate::intake::IntakeFault| {
            StartFault::System(std::io::Error::other(fault.to_string()))
        };
        to_the_end(async move { questions.reload_rules_alone().await }).await.map_err(system)?
    }

    async fn reload_rules_alone(&self) -> Result<Arc<RuleSet>, StartFault> {
        let _one_at_a_time = self.intake.reloading().await;
        let config = Arc::clone(&self.config);
        let other = |fault: String| StartFault::System(std::io::Error::other(fault));
        let local = tokio::task::spawn_blocking(move || LocalRules::read(&config));
        let local = Arc::new(local.await.map_err(|fault| other(fault.to_string()))??);
        let now = self.following.in_force();
        let (layer, trust) = (Arc::clone(&now.layer), now.trust.clone());
        let outcome = self.put_in_force(layer, local, trust, now.since, None, &|_| {}).await;
        outcome.map_err(|fault| other(fault.to_string()))
    }

    /// Tells whoever routes and prepares mail of other rules.
    pub(crate) fn tell_preparers(&self, rules: &RulesInForce) {
        self.resolver.set_domain_rules(Arc::clone(&rules.domain));
        self.contents.set_rules(Arc::clone(&rules.domain), Arc::clone(&rules.format));
    }

    /// Hands something to the loop. A node that is ending needs nothing any more.
    pub(crate) fn tell_engine(&self, input: Input) {
        let _ = self.inputs.send(input);
    }

    /// The version for MX rules with this fingerprint, and what to store when they are new.
    pub(crate) async fn next_rules_version(
        &self,
        fingerprint: &str,
    ) -> Result<(u64, Option<Write>), crate::intake::IntakeFault> {
        let stored = self.intake.read(|reads| reads.setting(RULES_VERSION)).await?;
        Ok(next_version(stored.as_deref(), fingerprint))
    }
}
