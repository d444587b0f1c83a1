//! The bundle in force: one pointer, its history, and what a full disk or a second change does to it.

use mailweir_store::*;

use crate::support::{Subject, options, time};

fn kept(version: u64) -> KeptBundle {
    let octets: Vec<u8> = format!("bundle {version}").into_bytes();
    KeptBundle { version, key: [version as u8; 32], octets: octets.into() }
}

fn change(expected: Option<u64>, to: Option<u64>, bundle: Option<KeptBundle>) -> BundleChange {
    BundleChange {
        expected,
        to,
        bundle,
        keep: None,
        mends: false,
        forgets: Vec::new(),
        trust: format!("trust {to:?}").into(),
        settings: vec![("rules_version".into(), format!("{to:?}").into())],
        who: "jane".into(),
        why: "a test".into(),
        difference: "{}".into(),
        at: time(to.unwrap_or(999)),
    }
}

fn apply(subject: &mut Subject, change: BundleChange) -> Written {
    subject.apply(Write::ChangeBundle(Box::new(change)))
}

fn each(test: impl Fn(Subject)) {
    test(Subject::memory());
    test(Subject::sqlite());
}

#[test]
fn a_bundle_is_in_force_until_another_one_is() {
    each(|mut subject| {
        assert_eq!(subject.reads().bundle_in_force().unwrap(), BundleInForce::default());
        assert_eq!(apply(&mut subject, change(None, Some(3), Some(kept(3)))), Written::Done);
        assert_eq!(apply(&mut subject, change(Some(3), Some(4), Some(kept(4)))), Written::Done);
        let wanted = |version: u64| BundleInForce {
            bundle: Some(kept(version)),
            trust: format!("trust {:?}", Some(version)).into(),
            since: time(version),
        };
        assert_eq!(subject.reads().bundle_in_force().unwrap(), wanted(4));
        // Back, forth, and none at all; over a restart.
        assert_eq!(apply(&mut subject, change(Some(4), Some(3), None)), Written::Done);
        subject.restart("a");
        assert_eq!(subject.reads().bundle_in_force().unwrap(), wanted(3));
        assert_eq!(subject.reads().setting("rules_version").unwrap().as_deref(), Some("Some(3)"));
        assert_eq!(apply(&mut subject, change(Some(3), None, None)), Written::Done);
        assert_eq!(subject.reads().bundle_in_force().unwrap().bundle, None);
        assert_eq!(subject.reads().bundle_versions().unwrap(), [4, 3]);
        assert_eq!(subject.reads().bundle(3).unwrap(), Some(kept(3)));
        let history = subject.reads().bundle_applications(3).unwrap();
        let steps: Vec<_> = history.iter().map(|one| (one.number, one.from, one.to)).collect();
        assert_eq!(steps, [(4, Some(3), None), (3, Some(4), Some(3)), (2, Some(3), Some(4))]);
        assert_eq!((&*history[0].who, history[0].at), ("jane", time(999)));
    });
}

#[test]
fn of_two_changes_at_once_one_wins() {
    each(|mut subject| {
        assert_eq!(apply(&mut subject, change(None, Some(3), Some(kept(3)))), Written::Done);
        let refused = |written: Written, wanted: RefusedWrite| {
            assert_eq!(written, Written::Refused(wanted));
        };
        let other = |in_force, expected| RefusedWrite::OtherBundle { in_force, expected };
        let late = apply(&mut subject, change(None, Some(4), Some(kept(4))));
        refused(late, other(Some(3), None));
        // A version has one bundle for ever, and what is not kept cannot come back.
        let again = apply(&mut subject, change(Some(3), Some(3), Some(kept(3))));
        refused(again, other(Some(3), Some(3)));
        let unknown = apply(&mut subject, change(Some(3), Some(9), None));
        refused(unknown, RefusedWrite::UnknownBundle(9));
        let confused = apply(&mut subject, change(Some(3), Some(9), Some(kept(8))));
        refused(confused, RefusedWrite::UnknownBundle(8));
        assert_eq!(subject.reads().bundle_in_force().unwrap().bundle, Some(kept(3)));
        assert_eq!(subject.reads().bundle_applications(9).unwrap().len(), 1);
        assert_eq!(subject.reads().bundle_versions().unwrap(), [3]);
    });
}

/// One that cannot be used any more is replaced under its own version, whether or not it is in force; no other one is.
#[test]
fn one_that_is_kept_can_be_mended() {
    each(|mut subject| {
        let mending = |expected: u64, to: u64, mut bundle: KeptBundle| {
            bundle.octets = b"mended".as_slice().into();
            BundleChange { mends: true, ..change(Some(expected), Some(to), Some(bundle)) }
        };
        let in_force = |subject: &Subject| {
            let bundle = subject.reads().bundle_in_force().unwrap().bundle.unwrap();
            (bundle.version, bundle.octets)
        };
        let mended: std::sync::Arc<[u8]> = b"mended".as_slice().into();
        assert_eq!(apply(&mut subject, change(None, Some(3), Some(kept(3)))), Written::Done);
        assert_eq!(apply(&mut subject, mending(3, 3, kept(3))), Written::Done);
        assert_eq!(in_force(&subject), (3, mended.clone()));
        assert_eq!(apply(&mut subject, change(Some(3), Some(4), Some(kept(4)))), Written::Done);
        assert_eq!(apply(&mut subject, mending(4, 3, kept(3))), Written::Done);
        assert_eq!(in_force(&subject), (3, mended));
        let other = RefusedWrite::OtherBundle { in_force: Some(3), expected: Some(4) };
        let taken = apply(&mut subject, change(Some(3), Some(4), Some(kept(4))));
        assert_eq!(taken, Written::Refused(other));
        assert_eq!(subject.reads().bundle(4).unwrap(), Some(kept(4)));
        assert_eq!(subject.reads().bundle_keys().unwrap(), [(4, [4; 32]), (3, [3; 32])]);
    });
}

