//! What other rules and another policy would do, address by address.

use std::collections::HashSet;
use std::sync::Arc;

use mail::failure::Reason;
use mail::id::MessageId;
use mail::time::Timestamp;
use rules::bounce::{BounceRuleFile, BounceRules, normalise};

use super::support::*;
use crate::quarantine::*;

const FULL: &str = "550 5.2.2 The locker of this person is brimming";
const GONE: &str = "550 5.1.1 No such locker is kept here";

/// Rules that say `gone` of [`GONE`], and `full` of [`FULL`].
fn rules(gone: &str, full: &str) -> BounceRuleFile {
    let text = format!(
        "schema_version = 1\nversion = \"{gone}\"\n\
         [[rule]]\nname = \"gone\"\ntext = ['no such locker']\nreason = \"{gone}\"\n\
         matches = [\"{GONE}\"]\nmatches_not = [\"{FULL}\"]\n\
         [[rule]]\nname = \"full\"\ntext = ['locker .{{0,20}}brimming']\nreason = \"{full}\"\n\
         matches = [\"{FULL}\"]\nmatches_not = [\"{GONE}\"]\n"
    );
    BounceRuleFile::parse("test.toml", text.as_bytes()).unwrap()
}

fn by(file: &BounceRuleFile, masked: &[&str]) -> Rejudging {
    let masked: HashSet<Box<str>> = masked.iter().map(|name| (*name).into()).collect();
    Rejudging::new(Arc::new(BounceRules::compile(file)), masked)
}

/// What the rules that say User unknown and Mailbox full have recorded.
fn entry(id: u64, at: Timestamp, words: &str) -> Entry {
    let (rule, reason) = match words {
        GONE => ("gone", Reason::UserUnknown),
        _ => ("full", Reason::MailboxFull),
    };
    let (qualification, rule) = (meaning(reason), rule.into());
    let mut evidence = failed(at, qualification.reason, Channel::Synchronous);
    evidence.message = Some(MessageId(id));
    evidence.finding = Finding::Failed(Failure {
        text: TextKey([7; 16]),
        reply: words.into(),
        qualification,
        rule,
        version: "1".into(),
    });
    Entry { id: EntryId(id), evidence, standing: Standing::Live, person: None }
}

fn trial(then: Option<Rejudging>, after: Policy) -> Trial {
    Trial::new(then, Policy::default(), after, START, START + 30 * DAY)
}

fn done(trial: Trial) -> TrialReport {
    trial.finish(Vec::new(), OutageGuard::new(GuardSettings::default()))
}

fn states(difference: &Difference) -> (u64, &[(State, State, u64)]) {
    (difference.addresses, &difference.states)
}

#[test]
fn addresses_are_freed_and_quarantined_by_what_the_rules_say() {
    // Unknown becomes full, which needs three; full becomes unknown, which needs one.
    let mut trial = trial(Some(by(&rules("Mailbox full", "User unknown"), &[])), Policy::default());
    let now = START + 29 * DAY;
    let history =
        |words: &str| History { entries: vec![entry(1, now, words)], ..Default::default() };
    trial.add("gone@x.org", history(GONE));
    trial.add("full@x.org", history(FULL));
    let both =
        History { entries: vec![entry(1, now, GONE), entry(2, now, GONE)], ..Default::default() };
    trial.add("twice@x.org", both);
    trial.add("nobody@x.org", History::default());
    let report = done(trial);
    let addresses = &report.addresses;
    assert_eq!(addresses.looked_at, 4);
    assert_eq!(states(&addresses.freed), (2, &[(State::Quarantined, State::WithErrors, 2)][..]));
    let to = [(State::WithErrors, State::Quarantined, 1)];
    assert_eq!(states(&addresses.quarantined), (1, &to[..]));
    assert_eq!(&*addresses.quarantined.examples[0].address, "full@x.org");
    assert_eq!(states(&addresses.otherwise), (0, &[][..]));
    let entries = &report.entries;
    assert_eq!((entries.judged, entries.changed, entries.messages), (4, 4, 4));
    let pair = &entries.pairs[0];
    assert_eq!((pair.entries, pair.messages, pair.addresses), (3, 3, 2));
    let said = (&*pair.was.rule, pair.was.meaning.reason, pair.would_be.meaning.reason);
    assert_eq!(said, ("gone", Reason::UserUnknown, Reason::MailboxFull));
    assert_eq!(report.first_entry_at, Some(now));
}

