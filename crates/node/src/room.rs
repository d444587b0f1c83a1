//! Whether there is room for more: disk, queue and memory.
//!
//! A look each second. When the room is short, intake refuses in one line what it would have accepted, and
//! everything that was accepted goes on being delivered, which makes room again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;

use crate::config::LimitsConfig;
use crate::runner::contents::Contents;

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why nothing more is accepted; empty: there is room.
#[derive(Clone, Debug, Default)]
pub struct Room {
    short: Arc<ArcSwapOption<String>>,
}

impl Room {
    /// Whether there is room.
    ///
    /// # Errors
    /// What is short, in one line.
    pub fn check(&self) -> Result<(), String> {
        self.short.load().as_ref().map_or(Ok(()), |why| Err(why.to_string()))
    }

    /// Looks each second until the room is dropped everywhere else. Runs on the runtime.
    pub(crate) async fn watch(
        self,
        limits: LimitsConfig,
        data_dir: PathBuf,
        contents: Arc<Contents>,
    ) {
        let watched = Arc::downgrade(&self.short);
        drop(self);
        loop {
            let Some(short) = watched.upgrade() else { return };
            let (limits, data_dir, contents) =
                (limits.clone(), data_dir.clone(), Arc::clone(&contents));
            let looked =
                tokio::task::spawn_blocking(move || what_is_short(&limits, &data_dir, &contents));
            match looked.await {
                Ok(found) => {
                    let before = short.load().is_some();
                    if let (Some(why), false) = (&found, before) {
                        tracing::warn!(%why, "nothing more is accepted");
                    } else if found.is_none() && before {
                        tracing::info!("there is room again");
                    }
                    short.store(found.map(Arc::new));
                }
                Err(fault) => tracing::error!(%fault, "the look at disk and queue has failed"),
            }
            drop(short);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// The first thing that is short.
fn what_is_short(limits: &LimitsConfig, data_dir: &Path, contents: &Contents) -> Option<String> {
    let free = free_bytes(data_dir)?;
    if free < limits.free_disk_bytes {
        return Some(format!(
            "the disk of {} has {} MiB free, less than limits.free_disk_bytes ({} MiB)",
            data_dir.display(),
            free >> 20,
            limits.free_disk_bytes >> 20
        ));
    }
    if let Some(resident) = resident_bytes()
        && resident > limits.memory_bytes
    {
        return Some(format!(
            "the process holds {} MiB of memory, more than limits.memory_bytes ({} MiB)",
            resident >> 20,
            limits.memory_bytes >> 20
        ));
    }
    // A store that cannot be read says so itself when it is asked to write.
    let queued = contents.ask(|reads| reads.totals()).ok()?.counters.pending();
    (queued > limits.queue_messages).then(|| {
        format!(
            "{queued} messages are queued, more than limits.queue_messages ({})",
            limits.queue_messages
        )
    })
}

/// Free octets for this process on the file system of a folder; `None`: it cannot be asked.
#[must_use]
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let about = rustix::fs::statvfs(folder).ok()?;
    Some(about.f_bavail.saturating_mul(about.f_frsize))
}

/// Resident memory of this process; `None` where `/proc` does not say.
fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages.saturating_mul(rustix::param::page_size() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_answers() {
        assert!(free_bytes(Path::new("/")).is_some_and(|free| free > 0));
        assert!(resident_bytes().is_some_and(|bytes| bytes > 1 << 20));
        assert!(Room::default().check().is_ok());
    }
}
