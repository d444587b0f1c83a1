//! `mailweir bounce classify`: what bounce mails say, of whom, and what that means.
//!
//! One line per recipient found, and one for a mail in which none was found. The words of `kind` are those
//! of programs that know only five kinds (bounce, feedback, auto-reply, delivered, other); our own
//! word stands in `detail`: a notice of delay is a `bounce` there whose `type` is never Hard. Recipients that
//! a report calls delivered are left out where others failed.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use mail::failure::{FailureType, Reason};
use mail::incoming::{self, IncomingMail, MailKind, Report};
use rules::bounce::{BounceJudge, BounceRules, Evidence};
use serde::Serialize;

use super::local_rules;
use crate::exit::{Ended, Failure, Outcome};
use crate::globals::Globals;
use crate::output::{self, count, printable, write_json_line};

/// Folders within folders that are entered.
const FOLDERS_DEEP: usize = 16;

/// `mailweir bounce classify`
#[derive(Debug, Args)]
pub struct ClassifyArguments {
    /// Files of one mail each, folders of such files, or - for one mail on standard input
    #[arg(value_name = "FILE|FOLDER|-", default_value = "-")]
    mails: Vec<PathBuf>,
    /// Local bounce rules, put before the shipped ones
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
}

/// One answer.
#[derive(Serialize)]
struct Answer<'a> {
    file: &'a str,
    kind: &'static str,
    recipient: Option<&'a str>,
    status: Option<String>,
    reply: Option<String>,
    #[serde(rename = "type")]
    failure_type: Option<FailureType>,
    reason: Option<Reason>,
    rule: Option<&'a str>,
    diagnostic: &'a str,
    feedback_type: Option<&'a str>,
    message_id: Option<&'a str>,
    detail: &'static str,
}

/// Carries the command out.
///
/// # Errors
/// A file or folder cannot be read (the others are still answered), faults in the local rules, or the output cannot be written.
pub fn run(globals: &Globals, arguments: &ClassifyArguments) -> Ended {
    let rules = match &arguments.rules {
        Some(path) => std::sync::Arc::new(BounceRules::compile(&local_rules(path)?)),
        None => BounceRules::shipped(),
    };
    let mut judge = BounceJudge::new(rules);
    let mut out = std::io::BufWriter::with_capacity(64 * 1024, std::io::stdout().lock());
    let mut unread = 0;
    let mut octets = Vec::new();
    for named in &arguments.mails {
        if named.as_os_str() == "-" {
            read_mail(&mut std::io::stdin().lock(), &mut octets)?;
            answer(&mut out, globals, "-", &octets, &mut judge)?;
            continue;
        }
        let mut files = Vec::new();
        unread += collect(named, 0, &mut files);
        for path in files {
            let read = File::open(&path).and_then(|mut file| read_mail(&mut file, &mut octets));
            match read {
                Ok(()) => answer(&mut out, globals, &path.to_string_lossy(), &octets, &mut judge)?,
                Err(fault) => {
                    output::say(&format!("{}: {fault}", path.display()));
                    unread += 1;
                }
            }
        }
    }
    out.flush()?;
    match unread {
        0 => Ok(Outcome::Fine),
        _ => Err(Failure::environment(format!("{} could not be read", count(unread, "file")))),
    }
}

/// Reads as much of a mail as is ever looked at, and one octet more so that it shows.
fn read_mail(from: &mut impl Read, octets: &mut Vec<u8>) -> std::io::Result<()> {
    octets.clear();
    from.take(incoming::limits::OCTETS_MAXIMUM as u64 + 1).read_to_end(octets)?;
    Ok(())
}

