//! Writing results, tables and times.
//!
//! Tables follow the width of the terminal and have no bound when the output is a file or a pipe;
//! nothing is coloured.

use std::io::Write as _;
use std::time::Duration;

use comfy_table::Table;
use mail::reply::{escaped_json, is_deceptive};
use mail::time::Timestamp;
use serde::Serialize;
use serde_json::Value;

use crate::exit::Failure;
use crate::rows::Rows;

/// Writes to standard output what people read. Blanks at the ends of lines (tables have them) are left out, and a line
/// end is added where there is none. A line that is longer than the terminal is broken at a blank; tables are not
/// longer ([`crate::rows`]). This is the one place where prose is broken.
///
/// # Errors
/// The pipe is closed, or the output cannot be written.
pub fn print(text: &str) -> Result<(), Failure> {
    match terminal_width() {
        None => print_raw(text),
        Some(width) => {
            let broken = |line| broken(line, usize::from(width));
            print_raw(&text.lines().flat_map(broken).collect::<Vec<_>>().join("\n"))
        }
    }
}

/// A line broken at blanks; the further pieces are indented deeper than the first.
fn broken(line: &str, width: usize) -> Vec<String> {
    let line = line.trim_end();
    if line.chars().count() <= width {
        return vec![line.to_owned()];
    }
    let indent = line.chars().take_while(|letter| *letter == ' ').count();
    let further = " ".repeat((indent + 4).min(width / 2));
    let (mut lines, mut open) = (Vec::new(), " ".repeat(indent));
    let mut is_empty = true;
    // Several blanks between two words belong to the word behind them.
    let mut blanks = 0;
    for word in line[indent..].split(' ') {
        if word.is_empty() {
            blanks += 1;
            continue;
        }
        let gap = if is_empty { 0 } else { blanks + 1 };
        if !is_empty && open.chars().count() + gap + word.chars().count() > width {
            lines.push(core::mem::replace(&mut open, further.clone()));
        } else {
            open.push_str(&" ".repeat(gap));
        }
        open.push_str(word);
        (is_empty, blanks) = (false, 0);
    }
    lines.push(open);
    lines
}

