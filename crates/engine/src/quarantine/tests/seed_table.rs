//! The table of the documentation, reason by reason, on the virtual clock.

use core::time::Duration;

use mail::failure::{FailureType, Reason};

use super::support::*;
use crate::quarantine::*;

use Channel::{Asynchronous, Synchronous};

/// Every mixture of synchronous and asynchronous errors of this length.
fn mixtures(length: u32) -> impl Iterator<Item = Vec<Channel>> {
    (0..1_u32 << length).map(move |bits| {
        let channel = |at| if bits >> at & 1 == 0 { Synchronous } else { Asynchronous };
        (0..length).map(channel).collect()
    })
}

#[test]
fn each_reason_quarantines_at_its_error() {
    let table = [
        (Reason::UserUnknown, Some(1)),
        (Reason::AccountDisabled, Some(1)),
        (Reason::MailboxFull, Some(3)),
        (Reason::InactiveUser, Some(3)),
        (Reason::InvalidDomain, Some(3)),
        (Reason::Refused, None),
        (Reason::Unreachable, Some(5)),
        (Reason::ErrorIgnored, None),
        (Reason::NotDefined, None),
    ];
    for (reason, threshold) in table {
        for channels in mixtures(6) {
            let mut story = Story::new();
            for (error, channel) in (1..).zip(&channels) {
                let state = story.fail(reason, *channel);
                let expected = match threshold {
                    None => State::Valid,
                    Some(limit) if error < limit => State::WithErrors,
                    Some(_) => State::Quarantined,
                };
                assert_eq!(state, expected, "{reason}, error {error} of {channels:?}");
                story.wait(DAY);
            }
        }
    }
}

#[test]
fn a_full_mailbox_is_free_again_after_thirty_days() {
    for channels in mixtures(3) {
        let mut story = Story::new();
        for channel in &channels {
            story.fail(Reason::MailboxFull, *channel);
            story.wait(2 * DAY);
        }
        let until = story.condition().until.unwrap();
        assert_eq!(until, START + 4 * DAY + 30 * DAY);
        assert_eq!(
            story.wait(until.since(story.now) - Duration::from_micros(1)),
            State::Quarantined
        );
        assert_eq!(story.wait(Duration::from_micros(1)), State::Valid);
        // It takes three again.
        for expected in [State::WithErrors, State::WithErrors, State::Quarantined] {
            assert_eq!(story.fail(Reason::MailboxFull, Synchronous), expected);
            story.wait(DAY);
        }
    }
}

#[test]
fn other_quarantines_do_not_end_by_themselves() {
    for reason in [Reason::UserUnknown, Reason::InactiveUser, Reason::Unreachable] {
        let mut story = Story::new();
        for _ in 0..5 {
            story.fail(reason, Synchronous);
            story.wait(DAY);
        }
        assert_eq!(story.wait(3_650 * DAY), State::Quarantined, "{reason}");
    }
}

#[test]
fn a_complaint_denylists_at_once_and_for_ever() {
    let mut story = Story::new();
    assert_eq!(story.fail(Reason::Complaint, Asynchronous), State::Denylisted);
    assert_eq!(story.condition().reason, Some(Reason::Complaint));
    assert_eq!(story.deliver(1), State::Denylisted);
    assert_eq!(story.wait(3_650 * DAY), State::Denylisted);
    assert_eq!(story.act(Deed::Release), State::Valid);
    story.act(Deed::Allow);
    story.wait(HOUR);
    assert_eq!(story.fail(Reason::Complaint, Asynchronous), State::Denylisted, "outranks us");
}

#[test]
fn one_error_a_day_counts() {
    let mut story = Story::new();
    story.fail(Reason::MailboxFull, Synchronous);
    for _ in 0..23 {
        story.wait(HOUR);
        assert_eq!(story.fail(Reason::MailboxFull, Asynchronous), State::WithErrors);
        let why = NotCounted::TooSoonAfter { entry: EntryId(1) };
        assert_eq!(story.last_verdict(), Verdict::NotCounted { why });
    }
    story.wait(HOUR);
    story.fail(Reason::MailboxFull, Asynchronous);
    assert_eq!(story.last_verdict(), Verdict::Counted { error: 2, threshold: 3 });
    // One that quarantines by itself need not wait.
    story.wait(HOUR);
    assert_eq!(story.fail(Reason::UserUnknown, Synchronous), State::Quarantined);
}

#[test]
fn reasons_are_counted_apart_but_share_the_day() {
    let mut story = Story::new();
    for reason in [Reason::MailboxFull, Reason::InvalidDomain, Reason::Unreachable] {
        story.fail(reason, Synchronous);
        assert_eq!(story.fail(Reason::InactiveUser, Synchronous), State::WithErrors);
        story.wait(DAY);
    }
    assert_eq!(story.condition().counts.total(), 3);
}

#[test]
fn ten_quiet_days_or_a_delivery_begin_anew() {
    let mut story = Story::new();
    story.fail(Reason::MailboxFull, Synchronous);
    story.wait(2 * DAY);
    story.fail(Reason::MailboxFull, Synchronous);
    assert_eq!(story.wait(10 * DAY - Duration::from_micros(1)), State::WithErrors);
    assert_eq!(story.wait(Duration::from_micros(1)), State::Valid);
    story.fail(Reason::MailboxFull, Synchronous);
    story.wait(DAY);
    assert_eq!(story.fail(Reason::MailboxFull, Synchronous), State::WithErrors);
    story.wait(DAY);
    assert_eq!(story.deliver(7), State::Valid);
    assert_eq!(story.fail(Reason::MailboxFull, Synchronous), State::WithErrors);
    assert_eq!(story.condition().counts.of(Reason::MailboxFull), 1);
}

