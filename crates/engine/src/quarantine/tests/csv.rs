//! Export and import.

use mail::failure::Reason;
use mail::time::Timestamp;
use proptest::prelude::*;

use super::support::*;
use crate::quarantine::csv::*;
use crate::quarantine::*;

fn read(text: &str, defaults: Defaults) -> Result<Vec<Result<Row, String>>, FileFault> {
    let mut rows = Vec::new();
    import(text.as_bytes(), defaults, START, |row| {
        rows.push(row.map_err(|bad| bad.to_string()));
    })?;
    Ok(rows)
}

#[test]
fn a_row_is_refused_alone_with_line_and_reason() {
    let file = "\u{feff}address,state,reason,since,until,errors,last_error_at\r\n\
        Ann@Example.ORG,quarantined,user-unknown,2026-01-02,,,\r\n\
        \r\n\
        no address,Quarantined,,,,,\r\n\
        b@example.org,Gone,,,,,\r\n\
        c@example.org,Quarantined,Tired,,,,\r\n\
        d@example.org,Quarantined,,2026-02-30,,,\r\n\
        e@example.org,Quarantined,,2026-02-20,2026-02-20,,\r\n\
        f@example.org,Denylisted,,,2027-01-01,,\r\n\
        g@example.org,With errors,,,,,\r\n\
        h@example.org,With errors,,,,Mailbox full:2,\r\n\
        i@example.org,With errors,,,,Mailbox full:x,2026-01-01\r\n\
        j@example.org,Quarantined\r\n\
        \"k@example.org,Quarantined,,,,,\r\n\
        l@example.org,Allowlisted,,2999-01-01,,,\r\n\
        \"m@example.org\",\"Allowlisted\",,2026-01-02T03:04:05.5+01:00,,,\r\n";
    let rows = read(file, Defaults::default()).unwrap();
    let shown: Vec<String> = rows
        .iter()
        .map(|row| match row {
            Ok(row) => format!("{}: {} {}", row.line, row.address, row.imported.since),
            Err(bad) => bad.split(" (`").next().unwrap().to_owned(),
        })
        .collect();
    assert_eq!(
        shown,
        [
            "2: ann@example.org 2026-01-02T00:00:00.000Z",
            "line 4: there is no @ in the address",
            "line 5: the state `Gone` is none of Valid, With errors, Quarantined, Denylisted, Allowlisted",
            "line 6: the reason `Tired` is none of User unknown, Account disabled, Mailbox full, \
             Inactive user, Invalid domain, Refused, Unreachable, Error ignored, Complaint, Not defined",
            "line 7: `2026-02-30` is not a moment; write it like 2026-11-21T07:16:19Z or 2026-11-21",
            "line 8: `until` is not after `since`",
            "line 9: only a quarantine has an `until`",
            "line 10: an address with errors needs them in `errors`, such as `Mailbox full:2`",
            "line 11: an address with errors needs a `last_error_at`",
            "line 12: `Mailbox full:x` is none of the counts by reason, such as `Mailbox full:2;Unreachable:1`",
            "line 13: the row has 2 fields, the header has 7",
            "line 14: a quoted field does not end",
            "line 15: `since` lies in the future",
            "16: m@example.org 2026-01-02T02:04:05.500Z",
        ]
    );
}

#[test]
fn a_bare_list_takes_the_state_that_is_given() {
    let state = Some(State::Quarantined);
    let defaults = Defaults { state, reason: Some(Reason::UserUnknown) };
    let rows = read("Address\na@example.org\nb@example.org", defaults).unwrap();
    assert_eq!(rows.len(), 2);
    let first = rows[0].as_ref().unwrap().imported;
    assert_eq!(
        (first.state, first.reason, first.since),
        (State::Quarantined, defaults.reason, START)
    );
    for (file, message) in [
        ("", "the first line must name the columns"),
        ("a@example.org\n", "the first line must name the columns"),
        ("address\n", "there is no column `state`"),
        ("address,state,colour\n", "the column `colour` is not known"),
        ("address;state;state\n", "the column `state` stands there twice"),
    ] {
        let fault = read(file, Defaults::default()).unwrap_err().to_string();
        assert!(fault.starts_with(message), "{file:?}: {fault}");
    }
}

