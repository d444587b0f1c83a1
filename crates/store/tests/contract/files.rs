//! What only a store on files can meet: kills, damage, other programs, other versions, full disks.

use crate::support::*;
use engine::work::DeliveryOptions;
use mail::id::{DeliveryId, MessageId};
use mailweir_store::*;
use std::fs;
use std::path::Path;

/// What a kill leaves: the files as they are, without anything being closed.
fn killed(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for name in [DATABASE_FILE.to_owned(), format!("{DATABASE_FILE}-wal")] {
        fs::copy(folder.join(&name), copy.path().join(&name)).unwrap();
    }
    copy
}

fn fault(folder: &Path) -> StoreFault {
    match open(folder) {
        Ok(_) => panic!("it was opened"),
        Err(fault) => fault,
    }
}

/// One batch: ten messages, and as many ledger rows in the same transaction.
fn batch(delivery: DeliveryId, number: u64) -> [Write; 2] {
    let addresses: Vec<String> = (0..10).map(|n| format!("r{number}.{n}@d{}.org", n % 3)).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let rows = (0..10)
        .map(|n| LedgerRow {
            kind: 1,
            key: format!("{number}.{n}").into(),
            slot: 1,
            value: 1,
            extra: "".into(),
        })
        .collect();
    [append(delivery, None, &addresses), Write::Ledger(rows)]
}

#[test]
fn a_kill_loses_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path()).unwrap();
    store.apply(&[create(DeliveryOptions::default(), Some("Hello"))]).unwrap();
    for number in 1..=8 {
        store.apply(&batch(DeliveryId(1), number)).unwrap();
        let copy = killed(folder.path());
        let again = open(copy.path()).unwrap();
        let counters = again.reads().delivery(DeliveryId(1)).unwrap().unwrap().counters;
        assert_eq!(counters.accepted, number * 10);
        assert_eq!(again.reads().ledger(1, 0).unwrap().len() as u64, number * 10);
        assert_consistent(again.reads());
    }
}

#[test]
fn a_torn_log_leaves_whole_batches() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path()).unwrap();
    store.apply(&[create(DeliveryOptions::default(), Some("Hello"))]).unwrap();
    let start = fs::metadata(folder.path().join(format!("{DATABASE_FILE}-wal"))).unwrap().len();
    for number in 1..=6 {
        store.apply(&batch(DeliveryId(1), number)).unwrap();
    }
    let whole = fs::metadata(folder.path().join(format!("{DATABASE_FILE}-wal"))).unwrap().len();
    assert!(whole > start);
    let mut seen = std::collections::BTreeSet::new();
    for cut in (start..=whole).step_by((whole - start) as usize / 25) {
        let copy = killed(folder.path());
        let log = fs::File::options()
            .write(true)
            .open(copy.path().join(format!("{DATABASE_FILE}-wal")))
            .unwrap();
        log.set_len(cut).unwrap();
        let mut again = open(copy.path()).unwrap();
        let accepted = again.reads().delivery(DeliveryId(1)).unwrap().unwrap().counters.accepted;
        assert_eq!(accepted % 10, 0, "half a batch at {cut}");
        assert_eq!(again.reads().ledger(1, 0).unwrap().len() as u64, accepted);
        assert_consistent(again.reads());
        again.quick_check().unwrap();
        // It goes on from there.
        again.apply(&batch(DeliveryId(1), 7)).unwrap();
        let first = again.reads().messages(MessageId(accepted), 1).unwrap()[0].id;
        assert_eq!(first, MessageId(accepted + 1));
        seen.insert(accepted);
    }
    assert!(seen.len() >= 5, "the cuts fell between different batches: {seen:?}");
}

#[test]
fn a_full_disk_stops_a_batch_whole_and_passes() {
    let folder = tempfile::tempdir().unwrap();
    let limit = Some(400_000);
    let limited = SqliteOptions { size_limit_bytes: limit, ..options("a") };
    let mut store = SqliteStore::open(folder.path(), limited).unwrap();
    store.apply(&[create(DeliveryOptions::default(), Some("Hello"))]).unwrap();
    let mut accepted = 0;
    let fault = loop {
        match store.apply(&batch(DeliveryId(1), accepted / 10)) {
            Ok(_) => accepted += 10,
            Err(fault) => break fault,
        }
        assert!(accepted < 100_000, "the limit was never met");
    };
    let text = fault.to_string();
    assert!(matches!(fault, StoreFault::DiskFull { .. }), "{text}");
    assert!(text.contains("is full") && !text.contains('\n'), "{text}");
    assert!(store.probe().is_err(), "a probe does not fit either");
    let counters = |store: &SqliteStore| {
        store.reads().delivery(DeliveryId(1)).unwrap().unwrap().counters.accepted
    };
    assert_eq!(counters(&store), accepted);
    assert_consistent(store.reads());
    store.set_size_limit(None).unwrap();
    store.probe().unwrap();
    store.apply(&batch(DeliveryId(1), accepted / 10)).unwrap();
    assert_eq!(counters(&store), accepted + 10);
    assert_consistent(store.reads());
}