/// Many servers take every message and refuse it later: what they took is no proof.
#[test]
fn a_delivery_that_came_back_is_none() {
    let mut story = Story::new();
    for message in 1..=3 {
        let before = story.deliver(message);
        assert_ne!(before, State::Quarantined);
        story.wait(HOUR);
        let expected = if message < 3 { State::WithErrors } else { State::Quarantined };
        assert_eq!(story.bounce(Reason::MailboxFull, message), expected, "message {message}");
        story.wait(DAY);
    }
    // An auto-reply to a message is no return of it.
    let mut story = Story::new();
    story.fail(Reason::MailboxFull, Synchronous);
    story.deliver(9);
    assert_eq!(story.bounce(Reason::ErrorIgnored, 9), State::Valid);
}

#[test]
fn a_server_that_only_defers_is_not_believed_at_once() {
    let mut story = Story::new();
    for expected in [State::WithErrors, State::WithErrors, State::Quarantined] {
        story.enter(soft(failed(story.now, Reason::UserUnknown, Synchronous)));
        assert_eq!(story.state(), expected);
        story.wait(DAY);
    }
}

#[test]
fn what_is_qualified_later_counts_from_its_evidence() {
    let mut story = Story::new();
    for _ in 0..3 {
        assert_eq!(story.fail(Reason::NotDefined, Asynchronous), State::Valid);
        let why = NotCounted::NotQualified;
        assert_eq!(story.last_verdict(), Verdict::NotCounted { why });
        story.wait(DAY);
    }
    for entry in &mut story.history.entries {
        entry.person = Some(meaning(Reason::InactiveUser));
    }
    assert_eq!(story.state(), State::Quarantined);
    assert_eq!(story.condition().since, START + 2 * DAY, "from its evidence");
    for entry in &mut story.history.entries {
        let ignored = Qualification { status: TextStatus::Ignore, ..meaning(Reason::UserUnknown) };
        entry.person = Some(ignored);
    }
    assert_eq!(story.state(), State::Valid);
}

#[test]
fn what_is_forged_held_or_undone_does_not_count() {
    let mut story = Story::new();
    story.enter(failed(story.now, Reason::UserUnknown, Asynchronous)).evidence.authentic = false;
    assert_eq!(story.state(), State::Valid);
    story.enter(failed(story.now, Reason::UserUnknown, Synchronous)).standing =
        Standing::Held { hold: 1 };
    assert_eq!(story.state(), State::Valid);
    story.enter(failed(story.now, Reason::UserUnknown, Synchronous)).standing =
        Standing::Void { task: 1 };
    assert_eq!(story.state(), State::Valid);
    assert_eq!(story.fail(Reason::UserUnknown, Synchronous), State::Quarantined);
}

#[test]
fn deeds_outweigh_what_was_before() {
    let mut story = Story::new();
    story.fail(Reason::UserUnknown, Synchronous);
    assert_eq!(story.act(Deed::Release), State::Valid);
    assert_eq!(story.act(Deed::Allow), State::Allowlisted);
    assert_eq!(story.fail(Reason::UserUnknown, Synchronous), State::Allowlisted);
    assert_eq!(story.act(Deed::Deny), State::Denylisted);
    // Errors found elsewhere end no denylisting.
    let elsewhere = |state| Imported { state, ..Imported::of(&Condition::default()) };
    assert_eq!(story.act(Deed::Quarantine(Reason::Refused)), State::Denylisted);
    assert_eq!(story.act(Deed::Import(elsewhere(State::Quarantined))), State::Denylisted);
    assert_eq!(story.act(Deed::Import(elsewhere(State::Allowlisted))), State::Denylisted);
    assert_eq!(story.act(Deed::Release), State::Valid);
    assert_eq!(story.act(Deed::Quarantine(Reason::Refused)), State::Quarantined);
    assert_eq!(story.wait(1_000 * DAY), State::Quarantined);
    assert_eq!(story.act(Deed::Unsubscribe), State::Denylisted);
    assert_eq!(story.condition().reason, None);
    assert_eq!(story.act(Deed::Allow), State::Allowlisted);
    assert_eq!(story.act(Deed::Release), State::Valid);
}

#[test]
fn a_reason_for_good_takes_the_place_of_one_for_a_while() {
    let mut story = Story::new();
    for _ in 0..3 {
        story.fail(Reason::MailboxFull, Synchronous);
        story.wait(DAY);
    }
    story.fail(Reason::InactiveUser, Asynchronous);
    assert_eq!(story.condition().reason, Some(Reason::MailboxFull));
    story.fail(Reason::UserUnknown, Asynchronous);
    assert_eq!(story.condition().reason, Some(Reason::UserUnknown));
    assert_eq!(story.condition().until, None);
}

#[test]
fn the_policy_is_data_and_contradictions_are_refused() {
    let mut policy = Policy::default();
    assert_eq!(policy.check(), Ok(()));
    let full = ReasonPolicy { quarantine_at: Some(0), ..*policy.of(Reason::MailboxFull) };
    policy.set(Reason::MailboxFull, full);
    assert_eq!(policy.check(), Err(PolicyFault::Zero(Reason::MailboxFull)));
    let mut policy = Policy::default();
    policy.reset_after = DAY;
    assert!(matches!(policy.check(), Err(PolicyFault::NothingAddsUp { .. })));
    policy.reset_after = 5 * DAY;
    policy.set(Reason::Refused, ReasonPolicy { quarantine_at: Some(2), ..ReasonPolicy::NEVER });
    let mut story = Story { policy, ..Story::new() };
    story.fail(Reason::Refused, Synchronous);
    story.wait(DAY);
    assert_eq!(story.fail(Reason::Refused, Synchronous), State::Quarantined);
    assert_eq!(meaning(Reason::Refused).failure_type, FailureType::Soft);
}
