//! Random histories of the ledger: both stores tell the same, and what they hold about an address is
//! what its ledger says.

use crate::ledger::words::*;
use crate::support::*;
use engine::quarantine::*;
use mail::failure::{FailureType, Reason};
use mail::id::MessageId;
use mail::time::Timestamp;
use mailweir_store::*;
use proptest::prelude::*;
use std::time::Duration;

const ADDRESSES: [&str; 4] = ["a@x.org", "b@x.org", "c@y.org", "d@y.org"];

fn reason() -> impl Strategy<Value = Reason> {
    prop_oneof![
        2 => Just(Reason::MailboxFull),
        1 => Just(Reason::UserUnknown),
        1 => Just(Reason::NotDefined),
        1 => proptest::sample::select(Reason::ALL.to_vec()),
    ]
}

fn address() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(&ADDRESSES[..])
}

/// What is done, at a moment that is only known when it is done.
#[derive(Clone, Debug)]
enum Deeds {
    Fail {
        address: &'static str,
        reason: Reason,
        late: u32,
        message: u64,
        seen: Option<u8>,
        hold: bool,
    },
    Deliver {
        address: &'static str,
        message: u64,
    },
    Act {
        address: &'static str,
        deed: Deed,
    },
    Qualify {
        reason: Reason,
        meaning: Option<Reason>,
        ignored: bool,
    },
    Start(Work),
    GoOn {
        limit: u32,
    },
    CleanUp,
    Restart,
}

fn selection() -> impl Strategy<Value = Selection> {
    let provider = prop_oneof![Just(None), Just(Some("x.org")), Just(Some("mx.example"))];
    let reasons = proptest::option::of(reason());
    (0..40_u32, 0..40_u32, provider, reasons).prop_map(|(from, length, provider, reason)| {
        Selection {
            from: START + from * DAY,
            to: START + (from + length) * DAY,
            provider: provider.map(Into::into),
            reason,
            ..Selection::default()
        }
    })
}

fn work() -> impl Strategy<Value = Work> {
    prop_oneof![
        3 => selection().prop_map(|selection| Work::Undo { selection }),
        2 => (1..6_u64).prop_map(|task| Work::Restore { task }),
        1 => selection().prop_map(|selection| Work::Hold { hold: 1, selection }),
        1 => Just(Work::Confirm { hold: 1 }),
        1 => Just(Work::Dismiss { hold: 1 }),
        1 => Just(Work::Everyone),
    ]
}

fn deeds() -> impl Strategy<Value = Deeds> {
    let deed = proptest::sample::select(vec![
        Deed::Deny,
        Deed::Allow,
        Deed::Release,
        Deed::Quarantine(Reason::Refused),
    ]);
    let seen = proptest::option::weighted(0.3, 0..5_u8);
    let failing = (address(), reason(), 0..50_u32, 0..4_u64, seen, proptest::bool::weighted(0.1));
    prop_oneof![
        12 => failing.prop_map(|(address, reason, late, message, seen, hold)| {
            Deeds::Fail { address, reason, late, message, seen, hold }
        }),
        3 => (address(), 0..4_u64).prop_map(|(address, message)| Deeds::Deliver { address, message }),
        2 => (address(), deed).prop_map(|(address, deed)| Deeds::Act { address, deed }),
        2 => (reason(), proptest::option::of(reason()), any::<bool>())
            .prop_map(|(reason, meaning, ignored)| Deeds::Qualify { reason, meaning, ignored }),
        3 => work().prop_map(Deeds::Start),
        5 => (1..6_u32).prop_map(|limit| Deeds::GoOn { limit }),
        1 => Just(Deeds::CleanUp),
        1 => Just(Deeds::Restart),
    ]
}

