//! The figures as Markdown, ready for docs/performance.md.

use std::fmt::Write as _;

use super::Report;
use super::costs::CostFigure;
use super::forecast::ForecastFigure;
use super::path::Figure;
use super::queue::QueueFigure;
use crate::output::number;

/// All tables for which there are figures.
pub(super) fn text(report: &Report) -> String {
    let mut text = String::new();
    let tables = [
        path(&report.path),
        queues(&report.queues),
        costs(&report.costs),
        forecasts(&report.forecasts),
    ];
    for table in tables.iter().filter(|table| !table.is_empty()) {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(table);
    }
    text
}

/// A whole number of something that was measured.
fn whole(value: f64) -> String {
    // Rates and sizes are positive and far below 2^53.
    number(value.round() as u64)
}

fn share(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "–".to_owned())
}

/// A whole table; empty where there are no rows.
fn table(head: &str, columns: &str, rows: impl Iterator<Item = String>) -> String {
    let rows: String = rows.map(|row| format!("| {row} |\n")).collect();
    if rows.is_empty() { rows } else { format!("| {head} |\n|{columns}|\n{rows}") }
}

fn path(figures: &[Figure]) -> String {
    let row = |figure: &Figure| {
        let mut share_of = or_dash(figure.of_ceiling.map(share));
        if let Some(of) = figure.of_bare_rsa {
            let _ = write!(share_of, "; {} of bare RSA", share(of));
        }
        let octets = figure.octets_per_second.map(|octets| format!("{:.1}", octets / 1e6));
        let threads = figure.cpu_by_thread.iter().filter(|(_, micros)| *micros >= 0.5);
        let threads: Vec<String> =
            threads.map(|(name, micros)| format!("{name} {micros:.1}")).collect();
        [
            figure.scenario.clone(),
            number(figure.messages),
            format!("{:.2}", figure.seconds),
            whole(figure.per_second),
            or_dash(octets),
            share_of,
            or_dash(figure.cpu_micros.map(|micros| format!("{micros:.1}"))),
            threads.join(", "),
            figure.aim.unwrap_or_default().to_owned(),
        ]
        .join(" | ")
    };
    table(
        "scenario | messages | seconds | a second | MB a second | of ceiling | CPU µs a message | where | aim",
        "---|--:|--:|--:|--:|--:|--:|---|---",
        figures.iter().map(row),
    )
}

/// A row of the table of queues: its head, its aim, and what it says of each queue.
type QueueRow = (&'static str, &'static str, fn(&QueueFigure) -> String);

const QUEUE_ROWS: [QueueRow; 13] = [
    ("accepted in", "a million in 7 s", |queue| format!("{:.1} s", queue.accepted_seconds)),
    ("accepted a second", "", |queue| whole(queue.accepted_per_second)),
    ("CPU µs a message accepted", "", |queue| format!("{:.1}", queue.accepted_cpu_micros)),
    ("data folder", "", |queue| format!("{} MiB", number(queue.disk_bytes >> 20))),
    ("octets of disk a message", "", |queue| number(queue.disk_bytes / queue.messages)),
    ("memory while all wait", "300 MB", |queue| mebibytes(queue.waiting_kib)),
    ("most memory while accepting", "", |queue| mebibytes(queue.accepting_peak_kib)),
    ("most memory while delivering", "300 MB", |queue| mebibytes(queue.delivering_peak_kib)),
    ("SIGTERM to the end of the process", "", |queue| format!("{:.2} s", queue.stop_seconds)),
    ("start after SIGTERM to the first message out", "5 s", |queue| {
        format!("{:.2} s", queue.first_after_stop_seconds)
    }),
    ("start after SIGKILL to the first message out, 2 s of it waited on purpose", "5 s", |queue| {
        format!("{:.2} s", queue.first_after_kill_seconds)
    }),
    ("drained a second, from the first message to the last", "25,000 by SMTP", |queue| {
        or_dash(queue.drain.as_ref().map(|drain| whole(drain.per_second)))
    }),
    ("CPU µs a message drained", "", |queue| {
        or_dash(queue.drain.as_ref().map(|drain| format!("{:.1}", drain.cpu_micros)))
    }),
];

