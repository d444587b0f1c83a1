//! The folder across restarts, doubles, foreign hands and full shelves.

use std::sync::atomic::AtomicU64;

use super::*;

struct Place {
    folder: tempfile::TempDir,
    counts: Arc<InmailCounts>,
    /// Seconds by which its time is ahead.
    ahead: Arc<AtomicU64>,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), counts: Arc::default(), ahead: Arc::default() }
    }

    fn limits(&self) -> FolderLimits {
        FolderLimits {
            backlog_files: 5,
            message_bytes: 1_000,
            aside_files: 2,
            aside_bytes: 1 << 20,
            dump: Some((self.folder.path().join("dump"), 2)),
        }
    }

    fn open(&self) -> Folder {
        self.open_with(self.limits())
    }

    fn open_with(&self, limits: FolderLimits) -> Folder {
        let clock = crate::clock::SteadyClock::start_at_wall();
        let ahead = Arc::clone(&self.ahead);
        let now: Now =
            Arc::new(move || clock.now() + Duration::from_secs(ahead.load(Ordering::Relaxed)));
        Folder::open(self.folder.path(), limits, now, Arc::clone(&self.counts)).unwrap()
    }

    fn files(&self, name: &str) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path().join(name)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn origin() -> Origin {
    Origin { way: Way::Pop3, from: "box".into(), ..Origin::default() }
}

use super::super::origin::Way;

#[test]
fn a_double_is_one_file_however_it_comes() {
    let place = Place::new();
    let folder = place.open();
    assert_eq!(folder.keep_blocking(&origin(), b"a").unwrap(), Kept::New);
    let spooled = Origin { way: Way::Spool, ..Origin::default() };
    assert_eq!(folder.keep_blocking(&spooled, b"a").unwrap(), Kept::Repeated);
    // The same words for another of our addresses are another mail.
    let to = |names: &[&str]| Origin {
        recipients: names.iter().map(|name| name.to_string()).collect(),
        ..origin()
    };
    assert_eq!(folder.keep_blocking(&to(&["b", "a", "a"]), b"a").unwrap(), Kept::New);
    assert_eq!(folder.keep_blocking(&to(&["a", "b"]), b"a").unwrap(), Kept::Repeated);
    drop(folder);
    let folder = place.open();
    assert_eq!(folder.keep_blocking(&origin(), b"a").unwrap(), Kept::Repeated, "after a restart");
    let claim = folder.claim().unwrap().unwrap();
    assert_eq!((&claim.octets[..], claim.origin.from.as_str()), (&b"a"[..], "box"));
    assert_eq!(folder.keep_blocking(&origin(), b"a").unwrap(), Kept::Repeated, "while processed");
    folder.done(&claim).unwrap();
    assert_eq!(folder.keep_blocking(&origin(), b"a").unwrap(), Kept::Repeated, "when processed");
    drop(folder);
    let folder = place.open();
    assert_eq!(folder.keep_blocking(&origin(), b"a").unwrap(), Kept::Repeated, "long after");
    assert_eq!(place.files("new").len(), 1);
    assert_eq!(place.files("tmp").len() + place.files("processing").len(), 0);
    assert_eq!(place.files("dump").len(), 2);
}

#[test]
fn what_waits_is_bounded() {
    let place = Place::new();
    let folder = place.open();
    let fault = folder.keep_blocking(&origin(), &[0; 1_001]).unwrap_err();
    assert!(matches!(fault, KeepFault::TooLarge));
    for number in 0..5_u8 {
        assert_eq!(folder.keep_blocking(&origin(), &[number]).unwrap(), Kept::New);
    }
    let fault = folder.keep_blocking(&origin(), b"more").unwrap_err();
    assert!(matches!(fault, KeepFault::Full { waiting: 5 }), "{fault}");
    let claim = folder.claim().unwrap().unwrap();
    folder.done(&claim).unwrap();
    assert_eq!(folder.keep_blocking(&origin(), b"more").unwrap(), Kept::New);
    assert_eq!(place.counts.kept.load(Ordering::Relaxed), 6);
    assert_eq!(place.counts.not_kept.load(Ordering::Relaxed), 2);
    assert_eq!(place.counts.waiting.load(Ordering::Relaxed), 5);
}

