//! Reading one section of the configuration, key by key.
//!
//! A [`Section`] remembers which keys it was asked for, so that what remains is unknown and can be
//! reported with the nearest known key. A value that cannot be used is reported where it stands and
//! replaced by the default, so that reading goes on and all faults come at once; whoever gets a
//! configuration gets it only if there was none.

use std::cell::RefCell;
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::faults::Faults;
use super::secret::Secret;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Found<T> {
    /// What was read.
    pub(super) value: T,
    /// Its bytes in the text.
    pub(super) at: Range<usize>,
}

impl Found<String> {
    /// The place of a part of a text, given in bytes of its value. Exact for text without escapes.
    pub(super) fn part(&self, part: &Range<usize>) -> Range<usize> {
        if self.at.len() == self.value.len() + 2 {
            self.at.start + 1 + part.start..self.at.start + 1 + part.end
        } else {
            self.at.clone()
        }
    }
}

/// Where secrets come from; the real one reads the process environment and files.
pub(super) type SecretReader<'a> = dyn Fn(SecretSource<'_>) -> Result<Secret, String> + 'a;

/// The place that a secret is kept in.
#[derive(Clone, Copy, Debug)]
pub enum SecretSource<'a> {
    /// A variable of the environment.
    Variable(&'a str),
    /// A file; a relative path counts from the folder of the configuration file.
    File(&'a str),
}

/// What all sections share.
pub(super) struct Reading<'a> {
    pub(super) faults: Faults<'a>,
    pub(super) secrets: &'a SecretReader<'a>,
}

