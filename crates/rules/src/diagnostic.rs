//! Faults in a rule file, with the place of each and a picture of it.

use core::fmt;
use core::ops::Range;
use std::sync::Arc;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde::{Serialize, Serializer};

/// A place in a rule file. Shown, and serialised, as `rules/mx.toml:12:8`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The name that the caller gave to the file.
    pub file: Arc<str>,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}:{}", self.file, self.line, self.column)
    }
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One fault of a rule file.
///
/// `Display` gives one line, `file:line:column: message`; [`Diagnostic::render`] gives the line of
/// the file too, with the fault underlined, and the advice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The name that the caller gave to the file.
    pub file: Arc<str>,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// What to do about it; empty where the message says it all.
    pub help: String,
    /// The line, or the part of a very long line around the fault.
    excerpt: Box<str>,
    /// The fault within the excerpt, in bytes.
    marked: Range<usize>,
    /// Whether columns of the excerpt are not those of the file, because its beginning is left out
    /// or the fault lies in the line end.
    cut: bool,
}

impl Diagnostic {
    /// A fault at some bytes of any text (the configuration uses it too); only the first line of
    /// `at` is shown. Bytes outside the text are moved to its end.
    #[must_use]
    pub fn in_text(
        file: &str,
        text: &str,
        at: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Source::new(file, text).diagnostic(at, message, help)
    }

    /// Where the fault is.
    #[must_use]
    pub fn place(&self) -> Place {
        Place { file: Arc::clone(&self.file), line: self.line, column: self.column }
    }

    /// Several lines for a terminal, without colours: message, place, the line of the file with the
    /// fault underlined, and the advice.
    #[must_use]
    pub fn render(&self) -> String {
        let title = Level::ERROR.primary_title(self.message.as_str());
        let snippet = Snippet::source(&*self.excerpt)
            .line_start(self.line as usize)
            .annotation(AnnotationKind::Primary.span(self.marked.clone()));
        let mut group: Group<'_> = if self.cut {
            // The column within the excerpt is not the column of the file.
            let place = Origin::path(&*self.file)
                .line(self.line as usize)
                .char_column(self.column as usize);
            title.element(place).element(snippet)
        } else {
            title.element(snippet.path(&*self.file))
        };
        if !self.help.is_empty() {
            group = group.element(Level::HELP.message(self.help.as_str()));
        }
        Renderer::plain().decor_style(DecorStyle::Ascii).render(&[group])
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
    }
}

impl core::error::Error for Diagnostic {}

/// The text of a rule file, with its lines counted.
pub(crate) struct Source<'text> {
    pub(crate) file: Arc<str>,
    pub(crate) text: &'text str,
    /// The byte at which each line begins.
    line_starts: Vec<usize>,
    /// Which of its lines a diagnostic shows.
    shows: Shows,
}

/// Which lines of a file a diagnostic shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shows {
    /// Every line: it is a file of rules.
    Every,
    /// Those that cannot hold a secret by the words in them and in the two lines before.
    Plain,
    /// None.
    None,
}

/// Parts of words that announce a secret.
const SECRET: [&str; 9] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "private-key",
    "private_key",
    "api-key",
    "api_key",
    "token",
];

/// Whether a text names something that must never be repeated.
pub(crate) fn names_secret(text: &str) -> bool {
    let folded = text.to_ascii_lowercase();
    SECRET.iter().any(|secret| folded.contains(secret))
}

/// Characters shown on either side of a fault in a long line.
const EXCERPT: usize = 100;

impl<'text> Source<'text> {
    pub(crate) fn new(file: &str, text: &'text str) -> Self {
        let after_breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let line_starts = core::iter::once(0).chain(after_breaks.map(|(at, _)| at + 1)).collect();
        Self { file: Arc::from(file), text, line_starts, shows: Shows::Every }
    }

    /// Shows no line that may hold a secret: for files of other programs, which hold passwords.
    pub(crate) fn without_secrets(self) -> Self {
        Self { shows: Shows::Plain, ..self }
    }

    /// Shows no line at all: for a file of which nothing is known.
    pub(crate) fn without_lines(self) -> Self {
        Self { shows: Shows::None, ..self }
    }

    /// Whether a line, by its index, may be shown.
    fn may_show(&self, index: usize) -> bool {
        let first = index.saturating_sub(2);
        let end = self.line_starts.get(index + 1).copied().unwrap_or(self.text.len());
        match self.shows {
            Shows::Every => true,
            Shows::Plain => !names_secret(&self.text[self.line_starts[first]..end]),
            Shows::None => false,
        }
    }

    /// The nearest place at or before `offset` that is inside the text and between two characters.
    fn boundary(&self, offset: usize) -> usize {
        self.text.floor_char_boundary(offset.min(self.text.len()))
    }

    /// Index of the line that holds `offset`, and where that line begins and ends.
    fn line_of(&self, offset: usize) -> (usize, Range<usize>) {
        let index = self.line_starts.partition_point(|start| *start <= offset) - 1;
        let start = self.line_starts[index];
        let end = self.line_starts.get(index + 1).map_or(self.text.len(), |next| next - 1);
        (index, start..end)
    }

    /// Line and column of a byte.
    pub(crate) fn place(&self, offset: usize) -> Place {
        let offset = self.boundary(offset);
        let (index, line) = self.line_of(offset);
        // A file is at most 4 MiB, so both fit.
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        Place {
            file: Arc::clone(&self.file),
            line: number(index + 1),
            column: number(self.text[line.start..offset].chars().count() + 1),
        }
    }

    /// A fault at some bytes of the text; only its first line is shown.
    pub(crate) fn diagnostic(
        &self,
        at: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Diagnostic {
        let start = self.boundary(at.start);
        let Place { file, line, column } = self.place(start);
        let (index, whole) = self.line_of(start);
        if !self.may_show(index) {
            return Diagnostic {
                file,
                line,
                column,
                message: message.into(),
                help: help.into(),
                excerpt: "".into(),
                marked: 0..0,
                cut: true,
            };
        }
        let end = self.boundary(at.end).clamp(start, whole.end.max(start));
        let from = self.text.floor_char_boundary(start.saturating_sub(EXCERPT)).max(whole.start);
        let to = self.boundary(end.min(start + EXCERPT).saturating_add(EXCERPT)).min(whole.end);
        let to = to.max(start);
        let excerpt = self.text[from..to].trim_end_matches('\r');
        let limit = excerpt.len();
        let marked = (start - from).min(limit)..(end - from).min(limit);
        Diagnostic {
            file,
            line,
            column,
            message: message.into(),
            help: help.into(),
            excerpt: excerpt.into(),
            marked,
            cut: from > whole.start || start - from > limit,
        }
    }
}
