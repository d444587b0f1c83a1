//! Handing in: what is written, what is told, who is admitted.

use core::time::Duration;
use std::sync::Arc;

use mail::failure::Reason;
use mail::time::Timestamp;

use super::support::*;
use crate::quarantine::*;

fn desk() -> Desk {
    Desk::new(Arc::new(Policy::default()), OutageGuard::new(GuardSettings::default()))
}

fn hand_in(desk: &mut Desk, evidence: Evidence) -> Outcome {
    let now = evidence.at;
    desk.record(evidence, None, Vec::new(), now)
}

#[test]
fn what_is_forged_is_counted_only() {
    let mut forged = failed(START, Reason::UserUnknown, Channel::Asynchronous);
    forged.authentic = false;
    let outcome = hand_in(&mut desk(), forged);
    let expected = LedgerWrite::Stray { kind: Stray::Forged, count: 1, at: START };
    assert_eq!(outcome, Outcome { writes: vec![expected], alerts: Vec::new() });
}

#[test]
fn deliveries_matter_where_errors_were() {
    let mut desk = desk();
    assert_eq!(hand_in(&mut desk, delivered(START, 1)), Outcome::default());
    for (state, matters) in [
        (State::WithErrors, true),
        (State::Valid, true),
        (State::Quarantined, false),
        (State::Denylisted, false),
        (State::Allowlisted, false),
    ] {
        let after = Condition { state, ..Condition::default() };
        let address = "ann@example.org".into();
        let before = Condition::default();
        desk.learn(&[Change { address, before, after, known: true }]);
        assert_eq!(hand_in(&mut desk, delivered(START, 1)).writes.len(), usize::from(matters));
        assert_eq!(desk.admission().admit_address("ann@example.org").is_err(), state.is_refused());
    }
    let (before, after) = (Condition::default(), Condition::default());
    desk.learn(&[Change { address: "ann@example.org".into(), before, after, known: false }]);
    assert!(desk.admission().is_empty());
}

#[test]
fn an_outage_holds_what_is_recorded_and_doubts_what_was() {
    let mut desk = desk();
    let mut now = START;
    let mut pass = |desk: &mut Desk, unknown: bool| -> Outcome {
        now = now + Duration::from_secs(60);
        let evidence = match unknown {
            true => failed(now, Reason::UserUnknown, Channel::Synchronous),
            false => delivered(now, 1),
        };
        hand_in(desk, evidence)
    };
    for _ in 0..1_000 {
        assert_eq!(pass(&mut desk, false).alerts, []);
    }
    // A minute apart they are no crowd of an hour; a crowd it is in seconds.
    let mut moment: Timestamp = START + 2 * DAY;
    let mut tripped = None;
    for _ in 0..200 {
        moment = moment + Duration::from_secs(1);
        let outcome = hand_in(&mut desk, failed(moment, Reason::UserUnknown, Channel::Synchronous));
        if tripped.is_some() {
            let [LedgerWrite::Record { entries, .. }] = &outcome.writes[..] else { panic!() };
            assert_eq!(entries[0].hold, Some(1));
        } else if !outcome.alerts.is_empty() {
            tripped = Some(outcome);
        }
    }
    let outcome = tripped.expect("the guard trips");
    let [LedgerWrite::Record { .. }, LedgerWrite::Hold(record), LedgerWrite::Start { work, .. }] =
        &outcome.writes[..]
    else {
        panic!("{outcome:?}")
    };
    assert_eq!((record.hold, &*record.provider), (1, "mx.example.org"));
    let Work::Hold { hold: 1, selection } = work else { panic!("{work:?}") };
    assert_eq!(selection.reason, Some(Reason::UserUnknown));
    assert_eq!(selection.from, record.doubted_since);
    // A person ends it.
    assert!(desk.guard().end(1, false));
    let outcome = hand_in(&mut desk, failed(moment, Reason::UserUnknown, Channel::Synchronous));
    let [LedgerWrite::Record { entries, .. }] = &outcome.writes[..] else { panic!() };
    assert_eq!(entries[0].hold, None);
}

#[test]
fn the_clean_up_says_what_it_did_and_what_failed() {
    let mut report = CleanUpReport::begin(START);
    for dropped in [10, 20, 10] {
        report.add(CleanUpStep::Seen, &Cleaned { dropped, ..Cleaned::default() });
    }
    report.failed.push((CleanUpStep::Evidence, "the disk is full".to_owned()));
    assert_eq!((report.seen, report.entries), (40, 0));
    assert!(report.to_string().ends_with("step Evidence failed: the disk is full"), "{report}");
    let four = 4 * HOUR;
    let midnight = Timestamp::from_secs(START.as_secs() / 86_400 * 86_400);
    assert_eq!(CleanUpReport::next_at(midnight, four), midnight + four);
    assert_eq!(CleanUpReport::next_at(midnight + four, four), midnight + four + DAY);
}
