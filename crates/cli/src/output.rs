//! Writing results, tables and times.
//!
//! Tables follow the width of the terminal and have no bound when the output is a file or a pipe;
//! nothing is coloured.

use std::io::Write as _;
use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};
use mail::reply::{escaped_json, is_deceptive};
use mail::time::Timestamp;
use serde::Serialize;
use serde_json::Value;

use crate::exit::Failure;

/// Writes to standard output. Blanks at the ends of lines (tables have them) are left out, and a line
/// end is added where there is none.
///
/// # Errors
/// The pipe is closed, or the output cannot be written.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for line in text.lines() {
        out.write_all(line.trim_end_matches(' ').as_bytes())?;
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(())
}

/// Writes a value as JSON, indented. What would steer a terminal stands escaped in its texts.
///
/// # Errors
/// As [`print`].
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|fault| Failure::environment(format!("cannot write JSON: {fault}")))?;
    print(&escaped_json(text))
}

/// Writes a value as one line of JSON, escaped like [`print_json`].
///
/// # Errors
/// `out` cannot be written.
pub fn write_json_line(
    out: &mut impl std::io::Write,
    value: &impl Serialize,
) -> std::io::Result<()> {
    let text = serde_json::to_string(value).map_err(std::io::Error::from)?;
    out.write_all(escaped_json(text).as_bytes())?;
    out.write_all(b"\n")
}

/// Says something on standard error. That it cannot be said is nobody's fault.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// An empty table with these columns, with a line below its header and no other; a name that begins with `>` is a column of numbers.
#[must_use]
pub fn table(columns: &[&str]) -> Table {
    const LINE: LineStyle = LineStyle::none().fill('─').junction('─');
    let mut table = Table::new();
    table.load_style(TableStyle::new().header_separator(LINE));
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(columns.iter().map(|name| name.trim_start_matches('>')));
    for (place, name) in columns.iter().enumerate() {
        if name.starts_with('>')
            && let Some(column) = table.column_mut(place)
        {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// The width of the terminal on standard output; `None`: it is none, and nothing bounds a line.
#[must_use]
pub fn terminal_width() -> Option<u16> {
    Table::new().width()
}

/// Whether a table has room in so many columns without a line broken.
#[must_use]
pub fn fits(rows: &Table, width: Option<u16>) -> bool {
    let Some(width) = width else { return true };
    let mut free = rows.clone();
    free.set_content_arrangement(ContentArrangement::Disabled);
    free.lines().all(|line| line.trim_end().chars().count() <= usize::from(width))
}

/// A text broken at blanks so that it fits behind `indent` columns; further lines are indented so far.
#[must_use]
pub fn behind(indent: usize, text: &str, terminal: Option<u16>) -> String {
    let Some(width) = terminal.map(usize::from).filter(|width| *width > indent + 20) else {
        return text.to_owned();
    };
    let (mut out, mut used) = (String::new(), indent);
    for word in text.split(' ') {
        let long = word.chars().count();
        if used > indent && used + 1 + long > width {
            out += &format!("\n{:indent$}", "");
            used = indent;
        } else if used > indent {
            out.push(' ');
            used += 1;
        }
        out.push_str(word);
        used += long;
    }
    out
}

/// A number with thousands separated: `140,000`.
#[must_use]
pub fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 rule`, `2 rules`.
#[must_use]
pub fn count(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", number(count), if count == 1 { "" } else { "s" })
}

/// A moment of a node's answer (microseconds since the epoch, or already a text) for people; `-` when
/// there is none.
#[must_use]
pub fn moment(value: Option<&Value>) -> String {
    match value {
        Some(Value::Number(micros)) => micros.as_u64().map_or_else(
            || micros.to_string(),
            |micros| Timestamp::from_micros(micros).to_string(),
        ),
        Some(Value::String(text)) => printable(text),
        _ => "-".to_owned(),
    }
}

/// `3 h 10 min`; minutes are rounded up.
#[must_use]
pub fn span(span: Duration) -> String {
    let minutes = span.as_secs().div_ceil(60);
    match (minutes / 1_440, minutes / 60 % 24, minutes % 60) {
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, 0) => format!("{hours} h"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, 0, _) => format!("{days} d"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// A moment with its distance, if it is to come: `2026-11-21T11:06:38.896Z (in 1 h 5 min)`.
#[must_use]
pub fn moment_ahead(value: Option<&Value>, now: Timestamp) -> String {
    let text = moment(value);
    let Ok(at) = text.parse::<jiff::Timestamp>() else { return text };
    let micros = u64::try_from(at.as_microsecond()).unwrap_or(0);
    match micros.checked_sub(now.as_micros()) {
        None | Some(0) => text,
        Some(ahead) => format!("{text} (in {})", span(Duration::from_micros(ahead))),
    }
}

/// A moment as a person writes it on the command line.
///
/// # Errors
/// It is none; the text says what one looks like.
pub fn read_moment(text: &str) -> Result<jiff::Timestamp, String> {
    text.parse().map_err(|_| "a time looks like 2027-01-31T18:00:00Z".to_owned())
}

/// Text of somebody else's making, safe for a terminal: what could deceive is escaped.
#[must_use]
pub fn printable(text: &str) -> String {
    if !text.chars().any(is_deceptive) {
        return text.to_owned();
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if is_deceptive(character) && character != '\n' {
            safe.extend(character.escape_default());
        } else {
            safe.push(character);
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_moments_are_for_people() {
        for (value, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(number(value), text);
        }
        assert_eq!(count(1, "rule"), "1 rule");
        assert_eq!(count(2_000, "rule"), "2,000 rules");
        assert_eq!(moment(None), "-");
        assert_eq!(moment(Some(&0.into())), "1970-01-01T00:00:00.000Z");
        assert_eq!(moment(Some(&u64::MAX.into())), "never");
        assert_eq!(moment(Some(&"soon".into())), "soon");
    }

    #[test]
    fn what_is_to_come_is_told_with_its_distance() {
        let now = Timestamp::from_micros(60_000_000);
        for (micros, wanted) in [
            (60_000_000, "1970-01-01T00:01:00.000Z"),
            (0, "1970-01-01T00:00:00.000Z"),
            (120_000_000, "1970-01-01T00:02:00.000Z (in 1 min)"),
            (3_660_000_001, "1970-01-01T01:01:00.000Z (in 1 h)"),
            (u64::MAX, "never"),
        ] {
            assert_eq!(moment_ahead(Some(&micros.into()), now), wanted);
        }
        assert_eq!(moment_ahead(None, now), "-");
    }

    #[test]
    fn texts_are_broken_at_blanks_behind_their_indent() {
        let text = "held to 2: a hard figure that no level passes";
        assert_eq!(behind(4, text, None), text);
        assert_eq!(behind(4, text, Some(30)), "held to 2: a hard figure\n    that no level passes");
        let word = "x".repeat(50);
        assert_eq!(behind(4, &word, Some(30)), word, "a word is never broken");
        assert_eq!(behind(40, text, Some(30)), text, "no room at all");
    }

    #[test]
    fn a_reply_cannot_steer_the_terminal() {
        assert_eq!(printable("250 ok\u{1b}[2J"), "250 ok\\u{1b}[2J");
        assert_eq!(printable("two\nlines"), "two\nlines");
        assert_eq!(printable("full \u{202e}moor"), "full \\u{202e}moor");
        assert_eq!(printable("Übergröße, 日本語, مرحبا"), "Übergröße, 日本語, مرحبا");
        assert!(read_moment("yesterday").is_err() && read_moment("2027-01-31T18:00:00Z").is_ok());
    }
}
