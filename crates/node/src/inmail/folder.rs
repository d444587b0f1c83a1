//! The folder in which mail waits until it is processed.
//!
//! **Promise.** When [`Folder::keep`] has answered `Ok`, the mail is on the disk and will be handed to
//! the processor, whatever happens to this process or machine. The same mail (envelope recipients and
//! octets) is one file however often it is brought, also when it was processed a while ago.
//!
//! **How.** `tmp/` → `new/` → `processing/` → gone, or `aside/` with a reason. Every step is a rename;
//! a mail is written and synced in `tmp/`, and the folder it is moved to is synced before the
//! answer. Names are `<time>-<hash>-<tries>.eml`: the time gives the order, the hash makes doubles meet,
//! and the tries end a mail that ends the program each time it is read. `seen.log` has the hashes of
//! what was processed last.
//!
//! **Bounded**: mails that wait, hashes that are remembered, mails kept aside by number and size,
//! copies in the dump folder. Where the oldest must go it is counted.
//!
//! **Absences.** Losing power can lose the last lines of `seen.log`; a mail that comes again just then
//! is processed again. One process at a time: the lock of the data folder is the store's.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use mail::time::Timestamp;
use store::kill_point;
use tokio::sync::Notify;

use super::Now;
use super::counts::InmailCounts;
use super::origin::{LONGEST_LINE, Origin};
use super::shelf::Shelf;

/// Hashes of processed mails that are remembered.
const SEEN: usize = 100_000;
/// A mail that was being processed when the program ended is tried again so often.
pub(super) const MOST_TRIES: u32 = 3;
/// How long it rests after the start, at first; four times as long with each try.
const FIRST_REST: Duration = Duration::from_secs(1);
/// Pause between two of them.
const REST_APART: Duration = Duration::from_millis(250);

/// The bounds of a folder.
#[derive(Clone, Debug)]
pub struct FolderLimits {
    /// Mails waiting or being processed beyond which no more are kept.
    pub backlog_files: usize,
    /// Octets of one mail.
    pub message_bytes: u64,
    /// Mails kept aside.
    pub aside_files: usize,
    /// Octets kept aside.
    pub aside_bytes: u64,
    /// A folder for copies, and how many.
    pub dump: Option<(PathBuf, usize)>,
}