/// One table of the file, or an empty one where it is not stated.
pub(super) struct Section<'a> {
    reading: &'a Reading<'a>,
    table: Option<&'a DeTable<'a>>,
    /// Its header or braces; for a section that is not there: the start of the file.
    pub(super) at: Range<usize>,
    name: String,
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    /// The whole file.
    pub(super) fn root(reading: &'a Reading<'a>, table: &'a DeTable<'a>) -> Self {
        Self {
            reading,
            table: Some(table),
            at: 0..0,
            name: String::new(),
            asked: RefCell::default(),
        }
    }

    /// A section within this one.
    fn inner(&self, key: &str, table: Option<&'a DeTable<'a>>, at: Range<usize>) -> Self {
        let name =
            if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) };
        Self { reading: self.reading, table, at, name, asked: RefCell::default() }
    }

    /// The faults of the whole file.
    pub(super) fn faults(&self) -> &'a Faults<'a> {
        &self.reading.faults
    }

    /// Whether the file states this section.
    pub(super) fn is_stated(&self) -> bool {
        self.table.is_some()
    }

    /// Whether the section states this key, with whatever value.
    pub(super) fn states(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.iter().any(|(name, _)| name.get_ref() == key))
    }

    /// Reports a key that must be there and is not.
    pub(super) fn require(&self, key: &str) {
        if !self.states(key) {
            self.faults().add(&self.at, format!("`{}` is missing", self.full(key)));
        }
    }

    /// Reports a list that must hold something and is missing or `[]`.
    pub(super) fn require_elements(&self, key: &'static str) {
        self.require(key);
        if let Some(value) = self.raw(key)
            && value.get_ref().as_array().is_some_and(|list| list.is_empty())
        {
            self.faults().add(&value.span(), format!("`{}` is empty", self.full(key)));
        }
    }

    /// A value as it stands, with its key marked as known.
    fn raw(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.asked.borrow_mut().push(key);
        self.table?.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
    }

    /// All keys with their values, for sections whose keys are data.
    pub(super) fn entries(&self) -> Vec<(Found<String>, &'a Spanned<DeValue<'a>>)> {
        let entries = self.table.into_iter().flatten();
        entries
            .map(|(key, value)| (Found { value: key.get_ref().to_string(), at: key.span() }, value))
            .collect()
    }

    /// Reports a value of the wrong type.
    fn wrong_type(&self, key: &str, wanted: &str, value: &Spanned<DeValue<'_>>) {
        let got = value.get_ref().type_str();
        let key = self.full(key);
        self.faults().add(&value.span(), format!("`{key}` must be {wanted}, not {}", article(got)));
    }

    /// The key with the name of its section.
    fn full(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    /// A text.
    pub(super) fn text(&self, key: &'static str) -> Option<Found<String>> {
        let value = self.raw(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(Found { value: text.to_string(), at: value.span() }),
            _ => {
                self.wrong_type(key, "a text in quotes", value);
                None
            }
        }
    }

    /// A text that must be there.
    pub(super) fn required_text(&self, key: &'static str) -> Option<Found<String>> {
        self.require(key);
        self.text(key)
    }

    /// A text that something else reads.
    pub(super) fn parsed<T, E: Display>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Found<T>> {
        let text = self.text(key)?;
        match parse(&text.value) {
            Ok(value) => Some(Found { value, at: text.at }),
            Err(why) => {
                self.faults().add(&text.at, format!("`{}`: {why}", self.full(key)));
                None
            }
        }
    }

    /// One word of a list.
    pub(super) fn choice<T: Copy>(&self, key: &'static str, words: &[(&str, T)], default: T) -> T {
        let Some(text) = self.text(key) else { return default };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text.value) {
            return *value;
        }
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.faults().add_with_help(
            &text.at,
            format!(
                "`{}` must be one of {}, not {:?}",
                self.full(key),
                known.join(", "),
                text.value
            ),
            suggestion(&text.value, &known),
        );
        default
    }

    /// A whole number within a range.
    pub(super) fn number<T: TryFrom<u64> + Display + Copy + PartialOrd>(
        &self,
        key: &'static str,
        range: RangeInclusive<T>,
    ) -> Option<Found<T>> {
        let value = self.raw(key)?;
        let DeValue::Integer(integer) = value.get_ref() else {
            self.wrong_type(key, "a whole number", value);
            return None;
        };
        let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        match number.and_then(|number| T::try_from(number).ok()) {
            Some(number) if range.contains(&number) => {
                Some(Found { value: number, at: value.span() })
            }
            _ => {
                let key = self.full(key);
                let (low, high) = (range.start(), range.end());
                let message = format!("`{key}` must be {low} to {high}, not {integer}");
                self.faults().add(&value.span(), message);
                None
            }
        }
    }

    /// A whole number within a range, or the default.
    pub(super) fn number_or<T: TryFrom<u64> + Display + Copy + PartialOrd>(
        &self,
        key: &'static str,
        range: RangeInclusive<T>,
        default: T,
    ) -> T {
        self.number(key, range).map_or(default, |found| found.value)
    }

    /// `true` or `false`, or the default.
    pub(super) fn flag_or(&self, key: &'static str, default: bool) -> bool {
        let Some(value) = self.raw(key) else { return default };
        match value.get_ref() {
            DeValue::Boolean(flag) => *flag,
            _ => {
                self.wrong_type(key, "true or false", value);
                default
            }
        }
    }

    /// A duration within a range, or the default.
    pub(super) fn duration_or(
        &self,
        key: &'static str,
        range: RangeInclusive<Duration>,
        default: Duration,
    ) -> Duration {
        let Some(value) = self.raw(key) else { return default };
        self.duration(key, value, &range).unwrap_or(default)
    }

    /// One duration.
    fn duration(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        range: &RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let DeValue::String(text) = value.get_ref() else {
            self.wrong_type(key, "a duration in quotes such as \"30s\" or \"10m\"", value);
            return None;
        };
        let full = self.full(key);
        match rules::parse_span(text) {
            Ok(duration) if range.contains(&duration) => Some(duration),
            Ok(_) => {
                let (low, high) =
                    (rules::show_span(*range.start()), rules::show_span(*range.end()));
                let message = format!("`{full}` must be {low} to {high}, not {text}");
                self.faults().add(&value.span(), message);
                None
            }
            Err(why) => {
                self.faults().add(&value.span(), format!("`{full}`: {why}"));
                None
            }
        }
    }

    /// A list of durations; `None` when it is not stated.
    pub(super) fn durations(
        &self,
        key: &'static str,
        range: &RangeInclusive<Duration>,
    ) -> Option<Vec<Duration>> {
        let list = self.list(key)?;
        Some(list.iter().filter_map(|value| self.duration(key, value, range)).collect())
    }

    /// The elements of a list; `None` when it is not stated.
    fn list(&self, key: &'static str) -> Option<&'a [Spanned<DeValue<'a>>]> {
        let value = self.raw(key)?;
        match value.get_ref() {
            DeValue::Array(list) => Some(list),
            _ => {
                self.wrong_type(key, "a list in brackets", value);
                None
            }
        }
    }

    /// A list of texts; `None` when it is not stated.
    pub(super) fn texts(&self, key: &'static str) -> Option<Vec<Found<String>>> {
        let list = self.list(key)?;
        let text = |value: &Spanned<DeValue<'_>>| match value.get_ref() {
            DeValue::String(text) => Some(Found { value: text.to_string(), at: value.span() }),
            _ => {
                self.wrong_type(key, "a list of texts in quotes", value);
                None
            }
        };
        Some(list.iter().filter_map(text).collect())
    }

    /// A list of texts that something else reads. What cannot be read is reported and left out.
    pub(super) fn parsed_list<T, E: Display>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<Found<T>>> {
        let texts = self.texts(key)?;
        let read = |text: Found<String>| match parse(&text.value) {
            Ok(value) => Some(Found { value, at: text.at }),
            Err(why) => {
                self.faults().add(&text.at, format!("`{}`: {why}", self.full(key)));
                None
            }
        };
        Some(texts.into_iter().filter_map(read).collect())
    }

    /// A section of this one; empty when it is not stated.
    pub(super) fn section(&self, key: &'static str) -> Self {
        let Some(value) = self.raw(key) else { return self.inner(key, None, self.at.clone()) };
        match value.get_ref() {
            DeValue::Table(table) => self.inner(key, Some(table), value.span()),
            _ => {
                self.wrong_type(key, &format!("a section, `[{}]`", self.full(key)), value);
                self.inner(key, None, value.span())
            }
        }
    }

    /// A list of sections, `[[key]]`.
    pub(super) fn sections(&self, key: &'static str) -> Vec<Self> {
        let Some(value) = self.raw(key) else { return Vec::new() };
        let wanted = format!("a list of sections, `[[{}]]`", self.full(key));
        let DeValue::Array(list) = value.get_ref() else {
            self.wrong_type(key, &wanted, value);
            return Vec::new();
        };
        let section = |value: &'a Spanned<DeValue<'a>>| match value.get_ref() {
            DeValue::Table(table) => Some(self.inner(key, Some(table), value.span())),
            _ => {
                self.wrong_type(key, &wanted, value);
                None
            }
        };
        list.iter().filter_map(section).collect()
    }

    /// A secret: `{ env = "NAME" }`, `{ file = "path" }` or `{ value = "..." }`.
    pub(super) fn secret(&self, key: &'static str) -> Option<Found<Secret>> {
        let value = self.raw(key)?;
        self.secret_value(key, value)
    }

    /// A list of secrets; `None` when it is not stated.
    pub(super) fn secrets(&self, key: &'static str) -> Option<Vec<Found<Secret>>> {
        let list = self.list(key)?;
        Some(list.iter().filter_map(|value| self.secret_value(key, value)).collect())
    }

    /// One secret.
    fn secret_value(
        &self,
        key: &'static str,
        value: &'a Spanned<DeValue<'a>>,
    ) -> Option<Found<Secret>> {
        let full = self.full(key);
        let help =
            "write { env = \"NAME\" } or { file = \"path\" }; { value = \"...\" } is for tests";
        let DeValue::Table(table) = value.get_ref() else {
            self.faults().hide(&value.span());
            self.faults().add_with_help(&value.span(), format!("`{full}` is not a secret"), help);
            return None;
        };
        let inner = self.inner(key, Some(table), value.span());
        let given = [inner.text("env"), inner.text("file"), inner.text("value")];
        if let Some(text) = &given[2] {
            self.faults().hide(&text.at);
        }
        inner.finish();
        let read = match given {
            [Some(name), None, None] => (self.reading.secrets)(SecretSource::Variable(&name.value)),
            [None, Some(path), None] => (self.reading.secrets)(SecretSource::File(&path.value)),
            [None, None, Some(text)] if text.value.is_empty() => Err("it is empty".into()),
            [None, None, Some(text)] => Ok(Secret::new(&text.value)),
            _ => {
                let message = format!("`{full}` needs exactly one of env, file and value");
                self.faults().add_with_help(&value.span(), message, help);
                return None;
            }
        };
        match read {
            Ok(secret) => Some(Found { value: secret, at: value.span() }),
            Err(why) => {
                self.faults().add(&value.span(), format!("`{full}`: {why}"));
                None
            }
        }
    }

    /// Reports every key that was not asked for.
    pub(super) fn finish(self) {
        let asked = self.asked.borrow();
        for (key, value) in self.entries() {
            if asked.contains(&key.value.as_str()) {
                continue;
            }
            // Perhaps a secret under a mistyped name. The span of `[name]` covers its key.
            if !value.span().contains(&key.at.start) {
                self.faults().hide(&value.span());
            }
            let place = if self.name.is_empty() {
                "at the top".into()
            } else {
                format!("in [{}]", self.name)
            };
            let mut help = suggestion(&key.value, &asked);
            if help.is_empty() {
                help = format!("known here: {}", asked.join(", "));
            }
            self.faults().add_with_help(
                &key.at,
                format!("unknown key `{}` {place}", key.value),
                help,
            );
        }
    }
}