/// Writes to standard output what programs read too, such as JSON and rule files: no line is broken.
///
/// # Errors
/// As [`print`].
pub fn print_raw(text: &str) -> Result<(), Failure> {
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
    print_raw(&escaped_json(text))
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

/// An empty table with these columns; a name that begins with `>` is a column of numbers.
#[must_use]
pub fn table(columns: &[&str]) -> Rows {
    Rows::new(columns)
}

/// The width of the terminal on standard output; `None`: it is none, and nothing bounds a line.
#[must_use]
pub fn terminal_width() -> Option<u16> {
    Table::new().width()
}

/// Whether a table has room in so many columns without a line broken.
#[must_use]
pub fn fits(rows: &Rows, width: Option<u16>) -> bool {
    rows.fits(width)
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
    rules::show_number(number)
}

/// `1 rule`, `2 rules`.
#[must_use]
pub fn count(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", number(count), if count == 1 { "" } else { "s" })
}

/// A time such as `2026-11-21T07:16:19.042Z` without the parts of a second; other texts as they are.
fn to_the_second(text: &str) -> String {
    match text.split_once('.') {
        Some((head, tail))
            if tail.ends_with('Z')
                && head.len() == 19
                && tail[..tail.len() - 1].bytes().all(|digit| digit.is_ascii_digit()) =>
        {
            format!("{head}Z")
        }
        _ => text.to_owned(),
    }
}

/// A moment of a node's answer (microseconds since the epoch, or already a text) for people, to the second; `-` when
/// there is none.
#[must_use]
pub fn moment(value: Option<&Value>) -> String {
    to_the_second(&exact_moment(value))
}

/// The same with all parts of its second, for programs.
#[must_use]
pub fn exact_moment(value: Option<&Value>) -> String {
    match value {
        Some(Value::Number(micros)) => micros.as_u64().map_or_else(
            || micros.to_string(),
            |micros| Timestamp::from_micros(micros).to_string(),
        ),
        Some(Value::String(text)) => printable(text),
        _ => "-".to_owned(),
    }
}

/// `3 h 10 min`; minutes are rounded up. Less than a minute is told in seconds, rounded up.
#[must_use]
pub fn span(span: Duration) -> String {
    let seconds = span.as_millis().div_ceil(1_000);
    if seconds < 60 {
        return format!("{seconds} s");
    }
    let minutes = span.as_secs().div_ceil(60);
    match (minutes / 1_440, minutes / 60 % 24, minutes % 60) {
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, 0) => format!("{hours} h"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, 0, _) => format!("{days} d"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// A moment for a table: `07:16:19Z` on the day of `now` (UTC), else `11-22 07:16Z`; `now` where it is not to come.
#[must_use]
pub fn short_moment(value: Option<&Value>, now: &str) -> String {
    let text = moment(value);
    if text == "-" || (text.len() == 20 && text.as_str() <= to_the_second(now).as_str()) {
        return if text == "-" { text } else { "now".to_owned() };
    }
    match (text.get(..10), text.get(11..19), now.get(..10)) {
        (Some(day), Some(clock), Some(today)) if text.len() == 20 => match day == today {
            true => format!("{clock}Z"),
            false => format!("{} {}Z", &day[5..], &clock[..5]),
        },
        _ => text,
    }
}

/// A moment with its distance, if it is to come: `2026-11-21T11:06:38Z (in 1 h 5 min)`.
#[must_use]
pub fn moment_ahead(value: Option<&Value>, now: Timestamp) -> String {
    let text = moment(value);
    let micros = match value {
        Some(Value::Number(micros)) => micros.as_u64(),
        Some(Value::String(exact)) => exact
            .parse::<jiff::Timestamp>()
            .ok()
            .and_then(|at| u64::try_from(at.as_microsecond()).ok()),
        _ => None,
    };
    let Some(micros) = micros.filter(|_| text != "never") else { return text };
    match micros.checked_sub(now.as_micros()) {
        None | Some(0) => text,
        Some(ahead) => format!("{text} (in {})", span(Duration::from_micros(ahead))),
    }
}

/// The `public_id` of a source as it is shown (`s3`) or as it is configured (`3`).
///
/// # Errors
/// It is neither.
pub fn source_id(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix(['s', 'S']).unwrap_or(text);
    let known = digits.parse().ok().filter(|id| *id > 0);
    known.ok_or_else(|| "a source is named by its public_id, such as 3 or s3".to_owned())
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
        assert_eq!(moment(Some(&0.into())), "1970-01-01T00:00:00Z");
        assert_eq!(moment(Some(&u64::MAX.into())), "never");
        assert_eq!(moment(Some(&"soon".into())), "soon");
    }

    #[test]
    fn sources_are_read_as_they_are_shown() {
        for (text, id) in
            [("s1", Some(1)), ("12", Some(12)), ("S3", Some(3)), ("s0", None), ("x", None)]
        {
            assert_eq!(source_id(text).ok(), id, "{text}");
        }
    }

    #[test]
    fn what_is_to_come_is_told_with_its_distance() {
        let now = Timestamp::from_micros(60_000_000);
        for (micros, wanted) in [
            (60_000_000, "1970-01-01T00:01:00Z"),
            (0, "1970-01-01T00:00:00Z"),
            (120_000_000, "1970-01-01T00:02:00Z (in 1 min)"),
            (65_200_000, "1970-01-01T00:01:05Z (in 6 s)"),
            (3_660_000_001, "1970-01-01T01:01:00Z (in 1 h)"),
            (u64::MAX, "never"),
        ] {
            assert_eq!(moment_ahead(Some(&micros.into()), now), wanted);
        }
        assert_eq!(moment_ahead(None, now), "-");
    }

    #[test]
    fn times_of_tables_are_short() {
        let now = "2026-11-21T07:00:00.123Z";
        for (at, wanted) in [
            ("2026-11-21T07:16:19.042Z", "07:16:19Z"),
            ("2026-11-22T07:16:19.042Z", "11-22 07:16Z"),
            ("2026-11-21T07:00:00.123Z", "now"),
            ("never", "never"),
        ] {
            assert_eq!(short_moment(Some(&at.into()), now), wanted);
        }
        assert_eq!(short_moment(None, now), "-");
        assert_eq!(to_the_second("a.bZ"), "a.bZ");
    }

    #[test]
    fn long_lines_are_broken_at_blanks_and_nowhere_else() {
        let line = "  google  taken: the first rule that matches alt2.gmail-smtp-in.l.google.com";
        assert_eq!(
            broken(line, 40),
            [
                "  google  taken: the first rule that",
                "      matches",
                "      alt2.gmail-smtp-in.l.google.com"
            ]
        );
        assert_eq!(broken(line, 200), [line]);
        let word = "x".repeat(90);
        assert_eq!(broken(&word, 40), [word.as_str()], "there is no blank");
        assert_eq!(
            broken(&format!("a {word} b"), 40),
            ["a".to_owned(), format!("    {word}"), "    b".to_owned()]
        );
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