/// The files under a path in the order of their names; how many paths could not be read.
fn collect(path: &Path, depth: usize, files: &mut Vec<PathBuf>) -> u64 {
    if !path.is_dir() {
        // A pipe that somebody names is meant; one that lies in a folder would be waited for without end.
        if depth > 0 && path.metadata().is_ok_and(|found| !found.is_file()) {
            output::say(&format!("{}: no regular file", path.display()));
            return 1;
        }
        files.push(path.to_owned());
        return 0;
    }
    let listed = std::fs::read_dir(path)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>());
    let mut paths = match listed {
        Ok(paths) if depth < FOLDERS_DEEP => paths,
        Ok(_) => {
            output::say(&format!("{}: too many folders within folders", path.display()));
            return 1;
        }
        Err(fault) => {
            output::say(&format!("{}: {fault}", path.display()));
            return 1;
        }
    };
    // A mailbox has files of its own whose names begin with a point.
    paths.retain(|path| {
        path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b"."))
    });
    paths.sort();
    paths.iter().map(|path| collect(path, depth + 1, files)).sum()
}

/// Writes the lines for one mail.
fn answer(
    out: &mut impl Write,
    globals: &Globals,
    file: &str,
    octets: &[u8],
    judge: &mut BounceJudge,
) -> Result<(), Failure> {
    let mail = incoming::read(octets);
    if !mail.limits_hit.is_empty() {
        let left_out: Vec<String> = mail.limits_hit.iter().map(ToString::to_string).collect();
        output::say(&format!("{file}: left out: {}", left_out.join(", ")));
    }
    let failed = mail.reports.iter().any(|one| public_kind(one.kind) == "bounce");
    let shown = mail.reports.iter().filter(|one| !(failed && one.kind == MailKind::Delivered));
    let mut none = true;
    for report in shown {
        none = false;
        line(out, globals, file, &mail, report, judge)?;
    }
    if none {
        line(out, globals, file, &mail, &Report { kind: mail.kind, ..Report::default() }, judge)?;
    }
    Ok(())
}

/// Writes the line for one recipient.
fn line(
    out: &mut impl Write,
    globals: &Globals,
    file: &str,
    mail: &IncomingMail,
    report: &Report,
    judge: &mut BounceJudge,
) -> Result<(), Failure> {
    let bounce = public_kind(report.kind) == "bounce";
    let verdict = bounce.then(|| judge.judge(&evidence(mail, report), &()).verdict);
    let failure_type = verdict.as_ref().map(|verdict| match (report.kind, verdict.failure_type) {
        // Delivery goes on: whatever the cause, nothing is decided yet.
        (MailKind::Delayed, FailureType::Hard) => FailureType::Soft,
        (_, failure_type) => failure_type,
    });
    let answer = Answer {
        file,
        kind: public_kind(report.kind),
        recipient: report.recipient.as_deref(),
        status: report.status.map(|status| status.to_string()),
        reply: report.reply.map(|reply| reply.to_string()),
        failure_type,
        reason: verdict.as_ref().map(|verdict| verdict.reason),
        rule: verdict.as_ref().map(|verdict| &*verdict.rule),
        diagnostic: &report.diagnostic,
        feedback_type: Some(report.feedback_type.as_str()).filter(|kind| !kind.is_empty()),
        message_id: mail
            .returned
            .as_ref()
            .and_then(|returned| returned.message_ids.first())
            .map(String::as_str),
        detail: report.kind.word(),
    };
    if globals.json() {
        return Ok(write_json_line(out, &answer)?);
    }
    let word = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    writeln!(
        out,
        "{} {} {} {} {} {} {} {}",
        printable(file),
        answer.detail,
        printable(answer.recipient.unwrap_or("-")),
        word(answer.status),
        word(answer.reply),
        word(answer.failure_type.map(|kind| kind.to_string())),
        word(answer.reason.map(|reason| reason.to_string())),
        printable(answer.diagnostic)
    )?;
    Ok(())
}

