//! The ledger of evidence, case by case, for every store.

use crate::support::*;
use engine::quarantine::*;
use mail::failure::Reason;
use mail::id::MessageId;
use mail::time::Timestamp;
use mailweir_store::*;
use std::sync::Arc;
use std::time::Duration;

/// Short ways to write to the ledger.
pub mod words {
    use super::*;

    pub const DAY: Duration = Duration::from_secs(86_400);
    /// The first moment of the stories; with microseconds, which no store keeps.
    pub const START: Timestamp = Timestamp::from_micros(1_795_000_000_000_123);

    pub fn meaning(reason: Reason) -> Qualification {
        let status = match reason {
            Reason::NotDefined => TextStatus::ToQualify,
            _ => TextStatus::Keep,
        };
        Qualification { reason, failure_type: reason.usual_type(), status }
    }

    pub fn key(reason: Reason) -> TextKey {
        TextKey([reason as u8 + 1; 16])
    }

    pub fn failed(address: &str, at: Timestamp, reason: Reason) -> NewEntry {
        let failure = Failure {
            text: key(reason),
            reply: format!("550 {reason} <{address}>").into(),
            qualification: meaning(reason),
            rule: format!("rule of {reason}").into(),
            version: "7".into(),
        };
        let evidence = Evidence {
            address: address.into(),
            provider: "mx.example".into(),
            at,
            delivery: None,
            message: Some(MessageId(5)),
            channel: Channel::Asynchronous,
            authentic: true,
            finding: Finding::Failed(failure),
        };
        let text = MetText {
            key: key(reason),
            normalised: format!("550 {reason} <*>").into(),
            raw: format!("550 {reason} <{address}>").into(),
            host: "mx.example".into(),
            qualification: meaning(reason),
            rule: "rule".into(),
            version: "7".into(),
            at,
        };
        NewEntry { evidence, hold: None, text: Some(text), seen: Vec::new() }
    }

    pub fn delivered(address: &str, at: Timestamp) -> NewEntry {
        let mut new = failed(address, at, Reason::Refused);
        new.evidence.finding = Finding::Delivered;
        new.evidence.message = None;
        NewEntry { text: None, ..new }
    }

    pub fn policy() -> Arc<Policy> {
        Arc::new(Policy::default())
    }

    pub fn author() -> Author {
        Author { who: "ann".into(), why: "a test".into() }
    }

    pub fn record(entries: Vec<NewEntry>, now: Timestamp) -> LedgerWrite {
        LedgerWrite::Record { entries, policy: policy(), now }
    }

    pub fn act(address: &str, deed: Deed, now: Timestamp) -> LedgerWrite {
        let deeds = vec![(address.into(), deed)];
        LedgerWrite::Act { deeds, author: author(), policy: policy(), now }
    }

    impl Subject {
        pub fn ledger(&mut self, write: LedgerWrite) -> LedgerWritten {
            match self.apply(Write::Quarantine(Box::new(write))) {
                Written::Quarantine(written) => *written,
                other => panic!("{other:?}"),
            }
        }

        pub fn fail(&mut self, address: &str, at: Timestamp, reason: Reason) -> Recorded {
            match self.ledger(record(vec![failed(address, at, reason)], at)) {
                LedgerWritten::Recorded(recorded) => recorded,
                other => panic!("{other:?}"),
            }
        }

        pub fn state_of(&self, address: &str) -> State {
            let record = self.reads().address(address).unwrap();
            record.map_or(State::Valid, |record| record.condition.state)
        }

        /// Starts a task and works it off in stretches of three; answers what it did.
        pub fn work(&mut self, work: Work, now: Timestamp) -> (u64, Difference) {
            let start = LedgerWrite::Start { work, author: author(), now };
            let LedgerWritten::Started(task) = self.ledger(start) else { panic!("not started") };
            (task, self.finish(task, now))
        }

        pub fn finish(&mut self, task: u64, now: Timestamp) -> Difference {
            let mut difference = Difference::default();
            loop {
                let go_on = LedgerWrite::GoOn { task, limit: 3, policy: policy(), now };
                let LedgerWritten::Worked(worked) = self.ledger(go_on) else { panic!("no work") };
                difference.join(worked.difference);
                if worked.done {
                    return difference;
                }
            }
        }

        pub fn preview(&self, work: &Work, assumption: &Assumption, now: Timestamp) -> Difference {
            let (mut difference, mut place) = (Difference::default(), LedgerPlace::default());
            loop {
                let page = self.reads().preview(work, assumption, place, 3, now).unwrap();
                difference.join(page.0);
                match page.1 {
                    Some(next) => place = next,
                    None => return difference,
                }
            }
        }

        pub fn clean(&mut self, now: Timestamp) -> CleanUpReport {
            let mut report = CleanUpReport::begin(now);
            for step in CleanUpStep::ALL {
                loop {
                    let write = LedgerWrite::CleanUp { step, limit: 2, policy: policy(), now };
                    let LedgerWritten::Cleaned(cleaned) = self.ledger(write) else {
                        panic!("{step:?} was not answered as a clean-up")
                    };
                    report.add(step, &cleaned);
                    if !cleaned.more {
                        break;
                    }
                }
            }
            report
        }
    }
}

use words::*;

macro_rules! contract {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(#[test] fn $name() { super::$name(&mut crate::support::Subject::memory()); })*
        }
        mod sqlite {
            $(#[test] fn $name() { super::$name(&mut crate::support::Subject::sqlite()); })*
        }
    };
}

