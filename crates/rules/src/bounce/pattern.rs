//! Patterns: compiled with limits, and the literals that a text must hold for them to match.
//!
//! Patterns work on octets: `.` is any octet but a line end, `\w`, `\d` and `\b` know ASCII only. Folded
//! text is ASCII wherever letters have marks, and other scripts are found by what they spell, so
//! nothing is lost, and the compiled patterns are small and never fall back to a slow search.

use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::hir::{Class, Hir, HirKind};

use super::fold::folded_pattern;

/// Octets that one compiled pattern may take.
const LARGEST_PROGRAM: usize = 256 * 1024;
/// Octets that the tables built while a pattern is searched may take.
const LARGEST_TABLE: usize = 512 * 1024;
/// Literals by which one pattern may be found.
const MOST_LITERALS: usize = 64;
/// Nesting of groups.
const DEEPEST: u32 = 32;

/// A pattern that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    /// The folded regular expression.
    pub(crate) source: String,
    /// One of these stands in every text that matches; empty when none can be named.
    pub(crate) literals: Vec<String>,
    /// The pattern is its one literal and nothing else.
    pub(crate) is_literal: bool,
}

/// Why a pattern cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PatternFault {
    #[error("is no regular expression: {0}")]
    Syntax(String),
    #[error("is too large when compiled")]
    TooLarge,
    #[error("matches the empty text")]
    Empty,
}

/// Reads a pattern without compiling it.
pub(crate) fn read(written: &str) -> Result<Pattern, PatternFault> {
    let source = folded_pattern(written);
    let hir = regex_syntax::ParserBuilder::new()
        .nest_limit(DEEPEST)
        .unicode(false)
        .utf8(false)
        .build()
        .parse(&source)
        .map_err(|fault| PatternFault::Syntax(brief(&fault)))?;
    if hir.properties().minimum_len() == Some(0) {
        return Err(PatternFault::Empty);
    }
    let literals = required(&hir).filter(|set| set.iter().all(|literal| literal.len() >= 3));
    let literals: Vec<String> = literals.unwrap_or_default();
    let is_literal = literals.len() == 1
        && matches!(hir.kind(), HirKind::Literal(literal) if *literal.0 == *literals[0].as_bytes());
    Ok(Pattern { source, literals, is_literal })
}

