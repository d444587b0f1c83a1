//! `mailweir bench bounce`: how fast replies and bounce mails are judged, on one core.
//!
//! The replies are the examples of the shipped rules; with `--replies` those of a file, one a line or JSON
//! objects `{"text"}`. Each is sent many times with another address, queue id and IP address, as
//! servers do. The mails are bounces in three forms made of those replies; with `--mails` those of a
//! folder. The admission set is that which a recipient meets at intake and before the sending. Time is that of the processor, so a busy machine spoils nothing but its caches.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use engine::quarantine::{AddressHash, AdmissionSet, Mark, State};
use mail::failure::Reason;
use mail::incoming;
use rules::bounce::{
    BounceJudge, BounceRuleFile, BounceRules, Evidence, Key, SHIPPED_BOUNCE_TOML, normalise,
    shipped_bounce_rules,
};
use serde::Serialize;

use super::cpu::timed;
use crate::output::number;

/// Arguments of `mailweir bench bounce`.
#[derive(Clone, Debug, Args)]
pub struct BounceBenchArguments {
    /// A file of replies, one a line or JSON objects {"text"} [default: the examples of the rules]
    #[arg(long, value_name = "FILE")]
    replies: Option<PathBuf>,
    /// A folder of bounce mails [default: mails made of the replies]
    #[arg(long, value_name = "FOLDER")]
    mails: Option<PathBuf>,
    /// A tenth of the rounds: to see that it works, not to be quoted
    #[arg(long)]
    quick: bool,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Figures {
    replies: usize,
    reply_octets: usize,
    mails: usize,
    mail_octets: usize,
    rules: usize,
    /// Milliseconds to read and check the shipped rules with all their examples.
    check_ms: f64,
    /// Milliseconds to make a set of rules that are read.
    compile_ms: f64,
    /// Milliseconds for the first round, in which patterns are compiled as they are needed.
    first_round_ms: f64,
    /// KiB of resident memory that reading, checking and using the rules took.
    rules_kib: u64,
    /// KiB of it that the search for their words takes.
    search_kib: u64,
    /// Per second and core.
    normalised_and_keyed: f64,
    judged_cold: f64,
    judged_cached: f64,
    mails_read: f64,
    mails_read_and_judged: f64,
    mails_read_and_judged_cold: f64,
    /// Addresses asked for in an admission set of [`QUARANTINED`].
    admitted: f64,
    /// KiB of that set.
    admission_kib: u64,
}

/// Addresses in the admission set that is measured.
const QUARANTINED: u32 = 1_000_000;

/// Measures.
///
/// # Errors
/// A file or folder cannot be read, or the system has no clock per thread.
pub fn run(arguments: &BounceBenchArguments) -> anyhow::Result<Figures> {
    let rounds = if arguments.quick { 20 } else { 200 };
    let replies = match &arguments.replies {
        Some(path) => read_replies(path)?,
        None => examples(),
    };
    let mails = match &arguments.mails {
        Some(folder) => read_mails(folder)?,
        None => replies.iter().enumerate().map(|(number, reply)| bounce(number, reply)).collect(),
    };
    let memory = resident_kib()?;
    let (file, check) = timed(|| BounceRuleFile::parse("rules/bounce.toml", SHIPPED_BOUNCE_TOML))?;
    let file = file.map_err(|faults| anyhow::anyhow!(crate::mx::render(&faults)))?;
    let (rules, compile) = timed(|| Arc::new(BounceRules::compile(&file)))?;
    let judge_all = || {
        for reply in &replies {
            core::hint::black_box(rules.classify(&Evidence::reply(reply, "")));
        }
    };
    let ((), first_round) = timed(judge_all)?;
    let rules_kib = resident_kib()?.saturating_sub(memory);
    let varied: Vec<Vec<String>> =
        (0..4).map(|turn| replies.iter().map(|reply| vary(reply, turn)).collect()).collect();
    let texts = || varied.iter().cycle().take(rounds).flatten();
    let per_second = |count: usize, seconds: f64| count as f64 / seconds;
    let ((), keyed) = timed(|| {
        for text in texts() {
            core::hint::black_box(Key::of(&normalise(text)));
        }
    })?;
    let ((), cold) = timed(|| {
        for text in texts() {
            core::hint::black_box(rules.classify(&Evidence::reply(text, "")));
        }
    })?;
    let mut judge = BounceJudge::new(Arc::clone(&rules));
    let mut judge_texts = |rounds: usize| {
        for text in varied.iter().cycle().take(rounds).flatten() {
            core::hint::black_box(judge.judge(&Evidence::reply(text, ""), &()).verdict.reason);
        }
    };
    judge_texts(4);
    let ((), cached) = timed(|| judge_texts(rounds))?;
    let mail_rounds = (rounds / 4).max(1);
    // The reader builds its tables at the first mail.
    mails.iter().for_each(|octets| drop(core::hint::black_box(incoming::read(octets))));
    let ((), read) = timed(|| {
        for octets in mails.iter().cycle().take(mails.len() * mail_rounds) {
            core::hint::black_box(incoming::read(octets));
        }
    })?;
    let ((), judged) = timed(|| {
        for octets in mails.iter().cycle().take(mails.len() * mail_rounds) {
            let mail = incoming::read(octets);
            for report in &mail.reports {
                let evidence = crate::bounce::evidence(&mail, report);
                core::hint::black_box(judge.judge(&evidence, &()).verdict.reason);
            }
        }
    })?;
    let ((), judged_cold) = timed(|| {
        for octets in mails.iter().cycle().take(mails.len() * mail_rounds) {
            let mail = incoming::read(octets);
            for report in &mail.reports {
                core::hint::black_box(rules.classify(&crate::bounce::evidence(&mail, report)));
            }
        }
    })?;
    let (admission, asked) = admission();
    let ((), admitted) = timed(|| {
        for address in &asked {
            core::hint::black_box(admission.admit_address(address).is_ok());
        }
    })?;
    Ok(Figures {
        replies: replies.len(),
        reply_octets: replies.iter().map(String::len).sum(),
        mails: mails.len(),
        mail_octets: mails.iter().map(Vec::len).sum(),
        rules: rules.len(),
        check_ms: check * 1_000.0,
        compile_ms: compile * 1_000.0,
        first_round_ms: first_round * 1_000.0,
        rules_kib,
        normalised_and_keyed: per_second(replies.len() * rounds, keyed),
        judged_cold: per_second(replies.len() * rounds, cold),
        judged_cached: per_second(replies.len() * rounds, cached),
        mails_read: per_second(mails.len() * mail_rounds, read),
        mails_read_and_judged: per_second(mails.len() * mail_rounds, judged),
        mails_read_and_judged_cold: per_second(mails.len() * mail_rounds, judged_cold),
        admitted: per_second(asked.len(), admitted),
        admission_kib: admission.octets() as u64 / 1024,
        search_kib: rules.search_octets() as u64 / 1024,
    })
}

/// The figures for people.
#[must_use]
pub fn text(figures: &Figures) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name:<42} {value:>16}");
    };
    let rate = |rate: f64| format!("{} /s", number(rate as u64));
    line("rules", number(figures.rules as u64));
    line("rules read, all examples tried", format!("{:.0} ms", figures.check_ms));
    line("rules made ready", format!("{:.1} ms", figures.compile_ms));
    line("first round, patterns compiled", format!("{:.1} ms", figures.first_round_ms));
    line("memory that all this took", format!("{} KiB", number(figures.rules_kib)));
    line("memory of the search for their words", format!("{} KiB", number(figures.search_kib)));
    line("replies", number(figures.replies as u64));
    line("replies normalised and keyed", rate(figures.normalised_and_keyed));
    line("replies judged without the cache", rate(figures.judged_cold));
    line("replies judged with the cache", rate(figures.judged_cached));
    line("mails", number(figures.mails as u64));
    line("mails read", rate(figures.mails_read));
    line("mails read and judged", rate(figures.mails_read_and_judged));
    line("  without the cache", rate(figures.mails_read_and_judged_cold));
    line("addresses asked for at admission", rate(figures.admitted));
    line("memory of a million quarantined ones", format!("{} KiB", number(figures.admission_kib)));
    out.push_str("per second of processor time, on one core");
    out
}

