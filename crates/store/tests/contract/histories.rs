//! Random histories: both stores give the same answers and end with the same contents, whatever is
//! asked, in whatever batches, with restarts in between.

use crate::support::*;
use engine::work::{DeliveryOptions, DeliveryState, Fate, FinalState, Wave, WaveSize};
use mail::id::{DeliveryId, MessageId, SourceId};
use mail::time::Timestamp;
use mailweir_store::*;
use proptest::prelude::*;
use std::time::Duration;

const ADDRESSES: [&str; 6] =
    ["a@x.org", "A@x.org", "b@x.org", "c@y.org", "d@y.org", "\u{e9}@z.org"];

fn delivery() -> impl Strategy<Value = DeliveryId> {
    (1..5_u64).prop_map(DeliveryId)
}

fn text() -> impl Strategy<Value = Option<&'static str>> {
    prop_oneof![Just(None), Just(Some("one")), Just(Some("two"))]
}

fn options() -> impl Strategy<Value = DeliveryOptions> {
    let sizes = prop_oneof![
        (0..6_u64).prop_map(WaveSize::Count),
        (0..120_u32).prop_map(|share| WaveSize::Percent(f64::from(share))),
    ];
    (proptest::collection::vec(sizes, 0..3), any::<bool>()).prop_map(|(sizes, stream)| {
        let wave = |size| Wave { size, start_after: Duration::ZERO };
        let waves = sizes.into_iter().map(wave).collect();
        DeliveryOptions { waves, stream, ..DeliveryOptions::default() }
    })
}

fn once() -> impl Strategy<Value = Option<Once>> {
    let key = (0..3_u8, 0..2_u8).prop_map(|(key, digest)| Once {
        tenant: "shop".into(),
        key: key.to_string().into(),
        digest: [digest; 32],
    });
    prop_oneof![3 => Just(None), 1 => key.prop_map(Some)]
}

fn creation() -> impl Strategy<Value = Write> {
    (options(), text(), once()).prop_map(|(options, text, once)| Write::CreateDelivery {
        options: Box::new(options),
        content: text.map(content),
        at: time(1),
        once,
    })
}

fn appending() -> impl Strategy<Value = Write> {
    let recipients = proptest::collection::vec(proptest::sample::select(&ADDRESSES[..]), 0..9);
    (delivery(), text(), recipients, once()).prop_map(|(delivery, text, addresses, once)| {
        let recipients =
            (1..).zip(addresses).map(|(line, address)| recipient(line, address)).collect();
        Write::Append { delivery, content: text.map(content), recipients, at: time(2), once }
    })
}

fn claiming() -> impl Strategy<Value = Write> {
    let from = (delivery(), proptest::option::of(0..40_u64), proptest::option::of(0..4_u32))
        .prop_map(|(delivery, through, at_most)| ClaimFrom {
            delivery,
            through: through.map(MessageId),
            at_most,
        });
    (1..4_u32, proptest::collection::vec(from, 0..4), 0..9_u32, 0..100_u64)
        .prop_map(|(domain, from, limit, until)| claim(DomainId(domain), &from, limit, until))
}

fn settling() -> impl Strategy<Value = Write> {
    let fate = prop_oneof![
        Just(Fate::Final(FinalState::Sent)),
        Just(Fate::Final(FinalState::Failed)),
        (0..90_000_u64, proptest::option::of(1..3_u32)).prop_map(|(micros, source)| {
            let due = Timestamp::from_micros(micros * 1_000_001);
            Fate::Requeued { due, pinned_source: source.map(SourceId) }
        }),
    ];
    let one = (1..40_u64, delivery(), fate)
        .prop_map(|(message, delivery, fate)| settled(message, delivery, fate));
    proptest::collection::vec(one, 0..25).prop_map(Write::Settle)
}

fn steering() -> impl Strategy<Value = Write> {
    let state = proptest::sample::select(vec![
        DeliveryState::Paused,
        DeliveryState::Running,
        DeliveryState::Running,
        DeliveryState::Cancelled,
    ]);
    prop_oneof![
        3 => delivery().prop_map(|delivery| Write::Start { delivery, at: time(9) }),
        1 => (delivery(), state).prop_map(|(delivery, state)| Write::SetState {
            delivery,
            state,
            who: "ann".into(),
            why: "".into(),
            at: time(10),
        }),
        1 => (delivery(), text()).prop_map(|(delivery, text)| Write::SetContent {
            delivery,
            content: content(text.unwrap_or("three")),
        }),
    ]
}