/// Why a mail was not kept. It must be brought again.
#[derive(Debug, thiserror::Error)]
pub enum KeepFault {
    /// Too much waits to be processed.
    #[error("{waiting} mails wait to be processed, as many as inmail.backlog_files allows")]
    Full {
        /// So many.
        waiting: usize,
    },
    /// It is larger than any mail that is kept.
    #[error("the mail is larger than inmail.max_message_bytes")]
    TooLarge,
    /// The disk.
    #[error("cannot use {}: {source}", path.display())]
    Disk {
        /// File or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl KeepFault {
    /// Whether the disk is full.
    #[must_use]
    pub fn is_full_disk(&self) -> bool {
        matches!(self, Self::Disk { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

/// What became of a mail that was brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is new.
    New,
    /// It is here already, or was processed.
    Repeated,
}

/// A mail's name in the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    at: u64,
    hash: u128,
    tries: u32,
}

impl Name {
    /// `None`: not a name of ours.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_suffix(".eml")?.split('-');
        let (at, hash, tries) = (parts.next()?, parts.next()?, parts.next()?);
        let sized = at.len() == 16 && hash.len() == 32 && tries.len() <= 4;
        if parts.next().is_some() || !sized {
            return None;
        }
        Some(Self {
            at: u64::from_str_radix(at, 16).ok()?,
            hash: u128::from_str_radix(hash, 16).ok()?,
            tries: tries.parse().ok()?,
        })
    }

    fn file(self) -> String {
        format!("{:016x}-{:032x}-{}.eml", self.at, self.hash, self.tries)
    }

    /// Without the tries, for what is kept aside.
    fn stem(self) -> String {
        format!("{:016x}-{:032x}", self.at, self.hash)
    }
}

/// A mail that was taken out to be processed. It must be given to one of `done`, `aside`, `again`,
/// `unfinished` or `give_back`; else it waits until the next start.
#[derive(Debug)]
pub(super) struct Claim {
    name: Name,
    /// Where it came from.
    pub(super) origin: Origin,
    /// The mail.
    pub(super) octets: Bytes,
    /// How often it was put off.
    pub(super) put_off: u32,
}

impl Claim {
    /// What names it in logs and files.
    pub(super) fn stem(&self) -> String {
        self.name.stem()
    }
}

/// What is in the folder.
#[derive(Debug, Default)]
struct Index {
    /// In `new/`, to be processed now.
    waiting: BTreeSet<Name>,
    /// In `new/`, to be processed at a later time: with how often it was put off.
    later: BTreeMap<(Timestamp, Name), u32>,
    /// All that are in `new/` and `processing/`.
    here: HashSet<u128>,
}

/// Hashes of what was processed.
#[derive(Debug)]
struct Seen {
    set: HashSet<u128>,
    order: VecDeque<u128>,
    log: File,
    lines: usize,
}

struct Inner {
    root: PathBuf,
    limits: FolderLimits,
    clock: Now,
    counts: Arc<InmailCounts>,
    index: Mutex<Index>,
    seen: Mutex<Seen>,
    aside: Mutex<Shelf>,
    dump: Option<Mutex<Shelf>>,
    arrived: Notify,
}

/// The folder. Clones are the same.
#[derive(Clone)]
pub struct Folder {
    inner: Arc<Inner>,
}

impl core::fmt::Debug for Folder {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        out.debug_struct("Folder").field("root", &self.inner.root).finish_non_exhaustive()
    }
}

fn disk(path: &Path) -> impl FnOnce(io::Error) -> KeepFault + '_ {
    move |source| KeepFault::Disk { path: path.to_owned(), source }
}

/// Syncs a folder, so that the names in it last.
fn sync_folder(path: &Path) -> Result<(), KeepFault> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(disk(path))
}

impl Folder {
    /// Opens the folder, making what is missing. What was being processed when the last process ended
    /// waits again.
    ///
    /// # Errors
    /// The disk.
    pub fn open(
        root: &Path,
        limits: FolderLimits,
        clock: Now,
        counts: Arc<InmailCounts>,
    ) -> Result<Self, KeepFault> {
        for name in ["tmp", "new", "processing", "aside"] {
            let path = root.join(name);
            fs::create_dir_all(&path).map_err(disk(&path))?;
        }
        // The names just made must last as long as what will be in them.
        sync_folder(root)?;
        clear(&root.join("tmp"))?;
        let dump = match &limits.dump {
            None => None,
            Some((path, files)) => {
                fs::create_dir_all(path).map_err(disk(path))?;
                Some(Mutex::new(Shelf::open(path, *files, u64::MAX).map_err(disk(path))?))
            }
        };
        let path = root.join("aside");
        let aside = Shelf::open(&path, limits.aside_files, limits.aside_bytes);
        let folder = Self {
            inner: Arc::new(Inner {
                seen: Mutex::new(open_seen(&root.join("seen.log"))?),
                aside: Mutex::new(aside.map_err(disk(&path))?),
                root: root.to_owned(),
                limits,
                clock,
                counts,
                index: Mutex::default(),
                dump,
                arrived: Notify::new(),
            }),
        };
        folder.recover()?;
        Ok(folder)
    }