fn mebibytes(kib: u64) -> String {
    format!("{} MiB", number(kib >> 10))
}

fn queues(queues: &[QueueFigure]) -> String {
    if queues.is_empty() {
        return String::new();
    }
    let names: Vec<&str> = queues.iter().map(|queue| queue.queue.as_str()).collect();
    table(
        &format!("queue | {} | aim", names.join(" | ")),
        &format!("---|{}---", "--:|".repeat(queues.len())),
        QUEUE_ROWS.iter().map(|(head, aim, cell)| {
            let cells: Vec<String> = queues.iter().map(cell).collect();
            format!("{head} | {} | {aim}", cells.join(" | "))
        }),
    )
}

fn costs(figures: &[CostFigure]) -> String {
    let row = |figure: &CostFigure| {
        let runs: Vec<String> = figure.runs.iter().map(|cpu| format!("{cpu:.1}")).collect();
        let difference = figure.difference_micros.zip(figure.against).map(|(micros, against)| {
            let of = micros / (figure.cpu_micros - micros) * 100.0;
            format!("{micros:+.1} ({of:+.0} %) against \"{against}\"")
        });
        [
            figure.variant.to_owned(),
            number(figure.messages),
            whole(figure.per_second),
            format!("{:.1}", figure.cpu_micros),
            runs.join(", "),
            or_dash(difference),
        ]
        .join(" | ")
    };
    table(
        "delivery of a campaign with | messages | a second | CPU µs a message | all runs | cost, µs a message",
        "---|--:|--:|--:|---|---",
        figures.iter().map(row),
    )
}

fn forecasts(figures: &[ForecastFigure]) -> String {
    let row = |figure: &ForecastFigure| {
        format!(
            "{} | {} | {:.1} | {:.1} | {:.1} | {}",
            number(figure.recipients),
            number(figure.domains),
            figure.seconds,
            figure.cpu_seconds,
            figure.days_foreseen,
            if figure.recipients == 10_000_000 { "10 s" } else { "" }
        )
    };
    table(
        "forecast for recipients | domains | seconds | CPU seconds | days foreseen | aim",
        "--:|--:|--:|--:|--:|---",
        figures.iter().map(row),
    )
}

#[cfg(test)]
mod tests {
    use super::super::queue::Drain;
    use super::*;

    #[test]
    fn tables_are_whole_and_only_of_what_was_measured() {
        let queue = QueueFigure {
            queue: "queue of 1,000,000 campaign recipients".into(),
            messages: 1_000_000,
            accepted_seconds: 6.4,
            accepted_per_second: 156_250.0,
            accepted_cpu_micros: 7.0,
            disk_bytes: 213 << 20,
            accepting_peak_kib: 120 << 10,
            waiting_kib: 114 << 10,
            stop_seconds: 0.1,
            first_after_stop_seconds: 0.08,
            first_after_kill_seconds: 2.1,
            delivering_peak_kib: 133 << 10,
            drain: None,
        };
        let drain =
            Some(Drain { messages: 9, seconds: 1.0, per_second: 9_000.0, cpu_micros: 55.5 });
        let report = Report {
            queues: vec![queue.clone(), QueueFigure { drain, ..queue }],
            forecasts: vec![ForecastFigure {
                recipients: 10_000_000,
                domains: 10,
                seconds: 9.0,
                cpu_seconds: 8.9,
                days_foreseen: 12.0,
            }],
            ..Report::default()
        };
        let text = text(&report);
        let blocks: Vec<Vec<&str>> =
            text.split("\n\n").map(|block| block.lines().collect()).collect();
        assert_eq!(blocks.len(), 2, "{text}");
        for lines in &blocks {
            let columns = |line: &str| line.matches('|').count();
            assert!(lines.iter().all(|line| columns(line) == columns(lines[0])), "{text}");
        }
        assert_eq!(blocks[0].len(), QUEUE_ROWS.len() + 2);
        assert!(text.contains("| memory while all wait | 114 MiB | 114 MiB | 300 MB |"), "{text}");
        assert!(text.contains("| CPU µs a message drained | – | 55.5 |  |"), "{text}");
        assert!(text.contains("| 10,000,000 | 10 | 9.0 | 8.9 | 12.0 | 10 s |"), "{text}");
    }
}
