//! Processor time by kind of thread, from `/proc/self/task`, or that of another process.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;

/// Clock ticks per second in `/proc` on Linux for all architectures that Rust supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time used so far, by the number of the thread, with its name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Used {
    threads: BTreeMap<u32, (String, f64)>,
    others: Vec<&'static str>,
}

impl Used {
    /// Reads what all threads of this process have used. Threads whose name begins with one of `others` do not
    /// belong to the product.
    pub(crate) fn now(others: &[&'static str]) -> anyhow::Result<Self> {
        Self::read(Path::new("/proc/self/task"), others)
    }

    /// Reads what all threads of another process have used.
    pub(crate) fn of(process: u32) -> anyhow::Result<Self> {
        Self::read(&Path::new("/proc").join(process.to_string()).join("task"), &[])
    }

    fn read(tasks: &Path, others: &[&'static str]) -> anyhow::Result<Self> {
        let mut threads = BTreeMap::new();
        let listed = std::fs::read_dir(tasks);
        for entry in listed.with_context(|| tasks.display().to_string())? {
            let entry = entry?;
            let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let stat = entry.path().join("stat");
            // A thread may end between listing and reading.
            let Ok(text) = std::fs::read_to_string(&stat) else { continue };
            let Some((name, ticks)) = read_stat(&text) else { continue };
            threads.insert(number, (name, ticks * 1_000_000.0 / TICKS_PER_SECOND));
        }
        Ok(Self { threads, others: others.to_vec() })
    }

    /// What was used since `before`. Threads that ended meanwhile are missing, and take nothing from the others of their
    /// name: a pool lets idle threads go.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let threads = self
            .threads
            .iter()
            .map(|(number, (name, now))| {
                // A number may have been given to another thread since; that one has used less.
                let earlier = before.threads.get(number).map_or(0.0, |(_, micros)| *micros);
                (*number, (name.clone(), (now - earlier).max(0.0)))
            })
            .collect();
        Self { threads, others: self.others.clone() }
    }

    /// Microseconds of the product's threads.
    pub(crate) fn total_micros(&self) -> f64 {
        let product = self.threads.values().filter(|(name, _)| self.is_product(name));
        product.map(|(_, micros)| micros).sum()
    }

    fn is_product(&self, name: &str) -> bool {
        !self.others.iter().any(|other| name.starts_with(other))
    }

    /// Microseconds per message, by kind of thread, the largest first.
    pub(crate) fn per_message(&self, messages: u64) -> Vec<(String, f64)> {
        let mut kinds: BTreeMap<&str, f64> = BTreeMap::new();
        for (name, micros) in self.threads.values() {
            *kinds.entry(name).or_default() += micros;
        }
        let mut all: Vec<(String, f64)> = kinds
            .into_iter()
            .map(|(name, micros)| (name.to_owned(), micros / messages as f64))
            .collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        all
    }
}

/// Seconds of this thread's processor time that something takes.
///
/// # Errors
/// The system has no clock per thread.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> anyhow::Result<(T, f64)> {
    let before = thread_nanoseconds()?;
    let done = work();
    let taken = thread_nanoseconds()?.saturating_sub(before).max(1);
    Ok((done, taken as f64 / 1e9))
}

/// Nanoseconds this thread has run.
fn thread_nanoseconds() -> anyhow::Result<u64> {
    const FILE: &str = "/proc/thread-self/schedstat";
    let text = std::fs::read_to_string(FILE).context(FILE)?;
    let first = text.split(' ').next().unwrap_or_default();
    first.parse().with_context(|| format!("{FILE} holds no number: {text}"))
}

/// Name and ticks (user and system) of a line of `stat`.
fn read_stat(text: &str) -> Option<(String, f64)> {
    let open = text.find('(')?;
    let close = text.rfind(')')?;
    let name =
        text.get(open + 1..close)?.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-');
    // Behind the name: state is field 3, utime 14, stime 15.
    let mut fields = text.get(close + 1..)?.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((name.to_string(), user + system))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_has_ended_takes_nothing_from_the_others() {
        let used = |threads: &[(u32, &str, f64)]| Used {
            threads: threads
                .iter()
                .map(|(number, name, micros)| (*number, ((*name).to_owned(), *micros)))
                .collect(),
            others: vec!["lab"],
        };
        let before = used(&[(1, "runtime", 500.0), (2, "runtime", 100.0), (3, "lab", 10.0)]);
        let now = used(&[(2, "runtime", 130.0), (3, "lab", 90.0), (4, "runtime", 20.0)]);
        let since = now.since(&before);
        assert_eq!(since.total_micros(), 50.0);
        let kinds = since.per_message(10);
        assert_eq!(kinds, [("lab".to_owned(), 8.0), ("runtime".to_owned(), 5.0)]);
    }

    #[test]
    fn reads_the_kernels_line() {
        let line = "12 (tokio (x)-3) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 9 0 1";
        assert_eq!(read_stat(line), Some(("tokio (x)".to_string(), 300.0)));
        assert_eq!(read_stat("nonsense"), None);
    }
}
