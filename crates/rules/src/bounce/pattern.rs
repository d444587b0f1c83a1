//! Patterns: compiled with limits, and the literals that a text must hold for them to match.
//!
//! Patterns work on octets: `.` is any octet but a line end, `\w`, `\d` and `\b` know ASCII only. Folded
//! text is ASCII wherever letters have marks, and other scripts are found by what they spell, so
//! nothing is lost, and the compiled patterns are small and never fall back to a slow search.

use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::hir::{Class, Hir, HirKind, Look};

use super::fold::folded_pattern;

/// Octets that one compiled pattern may take.
const LARGEST_PROGRAM: usize = 256 * 1024;
/// Octets that the tables built while a pattern is searched may take.
const LARGEST_TABLE: usize = 512 * 1024;
/// Literals of one group of words.
const MOST_LITERALS: usize = 64;
/// Octets of the shortest literal: shorter ones stand in nearly every text.
pub(crate) const SHORTEST_LITERAL: usize = 3;
/// Groups of words of one pattern.
const MOST_GROUPS: usize = 4;
/// Nesting of groups.
const DEEPEST: u32 = 32;

/// A pattern that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    /// The folded regular expression.
    pub(crate) source: String,
    /// Every text that matches holds a word of each group. The best group is first; none where no word
    /// can be named.
    pub(crate) groups: Vec<Vec<Word>>,
    /// Every text that holds a word of each group matches: the regular expression is not needed.
    pub(crate) is_decided: bool,
}

/// A literal, and whether it must stand alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    /// Its octets.
    pub(crate) literal: String,
    /// A word boundary (`\b`) must be where it begins.
    pub(crate) begins: bool,
    /// A word boundary must be where it ends.
    pub(crate) ends: bool,
}

impl Word {
    /// A literal that may stand anywhere.
    fn anywhere(literal: String) -> Self {
        Self { literal, begins: false, ends: false }
    }
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
    let long = |word: &Word| word.literal.len() >= SHORTEST_LITERAL;
    if let Some(words) = words(&hir).filter(|words| words.iter().all(long)) {
        return Ok(Pattern { source, groups: vec![words], is_decided: true });
    }
    let mut sets = match plain(&hir).kind() {
        HirKind::Concat(parts) => sets_of(parts),
        _ => required(&hir).into_iter().collect(),
    };
    sets.retain(|set| set.iter().all(|literal| literal.len() >= SHORTEST_LITERAL));
    // The sort is stable: of equals the first is the best, as everywhere.
    sets.sort_by_key(|set| core::cmp::Reverse(worth(set)));
    sets.truncate(MOST_GROUPS);
    let groups = sets.into_iter().map(|set| set.into_iter().map(Word::anywhere).collect());
    Ok(Pattern { source, groups: groups.collect(), is_decided: false })
}

/// What stands within groups that only group.
fn plain(hir: &Hir) -> &Hir {
    let mut inner = hir;
    while let HirKind::Capture(capture) = inner.kind() {
        inner = &capture.sub;
    }
    inner
}

/// The words that a pattern is, if it is nothing else: literals with or without word boundaries
/// around them.
fn words(hir: &Hir) -> Option<Vec<Word>> {
    let hir = plain(hir);
    if let HirKind::Alternation(parts) = hir.kind() {
        let mut all = Vec::new();
        for part in parts {
            all.extend(words(part)?);
            if all.len() > MOST_LITERALS {
                return None;
            }
        }
        return Some(all);
    }
    let parts = match hir.kind() {
        HirKind::Concat(parts) => parts.as_slice(),
        _ => core::slice::from_ref(hir),
    };
    let is_boundary = |part: &Hir| matches!(part.kind(), HirKind::Look(Look::WordAscii));
    let begins = parts.first().is_some_and(is_boundary);
    let parts = &parts[usize::from(begins)..];
    let ends = parts.last().is_some_and(is_boundary);
    let parts = &parts[..parts.len() - usize::from(ends)];
    if parts.iter().any(|part| !part.properties().look_set().is_empty()) {
        return None;
    }
    let literals = exact_sequence(parts)?;
    Some(literals.into_iter().map(|literal| Word { literal, begins, ends }).collect())
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

/// The best set of a sequence.
fn best_of(parts: &[Hir]) -> Option<Vec<String>> {
    let mut best: Option<Vec<String>> = None;
    for other in sets_of(parts) {
        if best.as_ref().is_none_or(|best| worth(&other) > worth(best)) {
            best = Some(other);
        }
    }
    best
}

/// The sets of a sequence, of each of which one literal stands in every text that matches: neighbours
/// that are exact are joined.
fn sets_of(parts: &[Hir]) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    let mut joined: Option<Vec<String>> = None;
    for part in parts {
        let exact = exact(part);
        joined = match (joined.take(), exact) {
            (Some(left), Some(right)) if left.len() * right.len() <= MOST_LITERALS => {
                Some(pairs(&left, &right))
            }
            (left, right) => {
                all.extend(left);
                if right.is_none() {
                    all.extend(required(part));
                }
                right
            }
        };
    }
    all.extend(joined);
    all
}

