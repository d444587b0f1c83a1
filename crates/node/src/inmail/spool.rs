//! Picks up files from the spool folder.
//!
//! **Promise.** A file `*.eml` is removed only after it is kept. Whoever puts one there writes it under
//! another name and renames it. A mail that was kept aside may be put back here as it is: its origin
//! comes back with it.
//!
//! **Bounded**: [`MOST_FILES`] in one look, each within the size of a mail. A file that is too large or
//! cannot be read or removed stays, and is not looked at again before the next start.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::counts::InmailCounts;
use super::folder::{Folder, KeepFault};
use super::origin::{LONGEST_LINE, Origin, Way};

/// Files taken in one look; the rest waits for the next one.
pub const MOST_FILES: usize = 1_000;

/// Looks at the folder every `period` until `stop`.
pub(super) async fn watch(
    spool: PathBuf,
    period: Duration,
    folder: Folder,
    counts: Arc<InmailCounts>,
    stop: CancellationToken,
) {
    let mut unusable = HashSet::new();
    loop {
        let (path, into, figures) = (spool.clone(), folder.clone(), Arc::clone(&counts));
        let looked = tokio::task::spawn_blocking(move || {
            let taken = take(&path, &into, &mut unusable);
            if let Ok(count) = &taken {
                InmailCounts::add(&figures.spooled, *count);
            }
            (taken, unusable)
        });
        match looked.await {
            Ok((taken, set)) => {
                unusable = set;
                if let Err(fault) = taken {
                    tracing::warn!(%fault, "the spool folder waits");
                }
            }
            Err(fault) => {
                tracing::error!(%fault, "the look at the spool folder has failed");
                unusable = HashSet::new();
            }
        }
        if stop.run_until_cancelled(tokio::time::sleep(period)).await.is_none() {
            return;
        }
    }
}

/// One look; how many files were taken.
fn take(spool: &Path, folder: &Folder, unusable: &mut HashSet<OsString>) -> Result<u64, KeepFault> {
    let disk = |source| KeepFault::Disk { path: spool.to_owned(), source };
    let mut names: Vec<OsString> = Vec::new();
    for entry in fs::read_dir(spool).map_err(disk)? {
        let name = entry.map_err(disk)?.file_name();
        if Path::new(&name).extension().is_some_and(|ending| ending == "eml")
            && !unusable.contains(&name)
        {
            names.push(name);
        }
        if names.len() >= MOST_FILES {
            break;
        }
    }
    names.sort();
    let mut taken = 0;
    for name in names {
        let path = spool.join(&name);
        let give_up = |why: &dyn core::fmt::Display, unusable: &mut HashSet<OsString>| {
            tracing::warn!(file = %path.display(), %why, "a file in the spool folder is not taken");
            if unusable.len() < 10 * MOST_FILES {
                unusable.insert(name.clone());
            }
        };
        let octets = match read(&path, folder.message_bytes()) {
            Ok(Some(octets)) => octets,
            Ok(None) => {
                give_up(&"no regular file, or larger than inmail.max_message_bytes", unusable);
                continue;
            }
            Err(fault) => {
                give_up(&fault, unusable);
                continue;
            }
        };
        let origin = Origin {
            way: Way::Spool,
            from: name.to_string_lossy().chars().take(255).collect(),
            ..Origin::default()
        };
        let (origin, mail) = Origin::split(&octets).unwrap_or((origin, &octets));
        match folder.keep_blocking(&origin, mail) {
            Ok(_) => taken += 1,
            Err(KeepFault::TooLarge) => {
                give_up(&KeepFault::TooLarge, unusable);
                continue;
            }
            Err(fault) => return Err(fault),
        }
        if let Err(fault) = fs::remove_file(&path) {
            give_up(&fault, unusable);
        }
    }
    Ok(taken)
}

/// A regular file of a sensible size.
fn read(path: &Path, message_bytes: u64) -> std::io::Result<Option<Vec<u8>>> {
    // A FIFO would block for ever, a link could lead anywhere.
    let most = message_bytes + LONGEST_LINE as u64;
    let about = fs::symlink_metadata(path)?;
    if !about.is_file() || about.len() > most {
        return Ok(None);
    }
    let mut octets = Vec::new();
    File::open(path)?.take(most).read_to_end(&mut octets)?;
    Ok(Some(octets))
}
