//! Typed values out of TOML, each fault with its place.

use core::ops::{Range, RangeInclusive};
use core::time::Duration;
use std::collections::BTreeSet;

use toml::Spanned;
use toml::de::{DeInteger, DeValue};

use crate::diagnostic::{Diagnostic, Place, Source};
use crate::span::{parse_span, show_span};

/// Collects faults while values are read.
pub(crate) struct Reader<'source, 'text> {
    source: &'source Source<'text>,
    faults: Vec<Diagnostic>,
    /// Lines with a fault of the TOML itself. What else seems wrong there follows from it.
    broken_lines: BTreeSet<u32>,
}

impl<'source, 'text> Reader<'source, 'text> {
    pub(crate) fn new(source: &'source Source<'text>, syntax_faults: Vec<Diagnostic>) -> Self {
        let broken_lines = syntax_faults.iter().map(|fault| fault.line).collect();
        Self { source, faults: syntax_faults, broken_lines }
    }

    /// Whether the file is TOML. If not, nothing can be said about what is missing in it.
    pub(crate) fn toml_is_sound(&self) -> bool {
        self.broken_lines.is_empty()
    }

    pub(crate) fn into_faults(self) -> Vec<Diagnostic> {
        self.faults
    }

    /// How many faults there are so far.
    pub(crate) fn fault_count(&self) -> usize {
        self.faults.len()
    }

    pub(crate) fn place(&self, at: &Range<usize>) -> Place {
        self.source.place(at.start)
    }

    /// The empty range after the last character that is not a blank.
    pub(crate) fn end_of_file(&self) -> Range<usize> {
        let end = self.source.text.trim_end().len();
        end..end
    }

    /// Reports a fault.
    pub(crate) fn fault(
        &mut self,
        at: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        // What stands in for a value that could not be read has no place.
        if at == (0..0) && !self.toml_is_sound() {
            return;
        }
        let diagnostic = self.source.diagnostic(at, message, help);
        if !self.broken_lines.contains(&diagnostic.line) {
            self.faults.push(diagnostic);
        }
    }

    /// Reports that something is missing, unless broken TOML may have swallowed it.
    pub(crate) fn missing(
        &mut self,
        at: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        if self.toml_is_sound() {
            self.fault(at, message, help);
        }
    }

    /// Reports a key that no rule has, with the nearest one that it has.
    pub(crate) fn unknown_key(&mut self, at: Range<usize>, key: &str, known: &[&str]) {
        let shown: String = key.chars().take(80).collect();
        self.fault(at, format!("unknown key `{shown}`"), suggestion(key, known));
    }

    /// Reports a value of the wrong type.
    pub(crate) fn wrong_type(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        key: &str,
        wanted: &str,
        help: &str,
    ) {
        let have = match value.get_ref() {
            DeValue::String(_) => "a text",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.fault(value.span(), format!("`{key}` must be {wanted}, not {have}"), help);
    }

    /// A text of at most `longest` characters without control characters other than line ends.
    pub(crate) fn text(
        &mut self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        longest: usize,
    ) -> Option<String> {
        let Some(text) = value.get_ref().as_str() else {
            self.wrong_type(value, key, "a text", "put it in quotes");
            return None;
        };
        if text.chars().count() > longest {
            self.fault(value.span(), format!("`{key}` is longer than {longest} characters"), "");
            return None;
        }
        if text.chars().any(|letter| letter.is_control() && letter != '\n' && letter != '\t') {
            self.fault(value.span(), format!("`{key}` holds a control character"), "");
            return None;
        }
        Some(text.to_owned())
    }

    /// A text or a list of at most `most` texts, each with its place.
    pub(crate) fn texts(
        &mut self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        most: usize,
        longest: usize,
    ) -> Vec<(String, Range<usize>)> {
        let items: Vec<&Spanned<DeValue<'_>>> = match value.get_ref() {
            DeValue::String(_) => vec![value],
            DeValue::Array(items) => items.iter().collect(),
            _ => {
                self.wrong_type(value, key, "a text or a list of texts", "");
                return Vec::new();
            }
        };
        if let Some(excess) = items.get(most) {
            self.fault(excess.span(), format!("`{key}` has more than {most} entries"), "");
        }
        items
            .into_iter()
            .take(most)
            .filter_map(|item| Some((self.text(key, item, longest)?, item.span())))
            .collect()
    }

    /// A whole number within a range that begins above zero.
    pub(crate) fn whole_number(
        &mut self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        range: &RangeInclusive<u64>,
    ) -> Option<u64> {
        self.whole_number_or(key, value, range, "")
    }