fn sweeping() -> impl Strategy<Value = Write> {
    let through = proptest::option::of((0..40_u64).prop_map(MessageId));
    let place = (delivery(), through, 0..4_u32);
    (place, 0..6_u32, any::<bool>()).prop_map(|((delivery, through, from), limit, expire)| {
        let sweep = Sweep { through, ..sweep(delivery, DomainId(from), limit) };
        if expire { Write::Expire(sweep) } else { Write::CancelQueued(sweep) }
    })
}

fn write() -> impl Strategy<Value = Write> {
    prop_oneof![
        2 => creation(),
        5 => appending(),
        8 => claiming(),
        6 => settling(),
        4 => steering(),
        1 => sweeping(),
        1 => (0..200_u64).prop_map(|now| Write::ReleaseParts { now: time(now) }),
        1 => (0..200_u64).prop_map(|until| Write::RenewLeases { until: time(until) }),
        2 => (proptest::sample::select(vec![5_u64, 60, 500]), 0..9_u64, 0..9_u32)
            .prop_map(|(before, after, limit)| forget(before, after, limit)),
        1 => (proptest::sample::select(&ADDRESSES), 0..3_u64, 0..4_u32).prop_map(|(address, after, limit)| {
            let address = address.to_lowercase().into();
            Write::Erase(Erase { address, after: DeliveryId(after), limit })
        }),
        1 => (0..3_u64).prop_map(|before| Write::PruneOnce { before: time(before) }),
    ]
}

/// One step: a batch, or a restart as one of two nodes.
#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<Write>),
    Restart(&'static str),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => proptest::collection::vec(write(), 1..10).prop_map(Step::Apply),
        1 => proptest::sample::select(vec!["a", "a", "b"]).prop_map(Step::Restart),
    ]
}

/// Everything that can be asked, as text.
fn everything(reads: &dyn Reads) -> String {
    let mut out = String::new();
    let mut add = |part: String| out.push_str(&part);
    add(format!("{:#?}", reads.deliveries(DeliveryId(0), 99)));
    add(format!("{:#?}", reads.totals()));
    add(format!("{:#?}", reads.messages(MessageId(0), 999)));
    add(format!("{:#?}", reads.due_domains(DomainId(0), 99)));
    add(format!("{:#?}", reads.due_domains(DomainId(1), 1)));
    add(format!("{:#?}", reads.domain_queues(DomainId(0), 99, 3)));
    add(format!("{:#?}", reads.parts(99)));
    add(format!("{:#?}", reads.audit(99)));
    for number in 1..5 {
        add(format!("{:#?}", reads.refusals(DeliveryId(number), 1, 20)));
        add(format!("{:?}", reads.domain_name(DomainId(number as u32))));
    }
    for number in 1..20 {
        add(format!("{:?}", reads.content(number)));
        add(format!("{:?}", reads.past_recipient(MessageId(number))));
    }
    for address in ADDRESSES {
        add(format!("{:#?}", reads.messages_by_address(&address.to_lowercase(), 99)));
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn both_stores_tell_the_same_story(steps in proptest::collection::vec(step(), 1..14)) {
        let (mut memory, mut sqlite) = (Subject::memory(), Subject::sqlite());
        // Something to work on, so that short histories say something.
        let opening: Vec<Write> = std::iter::once(create(DeliveryOptions::default(), Some("one")))
            .chain([append(DeliveryId(1), None, &ADDRESSES)])
            .chain([Write::Start { delivery: DeliveryId(1), at: time(3) }])
            .collect();
        for step in std::iter::once(Step::Apply(opening)).chain(steps) {
            match step {
                Step::Apply(batch) => prop_assert_eq!(
                    memory.store().apply(&batch).unwrap(),
                    sqlite.store().apply(&batch).unwrap()
                ),
                Step::Restart(node) => {
                    memory.restart(node);
                    sqlite.restart(node);
                }
            }
        }
        prop_assert_eq!(everything(memory.reads()), everything(sqlite.reads()));
        assert_consistent(sqlite.reads());
    }
}