contract![
    evidence_is_kept_and_judged,
    a_bounce_counts_once_however_often_it_arrives,
    texts_are_counted_and_qualified,
    deeds_are_kept_with_who_and_why,
    an_outage_is_undone_in_bulk_and_restored,
    a_complaint_is_undone_only_when_it_is_asked_for,
    errors_from_elsewhere_do_not_end_a_denylisting,
    an_unsubscription_is_kept_beside_a_complaint,
    a_list_without_dates_is_imported_each_day_and_leaves_no_trail,
    a_refusal_of_a_session_is_recognised_for_days_only,
    a_hold_is_confirmed_or_dismissed,
    what_comes_after_the_end_of_its_hold_takes_that_end,
    a_changed_policy_shows_its_difference_first,
    a_task_goes_on_after_a_restart,
    entries_of_an_address_are_bounded,
    the_clean_up_ends_what_ends_by_itself,
    suppressions_are_kept_by_hash_and_domain,
    what_is_forgotten_leaves_its_hash,
    strays_are_counted_by_day,
    what_passes_a_bound_is_refused,
    an_export_is_imported_to_the_same_states,
    a_new_bundle_judges_old_entries_anew,
    the_admission_set_is_exact_after_a_restart,
];

fn evidence_is_kept_and_judged(subject: &mut Subject) {
    let recorded = subject.fail("ann@x.org", START, Reason::UserUnknown);
    let [change] = &recorded.changes[..] else { panic!("{recorded:?}") };
    assert_eq!((change.before.state, change.after.state), (State::Valid, State::Quarantined));
    for day in 0..2 {
        subject.fail("bob@x.org", START + day * DAY, Reason::MailboxFull);
    }
    assert_eq!(subject.state_of("bob@x.org"), State::WithErrors);
    subject.restart("a");
    let third = START + 2 * DAY;
    subject.fail("bob@x.org", third, Reason::MailboxFull);
    let bob = subject.reads().address("bob@x.org").unwrap().unwrap();
    assert_eq!(bob.condition.state, State::Quarantined);
    let until = Timestamp::from_millis((third + 30 * DAY).as_millis());
    assert_eq!(bob.condition.until, Some(until));
    let history = subject.reads().history("bob@x.org").unwrap();
    assert_eq!(bob.condition, judge(&history, &Policy::default(), third));
    let entry = &history.entries[0];
    let (failure, _) = entry.failure().unwrap();
    assert_eq!(&*failure.reply, "550 Mailbox full <bob@x.org>");
    assert_eq!((&*failure.rule, &*failure.version), ("rule of Mailbox full", "7"));
    assert_eq!(entry.evidence.message, Some(MessageId(5)));
    // A delivery to an address that nothing is known about leaves no trace.
    let written = subject.ledger(record(vec![delivered("new@x.org", third)], third));
    assert_eq!(written, LedgerWritten::Recorded(Recorded::default()));
    assert_eq!(subject.reads().address("new@x.org"), Ok(None));
    let counts = subject.reads().address_counts().unwrap();
    let quarantined = State::Quarantined;
    let expected =
        [(quarantined, Some(Reason::UserUnknown), 1), (quarantined, Some(Reason::MailboxFull), 1)];
    assert_eq!(counts, expected);
    let filter = AddressFilter { reason: Some(Reason::MailboxFull), ..AddressFilter::default() };
    let found = subject.reads().addresses(&filter, 0, 9).unwrap();
    assert_eq!(found.iter().map(|(_, r)| &*r.address).collect::<Vec<_>>(), ["bob@x.org"]);
}

fn a_bounce_counts_once_however_often_it_arrives(subject: &mut Subject) {
    let bounce = |content: &str, at| {
        let mut new = failed("ann@x.org", at, Reason::InactiveUser);
        let text = key(Reason::InactiveUser);
        let report = SeenKey::of_report(MessageId(5), "ann@x.org", "bounce", text);
        new.seen = vec![SeenKey::of_content(content.as_bytes()), report];
        new
    };
    for (day, content) in ["one", "one", "one, relayed", "one"].into_iter().enumerate() {
        let at = START + day as u32 * DAY;
        let written = subject.ledger(record(vec![bounce(content, at)], at));
        let LedgerWritten::Recorded(recorded) = written else { panic!() };
        assert_eq!(recorded.recorded, u32::from(day == 0));
        assert_eq!(recorded.repeated, if day == 0 { vec![] } else { vec![0] });
    }
    assert_eq!(subject.reads().history("ann@x.org").unwrap().entries.len(), 1);
    assert_eq!(subject.reads().text(key(Reason::InactiveUser)).unwrap().unwrap().occurrences, 1);
    let repeated: u64 = subject.reads().strays(0).unwrap().iter().map(|(.., count)| count).sum();
    assert_eq!(repeated, 3);
    // Another message is another bounce.
    let mut other = bounce("two", START + 5 * DAY);
    let text = key(Reason::InactiveUser);
    other.seen[1] = SeenKey::of_report(MessageId(6), "ann@x.org", "bounce", text);
    let LedgerWritten::Recorded(recorded) = subject.ledger(record(vec![other], START + 5 * DAY))
    else {
        panic!()
    };
    assert_eq!(recorded.recorded, 1);
}