#[test]
fn a_fault_in_the_middle_forgets_what_was_held_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path()).unwrap();
    store.apply(&[create(DeliveryOptions::default(), Some("Hello"))]).unwrap();
    store.apply(&batch(DeliveryId(1), 1)).unwrap();
    let start = Write::Start { delivery: DeliveryId(1), at: time(3) };
    let take = |limit| claim(DomainId(1), &[all(DeliveryId(1))], limit, 9);
    let answers = store.apply(&[start, take(2)]).unwrap();
    let Written::Claimed(held) = &answers[1] else { panic!("{answers:?}") };
    assert_eq!(ids(held), [1, 4]);
    store.set_size_limit(Some(1)).unwrap();
    // The claim and the settlement succeed, then the batch fails for lack of room.
    let big = Write::PutSetting { key: "big".into(), value: "x".repeat(1 << 20).into() };
    let settle = Write::Settle(vec![sent(1, DeliveryId(1)), again(4, DeliveryId(1), 0)]);
    assert!(store.apply(&[take(1), settle.clone(), big]).is_err());
    store.set_size_limit(None).unwrap();
    assert_consistent(store.reads());
    let answers = store.apply(&[settle, take(9)]).unwrap();
    let Written::Settled(report) = &answers[0] else { panic!("{answers:?}") };
    assert_eq!((report.settled, report.late.len()), (2, 0), "it still holds both");
    let Written::Claimed(rest) = &answers[1] else { panic!("{answers:?}") };
    assert_eq!(ids(rest), [4, 7, 10]);
    assert_consistent(store.reads());
}

#[test]
fn a_second_process_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let text = fault(folder.path()).to_string();
    let expected = format!("is in use by process {};", std::process::id());
    assert!(text.contains(&expected), "{text}");
    drop(store);
    open(folder.path()).unwrap();
}

#[test]
fn others_may_look_while_a_node_works_and_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let missing = SqliteReads::look(folder.path()).err().unwrap().to_string();
    assert!(missing.contains(DATABASE_FILE), "{missing}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is made");
    let mut store = open(folder.path()).unwrap();
    store.apply(&[create(DeliveryOptions::default(), Some("Hello"))]).unwrap();
    let looking = SqliteReads::look(folder.path()).unwrap();
    store.apply(&batch(DeliveryId(1), 1)).unwrap();
    // It sees what was committed since, and the node goes on.
    assert_eq!(looking.delivery(DeliveryId(1)).unwrap().unwrap().counters.accepted, 10);
    assert_eq!(SqliteReads::look(folder.path()).unwrap().totals().unwrap().counters.accepted, 10);
    drop(looking);
    drop(store);
    let path = folder.path().join(DATABASE_FILE);
    let looking = SqliteReads::look(folder.path()).unwrap();
    assert_eq!(looking.ledger(1, 0).unwrap().len(), 10);
    drop(looking);
    let older = rusqlite::Connection::open(&path).unwrap();
    older.pragma_update(None, "user_version", 1).unwrap();
    drop(older);
    let before = fs::read(&path).unwrap();
    let fault = SqliteReads::look(folder.path()).err().unwrap().to_string();
    assert!(fault.contains("has schema version 1") && fault.contains("upgrades it"), "{fault}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn newer_foreign_and_damaged_files_are_refused_untouched() {
    type Damage = fn(&Path);
    let cases: [(&str, Damage, &str); 5] = [
        (
            "newer",
            |path| {
                let other = rusqlite::Connection::open(path).unwrap();
                other.pragma_update(None, "user_version", 999).unwrap();
            },
            "has schema version 999, this program knows versions up to",
        ),
        (
            "another program's",
            |path| {
                fs::remove_file(path).unwrap();
                let other = rusqlite::Connection::open(path).unwrap();
                other.execute_batch("CREATE TABLE theirs (x); PRAGMA application_id = 7;").unwrap();
            },
            "is not a Mailweir database (an SQLite file with application id 0x00000007)",
        ),
        (
            "text",
            |path| fs::write(path, "email\na@x.org\n".repeat(40)).unwrap(),
            "is not a Mailweir database (it is not an SQLite file)",
        ),
        (
            "short",
            |path| fs::write(path, &fs::read(path).unwrap()[..50]).unwrap(),
            "is not a Mailweir database",
        ),
        (
            "damaged",
            |path| {
                let mut octets = fs::read(path).unwrap();
                octets[100..4_096].fill(0xa5);
                fs::write(path, octets).unwrap();
            },
            "is damaged",
        ),
    ];
    for (name, damage, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        drop(open(folder.path()).unwrap());
        let path = folder.path().join(DATABASE_FILE);
        damage(&path);
        let before = fs::read(&path).unwrap();
        let text = fault(folder.path()).to_string();
        assert!(text.contains(expected) && !text.contains('\n'), "{name}: {text}");
        let after = fs::read(&path).unwrap();
        assert!(after == before, "{name}: the file was changed");
    }
}