#[test]
fn endless_lines_and_octets_that_are_no_text_stop_nothing() {
    let mut file = b"address,state\n".to_vec();
    file.extend(vec![b'x'; 100_000]);
    file.extend(b"\n\xff\xfe@example.org,Valid\na@example.org,Valid\n");
    file.extend(vec![b'y'; 9_000]);
    let mut rows = Vec::new();
    import(&file[..], Defaults::default(), START, |row| rows.push(row)).unwrap();
    let shown: Vec<_> = rows
        .into_iter()
        .map(|row| row.map(|row| row.line).map_err(|bad| (bad.line, bad.reason)))
        .collect();
    let long = "the line is longer than 8,192 octets".to_owned();
    let expected = [
        Err((2, long.clone())),
        Err((3, "the line is not UTF-8".to_owned())),
        Ok(4),
        Err((5, long)),
    ];
    assert_eq!(shown, expected);
}

#[test]
fn suppression_lists_are_read_line_by_line() {
    let hash = AddressHash::of("ann@example.org");
    let file = format!("# ours\n\n{hash}\n*.example.net\nnot a domain\n");
    let mut lines = Vec::new();
    import_suppression(file.as_bytes(), |line| lines.push(line)).unwrap();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0], Ok(Suppressed::Address(hash)));
    assert_eq!(lines[2].as_ref().unwrap_err().line, 5);
}

fn moment() -> impl Strategy<Value = Timestamp> {
    (0..START.as_millis()).prop_map(Timestamp::from_millis)
}

fn condition() -> impl Strategy<Value = Condition> {
    let state = prop::sample::select(State::ALL.to_vec());
    let reason = prop::option::of(prop::sample::select(Reason::ALL.to_vec()));
    let counts = prop::collection::vec(1..=255_u8, Reason::ALL.len());
    (state, reason, moment(), prop::option::of(1..1_000_000_u64), counts, moment()).prop_map(
        |(state, reason, since, lasts, list, last)| {
            let counted = matches!(state, State::WithErrors | State::Quarantined);
            let mut counts = Counts::default();
            for (reason, count) in Reason::ALL.into_iter().zip(list).filter(|_| counted) {
                counts.set(reason, count);
            }
            let until = lasts.map(|ms| since + core::time::Duration::from_millis(ms));
            Condition {
                state,
                reason,
                since,
                until: until.filter(|_| state == State::Quarantined),
                counts,
                last_counted_at: counted.then_some(last),
                ..Condition::default()
            }
        },
    )
}

proptest! {
    #[test]
    fn what_is_exported_is_imported_alike(condition in condition(), local in "[a-z=+\"]{1,8}") {
        let local = if local.contains('"') { format!("\"{}\"", local.replace('"', "\\\"")) } else { local };
        let mailbox = mail::address::Mailbox::parse(&format!("{local}@example.org")).unwrap();
        let record = AddressRecord {
            address: mailbox.folded_key().into(),
            condition,
            created_at: START,
            changed_at: START,
            last_entry_at: START,
        };
        let file = format!("{}\n{}\n", header(), row(&record));
        let rows = read(&file, Defaults::default()).unwrap();
        let row = rows[0].as_ref().unwrap();
        prop_assert_eq!(&row.address, &record.address);
        prop_assert_eq!(row.imported, Imported::of(&condition));
    }

    #[test]
    fn no_text_is_too_strange(text in "\\PC{0,200}") {
        let _ = read(&format!("address,state\n{text}"), Defaults::default());
        let _ = read(&text, Defaults::default());
    }
}