fn texts_are_counted_and_qualified(subject: &mut Subject) {
    for day in 0..3 {
        for name in ["ann", "bob"] {
            let address = format!("{name}@x.org");
            subject.fail(&address, START + day * DAY, Reason::NotDefined);
        }
    }
    let now = START + 3 * DAY;
    subject.fail("eve@x.org", now, Reason::Refused);
    let key = key(Reason::NotDefined);
    let text = subject.reads().text(key).unwrap().unwrap();
    assert_eq!((text.occurrences, &*text.normalised), (6, "550 Not defined <*>"));
    assert_eq!(&*text.first_raw, "550 Not defined <ann@x.org>");
    assert_eq!(&*text.host, "mx.example");
    let by_key = subject.reads().texts_by_key(None, 9).unwrap();
    assert!(by_key.len() == 2 && by_key.is_sorted_by_key(|text| text.key));
    assert_eq!(subject.reads().texts_by_key(Some(by_key[0].key), 9).unwrap(), by_key[1..]);
    let histories = subject.reads().histories(0, 2).unwrap();
    assert_eq!(
        histories.iter().map(|one| &*one.record.address).collect::<Vec<_>>(),
        ["ann@x.org", "bob@x.org"]
    );
    assert_eq!(histories[0].history, subject.reads().history("ann@x.org").unwrap());
    let rest = subject.reads().histories(histories[1].id, 9).unwrap();
    assert_eq!(rest.len(), 1, "eve");
    assert_eq!(subject.state_of("ann@x.org"), State::Valid);
    let open = TextFilter { status: Some(TextStatus::ToQualify), by_person: false };
    assert_eq!(subject.reads().texts(open, None, 9).unwrap().len(), 1);
    let all = subject.reads().texts(TextFilter::default(), None, 9).unwrap();
    assert_eq!(all.iter().map(|text| text.occurrences).collect::<Vec<_>>(), [6, 1]);
    let rest = subject.reads().texts(TextFilter::default(), Some((6, key)), 9).unwrap();
    assert_eq!(rest, all[1..]);
    // The difference first, then the deed.
    let dormant = meaning(Reason::InactiveUser);
    let assumption =
        Assumption { policy: Policy::default(), qualification: Some((key, Some(dormant))) };
    let shown = subject.preview(&Work::Text { key }, &assumption, now);
    assert_eq!(shown.states, [(State::Valid, State::Quarantined, 2)]);
    assert_eq!(subject.state_of("ann@x.org"), State::Valid, "a preview changes nothing");
    let qualify =
        |qualification| LedgerWrite::Qualify { key, qualification, author: author(), now };
    let LedgerWritten::Started(task) = subject.ledger(qualify(Some(dormant))) else { panic!() };
    assert_eq!(subject.reads().tasks().unwrap().len(), 1);
    let done = subject.finish(task, now);
    assert_eq!((done.addresses, &done.states), (2, &shown.states));
    assert_eq!(subject.state_of("bob@x.org"), State::Quarantined);
    assert_eq!(subject.reads().tasks().unwrap(), []);
    let person = TextFilter { by_person: true, ..TextFilter::default() };
    let text = &subject.reads().texts(person, None, 9).unwrap()[0];
    assert_eq!((text.by_person, &*text.qualified_by), (Some(dormant), "ann"));
    // New evidence with this text follows the person, whatever the rule says.
    for day in 3..6 {
        subject.fail("new@x.org", START + day * DAY, Reason::NotDefined);
    }
    assert_eq!(subject.state_of("new@x.org"), State::Quarantined);
    // And back.
    let LedgerWritten::Started(task) = subject.ledger(qualify(None)) else { panic!() };
    assert_eq!(subject.finish(task, now).states, [(State::Quarantined, State::Valid, 3)]);
    let unknown = TextKey([9; 16]);
    let write = LedgerWrite::Qualify { key: unknown, qualification: None, author: author(), now };
    let refused = Written::Refused(RefusedWrite::UnknownText(unknown));
    assert_eq!(subject.apply(Write::Quarantine(Box::new(write))), refused);
}

fn deeds_are_kept_with_who_and_why(subject: &mut Subject) {
    let LedgerWritten::Changed(changes) = subject.ledger(act("ann@x.org", Deed::Deny, START))
    else {
        panic!()
    };
    assert_eq!(changes[0].after.state, State::Denylisted);
    subject.ledger(act("ann@x.org", Deed::Unsubscribe, START + DAY));
    let deed = Deed::Quarantine(Reason::Refused);
    subject.ledger(act("ann@x.org", Deed::Release, START + 2 * DAY));
    subject.ledger(act("ann@x.org", deed.clone(), START + 2 * DAY));
    let history = subject.reads().history("ann@x.org").unwrap();
    let deeds: Vec<_> = history.actions.iter().map(|action| action.deed.clone()).collect();
    assert_eq!(deeds, [Deed::Deny, Deed::Unsubscribe, Deed::Release, deed]);
    assert_eq!((&*history.actions[0].who, &*history.actions[0].why), ("ann", "a test"));
    let audit = subject.reads().audit(9).unwrap();
    assert_eq!(&*audit[0].what, "quarantine: 1 addresses", "no address is named");
    for day in 0..100 {
        subject.ledger(act("ann@x.org", Deed::Allow, START + day * DAY));
    }
    let history = subject.reads().history("ann@x.org").unwrap();
    assert_eq!(history.actions.len(), ACTIONS_KEPT);
    assert_eq!(subject.state_of("ann@x.org"), State::Allowlisted);
}

/// Twenty addresses called unknown by one provider within an hour, and others.
fn outage(subject: &mut Subject) -> Timestamp {
    for number in 0..20_u32 {
        let at = START + number * Duration::from_secs(60);
        subject.fail(&format!("u{number}@ill.example"), at, Reason::UserUnknown);
        // Twice each: an address is one address.
        let again = at + Duration::from_secs(1);
        subject.fail(&format!("u{number}@ill.example"), again, Reason::UserUnknown);
    }
    subject.fail("u@well.example", START + DAY / 48, Reason::UserUnknown);
    subject.fail("f@ill.example", START + DAY / 48, Reason::Refused);
    START + DAY
}

