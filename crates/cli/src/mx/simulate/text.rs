//! The answer of `mx simulate` for people. Tables have room in 100 columns.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::Answer;
use super::tally::Told;
use crate::dry_run::{cut, ending, more, tried};
use crate::output::{count, number, printable, table};

/// Rows of each table; the rest is in the JSON.
const ROWS: usize = 15;
/// Letters of a name in a table.
const NAME: usize = 18;

/// A moment to the minute, without the year.
fn minute(text: Option<&str>) -> String {
    text.and_then(|text| text.get(5..16)).map_or_else(|| "-".to_owned(), |at| at.replace('T', " "))
}

/// `3 s`, `12 min`, `1.5 h`.
fn wait(seconds: f64) -> String {
    match seconds {
        short if short < 120.0 => format!("{short:.0} s"),
        middle if middle < 7_200.0 => format!("{:.0} min", middle / 60.0),
        long if long < 172_800.0 => format!("{:.1} h", long / 3_600.0),
        days => format!("{:.1} d", days / 86_400.0),
    }
}

/// Everything.
pub(super) fn report(answer: &Answer) -> String {
    let mut text = head(answer);
    text += &courses(answer);
    text += &providers(answer);
    text += &hours(answer);
    text += &passed(answer);
    text += &after(answer);
    for fault in &answer.log.faulty_lines {
        let _ = writeln!(text, "{}", printable(fault));
    }
    text + &ending(&answer.notes)
}

fn head(answer: &Answer) -> String {
    let level = answer.level.as_ref().map(|level| format!("level {level}"));
    format!(
        "tried: {}\nthe mail of {}, {} to {}: {}, {}\n\n",
        tried("MX rules", answer.rules.as_deref(), answer.bundle, level),
        count(answer.days.into(), "day"),
        minute(Some(&answer.since.to_string())),
        minute(Some(&answer.now.to_string())),
        count(answer.messages, "message"),
        count(answer.log.in_window, "attempt")
    )
}

fn courses(answer: &Answer) -> String {
    let mut rows = table(&[
        "course", ">in time", ">after", "first", "last", ">half", ">95 %", ">longest", ">1 h+",
    ])
    .leaves_out(&["1 h+", "half", "longest", "first"]);
    let all = &answer.all;
    for (name, told) in [("recorded", &all.recorded), ("in force", &all.now), ("tried", &all.then)]
    {
        let Told { mail_froms, in_window, first_at, last_at, waited, .. } = told;
        rows.add_row([
            name.to_owned(),
            number(*in_window),
            number(mail_froms - in_window),
            minute(first_at.as_deref()),
            minute(last_at.as_deref()),
            wait(waited.median_seconds),
            wait(waited.p95_seconds),
            wait(waited.longest_seconds),
            number(waited.over_hour),
        ]);
    }
    format!(
        "{rows}\nwaited: half of them up to, 95 % up to, the longest; and how many over an hour\n\n"
    )
}

fn providers(answer: &Answer) -> String {
    if answer.providers.is_empty() {
        return String::new();
    }
    let mut rows = table(&[
        "provider",
        ">recorded",
        ">in force",
        ">tried",
        "last",
        "last tried",
        ">95 %",
        ">95 % tried",
    ])
    .leaves_out(&["95 %", "95 % tried", "recorded"]);
    for one in answer.providers.iter().take(ROWS) {
        let courses = &one.courses;
        rows.add_row([
            cut(&one.provider, NAME),
            number(courses.recorded.in_window),
            number(courses.now.in_window),
            number(courses.then.in_window),
            minute(courses.now.last_at.as_deref()),
            minute(courses.then.last_at.as_deref()),
            wait(courses.now.waited.p95_seconds),
            wait(courses.then.waited.p95_seconds),
        ]);
    }
    format!("{rows}\n{}\n", more(answer.providers.len() as u64, ROWS, "provider"))
}

/// Hours in which the two courses differ, over all providers.
fn hours(answer: &Answer) -> String {
    let mut by_hour: BTreeMap<&str, [u64; 3]> = BTreeMap::new();
    for one in &answer.hours {
        let sums = by_hour.entry(&one.hour).or_default();
        for (sum, part) in
            sums.iter_mut().zip([one.counts.recorded, one.counts.now, one.counts.then])
        {
            *sum += part;
        }
    }
    by_hour.retain(|_, sums| sums[1] != sums[2]);
    if by_hour.is_empty() {
        return "no hour in which the tried rules would send more or less than those in force\n\n"
            .to_owned();
    }
    let mut rows = table(&["hour from", ">recorded", ">in force", ">tried"]);
    for (hour, sums) in by_hour.iter().take(ROWS) {
        rows.add_row([minute(Some(hour)), number(sums[0]), number(sums[1]), number(sums[2])]);
    }
    format!("{rows}\n{}\n", more(by_hour.len() as u64, ROWS, "hour"))
}

fn passed(answer: &Answer) -> String {
    if answer.passed.is_empty() {
        return "the recorded mail passed no limit of the tried rules\n\n".to_owned();
    }
    let mut text = format!(
        "the recorded mail passed {} of the tried rules:\n",
        count(answer.passed.len() as u64, "limit")
    );
    let mut rows = table(&[
        "rule",
        "budget",
        ">limit",
        ">most",
        ">by",
        "fullest hour",
        "first passed",
        ">messages",
    ])
    .leaves_out(&["first passed", "messages", "by"]);
    for budget in answer.passed.iter().take(ROWS) {
        rows.add_row([
            cut(&budget.rule, NAME),
            cut(&budget.key, NAME),
            number(budget.limit_per_hour.into()),
            number(budget.maximum),
            format!(
                "{} %",
                number(
                    budget.maximum.saturating_sub(budget.limit_per_hour.into()) * 100
                        / u64::from(budget.limit_per_hour.max(1))
                )
            ),
            minute(Some(&budget.busiest_from)),
            minute(budget.first_passed.as_deref()),
            number(budget.over),
        ]);
    }
    let _ = write!(text, "{rows}\n{}\n", more(answer.passed.len() as u64, ROWS, "limit"));
    text
}

/// What became of the messages.
fn after(answer: &Answer) -> String {
    let mut text = String::new();
    for (name, came) in [("rules in force", &answer.outcome.now), ("tried", &answer.outcome.then)] {
        let _ = writeln!(
            text,
            "{name}: {} sent, {} failed, {} expired; {} wait at the end, the last goes {}",
            number(came.sent),
            number(came.failed),
            number(came.expired),
            number(came.waiting),
            minute(came.finished_at.as_deref())
        );
        for left in came.left.iter().take(3) {
            let _ = writeln!(
                text,
                "  {} for {} cannot go: {}",
                count(left.count, "message"),
                printable(&left.domain),
                printable(&left.reason)
            );
        }
    }
    text += match (answer.limits_held.then, answer.limits_held.now) {
        (true, true) => "both courses held every limit in any 3,600 seconds, says the auditor\n",
        (true, false) => "the course in force passed a limit, says the auditor\n",
        (false, _) => "THE TRIED COURSE PASSED A LIMIT, says the auditor: please report this\n",
    };
    text + "\n"
}