/// The kind in the words of programs that know only five.
const fn public_kind(kind: MailKind) -> &'static str {
    match kind {
        MailKind::Bounce | MailKind::Delayed => "bounce",
        MailKind::Feedback => "feedback",
        MailKind::AutoReply | MailKind::Challenge => "auto-reply",
        MailKind::Delivered => "delivered",
        MailKind::Unsubscribe | MailKind::Other => "other",
    }
}

/// What the bounce rules are asked about a failed recipient.
#[must_use]
pub fn evidence<'a>(mail: &'a IncomingMail, report: &'a Report) -> Evidence<'a> {
    let domain = report.recipient.as_deref().and_then(|address| address.rsplit_once('@'));
    Evidence {
        reply: report.reply,
        status: report.status,
        diagnostic: &report.diagnostic,
        subject: &mail.subject,
        body: &mail.text,
        header: &mail.header,
        provider: match domain {
            _ if !report.remote_mta.is_empty() => &report.remote_mta,
            Some((_, domain)) => domain,
            None => "",
        },
        ..Evidence::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classified(mail: &str) -> Vec<serde_json::Value> {
        let globals = Globals { format: crate::globals::Format::Json, ..Globals::default() };
        let mut out = Vec::new();
        let mut judge = BounceJudge::new(BounceRules::shipped());
        answer(&mut out, &globals, "a.eml", mail.as_bytes(), &mut judge).unwrap();
        out.split(|octet| *octet == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }

    #[test]
    fn answers_one_line_per_recipient_with_the_agreed_keys() {
        let lines = classified(
            "Return-Path: <>\nFrom: MAILER-DAEMON@example.net\nTo: sender@example.com\nSubject: failure notice\n\n\
             Hi. This is the qmail-send program at example.net.\n\n<a@example.org>:\n192.0.2.1 does not like recipient.\n\
             Remote host said: 550 5.1.1 User unknown\n\n<b@example.org>:\nUser's mailbox is over quota. (#5.2.2)\n",
        );
        let keys: Vec<_> = lines[0].as_object().unwrap().keys().cloned().collect();
        let mut wanted = [
            "file",
            "kind",
            "recipient",
            "status",
            "reply",
            "type",
            "reason",
            "rule",
            "diagnostic",
            "feedback_type",
            "message_id",
            "detail",
        ];
        wanted.sort_unstable();
        let mut sorted = keys.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, wanted);
        assert_eq!(lines.len(), 2);
        assert_eq!(
            (&lines[0]["recipient"], &lines[0]["reply"]),
            (&"a@example.org".into(), &"550".into())
        );
        assert_eq!(
            (&lines[1]["recipient"], &lines[1]["status"]),
            (&"b@example.org".into(), &"5.2.2".into())
        );
        assert_eq!(lines[0]["type"], "Hard");
    }

    #[test]
    fn a_notice_of_delay_is_never_hard_and_ordinary_mail_has_one_line() {
        let lines = classified(
            "Return-Path: <>\nFrom: MAILER-DAEMON@example.net\nTo: sender@example.com\nSubject: Warning: message delayed\n\
             Content-Type: multipart/report; report-type=delivery-status; boundary=x\n\n--x\n\nStill trying.\n\n--x\n\
             Content-Type: message/delivery-status\n\nReporting-MTA: dns; mx\n\nFinal-Recipient: rfc822; a@example.org\n\
             Action: delayed\nStatus: 4.1.1\nDiagnostic-Code: smtp; 450 4.1.1 User unknown\n\n--x--\n",
        );
        assert_eq!((&lines[0]["kind"], &lines[0]["detail"]), (&"bounce".into(), &"delayed".into()));
        assert_ne!(lines[0]["type"], "Hard");
        let lines =
            classified("From: a@example.com\nTo: b@example.com\nSubject: Lunch\n\nAt noon?\n");
        assert_eq!(lines.len(), 1);
        assert_eq!(
            (&lines[0]["kind"], &lines[0]["recipient"]),
            (&"other".into(), &serde_json::Value::Null)
        );
    }
}