fn undo(provider: &str) -> Work {
    Work::Undo {
        selection: Selection {
            from: START,
            to: START + Duration::from_secs(600),
            provider: Some(provider.into()),
            ..Selection::default()
        },
    }
}

fn an_outage_is_undone_in_bulk_and_restored(subject: &mut Subject) {
    let now = outage(subject);
    let assumption = Assumption { policy: Policy::default(), qualification: None };
    let work = undo("ill.example");
    let shown = subject.preview(&work, &assumption, now);
    let expected = [(State::Quarantined, State::Valid, 10)];
    assert_eq!((shown.addresses, shown.entries, &shown.states[..]), (10, 20, &expected[..]));
    assert_eq!(subject.state_of("u3@ill.example"), State::Quarantined);
    let (task, done) = subject.work(work, now);
    assert_eq!((done.addresses, done.entries, &done.states), (10, 20, &shown.states));
    assert_eq!(subject.state_of("u9@ill.example"), State::Valid);
    assert_eq!(subject.state_of("u10@ill.example"), State::Quarantined, "after the window");
    let history = subject.reads().history("u9@ill.example").unwrap();
    assert_eq!(history.entries[0].standing, Standing::Void { task });
    assert_eq!(subject.preview(&undo("ill.example"), &assumption, now), Difference::default());
    // By text and rule, over all providers.
    let selection = Selection {
        text: Some(key(Reason::UserUnknown)),
        rule: Some("rule of User unknown".into()),
        ..Selection::default()
    };
    let (entries, _) = subject.reads().entries(&selection, LedgerPlace::default(), 99).unwrap();
    assert_eq!(entries.len(), 41);
    let (second, done) = subject.work(Work::Undo { selection }, now);
    assert_eq!(done.states, [(State::Quarantined, State::Valid, 11)]);
    // What the second undid comes back; what the first undid does not.
    let (_, done) = subject.work(Work::Restore { task: second }, now);
    assert_eq!(done.states, [(State::Valid, State::Quarantined, 11)]);
    assert_eq!(subject.state_of("u9@ill.example"), State::Valid);
    assert_eq!(subject.state_of("u@well.example"), State::Quarantined);
    subject.work(Work::Restore { task }, now);
    assert_eq!(subject.state_of("u9@ill.example"), State::Quarantined);
}

fn a_complaint_is_undone_only_when_it_is_asked_for(subject: &mut Subject) {
    let now = START + DAY;
    subject.fail("ann@ill.example", START, Reason::Complaint);
    subject.fail("bob@ill.example", START, Reason::UserUnknown);
    let (_, done) = subject.work(undo("mx.example"), now);
    assert_eq!(done.states, [(State::Quarantined, State::Valid, 1)]);
    assert_eq!(subject.state_of("ann@ill.example"), State::Denylisted);
    let selection = Selection { reason: Some(Reason::Complaint), ..Selection::default() };
    let (_, done) = subject.work(Work::Undo { selection }, now);
    assert_eq!(done.states, [(State::Denylisted, State::Valid, 1)]);
}

/// An import of a row of a list, as the reader of lists makes it.
fn import(row: &str, now: Timestamp) -> LedgerWrite {
    let file = format!("address,state,reason,since,until\n{row}\n");
    let mut deeds: Vec<(Box<str>, Deed)> = Vec::new();
    csv::import(file.as_bytes(), csv::Defaults::default(), now, |row| {
        let row = row.unwrap();
        deeds.push((row.address, Deed::Import(row.imported)));
    })
    .unwrap();
    // The list is read before it is written.
    let now = now + Duration::from_millis(40);
    LedgerWrite::Act { deeds, author: author(), policy: policy(), now }
}

fn errors_from_elsewhere_do_not_end_a_denylisting(subject: &mut Subject) {
    subject.fail("ann@x.org", START, Reason::Complaint);
    subject.ledger(act("bob@x.org", Deed::Unsubscribe, START));
    for address in ["ann@x.org", "bob@x.org"] {
        let before = subject.reads().address(address).unwrap().unwrap().condition;
        for write in [
            import(&format!("{address},quarantined,user-unknown,,"), START + DAY),
            import(&format!("{address},valid,,,"), START + DAY),
            import(&format!("{address},allowlisted,,,"), START + DAY),
            import(&format!("{address},denylisted,,,"), START + DAY),
            act(address, Deed::Quarantine(Reason::UserUnknown), START + DAY),
        ] {
            assert_eq!(subject.ledger(write), LedgerWritten::Changed(Vec::new()), "{address}");
            assert_eq!(subject.reads().address(address).unwrap().unwrap().condition, before);
        }
    }
    // A complaint that is written down after the import of a later moment denylists all the same.
    subject.ledger(import("eve@x.org,quarantined,user-unknown,,", START + DAY));
    subject.fail("eve@x.org", START, Reason::Complaint);
    assert_eq!(subject.state_of("eve@x.org"), State::Denylisted);
    subject.ledger(act("ann@x.org", Deed::Release, START + 2 * DAY));
    assert_eq!(subject.state_of("ann@x.org"), State::Valid);
}

