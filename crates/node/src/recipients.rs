//! Lists of recipients: CSV with a header row, or one JSON object per line (NDJSON).
//!
//! A [`Decoder`] takes octets as they come and gives rows; [`Recipients`] puts it on top of any
//! [`Read`]. Every row is either a recipient (its mailbox in normal form, all other columns as one
//! JSON object of merge data) or a refusal with line number and reason. One bad row never stops the
//! rows after it, and [`Totals`] says how many there were of each.
//!
//! CSV: UTF-8 with or without a byte order mark; separator comma, semicolon or tab, found out from
//! the header row; quoted fields may hold separators, quotes (doubled) and line ends. The `email`
//! column is found in any case. Merge variables are the other column names with everything that
//! cannot stand in a template name made `_` (`First name` → `First_name`); their values are texts.
//! NDJSON: objects with an `email`; values keep their types. Empty lines are passed over in both.
//!
//! Memory is bounded whatever the input: a row has at most 1 MiB and 256 columns. A longer one is
//! refused with the number of its first line while the rest of it is thrown away unread. A quote that
//! is never closed costs its own line only: reading goes on with the next.
//!
//! It fails as a whole ([`ListFault`]) only where no row could be understood: an empty list, another
//! encoding (UTF-16), no `email` column, doubled or unnamed columns.

use std::io::{self, Read};

use mail::address::{AddressFault, Mailbox};

pub use self::csv::Separator;

mod csv;
mod ndjson;
#[cfg(test)]
mod tests;

/// Longest row in octets, line ends inside it included.
pub const ROW_LIMIT: usize = 1 << 20;
/// Most columns of a CSV row or members of a JSON object.
pub const COLUMN_LIMIT: usize = 256;
/// How much is asked of a reader at once.
const CHUNK: usize = 64 * 1_024;

/// What form a list has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// NDJSON when the first character that is no white space is `{`, else CSV.
    #[default]
    Detect,
    /// Comma-separated values with a header row.
    Csv,
    /// One JSON object per line.
    Ndjson,
}

/// Why a list cannot be read at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListFault {
    /// Nothing, or nothing but white space.
    #[error("the list of recipients is empty")]
    Empty,
    /// UTF-16 or UTF-32.
    #[error("the list of recipients is {encoding}: save it as UTF-8")]
    Encoding {
        /// The encoding that it seems to have.
        encoding: &'static str,
    },
    /// The header row cannot be read.
    #[error("line {line}: the header row cannot be read: {reason}")]
    Header {
        /// Its line, from 1.
        line: u64,
        /// What is wrong.
        reason: Reason,
    },
    /// No column is called `email`.
    #[error("line {line}: the header row has no column email; found: {found}")]
    NoEmailColumn {
        /// Its line, from 1.
        line: u64,
        /// The columns there are, shortened.
        found: String,
    },
    /// Two columns have the same name (or become the same merge variable).
    #[error("line {line}: two columns are called {name}")]
    ColumnTwice {
        /// The header's line, from 1.
        line: u64,
        /// The name.
        name: String,
    },
    /// A column without a name.
    #[error("line {line}: column {column} has no name")]
    ColumnUnnamed {
        /// The header's line, from 1.
        line: u64,
        /// Which, from 1.
        column: usize,
    },
}

/// Why a row was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The address cannot be written to.
    #[error("invalid address {address:?}: {fault}")]
    Address {
        /// What was found, at most 80 characters of it.
        address: String,
        /// What is wrong with it.
        fault: AddressFault,
    },
    /// Over 1 MiB.
    #[error("the row is longer than {ROW_LIMIT} octets")]
    TooLong,
    /// Not UTF-8.
    #[error(
        "octet 0x{octet:02X} at place {place} of the row is not UTF-8 (Latin-1 or Windows-1252?): save the list as UTF-8"
    )]
    NotUtf8 {
        /// Its place, from 1.
        place: usize,
        /// The octet.
        octet: u8,
    },
    /// A quoted field is not closed before the end of the list or of the longest row.
    #[error("the quote of column {column} is never closed")]
    QuoteOpen {
        /// The column, from 1.
        column: usize,
    },
    /// Something stands between a closing quote and the separator.
    #[error("column {column} goes on after its closing quote")]
    QuoteFollowed {
        /// The column, from 1.
        column: usize,
    },
    /// Another number of fields than the header row has.
    #[error("the row has {found} columns, but the header row has {expected}")]
    Columns {
        /// How many it has.
        found: usize,
        /// How many it should have.
        expected: usize,
    },
    /// More than 256 columns or members.
    #[error("the row has more than {COLUMN_LIMIT} columns")]
    TooManyColumns,
    /// CR alone as a line end.
    #[error("lines end in CR alone: save the list with LF or CRLF")]
    CarriageReturns,
    /// The line is no JSON object.
    #[error("not a JSON object: {why}")]
    Json {
        /// What the JSON reader said.
        why: String,
    },
    /// The object has no text member `email`.
    #[error("the object has no email, or its email is no text")]
    NoEmail,
    /// The object has a member twice.
    #[error("the object has {name:?} twice")]
    MemberTwice {
        /// The member.
        name: String,
    },
}

