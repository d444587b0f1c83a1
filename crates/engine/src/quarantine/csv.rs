//! Addresses with their states as CSV, out and in again.
//!
//! **Promise.** What [`header`] and [`row`] write, [`import`] reads back to the same state, reason, dates and
//! counts. A bad row is refused alone, with its line and what is wrong; the others are taken.
//!
//! **Format.** UTF-8, RFC 4180, with a header that names the columns in any order: `address` (needed), `state`,
//! `reason`, `since`, `until`, `errors`, `last_error_at`. Moments as in RFC 3339 or a bare date (which begins at
//! 00:00 UTC); errors as `Mailbox full:2;Unreachable:1`. A semicolon or a tabulator may separate columns where the
//! header does so.
//!
//! **Absences.** No field holds a line break. No line is longer than [`LINE_LIMIT`] octets. Addresses are not
//! looked for in what stood there before: the last row of an address wins.

use core::fmt;
use core::time::Duration;
use std::io::{self, BufRead, Read as _};

use mail::address::Mailbox;
use mail::failure::Reason;
use mail::time::{Timestamp, civil_date};

use super::ledger::AddressRecord;
use super::state::{Counts, Imported, State};
use super::suppression::Suppressed;

/// Octets of a line, with its end.
pub const LINE_LIMIT: u64 = 8_192;

const COLUMNS: [&str; 7] =
    ["address", "state", "reason", "since", "until", "errors", "last_error_at"];

/// The first line of an export, without its end.
#[must_use]
pub fn header() -> String {
    COLUMNS.join(",")
}

/// A line of an export, without its end.
#[must_use]
pub fn row(record: &AddressRecord) -> String {
    let condition = &record.condition;
    let moment = |at: Option<Timestamp>| at.map(|at| at.to_string()).unwrap_or_default();
    let fields = [
        quoted(&record.address),
        condition.state.to_string(),
        condition.reason.map(|reason| reason.to_string()).unwrap_or_default(),
        // What never was anything else than valid has no beginning.
        moment(Some(condition.since).filter(|since| *since != Timestamp::EPOCH)),
        moment(condition.until),
        condition.counts.to_string(),
        moment(condition.last_counted_at),
    ];
    fields.join(",")
}

/// A field, in quotes where it needs them.
fn quoted(field: &str) -> String {
    if field.contains(['"', ',', ';', '\t', '\n', '\r']) || field.starts_with(' ') {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

/// A row that was taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its line in the file, from 1.
    pub line: u64,
    /// The address, folded.
    pub address: Box<str>,
    /// Its state.
    pub imported: Imported,
}

/// A row that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRow {
    /// Its line in the file, from 1.
    pub line: u64,
    /// What stood there, cut to 100 characters.
    pub text: String,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for BadRow {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "line {}: {} (`{}`)", self.line, self.reason, self.text)
    }
}

/// What the rows of a file without these columns are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    /// The state.
    pub state: Option<State>,
    /// The reason.
    pub reason: Option<Reason>,
}