fn an_unsubscription_is_kept_beside_a_complaint(subject: &mut Subject) {
    subject.fail("ann@x.org", START, Reason::Complaint);
    for day in 1..4 {
        let now = START + day * DAY;
        let written = subject.ledger(act("ann@x.org", Deed::Unsubscribe, now));
        assert_eq!(written.changes().len(), usize::from(day == 1), "the second is no news");
    }
    assert_eq!(subject.reads().history("ann@x.org").unwrap().actions.len(), 1);
    // The complaint is taken back; the unsubscription stands.
    let selection = Selection { reason: Some(Reason::Complaint), ..Selection::default() };
    subject.work(Work::Undo { selection }, START + 4 * DAY);
    assert_eq!(subject.state_of("ann@x.org"), State::Denylisted);
    subject.ledger(act("ann@x.org", Deed::Release, START + 5 * DAY));
    subject.ledger(act("ann@x.org", Deed::Unsubscribe, START + 6 * DAY));
    assert_eq!(subject.state_of("ann@x.org"), State::Denylisted);
}

fn a_list_without_dates_is_imported_each_day_and_leaves_no_trail(subject: &mut Subject) {
    for day in 0..4 {
        let now = START + day * DAY;
        for (row, ends) in [
            ("full@x.org,quarantined,mailbox-full,,", true),
            ("gone@x.org,quarantined,user-unknown,,", false),
            ("dated@x.org,quarantined,mailbox-full,2026-11-10,", true),
            ("foe@x.org,denylisted,,,", false),
            ("good@x.org,valid,,,", false),
        ] {
            let written = subject.ledger(import(row, now));
            assert_eq!(written.changes().len(), usize::from(day == 0), "{row} on day {day}");
            let address = row.split(',').next().unwrap();
            assert_eq!(subject.reads().history(address).unwrap().actions.len(), 1, "{row}");
            let condition = subject.reads().address(address).unwrap().unwrap().condition;
            assert_eq!(condition.until.is_some(), ends, "{row}");
        }
    }
    // It ends when the policy says, counted from the first time.
    subject.clean(START + 31 * DAY);
    assert_eq!(subject.state_of("full@x.org"), State::Valid);
    assert_eq!(subject.state_of("gone@x.org"), State::Quarantined);
    // What has ended since is not begun anew by its old date.
    let row = "dated@x.org,quarantined,mailbox-full,2026-11-10,";
    assert_eq!(subject.ledger(import(row, START + 40 * DAY)).changes(), []);
}

fn a_refusal_of_a_session_is_recognised_for_days_only(subject: &mut Subject) {
    let mut entries = Vec::new();
    for (address, channel) in
        [("ann@x.org", Channel::Synchronous), ("bob@x.org", Channel::Asynchronous)]
    {
        let mut new = failed(address, START, Reason::Refused);
        new.evidence.channel = channel;
        new.seen = vec![SeenKey::of_content(address.as_bytes())];
        entries.push(new);
    }
    let again = |subject: &mut Subject, now| match subject.ledger(record(entries.clone(), now)) {
        LedgerWritten::Recorded(recorded) => recorded.repeated,
        other => panic!("{other:?}"),
    };
    assert_eq!(again(subject, START), Vec::<u32>::new());
    assert_eq!(subject.clean(START + 2 * DAY).seen, 0);
    assert_eq!(again(subject, START + 2 * DAY), [0, 1]);
    assert_eq!(subject.clean(START + 4 * DAY).seen, 1);
    assert_eq!(again(subject, START + 4 * DAY), [1]);
}

fn a_hold(hold: u64, now: Timestamp) -> LedgerWrite {
    LedgerWrite::Hold(HoldRecord {
        hold,
        provider: "ill.example".into(),
        doubted_since: START,
        tripped_at: now,
        usual_permille: 10,
        sudden_permille: 700,
        ended: None,
        who: "".into(),
        why: "".into(),
    })
}

fn what_comes_after_the_end_of_its_hold_takes_that_end(subject: &mut Subject) {
    for (hold, end, expected) in [
        (1, HoldEnd::Confirmed, State::Quarantined),
        (2, HoldEnd::Dismissed, State::Valid),
        (3, HoldEnd::CalmedDown, State::Valid),
    ] {
        subject.ledger(a_hold(hold, START));
        let address = format!("late{hold}@ill.example");
        let ended = LedgerWrite::EndHold { hold, end, author: author(), now: START };
        let LedgerWritten::Started(task) = subject.ledger(ended) else { panic!("no task") };
        subject.finish(task, START);
        let late = NewEntry { hold: Some(hold), ..failed(&address, START, Reason::UserUnknown) };
        subject.ledger(record(vec![late], START));
        for task in subject.reads().tasks().unwrap() {
            assert_eq!(&*task.who, "ann");
            subject.finish(task.task, START);
        }
        assert_eq!(subject.state_of(&address), expected);
        let standing = subject.reads().history(&address).unwrap().entries[0].standing;
        assert!(!matches!(standing, Standing::Held { .. }), "{standing:?}");
    }
}

