//! What is taken up at the start of a node, and the tasks that begin with it.

use std::sync::{Arc, Mutex, OnceLock, RwLock};

use engine::quarantine::{Author, Desk, HOLDS_KEPT, LedgerWrite, OutageGuard, Work};
use mail::time::Timestamp;
use rules::bounce::BounceJudge;
use store::{Store, StoreFault, Write};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    Admission, BounceRulesInForce, Inner, NonDeliverableCounts, NonDeliverables, Recorder, chores,
    people, recorder,
};
use crate::config::QuarantineConfig;
use crate::intake::Intake;
use crate::runner::Input;
use crate::runner::contents::Contents;

/// Addresses read at a time.
const MARKS: u32 = 10_000;

/// Takes up what an earlier run knew: the admission set, the guard's memory. Where the policy is another one than
/// that by which the ledger was judged, a task to judge it anew is started.
///
/// # Errors
/// The store cannot be read or written.
pub(crate) fn load(
    store: &mut dyn Store,
    config: &QuarantineConfig,
    counts: Arc<NonDeliverableCounts>,
    now: Timestamp,
) -> Result<Admission, StoreFault> {
    let reads = store.reads();
    let mut guard = OutageGuard::new(config.guard);
    let holds = reads.holds(HOLDS_KEPT)?;
    let last = holds.iter().map(|hold| hold.hold).max().unwrap_or(0);
    let open = holds.into_iter().filter(|hold| hold.ended.is_none());
    let open: Vec<_> = open.map(|hold| (hold.hold, hold.provider)).collect();
    guard.restore(chores::provider_days(reads, now)?, open, last);
    let mut desk = Desk::new(Arc::new(config.policy.clone()), guard);
    let mut after = 0;
    loop {
        let page = reads.marks(after, MARKS)?;
        let Some(last) = page.last() else { break };
        after = last.id;
        page.iter().for_each(|known| desk.load(&known.address, known.mark));
    }
    let mut after = None;
    loop {
        let page = reads.suppressions(after.as_ref(), MARKS)?;
        page.iter().for_each(|known| desk.suppress(&known.entry, true));
        match page.into_iter().next_back() {
            Some(last) => after = Some(last.entry),
            None => break,
        }
    }
    // A policy is plain data: writing it as JSON cannot fail.
    let policy: Box<str> = serde_json::to_string(&config.policy).unwrap_or_default().into();
    let before = reads.setting(chores::POLICY)?;
    if before.as_deref() != Some(&*policy) {
        let mut writes = vec![Write::PutSetting { key: chores::POLICY.into(), value: policy }];
        if before.is_some() {
            let why = "the policy of the configuration is another one".into();
            let author = Author { who: "configuration".into(), why };
            let start = LedgerWrite::Start { work: Work::Everyone, author, now };
            writes.push(Write::Quarantine(Box::new(start)));
        }
        store.apply(&writes)?;
    }
    Ok(Admission::new(desk, config.enabled, counts))
}

/// The queue before anybody works on it.
pub(crate) struct Opening {
    recorder: Recorder,
    handed: mpsc::Receiver<recorder::Handed>,
}

impl Opening {
    pub(crate) fn new() -> Self {
        let (sender, handed) = recorder::channel();
        Self { recorder: Recorder { sender, counts: Arc::default() }, handed }
    }

    /// Where the engine hands over.
    pub(crate) fn recorder(&self) -> Recorder {
        self.recorder.clone()
    }

    /// Figures for metrics, live.
    pub(crate) fn counts(&self) -> Arc<NonDeliverableCounts> {
        Arc::clone(&self.recorder.counts)
    }

    /// Begins to work. The tasks end when they are aborted; the recorder also by [`Recorder::stop`].
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) fn begin(
        self,
        intake: Intake,
        contents: Arc<Contents>,
        admission: Arc<Admission>,
        config: QuarantineConfig,
        rules: Arc<BounceRulesInForce>,
        engine: mpsc::UnboundedSender<Input>,
    ) -> Result<(NonDeliverables, [JoinHandle<()>; 2]), StoreFault> {
        let people = contents.ask(|reads| people::People::load(reads, engine.clone()))?;
        let all = NonDeliverables {
            inner: Arc::new(Inner {
                intake,
                admission,
                contents,
                config,
                people,
                judge: Mutex::new(BounceJudge::new(Arc::clone(&rules.rules))),
                recorder: self.recorder.sender,
                engine,
                tasks_wait: Notify::new(),
                stopping: CancellationToken::new(),
                rules: RwLock::new(rules),
                rules_changed: Notify::new(),
                counts: self.recorder.counts,
                inmail: OnceLock::new(),
                snapshot: RwLock::default(),
            }),
        };
        let recorder = tokio::spawn(recorder::record(all.clone(), self.handed));
        let chores = tokio::spawn(chores::keep(all.clone()));
        Ok((all, [recorder, chores]))
    }
}