/// One row of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    /// Somebody to write to.
    Recipient {
        /// The row's first line, from 1.
        line: u64,
        /// The address in normal form.
        mailbox: Mailbox,
        /// The other columns as a JSON object; empty when there are none.
        merge_json: String,
    },
    /// A row that cannot be used.
    Refused {
        /// The row's first line, from 1.
        line: u64,
        /// Why.
        reason: Reason,
    },
}

/// How many rows were read so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Rows that were recipients.
    pub accepted: u64,
    /// Rows that were refused.
    pub refused: u64,
}

/// What a [`Decoder`] has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A row.
    Row(Row),
    /// It needs more octets, or to be told that there are none.
    NeedInput,
    /// Every row was given.
    End,
}

/// What a row is made of, once the form of the list is known.
enum Rows {
    Unknown(Format),
    Csv(csv::Csv),
    Ndjson,
}

/// A row that begins at the start of the unread octets, and how many octets it takes with its line
/// end.
enum Found {
    /// Not complete yet.
    Incomplete,
    /// An empty line.
    Blank { length: usize },
    /// A row or a refusal.
    Row { length: usize, outcome: Result<(Mailbox, String), Reason> },
}

/// Reads a list from octets that are handed to it in pieces of any size.
pub struct Decoder {
    rows: Rows,
    /// Octets not yet read begin at `start`.
    window: Vec<u8>,
    start: usize,
    /// Octets after `start` that are known to hold no line end (for rows of one line).
    searched: usize,
    /// The line that `start` lies on, from 1.
    line: u64,
    /// Inside a row that was refused as too long, up to its line end.
    discarding: bool,
    ended: bool,
    begun: bool,
    totals: Totals,
}

impl Decoder {
    /// A decoder for a list of the given form.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self {
            rows: Rows::Unknown(format),
            window: Vec::new(),
            start: 0,
            searched: 0,
            line: 1,
            discarding: false,
            ended: false,
            begun: false,
            totals: Totals::default(),
        }
    }

    /// Hands over more octets. Call [`Decoder::next`] until it needs more before handing over again:
    /// what has not been read is held, so this is what bounds the memory.
    pub fn push(&mut self, octets: &[u8]) {
        // While the rest of an endless line is thrown away, not even the new octets are kept.
        if self.discarding && self.start == self.window.len() {
            self.window.clear();
            self.start = 0;
        }
        if self.start > 0 {
            self.window.drain(..self.start);
            self.start = 0;
        }
        self.window.extend_from_slice(octets);
    }

    /// Says that no more octets come.
    pub fn finish(&mut self) {
        self.ended = true;
    }

    /// How many rows were read so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// The merge variables of a list whose header row was read; `None` before that, and for NDJSON, where
    /// each row has its own.
    #[must_use]
    pub fn columns(&self) -> Option<&[String]> {
        match &self.rows {
            Rows::Csv(csv) => Some(csv.variables()),
            Rows::Unknown(_) | Rows::Ndjson => None,
        }
    }

    /// The next row, if the octets so far hold one.
    ///
    /// # Errors
    /// The list as a whole cannot be read. Calling again gives the same fault.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Step, ListFault> {
        if !self.begun && !self.begin()? {
            return Ok(Step::NeedInput);
        }
        loop {
            if self.discarding && !self.discard() {
                return Ok(if self.ended { Step::End } else { Step::NeedInput });
            }
            if self.start == self.window.len() {
                return Ok(if self.ended { self.end()? } else { Step::NeedInput });
            }
            let rest = &self.window[self.start..];
            let found = match &mut self.rows {
                Rows::Unknown(_) => match csv::header(rest, self.line, self.ended)? {
                    Some((columns, length)) => {
                        self.rows = Rows::Csv(columns);
                        self.take(length);
                        continue;
                    }
                    None if rest.len() > ROW_LIMIT => {
                        return Err(ListFault::Header { line: self.line, reason: Reason::TooLong });
                    }
                    None => return Ok(Step::NeedInput),
                },
                Rows::Csv(columns) => columns.row(rest, self.ended),
                Rows::Ndjson => ndjson::row(rest, self.searched, self.ended),
            };
            match found {
                Found::Incomplete if rest.len() > ROW_LIMIT => {
                    let reason = match &mut self.rows {
                        Rows::Csv(columns) => columns.give_up(),
                        _ => Reason::TooLong,
                    };
                    self.discarding = true;
                    return Ok(Step::Row(self.refuse(self.line, reason)));
                }
                Found::Incomplete => {
                    self.searched = rest.len();
                    return Ok(Step::NeedInput);
                }
                Found::Blank { length } => self.take(length),
                Found::Row { length, outcome } => {
                    let line = self.line;
                    self.take(length);
                    return Ok(Step::Row(match outcome {
                        Ok((mailbox, merge_json)) => {
                            self.totals.accepted += 1;
                            Row::Recipient { line, mailbox, merge_json }
                        }
                        Err(reason) => self.refuse(line, reason),
                    }));
                }
            }
        }
    }

    /// Looks at the first octets: byte order mark, encoding, form. Answers whether it could tell.
    fn begin(&mut self) -> Result<bool, ListFault> {
        let first = self.window.as_slice();
        if first.len() < 4 && !self.ended {
            return Ok(false);
        }
        let encoding = match first {
            [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Some("UTF-32"),
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some("UTF-16"),
            [0, _, 0, _, ..] | [_, 0, _, 0, ..] => Some("UTF-16 without a byte order mark"),
            _ => None,
        };
        if let Some(encoding) = encoding {
            return Err(ListFault::Encoding { encoding });
        }
        if first.starts_with(b"\xef\xbb\xbf") {
            self.start = 3;
        }
        // Blank lines before the first row are passed over, here and only here for CSV's header.
        while let Some(&octet) = self.window.get(self.start) {
            match octet {
                b'\n' => self.line += 1,
                b'\r' | b' ' => {}
                _ => break,
            }
            self.start += 1;
        }
        let Some(&octet) = self.window.get(self.start) else {
            if self.ended {
                return Err(ListFault::Empty);
            }
            // Keep a trace of having seen something without holding any amount of white space; the
            // byte order mark cannot come again.
            self.window.clear();
            self.window.extend_from_slice(b"    ");
            self.start = 0;
            return Ok(false);
        };
        if let Rows::Unknown(format) = self.rows
            && (format == Format::Ndjson || format == Format::Detect && octet == b'{')
        {
            self.rows = Rows::Ndjson;
        }
        self.begun = true;
        Ok(true)
    }

    /// What to say when everything was read.
    fn end(&self) -> Result<Step, ListFault> {
        match self.rows {
            Rows::Unknown(_) => Err(ListFault::Empty),
            _ => Ok(Step::End),
        }
    }

    /// Goes on after `length` octets, counting their lines.
    fn take(&mut self, length: usize) {
        let taken = &self.window[self.start..self.start + length];
        self.line += match taken.last() {
            // The usual row is one line, and where its end is was just found.
            Some(b'\n') if self.single_line() => 1,
            _ => memchr::memchr_iter(b'\n', taken).count() as u64,
        };
        self.start += length;
        self.searched = 0;
    }

    /// Whether the row just read had no line end inside it.
    fn single_line(&self) -> bool {
        match &self.rows {
            Rows::Csv(columns) => columns.single_line(),
            Rows::Ndjson => true,
            Rows::Unknown(_) => false,
        }
    }

    /// Throws octets away up to a line end; answers whether it was found.
    fn discard(&mut self) -> bool {
        match memchr::memchr(b'\n', &self.window[self.start..]) {
            Some(end) => {
                self.start += end + 1;
                self.line += 1;
                self.searched = 0;
                self.discarding = false;
                true
            }
            None => {
                self.start = self.window.len();
                false
            }
        }
    }

    fn refuse(&mut self, line: u64, reason: Reason) -> Row {
        self.totals.refused += 1;
        Row::Refused { line, reason }
    }
}