#[test]
fn a_database_of_the_first_version_is_brought_up_to_date() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path()).unwrap();
    store.apply(&[create(DeliveryOptions::default(), Some("Hello"))]).unwrap();
    store.apply(&batch(DeliveryId(1), 1)).unwrap();
    let totals = store.reads().totals().unwrap();
    assert_eq!(totals.counters.accepted, 10);
    drop(store);
    let path = folder.path().join(DATABASE_FILE);
    let older = rusqlite::Connection::open(&path).unwrap();
    older
        .execute_batch(
            "DROP TABLE address; DROP TABLE evidence; DROP TABLE action; DROP TABLE text; \
             DROP TABLE seen; DROP TABLE stray; DROP TABLE task; DROP TABLE suppression; \
             DROP TABLE hold; DROP TABLE tally; DROP TABLE past; DROP TABLE bundle; \
             DROP TABLE bundle_in_force; DROP TABLE bundle_application; \
             DROP TABLE arrival; DROP TABLE gone; DROP INDEX delivery_state; DROP INDEX delivery_content; \
             DROP INDEX once_age; DROP INDEX ledger_slot; \
             ALTER TABLE delivery DROP COLUMN forgotten; PRAGMA user_version = 1;",
        )
        .unwrap();
    drop(older);
    let again = open(folder.path()).unwrap();
    assert_eq!(again.reads().totals().unwrap(), totals);
    assert_consistent(again.reads());
}

#[test]
fn damage_deep_inside_is_found_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path()).unwrap();
    store.apply(&[create(DeliveryOptions::default(), Some("Hello"))]).unwrap();
    store.apply(&batch(DeliveryId(1), 1)).unwrap();
    store.quick_check().unwrap();
    drop(store);
    let path = folder.path().join(DATABASE_FILE);
    let mut octets = fs::read(&path).unwrap();
    let end = octets.len();
    octets[end - 3 * 4_096..].fill(0xa5);
    fs::write(&path, octets).unwrap();
    // Wherever it is met first, it is called by its name.
    let met = open(folder.path()).and_then(|store| store.quick_check()).unwrap_err();
    assert!(matches!(met, StoreFault::Corrupt { .. }), "{met}");
}

#[test]
fn a_folder_that_cannot_be_written_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(fault(&file.join("data")), StoreFault::Io { .. }));
    // A file system that takes no files even from root.
    if cfg!(target_os = "linux") && Path::new("/sys/kernel").exists() {
        let text = fault(Path::new("/sys/kernel/mailweir")).to_string();
        assert!(text.contains("cannot be written"), "{text}");
    }
}

#[test]
fn a_reader_works_beside_the_writer() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path()).unwrap();
    store.apply(&[create(DeliveryOptions::default(), Some("Hello"))]).unwrap();
    let reader = store.reader().unwrap();
    let ready = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let reader = reader;
            ready.wait();
            let mut last = 0;
            while last < 200 {
                let record = reader.delivery(DeliveryId(1)).unwrap().unwrap();
                assert!(
                    record.counters.accepted >= last && record.counters.accepted.is_multiple_of(10)
                );
                last = record.counters.accepted;
            }
        });
        ready.wait();
        for number in 1..=20 {
            store.apply(&batch(DeliveryId(1), number)).unwrap();
        }
    });
}

#[test]
fn the_writer_shares_one_database_among_threads() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let writer = Writer::start(Box::new(store), WriterOptions::default()).unwrap();
    let created = writer.handle().apply(create(DeliveryOptions::default(), Some("Hello"))).unwrap();
    assert_eq!(created, Written::Created(DeliveryId(1)));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let handle = writer.handle();
            scope.spawn(move || {
                for number in 0..25 {
                    let [append, ledger] = batch(DeliveryId(1), thread * 100 + number);
                    assert!(matches!(handle.apply(append), Ok(Written::Appended(_))));
                    assert_eq!(handle.apply(ledger), Ok(Written::Done));
                }
            });
        }
    });
    let store = writer.shutdown().unwrap();
    let counters = store.reads().delivery(DeliveryId(1)).unwrap().unwrap().counters;
    assert_eq!(counters.accepted, 1_000);
    assert_consistent(store.reads());
}