/// Every head with every tail.
fn pairs(heads: &[String], tails: &[String]) -> Vec<String> {
    heads.iter().flat_map(|head| tails.iter().map(move |tail| format!("{head}{tail}"))).collect()
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
        HirKind::Concat(parts) => exact_sequence(parts),
        // A word boundary takes no room.
        HirKind::Look(_) => Some(vec![String::new()]),
        HirKind::Repetition(_) => None,
    }
}

/// All the texts that a sequence matches, when they are few.
fn exact_sequence(parts: &[Hir]) -> Option<Vec<String>> {
    parts.iter().try_fold(vec![String::new()], |heads, part| {
        let tails = exact(part)?;
        (heads.len() * tails.len() <= MOST_LITERALS).then(|| pairs(&heads, &tails))
    })
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

/// How good a set is: its shortest literal is long, and of those the smaller set.
fn worth(set: &[String]) -> (usize, usize, usize) {
    let shortest = set.iter().map(String::len).min().unwrap_or(0);
    // Beyond some octets a literal is rare enough; then fewer are better.
    (shortest.min(7), usize::MAX - set.len(), shortest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::search::{Search, Sight};
    use super::*;

    #[test]
    fn finds_the_literals_that_must_be_there() {
        for (pattern, want) in [
            ("User unknown", "user unknown"),
            (r"\bquota\b.{0,9}(?:exceeded|used up)", "exceeded|used up & quota"),
            ("(?:user|mailbox).{0,20} (?:not found|unknown)", " not found| unknown & user|mailbox"),
            ("no such (user|recipient)", "no such user|no such recipient"),
            ("over ?quota", "over quota|overquota"),
            (r"\d+ \w", ""),
            ("(?:abc)?x", ""),
            ("déjà", "deja"),
        ] {
            assert_eq!(shown(pattern), want, "{pattern}");
        }
    }

    #[test]
    fn words_alone_decide_what_is_only_words() {
        for (pattern, want) in [
            ("no such user", "no such user"),
            (r"\bfull\b", "<full>"),
            (r"\bover ?quota|quota exceeded\b", "<over quota|<overquota|quota exceeded>"),
            (r"\bno (user|such)\b", "<no user>|<no such>"),
        ] {
            assert_eq!(shown(pattern), want, "{pattern}");
            assert!(read(pattern).unwrap().is_decided, "{pattern}");
        }
        for pattern in [r"user\b unknown", "^user", "user.unknown", "user$", r"no|\Bfull"] {
            assert!(!read(pattern).unwrap().is_decided, "{pattern}");
        }
    }

    /// The groups of a pattern.
    fn shown(pattern: &str) -> String {
        let of_word = |word: &Word| {
            let (begins, ends) = (word.begins, word.ends);
            format!(
                "{}{}{}",
                if begins { "<" } else { "" },
                word.literal,
                if ends { ">" } else { "" }
            )
        };
        let of_group = |group: &Vec<Word>| group.iter().map(of_word).collect::<Vec<_>>().join("|");
        let groups = read(pattern).unwrap().groups;
        groups.iter().map(of_group).collect::<Vec<_>>().join(" & ")
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
        /// The search finds every pattern that matches, in a text and in a part of it, and what words decide
        /// is what the regular expression would say.
        #[test]
        fn the_search_misses_nothing(
            parts in proptest::collection::vec(
                proptest::sample::select(vec!["abc", "(?:cab|deb)", "(?:f|gh)?i", "k?", "[lm]n", ".{0,2}", "x+", r"\b", "d{2}", " "]),
                1..6,
            ),
            texts in proptest::collection::vec("[a-nx -]{0,9}((abc|deb|i|ln|cab|xx|dd)[ -]?){1,4}", 20),
            part in (0_usize..8, 0_usize..40),
        ) {
            let pattern = format!("n{}", parts.concat());
            let read = read(&pattern).unwrap();
            let compiled = compile(&read.source).unwrap();
            let search = Search::build([(&read, true)].into_iter());
            for text in texts {
                let start = part.0.min(text.len());
                let part = start..text.len().min(start + part.1);
                let (mut whole, mut of_part) = (Sight::default(), Sight::default());
                search.look(&text, &part, &mut whole, &mut of_part);
                let sights = [(&whole, &text[..]), (&of_part, &text[part.clone()])];
                for (sight, text) in &sights[..1 + usize::from(part.len() < text.len())] {
                    let matches = compiled.is_match(text.as_bytes());
                    let candidate = search.is_possible(sight, 0);
                    prop_assert!(!candidate || sight.candidates() == [0], "{pattern} {text}");
                    prop_assert!(candidate || !matches, "{pattern} {text}");
                    prop_assert!(!read.is_decided || candidate == matches, "{pattern} {text}");
                }
            }
        }
    }
}