fn a_hold_is_confirmed_or_dismissed(subject: &mut Subject) {
    let now = outage(subject);
    for (hold, end, expected) in
        [(1, HoldEnd::Confirmed, State::Quarantined), (2, HoldEnd::Dismissed, State::Valid)]
    {
        subject.ledger(a_hold(hold, now));
        let selection = Selection {
            provider: Some("ill.example".into()),
            reason: Some(Reason::UserUnknown),
            ..Selection::default()
        };
        let (_, done) = subject.work(Work::Hold { hold, selection }, now);
        // The first time with one that was confirmed.
        assert_eq!(done.states, [(State::Quarantined, State::Valid, 19 + hold)]);
        // While it is held, what comes is held too.
        let held =
            NewEntry { hold: Some(hold), ..failed("h@ill.example", now, Reason::UserUnknown) };
        subject.ledger(record(vec![held], now));
        assert_eq!(subject.state_of("h@ill.example"), State::Valid);
        let ended = LedgerWrite::EndHold { hold, end, author: author(), now };
        // Its task is there with it: no crash comes between.
        let LedgerWritten::Started(task) = subject.ledger(ended) else { panic!("no task") };
        assert_eq!(subject.reads().tasks().unwrap().len(), 1);
        // A second end changes nothing.
        let end = HoldEnd::CalmedDown;
        let again = LedgerWrite::EndHold { hold, end, author: Author::default(), now };
        assert_eq!(subject.ledger(again), LedgerWritten::Done);
        subject.finish(task, now);
        assert_eq!(subject.state_of("u3@ill.example"), expected);
        assert_eq!(subject.state_of("h@ill.example"), expected);
    }
    let holds = subject.reads().holds(9).unwrap();
    assert_eq!(holds.iter().map(|hold| hold.hold).collect::<Vec<_>>(), [2, 1]);
    let ended = Timestamp::from_millis(now.as_millis());
    assert_eq!(holds[1].ended, Some((ended, HoldEnd::Confirmed)));
    assert_eq!(&*holds[1].who, "ann");
}

fn a_changed_policy_shows_its_difference_first(subject: &mut Subject) {
    let now = outage(subject);
    let mut policy = Policy::default();
    policy.set(Reason::UserUnknown, ReasonPolicy { quarantine_at: Some(2), ..ReasonPolicy::NEVER });
    let assumption = Assumption { policy: policy.clone(), qualification: None };
    let shown = subject.preview(&Work::Everyone, &assumption, now);
    // Two errors within a second are one.
    let expected = [(State::Quarantined, State::WithErrors, 21)];
    assert_eq!((shown.addresses, shown.entries, &shown.states[..]), (22, 0, &expected[..]));
    assert_eq!(shown.examples.len(), 21);
    let start = LedgerWrite::Start { work: Work::Everyone, author: author(), now };
    let LedgerWritten::Started(task) = subject.ledger(start) else { panic!() };
    let policy = Arc::new(policy);
    let go_on = LedgerWrite::GoOn { task, limit: 10_000, policy, now };
    let LedgerWritten::Worked(worked) = subject.ledger(go_on) else { panic!() };
    assert!(worked.done);
    assert_eq!((worked.difference, worked.changes.len()), (shown, 21));
}

fn a_task_goes_on_after_a_restart(subject: &mut Subject) {
    let now = outage(subject);
    let start = LedgerWrite::Start { work: undo("MX.example"), author: author(), now };
    let LedgerWritten::Started(task) = subject.ledger(start) else { panic!() };
    let go_on = LedgerWrite::GoOn { task, limit: 5, policy: policy(), now };
    let LedgerWritten::Worked(worked) = subject.ledger(go_on) else { panic!() };
    assert!(!worked.done && worked.difference.addresses > 0);
    subject.restart("a");
    let waiting = subject.reads().tasks().unwrap();
    assert_eq!((waiting[0].task, waiting[0].addresses), (task, worked.difference.addresses));
    assert_eq!(waiting[0].work, undo("MX.example"));
    subject.finish(task, now);
    for number in 0..10 {
        assert_eq!(subject.state_of(&format!("u{number}@ill.example")), State::Valid);
    }
    let go_on = LedgerWrite::GoOn { task, limit: 5, policy: policy(), now };
    let refused = Written::Refused(RefusedWrite::UnknownTask(task));
    assert_eq!(subject.apply(Write::Quarantine(Box::new(go_on))), refused);
}

fn entries_of_an_address_are_bounded(subject: &mut Subject) {
    for day in 0..2 {
        subject.fail("ann@x.org", START + day * DAY, Reason::MailboxFull);
    }
    let mut many = Vec::new();
    for number in 0..600_u32 {
        let at = START + DAY + number * Duration::from_secs(1);
        many.push(failed("ann@x.org", at, Reason::Refused));
    }
    subject.ledger(record(many, START + 2 * DAY));
    let history = subject.reads().history("ann@x.org").unwrap();
    assert_eq!(history.entries.len(), ENTRIES_KEPT);
    assert_eq!(subject.state_of("ann@x.org"), State::WithErrors);
    subject.fail("ann@x.org", START + 3 * DAY, Reason::MailboxFull);
    assert_eq!(subject.state_of("ann@x.org"), State::Quarantined, "what carries weight stayed");
}

fn the_clean_up_ends_what_ends_by_itself(subject: &mut Subject) {
    for number in 0..5_u32 {
        for day in 0..3 {
            let address = format!("full{number}@x.org");
            subject.fail(&address, START + day * DAY, Reason::MailboxFull);
        }
        subject.fail(&format!("one{number}@x.org"), START, Reason::Unreachable);
    }
    subject.fail("gone@x.org", START, Reason::UserUnknown);
    let report = subject.clean(START + 9 * DAY);
    assert_eq!((report.released, report.counts_anew), (0, 0));
    let report = subject.clean(START + 10 * DAY);
    assert_eq!((report.released, report.counts_anew), (0, 5));
    let report = subject.clean(START + 32 * DAY);
    assert_eq!((report.released, report.counts_anew, report.forgotten), (5, 0, 0));
    assert_eq!(subject.state_of("full2@x.org"), State::Valid);
    // Long after, the addresses are not known any more, but for the one that is quarantined.
    let report = subject.clean(START + 200 * DAY);
    assert_eq!((report.forgotten, report.entries), (10, 20), "{report}");
    let known = subject.reads().addresses(&AddressFilter::default(), 0, 99).unwrap();
    assert_eq!(known.iter().map(|(_, r)| &*r.address).collect::<Vec<_>>(), ["gone@x.org"]);
    assert_eq!(report.texts, 0);
    let report = subject.clean(START + 400 * DAY);
    assert_eq!(report.texts, 3, "{report}");
    assert!(report.failed.is_empty());
}