/// A set with [`QUARANTINED`] addresses, and addresses of which half are in it.
fn admission() -> (AdmissionSet, Vec<String>) {
    let address = |number: u32| format!("somebody.{number}@example.com");
    let mut set = AdmissionSet::new();
    let mark = Mark::of(State::Quarantined, Some(Reason::UserUnknown));
    for number in 0..QUARANTINED {
        set.put(&AddressHash::of(&address(number)), Some(mark));
    }
    // Far apart, as those of a list are.
    let asked =
        (0..QUARANTINED).map(|number| address(number.wrapping_mul(7_919) % (2 * QUARANTINED)));
    (set, asked.collect())
}

fn resident_kib() -> anyhow::Result<u64> {
    const FILE: &str = "/proc/self/status";
    let text = std::fs::read_to_string(FILE).context(FILE)?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let digits = line.and_then(|line| line.split_whitespace().next());
    digits.and_then(|digits| digits.parse().ok()).context("/proc/self/status has no VmRSS")
}

/// The texts of the examples of the shipped rules.
fn examples() -> Vec<String> {
    let rules = shipped_bounce_rules().rules().iter();
    let examples = rules.flat_map(|rule| &rule.matches).filter(|example| !example.text.is_empty());
    examples.map(|example| example.text.to_string()).collect()
}

