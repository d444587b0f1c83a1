//! Rows of comma-separated values (RFC 4180, with the separators that spreadsheets write).

use mail::address::Mailbox;

use super::{COLUMN_LIMIT, Found, ListFault, ROW_LIMIT, Reason, mailbox, utf8};

/// What stands between the fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Separator {
    /// `,`
    Comma,
    /// `;`
    Semicolon,
    /// A tab.
    Tab,
}

impl Separator {
    const ALL: [Self; 3] = [Self::Comma, Self::Semicolon, Self::Tab];

    const fn octet(self) -> u8 {
        match self {
            Self::Comma => b',',
            Self::Semicolon => b';',
            Self::Tab => b'\t',
        }
    }
}

/// Where a field lies in its row.
#[derive(Clone, Copy, Debug)]
struct Field {
    start: usize,
    end: usize,
    /// It has doubled quotes, to be made single.
    doubled: bool,
}

/// Where the scan of a row stands between two calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    FieldStart,
    Plain,
    Quoted,
    /// After a quote inside a quoted field: its end, or the first of two.
    QuoteSeen,
}

/// How a scan ended.
enum Scanned {
    Incomplete,
    /// The row takes so many octets with its line end.
    Row(usize),
    /// The row is broken; reading goes on after its first line, of so many octets.
    Broken(usize, Reason),
}

/// Finds the fields of one row. It remembers how far it came, so a row that arrives in many pieces
/// is still looked at once.
struct Scanner {
    separator: u8,
    fields: Vec<Field>,
    state: State,
    position: usize,
    field_start: usize,
    doubled: bool,
    /// Length of the first line with its end, once it was passed inside a quoted field.
    first_line: Option<usize>,
    /// More columns than allowed: fields are not kept any more.
    too_many: bool,
}

impl Scanner {
    fn new(separator: Separator) -> Self {
        Self {
            separator: separator.octet(),
            fields: Vec::new(),
            state: State::FieldStart,
            position: 0,
            field_start: 0,
            doubled: false,
            first_line: None,
            too_many: false,
        }
    }

    fn reset(&mut self) {
        self.fields.clear();
        self.state = State::FieldStart;
        self.position = 0;
        self.field_start = 0;
        self.doubled = false;
        self.first_line = None;
        self.too_many = false;
    }

    fn end_field(&mut self, end: usize) {
        if self.fields.len() == COLUMN_LIMIT {
            self.too_many = true;
            return;
        }
        self.fields.push(Field { start: self.field_start, end, doubled: self.doubled });
        self.doubled = false;
    }

    /// The row at the start of `rest`; call again with more of the same octets when incomplete.
    fn scan(&mut self, rest: &[u8], ended: bool) -> Scanned {
        while let Some(&octet) = rest.get(self.position) {
            match self.state {
                State::FieldStart => {
                    self.field_start = self.position;
                    if octet == b'"' {
                        self.state = State::Quoted;
                        self.field_start += 1;
                        self.position += 1;
                    } else {
                        self.state = State::Plain;
                    }
                }
                State::Plain => {
                    // Fields are short: a plain loop beats a call.
                    let tail = &rest[self.position..];
                    let end = tail.iter().position(|&next| next == self.separator || next == b'\n');
                    let Some(end) = end else {
                        self.position = rest.len();
                        break;
                    };
                    self.position += end;
                    if rest[self.position] == b'\n' {
                        self.end_field(self.line_end(rest));
                        return Scanned::Row(self.position + 1);
                    }
                    self.end_field(self.position);
                    self.position += 1;
                    self.state = State::FieldStart;
                }
                State::Quoted => match memchr::memchr2(b'"', b'\n', &rest[self.position..]) {
                    None => self.position = rest.len(),
                    Some(found) => {
                        self.position += found + 1;
                        if rest[self.position - 1] == b'"' {
                            self.state = State::QuoteSeen;
                        } else if self.first_line.is_none() {
                            self.first_line = Some(self.position);
                        }
                    }
                },
                State::QuoteSeen => match octet {
                    b'"' => {
                        self.doubled = true;
                        self.state = State::Quoted;
                        self.position += 1;
                    }
                    _ if octet == self.separator => {
                        self.end_field(self.position - 1);
                        self.position += 1;
                        self.state = State::FieldStart;
                    }
                    b'\n' => {
                        self.end_field(self.position - 1);
                        return Scanned::Row(self.position + 1);
                    }
                    b'\r' if self.position + 1 == rest.len() && !ended => break,
                    b'\r' if matches!(rest.get(self.position + 1), None | Some(b'\n')) => {
                        self.end_field(self.position - 1);
                        return Scanned::Row((self.position + 2).min(rest.len()));
                    }
                    _ => {
                        let column = self.fields.len() + 1;
                        return self.broken(rest, ended, Reason::QuoteFollowed { column });
                    }
                },
            }
        }
        if !ended {
            return Scanned::Incomplete;
        }
        match self.state {
            State::Quoted => {
                let column = self.fields.len() + 1;
                return self.broken(rest, ended, Reason::QuoteOpen { column });
            }
            State::QuoteSeen => self.end_field(self.position - 1),
            State::FieldStart => {
                self.field_start = self.position;
                self.end_field(self.position);
            }
            State::Plain => self.end_field(self.line_end(rest)),
        }
        Scanned::Row(rest.len())
    }