/// "a string", "an integer".
fn article(kind: &str) -> String {
    let vowel = kind.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {kind}", if vowel { "an" } else { "a" })
}

/// "did you mean `x`?" for the nearest known word, if one is near enough to be meant.
pub(super) fn suggestion(word: &str, known: &[&str]) -> String {
    let nearest = known.iter().map(|other| (distance(word, other), *other)).min();
    match nearest {
        Some((steps, other)) if steps <= 1.max(word.chars().count() / 3) => {
            format!("did you mean `{other}`?")
        }
        _ => String::new(),
    }
}

/// How many letters must be inserted, removed, replaced or swapped with their neighbour to make one
/// word of the other. Words are cut at 64 letters.
fn distance(one: &str, other: &str) -> usize {
    let one: Vec<char> = one.chars().take(64).collect();
    let other: Vec<char> = other.chars().take(64).collect();
    let mut rows: Vec<Vec<usize>> = vec![(0..=other.len()).collect()];
    for i in 1..=one.len() {
        let mut row = vec![i];
        for j in 1..=other.len() {
            let same = one[i - 1] == other[j - 1];
            let mut best = (rows[i - 1][j] + 1)
                .min(row[j - 1] + 1)
                .min(rows[i - 1][j - 1] + usize::from(!same));
            if i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[one.len()][other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_suggested() {
        let known = ["public_id", "address", "helo"];
        assert_eq!(suggestion("publicid", &known), "did you mean `public_id`?");
        assert_eq!(suggestion("hleo", &known), "did you mean `helo`?");
        assert_eq!(suggestion("frobnicate", &known), "");
        assert_eq!(suggestion("", &[]), "");
    }
}