fn suppressions_are_kept_by_hash_and_domain(subject: &mut Subject) {
    let ann = Suppressed::Address(AddressHash::of("ann@x.org"));
    let domain: Suppressed = "*.example.net".parse().unwrap();
    let entries = vec![ann.clone(), domain.clone(), ann.clone()];
    subject.ledger(LedgerWrite::Suppress { entries, author: author(), now: START });
    let list = subject.reads().suppressions(None, 9).unwrap();
    assert_eq!(list.iter().map(|r| &r.entry).collect::<Vec<_>>(), [&ann, &domain]);
    assert_eq!((&*list[0].who, &*list[0].why), ("ann", "a test"));
    assert_eq!(subject.reads().suppressions(Some(&ann), 9).unwrap(), list[1..]);
    let entries = vec![ann];
    subject.ledger(LedgerWrite::Unsuppress { entries, author: author(), now: START });
    assert_eq!(subject.reads().suppressions(None, 9).unwrap(), list[1..]);
}

fn what_is_forgotten_leaves_its_hash(subject: &mut Subject) {
    subject.fail("ann@x.org", START, Reason::UserUnknown);
    subject.ledger(act("ann@x.org", Deed::Deny, START));
    let author = Author { who: "ann".into(), why: "asked by letter".into() };
    let forget = LedgerWrite::Forget { address: "ann@x.org".into(), author, now: START };
    let LedgerWritten::Changed(changes) = subject.ledger(forget) else { panic!() };
    assert!(!changes[0].known);
    assert_eq!(subject.reads().address("ann@x.org"), Ok(None));
    assert_eq!(subject.reads().history("ann@x.org").unwrap(), History::default());
    let list = subject.reads().suppressions(None, 9).unwrap();
    assert_eq!(list[0].entry, Suppressed::Address(AddressHash::of("ann@x.org")));
    for entry in subject.reads().audit(99).unwrap() {
        assert!(!format!("{entry:?}").contains("ann@x.org"), "{entry:?}");
    }
}

fn strays_are_counted_by_day(subject: &mut Subject) {
    for (kind, count, day) in [(Stray::Forged, 2, 0), (Stray::Forged, 1, 1), (Stray::Foreign, 4, 1)]
    {
        subject.ledger(LedgerWrite::Stray { kind, count, at: START + day * DAY });
    }
    let mut forged = failed("ann@x.org", START, Reason::UserUnknown);
    forged.evidence.authentic = false;
    subject.ledger(record(vec![forged], START));
    assert_eq!(subject.state_of("ann@x.org"), State::Valid);
    let day = (START.as_secs() / 86_400) as u32;
    let expected =
        [(day, Stray::Forged, 3), (day + 1, Stray::Forged, 1), (day + 1, Stray::Foreign, 4)];
    assert_eq!(subject.reads().strays(0).unwrap(), expected);
    assert_eq!(subject.reads().strays(day + 1).unwrap(), expected[1..]);
}

fn what_passes_a_bound_is_refused(subject: &mut Subject) {
    let refused = |subject: &mut Subject, write| {
        let written = subject.apply(Write::Quarantine(Box::new(write)));
        let Written::Refused(refused) = written else { panic!("{written:?}") };
        refused.to_string()
    };
    let long = "a".repeat(1_001);
    let text = refused(subject, record(vec![failed(&long, START, Reason::Refused)], START));
    assert_eq!(text, "an address (octets) is 1001, at most 1000 is allowed");
    let text = refused(subject, record(vec![failed("", START, Reason::Refused)], START));
    assert_eq!(text, "line 1: the address or its domain is empty");
    let many = vec![failed("a@x.org", START, Reason::Refused); WRITE_LIMIT + 1];
    let text = refused(subject, record(many, START));
    assert_eq!(text, "the size of a write is 10001, at most 10000 is allowed");
    // Words of a server are cut, not refused.
    let mut new = failed("a@x.org", START, Reason::Refused);
    let Finding::Failed(failure) = &mut new.evidence.finding else { panic!() };
    failure.reply = "\u{e9}".repeat(10_000).into();
    new.text.as_mut().unwrap().raw = "\u{e9}".repeat(10_000).into();
    subject.ledger(record(vec![new], START));
    let history = subject.reads().history("a@x.org").unwrap();
    assert_eq!(history.entries[0].failure().unwrap().0.reply.len(), REPLY_LIMIT);
    let text = subject.reads().text(key(Reason::Refused)).unwrap().unwrap();
    assert_eq!(text.first_raw.len(), TEXT_LIMIT);
}