    /// Reads what is there.
    fn recover(&self) -> Result<(), KeepFault> {
        let mut tried_too_often = Vec::new();
        let mut tried_before = Vec::new();
        let mut index = self.index();
        for (place, unfinished) in [("new", false), ("processing", true)] {
            let folder = self.path(place);
            for entry in fs::read_dir(&folder).map_err(disk(&folder))? {
                let entry = entry.map_err(disk(&folder))?;
                let text = entry.file_name();
                let Some(name) = text.to_str().and_then(Name::parse) else {
                    tracing::warn!(file = ?entry.path(), "a file that is not ours is not touched");
                    continue;
                };
                if unfinished && name.tries >= MOST_TRIES {
                    tried_too_often.push(name);
                    continue;
                }
                if unfinished {
                    let (from, to) = (entry.path(), self.path("new").join(&text));
                    fs::rename(&from, to).map_err(disk(&from))?;
                }
                index.here.insert(name.hash);
                match name.tries {
                    0 => drop(index.waiting.insert(name)),
                    _ => tried_before.push(name),
                }
            }
        }
        self.show(&index);
        drop(index);
        // Those in hand when the program ended may have ended it, one of them or none. They come later and one after the
        // other, so that the next end speaks of one mail, and a program that is killed often blames nobody.
        for (place, name) in (0_u32..).zip(tried_before) {
            let rest = FIRST_REST * 4_u32.saturating_pow(name.tries.min(8) - 1);
            self.put_later(name, 0, rest + REST_APART * place.min(60));
        }
        for name in tried_too_often {
            let why = format!("the program ended {} times while reading it", name.tries);
            self.move_aside(name, &Origin::default(), &why)?;
        }
        Ok(())
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.inner.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.inner.root.join(name)
    }