/// Why a file cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum FileFault {
    /// The first line does not name the columns.
    #[error("the first line must name the columns, among them `address`; known are {}", COLUMNS.join(", "))]
    NoHeader,
    /// A column that nobody knows.
    #[error("the column `{name}` is not known; known are {}", COLUMNS.join(", "))]
    UnknownColumn {
        /// Its name, cut to 60 characters.
        name: String,
    },
    /// A column twice.
    #[error("the column `{0}` stands there twice")]
    ColumnTwice(&'static str),
    /// No state can be known.
    #[error("there is no column `state`; say which state the addresses are to have")]
    NoState,
    /// Reading failed.
    #[error("reading failed: {0}")]
    Io(#[from] io::Error),
}

/// Reads a file and tells of each row, in order.
///
/// # Errors
/// The file cannot be read, or its header is not understood.
pub fn import(
    input: impl BufRead,
    defaults: Defaults,
    now: Timestamp,
    mut tell: impl FnMut(Result<Row, BadRow>),
) -> Result<(), FileFault> {
    let mut lines = Lines { input, number: 0 };
    let first = match lines.next_line()? {
        Some(Ok(first)) => first,
        _ => return Err(FileFault::NoHeader),
    };
    let columns = Columns::read(first.trim_start_matches('\u{feff}'), defaults)?;
    while let Some(line) = lines.next_line()? {
        let bad = |text: &str, reason: String| BadRow {
            line: lines.number,
            text: text.chars().take(100).collect(),
            reason,
        };
        match line {
            Err(reason) => tell(Err(bad("", reason.to_owned()))),
            Ok(text) if text.is_empty() => {}
            Ok(text) => tell(match columns.row(&text, defaults, now) {
                Ok((address, imported)) => Ok(Row { line: lines.number, address, imported }),
                Err(reason) => Err(bad(&text, reason)),
            }),
        }
    }
    Ok(())
}

/// Reads a suppression list: a hash, an address, a domain or `*.` and a domain a line; empty lines and those
/// that begin with `#` are passed over. Tells of each line.
///
/// # Errors
/// Reading failed.
pub fn import_suppression(
    input: impl BufRead,
    mut tell: impl FnMut(Result<Suppressed, BadRow>),
) -> Result<(), FileFault> {
    let mut lines = Lines { input, number: 0 };
    while let Some(line) = lines.next_line()? {
        let parsed = match &line {
            Err(reason) => Err((*reason).to_owned()),
            Ok(text) if text.trim().is_empty() || text.starts_with('#') => continue,
            Ok(text) => text.trim_start_matches('\u{feff}').parse(),
        };
        tell(parsed.map_err(|reason| BadRow {
            line: lines.number,
            text: line.unwrap_or_default().chars().take(100).collect(),
            reason,
        }));
    }
    Ok(())
}

/// Lines of bounded length, with their numbers.
struct Lines<R> {
    input: R,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    /// The next line without its end; `None`: no more. The inner error: a line that cannot be used.
    fn next_line(&mut self) -> io::Result<Option<Result<String, &'static str>>> {
        let mut octets = Vec::new();
        let read = self.input.by_ref().take(LINE_LIMIT).read_until(b'\n', &mut octets)?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        if octets.last() != Some(&b'\n') && read as u64 == LINE_LIMIT {
            self.skip_line()?;
            return Ok(Some(Err("the line is longer than 8,192 octets")));
        }
        while matches!(octets.last(), Some(b'\n' | b'\r')) {
            octets.pop();
        }
        Ok(Some(String::from_utf8(octets).map_err(|_| "the line is not UTF-8")))
    }

    /// Passes over the rest of a line without keeping it.
    fn skip_line(&mut self) -> io::Result<()> {
        loop {
            let buffer = self.input.fill_buf()?;
            let (length, end) = match buffer.iter().position(|octet| *octet == b'\n') {
                Some(at) => (at + 1, true),
                None => (buffer.len(), buffer.is_empty()),
            };
            self.input.consume(length);
            if end {
                return Ok(());
            }
        }
    }
}

/// Splits a line into its fields (RFC 4180 section 2).
fn split(line: &str, separator: char) -> Result<Vec<String>, &'static str> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        if let Some(mut quoted) = rest.strip_prefix('"') {
            let mut field = String::new();
            loop {
                let (part, after) = quoted.split_once('"').ok_or("a quoted field does not end")?;
                field.push_str(part);
                match after.strip_prefix('"') {
                    Some(more) => {
                        field.push('"');
                        quoted = more;
                    }
                    None => {
                        rest = after;
                        break;
                    }
                }
            }
            fields.push(field);
            match rest.strip_prefix(separator) {
                Some(more) => rest = more,
                None if rest.is_empty() => return Ok(fields),
                None => return Err("something stands between a quoted field and the next"),
            }
        } else {
            match rest.split_once(separator) {
                Some((field, more)) => {
                    fields.push(field.trim().to_owned());
                    rest = more;
                }
                None => {
                    fields.push(rest.trim().to_owned());
                    return Ok(fields);
                }
            }
        }
    }
}

/// Which field of a line is which.
struct Columns {
    separator: char,
    /// The place of each of [`COLUMNS`].
    places: [Option<usize>; COLUMNS.len()],
    count: usize,
}

impl Columns {
    fn read(line: &str, defaults: Defaults) -> Result<Self, FileFault> {
        let separator =
            [',', ';', '\t'].into_iter().find(|mark| line.contains(*mark)).unwrap_or(',');
        let names = split(line, separator).map_err(|_| FileFault::NoHeader)?;
        let mut places = [None; COLUMNS.len()];
        if !names.iter().any(|name| name.eq_ignore_ascii_case(COLUMNS[0])) {
            return Err(FileFault::NoHeader);
        }
        for (place, name) in names.iter().enumerate() {
            let known = COLUMNS.iter().position(|known| known.eq_ignore_ascii_case(name));
            let column = known.ok_or_else(|| FileFault::UnknownColumn {
                name: name.chars().take(60).collect(),
            })?;
            if places[column].replace(place).is_some() {
                return Err(FileFault::ColumnTwice(COLUMNS[column]));
            }
        }
        if places[1].is_none() && defaults.state.is_none() {
            return Err(FileFault::NoState);
        }
        Ok(Self { separator, places, count: names.len() })
    }