/// A list that is read from a file, a pipe or any other source of octets.
pub struct Recipients<R> {
    reader: R,
    decoder: Decoder,
    buffer: Box<[u8]>,
}

/// Why the next row could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadFault {
    /// The source of the octets failed.
    #[error("the list of recipients cannot be read: {0}")]
    Io(#[from] io::Error),
    /// The list as a whole cannot be understood.
    #[error(transparent)]
    List(#[from] ListFault),
}

impl<R: Read> Recipients<R> {
    /// Reads a list of the given form from `reader`, 64 KiB at a time.
    pub fn new(reader: R, format: Format) -> Self {
        Self { reader, decoder: Decoder::new(format), buffer: vec![0; CHUNK].into_boxed_slice() }
    }

    /// The next row; `None` after the last.
    ///
    /// # Errors
    /// The source failed, or the list as a whole cannot be understood.
    pub fn next_row(&mut self) -> Result<Option<Row>, ReadFault> {
        loop {
            match self.decoder.next()? {
                Step::Row(row) => return Ok(Some(row)),
                Step::End => return Ok(None),
                Step::NeedInput => match self.reader.read(&mut self.buffer) {
                    Ok(0) => self.decoder.finish(),
                    Ok(count) => self.decoder.push(&self.buffer[..count]),
                    Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                    Err(fault) => return Err(fault.into()),
                },
            }
        }
    }

    /// How many rows were read so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.decoder.totals()
    }
}

impl<R: Read> Iterator for Recipients<R> {
    type Item = Result<Row, ReadFault>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_row().transpose()
    }
}

/// Reads the address of a row.
fn mailbox(text: &str) -> Result<Mailbox, Reason> {
    let text = text.trim_matches([' ', '\t']);
    Mailbox::parse(text)
        .map_err(|fault| Reason::Address { address: text.chars().take(80).collect(), fault })
}

/// The octets as text.
fn utf8(octets: &[u8]) -> Result<&str, Reason> {
    core::str::from_utf8(octets).map_err(|fault| {
        let place = fault.valid_up_to();
        Reason::NotUtf8 { place: place + 1, octet: octets[place] }
    })
}
