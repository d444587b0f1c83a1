//! What became of each directive.

use serde::Serialize;

use crate::diagnostic::Place;

/// How a directive came over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImportVerdict {
    /// It means the same here.
    Taken,
    /// It was taken, and means something else here; the words say what.
    Differs,
    /// It was not taken; the words say why.
    NotTaken,
}

impl ImportVerdict {
    /// Every verdict.
    pub const ALL: [Self; 3] = [Self::Taken, Self::Differs, Self::NotTaken];

    /// For people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Differs => "differs",
            Self::NotTaken => "not taken",
        }
    }
}

/// One directive of the input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImportEntry {
    /// Where it stands.
    pub place: Place,
    /// Its name with what it stands in, such as `<domain gmail.com> max-smtp-out`.
    pub directive: String,
    /// Its value, shortened where it is long; `***` where it is a secret.
    pub value: String,
    /// How it came over.
    pub verdict: ImportVerdict,
    /// What it became, or why it did not.
    pub words: String,
}

/// What became of all directives, in the order in which they were read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ImportReport {
    /// One for each directive.
    pub entries: Vec<ImportEntry>,
    /// What holds of the whole.
    pub notes: Vec<String>,
}

impl ImportReport {
    /// How many directives came over so.
    #[must_use]
    pub fn count(&self, verdict: ImportVerdict) -> usize {
        self.entries.iter().filter(|entry| entry.verdict == verdict).count()
    }
}