#[test]
fn what_the_rules_cannot_tell_stays_and_is_counted() {
    let other = rules("Refused", "Mailbox full");
    let at = START + DAY;
    let mail = {
        let mut entry = entry(1, at, GONE);
        entry.evidence.channel = Channel::Asynchronous;
        entry
    };
    let person = Entry { person: Some(meaning(Reason::InactiveUser)), ..entry(1, at, GONE) };
    let old = entry(1, START.saturating_sub(DAY), GONE);
    let counts = |entry: Entry, masked: &[&str]| {
        let mut trial = trial(Some(by(&other, masked)), Policy::default());
        trial.add("ann@x.org", History { entries: vec![entry], ..Default::default() });
        let report = done(trial);
        let Entries { judged, changed, by_person, kept_as_mail, kept_for_host, older, .. } =
            report.entries;
        (judged, changed, by_person, kept_as_mail, kept_for_host, older)
    };
    assert_eq!(counts(entry(1, at, GONE), &[]), (1, 1, 0, 0, 0, 0));
    assert_eq!(counts(mail, &[]), (1, 0, 0, 1, 0, 0));
    assert_eq!(counts(person, &[]), (1, 0, 1, 0, 0, 0));
    assert_eq!(counts(old, &[]), (0, 0, 0, 0, 0, 1));
    // The same rule says otherwise: that it was for some hosts does not matter.
    assert_eq!(counts(entry(1, at, GONE), &["gone"]), (1, 1, 0, 0, 0, 0));
    // Another rule says it, and whether the first would still match is not known.
    let mut elsewhere = entry(1, at, GONE);
    if let Finding::Failed(failure) = &mut elsewhere.evidence.finding {
        failure.rule = "of some hosts".into();
    }
    assert_eq!(counts(elsewhere.clone(), &["of some hosts"]), (1, 0, 0, 0, 1, 0));
    assert_eq!(counts(elsewhere, &[]), (1, 1, 0, 0, 0, 0));
}

#[test]
fn a_policy_alone_judges_everybody_whatever_the_age() {
    let mut after = Policy::default();
    after.set(
        Reason::UserUnknown,
        ReasonPolicy { quarantine_at: Some(3), ..*after.of(Reason::UserUnknown) },
    );
    after.set(
        Reason::MailboxFull,
        ReasonPolicy { quarantine_at: Some(1), ..*after.of(Reason::MailboxFull) },
    );
    let mut trial = trial(None, after);
    let at = START + 28 * DAY;
    trial.add("gone@x.org", History { entries: vec![entry(1, at, GONE)], ..Default::default() });
    trial.add("full@x.org", History { entries: vec![entry(1, at, FULL)], ..Default::default() });
    let report = done(trial);
    assert_eq!(report.entries, Entries::default());
    assert_eq!(report.addresses.freed.addresses, 1);
    assert_eq!(report.addresses.quarantined.addresses, 1);
}

#[test]
fn texts_differ_by_the_rules_alone() {
    let text = |words: &str, by_person| TextRecord {
        key: TextKey([words.len() as u8; 16]),
        normalised: normalise(words).into(),
        first_raw: words.into(),
        host: "".into(),
        // What was recorded, by a rule that looked at more than the words, is not what is compared.
        by_rule: meaning(Reason::Complaint),
        rule: "other".into(),
        version: "1".into(),
        by_person,
        qualified_by: "".into(),
        occurrences: 5,
        first_at: START,
        last_at: START,
    };
    let mut now = by(&rules("User unknown", "Mailbox full"), &[]);
    let mut trial = trial(Some(by(&rules("Refused", "Mailbox full"), &[])), Policy::default());
    trial.add_text(&text(GONE, None), &mut now);
    trial.add_text(&text(FULL, None), &mut now);
    trial.add_text(&text("599 nobody knows this", Some(meaning(Reason::Refused))), &mut now);
    trial.add_text(&text("599 or that", None), &mut now);
    let texts = done(trial).texts;
    assert_eq!((texts.looked_at, texts.occurrences), (4, 20));
    assert_eq!((texts.changed, texts.changed_occurrences, texts.by_person), (1, 5, 1));
    assert_eq!((texts.to_qualify_now, texts.to_qualify_then, texts.without_host), (1, 1, 3));
    let [one] = &texts.list[..] else { panic!("{texts:?}") };
    assert_eq!(
        (one.was.meaning.reason, one.would_be.meaning.reason),
        (Reason::UserUnknown, Reason::Refused)
    );
}