    /// The end of a field at the end of a line: before a CR, if there is one.
    fn line_end(&self, rest: &[u8]) -> usize {
        let cr = self.position > self.field_start && rest[self.position - 1] == b'\r';
        self.position - usize::from(cr)
    }

    /// A broken row: it ends where its first line ends.
    fn broken(&self, rest: &[u8], ended: bool, reason: Reason) -> Scanned {
        let end = self.first_line.or_else(|| {
            memchr::memchr(b'\n', &rest[self.position..]).map(|end| self.position + end + 1)
        });
        match end {
            Some(end) => Scanned::Broken(end, reason),
            None if ended => Scanned::Broken(rest.len(), reason),
            None => Scanned::Incomplete,
        }
    }
}

/// A list whose header row was read.
pub(super) struct Csv {
    scanner: Scanner,
    email: usize,
    /// For each column: its merge variable as the start of a JSON member, `"name":"`; empty for the
    /// email column.
    members: Vec<String>,
    /// The merge variable of each column.
    variables: Vec<String>,
    single_line: bool,
}

impl Csv {
    /// The merge variable of each column.
    pub(super) fn variables(&self) -> &[String] {
        &self.variables
    }

    /// Reads the row at the start of `rest`.
    pub(super) fn row(&mut self, rest: &[u8], ended: bool) -> Found {
        let scanned = self.scanner.scan(rest, ended);
        let found = match scanned {
            Scanned::Incomplete => return Found::Incomplete,
            Scanned::Broken(length, reason) => Found::Row { length, outcome: Err(reason) },
            Scanned::Row(length) if rest[..length].trim_ascii().is_empty() => {
                Found::Blank { length }
            }
            Scanned::Row(length) => Found::Row { length, outcome: self.read(&rest[..length]) },
        };
        self.single_line = self.scanner.first_line.is_none();
        self.scanner.reset();
        found
    }

    /// Whether the row just read was one line.
    pub(super) fn single_line(&self) -> bool {
        self.single_line
    }

    /// Gives up on a row that became too long, and says why.
    pub(super) fn give_up(&mut self) -> Reason {
        let open = self.scanner.state == State::Quoted && self.scanner.first_line.is_some();
        let column = self.scanner.fields.len() + 1;
        self.scanner.reset();
        if open { Reason::QuoteOpen { column } } else { Reason::TooLong }
    }

    /// The recipient of a row whose fields were found.
    fn read(&self, row: &[u8]) -> Result<(Mailbox, String), Reason> {
        if row.len() > ROW_LIMIT {
            return Err(Reason::TooLong);
        }
        if self.scanner.too_many {
            return Err(Reason::TooManyColumns);
        }
        let text = utf8(row)?;
        let fields = &self.scanner.fields;
        if fields.len() != self.members.len() {
            return Err(Reason::Columns { found: fields.len(), expected: self.members.len() });
        }
        let mailbox = mailbox(&value(text, fields[self.email]))?;
        if fields.len() == 1 {
            return Ok((mailbox, String::new()));
        }
        let names: usize = self.members.iter().map(|member| member.len() + 2).sum();
        let mut merge = String::with_capacity(row.len() + names);
        for (member, &field) in self.members.iter().zip(fields) {
            if member.is_empty() {
                continue;
            }
            merge.push(if merge.is_empty() { '{' } else { ',' });
            merge.push_str(member);
            push_json(&value(text, field), &mut merge);
            merge.push('"');
        }
        merge.push('}');
        Ok((mailbox, merge))
    }
}