    fn show(&self, index: &Index) {
        self.inner.counts.waiting.store(index.here.len() as u64, Ordering::Relaxed);
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.inner.clock)()
    }

    /// Octets of a mail at most.
    #[must_use]
    pub fn message_bytes(&self) -> u64 {
        self.inner.limits.message_bytes
    }

    /// Whether another mail would be kept now, as far as numbers say.
    ///
    /// # Errors
    /// Too much waits.
    pub fn check_room(&self) -> Result<(), KeepFault> {
        let waiting = self.index().here.len();
        if waiting >= self.inner.limits.backlog_files {
            return Err(KeepFault::Full { waiting });
        }
        Ok(())
    }

    /// Waits until a mail may have come.
    pub(super) async fn arrived(&self) {
        self.inner.arrived.notified().await;
    }

    /// Makes a mail durable. Runs on a thread that may wait for the disk.
    ///
    /// # Errors
    /// It is not kept.
    pub async fn keep(&self, origin: Origin, octets: Vec<u8>) -> Result<Kept, KeepFault> {
        let folder = self.clone();
        let kept = tokio::task::spawn_blocking(move || folder.keep_blocking(&origin, &octets));
        match kept.await {
            Ok(kept) => kept,
            Err(fault) => Err(KeepFault::Disk {
                path: self.path("new"),
                source: io::Error::other(fault.to_string()),
            }),
        }
    }

    /// The same on this thread.
    ///
    /// # Errors
    /// It is not kept.
    pub fn keep_blocking(&self, origin: &Origin, octets: &[u8]) -> Result<Kept, KeepFault> {
        let kept = self.store(origin, octets);
        let counts = &self.inner.counts;
        match &kept {
            Ok(Kept::New) => InmailCounts::add(&counts.kept, 1),
            Ok(Kept::Repeated) => InmailCounts::add(&counts.repeated, 1),
            Err(_) => InmailCounts::add(&counts.not_kept, 1),
        }
        kept
    }

    fn store(&self, origin: &Origin, octets: &[u8]) -> Result<Kept, KeepFault> {
        self.check_room()?;
        if octets.len() as u64 > self.inner.limits.message_bytes {
            return Err(KeepFault::TooLarge);
        }
        let hash = hash_of(origin, octets);
        if self.seen().set.contains(&hash) {
            return Ok(Kept::Repeated);
        }
        let at = self.now().as_micros();
        let origin = Origin { at_micros: at, ..origin.clone() };
        let name = Name { at, hash, tries: 0 };
        let written = self.path("tmp").join(name.file());
        let write = || -> io::Result<()> {
            let mut file = File::create(&written)?;
            file.write_all(&origin.line())?;
            file.write_all(octets)?;
            file.sync_all()
        };
        let new = self.path("new");
        let moved = write().map_err(disk(&written)).and_then(|()| {
            let mut index = self.index();
            if index.here.contains(&hash) {
                return Ok(false);
            }
            fs::rename(&written, new.join(name.file())).map_err(disk(&written))?;
            index.here.insert(hash);
            index.waiting.insert(name);
            self.show(&index);
            Ok(true)
        });
        if !matches!(moved, Ok(true)) {
            // What stays in tmp after a fault goes at the next start.
            let _gone = fs::remove_file(&written);
        }
        let is_new = moved?;
        // Also for a double: the one before may have been renamed just now and be in nobody's hands.
        sync_folder(&new)?;
        kill_point::pass("inmail", "kept");
        if !is_new {
            return Ok(Kept::Repeated);
        }
        self.inner.arrived.notify_one();
        self.copy(name, octets);
        Ok(Kept::New)
    }

    /// Puts a copy into the dump folder. It is for people who look for a fault; mail does not wait
    /// for it.
    fn copy(&self, name: Name, octets: &[u8]) {
        let (Some(shelf), Some((path, _))) = (&self.inner.dump, &self.inner.limits.dump) else {
            return;
        };
        let file = format!("{}.eml", name.stem());
        match fs::write(path.join(&file), octets) {
            Ok(()) => {
                let mut shelf = shelf.lock().unwrap_or_else(PoisonError::into_inner);
                shelf.put(file, octets.len() as u64);
            }
            Err(fault) => tracing::warn!(%fault, folder = %path.display(), "no copy was dumped"),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.inner.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- processing ----------------------------------------------------------------------

    /// Takes the next mail out; `None`: there is none to be processed now. Must run on a thread that
    /// may wait for the disk.
    ///
    /// # Errors
    /// The disk; the mail is put off.
    pub(super) fn claim(&self) -> Result<Option<Claim>, KeepFault> {
        loop {
            let now = self.now();
            let (old, put_off) = {
                let mut index = self.index();
                match index.later.first_key_value() {
                    Some((&(due, name), &put_off)) if due <= now => {
                        index.later.pop_first();
                        (name, put_off)
                    }
                    _ => match index.waiting.pop_first() {
                        Some(name) => (name, 0),
                        None => return Ok(None),
                    },
                }
            };
            let name = Name { tries: old.tries + 1, ..old };
            let (from, to) =
                (self.path("new").join(old.file()), self.path("processing").join(name.file()));
            match fs::rename(&from, &to) {
                Ok(()) => {}
                Err(fault) if fault.kind() == io::ErrorKind::NotFound => {
                    tracing::warn!(file = %from.display(), "somebody has removed a mail that waited");
                    self.forget(old.hash);
                    continue;
                }
                Err(source) => {
                    self.put_later(old, put_off + 1, Duration::from_secs(60));
                    return Err(KeepFault::Disk { path: from, source });
                }
            }
            match self.read(&to) {
                Ok(Some((origin, octets))) => {
                    kill_point::pass("inmail", "claimed");
                    return Ok(Some(Claim { name, origin, octets, put_off }));
                }
                Ok(None) => {
                    self.move_aside(name, &Origin::default(), "the file is not as it was written")?;
                    self.forget(name.hash);
                }
                Err(fault) => {
                    self.back_to_new(name, old)?;
                    self.put_later(old, put_off + 1, Duration::from_secs(60));
                    return Err(fault);
                }
            }
        }
    }

    /// Reads a file; `None`: it is not one that was written here.
    fn read(&self, path: &Path) -> Result<Option<(Origin, Bytes)>, KeepFault> {
        let most = self.inner.limits.message_bytes.saturating_add(LONGEST_LINE as u64);
        let mut octets = Vec::new();
        File::open(path)
            .and_then(|file| file.take(most + 1).read_to_end(&mut octets))
            .map_err(disk(path))?;
        if octets.len() as u64 > most {
            return Ok(None);
        }
        let Some((origin, mail)) = Origin::split(&octets) else { return Ok(None) };
        let begin = octets.len() - mail.len();
        Ok(Some((origin, Bytes::from(octets).slice(begin..))))
    }

    /// It is processed and goes.
    pub(super) fn done(&self, claim: &Claim) -> Result<(), KeepFault> {
        kill_point::pass("inmail", "processed");
        // First remembered, then removed: in between it is at worst processed again.
        if let Err(fault) = self.remember(claim.name.hash) {
            tracing::warn!(%fault, "a processed mail is not remembered; it would be taken again");
        }
        let path = self.path("processing").join(claim.name.file());
        let removed = fs::remove_file(&path);
        self.forget(claim.name.hash);
        removed.map_err(disk(&path))
    }

    /// It is kept aside for people.
    pub(super) fn aside(&self, claim: &Claim, why: &str) -> Result<(), KeepFault> {
        let moved = self.move_aside(claim.name, &claim.origin, why);
        self.forget(claim.name.hash);
        moved
    }

    /// It is to be processed again later; that it was not processed now is not its fault.
    pub(super) fn again(&self, claim: &Claim, after: Duration) -> Result<(), KeepFault> {
        let old = Name { tries: claim.name.tries - 1, ..claim.name };
        self.back_to_new(claim.name, old)?;
        self.put_later(old, claim.put_off + 1, after);
        Ok(())
    }

    /// Processing it did not end in time: again later, or aside after [`MOST_TRIES`].
    pub(super) fn unfinished(&self, claim: &Claim, why: &str) -> Result<bool, KeepFault> {
        if claim.name.tries >= MOST_TRIES {
            self.aside(claim, why)?;
            return Ok(false);
        }
        self.back_to_new(claim.name, claim.name)?;
        self.put_later(claim.name, claim.put_off + 1, Duration::from_secs(60));
        Ok(true)
    }

    /// It was not processed, because the program ends.
    pub(super) fn give_back(&self, claim: &Claim) -> Result<(), KeepFault> {
        let old = Name { tries: claim.name.tries - 1, ..claim.name };
        self.back_to_new(claim.name, old)?;
        self.index().waiting.insert(old);
        Ok(())
    }

    /// When the next mail that was put off is due.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.index().later.first_key_value().map(|((due, _), _)| *due)
    }

    fn back_to_new(&self, from: Name, to: Name) -> Result<(), KeepFault> {
        let from = self.path("processing").join(from.file());
        fs::rename(&from, self.path("new").join(to.file())).map_err(disk(&from))
    }

    fn put_later(&self, name: Name, put_off: u32, after: Duration) {
        let due = self.now() + after;
        self.index().later.insert((due, name), put_off);
    }

    fn forget(&self, hash: u128) {
        let mut index = self.index();
        index.here.remove(&hash);
        self.show(&index);
    }

    /// Moves a mail from `processing/` to `aside/`, with its reason beside it.
    fn move_aside(&self, name: Name, origin: &Origin, why: &str) -> Result<(), KeepFault> {
        let aside = self.path("aside");
        let stem = name.stem();
        let reason = serde_json::json!({
            "reason": why,
            "put_aside_at": self.now().to_string(),
            "way": origin.way,
            "from": origin.from,
        });
        let note = aside.join(format!("{stem}.reason"));
        fs::write(&note, format!("{reason}\n")).map_err(disk(&note))?;
        let from = self.path("processing").join(name.file());
        let file = format!("{stem}.eml");
        let octets = fs::metadata(&from).map_or(0, |about| about.len());
        fs::rename(&from, aside.join(&file)).map_err(disk(&from))?;
        let mut shelf = self.inner.aside.lock().unwrap_or_else(PoisonError::into_inner);
        let dropped = shelf.put(file, octets);
        InmailCounts::add(&self.inner.counts.kept_aside, 1);
        if dropped > 0 {
            InmailCounts::add(&self.inner.counts.dropped_aside, dropped);
            tracing::warn!(
                dropped,
                "the oldest mails that were kept aside are gone: there is no room"
            );
        }
        Ok(())
    }

    /// Notes that a mail was processed.
    fn remember(&self, hash: u128) -> Result<(), KeepFault> {
        let path = self.path("seen.log");
        let mut seen = self.seen();
        if !seen.set.insert(hash) {
            return Ok(());
        }
        seen.order.push_back(hash);
        if seen.order.len() > SEEN
            && let Some(old) = seen.order.pop_front()
        {
            seen.set.remove(&old);
        }
        seen.lines += 1;
        if seen.lines > 2 * SEEN {
            let fresh = write_seen(&path, &seen.order)?;
            (seen.log, seen.lines) = (fresh, seen.order.len());
            return Ok(());
        }
        seen.log.write_all(format!("{hash:032x}\n").as_bytes()).map_err(disk(&path))
    }
}

