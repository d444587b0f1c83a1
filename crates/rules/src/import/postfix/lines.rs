//! Lines of Postfix's files: comments, continuation, `$names`.

use std::collections::BTreeMap;

use crate::diagnostic::{Diagnostic, Source};

/// Names within names.
const DEEPEST: usize = 8;
/// Octets of an expanded value.
const LONGEST_VALUE: usize = 64 * 1024;

/// Lines joined with those behind them that begin with a blank; each piece with the byte at which it begins.
pub(super) type Logical = Vec<(usize, String)>;

/// Reads a file into logical lines. A line that begins with a blank goes on with the one before it; comments
/// and empty lines may stand between.
pub(super) fn logical_lines(file: &Source<'_>) -> Result<Vec<Logical>, Vec<Diagnostic>> {
    let mut lines: Vec<Logical> = Vec::new();
    let mut faults = Vec::new();
    let mut start = 0;
    for raw in file.text.split('\n') {
        let begin = start;
        start += raw.len() + 1;
        let line = raw.strip_suffix('\r').unwrap_or(raw);
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        if let Some(at) = line.find(|letter: char| letter.is_control() && letter != '\t') {
            let at = begin + at;
            faults.push(file.diagnostic(
                at..at + 1,
                "a control character",
                "save the file as plain text",
            ));
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        let piece = (begin + indent, line.trim().to_owned());
        match lines.last_mut() {
            Some(before) if indent > 0 => before.push(piece),
            None if indent > 0 => {
                let help = "a line that begins with a blank goes on with the one before it";
                faults.push(file.diagnostic(
                    begin..begin + 1,
                    "the first line begins with a blank",
                    help,
                ));
            }
            _ => lines.push(vec![piece]),
        }
    }
    if faults.is_empty() { Ok(lines) } else { Err(faults) }
}

/// A logical line as one text.
pub(super) fn joined(line: &Logical) -> String {
    line.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join(" ")
}

/// The names behind each `$` of a value.
pub(super) fn names_in(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split('$').skip(1).map(|rest| {
        let rest = rest.trim_start_matches(['{', '(']);
        rest.chars().take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '_').collect()
    })
}

/// Replaces `$name`, `${name}` and `$(name)` by values; `$$` is `$`.
///
/// # Errors
///
/// A name that stands for itself, a form with a condition, or a result that is too long.
pub(super) fn expand(values: &BTreeMap<String, String>, text: &str) -> Result<String, String> {
    let mut out = String::new();
    expand_into(values, text, &mut Vec::new(), &mut out)?;
    Ok(out)
}

fn expand_into(
    values: &BTreeMap<String, String>,
    text: &str,
    open: &mut Vec<String>,
    out: &mut String,
) -> Result<(), String> {
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        if out.len() > LONGEST_VALUE {
            return Err("its value is too long".to_owned());
        }
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let closing = if rest.starts_with('{') {
            Some('}')
        } else if rest.starts_with('(') {
            Some(')')
        } else {
            None
        };
        let name = match closing {
            Some(closing) => {
                let end = rest.find(closing).ok_or("a `$` whose bracket is not closed")?;
                let name = rest[1..end].trim();
                rest = &rest[end + 1..];
                name
            }
            None => {
                let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
                let end = rest.find(|letter| !plain(letter)).unwrap_or(rest.len());
                let name = &rest[..end];
                rest = &rest[end..];
                name
            }
        };
        if !name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_') {
            return Err("a `${name?value}` with a condition is not worked out".to_owned());
        }
        if open.iter().any(|one| one == name) {
            return Err(format!("${name} stands for itself"));
        }
        if open.len() >= DEEPEST {
            return Err(format!("names within names, deeper than {DEEPEST}"));
        }
        // What is not set is Postfix's default, which is not known here.
        let value = values.get(name).ok_or_else(|| format!("${name} is not set in these files"))?;
        open.push(name.to_owned());
        expand_into(values, value, open, out)?;
        open.pop();
    }
    out.push_str(rest);
    match out.len() > LONGEST_VALUE {
        true => Err("its value is too long".to_owned()),
        false => Ok(()),
    }
}