/// The text of a field.
fn value(row: &str, field: Field) -> std::borrow::Cow<'_, str> {
    let text = &row[field.start..field.end];
    if field.doubled { text.replace("\"\"", "\"").into() } else { text.into() }
}

/// Appends a text as the inside of a JSON string (RFC 8259 section 7).
fn push_json(text: &str, out: &mut String) {
    let mut clean = 0;
    for (index, octet) in text.bytes().enumerate() {
        let escape = match octet {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..32 => "",
            _ => continue,
        };
        out.push_str(&text[clean..index]);
        if escape.is_empty() {
            out.push_str(&format!("\\u{octet:04x}"));
        } else {
            out.push_str(escape);
        }
        clean = index + 1;
    }
    out.push_str(&text[clean..]);
}

/// Reads the header row at the start of `rest`; answers the columns and the row's length, or `None`
/// when it is not complete.
pub(super) fn header(
    rest: &[u8],
    line: u64,
    ended: bool,
) -> Result<Option<(Csv, usize)>, ListFault> {
    let fault = |reason| ListFault::Header { line, reason };
    // The separator is the one with which the row has a column called email; if none is, the one that
    // makes most columns, so that the fault can name them.
    let mut best: Option<(Vec<String>, Scanner, usize)> = None;
    for separator in Separator::ALL {
        let mut scanner = Scanner::new(separator);
        let length = match scanner.scan(rest, ended) {
            Scanned::Incomplete => return Ok(None),
            Scanned::Broken(..) if best.is_some() || separator != Separator::Tab => continue,
            Scanned::Broken(_, reason) => return Err(fault(reason)),
            Scanned::Row(length) => length,
        };
        if length > ROW_LIMIT {
            return Err(fault(Reason::TooLong));
        }
        if scanner.too_many {
            return Err(fault(Reason::TooManyColumns));
        }
        let text = utf8(&rest[..length]).map_err(fault)?;
        let names: Vec<String> =
            scanner.fields.iter().map(|&field| value(text, field).trim().to_owned()).collect();
        let has_email = |names: &[String]| names.iter().any(|name| is_email(name));
        if best.as_ref().is_none_or(|(found, ..)| {
            !has_email(found) && (has_email(&names) || names.len() > found.len())
        }) {
            best = Some((names, scanner, length));
        }
    }
    let (names, mut scanner, length) =
        best.ok_or_else(|| fault(Reason::QuoteOpen { column: 1 }))?;
    if rest[..length].trim_ascii().contains(&b'\r') {
        return Err(fault(Reason::CarriageReturns));
    }
    let (email, members, variables) = columns(&names, line)?;
    scanner.reset();
    Ok(Some((Csv { scanner, email, members, variables, single_line: false }, length)))
}

fn is_email(name: &str) -> bool {
    name.eq_ignore_ascii_case("email")
}

/// The place of the email column, and the merge members and variables of all columns.
fn columns(names: &[String], line: u64) -> Result<(usize, Vec<String>, Vec<String>), ListFault> {
    let Some(email) = names.iter().position(|name| is_email(name)) else {
        let found: String = names.join(", ").chars().take(200).collect();
        return Err(ListFault::NoEmailColumn { line, found });
    };
    let mut variables: Vec<String> = Vec::with_capacity(names.len());
    let mut members = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        if name.is_empty() {
            return Err(ListFault::ColumnUnnamed { line, column: index + 1 });
        }
        let variable = variable(name);
        let twice = is_email(name) && index != email || variables.contains(&variable);
        if twice {
            return Err(ListFault::ColumnTwice { line, name: name.clone() });
        }
        members.push(if index == email { String::new() } else { format!("\"{variable}\":\"") });
        variables.push(variable);
    }
    Ok((email, members, variables))
}

/// The name by which a template can ask for a column.
fn variable(name: &str) -> String {
    let mut out: String = name
        .chars()
        .map(|character| if character.is_ascii_alphanumeric() { character } else { '_' })
        .collect();
    if out.starts_with(|first: char| first.is_ascii_digit()) {
        out.insert(0, '_');
    }
    out
}
