//! The fold against a naive model that walks through time hour by hour.

use core::time::Duration;

use mail::failure::{FailureType, Reason};
use mail::id::MessageId;
use mail::time::Timestamp;
use proptest::prelude::*;

use super::support::*;
use crate::quarantine::*;

/// What happens at an hour.
#[derive(Clone, Debug)]
enum Event {
    Failed {
        reason: Reason,
        kind: FailureType,
        message: Option<u64>,
        standing: Standing,
        authentic: bool,
    },
    Delivered {
        message: u64,
    },
    Deed(Deed),
}

fn event() -> impl Strategy<Value = Event> {
    let reason = prop::sample::select(Reason::ALL.to_vec());
    // Mostly what has a threshold above 1, or everything is over with the first error.
    let often =
        prop::sample::select(vec![Reason::MailboxFull, Reason::Unreachable, Reason::InactiveUser]);
    let reason = prop_oneof![3 => often, 1 => reason];
    let kind = prop_oneof![4 => Just(FailureType::Soft), 2 => Just(FailureType::Hard), 1 => Just(FailureType::Ignored)];
    let standing = prop_oneof![8 => Just(Standing::Live), 1 => Just(Standing::Void { task: 1 }), 1 => Just(Standing::Held { hold: 1 })];
    let message = prop::option::of(0..4_u64);
    let failed = (reason, kind, message, standing, prop::bool::weighted(0.9)).prop_map(
        |(reason, kind, message, standing, authentic)| Event::Failed {
            reason,
            kind,
            message,
            standing,
            authentic,
        },
    );
    let deed = prop_oneof![
        Just(Deed::Deny),
        Just(Deed::Allow),
        Just(Deed::Release),
        Just(Deed::Unsubscribe),
        Just(Deed::Quarantine(Reason::Refused)),
    ];
    prop_oneof![
        12 => failed,
        2 => (0..4_u64).prop_map(|message| Event::Delivered { message }),
        1 => deed.prop_map(Event::Deed),
    ]
}

/// Hours between events: often less than a day, sometimes weeks.
fn gap() -> impl Strategy<Value = u32> {
    prop_oneof![3 => 0..30_u32, 3 => 20..50_u32, 1 => 200..300_u32, 1 => 600..800_u32]
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Free,
    Quarantined { hours_left: Option<u32>, for_good: bool },
    Denied,
    Allowed,
}

/// The rules, told once more: counters that people would keep by hand, and a clock that ticks.
fn naive(events: &[(u32, Event)], policy: &Policy, end: u32) -> (State, u32) {
    let hours = |span: Duration| (span.as_secs() / 3_600) as u32;
    let mut place = Place::Free;
    let mut counts: Vec<(Reason, u8)> = Vec::new();
    let mut since_counted: Option<u32> = None;
    for hour in 0..=end {
        if hour > 0 {
            since_counted = since_counted.map(|hours| hours + 1);
            if let Place::Quarantined { hours_left: Some(left), .. } = &mut place {
                *left -= 1;
                if *left == 0 {
                    place = Place::Free;
                    counts.clear();
                    since_counted = None;
                }
            }
            if place == Place::Free && since_counted == Some(hours(policy.reset_after)) {
                counts.clear();
                since_counted = None;
            }
        }
        let deeds_last = events
            .iter()
            .filter(|(at, event)| *at == hour && !matches!(event, Event::Deed(_)))
            .chain(
                events.iter().filter(|(at, event)| *at == hour && matches!(event, Event::Deed(_))),
            );
        for (_, event) in deeds_last {
            match event {
                // Errors found elsewhere do not outrank the recipient's wish.
                Event::Deed(Deed::Quarantine(_)) if place == Place::Denied => {}
                Event::Deed(deed) => {
                    counts.clear();
                    since_counted = None;
                    place = match deed {
                        Deed::Deny | Deed::Unsubscribe => Place::Denied,
                        Deed::Allow => Place::Allowed,
                        Deed::Quarantine(_) => {
                            Place::Quarantined { hours_left: None, for_good: true }
                        }
                        _ => Place::Free,
                    };
                }
                Event::Delivered { message } => {
                    let back = events.iter().any(|(at, other)| {
                        matches!(other,
                        Event::Failed { message: Some(failed), kind, authentic: true, .. }
                        if failed == message && *kind != FailureType::Ignored && *at >= hour)
                    });
                    if !back && place == Place::Free {
                        counts.clear();
                        since_counted = None;
                    }
                }
                Event::Failed { reason, kind, standing, authentic, .. } => {
                    if *standing != Standing::Live
                        || !authentic
                        || *kind == FailureType::Ignored
                        || place == Place::Denied
                    {
                        continue;
                    }
                    if *reason == Reason::Complaint {
                        place = Place::Denied;
                        counts.clear();
                        since_counted = None;
                        continue;
                    }
                    let limit = match (reason, kind) {
                        (Reason::UserUnknown | Reason::AccountDisabled, FailureType::Hard) => 1,
                        (Reason::UserUnknown | Reason::AccountDisabled, _) => 3,
                        (Reason::MailboxFull | Reason::InactiveUser | Reason::InvalidDomain, _) => {
                            3
                        }
                        (Reason::Unreachable, _) => 5,
                        _ => continue,
                    };
                    match place {
                        Place::Allowed => continue,
                        Place::Quarantined { for_good: false, .. } if limit == 1 => counts.clear(),
                        Place::Quarantined { .. } => continue,
                        _ => {}
                    }
                    if limit > 1 && since_counted.is_some_and(|since| since < 24) {
                        continue;
                    }
                    let count = match counts.iter_mut().find(|(known, _)| known == reason) {
                        Some((_, count)) => {
                            *count += 1;
                            *count
                        }
                        None => {
                            counts.push((*reason, 1));
                            1
                        }
                    };
                    since_counted = Some(0);
                    if count >= limit {
                        let full = *reason == Reason::MailboxFull;
                        place = Place::Quarantined {
                            hours_left: full.then_some(30 * 24),
                            for_good: !full,
                        };
                    }
                }
            }
        }
    }
    let total = counts.iter().map(|(_, count)| u32::from(*count)).sum();
    let state = match place {
        Place::Free if total > 0 => State::WithErrors,
        Place::Free => State::Valid,
        Place::Quarantined { .. } => State::Quarantined,
        Place::Denied => State::Denylisted,
        Place::Allowed => State::Allowlisted,
    };
    (state, total)
}