/// The last line of a fault of the parser, which says what is wrong; the lines before it draw it.
fn brief(fault: &regex_syntax::Error) -> String {
    let text = fault.to_string();
    let last = text.lines().next_back().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

/// Compiles what [`read`] has read.
pub(crate) fn compile(source: &str) -> Result<Regex, PatternFault> {
    RegexBuilder::new(source)
        .unicode(false)
        .size_limit(LARGEST_PROGRAM)
        .dfa_size_limit(LARGEST_TABLE)
        .nest_limit(DEEPEST)
        .build()
        .map_err(|fault| match fault {
            regex::Error::CompiledTooBig(_) => PatternFault::TooLarge,
            other => PatternFault::Syntax(other.to_string()),
        })
}

/// A set of literals of which one stands in every text that matches; the best that can be found.
fn required(hir: &Hir) -> Option<Vec<String>> {
    match hir.kind() {
        HirKind::Literal(literal) => Some(vec![String::from_utf8(literal.0.to_vec()).ok()?]),
        HirKind::Capture(capture) => required(&capture.sub),
        HirKind::Repetition(repetition) if repetition.min > 0 => required(&repetition.sub),
        HirKind::Class(class) => small_class(class),
        HirKind::Alternation(parts) => {
            let mut all = Vec::new();
            for part in parts {
                all.extend(required(part)?);
                if all.len() > MOST_LITERALS {
                    return None;
                }
            }
            Some(all)
        }
        HirKind::Concat(parts) => best_of(parts),
        _ => None,
    }
}

/// The best set of a sequence: neighbours that are exact are joined first.
fn best_of(parts: &[Hir]) -> Option<Vec<String>> {
    let mut best: Option<Vec<String>> = None;
    let mut joined: Option<Vec<String>> = None;
    for part in parts {
        let exact = exact(part);
        joined = match (joined.take(), exact) {
            (Some(left), Some(right)) if left.len() * right.len() <= MOST_LITERALS => {
                let pairs = left
                    .iter()
                    .flat_map(|head| right.iter().map(move |tail| format!("{head}{tail}")));
                Some(pairs.collect())
            }
            (left, right) => {
                better(&mut best, left);
                if right.is_none() {
                    better(&mut best, required(part));
                }
                right
            }
        };
    }
    better(&mut best, joined);
    best
}

/// All the texts that a part matches, when they are few.
fn exact(hir: &Hir) -> Option<Vec<String>> {
    match hir.kind() {
        HirKind::Empty => Some(vec![String::new()]),
        HirKind::Literal(literal) => Some(vec![String::from_utf8(literal.0.to_vec()).ok()?]),
        HirKind::Class(class) => small_class(class),
        HirKind::Capture(capture) => exact(&capture.sub),
        HirKind::Repetition(repetition) if repetition.max == Some(1) && repetition.min == 0 => {
            let mut all = exact(&repetition.sub)?;
            all.push(String::new());
            Some(all)
        }
        HirKind::Alternation(parts) => {
            let mut all = Vec::new();
            for part in parts {
                all.extend(exact(part)?);
                if all.len() > MOST_LITERALS {
                    return None;
                }
            }
            Some(all)
        }
        HirKind::Concat(parts) => parts.iter().try_fold(vec![String::new()], |heads, part| {
            let tails = exact(part)?;
            (heads.len() * tails.len() <= MOST_LITERALS).then(|| {
                heads
                    .iter()
                    .flat_map(|head| tails.iter().map(move |tail| format!("{head}{tail}")))
                    .collect()
            })
        }),
        // A word boundary takes no room.
        HirKind::Look(_) => Some(vec![String::new()]),
        HirKind::Repetition(_) => None,
    }
}

/// The characters of a small class.
fn small_class(class: &Class) -> Option<Vec<String>> {
    let Class::Bytes(class) = class else { return None };
    let ranges = class.ranges();
    let count: usize =
        ranges.iter().map(|range| usize::from(range.end() - range.start()) + 1).sum();
    if count > 8 || ranges.iter().any(|range| !range.end().is_ascii()) {
        return None;
    }
    let letters = ranges.iter().flat_map(|range| range.start()..=range.end());
    Some(letters.map(|letter| char::from(letter).to_string()).collect())
}

/// Keeps the set whose shortest literal is longest, and of those the smaller one.
fn better(best: &mut Option<Vec<String>>, other: Option<Vec<String>>) {
    let worth = |set: &[String]| {
        let shortest = set.iter().map(String::len).min().unwrap_or(0);
        // Beyond some octets a literal is rare enough; then fewer are better.
        (shortest.min(7), usize::MAX - set.len(), shortest)
    };
    if let Some(other) = other
        && best.as_ref().is_none_or(|best| worth(&other) > worth(best))
    {
        *best = Some(other);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn finds_the_literals_that_must_be_there() {
        for (pattern, want) in [
            ("User unknown", "user unknown"),
            (r"\bquota\b.{0,9}(?:exceeded|used up)", "exceeded|used up"),
            ("(?:user|mailbox).{0,20} (?:not found|unknown)", " not found| unknown"),
            ("no such (user|recipient)", "no such user|no such recipient"),
            ("over ?quota", "over quota|overquota"),
            (r"\d+ \w", ""),
            ("(?:abc)?x", ""),
            ("déjà", "deja"),
        ] {
            assert_eq!(read(pattern).unwrap().literals.join("|"), want, "{pattern}");
        }
        assert!(read("no such user").unwrap().is_literal);
        assert!(!read(r"\bfull\b").unwrap().is_literal);
    }

    #[test]
    fn refuses_what_cannot_be_used() {
        assert_eq!(read("a*"), Err(PatternFault::Empty));
        assert!(matches!(read("(?=a)b"), Err(PatternFault::Syntax(_))));
        assert!(matches!(read("(a"), Err(PatternFault::Syntax(text)) if text == "unclosed group"));
        assert!(matches!(read("[дл]а"), Err(PatternFault::Syntax(_))));
        assert_eq!(compile(r"(?:a[\w.]{99}){99}").err(), Some(PatternFault::TooLarge));
    }

    proptest! {
        /// Every text that matches holds one of the literals.
        #[test]
        fn literals_miss_nothing(
            parts in proptest::collection::vec(
                proptest::sample::select(vec!["ab", "(?:c|de)", "(?:f|gh)?i", "k?", "[lm]n", ".{0,2}", "x+", r"\b", "d{2}"]),
                1..5,
            ),
            texts in proptest::collection::vec("[a-nx ]{0,9}(ab|de|i|ln|mn|xx|dd){1,4}", 20),
        ) {
            let pattern = format!("n{}", parts.concat());
            let read = read(&pattern).unwrap();
            let compiled = compile(&read.source).unwrap();
            for text in texts {
                if compiled.is_match(text.as_bytes()) && !read.literals.is_empty() {
                    prop_assert!(read.literals.iter().any(|literal| text.contains(literal)), "{pattern} {text}");
                }
            }
        }
    }
}