fn an_export_is_imported_to_the_same_states(subject: &mut Subject) {
    let now = outage(subject);
    for day in 0..3 {
        subject.fail("full@x.org", START + day * DAY, Reason::MailboxFull);
    }
    subject.fail("twice@x.org", START, Reason::Unreachable);
    subject.ledger(act("friend@x.org", Deed::Allow, now));
    subject.ledger(act("foe@x.org", Deed::Deny, now));
    let all = subject.reads().addresses(&AddressFilter::default(), 0, 999).unwrap();
    let mut file = csv::header() + "\n";
    all.iter().for_each(|(_, record)| file += &(csv::row(record) + "\n"));
    let mut deeds: Vec<(Box<str>, Deed)> = Vec::new();
    csv::import(file.as_bytes(), csv::Defaults::default(), now, |row| {
        let row = row.unwrap();
        deeds.push((row.address, Deed::Import(row.imported)));
    })
    .unwrap();
    let import = |deeds| LedgerWrite::Act { deeds, author: author(), policy: policy(), now };
    let mut other = match subject {
        Subject::Memory(_) => Subject::memory(),
        Subject::Sqlite(..) => Subject::sqlite(),
    };
    other.ledger(import(deeds.clone()));
    let imported = other.reads().addresses(&AddressFilter::default(), 0, 999).unwrap();
    assert_eq!(imported.len(), all.len());
    for ((_, before), (_, after)) in all.iter().zip(&imported) {
        assert_eq!(before.address, after.address);
        assert_eq!(Imported::of(&before.condition), Imported::of(&after.condition));
        assert_eq!(before.condition.changes_at, after.condition.changes_at);
    }
    // Again, and nothing is done: neither there nor where it came from.
    for subject in [subject, &mut other] {
        assert_eq!(subject.ledger(import(deeds.clone())), LedgerWritten::Changed(Vec::new()));
    }
}

fn a_new_bundle_judges_old_entries_anew(subject: &mut Subject) {
    for day in 0..3 {
        subject.fail("ann@x.org", START + day * DAY, Reason::NotDefined);
    }
    let now = START + 3 * DAY;
    let history = subject.reads().history("ann@x.org").unwrap();
    let entries = history
        .entries
        .iter()
        .map(|entry| (entry.id, meaning(Reason::InactiveUser), "dormant".into()))
        .chain([(EntryId(999), meaning(Reason::Refused), "none".into())])
        .collect();
    let version = "8".into();
    let write = LedgerWrite::Requalify { entries, version, policy: policy(), now };
    let LedgerWritten::Changed(changes) = subject.ledger(write) else { panic!() };
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].after.state, State::Quarantined);
    let history = subject.reads().history("ann@x.org").unwrap();
    let (failure, _) = history.entries[0].failure().unwrap();
    assert_eq!((&*failure.rule, &*failure.version), ("dormant", "8"));
}

fn the_admission_set_is_exact_after_a_restart(subject: &mut Subject) {
    let guard = || OutageGuard::new(GuardSettings::default());
    let mut desk = Desk::new(policy(), guard());
    let mut now = START;
    let reasons = [Reason::UserUnknown, Reason::MailboxFull, Reason::Complaint, Reason::Refused];
    for step in 0..120_u32 {
        now = START + step * (DAY / 4);
        let reason = reasons[step as usize % 4];
        let mut new = failed(&format!("u{}@x.org", step % 7), now, reason);
        new.evidence.message = None;
        let outcome = desk.record(new.evidence, new.text, Vec::new(), now);
        for write in outcome.writes {
            desk.learn(subject.ledger(write).changes());
        }
        if step % 10 == 0 {
            let deed = if step % 20 == 0 { Deed::Release } else { Deed::Allow };
            desk.learn(subject.ledger(act(&format!("u{}@x.org", step % 9), deed, now)).changes());
        }
    }
    let forget = LedgerWrite::Forget { address: "u3@x.org".into(), author: author(), now };
    desk.learn(subject.ledger(forget).changes());
    let hash = Suppressed::Address(AddressHash::of("u3@x.org"));
    desk.suppress(&hash, true);
    subject.restart("a");
    let mut again = Desk::new(policy(), guard());
    let mut after = 0;
    loop {
        let page = subject.reads().marks(after, 2).unwrap();
        let Some(last) = page.last() else { break };
        after = last.id;
        page.iter().for_each(|mark| again.load(mark.address.as_ref(), mark.mark));
    }
    for record in subject.reads().suppressions(None, 99).unwrap() {
        again.suppress(&record.entry, true);
    }
    assert_eq!(again.admission().len(), desk.admission().len());
    let mut states = std::collections::BTreeSet::new();
    for number in 0..10 {
        let address = format!("u{number}@x.org");
        let hash = AddressHash::of(&address);
        assert_eq!(again.admission().mark(&hash), desk.admission().mark(&hash), "{address}");
        states.insert(again.admission().admit_address(&address).map_err(|why| why.to_string()));
    }
    assert!(states.len() >= 3, "{states:?}");
}

#[test]
fn a_database_made_by_the_first_program_is_upgraded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(DATABASE_FILE);
    let old = rusqlite::Connection::open(&path).unwrap();
    old.execute_batch(include_str!("../../src/sqlite/schema_1.sql")).unwrap();
    old.execute_batch(
        "INSERT INTO sequence VALUES (1, 1, 1, 1, 1, 1, 0, x'000102030405060708090a0b0c0d0e0f');
         INSERT INTO setting VALUES ('kept', 'yes');
         PRAGMA user_version = 1;",
    )
    .unwrap();
    old.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
    drop(old);
    let mut store = open(folder.path()).unwrap();
    assert_eq!(store.reads().setting("kept").unwrap().as_deref(), Some("yes"));
    let write = record(vec![failed("ann@x.org", START, Reason::UserUnknown)], START);
    store.apply(&[Write::Quarantine(Box::new(write))]).unwrap();
    let record = store.reads().address("ann@x.org").unwrap().unwrap();
    assert_eq!(record.condition.state, State::Quarantined);
    drop(store);
    let version: u32 = rusqlite::Connection::open(&path)
        .unwrap()
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .unwrap();
    assert_eq!(version, SCHEMA_VERSION);
}