#[test]
fn holds_and_doubtful_days_are_told() {
    let mut trial = trial(Some(by(&rules("Refused", "User unknown"), &[])), Policy::default());
    let hold = HoldRecord {
        hold: 3,
        provider: "mx.example.org".into(),
        doubted_since: START,
        tripped_at: START,
        usual_permille: 10,
        sudden_permille: 500,
        ended: None,
        who: "".into(),
        why: "".into(),
    };
    trial.watch_holds([&hold]);
    let at = START + 29 * DAY;
    let today = u32::try_from(at.as_secs() / 86_400).unwrap();
    for number in 0..60 {
        let mut held = entry(number, at, GONE);
        held.standing = Standing::Held { hold: 3 };
        let entries = vec![held, entry(1_000 + number, at, FULL), entry(2_000 + number, at, FULL)];
        trial.add(&format!("a{number}@x.org"), History { entries, ..Default::default() });
    }
    let day = |day, total, unknown| ProviderDay {
        provider: "mx.example.org".into(),
        day,
        total,
        unknown,
    };
    let days = vec![day(today - 1, 1_000, 10), day(today, 200, 60)];
    let report = trial.finish(days, OutageGuard::new(GuardSettings::default()));
    let held = &report.holds[0];
    assert_eq!((held.entries, held.unknown, held.unknown_then), (60, 60, 0));
    // 60 go and 120 come: 60 % in place of 30 %; 30 % were doubtful already.
    assert_eq!(report.doubts, []);
    let mut calm =
        super::trial::trial(Some(by(&rules("Refused", "User unknown"), &[])), Policy::default());
    for number in 0..60 {
        let entries = vec![entry(number, at, FULL)];
        calm.add(&format!("a{number}@x.org"), History { entries, ..Default::default() });
    }
    let days = vec![day(today - 1, 1_000, 10), day(today, 200, 2)];
    let report = calm.finish(days, OutageGuard::new(GuardSettings::default()));
    let [doubt] = &report.doubts[..] else { panic!("{:?}", report.doubts) };
    assert_eq!((doubt.outcomes, doubt.unknown, doubt.unknown_then), (200, 2, 62));
    assert!((8..=15).contains(&doubt.usual_permille), "{doubt:?}");
}

#[test]
fn memory_is_bounded_whatever_comes() {
    let mut now = by(&rules("User unknown", "Mailbox full"), &[]);
    let mut trial = trial(Some(by(&rules("Refused", "Refused"), &[])), Policy::default());
    for number in 0..3_000_u32 {
        let mut text = [0; 16];
        text[..4].copy_from_slice(&number.to_be_bytes());
        trial.add_text(
            &TextRecord {
                key: TextKey(text),
                normalised: "".into(),
                first_raw: GONE.into(),
                host: "mx".into(),
                by_rule: meaning(Reason::UserUnknown),
                rule: "gone".into(),
                version: "1".into(),
                by_person: None,
                qualified_by: "".into(),
                occurrences: number,
                first_at: START,
                last_at: START,
            },
            &mut now,
        );
        let mut one = entry(1, START, GONE);
        if let Finding::Failed(failure) = &mut one.evidence.finding {
            failure.rule = format!("rule {number}").into();
        }
        trial.add("a@x.org", History { entries: vec![one], ..Default::default() });
    }
    let report = done(trial);
    assert_eq!((report.texts.changed, report.texts.list.len()), (3_000, TEXTS_LISTED));
    let kept: Vec<u32> = report.texts.list.iter().map(|text| text.occurrences).collect();
    assert_eq!((kept[0], *kept.last().unwrap()), (2_999, 2_500), "the most frequent");
    assert_eq!(report.entries.changed, 3_000);
    assert_eq!(report.entries.pairs.len() as u64 + report.entries.pairs_left_out, 3_000);
    assert_eq!(report.addresses.freed.examples.len(), EXAMPLES);
}