    fn row(
        &self,
        line: &str,
        defaults: Defaults,
        now: Timestamp,
    ) -> Result<(Box<str>, Imported), String> {
        let fields = split(line, self.separator)?;
        if fields.len() != self.count {
            let (found, wanted) = (fields.len(), self.count);
            return Err(format!("the row has {found} fields, the header has {wanted}"));
        }
        let field = |column: usize| {
            let text = self.places[column].and_then(|place| fields.get(place));
            text.map(String::as_str).filter(|text| !text.is_empty())
        };
        let mailbox = Mailbox::parse(field(0).ok_or("there is no address")?)
            .map_err(|fault| fault.to_string())?;
        let state = match field(1) {
            Some(word) => word.parse().map_err(|fault| format!("the state {fault}"))?,
            None => defaults.state.ok_or("there is no state")?,
        };
        let reason = match field(2) {
            Some(word) => Some(word.parse().map_err(|fault| format!("the reason {fault}"))?),
            None => defaults.reason,
        };
        let moment = |column: usize| field(column).map(parse_moment).transpose();
        let since = moment(3)?;
        // Nobody knows since when an address is valid of which nothing else was ever known.
        let since_when_unsaid = if state == State::Valid { Timestamp::EPOCH } else { now };
        let imported = Imported {
            state,
            reason,
            since: since.unwrap_or(since_when_unsaid),
            until: moment(4)?,
            undated: since.is_none(),
            counts: field(5).unwrap_or("").parse::<Counts>().map_err(|fault| fault.to_string())?,
            last_counted_at: moment(6)?,
        };
        check(&imported, now)?;
        Ok((mailbox.folded_key().into(), imported))
    }
}

/// Refuses a row that contradicts itself.
fn check(imported: &Imported, now: Timestamp) -> Result<(), String> {
    let soon = now + Duration::from_secs(86_400);
    let fault = match imported.state {
        _ if imported.since > soon => "`since` lies in the future",
        _ if imported.last_counted_at.is_some_and(|at| at > soon) => {
            "`last_error_at` lies in the future"
        }
        state if state != State::Quarantined && imported.until.is_some() => {
            "only a quarantine has an `until`"
        }
        _ if imported.until.is_some_and(|until| until <= imported.since) => {
            "`until` is not after `since`"
        }
        State::WithErrors if imported.counts.total() == 0 => {
            "an address with errors needs them in `errors`, such as `Mailbox full:2`"
        }
        State::WithErrors if imported.last_counted_at.is_none() => {
            "an address with errors needs a `last_error_at`"
        }
        State::Valid | State::Denylisted | State::Allowlisted if imported.counts.total() > 0 => {
            "only an address with errors or in quarantine has `errors`"
        }
        _ => return Ok(()),
    };
    Err(fault.to_owned())
}

/// Reads RFC 3339, or a date alone.
fn parse_moment(text: &str) -> Result<Timestamp, String> {
    read_moment(text).ok_or_else(|| {
        format!("`{text}` is not a moment; write it like 2026-11-21T07:16:19Z or 2026-11-21")
    })
}

fn read_moment(text: &str) -> Option<Timestamp> {
    if text == "never" {
        return Some(Timestamp::NEVER);
    }
    let number = |from: usize, to: usize| {
        let digits = text.get(from..to)?;
        digits.bytes().all(|octet| octet.is_ascii_digit()).then(|| digits.parse::<u64>().ok())?
    };
    let mark =
        |at: usize, marks: &[u8]| text.as_bytes().get(at).filter(|octet| marks.contains(octet));
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    mark(4, b"-")?;
    mark(7, b"-")?;
    let days = days_from_epoch(year, month, day)?;
    if text.len() == 10 {
        return Some(Timestamp::from_secs(days * 86_400));
    }
    mark(10, b"Tt ")?;
    mark(13, b":")?;
    mark(16, b":")?;
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut rest = text.get(19..)?;
    let mut micros = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let length = fraction.bytes().take_while(u8::is_ascii_digit).count();
        let digits = fraction.get(..length.min(6)).filter(|digits| !digits.is_empty())?;
        micros = digits.parse::<u64>().ok()? * 10_u64.pow(6 - digits.len() as u32);
        rest = &fraction[length..];
    }
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second;
    let seconds = match rest.as_bytes() {
        b"Z" | b"z" => seconds,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let digit = |octet: &u8| octet.is_ascii_digit().then(|| u64::from(octet - b'0'));
            let (hours, minutes) = (digit(h1)? * 10 + digit(h2)?, digit(m1)? * 10 + digit(m2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let offset = hours * 3_600 + minutes * 60;
            if *sign == b'+' { seconds.checked_sub(offset)? } else { seconds + offset }
        }
        _ => return None,
    };
    Some(Timestamp::from_micros(seconds * 1_000_000 + micros))
}

/// Days from 1970-01-01 to a date of the Gregorian calendar; `None`: there is no such date, or it is
/// earlier.
fn days_from_epoch(year: u64, month: u64, day: u64) -> Option<u64> {
    if year < 1970 || !(1..=12).contains(&month) {
        return None;
    }
    // Counted from March on, so that the leap day is the last of its year.
    let shifted = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let in_year = (153 * shifted.1 + 2) / 5 + day.checked_sub(1)?;
    let days = 365 * shifted.0 + shifted.0 / 4 - shifted.0 / 100 + shifted.0 / 400 + in_year;
    let days = days.checked_sub(719_468)?;
    (civil_date(days) == (year, month, day)).then_some(days)
}
