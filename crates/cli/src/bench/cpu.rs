//! Processor time by kind of thread, from `/proc/self/task`, or that of another process.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;

/// Clock ticks per second in `/proc` on Linux for all architectures that Rust supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time used so far, by the name of the thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Used {
    micros: BTreeMap<String, f64>,
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
        let mut micros: BTreeMap<String, f64> = BTreeMap::new();
        let listed = std::fs::read_dir(tasks);
        for entry in listed.with_context(|| tasks.display().to_string())? {
            let stat = entry?.path().join("stat");
            // A thread may end between listing and reading.
            let Ok(text) = std::fs::read_to_string(&stat) else { continue };
            let Some((name, ticks)) = read_stat(&text) else { continue };
            *micros.entry(name).or_default() += ticks * 1_000_000.0 / TICKS_PER_SECOND;
        }
        Ok(Self { micros, others: others.to_vec() })
    }

    /// What was used since `before`. Threads that ended meanwhile are missing.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let micros = self
            .micros
            .iter()
            .map(|(name, now)| {
                let earlier = before.micros.get(name).copied().unwrap_or(0.0);
                (name.clone(), (now - earlier).max(0.0))
            })
            .collect();
        Self { micros, others: self.others.clone() }
    }

    /// Microseconds of the product's threads.
    pub(crate) fn total_micros(&self) -> f64 {
        self.micros.iter().filter(|(name, _)| self.is_product(name)).map(|(_, micros)| micros).sum()
    }

    fn is_product(&self, name: &str) -> bool {
        !self.others.iter().any(|other| name.starts_with(other))
    }

    /// Microseconds per message, by kind of thread, the largest first.
    pub(crate) fn per_message(&self, messages: u64) -> Vec<(String, f64)> {
        let mut all: Vec<(String, f64)> = self
            .micros
            .iter()
            .map(|(name, micros)| (name.clone(), micros / messages as f64))
            .collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        all
    }
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
    fn reads_the_kernels_line() {
        let line = "12 (tokio (x)-3) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 9 0 1";
        assert_eq!(read_stat(line), Some(("tokio (x)".to_string(), 300.0)));
        assert_eq!(read_stat("nonsense"), None);
    }
}