/// The bundles of another instance go with the first one of this; one that somebody asks for stays.
#[test]
fn bundles_of_another_instance_are_forgotten() {
    each(|mut subject| {
        for (before, version) in [(None, 5), (Some(5), 6), (Some(6), 7), (Some(7), 8)] {
            let step = change(before, Some(version), Some(kept(version)));
            assert_eq!(apply(&mut subject, step), Written::Done);
        }
        let other = KeptBundle { key: [9; 32], ..kept(7) };
        let forgets = vec![5, 6, 7, 8];
        let step = change(Some(8), Some(7), Some(other.clone()));
        let step = BundleChange { forgets, keep: Some(5), ..step };
        assert_eq!(apply(&mut subject, step.clone()), Written::Done);
        assert_eq!(subject.reads().bundle_keys().unwrap(), [(7, [9; 32]), (5, [5; 32])]);
        assert_eq!(subject.reads().bundle_in_force().unwrap().bundle, Some(other));
        // What goes cannot be put in force.
        let gone = BundleChange { bundle: None, expected: Some(7), forgets: vec![7], ..step };
        let refused = Written::Refused(RefusedWrite::UnknownBundle(7));
        assert_eq!(apply(&mut subject, gone), refused);
        assert_eq!(subject.reads().bundle_versions().unwrap(), [7, 5]);
    });
}

#[test]
fn old_bundles_go_but_not_the_one_in_force() {
    each(|mut subject| {
        let mut before = None;
        for version in 1..=u64::from(BUNDLES_KEPT) + 3 {
            let step = change(before, Some(version), Some(kept(version)));
            assert_eq!(apply(&mut subject, step), Written::Done);
            before = Some(version);
        }
        let versions = subject.reads().bundle_versions().unwrap();
        assert_eq!((versions.len(), versions.last()), (BUNDLES_KEPT as usize, Some(&4)));
        // The oldest is put in force; newer ones come, and it stays until the pointer leaves it.
        assert_eq!(apply(&mut subject, change(before, Some(4), None)), Written::Done);
        let step = change(Some(4), None, None);
        assert_eq!(apply(&mut subject, step), Written::Done);
        assert_eq!(subject.reads().bundle_versions().unwrap().len(), BUNDLES_KEPT as usize);
    });
}

#[test]
fn one_more_is_kept_for_whoever_asks() {
    each(|mut subject| {
        let mut before = None;
        for version in 1..=u64::from(BUNDLES_KEPT) + 3 {
            let step = change(before, Some(version), Some(kept(version)));
            let step = BundleChange { keep: Some(2), ..step };
            assert_eq!(apply(&mut subject, step), Written::Done);
            before = Some(version);
        }
        let versions = subject.reads().bundle_versions().unwrap();
        assert_eq!(versions.len(), BUNDLES_KEPT as usize + 1);
        assert_eq!(versions[versions.len() - 2..], [4, 2]);
        let step = change(before, Some(4), None);
        assert_eq!(apply(&mut subject, step), Written::Done);
        assert_eq!(subject.reads().bundle(2).unwrap(), None, "nobody asks any more");
    });
}

/// The old or the new one is in force, never a mixture, however little room there is.
#[test]
fn a_full_disk_leaves_the_old_bundle_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = SqliteStore::open(folder.path(), options("a")).unwrap();
    let put = |store: &mut SqliteStore, change: BundleChange| {
        store.apply(&[Write::ChangeBundle(Box::new(change))])
    };
    put(&mut store, change(None, Some(1), Some(kept(1)))).unwrap();
    let large = KeptBundle { octets: vec![7; 4 << 20].into(), ..kept(2) };
    store.set_size_limit(Some(1 << 20)).unwrap();
    let fault = put(&mut store, change(Some(1), Some(2), Some(large.clone()))).unwrap_err();
    assert!(matches!(fault, StoreFault::DiskFull { .. }), "{fault:?}");
    assert_eq!(store.reads().bundle_in_force().unwrap().bundle, Some(kept(1)));
    assert_eq!(store.reads().bundle_versions().unwrap(), [1]);
    store.set_size_limit(None).unwrap();
    put(&mut store, change(Some(1), Some(2), Some(large.clone()))).unwrap();
    assert_eq!(store.reads().bundle_in_force().unwrap().bundle, Some(large));
    assert_eq!(store.reads().bundle_in_force().unwrap().since, time(2));
}

/// What was written of a refused batch does not go on filling the disk.
#[test]
fn a_full_disk_is_not_kept_full_by_what_was_refused() {
    let folder = tempfile::tempdir().unwrap();
    // A small cache, so that most of the batch is in the log before the end of the room is met.
    let options = SqliteOptions { cache_bytes: 256 << 10, ..options("a") };
    let mut store = SqliteStore::open(folder.path(), options).unwrap();
    store.set_size_limit(Some(6 << 20)).unwrap();
    let octets = |octets: usize| vec![7; octets].into();
    let [first, second] =
        [1, 2].map(|version| KeptBundle { octets: octets(4 << 20), ..kept(version) });
    let put =
        |store: &mut SqliteStore, change| store.apply(&[Write::ChangeBundle(Box::new(change))]);
    put(&mut store, change(None, Some(1), Some(first))).unwrap();
    let fault = put(&mut store, change(Some(1), Some(2), Some(second))).unwrap_err();
    assert!(matches!(fault, StoreFault::DiskFull { .. }), "{fault:?}");
    let log = std::fs::metadata(folder.path().join("mailweir.db-wal")).unwrap().len();
    assert_eq!(log, 0, "octets of the log after the refusal");
}
