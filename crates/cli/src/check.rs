//! `mailweir check`: proves the configuration on this machine and in DNS.
//!
//! One line per check: `ok`, `warn` or `FAIL`, what was found, and what to do. The machine is asked
//! first ([`machine`]), then DNS ([`names`], left out with `--offline`). What only DNS says is at most a
//! warning: the node can start, but its mail may be refused. Exit status 1 with any `FAIL`.

use clap::Args;
use node::dns::Resolver;
use serde::Serialize;

use crate::exit::{Ended, Failure, Outcome};
use crate::globals::Globals;
use crate::output::{count, print, print_json, printable};

mod inmail;
mod machine;
mod names;
mod spf;

/// `mailweir check`
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// Do not ask DNS
    #[arg(long)]
    offline: bool,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// The node starts, but something will go less well.
    Warn,
    /// The node will not start or not send.
    Fail,
}

/// A check and what it found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How it ended.
    pub verdict: Verdict,
    /// What was checked: `source s1`, `port 127.0.0.1:2580`.
    pub check: String,
    /// What was found.
    pub found: String,
    /// What to do; empty when there is nothing to do.
    pub mend: String,
}

impl Finding {
    /// As it should be.
    pub fn ok(check: impl Into<String>, found: impl Into<String>) -> Self {
        Self { verdict: Verdict::Ok, check: check.into(), found: found.into(), mend: String::new() }
    }

    /// Something will go less well.
    pub fn warn(
        check: impl Into<String>,
        found: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        let (check, found, mend) = (check.into(), found.into(), mend.into());
        Self { verdict: Verdict::Warn, check, found, mend }
    }

    /// The node will not start or not send.
    pub fn fail(
        check: impl Into<String>,
        found: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self { verdict: Verdict::Fail, ..Self::warn(check, found, mend) }
    }
}

/// What `--format json` answers.
#[derive(Serialize)]
struct Checked<'a> {
    config: String,
    ok: bool,
    failed: usize,
    warnings: usize,
    checks: &'a [Finding],
}

/// Carries the command out.
///
/// # Errors
/// There is no configuration, or it has faults.
pub fn run(globals: &Globals, arguments: &CheckArguments) -> Ended {
    let config = globals.load()?;
    let path = globals.config_path().map(|path| path.display().to_string()).unwrap_or_default();
    let mut findings = vec![Finding::ok("configuration", format!("{path}: no fault"))];
    findings.extend(machine::check(&config));
    if !arguments.offline {
        findings.extend(inmail::mailboxes(&config));
        match Resolver::for_config(&config) {
            Ok(resolver) => {
                findings.extend(crate::runtime()?.block_on(names::check(&config, &resolver)));
            }
            Err(fault) => findings.push(Finding::fail(
                "DNS",
                fault.to_string(),
                "state name servers in [dns] servers",
            )),
        }
    }
    let of = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let (failed, warnings) = (of(Verdict::Fail), of(Verdict::Warn));
    if globals.json() {
        let ok = failed == 0;
        print_json(&Checked { config: path, ok, failed, warnings, checks: &findings })?;
    } else {
        print(&text(&findings, failed, warnings, arguments.offline))?;
    }
    Ok(Outcome::of(failed == 0))
}

/// The findings for people.
fn text(findings: &[Finding], failed: usize, warnings: usize, offline: bool) -> String {
    let width = findings.iter().map(|finding| finding.check.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let word = match finding.verdict {
            Verdict::Ok => "ok  ",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        let (check, found) = (&finding.check, printable(&finding.found));
        text += &format!("{word}  {check:width$}  {found}\n");
        for line in finding.mend.lines() {
            text += &format!("      {:width$}  -> {}\n", "", printable(line));
        }
    }
    let total = count(findings.len() as u64, "check");
    text += &match (failed, warnings) {
        (0, 0) => format!("\n{total}: everything is as it should be"),
        (0, _) => format!("\n{total}: {}, no failure", count(warnings as u64, "warning")),
        _ => format!(
            "\n{total}: {}, {}",
            count(failed as u64, "failure"),
            count(warnings as u64, "warning")
        ),
    };
    if offline {
        text += "; DNS was not asked (--offline)";
    }
    text.push('\n');
    text
}

impl From<Finding> for Vec<Finding> {
    fn from(finding: Finding) -> Self {
        vec![finding]
    }
}

/// A failure of the environment in the form of a finding.
fn failed(check: impl Into<String>, failure: &Failure, mend: &str) -> Finding {
    Finding::fail(check, failure.to_string(), mend)
}