fn read_replies(path: &Path) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let of_line = |line: &str| match serde_json::from_str::<serde_json::Value>(line) {
        Ok(serde_json::Value::Object(object)) => {
            object.get("text").and_then(|text| text.as_str()).unwrap_or_default().to_owned()
        }
        _ => line.to_owned(),
    };
    let replies: Vec<String> =
        text.lines().filter(|line| !line.trim().is_empty()).map(of_line).collect();
    anyhow::ensure!(!replies.is_empty(), "{} holds no reply", path.display());
    Ok(replies)
}

fn read_mails(folder: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut mails = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_file() {
            mails.push(std::fs::read(&path).with_context(|| path.display().to_string())?);
        }
    }
    anyhow::ensure!(!mails.is_empty(), "{} holds no mail", folder.display());
    Ok(mails)
}

/// A reply as it is sent for another mail: other address, id and IP address.
fn vary(reply: &str, turn: usize) -> String {
    let address = format!("{}.{turn}@example.com", ["jane", "john", "mary", "paul"][turn % 4]);
    let address = reply.replace("jane@example.com", &address);
    format!(
        "{} (4Q{turn}F{}B2C{turn})",
        address.replace("192.0.2.1", &format!("192.0.2.{turn}7")),
        7_000 + turn
    )
}

/// A bounce mail about a reply, in one of three forms.
fn bounce(number: usize, reply: &str) -> Vec<u8> {
    let reply = reply.replace('\n', " ");
    let head = "Return-Path: <>\r\nFrom: MAILER-DAEMON@mx.example.net\r\nTo: bounce@example.org\r\n\
                Date: Sat, 21 Nov 2026 10:00:00 +0000\r\n";
    let original = "Message-ID: <1@example.org>\r\nFrom: news@example.org\r\nTo: jane@example.com\r\n\
                    Subject: The news of this week\r\n\r\nHello Jane\r\n";
    match number % 3 {
        0 => format!(
            "{head}Subject: Undelivered Mail Returned to Sender\r\nMIME-Version: 1.0\r\n\
             Content-Type: multipart/report; report-type=delivery-status; boundary=\"b\"\r\n\r\n--b\r\n\
             Content-Type: text/plain; charset=us-ascii\r\n\r\nThis is the mail system at host mx.example.net.\r\n\
             I'm sorry to have to inform you that your message could not be delivered.\r\n\r\n\
             <jane@example.com>: host mx.example.com[192.0.2.1] said: {reply} (in reply to RCPT TO command)\r\n\r\n\
             --b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.example.net\r\n\r\n\
             Final-Recipient: rfc822; jane@example.com\r\nAction: failed\r\nStatus: 5.0.0\r\n\
             Remote-MTA: dns; mx.example.com\r\nDiagnostic-Code: smtp; {reply}\r\n\r\n\
             --b\r\nContent-Type: message/rfc822\r\n\r\n{original}\r\n--b--\r\n"
        ),
        1 => format!(
            "{head}Subject: failure notice\r\n\r\nHi. This is the qmail-send program at mx.example.net.\r\n\
             I'm afraid I wasn't able to deliver your message to the following addresses.\r\n\
             This is a permanent error; I've given up. Sorry it didn't work out.\r\n\r\n<jane@example.com>:\r\n\
             192.0.2.1 failed after I sent the message.\r\nRemote host said: {reply}\r\n\r\n\
             --- Below this line is a copy of the message.\r\n\r\n{original}"
        ),
        _ => format!(
            "{head}Subject: Mail delivery failed: returning message to sender\r\nX-Failed-Recipients: jane@example.com\r\n\r\n\
             This message was created automatically by mail delivery software.\r\n\r\n\
             A message that you sent could not be delivered to one or more of its\r\n\
             recipients. This is a permanent error. The following address(es) failed:\r\n\r\n  jane@example.com\r\n    \
             SMTP error from remote mail server after RCPT TO:<jane@example.com>:\r\n    host mx.example.com [192.0.2.1]: {reply}\r\n\r\n\
             ------ This is a copy of the message, including all the headers. ------\r\n\r\n{original}"
        ),
    }
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mails_it_makes_are_read_as_bounces() {
        for (number, reply) in examples().iter().take(30).enumerate() {
            let mail = incoming::read(&bounce(number, reply));
            assert_eq!(mail.reports.len(), 1, "{number} {reply}");
            assert_eq!(mail.reports[0].recipient.as_deref(), Some("jane@example.com"), "{reply}");
        }
    }
}