impl Deeds {
    fn writes(&self, reads: &dyn Reads, now: Timestamp) -> Vec<LedgerWrite> {
        let author = author();
        match self {
            Self::Fail { address, reason, late, message, seen, hold } => {
                let at = now.saturating_sub(*late * Duration::from_secs(3_600));
                let mut new = failed(address, at, *reason);
                new.evidence.message = Some(MessageId(*message));
                new.seen = seen.iter().map(|seen| SeenKey([*seen; 16])).collect();
                new.hold = hold.then_some(1);
                vec![record(vec![new], now)]
            }
            Self::Deliver { address, message } => {
                let mut new = delivered(address, now);
                new.evidence.message = Some(MessageId(*message));
                vec![record(vec![new], now)]
            }
            Self::Act { address, deed } => vec![act(address, deed.clone(), now)],
            Self::Qualify { reason, meaning: means, ignored } => {
                let status = if *ignored { TextStatus::Ignore } else { TextStatus::Keep };
                let failure_type = FailureType::Soft;
                let qualification =
                    means.map(|reason| Qualification { reason, failure_type, status });
                vec![LedgerWrite::Qualify { key: key(*reason), qualification, author, now }]
            }
            Self::Start(work) => vec![LedgerWrite::Start { work: work.clone(), author, now }],
            Self::GoOn { limit } => {
                let task = reads.tasks().unwrap().first().map_or(99, |task| task.task);
                vec![LedgerWrite::GoOn { task, limit: *limit, policy: policy(), now }]
            }
            Self::CleanUp => CleanUpStep::ALL
                .map(|step| LedgerWrite::CleanUp { step, limit: 2, policy: policy(), now })
                .into(),
            Self::Restart => Vec::new(),
        }
    }
}

/// Everything that can be asked, as text.
fn everything(reads: &dyn Reads, now: Timestamp) -> String {
    let assumption = Assumption { policy: Policy::default(), qualification: None };
    let mut out = format!(
        "{:#?}{:#?}{:#?}{:#?}{:#?}{:#?}",
        reads.addresses(&AddressFilter::default(), 0, 99),
        reads.address_counts(),
        reads.marks(1, 2),
        reads.tasks(),
        reads.strays(0),
        reads.audit(99),
    );
    out += &format!("{:#?}", reads.texts(TextFilter::default(), None, 99));
    let person = TextFilter { status: Some(TextStatus::Ignore), by_person: true };
    out += &format!("{:#?}", reads.texts(person, None, 99));
    out += &format!("{:#?}{:#?}", reads.texts_by_key(None, 2), reads.histories(1, 2));
    let second = reads.texts_by_key(None, 2).unwrap().last().map(|text| text.key);
    out += &format!("{:#?}", reads.texts_by_key(second, 99));
    for address in ADDRESSES {
        out += &format!("{:#?}", reads.history(address));
    }
    for state in State::ALL {
        let filter = AddressFilter {
            state: Some(state),
            domain: Some("x.org".into()),
            ..AddressFilter::default()
        };
        out += &format!("{:#?}", reads.addresses(&filter, 0, 1));
    }
    let selection = Selection { from: START + DAY, to: START + 20 * DAY, ..Selection::default() };
    let place = LedgerPlace::default();
    out += &format!("{:#?}", reads.entries(&selection, place, 3));
    let work = Work::Undo { selection };
    out += &format!("{:#?}", reads.preview(&work, &assumption, place, 3, now));
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn both_stores_hold_what_the_ledger_says(
        steps in proptest::collection::vec((0..80_u32, deeds()), 1..60),
    ) {
        let (mut memory, mut sqlite) = (Subject::memory(), Subject::sqlite());
        let mut now = START;
        // Several to a batch: each costs a sync.
        for steps in steps.chunks(7) {
            if steps.iter().any(|(_, deeds)| matches!(deeds, Deeds::Restart)) {
                memory.restart("a");
                sqlite.restart("a");
            }
            let mut batch = Vec::new();
            for (hours, deeds) in steps {
                now = now + *hours * Duration::from_micros(3_600_000_001);
                let writes = deeds.writes(memory.reads(), now).into_iter();
                batch.extend(writes.map(|write| Write::Quarantine(Box::new(write))));
            }
            let (one, other) = (memory.store().apply(&batch), sqlite.store().apply(&batch));
            prop_assert_eq!(one, other);
        }
        prop_assert_eq!(everything(memory.reads(), now), everything(sqlite.reads(), now));
        // When all tasks are done and what was due is done, the rows are what the ledger says.
        while let Some(task) = sqlite.reads().tasks().unwrap().first() {
            let task = task.task;
            prop_assert_eq!(memory.finish(task, now), sqlite.finish(task, now));
        }
        let (one, other) = (memory.clean(now), sqlite.clean(now));
        prop_assert_eq!(one, other);
        prop_assert_eq!(everything(memory.reads(), now), everything(sqlite.reads(), now));
        for (_, record) in sqlite.reads().addresses(&AddressFilter::default(), 0, 99).unwrap() {
            let history = sqlite.reads().history(&record.address).unwrap();
            let judged = judge(&history, &Policy::default(), now);
            prop_assert_eq!(record.condition, judged);
        }
    }
}