#[test]
fn a_mail_that_ends_the_program_is_put_aside_in_the_end() {
    let place = Place::new();
    place.open().keep_blocking(&origin(), b"poison").unwrap();
    for tries in 0..MOST_TRIES {
        let folder = place.open();
        if tries > 0 {
            assert!(folder.claim().unwrap().is_none(), "it rests");
            // A program that ends before the rest is over says nothing against it.
            let folder = place.open();
            assert!(folder.claim().unwrap().is_none(), "it rests again");
        }
        place.ahead.fetch_add(60, Ordering::Relaxed);
        assert!(folder.claim().unwrap().is_some());
    }
    let folder = place.open();
    assert!(folder.claim().unwrap().is_none());
    let aside = place.files("aside");
    assert_eq!(aside.len(), 2, "{aside:?}");
    let note = fs::read_to_string(place.folder.path().join("aside").join(&aside[1])).unwrap();
    assert!(note.contains("the program ended 3 times while reading it"), "{note}");
    // Given back in order it is not counted as a try.
    folder.keep_blocking(&origin(), b"good").unwrap();
    for _ in 0..10 {
        let folder = place.open();
        let claim = folder.claim().unwrap().unwrap();
        folder.give_back(&claim).unwrap();
    }
    assert_eq!(&place.open().claim().unwrap().unwrap().octets[..], b"good");
}

#[test]
fn what_is_kept_aside_is_bounded_and_can_be_put_back() {
    let place = Place::new();
    let folder = place.open();
    for number in 0..4_u8 {
        folder.keep_blocking(&origin(), &[b'0' + number]).unwrap();
        let claim = folder.claim().unwrap().unwrap();
        folder.aside(&claim, "no\nbounce").unwrap();
    }
    let aside = place.files("aside");
    assert_eq!(aside.len(), 4, "two mails with their reasons: {aside:?}");
    assert_eq!(place.counts.dropped_aside.load(Ordering::Relaxed), 2);
    let last = fs::read(place.folder.path().join("aside").join(&aside[2])).unwrap();
    let (read, octets) = Origin::split(&last).unwrap();
    assert_eq!((read.from.as_str(), octets), ("box", &b"3"[..]));
    let reason = fs::read_to_string(place.folder.path().join("aside").join(&aside[3])).unwrap();
    assert_eq!(reason.lines().count(), 1, "{reason}");
    assert_eq!(folder.keep_blocking(&read, octets).unwrap(), Kept::New, "it was not processed");
}

#[test]
fn foreign_hands_in_the_folder_do_no_harm() {
    let place = Place::new();
    let folder = place.open();
    for octets in [b"one", b"two"] {
        folder.keep_blocking(&origin(), octets).unwrap();
    }
    let names = place.files("new");
    fs::remove_file(place.folder.path().join("new").join(&names[0])).unwrap();
    fs::write(place.folder.path().join("new").join(&names[1]), "not as it was written").unwrap();
    fs::write(place.folder.path().join("new/readme.txt"), "hello").unwrap();
    assert!(folder.claim().unwrap().is_none());
    assert_eq!(place.files("aside").len(), 2);
    fs::write(place.folder.path().join("seen.log"), b"\xff\n\n00\nzz").unwrap();
    let folder = place.open();
    assert_eq!(folder.keep_blocking(&origin(), b"one").unwrap(), Kept::New);
    assert_eq!(place.files("new").len(), 2, "one, and a file that is not ours");
}

#[test]
fn a_mail_that_was_put_off_waits_and_others_go_first() {
    let place = Place::new();
    let folder = place.open();
    for octets in [b"one", b"two"] {
        folder.keep_blocking(&origin(), octets).unwrap();
    }
    let one = folder.claim().unwrap().unwrap();
    folder.again(&one, Duration::from_secs(3_600)).unwrap();
    let two = folder.claim().unwrap().unwrap();
    assert_eq!(&two.octets[..], b"two");
    assert!(folder.claim().unwrap().is_none());
    assert!(folder.next_due().unwrap() > folder.now());
    folder.again(&two, Duration::ZERO).unwrap();
    let two = folder.claim().unwrap().unwrap();
    assert_eq!((&two.octets[..], two.put_off), (&b"two"[..], 1));
    assert!(folder.unfinished(&two, "slow").unwrap());
    assert_eq!(place.files("new").len(), 2);
}

#[test]
fn a_folder_that_cannot_be_written_refuses() {
    let place = Place::new();
    let folder = place.open();
    fs::remove_dir_all(place.folder.path().join("tmp")).unwrap();
    let fault = folder.keep_blocking(&origin(), b"x").unwrap_err();
    assert!(fault.to_string().starts_with("cannot use "), "{fault}");
    fs::create_dir(place.folder.path().join("tmp")).unwrap();
    fs::rename(place.folder.path().join("new"), place.folder.path().join("old")).unwrap();
    assert!(folder.keep_blocking(&origin(), b"x").is_err());
    assert_eq!(place.files("tmp").len(), 0);
    fs::rename(place.folder.path().join("old"), place.folder.path().join("new")).unwrap();
    assert_eq!(folder.keep_blocking(&origin(), b"x").unwrap(), Kept::New);
}