    /// A whole number within a range; `otherwise` is added to the advice: what else may be written.
    pub(crate) fn whole_number_or(
        &mut self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        range: &RangeInclusive<u64>,
        otherwise: &str,
    ) -> Option<u64> {
        let (low, high) = (range.start(), range.end());
        let Some(number) = value.get_ref().as_integer() else {
            let help = format!("write a whole number from {low} to {high}, without quotes");
            self.wrong_type(value, key, "a whole number", &help);
            return None;
        };
        let message = match number_of(number) {
            Number::Negative => format!("`{key}` is negative"),
            Number::Fits(0) => format!("`{key}` is 0"),
            Number::Fits(number) if range.contains(&number) => return Some(number),
            Number::Fits(_) | Number::TooLarge => format!("`{key}` is not within {low} to {high}"),
        };
        self.fault(value.span(), message, format!("allowed: {low} to {high}{otherwise}"));
        None
    }

    /// A duration within a range.
    pub(crate) fn span(
        &mut self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        range: &RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let allowed =
            format!("from \"{}\" to \"{}\"", show_span(*range.start()), show_span(*range.end()));
        let Some(text) = value.get_ref().as_str() else {
            let help = format!("write a number and a unit in quotes, {allowed}");
            self.wrong_type(value, key, "a duration", &help);
            return None;
        };
        match parse_span(text) {
            Ok(span) if range.contains(&span) => Some(span),
            Ok(_) => {
                let message = format!("`{key}` is not within {allowed}");
                self.fault(value.span(), message, format!("allowed: {allowed}"));
                None
            }
            Err(fault) => {
                self.fault(
                    value.span(),
                    format!("`{key}`: {fault}"),
                    format!("allowed: {allowed}"),
                );
                None
            }
        }
    }

    /// One of a closed list of words.
    pub(crate) fn word<T: Copy>(
        &mut self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        from_word: fn(&str) -> Option<T>,
        words: &[&str],
    ) -> Option<T> {
        let Some(text) = value.get_ref().as_str() else {
            let help = format!("write one of {}", words.join(", "));
            self.wrong_type(value, key, "a text", &help);
            return None;
        };
        let found = from_word(text);
        if found.is_none() {
            let shown: String = text.chars().take(80).collect();
            self.fault(
                value.span(),
                format!("`{key}` knows no `{shown}`"),
                format!("write one of {}", words.join(", ")),
            );
        }
        found
    }

    /// The place of a part of a text value: exact where the text is written plainly in quotes, else
    /// the whole value.
    pub(crate) fn part(
        &self,
        value: &Spanned<DeValue<'_>>,
        text: &str,
        part: &Range<usize>,
    ) -> Range<usize> {
        let whole = value.span();
        let begin = whole.start + 1;
        let plain = self.source.text.get(begin..).is_some_and(|rest| rest.starts_with(text));
        if plain { begin + part.start..begin + part.end } else { whole }
    }
}

/// What a TOML integer holds.
enum Number {
    Negative,
    Fits(u64),
    TooLarge,
}

fn number_of(number: &DeInteger<'_>) -> Number {
    let text = number.as_str();
    match u64::from_str_radix(text, number.radix()) {
        Ok(number) => Number::Fits(number),
        Err(_) if text.starts_with('-') && text[1..].bytes().any(|digit| digit != b'0') => {
            Number::Negative
        }
        Err(_) if text.starts_with('-') => Number::Fits(0),
        Err(_) => Number::TooLarge,
    }
}

/// Advice for an unknown key.
fn suggestion(key: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|candidate| (distance(key, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(3))
        .min();
    match nearest {
        Some((_, candidate)) => format!("did you mean `{candidate}`?"),
        None => format!("known here: {}", known.join(", ")),
    }
}

/// How many letters must be changed, added, dropped or swapped with their neighbour; texts that
/// differ much in length are simply far apart.
pub(crate) fn distance(one: &str, other: &str) -> usize {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    if one.len().abs_diff(other.len()) > 8 {
        return usize::MAX;
    }
    let mut rows = vec![vec![0; other.len() + 1]; one.len() + 1];
    for i in 0..=one.len() {
        for j in 0..=other.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let changed = usize::from(one[i - 1] != other[j - 1]);
                let mut least =
                    (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + changed);
                let swapped =
                    i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1];
                if swapped {
                    least = least.min(rows[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    rows[one.len()][other.len()]
}