fn history(events: &[(u32, Event)]) -> History {
    let mut history = History::default();
    for (id, (hour, event)) in (1..).zip(events) {
        let at = START + *hour * HOUR;
        let (evidence, standing) = match event {
            Event::Deed(deed) => {
                let deed = deed.clone();
                history.actions.push(Action { id, at, deed, who: "".into(), why: "".into() });
                continue;
            }
            Event::Delivered { message } => (delivered(at, *message), Standing::Live),
            Event::Failed { reason, kind, message, standing, authentic } => {
                let mut evidence = failed(at, *reason, Channel::Asynchronous);
                evidence.message = message.map(MessageId);
                evidence.authentic = *authentic;
                if let Finding::Failed(failure) = &mut evidence.finding {
                    failure.qualification.failure_type = *kind;
                }
                (evidence, *standing)
            }
        };
        history.entries.push(Entry { id: EntryId(id), evidence, standing, person: None });
    }
    history
}

fn timeline() -> impl Strategy<Value = Vec<(u32, Event)>> {
    prop::collection::vec((gap(), event()), 0..40).prop_map(|steps| {
        let mut hour = 0;
        steps
            .into_iter()
            .map(|(gap, event)| {
                hour += gap;
                (hour, event)
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_naive_model(events in timeline(), wait in 0..900_u32) {
        let end = events.last().map_or(0, |(hour, _)| *hour) + wait;
        let policy = Policy::default();
        let condition = judge(&history(&events), &policy, START + end * HOUR);
        let found = (condition.state, condition.counts.total());
        prop_assert_eq!(found, naive(&events, &policy, end));
    }

}

proptest! {
    #[test]
    fn the_order_of_recording_does_not_matter(events in timeline(), turn in 0..40_usize) {
        let mut turned = history(&events);
        let now = START + 2_000 * DAY;
        let before = judge(&turned, &Policy::default(), now);
        if !turned.entries.is_empty() {
            let by = turn % turned.entries.len();
            turned.entries.rotate_left(by);
        }
        prop_assert_eq!(judge(&turned, &Policy::default(), now), before);
    }

    #[test]
    fn nothing_changes_before_the_time_that_is_named(events in timeline()) {
        let last: Timestamp = START + events.last().map_or(0, |(hour, _)| *hour) * HOUR;
        let (history, policy) = (history(&events), Policy::default());
        let condition = judge(&history, &policy, last);
        let just_before = condition.changes_at.map_or(last + 4_000 * DAY, |at| {
            Timestamp::from_micros(at.as_micros() - 1)
        });
        prop_assert_eq!(judge(&history, &policy, just_before), condition);
        if let Some(at) = condition.changes_at {
            prop_assert_ne!(judge(&history, &policy, at), condition);
        }
    }

    #[test]
    fn what_carries_no_weight_may_go(events in timeline()) {
        let now = START + events.last().map_or(0, |(hour, _)| *hour) * HOUR;
        let (mut history, policy) = (history(&events), Policy::default());
        let condition = judge(&history, &policy, now);
        while let Some(id) = oldest_without_weight(&history, &policy, now) {
            history.entries.retain(|entry| entry.id != id);
            let after = judge(&history, &policy, now);
            prop_assert_eq!((after.state, after.counts, after.until), (condition.state, condition.counts, condition.until));
        }
        prop_assert!(history.entries.len() <= 20);
    }

    #[test]
    fn what_is_imported_is_as_it_was(events in timeline()) {
        let now = START + events.last().map_or(0, |(hour, _)| *hour) * HOUR;
        let policy = Policy::default();
        let condition = judge(&history(&events), &policy, now);
        let deed = Deed::Import(Imported::of(&condition));
        let action = Action { id: 1, at: now, deed, who: "".into(), why: "".into() };
        let moved = History { entries: Vec::new(), actions: vec![action] };
        let after = judge(&moved, &policy, now);
        prop_assert_eq!(Imported::of(&after), Imported::of(&condition));
        prop_assert_eq!(after.changes_at, condition.changes_at);
    }
}
