//! The answer of `bounce simulate` for people.

use std::fmt::Write as _;

use engine::quarantine::{Addresses, Change, Difference, Said, TrialReport};
use mail::failure::Reason;
use mail::time::Timestamp;

use super::Answer;
use crate::dry_run::{cut, ending, more, tried};
use crate::output::{count, number, table};
use crate::quarantine::text::addresses_count;

/// Rows of each table; the rest is in the JSON.
const ROWS: usize = 12;
/// Letters of a rule's name in a table.
const NAME: usize = 26;
/// Letters of a text below its row.
const TEXT: usize = 90;

fn minute(at: Timestamp) -> String {
    let text = at.to_string();
    text.get(..16).map_or_else(|| text.clone(), |text| text.replace('T', " "))
}

/// `User unknown, Hard`.
fn meaning(said: &Said) -> String {
    format!("{}, {}", said.meaning.reason, said.meaning.failure_type)
}

/// Everything.
pub(super) fn report(answer: &Answer) -> String {
    let report = &answer.report;
    let mut text = head(answer);
    text += &texts(report);
    text += &entries(report);
    text += &addresses(&report.addresses);
    text += &holds(report);
    text + &ending(&answer.notes)
}

fn head(answer: &Answer) -> String {
    let policy = answer.policy.as_ref().map(|file| format!("[quarantine] of {file}"));
    let since = match answer.since {
        Timestamp::EPOCH => "all that is recorded".to_owned(),
        since => format!("recorded since {}", minute(since)),
    };
    let tried = tried("bounce rules", answer.rules.as_deref(), answer.bundle, policy);
    format!("tried: {tried}; {since}\n\n")
}

fn texts(report: &TrialReport) -> String {
    let texts = &report.texts;
    if texts.looked_at == 0 {
        return String::new();
    }
    let mut text = format!(
        "texts: {} of {} would mean something else (met {} of {} times); to qualify: {} now, {} then\n",
        number(texts.changed),
        number(texts.looked_at),
        number(texts.changed_occurrences),
        number(texts.occurrences),
        number(texts.to_qualify_now),
        number(texts.to_qualify_then)
    );
    for one in texts.list.iter().take(ROWS) {
        let _ = write!(
            text,
            "\n  {} {}\n    met {}\n    now:  {} by {}\n    then: {} by {}\n",
            one.key,
            cut(&one.host, NAME * 2),
            count(one.occurrences.into(), "time"),
            meaning(&one.was),
            cut(&one.was.rule, NAME * 2),
            meaning(&one.would_be),
            cut(&one.would_be.rule, NAME * 2),
        );
        let _ = writeln!(text, "    {}", cut(&one.text, TEXT));
    }
    text + "\n" + &more(texts.changed, ROWS, "text") + "\n"
}

fn entries(report: &TrialReport) -> String {
    let entries = &report.entries;
    if entries.judged == 0 {
        return String::new();
    }
    let mut text = format!(
        "failures: {} of {} would mean something else, of {}\n",
        number(entries.changed),
        number(entries.judged),
        count(entries.messages, "message")
    );
    if entries.pairs.is_empty() {
        return text + "\n";
    }
    let mut rows =
        table(&["rule now", "rule then", "reason now", "then", ">failures", ">messages"]);
    for pair in entries.pairs.iter().take(ROWS) {
        rows.add_row([
            cut(&pair.was.rule, NAME),
            cut(&pair.would_be.rule, NAME),
            pair.was.meaning.reason.to_string(),
            pair.would_be.meaning.reason.to_string(),
            number(pair.entries),
            number(pair.messages),
        ]);
    }
    let _ = writeln!(text, "\n{rows}");
    text + &more(entries.pairs.len() as u64, ROWS, "row") + "\n"
}

fn addresses(addresses: &Addresses) -> String {
    let mut text = format!("{} looked at\n", addresses_count(addresses.looked_at));
    for (words, difference) in [
        ("would be quarantined", &addresses.quarantined),
        ("would be freed", &addresses.freed),
        ("would stand otherwise, refused or not as now", &addresses.otherwise),
    ] {
        text += &one_difference(words, difference);
    }
    text + "\n"
}

fn one_difference(words: &str, difference: &Difference) -> String {
    let mut text = format!("{} {words}\n", number(difference.addresses));
    if difference.examples.is_empty() {
        return text;
    }
    let side = |state: &str, reason: Option<Reason>| match reason {
        Some(reason) => format!("{state}: {reason}"),
        None => state.to_owned(),
    };
    let mut rows = table(&["address", "now", "then"]);
    for Change { address, before, after, .. } in difference.examples.iter().take(ROWS) {
        rows.add_row([
            cut(address, 38),
            side(before.state.word(), before.reason),
            side(after.state.word(), after.reason),
        ]);
    }
    let _ = writeln!(text, "{rows}");
    text + &more(difference.addresses, ROWS, "row") + "\n"
}

fn holds(report: &TrialReport) -> String {
    let mut text = String::new();
    for hold in &report.holds {
        let _ = writeln!(
            text,
            "hold {} over {} keeps {} back: {} say user unknown now, {} then",
            hold.hold,
            cut(&hold.provider, NAME * 2),
            count(hold.entries, "failure"),
            number(hold.unknown),
            number(hold.unknown_then)
        );
    }
    for doubt in report.doubts.iter().take(ROWS) {
        let _ = writeln!(
            text,
            "{} on {}: {} of {} outcomes would be user unknown ({} now), usual are {}.{} %: the outage guard \
             would hold them back",
            cut(&doubt.provider, NAME),
            doubt.day,
            number(doubt.unknown_then.into()),
            number(doubt.outcomes.into()),
            number(doubt.unknown.into()),
            doubt.usual_permille / 10,
            doubt.usual_permille % 10
        );
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text
}
