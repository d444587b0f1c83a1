//! Benchmarks: ratios within one run, never asserted in a test.

use std::path::Path;

use anyhow::{Context as _, bail};

/// Runs `mailweir bench` of the release build with the given words.
pub fn run(workspace: &Path, rest: &[String]) -> anyhow::Result<()> {
    let status = crate::cargo()
        .current_dir(workspace)
        .args(["run", "--quiet", "--release", "--package", "mailweir", "--", "bench"])
        .args(rest)
        .status()
        .context("cargo cannot be started")?;
    if !status.success() {
        bail!("the benchmark failed");
    }
    Ok(())
}