/// Empties a folder of files.
fn clear(folder: &Path) -> Result<(), KeepFault> {
    for entry in fs::read_dir(folder).map_err(disk(folder))? {
        let path = entry.map_err(disk(folder))?.path();
        if path.is_file() {
            fs::remove_file(&path).map_err(disk(&path))?;
        }
    }
    Ok(())
}

/// What makes a mail the same: its envelope's recipients and its octets.
fn hash_of(origin: &Origin, octets: &[u8]) -> u128 {
    let mut context = Context::new(&SHA256);
    let mut recipients: Vec<&str> = origin.recipients.iter().map(String::as_str).collect();
    recipients.sort_unstable();
    recipients.dedup();
    // No address contains an LF, so the parts cannot be confused.
    for recipient in recipients {
        context.update(recipient.as_bytes());
        context.update(b"\n");
    }
    context.update(b"\n");
    context.update(octets);
    let digest = context.finish();
    let mut front = [0; 16];
    front.copy_from_slice(&digest.as_ref()[..16]);
    u128::from_be_bytes(front)
}

/// Reads the hashes of processed mails; lines that are none are left out.
fn open_seen(path: &Path) -> Result<Seen, KeepFault> {
    let most = 4 * SEEN as u64 * 33;
    let mut text = Vec::new();
    match File::open(path) {
        Ok(file) => {
            file.take(most).read_to_end(&mut text).map_err(disk(path))?;
        }
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => {}
        Err(fault) => return Err(disk(path)(fault)),
    }
    let mut set = HashSet::new();
    let mut order = VecDeque::new();
    for line in text.split(|octet| *octet == b'\n').filter(|line| line.len() == 32) {
        let hash = core::str::from_utf8(line).ok();
        if let Some(hash) = hash.and_then(|text| u128::from_str_radix(text, 16).ok())
            && set.insert(hash)
        {
            order.push_back(hash);
        }
        if order.len() > SEEN
            && let Some(old) = order.pop_front()
        {
            set.remove(&old);
        }
    }
    let log = write_seen(path, &order)?;
    Ok(Seen { lines: order.len(), set, order, log })
}

/// Writes the hashes anew and opens the file for more.
fn write_seen(path: &Path, order: &VecDeque<u128>) -> Result<File, KeepFault> {
    let fresh = path.with_extension("tmp");
    let mut text = String::with_capacity(order.len() * 33);
    for hash in order {
        text.push_str(&format!("{hash:032x}\n"));
    }
    fs::write(&fresh, text).map_err(disk(&fresh))?;
    fs::rename(&fresh, path).map_err(disk(&fresh))?;
    OpenOptions::new().append(true).open(path).map_err(disk(path))
}

#[cfg(test)]
mod tests;
