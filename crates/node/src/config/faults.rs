//! The faults of a configuration, collected with their places.

use std::cell::RefCell;
use std::ops::Range;

use rules::Diagnostic;

/// More faults than this are not reported: whoever has so many gave us the wrong file.
const MOST_FAULTS: usize = 100;

/// Collects faults while the text is read. Nothing is drawn before [`Faults::finish`], because only
/// then is it known which parts of the text are secret.
pub(super) struct Faults<'text> {
    file: &'text str,
    text: &'text str,
    found: RefCell<Vec<Fault>>,
    hidden: RefCell<Vec<Range<usize>>>,
}

/// One fault.
struct Fault {
    at: Range<usize>,
    message: String,
    help: String,
}

impl<'text> Faults<'text> {
    /// No fault yet.
    pub(super) fn new(file: &'text str, text: &'text str) -> Self {
        Self { file, text, found: RefCell::default(), hidden: RefCell::default() }
    }

    /// Records a fault.
    pub(super) fn add(&self, at: &Range<usize>, message: impl Into<String>) {
        self.add_with_help(at, message, "");
    }

    /// Records a fault and what to do about it.
    pub(super) fn add_with_help(
        &self,
        at: &Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let mut found = self.found.borrow_mut();
        if found.len() < MOST_FAULTS {
            found.push(Fault { at: at.clone(), message: message.into(), help: help.into() });
        }
    }

    /// Marks bytes of the text that no picture of a fault may show.
    pub(super) fn hide(&self, at: &Range<usize>) {
        self.hidden.borrow_mut().push(at.clone());
    }

    /// Marks the value of every line that may hold a secret. For text that could not be read as
    /// TOML, so that nobody knows what is what.
    pub(super) fn hide_by_guess(&self) {
        let mut start = 0;
        for line in self.text.split_inclusive('\n') {
            let lower = line.to_ascii_lowercase();
            let words = ["password", "secret", "token", "key", "value"];
            if words.iter().any(|word| lower.contains(word))
                && let Some(equals) = line.find('=')
            {
                self.hide(&(start + equals + 1..start + line.len()));
            }
            start += line.len();
        }
    }

    /// Whether nothing was found.
    pub(super) fn is_empty(&self) -> bool {
        self.found.borrow().is_empty()
    }

    /// The faults in the order of the text.
    pub(super) fn finish(self) -> Vec<Diagnostic> {
        let mut shown = self.text.as_bytes().to_vec();
        for range in self.hidden.into_inner() {
            for byte in shown.get_mut(range).into_iter().flatten() {
                // Same length, so that places stay right; the frame of the value stays readable.
                if !matches!(byte, b'\n' | b'\r' | b'"' | b'\'' | b' ' | b'{' | b'}' | b'=') {
                    *byte = b'*';
                }
            }
        }
        let shown = String::from_utf8(shown).expect("whole values were replaced by ASCII");
        let mut found = self.found.into_inner();
        found.sort_by_key(|fault| fault.at.start);
        found
            .into_iter()
            .map(|fault| {
                Diagnostic::in_text(self.file, &shown, fault.at, fault.message, fault.help)
            })
            .collect()
    }
}
